/*
 * session.c - what every connection shares: the first byte decides its protocol, and each worker
 * has its way into the store.
 *
 * Provides: session_net_ops, session_protocol_of().
 * Used by:  main hands session_net_ops to net.
 * Threads:  the connection's worker.
 *
 * A connection has no session until its first byte has come, so that idle ones cost nothing here.
 */
#include "session/session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/log.h"

/* How long worker_stop() waits at a time for the store's completions, before it looks again. */
enum { STOP_POLL_MS = 1000 };

/* Who is meant by a connection's first byte; what stands in no row is refused (0x80, 0xC8 and 0x16
 * among them, as long as nobody here speaks those). */
static const struct {
    unsigned char first;
    unsigned char last;
    const struct session_protocol *protocol;
} sniff_table[] = {
    {'a', 'z', &mc_text_protocol},
    {'A', 'Z', &http_protocol},
    /* Lines that begin with a blank and empty ones get memcached's ERROR. */
    {' ', ' ', &mc_text_protocol},
    {'\r', '\r', &mc_text_protocol},
    {'\n', '\n', &mc_text_protocol},
};

const struct session_protocol *session_protocol_of(unsigned char first_byte)
{
    for (size_t i = 0; i < sizeof(sniff_table) / sizeof(sniff_table[0]); i++) {
        if (first_byte >= sniff_table[i].first && first_byte <= sniff_table[i].last)
            return sniff_table[i].protocol;
    }
    return NULL;
}

static const struct session_protocol *protocol_of(const struct conn *c)
{
    const struct session *session = conn_session(c);

    return session == NULL ? NULL : session->protocol;
}

/* Gives the new connection its session. False: it is being closed. */
static bool session_begin(struct conn *c, unsigned char first_byte)
{
    const struct session_protocol *protocol = session_protocol_of(first_byte);
    struct counters *counters = session_worker_of(c)->counters;

    if (protocol == NULL) {
        counter_add(counters, COUNTER_PROTOCOL_ERRORS, 1);
        log_debug("unknown protocol conn=%llu first_byte=0x%02x", (unsigned long long)conn_id(c),
                  first_byte);
        conn_abort(c);
        return false;
    }
    if (protocol->open(c) != 0) {
        counter_add(counters, COUNTER_STORE_NO_MEMORY, 1);
        conn_abort(c);
        return false;
    }
    return true;
}

static size_t session_input(struct conn *c, struct slice in)
{
    if (conn_session(c) == NULL && !session_begin(c, (unsigned char)in.ptr[0]))
        return in.len;
    return protocol_of(c)->input(c, in);
}

static void session_ready(struct conn *c)
{
    const struct session_protocol *protocol = protocol_of(c);

    if (protocol != NULL)
        protocol->ready(c);
}

static void session_end_of_input(struct conn *c)
{
    const struct session_protocol *protocol = protocol_of(c);

    if (protocol != NULL)
        protocol->end_of_input(c);
    else
        conn_close_when_sent(c);
}

static void session_closed(struct conn *c)
{
    const struct session_protocol *protocol = protocol_of(c);

    if (protocol != NULL)
        protocol->closed(c);
}

static void run_store_port(void *arg)
{
    store_port_run(arg);
}

static int session_worker_start(struct worker *w, void *app)
{
    struct session_worker *context = calloc(1, sizeof(*context));
    int rc;

    if (context == NULL)
        return -ENOMEM;
    context->app = app;
    context->counters = worker_counters(w);
    context->budget = worker_budget(w);
    rc = store_port_open(context->app->store, worker_aio(w), &context->port);
    if (rc != 0)
        goto fail;
    rc = worker_watch(w, store_port_fd(context->port), run_store_port, context->port);
    if (rc != 0)
        goto fail_port;
    worker_set_context(w, context);
    return 0;

fail_port:
    store_port_close(context->port);
fail:
    free(context);
    return rc;
}

static void session_turn_end(struct worker *w)
{
    struct session_worker *context = worker_context(w);

    store_port_flush(context->port);
}

/* The loop is gone, but reads and writes of closed connections may still be under way: their memory
 * is freed when they complete. */
static void finish_port(struct worker *w, struct store_port *port)
{
    store_port_flush(port);
    while (store_port_pending(port) > 0) {
        struct pollfd fds[] = {
            {.fd = store_port_fd(port), .events = POLLIN},
            {.fd = aio_fd(worker_aio(w)), .events = POLLIN},
        };

        poll(fds, 2, STOP_POLL_MS);
        aio_run(worker_aio(w));
        store_port_run(port);
        store_port_flush(port); /* a completion may have submitted a write */
    }
}

static void session_worker_stop(struct worker *w)
{
    struct session_worker *context = worker_context(w);

    if (context == NULL)
        return; /* worker_start() failed */
    finish_port(w, context->port);
    store_port_close(context->port);
    http_worker_free(context->http);
    worker_set_context(w, NULL);
    free(context);
}

const struct net_ops session_net_ops = {
    .worker_start = session_worker_start,
    .turn_end = session_turn_end,
    .worker_stop = session_worker_stop,
    .input = session_input,
    .ready = session_ready,
    .end_of_input = session_end_of_input,
    .closed = session_closed,
};
