/*
 * ttctl_newdir.c - a new data directory out of the records of another: see ttctl_newdir.h.
 *
 * Used by:  repair, restore.
 * Threads:  one.
 *
 * Each segment becomes one of the compacted kind, in which numbers may be missing and which says
 * itself where it ends; records are copied byte by byte. STORE comes last, so that a copy that was
 * broken off is no store.
 */
#include "tools/ttctl_newdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "tools/ttctl_commands.h"

/* Bytes that are written at once. */
#define OUT_BYTES (1024u * 1024)

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
static int make_directory(struct newdir *n)
{
    static const char *const names[] = {"log", "big", "tmp"};
    char path[PATH_MAX];
    int fd;
    int rc = mkdir(n->to, 0750) == 0 ? 0 : -errno;

    if (rc == -EEXIST && is_empty_dir(n->to))
        rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        rc = join(path, n->to, names[i]);
        if (rc == 0)
            rc = io_make_dir(path, 0750);
    }
    if (rc == 0)
        rc = join(path, n->to, "lock");
    if (rc == 0) {
        fd = io_open(path, O_RDWR | O_CREAT, 0640);
        rc = fd < 0 ? fd : 0;
    }
    if (rc != 0) {
        command_fail("cannot make the directory %s: %s", n->to,
                     rc == -EEXIST ? "it is there, and not empty" : strerror(-rc));
        return rc;
    }
    identity_of_place(fd, &n->id);
    close(fd);
    return 0;
}

/* ---- segments ---- */

/* Writes what was gathered. */
static int flush_out(struct newdir *n)
{
    int rc = n->out.len == 0
                 ? 0
                 : io_write_full(n->fd, n->out.data, n->out.len, (off_t)(n->end - n->out.len));

    n->out.len = 0;
    return rc;
}

static int add_bytes(struct newdir *n, struct slice bytes)
{
    int rc = buf_add_slice(&n->out, bytes);

    n->end += bytes.len;
    return rc == 0 && n->out.len >= OUT_BYTES ? flush_out(n) : rc;
}

/* The header, now that all of it is known, and the file to the disk. */
static int close_segment(struct newdir *n, uint64_t last_seq)
{
    unsigned char *bytes = NULL;
    size_t len;
    int rc;

    if (n->fd < 0)
        return 0;
    rc = flush_out(n);
    if (n->header.compacted) {
        n->header.last_seq = last_seq;
        n->header.end = n->end;
    }
    bytes = malloc(SEGMENT_HEADER_FIXED + n->header.vectors.len);
    if (rc == 0 && bytes == NULL)
        rc = -ENOMEM;
    if (rc == 0) {
        len = segment_header_encode(&n->header, bytes);
        rc = io_write_full(n->fd, bytes, len, 0);
    }
    if (rc == 0)
        rc = io_fsync(n->fd);
    close(n->fd);
    n->fd = -1;
    n->last_seq = last_seq;
    free(bytes);
    return rc;
}

/* The vectors as of here. */
static int encode_vectors(struct newdir *n)
{
    struct vectors *v = malloc(sizeof(*v));
    int rc = v == NULL ? -ENOMEM : 0;

    n->vectors.len = 0;
    if (rc == 0) {
        *v = n->w->state.vectors;
        if (n->clears_held)
            v->count = 0;
        rc = vectors_encode(v, &n->vectors);
    }
    n->header.vectors = buf_slice(&n->vectors);
    free(v);
    return rc;
}

/* Begins the next file; `header` is filled but for what stands before it. */
static int open_segment(struct newdir *n)
{
    int rc = encode_vectors(n);

    n->header.previous_number = n->has_segment ? n->number : 0;
    n->header.previous_end = n->has_segment ? n->end : 0;
    n->has_segment = true;
    n->header.previous_seq = n->header.first_seq - 1;
    n->header.number = ++n->number;
    memcpy(n->header.store_uuid, n->id.uuid, sizeof(n->header.store_uuid));
    if (rc == 0 && snprintf(n->path, sizeof(n->path), "%s/log/%08" PRIu32 ".seg", n->to,
                            n->number) >= (int)sizeof(n->path))
        rc = -ENAMETOOLONG;
    if (rc == 0) {
        n->fd = io_open(n->path, O_RDWR | O_CREAT | O_EXCL, 0640);
        rc = n->fd < 0 ? n->fd : 0;
    }
    n->end = SEGMENT_HEADER_FIXED + n->header.vectors.len;
    return rc;
}

