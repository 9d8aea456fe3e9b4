/*
 * test_http_session.c - one connection that speaks HTTP (session/http_*.c, session/admin*.c).
 *
 * Network and store are fakes, so that every order of events can be played: writes that are not
 * done yet, reads that wait for the disk, files without room, a client that goes away in between.
 * The pool on which keys are listed is real.
 */
#include <errno.h>

#include "http_fakes.h"

#define BIG (2u * 1024 * 1024)

/* ---- order ---- */

static void replies_come_in_the_order_of_the_requests(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc"
            "GET /k HTTP/1.1\r\n" HOST "\r\nGET /none HTTP/1.1\r\n" HOST "\r\n"
            "DELETE /k HTTP/1.1\r\n" HOST "\r\nGET /k HTTP/1.1\r\n" HOST "\r\n");
    expect_nothing(&c);
    assert_true(c.held);
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    expect_reply(&c, 200, "abc");
    expect_reply(&c, 404, "Not Found\n");
    expect_nothing(&c);
    finish_write(&c);
    expect_reply(&c, 200, "OK\n");
    expect_reply(&c, 404, "Not Found\n");
    expect_nothing(&c);
    assert_false(c.held || c.closing);
    conn_gone(&c);
}

static void many_requests_of_one_piece_take_one_call(void **state)
{
    struct conn c;
    struct buf text = {0};

    (void)state;
    start(&c);
    store_now(&c, "k", "v");
    c.inputs = 0;
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_printf(&text, "GET /k HTTP/1.1\r\n" HOST "\r\n"), 0);
    conn_feed(&c, text.data, text.len);
    assert_int_equal(c.inputs, 1);
    for (int i = 0; i < 100; i++)
        expect_reply(&c, 200, "v");
    buf_free(&text);
    conn_gone(&c);
}

static void a_read_that_waits_keeps_what_it_needs(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a.png", "value");
    fake.reads_are_cold = true;
    say(&c, "GET /%61.png HTTP/1.1\r\n" HOST "If-None-Match: \"0\"\r\nContent-Length: 3\r\n\r\nxyz"
            "HEAD /a.png HTTP/1.1\r\n" HOST "\r\n");
    assert_true(c.held);
    finish_read(&c);
    assert_true(output_has(&c, "Content-Type: image/png\r\n"));
    expect_reply(&c, 200, "value");
    assert_true(c.held);
    finish_read(&c);
    assert_true(output_has(&c, "Content-Length: 5\r\n"));
    expect_reply(&c, 200, "");
    expect_nothing(&c);
    assert_int_equal(counter_get(&fake_counters, COUNTER_GET_COLD), 2);
    conn_gone(&c);
}

static void a_talk_cut_anywhere_has_the_same_replies(void **state)
{
    static const char talk[] =
        "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"
        "\r\nGET /k HTTP/1.1\r\n" HOST "\r\n"
        "PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\n"
        "T: u\r\n\r\nHEAD /k HTTP/1.1\r\n" HOST "\r\n"
        "GET /none HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nxyzDELETE /k HTTP/1.1\r\n" HOST
        "\r\n";

    (void)state;
    for (size_t cut = 0; cut < sizeof(talk); cut++) {
        struct conn c;

        start(&c);
        for (size_t at = 0; at < sizeof(talk) - 1;) {
            /* cut 0: byte by byte */
            size_t end = cut == 0 ? at + 1 : at < cut ? cut : sizeof(talk) - 1;

            conn_feed(&c, talk + at, end - at);
            at = end;
            while (fake.write_count > 0)
                finish_write(&c);
        }
        expect_reply(&c, 201, "Created\n");
        expect_reply(&c, 200, "hello");
        expect_reply(&c, 201, "Created\n");
        assert_true(output_has(&c, "Content-Length: 4\r\n"));
        expect_reply(&c, 200, "");
        expect_reply(&c, 404, "Not Found\n");
        expect_reply(&c, 200, "OK\n");
        expect_nothing(&c);
        conn_gone(&c);
    }
}

static void full_output_stops_further_replies(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "k", "v");
    c.full = true;
    say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\nGET /k HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 200, "v");
    expect_nothing(&c);
    assert_true(c.held);
    c.full = false;
    conn_wake(&c);
    conn_run(&c);
    expect_reply(&c, 200, "v");
    expect_nothing(&c);
    conn_gone(&c);
}

