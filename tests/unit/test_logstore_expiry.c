/*
 * test_logstore_expiry.c - expired records and the count: what has expired leaves it when it is
 * swept, wherever it lies, and the count is exact beside writes, restarts, kills and checkpoints that
 * end in the middle. Flushes that are older than some record.
 *
 * The wall clock is the test's: it stands still but for what a test adds.
 */
#include <dlfcn.h>
#include <errno.h>
#include <lmdb.h>
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
#include "base/log.h"
#include "random.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

#define NEVER (-1)

/* ---- the clock ---- */

static _Atomic int64_t wall_ms;
static _Atomic int64_t later_ms; /* that the monotonic clock is ahead of the system's */

static int64_t read_wall(void *ctx)
{
    (void)ctx;
    return atomic_load(&wall_ms);
}

static int64_t read_mono(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1 + atomic_load(&later_ms);
}

static int setup(void **state)
{
    static const struct clock_source source = {read_wall, read_mono, NULL};

    atomic_store(&wall_ms, 1800000000000);
    atomic_store(&later_ms, 0);
    clock_replace(&source);
    return store_fixture_setup(state);
}

static int teardown(void **state)
{
    int rc = store_fixture_teardown(state);

    clock_replace(NULL);
    return rc;
}

static int64_t in_ms(int64_t ms)
{
    return atomic_load(&wall_ms) + ms;
}

static void pass_ms(int64_t ms)
{
    atomic_fetch_add(&wall_ms, ms);
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

/* ---- small steps ---- */

static struct logstore *inside(struct store_fixture *f)
{
    return logstore_of(f->store);
}

static void sweep_all(struct store_fixture *f)
{
    while (!sweep_now(inside(f)))
        ; /* a checkpoint is under way */
}

static void reopen(struct store_fixture *f)
{
    store_shut(f);
    assert_int_equal(store_open(f), 0);
}

/* As after kill -9: what the files are now, and no more. */
static void kill_and_reopen(struct store_fixture *f)
{
    char copy[300];

    snprintf(copy, sizeof(copy), "%s/copy", f->dir);
    store_settle(f);
    /* A checkpoint would change the index while it is copied. */
    pthread_mutex_lock(&inside(f)->index_mutex);
    copy_tree(store_path(f, ""), copy);
    pthread_mutex_unlock(&inside(f)->index_mutex);
    store_shut(f);
    remove_tree(store_path(f, ""));
    assert_int_equal(rename(copy, store_path(f, "")), 0);
    assert_int_equal(store_open(f), 0);
}

static void put_for(struct store_fixture *f, const char *key, int64_t expires_ms)
{
    assert_int_equal(
        write_key(f, STORE_PUT, STORE_ANY, 0, key, slice_str("value"), expires_ms).status,
        STORE_OK);
}

static uint64_t expiring_rows(struct store_fixture *f)
{
    uint64_t rows = 0;

    assert_int_equal(index_expiring(inside(f)->index, &rows), 0);
    return rows;
}

static void add_tombstones(const struct index_segment *s, void *arg)
{
    *(uint64_t *)arg += s->tombstone_bytes;
}

static uint64_t tombstone_bytes(struct store_fixture *f)
{
    uint64_t bytes = 0;

    assert_int_equal(index_segments(inside(f)->index, add_tombstones, &bytes), 0);
    return bytes;
}

/* ---- the tests ---- */

static void a_record_that_expires_before_its_checkpoint_leaves_the_count(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_for(f, "a", in_ms(1000));
    put_for(f, "b", in_ms(2000));
    put_for(f, "", in_ms(1000));
    put_for(f, "stays", 0);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 4);
    pass_ms(1000);
    check_value(f, "a", NULL);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 2);
    check_value(f, "a", NULL);
    check_value(f, "b", "value");
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_PRESENT, 0, "a", slice_str("x"), 0).status,
                     STORE_NOT_STORED);
    assert_int_equal(write_key(f, STORE_TOUCH, STORE_ANY, 0, "a", slice_str(""), 0).status,
                     STORE_NOT_FOUND);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_ABSENT, 0, "a", slice_str("new"), 0).status,
                     STORE_OK);
    assert_int_equal(store_count(f->store), 3);
    pass_ms(1000);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 2);
    assert_int_equal(atomic_load(&inside(f)->checkpoint.count), 0);
    reopen(f);
    assert_int_equal(store_count(f->store), 2);
    check_value(f, "a", "new");
    check_value(f, "stays", "value");
}

