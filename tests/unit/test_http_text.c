/*
 * test_http_text.c - keys, entity tags, dates and reply heads (proto/http_text.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "guarded.h"
#include "proto/http.h"
#include "random.h"

#define TEXT(literal) (literal), sizeof(literal) - 1
#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

static struct slice guarded(struct slice text)
{
    return slice_of(guarded_copy(text.ptr, text.len), text.len);
}

/* ---- keys ---- */

static void paths_name_keys(void **state)
{
    static const struct {
        const char *path;
        const char *key;
        size_t len;
        unsigned status;
    } rows[] = {
        {"/", TEXT(""), 0},
        {"", TEXT(""), 0},
        {"/a", TEXT("a"), 0},
        {"//a", TEXT("/a"), 0},
        {"/a/b/", TEXT("a/b/"), 0},
        {"/a+b", TEXT("a+b"), 0},
        {"/a%20b", TEXT("a b"), 0},
        {"/%00", TEXT("\0"), 0},
        {"/%2f%2F", TEXT("//"), 0},
        {"/%25%32%35", TEXT("%25"), 0},
        {"/%e4%FF", TEXT("\xe4\xff"), 0},
        {"%41", TEXT("A"), 0},
        {"/%", TEXT(""), 400},
        {"/%4", TEXT(""), 400},
        {"/a%4", TEXT(""), 400},
        {"/%g0", TEXT(""), 400},
        {"/%0g", TEXT(""), 400},
        {"/% 1", TEXT(""), 400},
        {"/%+1", TEXT(""), 400},
        {"/%%41", TEXT(""), 400},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char room[16];
        struct slice key;
        unsigned status =
            http_key_decode(guarded(slice_str(rows[i].path)), room, sizeof(room), &key);

        if (status != rows[i].status ||
            (status == 0 && !slice_equal(key, slice_of(rows[i].key, rows[i].len))))
            fail_msg("%s: status %u", rows[i].path, status);
    }
}

static void keys_that_are_too_long_are_refused(void **state)
{
    char room[4];
    struct slice key;

    (void)state;
    assert_int_equal(http_key_decode(slice_str("/abcd"), room, 4, &key), 0);
    assert_int_equal(http_key_decode(slice_str("/abcde"), room, 4, &key), 414);
    assert_int_equal(http_key_decode(slice_str("/abc%64"), room, 4, &key), 0);
    assert_int_equal(http_key_decode(slice_str("/abcd%65"), room, 4, &key), 414);
    assert_int_equal(http_key_decode(slice_str("/%61bcd%65"), room, 4, &key), 414);
}

static void every_byte_survives_encoding(void **state)
{
    char bytes[256];
    char encoded[3 * 256];
    char room[256];
    struct slice back;
    size_t len;

    (void)state;
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    len = http_percent_encode(slice_of(bytes, 256), encoded);
    for (size_t i = 0; i < len; i++)
        assert_true(encoded[i] > ' ' && encoded[i] < 0x7f && strchr("?#&+\"", encoded[i]) == NULL);
    assert_int_equal(http_percent_decode(slice_of(encoded, len), room, 256, &back), 0);
    assert_true(slice_equal(back, slice_of(bytes, 256)));
    assert_int_equal(http_percent_encode(slice_str("a/B-9._~"), encoded), 8);
}

