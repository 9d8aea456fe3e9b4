/*
 * log.c - the tail of the log: gathering a batch, writing it, syncing, rotating, zeros ahead.
 *
 * Provides: log_*() of logstore.h.
 * Used by:  writer (all of it), recovery (log_continue), background (log_sync, log_fill_ahead).
 * Threads:  the writer's, but for log_sync() and log_fill_ahead(), which background calls too.
 * Locks:    sync_mutex around a sync; fill_mutex around whatever lies behind zero_end.
 *
 * Zeros are written ahead of the tail because a sync of a file that does not grow costs two block
 * writes, of one that grows three. Whatever a failed append left behind the tail is cut off, so
 * that no refused record can come back.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define FILL_PIECE (1024u * 1024)
#define COMPLAINT_MS 10000
/* Bytes. A sync of a file that grows costs as much as writing some hundred KiB more. */
#define LARGE_SYNC (256u * 1024)

int log_init(struct logstore *ls)
{
    pthread_mutex_init(&ls->log.sync_mutex, NULL);
    pthread_mutex_init(&ls->log.fill_mutex, NULL);
    pthread_mutex_init(&ls->log.table_mutex, NULL);
    segment_cache_init(&ls->segment_cache, ls->config.open_segments);
    ls->log.buffer = malloc(BATCH_BYTES);
    return ls->log.buffer == NULL ? -ENOMEM : 0;
}

void log_fini(struct logstore *ls)
{
    log_free_segments(ls);
    segment_cache_fini(&ls->segment_cache);
    free(ls->log.buffer);
    pthread_mutex_destroy(&ls->log.table_mutex);
    pthread_mutex_destroy(&ls->log.fill_mutex);
    pthread_mutex_destroy(&ls->log.sync_mutex);
}

char *log_segment_path(const struct logstore *ls, uint32_t number)
{
    char *path;

    return asprintf(&path, "%s/log/%08u.seg", ls->dir, number) == -1 ? NULL : path;
}

void log_continue(struct logstore *ls, struct segment *s, uint64_t tail, uint64_t zero_end)
{
    struct log *log = &ls->log;

    pthread_mutex_lock(&log->fill_mutex);
    log->active = s;
    log->tail = log->batch_tail = tail;
    atomic_store(&s->end, tail);
    atomic_store(&log->zero_end, zero_end > tail ? zero_end : tail);
    atomic_store(&log->active_number, s->number);
    pthread_mutex_unlock(&log->fill_mutex);
}

/* ---- gathering ---- */

bool log_fits(const struct logstore *ls, uint64_t body_len)
{
    return ls->log.batch_tail + RECORD_HEAD_MAX + body_len <= ls->config.segment_bytes;
}

static void add_piece(struct log *log, const char *data, size_t len, void *owned)
{
    struct batch_piece *last = log->piece_count > 0 ? &log->pieces[log->piece_count - 1] : NULL;

    if (last != NULL && last->data + last->len == data && last->owned == NULL && owned == NULL)
        last->len += len;
    else
        log->pieces[log->piece_count++] = (struct batch_piece){log->batch_tail, data, len, owned};
    log->batch_tail += len;
}

static size_t buffer_put(struct log *log, struct slice bytes)
{
    if (bytes.len > 0)
        memcpy(log->buffer + log->buffer_used, bytes.ptr, bytes.len);
    log->buffer_used += bytes.len;
    return bytes.len;
}

bool log_add(struct logstore *ls, struct record *r, uint64_t body_sum, void *owned,
             struct place *at)
{
    struct log *log = &ls->log;
    bool copied = r->value.len <= BATCH_COPY_MAX;
    char *start = log->buffer + log->buffer_used;
    uint64_t before = log->batch_tail;
    size_t len;

