/*
 * ttbench_hist.c - a histogram of latencies with bounded relative error (ttbench_hist.h).
 */
#include "tools/ttbench_hist.h"

#include <stddef.h>

#define HIST_SUB_COUNT ((uint64_t)1 << HIST_SUB_BITS)
#define HIST_VALUE_LIMIT ((uint64_t)1 << HIST_VALUE_BITS)

/* Buckets are numbered through: [0, 256) hold one value each; from there on every 128 buckets are
 * one power of two further, and the upper bits of the value count within them. */
static size_t hist_index(uint64_t value)
{
    unsigned shift;

    if (value >= HIST_VALUE_LIMIT)
        return HIST_BUCKETS - 1;
    if (value < 2 * HIST_SUB_COUNT)
        return (size_t)value;
    shift = 63u - (unsigned)__builtin_clzll(value) - HIST_SUB_BITS;
    return (size_t)((shift << HIST_SUB_BITS) + (value >> shift));
}

/* The largest value that falls into the bucket. */
static uint64_t hist_upper(size_t index)
{
    unsigned shift;
    uint64_t top;

    if (index < 2 * HIST_SUB_COUNT)
        return index;
    shift = (unsigned)(index >> HIST_SUB_BITS) - 1;
    top = (index & (HIST_SUB_COUNT - 1)) + HIST_SUB_COUNT;
    return ((top + 1) << shift) - 1;
}

void hist_add(struct hist *h, uint64_t value)
{
    h->bucket[hist_index(value)]++;
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
    into->count += from->count;
    into->sum += from->sum;
    if (from->max > into->max)
        into->max = from->max;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
    double exact = q * (double)h->count;
    uint64_t rank = (uint64_t)exact;
    uint64_t seen = 0;

    if ((double)rank < exact || rank == 0)
        rank++;
    for (size_t i = 0; i + 1 < HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank)
            return hist_upper(i) < h->max ? hist_upper(i) : h->max;
    }
    return h->max;
}

double hist_mean(const struct hist *h)
{
    return h->count == 0 ? 0.0 : (double)h->sum / (double)h->count;
}
