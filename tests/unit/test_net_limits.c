/*
 * test_net_limits.c - listening, limits and stopping (net/net.h), over real sockets.
 *
 * Time limits are tested with a clock that the test moves: nothing here waits for time to pass. A
 * request on another connection makes the loop look at the clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netdb.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "net_fixture.h"

/* ---- listening ---- */

static int listen_somewhere(bool reuse_port, uint16_t *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(fd, 5), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *port = ntohs(in.sin_port);
    return fd;
}

static void a_port_in_use_is_found_whatever_its_owner_set(void **state)
{
    struct net *net;

    (void)state;
    for (int reuse_port = 0; reuse_port < 2; reuse_port++) {
        int fd;

        server_prepare(2);
        fd = listen_somewhere(reuse_port != 0, &fixture.config.port);
        assert_int_equal(net_open(&fixture.config, &net), -EADDRINUSE);
        close(fd);
        /* And once he is gone it is ours. */
        server_start();
        close(client_open());
        server_stop(10000);
    }
}

static void a_second_server_on_the_port_is_refused(void **state)
{
    struct net_config config;
    struct net *net;

    (void)state;
    server_prepare(2);
    server_start();
    config = fixture.config;
    config.port = net_port(fixture.net);
    assert_int_equal(net_open(&config, &net), -EADDRINUSE);
    config.threads = 1;
    assert_int_equal(net_open(&config, &net), -EADDRINUSE);
    server_stop(10000);
}

/* The server closes first, which leaves its end in TIME_WAIT. */
static void a_restart_gets_its_port_back_at_once(void **state)
{
    uint16_t port = 0;

    (void)state;
    for (int i = 0; i < 3; i++) {
        int fd;

        server_prepare(2);
        fixture.config.port = port;
        server_start();
        port = net_port(fixture.net);
        fd = client_open();
        client_say(fd, "close\n");
        client_expect(fd, "bye\n");
        client_expect_end(fd);
        close(fd);
        server_stop(10000);
    }
}

static void every_worker_gets_connections(void **state)
{
    int fds[64];
    bool seen[2] = {false, false};

    (void)state;
    server_prepare(2);
    server_start();
    for (int i = 0; i < 64; i++) {
        fds[i] = client_open();
        client_ping(fds[i]);
    }
    for (unsigned i = 0; i < 2; i++)
        seen[i] = counter_get(net_worker_counters(fixture.net, i), COUNTER_CONNECTIONS_TOTAL) > 0;
    assert_true(seen[0] && seen[1]);
    assert_int_equal(net_conn_count(fixture.net), 64);
    for (int i = 0; i < 64; i++)
        close(fds[i]);
    server_stop(10000);
}

static bool has_ipv6(void)
{
    int fd = client_try("::1", 1);

    if (fd >= 0)
        close(fd);
    return fd != -EADDRNOTAVAIL && fd != -EAFNOSUPPORT && fd != -ENETUNREACH;
}

static void hosts_are_listened_to_on_all_their_addresses(void **state)
{
    static const struct {
        const char *host;
        bool v4;
        bool v6;
    } rows[] = {
        {NULL, true, false},      {"127.0.0.1", true, false}, {"::1", false, true},
        {"0.0.0.0", true, false}, {"::", false, true},        {"*", true, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int v4;
        int v6;

        if (!rows[i].v4 && !has_ipv6())
            continue;
        server_prepare(2);
        fixture.config.host = rows[i].host;
        server_start();
        v4 = client_try("127.0.0.1", net_port(fixture.net));
        v6 = client_try("::1", net_port(fixture.net));
        if ((v4 >= 0) != rows[i].v4 || (v6 >= 0) != (rows[i].v6 && has_ipv6()))
            fail_msg("host %s: %d %d", rows[i].host, v4, v6);
        if (v4 >= 0)
            client_ping(v4);
        if (v6 >= 0)
            client_ping(v6);
        close(v4);
        close(v6);
        server_stop(10000);
    }
}

static void a_name_stands_for_all_that_it_resolves_to(void **state)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list;

    (void)state;
    if (getaddrinfo("localhost", NULL, &hints, &list) != 0) {
        print_message("skipped: this machine does not know the name localhost\n");
        skip();
    }
    server_prepare(2);
    fixture.config.host = "localhost";
    server_start();
    for (struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        int fd = client_try(ai->ai_family == AF_INET6 ? "::1" : "127.0.0.1", net_port(fixture.net));

        if (ai->ai_family == AF_INET6 && !has_ipv6())
            continue;
        assert_true(fd >= 0);
        client_ping(fd);
        close(fd);
    }
    freeaddrinfo(list);
    server_stop(10000);
}

