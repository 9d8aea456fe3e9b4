/*
 * test_index.c - the durable index (store/logstore/index.h): rows and order against a plain model,
 * checkpoints and their meta, readers beside a checkpoint, limits of space.
 *
 * Damaged files are in test_index_damage.c.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "index_fixture.h"
#include "random.h"

static void an_index_is_empty_at_first_and_again_after_removal(void **state)
{
    struct index_fixture *f = *state;
    char room[INDEX_VECTORS_MAX];
    struct index_meta meta;
    struct entry e;

    for (unsigned round = 0; round < 2; round++) {
        uint64_t rows;
        uint64_t used;

        fixture_open(f);
        assert_int_equal(index_read_meta(f->index, &meta, room), -ENOENT);
        assert_int_equal(index_find(f->reader, slice_str("k"), &e), -ENOENT);
        assert_int_equal(index_figures(f->index, &rows, &used), 0);
        assert_int_equal(rows, 0);
        assert_true(used > 0);
        fixture_put(f, "k", 1);
        assert_int_equal(fixture_seen(f, slice_str("k")), 1);
        fixture_close(f);
        assert_int_equal(index_remove(f->dir), 0);
    }
    assert_int_equal(index_remove(f->dir), 0); /* nothing there is good too */
}

/* ---- rows ---- */

static void every_field_of_an_entry_comes_back(void **state)
{
    static const struct entry entries[] = {
        {.kind = RECORD_PUT, .base = {1, 2, 3}, .cas = 1},
        {.segment = UINT32_MAX,
         .offset = UINT32_MAX - 1,
         .length = UINT32_MAX - 2,
         .kind = RECORD_COUNTER,
         .base = {UINT64_MAX, UINT32_MAX, UINT16_MAX},
         .cas = UINT64_MAX,
         .expires_ms = INT64_MAX},
        {.kind = RECORD_DELETE, .base = {77, 1, 1}, .cas = 77},
        {.kind = RECORD_PUT, .base = {77, 1, 1}, .cas = 0, .expires_ms = -1},
        {.kind = RECORD_PUT,
         .base = {1, 1, 1},
         .cas = 5,
         .has_touch = true,
         .touch_segment = 9,
         .touch_offset = UINT32_MAX},
        {.kind = RECORD_PUT,
         .base = {8, 1, 1},
         .cas = 8,
         .has_touch = true,
         .touch_segment = 9,
         .touch_offset = 10,
         .touch_length = UINT32_MAX,
         .expires_ms = 1},
        {.kind = RECORD_PUT,
         .base = {8, 1, 1},
         .cas = 8,
         .big_file = UINT64_MAX,
         .big_bytes = UINT64_MAX - 1},
        {.kind = RECORD_DELETE,
         .base = {8, 1, 1},
         .cas = 8,
         .expires_ms = 1,
         .big_file = 1,
         .big_bytes = 2},
    };
    struct index_fixture *f = *state;

    fixture_open(f);
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        struct delta_item item = {slice_str("k"), &entries[i], 1};
        struct entry e;

        assert_int_equal(index_apply(f->index, &item, 1, NULL, false), 0);
        assert_int_equal(index_find(f->reader, slice_str("k"), &e), 0);
        assert_true(entries_equal(&e, &entries[i]));
    }
    fixture_close(f);
}

