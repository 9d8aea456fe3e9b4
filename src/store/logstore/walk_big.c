/*
 * walk_big.c - files of big values, read and checked. See walk.h.
 *
 * Used by:  ttctl.
 * Threads:  one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/num.h"
#include "store/logstore/walk.h"

#define PIECE_BYTES (1024u * 1024)
#define FRONT_BYTES (SEGMENT_HEADER_FIXED + RECORD_HEAD_MAX)

char *walk_big_path(const struct walk *w, uint64_t number)
{
    char *path;

    return asprintf(&path, "%s/big/%016" PRIx64 ".val", w->dir, number) == -1 ? NULL : path;
}

/* The header and the record's head against what the log says. *body: where key, attributes and
 * value stand. 0, -EUCLEAN, -errno. */
static int check_front(const struct walk *w, int fd, const struct record *r, uint64_t *body,
                       uint64_t *value, const char **reason)
{
    char *front = malloc(FRONT_BYTES);
    struct segment_header h;
    struct record inner;
    struct record_layout layout;
    size_t start;
    ssize_t got = front == NULL ? -ENOMEM : io_read_upto(fd, front, FRONT_BYTES, 0);
    int rc = got < 0 ? (int)got : -EUCLEAN;

    if (got < 0) {
        *reason = "cannot be read";
    } else if (segment_header_decode(slice_of(front, (size_t)got), &h, &start) != RECORD_DONE) {
        *reason = "has no good header";
    } else if (memcmp(h.store_uuid, w->id.uuid, sizeof(h.store_uuid)) != 0 || !h.big_value ||
               h.number != r->big_file) {
        *reason = "has another file's header";
    } else if (record_decode_head(w->salt, slice_of(front + start, (size_t)got - start), &inner,
                                  &layout) != RECORD_DONE) {
        *reason = "has no good record head";
    } else if (layout.value_len != r->big_bytes || layout.body_sum != r->big_sum ||
               layout.key_len != r->key.len || layout.attrs_len != r->attrs.len) {
        *reason = "is not the file that its record in the log names";
    } else {
        *body = start + layout.head_len;
        *value = *body + layout.key_len + layout.attrs_len;
        rc = 0;
    }
    free(front);
    return rc;
}

/* Reads the body; each() gets what lies behind `value`. */
static int read_body(int fd, uint64_t body, uint64_t value, const struct record *r,
                     int (*each)(struct slice piece, void *arg), void *arg, const char **reason)
{
    struct hash_stream *sum = hash_stream_new();
    char *piece = malloc(PIECE_BYTES);
    uint64_t at = body;
    uint64_t end = value + r->big_bytes;
    int rc = sum == NULL || piece == NULL ? -ENOMEM : 0;

    while (rc == 0 && at < end) {
        uint64_t stop = at < value ? value : end;
        size_t n = stop - at < PIECE_BYTES ? (size_t)(stop - at) : PIECE_BYTES;

        rc = io_read_full(fd, piece, n, (off_t)at);
        if (rc != 0) {
            *reason = rc == -ENODATA ? "is too short" : "cannot be read";
            break;
        }
        hash_stream_add(sum, piece, n);
        if (at >= value && each != NULL)
            rc = each(slice_of(piece, n), arg);
        at += n;
    }
    if (rc == 0 && hash_stream_sum(sum) != r->big_sum) {
        *reason = "does not match its checksum";
        rc = -EUCLEAN;
    }
    free(piece);
    hash_stream_free(sum);
    return rc == -ENODATA ? -EUCLEAN : rc;
}

int walk_big_read(const struct walk *w, const struct record *r,
                  int (*each)(struct slice piece, void *arg), void *arg, const char **reason)
{
    char *path = walk_big_path(w, r->big_file);
    int fd = path == NULL ? -ENOMEM : io_open(path, O_RDONLY, 0);
    uint64_t body = 0;
    uint64_t value = 0;
    int rc;

    free(path);
    *reason = fd == -ENOENT ? "is missing" : "cannot be opened";
    if (fd < 0)
        return fd;
    rc = check_front(w, fd, r, &body, &value, reason);
    if (rc == 0)
        rc = read_body(fd, body, value, r, each, arg, reason);
    close(fd);
    return rc;
}

int walk_big_files(const struct walk *w, void (*each)(uint64_t number, const char *path, void *arg),
                   void *arg)
{
    char path[PATH_MAX];
    struct dirent *entry;
    uint64_t number;
    DIR *d;

    if (snprintf(path, sizeof(path), "%s/big", w->dir) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    d = opendir(path);
    if (d == NULL)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;

        if (strlen(name) == 20 && strcmp(name + 16, ".val") == 0 &&
            parse_hex_u64(slice_of(name, 16), &number) &&
            snprintf(path, sizeof(path), "%s/big/%s", w->dir, name) < (int)sizeof(path))
            each(number, path, arg);
    }
    closedir(d);
    return 0;
}
