/*
 * scan_long.c - see scan_long.h.
 *
 * Provides: scan_long_*().
 * Used by:  scan.c.
 * Threads:  one at a time.
 *
 * The state is a window on one run: its keys from a start (in the scan's direction) up to where the
 * memory was full. They are found by walking the run's rows, which come in the order of their
 * hashes, with the known keys in the same order beside them.
 */
#include "store/logstore/scan_long.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/log.h"
#include "store/logstore/scan.h"

#define HASH_BYTES (INDEX_KEY_MAX - 1 - INDEX_PREFIX_MAX)
#define RUN_KEY_MAX (1 + INDEX_PREFIX_MAX)

struct long_row {
    unsigned char hash[HASH_BYTES];
    struct entry entry;
};

struct long_key {
    unsigned char hash[HASH_BYTES];
    char *rest; /* what stands behind the run's beginning; malloc'd */
    size_t len;
    struct entry entry;
};

struct start {
    bool have;
    bool included;
    struct buf key;
};

struct scan_long {
    size_t memory;
    struct long_row *rows; /* SCAN_ROWS, of one transaction */
    struct buf text;       /* the record's key, or the key that was given last */

    /* Of the page. */
    const struct scan *scan;
    const struct scan_span *span;
    struct start start; /* where the window that is to be filled begins */
    size_t next;        /* of the window's keys */
    bool in_run;        /* the page has come to the window's run */
    bool ended;

    /* The window; kept from page to page. */
    bool valid;
    bool reverse;
    bool complete; /* nothing of the run lies behind it */
    uint64_t version;
    char prefix[INDEX_PREFIX_MAX];
    struct start from;     /* it has the run's keys from here on */
    struct long_key *keys; /* a heap while they are gathered: the one that comes last on top */
    size_t count;
    size_t room;
    size_t bytes;
};

/* The known keys of the run that is read again, by hash. */
struct known {
    struct long_key *keys;
    size_t count;
    size_t next;
};

struct scan_long *scan_long_new(size_t memory)
{
    struct scan_long *l = calloc(1, sizeof(*l));

    if (l != NULL)
        l->memory = memory;
    return l;
}

static void free_keys(struct long_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(keys[i].rest);
    free(keys);
}

void scan_long_free(struct scan_long *l)
{
    if (l == NULL)
        return;
    free_keys(l->keys, l->count);
    free(l->rows);
    buf_free(&l->text);
    buf_free(&l->start.key);
    buf_free(&l->from.key);
    free(l);
}

size_t scan_long_bytes(const struct scan_long *l)
{
    return l->bytes;
}

static bool is_of_run(const struct scan_long *l, struct slice key)
{
    return key.len >= INDEX_PREFIX_MAX && memcmp(key.ptr, l->prefix, INDEX_PREFIX_MAX) == 0;
}

bool scan_long_knows(const struct scan_long *l, struct slice key)
{
    return l->valid && is_of_run(l, key);
}

/* ---- the window's keys ---- */

static struct slice rest_of(const struct long_key *k)
{
    return slice_of(k->rest, k->len);
}

static size_t key_bytes(const struct long_key *k)
{
    return sizeof(*k) + k->len;
}

static int compare_up(const void *a, const void *b)
{
    return slice_compare(rest_of(a), rest_of(b));
}

static int compare_down(const void *a, const void *b)
{
    return compare_up(b, a);
}

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(((const struct long_key *)a)->hash, ((const struct long_key *)b)->hash,
                  HASH_BYTES);
}

static int order_of_rests(const struct scan_long *l, struct slice a, struct slice b)
{
    return l->reverse ? slice_compare(b, a) : slice_compare(a, b);
}

static int order_of(const struct scan_long *l, size_t a, size_t b)
{
    return order_of_rests(l, rest_of(&l->keys[a]), rest_of(&l->keys[b]));
}

static void swap_keys(struct scan_long *l, size_t a, size_t b)
{
    struct long_key k = l->keys[a];

    l->keys[a] = l->keys[b];
    l->keys[b] = k;
}

