/*
 * test_index_tables.c - what the index keeps beside its rows (segments, expiry, files of big
 * values): after random checkpoints, some of which end in the middle, moves and drops it is what a
 * recount from the rows says.
 */
#include <dlfcn.h>
#include <errno.h>
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "index_fixture.h"
#include "random.h"

enum {
    KEYS = 40000, /* more than one transaction takes */
    SEGMENTS = 4000,
    MOVES = 5000,
};
#define NEVER (-1)

/* ---- commits that fail ---- */

static _Atomic int commits_left = NEVER; /* until one fails, and all that follow */

/* In the place of the library's. */
int mdb_txn_commit(MDB_txn *txn)
{
    static int (*commit)(MDB_txn *);
    int left = atomic_load(&commits_left);

    if (commit == NULL)
        *(void **)&commit = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (left == 0) {
        mdb_txn_abort(txn);
        return ENOSPC;
    }
    if (left != NEVER)
        atomic_store(&commits_left, left - 1);
    return commit(txn);
}

/* ---- keys and entries ---- */

/* Every tenth is long, most of them with the same beginning. */
static struct slice key_of(unsigned i, char out[600])
{
    size_t lead = i % 10 == 0 ? 480 + i % 40 : 0;

    memset(out, i % 30 == 0 ? 'y' : 'x', lead);
    lead += (size_t)snprintf(out + lead, 600 - lead, "%08x", i * 2654435761u);
    return slice_of(out, lead);
}

static struct entry random_entry(struct random *random, uint64_t seq)
{
    static const enum record_kind kinds[] = {RECORD_PUT, RECORD_PUT, RECORD_COUNTER, RECORD_DELETE};
    struct entry e = {
        .segment = 1 + (uint32_t)random_below(random, 20),
        .offset = (uint32_t)seq * 8,
        .length = 76 + (uint32_t)random_below(random, 1000),
        .kind = kinds[random_below(random, 4)],
        .base = {.version = seq, .epoch = 1, .node = 1},
        .cas = seq,
    };

    if (random_below(random, 3) == 0)
        e.expires_ms = (int64_t)random_below(random, 1000) - 10;
    if (random_below(random, 4) == 0) {
        e.has_touch = true;
        e.touch_segment = 1 + (uint32_t)random_below(random, 20);
        e.touch_offset = (uint32_t)seq * 8 + 4;
        e.touch_length = 120;
    }
    if (random_below(random, 20) == 0) {
        e.big_file = seq;
        e.big_bytes = 1 + random_below(random, 1u << 30);
    }
    return e;
}

/* ---- the recount ---- */

struct figures {
    struct index_segment segments[SEGMENTS];
    uint64_t expiring;
    uint64_t expiring_sum; /* of what identifies them, in any order */
    int64_t first_expiry;  /* of a row */
    uint64_t files;
    uint64_t files_sum;
};

static bool recount_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct figures *f = arg;
    bool live = e->kind != RECORD_DELETE;
    struct index_segment *s = &f->segments[e->segment];
    struct index_segment *t = &f->segments[e->touch_segment];

    if (live)
        s->live_bytes += e->length;
    else
        s->tombstone_bytes += index_tombstone_bytes(e, index_key);
    if (e->has_touch)
        *(live ? &t->live_bytes : &t->tombstone_bytes) += e->touch_length;
    if (live && e->expires_ms != 0) {
        f->expiring++;
        f->expiring_sum += hash_bytes(index_key.ptr, index_key.len);
        if (f->first_expiry == 0 || entry_moment(e) < f->first_expiry)
            f->first_expiry = entry_moment(e);
    }
    if (live && e->big_bytes > 0) {
        f->files++;
        f->files_sum += hash_bytes(&e->big_file, 8) ^ e->big_bytes;
    }
    return true;
}

static void add_segment(const struct index_segment *s, void *arg)
{
    struct figures *f = arg;

    assert_true(s->number < SEGMENTS);
    assert_int_equal(f->segments[s->number].number, 0); /* each comes once */
    f->segments[s->number] = *s;
}

static bool add_expired(struct slice index_key, const struct entry *e, void *arg)
{
    struct figures *f = arg;

    assert_int_not_equal(e->kind, RECORD_DELETE);
    f->expiring++;
    f->expiring_sum += hash_bytes(index_key.ptr, index_key.len);
    return true;
}

static bool add_file(uint64_t number, uint64_t bytes, void *arg)
{
    struct figures *f = arg;

    f->files++;
    f->files_sum += hash_bytes(&number, 8) ^ bytes;
    return true;
}

