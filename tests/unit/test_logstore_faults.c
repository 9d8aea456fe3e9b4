/*
 * test_logstore_faults.c - the engine beside failing syncs, failing appends, lost files, crashes in
 * the middle of an upload, and calls that come before it serves.
 *
 * Damage and torn tails of the log are in test_logstore_damage.c.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/identity.h"
#include "store_fixture.h"

/* ---- helpers ---- */

/* A figure of the engine's own. */
static uint64_t figure(struct store_fixture *f, const char *name)
{
    struct buf text = {0};
    const char *at;
    uint64_t value;

    assert_int_equal(store_stat(f->store, &text), 0);
    assert_int_equal(buf_add(&text, "", 1), 0);
    at = strstr(text.data, name);
    assert_non_null(at);
    value = strtoull(at + strlen(name), NULL, 10);
    buf_free(&text);
    return value;
}

static void wait_for_checkpoint(struct store_fixture *f)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    uint64_t before = figure(f, "checkpoints ");

    while (figure(f, "checkpoints ") == before)
        nanosleep(&moment, NULL);
}

static char *pattern(size_t len, char seed)
{
    char *value = malloc(len + 1);

    assert_non_null(value);
    for (size_t i = 0; i < len; i++)
        value[i] = (char)(seed + (char)(i * 7 + i / 251));
    value[len] = '\0';
    return value;
}

static void check_bytes(struct store_fixture *f, const char *key, const char *value, size_t len)
{
    enum store_status status;
    size_t got_len = 0;
    char *got = fetch(f, key, &got_len, &status, NULL);

    assert_int_equal(status, STORE_OK);
    assert_int_equal(got_len, len);
    assert_memory_equal(got, value, len);
    free(got);
}

/* True if the open file's path contains `part`. */
static bool is_file_in(int fd, const char *part)
{
    char link[64];
    char path[512];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path) - 1);
    if (len < 0)
        return false;
    path[len] = '\0';
    return strstr(path, part) != NULL;
}

/* Outlives a test that fails. */
static struct io_calls calls;

static struct io_calls *fresh_calls(void)
{
    calls = io_system_calls;
    return &calls;
}

/* ---- big values ---- */

static void never_full(void *arg)
{
    (void)arg;
}

static void an_upload_under_way_at_a_crash_does_not_cost_a_finished_one(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN + 1000;
    char *value = pattern(len, 1);
    struct store_fixture copy = *f;
    struct store_spool *slow;

    f->config.checkpoint_entries = 1;
    assert_int_equal(store_open(f), 0);
    assert_int_equal(store_spool_open(f->port, slice_str("slow"), slice_of(NULL, 0), UINT64_MAX,
                                      never_full, NULL, &slow),
                     0);
    assert_int_equal(put_big(f, "done", value, len).status, STORE_OK);
    wait_for_checkpoint(f);
    snprintf(copy.dir, sizeof(copy.dir), "%.200s/copy", f->dir);
    assert_int_equal(mkdir(copy.dir, 0700), 0);
    copy_tree(store_path(f, ""), store_path(&copy, ""));
    store_spool_abandon(slow);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(store_open(&copy), 0);
        check_bytes(&copy, "done", value, len);
        store_shut(&copy);
    }
    free(value);
}

static void a_value_without_its_file_is_damaged_not_absent(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN + 1;
    char *value = pattern(len, 2);
    enum store_status status;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "k", value, len).status, STORE_OK);
    store_shut(f);
    assert_int_equal(unlink(store_path(f, "big/0000000000000001.val")), 0);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    assert_null(fetch(f, "k", NULL, &status, NULL));
    assert_int_equal(status, STORE_DAMAGED);
    assert_int_equal(put(f, "k", "new").status, STORE_OK);
    check_value(f, "k", "new");
    free(value);
}

static void count_key(struct slice key, void *arg)
{
    (void)key;
    ++*(unsigned *)arg;
}

/* The full text of a long key stands in its record only; its value is not needed for that. */
static void a_long_key_is_listed_whatever_became_of_its_value(void **state)
{
    struct store_fixture *f = *state;
    char *value = pattern(STORE_SPOOL_MIN + 1, 2);
    unsigned keys = 0;
    char key[601];

    memset(key, 'k', 600);
    key[600] = '\0';
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, key, value, STORE_SPOOL_MIN + 1).status, STORE_OK);
    store_shut(f);
    assert_int_equal(unlink(store_path(f, "big/0000000000000001.val")), 0);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(
        store_scan_keys(f->store, slice_of(NULL, 0), false, slice_of(NULL, 0), 9, count_key, &keys),
        0);
    assert_int_equal(keys, 1);
    free(value);
}

