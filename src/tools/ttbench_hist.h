/*
 * ttbench_hist.h - a histogram of latencies with bounded relative error.
 *
 * Provides: struct hist, hist_add(), hist_merge(), hist_quantile(), hist_mean().
 * Used by:  ttbench (one histogram per thread and kind of request, merged for the report).
 * Threads:  belongs to its owner.
 *
 * Log-linear buckets: values below 256 are kept exactly, above that every power of two is cut into
 * 128 equal buckets, so a quantile is at most 1/128 (0.8 %) above the true value. The size does not
 * depend on the number of values. Values of 2^40 and more share the last bucket; the maximum is
 * kept exactly.
 */
#ifndef TOOLS_TTBENCH_HIST_H
#define TOOLS_TTBENCH_HIST_H

#include <stdint.h>

enum {
    HIST_SUB_BITS = 7,    /* 128 buckets for each power of two */
    HIST_VALUE_BITS = 40, /* in microseconds: 12 days */
    HIST_BUCKETS = (HIST_VALUE_BITS - HIST_SUB_BITS + 1) << HIST_SUB_BITS,
};

/* All zero bytes is an empty histogram. */
struct hist {
    uint64_t count;
    uint64_t sum;
    uint64_t max;
    uint64_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t value);

/* Adds all values of `from` to `into`. */
void hist_merge(struct hist *into, const struct hist *from);

/* The smallest value that at least the share q (0 to 1) of the values do not exceed, rounded up to
 * its bucket's upper end but never above the maximum. 0 for an empty histogram. */
uint64_t hist_quantile(const struct hist *h, double q);

/* 0 for an empty histogram. */
double hist_mean(const struct hist *h);

#endif
