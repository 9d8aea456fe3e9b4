/*
 * listing.h - scans of an open store: what is pinned, which readers they have, what is kept between
 * pages.
 *
 * Used by:  logstore.c (start, end, the engine's call, figures), background.c (what is not used any
 *           more).
 * Threads:  as each says.
 */
#ifndef LOGSTORE_LISTING_H
#define LOGSTORE_LISTING_H

#include <stddef.h>

#include "store/store.h"

/* Scans at a time; further ones wait. Each reads the index with a reader of its own. */
#define LISTING_READERS 4

struct buf;
struct entry;
struct logstore;
struct listing;

/* NULL when memory is short. */
struct listing *listing_new(struct logstore *ls);
/* When no scan runs any more, before the index is closed. NULL is allowed. */
void listing_free(struct listing *l);

/* The engine's scan: store_scan() of store.h. */
int listing_scan(struct store *store, const struct store_range *range, unsigned limit,
                 bool (*each)(const struct store_scan_item *item, void *arg), void *arg);

/* Reads the key of the record that an entry names, into `out`. May wait for the disk. 0; -ENOENT: the
 * segment has gone, and the record has another place by now; other -errno, logged. */
int listing_full_key(struct logstore *ls, const struct entry *e, struct buf *out);

/* Now and then, any thread outside grace: frees what is kept for the next page when none has come
 * for a while. */
void listing_tick(struct logstore *ls);

struct listing_figures {
    size_t delta_keys; /* of the active generation */
    size_t delta_bytes;
    size_t kept_bytes; /* for scans, of the delta's order and of long keys */
};

/* Any thread outside grace. */
void listing_figures(struct logstore *ls, struct listing_figures *out);

#endif
