/*
 * held_value.c - values that leave out of memory that the store keeps: see held_value.h.
 */
#include "session/held_value.h"

#include <stdlib.h>

struct held_value {
    struct budget *budget;
    void *hold; /* the store's */
    struct slice value;
};

struct held_value *held_value_take(struct session_worker *worker, struct store_get *get)
{
    struct held_value *held = malloc(sizeof(*held));

    if (held == NULL || !budget_take(worker->budget, get->rec.value.len)) {
        free(held);
        return NULL;
    }
    held->budget = worker->budget;
    held->value = get->rec.value;
    held->hold = store_get_take_hold(get);
    return held;
}

void held_value_drop(struct held_value *held)
{
    budget_give(held->budget, held->value.len);
    store_hold_release(held->hold);
    free(held);
}

void held_file_send(struct conn *c, struct store_get *get, uint64_t bytes)
{
    void *hold = store_get_take_hold(get);

    conn_write_file(c, get->file_fd, get->file_offset, bytes, store_hold_revoked(hold),
                    store_hold_release, hold);
}

/* Net's release call. */
static void release(void *arg)
{
    held_value_drop(arg);
}

void held_value_send(struct conn *c, struct held_value *held)
{
    conn_write_memory(c, held->value.ptr, held->value.len, release, held);
}