    if (BATCH_BYTES - log->buffer_used < BATCH_RECORD_MAX || log->piece_count + 3 > BATCH_PIECES ||
        log->batch_tail - log->tail > BATCH_BYTES)
        return false;
    r->seq = log->next_seq++;
    r->unsynced =
        (uint32_t)(r->seq - 1 - atomic_load_explicit(&ls->marks.synced_seq, memory_order_relaxed));
    len = record_encode_head(ls->salt, r, body_sum, (unsigned char *)start);
    log->buffer_used += len;
    len += buffer_put(log, r->key);
    len += buffer_put(log, r->attrs);
    if (copied)
        len += buffer_put(log, r->value);
    add_piece(log, start, len, NULL);
    if (!copied)
        add_piece(log, r->value.ptr, r->value.len, owned);
    else
        free(owned);
    *at =
        (struct place){log->active->number, (uint32_t)before, (uint32_t)(log->batch_tail - before)};
    return true;
}

void log_take_out(struct logstore *ls, struct place at)
{
    struct log *log = &ls->log;
    bool found = false;

    assert(log->batch_tail == (uint64_t)at.offset + at.length);
    while (!found) {
        struct batch_piece *last = &log->pieces[log->piece_count - 1];

        found = last->offset <= at.offset;
        if (found) /* a record begins in the buffer, whose later part is its own */
            log->buffer_used =
                (size_t)(last->data - log->buffer) + (size_t)(at.offset - last->offset);
        if (last->offset >= at.offset) {
            free(last->owned);
            log->piece_count--;
        } else {
            last->len = (size_t)(at.offset - last->offset);
        }
    }
    log->batch_tail = at.offset;
    log->next_seq--;
}

bool log_find_in_batch(struct logstore *ls, struct place at, struct record *out)
{
    struct log *log = &ls->log;
    struct record_layout layout;
    enum record_parse parsed;
    unsigned i = 0;
    const char *head;

    if (at.segment != log->active->number || at.offset < log->tail)
        return false;
    while (i + 1 < log->piece_count && log->pieces[i + 1].offset <= at.offset)
        i++;
    assert(i < log->piece_count);
    head = log->pieces[i].data + (at.offset - log->pieces[i].offset);
    parsed = record_decode_head(
        ls->salt, slice_of(head, log->pieces[i].len - (at.offset - log->pieces[i].offset)), out,
        &layout);
    assert(parsed == RECORD_DONE); /* the batch holds whole records only */
    record_set_body(out, &layout, head + layout.head_len);
    if (layout.value_len > BATCH_COPY_MAX)
        out->value = slice_of(log->pieces[i + 1].data, layout.value_len);
    return true;
}

static void free_batch(struct log *log)
{
    for (unsigned i = 0; i < log->piece_count; i++)
        free(log->pieces[i].owned);
    log->piece_count = 0;
    log->buffer_used = 0;
}

void log_drop_batch(struct logstore *ls)
{
    struct log *log = &ls->log;

    free_batch(log);
    log->batch_tail = log->tail;
    log->next_seq = log->tail_seq + 1;
}

/* ---- writing ---- */

/* Takes the room up to `end` out of the hands of whoever writes zeros. */
static void claim_room(struct log *log, uint64_t end)
{
    if (end <= atomic_load_explicit(&log->zero_end, memory_order_acquire))
        return;
    pthread_mutex_lock(&log->fill_mutex);
    if (end > atomic_load(&log->zero_end))
        atomic_store(&log->zero_end, end);
    pthread_mutex_unlock(&log->fill_mutex);
}

/* A full disk refuses every write until somebody makes room: it is said now and then only. */
static void complain(struct log *log, int rc, const char *what, const char *path)
{
    int64_t now = clock_mono_ms();

    if (rc == log->complaint && now - log->complained_ms < COMPLAINT_MS)
        return;
    log->complaint = rc;
    log->complained_ms = now;
    log_error("cannot %s %s: %s", what, path, strerror(-rc));
}

