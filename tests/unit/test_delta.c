/*
 * test_delta.c - the in-memory index (store/logstore/delta.h, delta_view.h): a random run against a
 * plain model, visibility, undo, growth, order, views, and readers beside a writer.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "random.h"
#include "store/logstore/delta.h"
#include "store/logstore/delta_view.h"
#include "store/logstore/index.h"

/* An entry that can be told from the others, in all its fields. */
static struct entry entry_of(uint64_t tag)
{
    return (struct entry){
        .segment = (uint32_t)tag,
        .offset = (uint32_t)(tag >> 3),
        .length = (uint32_t)(tag * 7),
        .kind = RECORD_PUT,
        .base = {.version = tag * 11, .epoch = (uint32_t)tag + 1, .node = (uint16_t)tag},
        .expires_ms = (int64_t)tag * 13,
        .cas = tag * 17,
    };
}

static bool is_entry_of(const struct entry *e, uint64_t tag)
{
    struct entry want = entry_of(tag);

    return e->segment == want.segment && e->offset == want.offset && e->length == want.length &&
           e->kind == want.kind && stamp_compare(e->base, want.base) == 0 &&
           e->expires_ms == want.expires_ms && e->cas == want.cas && !e->has_touch;
}

static void put(struct delta *d, struct slice key, uint64_t seq)
{
    struct entry e = entry_of(seq);

    assert_int_equal(delta_put(d, hash_slice(key), key, &e, seq), 0);
}

/* The sequence number of what a reader up to `visible` sees of the key, 0: nothing. */
static uint64_t seen(const struct delta *d, struct slice key, uint64_t visible)
{
    struct entry e;
    uint64_t seq;

    if (!delta_find(d, hash_slice(key), key, visible, &e, &seq))
        return 0;
    assert_true(is_entry_of(&e, seq));
    assert_true(delta_find(d, hash_slice(key), key, visible, &e, NULL));
    return seq;
}

static void an_empty_generation_finds_nothing_and_is_small(void **state)
{
    struct delta *d = delta_new(0);
    struct delta_item *items;
    size_t count;

    (void)state;
    assert_non_null(d);
    assert_int_equal(seen(d, slice_str("a"), UINT64_MAX), 0);
    assert_int_equal(delta_count(d), 0);
    assert_true(delta_bytes(d) < 64 * 1024);
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    assert_int_equal(count, 0);
    free(items);
    delta_free(d);
    delta_free(NULL);
}

static void readers_see_the_newest_state_up_to_their_sequence(void **state)
{
    struct delta *d = delta_new(0);
    struct slice key = slice_str("k");

    (void)state;
    put(d, key, 5);
    put(d, key, 8);
    put(d, key, 9);
    assert_int_equal(seen(d, key, 4), 0);
    assert_int_equal(seen(d, key, 5), 5);
    assert_int_equal(seen(d, key, 7), 5);
    assert_int_equal(seen(d, key, 8), 8);
    assert_int_equal(seen(d, key, UINT64_MAX), 9);
    assert_int_equal(delta_count(d), 1);
    delta_free(d);
}

static void undo_brings_back_what_was_before(void **state)
{
    struct delta *d = delta_new(0);
    struct slice key = slice_str("k");

    (void)state;
    put(d, key, 5);
    put(d, key, 6);
    put(d, key, 7);
    delta_undo(d, hash_slice(key), key);
    assert_int_equal(seen(d, key, UINT64_MAX), 6);
    delta_undo(d, hash_slice(key), key);
    assert_int_equal(seen(d, key, UINT64_MAX), 5);
    assert_int_equal(delta_count(d), 1);
    delta_undo(d, hash_slice(key), key);
    assert_int_equal(seen(d, key, UINT64_MAX), 0);
    assert_int_equal(delta_count(d), 0);
    put(d, key, 6);
    assert_int_equal(seen(d, key, UINT64_MAX), 6);
    assert_int_equal(seen(d, key, 5), 0);
    assert_int_equal(delta_count(d), 1);
    delta_free(d);
}

