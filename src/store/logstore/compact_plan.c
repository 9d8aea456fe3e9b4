/*
 * compact_plan.c - which segments to compact next. See compact_plan.h.
 */
#include "store/logstore/compact_plan.h"

/* A run is no longer than this, however little is live in it. */
#define RUN_MAX 128u
/* So many files above the allowed multiple of full segments: two fewer than promised. */
#define FILES_SPARE 6u
/* Of a full segment: what the goal may be missed by, and what a step must free at least. */
#define SLACK_PART 16u
#define GAIN_PART 256u
/* What a step costs beside its bytes (files made, synced, removed), as a part of a full segment. */
#define STEP_PART 8u

/* The goal is met when dead bytes and tombstones are (100 - goal) percent; a run must hold at least
 * so much of that share. */
#define SHARE_NUM 2u
#define SHARE_DEN 5u

struct search {
    const struct plan_input *in;
    /* Tombstones of a run that begins at `first` go up to this seq. */
    uint64_t clean_before;
    struct plan best;
    uint64_t best_gain;
    uint64_t best_cost;
};

/* True: of a key whose newest state is at or below `seq`, no older record is here. */
static bool is_clean_up_to(const struct plan_segment *s, uint64_t seq)
{
    return s->clean_seq >= seq || s->bytes == s->live_bytes + s->tombstone_bytes;
}

static uint64_t clean_of(const struct plan_segment *s)
{
    return is_clean_up_to(s, UINT64_MAX) ? UINT64_MAX : s->clean_seq;
}

static bool may_move(const struct plan_segment *s)
{
    return s->settled && !s->kept;
}

/* The bytes of segment s that a run which begins behind `clean_before` keeps. */
static uint64_t kept_bytes(const struct plan_segment *s, uint64_t clean_before)
{
    uint64_t named = s->live_bytes + s->tombstone_bytes;

    if (clean_before >= s->last_seq)
        return s->live_bytes < s->bytes ? s->live_bytes : s->bytes;
    return named < s->bytes ? named : s->bytes;
}

/* Fractions a/b against c/d; the figures are bytes of runs, far below 2^64 each. */
static bool is_better(uint64_t gain, uint64_t cost, const struct search *s)
{
    return (__uint128_t)gain * s->best_cost > (__uint128_t)s->best_gain * cost;
}

static void offer(struct search *s, size_t first, size_t count, uint64_t kept, uint64_t gain,
                  uint64_t cost)
{
    if (kept > s->in->room_bytes)
        return;
    if (s->best.step != PLAN_NOTHING && !is_better(gain, cost, s))
        return;
    s->best = (struct plan){PLAN_COMPACT, first, count, kept, 0};
    s->best_gain = gain;
    s->best_cost = cost;
}

/* Calls each() for every run from `first` on whose records fit into one segment. */
static void runs_from(struct search *s, size_t first,
                      void (*each)(struct search *s, size_t first, size_t count, uint64_t bytes,
                                   uint64_t kept))
{
    const struct plan_input *in = s->in;
    uint64_t bytes = 0;
    uint64_t kept = 0;

    for (size_t i = first; i < in->count && i - first < RUN_MAX && may_move(&in->segments[i]);
         i++) {
        bytes += in->segments[i].bytes;
        kept += kept_bytes(&in->segments[i], s->clean_before);
        /* A segment that is too long by itself (the size was changed) may be compacted alone. */
        if (i > first && kept + in->header_bytes > in->segment_bytes)
            break;
        each(s, first, i - first + 1, bytes, kept);
    }
}

static void all_runs(struct search *s, void (*each)(struct search *s, size_t first, size_t count,
                                                    uint64_t bytes, uint64_t kept))
{
    s->clean_before = UINT64_MAX;
    for (size_t first = 0; first < s->in->count; first++) {
        uint64_t clean = clean_of(&s->in->segments[first]);

        if (may_move(&s->in->segments[first]))
            runs_from(s, first, each);
        if (clean < s->clean_before)
            s->clean_before = clean;
    }
}

