/*
 * test_logstore_extend.c - updates that make big values: beside the writer, in the order of the
 * key's writes, whole or not at all; and the bound on files in the making.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "command/command.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

enum { MIB = 1 << 20, LEN = 9 * MIB + 123 };

/* ---- the disk, held up or failing where files are in the making ---- */

static _Atomic bool is_held;
static _Atomic int waiting_calls;
static _Atomic int tmp_error;
static _Atomic int big_opens;

static bool is_file_in(int fd, const char *part)
{
    char link[64];
    char path[512];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path) - 1);
    path[len < 0 ? 0 : len] = '\0';
    return strstr(path, part) != NULL;
}

static ssize_t held_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    if (is_file_in(fd, "/tmp/spool-")) {
        atomic_fetch_add(&waiting_calls, 1);
        while (atomic_load(&is_held))
            nanosleep(&moment, NULL);
        if (atomic_load(&tmp_error) != 0) {
            errno = atomic_load(&tmp_error);
            return -1;
        }
    }
    return pwritev(fd, iov, count, offset);
}

static int counted_open(const char *path, int flags, mode_t mode)
{
    atomic_fetch_add(&big_opens, strstr(path, "/big/") != NULL);
    return open(path, flags, mode);
}

static int setup(void **state)
{
    static struct io_calls calls;

    calls = io_system_calls;
    calls.pwritev = held_pwritev;
    calls.open = counted_open;
    atomic_store(&is_held, false);
    atomic_store(&tmp_error, 0);
    if (store_fixture_setup(state) != 0)
        return -1;
    io_replace(&calls);
    return store_open(*state);
}

/* ---- writes that are not waited for ---- */

struct pending {
    bool done;
    struct write_result result;
};

static void pending_done(struct store_write *w)
{
    struct pending *p = w->owner;

    *p = (struct pending){true, {w->status, w->cas, w->reply, w->existed}};
    store_write_free(w);
}

static void begin(struct store_fixture *f, struct pending *p, const char *key, enum store_op op,
                  store_compute *compute, const char *value)
{
    struct store_write *w =
        store_write_new(f->port, slice_str(key), slice_of(NULL, 0), strlen(value));

    assert_non_null(w);
    memcpy(w->value, value, strlen(value));
    w->op = op;
    w->compute = compute;
    w->argument[0] = UINT64_MAX; /* no limit of the command's own */
    w->owner = p;
    w->done = pending_done;
    *p = (struct pending){0};
    store_write_submit(w);
    store_port_flush(f->port);
}

static void wait_for(struct store_fixture *f, const struct pending *p)
{
    while (!p->done) {
        struct pollfd fds[2] = {{.fd = store_port_fd(f->port), .events = POLLIN},
                                {.fd = aio_fd(f->aio), .events = POLLIN}};

        assert_true(poll(fds, 2, 60000) > 0);
        aio_run(f->aio);
        store_port_run(f->port);
    }
}

/* Until a file in the making waits for the disk. */
static void wait_until_held(void)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (atomic_load(&waiting_calls) == 0)
        nanosleep(&moment, NULL);
}

static void hold_the_disk(void)
{
    atomic_store(&waiting_calls, 0);
    atomic_store(&is_held, true);
}

/* ---- values ---- */

static char *pattern(size_t len)
{
    char *value = malloc(len + 1);

    assert_non_null(value);
    for (size_t i = 0; i < len; i++)
        value[i] = (char)(i * 7 + i / 251);
    value[len] = '\0';
    return value;
}

static void put_pattern(struct store_fixture *f, const char *key, size_t len)
{
    char *value = pattern(len);

    assert_int_equal(put_big(f, key, value, len).status, STORE_OK);
    free(value);
}

/* The key's value is `before`, a pattern of `len` bytes, `after`. */
static struct record check_joined(struct store_fixture *f, const char *key, const char *before,
                                  size_t len, const char *after)
{
    char *middle = pattern(len);
    size_t got_len = 0;
    struct record rec;
    char *got = fetch(f, key, &got_len, NULL, &rec);

    assert_non_null(got);
    assert_int_equal(got_len, strlen(before) + len + strlen(after));
    assert_memory_equal(got, before, strlen(before));
    assert_memory_equal(got + strlen(before), middle, len);
    assert_string_equal(got + strlen(before) + len, after);
    free(middle);
    free(got);
    return rec;
}

