/*
 * ttctl_client.c - one connection of ttctl to a server: see ttctl_client.h.
 */
#include "tools/ttctl_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "base/clock.h"

enum {
    STATS_MAX_BYTES = 1024 * 1024, /* a server that sends more is none of ours */
    STATS_PIECE_BYTES = 16 * 1024,
    HOST_MAX_BYTES = 255,
};

struct client {
    CURL *curl;
    struct client_address address;
    char base_url[HOST_MAX_BYTES + 32]; /* "http://HOST:PORT" */
    char error[CURL_ERROR_SIZE];
};

/* What the callbacks of one request share. */
struct exchange {
    CURL *curl;
    struct slice memory;
    FILE *from;
    ssize_t (*give)(char *room, size_t len, void *arg);
    void *give_arg;
    FILE *to;
    bool (*take)(struct slice piece, void *arg);
    void *take_arg;
    struct buf *text;
    const char *failure; /* ours, not libcurl's; NULL: none */
};

static void set_base_url(struct client *client)
{
    const struct client_address *a = &client->address;
    bool brackets = strchr(a->host, ':') != NULL && a->host[0] != '[';

    if (a->unix_path != NULL)
        snprintf(client->base_url, sizeof(client->base_url), "http://localhost");
    else
        snprintf(client->base_url, sizeof(client->base_url), "http://%s%s%s:%u",
                 brackets ? "[" : "", a->host, brackets ? "]" : "", a->port);
}

int client_open(const struct client_address *address, struct client **out)
{
    struct client *client;

    if (address->unix_path == NULL && strlen(address->host) > HOST_MAX_BYTES)
        return -ENAMETOOLONG;
    client = calloc(1, sizeof(*client));
    if (client == NULL)
        return -ENOMEM;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || (client->curl = curl_easy_init()) == NULL) {
        free(client);
        return -ENOMEM;
    }
    client->address = *address;
    set_base_url(client);
    *out = client;
    return 0;
}

void client_close(struct client *client)
{
    curl_easy_cleanup(client->curl);
    curl_global_cleanup();
    free(client);
}

/* What every exchange wants. Connections of the handle stay open from request to request. */
void client_prepare(const struct client *client, void *handle, char *error)
{
    const struct client_address *a = &client->address;
    CURL *curl = handle;

    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L); /* `..` is a key like any other */
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)a->timeout_s);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)a->timeout_s);
    if (a->unix_path != NULL)
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, a->unix_path);
    error[0] = '\0';
}

/* Why libcurl gave up; it does not always fill the buffer. */
static const char *error_text(struct client *client, CURLcode code)
{
    const struct client_address *a = &client->address;

    if (code == CURLE_COULDNT_CONNECT && a->unix_path != NULL)
        snprintf(client->error, sizeof(client->error), "no server answers at %s", a->unix_path);
    else if (code == CURLE_COULDNT_CONNECT)
        snprintf(client->error, sizeof(client->error), "no server answers at %s port %u", a->host,
                 a->port);
    return client->error[0] != '\0' ? client->error : curl_easy_strerror(code);
}

static size_t take_body(char *data, size_t one, size_t len, void *arg)
{
    struct exchange *x = arg;
    long status = 0;

    (void)one; /* always 1 */
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    if (x->take != NULL && status == 200)
        return x->take(slice_of(data, len), x->take_arg) ? len : 0;
    if (x->to != NULL && status == 200) {
        if (fwrite(data, 1, len, x->to) == len)
            return len;
        x->failure = strerror(errno);
        return 0;
    }
    if (x->text->len + len > CLIENT_TEXT_MAX || buf_add(x->text, data, len) != 0) {
        x->failure = "the reply is too long";
        return 0;
    }
    return len;
}

static size_t give_body(char *room, size_t one, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t room_len = one * count;
    size_t len;

    if (x->give != NULL) {
        ssize_t given = x->give(room, room_len, x->give_arg);

        return given < 0 ? CURL_READFUNC_ABORT : (size_t)given;
    }
    if (x->from != NULL) {
        len = fread(room, 1, room_len, x->from);
        if (len > 0 || !ferror(x->from))
            return len;
        x->failure = strerror(errno);
        return CURL_READFUNC_ABORT;
    }
    len = x->memory.len < room_len ? x->memory.len : room_len;
    memcpy(room, x->memory.ptr, len);
    x->memory = slice_after(x->memory, len);
    return len;
}

static void set_upload(struct client *client, const struct client_body *body)
{
    int64_t length = body->give != NULL   ? CLIENT_UNKNOWN_LENGTH
                     : body->file != NULL ? body->length
                                          : (int64_t)body->memory.len;

    curl_easy_setopt(client->curl, CURLOPT_UPLOAD, 1L);
    /* An unknown length (-1) makes libcurl send chunks. */
    curl_easy_setopt(client->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)length);
}

char *client_url(const struct client *client, struct slice target)
{
    size_t base_len = strlen(client->base_url);
    char *url = malloc(base_len + target.len + 1);

    if (url == NULL)
        return NULL;
    memcpy(url, client->base_url, base_len);
    memcpy(url + base_len, target.ptr, target.len);
    url[base_len + target.len] = '\0';
    return url;
}

