/*
 * net_fixture.h - a server with a line protocol made for tests of net, and a blocking client.
 *
 * Used by:  test_net.c, test_net_limits.c.
 * Threads:  the test's thread calls server_*(), client_*() and await_*(); the session runs on the
 *           workers. What both touch is under fixture.mutex.
 *
 * Requests are lines that end in \n; replies are told with them:
 *   echo TEXT      TEXT\n
 *   bytes N        N bytes of the pattern, copied
 *   memory N       N bytes of the pattern, without copying
 *   file OFF LEN   "file LEN\n", the piece of the fixture's file, "\n"
 *   stream N       N bytes of the pattern, made in pieces as the output drains
 *   body N         N bytes follow; then "got N SUM\n"
 *   hold           nothing until server_resume(), then "resumed\n"
 *   mute           nothing; further holds end without a reply
 *   abort          writes and aborts, touching the connection afterwards
 *   close          "bye\n" and a close
 */
#ifndef TESTS_NET_FIXTURE_H
#define TESTS_NET_FIXTURE_H

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/clock.h"
#include "base/num.h"
#include "net/net.h"
#include "temp_dir.h"

enum {
    AWAIT_SECONDS = 60, /* no test is meant to come near it */
    PATTERN_BYTES = 1 << 20,
};

/* What happened, counted. */
enum event {
    EVENT_OPENED,   /* sessions made (first input) */
    EVENT_CLOSED,   /* closed() */
    EVENT_RELEASED, /* release() of pieces */
    EVENT_PIECES,   /* pieces handed to net with a release */
    EVENT_HELD,     /* conn_hold() called */
    EVENT_STARTED,  /* worker_start() */
    EVENT_STOPPED,  /* worker_stop() */
    EVENT_COUNT,
};

struct test_session {
    struct conn *c;
    size_t body_left;
    size_t body_bytes;
    uint64_t body_sum;
    size_t stream_left;
    size_t stream_at;
    bool held;
    bool mute;
    bool ended;
    struct test_session *next_held;
};

struct test_worker {
    struct worker *w;
    int resume_fd;
    struct test_session *held;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned counts[EVENT_COUNT];

    struct net *net;
    struct net_config config;
    struct aio_pool *pool;
    struct budget budget;
    struct test_worker workers[8];
    int start_rc; /* what worker_start() answers for worker 1 */
    int file_fd;
    _Atomic bool revoked; /* who sends from the file is to go */
    char *pattern;        /* PATTERN_BYTES, which repeat */
} fixture = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* ---- what happened ---- */

static inline void note(enum event which)
{
    pthread_mutex_lock(&fixture.mutex);
    fixture.counts[which]++;
    pthread_cond_broadcast(&fixture.changed);
    pthread_mutex_unlock(&fixture.mutex);
}

static inline unsigned count_of(enum event which)
{
    unsigned n;

    pthread_mutex_lock(&fixture.mutex);
    n = fixture.counts[which];
    pthread_mutex_unlock(&fixture.mutex);
    return n;
}

/* Waits until it has happened n times; ends the test if that never comes. */
static inline void await(enum event which, unsigned n)
{
    struct timespec until;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += AWAIT_SECONDS;
    pthread_mutex_lock(&fixture.mutex);
    while (fixture.counts[which] < n && rc == 0)
        rc = pthread_cond_timedwait(&fixture.changed, &fixture.mutex, &until);
    pthread_mutex_unlock(&fixture.mutex);
    if (rc != 0) {
        fprintf(stderr, "event %d: %u times, expected %u\n", (int)which, count_of(which), n);
        abort();
    }
}

/* ---- the session ---- */

static inline void on_release(void *arg)
{
    free(arg); /* a second call, or none, is what the sanitizers see */
    note(EVENT_RELEASED);
}

static inline void *new_piece_arg(void)
{
    note(EVENT_PIECES);
    return malloc(1);
}

static inline void write_text(struct conn *c, const char *text)
{
    conn_write(c, text, strlen(text));
}

/* The pattern from `at` on, wherever it wraps. */
static inline void write_pattern(struct conn *c, size_t at, size_t len)
{
    while (len > 0) {
        size_t from = at % PATTERN_BYTES;
        size_t n = len < PATTERN_BYTES - from ? len : PATTERN_BYTES - from;

        conn_write(c, fixture.pattern + from, n);
        at += n;
        len -= n;
    }
}

