/*
 * listing.c - see listing.h.
 *
 * Provides: listing_*().
 * Used by:  logstore.c, background.c.
 * Threads:  scans on any thread that may wait for the disk, LISTING_READERS at a time.
 * Locks:    mutex (which reader is free, what was kept; for moments), pin_mutex (who enters grace;
 *           for moments). The order of a generation's keys has a lock of its own, over its sort.
 *
 * A page takes references to both generations, then reads the index. So nothing is missed that a
 * checkpoint moves meanwhile, and grace is over after a moment, however long the page takes.
 */
#include "store/logstore/listing.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/delta_view.h"
#include "store/logstore/logstore.h"
#include "store/logstore/scan.h"

/* For the long keys of one run, per reader. */
#define LONG_KEYS_BYTES (8u * 1024 * 1024)
/* What is kept between pages goes when no page was asked for in so long. */
#define KEEP_MS 10000
/* First read of a long key's record: most heads and keys fit. */
#define KEY_READ_BYTES 2048u

struct lane {
    bool used;
    struct index_reader *reader; /* NULL: not opened yet */
    struct scan_long *longs;
};

struct listing {
    pthread_mutex_t mutex;
    pthread_cond_t returned;
    struct lane lanes[LISTING_READERS];
    int64_t last_ms; /* monotonic; of the newest page */
    bool kept;       /* something may be kept since listing_tick() */

    pthread_mutex_t pin_mutex;
    struct grace_reader grace;
};

/* The delta as of a moment, kept from being freed. */
struct pinned {
    struct delta *active;
    struct delta *frozen;
    uint64_t visible_seq;
};

struct listing *listing_new(struct logstore *ls)
{
    struct listing *l = aligned_alloc(_Alignof(struct listing), sizeof(*l));

    if (l == NULL)
        return NULL;
    memset(l, 0, sizeof(*l));
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->returned, NULL);
    pthread_mutex_init(&l->pin_mutex, NULL);
    grace_add(&ls->grace, &l->grace);
    return l;
}

void listing_free(struct listing *l)
{
    if (l == NULL)
        return;
    for (unsigned i = 0; i < LISTING_READERS; i++) {
        index_reader_close(l->lanes[i].reader);
        scan_long_free(l->lanes[i].longs);
    }
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->returned);
    pthread_mutex_destroy(&l->pin_mutex);
    free(l);
}

/* ---- the delta ---- */

static void pin(struct logstore *ls, struct pinned *out)
{
    struct listing *l = ls->listing;

    pthread_mutex_lock(&l->pin_mutex);
    grace_enter(&ls->grace, &l->grace);
    out->active = atomic_load_explicit(&ls->active, memory_order_acquire);
    out->frozen = atomic_load_explicit(&ls->frozen, memory_order_acquire);
    out->visible_seq = atomic_load_explicit(&ls->marks.visible_seq, memory_order_acquire);
    delta_ref(out->active);
    if (out->frozen != NULL)
        delta_ref(out->frozen);
    grace_leave(&l->grace);
    pthread_mutex_unlock(&l->pin_mutex);
}

static void unpin(const struct pinned *p)
{
    delta_free(p->active);
    delta_free(p->frozen);
}

/* ---- lanes ---- */

/* A free lane, better one that knows the long keys around `after`. NULL: there is none. */
static struct lane *find_lane_locked(struct listing *l, const struct store_range *range)
{
    struct lane *found = NULL;

    for (unsigned i = 0; i < LISTING_READERS; i++) {
        struct lane *lane = &l->lanes[i];

        if (lane->used)
            continue;
        if (range->has_after && lane->longs != NULL && scan_long_knows(lane->longs, range->after))
            return lane;
        if (found == NULL)
            found = lane;
    }
    return found;
}

/* Waits for a lane that is free. */
static struct lane *take_lane(struct listing *l, const struct store_range *range)
{
    struct lane *lane;

    pthread_mutex_lock(&l->mutex);
    while ((lane = find_lane_locked(l, range)) == NULL)
        pthread_cond_wait(&l->returned, &l->mutex);
    lane->used = true;
    pthread_mutex_unlock(&l->mutex);
    return lane;
}

static void return_lane(struct listing *l, struct lane *lane)
{
    pthread_mutex_lock(&l->mutex);
    lane->used = false;
    l->last_ms = clock_mono_ms();
    l->kept = true;
    pthread_cond_signal(&l->returned);
    pthread_mutex_unlock(&l->mutex);
}

/* 0 or -errno. */
static int prepare_lane(struct logstore *ls, struct lane *lane)
{
    if (lane->longs == NULL)
        lane->longs = scan_long_new(LONG_KEYS_BYTES);
    if (lane->longs == NULL)
        return -ENOMEM;
    return lane->reader != NULL ? 0 : index_reader_open(ls->index, &lane->reader);
}

/* ---- long keys ---- */

/* Reads from the record's beginning until head and key are there, into `out`; of these the key is
 * left. 0 or -errno. */