/* ---- freeing bytes ---- */

static void offer_gain(struct search *s, size_t first, size_t count, uint64_t bytes, uint64_t kept)
{
    const struct plan_input *in = s->in;
    uint64_t gain = bytes - kept;
    uint64_t share = bytes / 100 * (100 - in->live_percent) * SHARE_NUM / SHARE_DEN;

    if (gain >= in->segment_bytes / GAIN_PART && gain > 0 && gain >= share)
        offer(s, first, count, kept, gain, kept + bytes / 4 + in->segment_bytes / STEP_PART);
}

/* ---- fewer files ---- */

static void offer_merge(struct search *s, size_t first, size_t count, uint64_t bytes, uint64_t kept)
{
    (void)bytes;
    if (count > 1)
        offer(s, first, count, kept, count - 1, kept + s->in->segment_bytes / STEP_PART);
}

static bool has_too_many_files(const struct plan_input *in)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < in->count; i++)
        bytes += in->segments[i].bytes + in->header_bytes;
    return in->count > 2 * bytes / in->segment_bytes + FILES_SPARE;
}

/* ---- freeing tombstones ---- */

/* The last tombstone that could go if all before it were clean. 0: none. */
static uint64_t last_pinned(const struct plan_input *in)
{
    uint64_t last = 0;

    for (size_t i = 0; i < in->count && in->segments[i].settled; i++) {
        const struct plan_segment *s = &in->segments[i];

        /* What must stay, and holds dead bytes, pins everything behind it for good. */
        if (s->kept && !is_clean_up_to(s, UINT64_MAX))
            break;
        if (!s->kept && s->tombstone_bytes > 0)
            last = s->last_seq;
    }
    return last;
}

static void offer_longest(struct search *s, size_t first, size_t count, uint64_t bytes,
                          uint64_t kept)
{
    (void)bytes;
    if (kept <= s->in->room_bytes)
        s->best = (struct plan){PLAN_COMPACT, first, count, kept, 0};
}

/* The oldest segment that pins tombstones, and what fits into one segment with it. */
static void plan_cleaning(struct search *s)
{
    const struct plan_input *in = s->in;
    uint64_t pinned = last_pinned(in);

    s->clean_before = UINT64_MAX;
    for (size_t i = 0; i < in->count && in->segments[i].last_seq < pinned; i++) {
        if (!is_clean_up_to(&in->segments[i], pinned)) {
            runs_from(s, i, offer_longest);
            return;
        }
    }
}

/* ---- the plan ---- */

/* Bytes of closed segments above what the goal allows for so much live. */
static uint64_t above_goal(const struct plan_input *in, uint64_t live)
{
    uint64_t allowed = live / in->live_percent * 100 + in->segment_bytes / SLACK_PART;
    uint64_t closed = 0;

    for (size_t i = 0; i + 1 < in->count; i++)
        closed += in->segments[i].bytes;
    return closed > allowed ? closed - allowed : 0;
}

/* What is live as far as the index knows; above the checkpoint everything may be. */
static uint64_t known_live(const struct plan_input *in)
{
    uint64_t live = in->above_bytes;

    for (size_t i = 0; i < in->count; i++)
        live += in->segments[i].live_bytes;
    return live;
}

struct plan compact_plan(const struct plan_input *in)
{
    struct search s = {.in = in};
    uint64_t live = known_live(in);
    uint64_t debt = above_goal(in, in->live_bytes < live ? in->live_bytes : live);

    if (above_goal(in, live) > 0)
        all_runs(&s, offer_gain);
    if (s.best.step == PLAN_NOTHING && has_too_many_files(in))
        all_runs(&s, offer_merge);
    if (s.best.step == PLAN_NOTHING && above_goal(in, live) > 0)
        plan_cleaning(&s);
    if (s.best.step == PLAN_NOTHING && debt > 0)
        s.best.step = PLAN_CHECKPOINT;
    s.best.debt_bytes = debt;
    return s.best;
}