static inline void stream_on(struct test_session *s)
{
    while (s->stream_left > 0 && !conn_output_full(s->c)) {
        size_t n = s->stream_left < 5000 ? s->stream_left : 5000;

        write_pattern(s->c, s->stream_at, n);
        s->stream_at += n;
        s->stream_left -= n;
    }
}

static inline void do_hold(struct test_session *s)
{
    struct test_worker *tw = worker_context(conn_worker(s->c));

    conn_hold(s->c);
    s->held = true;
    s->next_held = tw->held;
    tw->held = s;
    note(EVENT_HELD);
}

static inline void do_abort(struct test_session *s)
{
    write_text(s->c, "never seen\n");
    conn_abort(s->c);
    write_text(s->c, "nor this\n");
    conn_write_memory(s->c, fixture.pattern, 100, on_release, new_piece_arg());
    conn_wake(s->c);
    conn_hold(s->c);
    conn_resume(s->c);
    conn_close_when_sent(s->c);
    conn_abort(s->c);
}

static inline void do_file(struct test_session *s, unsigned long offset, unsigned long len)
{
    char text[64];

    snprintf(text, sizeof(text), "file %lu\n", len);
    write_text(s->c, text);
    conn_write_file(s->c, fixture.file_fd, (off_t)offset, len, &fixture.revoked, on_release,
                    new_piece_arg());
    write_text(s->c, "\n");
}

static inline void do_line(struct test_session *s, char *line)
{
    unsigned long a;
    unsigned long b;

    if (strncmp(line, "echo ", 5) == 0) {
        write_text(s->c, line + 5);
        write_text(s->c, "\n");
    } else if (sscanf(line, "bytes %lu", &a) == 1) {
        write_pattern(s->c, 0, a);
    } else if (sscanf(line, "memory %lu", &a) == 1) {
        conn_write_memory(s->c, fixture.pattern, a, on_release, new_piece_arg());
    } else if (sscanf(line, "file %lu %lu", &a, &b) == 2) {
        do_file(s, a, b);
    } else if (sscanf(line, "stream %lu", &a) == 1) {
        s->stream_left = a;
        s->stream_at = 0;
        stream_on(s);
    } else if (sscanf(line, "body %lu", &a) == 1) {
        s->body_left = s->body_bytes = a;
        s->body_sum = 0;
    } else if (strcmp(line, "hold") == 0) {
        do_hold(s);
    } else if (strcmp(line, "mute") == 0) {
        s->mute = true;
    } else if (strcmp(line, "abort") == 0) {
        do_abort(s);
    } else if (strcmp(line, "close") == 0) {
        write_text(s->c, "bye\n");
        conn_close_when_sent(s->c);
    } else {
        write_text(s->c, "what?\n");
    }
}

static inline size_t take_body(struct test_session *s, struct slice in)
{
    size_t n = in.len < s->body_left ? in.len : s->body_left;
    char text[64];

    for (size_t i = 0; i < n; i++)
        s->body_sum = s->body_sum * 31 + (unsigned char)in.ptr[i];
    s->body_left -= n;
    if (s->body_left == 0) {
        snprintf(text, sizeof(text), "got %zu %llu\n", s->body_bytes,
                 (unsigned long long)s->body_sum);
        write_text(s->c, text);
        s->body_bytes = 0;
    }
    conn_set_partial(s->c, s->body_left > 0);
    return n;
}

static inline size_t take_line(struct test_session *s, struct slice in)
{
    const char *nl = memchr(in.ptr, '\n', in.len);
    char *line;

    if (nl == NULL)
        return 0;
    line = strndup(in.ptr, (size_t)(nl - in.ptr));
    do_line(s, line);
    free(line);
    conn_set_partial(s->c, s->body_left > 0);
    return (size_t)(nl - in.ptr) + 1;
}

static inline size_t on_input(struct conn *c, struct slice in)
{
    struct test_session *s = conn_session(c);

    assert(in.len > 0);
    if (s == NULL) {
        s = calloc(1, sizeof(*s));
        s->c = c;
        conn_set_session(c, s);
        note(EVENT_OPENED);
    }
    assert(!s->held && s->stream_left == 0);
    return s->body_left > 0 ? take_body(s, in) : take_line(s, in);
}

