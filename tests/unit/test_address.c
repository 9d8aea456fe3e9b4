/*
 * test_address.c - what an address is, before anything listens on it (main/address.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "main/address.h"

/* Addresses as numbers only: a test must not ask a name server. */
static void only_addresses_of_this_machine_alone_are_loopback(void **state)
{
    static const struct {
        const char *host;
        bool loopback;
    } rows[] = {
        {"127.0.0.1", true},    {"127.255.255.254", true},
        {"::1", true},          {"::ffff:127.0.0.1", true},
        {"0.0.0.0", false},     {"::", false},
        {"128.0.0.1", false},   {"126.255.255.255", false},
        {"10.0.0.1", false},    {"::ffff:10.0.0.1", false},
        {"::2", false},         {"*", false},
        {"2001:db8::1", false}, {"::127.0.0.1", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct addrinfo *list;

        assert_int_equal(address_resolve(rows[i].host, 1978, &list), 0);
        if (address_is_loopback(list) != rows[i].loopback)
            fail_msg("%s", rows[i].host);
        freeaddrinfo(list);
    }
}

static void one_address_of_many_that_others_can_reach_is_enough(void **state)
{
    struct sockaddr_in near = {.sin_family = AF_INET}, far = {.sin_family = AF_INET};
    struct addrinfo second = {.ai_family = AF_INET, .ai_addr = (struct sockaddr *)&far};
    struct addrinfo first = {.ai_family = AF_INET, .ai_addr = (struct sockaddr *)&near};

    (void)state;
    near.sin_addr.s_addr = htonl(0x7f000001);
    far.sin_addr.s_addr = htonl(0x0a000001);
    assert_true(address_is_loopback(&first));
    first.ai_next = &second;
    assert_false(address_is_loopback(&first));
}

static void texts_have_brackets_around_ipv6(void **state)
{
    char text[ADDRESS_TEXT_MAX];

    (void)state;
    address_text("127.0.0.1", 1978, text, sizeof(text));
    assert_string_equal(text, "127.0.0.1:1978");
    address_text("::1", 65535, text, sizeof(text));
    assert_string_equal(text, "[::1]:65535");
    address_text("localhost", 1, text, sizeof(text));
    assert_string_equal(text, "localhost:1");
}

static void clients_get_an_address_that_can_be_connected_to(void **state)
{
    (void)state;
    assert_string_equal(address_for_clients("0.0.0.0"), "127.0.0.1");
    assert_string_equal(address_for_clients("*"), "127.0.0.1");
    assert_string_equal(address_for_clients("::"), "::1");
    assert_string_equal(address_for_clients("::1"), "::1");
    assert_string_equal(address_for_clients("10.0.0.7"), "10.0.0.7");
    assert_string_equal(address_for_clients("localhost"), "localhost");
}

/* A socket that listens on a port that the kernel has chosen. */
static int listen_somewhere(bool shared, uint16_t *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof(addr);
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    if (shared)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

static void a_port_that_somebody_listens_on_is_found_even_if_he_would_share_it(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        struct addrinfo *list;
        uint16_t port;
        int fd = listen_somewhere(shared == 1, &port);

        assert_int_equal(address_resolve("127.0.0.1", port, &list), 0);
        assert_int_equal(address_probe(list), -EADDRINUSE);
        close(fd);
        assert_int_equal(address_probe(list), 0);
        freeaddrinfo(list);
    }
}

static void the_next_free_port_lies_above_and_can_be_bound(void **state)
{
    struct addrinfo *list;
    uint16_t port, next;
    int fd = listen_somewhere(false, &port);

    (void)state;
    next = address_next_free("127.0.0.1", port);
    if (port == UINT16_MAX) {
        assert_int_equal(next, 0);
    } else {
        assert_true(next > port);
        assert_int_equal(address_resolve("127.0.0.1", next, &list), 0);
        assert_int_equal(address_probe(list), 0);
        freeaddrinfo(list);
    }
    assert_int_equal(address_next_free("127.0.0.1", UINT16_MAX), 0);
    close(fd);
}

static void an_address_that_this_machine_lacks_is_an_error(void **state)
{
    struct addrinfo *list;

    (void)state;
    assert_int_equal(address_resolve("192.0.2.1", 1978, &list), 0); /* for documentation only */
    assert_int_equal(address_probe(list), -EADDRNOTAVAIL);
    freeaddrinfo(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_addresses_of_this_machine_alone_are_loopback),
        cmocka_unit_test(one_address_of_many_that_others_can_reach_is_enough),
        cmocka_unit_test(texts_have_brackets_around_ipv6),
        cmocka_unit_test(clients_get_an_address_that_can_be_connected_to),
        cmocka_unit_test(a_port_that_somebody_listens_on_is_found_even_if_he_would_share_it),
        cmocka_unit_test(the_next_free_port_lies_above_and_can_be_bound),
        cmocka_unit_test(an_address_that_this_machine_lacks_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
