/*
 * test_hash.c - XXH3-64 (base/hash.h): published values, and streams in any pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "guarded.h"

static void known_sums(void **state)
{
    (void)state;
    /* Written to disk by every version: these must never change. */
    assert_true(hash_bytes("", 0) == 0x2d06800538d394c2);
    assert_true(hash_bytes(NULL, 0) == 0x2d06800538d394c2);
    assert_true(hash_bytes("abc", 3) == 0x78af5f94892f3950);
    assert_true(hash_slice(slice_str("abc")) == 0x78af5f94892f3950);
}

static void a_stream_gives_the_sum_of_the_whole(void **state)
{
    struct hash_stream *h = hash_stream_new();
    char data[3000];

    (void)state;
    assert_non_null(h);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (char)(i * 7 + i / 256);
    for (size_t len = 0; len <= sizeof(data); len += len < 300 ? 1 : 97) {
        const char *copy = guarded_copy(data, len);
        size_t cut = len / 3;

        hash_stream_reset(h);
        hash_stream_add(h, copy, cut);
        hash_stream_add(h, NULL, 0);
        hash_stream_add(h, copy + cut, len - cut);
        assert_true(hash_stream_sum(h) == hash_bytes(copy, len));
        assert_true(hash_stream_sum(h) == hash_bytes(data, len));
    }
    hash_stream_free(h);
    hash_stream_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_sums),
        cmocka_unit_test(a_stream_gives_the_sum_of_the_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