/* The tables against the rows. The figures of the tables are left in *out. */
static void check(struct index_fixture *f, struct figures *out)
{
    struct figures *want = calloc(1, sizeof(*want));
    int64_t first = 0;

    assert_non_null(want);
    *out = (struct figures){0};
    assert_int_equal(index_walk(f->reader, slice_of(NULL, 0), recount_row, want), 0);
    assert_int_equal(index_segments(f->index, add_segment, out), 0);
    assert_int_equal(index_expired(f->reader, INT64_MAX, add_expired, out), 0);
    assert_int_equal(index_big_files(f->reader, add_file, out), 0);
    assert_int_equal(index_next_expiry(f->index, &first), 0);
    for (size_t i = 0; i < SEGMENTS; i++) {
        assert_int_equal(out->segments[i].live_bytes, want->segments[i].live_bytes);
        assert_int_equal(out->segments[i].tombstone_bytes, want->segments[i].tombstone_bytes);
    }
    /* A row may be filed under an earlier moment than its own, not under a later one. */
    assert_true(first <= want->first_expiry);
    assert_int_equal(first == 0, want->first_expiry == 0);
    assert_int_equal(out->expiring, want->expiring);
    assert_int_equal(out->expiring_sum, want->expiring_sum);
    assert_int_equal(out->files, want->files);
    assert_int_equal(out->files_sum, want->files_sum);
    free(want);
}

/* ---- random histories ---- */

struct history {
    struct index_fixture *f;
    struct random random;
    struct figures figures;
    uint64_t seq;
    uint32_t next_segment; /* that a move makes */
};

static struct history history_begin(void *state)
{
    struct history h = {.f = state, .random = random_seeded(), .next_segment = 100};

    log_set_level(LOG_ERROR + 1);
    fixture_open(h.f);
    return h;
}

/* A checkpoint of `puts` random rows among the first `keys`, which may fail after some commits. */
static void history_apply(struct history *h, unsigned keys, unsigned puts, bool drop, int commits)
{
    struct delta *d = delta_new(0);
    struct index_meta meta = {.seq = h->seq, .segment = 1};
    struct delta_item *items;
    size_t count;
    char text[600];
    int rc;

    index_set_time(h->f->index, (int64_t)random_below(&h->random, 1000));
    for (unsigned n = 0; n < puts; n++) {
        struct slice key = key_of((unsigned)random_below(&h->random, keys), text);
        struct entry e = random_entry(&h->random, ++h->seq);

        assert_int_equal(delta_put(d, hash_slice(key), key, &e, h->seq), 0);
    }
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    atomic_store(&commits_left, commits);
    rc = index_apply(h->f->index, items, count, &meta, drop);
    assert_true(rc == 0 || (rc == -ENOSPC && commits != NEVER));
    atomic_store(&commits_left, NEVER);
    free(items);
    delta_free(d);
}

/* ---- moves ---- */

struct moving {
    uint32_t from;
    struct index_move *moves;
    size_t count;
    char (*keys)[600];
    struct random *random;
};

static struct index_move *add_move(struct moving *m, unsigned key, uint32_t offset)
{
    struct index_move *move = &m->moves[m->count];

    *move = (struct index_move){.key = key_of(key, m->keys[m->count]),
                                .segment = m->from,
                                .offset = offset,
                                .new_offset = (uint32_t)m->count * 8 + 4096,
                                .new_length = 80};
    m->count++;
    return move;
}

/* Everything that rows name in `from`; tombstones go by chance, and the touches of others. */
static void find_moves(struct index_fixture *f, struct moving *m)
{
    for (unsigned i = 0; i < KEYS && m->count + 2 < MOVES; i++) {
        char text[600];
        struct entry e;
        bool drop = random_below(m->random, 2) == 0;

        if (index_find(f->reader, key_of(i, text), &e) != 0)
            continue;
        drop = drop && e.kind == RECORD_DELETE;
        if (drop && e.segment == m->from && !e.has_touch)
            add_move(m, i, e.offset)->what = MOVED_GONE;
        else if (e.segment == m->from)
            add_move(m, i, e.offset)->what = MOVED_RECORD;
        if (e.has_touch && e.touch_segment == m->from)
            add_move(m, i, e.touch_offset)->what = drop ? MOVED_TOUCH_GONE : MOVED_TOUCH;
    }
}

