/*
 * test_logstore_sweep.c - one call of the file system, or for memory, fails, each in its turn,
 * from the start to the stop: what was answered is there after the next start, what was refused
 * for lack of space is not, every value is whole, and the count is exact.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"
#include "store_fixture.h"

/* ---- calls that fail ---- */

/* Outlives a test that fails. */
static struct io_calls calls;

static _Atomic int calls_left; /* until one fails; < 0: none does */
static int failing_errno;

static bool fails_now(void)
{
    if (atomic_load(&calls_left) < 0 || atomic_fetch_sub(&calls_left, 1) != 0)
        return false;
    errno = failing_errno;
    return true;
}

static int maybe_open(const char *path, int flags, mode_t mode)
{
    return fails_now() ? -1 : open(path, flags, mode);
}

static ssize_t maybe_pread(int fd, void *buf, size_t len, off_t offset)
{
    return fails_now() ? -1 : pread(fd, buf, len, offset);
}

static ssize_t maybe_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    return fails_now() ? -1 : pwritev(fd, iov, count, offset);
}

static int maybe_fdatasync(int fd)
{
    return fails_now() ? -1 : fdatasync(fd);
}

static int maybe_fsync(int fd)
{
    return fails_now() ? -1 : fsync(fd);
}

static int maybe_ftruncate(int fd, off_t length)
{
    return fails_now() ? -1 : ftruncate(fd, length);
}

static int maybe_rename(const char *from, const char *to)
{
    return fails_now() ? -1 : rename(from, to);
}

static int maybe_unlink(const char *path)
{
    return fails_now() ? -1 : unlink(path);
}

static void replace_all_calls(int error)
{
    failing_errno = error;
    atomic_store(&calls_left, -1);
    calls = io_system_calls;
    calls.open = maybe_open;
    calls.pread = maybe_pread;
    calls.pwritev = maybe_pwritev;
    calls.fdatasync = maybe_fdatasync;
    calls.fsync = maybe_fsync;
    calls.ftruncate = maybe_ftruncate;
    calls.rename = maybe_rename;
    calls.unlink = maybe_unlink;
    io_replace(&calls);
}

/* ---- memory that is short ---- */

static _Atomic int allocations_left = -1; /* in the store's own threads, until one fails */
static _Thread_local bool is_test_thread;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_ALLOCATOR 1
#elif defined(__has_feature)
#define OWN_ALLOCATOR (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define OWN_ALLOCATOR 0
#endif

#if !OWN_ALLOCATOR
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static bool memory_is_short(void)
{
    return !is_test_thread && atomic_load(&allocations_left) >= 0 &&
           atomic_fetch_sub(&allocations_left, 1) == 0;
}

/* In the place of the library's. */
void *malloc(size_t size)
{
    return memory_is_short() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return memory_is_short() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return memory_is_short() ? NULL : __libc_realloc(old, size);
}
#endif

/* ---- the load ---- */

/* A key's value is its letter, so many times; what it may be after the failure. */
struct swept {
    const char *key;
    size_t old_len;
    size_t new_len;
    enum store_status status; /* of the write of the new one */
};

enum { SWEPT = 7 };

static void sweep_lengths(struct swept *keys)
{
    static const struct swept table[SWEPT] = {
        {"a", 10, 20, STORE_OK},
        {"b", 30000, 10, STORE_OK},
        {"c", 10, STORE_SPOOL_MIN + 5, STORE_OK},
        {"d", STORE_SPOOL_MIN + 1, STORE_SPOOL_MIN + 2, STORE_OK}, /* an update */
        {"e", STORE_SPOOL_MIN, STORE_SPOOL_MIN, STORE_OK},
        {"f", STORE_SPOOL_MIN, STORE_SPOOL_MIN - 1, STORE_OK}, /* in the next segment */
        {"g", 0, 5, STORE_OK},
    };

    memcpy(keys, table, sizeof(table));
}

static enum store_status append_one(struct store_write *w, const struct record *now,
                                    struct store_change *out)
{
    if (now == NULL)
        return STORE_NOT_STORED;
    out->kind = CHANGE_PUT;
    out->pieces[0] = now->value;
    out->pieces[1] = slice_of(w->key.ptr, 1);
    return STORE_OK;
}

static void write_done(struct store_write *w)
{
    *(enum store_status *)w->owner = w->status;
    store_write_free(w);
}

static void never_full(void *arg)
{
    (void)arg;
}

/* As the fixture's put_big(), but any step may fail. */
static enum store_status put_spooled(struct store_fixture *f, const char *key, struct slice value)
{
    enum store_status status = STORE_IO_ERROR;
    struct store_spool *spool;
    struct store_write *w;

