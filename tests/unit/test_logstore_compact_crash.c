/*
 * test_logstore_compact_crash.c - compaction is interrupted at every call by which it changes a file,
 * its own ones and the index's: by a stop of the world, whose directory is opened elsewhere, and by
 * a failure of that call. Whatever was answered is there, also when the index is made anew.
 *
 * A short run takes a sample of the calls, by TEST_SEED; with TORTURE set it takes all.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"
#include "compact_model.h"
#include "store/logstore/sweep.h"

#define SEGMENT_BYTES (256u * 1024)
#define STEPS 1200
#define SAMPLE 12u

/* ---- the calls of compaction ---- */

enum what { NOTHING, STOP, FAIL };

static _Atomic int what;
static _Atomic int calls_left; /* until it happens */
static int failing_errno;
static _Atomic unsigned calls; /* that were made */
static sem_t stopped;
static sem_t go_on;
static _Atomic bool is_stopped;

static bool is_thread(const char *name)
{
    char own[16];

    return pthread_getname_np(pthread_self(), own, sizeof(own)) == 0 && strcmp(own, name) == 0;
}

/* True: the call is to fail. */
static bool comes_to_a_call(void)
{
    int now = atomic_load(&what);

    if (now == NOTHING || !is_thread("tt-compact"))
        return false;
    atomic_fetch_add(&calls, 1);
    if (atomic_fetch_sub(&calls_left, 1) != 0)
        return false;
    if (now == FAIL) {
        errno = failing_errno;
        return true;
    }
    atomic_store(&is_stopped, true);
    sem_post(&stopped);
    while (sem_wait(&go_on) == -1)
        ;
    return false;
}

static ssize_t my_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    return comes_to_a_call() ? -1 : pwritev(fd, iov, count, offset);
}

static int my_open(const char *path, int flags, mode_t mode)
{
    return comes_to_a_call() ? -1 : open(path, flags, mode);
}

static int my_fsync(int fd)
{
    return comes_to_a_call() ? -1 : fsync(fd);
}

static int my_rename(const char *from, const char *to)
{
    return comes_to_a_call() ? -1 : rename(from, to);
}

static int my_unlink(const char *path)
{
    return comes_to_a_call() ? -1 : unlink(path);
}

/* In the place of the library's: LMDB calls these by itself. A checkpoint does not go on while the
 * world is stopped. */
int fdatasync(int fd)
{
    while (atomic_load(&is_stopped) && is_thread("tt-checkpoint"))
        model_nap();
    return comes_to_a_call() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset) __asm__("pwrite");
ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return comes_to_a_call() ? -1 : syscall(SYS_pwrite64, fd, data, len, offset);
}

static void replace_calls(void)
{
    static struct io_calls mine;

    mine = io_system_calls;
    mine.open = my_open;
    mine.pwritev = my_pwritev;
    mine.fsync = my_fsync;
    mine.rename = my_rename;
    mine.unlink = my_unlink;
    io_replace(&mine);
}

static void arm(enum what then, unsigned n)
{
    atomic_store(&calls, 0);
    atomic_store(&calls_left, (int)n);
    atomic_store(&what, (int)then);
}

/* ---- the store that is compacted ---- */

struct test {
    struct store_fixture *f;
    struct model *m;
    struct model *before; /* as of the template */
    unsigned points;
};

/* A history, all of it in the index, in DIR/template; nothing of it was compacted. */
static void make_template(struct test *t)
{
    char path[300];

    t->m->f = t->f;
    t->f->config.no_compaction = true;
    t->f->config.segment_bytes = SEGMENT_BYTES;
    t->f->config.sync = STORE_SYNC_OS;
    assert_int_equal(store_open(t->f), 0);
    for (unsigned n = 0; n < STEPS; n++)
        model_step(t->m);
    while (!sweep_now(logstore_of(t->f->store)))
        model_nap();
    store_shut(t->f);
    t->f->config.no_compaction = false;
    t->f->config.checkpoint_entries = 40; /* several transactions for the rows of one run */
    snprintf(path, sizeof(path), "%s/template", t->f->dir);
    copy_tree(store_path(t->f, ""), path);
    *t->before = *t->m;
}

static void take_template(struct test *t)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/template", t->f->dir);
    remove_tree(store_path(t->f, ""));
    copy_tree(path, store_path(t->f, ""));
    t->before->random = t->m->random;
    *t->m = *t->before;
}

/* Touches of records whose places compaction changes, and a few other writes. */
static void write_beside(struct test *t)
{
    for (unsigned i = 0; i < KEYS; i += 9)
        model_touch(t->m, i);
    for (unsigned n = 0; n < 20; n++)
        model_put(t->m, (unsigned)random_below(&t->m->random, KEYS));
}

