/*
 * test_logstore_crash.c - a store whose process dies at any moment: after the restart it is what
 * the first writes made of it, all that were answered among them, and its count is exact.
 *
 * A child (this program again) runs a load that follows from a seed, and notes in shared memory
 * how many writes it has begun and how many were answered. It kills itself at a random moment:
 * when so many writes are answered, in a call of the file system (also half-way through a write),
 * or at a commit of the index; that may be during its own recovery too. Many rounds go over the
 * same store. CRASH_ROUNDS=n is for longer runs, TEST_SEED=n repeats one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/io.h"
#include "base/log.h"
#include "random.h"
#include "store_fixture.h"

#define KEYS 200
#define IN_FLIGHT 24
#define VALUE_HEAD 12 /* number of the write u64, length u32 */
#define FAR_FUTURE 4102444800000
#define ROUND_WRITES 2500 /* a child that lives so long stops cleanly */

/* The child's orders, and what it reports. */
struct shared {
    char dir[256]; /* of the fixture */
    uint64_t seed;
    uint64_t first; /* number of the first write */
    int sync;
    int64_t die_answered; /* < 0: never */
    int64_t die_call;
    int64_t die_commit;
    _Atomic uint64_t begun; /* writes with lower numbers were begun */
    _Atomic uint64_t answered;
};

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                     \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- the load, as it follows from the seed ---- */

enum action { ACT_PUT, ACT_PUT_BIG, ACT_DELETE, ACT_TOUCH, ACT_APPEND, ACT_ADD, ACT_FLUSH };

struct planned {
    enum action action;
    unsigned key;
    size_t len;
};

static struct planned plan(uint64_t seed, uint64_t n)
{
    static const enum action actions[] = {ACT_PUT,    ACT_PUT,   ACT_PUT,    ACT_PUT, ACT_DELETE,
                                          ACT_DELETE, ACT_TOUCH, ACT_APPEND, ACT_ADD, ACT_ADD};
    struct random r = {seed ^ n * 0x9E3779B97F4A7C15u};
    struct planned p = {.len = VALUE_HEAD};

    p.action = actions[random_below(&r, sizeof(actions) / sizeof(actions[0]))];
    p.key = (unsigned)random_below(&r, KEYS);
    if (random_below(&r, 150) == 0) {
        p.action = ACT_PUT_BIG;
        p.len = STORE_SPOOL_MIN + 1 + random_below(&r, 100000);
    } else if (random_below(&r, 400) == 0) {
        p.action = ACT_FLUSH;
    } else if (random_below(&r, 4) == 0) {
        p.len += random_below(&r, 100000);
    } else {
        p.len += random_below(&r, 300);
    }
    return p;
}

/* Some are long. */
static void key_text(unsigned i, char out[600])
{
    size_t lead = i % 16 == 0 ? 495 : 0;

    memset(out, 'k', lead);
    snprintf(out + lead, 600 - lead, "%u", i);
}

static void make_value(char *out, uint64_t n, size_t len)
{
    put_u64le((unsigned char *)out, n);
    put_u32le((unsigned char *)out + 8, (uint32_t)len);
    for (size_t i = VALUE_HEAD; i < len; i++)
        out[i] = (char)(n * 7 + i * 13);
}

/* ---- what it makes of the keys ---- */

struct key_model {
    bool present;
    uint64_t n; /* the put */
    size_t len; /* with what was appended */
    int64_t expires_ms;
    int64_t sum;
};

static void apply(struct key_model *keys, uint64_t seed, uint64_t n)
{
    struct planned p = plan(seed, n);
    struct key_model *k = &keys[p.key];

    if (p.action == ACT_FLUSH)
        memset(keys, 0, KEYS * sizeof(*keys));
    else if (p.action == ACT_PUT || p.action == ACT_PUT_BIG)
        *k = (struct key_model){.present = true, .n = n, .len = p.len};
    else if (p.action == ACT_DELETE)
        *k = (struct key_model){0};
    else if (!k->present)
        return;
    else if (p.action == ACT_TOUCH)
        k->expires_ms = FAR_FUTURE + (int64_t)n;
    else if (p.action == ACT_APPEND) {
        k->len++;
        k->sum = 0; /* a put takes the place of the counter */
    } else
        k->sum += (int64_t)n;
}

