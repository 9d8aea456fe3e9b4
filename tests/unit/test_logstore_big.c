/*
 * test_logstore_big.c - the life of files of big values: gone when they are not needed, and never
 * before.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

enum { LEN = (int)STORE_SPOOL_MIN + 100 };

static char *pattern(size_t len, char seed)
{
    char *value = malloc(len + 1);

    assert_non_null(value);
    for (size_t i = 0; i < len; i++)
        value[i] = (char)(seed + (char)(i * 7 + i / 251));
    value[len] = '\0';
    return value;
}

static void put_pattern(struct store_fixture *f, const char *key, char seed)
{
    char *value = pattern(LEN, seed);

    assert_int_equal(put_big(f, key, value, LEN).status, STORE_OK);
    free(value);
}

static void check_pattern(struct store_fixture *f, const char *key, char seed)
{
    char *value = pattern(LEN, seed);
    size_t len = 0;
    enum store_status status;
    char *got = fetch(f, key, &len, &status, NULL);

    assert_int_equal(status, STORE_OK);
    assert_int_equal(len, LEN);
    assert_memory_equal(got, value, LEN);
    free(got);
    free(value);
}

static unsigned big_files(struct store_fixture *f)
{
    return count_files(store_path(f, "big"));
}

/* Names go on another thread: waits until there are so many. */
static void wait_for_files(struct store_fixture *f, unsigned count)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (big_files(f) != count || atomic_load(&logstore_of(f->store)->big.gone_files) != 0)
        nanosleep(&moment, NULL);
    assert_int_equal(atomic_load(&logstore_of(f->store)->big.files), count);
    assert_int_equal(atomic_load(&logstore_of(f->store)->big.bytes), (uint64_t)count * LEN);
}

static void wait_for_checkpoint(struct store_fixture *f)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    struct logstore *ls = logstore_of(f->store);
    uint64_t before = atomic_load(&ls->checkpoint.count);

    while (atomic_load(&ls->checkpoint.count) == before)
        nanosleep(&moment, NULL);
}

/* The data directory as a crash at this moment would leave it. */
static struct store_fixture crashed_copy(struct store_fixture *f)
{
    struct store_fixture copy = *f;

    snprintf(copy.dir, sizeof(copy.dir), "%.200s/copy", f->dir);
    assert_int_equal(mkdir(copy.dir, 0700), 0);
    copy_tree(store_path(f, ""), store_path(&copy, ""));
    return copy;
}

/* ---- gone when they are not needed ---- */

static void what_takes_the_place_of_a_big_value_removes_its_file(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_pattern(f, "a", 1);
    put_pattern(f, "b", 2);
    put_pattern(f, "c", 3);
    wait_for_files(f, 3);
    put_pattern(f, "a", 4);
    wait_for_files(f, 3);
    check_pattern(f, "a", 4);
    put(f, "b", "small");
    wait_for_files(f, 2);
    write_key(f, STORE_DELETE, STORE_ANY, 0, "c", slice_of(NULL, 0), 0);
    wait_for_files(f, 1);
    write_key(f, STORE_TOUCH, STORE_ANY, 0, "a", slice_of(NULL, 0), clock_wall_ms() + 1000000);
    store_shut(f);
    assert_int_equal(big_files(f), 1);
    assert_int_equal(store_open(f), 0);
    wait_for_files(f, 1);
    check_pattern(f, "a", 4);
    check_value(f, "b", "small");
    check_value(f, "c", NULL);
}

static void a_flush_removes_the_files_with_the_next_checkpoint(void **state)
{
    struct store_fixture *f = *state;

    f->config.checkpoint_entries = 2;
    assert_int_equal(store_open(f), 0);
    put_pattern(f, "a", 1);
    put_pattern(f, "b", 2);
    wait_for_checkpoint(f);
    put_pattern(f, "c", 3);
    assert_int_equal(flush_at(f, 0).status, STORE_OK);
    put_pattern(f, "d", 4);
    put(f, "a", "1");
    wait_for_files(f, 1);
    check_pattern(f, "d", 4);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_pattern(f, "d", 4);
    assert_int_equal(big_files(f), 1);
}