/* What the directory has come to: as it is, and rebuilt. */
static void check_copy(struct test *t, const char *from, bool rebuild)
{
    struct store_fixture copy = *t->f;

    snprintf(copy.dir, sizeof(copy.dir), "%.200s/copy", t->f->dir);
    remove_tree(copy.dir);
    assert_int_equal(mkdir(copy.dir, 0750), 0);
    copy_tree(from, store_path(&copy, ""));
    if (rebuild)
        remove_tree(store_path(&copy, "index"));
    t->m->f = &copy;
    assert_int_equal(store_open(&copy), 0);
    model_check(t->m);
    model_compact(&copy);
    model_check(t->m);
    store_shut(&copy);
    remove_tree(store_path(&copy, "index"));
    assert_int_equal(store_open(&copy), 0);
    model_check(t->m);
    store_shut(&copy);
    t->m->f = t->f;
}

/* How many calls there are, about. */
static void count_points(struct test *t)
{
    take_template(t);
    arm(FAIL, UINT16_MAX);
    assert_int_equal(store_open(t->f), 0);
    model_compact(t->f);
    t->points = atomic_load(&calls);
    arm(NOTHING, 0);
    store_shut(t->f);
    assert_true(t->points > 20);
}

static void begin(struct test *t, void **state)
{
    memset(t, 0, sizeof(*t));
    t->f = *state;
    t->m = calloc(1, sizeof(*t->m));
    t->before = calloc(1, sizeof(*t->before));
    assert_non_null(t->m);
    assert_non_null(t->before);
    t->m->random = random_seeded();
    log_set_level(LOG_ERROR + 1);
    sem_init(&stopped, 0, 0);
    sem_init(&go_on, 0, 0);
    replace_calls();
    make_template(t);
    count_points(t);
}

static void end(struct test *t)
{
    free(t->m);
    free(t->before);
}

static unsigned stride(const struct test *t)
{
    return getenv("TORTURE") != NULL || t->points < SAMPLE ? 1 : t->points / SAMPLE;
}

/* ---- the tests ---- */

/* Waits until compaction stands at its call. False: it has done all there is to do before. */
static bool wait_for_stop(struct store_fixture *f)
{
    struct logstore *ls = logstore_of(f->store);
    uint64_t looks = compact_looks(ls);

    while (sem_trywait(&stopped) != 0) {
        if (compact_looks(ls) > looks + 3)
            return false;
        compact_wake(ls);
        model_nap();
    }
    return true;
}

static void what_a_crash_leaves_of_a_compaction_is_a_whole_store(void **state)
{
    struct test t;
    char crashed[300];

    begin(&t, state);
    snprintf(crashed, sizeof(crashed), "%s/crashed", t.f->dir);
    for (unsigned n = (unsigned)random_below(&t.m->random, stride(&t)); n < t.points;
         n += stride(&t)) {
        bool reached;

        take_template(&t);
        arm(STOP, n);
        assert_int_equal(store_open(t.f), 0);
        write_beside(&t);
        reached = wait_for_stop(t.f);
        if (reached) {
            remove_tree(crashed);
            copy_tree(store_path(t.f, ""), crashed);
            atomic_store(&is_stopped, false);
            sem_post(&go_on);
        }
        arm(NOTHING, 0);
        model_check(t.m);
        store_shut(t.f);
        if (!reached)
            continue;
        print_message("stopped at call %u of %u\n", n, t.points);
        check_copy(&t, crashed, false);
        check_copy(&t, crashed, true);
    }
    end(&t);
}

static void a_compaction_goes_on_after_any_call_has_failed(void **state)
{
    static const int errors[] = {EIO, ENOSPC};
    struct test t;

    begin(&t, state);
    for (unsigned n = (unsigned)random_below(&t.m->random, stride(&t)); n < t.points;
         n += stride(&t)) {
        take_template(&t);
        failing_errno = errors[random_below(&t.m->random, 2)];
        print_message("call %u of %u fails: %s\n", n, t.points, strerror(failing_errno));
        arm(FAIL, n);
        assert_int_equal(store_open(t.f), 0);
        write_beside(&t);
        model_compact(t.f);
        arm(NOTHING, 0);
        model_check(t.m);
        store_shut(t.f);
        check_copy(&t, store_path(t.f, ""), true);
    }
    end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_a_crash_leaves_of_a_compaction_is_a_whole_store,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(a_compaction_goes_on_after_any_call_has_failed,
                                        store_fixture_setup, store_fixture_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
