/*
 * test_logstore_scan.c - scans of an open store (store.h, "listing"): random histories against a
 * model, with pages of random ranges in both directions; what stays is given exactly once while
 * others write and checkpoints come; a scan that takes its time holds up nobody; what scans keep is
 * bounded, and goes.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "random.h"
#include "store/logstore/listing.h"
#include "store_fixture.h"

/* cmocka's asserts belong to the main thread. */
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- the clock: stands still, and is moved ---- */

static _Atomic int64_t wall_now = INT64_C(1800000000000);
static _Atomic int64_t mono_ahead;

static int64_t test_wall(void *ctx)
{
    (void)ctx;
    return atomic_load(&wall_now);
}

static int64_t test_mono(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + atomic_load(&mono_ahead);
}

static const struct clock_source test_clock = {test_wall, test_mono, NULL};

static int scan_setup(void **state)
{
    struct store_fixture *f;

    clock_replace(&test_clock);
    if (store_fixture_setup(state) != 0)
        return -1;
    f = *state;
    f->config.sync = STORE_SYNC_OS;
    f->config.checkpoint_entries = 150;
    f->config.reader_ports = 4;
    return 0;
}

static int scan_teardown(void **state)
{
    int rc = store_fixture_teardown(state);

    clock_replace(NULL);
    return rc;
}

/* ---- figures ---- */

static uint64_t figure(struct store_fixture *f, const char *name)
{
    struct buf text = {0};
    const char *at;
    uint64_t value;

    assert_int_equal(buf_add(&text, "\n", 1), 0);
    assert_int_equal(store_stat(f->store, &text), 0);
    assert_int_equal(buf_add(&text, "", 1), 0);
    at = strstr(text.data, name);
    assert_non_null(at);
    value = strtoull(at + strlen(name), NULL, 10);
    buf_free(&text);
    return value;
}

static void a_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
}

/* ---- keys and their model ---- */

#define POOL 900

struct model_key {
    char *bytes;
    size_t len;
    bool live; /* there was no delete or flush since the last put */
    int64_t expires_ms;
    uint64_t cas;
};

struct model {
    struct model_key keys[POOL]; /* ascending */
    size_t count;
};

static struct slice model_slice(const struct model_key *k)
{
    return slice_of(k->bytes, k->len);
}

static int compare_keys(const void *a, const void *b)
{
    return slice_compare(model_slice(a), model_slice(b));
}

/* Keys of all lengths where something changes, in few families, with every kind of byte. */
static size_t random_key(struct random *random, char *out)
{
    static const size_t lengths[] = {0,   1,   2,   3,   7,   8,   30,    493,
                                     494, 495, 496, 510, 511, 512, 65535, RECORD_KEY_MAX};
    static const char fills[] = {'a', '\0', '\xff'};
    size_t kinds = sizeof(lengths) / sizeof(lengths[0]);
    size_t len = lengths[random_below(random, random_below(random, 40) == 0 ? kinds : kinds - 2)];

    if (len == RECORD_KEY_MAX - 1 && random_below(random, 2) == 0)
        len = 500 + random_below(random, 3);
    memset(out, fills[random_below(random, 3)], len);
    for (unsigned i = 0; len > 0 && i < 2; i++)
        out[len - 1 - random_below(random, len < 4 ? len : 4)] = (char)random_u64(random);
    if (len > 100 && random_below(random, 4) == 0)
        out[random_below(random, len)] = (char)random_u64(random);
    return len;
}

static struct model *model_new(struct random *random)
{
    struct model *m = calloc(1, sizeof(*m));
    char *room = malloc(RECORD_KEY_MAX);
    size_t kept = 0;

    assert_non_null(m);
    assert_non_null(room);
    for (size_t i = 0; i < POOL; i++) {
        struct model_key *k = &m->keys[i];

        k->len = random_key(random, room);
        k->bytes = malloc(k->len + 1);
        assert_non_null(k->bytes);
        memcpy(k->bytes, room, k->len);
    }
    free(room);
    qsort(m->keys, POOL, sizeof(m->keys[0]), compare_keys);
    for (size_t i = 0; i < POOL; i++) {
        if (kept > 0 && compare_keys(&m->keys[kept - 1], &m->keys[i]) == 0)
            free(m->keys[i].bytes);
        else
            m->keys[kept++] = m->keys[i];
    }
    m->count = kept;
    return m;
}

