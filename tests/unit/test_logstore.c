/*
 * test_logstore.c - the engine as its users see it: reads, guarded writes, updates, flushes,
 * restarts, big values.
 *
 * Damage, torn tails and failing disks are in test_logstore_damage.c.
 */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "command/command.h"
#include "random.h"
#include "store_fixture.h"

static void what_was_put_is_there_until_it_is_deleted(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    check_value(f, "a", NULL);
    assert_false(put(f, "a", "one").existed);
    check_value(f, "a", "one");
    assert_true(put(f, "a", "two").existed);
    check_value(f, "a", "two");
    assert_int_equal(put(f, "", "the empty key").status, STORE_OK);
    check_value(f, "", "the empty key");
    assert_int_equal(put(f, "empty", "").status, STORE_OK);
    check_value(f, "empty", "");
    assert_int_equal(store_count(f->store), 3);
    assert_int_equal(write_key(f, STORE_DELETE, STORE_ANY, 0, "a", slice_of(NULL, 0), 0).status,
                     STORE_OK);
    assert_int_equal(write_key(f, STORE_DELETE, STORE_ANY, 0, "a", slice_of(NULL, 0), 0).status,
                     STORE_NOT_FOUND);
    check_value(f, "a", NULL);
    assert_int_equal(store_count(f->store), 2);
}

static void guards_decide_from_the_newest_state(void **state)
{
    struct store_fixture *f = *state;
    struct slice v = slice_str("v");
    uint64_t cas;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_PRESENT, 0, "k", v, 0).status,
                     STORE_NOT_STORED);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, 1, "k", v, 0).status, STORE_NOT_FOUND);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_ABSENT, 0, "k", v, 0).status, STORE_OK);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_ABSENT, 0, "k", v, 0).status,
                     STORE_NOT_STORED);
    cas = write_key(f, STORE_PUT, STORE_IF_PRESENT, 0, "k", v, 0).cas;
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, cas + 1, "k", v, 0).status,
                     STORE_EXISTS);
    assert_int_equal(write_key(f, STORE_DELETE, STORE_IF_CAS, cas + 1, "k", v, 0).status,
                     STORE_EXISTS);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, cas, "k", v, 0).status, STORE_OK);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, cas, "k", v, 0).status, STORE_EXISTS);
}

static void expired_records_are_absent_and_touch_moves_the_expiry_only(void **state)
{
    struct store_fixture *f = *state;
    int64_t now = clock_wall_ms();
    struct slice v = slice_str("v");
    struct record before;
    struct record after;

    assert_int_equal(store_open(f), 0);
    write_key(f, STORE_PUT, STORE_ANY, 0, "late", v, 1);
    check_value(f, "late", NULL);
    assert_int_equal(write_key(f, STORE_TOUCH, STORE_ANY, 0, "late", slice_of(NULL, 0), 0).status,
                     STORE_NOT_FOUND);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_ABSENT, 0, "late", v, 0).status, STORE_OK);
    assert_int_equal(store_count(f->store), 1);
    free(fetch(f, "late", NULL, NULL, &before));
    assert_int_equal(
        write_key(f, STORE_TOUCH, STORE_ANY, 0, "late", slice_of(NULL, 0), now + 100000).status,
        STORE_OK);
    free(fetch(f, "late", NULL, NULL, &after));
    assert_int_equal(record_cas(&before), record_cas(&after));
    assert_int_equal(after.expires_ms, now + 100000);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    free(fetch(f, "late", NULL, NULL, &after));
    assert_int_equal(after.expires_ms, now + 100000);
    write_key(f, STORE_TOUCH, STORE_ANY, 0, "late", slice_of(NULL, 0), 2);
    check_value(f, "late", NULL);
}

