/*
 * compact_copy.c - copies what is still needed of a run of segments. See compact_job.h.
 *
 * A record is needed if the row of its key names it. Of a key that is gone the newest state (a
 * tombstone, or a record that had expired and was swept) is needed as long as older records of the
 * key may be left in front of the run: a rebuild of the index would bring them back. A swept record
 * is then cut: its attributes and value go. The newest flushes stay as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/compact_job.h"
#include "store/logstore/segment_cursor.h"

/* The new file is written in pieces of this size, and synced every few of them: one large sync at
 * the end would hold up those of the log. */
#define PIECE_BYTES (1024u * 1024)
#define SYNC_BYTES (8u * 1024 * 1024)
/* Bytes read between two looks at the pace. */
#define PACE_BYTES (256u * 1024)

/* ---- the job ---- */

struct compact_job *compact_job_new(struct logstore *ls, struct segment *const *old, size_t count)
{
    struct compact_job *job = calloc(1, sizeof(*job));

    if (job == NULL)
        return NULL;
    job->ls = ls;
    job->fd = -1;
    job->old = calloc(count, sizeof(job->old[0]));
    job->dead = calloc(count, sizeof(job->dead[0]));
    job->vectors = calloc(1, sizeof(*job->vectors));
    if (job->old == NULL || job->dead == NULL || job->vectors == NULL) {
        compact_job_free(job);
        return NULL;
    }
    for (; job->old_count < count; job->old_count++) {
        job->old[job->old_count] = old[job->old_count];
        segment_ref(old[job->old_count]);
    }
    return job;
}

void compact_job_free(struct compact_job *job)
{
    if (job == NULL)
        return;
    if (job->fd >= 0)
        close(job->fd);
    if (job->tmp_path != NULL && !job->renamed)
        (void)io_unlink(job->tmp_path);
    if (job->made != NULL)
        segment_unref(job->made);
    for (size_t i = 0; i < job->old_count; i++)
        if (job->old[i] != NULL)
            segment_unref(job->old[i]);
    free(job->numbers);
    free(job->tmp_path);
    free(job->kept.items);
    free(job->gone.items);
    free(job->untouched.items);
    free(job->vectors);
    free(job->dead);
    free(job->old);
    free(job);
}

bool compact_job_replaces(const struct compact_job *job, uint32_t number)
{
    for (size_t i = 0; i < job->old_count; i++)
        if (job->old[i]->number == number)
            return true;
    return false;
}

int compact_list_add(struct compact_list *list, const void *item, size_t size)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 1024 : list->room * 2;
        char *grown = reallocarray(list->items, room, size);

        if (grown == NULL)
            return -ENOMEM;
        list->items = grown;
        list->room = room;
    }
    memcpy(list->items + list->count++ * size, item, size);
    return 0;
}

/* ---- the state of a copy ---- */

struct copy {
    struct compact_job *job;
    const struct compact_terms *terms;
    struct index_reader *reader;
    bool (*pace)(struct logstore *ls, uint64_t read, uint64_t written);
    struct buf out;      /* what is not in the file yet */
    uint64_t out_at;     /* where it goes */
    uint64_t synced;     /* the file is synced up to there */
    uint64_t paced_read; /* told to pace() */
    uint64_t paced_written;
    uint64_t read;
};

/* Where a segment's records begin in what the copy has made. */
struct mark {
    uint64_t end;
    size_t kept;
    size_t gone;
    size_t untouched;
};

static struct mark mark_of(const struct compact_job *job)
{
    return (struct mark){job->end, job->kept.count, job->gone.count, job->untouched.count};
}

/* ---- writing ---- */

static int write_out(struct copy *c)
{
    int rc = io_write_full(c->job->fd, c->out.data, c->out.len, (off_t)c->out_at);

    if (rc != 0)
        return rc;
    space_took(c->job->ls, c->out.len);
    c->out_at += c->out.len;
    c->out.len = 0;
    if (c->out_at - c->synced < SYNC_BYTES)
        return 0;
    c->synced = c->out_at;
    return io_fdatasync(c->job->fd);
}