static void who_reads_a_value_that_is_overwritten_reads_on(void **state)
{
    struct store_fixture *f = *state;
    struct pins *pins;
    char *value = pattern(LEN, 1);
    char *got = malloc(LEN);
    struct store_get get = {.key = slice_str("k")};

    assert_non_null(got);
    assert_int_equal(store_open(f), 0);
    pins = &logstore_of(f->store)->pins;
    put_pattern(f, "k", 1);
    check_pattern(f, "k", 1); /* open from now on */
    assert_true(store_get(f->port, &get));
    assert_int_equal(get.status, STORE_OK);
    put(f, "k", "new");
    wait_for_files(f, 0);
    assert_int_equal(atomic_load(&pins->bytes), LEN);
    check_value(f, "k", "new");
    assert_int_equal(io_read_full(get.file_fd, got, LEN, get.file_offset), 0);
    assert_memory_equal(got, value, LEN);
    store_get_release(&get);
    assert_int_equal(atomic_load(&pins->bytes), 0);
    free(got);
    free(value);
}

/* ---- never before ---- */

static void without_a_sync_of_its_successor_a_file_stays(void **state)
{
    struct store_fixture *f = *state;
    struct store_fixture copy;

    f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    put_pattern(f, "k", 1);
    put_pattern(f, "k", 2);
    put(f, "k", "small");
    assert_int_equal(big_files(f), 2);
    copy = crashed_copy(f);
    store_shut(f);
    assert_int_equal(big_files(f), 0);
    assert_int_equal(store_open(&copy), 0);
    check_value(&copy, "k", "small");
    wait_for_files(&copy, 0);
    store_shut(&copy);
}

static _Atomic bool log_writes_fail;

static ssize_t failing_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (!atomic_load(&log_writes_fail))
        return pwritev(fd, iov, count, offset);
    errno = EIO;
    return -1;
}

static void a_successor_that_is_taken_back_costs_nothing(void **state)
{
    struct store_fixture *f = *state;
    struct io_calls calls = io_system_calls;

    calls.pwritev = failing_pwritev;
    atomic_store(&log_writes_fail, false);
    io_replace(&calls);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    put_pattern(f, "k", 1);
    atomic_store(&log_writes_fail, true);
    assert_int_not_equal(put(f, "k", "new").status, STORE_OK);
    atomic_store(&log_writes_fail, false);
    put(f, "other", "1"); /* a batch of its own: nothing is left over from the one before */
    wait_for_files(f, 1);
    check_pattern(f, "k", 1);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_pattern(f, "k", 1);
    store_shut(f);
}

static void while_names_are_held_none_goes(void **state)
{
    struct store_fixture *f = *state;
    struct store_fixture copy;

    assert_int_equal(store_open(f), 0);
    big_hold(logstore_of(f->store));
    put_pattern(f, "k", 1);
    put_pattern(f, "k", 2);
    put_pattern(f, "k", 3);
    assert_int_equal(big_files(f), 3);
    copy = crashed_copy(f);
    big_release(logstore_of(f->store));
    wait_for_files(f, 1);
    check_pattern(f, "k", 3);
    store_shut(f);
    assert_int_equal(store_open(&copy), 0);
    check_pattern(&copy, "k", 3);
    wait_for_files(&copy, 1);
    store_shut(&copy);
}

/* A checkpoint in several transactions was broken off: rows are there that the replay, which starts
 * before them, brings again. An old record must not take the newer one's file away. */