static void rows_are_exactly_as_documented(void **state)
{
    static const struct entry plain = {.segment = 0x01020304,
                                       .offset = 0x11121314,
                                       .length = 0x21222324,
                                       .kind = RECORD_PUT,
                                       .base = {0x3132333435363738, 0x41424344, 0x5152},
                                       .cas = 0x3132333435363738};
    static const unsigned char plain_row[] = {0x01, 0x04, 0x03, 0x02, 0x01, 0x14, 0x13, 0x12, 0x11,
                                              0x24, 0x23, 0x22, 0x21, 0x38, 0x37, 0x36, 0x35, 0x34,
                                              0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41, 0x52, 0x51};
    static const unsigned char tail[] = {0x61, 0, 0,    0, 0x62, 0, 0,    0, 0x63, 0, 0, 0, 0x64, 0,
                                         0,    0, 0,    0, 0,    0, 0x65, 0, 0,    0, 0, 0, 0,    0,
                                         0x66, 0, 0,    0, 0,    0, 0,    0, 0x67, 0, 0, 0, 0,    0,
                                         0,    0, 0x5f, 0, 0,    0, 0,    0, 0,    0};
    unsigned char row[ENTRY_ROW_MAX];
    struct entry full = plain;
    struct entry back;
    int64_t filed_ms;

    (void)state;
    assert_int_equal(entry_encode(&plain, row), sizeof(plain_row));
    assert_memory_equal(row, plain_row, sizeof(plain_row));
    full.kind = RECORD_COUNTER;
    full.has_touch = true;
    full.touch_segment = 0x61;
    full.touch_offset = 0x62;
    full.touch_length = 0x63;
    full.expires_ms = 0x64;
    full.cas = 0x65;
    full.big_file = 0x66;
    full.big_bytes = 0x67;
    assert_int_equal(entry_encode(&full, row), ENTRY_ROW_MAX - 8);
    assert_int_equal(row[0], 0x7b);
    assert_true(entry_decode_filed(slice_of(row, ENTRY_ROW_MAX - 8), &back, &filed_ms));
    assert_int_equal(filed_ms, 0x64);
    assert_int_equal(entry_encode_filed(&full, 0x5f, row), ENTRY_ROW_MAX);
    assert_int_equal(row[0], 0xfb);
    assert_memory_equal(row + 1, plain_row + 1, sizeof(plain_row) - 1);
    assert_memory_equal(row + sizeof(plain_row), tail, sizeof(tail));
    for (size_t len = 0; len < ENTRY_ROW_MAX; len++)
        assert_false(entry_decode(slice_of(guarded_copy(row, len), len), &back));
    assert_true(entry_decode_filed(slice_of(guarded_copy(row, ENTRY_ROW_MAX), ENTRY_ROW_MAX), &back,
                                   &filed_ms));
    assert_true(entries_equal(&full, &back));
    assert_int_equal(filed_ms, 0x5f);
}

/* Every first byte that entry_encode() cannot write is refused, whatever the length; and what is filed
 * under no moment, or a later one than its own. */
static void rows_with_unknown_bits_are_refused(void **state)
{
    unsigned char row[ENTRY_ROW_MAX + 1] = {0};
    struct entry e;

    (void)state;
    for (unsigned bits = 0; bits < 256; bits++) {
        unsigned accepted = 0;

        row[0] = (unsigned char)bits;
        for (size_t len = 1; len <= sizeof(row); len++)
            accepted += entry_decode(slice_of(row, len), &e);
        assert_int_equal(accepted, bits < 0x80 && (bits & 7) >= 1 && (bits & 7) <= 3);
    }
}

/* ---- keys ---- */

static void index_keys_are_as_documented(void **state)
{
    char text[RECORD_KEY_MAX];
    char out[INDEX_KEY_MAX];
    /* XXH3-128 of 495 bytes 'x', big-endian: on disk, so it must never change. */
    static const unsigned char hash[16] = {0x74, 0x92, 0x79, 0x26, 0x15, 0x8e, 0x07, 0xdf,
                                           0xfb, 0x43, 0x04, 0x20, 0x33, 0x09, 0x02, 0xa1};

    (void)state;
    memset(text, 'x', sizeof(text));
    assert_int_equal(index_key(slice_str(""), out), 1);
    assert_int_equal(out[0], 1);
    assert_int_equal(index_key(slice_of(text, 494), out), 495);
    assert_int_equal(out[0], 1);
    assert_memory_equal(out + 1, text, 494);
    assert_int_equal(index_key(slice_of(text, 495), out), INDEX_KEY_MAX);
    assert_int_equal(out[0], 2);
    assert_memory_equal(out + 1, text, 494);
    assert_memory_equal(out + 495, hash, sizeof(hash));
    assert_int_equal(index_key(slice_of(text, sizeof(text)), out), INDEX_KEY_MAX);
    assert_memory_not_equal(out + 495, hash, sizeof(hash));
}