static int append(struct copy *c, struct slice bytes)
{
    int rc = buf_add_slice(&c->out, bytes);

    c->job->end += bytes.len;
    return rc == 0 && c->out.len >= PIECE_BYTES ? write_out(c) : rc;
}

/* ---- judging ---- */

static void raise_let_go(struct copy *c, uint64_t version)
{
    if (version > c->job->header.let_go)
        c->job->header.let_go = version;
}

/* When a swept record died: by the clock, not by a record. */
static uint64_t expiry_version(const struct copy *c, const struct entry *row)
{
    int64_t at_ms = row->expires_ms;

    return at_ms > 0 && at_ms < INT64_MAX >> 17 ? (uint64_t)at_ms << 16 | 0xffff
                                                : c->terms->meta.clock;
}

/* The latest version that may have superseded a record that is not the row's. That of the row's
 * record, unless it has the same base: a touch or a counter's increment, whose stamps are not in the
 * row. But nothing of a key that has expired is superseded later than that: with its newest state all
 * older ones must be able to go. */
static uint64_t successor_version(const struct copy *c, const struct record *r,
                                  const struct entry *row)
{
    const struct index_meta *meta = &c->terms->meta;

    if (row == NULL)
        return stamp_compare(r->base, meta->flush) <= 0 ? meta->flush.version : meta->clock;
    if (stamp_compare(row->base, r->base) != 0 && row->base.version < meta->clock)
        return row->base.version;
    return row->kind == RECORD_DELETE ? expiry_version(c, row) : meta->clock;
}

/* What was superseded that late is to stay. */
static bool is_history(const struct copy *c, uint64_t version)
{
    return version > c->terms->history_version;
}

/* A record that no row names: it goes, unless its history is wanted. */
static int let_go(struct copy *c, const struct record *r, struct slice bytes,
                  const struct entry *row)
{
    uint64_t version = successor_version(c, r, row);

    if (is_history(c, version)) {
        c->job->history_bytes += bytes.len;
        return append(c, bytes);
    }
    raise_let_go(c, version);
    return 0;
}

static int keep(struct copy *c, uint32_t segment, uint32_t offset, struct slice bytes)
{
    struct compact_place place = {segment, offset, (uint32_t)c->job->end};
    int rc = compact_list_add(&c->job->kept, &place, sizeof(place));

    return rc == 0 ? append(c, bytes) : rc;
}

/* When the newest state of a key that is gone came to be. */
static uint64_t death_version(const struct copy *c, const struct record *r, const struct entry *row)
{
    return r->kind == RECORD_DELETE ? r->base.version : expiry_version(c, row);
}

/* The swept record without what made it large. */
static int keep_cut(struct copy *c, const struct record *r, uint32_t segment, uint32_t offset,
                    const struct entry *row)
{
    unsigned char head[RECORD_HEAD_MAX];
    struct record cut = *r;
    struct compact_place place = {segment, offset, (uint32_t)c->job->end};
    struct compact_untouched touch = {row->touch_segment, row->touch_offset, place.new_offset};
    int rc = compact_list_add(&c->job->kept, &place, sizeof(place));

    cut.kind = RECORD_PUT;
    cut.cut = true;
    cut.attrs = cut.value = slice_of(NULL, 0);
    cut.big_file = cut.big_bytes = cut.big_sum = 0;
    cut.slot_count = 0;
    if (rc == 0 && row->has_touch)
        rc = compact_list_add(&c->job->untouched, &touch, sizeof(touch));
    if (rc == 0) {
        size_t len = record_encode_head(c->job->ls->salt, &cut, hash_slice(cut.key), head);

        rc = append(c, slice_of(head, len));
    }
    return rc == 0 ? append(c, cut.key) : rc;
}

/* The newest state of a key that is gone, at the place that its row names. */
static int keep_gone(struct copy *c, const struct record *r, uint32_t segment, uint32_t offset,
                     struct slice bytes, const struct entry *row)
{
    struct compact_gone gone = {segment, offset};
    bool swept = r->kind != RECORD_DELETE && !r->cut;
    bool removable = r->seq <= c->terms->removable_seq;

