/*
 * test_mc_text.c - memcached's text protocol (proto/mc_text.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guarded.h"
#include "proto/mc_text.h"

#define KEY_10 "0123456789"
#define KEY_50 KEY_10 KEY_10 KEY_10 KEY_10 KEY_10
#define KEY_250 KEY_50 KEY_50 KEY_50 KEY_50 KEY_50
#define KEY_251 KEY_250 "x"

/* Writes what was parsed as one line of text: easy to write down as an expectation, and equal
 * whenever everything in the request is equal. */
static void describe(const struct mc_request *r, char *out, size_t room)
{
    int n = snprintf(
        out, room, "%s error=%d%s key=%.*s flags=%u exptime=%lld number=%llu args=%.*s",
        r->info->name, r->error, r->noreply ? " noreply" : "", (int)r->key.len,
        r->key.len > 0 ? r->key.ptr : "", r->flags, (long long)r->exptime,
        (unsigned long long)r->number, (int)r->args.len, r->args.len > 0 ? r->args.ptr : "");

    if (r->has_body)
        n += snprintf(out + n, room - (size_t)n, " body=%u", r->body_bytes);
    if (r->has_keys)
        snprintf(out + n, room - (size_t)n, " keys");
}

struct line_case {
    const char *line; /* without its end */
    const char *name;
    enum mc_error error;
    bool noreply;
    const char *key;
    uint32_t flags;
    int64_t exptime;
    uint64_t number;
    int64_t body; /* -1: none */
};

static void check_line(const struct line_case *c, const char *end)
{
    struct mc_request r;
    char input[1024];
    size_t len = (size_t)snprintf(input, sizeof(input), "%s%s", c->line, end);
    const char *text = guarded_copy(input, len);
    size_t used = 0;
    enum mc_status status = mc_parse_request(slice_of(text, len), &r, &used);
    char got[2048] = "";

    if (status == MC_DONE)
        describe(&r, got, sizeof(got));
    if (status != MC_DONE || used != len || strcmp(r.info->name, c->name) != 0 ||
        r.error != c->error || r.noreply != c->noreply || !slice_is(r.key, c->key) ||
        r.flags != c->flags || r.exptime != c->exptime || r.number != c->number ||
        r.has_body != (c->body >= 0) || (r.has_body && r.body_bytes != (uint32_t)c->body) ||
        r.has_keys)
        fail_msg("\"%s\": status %d, %zu of %zu bytes: %s", c->line, status, used, len, got);
}

#define CHECK_LINES(rows)                                                                          \
    do {                                                                                           \
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {                              \
            check_line(&rows[i], "\r\n");                                                          \
            check_line(&rows[i], "\n");                                                            \
        }                                                                                          \
    } while (0)

static void storage_lines_are_read(void **state)
{
    static const struct line_case rows[] = {
        {"set k 1 2 3", "set", MC_NO_ERROR, false, "k", 1, 2, 0, 3},
        {"set k 1 2 3 noreply", "set", MC_NO_ERROR, true, "k", 1, 2, 0, 3},
        {"  set  k   1 2  3  ", "set", MC_NO_ERROR, false, "k", 1, 2, 0, 3},
        {"set k\tx 0 0 1", "set", MC_NO_ERROR, false, "k\tx", 0, 0, 0, 1},
        {"set \xc3\xa4 0 0 1", "set", MC_NO_ERROR, false, "\xc3\xa4", 0, 0, 0, 1},
        {"add k 4294967295 -1 0", "add", MC_NO_ERROR, false, "k", 4294967295u, -1, 0, 0},
        {"replace k 0 2592001 7", "replace", MC_NO_ERROR, false, "k", 0, 2592001, 0, 7},
        {"append k 0 0 1", "append", MC_NO_ERROR, false, "k", 0, 0, 0, 1},
        {"prepend k 0 0 1 noreply", "prepend", MC_NO_ERROR, true, "k", 0, 0, 0, 1},
        {"cas k 1 2 3 4", "cas", MC_NO_ERROR, false, "k", 1, 2, 4, 3},
        {"cas k 1 2 3 18446744073709551615 noreply", "cas", MC_NO_ERROR, true, "k", 1, 2,
         UINT64_MAX, 3},
        {"set k 0 0 2147483645", "set", MC_NO_ERROR, false, "k", 0, 0, 0, 2147483645},
        {"set k 0 0 1 words nobody asked for", "set", MC_NO_ERROR, false, "k", 0, 0, 0, 1},
        {"set " KEY_250 " 0 0 1", "set", MC_NO_ERROR, false, KEY_250, 0, 0, 0, 1},
        {"set noreply 0 0 1", "set", MC_NO_ERROR, false, "noreply", 0, 0, 0, 1},
    };

    (void)state;
    CHECK_LINES(rows);
}

