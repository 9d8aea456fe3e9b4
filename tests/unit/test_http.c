/*
 * test_http.c - HTTP request heads and chunked bodies (proto/http.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "guarded.h"
#include "proto/http.h"
#include "random.h"

/* Text with a length of its own, so that NUL can be in it. */
#define TEXT(literal) (literal), sizeof(literal) - 1
#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

static struct slice guarded(struct slice text)
{
    return slice_of(guarded_copy(text.ptr, text.len), text.len);
}

/* ---- finding the end of a head ---- */

static void a_head_is_found_at_its_last_byte_and_no_sooner(void **state)
{
    static const char *const heads[] = {
        "GET / HTTP/1.1\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT /a%20b?x=1 HTTP/1.0\r\nA: \r\nB:b\r\nC:\t\xe4 \r\n\r\n",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(heads); i++) {
        struct slice head = slice_str(heads[i]);
        struct http_scan grown = {0};
        size_t len = 77;

        for (size_t cut = 0; cut < head.len; cut++) {
            struct http_scan fresh = {0};
            struct slice part = guarded(slice_of(head.ptr, cut));

            assert_int_equal(http_head_find(&fresh, part, &len), HTTP_PARSE_MORE);
            assert_int_equal(http_head_find(&grown, part, &len), HTTP_PARSE_MORE);
            /* What was looked at is not looked at again. */
            assert_int_equal(grown.at, cut);
            assert_int_equal(len, 77);
        }
        assert_int_equal(http_head_find(&grown, guarded(head), &len), HTTP_PARSE_DONE);
        assert_int_equal(len, head.len);
    }
}

static void what_follows_a_head_is_left_alone(void **state)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\nGET nonsense\r\r\r";
    struct http_scan scan = {0};
    size_t len;

    (void)state;
    assert_int_equal(http_head_find(&scan, guarded(slice_str(text)), &len), HTTP_PARSE_DONE);
    assert_int_equal(len, 27);
}

static void heads_that_two_readers_could_split_differently_are_refused(void **state)
{
    static const struct {
        const char *text;
        size_t len;
    } rows[] = {
        {TEXT("\nGET / HTTP/1.1\r\n\r\n")},
        {TEXT("\r\nGET / HTTP/1.1\r\n\r\n")},
        {TEXT("GET / HTTP/1.1\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\n\n")},
        {TEXT("GET / HTTP/1.1\nHost: a\n\n")},
        {TEXT("GET / HTTP/1.1\r\r\n")},
        {TEXT("GET /\r HTTP/1.1\r\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\rX: b\r\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\r\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\n b\r\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n")},
        {TEXT("GET / HTTP/1.1\r\n Host: a\r\n")},
        {TEXT("GET / HTTP/1.1\r\n: a\r\n")},
        {TEXT("GET / HTTP/1.1\r\nHost: a\0b\r\n")},
        {TEXT("GET /\0 HTTP/1.1\r\n")},
        {TEXT("GET /\r\n")},
        {TEXT("GET / HTTP/1.1 \r\n")},
        {TEXT("GET / HTTP/11\r\n")},
        {TEXT("GET / HTTP/1.x\r\n")},
        {TEXT("GET / http/1.1\r\n")},
        {TEXT(" HTTP/1.1\r\n")},
        {TEXT("HTTP/1.1\r\n")},
        {TEXT("SET k 0 0 5\r\nhello\r\n")},
        {TEXT("HELO\r\n")},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct http_scan scan = {0};
        size_t len;
        enum http_parse got =
            http_head_find(&scan, guarded(slice_of(rows[i].text, rows[i].len)), &len);

        if (got != HTTP_PARSE_BAD || scan.refusal != 400)
            fail_msg("%s: got %d, status %u", rows[i].text, (int)got, scan.refusal);
    }
}

/* A line of `line` bytes and fields of `fields` bytes, both without their last CRLF. */
static enum http_parse find_with_lengths(size_t line, size_t fields, unsigned *refusal)
{
    size_t len = line + 2 + fields + 4;
    char *text = malloc(len);
    struct http_scan scan = {0};
    size_t head_len;
    enum http_parse got;

    assert_non_null(text);
    memset(text, 'x', len);
    memcpy(text, "GET /", 5);
    memcpy(text + line - 9, " HTTP/1.1\r\n", 11);
    text[line + 3] = ':';
    memcpy(text + line + 2 + fields, "\r\n\r\n", 4);
    got = http_head_find(&scan, guarded(slice_of(text, len)), &head_len);
    if (got == HTTP_PARSE_DONE)
        assert_int_equal(head_len, len);
    *refusal = scan.refusal;
    free(text);
    return got;
}

