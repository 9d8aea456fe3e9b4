/*
 * test_scan.c - pages of keys (store/logstore/scan.h, scan_long.h): what hides what, ranges in both
 * directions, how often records are read, and random stores against a sorted list.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "index_fixture.h"
#include "random.h"
#include "store/logstore/scan.h"

/* ---- a store of three layers ---- */

enum { KEYS_MAX = 3000, ACTIVE = 0, FROZEN = 1, INDEX = 2, LAYERS = 3 };

struct layers {
    struct index_fixture *f;
    struct delta *generations[2];
    struct delta *for_index; /* goes into the index when a scan begins */
    struct scan_long *longs;
    struct slice keys[KEYS_MAX]; /* an entry's `offset` is the number of its key */
    uint32_t key_count;
    uint64_t seq;
    uint64_t visible_seq;
    unsigned reads;   /* of full keys */
    int read_error;   /* what they return */
    uint32_t removed; /* segment whose records are not found any more */
    bool moving;      /* then they are found in the next one, and their rows say so */
};

static bool layers_live(void *ctx, const struct entry *e)
{
    (void)ctx;
    return e->kind != RECORD_DELETE && e->expires_ms == 0;
}

static void move_row(struct layers *l, const struct entry *e)
{
    struct entry moved = *e;
    struct delta_item item = {l->keys[e->offset], &moved, 1};

    moved.segment++;
    assert_int_equal(index_apply(l->f->index, &item, 1, NULL, false), 0);
}

static int layers_full_key(void *ctx, const struct entry *e, struct buf *out)
{
    struct layers *l = ctx;

    assert_int_equal(out->len, 0);
    l->reads++;
    if (l->read_error != 0)
        return l->read_error;
    if (e->segment == l->removed) {
        if (l->moving)
            move_row(l, e);
        return -ENOENT;
    }
    return buf_add_slice(out, l->keys[e->offset]);
}

static void layers_open(struct layers *l, struct index_fixture *f)
{
    *l = (struct layers){.f = f, .visible_seq = UINT64_MAX};
    fixture_open(f);
    l->generations[ACTIVE] = delta_new(0);
    l->generations[FROZEN] = delta_new(0);
    l->for_index = delta_new(0);
    l->longs = scan_long_new(1u << 20);
    assert_non_null(l->longs);
}

static void layers_memory(struct layers *l, size_t bytes)
{
    scan_long_free(l->longs);
    l->longs = scan_long_new(bytes);
    assert_non_null(l->longs);
}

static void layers_close(struct layers *l)
{
    delta_free(l->generations[ACTIVE]);
    delta_free(l->generations[FROZEN]);
    delta_free(l->for_index);
    scan_long_free(l->longs);
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
    struct entry e = {.segment = 1, .offset = number, .kind = kind, .expires_ms = expires_ms};

    assert_int_equal(delta_put(d, hash_slice(l->keys[number]), l->keys[number], &e, ++l->seq), 0);
}

static void layers_write_index(struct layers *l)
{
    struct delta_item *items;
    size_t count;

    assert_int_equal(delta_sorted(l->for_index, &items, &count), 0);
    assert_int_equal(index_apply(l->f->index, items, count, NULL, false), 0);
    free(items);
}

