/*
 * hash.h - XXH3-64, for checksums and for hash tables.
 *
 * Threads:  pure; a stream belongs to its owner.
 */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdint.h>

#include "base/slice.h"

uint64_t hash_bytes(const void *data, size_t len);

/* Another sum for every seed. */
uint64_t hash_seeded(uint64_t seed, const void *data, size_t len);

static inline uint64_t hash_slice(struct slice s)
{
    return hash_bytes(s.ptr, s.len);
}

/* The same sum over pieces. hash_stream_new() returns NULL when memory is short. */
struct hash_stream;
struct hash_stream *hash_stream_new(void);
void hash_stream_reset(struct hash_stream *h);
void hash_stream_add(struct hash_stream *h, const void *data, size_t len);
uint64_t hash_stream_sum(const struct hash_stream *h);
void hash_stream_free(struct hash_stream *h);

#endif
