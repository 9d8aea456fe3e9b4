/*
 * ttbench_conn.c - one client connection (ttbench_conn.h).
 */
#include "tools/ttbench_conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/num.h"

enum {
    OUT_BYTES_MIN = 4096,
    OUT_BYTES_MAX = 128 * 1024,
    MESSAGES_MAX = 5, /* for each thread: the first failures tell the story */
    QUOTE_BYTES = 48,
};

/* ---- failures ---- */

static void env_message(struct conn_env *env, const struct bench_conn *c, const char *format,
                        va_list args)
{
    char text[512];

    if (env->messages++ >= MESSAGES_MAX)
        return;
    vsnprintf(text, sizeof(text), format, args);
    fprintf(stderr, "ttbench: connection %u: %s\n", c->index, text);
}

static void conn_note(struct bench_conn *c, struct conn_env *env, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void conn_note(struct bench_conn *c, struct conn_env *env, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    env_message(env, c, format, args);
    va_end(args);
}

/* Ends the connection; `count` is the counter that the failure belongs to. Replies that will not
 * come are errors. */
static void conn_fail(struct bench_conn *c, struct conn_env *env, uint64_t *count,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));

static void conn_fail(struct bench_conn *c, struct conn_env *env, uint64_t *count,
                      const char *format, ...)
{
    va_list args;

    va_start(args, format);
    env_message(env, c, format, args);
    va_end(args);
    ++*count;
    if (c->count > 1)
        env->stats.errors += c->count - 1;
    conn_close(c, env);
}

/* Printable text of what the server sent. */
static const char *quote(struct slice s, char out[QUOTE_BYTES * 4 + 1])
{
    size_t n = s.len < QUOTE_BYTES ? s.len : QUOTE_BYTES;
    char *at = out;

    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s.ptr[i];

        if (byte >= 0x20 && byte < 0x7f)
            *at++ = (char)byte;
        else
            at += sprintf(at, "\\x%02x", byte);
    }
    *at = '\0';
    return out;
}

/* ---- opening and closing ---- */

static size_t out_bytes(const struct bench_options *opts)
{
    uint64_t value = opts->read_percent < 100 || opts->fill ? value_sizes_max(&opts->sizes) : 0;
    uint64_t want = (uint64_t)opts->pipeline * (opts->keys.key_len + 200);

    if (value >= OUT_BYTES_MAX || want + opts->pipeline * value > OUT_BYTES_MAX)
        return OUT_BYTES_MAX;
    want += opts->pipeline * value;
    return want < OUT_BYTES_MIN ? OUT_BYTES_MIN : (size_t)want;
}

