/*
 * test_ttbench_value.c - what ttbench stores and how it knows it again: values, lengths, keys
 * (tools/ttbench_value.h, ttbench_keys.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guarded.h"
#include "random.h"
#include "tools/ttbench_keys.h"
#include "tools/ttbench_value.h"

enum { LONG_BYTES = 200000 }; /* more than the period of the table of random bytes */

static const uint64_t key_hash = 0x1122334455667788;

static char *value_whole(uint64_t hash, uint64_t version, size_t len)
{
    struct value v;
    char *bytes = malloc(len + 1);

    assert_non_null(bytes);
    value_make(&v, hash, version, len);
    value_bytes(&v, 0, bytes, len);
    return bytes;
}

/* The verdict on `len` bytes that arrive in pieces of `step`. */
static bool passes(const char *bytes, size_t len, size_t step, uint64_t want_version)
{
    struct value_check check;

    value_check_start(&check, key_hash, want_version, len);
    for (size_t at = 0; at < len; at += step) {
        size_t n = len - at < step ? len - at : step;

        value_check_add(&check, slice_of(guarded_copy(bytes + at, n), n));
    }
    return !check.wrong;
}

static void a_value_passes_in_pieces_of_any_size(void **state)
{
    static const size_t lengths[] = {0, 1, 23, 24, 25, 100, 1024, 65521, 65522, LONG_BYTES};
    static const size_t steps[] = {1, 7, 23, 24, 25, 4096, 65521, LONG_BYTES};

    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char *bytes = value_whole(key_hash, 42, lengths[i]);

        for (size_t k = 0; k < sizeof(steps) / sizeof(steps[0]); k++) {
            if (steps[k] < 24 && lengths[i] > 1024)
                continue; /* two hundred thousand guarded pages prove nothing more */
            if (!passes(bytes, lengths[i], steps[k], VALUE_ANY_VERSION) ||
                !passes(bytes, lengths[i], steps[k], 42))
                fail_msg("%zu bytes in pieces of %zu do not pass", lengths[i], steps[k]);
        }
        free(bytes);
    }
}

static void any_part_can_be_made_alone(void **state)
{
    char *whole = value_whole(key_hash, 7, LONG_BYTES);
    struct random r = random_seeded();
    struct value v;

    (void)state;
    value_make(&v, key_hash, 7, LONG_BYTES);
    for (int i = 0; i < 300; i++) {
        size_t pos = (size_t)random_below(&r, LONG_BYTES);
        size_t n = (size_t)random_below(&r, LONG_BYTES - pos);
        char *part = malloc(n + 1);

        assert_non_null(part);
        value_bytes(&v, pos, part, n);
        assert_memory_equal(part, whole + pos, n);
        free(part);
    }
    free(whole);
}

static void every_changed_byte_is_seen(void **state)
{
    char *bytes = value_whole(key_hash, 42, 300);

    (void)state;
    for (size_t at = 0; at < 300; at++) {
        /* Another version in the head would be another value: it must not fit the body either. */
        bytes[at] = (char)(bytes[at] ^ 1);
        if (passes(bytes, 300, 300, VALUE_ANY_VERSION))
            fail_msg("a change of byte %zu goes unseen", at);
        bytes[at] = (char)(bytes[at] ^ 1);
    }
    assert_true(passes(bytes, 300, 300, VALUE_ANY_VERSION));
    free(bytes);
}

static void foreign_truncated_and_shifted_values_do_not_pass(void **state)
{
    char *foreign = value_whole(key_hash + 1, 42, 5000);
    char *own = value_whole(key_hash, 42, LONG_BYTES);

    (void)state;
    assert_false(passes(foreign, 5000, 5000, VALUE_ANY_VERSION));
    assert_false(passes(own, LONG_BYTES - 1, LONG_BYTES, VALUE_ANY_VERSION));
    assert_false(passes(own, LONG_BYTES, LONG_BYTES, 43));
    /* One page too many behind the head: the length fits, the bytes do not. */
    memmove(own + 4096, own + 8192, LONG_BYTES - 8192);
    assert_false(passes(own, LONG_BYTES, LONG_BYTES, VALUE_ANY_VERSION));
    free(foreign);
    free(own);
}

