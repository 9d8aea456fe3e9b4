/*
 * conn.c - one connection: its life, receiving, feeding its session, and deciding what comes next.
 *
 * Provides: the conn_*() calls of net.h but for output, and those of net_internal.h.
 * Threads:  the worker's.
 *
 * A connection's part of a turn is: receive (or ready()), input(), then conn_settle(), which sends
 * and looks at what the flags ask for. The steady state (all input used, all output sent) leaves it
 * at one test.
 */
#include "net/net_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

_Static_assert(sizeof(struct conn) <= 96, "idle connections must stay small");

/* ---- life ---- */

int conn_create(struct worker *w, int fd)
{
    struct conn *c = calloc(1, sizeof(*c));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

    if (c == NULL || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        int rc = c == NULL ? -ENOMEM : -errno;

        free(c);
        close(fd);
        return rc;
    }
    c->source = SOURCE_CONN;
    c->fd = fd;
    c->armed = EPOLLIN;
    c->worker = w;
    c->moved_ms = w->now_ms;
    c->id = ++w->conn_serial * w->net->worker_count + w->index;
    c->next = w->conns;
    if (c->next != NULL)
        c->next->prev = c;
    w->conns = c;
    w->conn_count++;
    return 0;
}

static void unlink_conn(struct conn *c)
{
    struct worker *w = c->worker;

    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        w->conns = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    w->conn_count--;
}

static void kept_free(struct conn *c)
{
    if (c->kept == NULL)
        return;
    budget_give(c->worker->net->config.budget, sizeof(struct kept) + c->kept->cap);
    free(c->kept);
    c->kept = NULL;
}

void conn_destroy(struct conn *c)
{
    struct worker *w = c->worker;

    assert(w->current != c && (c->flags & CONN_QUEUED) == 0);
    if ((c->flags & CONN_LINGER) == 0)
        w->ops->closed(c);
    output_drop(c);
    kept_free(c);
    unlink_conn(c);
    close(c->fd); /* epoll forgets it with that */
    free(c);
    atomic_fetch_sub_explicit(&w->net->conn_count, 1, memory_order_relaxed);
    counter_add(&w->counters, COUNTER_CONNECTIONS_CLOSED, 1);
    listeners_resume(w);
}

void conn_abort(struct conn *c)
{
    if (c->flags & CONN_DOOMED)
        return;
    c->flags |= CONN_DOOMED;
    worker_todo(c);
}

/* ---- unparsed input ---- */

static void no_memory(struct conn *c)
{
    counter_add(&c->worker->counters, COUNTER_STORE_NO_MEMORY, 1);
    conn_abort(c);
}

/* A buffer with room for `need` bytes behind what is kept. False: the connection is aborted. */
static bool kept_reserve(struct conn *c, size_t need)
{
    struct kept *old = c->kept;
    size_t have = old != NULL ? old->len : 0;
    size_t cap = (have + need + 255) & ~(size_t)255;
    struct kept *k;

    if (old != NULL && old->cap - old->len >= need) {
        memmove(old->data, old->data + old->start, old->len);
        old->start = 0;
        return true;
    }
    if (have + need > NET_KEPT_MAX) {
        log_debug("connection %llu: input of %zu bytes without an end", (unsigned long long)c->id,
                  have + need);
        conn_abort(c);
        return false;
    }
    if (old != NULL && cap < old->cap * 2) /* grows while one request comes in: not each time */
        cap = old->cap * 2;
    if (!budget_take(c->worker->net->config.budget, sizeof(*k) + cap)) {
        no_memory(c);
        return false;
    }
    k = malloc(sizeof(*k) + cap);
    if (k == NULL) {
        budget_give(c->worker->net->config.budget, sizeof(*k) + cap);
        no_memory(c);
        return false;
    }
    *k = (struct kept){.cap = cap, .start = 0, .len = have};
    if (have > 0)
        memcpy(k->data, old->data + old->start, have);
    kept_free(c);
    c->kept = k;
    return true;
}

static void kept_add(struct conn *c, struct slice bytes)
{
    struct kept *k = c->kept;

    if (c->flags & CONN_CLOSING)
        c->flags |= CONN_PARTIAL; /* nobody asks for it, but more may be on its way: see finish() */
    if ((c->flags & (CONN_DOOMED | CONN_CLOSING)) != 0)
        return;
    if (k == NULL || k->cap - k->start - k->len < bytes.len) {
        if (!kept_reserve(c, bytes.len))
            return;
        k = c->kept;
    }
    memcpy(k->data + k->start + k->len, bytes.ptr, bytes.len);
    k->len += bytes.len;
}