static void keys_of_all_lengths_are_kept_apart_and_in_order(void **state)
{
    static const size_t lengths[] = {0, 1, 2, 493, 494, 495, 510, 511, 512, 4096, RECORD_KEY_MAX};
    enum { KINDS = sizeof(lengths) / sizeof(lengths[0]) };
    struct index_fixture *f = *state;
    struct entry entries[KINDS];
    struct delta *d = delta_new(0);
    struct delta_item *items;
    size_t count;
    char text[RECORD_KEY_MAX];

    memset(text, 'x', sizeof(text));
    fixture_open(f);
    for (size_t i = 0; i < KINDS; i++) {
        struct slice key = slice_of(text, lengths[i]);

        entries[i] = entry_numbered(i + 1);
        assert_int_equal(delta_put(d, hash_slice(key), key, &entries[i], i + 1), 0);
    }
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    assert_int_equal(index_apply(f->index, items, count, NULL, false), 0);
    for (size_t i = 0; i < KINDS; i++)
        assert_int_equal(fixture_seen(f, slice_of(text, lengths[i])), i + 1);
    assert_int_equal(fixture_seen(f, slice_of(text, 3)), 0);
    assert_int_equal(fixture_seen(f, slice_of(text, 513)), 0);
    free(items);
    delta_free(d);
    fixture_close(f);
}

static void the_order_of_keys_is_that_of_their_index_keys(void **state)
{
    struct random random = random_seeded();

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        char a[600] = {0};
        char b[600] = {0};
        char index_a[INDEX_KEY_MAX];
        char index_b[INDEX_KEY_MAX];
        struct slice key_a = slice_of(a, random_below(&random, 8) + 490 * random_below(&random, 2));
        struct slice key_b = slice_of(b, random_below(&random, 8) + 490 * random_below(&random, 2));
        size_t len_a;
        size_t len_b;
        int order;

        a[random_below(&random, key_a.len + 1)] = (char)random_below(&random, 256);
        b[random_below(&random, key_b.len + 1)] = (char)random_below(&random, 256);
        len_a = index_key(key_a, index_a);
        len_b = index_key(key_b, index_b);
        order = memcmp(index_a, index_b, len_a < len_b ? len_a : len_b);
        if (order == 0)
            order = (len_a > len_b) - (len_a < len_b);
        assert_int_equal(sign(index_compare_keys(key_a, key_b)), sign(order));
        assert_int_equal(sign(index_compare_keys(key_b, key_a)), -sign(order));
    }
}

/* ---- a random run against a model ---- */

enum { MODEL_KEYS = 4000 };

/* Every tenth is long, most of them with the same first 494 bytes. */
static struct slice model_key(size_t i, char out[600])
{
    size_t lead = i % 10 == 0 ? 500 : 0;

    memset(out, i % 30 == 0 ? 'y' : 'x', lead);
    lead += (size_t)snprintf(out + lead, 600 - lead, "%zu", i * 7919 % MODEL_KEYS);
    return slice_of(out, lead);
}

struct model_walk {
    size_t rows;
    char last[INDEX_KEY_MAX];
    size_t last_len;
};

static bool model_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct model_walk *w = arg;
    size_t common = w->last_len < index_key.len ? w->last_len : index_key.len;
    int order = memcmp(w->last, index_key.ptr, common);
    struct entry want = entry_numbered(e->base.version);

    assert_true(w->rows == 0 || order < 0 || (order == 0 && w->last_len < index_key.len));
    assert_true(entries_equal(e, &want));
    memcpy(w->last, index_key.ptr, index_key.len);
    w->last_len = index_key.len;
    w->rows++;
    return true;
}

static void check_model(struct index_fixture *f, const uint64_t *model)
{
    struct model_walk walk = {0};
    size_t present = 0;
    uint64_t rows;
    uint64_t used;
    char text[600];

    for (size_t i = 0; i < MODEL_KEYS; i++) {
        assert_int_equal(fixture_seen(f, model_key(i, text)), model[i]);
        present += model[i] != 0;
    }
    assert_int_equal(index_walk(f->reader, slice_of(NULL, 0), model_row, &walk), 0);
    assert_int_equal(walk.rows, present);
    assert_int_equal(index_figures(f->index, &rows, &used), 0);
    assert_int_equal(rows, present);
}

static bool always(void *arg)
{
    (void)arg;
    return true;
}

