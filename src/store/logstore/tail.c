/*
 * tail.c - a spot in the log where no good record stands: the end, a torn tail, or damage?
 *
 * Provides: tail_judge(), tail_cut().
 * Used by:  recovery. One thread, before all others.
 *
 * Every record says how many of those before it were not known to be synced when it was written. So
 * a good record behind the bad spot that knows the bad one to be synced proves damage; one that
 * does not was written in the same unsynced stretch, of which a power cut may keep any part: a torn
 * tail, never acknowledged by the policy in force.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "store/logstore/recover.h"

static int load(struct segment *s, uint64_t offset, char **data, size_t *len)
{
    struct segment_file *f = NULL;
    off_t size = 0;
    int rc = segment_open(s, &f);

    *data = NULL;
    *len = 0;
    if (rc == 0)
        rc = io_file_size(f->fd, &size);
    if (rc == 0 && (uint64_t)size > offset) {
        *len = (size_t)((uint64_t)size - offset);
        *data = malloc(*len);
        rc = *data == NULL ? -ENOMEM : io_read_full(f->fd, *data, *len, (off_t)offset);
    }
    if (rc != 0)
        log_error("cannot read %s: %s", s->path, strerror(-rc));
    if (f != NULL)
        segment_file_unref(f);
    return rc;
}

/* Length without the zeros at the end. */
static size_t without_zeros(const char *data, size_t len)
{
    while (len > 0 && data[len - 1] == 0)
        len--;
    return len;
}

/* The next place in `rest` where a good record head stands; *rest then begins behind its first
 * byte. False: none. */
static bool find_record(uint64_t salt, struct slice *rest, struct record *r)
{
    static const char magic[4] = {'T', 'T', 'R', '1'};
    struct record_layout layout;

    while (rest->len >= sizeof(magic)) {
        const char *at = memmem(rest->ptr, rest->len, magic, sizeof(magic));
        struct slice from;

        if (at == NULL)
            return false;
        from = slice_after(*rest, (size_t)(at - rest->ptr));
        *rest = slice_after(from, 1);
        if (record_decode_head(salt, from, r, &layout) == RECORD_DONE)
            return true;
    }
    return false;
}

/* Could this record stand in this log, at most `most` records behind the bad one? A value may hold
 * bytes that look like a record, of another store's log for example. */
static bool is_plausible(const struct recovery *rc, const struct record *r, uint64_t most)
{
    const struct vectors *v = &rc->ls->vectors;
    uint32_t first_epoch = v->count > 0 ? v->held[0].epoch : rc->ls->id.epoch;

    for (unsigned i = 1; i < v->count; i++)
        if (v->held[i].epoch < first_epoch)
            first_epoch = v->held[i].epoch;
    return r->seq > rc->seq + 1 && r->seq - rc->seq - 1 <= most && r->logged.epoch >= first_epoch &&
           r->logged.epoch <= rc->ls->id.epoch;
}

/* Looks for a good record that was written knowing that the bad one was on the disk. */
static bool proves_synced(const struct recovery *rc, const char *data, size_t len, uint64_t most)
{
    struct slice rest = slice_of(data, len);
    struct record r;

    while (find_record(rc->ls->salt, &rest, &r))
        if (is_plausible(rc, &r, most) && r.unsynced < r.seq && r.seq - 1 - r.unsynced > rc->seq)
            return true;
    return false;
}

int tail_holds_records(const struct recovery *rc, struct segment *s)
{
    struct slice rest;
    struct record r;
    char *data;
    size_t len;
    int result = load(s, 0, &data, &len);

    rest = slice_of(data, len);
    if (result == 0)
        result = find_record(rc->ls->salt, &rest, &r);
    free(data);
    return result;
}

static int report_damage(struct recovery *rc, size_t i, uint64_t offset)
{
    char *key = NULL;
    struct record r;
    struct record_layout layout;
    char head[RECORD_HEAD_FIXED + 256];
    ssize_t got = segment_read(rc->segments[i], head, sizeof(head), offset);

    if (got > 0 &&
        record_decode_head(rc->ls->salt, slice_of(head, (size_t)got), &r, &layout) == RECORD_DONE &&
        layout.head_len + layout.key_len <= (size_t)got &&
        asprintf(&key, " (key %.*s)", (int)layout.key_len, head + layout.head_len) == -1)
        key = NULL;
    log_error("damage in %s at offset %" PRIu64 ", record %" PRIu64
              "%s: it was synced and cannot be read; not starting. Put back the file from a "
              "backup or a peer's copy, or repair the store offline",
              rc->segments[i]->path, offset, rc->seq + 1, key == NULL ? "" : key);
    free(key);
    return -EUCLEAN;
}

