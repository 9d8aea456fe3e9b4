/*
 * ttbench.c - load generator for ttserver and its peers: memcached text, HTTP/1.1, RESP.
 *
 * Two ways of asking: a closed loop (as fast as replies come) and an open loop (--rate: at fixed
 * times, whatever the server does, with latencies that include the wait of requests that could not
 * be sent in time). Every value is verified. The parts: options, keys and value (what is asked),
 * wire (protocols), conn (one connection), load (threads and phases), hist and report (results).
 */
#include <signal.h>
#include <stdlib.h>

#include "tools/ttbench_files.h"
#include "tools/ttbench_load.h"
#include "tools/ttbench_options.h"
#include "tools/ttbench_report.h"
#include "tools/ttbench_value.h"

enum { EXIT_USAGE = 2 };

int main(int argc, char **argv)
{
    static struct load_result result; /* large: histograms */
    struct bench_options opts;
    int rc = bench_options_parse(argc, argv, &opts);

    if (rc != 0)
        return rc > 0 ? EXIT_SUCCESS : EXIT_USAGE;
    signal(SIGPIPE, SIG_IGN);
    value_init();
    if (opts.fill_dir != NULL)
        return files_write(&opts) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    if (load_run(&opts, &result) != 0)
        return EXIT_FAILURE;
    report_print(&opts, &result);
    return report_is_good(&opts, &result) ? EXIT_SUCCESS : EXIT_FAILURE;
}
