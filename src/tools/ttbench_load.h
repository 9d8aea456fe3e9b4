/*
 * ttbench_load.h - threads that put load on the server, phase by phase.
 *
 * Provides: load_run(): connect, fill, warm up, measure, wait for the last replies.
 * Used by:  ttbench (main).
 * Threads:  called once from the main thread; starts and joins the others.
 */
#ifndef TOOLS_TTBENCH_LOAD_H
#define TOOLS_TTBENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/ttbench_conn.h"
#include "tools/ttbench_options.h"

struct load_result {
    struct bench_stats stats; /* latencies: also of what was under way when the time was over */
    uint64_t completed;       /* requests answered within the measurement */
    uint64_t
        overdue; /* open loop: due in the measurement, but every connection's window was full */
    double seconds;
    bool has_server_cpu;
    uint64_t server_cpu_ns; /* within the measurement */
    uint64_t client_cpu_ns;
    uint64_t filled; /* keys stored by --fill */
    double fill_seconds;
};

/* 0, or -errno when the load could not be started (a message was printed). Failures of requests are
 * in out->stats. */
int load_run(const struct bench_options *opts, struct load_result *out);

#endif