static void model_free(struct model *m)
{
    for (size_t i = 0; i < m->count; i++)
        free(m->keys[i].bytes);
    free(m);
}

static bool is_shown(const struct model_key *k, int64_t now_ms)
{
    return k->live && (k->expires_ms == 0 || k->expires_ms > now_ms);
}

/* ---- random histories ---- */

static void write_done(struct store_write *w)
{
    struct model_key *k = w->owner;

    assert_true(w->status == STORE_OK || w->status == STORE_NOT_FOUND);
    if (k != NULL && w->op == STORE_PUT)
        k->cas = w->cas;
    store_write_free(w);
}

static void begin_write(struct store_fixture *f, enum store_op op, struct model_key *k,
                        size_t value_len, int64_t expires_ms)
{
    struct slice key = k == NULL ? slice_of(NULL, 0) : model_slice(k);
    struct store_write *w = store_write_new(f->port, key, slice_of(NULL, 0), value_len);

    assert_non_null(w);
    w->op = op;
    w->owner = k;
    w->done = write_done;
    w->expires_ms = expires_ms;
    memset(w->value, 'v', value_len);
    store_write_submit(w);
}

static void random_write(struct store_fixture *f, struct random *random, struct model *m,
                         bool with_expiry)
{
    struct model_key *k = &m->keys[random_below(random, m->count)];
    int64_t now_ms = store_now_ms(f->store);
    int64_t expires_ms = with_expiry && random_below(random, 3) == 0
                             ? now_ms + 1 + (int64_t)random_below(random, 50)
                             : 0;

    switch (random_below(random, 8)) {
    case 0:
    case 1:
        begin_write(f, STORE_DELETE, k, 0, 0);
        if (is_shown(k, now_ms)) /* an expired one is not found, and counts until it is swept */
            k->live = false;
        break;
    case 2:
        begin_write(f, STORE_TOUCH, k, 0, expires_ms);
        if (is_shown(k, now_ms))
            k->expires_ms = expires_ms;
        break;
    case 3:
        if (random_below(random, 200) == 0) {
            begin_write(f, STORE_FLUSH, NULL, 0, 0);
            for (size_t i = 0; i < m->count; i++)
                m->keys[i].live = false;
            break;
        }
        /* fall through */
    default:
        begin_write(f, STORE_PUT, k, random_below(random, 3) == 0 ? 0 : 20, expires_ms);
        k->live = true;
        k->expires_ms = expires_ms;
        break;
    }
}

/* ---- pages against the model ---- */

struct expected {
    const struct model *model;
    const struct store_range *range;
    int64_t now_ms;
    size_t at;
    const struct model_key *last;
};

static bool is_in_range(const struct store_range *r, struct slice key)
{
    int behind = r->has_after ? slice_compare(key, r->after) : 0;

    return slice_starts(key, r->prefix) && slice_compare(key, r->from) >= 0 &&
           (!r->has_to || slice_compare(key, r->to) < 0) &&
           (!r->has_after || (r->reverse ? behind < 0 : behind > 0));
}

/* The next record that must come, or NULL. */
static const struct model_key *expected_next(struct expected *e)
{
    const struct model *m = e->model;

    while (e->at < m->count) {
        const struct model_key *k = &m->keys[e->range->reverse ? m->count - 1 - e->at : e->at];

        e->at++;
        if (is_shown(k, e->now_ms) && is_in_range(e->range, model_slice(k)))
            return k;
    }
    return NULL;
}

static bool expect_item(const struct store_scan_item *item, void *arg)
{
    struct expected *e = arg;
    const struct model_key *k = expected_next(e);

    assert_non_null(k);
    assert_true(slice_equal(item->key, model_slice(k)));
    assert_int_equal(item->kind, RECORD_PUT);
    assert_true(item->expires_ms == k->expires_ms);
    assert_true(item->cas == k->cas && item->base.version == k->cas);
    assert_true(item->bytes > k->len);
    e->last = k;
    return true;
}

static void check_scan(struct store_fixture *f, const struct model *m,
                       const struct store_range *range, unsigned limit)
{
    struct expected e = {m, range, store_now_ms(f->store), 0, NULL};
    struct store_range page = *range;
    int more;

    do {
        e.last = NULL;
        more = store_scan(f->store, &page, limit, expect_item, &e);
        assert_true(more == 0 || (more == 1 && e.last != NULL));
        page.has_after = true;
        if (more == 1)
            page.after = model_slice(e.last);
    } while (more == 1);
    assert_null(expected_next(&e));
}

