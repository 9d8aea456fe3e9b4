/*
 * listener.c - addresses, binding and accepting.
 *
 * Provides: listeners_*() and listener_accept() of net_internal.h.
 * Threads:  opening and closing: main thread. Accepting, pausing, listeners_stop(): the worker.
 *
 * Every worker has its own TCP listeners (SO_REUSEPORT); the unix socket's is shared, with
 * EPOLLEXCLUSIVE so that one connection wakes one worker.
 */
#include "net/net_internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

enum {
    PORT_TRIES = 20, /* when the kernel chose a port that a second address cannot have */
    ADDRESS_TEXT_MAX = 64,
    WARN_EVERY_MS = 60000,
};

static const char too_many[] = "ERROR Too many open connections\r\n";

/* ---- binding ---- */

static void address_text(const struct sockaddr *addr, socklen_t len, char out[ADDRESS_TEXT_MAX])
{
    char host[ADDRESS_TEXT_MAX - 12];
    char port[8];

    if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, ADDRESS_TEXT_MAX, "(unknown address)");
    else
        snprintf(out, ADDRESS_TEXT_MAX, addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host,
                 port);
}

_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
               "the port has one place in both families");

static void set_port(struct sockaddr_storage *addr, uint16_t port)
{
    ((struct sockaddr_in6 *)addr)->sin6_port = htons(port);
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_in6 addr = {0};
    socklen_t len = sizeof(addr);

    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0)
        return 0;
    return ntohs(addr.sin6_port);
}

static int set_option(int fd, int level, int name)
{
    int on = 1;

    return setsockopt(fd, level, name, &on, sizeof(on)) == 0 ? 0 : -errno;
}

/*
 * Accepted sockets inherit TCP_NODELAY and SO_KEEPALIVE, which saves two calls per connection.
 *
 * The first listener of an address is bound and made to listen without SO_REUSEPORT, so that the
 * kernel refuses if anybody listens there, however he has set his own; it may join a group
 * afterwards. Two servers that start at the same moment cannot both pass: bind() would let them
 * (SO_REUSEADDR), listen() does not.
 */
static int open_tcp(const struct sockaddr *addr, socklen_t len, bool first, int *out)
{
    int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int rc;

    if (fd == -1)
        return -errno;
    rc = set_option(fd, SOL_SOCKET, SO_REUSEADDR);
    if (rc == 0 && !first)
        rc = set_option(fd, SOL_SOCKET, SO_REUSEPORT);
    if (rc == 0 && addr->sa_family == AF_INET6)
        rc = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    if (rc == 0)
        rc = set_option(fd, SOL_SOCKET, SO_KEEPALIVE);
    if (rc == 0)
        rc = set_option(fd, IPPROTO_TCP, TCP_NODELAY);
    if (rc == 0 && (bind(fd, addr, len) != 0 || listen(fd, SOMAXCONN) != 0))
        rc = -errno;
    if (rc == 0 && first)
        rc = set_option(fd, SOL_SOCKET, SO_REUSEPORT);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

static void add_listener(struct worker *w, int fd, bool is_unix)
{
    w->listeners[w->listener_count++] =
        (struct listener){.source = SOURCE_LISTENER, .fd = fd, .is_unix = is_unix};
}

/* One address for all workers. On failure what it has opened is with the workers, to be closed
 * there. */
static int open_address(struct net *net, const struct addrinfo *ai)
{
    struct sockaddr_storage addr;

    memcpy(&addr, ai->ai_addr, ai->ai_addrlen);
    for (unsigned i = 0; i < net->worker_count; i++) {
        int fd = -1;
        int rc;

        set_port(&addr, net->port);
        rc = open_tcp((struct sockaddr *)&addr, ai->ai_addrlen, i == 0, &fd);
        if (rc != 0)
            return rc;
        add_listener(&net->workers[i], fd, false);
        if (net->port == 0)
            net->port = bound_port(fd);
    }
    return 0;
}

static void close_tcp(struct net *net)
{
    for (unsigned i = 0; i < net->worker_count; i++) {
        struct worker *w = &net->workers[i];

        for (unsigned k = 0; k < w->listener_count; k++) {
            if (w->listeners[k].fd != -1 && !w->listeners[k].is_unix)
                close(w->listeners[k].fd);
        }
        w->listener_count = 0;
    }
}

/* What a name also stands for but this machine does not have (no IPv6, say). */
static bool is_absent_address(int rc)
{
    return rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT;
}

/* Listens on all addresses of the list that this machine has. *failed is the one that a failure is
 * about. */
static int open_addresses(struct net *net, const struct addrinfo *list,
                          const struct addrinfo **failed)
{
    unsigned opened = 0;
    int rc = -EADDRNOTAVAIL;

    *failed = list;
    for (const struct addrinfo *ai = list; ai != NULL && opened < NET_MAX_ADDRESSES;
         ai = ai->ai_next) {
        int one = open_address(net, ai);

        if (one == 0) {
            opened++;
        } else if (!is_absent_address(one)) {
            *failed = ai;
            return one;
        } else {
            rc = one;
        }
    }
    return opened > 0 ? 0 : rc;
}

static int resolve(const struct net_config *config, struct addrinfo **out)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    const char *host = strcmp(config->host, "*") == 0 ? NULL : config->host;
    char port[8];
    int rc;

    snprintf(port, sizeof(port), "%u", (unsigned)config->port);
    rc = getaddrinfo(host, port, &hints, out);
    if (rc != 0) {
        log_error("cannot find the address of host %s: %s", config->host, gai_strerror(rc));
        return -EADDRNOTAVAIL;
    }
    return 0;
}

