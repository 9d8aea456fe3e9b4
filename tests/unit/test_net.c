/*
 * test_net.c - the byte streams of a connection in both directions (net/net.h), over real sockets.
 *
 * Every test starts a server with the line protocol of net_fixture.h, and ends with the check that
 * all pieces were released once, no budget is held and all workers have ended.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net_fixture.h"

/* ---- input ---- */

static void a_request_in_single_bytes_is_put_together(void **state)
{
    static const char text[] = "echo one\necho two words\n";
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    for (size_t i = 0; i < sizeof(text) - 1; i++)
        client_send(fd, &text[i], 1);
    client_expect(fd, "one\ntwo words\n");
    close(fd);
    server_stop(10000);
}

static void a_request_split_anywhere_is_put_together(void **state)
{
    static const char text[] = "echo one\nbody 5\nabcdeecho two\n";
    const size_t len = sizeof(text) - 1;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    for (size_t cut = 1; cut < len; cut++) {
        client_send(fd, text, cut);
        if (cut > 9)
            client_expect(fd, "one\n"); /* the first part has arrived on its own */
        client_send(fd, text + cut, len - cut);
        if (cut <= 9)
            client_expect(fd, "one\n");
        client_expect(fd, "got 5 ");
        for (char byte = 0; byte != '\n';)
            client_read(fd, &byte, 1);
        client_expect(fd, "two\n");
    }
    close(fd);
    server_stop(10000);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    enum { REQUESTS = 20000 };
    char *text = malloc(REQUESTS * 16);
    size_t len = 0;
    int fd;

    (void)state;
    server_prepare(2);
    server_start();
    fd = client_open();
    for (int i = 0; i < REQUESTS; i++)
        len += (size_t)sprintf(text + len, "echo %d\n", i);
    client_send(fd, text, len);
    for (int i = 0; i < REQUESTS; i++) {
        char expected[16];

        sprintf(expected, "%d\n", i);
        client_expect(fd, expected);
    }
    free(text);
    close(fd);
    server_stop(10000);
}

/* Longer than the worker's buffer, which is where kept input leaves the short way. */
static void a_line_longer_than_the_receive_buffer_is_kept_whole(void **state)
{
    enum { LENGTH = 600000 };
    char *text = malloc(LENGTH + 7);
    char *got = malloc(LENGTH + 1);
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    memset(text, 'x', LENGTH + 5);
    for (int i = 0; i < 5; i++)
        text[i] = "echo "[i];
    text[LENGTH + 5] = '\n';
    client_send(fd, text, LENGTH + 6);
    client_read(fd, got, LENGTH + 1);
    assert_memory_equal(got, text + 5, LENGTH + 1);
    client_ping(fd);
    assert_int_equal(atomic_load(&fixture.budget.held_bytes), 0);
    free(text);
    free(got);
    close(fd);
    server_stop(10000);
}

static void input_without_an_end_closes_the_connection(void **state)
{
    char *text = malloc(64 << 10);
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    memset(text, 'x', 64 << 10);
    for (int i = 0; i < 1000; i++) {
        if (send(fd, text, 64 << 10, MSG_NOSIGNAL) < 0)
            break;
    }
    client_expect_end(fd);
    await(EVENT_CLOSED, 1);
    free(text);
    close(fd);
    server_stop(10000);
}

static void input_beyond_the_budget_closes_only_its_connection(void **state)
{
    int other;
    int fd;

    (void)state;
    server_prepare(1);
    fixture.budget.limit_bytes = 1000;
    server_start();
    fd = client_open();
    other = client_open();
    for (int i = 0; i < 1200; i++) {
        if (send(fd, "x", 1, MSG_NOSIGNAL) < 0)
            break;
    }
    client_expect_end(fd);
    client_ping(other);
    assert_int_equal(server_count(COUNTER_STORE_NO_MEMORY), 1);
    close(fd);
    close(other);
    server_stop(10000);
}

