/*
 * big_extend.c - updates whose result is a big value: made in a file of its own beside the writer.
 *
 * Provides: big_extend_*() of big.h.
 * Used by:  writer.
 * Threads:  everything on the writer's but for the making of the file: that is done by pool threads,
 *           a few megabytes at a time, so that others get their turn.
 *
 * What is appended to a big value costs a copy of its file, and neither memory nor the writer's
 * time: the writer sends the write away, a new file is made from the old one, and the write comes
 * back and is decided once more, by then with its file. Until that is done all other writes of the
 * key wait, in their order: so nothing has changed when it comes back, but for a flush or an expiry,
 * after which it is decided from what there is then.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/big_internal.h"

#define COPY_PIECE (1024u * 1024)
/* What is copied before others get their turn. */
#define COPY_AT_ONCE (4u * COPY_PIECE)

struct big_extend {
    struct aio_op op; /* first */
    struct big_draft draft;
    struct store_write *w;
    struct big_extend *next;           /* big.extends */
    struct store_write *waiting_first; /* other writes of the key, oldest first */
    struct store_write **waiting_last;
    bool is_done;
    int rc;            /* how the making ended */
    struct stamp base; /* of the record that is extended; version 0: there was none */
    /* The old value's file; bytes 0: there is none. */
    uint64_t source_number;
    uint64_t source_bytes;
    uint64_t source_sum;
    struct big_file *source;
    struct hash_stream *check; /* of what is read of it */
    uint64_t copied;
    bool is_used;          /* the write's record names the file */
    struct slice parts[3]; /* the first stands before what is copied; in `w` or `memory` */
    char *memory;
    size_t attrs_len; /* of the new record */
    char meta[];      /* its attributes */
};

/* ---- making the file: pool threads ---- */

static int open_source(struct big_extend *x)
{
    int rc = big_open(x->draft.ls, x->source_number, x->source_bytes, x->source_sum, &x->source);

    if (rc == -ENOENT)
        log_error("cannot extend a big value: its file, number %016llx, is missing",
                  (unsigned long long)x->source_number);
    return rc == -ENOENT ? -EUCLEAN : rc;
}

/* True: there is more. */
static bool copy_some(struct big_extend *x)
{
    char *piece = malloc(COPY_PIECE);
    uint64_t end = x->copied + COPY_AT_ONCE;
    off_t offset;
    int fd = big_fd(x->source, &offset);

    if (end > x->source_bytes)
        end = x->source_bytes;
    if (piece == NULL)
        x->rc = -ENOMEM;
    while (x->rc == 0 && x->copied < end) {
        size_t n = end - x->copied < COPY_PIECE ? (size_t)(end - x->copied) : COPY_PIECE;

        x->rc = io_read_full(fd, piece, n, offset + (off_t)x->copied);
        if (x->rc != 0)
            break;
        hash_stream_add(x->check, piece, n);
        x->rc = big_draft_write(&x->draft, piece, n);
        x->copied += n;
    }
    free(piece);
    return x->rc == 0 && x->copied < x->source_bytes;
}

/* Damage must not be given a new checksum. */
static void check_source(struct big_extend *x)
{
    if (x->rc == 0 && x->source_bytes > 0 && hash_stream_sum(x->check) != x->source_sum) {
        log_error("cannot extend a big value: its file, number %016llx, is damaged",
                  (unsigned long long)x->source_number);
        x->rc = -EUCLEAN;
    }
}

static void finish(struct big_extend *x)
{
    check_source(x);
    for (int i = 1; i < 3; i++)
        if (x->rc == 0 && x->parts[i].len > 0)
            x->rc = big_draft_write(&x->draft, x->parts[i].ptr, x->parts[i].len);
    if (x->rc == 0)
        x->rc = big_draft_settle(&x->draft, x->w->key, slice_of(x->meta, x->attrs_len));
    if (x->source != NULL)
        big_unref(x->source);
    x->source = NULL;
    x->is_done = true;
    x->w->next = NULL;
    writer_hand_over(x->draft.ls, x->w, x->w, 1);
}

static void make_more(struct aio_op *op)
{
    struct big_extend *x = (struct big_extend *)op;

    if (x->rc == 0 && x->source_bytes > 0 && copy_some(x))
        aio_pool_run(x->draft.ls->config.pool, op);
    else
        finish(x);
}

static void make_file(struct aio_op *op)
{
    struct big_extend *x = (struct big_extend *)op;

    if (x->source_bytes > 0)
        x->rc = open_source(x);
    if (x->rc == 0 && x->parts[0].len > 0)
        x->rc = big_draft_write(&x->draft, x->parts[0].ptr, x->parts[0].len);
    op->work = make_more;
    make_more(op);
}

/* ---- sending a write away ---- */

