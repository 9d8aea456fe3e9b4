/*
 * delta_impl.h - what the delta's own files share: the node, sorting, the parts of a generation
 * that delta_view.c owns.
 *
 * Used by:  delta.c, delta_sort.c, delta_view.c.
 */
#ifndef LOGSTORE_DELTA_IMPL_H
#define LOGSTORE_DELTA_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "store/logstore/delta.h"
#include "store/logstore/delta_view.h"

/* One delta_put(). Immutable once published. */
struct delta_node {
    uint64_t seq;
    uint32_t prev; /* reference to the node that this one replaced */
    uint32_t key_len;
    struct entry entry;
    char key[];
};

static inline struct slice delta_node_key(const struct delta_node *n)
{
    return slice_of(n->key, n->key_len);
}

/* ---- delta.c ---- */

/* Calls each() for the nodes of the puts from one mark up to another (delta_mark()), in their
 * order, also for those that were replaced or taken back, until it returns false. */
void delta_nodes(const struct delta *d, uint64_t from, uint64_t to,
                 bool (*each)(const struct delta_node *n, void *arg), void *arg);

/* ---- delta_sort.c ---- */

struct delta_slot {
    uint64_t word; /* the sort's own */
    const struct delta_node *node;
};

/* In the index's order; keys are distinct. */
void delta_sort_for_index(struct delta_slot *slots, size_t count);

/* In bytewise order of the whole keys; equal keys lie side by side. */
void delta_sort_bytewise(struct delta_slot *slots, size_t count);

/* ---- delta_view.c ---- */

/* The sorted runs of a generation's keys: nothing until somebody asks for a view. */
struct delta_order {
    pthread_mutex_t mutex; /* over a sort; taken last, never by the writer */
    uint64_t mark;         /* the runs hold the keys of all puts before */
    unsigned count;
    struct delta_run *runs[DELTA_RUNS_MAX];
    _Atomic size_t bytes; /* of all runs that are not freed yet */
};

void delta_order_init(struct delta_order *o);
void delta_order_fini(struct delta_order *o);

struct delta_order *delta_order_of(struct delta *d);

#endif
