/*
 * test_mc_session.c - one connection that speaks memcached's text protocol (session/mc_*.c).
 *
 * Network and store are fakes, so that every order of events can be played: writes that are not
 * done yet, reads that wait for the disk, a client that goes away in between.
 */
#include <errno.h>

#include "base/version.h"
#include "session_fakes.h"

#define KEY_10 "0123456789"
#define KEY_50 KEY_10 KEY_10 KEY_10 KEY_10 KEY_10
#define KEY_251 KEY_50 KEY_50 KEY_50 KEY_50 KEY_50 "x"
#define BIG (2u * 1024 * 1024)

static void say(struct conn *c, const char *text)
{
    conn_feed(c, text, strlen(text));
}

/* What has come back since the last call. */
#define EXPECT(c, text)                                                                            \
    do {                                                                                           \
        struct slice got = buf_slice(&(c)->output);                                                \
                                                                                                   \
        if (!slice_is(got, text))                                                                  \
            fail_msg("got \"%.*s\"\nnot \"%s\"", (int)got.len, got.len > 0 ? got.ptr : "", text);  \
        (c)->output.len = 0;                                                                       \
    } while (0)

static void finish_writes(struct conn *c, unsigned count)
{
    fake_finish_writes(count);
    conn_run(c);
}

static void finish_read(struct conn *c)
{
    fake_finish_read();
    conn_run(c);
}

/* Stores at once, without a reply. */
static void store_now(struct conn *c, const char *key, const char *value)
{
    char text[512];

    snprintf(text, sizeof(text), "set %s 5 0 %zu noreply\r\n%s\r\n", key, strlen(value), value);
    say(c, text);
    finish_writes(c, fake.write_count);
    EXPECT(c, "");
}

static void start(struct conn *c)
{
    conn_open(c, &mc_text_protocol);
}

/* ---- order ---- */

static void a_write_is_answered_when_it_is_done(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 1 0 3\r\nabc\r\n");
    EXPECT(&c, "");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    say(&c, "get a\r\n");
    EXPECT(&c, "VALUE a 1 3\r\nabc\r\nEND\r\n");
    say(&c, "gets a\r\n");
    EXPECT(&c, "VALUE a 1 3 1\r\nabc\r\nEND\r\n");
    conn_gone(&c);
}

static void writes_are_under_way_together_and_a_read_waits_for_them(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 0 0 1\r\n1\r\nset b 0 0 1\r\n2\r\nnonsense\r\nget a b\r\nversion\r\n");
    assert_int_equal(fake.write_count, 2);
    EXPECT(&c, "");
    assert_true(c.busy);
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\nERROR\r\nVALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\nEND\r\n"
               "VERSION " TT_VERSION "\r\n");
    conn_gone(&c);
}

static void a_read_from_the_disk_holds_what_follows(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "one");
    store_now(&c, "b", "two");
    fake.reads_are_cold = true;
    say(&c, "get a b none\r\nset a 0 0 1\r\nx\r\nfoo\r\n");
    EXPECT(&c, "");
    assert_int_equal(fake.write_count, 0);
    assert_true(c.held);
    finish_read(&c);
    EXPECT(&c, "VALUE a 5 3\r\none\r\n");
    finish_read(&c);
    EXPECT(&c, "VALUE b 5 3\r\ntwo\r\n");
    finish_read(&c);
    EXPECT(&c, "END\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\nERROR\r\n");
    assert_int_equal(counter_get(&fake_counters, COUNTER_GET_COLD), 3);
    conn_gone(&c);
}

static void so_many_writes_are_under_way_and_no_more(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    for (unsigned i = 0; i < 100; i++)
        say(&c, "delete a noreply\r\n");
    assert_int_equal(fake.write_count, 64);
    assert_true(c.held);
    finish_writes(&c, 10);
    assert_int_equal(fake.write_count, 64);
    while (fake.write_count > 0)
        finish_writes(&c, 1);
    assert_false(c.held);
    assert_int_equal(counter_get(&fake_counters, COUNTER_DELETE_MISSES), 100);
    EXPECT(&c, "");
    conn_gone(&c);
}

