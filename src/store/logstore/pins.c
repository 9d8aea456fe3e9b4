/*
 * pins.c - see pins.h.
 */
#include "store/logstore/pins.h"

#include <stddef.h>

void pins_init(struct pins *pins, uint64_t cap)
{
    pthread_mutex_init(&pins->mutex, NULL);
    pins->first = pins->last = NULL;
    pins->cap = cap;
    atomic_init(&pins->bytes, 0);
    atomic_init(&pins->revoked, 0);
}

void pins_fini(struct pins *pins)
{
    pthread_mutex_destroy(&pins->mutex);
}

/* What is not going to go by itself soon, the oldest first, until the rest is within the cap. */
static void enforce_locked(struct pins *pins)
{
    uint64_t left = atomic_load(&pins->bytes);

    for (struct pin *pin = pins->first; pin != NULL && left > pins->cap; pin = pin->next) {
        left -= pin->bytes;
        if (!atomic_exchange(&pin->revoked, true))
            atomic_fetch_add(&pins->revoked, 1);
    }
}

void pins_add(struct pins *pins, struct pin *pin, uint64_t bytes)
{
    pthread_mutex_lock(&pins->mutex);
    pin->pins = pins;
    pin->bytes = bytes;
    pin->prev = pins->last;
    pin->next = NULL;
    if (pins->last == NULL)
        pins->first = pin;
    else
        pins->last->next = pin;
    pins->last = pin;
    atomic_fetch_add(&pins->bytes, bytes);
    enforce_locked(pins);
    pthread_mutex_unlock(&pins->mutex);
}

void pins_remove(struct pin *pin)
{
    struct pins *pins = pin->pins;

    if (pins == NULL)
        return;
    pthread_mutex_lock(&pins->mutex);
    if (pin->prev == NULL)
        pins->first = pin->next;
    else
        pin->prev->next = pin->next;
    if (pin->next == NULL)
        pins->last = pin->prev;
    else
        pin->next->prev = pin->prev;
    atomic_fetch_sub(&pins->bytes, pin->bytes);
    pin->pins = NULL;
    pthread_mutex_unlock(&pins->mutex);
}
