/*
 * ttctl_store.c - `ttctl rebuild-index` and `ttctl compact`: a data directory opened as its store.
 *
 * Used by:  the table of commands.
 * Threads:  the engine's own; the command waits.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>

#include "base/aio.h"
#include "store/logstore/index.h"
#include "store/logstore/walk.h"
#include "store/store.h"
#include "tools/ttctl_commands.h"

const char rebuild_index_more[] =
    "Removes the index of a stopped server's data directory and makes it anew from\n"
    "the log. A start does the same when there is none, but a server that has much\n"
    "to read would keep its clients waiting. Progress is told on the standard error.\n";

/* Takes long to be noticed, never happens. */
#define FOREVER_MS INT64_C(1000000000)

/* The directory has a store, and nobody uses it. The lock is given back: the engine takes its own.
 * 0 or -1 (said). */
static int check_directory(const char *dir)
{
    struct walk_options options = {.lock = WALK_ALONE};
    char why[WALK_WHY_MAX];
    struct walk *w;

    if (walk_open(dir, &options, &w, why) != 0) {
        command_fail("%s", why);
        return -1;
    }
    if (!w->has_identity) {
        command_fail("%s/STORE cannot be read (see ttctl repair)", dir);
        walk_close(w);
        return -1;
    }
    walk_close(w);
    return 0;
}

/* 0 or -errno, logged. */
static int open_store(const char *dir, struct aio_pool *pool, struct store **out)
{
    struct store_config config = {
        .dir = dir,
        .sync = STORE_SYNC_ALWAYS,
        .sync_interval_ms = 1000,
        .segment_bytes = UINT64_C(64) << 20,
        .max_value_bytes = RECORD_VALUE_MAX,
        .reader_ports = 1,
        .pool = pool,
    };

    return logstore_open(&config, FOREVER_MS, out);
}

int run_rebuild_index(struct ctl *ctl, int argc, char *const argv[])
{
    const char *dir;
    char path[PATH_MAX];
    struct aio_pool *pool;
    struct store *store;
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
    rc = aio_pool_open(2, &pool);
    if (rc != 0)
        return command_fail("cannot start threads: %s", strerror(-rc));
    rc = open_store(dir, pool, &store);
    if (rc == 0) {
        count = store_count(store);
        rc = store_close(store);
    }
    aio_pool_close(pool);
    if (rc != 0)
        return command_fail("the index of %s was not made", dir);
    printf("the index is made, records: %" PRIu64 "\n", count);
    return command_finish_output();
}