static void so_many_bytes_are_under_way_and_no_more(void **state)
{
    static char value[300 * 1024 + 2];
    struct conn c;

    (void)state;
    start(&c);
    memset(value, 'v', sizeof(value) - 2);
    memcpy(value + sizeof(value) - 2, "\r\n", 2);
    for (unsigned i = 0; i < 6; i++) {
        say(&c, "set a 0 0 307200\r\n");
        conn_feed(&c, value, sizeof(value));
    }
    assert_int_equal(fake.write_count, 4);
    assert_true(atomic_load(&fake_budget.held_bytes) < 2u * 1024 * 1024);
    while (fake.write_count > 0)
        finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nSTORED\r\nSTORED\r\n");
    conn_gone(&c);
}

static void a_slow_client_gets_no_more_than_it_takes(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    c.full = true;
    say(&c, "get a\r\nget b\r\n");
    EXPECT(&c, "");
    assert_true(c.held);
    c.full = false;
    conn_wake(&c);
    conn_run(&c);
    EXPECT(&c, "END\r\nEND\r\n");
    conn_gone(&c);
}

/* ---- every command ---- */

static const char dialogue[] =
    "set a 7 0 2\r\n10\r\nadd a 0 0 1\r\nx\r\nadd b 0 0 1\r\nx\r\n"
    "replace c 0 0 1\r\nx\r\nreplace b 9 0 1\r\ny\r\n"
    "append b 1 0 2\r\nzz\r\nprepend b 1 0 1\r\nw\r\nappend c 0 0 1\r\nx\r\n"
    "incr a 5\r\ndecr a 1\r\ndecr a 100\r\nincr b 1\r\nincr c 1\r\n"
    "gets a b c\r\ncas b 0 0 1 1\r\nq\r\ncas c 0 0 1 1\r\nq\r\n"
    "cas b 0 0 1 0\r\nq\r\ntouch a 0\r\ntouch c 0\r\n"
    "gat 0 a b c\r\ngats 100 b\r\ngat x a b\r\n"
    "delete b\r\ndelete b 0\r\nget b a\r\n"
    "set d 0 0 1 noreply\r\n1\r\ndelete a noreply\r\nincr d 1 noreply\r\n"
    "get a d\r\nget\r\nget \r\nget " KEY_251 " d " KEY_251 KEY_10 " d " KEY_251 KEY_10 "\r\n"
    "set e 0 0 3\r\nabcde\r\nset " KEY_251 " 0 0 2\r\nab\r\n"
    "verbosity 1\r\nflush_all\r\nget d\r\nq\r\n"
    "set z 0 0 0\r\n\r\nget z\r\nready\r\nready write\r\n";

static const char answers[] = "STORED\r\nNOT_STORED\r\nSTORED\r\n"
                              "NOT_STORED\r\nSTORED\r\n"
                              "STORED\r\nSTORED\r\nNOT_STORED\r\n"
                              "15\r\n14\r\n0\r\n"
                              "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
                              "NOT_FOUND\r\n"
                              "VALUE a 7 1 1\r\n0\r\nVALUE b 9 4 5\r\nwyzz\r\nEND\r\n"
                              "EXISTS\r\nNOT_FOUND\r\nEXISTS\r\nTOUCHED\r\nNOT_FOUND\r\n"
                              "VALUE a 7 1\r\n0\r\nVALUE b 9 4\r\nwyzz\r\nEND\r\n"
                              "VALUE b 9 4 5\r\nwyzz\r\nEND\r\n"
                              "CLIENT_ERROR invalid exptime argument\r\n"
                              "DELETED\r\nNOT_FOUND\r\nVALUE a 7 1\r\n0\r\nEND\r\n"
                              "VALUE d 0 1\r\n2\r\nEND\r\n"
                              "CLIENT_ERROR bad command line format\r\n"
                              "CLIENT_ERROR bad command line format\r\n"
                              "VALUE d 0 1\r\n2\r\nVALUE d 0 1\r\n2\r\nEND\r\n"
                              "CLIENT_ERROR bad data chunk\r\n"
                              "CLIENT_ERROR bad command line format\r\n"
                              "CLIENT_ERROR bad command line format\r\n"
                              "OK\r\nOK\r\nEND\r\n"
                              "CLIENT_ERROR bad command line format\r\n"
                              "STORED\r\nVALUE z 0 0\r\n\r\nEND\r\n"
                              "READY weight=100 lag_ms=0\r\nNOTREADY read-only lag_ms=0\r\n";

