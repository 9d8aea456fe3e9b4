/*
 * ttbench_load.c - threads that put load on the server (ttbench_load.h).
 *
 * Each thread has its own connections, epoll set, key picker and statistics; they share nothing but
 * the stage, which the main thread moves on: warm-up, measurement, end. Closed loop: a connection
 * whose window is empty gets the next `pipeline` requests. Open loop: the schedule alone decides
 * when a request is due; it goes to the next connection with room, and its latency counts from when
 * it was due.
 */
#include "tools/ttbench_load.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/ttbench_cpu.h"

enum { EVENTS_MAX = 256, IDLE_WAIT_US = 100 * 1000, STALL_CHECK_US = 1000 * 1000 };

enum stage { STAGE_FILL, STAGE_WARMUP, STAGE_MEASURE, STAGE_END };

struct load {
    const struct bench_options *opts;
    struct bench_target target;
    struct loader *loaders;
    uint64_t *versions; /* --own-keys */
    _Atomic int stage;
    pthread_mutex_t mutex; /* protects running */
    pthread_cond_t ended;
    unsigned running; /* loaders whose thread has not ended */
};

struct loader {
    struct load *load;
    unsigned index;
    pthread_t thread;
    struct conn_env env;
    struct bench_conn *conns;
    unsigned conn_count;
    unsigned first_conn; /* this loader's first connection, counted through all loaders */
    struct key_picker picker;
    struct rng rng; /* read or write */
    uint64_t next_version;
    enum stage stage;   /* what this thread is doing; follows load->stage */
    uint64_t left;      /* requests still to be issued in this stage */
    uint64_t completed; /* when the measurement ended */
    uint64_t overdue;
    uint64_t issued; /* open loop: since schedule_start_us */
    int64_t schedule_start_us;
    int64_t next_stall_check_us;
    unsigned cursor; /* open loop: the connection that is asked first */
};

/* ---- what to ask ---- */

/* The nearest key that belongs to the connection: with --own-keys connection i of n has the keys
 * i, i + n, i + 2n, ... */
static uint64_t own_key(const struct bench_options *opts, unsigned conn, uint64_t id)
{
    id = id - id % opts->connections + conn;
    return id < opts->keys.count ? id : conn;
}

static struct bench_request request_choose(struct loader *l, unsigned conn, int64_t due_us)
{
    const struct bench_options *opts = l->load->opts;
    struct bench_request request = {.due_us = due_us, .version = VALUE_ANY_VERSION};

    request.key_id = key_pick(&l->picker);
    if (l->stage == STAGE_FILL) {
        request.writes = true;
        request.version = 0;
        return request;
    }
    request.writes = opts->read_percent < 100 && rng_below(&l->rng, 100) >= opts->read_percent;
    if (opts->own_keys)
        request.key_id = own_key(opts, conn, request.key_id);
    if (request.writes)
        request.version = l->next_version++;
    if (opts->own_keys && request.writes)
        l->load->versions[request.key_id] = request.version;
    else if (opts->own_keys)
        request.version = l->load->versions[request.key_id];
    return request;
}

static void loader_issue(struct loader *l, struct bench_conn *c, int64_t due_us)
{
    struct bench_request request = request_choose(l, c->index, due_us);

    l->left--;
    conn_issue(c, &l->env, &request);
}

/* Closed loop (and fill): an empty window is filled at once. */
static void loader_refill(struct loader *l, struct bench_conn *c)
{
    int64_t now_us;

    if (c->count > 0 || l->left == 0 || c->fd < 0)
        return;
    now_us = clock_mono_us();
    while (l->left > 0 && conn_has_room(c, &l->env))
        loader_issue(l, c, now_us);
    conn_flush(c, &l->env);
}

static bool loader_is_open_loop(const struct loader *l)
{
    return l->load->opts->rate > 0 && (l->stage == STAGE_WARMUP || l->stage == STAGE_MEASURE);
}

/* When the nth request of this thread's share of the rate is due. */
static int64_t loader_due_us(const struct loader *l, uint64_t nth)
{
    double rate = l->load->opts->rate / l->load->opts->threads;

    return l->schedule_start_us + (int64_t)((double)nth * 1e6 / rate);
}

/* The next connection with room, in turn. NULL: there is none. */
static struct bench_conn *loader_next_conn(struct loader *l)
{
    for (unsigned i = 0; i < l->conn_count; i++) {
        struct bench_conn *c = &l->conns[l->cursor];

        l->cursor = (l->cursor + 1) % l->conn_count;
        if (conn_has_room(c, &l->env))
            return c;
    }
    return NULL;
}

static bool loader_has_room(const struct loader *l)
{
    return l->env.in_flight < (uint64_t)l->env.live * l->load->opts->pipeline;
}

