/*
 * delta_view.c - see delta_view.h.
 *
 * Provides: delta_view_*(), delta_cursor_*(), and delta_order_*() for delta.c.
 * Used by:  scans.
 * Threads:  see delta_view.h. Runs are immutable; their references are counted under the
 *           generation's order.mutex.
 */
#include "store/logstore/delta_view.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "store/logstore/delta_impl.h"

struct delta_run {
    unsigned refs; /* the order's, and of each open view that has it */
    uint32_t count;
    const struct delta_node *nodes[]; /* ascending, one a key */
};

void delta_order_init(struct delta_order *o)
{
    pthread_mutex_init(&o->mutex, NULL);
    atomic_init(&o->bytes, 0);
    o->mark = 0;
    o->count = 0;
}

static size_t run_bytes(uint32_t count)
{
    return sizeof(struct delta_run) + (size_t)count * sizeof(const struct delta_node *);
}

static void run_unref_locked(struct delta_order *o, struct delta_run *run)
{
    if (--run->refs > 0)
        return;
    atomic_fetch_sub(&o->bytes, run_bytes(run->count));
    free(run);
}

static void forget_locked(struct delta_order *o)
{
    for (unsigned i = 0; i < o->count; i++)
        run_unref_locked(o, o->runs[i]);
    o->count = 0;
    o->mark = 0;
}

void delta_order_fini(struct delta_order *o)
{
    forget_locked(o);
    assert(atomic_load(&o->bytes) == 0); /* a view holds the generation */
    pthread_mutex_destroy(&o->mutex);
}

/* Makes room for `count` keys; what is not needed is given back by run_take(). NULL without
 * memory. */
static struct delta_run *run_new(size_t count)
{
    return count > UINT32_MAX ? NULL : malloc(run_bytes((uint32_t)count));
}

/* The run is the order's from now on; it has `count` keys. */
static struct delta_run *run_take(struct delta_order *o, struct delta_run *run, uint32_t count)
{
    struct delta_run *fitting = realloc(run, run_bytes(count));

    if (fitting == NULL)
        fitting = run;
    fitting->refs = 1;
    fitting->count = count;
    atomic_fetch_add(&o->bytes, run_bytes(count));
    return fitting;
}

/* ---- making runs ---- */

struct collection {
    struct delta_slot *slots;
    size_t count;
    size_t room;
    int rc;
};

static bool collect_node(const struct delta_node *n, void *arg)
{
    struct collection *c = arg;

    if (c->count == c->room) {
        size_t room = c->room == 0 ? 256 : c->room * 2;
        struct delta_slot *slots = reallocarray(c->slots, room, sizeof(*slots));

        if (slots == NULL) {
            c->rc = -ENOMEM;
            return false;
        }
        c->slots = slots;
        c->room = room;
    }
    c->slots[c->count++].node = n;
    return true;
}

/* A run of the keys of the puts from `from` to `to`; NULL: there are none. 0 or -ENOMEM. */
static int run_of_puts(struct delta *d, uint64_t from, uint64_t to, struct delta_run **out)
{
    struct collection c = {0};
    struct delta_run *run = NULL;
    uint32_t count = 0;

    delta_nodes(d, from, to, collect_node, &c);
    if (c.rc == 0 && c.count > 0) {
        run = run_new(c.count);
        c.rc = run == NULL ? -ENOMEM : 0;
    }
    if (run != NULL) {
        delta_sort_bytewise(c.slots, c.count);
        for (size_t i = 0; i < c.count; i++) {
            const struct delta_node *n = c.slots[i].node;

            if (count == 0 ||
                !slice_equal(delta_node_key(run->nodes[count - 1]), delta_node_key(n)))
                run->nodes[count++] = n;
        }
        run = run_take(delta_order_of(d), run, count);
    }
    free(c.slots);
    *out = run;
    return c.rc;
}

/* Both runs' keys in one. NULL without memory. */
static struct delta_run *run_merged(struct delta_order *o, const struct delta_run *a,
                                    const struct delta_run *b)
{
    struct delta_run *run = run_new((size_t)a->count + b->count);
    uint32_t count = 0;
    uint32_t i = 0;
    uint32_t j = 0;

    if (run == NULL)
        return NULL;
    while (i < a->count || j < b->count) {
        int order = i == a->count ? 1
                    : j == b->count
                        ? -1
                        : slice_compare(delta_node_key(a->nodes[i]), delta_node_key(b->nodes[j]));

        run->nodes[count++] = order <= 0 ? a->nodes[i] : b->nodes[j];
        i += order <= 0;
        j += order >= 0;
    }
    return run_take(o, run, count);
}