/* Plays the dialogue, cut at `cut` and then every `step` bytes, and lets everything finish. */
static void play(size_t cut, size_t step, bool cold)
{
    size_t len = sizeof(dialogue) - 1;
    struct conn c;

    fakes_start(NULL);
    start(&c);
    fake.reads_are_cold = cold;
    for (size_t at = 0, end = cut; at < len; at = end, end = at + step) {
        if (end > len)
            end = len;
        conn_feed(&c, dialogue + at, end - at);
        while (fake.write_count > 0 || fake.read_count > 0) {
            if (fake.write_count > 0)
                finish_writes(&c, 1);
            else
                finish_read(&c);
        }
    }
    EXPECT(&c, answers);
    assert_false(c.held || c.partial || c.busy || c.closing);
    conn_gone(&c);
    assert_int_equal(fakes_end(NULL), 0);
}

static void a_dialogue_is_answered_alike_wherever_it_is_cut(void **state)
{
    (void)state;
    play(sizeof(dialogue), 1, false);
    play(sizeof(dialogue), 1, true);
    for (size_t cut = 1; cut < sizeof(dialogue) - 1; cut++)
        play(cut, sizeof(dialogue), cut % 2 == 0);
    for (size_t step = 1; step < 40; step++)
        play(step, step, step % 2 == 0);
}

static void gat_reads_what_it_has_touched_before_later_writes(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "old");
    say(&c, "gat 100 a a\r\nset a 0 0 3\r\nnew\r\nget a\r\n");
    assert_int_equal(fake.write_count, 2); /* the two touches */
    finish_writes(&c, 1);
    EXPECT(&c, "VALUE a 5 3\r\nold\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "VALUE a 5 3\r\nold\r\nEND\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\nVALUE a 0 3\r\nnew\r\nEND\r\n");
    conn_gone(&c);
}

static void gat_with_a_time_in_the_past_reads_before_it_touches(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "old");
    say(&c, "gat -1 a b\r\nversion\r\n");
    EXPECT(&c, "VALUE a 5 3\r\nold\r\n");
    finish_writes(&c, 1);
    assert_int_equal(fake_find(slice_str("a"))->expires_ms, 1);
    EXPECT(&c, "");
    finish_writes(&c, 1);
    EXPECT(&c, "END\r\nVERSION " TT_VERSION "\r\n");
    fake.reads_are_cold = true;
    say(&c, "gat -1 a\r\nversion\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "");
    finish_read(&c);
    EXPECT(&c, "VALUE a 5 3\r\nold\r\nEND\r\nVERSION " TT_VERSION "\r\n");
    conn_gone(&c);
}

static void times_count_from_the_clock_of_the_store(void **state)
{
    static const struct {
        const char *text;
        int64_t want_ms;
    } rows[] = {
        {"set a 0 100 1\r\nx\r\n", INT64_C(4000000100000)},
        {"touch a 60\r\n", INT64_C(4000000060000)},
        {"gat 2592000 a\r\n", INT64_C(4002592000000)},
        {"flush_all 5\r\n", INT64_C(4000000005000)},
        /* Unix times are what they are. */
        {"set a 0 4000000200 1\r\nx\r\n", INT64_C(4000000200000)},
        {"touch a 4000000300\r\n", INT64_C(4000000300000)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_write *w;
        struct conn c;

        start(&c);
        say(&c, rows[i].text);
        assert_int_equal(fake.write_count, 1);
        w = fake.writes[0];
        assert_int_equal(w->op == STORE_FLUSH ? w->flush_at_ms : w->expires_ms, rows[i].want_ms);
        finish_writes(&c, 1);
        conn_gone(&c);
    }
}

static void gat_knows_a_time_that_is_over_by_the_clock_of_the_store(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "old");
    say(&c, "gat 3999999999 a\r\n");
    EXPECT(&c, "VALUE a 5 3\r\nold\r\n"); /* before the touch takes it away */
    finish_writes(&c, 1);
    EXPECT(&c, "END\r\n");
    conn_gone(&c);
}

/* ---- values in pieces ---- */

static void memory_follows_what_came_not_what_was_announced(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 0 0 1000000\r\nx");
    assert_true(c.partial);
    assert_true(atomic_load(&fake_budget.held_bytes) <= 4096);
    for (unsigned i = 0; i < 100; i++)
        say(&c, KEY_50 KEY_50);
    assert_true(atomic_load(&fake_budget.held_bytes) <= 20 * 1024);
    conn_gone(&c);

    start(&c);
    say(&c, "set a 0 0 60000000\r\nx");
    assert_int_equal(fake.spools, 0);
    assert_true(atomic_load(&fake_budget.held_bytes) <= 4096);
    conn_gone(&c);
}

