/*
 * writer.c - the one thread that writes: takes what the ports hand over, decides, appends, syncs,
 * publishes.
 *
 * Provides: writer_*() of logstore.h.
 * Used by:  ports (hand over), big.c (hands over when a file is ready), main through store_close().
 * Threads:  its own; writer_hand_over() and writer_fail() from any.
 *
 * One writer makes guards, versions and the delta simple: nothing changes between looking and
 * appending. A batch is decided, written with one call, synced as the policy asks, and only then
 * seen by readers and answered. A batch that cannot be written is taken back whole.
 *
 * What others want done while nothing changes (a freeze of the delta, the mending of places after a
 * compaction) runs here between two batches: then every record that was decided is also visible.
 *
 * Gathering (policy always): a sync covers whoever waits, so it pays to wait a moment for those
 * whom the last sync has just answered: until as many wait as it covered plus those that had come
 * meanwhile, at most half the smoothed sync time and never more than 2 ms. With a single client
 * nothing is ever waited for.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

#define BATCH_WRITES 4096
#define GATHER_MAX_US 2000

struct writer_state {
    struct store_write *batch[BATCH_WRITES]; /* decided, not yet answered */
    unsigned count;
    /* Files of big values that the batch supersedes. */
    struct {
        uint64_t number;
        uint64_t bytes;
    } gone[BATCH_WRITES];
    unsigned gone_count;
    bool has_flush; /* the batch is one flush, applied once it is in the log */
    struct record flush;
    /* For taking a batch back. */
    uint64_t saved_live_count;
    struct stamp saved_flush;
    /* Gathering. */
    unsigned last_count;   /* writes that the last sync covered */
    unsigned waiting_then; /* writes that had come when it ended */
    int64_t last_end_us;
    int64_t smoothed_sync_us;
};

enum decision {
    DECIDED,
    BATCH_IS_FULL,
    SENT_AWAY, /* it comes back, or waits for one that does */
};

/* ---- taking over ---- */

void writer_wake(struct logstore *ls)
{
    if (atomic_exchange(&ls->wake_at, 0) != 0)
        sem_post(&ls->inbox_wake);
}

void writer_hand_over(struct logstore *ls, struct store_write *first, struct store_write *last,
                      uint32_t count)
{
    struct store_write *head = atomic_load_explicit(&ls->inbox, memory_order_relaxed);
    uint32_t waiting;
    uint32_t wake_at;

    assert(last->next == NULL);
    first->chain_last = last;
    first->chain_count = count;
    do {
        first->chain_next = head;
    } while (!atomic_compare_exchange_weak(&ls->inbox, &head, first));
    waiting = atomic_fetch_add(&ls->inbox_count, count) + count;
    wake_at = atomic_load(&ls->wake_at);
    if (wake_at != 0 && waiting >= wake_at)
        writer_wake(ls);
}

/* Everything that waits, oldest first. Only the first of each chain is looked at: the others are
 * not in this processor's cache yet. */
static struct store_write *take_inbox(struct logstore *ls)
{
    struct store_write *chain = atomic_exchange(&ls->inbox, NULL);
    struct store_write *first = NULL;
    uint32_t count = 0;

    while (chain != NULL) {
        chain->chain_last->next = first;
        first = chain;
        count += chain->chain_count;
        chain = chain->chain_next;
    }
    atomic_fetch_sub(&ls->inbox_count, count);
    return first;
}

/* Sleeps until `count` writes wait, somebody calls writer_wake(), or the monotonic time (0: none)
 * has come. */
static void sleep_for(struct logstore *ls, uint32_t count, int64_t until_us)
{
    atomic_store(&ls->wake_at, count);
    if (atomic_load(&ls->inbox_count) >= count || atomic_load(&ls->writer_stop) ||
        atomic_load(&ls->checkpoint.freeze_wanted) || atomic_load(&ls->call) != NULL) {
        /* Whoever has taken wake_at away posts; that post must not wake a later sleep for
         * nothing. */
        if (atomic_exchange(&ls->wake_at, 0) != 0)
            return;
    }
    if (until_us == 0) {
        while (sem_wait(&ls->inbox_wake) == -1 && errno == EINTR)
            ;
    } else {
        struct timespec until = {until_us / 1000000, until_us % 1000000 * 1000};

        while (sem_clockwait(&ls->inbox_wake, CLOCK_MONOTONIC, &until) == -1) {
            if (errno == EINTR)
                continue;
            /* Timed out, unless somebody is about to post. */
            if (atomic_exchange(&ls->wake_at, 0) != 0)
                return;
            while (sem_wait(&ls->inbox_wake) == -1 && errno == EINTR)
                ;
            return;
        }
    }
}

