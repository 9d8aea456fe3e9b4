/*
 * test_scan.c - pages of keys (store/logstore/scan.h): what hides what, and a random run against a
 * sorted list.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "index_fixture.h"
#include "random.h"
#include "store/logstore/scan.h"

/* ---- a store of three layers ---- */

enum { KEYS_MAX = 3000, ACTIVE = 0, FROZEN = 1, INDEX = 2, LAYERS = 3 };

struct layers {
    struct index_fixture *f;
    struct delta *generations[2];
    struct delta *for_index;     /* goes into the index when a scan begins */
    struct slice keys[KEYS_MAX]; /* an entry's `segment` is the number of its key */
    uint32_t key_count;
    uint64_t seq;
    uint64_t visible_seq;
    unsigned reads; /* of full keys */
    int read_error; /* what the next one returns */
};

static bool layers_live(void *ctx, const struct entry *e)
{
    (void)ctx;
    return e->kind != RECORD_DELETE && e->expires_ms == 0;
}

static int layers_full_key(void *ctx, const struct entry *e, struct buf *out)
{
    struct layers *l = ctx;

    assert_int_equal(out->len, 0);
    l->reads++;
    if (l->read_error != 0)
        return l->read_error;
    return buf_add_slice(out, l->keys[e->segment]);
}

static void layers_open(struct layers *l, struct index_fixture *f)
{
    *l = (struct layers){.f = f, .visible_seq = UINT64_MAX};
    fixture_open(f);
    l->generations[ACTIVE] = delta_new(0);
    l->generations[FROZEN] = delta_new(0);
    l->for_index = delta_new(0);
}

static void layers_close(struct layers *l)
{
    delta_free(l->generations[ACTIVE]);
    delta_free(l->generations[FROZEN]);
    delta_free(l->for_index);
    for (uint32_t i = 0; i < l->key_count; i++)
        free((void *)(uintptr_t)l->keys[i].ptr);
    fixture_close(l->f);
}

/* The key's number. */
static uint32_t layers_key(struct layers *l, struct slice key)
{
    char *copy = malloc(key.len + 1);

    assert_non_null(copy);
    assert_true(l->key_count < KEYS_MAX);
    memcpy(copy, key.ptr, key.len);
    l->keys[l->key_count] = slice_of(copy, key.len);
    return l->key_count++;
}

static void layers_put(struct layers *l, unsigned layer, uint32_t number, enum record_kind kind,
                       int64_t expires_ms)
{
    struct delta *d = layer == INDEX ? l->for_index : l->generations[layer];
    struct entry e = {.segment = number, .kind = kind, .expires_ms = expires_ms};

    assert_int_equal(delta_put(d, hash_slice(l->keys[number]), l->keys[number], &e, ++l->seq), 0);
}

static void layers_write_index(struct layers *l)
{
    struct delta_item *items;
    size_t count;

    assert_int_equal(delta_sorted(l->for_index, &items, &count), 0);
    assert_int_equal(index_apply(l->f->index, items, count, NULL, true), 0);
    free(items);
}

static int layers_scan(struct layers *l, struct slice prefix, bool have_after, struct slice after,
                       unsigned limit, void (*each)(struct slice key, void *arg), void *arg)
{
    struct scan scan = {
        .active = l->generations[ACTIVE],
        .frozen = l->generations[FROZEN],
        .visible_seq = l->visible_seq,
        .reader = l->f->reader,
        .is_live = layers_live,
        .full_key = layers_full_key,
        .ctx = l,
    };

    return scan_page(&scan, prefix, have_after, after, limit, each, arg);
}

/* ---- small cases ---- */

static void append(char text[64], char letter)
{
    size_t len = strlen(text);

    assert_true(len < 63);
    text[len] = letter;
    text[len + 1] = '\0';
}

/* Keys of one byte, as a text. */
static void add_letter(struct slice key, void *arg)
{
    assert_true(key.len <= 1);
    append(arg, key.len == 1 ? key.ptr[0] : '-');
}