static void a_body_is_taken_in_whatever_pieces_it_comes(void **state)
{
    uint64_t sum = 0;
    char text[64];
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    for (size_t i = 0; i < PATTERN_BYTES; i++)
        sum = sum * 31 + (unsigned char)fixture.pattern[i];
    sprintf(text, "body %d\n", PATTERN_BYTES);
    client_say(fd, text);
    client_send(fd, fixture.pattern, PATTERN_BYTES);
    sprintf(text, "got %d %llu\n", PATTERN_BYTES, (unsigned long long)sum);
    client_expect(fd, text);
    close(fd);
    server_stop(10000);
}

static void requests_on_hold_wait_and_go_on_in_order(void **state)
{
    int other;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    other = client_open();
    client_say(fd, "echo before\nhold\necho after\nhold\necho last\n");
    client_expect(fd, "before\n");
    await(EVENT_HELD, 1);
    client_say(fd, "echo more\n"); /* comes while on hold: stays with the kernel */
    client_ping(other);
    server_resume();
    client_expect(fd, "resumed\nafter\n");
    await(EVENT_HELD, 2);
    server_resume();
    client_expect(fd, "resumed\nlast\nmore\n");
    client_ping(fd);
    close(fd);
    close(other);
    server_stop(10000);
}

static void a_half_closed_client_still_gets_its_replies(void **state)
{
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    client_say(fd, "echo one\nhold\necho two\nbytes 400000\nunfinished");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    client_expect(fd, "one\n");
    await(EVENT_HELD, 1);
    server_resume();
    client_expect(fd, "resumed\ntwo\n");
    client_expect_pattern(fd, 0, 400000);
    client_expect_end(fd);
    await(EVENT_CLOSED, 1);
    close(fd);
    server_stop(10000);
}

/* The loop may neither spin on the hang-up nor lose what the client had sent before. */
static void a_client_that_goes_away_while_on_hold_is_let_go(void **state)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    int other;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    other = client_open();
    fd = client_open();
    client_say(fd, "hold\necho unread\n");
    await(EVENT_HELD, 1);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    client_ping(other);
    assert_int_equal(count_of(EVENT_CLOSED), 0);
    server_resume();
    await(EVENT_CLOSED, 1);
    close(other);
    server_stop(10000);
}

static void a_connection_closed_without_a_word_is_closed(void **state)
{
    int fd;

    (void)state;
    server_prepare(2);
    server_start();
    for (unsigned i = 1; i <= 20; i++) {
        fd = client_open();
        close(fd);
        await(EVENT_CLOSED, i);
    }
    assert_int_equal(count_of(EVENT_OPENED), 0);
    net_stop(fixture.net, 10000);
    assert_int_equal(server_count(COUNTER_CONNECTIONS_TOTAL), 20);
    assert_int_equal(server_count(COUNTER_CONNECTIONS_CLOSED), 20);
    server_stop(10000);
}

static void an_abort_within_input_is_safe_and_sends_nothing(void **state)
{
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    client_say(fd, "abort\necho never\n");
    client_expect_end(fd);
    await(EVENT_CLOSED, 1);
    close(fd);
    server_stop(10000);
}

/* ---- output ---- */

static void output_of_every_size_arrives_whole(void **state)
{
    static const size_t sizes[] = {0,      1,      1000,   65535,  65536,   65537,
                                   262143, 262144, 262145, 400000, 3000000, 9000000};
    static const char *const kinds[] = {"bytes", "memory", "stream"};
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            size_t size = sizes[i];
            char text[64];

            if (k == 1 && size > PATTERN_BYTES)
                continue;
            sprintf(text, "echo a\n%s %zu\necho b\n", kinds[k], size);
            client_say(fd, text);
            client_expect(fd, "a\n");
            client_expect_pattern(fd, 0, size);
            client_expect(fd, "b\n");
        }
    }
    close(fd);
    server_stop(10000);
}

static void a_slow_reader_stops_requests_until_it_has_read(void **state)
{
    enum { REQUESTS = 300, SIZE = 100000 };
    char text[32];
    int other;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    other = client_open();
    sprintf(text, "memory %d\n", SIZE);
    for (int i = 0; i < REQUESTS; i++)
        client_say(fd, text);
    await(EVENT_PIECES, 1);
    client_ping(other);
    /* Far from all can be with the kernel: its buffers hold some megabytes of the 30. */
    assert_true(count_of(EVENT_PIECES) < REQUESTS);
    assert_true(count_of(EVENT_PIECES) - count_of(EVENT_RELEASED) <= 4);
    for (int i = 0; i < REQUESTS; i++)
        client_expect_pattern(fd, 0, SIZE);
    client_ping(fd);
    assert_int_equal(count_of(EVENT_PIECES), REQUESTS);
    close(fd);
    close(other);
    server_stop(10000);
}

