/*
 * clock.h - time, replaceable by tests.
 *
 * Provides: clock_wall_ms() for what is stored and shown, clock_mono_ms() for time limits.
 * Used by:  all code that needs the time; nobody calls the system clock directly.
 * Threads:  any. clock_replace() only before threads start.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

struct clock_source {
    int64_t (*wall_ms)(void *ctx); /* Unix time, milliseconds */
    int64_t (*mono_ms)(void *ctx); /* never goes back */
    void *ctx;
};

/* Unix time in milliseconds. */
int64_t clock_wall_ms(void);

/* Monotonic milliseconds, from an arbitrary start above zero. */
int64_t clock_mono_ms(void);

/* Monotonic microseconds, for measurements. */
int64_t clock_mono_us(void);

/* The moment in so many milliseconds, for waits that end by the system's CLOCK_MONOTONIC: threads
 * sleep by that one whatever source is installed. */
struct timespec clock_mono_after(int64_t ms);

/* Installs another source (tests); NULL brings the system's clocks back. The source must stay
 * alive. */
void clock_replace(const struct clock_source *replacement);

#endif
