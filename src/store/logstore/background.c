/*
 * background.c - what happens beside the writes: checkpoints, interval syncs, zeros ahead of the
 * tail.
 *
 * Provides: background_*() and checkpoint_*() of logstore.h.
 * Used by:  logstore.c (start, end), writer (freeze, slow down), recovery (checkpoint_write).
 * Threads:  one of its own; background_freeze() and background_slow_down() run on the writer's.
 * Locks:    checkpoint.mutex.
 *
 * A checkpoint: the writer puts the present generation of the delta aside between two batches and
 *               begins a new one; this
 * thread syncs the log that far, sorts the frozen generation into LMDB, and only then lets it go.
 * Readers look at both generations before LMDB, so nothing is ever missing.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define TICK_MS 100
/* Writers are slowed from here on, and stopped at twice that, until the checkpoint has caught
 * up. */
#define SLOW_TIMES 2u
#define SLOW_LOG_BYTES ((uint64_t)SLOW_TIMES * CHECKPOINT_LOG_BYTES)
#define RETRY_MS 1000

/* ---- the writer's side ---- */

int checkpoint_meta(struct logstore *ls, struct index_meta *meta, struct buf *room)
{
    int rc;

    *meta = (struct index_meta){
        .history = identity_history(&ls->id),
        .seq = ls->log.tail_seq,
        .segment = ls->log.active->number,
        .offset = ls->log.tail,
        .live_count = atomic_load(&ls->live_count),
        .clock = atomic_load(&ls->clock),
        .flush = keyspace_flush(ls),
        .flush_counted = ls->flush_counted,
    };
    meta->flush_pending = keyspace_flush_pending(ls, &meta->flush_pending_ms);
    memcpy(meta->store_uuid, ls->id.uuid, sizeof(meta->store_uuid));
    ls->vectors.next_big_file = big_next_number(ls);
    room->len = 0;
    rc = vectors_encode(&ls->vectors, room);
    meta->vectors = buf_slice(room);
    return rc;
}

void background_freeze(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct delta *next = delta_new(0);

    pthread_mutex_lock(&c->mutex);
    if (next != NULL && !c->frozen && checkpoint_meta(ls, &c->meta, &c->meta_vectors) == 0) {
        /* In this order: a reader that misses in the new generation finds the old one behind it. */
        atomic_store_explicit(&ls->frozen, atomic_load(&ls->active), memory_order_release);
        atomic_store_explicit(&ls->active, next, memory_order_release);
        atomic_store(&c->start_bytes, atomic_load(&ls->appended_bytes));
        c->drop_first = ls->flushed_since_checkpoint;
        ls->flushed_since_checkpoint = false;
        c->frozen = true;
        next = NULL;
    }
    atomic_store(&c->freeze_wanted, false);
    pthread_cond_broadcast(&c->wanted);
    pthread_mutex_unlock(&c->mutex);
    delta_free(next);
}

static bool behind(struct logstore *ls, unsigned times)
{
    uint64_t bytes = atomic_load(&ls->appended_bytes) - atomic_load(&ls->checkpoint.start_bytes);

    return delta_count(atomic_load_explicit(&ls->active, memory_order_relaxed)) >=
               times * SLOW_TIMES * ls->config.checkpoint_entries ||
           bytes >= times * SLOW_LOG_BYTES;
}

static struct timespec in_ms(int64_t ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

void background_slow_down(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct timespec until = in_ms(5);

    if (!behind(ls, 1))
        return;
    pthread_mutex_lock(&c->mutex);
    if (!c->frozen) {
        /* Nothing to wait for: the freeze is our own next step. */
    } else if (behind(ls, 2)) {
        while (c->frozen && !c->stop && !c->failed_last)
            pthread_cond_wait(&c->done, &c->mutex);
    } else {
        (void)pthread_cond_timedwait(&c->done, &c->mutex, &until);
    }
    pthread_mutex_unlock(&c->mutex);
}

/* ---- one checkpoint ---- */

/* Records that a flush has killed do not go into the index; their files are added to `gone`, which
 * misses one where memory is short: the next start finds it. */
static size_t drop_flushed(struct delta_item *items, size_t count, struct stamp flush,
                           struct big_names *gone)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        const struct entry *e = items[i].entry;

        if (stamp_compare(e->base, flush) > 0)
            items[kept++] = items[i];
        else if (e->big_bytes > 0 && e->kind != RECORD_DELETE)
            (void)big_names_add(gone, e->big_file, e->big_bytes);
    }
    return kept;
}

int checkpoint_write(struct logstore *ls, struct delta *frozen, const struct index_meta *meta,
                     bool drop_first)
{
    struct delta_item *items = NULL;
    struct big_names gone = {0};
    size_t count = 0;
    int rc = delta_sorted(frozen, &items, &count);

    if (rc == 0) {
        count = drop_flushed(items, count, meta->flush_counted, &gone);
        if (drop_first)
            (void)big_names_add_index(ls, &gone);
        rc = index_apply(ls->index, items, count, meta, drop_first);
    }
    if (rc == 0)
        big_let_go_unnamed(ls, &gone, meta->seq);
    big_names_free(&gone);
    free(items);
    return rc;
}