static void lines_and_fields_have_a_limit(void **state)
{
    unsigned refusal;

    (void)state;
    assert_int_equal(find_with_lengths(HTTP_LINE_MAX - 1, 10, &refusal), HTTP_PARSE_DONE);
    assert_int_equal(find_with_lengths(HTTP_LINE_MAX + 1, 10, &refusal), HTTP_PARSE_BAD);
    assert_int_equal(refusal, 414);
    assert_int_equal(find_with_lengths(100, HTTP_FIELDS_MAX - 3, &refusal), HTTP_PARSE_DONE);
    assert_int_equal(find_with_lengths(100, HTTP_FIELDS_MAX + 1, &refusal), HTTP_PARSE_BAD);
    assert_int_equal(refusal, 431);
}

static void a_line_without_an_end_is_refused_as_soon_as_it_is_too_long(void **state)
{
    static char text[HTTP_LINE_MAX + 1];
    struct http_scan scan = {0};
    size_t len;

    (void)state;
    memset(text, 'A', sizeof(text));
    assert_int_equal(http_head_find(&scan, slice_of(text, HTTP_LINE_MAX), &len), HTTP_PARSE_MORE);
    assert_int_equal(http_head_find(&scan, slice_of(text, HTTP_LINE_MAX + 1), &len),
                     HTTP_PARSE_BAD);
    assert_int_equal(scan.refusal, 414);
}

/* ---- reading a head ---- */

/* Finds and reads; the text must be one whole head, or be refused on the way. Returns the status, 0
 * if it is good. */
static unsigned parse(struct slice text, struct http_request *r)
{
    struct http_scan scan = {0};
    size_t len;
    enum http_parse got = http_head_find(&scan, text, &len);

    if (got == HTTP_PARSE_BAD)
        return scan.refusal;
    assert_int_equal(got, HTTP_PARSE_DONE);
    assert_int_equal(len, text.len);
    return http_request_parse(text, r) == HTTP_PARSE_DONE ? 0 : r->refusal;
}

static void good_heads_are_read(void **state)
{
    static const struct {
        const char *text;
        enum http_verb verb;
        const char *path;
        const char *query;
        unsigned minor;
        bool keep_alive;
        bool chunked;
        bool has_length;
        uint64_t length;
        bool expects;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_GET, "/", "", 1, true, 0, 0, 0, 0},
        {"GET /a%20b?c=d&e HTTP/1.1\r\nhost:a:80\r\n\r\n", HTTP_VERB_GET, "/a%20b", "c=d&e", 1,
         true, 0, 0, 0, 0},
        {"GET /?a?b HTTP/1.1\r\nHOST:\t[::1]:1978 \r\n\r\n", HTTP_VERB_GET, "/", "a?b", 1, true, 0,
         0, 0, 0},
        {"GET /\xd0\xba\xd0\xbb HTTP/1.1\r\nHost: a_b.c\r\n\r\n", HTTP_VERB_GET,
         "/\xd0\xba\xd0\xbb", "", 1, true, 0, 0, 0, 0},
        {"GET /\"<>{}|\\^`' HTTP/1.1\r\nHost:\r\n\r\n", HTTP_VERB_GET, "/\"<>{}|\\^`'", "", 1, true,
         0, 0, 0, 0},
        {"HEAD //x HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_HEAD, "//x", "", 1, true, 0, 0, 0, 0},
        {"GET http://a.b:80/k?q HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_GET, "/k", "q", 1, true, 0,
         0, 0, 0},
        {"GET HTTPS://a?q HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_GET, "", "q", 1, true, 0, 0, 0,
         0},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_OPTIONS, "*", "", 1, true, 0, 0, 0, 0},
        {"DELETE /k HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", HTTP_VERB_DELETE, "/k", "",
         1, false, 0, 0, 0, 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", HTTP_VERB_GET, "/", "", 1,
         false, 0, 0, 0, 0},
        {"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", HTTP_VERB_GET,
         "/", "", 1, true, 0, 0, 0, 0},
        {"GET / HTTP/1.0\r\n\r\n", HTTP_VERB_GET, "/", "", 0, false, 0, 0, 0, 0},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", HTTP_VERB_GET, "/", "", 0, true, 0, 0,
         0, 0},
        {"GET / HTTP/1.9\r\nHost: a\r\n\r\n", HTTP_VERB_GET, "/", "", 1, true, 0, 0, 0, 0},
        {"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", HTTP_VERB_PUT, "/k", "", 1,
         true, 0, 1, 5, 0},
        {"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length:0005 \r\n\r\n", HTTP_VERB_PUT, "/k", "", 1,
         true, 0, 1, 5, 0},
        {"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 2147483647\r\nExpect: 100-Continue\r\n\r\n",
         HTTP_VERB_PUT, "/k", "", 1, true, 0, 1, 2147483647, 1},
        {"PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
         HTTP_VERB_PUT, "/k", "", 1, true, 0, 1, 0, 0},
        {"PUT /k HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", HTTP_VERB_PUT,
         "/k", "", 0, false, 0, 1, 1, 0},
        {"PUT /k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", HTTP_VERB_PUT, "/k",
         "", 1, true, 1, 0, 0, 0},
        {"PATCH /k HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_OTHER, "", "", 1, true, 0, 0, 0, 0},
        {"X-!#$%&'*+.^_`|~1 /k HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_OTHER, "", "", 1, true, 0, 0,
         0, 0},
        {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_OTHER, "", "", 1, true, 0, 0, 0, 0},
        {"get / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_VERB_OTHER, "", "", 1, true, 0, 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct http_request r = {0};
        unsigned status = parse(guarded(slice_str(rows[i].text)), &r);

        if (status != 0 || r.verb != rows[i].verb || !slice_is(r.path, rows[i].path) ||
            !slice_is(r.query, rows[i].query) || r.minor != rows[i].minor ||
            r.keep_alive != rows[i].keep_alive || r.chunked != rows[i].chunked ||
            r.has_length != rows[i].has_length || r.length != rows[i].length ||
            r.expects_continue != rows[i].expects)
            fail_msg("%s: status %u", rows[i].text, status);
    }
}