static void check_letters(struct layers *l, const char *prefix, const char *after, unsigned limit,
                          const char *letters, int more)
{
    char text[64] = "";
    int rc = layers_scan(l, slice_str(prefix), after != NULL, slice_str(after != NULL ? after : ""),
                         limit, add_letter, text);

    assert_string_equal(text, letters);
    assert_int_equal(rc, more);
}

static void the_newest_state_of_a_key_decides(void **state)
{
    /* One key each: live, dead or nothing in the active and the frozen generation and the index. */
    static const char states[] = {'+', '-', ' '};
    struct layers l;
    char want[64] = "";

    layers_open(&l, *state);
    for (unsigned i = 0; i < 27; i++) {
        const unsigned digit[LAYERS] = {i % 3, i / 3 % 3, i / 9};
        char letter = (char)('A' + i);
        uint32_t number = layers_key(&l, slice_of(&letter, 1));
        char newest = ' ';

        for (unsigned layer = LAYERS; layer > 0; layer--) {
            char s = states[digit[layer - 1]];

            if (s == ' ')
                continue;
            layers_put(&l, layer - 1, number, s == '+' ? RECORD_PUT : RECORD_DELETE, 0);
            newest = s;
        }
        if (newest == '+')
            append(want, letter);
    }
    layers_write_index(&l);
    check_letters(&l, "", NULL, 100, want, 0);
    assert_int_equal(strlen(want), 13);
    layers_close(&l);
}

static void pages_begin_behind_a_key_and_end_at_the_limit(void **state)
{
    static const struct {
        const char *prefix;
        const char *after; /* NULL: from the start */
        unsigned limit;
        const char *letters; /* - is the empty key */
        int more;
    } table[] = {
        {"", NULL, 10, "-abcdef", 0}, {"", NULL, 7, "-abcdef", 0}, {"", NULL, 6, "-abcde", 1},
        {"", NULL, 1, "-", 1},        {"", NULL, 0, "", 1},        {"", "", 10, "abcdef", 0},
        {"", "", 2, "ab", 1},         {"", "c", 10, "def", 0},     {"", "bb", 10, "cdef", 0},
        {"", "f", 10, "", 0},         {"", "f", 0, "", 0},         {"c", NULL, 10, "c", 0},
        {"c", "b", 10, "c", 0},       {"c", "c", 10, "", 0},       {"c", "d", 10, "", 0},
        {"cc", NULL, 10, "", 0},      {"", "\xff", 10, "", 0},
    };
    struct layers l;
    unsigned layer = 0;

    layers_open(&l, *state);
    for (const char *c = "fdbace"; *c != '\0'; c++)
        layers_put(&l, layer++ % LAYERS, layers_key(&l, slice_of(c, 1)), RECORD_PUT, 0);
    layers_put(&l, INDEX, layers_key(&l, slice_str("")), RECORD_COUNTER, 0);
    layers_put(&l, INDEX, layers_key(&l, slice_str("x")), RECORD_PUT, 1); /* expired */
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("y")), RECORD_PUT, 1);
    layers_write_index(&l);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        check_letters(&l, table[i].prefix, table[i].after, table[i].limit, table[i].letters,
                      table[i].more);
    layers_close(&l);
}

static void what_is_not_visible_yet_is_not_listed_and_hides_nothing(void **state)
{
    struct layers l;
    uint32_t a;
    uint32_t b;

    layers_open(&l, *state);
    a = layers_key(&l, slice_str("a"));
    b = layers_key(&l, slice_str("b"));
    layers_put(&l, INDEX, a, RECORD_PUT, 0);
    layers_put(&l, FROZEN, b, RECORD_PUT, 0);
    layers_write_index(&l);
    l.visible_seq = l.seq;
    layers_put(&l, ACTIVE, a, RECORD_DELETE, 0);
    layers_put(&l, ACTIVE, b, RECORD_DELETE, 0);
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("c")), RECORD_PUT, 0);
    check_letters(&l, "", NULL, 10, "ab", 0);
    l.visible_seq = UINT64_MAX;
    check_letters(&l, "", NULL, 10, "c", 0);
    layers_close(&l);
}

