/*
 * session_fakes.h - a network connection and a store that do exactly what a test tells them.
 *
 * Provides: the functions of net.h and store.h that sessions call, over struct conn and struct
 *           fake_store below; feeding bytes and taking replies; completing writes and reads when
 *           the test says so.
 * Used by:  test_mc_session.c, http_fakes.h. Included once: it defines the functions
 *           themselves, which then take the place of the library's.
 * Threads:  one.
 */
#ifndef TESTS_SESSION_FAKES_H
#define TESTS_SESSION_FAKES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "guarded.h"
#include "net/net.h"
#include "session/session.h"
#include "store/store.h"

/* ---- the connection ---- */

#define FAKE_UNSENT 8

struct conn {
    struct session *session;
    const struct session_protocol *protocol;
    struct buf input;  /* not used up yet */
    struct buf output; /* not taken yet */
    bool held;
    bool woken;
    bool partial;
    bool busy;
    bool full; /* what conn_output_full() says */
    bool slow; /* memory that is sent is released when the connection has gone, not at once */
    void (*unsent_release[FAKE_UNSENT])(void *arg);
    void *unsent[FAKE_UNSENT];
    unsigned unsent_count;
    bool closing;
    bool aborted;
    unsigned inputs; /* calls of input() */
};

static struct session_app fake_app;
static struct counters fake_counters;
static struct budget fake_budget;
static struct session_worker fake_worker;

struct worker *conn_worker(const struct conn *c)
{
    (void)c;
    return NULL;
}

void *worker_context(const struct worker *w)
{
    (void)w;
    return &fake_worker;
}

void *conn_session(const struct conn *c)
{
    return c->session;
}

void conn_set_session(struct conn *c, void *session)
{
    c->session = session;
}

void conn_hold(struct conn *c)
{
    assert_false(c->held);
    c->held = true;
}

void conn_resume(struct conn *c)
{
    assert_true(c->held);
    c->held = false;
}

void conn_set_partial(struct conn *c, bool partial)
{
    c->partial = partial;
}

void conn_set_busy(struct conn *c, bool busy)
{
    c->busy = busy;
}

void conn_wake(struct conn *c)
{
    c->woken = true;
}

char *conn_room(struct conn *c, size_t n)
{
    assert_true(n <= NET_ROOM_MAX);
    assert_int_equal(buf_reserve(&c->output, n), 0);
    return c->output.data + c->output.len;
}

void conn_commit(struct conn *c, size_t n)
{
    c->output.len += n;
}

int conn_write(struct conn *c, const void *data, size_t len)
{
    return buf_add(&c->output, data, len);
}

void conn_write_memory(struct conn *c, const void *data, size_t len, void (*release)(void *arg),
                       void *arg)
{
    assert_int_equal(buf_printf(&c->output, "<%zu of memory>", len), 0);
    assert_non_null(data);
    if (!c->slow) {
        release(arg);
        return;
    }
    assert_true(c->unsent_count < FAKE_UNSENT);
    c->unsent_release[c->unsent_count] = release;
    c->unsent[c->unsent_count++] = arg;
}

void conn_write_file(struct conn *c, int fd, off_t offset, size_t len, const _Atomic bool *revoked,
                     void (*release)(void *arg), void *arg)
{
    (void)revoked;
    assert_int_equal(buf_printf(&c->output, "<%zu of file %d at %lld>", len, fd, (long long)offset),
                     0);
    release(arg);
}

bool conn_output_full(struct conn *c)
{
    return c->full;
}

void conn_close_when_sent(struct conn *c)
{
    c->closing = true;
}

void conn_abort(struct conn *c)
{
    c->aborted = true;
}

unsigned net_worker_count(const struct net *net)
{
    (void)net;
    return 1;
}

const struct counters *net_worker_counters(const struct net *net, unsigned worker)
{
    (void)net;
    (void)worker;
    return &fake_counters;
}

unsigned net_conn_count(const struct net *net)
{
    (void)net;
    return 1;
}

/* Gives the session what waits, as net does. */
static void conn_run(struct conn *c)
{
    for (;;) {
        size_t used = 0;

        if (c->woken) {
            c->woken = false;
            c->protocol->ready(c);
        }
        if (!c->held && !c->closing && !c->aborted && c->input.len > 0) {
            /* A copy before an unmapped page: whoever reads on is found. */
            char *copy = guarded_copy(c->input.data, c->input.len);

            c->inputs++;
            used = c->protocol->input(c, slice_of(copy, c->input.len));
            assert_true(used <= c->input.len);
            memmove(c->input.data, c->input.data + used, c->input.len - used);
            c->input.len -= used;
        }
        if (used == 0 && !c->woken)
            return;
    }
}

