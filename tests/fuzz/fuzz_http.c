/*
 * fuzz_http.c - a stream of HTTP requests, as a connection would take it.
 *
 * The first byte says how the stream is cut into pieces; heads and chunked bodies must come out the
 * same as from one piece. What is accepted must keep the promises of proto/http.h.
 */
#include <assert.h>
#include <stdlib.h>

#include "proto/http.h"
#include "proto/mime.h"

/* Finds a head, given more and more of the stream. */
static enum http_parse find_in_pieces(struct slice in, size_t piece, size_t *len)
{
    struct http_scan scan = {0};
    enum http_parse got = HTTP_PARSE_MORE;

    for (size_t end = piece; got == HTTP_PARSE_MORE; end += piece) {
        size_t upto = end < in.len ? end : in.len;

        got = http_head_find(&scan, slice_of(in.ptr, upto), len);
        if (upto == in.len)
            break;
    }
    return got;
}

/* Takes a chunked body. Returns the bytes used, and the data's length and a sum over it. */
static enum http_parse take_chunked(struct slice in, size_t piece, size_t *used, uint64_t *sum)
{
    struct http_chunked c = {0};

    *used = 0;
    *sum = 0;
    while (*used < in.len) {
        size_t left = in.len - *used;
        struct slice data;
        size_t took;
        enum http_parse got = http_chunked_next(
            &c, slice_of(in.ptr + *used, left < piece ? left : piece), &data, &took);

        if (got == HTTP_PARSE_BAD)
            return got;
        assert(took > 0 && took <= left && data.len <= took);
        for (size_t i = 0; i < data.len; i++)
            *sum = *sum * 31 + (unsigned char)data.ptr[i] + 1;
        *used += took;
        if (got == HTTP_PARSE_DONE)
            return got;
    }
    return HTTP_PARSE_MORE;
}

static void look_at_key(const struct http_request *r)
{
    static char room[4096];
    static char encoded[3 * sizeof(room)];
    static char again[sizeof(room)];
    struct slice key;
    struct slice back;

    if (http_key_decode(r->path, room, sizeof(room), &key) != 0)
        return;
    assert(key.len <= sizeof(room) && http_type_is_valid(mime_of_key(key)));
    assert(http_percent_decode(slice_of(encoded, http_percent_encode(key, encoded)), again,
                               sizeof(again), &back) == 0);
    assert(slice_equal(key, back));
}

static void look_at_request(const struct http_request *r)
{
    struct slice value;
    int64_t date;

    assert(!(r->chunked && r->has_length) && (r->has_length || r->length == 0));
    assert(r->minor == 0 || r->field[HTTP_FIELD_HOST].ptr != NULL);
    if (r->verb != HTTP_VERB_OTHER)
        look_at_key(r);
    if (http_query_find(r->query, "limit", &value))
        assert(value.len <= r->query.len);
    http_etag_listed(r->field[HTTP_FIELD_IF_NONE_MATCH], slice_str("\"a\""));
    if (http_date_parse(r->field[HTTP_FIELD_IF_MODIFIED_SINCE], &date))
        assert(date >= 0);
}

/* Takes one request off the stream. False: there is no further one. */
static bool take_request(struct slice *in, size_t piece)
{
    struct http_scan scan = {0};
    struct http_request r;
    size_t len = 0;
    size_t len_in_pieces = 0;
    enum http_parse got = http_head_find(&scan, *in, &len);

    assert(got == find_in_pieces(*in, piece, &len_in_pieces) && len == len_in_pieces);
    if (got != HTTP_PARSE_DONE || http_request_parse(slice_of(in->ptr, len), &r) != HTTP_PARSE_DONE)
        return false;
    look_at_request(&r);
    *in = slice_after(*in, len);
    if (r.chunked) {
        size_t used;
        size_t used_in_pieces;
        uint64_t sum;
        uint64_t sum_in_pieces;

        got = take_chunked(*in, in->len + 1, &used, &sum);
        assert(got == take_chunked(*in, piece, &used_in_pieces, &sum_in_pieces));
        assert(got == HTTP_PARSE_BAD || (used == used_in_pieces && sum == sum_in_pieces));
        *in = slice_after(*in, used);
        return got == HTTP_PARSE_DONE;
    }
    if (r.length > in->len)
        return false;
    *in = slice_after(*in, (size_t)r.length);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in;

    if (size < 2)
        return 0;
    in = slice_of(data + 1, size - 1);
    while (in.len > 0 && take_request(&in, (size_t)data[0] + 1))
        ;
    return 0;
}
