/*
 * ttctl_client.h - one connection of ttctl to a server: HTTP requests, and memcached's `stats`.
 *
 * Provides: struct client, client_open(), client_request(), client_fetch(), client_stats(),
 *           client_close().
 * Used by:  ttctl's commands.
 * Threads:  one.
 *
 * The HTTP is libcurl's. Environment variables for proxies are not looked at: a server is talked to
 * directly.
 */
#ifndef TOOLS_TTCTL_CLIENT_H
#define TOOLS_TTCTL_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/slice.h"

struct client_address {
    const char *host;
    uint16_t port;
    const char *unix_path; /* NULL: TCP */
    uint32_t timeout_s;    /* to connect, and without any progress; 0: none */
};

struct client;

/* Connects to nothing yet. 0 or -errno. */
int client_open(const struct client_address *address, struct client **out);
void client_close(struct client *client);

/* The length is not known before the end. */
#define CLIENT_UNKNOWN_LENGTH (-1)

/* A request body. */
struct client_body {
    struct slice memory; /* sent if file is NULL */
    FILE *file;
    int64_t length; /* of the file from where it stands, or CLIENT_UNKNOWN_LENGTH */
    /* Instead of both: gives the next bytes, at most len; 0 at the end, -1 breaks the request off.
     * The length is not known. */
    ssize_t (*give)(char *room, size_t len, void *arg);
    void *arg;
};

struct client_reply {
    long status;     /* HTTP status */
    struct buf text; /* the body, when it did not go to a stream; at most CLIENT_TEXT_MAX */
    bool more;       /* of a list: the server says that this is not all */
    int64_t took_us; /* of the whole exchange */
};

#define CLIENT_TEXT_MAX (256u * 1024 * 1024)

/* Sends `method target` (an encoded path with its query, beginning with '/'). The body of a 200
 * reply goes to `to` if that is given, else to reply->text, which the caller frees. 0: there is a
 * complete reply. -1: there is none; *message says why and lives until the next call. */
int client_request(struct client *client, const char *method, struct slice target,
                   const struct client_body *body, FILE *to, struct client_reply *reply,
                   const char **message);

/* GET. The pieces of a 200 reply's body go to take(), which breaks the request off by returning
 * false; else as above. */
int client_fetch(struct client *client, struct slice target,
                 bool (*take)(struct slice piece, void *arg), void *arg, struct client_reply *reply,
                 const char **message);

/* For requests beside each other (ttctl_upload.c): makes one of libcurl's handles as the client's
 * own is, and a URL, malloc'd or NULL. `error` has CURL_ERROR_SIZE bytes. */
void client_prepare(const struct client *client, void *handle, char *error);
char *client_url(const struct client *client, struct slice target);

/* The lines "STAT name value" of memcached's stats, as they come, without the END. 0 or -1, as
 * above. */
int client_stats(struct client *client, struct buf *out, const char **message);

#endif
