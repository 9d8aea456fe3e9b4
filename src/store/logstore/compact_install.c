/*
 * compact_install.c - puts a compacted segment in the place of its run. See compact_job.h.
 *
 * Provides: compact_install() of compact_job.h.
 * Used by:  compact.c, compact_finish.c.
 * Threads:  compaction's own.
 * Locks:    index_mutex from the naming of the file until the last row is moved: no generation of
 *           the delta is on its way into the index meanwhile, and none begins.
 *
 * Rows are moved in durable transactions of a bounded size, each row only if it still names the old
 * place. A touch or a sweep copies a place from a row into the delta: after the rows were moved the
 * writer mends what it has copied before. Only then the index says that the move is finished; until
 * it does a start goes on with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/compact.h"
#include "store/logstore/compact_job.h"
#include "store/logstore/segment_cursor.h"

/* Of one transaction of the index; and so many are gathered and sorted before, that the
 * transactions do not all change the same pages. */
#define TXN_MOVES 16384u
#define MOVES_MAX (16u * TXN_MOVES)
#define MOVES_KEYS (16u * 1024 * 1024)
/* Entries that the writer mends between two batches. */
#define MENDS_MAX 256u
#define MENDS_KEYS (128u * 1024)
#define HEAD_PIECE 4096u

/* ---- the moves ---- */

/* Gathers what is to be done for keys, and does it when there is enough of it. */
struct mover {
    struct compact_job *job;
    const _Atomic bool *stop;
    int (*run)(struct mover *m);
    struct index_move *moves;
    size_t count;
    size_t limit;
    char *keys; /* what their slices point into */
    size_t keys_used;
    size_t keys_limit;
    bool first; /* the next transaction is the first one */
    int rc;     /* of what the writer does for us */
};

static int mover_begin(struct mover *m, struct compact_job *job, const _Atomic bool *stop,
                       int (*run)(struct mover *m), size_t limit, size_t keys_limit)
{
    *m = (struct mover){.job = job,
                        .stop = stop,
                        .run = run,
                        .limit = limit,
                        .keys_limit = keys_limit,
                        .first = true};
    m->moves = malloc(limit * sizeof(m->moves[0]));
    m->keys = malloc(keys_limit);
    return m->moves == NULL || m->keys == NULL ? -ENOMEM : 0;
}

static void mover_end(struct mover *m)
{
    free(m->moves);
    free(m->keys);
}

static int mover_run(struct mover *m)
{
    int rc = m->count > 0 || m->first ? m->run(m) : 0;

    m->count = m->keys_used = 0;
    return rc;
}

/* Adds a move; its key is copied. 0 or -errno of what was gathered before. */
static int mover_add(struct mover *m, const struct index_move *move)
{
    struct index_move *at;
    int rc = 0;

    if (m->count == m->limit || m->keys_limit - m->keys_used < move->key.len)
        rc = mover_run(m);
    if (rc != 0)
        return rc;
    at = &m->moves[m->count++];
    *at = *move;
    at->key.ptr = m->keys + m->keys_used;
    if (move->key.len > 0)
        memcpy(m->keys + m->keys_used, move->key.ptr, move->key.len);
    m->keys_used += move->key.len;
    return 0;
}

/* ---- going through what was copied ---- */

struct pass {
    struct mover *mover;
    const struct compact_place *kept;
    const struct compact_place *kept_end;
    const struct compact_untouched *touch;
    const struct compact_untouched *touch_end;
};

static void pass_begin(struct pass *p, struct mover *m)
{
    const struct compact_job *job = m->job;

    p->mover = m;
    p->kept = (const struct compact_place *)(const void *)job->kept.items;
    p->kept_end = p->kept + job->kept.count;
    p->touch = (const struct compact_untouched *)(const void *)job->untouched.items;
    p->touch_end = p->touch + job->untouched.count;
}