static void updates_see_what_was_written_just_before_them(void **state)
{
    struct store_fixture *f = *state;
    struct record rec;
    uint64_t last_cas = 0;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(update(f, "u", add_plus, 0).status, STORE_NOT_STORED);
    put(f, "u", "x");
    for (int i = 0; i < 3; i++)
        assert_int_equal(update(f, "u", add_plus, 0).status, STORE_OK);
    check_value(f, "u", "x+++");
    put(f, "n", "10");
    for (uint64_t i = 1; i <= 5; i++) {
        struct write_result r = update(f, "n", count_up, i);

        assert_int_equal(r.status, STORE_OK);
        assert_true(r.cas > last_cas);
        last_cas = r.cas;
    }
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    free(fetch(f, "n", NULL, NULL, &rec));
    assert_int_equal(rec.kind, RECORD_COUNTER);
    assert_int_equal(rec.slot_count, 1);
    assert_int_equal(rec.slots[0].sum, 15);
    assert_int_equal(record_cas(&rec), last_cas);
}

/* Many updates in one batch: each must see the one before it, which is on no file yet. */
static void done_and_free(struct store_write *w)
{
    assert_int_equal(w->status, STORE_OK);
    store_write_free(w);
}

/* One more update of this turn. */
static void submit_plus(struct store_fixture *f)
{
    struct store_write *w = store_write_new(f->port, slice_str("u"), slice_of(NULL, 0), 0);

    w->op = STORE_UPDATE;
    w->compute = add_plus;
    w->done = done_and_free;
    store_write_submit(w);
}

static void updates_of_one_batch_build_on_each_other(void **state)
{
    struct store_fixture *f = *state;
    size_t len;
    char *got;

    assert_int_equal(store_open(f), 0);
    put(f, "u", "");
    for (unsigned i = 0; i < 3000; i++)
        submit_plus(f);
    store_settle(f);
    got = fetch(f, "u", &len, NULL, NULL);
    assert_non_null(got);
    assert_int_equal(len, 3000);
    free(got);
}

static void an_update_may_grow_a_value_beyond_the_limit_of_the_log(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN;
    char *value = malloc(len + 1);
    char *got;
    size_t got_len;

    memset(value, 'v', len);
    value[len] = '\0';
    assert_int_equal(store_open(f), 0);
    assert_int_equal(write_key(f, STORE_PUT, STORE_ANY, 0, "u", slice_of(value, len), 0).status,
                     STORE_OK);
    /* The second of a turn finds the first one's file named in the batch only. */
    for (unsigned i = 0; i < 3; i++)
        submit_plus(f);
    store_settle(f);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    got = fetch(f, "u", &got_len, NULL, NULL);
    assert_int_equal(got_len, len + 3);
    assert_memory_equal(got, value, len);
    assert_memory_equal(got + len, "+++", 3);
    free(got);
    free(value);
}

/* ---- flush ---- */

static _Atomic int64_t fake_ms; /* the store's threads ask for it too */

static int64_t fake_wall(void *ctx)
{
    (void)ctx;
    return fake_ms;
}

static int64_t real_mono(void *ctx)
{
    struct timespec t;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void a_flush_empties_the_store_for_good(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put(f, "a", "1");
    put(f, "b", "2");
    assert_int_equal(flush_at(f, 0).status, STORE_OK);
    assert_int_equal(store_count(f->store), 0);
    check_value(f, "a", NULL);
    put(f, "b", "3");
    assert_int_equal(store_count(f->store), 1);
    for (int round = 0; round < 2; round++) {
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check_value(f, "a", NULL);
        check_value(f, "b", "3");
        assert_int_equal(store_count(f->store), 1);
    }
}

static void a_delayed_flush_comes_at_its_moment_also_after_a_restart(void **state)
{
    struct store_fixture *f = *state;
    const struct clock_source fake = {fake_wall, real_mono, NULL};

    fake_ms = clock_wall_ms();
    clock_replace(&fake);
    assert_int_equal(store_open(f), 0);
    put(f, "a", "1");
    assert_int_equal(flush_at(f, fake_ms + 5000).status, STORE_OK);
    check_value(f, "a", "1");
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_value(f, "a", "1");
    fake_ms += 5001;
    check_value(f, "a", NULL);
    put(f, "a", "2");
    check_value(f, "a", "2");
    assert_int_equal(store_count(f->store), 1);
    store_shut(f);
    fake_ms += 60000;
    assert_int_equal(store_open(f), 0);
    check_value(f, "a", "2");
    assert_int_equal(store_count(f->store), 1);
    store_shut(f);
    clock_replace(NULL);
}

static void a_new_flush_takes_the_place_of_a_pending_one(void **state)
{
    struct store_fixture *f = *state;
    const struct clock_source fake = {fake_wall, real_mono, NULL};

    fake_ms = clock_wall_ms();
    clock_replace(&fake);
    assert_int_equal(store_open(f), 0);
    flush_at(f, fake_ms + 5000);
    flush_at(f, 0);
    put(f, "a", "1");
    fake_ms += 10000;
    check_value(f, "a", "1");
    store_shut(f);
    clock_replace(NULL);
}

/* ---- restarts ---- */

static void make_key(char *out, unsigned i)
{
    snprintf(out, 32, "key-%u", i);
}

static void fill(struct store_fixture *f, unsigned count, size_t value_len)
{
    char *value = malloc(value_len);
    char key[32];

    memset(value, 'x', value_len);
    for (unsigned i = 0; i < count; i++) {
        struct store_write *w;

        make_key(key, i);
        w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), value_len);
        memcpy(w->value, value, value_len);
        w->value[0] = (char)('a' + i % 26);
        w->done = done_and_free;
        store_write_submit(w);
        if (i % 500 == 499)
            store_settle(f);
    }
    store_settle(f);
    free(value);
}

