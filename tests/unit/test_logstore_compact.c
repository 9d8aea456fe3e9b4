/*
 * test_logstore_compact.c - compaction in a running store: random histories against a model, with
 * readers and scans beside it, then reopened, and rebuilt from what compaction has left of the log.
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
#include "store/logstore/logstore.h"
#include "store/logstore/sweep.h"
#include "store_fixture.h"

#define SEGMENT_BYTES (256u * 1024)
#define KEYS 300
#define LONG_KEY 3000
#define WAIT_MS 60000

/* ---- the store's figures ---- */

static uint64_t figure(struct store_fixture *f, const char *name)
{
    struct buf text = {0};
    char line[64];
    const char *at;
    uint64_t value;

    snprintf(line, sizeof(line), "\n%s ", name);
    assert_int_equal(buf_add(&text, "\n", 1), 0);
    assert_int_equal(store_stat(f->store, &text), 0);
    assert_int_equal(buf_add(&text, "", 1), 0);
    at = strstr(text.data, line);
    assert_non_null(at);
    value = strtoull(at + strlen(line), NULL, 10);
    buf_free(&text);
    return value;
}

static void nap(void)
{
    const struct timespec moment = {.tv_nsec = 2000 * 1000};

    nanosleep(&moment, NULL);
}

static bool all_is_indexed(struct logstore *ls)
{
    static char room[INDEX_VECTORS_MAX];
    struct index_meta meta;

    return index_read_meta(ls->index, &meta, room) == 0 &&
           meta.seq == atomic_load(&ls->marks.written_seq);
}

/* Waits until everything is in the index and nothing more is worth compacting. */
static void compact_all(struct store_fixture *f)
{
    struct logstore *ls = logstore_of(f->store);
    int64_t until = clock_mono_ms() + WAIT_MS;
    unsigned quiet = 0;
    uint64_t seen = 0;

    store_settle(f);
    compact_now(ls);
    while (quiet < 3) {
        uint64_t looks = compact_looks(ls);

        assert_true(clock_mono_ms() < until);
        if (!all_is_indexed(ls))
            checkpoint_ask(ls);
        else if (looks != seen)
            quiet = figure(f, "compaction_debt_bytes") == 0 && figure(f, "compaction_running") == 0
                        ? quiet + 1
                        : 0;
        seen = looks;
        compact_wake(ls);
        nap();
    }
}

/* ---- the model ---- */

struct key_model {
    uint32_t version; /* of its newest value */
    size_t len;
    unsigned pluses;
    bool live;
    bool is_counter;
    int64_t count;
    int64_t expires_ms;
};

struct model {
    struct store_fixture *f;
    struct random random;
    struct key_model keys[KEYS];
    char key[RECORD_KEY_MAX + 1];
    char value[128 * 1024];
};

/* Mostly short; the empty one, long ones with one beginning, and a very long one too. */
static const char *key_text(struct model *m, unsigned i)
{
    size_t lead = i % 25 == 3 ? 494 : i == 11 ? 60000 : 0;

    if (i == 7)
        return "";
    memset(m->key, 'k', lead);
    snprintf(m->key + lead, sizeof(m->key) - lead, "key-%u", i);
    return m->key;
}

static size_t value_text(struct model *m, unsigned i)
{
    const struct key_model *k = &m->keys[i];
    size_t n = (size_t)snprintf(m->value, 64, "%u:%u:%zu.", i, k->version, k->len);

    for (size_t at = n; at < k->len; at++)
        m->value[at] = (char)('a' + (at * 7 + k->version + i) % 26);
    n = n < k->len ? k->len : n;
    memset(m->value + n, '+', k->pluses);
    m->value[n + k->pluses] = '\0';
    return n + k->pluses;
}

static void do_put(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    static const int64_t expiries[] = {0, 0, 0, 0, 1, 1, INT64_MAX / 1000000};
    size_t most = random_below(&m->random, 20) == 0 ? 60000 : 3000;

    k->version++;
    k->len = random_below(&m->random, most);
    k->pluses = 0;
    k->is_counter = false;
    k->expires_ms = expiries[random_below(&m->random, sizeof(expiries) / sizeof(expiries[0]))];
    k->live = k->expires_ms != 1;
    (void)value_text(m, i);
    assert_int_equal(
        write_key(m->f, STORE_PUT, STORE_ANY, 0, key_text(m, i), slice_str(m->value), k->expires_ms)
            .status,
        STORE_OK);
}

