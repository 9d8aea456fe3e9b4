/*
 * clock.c - time, replaceable by tests.
 *
 * Provides: clock_wall_ms() clock_mono_ms() clock_mono_us() clock_mono_after() clock_replace().
 * Threads:  any; clock_replace() only before threads start, so `source` needs no lock.
 */
#include "base/clock.h"

#include <assert.h>
#include <stddef.h>
#include <time.h>

static const struct clock_source *source; /* NULL: the system's clocks */

static int64_t system_us(clockid_t id)
{
    struct timespec ts;
    int rc = clock_gettime(id, &ts);

    assert(rc == 0); /* fails only for a clock that does not exist */
    (void)rc;
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_wall_ms(void)
{
    return source != NULL ? source->wall_ms(source->ctx) : system_us(CLOCK_REALTIME) / 1000;
}

int64_t clock_mono_ms(void)
{
    return source != NULL ? source->mono_ms(source->ctx) : clock_mono_us() / 1000;
}

int64_t clock_mono_us(void)
{
    if (source != NULL)
        return source->mono_ms(source->ctx) * 1000;
    /* One ms more than the kernel says: callers may use 0 for "no time limit set". */
    return system_us(CLOCK_MONOTONIC) + 1000;
}

struct timespec clock_mono_after(int64_t ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

void clock_replace(const struct clock_source *replacement)
{
    source = replacement;
}
