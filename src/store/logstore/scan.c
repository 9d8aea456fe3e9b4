/*
 * scan.c - one page of keys in bytewise order.
 *
 * Provides: scan_page().
 * Used by:  logstore's store_scan_keys().
 * Threads:  see scan.h.
 *
 * The delta is in no order, the index in two (short keys, hashed keys). So all of them go through
 * one heap that holds the smallest keys found so far, one more than the page needs: that one says
 * whether there are more. The delta's generations come first; what is in the index then matters
 * only up to the heap's largest key, and where the delta has no newer state of the key.
 */
#include "store/logstore/scan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"

struct candidate {
    struct slice key; /* in a generation of the delta, or in `owned` */
    char *owned;
};

struct page {
    const struct scan *scan;
    const struct delta *shadow; /* while the frozen generation is walked: the active one */
    struct slice prefix;
    struct slice after;
    bool have_after;
    struct candidate *heap; /* the largest key on top */
    size_t count;
    size_t room;
    size_t limit;
    struct buf key; /* of a long key's record */
    int rc;         /* of the first failure */
};

/* ---- the heap ---- */

static void swap_candidates(struct candidate *a, struct candidate *b)
{
    struct candidate other = *a;

    *a = *b;
    *b = other;
}

static int compare_candidates(const void *a, const void *b)
{
    return slice_compare(((const struct candidate *)a)->key, ((const struct candidate *)b)->key);
}

static void sift_up(struct candidate *heap, size_t i)
{
    while (i > 0 && compare_candidates(&heap[i], &heap[(i - 1) / 2]) > 0) {
        swap_candidates(&heap[i], &heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
}

static void sift_down(struct candidate *heap, size_t count)
{
    size_t i = 0;

    for (;;) {
        size_t largest = i;

        for (size_t child = 2 * i + 1; child < count && child <= 2 * i + 2; child++)
            if (compare_candidates(&heap[child], &heap[largest]) > 0)
                largest = child;
        if (largest == i)
            return;
        swap_candidates(&heap[i], &heap[largest]);
        i = largest;
    }
}

/* True if a key that is not smaller than this one cannot be on the page. */
static bool page_is_full_below(const struct page *p, struct slice key)
{
    return p->count == p->limit && slice_compare(key, p->heap[0].key) >= 0;
}

static bool page_wants(const struct page *p, struct slice key)
{
    return slice_starts(key, p->prefix) && !(p->have_after && slice_compare(key, p->after) <= 0) &&
           !page_is_full_below(p, key);
}

/* Room for one more candidate. 0 or -ENOMEM. */
static int page_reserve(struct page *p)
{
    size_t room = p->room == 0 ? 64 : p->room * 2;
    struct candidate *heap;

    if (p->count < p->room)
        return 0;
    heap = reallocarray(p->heap, room, sizeof(*heap));
    if (heap == NULL)
        return -ENOMEM;
    p->heap = heap;
    p->room = room;
    return 0;
}

/* Takes a key that the page wants; of a full page the largest goes. `owned` (may be NULL) is ours
 * now. */
static void page_take(struct page *p, struct slice key, char *owned)
{
    if (p->count == p->limit) {
        free(p->heap[0].owned);
        p->heap[0] = (struct candidate){key, owned};
        sift_down(p->heap, p->count);
        return;
    }
    p->rc = page_reserve(p);
    if (p->rc != 0) {
        free(owned);
        return;
    }
    p->heap[p->count] = (struct candidate){key, owned};
    sift_up(p->heap, p->count);
    p->count++;
}

static void page_take_copy(struct page *p, struct slice key)
{
    char *copy = malloc(key.len + 1);

    if (copy == NULL) {
        p->rc = -ENOMEM;
        return;
    }
    if (key.len > 0)
        memcpy(copy, key.ptr, key.len);
    page_take(p, slice_of(copy, key.len), copy);
}

/* ---- the delta ---- */

static bool is_in(const struct page *p, const struct delta *d, uint64_t hash, struct slice key)
{
    struct entry e;

    return d != NULL && delta_find(d, hash, key, p->scan->visible_seq, &e, NULL);
}

static void take_item(const struct delta_item *item, void *arg)
{
    struct page *p = arg;

    if (p->rc != 0 || !page_wants(p, item->key) || !p->scan->is_live(p->scan->ctx, item->entry))
        return;
    if (p->shadow != NULL && is_in(p, p->shadow, hash_slice(item->key), item->key))
        return;
    page_take(p, item->key, NULL);
}

static void take_delta(struct page *p)
{
    const struct scan *s = p->scan;

    if (s->active != NULL)
        delta_walk(s->active, s->visible_seq, take_item, p);
    p->shadow = s->active;
    if (s->frozen != NULL && s->frozen != s->active)
        delta_walk(s->frozen, s->visible_seq, take_item, p);
}

/* ---- the index ---- */

/* Takes a key of the index unless the delta has a newer state of it. */
static void take_row(struct page *p, struct slice key)
{
    uint64_t hash;

    if (!page_wants(p, key))
        return;
    hash = hash_slice(key);
    if (!is_in(p, p->scan->active, hash, key) && !is_in(p, p->scan->frozen, hash, key))
        page_take_copy(p, key);
}

static bool take_plain_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct page *p = arg;
    struct slice key = slice_after(index_key, 1);

    if (index_key.ptr[0] != INDEX_FAMILY_PLAIN || !slice_starts(key, p->prefix) ||
        page_is_full_below(p, key))
        return false;
    if (p->scan->is_live(p->scan->ctx, e))
        take_row(p, key);
    return p->rc == 0;
}

/* Rows come in the order of their first INDEX_PREFIX_MAX bytes; the keys are longer, and behind
 * them in any order. */
static bool take_hashed_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct page *p = arg;
    struct slice prefix = p->prefix;
    struct slice start;
    int rc;

    if (index_key.ptr[0] != INDEX_FAMILY_HASHED || index_key.len != INDEX_KEY_MAX)
        return false;
    start = slice_of(index_key.ptr + 1, INDEX_PREFIX_MAX);
    if (prefix.len > INDEX_PREFIX_MAX)
        prefix.len = INDEX_PREFIX_MAX;
    if (!slice_starts(start, prefix) || page_is_full_below(p, start))
        return false;
    if (!p->scan->is_live(p->scan->ctx, e))
        return true;
    p->key.len = 0;
    rc = p->scan->full_key(p->scan->ctx, e, &p->key);
    if (rc == 0)
        take_row(p, buf_slice(&p->key));
    else if (rc != -ENOENT)
        p->rc = rc;
    return p->rc == 0;
}

