/*
 * segments.c - the segments of the log: found by number, listed in order, added, taken away.
 *
 * Provides: log_publish_segment() and its neighbours in logstore.h.
 * Used by:  recovery and rotation (publish), compaction (list, publish, retire), whoever reads a
 *           record (hold).
 * Threads:  any, but for what logstore.h says.
 * Locks:    log.table_mutex over every change of the table, and over finding outside grace.
 *
 * A number is the name of a file, from one counter, never used twice; the order of the log is that
 * of the first sequence numbers.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

/* Pages that the table has beyond what it needs, so that it seldom has to be made anew. */
#define TABLE_SPARE 64u

/* ---- the table ---- */

/* A table that has room for the page; may be the present one. NULL: no memory. */
static struct segment_table *table_for(struct segment_table *old, uint32_t page)
{
    uint32_t first = old == NULL || page < old->first ? page : old->first;
    uint32_t end = old == NULL ? page + 1 : old->first + old->count;
    struct segment_table *t;

    if (old != NULL && first == old->first && page < end)
        return old;
    if (page + 1 > end)
        end = page + 1;
    /* Pages that are not there any more at the low end need no place. */
    while (old != NULL && first < page && first - old->first < old->count &&
           atomic_load(&old->pages[first - old->first]) == NULL)
        first++;
    t = calloc(1, sizeof(*t) + (end - first + TABLE_SPARE) * sizeof(t->pages[0]));
    if (t == NULL)
        return NULL;
    t->first = first;
    t->count = end - first + TABLE_SPARE;
    for (uint32_t i = 0; old != NULL && i < old->count; i++)
        if (old->first + i >= first && old->first + i - first < t->count)
            atomic_store(&t->pages[old->first + i - first], atomic_load(&old->pages[i]));
    return t;
}

/* The slot of a number; its page is made if it is not there. NULL: no memory. */
static _Atomic(struct segment *) *slot_for(struct segment_table *t, uint32_t number)
{
    _Atomic(struct segment_page *) *at = &t->pages[(number >> SEGMENT_PAGE_SHIFT) - t->first];
    struct segment_page *page = atomic_load(at);

    if (page == NULL) {
        page = calloc(1, sizeof(*page));
        if (page == NULL)
            return NULL;
        atomic_store_explicit(at, page, memory_order_release);
    }
    return &page->at[number % SEGMENT_PAGE_SLOTS];
}

int log_publish_segment(struct logstore *ls, struct segment *s)
{
    struct segment_table *old;
    struct segment_table *t;
    _Atomic(struct segment *) *slot = NULL;
    int rc = segment_cache_adopt(&ls->segment_cache, s);

    if (rc != 0)
        return rc;
    pthread_mutex_lock(&ls->log.table_mutex);
    old = atomic_load(&ls->segments);
    t = table_for(old, s->number >> SEGMENT_PAGE_SHIFT);
    if (t != NULL) {
        slot = slot_for(t, s->number);
        if (slot != NULL)
            atomic_store_explicit(slot, s, memory_order_release);
        atomic_store_explicit(&ls->segments, t, memory_order_release);
    }
    pthread_mutex_unlock(&ls->log.table_mutex);
    if (t != NULL && t != old && old != NULL) {
        /* Rare: waiting here costs the writer a fraction of a millisecond. */
        grace_wait(&ls->grace);
        free(old);
    }
    return slot == NULL ? -ENOMEM : 0;
}

struct segment *log_hold_segment(struct logstore *ls, uint32_t number)
{
    struct segment *s;

    pthread_mutex_lock(&ls->log.table_mutex);
    s = segment_find(atomic_load_explicit(&ls->segments, memory_order_relaxed), number);
    if (s != NULL)
        segment_ref(s);
    pthread_mutex_unlock(&ls->log.table_mutex);
    return s;
}

/* Calls each() for every segment, by number, until it returns false. Under table_mutex, or alone. */
static void walk(const struct logstore *ls, bool (*each)(struct segment *s, void *arg), void *arg)
{
    struct segment_table *t = atomic_load(&ls->segments);

    for (uint32_t p = 0; t != NULL && p < t->count; p++) {
        struct segment_page *page = atomic_load(&t->pages[p]);

        for (uint32_t i = 0; page != NULL && i < SEGMENT_PAGE_SLOTS; i++) {
            struct segment *s = atomic_load(&page->at[i]);

            if (s != NULL && !each(s, arg))
                return;
        }
    }
}

static bool drop_one(struct segment *s, void *arg)
{
    (void)arg;
    segment_unref(s);
    return true;
}

void log_free_segments(struct logstore *ls)
{
    struct segment_table *t = atomic_load(&ls->segments);

    walk(ls, drop_one, NULL);
    for (uint32_t p = 0; t != NULL && p < t->count; p++)
        free(atomic_load(&t->pages[p]));
    free(t);
    atomic_store(&ls->segments, NULL);
}

