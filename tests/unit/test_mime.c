/*
 * test_mime.c - the content type that a key's extension stands for (proto/mime.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guarded.h"
#include "proto/mime.c" /* the order of its table is tested too */

#define UNKNOWN "application/octet-stream"

static void the_table_is_sorted_and_lower_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(mime_rows) / sizeof(mime_rows[0]); i++) {
        const char *extension = mime_rows[i].extension;

        if (i > 0 && strcmp(mime_rows[i - 1].extension, extension) >= 0)
            fail_msg("%s must stand before %s", extension, mime_rows[i - 1].extension);
        assert_true(strlen(extension) <= EXTENSION_MAX);
        assert_int_equal(strcspn(extension, "ABCDEFGHIJKLMNOPQRSTUVWXYZ."), strlen(extension));
    }
}

static void every_row_is_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(mime_rows) / sizeof(mime_rows[0]); i++) {
        char key[2 * EXTENSION_MAX];
        int len = snprintf(key, sizeof(key), "a.%s", mime_rows[i].extension);

        if (!slice_is(mime_of_key(slice_of(key, (size_t)len)), mime_rows[i].type))
            fail_msg("%s", key);
    }
}

static void the_last_extension_counts_in_either_case(void **state)
{
    static const struct {
        const char *key;
        size_t len;
        const char *type;
    } rows[] = {
#define ROW(key, type) {key, sizeof(key) - 1, type}
        ROW("a.jpg", "image/jpeg"),
        ROW("a.JPG", "image/jpeg"),
        ROW("a.JpEg", "image/jpeg"),
        ROW("dir/a.png", "image/png"),
        ROW("x.tar.gz", "application/gzip"),
        ROW(".gif", "image/gif"),
        ROW("a.webp", "image/webp"),
        ROW("a.svg", "image/svg+xml"),
        ROW("a.bmp", "image/bmp"),
        ROW("a.ico", "image/vnd.microsoft.icon"),
        ROW("a.avif", "image/avif"),
        ROW("a.css", "text/css"),
        ROW("a.js", "text/javascript"),
        ROW("a.json", "application/json"),
        ROW("a.html", "text/html"),
        ROW("a.txt", "text/plain"),
        ROW("a.pdf", "application/pdf"),
        ROW("a.mp4", "video/mp4"),
        ROW("a.woff2", "font/woff2"),
        ROW("a\0b.png", "image/png"),
        ROW("", UNKNOWN),
        ROW(".", UNKNOWN),
        ROW("png", UNKNOWN),
        ROW("a.", UNKNOWN),
        ROW("a.png/", UNKNOWN),
        ROW("a.png/b", UNKNOWN),
        ROW("a.pngx", UNKNOWN),
        ROW("a.png\0", UNKNOWN),
        ROW("a.pn\0", UNKNOWN),
        ROW("a.webmanifest", "application/manifest+json"),
        ROW("a.webmanifests", UNKNOWN),
        ROW("a.jpgjpgjpgjpgjpg", UNKNOWN),
        ROW("a.\xff\xfe", UNKNOWN),
#undef ROW
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct slice key = slice_of(guarded_copy(rows[i].key, rows[i].len), rows[i].len);
        struct slice got = mime_of_key(key);

        if (!slice_is(got, rows[i].type))
            fail_msg("%s: got %.*s, expected %s", rows[i].key, (int)got.len, got.ptr, rows[i].type);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_sorted_and_lower_case),
        cmocka_unit_test(every_row_is_found),
        cmocka_unit_test(the_last_extension_counts_in_either_case),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
