/*
 * ttctl_repair.c - `ttctl repair`: a new data directory of all that can be read in a damaged one.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * The damaged directory is only read. The log is read twice: to find what is damaged, and then to
 * copy what is not. Each segment becomes one of the compacted kind, in which numbers may be missing
 * and which says itself where it ends; records are copied byte by byte. STORE comes last, so that a
 * copy that was broken off is no store. It gets a new epoch and a new history, and the vector of
 * what is held begins anew: others may have what is gone, and shall give it back.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "store/logstore/delta.h"
#include "tools/ttctl_commands.h"
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

/* Bytes that are written at once. */
#define OUT_BYTES (1024u * 1024)

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
    int64_t now_ms;
    struct identity id;
    /* the segment that is being written */
    int fd; /* or -1 */
    char path[PATH_MAX];
    struct segment_header header;
    struct buf vectors;
    struct buf out;
    uint64_t end; /* of what is on the file or in `out` */
    uint64_t last_seq;
    const struct walk_segment *source;
    uint32_t number; /* the highest that is taken */
    bool has_segment;
    uint64_t kept;
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
    if (rc == 0)
        delta_walk(r->lost, UINT64_MAX, tell_lost, r);
    return rc;
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

/* ---- the new directory ---- */

static int join(char out[PATH_MAX], const char *dir, const char *name)
{
    return snprintf(out, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static bool is_empty_dir(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    bool empty = d != NULL;

    while (d != NULL && (entry = readdir(d)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    if (d != NULL)
        closedir(d);
    return empty;
}

/* Makes the directory with its folders and its lock file. 0 or -errno (said). */
static int make_directory(struct repair *r)
{
    static const char *const names[] = {"log", "big", "tmp"};
    char path[PATH_MAX];
    int fd;
    int rc = mkdir(r->to, 0750) == 0 ? 0 : -errno;

    if (rc == -EEXIST && is_empty_dir(r->to))
        rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        rc = join(path, r->to, names[i]);
        if (rc == 0)
            rc = io_make_dir(path, 0750);
    }
    if (rc == 0)
        rc = join(path, r->to, "lock");
    if (rc == 0) {
        fd = io_open(path, O_RDWR | O_CREAT, 0640);
        rc = fd < 0 ? fd : 0;
    }
    if (rc != 0) {
        command_fail("cannot make the directory %s: %s", r->to,
                     rc == -EEXIST ? "it is there, and not empty" : strerror(-rc));
        return rc;
    }
    identity_of_place(fd, &r->id);
    close(fd);
    return 0;
}

/* ---- segments ---- */

/* Writes what was gathered. */
static int flush_out(struct repair *r)
{
    int rc = r->out.len == 0
                 ? 0
                 : io_write_full(r->fd, r->out.data, r->out.len, (off_t)(r->end - r->out.len));

    r->out.len = 0;
    return rc;
}

static int add_bytes(struct repair *r, struct slice bytes)
{
    int rc = buf_add_slice(&r->out, bytes);

    r->end += bytes.len;
    return rc == 0 && r->out.len >= OUT_BYTES ? flush_out(r) : rc;
}

/* The header, now that all of it is known, and the file to the disk. */
static int close_segment(struct repair *r, uint64_t last_seq)
{
    unsigned char *bytes = NULL;
    size_t len;
    int rc;

    if (r->fd < 0)
        return 0;
    rc = flush_out(r);
    if (r->header.compacted) {
        r->header.last_seq = last_seq;
        r->header.end = r->end;
    }
    bytes = malloc(SEGMENT_HEADER_FIXED + r->header.vectors.len);
    if (rc == 0 && bytes == NULL)
        rc = -ENOMEM;
    if (rc == 0) {
        len = segment_header_encode(&r->header, bytes);
        rc = io_write_full(r->fd, bytes, len, 0);
    }
    if (rc == 0)
        rc = io_fsync(r->fd);
    close(r->fd);
    r->fd = -1;
    r->last_seq = last_seq;
    free(bytes);
    return rc;
}

/* The removed part of the vectors as of here; what is held begins anew. */
static int encode_vectors(struct repair *r)
{
    struct vectors *v = malloc(sizeof(*v));
    int rc = v == NULL ? -ENOMEM : 0;

    r->vectors.len = 0;
    if (rc == 0) {
        *v = r->w->state.vectors;
        v->count = 0;
        rc = vectors_encode(v, &r->vectors);
    }
    r->header.vectors = buf_slice(&r->vectors);
    free(v);
    return rc;
}

/* Begins the next file; `header` is filled but for what stands before it. */
static int open_segment(struct repair *r)
{
    int rc = encode_vectors(r);

    r->header.previous_number = r->has_segment ? r->number : 0;
    r->header.previous_end = r->has_segment ? r->end : 0;
    r->has_segment = true;
    r->header.previous_seq = r->header.first_seq - 1;
    r->header.number = ++r->number;
    memcpy(r->header.store_uuid, r->id.uuid, sizeof(r->header.store_uuid));
    if (rc == 0 && snprintf(r->path, sizeof(r->path), "%s/log/%08" PRIu32 ".seg", r->to,
                            r->number) >= (int)sizeof(r->path))
        rc = -ENAMETOOLONG;
    if (rc == 0) {
        r->fd = io_open(r->path, O_RDWR | O_CREAT | O_EXCL, 0640);
        rc = r->fd < 0 ? r->fd : 0;
    }
    r->end = SEGMENT_HEADER_FIXED + r->header.vectors.len;
    return rc;
}

/* The first record of a segment of the old directory: the new one has it alone. */
static int begin_segment(struct repair *r, const struct walk_record *rec)
{
    const struct walk_segment *s = rec->segment;
    uint64_t first_seq = s->has_header && s->first_seq > r->last_seq ? s->first_seq : rec->r.seq;
    const struct walk_state *state = &r->w->state;
    int rc = close_segment(r, first_seq - 1);

    r->source = s;
    r->header = s->header;
    if (!s->has_header) {
        r->header.history = identity_history(&r->w->id);
        r->header.created_ms = (int64_t)(rec->r.logged.version >> 16);
        r->header.clock = state->clock;
        r->header.flush = state->flush;
        r->header.flush_pending = state->pending;
        r->header.flush_pending_ms = state->pending_ms;
    }
    r->header.first_seq = first_seq;
    r->header.compacted = true;
    if (!s->header.compacted)
        r->header.clean_seq = 0;
    return rc == 0 ? open_segment(r) : rc;
}

/* ---- big values ---- */

static int copy_bytes(int from, int to)
{
    char *piece = malloc(OUT_BYTES);
    off_t at = 0;
    ssize_t got = piece == NULL ? -ENOMEM : 1;
    int rc = 0;

    while (rc == 0 && got > 0) {
        got = io_read_upto(from, piece, OUT_BYTES, at);
        if (got > 0)
            rc = io_write_full(to, piece, (size_t)got, at);
        at += got > 0 ? got : 0;
    }
    free(piece);
    return rc == 0 && got < 0 ? (int)got : rc;
}

/* Files of big values never change: the new directory shares them, where it can. A superseded
 * record's file may be gone, and nobody will ask for it. */
static int take_big(struct repair *r, const struct record *rec)
{
    char *from = walk_big_path(r->w, rec->big_file);
    char to[PATH_MAX];
    int source = -1;
    int target = -1;
    int rc = from == NULL ? -ENOMEM : 0;

    if (rc == 0 && snprintf(to, sizeof(to), "%s/big/%016" PRIx64 ".val", r->to, rec->big_file) >=
                       (int)sizeof(to))
        rc = -ENAMETOOLONG;
    if (rc == 0)
        rc = io_link(from, to);
    if (rc == -EXDEV || rc == -EPERM || rc == -EMLINK || rc == -EOPNOTSUPP) {
        source = io_open(from, O_RDONLY, 0);
        target = source < 0 ? source : io_open(to, O_WRONLY | O_CREAT | O_EXCL, 0640);
        rc = target < 0 ? target : copy_bytes(source, target);
        if (rc == 0)
            rc = io_fsync(target);
    }
    if (source >= 0)
        close(source);
    if (target >= 0)
        close(target);
    free(from);
    return rc == -ENOENT || rc == -EEXIST ? 0 : rc;
}

/* ---- the copy ---- */

static int take_record(struct repair *r, const struct walk_record *rec)
{
    int rc = 0;

    if (is_lost(r, &rec->r)) {
        r->dropped_states++;
        return 0;
    }
    if (r->source != rec->segment)
        rc = begin_segment(r, rec);
    if (rc == 0 && rec->r.big_bytes > 0)
        rc = take_big(r, &rec->r);
    if (rc == 0)
        rc = add_bytes(r, rec->bytes);
    r->last_seq = rec->r.seq;
    r->kept++;
    return rc;
}

/* A new, empty segment at the end: the server goes on there, in the new history. */
static int begin_tail(struct repair *r)
{
    const struct walk_state *state = &r->w->state;
    uint64_t next_seq = state->seq + 1;
    int rc = close_segment(r, state->seq);

    if (rc == 0)
        rc = identity_renew(&r->id, next_seq);
    r->id.held_from = next_seq;
    r->header = (struct segment_header){
        .history = identity_history(&r->id),
        .first_seq = next_seq,
        .created_ms = r->now_ms,
        .clock = state->clock,
        .flush = state->flush,
        .flush_pending = state->pending,
        .flush_pending_ms = state->pending_ms,
    };
    if (rc == 0)
        rc = open_segment(r);
    return rc == 0 ? close_segment(r, 0) : rc;
}

static int sync_directories(const struct repair *r)
{
    static const char *const names[] = {"log", "big", "."};
    char path[PATH_MAX];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        rc = join(path, r->to, names[i]);
        if (rc == 0)
            rc = io_sync_dir(path);
    }
    return rc;
}

/* What STORE said, or what the log knows of it. */
static void take_identity(struct repair *r)
{
    const struct walk_state *state = &r->w->state;

    r->id = r->w->id;
    if (!r->w->has_identity)
        r->id.node = state->logged.node;
    for (unsigned i = 0; i < state->vectors.count; i++)
        if (state->vectors.held[i].node == r->id.node && state->vectors.held[i].epoch > r->id.epoch)
            r->id.epoch = state->vectors.held[i].epoch;
    r->id.sync = STORE_SYNC_ALWAYS; /* all of it is on the disk */
    r->id.sync_failed = false;
}

static int write_directory(struct repair *r)
{
    struct walk_record rec;
    int rc = make_directory(r);

    if (rc != 0)
        return rc;
    r->writing = true;
    walk_rewind(r->w);
    while (rc == 0 && (rc = walk_next(r->w, &rec)) == 1)
        rc = take_record(r, &rec);
    if (rc == 0)
        rc = begin_tail(r);
    if (rc == 0)
        rc = sync_directories(r);
    r->id.last_segment = r->number;
    if (rc == 0)
        rc = identity_write(r->to, &r->id);
    return rc == 0 ? 0 : fail(rc, "write the new directory");
}

/* ---- the command ---- */

static void say_done(const struct repair *r)
{
    printf("kept: %" PRIu64 " records\n", r->kept);
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
    for (size_t i = 0; i < r->w->count; i++)
        if (r->w->segments[i].number > r->number)
            r->number = r->w->segments[i].number;
    if (r->damaged == 0)
        printf("nothing is damaged, nothing was made%s\n",
               r->unfinished > 0 ? ": a start cuts off the unfinished writes" : "");
    if (r->damaged == 0 || r->to == NULL)
        return 0;
    take_identity(r);
    rc = write_directory(r);
    if (rc == 0)
        say_done(r);
    return rc;
}

/* to NULL: only looks. quiet: what is damaged has been told. Returns the exit status. */
static int repair_directory(const char *dir, const char *to, bool quiet, bool *damaged)
{
    struct repair r = {.to = to, .fd = -1, .quiet = quiet, .now_ms = clock_wall_ms()};
    struct walk_options options = {.lock = WALK_ALONE, .found = on_finding, .arg = &r};
    char why[WALK_WHY_MAX];
    int rc = walk_open(dir, &options, &r.w, why);

    if (rc != 0)
        return command_fail("%s", why);
    r.lost = delta_new(0);
    rc = repair_opened(&r);
    *damaged = r.damaged > 0;
    if (r.fd >= 0)
        close(r.fd);
    delta_free(r.lost);
    buf_free(&r.vectors);
    buf_free(&r.out);
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
