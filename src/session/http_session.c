/*
 * http_session.c - the life of an HTTP connection: heads, the choice of what answers, hold and
 * close.
 *
 * Provides: http_protocol, and the calls of http_session.h that steer a connection.
 * Used by:  session.c, for connections that begin with an upper-case letter.
 * Threads:  the connection's worker.
 *
 * After a head that breaks the protocol the connection closes: what follows it can never be taken
 * for a request. No body of a refused request is parsed as anything.
 */
#include "session/http_session.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "session/admin.h"

#define ALLOW_KEY "Allow: OPTIONS, GET, HEAD, PUT, DELETE\r\n"

/* ---- flow ---- */

void http_hold(struct http_session *s)
{
    if (!s->held) {
        s->held = true;
        conn_hold(s->conn);
    }
}

void http_resume(struct http_session *s)
{
    if (!s->held)
        return;
    s->held = false;
    conn_resume(s->conn);
    /* So that what was written is sent, and the input that waits is looked at, in this turn. */
    conn_wake(s->conn);
}

void http_wait(struct http_session *s, void *work, void (*drop)(void *work))
{
    s->work = work;
    s->drop = drop;
    s->state = HTTP_STATE_WAIT;
    http_hold(s);
}

static void http_close(struct http_session *s)
{
    if (s->state == HTTP_STATE_CLOSING)
        return;
    s->state = HTTP_STATE_CLOSING;
    /* With bytes owed net waits for the client's end: a reset would take the reply with it. */
    conn_set_partial(s->conn, s->owed || s->swallow > 0);
    conn_close_when_sent(s->conn);
    http_resume(s);
}

void http_answered(struct http_session *s)
{
    counter_add(s->worker->counters, COUNTER_HTTP_REQUESTS, 1);
    s->work = NULL;
    s->scan = (struct http_scan){0};
    if (!s->keep_alive) {
        http_close(s);
        return;
    }
    s->state = s->swallow > 0 ? HTTP_STATE_SWALLOW : HTTP_STATE_HEAD;
    if (conn_output_full(s->conn))
        http_hold(s); /* until http_ready() */
    else
        http_resume(s);
}

void http_distrust(struct http_session *s)
{
    s->keep_alive = false;
    s->owed = true;
}

void http_skip_body(struct http_session *s, const struct http_request *r)
{
    /* Whoever waits for 100 Continue may send the body or not: what comes next is unknown. */
    if (r->chunked || r->expects_continue || r->length > HTTP_SWALLOW_MAX)
        http_distrust(s);
    else
        s->swallow = r->length;
}

/* ---- requests ---- */

static void reply_options(struct http_session *s)
{
    struct http_reply r = http_reply_begin(s, 200);

    r.extra = slice_str(ALLOW_KEY);
    http_reply_body(s, &r, slice_of("", 0));
}

static void dispatch(struct http_session *s, const struct http_request *r, size_t at_hand)
{
    struct slice key = {0};
    unsigned status = r->verb == HTTP_VERB_OTHER ? 405 : 0;
    bool reserved;
    bool serving = store_state(s->worker->app->store) == STORE_SERVING;

    if (status == 0)
        status = http_key_decode(r->path, s->worker->http->key, RECORD_KEY_MAX, &key);
    if (status == 0 && slice_is(key, "-/record")) {
        http_record_request(s, r, at_hand);
        return;
    }
    reserved = slice_starts(key, slice_of("-/", 2));
    if (status == 0 && !reserved && r->verb == HTTP_VERB_POST)
        status = 405;
    /* Only a value that can be stored is worth reading. */
    if (status != 0 || reserved || !serving || r->verb != HTTP_VERB_PUT)
        http_skip_body(s, r);

    if (status != 0)
        http_reply_status(s, status, status == 405 ? ALLOW_KEY : "");
    else if (reserved)
        admin_request(s, slice_after(key, 2), r);
    else if (!serving)
        http_reply_status(s, 503, HTTP_RETRY_AFTER);
    else if (r->verb == HTTP_VERB_OPTIONS)
        reply_options(s);
    else if (r->verb == HTTP_VERB_PUT)
        http_write_put(s, key, r, at_hand);
    else if (r->verb == HTTP_VERB_DELETE)
        http_write_delete(s, key);
    else
        http_value_get(s, key, r);
}

