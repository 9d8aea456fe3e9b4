/*
 * segment_cache.c - opening and closing the files of segments. See segment_cache.h.
 */
#include "store/logstore/segment_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"

/* Files that are closed in one go: the wait for readers is shared. */
#define TRIM_MAX 64u

void segment_cache_init(struct segment_cache *c, size_t bound)
{
    pthread_mutex_init(&c->mutex, NULL);
    c->bound = bound > 0 ? bound : SEGMENT_FILES_DEFAULT;
}

void segment_cache_fini(struct segment_cache *c)
{
    free(c->open);
    pthread_mutex_destroy(&c->mutex);
}

/* ---- the list of those that are open ---- */

static int add_locked(struct segment_cache *c, struct segment *s)
{
    if (c->count == c->room) {
        size_t room = c->room == 0 ? 64 : c->room * 2;
        struct segment **grown = reallocarray(c->open, room, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        c->open = grown;
        c->room = room;
    }
    s->cache_place = c->count;
    c->open[c->count++] = s;
    atomic_store_explicit(&c->open_files, c->count, memory_order_relaxed);
    return 0;
}

static void remove_locked(struct segment_cache *c, struct segment *s)
{
    struct segment *last = c->open[--c->count];

    c->open[s->cache_place] = last;
    last->cache_place = s->cache_place;
    atomic_store_explicit(&c->open_files, c->count, memory_order_relaxed);
}

int segment_cache_adopt(struct segment_cache *c, struct segment *s)
{
    int rc = 0;

    pthread_mutex_lock(&c->mutex);
    if (s->cache == NULL && atomic_load(&s->file) != NULL)
        rc = add_locked(c, s);
    if (rc == 0)
        s->cache = c;
    pthread_mutex_unlock(&c->mutex);
    return rc;
}

void segment_cache_forget(struct segment *s)
{
    if (s->cache == NULL)
        return;
    pthread_mutex_lock(&s->cache->mutex);
    if (atomic_load(&s->file) != NULL)
        remove_locked(s->cache, s);
    pthread_mutex_unlock(&s->cache->mutex);
}

/* ---- opening ---- */

static int open_file(const struct segment *s, struct segment_file **out)
{
    int fd = io_open(s->path, O_RDWR, 0);
    int rc = fd < 0 ? fd : segment_file_new(fd, s->file_bytes, out);

    if (rc != 0 && fd >= 0)
        close(fd);
    return rc;
}

/* Gives the segment its file, unless another thread was quicker; *f becomes the one to use, with a
 * reference for the caller. */
static void share_file(struct segment *s, struct segment_file **f)
{
    struct segment_file *present = atomic_load(&s->file);
    struct segment_cache *c = s->cache;

    if (present != NULL) {
        segment_file_unref(*f);
        *f = present;
        segment_file_ref(present);
        return;
    }
    if (c != NULL && (c->count >= 2 * c->bound || add_locked(c, s) != 0))
        return; /* for one use only */
    segment_file_ref(*f);
    atomic_store_explicit(&s->file, *f, memory_order_release);
    if (c != NULL)
        atomic_fetch_add_explicit(&c->opened, 1, memory_order_relaxed);
}

static struct segment_file *ref_present(struct segment *s)
{
    struct segment_file *f = segment_peek(s);

    if (f != NULL)
        segment_file_ref(f);
    return f;
}

int segment_open(struct segment *s, struct segment_file **out)
{
    struct segment_cache *c = s->cache;
    int rc;

    if (c != NULL)
        pthread_mutex_lock(&c->mutex);
    *out = ref_present(s);
    if (c != NULL)
        pthread_mutex_unlock(&c->mutex);
    if (*out != NULL)
        return 0;
    rc = open_file(s, out);
    if (rc != 0)
        return rc;
    if (c != NULL)
        pthread_mutex_lock(&c->mutex);
    share_file(s, out);
    if (c != NULL)
        pthread_mutex_unlock(&c->mutex);
    return 0;
}

/* ---- closing ---- */

bool segment_cache_is_full(const struct segment_cache *c)
{
    return atomic_load_explicit(&c->open_files, memory_order_relaxed) > c->bound;
}

/* Takes files that were not used since the last look away from their segments, up to `room`. */
static size_t take_unused(struct segment_cache *c, struct segment_file **out, size_t room)
{
    size_t taken = 0;

    pthread_mutex_lock(&c->mutex);
    /* Twice around: the first time all of them may have been used. */
    for (size_t looks = 2 * c->count; looks > 0 && taken < room && c->count > c->bound; looks--) {
        struct segment *s;
        struct segment_file *f;

        if (c->hand >= c->count)
            c->hand = 0;
        s = c->open[c->hand];
        f = atomic_load(&s->file);
        if (atomic_load(&s->keep_open) || atomic_exchange(&f->used, false)) {
            c->hand++;
            continue;
        }
        atomic_store(&s->file, NULL);
        remove_locked(c, s);
        out[taken++] = f;
    }
    pthread_mutex_unlock(&c->mutex);
    return taken;
}

void segment_cache_trim(struct segment_cache *c, struct grace *grace)
{
    struct segment_file *files[TRIM_MAX];
    size_t count;

    while (segment_cache_is_full(c) && (count = take_unused(c, files, TRIM_MAX)) > 0) {
        /* Whoever has found one of them inside grace has taken a reference, or does not need it. */
        grace_wait(grace);
        for (size_t i = 0; i < count; i++)
            segment_file_unref(files[i]);
    }
}
