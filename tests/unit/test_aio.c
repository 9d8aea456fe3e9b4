/*
 * test_aio.c - the thread pool, ports with io_uring and without, and what is in the page cache
 * (base/aio.h).
 *
 * Every test of a port runs three times: io_uring (where this kernel has it), pool threads, and
 * pool threads that must do without cachestat.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/io.h"
#include "temp_dir.h"

enum { FILE_BYTES = 3000001, MANY = 1000 };

static char dir[TEMP_DIR_MAX];
static char *content;
static int file_fd;
static struct aio_pool *pool;
static bool use_uring;

/* An op that knows whether it is done, and may carry more. */
struct test_op {
    struct aio_op op; /* first: a pointer to one is a pointer to the other */
    unsigned done;
    unsigned follow_ups; /* further reads that done() starts */
    pthread_t ran_on;
    struct aio *port;
};

static void on_done(struct aio_op *op)
{
    struct test_op *t = (struct test_op *)op;

    t->done++;
    t->ran_on = pthread_self();
    if (t->follow_ups > 0) {
        t->follow_ups--;
        aio_read(op->port, op);
    }
}

/* Runs the port until the op was done n times. */
static void await_done(struct aio *port, const struct test_op *t, unsigned n)
{
    while (t->done < n) {
        struct pollfd ready = {.fd = aio_fd(port), .events = POLLIN};

        assert_int_equal(poll(&ready, 1, 60000), 1);
        aio_run(port);
    }
    assert_int_equal(t->done, n);
    assert_true(pthread_equal(t->ran_on, pthread_self()));
}

static struct aio *open_port(void)
{
    struct aio *port;

    assert_int_equal(aio_open(pool, use_uring, &port), 0);
    assert_true(use_uring || !aio_uses_uring(port));
    return port;
}

static struct test_op read_op(void *buf, size_t len, off_t offset)
{
    return (struct test_op){
        .op = {.done = on_done, .fd = file_fd, .buf = buf, .len = len, .offset = offset}};
}

static void evict(void)
{
    assert_int_equal(posix_fadvise(file_fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* ---- reads ---- */

static void reads_give_what_is_in_the_file(void **state)
{
    static const struct {
        size_t len;
        off_t offset;
        size_t expected;
    } rows[] = {
        {1, 0, 1},
        {4096, 4096, 4096},
        {100000, 777, 100000},
        {FILE_BYTES, 0, FILE_BYTES},
        {FILE_BYTES, 1, FILE_BYTES - 1},
        {100, FILE_BYTES - 1, 1},
        {100, FILE_BYTES, 0},
        {100, FILE_BYTES + 5000, 0},
    };
    char *buf = malloc(FILE_BYTES);
    struct aio *port = open_port();

    (void)state;
    for (int cold = 0; cold < 2; cold++) {
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            struct test_op t = read_op(buf, rows[i].len, rows[i].offset);

            if (cold)
                evict();
            memset(buf, 0, FILE_BYTES);
            aio_read(port, &t.op);
            assert_int_equal(t.done, 0); /* never from within */
            await_done(port, &t, 1);
            assert_int_equal(t.op.result, rows[i].expected);
            assert_memory_equal(buf, content + rows[i].offset, rows[i].expected);
        }
    }
    aio_close(port);
    free(buf);
}

static void a_read_that_fails_says_why(void **state)
{
    int dir_fd = open(dir, O_RDONLY | O_CLOEXEC);
    char buf[10];
    struct test_op t = read_op(buf, sizeof(buf), 0);
    struct aio *port = open_port();

    (void)state;
    assert_true(dir_fd >= 0);
    t.op.fd = dir_fd;
    aio_read(port, &t.op);
    await_done(port, &t, 1);
    assert_int_equal(t.op.result, -EISDIR);
    aio_read_ahead(port, &t.op);
    await_done(port, &t, 2);
    assert_int_equal(t.op.result, -EISDIR);
    close(dir_fd);
    t.op.fd = dir_fd;
    t.op.buf = buf;
    aio_read(port, &t.op);
    await_done(port, &t, 3);
    assert_int_equal(t.op.result, -EBADF);
    aio_close(port);
}

/* More than the ring holds, each checked. */
static void many_reads_at_once_all_complete(void **state)
{
    struct test_op *ops = calloc(MANY, sizeof(*ops));
    char *bufs = malloc(MANY * 2048);
    struct aio *port = open_port();

    (void)state;
    evict();
    for (size_t i = 0; i < MANY; i++) {
        ops[i] = read_op(bufs + i * 2048, 2048, (off_t)(i * 2999));
        aio_read(port, &ops[i].op);
    }
    for (size_t i = 0; i < MANY; i++)
        await_done(port, &ops[i], 1);
    for (size_t i = 0; i < MANY; i++) {
        size_t left = FILE_BYTES - i * 2999;

        assert_int_equal(ops[i].op.result, left < 2048 ? left : 2048);
        assert_memory_equal(bufs + i * 2048, content + i * 2999, (size_t)ops[i].op.result);
    }
    aio_close(port);
    free(bufs);
    free(ops);
}

static void a_completion_may_start_the_next_read(void **state)
{
    char buf[100];
    struct test_op t = read_op(buf, sizeof(buf), 50);
    struct aio *port = open_port();

    (void)state;
    t.follow_ups = 200;
    aio_read(port, &t.op);
    await_done(port, &t, 201);
    assert_int_equal(t.op.result, 100);
    assert_memory_equal(buf, content + 50, 100);
    aio_close(port);
}

static void closing_a_port_completes_what_is_under_way(void **state)
{
    struct test_op ops[300];
    char *bufs = malloc(300 * 1000);
    struct aio *port = open_port();

    (void)state;
    evict();
    for (size_t i = 0; i < 300; i++) {
        ops[i] = read_op(bufs + i * 1000, 1000, (off_t)(i * 9000));
        aio_read(port, &ops[i].op);
    }
    aio_close(port);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].op.result, 1000);
    }
    free(bufs);
}