/* 0 or -ENOMEM; the key's memory is the window's on success. */
static int heap_push(struct scan_long *l, const struct long_key *k)
{
    size_t i = l->count;

    if (l->count == l->room) {
        size_t room = l->room == 0 ? 16 : l->room * 2;
        struct long_key *keys = reallocarray(l->keys, room, sizeof(*keys));

        if (keys == NULL)
            return -ENOMEM;
        l->keys = keys;
        l->room = room;
    }
    l->keys[l->count++] = *k;
    l->bytes += key_bytes(k);
    for (; i > 0 && order_of(l, i, (i - 1) / 2) > 0; i = (i - 1) / 2)
        swap_keys(l, i, (i - 1) / 2);
    return 0;
}

/* Takes the key that comes last out of the heap. */
static struct long_key heap_pop(struct scan_long *l)
{
    struct long_key top = l->keys[0];
    size_t i = 0;

    l->keys[0] = l->keys[--l->count];
    l->bytes -= key_bytes(&top);
    for (;;) {
        size_t last = i;

        for (size_t child = 2 * i + 1; child < l->count && child <= 2 * i + 2; child++)
            if (order_of(l, child, last) > 0)
                last = child;
        if (last == i)
            return top;
        swap_keys(l, i, last);
        i = last;
    }
}

/* ---- rows ---- */

/* A family's byte and the beginning of a key, and then `more` bytes 0xff; returns the length. */
static size_t run_key(struct slice beginning, size_t more, char *out)
{
    size_t len = beginning.len < INDEX_PREFIX_MAX ? beginning.len : INDEX_PREFIX_MAX;

    out[0] = INDEX_FAMILY_HASHED;
    if (len > 0)
        memcpy(out + 1, beginning.ptr, len);
    memset(out + 1 + len, 0xff, more);
    return 1 + len + more;
}

static bool is_hashed_row(struct slice index_key)
{
    return index_key.len == INDEX_KEY_MAX && index_key.ptr[0] == INDEX_FAMILY_HASHED;
}

/* What a transaction over rows has come to. */
struct row_walk {
    struct scan_long *l;
    unsigned looked; /* at rows */
    unsigned count;  /* of l->rows */
    bool found;      /* `prefix` is that of the next run */
    char prefix[INDEX_PREFIX_MAX];
    bool more; /* the walk goes on behind `last`, at which it begins again */
    char last[INDEX_KEY_MAX];
};

/* True: the walk goes on in this transaction. */
static bool row_looked_at(struct row_walk *w, struct slice index_key)
{
    if (++w->looked < SCAN_ROWS)
        return true;
    w->more = true;
    memcpy(w->last, index_key.ptr, INDEX_KEY_MAX);
    return false;
}

/* Looks for the first live row of another run. */
static bool find_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct row_walk *w = arg;
    const struct scan *scan = w->l->scan;

    if (!is_hashed_row(index_key))
        return false;
    if ((w->l->in_run && is_of_run(w->l, slice_after(index_key, 1))) ||
        !scan->is_live(scan->ctx, e))
        return row_looked_at(w, index_key);
    memcpy(w->prefix, index_key.ptr + 1, INDEX_PREFIX_MAX);
    w->found = true;
    return false;
}

/* Gathers live rows of the run. */
static bool gather_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct row_walk *w = arg;
    const struct scan *scan = w->l->scan;

    if (!is_hashed_row(index_key) || !is_of_run(w->l, slice_after(index_key, 1)))
        return false;
    if (memcmp(index_key.ptr, w->last, INDEX_KEY_MAX) == 0)
        return true;
    if (scan->is_live(scan->ctx, e)) {
        struct long_row *row = &w->l->rows[w->count++];

        memcpy(row->hash, index_key.ptr + 1 + INDEX_PREFIX_MAX, HASH_BYTES);
        row->entry = *e;
    }
    return row_looked_at(w, index_key);
}

/* Takes the row of exactly this index key. */
struct same_row {
    const char *index_key;
    struct entry *entry;
    bool found;
};

static bool take_same_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct same_row *s = arg;

    s->found = slice_equal(index_key, slice_of(s->index_key, INDEX_KEY_MAX));
    if (s->found)
        *s->entry = *e;
    return false;
}

/* ---- records ---- */

