/*
 * compact_pace.h - how fast compaction may copy: clients come first, as long as the debt allows it.
 *
 * Provides: struct compact_pace, compact_pace_*().
 * Used by:  compact.c.
 * Threads:  compaction's own.
 *
 * While nothing is written there is no limit. Else the rate falls when syncs take much longer than
 * they do without compaction, and rises again when they do not. With a large debt, or on a full
 * disk, the limit is off: then the space is what clients need first.
 */
#ifndef LOGSTORE_COMPACT_PACE_H
#define LOGSTORE_COMPACT_PACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct logstore;

struct compact_pace {
    bool urgent;
    uint64_t rate;         /* bytes a second, read and written */
    int64_t next_us;       /* monotonic: from then on the next bytes may be copied */
    int64_t quiet_sync_us; /* how long a sync takes without compaction, smoothed; 0: not known */
    /* At the last look. */
    uint64_t syncs;
    uint64_t sync_us;
    uint64_t appended;
    int64_t looked_us;
};

/* True: no limit for now. */
void compact_pace_set_urgent(struct compact_pace *p, bool urgent);

/* Around a time in which compaction does nothing: learns how long syncs take. */
void compact_pace_begin_quiet(struct compact_pace *p, const struct logstore *ls);
void compact_pace_end_quiet(struct compact_pace *p, const struct logstore *ls);

/* So many bytes were copied: waits until it may go on, or `stop` is set. */
void compact_pace_wait(struct compact_pace *p, const struct logstore *ls, uint64_t bytes,
                       const _Atomic bool *stop);

#endif