/* ---- the list ---- */

struct listing {
    struct segment **at;
    size_t count;
    size_t room;
    bool failed;
};

static bool list_one(struct segment *s, void *arg)
{
    struct listing *l = arg;

    if (l->count == l->room) {
        size_t room = l->room == 0 ? 64 : l->room * 2;
        struct segment **grown = reallocarray(l->at, room, sizeof(*grown));

        if (grown == NULL) {
            l->failed = true;
            return false;
        }
        l->at = grown;
        l->room = room;
    }
    segment_ref(s);
    l->at[l->count++] = s;
    return true;
}

int log_compare_segments(const struct segment *a, const struct segment *b)
{
    if (a->first_seq != b->first_seq)
        return a->first_seq < b->first_seq ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

static int compare_places(const void *a, const void *b)
{
    return log_compare_segments(*(struct segment *const *)a, *(struct segment *const *)b);
}

int log_list_segments(struct logstore *ls, struct segment ***out, size_t *count)
{
    struct listing l = {0};

    pthread_mutex_lock(&ls->log.table_mutex);
    walk(ls, list_one, &l);
    pthread_mutex_unlock(&ls->log.table_mutex);
    if (l.failed) {
        log_release_segments(l.at, l.count);
        return -ENOMEM;
    }
    if (l.count > 0)
        qsort(l.at, l.count, sizeof(l.at[0]), compare_places);
    *out = l.at;
    *count = l.count;
    return 0;
}

void log_release_segments(struct segment **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        segment_unref(list[i]);
    free(list);
}

/* ---- leaving ---- */

static void nothing(struct logstore *ls, void *arg)
{
    (void)ls;
    (void)arg;
}

static bool page_is_empty(struct segment_page *page)
{
    for (uint32_t i = 0; i < SEGMENT_PAGE_SLOTS; i++)
        if (atomic_load(&page->at[i]) != NULL)
            return false;
    return true;
}

/* Takes a segment out of the table. *page: one that has become empty, to be freed after grace. NULL:
 * it is not there. */
static struct segment *take_out(struct logstore *ls, uint32_t number, struct segment_page **page)
{
    struct segment_table *t = atomic_load(&ls->segments);
    struct segment *s = segment_find(t, number);
    uint32_t p = (number >> SEGMENT_PAGE_SHIFT) - (t == NULL ? 0 : t->first);

    *page = NULL;
    if (s == NULL)
        return NULL;
    *page = atomic_load(&t->pages[p]);
    atomic_store_explicit(&(*page)->at[number % SEGMENT_PAGE_SLOTS], NULL, memory_order_release);
    if (page_is_empty(*page))
        atomic_store_explicit(&t->pages[p], NULL, memory_order_release);
    else
        *page = NULL;
    return s;
}

/* Removes the file of a segment that is in no table any more; who reads it still finds it open. */
static void remove_file(struct logstore *ls, struct segment *s)
{
    struct segment_file *f = NULL;
    bool in_use = atomic_load(&s->refs) > 1;
    int rc;

    if (in_use) {
        atomic_store(&s->keep_open, true);
        (void)segment_open(s, &f);
        pins_add(&ls->pins, &s->pin, atomic_load(&s->end));
    }
    rc = io_unlink(s->path);
    if (rc != 0)
        log_warn("cannot remove %s: %s; it is not needed any more, the next start tries again",
                 s->path, strerror(-rc));
    if (f != NULL)
        segment_file_unref(f);
    segment_unref(s);
}

int log_retire_segments(struct logstore *ls, const uint32_t *numbers, size_t count)
{
    struct segment **gone = calloc(2 * count + 1, sizeof(*gone));
    struct segment_page **pages = (struct segment_page **)(void *)(gone + count);
    uint32_t noted = atomic_load(&ls->log.noted_number);
    int rc = gone == NULL ? -ENOMEM : 0;

    /* STORE must not name a file that goes. */
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (numbers[i] == noted)
            rc = directory_note(ls);
    if (rc != 0) {
        free(gone);
        return rc;
    }
    /* Whoever has looked up a place before the rows were moved has read it, or holds the file. */
    writer_call(ls, nothing, NULL);
    grace_wait(&ls->grace);
    pthread_mutex_lock(&ls->log.table_mutex);
    for (size_t i = 0; i < count; i++)
        gone[i] = take_out(ls, numbers[i], &pages[i]);
    pthread_mutex_unlock(&ls->log.table_mutex);
    grace_wait(&ls->grace);
    for (size_t i = 0; i < count; i++) {
        free(pages[i]);
        if (gone[i] != NULL)
            remove_file(ls, gone[i]);
    }
    free(gone);
    return 0;
}