static struct slice random_bound(struct random *random, const struct model *m)
{
    struct slice key = model_slice(&m->keys[random_below(random, m->count)]);

    if (random_below(random, 3) == 0)
        key.len = random_below(random, key.len + 1);
    return key;
}

static void check_random_range(struct store_fixture *f, struct random *random,
                               const struct model *m)
{
    struct store_range range = {
        .has_to = random_below(random, 3) == 0,
        .to = random_bound(random, m),
        .has_after = random_below(random, 3) == 0,
        .after = random_bound(random, m),
        .reverse = random_below(random, 2) == 0,
    };

    if (random_below(random, 3) == 0)
        range.from = random_bound(random, m);
    if (random_below(random, 3) == 0) {
        range.prefix = random_bound(random, m);
        if (range.prefix.len > 0 && random_below(random, 2) == 0)
            range.prefix.len = random_below(random, range.prefix.len);
    }
    check_scan(f, m, &range, 1 + (unsigned)random_below(random, 400));
}

static void check_count(struct store_fixture *f, const struct model *m)
{
    int64_t now_ms = store_now_ms(f->store);
    uint64_t count = store_count(f->store);
    uint64_t shown = 0;
    uint64_t expired = 0;

    for (size_t i = 0; i < m->count; i++) {
        shown += is_shown(&m->keys[i], now_ms);
        expired += m->keys[i].live && !is_shown(&m->keys[i], now_ms);
    }
    assert_true(count >= shown && count <= shown + expired);
}

static void random_history(struct store_fixture *f, struct random *random, bool with_expiry)
{
    struct model *m = model_new(random);

    assert_int_equal(store_open(f), 0);
    for (unsigned round = 0; round < 150; round++) {
        for (uint64_t n = random_below(random, 40); n > 0; n--)
            random_write(f, random, m, with_expiry);
        store_settle(f);
        atomic_fetch_add(&wall_now, (int64_t)random_below(random, 5));
        check_random_range(f, random, m);
        if (round % 10 == 0)
            check_count(f, m);
        if (random_below(random, 40) == 0) {
            store_shut(f);
            assert_int_equal(store_open(f), 0);
        }
    }
    check_count(f, m);
    store_shut(f);
    model_free(m);
}

static void random_histories_list_what_the_model_has(void **state)
{
    struct random random = random_seeded();

    random_history(*state, &random, false);
}

static void the_same_with_records_that_expire(void **state)
{
    struct random random = random_seeded();

    random_history(*state, &random, true);
}

/* ---- beside writers and checkpoints ---- */

enum { STAYING = 600, SCANNERS = 3, WALKS = 12, CHECKPOINTS = 12 };

/* Keys 0, 2, 4... stay; those between come and go. Some are long, with one beginning. */
static size_t beside_key(uint32_t number, char *out)
{
    size_t len = number % 3 == 0 ? 600 : number % 3 == 1 ? 494 : 5;

    memset(out, 'k', len);
    for (size_t i = 0; i < 4; i++)
        out[len - 1 - i] = (char)('a' + (number >> 4 * i & 15));
    return len;
}

struct scanner {
    struct store *store;
    struct random random;
    bool *stays; /* of each length and number: whether it was given in this walk */
    char last[600];
    size_t last_len;
    bool have_last;
    bool reverse;
    _Atomic unsigned walks;
    _Atomic bool *end;
};

static bool given_key(const struct store_scan_item *item, void *arg)
{
    struct scanner *s = arg;
    uint32_t number = 0;

    CHECK(item->key.len == 5 || item->key.len == 494 || item->key.len == 600);
    for (size_t i = 0; i < 4; i++)
        number |= (uint32_t)(item->key.ptr[item->key.len - 1 - i] - 'a') << 4 * i;
    if (s->have_last) {
        int order = slice_compare(item->key, slice_of(s->last, s->last_len));

        CHECK(s->reverse ? order < 0 : order > 0);
    }
    CHECK(number < 2 * STAYING);
    if (number % 2 == 0) {
        CHECK(!s->stays[number]);
        s->stays[number] = true;
    }
    memcpy(s->last, item->key.ptr, item->key.len);
    s->last_len = item->key.len;
    s->have_last = true;
    return true;
}

