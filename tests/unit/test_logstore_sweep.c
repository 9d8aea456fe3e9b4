/*
 * test_logstore_sweep.c - one call of the file system (LMDB's too), or for memory, fails, each in its
 * turn, or all from one on, from the start to the stop, while values are put, appended to, counted,
 * touched, deleted, flushed, spooled, checkpointed, compacted, and segments begun: what was answered is there
 * after the next start, what was refused is not, every value is whole, and the count is exact; the
 * same from the log alone.
 *
 * A short run takes a sample of the calls, by TEST_SEED; with TORTURE set it takes all.
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"
#include "random.h"
#include "store/logstore/compact.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

/* ---- calls that fail ---- */

/* Outlives a test that fails. */
static struct io_calls calls;

static _Atomic int calls_left = -1; /* until one fails; < 0: none does */
static _Atomic bool fails_on;       /* not one call only, but all from then on */
static _Atomic bool is_failing;
static int failing_errno;

static bool fails_now(void)
{
    bool now = atomic_load(&calls_left) >= 0 && atomic_fetch_sub(&calls_left, 1) == 0;

    if (now && atomic_load(&fails_on))
        atomic_store(&is_failing, true);
    if (!now && !atomic_load(&is_failing))
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

static int maybe_fsync(int fd)
{
    return fails_now() ? -1 : fsync(fd);
}

static int maybe_rename(const char *from, const char *to)
{
    return fails_now() ? -1 : rename(from, to);
}

static int maybe_unlink(const char *path)
{
    return fails_now() ? -1 : unlink(path);
}

static int maybe_mkdir(const char *path, mode_t mode)
{
    return fails_now() ? -1 : mkdir(path, mode);
}

static int maybe_ftruncate(int fd, off_t length)
{
    return fails_now() ? -1 : ftruncate(fd, length);
}

/* In the place of the library's: LMDB calls these by itself, some under the names that they have
 * without large files. */
int fdatasync(int fd)
{
    return fails_now() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int index_ftruncate(int fd, off_t length) __asm__("ftruncate");
int index_ftruncate(int fd, off_t length)
{
    return fails_now() ? -1 : (int)syscall(SYS_ftruncate, fd, length);
}

ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset) __asm__("pwrite");
ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return fails_now() ? -1 : syscall(SYS_pwrite64, fd, data, len, offset);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    return fails_now() ? -1 : syscall(SYS_writev, fd, iov, count);
}

static void replace_all_calls(void)
{
    calls = io_system_calls;
    calls.open = maybe_open;
    calls.pread = maybe_pread;
    calls.pwritev = maybe_pwritev;
    calls.fsync = maybe_fsync;
    calls.ftruncate = maybe_ftruncate;
    calls.rename = maybe_rename;
    calls.unlink = maybe_unlink;
    calls.mkdir = maybe_mkdir;
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
    bool is_short = !is_test_thread && atomic_load(&allocations_left) >= 0 &&
                    atomic_fetch_sub(&allocations_left, 1) == 0;

    if (is_short)
        errno = ENOMEM;
    return is_short;
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

/* ---- what is known of a key ---- */

/* A key's value is its letter, so many times; a counter has a sum beside it. */
struct state {
    bool present;
    bool may_count; /* expired: it counts until it is swept */
    size_t len;
    int64_t sum;
    int64_t expires_ms;
};

enum { KEYS = 12, STATES_MAX = 32 };

/* What it may be, as far as the answers tell. */
struct key {
    struct state may[STATES_MAX];
    unsigned count;
};

static const char *const names[KEYS] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "5", "t", "u"};

static bool same_state(const struct state *a, const struct state *b)
{
    return a->present == b->present && (!a->present || (a->len == b->len && a->sum == b->sum &&
                                                        a->expires_ms == b->expires_ms));
}

static bool may_be(const struct key *k, const struct state *s)
{
    for (unsigned i = 0; i < k->count; i++)
        if (same_state(&k->may[i], s))
            return true;
    return false;
}