static void a_random_run_agrees_with_a_model(void **state)
{
    struct index_fixture *f = *state;
    struct random random = random_seeded();
    uint64_t *model = calloc(MODEL_KEYS, sizeof(*model));
    uint64_t seq = 0;

    assert_non_null(model);
    fixture_open(f);
    for (unsigned round = 0; round < 12; round++) {
        struct delta *d = delta_new(0);
        bool drop = random_below(&random, 5) == 0;
        uint64_t puts = random_below(&random, 3000);
        struct delta_item *items;
        size_t count;
        char text[600];

        if (drop)
            memset(model, 0, MODEL_KEYS * sizeof(*model));
        for (uint64_t n = 0; n < puts; n++) {
            size_t i = random_below(&random, MODEL_KEYS);
            struct slice key = model_key(i, text);
            struct entry e = entry_numbered(++seq);

            assert_int_equal(delta_put(d, hash_slice(key), key, &e, seq), 0);
            model[i] = seq;
        }
        assert_int_equal(delta_sorted(d, &items, &count), 0);
        assert_int_equal(index_apply(f->index, items, count, NULL, drop), 0);
        free(items);
        delta_free(d);
        check_model(f, model);
        if (round % 4 == 3) {
            fixture_close(f);
            fixture_open(f);
            index_warm(f->index, always, NULL);
            check_model(f, model);
        }
    }
    fixture_close(f);
    free(model);
}

/* ---- walking ---- */

struct picked {
    char keys[8][8];
    size_t count;
    size_t limit;
};

static bool pick(struct slice index_key, const struct entry *e, void *arg)
{
    struct picked *p = arg;

    (void)e;
    assert_int_equal(index_key.ptr[0], 1);
    memcpy(p->keys[p->count], index_key.ptr + 1, index_key.len - 1);
    p->keys[p->count++][index_key.len - 1] = '\0';
    return p->count < p->limit;
}

static void a_walk_begins_at_a_key_and_ends_when_told(void **state)
{
    static const struct {
        const char *from;
        size_t limit;
        const char *keys; /* one letter each */
    } table[] = {
        {"", 8, "bdf"}, {"a", 8, "bdf"}, {"b", 8, "bdf"}, {"c", 8, "df"},
        {"f", 8, "f"},  {"g", 8, ""},    {"a", 1, "b"},   {"b", 2, "bd"},
    };
    struct index_fixture *f = *state;

    fixture_open(f);
    fixture_put(f, "d", 1);
    fixture_put(f, "b", 2);
    fixture_put(f, "f", 3);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct picked p = {.limit = table[i].limit};
        char from[INDEX_KEY_MAX];
        size_t len = index_key(slice_str(table[i].from), from);

        assert_int_equal(index_walk(f->reader, slice_of(from, len), pick, &p), 0);
        assert_int_equal(p.count, strlen(table[i].keys));
        for (size_t k = 0; k < p.count; k++)
            assert_memory_equal(p.keys[k], (char[2]){table[i].keys[k]}, 2);
    }
    fixture_close(f);
}

static void a_walk_back_begins_below_a_key(void **state)
{
    static const struct {
        const char *before; /* NULL: from the last */
        size_t limit;
        const char *keys;
    } table[] = {
        {NULL, 8, "fdb"}, {"g", 8, "fdb"}, {"f", 8, "db"}, {"e", 8, "db"},
        {"b", 8, ""},     {"a", 8, ""},    {NULL, 1, "f"}, {"f", 1, "d"},
    };
    struct index_fixture *f = *state;

    fixture_open(f);
    fixture_put(f, "d", 1);
    fixture_put(f, "b", 2);
    fixture_put(f, "f", 3);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct picked p = {.limit = table[i].limit};
        char from[INDEX_KEY_MAX];
        size_t len = table[i].before == NULL ? 0 : index_key(slice_str(table[i].before), from);

        assert_int_equal(index_walk_back(f->reader, slice_of(from, len), pick, &p), 0);
        assert_int_equal(p.count, strlen(table[i].keys));
        for (size_t k = 0; k < p.count; k++)
            assert_memory_equal(p.keys[k], (char[2]){table[i].keys[k]}, 2);
    }
    fixture_close(f);
}