static inline void on_ready(struct conn *c)
{
    struct test_session *s = conn_session(c);

    if (s->held) {
        s->held = false;
        if (!s->mute)
            write_text(c, "resumed\n");
        conn_resume(c);
    }
    stream_on(s);
}

static inline void on_end_of_input(struct conn *c)
{
    struct test_session *s = conn_session(c);

    assert(s == NULL || !s->ended);
    if (s != NULL)
        s->ended = true;
    conn_close_when_sent(c);
}

static inline void on_closed(struct conn *c)
{
    struct test_worker *tw = worker_context(conn_worker(c));
    struct test_session *s = conn_session(c);

    for (struct test_session **at = &tw->held; *at != NULL; at = &(*at)->next_held) {
        if (*at == s) {
            *at = s->next_held;
            break;
        }
    }
    free(s);
    note(EVENT_CLOSED);
}

static inline void on_resume_fd(void *arg)
{
    struct test_worker *tw = arg;
    struct test_session *s = tw->held;
    uint64_t n;

    if (read(tw->resume_fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
        return;
    tw->held = NULL;
    for (; s != NULL; s = s->next_held) {
        conn_wake(s->c);
        conn_wake(s->c);
    }
}

static inline int on_worker_start(struct worker *w, void *app)
{
    struct test_worker *tw = &fixture.workers[worker_index(w)];

    (void)app;
    if (worker_index(w) == 1 && fixture.start_rc != 0)
        return fixture.start_rc;
    tw->w = w;
    tw->held = NULL;
    worker_set_context(w, tw);
    note(EVENT_STARTED);
    return worker_watch(w, tw->resume_fd, on_resume_fd, tw);
}

static inline void on_turn_end(struct worker *w)
{
    (void)w;
}

static inline void on_worker_stop(struct worker *w)
{
    struct test_worker *tw = worker_context(w);

    assert(tw->held == NULL);
    note(EVENT_STOPPED);
}

static const struct net_ops test_ops = {
    .worker_start = on_worker_start,
    .turn_end = on_turn_end,
    .worker_stop = on_worker_stop,
    .input = on_input,
    .ready = on_ready,
    .end_of_input = on_end_of_input,
    .closed = on_closed,
};

/* ---- the server ---- */

static inline void make_pattern(void)
{
    uint32_t x = 1;

    fixture.pattern = malloc(PATTERN_BYTES);
    for (size_t i = 0; i < PATTERN_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        fixture.pattern[i] = (char)(x >> 24);
    }
}

/* Defaults; a test changes fixture.config and calls server_start(). */
static inline void server_prepare(unsigned threads)
{
    memset(fixture.counts, 0, sizeof(fixture.counts));
    fixture.start_rc = 0;
    fixture.file_fd = -1;
    atomic_store(&fixture.revoked, false);
    fixture.budget = (struct budget){.limit_bytes = 64u << 20};
    make_pattern();
    assert(aio_pool_open(2, &fixture.pool) == 0);
    for (unsigned i = 0; i < threads; i++)
        fixture.workers[i].resume_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fixture.config = (struct net_config){
        .host = "127.0.0.1",
        .threads = threads,
        .max_conns = 1000,
        .use_uring = true,
        .pool = fixture.pool,
        .budget = &fixture.budget,
        .ops = &test_ops,
    };
}

static inline void server_start(void)
{
    int rc = net_open(&fixture.config, &fixture.net);

    if (rc == 0)
        rc = net_start(fixture.net);
    if (rc != 0) {
        fprintf(stderr, "server: %s\n", strerror(-rc));
        abort();
    }
}

/* What must hold once everything is over. */
static inline void server_check(void)
{
    assert_int_equal(count_of(EVENT_RELEASED), count_of(EVENT_PIECES));
    assert_int_equal(atomic_load(&fixture.budget.held_bytes), 0);
    assert_int_equal(count_of(EVENT_STOPPED), count_of(EVENT_STARTED));
}

static inline void server_free(void)
{
    for (unsigned i = 0; i < fixture.config.threads; i++)
        close(fixture.workers[i].resume_fd);
    aio_pool_close(fixture.pool);
    free(fixture.pattern);
    if (fixture.file_fd != -1)
        close(fixture.file_fd);
}

static inline void server_stop(int64_t grace_ms)
{
    net_stop(fixture.net, grace_ms);
    assert_int_equal(net_conn_count(fixture.net), 0);
    net_close(fixture.net);
    server_check();
    server_free();
}

/* Every connection that is on hold now goes on. */
static inline void server_resume(void)
{
    uint64_t one = 1;

    for (unsigned i = 0; i < fixture.config.threads; i++)
        assert_int_equal(write(fixture.workers[i].resume_fd, &one, sizeof(one)), sizeof(one));
}

static inline uint64_t server_count(enum counter which)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < net_worker_count(fixture.net); i++)
        sum += counter_get(net_worker_counters(fixture.net, i), which);
    return sum;
}

