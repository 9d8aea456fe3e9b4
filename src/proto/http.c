/*
 * http.c - what comes in: request heads and chunked bodies.
 *
 * Provides: http_head_find(), http_request_parse(), http_chunked_next(). See http.h.
 * Used by:  session/http_session.c.
 * Threads:  pure.
 *
 * The request line is read here and the header lines by llhttp, in its strict mode: that mode would
 * also refuse bytes above 0x7f in the target, which many clients send for a key in UTF-8. Before
 * llhttp sees a head, http_head_find() has refused what llhttp 8.1 lets pass: a CR in the middle of
 * a line, a folded line, an empty field name.
 *
 * Chunked bodies are read here too: llhttp would have to be kept in every connection's state, and
 * takes transfer codings before "chunked" as if it knew them.
 */
#include "proto/http.h"

#include <llhttp.h>
#include <strings.h>

#include "base/num.h"

static enum http_parse head_refuse(struct http_scan *scan, unsigned status)
{
    scan->refusal = (uint16_t)status;
    return HTTP_PARSE_BAD;
}

/* The end of a request line: " HTTP/" and two digits with a dot. Says at the first line whether
 * this is HTTP at all. */
static bool line_ends_with_version(struct slice line)
{
    const char *end = line.ptr + line.len;

    return line.len > 9 && memcmp(end - 9, " HTTP/", 6) == 0 && end[-3] >= '0' && end[-3] <= '9' &&
           end[-2] == '.' && end[-1] >= '0' && end[-1] <= '9';
}

/* Status to refuse a complete line with, or 0. `line` is without its CRLF and not empty. */
static unsigned line_check(struct slice line, bool is_first)
{
    if (memchr(line.ptr, '\r', line.len) != NULL || memchr(line.ptr, '\0', line.len) != NULL)
        return 400;
    if (is_first)
        return line_ends_with_version(line) ? 0 : 400;
    return line.ptr[0] == ' ' || line.ptr[0] == '\t' || line.ptr[0] == ':' ? 400 : 0;
}

/* Status to refuse a head with of which `len` bytes are there, or 0. */
static unsigned head_check_size(const struct http_scan *scan, size_t len)
{
    if (scan->fields == 0)
        return len > HTTP_LINE_MAX ? 414 : 0;
    return len - scan->fields > HTTP_FIELDS_MAX ? 431 : 0;
}

enum http_parse http_head_find(struct http_scan *scan, struct slice in, size_t *head_len)
{
    for (;;) {
        const char *feed = memchr(in.ptr + scan->at, '\n', in.len - scan->at);
        size_t end = feed != NULL ? (size_t)(feed - in.ptr) : in.len;
        unsigned status = head_check_size(scan, end);
        struct slice line;

        if (status != 0)
            return head_refuse(scan, status);
        if (feed == NULL) {
            scan->at = (uint32_t)end;
            return HTTP_PARSE_MORE;
        }
        if (end == scan->line || feed[-1] != '\r')
            return head_refuse(scan, 400);
        line = slice_of(in.ptr + scan->line, end - 1 - scan->line);
        if (line.len == 0 && scan->fields != 0) {
            *head_len = end + 1;
            return HTTP_PARSE_DONE;
        }
        status = line.len == 0 ? 400 : line_check(line, scan->fields == 0);
        if (status != 0)
            return head_refuse(scan, status);
        scan->at = scan->line = (uint32_t)end + 1;
        if (scan->fields == 0)
            scan->fields = scan->line;
    }
}

/* ---- the request line ---- */

static const char *const verb_names[HTTP_VERB_OTHER] = {
    [HTTP_VERB_GET] = "GET",       [HTTP_VERB_HEAD] = "HEAD", [HTTP_VERB_PUT] = "PUT",
    [HTTP_VERB_DELETE] = "DELETE", [HTTP_VERB_POST] = "POST", [HTTP_VERB_OPTIONS] = "OPTIONS",
};

static bool byte_is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool slice_is_token(struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];

        if (!byte_is_alnum(c) && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL))
            return false;
    }
    return text.len > 0;
}

static enum http_verb verb_of(struct slice method)
{
    for (enum http_verb verb = 0; verb < HTTP_VERB_OTHER; verb++) {
        if (slice_is(method, verb_names[verb]))
            return verb;
    }
    return HTTP_VERB_OTHER;
}

/* Host as in "host:port": the bytes of a name, or an address in brackets; the port may be empty.
 * May itself be empty. */