static void gather(struct logstore *ls, struct writer_state *ws)
{
    int64_t window = ws->smoothed_sync_us / 2;
    uint32_t expected = ws->last_count + ws->waiting_then;
    int64_t until;

    if (ls->config.sync != STORE_SYNC_ALWAYS || expected <= 1)
        return;
    until = ws->last_end_us + (window < GATHER_MAX_US ? window : GATHER_MAX_US);
    if (atomic_load(&ls->inbox_count) < expected && clock_mono_us() < until)
        sleep_for(ls, expected, until);
}

/* ---- reading the present state ---- */

int writer_read_record(struct logstore *ls, const struct entry *e, struct record *out, void **owned)
{
    struct place at = {e->segment, e->offset, e->length};
    int rc = 0;

    *owned = NULL;
    if (!log_find_in_batch(ls, at, out))
        rc = reader_load_record(ls, e, out, owned);
    if (rc == 0 && e->has_touch) {
        /* The register's stamp lies in the touch record; its value is in the entry. */
        struct entry touch = {.segment = e->touch_segment, .offset = e->touch_offset};
        struct record *touched = malloc(sizeof(*touched));
        void *memory = NULL;

        if (touched == NULL)
            rc = -ENOMEM;
        else if (!log_find_in_batch(ls, (struct place){e->touch_segment, e->touch_offset, 0},
                                    touched))
            rc = reader_load_record(ls, &touch, touched, &memory);
        if (rc == 0)
            out->touch = touched->touch;
        free(memory);
        free(touched);
    }
    out->expires_ms = e->expires_ms;
    if (rc != 0) {
        free(*owned);
        *owned = NULL;
    }
    return rc;
}

enum store_status writer_status_of(int rc)
{
    switch (rc) {
    case 0: return STORE_OK;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG: return STORE_NO_SPACE; /* the last: a limit on the size of files */
    case -ENOMEM:
    case -EMFILE: /* others hold the descriptors: later there may be some */
    case -ENFILE: return STORE_NO_MEMORY;
    case -EUCLEAN: return STORE_DAMAGED;
    case -EROFS: return STORE_READ_ONLY;
    default: return STORE_IO_ERROR;
    }
}

/* ---- appending one record ---- */

static void record_begin(struct record *r, enum record_kind kind, struct slice key,
                         struct stamp stamp)
{
    r->kind = kind;
    r->flags = 0;
    r->expires_ms = 0;
    r->base = r->logged = r->touch = stamp;
    r->has_client_cas = false;
    r->client_cas = 0;
    r->key = key;
    r->attrs = r->value = slice_of(NULL, 0);
    r->big_file = r->big_bytes = r->big_sum = 0;
    r->slot_count = 0;
    r->cut = false;
}

/* Makes sure that a record of this body fits into the active segment. 0; 1: write the batch first;
 * -errno. */
static int make_room(struct logstore *ls, size_t body_len)
{
    if (log_fits(ls, body_len))
        return 0;
    return ls->log.piece_count > 0 ? 1 : log_rotate(ls);
}

/* A full disk refuses what makes the log grow and frees nothing. A value in a file of its own has
 * been judged as it came. */
static int check_space(struct logstore *ls, const struct record *r)
{
    if (r->kind == RECORD_DELETE || r->big_bytes > 0)
        return 0;
    return space_check_put_now(ls, 1);
}

/* At most one a write. */
static void note_gone(struct writer_state *ws, const struct entry *prev)
{
    ws->gone[ws->gone_count].number = prev->big_file;
    ws->gone[ws->gone_count++].bytes = prev->big_bytes;
}

/* Puts the record into the batch and its effect into the state. `owned` is freed sooner or later in
 * every case. */
