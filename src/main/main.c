/*
 * main.c - ttserver: reads the options, serves until a signal, and ends with a status that means
 * something.
 *
 * Exit status: 0 stopped cleanly, everything synced; 1 failed, the reason is one line of the log; 2
 * wrong usage, the reason is on stderr.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/version.h"
#include "main/options.h"
#include "main/pidfile.h"
#include "main/server.h"
#include "main/signals.h"

enum { MESSAGE_MAX = 1024, OWN_MAPPING_MIN = 512 * 1024, TRIM_MIN = 4 * 1024 * 1024 };

static int print_help(void)
{
    struct buf text = {0};
    int rc = options_help(&text);

    if (rc == 0 && fwrite(text.data, 1, text.len, stdout) != text.len)
        rc = -EIO;
    buf_free(&text);
    return rc == 0 && fflush(stdout) == 0 ? 0 : EXIT_FAILED;
}

static int open_log(const struct options *options)
{
    int rc = 0;

    log_set_level((enum log_level)options->log_level);
    if (options->log_path != NULL)
        rc = log_open(options->log_path);
    if (rc != 0)
        log_error("cannot open log file %s: %s", options->log_path, strerror(-rc));
    return rc;
}

static int run(const struct options *options)
{
    struct server server;
    int status = server_open(&server, options);

    if (status == 0)
        status = server_serve(&server);
    else if (options->log_path != NULL)
        fprintf(stderr, "ttserver: could not start; the reason is in %s\n", options->log_path);
    if (server_close(&server) != 0 && status == 0)
        status = EXIT_FAILED;
    return status;
}

/* Memory of big bodies goes back to the system when they are done. By itself glibc raises these
 * limits with the first big block that is freed, and keeps what a crowd of uploads left. */
static void return_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_MIN);
    mallopt(M_TRIM_THRESHOLD, TRIM_MIN);
}

int main(int argc, char *argv[])
{
    char message[MESSAGE_MAX];
    struct options options;
    int status = EXIT_FAILED;
    int rc;

    return_memory();
    if (!options_parse(argc, argv, &options, message, sizeof(message))) {
        fprintf(stderr, "ttserver: %s\ntry ttserver --help\n", message);
        return EXIT_USAGE;
    }
    if (options.help)
        return print_help();
    if (options.version)
        return printf("ttserver %s\n", TT_VERSION) > 0 && fflush(stdout) == 0 ? 0 : EXIT_FAILED;
    if (open_log(&options) != 0)
        return EXIT_FAILED;
    rc = signals_start(pidfile_remove);
    if (rc != 0) {
        log_error("cannot start the signal thread: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    if (options.pid_path == NULL || pidfile_write(options.pid_path) == 0)
        status = run(&options);
    pidfile_remove();
    if (status == 0)
        log_info("stopped");
    signals_end();
    return status;
}