static bool authority_is_valid(struct slice host)
{
    size_t i = 0;

    if (host.len > 0 && host.ptr[0] == '[') {
        const char *end = memchr(host.ptr, ']', host.len);

        if (end == NULL)
            return false;
        for (i = 1; host.ptr + i < end; i++) {
            if (!byte_is_alnum(host.ptr[i]) && host.ptr[i] != ':' && host.ptr[i] != '.')
                return false;
        }
        i++;
    } else {
        for (; i < host.len && host.ptr[i] != ':'; i++) {
            if (!byte_is_alnum(host.ptr[i]) &&
                (host.ptr[i] == '\0' || strchr("-._~%!$&'()*+,;=", host.ptr[i]) == NULL))
                return false;
        }
    }
    if (i < host.len && host.ptr[i++] != ':')
        return false;
    for (; i < host.len; i++) {
        if (host.ptr[i] < '0' || host.ptr[i] > '9')
            return false;
    }
    return true;
}

/* Cuts "http://host" off. 0, or 400 when it is neither that nor a path. */
static unsigned target_cut_authority(struct slice *path)
{
    size_t scheme = 0;
    struct slice host;

    if (path->len > 0 && path->ptr[0] == '/')
        return 0;
    if (path->len >= 7 && strncasecmp(path->ptr, "http://", 7) == 0)
        scheme = 7;
    else if (path->len >= 8 && strncasecmp(path->ptr, "https://", 8) == 0)
        scheme = 8;
    else
        return 400;
    *path = slice_after(*path, scheme);
    host = *path;
    host.len = 0;
    while (host.len < path->len && path->ptr[host.len] != '/' && path->ptr[host.len] != '?')
        host.len++;
    *path = slice_after(*path, host.len);
    return host.len > 0 && authority_is_valid(host) ? 0 : 400;
}

/* Splits the target into path and query. 0 or a status. */
static unsigned target_split(struct http_request *r)
{
    const char *mark;
    unsigned status;

    for (size_t i = 0; i < r->target.len; i++) {
        unsigned char c = (unsigned char)r->target.ptr[i];

        if (c <= ' ' || c == 0x7f || c == '#')
            return 400;
    }
    r->path = r->target;
    if (slice_is(r->target, "*"))
        return r->verb == HTTP_VERB_OPTIONS ? 0 : 400;
    status = target_cut_authority(&r->path);
    if (status != 0)
        return status;
    mark = memchr(r->path.ptr, '?', r->path.len);
    if (mark != NULL) {
        size_t path_len = (size_t)(mark - r->path.ptr);

        r->query = slice_after(r->path, path_len + 1);
        r->path.len = path_len;
    }
    return 0;
}

/* METHOD SP TARGET SP HTTP/1.x; the line ends with a version, as http_head_find() has seen. 0 or a
 * status. */
static unsigned line_parse(struct slice line, struct http_request *r)
{
    const char *version = line.ptr + line.len - 3;
    const char *blank = memchr(line.ptr, ' ', line.len);
    struct slice method = slice_of(line.ptr, (size_t)(blank - line.ptr));

    if (!slice_is_token(method))
        return 400;
    if (version[0] != '1')
        return 505;
    /* A later minor version is answered as the highest that we know. */
    r->minor = version[2] == '0' ? 0 : 1;
    r->verb = verb_of(method);
    if (method.len + 1 + 9 > line.len)
        return 400;
    r->target = slice_of(blank + 1, line.len - method.len - 1 - 9);
    /* CONNECT names a host, and other methods may have rules of their own: they are refused
     * whatever they name. */
    return r->verb == HTTP_VERB_OTHER ? 0 : target_split(r);
}

/* ---- the header lines ---- */

static const struct {
    const char *name;
    bool single; /* twice in one head is refused; of others the last one counts */
} field_table[HTTP_FIELD_COUNT] = {
    [HTTP_FIELD_HOST] = {"host", true},
    [HTTP_FIELD_EXPECT] = {"expect", true},
    [HTTP_FIELD_CONTENT_TYPE] = {"content-type", true},
    [HTTP_FIELD_TRANSFER_ENCODING] = {"transfer-encoding", true},
    [HTTP_FIELD_IF_NONE_MATCH] = {"if-none-match", false},
    [HTTP_FIELD_IF_MODIFIED_SINCE] = {"if-modified-since", false},
    [HTTP_FIELD_PDMODE] = {"x-tt-pdmode", false},
    [HTTP_FIELD_CONTENT_RANGE] = {"content-range", false},
};

