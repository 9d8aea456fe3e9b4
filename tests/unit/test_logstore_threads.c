/*
 * test_logstore_threads.c - several threads with a port each write and read at once, while
 * checkpoints come often, segments rotate, and keys are listed: everything agrees with a model,
 * also after restarts.
 *
 * Every thread has keys of its own, and so knows what each of its writes must come to; all of them
 * add to a few shared counters, whose sums must come out right. TEST_OPERATIONS=n is for longer
 * runs.
 */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "random.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

#define THREADS 4
#define KEYS 400 /* of each thread */
#define COUNTERS 3
#define IN_FLIGHT 64
#define CHECKPOINTS 10 /* at least so many come into every run of the threads */
#define VALUE_HEAD 8   /* version, length */

/* cmocka's asserts belong to the main thread. */
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct key_model {
    uint32_t version; /* of the last put */
    uint32_t settled; /* that was answered, in this life of the key */
    size_t len;       /* as put */
    unsigned pluses;  /* appended */
    bool live;
    int64_t expires_ms;
    uint64_t cas;
    unsigned busy; /* writes under way */
};

static _Atomic uint64_t checkpoints; /* written since the store was opened */

struct worker {
    struct store_fixture f; /* with a port of its own */
    struct random random;
    unsigned number;
    unsigned operations;
    unsigned in_flight;
    int64_t added[COUNTERS];
    struct key_model keys[KEYS];
};

/* A write under way, and what it must come to. */
struct expected {
    struct worker *worker;
    struct key_model *key; /* NULL: a shared counter */
    enum store_status status;
    uint32_t version; /* of the value afterwards; 0: none */
};

/* ---- values ---- */

static void make_value(char *out, unsigned key, uint32_t version, size_t len)
{
    put_u32le((unsigned char *)out, version);
    put_u32le((unsigned char *)out + 4, (uint32_t)len);
    for (size_t i = VALUE_HEAD; i < len; i++)
        out[i] = (char)(key * 31 + version * 7 + i * 13);
}

/* True if these are the bytes of one version, whole, with pluses behind it. */
static bool is_value(const char *value, size_t len, unsigned key, uint32_t *version, size_t *put)
{
    char *want;
    bool same;

    if (len < VALUE_HEAD)
        return false;
    *version = get_u32le((const unsigned char *)value);
    *put = get_u32le((const unsigned char *)value + 4);
    if (*put > len)
        return false;
    want = malloc(*put);
    CHECK(want != NULL);
    make_value(want, key, *version, *put);
    same = memcmp(want, value, *put) == 0;
    free(want);
    for (size_t i = *put; i < len; i++)
        same = same && value[i] == '+';
    return same;
}

static size_t random_length(struct random *r)
{
    static const size_t most[] = {64, 64, 200, 200, 200, 2000, 2000, 18000, 18000, 70000};
    size_t i = random_below(r, sizeof(most) / sizeof(most[0]));

    if (random_below(r, 200) == 0)
        return 400 * 1024;
    return VALUE_HEAD + random_below(r, most[i]);
}

/* Some long ones: the index holds those by their hashes. */
static void key_text(unsigned thread, unsigned i, char out[600])
{
    size_t lead = i % 20 == 0 ? 494 : 0;

    memset(out, 'x', lead);
    snprintf(out + lead, 600 - lead, "%u-%u", thread, i);
}

static void counter_text(unsigned i, char out[600])
{
    snprintf(out, 600, "counter-%u", i);
}

/* ---- writes ---- */

static void write_done(struct store_write *w)
{
    struct expected *e = w->owner;

    CHECK(w->status == e->status);
    if (e->key != NULL) {
        e->key->busy--;
        e->key->settled = e->version;
        if (w->status == STORE_OK)
            e->key->cas = w->cas;
    }
    e->worker->in_flight--;
    free(e);
    store_write_free(w);
}

