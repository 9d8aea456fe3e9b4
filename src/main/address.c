/*
 * address.c - the TCP address that the server is asked to listen on: see address.h.
 */
#include "main/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

/* How many ports address_next_free() tries. */
enum { NEXT_FREE_TRIES = 200 };

static bool is_every_address(const char *host)
{
    return strcmp(host, "*") == 0;
}

static int resolve(const char *host, uint16_t port, struct addrinfo **out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char service[8];

    snprintf(service, sizeof(service), "%u", port);
    return getaddrinfo(is_every_address(host) ? NULL : host, service, &hints, out);
}

int address_resolve(const char *host, uint16_t port, struct addrinfo **out)
{
    int rc = resolve(host, port, out);

    if (rc == 0)
        return 0;
    log_error("cannot listen on host %s: %s", host,
              rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
    return -1;
}

static bool in6_is_loopback(const struct in6_addr *a)
{
    return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == IN_LOOPBACKNET);
}

bool address_is_loopback(const struct addrinfo *list)
{
    for (; list != NULL; list = list->ai_next) {
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;

        if (list->ai_family == AF_INET) {
            memcpy(&v4, list->ai_addr, sizeof(v4));
            if (ntohl(v4.sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
                return false;
        } else if (list->ai_family == AF_INET6) {
            memcpy(&v6, list->ai_addr, sizeof(v6));
            if (!in6_is_loopback(&v6.sin6_addr))
                return false;
        } else {
            return false;
        }
    }
    return true;
}

static int probe_one(const struct addrinfo *address)
{
    int on = 1;
    int rc = 0;
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);

    if (fd == -1)
        return -errno;
    /* Like the real listener: what a server that has just ended left in TIME_WAIT is no obstacle.
     * */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0)
        rc = -errno;
    close(fd);
    return rc;
}

/* A name may stand for addresses that this machine does not have, IPv6 for example. */
static bool is_absent(int rc)
{
    return rc == -EAFNOSUPPORT || rc == -EADDRNOTAVAIL;
}

int address_probe(const struct addrinfo *list)
{
    int result = -EADDRNOTAVAIL;

    for (; list != NULL; list = list->ai_next) {
        int rc = probe_one(list);

        if (rc == 0)
            result = 0;
        else if (!is_absent(rc))
            return rc;
    }
    return result;
}

uint16_t address_next_free(const char *host, uint16_t port)
{
    for (unsigned next = port + 1u; next <= UINT16_MAX && next <= port + (unsigned)NEXT_FREE_TRIES;
         next++) {
        struct addrinfo *list;
        int rc;

        if (resolve(host, (uint16_t)next, &list) != 0)
            return 0;
        rc = address_probe(list);
        freeaddrinfo(list);
        if (rc == 0)
            return (uint16_t)next;
    }
    return 0;
}

void address_text(const char *host, uint16_t port, char *out, size_t room)
{
    bool brackets = strchr(host, ':') != NULL;

    snprintf(out, room, "%s%s%s:%u", brackets ? "[" : "", host, brackets ? "]" : "", port);
}

const char *address_for_clients(const char *host)
{
    struct in6_addr v6;
    struct in_addr v4;

    if (is_every_address(host))
        return "127.0.0.1";
    if (inet_pton(AF_INET, host, &v4) == 1 && v4.s_addr == htonl(INADDR_ANY))
        return "127.0.0.1";
    if (inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6))
        return "::1";
    return host;
}
