/*
 * test_buf.c - the growing byte buffer (base/buf.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>

#include "base/buf.h"

static void an_empty_buffer_is_an_empty_slice(void **state)
{
    struct buf b = {0};

    (void)state;
    assert_int_equal(buf_slice(&b).len, 0);
    assert_int_equal(buf_add(&b, NULL, 0), 0);
    assert_int_equal(b.len, 0);
    buf_free(&b);
    buf_free(&b);
}

static void pieces_of_any_size_stay_in_order(void **state)
{
    struct buf b = {0};
    size_t at = 0;

    (void)state;
    for (size_t n = 0; n < 300; n++) {
        char piece[300];

        memset(piece, (int)(n & 0xff), n);
        assert_int_equal(buf_add_slice(&b, slice_of(piece, n)), 0);
    }
    assert_int_equal(b.len, 299 * 300 / 2);
    for (size_t n = 0; n < 300; n++)
        for (size_t i = 0; i < n; i++)
            assert_int_equal((unsigned char)b.data[at++], n & 0xff);
    buf_free(&b);
    assert_null(b.data);
    assert_int_equal(b.cap, 0);
}

static void reserved_room_is_not_moved_again(void **state)
{
    struct buf b = {0};
    char *data;

    (void)state;
    assert_int_equal(buf_reserve(&b, 5000), 0);
    assert_int_equal(b.len, 0);
    assert_true(b.cap >= 5000);
    data = b.data;
    for (int i = 0; i < 50; i++) {
        char piece[100] = {0};

        assert_int_equal(buf_add(&b, piece, sizeof(piece)), 0);
    }
    assert_ptr_equal(b.data, data);
    buf_free(&b);
}

static void printing_appends_text_of_any_length(void **state)
{
    struct buf b = {0};
    char expected[2000];

    (void)state;
    memset(expected, 'x', sizeof(expected) - 1);
    expected[sizeof(expected) - 1] = '\0';
    assert_int_equal(buf_printf(&b, "%s", ""), 0);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_printf(&b, "%d-%s;", 42, "ab"), 0);
    assert_int_equal(buf_printf(&b, "%s", expected), 0);
    assert_int_equal(b.len, 6 + sizeof(expected) - 1);
    assert_memory_equal(b.data, "42-ab;", 6);
    assert_memory_equal(b.data + 6, expected, sizeof(expected) - 1);
    buf_free(&b);
}

static void too_much_is_refused_and_the_contents_stay(void **state)
{
    struct buf b = {0};

    (void)state;
    assert_int_equal(buf_add(&b, "kept", 4), 0);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), -ENOMEM);
    assert_int_equal(buf_reserve(&b, SIZE_MAX - 4), -ENOMEM);
    assert_int_equal(buf_reserve(&b, PTRDIFF_MAX), -ENOMEM);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "kept", 4);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_buffer_is_an_empty_slice),
        cmocka_unit_test(pieces_of_any_size_stay_in_order),
        cmocka_unit_test(reserved_room_is_not_moved_again),
        cmocka_unit_test(printing_appends_text_of_any_length),
        cmocka_unit_test(too_much_is_refused_and_the_contents_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