static int open_all_tcp(struct net *net)
{
    struct addrinfo *list;
    const struct addrinfo *failed;
    int rc = resolve(&net->config, &list);

    if (rc != 0)
        return rc;
    for (unsigned tries = 1;; tries++) {
        net->port = net->config.port;
        rc = open_addresses(net, list, &failed);
        if (rc != -EADDRINUSE || net->config.port != 0 || tries == PORT_TRIES)
            break;
        close_tcp(net);
    }
    if (rc != 0 && rc != -EADDRINUSE) {
        char text[ADDRESS_TEXT_MAX];

        address_text(failed->ai_addr, failed->ai_addrlen, text);
        log_error("cannot listen on %s: %s", text, strerror(-rc));
    }
    freeaddrinfo(list);
    return rc;
}

/* ---- the unix socket ---- */

/* 0: nobody is there; -EADDRINUSE: somebody answers; other -errno. */
static int probe_unix(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int rc = -EADDRINUSE; /* also when his queue of connections is full: EAGAIN */

    if (fd == -1)
        return -errno;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0 && errno != EAGAIN)
        rc = errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
    close(fd);
    return rc;
}

/* A socket that a dead server has left is removed; whatever else has the name stays. */
static int clear_unix_path(const struct sockaddr_un *addr)
{
    struct stat st;
    int rc;

    if (lstat(addr->sun_path, &st) != 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    rc = probe_unix(addr);
    if (rc != 0)
        return rc;
    return unlink(addr->sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int bind_unix(struct net *net, const struct sockaddr_un *addr)
{
    int rc;

    net->unix_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (net->unix_fd == -1)
        return -errno;
    if (bind(net->unix_fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0) {
        rc = -errno;
        close(net->unix_fd); /* nothing at the path is ours */
        net->unix_fd = -1;
        return rc;
    }
    if (stat(addr->sun_path, &net->unix_stat) != 0 || listen(net->unix_fd, SOMAXCONN) != 0)
        return -errno;
    return 0;
}

static int open_unix(struct net *net)
{
    const char *path = net->config.unix_path;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int rc;

    if (path[0] == '\0' || strlen(path) >= sizeof(addr.sun_path)) {
        log_error("unix socket path %s: must have 1 to %zu bytes", path, sizeof(addr.sun_path) - 1);
        return -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    rc = clear_unix_path(&addr);
    if (rc == 0)
        rc = bind_unix(net, &addr);
    if (rc == -EEXIST)
        log_error("unix socket path %s: a file that is no socket is in the way", path);
    else if (rc == -EADDRINUSE)
        log_error("unix socket path %s: another server answers there", path);
    else if (rc != 0)
        log_error("cannot listen on unix socket path %s: %s", path, strerror(-rc));
    if (rc != 0)
        return rc;
    for (unsigned i = 0; i < net->worker_count; i++)
        add_listener(&net->workers[i], net->unix_fd, true);
    return 0;
}

int listeners_open(struct net *net)
{
    bool only_unix = net->config.port == 0 && net->config.unix_path != NULL;
    int rc = only_unix ? 0 : open_all_tcp(net);

    if (rc == 0 && net->config.unix_path != NULL)
        rc = open_unix(net);
    return rc;
}

void listeners_unlink(struct net *net)
{
    struct stat st;

    if (net->unix_fd == -1 || stat(net->config.unix_path, &st) != 0)
        return;
    if (st.st_dev == net->unix_stat.st_dev && st.st_ino == net->unix_stat.st_ino)
        unlink(net->config.unix_path);
}

void listeners_close(struct net *net)
{
    close_tcp(net);
    listeners_unlink(net);
    if (net->unix_fd != -1)
        close(net->unix_fd);
    net->unix_fd = -1;
}

/* ---- accepting ---- */

static int watch_listener(struct worker *w, struct listener *l)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = l};

    if (l->is_unix)
        ev.events |= EPOLLEXCLUSIVE;
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, l->fd, &ev) == 0 ? 0 : -errno;
}

int listeners_watch(struct worker *w)
{
    for (unsigned i = 0; i < w->listener_count; i++) {
        int rc = watch_listener(w, &w->listeners[i]);

        if (rc != 0)
            return rc;
    }
    return 0;
}

/* No descriptor or memory for a new connection: a listener that stays in epoll would spin. The
 * sweep, or a connection that closes, resumes. */
static void pause_accepting(struct worker *w, int error)
{
    for (unsigned i = 0; i < w->listener_count; i++)
        epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, w->listeners[i].fd, NULL);
    w->accept_paused = true;
    if (w->accept_warned_ms == 0 || w->now_ms - w->accept_warned_ms >= WARN_EVERY_MS) {
        log_warn("cannot accept connections for now: %s", strerror(error));
        w->accept_warned_ms = w->now_ms;
    }
}

void listeners_resume(struct worker *w)
{
    if (!w->accept_paused)
        return;
    w->accept_paused = false;
    if (listeners_watch(w) != 0)
        pause_accepting(w, ENOMEM);
}

/* Input that lies unread would turn the close into a reset, and the client would never see the
 * reason. */
static void refuse(struct worker *w, int fd)
{
    char ignored[4096];
    ssize_t n;

    counter_add(&w->counters, COUNTER_CONNECTIONS_REJECTED, 1);
    n = send(fd, too_many, sizeof(too_many) - 1, MSG_NOSIGNAL);
    if (n > 0)
        n = recv(fd, ignored, sizeof(ignored), 0);
    (void)n;
    close(fd);
}

static void take_connection(struct worker *w, int fd)
{
    struct net *net = w->net;
    unsigned before = atomic_fetch_add_explicit(&net->conn_count, 1, memory_order_relaxed);
    int rc;

    if (before >= net->config.max_conns) {
        atomic_fetch_sub_explicit(&net->conn_count, 1, memory_order_relaxed);
        refuse(w, fd);
        return;
    }
    rc = conn_create(w, fd);
    if (rc == 0) {
        counter_add(&w->counters, COUNTER_CONNECTIONS_TOTAL, 1);
        return;
    }
    atomic_fetch_sub_explicit(&net->conn_count, 1, memory_order_relaxed);
    pause_accepting(w, -rc);
}

/* The one connection has failed, the next may be fine. All else (no descriptors, no memory)
 * pauses. */
static bool concerns_one_connection(int error)
{
    return error == ECONNABORTED || error == EINTR || error == EPROTO || error == EPERM ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
           error == EHOSTUNREACH || error == ETIMEDOUT;
}

void listener_accept(struct worker *w, struct listener *l)
{
    /* Its event may come in the same turn as the stop that has closed it. */
    while (!w->accept_paused && l->fd != -1) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd != -1)
            take_connection(w, fd);
        else if (errno == EAGAIN)
            return;
        else if (!concerns_one_connection(errno))
            pause_accepting(w, errno);
    }
}

void listeners_stop(struct worker *w)
{
    for (unsigned i = 0; i < w->listener_count; i++) {
        struct listener *l = &w->listeners[i];

        if (!w->accept_paused) {
            listener_accept(w, l);
            epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, l->fd, NULL);
        }
        if (!l->is_unix)
            close(l->fd);
        l->fd = -1;
    }
    w->listener_count = 0;
    w->accept_paused = false;
}
