/*
 * compact.c - when to compact what, and how fast.
 *
 * Provides: compact_*() of compact.h.
 * Used by:  see there.
 * Threads:  tt-compact decides, copies and installs; the rest from any.
 * Locks:    compaction.mutex: stop, wake, holds.
 */
#include "store/logstore/compact.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/compact_job.h"
#include "store/logstore/compact_pace.h"
#include "store/logstore/compact_plan.h"
#include "store/logstore/logstore.h"

/* Of what is in closed segments so much should be live; 60 is promised. */
#define LIVE_PERCENT 65
/* The same when somebody asks for a compaction. */
#define THOROUGH_PERCENT 95
#define TICK_MS 250
#define RETRY_MS 1000
/* Between two checkpoints that compaction asks for. */
#define ASK_MS 500
/* With so much above the goal nothing is slowed down for anybody: the goal's bytes again, and so
 * many segments. */
#define URGENT_SEGMENTS 4u

struct compaction {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool woken;
    bool installing; /* a hold waits for its end */
    unsigned holds;
    pthread_t thread;
    bool runs;
    _Atomic bool stop;
    _Atomic bool thorough;

    /* The thread's own. */
    struct index_reader *reader;
    struct compact_job *job; /* copied, and not installed yet */
    uint32_t *damaged;       /* numbers of segments that cannot be read */
    size_t damaged_count;
    int complaint; /* the last failure that was logged */
    int64_t asked_ms;
    uint64_t seen_bytes; /* appended, at the last look */
    char *room;          /* INDEX_VECTORS_MAX: of the checkpoint's meta */
    struct vectors *vectors;
    struct compact_pace pace;

    /* Figures. */
    _Atomic uint64_t looks; /* that found nothing to do */
    _Atomic bool running;
    _Atomic uint64_t compacted; /* segments that went */
    _Atomic uint64_t read_bytes;
    _Atomic uint64_t written_bytes;
    _Atomic uint64_t debt_bytes;
    _Atomic uint64_t segments;
    _Atomic uint64_t segment_bytes;
    _Atomic uint64_t live_bytes;
    _Atomic uint64_t dead_bytes;
    _Atomic uint64_t tombstone_bytes;
};

/* ---- the figures that a plan is made from ---- */

/* Segments, in log order, and what is known of them; the arrays are the owner's. */
struct view {
    struct segment **list;
    size_t count;
    struct plan_segment *figures;
    struct index_segment *shares; /* by number */
    size_t share_count;
    size_t share_room;
    bool failed;
    struct index_meta meta; /* of the last checkpoint */
    uint64_t above;         /* bytes of records above it */
};

static void view_free(struct view *v)
{
    if (v->list != NULL)
        log_release_segments(v->list, v->count);
    free(v->figures);
    free(v->shares);
}

static void add_share(const struct index_segment *s, void *arg)
{
    struct view *v = arg;

    if (v->share_count == v->share_room) {
        size_t room = v->share_room == 0 ? 64 : v->share_room * 2;
        struct index_segment *grown = reallocarray(v->shares, room, sizeof(*grown));

        if (grown == NULL) {
            v->failed = true;
            return;
        }
        v->shares = grown;
        v->share_room = room;
    }
    v->shares[v->share_count++] = *s;
}

static int compare_numbers(const void *key, const void *item)
{
    uint32_t a = *(const uint32_t *)key;
    uint32_t b = ((const struct index_segment *)item)->number;

    return (a > b) - (a < b);
}

static bool is_damaged(const struct compaction *c, uint32_t number)
{
    for (size_t i = 0; i < c->damaged_count; i++)
        if (c->damaged[i] == number)
            return true;
    return false;
}

