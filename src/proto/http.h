/*
 * http.h - HTTP/1.1 and 1.0 as bytes: request heads, chunked bodies, keys in paths, dates, reply
 * heads.
 *
 * Provides: http_head_find() and http_request_parse() (requests), http_chunked_next() (bodies),
 *           http_key_decode(), http_query_find(), http_etag_listed(), http_date_*(),
 *           http_reply_format().
 * Used by:  session/http_*.c, admin; fuzz and unit tests.
 * Threads:  pure: no I/O, no allocation, no state outside the structs.
 *
 * Rules are those of RFC 9110 and 9112, strictly read: what two parsers could understand in two
 * ways is refused.
 */
#ifndef PROTO_HTTP_H
#define PROTO_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

/* The request line may be this long: a key of 64 KiB, every byte as %xx. */
#define HTTP_LINE_MAX (200u * 1024)
/* The header lines together. */
#define HTTP_FIELDS_MAX (64u * 1024)
/* A stored content type. */
#define HTTP_TYPE_MAX 255
/* A line of chunk size and extensions, and all trailer lines together. */
#define HTTP_CHUNK_LINE_MAX (4u * 1024)
#define HTTP_TRAILERS_MAX (16u * 1024)

enum http_parse { HTTP_PARSE_DONE, HTTP_PARSE_MORE, HTTP_PARSE_BAD };

/* How far the search for the end of a head has come; all zero before a request. */
struct http_scan {
    uint32_t at;      /* bytes already looked at */
    uint32_t line;    /* start of the line that `at` is in */
    uint32_t fields;  /* end of the request line, 0 while in it */
    uint16_t refusal; /* status to answer with, set with HTTP_PARSE_BAD */
};

/*
 * Looks for the empty line that ends the head; `in` begins with the request line and only grows
 * from call to call. DONE: the head is the first *head_len bytes, and each of its lines ends with
 * CRLF, has no other CR, and does not continue the one before. Time is linear in all bytes, however
 * small the pieces are.
 */
enum http_parse http_head_find(struct http_scan *scan, struct slice in, size_t *head_len);

enum http_verb {
    HTTP_VERB_GET,
    HTTP_VERB_HEAD,
    HTTP_VERB_PUT,
    HTTP_VERB_DELETE,
    HTTP_VERB_POST,
    HTTP_VERB_OPTIONS,
    HTTP_VERB_OTHER,
};

/* The fields that somebody asks for. To add one: a line here and a line in http.c's table. */
enum http_field {
    HTTP_FIELD_HOST,
    HTTP_FIELD_EXPECT,
    HTTP_FIELD_CONTENT_TYPE,
    HTTP_FIELD_TRANSFER_ENCODING,
    HTTP_FIELD_IF_NONE_MATCH,
    HTTP_FIELD_IF_MODIFIED_SINCE,
    HTTP_FIELD_PDMODE,
    HTTP_FIELD_CONTENT_RANGE,
    HTTP_FIELD_COUNT,
};

/* One request head. All slices point into it. */
struct http_request {
    enum http_verb verb;
    unsigned minor;      /* HTTP/1.minor: 0 or 1 */
    struct slice target; /* as sent */
    struct slice path;   /* of the target, without query, still encoded; "*" for OPTIONS * */
    struct slice query;  /* behind the first '?' */
    bool keep_alive;     /* the client wants the connection to stay */
    bool chunked;        /* the body comes in chunks */
    bool has_length;
    uint64_t length; /* of the body; 0 without has_length */
    bool expects_continue;
    struct slice field[HTTP_FIELD_COUNT]; /* ptr NULL: absent; blanks around are cut off */
    unsigned refusal;                     /* status to answer with, set with HTTP_PARSE_BAD */
};

/* Reads a head that http_head_find() has found. DONE or BAD; after BAD nothing on the connection
 * can be trusted. */
enum http_parse http_request_parse(struct slice head, struct http_request *out);

/* Where a chunked body stands; all zero at its start. */
struct http_chunked {
    uint64_t left;  /* data bytes of the present chunk still to come */
    uint32_t line;  /* bytes of the present size line, or of all trailers */
    uint8_t state;  /* http.c's */
    uint8_t digits; /* of the chunk size */
};

/*
 * The next piece of a chunked body: *data is what is data in the first *used bytes of `in` (it may
 * be empty). DONE: the body ended with these bytes. MORE: call again with what follows them. BAD:
 * refuse and close.
 */
enum http_parse http_chunked_next(struct http_chunked *c, struct slice in, struct slice *data,
                                  size_t *used);

/*
 * The key that a path names: without its first '/', percent-decoded; '+' stands for itself. *key
 * points into the path if nothing was encoded, else into room. 0; 400 for a bad %xx; 414 if the key
 * is longer than room_len.
 */
unsigned http_key_decode(struct slice path, char *room, size_t room_len, struct slice *key);

/* The same without cutting off a '/', for values in a query. */
unsigned http_percent_decode(struct slice text, char *room, size_t room_len, struct slice *out);

/* Writes `text` with every byte but letters, digits and -._~/ as %XX (room for 3 * text.len);
 * returns the length. */
size_t http_percent_encode(struct slice text, char *out);

/* Finds name=value between the '&' of a query; the value stays encoded. False if it is absent. */
bool http_query_find(struct slice query, const char *name, struct slice *value);

/* True if the list of entity tags (If-None-Match) names the tag (with its quotes), or is "*".
 * Compares weakly. */
bool http_etag_listed(struct slice list, struct slice etag);

/* "Sun, 06 Nov 1994 08:49:37 GMT" without a NUL. */
#define HTTP_DATE_LEN 29
void http_date_format(int64_t unix_s, char out[HTTP_DATE_LEN]);
/* That form only; false on any other. */
bool http_date_parse(struct slice text, int64_t *unix_s);

/* True if the text can be stored and sent back as a content type: 1 to HTTP_TYPE_MAX bytes, no
 * control bytes. */
bool http_type_is_valid(struct slice type);

/* One reply's head. */
struct http_reply {
    unsigned status;
    bool no_length;       /* 1xx, 204, 304: no Content-Length */
    bool is_value;        /* a stored value: may do nothing in a browser but be shown */
    bool close;           /* the connection ends after it */
    bool says_keep_alive; /* to a 1.0 client that asked for it */
    uint64_t length;      /* of the body */
    int64_t modified_s;   /* Last-Modified, Unix seconds; 0: none */
    struct slice date;    /* HTTP_DATE_LEN bytes */
    struct slice type;    /* Content-Type; len 0: none */
    struct slice etag;    /* with its quotes; len 0: none */
    struct slice extra;   /* whole header lines with CRLF, at most HTTP_EXTRA_MAX bytes */
};

#define HTTP_EXTRA_MAX 256
#define HTTP_ETAG_MAX 64
/* Room that http_reply_format() may need. */
#define HTTP_REPLY_MAX (512 + HTTP_TYPE_MAX + HTTP_ETAG_MAX + HTTP_EXTRA_MAX)

/* Returns the bytes written to out (room for HTTP_REPLY_MAX). */
size_t http_reply_format(char *out, const struct http_reply *r);

/* "Not Found" for 404. */
struct slice http_reason(unsigned status);

#endif
