/*
 * test_logstore_checkpoint.c - a checkpoint that ends after any of its transactions: contents and
 * the count of records are those of a model after the restart.
 *
 * The k-th commit of the index fails; what the commits before it wrote is what a crash leaves
 * there.
 */
#include <dlfcn.h>
#include <errno.h>
#include <lmdb.h>
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
#include "base/log.h"
#include "random.h"
#include "store_fixture.h"

/* A checkpoint of them all takes some transactions: each aims at so many pages at least as 10,000
 * rows have. */
#define KEYS 40000u
#define FIRST_KEYS 20000u
#define NEVER (-1)

/* ---- no checkpoint but when the test wants one ---- */

static int64_t wall_now(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The store is never idle for any time, and a flush was never long ago. */
static int64_t mono_now(void *ctx)
{
    (void)ctx;
    return 1000;
}

static int setup(void **state)
{
    static const struct clock_source source = {wall_now, mono_now, NULL};

    clock_replace(&source);
    return store_fixture_setup(state);
}

static int teardown(void **state)
{
    int rc = store_fixture_teardown(state);

    clock_replace(NULL);
    return rc;
}

/* ---- commits that fail ---- */

static _Atomic int commits_left = NEVER; /* until one fails, and all that follow */

/* In the place of the library's. */
int mdb_txn_commit(MDB_txn *txn)
{
    static int (*commit)(MDB_txn *);
    int left = atomic_load(&commits_left);

    if (commit == NULL)
        *(void **)&commit = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (left == 0) {
        mdb_txn_abort(txn);
        return ENOSPC;
    }
    if (left != NEVER)
        atomic_store(&commits_left, left - 1);
    return commit(txn);
}

/* ---- a model ---- */

struct model_key {
    uint32_t version; /* of the value; 0: absent */
    int32_t added;    /* sum of increments */
    int64_t expires_ms;
};

struct model {
    struct store_fixture *f;
    struct model_key *keys;
    struct random random;
    unsigned under_way;
    uint32_t next_version;
    uint64_t live;
};

/* In an order of their own, so that every transaction holds keys of all sorts. */
static size_t key_text(unsigned i, char out[32])
{
    return (size_t)snprintf(out, 32, "%08x-key-%u", i * 2654435761u, i);
}

static size_t value_text(unsigned i, uint32_t version, char out[32])
{
    return (size_t)snprintf(out, 32, "%u:%u", i, version);
}

static void write_done(struct store_write *w)
{
    assert_int_equal(w->status, STORE_OK);
    store_write_free(w);
}

static void submit(struct model *m, unsigned i, enum store_op op, uint32_t version,
                   store_compute *compute, uint64_t argument)
{
    char key[32];
    char value[32];
    size_t key_len = key_text(i, key);
    size_t len = op == STORE_PUT ? value_text(i, version, value) : 0;
    struct store_write *w =
        store_write_new(m->f->port, slice_of(key, key_len), slice_of(NULL, 0), len);

    assert_non_null(w);
    if (len > 0)
        memcpy(w->value, value, len);
    w->op = op;
    w->compute = compute;
    w->argument[0] = argument;
    w->expires_ms = op == STORE_TOUCH ? (int64_t)argument : 0;
    w->done = write_done;
    store_write_submit(w);
    if (++m->under_way % 1000 == 0)
        store_settle(m->f);
}

static enum store_status add(struct store_write *w, const struct record *now,
                             struct store_change *out)
{
    assert_non_null(now);
    out->kind = CHANGE_COUNTER;
    out->delta = (int64_t)w->argument[0];
    return STORE_OK;
}

static void model_put(struct model *m, unsigned i)
{
    struct model_key *k = &m->keys[i];

    m->live += k->version == 0;
    *k = (struct model_key){.version = ++m->next_version};
    submit(m, i, STORE_PUT, k->version, NULL, 0);
}

static void model_delete(struct model *m, unsigned i)
{
    if (m->keys[i].version == 0)
        return;
    m->live--;
    m->keys[i].version = 0;
    submit(m, i, STORE_DELETE, 0, NULL, 0);
}

static void model_touch(struct model *m, unsigned i)
{
    if (m->keys[i].version == 0)
        return;
    m->keys[i].expires_ms = clock_wall_ms() + 1000000 + (int64_t)random_below(&m->random, 1000);
    submit(m, i, STORE_TOUCH, 0, NULL, (uint64_t)m->keys[i].expires_ms);
}

static void model_add(struct model *m, unsigned i)
{
    if (m->keys[i].version == 0)
        return;
    m->keys[i].added += 3;
    submit(m, i, STORE_UPDATE, 0, add, 3);
}

static void model_flush(struct model *m)
{
    store_settle(m->f);
    assert_int_equal(flush_at(m->f, 0).status, STORE_OK);
    for (unsigned i = 0; i < KEYS; i++)
        m->keys[i].version = 0;
    m->live = 0;
}

/* Some operations on every key, so that the checkpoint takes several transactions. */
static void change_all(struct model *m)
{
    for (unsigned i = 0; i < KEYS; i++) {
        if (random_below(&m->random, 4) != 0)
            model_put(m, i);
        for (uint64_t more = random_below(&m->random, 4); more > 0; more--) {
            switch (random_below(&m->random, 5)) {
            case 0: model_put(m, i); break;
            case 1: model_touch(m, i); break;
            case 2: model_add(m, i); break;
            default: model_delete(m, i); break;
            }
        }
    }
    store_settle(m->f);
}

static void check_key(struct model *m, unsigned i)
{
    const struct model_key *k = &m->keys[i];
    char key[32];
    char value[32];
    struct record rec;
    char *got;

    key_text(i, key);
    value_text(i, k->version, value);
    got = fetch(m->f, key, NULL, NULL, &rec);
    if (k->version == 0) {
        assert_null(got);
        return;
    }
    assert_non_null(got);
    assert_string_equal(got, value);
    assert_int_equal(rec.expires_ms, k->expires_ms);
    assert_int_equal(k->added == 0 ? 0 : rec.slots[0].sum, k->added);
    free(got);
}

static void check(struct model *m)
{
    assert_int_equal(store_count(m->f->store), m->live);
    for (unsigned i = 0; i < KEYS; i++)
        check_key(m, i);
    assert_int_equal(store_count(m->f->store), m->live);
}

static struct model model_make(struct store_fixture *f)
{
    struct model m = {.f = f, .random = random_seeded()};

    m.keys = calloc(KEYS, sizeof(*m.keys));
    assert_non_null(m.keys);
    f->config.sync = STORE_SYNC_OS;
    f->config.segment_bytes = 64u << 20;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < FIRST_KEYS; i++)
        model_put(&m, i * 2);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    return m;
}

