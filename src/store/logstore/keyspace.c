/*
 * keyspace.c - what a record does to the state: entries, counts, flushes, the hybrid clock.
 *
 * Provides: keyspace_*() of logstore.h.
 * Used by:  writer and recovery (apply), readers (find, is_live).
 * Threads:  find and is_live on any thread inside grace; everything else on the writer's, or in
 *           recovery before it runs.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/hash.h"
#include "store/logstore/logstore.h"

/* ---- time ---- */

int64_t keyspace_now_ms(const struct logstore *ls)
{
    int64_t wall = clock_wall_ms();
    int64_t hybrid = (int64_t)(atomic_load_explicit(&ls->clock, memory_order_relaxed) >> 16);

    return wall > hybrid ? wall : hybrid;
}

struct stamp keyspace_stamp(struct logstore *ls)
{
    uint64_t last = atomic_load_explicit(&ls->clock, memory_order_relaxed);
    uint64_t wall = (uint64_t)clock_wall_ms() << 16;
    uint64_t version = wall > last + 1 ? wall : last + 1;

    atomic_store_explicit(&ls->clock, version, memory_order_relaxed);
    keyspace_fold_flush(ls, (int64_t)(version >> 16));
    return (struct stamp){version, ls->id.epoch, ls->id.node};
}

/* ---- flush ---- */

static uint64_t pack_writer(struct stamp s)
{
    return (uint64_t)s.node << 32 | s.epoch;
}

static struct stamp unpack(uint64_t version, uint64_t writer)
{
    return (struct stamp){version, (uint32_t)writer, (uint16_t)(writer >> 32)};
}

/* A consistent copy of the flush registers while the writer may change them. */
static void read_flush(const struct logstore *ls, struct stamp *flush, struct stamp *pending,
                       int64_t *pending_ms)
{
    for (;;) {
        uint32_t before = atomic_load_explicit(&ls->flush_sequence, memory_order_acquire);

        *flush = unpack(atomic_load_explicit(&ls->flush_version, memory_order_relaxed),
                        atomic_load_explicit(&ls->flush_writer, memory_order_relaxed));
        *pending = unpack(atomic_load_explicit(&ls->pending_version, memory_order_relaxed),
                          atomic_load_explicit(&ls->pending_writer, memory_order_relaxed));
        *pending_ms = atomic_load_explicit(&ls->pending_ms, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (before % 2 == 0 &&
            atomic_load_explicit(&ls->flush_sequence, memory_order_relaxed) == before)
            return;
    }
}

struct stamp keyspace_flush(const struct logstore *ls)
{
    struct stamp flush;
    struct stamp pending;
    int64_t pending_ms;

    read_flush(ls, &flush, &pending, &pending_ms);
    return flush;
}

struct stamp keyspace_flush_pending(const struct logstore *ls, int64_t *at_ms)
{
    struct stamp flush;
    struct stamp pending;

    read_flush(ls, &flush, &pending, at_ms);
    return pending;
}

void keyspace_set_flush(struct logstore *ls, struct stamp flush, struct stamp pending,
                        int64_t pending_ms)
{
    atomic_fetch_add_explicit(&ls->flush_sequence, 1, memory_order_acq_rel);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&ls->flush_version, flush.version, memory_order_relaxed);
    atomic_store_explicit(&ls->flush_writer, pack_writer(flush), memory_order_relaxed);
    atomic_store_explicit(&ls->pending_version, pending.version, memory_order_relaxed);
    atomic_store_explicit(&ls->pending_writer, pack_writer(pending), memory_order_relaxed);
    atomic_store_explicit(&ls->pending_ms, pending_ms, memory_order_relaxed);
    atomic_fetch_add_explicit(&ls->flush_sequence, 1, memory_order_release);
}

/* What a delayed flush becomes when its moment has come: the same on every node. */
static struct stamp folded(int64_t moment_ms)
{
    return (struct stamp){(uint64_t)moment_ms << 16, 0, 0};
}