/* One record of the new segment. */
static int pass_record(struct pass *p, const struct record *r, uint32_t offset, uint32_t length)
{
    struct index_move move = {.key = r->key};
    int rc = 0;

    if (p->kept < p->kept_end && p->kept->new_offset == offset) {
        move.what = r->kind == RECORD_TOUCH ? MOVED_TOUCH : MOVED_RECORD;
        move.segment = p->kept->segment;
        move.offset = p->kept->offset;
        move.new_offset = offset;
        move.new_length = length;
        p->kept++;
        rc = mover_add(p->mover, &move);
    }
    if (rc == 0 && p->touch < p->touch_end && p->touch->new_offset == offset) {
        move.what = MOVED_TOUCH_GONE;
        move.segment = p->touch->segment;
        move.offset = p->touch->offset;
        p->touch++;
        rc = mover_add(p->mover, &move);
    }
    return rc;
}

/* The keys of the new segment, in its order. 0, -ECANCELED or -errno. */
static int pass_new(struct mover *m)
{
    struct compact_job *job = m->job;
    struct segment_cursor cursor;
    struct record r;
    struct slice bytes;
    uint64_t offset;
    struct pass p;
    int found = 1;
    int rc = segment_cursor_open(&cursor, job->made, job->end, job->ls->salt);

    if (rc != 0)
        return rc;
    pass_begin(&p, m);
    while (rc == 0 && (found = segment_cursor_next(&cursor, &r, &bytes, &offset)) == 1) {
        rc = pass_record(&p, &r, (uint32_t)offset, (uint32_t)bytes.len);
        if (atomic_load_explicit(m->stop, memory_order_relaxed))
            rc = -ECANCELED;
    }
    segment_cursor_close(&cursor);
    return rc == 0 && found < 0 ? found : rc;
}

/* The key of a record, read into `room`. 0, -EUCLEAN or -errno. */
static int read_key(const struct compact_job *job, int fd, uint64_t offset, struct buf *room,
                    struct slice *key)
{
    size_t want = HEAD_PIECE;
    struct record_layout layout;
    struct record r;

    for (;;) {
        ssize_t got;

        room->len = 0;
        if (buf_reserve(room, want) != 0)
            return -ENOMEM;
        got = io_read_upto(fd, room->data, want, (off_t)offset);
        if (got < 0)
            return (int)got;
        if (record_decode_head(job->ls->salt, slice_of(room->data, (size_t)got), &r, &layout) !=
            RECORD_DONE)
            return -EUCLEAN;
        *key = slice_of(room->data + layout.head_len, layout.key_len);
        if ((size_t)got >= (size_t)layout.head_len + layout.key_len)
            return 0;
        if ((size_t)got < want)
            return -EUCLEAN;
        want = (size_t)layout.head_len + layout.key_len;
    }
}

/* The keys whose rows go, out of the old segments, where their places are in order. */
static int pass_gone(struct mover *m)
{
    const struct compact_job *job = m->job;
    const struct compact_gone *gone = (const struct compact_gone *)(const void *)job->gone.items;
    struct buf room = {0};
    size_t i = 0;
    int rc = 0;

    for (size_t s = 0; rc == 0 && s < job->old_count && i < job->gone.count; s++) {
        int fd = io_open(job->old[s]->path, O_RDONLY, 0);

        rc = fd < 0 ? fd : 0;
        for (; rc == 0 && i < job->gone.count && gone[i].segment == job->old[s]->number; i++) {
            struct index_move move = {
                .what = MOVED_GONE, .segment = gone[i].segment, .offset = gone[i].offset};

            rc = read_key(job, fd, gone[i].offset, &room, &move.key);
            if (rc == 0)
                rc = mover_add(m, &move);
        }
        if (fd >= 0)
            close(fd);
    }
    buf_free(&room);
    return rc;
}

/* ---- the rows ---- */