static void conn_feed(struct conn *c, const void *data, size_t len)
{
    assert_int_equal(buf_add(&c->input, data, len), 0);
    conn_run(c);
}

static void conn_open(struct conn *c, const struct session_protocol *protocol)
{
    memset(c, 0, sizeof(*c));
    c->protocol = protocol;
    assert_int_equal(protocol->open(c), 0);
}

static void conn_gone(struct conn *c)
{
    c->protocol->closed(c);
    while (c->unsent_count > 0) {
        c->unsent_count--;
        c->unsent_release[c->unsent_count](c->unsent[c->unsent_count]);
    }
    buf_free(&c->input);
    buf_free(&c->output);
}

/* ---- the store ---- */

#define FAKE_RECORDS 64
#define FAKE_OPERATIONS 256

/* A record; its memory is its own. */
struct fake_record {
    bool used;
    char key[256];
    size_t key_len;
    struct buf value;
    char attrs[300];
    size_t attrs_len;
    uint32_t flags;
    int64_t expires_ms;
    uint64_t cas;
    int64_t slot; /* not 0: a counter */
    int file_fd;  /* >= 0: handed over as a piece of a file */
};

static struct fake_store {
    struct fake_record records[FAKE_RECORDS];
    struct store_write *writes[FAKE_OPERATIONS]; /* submitted, not done */
    unsigned write_count;
    struct store_get *reads[FAKE_OPERATIONS]; /* waiting for the disk */
    unsigned read_count;
    unsigned holds; /* handed out */
    bool reads_are_cold;
    enum store_status read_as;  /* STORE_OK: the truth */
    enum store_status write_as; /* STORE_OK: the truth */
    enum store_state state;
    int64_t now_ms; /* the store's clock */
    uint64_t last_cas;
    int spool_error;
    bool spool_is_full;
    unsigned spools;
    void (*on_room)(void *arg);
    void *on_room_arg;
} fake;

struct store_spool {
    struct buf bytes;
};

static struct fake_record *fake_find(struct slice key)
{
    for (unsigned i = 0; i < FAKE_RECORDS; i++) {
        struct fake_record *r = &fake.records[i];

        if (r->used && slice_equal(slice_of(r->key, r->key_len), key))
            return r;
    }
    return NULL;
}

static struct fake_record *fake_make(struct slice key)
{
    struct fake_record *r = fake_find(key);

    for (unsigned i = 0; r == NULL && i < FAKE_RECORDS; i++)
        r = fake.records[i].used ? NULL : &fake.records[i];
    assert_non_null(r);
    assert_true(key.len <= sizeof(r->key));
    memcpy(r->key, key.ptr, key.len);
    r->key_len = key.len;
    r->used = true;
    r->slot = 0;
    r->file_fd = -1;
    r->cas = ++fake.last_cas;
    return r;
}

static void fake_put(struct fake_record *r, struct slice first, struct slice second)
{
    struct buf value = {0};

    assert_int_equal(buf_add_slice(&value, first), 0);
    assert_int_equal(buf_add_slice(&value, second), 0);
    buf_free(&r->value);
    r->value = value;
}

static void fake_set_attrs(struct fake_record *r, struct slice attrs)
{
    assert_true(attrs.len <= sizeof(r->attrs));
    if (attrs.len > 0)
        memmove(r->attrs, attrs.ptr, attrs.len);
    r->attrs_len = attrs.len;
}

static void fake_drop(struct fake_record *r)
{
    buf_free(&r->value);
    memset(r, 0, sizeof(*r));
}

static void fake_as_record(const struct fake_record *from, struct record *out)
{
    memset(out, 0, sizeof(*out));
    out->kind = from->slot != 0 ? RECORD_COUNTER : RECORD_PUT;
    out->flags = from->flags;
    out->expires_ms = from->expires_ms;
    out->base.version = from->cas;
    out->attrs = slice_of(from->attrs, from->attrs_len);
    out->value = buf_slice(&from->value);
    if (from->slot != 0) {
        out->slot_count = 1;
        out->slots[0].stamp.version = from->cas;
        out->slots[0].sum = from->slot;
    }
}

const char *store_status_text(enum store_status status)
{
    (void)status;
    return "status";
}

enum store_state store_state(const struct store *store)
{
    (void)store;
    return fake.state;
}

int64_t store_now_ms(const struct store *store)
{
    (void)store;
    return fake.now_ms;
}

uint64_t store_count(const struct store *store)
{
    (void)store;
    return 3;
}

int store_stat(struct store *store, struct buf *out)
{
    (void)store;
    return buf_printf(out, "engine_name fake\nengine_bytes 12\n");
}

