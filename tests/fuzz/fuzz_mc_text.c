/*
 * fuzz_mc_text.c - memcached's text protocol: a stream of any bytes.
 *
 * Walks the stream as a session does. Beyond memory errors it looks for parsers that know the end
 * of something before it is there: a request or key that was read from the whole input must not
 * have been found in any shorter one.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/mc_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Cuts that are tried per request and key; all of them for short ones. */
#define CUTS_MAX 300

static void require(int condition)
{
    if (!condition)
        abort();
}

/* A copy of exactly len bytes, so that a read behind them is found. */
static char *exact_copy(struct slice in, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);

    require(copy != NULL);
    if (len > 0)
        memcpy(copy, in.ptr, len);
    return copy;
}

static void check_request_cuts(struct slice in, size_t used)
{
    for (size_t cut = used > CUTS_MAX ? used - CUTS_MAX : 0; cut < used; cut++) {
        char *copy = exact_copy(in, cut);
        struct mc_request request;
        size_t n;

        require(mc_parse_request(slice_of(copy, cut), &request, &n) == MC_MORE);
        free(copy);
    }
}

static void check_key_cuts(struct slice in, size_t used)
{
    for (size_t cut = used > CUTS_MAX ? used - CUTS_MAX : 0; cut < used; cut++) {
        char *copy = exact_copy(in, cut);
        struct slice key;
        bool last;
        size_t n;

        require(mc_parse_key(slice_of(copy, cut), &key, &last, &n) == MC_KEY_MORE);
        require(n <= cut);
        free(copy);
    }
}

static void check_key(struct slice key)
{
    char out[MC_VALUE_LINE_MAX];
    uint64_t cas = UINT64_MAX;

    require(key.len > 0 && key.len <= MC_KEY_MAX);
    require(memchr(key.ptr, ' ', key.len) == NULL && memchr(key.ptr, '\n', key.len) == NULL);
    require(mc_format_value(out, key, UINT32_MAX, UINT64_MAX, &cas) <= sizeof(out));
}

/* The rest of a line of keys. Returns the bytes used. */
static size_t walk_keys(struct slice in)
{
    size_t at = 0;

    for (;;) {
        struct slice rest = slice_after(in, at);
        struct slice key;
        bool last = false;
        size_t used;
        enum mc_key_status status = mc_parse_key(rest, &key, &last, &used);

        require(used <= rest.len);
        at += used;
        if (status == MC_KEY_MORE)
            return in.len;
        if (status == MC_KEY_LONG) {
            at += mc_skip_key(slice_after(in, at));
            continue;
        }
        check_key_cuts(rest, used);
        if (status == MC_KEY_END)
            return at;
        check_key(key);
        if (last)
            return at;
    }
}

/* One request with what follows it. Returns the bytes used, 0 at the end. */
static size_t walk_request(struct slice in)
{
    struct mc_request request;
    struct slice args;
    struct slice word;
    size_t used;

    if (mc_parse_request(in, &request, &used) != MC_DONE)
        return 0;
    require(used > 0 && used <= in.len && request.info != NULL);
    require(request.error < MC_ERROR_COUNT);
    check_request_cuts(in, used);
    args = request.args;
    while (mc_next_word(&args, &word))
        require(word.len > 0);
    if (request.has_keys)
        return used + walk_keys(slice_after(in, used));
    if (request.has_body) {
        uint64_t body = (uint64_t)request.body_bytes + 2;

        require(request.body_bytes <= MC_BODY_MAX);
        return body > in.len - used ? in.len : used + (size_t)body;
    }
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = exact_copy(slice_of(data, size), size);
    struct slice in = slice_of(copy, size);
    size_t used;

    while ((used = walk_request(in)) > 0)
        in = slice_after(in, used);
    free(copy);
    return 0;
}
