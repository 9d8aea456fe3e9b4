/*
 * grace.c - epochs. See grace.h.
 */
#include "store/logstore/grace.h"

#include <time.h>

void grace_init(struct grace *g)
{
    atomic_init(&g->epoch, 1);
    pthread_mutex_init(&g->mutex, NULL);
    g->readers = NULL;
}

void grace_fini(struct grace *g)
{
    pthread_mutex_destroy(&g->mutex);
}

void grace_add(struct grace *g, struct grace_reader *r)
{
    atomic_init(&r->inside, 0);
    pthread_mutex_lock(&g->mutex);
    r->next = g->readers;
    g->readers = r;
    pthread_mutex_unlock(&g->mutex);
}

void grace_remove(struct grace *g, struct grace_reader *r)
{
    pthread_mutex_lock(&g->mutex);
    for (struct grace_reader **at = &g->readers; *at != NULL; at = &(*at)->next) {
        if (*at == r) {
            *at = r->next;
            break;
        }
    }
    pthread_mutex_unlock(&g->mutex);
}

void grace_wait(struct grace *g)
{
    /* Readers are inside for microseconds, a fault at most: looking again after a moment is cheaper
     * for them than telling us when they leave. */
    const struct timespec moment = {.tv_nsec = 200 * 1000};
    uint64_t now = atomic_fetch_add(&g->epoch, 1) + 1;

    atomic_thread_fence(memory_order_seq_cst);
    pthread_mutex_lock(&g->mutex);
    for (struct grace_reader *r = g->readers; r != NULL; r = r->next) {
        for (;;) {
            uint64_t inside = atomic_load_explicit(&r->inside, memory_order_acquire);

            if (inside == 0 || inside >= now)
                break;
            nanosleep(&moment, NULL);
        }
    }
    pthread_mutex_unlock(&g->mutex);
}