static void hold_free(void *hold)
{
    if (hold == NULL)
        return;
    assert_true(fake.holds > 0);
    fake.holds--;
    free(hold);
}

void store_hold_release(void *hold)
{
    hold_free(hold);
}

const _Atomic bool *store_hold_revoked(const void *hold)
{
    (void)hold;
    return NULL;
}

void *store_get_take_hold(struct store_get *get)
{
    void *hold = get->hold;

    get->hold = NULL;
    return hold;
}

void store_get_release(struct store_get *get)
{
    hold_free(store_get_take_hold(get));
}

/* Fills the result. A cold one holds a copy of the value, as the engine does. */
static void fake_read(struct store_get *get)
{
    struct fake_record *r = fake_find(get->key);

    get->hold = NULL;
    get->file_fd = -1;
    get->expired = false;
    get->status = fake.read_as != STORE_OK ? fake.read_as : r != NULL ? STORE_OK : STORE_NOT_FOUND;
    if (get->status != STORE_OK)
        return;
    fake_as_record(r, &get->rec);
    get->value_bytes = get->rec.value.len;
    if (r->file_fd >= 0 || fake.reads_are_cold) {
        get->hold = malloc(r->value.len + 1);
        assert_non_null(get->hold);
        fake.holds++;
        if (r->value.len > 0)
            memcpy(get->hold, r->value.data, r->value.len);
        get->rec.value.ptr = get->hold;
    }
    if (get->head_only) {
        get->rec.value = slice_of(NULL, 0);
    } else if (r->file_fd >= 0) {
        get->file_fd = r->file_fd;
        get->file_offset = 7;
        get->rec.value = slice_of(NULL, 0);
    }
}

bool store_get(struct store_port *port, struct store_get *get)
{
    (void)port;
    get->cold = fake.reads_are_cold;
    if (fake.reads_are_cold) {
        assert_true(fake.read_count < FAKE_OPERATIONS);
        fake.reads[fake.read_count++] = get;
        return false;
    }
    fake_read(get);
    return true;
}

/* Ends the oldest read that waits. */
static void fake_finish_read(void)
{
    struct store_get *get = fake.reads[0];

    assert_true(fake.read_count > 0);
    memmove(fake.reads, fake.reads + 1, --fake.read_count * sizeof(fake.reads[0]));
    fake_read(get);
    get->done(get);
}

struct store_write *store_write_new(struct store_port *port, struct slice key, struct slice attrs,
                                    size_t value_len)
{
    struct store_write *w = calloc(1, sizeof(*w) + key.len + attrs.len + value_len);
    char *body = (char *)(w + 1);

    assert_non_null(w);
    w->port = port;
    if (key.len > 0)
        memcpy(body, key.ptr, key.len);
    if (attrs.len > 0)
        memcpy(body + key.len, attrs.ptr, attrs.len);
    w->key = slice_of(body, key.len);
    w->attrs = slice_of(body + key.len, attrs.len);
    w->value = body + key.len + attrs.len;
    w->value_len = value_len;
    return w;
}

struct store_write *store_write_grow(struct store_write *w, size_t value_len)
{
    size_t key_len = w->key.len;
    size_t attrs_len = w->attrs.len;

    w = realloc(w, sizeof(*w) + key_len + attrs_len + value_len);
    assert_non_null(w);
    w->key.ptr = (char *)(w + 1);
    w->attrs.ptr = (char *)(w + 1) + key_len;
    w->value = (char *)(w + 1) + key_len + attrs_len;
    w->value_len = value_len;
    return w;
}

void store_write_free(struct store_write *w)
{
    free(w);
}

void store_write_submit(struct store_write *w)
{
    assert_true(fake.write_count < FAKE_OPERATIONS);
    fake.writes[fake.write_count++] = w;
}

static enum store_status fake_update(struct store_write *w, struct fake_record *r)
{
    struct store_change change = {.kind = CHANGE_NONE};
    struct buf front = {0};
    struct record now;
    enum store_status status;

    if (r != NULL)
        fake_as_record(r, &now);
    status = w->compute(w, r != NULL ? &now : NULL, &change);
    if (status != STORE_OK)
        return status;
    if (change.kind == CHANGE_EXTEND) {
        assert_int_equal(buf_add_slice(&front, change.pieces[0]), 0);
        assert_int_equal(buf_add_slice(&front, now.value), 0);
        change.pieces[0] = buf_slice(&front);
    }
    if (change.kind == CHANGE_PUT || change.kind == CHANGE_EXTEND) {
        r = fake_make(w->key);
        fake_put(r, change.pieces[0], change.pieces[1]);
        buf_free(&front);
        fake_set_attrs(r, change.attrs);
    } else if (r != NULL) {
        r->slot += change.delta;
    }
    return STORE_OK;
}

