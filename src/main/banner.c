/*
 * banner.c - what the server says when it is ready: see banner.h.
 *
 * The lines to try work as they are pasted, on a machine that has bash and curl but no nc.
 */
#include "main/banner.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "main/address.h"
#include "main/server.h"

static const char *sync_meaning(enum store_sync sync)
{
    switch (sync) {
    case STORE_SYNC_ALWAYS: return "a write is on disk before it is answered";
    case STORE_SYNC_INTERVAL: return "a write is on disk at most so many milliseconds later";
    default: return "a write is on disk when the kernel likes";
    }
}

static void print_tcp_lines(const struct options *options)
{
    const char *host = address_for_clients(options->host);
    unsigned port = (unsigned)options->port;
    char url[ADDRESS_TEXT_MAX];

    address_text(host, (uint16_t)port, url, sizeof(url));
    printf(
        "\nTry it with memcached's protocol and with HTTP, from another terminal:\n"
        "  bash -c 'exec 3<>/dev/tcp/%s/%u; "
        "printf \"set greeting 0 0 5\\r\\nhello\\r\\nget greeting\\r\\nquit\\r\\n\" >&3; cat <&3'\n"
        "  echo '<h1>Hello</h1>' | curl -sT - http://%s/hello.html\n"
        "  curl -i http://%s/hello.html\n",
        host, port, url, url);
}

static void print_unix_lines(const char *path)
{
    printf("\nTry it with HTTP, from another terminal:\n"
           "  echo '<h1>Hello</h1>' | curl -sT - --unix-socket '%s' http://localhost/hello.html\n"
           "  curl -i --unix-socket '%s' http://localhost/hello.html\n",
           path, path);
}

static void print_banner(const struct server *server, const char *address)
{
    const struct options *options = server->options;

    printf("ttserver %s is ready\n", TT_VERSION);
    if (options->port != 0)
        printf("  address  %s\n", address);
    if (options->unix_path != NULL)
        printf("  socket   %s\n", options->unix_path);
    printf("  data     %s (%llu records)\n", server->data_dir,
           (unsigned long long)store_count(server->store));
    printf("  sync     %s (%s)\n", server->sync_text, sync_meaning((enum store_sync)options->sync));
    if (options->port != 0)
        print_tcp_lines(options);
    else
        print_unix_lines(options->unix_path);
    printf("\nCtrl-C stops the server.\n");
    fflush(stdout);
}

void banner_ready(const struct server *server)
{
    const struct options *options = server->options;
    char address[ADDRESS_TEXT_MAX] = "none";

    if (options->port != 0)
        address_text(options->host, net_port(server->net), address, sizeof(address));
    log_info(
        "ready address=%s unix=%s data=%s sync=%s records=%llu threads=%u max_conns=%u pid=%ld",
        address, options->unix_path != NULL ? options->unix_path : "none", server->data_dir,
        server->sync_text, (unsigned long long)store_count(server->store), server->app.threads,
        server->app.max_conns, (long)getpid());
    if (options->log_path == NULL)
        print_banner(server, address);
}