static bool is_due(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct delta *d = atomic_load_explicit(&ls->active, memory_order_acquire);
    size_t entries = delta_count(d);
    uint64_t bytes = atomic_load(&ls->appended_bytes) - atomic_load(&c->start_bytes);

    return entries >= ls->config.checkpoint_entries || delta_bytes(d) >= CHECKPOINT_DELTA_BYTES ||
           bytes >= CHECKPOINT_LOG_BYTES;
}

/* True if nothing was written for a while and something is not in the index yet. */
static bool is_idle(struct logstore *ls, uint64_t *last_bytes, int64_t *since_ms)
{
    uint64_t bytes = atomic_load(&ls->appended_bytes);

    if (bytes != *last_bytes) {
        *last_bytes = bytes;
        *since_ms = clock_mono_ms();
    }
    return bytes != atomic_load(&ls->checkpoint.start_bytes) &&
           clock_mono_ms() - *since_ms >= CHECKPOINT_IDLE_MS;
}

/* Writes the frozen generation and lets it go. On failure it stays, to be tried again. */
static int settle_frozen(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct delta *frozen = atomic_load(&ls->frozen);
    int rc = 0;

    if (atomic_load(&ls->marks.synced_seq) < c->meta.seq)
        rc = log_sync(ls);
    if (rc == 0)
        rc = checkpoint_write(ls, frozen, &c->meta, c->drop_first);
    if (rc == 0) {
        atomic_store_explicit(&ls->frozen, NULL, memory_order_release);
        grace_wait(&ls->grace);
        delta_free(frozen);
        atomic_fetch_add(&c->count, 1);
        log_debug("checkpoint seq=%llu records=%llu", (unsigned long long)c->meta.seq,
                  (unsigned long long)c->meta.live_count);
    } else if (!c->failed_last) {
        log_error("cannot write the checkpoint of %s: %s; trying again", ls->dir,
                  strerror(-space_error(ls, rc)));
    }
    pthread_mutex_lock(&c->mutex);
    c->failed_last = rc != 0;
    c->frozen = rc != 0;
    atomic_store(&c->last_ms, clock_mono_ms());
    pthread_cond_broadcast(&c->done);
    pthread_mutex_unlock(&c->mutex);
    return rc;
}

/* Asks the writer for a freeze and waits for it. True when there is a frozen generation. */
static bool freeze(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    bool frozen;

    pthread_mutex_lock(&c->mutex);
    if (!c->frozen && !c->stop) {
        atomic_store(&c->freeze_wanted, true);
        pthread_mutex_unlock(&c->mutex);
        writer_wake(ls);
        pthread_mutex_lock(&c->mutex);
        while (atomic_load(&c->freeze_wanted) && !c->stop)
            pthread_cond_wait(&c->wanted, &c->mutex);
    }
    frozen = c->frozen;
    pthread_mutex_unlock(&c->mutex);
    return frozen;
}

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
    struct checkpoint *c = &ls->checkpoint;
    struct timespec until = in_ms(tick_ms(ls));
    bool go_on;

    pthread_mutex_lock(&c->mutex);
    if (!c->stop)
        (void)pthread_cond_timedwait(&c->wanted, &c->mutex, &until);
    go_on = !c->stop;
    pthread_mutex_unlock(&c->mutex);
    return go_on;
}

static void *background_main(void *arg)
{
    struct logstore *ls = arg;
    uint64_t idle_bytes = 0;
    int64_t idle_since_ms = clock_mono_ms();
    int64_t synced_ms = 0;
    int64_t tried_ms = 0;

    pthread_setname_np(pthread_self(), "tt-background");
    do {
        int64_t now = clock_mono_ms();

        space_tick(ls);
        segment_cache_trim(&ls->segment_cache, &ls->grace);
        index_cold_look(&ls->index_cold, ls->index);
        listing_tick(ls);
        big_tick(ls);
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
        if ((is_due(ls) || is_idle(ls, &idle_bytes, &idle_since_ms) ||
             ls->checkpoint.failed_last) &&
            (!ls->checkpoint.failed_last || now - tried_ms >= RETRY_MS)) {
            tried_ms = now;
            pthread_mutex_lock(&ls->index_mutex);
            if (freeze(ls))
                (void)settle_frozen(ls);
            pthread_mutex_unlock(&ls->index_mutex);
        }
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
    return rc != 0 ? -rc : sweep_start(ls);
}

void background_wake(struct logstore *ls)
{
    pthread_mutex_lock(&ls->checkpoint.mutex);
    pthread_cond_broadcast(&ls->checkpoint.wanted);
    pthread_mutex_unlock(&ls->checkpoint.mutex);
}

void background_end(struct logstore *ls)
{
    sweep_end(ls);
    if (ls->warm_runs) {
        atomic_store(&ls->warm_stop, true);
        pthread_join(ls->warm, NULL);
        ls->warm_runs = false;
    }
    if (!ls->background_runs)
        return;
    pthread_mutex_lock(&ls->checkpoint.mutex);
    ls->checkpoint.stop = true;
    pthread_cond_broadcast(&ls->checkpoint.wanted);
    pthread_cond_broadcast(&ls->checkpoint.done);
    pthread_mutex_unlock(&ls->checkpoint.mutex);
    pthread_join(ls->background, NULL);
    ls->background_runs = false;
}
