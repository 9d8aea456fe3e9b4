/*
 * sweep.c - see sweep.h.
 *
 * Provides: sweep_*().
 * Used by:  background.c, logstore.c.
 * Threads:  one of its own. What it finds is looked at again and changed on the writer's thread, some
 *           hundreds of keys between two batches.
 * Locks:    stat_mutex (the figures' reader, over a look at the index), then mutex (the stop, the
 *           cursor; for moments).
 *
 * An expired record is hidden at once by whoever reads it. Here its entry becomes that of a
 * tombstone: it does not count any more, and with the next checkpoint its bytes are let go.
 * Nothing is written to the log.
 *
 * Most are found by the index's table of expiries, in its order. What is not in the index yet is
 * found by a look at all of the delta, when something in it may have expired: so a record that is
 * written and expires between two checkpoints needs none.
 *
 * A flush that is older than some record here (it came from elsewhere) has killed what only a walk
 * over everything finds: that is done here too.
 */
#include "store/logstore/sweep.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

enum {
    PERIOD_MS = 1000,
    /* A look at the delta may take one part in so many of this thread's time ... */
    LOOK_SHARE = 20,
    /* ... but comes at least so often. */
    LOOK_MS_MAX = 15000,
    KEYS_AT_ONCE = 512, /* for the writer */
    ASK_MS = 15000,     /* between two checkpoints that the sweep asks for */
    KEYS_BYTES = 1024 * 1024,
    WALK_ROWS = KEYS_AT_ONCE, /* in one transaction of the index */
    WAITING_MAX = 100 * 1000, /* counted for the figures */
};

#define NO_CHECKPOINT UINT64_MAX

/* A row of the index that may be swept. */
struct candidate {
    struct entry entry;
    bool refile;
    uint16_t len;
    char index_key[INDEX_KEY_MAX];
};

/* Keys for the writer. */
struct swept_key {
    uint64_t hash;
    size_t offset; /* in the batch's bytes */
    size_t len;
    bool refile; /* it expires later than the index thought when its row was written */
};

struct sweep {
    struct logstore *ls;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_mutex_t stat_mutex; /* over a look at the index for the figures */
    pthread_cond_t wake;
    pthread_cond_t done;
    bool stop;
    bool asked;     /* sweep_now() waits for a round */
    uint64_t begun; /* rounds */
    uint64_t ended;
    bool complete; /* the last round has left nothing */

    struct grace_reader grace;
    struct index_reader *reader;
    struct index_reader *stat_reader;
    int64_t now_ms;       /* of this round */
    struct delta *active; /* while the delta is looked at */
    struct stamp flush;   /* what is looked for is killed by that, too */
    uint64_t found;       /* in this round */
    bool full;            /* a checkpoint must come first */
    int failed;

    struct swept_key keys[KEYS_AT_ONCE];
    unsigned key_count;
    struct buf bytes;
    struct candidate page[KEYS_AT_ONCE];
    unsigned page_count;
    struct buf full_key;

    struct index_expiry_cursor cursor; /* rows up to there were swept since the last checkpoint */
    uint64_t cursor_checkpoint;        /* the number of that one */
    bool swept_since;                  /* something was, since that one */
    int64_t asked_ms;                  /* monotonic; for a checkpoint */
    int64_t next_look_ms;              /* monotonic */
    int64_t first_late_ms;             /* of what the delta has, as far as the look has come */
    char walk_key[INDEX_KEY_MAX];      /* where the walk for a flush goes on */
    size_t walk_len;
    unsigned walk_rows; /* in this transaction */

    _Atomic uint64_t swept;
    _Atomic uint64_t looks;
};

/* ---- the writer's part ---- */

