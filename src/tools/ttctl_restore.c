/*
 * ttctl_restore.c - `ttctl restore`: a data directory out of a backup, up to a moment if wanted.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * The backup is read twice: to check all of it and to find where the moment lies, and then to copy
 * (ttctl_newdir.c). The new store begins a new history: what it wrote behind that moment is not its
 * own any more.
 *
 * To a moment the log can only be cut if nothing that was valid then has been let go since: a
 * compaction notes in the header of its segment the newest record that let another one go, and a
 * superseded big value lets its file go. Both give the earliest moment that can be had.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/hash.h"
#include "base/num.h"
#include "store/logstore/delta.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_newdir.h"
#include "tools/ttctl_show.h"

const char restore_more[] =
    "Makes the data directory NEWDIR (new or empty) out of a backup, or of the data\n"
    "directory of a stopped server, which stay as they are. Everything is checked.\n\n"
    "  --to NEWDIR        the new data directory\n"
    "  --until TIME       as of this moment: 2026-01-31T12:00:00Z, with a fraction if\n"
    "                     need be; without Z local time; or Unix seconds\n\n"
    "What was overwritten before the last compaction is gone: then the earliest moment\n"
    "that can be had is named (ttserver --keep-history keeps more). The restored store\n"
    "begins a new history.\n";

struct restore {
    struct walk *w;
    uint64_t until; /* version; UINT64_MAX: all */
    uint64_t damaged;
    uint64_t last_seq; /* the last record that is wanted; 0: none */
    uint64_t earliest; /* version: the lowest `until` that can be had */
    bool counting;     /* the first reading */
    /* by key: its newest wanted record if the big value of that is gone (kind put), else a
     * tombstone */
    struct delta *gone;
    uint64_t gone_count;
    struct newdir made;
};

static uint64_t end_of_ms(int64_t unix_ms)
{
    return (uint64_t)unix_ms << 16 | 0xffff;
}

/* ---- times ---- */

/* "123", "123.5": Unix seconds, or a fraction of one, as milliseconds. */
static bool parse_seconds(struct slice text, int64_t *ms)
{
    const char *dot = text.len == 0 ? NULL : memchr(text.ptr, '.', text.len);
    struct slice whole = dot == NULL ? text : slice_of(text.ptr, (size_t)(dot - text.ptr));
    uint64_t seconds;
    int64_t scale = 100;

    if (!parse_u64(whole, &seconds) || seconds > INT64_MAX / 1000000)
        return false;
    *ms = (int64_t)seconds * 1000;
    if (dot == NULL)
        return true;
    text = slice_after(text, whole.len + 1);
    for (size_t i = 0; i < text.len; i++, scale /= 10) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        *ms += (text.ptr[i] - '0') * scale;
    }
    return text.len > 0;
}

/* Unix milliseconds. */
static bool parse_time(const char *text, int64_t *ms)
{
    struct tm tm = {.tm_isdst = -1};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    size_t len;
    int64_t fraction = 0;
    bool utc;

    if (rest == NULL)
        rest = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
    if (rest == NULL)
        return parse_seconds(slice_str(text), ms);
    len = strlen(rest);
    utc = len > 0 && rest[len - 1] == 'Z';
    if (utc)
        len--;
    if (len > 0) {
        char number[40] = "0";

        if (rest[0] != '.' || len > 20)
            return false;
        memcpy(number + 1, rest, len);
        if (!parse_seconds(slice_of(number, len + 1), &fraction))
            return false;
    }
    *ms = (int64_t)(utc ? timegm(&tm) : mktime(&tm)) * 1000 + fraction;
    return *ms >= 0;
}

/* ---- the first reading ---- */

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct restore *r = arg;

    if (!r->counting || f->kind == WALK_NOTE)
        return;
    r->damaged += f->kind == WALK_DAMAGE;
    show_finding(stderr, f);
}

static bool has_value(const struct record *rec)
{
    return rec->kind == RECORD_PUT || rec->kind == RECORD_COUNTER || rec->kind == RECORD_DELETE;
}

/* A record that is wanted: can its big value be read? 0 or -errno. */
static int note_wanted(struct restore *r, const struct record *rec)
{
    const char *reason;
    struct entry e = {.kind = RECORD_DELETE};
    uint64_t hash = hash_slice(rec->key);
    int rc = 0;

    r->last_seq = rec->seq;
    if (!has_value(rec))
        return 0;
    if (rec->big_bytes > 0)
        rc = walk_big_read(r->w, rec, NULL, NULL, &reason);
    if (rc == -ENOMEM)
        return rc;
    if (rc == 0 && !delta_find(r->gone, hash, rec->key, UINT64_MAX, &e, NULL))
        return 0;
    e.kind = rc == 0 ? RECORD_DELETE : RECORD_PUT;
    e.base = rec->base;
    e.expires_ms = rec->expires_ms;
    e.big_file = rec->big_file;
    e.big_bytes = rec->big_bytes;
    return delta_put(r->gone, hash, rec->key, &e, rec->seq);
}

static void raise_earliest(struct restore *r, uint64_t version)
{
    if (version > r->earliest)
        r->earliest = version;
}