/* Cuts off what a failed append may have left behind the tail. */
static int erase_behind_tail(struct logstore *ls)
{
    struct log *log = &ls->log;
    int rc;

    pthread_mutex_lock(&log->fill_mutex);
    rc = io_truncate(segment_fd(log->active), (off_t)log->tail);
    if (rc == 0)
        atomic_store(&log->zero_end, log->tail);
    pthread_mutex_unlock(&log->fill_mutex);
    return rc;
}

int log_write(struct logstore *ls)
{
    struct log *log = &ls->log;
    struct iovec iov[BATCH_PIECES];
    int rc;

    if (log->piece_count == 0)
        return 0;
    claim_room(log, log->batch_tail);
    for (unsigned i = 0; i < log->piece_count; i++)
        iov[i] = (struct iovec){(void *)(uintptr_t)log->pieces[i].data, log->pieces[i].len};
    rc = io_writev_full(segment_fd(log->active), iov, (int)log->piece_count, (off_t)log->tail);
    if (rc != 0) {
        int cut = erase_behind_tail(ls);

        complain(log, rc, "append to", log->active->path);
        space_failed(ls, rc);
        if (cut != 0)
            writer_fail(ls, cut, "cut off a failed append to", log->active->path);
        log_drop_batch(ls);
        return rc;
    }
    atomic_fetch_add(&ls->appended_bytes, log->batch_tail - log->tail);
    log->tail = log->batch_tail;
    log->tail_seq = log->next_seq - 1;
    atomic_store(&log->active->end, log->tail);
    atomic_store_explicit(&ls->marks.written_seq, log->tail_seq, memory_order_release);
    free_batch(log);
    return 0;
}

/* ---- syncing ---- */

static int sync_file(struct segment *s)
{
    struct segment_file *f;
    int rc = segment_open(s, &f);

    if (rc != 0)
        return rc;
    rc = io_fdatasync(f->fd);
    segment_file_unref(f);
    return rc;
}

/* One segment, kept alive meanwhile. */
static int sync_segment(struct logstore *ls, uint32_t number)
{
    struct segment *s = log_hold_segment(ls, number);
    int rc;

    if (s == NULL)
        return 0;
    /* A compacted one has a number among these, and was synced before it had a name. */
    rc = s->compacted ? 0 : sync_file(s);
    if (rc != 0)
        writer_fail(ls, rc, "sync", s->path);
    else if (number < atomic_load(&ls->log.active_number))
        atomic_store(&s->keep_open, false);
    segment_unref(s);
    return rc;
}

static int sync_locked(struct logstore *ls)
{
    struct log *log = &ls->log;
    uint64_t seq = atomic_load_explicit(&ls->marks.written_seq, memory_order_acquire);
    uint32_t last = (uint32_t)atomic_load(&log->active_number);
    int64_t start = clock_mono_us();
    int rc = 0;

    if (atomic_load(&ls->read_only))
        return -EROFS;
    if (seq == atomic_load(&ls->marks.synced_seq))
        return 0;
    for (uint32_t n = atomic_load(&log->first_unsynced); rc == 0 && n <= last; n++)
        rc = sync_segment(ls, n);
    if (rc != 0)
        return rc;
    atomic_store(&log->first_unsynced, last);
    atomic_store_explicit(&ls->marks.synced_seq, seq, memory_order_release);
    atomic_fetch_add(&ls->syncs, 1);
    atomic_fetch_add(&ls->sync_us, (uint64_t)(clock_mono_us() - start));
    return 0;
}

int log_sync(struct logstore *ls)
{
    int rc;

    pthread_mutex_lock(&ls->log.sync_mutex);
    rc = sync_locked(ls);
    pthread_mutex_unlock(&ls->log.sync_mutex);
    return rc;
}

/* ---- rotation ---- */

