/*
 * index_cold.h - is the index in memory? If not, lookups are made where waiting for the disk hurts
 *                nobody.
 *
 * Provides: struct index_cold (a part of struct logstore), index_cold_*().
 * Used by:  reader (asks, and reads on the pool), background (looks every second), logstore.c.
 * Threads:  index_cold_is(): any; index_cold_read(): pool threads; index_cold_look(): background;
 *           index_cold_lock(): whoever has warmed the index, before the first look that locks.
 * Locks:    index_cold.mutex, for moments.
 *
 * LMDB reads its pages through a mapping: a page that is not resident stops the thread until the disk
 * has brought it. Once a second a sample of the file's pages is looked at. While more than a few in a
 * hundred are missing, network loops leave lookups that miss the delta to the pool first, which
 * reads the key's pages; the loop then looks again. Pages that nobody looks up may be missing for
 * ever (those that LMDB has set free): when the pool has met nearly no missing page for a while, the
 * loops look up by themselves for some seconds.
 */
#ifndef LOGSTORE_INDEX_COLD_H
#define LOGSTORE_INDEX_COLD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

struct index;
struct index_reader;

/* Pool threads that read at a time; index_open() must know them. */
#define INDEX_COLD_READERS 16u

struct index_cold {
    _Atomic bool cold;
    bool forced; /* tests: it is, whatever is resident */
    int fd;      /* of the index's file, -1: not open */
    pthread_mutex_t mutex;
    pthread_cond_t returned;
    struct index_reader *spare[INDEX_COLD_READERS];
    unsigned spare_count;
    unsigned reader_count; /* spare ones and those in use */
    _Atomic uint64_t reads;
    _Atomic uint64_t faults; /* reads that waited for the disk */
    _Atomic unsigned resident_percent;
    /* Background's own. */
    uint64_t random;
    uint64_t judged_reads;
    uint64_t judged_faults;
    int64_t looked_ms; /* monotonic */
    int64_t rest_until_ms;
    /* Keeping all of it in memory. */
    bool wants_lock;
    _Atomic bool may_lock; /* the index was read once */
    bool lock_refused;
    char *map;
    _Atomic uint64_t locked_bytes;
};

void index_cold_init(struct index_cold *c, bool forced, bool wants_lock);

/* With the index open: `path` is its file. */
void index_cold_begin(struct index_cold *c, struct index *index, const char *path);

/* Before index_close(). */
void index_cold_fini(struct index_cold *c);

/* True: a lookup may have to wait for the disk. */
static inline bool index_cold_is(const struct index_cold *c)
{
    return atomic_load_explicit(&c->cold, memory_order_relaxed);
}

/* Brings the key's pages into memory. Waits for the disk. */
void index_cold_read(struct index_cold *c, struct index *index, struct slice key);

/* Once in a while: looks at what is resident, if it is time to. */
void index_cold_look(struct index_cold *c, struct index *index);

/* The index was read into memory: from now on it may be locked there. */
void index_cold_warmed(struct index_cold *c);

/* Lines "name value\n". 0 or -ENOMEM. */
int index_cold_stat(const struct index_cold *c, struct buf *out);

#endif
