/*
 * hash.c - XXH3-64 by libxxhash.
 *
 * Provides: hash_bytes(), hash_stream_*().
 * Used by:  the store (checksums), the delta and other hash tables.
 * Threads:  pure; a stream belongs to its owner.
 */
#include "base/hash.h"

/* Compiled into this file instead of linked: keys are short, and there the call costs as much as
 * the hash. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdlib.h>

#if HAVE_XXH_DISPATCH
/* The library's own, for what this processor can do: two to five times as fast on long data as
 * what every processor of the architecture can. Its header does not go with XXH_INLINE_ALL. */
XXH64_hash_t XXH3_64bits_dispatch(const void *input, size_t len);

/* The library makes its choice at the first call: before there are threads. */
static void __attribute__((constructor)) choose_vectors(void)
{
    static const char zeros[XXH3_MIDSIZE_MAX + 1];

    (void)XXH3_64bits_dispatch(zeros, sizeof(zeros));
}
#endif

struct hash_stream {
    XXH3_state_t state; /* aligned to 64 bytes by its type */
};

uint64_t hash_bytes(const void *data, size_t len)
{
#if HAVE_XXH_DISPATCH
    if (len > XXH3_MIDSIZE_MAX)
        return XXH3_64bits_dispatch(data, len);
#endif
    return XXH3_64bits(data, len);
}

uint64_t hash_seeded(uint64_t seed, const void *data, size_t len)
{
    return XXH3_64bits_withSeed(data, len, seed);
}

struct hash_stream *hash_stream_new(void)
{
    struct hash_stream *h = aligned_alloc(_Alignof(struct hash_stream), sizeof(*h));

    if (h != NULL)
        hash_stream_reset(h);
    return h;
}

void hash_stream_reset(struct hash_stream *h)
{
    XXH3_INITSTATE(&h->state);
    XXH3_64bits_reset(&h->state);
}

void hash_stream_add(struct hash_stream *h, const void *data, size_t len)
{
    if (len > 0)
        XXH3_64bits_update(&h->state, data, len);
}

uint64_t hash_stream_sum(const struct hash_stream *h)
{
    return XXH3_64bits_digest(&h->state);
}

void hash_stream_free(struct hash_stream *h)
{
    free(h);
}
