/*
 * store_fixture.c - see store_fixture.h.
 */
#include "store_fixture.h"

#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"

static void run_command(char *const argv[])
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

void remove_tree(const char *path)
{
    run_command((char *[]){"rm", "-rf", (char *)(uintptr_t)path, NULL});
}

void copy_tree(const char *from, const char *to)
{
    run_command((char *[]){"cp", "-r", (char *)(uintptr_t)from, (char *)(uintptr_t)to, NULL});
}

int store_fixture_setup(void **state)
{
    struct store_fixture *f = calloc(1, sizeof(*f));
    const char *tmp = getenv("TMPDIR");

    assert_non_null(f);
    log_set_level(LOG_ERROR);
    snprintf(f->dir, sizeof(f->dir), "%s/ttstore-XXXXXX", tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(aio_pool_open(2, &f->pool), 0);
    f->config = (struct store_config){
        .sync = STORE_SYNC_ALWAYS,
        .sync_interval_ms = 1000,
        .segment_bytes = 4u << 20,
        .max_value_bytes = 64u << 20,
        .reader_ports = 2,
        .pool = f->pool,
    };
    *state = f;
    return 0;
}

int store_fixture_teardown(void **state)
{
    struct store_fixture *f = *state;

    if (f->store != NULL)
        store_shut(f);
    io_replace(NULL); /* when no thread of the store runs */
    aio_pool_close(f->pool);
    remove_tree(f->dir);
    free(f);
    return 0;
}

const char *store_path(struct store_fixture *f, const char *name)
{
    static char path[4][512];
    static unsigned next;
    char *out = path[next++ % 4];

    snprintf(out, sizeof(path[0]), "%s/data%s%s", f->dir, name[0] == '\0' ? "" : "/", name);
    return out;
}

int store_open(struct store_fixture *f)
{
    int rc;

    f->config.dir = store_path(f, "");
    rc = logstore_open(&f->config, 60000, &f->store);
    if (rc != 0) {
        f->store = NULL;
        return rc;
    }
    assert_int_equal(aio_open(f->pool, true, &f->aio), 0);
    assert_int_equal(store_port_open(f->store, f->aio, &f->port), 0);
    return 0;
}

void store_shut(struct store_fixture *f)
{
    store_settle(f);
    store_port_close(f->port);
    aio_close(f->aio);
    (void)store_close(f->store);
    f->store = NULL;
}

void store_settle(struct store_fixture *f)
{
    store_port_flush(f->port);
    while (store_port_pending(f->port) > 0) {
        struct pollfd fds[2] = {{.fd = store_port_fd(f->port), .events = POLLIN},
                                {.fd = aio_fd(f->aio), .events = POLLIN}};

        assert_true(poll(fds, 2, 60000) > 0);
        aio_run(f->aio);
        store_port_run(f->port);
        store_port_flush(f->port);
    }
}

/* ---- writes ---- */

static void write_done(struct store_write *w)
{
    struct write_result *r = w->owner;

    *r = (struct write_result){w->status, w->cas, w->reply, w->existed};
    store_write_free(w);
}

static struct write_result submit(struct store_fixture *f, struct store_write *w)
{
    struct write_result r = {.status = STORE_IO_ERROR};

    w->owner = &r;
    w->done = write_done;
    store_write_submit(w);
    store_settle(f);
    return r;
}

struct write_result write_key(struct store_fixture *f, enum store_op op, enum store_guard guard,
                              uint64_t cas, const char *key, struct slice value, int64_t expires_ms)
{
    struct store_write *w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), value.len);

    assert_non_null(w);
    w->op = op;
    w->guard = guard;
    w->guard_cas = cas;
    w->expires_ms = expires_ms;
    if (value.len > 0)
        memcpy(w->value, value.ptr, value.len);
    return submit(f, w);
}

struct write_result put(struct store_fixture *f, const char *key, const char *value)
{
    return write_key(f, STORE_PUT, STORE_ANY, 0, key, slice_str(value), 0);
}

struct write_result update(struct store_fixture *f, const char *key, store_compute *compute,
                           uint64_t argument)
{
    struct store_write *w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), 0);

    assert_non_null(w);
    w->op = STORE_UPDATE;
    w->compute = compute;
    w->argument[0] = argument;
    return submit(f, w);
}