/* ---- jobs ---- */

static void work_on_the_pool(struct aio_op *op)
{
    struct test_op *t = (struct test_op *)op;

    t->ran_on = pthread_self();
    op->result = (int64_t)op->len * 2;
}

static void check_ran_elsewhere(struct aio_op *op)
{
    struct test_op *t = (struct test_op *)op;

    assert_false(pthread_equal(t->ran_on, pthread_self()));
    on_done(op);
}

static void jobs_run_on_the_pool_and_complete_on_the_port(void **state)
{
    struct test_op *ops = calloc(MANY, sizeof(*ops));
    struct aio *port = open_port();

    (void)state;
    for (size_t i = 0; i < MANY; i++) {
        ops[i].op =
            (struct aio_op){.work = work_on_the_pool, .done = check_ran_elsewhere, .len = i};
        aio_submit_job(port, &ops[i].op);
    }
    for (size_t i = 0; i < MANY; i++) {
        await_done(port, &ops[i], 1);
        assert_int_equal(ops[i].op.result, 2 * i);
    }
    aio_close(port);
    free(ops);
}

/* Ports come and go while the pool finishes their last jobs. */
static void *open_and_close_ports(void *arg)
{
    (void)arg;
    for (int i = 0; i < 200; i++) {
        struct test_op t = {.op = {.work = work_on_the_pool, .done = on_done, .len = 21}};
        struct aio *port;

        assert(aio_open(pool, false, &port) == 0);
        aio_submit_job(port, &t.op);
        aio_close(port);
        assert(t.done == 1 && t.op.result == 42);
    }
    return NULL;
}

static void ports_of_many_threads_share_a_pool(void **state)
{
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, open_and_close_ports, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

/* ---- the page cache ---- */

static void what_was_read_ahead_is_cached(void **state)
{
    static const struct {
        off_t offset;
        size_t len;
    } rows[] = {{0, 1},          {1, 65536},       {4095, 2},
                {100001, 60000}, {100001, 500000}, {FILE_BYTES - 10, 10}};
    struct aio *port = open_port();

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct test_op t = read_op(NULL, rows[i].len, rows[i].offset);

        evict();
        aio_read_ahead(port, &t.op);
        await_done(port, &t, 1);
        assert_int_equal(t.op.result, 0);
        assert_true(aio_is_cached(file_fd, rows[i].offset, rows[i].len));
    }
    aio_close(port);
}

static void reading_ahead_past_the_end_is_no_error(void **state)
{
    struct test_op t = read_op(NULL, 1 << 20, FILE_BYTES - 5000);
    struct aio *port = open_port();

    (void)state;
    aio_read_ahead(port, &t.op);
    await_done(port, &t, 1);
    assert_int_equal(t.op.result, 0);
    aio_close(port);
}

/*
 * All pages out, and no readahead, so that a question about one page does not bring in others.
 * False if the file system keeps its pages (tmpfs does). The question itself may start a read: no
 * test asks about these pages again.
 */
static bool evict_for_single_pages(void)
{
    evict();
    assert_int_equal(posix_fadvise(file_fd, 0, 0, POSIX_FADV_RANDOM), 0);
    return !aio_is_cached(file_fd, 1 << 20, 4096);
}

/* Whether the page of this byte is in memory, asked in a way that brings nothing in. */
static bool is_resident(off_t at)
{
    unsigned char seen;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file_fd, at - at % 4096);

    assert_true(page != MAP_FAILED);
    assert_int_equal(mincore(page, 4096, &seen), 0);
    munmap(page, 4096);
    return (seen & 1) != 0;
}

/* Without cachestat the question is a read of the page itself, and a disk that is quicker than this
 * thread may have brought it in by the time of the answer: then yes is right. */
static void assert_not_cached(off_t offset, size_t len, off_t missing)
{
    if (aio_is_cached(file_fd, offset, len))
        assert_true(is_resident(missing));
}

