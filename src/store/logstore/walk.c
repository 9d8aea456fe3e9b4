/*
 * walk.c - opening a data directory to be read: lock, STORE, headers, order, chain. See walk.h.
 *
 * Used by:  ttctl.
 * Threads:  one.
 *
 * The order of the log is that of the first seqs. A compacted segment stands for a range of them:
 * what has a lower number and begins in its range is superseded, and is there only because a crash
 * came before it was removed.
 */
#include "store/logstore/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/io.h"
#include "base/num.h"
#include "store/logstore/walk_internal.h"

/* Beside a running server segments go while they are listed. */
#define OPEN_TRIES 20

void walk_tell(const struct walk *w, const struct walk_finding *f)
{
    if (w->options.found != NULL)
        w->options.found(f, w->options.arg);
}

static void damage(const struct walk *w, const struct walk_segment *s, const char *reason)
{
    walk_tell(w, &(struct walk_finding){.kind = WALK_DAMAGE, .path = s->path, .reason = reason});
}

/* ---- the lock ---- */

static int set_why(char *why, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int set_why(char *why, int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, WALK_WHY_MAX, format, args);
    va_end(args);
    return error;
}

/* A directory without a file `lock` (a copy of the log alone) has nobody to keep out. */
static int take_lock(struct walk *w, char *why)
{
    char path[PATH_MAX];
    char pid[NUM_TEXT_MAX + 1];
    ssize_t len;

    if (w->options.lock == WALK_UNLOCKED)
        return 0;
    if (snprintf(path, sizeof(path), "%s/lock", w->dir) >= (int)sizeof(path))
        return set_why(why, -ENAMETOOLONG, "the path %s is too long", w->dir);
    w->lock_fd = io_open(path, O_RDONLY, 0);
    if (w->lock_fd == -ENOENT)
        return 0;
    if (w->lock_fd < 0)
        return set_why(why, w->lock_fd, "cannot open %s: %s", path, strerror(-w->lock_fd));
    if (flock(w->lock_fd, (w->options.lock == WALK_ALONE ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return set_why(why, -errno, "cannot lock %s: %s", path, strerror(errno));
    len = io_read_upto(w->lock_fd, pid, NUM_TEXT_MAX, 0);
    pid[len > 0 ? len : 0] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    return set_why(why, -EWOULDBLOCK,
                   "the store in %s is in use (by process %s, it says): stop the server first",
                   w->dir, pid[0] != '\0' ? pid : "?");
}

bool walk_is_in_use(const struct walk *w)
{
    char path[PATH_MAX];
    bool in_use;
    int fd;

    if (w->options.lock != WALK_UNLOCKED ||
        snprintf(path, sizeof(path), "%s/lock", w->dir) >= (int)sizeof(path))
        return false;
    fd = io_open(path, O_RDONLY, 0);
    if (fd < 0)
        return false;
    in_use = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return in_use;
}

/* ---- the files ---- */

/* "00000012.seg" */
static bool segment_name(const char *name, uint32_t *number)
{
    size_t len = strlen(name);

    return len > 4 && strcmp(name + len - 4, ".seg") == 0 &&
           parse_u32(slice_of(name, len - 4), number) && *number > 0;
}

static int add_segment(struct walk *w, const char *log_dir, const char *name, uint32_t number)
{
    struct walk_segment *grown = reallocarray(w->segments, w->count + 1, sizeof(*grown));

    if (grown == NULL)
        return -ENOMEM;
    w->segments = grown;
    w->segments[w->count] = (struct walk_segment){.number = number};
    if (asprintf(&w->segments[w->count].path, "%s/%s", log_dir, name) == -1)
        return -ENOMEM;
    w->count++;
    return 0;
}

static void tell_foreign(const struct walk *w, const char *dir, const char *name)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path))
        walk_tell(w, &(struct walk_finding){
                         .kind = WALK_DAMAGE, .path = path, .reason = "is no file of the store"});
}

static int list_segments(struct walk *w, char *why)
{
    char path[PATH_MAX];
    struct dirent *entry;
    uint32_t number;
    int rc = 0;
    DIR *d;

    if (snprintf(path, sizeof(path), "%s/log", w->dir) >= (int)sizeof(path))
        return set_why(why, -ENAMETOOLONG, "the path %s is too long", w->dir);
    d = opendir(path);
    if (d == NULL)
        return set_why(why, -errno,
                       errno == ENOENT ? "%s is no data directory: there is no %s/log"
                                       : "cannot open %s (%s)",
                       w->dir, errno == ENOENT ? w->dir : strerror(errno));
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        if (segment_name(entry->d_name, &number))
            rc = add_segment(w, path, entry->d_name, number);
        else
            tell_foreign(w, path, entry->d_name);
    }
    closedir(d);
    return rc == 0 ? 0 : set_why(why, rc, "%s", strerror(-rc));
}

