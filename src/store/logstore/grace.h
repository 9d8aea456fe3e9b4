/*
 * grace.h - when may memory that readers look at without locks be freed: epochs.
 *
 * Provides: struct grace (one a store), struct grace_reader (one a reading thread), grace_wait().
 * Used by:  ports, writer, scans (enter and leave); checkpoint and recovery (wait, then free).
 * Threads:  a reader struct belongs to one thread at a time; grace_wait() from any thread that is
 *           not inside.
 */
#ifndef LOGSTORE_GRACE_H
#define LOGSTORE_GRACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct grace_reader {
    _Alignas(64) _Atomic uint64_t inside; /* 0: outside, else the epoch in which it entered */
    struct grace_reader *next;
};

struct grace {
    _Atomic uint64_t epoch;
    pthread_mutex_t mutex; /* the list of readers; taken last */
    struct grace_reader *readers;
};

void grace_init(struct grace *g);
void grace_fini(struct grace *g);
void grace_add(struct grace *g, struct grace_reader *r);
void grace_remove(struct grace *g, struct grace_reader *r);

/* From enter to leave nothing that was published is freed. Short: no waiting inside. */
static inline void grace_enter(struct grace *g, struct grace_reader *r)
{
    atomic_store_explicit(&r->inside, atomic_load_explicit(&g->epoch, memory_order_relaxed),
                          memory_order_relaxed);
    /* The published pointers are read after the mark is visible. */
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void grace_leave(struct grace_reader *r)
{
    atomic_store_explicit(&r->inside, 0, memory_order_release);
}

/* Returns when every reader that could have seen what was published before the call has left. */
void grace_wait(struct grace *g);

#endif