static void a_row_that_is_newer_than_the_replay_keeps_its_file(void **state)
{
    struct store_fixture *f = *state;
    struct store_fixture copy;
    struct logstore *ls;
    struct entry e;
    struct delta_item item = {.key = slice_str("k"), .entry = &e};
    struct index *index;

    f->config.checkpoint_entries = 1;
    assert_int_equal(store_open(f), 0);
    ls = logstore_of(f->store);
    put(f, "first", "1");
    wait_for_checkpoint(f);
    ls->config.checkpoint_entries = 1000;
    big_hold(ls);
    put_pattern(f, "k", 1);
    put_pattern(f, "k", 2);
    assert_int_equal(
        keyspace_find(ls, ls->writer_reader, hash_slice(item.key), item.key, UINT64_MAX, &e), 0);
    copy = crashed_copy(f);
    big_release(ls);
    store_shut(f);
    assert_int_equal(index_open(store_path(&copy, "index"), 2, &index), 0);
    assert_int_equal(index_apply(index, &item, 1, NULL, false), 0);
    index_close(index);
    copy.config.checkpoint_entries = 1000;
    assert_int_equal(store_open(&copy), 0);
    wait_for_files(&copy, 1);
    check_pattern(&copy, "k", 2);
    store_shut(&copy);
}

/* ---- what a crash leaves ---- */

static void a_file_that_no_record_names_goes_at_the_start(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_pattern(f, "k", 1);
    store_shut(f);
    copy_tree(store_path(f, "big/0000000000000001.val"), store_path(f, "big/0000000000000007.val"));
    copy_tree(store_path(f, "STORE"), store_path(f, "big/0000000000000006.val")); /* no front */
    copy_tree(store_path(f, "STORE"), store_path(f, "tmp/spool-0000000000000009"));
    assert_int_equal(store_open(f), 0);
    wait_for_files(f, 1);
    assert_int_equal(count_files(store_path(f, "tmp")), 0);
    check_pattern(f, "k", 1);
    put_pattern(f, "l", 2); /* not under a number that is on its way out */
    assert_int_equal(access(store_path(f, "big/0000000000000008.val"), F_OK), 0);
}

static void a_rebuilt_index_finds_every_file_that_is_needed(void **state)
{
    struct store_fixture *f = *state;

    f->config.checkpoint_entries = 3;
    assert_int_equal(store_open(f), 0);
    for (int round = 0; round < 3; round++) {
        put_pattern(f, "a", (char)round);
        put_pattern(f, "b", (char)(10 + round));
        put(f, "c", "x");
    }
    put_pattern(f, "c", 20);
    wait_for_files(f, 3);
    store_shut(f);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    wait_for_files(f, 3);
    check_pattern(f, "a", 2);
    check_pattern(f, "b", 12);
    check_pattern(f, "c", 20);
}

/* ---- what readers keep ---- */

static void beyond_the_cap_the_oldest_nameless_files_are_revoked(void **state)
{
    struct pins pins;
    struct pin pin[4] = {0};

    (void)state;
    pins_init(&pins, 100);
    for (int i = 0; i < 3; i++)
        pins_add(&pins, &pin[i], 40);
    assert_true(pin[0].revoked);
    assert_false(pin[1].revoked || pin[2].revoked);
    assert_int_equal(atomic_load(&pins.bytes), 120);
    pins_remove(&pin[1]);
    pins_add(&pins, &pin[3], 20); /* 60 without the revoked one */
    assert_false(pin[2].revoked || pin[3].revoked);
    pins_remove(&pin[0]);
    pins_add(&pins, &pin[1], 50);
    assert_true(pin[2].revoked);
    assert_false(pin[3].revoked || pin[1].revoked);
    for (int i = 1; i < 4; i++)
        pins_remove(&pin[i]);
    assert_int_equal(atomic_load(&pins.bytes), 0);
    assert_int_equal(atomic_load(&pins.revoked), 2);
    pins_fini(&pins);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_takes_the_place_of_a_big_value_removes_its_file),
        T(a_flush_removes_the_files_with_the_next_checkpoint),
        T(who_reads_a_value_that_is_overwritten_reads_on),
        T(without_a_sync_of_its_successor_a_file_stays),
        T(a_successor_that_is_taken_back_costs_nothing),
        T(while_names_are_held_none_goes),
        T(a_row_that_is_newer_than_the_replay_keeps_its_file),
        T(a_file_that_no_record_names_goes_at_the_start),
        T(a_rebuilt_index_finds_every_file_that_is_needed),
        cmocka_unit_test(beyond_the_cap_the_oldest_nameless_files_are_revoked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
