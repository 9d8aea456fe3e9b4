/*
 * delta_sort.c - sorts nodes of the delta by their keys.
 *
 * Provides: delta_sort_*() of delta_impl.h.
 * Used by:  delta.c (for checkpoints), delta_view.c (for scans).
 * Threads:  pure.
 *
 * Comparing words that lie side by side is several times faster than comparing keys all over the
 * memory: so the keys are sorted by a few bytes at a time, and where these agree by the next few.
 */
#include <stdlib.h>

#include "store/logstore/delta_impl.h"
#include "store/logstore/index.h"

/* Bytes of a key that one pass looks at. */
#define STEP 7u

typedef int compare_slots(const void *a, const void *b);

/* STEP bytes of the key from `depth` (at most its length) on, zero-filled, and below them how many
 * there were (STEP + 1: more follow). Keys that agree up to `depth` have the order of these words,
 * as far as the words differ. */
static uint64_t sort_word(struct slice key, size_t depth)
{
    size_t rest = key.len - depth;
    uint64_t word = 0;

    for (size_t i = 0; i < STEP; i++)
        word = word << 8 | (i < rest ? (unsigned char)key.ptr[depth + i] : 0);
    return word << 8 | (rest > STEP ? STEP + 1 : rest);
}

static int compare_words(const void *a, const void *b)
{
    uint64_t x = ((const struct delta_slot *)a)->word;
    uint64_t y = ((const struct delta_slot *)b)->word;

    return (x > y) - (x < y);
}

static struct slice slot_key(const void *slot)
{
    return delta_node_key(((const struct delta_slot *)slot)->node);
}

static int compare_for_index(const void *a, const void *b)
{
    return index_compare_keys(slot_key(a), slot_key(b));
}

static int compare_bytewise(const void *a, const void *b)
{
    return slice_compare(slot_key(a), slot_key(b));
}

/* Sorts keys that agree in their first `depth` bytes; `compare` decides where these are as many as
 * an index key holds. */
static void sort_slots(struct delta_slot *slots, size_t count, size_t depth, compare_slots *compare)
{
    size_t end;

    if (count < 2)
        return;
    if (depth + STEP > INDEX_PREFIX_MAX) {
        qsort(slots, count, sizeof *slots, compare);
        return;
    }
    for (size_t i = 0; i < count; i++)
        slots[i].word = sort_word(slot_key(&slots[i]), depth);
    qsort(slots, count, sizeof *slots, compare_words);
    for (size_t i = 0; i < count; i = end) {
        for (end = i + 1; end < count && slots[end].word == slots[i].word; end++)
            ;
        if ((slots[i].word & 0xff) > STEP) /* else they are equal */
            sort_slots(slots + i, end - i, depth + STEP, compare);
    }
}

/* Long keys have a family of their own, behind all others: brings them to the end. Returns how many
 * others there are. */
static size_t sort_families(struct delta_slot *slots, size_t count)
{
    size_t plain = 0;

    for (size_t i = 0; i < count; i++) {
        struct delta_slot slot = slots[i];

        if (slot.node->key_len > INDEX_PREFIX_MAX)
            continue;
        slots[i] = slots[plain];
        slots[plain++] = slot;
    }
    return plain;
}

void delta_sort_for_index(struct delta_slot *slots, size_t count)
{
    size_t plain = sort_families(slots, count);

    sort_slots(slots, plain, 0, compare_for_index);
    sort_slots(slots + plain, count - plain, 0, compare_for_index);
}

void delta_sort_bytewise(struct delta_slot *slots, size_t count)
{
    sort_slots(slots, count, 0, compare_bytewise);
}
