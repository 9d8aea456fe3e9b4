/*
 * scan.c - one page of keys in bytewise order.
 *
 * Provides: scan_page().
 * Used by:  listing.c.
 * Threads:  see scan.h.
 *
 * Four walks in the same order are merged: over the active and the frozen generation, over the
 * index's short keys, and over its long ones. Where several have a key, the newest state counts:
 * that is the order of the walks.
 */
#include "store/logstore/scan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/hash.h"
#include "store/logstore/delta_view.h"

/* Bytes of keys that one read transaction copies, about. */
#define ROWS_BYTES (256u * 1024)

enum { WALK_ACTIVE, WALK_FROZEN, WALK_PLAIN, WALK_LONG, WALKS };

/* What a walk gives next. */
struct head {
    bool has;
    struct slice key;
    struct entry entry;
};

struct generation {
    const struct delta *delta; /* NULL: there is none */
    struct delta_view view;
    struct delta_cursor cursor;
};

/* A live row, copied. */
struct plain_row {
    size_t key_at; /* in the keys */
    size_t key_len;
    struct entry entry;
};

struct plain_rows {
    struct plain_row *rows;
    size_t room; /* rows to be copied in one transaction */
    size_t count;
    size_t next;
    struct buf keys;
    struct buf at;   /* index key at which the next transaction begins, reverse: below which */
    bool ended;      /* there are none behind these */
    unsigned looked; /* at rows, in this transaction */
    int rc;
};

struct page {
    const struct scan *scan;
    struct scan_span span;
    struct buf after;      /* a copy: each() may note there the key that it is given */
    struct buf prefix_end; /* the first key behind all those with the prefix */
    struct generation generations[2];
    struct plain_rows plain;
    struct head heads[WALKS];
};

/* ---- where it begins and ends ---- */

/* Writes the smallest key above all that begin with the prefix. 0; 1: there is none; -ENOMEM. */
static int end_of_prefix(struct slice prefix, struct buf *out)
{
    int rc;

    while (prefix.len > 0 && prefix.ptr[prefix.len - 1] == '\xff')
        prefix.len--;
    if (prefix.len == 0)
        return 1;
    rc = buf_add_slice(out, prefix);
    if (rc == 0)
        out->data[prefix.len - 1]++;
    return rc;
}

/* Moves a lower or upper bound to the key if that leaves less. The key itself is out. */
static void cut_span(struct scan_bound *bound, struct slice key, bool upper)
{
    int order = slice_compare(key, bound->key);

    if (bound->have && (upper ? order > 0 : order < 0))
        return;
    *bound = (struct scan_bound){.have = true, .key = key};
}

static int set_span(struct page *p, const struct store_range *range)
{
    struct scan_bound low = {.included = true, .key = range->prefix};
    struct scan_bound high = {.have = range->has_to, .key = range->to};
    int rc = end_of_prefix(range->prefix, &p->prefix_end);

    if (rc < 0 || (range->has_after && buf_add_slice(&p->after, range->after) != 0))
        return -ENOMEM;
    if (slice_compare(range->from, low.key) > 0)
        low.key = range->from;
    low.have = low.key.len > 0;
    if (rc == 0)
        cut_span(&high, buf_slice(&p->prefix_end), true);
    if (range->has_after && range->reverse)
        cut_span(&high, buf_slice(&p->after), true);
    else if (range->has_after)
        cut_span(&low, buf_slice(&p->after), false);
    p->span.reverse = range->reverse;
    p->span.start = range->reverse ? high : low;
    p->span.end = range->reverse ? low : high;
    return 0;
}

/* ---- the delta ---- */

static int open_generation(struct page *p, unsigned walk, struct delta *d)
{
    struct generation *g = &p->generations[walk];
    const struct scan_bound *start = &p->span.start;
    int rc;

    if (d == NULL)
        return 0;
    rc = delta_view_open(d, &g->view);
    if (rc != 0)
        return rc;
    g->delta = d;
    delta_cursor_begin(&g->cursor, &g->view, start->have ? &start->key : NULL, p->span.reverse);
    return 0;
}

