/*
 * replay.c - applies the records of a segment to the state at a start.
 *
 * Provides: replay_segment().
 * Used by:  recovery. One thread, before all others.
 *
 * Every record is checked: head, body, and that its sequence number is the next one. A rebuild of a
 * long log is settled into LMDB piece by piece, so that memory stays bounded.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/recover.h"

/* Holds the longest record of a segment: the values above STORE_SPOOL_MIN lie elsewhere. */
#define REPLAY_BUFFER (4u * 1024 * 1024)

struct window {
    char *data;
    size_t len;      /* bytes in it */
    uint64_t offset; /* of data[0] in the file */
};

static int fill(struct window *w, struct segment *s, uint64_t offset, uint64_t end)
{
    uint64_t left = end - offset;
    size_t want = left < REPLAY_BUFFER ? (size_t)left : REPLAY_BUFFER;
    ssize_t got = segment_read(s, w->data, want, offset);

    if (got < 0) {
        log_error("cannot read %s: %s", s->path, strerror((int)-got));
        return (int)got;
    }
    w->len = (size_t)got;
    w->offset = offset;
    return 0;
}

/* The hybrid clock stands behind every stamp of the log. */
static void raise_clock(struct logstore *ls, const struct record *r)
{
    uint64_t highest = atomic_load(&ls->clock);

    if (r->base.version > highest)
        highest = r->base.version;
    if (r->logged.version > highest)
        highest = r->logged.version;
    if (r->touch.version > highest)
        highest = r->touch.version;
    for (unsigned i = 0; i < r->slot_count; i++)
        if (r->slots[i].stamp.version > highest)
            highest = r->slots[i].stamp.version;
    atomic_store(&ls->clock, highest);
}

static int apply(struct recovery *rc, const struct record *r, struct place at)
{
    struct logstore *ls = rc->ls;
    uint64_t hash = hash_slice(r->key);
    struct entry prev;
    int found = -ENOENT;

    keyspace_fold_flush(ls, (int64_t)(r->logged.version >> 16));
    raise_clock(ls, r);
    rc->clean = r->kind == RECORD_MARKER && r->value.len > 0 && r->value.ptr[0] == MARKER_CLEAN;
    if (r->kind != RECORD_FLUSH && r->kind != RECORD_MARKER) {
        found = keyspace_find(ls, ls->writer_reader, hash, r->key, UINT64_MAX, &prev);
        if (found != 0 && found != -ENOENT)
            return found;
    }
    if (r->big_bytes > 0 && big_names_add(&rc->big_named, r->big_file, r->big_bytes) != 0)
        return -ENOMEM;
    if (found == 0 && big_is_superseded(&prev, r))
        big_let_go(ls, prev.big_file, prev.big_bytes, r->seq);
    return keyspace_apply(ls, r, at, hash, found == 0 ? &prev : NULL);
}

/* ---- what a segment's header says of all before it ---- */

/* What stood in records that are gone stands in the headers behind them. 0 or -errno. */
static int enter_segment(struct recovery *rc, struct segment *s)
{
    char *room = malloc(SEGMENT_HEADER_MAX);
    struct vectors *v = malloc(sizeof(*v));
    uint64_t next_big_file = rc->ls->vectors.next_big_file;
    struct segment_header h;
    int result = room == NULL || v == NULL ? -ENOMEM : chain_read_header(s, &h, room);

    if (result == 0 && !vectors_decode(h.vectors, v))
        result = 1;
    if (result == 1) {
        log_error("the header of %s cannot be read any more", s->path);
        result = -EUCLEAN;
    }
    if (result == 0) {
        if (h.first_seq < rc->ls->id.held_from)
            v->count = 0;
        vectors_merge(&rc->ls->vectors, v);
        rc->ls->vectors.next_big_file = next_big_file; /* that is the index's */
        keyspace_merge_flush(rc->ls, h.flush, h.flush_pending, h.flush_pending_ms);
    }
    free(v);
    free(room);
    return result;
}

/* ---- records ---- */

/* Settles what has been replayed so far into the index. The log must be on the disk that far first:
 * it may be a killed process' last pages that we have read. */