/* True: the key in l->text is the one whose row this is. */
static bool is_key_of_row(const struct scan_long *l, const char *row_key)
{
    char index_bytes[INDEX_KEY_MAX];

    return l->text.len > INDEX_PREFIX_MAX &&
           index_key(buf_slice(&l->text), index_bytes) == INDEX_KEY_MAX &&
           memcmp(index_bytes, row_key, INDEX_KEY_MAX) == 0;
}

static int not_there(const struct entry *e)
{
    log_error("the index names segment %u, offset %u for a long key that does not stand there",
              e->segment, e->offset);
    return -EUCLEAN;
}

/* A compaction has moved the record, and its row before that. 0: it has; -ENOENT: the record is not
 * live any more; -errno. */
static int find_moved(struct scan_long *l, const char *row_key, struct entry *e)
{
    const struct scan *scan = l->scan;
    struct same_row same = {.index_key = row_key, .entry = e};
    uint32_t before = e->segment;
    int rc = index_walk(scan->reader, slice_of(row_key, INDEX_KEY_MAX), take_same_row, &same);

    if (rc != 0)
        return rc;
    if (!same.found || !scan->is_live(scan->ctx, e))
        return -ENOENT;
    return e->segment == before ? not_there(e) : 0;
}

/* Reads the row's whole key into l->text. 0; -ENOENT: the record is not live any more; -errno. */
static int read_key(struct scan_long *l, struct long_row *row)
{
    const struct scan *scan = l->scan;
    char row_key[INDEX_KEY_MAX];
    int moved = 0;
    int rc;

    row_key[0] = INDEX_FAMILY_HASHED;
    memcpy(row_key + 1, l->prefix, INDEX_PREFIX_MAX);
    memcpy(row_key + 1 + INDEX_PREFIX_MAX, row->hash, HASH_BYTES);
    do {
        l->text.len = 0;
        rc = scan->full_key(scan->ctx, &row->entry, &l->text);
        if (rc == -ENOENT)
            moved = find_moved(l, row_key, &row->entry);
    } while (rc == -ENOENT && moved == 0);
    if (rc == -ENOENT)
        return moved;
    return rc == 0 && !is_key_of_row(l, row_key) ? not_there(&row->entry) : rc;
}

/* The key's rest, if it is known; it is the caller's then. Rows come in the order of their
 * hashes. */
static bool take_known(struct known *known, const struct long_row *row, struct long_key *out)
{
    while (known->next < known->count) {
        struct long_key *k = &known->keys[known->next];
        int order = memcmp(k->hash, row->hash, HASH_BYTES);

        if (order > 0)
            return false;
        known->next++;
        if (order == 0) {
            *out = *k;
            k->rest = NULL;
            return true;
        }
    }
    return false;
}

/* The row's key, from what is known or from its record. 0; -ENOENT: it is not live any more;
 * -errno. */
static int load_key(struct scan_long *l, struct known *known, struct long_row *row,
                    struct long_key *out)
{
    int rc;

    if (!take_known(known, row, out)) {
        rc = read_key(l, row);
        if (rc != 0)
            return rc;
        memcpy(out->hash, row->hash, HASH_BYTES);
        out->len = l->text.len - INDEX_PREFIX_MAX;
        out->rest = malloc(out->len);
        if (out->rest == NULL)
            return -ENOMEM;
        memcpy(out->rest, l->text.data + INDEX_PREFIX_MAX, out->len);
    }
    out->entry = row->entry;
    return 0;
}

/* ---- the window ---- */

/* Where the window begins and, once keys were given up, ends, both within the run. */
struct window_bounds {
    bool has_start;
    bool start_included;
    struct slice start;
    struct long_key end; /* without `rest`: there is none */
};

static bool is_wanted(const struct scan_long *l, const struct window_bounds *b, struct slice rest)
{
    if (b->has_start && order_of_rests(l, rest, b->start) < (b->start_included ? 0 : 1))
        return false;
    return b->end.rest == NULL || order_of_rests(l, rest, rest_of(&b->end)) < 0;
}

/* Adds a row's key if it belongs to the window; gives up those that come last when there are too
 * many. */
