/*
 * ttctl_load.c - `ttctl load`: the lines of a dump into a running server.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * Small records go beside each other, so that one sync of the server covers many; a large one goes
 * alone and in pieces, so memory is bounded.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/num.h"
#include "proto/http.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_line.h"
#include "tools/ttctl_upload.h"

const char load_more[] =
    "Stores the records of a dump (a FILE, or the standard input) in a running\n"
    "server, with flags, expiry, content type and all. Records that are there are\n"
    "overwritten, others stay.\n\n"
    "  --if-absent   keep what is there\n"
    "  --from LINE   begin with this line: goes on where a load was broken off\n\n"
    "Lines that cannot be loaded are told with their numbers, and passed over; the\n"
    "exit status is 1 then. When the server cannot take any more, the line is told\n"
    "from which on to go on. Loading a line twice does no harm.\n";

/* A value up to so many bytes is read into memory, and sent beside others. */
#define SMALL_BYTES (256u * 1024)
#define SLOTS 32u

struct load {
    struct ctl *ctl;
    struct line_reader lines;
    struct uploader *uploader;
    bool only_if_absent;
    struct buf target;
    struct buf small; /* the value, or its beginning */
    size_t given;     /* of a large one */
    uint64_t stored;
    uint64_t kept;
    uint64_t failed;
    uint64_t stopped_at; /* the lowest line that the server could not take; 0: none */
    char stopped_why[256];
};

/* ---- results ---- */

static void fail_line(struct load *l, uint64_t number, const char *why)
{
    l->failed++;
    fprintf(stderr, "ttctl: line %" PRIu64 ": %s\n", number, why);
}

/* The server takes nothing any more. */
static void stop_at(struct load *l, uint64_t number, const char *why)
{
    if (l->stopped_at == 0 || number < l->stopped_at) {
        l->stopped_at = number;
        snprintf(l->stopped_why, sizeof(l->stopped_why), "%s", why);
    }
}

static void take_status(uint64_t number, long status, const char *message, void *arg)
{
    struct load *l = arg;
    char text[64];

    if (status / 100 == 2) {
        l->stored++;
    } else if (status == 409 && l->only_if_absent) {
        l->kept++;
    } else if (status == 413) {
        fail_line(l, number, "the value is too large for the server (see its --max-value)");
    } else if (status == 400 || status == 414) {
        fail_line(l, number, "the server refuses the key or a field");
    } else if (status == 404 || status == 405) {
        stop_at(l, number, "the server is too old for this, or none of ours");
    } else if (status == 0) {
        stop_at(l, number, message);
    } else {
        snprintf(text, sizeof(text), "the server answered %ld%s", status,
                 status == 507 ? ": its disk is full" : "");
        stop_at(l, number, text);
    }
}

/* ---- a record ---- */

/* 0 or -ENOMEM. */
static int make_target(struct load *l)
{
    const struct line_reader *r = &l->lines;
    int rc;

    l->target.len = 0;
    rc = buf_add(&l->target, "/-/record?key=", 14);
    if (rc == 0)
        rc = command_add_encoded(&l->target, r->key);
    if (rc == 0)
        rc = buf_printf(&l->target, "&flags=%" PRIu32 "&expires=%" PRId64 "&attributes=", r->flags,
                        r->expires_ms);
    if (rc == 0)
        rc = command_add_encoded(&l->target, r->attrs);
    if (rc == 0 && l->only_if_absent)
        rc = buf_add(&l->target, "&if=absent", 10);
    return rc;
}

/* Up to SMALL_BYTES of the value. 1: that is all; 0: there is more; -1: malformed. -ENOMEM. */
static int read_small(struct load *l)
{
    ssize_t got;

    l->small.len = 0;
    if (buf_reserve(&l->small, SMALL_BYTES) != 0)
        return -ENOMEM;
    got = line_read_value(&l->lines, l->small.data, SMALL_BYTES);
    if (got < 0)
        return -1;
    l->small.len = (size_t)got;
    return l->small.len < SMALL_BYTES;
}

/* What was read first, then what comes. */
static ssize_t give_large(char *room, size_t len, void *arg)
{
    struct load *l = arg;
    size_t left = l->small.len - l->given;

    if (left == 0)
        return line_read_value(&l->lines, room, len);
    if (len > left)
        len = left;
    memcpy(room, l->small.data + l->given, len);
    l->given += len;
    return (ssize_t)len;
}