static int settle(struct recovery *rc, size_t i, uint64_t offset)
{
    struct logstore *ls = rc->ls;
    struct delta *d = atomic_load(&ls->active);
    struct delta *next = delta_new(0);
    struct index_meta meta;
    struct buf vectors = {0};
    int result = next == NULL ? -ENOMEM : 0;

    for (size_t n = rc->replay_from; result == 0 && n <= i; n++)
        result = recover_sync(rc->segments[n], io_fdatasync);
    rc->replay_from = i;

    ls->log.tail = offset;
    ls->log.tail_seq = rc->seq;
    ls->log.active = rc->segments[i];
    if (result == 0)
        result = checkpoint_meta(ls, &meta, &vectors);
    if (result == 0)
        result = checkpoint_write(ls, d, &meta, ls->flushed_since_checkpoint);
    buf_free(&vectors);
    if (result != 0) {
        log_error("cannot write the index of %s: %s", ls->dir, strerror(-result));
        delta_free(next);
        return result;
    }
    ls->flushed_since_checkpoint = false;
    atomic_store(&ls->active, next);
    delta_free(d);
    return 0;
}

static void show_progress(struct recovery *rc, uint64_t bytes)
{
    unsigned before = atomic_load(&rc->ls->progress);
    unsigned percent;

    rc->done_bytes += bytes;
    if (rc->total_bytes == 0)
        return;
    percent = (unsigned)(rc->done_bytes * 100 / rc->total_bytes);
    atomic_store(&rc->ls->progress, percent);
    if (rc->rebuild && percent / 10 != before / 10)
        log_info("rebuilding the index of %s: %u %%", rc->ls->dir, percent);
}

/* Seqs are dense, but for what a compaction has let go. */
static bool is_next(const struct recovery *rc, const struct segment *s, uint64_t seq)
{
    return s->compacted ? seq > rc->seq && seq <= s->last_seq : seq == rc->seq + 1;
}

/* One record at *offset. 0: applied; 1: bad; -errno. */
static int replay_one(struct recovery *rc, struct segment *s, struct window *w, uint64_t *offset,
                      uint64_t end)
{
    struct record r;
    struct place at = {s->number, (uint32_t)*offset, 0};
    size_t used;
    enum record_parse parse = record_decode(
        rc->ls->salt, slice_of(w->data + (*offset - w->offset), w->len - (*offset - w->offset)), &r,
        &used);
    int result;

    if (parse == RECORD_MORE && w->offset + w->len < end && *offset != w->offset) {
        result = fill(w, s, *offset, end);
        if (result != 0)
            return result;
        parse = record_decode(rc->ls->salt, slice_of(w->data, w->len), &r, &used);
    }
    if (parse != RECORD_DONE || !is_next(rc, s, r.seq))
        return 1;
    at.length = (uint32_t)used;
    result = apply(rc, &r, at);
    if (result != 0)
        return result;
    rc->seq = r.seq;
    *offset += used;
    show_progress(rc, used);
    return 0;
}

int replay_segment(struct recovery *rc, size_t i, uint64_t *offset, uint64_t end,
                   enum replay_end *how)
{
    struct segment *s = rc->segments[i];
    struct window w = {malloc(REPLAY_BUFFER), 0, 0};
    int result = w.data == NULL ? -ENOMEM : 0;

    if (result == 0 && *offset == s->header_bytes)
        result = enter_segment(rc, s);
    if (result == 0)
        result = fill(&w, s, *offset, end);

    *how = REPLAY_AT_END;
    while (result == 0 && *offset < end) {
        result = replay_one(rc, s, &w, offset, end);
        if (result == 1) {
            *how = REPLAY_BAD_SPOT;
            result = 0;
            break;
        }
        if (result == 0 &&
            delta_count(atomic_load(&rc->ls->active)) >= rc->ls->config.checkpoint_entries)
            result = settle(rc, i, *offset);
        if (atomic_load_explicit(&rc->ls->start_cancelled, memory_order_relaxed))
            result = -ECANCELED;
    }
    free(w.data);
    return result;
}
