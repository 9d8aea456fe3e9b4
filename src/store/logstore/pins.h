/*
 * pins.h - files without a name that somebody still reads: what they keep of the disk, and who has
 *          to go when that is too much.
 *
 * Provides: struct pins (one a store), struct pin (a part of every open file), pins_*().
 * Used by:  segments and files of big values, when their names are removed and when they are closed;
 *           holds of readers, which look at `revoked`.
 * Threads:  any.
 * Locks:    pins.mutex, taken last, for moments.
 *
 * A reply that is being sent needs its file as long as its client takes to read it. Beyond the cap
 * the files that have been without a name the longest are revoked, one after the other: whoever
 * still sends from them is to be closed.
 */
#ifndef LOGSTORE_PINS_H
#define LOGSTORE_PINS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PINS_CAP_DEFAULT (UINT64_C(1) << 30)

struct pins;

/* All zero in a file that has its name. */
struct pin {
    struct pins *pins; /* NULL: not pinned */
    struct pin *prev;
    struct pin *next;
    uint64_t bytes;
    _Atomic bool revoked; /* readers of this file are to be closed */
};

struct pins {
    pthread_mutex_t mutex;
    struct pin *first; /* without a name the longest */
    struct pin *last;
    uint64_t cap;
    _Atomic uint64_t bytes;   /* of all that are pinned */
    _Atomic uint64_t revoked; /* files revoked since the start */
};

void pins_init(struct pins *pins, uint64_t cap);
void pins_fini(struct pins *pins);

/* The file has lost its name and is still in use. Once for each. */
void pins_add(struct pins *pins, struct pin *pin, uint64_t bytes);

/* The file is closed: before its memory is freed. Fine for one that was never pinned. */
void pins_remove(struct pin *pin);

#endif
