/*
 * counters.h - the one table of counters; every worker has its own set, readers add them up.
 *
 * Provides: enum counter, struct counters, counter_add(), counters_sum().
 * Used by:  sessions and net (to count), memcached `stats` and /-/metrics (to show).
 * Threads:  each set is written by its owner only, with relaxed stores; any thread reads.
 * To add a counter: one line in COUNTER_TABLE; it then appears in `stats` and in /-/metrics.
 */
#ifndef BASE_COUNTERS_H
#define BASE_COUNTERS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* X(symbol, name, help). The name is memcached's where memcached has one. */
#define COUNTER_TABLE(X)                                                                           \
    X(CONNECTIONS_TOTAL, "total_connections", "connections accepted")                              \
    X(CONNECTIONS_REJECTED, "rejected_connections", "connections refused at the limit")            \
    X(CONNECTIONS_CLOSED, "closed_connections", "connections closed")                              \
    X(IDLE_KICKS, "idle_kicks", "connections closed for being idle too long")                      \
    X(STALLED_KICKS, "stalled_kicks",                                                              \
      "connections closed for a request or reply without progress")                                \
    X(PINNED_KICKS, "pinned_kicks",                                                                \
      "connections closed because too much was kept on the disk for slow readers")                 \
    X(BYTES_READ, "bytes_read", "bytes received from clients")                                     \
    X(BYTES_WRITTEN, "bytes_written", "bytes sent to clients")                                     \
    X(PROTOCOL_ERRORS, "protocol_errors", "requests that broke their protocol")                    \
    X(HTTP_REQUESTS, "http_requests", "HTTP requests answered")                                    \
    X(CMD_GET, "cmd_get", "keys asked for")                                                        \
    X(CMD_SET, "cmd_set", "storage commands")                                                      \
    X(CMD_DELETE, "cmd_delete", "delete commands")                                                 \
    X(CMD_TOUCH, "cmd_touch", "touch and gat commands")                                            \
    X(CMD_FLUSH, "cmd_flush", "flush_all commands")                                                \
    X(GET_HITS, "get_hits", "keys found")                                                          \
    X(GET_MISSES, "get_misses", "keys not found")                                                  \
    X(GET_EXPIRED, "get_expired", "keys found expired")                                            \
    X(GET_COLD, "get_cold", "reads that waited for the disk")                                      \
    X(DELETE_HITS, "delete_hits", "deletes of a present key")                                      \
    X(DELETE_MISSES, "delete_misses", "deletes of an absent key")                                  \
    X(INCR_HITS, "incr_hits", "incr of a present key")                                             \
    X(INCR_MISSES, "incr_misses", "incr of an absent key")                                         \
    X(DECR_HITS, "decr_hits", "decr of a present key")                                             \
    X(DECR_MISSES, "decr_misses", "decr of an absent key")                                         \
    X(CAS_HITS, "cas_hits", "cas that stored")                                                     \
    X(CAS_MISSES, "cas_misses", "cas of an absent key")                                            \
    X(CAS_BADVAL, "cas_badval", "cas with another value present")                                  \
    X(TOUCH_HITS, "touch_hits", "touch of a present key")                                          \
    X(TOUCH_MISSES, "touch_misses", "touch of an absent key")                                      \
    X(STORE_TOO_LARGE, "store_too_large", "values refused for their size")                         \
    X(STORE_NO_MEMORY, "store_no_memory", "requests refused for lack of memory")                   \
    X(STORE_ERRORS, "store_errors", "requests that the store could not carry out")

#define COUNTER_ENUM(symbol, name, help) COUNTER_##symbol,
enum counter { COUNTER_TABLE(COUNTER_ENUM) COUNTER_COUNT };
#undef COUNTER_ENUM

/* One owner's set; a cache line apart from the next. */
struct counters {
    _Alignas(64) _Atomic uint64_t value[COUNTER_COUNT];
};

struct counter_info {
    const char *name;
    const char *help;
};

/* In the order of enum counter. */
extern const struct counter_info counter_infos[COUNTER_COUNT];

/* Only the owner of the set adds. */
static inline void counter_add(struct counters *set, enum counter which, uint64_t n)
{
    uint64_t now = atomic_load_explicit(&set->value[which], memory_order_relaxed);

    atomic_store_explicit(&set->value[which], now + n, memory_order_relaxed);
}

static inline uint64_t counter_get(const struct counters *set, enum counter which)
{
    return atomic_load_explicit(&set->value[which], memory_order_relaxed);
}

#endif