static int window_add(struct scan_long *l, struct known *known, struct long_row *row,
                      struct window_bounds *b)
{
    struct long_key key;
    int rc = load_key(l, known, row, &key);

    if (rc != 0)
        return rc == -ENOENT ? 0 : rc;
    if (is_wanted(l, b, rest_of(&key)))
        rc = heap_push(l, &key);
    else
        rc = 1;
    if (rc != 0)
        free(key.rest);
    while (l->bytes > l->memory && l->count > 1) {
        free(b->end.rest);
        b->end = heap_pop(l);
    }
    return rc < 0 ? rc : 0;
}

static int window_gather(struct scan_long *l, struct known *known, struct window_bounds *b)
{
    struct row_walk w = {.l = l};
    char from[INDEX_KEY_MAX];
    size_t len = run_key(slice_of(l->prefix, INDEX_PREFIX_MAX), 0, from);
    int rc;

    do {
        w.looked = w.count = 0;
        w.more = false;
        rc = index_walk(l->scan->reader, slice_of(from, len), gather_row, &w);
        for (unsigned i = 0; rc == 0 && i < w.count; i++)
            rc = window_add(l, known, &l->rows[i], b);
        memcpy(from, w.last, INDEX_KEY_MAX);
        len = INDEX_KEY_MAX;
    } while (rc == 0 && w.more);
    return rc;
}

static int start_set(struct start *s, const struct scan_bound *bound)
{
    s->have = bound->have;
    s->included = bound->included;
    s->key.len = 0;
    return s->have ? buf_add_slice(&s->key, bound->key) : 0;
}

static struct scan_bound start_bound(const struct start *s)
{
    return (struct scan_bound){s->have, s->included, buf_slice(&s->key)};
}

/* Reads a run from l->start on. */
static int window_fill(struct scan_long *l, const char *prefix)
{
    struct known known = {.keys = l->keys, .count = l->count};
    struct window_bounds b = {0};
    struct scan_bound from;
    int rc;

    if (l->rows == NULL)
        l->rows = malloc(SCAN_ROWS * sizeof(*l->rows));
    if (l->rows == NULL)
        return -ENOMEM;
    if (!l->valid || memcmp(prefix, l->prefix, INDEX_PREFIX_MAX) != 0)
        known.next = known.count;
    else if (known.count > 0)
        qsort(known.keys, known.count, sizeof(*known.keys), compare_hashes);
    memcpy(l->prefix, prefix, INDEX_PREFIX_MAX);
    l->keys = NULL;
    l->count = l->room = l->bytes = l->next = 0;
    l->valid = false;
    l->reverse = l->span->reverse;
    l->version = index_version(l->scan->reader); /* what is read from here on is not older */
    from = start_bound(&l->start);
    if (from.have && is_of_run(l, from.key)) {
        b.has_start = true;
        b.start_included = from.included;
        b.start = slice_after(from.key, INDEX_PREFIX_MAX);
    }
    rc = start_set(&l->from, &from);
    if (rc == 0)
        rc = window_gather(l, &known, &b);
    free_keys(known.keys, known.count);
    l->complete = b.end.rest == NULL;
    free(b.end.rest);
    if (l->count > 0)
        qsort(l->keys, l->count, sizeof(*l->keys), l->reverse ? compare_down : compare_up);
    l->valid = l->in_run = rc == 0;
    return rc;
}

/* The key, whole, in l->text. 0 or -ENOMEM. */
static int whole_key(struct scan_long *l, const struct long_key *k)
{
    int rc;

    l->text.len = 0;
    rc = buf_add(&l->text, l->prefix, INDEX_PREFIX_MAX);
    return rc != 0 ? rc : buf_add_slice(&l->text, rest_of(k));
}

/* ---- from run to run ---- */

/* Where the search for the next run begins: upwards at the beginning of a run, downwards behind the
 * end of one, or of the family. Returns the length. */
static size_t next_run_key(const struct scan_long *l, char *out)
{
    struct slice start = buf_slice(&l->start.key);
    bool back = l->span->reverse;

    if (l->in_run)
        return run_key(slice_of(l->prefix, INDEX_PREFIX_MAX), back ? 0 : HASH_BYTES, out);
    if (l->start.have)
        return run_key(start, back && start.len >= INDEX_PREFIX_MAX ? HASH_BYTES : 0, out);
    out[0] = back ? INDEX_FAMILY_HASHED + 1 : INDEX_FAMILY_HASHED;
    return 1;
}