static void fields_are_known_in_any_case_and_without_blanks_around(void **state)
{
    static const char text[] =
        "PUT /k HTTP/1.1\r\nX-Other: 1\r\nhOsT: example.org\r\n"
        "content-TYPE: \t text/plain; a=\"b c\" \t\r\nIf-None-Match: \"a\"\r\n"
        "IF-NONE-MATCH:\"b\", W/\"c\"\r\nx-tt-pdmode:2\r\nHos: x\r\n"
        "If-Modified-Since:   \r\nContent-Length: 1\r\n\r\n";
    struct http_request r = {0};

    (void)state;
    assert_int_equal(parse(guarded(slice_str(text)), &r), 0);
    assert_true(slice_is(r.field[HTTP_FIELD_HOST], "example.org"));
    assert_true(slice_is(r.field[HTTP_FIELD_CONTENT_TYPE], "text/plain; a=\"b c\""));
    assert_true(slice_is(r.field[HTTP_FIELD_IF_NONE_MATCH], "\"b\", W/\"c\""));
    assert_true(slice_is(r.field[HTTP_FIELD_PDMODE], "2"));
    assert_non_null(r.field[HTTP_FIELD_IF_MODIFIED_SINCE].ptr);
    assert_int_equal(r.field[HTTP_FIELD_IF_MODIFIED_SINCE].len, 0);
    assert_null(r.field[HTTP_FIELD_EXPECT].ptr);
    assert_null(r.field[HTTP_FIELD_TRANSFER_ENCODING].ptr);
}