/* A file with the pattern, `bytes` long, on disk. */
static inline void server_make_file(size_t bytes)
{
    char dir[TEMP_DIR_MAX];
    char path[TEMP_DIR_MAX + 8];

    temp_dir_make(dir);
    snprintf(path, sizeof(path), "%s/file", dir);
    fixture.file_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fixture.file_fd != -1);
    for (size_t at = 0; at < bytes; at += PATTERN_BYTES) {
        size_t n = bytes - at < PATTERN_BYTES ? bytes - at : PATTERN_BYTES;

        assert_int_equal(pwrite(fixture.file_fd, fixture.pattern, n, (off_t)at), n);
    }
    assert_int_equal(fsync(fixture.file_fd), 0);
    temp_dir_remove(dir); /* the descriptor keeps it */
}

static inline void server_evict_file(void)
{
    assert_int_equal(posix_fadvise(fixture.file_fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* ---- the client ---- */

static inline void client_limits(int fd)
{
    struct timeval limit = {.tv_sec = AWAIT_SECONDS};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* A descriptor or -errno. */
static inline int client_try(const char *address, uint16_t port)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    bool is_v6 = inet_pton(AF_INET6, address, &in6.sin6_addr) == 1;
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc;

    if (fd == -1)
        return -errno;
    client_limits(fd);
    inet_pton(AF_INET, address, &in.sin_addr);
    rc = is_v6 ? connect(fd, (struct sockaddr *)&in6, sizeof(in6))
               : connect(fd, (struct sockaddr *)&in, sizeof(in));
    if (rc == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

static inline int client_open(void)
{
    int fd = client_try("127.0.0.1", net_port(fixture.net));

    assert_true(fd >= 0);
    return fd;
}

static inline int client_open_unix(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    client_limits(fd);
    assert_true(strlen(path) < sizeof(addr.sun_path));
    memcpy(addr.sun_path, path, strlen(path) + 1);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static inline void client_send(int fd, const void *data, size_t len)
{
    const char *from = data;

    while (len > 0) {
        ssize_t n = send(fd, from, len, MSG_NOSIGNAL);

        assert_true(n > 0);
        from += n;
        len -= (size_t)n;
    }
}

static inline void client_say(int fd, const char *text)
{
    client_send(fd, text, strlen(text));
}

/* Exactly len bytes. */
static inline void client_read(int fd, void *to, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = recv(fd, (char *)to + at, len - at, 0);

        assert_true(n > 0);
        at += (size_t)n;
    }
}

static inline void client_expect(int fd, const char *text)
{
    size_t len = strlen(text);
    char *got = calloc(1, len + 1);

    client_read(fd, got, len);
    assert_string_equal(got, text);
    free(got);
}

/* len bytes of the pattern from `at` on. */
static inline void client_expect_pattern(int fd, size_t at, size_t len)
{
    char *got = malloc(64 << 10);

    while (len > 0) {
        size_t from = at % PATTERN_BYTES;
        size_t n = len < (64 << 10) ? len : (64 << 10);

        n = n < PATTERN_BYTES - from ? n : PATTERN_BYTES - from;
        client_read(fd, got, n);
        assert_memory_equal(got, fixture.pattern + from, n);
        at += n;
        len -= n;
    }
    free(got);
}

/* The server has closed: an end or a reset. */
static inline void client_expect_end(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

/* One round trip: all that came before on this worker's loop has been seen. */
static inline void client_ping(int fd)
{
    client_say(fd, "echo ping\n");
    client_expect(fd, "ping\n");
}

#endif