static void the_version_changes_with_every_change_only(void **state)
{
    struct index_fixture *f = *state;
    uint64_t before;

    fixture_open(f);
    for (uint64_t i = 1; i <= 3; i++) {
        before = index_version(f->reader);
        assert_int_equal(fixture_seen(f, slice_str("a")), i - 1);
        assert_true(index_version(f->reader) == before);
        fixture_put(f, "a", i);
        assert_true(index_version(f->reader) > before);
    }
    fixture_close(f);
}

static bool find_beside(struct slice index_key, const struct entry *e, void *arg)
{
    struct index_fixture *f = arg;

    assert_int_equal(fixture_seen(f, slice_after(index_key, 1)), e->base.version);
    return true;
}

static void readers_of_one_thread_do_not_disturb_each_other(void **state)
{
    struct index_fixture *f = *state;
    struct index_reader *other;
    uint64_t rows;
    uint64_t used;

    fixture_open(f);
    fixture_put(f, "a", 1);
    fixture_put(f, "b", 2);
    assert_int_equal(index_reader_open(f->index, &other), 0);
    assert_int_equal(index_walk(other, slice_of(NULL, 0), find_beside, f), 0);
    assert_int_equal(index_figures(f->index, &rows, &used), 0);
    assert_int_equal(rows, 2);
    index_reader_close(other);
    assert_int_equal(fixture_seen(f, slice_str("b")), 2);
    fixture_close(f);
}

/* ---- meta ---- */

static void check_meta(struct index_fixture *f, const struct index_meta *want)
{
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta got;

    assert_non_null(room);
    assert_int_equal(index_read_meta(f->index, &got, room), 0);
    assert_memory_equal(got.store_uuid, want->store_uuid, sizeof(got.store_uuid));
    assert_int_equal(got.history, want->history);
    assert_int_equal(got.seq, want->seq);
    assert_int_equal(got.segment, want->segment);
    assert_int_equal(got.offset, want->offset);
    assert_int_equal(got.live_count, want->live_count);
    assert_int_equal(got.clock, want->clock);
    assert_int_equal(stamp_compare(got.flush, want->flush), 0);
    assert_int_equal(stamp_compare(got.flush_pending, want->flush_pending), 0);
    assert_int_equal(got.flush_pending_ms, want->flush_pending_ms);
    assert_true(slice_equal(got.vectors, want->vectors));
    free(room);
}

static void the_meta_of_the_last_checkpoint_comes_back(void **state)
{
    static const size_t lengths[] = {0, 1, 100, 3000, INDEX_VECTORS_MAX, 5};
    struct index_fixture *f = *state;
    char *vectors = malloc(INDEX_VECTORS_MAX);

    assert_non_null(vectors);
    for (size_t i = 0; i < INDEX_VECTORS_MAX; i++)
        vectors[i] = (char)(i * 31);
    fixture_open(f);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct index_meta meta = {
            .store_uuid = "0123456789abcdef",
            .history = UINT64_MAX - i,
            .seq = UINT64_MAX - 1 - i,
            .segment = UINT32_MAX - (uint32_t)i,
            .offset = UINT64_MAX - 2 - i,
            .live_count = UINT64_MAX - 3 - i,
            .clock = UINT64_MAX - 4 - i,
            .flush = {UINT64_MAX - 5 - i, UINT32_MAX, UINT16_MAX},
            .flush_pending = {i, 7, 8},
            .flush_pending_ms = INT64_MIN + (int64_t)i,
            .vectors = slice_of(vectors, lengths[i]),
        };

        assert_int_equal(index_apply(f->index, NULL, 0, &meta, false), 0);
        check_meta(f, &meta);
        fixture_put(f, "k", i + 1); /* rows without a meta leave it alone */
        check_meta(f, &meta);
        fixture_close(f);
        fixture_open(f);
        check_meta(f, &meta);
    }
    fixture_close(f);
    free(vectors);
}

static void a_drop_takes_rows_but_not_what_comes_with_it(void **state)
{
    struct index_fixture *f = *state;
    struct index_meta meta = {.seq = 9};
    struct entry e = entry_numbered(4);
    struct delta_item item = {slice_str("new"), &e, 4};

    fixture_open(f);
    fixture_put(f, "old", 1);
    assert_int_equal(index_apply(f->index, &item, 1, &meta, true), 0);
    assert_int_equal(fixture_seen(f, slice_str("old")), 0);
    assert_int_equal(fixture_seen(f, slice_str("new")), 4);
    check_meta(f, &meta);
    assert_int_equal(index_apply(f->index, NULL, 0, NULL, true), 0);
    assert_int_equal(fixture_seen(f, slice_str("new")), 0);
    check_meta(f, &meta);
    fixture_close(f);
}

