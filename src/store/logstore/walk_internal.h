/*
 * walk_internal.h - what the files of walk.h share.
 *
 * Used by:  walk.c, walk_read.c.
 * Threads:  one.
 */
#ifndef LOGSTORE_WALK_INTERNAL_H
#define LOGSTORE_WALK_INTERNAL_H

#include <limits.h>

#include "store/logstore/walk.h"

/* True if walk_next() goes through this segment. */
static inline bool walk_wants(const struct walk *w, const struct walk_segment *s)
{
    return !s->ignored && (!s->superseded || w->options.superseded);
}

/* True if every closed segment was synced before the next one began. */
static inline bool walk_syncs_at_once(const struct walk *w)
{
    return !w->has_identity || w->id.sync == STORE_SYNC_ALWAYS;
}

/* True if a server has the store open. Never while the walk itself keeps it out. */
bool walk_is_in_use(const struct walk *w);

/* Looks for a good record head with a seq from min_seq to max_seq in the bytes [from, end) of a
 * segment. 1: it stands at *at; 0: there is none; -errno. */
int walk_search(const struct walk *w, const struct walk_segment *s, uint64_t from, uint64_t end,
                uint64_t min_seq, uint64_t max_seq, uint64_t *at, struct record *r);

#endif