static void add_state(struct key *k, const struct state *s)
{
    if (may_be(k, s))
        return;
    assert_true(k->count < STATES_MAX);
    k->may[k->count++] = *s;
}

/* ---- the load ---- */

enum action { SET, SPOOL, APPEND, INCR, TOUCH, EXPIRE, DELETE, FLUSH, CHECKPOINT, COMPACT };

struct step {
    enum action action;
    unsigned key;
    size_t len;
};

#define LATER 4102444800000 /* milliseconds */

static struct state state_after(const struct step *step, const struct state *before)
{
    struct state after = *before;

    switch (step->action) {
    case SET:
    case SPOOL: return (struct state){.present = true, .len = step->len};
    case APPEND: after.len++; break;
    case INCR: after.sum++; break;
    case TOUCH: after.expires_ms = LATER; break;
    case EXPIRE: return (struct state){.may_count = before->present};
    case DELETE:
    case FLUSH: return (struct state){.present = false};
    case CHECKPOINT:
    case COMPACT: break;
    }
    return after;
}

/* What the answer says of the key: a refusal changes nothing, unless it is that of a failed sync. */
static void learn(struct key *k, const struct step *step, enum store_status status)
{
    struct key before = *k;
    static const struct state absent;
    bool by_chance = status == STORE_READ_ONLY;

    if (status == STORE_NOT_FOUND || status == STORE_NOT_STORED) {
        assert_true(may_be(k, &absent));
        k->count = 1;
        k->may[0] = absent;
    } else if (status == STORE_OK || by_chance) {
        k->count = by_chance ? k->count : 0;
        for (unsigned i = 0; i < before.count; i++) {
            struct state after = state_after(step, &before.may[i]);

            add_state(k, &after);
        }
    } else {
        assert_true(status == STORE_NO_SPACE || status == STORE_NO_MEMORY ||
                    status == STORE_IO_ERROR);
    }
}

static enum store_status append_one(struct store_write *w, const struct record *now,
                                    struct store_change *out)
{
    if (now == NULL)
        return STORE_NOT_STORED;
    out->kind = CHANGE_EXTEND;
    out->expires_ms = now->expires_ms;
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

/* `name` as it begins its line: "\nNAME ". */
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

static uint64_t checkpoints(struct store_fixture *f)
{
    return figure(f, "\ncheckpoints ");
}

/* Waits until the keys are in the index, or something has failed. */
static void wait_for_checkpoint(struct store_fixture *f, _Atomic int *left, bool faultless)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    uint64_t before = checkpoints(f);

    while ((faultless || atomic_load(left) >= 0) && checkpoints(f) == before)
        nanosleep(&moment, NULL);
}

/* Waits until everything is in the index and nothing is left to be compacted, or something has
 * failed. */
static void wait_for_compaction(struct store_fixture *f, _Atomic int *left, bool faultless)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    struct logstore *ls = logstore_of(f->store);
    uint64_t seen = compact_looks(ls);
    unsigned quiet = 0;

    compact_now(ls);
    while ((faultless || atomic_load(left) >= 0) && quiet < 3) {
        uint64_t looks = compact_looks(ls);

        if (looks != seen)
            quiet = figure(f, "\ncheckpoint_log_bytes ") == 0 &&
                            figure(f, "\ncompaction_debt_bytes ") == 0 &&
                            figure(f, "\ncompaction_running ") == 0
                        ? quiet + 1
                        : 0;
        seen = looks;
        compact_wake(ls);
        nanosleep(&moment, NULL);
    }
}

static enum store_status run_step(struct store_fixture *f, const struct step *step)
{
    const char *key = names[step->key];

    switch (step->action) {
    case SET:
    case SPOOL: return put_letters(f, key, step->len);
    case APPEND: return update(f, key, append_one, 0).status;
    case INCR: return update(f, key, count_up, 1).status;
    case TOUCH:
        return write_key(f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0), LATER).status;
    case EXPIRE: return write_key(f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0), 1).status;
    case DELETE: return write_key(f, STORE_DELETE, STORE_ANY, 0, key, slice_of(NULL, 0), 0).status;
    case FLUSH: return flush_at(f, 0).status;
    case CHECKPOINT:
    case COMPACT: break;
    }
    return STORE_OK;
}