bool keyspace_is_flushed(const struct logstore *ls, struct stamp base, int64_t now_ms)
{
    uint64_t version = atomic_load_explicit(&ls->flush_version, memory_order_relaxed);
    int64_t pending_ms = atomic_load_explicit(&ls->pending_ms, memory_order_relaxed);

    /* Nearly always: no flush is pending, and the record is younger than the last one. */
    if (pending_ms == 0 && base.version > version)
        return false;
    if (stamp_compare(base, keyspace_flush(ls)) <= 0)
        return true;
    return pending_ms != 0 && pending_ms <= now_ms && stamp_compare(base, folded(pending_ms)) <= 0;
}

/* A flush comes into force. Nearly always it is younger than every record, and all that was counted
 * is gone at once. Of one that comes from elsewhere, and is older than some record here, the sweep
 * finds out what it has killed. */
static void flush_now(struct logstore *ls, struct stamp flush, struct stamp pending,
                      int64_t pending_ms)
{
    struct stamp old = keyspace_flush(ls);

    if (stamp_compare(flush, old) <= 0) {
        keyspace_set_flush(ls, old, pending, pending_ms);
        return;
    }
    keyspace_set_flush(ls, flush, pending, pending_ms);
    if (stamp_compare(flush, ls->highest_base) < 0) {
        atomic_store(&ls->flush_behind, true);
        return;
    }
    ls->flush_counted = flush;
    atomic_store(&ls->flush_behind, false);
    atomic_store_explicit(&ls->live_count, 0, memory_order_relaxed);
    ls->flushed_since_checkpoint = true;
}

void keyspace_fold_flush(struct logstore *ls, int64_t now_ms)
{
    int64_t moment_ms;
    struct stamp pending;

    if (atomic_load_explicit(&ls->pending_ms, memory_order_relaxed) == 0)
        return;
    pending = keyspace_flush_pending(ls, &moment_ms);
    if (moment_ms <= now_ms)
        flush_now(ls, folded(moment_ms), pending, 0);
}

/* The newest command decides which delayed flush is pending; one without delay ends an older
 * pending one. */
static void apply_flush(struct logstore *ls, const struct record *r)
{
    int64_t pending_ms;
    struct stamp pending = keyspace_flush_pending(ls, &pending_ms);
    bool newest = stamp_compare(r->base, pending) > 0;

    if (r->expires_ms == 0)
        flush_now(ls, r->base, newest ? r->base : pending, newest ? 0 : pending_ms);
    else if (newest)
        keyspace_set_flush(ls, keyspace_flush(ls), r->base, r->expires_ms);
}

/* Where the record that set them was replayed, these registers say nothing new. */
void keyspace_merge_flush(struct logstore *ls, struct stamp flush, struct stamp pending,
                          int64_t pending_ms)
{
    int64_t present_ms;
    struct stamp present = keyspace_flush_pending(ls, &present_ms);

    /* A delayed one came into force behind the last record. */
    if (present_ms != 0 && stamp_compare(flush, folded(present_ms)) >= 0)
        keyspace_fold_flush(ls, present_ms);
    present = keyspace_flush_pending(ls, &present_ms);
    if (stamp_compare(pending, present) <= 0) {
        pending = present;
        pending_ms = present_ms;
    }
    flush_now(ls, flush, pending, pending_ms);
}

/* ---- keys ---- */

bool keyspace_find_new(struct logstore *ls, uint64_t hash, struct slice key, uint64_t visible,
                       struct entry *out)
{
    /* In this order: what leaves the first is in the second before, what leaves the second is in
     * LMDB before. */
    const struct delta *d = atomic_load_explicit(&ls->active, memory_order_acquire);

    if (d != NULL && delta_find(d, hash, key, visible, out, NULL))
        return true;
    d = atomic_load_explicit(&ls->frozen, memory_order_acquire);
    return d != NULL && delta_find(d, hash, key, visible, out, NULL);
}