/* Keys whose hashes agree lie side by side: one taken back must not hide those behind it. */
static void undo_of_a_key_leaves_its_neighbours_findable(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    const uint64_t hash = 0x1234567812345678;
    struct delta *d = delta_new(0);
    struct entry e;
    uint64_t seq;

    (void)state;
    for (uint64_t i = 0; i < 5; i++) {
        e = entry_of(i + 1);
        assert_int_equal(delta_put(d, hash, slice_str(names[i]), &e, i + 1), 0);
    }
    delta_undo(d, hash, slice_str("b"));
    delta_undo(d, hash, slice_str("c"));
    for (uint64_t i = 0; i < 5; i++) {
        bool undone = i == 1 || i == 2;

        assert_int_equal(delta_find(d, hash, slice_str(names[i]), UINT64_MAX, &e, &seq), !undone);
        assert_true(undone || (seq == i + 1 && is_entry_of(&e, seq)));
    }
    e = entry_of(9);
    assert_int_equal(delta_put(d, hash, slice_str("e"), &e, 9), 0); /* must not get a second slot */
    assert_int_equal(delta_count(d), 3);
    delta_undo(d, hash, slice_str("e"));
    assert_true(delta_find(d, hash, slice_str("e"), UINT64_MAX, &e, &seq));
    assert_int_equal(seq, 5);
    delta_free(d);
}

/* ---- a random run against a model ---- */

enum { MODEL_KEYS = 3000, MODEL_STEPS = 60000, MODEL_DEPTH = 24 };

struct model_key {
    char text[8];
    size_t len;
    uint64_t seqs[MODEL_DEPTH]; /* puts that stand, oldest first */
    unsigned depth;
};

static uint64_t model_seen(const struct model_key *m, uint64_t visible)
{
    for (unsigned i = m->depth; i > 0; i--)
        if (m->seqs[i - 1] <= visible)
            return m->seqs[i - 1];
    return 0;
}

static void collect_count(const struct delta_item *item, void *arg)
{
    assert_true(is_entry_of(item->entry, item->seq));
    ++*(size_t *)arg;
}

static void check_model(const struct delta *d, const struct model_key *keys, uint64_t seq)
{
    size_t live = 0;
    size_t live_half = 0;
    size_t walked = 0;

    for (size_t i = 0; i < MODEL_KEYS; i++) {
        struct slice key = slice_of(keys[i].text, keys[i].len);

        live += keys[i].depth > 0;
        live_half += model_seen(&keys[i], seq / 2) != 0;
        assert_int_equal(seen(d, key, UINT64_MAX), model_seen(&keys[i], UINT64_MAX));
        assert_int_equal(seen(d, key, seq / 2), model_seen(&keys[i], seq / 2));
    }
    assert_int_equal(delta_count(d), live);
    delta_walk(d, UINT64_MAX, collect_count, &walked);
    assert_int_equal(walked, live);
    walked = 0;
    delta_walk(d, seq / 2, collect_count, &walked);
    assert_int_equal(walked, live_half);
}

static void a_random_run_agrees_with_a_model(void **state)
{
    struct model_key *keys = calloc(MODEL_KEYS, sizeof(*keys));
    struct random random = random_seeded();
    struct delta *d = delta_new(random_below(&random, 2) ? MODEL_KEYS : 0);
    uint64_t seq = 0;

    (void)state;
    assert_non_null(keys);
    for (size_t i = 0; i < MODEL_KEYS; i++)
        keys[i].len = (size_t)snprintf(keys[i].text, sizeof(keys[i].text), "k%zu", i);
    for (unsigned step = 0; step < MODEL_STEPS; step++) {
        struct model_key *m = &keys[random_below(&random, MODEL_KEYS)];
        struct slice key = slice_of(m->text, m->len);

        if (m->depth > 0 && (m->depth == MODEL_DEPTH || random_below(&random, 3) == 0)) {
            delta_undo(d, hash_slice(key), key);
            m->depth--;
        } else {
            put(d, key, ++seq);
            m->seqs[m->depth++] = seq;
        }
        if (step % 15000 == 14999)
            check_model(d, keys, seq);
    }
    free(keys);
    delta_free(d);
}

