/*
 * output.c - a connection's way out.
 *
 * Provides: the output calls of net.h; output_*() of net_internal.h.
 * Threads:  the worker's.
 *
 * Small output is written to the worker's shared buffer and leaves by one send at the end of the
 * connection's part; it belongs to one connection at a time (out_owner). What the socket does not
 * take, and what is not bytes, is a queue of pieces of the connection (struct output, which exists
 * only while there are pieces). Bytes in the shared buffer always come before the queue: once there
 * is a queue, further bytes are queued too.
 */
#include "net/net_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/log.h"

enum {
    GATHER_MAX = 64,   /* pieces of one sendmsg */
    CHUNK_BYTES = 960, /* least room of a piece of bytes */
};

enum piece_kind { PIECE_BYTES, PIECE_MEMORY, PIECE_FILE };

struct piece {
    struct piece *next;
    enum piece_kind kind;
    int fd;                      /* PIECE_FILE */
    off_t offset;                /* PIECE_FILE: of the next byte to send */
    const char *at;              /* else: the next byte to send */
    size_t len;                  /* bytes left */
    size_t cap;                  /* PIECE_BYTES: of data */
    const _Atomic bool *revoked; /* PIECE_FILE: may be NULL */
    void (*release)(void *arg);
    void *arg;
    char data[]; /* PIECE_BYTES */
};

struct output {
    struct conn *conn; /* NULL: gone while a read ahead was under way */
    struct worker *worker;
    struct piece *head;
    struct piece *tail;
    size_t pending;      /* bytes left of all pieces */
    bool reading;        /* ahead, for the piece at the head */
    off_t resident_end;  /* up to here the head's file was read ahead, ... */
    int64_t resident_ms; /* ... then */
    struct aio_op op;
};

/* ---- pieces ---- */

static size_t piece_bytes(const struct piece *p)
{
    return sizeof(*p) + p->cap;
}

static void piece_free(struct output *out, struct piece *p)
{
    if (p->release != NULL)
        p->release(p->arg);
    budget_give(out->worker->net->config.budget, piece_bytes(p));
    free(p);
}

static void output_free(struct output *out)
{
    while (out->head != NULL) {
        struct piece *p = out->head;

        out->head = p->next;
        piece_free(out, p);
    }
    free(out);
}

static void no_memory(struct conn *c)
{
    counter_add(&c->worker->counters, COUNTER_STORE_NO_MEMORY, 1);
    conn_abort(c);
}

static struct output *output_of(struct conn *c)
{
    struct output *out = c->output;

    if (out != NULL)
        return out;
    out = calloc(1, sizeof(*out));
    if (out == NULL)
        return NULL;
    out->conn = c;
    out->worker = c->worker;
    c->output = out;
    c->moved_ms = c->worker->now_ms; /* from now on the client is to take it */
    return out;
}

/* A new piece, not linked yet. NULL: no memory, the connection is being aborted. */
static struct piece *piece_new(struct conn *c, enum piece_kind kind, size_t cap)
{
    struct budget *budget = c->worker->net->config.budget;
    struct piece *p = NULL;

    if (output_of(c) != NULL && budget_take(budget, sizeof(*p) + cap)) {
        p = malloc(sizeof(*p) + cap);
        if (p == NULL)
            budget_give(budget, sizeof(*p) + cap);
    }
    if (p == NULL) {
        no_memory(c);
        return NULL;
    }
    *p = (struct piece){.kind = kind, .cap = cap, .at = p->data};
    return p;
}

static void piece_append(struct output *out, struct piece *p)
{
    if (out->head == NULL)
        out->head = p;
    else
        out->tail->next = p;
    out->tail = p;
    out->pending += p->len;
}

/* The head is sent; with the last one the queue goes too. */
static void piece_done(struct conn *c)
{
    struct output *out = c->output;
    struct piece *p = out->head;

    out->head = p->next;
    out->resident_end = 0;
    piece_free(out, p);
    if (out->head == NULL) {
        free(out);
        c->output = NULL;
    }
}

/* ---- writing ---- */

static bool owns_shared(const struct conn *c)
{
    return c->worker->out_owner == c && c->worker->out_len > 0;
}

size_t output_pending(const struct conn *c)
{
    size_t pending = c->output != NULL ? c->output->pending : 0;

    return owns_shared(c) ? pending + c->worker->out_len : pending;
}

