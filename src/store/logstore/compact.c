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
#include "store/logstore/compact_view.h"
#include "store/logstore/logstore.h"

/* Of what is in closed segments so much should be live; 60 is promised. */
#define LIVE_PERCENT 65
/* The same when somebody asks for a compaction. */
#define THOROUGH_PERCENT 95
#define TICK_MS 250
#define RETRY_MS 1000
/* Between two checkpoints that compaction asks for; and while something is written, so many segments
 * must lie above the last one. */
#define ASK_MS 500
#define ASK_SEGMENTS 4u
/* When a compaction leaves more than expected, by a part of that and by so much, its segment rests: for
 * half of the time that history is kept, and no less than this. */
#define REST_PART 8u
#define REST_BYTES 4096u
#define REST_MIN_MS 10000
/* Of a full segment: what the figures say may be too little by so much. */
#define SPARE_PART 64u
/* With so much above the goal nothing is slowed down for anybody: the goal's bytes again, and so
 * many segments. */
#define URGENT_SEGMENTS 4u
/* Beyond that writers wait between two batches, the longer the more it is, up to so long. */
#define SLOW_MAX_MS 100u
#define NAP_MS 2

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
    _Atomic unsigned slow_ms; /* writers wait so long between two batches */

    /* The thread's own. */
    struct index_reader *reader;
    struct compact_job *job; /* copied, and not installed yet */
    struct compact_rest *rests;
    size_t rest_count;
    int complaint; /* the last failure that was logged */
    int64_t asked_ms;
    uint64_t seen_bytes; /* appended, at the last look */
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

/* ---- planning ---- */

static struct plan make_plan(struct logstore *ls, const struct compact_view *v)
{
    uint64_t room = space_for_compaction(ls);
    uint64_t spare = ls->config.segment_bytes / SPARE_PART;
    struct plan_input in = {
        .segments = v->figures,
        .count = v->count,
        .segment_bytes = ls->config.segment_bytes,
        .header_bytes = SEGMENT_HEADER_FIXED,
        .above_bytes = v->above,
        .live_bytes = v->live_bytes,
        .room_bytes = room > spare ? room - spare : 0,
        .live_percent = atomic_load(&ls->compaction->thorough) ? THOROUGH_PERCENT : LIVE_PERCENT,
    };

    for (size_t i = 0; i < v->count; i++)
        if (v->list[i]->header_bytes > in.header_bytes)
            in.header_bytes = v->list[i]->header_bytes;
    return compact_plan(&in);
}

static void show_figures(struct logstore *ls, const struct compact_view *v, const struct plan *plan)
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

/* Leaves a segment alone until then. 0 or -ENOMEM. */
static int let_rest(struct compaction *c, uint32_t number, int64_t until_ms)
{
    int64_t now = clock_mono_ms();
    size_t kept = 0;
    struct compact_rest *grown;

    for (size_t i = 0; i < c->rest_count; i++)
        if (c->rests[i].until_ms > now)
            c->rests[kept++] = c->rests[i];
    c->rest_count = kept;
    grown = reallocarray(c->rests, kept + 1, sizeof(*grown));
    if (grown == NULL)
        return -ENOMEM;
    c->rests = grown;
    c->rests[c->rest_count++] = (struct compact_rest){number, until_ms};
    return 0;
}

/* Less was let go than the figures have promised, or history is kept, which leaves a segment unclean:
 * the same is not tried again and again. */