static int layers_scan(struct layers *l, const struct store_range *range, unsigned limit,
                       bool (*each)(const struct store_scan_item *item, void *arg), void *arg)
{
    struct scan scan = {
        .active = l->generations[ACTIVE],
        .frozen = l->generations[FROZEN],
        .visible_seq = l->visible_seq,
        .reader = l->f->reader,
        .longs = l->longs,
        .is_live = layers_live,
        .full_key = layers_full_key,
        .ctx = l,
    };

    return scan_page(&scan, range, limit, each, arg);
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
static bool add_letter(const struct store_scan_item *item, void *arg)
{
    assert_true(item->key.len <= 1);
    append(arg, item->key.len == 1 ? item->key.ptr[0] : '-');
    return true;
}

static void check_range(struct layers *l, const struct store_range *range, unsigned limit,
                        const char *letters, int more)
{
    char text[64] = "";
    int rc = layers_scan(l, range, limit, add_letter, text);

    assert_string_equal(text, letters);
    assert_int_equal(rc, more);
}

static void check_letters(struct layers *l, const char *prefix, const char *after, unsigned limit,
                          const char *letters, int more)
{
    struct store_range range = {.prefix = slice_str(prefix), .has_after = after != NULL};

    if (after != NULL)
        range.after = slice_str(after);
    check_range(l, &range, limit, letters, more);
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

static void a_range_has_its_beginning_and_not_its_end(void **state)
{
    static const struct {
        const char *prefix;
        const char *from;
        const char *to;    /* NULL: none */
        const char *after; /* NULL: from the start */
        bool reverse;
        unsigned limit;
        const char *letters;
        int more;
    } table[] = {
        {"", "b", NULL, NULL, false, 9, "bcdef", 0}, {"", "", "d", NULL, false, 9, "-abc", 0},
        {"", "b", "d", NULL, false, 9, "bc", 0},     {"", "d", "b", NULL, false, 9, "", 0},
        {"", "b", "b", NULL, false, 9, "", 0},       {"", "b", "e", "b", false, 9, "cd", 0},
        {"", "c", "e", "a", false, 9, "cd", 0},      {"", "b", "e", "f", false, 9, "", 0},
        {"c", "b", "e", NULL, false, 9, "c", 0},     {"c", "d", NULL, NULL, false, 9, "", 0},
        {"", "", "", NULL, false, 9, "", 0},         {"", "", NULL, NULL, true, 9, "fedcba-", 0},
        {"", "", NULL, NULL, true, 3, "fed", 1},     {"", "", NULL, "d", true, 9, "cba-", 0},
        {"", "b", NULL, "d", true, 9, "cb", 0},      {"", "b", "d", NULL, true, 9, "cb", 0},
        {"", "b", "d", "z", true, 9, "cb", 0},       {"", "", NULL, "", true, 9, "", 0},
        {"c", "", NULL, NULL, true, 9, "c", 0},      {"", "", NULL, "-", true, 9, "-", 0},
        {"", "", "bb", NULL, true, 1, "b", 1},       {"", "g", NULL, NULL, true, 9, "", 0},
    };
    struct layers l;
    unsigned layer = 0;

    layers_open(&l, *state);
    for (const char *c = "fdbace"; *c != '\0'; c++)
        layers_put(&l, layer++ % LAYERS, layers_key(&l, slice_of(c, 1)), RECORD_PUT, 0);
    layers_put(&l, INDEX, layers_key(&l, slice_str("")), RECORD_COUNTER, 0);
    layers_write_index(&l);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct store_range range = {.prefix = slice_str(table[i].prefix),
                                    .from = slice_str(table[i].from),
                                    .has_to = table[i].to != NULL,
                                    .has_after = table[i].after != NULL,
                                    .reverse = table[i].reverse};

        if (range.has_to)
            range.to = slice_str(table[i].to);
        if (range.has_after)
            range.after = slice_str(table[i].after);
        check_range(&l, &range, table[i].limit, table[i].letters, table[i].more);
    }
    layers_close(&l);
}

static bool stop_at_c(const struct store_scan_item *item, void *arg)
{
    add_letter(item, arg);
    return item->key.ptr[0] != 'c';
}

static void a_page_ends_when_told(void **state)
{
    struct store_range all = {0};
    char text[64] = "";
    struct layers l;

    layers_open(&l, *state);
    for (const char *c = "dbace"; *c != '\0'; c++)
        layers_put(&l, ACTIVE, layers_key(&l, slice_of(c, 1)), RECORD_PUT, 0);
    assert_int_equal(layers_scan(&l, &all, 9, stop_at_c, text), 1);
    assert_string_equal(text, "abc");
    layers_close(&l);
}

static bool take_item(const struct store_scan_item *item, void *arg)
{
    struct store_scan_item *out = arg;

    *out = *item;
    return true;
}

static void an_item_says_what_is_known_without_reading(void **state)
{
    const struct entry entry = {
        .segment = 1,
        .length = 1000,
        .kind = RECORD_COUNTER,
        .base = {.version = 7, .epoch = 8, .node = 9},
        .expires_ms = 0,
        .cas = 11,
        .big_file = 1,
        .big_bytes = 5000,
    };
    struct store_range all = {0};
    struct layers l;

    for (unsigned layer = 0; layer < LAYERS; layer++) {
        struct store_scan_item item = {0};
        struct slice key = slice_str("k");

        layers_open(&l, *state);
        assert_int_equal(delta_put(layer == INDEX ? l.for_index : l.generations[layer],
                                   hash_slice(key), key, &entry, 1),
                         0);
        layers_write_index(&l);
        assert_int_equal(layers_scan(&l, &all, 1, take_item, &item), 0);
        assert_int_equal(item.kind, RECORD_COUNTER);
        assert_int_equal(item.bytes, 6000);
        assert_int_equal(item.cas, 11);
        assert_int_equal(item.expires_ms, 0);
        assert_int_equal(stamp_compare(item.base, entry.base), 0);
        layers_close(&l);
        assert_int_equal(index_remove(l.f->dir), 0);
    }
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

/* ---- long keys ---- */

static bool count_key(const struct store_scan_item *item, void *arg)
{
    (void)item;
    ++*(unsigned *)arg;
    return true;
}

enum { LONG_KEY = 600 };

/* A key of the run that begins with 598 times this letter. */
static uint32_t put_long(struct layers *l, unsigned layer, char letter, uint16_t number)
{
    char text[LONG_KEY];
    uint32_t key;

    memset(text, letter, sizeof(text));
    text[LONG_KEY - 2] = (char)(number >> 8);
    text[LONG_KEY - 1] = (char)number;
    key = layers_key(l, slice_of(text, sizeof(text)));
    layers_put(l, layer, key, RECORD_PUT, 0);
    return key;
}

/* What pages over the long keys have come to. */
struct long_walk {
    struct buf last;
    unsigned count;
    size_t most_bytes; /* that the kept keys took */
    struct layers *l;
};

static bool next_long(const struct store_scan_item *item, void *arg)
{
    struct long_walk *w = arg;

    assert_int_equal(item->key.len, LONG_KEY);
    assert_true(w->last.len == 0 || slice_compare(item->key, buf_slice(&w->last)) > 0);
    w->last.len = 0;
    assert_int_equal(buf_add_slice(&w->last, item->key), 0);
    w->count++;
    if (scan_long_bytes(w->l->longs) > w->most_bytes)
        w->most_bytes = scan_long_bytes(w->l->longs);
    return true;
}

/* The next page, behind the last key, whose memory is overwritten meanwhile. True: there are
 * more. */
static bool long_page(struct long_walk *w, unsigned limit)
{
    struct store_range range = {.has_after = w->last.len > 0, .after = buf_slice(&w->last)};
    int rc = layers_scan(w->l, &range, limit, next_long, w);

    assert_true(rc == 0 || rc == 1);
    return rc == 1;
}

static void full_keys_are_read_only_where_they_matter(void **state)
{
    struct store_range range = {0};
    unsigned count = 0;
    struct layers l;

    layers_open(&l, *state);
    for (unsigned i = 0; i < 100; i++)
        put_long(&l, INDEX, (char)('a' + i / 10), (uint16_t)i);
    layers_write_index(&l);
    assert_int_equal(layers_scan(&l, &range, 5, count_key, &count), 1);
    assert_int_equal(count, 5);
    assert_int_equal(l.reads, 10); /* those with the same beginning, no others */
    l.reads = 0;
    range.prefix = slice_str("d");
    assert_int_equal(layers_scan(&l, &range, 50, count_key, &count), 0);
    assert_int_equal(l.reads, 10);
    assert_int_equal(count, 15);
    layers_close(&l);
}

static void keys_with_one_beginning_are_read_once_for_all_pages(void **state)
{
    struct layers l;
    struct long_walk w = {.l = &l};

    layers_open(&l, *state);
    for (unsigned i = 0; i < 250; i++)
        put_long(&l, INDEX, 'x', (uint16_t)i);
    layers_write_index(&l);
    while (long_page(&w, 7))
        ;
    assert_int_equal(w.count, 250);
    assert_int_equal(l.reads, 250);
    buf_free(&w.last);
    layers_close(&l);
}

/* More than one read transaction looks at. */
static void a_run_of_many_rows_has_each_key_once(void **state)
{
    enum { KEYS = 2 * SCAN_ROWS + 500 };
    struct layers l;
    struct long_walk w = {.l = &l};

    layers_open(&l, *state);
    for (unsigned i = 0; i < KEYS; i++)
        put_long(&l, INDEX, 'x', (uint16_t)i);
    layers_write_index(&l);
    while (long_page(&w, 300))
        ;
    assert_int_equal(w.count, KEYS);
    assert_int_equal(l.reads, KEYS);
    buf_free(&w.last);
    layers_close(&l);
}

/* Rows of deleted records, more than one read transaction looks at, before and between others. */
static void many_dead_rows_hide_nothing_behind_them(void **state)
{
    enum { DEAD = SCAN_ROWS + 200 };
    struct store_range range = {0};
    struct layers l;

    layers_open(&l, *state);
    for (unsigned i = 0; i < DEAD; i++) {
        char text[LONG_KEY] = {'x', (char)(i >> 8), (char)i};

        layers_put(&l, INDEX, layers_key(&l, slice_of(text, 3)), RECORD_DELETE, 0);
        layers_put(&l, INDEX, layers_key(&l, slice_of(text, sizeof(text))), RECORD_DELETE, 0);
    }
    for (const char *c = "awz"; *c != '\0'; c++) {
        layers_put(&l, INDEX, layers_key(&l, slice_of(c, 1)), RECORD_PUT, 0);
        put_long(&l, INDEX, *c, 0);
    }
    layers_write_index(&l);
    for (unsigned reverse = 0; reverse < 2; reverse++) {
        for (unsigned limit = 1; limit < 8; limit++) {
            unsigned count = 0;

            range.reverse = reverse == 1;
            assert_int_equal(layers_scan(&l, &range, limit, count_key, &count), limit < 6);
            assert_int_equal(count, limit < 6 ? limit : 6);
        }
    }
    layers_close(&l);
}

/* LMDB's writes, looked at from between. */
static struct index_fixture *looking;
static uint64_t looking_version;
static unsigned looks;

static void look_between_writes(void)
{
    struct index_fixture *f = looking;

    looking = NULL; /* not again from here */
    assert_int_equal(fixture_seen(f, slice_str("a")), 1);
    assert_true(index_version(f->reader) == looking_version);
    looks++;
    looking = f;
}

ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset) __asm__("pwrite");
ssize_t index_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    ssize_t n = syscall(SYS_pwrite64, fd, data, len, offset);

    if (looking != NULL)
        look_between_writes();
    return n;
}