static void feed_big(struct conn *c, size_t bytes)
{
    static char piece[16 * 1024];

    memset(piece, 'b', sizeof(piece));
    for (size_t n; bytes > 0; bytes -= n) {
        n = bytes < sizeof(piece) ? bytes : sizeof(piece);
        conn_feed(c, piece, n);
    }
}

static void a_big_value_goes_to_a_file(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 3 0 2097152\r\n");
    feed_big(&c, BIG - 1);
    assert_int_equal(fake.spools, 1);
    assert_true(atomic_load(&fake_budget.held_bytes) <= 2 * STORE_SPOOL_PIECE);
    say(&c, "b\r");
    assert_int_equal(fake.write_count, 0);
    say(&c, "\ndelete a\r\n");
    assert_int_equal(fake.write_count, 1); /* a later write could overtake it in the store */
    finish_writes(&c, 1);
    assert_int_equal(fake_find(slice_str("a"))->value.len, BIG);
    EXPECT(&c, "STORED\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "DELETED\r\n");
    conn_gone(&c);
}

static void a_slow_disk_holds_a_big_value(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 3 0 2097152\r\n");
    feed_big(&c, BIG / 2);
    fake.spool_is_full = true;
    feed_big(&c, BIG / 2);
    say(&c, "\r\n");
    assert_true(c.held);
    assert_int_equal(fake.write_count, 0);
    fake.spool_is_full = false;
    fake.on_room(fake.on_room_arg);
    conn_run(&c);
    assert_false(c.held);
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    conn_gone(&c);
}

static void a_file_that_fails_refuses_the_value_and_swallows_it(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 3 0 2097152\r\n");
    feed_big(&c, BIG / 2);
    fake.spool_error = -ENOSPC;
    feed_big(&c, BIG / 2);
    EXPECT(&c, "SERVER_ERROR no space left on device\r\n");
    say(&c, "\r\nget a\r\n");
    EXPECT(&c, "END\r\n");
    say(&c, "set a 3 0 2097152\r\n");
    feed_big(&c, BIG);
    say(&c, "\r\nget a\r\n");
    EXPECT(&c, "SERVER_ERROR no space left on device\r\nEND\r\n");
    assert_int_equal(fake.spools, 0);
    conn_gone(&c);
}

static void without_descriptors_a_big_value_is_refused_as_without_memory(void **state)
{
    static const int errors[] = {-EMFILE, -ENFILE, -ENOMEM};

    (void)state;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        struct conn c;

        start(&c);
        fake.spool_error = errors[i];
        say(&c, "set a 3 0 2097152\r\n");
        feed_big(&c, BIG);
        say(&c, "\r\nget a\r\n");
        EXPECT(&c, "SERVER_ERROR out of memory storing object\r\nEND\r\n");
        conn_gone(&c);
    }
}

static void a_long_join_stays_in_memory(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "x");
    say(&c, "append a 0 0 2097152\r\n");
    feed_big(&c, BIG);
    assert_int_equal(fake.spools, 0);
    say(&c, "\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    assert_int_equal(fake_find(slice_str("a"))->value.len, BIG + 1);
    conn_gone(&c);
}

static void bad_chunks_store_nothing(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 0 0 3\r\nabcX\nget a\r\n");
    EXPECT(&c, "CLIENT_ERROR bad data chunk\r\nEND\r\n");
    say(&c, "set a 0 0 3\r\nabc");
    say(&c, "\r");
    say(&c, "X");
    EXPECT(&c, "CLIENT_ERROR bad data chunk\r\n");
    say(&c, "set a 3 0 2097152\r\n");
    feed_big(&c, BIG);
    say(&c, "X\nget a\r\n");
    EXPECT(&c, "CLIENT_ERROR bad data chunk\r\nEND\r\n");
    assert_int_equal(fake.write_count, 0);
    conn_gone(&c);
}

