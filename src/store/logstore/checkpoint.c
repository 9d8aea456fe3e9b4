/*
 * checkpoint.c - what is in the delta comes into the index.
 *
 * Provides: checkpoint_*() of logstore.h.
 * Used by:  background.c (start, end), writer (freeze, slow down), recovery and the stop (meta,
 *           write), compaction (ask).
 * Threads:  one of its own; checkpoint_freeze() and checkpoint_slow_down() run on the writer's.
 * Locks:    index_mutex, then checkpoint.mutex.
 *
 * The writer puts the present generation of the delta aside between two batches and begins a new
 * one; this thread syncs the log that far, sorts the frozen generation into LMDB, and only then lets
 * it go. Readers look at both generations before LMDB, so nothing is ever missing.
 *
 * It is due by the number of keys, by memory, by the bytes of log that a start would have to replay,
 * when nothing is written for a while, and when compaction asks for it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define TICK_MS 100
/* Writers are slowed from here on, and stopped at twice that, until the checkpoint has caught
 * up. */
#define SLOW_TIMES 2u
#define SLOW_LOG_BYTES ((uint64_t)SLOW_TIMES * CHECKPOINT_LOG_BYTES)
#define RETRY_MS 1000
/* Nothing was written for so long: after a segment's worth, and otherwise. */
#define IDLE_MUCH_MS 2000
#define IDLE_MS 10000
/* Between two that come for a flush. */
#define FLUSH_MS 2000
/* How often the index is looked at for what it may give back. */
#define TRIM_MS 10000

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

void checkpoint_freeze(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct delta *next = delta_new(0);

    pthread_mutex_lock(&c->mutex);
    if (next != NULL && !c->frozen && checkpoint_meta(ls, &c->meta, &c->meta_vectors) == 0) {
        /* In this order: a reader that misses in the new generation finds the old one behind it. */
        atomic_store_explicit(&ls->frozen, atomic_load(&ls->active), memory_order_release);
        atomic_store_explicit(&ls->active, next, memory_order_release);
        atomic_store(&c->start_bytes, atomic_load(&ls->appended_bytes));
        c->frozen_superseded = atomic_load(&ls->superseded_bytes);
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

void checkpoint_slow_down(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct timespec until = clock_mono_after(5);

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
        index_set_time(ls->index, keyspace_now_ms(ls));
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

void checkpoint_ask(struct logstore *ls)
{
    atomic_store(&ls->checkpoint.asked, true);
    pthread_mutex_lock(&ls->checkpoint.mutex);
    pthread_cond_broadcast(&ls->checkpoint.wanted);
    pthread_mutex_unlock(&ls->checkpoint.mutex);
}

/* When something was last put into the delta or the log. */
struct idle {
    uint64_t bytes;
    uint64_t puts;
    int64_t since_ms;
};

/* True if nothing came for a while and something is not in the index yet. */
static bool is_idle(struct logstore *ls, struct idle *idle)
{
    const struct delta *d = atomic_load_explicit(&ls->active, memory_order_acquire);
    uint64_t bytes = atomic_load(&ls->appended_bytes);
    uint64_t news = bytes - atomic_load(&ls->checkpoint.start_bytes);
    uint64_t puts = delta_mark(d);

    if (bytes != idle->bytes || puts != idle->puts)
        *idle = (struct idle){bytes, puts, clock_mono_ms()};
    if (news == 0 && delta_count(d) == 0)
        return false;
    return clock_mono_ms() - idle->since_ms >=
           (news >= ls->config.segment_bytes ? IDLE_MUCH_MS : IDLE_MS);
}

/* Writes the frozen generation and lets it go. On failure it stays, to be tried again. */
static int settle_frozen(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct delta *frozen = atomic_load(&ls->frozen);
    int64_t start_ms = clock_mono_ms();
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
        atomic_store(&c->took_ms, clock_mono_ms() - start_ms);
        log_debug("checkpoint seq=%" PRIu64 " records=%" PRIu64 " ms=%" PRId64, c->meta.seq,
                  c->meta.live_count, atomic_load(&c->took_ms));
        atomic_store(&c->done_superseded, c->frozen_superseded);
        compact_wake(ls);
    } else if (!c->failed_last) {
        log_error("cannot write the checkpoint of %s: %s; trying again", ls->dir,
                  strerror(-space_error(ls, rc)));
    }
    pthread_mutex_lock(&c->mutex);
    c->failed_last = rc != 0;
    c->frozen = rc != 0;
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

/* False: stop. */
static bool wait_tick(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;
    struct timespec until = clock_mono_after(TICK_MS);
    bool go_on;

    pthread_mutex_lock(&c->mutex);
    if (!c->stop)
        (void)pthread_cond_timedwait(&c->wanted, &c->mutex, &until);
    go_on = !c->stop;
    pthread_mutex_unlock(&c->mutex);
    return go_on;
}

static void *checkpoint_main(void *arg)
{
    struct logstore *ls = arg;
    struct checkpoint *c = &ls->checkpoint;
    struct idle idle = {.since_ms = clock_mono_ms()};
    struct stamp flush = keyspace_flush(ls); /* of the last one */
    int64_t tried_ms = clock_mono_ms();
    int64_t trimmed_ms = clock_mono_ms();

    pthread_setname_np(pthread_self(), "tt-checkpoint");
    do {
        bool wanted;

        if (atomic_load(&ls->read_only))
            continue;
        wanted = atomic_exchange(&c->asked, false);
        wanted = is_idle(ls, &idle) || is_due(ls) || wanted || c->failed_last;
        /* It gives back at once all that the flush has killed, in the index, the delta and the log. */
        if (stamp_compare(flush, keyspace_flush(ls)) != 0 && clock_mono_ms() - tried_ms >= FLUSH_MS)
            wanted = true;
        if (wanted && (!c->failed_last || clock_mono_ms() - tried_ms >= RETRY_MS)) {
            tried_ms = clock_mono_ms();
            pthread_mutex_lock(&ls->index_mutex);
            if (freeze(ls) && settle_frozen(ls) == 0)
                flush = c->meta.flush;
            pthread_mutex_unlock(&ls->index_mutex);
        }
        if (clock_mono_ms() - trimmed_ms >= TRIM_MS) {
            trimmed_ms = clock_mono_ms();
            pthread_mutex_lock(&ls->index_mutex);
            index_trim(ls->index);
            pthread_mutex_unlock(&ls->index_mutex);
        }
    } while (wait_tick(ls));
    return NULL;
}

int checkpoint_start(struct logstore *ls)
{
    int rc = pthread_create(&ls->checkpoint.thread, NULL, checkpoint_main, ls);

    ls->checkpoint.runs = rc == 0;
    return -rc;
}

void checkpoint_end(struct logstore *ls)
{
    struct checkpoint *c = &ls->checkpoint;

    pthread_mutex_lock(&c->mutex);
    c->stop = true;
    pthread_cond_broadcast(&c->wanted);
    pthread_cond_broadcast(&c->done);
    pthread_mutex_unlock(&c->mutex);
    if (c->runs)
        pthread_join(c->thread, NULL);
    c->runs = false;
}

int checkpoint_stat(struct logstore *ls, struct buf *out)
{
    const struct checkpoint *c = &ls->checkpoint;

    return buf_printf(out,
                      "checkpoints %" PRIu64 "\ncheckpoint_milliseconds %" PRId64
                      "\ncheckpoint_log_bytes %" PRIu64 "\n",
                      atomic_load(&c->count), atomic_load(&c->took_ms),
                      atomic_load(&ls->appended_bytes) - atomic_load(&c->start_bytes));
}