static void wait_for_files(struct store_fixture *f, unsigned big, unsigned tmp)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (count_files(store_path(f, "big")) != big || count_files(store_path(f, "tmp")) != tmp)
        nanosleep(&moment, NULL);
}

/* ---- what is made ---- */

static void a_big_value_grows_at_both_ends(void **state)
{
    struct store_fixture *f = *state;
    struct pending p;
    struct record rec;
    int64_t later = clock_wall_ms() + 1000000;

    put_pattern(f, "k", LEN);
    write_key(f, STORE_TOUCH, STORE_ANY, 0, "k", slice_of(NULL, 0), later);
    begin(f, &p, "k", STORE_UPDATE, command_append, "behind");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_OK);
    begin(f, &p, "k", STORE_UPDATE, command_prepend, "before ");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_OK);
    for (int life = 0; life < 3; life++) {
        rec = check_joined(f, "k", "before ", LEN, "behind");
        assert_int_equal(rec.expires_ms, later);
        assert_int_equal(record_cas(&rec), p.result.cas);
        wait_for_files(f, 1, 0);
        store_shut(f);
        if (life == 1)
            remove_tree(store_path(f, "index"));
        assert_int_equal(store_open(f), 0);
    }
}

static void a_small_value_grows_big(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN;
    char *value = pattern(len);
    struct pending p;

    write_key(f, STORE_PUT, STORE_ANY, 0, "k", slice_of(value, len), 0);
    begin(f, &p, "k", STORE_UPDATE, command_prepend, "<");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_OK);
    assert_true(check_joined(f, "k", "<", len, "").big_bytes > 0);
    begin(f, &p, "k", STORE_UPDATE, command_append, ">");
    wait_for(f, &p);
    check_joined(f, "k", "<", len, ">");
    wait_for_files(f, 1, 0);
    free(value);
}

static void a_number_is_not_looked_for_in_a_big_value(void **state)
{
    struct store_fixture *f = *state;
    char *value = malloc(2 * MIB + 1);

    assert_non_null(value);
    memset(value, '1', 2 * MIB);
    assert_int_equal(put_big(f, "k", value, 2 * MIB).status, STORE_OK);
    atomic_store(&big_opens, 0);
    assert_int_equal(update(f, "k", command_incr, 1).status, STORE_BAD_VALUE);
    assert_int_equal(update(f, "k", command_decr, 1).status, STORE_BAD_VALUE);
    assert_int_equal(atomic_load(&big_opens), 0);
    free(value);
}

/* ---- beside others ---- */

static void writes_of_other_keys_do_not_wait_for_an_append(void **state)
{
    struct store_fixture *f = *state;
    struct pending slow;

    put_pattern(f, "k", LEN);
    hold_the_disk();
    begin(f, &slow, "k", STORE_UPDATE, command_append, "+");
    wait_until_held();
    for (int i = 0; i < 10; i++) {
        struct pending quick;

        begin(f, &quick, "other", STORE_PUT, NULL, "value");
        wait_for(f, &quick);
        assert_int_equal(quick.result.status, STORE_OK);
    }
    assert_false(slow.done);
    check_joined(f, "k", "", LEN, ""); /* and readers see what there was */
    atomic_store(&is_held, false);
    wait_for(f, &slow);
    check_joined(f, "k", "", LEN, "+");
}

static void writes_of_the_key_wait_in_their_order(void **state)
{
    struct store_fixture *f = *state;
    struct pending p[7];
    struct pending other;

    put_pattern(f, "k", LEN);
    hold_the_disk();
    begin(f, &p[0], "k", STORE_UPDATE, command_append, "0");
    wait_until_held();
    begin(f, &p[1], "k", STORE_UPDATE, command_append, "1");
    begin(f, &p[2], "k", STORE_PUT, NULL, "two");
    begin(f, &p[3], "k", STORE_UPDATE, command_append, "3");
    begin(f, &p[4], "k", STORE_DELETE, NULL, "");
    begin(f, &p[5], "k", STORE_UPDATE, command_append, "5");
    begin(f, &p[6], "k", STORE_PUT, NULL, "six");
    begin(f, &other, "other", STORE_PUT, NULL, "");
    wait_for(f, &other);
    for (int i = 0; i < 7; i++)
        assert_false(p[i].done);
    atomic_store(&is_held, false);
    for (int i = 0; i < 7; i++) {
        wait_for(f, &p[i]);
        assert_int_equal(p[i].result.status, i == 5 ? STORE_NOT_STORED : STORE_OK);
        assert_true(i == 0 || i == 5 || p[i].result.cas > p[i - 1].result.cas ||
                    p[i].result.cas == 0);
    }
    check_value(f, "k", "six");
    wait_for_files(f, 0, 0);
}