    if (store_spool_open(f->port, slice_str(key), slice_of(NULL, 0), value.len, never_full, NULL,
                         &spool) != 0)
        return STORE_IO_ERROR;
    if (store_spool_add(spool, value) != 0) {
        store_spool_abandon(spool);
        store_settle(f);
        return STORE_IO_ERROR;
    }
    w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), 0);
    assert_non_null(w);
    w->spool = spool;
    w->owner = &status;
    w->done = write_done;
    store_write_submit(w);
    store_settle(f);
    return status;
}

static enum store_status put_letters(struct store_fixture *f, const char *key, size_t len)
{
    char *value = malloc(len + 1);
    enum store_status status;

    assert_non_null(value);
    memset(value, key[0], len);
    if (len > STORE_SPOOL_MIN)
        status = put_spooled(f, key, slice_of(value, len));
    else
        status = write_key(f, STORE_PUT, STORE_ANY, 0, key, slice_of(value, len), 0).status;
    free(value);
    return status;
}

/* The store with the old values, in a template. */
static void make_old(struct store_fixture *f, const struct swept *keys, const char *template_dir)
{
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < SWEPT; i++)
        if (keys[i].old_len > 0)
            assert_int_equal(put_letters(f, keys[i].key, keys[i].old_len), STORE_OK);
    store_shut(f);
    copy_tree(store_path(f, ""), template_dir);
}

/* Each key shows the new value if its write was answered so, the old one if it was refused without
 * a doubt, else one of both. */
static void check_swept(struct store_fixture *f, const struct swept *keys)
{
    uint64_t present = 0;

    for (unsigned i = 0; i < SWEPT; i++) {
        const struct swept *k = &keys[i];
        size_t len = 0;
        char *got = fetch(f, k->key, &len, NULL, NULL);

        present += got != NULL;
        if (k->status == STORE_OK)
            assert_int_equal(len, k->new_len);
        else if (k->status == STORE_NO_SPACE)
            assert_int_equal(len, k->old_len);
        else
            assert_true(len == k->old_len || len == k->new_len);
        for (size_t n = 0; n < len; n++)
            if (got[n] != k->key[0])
                fail_msg("key %s, byte %zu", k->key, n);
        free(got);
    }
    assert_int_equal(store_count(f->store), present);
}

static void write_new(struct store_fixture *f, struct swept *keys)
{
    for (unsigned i = 0; i < SWEPT; i++)
        keys[i].status = keys[i].key[0] == 'd' ? update(f, keys[i].key, append_one, 0).status
                                               : put_letters(f, keys[i].key, keys[i].new_len);
}

/* One life in which number `nth` of what `left` counts fails, and one after it. True if there were
 * so many. */
static bool one_life(struct store_fixture *f, const char *template_dir, _Atomic int *left, int nth)
{
    struct swept keys[SWEPT];
    bool reached;

    remove_tree(store_path(f, ""));
    copy_tree(template_dir, store_path(f, ""));
    sweep_lengths(keys);
    for (unsigned i = 0; i < SWEPT; i++)
        keys[i].status = STORE_NO_SPACE; /* not begun */
    atomic_store(left, nth);
    if (store_open(f) == 0) {
        write_new(f, keys);
        store_shut(f);
    }
    reached = atomic_exchange(left, -1) < 0;
    assert_int_equal(store_open(f), 0);
    check_swept(f, keys);
    store_shut(f);
    return reached;
}

static void sweep(struct store_fixture *f, enum store_sync sync, _Atomic int *left)
{
    struct swept keys[SWEPT];
    char template_dir[300];
    int nth = 0;

    log_set_level(LOG_ERROR + 1);
    f->config.sync = sync;
    snprintf(template_dir, sizeof(template_dir), "%s/template", f->dir);
    sweep_lengths(keys);
    make_old(f, keys, template_dir);
    is_test_thread = true;
    while (one_life(f, template_dir, left, nth))
        nth++;
    assert_true(nth > 50);
}

static void no_failing_call_costs_an_answered_write_under_always(void **state)
{
    replace_all_calls(ENOSPC);
    sweep(*state, STORE_SYNC_ALWAYS, &calls_left);
}

static void no_failing_call_costs_an_answered_write_under_os(void **state)
{
    replace_all_calls(EIO);
    sweep(*state, STORE_SYNC_OS, &calls_left);
}

static void no_descriptor_missing_costs_an_answered_write(void **state)
{
    replace_all_calls(EMFILE);
    sweep(*state, STORE_SYNC_INTERVAL, &calls_left);
}

static void no_memory_missing_costs_an_answered_write(void **state)
{
    if (!OWN_ALLOCATOR)
        sweep(*state, STORE_SYNC_OS, &allocations_left);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(no_failing_call_costs_an_answered_write_under_always),
        T(no_failing_call_costs_an_answered_write_under_os),
        T(no_descriptor_missing_costs_an_answered_write),
        T(no_memory_missing_costs_an_answered_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