static void run_steps(struct store_fixture *f, struct key *keys, const struct step *steps,
                      unsigned count, _Atomic int *left)
{
    for (unsigned i = 0; i < count; i++) {
        const struct step *step = &steps[i];
        enum store_status status = run_step(f, step);

        if (step->action == CHECKPOINT)
            wait_for_checkpoint(f, left, left == NULL);
        else if (step->action == COMPACT)
            wait_for_compaction(f, left, left == NULL);
        else if (step->action == FLUSH)
            for (unsigned k = 0; k < KEYS; k++)
                learn(&keys[k], step, status);
        else
            learn(&keys[step->key], step, status);
    }
}

#define BIG STORE_SPOOL_MIN

/* The store before. */
static const struct step old_steps[] = {
    {SET, 0, 10},  {SET, 1, 30000}, {SET, 2, 10}, {SPOOL, 3, BIG + 1}, {SET, 4, BIG},
    {SET, 5, BIG}, {SET, 9, 1},     {INCR, 9, 0}, {SET, 10, 10},       {SET, 11, 10},
};

static const struct step new_steps[] = {
    {SET, 0, 20},       {SET, 1, 10},   {SPOOL, 2, BIG + 5}, {APPEND, 3, 0},      {SET, 4, BIG},
    {SET, 5, BIG - 1},  {SET, 6, 5},    {INCR, 9, 0},        {TOUCH, 10, 0},      {DELETE, 11, 0},
    {CHECKPOINT, 0, 0}, {INCR, 9, 0},   {APPEND, 10, 0},     {SET, 7, BIG},       {SET, 8, BIG},
    {EXPIRE, 6, 0},     {DELETE, 1, 0}, {SET, 4, 9},         {SET, 7, 9},         {COMPACT, 0, 0},
    {APPEND, 2, 0},     {SET, 11, 3},   {TOUCH, 2, 0},       {SPOOL, 3, BIG + 9},
};

static const struct step flush_steps[] = {
    {SET, 0, 20},       {SPOOL, 2, BIG + 5}, {FLUSH, 0, 0},   {APPEND, 3, 0}, {SET, 1, 7},
    {SET, 9, 1},        {INCR, 9, 0},        {TOUCH, 10, 0},  {SET, 4, BIG},  {SET, 5, BIG},
    {CHECKPOINT, 0, 0}, {TOUCH, 1, 0},       {SET, 7, BIG},   {SET, 8, BIG},  {DELETE, 4, 0},
    {SET, 5, 7},        {SET, 7, 7},         {COMPACT, 0, 0}, {SET, 0, 3},
};

/* ---- what is found ---- */

static struct state state_of(struct store_fixture *f, const char *name, bool *readable)
{
    enum store_status status;
    struct record rec;
    size_t len = 0;
    char *got = fetch(f, name, &len, &status, &rec);
    struct state s = {.present = got != NULL, .len = len};

    *readable = status == STORE_OK || status == STORE_NOT_FOUND;
    for (size_t n = 0; n < len; n++)
        if (got[n] != name[0])
            fail_msg("key %s, byte %zu", name, n);
    if (got != NULL) {
        for (unsigned i = 0; i < rec.slot_count; i++)
            s.sum += rec.slots[i].sum;
        s.expires_ms = rec.expires_ms;
    }
    free(got);
    return s;
}

static bool may_have_expired(const struct key *k)
{
    for (unsigned i = 0; i < k->count; i++)
        if (k->may[i].may_count)
            return true;
    return false;
}