static void query_values_are_found_by_their_whole_name(void **state)
{
    static const struct {
        const char *query;
        const char *name;
        const char *value; /* NULL: absent */
    } rows[] = {
        {"", "a", NULL},       {"a", "a", NULL},      {"a=", "a", ""},        {"a=1", "a", "1"},
        {"b=2&a=1", "a", "1"}, {"a=1&b=2", "a", "1"}, {"aa=2&a=1", "a", "1"}, {"a=1=2", "a", "1=2"},
        {"&&a=1&&", "a", "1"}, {"a=1&a=2", "a", "1"}, {"ba=1", "a", NULL},    {"a%3d=1", "a", NULL},
        {"x=a=1", "a", NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct slice value;
        bool found = http_query_find(guarded(slice_str(rows[i].query)), rows[i].name, &value);

        if (found != (rows[i].value != NULL) || (found && !slice_is(value, rows[i].value)))
            fail_msg("%s in %s", rows[i].name, rows[i].query);
    }
}

/* ---- entity tags and types ---- */

static void tags_are_found_in_lists(void **state)
{
    static const struct {
        const char *list;
        bool listed;
    } rows[] = {
        {"\"t\"", true},
        {"W/\"t\"", true},
        {"*", true},
        {"\"a\", \"t\"", true},
        {"\"a\",W/\"b\",\t\"t\" ", true},
        {"\"a,b\" , \"t\"", true},
        {",, \"t\"", true},
        {"", false},
        {"t", false},
        {"\"t", false},
        {"t\"", false},
        {"\"T\"", false},
        {"\"tt\"", false},
        {"\"a\" x \"t\"", false},
        {"w/\"t\"", false},
        {"W/", false},
        {"\"", false},
        {"\"a\", *", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (http_etag_listed(guarded(slice_str(rows[i].list)), slice_str("\"t\"")) !=
            rows[i].listed)
            fail_msg("%s", rows[i].list);
    }
}

static void types_with_control_bytes_or_without_bytes_are_not_stored(void **state)
{
    char text[HTTP_TYPE_MAX + 1];

    (void)state;
    memset(text, 'a', sizeof(text));
    assert_true(http_type_is_valid(slice_str("text/plain; charset=\"utf-8\"")));
    assert_true(http_type_is_valid(slice_str("\xc3\xa4")));
    assert_true(http_type_is_valid(slice_of(text, HTTP_TYPE_MAX)));
    assert_false(http_type_is_valid(slice_of(text, HTTP_TYPE_MAX + 1)));
    assert_false(http_type_is_valid(slice_str("")));
    assert_false(http_type_is_valid(slice_str("a\tb")));
    assert_false(http_type_is_valid(slice_str("a\r\nb")));
    assert_false(http_type_is_valid(slice_str("a\x7f")));
    assert_false(http_type_is_valid(slice_of("a\0b", 3)));
}

/* ---- dates ---- */

static void check_date(int64_t unix_s)
{
    char expected[64];
    char got[HTTP_DATE_LEN];
    time_t when = (time_t)unix_s;
    struct tm tm;
    int64_t back = -1;

    gmtime_r(&when, &tm);
    strftime(expected, sizeof(expected), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    http_date_format(unix_s, got);
    if (memcmp(expected, got, HTTP_DATE_LEN) != 0)
        fail_msg("%lld: got %.29s, expected %s", (long long)unix_s, got, expected);
    assert_true(http_date_parse(guarded(slice_of(got, HTTP_DATE_LEN)), &back));
    assert_int_equal(back, unix_s);
}

static void dates_agree_with_the_c_library(void **state)
{
    static const int64_t moments[] = {
        0,
        1,
        86399,
        86400,
        951782400 /* 29 February 2000 */,
        951868799,
        951868800,
        1078012800,
        4107542400 /* 1 March 2100 */,
        4107542399,
        1767225599,
        1767225600,
        784111777,
        253402300799,
    };
    struct random random = random_seeded();

    (void)state;
    for (size_t i = 0; i < COUNT(moments); i++)
        check_date(moments[i]);
    for (int i = 0; i < 10000; i++)
        check_date((int64_t)random_below(&random, 253402300800));
}

static void a_moment_before_1970_shows_as_1970(void **state)
{
    char got[HTTP_DATE_LEN];

    (void)state;
    http_date_format(-1, got);
    assert_memory_equal(got, "Thu, 01 Jan 1970 00:00:00 GMT", HTTP_DATE_LEN);
}

static void other_dates_are_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "Sun, 06 Nov 1994 08:49:37 GM",
        "Sun, 06 Nov 1994 08:49:37 GMTx",
        "Mon, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Thu, 31 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:60 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun,  6 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994 ABCDE",
        "Wed, 31 Dec 1969 23:59:59 GMT",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        int64_t out = 77;

        if (http_date_parse(guarded(slice_str(rows[i])), &out) || out != 77)
            fail_msg("%s", rows[i]);
    }
}

/* ---- reply heads ---- */

static void check_reply(const struct http_reply *r, const char *expected)
{
    char out[HTTP_REPLY_MAX];
    size_t len = http_reply_format(out, r);

    if (!slice_is(slice_of(out, len), expected))
        fail_msg("got:\n%.*s\nexpected:\n%s", (int)len, out, expected);
}

#define DATE "Sun, 06 Nov 1994 08:49:37 GMT"

static void replies_say_what_they_carry(void **state)
{
    struct http_reply value = {
        .status = 200,
        .is_value = true,
        .length = 1234567890123,
        .modified_s = 784111777,
        .date = slice_str(DATE),
        .type = slice_str("image/png"),
        .etag = slice_str("\"ab\""),
    };
    struct http_reply created = {
        .status = 201,
        .length = 8,
        .close = true,
        .says_keep_alive = true,
        .date = slice_str(DATE),
        .type = slice_str("text/plain"),
    };
    struct http_reply unchanged = {
        .status = 304,
        .no_length = true,
        .says_keep_alive = true,
        .date = slice_str(DATE),
        .etag = slice_str("\"ab\""),
        .extra = slice_str("X: y\r\n"),
    };

    (void)state;
    check_reply(&value, "HTTP/1.1 200 OK\r\nDate: " DATE "\r\nContent-Type: image/png\r\n"
                        "Content-Length: 1234567890123\r\nETag: \"ab\"\r\nLast-Modified: " DATE
                        "\r\nX-Content-Type-Options: nosniff\r\n"
                        "Content-Security-Policy: sandbox\r\n\r\n");
    check_reply(&created, "HTTP/1.1 201 Created\r\nDate: " DATE "\r\nContent-Type: text/plain\r\n"
                          "Content-Length: 8\r\nConnection: close\r\n\r\n");
    check_reply(&unchanged, "HTTP/1.1 304 Not Modified\r\nDate: " DATE "\r\nETag: \"ab\"\r\n"
                            "X: y\r\nConnection: keep-alive\r\n\r\n");
}

static void the_largest_reply_fits_into_its_room(void **state)
{
    char type[HTTP_TYPE_MAX];
    char etag[HTTP_ETAG_MAX];
    char extra[HTTP_EXTRA_MAX];
    struct http_reply r = {
        .status = 431, /* the longest reason */
        .is_value = true,
        .close = true,
        .length = UINT64_MAX,
        .modified_s = 253402300799,
        .date = slice_str(DATE),
        .type = slice_of(type, sizeof(type)),
        .etag = slice_of(etag, sizeof(etag)),
        .extra = slice_of(extra, sizeof(extra)),
    };
    char *room;

    (void)state;
    memset(type, 't', sizeof(type));
    memset(etag, 'e', sizeof(etag));
    memset(extra, 'x', sizeof(extra));
    room = guarded_copy((char[HTTP_REPLY_MAX]){0}, HTTP_REPLY_MAX);
    assert_in_range(http_reply_format(room, &r), 1, HTTP_REPLY_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_name_keys),
        cmocka_unit_test(keys_that_are_too_long_are_refused),
        cmocka_unit_test(every_byte_survives_encoding),
        cmocka_unit_test(query_values_are_found_by_their_whole_name),
        cmocka_unit_test(tags_are_found_in_lists),
        cmocka_unit_test(types_with_control_bytes_or_without_bytes_are_not_stored),
        cmocka_unit_test(dates_agree_with_the_c_library),
        cmocka_unit_test(a_moment_before_1970_shows_as_1970),
        cmocka_unit_test(other_dates_are_refused),
        cmocka_unit_test(replies_say_what_they_carry),
        cmocka_unit_test(the_largest_reply_fits_into_its_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