/* True: every key of the run lies behind the span. */
static bool run_is_over(const struct scan_long *l, const char *prefix)
{
    struct slice run = slice_of(prefix, INDEX_PREFIX_MAX);
    struct slice end = l->span->end.key;

    if (!l->span->end.have)
        return false;
    if (!l->span->reverse)
        return slice_compare(run, end) >= 0; /* the keys are longer */
    if (end.len > INDEX_PREFIX_MAX)
        end.len = INDEX_PREFIX_MAX;
    return slice_compare(run, end) < 0;
}

/* Fills the window from the next run that may have keys of the span; `ended` if there is none. */
static int next_run(struct scan_long *l)
{
    struct row_walk w = {.l = l};
    char from[INDEX_KEY_MAX];
    size_t len = next_run_key(l, from);
    int rc;

    do {
        w.looked = 0;
        w.more = false;
        rc = (l->span->reverse ? index_walk_back : index_walk)(l->scan->reader, slice_of(from, len),
                                                               find_row, &w);
        memcpy(from, w.last, INDEX_KEY_MAX);
        len = INDEX_KEY_MAX;
    } while (rc == 0 && w.more);
    l->ended = !w.found || run_is_over(l, w.prefix);
    return rc != 0 || l->ended ? rc : window_fill(l, w.prefix);
}

/* Fills the window from the same run, behind its last key. */
static int next_window(struct scan_long *l)
{
    char prefix[INDEX_PREFIX_MAX];
    int rc = whole_key(l, &l->keys[l->count - 1]);

    memcpy(prefix, l->prefix, INDEX_PREFIX_MAX);
    if (rc == 0)
        rc = start_set(&l->start, &(struct scan_bound){true, false, buf_slice(&l->text)});
    return rc != 0 ? rc : window_fill(l, prefix);
}

/* ---- a page ---- */

/* True: the window has the keys from `start` on, as the index has them now. */
static bool window_covers(struct scan_long *l, const struct scan_bound *start)
{
    const struct scan_span *span = l->span;

    if (!start->have || !scan_long_knows(l, start->key) || l->reverse != span->reverse ||
        l->count == 0 || l->version == 0 || l->version != index_version(l->scan->reader))
        return false;
    if (l->from.have) {
        int order = span_order(span, start->key, buf_slice(&l->from.key));

        if (order < 0 || (order == 0 && start->included && !l->from.included))
            return false;
    }
    return l->complete || order_of_rests(l, slice_after(start->key, INDEX_PREFIX_MAX),
                                         rest_of(&l->keys[l->count - 1])) < 0;
}

/* The first of the window's keys that the span has. */
static size_t window_find(const struct scan_long *l, const struct scan_bound *start)
{
    struct slice rest = slice_after(start->key, INDEX_PREFIX_MAX);
    size_t low = 0;
    size_t high = l->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (order_of_rests(l, rest_of(&l->keys[middle]), rest) < (start->included ? 0 : 1))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int scan_long_begin(struct scan_long *l, const struct scan *scan, const struct scan_span *span)
{
    l->scan = scan;
    l->span = span;
    l->ended = false;
    l->in_run = window_covers(l, &span->start);
    l->next = l->in_run ? window_find(l, &span->start) : l->count;
    return start_set(&l->start, &span->start);
}

int scan_long_next(struct scan_long *l, struct slice *key, struct entry *e)
{
    int rc = 0;

    while (rc == 0 && !l->ended) {
        const struct long_key *k;

        if (l->next == l->count) {
            rc = l->in_run && !l->complete ? next_window(l) : next_run(l);
            continue;
        }
        k = &l->keys[l->next++];
        if (!l->scan->is_live(l->scan->ctx, &k->entry))
            continue;
        rc = whole_key(l, k);
        if (rc != 0)
            break;
        *key = buf_slice(&l->text);
        *e = k->entry;
        l->ended = span_is_over(l->span, *key);
        if (!l->ended)
            return 1;
    }
    return rc;
}