/* ---- large checkpoints ---- */

/* `count` sorted items with the numbers from `first` on, in steps. The keys are kept in `text`. */
static struct delta_item *numbered_items(size_t count, size_t first, size_t step, char (*text)[16],
                                         struct entry *entries)
{
    struct delta_item *items = malloc(count * sizeof(*items));

    assert_non_null(items);
    for (size_t i = 0; i < count; i++) {
        int len = snprintf(text[i], sizeof(text[i]), "key-%010zu", first + i * step);

        entries[i] = entry_numbered(first + i * step + 1);
        items[i] = (struct delta_item){slice_of(text[i], (size_t)len), &entries[i], 1};
    }
    return items;
}

static void large_checkpoints_take_several_transactions(void **state)
{
    enum { COUNT = 120000 };
    struct index_fixture *f = *state;
    char(*text)[16] = malloc(COUNT * sizeof(*text));
    struct entry *entries = malloc(COUNT * sizeof(*entries));
    struct index_meta meta = {.seq = 1};
    struct delta_item *items;
    uint64_t rows;
    uint64_t used;

    assert_non_null(text);
    assert_non_null(entries);
    fixture_open(f);
    items = numbered_items(COUNT, 0, 2, text, entries);
    assert_int_equal(index_apply(f->index, items, COUNT, &meta, false), 0);
    free(items);
    assert_int_equal(index_figures(f->index, &rows, &used), 0);
    assert_int_equal(rows, COUNT);
    assert_true(used / COUNT <= 60); /* in order: pages are full */
    items = numbered_items(COUNT, 1, 2, text, entries);
    meta.seq = 2;
    assert_int_equal(index_apply(f->index, items, COUNT, &meta, false), 0);
    free(items);
    check_meta(f, &meta);
    for (size_t i = 0; i < 2 * (size_t)COUNT; i += 997) {
        char key[16];
        int len = snprintf(key, sizeof(key), "key-%010zu", i);

        assert_int_equal(fixture_seen(f, slice_of(key, (size_t)len)), i + 1);
    }
    fixture_close(f);
    fixture_open(f);
    assert_int_equal(index_figures(f->index, &rows, &used), 0);
    assert_int_equal(rows, 2 * COUNT);
    fixture_close(f);
    free(entries);
    free(text);
}

/* ---- readers beside a checkpoint ---- */

struct race {
    struct index_fixture *f;
    _Atomic uint64_t done; /* every key has at least this number */
    _Atomic bool end;
    _Atomic unsigned faults;
};

static void *race_read(void *arg)
{
    struct race *r = arg;
    struct index_reader *reader;

    if (index_reader_open(r->f->index, &reader) != 0) {
        atomic_fetch_add(&r->faults, 1);
        return NULL;
    }
    for (unsigned turn = 0; !atomic_load(&r->end); turn++) {
        uint64_t least = atomic_load(&r->done);
        char key[16];
        int len = snprintf(key, sizeof(key), "%u", turn % 1000);
        struct entry e;
        int rc = index_find(reader, slice_of(key, (size_t)len), &e);

        if (rc == 0 ? e.base.version < least : rc != -ENOENT || least > 0)
            atomic_fetch_add(&r->faults, 1);
    }
    index_reader_close(reader);
    return NULL;
}

static void race_apply(struct index_fixture *f, uint64_t number)
{
    struct delta *d = delta_new(0);
    struct delta_item *items;
    size_t count;

    for (unsigned i = 0; i < 1000; i++) {
        char text[16];
        struct slice key = slice_of(text, (size_t)snprintf(text, sizeof(text), "%u", i));
        struct entry e = entry_numbered(number);

        assert_int_equal(delta_put(d, hash_slice(key), key, &e, number), 0);
    }
    assert_int_equal(delta_sorted(d, &items, &count), 0);
    assert_int_equal(index_apply(f->index, items, count, NULL, false), 0);
    free(items);
    delta_free(d);
}

