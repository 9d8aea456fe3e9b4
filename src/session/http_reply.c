/*
 * http_reply.c - small replies, and what a worker keeps for HTTP.
 *
 * Provides: http_reply_*(), http_worker_of(), http_worker_free().
 * Used by:  the other files of the HTTP session.
 * Threads:  the connection's worker.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "session/http_session.h"

struct http_worker *http_worker_of(struct session_worker *worker)
{
    if (worker->http == NULL)
        worker->http = calloc(1, sizeof(*worker->http));
    return worker->http;
}

void http_worker_free(struct http_worker *http)
{
    if (http == NULL)
        return;
    http_value_free_spare(http->spare);
    free(http);
}

struct http_reply http_reply_begin(struct http_session *s, unsigned status)
{
    struct http_worker *http = s->worker->http;
    int64_t now_s = clock_wall_ms() / 1000;

    /* Asked here and not with the head: a stop may come while a body or the store is waited for,
     * and the client must learn that its next request needs another connection. */
    if (worker_stopping(conn_worker(s->conn)) ||
        atomic_load_explicit(&s->worker->app->draining, memory_order_relaxed))
        s->keep_alive = false;
    if (now_s != http->date_s) {
        http->date_s = now_s;
        http_date_format(now_s, http->date);
    }
    return (struct http_reply){
        .status = status,
        .close = !s->keep_alive,
        .says_keep_alive = s->says_keep_alive,
        .date = slice_of(http->date, HTTP_DATE_LEN),
    };
}

void http_reply_body(struct http_session *s, const struct http_reply *r, struct slice body)
{
    struct http_reply whole = *r;
    char *room = conn_room(s->conn, HTTP_REPLY_MAX);

    if (room != NULL) {
        whole.length = body.len;
        conn_commit(s->conn, http_reply_format(room, &whole));
        if (!s->is_head && body.len > 0)
            conn_write(s->conn, body.ptr, body.len);
    }
    http_answered(s);
}

void http_reply_status(struct http_session *s, unsigned status, const char *extra)
{
    struct http_reply r = http_reply_begin(s, status);
    struct slice reason = http_reason(status);
    char body[64];

    memcpy(body, reason.ptr, reason.len);
    body[reason.len] = '\n';
    r.type = slice_str("text/plain");
    r.extra = slice_str(extra);
    http_reply_body(s, &r, slice_of(body, reason.len + 1));
}

static const struct {
    unsigned code;
    const char *extra;
    enum counter counter;
} failures[] = {
    [STORE_NOT_FOUND] = {404, "", COUNTER_COUNT},
    [STORE_EXISTS] = {409, "", COUNTER_COUNT},
    [STORE_NOT_STORED] = {409, "", COUNTER_COUNT},
    [STORE_BAD_VALUE] = {409, "", COUNTER_COUNT},
    [STORE_TOO_LARGE] = {413, "", COUNTER_STORE_TOO_LARGE},
    [STORE_NO_MEMORY] = {503, HTTP_RETRY_AFTER, COUNTER_STORE_NO_MEMORY},
    [STORE_NO_SPACE] = {507, "", COUNTER_STORE_ERRORS},
    [STORE_READ_ONLY] = {503, HTTP_RETRY_AFTER, COUNTER_STORE_ERRORS},
    [STORE_DAMAGED] = {500, "", COUNTER_STORE_ERRORS},
    [STORE_IO_ERROR] = {500, "", COUNTER_STORE_ERRORS},
};

void http_reply_failure(struct http_session *s, enum store_status status)
{
    if (failures[status].counter != COUNTER_COUNT)
        counter_add(s->worker->counters, failures[status].counter, 1);
    http_reply_status(s, failures[status].code, failures[status].extra);
}
