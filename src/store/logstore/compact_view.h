/*
 * compact_view.h - what compaction knows of the segments at one moment.
 *
 * Provides: struct compact_view.
 * Used by:  compact.c.
 * Threads:  compaction's own.
 */
#ifndef LOGSTORE_COMPACT_VIEW_H
#define LOGSTORE_COMPACT_VIEW_H

#include "store/logstore/compact_plan.h"
#include "store/logstore/logstore.h"

struct compact_view {
    struct segment **list; /* in log order, with references; the last one is the active one */
    size_t count;
    struct plan_segment *figures; /* of each */
    struct index_meta meta;       /* of the last checkpoint; all zero: there was none */
    struct vectors *vectors;      /* the same moment's */
    uint64_t above;               /* bytes of records above it */
    uint64_t live_bytes;          /* of all segments, as well as it can be told */
    char *room;                   /* of the meta */
};

/* A segment that is to stay as it is. */
struct compact_rest {
    uint32_t number;
    int64_t until_ms; /* monotonic */
};

/* 0 or -errno; to be freed after both. */
int compact_view_take(struct logstore *ls, const struct compact_rest *rests, size_t rest_count,
                      struct compact_view *v);
void compact_view_free(struct compact_view *v);

/* Up to which seq the newest states of gone keys may go in a run that begins at segment `first`. */
uint64_t compact_view_removable(const struct compact_view *v, size_t first);

#endif