int keyspace_find(struct logstore *ls, struct index_reader *reader, uint64_t hash, struct slice key,
                  uint64_t visible, struct entry *out)
{
    return keyspace_find_new(ls, hash, key, visible, out) ? 0 : index_find(reader, key, out);
}

bool keyspace_is_live(const struct logstore *ls, const struct entry *e, int64_t now_ms,
                      bool *expired)
{
    bool late = entry_is_late(e, now_ms);

    if (e->kind == RECORD_DELETE || keyspace_is_flushed(ls, e->base, now_ms))
        return false;
    if (expired != NULL)
        *expired = late;
    return !late;
}

bool keyspace_entry_after(const struct entry *prev, const struct record *r, struct place at,
                          struct entry *out)
{
    if (r->kind == RECORD_TOUCH) {
        if (prev == NULL || prev->kind == RECORD_DELETE || stamp_compare(prev->base, r->base) != 0)
            return false;
        *out = *prev;
        out->expires_ms = r->expires_ms;
        out->has_touch = true;
        out->touch_segment = at.segment;
        out->touch_offset = at.offset;
        out->touch_length = at.length;
        return true;
    }
    *out = (struct entry){
        .segment = at.segment,
        .offset = at.offset,
        .length = at.length,
        .kind = r->cut ? RECORD_DELETE : r->kind,
        .base = r->base,
        .expires_ms = r->expires_ms,
        .cas = record_cas(r),
        .big_file = r->big_file,
        .big_bytes = r->big_bytes,
    };
    return true;
}

/* Counted records are those that are neither deleted nor flushed: an expired one counts until it is
 * swept, and so does what an old flush from elsewhere has killed. */
static bool is_counted(const struct logstore *ls, const struct entry *e)
{
    return e->kind != RECORD_DELETE && stamp_compare(e->base, ls->flush_counted) > 0;
}

static void count_change(struct logstore *ls, const struct entry *prev, const struct record *r)
{
    bool was = prev != NULL && is_counted(ls, prev);
    bool is = r->kind == RECORD_DELETE || r->cut ? false : r->kind == RECORD_TOUCH ? was : true;
    uint64_t count = atomic_load_explicit(&ls->live_count, memory_order_relaxed);

    if (is != was)
        atomic_store_explicit(&ls->live_count, is ? count + 1 : count - 1, memory_order_relaxed);
}

/* The bytes that nothing names any more when the checkpoint has the record. */
static void count_superseded(struct logstore *ls, const struct entry *prev, const struct record *r)
{
    uint64_t bytes = 0;

    if (prev != NULL && r->kind != RECORD_TOUCH)
        bytes = prev->length;
    if (prev != NULL && prev->has_touch)
        bytes += prev->touch_length;
    if (bytes > 0)
        atomic_store_explicit(&ls->superseded_bytes,
                              atomic_load_explicit(&ls->superseded_bytes, memory_order_relaxed) +
                                  bytes,
                              memory_order_relaxed);
}

/* For the sweep, after the put: the first expiry among what is not in the index. */
static void note_expiry(struct logstore *ls, const struct entry *e)
{
    if (e->kind != RECORD_DELETE && e->expires_ms != 0 &&
        e->expires_ms < atomic_load(&ls->first_expiry_ms))
        atomic_store(&ls->first_expiry_ms, e->expires_ms);
}

static void note_base(struct logstore *ls, const struct record *r)
{
    if (r->kind != RECORD_TOUCH && stamp_compare(r->base, ls->highest_base) > 0)
        ls->highest_base = r->base;
}

