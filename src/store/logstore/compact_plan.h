/*
 * compact_plan.h - which segments to compact next: pure arithmetic over figures.
 *
 * Provides: compact_plan().
 * Used by:  compact.c.
 * Threads:  pure.
 *
 * A segment holds live records, tombstones (the newest state of a key that is gone) and dead bytes.
 * Compacting a run of neighbours drops the dead bytes. Tombstones go only when nothing older of
 * their keys can be left before them: when every segment before the run has no dead bytes, or was
 * compacted when the tombstone was known (clean_seq). What cannot be seen from the figures yet,
 * because it lies above the last checkpoint, a checkpoint shows.
 *
 * Planned are, in this order: what frees much for little copying while the closed segments hold more
 * than the goal allows; the merging of small neighbours while there are too many files; the cleaning
 * of the oldest segments when nothing but tombstones that they pin keeps the goal from being
 * reached. Every step frees bytes, removes a file or cleans a segment, so that planning ends.
 */
#ifndef LOGSTORE_COMPACT_PLAN_H
#define LOGSTORE_COMPACT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plan_segment {
    uint64_t bytes;           /* of records, dead or not: the file without its header */
    uint64_t live_bytes;      /* of those that count as live, as of the last checkpoint */
    uint64_t tombstone_bytes; /* of those that are the newest state of a key that is gone */
    uint64_t last_seq;        /* no record in it has a higher one */
    uint64_t clean_seq;       /* no record in it is superseded by one up to there */
    bool settled;             /* closed, and wholly below the last checkpoint */
    bool kept;                /* must stay as it is: damaged, or in use otherwise */
};

struct plan_input {
    const struct plan_segment *segments; /* in log order; the last one is the active one */
    size_t count;
    uint64_t segment_bytes; /* of a full segment */
    uint64_t header_bytes;  /* of a segment */
    uint64_t above_bytes;   /* of records above the checkpoint */
    /* All that is live in all segments, also above the checkpoint, as well as it is known. */
    uint64_t live_bytes;
    uint64_t room_bytes;   /* a step may write so many */
    unsigned live_percent; /* goal: of the closed segments' bytes so much is to be live, 1..99 */
};

enum plan_step {
    PLAN_NOTHING,
    PLAN_COMPACT,    /* `count` segments from `first` on */
    PLAN_CHECKPOINT, /* there is something to free, but a checkpoint has to show it */
};

struct plan {
    enum plan_step step;
    size_t first;
    size_t count;
    uint64_t write_bytes; /* records that will be copied, at most */
    uint64_t debt_bytes;  /* closed bytes above the goal, whatever the step */
};

struct plan compact_plan(const struct plan_input *in);

#endif