static void kept_drop(struct conn *c, size_t used)
{
    c->kept->start += used;
    c->kept->len -= used;
    if (c->kept->len == 0)
        kept_free(c);
}

/* ---- feeding the session ---- */

/* Full output must drain before more requests make more of it. */
static bool takes_input(struct conn *c)
{
    if ((c->flags & (CONN_HOLD | CONN_FULL | CONN_CLOSING | CONN_DOOMED)) != 0)
        return false;
    if (output_pending(c) < NET_OUTPUT_HIGH_BYTES)
        return true;
    output_flush(c);
    if (output_pending(c) >= NET_OUTPUT_HIGH_BYTES)
        c->flags |= CONN_FULL;
    return (c->flags & (CONN_FULL | CONN_DOOMED)) == 0;
}

/* Gives the session what it takes of `in`. Returns the bytes used. */
static size_t feed(struct conn *c, struct slice in)
{
    const struct net_ops *ops = c->worker->ops;
    size_t used = 0;

    while (used < in.len) {
        size_t n;

        if (!takes_input(c)) {
            c->flags |= CONN_OFFER;
            break;
        }
        n = ops->input(c, slice_after(in, used));
        assert(n <= in.len - used);
        if (n == 0) {
            /* Refused for now (what stopped it will end), or incomplete (more bytes must come). */
            if (c->flags & (CONN_HOLD | CONN_FULL))
                c->flags |= CONN_OFFER;
            else
                c->flags &= ~(uint32_t)CONN_OFFER;
            break;
        }
        used += n;
    }
    return used;
}

static void feed_kept(struct conn *c)
{
    size_t used;

    c->flags &= ~(uint32_t)CONN_OFFER;
    used = feed(c, slice_of(c->kept->data + c->kept->start, c->kept->len));
    if (used > 0)
        kept_drop(c, used);
}

/* ---- receiving ---- */

/* Tells epoll what is wanted. */
static void set_armed(struct conn *c, uint32_t want)
{
    struct worker *w = c->worker;
    struct epoll_event ev = {.events = want, .data.ptr = c};
    int op = EPOLL_CTL_MOD;

    if (c->flags & CONN_UNWATCHED)
        op = EPOLL_CTL_ADD;
    c->flags &= ~(uint32_t)CONN_UNWATCHED;
    c->armed = want;
    if (epoll_ctl(w->epoll_fd, op, c->fd, &ev) != 0) {
        log_warn("connection %llu: cannot wait for it: %s", (unsigned long long)c->id,
                 strerror(errno));
        conn_abort(c);
    }
}

/*
 * A hang-up cannot be masked: with nothing else to wait for it would spin. It says only that no
 * reply can arrive; what the client had sent before is still carried out, so the connection stays,
 * out of epoll, until a recv or a send finds the end.
 */