/* ---- growth ---- */

static void many_keys_stay_findable_in_bounded_memory(void **state)
{
    enum { COUNT = 200000 };
    static const size_t expected[] = {0, COUNT};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct delta *d = delta_new(expected[i]);

        for (uint64_t n = 1; n <= COUNT; n++)
            put(d, slice_of(&n, sizeof(n)), n);
        for (uint64_t n = 1; n <= COUNT; n++)
            assert_int_equal(seen(d, slice_of(&n, sizeof(n)), UINT64_MAX), n);
        for (uint64_t n = COUNT + 1; n <= 2 * COUNT; n++)
            assert_int_equal(seen(d, slice_of(&n, sizeof(n)), UINT64_MAX), 0);
        assert_int_equal(delta_count(d), COUNT);
        assert_true(delta_bytes(d) / COUNT <= 150);
        delta_free(d);
    }
}

static void keys_of_all_lengths(void **state)
{
    static const size_t lengths[] = {0, 1, 7, 8, 494, 495, 511, 65535, RECORD_KEY_MAX};
    enum { KINDS = sizeof(lengths) / sizeof(lengths[0]) };
    char *text = malloc(RECORD_KEY_MAX);
    struct delta *d = delta_new(0);
    uint64_t seq = 0;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', RECORD_KEY_MAX);
    for (unsigned round = 0; round < 40; round++)
        for (size_t i = 0; i < KINDS; i++)
            put(d, slice_of(text, lengths[i]), ++seq);
    for (size_t i = 0; i < KINDS; i++)
        assert_int_equal(seen(d, slice_of(text, lengths[i]), UINT64_MAX), 39 * KINDS + i + 1);
    assert_int_equal(delta_count(d), KINDS);
    delta_free(d);
    free(text);
}

/* ---- order ---- */

/* A key that often agrees with others for a while, or lies at a boundary of the index key. */
static size_t random_key(struct random *random, char *out)
{
    static const size_t lengths[] = {0,  1,   2,   6,   7,   8,   13,  14,
                                     15, 489, 490, 491, 494, 495, 511, 700};
    enum { KINDS = sizeof(lengths) / sizeof(lengths[0]) };
    size_t len = lengths[random_below(random, KINDS)];

    memset(out, 'a', len);
    for (unsigned i = 0; len > 0 && i < 2; i++)
        out[random_below(random, len)] = (char)random_below(random, 3);
    if (len > 0)
        out[len - 1] = (char)random_below(random, 256);
    return len;
}

static void sorted_items_are_in_the_order_of_the_index(void **state)
{
    enum { COUNT = 20000 };
    struct random random = random_seeded();
    struct delta *d = delta_new(0);
    struct delta_item *items;
    size_t count;

    (void)state;
    for (uint64_t i = 1; i <= COUNT; i++) {
        char key[700];

        put(d, slice_of(key, random_key(&random, key)), i);
    }
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    assert_int_equal(count, delta_count(d));
    for (size_t i = 0; i < count; i++) {
        assert_true(i == 0 || index_compare_keys(items[i - 1].key, items[i].key) < 0);
        assert_true(is_entry_of(items[i].entry, items[i].seq));
        assert_int_equal(seen(d, items[i].key, UINT64_MAX), items[i].seq);
    }
    free(items);
    delta_free(d);
}

/* ---- views ---- */

enum { VIEW_KEYS = 4000 };

/* The keys that were put, sorted; the array's memory is the test's. */
struct put_keys {
    struct slice keys[VIEW_KEYS];
    size_t count;
};