static void wait_for_room(struct worker *t, unsigned most)
{
    store_port_flush(t->f.port);
    while (t->in_flight > most) {
        struct pollfd fd = {.fd = store_port_fd(t->f.port), .events = POLLIN};

        CHECK(poll(&fd, 1, 60000) > 0);
        store_port_run(t->f.port);
    }
}

static struct store_write *begin(struct worker *t, struct key_model *k, const char *key,
                                 enum store_op op, size_t value_len)
{
    struct store_write *w =
        store_write_new(t->f.port, slice_str(key), slice_of(NULL, 0), value_len);
    struct expected *e = malloc(sizeof(*e));

    CHECK(w != NULL && e != NULL);
    *e = (struct expected){.worker = t, .key = k};
    w->op = op;
    w->owner = e;
    w->done = write_done;
    return w;
}

static void submit(struct worker *t, struct store_write *w, enum store_status status)
{
    struct expected *e = w->owner;

    e->status = status;
    if (e->key != NULL) {
        e->key->busy++;
        e->version = e->key->live ? e->key->version : 0;
    }
    store_write_submit(w);
    if (++t->in_flight >= IN_FLIGHT)
        wait_for_room(t, IN_FLIGHT / 2);
}

static enum store_status guarded(const struct key_model *k, struct store_write *w, struct random *r)
{
    switch (random_below(r, 8)) {
    case 0: w->guard = STORE_IF_ABSENT; return k->live ? STORE_NOT_STORED : STORE_OK;
    case 1: w->guard = STORE_IF_PRESENT; return k->live ? STORE_OK : STORE_NOT_STORED;
    case 2:
        if (k->busy > 0)
            return STORE_OK;
        w->guard = STORE_IF_CAS;
        w->guard_cas = k->cas + random_below(r, 2);
        if (!k->live)
            return STORE_NOT_FOUND;
        return w->guard_cas == k->cas ? STORE_OK : STORE_EXISTS;
    default: return STORE_OK;
    }
}

static void do_put(struct worker *t, unsigned i, const char *key)
{
    struct key_model *k = &t->keys[i];
    size_t len = random_length(&t->random);
    struct store_write *w = begin(t, k, key, STORE_PUT, len);
    enum store_status status = guarded(k, w, &t->random);

    make_value(w->value, i, k->version + 1, len);
    if (random_below(&t->random, 10) == 0)
        w->expires_ms = random_below(&t->random, 2) ? 1 : clock_wall_ms() + 10000000;
    if (status == STORE_OK) {
        k->version++;
        k->len = len;
        k->pluses = 0;
        k->expires_ms = w->expires_ms;
        k->live = w->expires_ms != 1;
    }
    submit(t, w, status);
}

static void do_delete(struct worker *t, unsigned i, const char *key)
{
    struct key_model *k = &t->keys[i];
    struct store_write *w = begin(t, k, key, STORE_DELETE, 0);
    enum store_status status = k->live ? STORE_OK : STORE_NOT_FOUND;

    k->live = false;
    submit(t, w, status);
}

static void do_touch(struct worker *t, unsigned i, const char *key)
{
    struct key_model *k = &t->keys[i];
    struct store_write *w = begin(t, k, key, STORE_TOUCH, 0);

    w->expires_ms = clock_wall_ms() + 20000000;
    if (k->live)
        k->expires_ms = w->expires_ms;
    submit(t, w, k->live ? STORE_OK : STORE_NOT_FOUND);
}

static void do_append(struct worker *t, unsigned i, const char *key)
{
    struct key_model *k = &t->keys[i];
    struct store_write *w = begin(t, k, key, STORE_UPDATE, 0);

    w->compute = add_plus;
    if (k->live)
        k->pluses++;
    submit(t, w, k->live ? STORE_OK : STORE_NOT_STORED);
}

static enum store_status add_number(struct store_write *w, const struct record *now,
                                    struct store_change *out)
{
    CHECK(now != NULL);
    out->kind = CHANGE_COUNTER;
    out->delta = (int64_t)w->argument[0];
    return STORE_OK;
}

