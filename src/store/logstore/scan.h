/*
 * scan.h - one page of keys in bytewise order, from the delta's generations and the index together.
 *
 * Used by:  listing.c.
 * Threads:  any that may wait for the disk. The caller holds references to the generations, and is
 *           outside grace.
 *
 * A page costs about its own keys: the delta's come from sorted views (delta_view.h), those of the
 * index from rows that are copied, at most SCAN_ROWS of them in one read transaction. No
 * transaction is open while each() runs or a record is read.
 */
#ifndef LOGSTORE_SCAN_H
#define LOGSTORE_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "store/logstore/delta.h"
#include "store/logstore/index.h"
#include "store/logstore/scan_long.h"
#include "store/store.h"

/* Rows that one read transaction looks at, at most. */
#define SCAN_ROWS 1000

/* What is scanned. Take `active` before `frozen`, and both before the call: the index is looked at
 * last, so that a key that a checkpoint moves meanwhile is seen in one place or the other. Both may
 * be the same generation. */
struct scan {
    struct delta *active; /* newest states; NULL: none */
    struct delta *frozen; /* next older ones; NULL: none */
    uint64_t visible_seq; /* of the delta, nothing newer */
    struct index_reader *reader;
    struct scan_long *longs; /* kept from page to page; one page at a time */

    /* True: clients see the record of this entry. */
    bool (*is_live)(void *ctx, const struct entry *e);

    /* Writes the key of the entry's record to the empty buffer (of keys over INDEX_PREFIX_MAX bytes
     * the index knows only a part). 0; -ENOENT: the segment is gone, so the index has a newer
     * place; -errno ends the scan. */
    int (*full_key)(void *ctx, const struct entry *e, struct buf *out);
    void *ctx;
};

/* As store_scan() of store.h, without -EAGAIN. */
int scan_page(const struct scan *scan, const struct store_range *range, unsigned limit,
              bool (*each)(const struct store_scan_item *item, void *arg), void *arg);

#endif