/* Rows by key and new place, as the moves want them. */
static void check_moved(struct index_fixture *f, const struct moving *m, uint32_t to)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct index_move *move = &m->moves[i];
        struct entry e;
        int rc = index_find(f->reader, move->key, &e);

        assert_int_equal(rc, move->what == MOVED_GONE ? -ENOENT : 0);
        switch (move->what) {
        case MOVED_GONE: break;
        case MOVED_RECORD:
            assert_int_equal(e.segment, to);
            assert_int_equal(e.offset, move->new_offset);
            assert_int_equal(e.length, 80);
            break;
        case MOVED_TOUCH:
            assert_int_equal(e.touch_segment, to);
            assert_int_equal(e.touch_offset, move->new_offset);
            break;
        case MOVED_TOUCH_GONE: assert_false(e.has_touch); break;
        }
    }
}

/* Moves all of a segment in pieces; a failing commit ends it, and it is done again from the
 * beginning. */
static void history_move(struct history *h, uint32_t from)
{
    struct moving m = {.from = from, .random = &h->random};
    uint32_t to = h->next_segment++;
    size_t half;
    int rc;

    m.moves = malloc(MOVES * sizeof(*m.moves));
    m.keys = malloc(MOVES * sizeof(*m.keys));
    assert_non_null(m.moves);
    assert_non_null(m.keys);
    find_moves(h->f, &m);
    half = random_below(&h->random, m.count + 1);
    assert_int_equal(index_move(h->f->index, to, m.moves, half, true, false, NULL, 0), 0);
    check(h->f, &h->figures);
    assert_true(h->figures.segments[to].installing);
    assert_int_equal(index_forget_segment(h->f->index, from), m.count == half ? 0 : -EBUSY);
    atomic_store(&commits_left, 0);
    rc = index_move(h->f->index, to, m.moves + half, m.count - half, false, true, &from, 1);
    atomic_store(&commits_left, NEVER);
    assert_int_equal(rc, -ENOSPC);
    assert_int_equal(index_move(h->f->index, to, m.moves, half, true, false, NULL, 0), 0);
    assert_int_equal(
        index_move(h->f->index, to, m.moves + half, m.count - half, false, true, &from, 1), 0);
    check(h->f, &h->figures);
    assert_false(h->figures.segments[to].installing);
    assert_int_equal(h->figures.segments[to].number, to); /* known even with nothing in it */
    assert_int_equal(h->figures.segments[from].number, 0);
    check_moved(h->f, &m, to);
    free(m.moves);
    free(m.keys);
}

/* ---- the tests ---- */

static void the_tables_are_what_a_recount_says(void **state)
{
    struct history h = history_begin(*state);

    for (unsigned round = 0; round < 60; round++) {
        unsigned keys = random_below(&h.random, 2) == 0 ? 50 : 3000;
        unsigned puts = (unsigned)random_below(&h.random, 2000);

        history_apply(&h, keys, puts, random_below(&h.random, 10) == 0, NEVER);
        check(h.f, &h.figures);
        if (round % 3 == 0)
            history_move(&h, 1 + (uint32_t)random_below(&h.random, 20));
        if (round % 10 == 9) {
            fixture_close(h.f);
            fixture_open(h.f);
        }
    }
    fixture_close(h.f);
}

static void a_checkpoint_that_ends_in_the_middle_leaves_the_tables_right(void **state)
{
    struct history h = history_begin(*state);

    history_apply(&h, KEYS, 3 * KEYS, false, NEVER);
    for (unsigned round = 0; round < 6; round++) {
        history_apply(&h, KEYS, 2 * KEYS, round == 4, (int)random_below(&h.random, 3));
        check(h.f, &h.figures);
    }
    fixture_close(h.f);
}

static void what_a_compaction_made_is_known_after_a_drop(void **state)
{
    struct history h = history_begin(*state);

    history_apply(&h, 100, 500, false, NEVER);
    history_move(&h, 3);
    assert_int_equal(index_move(h.f->index, 200, NULL, 0, true, false, NULL, 0), 0);
    history_apply(&h, 100, 0, true, NEVER);
    check(h.f, &h.figures);
    assert_int_equal(h.figures.segments[100].number, 100);
    assert_false(h.figures.segments[100].installing);
    assert_true(h.figures.segments[200].installing);
    assert_int_equal(h.figures.segments[4].number, 0);
    assert_int_equal(index_forget_segment(h.f->index, 100), 0);
    assert_int_equal(index_forget_segment(h.f->index, 100), 0);
    check(h.f, &h.figures);
    assert_int_equal(h.figures.segments[100].number, 0);
    fixture_close(h.f);
}