/* Sends what is due. Returns how long to wait for the next, in microseconds. */
static int64_t loader_keep_schedule(struct loader *l)
{
    int64_t now_us = clock_mono_us();

    while (l->left > 0 && loader_has_room(l)) {
        int64_t due_us = loader_due_us(l, l->issued);
        struct bench_conn *c;

        if (due_us > now_us)
            return due_us - now_us < IDLE_WAIT_US ? due_us - now_us : IDLE_WAIT_US;
        c = loader_next_conn(l);
        if (c == NULL)
            break;
        l->issued++;
        loader_issue(l, c, due_us);
        conn_flush(c, &l->env);
    }
    return IDLE_WAIT_US;
}

/* ---- a thread ---- */

static uint64_t stats_completed(const struct bench_stats *stats)
{
    return stats->reads.count + stats->writes.count;
}

/* The measurement begins: forget what the warm-up counted, but not its failures. */
static void stats_restart(struct bench_stats *stats)
{
    memset(&stats->reads, 0, sizeof(stats->reads));
    memset(&stats->writes, 0, sizeof(stats->writes));
    stats->bytes_in = stats->bytes_out = stats->reconnects = 0;
}

/* The share of `total` that thread `index` of `n` gets. */
static uint64_t share_of(uint64_t total, unsigned index, unsigned n)
{
    return total / n + (index < total % n ? 1 : 0);
}

static void loader_measurement_over(struct loader *l)
{
    int64_t now_us = clock_mono_us();

    l->completed = stats_completed(&l->env.stats);
    while (l->load->opts->rate > 0 && l->left > 0 && !loader_has_room(l) &&
           loader_due_us(l, l->issued + l->overdue) < now_us)
        l->overdue++;
    l->left = 0;
}

static void loader_enter(struct loader *l, enum stage stage)
{
    const struct bench_options *opts = l->load->opts;

    if (l->stage == STAGE_MEASURE && stage == STAGE_END)
        loader_measurement_over(l);
    l->stage = stage;
    if (stage == STAGE_FILL)
        l->left = share_of(opts->keys.count, l->index, opts->threads);
    else if (stage == STAGE_WARMUP || (stage == STAGE_MEASURE && opts->requests == 0))
        l->left = UINT64_MAX;
    else if (stage == STAGE_MEASURE)
        l->left = share_of(opts->requests, l->index, opts->threads);
    else
        l->left = 0;
    if (stage == STAGE_WARMUP || stage == STAGE_MEASURE) {
        stats_restart(&l->env.stats);
        l->issued = 0;
        l->schedule_start_us = clock_mono_us();
    }
    if (!loader_is_open_loop(l)) {
        for (unsigned i = 0; i < l->conn_count; i++)
            loader_refill(l, &l->conns[i]);
    }
}

static void loader_check_stalls(struct loader *l, int64_t now_us)
{
    if (now_us < l->next_stall_check_us)
        return;
    l->next_stall_check_us = now_us + STALL_CHECK_US;
    for (unsigned i = 0; i < l->conn_count; i++)
        conn_check_stall(&l->conns[i], &l->env, now_us);
}

/* One turn: wait for replies or for the next due time, and go on. */
static void loader_turn(struct loader *l)
{
    struct epoll_event events[EVENTS_MAX];
    bool open_loop = loader_is_open_loop(l);
    int64_t wait_us = open_loop ? loader_keep_schedule(l) : IDLE_WAIT_US;
    struct timespec wait = {.tv_sec = 0, .tv_nsec = wait_us * 1000};
    int n = epoll_pwait2(l->env.epoll_fd, events, EVENTS_MAX, &wait, NULL);

    for (int i = 0; i < n; i++) {
        struct bench_conn *c = events[i].data.ptr;

        conn_event(c, &l->env, events[i].events);
        if (!open_loop)
            loader_refill(l, c);
    }
    loader_check_stalls(l, clock_mono_us());
}

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    struct load *load = l->load;

    (void)prctl(PR_SET_TIMERSLACK, 1, 0, 0,
                0); /* due times are kept to microseconds, not to 50 of them */
    loader_enter(l, (enum stage)atomic_load(&load->stage));
    while ((l->left > 0 || l->env.in_flight > 0) && l->env.live > 0) {
        enum stage stage = (enum stage)atomic_load_explicit(&load->stage, memory_order_relaxed);

        if (stage != l->stage)
            loader_enter(l, stage);
        loader_turn(l);
    }
    if (l->stage == STAGE_MEASURE)
        loader_measurement_over(l);
    pthread_mutex_lock(&load->mutex);
    load->running--;
    pthread_cond_signal(&load->ended);
    pthread_mutex_unlock(&load->mutex);
    return NULL;
}