static void set_unwatched(struct conn *c)
{
    if (c->flags & CONN_UNWATCHED)
        return;
    epoll_ctl(c->worker->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    c->flags |= CONN_UNWATCHED;
    c->armed = 0;
}

/* On hold EPOLLIN stays as it was: a hold during which nothing comes costs no call. */
static void arm(struct conn *c)
{
    uint32_t want = EPOLLIN;

    if (c->flags & (CONN_HOLD | CONN_FULL))
        want = c->armed & EPOLLIN;
    else if (c->flags & (CONN_EOF | CONN_CLOSING))
        want = 0;
    if (c->flags & CONN_BLOCKED)
        want |= EPOLLOUT;
    if (want == 0 && (c->flags & CONN_HANGUP) != 0)
        set_unwatched(c);
    else if (want != c->armed)
        set_armed(c, want);
}

/* Input that comes on hold stays with the kernel, until arm() asks for it again. */
static void ignore_input(struct conn *c)
{
    if (c->armed & EPOLLIN)
        set_armed(c, c->armed & ~(uint32_t)EPOLLIN);
}

/* recv of up to NET_RECV_MAX bytes to `to`. Bytes received; 0: nothing now (or never more, see
 * flags). */
static size_t receive(struct conn *c, char *to)
{
    ssize_t n = recv(c->fd, to, NET_RECV_MAX, 0);

    if (n > 0) {
        c->moved_ms = c->worker->now_ms;
        counter_add(&c->worker->counters, COUNTER_BYTES_READ, (uint64_t)n);
        return (size_t)n;
    }
    if (n == 0)
        c->flags |= CONN_EOF;
    else if (errno != EAGAIN && errno != EINTR)
        conn_abort(c); /* reset by the client: normal */
    return 0;
}

/* Kept input goes in front of what is received, so that the session sees one piece. */
static void receive_behind_kept(struct conn *c)
{
    char *buf = c->worker->recv_buf;
    size_t before = c->kept->len;
    size_t got = receive(c, buf + before);
    size_t used;

    if (got == 0)
        return;
    memcpy(buf, c->kept->data + c->kept->start, before);
    used = feed(c, slice_of(buf, before + got));
    if (used >= before) {
        kept_free(c);
        if (used < before + got)
            kept_add(c, slice_of(buf + used, before + got - used));
        return;
    }
    if (used > 0)
        kept_drop(c, used);
    kept_add(c, slice_of(buf + before, got));
}

/* The same for more than fits into the worker's buffer. */
static void receive_to_kept(struct conn *c)
{
    char *buf = c->worker->recv_buf;
    size_t got = receive(c, buf);

    if (got == 0)
        return;
    kept_add(c, slice_of(buf, got));
    if ((c->flags & CONN_DOOMED) == 0)
        feed_kept(c);
}

static void receive_and_feed(struct conn *c)
{
    char *buf = c->worker->recv_buf;
    size_t got = receive(c, buf);
    size_t used;

    if (got == 0)
        return;
    used = feed(c, slice_of(buf, got));
    if (used < got)
        kept_add(c, slice_of(buf + used, got - used));
}

static void discard_input(struct conn *c)
{
    ssize_t n = recv(c->fd, c->worker->recv_buf, NET_RECV_BUFFER, 0);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_abort(c);
}

static void on_readable(struct conn *c)
{
    if (c->flags & CONN_LINGER)
        discard_input(c);
    else if (c->flags & (CONN_HOLD | CONN_FULL))
        ignore_input(c);
    else if (c->flags & (CONN_EOF | CONN_CLOSING))
        return;
    else if (c->kept == NULL)
        receive_and_feed(c);
    else if (c->kept->len <= NET_RECV_BUFFER - NET_RECV_MAX)
        receive_behind_kept(c);
    else
        receive_to_kept(c);
}

/* ---- what comes next ---- */

bool conn_has_partial(const struct conn *c)
{
    return c->kept != NULL || (c->flags & CONN_PARTIAL) != 0;
}

bool conn_is_between_requests(const struct conn *c)
{
    return !conn_has_partial(c) && (c->flags & (CONN_HOLD | CONN_FULL | CONN_BUSY)) == 0 &&
           output_pending(c) == 0;
}

static bool has_unread(const struct conn *c)
{
    int bytes = 0;

    return ioctl(c->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

/*
 * All is sent. A close with unread input would reset the connection, and the client could lose the
 * last reply (the one that says why): then only our direction is closed, and input is thrown away
 * until the client closes too, or for NET_LINGER_MS.
 */
static void finish(struct conn *c)
{
    bool more = (c->flags & CONN_EOF) == 0 && (conn_has_partial(c) || has_unread(c));

    if (!more || shutdown(c->fd, SHUT_WR) != 0) {
        conn_abort(c);
        return;
    }
    kept_free(c);
    c->worker->ops->closed(c);
    c->session = NULL;
    c->moved_ms = c->worker->now_ms;
    c->flags = CONN_LINGER | (c->flags & (CONN_QUEUED | CONN_HANGUP | CONN_UNWATCHED));
}

static void call_ready(struct conn *c)
{
    c->flags &= ~(uint32_t)CONN_WOKEN;
    if (c->kept != NULL)
        c->flags |= CONN_OFFER;
    c->worker->ops->ready(c);
}

/* One thing that the flags ask for. False: nothing is left to do. */
static bool settle_step(struct conn *c)
{
    const uint32_t stopped = CONN_HOLD | CONN_FULL | CONN_CLOSING;

    if ((c->flags & CONN_FULL) != 0 && output_pending(c) < NET_OUTPUT_LOW) {
        c->flags &= ~(uint32_t)CONN_FULL;
        call_ready(c);
        return true;
    }
    if (c->kept != NULL && (c->flags & CONN_OFFER) != 0 && (c->flags & stopped) == 0) {
        feed_kept(c);
        return true;
    }
    if ((c->flags & CONN_EOF) != 0 && (c->flags & (stopped | CONN_EOF_TOLD)) == 0) {
        c->flags |= CONN_EOF_TOLD;
        c->worker->ops->end_of_input(c);
        return true;
    }
    return false;
}

/* Stopping: a request that has reached us is served still; its reply would be lost in a reset. */
static bool is_finished(const struct conn *c)
{
    if (c->flags & CONN_CLOSING)
        return output_pending(c) == 0;
    return c->worker->stopping && conn_is_between_requests(c) && !has_unread(c);
}

static void settle_slowly(struct conn *c)
{
    const uint32_t gone = CONN_DOOMED | CONN_LINGER;

    while ((c->flags & gone) == 0 && settle_step(c))
        output_flush(c);
    if ((c->flags & gone) == 0 && is_finished(c))
        finish(c);
    if ((c->flags & CONN_DOOMED) == 0)
        arm(c);
}

static void settle(struct conn *c)
{
    output_flush(c);
    if (c->flags != 0 || c->kept != NULL || c->output != NULL || c->armed != EPOLLIN ||
        c->worker->stopping)
        settle_slowly(c);
    c->worker->current = NULL;
}

static void begin_part(struct conn *c)
{
    c->worker->current = c;
    c->worker->part_sent = 0;
}

void conn_on_event(struct conn *c, uint32_t events)
{
    if (c->flags & CONN_DOOMED)
        return;
    begin_part(c);
    if (events & (EPOLLHUP | EPOLLERR))
        c->flags |= CONN_HANGUP;
    if (events & EPOLLOUT)
        c->flags &= ~(uint32_t)CONN_BLOCKED;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        on_readable(c);
    settle(c);
}

void conn_on_todo(struct conn *c)
{
    begin_part(c);
    if (c->flags & CONN_WOKEN)
        call_ready(c);
    settle(c);
}

void conn_stop(struct conn *c)
{
    if (c->flags & (CONN_DOOMED | CONN_LINGER))
        return;
    begin_part(c);
    if ((c->flags & (CONN_HOLD | CONN_FULL)) == 0)
        on_readable(c);
    settle(c);
}

/* ---- for the session ---- */

struct worker *conn_worker(const struct conn *c)
{
    return c->worker;
}

void *conn_session(const struct conn *c)
{
    return c->session;
}

void conn_set_session(struct conn *c, void *session)
{
    c->session = session;
}

uint64_t conn_id(const struct conn *c)
{
    return c->id;
}

void conn_hold(struct conn *c)
{
    c->flags |= CONN_HOLD;
}

void conn_resume(struct conn *c)
{
    if ((c->flags & CONN_HOLD) == 0)
        return;
    c->flags &= ~(uint32_t)CONN_HOLD;
    c->moved_ms = c->worker->now_ms; /* the time on hold is not the client's */
    if (c->worker->current != c && (c->flags & CONN_DOOMED) == 0)
        worker_todo(c);
}

void conn_set_partial(struct conn *c, bool partial)
{
    if (partial)
        c->flags |= CONN_PARTIAL;
    else
        c->flags &= ~(uint32_t)CONN_PARTIAL;
}

void conn_set_busy(struct conn *c, bool busy)
{
    if (busy)
        c->flags |= CONN_BUSY;
    else
        c->flags &= ~(uint32_t)CONN_BUSY;
    c->moved_ms = c->worker->now_ms; /* as with a hold, the time is not the client's */
}

void conn_wake(struct conn *c)
{
    if ((c->flags & (CONN_WOKEN | CONN_DOOMED | CONN_LINGER)) != 0)
        return;
    c->flags |= CONN_WOKEN;
    worker_todo(c);
}

void conn_close_when_sent(struct conn *c)
{
    c->flags |= CONN_CLOSING;
    if (c->worker->current != c && (c->flags & CONN_DOOMED) == 0)
        worker_todo(c);
}