/* Writes the header of the segment that follows the active one. */
static int write_header(struct logstore *ls, int fd, uint32_t number, size_t *length)
{
    struct log *log = &ls->log;
    struct segment_header h = {
        .number = number,
        .history = identity_history(&ls->id),
        .first_seq = log->next_seq,
        .previous_number = log->active == NULL ? 0 : log->active->number,
        .previous_end = log->tail,
        .previous_seq = log->tail_seq,
        .created_ms = clock_wall_ms(),
        .clock = atomic_load(&ls->clock),
        .flush = keyspace_flush(ls),
    };
    struct buf vectors = {0};
    unsigned char *bytes = NULL;
    int rc;

    h.flush_pending = keyspace_flush_pending(ls, &h.flush_pending_ms);
    memcpy(h.store_uuid, ls->id.uuid, sizeof(h.store_uuid));
    rc = vectors_encode(&ls->vectors, &vectors);
    if (rc != 0)
        goto out;
    h.vectors = buf_slice(&vectors);
    bytes = malloc(SEGMENT_HEADER_FIXED + h.vectors.len);
    if (bytes == NULL) {
        rc = -ENOMEM;
        goto out;
    }
    *length = segment_header_encode(&h, bytes);
    rc = io_write_full(fd, bytes, *length, 0);
out:
    free(bytes);
    buf_free(&vectors);
    return rc;
}

/* A file for segment `number`; whatever a failed attempt left under its name goes. */
static int create_file(const char *path)
{
    int fd = io_open(path, O_RDWR | O_CREAT | O_EXCL, 0640);

    if (fd == -EEXIST) {
        int rc = io_unlink(path);

        fd = rc != 0 ? rc : io_open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    }
    return fd;
}

/* The new file's header and name are on the disk before a record goes into it: whatever stands
 * there later without a good header is damage. A file system that finds out only now that it is
 * full has lost nothing of ours. */
static int settle_file(struct logstore *ls, int fd, const char *path)
{
    int rc = io_fdatasync(fd);

    if (rc == 0)
        rc = io_fsync(ls->log_dir_fd);
    if (rc != 0 && rc != -ENOSPC && rc != -EDQUOT)
        writer_fail(ls, rc, "sync", path);
    return rc;
}

/* The closed segment keeps its records only, not the zeros behind them. */
static void close_active(struct logstore *ls)
{
    struct log *log = &ls->log;

    if (log->active == NULL)
        return;
    pthread_mutex_lock(&log->fill_mutex);
    if (io_truncate(segment_fd(log->active), (off_t)log->tail) == 0)
        atomic_store(&log->zero_end, log->tail);
    pthread_mutex_unlock(&log->fill_mutex);
}

/* A file that was begun in vain goes for certain before the segment before it grows on: brought back
 * by a power cut it would say that the other had ended there. */
static void give_up_file(struct logstore *ls, int fd, struct segment *s, const char *path)
{
    int rc;

    if (fd < 0)
        return;
    if (s != NULL)
        segment_unref(s);
    else
        close(fd);
    rc = io_unlink(path);
    if (rc == 0)
        rc = io_fsync(ls->log_dir_fd);
    if (rc != 0)
        writer_fail(ls, rc, "remove", path);
}

int log_rotate(struct logstore *ls)
{
    struct log *log = &ls->log;
    uint32_t number = log->spare_number != 0 ? log->spare_number : log_new_number(ls);
    char *path = log_segment_path(ls, number);
    struct segment *s = NULL;
    size_t length = 0;
    int fd = path == NULL ? -ENOMEM : create_file(path);
    int rc = fd < 0 ? fd : 0;

    assert(log->piece_count == 0);
    log->spare_number = number;
    if (rc == 0)
        rc = write_header(ls, fd, number, &length);
    if (rc == 0)
        rc = settle_file(ls, fd, path);
    if (rc == 0)
        rc = segment_new(number, fd, path, ls->config.segment_bytes, &s);
    if (rc == 0) {
        s->first_seq = log->next_seq;
        s->header_bytes = (uint32_t)length;
        atomic_store(&s->trusted_from, 0);
        atomic_store(&s->keep_open, true);
        rc = log_publish_segment(ls, s);
    }
    if (rc != 0) {
        complain(log, rc, "begin the segment", path == NULL ? ls->dir : path);
        give_up_file(ls, fd, s, path);
        space_failed(ls, rc);
        free(path);
        return rc;
    }
    free(path);
    log->spare_number = 0;
    close_active(ls);
    log_continue(ls, s, length, length);
    /* Without it (a full disk) the check at the next start knows one segment less. */
    rc = directory_note(ls);
    if (rc != 0)
        complain(log, rc, "note a new segment in STORE of", ls->dir);
    background_wake(ls);
    return 0;
}