static void a_value_over_the_limit_is_swallowed_and_the_old_one_stays(void **state)
{
    struct conn c;

    (void)state;
    fake_app.max_value_bytes = 5;
    start(&c);
    store_now(&c, "a", "12345");
    say(&c, "set a 0 0 6\r\n123");
    EXPECT(&c, "SERVER_ERROR object too large for cache\r\n");
    say(&c, "456\r\nget a\r\nset a 0 0 6 noreply\r\n123456\r\nappend a 0 0 1\r\n6\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "VALUE a 5 5\r\n12345\r\nEND\r\nSERVER_ERROR object too large for cache\r\n");
    assert_int_equal(counter_get(&fake_counters, COUNTER_STORE_TOO_LARGE), 3);
    conn_gone(&c);
}

static void over_the_budget_a_value_is_refused_and_swallowed(void **state)
{
    struct conn c;

    (void)state;
    fake_budget.limit_bytes = 6000;
    start(&c);
    say(&c, "set a 0 0 5000\r\n");
    feed_big(&c, 5000);
    say(&c, "\r\nset b 0 0 5000\r\n");
    feed_big(&c, 5000);
    say(&c, "\r\nset c 0 0 1\r\nx\r\n");
    finish_writes(&c, 2);
    EXPECT(&c, "STORED\r\nSERVER_ERROR out of memory storing object\r\nSTORED\r\n");
    say(&c, "set d 0 0 2097152\r\n");
    feed_big(&c, BIG);
    say(&c, "\r\nget c\r\n");
    EXPECT(&c, "SERVER_ERROR out of memory storing object\r\nVALUE c 0 1\r\nx\r\nEND\r\n");
    conn_gone(&c);
}

/* ---- values that are not copied ---- */

static void values_go_out_of_files_and_memory_and_are_released(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "12345");
    say(&c, "append a 0 0 20000\r\n");
    feed_big(&c, 20000);
    say(&c, "\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    fake.reads_are_cold = true;
    say(&c, "get a\r\n");
    finish_read(&c);
    EXPECT(&c, "VALUE a 5 20005\r\n<20005 of memory>\r\nEND\r\n");
    fake.reads_are_cold = false;
    fake_find(slice_str("a"))->file_fd = 9;
    say(&c, "get a a\r\n");
    EXPECT(&c, "VALUE a 5 20005\r\n<20005 of file 9 at 7>\r\n"
               "VALUE a 5 20005\r\n<20005 of file 9 at 7>\r\nEND\r\n");
    assert_int_equal(fake.holds, 0);
    conn_gone(&c);
}

static void memory_of_values_counts_until_their_clients_have_them(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    c.slow = true;
    store_now(&c, "s", "small");
    say(&c, "set a 5 0 20000\r\n");
    feed_big(&c, 20000);
    say(&c, "\r\n");
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    fake.reads_are_cold = true;
    fake_budget.limit_bytes = 30000;
    say(&c, "get a a s\r\nget s\r\n");
    finish_read(&c);
    assert_int_equal(atomic_load(&fake_budget.held_bytes), 20000);
    finish_read(&c);
    EXPECT(&c, "VALUE a 5 20000\r\n<20000 of memory>\r\n"
               "SERVER_ERROR out of memory writing get response\r\n");
    assert_int_equal(fake.holds, 1);
    assert_int_equal(counter_get(&fake_counters, COUNTER_STORE_NO_MEMORY), 1);
    finish_read(&c);
    EXPECT(&c, "VALUE s 5 5\r\nsmall\r\nEND\r\n");
    conn_gone(&c); /* in the middle of the first value */
    assert_int_equal(fake.holds, 0);
    assert_int_equal(atomic_load(&fake_budget.held_bytes), 0);
}

/* ---- failures ---- */

static void every_status_has_its_line(void **state)
{
    static const struct {
        enum store_status status;
        const char *line;
    } rows[] = {
        {STORE_TOO_LARGE, "SERVER_ERROR object too large for cache\r\n"},
        {STORE_NO_MEMORY, "SERVER_ERROR out of memory storing object\r\n"},
        {STORE_NO_SPACE, "SERVER_ERROR no space left on device\r\n"},
        {STORE_READ_ONLY, "SERVER_ERROR read-only: the disk has failed to sync\r\n"},
        {STORE_DAMAGED, "SERVER_ERROR the stored record is damaged\r\n"},
        {STORE_IO_ERROR, "SERVER_ERROR input/output error\r\n"},
    };
    struct conn c;

    (void)state;
    start(&c);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        fake.write_as = rows[i].status;
        say(&c, "set a 0 0 1\r\nx\r\n");
        finish_writes(&c, 1);
        EXPECT(&c, rows[i].line);
        say(&c, "gat 0 a b\r\n"); /* in the place of END, once */
        finish_writes(&c, 2);
        EXPECT(&c, rows[i].line);
    }
    conn_gone(&c);
}

