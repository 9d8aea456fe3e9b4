/*
 * http_session.h - what the files of the HTTP session share.
 *
 * Provides: struct http_session and the calls between http_session.c (life, heads, dispatch),
 *           http_reply.c (small replies), http_value.c (GET, HEAD), http_write.c (PUT, DELETE) and
 *           admin.c (paths under /-/).
 * Used by:  those files only.
 * Threads:  the connection's worker.
 *
 * One request at a time: while one waits for the store the connection is on hold, so replies keep
 * the order of the requests. Reads that can be answered at once never wait, and a buffer full of
 * them is answered in one go.
 */
#ifndef SESSION_HTTP_SESSION_H
#define SESSION_HTTP_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "net/net.h"
#include "proto/http.h"
#include "session/session.h"
#include "store/store.h"

/* The body of a request that is refused, or has no use for one, is read and dropped up to this
 * size; a connection with more to come is closed. */
#define HTTP_SWALLOW_MAX (64u * 1024)

/* Waiting clients ask again after a second. */
#define HTTP_RETRY_AFTER "Retry-After: 1\r\n"

struct http_get;

/* What a worker keeps for its HTTP connections. */
struct http_worker {
    struct http_get *spare; /* one read's memory, kept for the next */
    int64_t date_s;         /* the second that `date` shows */
    char date[HTTP_DATE_LEN];
    char key[RECORD_KEY_MAX]; /* the present request's key, where it was encoded */
};

enum http_state {
    HTTP_STATE_HEAD,    /* between requests, or inside a head */
    HTTP_STATE_BODY,    /* `work` takes the body */
    HTTP_STATE_SWALLOW, /* a body that nobody wants */
    HTTP_STATE_WAIT,    /* `work` is under way; on hold */
    HTTP_STATE_CLOSING, /* the last reply is given */
};

struct http_session {
    struct session base;
    struct conn *conn;
    struct session_worker *worker;
    struct http_scan scan;
    void *work;               /* the present request's, in BODY and WAIT */
    void (*drop)(void *work); /* gives `work` up: frees it now or when it completes */
    uint64_t swallow;         /* bytes of the body still to be dropped */
    uint8_t state;            /* enum http_state */
    bool held;
    bool partial; /* as told to conn_set_partial() */
    bool owed;    /* more of a request may come that nobody will read */
    /* Of the present request: */
    bool is_head;
    bool keep_alive;
    bool says_keep_alive; /* to a 1.0 client */
};

/* ---- http_session.c ---- */

/* The request is answered, all of its reply is in the output: on to the next, or close. */
void http_answered(struct http_session *s);

/* Puts the connection on hold until http_resume(). */
void http_hold(struct http_session *s);
void http_resume(struct http_session *s);

/* `work` goes on without the loop: hold, and have drop(work) called if the connection goes away
 * first. */
void http_wait(struct http_session *s, void *work, void (*drop)(void *work));

/* The connection closes after the present reply, though the client may still be sending. */
void http_distrust(struct http_session *s);

/* The body of this request will not be read: drops it if it is small, else the connection closes
 * after the reply. */
void http_skip_body(struct http_session *s, const struct http_request *r);

/* ---- http_reply.c ---- */

/* A reply's fields for this connection; the rest is the caller's to fill. */
struct http_reply http_reply_begin(struct http_session *s, unsigned status);

/* Sends a whole reply with a body in memory (copied; not for HEAD) and ends the request. */
void http_reply_body(struct http_session *s, const struct http_reply *r, struct slice body);

/* The status' name as text/plain body, with more header lines (each with CRLF, or ""). */
void http_reply_status(struct http_session *s, unsigned status, const char *extra);

/* The reply to a store operation that failed. */
void http_reply_failure(struct http_session *s, enum store_status status);

/* Made at the first use; NULL without memory. Freed by http_worker_free(). */
struct http_worker *http_worker_of(struct session_worker *worker);

/* ---- http_value.c ---- */

void http_value_get(struct http_session *s, struct slice key, const struct http_request *r);
/* The same with a line of what the record has beside its value in front of it. */
void http_value_get_record(struct http_session *s, struct slice key, const struct http_request *r);
void http_value_free_spare(struct http_get *spare);

/* ---- http_write.c ---- */

/* Begins a PUT of which `at_hand` bytes of body (or more, if chunked) have come already. */
void http_write_put(struct http_session *s, struct slice key, const struct http_request *r,
                    size_t at_hand);
/* The same with fields that plain HTTP has no names for. */
struct http_fields {
    uint32_t flags;
    int64_t expires_ms; /* Unix milliseconds, 0 = never */
    struct slice attrs; /* an encoded list */
    bool only_if_absent;
};
void http_write_fields(struct http_session *s, struct slice key, const struct http_request *r,
                       size_t at_hand, const struct http_fields *fields);
void http_write_delete(struct http_session *s, struct slice key);

/* The next bytes of a PUT's body; returns how many are used. */
size_t http_write_body(struct http_session *s, struct slice in);

/* ---- http_record.c ---- */

/* /-/record: the body of a PUT, of which `at_hand` bytes have come, is dealt with here. */
void http_record_request(struct http_session *s, const struct http_request *r, size_t at_hand);

#endif
