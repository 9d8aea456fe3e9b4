/*
 * net.c - opening, starting and stopping the network layer; sums over its workers.
 *
 * Provides: net_open() net_start() net_stop() net_close() and the net_*() questions.
 * Threads:  main thread; the questions from any.
 */
#include "net/net_internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static int copy_config(struct net *net, const struct net_config *config)
{
    net->config = *config;
    net->config.host = strdup(config->host != NULL ? config->host : "127.0.0.1");
    net->config.unix_path = NULL;
    if (config->unix_path != NULL) {
        net->config.unix_path = strdup(config->unix_path);
        if (net->config.unix_path == NULL)
            return -ENOMEM;
    }
    return net->config.host != NULL ? 0 : -ENOMEM;
}

static int open_workers(struct net *net)
{
    size_t bytes = net->config.threads * sizeof(struct worker);

    /* Counters want their own cache lines. */
    net->workers = aligned_alloc(_Alignof(struct worker), bytes);
    if (net->workers == NULL)
        return -ENOMEM;
    memset(net->workers, 0, bytes);
    for (unsigned i = 0; i < net->config.threads; i++) {
        int rc = worker_init(&net->workers[i], net, i);

        net->worker_count = i + 1;
        if (rc != 0)
            return rc;
    }
    return 0;
}

int net_open(const struct net_config *config, struct net **out)
{
    struct net *net = calloc(1, sizeof(*net));
    int rc;

    assert(config->threads > 0);
    if (net == NULL)
        return -ENOMEM;
    net->unix_fd = -1;
    atomic_init(&net->stop_deadline_ms, INT64_MAX);
    sem_init(&net->started, 0, 0);
    rc = copy_config(net, config);
    if (rc == 0)
        rc = open_workers(net);
    if (rc != 0)
        log_error("cannot set up the network workers: %s", strerror(-rc));
    else
        rc = listeners_open(net);
    if (rc != 0) {
        net_close(net);
        return rc;
    }
    *out = net;
    return 0;
}

/* Signals are the main thread's; only faults must reach the thread that made them. */
static void block_signals(sigset_t *before)
{
    sigset_t blocked;

    sigfillset(&blocked);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

static int start_threads(struct net *net)
{
    sigset_t before;
    int rc = 0;

    block_signals(&before);
    for (unsigned i = 0; i < net->worker_count && rc == 0; i++) {
        struct worker *w = &net->workers[i];

        rc = -pthread_create(&w->thread, NULL, worker_thread, w);
        w->has_thread = rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        log_error("cannot start a network thread: %s", strerror(-rc));
    return rc;
}

int net_start(struct net *net)
{
    int rc = start_threads(net);

    for (unsigned i = 0; i < net->worker_count && net->workers[i].has_thread; i++) {
        while (sem_wait(&net->started) != 0)
            continue;
    }
    for (unsigned i = 0; i < net->worker_count && rc == 0; i++)
        rc = net->workers[i].start_rc;
    if (rc != 0)
        net_stop(net, 0);
    return rc;
}

void net_stop(struct net *net, int64_t grace_ms)
{
    atomic_store(&net->stop_deadline_ms, clock_mono_ms() + grace_ms);
    listeners_unlink(net); /* who connects from now on is told at once */
    for (unsigned i = 0; i < net->worker_count; i++) {
        uint64_t one = 1;
        ssize_t n = write(net->workers[i].stop_fd, &one, sizeof(one));

        assert(n == (ssize_t)sizeof(one));
        (void)n;
    }
    for (unsigned i = 0; i < net->worker_count; i++) {
        if (net->workers[i].has_thread)
            pthread_join(net->workers[i].thread, NULL);
        net->workers[i].has_thread = false;
    }
    listeners_close(net);
}

void net_close(struct net *net)
{
    listeners_close(net);
    for (unsigned i = 0; i < net->worker_count; i++)
        worker_free(&net->workers[i]);
    free(net->workers);
    sem_destroy(&net->started);
    free((char *)net->config.unix_path);
    free((char *)net->config.host);
    free(net);
}

unsigned net_worker_count(const struct net *net)
{
    return net->worker_count;
}

const struct counters *net_worker_counters(const struct net *net, unsigned worker)
{
    assert(worker < net->worker_count);
    return &net->workers[worker].counters;
}

unsigned net_conn_count(const struct net *net)
{
    return atomic_load_explicit(&net->conn_count, memory_order_relaxed);
}

uint16_t net_port(const struct net *net)
{
    return net->port;
}