static void do_count(struct worker *t)
{
    unsigned i = (unsigned)random_below(&t->random, COUNTERS);
    int64_t delta = (int64_t)random_below(&t->random, 2001) - 1000;
    char key[600];
    struct store_write *w;

    counter_text(i, key);
    w = begin(t, NULL, key, STORE_UPDATE, 0);
    w->compute = add_number;
    w->argument[0] = (uint64_t)delta;
    t->added[i] += delta;
    submit(t, w, STORE_OK);
}

/* ---- reads ---- */

/* What a key shows is whole, and not older than what was answered. */
static void check_key(struct worker *t, struct store_fixture *f, unsigned i)
{
    struct key_model *k = &t->keys[i];
    uint32_t settled = k->settled;
    bool quiet = k->busy == 0;
    enum store_status status;
    struct record rec;
    uint32_t version;
    char key[600];
    size_t len = 0;
    size_t put_len;
    char *got;

    key_text(t->number, i, key);
    got = fetch(f, key, &len, &status, &rec);
    CHECK(status == STORE_OK || status == STORE_NOT_FOUND);
    CHECK(!quiet || (status == STORE_OK) == k->live);
    if (status == STORE_OK) {
        CHECK(is_value(got, len, i, &version, &put_len));
        CHECK(version >= settled && version <= k->version);
        if (quiet)
            CHECK(version == k->version && put_len == k->len && len == k->len + k->pluses &&
                  record_cas(&rec) == k->cas && rec.expires_ms == k->expires_ms);
    }
    free(got);
}

/* ---- the threads ---- */

static void one_operation(struct worker *t)
{
    unsigned i = (unsigned)random_below(&t->random, KEYS);
    char key[600];

    key_text(t->number, i, key);
    switch (random_below(&t->random, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4: do_put(t, i, key); break;
    case 5:
    case 6: do_delete(t, i, key); break;
    case 7:
    case 8: do_touch(t, i, key); break;
    case 9:
    case 10: do_append(t, i, key); break;
    case 11: do_count(t); break;
    default: check_key(t, &t->f, i); break;
    }
}

static void *work(void *arg)
{
    struct worker *t = arg;

    CHECK(aio_open(t->f.pool, true, &t->f.aio) == 0);
    CHECK(store_port_open(t->f.store, t->f.aio, &t->f.port) == 0);
    for (unsigned n = 0; n < t->operations || atomic_load(&checkpoints) < CHECKPOINTS; n++)
        one_operation(t);
    wait_for_room(t, 0);
    store_settle(&t->f);
    store_port_close(t->f.port);
    aio_close(t->f.aio);
    return NULL;
}

struct watcher {
    struct store *store;
    _Atomic bool end;
};

static void one_key(struct slice key, void *arg)
{
    (void)key;
    ++*(unsigned *)arg;
}

/* Lists keys, sweeps, and asks for figures all the time. */
static void *watch(void *arg)
{
    struct watcher *w = arg;

    while (!atomic_load(&w->end)) {
        struct buf text = {0};
        unsigned keys = 0;

        CHECK(store_scan_keys(w->store, slice_str("1-"), false, slice_of(NULL, 0), 50, one_key,
                              &keys) >= 0);
        CHECK(keys <= 50);
        (void)sweep_now(logstore_of(w->store));
        CHECK(store_stat(w->store, &text) == 0 && buf_add(&text, "", 1) == 0);
        CHECK(strstr(text.data, "\ncheckpoints ") != NULL);
        atomic_store(
            &checkpoints,
            strtoull(strstr(text.data, "\ncheckpoints ") + strlen("\ncheckpoints "), NULL, 10));
        CHECK(store_count(w->store) <= THREADS * KEYS + COUNTERS);
        buf_free(&text);
    }
    return NULL;
}

static void run_threads(struct store_fixture *f, struct worker *workers)
{
    struct watcher w = {.store = f->store};
    pthread_t watcher;
    pthread_t threads[THREADS];

    atomic_store(&checkpoints, 0);
    assert_int_equal(pthread_create(&watcher, NULL, watch, &w), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].f = *f;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&w.end, true);
    pthread_join(watcher, NULL);
}