static void rest_after(struct logstore *ls, const struct compact_job *job)
{
    int64_t rest_ms = ls->config.keep_history_ms / 2;
    uint64_t expected = job->expected_bytes + job->header_bytes;

    if (job->history_bytes == 0 && job->end <= expected + expected / REST_PART + REST_BYTES)
        return;
    if (rest_ms < REST_MIN_MS)
        rest_ms = REST_MIN_MS;
    (void)let_rest(ls->compaction, job->number, clock_mono_ms() + rest_ms);
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
        rest_after(ls, c->job);
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

static uint64_t history_version(const struct logstore *ls)
{
    int64_t since_ms = keyspace_now_ms(ls) - ls->config.keep_history_ms;

    if (ls->config.keep_history_ms <= 0)
        return UINT64_MAX;
    return since_ms > 0 ? (uint64_t)since_ms << 16 : 0;
}

/* Copies the run of the plan. 0: there is a job to be installed, or none because the run holds a
 * damaged segment, which is left alone from now on. */
static int copy_run(struct logstore *ls, struct compact_view *v, const struct plan *plan)
{
    struct compaction *c = ls->compaction;
    struct compact_terms terms = {
        .meta = v->meta,
        .vectors = v->vectors,
        .removable_seq = compact_view_removable(v, plan->first),
        .history_version = history_version(ls),
        .next = v->list[plan->first + plan->count],
    };
    int rc;

    c->job = compact_job_new(ls, v->list + plan->first, plan->count);
    if (c->job == NULL)
        return -ENOMEM;
    c->job->expected_bytes = plan->write_bytes;
    for (size_t i = 0; i < plan->count; i++) {
        const struct plan_segment *f = &v->figures[plan->first + i];

        c->job->dead[i] = f->live_bytes == 0 && f->tombstone_bytes == 0;
    }
    rc = compact_copy(c->job, &terms, c->reader, keep_pace);
    if (rc == 0)
        return 0;
    if (rc == -EUCLEAN)
        rc = let_rest(c, c->job->old[c->job->damaged]->number, INT64_MAX);
    compact_job_free(c->job);
    c->job = NULL;
    return rc;
}

/* A checkpoint shows what is dead by now: not too often, and while much is written not before there
 * is enough of it. False: it would show nothing. */
static bool ask_for_checkpoint(struct logstore *ls, const struct compact_view *v)
{
    struct compaction *c = ls->compaction;
    uint64_t bytes = atomic_load(&ls->appended_bytes);
    uint64_t enough = space_is_full(ls) ? 1 : ASK_SEGMENTS * ls->config.segment_bytes;
    bool idle = bytes == c->seen_bytes;
    bool flushed = stamp_compare(keyspace_flush(ls), v->meta.flush) != 0;
    int64_t now = clock_mono_ms();

    c->seen_bytes = bytes;
    if (v->above == 0 && !flushed)
        return false;
    if ((idle || v->above >= enough || atomic_load(&c->thorough)) && now - c->asked_ms >= ASK_MS) {
        c->asked_ms = now;
        checkpoint_ask(ls);
    }
    return true;
}

/* Lets the debt decide who comes first: clients, or the space that they will need. */
static void judge_debt(struct logstore *ls, const struct compact_view *v, const struct plan *plan)
{
    struct compaction *c = ls->compaction;
    uint64_t limit = v->live_bytes + URGENT_SEGMENTS * ls->config.segment_bytes;
    uint64_t over = plan->debt_bytes > limit ? plan->debt_bytes - limit : 0;
    uint64_t slow_ms = over * SLOW_MAX_MS / limit;

    compact_pace_set_urgent(&c->pace, over > 0 || atomic_load(&c->thorough) || space_is_full(ls));
    /* Nobody is slowed down for what cannot be changed. */
    if (plan->step == PLAN_NOTHING)
        slow_ms = 0;
    atomic_store(&c->slow_ms, slow_ms < SLOW_MAX_MS ? (unsigned)slow_ms : SLOW_MAX_MS);
}

/* 0: there may be more to do at once; -ENOENT: there is not; other -errno: not now. */
static int step(struct logstore *ls)
{
    struct compaction *c = ls->compaction;
    struct compact_view v;
    struct plan plan = {.step = PLAN_NOTHING};
    int rc;

    if (ls->installing.count > 0)
        return go_on(ls);
    if (c->job != NULL)
        return install(ls);
    rc = compact_view_take(ls, c->rests, c->rest_count, &v);
    if (rc == 0) {
        plan = make_plan(ls, &v);
        if (plan.step == PLAN_CHECKPOINT && !ask_for_checkpoint(ls, &v))
            plan.step = PLAN_NOTHING;
        show_figures(ls, &v, &plan);
        judge_debt(ls, &v, &plan);
        if (plan.step == PLAN_NOTHING)
            atomic_store(&c->thorough, false);
        rc = plan.step == PLAN_COMPACT ? copy_run(ls, &v, &plan) : -ENOENT;
    }
    compact_view_free(&v);
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
        bool read_only = atomic_load(&ls->read_only);
        int rc = read_only ? -EROFS : step(ls);

        if (read_only)
            atomic_store(&c->thorough, false); /* whoever waits for it waits in vain */
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
    pthread_mutex_init(&c->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    ls->compaction = c;
    return 0;
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
    free(c->rests);
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

void compact_slow_down(struct logstore *ls)
{
    const struct timespec nap = {.tv_nsec = NAP_MS * 1000000};
    unsigned ms = atomic_load_explicit(&ls->compaction->slow_ms, memory_order_relaxed);

    /* Whoever calls for the writer meanwhile is compaction itself, more often than not. */
    for (; ms >= NAP_MS && atomic_load(&ls->call) == NULL; ms -= NAP_MS)
        (void)nanosleep(&nap, NULL);
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
        "compaction_running %d\ncompaction_asked %d\ncompacted_segments %" PRIu64
        "\ncompaction_read_bytes %" PRIu64 "\ncompaction_written_bytes %" PRIu64
        "\ncompaction_debt_bytes %" PRIu64 "\nsegments %" PRIu64 "\nsegment_bytes %" PRIu64
        "\nlive_bytes %" PRIu64 "\ndead_bytes %" PRIu64 "\ntombstone_bytes %" PRIu64 "\n",
        atomic_load(&c->running), atomic_load(&c->thorough), atomic_load(&c->compacted),
        atomic_load(&c->read_bytes), atomic_load(&c->written_bytes), atomic_load(&c->debt_bytes),
        atomic_load(&c->segments), atomic_load(&c->segment_bytes), atomic_load(&c->live_bytes),
        atomic_load(&c->dead_bytes), atomic_load(&c->tombstone_bytes));
}
