/*
 * test_command.c - what requests do to records (command/command.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "command/command.h"

#define NOW_MS INT64_C(1700000000123)

static void exptimes_become_absolute(void **state)
{
    static const struct {
        int64_t exptime;
        int64_t expires_ms;
    } rows[] = {
        {0, 0},
        {1, NOW_MS + 1000},
        {2592000, NOW_MS + INT64_C(2592000000)},
        {2592001, INT64_C(2592001000)},
        {1700000001, INT64_C(1700000001000)},
        {-1, 1},
        {INT64_MIN, 1},
        {INT64_MAX / 1000, INT64_MAX / 1000 * 1000},
        {INT64_MAX, INT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int64_t got = command_expires_ms(rows[i].exptime, NOW_MS);

        if (got != rows[i].expires_ms)
            fail_msg("%lld: got %lld", (long long)rows[i].exptime, (long long)got);
    }
}

static void flushes_of_the_past_are_now(void **state)
{
    (void)state;
    assert_int_equal(command_flush_at_ms(0, NOW_MS), 0);
    assert_int_equal(command_flush_at_ms(-5, NOW_MS), 0);
    assert_int_equal(command_flush_at_ms(1699999999, NOW_MS), 0);
    assert_int_equal(command_flush_at_ms(5, NOW_MS), NOW_MS + 5000);
    assert_int_equal(command_flush_at_ms(1700000010, NOW_MS), INT64_C(1700000010000));
}

/* A record with up to two slots. */
static struct record record_of(const char *value, unsigned slots, int64_t first, int64_t second)
{
    struct record r = {.kind = slots > 0 ? RECORD_COUNTER : RECORD_PUT,
                       .flags = 77,
                       .expires_ms = NOW_MS + 5000,
                       .value = slice_str(value),
                       .attrs = slice_of("\x01\x03\x00"
                                         "a/b",
                                         6)};

    r.slot_count = slots;
    r.slots[0].sum = first;
    r.slots[1].sum = second;
    return r;
}