static void a_record_that_cannot_be_read_is_not_a_miss(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    store_now(&c, "a", "x");
    fake.read_as = STORE_DAMAGED;
    say(&c, "get a\r\nget a b c\r\n");
    EXPECT(&c, "SERVER_ERROR the stored record is damaged\r\n"
               "SERVER_ERROR the stored record is damaged\r\n");
    fake.reads_are_cold = true;
    say(&c, "get a b\r\nversion\r\n");
    finish_read(&c);
    EXPECT(&c, "SERVER_ERROR the stored record is damaged\r\nVERSION " TT_VERSION "\r\n");
    say(&c, "gat 0 a a\r\nversion\r\n");
    finish_writes(&c, 2);
    finish_read(&c);
    EXPECT(&c, "SERVER_ERROR the stored record is damaged\r\nVERSION " TT_VERSION "\r\n");
    conn_gone(&c);
}

static void while_the_index_is_rebuilt_only_readiness_answers(void **state)
{
#define BUSY "SERVER_ERROR busy: the index is being rebuilt\r\n"
    struct conn c;

    (void)state;
    fake.state = STORE_STARTING;
    start(&c);
    say(&c, "get a b\r\nset a 0 0 3\r\nabc\r\nset a 0 0 3 noreply\r\nabc\r\nversion\r\nstats\r\n"
            "gat 0 a\r\nready\r\nnonsense\r\nquit\r\n");
    EXPECT(&c, BUSY BUSY BUSY BUSY BUSY "READY weight=100 lag_ms=0\r\nERROR\r\n");
    assert_int_equal(fake.write_count, 0);
    assert_true(c.closing);
    conn_gone(&c);
}

/* ---- the end ---- */

static void quit_waits_for_what_was_asked_before(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "set a 0 0 1\r\nx\r\nquit\r\nset b 0 0 1\r\nx\r\n");
    assert_false(c.closing);
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    assert_true(c.closing);
    assert_int_equal(fake.write_count, 0);
    conn_gone(&c);
}

static void a_connection_between_requests_has_no_memory_of_its_own(void **state)
{
    struct session *resting;
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "version\r\n");
    EXPECT(&c, "VERSION " TT_VERSION "\r\n");
    resting = c.session;
    say(&c, "set a 0 0 3\r\nab");
    assert_ptr_not_equal(c.session, resting);
    say(&c, "c\r\n");
    assert_ptr_not_equal(c.session, resting);
    finish_writes(&c, 1);
    EXPECT(&c, "STORED\r\n");
    assert_ptr_equal(c.session, resting);
    say(&c, "ge");
    assert_ptr_equal(c.session, resting);
    fake.reads_are_cold = true;
    say(&c, "t a\r\n");
    assert_ptr_not_equal(c.session, resting);
    finish_read(&c);
    EXPECT(&c, "VALUE a 0 3\r\nabc\r\nEND\r\n");
    assert_ptr_equal(c.session, resting);
    conn_gone(&c);
}

static void a_browser_is_hung_up_on(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "version\r\npost / HTTP/1.1\r\nset a 0 0 1\r\nx\r\n");
    EXPECT(&c, "VERSION " TT_VERSION "\r\n");
    assert_true(c.closing);
    assert_int_equal(fake.write_count, 0);
    conn_gone(&c);
}

static void a_half_closed_connection_gets_its_answers(void **state)
{
    struct conn c;

    (void)state;
    start(&c);
    say(&c, "delete a\r\nset a 0 0 10\r\nx");
    c.protocol->end_of_input(&c);
    assert_false(c.closing);
    finish_writes(&c, 1);
    EXPECT(&c, "NOT_FOUND\r\n");
    assert_true(c.closing);
    conn_gone(&c);
}