static void check_fill(struct store_fixture *f, unsigned count, size_t value_len)
{
    char key[32];

    for (unsigned i = 0; i < count; i++) {
        size_t len;
        char *value;

        make_key(key, i);
        value = fetch(f, key, &len, NULL, NULL);
        assert_non_null(value);
        assert_int_equal(len, value_len);
        assert_int_equal(value[0], 'a' + i % 26);
        assert_int_equal(value[value_len - 1], 'x');
        free(value);
    }
    assert_int_equal(store_count(f->store), count);
}

static void segments_rotate_and_everything_outlives_stops_and_kills(void **state)
{
    struct store_fixture *f = *state;
    char killed[300];

    f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    fill(f, 6000, 2000);
    check_fill(f, 6000, 2000);
    snprintf(killed, sizeof(killed), "%s/killed", f->dir);
    copy_tree(store_path(f, ""), killed);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_fill(f, 6000, 2000);
    store_shut(f);
    /* What a kill -9 leaves: no checkpoint, no mark. */
    remove_tree(store_path(f, ""));
    copy_tree(killed, store_path(f, ""));
    assert_int_equal(store_open(f), 0);
    check_fill(f, 6000, 2000);
}

static void a_lost_index_is_rebuilt_from_the_log(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    fill(f, 3000, 1500);
    write_key(f, STORE_DELETE, STORE_ANY, 0, "key-2999", slice_of(NULL, 0), 0);
    store_shut(f);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    check_fill(f, 2999, 1500);
    check_value(f, "key-2999", NULL);
}

static void large_values_are_whole_in_every_size_class(void **state)
{
    static const size_t sizes[] = {1,     4000,  16383,  16384,  16385,
                                   20480, 65536, 100000, 300000, 1048576};
    struct store_fixture *f = *state;
    char *value = malloc(1048576);
    struct random r = random_seeded();

    for (size_t i = 0; i < 1048576; i++)
        value[i] = (char)random_u64(&r);
    assert_int_equal(store_open(f), 0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            char key[32];
            char *got;
            size_t len;

            make_key(key, i);
            if (round == 0)
                write_key(f, STORE_PUT, STORE_ANY, 0, key, slice_of(value, sizes[i]), 0);
            got = fetch(f, key, &len, NULL, NULL);
            assert_non_null(got);
            assert_int_equal(len, sizes[i]);
            assert_memory_equal(got, value, len);
            free(got);
        }
        if (round < 2) {
            store_shut(f); /* the second time nothing was written or verified by this process */
            assert_int_equal(store_open(f), 0);
        }
    }
    free(value);
}

/* ---- big values ---- */

static void a_big_value_is_spooled_into_a_file_of_its_own(void **state)
{
    struct store_fixture *f = *state;
    size_t len = 3 * 1024 * 1024 + 17;
    char *value = malloc(len);
    struct record rec;
    char *got;
    size_t got_len;

    for (size_t i = 0; i < len; i++)
        value[i] = (char)(i * 7 + i / 251);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "big", value, len).status, STORE_OK);
    for (int round = 0; round < 2; round++) {
        got = fetch(f, "big", &got_len, NULL, &rec);
        assert_non_null(got);
        assert_int_equal(got_len, len);
        assert_memory_equal(got, value, len);
        assert_int_equal(rec.big_bytes, len);
        free(got);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
    }
    assert_int_equal(count_files(store_path(f, "big")), 1);
    assert_int_equal(count_files(store_path(f, "tmp")), 0);
    free(value);
}