/* ---- values ---- */

static void values_come_the_way_the_store_hands_them_over(void **state)
{
    struct conn c;
    struct fake_record *r;
    char value[20001];

    (void)state;
    start(&c);
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    r = fake_make(slice_str("k"));
    fake_put(r, slice_str(value), slice_of(NULL, 0));
    /* Without a hold it is gone after the next read. */
    say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 200, value);
    fake.reads_are_cold = true;
    say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\n");
    finish_read(&c);
    expect_reply(&c, 200, "<20000 of memory>");
    fake.reads_are_cold = false;
    r->file_fd = 99;
    say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\n");
    assert_true(output_has(&c, "Content-Length: 20000\r\n"));
    expect_reply(&c, 200, "<20000 of file 99 at 7>");
    say(&c, "HEAD /k HTTP/1.1\r\n" HOST "\r\n");
    assert_true(output_has(&c, "Content-Length: 20000\r\n"));
    expect_reply(&c, 200, "");
    expect_nothing(&c);
    conn_gone(&c);
}

static void memory_of_values_counts_until_their_clients_have_them(void **state)
{
    struct conn c[2];
    char value[20001];

    (void)state;
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    fake_put(fake_make(slice_str("k")), slice_str(value), slice_of(NULL, 0));
    fake.reads_are_cold = true;
    fake_budget.limit_bytes = 30000;
    for (int i = 0; i < 2; i++) {
        start(&c[i]);
        c[i].slow = true;
        say(&c[i], "GET /k HTTP/1.1\r\n" HOST "\r\n");
        finish_read(&c[i]);
    }
    expect_reply(&c[0], 200, "<20000 of memory>");
    assert_true(output_has(&c[1], "Retry-After: 1\r\n"));
    expect_reply(&c[1], 503, "Service Unavailable\n");
    assert_int_equal(fake.holds, 1);
    assert_int_equal(held_bytes(), 20000);
    conn_gone(&c[0]); /* in the middle of the value */
    assert_int_equal(fake.holds, 0);
    assert_int_equal(held_bytes(), 0);
    say(&c[1], "GET /k HTTP/1.1\r\n" HOST "\r\n");
    finish_read(&c[1]);
    expect_reply(&c[1], 200, "<20000 of memory>");
    conn_gone(&c[1]);
}

static void a_counter_shows_its_number(void **state)
{
    struct conn c;
    struct fake_record *r;

    (void)state;
    start(&c);
    store_now(&c, "n", "95");
    r = fake_find(slice_str("n"));
    r->slot = 5;
    say(&c, "GET /n HTTP/1.1\r\n" HOST "\r\n");
    assert_true(output_has(&c, "ETag: \"0000000000000001\"\r\n"));
    expect_reply(&c, 200, "100");
    /* The length is that of the number, for which the value has to be read. */
    say(&c, "HEAD /n HTTP/1.1\r\n" HOST "\r\n");
    assert_true(output_has(&c, "Content-Length: 3\r\n"));
    expect_reply(&c, 200, "");
    fake.reads_are_cold = true;
    say(&c, "HEAD /n HTTP/1.1\r\n" HOST "\r\n");
    finish_read(&c);
    expect_nothing(&c);
    finish_read(&c);
    assert_true(output_has(&c, "Content-Length: 3\r\n"));
    expect_reply(&c, 200, "");
    conn_gone(&c);
}

static void an_unchanged_value_is_304_without_body(void **state)
{
    static const struct {
        const char *fields;
        unsigned status;
    } rows[] = {
        {"If-None-Match: \"0000000000000001000000000000\"\r\n", 304},
        {"If-None-Match: \"a\", W/\"0000000000000001000000000000\"\r\n", 304},
        {"If-None-Match: *\r\n", 304},
        {"If-None-Match: \"0000000000000002000000000000\"\r\n", 200},
        {"If-None-Match:\r\n", 200},
        {"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 304},
        {"If-Modified-Since: yesterday\r\n", 200},
        /* The list alone counts if both are there. */
        {"If-None-Match: \"x\"\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 200},
    };
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "k", "v"); /* its base version is 1, so it is of 1970 */
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[256];

        snprintf(text, sizeof(text), "GET /k HTTP/1.1\r\n" HOST "%s\r\n", rows[i].fields);
        say(&c, text);
        assert_true(output_has(&c, "ETag: \"0000000000000001000000000000\"\r\n"));
        expect_reply(&c, rows[i].status, rows[i].status == 200 ? "v" : "");
        expect_nothing(&c);
    }
    conn_gone(&c);
}