static void a_connection_may_go_at_any_time(void **state)
{
    struct conn c;

    (void)state;
    /* fakes_end() completes what is under way and looks for what is left. */
    start(&c);
    say(&c, "set a 0 0 1\r\nx\r\ndelete b\r\nversion\r\nset c 0 0 10\r\nab");
    conn_gone(&c);
    start(&c);
    fake.reads_are_cold = true;
    say(&c, "get a\r\n");
    conn_gone(&c);
    start(&c);
    say(&c, "get a\r\n");
    fake_finish_read();
    fake_finish_read(); /* done, but not looked at yet */
    conn_gone(&c);
    start(&c);
    say(&c, "set a 0 0 2097152\r\n");
    feed_big(&c, BIG / 2);
    conn_gone(&c);
    start(&c);
    say(&c, "gat 0 a b c\r\n");
    fake_finish_writes(1);
    conn_gone(&c);
}

/* ---- figures ---- */

static void stats_show_what_was_counted_since_their_reset(void **state)
{
    struct conn c;
    char text[16 * 1024];

    (void)state;
    start(&c);
    store_now(&c, "a", "x");
    say(&c, "get a b c\r\nstats reset\r\nget a b\r\n");
    c.output.len = 0;
    say(&c, "stats\r\n");
    snprintf(text, sizeof(text), "%.*s", (int)c.output.len, c.output.data);
    c.output.len = 0;
    assert_non_null(strstr(text, "STAT cmd_get 2\r\n"));
    assert_non_null(strstr(text, "STAT get_hits 1\r\n"));
    assert_non_null(strstr(text, "STAT cmd_set 0\r\n"));
    assert_non_null(strstr(text, "STAT version " TT_VERSION "\r\n"));
    assert_non_null(strstr(text, "STAT curr_items 3\r\n"));
    assert_non_null(strstr(text, "STAT engine_bytes 12\r\nEND\r\n"));
    assert_int_equal(counter_get(&fake_counters, COUNTER_CMD_GET), 5);
    say(&c, "stats slabs\r\nstats items \r\nstats detail on\r\nstats nonsense\r\nstats s\r\n");
    EXPECT(&c, "END\r\nEND\r\nCLIENT_ERROR stats detail not allowed\r\nERROR\r\nERROR\r\n");
    say(&c, "stats settings\r\n");
    snprintf(text, sizeof(text), "%.*s", (int)c.output.len, c.output.data);
    assert_non_null(strstr(text, "STAT item_size_max 67108864\r\n"));
    conn_gone(&c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fakes_start, fakes_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_write_is_answered_when_it_is_done),
        TEST(writes_are_under_way_together_and_a_read_waits_for_them),
        TEST(a_read_from_the_disk_holds_what_follows),
        TEST(so_many_writes_are_under_way_and_no_more),
        TEST(so_many_bytes_are_under_way_and_no_more),
        TEST(a_slow_client_gets_no_more_than_it_takes),
        TEST(a_dialogue_is_answered_alike_wherever_it_is_cut),
        TEST(gat_reads_what_it_has_touched_before_later_writes),
        TEST(gat_with_a_time_in_the_past_reads_before_it_touches),
        TEST(times_count_from_the_clock_of_the_store),
        TEST(gat_knows_a_time_that_is_over_by_the_clock_of_the_store),
        TEST(memory_follows_what_came_not_what_was_announced),
        TEST(a_big_value_goes_to_a_file),
        TEST(a_slow_disk_holds_a_big_value),
        TEST(a_file_that_fails_refuses_the_value_and_swallows_it),
        TEST(without_descriptors_a_big_value_is_refused_as_without_memory),
        TEST(a_long_join_stays_in_memory),
        TEST(bad_chunks_store_nothing),
        TEST(a_value_over_the_limit_is_swallowed_and_the_old_one_stays),
        TEST(over_the_budget_a_value_is_refused_and_swallowed),
        TEST(values_go_out_of_files_and_memory_and_are_released),
        TEST(memory_of_values_counts_until_their_clients_have_them),
        TEST(every_status_has_its_line),
        TEST(a_record_that_cannot_be_read_is_not_a_miss),
        TEST(while_the_index_is_rebuilt_only_readiness_answers),
        TEST(quit_waits_for_what_was_asked_before),
        TEST(a_connection_between_requests_has_no_memory_of_its_own),
        TEST(a_browser_is_hung_up_on),
        TEST(a_half_closed_connection_gets_its_answers),
        TEST(a_connection_may_go_at_any_time),
        TEST(stats_show_what_was_counted_since_their_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