/* ---- phases, on the main thread ---- */

static void load_start(struct load *load, enum stage stage)
{
    atomic_store(&load->stage, stage);
    load->running = load->opts->threads;
    for (unsigned i = 0; i < load->opts->threads; i++) {
        int rc = pthread_create(&load->loaders[i].thread, NULL, loader_main, &load->loaders[i]);

        if (rc != 0) {
            fprintf(stderr, "ttbench: cannot start a thread: %s\n", strerror(rc));
            exit(EXIT_FAILURE); /* nothing was measured, and others may be under way already */
        }
    }
}

static void load_join(struct load *load)
{
    for (unsigned i = 0; i < load->opts->threads; i++)
        pthread_join(load->loaders[i].thread, NULL);
}

/* Returns when the time is over or all threads have ended. */
static void load_wait(struct load *load, double seconds)
{
    struct timespec until; /* on the clock that the condition variable goes by */

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&load->mutex);
    while (load->running > 0) {
        if (pthread_cond_clockwait(&load->ended, &load->mutex, CLOCK_MONOTONIC, &until) ==
            ETIMEDOUT)
            break;
    }
    pthread_mutex_unlock(&load->mutex);
}

static unsigned load_live(const struct load *load)
{
    unsigned live = 0;

    for (unsigned i = 0; i < load->opts->threads; i++)
        live += load->loaders[i].env.live;
    return live;
}

static void load_pickers(struct load *load, enum key_distribution distribution)
{
    const struct bench_options *opts = load->opts;

    for (unsigned i = 0; i < opts->threads; i++)
        key_picker_init(&load->loaders[i].picker, distribution, opts->keys.count,
                        opts->zipf_exponent, opts->seed, i, opts->threads);
}

static void load_fill(struct load *load, struct load_result *out)
{
    int64_t start_us = clock_mono_us();

    load_pickers(load, KEYS_SEQUENTIAL);
    load_start(load, STAGE_FILL);
    load_join(load);
    out->fill_seconds = (double)(clock_mono_us() - start_us) * 1e-6;
    out->filled = load->opts->keys.count;
    if (load->versions != NULL)
        memset(load->versions, 0, (size_t)load->opts->keys.count * sizeof(*load->versions));
}

static void load_measure(struct load *load, struct load_result *out)
{
    const struct bench_options *opts = load->opts;
    uint64_t server_ns = 0, server_end_ns = 0, client_ns;
    int64_t start_us;

    load_pickers(load, opts->distribution);
    load_start(load, opts->warmup_s > 0 ? STAGE_WARMUP : STAGE_MEASURE);
    if (opts->warmup_s > 0)
        load_wait(load, opts->warmup_s);
    out->has_server_cpu =
        opts->pid_count > 0 && cpu_of_processes(opts->pids, opts->pid_count, &server_ns) == 0;
    client_ns = cpu_of_self();
    start_us = clock_mono_us();
    atomic_store(&load->stage, STAGE_MEASURE);
    load_wait(load, opts->duration_s);
    out->seconds = (double)(clock_mono_us() - start_us) * 1e-6;
    if (out->has_server_cpu && cpu_of_processes(opts->pids, opts->pid_count, &server_end_ns) != 0)
        out->has_server_cpu = false;
    out->client_cpu_ns = cpu_of_self() - client_ns;
    out->server_cpu_ns = server_end_ns - server_ns;
    atomic_store(&load->stage, STAGE_END);
    load_join(load);
}

/* ---- setting up ---- */

static int target_resolve_unix(const char *path, struct bench_target *out)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&out->addr;

    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, strlen(path) + 1); /* the option's check has left room */
    out->family = AF_UNIX;
    out->addr_len = sizeof(*un);
    memcpy(out->host, "localhost", sizeof("localhost"));
    return 0;
}

static int target_resolve(const struct bench_options *opts, struct bench_target *out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    bool is_v6 = strchr(opts->host, ':') != NULL;
    int rc;

    if (opts->unix_path != NULL)
        return target_resolve_unix(opts->unix_path, out);
    rc = getaddrinfo(opts->host, opts->port, &hints, &found);
    if (rc != 0) {
        fprintf(stderr, "ttbench: %s: %s\n", opts->host, gai_strerror(rc));
        return -ENOENT;
    }
    memcpy(&out->addr, found->ai_addr, found->ai_addrlen);
    out->addr_len = found->ai_addrlen;
    out->family = found->ai_family;
    freeaddrinfo(found);
    snprintf(out->host, sizeof(out->host), is_v6 ? "[%s]:%s" : "%s:%s", opts->host, opts->port);
    return 0;
}