static void a_host_that_is_not_ours_is_refused(void **state)
{
    static const char *const hosts[] = {"192.0.2.1", "no-such-host.invalid", "300.1.1.1"};

    (void)state;
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        struct net *net;

        server_prepare(1);
        fixture.config.host = hosts[i];
        assert_int_equal(net_open(&fixture.config, &net), -EADDRNOTAVAIL);
        server_free();
    }
}

static void a_worker_that_cannot_start_fails_the_start(void **state)
{
    (void)state;
    server_prepare(3);
    fixture.start_rc = -EPROTO;
    assert_int_equal(net_open(&fixture.config, &fixture.net), 0);
    assert_int_equal(net_start(fixture.net), -EPROTO);
    net_close(fixture.net);
    server_check();
    server_free();
}

/* ---- the unix socket ---- */

static char unix_dir[TEMP_DIR_MAX];
static char unix_path[TEMP_DIR_MAX + 8];

static void prepare_unix(unsigned threads)
{
    temp_dir_make(unix_dir);
    snprintf(unix_path, sizeof(unix_path), "%s/s", unix_dir);
    server_prepare(threads);
    fixture.config.unix_path = unix_path;
}

static void workers_share_the_unix_socket(void **state)
{
    int fds[20];
    int on_tcp;

    (void)state;
    prepare_unix(2);
    {
        int probe = listen_somewhere(false, &fixture.config.port); /* a port that is free */

        close(probe);
    }
    server_start();
    for (int i = 0; i < 20; i++) {
        fds[i] = client_open_unix(unix_path);
        client_ping(fds[i]);
    }
    on_tcp = client_open();
    client_ping(on_tcp);
    for (int i = 0; i < 20; i++)
        close(fds[i]);
    close(on_tcp);
    server_stop(10000);
    assert_int_equal(access(unix_path, F_OK), -1); /* removed */
    temp_dir_remove(unix_dir);
}

static void a_unix_socket_may_stand_alone(void **state)
{
    int fd;

    (void)state;
    prepare_unix(1);
    server_start();
    assert_int_equal(net_port(fixture.net), 0);
    fd = client_open_unix(unix_path);
    client_say(fd, "bytes 3000000\nclose\n");
    client_expect_pattern(fd, 0, 3000000);
    client_expect(fd, "bye\n");
    client_expect_end(fd);
    close(fd);
    server_stop(10000);
    temp_dir_remove(unix_dir);
}

/* A unix socket tells a full close as a hang-up, which epoll cannot be told to keep quiet about. */
static void what_a_unix_client_sent_before_it_closed_is_carried_out(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_unix(1);
    server_start();
    other = client_open_unix(unix_path);
    fd = client_open_unix(unix_path);
    client_say(fd, "mute\nhold\nhold\n");
    await(EVENT_HELD, 1);
    client_say(fd, "hold\n"); /* stays with the kernel */
    close(fd);
    client_ping(other);
    for (unsigned i = 2; i <= 3; i++) {
        server_resume();
        await(EVENT_HELD, i);
    }
    server_resume();
    await(EVENT_CLOSED, 1);
    close(other);
    server_stop(10000);
    temp_dir_remove(unix_dir);
}

static void a_stale_unix_socket_is_replaced(void **state)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    (void)state;
    prepare_unix(1);
    memcpy(addr.sun_path, unix_path, strlen(unix_path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    close(fd); /* as after kill -9: the file is there, nobody answers */
    server_start();
    fd = client_open_unix(unix_path);
    client_ping(fd);
    close(fd);
    server_stop(10000);
    temp_dir_remove(unix_dir);
}

static void a_unix_socket_that_answers_is_left_alone(void **state)
{
    struct net *net;
    int fd;

    (void)state;
    prepare_unix(1);
    server_start();
    assert_int_equal(net_open(&fixture.config, &net), -EADDRINUSE);
    fd = client_open_unix(unix_path);
    client_ping(fd);
    close(fd);
    server_stop(10000);
    temp_dir_remove(unix_dir);
}

static void a_file_in_the_way_of_the_unix_socket_is_left_alone(void **state)
{
    struct net *net;
    struct stat st;
    int fd;

    (void)state;
    prepare_unix(1);
    fd = open(unix_path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, "precious", 8), 8);
    close(fd);
    assert_int_equal(net_open(&fixture.config, &net), -EEXIST);
    assert_int_equal(stat(unix_path, &st), 0);
    assert_int_equal(st.st_size, 8);
    server_free();
    temp_dir_remove(unix_dir);
}

