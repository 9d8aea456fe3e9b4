/*
 * ttctl_log.c - `ttctl log`: the records of a data directory, a line each.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * Works beside a running server: nothing is locked and nothing is written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/num.h"
#include "proto/http.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_show.h"

const char log_more[] =
    "Prints the records of the log, oldest first, a line each: number, time, kind,\n"
    "key (percent-encoded), what it says, where it stands. A server may be running.\n\n"
    "  --from SEQ   begin with the record of this number\n"
    "  --key KEY    only records of this key (and those that concern all keys)\n\n"
    "Damage is told on the standard error, and makes the exit status 1.\n";

struct log_view {
    bool damaged;
};

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct log_view *v = arg;

    v->damaged = v->damaged || f->kind == WALK_DAMAGE;
    if (f->kind != WALK_TORN)
        show_finding(stderr, f);
}

static void print_stamp(const char *name, struct stamp s)
{
    printf(" %s=%" PRIx64 ".%u.%" PRIu32, name, s.version, s.node, s.epoch);
}

static void print_text_attribute(const char *name, struct slice text)
{
    printf(" %s=", name);
    show_key(stdout, text);
}

static void print_attributes(struct slice attrs)
{
    static const char *const names[] = {[ATTR_CONTENT_TYPE] = "type",
                                        [ATTR_CONTENT_ENCODING] = "encoding",
                                        [ATTR_CACHE_CONTROL] = "cache-control",
                                        [ATTR_CONTENT_DISPOSITION] = "disposition"};
    struct slice bytes;
    uint8_t tag;

    while (attr_next(&attrs, &tag, &bytes)) {
        char name[16];

        if (tag == ATTR_CLIENT_CAS && bytes.len == 8)
            printf(" cas=%" PRIu64, get_u64le((const unsigned char *)bytes.ptr));
        else if (tag == ATTR_KEY_IS_BINARY)
            printf(" binary-key");
        else if (tag >= ATTR_CONTENT_TYPE && tag <= ATTR_CONTENT_DISPOSITION)
            print_text_attribute(names[tag], bytes);
        else {
            snprintf(name, sizeof(name), "attribute-%u", tag);
            print_text_attribute(name, bytes);
        }
    }
}

static void print_slots(const struct record *r)
{
    for (unsigned i = 0; i < r->slot_count; i++) {
        printf(" slot=%+" PRId64, r->slots[i].sum);
        print_stamp("by", r->slots[i].stamp);
    }
}

static void print_content(const struct record *r)
{
    if (r->big_bytes > 0)
        printf(" bytes=%" PRIu64 " file=%016" PRIx64 ".val", r->big_bytes, r->big_file);
    else
        printf(" bytes=%zu", r->value.len);
    if (r->flags != 0)
        printf(" flags=%" PRIu32, r->flags);
    if (r->kind == RECORD_COUNTER)
        print_text_attribute("start", r->value);
    print_slots(r);
    print_attributes(r->attrs);
    if (r->cut)
        printf(" cut");
}

static void print_record(const struct walk_record *w)
{
    const struct record *r = &w->r;
    char time[SHOW_TIME_MAX];

    printf("%" PRIu64 " %s %s ", r->seq, show_time((int64_t)(r->logged.version >> 16), time),
           show_kind(r->kind));
    if (r->kind == RECORD_FLUSH || r->kind == RECORD_MARKER)
        putchar('*');
    else
        show_key(stdout, r->key);
    if (r->kind == RECORD_PUT || r->kind == RECORD_COUNTER)
        print_content(r);
    if (r->kind == RECORD_MARKER && r->value.len > 0)
        printf(" %s", r->value.ptr[0] == 1 ? "clean-stop" : "unknown");
    if (r->expires_ms != 0 || r->kind == RECORD_TOUCH)
        printf(" %s=%s", r->kind == RECORD_FLUSH ? "moment" : "expires",
               r->expires_ms == 0 ? "never" : show_time(r->expires_ms, time));
    if (r->kind != RECORD_MARKER)
        print_stamp("base", r->base);
    if (stamp_compare(r->logged, r->base) != 0)
        print_stamp("logged", r->logged);
    printf(" at=%08" PRIu32 ".seg:%" PRIu64 "+%" PRIu64 "\n", w->segment->number, w->offset,
           w->length);
}

static bool concerns(const struct record *r, const struct slice *key)
{
    return key == NULL || r->kind == RECORD_FLUSH || slice_equal(r->key, *key);
}

static int print_log(const char *dir, uint64_t from, const struct slice *key)
{
    struct log_view v = {0};
    struct walk_options options = {.lock = WALK_UNLOCKED, .found = on_finding, .arg = &v};
    char why[WALK_WHY_MAX];
    struct walk_record record;
    struct walk *w;
    int rc = walk_open(dir, &options, &w, why);

    if (rc != 0)
        return command_fail("%s", why);
    if (from > 0)
        walk_seek(w, from);
    while ((rc = walk_next(w, &record)) == 1 && !ferror(stdout))
        if (record.r.seq >= from && concerns(&record.r, key))
            print_record(&record);
    walk_close(w);
    if (rc < 0)
        return command_fail("cannot read the log of %s: %s", dir, strerror(-rc));
    if (command_finish_output() != CTL_OK)
        return CTL_FAILED;
    return v.damaged ? CTL_FAILED : CTL_OK;
}

int run_log(struct ctl *ctl, int argc, char *const argv[])
{
    const char *dir;
    const char *from_text = NULL;
    const char *key_text = NULL;
    const struct command_option options[] = {{"--from", &from_text, NULL},
                                             {"--key", &key_text, NULL}};
    struct buf room = {0};
    struct slice key;
    uint64_t from = 0;
    int status = command_arguments("log", argc, argv, options, 2, &dir, 1, 1);

    if (status != 0)
        return status;
    if (from_text != NULL && !parse_u64(slice_str(from_text), &from))
        return command_misuse("log", "--from: expected a record's number, but got '%s'", from_text);
    if (key_text != NULL && !command_take_key(ctl, key_text, &room, &key))
        status = CTL_FAILED;
    else
        status = print_log(dir, from, key_text != NULL ? &key : NULL);
    buf_free(&room);
    return status;
}