/* Nobody reads, and what is queued for him exceeds what the server may hold. */
static void output_beyond_the_budget_closes_only_its_connection(void **state)
{
    int other;
    int fd;

    (void)state;
    server_prepare(1);
    fixture.budget.limit_bytes = 100000;
    server_start();
    other = client_open();
    fd = client_open();
    client_say(fd, "memory 1000000\nbytes 30000000\nmemory 20\n");
    await(EVENT_CLOSED, 1);
    client_ping(other);
    assert_int_equal(server_count(COUNTER_STORE_NO_MEMORY), 1);
    close(fd);
    close(other);
    server_stop(10000);
}

static void a_reader_that_goes_away_releases_everything(void **state)
{
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    server_make_file(8 << 20);
    fd = client_open();
    client_say(fd, "memory 1000000\nfile 0 8000000\nmemory 1000000\nbytes 500000\n");
    await(EVENT_PIECES, 1);
    close(fd);
    await(EVENT_CLOSED, 1);
    server_stop(10000);
}

static void the_close_comes_after_all_output(void **state)
{
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    client_say(fd, "bytes 3000000\nclose\necho never\n");
    client_expect_pattern(fd, 0, 3000000);
    client_expect(fd, "bye\n");
    client_expect_end(fd);
    close(fd);
    await(EVENT_CLOSED, 1);
    server_stop(10000);
}

/* A close with input unread would be a reset, which may overtake the reply that says why. */
static void the_last_reply_reaches_a_client_that_is_still_sending(void **state)
{
    char *junk = calloc(1, 1 << 20);
    char byte;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    client_say(fd, "close\nmore");
    await(EVENT_CLOSED, 1); /* only the session: the connection still reads */
    assert_int_equal(net_conn_count(fixture.net), 1);
    for (int i = 0; i < 20; i++)
        client_send(fd, junk, 1 << 20);
    client_expect(fd, "bye\n");
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
    free(junk);
    server_stop(10000);
}

/* ---- files ---- */

static const size_t file_sizes[] = {1,      16384,  49151,  49152,   65536,
                                    100000, 524288, 524289, 3000000, 8388608};

static void read_files(int fd, bool cold)
{
    for (size_t i = 0; i < sizeof(file_sizes) / sizeof(file_sizes[0]); i++) {
        size_t size = file_sizes[i];
        size_t offset = (8u << 20) - size < 777 ? 0 : 777;
        char text[64];

        if (cold)
            server_evict_file();
        sprintf(text, "file %zu %zu\n", offset, size);
        client_say(fd, text);
        sprintf(text, "file %zu\n", size);
        client_expect(fd, text);
        client_expect_pattern(fd, offset, size);
        client_expect(fd, "\n");
    }
}

static void files_arrive_whole_from_the_cache_and_from_the_disk(void **state)
{
    static const struct {
        bool use_uring;
        bool use_unix;
    } rows[] = {{true, false}, {false, false}, {true, true}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char dir[TEMP_DIR_MAX];
        char path[TEMP_DIR_MAX + 8];
        int fd;

        temp_dir_make(dir);
        snprintf(path, sizeof(path), "%s/s", dir);
        server_prepare(1);
        fixture.config.use_uring = rows[i].use_uring;
        fixture.config.unix_path = rows[i].use_unix ? path : NULL;
        server_start();
        server_make_file(8 << 20);
        fd = rows[i].use_unix ? client_open_unix(path) : client_open();
        read_files(fd, false);
        read_files(fd, true);
        close(fd);
        server_stop(10000);
        temp_dir_remove(dir);
    }
}