static void a_unix_path_that_is_too_long_is_refused(void **state)
{
    char path[300];
    struct net *net;

    (void)state;
    server_prepare(1);
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    fixture.config.unix_path = path;
    assert_int_equal(net_open(&fixture.config, &net), -ENAMETOOLONG);
    server_free();
}

/* ---- numbers of connections ---- */

static void a_connection_too_many_is_told_so(void **state)
{
    int fds[3];
    int extra;

    (void)state;
    server_prepare(2);
    fixture.config.max_conns = 3;
    server_start();
    for (int i = 0; i < 3; i++) {
        fds[i] = client_open();
        client_ping(fds[i]);
    }
    extra = client_open();
    client_expect(extra, "ERROR Too many open connections\r\n");
    client_expect_end(extra);
    close(extra);
    assert_int_equal(server_count(COUNTER_CONNECTIONS_REJECTED), 1);
    close(fds[0]);
    await(EVENT_CLOSED, 1);
    while (net_conn_count(fixture.net) == 3)
        client_ping(fds[1]);
    fds[0] = client_open();
    client_ping(fds[0]);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    server_stop(10000);
}

/* The descriptors run out: accepting pauses, the others are served, and it goes on when one closes.
 *  */
static void without_descriptors_accepting_waits_for_one(void **state)
{
    struct rlimit before;
    struct rlimit tight;
    int first;
    int waiting;
    int top;

    (void)state;
    server_prepare(1);
    server_start();
    first = client_open();
    client_ping(first);
    waiting = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    client_limits(waiting);
    top = open("/dev/null", O_RDONLY | O_CLOEXEC); /* the lowest number that is free */
    close(top);
    getrlimit(RLIMIT_NOFILE, &before);
    tight = before;
    tight.rlim_cur = (rlim_t)top;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    {
        struct sockaddr_in in = {.sin_family = AF_INET};

        in.sin_port = htons(net_port(fixture.net));
        in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        assert_int_equal(connect(waiting, (struct sockaddr *)&in, sizeof(in)), 0);
    }
    client_say(waiting, "echo at last\n");
    client_ping(first);
    client_ping(first);
    assert_int_equal(net_conn_count(fixture.net), 1);
    assert_int_equal(shutdown(first, SHUT_WR), 0); /* the server closes its end, that one only */
    client_expect_end(first);
    client_expect(waiting, "at last\n");
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    close(first);
    close(waiting);
    server_stop(10000);
}

/* ---- time limits ---- */

static _Atomic int64_t fake_now_ms;

static int64_t fake_time(void *ctx)
{
    (void)ctx;
    return atomic_load(&fake_now_ms);
}

static const struct clock_source fake_clock = {.wall_ms = fake_time, .mono_ms = fake_time};

static void prepare_with_clock(int64_t idle_ms, int64_t stall_ms)
{
    atomic_store(&fake_now_ms, 1000000);
    clock_replace(&fake_clock);
    server_prepare(1);
    fixture.config.idle_timeout_ms = idle_ms;
    fixture.config.stall_timeout_ms = stall_ms;
    server_start();
}

static void stop_with_clock(void)
{
    server_stop(10000);
    clock_replace(NULL);
}

/* Time goes on, and `other` makes the loop see it (twice: the first reply comes before the sweep).
 *  */
static void pass_ms(int64_t ms, int other)
{
    atomic_fetch_add(&fake_now_ms, ms);
    client_ping(other);
    client_ping(other);
}

/* Returns when the server has received it, which a reply on another connection would not show. */
static void say_and_await_receipt(int fd, const char *text)
{
    uint64_t expected = server_count(COUNTER_BYTES_READ) + strlen(text);

    client_say(fd, text);
    while (server_count(COUNTER_BYTES_READ) < expected)
        sched_yield();
}

