/*
 * delta.c - the in-memory index of what is not yet in LMDB.
 *
 * Provides: delta.h, and the nodes in the order of their puts for delta_view.c.
 * Used by:  the log writer (put, undo), readers (find), checkpoint (sorted), scans.
 * Threads:  one writer; any number of readers without locks.
 *
 * A slot is one atomic 64-bit word: the lower half of the key's hash and a reference to its newest
 * node. So a reader sees a slot before or after a change and never in between, a probe that meets
 * another key costs no look at a node, and a table grows without one. The shard comes from the
 * upper half of the hash.
 *
 * Ordering: the writer fills a node and then stores the slot with release; a reader loads the slot
 * with acquire and may then use plain loads on the node, on its chunk's address and on all older
 * nodes of the key. A new table of a shard is published in the same way by the shard's pointer. A
 * reader with the old table misses only what was put after it looked.
 */
#include "store/logstore/delta.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "store/logstore/delta_impl.h"

enum {
    SHARD_BITS = 6,
    SHARDS = 1 << SHARD_BITS,
    FIRST_SLOTS = 16, /* of a shard's first table */

    UNIT_SHIFT = 3, /* nodes are aligned to, and referred to in units of, 8 bytes */
    CHUNK_SHIFT = 20,
    CHUNK_MAX = 1 << CHUNK_SHIFT,
    CHUNK_FIRST = 8 * 1024,
    CHUNKS_MAX = 4096, /* 4 GiB of nodes; writers are slowed long before that */
};

/* References to nodes: (chunk number << CHUNK_SHIFT | byte offset) >> UNIT_SHIFT, from REF_FIRST
 * on. */
#define REF_NONE 0u /* empty slot; no older node */
#define REF_VACANT                                                                                 \
    1u /* slot of a key all of whose nodes were undone: probing goes on, readers see nothing */
#define REF_FIRST 2u

struct table {
    struct table *older; /* kept for readers until the generation is freed */
    uint32_t mask;       /* number of slots - 1 */
    _Atomic uint64_t slots[];
};

struct shard {
    _Atomic(struct table *) table; /* NULL: nothing was ever put here */
    uint32_t used;                 /* slots that are not empty; writer only */
};

struct delta {
    struct shard shards[SHARDS];
    _Atomic unsigned refs;
    _Atomic size_t count;
    _Atomic size_t bytes;
    _Atomic uint64_t mark; /* behind the newest node that a slot refers to */
    struct delta_order order;
    uint32_t chunk_count; /* writer only, like the next three */
    size_t chunk_size;    /* of the newest chunk */
    size_t chunk_used;
    size_t first_slots;              /* of each shard, from the expected number of keys */
    uint32_t chunk_ends[CHUNKS_MAX]; /* bytes used, once there is a next chunk */
    char *chunks[CHUNKS_MAX];
};

/* What a slot of this hash would hold for the node `ref`. */
static uint64_t slot_word(uint64_t hash, uint32_t ref)
{
    return hash << 32 | ref;
}

static uint32_t slot_ref(uint64_t word)
{
    return (uint32_t)word;
}

static bool slot_is_tagged(uint64_t word, uint64_t hash)
{
    return (uint32_t)(word >> 32) == (uint32_t)hash;
}

static unsigned shard_of(uint64_t hash)
{
    return (unsigned)(hash >> (64 - SHARD_BITS));
}

static const struct delta_node *node_at(const struct delta *d, uint32_t ref)
{
    size_t at = (size_t)ref << UNIT_SHIFT;

    return (const struct delta_node *)(const void *)(d->chunks[at >> CHUNK_SHIFT] +
                                                     (at & (CHUNK_MAX - 1)));
}

/* The newest node of the chain with seq <= visible_seq, or NULL. */
static const struct delta_node *node_visible(const struct delta *d, uint32_t ref,
                                             uint64_t visible_seq)
{
    while (ref != REF_NONE) {
        const struct delta_node *n = node_at(d, ref);

        if (n->seq <= visible_seq)
            return n;
        ref = n->prev;
    }
    return NULL;
}

static void count_bytes(struct delta *d, size_t n)
{
    size_t now = atomic_load_explicit(&d->bytes, memory_order_relaxed);

    atomic_store_explicit(&d->bytes, now + n, memory_order_relaxed);
}

static void count_keys(struct delta *d, size_t n)
{
    size_t now = atomic_load_explicit(&d->count, memory_order_relaxed);

    atomic_store_explicit(&d->count, now + n, memory_order_relaxed);
}

/* Slots of a shard's first table: a power of two that holds its share of `expected` keys at a load
 * of 2/3, with some room because no hash spreads keys evenly. */