/* Output made outside of the connection's part is sent when its part comes. */
static void note_output(struct conn *c)
{
    if (c->worker->current != c)
        worker_todo(c);
}

static size_t chunk_room(const struct piece *p)
{
    return p->cap - (size_t)(p->at - p->data) - p->len;
}

static char *queue_room(struct conn *c, size_t n)
{
    struct piece *p = c->output != NULL ? c->output->tail : NULL;

    if (p == NULL || p->kind != PIECE_BYTES || chunk_room(p) < n) {
        p = piece_new(c, PIECE_BYTES, n > CHUNK_BYTES ? n : CHUNK_BYTES);
        if (p == NULL)
            return NULL;
        piece_append(c->output, p);
    }
    return p->data + (p->at - p->data) + p->len;
}

static char *room_slowly(struct conn *c, size_t n)
{
    struct worker *w = c->worker;

    assert(n <= NET_ROOM_MAX);
    if (c->flags & CONN_DOOMED)
        return NULL;
    note_output(c);
    if (c->output == NULL && w->out_len > 0 &&
        (w->out_owner != c || n > NET_OUTPUT_BUFFER - w->out_len)) {
        output_flush(w->out_owner);
        assert(w->out_len == 0);
    }
    if (c->flags & CONN_DOOMED)
        return NULL;
    if (c->output != NULL)
        return queue_room(c, n);
    w->out_owner = c;
    return w->out_buf + w->out_len;
}

char *conn_room(struct conn *c, size_t n)
{
    struct worker *w = c->worker;

    if (w->out_owner == c && c->output == NULL && n <= NET_OUTPUT_BUFFER - w->out_len &&
        w->current == c && (c->flags & CONN_DOOMED) == 0)
        return w->out_buf + w->out_len;
    return room_slowly(c, n);
}

void conn_commit(struct conn *c, size_t n)
{
    if (c->output != NULL) {
        assert(n <= chunk_room(c->output->tail));
        c->output->tail->len += n;
        c->output->pending += n;
    } else if (c->worker->out_owner == c) {
        c->worker->out_len += n;
    }
}

int conn_write(struct conn *c, const void *data, size_t len)
{
    const char *from = data;

    while (len > 0) {
        size_t n = len < NET_ROOM_MAX ? len : NET_ROOM_MAX;
        char *room = conn_room(c, n);

        if (room == NULL)
            return -ENOMEM;
        memcpy(room, from, n);
        conn_commit(c, n);
        from += n;
        len -= n;
    }
    return 0;
}

/* Appends a piece that needs to be released. */
static void write_piece(struct conn *c, const struct piece *model)
{
    struct piece *p = NULL;

    if (model->len > 0 && (c->flags & CONN_DOOMED) == 0)
        p = piece_new(c, model->kind, 0);
    if (p == NULL) {
        if (model->release != NULL)
            model->release(model->arg);
        return;
    }
    *p = *model;
    piece_append(c->output, p);
    note_output(c);
}

void conn_write_memory(struct conn *c, const void *data, size_t len, void (*release)(void *arg),
                       void *arg)
{
    struct piece p = {.kind = PIECE_MEMORY, .at = data, .len = len, .release = release, .arg = arg};

    write_piece(c, &p);
}

void conn_write_file(struct conn *c, int fd, off_t offset, size_t len, const _Atomic bool *revoked,
                     void (*release)(void *arg), void *arg)
{
    struct piece p = {.kind = PIECE_FILE,
                      .fd = fd,
                      .offset = offset,
                      .len = len,
                      .revoked = revoked,
                      .release = release,
                      .arg = arg};

    write_piece(c, &p);
}

bool conn_output_full(struct conn *c)
{
    if (output_pending(c) >= NET_OUTPUT_HIGH_BYTES)
        c->flags |= CONN_FULL;
    return (c->flags & CONN_FULL) != 0;
}

/* ---- sending ---- */

static void count_sent(struct conn *c, size_t n)
{
    struct worker *w = c->worker;

    if (n == 0)
        return;
    c->moved_ms = w->now_ms;
    w->part_sent += n;
    counter_add(&w->counters, COUNTER_BYTES_WRITTEN, n);
}

/* What a failed send means: the socket is full, or the connection is gone (no error of ours). */
static void on_send_error(struct conn *c)
{
    if (errno == EAGAIN || errno == EINTR)
        c->flags |= CONN_BLOCKED;
    else
        conn_abort(c);
}

