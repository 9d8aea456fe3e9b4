/*
 * delta.h - the index of everything that is not yet in LMDB: one generation of an in-memory hash
 * table.
 *
 * Provides: struct delta: put, undo, find, walk. Its keys in order: delta_view.h.
 * Used by:  writer (puts), readers (find), checkpoint (sorted), scans.
 * Threads:  one writer; readers anywhere, lock-free. Its owner gives up its reference after a grace
 *           period; who needs it for longer than moments takes one of its own.
 *
 * Open addressing in 64 shards that grow one at a time (load <= 2/3); a reader sees an old or a new
 * table of a shard, both complete. Nodes are immutable once published and live in chunks that are
 * freed with the generation. A node keeps a link to the node of the same key that it replaced: a
 * reader that may only see records up to a sequence number (what is not synced yet is invisible)
 * follows it.
 */
#ifndef LOGSTORE_DELTA_H
#define LOGSTORE_DELTA_H

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "store/logstore/entry.h"

struct delta;

struct delta_item {
    struct slice key;
    const struct entry *entry;
    uint64_t seq; /* of the newest record that made this entry */
};

/* `expected` keys: presizes the tables (replay). NULL when memory is short. */
struct delta *delta_new(size_t expected);
/* One more reference. The caller has one, or is inside grace. */
void delta_ref(struct delta *d);
/* Gives up a reference (delta_new() made the first); frees the generation with the last one. */
void delta_free(struct delta *d);

/* Writer only. The newest state of the key from record `seq` on. 0 or -ENOMEM (then nothing
 * changed). `hash` is hash_slice(key). */
int delta_put(struct delta *d, uint64_t hash, struct slice key, const struct entry *e,
              uint64_t seq);

/* Writer only: takes back the newest delta_put() of this key (an append that failed); several are
 * taken back newest first. Readers that were not allowed to see it never do. */
void delta_undo(struct delta *d, uint64_t hash, struct slice key);

/* Begin to bring what delta_find() will look at into the processor's cache: the slot, and some time
 * later, when it has come, the node. */
void delta_prefetch_slot(const struct delta *d, uint64_t hash);
void delta_prefetch_node(const struct delta *d, uint64_t hash);

/* The newest entry of the key with seq <= visible_seq. False: none in this generation. *seq may be
 * NULL. */
bool delta_find(const struct delta *d, uint64_t hash, struct slice key, uint64_t visible_seq,
                struct entry *out, uint64_t *seq);

/* Distinct keys, and bytes allocated, as of now. Any thread. */
size_t delta_count(const struct delta *d);
size_t delta_bytes(const struct delta *d);

/* The puts that were made up to now: grows with each. Any thread. */
uint64_t delta_mark(const struct delta *d);

/* Calls each() for every key's newest entry with seq <= visible_seq, in no order; while the writer
 * goes on, keys put meanwhile may or may not be seen. */
void delta_walk(const struct delta *d, uint64_t visible_seq,
                void (*each)(const struct delta_item *item, void *arg), void *arg);

/* All items (newest entries) of a generation that is no longer written, sorted by index key order
 * (index_compare_keys). The array is malloc'd, its slices point into the generation.
 * 0 or -ENOMEM. */
int delta_sorted(const struct delta *d, struct delta_item **items, size_t *count);

#endif
