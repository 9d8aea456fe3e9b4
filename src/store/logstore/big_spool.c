/*
 * big_spool.c - big values that are spooled into their files as they arrive.
 *
 * Provides: store_spool_*() (through the engine), big_spool_open(), big_finish_write() and what the
 *           writer needs of a spool (big.h).
 * Used by:  sessions, logstore.c, writer.
 * Threads:  a spool belongs to its port's thread; its file work runs on pool threads, one job at a
 *           time.
 *
 * A spool takes bytes into pieces of memory that the pool writes to the draft's file. When the body
 * is complete the file gets its name, and the write goes on to the writer.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "store/logstore/big_internal.h"

struct spool_piece {
    struct spool_piece *next;
    size_t len;
    char data[STORE_SPOOL_PIECE];
};

struct store_spool {
    struct aio_op op; /* first: completions come with it */
    struct big_draft draft;
    struct store_port *port;
    void (*on_room)(void *arg);
    void *arg;
    int error;    /* 0 or the first -errno */
    bool running; /* a job is under way */
    bool abandoned;
    bool was_full; /* somebody waits for on_room() */
    /* the write that this value belongs to, once the body is complete */
    struct store_write *finish;
    struct spool_piece *first; /* to be written, oldest first */
    struct spool_piece **last;
    uint64_t added;   /* bytes taken */
    uint64_t written; /* of these on the file; the draft's own count is the pool's */
    size_t key_len;
    size_t attrs_len;
    char meta[]; /* key, attributes */
};

/* ---- life ---- */

static void spool_release(struct big_draft *d)
{
    struct store_spool *s = (struct store_spool *)((char *)d - offsetof(struct store_spool, draft));

    while (s->first != NULL) {
        struct spool_piece *next = s->first->next;

        free(s->first);
        s->first = next;
    }
    free(s);
}

int big_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                   uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                   struct store_spool **out)
{
    struct logstore *ls = logstore_of(port->store);
    struct store_spool *s;
    int rc;

    if (atomic_load(&ls->read_only))
        return -EROFS;
    s = calloc(1, sizeof(*s) + key.len + attrs.len);
    if (s == NULL)
        return -ENOMEM;
    rc = big_draft_begin(&s->draft, ls, key, attrs, value_bytes == UINT64_MAX ? 0 : value_bytes);
    if (rc != 0) {
        free(s);
        return rc;
    }
    s->draft.release = spool_release;
    s->port = port;
    s->on_room = on_room;
    s->arg = arg;
    s->last = &s->first;
    s->key_len = key.len;
    s->attrs_len = attrs.len;
    if (key.len > 0)
        memcpy(s->meta, key.ptr, key.len);
    if (attrs.len > 0)
        memcpy(s->meta + key.len, attrs.ptr, attrs.len);
    *out = s;
    return 0;
}

void big_spool_end(struct store_spool *s, bool keep)
{
    big_draft_end(&s->draft, keep);
}

/* ---- jobs ---- */

static void next_job(struct store_spool *s);

/* Pool thread: one piece. */
static void write_piece(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;

    op->result = big_draft_write(&s->draft, s->first->data, s->first->len);
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
    if (op->result != 0 && s->error == 0)
        s->error = (int)op->result;
    s->running = false;
    s->port->pending--;
    next_job(s);
}

/* Pool thread. */
static void settle_file(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;

    op->result = big_draft_settle(&s->draft, slice_of(s->meta, s->key_len),
                                  slice_of(s->meta + s->key_len, s->attrs_len));
}

/* The body is complete, and in its file, or that has failed. */
static void finish(struct store_spool *s, int rc)
{
    struct store_write *w = s->finish;

    if (rc == 0) {
        w->next = NULL;
        writer_hand_over(s->draft.ls, w, w, 1);
        return;
    }
    w->status = writer_status_of(rc);
    w->spool = NULL;
    big_spool_end(s, false);
    store_write_finish(&w, 1);
}

static void file_settled(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;

    s->running = false;
    s->port->pending--;
    finish(s, (int)op->result);
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

static bool has_job(const struct store_spool *s)
{
    const struct spool_piece *piece = s->first;

    return s->error == 0 && piece != NULL &&
           (piece->next != NULL || s->finish != NULL || piece->len == STORE_SPOOL_PIECE);
}

/* After a job, or when there is new work. */
static void next_job(struct store_spool *s)
{
    if (s->running)
        return;
    if (s->abandoned) {
        big_spool_end(s, false);
        return;
    }
    if (has_job(s)) {
        start_job(s, write_piece, piece_written);
    } else if (s->finish != NULL) {
        /* An empty value needs no file: the record says it all. */
        if (s->error != 0 || s->added == 0)
            finish(s, s->error);
        else
            start_job(s, settle_file, file_settled);
        return;
    }
    if (s->was_full && !store_spool_full(s)) {
        s->was_full = false;
        s->on_room(s->arg);
    }
}

/* ---- the port's side ---- */

/* The piece that takes more bytes; NULL: no memory. */
static struct spool_piece *open_piece(struct store_spool *s)
{
    struct spool_piece *piece = s->first;

    while (piece != NULL && piece->next != NULL)
        piece = piece->next;
    if (piece != NULL && piece->len < STORE_SPOOL_PIECE && !(s->running && piece == s->first))
        return piece;
    piece = malloc(sizeof(*piece));
    if (piece == NULL)
        return NULL;
    piece->next = NULL;
    piece->len = 0;
    *s->last = piece;
    s->last = &piece->next;
    return piece;
}

int store_spool_add(struct store_spool *s, struct slice bytes)
{
    if (s->error == 0)
        s->error = big_draft_charge(&s->draft, bytes.len);
    if (s->error != 0)
        return s->error;
    while (bytes.len > 0) {
        struct spool_piece *piece = open_piece(s);
        size_t room;
        size_t n;

        if (piece == NULL)
            return -ENOMEM;
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
    assert(w->spool->draft.ls == ls);
    w->spool->finish = w;
    big_draft_complete(&w->spool->draft);
    next_job(w->spool);
}

/* ---- for the writer ---- */

void big_spool_describe(const struct store_spool *s, struct record *r)
{
    big_draft_describe(&s->draft, r);
}