/* Adds a run behind the others, merged with those that are not twice as long. On -ENOMEM the run is
 * not taken over and the order is as it was. */
static int add_run_locked(struct delta_order *o, struct delta_run *run)
{
    unsigned keep = o->count;

    while (keep > 0 && o->runs[keep - 1]->count / 2 < run->count) {
        struct delta_run *merged = run_merged(o, o->runs[keep - 1], run);

        run_unref_locked(o, run);
        if (merged == NULL)
            return -ENOMEM;
        run = merged;
        keep--;
    }
    while (o->count > keep)
        run_unref_locked(o, o->runs[--o->count]);
    assert(o->count < DELTA_RUNS_MAX);
    o->runs[o->count++] = run;
    return 0;
}

/* ---- views ---- */

int delta_view_open(struct delta *d, struct delta_view *out)
{
    struct delta_order *o = delta_order_of(d);
    uint64_t mark = delta_mark(d);
    struct delta_run *run = NULL;
    int rc = 0;

    pthread_mutex_lock(&o->mutex);
    if (mark > o->mark)
        rc = run_of_puts(d, o->mark, mark, &run);
    if (rc == 0 && run != NULL)
        rc = add_run_locked(o, run);
    if (rc == 0) {
        o->mark = mark > o->mark ? mark : o->mark;
        out->delta = d;
        out->count = o->count;
        for (unsigned i = 0; i < o->count; i++) {
            out->runs[i] = o->runs[i];
            out->runs[i]->refs++;
        }
    }
    pthread_mutex_unlock(&o->mutex);
    return rc;
}

void delta_view_close(struct delta_view *view)
{
    struct delta_order *o = delta_order_of(view->delta);

    pthread_mutex_lock(&o->mutex);
    for (unsigned i = 0; i < view->count; i++)
        run_unref_locked(o, view->runs[i]);
    pthread_mutex_unlock(&o->mutex);
}

void delta_view_forget(struct delta *d)
{
    struct delta_order *o = delta_order_of(d);

    pthread_mutex_lock(&o->mutex);
    forget_locked(o);
    pthread_mutex_unlock(&o->mutex);
}

size_t delta_view_bytes(struct delta *d)
{
    return atomic_load(&delta_order_of(d)->bytes);
}

/* ---- walking ---- */

static struct slice run_key(const struct delta_run *run, uint32_t i)
{
    return delta_node_key(run->nodes[i]);
}

/* How many keys of the run are below `key`, or not above it. */
static uint32_t keys_before(const struct delta_run *run, struct slice key, bool or_equal)
{
    uint32_t low = 0;
    uint32_t high = run->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (slice_compare(run_key(run, middle), key) < (or_equal ? 1 : 0))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void delta_cursor_begin(struct delta_cursor *c, const struct delta_view *view,
                        const struct slice *start, bool reverse)
{
    c->view = view;
    c->reverse = reverse;
    for (unsigned i = 0; i < view->count; i++) {
        const struct delta_run *run = view->runs[i];

        c->left[i] = run->count;
        if (start != NULL)
            c->left[i] = reverse ? keys_before(run, *start, true)
                                 : run->count - keys_before(run, *start, false);
    }
}

/* Of the run's keys that come still, the next. */
static struct slice cursor_key(const struct delta_cursor *c, unsigned i)
{
    const struct delta_run *run = c->view->runs[i];

    return run_key(run, c->reverse ? c->left[i] - 1 : run->count - c->left[i]);
}

bool delta_cursor_next(struct delta_cursor *c, struct slice *key)
{
    unsigned with[DELTA_RUNS_MAX]; /* the runs in which the key is next */
    unsigned count = 0;

    for (unsigned i = 0; i < c->view->count; i++) {
        struct slice k;
        int order;

        if (c->left[i] == 0)
            continue;
        k = cursor_key(c, i);
        order = count == 0 ? -1 : slice_compare(k, *key);
        if (count > 0 && c->reverse)
            order = -order;
        if (order > 0)
            continue;
        if (order < 0)
            count = 0;
        with[count++] = i;
        *key = k;
    }
    for (unsigned i = 0; i < count; i++)
        c->left[with[i]]--;
    return count > 0;
}
