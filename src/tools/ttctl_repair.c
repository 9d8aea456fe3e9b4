/*
 * ttctl_repair.c - `ttctl repair`: a new data directory of all that can be read in a damaged one.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * The damaged directory is only read. The log is read twice: to find what is damaged, and then to
 * copy what is not (ttctl_newdir.c). The vector of what is held begins anew: others may have what is
 * gone, and shall give it back.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "store/logstore/delta.h"
#include "tools/ttctl_apart.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_newdir.h"
#include "tools/ttctl_show.h"

const char repair_more[] =
    "Copies everything that can be read in a damaged data directory into a new one,\n"
    "and says exactly what was dropped. No server may run on it.\n\n"
    "  --to NEWDIR        the new directory; DIR is not changed\n"
    "  --backup COPYDIR   DIR itself becomes COPYDIR (a rename), the new one is DIR\n\n"
    "Where nothing is damaged, nothing is made. The repaired store begins a new\n"
    "history: servers that replicate give back what they have of the lost records.\n"
    "Until then an older value may show again of a key whose newest record was\n"
    "dropped.\n";

struct repair {
    struct walk *w;
    const char *to; /* the new directory */
    bool quiet;     /* all has been told before */
    bool writing;   /* the second reading: all has been counted */
    uint64_t damaged;
    uint64_t unfinished;
    /* by key: the newest record if its big value cannot be read; else RECORD_DELETE */
    struct delta *lost;
    uint64_t lost_count;
    uint64_t known_seq; /* the index knows of records up to there; 0: of no more than the log */
    int64_t now_ms;
    struct newdir made;
    uint64_t dropped_states;
};

static int fail(int rc, const char *what)
{
    command_fail("cannot %s: %s", what, strerror(-rc));
    return rc;
}

/* ---- what is damaged ---- */

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct repair *r = arg;

    if (r->writing)
        return;
    r->damaged += f->kind == WALK_DAMAGE;
    r->unfinished += f->kind == WALK_TORN;
    if (f->kind != WALK_NOTE && !r->quiet)
        show_finding(stdout, f);
}

/* Notes whether the file of the newest record of the key can be read. 0 or -errno. */
static int note_big(struct repair *r, const struct record *rec)
{
    const char *reason;
    struct entry e = {.kind = RECORD_DELETE};
    uint64_t hash = hash_slice(rec->key);
    int rc = rec->big_bytes > 0 ? walk_big_read(r->w, rec, NULL, NULL, &reason) : 0;

    if (rc == -ENOMEM)
        return rc;
    if (rc == 0 && !delta_find(r->lost, hash, rec->key, UINT64_MAX, &e, NULL))
        return 0;
    e = (struct entry){
        .kind = rc == 0 ? RECORD_DELETE : RECORD_PUT,
        .base = rec->base,
        .expires_ms = rec->expires_ms,
        .big_file = rec->big_file,
        .big_bytes = rec->big_bytes,
    };
    return delta_put(r->lost, hash, rec->key, &e, rec->seq);
}

static bool is_dead(const struct repair *r, const struct entry *e)
{
    return e->kind != RECORD_PUT || walk_is_flushed(&r->w->state, e->base, r->now_ms) ||
           (e->expires_ms != 0 && e->expires_ms <= r->now_ms);
}

static void tell_lost(const struct delta_item *item, void *arg)
{
    struct repair *r = arg;
    const struct entry *e = item->entry;
    char *path = is_dead(r, e) ? NULL : walk_big_path(r->w, e->big_file);

    if (path == NULL)
        return;
    r->lost_count++;
    on_finding(
        &(struct walk_finding){
            .kind = WALK_DAMAGE,
            .path = path,
            .bytes = e->big_bytes,
            .reason = "the big value is missing, or is not what its record says",
            .first_seq = item->seq,
            .last_seq = item->seq,
            .has_key = true,
            .key = item->key,
        },
        r);
    free(path);
}

/* What looks like the unfinished end of the log is damage if the index knows of more. */
static void tell_lost_end(struct repair *r)
{
    struct index_probe probe;

    if (index_probe_apart(r->w, false, false, &probe) != 0 || probe.seq <= r->w->state.seq)
        return;
    r->known_seq = probe.seq;
    on_finding(
        &(struct walk_finding){
            .kind = WALK_DAMAGE,
            .path = r->w->dir,
            .reason = "the end of the log is missing, the index knows of more",
            .first_seq = r->w->state.seq + 1,
            .last_seq = probe.seq,
        },
        r);
}

static int find_damage(struct repair *r)
{
    struct walk_record rec;
    int rc;

    while ((rc = walk_next(r->w, &rec)) == 1) {
        bool has_value =
            rec.r.kind == RECORD_PUT || rec.r.kind == RECORD_COUNTER || rec.r.kind == RECORD_DELETE;

        rc = has_value ? note_big(r, &rec.r) : 0;
        if (rc != 0)
            return rc;
    }
    if (rc != 0)
        return rc;
    delta_walk(r->lost, UINT64_MAX, tell_lost, r);
    tell_lost_end(r);
    return 0;
}