/* Keys of all kinds: long ones whose index keys agree but for the hash. */
static const char *key_of(unsigned i)
{
    static char text[700];
    size_t lead = i % 5 == 0 ? 470 + i % 60 : 0;

    memset(text, 'k', lead);
    snprintf(text + lead, sizeof(text) - lead, "%u", i);
    return text;
}

static void records_of_the_index_leave_the_count_and_their_bytes_are_tombstones(void **state)
{
    enum { COUNT = 2000 };
    struct store_fixture *f = *state;

    f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < COUNT; i++)
        put_for(f, key_of(i), i % 2 == 0 ? in_ms(1000 + i) : 0);
    reopen(f);
    assert_int_equal(expiring_rows(f), COUNT / 2);
    assert_int_equal(tombstone_bytes(f), 0);
    pass_ms(1000 + COUNT / 2);
    sweep_all(f);
    assert_int_equal(store_count(f->store), COUNT - COUNT / 4 - 1);
    pass_ms(COUNT);
    sweep_all(f);
    assert_int_equal(store_count(f->store), COUNT / 2);
    reopen(f);
    assert_int_equal(store_count(f->store), COUNT / 2);
    assert_int_equal(expiring_rows(f), 0);
    assert_true(tombstone_bytes(f) >= COUNT / 2 * (RECORD_HEAD_FIXED + 5));
    for (unsigned i = 0; i < COUNT; i++)
        check_value(f, key_of(i), i % 2 == 0 ? NULL : "value");
}

/* A sweep of more than the delta may hold goes on when checkpoints have made room. */
static void a_large_sweep_waits_for_checkpoints(void **state)
{
    enum { COUNT = 3000 };
    struct store_fixture *f = *state;

    f->config.sync = STORE_SYNC_OS;
    f->config.checkpoint_entries = 600;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < COUNT; i++)
        put_for(f, key_of(i), in_ms(1000));
    reopen(f);
    pass_ms(1000);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 0);
    assert_true(atomic_load(&inside(f)->checkpoint.count) >= 2);
}

static void a_touch_decides_when_a_record_is_swept(void **state)
{
    struct store_fixture *f = *state;

    for (unsigned in_index = 0; in_index < 2; in_index++) {
        assert_int_equal(store_open(f), 0);
        put_for(f, "longer", in_ms(1000));
        put_for(f, "shorter", 0);
        put_for(f, "never", in_ms(1000));
        if (in_index)
            reopen(f);
        assert_int_equal(
            write_key(f, STORE_TOUCH, STORE_ANY, 0, "longer", slice_str(""), in_ms(5000)).status,
            STORE_OK);
        assert_int_equal(
            write_key(f, STORE_TOUCH, STORE_ANY, 0, "shorter", slice_str(""), in_ms(1000)).status,
            STORE_OK);
        assert_int_equal(write_key(f, STORE_TOUCH, STORE_ANY, 0, "never", slice_str(""), 0).status,
                         STORE_OK);
        if (in_index)
            reopen(f);
        pass_ms(1000);
        sweep_all(f);
        assert_int_equal(store_count(f->store), 2);
        check_value(f, "longer", "value");
        check_value(f, "shorter", NULL);
        check_value(f, "never", "value");
        reopen(f);
        assert_int_equal(store_count(f->store), 2);
        pass_ms(10000);
        sweep_all(f);
        assert_int_equal(store_count(f->store), 1);
        assert_int_equal(flush_at(f, 0).status, STORE_OK);
        store_shut(f);
    }
}

static int64_t next_expiry(struct store_fixture *f)
{
    int64_t at_ms = -1;

    assert_int_equal(index_next_expiry(inside(f)->index, &at_ms), 0);
    return at_ms;
}

static void a_record_that_lives_on_and_on_is_filed_anew_when_its_first_moment_comes(void **state)
{
    struct store_fixture *f = *state;
    int64_t first_ms = in_ms(1000);

    assert_int_equal(store_open(f), 0);
    put_for(f, "touched", first_ms);
    put_for(f, "written", first_ms);
    put_for(f, key_of(500), first_ms);
    reopen(f);
    pass_ms(900);
    assert_int_equal(
        write_key(f, STORE_TOUCH, STORE_ANY, 0, "touched", slice_str(""), in_ms(5000)).status,
        STORE_OK);
    put_for(f, "written", in_ms(6000));
    put_for(f, key_of(500), in_ms(6000));
    reopen(f);
    assert_int_equal(next_expiry(f), first_ms);
    pass_ms(100);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 3);
    reopen(f);
    assert_int_equal(next_expiry(f), first_ms + 4900);
    pass_ms(4900);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 2);
    pass_ms(1000);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 0);
    reopen(f);
    assert_int_equal(expiring_rows(f), 0);
}

