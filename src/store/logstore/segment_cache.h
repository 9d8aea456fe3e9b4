/*
 * segment_cache.h - how many files of segments are open at a time.
 *
 * Provides: struct segment_cache (one a store), and segment_open() of segment.h.
 * Used by:  segments.c (every published segment belongs to it), background (trims it), segment.c.
 * Threads:  any; segment_cache_trim() one at a time, not inside grace.
 * Locks:    segment_cache.mutex, for moments, never over a file operation.
 *
 * A store of thousands of segments holds the descriptors and mappings of those in use only. A
 * reader that finds a file closed has it opened by the pool. Closing waits until no reader can be
 * about to use the mapping, so it is done in the background, a few files at a time; beyond twice
 * the bound a file is opened for one use only.
 */
#ifndef LOGSTORE_SEGMENT_CACHE_H
#define LOGSTORE_SEGMENT_CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "store/logstore/grace.h"
#include "store/logstore/segment.h"

#define SEGMENT_FILES_DEFAULT 1024u

struct segment_cache {
    pthread_mutex_t mutex;
    size_t bound; /* files that may stay open */
    struct segment **open;
    size_t count;
    size_t room;
    size_t hand; /* where the next look at what is not used begins */
    _Atomic size_t open_files;
    _Atomic uint64_t opened; /* since the start */
};

/* bound 0: as many as suit most. */
void segment_cache_init(struct segment_cache *c, size_t bound);
void segment_cache_fini(struct segment_cache *c);

/* The segment belongs to the cache from now on. 0 or -ENOMEM. */
int segment_cache_adopt(struct segment_cache *c, struct segment *s);

/* The segment is about to be freed. */
void segment_cache_forget(struct segment *s);

/* Closes files beyond the bound that were not used for a while. */
void segment_cache_trim(struct segment_cache *c, struct grace *grace);

/* True: segment_cache_trim() has something to do. */
bool segment_cache_is_full(const struct segment_cache *c);

/* segment.c: wraps a descriptor and maps the file. 0 or -ENOMEM. */
int segment_file_new(int fd, size_t map_bytes, struct segment_file **out);

#endif