static enum decision append(struct logstore *ls, struct store_write *w, struct record *r,
                            uint64_t body_sum, void *owned, const struct entry *prev)
{
    struct place at;
    int rc = check_space(ls, r);

    if (rc == 0)
        rc = make_room(ls, r->key.len + r->attrs.len + r->value.len);
    if (rc < 0) {
        free(owned);
        w->status = writer_status_of(rc);
        return DECIDED;
    }
    if (rc == 1 || !log_add(ls, r, body_sum, owned, &at)) {
        free(owned);
        return BATCH_IS_FULL;
    }
    /* The batch has its own copy of the body by now, or owns it. */
    r->key = w->key;
    r->attrs = r->value = slice_of(NULL, 0);
    rc = keyspace_apply(ls, r, at, w->hash, prev);
    w->status = writer_status_of(rc);
    if (rc != 0) {
        log_take_out(ls, at);
        return DECIDED;
    }
    if (big_is_superseded(prev, r))
        note_gone(ls->writer_state, prev);
    space_took(ls, at.length);
    w->in_delta = true;
    w->appended = true;
    w->cas = record_cas(r);
    return DECIDED;
}

/* ---- the operations ---- */

static enum decision do_put(struct logstore *ls, struct store_write *w, const struct entry *prev)
{
    struct record r;
    uint64_t sum = w->body_sum;
    struct slice cas;

    record_begin(&r, RECORD_PUT, w->key, keyspace_stamp(ls));
    r.flags = w->flags;
    r.expires_ms = w->expires_ms;
    r.attrs = w->attrs;
    r.value = slice_of(w->value, w->value_len);
    if (w->spool != NULL) {
        big_spool_describe(w->spool, &r);
        r.value = slice_of(NULL, 0);
    }
    if (r.attrs.len > 0 && attr_find(r.attrs, ATTR_CLIENT_CAS, &cas) && cas.len == 8) {
        struct record_layout layout = {.attrs_len = (uint32_t)r.attrs.len};
        struct slice key = r.key;
        struct slice value = r.value;

        record_set_body(&r, &layout, r.attrs.ptr);
        r.key = key;
        r.value = value;
    }
    return append(ls, w, &r, sum, NULL, prev);
}

static enum decision do_delete(struct logstore *ls, struct store_write *w, const struct entry *prev)
{
    struct record r;

    record_begin(&r, RECORD_DELETE, w->key, keyspace_stamp(ls));
    return append(ls, w, &r, hash_slice(w->key), NULL, prev);
}

static enum decision do_touch(struct logstore *ls, struct store_write *w, const struct entry *prev)
{
    struct record r;
    enum decision decision;

    record_begin(&r, RECORD_TOUCH, w->key, keyspace_stamp(ls));
    r.base = prev->base;
    r.expires_ms = w->expires_ms;
    decision = append(ls, w, &r, hash_slice(w->key), NULL, prev);
    w->cas = prev->cas;
    return decision;
}

static enum decision do_flush(struct logstore *ls, struct writer_state *ws, struct store_write *w,
                              int64_t now_ms)
{
    struct record *r = &ws->flush;
    struct place at;
    bool added;
    int rc;

    if (ls->log.piece_count > 0)
        return BATCH_IS_FULL;
    rc = make_room(ls, 0);
    if (rc != 0) {
        w->status = writer_status_of(rc);
        return DECIDED;
    }
    record_begin(r, RECORD_FLUSH, slice_of(NULL, 0), keyspace_stamp(ls));
    r->expires_ms = w->flush_at_ms > now_ms ? w->flush_at_ms : 0;
    added = log_add(ls, r, hash_bytes(NULL, 0), NULL, &at);
    assert(added); /* an empty batch takes any record */
    ws->has_flush = true;
    w->appended = true;
    w->status = STORE_OK;
    return DECIDED;
}

/* Adds to this writer's slot; the slots stay in the order of their writers. False: a number would
 * overflow. */
static bool slot_add(struct record *r, struct stamp stamp, int64_t delta)
{
    unsigned i = 0;

    while (i < r->slot_count &&
           (r->slots[i].stamp.node < stamp.node ||
            (r->slots[i].stamp.node == stamp.node && r->slots[i].stamp.epoch < stamp.epoch)))
        i++;
    if (i == r->slot_count || r->slots[i].stamp.node != stamp.node ||
        r->slots[i].stamp.epoch != stamp.epoch) {
        if (r->slot_count == RECORD_SLOTS_MAX)
            return false;
        memmove(r->slots + i + 1, r->slots + i, (r->slot_count - i) * sizeof(r->slots[0]));
        r->slot_count++;
        r->slots[i].sum = 0;
    }
    r->slots[i].stamp = stamp;
    return !__builtin_add_overflow(r->slots[i].sum, delta, &r->slots[i].sum);
}

