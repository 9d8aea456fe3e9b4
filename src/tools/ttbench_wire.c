/*
 * ttbench_wire.c - the protocols that ttbench speaks, as a client (ttbench_wire.h).
 */
#include "tools/ttbench_wire.h"

#include <strings.h>

#include "base/num.h"

#define CRLF "\r\n"

/* A cursor for building request heads. The callers' buffers have room for the longest head by
 * construction. */
static char *put_slice(char *at, struct slice s)
{
    memcpy(at, s.ptr, s.len);
    return at + s.len;
}

static char *put_text(char *at, const char *text)
{
    return put_slice(at, slice_str(text));
}

static char *put_number(char *at, uint64_t v)
{
    return at + format_u64(at, v);
}

/* The first line of `in` without its CRLF. A line that grows past the limit, or ends in a bare LF,
 * is no reply. */
static enum wire_status line_read(struct slice in, struct slice *line, size_t *used)
{
    const char *lf = in.len > 0 ? memchr(in.ptr, '\n', in.len) : NULL;
    size_t len;

    if (lf == NULL)
        return in.len > WIRE_REPLY_HEAD_MAX ? WIRE_BAD : WIRE_MORE;
    len = (size_t)(lf - in.ptr);
    if (len == 0 || in.ptr[len - 1] != '\r')
        return WIRE_BAD;
    *line = slice_of(in.ptr, len - 1);
    *used = len + 1;
    return WIRE_DONE;
}

/* Takes `text` off the front of *s. */
static bool take(struct slice *s, struct slice text)
{
    if (!slice_starts(*s, text))
        return false;
    *s = slice_after(*s, text.len);
    return true;
}

/* ---- memcached text ---- */

static size_t mc_head(char *out, const struct wire_request *request)
{
    char *at = put_text(out, request->writes ? "set " : "get ");

    at = put_slice(at, request->key);
    if (request->writes) {
        *at++ = ' ';
        at = put_number(at, request->flags);
        at = put_text(at, " 0 ");
        at = put_number(at, request->value_len);
    }
    at = put_text(at, CRLF);
    return (size_t)(at - out);
}

/* "VALUE <key> <flags> <bytes>" with our key and flags. */
static bool mc_value_line(struct slice line, const struct wire_request *request, uint64_t *len)
{
    char flags[NUM_TEXT_MAX];
    size_t flags_len = format_u64(flags, request->flags);

    return take(&line, slice_str("VALUE ")) && take(&line, request->key) &&
           take(&line, slice_str(" ")) && take(&line, slice_of(flags, flags_len)) &&
           take(&line, slice_str(" ")) && parse_u64(line, len);
}

/* After SERVER_ERROR the server has swallowed the value. After ERROR or CLIENT_ERROR it may take it
 * for commands. */
static bool mc_is_refusal(struct slice line)
{
    return slice_is(line, "NOT_STORED") || slice_starts(line, slice_str("SERVER_ERROR "));
}

static enum wire_status mc_reply(struct slice in, const struct wire_request *request,
                                 struct wire_reply *out, size_t *used)
{
    struct slice line;
    enum wire_status status = line_read(in, &line, used);

    if (status != WIRE_DONE)
        return status;
    memset(out, 0, sizeof(*out));
    if (request->writes && slice_is(line, "STORED")) {
        out->kind = WIRE_STORED;
    } else if (!request->writes && slice_is(line, "END")) {
        out->kind = WIRE_MISS;
    } else if (!request->writes && mc_value_line(line, request, &out->body_len)) {
        out->kind = WIRE_VALUE;
        out->tail = slice_str(CRLF "END" CRLF);
    } else if (mc_is_refusal(line)) {
        out->kind = WIRE_REFUSED;
    } else {
        return WIRE_BAD;
    }
    return WIRE_DONE;
}

/* ---- RESP (Redis) ---- */

static char *resp_put_bulk(char *at, struct slice s)
{
    *at++ = '$';
    at = put_number(at, s.len);
    at = put_text(at, CRLF);
    at = put_slice(at, s);
    return put_text(at, CRLF);
}

static size_t resp_head(char *out, const struct wire_request *request)
{
    char *at = put_text(out, request->writes ? "*3" CRLF : "*2" CRLF);

    at = resp_put_bulk(at, slice_str(request->writes ? "SET" : "GET"));
    at = resp_put_bulk(at, request->key);
    if (request->writes) {
        *at++ = '$';
        at = put_number(at, request->value_len);
        at = put_text(at, CRLF);
    }
    return (size_t)(at - out);
}

static enum wire_status resp_reply(struct slice in, const struct wire_request *request,
                                   struct wire_reply *out, size_t *used)
{
    struct slice line;
    enum wire_status status = line_read(in, &line, used);