static void a_live_record_cannot_be_moved_away(void **state)
{
    struct index_fixture *f = *state;
    struct index_meta meta = {.seq = 1, .flush_counted = {10, 1, 1}};
    struct entry old = entry_numbered(10);
    struct entry young = entry_numbered(11);
    struct delta_item items[] = {{slice_str("a"), &old, 10}, {slice_str("b"), &young, 11}};
    struct index_move moves[] = {
        {.key = slice_str("a"), .what = MOVED_GONE, .offset = old.offset},
        {.key = slice_str("b"), .what = MOVED_GONE, .offset = young.offset},
    };

    fixture_open(f);
    assert_int_equal(index_apply(f->index, items, 2, &meta, false), 0);
    assert_int_equal(index_move(f->index, 9, moves, 2, true, true, NULL, 0), -EINVAL);
    assert_int_equal(fixture_seen(f, slice_str("a")), 10); /* nothing changed */
    assert_int_equal(index_move(f->index, 9, moves, 1, true, true, NULL, 0), 0);
    assert_int_equal(fixture_seen(f, slice_str("a")), 0); /* a flush has killed it */
    assert_int_equal(fixture_seen(f, slice_str("b")), 11);
    moves[1].what = MOVED_RECORD;
    moves[1].offset++; /* the row names another place */
    assert_int_equal(index_move(f->index, 9, moves, 2, true, true, NULL, 0), 0);
    assert_int_equal(fixture_seen(f, slice_str("b")), 11);
    fixture_close(f);
}

static bool take_one(struct slice index_key, const struct entry *e, void *arg)
{
    (void)index_key;
    *(uint64_t *)arg = e->base.version;
    return false;
}

static void expired_rows_come_when_their_time_has_come(void **state)
{
    struct index_fixture *f = *state;
    struct entry e[3] = {entry_numbered(1), entry_numbered(2), entry_numbered(3)};
    struct delta_item items[] = {
        {slice_str("a"), &e[0], 1}, {slice_str("b"), &e[1], 2}, {slice_str("c"), &e[2], 3}};
    uint64_t seen = 0;
    int64_t at = -1;

    e[0].expires_ms = 2000;
    e[1].expires_ms = 1000;
    fixture_open(f);
    assert_int_equal(index_next_expiry(f->index, &at), 0);
    assert_int_equal(at, 0);
    assert_int_equal(index_apply(f->index, items, 3, NULL, false), 0);
    assert_int_equal(index_next_expiry(f->index, &at), 0);
    assert_int_equal(at, 1000);
    assert_int_equal(index_expired(f->reader, 999, take_one, &seen), 0);
    assert_int_equal(seen, 0);
    assert_int_equal(index_expired(f->reader, 1000, take_one, &seen), 0);
    assert_int_equal(seen, 2);
    e[1].kind = RECORD_DELETE; /* as the sweep leaves it */
    assert_int_equal(index_apply(f->index, items, 3, NULL, false), 0);
    seen = 0;
    assert_int_equal(index_expired(f->reader, 1999, take_one, &seen), 0);
    assert_int_equal(seen, 0);
    assert_int_equal(index_expired(f->reader, 2000, take_one, &seen), 0);
    assert_int_equal(seen, 1);
    fixture_close(f);
}

static void check_filed(struct index_fixture *f, int64_t filed_ms, const struct entry *e)
{
    struct entry now;
    int64_t at = -1;

    assert_int_equal(index_next_expiry(f->index, &at), 0);
    assert_int_equal(at, filed_ms);
    assert_int_equal(index_find(f->reader, slice_str("a"), &now), 0);
    assert_int_equal(now.expires_ms, e->expires_ms);
}

/* Else every overwrite of a record with some time to live would cost two pages of the table. */
static void a_row_stays_filed_while_it_expires_later_and_later(void **state)
{
    static const struct {
        int64_t now_ms;
        int64_t expires_ms;
        enum record_kind kind;
        int64_t filed_ms;
    } steps[] = {
        {500, 1000, RECORD_PUT, 1000},      {600, 2000, RECORD_PUT, 1000},
        {999, 3000, RECORD_PUT, 1000},      {1000, 4000, RECORD_PUT, 4000},
        {1001, 3500, RECORD_COUNTER, 3500}, {1001, 5000, RECORD_PUT, 3500},
        {1001, 0, RECORD_PUT, 0},           {1001, 6000, RECORD_PUT, 6000},
        {1001, 9000, RECORD_DELETE, 0},     {1001, 7000, RECORD_PUT, 7000},
        {1001, -5, RECORD_PUT, 1},          {1001, 8000, RECORD_PUT, 8000},
    };
    struct index_fixture *f = *state;
    struct entry e = entry_numbered(1);
    struct delta_item item = {slice_str("a"), &e, 1};

    fixture_open(f);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        index_set_time(f->index, steps[i].now_ms);
        e.expires_ms = steps[i].expires_ms;
        e.kind = steps[i].kind;
        assert_int_equal(index_apply(f->index, &item, 1, NULL, false), 0);
        check_filed(f, steps[i].filed_ms, &e);
    }
    fixture_close(f);
}

