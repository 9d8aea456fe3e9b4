/*
 * http_record.c - GET, HEAD and PUT of a record with everything that it has beside its value.
 *
 * Provides: http_record_request().
 * Used by:  http_session.c, for the path /-/record; ttctl dump and load are its clients.
 * Threads:  the connection's worker.
 *
 * GET  /-/record?key=K       a line of fields, then the value as a client is shown it
 * PUT  /-/record?key=K&...   the same fields in the query: flags, expires, attributes; if=absent
 *
 * The line is "flags=N&expires=MS&attributes=A", with Unix milliseconds (0: never) and the encoded
 * list of attributes, percent-encoded: what a GET has shown can be put into the query of a PUT.
 */
#include <stdlib.h>

#include "base/num.h"
#include "session/http_session.h"

#define ALLOW_RECORD "Allow: OPTIONS, GET, HEAD, PUT\r\n"

/* A well-formed list? */
static bool attributes_are_whole(struct slice attrs)
{
    struct slice bytes;
    uint8_t tag;

    while (attr_next(&attrs, &tag, &bytes))
        if (tag == ATTR_CLIENT_CAS && bytes.len != 8)
            return false;
    return attrs.len == 0;
}

/* Reads the fields of a PUT; attributes go to `room` (RECORD_ATTRS_MAX bytes). */
static bool read_fields(struct slice query, char *room, struct http_fields *out)
{
    struct slice text;
    struct slice attrs = {0};

    *out = (struct http_fields){0};
    if (http_query_find(query, "flags", &text) && !parse_u32(text, &out->flags))
        return false;
    if (http_query_find(query, "expires", &text) && !parse_i64(text, &out->expires_ms))
        return false;
    if (http_query_find(query, "if", &text)) {
        out->only_if_absent = slice_is(text, "absent");
        if (!out->only_if_absent)
            return false;
    }
    if (http_query_find(query, "attributes", &text) &&
        http_percent_decode(text, room, RECORD_ATTRS_MAX, &attrs) != 0)
        return false;
    out->attrs = attrs;
    return attributes_are_whole(attrs);
}

static void refuse(struct http_session *s, const struct http_request *r, unsigned status,
                   const char *extra)
{
    http_skip_body(s, r);
    http_reply_status(s, status, extra);
}

static void put_record(struct http_session *s, struct slice key, const struct http_request *r,
                       size_t at_hand)
{
    char *room = malloc(RECORD_ATTRS_MAX);
    struct http_fields fields;

    if (room == NULL) {
        http_skip_body(s, r);
        http_reply_failure(s, STORE_NO_MEMORY);
    } else if (!read_fields(r->query, room, &fields)) {
        refuse(s, r, 400, "");
    } else {
        http_write_fields(s, key, r, at_hand, &fields);
    }
    free(room);
}

void http_record_request(struct http_session *s, const struct http_request *r, size_t at_hand)
{
    struct slice key = {0};
    struct slice text;
    bool known = http_query_find(r->query, "key", &text) &&
                 http_percent_decode(text, s->worker->http->key, RECORD_KEY_MAX, &key) == 0;

    if (r->verb == HTTP_VERB_OPTIONS)
        refuse(s, r, 200, ALLOW_RECORD);
    else if (r->verb != HTTP_VERB_GET && r->verb != HTTP_VERB_HEAD && r->verb != HTTP_VERB_PUT)
        refuse(s, r, 405, ALLOW_RECORD);
    else if (store_state(s->worker->app->store) != STORE_SERVING)
        refuse(s, r, 503, HTTP_RETRY_AFTER);
    else if (!known)
        refuse(s, r, 400, "");
    else if (r->verb == HTTP_VERB_PUT)
        put_record(s, key, r, at_hand);
    else
        http_value_get_record(s, key, r);
}
