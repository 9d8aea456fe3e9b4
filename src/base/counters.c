/*
 * counters.c - names and meanings of the counters, from the one table in counters.h.
 *
 * Used by:  memcached `stats` and /-/metrics.
 * Threads:  constant data.
 */
#include "base/counters.h"

#define COUNTER_INFO(symbol, text, meaning)                                                        \
    [COUNTER_##symbol] = {.name = (text), .help = (meaning)},

const struct counter_info counter_infos[COUNTER_COUNT] = {COUNTER_TABLE(COUNTER_INFO)};