static void check_all(struct store_fixture *f, struct worker *workers)
{
    uint64_t counted = COUNTERS;

    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < KEYS; i++) {
            check_key(&workers[t], f, i);
            counted += workers[t].keys[i].live;
        }
    }
    for (unsigned c = 0; c < COUNTERS; c++) {
        struct record rec;
        char key[600];
        int64_t sum = 0;

        counter_text(c, key);
        free(fetch(f, key, NULL, NULL, &rec));
        for (unsigned i = 0; i < rec.slot_count; i++)
            sum += rec.slots[i].sum;
        for (unsigned t = 0; t < THREADS; t++)
            sum -= workers[t].added[c];
        assert_int_equal(sum, 0);
    }
    while (!sweep_now(logstore_of(f->store)))
        ; /* a checkpoint is under way */
    assert_int_equal(store_count(f->store), counted);
}

static unsigned operations(void)
{
    const char *text = getenv("TEST_OPERATIONS");

    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : 4000;
}

static void run(struct store_fixture *f, enum store_sync sync)
{
    struct worker *workers = calloc(THREADS, sizeof(*workers));
    struct random random = random_seeded();
    char key[600];

    assert_non_null(workers);
    f->config.sync = sync;
    f->config.sync_interval_ms = 20;
    f->config.checkpoint_entries = 300;
    f->config.reader_ports = THREADS + 1;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < COUNTERS; i++) {
        counter_text(i, key);
        assert_int_equal(put(f, key, "0").status, STORE_OK);
    }
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned t = 0; t < THREADS; t++) {
            workers[t].number = t;
            workers[t].operations = operations();
            workers[t].random.state = random_u64(&random);
        }
        run_threads(f, workers);
        check_all(f, workers);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check_all(f, workers);
    }
    store_shut(f);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    check_all(f, workers);
    free(workers);
}

static void threads_agree_with_a_model_under_always(void **state)
{
    run(*state, STORE_SYNC_ALWAYS);
}

static void threads_agree_with_a_model_under_interval(void **state)
{
    run(*state, STORE_SYNC_INTERVAL);
}

static void threads_agree_with_a_model_under_os(void **state)
{
    run(*state, STORE_SYNC_OS);
}

/* ---- ports that go as soon as they may ---- */

static void done_and_free(struct store_write *w)
{
    CHECK(w->status == STORE_OK);
    store_write_free(w);
}

/* Looks for its answer without waiting to be woken: the writer may still be about to wake it. */
static void *come_and_go(void *arg)
{
    struct store_fixture *f = arg;

    for (unsigned i = 0; i < 500; i++) {
        struct aio *aio;
        struct store_port *port;
        struct store_write *w;

        CHECK(aio_open(f->pool, false, &aio) == 0);
        CHECK(store_port_open(f->store, aio, &port) == 0);
        w = store_write_new(port, slice_str("k"), slice_of(NULL, 0), 1);
        CHECK(w != NULL);
        w->value[0] = 'v';
        w->done = done_and_free;
        store_write_submit(w);
        store_port_flush(port);
        while (store_port_pending(port) > 0)
            store_port_run(port);
        store_port_close(port);
        aio_close(aio);
    }
    return NULL;
}

static void a_port_may_close_as_soon_as_it_has_its_answers(void **state)
{
    struct store_fixture *f = *state;
    pthread_t threads[2];

    f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, f), 0);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    check_value(f, "k", "v");
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(threads_agree_with_a_model_under_always),
        T(threads_agree_with_a_model_under_interval),
        T(threads_agree_with_a_model_under_os),
        T(a_port_may_close_as_soon_as_it_has_its_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