/* ---- bodies ---- */

static void memory_follows_what_has_come(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
    assert_int_equal(held_bytes(), 1); /* the key */
    assert_true(c.partial);
    for (size_t sent = 10000; sent < 1000000; sent += 10000) {
        send_zeros(&c, 10000);
        assert_true(held_bytes() >= sent && held_bytes() <= 2 * sent + 1);
    }
    assert_true(held_bytes() <= 1000001);
    send_zeros(&c, 10000);
    assert_int_equal(fake.write_count, 1);
    assert_int_equal(fake.writes[0]->value_len, 1000000);
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    assert_false(c.partial);
    assert_int_equal(held_bytes(), 0);
    conn_gone(&c);
}

static void a_big_body_goes_to_a_file_once_enough_has_come(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 60000000\r\n\r\nx");
    assert_int_equal(fake.spools, 0);
    send_zeros(&c, BIG);
    assert_int_equal(fake.spools, 1);
    assert_int_equal(held_bytes(), SESSION_SPOOL_BYTES + 1);
    client_ends(&c); /* it will never be complete */
    assert_int_equal(fake.spools, 0);
    assert_int_equal(held_bytes(), 0);
    assert_true(c.closing);
    expect_nothing(&c);
    conn_gone(&c);
}

static void beyond_the_memory_bound_no_file_is_begun(void **state)
{
    struct conn c[2];

    (void)state;
    fake_budget.limit_bytes = SESSION_SPOOL_BYTES + 256 * 1024;
    for (int i = 0; i < 2; i++) {
        start(&c[i]);
        say(&c[i], "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 2097152\r\n\r\n");
        send_zeros(&c[i], 128 * 1024);
    }
    assert_int_equal(fake.spools, 1);
    assert_true(output_has(&c[1], "Connection: close\r\n"));
    expect_reply(&c[1], 503, "Service Unavailable\n");
    assert_true(c[1].closing && c[1].partial);
    assert_int_equal(held_bytes(), SESSION_SPOOL_BYTES + 1);
    send_zeros(&c[0], BIG - 128 * 1024);
    finish_write(&c[0]);
    expect_reply(&c[0], 201, "Created\n");
    assert_int_equal(held_bytes(), 0);
    for (int i = 0; i < 2; i++)
        conn_gone(&c[i]);
}

static void a_chunked_body_is_stored_from_memory_or_file(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n200000\r\n");
    send_zeros(&c, BIG);
    assert_int_equal(fake.spools, 1);
    say(&c, "\r\n3\r\nabc\r\n0\r\n\r\n");
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    assert_int_equal(fake_find(slice_str("k"))->value.len, BIG + 3);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    assert_int_equal(fake_find(slice_str("k"))->value.len, 0);
    conn_gone(&c);
}

static void a_full_file_queue_stops_the_input(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    fake.spool_is_full = true;
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 2097152\r\n\r\n");
    send_zeros(&c, 128 * 1024);
    assert_true(c.held);
    fake.spool_is_full = false;
    fake.on_room(fake.on_room_arg);
    conn_run(&c);
    assert_false(c.held);
    send_zeros(&c, BIG - 128 * 1024);
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    assert_int_equal(fake_find(slice_str("k"))->value.len, BIG);
    conn_gone(&c);
}

static void a_body_that_fills_the_queue_at_its_end_is_submitted_all_the_same(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    fake.spool_is_full = true;
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n100001\r\n");
    send_zeros(&c, 1024 * 1024);
    fake.spool_is_full = true;
    say(&c, "z\r\n0\r\n\r\n");
    assert_true(c.held);
    fake.on_room(fake.on_room_arg);
    conn_run(&c);
    assert_int_equal(fake.write_count, 1);
    fake.on_room(fake.on_room_arg); /* of no interest any more */
    assert_true(c.held);
    finish_write(&c);
    expect_reply(&c, 201, "Created\n");
    assert_false(c.held);
    conn_gone(&c);
}

