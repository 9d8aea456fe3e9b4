/*
 * test_num.c - integers from input and their printing (base/num.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/num.h"
#include "guarded.h"

/* Text with a length of its own, so that NUL can be in it. */
#define TEXT(literal) .text = (literal), .len = sizeof(literal) - 1

struct number_case {
    const char *text;
    size_t len;
    bool good;
    uint64_t value; /* of a good one; an i64 as its two's complement */
};

static struct slice guarded(const struct number_case *c)
{
    return slice_of(guarded_copy(c->text, c->len), c->len);
}

/* The parser's answer to every row; a refused text must leave *out alone. */
#define CHECK_ROWS(rows, type, parse)                                                              \
    do {                                                                                           \
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {                              \
            type got = (type)77;                                                                   \
            bool good = parse(guarded(&rows[i]), &got);                                            \
                                                                                                   \
            if (good != rows[i].good || got != (good ? (type)rows[i].value : (type)77))            \
                fail_msg("%s(\"%s\"): got %d, %lld", #parse, rows[i].text, good, (long long)got);  \
        }                                                                                          \
    } while (0)

static void u64_takes_digits_only_up_to_its_maximum(void **state)
{
    static const struct number_case rows[] = {
        {TEXT("0"), true, 0},
        {TEXT("7"), true, 7},
        {TEXT("007"), true, 7},
        {TEXT("4294967296"), true, 4294967296},
        {TEXT("18446744073709551615"), true, UINT64_MAX},
        {TEXT("00000000000000000000000000000018446744073709551615"), true, UINT64_MAX},
        {TEXT("18446744073709551616"), false, 0},
        {TEXT("18446744073709551620"), false, 0},
        {TEXT("99999999999999999999"), false, 0},
        {TEXT("184467440737095516150"), false, 0},
        {TEXT(""), false, 0},
        {TEXT("-1"), false, 0},
        {TEXT("-0"), false, 0},
        {TEXT("+1"), false, 0},
        {TEXT(" 1"), false, 0},
        {TEXT("1 "), false, 0},
        {TEXT("1\0"), false, 0},
        {TEXT("1\n"), false, 0},
        {TEXT("0x1"), false, 0},
        {TEXT("1.0"), false, 0},
        {TEXT("1e3"), false, 0},
        {TEXT("/"), false, 0},
        {TEXT(":"), false, 0},
        {TEXT("\xb1"), false, 0},
    };

    (void)state;
    CHECK_ROWS(rows, uint64_t, parse_u64);
}

static void u32_ends_at_its_maximum(void **state)
{
    static const struct number_case rows[] = {
        {TEXT("0"), true, 0},
        {TEXT("4294967295"), true, UINT32_MAX},
        {TEXT("4294967296"), false, 0},
        {TEXT("18446744073709551615"), false, 0},
        {TEXT("18446744073709551616"), false, 0},
        {TEXT("-1"), false, 0},
        {TEXT(""), false, 0},
    };

    (void)state;
    CHECK_ROWS(rows, uint32_t, parse_u32);
}

static void i64_takes_one_minus(void **state)
{
    static const struct number_case rows[] = {
        {TEXT("0"), true, 0},
        {TEXT("-0"), true, 0},
        {TEXT("-1"), true, UINT64_MAX},
        {TEXT("9223372036854775807"), true, INT64_MAX},
        {TEXT("9223372036854775808"), false, 0},
        {TEXT("-9223372036854775808"), true, (uint64_t)INT64_MAX + 1},
        {TEXT("-9223372036854775809"), false, 0},
        {TEXT("-18446744073709551615"), false, 0},
        {TEXT("--1"), false, 0},
        {TEXT("-"), false, 0},
        {TEXT("- 1"), false, 0},
        {TEXT("+1"), false, 0},
        {TEXT(""), false, 0},
    };

    (void)state;
    CHECK_ROWS(rows, int64_t, parse_i64);
}

static void hex_takes_sixteen_digits_of_either_case(void **state)
{
    static const struct number_case rows[] = {
        {TEXT("0"), true, 0},
        {TEXT("9aF"), true, 0x9af},
        {TEXT("ffffffffffffffff"), true, UINT64_MAX},
        {TEXT("FFFFFFFFFFFFFFFF"), true, UINT64_MAX},
        {TEXT("00000000000000001"), false, 0},
        {TEXT("g"), false, 0},
        {TEXT("@"), false, 0},
        {TEXT("`"), false, 0},
        {TEXT("0x1"), false, 0},
        {TEXT(""), false, 0},
    };

    (void)state;
    CHECK_ROWS(rows, uint64_t, parse_hex_u64);
}

static void sizes_take_one_unit(void **state)
{
    static const struct number_case rows[] = {
        {TEXT("0"), true, 0},
        {TEXT("1"), true, 1},
        {TEXT("4k"), true, 4096},
        {TEXT("4K"), true, 4096},
        {TEXT("64m"), true, 64 << 20},
        {TEXT("64M"), true, 64 << 20},
        {TEXT("2g"), true, 2147483648},
        {TEXT("2G"), true, 2147483648},
        {TEXT("1t"), true, 1099511627776},
        {TEXT("1T"), true, 1099511627776},
        {TEXT("18014398509481983k"), true, 18446744073709550592u},
        {TEXT("18014398509481984k"), false, 0},
        {TEXT("16777216t"), false, 0},
        {TEXT("18446744073709551615"), true, UINT64_MAX},
        {TEXT("k"), false, 0},
        {TEXT(""), false, 0},
        {TEXT("1kk"), false, 0},
        {TEXT("1b"), false, 0},
        {TEXT("1 k"), false, 0},
        {TEXT("-1k"), false, 0},
        {TEXT("1.5m"), false, 0},
    };

    (void)state;
    CHECK_ROWS(rows, uint64_t, parse_size);
}

static void printing_is_read_back(void **state)
{
    static const uint64_t values[] = {
        0,          1, 9, 10, 99, 100, 4294967295, 4294967296, INT64_MAX, (uint64_t)INT64_MAX + 1,
        UINT64_MAX,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        char text[NUM_TEXT_MAX];
        char expected[32];
        uint64_t u = 0;
        int64_t s = 0;
        size_t len = format_u64(text, values[i]);

        snprintf(expected, sizeof(expected), "%llu", (unsigned long long)values[i]);
        assert_int_equal(len, strlen(expected));
        assert_memory_equal(text, expected, len);
        assert_true(parse_u64(slice_of(text, len), &u));
        assert_true(u == values[i]);

        len = format_i64(text, (int64_t)values[i]);
        snprintf(expected, sizeof(expected), "%lld", (long long)values[i]);
        assert_int_equal(len, strlen(expected));
        assert_memory_equal(text, expected, len);
        assert_true(parse_i64(slice_of(text, len), &s));
        assert_true(s == (int64_t)values[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(u64_takes_digits_only_up_to_its_maximum),
        cmocka_unit_test(u32_ends_at_its_maximum),
        cmocka_unit_test(i64_takes_one_minus),
        cmocka_unit_test(hex_takes_sixteen_digits_of_either_case),
        cmocka_unit_test(sizes_take_one_unit),
        cmocka_unit_test(printing_is_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
