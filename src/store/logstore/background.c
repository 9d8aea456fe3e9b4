/*
 * background.c - what happens beside the writes: interval syncs, zeros ahead of the tail, and other
 * small things that come round.
 *
 * Provides: background_*() of logstore.h.
 * Used by:  recovery (start), logstore.c (end), log.c (wake).
 * Threads:  one of its own; one that reads the index into memory after a start. Whatever may take
 *           long has another thread: a sync is due every second also while a checkpoint runs.
 * Locks:    background_mutex.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define TICK_MS 100

/* ---- the thread ---- */

/* The period of the ticks: short enough for the sync interval. */
static int64_t tick_ms(const struct logstore *ls)
{
    if (ls->config.sync == STORE_SYNC_INTERVAL && ls->config.sync_interval_ms < TICK_MS)
        return ls->config.sync_interval_ms < 1 ? 1 : ls->config.sync_interval_ms;
    return TICK_MS;
}

/* False: stop. */
static bool wait_tick(struct logstore *ls)
{
    struct timespec until = clock_mono_after(tick_ms(ls));
    bool go_on;

    pthread_mutex_lock(&ls->background_mutex);
    if (!ls->background_stop)
        (void)pthread_cond_timedwait(&ls->background_wanted, &ls->background_mutex, &until);
    go_on = !ls->background_stop;
    pthread_mutex_unlock(&ls->background_mutex);
    return go_on;
}

static void *background_main(void *arg)
{
    struct logstore *ls = arg;
    int64_t synced_ms = 0;

    pthread_setname_np(pthread_self(), "tt-background");
    do {
        int64_t now = clock_mono_ms();

        space_tick(ls);
        segment_cache_trim(&ls->segment_cache, &ls->grace);
        index_cold_look(&ls->index_cold, ls->index);
        listing_tick(ls);
        big_tick(ls);
        backup_tick(ls);
        if (atomic_load(&ls->read_only))
            continue;
        (void)log_fill_ahead(ls);
        if (ls->config.sync == STORE_SYNC_INTERVAL &&
            now - synced_ms >= ls->config.sync_interval_ms) {
            (void)log_sync(ls);
            synced_ms = now;
        }
        if (atomic_load(&ls->pending_ms) != 0 &&
            atomic_load(&ls->pending_ms) <= keyspace_now_ms(ls))
            writer_wake(ls);
    } while (wait_tick(ls));
    return NULL;
}

static bool is_wanted(void *arg)
{
    struct logstore *ls = arg;

    return !atomic_load(&ls->warm_stop);
}

/* Reads the index into memory once, beside everything else: a lookup that faults stops its loop. */
static void *warm_main(void *arg)
{
    struct logstore *ls = arg;

    index_warm(ls->index, is_wanted, ls);
    index_cold_warmed(&ls->index_cold);
    return NULL;
}

static void look_at_index(struct logstore *ls)
{
    char *path = directory_path(ls, "index/data.mdb");

    if (path != NULL)
        index_cold_begin(&ls->index_cold, ls->index, path);
    free(path);
}

int background_start(struct logstore *ls)
{
    int rc;

    look_at_index(ls);
    rc = pthread_create(&ls->background, NULL, background_main, ls);
    ls->background_runs = rc == 0;
    /* Without this thread the first lookups are slower, nothing else. */
    ls->warm_runs = pthread_create(&ls->warm, NULL, warm_main, ls) == 0;
    rc = -rc;
    if (rc == 0)
        rc = checkpoint_start(ls);
    if (rc == 0)
        rc = sweep_start(ls);
    return rc;
}

void background_wake(struct logstore *ls)
{
    pthread_mutex_lock(&ls->background_mutex);
    pthread_cond_broadcast(&ls->background_wanted);
    pthread_mutex_unlock(&ls->background_mutex);
}

void background_end(struct logstore *ls)
{
    sweep_end(ls);
    checkpoint_end(ls);
    if (ls->warm_runs) {
        atomic_store(&ls->warm_stop, true);
        pthread_join(ls->warm, NULL);
        ls->warm_runs = false;
    }
    pthread_mutex_lock(&ls->background_mutex);
    ls->background_stop = true;
    pthread_cond_broadcast(&ls->background_wanted);
    pthread_mutex_unlock(&ls->background_mutex);
    if (ls->background_runs)
        pthread_join(ls->background, NULL);
    ls->background_runs = false;
}