static enum store_status fake_guard(const struct store_write *w, const struct fake_record *r)
{
    if (w->guard == STORE_IF_ABSENT)
        return r == NULL ? STORE_OK : STORE_NOT_STORED;
    if (w->guard == STORE_IF_PRESENT)
        return r != NULL ? STORE_OK : STORE_NOT_STORED;
    if (w->guard == STORE_IF_CAS)
        return r == NULL ? STORE_NOT_FOUND : r->cas == w->guard_cas ? STORE_OK : STORE_EXISTS;
    return STORE_OK;
}

static enum store_status fake_execute(struct store_write *w)
{
    struct fake_record *r = fake_find(w->key);
    enum store_status status = fake_guard(w, r);

    if (fake.write_as != STORE_OK)
        return fake.write_as;
    if (status != STORE_OK)
        return status;
    switch (w->op) {
    case STORE_PUT:
        r = fake_make(w->key);
        r->flags = w->flags;
        r->expires_ms = w->expires_ms;
        fake_put(r,
                 w->spool != NULL ? buf_slice(&w->spool->bytes) : slice_of(w->value, w->value_len),
                 slice_of(NULL, 0));
        fake_set_attrs(r, w->attrs);
        return STORE_OK;
    case STORE_UPDATE: return fake_update(w, r);
    case STORE_FLUSH:
        for (unsigned i = 0; i < FAKE_RECORDS; i++)
            fake_drop(&fake.records[i]);
        return STORE_OK;
    case STORE_TOUCH:
    case STORE_DELETE: break;
    }
    if (r == NULL)
        return STORE_NOT_FOUND;
    if (w->op == STORE_TOUCH)
        r->expires_ms = w->expires_ms;
    else
        fake_drop(r);
    return STORE_OK;
}

/* Carries out the oldest writes and reports them. */
static void fake_finish_writes(unsigned count)
{
    while (count-- > 0) {
        struct store_write *w = fake.writes[0];

        assert_true(fake.write_count > 0);
        memmove(fake.writes, fake.writes + 1, --fake.write_count * sizeof(fake.writes[0]));
        w->status = fake_execute(w);
        if (w->spool != NULL) {
            buf_free(&w->spool->bytes);
            free(w->spool);
            fake.spools--;
        }
        w->done(w);
    }
}

int store_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                     uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                     struct store_spool **out)
{
    (void)port;
    (void)key;
    (void)attrs;
    (void)value_bytes;
    if (fake.spool_error != 0)
        return fake.spool_error;
    *out = calloc(1, sizeof(**out));
    assert_non_null(*out);
    fake.spools++;
    fake.on_room = on_room;
    fake.on_room_arg = arg;
    return 0;
}

int store_spool_add(struct store_spool *spool, struct slice bytes)
{
    return fake.spool_error != 0 ? fake.spool_error : buf_add_slice(&spool->bytes, bytes);
}

bool store_spool_full(const struct store_spool *spool)
{
    (void)spool;
    return fake.spool_is_full;
}

void store_spool_abandon(struct store_spool *spool)
{
    fake.spools--;
    buf_free(&spool->bytes);
    free(spool);
}

#ifndef FAKES_WITHOUT_ADMIN /* defined: the test takes the real one */
bool session_is_ready(struct session_app *app, bool for_write, const char **state)
{
    (void)app;
    *state = for_write ? "read-only" : "serving";
    return !for_write;
}
#endif

/* ---- around a test ---- */

static int fakes_start(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof(fake));
    memset(&fake_counters, 0, sizeof(fake_counters));
    fake.state = STORE_SERVING;
    fake.now_ms = INT64_C(4000000000000); /* far ahead of the wall clock */
    fake_budget.limit_bytes = 64u * 1024 * 1024;
    atomic_store(&fake_budget.held_bytes, 0);
    fake_app.max_value_bytes = 64u * 1024 * 1024;
    fake_app.data_dir = "dir";
    fake_app.sync_policy = "always";
    fake_worker = (struct session_worker){
        .app = &fake_app, .counters = &fake_counters, .budget = &fake_budget};
    return 0;
}

/* Nothing may be left: no hold, no file, no byte of the budget. */
static int fakes_end(void **state)
{
    (void)state;
    while (fake.write_count > 0)
        fake_finish_writes(1);
    while (fake.read_count > 0)
        fake_finish_read();
    for (unsigned i = 0; i < FAKE_RECORDS; i++)
        fake_drop(&fake.records[i]);
    return fake.holds == 0 && fake.spools == 0 && atomic_load(&fake_budget.held_bytes) == 0 ? 0
                                                                                            : -1;
}

#endif