/* Every key is in a state that it may be in. `exact`: that is the one from now on. */
static void check_keys(struct store_fixture *f, struct key *keys, bool exact)
{
    uint64_t present = 0;
    uint64_t expired = 0;

    for (unsigned i = 0; i < KEYS; i++) {
        bool readable;
        struct state s = state_of(f, names[i], &readable);

        if (!readable)
            fail_msg("key %s cannot be read", names[i]);
        if (!may_be(&keys[i], &s))
            fail_msg("key %s: present=%d len=%zu sum=%lld expires=%lld", names[i], s.present, s.len,
                     (long long)s.sum, (long long)s.expires_ms);
        present += s.present;
        s.may_count = !s.present && may_have_expired(&keys[i]);
        expired += s.may_count;
        if (exact) {
            keys[i].count = 1;
            keys[i].may[0] = s;
        }
    }
    if (exact)
        assert_in_range(store_count(f->store), present, present + expired);
}

/* ---- one life after the other ---- */

struct sweep {
    struct store_fixture *f;
    struct key old[KEYS];
    char template_dir[300];
    _Atomic int *left;
};

static void begin_sweep(struct sweep *s, struct store_fixture *f, _Atomic int *left)
{
    static const struct state absent;

    s->f = f;
    s->left = left;
    log_set_level(LOG_ERROR + 1);
    f->config.checkpoint_entries = 5;
    snprintf(s->template_dir, sizeof(s->template_dir), "%s/template", f->dir);
    for (unsigned i = 0; i < KEYS; i++) {
        s->old[i].count = 0;
        add_state(&s->old[i], &absent);
    }
    assert_int_equal(store_open(f), 0);
    run_steps(f, s->old, old_steps, sizeof(old_steps) / sizeof(old_steps[0]), NULL);
    check_keys(f, s->old, true);
    store_shut(f);
    copy_tree(store_path(f, ""), s->template_dir);
    is_test_thread = true;
}

/* The failure is over; the store opens, and again without its index. */
static void check_afterwards(struct store_fixture *f, struct key *keys, bool rebuild)
{
    assert_int_equal(store_open(f), 0);
    check_keys(f, keys, true);
    store_shut(f);
    if (!rebuild)
        return;
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    check_keys(f, keys, true);
    store_shut(f);
}

/* One life in which number `nth` of what `left` counts fails, and what comes after it. True if there
 * were so many. */
static bool one_life(struct sweep *s, int nth, bool with_flush, bool rebuild)
{
    struct store_fixture *f = s->f;
    struct key keys[KEYS];
    bool reached;

    remove_tree(store_path(f, ""));
    copy_tree(s->template_dir, store_path(f, ""));
    memcpy(keys, s->old, sizeof(keys));
    atomic_store(s->left, nth);
    if (store_open(f) == 0) {
        if (with_flush)
            run_steps(f, keys, flush_steps, sizeof(flush_steps) / sizeof(flush_steps[0]), s->left);
        else
            run_steps(f, keys, new_steps, sizeof(new_steps) / sizeof(new_steps[0]), s->left);
        if (atomic_load(s->left) < 0 && !atomic_load(&is_failing))
            check_keys(f, keys, false); /* whatever has failed, reads go on */
        store_shut(f);
    }
    reached = atomic_exchange(s->left, -1) < 0;
    atomic_store(&is_failing, false);
    check_afterwards(f, keys, rebuild);
    return reached;
}

/* Of every so many calls one fails in a short run. */
enum { STRIDE = 9 };

static void sweep(struct store_fixture *f, enum store_sync sync, _Atomic int *left,
                  const int *errors, unsigned error_count)
{
    struct random random = random_seeded();
    unsigned stride = getenv("TORTURE") != NULL ? 1 : STRIDE;
    struct sweep *s = calloc(1, sizeof(*s));
    int nth = (int)random_below(&random, stride);
    bool reached = true;

    assert_non_null(s);
    f->config.sync = sync;
    begin_sweep(s, f, left);
    for (; reached; nth += (int)stride) {
        bool with_flush = random_below(&random, 3) == 0;

        failing_errno = errors[random_below(&random, error_count)];
        atomic_store(&fails_on, left == &calls_left && random_below(&random, 3) == 0);
        reached = one_life(s, nth, with_flush, random_below(&random, 2) == 0);
    }
    assert_true(nth > 50);
    free(s);
}