static void readers_beside_checkpoints_see_whole_and_current_rows(void **state)
{
    struct race r = {.f = *state};
    pthread_t threads[2];

    fixture_open(r.f);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race_read, &r), 0);
    for (uint64_t number = 1; number <= 30; number++) {
        race_apply(r.f, number);
        atomic_store(&r.done, number);
    }
    atomic_store(&r.end, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&r.faults), 0);
    fixture_close(r.f);
}

/* ---- limits ---- */

static void what_is_not_a_directory_is_named_as_such(void **state)
{
    struct index_fixture *f = *state;
    char path[TEMP_DIR_MAX + 16];
    struct index *index;

    snprintf(path, sizeof(path), "%s/file", f->dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(index_open(path, 1, &index), -ENOTDIR);
    snprintf(path, sizeof(path), "%s/no/such", f->dir);
    assert_int_equal(index_open(path, 1, &index), -ENOENT);
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(index_open(f->dir, 1, &index), -EISDIR);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#define UNDER_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define UNDER_SANITIZER 0
#endif

/* In a process with little address space: 0 if the index opens with a small map, says -ENOSPC when
 * that is full in the middle of a checkpoint, keeps the position before it, and still can be read.
 */
static int fill_small_map(struct index_fixture *f)
{
    enum { COUNT = 190000 };
    static char text[COUNT][16];
    static struct entry entries[COUNT];
    struct rlimit limit = {192u << 20, 192u << 20};
    struct index_meta meta = {0};
    uint64_t used;
    uint64_t rows;
    size_t done = 0;
    int rc = 0;

    if (setrlimit(RLIMIT_AS, &limit) != 0 || index_open(f->dir, 1, &f->index) != 0)
        return 1;
    for (; rc == 0 && done < 20; done += rc == 0) {
        struct delta_item *items = numbered_items(COUNT, done * COUNT, 1, text, entries);

        meta.seq = done + 1;
        meta.live_count = (done + 1) * COUNT;
        rc = index_apply(f->index, items, COUNT, &meta, false);
        free(items);
    }
    if (rc != -ENOSPC || done == 0 || index_reader_open(f->index, &f->reader) != 0)
        return 2;
    if (index_figures(f->index, &rows, &used) != 0 || rows <= done * COUNT)
        return 3; /* the failure was to come behind the first transaction */
    meta.seq = done;
    meta.live_count = rows; /* the count goes with the rows that are in */
    check_meta(f, &meta);
    return fixture_seen(f, slice_str("key-0000000000")) == 1 ? 0 : 4;
}

static void a_limited_address_space_makes_a_smaller_map(void **state)
{
    struct index_fixture *f = *state;
    int status;
    pid_t child;

    if (UNDER_SANITIZER)
        return; /* its own memory does not fit into the limit */
    child = fork();
    if (child == 0)
        _exit(fill_small_map(f));
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    fixture_open(f); /* and with room again all of it is there */
    assert_int_equal(fixture_seen(f, slice_str("key-0000000007")), 8);
    fixture_put(f, "more", 2);
    fixture_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(an_index_is_empty_at_first_and_again_after_removal),
        fixture_test(every_field_of_an_entry_comes_back),
        cmocka_unit_test(rows_are_exactly_as_documented),
        cmocka_unit_test(rows_with_unknown_bits_are_refused),
        cmocka_unit_test(index_keys_are_as_documented),
        fixture_test(keys_of_all_lengths_are_kept_apart_and_in_order),
        cmocka_unit_test(the_order_of_keys_is_that_of_their_index_keys),
        fixture_test(a_random_run_agrees_with_a_model),
        fixture_test(a_walk_begins_at_a_key_and_ends_when_told),
        fixture_test(a_walk_back_begins_below_a_key),
        fixture_test(the_version_changes_with_every_change_only),
        fixture_test(readers_of_one_thread_do_not_disturb_each_other),
        fixture_test(the_meta_of_the_last_checkpoint_comes_back),
        fixture_test(a_drop_takes_rows_but_not_what_comes_with_it),
        fixture_test(large_checkpoints_take_several_transactions),
        fixture_test(readers_beside_checkpoints_see_whole_and_current_rows),
        fixture_test(what_is_not_a_directory_is_named_as_such),
        fixture_test(a_limited_address_space_makes_a_smaller_map),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