static void connect_message(const struct bench_options *opts, int rc)
{
    if (opts->unix_path != NULL)
        fprintf(stderr, "ttbench: cannot connect to %s: %s\n", opts->unix_path, strerror(-rc));
    else
        fprintf(stderr, "ttbench: cannot connect to %s port %s: %s\n", opts->host, opts->port,
                strerror(-rc));
}

static int loader_connect(struct loader *l)
{
    for (unsigned i = 0; i < l->conn_count; i++) {
        int rc = conn_open(&l->conns[i], &l->env, l->first_conn + i);

        if (rc != 0) {
            connect_message(l->load->opts, rc);
            return rc;
        }
    }
    return 0;
}

static int loader_init(struct loader *l, struct load *load, unsigned index, unsigned first_conn)
{
    const struct bench_options *opts = load->opts;

    l->load = load;
    l->index = index;
    l->first_conn = first_conn;
    l->conn_count = (unsigned)share_of(opts->connections, index, opts->threads);
    l->rng.state = value_mix(opts->seed ^ ((uint64_t)index << 56));
    /* Versions differ from thread to thread and, as far as 31 bits of the seed go, from run to run.
     */
    l->next_version = (opts->seed & 0x7fffffff) << 32 | (uint64_t)index << 26 | 1;
    l->env.opts = opts;
    l->env.target = &load->target;
    l->env.versions = load->versions;
    l->env.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->env.epoll_fd == -1)
        return -errno;
    l->env.rx = malloc(CONN_RX_BYTES + WIRE_REPLY_HEAD_MAX);
    l->conns = calloc(l->conn_count, sizeof(*l->conns));
    if (l->env.rx == NULL || l->conns == NULL)
        return -ENOMEM;
    for (unsigned i = 0; i < l->conn_count; i++)
        l->conns[i].fd = -1;
    return loader_connect(l);
}

static int load_init(struct load *load, const struct bench_options *opts)
{
    unsigned first_conn = 0;
    int rc = target_resolve(opts, &load->target);

    load->opts = opts;
    pthread_mutex_init(&load->mutex, NULL);
    pthread_cond_init(&load->ended, NULL);
    if (rc != 0)
        return rc;
    load->loaders = calloc(opts->threads, sizeof(*load->loaders));
    if (opts->own_keys) {
        load->versions = malloc((size_t)opts->keys.count * sizeof(*load->versions));
        if (load->versions != NULL)
            memset(load->versions, 0xff, (size_t)opts->keys.count * sizeof(*load->versions));
    }
    if (load->loaders == NULL || (opts->own_keys && load->versions == NULL)) {
        fprintf(stderr, "ttbench: not enough memory\n");
        return -ENOMEM;
    }
    for (unsigned i = 0; i < opts->threads; i++)
        load->loaders[i].env.epoll_fd = -1;
    for (unsigned i = 0; rc == 0 && i < opts->threads; i++) {
        rc = loader_init(&load->loaders[i], load, i, first_conn);
        first_conn += load->loaders[i].conn_count;
    }
    return rc;
}

static void loader_free(struct loader *l)
{
    for (unsigned i = 0; l->conns != NULL && i < l->conn_count; i++)
        conn_close(&l->conns[i], &l->env);
    if (l->env.epoll_fd >= 0)
        close(l->env.epoll_fd);
    free(l->conns);
    free(l->env.rx);
}

static void load_free(struct load *load)
{
    for (unsigned i = 0; load->loaders != NULL && i < load->opts->threads; i++)
        loader_free(&load->loaders[i]);
    free(load->loaders);
    free(load->versions);
    pthread_cond_destroy(&load->ended);
    pthread_mutex_destroy(&load->mutex);
}

static void stats_merge(struct bench_stats *into, const struct bench_stats *from)
{
    hist_merge(&into->reads, &from->reads);
    hist_merge(&into->writes, &from->writes);
    into->bytes_in += from->bytes_in;
    into->bytes_out += from->bytes_out;
    into->reconnects += from->reconnects;
    into->misses += from->misses;
    into->errors += from->errors;
    into->mismatches += from->mismatches;
}

int load_run(const struct bench_options *opts, struct load_result *out)
{
    struct load load = {0};
    int rc = load_init(&load, opts);

    if (rc != 0)
        goto out;
    if (opts->fill)
        load_fill(&load, out);
    if (!opts->fill_only && load_live(&load) > 0)
        load_measure(&load, out);
    for (unsigned i = 0; i < opts->threads; i++) {
        stats_merge(&out->stats, &load.loaders[i].env.stats);
        out->completed += load.loaders[i].completed;
        out->overdue += load.loaders[i].overdue;
    }

out:
    load_free(&load);
    return rc;
}