static void fill_figures(const struct compaction *c, struct view *v, size_t i)
{
    const struct segment *s = v->list[i];
    struct plan_segment *f = &v->figures[i];
    bool last = i + 1 == v->count;
    const struct index_segment *share =
        v->share_count == 0
            ? NULL
            : bsearch(&s->number, v->shares, v->share_count, sizeof(v->shares[0]), compare_numbers);

    *f = (struct plan_segment){
        .bytes = atomic_load(&s->end) - s->header_bytes,
        .live_bytes = share == NULL ? 0 : share->live_bytes,
        .tombstone_bytes = share == NULL ? 0 : share->tombstone_bytes,
        .last_seq = last ? UINT64_MAX : v->list[i + 1]->first_seq - 1,
        .clean_seq = s->clean_seq,
        .kept = is_damaged(c, s->number),
    };
    /* The position's own segment is named by it until the next checkpoint, also when nothing of it
     * is left to be replayed. */
    f->settled = !last && f->last_seq <= v->meta.seq && s->number != v->meta.segment;
}

/* Bytes of records above the checkpoint. */
static uint64_t above_bytes(const struct view *v)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < v->count; i++) {
        const struct segment *s = v->list[i];
        uint64_t end = atomic_load(&s->end);

        if (s->number == v->meta.segment)
            bytes += end > v->meta.offset ? end - v->meta.offset : 0;
        else if (s->first_seq > v->meta.seq)
            bytes += v->figures[i].bytes;
    }
    return bytes;
}

/* In this order: what lies below the position has done its work on the figures that are read after
 * it. Then a segment without dead bytes has nothing that a tombstone below the position could have
 * superseded. 0, -ENOENT: no checkpoint yet, or -errno. */
static int view_take(struct logstore *ls, struct view *v)
{
    struct compaction *c = ls->compaction;
    int rc = index_read_meta(ls->index, &v->meta, c->room);

    if (rc == 0 && !vectors_decode(v->meta.vectors, c->vectors))
        rc = -EUCLEAN;
    if (rc == 0)
        rc = index_segments(ls->index, add_share, v);
    if (rc == 0)
        rc = v->failed ? -ENOMEM : log_list_segments(ls, &v->list, &v->count);
    if (rc == 0) {
        v->figures = calloc(v->count + 1, sizeof(v->figures[0]));
        rc = v->figures == NULL ? -ENOMEM : 0;
    }
    for (size_t i = 0; rc == 0 && i < v->count; i++)
        fill_figures(c, v, i);
    if (rc == 0)
        v->above = above_bytes(v);
    return rc;
}

/* What is live now, as well as it can be told between two checkpoints. */
static uint64_t live_now(struct logstore *ls, const struct view *v)
{
    uint64_t superseded =
        atomic_load(&ls->superseded_bytes) - atomic_load(&ls->checkpoint.done_superseded);
    uint64_t live = v->above;

    if (stamp_compare(keyspace_flush(ls), v->meta.flush) == 0)
        for (size_t i = 0; i < v->count; i++)
            live += v->figures[i].live_bytes;
    return live > superseded ? live - superseded : 0;
}

static struct plan make_plan(struct logstore *ls, const struct view *v)
{
    struct plan_input in = {
        .segments = v->figures,
        .count = v->count,
        .segment_bytes = ls->config.segment_bytes,
        .header_bytes = SEGMENT_HEADER_FIXED,
        .above_bytes = v->above,
        .live_bytes = live_now(ls, v),
        .live_percent = atomic_load(&ls->compaction->thorough) ? THOROUGH_PERCENT : LIVE_PERCENT,
    };

    for (size_t i = 0; i < v->count; i++)
        if (v->list[i]->header_bytes > in.header_bytes)
            in.header_bytes = v->list[i]->header_bytes;
    return compact_plan(&in);
}