static void a_file_is_known_while_a_live_row_names_it(void **state)
{
    struct index_fixture *f = *state;
    struct entry e = entry_numbered(1);
    struct delta_item item = {slice_str("a"), &e, 1};

    e.big_file = 7;
    e.big_bytes = 1u << 21;
    fixture_open(f);
    assert_int_equal(index_has_big_file(f->reader, 7), 0);
    assert_int_equal(index_apply(f->index, &item, 1, NULL, false), 0);
    assert_int_equal(index_has_big_file(f->reader, 7), 1);
    assert_int_equal(index_has_big_file(f->reader, 8), 0);
    e.kind = RECORD_DELETE;
    assert_int_equal(index_apply(f->index, &item, 1, NULL, false), 0);
    assert_int_equal(index_has_big_file(f->reader, 7), 0);
    fixture_close(f);
}

/* ---- giving back what is free ---- */

static uint64_t file_blocks(const struct index_fixture *f)
{
    char path[TEMP_DIR_MAX + 16];
    struct stat st;

    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Every `step`th of the long keys, with this number. */
static void put_long_keys(struct index_fixture *f, unsigned step, uint64_t number, bool drop)
{
    struct delta *d = delta_new(0);
    struct entry e = entry_numbered(number);
    struct delta_item *items;
    size_t count;
    char text[600];

    for (unsigned i = 0; i < KEYS; i += step) {
        struct slice key = slice_of(text, (size_t)snprintf(text, sizeof(text), "%0400u", i));

        assert_int_equal(delta_put(d, hash_slice(key), key, &e, number), 0);
    }
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    assert_int_equal(index_apply(f->index, items, count, NULL, drop), 0);
    free(items);
    delta_free(d);
}

static void check_long_keys(struct index_fixture *f, unsigned step, uint64_t number,
                            uint64_t others)
{
    for (unsigned i = 0; i < KEYS; i++) {
        char text[600];
        struct slice key = slice_of(text, (size_t)snprintf(text, sizeof(text), "%0400u", i));

        assert_int_equal(fixture_seen(f, key), i % step == 0 ? number : others);
    }
}

static bool trim_beside(struct slice index_key, const struct entry *e, void *arg)
{
    struct index_fixture *f = arg;
    uint64_t before = file_blocks(f);

    (void)index_key;
    (void)e;
    index_trim(f->index);
    assert_int_equal(file_blocks(f), before); /* we might see what is free now */
    return false;
}

static void free_pages_are_given_back_and_used_again(void **state)
{
    enum { SMALL = 8 * 1024 * 1024 };
    struct index_fixture *f = *state;

    fixture_open(f);
    for (uint64_t round = 1; round <= 3; round++) {
        put_long_keys(f, 1, round * 10, false);
        put_long_keys(f, 2, round * 10 + 1, false);
        index_trim(f->index); /* most is in use */
        assert_true(file_blocks(f) > 2 * SMALL);
        check_long_keys(f, 2, round * 10 + 1, round * 10);
        put_long_keys(f, 1000, round * 10 + 2, true);
        for (unsigned i = 0; i < 2; i++) /* then nothing leads to the old pages any more */
            put_long_keys(f, 1000, round * 10 + 3, false);
        assert_int_equal(index_walk(f->reader, slice_of(NULL, 0), trim_beside, f), 0);
        index_trim(f->index);
        assert_true(file_blocks(f) < SMALL);
        check_long_keys(f, 1000, round * 10 + 3, 0);
        if (round == 2) {
            fixture_close(f);
            fixture_open(f);
            check_long_keys(f, 1000, round * 10 + 3, 0);
        }
    }
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(the_tables_are_what_a_recount_says),
        fixture_test(a_checkpoint_that_ends_in_the_middle_leaves_the_tables_right),
        fixture_test(what_a_compaction_made_is_known_after_a_drop),
        fixture_test(a_live_record_cannot_be_moved_away),
        fixture_test(expired_rows_come_when_their_time_has_come),
        fixture_test(a_row_stays_filed_while_it_expires_later_and_later),
        fixture_test(a_file_is_known_while_a_live_row_names_it),
        fixture_test(free_pages_are_given_back_and_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