/* Key, attributes and value as one piece of memory of the record's own. NULL: no memory. */
static char *gather_body(struct record *r, const struct slice pieces[3])
{
    size_t value_len = pieces[0].len + pieces[1].len + pieces[2].len;
    char *body = malloc(r->key.len + r->attrs.len + value_len + 1);
    struct record_layout layout = {.key_len = (uint32_t)r->key.len,
                                   .attrs_len = (uint32_t)r->attrs.len,
                                   .value_len = (uint32_t)value_len};
    char *p = body;
    const struct slice parts[5] = {r->key, r->attrs, pieces[0], pieces[1], pieces[2]};

    if (body == NULL)
        return NULL;
    for (unsigned i = 0; i < 5; i++) {
        if (parts[i].len > 0)
            memcpy(p, parts[i].ptr, parts[i].len);
        p += parts[i].len;
    }
    record_set_body(r, &layout, body);
    return body;
}

static enum decision append_change(struct logstore *ls, struct store_write *w, struct record *r,
                                   const struct slice pieces[3], const struct entry *prev)
{
    char *body;
    uint64_t sum;

    body = gather_body(r, pieces);
    if (body == NULL) {
        w->status = STORE_NO_MEMORY;
        return DECIDED;
    }
    sum = hash_bytes(body, r->key.len + r->attrs.len + r->value.len);
    return append(ls, w, r, sum, body, prev);
}

/* Too large for the log: the file is made elsewhere, and the write comes back with it. `parts` as
 * big_extend_start() has them. */
static enum decision change_big(struct logstore *ls, struct store_write *w,
                                const struct store_change *change, const struct record *now,
                                const struct slice parts[3], const struct entry *prev)
{
    static const struct slice nothing[3];
    struct record r;
    enum decision decision = DECIDED;
    int rc;

    if (w->extend == NULL) {
        bool copies = change->kind == CHANGE_EXTEND && now->big_bytes > 0;

        rc = big_extend_start(ls, w, now, copies, change->attrs, parts);
        w->status = writer_status_of(rc);
        return rc == 0 ? SENT_AWAY : DECIDED;
    }
    if (!big_extend_is_for(w->extend, now)) {
        w->status = STORE_NO_MEMORY; /* the write before this one was taken back: try again */
        return DECIDED;
    }
    record_begin(&r, RECORD_PUT, w->key, keyspace_stamp(ls));
    r.flags = change->flags;
    r.expires_ms = change->expires_ms;
    r.attrs = change->attrs;
    rc = big_extend_describe(w->extend, &r);
    w->status = writer_status_of(rc);
    if (rc == 0)
        decision = append_change(ls, w, &r, nothing, prev);
    if (decision == DECIDED && w->appended)
        big_extend_set_used(w->extend);
    return decision;
}

/* A put or an extension. */
static enum decision change_value(struct logstore *ls, struct store_write *w,
                                  const struct store_change *change, const struct record *now,
                                  const struct entry *prev)
{
    struct slice parts[3] = {change->pieces[0], {NULL, 0}, change->pieces[1]};
    uint64_t len = (uint64_t)parts[0].len + parts[2].len;
    struct record r;

    if (change->kind == CHANGE_EXTEND) {
        assert(now != NULL);
        parts[1] = now->value;
        len += record_value_bytes(now);
    }
    if (len > ls->config.max_value_bytes) {
        w->status = STORE_TOO_LARGE;
        return DECIDED;
    }
    if (len > STORE_SPOOL_MIN)
        return change_big(ls, w, change, now, parts, prev);
    record_begin(&r, RECORD_PUT, w->key, keyspace_stamp(ls));
    r.flags = change->flags;
    r.expires_ms = change->expires_ms;
    r.attrs = change->attrs;
    return append_change(ls, w, &r, parts, prev);
}

static enum decision change_counter(struct logstore *ls, struct store_write *w, struct record *now,
                                    int64_t delta, const struct entry *prev)
{
    const struct slice pieces[3] = {now->value};

    now->kind = RECORD_COUNTER;
    now->logged = keyspace_stamp(ls);
    if (!slot_add(now, now->logged, delta)) {
        w->status = STORE_BAD_VALUE;
        return DECIDED;
    }
    return append_change(ls, w, now, pieces, prev);
}