static void a_swept_record_comes_back_after_a_kill_and_is_swept_again(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_for(f, "in the index", in_ms(1000));
    put_for(f, "touched", 0);
    reopen(f);
    put_for(f, "in the log", in_ms(1000));
    assert_int_equal(
        write_key(f, STORE_TOUCH, STORE_ANY, 0, "touched", slice_str(""), in_ms(1000)).status,
        STORE_OK);
    put_for(f, "stays", 0);
    pass_ms(1000);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 1);
    for (unsigned round = 0; round < 3; round++) {
        kill_and_reopen(f);
        sweep_all(f);
        assert_int_equal(store_count(f->store), 1);
        check_value(f, "in the index", NULL);
        check_value(f, "touched", NULL);
        check_value(f, "stays", "value");
    }
    reopen(f);
    assert_int_equal(store_count(f->store), 1);
}

static void the_file_of_a_swept_value_goes(void **state)
{
    struct store_fixture *f = *state;
    char *value = calloc(1, STORE_SPOOL_MIN + 2);

    assert_non_null(value);
    memset(value, 'v', STORE_SPOOL_MIN + 1);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "big", value, STORE_SPOOL_MIN + 1).status, STORE_OK);
    assert_int_equal(
        write_key(f, STORE_TOUCH, STORE_ANY, 0, "big", slice_str(""), in_ms(1000)).status,
        STORE_OK);
    assert_int_equal(count_files(store_path(f, "big")), 1);
    reopen(f);
    pass_ms(1000);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 0);
    reopen(f); /* what waits is removed at a stop */
    assert_int_equal(count_files(store_path(f, "big")), 0);
    kill_and_reopen(f);
    check_value(f, "big", NULL);
    free(value);
}

/* ---- flushes ---- */