/* A connected, then non-blocking socket, or -errno. */
static int socket_connect(const struct conn_env *env)
{
    int one = 1;
    double timeout_s = env->opts->timeout_s;
    struct timeval timeout = {(time_t)timeout_s,
                              (suseconds_t)((timeout_s - (double)(time_t)timeout_s) * 1e6)};
    int rc;
    int fd = socket(env->target->family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd == -1)
        return -errno;
    /* The time limit of connect(2) is the one for sending. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) != 0)
        goto fail;
    if (connect(fd, (const struct sockaddr *)&env->target->addr, env->target->addr_len) != 0)
        goto fail;
    if (env->target->family != AF_UNIX &&
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0)
        goto fail;
    return fd;

fail:
    rc = errno == EAGAIN || errno == EINPROGRESS ? -ETIMEDOUT : -errno;
    close(fd);
    return rc;
}

/* Connects and waits for events; all states but the ring's start anew. */
static int conn_connect(struct bench_conn *c, struct conn_env *env)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int fd = socket_connect(env);

    if (fd < 0)
        return fd;
    if (epoll_ctl(env->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        int rc = -errno;

        close(fd);
        return rc;
    }
    c->fd = fd;
    c->wants_out = false;
    c->last_progress_us = clock_mono_us();
    c->unsent = c->count;
    c->out_pos = c->out_len = 0;
    c->in_body = false;
    c->reading = CONN_READS_HEAD;
    c->held_len = 0;
    return 0;
}

int conn_open(struct bench_conn *c, struct conn_env *env, unsigned index)
{
    int rc;

    memset(c, 0, sizeof(*c));
    c->fd = -1;
    c->index = index;
    c->out_cap = out_bytes(env->opts);
    c->ring = calloc(env->opts->pipeline, sizeof(*c->ring));
    c->out = malloc(c->out_cap);
    rc = c->ring == NULL || c->out == NULL ? -ENOMEM : conn_connect(c, env);
    if (rc != 0) {
        conn_close(c, env);
        return rc;
    }
    env->live++;
    return 0;
}

void conn_close(struct bench_conn *c, struct conn_env *env)
{
    if (c->fd >= 0) {
        close(c->fd);
        env->live--;
    }
    c->fd = -1;
    env->in_flight -= c->count;
    c->count = c->unsent = 0;
    free(c->ring);
    free(c->out);
    free(c->held);
    c->ring = NULL;
    c->out = NULL;
    c->held = NULL;
}

/* The server has closed in order, for instance after the number of requests that it allows for a
 * connection: what it has not answered is sent again on a new connection. */
static void conn_reopen(struct bench_conn *c, struct conn_env *env)
{
    int rc;

    close(c->fd);
    rc = conn_connect(c, env);
    if (rc != 0) {
        env->live--;
        c->fd = -1;
        conn_fail(c, env, &env->stats.errors, "cannot connect again: %s", strerror(-rc));
        return;
    }
    env->stats.reconnects++;
}

/* ---- sending ---- */

static struct bench_request *conn_at(struct bench_conn *c, const struct conn_env *env, unsigned nth)
{
    return &c->ring[(c->head + nth) % env->opts->pipeline];
}

void conn_issue(struct bench_conn *c, struct conn_env *env, const struct bench_request *request)
{
    *conn_at(c, env, c->count) = *request;
    if (c->count == 0)
        c->last_progress_us = request->due_us;
    c->count++;
    c->unsent++;
    env->in_flight++;
}

/* The request as the protocol sees it; its key is put into key[]. */
static struct wire_request request_describe(const struct conn_env *env,
                                            const struct bench_request *request,
                                            char key[KEY_BYTES_MAX], uint64_t *key_hash)
{
    const struct bench_options *opts = env->opts;
    struct wire_request wire = {.key = key_text(&opts->keys, request->key_id, key),
                                .writes = request->writes};

    *key_hash = hash_slice(wire.key);
    wire.host = slice_str(env->target->host);
    wire.flags = opts->flags_from_key ? (uint32_t)*key_hash : opts->flags;
    if (request->writes)
        wire.value_len = value_sizes_pick(&opts->sizes, *key_hash, request->version);
    return wire;
}

/* Puts the head of the next request into the output. */
static void conn_begin_request(struct bench_conn *c, struct conn_env *env)
{
    const struct bench_request *request = conn_at(c, env, c->count - c->unsent);
    char key[KEY_BYTES_MAX];
    uint64_t key_hash;
    struct wire_request wire = request_describe(env, request, key, &key_hash);

    c->out_len += env->opts->wire->head(c->out + c->out_len, &wire);
    c->unsent--;
    if (request->writes) {
        value_make(&c->body, key_hash, request->version, wire.value_len);
        c->body_pos = 0;
        c->in_body = true;
    }
}

/* Fills the output buffer as far as there is something to send. */
static void conn_produce(struct bench_conn *c, struct conn_env *env)
{
    struct slice tail = env->opts->wire->value_tail;

    for (;;) {
        size_t room = c->out_cap - c->out_len;

        if (c->in_body) {
            uint64_t left = c->body.len - c->body_pos;
            size_t n = left < room ? (size_t)left : room;

            value_bytes(&c->body, c->body_pos, c->out + c->out_len, n);
            c->out_len += n;
            c->body_pos += n;
            if (n < left || room - n < tail.len)
                return;
            memcpy(c->out + c->out_len, tail.ptr, tail.len);
            c->out_len += tail.len;
            c->in_body = false;
        } else if (c->unsent > 0 && room >= WIRE_HEAD_BYTES_MAX) {
            conn_begin_request(c, env);
        } else {
            return;
        }
    }
}

static void conn_want_out(struct bench_conn *c, const struct conn_env *env, bool wanted)
{
    struct epoll_event event = {.events = EPOLLIN | (wanted ? (uint32_t)EPOLLOUT : 0),
                                .data.ptr = c};

    if (c->wants_out != wanted)
        (void)epoll_ctl(env->epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_out = wanted;
}

void conn_flush(struct bench_conn *c, struct conn_env *env)
{
    while (c->fd >= 0) {
        ssize_t n;

        if (c->out_pos == c->out_len) {
            c->out_pos = c->out_len = 0;
            conn_produce(c, env);
            if (c->out_len == 0)
                break;
        }
        n = send(c->fd, c->out + c->out_pos, c->out_len - c->out_pos, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            conn_want_out(c, env, true);
            return;
        }
        if (n < 0) {
            /* What the server said before it closed is more telling: leave it to the reading side.
             */
            if (errno == EPIPE || errno == ECONNRESET)
                return;
            conn_fail(c, env, &env->stats.errors, "send: %s", strerror(errno));
            return;
        }
        c->out_pos += (size_t)n;
        env->stats.bytes_out += (uint64_t)n;
    }
    if (c->fd >= 0)
        conn_want_out(c, env, false);
}

/* ---- receiving ---- */

/* A key that this connection itself has written (--own-keys) must be there, also with
 * --allow-misses. */
static void conn_count_miss(struct bench_conn *c, struct conn_env *env,
                            const struct bench_request *request)
{
    char key[KEY_BYTES_MAX];
    struct slice text = key_text(&env->opts->keys, request->key_id, key);

    if (request->version != VALUE_ANY_VERSION) {
        env->stats.mismatches++;
        conn_note(c, env, "%.*s: lost: version %llu was stored", (int)text.len, text.ptr,
                  (unsigned long long)request->version);
        return;
    }
    env->stats.misses++;
    if (!env->opts->allow_misses)
        conn_note(c, env, "%.*s: not found", (int)text.len, text.ptr);
}

static void conn_count_mismatch(struct bench_conn *c, struct conn_env *env,
                                const struct bench_request *request)
{
    char key[KEY_BYTES_MAX];
    char wanted[NUM_TEXT_MAX + 1] = "any";
    struct slice text = key_text(&env->opts->keys, request->key_id, key);

    if (request->version != VALUE_ANY_VERSION)
        wanted[format_u64(wanted, request->version)] = '\0';
    env->stats.mismatches++;
    conn_note(
        c, env, "%.*s: wrong value of %llu bytes, seen by byte %llu; version %llu, expected %s",
        (int)text.len, text.ptr, (unsigned long long)c->check.len, (unsigned long long)c->check.pos,
        (unsigned long long)c->check.expected.version, wanted);
}

/* The reply to the oldest request is complete. */
static void conn_count_reply(struct bench_conn *c, struct conn_env *env, int64_t now_us)
{
    const struct bench_request *request = conn_at(c, env, 0);
    struct bench_stats *stats = &env->stats;
    int64_t waited_us = now_us - request->due_us;

    hist_add(request->writes ? &stats->writes : &stats->reads,
             waited_us > 0 ? (uint64_t)waited_us : 0);
    if (c->reply.kind == WIRE_MISS) {
        conn_count_miss(c, env, request);
    } else if (c->reply.kind == WIRE_REFUSED) {
        stats->errors++;
        if (env->versions != NULL)
            env->versions[request->key_id] = VALUE_ANY_VERSION;
    } else if (c->reply.kind == WIRE_VALUE && c->check.wrong) {
        conn_count_mismatch(c, env, request);
    }
    c->head = (c->head + 1) % env->opts->pipeline;
    c->count--;
    env->in_flight--;
}

/* Reads the head of the next reply. Returns the bytes used; 0: more input is needed, or the
 * connection has failed. */
static size_t conn_read_head(struct bench_conn *c, struct conn_env *env, struct slice in)
{
    char shown[QUOTE_BYTES * 4 + 1];
    char key[KEY_BYTES_MAX];
    uint64_t key_hash;
    struct wire_request wire;
    size_t used = 0;
    enum wire_status status;

    if (c->count == c->unsent) {
        conn_fail(c, env, &env->stats.mismatches, "the server sent what was not asked: %s",
                  quote(in, shown));
        return 0;
    }
    if (c->in_body && c->count == c->unsent + 1) {
        conn_fail(c, env, &env->stats.errors, "a reply in the middle of the request: %s",
                  quote(in, shown));
        return 0;
    }
    wire = request_describe(env, conn_at(c, env, 0), key, &key_hash);
    status = env->opts->wire->reply(in, &wire, &c->reply, &used);
    if (status == WIRE_MORE)
        return 0;
    if (status == WIRE_BAD) {
        conn_fail(c, env, &env->stats.mismatches, "%.*s: not a reply to this %s: %s",
                  (int)wire.key.len, wire.key.ptr, wire.writes ? "write" : "read",
                  quote(in, shown));
        return 0;
    }
    if (c->reply.kind == WIRE_REFUSED)
        conn_note(c, env, "%.*s: refused: %s", (int)wire.key.len, wire.key.ptr, quote(in, shown));
    if (c->reply.kind == WIRE_VALUE)
        value_check_start(&c->check, key_hash, conn_at(c, env, 0)->version, c->reply.body_len);
    c->body_left = c->reply.body_len;
    c->reading = CONN_READS_BODY;
    return used;
}

static size_t conn_read_body(struct bench_conn *c, struct slice in)
{
    size_t n = c->body_left < in.len ? (size_t)c->body_left : in.len;

    if (c->reply.kind == WIRE_VALUE)
        value_check_add(&c->check, slice_of(in.ptr, n));
    c->body_left -= n;
    if (c->body_left == 0)
        c->reading = CONN_READS_TAIL;
    return n;
}

/* Compares what must follow the body. False: the connection has failed. */
static bool conn_read_tail(struct bench_conn *c, struct conn_env *env, struct slice in,
                           size_t *used)
{
    char shown[QUOTE_BYTES * 4 + 1];
    size_t n = c->reply.tail.len < in.len ? c->reply.tail.len : in.len;

    if (!slice_starts(in, slice_of(c->reply.tail.ptr, n))) {
        conn_fail(c, env, &env->stats.mismatches, "wrong end of a reply: %s", quote(in, shown));
        return false;
    }
    c->reply.tail = slice_after(c->reply.tail, n);
    *used = n;
    return true;
}

/* Takes as many replies from `in` as are complete, and the known part of the next. Returns the
 * bytes used; the rest is the beginning of a head. */
static size_t conn_consume(struct bench_conn *c, struct conn_env *env, struct slice in,
                           int64_t now_us)
{
    size_t at = 0;

    for (;;) {
        size_t used = 0;
        struct slice rest = slice_after(in, at);

        if (c->reading == CONN_READS_HEAD) {
            if (rest.len == 0)
                return at;
            used = conn_read_head(c, env, rest);
            if (used == 0)
                return at;
        } else if (c->reading == CONN_READS_BODY) {
            used = conn_read_body(c, rest);
            if (c->reading == CONN_READS_BODY)
                return at + used;
        } else {
            if (!conn_read_tail(c, env, rest, &used) || c->reply.tail.len > 0)
                return at + used;
            c->reading = CONN_READS_HEAD;
            conn_count_reply(c, env, now_us);
            if (c->reply.closes) {
                conn_reopen(c, env);
                return in.len;
            }
        }
        at += used;
    }
}

/* Keeps the beginning of a head for the next time. */
static void conn_hold(struct bench_conn *c, struct conn_env *env, struct slice rest)
{
    if (rest.len > 0 && c->held == NULL)
        c->held = malloc(WIRE_REPLY_HEAD_MAX);
    if (rest.len > WIRE_REPLY_HEAD_MAX || (rest.len > 0 && c->held == NULL)) {
        conn_fail(c, env, &env->stats.mismatches, "the head of a reply is too long");
        return;
    }
    if (rest.len > 0)
        memcpy(c->held, rest.ptr, rest.len);
    c->held_len = rest.len;
}

static void conn_lost(struct bench_conn *c, struct conn_env *env, const char *how)
{
    conn_fail(c, env, &env->stats.errors, "%s with %u requests unanswered", how, c->count);
}

static void conn_receive(struct bench_conn *c, struct conn_env *env)
{
    size_t held = c->held_len;
    size_t used;
    ssize_t n;

    if (held > 0)
        memcpy(env->rx, c->held, held);
    n = recv(c->fd, env->rx + held, CONN_RX_BYTES, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        conn_lost(c, env, n == 0 ? "closed by the server" : strerror(errno));
        return;
    }
    env->stats.bytes_in += (uint64_t)n;
    c->last_progress_us = clock_mono_us();
    c->held_len = 0;
    used = conn_consume(c, env, slice_of(env->rx, held + (size_t)n), c->last_progress_us);
    if (c->fd >= 0)
        conn_hold(c, env, slice_of(env->rx + used, held + (size_t)n - used));
}

void conn_event(struct bench_conn *c, struct conn_env *env, uint32_t events)
{
    if (c->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
        conn_receive(c, env);
    if (c->fd >= 0 && ((events & EPOLLOUT) != 0 || c->unsent > 0))
        conn_flush(c, env);
}

void conn_check_stall(struct bench_conn *c, struct conn_env *env, int64_t now_us)
{
    if (c->fd >= 0 && c->count > 0 &&
        (double)(now_us - c->last_progress_us) > env->opts->timeout_s * 1e6)
        conn_fail(c, env, &env->stats.errors, "no reply for %.1f s, %u requests unanswered",
                  env->opts->timeout_s, c->count);
}