    if (is_history(c, death_version(c, r, row)))
        return keep(c, segment, offset, bytes);
    if (swept)
        raise_let_go(c, death_version(c, r, row));
    if (!removable)
        return swept ? keep_cut(c, r, segment, offset, row) : keep(c, segment, offset, bytes);
    vectors_raise_removed(c->job->vectors, r->logged);
    return compact_list_add(&c->job->gone, &gone, sizeof(gone));
}

/* A touch whose record was swept stays with it: without it the record might be alive again. Of one
 * that is cut or removed in this run it is not needed. */
static bool touch_is_needed(const struct copy *c, const struct record *r, const struct entry *row)
{
    return row->kind != RECORD_DELETE || !compact_job_replaces(c->job, row->segment) ||
           is_history(c, death_version(c, r, row));
}

/* The flush that is in force came from a record at once, or from a delayed one at its moment. */
static bool flush_is_needed(const struct index_meta *meta, const struct record *r)
{
    struct stamp folded = {(uint64_t)r->expires_ms << 16, 0, 0};

    if (stamp_compare(r->base, meta->flush_pending) >= 0)
        return true;
    return stamp_compare(r->expires_ms == 0 ? r->base : folded, meta->flush) >= 0 &&
           (r->expires_ms == 0 || stamp_compare(folded, meta->flush) == 0);
}

static int copy_flush(struct copy *c, const struct record *r, struct slice bytes)
{
    const struct index_meta *meta = &c->terms->meta;
    uint64_t version = meta->flush.version > meta->flush_pending.version
                           ? meta->flush.version
                           : meta->flush_pending.version;

    if (flush_is_needed(meta, r) || is_history(c, version))
        return append(c, bytes);
    raise_let_go(c, version);
    return 0;
}

static int copy_record(struct copy *c, const struct record *r, uint32_t segment, uint32_t offset,
                       struct slice bytes)
{
    struct entry row;
    int rc;

    if (r->kind == RECORD_MARKER)
        return 0; /* it says something as the last record of the log only */
    if (r->kind == RECORD_FLUSH)
        return copy_flush(c, r, bytes);
    rc = index_find(c->reader, r->key, &row);
    if (rc == -ENOENT)
        return let_go(c, r, bytes, NULL);
    if (rc != 0)
        return rc == -EUCLEAN ? -EIO : rc; /* the index's damage, said already, not the segment's */
    if (r->kind == RECORD_TOUCH) {
        if (row.has_touch && row.touch_segment == segment && row.touch_offset == offset &&
            touch_is_needed(c, r, &row))
            return keep(c, segment, offset, bytes);
        return let_go(c, r, bytes, &row);
    }
    if (row.segment != segment || row.offset != offset)
        return let_go(c, r, bytes, &row);
    return row.kind == RECORD_DELETE ? keep_gone(c, r, segment, offset, bytes, &row)
                                     : keep(c, segment, offset, bytes);
}

/* ---- one old segment ---- */

static bool keeps_pace(struct copy *c)
{
    uint64_t read = c->read - c->paced_read;
    uint64_t written = c->job->end - c->paced_written;

    c->paced_read = c->read;
    c->paced_written = c->job->end;
    return c->pace(c->job->ls, read, written);
}

/* The new segment holds as much as it may: only whole old ones are in it. */
static bool is_full(const struct copy *c, size_t i)
{
    uint64_t limit = i == 0 ? UINT32_MAX - 2u * PIECE_BYTES : c->job->ls->config.segment_bytes;

    return c->job->end > limit;
}

static int read_failed(struct compact_job *job, size_t i, uint64_t offset, int rc)
{
    job->damaged = i;
    if (rc != -EUCLEAN) {
        log_error("cannot read %s at offset %" PRIu64 ": %s", job->old[i]->path, offset,
                  strerror(-rc));
        return rc == -EIO ? -EUCLEAN : rc;
    }
    atomic_fetch_add(&job->ls->damaged_reads, 1);
    log_error("damage in %s at offset %" PRIu64 ": compaction leaves this segment as it is",
              job->old[i]->path, offset);
    return rc;
}