static void announced_bodies_that_do_not_come_cost_nothing(void **state)
{
    enum { CONNECTIONS = 400 };
    static struct conn conns[CONNECTIONS];

    (void)state;
    for (int i = 0; i < CONNECTIONS; i++) {
        start(&conns[i]);
        say(&conns[i], "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 60000000\r\n\r\nx");
    }
    assert_true(held_bytes() <= CONNECTIONS * 4097);
    assert_int_equal(fake.spools, 0);
    for (int i = 0; i < CONNECTIONS; i++)
        conn_gone(&conns[i]);
}

static void beyond_the_memory_bound_a_body_is_refused(void **state)
{
    struct conn c;

    (void)state;
    fake_budget.limit_bytes = 100000;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 1000000\r\n\r\n");
    send_zeros(&c, 200000);
    assert_true(output_has(&c, "Retry-After: 1\r\n") && output_has(&c, "Connection: close\r\n"));
    expect_reply(&c, 503, "Service Unavailable\n");
    expect_nothing(&c);
    assert_true(c.closing && c.partial);
    assert_int_equal(held_bytes(), 0);
    conn_gone(&c);
}

static void long_keys_of_requests_under_way_count(void **state)
{
    struct conn c[2];
    struct buf text = {0};
    char key[60001];

    (void)state;
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = '\0';
    fake_budget.limit_bytes = 100000;
    fake.reads_are_cold = true;
    assert_int_equal(buf_printf(&text, "GET /%s HTTP/1.1\r\n" HOST "\r\n", key), 0);
    for (int i = 0; i < 2; i++) {
        start(&c[i]);
        conn_feed(&c[i], text.data, text.len);
    }
    assert_true(held_bytes() >= 60000);
    expect_reply(&c[1], 503, "Service Unavailable\n");
    finish_read(&c[0]);
    expect_reply(&c[0], 404, "Not Found\n");
    assert_int_equal(held_bytes(), 0);
    text.len = 0;
    assert_int_equal(buf_printf(&text, "DELETE /%s HTTP/1.1\r\n" HOST "\r\n", key), 0);
    for (int i = 0; i < 2; i++)
        conn_feed(&c[i], text.data, text.len);
    expect_reply(&c[1], 503, "Service Unavailable\n");
    finish_write(&c[0]);
    expect_reply(&c[0], 404, "Not Found\n");
    for (int i = 0; i < 2; i++)
        conn_gone(&c[i]);
    buf_free(&text);
}

