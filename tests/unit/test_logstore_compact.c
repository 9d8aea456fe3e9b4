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

#include "compact_model.h"

#define SEGMENT_BYTES (256u * 1024)

/* ---- beside it ---- */

struct reader {
    struct model *keys;     /* for the texts of keys only */
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

    while (!atomic_load(&r->stop)) {
        enum store_status status;

        free(fetch(&r->f, model_key(r->keys, r->reads % KEYS), NULL, &status, NULL));
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
    r->keys = calloc(1, sizeof(*r->keys));
    assert_non_null(r->keys);
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
    free(r->keys);
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
    uint64_t bytes = model_figure(f, "segment_bytes");

    assert_true(model_figure(f, "segments") <= 2 * bytes / SEGMENT_BYTES + 8);
    assert_int_equal(count_files(store_path(f, "log")), model_figure(f, "segments"));
    assert_true(bytes <= model_figure(f, "live_bytes") * 10 / 6 + 2 * SEGMENT_BYTES);
}

static void overwritten_values_give_their_space_back(void **state)
{
    struct model *m = begin(state);

    for (unsigned round = 0; round < 40; round++)
        for (unsigned i = 100; i < 150; i++) {
            m->keys[i].version++;
            m->keys[i].len = 2000;
            m->keys[i].live = true;
            (void)model_value(m, i);
            assert_int_equal(put(m->f, model_key(m, i), m->value).status, STORE_OK);
        }
    model_compact(m->f);
    check_bounds(m->f);
    assert_true(model_figure(m->f, "compacted_segments") > 5);
    model_check(m);
    reopen(m, false);
    model_check(m);
    reopen(m, true);
    model_check(m);
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
            model_step(m);
        if (random_below(&m->random, 4) != 0) {
            model_compact(m->f);
            check_bounds(m->f);
        }
        end_beside(&reader);
        end_beside(&scanner);
        model_check(m);
        if (random_below(&m->random, 2) == 0) {
            reopen(m, random_below(&m->random, 2) == 0);
            model_check(m);
        }
    }
    model_compact(m->f);
    reopen(m, true);
    model_check(m);
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