/* 0; 1: the new segment is full; -errno. */
static int copy_segment(struct copy *c, size_t i)
{
    struct segment *s = c->job->old[i];
    struct segment_cursor cursor;
    struct record r;
    struct slice bytes;
    uint64_t offset;
    uint64_t from = c->read;
    int rc = segment_cursor_open(&cursor, s, atomic_load(&s->end), c->job->ls->salt);

    if (rc != 0)
        return read_failed(c->job, i, 0, rc);
    while (rc == 0) {
        int found = segment_cursor_next(&cursor, &r, &bytes, &offset);

        if (found < 0)
            rc = read_failed(c->job, i, cursor.next, found);
        if (found <= 0)
            break;
        rc = copy_record(c, &r, s->number, (uint32_t)offset, bytes);
        c->read = from + cursor.next - s->header_bytes;
        if (rc == 0 && is_full(c, i))
            rc = i == 0 ? -EFBIG : 1;
        if (rc == 0 && c->read - c->paced_read >= PACE_BYTES && !keeps_pace(c))
            rc = -ECANCELED;
    }
    segment_cursor_close(&cursor);
    return rc;
}

/* The run ends before segment i: takes out what was copied of it. */
static int end_before(struct copy *c, size_t i, struct mark mark)
{
    struct compact_job *job = c->job;
    int rc = write_out(c);

    job->header.last_seq = job->old[i]->first_seq - 1;
    job->end = mark.end;
    job->kept.count = mark.kept;
    job->gone.count = mark.gone;
    job->untouched.count = mark.untouched;
    while (job->old_count > i)
        segment_unref(job->old[--job->old_count]);
    return rc == 0 ? io_truncate(job->fd, (off_t)job->end) : rc;
}

/* ---- headers ---- */

/* Of one of the run, or of the segment behind it; its vectors lie in `room`. */
static int read_header(const struct segment *s, struct segment_header *h, char *room)
{
    int fd = io_open(s->path, O_RDONLY, 0);
    ssize_t got = fd < 0 ? fd : io_read_upto(fd, room, SEGMENT_HEADER_MAX, 0);
    size_t length;

    if (fd >= 0)
        close(fd);
    if (got < 0)
        return (int)got;
    return segment_header_decode(slice_of(room, (size_t)got), h, &length) == RECORD_DONE ? 0
                                                                                         : -EUCLEAN;
}

/* No flush was decided between the beginnings of two segments. */
static bool same_flushes(const struct segment_header *a, const struct segment_header *b)
{
    return stamp_compare(a->flush, b->flush) == 0 &&
           stamp_compare(a->flush_pending, b->flush_pending) == 0 &&
           a->flush_pending_ms == b->flush_pending_ms;
}

/* Writers whose deleted records may be removed have an entry from the start, so that the header's
 * length is known before the records are. */
static void reserve_removed(struct vectors *v, const struct vectors *now)
{
    for (unsigned i = 0; i < now->count; i++)
        vectors_raise_removed(v, (struct stamp){0, now->held[i].epoch, now->held[i].node});
    for (unsigned i = 0; i < now->removed_count; i++)
        vectors_raise_removed(v, (struct stamp){0, now->removed[i].epoch, now->removed[i].node});
}

static void raise_removed(struct vectors *v, const struct vectors *other)
{
    for (unsigned i = 0; i < other->removed_count; i++)
        vectors_raise_removed(v, (struct stamp){other->removed[i].version, other->removed[i].epoch,
                                                other->removed[i].node});
}

/* Takes the header of segment i of the run (old_count: of the one behind) into account. */
static int take_header(struct compact_job *job, const struct compact_terms *terms, size_t i,
                       struct segment_header *before, char *room, struct vectors *vectors)
{
    const struct segment *s = i < job->old_count ? job->old[i] : terms->next;
    struct segment_header h;
    int rc = read_header(s, &h, room);