static void a_file_that_cannot_be_written_is_a_refusal(void **state)
{
    static const struct {
        int error;
        unsigned status;
        const char *body;
    } rows[] = {
        {-ENOSPC, 507, "Insufficient Storage\n"}, {-ENOMEM, 503, "Service Unavailable\n"},
        {-EMFILE, 503, "Service Unavailable\n"},  {-ENFILE, 503, "Service Unavailable\n"},
        {-EROFS, 503, "Service Unavailable\n"},   {-EIO, 500, "Internal Server Error\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct conn c;

        /* At its beginning, and after a while. */
        for (int later = 0; later < 2; later++) {
            start(&c);
            fake.spool_error = later ? 0 : rows[i].error;
            say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 2097152\r\n\r\n");
            send_zeros(&c, 100000);
            fake.spool_error = rows[i].error;
            send_zeros(&c, 100000);
            fake.spool_error = 0;
            expect_reply(&c, rows[i].status, rows[i].body);
            assert_true(c.closing && c.partial);
            assert_int_equal(fake.spools, 0);
            conn_gone(&c);
        }
    }
}

static void continue_is_said_only_for_a_body_that_is_wanted_and_not_there(void **state)
{
    static const struct {
        const char *text;
        unsigned status; /* of the first reply; 0: none yet */
        bool closes;
    } rows[] = {
        {"PUT /k HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 100,
         false},
        {"PUT /k HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
         100, false},
        {"PUT /k HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhe", 0,
         false},
        {"PUT /k HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 0, false},
        {"PUT /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n", 0, false},
        {"PUT /k HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2147483647\r\n\r\n",
         413, true},
        {"PUT /k HTTP/1.1\r\n" HOST "Expect: more\r\nContent-Length: 5\r\n\r\n", 417, true},
        {"PUT /%g HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 400,
         true},
        {"PUT /-/x HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 404,
         true},
        {"GET /k HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 404, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct conn c;

        start(&c);
        say(&c, rows[i].text);
        if (rows[i].status == 0)
            expect_nothing(&c);
        else
            expect_reply(&c, rows[i].status, "");
        if (c.closing != rows[i].closes)
            fail_msg("%s", rows[i].text);
        conn_gone(&c);
    }
}

static void modes_of_put_are_those_of_tokyo_tyrant(void **state)
{
    static const struct {
        const char *mode;
        const char *body;
        unsigned status;
        const char *value; /* afterwards */
    } rows[] = {
        {"2", "a", 201, "a"}, {"2", "b", 201, "ab"}, {"1", "c", 409, "ab"},
        {"0", "d", 201, "d"}, {"x", "e", 201, "e"},
    };
    struct conn c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[256];

        snprintf(text, sizeof(text),
                 "PUT /k HTTP/1.1\r\n" HOST "X-TT-PDMODE: %s\r\nContent-Length: 1\r\n\r\n%s",
                 rows[i].mode, rows[i].body);
        say(&c, text);
        finish_write(&c);
        expect_reply(&c, rows[i].status, rows[i].status == 409 ? "Conflict\n" : "Created\n");
        say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\n");
        expect_reply(&c, 200, rows[i].value);
    }
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "X-TT-PDMODE: 2\r\nContent-Length: 2000000\r\n\r\n");
    expect_reply(&c, 413, "");
    conn_gone(&c);
}

/* ---- refusals ---- */

static void what_the_store_says_becomes_a_status(void **state)
{
    static const struct {
        enum store_status status;
        unsigned code;
    } rows[] = {
        {STORE_NO_MEMORY, 503}, {STORE_NO_SPACE, 507}, {STORE_READ_ONLY, 503},
        {STORE_DAMAGED, 500},   {STORE_IO_ERROR, 500}, {STORE_TOO_LARGE, 413},
    };
    struct conn c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fake.read_as = fake.write_as = rows[i].status;
        say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\n");
        expect_reply(&c, rows[i].code, "");
        c.output.len = 0;
        say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx");
        finish_write(&c);
        expect_reply(&c, rows[i].code, "");
        c.output.len = 0;
        say(&c, "DELETE /k HTTP/1.1\r\n" HOST "\r\n");
        finish_write(&c);
        expect_reply(&c, rows[i].code, "");
        c.output.len = 0;
        assert_false(c.closing);
    }
    fake.read_as = fake.write_as = STORE_OK;
    conn_gone(&c);
}

static void small_bodies_of_refused_requests_are_dropped_and_never_read(void **state)
{
    static const struct {
        const char *text;
        unsigned status;
    } rows[] = {
        {"POST /k HTTP/1.1\r\n" HOST "Content-Length: 26\r\n\r\nGET /evil HTTP/1.1\r\nH: a\r\n",
         405},
        {"PUT /%g HTTP/1.1\r\n" HOST "Content-Length: 26\r\n\r\nGET /evil HTTP/1.1\r\nH: a\r\n",
         400},
        {"PUT /-/x HTTP/1.1\r\n" HOST "Content-Length: 26\r\n\r\nGET /evil HTTP/1.1\r\nH: a\r\n",
         404},
        {"PUT /k HTTP/1.1\r\n" HOST "Content-Type: a\tb\r\nContent-Length: 4\r\n\r\n\r\n\r\n", 400},
        {"PUT /k HTTP/1.1\r\n" HOST
         "Content-Range: bytes 4-7/9\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
         400},
        {"PUT /k HTTP/1.1\r\n" HOST "content-range:\r\nContent-Length: 4\r\n\r\n\r\n\r\n", 400},
    };
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "after", "v");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        say(&c, rows[i].text);
        expect_reply(&c, rows[i].status, "");
        c.output.len = 0;
        say(&c, "GET /after HTTP/1.1\r\n" HOST "\r\n");
        expect_reply(&c, 200, "v");
        expect_nothing(&c);
    }
    conn_gone(&c);
}