/* ---- the child: dying ---- */

static struct shared *shared;

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static _Atomic int64_t calls_made;
static _Atomic int64_t commits_made;

static bool is_last_call(void)
{
    return atomic_fetch_add(&calls_made, 1) == shared->die_call;
}

static void maybe_die(void)
{
    if (is_last_call())
        die();
}

static int dying_open(const char *path, int flags, mode_t mode)
{
    maybe_die();
    return open(path, flags, mode);
}

static ssize_t dying_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (is_last_call()) {
        (void)!pwrite(fd, iov[0].iov_base, iov[0].iov_len / 2, offset);
        die();
    }
    return pwritev(fd, iov, count, offset);
}

static int dying_fdatasync(int fd)
{
    maybe_die();
    return fdatasync(fd);
}

static int dying_fsync(int fd)
{
    maybe_die();
    return fsync(fd);
}

static int dying_ftruncate(int fd, off_t length)
{
    maybe_die();
    return ftruncate(fd, length);
}

static int dying_rename(const char *from, const char *to)
{
    maybe_die();
    return rename(from, to);
}

static int dying_unlink(const char *path)
{
    maybe_die();
    return unlink(path);
}

/* In the place of the library's. Even numbers die before, odd ones after. */
int mdb_txn_commit(MDB_txn *txn)
{
    static int (*commit)(MDB_txn *);
    int64_t last = shared == NULL ? -1 : shared->die_commit;
    int64_t number = atomic_fetch_add(&commits_made, 1);
    int rc;

    if (commit == NULL)
        *(void **)&commit = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (last >= 0 && last % 2 == 0 && number == last / 2)
        die();
    rc = commit(txn);
    if (last >= 0 && last % 2 == 1 && number == last / 2)
        die();
    return rc;
}

/* ---- the child: the load ---- */

static void write_done(struct store_write *w)
{
    uint64_t answered = atomic_fetch_add(&shared->answered, 1) + 1;

    CHECK(w->status == STORE_OK || w->status == STORE_NOT_FOUND || w->status == STORE_NOT_STORED);
    store_write_free(w);
    if ((int64_t)(answered - shared->first) == shared->die_answered)
        die();
}

static void fill_request(struct store_write *w, const struct planned *p, uint64_t n)
{
    switch (p->action) {
    case ACT_PUT:
    case ACT_PUT_BIG: make_value(w->value, n, p->len); break;
    case ACT_DELETE: w->op = STORE_DELETE; break;
    case ACT_FLUSH: w->op = STORE_FLUSH; break;
    case ACT_TOUCH:
        w->op = STORE_TOUCH;
        w->expires_ms = FAR_FUTURE + (int64_t)n;
        break;
    case ACT_APPEND:
        w->op = STORE_UPDATE;
        w->compute = add_plus;
        break;
    case ACT_ADD:
        w->op = STORE_UPDATE;
        w->compute = count_up;
        w->argument[0] = n;
        break;
    }
}

/* One after the other: a spooled value may be overtaken by what comes behind it. */
static void write_big(struct store_fixture *f, const char *key, uint64_t n, size_t len)
{
    char *value = malloc(len);

    CHECK(value != NULL);
    make_value(value, n, len);
    store_settle(f);
    CHECK(put_big(f, key, value, len).status == STORE_OK);
    free(value);
    atomic_fetch_add(&shared->answered, 1);
}

/* True if the key's value lies in a file of its own before write n, or may: a file is extended
 * beside the writes of other keys, which would be seen before it. */
static bool may_be_big(uint64_t n, unsigned key)
{
    while (n-- > 0) {
        struct planned p = plan(shared->seed, n);

        if (p.action == ACT_FLUSH)
            return false;
        if (p.key == key && p.action != ACT_TOUCH && p.action != ACT_APPEND && p.action != ACT_ADD)
            return p.action == ACT_PUT_BIG;
    }
    return false;
}