static void sweep_keys(struct logstore *ls, void *arg)
{
    struct sweep *s = arg;

    for (unsigned i = 0; i < s->key_count && s->failed == 0; i++) {
        const struct swept_key *k = &s->keys[i];
        struct slice key = slice_of(s->bytes.data + k->offset, k->len);
        int rc = k->refile ? keyspace_refresh(ls, k->hash, key)
                           : keyspace_sweep(ls, k->hash, key, s->now_ms);

        if (rc < 0)
            s->failed = rc;
        else
            s->found += (unsigned)rc;
    }
}

static bool is_stopped(struct sweep *s)
{
    bool stop;

    pthread_mutex_lock(&s->mutex);
    stop = s->stop;
    pthread_mutex_unlock(&s->mutex);
    return stop;
}

/* Sweeps what was gathered. False: the round ends here. */
static bool hand_over(struct sweep *s)
{
    struct logstore *ls = s->ls;

    if (is_stopped(s))
        s->failed = -ECANCELED;
    if (s->key_count > 0 && s->failed == 0)
        writer_call(ls, sweep_keys, s);
    s->key_count = 0;
    s->bytes.len = 0;
    /* What is swept waits in memory for a checkpoint, like what is written. */
    grace_enter(&ls->grace, &s->grace);
    s->full = delta_count(atomic_load_explicit(&ls->active, memory_order_acquire)) >=
              ls->config.checkpoint_entries;
    grace_leave(&s->grace);
    return s->failed == 0 && !s->full;
}

/* False: the round ends here. */
static bool gather(struct sweep *s, struct slice key, bool refile)
{
    struct swept_key *k = &s->keys[s->key_count];

    *k = (struct swept_key){hash_slice(key), s->bytes.len, key.len, refile};
    s->failed = buf_reserve(&s->bytes, key.len + 1); /* a place for the empty one too */
    if (s->failed != 0)
        return false;
    (void)buf_add_slice(&s->bytes, key);
    s->key_count++;
    return s->key_count < KEYS_AT_ONCE && s->bytes.len < KEYS_BYTES ? true : hand_over(s);
}

static bool is_wanted(const struct sweep *s, const struct entry *e)
{
    return e->kind != RECORD_DELETE &&
           (entry_is_late(e, s->now_ms) || stamp_compare(e->base, s->flush) <= 0);
}

/* ---- what is not in the index ---- */

static struct delta *pin(struct sweep *s, _Atomic(struct delta *) *generation)
{
    struct delta *d;

    grace_enter(&s->ls->grace, &s->grace);
    d = atomic_load_explicit(generation, memory_order_acquire);
    if (d != NULL)
        delta_ref(d);
    grace_leave(&s->grace);
    return d;
}

static void look_at(const struct delta_item *item, void *arg)
{
    struct sweep *s = arg;
    const struct entry *e = item->entry;
    struct entry newer;

    if (e->kind == RECORD_DELETE || s->failed != 0)
        return;
    if (is_wanted(s, e) && !s->full) {
        if (!delta_find(s->active, hash_slice(item->key), item->key, UINT64_MAX, &newer, NULL) ||
            is_wanted(s, &newer))
            (void)gather(s, item->key, false);
    } else if (e->expires_ms != 0 && e->expires_ms < s->first_late_ms) {
        s->first_late_ms = e->expires_ms;
    }
}

static void lower_first_expiry(struct logstore *ls, int64_t ms)
{
    int64_t now = atomic_load(&ls->first_expiry_ms);

    while (ms < now && !atomic_compare_exchange_weak(&ls->first_expiry_ms, &now, ms))
        ;
}

/* Everything in the delta. In this order: what leaves the active generation meanwhile is in the
 * frozen one before, what leaves that one is in the index before. */