/* To the next key of which the generation has a visible state. */
static void advance_generation(struct page *p, unsigned walk)
{
    struct generation *g = &p->generations[walk];
    struct head *h = &p->heads[walk];

    h->has = false;
    while (g->delta != NULL && delta_cursor_next(&g->cursor, &h->key)) {
        if (span_is_early(&p->span, h->key))
            continue;
        if (span_is_over(&p->span, h->key))
            return;
        h->has =
            delta_find(g->delta, hash_slice(h->key), h->key, p->scan->visible_seq, &h->entry, NULL);
        if (h->has)
            return;
    }
}

/* ---- the index's short keys ---- */

/* Where the walk begins. */
static int plain_begin(struct page *p, unsigned limit)
{
    struct plain_rows *w = &p->plain;
    const struct scan_bound *start = &p->span.start;
    struct slice key = start->have ? start->key : slice_of(NULL, 0);
    bool cut = key.len > INDEX_PREFIX_MAX;

    w->room = limit < SCAN_ROWS ? limit + 1 : SCAN_ROWS;
    w->rows = malloc(w->room * sizeof(*w->rows));
    if (w->rows == NULL || buf_reserve(&w->at, INDEX_KEY_MAX + 1) != 0)
        return -ENOMEM;
    if (cut)
        key.len = INDEX_PREFIX_MAX;
    w->at.data[0] = p->span.reverse && !start->have ? INDEX_FAMILY_PLAIN + 1 : INDEX_FAMILY_PLAIN;
    if (key.len > 0)
        memcpy(w->at.data + 1, key.ptr, key.len);
    w->at.len = 1 + key.len;
    if (cut && p->span.reverse)
        w->at.data[w->at.len++] = '\0'; /* what is left of the key lies before it as well */
    return 0;
}

/* The next transaction begins behind this row. */
static void plain_stop(struct page *p, struct slice index_key)
{
    struct buf *at = &p->plain.at;

    memcpy(at->data, index_key.ptr, index_key.len);
    at->len = index_key.len;
    if (!p->span.reverse)
        at->data[at->len++] = '\0';
    p->plain.ended = false;
}

static bool take_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct page *p = arg;
    struct plain_rows *w = &p->plain;
    struct slice key = slice_after(index_key, 1);

    if (index_key.ptr[0] != INDEX_FAMILY_PLAIN || span_is_over(&p->span, key))
        return false;
    w->looked++;
    if (!span_is_early(&p->span, key) && p->scan->is_live(p->scan->ctx, e)) {
        w->rows[w->count++] = (struct plain_row){w->keys.len, key.len, *e};
        w->rc = buf_add_slice(&w->keys, key);
        if (w->rc != 0)
            return false;
    }
    if (w->looked < SCAN_ROWS && w->count < w->room && w->keys.len < ROWS_BYTES)
        return true;
    plain_stop(p, index_key);
    return false;
}

/* Copies the next rows that are live, if there are any. */
static int plain_fill(struct page *p)
{
    struct plain_rows *w = &p->plain;
    int rc = 0;

    w->next = w->count = w->keys.len = 0;
    while (rc == 0 && w->count == 0 && !w->ended) {
        w->looked = 0;
        w->ended = true; /* unless it stops */
        rc = (p->span.reverse ? index_walk_back : index_walk)(p->scan->reader, buf_slice(&w->at),
                                                              take_row, p);
        if (rc == 0)
            rc = w->rc;
    }
    return rc;
}

