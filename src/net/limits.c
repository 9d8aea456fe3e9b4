/*
 * limits.c - time limits, by one sweep per second over a worker's connections.
 *
 * Provides: limits_sweep().
 * Threads:  the worker's.
 *
 * A sweep over 10,000 connections costs a fraction of a millisecond; timers per connection would
 * cost something at each request.
 */
#include "net/net_internal.h"

enum verdict { STAYS, IDLE_TOO_LONG, STALLED, LINGERED, REVOKED };

static bool is_over(int64_t quiet_ms, int64_t limit_ms)
{
    return limit_ms > 0 && quiet_ms >= limit_ms;
}

static enum verdict judge(const struct conn *c)
{
    const struct net_config *config = &c->worker->net->config;
    int64_t quiet_ms = c->worker->now_ms - c->moved_ms;

    if (c->flags & CONN_LINGER)
        return is_over(quiet_ms, NET_LINGER_MS) ? LINGERED : STAYS;
    if (output_is_revoked(c))
        return REVOKED; /* however well it goes: what it keeps is needed */
    if (output_reads_ahead(c))
        return STAYS; /* it waits for us */
    /* So does one whose session holds; unless the client owes us first, and takes no output. */
    if ((c->flags & (CONN_HOLD | CONN_BUSY)) != 0 && output_pending(c) == 0)
        return STAYS;
    if (conn_is_between_requests(c))
        return is_over(quiet_ms, config->idle_timeout_ms) ? IDLE_TOO_LONG : STAYS;
    return is_over(quiet_ms, config->stall_timeout_ms) ? STALLED : STAYS;
}

void limits_sweep(struct worker *w)
{
    for (struct conn *c = w->conns; c != NULL; c = c->next) {
        enum verdict verdict = judge(c);

        if (verdict == STAYS)
            continue;
        if (verdict == IDLE_TOO_LONG)
            counter_add(&w->counters, COUNTER_IDLE_KICKS, 1);
        else if (verdict == STALLED)
            counter_add(&w->counters, COUNTER_STALLED_KICKS, 1);
        else if (verdict == REVOKED)
            counter_add(&w->counters, COUNTER_PINNED_KICKS, 1);
        conn_abort(c);
    }
}