int tail_judge(struct recovery *rc, size_t i, uint64_t offset)
{
    uint64_t bytes =
        0; /* from the bad spot on: no more records can stand there than heads fit in */
    bool torn = false;
    int result = 0;

    /* A closed segment was synced before the next one began, a compacted one before it had a name,
     * and what stands before it then, too. */
    if (i + 1 < rc->count && rc->ls->id.sync == STORE_SYNC_ALWAYS)
        return report_damage(rc, i, offset);
    for (size_t n = i; n < rc->count; n++)
        if (rc->segments[n]->compacted)
            return report_damage(rc, i, offset);
    for (size_t n = i; result == 0 && n < rc->count; n++) {
        char *data;
        size_t len;

        result =
            load(rc->segments[n], n == i ? offset : rc->segments[n]->header_bytes, &data, &len);
        len = result == 0 ? without_zeros(data, len) : 0;
        bytes += len;
        torn = torn || len > 0 || n > i;
        if (result == 0 && len > 0 && proves_synced(rc, data, len, bytes / RECORD_HEAD_FIXED))
            result = report_damage(rc, i, offset);
        free(data);
    }
    return result != 0 ? result : torn;
}

/* Copies [offset, end) of a segment to tmp/. *saved: the path, NULL if that failed. */
static uint64_t save(struct recovery *rc, struct segment *s, uint64_t offset, char **saved)
{
    char *data = NULL;
    char *path = NULL;
    size_t len = 0;
    int fd = -1;
    int result = load(s, offset, &data, &len);

    len = result == 0 ? without_zeros(data, len) : 0;
    if (result == 0 &&
        asprintf(&path, "%s/tmp/cut-%08u-%" PRIu64 ".bin", rc->ls->dir, s->number, offset) == -1) {
        path = NULL;
        result = -ENOMEM;
    }
    if (result == 0) {
        fd = io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
        result = fd < 0 ? fd : io_write_full(fd, data, len, 0);
    }
    if (fd >= 0)
        close(fd);
    free(data);
    if (result != 0) {
        free(path);
        path = NULL;
    }
    *saved = path;
    return len;
}

static void say_cut(struct segment *s, uint64_t offset, uint64_t bytes, char *saved)
{
    log_warn("cut a torn tail off %s at offset %" PRIu64 ": %" PRIu64
             " bytes of unfinished writes, saved in %s",
             s->path, offset, bytes, saved == NULL ? "no place (saving failed)" : saved);
    free(saved);
}

static int cut_file(struct segment *s, uint64_t offset)
{
    struct segment_file *f;
    int result = segment_open(s, &f);

    if (result != 0)
        return result;
    result = io_truncate(f->fd, (off_t)offset);
    segment_file_unref(f);
    return result;
}

int tail_cut(struct recovery *rc, size_t i, uint64_t offset)
{
    struct segment *s = rc->segments[i];
    char *dir = directory_path(rc->ls, "log");
    char *saved;
    uint64_t bytes;
    int result = dir == NULL ? -ENOMEM : 0;

    /* STORE first: a start in between must not miss what is about to go. */
    if (result == 0 && rc->count > i + 1) {
        rc->on_disk.last_segment = rc->ls->id.last_segment = s->number;
        result = identity_write(rc->ls->dir, &rc->on_disk);
    }
    while (result == 0 && rc->count > i + 1) {
        struct segment *later = rc->segments[rc->count - 1];

        bytes = save(rc, later, 0, &saved);
        result = io_unlink(later->path);
        say_cut(later, 0, bytes, saved);
        segment_unref(later);
        rc->links[--rc->count] = (struct link){.state = LINK_GONE};
    }
    if (result == 0) {
        bytes = save(rc, s, offset, &saved);
        result = cut_file(s, offset);
        say_cut(s, offset, bytes, saved);
    }
    if (result == 0)
        result = recover_sync(s, io_fsync);
    if (result == 0)
        result = io_sync_dir(dir);
    if (result != 0)
        log_error("cannot cut the torn tail off %s: %s", s->path, strerror(-result));
    rc->cut = true;
    free(dir);
    return result;
}
