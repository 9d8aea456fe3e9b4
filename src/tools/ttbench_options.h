/*
 * ttbench_options.h - ttbench's command line.
 *
 * Provides: struct bench_options, bench_options_parse().
 * Used by:  ttbench (main) fills it; everything else of ttbench reads it.
 * Threads:  read-only after start.
 */
#ifndef TOOLS_TTBENCH_OPTIONS_H
#define TOOLS_TTBENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/ttbench_keys.h"
#include "tools/ttbench_value.h"
#include "tools/ttbench_wire.h"

enum {
    BENCH_PIDS_MAX = 16,
    BENCH_THREADS_MAX = 64,
    BENCH_CONNECTIONS_MAX = 1000000,
    BENCH_PIPELINE_MAX = 4096,
};

struct bench_options {
    const struct wire *wire;
    const char *host;
    const char *port;
    const char *unix_path; /* NULL: TCP */
    unsigned connections;
    unsigned pipeline; /* requests in flight on a connection, at most */
    unsigned threads;

    double duration_s;
    double warmup_s;
    uint64_t requests; /* 0: until duration_s is over */
    double rate;       /* requests per second in all; 0: closed loop */
    double timeout_s;  /* a connection without a reply for so long has failed */

    struct key_space keys;
    enum key_distribution distribution;
    double zipf_exponent;
    struct value_sizes sizes;
    unsigned read_percent;
    bool flags_from_key;
    uint32_t flags;

    bool fill;
    bool fill_only;
    const char *fill_dir; /* NULL: none */
    bool own_keys;
    bool allow_misses;

    pid_t pids[BENCH_PIDS_MAX];
    unsigned pid_count;
    bool json;
    uint64_t seed;
};

/* Fills *out from the command line. 0: go on. 1: --help or --version was answered. -EINVAL: a
 * message that names the option and what was expected went to stderr. */
int bench_options_parse(int argc, char **argv, struct bench_options *out);

#endif
