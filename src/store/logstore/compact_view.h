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

/* `damaged`: numbers of segments that are to stay as they are. 0 or -errno; to be freed after both. */
int compact_view_take(struct logstore *ls, const uint32_t *damaged, size_t damaged_count,
                      struct compact_view *v);
void compact_view_free(struct compact_view *v);

/* Up to which seq the newest states of gone keys may go in a run that begins at segment `first`. */
uint64_t compact_view_removable(const struct compact_view *v, size_t first);

#endif
