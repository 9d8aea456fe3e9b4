/*
 * ttctl_store.c - `ttctl rebuild-index` and `ttctl compact`: a data directory opened as its store.
 *
 * Used by:  the table of commands.
 * Threads:  the engine's own; the command waits.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <time.h>

#include "base/aio.h"
#include "base/num.h"
#include "store/logstore/index.h"
#include "store/logstore/walk.h"
#include "store/store.h"
#include "tools/ttctl_commands.h"

const char rebuild_index_more[] =
    "Removes the index of a stopped server's data directory and makes it anew from\n"
    "the log. A start does the same when there is none, but a server that has much\n"
    "to read would keep its clients waiting. Progress is told on the standard error.\n";

const char compact_more[] =
    "Asks the running server, or with DIR a stopped server's data directory, to\n"
    "rewrite all segments that hold more than a few percent of dead bytes, and waits\n"
    "for the end. A server compacts by itself as well, but later and slower.\n";

/* A rebuild lets nobody wait who would have to be told. */
#define FOREVER_MS INT64_C(1000000000)
#define POLL_MS 100

/* ---- a directory ---- */

struct opened {
    struct aio_pool *pool;
    struct store *store;
};

/* The directory has a store, and nobody uses it. The lock is given back: the engine takes its own.
 * 0 or -1 (said). */
static int check_directory(const char *dir)
{
    struct walk_options options = {.lock = WALK_ALONE};
    char why[WALK_WHY_MAX];
    struct walk *w;
    bool good;

    if (walk_open(dir, &options, &w, why) != 0) {
        command_fail("%s", why);
        return -1;
    }
    good = w->has_identity;
    walk_close(w);
    if (!good)
        command_fail("%s/STORE cannot be read (see ttctl repair)", dir);
    return good ? 0 : -1;
}

/* 0, or -errno (said). */
static int open_store(const char *dir, bool no_compaction, struct opened *out)
{
    struct store_config config = {
        .dir = dir,
        .sync = STORE_SYNC_ALWAYS,
        .sync_interval_ms = 1000,
        .segment_bytes = UINT64_C(64) << 20,
        .max_value_bytes = RECORD_VALUE_MAX,
        .reader_ports = 1,
        .no_compaction = no_compaction,
    };
    int rc = aio_pool_open(2, &out->pool);

    if (rc != 0) {
        command_fail("cannot start threads: %s", strerror(-rc));
        return rc;
    }
    config.pool = out->pool;
    rc = logstore_open(&config, FOREVER_MS, &out->store); /* says why not */
    if (rc != 0)
        aio_pool_close(out->pool);
    return rc;
}

/* 0 or -errno, said by the engine. */
static int close_store(struct opened *o)
{
    int rc = store_close(o->store);

    aio_pool_close(o->pool);
    return rc;
}

/* ---- rebuild-index ---- */

int run_rebuild_index(struct ctl *ctl, int argc, char *const argv[])
{
    const char *dir;
    char path[PATH_MAX];
    struct opened o;
    uint64_t count;
    int status = command_arguments("rebuild-index", argc, argv, NULL, 0, &dir, 1, 1);
    int rc;

    (void)ctl;
    if (status != 0)
        return status;
    if (check_directory(dir) != 0)
        return CTL_FAILED;
    if (snprintf(path, sizeof(path), "%s/index", dir) >= (int)sizeof(path))
        return command_fail("the path %s is too long", dir);
    rc = index_remove(path);
    if (rc != 0)
        return command_fail("cannot remove the index in %s: %s", path, strerror(-rc));
    if (open_store(dir, true, &o) != 0)
        return CTL_FAILED;
    count = store_count(o.store);
    if (close_store(&o) != 0)
        return CTL_FAILED;
    printf("the index is made, records: %" PRIu64 "\n", count);
    return command_finish_output();
}

/* ---- compact ---- */

/* The number behind "NAME " at the start of a line; false: there is none. */
static bool find_figure(struct slice text, const char *name, uint64_t *out)
{
    size_t name_len = strlen(name);

    while (text.len > 0) {
        const char *end = memchr(text.ptr, '\n', text.len);
        size_t len = end == NULL ? text.len : (size_t)(end - text.ptr);
        struct slice line = slice_of(text.ptr, len);

        text = slice_after(text, end == NULL ? len : len + 1);
        if (line.len > name_len && slice_starts(line, slice_str(name)) && line.ptr[name_len] == ' ')
            return parse_u64(slice_after(line, name_len + 1), out);
    }
    return false;
}

/* Where the figures come from: a server or an opened store. */
struct figures {
    struct ctl *ctl; /* or NULL */
    struct store *store;
};

static int fetch_metrics(struct ctl *ctl, struct buf *out)
{
    struct client_reply reply;
    const char *message;

    if (client_request(ctl->client, "GET", slice_str("/-/metrics"), NULL, NULL, &reply, &message) !=
        0) {
        command_fail("%s", message);
        return -1;
    }
    *out = reply.text;
    if (reply.status == 200)
        return 0;
    command_fail_status(&reply);
    return -1;
}

/* 0 or -1 (said). */
static int read_figures(const struct figures *f, uint64_t *asked, uint64_t *bytes)
{
    bool server = f->ctl != NULL;
    struct buf text = {0};
    int rc = server ? fetch_metrics(f->ctl, &text) : store_stat(f->store, &text);
    struct slice lines = buf_slice(&text);

    if (rc != 0 && !server)
        command_fail("out of memory");
    if (rc == 0 &&
        (!find_figure(lines, server ? "ttserver_compaction_asked" : "compaction_asked", asked) ||
         !find_figure(lines, server ? "ttserver_segment_bytes" : "segment_bytes", bytes)))
        rc = command_fail("how far the compaction is cannot be seen");
    buf_free(&text);
    return rc == 0 ? 0 : -1;
}

/* Waits until nothing is left to be done. */
static int await_compaction(const struct figures *f)
{
    const struct timespec nap = {.tv_nsec = POLL_MS * 1000000};
    uint64_t asked = 1;
    uint64_t bytes = 0;

    for (;;) {
        if (read_figures(f, &asked, &bytes) != 0)
            return CTL_FAILED;
        if (asked == 0)
            break;
        nanosleep(&nap, NULL);
    }
    printf("compacted, the log has %" PRIu64 " bytes\n", bytes);
    return command_finish_output();
}

static int compact_directory(const char *dir)
{
    struct figures f = {0};
    struct opened o;
    int status;

    if (check_directory(dir) != 0 || open_store(dir, false, &o) != 0)
        return CTL_FAILED;
    f.store = o.store;
    store_compact(o.store);
    status = await_compaction(&f);
    return close_store(&o) == 0 ? status : CTL_FAILED;
}

static int compact_server(struct ctl *ctl)
{
    const struct figures f = {.ctl = ctl};
    struct client_reply reply;
    const char *message;
    int status = CTL_OK;

    if (client_request(ctl->client, "POST", slice_str("/-/compact"), NULL, NULL, &reply,
                       &message) != 0)
        return command_fail("%s", message);
    if (reply.status != 200)
        status = command_fail_status(&reply);
    buf_free(&reply.text);
    return status == CTL_OK ? await_compaction(&f) : status;
}

int run_compact(struct ctl *ctl, int argc, char *const argv[])
{
    const char *dir = NULL;
    int status = command_arguments("compact", argc, argv, NULL, 0, &dir, 0, 1);

    if (status != 0)
        return status;
    return dir != NULL ? compact_directory(dir) : compact_server(ctl);
}