static enum decision do_update(struct logstore *ls, struct store_write *w, const struct entry *prev,
                               bool live)
{
    struct store_change change = {.kind = CHANGE_NONE};
    struct record now;
    void *owned = NULL;
    enum decision decision = DECIDED;
    int rc = live ? writer_read_record(ls, prev, &now, &owned) : 0;

    if (rc != 0) {
        w->status = writer_status_of(rc);
        return DECIDED;
    }
    w->status = w->compute(w, live ? &now : NULL, &change);
    if (live)
        w->cas = prev->cas;
    if (w->status == STORE_OK && (change.kind == CHANGE_PUT || change.kind == CHANGE_EXTEND))
        decision = change_value(ls, w, &change, live ? &now : NULL, prev);
    else if (w->status == STORE_OK && change.kind == CHANGE_COUNTER && live)
        decision = change_counter(ls, w, &now, change.delta, prev);
    free(owned);
    return decision;
}

/* ---- deciding ---- */

/* STORE_OK: go on. */
static enum store_status check_guard(const struct store_write *w, const struct entry *e, bool live)
{
    switch (w->guard) {
    case STORE_IF_ABSENT: return live ? STORE_NOT_STORED : STORE_OK;
    case STORE_IF_PRESENT: return live ? STORE_OK : STORE_NOT_STORED;
    case STORE_IF_CAS:
        if (!live)
            return STORE_NOT_FOUND;
        return e->cas == w->guard_cas ? STORE_OK : STORE_EXISTS;
    case STORE_ANY: break;
    }
    return STORE_OK;
}

static int find_newest(struct logstore *ls, const struct store_write *w, struct entry *out)
{
    int rc;

    grace_enter(&ls->grace, &ls->writer_grace);
    rc = keyspace_find(ls, ls->writer_reader, w->hash, w->key, UINT64_MAX, out);
    grace_leave(&ls->writer_grace);
    return rc;
}

static enum decision decide(struct logstore *ls, struct writer_state *ws, struct store_write *w)
{
    int64_t now_ms = keyspace_now_ms(ls);
    struct entry entry;
    const struct entry *prev = NULL;
    bool live;
    int rc;

    if (atomic_load_explicit(&ls->read_only, memory_order_relaxed)) {
        w->status = STORE_READ_ONLY;
        return DECIDED;
    }
    if (ws->has_flush)
        return BATCH_IS_FULL;
    if (ls->big.extends != NULL && big_extend_wait(ls, w))
        return SENT_AWAY;
    if (w->op == STORE_FLUSH)
        return do_flush(ls, ws, w, now_ms);
    rc = find_newest(ls, w, &entry);
    if (rc == 0)
        prev = &entry;
    else if (rc != -ENOENT) {
        w->status = writer_status_of(rc);
        return DECIDED;
    }
    live = prev != NULL && keyspace_is_live(ls, prev, now_ms, NULL);
    w->existed = live;
    w->status = check_guard(w, prev, live);
    if (w->status != STORE_OK)
        return DECIDED;
    if (!live && (w->op == STORE_DELETE || w->op == STORE_TOUCH)) {
        w->status = STORE_NOT_FOUND;
        return DECIDED;
    }
    switch (w->op) {
    case STORE_PUT: return do_put(ls, w, prev);
    case STORE_DELETE: return do_delete(ls, w, prev);
    case STORE_TOUCH: return do_touch(ls, w, prev);
    case STORE_UPDATE: return do_update(ls, w, prev, live);
    case STORE_FLUSH: break;
    }
    return DECIDED;
}

/* ---- a batch ---- */

/* Nothing of the batch is in the log: its effects go, newest first. */
static void take_back(struct logstore *ls, struct writer_state *ws, enum store_status status)
{
    struct delta *d = atomic_load_explicit(&ls->active, memory_order_relaxed);

    for (unsigned i = ws->count; i-- > 0;) {
        struct store_write *w = ws->batch[i];

        if (w->in_delta)
            delta_undo(d, w->hash, w->key);
        if (w->appended)
            w->status = status;
    }
    /* Unless a delayed flush has come into force meanwhile: it stays, and nothing is left. */
    if (stamp_compare(ls->flush_counted, ws->saved_flush) == 0)
        atomic_store_explicit(&ls->live_count, ws->saved_live_count, memory_order_relaxed);
    else
        atomic_store_explicit(&ls->live_count, 0, memory_order_relaxed);
}

static void refuse_appended(struct writer_state *ws, enum store_status status)
{
    for (unsigned i = 0; i < ws->count; i++)
        if (ws->batch[i]->appended)
            ws->batch[i]->status = status;
}

