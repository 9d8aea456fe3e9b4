/*
 * test_ttbench_wire.c - requests that ttbench sends and replies that it accepts
 * (tools/ttbench_wire.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guarded.h"
#include "tools/ttbench_wire.h"

static const struct wire_request get_request = {
    .key = {"key-7", 5}, .host = {"h:1", 3}, .flags = 12, .writes = false};
static const struct wire_request set_request = {
    .key = {"key-7", 5}, .host = {"h:1", 3}, .flags = 12, .writes = true, .value_len = 300};

static void request_heads_have_the_protocols_bytes(void **state)
{
    static const struct {
        const char *wire;
        const struct wire_request *request;
        const char *head;
    } rows[] = {
        {"memcached", &get_request, "get key-7\r\n"},
        {"memcached", &set_request, "set key-7 12 0 300\r\n"},
        {"http", &get_request, "GET /key-7 HTTP/1.1\r\nHost: h:1\r\n\r\n"},
        {"http", &set_request, "PUT /key-7 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 300\r\n\r\n"},
        {"resp", &get_request, "*2\r\n$3\r\nGET\r\n$5\r\nkey-7\r\n"},
        {"resp", &set_request, "*3\r\n$3\r\nSET\r\n$5\r\nkey-7\r\n$300\r\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char out[WIRE_HEAD_BYTES_MAX];
        size_t len = wire_find(slice_str(rows[i].wire))->head(out, rows[i].request);

        if (!slice_is(slice_of(out, len), rows[i].head))
            fail_msg("%s: %.*s", rows[i].wire, (int)len, out);
    }
    assert_null(wire_find(slice_str("gopher")));
}

#define HTTP_OK "HTTP/1.1 200 OK\r\n"

static const struct {
    const char *wire;
    bool writes;
    const char *text;
    enum wire_status status;
    enum wire_kind kind;
    uint64_t body_len;
    const char *tail;
    bool closes;
} replies[] = {
    {"memcached", false, "VALUE key-7 12 300\r\n", WIRE_DONE, WIRE_VALUE, 300, "\r\nEND\r\n", 0},
    {"memcached", false, "VALUE key-7 12 0\r\n", WIRE_DONE, WIRE_VALUE, 0, "\r\nEND\r\n", 0},
    {"memcached", false, "END\r\n", WIRE_DONE, WIRE_MISS, 0, "", 0},
    {"memcached", false, "SERVER_ERROR busy\r\n", WIRE_DONE, WIRE_REFUSED, 0, "", 0},
    {"memcached", false, "VALUE key-8 12 300\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "VALUE key-7 13 300\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "VALUE key-7 12 300 9\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "VALUE key-7 12  300\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "VALUE key-7 12 \r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "STORED\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "ERROR\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "END\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", false, "\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", true, "STORED\r\n", WIRE_DONE, WIRE_STORED, 0, "", 0},
    {"memcached", true, "NOT_STORED\r\n", WIRE_DONE, WIRE_REFUSED, 0, "", 0},
    {"memcached", true, "STORED \r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", true, "END\r\n", WIRE_BAD, 0, 0, "", 0},
    {"memcached", true, "CLIENT_ERROR bad data chunk\r\n", WIRE_BAD, 0, 0, "", 0},
    {"resp", false, "$300\r\n", WIRE_DONE, WIRE_VALUE, 300, "\r\n", 0},
    {"resp", false, "$-1\r\n", WIRE_DONE, WIRE_MISS, 0, "", 0},
    {"resp", false, "-ERR no\r\n", WIRE_DONE, WIRE_REFUSED, 0, "", 0},
    {"resp", false, "+OK\r\n", WIRE_BAD, 0, 0, "", 0},
    {"resp", false, "$-2\r\n", WIRE_BAD, 0, 0, "", 0},
    {"resp", true, "+OK\r\n", WIRE_DONE, WIRE_STORED, 0, "", 0},
    {"resp", true, "-MISCONF x\r\n", WIRE_DONE, WIRE_REFUSED, 0, "", 0},
    {"resp", true, "$3\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, HTTP_OK "Content-Length: 300\r\n\r\n", WIRE_DONE, WIRE_VALUE, 300, "", 0},
    {"http", false, HTTP_OK "Server: x\r\ncontent-length:300\r\nA: b\r\n\r\n", WIRE_DONE,
     WIRE_VALUE, 300, "", 0},
    {"http", false, HTTP_OK "Content-Length: 3\r\nConnection: close\r\n\r\n", WIRE_DONE, WIRE_VALUE,
     3, "", 1},
    {"http", false, HTTP_OK "Content-Length: 3\r\nConnection: keep-alive\r\n\r\n", WIRE_DONE,
     WIRE_VALUE, 3, "", 0},
    {"http", false, "HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n", WIRE_DONE, WIRE_MISS,
     10, "", 0},
    {"http", false, "HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n", WIRE_DONE, WIRE_REFUSED, 5,
     "", 0},
    {"http", false, HTTP_OK "\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, HTTP_OK "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", WIRE_BAD, 0, 0, "",
     0},
    {"http", false, HTTP_OK "Content-Length: -3\r\n\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, HTTP_OK "Transfer-Encoding: chunked\r\n\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, "HTTP/1.1 204 No Content\r\n\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", false, "HTTP/1.1 2x0 OK\r\nContent-Length: 3\r\n\r\n", WIRE_BAD, 0, 0, "", 0},
    {"http", true, "HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n", WIRE_DONE, WIRE_STORED, 8,
     "", 0},
    {"http", true, "HTTP/1.1 204 No Content\r\n\r\n", WIRE_DONE, WIRE_STORED, 0, "", 0},
    {"http", true, "HTTP/1.1 413 Too Large\r\nContent-Length: 1\r\nConnection: close\r\n\r\n",
     WIRE_DONE, WIRE_REFUSED, 1, "", 1},
};

/* What follows the head must not be looked at, and a head that is not whole must be asked for. */
static void replies_are_known_whole_and_at_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
        const struct wire *wire = wire_find(slice_str(replies[i].wire));
        const struct wire_request *request = replies[i].writes ? &set_request : &get_request;
        size_t len = strlen(replies[i].text);

        for (size_t cut = 0; cut <= len; cut++) {
            struct wire_reply got;
            size_t used = 0;
            struct slice in = slice_of(guarded_copy(replies[i].text, cut), cut);
            enum wire_status status = wire->reply(in, request, &got, &used);

            if (cut < len && replies[i].status == WIRE_DONE && status != WIRE_MORE)
                fail_msg("reply %zu, %s: answer at byte %zu", i, replies[i].text, cut);
            if (cut < len)
                continue;
            if (status != replies[i].status)
                fail_msg("reply %zu, %s: status %d", i, replies[i].text, (int)status);
            if (status != WIRE_DONE)
                continue;
            if (used != len || got.kind != replies[i].kind || got.body_len != replies[i].body_len ||
                !slice_is(got.tail, replies[i].tail) || got.closes != replies[i].closes)
                fail_msg("reply %zu, %s: used %zu, kind %d, body %llu, tail %zu, closes %d", i,
                         replies[i].text, used, (int)got.kind, (unsigned long long)got.body_len,
                         got.tail.len, got.closes);
        }
    }
}

static void a_head_without_end_is_refused(void **state)
{
    static const char *const wires[] = {"memcached", "resp", "http"};
    size_t len = WIRE_REPLY_HEAD_MAX + 1;
    char *endless = malloc(len);

    (void)state;
    assert_non_null(endless);
    memset(endless, 'x', len);
    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
        struct wire_reply got;
        size_t used;

        assert_int_equal(wire_find(slice_str(wires[i]))
                             ->reply(slice_of(endless, len), &get_request, &got, &used),
                         WIRE_BAD);
    }
    free(endless);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_heads_have_the_protocols_bytes),
        cmocka_unit_test(replies_are_known_whole_and_at_every_split),
        cmocka_unit_test(a_head_without_end_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