/* True: the record is the newest of its key, and its big value is lost; or an older one of that
 * key, which must not show again in its place. */
static bool is_lost(const struct repair *r, const struct record *rec)
{
    struct entry e;
    uint64_t seq;

    return rec->kind != RECORD_FLUSH && rec->kind != RECORD_MARKER &&
           delta_find(r->lost, hash_slice(rec->key), rec->key, UINT64_MAX, &e, &seq) &&
           rec->seq <= seq && !is_dead(r, &e);
}

/* ---- the copy ---- */

static int take_record(struct repair *r, const struct walk_record *rec)
{
    if (is_lost(r, &rec->r)) {
        r->dropped_states++;
        return 0;
    }
    return newdir_take(&r->made, rec);
}

static int write_directory(struct repair *r)
{
    struct walk_record rec;
    int rc = newdir_begin(&r->made, r->w, r->to, true);

    if (rc != 0)
        return rc;
    r->writing = true;
    walk_rewind(r->w);
    while (rc == 0 && (rc = walk_next(r->w, &rec)) == 1)
        rc = take_record(r, &rec);
    /* No number is used twice, also not one of a record that is lost. */
    if (rc == 0 && r->known_seq > r->w->state.seq)
        r->w->state.seq = r->known_seq;
    if (rc == 0)
        rc = newdir_finish(&r->made);
    return rc == 0 ? 0 : fail(rc, "write the new directory");
}

/* ---- the command ---- */

static void say_done(const struct repair *r)
{
    printf("kept: %" PRIu64 " records\n", r->made.kept);
    if (r->lost_count > 0)
        printf("dropped: %" PRIu64 " records of %" PRIu64 " keys whose big value is lost\n",
               r->dropped_states, r->lost_count);
    printf("the repaired store is %s\n", r->to);
}

/* Finds the damage, and with `to` writes the new directory. 0 or -errno (said). */
static int repair_opened(struct repair *r)
{
    int rc = r->lost == NULL ? -ENOMEM : find_damage(r);

    if (rc != 0)
        return fail(rc, "read the log");
    if (r->damaged == 0)
        printf("nothing is damaged, nothing was made%s\n",
               r->unfinished > 0 ? ": a start cuts off the unfinished writes" : "");
    if (r->damaged == 0 || r->to == NULL)
        return 0;
    rc = write_directory(r);
    if (rc == 0)
        say_done(r);
    return rc;
}

/* to NULL: only looks. quiet: what is damaged has been told. Returns the exit status. */
static int repair_directory(const char *dir, const char *to, bool quiet, bool *damaged)
{
    struct repair r = {.to = to, .quiet = quiet, .now_ms = clock_wall_ms(), .made = {.fd = -1}};
    struct walk_options options = {.lock = WALK_ALONE, .found = on_finding, .arg = &r};
    char why[WALK_WHY_MAX];
    int rc = walk_open(dir, &options, &r.w, why);

    if (rc != 0)
        return command_fail("%s", why);
    r.lost = delta_new(0);
    rc = repair_opened(&r);
    *damaged = r.damaged > 0;
    newdir_free(&r.made);
    delta_free(r.lost);
    walk_close(r.w);
    return rc == 0 ? CTL_OK : CTL_FAILED;
}

/* The damaged directory gets another name, and the new one its name. */
static int repair_in_place(const char *dir, const char *backup)
{
    bool damaged = false;
    int status;
    int rc;

    if (access(backup, F_OK) == 0)
        return command_fail("%s is there already: name a directory that is not", backup);
    status = repair_directory(dir, NULL, false, &damaged);
    if (status != CTL_OK || !damaged)
        return status;
    rc = io_rename(dir, backup);
    if (rc != 0)
        return command_fail("cannot rename %s to %s: %s (with --to it stays where it is)", dir,
                            backup, strerror(-rc));
    printf("the damaged store is %s\n", backup);
    return repair_directory(backup, dir, true, &damaged);
}

int run_repair(struct ctl *ctl, int argc, char *const argv[])
{
    const char *dir;
    const char *to = NULL;
    const char *backup = NULL;
    const struct command_option options[] = {{"--to", &to, NULL}, {"--backup", &backup, NULL}};
    bool damaged;
    int status = command_arguments("repair", argc, argv, options, 2, &dir, 1, 1);

    (void)ctl;
    if (status != 0)
        return status;
    if ((to == NULL) == (backup == NULL))
        return command_misuse("repair", "expected --to NEWDIR or --backup COPYDIR");
    status = to != NULL ? repair_directory(dir, to, false, &damaged) : repair_in_place(dir, backup);
    return command_finish_output() == CTL_OK ? status : CTL_FAILED;
}