static void an_empty_spooled_value_leaves_no_file(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "k", "", 0).status, STORE_OK);
    check_value(f, "k", "");
    assert_int_equal(count_files(store_path(f, "big")), 0);
    assert_int_equal(put_big(f, "k", "x", 1).status, STORE_OK);
    check_value(f, "k", "x");
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_value(f, "k", "x");
}

/* ---- failing syncs ---- */

static _Atomic bool log_syncs_fail;

static int log_fdatasync(int fd)
{
    if (!atomic_load(&log_syncs_fail) || !is_file_in(fd, "/log/"))
        return fdatasync(fd);
    errno = EIO;
    return -1;
}

static void a_value_whose_sync_failed_is_there_whole_or_not_at_all(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN + 1;
    char *old_value = pattern(len, 1);
    char *new_value = pattern(len, 2);
    size_t got_len;
    char *got;

    log_set_level(LOG_ERROR + 1);
    atomic_store(&log_syncs_fail, false);
    fresh_calls()->fdatasync = log_fdatasync;
    io_replace(&calls);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "k", old_value, len).status, STORE_OK);
    atomic_store(&log_syncs_fail, true);
    assert_int_equal(put_big(f, "k", new_value, len).status, STORE_READ_ONLY);
    check_bytes(f, "k", old_value, len);
    store_shut(f);
    io_replace(NULL);
    assert_int_equal(store_open(f), 0);
    got = fetch(f, "k", &got_len, NULL, NULL);
    assert_non_null(got);
    assert_int_equal(got_len, len);
    assert_true(memcmp(got, old_value, len) == 0 || memcmp(got, new_value, len) == 0);
    free(got);
    free(old_value);
    free(new_value);
}

static void a_sync_that_fails_at_the_stop_begins_a_new_history(void **state)
{
    struct store_fixture *f = *state;
    struct identity before;
    struct identity after;

    log_set_level(LOG_ERROR + 1);
    f->config.sync = STORE_SYNC_OS;
    atomic_store(&log_syncs_fail, false);
    fresh_calls()->fdatasync = log_fdatasync;
    io_replace(&calls);
    assert_int_equal(store_open(f), 0);
    put(f, "k", "v");
    assert_int_equal(identity_read(store_path(f, ""), &before), 0);
    atomic_store(&log_syncs_fail, true);
    store_shut(f);
    io_replace(NULL);
    assert_int_equal(store_open(f), 0);
    check_value(f, "k", "v");
    assert_int_equal(identity_read(store_path(f, ""), &after), 0);
    assert_int_not_equal(identity_history(&before), identity_history(&after));
    store_shut(f);
    assert_int_equal(store_open(f), 0); /* and a clean stop goes on with it */
    assert_int_equal(identity_read(store_path(f, ""), &before), 0);
    assert_int_equal(identity_history(&before), identity_history(&after));
}

static _Atomic unsigned log_directory_syncs;

static int counting_fsync(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && is_file_in(fd, "/data/log"))
        atomic_fetch_add(&log_directory_syncs, 1);
    return fsync(fd);
}

/* The process that made the newest segment may have died before it synced the name. */
static void names_of_segments_are_durable_before_a_store_serves(void **state)
{
    struct store_fixture *f = *state;
    assert_int_equal(store_open(f), 0);
    put(f, "k", "v");
    store_shut(f);
    fresh_calls()->fsync = counting_fsync;
    io_replace(&calls);
    atomic_store(&log_directory_syncs, 0);
    assert_int_equal(store_open(f), 0);
    assert_true(atomic_load(&log_directory_syncs) > 0);
}

static const char *watched_directory; /* the end of its path */
static _Atomic unsigned watched_syncs;

static int fsync_counting_watched(int fd)
{
    size_t want = strlen(watched_directory);
    char link[64];
    char path[512];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path));
    if (len > (ssize_t)want && memcmp(path + len - want, watched_directory, want) == 0)
        atomic_fetch_add(&watched_syncs, 1);
    return fsync(fd);
}

static void count_syncs_of(const char *directory)
{
    watched_directory = directory;
    atomic_store(&watched_syncs, 0);
    fresh_calls()->fsync = fsync_counting_watched;
    io_replace(&calls);
}

/* Else a power cut takes the whole new store with it. */
static void the_name_of_a_new_data_directory_is_durable(void **state)
{
    struct store_fixture *f = *state;
    struct store_fixture inner = *f;

    snprintf(inner.dir, sizeof(inner.dir), "%.200s/parent", f->dir);
    assert_int_equal(mkdir(inner.dir, 0700), 0);
    count_syncs_of("/parent");
    assert_int_equal(store_open(&inner), 0);
    store_shut(&inner);
    assert_int_equal(atomic_load(&watched_syncs), 1);
}