static void show_figures(struct logstore *ls, const struct view *v, const struct plan *plan)
{
    struct compaction *c = ls->compaction;
    uint64_t bytes = 0;
    uint64_t live = 0;
    uint64_t tombstones = 0;
    uint64_t dead = 0;

    for (size_t i = 0; i < v->count; i++) {
        const struct plan_segment *f = &v->figures[i];
        uint64_t named = f->live_bytes + f->tombstone_bytes;

        bytes += atomic_load(&v->list[i]->end);
        live += f->live_bytes;
        tombstones += f->tombstone_bytes;
        if (f->settled && f->bytes > named)
            dead += f->bytes - named;
    }
    atomic_store(&c->segments, v->count);
    atomic_store(&c->segment_bytes, bytes);
    atomic_store(&c->live_bytes, live);
    atomic_store(&c->tombstone_bytes, tombstones);
    atomic_store(&c->dead_bytes, dead);
    atomic_store(&c->debt_bytes, plan->debt_bytes);
}

/* ---- doing it ---- */

/* Said once, until something else happens. */
static void complain(struct logstore *ls, int rc)
{
    struct compaction *c = ls->compaction;

    if (rc == c->complaint || rc == -EAGAIN || rc == -ECANCELED)
        return;
    c->complaint = rc;
    log_warn("cannot compact segments of %s: %s; trying again", ls->dir,
             strerror(-space_error(ls, rc)));
}

static int remember_damaged(struct compaction *c, uint32_t number)
{
    uint32_t *grown = reallocarray(c->damaged, c->damaged_count + 1, sizeof(*grown));

    if (grown == NULL)
        return -ENOMEM; /* it is found again */
    c->damaged = grown;
    c->damaged[c->damaged_count++] = number;
    return 0;
}

static bool begin_install(struct compaction *c)
{
    bool go;

    pthread_mutex_lock(&c->mutex);
    go = c->holds == 0;
    c->installing = go;
    pthread_mutex_unlock(&c->mutex);
    return go;
}

