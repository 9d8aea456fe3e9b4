/*
 * random.h - random numbers for tests that can be repeated.
 *
 * Provides: struct random, random_seeded() random_u64() random_below().
 * Used by:  random tests. The seed is printed, and taken back from the environment: TEST_SEED=n.
 * Threads:  a struct belongs to one thread.
 */
#ifndef TESTS_RANDOM_H
#define TESTS_RANDOM_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct random {
    uint64_t state;
};

/* With the seed of TEST_SEED, or a new one. */
static inline struct random random_seeded(void)
{
    const char *text = getenv("TEST_SEED");
    struct timespec now;
    uint64_t seed;

    clock_gettime(CLOCK_REALTIME, &now);
    seed = (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec;
    if (text != NULL)
        seed = strtoull(text, NULL, 10);
    fprintf(stderr, "TEST_SEED=%llu\n", (unsigned long long)seed);
    return (struct random){seed};
}

/* SplitMix64: a counter, and a mix of its bits. */
static inline uint64_t random_u64(struct random *r)
{
    uint64_t x = r->state += 0x9E3779B97F4A7C15u;

    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* 0 to bound - 1; a bound of 0 is 1. */
static inline uint64_t random_below(struct random *r, uint64_t bound)
{
    return bound > 1 ? random_u64(r) % bound : 0;
}

#endif