/* What was begun is removed on another thread. */
static void wait_for_empty_tmp(struct store_fixture *f)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (count_files(store_path(f, "tmp")) != 0)
        nanosleep(&moment, NULL);
}

static void an_abandoned_spool_leaves_nothing(void **state)
{
    struct store_fixture *f = *state;
    struct store_spool *spool;
    char *piece = calloc(1, 400000);

    assert_int_equal(store_open(f), 0);
    assert_int_equal(
        store_spool_open(f->port, slice_str("k"), slice_of(NULL, 0), 9000000, NULL, NULL, &spool),
        0);
    assert_int_equal(store_spool_add(spool, slice_of(piece, 400000)), 0);
    store_spool_abandon(spool);
    store_settle(f);
    wait_for_empty_tmp(f);
    check_value(f, "k", NULL);
    free(piece);
}

static void uploads_at_a_time_are_bounded(void **state)
{
    struct store_fixture *f = *state;
    struct store_spool *spools[1000];
    unsigned count = 0;
    int rc;

    assert_int_equal(store_open(f), 0);
    do {
        assert_true(count < 1000);
        rc = store_spool_open(f->port, slice_str("k"), slice_of(NULL, 0), 9000000, NULL, NULL,
                              &spools[count]);
        count += rc == 0;
    } while (rc == 0);
    assert_int_equal(rc, -ENOMEM);
    assert_in_range(count, 100, 500);
    store_spool_abandon(spools[--count]);
    assert_int_equal(store_spool_open(f->port, slice_str("k"), slice_of(NULL, 0), 9000000, NULL,
                                      NULL, &spools[count]),
                     0);
    for (unsigned i = 0; i <= count; i++)
        store_spool_abandon(spools[i]);
    store_settle(f);
    wait_for_empty_tmp(f);
}

/* ---- listing ---- */

static void collect(struct slice key, void *arg)
{
    char *out = arg;

    snprintf(out + strlen(out), 4096 - strlen(out), "%.*s ", (int)key.len, key.ptr);
}

static void keys_are_listed_in_order_from_log_and_index(void **state)
{
    struct store_fixture *f = *state;
    char got[4096] = "";

    assert_int_equal(store_open(f), 0);
    put(f, "b", "1");
    put(f, "a", "1");
    put(f, "aa", "1");
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    put(f, "ab", "1");
    write_key(f, STORE_DELETE, STORE_ANY, 0, "aa", slice_of(NULL, 0), 0);
    assert_int_equal(
        store_scan_keys(f->store, slice_str("a"), false, slice_of(NULL, 0), 10, collect, got), 0);
    assert_string_equal(got, "a ab ");
    got[0] = '\0';
    assert_int_equal(
        store_scan_keys(f->store, slice_of(NULL, 0), true, slice_str("a"), 1, collect, got), 1);
    assert_string_equal(got, "ab ");
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_was_put_is_there_until_it_is_deleted),
        T(guards_decide_from_the_newest_state),
        T(expired_records_are_absent_and_touch_moves_the_expiry_only),
        T(updates_see_what_was_written_just_before_them),
        T(updates_of_one_batch_build_on_each_other),
        T(an_update_may_grow_a_value_beyond_the_limit_of_the_log),
        T(a_flush_empties_the_store_for_good),
        T(a_delayed_flush_comes_at_its_moment_also_after_a_restart),
        T(a_new_flush_takes_the_place_of_a_pending_one),
        T(segments_rotate_and_everything_outlives_stops_and_kills),
        T(a_lost_index_is_rebuilt_from_the_log),
        T(large_values_are_whole_in_every_size_class),
        T(a_big_value_is_spooled_into_a_file_of_its_own),
        T(an_abandoned_spool_leaves_nothing),
        T(uploads_at_a_time_are_bounded),
        T(keys_are_listed_in_order_from_log_and_index),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
