/*
 * server.c - puts the server together in the order that its promises ask for: see server.h.
 *
 * The port is opened after the store: whoever can connect gets answers. That it is free is looked
 * at before, since a recovery may take long and a taken port is the commonest mistake.
 */
#include "main/server.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "main/address.h"
#include "main/banner.h"
#include "main/machine.h"
#include "main/signals.h"

enum {
    EARLY_OPEN_MS = 5000,    /* a rebuild longer than this is waited for with the port open */
    STATE_POLL_MS = 100,     /* and looked after this often */
    STATE_REPORT_MS = 10000, /* and reported this often */
    DRAIN_GRACE_MS = 10000,
};

#define BUFFER_BYTES_MIN (UINT64_C(256) * 1024 * 1024)

static void say_port_in_use(const struct options *options)
{
    char text[ADDRESS_TEXT_MAX];
    uint16_t next = address_next_free(options->host, (uint16_t)options->port);

    address_text(options->host, (uint16_t)options->port, text, sizeof(text));
    if (next != 0)
        log_error("port %s is in use; try -port %u", text, next);
    else
        log_error("port %s is in use; choose another one with -port", text);
}

/* What can be known about the address before the store is opened. 0 or the exit status. */
static int check_address(const struct options *options)
{
    char text[ADDRESS_TEXT_MAX];
    struct addrinfo *list;
    int rc;

    if (options->port == 0)
        return 0;
    if (address_resolve(options->host, (uint16_t)options->port, &list) != 0)
        return EXIT_FAILED;
    if (!options->insecure && !address_is_loopback(list)) {
        freeaddrinfo(list);
        log_error("option -host: other machines can reach %s and there are no passwords yet; "
                  "listen on a loopback address, or add --insecure if a firewall guards it",
                  options->host);
        return EXIT_USAGE;
    }
    rc = address_probe(list);
    freeaddrinfo(list);
    if (rc == 0)
        return 0;
    address_text(options->host, (uint16_t)options->port, text, sizeof(text));
    if (rc == -EADDRINUSE)
        say_port_in_use(options);
    else
        log_error("cannot listen on %s: %s", text, strerror(-rc));
    return EXIT_FAILED;
}

static unsigned choose_max_conns(const struct options *options)
{
    uint64_t descriptors = machine_raise_descriptors();
    uint64_t most = machine_max_conns(descriptors);

    if (most > INT_MAX)
        most = INT_MAX;
    if (options->max_conns == 0)
        return (unsigned)most;
    if (options->max_conns <= most)
        return (unsigned)options->max_conns;
    log_warn("--max-conns %llu lowered to %llu: the limit of open files is %llu (ulimit -n)",
             (unsigned long long)options->max_conns, (unsigned long long)most,
             (unsigned long long)descriptors);
    return (unsigned)most;
}

static size_t choose_buffer_bytes(const struct options *options)
{
    uint64_t bytes = options->buffer_bytes;

    if (bytes == 0)
        bytes = machine_memory() / 4;
    if (options->buffer_bytes == 0 && bytes < BUFFER_BYTES_MIN)
        bytes = BUFFER_BYTES_MIN;
    return bytes > SIZE_MAX / 2 ? SIZE_MAX / 2 : (size_t)bytes;
}

static int open_store(struct server *server)
{
    const struct options *options = server->options;
    const struct store_config config = {
        .dir = options->dbname,
        .sync = (enum store_sync)options->sync,
        .sync_interval_ms = (int64_t)options->sync_interval_ms,
        .segment_bytes = options->segment_bytes,
        .max_value_bytes = options->max_value_bytes,
        .reserve_bytes = options->reserve_bytes,
        .spool_max_bytes = options->spool_max_bytes,
        .pinned_max_bytes = options->pinned_max_bytes,
        .keep_history_ms = (int64_t)options->keep_history_s * 1000,
        .node = (uint16_t)options->sid,
        .reader_ports = server->app.threads,
        .pool = server->pool,
    };
    int rc = logstore_open(&config, EARLY_OPEN_MS, &server->store);

    if (rc != 0)
        return rc; /* it has logged why */
    server->app.store = server->store;
    server->data_dir = realpath(options->dbname, NULL);
    if (server->data_dir == NULL)
        server->data_dir = strdup(options->dbname);
    server->app.data_dir = server->data_dir;
    if (server->data_dir == NULL) {
        log_error("out of memory");
        return -ENOMEM;
    }
    return 0;
}