/* Notes a key that is put; its place in the order. */
static void note_key(struct put_keys *p, struct slice key)
{
    char *copy = malloc(key.len + 1);
    size_t i = p->count;

    assert_non_null(copy);
    memcpy(copy, key.ptr, key.len);
    for (size_t at = 0; at < p->count; at++) {
        if (slice_equal(p->keys[at], key)) {
            free(copy);
            return;
        }
    }
    assert_true(p->count < VIEW_KEYS);
    while (i > 0 && slice_compare(p->keys[i - 1], key) > 0) {
        p->keys[i] = p->keys[i - 1];
        i--;
    }
    p->keys[i] = slice_of(copy, key.len);
    p->count++;
}

static void free_keys(struct put_keys *p)
{
    for (size_t i = 0; i < p->count; i++)
        free((void *)(uintptr_t)p->keys[i].ptr);
    free(p);
}

/* The view has exactly these keys from `start` on (NULL: all), upwards or downwards. */
static void check_walk(const struct delta_view *view, const struct put_keys *p,
                       const struct slice *start, bool reverse)
{
    struct delta_cursor cursor;
    struct slice key;
    size_t i = 0;

    delta_cursor_begin(&cursor, view, start, reverse);
    for (size_t n = 0; n < p->count; n++) {
        struct slice want = p->keys[reverse ? p->count - 1 - n : n];
        int order = start == NULL ? 0 : slice_compare(want, *start);

        if (reverse ? order > 0 : order < 0)
            continue;
        assert_true(delta_cursor_next(&cursor, &key));
        assert_true(slice_equal(key, want));
        i++;
    }
    assert_false(delta_cursor_next(&cursor, &key));
    assert_false(delta_cursor_next(&cursor, &key));
}

static void check_view(struct delta *d, const struct put_keys *p, struct random *random)
{
    struct delta_view view;
    char other[700];
    struct slice starts[] = {
        p->keys[random_below(random, p->count)],
        slice_of(other, random_key(random, other)),
    };

    assert_int_equal(delta_view_open(d, &view), 0);
    for (unsigned reverse = 0; reverse < 2; reverse++) {
        check_walk(&view, p, NULL, reverse);
        check_walk(&view, p, &starts[0], reverse);
        check_walk(&view, p, &starts[1], reverse);
    }
    assert_true(delta_view_bytes(d) <= 2 * p->count * sizeof(void *) + 4096);
    delta_view_close(&view);
}

/* Puts of new keys, of old ones, and some taken back: a view has every key that was put, once. */
static void a_view_has_every_key_that_was_put_in_bytewise_order(void **state)
{
    struct random random = random_seeded();
    struct put_keys *p = calloc(1, sizeof(*p));
    struct delta *d = delta_new(0);
    uint64_t seq = 0;
    char text[700];

    (void)state;
    assert_non_null(p);
    while (p->count < VIEW_KEYS - 600) {
        for (uint64_t n = 1 + random_below(&random, 500); n > 0; n--) {
            struct slice key = slice_of(text, random_key(&random, text));

            put(d, key, ++seq);
            note_key(p, key);
            if (random_below(&random, 8) == 0)
                delta_undo(d, hash_slice(key), key);
        }
        check_view(d, p, &random);
        if (random_below(&random, 8) == 0)
            delta_view_forget(d);
    }
    assert_true(delta_count(d) < p->count);
    free_keys(p);
    delta_free(d);
}

static void a_view_of_nothing_is_empty(void **state)
{
    struct delta *d = delta_new(0);
    struct put_keys *none = calloc(1, sizeof(*none));
    struct slice start = slice_str("a");
    struct delta_view view;

    (void)state;
    assert_non_null(none);
    assert_int_equal(delta_view_open(d, &view), 0);
    check_walk(&view, none, NULL, false);
    check_walk(&view, none, &start, true);
    delta_view_close(&view);
    assert_int_equal(delta_view_bytes(d), 0);
    free_keys(none);
    delta_free(d);
}