static const unsigned char field_lengths[HTTP_FIELD_COUNT] = {
    [HTTP_FIELD_HOST] = sizeof("host") - 1,
    [HTTP_FIELD_EXPECT] = sizeof("expect") - 1,
    [HTTP_FIELD_CONTENT_TYPE] = sizeof("content-type") - 1,
    [HTTP_FIELD_TRANSFER_ENCODING] = sizeof("transfer-encoding") - 1,
    [HTTP_FIELD_IF_NONE_MATCH] = sizeof("if-none-match") - 1,
    [HTTP_FIELD_IF_MODIFIED_SINCE] = sizeof("if-modified-since") - 1,
    [HTTP_FIELD_PDMODE] = sizeof("x-tt-pdmode") - 1,
    [HTTP_FIELD_CONTENT_RANGE] = sizeof("content-range") - 1,
};

/* What llhttp's calls leave behind. */
struct field_walk {
    struct http_request *request;
    struct slice name;
    struct slice value;
    bool repeated; /* a single field came twice */
    bool complete;
};

static int walk_on_name(llhttp_t *parser, const char *at, size_t len)
{
    struct field_walk *walk = parser->data;

    walk->name = slice_of(at, len);
    walk->value = slice_of(at, 0);
    return 0;
}

static int walk_on_value(llhttp_t *parser, const char *at, size_t len)
{
    struct field_walk *walk = parser->data;

    walk->value = slice_of(at, len);
    return 0;
}

static struct slice trim_blanks(struct slice text)
{
    while (text.len > 0 && (text.ptr[0] == ' ' || text.ptr[0] == '\t'))
        text = slice_after(text, 1);
    while (text.len > 0 && (text.ptr[text.len - 1] == ' ' || text.ptr[text.len - 1] == '\t'))
        text.len--;
    return text;
}

static int walk_on_field(llhttp_t *parser)
{
    struct field_walk *walk = parser->data;
    struct slice *field = walk->request->field;

    for (enum http_field i = 0; i < HTTP_FIELD_COUNT; i++) {
        if (field_lengths[i] != walk->name.len ||
            strncasecmp(walk->name.ptr, field_table[i].name, walk->name.len) != 0)
            continue;
        walk->repeated |= field_table[i].single && field[i].ptr != NULL;
        field[i] = trim_blanks(walk->value);
        break;
    }
    return 0;
}

/* The flags are complete here; what follows the head is not llhttp's. */
static int walk_on_end(llhttp_t *parser)
{
    struct field_walk *walk = parser->data;
    struct http_request *r = walk->request;

    walk->complete = true;
    r->has_length = (parser->flags & F_CONTENT_LENGTH) != 0;
    r->length = r->has_length ? parser->content_length : 0;
    r->keep_alive = (parser->flags & F_CONNECTION_CLOSE) == 0 &&
                    (r->minor == 1 || (parser->flags & F_CONNECTION_KEEP_ALIVE) != 0);
    return HPE_PAUSED;
}

static const llhttp_settings_t walk_settings = {
    .on_header_field = walk_on_name,
    .on_header_value = walk_on_value,
    .on_header_value_complete = walk_on_field,
    .on_headers_complete = walk_on_end,
};

/* 0 or a status. */
static unsigned fields_parse(struct slice fields, struct http_request *r)
{
    static const char line[] = "PUT / HTTP/1.1\r\n"; /* stands for the one that was read already */
    struct field_walk walk = {.request = r};
    llhttp_t parser;

    llhttp_init(&parser, HTTP_REQUEST, &walk_settings);
    parser.data = &walk;
    llhttp_execute(&parser, line, sizeof(line) - 1);
    llhttp_execute(&parser, fields.ptr, fields.len);
    return walk.complete && !walk.repeated ? 0 : 400;
}

/* What the fields say together. 0 or a status. */
static unsigned fields_check(struct http_request *r)
{
    const struct slice *host = &r->field[HTTP_FIELD_HOST];
    const struct slice *coding = &r->field[HTTP_FIELD_TRANSFER_ENCODING];
    const struct slice *expect = &r->field[HTTP_FIELD_EXPECT];

    if (host->ptr == NULL ? r->minor == 1 : !authority_is_valid(*host))
        return 400;
    if (coding->ptr != NULL) {
        /* 1.0 has no chunks: somebody on the way does not understand this body. */
        if (r->minor == 0 || r->has_length)
            return 400;
        if (coding->len != 7 || strncasecmp(coding->ptr, "chunked", 7) != 0)
            return 501;
        r->chunked = true;
    }
    if (expect->ptr != NULL && r->minor == 1) {
        if (expect->len != 12 || strncasecmp(expect->ptr, "100-continue", 12) != 0)
            return 417;
        r->expects_continue = r->chunked || r->length > 0;
    }
    return 0;
}