static void sizes_are_a_number_a_list_or_a_range(void **state)
{
    static const struct {
        const char *text;
        bool good;
        unsigned count;
        bool is_range;
        uint64_t first, last;
    } rows[] = {
        {"1024", true, 1, false, 1024, 1024},
        {"1k", true, 1, false, 1024, 1024},
        {"0", true, 1, false, 0, 0},
        {"1k,10k,100", true, 3, false, 1024, 100},
        {"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16", true, 16, false, 1, 16},
        {"100-2k", true, 2, true, 100, 2048},
        {"5-5", true, 2, true, 5, 5},
        {"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", false, 0, false, 0, 0},
        {"", false, 0, false, 0, 0},
        {",", false, 0, false, 0, 0},
        {"1,", false, 0, false, 0, 0},
        {"1,,2", false, 0, false, 0, 0},
        {"2k-100", false, 0, false, 0, 0},
        {"-5", false, 0, false, 0, 0},
        {"5-", false, 0, false, 0, 0},
        {"1-2-3", false, 0, false, 0, 0},
        {"1k ", false, 0, false, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct value_sizes got;
        size_t len = strlen(rows[i].text);
        bool good = value_sizes_parse(slice_of(guarded_copy(rows[i].text, len), len), &got);

        if (good != rows[i].good)
            fail_msg("\"%s\": taken %d", rows[i].text, good);
        if (!good)
            continue;
        if (got.count != rows[i].count || got.is_range != rows[i].is_range ||
            got.size[0] != rows[i].first || got.size[got.count - 1] != rows[i].last)
            fail_msg("\"%s\": %u sizes, %llu to %llu", rows[i].text, got.count,
                     (unsigned long long)got.size[0], (unsigned long long)got.size[got.count - 1]);
    }
}

static void lengths_of_a_range_reach_both_ends_and_stay_inside(void **state)
{
    struct value_sizes sizes;
    bool lowest = false, highest = false;

    (void)state;
    assert_true(value_sizes_parse(slice_str("10-19"), &sizes));
    for (uint64_t version = 0; version < 1000; version++) {
        uint64_t len = value_sizes_pick(&sizes, key_hash, version);

        assert_in_range(len, 10, 19);
        assert_int_equal(len, value_sizes_pick(&sizes, key_hash, version));
        lowest = lowest || len == 10;
        highest = highest || len == 19;
    }
    assert_true(lowest && highest);
    assert_int_equal(value_sizes_max(&sizes), 19);
}

static void keys_have_one_length_and_leading_zeros(void **state)
{
    struct key_space space;
    char out[KEY_BYTES_MAX];

    (void)state;
    assert_true(key_space_init(&space, slice_str("k:"), 6, 10000));
    assert_true(slice_is(key_text(&space, 0, out), "k:0000"));
    assert_true(slice_is(key_text(&space, 42, out), "k:0042"));
    assert_true(slice_is(key_text(&space, 9999, out), "k:9999"));
    assert_false(key_space_init(&space, slice_str("k:"), 6, 10001));
    assert_false(key_space_init(&space, slice_str("k:"), 1, 1));
    assert_false(key_space_init(&space, slice_str("k:"), KEY_BYTES_MAX + 1, 1));
    assert_true(key_space_init(&space, slice_str("key-"), 0, 100));
    assert_true(slice_is(key_text(&space, 99, out), "key-0000000099"));
}

enum { KEYS = 1000, DRAWS = 200000 };

/* How often each key comes. */
static unsigned *draw_keys(enum key_distribution distribution, uint64_t seed)
{
    unsigned *times = calloc(KEYS, sizeof(*times));
    struct key_picker p;

    assert_non_null(times);
    key_picker_init(&p, distribution, KEYS, 0.99, seed, 0, 1);
    for (int i = 0; i < DRAWS; i++) {
        uint64_t id = key_pick(&p);

        assert_in_range(id, 0, KEYS - 1);
        times[id]++;
    }
    return times;
}

static int compare_down(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? 1 : -(x > y);
}

static void uniform_keys_come_equally_often(void **state)
{
    unsigned *times = draw_keys(KEYS_UNIFORM, 1);

    (void)state;
    for (int i = 0; i < KEYS; i++)
        assert_in_range(times[i], 120, 280); /* 200 expected, standard deviation 14 */
    free(times);
}

/* The exact shares for exponent 0.99 and 1000 keys: the sum of r^-0.99 is 7.728. */
static void zipf_keys_follow_their_law(void **state)
{
    unsigned *times = draw_keys(KEYS_ZIPF, 1);

    (void)state;
    qsort(times, KEYS, sizeof(*times), compare_down);
    assert_in_range(times[0], DRAWS * 0.1254, DRAWS * 0.1334);  /* 0.1294 */
    assert_in_range(times[1], DRAWS * 0.0622, DRAWS * 0.0682);  /* 0.0652 */
    assert_in_range(times[9], DRAWS * 0.0120, DRAWS * 0.0145);  /* 0.0132 */
    assert_in_range(times[99], DRAWS * 0.0011, DRAWS * 0.0017); /* 0.0014 */
    free(times);
}

static void sequential_pickers_take_turns(void **state)
{
    struct key_picker a, b;

    (void)state;
    key_picker_init(&a, KEYS_SEQUENTIAL, 5, 1, 0, 0, 2);
    key_picker_init(&b, KEYS_SEQUENTIAL, 5, 1, 0, 1, 2);
    assert_int_equal(key_pick(&a), 0);
    assert_int_equal(key_pick(&b), 1);
    assert_int_equal(key_pick(&a), 2);
    assert_int_equal(key_pick(&b), 3);
    assert_int_equal(key_pick(&a), 4);
    assert_int_equal(key_pick(&a), 1);
}

static void a_seed_repeats_its_keys_and_another_does_not(void **state)
{
    unsigned *one = draw_keys(KEYS_UNIFORM, 11);
    unsigned *again = draw_keys(KEYS_UNIFORM, 11);
    unsigned *other = draw_keys(KEYS_UNIFORM, 12);

    (void)state;
    assert_memory_equal(one, again, KEYS * sizeof(*one));
    assert_memory_not_equal(one, other, KEYS * sizeof(*one));
    free(one);
    free(again);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_passes_in_pieces_of_any_size),
        cmocka_unit_test(any_part_can_be_made_alone),
        cmocka_unit_test(every_changed_byte_is_seen),
        cmocka_unit_test(foreign_truncated_and_shifted_values_do_not_pass),
        cmocka_unit_test(sizes_are_a_number_a_list_or_a_range),
        cmocka_unit_test(lengths_of_a_range_reach_both_ends_and_stay_inside),
        cmocka_unit_test(keys_have_one_length_and_leading_zeros),
        cmocka_unit_test(uniform_keys_come_equally_often),
        cmocka_unit_test(zipf_keys_follow_their_law),
        cmocka_unit_test(sequential_pickers_take_turns),
        cmocka_unit_test(a_seed_repeats_its_keys_and_another_does_not),
    };

    value_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