/* Answers what is no HTTP, and closes. */
static void refuse(struct http_session *s, unsigned status)
{
    counter_add(s->worker->counters, COUNTER_PROTOCOL_ERRORS, 1);
    log_debug("bad request conn=%llu status=%u", (unsigned long long)conn_id(s->conn), status);
    s->is_head = false;
    http_distrust(s);
    s->says_keep_alive = false;
    http_reply_status(s, status, "");
}

/* Takes a head, if it is complete. Returns the bytes used. */
static size_t take_head(struct http_session *s, struct slice in)
{
    struct http_request r;
    size_t len;

    /* Empty lines between requests: some clients send one behind a body. */
    if (in.ptr[0] == '\r' && (in.len == 1 || in.ptr[1] == '\n'))
        return in.len == 1 ? 0 : 2;
    switch (http_head_find(&s->scan, in, &len)) {
    case HTTP_PARSE_MORE: return 0;
    case HTTP_PARSE_BAD: refuse(s, s->scan.refusal); return in.len;
    case HTTP_PARSE_DONE: break;
    }
    if (http_request_parse(slice_of(in.ptr, len), &r) != HTTP_PARSE_DONE) {
        refuse(s, r.refusal);
        return in.len;
    }
    s->is_head = r.verb == HTTP_VERB_HEAD;
    s->keep_alive = r.keep_alive;
    s->says_keep_alive = r.minor == 0;
    s->swallow = 0;
    dispatch(s, &r, in.len - len);
    return len;
}

static size_t take_swallow(struct http_session *s, struct slice in)
{
    size_t used = in.len < s->swallow ? in.len : (size_t)s->swallow;

    s->swallow -= used;
    if (s->swallow == 0)
        s->state = HTTP_STATE_HEAD;
    return used;
}

static size_t take(struct http_session *s, struct slice in)
{
    switch ((enum http_state)s->state) {
    case HTTP_STATE_HEAD: return take_head(s, in);
    case HTTP_STATE_BODY: return http_write_body(s, in);
    case HTTP_STATE_SWALLOW: return take_swallow(s, in);
    case HTTP_STATE_WAIT:
    case HTTP_STATE_CLOSING: break;
    }
    return 0;
}

/* Tells net whether the client owes us bytes; http_close() has had the last word. */
static void update_partial(struct http_session *s)
{
    bool partial = s->state == HTTP_STATE_BODY || s->state == HTTP_STATE_SWALLOW;

    if (s->state != HTTP_STATE_CLOSING && partial != s->partial) {
        s->partial = partial;
        conn_set_partial(s->conn, partial);
    }
}

/* ---- what net calls ---- */

static int http_open(struct conn *c)
{
    struct session_worker *worker = session_worker_of(c);
    struct http_session *s;

    if (http_worker_of(worker) == NULL)
        return -ENOMEM;
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return -ENOMEM;
    s->base.protocol = &http_protocol;
    s->conn = c;
    s->worker = worker;
    conn_set_session(c, s);
    return 0;
}

static size_t http_input(struct conn *c, struct slice in)
{
    struct http_session *s = conn_session(c);
    size_t used = 0;

    while (used < in.len && !s->held) {
        size_t step = take(s, slice_after(in, used));

        if (step == 0)
            break;
        used += step;
    }
    update_partial(s);
    return s->state == HTTP_STATE_CLOSING ? in.len : used;
}

static void http_ready(struct conn *c)
{
    struct http_session *s = conn_session(c);

    if (s->held && (s->state == HTTP_STATE_HEAD || s->state == HTTP_STATE_SWALLOW) &&
        !conn_output_full(c))
        http_resume(s);
    update_partial(s);
}

static void http_end_of_input(struct conn *c)
{
    struct http_session *s = conn_session(c);

    /* Nothing waits for the store here, for then the connection is on hold. */
    if (s->work != NULL)
        s->drop(s->work);
    s->work = NULL;
    http_close(s);
}

static void http_closed(struct conn *c)
{
    struct http_session *s = conn_session(c);

    if (s->work != NULL)
        s->drop(s->work);
    conn_set_session(c, NULL);
    free(s);
}

const struct session_protocol http_protocol = {
    .name = "http",
    .open = http_open,
    .input = http_input,
    .ready = http_ready,
    .end_of_input = http_end_of_input,
    .closed = http_closed,
};