/* One request; of `x` the caller has filled what it needs. */
static int perform(struct client *client, const char *method, struct slice target,
                   const struct client_body *body, struct exchange *x, struct client_reply *reply,
                   const char **message)
{
    struct curl_header *header;
    char *url = client_url(client, target);
    int64_t started_us = clock_mono_us();
    CURLcode code;

    memset(reply, 0, sizeof(*reply));
    x->curl = client->curl;
    x->text = &reply->text;
    if (url == NULL) {
        *message = "out of memory";
        return -1;
    }
    client_prepare(client, client->curl, client->error);
    curl_easy_setopt(client->curl, CURLOPT_URL, url);
    curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, x);
    if (body != NULL) {
        x->memory = body->memory;
        x->from = body->file;
        x->give = body->give;
        x->give_arg = body->arg;
        curl_easy_setopt(client->curl, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(client->curl, CURLOPT_READDATA, x);
        set_upload(client, body);
    }
    curl_easy_setopt(client->curl, CURLOPT_CUSTOMREQUEST, method);
    code = curl_easy_perform(client->curl);
    reply->took_us = clock_mono_us() - started_us;
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &reply->status);
    reply->more =
        curl_easy_header(client->curl, "X-TT-More", 0, CURLH_HEADER, -1, &header) == CURLHE_OK;
    free(url);
    if (code == CURLE_OK)
        return 0;
    /* A server that refuses a body may close before all of it is sent: its answer counts then. */
    if (code == CURLE_SEND_ERROR && reply->status >= 400)
        return 0;
    *message = x->failure != NULL ? x->failure : error_text(client, code);
    buf_free(&reply->text);
    return -1;
}

int client_request(struct client *client, const char *method, struct slice target,
                   const struct client_body *body, FILE *to, struct client_reply *reply,
                   const char **message)
{
    struct exchange x = {.to = to};

    return perform(client, method, target, body, &x, reply, message);
}

int client_fetch(struct client *client, struct slice target,
                 bool (*take)(struct slice piece, void *arg), void *arg, struct client_reply *reply,
                 const char **message)
{
    struct exchange x = {.take = take, .take_arg = arg};

    return perform(client, "GET", target, NULL, &x, reply, message);
}

/* Waits until the connection can be read or written. False: the time limit has passed. */
static bool await_socket(const struct client *client, short events)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    struct pollfd p = {.events = events};
    int timeout_ms = client->address.timeout_s == 0 ? -1 : (int)client->address.timeout_s * 1000;

    if (curl_easy_getinfo(client->curl, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK)
        return false;
    p.fd = fd;
    return poll(&p, 1, timeout_ms) > 0;
}

static CURLcode send_all(struct client *client, struct slice data)
{
    while (data.len > 0) {
        size_t sent = 0;
        CURLcode code = curl_easy_send(client->curl, data.ptr, data.len, &sent);

        if (code == CURLE_AGAIN) {
            if (!await_socket(client, POLLOUT))
                return CURLE_OPERATION_TIMEDOUT;
        } else if (code != CURLE_OK) {
            return code;
        }
        data = slice_after(data, sent);
    }
    return CURLE_OK;
}

/* True once the text is lines and then END. */
static bool stats_are_complete(struct slice text)
{
    struct slice end = slice_str("\r\nEND\r\n");

    if (slice_is(text, "END\r\n"))
        return true;
    return text.len >= end.len && slice_equal(slice_after(text, text.len - end.len), end);
}

/* Receives up to the line END, which is cut off. */
static CURLcode receive_stats(struct client *client, struct buf *out)
{
    struct slice start = slice_str("STAT ");

    while (!stats_are_complete(buf_slice(out))) {
        size_t got = 0;
        CURLcode code;

        if (out->len > STATS_MAX_BYTES)
            return CURLE_WEIRD_SERVER_REPLY;
        if (out->len >= start.len && !slice_starts(buf_slice(out), start))
            return CURLE_WEIRD_SERVER_REPLY; /* an error line */
        if (buf_reserve(out, STATS_PIECE_BYTES) != 0)
            return CURLE_OUT_OF_MEMORY;
        code = curl_easy_recv(client->curl, out->data + out->len, STATS_PIECE_BYTES, &got);
        if (code == CURLE_AGAIN) {
            if (!await_socket(client, POLLIN))
                return CURLE_OPERATION_TIMEDOUT;
            continue;
        }
        if (code != CURLE_OK)
            return code;
        if (got == 0)
            return CURLE_GOT_NOTHING;
        out->len += got;
    }
    out->len -= strlen("END\r\n");
    return CURLE_OK;
}

int client_stats(struct client *client, struct buf *out, const char **message)
{
    CURLcode code;

    client_prepare(client, client->curl, client->error);
    curl_easy_setopt(client->curl, CURLOPT_URL, client->base_url);
    curl_easy_setopt(client->curl, CURLOPT_CONNECT_ONLY, 1L);
    code = curl_easy_perform(client->curl);
    if (code == CURLE_OK)
        code = send_all(client, slice_str("stats\r\n"));
    if (code == CURLE_OK)
        code = receive_stats(client, out);
    if (code == CURLE_OK)
        return 0;
    *message = error_text(client, code);
    return -1;
}