/* Else a power cut brings back the index that a new one has replaced. */
static void the_name_of_a_new_index_is_durable(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    store_shut(f);
    remove_tree(store_path(f, "index"));
    count_syncs_of("/index");
    assert_int_equal(store_open(f), 0);
    assert_true(atomic_load(&watched_syncs) > 0);
}

/* ---- an append that fails while a flush comes into force ---- */

static _Atomic int64_t ticking_ms;

/* Every look at this clock takes a millisecond. */
static int64_t ticking_wall(void *ctx)
{
    (void)ctx;
    return atomic_fetch_add(&ticking_ms, 1);
}

static int64_t real_mono(void *ctx)
{
    struct timespec t;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static _Atomic bool appends_fail;

static ssize_t log_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (!atomic_load(&appends_fail) || !is_file_in(fd, "/log/"))
        return pwritev(fd, iov, count, offset);
    errno = ENOSPC;
    return -1;
}

static void a_flush_that_comes_with_a_failed_append_counts(void **state)
{
    struct store_fixture *f = *state;
    static const struct clock_source ticking = {ticking_wall, real_mono, NULL};

    log_set_level(LOG_ERROR + 1);
    fresh_calls()->pwritev = log_pwritev;
    io_replace(&calls);
    atomic_store(&ticking_ms, clock_wall_ms());
    clock_replace(&ticking);
    f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    for (int64_t delay = 1; delay < 40; delay++) {
        put(f, "a", "1");
        put(f, "b", "1");
        assert_int_equal(flush_at(f, atomic_load(&ticking_ms) + delay).status, STORE_OK);
        atomic_store(&appends_fail, true);
        assert_int_equal(put(f, "c", "1").status, STORE_NO_SPACE);
        atomic_store(&appends_fail, false);
        atomic_fetch_add(&ticking_ms, delay);
        assert_int_equal(put(f, "d", "1").status, STORE_OK);
        assert_int_equal(store_count(f->store), 1);
    }
    store_shut(f);
    clock_replace(NULL);
}

/* ---- checkpoints that fail ---- */

static _Atomic bool commits_fail;

/* In the place of the library's. */
int mdb_txn_commit(MDB_txn *txn)
{
    static int (*commit)(MDB_txn *);

    if (commit == NULL)
        *(void **)&commit = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (!atomic_load(&commits_fail))
        return commit(txn);
    mdb_txn_abort(txn);
    return ENOSPC;
}

static uint64_t frozen_generations(struct store_fixture *f)
{
    return figure(f, "delta_keys ") == 0;
}

static void a_flush_while_a_checkpoint_is_under_way_is_kept(void **state)
{
    struct store_fixture *f = *state;
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    log_set_level(LOG_ERROR + 1);
    f->config.checkpoint_entries = 3;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(store_open(f), 0);
        atomic_store(&commits_fail, true);
        put(f, "a", "1");
        put(f, "b", "1");
        put(f, "c", "1");
        while (!frozen_generations(f))
            nanosleep(&moment, NULL);
        check_value(f, "a", "1");
        assert_int_equal(flush_at(f, 0).status, STORE_OK);
        assert_int_equal(store_count(f->store), 0);
        check_value(f, "a", NULL);
        put(f, "b", "2");
        assert_int_equal(store_count(f->store), 1);
        /* The first time both generations are settled by the stop, the second time none is. */
        atomic_store(&commits_fail, round == 1);
        store_shut(f);
        atomic_store(&commits_fail, false);
        assert_int_equal(store_open(f), 0);
        check_value(f, "a", NULL);
        check_value(f, "b", "2");
        check_value(f, "c", NULL);
        assert_int_equal(store_count(f->store), 1);
        store_shut(f);
    }
}

/* ---- LMDB's own head cannot be written ---- */

enum { HEAD_BYTES_MAX = 512 };

static _Atomic int head_failures; /* so many writes of a head fail from now on */
static _Atomic bool head_is_written;

/* In the place of the library's, by the name under which LMDB calls it. */
ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset) __asm__("pwrite");
ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    bool fails = len < HEAD_BYTES_MAX && atomic_load(&head_failures) > 0 &&
                 atomic_fetch_sub(&head_failures, 1) > 0;

    if (!fails || atomic_load(&head_is_written))
        (void)!syscall(SYS_pwrite64, fd, data, len, offset);
    errno = EIO;
    return fails ? -1 : (ssize_t)len;
}