/* A change is on the file some time before readers see it: only then is there a new version. Else
 * what was read before would count as newer than it is. */
static void a_change_under_way_is_no_new_version_yet(void **state)
{
    struct index_fixture *f = *state;

    fixture_open(f);
    fixture_put(f, "a", 1);
    looking_version = index_version(f->reader);
    looks = 0;
    looking = f;
    fixture_put(f, "a", 2);
    looking = NULL;
    assert_true(looks > 0);
    assert_int_equal(fixture_seen(f, slice_str("a")), 2);
    assert_true(index_version(f->reader) > looking_version);
    fixture_close(f);
}

static void a_change_of_the_index_lets_only_new_keys_be_read(void **state)
{
    struct layers l;
    struct long_walk w = {.l = &l};

    layers_open(&l, *state);
    for (unsigned i = 0; i < 200; i += 2)
        put_long(&l, INDEX, 'x', (uint16_t)i);
    layers_write_index(&l);
    assert_true(long_page(&w, 10)); /* up to key 18 */
    put_long(&l, INDEX, 'x', 5);    /* before the next page */
    put_long(&l, INDEX, 'x', 21);
    layers_write_index(&l);
    while (long_page(&w, 10))
        ;
    assert_int_equal(w.count, 101);
    assert_int_equal(l.reads, 102);
    buf_free(&w.last);
    layers_close(&l);
}