static void do_delete(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];

    assert_int_equal(
        write_key(m->f, STORE_DELETE, STORE_ANY, 0, key_text(m, i), slice_of(NULL, 0), 0).status,
        k->live ? STORE_OK : STORE_NOT_FOUND);
    k->live = false;
}

/* Sometimes it expires by that. */
static void do_touch(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    int64_t to = random_below(&m->random, 4) == 0
                     ? 1
                     : clock_wall_ms() + 10000000 + (int64_t)random_below(&m->random, 1000);

    assert_int_equal(
        write_key(m->f, STORE_TOUCH, STORE_ANY, 0, key_text(m, i), slice_of(NULL, 0), to).status,
        k->live ? STORE_OK : STORE_NOT_FOUND);
    if (k->live) {
        k->expires_ms = to;
        k->live = to != 1;
    }
}

static void do_append(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];

    if (k->is_counter && k->live)
        return;
    assert_int_equal(update(m->f, key_text(m, i), add_plus, 0).status,
                     k->live ? STORE_OK : STORE_NOT_STORED);
    k->pluses += k->live;
}

static void do_count(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    int64_t add = (int64_t)random_below(&m->random, 1000);

    if (!k->live) {
        assert_int_equal(put(m->f, key_text(m, i), "0").status, STORE_OK);
        k->live = k->is_counter = true;
        k->count = k->expires_ms = 0;
    }
    if (!k->is_counter)
        return;
    k->count += add;
    assert_int_equal(update(m->f, key_text(m, i), count_up, (uint64_t)add).status, STORE_OK);
}

static void do_big(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    static char big[STORE_SPOOL_MIN + 5000];

    memset(big, 'B', sizeof(big));
    assert_int_equal(put_big(m->f, key_text(m, i), big, sizeof(big)).status, STORE_OK);
    do_delete(m, i == 0 ? 1 : i - 1);
    k->live = true;
    k->is_counter = false;
    k->len = sizeof(big);
    k->pluses = 0;
    k->expires_ms = 0;
}

static void do_flush(struct model *m)
{
    assert_int_equal(flush_at(m->f, 0).status, STORE_OK);
    for (unsigned i = 0; i < KEYS; i++)
        m->keys[i].live = false;
}

static void one_operation(struct model *m)
{
    unsigned i = (unsigned)random_below(&m->random, KEYS);

    switch (random_below(&m->random, 40)) {
    case 0: do_count(m, i); break;
    case 1:
    case 2: do_touch(m, i); break;
    case 3: do_append(m, i); break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8: do_delete(m, i); break;
    case 9:
        if (random_below(&m->random, 100) == 0)
            do_flush(m);
        else if (random_below(&m->random, 30) == 0)
            do_big(m, i);
        break;
    default: do_put(m, i); break;
    }
}

static void check_key(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    struct record *rec = malloc(sizeof(*rec));
    size_t len = 0;
    char *got = fetch(m->f, key_text(m, i), &len, NULL, rec);

    if (!k->live) {
        assert_null(got);
    } else if (k->is_counter) {
        int64_t sum = strtoll(got, NULL, 10);

        for (unsigned s = 0; s < rec->slot_count; s++)
            sum += rec->slots[s].sum;
        assert_int_equal(sum, k->count);
    } else if (k->len > STORE_SPOOL_MIN) {
        assert_non_null(got);
        assert_int_equal(len, k->len + k->pluses);
        assert_int_equal(got[0], 'B');
    } else {
        assert_non_null(got);
        (void)value_text(m, i);
        assert_string_equal(got, m->value);
        assert_int_equal(rec->expires_ms, k->expires_ms);
    }
    free(got);
    free(rec);
}

static void check_all(struct model *m)
{
    uint64_t live = 0;

    for (unsigned i = 0; i < KEYS; i++) {
        check_key(m, i);
        live += m->keys[i].live;
    }
    while (!sweep_now(logstore_of(m->f->store)))
        nap(); /* a checkpoint comes first */
    assert_int_equal(store_count(m->f->store), live);
}

/* ---- beside it ---- */

struct reader {
    struct model *m;
    struct store_fixture f; /* with a port of its own */
    _Atomic bool stop;
    pthread_t thread;
    unsigned reads;
    unsigned failures;
};

