/*
 * big_spool.c - files of big values in the making.
 *
 * Provides: store_spool_*() (through the engine), big_spool_*(), big_finish_write(), big_write_now()
 *           of big.h.
 * Used by:  sessions (spool as the bytes arrive), writer (names the file, or writes one itself).
 * Threads:  a spool belongs to its port's thread; its file work runs on pool threads, one job at a
 *           time.
 * Locks:    big.mutex, for moments.
 *
 * A spool takes bytes into pieces of memory that the pool writes to tmp/spool-N. When the body is
 * complete the front is written, the file synced and renamed, and the write goes on to the writer.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/big_internal.h"

/* Uploads at a time: each holds a descriptor beside its connection's, out of the 500 that the limit
 * on connections leaves to everything else. */
#define SPOOLS_MAX 400
#define COMPLAINT_MS 10000

struct spool_piece {
    struct spool_piece *next;
    size_t len;
    char data[STORE_SPOOL_PIECE];
};

struct store_spool {
    struct aio_op op; /* first: completions come with it */
    struct logstore *ls;
    struct store_port *port;
    struct store_spool *next; /* big.spools */
    struct store_spool **at;
    void (*on_room)(void *arg);
    void *arg;
    uint64_t number;
    int fd;
    int error;    /* 0 or the first -errno */
    bool running; /* a job is under way */
    bool abandoned;
    bool was_full; /* somebody waits for on_room() */
    /* the write that this value belongs to, once the body is complete */
    struct store_write *finish;
    struct spool_piece *first; /* to be written, oldest first */
    struct spool_piece **last;
    uint64_t added;   /* bytes taken */
    uint64_t written; /* bytes on the file */
    struct hash_stream *sum;
    uint64_t value_offset;
    size_t key_len;
    size_t attrs_len;
    char meta[]; /* key, attributes */
};

/* ---- spooling ---- */

static void spool_unlink_list(struct store_spool *s)
{
    pthread_mutex_lock(&s->ls->big.mutex);
    *s->at = s->next;
    if (s->next != NULL)
        s->next->at = s->at;
    s->ls->big.spool_count--;
    pthread_mutex_unlock(&s->ls->big.mutex);
}

/* Gives the spool a number and enters it among those under way. False: there are too many. */
static bool spool_enter(struct store_spool *s)
{
    struct logstore *ls = s->ls;
    bool room;

    pthread_mutex_lock(&ls->big.mutex);
    room = ls->big.spool_count < SPOOLS_MAX;
    if (room) {
        ls->big.spool_count++;
        s->number = ls->big.next_number++;
        s->next = ls->big.spools;
        if (s->next != NULL)
            s->next->at = &s->next;
        s->at = &ls->big.spools;
        ls->big.spools = s;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    return room;
}

static void spool_free(struct store_spool *s)
{
    while (s->first != NULL) {
        struct spool_piece *next = s->first->next;

        free(s->first);
        s->first = next;
    }
    spool_unlink_list(s);
    if (s->fd >= 0)
        close(s->fd);
    hash_stream_free(s->sum);
    free(s);
}

/* Without a file yet. NULL: no memory. */
static struct store_spool *spool_new(struct store_port *port, struct slice key, struct slice attrs)
{
    struct store_spool *s = calloc(1, sizeof(*s) + key.len + attrs.len);

    if (s == NULL)
        return NULL;
    s->ls = logstore_of(port->store);
    s->port = port;
    s->fd = -1;
    s->last = &s->first;
    s->key_len = key.len;
    s->attrs_len = attrs.len;
    s->value_offset = big_front_length(key.len, attrs.len);
    if (key.len > 0)
        memcpy(s->meta, key.ptr, key.len);
    if (attrs.len > 0)
        memcpy(s->meta + key.len, attrs.ptr, attrs.len);
    return s;
}

/* Every upload may fail while the disk is full: once in a while is enough to know. */
static void say_no_file(struct logstore *ls, int rc)
{
    int64_t now = clock_mono_ms();
    bool say;

    pthread_mutex_lock(&ls->big.mutex);
    say = ls->big.complained_ms == 0 || now - ls->big.complained_ms >= COMPLAINT_MS;
    if (say)
        ls->big.complained_ms = now;
    pthread_mutex_unlock(&ls->big.mutex);
    if (say)
        log_error("cannot make a file for a big value in %s/tmp: %s", ls->dir, strerror(-rc));
}

int big_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                   uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                   struct store_spool **out)
{
    struct logstore *ls = logstore_of(port->store);
    struct store_spool *s;
    char *path;

    (void)value_bytes; /* of use once the space of all spools is bounded */
    if (atomic_load(&ls->read_only))
        return -EROFS;
    s = spool_new(port, key, attrs);
    if (s == NULL || !spool_enter(s)) {
        free(s);
        return -ENOMEM;
    }
    s->on_room = on_room;
    s->arg = arg;
    s->sum = hash_stream_new();
    path = big_spool_path(ls, s->number);
    s->fd =
        path == NULL || s->sum == NULL ? -ENOMEM : io_open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    free(path);
    if (s->fd < 0) {
        int rc = s->fd;

        say_no_file(ls, rc);
        spool_free(s);
        return rc;
    }
    hash_stream_add(s->sum, s->meta, key.len + attrs.len);
    *out = s;
    return 0;
}