static void many_appends_at_once_are_all_there(void **state)
{
    struct store_fixture *f = *state;
    char text[17] = "0123456789abcdef";
    struct pending p[16];

    put_pattern(f, "k", 2 * MIB);
    for (int i = 0; i < 16; i++) {
        char one[2] = {text[i], '\0'};

        begin(f, &p[i], "k", STORE_UPDATE, command_append, one);
    }
    for (int i = 0; i < 16; i++) {
        wait_for(f, &p[i]);
        assert_int_equal(p[i].result.status, STORE_OK);
    }
    check_joined(f, "k", "", 2 * MIB, text);
    wait_for_files(f, 1, 0);
}

static void a_flush_comes_between(void **state)
{
    struct store_fixture *f = *state;
    struct pending p;
    struct pending later;

    put_pattern(f, "k", LEN);
    hold_the_disk();
    begin(f, &p, "k", STORE_UPDATE, command_append, "+");
    wait_until_held();
    begin(f, &later, "k", STORE_PUT, NULL, "new");
    begin(f, &later, "", STORE_FLUSH, NULL, "");
    wait_for(f, &later);
    assert_int_equal(later.result.status, STORE_OK);
    assert_false(p.done);
    atomic_store(&is_held, false);
    store_settle(f);
    assert_int_equal(p.result.status, STORE_NOT_STORED);
    check_value(f, "k", "new");
    wait_for_files(f, 0, 0);
}

/* ---- what fails ---- */

static void an_append_that_cannot_be_written_leaves_the_value(void **state)
{
    static const struct {
        int error;
        enum store_status status;
    } rows[] = {
        {ENOSPC, STORE_NO_SPACE},
        {EIO, STORE_IO_ERROR},
        {EMFILE, STORE_NO_MEMORY},
    };
    struct store_fixture *f = *state;
    struct pending p[2];

    log_set_level(LOG_ERROR + 1);
    f->config.reserve_bytes = 0;
    put_pattern(f, "k", LEN);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        atomic_store(&tmp_error, rows[i].error);
        begin(f, &p[0], "k", STORE_UPDATE, command_append, "+");
        begin(f, &p[1], "k", STORE_TOUCH, NULL, "");
        wait_for(f, &p[0]);
        wait_for(f, &p[1]);
        assert_int_equal(p[0].result.status, rows[i].status);
        assert_int_equal(p[1].result.status, STORE_OK);
    }
    atomic_store(&tmp_error, 0);
    wait_for_files(f, 1, 0);
    check_joined(f, "k", "", LEN, "");
}

static void damage_gets_no_new_checksum(void **state)
{
    struct store_fixture *f = *state;
    struct pending p;
    char byte;
    int fd;

    log_set_level(LOG_ERROR + 1);
    put_pattern(f, "k", LEN); /* written by this process: it is not read through before its use */
    fd = open(store_path(f, "big/0000000000000001.val"), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, LEN / 2), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, LEN / 2), 1);
    close(fd);
    begin(f, &p, "k", STORE_UPDATE, command_append, "+");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_DAMAGED);
    wait_for_files(f, 1, 0);
    assert_int_equal(access(store_path(f, "big/0000000000000001.val"), F_OK), 0);
}

/* ---- the bound ---- */

static void no_room(void *arg)
{
    (void)arg;
}

static int open_spool(struct store_fixture *f, uint64_t bytes, struct store_spool **out)
{
    return store_spool_open(f->port, slice_str("s"), slice_of(NULL, 0), bytes, no_room, NULL, out);
}