static void end_install(struct compaction *c)
{
    pthread_mutex_lock(&c->mutex);
    c->installing = false;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

/* Installs what was copied. 0, or -errno: later again, if there is still a job. */
static int install(struct logstore *ls)
{
    struct compaction *c = ls->compaction;
    int rc;

    if (!begin_install(c))
        return -EAGAIN;
    rc = compact_install(c->job, &c->stop);
    end_install(c);
    if (rc == 0) {
        atomic_fetch_add(&c->compacted, c->job->old_count);
        log_debug("compacted %zu segments of %s into %u: %" PRIu64 " bytes", c->job->old_count,
                  ls->dir, c->job->number, c->job->end);
    }
    if (rc == 0 || c->job->made == NULL) {
        compact_job_free(c->job);
        c->job = NULL;
    }
    return rc;
}

/* The same with what the last run has left half done. */
static int go_on(struct logstore *ls)
{
    struct compaction *c = ls->compaction;
    int rc;

    if (!begin_install(c))
        return -EAGAIN;
    rc = compact_finish(ls, &c->stop);
    end_install(c);
    return rc;
}

static bool keep_pace(struct logstore *ls, uint64_t read, uint64_t written)
{
    struct compaction *c = ls->compaction;

    atomic_fetch_add(&c->read_bytes, read);
    atomic_fetch_add(&c->written_bytes, written);
    compact_pace_wait(&c->pace, ls, read + written, &c->stop);
    return !atomic_load(&c->stop);
}

/* Up to which seq the newest states of gone keys may go in a run that begins at segment `first`. */
static uint64_t removable_seq(const struct view *v, size_t first)
{
    uint64_t seq = UINT64_MAX;

    for (size_t i = 0; i < first; i++) {
        const struct plan_segment *f = &v->figures[i];

        if (f->bytes != f->live_bytes + f->tombstone_bytes && f->clean_seq < seq)
            seq = f->clean_seq;
    }
    return seq;
}

static uint64_t history_version(const struct logstore *ls)
{
    int64_t since_ms = keyspace_now_ms(ls) - ls->config.keep_history_ms;

    if (ls->config.keep_history_ms <= 0)
        return UINT64_MAX;
    return since_ms > 0 ? (uint64_t)since_ms << 16 : 0;
}

/* Copies the run of the plan. 0: there is a job to be installed, or none because the run holds a
 * damaged segment, which is left alone from now on. */
static int copy_run(struct logstore *ls, struct view *v, const struct plan *plan)
{
    struct compaction *c = ls->compaction;
    struct compact_terms terms = {
        .meta = v->meta,
        .vectors = c->vectors,
        .removable_seq = removable_seq(v, plan->first),
        .history_version = history_version(ls),
        .next = v->list[plan->first + plan->count],
    };
    int rc = space_may_compact(ls, plan->write_bytes + ls->config.segment_bytes / 64) ? 0 : -ENOSPC;

    if (rc == 0) {
        c->job = compact_job_new(ls, v->list + plan->first, plan->count);
        rc = c->job == NULL ? -ENOMEM : 0;
    }
    for (size_t i = 0; rc == 0 && i < plan->count; i++) {
        const struct plan_segment *f = &v->figures[plan->first + i];

        c->job->dead[i] = f->live_bytes == 0 && f->tombstone_bytes == 0;
    }
    if (rc == 0)
        rc = compact_copy(c->job, &terms, c->reader, keep_pace);
    if (rc == 0)
        return 0;
    if (rc == -EUCLEAN)
        rc = remember_damaged(c, c->job->old[c->job->damaged]->number);
    compact_job_free(c->job);
    c->job = NULL;
    return rc;
}

/* A checkpoint shows what is dead by now: not too often, and while much is written not before there
 * is a segment of it. */
static void ask_for_checkpoint(struct logstore *ls, const struct view *v)
{
    struct compaction *c = ls->compaction;
    uint64_t bytes = atomic_load(&ls->appended_bytes);
    bool idle = bytes == c->seen_bytes;
    bool flushed = stamp_compare(keyspace_flush(ls), v->meta.flush) != 0;
    int64_t now = clock_mono_ms();

    c->seen_bytes = bytes;
    if ((v->above == 0 && !flushed) || (!idle && v->above < ls->config.segment_bytes) ||
        now - c->asked_ms < ASK_MS)
        return;
    c->asked_ms = now;
    checkpoint_ask(ls);
}

static bool is_urgent(const struct logstore *ls, const struct plan *plan)
{
    const struct compaction *c = ls->compaction;
    uint64_t limit = atomic_load(&c->live_bytes) + URGENT_SEGMENTS * ls->config.segment_bytes;

    return plan->debt_bytes > limit || atomic_load(&c->thorough) || space_is_full(ls);
}

/* 0: there may be more to do at once; -ENOENT: there is not; other -errno: not now. */
static int step(struct logstore *ls)
{
    struct compaction *c = ls->compaction;
    struct view v = {0};
    struct plan plan;
    int rc;

    if (ls->installing.count > 0)
        return go_on(ls);
    if (c->job != NULL)
        return install(ls);
    rc = view_take(ls, &v);
    if (rc == 0) {
        plan = make_plan(ls, &v);
        show_figures(ls, &v, &plan);
        compact_pace_set_urgent(&c->pace, is_urgent(ls, &plan));
        if (plan.step == PLAN_CHECKPOINT)
            ask_for_checkpoint(ls, &v);
        else if (plan.step == PLAN_NOTHING)
            atomic_store(&c->thorough, false);
        rc = plan.step == PLAN_COMPACT ? copy_run(ls, &v, &plan) : -ENOENT;
    }
    view_free(&v);
    return rc == 0 && c->job != NULL ? install(ls) : rc;
}

/* ---- the thread ---- */

static void wait_for(struct compaction *c, int64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&c->mutex);
    if (!c->woken && !atomic_load(&c->stop))
        (void)pthread_cond_timedwait(&c->changed, &c->mutex, &until);
    c->woken = false;
    pthread_mutex_unlock(&c->mutex);
}