static void next_job(struct store_spool *s);

/* Pool thread: one piece. */
static void write_piece(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct spool_piece *piece = s->first;

    op->result =
        io_write_full(s->fd, piece->data, piece->len, (off_t)(s->value_offset + s->written));
    hash_stream_add(s->sum, piece->data, piece->len);
}

static void piece_written(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct spool_piece *piece = s->first;

    s->written += piece->len;
    s->first = piece->next;
    if (s->first == NULL)
        s->last = &s->first;
    free(piece);
    if (op->result != 0 && s->error == 0) {
        s->error = (int)op->result;
        log_error("cannot write a big value in %s/tmp: %s", s->ls->dir, strerror(-s->error));
    }
    s->running = false;
    s->port->pending--;
    next_job(s);
}

/* Pool thread: the front of the file, sync, name. */
static void settle_file(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct logstore *ls = s->ls;
    char *front = NULL;
    char *from = big_spool_path(ls, s->number);
    char *to = big_final_path(ls, s->number);
    char *dir = directory_path(ls, "big");
    size_t len = big_front_encode(ls, s->number, slice_of(s->meta, s->key_len),
                                  slice_of(s->meta + s->key_len, s->attrs_len), s->written,
                                  hash_stream_sum(s->sum), &front);
    int rc = s->error;

    if (rc == 0 && (len == 0 || from == NULL || to == NULL || dir == NULL))
        rc = -ENOMEM;
    if (rc == 0)
        rc = io_write_full(s->fd, front, len, 0);
    if (rc == 0 && ls->config.sync != STORE_SYNC_OS)
        rc = io_fdatasync(s->fd);
    if (rc == 0)
        rc = io_rename(from, to);
    if (rc == 0)
        rc = io_sync_dir(dir);
    if (rc != 0 && s->error == 0)
        log_error("cannot settle a big value in %s/big: %s", ls->dir, strerror(-rc));
    op->result = rc;
    free(front);
    free(from);
    free(to);
    free(dir);
}

static enum store_status spool_status(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT ? STORE_NO_SPACE
           : rc == -ENOMEM                ? STORE_NO_MEMORY
           : rc == -EROFS                 ? STORE_READ_ONLY
                                          : STORE_IO_ERROR;
}

static void file_settled(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct store_write *w = s->finish;

    s->running = false;
    s->port->pending--;
    if (op->result == 0) {
        w->next = NULL;
        writer_hand_over(s->ls, w, w, 1);
        return;
    }
    w->status = spool_status((int)op->result);
    w->spool = NULL;
    big_spool_end(s, false);
    store_write_finish(&w, 1);
}

static void start_job(struct store_spool *s, void (*work)(struct aio_op *),
                      void (*done)(struct aio_op *))
{
    s->running = true;
    s->port->pending++;
    s->op.work = work;
    s->op.done = done;
    aio_submit_job(s->port->aio, &s->op);
}

/* After a job, or when there is new work. */
static void next_job(struct store_spool *s)
{
    bool whole = s->first != NULL && (s->first->next != NULL || s->finish != NULL ||
                                      s->first->len == STORE_SPOOL_PIECE);

    if (s->running)
        return;
    if (s->abandoned) {
        big_spool_end(s, false);
        return;
    }
    if (whole && s->error == 0)
        start_job(s, write_piece, piece_written);
    else if (s->finish != NULL)
        start_job(s, settle_file, file_settled);
    if (s->was_full && !store_spool_full(s)) {
        s->was_full = false;
        s->on_room(s->arg);
    }
}