/* Stops in the middle of the last checkpoint. True if it was long enough to fail. */
static bool stop_with_commits(struct model *m, int commits)
{
    bool failed;

    log_set_level(LOG_ERROR + 1);
    atomic_store(&commits_left, commits);
    store_shut(m->f);
    failed = atomic_load(&commits_left) == 0;
    atomic_store(&commits_left, NEVER);
    log_set_level(LOG_ERROR);
    return failed;
}

/* ---- the tests ---- */

static void a_checkpoint_that_ends_after_any_transaction_keeps_the_count(void **state)
{
    struct store_fixture *f = *state;
    struct model m = model_make(f);
    int commits = 0;
    bool failed = true;

    for (; failed; commits++) {
        change_all(&m);
        failed = stop_with_commits(&m, commits);
        assert_int_equal(store_open(f), 0);
        check(&m);
    }
    assert_true(commits > 3); /* else one transaction was enough, and nothing was tested */
    free(m.keys);
}

static void a_failed_checkpoint_is_made_good_by_the_next(void **state)
{
    struct store_fixture *f = *state;
    struct model m = model_make(f);

    change_all(&m);
    assert_true(stop_with_commits(&m, 1));
    assert_int_equal(store_open(f), 0);
    change_all(&m);
    assert_true(stop_with_commits(&m, 2));
    assert_int_equal(store_open(f), 0);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check(&m);
    free(m.keys);
}

static void a_flush_and_what_follows_it_come_into_the_index_at_once(void **state)
{
    struct store_fixture *f = *state;
    struct model m = model_make(f);
    bool failed = true;

    for (int commits = 0; failed; commits++) {
        change_all(&m);
        model_flush(&m);
        change_all(&m);
        failed = stop_with_commits(&m, commits);
        assert_int_equal(store_open(f), 0);
        check(&m);
    }
    free(m.keys);
}

/* A long replay is settled into the index piece by piece, and a crash may come there too. */
static void a_replay_that_ends_in_its_own_checkpoint_is_repeated(void **state)
{
    struct store_fixture *f = *state;
    struct model m = model_make(f);

    for (int lost_index = 0; lost_index < 2; lost_index++) {
        int rc = -1;

        change_all(&m);
        assert_true(stop_with_commits(&m, 1));
        if (lost_index)
            remove_tree(store_path(f, "index"));
        f->config.checkpoint_entries = KEYS / 2;
        for (int commits = 1; rc != 0; commits++) {
            log_set_level(LOG_ERROR + 1);
            atomic_store(&commits_left, commits);
            rc = store_open(f);
            atomic_store(&commits_left, NEVER);
            log_set_level(LOG_ERROR);
            assert_true(rc == 0 || commits < 20);
        }
        check(&m);
        f->config.checkpoint_entries = 0;
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check(&m);
    }
    free(m.keys);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_checkpoint_that_ends_after_any_transaction_keeps_the_count),
        T(a_failed_checkpoint_is_made_good_by_the_next),
        T(a_flush_and_what_follows_it_come_into_the_index_at_once),
        T(a_replay_that_ends_in_its_own_checkpoint_is_repeated),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