static void idle_connections_are_closed_after_their_time(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(60000, 30000);
    other = client_open();
    fd = client_open();
    client_ping(fd);
    for (int i = 0; i < 59; i++)
        pass_ms(1000, other);
    client_ping(fd); /* not yet; and this starts the time anew */
    for (int i = 0; i < 59; i++)
        pass_ms(1000, other);
    assert_int_equal(count_of(EVENT_CLOSED), 0);
    pass_ms(1001, other);
    client_expect_end(fd);
    assert_int_equal(server_count(COUNTER_IDLE_KICKS), 1);
    assert_int_equal(server_count(COUNTER_STALLED_KICKS), 0);
    close(fd);
    close(other);
    stop_with_clock();
}

static void without_an_idle_limit_connections_stay(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(0, 30000);
    other = client_open();
    fd = client_open();
    client_ping(fd);
    pass_ms(1000000000, other);
    client_ping(fd);
    close(fd);
    close(other);
    stop_with_clock();
}

static void requests_that_do_not_come_to_their_end_are_closed(void **state)
{
    static const char *const begun[] = {"half a line", "body 10\n12345"};

    (void)state;
    for (size_t i = 0; i < sizeof(begun) / sizeof(begun[0]); i++) {
        int other;
        int fd;

        prepare_with_clock(0, 30000);
        other = client_open();
        fd = client_open();
        say_and_await_receipt(fd, begun[i]);
        pass_ms(29000, other);
        say_and_await_receipt(fd, "."); /* a byte moves */
        pass_ms(29000, other);
        assert_int_equal(count_of(EVENT_CLOSED), 0);
        pass_ms(30000, other);
        client_expect_end(fd);
        assert_int_equal(server_count(COUNTER_STALLED_KICKS), 1);
        assert_int_equal(server_count(COUNTER_IDLE_KICKS), 0);
        close(fd);
        close(other);
        stop_with_clock();
    }
}

static void replies_that_nobody_reads_are_closed(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(0, 30000);
    other = client_open();
    fd = client_open();
    say_and_await_receipt(fd, "bytes 20000000\n");
    while (count_of(EVENT_CLOSED) == 0) /* bytes move until the client's socket is full */
        pass_ms(31000, other);
    assert_int_equal(server_count(COUNTER_STALLED_KICKS), 1);
    close(fd);
    close(other);
    stop_with_clock();
}

/* Receives until the server has sent more than its answers to our pings. */
static void take_until_more_is_sent(int fd, int other)
{
    char bytes[65536];
    uint64_t expected = server_count(COUNTER_BYTES_WRITTEN) + strlen("ping\n");

    do {
        (void)recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        client_ping(other);
        expected += strlen("ping\n");
    } while (server_count(COUNTER_BYTES_WRITTEN) <= expected);
}

/* A file that is sent to a client that takes none of it, and to one that takes a little now and
 * then: any byte is progress. */
static void a_file_that_nobody_takes_is_not_sent_for_ever(void **state)
{
    int other;
    int slow;
    int fd;

    (void)state;
    prepare_with_clock(0, 30000);
    server_make_file(8 << 20);
    other = client_open();
    slow = client_open();
    fd = client_open();
    client_say(slow, "file 0 8000000\nfile 0 8000000\nfile 0 8000000\nfile 0 8000000\n");
    client_say(fd, "file 0 8000000\nfile 0 8000000\n");
    for (int i = 0; count_of(EVENT_CLOSED) == 0 || i < 6; i++) {
        pass_ms(10000, other);
        take_until_more_is_sent(slow, other);
    }
    assert_int_equal(count_of(EVENT_CLOSED), 1);
    assert_int_equal(server_count(COUNTER_STALLED_KICKS), 1);
    close(fd);
    close(slow);
    close(other);
    stop_with_clock();
}

static void a_file_that_is_revoked_is_not_sent_on(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(0, 0);
    server_make_file(8 << 20);
    other = client_open();
    fd = client_open();
    client_say(fd, "file 0 8000000\nfile 0 8000000\n");
    pass_ms(2000, other);
    pass_ms(2000, other);
    assert_int_equal(count_of(EVENT_CLOSED), 0);
    atomic_store(&fixture.revoked, true);
    while (count_of(EVENT_CLOSED) == 0)
        pass_ms(2000, other);
    assert_int_equal(server_count(COUNTER_PINNED_KICKS), 1);
    assert_int_equal(server_count(COUNTER_STALLED_KICKS), 0);
    close(fd);
    /* A revoked file does not hurt those that send nothing of it. */
    client_ping(other);
    close(other);
    stop_with_clock();
}