static size_t slots_for(size_t expected)
{
    size_t share = expected / SHARDS;
    size_t want = share * 3 / 2 + share / 8;
    size_t slots = FIRST_SLOTS;

    while (slots < want && slots < 1u << 30)
        slots *= 2;
    return slots;
}

struct delta *delta_new(size_t expected)
{
    struct delta *d = calloc(1, sizeof *d);

    if (d == NULL)
        return NULL;
    d->first_slots = slots_for(expected);
    atomic_init(&d->refs, 1);
    atomic_init(&d->bytes, sizeof *d);
    delta_order_init(&d->order);
    return d;
}

void delta_ref(struct delta *d)
{
    atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
}

void delta_free(struct delta *d)
{
    if (d == NULL || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) > 1)
        return;
    delta_order_fini(&d->order);
    for (unsigned i = 0; i < SHARDS; i++) {
        struct table *t = atomic_load_explicit(&d->shards[i].table, memory_order_relaxed);

        while (t != NULL) {
            struct table *older = t->older;

            free(t);
            t = older;
        }
    }
    for (uint32_t i = 0; i < d->chunk_count; i++)
        free(d->chunks[i]);
    free(d);
}

/* Begins a new chunk with room for at least `need` bytes. 0 or -ENOMEM. */
static int chunk_add(struct delta *d, size_t need)
{
    size_t size = d->chunk_count == 0 ? CHUNK_FIRST : d->chunk_size * 2;
    char *chunk;

    if (d->chunk_count == CHUNKS_MAX)
        return -ENOMEM;
    while (size < need)
        size *= 2;
    if (size > CHUNK_MAX)
        size = CHUNK_MAX;
    chunk = malloc(size);
    if (chunk == NULL)
        return -ENOMEM;
    if (d->chunk_count > 0)
        d->chunk_ends[d->chunk_count - 1] = (uint32_t)d->chunk_used;
    d->chunks[d->chunk_count] = chunk;
    d->chunk_size = size;
    /* The first bytes of chunk 0 would have the references REF_NONE and REF_VACANT. */
    d->chunk_used = d->chunk_count == 0 ? REF_FIRST << UNIT_SHIFT : 0;
    d->chunk_count++;
    count_bytes(d, size);
    return 0;
}

static size_t node_size(size_t key_len)
{
    size_t unit = 1u << UNIT_SHIFT;

    return (sizeof(struct delta_node) + key_len + unit - 1) / unit * unit;
}

/* A new node that no reader sees yet. 0 or -ENOMEM. */
static int node_new(struct delta *d, struct slice key, const struct entry *e, uint64_t seq,
                    uint32_t prev, uint32_t *ref)
{
    size_t size = node_size(key.len);
    struct delta_node *n;
    size_t at;

    assert(key.len <= RECORD_KEY_MAX);
    if (d->chunk_count == 0 || d->chunk_size - d->chunk_used < size) {
        int rc = chunk_add(d, size + (REF_FIRST << UNIT_SHIFT));

        if (rc != 0)
            return rc;
    }
    n = (struct delta_node *)(void *)(d->chunks[d->chunk_count - 1] + d->chunk_used);
    at = ((size_t)(d->chunk_count - 1) << CHUNK_SHIFT) + d->chunk_used;
    d->chunk_used += size;
    n->seq = seq;
    n->prev = prev;
    n->key_len = (uint32_t)key.len;
    n->entry = *e;
    if (key.len > 0)
        memcpy(n->key, key.ptr, key.len);
    *ref = (uint32_t)(at >> UNIT_SHIFT);
    return 0;
}

/* The slot where the key is, or where it is to be put: the first vacant one on its way, else the
 * empty one behind. */
static _Atomic uint64_t *slot_for(const struct delta *d, struct table *t, uint64_t hash,
                                  struct slice key, bool *found)
{
    _Atomic uint64_t *vacant = NULL;

    for (uint32_t i = (uint32_t)hash & t->mask;; i = (i + 1) & t->mask) {
        uint64_t word = atomic_load_explicit(&t->slots[i], memory_order_relaxed);
        uint32_t ref = slot_ref(word);

        *found = false;
        if (ref == REF_NONE)
            return vacant != NULL ? vacant : &t->slots[i];
        if (ref == REF_VACANT) {
            if (vacant == NULL)
                vacant = &t->slots[i];
            continue;
        }
        *found = slot_is_tagged(word, hash) && slice_equal(delta_node_key(node_at(d, ref)), key);
        if (*found)
            return &t->slots[i];
    }
}

/* Copies the slots that refer to nodes; the hash's lower half in the word is all that their place
 * depends on. */