static void after_other_refusals_nothing_is_read(void **state)
{
    static const struct {
        const char *text;
        unsigned status;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\n\n", 400},
        {"GET / HTTP/3.0\r\n\r\n", 505},
        {"PUT /k HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
        {"PUT /k HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\nx", 400},
        {"PUT /k HTTP/1.1\r\n" HOST "Content-Length: 67108865\r\n\r\n", 413},
        {"PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n4000001\r\n", 0},
        {"POST /k HTTP/1.1\r\n" HOST "Content-Length: 65537\r\n\r\n", 405},
        {"DELETE /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct conn c;

        start(&c);
        say(&c, rows[i].text);
        if (strstr(rows[i].text, "4000001") != NULL) {
            /* Not for the announcement: when it is over the limit. */
            expect_nothing(&c);
            send_zeros(&c, 0x4000001);
            expect_reply(&c, 413, "");
        } else if (rows[i].status == 0) {
            finish_write(&c);
            expect_reply(&c, 404, "");
        } else {
            expect_reply(&c, rows[i].status, "");
        }
        assert_true(c.closing);
        /* net lets the client read the reply before the connection is reset. */
        assert_true(c.partial);
        conn_gone(&c);
    }
}

static void while_the_store_starts_only_live_and_ready_answer(void **state)
{
    struct conn c;

    (void)state;
    fake.state = STORE_STARTING;
    start(&c);
    say(&c, "GET /-/live HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 200, "{\"live\":true}\n");
    say(&c, "GET /-/ready HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 503,
                 "{\"state\":\"starting\",\"ready\":false,\"weight\":100,\"lag_ms\":0,"
                 "\"progress_percent\":42}\n");
    say(&c, "GET /k HTTP/1.1\r\n" HOST "\r\nPUT /k HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx"
            "DELETE /k HTTP/1.1\r\n" HOST "\r\nGET /-/keys HTTP/1.1\r\n" HOST "\r\n"
            "GET /-/metrics HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 5; i++) {
        assert_true(output_has(&c, "Retry-After: 1\r\n"));
        expect_reply(&c, 503, "Service Unavailable\n");
    }
    expect_nothing(&c);
    assert_false(c.closing);
    conn_gone(&c);
}

/* ---- clients that go away, servers that stop ---- */

static void a_client_that_goes_away_leaves_nothing_behind(void **state)
{
    static const char *const beginnings[] = {
        "G",
        "GET /k HTTP/1.1\r\n" HOST,
        "GET /k HTTP/1.1\r\n" HOST "\r\n",
        "GET /k HTTP/1.1\r\n" HOST "\r\nGET /k HTTP/1.1\r\n" HOST "\r\n",
        "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n",
        "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhel",
        "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello",
        "PUT /k HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "DELETE /k HTTP/1.1\r\n" HOST "\r\n",
        "POST /k HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhel",
    };

    (void)state;
    fake.reads_are_cold = true;
    for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++) {
        struct conn c;

        start(&c);
        say(&c, beginnings[i]);
        conn_gone(&c);
        /* What was under way ends without it; fakes_end() counts what is left. */
        while (fake.read_count > 0)
            fake_finish_read();
        while (fake.write_count > 0)
            fake_finish_writes(1);
        assert_int_equal(held_bytes(), 0);
    }
}

static void a_complete_write_is_carried_out_for_a_client_that_has_gone(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Content-Length: 2097152\r\n\r\n");
    send_zeros(&c, BIG);
    conn_gone(&c);
    fake_finish_writes(1);
    assert_int_equal(fake_find(slice_str("k"))->value.len, BIG);
}

static void a_client_that_says_close_gets_its_reply_and_is_closed(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "PUT /k HTTP/1.1\r\n" HOST "Connection: close\r\nContent-Length: 1\r\n\r\nx");
    assert_false(c.closing);
    finish_write(&c);
    assert_true(output_has(&c, "Connection: close\r\n"));
    expect_reply(&c, 201, "Created\n");
    assert_true(c.closing && !c.partial);
    conn_gone(&c);
}

static void a_server_that_stops_says_close(void **state)
{
    struct conn c;

    (void)state;
    for (int i = 0; i < 2; i++) {
        worker_is_stopping = i == 0;
        atomic_store(&fake_app.draining, i == 1);
        start(&c);
        say(&c, "GET /-/ready HTTP/1.1\r\n" HOST "\r\n");
        assert_true(output_has(&c, "Connection: close\r\n"));
        if (i == 0)
            expect_reply(&c, 200, "{\"state\":\"serving\"");
        else
            expect_reply(&c, 503, "{\"state\":\"draining\"");
        assert_true(c.closing);
        conn_gone(&c);
    }
    worker_is_stopping = false;
    atomic_store(&fake_app.draining, false);
}

static void ready_for_write_needs_a_store_that_takes_writes(void **state)
{
    struct conn c;

    (void)state;
    fake.write_as = STORE_NO_SPACE;
    start(&c);
    say(&c, "GET /-/ready HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 200, "{\"state\":\"serving\",\"ready\":true,\"weight\":100,\"lag_ms\":0}\n");
    say(&c, "GET /-/ready?for=write HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 503, "{\"state\":\"the disk is full\",\"ready\":false");
    fake.write_as = STORE_OK;
    conn_gone(&c);
}

/* ---- keys ---- */

static void keys_come_in_pages(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "GET /-/keys?prefix=%70&limit=4 HTTP/1.1\r\n" HOST "\r\n");
    assert_true(c.held);
    finish_jobs();
    conn_run(&c);
    assert_true(output_has(&c, "X-TT-More: 1\r\n") && output_has(&c, "Content-Length: 28\r\n"));
    expect_reply(&c, 200, "<28 of memory>"); /* p%20/0 and so on, each with its LF */
    say(&c, "GET /-/keys?after=p%20/6&limit=4 HTTP/1.1\r\n" HOST "\r\n");
    finish_jobs();
    conn_run(&c);
    assert_false(output_has(&c, "X-TT-More"));
    expect_reply(&c, 200, "<18 of memory>");
    say(&c, "GET /-/keys?after=p%20/9 HTTP/1.1\r\n" HOST "\r\n");
    finish_jobs();
    conn_run(&c);
    assert_true(output_has(&c, "Content-Length: 0\r\n"));
    expect_reply(&c, 200, "");
    say(&c, "HEAD /-/keys HTTP/1.1\r\n" HOST "\r\n");
    finish_jobs();
    conn_run(&c);
    assert_true(output_has(&c, "Content-Length: 60\r\n"));
    expect_reply(&c, 200, "");
    expect_nothing(&c);
    assert_int_equal(held_bytes(), 0);
    conn_gone(&c);
}

static void keys_that_cannot_be_listed_are_refused(void **state)
{
    static const char *const queries[] = {
        "limit=0", "limit=10001", "limit=x", "limit=", "prefix=%2", "after=%g0", "limit=-1",
    };
    struct conn c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
        char text[128];

        snprintf(text, sizeof(text), "GET /-/keys?%s HTTP/1.1\r\n" HOST "\r\n", queries[i]);
        say(&c, text);
        expect_reply(&c, 400, "Bad Request\n");
    }
    scan_result = -EIO;
    say(&c, "GET /-/keys HTTP/1.1\r\n" HOST "\r\n");
    finish_jobs();
    conn_run(&c);
    expect_reply(&c, 500, "Internal Server Error\n");
    scan_result = 0;
    fake_budget.limit_bytes = 1000;
    say(&c, "GET /-/keys HTTP/1.1\r\n" HOST "\r\n");
    expect_reply(&c, 503, "Service Unavailable\n");
    expect_nothing(&c);
    conn_gone(&c);
}

static void a_listing_ends_without_its_client(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "GET /-/keys HTTP/1.1\r\n" HOST "\r\n");
    conn_gone(&c);
    finish_jobs();
    assert_int_equal(held_bytes(), 0);
}