/* The shared buffer's bytes from `sent` on become the head of the queue. */
static void keep_shared(struct conn *c, size_t sent)
{
    struct worker *w = c->worker;
    size_t left = w->out_len - sent;
    struct piece *p = piece_new(c, PIECE_BYTES, left);
    struct output *out = c->output;

    w->out_len = 0;
    if (p == NULL)
        return;
    memcpy(p->data, w->out_buf + sent, left);
    p->len = left;
    p->next = out->head;
    if (out->head == NULL)
        out->tail = p;
    out->head = p;
    out->pending += left;
}

/* Takes n sent bytes off the front: the shared buffer, then pieces of bytes and memory. */
static void take_sent(struct conn *c, size_t n)
{
    struct worker *w = c->worker;

    count_sent(c, n);
    if (owns_shared(c)) {
        if (n < w->out_len) {
            keep_shared(c, n);
            return;
        }
        n -= w->out_len;
        w->out_len = 0;
    }
    while (n > 0 && c->output != NULL) {
        struct piece *p = c->output->head;
        size_t part = n < p->len ? n : p->len;

        p->at += part;
        p->len -= part;
        c->output->pending -= part;
        n -= part;
        if (p->len == 0)
            piece_done(c);
    }
}

/* The steady state: everything by one send. */
static void send_shared(struct conn *c)
{
    struct worker *w = c->worker;
    ssize_t n = send(c->fd, w->out_buf, w->out_len, MSG_NOSIGNAL);

    if (n == (ssize_t)w->out_len) {
        count_sent(c, (size_t)n);
        w->out_len = 0;
        return;
    }
    if (n >= 0)
        c->flags |= CONN_BLOCKED;
    else
        on_send_error(c);
    if (c->flags & CONN_DOOMED)
        w->out_len = 0;
    else
        take_sent(c, n > 0 ? (size_t)n : 0);
}

/* Fills iov with what stands before the next file piece, at most NET_SLICE_MAX bytes. *next is what
 * comes after that: the file piece, or more of the same. */
static int gather(struct conn *c, struct iovec iov[GATHER_MAX], size_t *total, struct piece **next)
{
    struct piece *p = c->output->head;
    int count = 0;

    *total = 0;
    if (owns_shared(c)) {
        iov[count++] = (struct iovec){c->worker->out_buf, c->worker->out_len};
        *total = c->worker->out_len;
    }
    for (; p != NULL && p->kind != PIECE_FILE && count < GATHER_MAX; p = p->next) {
        size_t most = NET_SLICE_MAX - *total;

        iov[count++] = (struct iovec){(char *)p->at, p->len < most ? p->len : most};
        *total += iov[count - 1].iov_len;
        if (p->len >= most)
            break;
    }
    *next = p;
    return count;
}

/* False: the socket is full or the connection is gone. */
static bool send_gathered(struct conn *c)
{
    struct iovec iov[GATHER_MAX];
    struct msghdr msg = {.msg_iov = iov};
    struct piece *next;
    size_t total;
    ssize_t n;
    int flags = MSG_NOSIGNAL;

    msg.msg_iovlen = (size_t)gather(c, iov, &total, &next);
    if (next != NULL && (next->kind != PIECE_FILE || next->len < NET_MORE_BELOW))
        flags |= MSG_MORE;
    n = sendmsg(c->fd, &msg, flags);
    if (n < 0)
        on_send_error(c);
    else if ((size_t)n < total)
        c->flags |= CONN_BLOCKED;
    if (c->flags & CONN_DOOMED)
        return false;
    take_sent(c, n > 0 ? (size_t)n : 0);
    return (c->flags & (CONN_BLOCKED | CONN_DOOMED)) == 0;
}

/* ---- files ---- */

static void on_read_ahead(struct aio_op *op)
{
    struct output *out = (struct output *)((char *)op - offsetof(struct output, op));
    struct conn *c = out->conn;

    out->reading = false;
    if (c == NULL) {
        out->worker->orphaned_reads--;
        output_free(out);
        return;
    }
    if (op->result < 0) {
        log_error("connection %llu: cannot read the file that is being sent: %s",
                  (unsigned long long)c->id, strerror((int)-op->result));
        conn_abort(c);
        return;
    }
    out->resident_end = op->offset + (off_t)op->len;
    out->resident_ms = c->worker->now_ms;
    c->moved_ms = c->worker->now_ms; /* the wait was not the client's fault */
    worker_todo(c);
}