static int compare_moves(const void *a, const void *b)
{
    return index_compare_keys(((const struct index_move *)a)->key,
                              ((const struct index_move *)b)->key);
}

/* Every transaction gets a stretch of the index of its own. */
static int move_gathered(struct mover *m)
{
    struct compact_job *job = m->job;
    /* Tests have small checkpoints, and several transactions of few moves. */
    size_t most = job->ls->config.checkpoint_entries < TXN_MOVES
                      ? job->ls->config.checkpoint_entries
                      : TXN_MOVES;
    size_t done = 0;
    int rc = 0;

    if (m->count > 0)
        qsort(m->moves, m->count, sizeof(m->moves[0]), compare_moves);
    do {
        size_t count = m->count - done < most ? m->count - done : most;

        rc = index_move(job->ls->index, job->number, m->moves + done, count, m->first, false, NULL,
                        0);
        m->first = false;
        done += count;
        if (rc == 0 && atomic_load(m->stop))
            rc = -ECANCELED;
    } while (rc == 0 && done < m->count);
    return rc;
}

static int move_all(struct compact_job *job, const _Atomic bool *stop)
{
    struct mover m;
    int rc = mover_begin(&m, job, stop, move_gathered, MOVES_MAX, MOVES_KEYS);

    if (rc == 0)
        rc = pass_new(&m);
    if (rc == 0)
        rc = pass_gone(&m);
    if (rc == 0)
        rc = mover_run(&m);
    mover_end(&m);
    return rc;
}

/* ---- entries of the delta ---- */

/* The entry with the new place in the old one's stead. False: it names another. */
static bool mend_entry(const struct index_move *move, uint32_t number, struct entry *e)
{
    if (move->what == MOVED_RECORD && e->segment == move->segment && e->offset == move->offset) {
        e->segment = number;
        e->offset = move->new_offset;
        e->length = move->new_length;
        return true;
    }
    if (move->what == MOVED_TOUCH && e->has_touch && e->touch_segment == move->segment &&
        e->touch_offset == move->offset) {
        e->touch_segment = number;
        e->touch_offset = move->new_offset;
        return true;
    }
    return false;
}

/* The newest entry of the key, as it should be. False: it is right, or there is none. */
static bool find_mend(const struct mover *m, const struct delta *d, const struct index_move *move,
                      struct entry *e, uint64_t *seq)
{
    return delta_find(d, hash_slice(move->key), move->key, UINT64_MAX, e, seq) &&
           mend_entry(move, m->job->number, e);
}

/* On the writer's thread, where every entry is visible. */
static void mend_on_writer(struct logstore *ls, void *arg)
{
    struct mover *m = arg;
    struct delta *d = atomic_load(&ls->active);

    for (size_t i = 0; m->rc == 0 && i < m->count; i++) {
        const struct index_move *move = &m->moves[i];
        struct entry e;
        uint64_t seq;

        if (find_mend(m, d, move, &e, &seq))
            m->rc = delta_put(d, hash_slice(move->key), move->key, &e, seq);
    }
}

static int mend_chunk(struct mover *m)
{
    const struct delta *d = atomic_load(&m->job->ls->active);
    struct entry e;
    uint64_t seq;
    size_t wrong = 0;

    m->first = false;
    for (size_t i = 0; i < m->count; i++)
        if (find_mend(m, d, &m->moves[i], &e, &seq))
            m->moves[wrong++] = m->moves[i];
    m->count = wrong;
    if (wrong > 0)
        writer_call(m->job->ls, mend_on_writer, m);
    return m->rc;
}

/* What was decided before the rows were moved is in the delta when this returns. */
static void take_removed(struct logstore *ls, void *arg)
{
    const struct compact_job *job = arg;

    for (unsigned i = 0; i < job->vectors->removed_count; i++) {
        const struct writer_clock *w = &job->vectors->removed[i];

        if (w->version > 0)
            vectors_raise_removed(&ls->vectors, (struct stamp){w->version, w->epoch, w->node});
    }
}