static void release(struct big_draft *d)
{
    struct big_extend *x = (struct big_extend *)((char *)d - offsetof(struct big_extend, draft));

    hash_stream_free(x->check);
    free(x->memory);
    free(x);
}

static bool lies_in(struct slice s, const void *start, size_t len)
{
    const char *from = start;

    return s.len == 0 || (s.ptr >= from && s.ptr + s.len <= from + len);
}

/* What does not lie in the write itself is copied: it goes before the file is made. 0 or
 * -ENOMEM. */
static int keep_parts(struct big_extend *x, const struct slice parts[3])
{
    const struct store_write *w = x->w;
    bool stays[3];
    size_t room = 0;
    char *at;

    for (int i = 0; i < 3; i++) {
        stays[i] = lies_in(parts[i], w->value, w->value_len) ||
                   lies_in(parts[i], w->scratch, sizeof(w->scratch));
        room += stays[i] ? 0 : parts[i].len;
    }
    x->memory = at = malloc(room + 1);
    if (at == NULL)
        return -ENOMEM;
    for (int i = 0; i < 3; i++) {
        x->parts[i] = parts[i];
        if (stays[i])
            continue;
        memcpy(at, parts[i].ptr, parts[i].len);
        x->parts[i].ptr = at;
        at += parts[i].len;
    }
    return 0;
}

/* The sum of the old file begins with its key and attributes. 0 or -ENOMEM. */
static int set_source(struct big_extend *x, const struct record *now)
{
    x->source_number = now->big_file;
    x->source_bytes = now->big_bytes;
    x->source_sum = now->big_sum;
    x->check = hash_stream_new();
    if (x->check == NULL)
        return -ENOMEM;
    hash_stream_add(x->check, x->w->key.ptr, x->w->key.len);
    hash_stream_add(x->check, now->attrs.ptr, now->attrs.len);
    return 0;
}

static struct big_extend *extend_new(struct store_write *w, struct slice attrs)
{
    struct big_extend *x = calloc(1, sizeof(*x) + attrs.len);

    if (x == NULL)
        return NULL;
    x->w = w;
    x->waiting_last = &x->waiting_first;
    x->draft.release = release;
    x->attrs_len = attrs.len;
    if (attrs.len > 0)
        memcpy(x->meta, attrs.ptr, attrs.len);
    return x;
}

int big_extend_start(struct logstore *ls, struct store_write *w, const struct record *now,
                     bool copies_now, struct slice attrs, const struct slice parts[3])
{
    uint64_t source_bytes = copies_now ? now->big_bytes : 0;
    uint64_t bytes = source_bytes + parts[0].len + parts[1].len + parts[2].len;
    struct big_extend *x = extend_new(w, attrs);
    int rc = x == NULL ? -ENOMEM : keep_parts(x, parts);

    assert(w->extend == NULL);
    if (rc == 0 && source_bytes > 0)
        rc = set_source(x, now);
    if (rc == 0)
        rc = big_draft_begin(&x->draft, ls, w->key, attrs, bytes);
    if (rc != 0) {
        if (x != NULL)
            release(&x->draft);
        return rc;
    }
    rc = big_draft_charge(&x->draft, bytes);
    if (rc != 0) {
        big_draft_end(&x->draft, false);
        return rc;
    }
    if (now != NULL)
        x->base = now->base;
    big_draft_complete(&x->draft);
    w->extend = x;
    x->next = ls->big.extends;
    ls->big.extends = x;
    x->op.work = make_file;
    aio_pool_run(ls->config.pool, &x->op);
    return 0;
}

/* ---- the write comes back ---- */

bool big_extend_is_for(const struct big_extend *x, const struct record *now)
{
    struct stamp base = now == NULL ? (struct stamp){0} : now->base;

    return x->is_done && stamp_compare(x->base, base) == 0;
}

int big_extend_describe(const struct big_extend *x, struct record *r)
{
    if (x->rc == 0)
        big_draft_describe(&x->draft, r);
    return x->rc;
}

bool big_extend_wait(struct logstore *ls, struct store_write *w)
{
    struct big_extend *x = ls->big.extends;

    while (x != NULL && (x->w == w || x->w->hash != w->hash || !slice_equal(x->w->key, w->key)))
        x = x->next;
    if (x == NULL || w->op == STORE_FLUSH)
        return false;
    w->next = NULL;
    *x->waiting_last = w;
    x->waiting_last = &w->next;
    return true;
}

struct store_write *big_extend_release(struct logstore *ls, struct big_extend *x,
                                       struct store_write *next)
{
    struct big_extend **at = &ls->big.extends;
    struct store_write *first = x->waiting_first;

    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    if (first == NULL)
        return next;
    *x->waiting_last = next;
    return first;
}

void big_extend_set_used(struct big_extend *x)
{
    x->is_used = true;
}

void big_extend_end(struct big_extend *x, bool keep)
{
    big_draft_end(&x->draft, keep && x->is_used);
}
