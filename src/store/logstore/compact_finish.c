/*
 * compact_finish.c - goes on with the installation of a compacted segment that a crash or a stop has
 * interrupted.
 *
 * Provides: compact_finish() of compact_job.h.
 * Used by:  compact.c, before anything else.
 * Threads:  compaction's own.
 *
 * Records keep their seqs: the old files and the new one, read side by side, say again which record
 * went where. What the new one lacks was dead, or a tombstone whose row is to go.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/logstore/compact.h"
#include "store/logstore/compact_job.h"
#include "store/logstore/segment_cursor.h"

/* The record of the new segment that the old ones are compared with. */
struct copied {
    struct segment_cursor cursor;
    struct record r;
    uint64_t offset;
    int found; /* 1, or 0 at the end */
};

static int next_copied(struct copied *n)
{
    struct slice bytes;

    n->found = segment_cursor_next(&n->cursor, &n->r, &bytes, &n->offset);
    return n->found < 0 ? n->found : 0;
}

/* A record that the new segment lacks. */
static int take_missing(struct compact_job *job, struct index_reader *reader,
                        const struct record *r, uint32_t segment, uint32_t offset)
{
    struct compact_gone gone = {segment, offset};
    struct entry row;
    int rc;

    if (r->kind == RECORD_MARKER || r->kind == RECORD_FLUSH || r->kind == RECORD_TOUCH)
        return 0;
    rc = index_find(reader, r->key, &row);
    if (rc == -ENOENT)
        return 0;
    if (rc != 0 || row.segment != segment || row.offset != offset)
        return rc;
    vectors_raise_removed(job->vectors, r->logged);
    return compact_list_add(&job->gone, &gone, sizeof(gone));
}

/* A record that the new segment has too. */
static int take_copied(struct compact_job *job, struct index_reader *reader, const struct copied *n,
                       uint32_t segment, uint32_t offset)
{
    struct compact_place place = {segment, offset, (uint32_t)n->offset};
    struct compact_untouched touch = {.new_offset = place.new_offset};
    struct entry row;
    int rc;

    if (n->r.kind == RECORD_FLUSH)
        return 0;
    rc = compact_list_add(&job->kept, &place, sizeof(place));
    if (rc != 0 || !n->r.cut)
        return rc;
    rc = index_find(reader, n->r.key, &row);
    if (rc != 0 || !row.has_touch || stamp_compare(row.base, n->r.base) != 0)
        return rc == -ENOENT ? 0 : rc;
    touch.segment = row.touch_segment;
    touch.offset = row.touch_offset;
    return compact_list_add(&job->untouched, &touch, sizeof(touch));
}

static int compare_segment(struct compact_job *job, struct index_reader *reader, size_t i,
                           struct copied *n)
{
    const struct segment *s = job->old[i];
    struct segment_cursor cursor;
    struct record r;
    struct slice bytes;
    uint64_t offset;
    int found = 1;
    int rc = segment_cursor_open(&cursor, s, atomic_load(&s->end), job->ls->salt);

    if (rc != 0)
        return rc;
    while (rc == 0 && (found = segment_cursor_next(&cursor, &r, &bytes, &offset)) == 1) {
        while (rc == 0 && n->found == 1 && n->r.seq < r.seq)
            rc = next_copied(n);
        if (rc == 0 && n->found == 1 && n->r.seq == r.seq)
            rc = take_copied(job, reader, n, s->number, (uint32_t)offset);
        else if (rc == 0)
            rc = take_missing(job, reader, &r, s->number, (uint32_t)offset);
    }
    segment_cursor_close(&cursor);
    return rc == 0 && found < 0 ? found : rc;
}

static int compare_all(struct compact_job *job)
{
    struct index_reader *reader;
    struct copied *n = malloc(sizeof(*n));
    int rc = n == NULL ? -ENOMEM : index_reader_open(job->ls->index, &reader);

    if (rc != 0) {
        free(n);
        return rc;
    }
    rc = segment_cursor_open(&n->cursor, job->made, job->end, job->ls->salt);
    if (rc == 0) {
        rc = next_copied(n);
        for (size_t i = 0; rc == 0 && i < job->old_count; i++)
            rc = compare_segment(job, reader, i, n);
        segment_cursor_close(&n->cursor);
    }
    index_reader_close(reader);
    free(n);
    return rc;
}

/* A job as it was before the interruption. 0 or -errno. */
static int resume(struct logstore *ls, struct compact_job **out)
{
    size_t count = ls->installing.count;
    struct segment *made = log_hold_segment(ls, ls->installing.number);
    struct segment **old = calloc(count, sizeof(old[0]));
    struct compact_job *job = NULL;
    int rc = made == NULL ? -EUCLEAN : old == NULL ? -ENOMEM : 0;
    size_t held = 0;

    for (; rc == 0 && held < count; held++) {
        old[held] = log_hold_segment(ls, ls->installing.old[held]);
        if (old[held] == NULL) {
            rc = -EUCLEAN;
            break;
        }
    }
    if (rc == 0) {
        job = compact_job_new(ls, old, count);
        rc = job == NULL ? -ENOMEM : 0;
    }
    for (size_t i = 0; i < held; i++)
        segment_unref(old[i]);
    free(old);
    if (rc != 0) {
        if (made != NULL)
            segment_unref(made);
        return rc;
    }
    job->number = made->number;
    job->made = made;
    job->renamed = true;
    job->end = atomic_load(&made->end);
    *out = job;
    return 0;
}

int compact_finish(struct logstore *ls, const _Atomic bool *stop)
{
    struct compact_job *job = NULL;
    int rc = resume(ls, &job);

    if (rc == 0)
        rc = compare_all(job);
    if (rc == 0)
        rc = compact_install(job, stop);
    compact_job_free(job);
    if (rc == 0) {
        log_info("went on with a compaction of %s that was interrupted: %zu segments became %u",
                 ls->dir, ls->installing.count, ls->installing.number);
        free(ls->installing.old);
        ls->installing.old = NULL;
        ls->installing.count = 0;
    }
    return rc;
}
