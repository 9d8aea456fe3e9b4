/*
 * stats.c - the figures behind memcached's `stats` and behind /-/metrics.
 *
 * Provides: session_stats(), stats_general(), stats_settings(), stats_reset().
 * Used by:  mc_stats.c, admin.c.
 * Threads:  any; the counters belong to the workers and are read while they count.
 *
 * Names are memcached's where it has one for the thing. What memcached counts and this server does
 * not have is left out, but for the few that monitoring asks for by name.
 */
#include "session/stats.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/log.h"
#include "base/num.h"
#include "base/version.h"

/* Where the lines go. */
struct sink {
    stats_each *each;
    void *arg;
};

/* What `stats reset` found. It is subtracted only where `stats` shows: metrics never go back. */
static _Atomic uint64_t reset_at[COUNTER_COUNT];

static void put_text(const struct sink *to, const char *name, const char *value)
{
    to->each(name, value, NULL, false, to->arg);
}

static void put_number(const struct sink *to, const char *name, uint64_t value, const char *help,
                       bool is_counter)
{
    char text[NUM_TEXT_MAX + 1];

    text[format_u64(text, value)] = '\0';
    to->each(name, text, help, is_counter, to->arg);
}

static void put_time(const struct sink *to, const char *name, struct timeval value,
                     const char *help)
{
    char text[64];

    snprintf(text, sizeof(text), "%lld.%06ld", (long long)value.tv_sec, (long)value.tv_usec);
    to->each(name, text, help, true, to->arg);
}

static uint64_t counter_total(const struct session_app *app, unsigned which)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < net_worker_count(app->net); i++)
        sum += counter_get(net_worker_counters(app->net, i), (enum counter)which);
    return sum;
}

static void put_process(const struct session_app *app, const struct sink *to)
{
    int64_t now_ms = clock_wall_ms();
    int64_t up_ms = now_ms > app->started_ms ? now_ms - app->started_ms : 0;
    struct rusage usage;

    put_number(to, "pid", (uint64_t)getpid(), NULL, false);
    put_number(to, "uptime", (uint64_t)(up_ms / 1000), "seconds since the start", false);
    put_number(to, "time", (uint64_t)(now_ms / 1000), "Unix time", false);
    put_text(to, "version", TT_VERSION);
    put_number(to, "pointer_size", sizeof(void *) * 8, NULL, false);
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        put_time(to, "rusage_user", usage.ru_utime, "CPU seconds in user mode");
        put_time(to, "rusage_system", usage.ru_stime, "CPU seconds in the kernel");
    }
}

static void put_connections(const struct session_app *app, const struct sink *to)
{
    put_number(to, "max_connections", app->max_conns, "connections allowed", false);
    put_number(to, "curr_connections", net_conn_count(app->net), "connections open", false);
    put_number(to, "threads", app->threads, "worker threads", false);
    put_number(to, "accepting_conns", !atomic_load_explicit(&app->draining, memory_order_relaxed),
               "1 while connections are accepted", false);
}

/* since_reset: less what stats_reset() found. */
static void put_counters(const struct session_app *app, bool since_reset, const struct sink *to)
{
    for (unsigned i = 0; i < COUNTER_COUNT; i++) {
        uint64_t value = counter_total(app, i);

        if (since_reset)
            value -= atomic_load_explicit(&reset_at[i], memory_order_relaxed);
        put_number(to, counter_infos[i].name, value, counter_infos[i].help, true);
    }
}

/* The engine's lines "name value\n". */
static void put_engine_lines(struct slice text, const struct sink *to)
{
    while (text.len > 0) {
        const char *end = memchr(text.ptr, '\n', text.len);
        size_t line_len = end != NULL ? (size_t)(end - text.ptr) : text.len;
        const char *blank = memchr(text.ptr, ' ', line_len);
        char line[256];

        if (blank != NULL && line_len < sizeof(line)) {
            size_t name_len = (size_t)(blank - text.ptr);

            memcpy(line, text.ptr, line_len);
            line[name_len] = '\0';
            line[line_len] = '\0';
            put_text(to, line, line + name_len + 1);
        }
        text = slice_after(text, end != NULL ? line_len + 1 : line_len);
    }
}

static void put_store(const struct session_app *app, const struct sink *to)
{
    struct buf lines = {0};

    if (store_state(app->store) != STORE_SERVING)
        return;
    put_number(to, "curr_items", store_count(app->store), "records", false);
    /* Nothing is thrown out for want of room, and no bound in bytes exists. */
    put_number(to, "limit_maxbytes", 0, NULL, false);
    put_number(to, "evictions", 0, NULL, false);
    if (store_stat(app->store, &lines) == 0)
        put_engine_lines(buf_slice(&lines), to);
    else
        log_warn("out of memory for the store's statistics");
    buf_free(&lines);
}

static void put_all(const struct session_app *app, bool since_reset, const struct sink *to)
{
    put_process(app, to);
    put_connections(app, to);
    put_counters(app, since_reset, to);
    put_store(app, to);
}

void session_stats(struct session_app *app,
                   void (*each)(const char *name, const char *value, const char *help,
                                bool is_counter, void *arg),
                   void *arg)
{
    put_all(app, false, &(struct sink){each, arg});
}

void stats_general(struct session_app *app, stats_each *each, void *arg)
{
    put_all(app, true, &(struct sink){each, arg});
}

void stats_settings(struct session_app *app, stats_each *each, void *arg)
{
    const struct sink to = {each, arg};

    put_number(&to, "maxbytes", 0, NULL, false);
    put_number(&to, "maxconns", app->max_conns, NULL, false);
    put_number(&to, "tcpport", app->port, NULL, false);
    put_number(&to, "udpport", 0, NULL, false);
    put_number(&to, "verbosity",
               (uint64_t)atomic_load_explicit(&app->verbosity, memory_order_relaxed), NULL, false);
    put_text(&to, "evictions", "off");
    put_text(&to, "cas_enabled", "yes");
    put_number(&to, "num_threads", app->threads, NULL, false);
    put_text(&to, "binding_protocol", "auto-negotiate");
    put_text(&to, "auth_enabled_sasl", "no");
    put_text(&to, "auth_enabled_ascii", "no");
    put_number(&to, "item_size_max", app->max_value_bytes, NULL, false);
    put_text(&to, "flush_enabled", "yes");
    put_text(&to, "shutdown_command", "no");
    put_number(&to, "client_flags_size", sizeof(uint32_t), NULL, false);
    put_text(&to, "data_dir", app->data_dir);
    put_text(&to, "sync", app->sync_policy);
    put_number(&to, "sid", app->sid, NULL, false);
}

void stats_reset(struct session_app *app)
{
    for (unsigned i = 0; i < COUNTER_COUNT; i++)
        atomic_store_explicit(&reset_at[i], counter_total(app, i), memory_order_relaxed);
}