/* The first record of a segment of the old directory: the new one has it alone. */
static int begin_segment(struct newdir *n, const struct walk_record *rec)
{
    const struct walk_segment *s = rec->segment;
    uint64_t first_seq = s->has_header && s->first_seq > n->last_seq ? s->first_seq : rec->r.seq;
    const struct walk_state *state = &n->w->state;
    int rc = close_segment(n, first_seq - 1);

    n->source = s;
    n->header = s->header;
    if (!s->has_header) {
        n->header.history = identity_history(&n->w->id);
        n->header.created_ms = (int64_t)(rec->r.logged.version >> 16);
        n->header.clock = state->clock;
        n->header.flush = state->flush;
        n->header.flush_pending = state->pending;
        n->header.flush_pending_ms = state->pending_ms;
    }
    n->header.first_seq = first_seq;
    n->header.compacted = true;
    if (!s->header.compacted)
        n->header.clean_seq = 0;
    return rc == 0 ? open_segment(n) : rc;
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
static int take_big(struct newdir *n, const struct record *rec)
{
    char *from = walk_big_path(n->w, rec->big_file);
    char to[PATH_MAX];
    int source = -1;
    int target = -1;
    int rc = from == NULL ? -ENOMEM : 0;

    if (rc == 0 && snprintf(to, sizeof(to), "%s/big/%016" PRIx64 ".val", n->to, rec->big_file) >=
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

/* A new, empty segment at the end: the server goes on there, in the new history. */
static int begin_tail(struct newdir *n)
{
    const struct walk_state *state = &n->w->state;
    uint64_t next_seq = state->seq + 1;
    int rc = close_segment(n, state->seq);

    if (rc == 0)
        rc = identity_renew(&n->id, next_seq);
    if (n->clears_held)
        n->id.held_from = next_seq;
    n->header = (struct segment_header){
        .history = identity_history(&n->id),
        .first_seq = next_seq,
        .created_ms = clock_wall_ms(),
        .clock = state->clock,
        .flush = state->flush,
        .flush_pending = state->pending,
        .flush_pending_ms = state->pending_ms,
    };
    if (rc == 0)
        rc = open_segment(n);
    return rc == 0 ? close_segment(n, 0) : rc;
}

static int sync_directories(const struct newdir *n)
{
    static const char *const names[] = {"log", "big", "."};
    char path[PATH_MAX];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        rc = join(path, n->to, names[i]);
        if (rc == 0)
            rc = io_sync_dir(path);
    }
    return rc;
}

/* What STORE said, or what the log knows of it. */
static void take_identity(struct newdir *n)
{
    const struct walk_state *state = &n->w->state;

    n->id = n->w->id;
    if (!n->w->has_identity)
        n->id.node = state->logged.node;
    for (unsigned i = 0; i < state->vectors.count; i++)
        if (state->vectors.held[i].node == n->id.node && state->vectors.held[i].epoch > n->id.epoch)
            n->id.epoch = state->vectors.held[i].epoch;
    n->id.sync = STORE_SYNC_ALWAYS; /* all of it is on the disk */
    n->id.sync_failed = false;
}

/* ---- all of it ---- */

int newdir_begin(struct newdir *n, struct walk *w, const char *to, bool clears_held)
{
    *n = (struct newdir){.w = w, .to = to, .clears_held = clears_held, .fd = -1};
    for (size_t i = 0; i < w->count; i++)
        if (w->segments[i].number > n->number)
            n->number = w->segments[i].number;
    take_identity(n);
    return make_directory(n);
}

int newdir_take(struct newdir *n, const struct walk_record *rec)
{
    int rc = 0;

    if (n->source != rec->segment)
        rc = begin_segment(n, rec);
    if (rc == 0 && rec->r.big_bytes > 0)
        rc = take_big(n, &rec->r);
    if (rc == 0)
        rc = add_bytes(n, rec->bytes);
    n->last_seq = rec->r.seq;
    n->kept++;
    return rc;
}

int newdir_finish(struct newdir *n)
{
    int rc = begin_tail(n);

    if (rc == 0)
        rc = sync_directories(n);
    n->id.last_segment = n->number;
    return rc == 0 ? identity_write(n->to, &n->id) : rc;
}

void newdir_free(struct newdir *n)
{
    if (n->fd >= 0)
        close(n->fd);
    buf_free(&n->vectors);
    buf_free(&n->out);
    n->fd = -1;
}