static void a_connection_on_hold_is_never_closed(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(1000, 1000);
    other = client_open();
    fd = client_open();
    client_say(fd, "hold\nhalf a line");
    await(EVENT_HELD, 1);
    pass_ms(900, other);
    pass_ms(900, other);
    pass_ms(900, other);
    assert_int_equal(count_of(EVENT_CLOSED), 0);
    server_resume();
    client_expect(fd, "resumed\n");
    pass_ms(900, other); /* from the end of the hold */
    client_say(fd, "\n");
    client_expect(fd, "what?\n");
    close(fd);
    close(other);
    stop_with_clock();
}

/* A client that was told to go, and neither does nor stops sending. */
static void lingering_ends(void **state)
{
    int other;
    int fd;

    (void)state;
    prepare_with_clock(0, 0);
    other = client_open();
    fd = client_open();
    client_say(fd, "close\nmore");
    client_expect(fd, "bye\n");
    await(EVENT_CLOSED, 1);
    assert_int_equal(net_conn_count(fixture.net), 2);
    pass_ms(2001, other);
    while (net_conn_count(fixture.net) != 1)
        client_ping(other);
    close(fd);
    close(other);
    stop_with_clock();
}

/* ---- stopping ---- */

static void *stop_in_a_thread(void *arg)
{
    net_stop(fixture.net, *(int64_t *)arg);
    return NULL;
}

static void await_port_closed(uint16_t port)
{
    int fd;

    /* Accepted or queued before the stop came through: closed or reset by it. */
    while ((fd = client_try("127.0.0.1", port)) >= 0 || fd == -ECONNRESET)
        if (fd >= 0)
            close(fd);
    assert_int_equal(fd, -ECONNREFUSED);
}

static void idle_connections_do_not_delay_a_stop(void **state)
{
    int fds[50];

    (void)state;
    server_prepare(2);
    server_start();
    for (int i = 0; i < 50; i++) {
        fds[i] = client_open();
        if (i % 2 == 0)
            client_ping(fds[i]);
    }
    server_stop(1000000);
    for (int i = 0; i < 50; i++) {
        client_expect_end(fds[i]);
        close(fds[i]);
    }
}

static void a_stop_waits_for_requests_under_way(void **state)
{
    int64_t grace_ms = 1000000;
    pthread_t thread;
    int idle;
    int fd;

    (void)state;
    server_prepare(2);
    server_start();
    fd = client_open();
    idle = client_open();
    client_ping(idle);
    client_say(fd, "hold\nbytes 9000000\necho done\n");
    await(EVENT_HELD, 1);
    assert_int_equal(pthread_create(&thread, NULL, stop_in_a_thread, &grace_ms), 0);
    client_expect_end(idle); /* at once */
    await_port_closed(net_port(fixture.net));
    server_resume();
    client_expect(fd, "resumed\n");
    client_expect_pattern(fd, 0, 9000000);
    client_expect(fd, "done\n");
    client_expect_end(fd);
    pthread_join(thread, NULL);
    close(fd);
    close(idle);
    server_stop(0);
}

static void the_rest_of_a_request_may_still_come_while_stopping(void **state)
{
    int64_t grace_ms = 1000000;
    pthread_t thread;
    int idle;
    int fd;

    (void)state;
    server_prepare(1);
    server_start();
    fd = client_open();
    idle = client_open();
    client_say(fd, "echo x\nbody 5\nab");
    client_expect(fd, "x\n");
    client_ping(idle);
    assert_int_equal(pthread_create(&thread, NULL, stop_in_a_thread, &grace_ms), 0);
    client_expect_end(idle);
    client_say(fd, "cde");
    client_expect(fd, "got 5 ");
    pthread_join(thread, NULL);
    close(fd);
    close(idle);
    server_stop(0);
}

static void after_the_grace_everything_is_closed(void **state)
{
    int held;
    int stuck;
    int partial;

    (void)state;
    server_prepare(2);
    server_start();
    server_make_file(8 << 20);
    held = client_open();
    stuck = client_open();
    partial = client_open();
    client_say(held, "hold\necho never\n");
    client_say(stuck, "file 0 8000000\nmemory 1000000\nbytes 9000000\n");
    client_say(partial, "half a line");
    await(EVENT_HELD, 1);
    await(EVENT_PIECES, 1);
    server_stop(0);
    client_expect_end(held);
    close(held);
    close(stuck);
    close(partial);
}