static int read_key(uint64_t salt, struct segment *s, const struct entry *e, struct buf *out)
{
    size_t want = e->length < KEY_READ_BYTES ? e->length : KEY_READ_BYTES;
    struct record_layout layout = {0};
    struct record *r = malloc(sizeof(*r));
    int rc = r == NULL ? -ENOMEM : 0;

    while (rc == 0) {
        ssize_t len;
        size_t need;
        enum record_parse parse;

        out->len = 0;
        rc = buf_reserve(out, want);
        if (rc != 0)
            break;
        len = segment_read(s, out->data, want, e->offset);
        if (len < 0) {
            rc = (int)len;
            break;
        }
        parse = record_decode_head(salt, slice_of(out->data, (size_t)len), r, &layout);
        need = parse == RECORD_DONE ? (size_t)layout.head_len + layout.key_len
                                    : RECORD_HEAD_MAX + RECORD_KEY_MAX;
        if (parse == RECORD_DONE && need <= (size_t)len) {
            memmove(out->data, out->data + layout.head_len, layout.key_len);
            out->len = layout.key_len;
            break;
        }
        if (parse == RECORD_BAD || (size_t)len < want || want >= need)
            rc = -EUCLEAN;
        want = need;
    }
    free(r);
    return rc;
}

int listing_full_key(struct logstore *ls, const struct entry *e, struct buf *out)
{
    struct segment *s = log_hold_segment(ls, e->segment);
    int rc;

    if (s == NULL)
        return -ENOENT;
    rc = read_key(ls->salt, s, e, out);
    if (rc != 0 && rc != -ENOMEM)
        log_error("cannot read the key of the record in %s at offset %u: %s", s->path, e->offset,
                  rc == -EUCLEAN ? "damaged" : strerror(-rc));
    segment_unref(s);
    return rc;
}

/* ---- a page ---- */

static int full_key(void *ctx, const struct entry *e, struct buf *out)
{
    return listing_full_key(ctx, e, out);
}

static bool is_live(void *ctx, const struct entry *e)
{
    const struct logstore *ls = ctx;

    return keyspace_is_live(ls, e, keyspace_now_ms(ls), NULL);
}

int listing_scan(struct store *store, const struct store_range *range, unsigned limit,
                 bool (*each)(const struct store_scan_item *item, void *arg), void *arg)
{
    struct logstore *ls = logstore_of(store);
    struct scan scan = {.is_live = is_live, .full_key = full_key, .ctx = ls};
    struct pinned pinned;
    struct lane *lane;
    int rc;

    if (atomic_load(&ls->state) != STORE_SERVING)
        return -EAGAIN;
    lane = take_lane(ls->listing, range);
    rc = prepare_lane(ls, lane);
    if (rc == 0) {
        pin(ls, &pinned);
        scan.active = pinned.active;
        scan.frozen = pinned.frozen;
        scan.visible_seq = pinned.visible_seq;
        scan.reader = lane->reader;
        scan.longs = lane->longs;
        rc = scan_page(&scan, range, limit, each, arg);
        unpin(&pinned);
    }
    return_lane(ls->listing, lane);
    return rc;
}

/* ---- what is kept ---- */

/* Takes the long keys that no page uses at the moment, if none has for a while. False: not yet. */
static bool take_kept(struct listing *l, struct scan_long *longs[LISTING_READERS])
{
    bool due;

    pthread_mutex_lock(&l->mutex);
    due = l->kept && clock_mono_ms() - l->last_ms >= KEEP_MS;
    for (unsigned i = 0; i < LISTING_READERS; i++) {
        due = due && !l->lanes[i].used;
        longs[i] = NULL;
    }
    for (unsigned i = 0; due && i < LISTING_READERS; i++) {
        longs[i] = l->lanes[i].longs;
        l->lanes[i].longs = NULL;
    }
    if (due)
        l->kept = false;
    pthread_mutex_unlock(&l->mutex);
    return due;
}

void listing_tick(struct logstore *ls)
{
    struct scan_long *longs[LISTING_READERS];
    struct pinned pinned;

    if (!take_kept(ls->listing, longs))
        return;
    for (unsigned i = 0; i < LISTING_READERS; i++)
        scan_long_free(longs[i]);
    pin(ls, &pinned);
    delta_view_forget(pinned.active);
    if (pinned.frozen != NULL)
        delta_view_forget(pinned.frozen);
    unpin(&pinned);
}

void listing_figures(struct logstore *ls, struct listing_figures *out)
{
    struct listing *l = ls->listing;
    struct pinned pinned;

    pin(ls, &pinned);
    out->delta_keys = delta_count(pinned.active);
    out->delta_bytes = delta_bytes(pinned.active);
    out->kept_bytes = delta_view_bytes(pinned.active);
    if (pinned.frozen != NULL && pinned.frozen != pinned.active)
        out->kept_bytes += delta_view_bytes(pinned.frozen);
    unpin(&pinned);
    pthread_mutex_lock(&l->mutex);
    for (unsigned i = 0; i < LISTING_READERS; i++)
        if (!l->lanes[i].used && l->lanes[i].longs != NULL)
            out->kept_bytes += scan_long_bytes(l->lanes[i].longs);
    pthread_mutex_unlock(&l->mutex);
}