static uint32_t table_copy(const struct table *from, struct table *to)
{
    uint32_t used = 0;

    for (size_t i = 0; i <= from->mask; i++) {
        uint64_t word = atomic_load_explicit(&from->slots[i], memory_order_relaxed);
        uint32_t at = (uint32_t)(word >> 32) & to->mask;

        if (slot_ref(word) < REF_FIRST)
            continue;
        while (atomic_load_explicit(&to->slots[at], memory_order_relaxed) != 0)
            at = (at + 1) & to->mask;
        atomic_store_explicit(&to->slots[at], word, memory_order_relaxed);
        used++;
    }
    return used;
}

/* Makes room for one more key at a load of at most 2/3. 0 or -ENOMEM. */
static int shard_reserve(struct delta *d, struct shard *s, struct table **out)
{
    struct table *old = atomic_load_explicit(&s->table, memory_order_relaxed);
    size_t slots = old == NULL ? d->first_slots : (size_t)old->mask + 1;
    size_t bytes;
    struct table *t;

    *out = old;
    if (old != NULL && (size_t)s->used + 1 <= slots - slots / 3)
        return 0;
    if (old != NULL)
        slots *= 2;
    if (slots > 1u << 31)
        return -ENOMEM;
    bytes = sizeof *t + slots * sizeof t->slots[0];
    t = calloc(1, bytes);
    if (t == NULL)
        return -ENOMEM;
    t->older = old;
    t->mask = (uint32_t)(slots - 1);
    if (old != NULL)
        s->used = table_copy(old, t);
    atomic_store_explicit(&s->table, t, memory_order_release);
    count_bytes(d, bytes);
    *out = t;
    return 0;
}

/* A place in the nodes' memory, in the order of the puts. */
static uint64_t mark_of(uint32_t chunk, size_t offset)
{
    return (uint64_t)chunk << 32 | offset;
}

int delta_put(struct delta *d, uint64_t hash, struct slice key, const struct entry *e, uint64_t seq)
{
    struct shard *s = &d->shards[shard_of(hash)];
    struct table *t;
    _Atomic uint64_t *slot;
    uint64_t old;
    uint32_t ref;
    bool found;
    int rc = shard_reserve(d, s, &t);

    if (rc != 0)
        return rc;
    slot = slot_for(d, t, hash, key, &found);
    old = atomic_load_explicit(slot, memory_order_relaxed);
    rc = node_new(d, key, e, seq, found ? slot_ref(old) : REF_NONE, &ref);
    if (rc != 0)
        return rc;
    if (!found)
        count_keys(d, 1);
    if (old == 0)
        s->used++;
    atomic_store_explicit(slot, slot_word(hash, ref), memory_order_release);
    atomic_store_explicit(&d->mark, mark_of(d->chunk_count - 1, d->chunk_used),
                          memory_order_release);
    return 0;
}

void delta_undo(struct delta *d, uint64_t hash, struct slice key)
{
    struct shard *s = &d->shards[shard_of(hash)];
    struct table *t = atomic_load_explicit(&s->table, memory_order_relaxed);
    _Atomic uint64_t *slot;
    uint32_t prev;
    bool found;

    assert(t != NULL);
    slot = slot_for(d, t, hash, key, &found);
    assert(found);
    prev = node_at(d, slot_ref(atomic_load_explicit(slot, memory_order_relaxed)))->prev;
    if (prev == REF_NONE) {
        prev = REF_VACANT;
        count_keys(d, (size_t)-1);
    }
    atomic_store_explicit(slot, slot_word(hash, prev), memory_order_release);
}

void delta_prefetch_slot(const struct delta *d, uint64_t hash)
{
    const struct table *t =
        atomic_load_explicit(&d->shards[shard_of(hash)].table, memory_order_acquire);

    if (t != NULL)
        __builtin_prefetch(&t->slots[(uint32_t)hash & t->mask]);
}

void delta_prefetch_node(const struct delta *d, uint64_t hash)
{
    const struct table *t =
        atomic_load_explicit(&d->shards[shard_of(hash)].table, memory_order_acquire);
    uint64_t word;

    if (t == NULL)
        return;
    word = atomic_load_explicit(&t->slots[(uint32_t)hash & t->mask], memory_order_acquire);
    if (slot_ref(word) >= REF_FIRST) {
        const char *n = (const char *)node_at(d, slot_ref(word));

        __builtin_prefetch(n);
        __builtin_prefetch(n + 64);
    }
}

bool delta_find(const struct delta *d, uint64_t hash, struct slice key, uint64_t visible_seq,
                struct entry *out, uint64_t *seq)
{
    const struct table *t =
        atomic_load_explicit(&d->shards[shard_of(hash)].table, memory_order_acquire);