static int sync_batch(struct logstore *ls, struct writer_state *ws)
{
    int64_t start = clock_mono_us();
    int rc = log_sync(ls);
    int64_t took = clock_mono_us() - start;

    ws->smoothed_sync_us += (took - ws->smoothed_sync_us) / 8;
    return rc;
}

/* The batch is in the log and seen: what it superseded may go once it is synced. */
static void let_go(struct logstore *ls, struct writer_state *ws)
{
    for (unsigned i = 0; i < ws->gone_count; i++)
        big_let_go(ls, ws->gone[i].number, ws->gone[i].bytes, ls->log.tail_seq);
}

/* Writes, syncs, publishes, answers. */
static void finish_batch(struct logstore *ls, struct writer_state *ws)
{
    bool wrote = ls->log.piece_count > 0;
    int rc = log_write(ls);
    bool written = rc == 0;

    if (!written) {
        take_back(ls, ws, writer_status_of(rc));
    } else {
        if (wrote && ls->config.sync == STORE_SYNC_ALWAYS)
            rc = sync_batch(ls, ws);
        if (rc != 0)
            refuse_appended(ws, STORE_READ_ONLY);
        else if (ws->has_flush)
            (void)keyspace_apply(ls, &ws->flush, (struct place){0}, 0, NULL);
        if (rc == 0) {
            atomic_store_explicit(&ls->marks.visible_seq, ls->log.tail_seq, memory_order_release);
            let_go(ls, ws);
        }
    }
    atomic_fetch_add_explicit(&ls->batches, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ls->batch_writes, ws->count, memory_order_relaxed);
    for (unsigned i = 0; i < ws->count; i++) {
        struct store_write *w = ws->batch[i];

        if (w->spool != NULL) {
            /* What the log names must stay, whatever was answered. */
            big_spool_end(w->spool, written && w->appended);
            w->spool = NULL;
        }
        if (w->extend != NULL) {
            big_extend_end(w->extend, written && w->appended);
            w->extend = NULL;
        }
    }
    /* A port may close as soon as it sees its answers, before it is woken: it waits for us. */
    grace_enter(&ls->grace, &ls->writer_grace);
    store_write_finish(ws->batch, ws->count);
    grace_leave(&ls->writer_grace);
}

/* The delta of a busy server is larger than the processor's cache: its slots and nodes are asked
 * for a few writes before they are needed. */
enum { LOOKAHEAD_SLOT = 12, LOOKAHEAD_NODE = 6 };

struct lookahead {
    const struct delta *delta;
    const struct store_write *slot; /* whose slot is asked for next */
    const struct store_write *node;
};

static void lookahead_slots(struct lookahead *a, unsigned count)
{
    for (; count > 0 && a->slot != NULL; count--, a->slot = a->slot->next)
        delta_prefetch_slot(a->delta, a->slot->hash);
}

static void lookahead_nodes(struct lookahead *a, unsigned count)
{
    for (; count > 0 && a->node != NULL; count--, a->node = a->node->next)
        delta_prefetch_node(a->delta, a->node->hash);
}

static struct store_write *run_batch(struct logstore *ls, struct writer_state *ws,
                                     struct store_write *w)
{
    struct lookahead ahead = {atomic_load_explicit(&ls->active, memory_order_relaxed), w, w};

    ws->count = 0;
    ws->gone_count = 0;
    ws->has_flush = false;
    ws->saved_live_count = atomic_load_explicit(&ls->live_count, memory_order_relaxed);
    ws->saved_flush = ls->flush_counted;
    lookahead_slots(&ahead, LOOKAHEAD_SLOT);
    lookahead_nodes(&ahead, LOOKAHEAD_NODE);
    while (w != NULL && ws->count < BATCH_WRITES) {
        struct store_write *next = w->next;
        enum decision decision;

        lookahead_slots(&ahead, 1);
        lookahead_nodes(&ahead, 1);
        decision = decide(ls, ws, w);
        if (decision == BATCH_IS_FULL)
            break;
        if (decision == DECIDED) {
            if (w->extend != NULL)
                next = big_extend_release(ls, w->extend, next);
            ws->batch[ws->count++] = w;
        }
        w = next;
    }
    finish_batch(ls, ws);
    return w;
}

/* ---- what others want done between two batches ---- */

struct writer_call {
    void (*run)(struct logstore *ls, void *arg);
    void *arg;
    sem_t done;
};