static int open_net(struct server *server)
{
    const struct options *options = server->options;
    const struct net_config config = {
        .host = options->host,
        .port = (uint16_t)options->port,
        .unix_path = options->unix_path,
        .threads = server->app.threads,
        .max_conns = server->app.max_conns,
        .idle_timeout_ms = (int64_t)options->idle_timeout_s * 1000,
        .stall_timeout_ms = (int64_t)options->stall_timeout_s * 1000,
        .use_uring = !options->no_uring,
        .pool = server->pool,
        .budget = &server->budget,
        .ops = &session_net_ops,
        .app = &server->app,
    };
    int rc = net_open(&config, &server->net);

    /* Another server may have come first since the port was looked at. (A taken unix socket has
     * been logged; then the port is found free again.) */
    if (rc == -EADDRINUSE)
        check_address(options);
    if (rc != 0)
        return rc;
    server->app.net = server->net;
    rc = net_start(server->net);
    if (rc != 0) {
        net_close(server->net);
        server->net = NULL;
    }
    return rc;
}

int server_open(struct server *server, const struct options *options)
{
    int rc;

    memset(server, 0, sizeof(*server));
    server->options = options;
    options_sync_text(options, server->sync_text);
    rc = check_address(options);
    if (rc != 0)
        return rc;
    server->app.max_value_bytes = options->max_value_bytes;
    server->app.started_ms = clock_wall_ms();
    server->app.sync_policy = server->sync_text;
    server->app.max_conns = choose_max_conns(options);
    server->app.threads = options->threads == 0 ? machine_cores() : (unsigned)options->threads;
    server->app.port = (uint16_t)options->port;
    server->app.sid = (uint16_t)options->sid;
    server->budget.limit_bytes = choose_buffer_bytes(options);
    rc = aio_pool_open((unsigned)options->io_threads, &server->pool);
    if (rc != 0) {
        log_error("cannot start %llu threads: %s", (unsigned long long)options->io_threads,
                  strerror(-rc));
        return EXIT_FAILED;
    }
    if (open_store(server) != 0 || open_net(server) != 0)
        return EXIT_FAILED;
    return 0;
}

/* Waits for an index that is being rebuilt. False: stop; *status is the exit status then. */
static bool await_store(struct server *server, const char **stop_name, int *status)
{
    int64_t report_ms = clock_mono_ms();

    while (store_state(server->store) == STORE_STARTING) {
        if (clock_mono_ms() >= report_ms) {
            log_info("not ready yet: the index is being rebuilt progress=%u%%",
                     store_progress(server->store));
            report_ms += STATE_REPORT_MS;
        }
        if (signals_wait(STATE_POLL_MS, stop_name)) {
            *status = 0;
            return false;
        }
    }
    *status = EXIT_FAILED;
    *stop_name = "a failed start";
    return store_state(server->store) == STORE_SERVING;
}

int server_serve(struct server *server)
{
    const char *stop_name = "";
    int status = 0;

    signals_serving();
    if (await_store(server, &stop_name, &status)) {
        banner_ready(server);
        signals_wait(-1, &stop_name);
        status = 0;
    }
    log_info("stopping on %s connections=%u", stop_name, net_conn_count(server->net));
    atomic_store(&server->app.draining, true);
    net_stop(server->net, DRAIN_GRACE_MS);
    net_close(server->net);
    server->net = NULL;
    return status;
}

int server_close(struct server *server)
{
    int rc = 0;

    if (server->net != NULL) {
        net_stop(server->net, 0);
        net_close(server->net);
    }
    if (server->store != NULL)
        rc = store_close(server->store);
    if (server->pool != NULL)
        aio_pool_close(server->pool);
    free(server->data_dir);
    memset(server, 0, sizeof(*server));
    return rc;
}