static void generations_may_be_missing_or_the_same(void **state)
{
    struct layers l;
    struct delta *active;
    struct delta *frozen;

    layers_open(&l, *state);
    layers_put(&l, INDEX, layers_key(&l, slice_str("a")), RECORD_PUT, 0);
    layers_put(&l, FROZEN, layers_key(&l, slice_str("b")), RECORD_PUT, 0);
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("c")), RECORD_PUT, 0);
    layers_write_index(&l);
    active = l.generations[ACTIVE];
    frozen = l.generations[FROZEN];
    l.generations[FROZEN] = NULL;
    check_letters(&l, "", NULL, 10, "ac", 0);
    l.generations[FROZEN] = active;
    check_letters(&l, "", NULL, 10, "ac", 0);
    l.generations[ACTIVE] = NULL;
    l.generations[FROZEN] = frozen;
    check_letters(&l, "", NULL, 10, "ab", 0);
    l.generations[FROZEN] = NULL;
    check_letters(&l, "", NULL, 10, "a", 0);
    l.generations[ACTIVE] = active;
    l.generations[FROZEN] = frozen;
    layers_close(&l);
}

static void count_key(struct slice key, void *arg)
{
    (void)key;
    ++*(unsigned *)arg;
}

static void full_keys_are_read_only_where_they_matter(void **state)
{
    char text[600];
    unsigned count = 0;
    struct layers l;

    layers_open(&l, *state);
    for (unsigned i = 0; i < 100; i++) {
        memset(text, 'a' + (int)(i / 10), sizeof(text));
        text[599] = (char)i;
        layers_put(&l, INDEX, layers_key(&l, slice_of(text, sizeof(text))), RECORD_PUT, 0);
    }
    layers_write_index(&l);
    assert_int_equal(layers_scan(&l, slice_str(""), false, slice_str(""), 5, count_key, &count), 1);
    assert_int_equal(count, 5);
    assert_int_equal(l.reads, 10); /* those with the same beginning, no others */
    l.reads = 0;
    assert_int_equal(layers_scan(&l, slice_str("d"), false, slice_str(""), 50, count_key, &count),
                     0);
    assert_int_equal(l.reads, 10);
    assert_int_equal(count, 15);
    layers_close(&l);
}

static void a_record_that_cannot_be_read_ends_the_scan(void **state)
{
    char text[600] = {'x'};
    unsigned count = 0;
    struct layers l;

    layers_open(&l, *state);
    layers_put(&l, INDEX, layers_key(&l, slice_of(text, sizeof(text))), RECORD_PUT, 0);
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("a")), RECORD_PUT, 0);
    layers_write_index(&l);
    l.read_error = -EIO;
    assert_int_equal(layers_scan(&l, slice_str(""), false, slice_str(""), 5, count_key, &count),
                     -EIO);
    assert_int_equal(count, 0);
    l.read_error = -ENOENT; /* it is gone: no key, no failure */
    assert_int_equal(layers_scan(&l, slice_str(""), false, slice_str(""), 5, count_key, &count), 0);
    assert_int_equal(count, 1);
    layers_close(&l);
}

/* ---- a random run against a sorted list ---- */

/* Short and long keys around the lengths where the index changes its ways, in few families. */
static size_t random_key(struct random *random, char out[700])
{
    static const size_t lengths[] = {0, 1, 2, 5, 493, 494, 495, 496, 520, 700};
    size_t len = lengths[random_below(random, sizeof(lengths) / sizeof(lengths[0]))];

    memset(out, 'a', len);
    for (unsigned i = 0; len > 0 && i < 2; i++)
        out[random_below(random, 2) == 0 ? random_below(random, len) : len - 1] =
            (char)('a' + random_below(random, 4));
    return len;
}