static void run_call(struct logstore *ls)
{
    struct writer_call *call = atomic_load(&ls->call);

    if (call == NULL)
        return;
    atomic_store(&ls->call, NULL);
    call->run(ls, call->arg);
    sem_post(&call->done);
}

void writer_call(struct logstore *ls, void (*run)(struct logstore *ls, void *arg), void *arg)
{
    struct writer_call call = {.run = run, .arg = arg};

    if (!ls->writer_runs) {
        run(ls, arg);
        return;
    }
    sem_init(&call.done, 0, 0);
    pthread_mutex_lock(&ls->call_mutex);
    atomic_store(&ls->call, &call);
    writer_wake(ls);
    while (sem_wait(&call.done) == -1 && errno == EINTR)
        ;
    pthread_mutex_unlock(&ls->call_mutex);
    sem_destroy(&call.done);
}

static void run_chain(struct logstore *ls, struct writer_state *ws, struct store_write *w)
{
    unsigned covered = 0;

    while (w != NULL) {
        w = run_batch(ls, ws, w);
        run_call(ls);
        covered += ws->count;
        checkpoint_slow_down(ls);
        compact_slow_down(ls);
    }
    ws->last_count = covered;
    ws->last_end_us = clock_mono_us();
    ws->waiting_then = atomic_load(&ls->inbox_count);
}

/* ---- the thread ---- */

static void *writer_main(void *arg)
{
    struct logstore *ls = arg;
    struct writer_state *ws = ls->writer_state;

    pthread_setname_np(pthread_self(), "tt-writer");
    for (;;) {
        struct store_write *chain;

        if (atomic_load(&ls->checkpoint.freeze_wanted))
            checkpoint_freeze(ls);
        run_call(ls);
        keyspace_fold_flush(ls, keyspace_now_ms(ls));
        if (atomic_load(&ls->inbox_count) > 0)
            gather(ls, ws);
        chain = take_inbox(ls);
        if (chain != NULL)
            run_chain(ls, ws, chain);
        else if (atomic_load(&ls->writer_stop) && atomic_load(&ls->call) == NULL)
            break;
        else
            sleep_for(ls, 1, 0);
    }
    return NULL;
}

int writer_start(struct logstore *ls)
{
    int rc;

    ls->writer_state = calloc(1, sizeof(*ls->writer_state));
    if (ls->writer_state == NULL)
        return -ENOMEM;
    ls->writer_state->smoothed_sync_us = 500;
    sem_init(&ls->inbox_wake, 0, 0);
    rc = pthread_create(&ls->writer, NULL, writer_main, ls);
    if (rc == 0)
        ls->writer_runs = true;
    return -rc;
}

void writer_end(struct logstore *ls)
{
    if (ls->writer_runs) {
        atomic_store(&ls->writer_stop, true);
        writer_wake(ls);
        pthread_join(ls->writer, NULL);
        sem_destroy(&ls->inbox_wake);
        ls->writer_runs = false;
    }
    free(ls->writer_state);
    ls->writer_state = NULL;
}

int writer_mark_clean(struct logstore *ls)
{
    static const char clean = MARKER_CLEAN;
    uint64_t clock = atomic_load(&ls->clock);
    struct record r;
    struct place at;
    int rc = make_room(ls, sizeof(clean));

    if (rc != 0)
        return rc;
    record_begin(&r, RECORD_MARKER, slice_of(NULL, 0),
                 (struct stamp){clock, ls->id.epoch, ls->id.node});
    r.value = slice_of(&clean, sizeof(clean));
    if (!log_add(ls, &r, hash_slice(r.value), NULL, &at))
        return -EIO;
    rc = log_write(ls);
    return rc != 0 ? rc : log_sync(ls);
}

void writer_fail(struct logstore *ls, int error, const char *what, const char *path)
{
    const char *slash = strrchr(path, '/');

    if (atomic_exchange(&ls->read_only, true))
        return;
    snprintf(ls->failure_text, sizeof(ls->failure_text), "read-only: cannot %s %s: %s", what,
             slash != NULL ? slash + 1 : path, strerror(-error));
    atomic_store(&ls->failure, ls->failure_text);
    log_error("cannot %s %s: %s; no more writes are taken until a restart", what, path,
              strerror(-error));
    if (directory_note(ls) != 0)
        log_error("cannot note the failed sync in %s/STORE", ls->dir);
}