/* LMDB refuses everything from then on, also reads. The write may have come to pass or not. */
static void reads_go_on_when_the_head_of_the_index_cannot_be_written(void **state)
{
    struct store_fixture *f = *state;

    log_set_level(LOG_ERROR + 1);
    f->config.checkpoint_entries = 3;
    assert_int_equal(store_open(f), 0);
    for (int round = 0; round < 2; round++) {
        const char *after = round == 0 ? "1" : "2";

        put(f, "a", after);
        put(f, "b", after);
        put(f, "c", after);
        wait_for_checkpoint(f);
        atomic_store(&head_is_written, round == 1);
        atomic_store(&head_failures, 2); /* LMDB's attempt to take it back fails too */
        put(f, "d", after);
        put(f, "e", after);
        put(f, "c", "3");
        wait_for_checkpoint(f);
        assert_int_equal(atomic_load(&head_failures), 0);
        check_value(f, "a", after);
        check_value(f, "c", "3");
        check_value(f, "d", after);
    }
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_value(f, "b", "2");
    check_value(f, "c", "3");
    check_value(f, "e", "2");
    assert_int_equal(store_count(f->store), 5);
}

/* ---- a start ---- */

static _Atomic bool reads_wait;
static sem_t read_may_go_on;

static ssize_t waiting_pread(int fd, void *buf, size_t len, off_t offset)
{
    if (atomic_load(&reads_wait) && offset > 0 && is_file_in(fd, ".seg")) {
        while (sem_wait(&read_may_go_on) != 0)
            ;
        sem_post(&read_may_go_on);
    }
    return pread(fd, buf, len, offset);
}

static void read_done(struct store_get *get)
{
    (void)get;
}

static void no_key(struct slice key, void *arg)
{
    (void)key;
    (void)arg;
}

static void calls_before_the_end_of_a_start_are_refused(void **state)
{
    struct store_fixture *f = *state;
    struct store_get get = {.key = slice_str("k"), .done = read_done};
    struct buf text = {0};
    const char *reason;

    assert_int_equal(store_open(f), 0);
    put(f, "k", "v");
    store_shut(f);
    remove_tree(store_path(f, "index"));
    sem_init(&read_may_go_on, 0, 0);
    fresh_calls()->pread = waiting_pread;
    io_replace(&calls);
    atomic_store(&reads_wait, true);
    assert_int_equal(logstore_open(&f->config, 0, &f->store), 0);
    assert_int_equal(store_state(f->store), STORE_STARTING);
    assert_int_equal(aio_open(f->pool, true, &f->aio), 0);
    assert_int_equal(store_port_open(f->store, f->aio, &f->port), 0);
    assert_true(store_get(f->port, &get));
    assert_int_equal(get.status, STORE_IO_ERROR);
    assert_int_equal(
        store_scan_keys(f->store, slice_of(NULL, 0), false, slice_of(NULL, 0), 9, no_key, NULL),
        -EAGAIN);
    assert_int_equal(store_stat(f->store, &text), 0);
    assert_false(store_writable(f->store, &reason));
    buf_free(&text);
    sem_post(&read_may_go_on);
    store_shut(f); /* closed while it starts, or just after */
    io_replace(NULL);
    sem_destroy(&read_may_go_on);
    assert_int_equal(store_open(f), 0);
    check_value(f, "k", "v");
}

/* Makes the index's own record of its position unreadable. */
static void spoil_position(struct store_fixture *f)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    MDB_val key = {8, (void *)(uintptr_t) "position"};
    MDB_val value = {4, (void *)(uintptr_t) "junk"};

    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
    assert_int_equal(mdb_env_open(env, store_path(f, "index"), 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_put(txn, meta, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void an_index_that_does_not_know_its_position_is_rebuilt(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put(f, "k", "v");
    store_shut(f);
    spoil_position(f);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    check_value(f, "k", "v");
    assert_int_equal(store_count(f->store), 1);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(store_count(f->store), 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_upload_under_way_at_a_crash_does_not_cost_a_finished_one),
        T(a_value_without_its_file_is_damaged_not_absent),
        T(a_long_key_is_listed_whatever_became_of_its_value),
        T(an_empty_spooled_value_leaves_no_file),
        T(a_value_whose_sync_failed_is_there_whole_or_not_at_all),
        T(a_sync_that_fails_at_the_stop_begins_a_new_history),
        T(names_of_segments_are_durable_before_a_store_serves),
        T(the_name_of_a_new_data_directory_is_durable),
        T(the_name_of_a_new_index_is_durable),
        T(a_flush_that_comes_with_a_failed_append_counts),
        T(a_flush_while_a_checkpoint_is_under_way_is_kept),
        T(reads_go_on_when_the_head_of_the_index_cannot_be_written),
        T(calls_before_the_end_of_a_start_are_refused),
        T(an_index_that_does_not_know_its_position_is_rebuilt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