static void *compact_main(void *arg)
{
    struct logstore *ls = arg;
    struct compaction *c = ls->compaction;

    pthread_setname_np(pthread_self(), "tt-compact");
    while (!atomic_load(&c->stop)) {
        int rc = atomic_load(&ls->read_only) ? -EROFS : step(ls);

        atomic_store(&c->running, rc == 0);
        if (rc == 0)
            c->complaint = 0;
        else if (rc != -ENOENT && rc != -EROFS)
            complain(ls, rc);
        if (rc == 0)
            continue;
        atomic_fetch_add(&c->looks, 1);
        compact_pace_begin_quiet(&c->pace, ls);
        wait_for(c, rc == -ENOENT || rc == -EAGAIN ? TICK_MS : RETRY_MS);
        compact_pace_end_quiet(&c->pace, ls);
    }
    return NULL;
}

int compact_init(struct logstore *ls)
{
    struct compaction *c = calloc(1, sizeof(*c));
    pthread_condattr_t attr;

    if (c == NULL)
        return -ENOMEM;
    c->room = malloc(INDEX_VECTORS_MAX);
    c->vectors = malloc(sizeof(*c->vectors));
    pthread_mutex_init(&c->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    ls->compaction = c;
    return c->room == NULL || c->vectors == NULL ? -ENOMEM : 0;
}

void compact_fini(struct logstore *ls)
{
    struct compaction *c = ls->compaction;

    if (c == NULL)
        return;
    compact_job_free(c->job);
    if (c->reader != NULL)
        index_reader_close(c->reader);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mutex);
    free(c->damaged);
    free(c->vectors);
    free(c->room);
    free(c);
    ls->compaction = NULL;
}

int compact_start(struct logstore *ls)
{
    struct compaction *c = ls->compaction;
    int rc;

    if (ls->config.no_compaction)
        return 0;
    rc = index_reader_open(ls->index, &c->reader);
    if (rc == 0)
        rc = -pthread_create(&c->thread, NULL, compact_main, ls);
    c->runs = rc == 0;
    return rc;
}

void compact_end(struct logstore *ls)
{
    struct compaction *c = ls->compaction;

    if (!c->runs)
        return;
    atomic_store(&c->stop, true);
    compact_wake(ls);
    pthread_join(c->thread, NULL);
    c->runs = false;
    compact_job_free(c->job);
    c->job = NULL;
}

/* ---- from other threads ---- */

void compact_wake(struct logstore *ls)
{
    struct compaction *c = ls->compaction;

    pthread_mutex_lock(&c->mutex);
    c->woken = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mutex);
}

void compact_hold(struct logstore *ls)
{
    struct compaction *c = ls->compaction;

    pthread_mutex_lock(&c->mutex);
    c->holds++;
    while (c->installing)
        pthread_cond_wait(&c->changed, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

void compact_release(struct logstore *ls)
{
    struct compaction *c = ls->compaction;

    pthread_mutex_lock(&c->mutex);
    c->holds--;
    pthread_mutex_unlock(&c->mutex);
    compact_wake(ls);
}

void compact_now(struct logstore *ls)
{
    atomic_store(&ls->compaction->thorough, true);
    checkpoint_ask(ls);
    compact_wake(ls);
}

uint64_t compact_looks(struct logstore *ls)
{
    return atomic_load(&ls->compaction->looks);
}

int compact_stat(struct logstore *ls, struct buf *out)
{
    struct compaction *c = ls->compaction;

    return buf_printf(
        out,
        "compaction_running %d\ncompacted_segments %" PRIu64 "\ncompaction_read_bytes %" PRIu64
        "\ncompaction_written_bytes %" PRIu64 "\ncompaction_debt_bytes %" PRIu64
        "\nsegments %" PRIu64 "\nsegment_bytes %" PRIu64 "\nlive_bytes %" PRIu64
        "\ndead_bytes %" PRIu64 "\ntombstone_bytes %" PRIu64 "\n",
        atomic_load(&c->running), atomic_load(&c->compacted), atomic_load(&c->read_bytes),
        atomic_load(&c->written_bytes), atomic_load(&c->debt_bytes), atomic_load(&c->segments),
        atomic_load(&c->segment_bytes), atomic_load(&c->live_bytes), atomic_load(&c->dead_bytes),
        atomic_load(&c->tombstone_bytes));
}