static void bad_heads_are_refused(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        unsigned status;
    } rows[] = {
        /* the request line */
        {TEXT("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET / x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET  HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("G(T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET k HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET http://u@a/b HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505},
        {TEXT("GET / HTTP/0.9\r\nHost: a\r\n\r\n"), 505},
        {TEXT("PRI * HTTP/2.0\r\n\r\n"), 505},
        /* Host */
        {TEXT("GET / HTTP/1.1\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), 400},
        /* field lines */
        {TEXT("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nA(b: c\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n"), 400},
        {TEXT("GET / HTTP/1.1\r\nHost: a\r\nX\xe4: b\r\n\r\n"), 400},
        /* how long the body is */
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
              "Transfer-Encoding: chunked\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
              "Content-Length: 5\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
              "Content-Length: 0\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
              "Transfer-Encoding: chunked\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
              "Transfer-Encoding: identity\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"), 501},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"), 501},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0b"
              "chunked\r\n\r\n"),
         400},
        {TEXT("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
        {TEXT("PUT / HTTP/1.1\r\nHost: a\r\nExpect: something\r\nContent-Length: 1\r\n\r\n"), 417},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct http_request r = {0};
        unsigned status = parse(guarded(slice_of(rows[i].text, rows[i].len)), &r);

        if (status != rows[i].status)
            fail_msg("%s: got %u, expected %u", rows[i].text, status, rows[i].status);
    }
}

/* ---- chunked bodies ---- */

/* Feeds the body in pieces that end at `cut` and at the end (cut 0: byte by byte). The data, or -1
 * if it is refused, -2 if it does not end. *used: bytes that belong to the body. */
static int unchunk(struct slice body, size_t cut, char *data, size_t *used)
{
    struct http_chunked c = {0};
    size_t at = 0;
    int len = 0;

    while (at < body.len) {
        size_t end = cut == 0 ? at + 1 : at < cut ? cut : body.len;
        struct slice piece = guarded(slice_of(body.ptr + at, end - at));
        struct slice got;
        size_t took;
        enum http_parse result = http_chunked_next(&c, piece, &got, &took);

        if (result == HTTP_PARSE_BAD)
            return -1;
        assert_true(took > 0 && took <= piece.len && got.len <= took);
        memcpy(data + len, got.ptr, got.len);
        len += (int)got.len;
        at += took;
        if (result == HTTP_PARSE_DONE) {
            *used = at;
            return len;
        }
    }
    return -2;
}

static void chunked_bodies_are_read_however_they_are_cut(void **state)
{
    static const struct {
        const char *body;
        const char *data;
        size_t left; /* bytes behind the body */
    } rows[] = {
        {"0\r\n\r\n", "", 0},
        {"5\r\nhello\r\n0\r\n\r\n", "hello", 0},
        {"5\r\nhello\r\n00000\r\n\r\nGET / HTTP/1.1\r\n\r\n", "hello", 18},
        {"00A\r\n0123456789\r\n1\r\n\n\r\n0\r\n\r\n", "0123456789\n", 0},
        {"a;x=y\r\n\r\n0\r\n\r\n12\r\n0 ; z=\"q\" \r\n\r\n", NULL, 0},
        {"a;x=y;\t\xe4\r\n\r\n0\r\n\r\n123\r\n0;z=\"q\"\r\n\r\n", "\r\n0\r\n\r\n123", 0},
        {"1\r\nx\r\n0\r\nTrailer: a\r\nB: c\r\n\r\nrest", "x", 4},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct slice body = slice_str(rows[i].body);

        for (size_t cut = 0; cut < body.len; cut++) {
            char data[64];
            size_t used = 0;
            int len = unchunk(body, cut, data, &used);

            if (rows[i].data == NULL) {
                assert_int_equal(len, -1);
                continue;
            }
            if (len != (int)strlen(rows[i].data) || memcmp(data, rows[i].data, (size_t)len) != 0 ||
                used != body.len - rows[i].left)
                fail_msg("%s cut at %zu: got %d bytes, used %zu", rows[i].body, cut, len, used);
        }
    }
}

static void a_chunked_body_needs_all_of_its_bytes(void **state)
{
    struct slice body = slice_str("3;e\r\nabc\r\n0\r\nA: b\r\n\r\n");
    char data[64];
    size_t used;

    (void)state;
    for (size_t len = 0; len < body.len; len++)
        assert_int_equal(unchunk(slice_of(body.ptr, len), len, data, &used), -2);
    assert_int_equal(unchunk(body, body.len, data, &used), 3);
}

static void malformed_chunks_are_refused_however_they_are_cut(void **state)
{
    static const struct {
        const char *body;
        size_t len;
    } rows[] = {
        {TEXT("\r\n")},
        {TEXT("g\r\n")},
        {TEXT("-1\r\n")},
        {TEXT("+1\r\n")},
        {TEXT(" 1\r\n")},
        {TEXT("1 \r\nx\r\n")},
        {TEXT("0x1\r\n")},
        {TEXT("1\nx\n0\n\n")},
        {TEXT("1\rx")},
        {TEXT("1;a\nx")},
        {TEXT("1;a\rx")},
        {TEXT("1;a\0b\r\n")},
        {TEXT("1;\x01\r\n")},
        {TEXT("1;\x7f\r\n")},
        {TEXT(";a\r\n")},
        {TEXT("1\r\nxy")},
        {TEXT("1\r\nx\n")},
        {TEXT("1\r\nx\rx")},
        {TEXT("1\r\nx\r\n\r\n")},
        {TEXT("0\r\n\n")},
        {TEXT("0\r\n\rx")},
        {TEXT("0\r\nA: b\n")},
        {TEXT("0\r\nA: b\rx")},
        {TEXT("0\r\nA\0: b\r\n")},
        {TEXT("1000000000000000\r\n")},
        {TEXT("ffffffffffffffff\r\n")},
        {TEXT("fffffffffffffffff\r\n")},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct slice body = slice_of(rows[i].body, rows[i].len);

        for (size_t cut = 0; cut < body.len; cut++) {
            char data[64];
            size_t used;

            if (unchunk(body, cut, data, &used) != -1)
                fail_msg("%s cut at %zu", rows[i].body, cut);
        }
    }
}

/* Feeds `before`, then 'x' until the body is refused. Returns how many of those were taken. */
static size_t fill_until_refused(const char *before)
{
    struct http_chunked c = {0};
    struct slice data;
    size_t used;
    size_t taken = 0;

    for (size_t i = 0; before[i] != '\0'; i++)
        assert_int_equal(http_chunked_next(&c, slice_of(before + i, 1), &data, &used),
                         HTTP_PARSE_MORE);
    while (http_chunked_next(&c, slice_of("x", 1), &data, &used) == HTTP_PARSE_MORE) {
        taken++;
        assert_true(taken < 1024 * 1024);
    }
    return taken;
}

static void extensions_and_trailers_have_a_limit(void **state)
{
    (void)state;
    assert_int_equal(fill_until_refused("1;"), HTTP_CHUNK_LINE_MAX - 2);
    assert_int_equal(fill_until_refused("0\r\n"), HTTP_TRAILERS_MAX);
    /* The limit is on all trailers together, and each size line has its own. */
    assert_int_equal(fill_until_refused("0\r\nA: b\r\n"), HTTP_TRAILERS_MAX - 6);
    assert_int_equal(fill_until_refused("1;abc\r\nx\r\n1;"), HTTP_CHUNK_LINE_MAX - 2);
}

static void random_bodies_come_out_as_they_went_in(void **state)
{
    struct random random = random_seeded();

    (void)state;
    for (int round = 0; round < 300; round++) {
        char data[256];
        char body[2048];
        char got[256];
        size_t len = (size_t)random_below(&random, sizeof(data));
        size_t body_len = 0;
        size_t used = 0;

        for (size_t i = 0; i < len; i++)
            data[i] = (char)random_u64(&random);
        for (size_t at = 0; at < len;) {
            size_t piece = 1 + (size_t)random_below(&random, len - at);

            body_len += (size_t)snprintf(body + body_len, 16, "%zx\r\n", piece);
            memcpy(body + body_len, data + at, piece);
            memcpy(body + body_len + piece, "\r\n", 2);
            body_len += piece + 2;
            at += piece;
        }
        memcpy(body + body_len, "0\r\n\r\n", 5);
        body_len += 5;
        assert_int_equal(
            unchunk(slice_of(body, body_len), (size_t)random_below(&random, body_len), got, &used),
            len);
        assert_int_equal(used, body_len);
        assert_memory_equal(got, data, len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_is_found_at_its_last_byte_and_no_sooner),
        cmocka_unit_test(what_follows_a_head_is_left_alone),
        cmocka_unit_test(heads_that_two_readers_could_split_differently_are_refused),
        cmocka_unit_test(lines_and_fields_have_a_limit),
        cmocka_unit_test(a_line_without_an_end_is_refused_as_soon_as_it_is_too_long),
        cmocka_unit_test(good_heads_are_read),
        cmocka_unit_test(fields_are_known_in_any_case_and_without_blanks_around),
        cmocka_unit_test(bad_heads_are_refused),
        cmocka_unit_test(chunked_bodies_are_read_however_they_are_cut),
        cmocka_unit_test(a_chunked_body_needs_all_of_its_bytes),
        cmocka_unit_test(malformed_chunks_are_refused_however_they_are_cut),
        cmocka_unit_test(extensions_and_trailers_have_a_limit),
        cmocka_unit_test(random_bodies_come_out_as_they_went_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