static void pipelined_files_keep_their_order(void **state)
{
    enum { ROUNDS = 40 };
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    server_make_file(4 << 20);
    fd = client_open();
    for (int i = 0; i < ROUNDS; i++)
        client_say(fd, "file 1 20000\necho x\nfile 100 60000\nmemory 30000\nbytes 10\n");
    for (int i = 0; i < ROUNDS; i++) {
        client_expect(fd, "file 20000\n");
        client_expect_pattern(fd, 1, 20000);
        client_expect(fd, "\nx\nfile 60000\n");
        client_expect_pattern(fd, 100, 60000);
        client_expect(fd, "\n");
        client_expect_pattern(fd, 0, 30000);
        client_expect_pattern(fd, 0, 10);
    }
    close(fd);
    server_stop(10000);
}

static void a_file_that_ends_too_early_aborts_the_connection(void **state)
{
    (void)state;
    for (int cold = 0; cold < 2; cold++) {
        int fd;

        server_prepare(1);
        server_start();
        server_make_file(1000000);
        if (cold)
            server_evict_file();
        fd = client_open();
        client_say(fd, "file 0 1500000\n");
        client_expect(fd, "file 1500000\n");
        client_expect_pattern(fd, 0, 1000000);
        client_expect_end(fd);
        await(EVENT_RELEASED, 1);
        close(fd);
        server_stop(10000);
    }
}

static void a_connection_may_go_while_its_file_is_read_ahead(void **state)
{
    (void)state;
    server_prepare(1);
    server_start();
    server_make_file(8 << 20);
    for (unsigned i = 1; i <= 30; i++) {
        struct linger reset = {.l_onoff = 1, .l_linger = 0};
        int fd = client_open();

        server_evict_file();
        client_say(fd, "file 0 8000000\n");
        client_expect(fd, "file 8000000\n");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(fd);
        await(EVENT_RELEASED, i);
    }
    server_stop(0);
}

/* Two huge files at once, and small requests between them. */
static void a_huge_file_does_not_keep_others_waiting(void **state)
{
    int huge;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    server_make_file(64 << 20);
    huge = client_open();
    fd = client_open();
    client_say(huge, "file 0 67108864\n");
    client_expect(huge, "file 67108864\n");
    for (int i = 0; i < 64; i++) {
        client_expect_pattern(huge, (size_t)i << 20, 1 << 20);
        client_ping(fd);
    }
    client_expect(huge, "\n");
    close(huge);
    close(fd);
    server_stop(10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_in_single_bytes_is_put_together),
        cmocka_unit_test(a_request_split_anywhere_is_put_together),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(a_line_longer_than_the_receive_buffer_is_kept_whole),
        cmocka_unit_test(input_without_an_end_closes_the_connection),
        cmocka_unit_test(input_beyond_the_budget_closes_only_its_connection),
        cmocka_unit_test(a_body_is_taken_in_whatever_pieces_it_comes),
        cmocka_unit_test(requests_on_hold_wait_and_go_on_in_order),
        cmocka_unit_test(a_half_closed_client_still_gets_its_replies),
        cmocka_unit_test(a_client_that_goes_away_while_on_hold_is_let_go),
        cmocka_unit_test(a_connection_closed_without_a_word_is_closed),
        cmocka_unit_test(an_abort_within_input_is_safe_and_sends_nothing),
        cmocka_unit_test(output_of_every_size_arrives_whole),
        cmocka_unit_test(a_slow_reader_stops_requests_until_it_has_read),
        cmocka_unit_test(output_beyond_the_budget_closes_only_its_connection),
        cmocka_unit_test(a_reader_that_goes_away_releases_everything),
        cmocka_unit_test(the_close_comes_after_all_output),
        cmocka_unit_test(the_last_reply_reaches_a_client_that_is_still_sending),
    };

    const struct CMUnitTest file_tests[] = {
        cmocka_unit_test(files_arrive_whole_from_the_cache_and_from_the_disk),
        cmocka_unit_test(pipelined_files_keep_their_order),
        cmocka_unit_test(a_file_that_ends_too_early_aborts_the_connection),
        cmocka_unit_test(a_connection_may_go_while_its_file_is_read_ahead),
        cmocka_unit_test(a_huge_file_does_not_keep_others_waiting),
    };
    int failed = cmocka_run_group_tests_name("net", tests, NULL, NULL);

    failed += cmocka_run_group_tests_name("files", file_tests, NULL, NULL);
    aio_disable_cachestat();
    return failed + cmocka_run_group_tests_name("files without cachestat", file_tests, NULL, NULL);
}