static void a_known_length_is_swallowed_after_an_error(void **state)
{
    static const struct line_case rows[] = {
        {"set " KEY_251 " 0 0 1", "set", MC_ERROR_FORMAT, false, KEY_251, 0, 0, 0, 1},
        {"set k 4294967296 0 1", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, 1},
        {"set k -1 0 1 noreply", "set", MC_ERROR_FORMAT, true, "k", 0, 0, 0, 1},
        {"set k +1 0 1", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, 1},
        {"set k 0 never 1", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, 1},
        {"set k 0 9223372036854775808 1", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, 1},
        {"cas k 1 2 3", "cas", MC_ERROR_FORMAT, false, "k", 1, 2, 0, 3},
        {"cas k 1 2 3 noreply", "cas", MC_ERROR_FORMAT, true, "k", 1, 2, 0, 3},
        {"cas k 1 2 3 -4", "cas", MC_ERROR_FORMAT, false, "k", 1, 2, 0, 3},
        {"cas k 1 2 3 18446744073709551616", "cas", MC_ERROR_FORMAT, false, "k", 1, 2, 0, 3},
    };

    (void)state;
    CHECK_LINES(rows);
}

static void without_a_length_nothing_is_swallowed_and_noreply_not_heard(void **state)
{
    static const struct line_case rows[] = {
        {"set k 0 0", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set", "set", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
        {"set k 0 0 -1", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set k 0 0 x noreply", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set k 0 0 2147483646", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set k 0 0 2147483647", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set k 0 0 18446744073709551616", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"set k 0 0 noreply", "set", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
    };

    (void)state;
    CHECK_LINES(rows);
}

static void lines_with_a_key_are_read(void **state)
{
    static const struct line_case rows[] = {
        {"delete k", "delete", MC_NO_ERROR, false, "k", 0, 0, 0, -1},
        {"delete k 0", "delete", MC_NO_ERROR, false, "k", 0, 0, 0, -1},
        {"delete k 10 noreply", "delete", MC_NO_ERROR, true, "k", 0, 0, 0, -1},
        {"delete a b c d", "delete", MC_NO_ERROR, false, "a", 0, 0, 0, -1},
        {"delete a b c d e", "delete", MC_ERROR_FORMAT, false, "a", 0, 0, 0, -1},
        {"delete noreply", "delete", MC_NO_ERROR, true, "noreply", 0, 0, 0, -1},
        {"delete", "delete", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
        {"delete " KEY_250, "delete", MC_NO_ERROR, false, KEY_250, 0, 0, 0, -1},
        {"delete " KEY_251, "delete", MC_ERROR_FORMAT, false, KEY_251, 0, 0, 0, -1},
        {"incr k 5", "incr", MC_NO_ERROR, false, "k", 0, 0, 5, -1},
        {"incr k 18446744073709551615 noreply", "incr", MC_NO_ERROR, true, "k", 0, 0, UINT64_MAX,
         -1},
        {"incr k", "incr", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"incr k -1", "incr", MC_ERROR_DELTA, false, "k", 0, 0, 0, -1},
        {"incr k 18446744073709551616", "incr", MC_ERROR_DELTA, false, "k", 0, 0, 0, -1},
        {"decr k x", "decr", MC_ERROR_DELTA, false, "k", 0, 0, 0, -1},
        {"decr " KEY_251 " 1", "decr", MC_ERROR_FORMAT, false, KEY_251, 0, 0, 0, -1},
        {"touch k 5", "touch", MC_NO_ERROR, false, "k", 0, 5, 0, -1},
        {"touch k -1 noreply", "touch", MC_NO_ERROR, true, "k", 0, -1, 0, -1},
        {"touch k", "touch", MC_ERROR_FORMAT, false, "k", 0, 0, 0, -1},
        {"touch k soon", "touch", MC_ERROR_EXPTIME, false, "k", 0, 0, 0, -1},
    };

    (void)state;
    CHECK_LINES(rows);
}

static void other_lines_are_read(void **state)
{
    static const struct line_case rows[] = {
        {"flush_all", "flush_all", MC_NO_ERROR, false, "", 0, 0, 0, -1},
        {"flush_all noreply", "flush_all", MC_NO_ERROR, true, "", 0, 0, 0, -1},
        {"flush_all 5", "flush_all", MC_NO_ERROR, false, "", 0, 5, 0, -1},
        {"flush_all -1 noreply", "flush_all", MC_NO_ERROR, true, "", 0, -1, 0, -1},
        {"flush_all later", "flush_all", MC_ERROR_EXPTIME, false, "", 0, 0, 0, -1},
        {"version", "version", MC_NO_ERROR, false, "", 0, 0, 0, -1},
        {"version foo bar", "version", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"version noreply", "version", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"verbosity 3", "verbosity", MC_NO_ERROR, false, "", 0, 0, 3, -1},
        {"verbosity 1 noreply", "verbosity", MC_NO_ERROR, true, "", 0, 0, 1, -1},
        {"verbosity", "verbosity", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
        {"verbosity noreply", "verbosity", MC_ERROR_FORMAT, true, "", 0, 0, 0, -1},
        {"verbosity foo", "verbosity", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
        {"stats items", "stats", MC_NO_ERROR, false, "", 0, 0, 0, -1},
        {"quit", "quit", MC_NO_ERROR, false, "", 0, 0, 0, -1},
        {"quit noreply", "quit", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"foobar", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"foobar noreply", "", MC_ERROR_UNKNOWN, true, "", 0, 0, 0, -1},
        {"SET k 0 0 1", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"set\tk 0 0 1", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"sets k 0 0 1", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"flush", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"    ", "", MC_ERROR_UNKNOWN, false, "", 0, 0, 0, -1},
        {"get", "get", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
        {"gats", "gats", MC_ERROR_FORMAT, false, "", 0, 0, 0, -1},
    };

    (void)state;
    CHECK_LINES(rows);
}

static void what_is_too_short_for_a_command_is_a_client_error(void **state)
{
    static const char *const lines[] = {"\n", "\r\n", "a\n", "q\r\n", "mn\n"};

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        size_t len = strlen(lines[i]);
        struct mc_request r;
        size_t used;

        assert_int_equal(mc_parse_request(slice_of(guarded_copy(lines[i], len), len), &r, &used),
                         MC_DONE);
        assert_int_equal(r.error, MC_ERROR_FORMAT);
        assert_int_equal(used, len);
    }
}

static void words_behind_the_name_are_handed_over(void **state)
{
    static const char line[] = "stats  detail  on \r\n";
    struct mc_request r;
    struct slice word;
    size_t used;

    (void)state;
    assert_int_equal(mc_parse_request(slice_str(line), &r, &used), MC_DONE);
    assert_true(mc_next_word(&r.args, &word));
    assert_true(slice_is(word, "detail"));
    assert_true(mc_next_word(&r.args, &word));
    assert_true(slice_is(word, "on"));
    assert_false(mc_next_word(&r.args, &word));
}

static enum mc_status status_of(const char *data, size_t len)
{
    struct mc_request r;
    size_t used;

    return mc_parse_request(slice_of(guarded_copy(data, len), len), &r, &used);
}

static void a_browsers_request_line_closes(void **state)
{
    static const struct {
        const char *line;
        enum mc_status status;
    } rows[] = {
        {"post / HTTP/1.1\r\n", MC_BAD},
        {"set / HTTP/1.1\r\n", MC_BAD},
        {"delete / HTTP/1.0\r\n", MC_BAD},
        {"version HTTP/1.1\r\n", MC_BAD},
        {"foo HTTP/\r\n", MC_BAD},
        {"delete HTTP/1.1\r\n", MC_DONE}, /* a key may look like that */
        {"get / HTTP/1.1\r\n", MC_DONE},  /* and so may several */
        {"foo HTTP 1.1\r\n", MC_DONE},
        {"HTTP/1.1\r\n", MC_DONE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (status_of(rows[i].line, strlen(rows[i].line)) != rows[i].status)
            fail_msg("%s", rows[i].line);
    }
}

static void a_line_without_end_closes(void **state)
{
    static char data[2 * MC_LINE_MAX];

    (void)state;
    memset(data, 'a', sizeof(data));
    assert_int_equal(status_of(data, MC_LINE_MAX - 1), MC_MORE);
    assert_int_equal(status_of(data, MC_LINE_MAX), MC_BAD);
    data[MC_LINE_MAX - 1] = '\n';
    assert_int_equal(status_of(data, MC_LINE_MAX), MC_DONE);
    data[MC_LINE_MAX - 1] = 'a';
    data[MC_LINE_MAX] = '\n';
    assert_int_equal(status_of(data, sizeof(data)), MC_BAD);
    memset(data, ' ', sizeof(data));
    assert_int_equal(status_of(data, MC_LINE_MAX - 1), MC_MORE);
    assert_int_equal(status_of(data, sizeof(data)), MC_BAD);
    memcpy(data, "gat", 3);
    assert_int_equal(status_of(data, MC_LINE_MAX - 1), MC_MORE);
    assert_int_equal(status_of(data, sizeof(data)), MC_BAD);
}

/* ---- whole streams ---- */

/* Reads a stream as a session does, in pieces of `step` bytes, and writes what it saw to out. */
struct reader {
    char *out;
    size_t len;
    size_t room;
    enum { AT_LINE, AT_KEYS, AT_LONG_KEY, AT_BODY, AT_CLOSED } at;
    uint64_t body_left;
};

static void note(struct reader *r, const char *kind, struct slice text)
{
    int n = snprintf(r->out + r->len, r->room - r->len, "%s(%.*s)", kind, (int)text.len,
                     text.len > 0 ? text.ptr : "");

    r->len += (size_t)n;
    assert_true(r->len < r->room);
}

static size_t read_request(struct reader *r, struct slice in)
{
    struct mc_request request;
    char text[4096];
    size_t used;

    switch (mc_parse_request(in, &request, &used)) {
    case MC_MORE: return 0;
    case MC_BAD:
        note(r, "bad", slice_of(NULL, 0));
        r->at = AT_CLOSED;
        return in.len;
    case MC_DONE: break;
    }
    describe(&request, text, sizeof(text));
    note(r, "request", slice_str(text));
    r->body_left = (uint64_t)request.body_bytes + 2;
    r->at = request.has_keys ? AT_KEYS : request.has_body ? AT_BODY : AT_LINE;
    return used;
}

static size_t read_key(struct reader *r, struct slice in)
{
    struct slice key;
    bool last;
    size_t used;

    switch (mc_parse_key(in, &key, &last, &used)) {
    case MC_KEY:
        note(r, "key", key);
        /* When the line's end comes later it is seen as MC_KEY_END. */
        if (last) {
            note(r, "end", slice_of(NULL, 0));
            r->at = AT_LINE;
        }
        break;
    case MC_KEY_LONG:
        note(r, "long", slice_of(NULL, 0));
        r->at = AT_LONG_KEY;
        used += mc_skip_key(slice_after(in, used));
        break;
    case MC_KEY_END:
        note(r, "end", slice_of(NULL, 0));
        r->at = AT_LINE;
        break;
    case MC_KEY_MORE: break;
    }
    return used;
}

static size_t read_some(struct reader *r, struct slice in)
{
    size_t n;

    switch (r->at) {
    case AT_LINE: return read_request(r, in);
    case AT_KEYS: return read_key(r, in);
    case AT_LONG_KEY:
        n = mc_skip_key(in);
        r->at = n < in.len ? AT_KEYS : AT_LONG_KEY;
        return n > 0 ? n : read_key(r, in);
    case AT_BODY:
        n = in.len < r->body_left ? in.len : (size_t)r->body_left;
        r->body_left -= n;
        r->at = r->body_left > 0 ? AT_BODY : AT_LINE;
        return n;
    case AT_CLOSED: break;
    }
    return in.len;
}

/* first: where the stream is cut the first time; then every `step` bytes. */
static const char *read_stream(struct slice stream, size_t first, size_t step)
{
    static char out[2][64 * 1024];
    static unsigned turn;
    struct reader r = {.out = out[turn++ % 2], .room = sizeof(out[0])};
    size_t start = 0;

    r.out[0] = '\0';
    for (size_t have = first; start < stream.len; have += step) {
        size_t end = have < stream.len ? have : stream.len;
        const char *piece = guarded_copy(stream.ptr + start, end - start);
        size_t at = 0;
        size_t n;

        while (at < end - start && (n = read_some(&r, slice_of(piece + at, end - start - at))) > 0)
            at += n;
        start += at;
        if (have >= stream.len)
            break;
    }
    return r.out;
}

static const char every_command[] = "get a\r\nget b c  d \r\ngets " KEY_250 " " KEY_251 " e\n"
                                    "gat 10 a\r\ngats  -1  b c\r\ngat x a\r\ngat 5\r\nget \r\n"
                                    "get " KEY_251 "\r\n get f\r\n"
                                    "set k 1 2 5\r\nab\r\nc\r\nset k 0 0 0 noreply\r\n\r\n"
                                    "cas k 1 2 3 4\r\nabc\r\nappend k 9x 0 1\r\na\r\n"
                                    "incr k 1\r\ndelete k 0\r\ntouch k 5\r\nflush_all 1\r\n"
                                    "get x\ry\r\nq\r\n\r\nstats items\r\nversion\nquit\r\n";

static void a_stream_means_the_same_wherever_it_is_cut(void **state)
{
    struct slice stream = slice_str(every_command);
    const char *whole = read_stream(stream, stream.len, 1);

    (void)state;
    assert_non_null(strstr(whole, "key(x\ry)end()"));
    assert_non_null(strstr(whole, "key(" KEY_250 ")long()key(e)end()"));
    assert_non_null(strstr(whole, "long()end()request(get"));
    assert_non_null(strstr(whole, "request(quit"));
    for (size_t cut = 1; cut < stream.len; cut++) {
        const char *pieces;

        whole = read_stream(stream, stream.len, 1);
        pieces = read_stream(stream, cut, stream.len);
        if (strcmp(whole, pieces) != 0)
            fail_msg("cut at %zu:\n%s\nwhole:\n%s", cut, pieces, whole);
    }
    for (size_t step = 1; step < 300; step++) {
        whole = read_stream(stream, stream.len, 1);
        assert_string_equal(read_stream(stream, step, step), whole);
    }
}

static void no_beginning_of_a_line_is_a_request(void **state)
{
    static const char *const lines[] = {
        "set k 1 2 5 noreply\r\n", "version\r\n", "gat 100 ", "delete k\n", "foobar\r\n", "get "};

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        for (size_t cut = 0; cut < strlen(lines[i]); cut++) {
            enum mc_status status = status_of(lines[i], cut);

            if (status != MC_MORE)
                fail_msg("%.*s: %d", (int)cut, lines[i], status);
        }
    }
}

static void a_line_of_keys_has_no_bound(void **state)
{
    static char line[4 + 40000 * 6 + 2];
    struct slice rest;
    struct mc_request r;
    struct slice key;
    bool last = false;
    size_t used;
    size_t len = 4;
    unsigned count = 0;

    (void)state;
    memcpy(line, "get ", 4);
    for (; count < 40000; count++, len += 6)
        memcpy(line + len, "k1234 ", 6);
    memcpy(line + len, "\r\n", 2);
    rest = slice_of(line, len + 2);
    assert_int_equal(mc_parse_request(rest, &r, &used), MC_DONE);
    assert_true(r.has_keys);
    for (count = 0;
         rest = slice_after(rest, used), mc_parse_key(rest, &key, &last, &used) == MC_KEY; count++)
        assert_true(slice_is(key, "k1234"));
    assert_int_equal(count, 40000);
    assert_int_equal(used, rest.len);
}

/* ---- replies ---- */

static void a_value_line_has_single_blanks_and_no_more(void **state)
{
    char out[MC_VALUE_LINE_MAX];
    uint64_t cas = UINT64_MAX;
    size_t n;

    (void)state;
    n = mc_format_value(out, slice_str("a"), 0, 0, NULL);
    assert_true(slice_is(slice_of(out, n), "VALUE a 0 0\r\n"));
    n = mc_format_value(out, slice_str(KEY_250), UINT32_MAX, UINT64_MAX, &cas);
    assert_true(slice_is(slice_of(out, n), "VALUE " KEY_250 " 4294967295 18446744073709551615 "
                                           "18446744073709551615\r\n"));
    n = mc_format_number(out, UINT64_MAX);
    assert_true(slice_is(slice_of(out, n), "18446744073709551615\r\n"));
}

static void every_error_has_a_line_of_one_of_the_three_forms(void **state)
{
    (void)state;
    for (enum mc_error error = MC_NO_ERROR + 1; error < MC_ERROR_COUNT; error++) {
        struct slice line = mc_error_line(error);

        assert_true(slice_is(line, "ERROR\r\n") || slice_starts(line, slice_str("CLIENT_ERROR ")) ||
                    slice_starts(line, slice_str("SERVER_ERROR ")));
        assert_true(slice_is(slice_after(line, line.len - 2), "\r\n"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(storage_lines_are_read),
        cmocka_unit_test(a_known_length_is_swallowed_after_an_error),
        cmocka_unit_test(without_a_length_nothing_is_swallowed_and_noreply_not_heard),
        cmocka_unit_test(lines_with_a_key_are_read),
        cmocka_unit_test(other_lines_are_read),
        cmocka_unit_test(what_is_too_short_for_a_command_is_a_client_error),
        cmocka_unit_test(words_behind_the_name_are_handed_over),
        cmocka_unit_test(a_browsers_request_line_closes),
        cmocka_unit_test(a_line_without_end_closes),
        cmocka_unit_test(a_stream_means_the_same_wherever_it_is_cut),
        cmocka_unit_test(no_beginning_of_a_line_is_a_request),
        cmocka_unit_test(a_line_of_keys_has_no_bound),
        cmocka_unit_test(a_value_line_has_single_blanks_and_no_more),
        cmocka_unit_test(every_error_has_a_line_of_one_of_the_three_forms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