static void long_keys_beyond_the_memory_are_read_again(void **state)
{
    enum { MEMORY = 40 * 300 };
    struct layers l;
    struct long_walk w = {.l = &l};

    layers_open(&l, *state);
    layers_memory(&l, MEMORY);
    for (unsigned i = 0; i < 250; i++)
        put_long(&l, INDEX, 'x', (uint16_t)i);
    layers_write_index(&l);
    while (long_page(&w, 7))
        ;
    assert_int_equal(w.count, 250);
    assert_true(w.most_bytes <= MEMORY);
    assert_true(w.most_bytes > MEMORY / 2);
    assert_true(l.reads > 2 * 250);
    assert_true(l.reads < 250 * 250 * 400 / MEMORY);
    buf_free(&w.last);
    layers_close(&l);
}

static void a_record_that_cannot_be_read_ends_the_scan(void **state)
{
    struct store_range all = {0};
    unsigned count = 0;
    struct layers l;

    layers_open(&l, *state);
    put_long(&l, INDEX, 'x', 0);
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("a")), RECORD_PUT, 0);
    layers_put(&l, ACTIVE, layers_key(&l, slice_str("y")), RECORD_PUT, 0);
    layers_write_index(&l);
    l.read_error = -EIO;
    assert_int_equal(layers_scan(&l, &all, 5, count_key, &count), -EIO);
    l.read_error = 0;
    assert_int_equal(layers_scan(&l, &all, 5, count_key, &count), 0);
    assert_int_equal(count, 3);
    layers_close(&l);
}