/* A record behind the moment: it may be what let a big value go. 0 or -errno. */
static int note_later(struct restore *r, const struct record *rec)
{
    uint64_t hash = hash_slice(rec->key);
    struct entry e;

    if (!has_value(rec) || !delta_find(r->gone, hash, rec->key, UINT64_MAX, &e, NULL) ||
        e.kind != RECORD_PUT)
        return 0;
    raise_earliest(r, rec->logged.version);
    e.kind = RECORD_DELETE;
    return delta_put(r->gone, hash, rec->key, &e, rec->seq);
}

/* What is still among the gone was expired or flushed, or its file is missing. */
static void judge_gone(const struct delta_item *item, void *arg)
{
    struct restore *r = arg;
    const struct entry *e = item->entry;
    const struct walk_state *end = &r->w->state;
    uint64_t moment = r->until == UINT64_MAX ? end->clock : r->until;

    if (e->kind != RECORD_PUT)
        return;
    if (e->expires_ms != 0 && end_of_ms(e->expires_ms) <= moment)
        return;
    if (stamp_compare(e->base, end->flush) <= 0) {
        if (end->flush.version > moment)
            raise_earliest(r, end->flush.version);
        return;
    }
    if (e->expires_ms != 0) {
        raise_earliest(r, end_of_ms(e->expires_ms));
        return;
    }
    r->gone_count++;
    fputs("ttctl: the value is missing of the key ", stderr);
    show_key(stderr, item->key);
    fputc('\n', stderr);
}

/* Reads all of it. 0 or -errno. */
static int look(struct restore *r)
{
    struct walk_record rec;
    int rc;

    r->counting = true;
    while ((rc = walk_next(r->w, &rec)) == 1) {
        rc = rec.r.logged.version <= r->until ? note_wanted(r, &rec.r) : note_later(r, &rec.r);
        if (rc != 0)
            return rc;
    }
    r->counting = false;
    delta_walk(r->gone, UINT64_MAX, judge_gone, r);
    for (size_t i = 0; i < r->w->count; i++)
        if (!r->w->segments[i].superseded)
            raise_earliest(r, r->w->segments[i].header.let_go);
    return rc;
}

/* ---- the second ---- */

static int copy(struct restore *r, const char *to)
{
    struct walk_record rec = {0};
    int rc = newdir_begin(&r->made, r->w, to, false);

    if (rc != 0)
        return CTL_FAILED;
    walk_rewind(r->w);
    while (rc == 0 && rec.r.seq < r->last_seq && (rc = walk_next(r->w, &rec)) == 1)
        rc = newdir_take(&r->made, &rec);
    if (rc == 0)
        rc = newdir_finish(&r->made);
    if (rc != 0)
        return command_fail("cannot write %s: %s", to, strerror(-rc));
    return CTL_OK;
}

/* ---- the command ---- */

static int refuse_time(const struct restore *r)
{
    char text[SHOW_TIME_MAX];

    return command_fail("records of that time were let go since; the earliest time that can be had "
                        "is %s",
                        show_time((int64_t)(r->earliest >> 16), text));
}

static int restore_opened(struct restore *r, const char *from, const char *to)
{
    char text[SHOW_TIME_MAX];
    int rc = r->gone == NULL ? -ENOMEM : look(r);
    int status;

    if (rc != 0)
        return command_fail("cannot read %s: %s", from, strerror(-rc));
    if (r->damaged > 0 || r->gone_count > 0)
        return command_fail("%s is damaged: `ttctl repair %s --to %s` takes what can be read", from,
                            from, to);
    if (r->until < r->earliest)
        return refuse_time(r);
    status = copy(r, to);
    if (status != CTL_OK)
        return status;
    printf("%s: %" PRIu64 " records, up to %s\n", to, r->made.kept,
           r->last_seq == 0 ? "the beginning"
                            : show_time((int64_t)(r->w->state.logged.version >> 16), text));
    return command_finish_output();
}

int run_restore(struct ctl *ctl, int argc, char *const argv[])
{
    struct restore r = {.until = UINT64_MAX, .made = {.fd = -1}};
    const char *from;
    const char *to = NULL;
    const char *until = NULL;
    const struct command_option options[] = {{"--to", &to, NULL}, {"--until", &until, NULL}};
    struct walk_options walk = {.lock = WALK_SHARED, .found = on_finding, .arg = &r};
    char why[WALK_WHY_MAX];
    int64_t until_ms;
    int status = command_arguments("restore", argc, argv, options, 2, &from, 1, 1);

    (void)ctl;
    if (status != 0)
        return status;
    if (to == NULL)
        return command_misuse("restore", "expected --to NEWDIR");
    if (until != NULL && !parse_time(until, &until_ms))
        return command_misuse("restore", "%s is no time", until);
    if (until != NULL)
        r.until = end_of_ms(until_ms);
    if (walk_open(from, &walk, &r.w, why) != 0)
        return command_fail("%s", why);
    r.gone = delta_new(0);
    status = restore_opened(&r, from, to);
    newdir_free(&r.made);
    delta_free(r.gone);
    walk_close(r.w);
    return status;
}
