/*
 * delta_view.h - the keys of a generation in bytewise order, for scans.
 *
 * Provides: struct delta_view (a picture of the keys), struct delta_cursor (a walk over it).
 * Used by:  scans.
 * Threads:  any that may wait for a sort. The writer goes on meanwhile and takes no part in it.
 *
 * A generation keeps its keys in sorted runs, each at least twice as long as the next. What was put
 * since the last view becomes one more run, and is merged with those that are not longer: so a view
 * costs about what has come since the last one, and no key is sorted again for every page. The runs
 * take 8 bytes a key, at most twice over; delta_view_forget() or the end of the generation frees
 * them.
 */
#ifndef LOGSTORE_DELTA_VIEW_H
#define LOGSTORE_DELTA_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

/* Runs, each at least twice as long as the next, of less than 2^32 keys. */
#define DELTA_RUNS_MAX 33

struct delta;
struct delta_run;

struct delta_view {
    struct delta *delta;
    unsigned count;
    struct delta_run *runs[DELTA_RUNS_MAX];
};

/* The keys of all puts that were made before the call, also of those that were taken back: what
 * they are, if anything, delta_find() tells. The caller keeps the generation (delta_ref()).
 * 0 or -ENOMEM. */
int delta_view_open(struct delta *d, struct delta_view *out);
void delta_view_close(struct delta_view *view);

/* Frees the runs that no open view holds; the next view sorts again. */
void delta_view_forget(struct delta *d);

/* Memory of the runs. */
size_t delta_view_bytes(struct delta *d);

struct delta_cursor {
    const struct delta_view *view;
    bool reverse;
    uint32_t left[DELTA_RUNS_MAX]; /* keys that come still, of each run */
};

/* From the first key at or behind `start` (NULL: from the first of all); reverse: from the last at
 * or before it, downwards. */
void delta_cursor_begin(struct delta_cursor *c, const struct delta_view *view,
                        const struct slice *start, bool reverse);

/* The next key, which lives as long as the generation. False: that was all. */
bool delta_cursor_next(struct delta_cursor *c, struct slice *key);

#endif