static void look_at_delta(struct sweep *s)
{
    struct logstore *ls = s->ls;
    int64_t start_ms = clock_mono_ms();
    struct delta *frozen;
    int64_t took_ms;

    s->first_late_ms = INT64_MAX;
    /* Whatever comes from now on says so anew. */
    atomic_store(&ls->first_expiry_ms, INT64_MAX);
    s->active = pin(s, &ls->active);
    frozen = pin(s, &ls->frozen);
    if (s->active != NULL)
        delta_walk(s->active, UINT64_MAX, look_at, s);
    if (frozen != NULL)
        delta_walk(frozen, UINT64_MAX, look_at, s);
    delta_free(s->active);
    delta_free(frozen);
    s->active = NULL;
    (void)hand_over(s);
    lower_first_expiry(ls, s->failed != 0 || s->full ? s->now_ms : s->first_late_ms);
    took_ms = (clock_mono_ms() - start_ms) * LOOK_SHARE;
    s->next_look_ms = clock_mono_ms() + (took_ms < LOOK_MS_MAX ? took_ms : LOOK_MS_MAX);
    atomic_fetch_add(&s->looks, 1);
}

/* ---- what is in the index ---- */

static bool add_candidate(struct slice index_key, const struct entry *e, void *arg)
{
    struct sweep *s = arg;
    struct candidate *c = &s->page[s->page_count];

    c->entry = *e;
    c->refile = !is_wanted(s, e);
    c->len = (uint16_t)index_key.len;
    memcpy(c->index_key, index_key.ptr, index_key.len);
    return ++s->page_count < KEYS_AT_ONCE;
}

/* The key of a row; that of a long one is in the record. 0, -ENOENT: not now, -errno. */
static int key_of(struct sweep *s, const struct candidate *c, struct slice *out)
{
    char index_bytes[INDEX_KEY_MAX];
    int rc;

    if (c->index_key[0] != INDEX_FAMILY_HASHED) {
        *out = slice_of(c->index_key + 1, c->len - 1u);
        return 0;
    }
    rc = listing_full_key(s->ls, &c->entry, &s->full_key);
    *out = buf_slice(&s->full_key);
    if (rc == 0 && !slice_equal(slice_of(index_bytes, index_key(*out, index_bytes)),
                                slice_of(c->index_key, c->len)))
        rc = -ENOENT;
    return rc;
}

/* True unless something newer is known to be in the delta that needs nothing: most rows that are met
 * a second time are those that were swept since the last checkpoint. */
static bool is_left(struct sweep *s, struct slice key, bool refile)
{
    struct logstore *ls = s->ls;
    uint64_t hash = hash_slice(key);
    const struct delta *d;
    struct entry e;
    bool found;

    grace_enter(&ls->grace, &s->grace);
    d = atomic_load_explicit(&ls->active, memory_order_acquire);
    found = delta_find(d, hash, key, UINT64_MAX, &e, NULL);
    d = atomic_load_explicit(&ls->frozen, memory_order_acquire);
    if (!found && d != NULL)
        found = delta_find(d, hash, key, UINT64_MAX, &e, NULL);
    grace_leave(&s->grace);
    return !found || (!refile && is_wanted(s, &e));
}

/* Hands the page's keys to the writer. False: the round ends here. */
static bool sweep_page(struct sweep *s)
{
    bool go_on = true;

    for (unsigned i = 0; go_on && i < s->page_count; i++) {
        struct slice key;
        int rc = key_of(s, &s->page[i], &key);

        if (rc == -ENOMEM) {
            s->failed = rc;
            go_on = false;
        } else if (rc != 0) {
            s->cursor_checkpoint = NO_CHECKPOINT; /* it is looked at again */
        } else if (is_left(s, key, s->page[i].refile)) {
            go_on = gather(s, key, s->page[i].refile);
        }
    }
    s->page_count = 0;
    return hand_over(s) && go_on;
}