    if (t == NULL)
        return false;
    for (uint32_t i = (uint32_t)hash & t->mask;; i = (i + 1) & t->mask) {
        uint64_t word = atomic_load_explicit(&t->slots[i], memory_order_acquire);
        uint32_t ref = slot_ref(word);
        const struct delta_node *n;

        if (ref == REF_NONE)
            return false;
        if (ref == REF_VACANT || !slot_is_tagged(word, hash))
            continue;
        if (!slice_equal(delta_node_key(node_at(d, ref)), key))
            continue;
        n = node_visible(d, ref, visible_seq);
        if (n == NULL)
            return false;
        *out = n->entry;
        if (seq != NULL)
            *seq = n->seq;
        return true;
    }
}

size_t delta_count(const struct delta *d)
{
    return atomic_load_explicit(&d->count, memory_order_relaxed);
}

size_t delta_bytes(const struct delta *d)
{
    return atomic_load_explicit(&d->bytes, memory_order_relaxed);
}

/* Calls each() for the newest visible node of every key. */
static void walk_nodes(const struct delta *d, uint64_t visible_seq,
                       void (*each)(const struct delta_node *n, void *arg), void *arg)
{
    for (unsigned s = 0; s < SHARDS; s++) {
        const struct table *t = atomic_load_explicit(&d->shards[s].table, memory_order_acquire);

        for (size_t i = 0; t != NULL && i <= t->mask; i++) {
            uint64_t word = atomic_load_explicit(&t->slots[i], memory_order_acquire);
            const struct delta_node *n;

            if (slot_ref(word) < REF_FIRST)
                continue;
            n = node_visible(d, slot_ref(word), visible_seq);
            if (n != NULL)
                each(n, arg);
        }
    }
}

static void item_of(const struct delta_node *n, struct delta_item *item)
{
    item->key = delta_node_key(n);
    item->entry = &n->entry;
    item->seq = n->seq;
}

struct walk {
    void (*each)(const struct delta_item *item, void *arg);
    void *arg;
};

static void walk_item(const struct delta_node *n, void *arg)
{
    const struct walk *w = arg;
    struct delta_item item;

    item_of(n, &item);
    w->each(&item, w->arg);
}

void delta_walk(const struct delta *d, uint64_t visible_seq,
                void (*each)(const struct delta_item *item, void *arg), void *arg)
{
    struct walk w = {each, arg};

    walk_nodes(d, visible_seq, walk_item, &w);
}

/* ---- in the order of the puts ---- */

uint64_t delta_mark(const struct delta *d)
{
    return atomic_load_explicit(&d->mark, memory_order_acquire);
}

/* Where the first node of a chunk lies. */
static size_t chunk_start(uint32_t chunk)
{
    return chunk == 0 ? REF_FIRST << UNIT_SHIFT : 0;
}

void delta_nodes(const struct delta *d, uint64_t from, uint64_t to,
                 bool (*each)(const struct delta_node *n, void *arg), void *arg)
{
    uint32_t chunk = (uint32_t)(from >> 32);
    uint32_t last = (uint32_t)(to >> 32);
    size_t at = from == 0 ? chunk_start(0) : (uint32_t)from;

    for (; chunk <= last; at = chunk_start(++chunk)) {
        size_t end = chunk < last ? d->chunk_ends[chunk] : (uint32_t)to;

        while (at < end) {
            const struct delta_node *n = (const void *)(d->chunks[chunk] + at);

            at += node_size(n->key_len);
            if (!each(n, arg))
                return;
        }
    }
}

struct delta_order *delta_order_of(struct delta *d)
{
    return &d->order;
}

/* ---- sorted ---- */

struct sort_list {
    struct delta_slot *slots;
    size_t count;
    size_t room;
};

static void sort_add(const struct delta_node *n, void *arg)
{
    struct sort_list *list = arg;

    assert(list->count < list->room); /* nobody writes any more */
    list->slots[list->count++].node = n;
}

int delta_sorted(const struct delta *d, struct delta_item **items, size_t *count)
{
    struct sort_list list = {.room = delta_count(d)};
    struct delta_item *out;

    list.slots = malloc((list.room + 1) * sizeof *list.slots);
    out = malloc((list.room + 1) * sizeof *out);
    if (list.slots == NULL || out == NULL) {
        free(list.slots);
        free(out);
        return -ENOMEM;
    }
    walk_nodes(d, UINT64_MAX, sort_add, &list);
    delta_sort_for_index(list.slots, list.count);
    for (size_t i = 0; i < list.count; i++)
        item_of(list.slots[i].node, &out[i]);
    free(list.slots);
    *items = out;
    *count = list.count;
    return 0;
}