int store_spool_add(struct store_spool *s, struct slice bytes)
{
    if (s->error != 0)
        return s->error;
    while (bytes.len > 0) {
        struct spool_piece *piece = s->first;
        size_t room;
        size_t n;

        while (piece != NULL && piece->next != NULL)
            piece = piece->next;
        if (piece == NULL || piece->len == STORE_SPOOL_PIECE || (s->running && piece == s->first)) {
            piece = malloc(sizeof(*piece));
            if (piece == NULL)
                return -ENOMEM;
            piece->next = NULL;
            piece->len = 0;
            *s->last = piece;
            s->last = &piece->next;
        }
        room = STORE_SPOOL_PIECE - piece->len;
        n = bytes.len < room ? bytes.len : room;
        memcpy(piece->data + piece->len, bytes.ptr, n);
        piece->len += n;
        s->added += n;
        bytes = slice_after(bytes, n);
    }
    next_job(s);
    return 0;
}

bool store_spool_full(const struct store_spool *s)
{
    bool full = s->error == 0 && s->added - s->written >= 2 * STORE_SPOOL_PIECE;

    if (full)
        ((struct store_spool *)(uintptr_t)s)->was_full = true;
    return full;
}

uint64_t store_spool_bytes(const struct store_spool *s)
{
    return s->added;
}

void store_spool_abandon(struct store_spool *s)
{
    s->abandoned = true;
    next_job(s);
}

void big_finish_write(struct logstore *ls, struct store_write *w)
{
    assert(w->spool->ls == ls);
    w->spool->finish = w;
    next_job(w->spool);
}

/* ---- for the writer ---- */

void big_spool_describe(const struct store_spool *s, struct record *r)
{
    r->big_file = s->number;
    r->big_bytes = s->written;
    r->big_sum = hash_stream_sum(s->sum);
}

void big_spool_end(struct store_spool *s, bool keep)
{
    if (keep && s->written > 0) {
        big_set_named(s->ls, s->number, s->written);
    } else { /* an empty value needs no file, the record says it all */
        big_remove_path(big_spool_path(s->ls, s->number));
        if (s->finish != NULL)
            big_remove_path(big_final_path(s->ls, s->number));
    }
    spool_free(s);
}

/* Adds a part at the file's present end and to the sum. */
static int add_part(int fd, uint64_t *at, struct hash_stream *sum, struct slice part)
{
    int rc = part.len == 0 ? 0 : io_write_full(fd, part.ptr, part.len, (off_t)*at);

    hash_stream_add(sum, part.ptr, part.len);
    *at += part.len;
    return rc;
}

int big_write_now(struct logstore *ls, struct slice key, struct slice attrs,
                  const struct slice pieces[2], struct record *r)
{
    struct hash_stream *sum = hash_stream_new();
    uint64_t at = big_front_length(key.len, attrs.len);
    char *from;
    char *to;
    char *front = NULL;
    char *dir = directory_path(ls, "big");
    size_t len;
    int fd;
    int rc;

    pthread_mutex_lock(&ls->big.mutex);
    r->big_file = ls->big.next_number++;
    pthread_mutex_unlock(&ls->big.mutex);
    from = big_spool_path(ls, r->big_file);
    to = big_final_path(ls, r->big_file);
    fd = from == NULL || to == NULL || sum == NULL || dir == NULL
             ? -ENOMEM
             : io_open(from, O_RDWR | O_CREAT | O_EXCL, 0640);
    rc = fd < 0 ? fd : 0;
    if (rc == 0) {
        hash_stream_add(sum, key.ptr, key.len);
        hash_stream_add(sum, attrs.ptr, attrs.len);
        rc = add_part(fd, &at, sum, pieces[0]);
    }
    if (rc == 0)
        rc = add_part(fd, &at, sum, pieces[1]);
    r->big_bytes = pieces[0].len + pieces[1].len;
    if (rc == 0) {
        r->big_sum = hash_stream_sum(sum);
        len = big_front_encode(ls, r->big_file, key, attrs, r->big_bytes, r->big_sum, &front);
        rc = len == 0 ? -ENOMEM : io_write_full(fd, front, len, 0);
    }
    if (rc == 0 && ls->config.sync != STORE_SYNC_OS)
        rc = io_fdatasync(fd);
    if (rc == 0)
        rc = io_rename(from, to);
    if (rc == 0)
        rc = io_sync_dir(dir);
    if (fd >= 0)
        close(fd);
    if (rc == 0) {
        big_set_named(ls, r->big_file, r->big_bytes);
    } else if (fd >= 0) {
        (void)io_unlink(from);
        (void)io_unlink(to);
    }
    free(front);
    free(from);
    free(to);
    free(dir);
    hash_stream_free(sum);
    return rc;
}
