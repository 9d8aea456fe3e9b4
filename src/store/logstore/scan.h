/*
 * scan.h - one page of keys in bytewise order, from the delta's generations and the index together.
 *
 * Used by:  logstore's store_scan_keys().
 * Threads:  any that may wait for the disk. The caller keeps the generations from being freed.
 */
#ifndef LOGSTORE_SCAN_H
#define LOGSTORE_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "store/logstore/delta.h"
#include "store/logstore/index.h"

/* What is scanned. Take `active` before `frozen`, and both before the call: the index is looked at
 * last, so that a key that a checkpoint moves meanwhile is seen in one place or the other. Both may
 * be the same generation. */
struct scan {
    const struct delta *active; /* newest states; NULL: none */
    const struct delta *frozen; /* next older ones; NULL: none */
    uint64_t visible_seq;       /* of the delta, nothing newer */
    struct index_reader *reader;

    /* True: clients see the record of this entry. */
    bool (*is_live)(void *ctx, const struct entry *e);

    /* Writes the key of the entry's record to the empty buffer (of keys over INDEX_PREFIX_MAX bytes
     * the index knows only a part). 0; -ENOENT: the record is gone; -errno ends the scan. */
    int (*full_key)(void *ctx, const struct entry *e, struct buf *out);
    void *ctx;
};

/* Calls each() for the `limit` smallest live keys that start with `prefix` and lie behind `after`
 * (have_after false: from the start), in order. Memory: `limit` keys. 0: that was all; 1: there are
 * more; -errno: each() was not called.
 *
 * A page costs a walk over all of the delta. Keys of more than INDEX_PREFIX_MAX bytes that agree in
 * so many are all read for every page that they lie in. */
int scan_page(const struct scan *scan, struct slice prefix, bool have_after, struct slice after,
              unsigned limit, void (*each)(struct slice key, void *arg), void *arg);

#endif