/* Sends the present record alone. */
static void put_large(struct load *l, uint64_t number)
{
    struct client_body body = {.give = give_large, .arg = l};
    struct client_reply reply;
    const char *message;

    l->given = 0;
    l->lines.error = NULL;
    if (client_request(l->ctl->client, "PUT", buf_slice(&l->target), &body, NULL, &reply,
                       &message) == 0) {
        take_status(number, reply.status, "", l);
        buf_free(&reply.text);
    } else if (l->lines.error != NULL) {
        fail_line(l, number, l->lines.error);
    } else {
        stop_at(l, number, message);
    }
}

/* The present record. 0 or -1: nothing works any more (said). */
static int load_record(struct load *l)
{
    uint64_t number = l->lines.number;
    const char *message = "out of memory";
    int whole = make_target(l) != 0 ? -ENOMEM : read_small(l);

    if (whole == -ENOMEM) {
        command_fail("line %" PRIu64 ": out of memory", number);
        return -1;
    }
    if (whole == -1) {
        fail_line(l, number, l->lines.error);
        return 0;
    }
    if (whole == 0) {
        put_large(l, number);
        return 0;
    }
    if (uploader_put(l->uploader, buf_slice(&l->target), &l->small, number, &message) == 0)
        return 0;
    command_fail("line %" PRIu64 ": %s", number, message);
    return -1;
}

/* ---- all ---- */

/* The first line says what this is. */
static bool is_dump(FILE *from)
{
    char line[sizeof(LINE_MAGIC) + 1];

    return fgets(line, sizeof(line), from) != NULL && strcmp(line, LINE_MAGIC "\n") == 0;
}

static int load_lines(struct load *l, uint64_t first)
{
    const char *message = "";
    enum line_found found = LINE_NONE;
    int rc = 0;

    while (l->lines.number + 1 < first && line_skip(&l->lines))
        continue;
    while (rc == 0 && l->stopped_at == 0 && (found = line_next(&l->lines)) != LINE_NONE) {
        if (found == LINE_BAD)
            fail_line(l, l->lines.number, l->lines.error);
        else
            rc = load_record(l);
    }
    if (rc == 0 && uploader_wait(l->uploader, &message) != 0)
        rc = command_fail("%s", message);
    if (ferror(l->lines.from))
        rc = command_fail("cannot read the dump: %s", strerror(errno));
    return rc;
}

static int finish(const struct load *l, int rc)
{
    printf("stored: %" PRIu64 ", kept: %" PRIu64 ", failed: %" PRIu64 "\n", l->stored, l->kept,
           l->failed);
    if (l->stopped_at > 0)
        rc = command_fail("stopped: %s; go on with --from %" PRIu64, l->stopped_why, l->stopped_at);
    if (command_finish_output() != CTL_OK || rc != 0 || l->failed > 0)
        return CTL_FAILED;
    return CTL_OK;
}

static int load_from(struct ctl *ctl, FILE *from, uint64_t first, bool only_if_absent)
{
    struct load l = {.ctl = ctl, .only_if_absent = only_if_absent};
    int rc;

    if (!is_dump(from))
        return command_fail("this is no dump: its first line is not \"" LINE_MAGIC "\"");
    if (uploader_open(ctl->client, SLOTS, take_status, &l, &l.uploader) != 0)
        return command_fail("out of memory");
    line_reader_begin(&l.lines, from);
    l.lines.number = 1;
    rc = load_lines(&l, first);
    uploader_close(l.uploader);
    line_reader_end(&l.lines);
    buf_free(&l.target);
    buf_free(&l.small);
    return finish(&l, rc);
}

int run_load(struct ctl *ctl, int argc, char *const argv[])
{
    const char *path = NULL;
    const char *from_text = NULL;
    bool only_if_absent = false;
    const struct command_option options[] = {{"--from", &from_text, NULL},
                                             {"--if-absent", NULL, &only_if_absent}};
    uint64_t first = 1;
    FILE *from = stdin;
    int status = command_arguments("load", argc, argv, options, 2, &path, 0, 1);

    if (status != 0)
        return status;
    if (from_text != NULL && (!parse_u64(slice_str(from_text), &first) || first == 0))
        return command_misuse("load", "--from: expected a line's number, but got '%s'", from_text);
    if (path != NULL && strcmp(path, "-") != 0)
        from = fopen(path, "rbe");
    if (from == NULL)
        return command_fail("cannot open %s: %s", path, strerror(errno));
    status = load_from(ctl, from, first, only_if_absent);
    if (from != stdin)
        fclose(from);
    return status;
}