/* Walks the rows of a family from the first that can be on the page. */
static void take_family(struct page *p, char family,
                        bool (*take)(struct slice index_key, const struct entry *e, void *arg))
{
    struct slice least = p->prefix;
    char from[1 + INDEX_PREFIX_MAX];
    int rc;

    if (p->rc != 0)
        return;
    if (p->have_after && slice_compare(p->after, least) > 0)
        least = p->after;
    if (least.len > INDEX_PREFIX_MAX)
        least.len = INDEX_PREFIX_MAX;
    from[0] = family;
    if (least.len > 0)
        memcpy(from + 1, least.ptr, least.len);
    rc = index_walk(p->scan->reader, slice_of(from, 1 + least.len), take, p);
    if (p->rc == 0)
        p->rc = rc;
}

int scan_page(const struct scan *scan, struct slice prefix, bool have_after, struct slice after,
              unsigned limit, void (*each)(struct slice key, void *arg), void *arg)
{
    struct page p = {
        .scan = scan,
        .prefix = prefix,
        .after = after,
        .have_after = have_after,
        .limit = (size_t)limit + 1,
    };
    int rc;

    take_delta(&p);
    take_family(&p, INDEX_FAMILY_PLAIN, take_plain_row);
    take_family(&p, INDEX_FAMILY_HASHED, take_hashed_row);
    rc = p.rc;
    if (rc == 0 && p.count > 0) {
        qsort(p.heap, p.count, sizeof(*p.heap), compare_candidates);
        for (size_t i = 0; i < p.count && i < limit; i++)
            each(p.heap[i].key, arg);
        rc = p.count > limit ? 1 : 0;
    }
    for (size_t i = 0; i < p.count; i++)
        free(p.heap[i].owned);
    free(p.heap);
    buf_free(&p.key);
    return rc;
}