/* ---- zeros ahead ---- */

/* Where the zeros should reach: a step beyond the tail, begun when half a step is left. */
static uint64_t fill_target(const struct logstore *ls, uint64_t zero_end, uint64_t tail)
{
    uint64_t target = tail + ZERO_STEP;

    if (zero_end > tail + ZERO_STEP / 2)
        return zero_end;
    return target < ls->config.segment_bytes ? target : ls->config.segment_bytes;
}

/* Writes zeros from zero_end to at most `target`. Returns bytes written, or -errno. */
static int64_t fill_piece(struct logstore *ls, uint32_t number, uint64_t target)
{
    static const char zeros[FILL_PIECE];
    struct log *log = &ls->log;
    int64_t written = 0;

    pthread_mutex_lock(&log->fill_mutex);
    if (log->active->number == number) {
        uint64_t from = atomic_load(&log->zero_end);
        size_t len = target - from < FILL_PIECE ? (size_t)(target - from) : FILL_PIECE;

        if (from < target) {
            int rc = io_write_full(segment_fd(log->active), zeros, len, (off_t)from);

            written = rc != 0 ? rc : (int64_t)len;
            if (rc == 0)
                atomic_store_explicit(&log->zero_end, from + len, memory_order_release);
        }
    }
    pthread_mutex_unlock(&log->fill_mutex);
    return written;
}

/* True while a sync covers so much that what it costs itself does not count: zeros would only double
 * the writing. */
static bool syncs_are_large(struct logstore *ls)
{
    struct log *log = &ls->log;
    uint64_t bytes = atomic_load(&ls->appended_bytes);
    uint64_t syncs = atomic_load(&ls->syncs);

    if (syncs != log->fill_syncs)
        log->large_syncs = (bytes - log->fill_bytes) / (syncs - log->fill_syncs) >= LARGE_SYNC;
    log->fill_bytes = bytes;
    log->fill_syncs = syncs;
    return log->large_syncs;
}

bool log_fill_ahead(struct logstore *ls)
{
    struct log *log = &ls->log;
    uint32_t number = (uint32_t)atomic_load(&log->active_number);
    struct segment *s;
    uint64_t target;
    bool any = false;
    int64_t filled;
    int rc;

    /* Zeros make syncs cheaper; where a sync covers seconds of writes they are written in vain. */
    if (ls->config.sync != STORE_SYNC_ALWAYS || syncs_are_large(ls))
        return false;
    s = log_hold_segment(ls, number);
    if (s == NULL)
        return false;
    target = fill_target(ls, atomic_load(&log->zero_end), atomic_load(&s->end));
    /* What is left of the disk is not for zeros. */
    while (space_has_room(ls, 2 * FILL_PIECE) && (filled = fill_piece(ls, number, target)) > 0) {
        space_took(ls, (uint64_t)filled);
        any = true;
    }
    /* A full disk is the writer's to report. The zeros are synced so that later syncs find nothing
     * but the records. */
    rc = any ? sync_file(s) : 0;
    if (rc != 0)
        writer_fail(ls, rc, "sync", s->path);
    segment_unref(s);
    return any;
}