static void sweep_index(struct sweep *s)
{
    uint64_t checkpoint = atomic_load(&s->ls->checkpoint.count);
    struct index_expiry_cursor next;
    bool more = true;

    /* Rows that expire earlier than those seen so far come with a checkpoint only. */
    if (checkpoint != s->cursor_checkpoint) {
        s->cursor_checkpoint = checkpoint;
        s->swept_since = false;
        pthread_mutex_lock(&s->mutex);
        s->cursor.len = 0;
        pthread_mutex_unlock(&s->mutex);
    }
    while (more && s->failed == 0 && !s->full) {
        next = s->cursor;
        s->failed = index_expired_from(s->reader, &next, s->now_ms, add_candidate, s);
        more = s->page_count == KEYS_AT_ONCE;
        if (s->failed != 0 || !sweep_page(s))
            return; /* what was not swept is seen again */
        pthread_mutex_lock(&s->mutex);
        s->cursor = next;
        pthread_mutex_unlock(&s->mutex);
    }
}

/* ---- what an old flush has killed ---- */

static bool add_flushed(struct slice index_key, const struct entry *e, void *arg)
{
    struct sweep *s = arg;

    if (++s->walk_rows > WALK_ROWS) {
        s->walk_len = index_key.len;
        memcpy(s->walk_key, index_key.ptr, index_key.len);
        return false;
    }
    if (is_wanted(s, e))
        (void)add_candidate(index_key, e, arg);
    return true;
}

static void flush_is_swept(struct logstore *ls, void *arg)
{
    const struct sweep *s = arg;

    keyspace_flush_is_counted(ls, s->flush);
}

/* Looks at everything: the delta first, because what is in it now may be in the index soon, and
 * nothing goes the other way. No record that the flush kills comes any more. */
static void sweep_flushed(struct sweep *s)
{
    struct slice from = {NULL, 0};
    bool more = true;

    s->flush = keyspace_flush(s->ls);
    look_at_delta(s);
    while (more && s->failed == 0 && !s->full) {
        s->walk_rows = 0;
        s->failed = index_walk(s->reader, from, add_flushed, s);
        more = s->walk_rows > WALK_ROWS;
        from = slice_of(s->walk_key, s->walk_len);
        if (s->failed == 0)
            (void)sweep_page(s);
    }
    if (s->failed == 0 && !s->full)
        writer_call(s->ls, flush_is_swept, s);
    s->flush = (struct stamp){0};
}

/* ---- the thread ---- */

/* Compaction sees with the next checkpoint only what has become free. Where little is written that
 * may be long. */
static void ask_for_checkpoint(struct sweep *s)
{
    struct logstore *ls = s->ls;
    uint64_t freed =
        atomic_load(&ls->superseded_bytes) - atomic_load(&ls->checkpoint.done_superseded);
    int64_t now = clock_mono_ms();

    s->swept_since = s->swept_since || s->found > 0;
    if (!s->swept_since || freed < ls->config.segment_bytes / 2 || now - s->asked_ms < ASK_MS)
        return;
    s->asked_ms = now;
    checkpoint_ask(ls);
}

static void sweep_round(struct sweep *s)
{
    struct logstore *ls = s->ls;

    s->now_ms = keyspace_now_ms(ls);
    s->found = 0;
    s->failed = 0;
    s->full = false;
    s->page_count = 0;
    if (atomic_load(&ls->first_expiry_ms) <= s->now_ms && clock_mono_ms() >= s->next_look_ms)
        look_at_delta(s);
    if (s->failed == 0)
        sweep_index(s);
    if (s->failed == 0 && atomic_load(&ls->flush_behind))
        sweep_flushed(s);
    if (s->failed == 0 && !s->full)
        ask_for_checkpoint(s);
    atomic_fetch_add(&s->swept, s->found);
}

/* Waits for the next round's time. False: stop. */
static bool wait_period(struct sweep *s)
{
    struct timespec until = clock_mono_after(PERIOD_MS);
    bool go_on;

    pthread_mutex_lock(&s->mutex);
    while (!s->stop && !s->asked && pthread_cond_timedwait(&s->wake, &s->mutex, &until) == 0)
        ;
    go_on = !s->stop;
    if (s->asked)
        s->next_look_ms = 0;
    s->asked = false;
    s->begun++;
    pthread_mutex_unlock(&s->mutex);
    return go_on;
}

