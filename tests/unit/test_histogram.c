/*
 * test_histogram.c - ttbench's latency histogram (tools/ttbench_hist.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"
#include "tools/ttbench_hist.h"

static struct hist *hist_new(void)
{
    struct hist *h = calloc(1, sizeof(*h));

    assert_non_null(h);
    return h;
}

static void an_empty_histogram_answers_zero(void **state)
{
    struct hist *h = hist_new();

    (void)state;
    assert_int_equal(hist_quantile(h, 0.5), 0);
    assert_int_equal(hist_quantile(h, 1.0), 0);
    assert_true(hist_mean(h) == 0.0);
    free(h);
}

static void small_values_are_kept_exactly(void **state)
{
    struct hist *h = hist_new();

    (void)state;
    for (uint64_t v = 1; v <= 200; v++)
        hist_add(h, v);
    assert_int_equal(hist_quantile(h, 0.0), 1);
    assert_int_equal(hist_quantile(h, 0.005), 1);
    assert_int_equal(hist_quantile(h, 0.0051), 2);
    assert_int_equal(hist_quantile(h, 0.5), 100);
    assert_int_equal(hist_quantile(h, 0.99), 198);
    assert_int_equal(hist_quantile(h, 1.0), 200);
    assert_true(hist_mean(h) == 100.5);
    free(h);
}

/* One value of each size next to a larger one: the maximum must not hide the bucket's bound. */
static void a_quantile_is_never_below_and_at_most_one_part_in_128_above(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < HIST_VALUE_BITS; bit++) {
        for (int around = -1; around <= 1; around++) {
            uint64_t value = ((uint64_t)1 << bit) + (uint64_t)(int64_t)around;
            struct hist *h = hist_new();
            uint64_t got;

            hist_add(h, value);
            hist_add(h, UINT64_MAX);
            got = hist_quantile(h, 0.5);
            if (got < value || got - value > value / 128)
                fail_msg("value %llu comes back as %llu", (unsigned long long)value,
                         (unsigned long long)got);
            assert_true(h->max == UINT64_MAX);
            free(h);
        }
    }
}

static void values_beyond_the_range_are_counted_and_the_maximum_is_exact(void **state)
{
    struct hist *h = hist_new();

    (void)state;
    hist_add(h, 5);
    hist_add(h, (uint64_t)1 << HIST_VALUE_BITS);
    hist_add(h, ((uint64_t)1 << 50) + 3);
    assert_int_equal(h->count, 3);
    assert_int_equal(hist_quantile(h, 0.3), 5);
    assert_true(hist_quantile(h, 1.0) == ((uint64_t)1 << 50) + 3);
    free(h);
}

static void a_quantile_never_exceeds_the_maximum(void **state)
{
    struct hist *h = hist_new();

    (void)state;
    hist_add(h, 1000001); /* not the upper end of its bucket */
    assert_int_equal(hist_quantile(h, 0.5), 1000001);
    assert_int_equal(hist_quantile(h, 1.0), 1000001);
    free(h);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

enum { RANDOM_VALUES = 20000 };

static void fill_random(uint64_t *values, struct hist *whole, struct hist parts[2])
{
    struct random r = random_seeded();

    for (size_t i = 0; i < RANDOM_VALUES; i++) {
        values[i] = random_u64(&r) >> (24 + random_below(&r, 40));
        hist_add(whole, values[i]);
        hist_add(&parts[i % 2], values[i]);
    }
    qsort(values, RANDOM_VALUES, sizeof(*values), compare_u64);
}

static void quantiles_of_merged_histograms_agree_with_sorting(void **state)
{
    static const double quantiles[] = {0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0};
    uint64_t *values = calloc(RANDOM_VALUES, sizeof(*values));
    struct hist *whole = hist_new();
    struct hist *parts = calloc(2, sizeof(*parts));

    (void)state;
    assert_non_null(values);
    assert_non_null(parts);
    fill_random(values, whole, parts);
    hist_merge(&parts[0], &parts[1]);
    assert_memory_equal(&parts[0], whole, sizeof(*whole));
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        size_t rank = (size_t)(quantiles[i] * RANDOM_VALUES + 0.5);
        uint64_t exact = values[rank - 1];
        uint64_t got = hist_quantile(whole, quantiles[i]);

        if (got < exact || got - exact > exact / 128)
            fail_msg("quantile %f: %llu, sorted %llu", quantiles[i], (unsigned long long)got,
                     (unsigned long long)exact);
    }
    free(values);
    free(whole);
    free(parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_histogram_answers_zero),
        cmocka_unit_test(small_values_are_kept_exactly),
        cmocka_unit_test(a_quantile_is_never_below_and_at_most_one_part_in_128_above),
        cmocka_unit_test(values_beyond_the_range_are_counted_and_the_maximum_is_exact),
        cmocka_unit_test(a_quantile_never_exceeds_the_maximum),
        cmocka_unit_test(quantiles_of_merged_histograms_agree_with_sorting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