static void a_server_that_was_never_started_can_be_closed(void **state)
{
    (void)state;
    server_prepare(2);
    assert_int_equal(net_open(&fixture.config, &fixture.net), 0);
    net_close(fixture.net);
    server_free();
}

/* Clients come, work and go at random while the server is stopped under them. */
static void *be_a_client(void *arg)
{
    unsigned seed = *(unsigned *)arg;
    uint16_t port = net_port(fixture.net);
    char buf[4096];

    for (;;) {
        static const char *const says[] = {"echo a\necho b\n", "bytes 100000\n", "memory 50000\n",
                                           "file 5 70000\n",   "hold\n",         "half",
                                           "close\n",          "abort\n",        "stream 600000\n"};
        int fd = client_try("127.0.0.1", port);

        if (fd < 0)
            return NULL;
        for (int i = 0; i < 4; i++) {
            const char *text = says[(unsigned)rand_r(&seed) % 9];

            if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
                break;
            if (rand_r(&seed) % 2 == 0)
                (void)!recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        }
        close(fd);
    }
}

static void clients_at_random_and_a_stop_leave_nothing_behind(void **state)
{
    const char *given = getenv("TEST_SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)getpid();
    pthread_t threads[4];
    unsigned seeds[4];

    (void)state;
    print_message("TEST_SEED=%u\n", seed);
    server_prepare(2);
    server_start();
    server_make_file(1 << 20);
    for (unsigned i = 0; i < 4; i++) {
        seeds[i] = seed + i;
        assert_int_equal(pthread_create(&threads[i], NULL, be_a_client, &seeds[i]), 0);
    }
    for (unsigned n = 50; n <= 1000; n += 50) {
        await(EVENT_CLOSED, n);
        server_resume();
        if (n % 200 == 0)
            server_evict_file();
    }
    net_stop(fixture.net, 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    server_stop(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_port_in_use_is_found_whatever_its_owner_set),
        cmocka_unit_test(a_second_server_on_the_port_is_refused),
        cmocka_unit_test(a_restart_gets_its_port_back_at_once),
        cmocka_unit_test(every_worker_gets_connections),
        cmocka_unit_test(hosts_are_listened_to_on_all_their_addresses),
        cmocka_unit_test(a_name_stands_for_all_that_it_resolves_to),
        cmocka_unit_test(a_host_that_is_not_ours_is_refused),
        cmocka_unit_test(a_worker_that_cannot_start_fails_the_start),
        cmocka_unit_test(workers_share_the_unix_socket),
        cmocka_unit_test(a_unix_socket_may_stand_alone),
        cmocka_unit_test(what_a_unix_client_sent_before_it_closed_is_carried_out),
        cmocka_unit_test(a_stale_unix_socket_is_replaced),
        cmocka_unit_test(a_unix_socket_that_answers_is_left_alone),
        cmocka_unit_test(a_file_in_the_way_of_the_unix_socket_is_left_alone),
        cmocka_unit_test(a_unix_path_that_is_too_long_is_refused),
        cmocka_unit_test(a_connection_too_many_is_told_so),
        cmocka_unit_test(without_descriptors_accepting_waits_for_one),
        cmocka_unit_test(idle_connections_are_closed_after_their_time),
        cmocka_unit_test(without_an_idle_limit_connections_stay),
        cmocka_unit_test(requests_that_do_not_come_to_their_end_are_closed),
        cmocka_unit_test(replies_that_nobody_reads_are_closed),
        cmocka_unit_test(a_file_that_nobody_takes_is_not_sent_for_ever),
        cmocka_unit_test(a_file_that_is_revoked_is_not_sent_on),
        cmocka_unit_test(a_connection_on_hold_is_never_closed),
        cmocka_unit_test(lingering_ends),
        cmocka_unit_test(idle_connections_do_not_delay_a_stop),
        cmocka_unit_test(a_stop_waits_for_requests_under_way),
        cmocka_unit_test(the_rest_of_a_request_may_still_come_while_stopping),
        cmocka_unit_test(after_the_grace_everything_is_closed),
        cmocka_unit_test(a_server_that_was_never_started_can_be_closed),
        cmocka_unit_test(clients_at_random_and_a_stop_leave_nothing_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