/* ---- what acts ---- */

static void post(struct conn *c, const char *target, const char *verb)
{
    char text[128];

    snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", verb,
             target);
    say(c, text);
    if (!c->held)
        return;
    finish_jobs();
    conn_run(c);
}

static void a_compaction_is_asked_for_by_post_only(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    compactions_asked = 0;
    post(&c, "/-/compact", "GET");
    assert_true(output_has(&c, "Allow: OPTIONS, POST\r\n"));
    expect_reply(&c, 405, "Method Not Allowed\n");
    assert_int_equal(compactions_asked, 0);
    post(&c, "/-/compact", "POST");
    assert_true(output_has(&c, "HTTP/1.1 2"));
    assert_int_equal(compactions_asked, 1);
    conn_gone(&c);
    start(&c);
    post(&c, "/key", "POST");
    expect_reply(&c, 405, "Method Not Allowed\n");
    post(&c, "/-/keys", "POST");
    expect_reply(&c, 405, "Method Not Allowed\n");
    conn_gone(&c);
}

static void a_backup_is_a_lease(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    backup_lease_ms = 0;
    post(&c, "/-/backup?lease=5", "POST");
    expect_reply(&c, 200, "<39 of memory>");
    assert_int_equal(backup_lease_ms, 5000);
    post(&c, "/-/backup", "POST");
    assert_true(output_has(&c, "Retry-After: 1\r\n"));
    expect_reply(&c, 503, "Service Unavailable\n");
    post(&c, "/-/backup/renew?token=7&lease=9", "POST");
    expect_reply(&c, 200, "OK\n");
    assert_int_equal(backup_lease_ms, 9000);
    post(&c, "/-/backup/end?token=8", "POST");
    expect_reply(&c, 404, "Not Found\n");
    post(&c, "/-/backup/end?token=7", "POST");
    expect_reply(&c, 200, "OK\n");
    assert_int_equal(backup_lease_ms, 0);
    post(&c, "/-/backup/end?token=7", "POST");
    expect_reply(&c, 404, "Not Found\n");
    post(&c, "/-/backup?lease=3601", "POST");
    expect_reply(&c, 400, "Bad Request\n");
    conn_gone(&c);
}