static void write_one(struct store_fixture *f, uint64_t n)
{
    struct planned p = plan(shared->seed, n);
    bool has_value = p.action == ACT_PUT;
    bool is_alone = p.action == ACT_APPEND && may_be_big(n, p.key);
    struct store_write *w;
    char key[600];

    key_text(p.key, key);
    atomic_store(&shared->begun, n + 1);
    if (p.action == ACT_PUT_BIG) {
        write_big(f, key, n, p.len);
        return;
    }
    w = store_write_new(f->port, slice_str(p.action == ACT_FLUSH ? "" : key), slice_of(NULL, 0),
                        has_value ? p.len : 0);
    CHECK(w != NULL);
    fill_request(w, &p, n);
    w->done = write_done;
    store_write_submit(w);
    store_port_flush(f->port);
    if (is_alone)
        store_settle(f);
    while (store_port_pending(f->port) >= IN_FLIGHT) {
        struct pollfd fd = {.fd = store_port_fd(f->port), .events = POLLIN};

        CHECK(poll(&fd, 1, 60000) > 0);
        store_port_run(f->port);
    }
}

static struct shared *map_shared(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    void *p;

    CHECK(fd >= 0 && ftruncate(fd, sizeof(struct shared)) == 0);
    p = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    close(fd);
    return p;
}

static void configure(struct store_fixture *f, int sync)
{
    f->config.sync = (enum store_sync)sync;
    f->config.sync_interval_ms = 5;
    f->config.checkpoint_entries = 100;
}

static int run_child(const char *shared_path)
{
    struct io_calls calls = io_system_calls;
    struct store_fixture f = {
        .config = {.segment_bytes = 4u << 20, .max_value_bytes = 64u << 20, .reader_ports = 2}};

    shared = map_shared(shared_path);
    calls.open = dying_open;
    calls.pwritev = dying_pwritev;
    calls.fdatasync = dying_fdatasync;
    calls.fsync = dying_fsync;
    calls.ftruncate = dying_ftruncate;
    calls.rename = dying_rename;
    calls.unlink = dying_unlink;
    io_replace(&calls);
    log_set_level(LOG_ERROR);
    snprintf(f.dir, sizeof(f.dir), "%s", shared->dir);
    CHECK(aio_pool_open(2, &f.pool) == 0);
    f.config.pool = f.pool;
    configure(&f, shared->sync);
    CHECK(store_open(&f) == 0);
    for (uint64_t n = shared->first; n < shared->first + ROUND_WRITES; n++)
        write_one(&f, n);
    store_settle(&f);
    store_shut(&f);
    aio_pool_close(f.pool);
    return 0;
}

/* ---- the parent ---- */

static void start_child(const char *shared_path)
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        setenv("CRASH_CHILD", shared_path, 1);
        execl("/proc/self/exe", "test_logstore_crash", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        assert_int_equal(WTERMSIG(status), SIGKILL);
    else
        assert_int_equal(WEXITSTATUS(status), 0);
}

static void give_orders(struct shared *s, struct random *r)
{
    s->die_answered = s->die_call = s->die_commit = -1;
    switch (random_below(r, 8)) {
    case 0:
    case 1:
    case 2: s->die_answered = (int64_t)random_below(r, ROUND_WRITES); break;
    case 3: s->die_call = (int64_t)random_below(r, 30); break; /* most probably in recovery */
    case 4:
    case 5: s->die_call = (int64_t)random_below(r, 1500); break;
    case 6: s->die_commit = (int64_t)random_below(r, 40); break;
    default: s->die_commit = (int64_t)random_below(r, 6); break;
    }
}

/* What the store shows of a key; a value is whole or the test fails. */
static struct key_model look(struct store_fixture *f, unsigned i)
{
    struct key_model k = {0};
    enum store_status status;
    struct record rec;
    char key[600];
    char *want;
    size_t put_len;
    char *got;

