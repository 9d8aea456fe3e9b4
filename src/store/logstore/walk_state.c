/*
 * walk_state.c - what the records of a log do to its registers: clock, flushes, vectors.
 *
 * Provides: walk_state_enter(), walk_state_apply(), walk_is_flushed().
 * Used by:  walk_read.c, ttctl.
 * Threads:  one.
 *
 * The same rules as keyspace.c's, on a state of its own and without keys.
 */
#include "store/logstore/walk.h"

#include <stdlib.h>

static void raise_clock(struct walk_state *state, uint64_t version)
{
    if (version > state->clock)
        state->clock = version;
}

static struct stamp at_moment(int64_t moment_ms)
{
    return (struct stamp){.version = (uint64_t)moment_ms << 16};
}

static void raise_flush(struct walk_state *state, struct stamp flush)
{
    if (stamp_compare(flush, state->flush) > 0)
        state->flush = flush;
}

/* A delayed flush whose moment has come by the log's own clock. */
static void fold(struct walk_state *state, int64_t now_ms)
{
    if (state->pending_ms == 0 || state->pending_ms > now_ms)
        return;
    raise_flush(state, at_moment(state->pending_ms));
    state->pending_ms = 0;
}

static void take_pending(struct walk_state *state, struct stamp pending, int64_t moment_ms)
{
    if (stamp_compare(pending, state->pending) <= 0)
        return;
    state->pending = pending;
    state->pending_ms = moment_ms;
}

void walk_state_enter(struct walk_state *state, const struct walk_segment *s)
{
    const struct segment_header *h = &s->header;
    struct vectors *theirs;

    if (!s->has_header)
        return;
    raise_clock(state, h->clock);
    raise_flush(state, h->flush);
    if (stamp_compare(h->flush_pending, state->pending) == 0 && h->flush_pending_ms == 0)
        state->pending_ms = 0; /* its moment came before this segment */
    take_pending(state, h->flush_pending, h->flush_pending_ms);
    theirs = malloc(sizeof(*theirs)); /* too large for a stack */
    if (theirs != NULL && vectors_decode(h->vectors, theirs))
        vectors_merge(&state->vectors, theirs);
    free(theirs);
}

void walk_state_apply(struct walk_state *state, const struct record *r)
{
    state->seq = r->seq;
    if (r->kind != RECORD_MARKER)
        state->logged = r->logged;
    fold(state, (int64_t)(r->logged.version >> 16));
    raise_clock(state, r->base.version);
    raise_clock(state, r->logged.version);
    raise_clock(state, r->touch.version);
    for (unsigned i = 0; i < r->slot_count; i++)
        raise_clock(state, r->slots[i].stamp.version);
    state->clean = r->kind == RECORD_MARKER && r->value.len > 0 && r->value.ptr[0] == 1;
    if (r->kind != RECORD_MARKER)
        vectors_raise(&state->vectors, r->logged);
    if (r->kind != RECORD_FLUSH)
        return;
    if (r->expires_ms == 0)
        raise_flush(state, r->base);
    take_pending(state, r->base, r->expires_ms);
}

bool walk_is_flushed(const struct walk_state *state, struct stamp base, int64_t now_ms)
{
    if (stamp_compare(base, state->flush) <= 0)
        return true;
    return state->pending_ms != 0 && state->pending_ms <= now_ms &&
           stamp_compare(base, at_moment(state->pending_ms)) <= 0;
}