static void an_open_view_stays_as_it_was(void **state)
{
    struct delta *d = delta_new(0);
    struct delta_view view;
    struct delta_view later;
    struct delta_cursor cursor;
    struct slice key;
    uint64_t found = 0;

    (void)state;
    for (uint64_t n = 0; n < 1000; n++)
        put(d, slice_of(&n, sizeof(n)), n + 1);
    delta_ref(d);
    assert_int_equal(delta_view_open(d, &view), 0);
    delta_cursor_begin(&cursor, &view, NULL, false);
    for (uint64_t n = 0; n < 2000; n++) {
        uint64_t other = 1000 + n;

        put(d, slice_of(&other, sizeof(other)), 1001 + n);
        if (n % 10 == 0) { /* the runs are merged, and those of the open view live on */
            assert_int_equal(delta_view_open(d, &later), 0);
            delta_view_close(&later);
        }
        if (n == 1500)
            delta_view_forget(d);
        found += n < 500 && delta_cursor_next(&cursor, &key);
    }
    delta_free(d); /* the generation's owner goes; the view's user holds it */
    while (delta_cursor_next(&cursor, &key))
        found++;
    assert_int_equal(found, 1000);
    delta_view_close(&view);
    delta_free(d);
}

/* As many puts of the same keys as one likes: the runs have each key at most twice. */
static void views_take_no_more_memory_than_there_are_keys(void **state)
{
    struct delta *d = delta_new(0);
    struct delta_view view;
    uint64_t seq = 0;

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        for (uint64_t n = 0; n < 10; n++) {
            uint64_t key = (round * 10 + n) % 500;

            put(d, slice_of(&key, sizeof(key)), ++seq);
        }
        assert_int_equal(delta_view_open(d, &view), 0);
        delta_view_close(&view);
        assert_true(delta_view_bytes(d) <= 2 * 500 * sizeof(void *) + 1024);
    }
    delta_view_forget(d);
    assert_int_equal(delta_view_bytes(d), 0);
    delta_free(d);
}

/* ---- readers beside a writer ---- */

enum { RACE_KEYS = 512, RACE_STEPS = 150000, RACE_READERS = 2 };

struct race {
    struct delta *d;
    _Atomic uint64_t visible;
    /* Of each key the newest sequence number that is not taken back, published before `visible`. */
    _Atomic uint64_t newest[RACE_KEYS];
    _Atomic bool end;
    _Atomic unsigned faults;
    uint64_t seed;
};

static struct slice race_key(uint64_t *i)
{
    return slice_of(i, sizeof(*i));
}

/* A view has the keys in order, and every key that had been published before. */
static void race_view(struct race *r)
{
    struct delta_view view;
    struct delta_cursor cursor;
    struct slice key;
    struct slice before = {0};
    unsigned published = 0;
    unsigned found = 0;
    unsigned faults = 0;

    for (uint64_t i = 0; i < RACE_KEYS; i++)
        published += atomic_load(&r->newest[i]) != 0;
    if (delta_view_open(r->d, &view) != 0) {
        atomic_fetch_add(&r->faults, 1);
        return;
    }
    delta_cursor_begin(&cursor, &view, NULL, false);
    while (delta_cursor_next(&cursor, &key)) {
        uint64_t number;

        memcpy(&number, key.ptr, sizeof(number));
        faults += before.ptr != NULL && slice_compare(before, key) >= 0;
        found += number < RACE_KEYS;
        before = key;
    }
    delta_view_close(&view);
    if (found < published || faults > 0)
        atomic_fetch_add(&r->faults, 1);
}

static void race_walked(const struct delta_item *item, void *arg)
{
    struct race *r = arg;

    if (!is_entry_of(item->entry, item->seq))
        atomic_fetch_add(&r->faults, 1);
}

/* A reader may see of a key nothing beyond its `visible`, and nothing older than what had been
 * published when it looked. */