    if (status != WIRE_DONE)
        return status;
    memset(out, 0, sizeof(*out));
    if (request->writes && slice_is(line, "+OK")) {
        out->kind = WIRE_STORED;
    } else if (!request->writes && slice_is(line, "$-1")) {
        out->kind = WIRE_MISS;
    } else if (slice_starts(line, slice_str("-"))) {
        out->kind = WIRE_REFUSED;
    } else if (!request->writes && take(&line, slice_str("$")) && parse_u64(line, &out->body_len)) {
        out->kind = WIRE_VALUE;
        out->tail = slice_str(CRLF);
    } else {
        return WIRE_BAD;
    }
    return WIRE_DONE;
}

/* ---- HTTP/1.1 ---- */

static size_t http_head(char *out, const struct wire_request *request)
{
    char *at = put_text(out, request->writes ? "PUT /" : "GET /");

    at = put_slice(at, request->key);
    at = put_text(at, " HTTP/1.1" CRLF "Host: ");
    at = put_slice(at, request->host);
    if (request->writes) {
        at = put_text(at, CRLF "Content-Length: ");
        at = put_number(at, request->value_len);
    }
    at = put_text(at, CRLF CRLF);
    return (size_t)(at - out);
}

struct http_fields {
    bool has_length;
    uint64_t length;
    bool closes;
    bool bad;
};

/* Header fields' names have no case; `name` is in lower case with its colon. */
static bool http_field_is(struct slice line, const char *name, struct slice *value)
{
    size_t len = strlen(name);

    if (line.len < len || strncasecmp(line.ptr, name, len) != 0)
        return false;
    *value = slice_after(line, len);
    while (value->len > 0 && value->ptr[0] == ' ')
        *value = slice_after(*value, 1);
    return true;
}

static void http_field(struct slice line, struct http_fields *fields)
{
    struct slice value;

    if (http_field_is(line, "content-length:", &value)) {
        fields->bad = fields->has_length || !parse_u64(value, &fields->length);
        fields->has_length = true;
    } else if (http_field_is(line, "connection:", &value)) {
        fields->closes = value.len == 5 && strncasecmp(value.ptr, "close", 5) == 0;
    } else if (http_field_is(line, "transfer-encoding:", &value)) {
        fields->bad = true; /* values have a known length: there is no reason to chunk them */
    }
}

/* Everything after the status line, up to and with the empty line. */
static enum wire_status http_fields_read(struct slice in, struct http_fields *fields, size_t *used)
{
    size_t at = 0;

    memset(fields, 0, sizeof(*fields));
    for (;;) {
        struct slice line;
        size_t n;
        enum wire_status status = line_read(slice_after(in, at), &line, &n);

        if (status != WIRE_DONE)
            return status;
        at += n;
        if (line.len == 0)
            break;
        http_field(line, fields);
        if (fields->bad)
            return WIRE_BAD;
    }
    *used = at;
    return WIRE_DONE;
}

/* The number of "HTTP/1.1 200 OK", or 0. */
static unsigned http_status(struct slice line)
{
    uint32_t status;

    if (!take(&line, slice_str("HTTP/1.1 ")) || line.len < 4 || line.ptr[3] != ' ' ||
        !parse_u32(slice_of(line.ptr, 3), &status))
        return 0;
    return status;
}

static bool http_kind(unsigned status, const struct wire_request *request, enum wire_kind *kind)
{
    if (request->writes && (status == 200 || status == 201 || status == 204))
        *kind = WIRE_STORED;
    else if (!request->writes && status == 200)
        *kind = WIRE_VALUE;
    else if (!request->writes && status == 404)
        *kind = WIRE_MISS;
    else if (status >= 300 && status <= 599 && status != 304)
        *kind = WIRE_REFUSED;
    else
        return false;
    return true;
}

static enum wire_status http_reply(struct slice in, const struct wire_request *request,
                                   struct wire_reply *out, size_t *used)
{
    struct slice line;
    struct http_fields fields;
    size_t first = 0, rest = 0;
    unsigned number;
    enum wire_status status = line_read(in, &line, &first);

    if (status == WIRE_DONE)
        status = http_fields_read(slice_after(in, first), &fields, &rest);
    if (status == WIRE_MORE && in.len > WIRE_REPLY_HEAD_MAX)
        return WIRE_BAD;
    if (status != WIRE_DONE)
        return status;
    memset(out, 0, sizeof(*out));
    number = http_status(line);
    if (!http_kind(number, request, &out->kind))
        return WIRE_BAD;
    if (!fields.has_length && number != 204)
        return WIRE_BAD;
    out->body_len = fields.length;
    out->closes = fields.closes;
    *used = first + rest;
    return WIRE_DONE;
}

const struct wire *wire_find(struct slice name)
{
    static const struct wire wires[] = {
        {"memcached", "memcached text", {CRLF, 2}, mc_head, mc_reply},
        {"http", "HTTP/1.1", {"", 0}, http_head, http_reply},
        {"resp", "RESP (Redis)", {CRLF, 2}, resp_head, resp_reply},
    };

    for (size_t i = 0; i < sizeof(wires) / sizeof(wires[0]); i++) {
        if (slice_is(name, wires[i].name))
            return &wires[i];
    }
    return NULL;
}
