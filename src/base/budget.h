/*
 * budget.h - one bound on the memory that clients can make us hold.
 *
 * Counts bytes held (bodies in pieces, unparsed input, unsent output), never bytes announced. Past
 * the bound new work is refused with the protocol's own "busy" error.
 *
 * Used by:  net (input and output queues), sessions (bodies).
 * Threads:  any.
 */
#ifndef BASE_BUDGET_H
#define BASE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct budget {
    size_t limit_bytes;
    _Atomic size_t held_bytes;
};

/* Takes n bytes if they fit. False: nothing was taken. */
static inline bool budget_take(struct budget *b, size_t n)
{
    size_t held = atomic_fetch_add_explicit(&b->held_bytes, n, memory_order_relaxed);

    if (held > b->limit_bytes || n > b->limit_bytes - held) {
        atomic_fetch_sub_explicit(&b->held_bytes, n, memory_order_relaxed);
        return false;
    }
    return true;
}

static inline void budget_give(struct budget *b, size_t n)
{
    atomic_fetch_sub_explicit(&b->held_bytes, n, memory_order_relaxed);
}

#endif