static int compare_slices(const void *a, const void *b)
{
    return slice_compare(*(const struct slice *)a, *(const struct slice *)b);
}

struct expected {
    const struct slice *keys;
    size_t at;
    size_t count;
    const struct slice *last;
};

static void expect_key(struct slice key, void *arg)
{
    struct expected *e = arg;

    assert_true(e->at < e->count);
    assert_true(slice_equal(key, e->keys[e->at]));
    e->last = &e->keys[e->at++];
}

/* All pages with this prefix and limit, one behind the other, from a random place. */
static void check_pages(struct layers *l, const struct slice *live, size_t count,
                        struct slice prefix, struct slice after, unsigned limit)
{
    struct expected e = {.keys = live, .count = count};
    struct slice from = after;
    int more = 1;

    while (e.at < count && slice_compare(live[e.at], after) <= 0)
        e.at++;
    while (more == 1) {
        while (e.at < count && !slice_starts(live[e.at], prefix))
            e.at++;
        more = layers_scan(l, prefix, true, from, limit, expect_key, &e);
        assert_true(more == 0 || (more == 1 && e.last != NULL));
        if (more == 1)
            from = *e.last;
    }
    while (e.at < count)
        assert_false(slice_starts(live[e.at++], prefix));
}

/* Gives keys random states in random layers. `live` gets those that must be listed, sorted. */
static size_t random_store(struct layers *l, struct random *random, struct slice *live)
{
    struct delta *known = delta_new(0);
    size_t count = 0;
    char text[700];

    for (uint64_t tries = random_below(random, 6000); tries > 0; tries--) {
        struct slice key = slice_of(text, random_key(random, text));
        struct entry e = {.kind = RECORD_PUT};
        bool is_live = false;
        uint32_t number;

        if (delta_find(known, hash_slice(key), key, UINT64_MAX, &e, NULL))
            continue;
        assert_int_equal(delta_put(known, hash_slice(key), key, &e, 1), 0);
        number = layers_key(l, key);
        for (unsigned layer = LAYERS; layer > 0; layer--) {
            uint64_t what = random_below(random, 4);

            if (what >= 2)
                continue;
            is_live = what == 0;
            layers_put(l, layer - 1, number, is_live ? RECORD_PUT : RECORD_DELETE, 0);
        }
        if (is_live)
            live[count++] = l->keys[number];
    }
    delta_free(known);
    qsort(live, count, sizeof(*live), compare_slices);
    layers_write_index(l);
    return count;
}

static void random_stores_list_their_live_keys_in_order(void **state)
{
    struct random random = random_seeded();
    struct slice *live = malloc(KEYS_MAX * sizeof(*live));

    assert_non_null(live);
    for (unsigned round = 0; round < 30; round++) {
        struct layers l;
        size_t count;

        layers_open(&l, *state);
        count = random_store(&l, &random, live);
        for (unsigned i = 0; i < 12; i++) {
            char prefix[700];
            char from[700];
            struct slice start = slice_of(prefix, random_key(&random, prefix));
            struct slice after = slice_of(from, random_key(&random, from));

            if (i % 3 != 0)
                start.len = random_below(&random, start.len);
            if (i % 2 == 0)
                after.len = 0;
            check_pages(&l, live, count, start, after, 1 + (unsigned)random_below(&random, 200));
        }
        layers_close(&l);
        assert_int_equal(index_remove(l.f->dir), 0);
    }
    free(live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(the_newest_state_of_a_key_decides),
        fixture_test(pages_begin_behind_a_key_and_end_at_the_limit),
        fixture_test(what_is_not_visible_yet_is_not_listed_and_hides_nothing),
        fixture_test(generations_may_be_missing_or_the_same),
        fixture_test(full_keys_are_read_only_where_they_matter),
        fixture_test(a_record_that_cannot_be_read_ends_the_scan),
        fixture_test(random_stores_list_their_live_keys_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