static void tell_done(struct sweep *s)
{
    pthread_mutex_lock(&s->mutex);
    s->ended = s->begun;
    s->complete = s->failed == 0 && !s->full;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->mutex);
}

static void *sweep_main(void *arg)
{
    struct sweep *s = arg;

    pthread_setname_np(pthread_self(), "tt-sweep");
    while (wait_period(s)) {
        if (!atomic_load(&s->ls->read_only))
            sweep_round(s);
        tell_done(s);
    }
    return NULL;
}

bool sweep_now(struct logstore *ls)
{
    struct sweep *s = ls->sweep;
    uint64_t round;
    bool complete;

    pthread_mutex_lock(&s->mutex);
    round = s->begun + 1; /* one that is under way may have looked too early */
    s->asked = true;
    pthread_cond_broadcast(&s->wake);
    while (s->ended < round)
        pthread_cond_wait(&s->done, &s->mutex);
    complete = s->complete;
    pthread_mutex_unlock(&s->mutex);
    return complete;
}

static void sweep_free(struct sweep *s)
{
    index_reader_close(s->reader);
    index_reader_close(s->stat_reader);
    grace_remove(&s->ls->grace, &s->grace);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->mutex);
    pthread_mutex_destroy(&s->stat_mutex);
    buf_free(&s->bytes);
    buf_free(&s->full_key);
    free(s);
}

int sweep_start(struct logstore *ls)
{
    struct sweep *s = aligned_alloc(_Alignof(struct sweep), sizeof(*s));
    pthread_condattr_t attr;
    int rc;

    if (s == NULL)
        return -ENOMEM;
    memset(s, 0, sizeof(*s));
    s->ls = ls;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_mutex_init(&s->stat_mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_cond_init(&s->done, NULL);
    pthread_condattr_destroy(&attr);
    grace_add(&ls->grace, &s->grace);
    rc = index_reader_open(ls->index, &s->reader);
    if (rc == 0)
        rc = index_reader_open(ls->index, &s->stat_reader);
    if (rc == 0)
        rc = -pthread_create(&s->thread, NULL, sweep_main, s);
    if (rc != 0) {
        sweep_free(s);
        return rc;
    }
    ls->sweep = s;
    return 0;
}

void sweep_end(struct logstore *ls)
{
    struct sweep *s = ls->sweep;

    if (s == NULL)
        return;
    pthread_mutex_lock(&s->mutex);
    s->stop = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    sweep_free(s);
    ls->sweep = NULL;
}

/* Records in the index that have expired and that the sweep has not come to. */
static uint64_t count_waiting(struct sweep *s)
{
    struct index_expiry_cursor cursor;
    uint64_t waiting = 0;

    pthread_mutex_lock(&s->stat_mutex);
    pthread_mutex_lock(&s->mutex);
    cursor = s->cursor;
    pthread_mutex_unlock(&s->mutex);
    (void)index_count_expired(s->stat_reader, &cursor, keyspace_now_ms(s->ls), WAITING_MAX,
                              &waiting);
    pthread_mutex_unlock(&s->stat_mutex);
    return waiting;
}

int sweep_stat(struct logstore *ls, struct buf *out)
{
    struct sweep *s = ls->sweep;
    uint64_t expiring = 0;

    if (s == NULL)
        return 0;
    (void)index_expiring(ls->index, &expiring);
    return buf_printf(out,
                      "index_expiring_rows %" PRIu64 "\nexpired_waiting %" PRIu64
                      "\nexpired_swept %" PRIu64 "\nexpiry_looks %" PRIu64 "\n",
                      expiring, count_waiting(s), atomic_load(&s->swept), atomic_load(&s->looks));
}