static int advance_plain(struct page *p)
{
    struct plain_rows *w = &p->plain;
    struct head *h = &p->heads[WALK_PLAIN];
    const struct plain_row *row;
    int rc = w->next == w->count ? plain_fill(p) : 0;

    h->has = rc == 0 && w->next < w->count;
    if (!h->has)
        return rc;
    row = &w->rows[w->next++];
    h->key = slice_of(w->keys.data + row->key_at, row->key_len);
    h->entry = row->entry;
    return 0;
}

/* ---- all walks together ---- */

static int advance(struct page *p, unsigned walk)
{
    struct head *h = &p->heads[walk];
    int rc;

    if (walk == WALK_PLAIN)
        return advance_plain(p);
    if (walk != WALK_LONG) {
        advance_generation(p, walk);
        return 0;
    }
    rc = scan_long_next(p->scan->longs, &h->key, &h->entry);
    h->has = rc == 1;
    return rc < 0 ? rc : 0;
}

/* Sets all walks to their first key. The delta's views come before the index is looked at. */
static int page_begin(struct page *p, unsigned limit)
{
    const struct scan *s = p->scan;
    int rc = open_generation(p, WALK_ACTIVE, s->active);

    if (rc == 0 && s->frozen != s->active)
        rc = open_generation(p, WALK_FROZEN, s->frozen);
    if (rc == 0)
        rc = plain_begin(p, limit);
    if (rc == 0)
        rc = scan_long_begin(s->longs, s, &p->span);
    for (unsigned w = 0; rc == 0 && w < WALKS; w++)
        rc = advance(p, w);
    return rc;
}

static void page_end(struct page *p)
{
    for (unsigned i = 0; i < 2; i++)
        if (p->generations[i].delta != NULL)
            delta_view_close(&p->generations[i].view);
    free(p->plain.rows);
    buf_free(&p->plain.keys);
    buf_free(&p->plain.at);
    buf_free(&p->after);
    buf_free(&p->prefix_end);
}

/* The walk with the next key; of several the one with its newest state. NULL: all have ended. */
static struct head *next_head(struct page *p)
{
    struct head *next = NULL;

    for (unsigned w = 0; w < WALKS; w++) {
        struct head *h = &p->heads[w];

        if (h->has && (next == NULL || span_order(&p->span, h->key, next->key) < 0))
            next = h;
    }
    return next;
}

/* All walks that have this head's key go on; the one whose memory it is the last. */
static int pass(struct page *p, const struct head *head)
{
    int rc = 0;

    for (unsigned w = WALKS; rc == 0 && w > 0; w--) {
        struct head *h = &p->heads[w - 1];

        if (h != head && h->has && slice_equal(h->key, head->key))
            rc = advance(p, w - 1);
    }
    return rc != 0 ? rc : advance(p, (unsigned)(head - p->heads));
}

static bool give(const struct head *h, bool (*each)(const struct store_scan_item *item, void *arg),
                 void *arg)
{
    struct store_scan_item item = {
        .key = h->key,
        .kind = h->entry.kind,
        .base = h->entry.base,
        .expires_ms = h->entry.expires_ms,
        .cas = h->entry.cas,
        .bytes = h->entry.length + h->entry.big_bytes,
    };

    return each(&item, arg);
}

int scan_page(const struct scan *scan, const struct store_range *range, unsigned limit,
              bool (*each)(const struct store_scan_item *item, void *arg), void *arg)
{
    struct page *p = calloc(1, sizeof(*p));
    struct head *h;
    unsigned given = 0;
    int rc = p == NULL ? -ENOMEM : 0;

    if (rc != 0)
        return rc;
    p->scan = scan;
    rc = set_span(p, range);
    if (rc == 0)
        rc = page_begin(p, limit);
    while (rc == 0 && (h = next_head(p)) != NULL) {
        if (!scan->is_live(scan->ctx, &h->entry))
            rc = pass(p, h);
        else if (given++ == limit || !give(h, each, arg))
            rc = 1;
        else
            rc = pass(p, h);
    }
    page_end(p);
    free(p);
    return rc;
}