static void a_counter_shows_its_sum(void **state)
{
    static const struct {
        const char *base;
        unsigned slots;
        int64_t first;
        int64_t second;
        const char *shown;
    } rows[] = {
        {"12", 0, 0, 0, "12"},
        {" 12 ", 0, 0, 0, " 12 "},
        {"text", 0, 0, 0, "text"},
        {"", 0, 0, 0, ""},
        {"12", 1, 5, 0, "17"},
        {" 12 ", 1, 0, 0, "12"},
        {"12", 2, 5, -20, "0"},
        {"10", 2, INT64_MAX, INT64_MIN, "9"},
        {"18446744073709551615", 1, 1, 0, "0"},
        {"18446744073709551615", 2, INT64_MAX, INT64_MAX, "18446744073709551613"},
        {"18446744073709551615", 1, -1, 0, "18446744073709551614"},
        {"0", 2, INT64_MIN, INT64_MIN, "0"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct record r = record_of(rows[i].base, rows[i].slots, rows[i].first, rows[i].second);
        char text[NUM_TEXT_MAX];
        struct slice got = command_shown_value(&r, text);

        if (!slice_is(got, rows[i].shown))
            fail_msg("row %zu: %.*s, not %s", i, (int)got.len, got.ptr, rows[i].shown);
    }
}

struct change_case {
    const char *base;
    unsigned slots;
    int64_t first;
    int64_t second;
    uint64_t delta;
    enum store_status status;
    uint64_t reply;
    const char *put; /* the new base; NULL: a change of the slot */
    int64_t change;
};

static void check_change(const struct change_case *c, store_compute *compute)
{
    struct record now = record_of(c->base, c->slots, c->first, c->second);
    struct store_write w = {.argument = {c->delta}};
    struct store_change change = {.kind = CHANGE_NONE};
    enum store_status status = compute(&w, &now, &change);

    if (status != c->status || (status == STORE_OK && w.reply != c->reply))
        fail_msg("\"%s\" by %llu: status %d, %llu", c->base, (unsigned long long)c->delta, status,
                 (unsigned long long)w.reply);
    if (status != STORE_OK) {
        assert_int_equal(change.kind, CHANGE_NONE);
    } else if (c->put == NULL) {
        assert_int_equal(change.kind, CHANGE_COUNTER);
        assert_int_equal(change.delta, c->change);
    } else {
        assert_int_equal(change.kind, CHANGE_PUT);
        assert_true(slice_is(change.pieces[0], c->put));
        assert_int_equal(change.pieces[1].len, 0);
        assert_int_equal(change.flags, 77);
        assert_int_equal(change.expires_ms, now.expires_ms);
        assert_true(slice_equal(change.attrs, now.attrs));
    }
}

static void incr_adds_and_wraps(void **state)
{
    static const struct change_case rows[] = {
        {"10", 0, 0, 0, 5, STORE_OK, 15, NULL, 5},
        {"10", 0, 0, 0, 0, STORE_OK, 10, NULL, 0},
        {" 12", 0, 0, 0, 1, STORE_OK, 13, NULL, 1},
        {"12 ", 0, 0, 0, 1, STORE_OK, 13, NULL, 1},
        {"00012", 0, 0, 0, 1, STORE_OK, 13, NULL, 1},
        {"10", 2, 3, -4, 5, STORE_OK, 14, NULL, 5},
        {"10", 1, -15, 0, 3, STORE_OK, 0, NULL, 3}, /* a debt is paid first */
        {"18446744073709551614", 0, 0, 0, 1, STORE_OK, UINT64_MAX, NULL, 1},
        {"18446744073709551615", 0, 0, 0, 1, STORE_OK, 0, "0", 0},
        {"18446744073709551615", 0, 0, 0, UINT64_MAX, STORE_OK, UINT64_MAX - 1,
         "18446744073709551614", 0},
        {"0", 0, 0, 0, UINT64_MAX, STORE_OK, UINT64_MAX, "18446744073709551615", 0},
        {"0", 0, 0, 0, INT64_MAX, STORE_OK, INT64_MAX, NULL, INT64_MAX},
        {"0", 1, 1, 0, INT64_MAX, STORE_OK, (uint64_t)INT64_MAX + 1, "9223372036854775808", 0},
        {"x", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"1x2", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"1 2", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"-1", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"   ", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"18446744073709551616", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
        {"000000000000000000012", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_change(&rows[i], command_incr);
}

static void decr_stops_at_zero(void **state)
{
    static const struct change_case rows[] = {
        {"10", 0, 0, 0, 1, STORE_OK, 9, NULL, -1},
        {"10", 0, 0, 0, 10, STORE_OK, 0, NULL, -10},
        {"10", 0, 0, 0, 11, STORE_OK, 0, NULL, -10},
        {"10", 0, 0, 0, UINT64_MAX, STORE_OK, 0, NULL, -10},
        {"10", 1, 5, 0, 12, STORE_OK, 3, NULL, -12},
        {"10", 1, -15, 0, 3, STORE_OK, 0, NULL, 0}, /* a debt does not grow */
        {"18446744073709551615", 0, 0, 0, 1, STORE_OK, UINT64_MAX - 1, NULL, -1},
        {"18446744073709551615", 0, 0, 0, UINT64_MAX, STORE_OK, 0, "0", 0},
        {"18446744073709551615", 1, 3, 0, 1, STORE_OK, 1, NULL, -1}, /* shown 2 */
        {"18446744073709551615", 1, INT64_MIN, 0, 1, STORE_OK, INT64_MAX - 1, "9223372036854775806",
         0},
        {"x", 0, 0, 0, 1, STORE_BAD_VALUE, 0, NULL, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_change(&rows[i], command_decr);
}

static void nothing_is_made_of_an_absent_key(void **state)
{
    struct store_write w = {.argument = {1}};
    struct store_change change = {.kind = CHANGE_NONE};

    (void)state;
    assert_int_equal(command_incr(&w, NULL, &change), STORE_NOT_FOUND);
    assert_int_equal(command_decr(&w, NULL, &change), STORE_NOT_FOUND);
    assert_int_equal(command_append(&w, NULL, &change), STORE_NOT_STORED);
    assert_int_equal(command_prepend(&w, NULL, &change), STORE_NOT_STORED);
    assert_int_equal(change.kind, CHANGE_NONE);
}

static void a_value_that_stayed_in_its_file_is_no_number_and_is_joined_there(void **state)
{
    struct record now = record_of("", 0, 0, 0);
    char value[] = "xyz";
    struct store_write w = {.argument = {1 << 21}, .value = value, .value_len = 3};
    struct store_change change = {.kind = CHANGE_NONE};

    (void)state;
    now.big_bytes = (1 << 21) - 2;
    assert_int_equal(command_incr(&w, &now, &change), STORE_BAD_VALUE);
    assert_int_equal(command_append(&w, &now, &change), STORE_TOO_LARGE);
    assert_int_equal(change.kind, CHANGE_NONE);
    now.big_bytes--;
    assert_int_equal(command_append(&w, &now, &change), STORE_OK);
    assert_int_equal(change.kind, CHANGE_EXTEND);
    assert_int_equal(change.pieces[0].len, 0);
    assert_true(slice_is(change.pieces[1], "xyz"));
    assert_int_equal(command_prepend(&w, &now, &change), STORE_OK);
    assert_true(slice_is(change.pieces[0], "xyz"));
}

/* What append or prepend makes of a record; NULL: refused as too large. */
static void check_join(store_compute *compute, const struct record *now, const char *added,
                       uint64_t most, const char *expected)
{
    char value[64];
    struct store_write w = {.argument = {most}, .value = value, .value_len = strlen(added)};
    struct store_change change = {.kind = CHANGE_NONE};
    struct slice middle = slice_str("");
    enum store_status status;
    char joined[128];
    int n;

    memcpy(value, added, strlen(added));
    status = compute(&w, now, &change);
    if (expected == NULL) {
        assert_int_equal(status, STORE_TOO_LARGE);
        assert_int_equal(change.kind, CHANGE_NONE);
        return;
    }
    assert_int_equal(status, STORE_OK);
    /* A counter shows another text than is stored: that is put in its place. */
    assert_int_equal(change.kind, now->kind == RECORD_COUNTER ? CHANGE_PUT : CHANGE_EXTEND);
    if (change.kind == CHANGE_EXTEND)
        middle = now->value;
    assert_int_equal(change.flags, 77);
    assert_int_equal(change.expires_ms, now->expires_ms);
    assert_true(slice_equal(change.attrs, now->attrs));
    n = snprintf(joined, sizeof(joined), "%.*s%.*s%.*s", (int)change.pieces[0].len,
                 change.pieces[0].ptr, (int)middle.len, middle.ptr, (int)change.pieces[1].len,
                 change.pieces[1].ptr);
    assert_true(slice_is(slice_of(joined, (size_t)n), expected));
}

static void append_and_prepend_keep_the_rest(void **state)
{
    struct record text = record_of("abc", 0, 0, 0);
    struct record counter = record_of("10", 1, 5, 0);

    (void)state;
    check_join(command_append, &text, "de", 5, "abcde");
    check_join(command_prepend, &text, "de", 5, "deabc");
    check_join(command_append, &text, "", 5, "abc");
    check_join(command_append, &text, "def", 5, NULL);
    check_join(command_prepend, &text, "def", 5, NULL);
    check_join(command_append, &counter, "0", 5, "150");
    check_join(command_prepend, &counter, "1", 5, "115");
}

static void a_new_value_drops_the_cas_that_a_client_chose(void **state)
{
    char attrs[64];
    size_t kept = attr_put(attrs, ATTR_CONTENT_TYPE, slice_str("text/plain"));
    size_t all = kept + attr_put(attrs + kept, ATTR_CLIENT_CAS, slice_of("\x07\0\0\0\0\0\0\0", 8));
    struct record now = record_of("abc", 0, 0, 0);
    struct store_write w = {.argument = {100}, .value = attrs};
    struct store_change change;

    (void)state;
    now.attrs = slice_of(attrs, all);
    assert_int_equal(command_append(&w, &now, &change), STORE_OK);
    assert_true(slice_equal(change.attrs, slice_of(attrs, kept)));
    now.attrs = slice_of(attrs + kept, all - kept);
    assert_int_equal(command_append(&w, &now, &change), STORE_OK);
    assert_int_equal(change.attrs.len, 0);
    now.attrs = slice_of(NULL, 0);
    assert_int_equal(command_append(&w, &now, &change), STORE_OK);
    assert_int_equal(change.attrs.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exptimes_become_absolute),
        cmocka_unit_test(flushes_of_the_past_are_now),
        cmocka_unit_test(a_counter_shows_its_sum),
        cmocka_unit_test(incr_adds_and_wraps),
        cmocka_unit_test(decr_stops_at_zero),
        cmocka_unit_test(nothing_is_made_of_an_absent_key),
        cmocka_unit_test(a_value_that_stayed_in_its_file_is_no_number_and_is_joined_there),
        cmocka_unit_test(append_and_prepend_keep_the_rest),
        cmocka_unit_test(a_new_value_drops_the_cas_that_a_client_chose),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