static int mend_delta(struct compact_job *job, const _Atomic bool *stop)
{
    struct mover m;
    int rc;

    writer_call(job->ls, take_removed, job);
    if (delta_count(atomic_load(&job->ls->active)) == 0)
        return 0;
    rc = mover_begin(&m, job, stop, mend_chunk, MENDS_MAX, MENDS_KEYS);
    if (rc == 0)
        rc = pass_new(&m);
    if (rc == 0)
        rc = mover_run(&m);
    mover_end(&m);
    return rc;
}

/* ---- the end ---- */

static int number_old(struct compact_job *job)
{
    if (job->numbers == NULL)
        job->numbers = calloc(job->old_count, sizeof(job->numbers[0]));
    for (size_t i = 0; job->numbers != NULL && i < job->old_count; i++)
        job->numbers[i] = job->old[i]->number;
    return job->numbers == NULL ? -ENOMEM : 0;
}

static int move_rows(struct compact_job *job, const _Atomic bool *stop)
{
    int rc = move_all(job, stop);

    if (rc == 0)
        rc = mend_delta(job, stop);
    if (rc == 0)
        rc = index_move(job->ls->index, job->number, NULL, 0, false, true, job->numbers,
                        job->old_count);
    return rc;
}

/* A segment of the new file, with its name. */
static int make_segment(struct compact_job *job, const char *path, struct segment **out)
{
    int rc = segment_new(job->number, job->fd, path, (size_t)job->end, out);
    struct segment *s = *out;

    if (rc != 0)
        return rc;
    job->fd = -1;
    s->first_seq = job->header.first_seq;
    s->last_seq = job->header.last_seq;
    s->clean_seq = job->header.clean_seq;
    s->compacted = true;
    s->header_bytes = (uint32_t)job->header_bytes;
    atomic_store(&s->end, job->end);
    atomic_store(&s->trusted_from, 0);
    return 0;
}

/* Gives the file its name, and makes a segment of it that readers find. After a failure the file is
 * gone: no row names it yet, and a name whose sync has failed is not to be relied on. */
static int publish(struct compact_job *job)
{
    char *path = log_segment_path(job->ls, job->number);
    struct segment *s = NULL;
    int rc = path == NULL ? -ENOMEM : io_rename(job->tmp_path, path);

    job->renamed = rc == 0;
    if (rc == 0)
        rc = io_fsync(job->ls->log_dir_fd);
    if (rc == 0)
        rc = make_segment(job, path, &s);
    if (rc == 0) {
        segment_ref(s);
        rc = log_publish_segment(job->ls, s);
    }
    if (rc == 0) {
        job->made = s;
    } else if (job->renamed) {
        (void)io_unlink(path);
        for (int refs = s == NULL ? 0 : 2; refs > 0; refs--)
            segment_unref(s);
    }
    free(path);
    return rc;
}

static int install_locked(struct compact_job *job, const _Atomic bool *stop)
{
    int rc = number_old(job);

    if (rc == 0 && atomic_load(&job->ls->frozen) != NULL)
        rc = -EAGAIN; /* the last checkpoint failed: it comes first */
    if (rc == 0 && job->made == NULL)
        rc = publish(job);
    return rc == 0 ? move_rows(job, stop) : rc;
}

int compact_install(struct compact_job *job, const _Atomic bool *stop)
{
    int rc = 0;

    if (!job->moved) {
        pthread_mutex_lock(&job->ls->index_mutex);
        rc = install_locked(job, stop);
        pthread_mutex_unlock(&job->ls->index_mutex);
        if (rc != 0)
            return rc;
        job->moved = true;
        for (size_t i = 0; i < job->old_count; i++) {
            segment_unref(job->old[i]);
            job->old[i] = NULL;
        }
    }
    return log_retire_segments(job->ls, job->numbers, job->old_count);
}
