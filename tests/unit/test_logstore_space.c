/*
 * test_logstore_space.c - a disk that fills: what is refused, what goes on, how it heals, and what is
 * said about it. The system's answer about free space is the test's.
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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

#define MIB (UINT64_C(1) << 20)

/* ---- a disk of the test's own size ---- */

static _Atomic uint64_t disk_bytes;
static _Atomic uint64_t disk_used;
static _Atomic uint64_t looks;
static _Atomic bool writes_fail;
static struct io_calls calls; /* outlives a test that fails */

static int disk_fstatvfs(int fd, struct statvfs *out)
{
    uint64_t total = atomic_load(&disk_bytes);
    uint64_t used = atomic_load(&disk_used);

    (void)fd;
    atomic_fetch_add(&looks, 1);
    memset(out, 0, sizeof(*out));
    out->f_frsize = 4096;
    out->f_blocks = total / 4096;
    out->f_bavail = out->f_bfree = used < total ? (total - used) / 4096 : 0;
    return 0;
}

/* Everything that is written takes room for ever: the log is only appended to. */
static ssize_t disk_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    ssize_t n;

    if (atomic_load(&writes_fail)) {
        errno = EDQUOT;
        return -1;
    }
    n = pwritev(fd, iov, count, offset);
    if (n > 0)
        atomic_fetch_add(&disk_used, (uint64_t)n);
    return n;
}

static void use_disk(uint64_t total, uint64_t used)
{
    atomic_store(&disk_bytes, total);
    atomic_store(&disk_used, used);
    atomic_store(&writes_fail, false);
    calls = io_system_calls;
    calls.fstatvfs = disk_fstatvfs;
    calls.pwritev = disk_pwritev;
    io_replace(&calls);
}

/* Waits until the store has noticed what the disk is like. */
static void wait_until_full(struct store_fixture *f, bool full)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    const char *reason;

    while (store_writable(f->store, &reason) == full)
        nanosleep(&moment, NULL);
}

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

static enum store_status op_on(struct store_fixture *f, enum store_op op, const char *key)
{
    return write_key(f, op, STORE_ANY, 0, key, slice_of(NULL, 0), 0).status;
}

/* ---- what is refused ---- */

static void a_full_disk_refuses_what_grows_and_takes_what_frees(void **state)
{
    struct store_fixture *f = *state;
    enum store_status status;

    log_set_level(LOG_ERROR + 1);
    use_disk(1000 * MIB, 0);
    f->config.reserve_bytes = 100 * MIB;
    assert_int_equal(store_open(f), 0);
    put(f, "number", "10");
    put(f, "text", "x");
    put(f, "old", "x");
    assert_int_equal(figure(f, "disk_full_refusals "), 0);
    atomic_store(&disk_used, 901 * MIB);
    wait_until_full(f, true);

    assert_int_equal(put(f, "new", "1").status, STORE_NO_SPACE);
    assert_int_equal(put(f, "text", "1").status, STORE_NO_SPACE);
    assert_int_equal(op_on(f, STORE_TOUCH, "text"), STORE_NO_SPACE);
    assert_int_equal(update(f, "number", count_up, 1).status, STORE_NO_SPACE);
    assert_int_equal(update(f, "text", add_plus, 0).status, STORE_NO_SPACE);
    assert_int_equal(figure(f, "disk_full_refusals "), 5);
    assert_int_equal(figure(f, "disk_full "), 1);
    assert_int_equal(figure(f, "disk_reserve_bytes "), 100 * MIB);

    check_value(f, "text", "x");
    assert_null(fetch(f, "new", NULL, &status, NULL));
    assert_int_equal(status, STORE_NOT_FOUND);
    assert_int_equal(op_on(f, STORE_DELETE, "old"), STORE_OK);
    check_value(f, "old", NULL);
    assert_int_equal(flush_at(f, 0).status, STORE_OK);
    assert_int_equal(store_count(f->store), 0);
}

/* What would be answered without a write is answered as ever. */
static void a_full_disk_changes_no_answer_that_needs_no_room(void **state)
{
    struct store_fixture *f = *state;

    log_set_level(LOG_ERROR + 1);
    use_disk(1000 * MIB, 0);
    f->config.reserve_bytes = 100 * MIB;
    assert_int_equal(store_open(f), 0);
    put(f, "k", "x");
    atomic_store(&disk_used, 901 * MIB);
    wait_until_full(f, true);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_ABSENT, 0, "k", slice_str("y"), 0).status,
                     STORE_NOT_STORED);
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, 1, "k", slice_str("y"), 0).status,
                     STORE_EXISTS);
    assert_int_equal(op_on(f, STORE_TOUCH, "none"), STORE_NOT_FOUND);
    assert_int_equal(op_on(f, STORE_DELETE, "none"), STORE_NOT_FOUND);
    assert_int_equal(update(f, "none", count_up, 1).status, STORE_NOT_FOUND);
}

/* ---- healing ---- */

static void writes_go_on_when_room_comes_back(void **state)
{
    struct store_fixture *f = *state;
    const char *reason = NULL;

    log_set_level(LOG_ERROR + 1);
    f->config.sync = STORE_SYNC_OS; /* no zeros ahead */
    use_disk(1000 * MIB, 0);
    f->config.reserve_bytes = 160 * MIB;
    assert_int_equal(store_open(f), 0);
    for (int round = 0; round < 2; round++) {
        uint64_t before = atomic_load(&looks);
        const struct timespec moment = {.tv_nsec = 1000 * 1000};

        atomic_store(&disk_used, 850 * MIB);
        wait_until_full(f, true);
        assert_false(store_writable(f->store, &reason));
        assert_string_equal(reason, "disk full: 157286400 bytes left, 167772160 reserved");
        /* A little more than the reserve is not enough: writes would stop again at once. */
        atomic_store(&disk_used, 839 * MIB);
        while (atomic_load(&looks) < before + 4)
            nanosleep(&moment, NULL);
        assert_int_equal(put(f, "k", "1").status, STORE_NO_SPACE);
        atomic_store(&disk_used, 800 * MIB);
        wait_until_full(f, false);
        assert_int_equal(put(f, "k", "2").status, STORE_OK);
    }
}