static void a_backup_that_nobody_was_told_of_ends(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    backup_lease_ms = 0;
    say(&c, "POST /-/backup HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n");
    conn_gone(&c);
    finish_jobs();
    assert_int_equal(backup_lease_ms, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, http_start, http_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(replies_come_in_the_order_of_the_requests),
        TEST(many_requests_of_one_piece_take_one_call),
        TEST(a_read_that_waits_keeps_what_it_needs),
        TEST(a_talk_cut_anywhere_has_the_same_replies),
        TEST(full_output_stops_further_replies),
        TEST(values_come_the_way_the_store_hands_them_over),
        TEST(memory_of_values_counts_until_their_clients_have_them),
        TEST(a_counter_shows_its_number),
        TEST(an_unchanged_value_is_304_without_body),
        TEST(memory_follows_what_has_come),
        TEST(a_big_body_goes_to_a_file_once_enough_has_come),
        TEST(beyond_the_memory_bound_no_file_is_begun),
        TEST(a_chunked_body_is_stored_from_memory_or_file),
        TEST(a_full_file_queue_stops_the_input),
        TEST(a_body_that_fills_the_queue_at_its_end_is_submitted_all_the_same),
        TEST(announced_bodies_that_do_not_come_cost_nothing),
        TEST(beyond_the_memory_bound_a_body_is_refused),
        TEST(long_keys_of_requests_under_way_count),
        TEST(a_file_that_cannot_be_written_is_a_refusal),
        TEST(continue_is_said_only_for_a_body_that_is_wanted_and_not_there),
        TEST(modes_of_put_are_those_of_tokyo_tyrant),
        TEST(what_the_store_says_becomes_a_status),
        TEST(small_bodies_of_refused_requests_are_dropped_and_never_read),
        TEST(after_other_refusals_nothing_is_read),
        TEST(while_the_store_starts_only_live_and_ready_answer),
        TEST(a_client_that_goes_away_leaves_nothing_behind),
        TEST(a_complete_write_is_carried_out_for_a_client_that_has_gone),
        TEST(a_client_that_says_close_gets_its_reply_and_is_closed),
        TEST(a_server_that_stops_says_close),
        TEST(ready_for_write_needs_a_store_that_takes_writes),
        TEST(keys_come_in_pages),
        TEST(keys_that_cannot_be_listed_are_refused),
        TEST(a_listing_ends_without_its_client),
        TEST(a_compaction_is_asked_for_by_post_only),
        TEST(a_backup_is_a_lease),
        TEST(a_backup_that_nobody_was_told_of_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