static void an_evicted_range_is_not_cached(void **state)
{
    char buf[4096];
    ssize_t got;

    (void)state;
    if (!evict_for_single_pages()) {
        print_message("skipped: this file system does not let go of single pages\n");
        skip();
    }
    assert_not_cached(0, 1, 0);
    assert_not_cached(5000, 60000, 64999);
    assert_false(aio_is_cached(file_fd, 0, FILE_BYTES));
    got = aio_read_cached(file_fd, buf, sizeof(buf), 8192);
    if (got != -EAGAIN) { /* see assert_not_cached() */
        assert_int_equal(got, sizeof(buf));
        assert_memory_equal(buf, content + 8192, sizeof(buf));
    }
}

/* Only the first page is there. */
static void a_range_that_is_cached_in_part_is_not_cached(void **state)
{
    char buf[4096];

    (void)state;
    if (!evict_for_single_pages()) {
        print_message("skipped: this file system does not let go of single pages\n");
        skip();
    }
    assert_int_equal(pread(file_fd, buf, sizeof(buf), 200 * 4096), sizeof(buf));
    assert_true(aio_is_cached(file_fd, 200 * 4096, 4096));
    assert_true(aio_is_cached(file_fd, 200 * 4096 + 4095, 1));
    assert_not_cached(200 * 4096, 4097, 201 * 4096);
    assert_not_cached(200 * 4096 - 1, 2, 199 * 4096);
    assert_false(aio_is_cached(file_fd, 100 * 4096, 101 * 4096)); /* its last page is */
}

static void cached_bytes_are_read_without_waiting(void **state)
{
    char *buf = malloc(FILE_BYTES);

    (void)state;
    assert_int_equal(io_read_full(file_fd, buf, FILE_BYTES, 0), 0);
    memset(buf, 0, FILE_BYTES);
    assert_int_equal(aio_read_cached(file_fd, buf, 1000, 12345), 1000);
    assert_memory_equal(buf, content + 12345, 1000);
    assert_int_equal(aio_read_cached(file_fd, buf, 100, FILE_BYTES - 7), 7);
    assert_int_equal(aio_read_cached(file_fd, buf, 100, FILE_BYTES), 0);
    assert_int_equal(aio_read_cached(-1, buf, 100, 0), -EBADF);
    assert_true(aio_is_cached(file_fd, 77, 0));
    assert_false(aio_is_cached(-1, 0, 1));
    free(buf);
}

/* Pipes know no RWF_NOWAIT reads at an offset; what cannot tell counts as not cached. */
static void a_file_that_cannot_tell_is_not_cached(void **state)
{
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    char byte;
    ssize_t n;

    (void)state;
    assert_true(fd >= 0);
    n = aio_read_cached(fd, &byte, 1, 0);
    assert_true(n == -EAGAIN || n == 1); /* by kernel version */
    close(fd);
}

/* ---- ---- */

static int set_up(void **state)
{
    char path[TEMP_DIR_MAX + 8];
    uint32_t x = 1;

    (void)state;
    temp_dir_make(dir);
    snprintf(path, sizeof(path), "%s/file", dir);
    file_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    content = malloc(FILE_BYTES + 10000);
    for (size_t i = 0; i < FILE_BYTES; i++) {
        x = x * 1664525u + 1013904223u;
        content[i] = (char)(x >> 24);
    }
    if (file_fd < 0 || io_write_full(file_fd, content, FILE_BYTES, 0) != 0 || fsync(file_fd) != 0)
        return -1;
    return aio_pool_open(3, &pool);
}

static int tear_down(void **state)
{
    (void)state;
    aio_pool_close(pool);
    close(file_fd);
    free(content);
    temp_dir_remove(dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_give_what_is_in_the_file),
        cmocka_unit_test(a_read_that_fails_says_why),
        cmocka_unit_test(many_reads_at_once_all_complete),
        cmocka_unit_test(a_completion_may_start_the_next_read),
        cmocka_unit_test(closing_a_port_completes_what_is_under_way),
        cmocka_unit_test(jobs_run_on_the_pool_and_complete_on_the_port),
        cmocka_unit_test(ports_of_many_threads_share_a_pool),
        cmocka_unit_test(what_was_read_ahead_is_cached),
        cmocka_unit_test(reading_ahead_past_the_end_is_no_error),
        cmocka_unit_test(an_evicted_range_is_not_cached),
        cmocka_unit_test(a_range_that_is_cached_in_part_is_not_cached),
        cmocka_unit_test(cached_bytes_are_read_without_waiting),
        cmocka_unit_test(a_file_that_cannot_tell_is_not_cached),
    };
    int failed;

    use_uring = true;
    failed = cmocka_run_group_tests_name("io_uring", tests, set_up, tear_down);
    use_uring = false;
    failed += cmocka_run_group_tests_name("pool", tests, set_up, tear_down);
    aio_disable_cachestat();
    failed += cmocka_run_group_tests_name("pool, no cachestat", tests, set_up, tear_down);
    return failed;
}