    if (rc == 0 && !vectors_decode(h.vectors, vectors))
        rc = -EUCLEAN;
    if (rc != 0)
        return i < job->old_count ? read_failed(job, i, 0, rc) : -EIO;
    if (i > 0 && !same_flushes(before, &h))
        job->dead[i - 1] = false; /* it holds a flush, perhaps */
    *before = h;
    if (i == job->old_count)
        return 0;
    if (i == 0) {
        job->header = h;
        *job->vectors = *vectors;
    }
    raise_removed(job->vectors, vectors);
    if (h.let_go > job->header.let_go)
        job->header.let_go = h.let_go;
    return 0;
}

static int begin_header(struct compact_job *job, const struct compact_terms *terms)
{
    char *room = malloc(SEGMENT_HEADER_MAX);
    struct vectors *vectors = malloc(sizeof(*vectors));
    struct segment_header before = {0};
    struct buf encoded = {0};
    int rc = room == NULL || vectors == NULL ? -ENOMEM : 0;

    for (size_t i = 0; rc == 0 && i <= job->old_count; i++)
        rc = take_header(job, terms, i, &before, room, vectors);
    if (rc == 0) {
        reserve_removed(job->vectors, terms->vectors);
        rc = vectors_encode(job->vectors, &encoded);
    }
    job->header_bytes = SEGMENT_HEADER_FIXED + encoded.len;
    job->end = job->header_bytes;
    buf_free(&encoded);
    free(vectors);
    free(room);
    return rc;
}

static int write_header(struct compact_job *job, uint64_t clean_seq)
{
    struct segment_header *h = &job->header;
    struct buf vectors = {0};
    unsigned char *bytes = malloc(job->header_bytes);
    int rc = bytes == NULL ? -ENOMEM : vectors_encode(job->vectors, &vectors);

    if (rc == 0 && SEGMENT_HEADER_FIXED + vectors.len != job->header_bytes)
        rc = -ERANGE; /* a record by a writer whom the checkpoint does not know */
    if (rc == 0) {
        h->number = job->number;
        h->compacted = true;
        h->clean_seq = job->history_bytes > 0 ? 0 : clean_seq;
        h->end = job->end;
        h->vectors = buf_slice(&vectors);
        (void)segment_header_encode(h, bytes);
        rc = io_write_full(job->fd, bytes, job->header_bytes, 0);
    }
    h->vectors = slice_of(NULL, 0);
    buf_free(&vectors);
    free(bytes);
    return rc;
}

/* ---- the whole ---- */

static int open_file(struct compact_job *job)
{
    job->number = log_new_number(job->ls);
    if (asprintf(&job->tmp_path, "%s/tmp/compact-%08u.seg", job->ls->dir, job->number) == -1) {
        job->tmp_path = NULL;
        return -ENOMEM;
    }
    job->fd = io_open(job->tmp_path, O_RDWR | O_CREAT | O_TRUNC, 0640);
    return job->fd < 0 ? job->fd : 0;
}

static int copy_all(struct copy *c)
{
    struct compact_job *job = c->job;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < job->old_count; i++) {
        struct mark mark = mark_of(job);

        if (job->dead[i] && c->terms->history_version == UINT64_MAX) {
            raise_let_go(c, c->terms->meta.clock);
            continue;
        }
        rc = copy_segment(c, i);
        if (rc == 1)
            rc = end_before(c, i, mark);
    }
    return rc;
}

int compact_copy(struct compact_job *job, const struct compact_terms *terms,
                 struct index_reader *reader,
                 bool (*pace)(struct logstore *ls, uint64_t read, uint64_t written))
{
    struct copy c = {.job = job, .terms = terms, .reader = reader, .pace = pace};
    int rc = begin_header(job, terms);

    if (rc == 0)
        rc = open_file(job);
    job->header.last_seq = terms->next->first_seq - 1;
    c.out_at = c.synced = c.paced_written = job->header_bytes;
    if (rc == 0)
        rc = copy_all(&c);
    if (rc == 0)
        rc = write_out(&c);
    buf_free(&c.out);
    if (rc != 0)
        return rc;
    (void)pace(job->ls, c.read - c.paced_read, job->end - c.paced_written);
    rc = write_header(job, terms->meta.seq);
    return rc == 0 ? io_fdatasync(job->fd) : rc;
}