struct write_result flush_at(struct store_fixture *f, int64_t at_ms)
{
    struct store_write *w = store_write_new(f->port, slice_of(NULL, 0), slice_of(NULL, 0), 0);

    assert_non_null(w);
    w->op = STORE_FLUSH;
    w->flush_at_ms = at_ms;
    return submit(f, w);
}

static void room_again(void *arg)
{
    *(bool *)arg = true;
}

struct write_result put_big(struct store_fixture *f, const char *key, const char *value, size_t len)
{
    struct store_spool *spool;
    struct store_write *w;
    bool room = true;

    assert_int_equal(store_spool_open(f->port, slice_str(key), slice_of(NULL, 0), len, room_again,
                                      &room, &spool),
                     0);
    for (size_t at = 0; at < len;) {
        size_t n = len - at < 50000 ? len - at : 50000;

        if (store_spool_full(spool)) {
            room = false;
            while (!room) {
                struct pollfd fd = {.fd = aio_fd(f->aio), .events = POLLIN};

                assert_true(poll(&fd, 1, 60000) > 0);
                aio_run(f->aio);
            }
        }
        assert_int_equal(store_spool_add(spool, slice_of(value + at, n)), 0);
        at += n;
    }
    w = store_write_new(f->port, slice_str(key), slice_of(NULL, 0), 0);
    assert_non_null(w);
    w->op = STORE_PUT;
    w->spool = spool;
    return submit(f, w);
}

enum store_status add_plus(struct store_write *w, const struct record *now,
                           struct store_change *out)
{
    if (now == NULL)
        return STORE_NOT_STORED;
    out->kind = CHANGE_EXTEND;
    out->flags = now->flags;
    out->expires_ms = now->expires_ms;
    out->pieces[1] = slice_str("+");
    w->reply = record_value_bytes(now);
    return STORE_OK;
}

enum store_status count_up(struct store_write *w, const struct record *now,
                           struct store_change *out)
{
    if (now == NULL)
        return STORE_NOT_FOUND;
    out->kind = CHANGE_COUNTER;
    out->delta = (int64_t)w->argument[0];
    return STORE_OK;
}

/* ---- reads ---- */

static void read_done(struct store_get *get)
{
    *(bool *)get->owner = true;
}

static char *copy_value(struct store_get *get, size_t *len)
{
    char *value = malloc(get->value_bytes + 1);

    assert_non_null(value);
    if (get->file_fd >= 0)
        assert_int_equal(io_read_full(get->file_fd, value, get->value_bytes, get->file_offset), 0);
    else if (get->value_bytes > 0)
        memcpy(value, get->rec.value.ptr, get->value_bytes);
    value[get->value_bytes] = '\0';
    if (len != NULL)
        *len = get->value_bytes;
    return value;
}

char *fetch(struct store_fixture *f, const char *key, size_t *len, enum store_status *status,
            struct record *rec)
{
    struct store_get *get = calloc(1, sizeof(*get));
    char *value = NULL;
    bool done = false;

    assert_non_null(get);
    get->key = slice_str(key);
    get->done = read_done;
    get->owner = &done;
    if (!store_get(f->port, get)) {
        store_settle(f);
        assert_true(done);
    }
    if (status != NULL)
        *status = get->status;
    if (get->status == STORE_OK) {
        /* What users of the interface rely on: a long value is held for them. */
        assert_true(get->hold != NULL || get->rec.value.len <= STORE_INLINE_MAX);
        value = copy_value(get, len);
        if (rec != NULL) {
            *rec = get->rec;
            rec->key = rec->attrs = rec->value = slice_of(NULL, 0);
        }
        store_get_release(get);
    }
    free(get);
    return value;
}

void check_value(struct store_fixture *f, const char *key, const char *value)
{
    char *got = fetch(f, key, NULL, NULL, NULL);

    if (value == NULL)
        assert_null(got);
    else {
        assert_non_null(got);
        assert_string_equal(got, value);
    }
    free(got);
}

unsigned count_files(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    unsigned n = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}