int keyspace_apply(struct logstore *ls, const struct record *r, struct place at, uint64_t hash,
                   const struct entry *prev)
{
    struct entry entry;
    int rc;

    if (r->kind == RECORD_FLUSH) {
        apply_flush(ls, r);
    } else if (r->kind != RECORD_MARKER && keyspace_entry_after(prev, r, at, &entry)) {
        rc = delta_put(atomic_load_explicit(&ls->active, memory_order_relaxed), hash, r->key,
                       &entry, r->seq);
        if (rc != 0)
            return rc;
        count_change(ls, prev, r);
        count_superseded(ls, prev, r);
        note_expiry(ls, &entry);
        note_base(ls, r);
    }
    if (r->kind != RECORD_MARKER && r->seq >= ls->id.held_from)
        vectors_raise(&ls->vectors, r->logged);
    return 0;
}

void keyspace_begin(struct logstore *ls, const struct index_meta *meta)
{
    atomic_store(&ls->live_count, meta->live_count);
    if (meta->clock > atomic_load(&ls->clock))
        atomic_store(&ls->clock, meta->clock);
    keyspace_set_flush(ls, meta->flush, meta->flush_pending, meta->flush_pending_ms);
    ls->flush_counted = meta->flush_counted;
    atomic_store(&ls->flush_behind, stamp_compare(meta->flush_counted, meta->flush) < 0);
    /* No record up to there has a higher one. */
    ls->highest_base = (struct stamp){meta->clock, UINT32_MAX, UINT16_MAX};
}

void keyspace_flush_is_counted(struct logstore *ls, struct stamp flush)
{
    if (stamp_compare(flush, ls->flush_counted) > 0)
        ls->flush_counted = flush;
    atomic_store(&ls->flush_behind, stamp_compare(ls->flush_counted, keyspace_flush(ls)) < 0);
}

int keyspace_sweep(struct logstore *ls, uint64_t hash, struct slice key, int64_t now_ms)
{
    struct stamp flush = keyspace_flush(ls);
    struct entry e;
    int rc;

    grace_enter(&ls->grace, &ls->writer_grace);
    rc = keyspace_find(ls, ls->writer_reader, hash, key, UINT64_MAX, &e);
    grace_leave(&ls->writer_grace);
    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    /* What a flush has taken at once is not counted, and leaves with the next checkpoint. */
    if (!is_counted(ls, &e) || (!entry_is_late(&e, now_ms) && stamp_compare(e.base, flush) > 0))
        return 0;
    e.kind = RECORD_DELETE;
    rc = delta_put(atomic_load_explicit(&ls->active, memory_order_relaxed), hash, key, &e,
                   ls->log.tail_seq);
    if (rc != 0)
        return rc;
    atomic_fetch_sub_explicit(&ls->live_count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ls->superseded_bytes,
                              (uint64_t)e.length + (e.has_touch ? e.touch_length : 0),
                              memory_order_relaxed);
    if (e.big_bytes > 0)
        big_let_go(ls, e.big_file, e.big_bytes, ls->log.tail_seq);
    return 1;
}

int keyspace_refresh(struct logstore *ls, uint64_t hash, struct slice key)
{
    struct delta *active = atomic_load_explicit(&ls->active, memory_order_relaxed);
    const struct delta *frozen;
    struct entry e;
    bool newer = delta_find(active, hash, key, UINT64_MAX, &e, NULL);
    int rc;

    grace_enter(&ls->grace, &ls->writer_grace);
    frozen = atomic_load_explicit(&ls->frozen, memory_order_acquire);
    if (!newer && frozen != NULL)
        newer = delta_find(frozen, hash, key, UINT64_MAX, &e, NULL);
    rc = newer ? -ENOENT : index_find(ls->writer_reader, key, &e);
    grace_leave(&ls->writer_grace);
    /* A tombstone has no expiry, and its row may go at any time: no copy of its place is made. */
    if (rc == 0 && e.kind == RECORD_DELETE)
        return 0;
    if (rc == 0)
        rc = delta_put(active, hash, key, &e, ls->log.tail_seq);
    if (rc == 0)
        note_expiry(ls, &e);
    return rc == -ENOENT ? 0 : rc;
}