static const int disk_errors[] = {ENOSPC, EDQUOT, EIO, EMFILE};

static void no_failing_call_costs_an_answered_write_under_always(void **state)
{
    replace_all_calls();
    sweep(*state, STORE_SYNC_ALWAYS, &calls_left, disk_errors, 4);
}

static void no_failing_call_costs_an_answered_write_under_interval(void **state)
{
    replace_all_calls();
    sweep(*state, STORE_SYNC_INTERVAL, &calls_left, disk_errors, 4);
}

static void no_failing_call_costs_an_answered_write_under_os(void **state)
{
    replace_all_calls();
    sweep(*state, STORE_SYNC_OS, &calls_left, disk_errors, 4);
}

static void no_memory_missing_costs_an_answered_write(void **state)
{
    if (!OWN_ALLOCATOR)
        sweep(*state, STORE_SYNC_OS, &allocations_left, disk_errors, 1);
}

/* ---- calls that are interrupted, and transfers that end early ---- */

static _Atomic unsigned transfers;

static int interrupted_open(const char *path, int flags, mode_t mode)
{
    if (atomic_fetch_add(&transfers, 1) % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return open(path, flags, mode);
}

/* Every third is interrupted, every third is short. */
static bool interrupts(size_t *len)
{
    unsigned n = atomic_fetch_add(&transfers, 1) % 3;

    if (n == 1 && *len > 1)
        *len /= 2;
    errno = EINTR;
    return n == 0;
}

static ssize_t short_pread(int fd, void *buf, size_t len, off_t offset)
{
    return interrupts(&len) ? -1 : pread(fd, buf, len, offset);
}

static ssize_t short_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec first = iov[0];

    if (interrupts(&first.iov_len))
        return -1;
    return first.iov_len < iov[0].iov_len ? pwritev(fd, &first, 1, offset)
                                          : pwritev(fd, iov, count, offset);
}

static int interrupted_ftruncate(int fd, off_t length)
{
    size_t none = 0;

    return interrupts(&none) ? -1 : ftruncate(fd, length);
}

/* Every step succeeds: each key is known exactly. */
static void run_all_without_refusal(struct sweep *s, bool with_flush)
{
    struct key keys[KEYS];

    memcpy(keys, s->old, sizeof(keys));
    if (with_flush)
        run_steps(s->f, keys, flush_steps, sizeof(flush_steps) / sizeof(flush_steps[0]), NULL);
    else
        run_steps(s->f, keys, new_steps, sizeof(new_steps) / sizeof(new_steps[0]), NULL);
    for (unsigned i = 0; i < KEYS; i++)
        assert_int_equal(keys[i].count, 1);
    assert_true(figure(s->f, "\ncompacted_segments ") > 0);
    check_keys(s->f, keys, true);
    store_shut(s->f);
    check_afterwards(s->f, keys, true);
}

static void interrupted_and_short_calls_are_finished(void **state)
{
    struct sweep *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    begin_sweep(s, *state, &calls_left);
    calls = io_system_calls;
    calls.open = interrupted_open;
    calls.pread = short_pread;
    calls.pwritev = short_pwritev;
    calls.ftruncate = interrupted_ftruncate;
    io_replace(&calls);
    for (int round = 0; round < 2; round++) {
        remove_tree(store_path(s->f, ""));
        copy_tree(s->template_dir, store_path(s->f, ""));
        assert_int_equal(store_open(s->f), 0);
        run_all_without_refusal(s, round == 1);
    }
    free(s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(no_failing_call_costs_an_answered_write_under_always),
        T(no_failing_call_costs_an_answered_write_under_interval),
        T(no_failing_call_costs_an_answered_write_under_os),
        T(no_memory_missing_costs_an_answered_write),
        T(interrupted_and_short_calls_are_finished),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