static void walk_once(struct scanner *s)
{
    int more;

    memset(s->stays, 0, 2 * STAYING * sizeof(*s->stays));
    s->have_last = false;
    s->reverse = random_below(&s->random, 2) == 0;
    do {
        struct store_range range = {.has_after = s->have_last,
                                    .after = slice_of(s->last, s->last_len),
                                    .reverse = s->reverse};

        more =
            store_scan(s->store, &range, 1 + (unsigned)random_below(&s->random, 300), given_key, s);
        CHECK(more >= 0);
    } while (more == 1);
    for (uint32_t i = 0; i < 2 * STAYING; i += 2)
        CHECK(s->stays[i]);
    atomic_fetch_add(&s->walks, 1);
}

static void *scan_on(void *arg)
{
    struct scanner *s = arg;

    while (!atomic_load(s->end))
        walk_once(s);
    return NULL;
}

static void ignore_result(struct store_write *w)
{
    assert_true(w->status == STORE_OK || w->status == STORE_NOT_FOUND);
    store_write_free(w);
}

static void write_beside(struct store_fixture *f, uint32_t number, bool deletes)
{
    char text[600];
    struct slice key = slice_of(text, beside_key(number, text));
    struct store_write *w = store_write_new(f->port, key, slice_of(NULL, 0), 0);

    assert_non_null(w);
    w->op = deletes ? STORE_DELETE : STORE_PUT;
    w->done = ignore_result;
    store_write_submit(w);
}

static bool all_have_walked(struct scanner *scanners)
{
    for (unsigned i = 0; i < SCANNERS; i++)
        if (atomic_load(&scanners[i].walks) < WALKS)
            return false;
    return true;
}

static void what_stays_is_given_once_in_every_walk(void **state)
{
    struct store_fixture *f = *state;
    struct random random = random_seeded();
    struct scanner *scanners = calloc(SCANNERS, sizeof(*scanners));
    pthread_t threads[SCANNERS];
    _Atomic bool end = false;

    assert_non_null(scanners);
    assert_int_equal(store_open(f), 0);
    for (uint32_t i = 0; i < 2 * STAYING; i += 2)
        write_beside(f, i, false);
    store_settle(f);
    for (unsigned i = 0; i < SCANNERS; i++) {
        scanners[i].store = f->store;
        scanners[i].end = &end;
        scanners[i].random.state = random_u64(&random);
        scanners[i].stays = malloc(2 * STAYING * sizeof(bool));
        assert_non_null(scanners[i].stays);
        assert_int_equal(pthread_create(&threads[i], NULL, scan_on, &scanners[i]), 0);
    }
    while (!all_have_walked(scanners) || figure(f, "\ncheckpoints ") < CHECKPOINTS) {
        for (unsigned n = 0; n < 30; n++) {
            uint32_t number = (uint32_t)random_below(&random, 2 * STAYING);

            write_beside(f, number, number % 2 == 1 && random_below(&random, 2) == 0);
        }
        store_settle(f);
    }
    atomic_store(&end, true);
    for (unsigned i = 0; i < SCANNERS; i++) {
        pthread_join(threads[i], NULL);
        free(scanners[i].stays);
    }
    free(scanners);
    store_shut(f);
}

/* ---- a scan that takes its time ---- */

struct slow_scan {
    struct store *store;
    pthread_barrier_t *inside;
    _Atomic bool *go_on;
    unsigned count;
};

static bool wait_inside(const struct store_scan_item *item, void *arg)
{
    struct slow_scan *s = arg;

    (void)item;
    if (s->count++ == 0) {
        pthread_barrier_wait(s->inside);
        while (!atomic_load(s->go_on))
            a_moment();
    }
    return true;
}

static void *scan_slowly(void *arg)
{
    struct slow_scan *s = arg;
    struct store_range all = {0};

    CHECK(store_scan(s->store, &all, 1000, wait_inside, s) == 0);
    return NULL;
}

/* As many scans as there may be are in the middle of a page: writes are answered, checkpoints come
 * and let their generations go, and the pages are what they were at their beginning. */