/* Any answer is right but "damaged" and the like. */
static void *read_on(void *arg)
{
    struct reader *r = arg;
    char key[64];

    while (!atomic_load(&r->stop)) {
        enum store_status status;

        snprintf(key, sizeof(key), "key-%u", r->reads % KEYS);
        free(fetch(&r->f, key, NULL, &status, NULL));
        r->reads++;
        r->failures += status != STORE_OK && status != STORE_NOT_FOUND;
    }
    return NULL;
}

static bool count_one(const struct store_scan_item *item, void *arg)
{
    (void)item;
    ++*(unsigned *)arg;
    return true;
}

static void *scan_on(void *arg)
{
    struct reader *r = arg;
    const struct store_range everything = {0};

    while (!atomic_load(&r->stop)) {
        unsigned keys = 0;

        r->failures += store_scan(r->f.store, &everything, 1000, count_one, &keys) < 0;
        r->failures += keys > KEYS;
        r->reads++;
    }
    return NULL;
}

static void begin_beside(struct reader *r, struct model *m, void *(*run)(void *arg))
{
    memset(r, 0, sizeof(*r));
    r->m = m;
    r->f = *m->f;
    assert_int_equal(aio_open(r->f.pool, true, &r->f.aio), 0);
    assert_int_equal(store_port_open(r->f.store, r->f.aio, &r->f.port), 0);
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void end_beside(struct reader *r)
{
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
    store_port_close(r->f.port);
    aio_close(r->f.aio);
    assert_true(r->reads > 0);
    assert_int_equal(r->failures, 0);
}

/* ---- the tests ---- */

static struct model *begin(void **state)
{
    struct store_fixture *f = *state;
    struct model *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    m->f = f;
    m->random = random_seeded();
    f->config.segment_bytes = SEGMENT_BYTES;
    f->config.reader_ports = 4;
    f->config.sync = STORE_SYNC_OS;
    f->config.checkpoint_entries = 500;
    assert_int_equal(store_open(f), 0);
    return m;
}

static void reopen(struct model *m, bool rebuild)
{
    store_shut(m->f);
    if (rebuild)
        remove_tree(store_path(m->f, "index"));
    assert_int_equal(store_open(m->f), 0);
}

static void check_bounds(struct store_fixture *f)
{
    uint64_t bytes = figure(f, "segment_bytes");

    assert_true(figure(f, "segments") <= 2 * bytes / SEGMENT_BYTES + 8);
    assert_int_equal(count_files(store_path(f, "log")), figure(f, "segments"));
    assert_true(bytes <= figure(f, "live_bytes") * 10 / 6 + 2 * SEGMENT_BYTES);
}

static void overwritten_values_give_their_space_back(void **state)
{
    struct model *m = begin(state);

    for (unsigned round = 0; round < 40; round++)
        for (unsigned i = 100; i < 150; i++) {
            m->keys[i].version++;
            m->keys[i].len = 2000;
            m->keys[i].live = true;
            (void)value_text(m, i);
            assert_int_equal(put(m->f, key_text(m, i), m->value).status, STORE_OK);
        }
    compact_all(m->f);
    check_bounds(m->f);
    assert_true(figure(m->f, "compacted_segments") > 5);
    check_all(m);
    reopen(m, false);
    check_all(m);
    reopen(m, true);
    check_all(m);
    free(m);
}

static void random_histories_agree_with_a_model(void **state)
{
    struct model *m = begin(state);

    for (unsigned round = 0; round < 8; round++) {
        struct reader reader;
        struct reader scanner;

        begin_beside(&reader, m, read_on);
        begin_beside(&scanner, m, scan_on);
        for (unsigned n = 0; n < 1500; n++)
            one_operation(m);
        if (random_below(&m->random, 4) != 0) {
            compact_all(m->f);
            check_bounds(m->f);
        }
        end_beside(&reader);
        end_beside(&scanner);
        check_all(m);
        if (random_below(&m->random, 2) == 0) {
            reopen(m, random_below(&m->random, 2) == 0);
            check_all(m);
        }
    }
    compact_all(m->f);
    reopen(m, true);
    check_all(m);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(overwritten_values_give_their_space_back,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(random_histories_agree_with_a_model, store_fixture_setup,
                                        store_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