static void a_record_that_is_moved_meanwhile_is_found_again(void **state)
{
    struct store_range all = {0};
    unsigned count = 0;
    struct layers l;

    layers_open(&l, *state);
    for (uint16_t i = 0; i < 20; i++)
        put_long(&l, INDEX, 'x', i);
    layers_write_index(&l);
    l.removed = 1;
    l.moving = true;
    assert_int_equal(layers_scan(&l, &all, 50, count_key, &count), 0);
    assert_int_equal(count, 20);
    assert_int_equal(l.reads, 40);
    /* A segment that is gone though rows name it is damage. */
    l.moving = false;
    l.removed = 2;
    layers_memory(&l, 1000);
    assert_int_equal(layers_scan(&l, &all, 50, count_key, &count), -EUCLEAN);
    layers_close(&l);
}

static void a_row_that_leads_to_another_key_is_damage(void **state)
{
    struct store_range all = {0};
    unsigned count = 0;
    struct layers l;
    uint32_t number;

    layers_open(&l, *state);
    number = put_long(&l, INDEX, 'x', 0);
    layers_write_index(&l);
    l.keys[number].len--;
    assert_int_equal(layers_scan(&l, &all, 50, count_key, &count), -EUCLEAN);
    l.keys[number].len++;
    assert_int_equal(count, 0);
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

/* The random range's keys, in its direction. */
struct expected {
    const struct slice *keys;
    size_t count;
    size_t at;
    bool reverse;
    const struct store_range *range;
};

static bool is_in_range(const struct store_range *r, struct slice key)
{
    int behind = r->has_after ? slice_compare(key, r->after) : 0;

    return slice_starts(key, r->prefix) && slice_compare(key, r->from) >= 0 &&
           (!r->has_to || slice_compare(key, r->to) < 0) &&
           (!r->has_after || (r->reverse ? behind < 0 : behind > 0));
}

/* The next key that must come, or NULL. */
static const struct slice *expected_next(struct expected *e)
{
    while (e->at < e->count) {
        const struct slice *key = &e->keys[e->reverse ? e->count - 1 - e->at : e->at];

        e->at++;
        if (is_in_range(e->range, *key))
            return key;
    }
    return NULL;
}

static bool expect_key(const struct store_scan_item *item, void *arg)
{
    const struct slice *key = expected_next(arg);

    assert_non_null(key);
    assert_true(slice_equal(item->key, *key));
    return true;
}

/* All pages of the range, one behind the other. */
static void check_pages(struct layers *l, const struct slice *live, size_t count,
                        const struct store_range *range, unsigned limit)
{
    struct expected e = {live, count, 0, range->reverse, range};
    struct store_range page = *range;
    int more = 1;

    while (more == 1) {
        size_t before = e.at;

        more = layers_scan(l, &page, limit, expect_key, &e);
        assert_true(more == 0 || (more == 1 && e.at > before));
        page.has_after = true;
        if (more == 1)
            page.after = live[range->reverse ? count - e.at : e.at - 1];
    }
    assert_null(expected_next(&e));
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

static void check_random_range(struct layers *l, struct random *random, const struct slice *live,
                               size_t count)
{
    char text[4][700];
    struct store_range range = {
        .prefix = slice_of(text[0], random_key(random, text[0])),
        .from = slice_of(text[1], random_key(random, text[1])),
        .has_to = random_below(random, 2) == 0,
        .to = slice_of(text[2], random_key(random, text[2])),
        .has_after = random_below(random, 2) == 0,
        .after = slice_of(text[3], random_key(random, text[3])),
        .reverse = random_below(random, 2) == 0,
    };

    if (random_below(random, 3) != 0)
        range.prefix.len = random_below(random, range.prefix.len);
    if (random_below(random, 2) == 0)
        range.prefix.len = 0;
    if (random_below(random, 2) == 0)
        range.from.len = 0;
    check_pages(l, live, count, &range, 1 + (unsigned)random_below(random, 200));
}

static void random_stores_list_their_live_keys_in_order(void **state)
{
    struct random random = random_seeded();
    struct slice *live = malloc(KEYS_MAX * sizeof(*live));

    assert_non_null(live);
    for (unsigned round = 0; round < 40; round++) {
        struct layers l;
        size_t count;

        layers_open(&l, *state);
        if (round % 2 == 0)
            layers_memory(&l, random_below(&random, 20000));
        count = random_store(&l, &random, live);
        for (unsigned i = 0; i < 30; i++)
            check_random_range(&l, &random, live, count);
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
        fixture_test(a_range_has_its_beginning_and_not_its_end),
        fixture_test(a_page_ends_when_told),
        fixture_test(an_item_says_what_is_known_without_reading),
        fixture_test(full_keys_are_read_only_where_they_matter),
        fixture_test(keys_with_one_beginning_are_read_once_for_all_pages),
        fixture_test(a_run_of_many_rows_has_each_key_once),
        fixture_test(many_dead_rows_hide_nothing_behind_them),
        fixture_test(a_change_under_way_is_no_new_version_yet),
        fixture_test(a_change_of_the_index_lets_only_new_keys_be_read),
        fixture_test(long_keys_beyond_the_memory_are_read_again),
        fixture_test(a_record_that_cannot_be_read_ends_the_scan),
        fixture_test(a_record_that_is_moved_meanwhile_is_found_again),
        fixture_test(a_row_that_leads_to_another_key_is_damage),
        fixture_test(random_stores_list_their_live_keys_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
