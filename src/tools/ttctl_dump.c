/*
 * ttctl_dump.c - `ttctl dump`: all records as lines of text, from a running server or a directory.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * Of a server the keys are listed page by page, and each record is asked for with all that it has
 * beside its value: what is written meanwhile may or may not be in the dump.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "proto/http.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_dump.h"

const char dump_more[] =
    "Writes all records to the standard output, a line each, sorted by key: text\n"
    "that can be searched and compared, and that `ttctl load` takes. docs/tools.md\n"
    "has the format.\n\n"
    "  --prefix P   only keys that begin with P\n"
    "  --dir DIR    the records of a stopped server's data directory\n\n"
    "The dump of a running server has each record as it was at some moment of the\n"
    "dump.\n";

#define PAGE_KEYS 1000

/* A record that comes: the line of its fields, then its value. */
struct fetched {
    struct slice key;
    struct line_writer line;
    struct buf fields;
    bool begun; /* the fields are written */
    bool malformed;
    struct buf attrs;
};

/* ---- a record of the server ---- */

static bool read_fields(struct fetched *f, struct slice text, uint32_t *flags, int64_t *expires_ms,
                        struct slice *attrs)
{
    struct slice value;

    if (!http_query_find(text, "flags", &value) || !parse_u32(value, flags) ||
        !http_query_find(text, "expires", &value) || !parse_i64(value, expires_ms) ||
        !http_query_find(text, "attributes", &value))
        return false;
    f->attrs.len = 0;
    return buf_reserve(&f->attrs, value.len + 1) == 0 &&
           http_percent_decode(value, f->attrs.data, value.len, attrs) == 0;
}

/* Fields and key are there: the line begins. */
static bool begin_line(struct fetched *f)
{
    uint32_t flags;
    int64_t expires_ms;
    struct slice attrs;

    if (!read_fields(f, buf_slice(&f->fields), &flags, &expires_ms, &attrs))
        return false;
    line_begin(&f->line, stdout, f->key, flags, expires_ms, attrs);
    f->begun = true;
    return true;
}

static bool take_piece(struct slice piece, void *arg)
{
    struct fetched *f = arg;

    if (!f->begun) {
        const char *end = memchr(piece.ptr, '\n', piece.len);
        size_t len = end == NULL ? piece.len : (size_t)(end - piece.ptr);

        if (buf_add(&f->fields, piece.ptr, len) != 0 || f->fields.len > CLIENT_TEXT_MAX)
            return false;
        if (end == NULL)
            return true;
        piece = slice_after(piece, len + 1);
        if (!begin_line(f)) {
            f->malformed = true;
            return false;
        }
    }
    if (piece.len > 0)
        line_value(&f->line, piece);
    return !ferror(stdout);
}

/* One record; a key that is gone meanwhile is none. CTL_OK or CTL_FAILED (said). */
static int fetch_record(struct ctl *ctl, struct slice encoded_key, struct fetched *f)
{
    struct buf target = {0};
    struct client_reply reply = {0};
    const char *message = "out of memory";
    int status = CTL_OK;

    f->begun = false;
    f->fields.len = 0;
    if (buf_add(&target, "/-/record?key=", 14) != 0 || buf_add_slice(&target, encoded_key) != 0 ||
        client_fetch(ctl->client, buf_slice(&target), take_piece, f, &reply, &message) != 0) {
        status = ferror(stdout)
                     ? command_finish_output()
                     : command_fail("%s", f->malformed ? "the server's record is not understood"
                                                       : message);
    } else if (reply.status == 200 && f->begun) {
        line_end(&f->line);
    } else if (reply.status == 200) {
        status = command_fail("the server's record is not understood");
    } else if (reply.status != 404) {
        status = command_fail_status(&reply);
    }
    buf_free(&reply.text);
    buf_free(&target);
    return status;
}

/* ---- pages of keys ---- */

/* The records of a page; leaves its last key in `after`. */
static int dump_page(struct ctl *ctl, struct slice page, struct buf *after, struct fetched *f)
{
    struct buf key = {0};
    int status = CTL_OK;

    while (status == CTL_OK && page.len > 0) {
        const char *end = memchr(page.ptr, '\n', page.len);
        size_t len = end == NULL ? 0 : (size_t)(end - page.ptr);
        struct slice encoded = slice_of(page.ptr, len);

        key.len = 0;
        if (end == NULL || buf_reserve(&key, len + 1) != 0 ||
            http_percent_decode(encoded, key.data, len, &f->key) != 0) {
            status = command_fail("the server's list is not understood");
            break;
        }
        status = fetch_record(ctl, encoded, f);
        page = slice_after(page, len + 1);
        after->len = 0;
        if (status == CTL_OK && page.len == 0 && buf_add_slice(after, encoded) != 0)
            status = command_fail("out of memory");
    }
    buf_free(&key);
    return status;
}

/* Asks for the keys behind `after` (first: from the start). */
static int ask_page(struct ctl *ctl, struct slice prefix, bool first, const struct buf *after,
                    struct client_reply *reply)
{
    struct buf target = {0};
    const char *message = "out of memory";
    int status = CTL_OK;
    int rc = buf_printf(&target, "/-/keys?limit=%u&prefix=", PAGE_KEYS);

    if (rc == 0)
        rc = command_add_encoded(&target, prefix);
    if (rc == 0 && !first)
        rc = buf_add(&target, "&after=", 7);
    if (rc == 0 && !first)
        rc = buf_add_slice(&target, buf_slice(after));
    if (rc != 0 ||
        client_request(ctl->client, "GET", buf_slice(&target), NULL, NULL, reply, &message) != 0)
        status = command_fail("%s", message);
    else if (reply->status != 200)
        status = command_fail_status(reply);
    buf_free(&target);
    return status;
}

static int dump_server(struct ctl *ctl, struct slice prefix)
{
    struct fetched *f = calloc(1, sizeof(*f));
    struct buf after = {0};
    bool more = true;
    int status = CTL_OK;

    if (f == NULL)
        return command_fail("out of memory");
    for (bool first = true; status == CTL_OK && more; first = false) {
        struct client_reply reply = {0};

        status = ask_page(ctl, prefix, first, &after, &reply);
        if (status == CTL_OK)
            status = dump_page(ctl, buf_slice(&reply.text), &after, f);
        more = reply.more && reply.text.len > 0;
        buf_free(&reply.text);
    }
    buf_free(&after);
    buf_free(&f->fields);
    buf_free(&f->attrs);
    free(f);
    return status;
}

int run_dump(struct ctl *ctl, int argc, char *const argv[])
{
    const char *prefix_text = "";
    const char *dir = NULL;
    const struct command_option options[] = {{"--prefix", &prefix_text, NULL},
                                             {"--dir", &dir, NULL}};
    struct buf room = {0};
    struct slice prefix;
    int status = command_arguments("dump", argc, argv, options, 2, NULL, 0, 0);

    if (status != 0)
        return status;
    if (!command_take_key(ctl, prefix_text, &room, &prefix)) {
        buf_free(&room);
        return CTL_FAILED;
    }
    printf("%s\n", LINE_MAGIC);
    status = dir != NULL ? dump_directory(dir, prefix) : dump_server(ctl, prefix);
    buf_free(&room);
    return command_finish_output() == CTL_OK ? status : CTL_FAILED;
}