static void slow_scans_hold_up_neither_writers_nor_checkpoints(void **state)
{
    struct store_fixture *f = *state;
    struct slow_scan scans[LISTING_READERS];
    pthread_t threads[LISTING_READERS];
    pthread_barrier_t inside;
    _Atomic bool go_on = false;
    uint32_t number = 0;

    assert_int_equal(store_open(f), 0);
    for (uint32_t i = 0; i < 100; i++)
        write_beside(f, i, false);
    store_settle(f);
    assert_int_equal(pthread_barrier_init(&inside, NULL, LISTING_READERS + 1), 0);
    for (unsigned i = 0; i < LISTING_READERS; i++) {
        scans[i] = (struct slow_scan){f->store, &inside, &go_on, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, scan_slowly, &scans[i]), 0);
    }
    pthread_barrier_wait(&inside);
    while (figure(f, "\ncheckpoints ") < 5) {
        for (unsigned n = 0; n < 100; n++)
            write_beside(f, 100 + number++ % 1000, false);
        store_settle(f);
    }
    atomic_store(&go_on, true);
    for (unsigned i = 0; i < LISTING_READERS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(scans[i].count >= 100);
    }
    pthread_barrier_destroy(&inside);
    store_shut(f);
}

/* ---- memory ---- */

static bool count_item(const struct store_scan_item *item, void *arg)
{
    (void)item;
    ++*(unsigned *)arg;
    return true;
}

static void what_scans_keep_is_bounded(void **state)
{
    enum { KEYS = 20000, PAGES = 30 };
    struct store_fixture *f = *state;
    struct store_range range = {0};
    unsigned count = 0;
    char key[16];

    f->config.checkpoint_entries = 10 * KEYS;
    assert_int_equal(store_open(f), 0);
    assert_int_equal(figure(f, "\nscan_bytes "), 0);
    for (unsigned page = 0; page < PAGES; page++) {
        for (unsigned i = 0; i < KEYS / PAGES; i++) {
            struct store_write *w;

            snprintf(key, sizeof(key), "%u", i * PAGES + page);
            w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), 0);
            assert_non_null(w);
            w->op = STORE_PUT;
            w->done = ignore_result;
            store_write_submit(w);
        }
        store_settle(f);
        count = 0;
        assert_int_equal(store_scan(f->store, &range, KEYS, count_item, &count), 0);
        assert_int_equal(count, (page + 1) * (KEYS / PAGES));
        /* at most twice a pointer for each key in the delta */
        assert_true(figure(f, "\nscan_bytes ") <= count * 2 * sizeof(void *) + 1024);
    }
    assert_true(figure(f, "\nscan_bytes ") >= KEYS / PAGES * PAGES * sizeof(void *));
    store_shut(f);
}

/* Some time after the last page nothing is kept: not of the delta's keys, nor of long ones. */
static void what_scans_keep_goes_when_no_page_comes(void **state)
{
    enum { KEYS = 300 }; /* a third of them is long */
    struct store_fixture *f = *state;
    struct store_range range = {0};
    unsigned count = 0;

    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(store_open(f), 0);
        for (uint32_t i = 0; round == 0 && i < KEYS; i++)
            write_beside(f, i, false);
        store_settle(f);
        count = 0;
        assert_int_equal(store_scan(f->store, &range, KEYS, count_item, &count), 0);
        assert_int_equal(count, KEYS);
        assert_true(round == 0 || figure(f, "\ndelta_keys ") == 0);
        assert_true(figure(f, "\nscan_bytes ") > 0);
        atomic_fetch_add(&mono_ahead, 60000);
        while (figure(f, "\nscan_bytes ") > 0)
            a_moment();
        store_shut(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_histories_list_what_the_model_has, scan_setup,
                                        scan_teardown),
        cmocka_unit_test_setup_teardown(the_same_with_records_that_expire, scan_setup,
                                        scan_teardown),
        cmocka_unit_test_setup_teardown(what_stays_is_given_once_in_every_walk, scan_setup,
                                        scan_teardown),
        cmocka_unit_test_setup_teardown(slow_scans_hold_up_neither_writers_nor_checkpoints,
                                        scan_setup, scan_teardown),
        cmocka_unit_test_setup_teardown(what_scans_keep_is_bounded, scan_setup, scan_teardown),
        cmocka_unit_test_setup_teardown(what_scans_keep_goes_when_no_page_comes, scan_setup,
                                        scan_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
