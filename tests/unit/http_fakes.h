/*
 * http_fakes.h - what session_fakes.h leaves out for HTTP, and a client that reads its replies.
 *
 * Provides: the rest of net.h and store.h that HTTP calls; a real pool for listings; sending and
 *           expecting; http_start() and http_end() around a test.
 * Used by:  test_http_session.c. Included once: it defines functions in the library's place.
 * Threads:  one, and the pool's.
 */
#ifndef TESTS_HTTP_FAKES_H
#define TESTS_HTTP_FAKES_H

#define FAKES_WITHOUT_ADMIN

#include <errno.h>

#include <poll.h>

#include "session_fakes.h"

#define HOST "Host: a\r\n"

/* ---- what the fakes leave out ---- */

static bool worker_is_stopping;
static struct aio_pool *pool;
static struct aio *port;

bool worker_stopping(const struct worker *w)
{
    (void)w;
    return worker_is_stopping;
}

struct aio *worker_aio(struct worker *w)
{
    (void)w;
    return port;
}

uint64_t conn_id(const struct conn *c)
{
    (void)c;
    return 1;
}

bool store_writable(const struct store *store, const char **reason)
{
    (void)store;
    *reason = "the disk is full";
    return fake.write_as == STORE_OK;
}

unsigned store_progress(const struct store *store)
{
    (void)store;
    return 42;
}

static int scan_result;

/* Keys "P /0" to "P /9", P the prefix, behind `after`. */
int store_scan(struct store *store, const struct store_range *range, unsigned limit,
               bool (*each)(const struct store_scan_item *item, void *arg), void *arg)
{
    struct slice after = range->after;
    unsigned first = range->has_after ? (unsigned)(after.ptr[after.len - 1] - '0') + 1 : 0;

    (void)store;
    for (unsigned i = first; i < 10; i++) {
        char key[64];

        if (i - first == limit)
            return 1;
        snprintf(key, sizeof(key), "%.*s /%u", (int)range->prefix.len, range->prefix.ptr, i);
        if (!each(&(struct store_scan_item){.key = slice_str(key)}, arg))
            return 1;
    }
    return scan_result;
}

static unsigned compactions_asked;

void store_compact(struct store *store)
{
    (void)store;
    compactions_asked++;
}

/* One backup at a time, with the token 7. */
static int64_t backup_lease_ms;

int store_backup_begin(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list)
{
    (void)store;
    if (backup_lease_ms != 0)
        return -EBUSY;
    backup_lease_ms = lease_ms;
    *token = 7;
    return buf_printf(list, "dir /data\nopen 00000001.seg 10\n");
}

int store_backup_renew(struct store *store, uint64_t token, int64_t lease_ms)
{
    (void)store;
    if (token != 7 || backup_lease_ms == 0)
        return -ENOENT;
    backup_lease_ms = lease_ms;
    return 0;
}

int store_backup_end(struct store *store, uint64_t token)
{
    return store_backup_renew(store, token, 0);
}

/* ---- a client ---- */

static void say(struct conn *c, const char *text)
{
    conn_feed(c, text, strlen(text));
}

static void send_zeros(struct conn *c, size_t len)
{
    static const char zeros[64 * 1024];

    while (len > 0) {
        size_t piece = len < sizeof(zeros) ? len : sizeof(zeros);

        conn_feed(c, zeros, piece);
        len -= piece;
    }
}

/* Takes one reply's head and `body` off what has come; fails with both texts. */
static void expect_reply(struct conn *c, unsigned status, const char *body)
{
    struct slice got = buf_slice(&c->output);
    char start[32];
    const char *end = got.len > 0 ? memmem(got.ptr, got.len, "\r\n\r\n", 4) : NULL;
    size_t used = end != NULL ? (size_t)(end - got.ptr) + 4 : 0;

    snprintf(start, sizeof(start), "HTTP/1.1 %u ", status);
    if (end == NULL || !slice_starts(got, slice_str(start)) ||
        !slice_starts(slice_after(got, used), slice_str(body)))
        fail_msg("got \"%.*s\"\nnot %u \"%s\"", (int)got.len, got.len > 0 ? got.ptr : "", status,
                 body);
    used += strlen(body);
    memmove(c->output.data, c->output.data + used, c->output.len - used);
    c->output.len -= used;
}

static void expect_nothing(const struct conn *c)
{
    if (c->output.len > 0)
        fail_msg("got \"%.*s\"", (int)c->output.len, c->output.data);
}

static bool output_has(const struct conn *c, const char *text)
{
    return c->output.len > 0 && memmem(c->output.data, c->output.len, text, strlen(text)) != NULL;
}

static void finish_write(struct conn *c)
{
    fake_finish_writes(1);
    conn_run(c);
}

static void finish_read(struct conn *c)
{
    fake_finish_read();
    conn_run(c);
}

static void start(struct conn *c)
{
    conn_open(c, &http_protocol);
}

/* What net does with a client's end: not while the session holds. */
static void client_ends(struct conn *c)
{
    assert_false(c->held);
    c->protocol->end_of_input(c);
}

static size_t held_bytes(void)
{
    return atomic_load(&fake_budget.held_bytes);
}

static void store_now(struct conn *c, const char *key, const char *value)
{
    char text[512];

    snprintf(text, sizeof(text), "PUT /%s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%s", key,
             strlen(value), value);
    say(c, text);
    finish_write(c);
    expect_reply(c, 201, "Created\n");
}

/* Lets the pool finish what it has, and completes it. */
static void finish_jobs(void)
{
    struct pollfd fd = {.fd = aio_fd(port), .events = POLLIN};

    assert_int_equal(poll(&fd, 1, 30000), 1);
    assert_int_equal(aio_run(port), 1);
}

/* ---- around a test ---- */

static int http_start(void **state)
{
    assert_int_equal(aio_pool_open(1, &pool), 0);
    assert_int_equal(aio_open(pool, false, &port), 0);
    return fakes_start(state);
}

static int http_end(void **state)
{
    int rc = fakes_end(state);

    http_worker_free(fake_worker.http);
    aio_close(port);
    aio_pool_close(pool);
    return rc;
}

#endif
