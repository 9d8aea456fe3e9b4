/*
 * scan_long.h - the long keys of the index in bytewise order.
 *
 * Provides: struct scan_long: a walk over the keys of more than INDEX_PREFIX_MAX bytes, and what it
 *           has read, for the pages to come.
 * Used by:  scan.c; listing.c keeps them.
 * Threads:  one at a time.
 *
 * The index has only the beginning of a long key and its hash; the whole key stands in the record.
 * Keys with the same beginning, a run, lie in no order. So a run's records are read, and the keys
 * sorted, once for all pages that it fills. If a run's keys are more than the memory allows, those
 * are kept that come first, and the run is read again for the next as many: `memory` bytes of keys
 * a time. When the index has changed, its rows are looked at again, but only records of keys that
 * are not known yet are read.
 */
#ifndef LOGSTORE_SCAN_LONG_H
#define LOGSTORE_SCAN_LONG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/slice.h"
#include "store/logstore/entry.h"
#include "store/logstore/scan_span.h"

struct scan;
struct scan_long;

/* `memory`: for the keys of a run; one key is kept in any case. NULL when memory is short. */
struct scan_long *scan_long_new(size_t memory);
void scan_long_free(struct scan_long *l);

/* Bytes allocated for keys. */
size_t scan_long_bytes(const struct scan_long *l);

/* True: it holds keys of the run to which this one belongs. */
bool scan_long_knows(const struct scan_long *l, struct slice key);

/* Begins a page. `scan` and `span` stay until its end. 0 or -ENOMEM. */
int scan_long_begin(struct scan_long *l, const struct scan *scan, const struct scan_span *span);

/* The next live key of the index and its entry; the key's memory lasts until the next call. 1; 0:
 * that was all; -errno. */
int scan_long_next(struct scan_long *l, struct slice *key, struct entry *e);

#endif
