/*
 * compact_pace.c - how fast compaction may copy. See compact_pace.h.
 */
#include "store/logstore/compact_pace.h"

#include <time.h>

#include "base/clock.h"
#include "store/logstore/logstore.h"

#define RATE_MIN (8u * 1024 * 1024)
#define RATE_MAX (256u * 1024 * 1024)
#define RATE_FIRST (64u * 1024 * 1024)
/* Between two looks at the syncs while copying. */
#define LOOK_US 50000
/* Syncs may take so many times as long as without compaction, and so much longer. */
#define SLOWER_TIMES 2
#define SLOWER_US 300
#define NAP_US 10000
/* Time that was not used is not made up for. */
#define LATE_US 20000

void compact_pace_set_urgent(struct compact_pace *p, bool urgent)
{
    p->urgent = urgent;
}

/* The mean time of the syncs since the last look; 0: there was none. *wrote: something was
 * appended. */
static int64_t look(struct compact_pace *p, const struct logstore *ls, bool *wrote)
{
    uint64_t syncs = atomic_load(&ls->syncs);
    uint64_t sync_us = atomic_load(&ls->sync_us);
    uint64_t appended = atomic_load(&ls->appended_bytes);
    uint64_t count = syncs - p->syncs;
    int64_t mean = count == 0 ? 0 : (int64_t)((sync_us - p->sync_us) / count);

    *wrote = appended != p->appended;
    p->syncs = syncs;
    p->sync_us = sync_us;
    p->appended = appended;
    p->looked_us = clock_mono_us();
    return mean;
}

void compact_pace_begin_quiet(struct compact_pace *p, const struct logstore *ls)
{
    bool wrote;

    (void)look(p, ls, &wrote);
}

void compact_pace_end_quiet(struct compact_pace *p, const struct logstore *ls)
{
    bool wrote;
    int64_t mean = look(p, ls, &wrote);

    if (mean == 0)
        return;
    p->quiet_sync_us =
        p->quiet_sync_us == 0 ? mean : p->quiet_sync_us + (mean - p->quiet_sync_us) / 4;
}

static void adapt(struct compact_pace *p, const struct logstore *ls)
{
    bool wrote;
    int64_t mean = look(p, ls, &wrote);

    if (p->rate == 0)
        p->rate = RATE_FIRST;
    if (!wrote) {
        p->next_us = 0; /* nobody is held up */
        p->rate = RATE_MAX;
    } else if (p->quiet_sync_us != 0 && mean > p->quiet_sync_us * SLOWER_TIMES + SLOWER_US) {
        p->rate = p->rate * 3 / 4 > RATE_MIN ? p->rate * 3 / 4 : RATE_MIN;
    } else {
        p->rate = p->rate * 5 / 4 < RATE_MAX ? p->rate * 5 / 4 : RATE_MAX;
    }
}

void compact_pace_wait(struct compact_pace *p, const struct logstore *ls, uint64_t bytes,
                       const _Atomic bool *stop)
{
    int64_t now = clock_mono_us();

    if (now - p->looked_us >= LOOK_US)
        adapt(p, ls);
    if (p->urgent || p->rate == 0 || atomic_load(&ls->appended_bytes) == p->appended)
        return;
    if (p->next_us < now - LATE_US)
        p->next_us = now - LATE_US;
    p->next_us += (int64_t)(bytes * 1000000 / p->rate);
    while (now < p->next_us && !atomic_load(stop)) {
        int64_t left = p->next_us - now;
        struct timespec nap = {.tv_nsec = (left < NAP_US ? left : NAP_US) * 1000};

        (void)nanosleep(&nap, NULL);
        now = clock_mono_us();
    }
}