static void read_ahead(struct output *out, const struct piece *p, size_t slice)
{
    out->reading = true;
    out->op =
        (struct aio_op){.done = on_read_ahead, .fd = p->fd, .offset = p->offset, .len = slice};
    aio_read_ahead(out->conn->worker->aio, &out->op);
}

/* How much of the piece may be sent without waiting for the disk; 0: it is being read ahead. */
static size_t resident_bytes(struct output *out, const struct piece *p)
{
    size_t slice = p->len < NET_SLICE_MAX ? p->len : NET_SLICE_MAX;
    int64_t now_ms = out->conn->worker->now_ms;

    /* Read ahead a moment ago: not asked again, so that each such read is followed by a send. */
    if (p->offset < out->resident_end && now_ms - out->resident_ms < NET_RESIDENT_MS) {
        size_t known = (size_t)(out->resident_end - p->offset);

        return known < slice ? known : slice;
    }
    if (aio_is_cached(p->fd, p->offset, slice))
        return slice;
    read_ahead(out, p, slice);
    return 0;
}

static void on_file_error(struct conn *c, const struct piece *p, ssize_t n)
{
    if (n == 0) {
        log_error("connection %llu: a file ends at %lld, %zu bytes too early, while it is sent",
                  (unsigned long long)c->id, (long long)p->offset, p->len);
        conn_abort(c);
        return;
    }
    if (errno == EIO || errno == EBADF || errno == EINVAL || errno == ENOMEM)
        log_error("connection %llu: cannot send from a file: %s", (unsigned long long)c->id,
                  strerror(errno));
    on_send_error(c);
}

/* False: the socket is full, the disk is waited for, or the connection is gone. */
static bool send_file(struct conn *c)
{
    struct output *out = c->output;
    struct piece *p = out->head;
    size_t slice = resident_bytes(out, p);
    off_t offset = p->offset;
    ssize_t n;

    if (slice == 0)
        return false;
    n = sendfile(c->fd, p->fd, &offset, slice);
    if (n <= 0) {
        on_file_error(c, p, n);
        return false;
    }
    count_sent(c, (size_t)n);
    p->offset += n;
    p->len -= (size_t)n;
    out->pending -= (size_t)n;
    if ((size_t)n < slice)
        c->flags |= CONN_BLOCKED; /* or the file ends here: the next call tells */
    if (p->len == 0)
        piece_done(c);
    return (size_t)n == slice;
}

static void send_queue(struct conn *c)
{
    struct worker *w = c->worker;

    while (c->output != NULL && !c->output->reading) {
        const struct piece *head = c->output->head;
        bool is_file = head->kind == PIECE_FILE && !owns_shared(c);

        if (head->len == 0 && !owns_shared(c)) { /* room was asked for and not used */
            piece_done(c);
            continue;
        }
        if (w->part_sent >= NET_PART_MAX && !owns_shared(c)) {
            worker_again(c); /* others first */
            return;
        }
        if (!(is_file ? send_file(c) : send_gathered(c)))
            return;
    }
}

void output_flush(struct conn *c)
{
    if (c->flags & CONN_DOOMED) {
        if (c->worker->out_owner == c)
            c->worker->out_len = 0;
    } else if (c->output == NULL) {
        if (owns_shared(c))
            send_shared(c);
    } else if ((c->flags & CONN_BLOCKED) == 0) {
        send_queue(c);
    }
}

bool output_reads_ahead(const struct conn *c)
{
    return c->output != NULL && c->output->reading;
}

bool output_is_revoked(const struct conn *c)
{
    const struct piece *p = c->output != NULL ? c->output->head : NULL;

    while (p != NULL && (p->revoked == NULL || !atomic_load(p->revoked)))
        p = p->next;
    return p != NULL;
}

void output_drop(struct conn *c)
{
    struct output *out = c->output;

    if (c->worker->out_owner == c) {
        c->worker->out_owner = NULL;
        c->worker->out_len = 0;
    }
    if (out == NULL)
        return;
    c->output = NULL;
    if (out->reading) {
        out->conn = NULL; /* the file must stay open until the read is done: see on_read_ahead() */
        out->worker->orphaned_reads++;
    } else {
        output_free(out);
    }
}