/* The system shows room and gives none: a quota, or no inodes. */
static void a_disk_that_only_seems_to_have_room_is_full(void **state)
{
    struct store_fixture *f = *state;
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    const char *reason;

    log_set_level(LOG_ERROR + 1);
    use_disk(1000 * MIB, 0);
    assert_int_equal(store_open(f), 0);
    put(f, "k", "old");
    atomic_store(&writes_fail, true);
    assert_int_equal(put(f, "k", "new").status, STORE_NO_SPACE);
    assert_false(store_writable(f->store, &reason));
    check_value(f, "k", "old");
    /* Nobody needs to try: it is found out that room is there again. */
    atomic_store(&writes_fail, false);
    while (!store_writable(f->store, &reason))
        nanosleep(&moment, NULL);
    assert_int_equal(put(f, "k", "new").status, STORE_OK);
    assert_int_equal(count_files(store_path(f, "tmp")), 0);
}

/* ---- how far ---- */

/* However fast: between two of background's looks the writer looks itself. */
static void no_stream_of_writes_runs_through_the_reserve(void **state)
{
    struct store_fixture *f = *state;
    size_t len = 512 * 1024;
    char *value = calloc(1, len);
    enum store_status status = STORE_OK;
    uint64_t available;
    unsigned i;

    assert_non_null(value);
    log_set_level(LOG_ERROR + 1);
    f->config.sync = STORE_SYNC_OS;
    use_disk(1000 * MIB, 868 * MIB);
    f->config.reserve_bytes = 100 * MIB;
    assert_int_equal(store_open(f), 0);
    for (i = 0; i < 200 && status == STORE_OK; i++)
        status = write_key(f, STORE_PUT, STORE_ANY, 0, "k", slice_of(value, len), 0).status;
    assert_int_equal(status, STORE_NO_SPACE);
    available = atomic_load(&disk_bytes) - atomic_load(&disk_used);
    assert_in_range(available, 98 * MIB, 100 * MIB);
    wait_until_full(f, true);
    free(value);
}

/* Looks are few while there is room: the system is not asked for every write. */
static void room_is_not_asked_for_with_every_write(void **state)
{
    struct store_fixture *f = *state;
    uint64_t before;

    f->config.sync = STORE_SYNC_OS;
    use_disk(1000 * MIB, 0);
    f->config.reserve_bytes = 100 * MIB;
    assert_int_equal(store_open(f), 0);
    before = atomic_load(&looks);
    for (unsigned i = 0; i < 2000; i++)
        assert_int_equal(put(f, "k", "some text").status, STORE_OK);
    assert_true(atomic_load(&looks) - before < 1000);
}

/* ---- the reserve by default ---- */

static void the_reserve_fits_the_disk(void **state)
{
    struct store_fixture *f = *state;
    static const struct {
        uint64_t disk;
        uint64_t segment;
        uint64_t reserve;
        uint64_t segment_after;
    } rows[] = {
        {UINT64_C(100) << 30, 64 * MIB, (UINT64_C(100) << 30) / 100, 64 * MIB}, /* 1 % */
        {UINT64_C(4) << 30, 64 * MIB, 128 * MIB, 64 * MIB},                     /* two segments */
        {640 * MIB, 64 * MIB, 64 * MIB, 40 * MIB},                              /* a tenth */
        {64 * MIB, 64 * MIB, 64 * MIB / 10, 4 * MIB},
    };

    log_set_level(LOG_ERROR + 1);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        use_disk(rows[i].disk, 0);
        f->config.segment_bytes = rows[i].segment;
        f->config.reserve_bytes = STORE_RESERVE_DEFAULT;
        assert_int_equal(store_open(f), 0);
        assert_int_equal(figure(f, "disk_reserve_bytes "), rows[i].reserve);
        assert_int_equal(logstore_of(f->store)->config.segment_bytes, rows[i].segment_after);
        assert_int_equal(put(f, "k", "v").status, STORE_OK);
        store_shut(f);
    }
}

/* ---- a start ---- */

static void a_store_on_a_full_disk_starts_reads_deletes_and_stops(void **state)
{
    struct store_fixture *f = *state;

    log_set_level(LOG_ERROR + 1);
    use_disk(1000 * MIB, 0);
    f->config.reserve_bytes = 100 * MIB;
    assert_int_equal(store_open(f), 0);
    put(f, "a", "1");
    put(f, "b", "2");
    store_shut(f);
    for (int round = 0; round < 2; round++) {
        use_disk(1000 * MIB, 950 * MIB);
        assert_int_equal(store_open(f), 0);
        assert_int_equal(put(f, "c", "3").status, STORE_NO_SPACE);
        check_value(f, "a", "1");
        assert_int_equal(op_on(f, STORE_DELETE, "b"), round == 0 ? STORE_OK : STORE_NOT_FOUND);
        store_shut(f);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_full_disk_refuses_what_grows_and_takes_what_frees),
        T(a_full_disk_changes_no_answer_that_needs_no_room),
        T(writes_go_on_when_room_comes_back),
        T(a_disk_that_only_seems_to_have_room_is_full),
        T(no_stream_of_writes_runs_through_the_reserve),
        T(room_is_not_asked_for_with_every_write),
        T(the_reserve_fits_the_disk),
        T(a_store_on_a_full_disk_starts_reads_deletes_and_stops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