    key_text(i, key);
    got = fetch(f, key, &k.len, &status, &rec);
    assert_true(status == STORE_OK || status == STORE_NOT_FOUND);
    if (got == NULL)
        return k;
    assert_true(k.len >= VALUE_HEAD);
    k.present = true;
    k.n = get_u64le((unsigned char *)got);
    k.expires_ms = rec.expires_ms;
    for (unsigned s = 0; s < rec.slot_count; s++)
        k.sum += rec.slots[s].sum;
    put_len = get_u32le((unsigned char *)got + 8);
    assert_true(put_len >= VALUE_HEAD && put_len <= k.len);
    want = malloc(k.len);
    assert_non_null(want);
    make_value(want, k.n, put_len);
    memset(want + put_len, '+', k.len - put_len);
    assert_memory_equal(got, want, k.len);
    free(want);
    free(got);
    return k;
}

static bool same_keys(const struct key_model *a, const struct key_model *b)
{
    for (unsigned i = 0; i < KEYS; i++)
        if (a[i].present != b[i].present || a[i].n != b[i].n || a[i].len != b[i].len ||
            a[i].expires_ms != b[i].expires_ms || a[i].sum != b[i].sum)
            return false;
    return true;
}

/* `keys` is the model before the round's first write; becomes that after its last surviving one,
 * whose number + 1 is returned. */
static uint64_t check_store(struct store_fixture *f, struct shared *s, struct key_model *keys)
{
    uint64_t begun = atomic_load(&s->begun);
    uint64_t n = s->first;
    struct key_model seen[KEYS];
    uint64_t count = 0;

    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < KEYS; i++) {
        seen[i] = look(f, i);
        count += seen[i].present;
    }
    assert_int_equal(store_count(f->store), count);
    store_shut(f);
    while (n < atomic_load(&s->answered))
        apply(keys, s->seed, n++);
    while (!same_keys(seen, keys)) {
        assert_true(n < begun); /* else an answered write is missing, or half of one is there */
        apply(keys, s->seed, n++);
    }
    return n;
}

static unsigned rounds(void)
{
    const char *text = getenv("CRASH_ROUNDS");

    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : 12;
}

static void run(struct store_fixture *f, enum store_sync sync)
{
    struct key_model keys[KEYS] = {0};
    struct random random = random_seeded();
    struct store_fixture copy;
    char shared_path[300];
    struct shared *s;

    snprintf(shared_path, sizeof(shared_path), "%s/shared", f->dir);
    s = map_shared(shared_path);
    snprintf(s->dir, sizeof(s->dir), "%s", f->dir);
    s->seed = random_u64(&random);
    s->sync = (int)sync;
    configure(f, (int)sync);
    copy = *f;
    snprintf(copy.dir, sizeof(copy.dir), "%.200s/copy", f->dir);
    for (unsigned round = 0; round < rounds(); round++) {
        atomic_store(&s->begun, s->first);
        atomic_store(&s->answered, s->first);
        give_orders(s, &random);
        start_child(shared_path);
        if (random_below(&random, 2)) {
            s->first = check_store(f, s, keys);
            continue;
        }
        /* What the crash left is left to the next child. */
        remove_tree(copy.dir);
        assert_int_equal(mkdir(copy.dir, 0700), 0);
        copy_tree(store_path(f, ""), store_path(&copy, ""));
        s->first = check_store(&copy, s, keys);
    }
    munmap(s, sizeof(*s));
}

static void every_answered_write_outlives_a_kill_under_always(void **state)
{
    run(*state, STORE_SYNC_ALWAYS);
}

static void every_answered_write_outlives_a_kill_under_interval(void **state)
{
    run(*state, STORE_SYNC_INTERVAL);
}

static void every_answered_write_outlives_a_kill_under_os(void **state)
{
    run(*state, STORE_SYNC_OS);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_answered_write_outlives_a_kill_under_always),
        T(every_answered_write_outlives_a_kill_under_interval),
        T(every_answered_write_outlives_a_kill_under_os),
    };
    const char *child = getenv("CRASH_CHILD");

    if (child != NULL)
        return run_child(child);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