enum http_parse http_request_parse(struct slice head, struct http_request *out)
{
    const char *feed = memchr(head.ptr, '\n', head.len);
    size_t line_len = (size_t)(feed - head.ptr) + 1;
    unsigned status;

    memset(out, 0, sizeof(*out));
    status = line_parse(slice_of(head.ptr, line_len - 2), out);
    if (status == 0)
        status = fields_parse(slice_after(head, line_len), out);
    if (status == 0)
        status = fields_check(out);
    out->refusal = status;
    return status == 0 ? HTTP_PARSE_DONE : HTTP_PARSE_BAD;
}

/* ---- chunked bodies ---- */

enum chunk_state {
    CHUNK_SIZE,      /* digits of a size */
    CHUNK_EXTENSION, /* from ';' or a blank to the CR */
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER, /* at the start of a trailer line */
    CHUNK_TRAILER_LINE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
};

/* Sizes of more digits are not worth a sum that could overflow. */
#define CHUNK_DIGITS_MAX 15

static bool chunk_size_byte(struct http_chunked *c, char byte)
{
    uint64_t digit;

    if (parse_hex_u64(slice_of(&byte, 1), &digit)) {
        c->left = c->left << 4 | digit;
        return ++c->digits <= CHUNK_DIGITS_MAX;
    }
    if (c->digits == 0)
        return false;
    c->state = byte == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
    return byte == '\r' || byte == ';';
}

/* Bytes that a chunk extension or a trailer line may have. */
static bool byte_is_text(char byte)
{
    return byte == '\t' || ((unsigned char)byte >= ' ' && byte != 0x7f);
}

static bool chunk_extension_byte(struct http_chunked *c, char byte)
{
    if (byte == '\r')
        c->state = CHUNK_SIZE_LF;
    else if (!byte_is_text(byte))
        return false;
    return true;
}

/* The LF behind a size: data, or after the last chunk trailers, which are counted anew. */
static bool chunk_size_end(struct http_chunked *c, char byte)
{
    c->state = c->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
    c->line = 0;
    c->digits = 0;
    return byte == '\n';
}

static bool chunk_trailer_byte(struct http_chunked *c, char byte)
{
    if (byte == '\r')
        c->state = c->state == CHUNK_TRAILER ? CHUNK_END_LF : CHUNK_TRAILER_LF;
    else if (!byte_is_text(byte))
        return false;
    else
        c->state = CHUNK_TRAILER_LINE;
    return true;
}

/* One byte outside of data. False: the body is malformed. */
static bool chunk_frame_byte(struct http_chunked *c, char byte)
{
    c->line++;
    switch ((enum chunk_state)c->state) {
    case CHUNK_SIZE: return chunk_size_byte(c, byte) && c->line <= HTTP_CHUNK_LINE_MAX;
    case CHUNK_EXTENSION: return chunk_extension_byte(c, byte) && c->line <= HTTP_CHUNK_LINE_MAX;
    case CHUNK_SIZE_LF: return chunk_size_end(c, byte);
    case CHUNK_DATA_CR: c->state = CHUNK_DATA_LF; return byte == '\r';
    case CHUNK_DATA_LF:
        c->state = CHUNK_SIZE;
        c->line = 0;
        return byte == '\n';
    case CHUNK_TRAILER:
    case CHUNK_TRAILER_LINE: return chunk_trailer_byte(c, byte) && c->line <= HTTP_TRAILERS_MAX;
    case CHUNK_TRAILER_LF: c->state = CHUNK_TRAILER; return byte == '\n';
    case CHUNK_END_LF: return byte == '\n';
    case CHUNK_DATA: break;
    }
    return false;
}

enum http_parse http_chunked_next(struct http_chunked *c, struct slice in, struct slice *data,
                                  size_t *used)
{
    size_t at = 0;

    *data = slice_of(in.ptr, 0);
    while (at < in.len && c->state != CHUNK_DATA) {
        bool is_end = c->state == CHUNK_END_LF;

        if (!chunk_frame_byte(c, in.ptr[at++]))
            return HTTP_PARSE_BAD;
        if (is_end) {
            *used = at;
            return HTTP_PARSE_DONE;
        }
    }
    if (c->state == CHUNK_DATA && at < in.len) {
        size_t piece = in.len - at < c->left ? in.len - at : (size_t)c->left;

        *data = slice_of(in.ptr + at, piece);
        at += piece;
        c->left -= piece;
        if (c->left == 0)
            c->state = CHUNK_DATA_CR;
    }
    *used = at;
    return HTTP_PARSE_MORE;
}