static void await_checkpoint(struct store_fixture *f, uint64_t count)
{
    struct checkpoint *c = &inside(f)->checkpoint;

    pthread_mutex_lock(&c->mutex);
    while (atomic_load(&c->count) < count || c->frozen)
        pthread_cond_wait(&c->done, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

/* Also where so much is written that it is never idle, and so little that it is never due. */
static void a_flush_has_a_checkpoint_of_its_own(void **state)
{
    struct store_fixture *f = *state;
    uint64_t rows;
    uint64_t used;

    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < 100; i++)
        put_for(f, key_of(i), in_ms(1000));
    reopen(f);
    put_for(f, "old", 0);
    assert_int_equal(flush_at(f, 0).status, STORE_OK);
    put_for(f, "new", 0);
    atomic_fetch_add(&later_ms, 5000); /* not every moment has one */
    await_checkpoint(f, 1);
    assert_int_equal(index_figures(inside(f)->index, &rows, &used), 0);
    assert_in_range(rows, 0, 1);
    assert_int_equal(expiring_rows(f), 0);
    assert_int_equal(store_count(f->store), 1);
    check_value(f, "new", "value");
    check_value(f, "old", NULL);
}

/* ---- a flush that is older than some record ---- */

static void apply_flush(struct logstore *ls, void *arg)
{
    struct record r = {.kind = RECORD_FLUSH, .base = *(struct stamp *)arg};

    r.logged = r.touch = keyspace_stamp(ls);
    assert_int_equal(keyspace_apply(ls, &r, (struct place){0}, 0, NULL), 0);
}

static void a_flush_from_elsewhere_takes_only_what_is_older(void **state)
{
    struct store_fixture *f = *state;
    struct stamp flush;

    for (unsigned in_index = 0; in_index < 2; in_index++) {
        assert_int_equal(store_open(f), 0);
        put_for(f, "old", 0);
        put_for(f, "old and written again", 0);
        put_for(f, "old and deleted", 0);
        put_for(f, "old and expired", in_ms(5));
        if (in_index)
            reopen(f);
        pass_ms(10);
        flush = (struct stamp){(uint64_t)in_ms(-1) << 16, 1, 9};
        put_for(f, "young", 0);
        put_for(f, "old and written again", 0);
        assert_int_equal(
            write_key(f, STORE_DELETE, STORE_ANY, 0, "old and deleted", slice_str(""), 0).status,
            STORE_OK);
        writer_call(inside(f), apply_flush, &flush);
        check_value(f, "old", NULL);
        check_value(f, "young", "value");
        sweep_all(f);
        assert_int_equal(store_count(f->store), 2);
        put_for(f, "old", 0);
        assert_int_equal(store_count(f->store), 3);
        reopen(f);
        assert_int_equal(store_count(f->store), 3);
        check_value(f, "old", "value");
        check_value(f, "young", "value");
        check_value(f, "old and written again", "value");
        check_value(f, "old and expired", NULL);
        assert_int_equal(flush_at(f, 0).status, STORE_OK);
        assert_int_equal(store_count(f->store), 0);
        put_for(f, "last", 0);
        reopen(f);
        assert_int_equal(store_count(f->store), 1);
        assert_int_equal(flush_at(f, 0).status, STORE_OK);
        store_shut(f);
    }
}

/* The checkpoint comes before the sweep has looked. */
static void what_an_old_flush_has_killed_is_found_after_a_restart_too(void **state)
{
    struct store_fixture *f = *state;
    struct stamp flush;

    assert_int_equal(store_open(f), 0);
    put_for(f, "old", 0);
    pass_ms(10);
    flush = (struct stamp){(uint64_t)in_ms(-1) << 16, 1, 9};
    put_for(f, "young", 0);
    sweep_end(inside(f));
    writer_call(inside(f), apply_flush, &flush);
    assert_int_equal(store_count(f->store), 2);
    reopen(f);
    sweep_all(f);
    assert_int_equal(store_count(f->store), 1);
    check_value(f, "old", NULL);
    check_value(f, "young", "value");
    reopen(f);
    assert_int_equal(store_count(f->store), 1);
}

/* ---- a model ---- */

enum { THREADS = 3, KEYS = 400, ROUNDS = 12, OPERATIONS = 1500 };

struct key_model {
    uint32_t version; /* 0: absent */
    int64_t expires_ms;
};

struct worker {
    struct store_fixture f; /* with a port of its own */
    unsigned number;
    struct random random;
    struct key_model keys[KEYS];
    unsigned under_way;
    unsigned faults;
};

static bool is_live(const struct key_model *k)
{
    return k->version != 0 && (k->expires_ms == 0 || k->expires_ms > atomic_load(&wall_ms));
}

static const char *worker_key(const struct worker *w, unsigned i, char out[700])
{
    size_t lead = i % 7 == 0 ? 490 : 0;

    memset(out, 'k', lead);
    snprintf(out + lead, 700 - lead, "%u-%u", w->number, i);
    return out;
}

/* What must come out, and to whom it matters. */
struct expected {
    struct worker *worker;
    enum store_status status;
};

static void write_done(struct store_write *w)
{
    struct expected *e = w->owner;

    e->worker->faults += w->status != e->status;
    free(e);
    store_write_free(w);
}

static int64_t random_expiry(struct worker *w)
{
    switch (random_below(&w->random, 4)) {
    case 0: return 1;
    case 1: return 0;
    default: return in_ms((int64_t)random_below(&w->random, 3000));
    }
}

static void one_operation(struct worker *w)
{
    unsigned i = (unsigned)random_below(&w->random, KEYS);
    struct key_model *k = &w->keys[i];
    bool live = is_live(k);
    char key[700];
    struct store_write *write =
        store_write_new(w->f.port, slice_str(worker_key(w, i, key)), slice_of(NULL, 0), 5);
    struct expected *e = malloc(sizeof(*e));

    assert_non_null(write);
    assert_non_null(e);
    *e = (struct expected){w, STORE_OK};
    memcpy(write->value, "value", 5);
    write->op = STORE_PUT;
    write->expires_ms = random_expiry(w);
    switch (random_below(&w->random, 5)) {
    case 0:
        write->guard = STORE_IF_ABSENT;
        e->status = live ? STORE_NOT_STORED : STORE_OK;
        break;
    case 1:
        write->guard = STORE_IF_PRESENT;
        e->status = live ? STORE_OK : STORE_NOT_STORED;
        break;
    case 2:
        write->op = STORE_TOUCH;
        e->status = live ? STORE_OK : STORE_NOT_FOUND;
        break;
    case 3:
        write->op = STORE_DELETE;
        e->status = live ? STORE_OK : STORE_NOT_FOUND;
        break;
    }
    if (e->status == STORE_OK) {
        k->version = write->op != STORE_DELETE;
        k->expires_ms = write->expires_ms;
    }
    write->owner = e;
    write->done = write_done;
    store_write_submit(write);
    if (++w->under_way % 50 == 0)
        store_settle(&w->f);
}

static void *work(void *arg)
{
    struct worker *w = arg;

    for (unsigned i = 0; i < OPERATIONS; i++)
        one_operation(w);
    store_settle(&w->f);
    return NULL;
}

struct sweeper {
    struct store_fixture *f;
    _Atomic bool end;
};

static void *sweep_on(void *arg)
{
    struct sweeper *s = arg;

    while (!atomic_load(&s->end))
        (void)sweep_now(inside(s->f));
    return NULL;
}

/* Operations on keys of their own, while all that expires is swept. */
static void run_workers(struct store_fixture *f, struct worker *workers)
{
    struct sweeper s = {.f = f};
    pthread_t threads[THREADS];
    pthread_t sweeper;

    assert_int_equal(pthread_create(&sweeper, NULL, sweep_on, &s), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        struct worker *w = &workers[t];

        w->f = *f;
        assert_int_equal(aio_open(f->pool, false, &w->f.aio), 0);
        assert_int_equal(store_port_open(f->store, w->f.aio, &w->f.port), 0);
        assert_int_equal(pthread_create(&threads[t], NULL, work, w), 0);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        store_port_close(workers[t].f.port);
        aio_close(workers[t].f.aio);
        assert_int_equal(workers[t].faults, 0);
    }
    atomic_store(&s.end, true);
    pthread_join(sweeper, NULL);
}

static void check_model(struct store_fixture *f, struct worker *workers)
{
    uint64_t live = 0;

    for (unsigned t = 0; t < THREADS; t++) {
        for (unsigned i = 0; i < KEYS; i++) {
            bool there = is_live(&workers[t].keys[i]);
            char key[700];

            check_value(f, worker_key(&workers[t], i, key), there ? "value" : NULL);
            live += there;
        }
    }
    sweep_all(f);
    assert_int_equal(store_count(f->store), live);
}

/* A stop whose checkpoint ends somewhere in the middle. */
static void stop_in_a_checkpoint(struct store_fixture *f, int commits)
{
    log_set_level(LOG_ERROR + 1);
    atomic_store(&commits_left, commits);
    store_shut(f);
    atomic_store(&commits_left, NEVER);
    log_set_level(LOG_ERROR);
    assert_int_equal(store_open(f), 0);
}

static void one_round(struct store_fixture *f, struct worker *workers, struct random *random)
{
    run_workers(f, workers);
    if (random_below(random, 3) == 0)
        pass_ms((int64_t)random_below(random, 2000));
    switch (random_below(random, 6)) {
    case 0: reopen(f); break;
    case 1: kill_and_reopen(f); break;
    case 2: stop_in_a_checkpoint(f, (int)random_below(random, 2)); break;
    case 3:
        assert_int_equal(flush_at(f, 0).status, STORE_OK);
        assert_int_equal(store_count(f->store), 0);
        for (unsigned t = 0; t < THREADS; t++)
            memset(workers[t].keys, 0, sizeof(workers[t].keys));
        break;
    }
    check_model(f, workers);
}

static void the_count_is_exact_beside_writes_sweeps_and_restarts(void **state)
{
    struct store_fixture *f = *state;
    struct random random = random_seeded();
    struct worker *workers = calloc(THREADS, sizeof(*workers));

    assert_non_null(workers);
    f->config.sync = STORE_SYNC_OS;
    f->config.checkpoint_entries = 500;
    f->config.reader_ports = THREADS + 1;
    assert_int_equal(store_open(f), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t].number = t;
        workers[t].random.state = random_u64(&random);
    }
    for (unsigned round = 0; round < ROUNDS; round++)
        one_round(f, workers, &random);
    pass_ms(10000);
    check_model(f, workers);
    reopen(f);
    check_model(f, workers);
    assert_int_equal(expiring_rows(f), 0);
    free(workers);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_record_that_expires_before_its_checkpoint_leaves_the_count),
        T(records_of_the_index_leave_the_count_and_their_bytes_are_tombstones),
        T(a_large_sweep_waits_for_checkpoints),
        T(a_touch_decides_when_a_record_is_swept),
        T(a_record_that_lives_on_and_on_is_filed_anew_when_its_first_moment_comes),
        T(a_swept_record_comes_back_after_a_kill_and_is_swept_again),
        T(the_file_of_a_swept_value_goes),
        T(a_flush_has_a_checkpoint_of_its_own),
        T(a_flush_from_elsewhere_takes_only_what_is_older),
        T(what_an_old_flush_has_killed_is_found_after_a_restart_too),
        T(the_count_is_exact_beside_writes_sweeps_and_restarts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