/* ---- headers ---- */

/* 0: looked at; -errno. */
static int read_header(struct walk_segment *s, char *room)
{
    int fd = io_open(s->path, O_RDONLY, 0);
    off_t size = 0;
    size_t length;
    ssize_t got;
    int rc = fd < 0 ? fd : io_file_size(fd, &size);

    if (rc == 0) {
        s->end = s->file_bytes = (uint64_t)size;
        got = io_read_upto(fd, room, SEGMENT_HEADER_MAX, 0);
        if (got >= 0 && segment_header_decode(slice_of(room, (size_t)got), &s->header, &length) ==
                            RECORD_DONE) {
            s->has_header = true;
            s->records_from = length;
            s->first_seq = s->header.first_seq;
            rc = buf_add_slice(&s->vectors, s->header.vectors);
            s->header.vectors = buf_slice(&s->vectors);
        } else {
            memset(&s->header, 0, sizeof(s->header));
        }
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int compare_downwards(const void *a, const void *b)
{
    const struct walk_segment *x = a;
    const struct walk_segment *y = b;

    return x->number > y->number ? -1 : x->number < y->number;
}

/* The newest first: beside a running server, what a header says of the segment before it is then
 * never newer than what is seen of that one. -EAGAIN: a compaction was quicker. */
static int read_headers(struct walk *w, char *why)
{
    char *room = malloc(SEGMENT_HEADER_MAX);
    int rc = room == NULL ? -ENOMEM : 0;

    if (w->count > 0)
        qsort(w->segments, w->count, sizeof(w->segments[0]), compare_downwards);
    for (size_t i = 0; rc == 0 && i < w->count; i++) {
        rc = read_header(&w->segments[i], room);
        if (rc != 0)
            set_why(why, rc, "cannot read %s: %s", w->segments[i].path, strerror(-rc));
        if (rc == -ENOENT && w->options.lock == WALK_UNLOCKED)
            rc = -EAGAIN;
    }
    free(room);
    return rc;
}

/* ---- who this store is ---- */

/* Where STORE cannot be read, the segments know the uuid; the rest begins anew. */
static int guess_identity(struct walk *w)
{
    const struct walk_segment *newest = NULL;

    for (size_t i = 0; i < w->count; i++)
        if (w->segments[i].has_header &&
            (newest == NULL || w->segments[i].first_seq > newest->first_seq))
            newest = &w->segments[i];
    memset(&w->id, 0, sizeof(w->id));
    if (newest == NULL)
        return -EUCLEAN;
    memcpy(w->id.uuid, newest->header.store_uuid, sizeof(w->id.uuid));
    w->id.histories[0] = (struct history){newest->header.history, 1};
    w->id.history_count = 1;
    return 0;
}

static int read_identity(struct walk *w, char *why)
{
    char path[PATH_MAX];
    int rc = identity_read(w->dir, &w->id);

    w->has_identity = rc == 0;
    if (rc == -EACCES || rc == -EPERM)
        return set_why(why, rc, "cannot read %s/STORE: %s", w->dir, strerror(-rc));
    if (rc == -ENOENT && w->count == 0)
        return set_why(why, rc, "%s is no data directory: it has no file STORE", w->dir);
    if (rc != 0) {
        if (guess_identity(w) != 0)
            return set_why(why, -EUCLEAN, "neither %s/STORE nor any segment can be read", w->dir);
        snprintf(path, sizeof(path), "%s/STORE", w->dir);
        walk_tell(w, &(struct walk_finding){.kind = WALK_DAMAGE,
                                            .path = path,
                                            .reason = rc == -ENOENT ? "is missing" : "is damaged"});
    }
    w->salt = identity_salt(&w->id);
    return 0;
}

/* ---- the order ---- */

/* What a name and a header say must agree. */
static void check_headers(struct walk *w)
{
    for (size_t i = 0; i < w->count; i++) {
        struct walk_segment *s = &w->segments[i];

        if (!s->has_header || s->ignored)
            continue;
        if (memcmp(s->header.store_uuid, w->id.uuid, sizeof(w->id.uuid)) != 0) {
            damage(w, s, "belongs to another store");
            s->ignored = true;
        } else if (s->header.number != s->number || s->header.big_value) {
            damage(w, s, "has another file's header");
            s->ignored = true;
        }
    }
}

/* Finds the place of a segment whose header cannot be read by its first good record. */
static int place_headless(struct walk *w, struct walk_segment *s, uint32_t highest)
{
    struct walk_finding f = {.kind = WALK_DAMAGE, .path = s->path, .reason = "has no good header"};
    struct record r;
    uint64_t at = 0;
    int found = walk_search(w, s, 0, s->file_bytes, 1, UINT64_MAX, &at, &r);

    if (found < 0)
        return found;
    if (found == 1) {
        s->records_from = at;
        s->first_seq = r.seq;
        f.bytes = at;
    } else {
        s->ignored = true;
        f.bytes = s->file_bytes;
        if (w->has_identity && s->number > w->id.last_segment && s->number == highest) {
            f.kind = WALK_NOTE;
            f.reason = "was never begun: the next start puts it aside";
        }
    }
    walk_tell(w, &f);
    return 0;
}

static int place_all_headless(struct walk *w)
{
    uint32_t highest = 0;
    int rc = 0;

    for (size_t i = 0; i < w->count; i++)
        if (w->segments[i].number > highest)
            highest = w->segments[i].number;
    for (size_t i = 0; rc == 0 && i < w->count; i++)
        if (!w->segments[i].has_header && !w->segments[i].ignored)
            rc = place_headless(w, &w->segments[i], highest);
    return rc;
}

/* The ignored ones first, then by seq; what is superseded before what stands for it. */
static int compare_places(const void *a, const void *b)
{
    const struct walk_segment *x = a;
    const struct walk_segment *y = b;

    if (x->ignored != y->ignored)
        return x->ignored ? -1 : 1;
    if (x->first_seq != y->first_seq)
        return x->first_seq < y->first_seq ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static const struct walk_segment *segments_by_number; /* of compare_numbers() */

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = segments_by_number[*(const uint32_t *)a].number;
    uint32_t y = segments_by_number[*(const uint32_t *)b].number;

    return x < y ? -1 : x > y;
}

static int sort_segments(struct walk *w)
{
    if (w->count == 0)
        return 0;
    qsort(w->segments, w->count, sizeof(w->segments[0]), compare_places);
    /* The buffers did not move, but who sorts structs should not have to know that. */
    for (size_t i = 0; i < w->count; i++)
        w->segments[i].header.vectors = buf_slice(&w->segments[i].vectors);
    w->by_number = calloc(w->count, sizeof(w->by_number[0]));
    if (w->by_number == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < w->count; i++)
        w->by_number[i] = (uint32_t)i;
    segments_by_number = w->segments;
    qsort(w->by_number, w->count, sizeof(w->by_number[0]), compare_numbers);
    return 0;
}

const struct walk_segment *walk_find(const struct walk *w, uint32_t number)
{
    size_t low = 0;
    size_t high = w->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct walk_segment *s = &w->segments[w->by_number[middle]];

        if (s->number == number)
            return s;
        if (s->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Compacted segments are few beside each other; a log of thousands of segments is some millions of
 * comparisons. */
static void mark_superseded(struct walk *w)
{
    for (size_t i = 0; i < w->count; i++) {
        const struct walk_segment *c = &w->segments[i];

        if (c->ignored || !c->has_header || !c->header.compacted)
            continue;
        for (size_t k = 0; k < w->count; k++) {
            struct walk_segment *s = &w->segments[k];

            if (!s->ignored && s->number < c->number && s->first_seq >= c->first_seq &&
                s->first_seq <= c->header.last_seq)
                s->superseded = true;
        }
    }
}

/* ---- the chain ---- */

static void tell_gap(struct walk *w, struct walk_segment *s, uint64_t from, const char *reason)
{
    s->gap_before = true;
    walk_tell(w, &(struct walk_finding){
                     .kind = WALK_DAMAGE,
                     .path = s->path,
                     .reason = reason,
                     .first_seq = s->first_seq > from ? from : 0,
                     .last_seq = s->first_seq > from ? s->first_seq - 1 : 0,
                 });
}

/* What the header of `s` says of the segment before it, `before` (NULL: there is none). */
static void check_link(struct walk *w, struct walk_segment *before, struct walk_segment *s)
{
    const struct segment_header *h = &s->header;

    if (!s->has_header)
        return;
    if (before == NULL) {
        if (h->previous_number != 0)
            tell_gap(w, s, 1, "is the first one, but one stood before it: a file is missing");
        return;
    }
    if (before->has_header && before->header.compacted) {
        if (before->last_seq != h->previous_seq)
            tell_gap(w, s, before->last_seq + 1,
                     "does not follow the segment before it: a file is missing");
        return;
    }
    if (h->previous_number != before->number) {
        if (before->has_header)
            tell_gap(w, s, 0, "does not follow the segment before it: a file is missing");
        return;
    }
    before->last_seq = h->previous_seq;
    before->has_end = true;
    before->end = h->previous_end;
    if (before->end > before->file_bytes && walk_syncs_at_once(w)) {
        walk_tell(w, &(struct walk_finding){
                         .kind = WALK_DAMAGE,
                         .path = before->path,
                         .offset = before->file_bytes,
                         .bytes = before->end - before->file_bytes,
                         .reason = "is shorter than its records",
                     });
    }
    /* Else a power cut may have shortened it: the walk sees what that means. */
    if (before->end > before->file_bytes)
        before->end = before->file_bytes;
}

static void take_compacted_end(struct walk *w, struct walk_segment *s)
{
    s->last_seq = s->header.last_seq;
    s->has_end = true;
    s->end = s->header.end;
    if (s->end <= s->file_bytes && s->end >= s->records_from)
        return;
    damage(w, s,
           s->end > s->file_bytes ? "is shorter than its records"
                                  : "has an end before its first record");
    s->end = s->file_bytes;
}

static void check_chain(struct walk *w)
{
    struct walk_segment *before = NULL;
    const struct walk_segment *newest;

    for (size_t i = 0; i < w->count; i++)
        if (!w->segments[i].ignored && w->segments[i].has_header && w->segments[i].header.compacted)
            take_compacted_end(w, &w->segments[i]);
    for (size_t i = 0; i < w->count; i++) {
        struct walk_segment *s = &w->segments[i];

        if (s->ignored || s->superseded)
            continue;
        check_link(w, before, s);
        before = s;
    }
    /* A superseded segment's end is known by the one behind it, superseded or not. */
    for (size_t i = 0; i + 1 < w->count; i++) {
        struct walk_segment *s = &w->segments[i];

        for (size_t k = i + 1; s->superseded && !s->has_end && k < w->count; k++)
            if (w->segments[k].has_header && w->segments[k].header.previous_number == s->number &&
                w->segments[k].header.previous_end <= s->file_bytes) {
                s->has_end = true;
                s->end = w->segments[k].header.previous_end;
                s->last_seq = w->segments[k].header.previous_seq;
            }
    }
    /* It counts also when its header cannot be read: that was told already. */
    newest = walk_find(w, w->id.last_segment);
    if (w->has_identity && w->id.last_segment > 0 && w->options.lock != WALK_UNLOCKED &&
        (newest == NULL || (newest->has_header && newest->header.compacted)))
        walk_tell(w, &(struct walk_finding){
                         .kind = WALK_DAMAGE,
                         .path = w->dir,
                         .reason = "the newest segment that STORE knows is missing",
                     });
}

/* ---- opening ---- */

static int open_steps(struct walk *w, char *why)
{
    int rc = list_segments(w, why);

    if (rc == 0)
        rc = take_lock(w, why);
    if (rc == 0)
        rc = read_headers(w, why);
    if (rc == 0)
        rc = read_identity(w, why);
    if (rc != 0)
        return rc;
    check_headers(w);
    rc = place_all_headless(w);
    if (rc == 0)
        rc = sort_segments(w);
    if (rc != 0)
        return set_why(why, rc, "cannot read the segments of %s: %s", w->dir, strerror(-rc));
    mark_superseded(w);
    check_chain(w);
    for (size_t i = 0; i < w->count; i++)
        if (walk_wants(w, &w->segments[i]))
            w->total_bytes += w->segments[i].end;
    return 0;
}

static int open_once(const char *dir, const struct walk_options *options, struct walk **out,
                     char *why)
{
    struct walk *w = calloc(1, sizeof(*w));
    int rc;

    if (w == NULL)
        return set_why(why, -ENOMEM, "out of memory");
    w->options = *options;
    w->lock_fd = w->fd = -1;
    w->dir = strdup(dir);
    rc = w->dir == NULL ? set_why(why, -ENOMEM, "out of memory") : open_steps(w, why);
    if (rc != 0) {
        walk_close(w);
        return rc;
    }
    walk_rewind(w);
    *out = w;
    return 0;
}

int walk_open(const char *dir, const struct walk_options *options, struct walk **out,
              char why[WALK_WHY_MAX])
{
    int rc = -EAGAIN;

    for (unsigned i = 0; rc == -EAGAIN && i < OPEN_TRIES; i++)
        rc = open_once(dir, options, out, why);
    return rc;
}

void walk_close(struct walk *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < w->count; i++) {
        free(w->segments[i].path);
        buf_free(&w->segments[i].vectors);
    }
    free(w->segments);
    free(w->by_number);
    if (w->fd >= 0)
        close(w->fd);
    if (w->lock_fd >= 0)
        close(w->lock_fd);
    buf_free(&w->window);
    free(w->dir);
    free(w);
}