static void *race_read(void *arg)
{
    struct race *r = arg;
    struct random random = {r->seed};

    for (unsigned turn = 1; !atomic_load(&r->end); turn++) {
        uint64_t i = random_below(&random, RACE_KEYS);
        uint64_t least = atomic_load(&r->newest[i]);
        uint64_t visible = atomic_load(&r->visible);
        struct entry e;
        uint64_t seq = 0;

        if (least > visible)
            continue; /* it was put after our look at `visible` */
        if (delta_find(r->d, hash_slice(race_key(&i)), race_key(&i), visible, &e, &seq)) {
            if (seq > visible || seq < least || !is_entry_of(&e, seq))
                atomic_fetch_add(&r->faults, 1);
        } else if (least != 0) {
            atomic_fetch_add(&r->faults, 1);
        }
        if (turn % 4096 == 0)
            delta_walk(r->d, visible, race_walked, r);
        if (turn % 1024 == 0)
            race_view(r);
        if (turn % 16384 == 0)
            delta_view_forget(r->d);
    }
    return NULL;
}

/* Puts in batches; some are taken back before anybody may see them; new keys let tables grow. */
static void race_write(struct race *r, struct random *random)
{
    uint64_t seq = 0;

    for (unsigned step = 0; step < RACE_STEPS; step++) {
        uint64_t batch[8];
        unsigned count = 1 + (unsigned)random_below(random, 8);
        bool fails = random_below(random, 4) == 0;

        for (unsigned i = 0; i < count; i++) {
            struct entry e = entry_of(seq + i + 1);

            batch[i] = random_below(random, RACE_KEYS);
            e.has_touch = fails; /* the mark of what nobody may see */
            assert_int_equal(delta_put(r->d, hash_slice(race_key(&batch[i])), race_key(&batch[i]),
                                       &e, seq + i + 1),
                             0);
        }
        for (unsigned i = count; fails && i > 0; i--)
            delta_undo(r->d, hash_slice(race_key(&batch[i - 1])), race_key(&batch[i - 1]));
        if (fails)
            continue;
        atomic_store(&r->visible, seq + count);
        for (unsigned i = 0; i < count; i++)
            atomic_store(&r->newest[batch[i]], seq + i + 1);
        seq += count;
        if (step % 8 == 0) {
            uint64_t other = RACE_KEYS + seq;

            put(r->d, race_key(&other), seq);
        }
    }
}

static void readers_beside_a_writer_see_whole_and_current_states(void **state)
{
    struct random random = random_seeded();
    struct race *r = calloc(1, sizeof(*r));
    pthread_t threads[RACE_READERS];

    (void)state;
    assert_non_null(r);
    r->d = delta_new(0);
    r->seed = random.state;
    for (unsigned i = 0; i < RACE_READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race_read, r), 0);
    race_write(r, &random);
    atomic_store(&r->end, true);
    for (unsigned i = 0; i < RACE_READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&r->faults), 0);
    delta_free(r->d);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_generation_finds_nothing_and_is_small),
        cmocka_unit_test(readers_see_the_newest_state_up_to_their_sequence),
        cmocka_unit_test(undo_brings_back_what_was_before),
        cmocka_unit_test(undo_of_a_key_leaves_its_neighbours_findable),
        cmocka_unit_test(a_random_run_agrees_with_a_model),
        cmocka_unit_test(many_keys_stay_findable_in_bounded_memory),
        cmocka_unit_test(keys_of_all_lengths),
        cmocka_unit_test(sorted_items_are_in_the_order_of_the_index),
        cmocka_unit_test(a_view_has_every_key_that_was_put_in_bytewise_order),
        cmocka_unit_test(a_view_of_nothing_is_empty),
        cmocka_unit_test(an_open_view_stays_as_it_was),
        cmocka_unit_test(views_take_no_more_memory_than_there_are_keys),
        cmocka_unit_test(readers_beside_a_writer_see_whole_and_current_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