/* Adds so many bytes in pieces. 0 or what the first refused piece got. */
static int grow(struct store_fixture *f, struct store_spool *spool, size_t bytes)
{
    static const char zeros[64 * 1024];
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < bytes; at += sizeof(zeros)) {
        while (store_spool_full(spool)) {
            struct pollfd fd = {.fd = aio_fd(f->aio), .events = POLLIN};

            assert_true(poll(&fd, 1, 60000) > 0);
            aio_run(f->aio);
        }
        rc = store_spool_add(spool, slice_of(zeros, sizeof(zeros)));
    }
    return rc;
}

static uint64_t draft_bytes(struct logstore *ls)
{
    uint64_t bytes;

    pthread_mutex_lock(&ls->big.mutex);
    bytes = ls->big.draft_bytes;
    pthread_mutex_unlock(&ls->big.mutex);
    return bytes;
}

/* What is given up goes on another thread. */
static void wait_for_draft_bytes(struct logstore *ls, uint64_t bytes)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};

    while (draft_bytes(ls) != bytes)
        nanosleep(&moment, NULL);
}

static void what_arrives_is_bounded_together(void **state)
{
    struct store_fixture *f = *state;
    struct logstore *ls = logstore_of(f->store);
    struct store_spool *first;
    struct store_spool *second;
    struct store_spool *third;

    ls->config.spool_max_bytes = 8 * MIB;
    assert_int_equal(open_spool(f, 6 * MIB, &first), 0);
    assert_int_equal(grow(f, first, 4 * MIB), 0);
    assert_int_equal(draft_bytes(ls), 4 * MIB);
    /* What was announced has no room. What was not may come as far as there is some. */
    assert_int_equal(open_spool(f, 5 * MIB, &third), -ENOMEM);
    assert_int_equal(open_spool(f, UINT64_MAX, &second), 0);
    assert_int_equal(grow(f, second, 3 * MIB), 0);
    assert_int_equal(grow(f, second, 2 * MIB), -ENOMEM);
    assert_int_equal(draft_bytes(ls), 8 * MIB);
    assert_int_equal(open_spool(f, UINT64_MAX, &third), -ENOMEM);
    /* The oldest comes to its end. */
    assert_int_equal(grow(f, first, 2 * MIB), 0);
    assert_int_equal(draft_bytes(ls), 10 * MIB);
    store_spool_abandon(second);
    wait_for_draft_bytes(ls, 6 * MIB);
    wait_for_files(f, 0, 1);
    assert_int_equal(open_spool(f, MIB, &third), 0);
    assert_int_equal(grow(f, third, MIB), 0);
    store_spool_abandon(first);
    store_spool_abandon(third);
    store_settle(f);
    wait_for_draft_bytes(ls, 0);
    wait_for_files(f, 0, 0);
    put_pattern(f, "s", LEN); /* one alone may be larger than the bound */
    check_joined(f, "s", "", LEN, "");
}

static void an_append_counts_against_the_bound(void **state)
{
    struct store_fixture *f = *state;
    struct logstore *ls = logstore_of(f->store);
    struct store_spool *spool;
    struct pending p;

    put_pattern(f, "k", 5 * MIB);
    ls->config.spool_max_bytes = 8 * MIB;
    assert_int_equal(open_spool(f, UINT64_MAX, &spool), 0);
    assert_int_equal(grow(f, spool, 4 * MIB), 0);
    begin(f, &p, "k", STORE_UPDATE, command_append, "+");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_NO_MEMORY);
    store_spool_abandon(spool);
    store_settle(f);
    wait_for_draft_bytes(ls, 0);
    wait_for_files(f, 1, 0);
    begin(f, &p, "k", STORE_UPDATE, command_append, "+");
    wait_for(f, &p);
    assert_int_equal(p.result.status, STORE_OK);
    check_joined(f, "k", "", 5 * MIB, "+");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_big_value_grows_at_both_ends),
        T(a_small_value_grows_big),
        T(a_number_is_not_looked_for_in_a_big_value),
        T(writes_of_other_keys_do_not_wait_for_an_append),
        T(writes_of_the_key_wait_in_their_order),
        T(many_appends_at_once_are_all_there),
        T(a_flush_comes_between),
        T(an_append_that_cannot_be_written_leaves_the_value),
        T(damage_gets_no_new_checksum),
        T(what_arrives_is_bounded_together),
        T(an_append_counts_against_the_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
