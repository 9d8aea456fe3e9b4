/*
 * ttbench_files.c - the values of --fill as files (ttbench_files.h).
 */
#include "tools/ttbench_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"

enum { PIECE_BYTES = 256 * 1024 };

static int value_write(int fd, const struct value *v, char *piece)
{
    uint64_t pos = 0;
    int rc = 0;

    while (rc == 0 && pos < v->len) {
        size_t n = v->len - pos < PIECE_BYTES ? (size_t)(v->len - pos) : PIECE_BYTES;

        value_bytes(v, pos, piece, n);
        rc = io_write_full(fd, piece, n, (off_t)pos);
        pos += n;
    }
    return rc;
}

static int file_write(const struct bench_options *opts, uint64_t key_id, char *piece)
{
    char path[4096];
    char key_bytes[KEY_BYTES_MAX];
    struct slice key = key_text(&opts->keys, key_id, key_bytes);
    uint64_t key_hash = hash_slice(key);
    struct value v;
    int fd, rc;
    int n = snprintf(path, sizeof(path), "%s/%.*s", opts->fill_dir, (int)key.len, key.ptr);

    fd = n < (int)sizeof(path) ? io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -ENAMETOOLONG;
    if (fd < 0) {
        fprintf(stderr, "ttbench: cannot write %s: %s\n", path, strerror(-fd));
        return fd;
    }
    value_make(&v, key_hash, 0, value_sizes_pick(&opts->sizes, key_hash, 0));
    rc = value_write(fd, &v, piece);
    if (close(fd) != 0 && rc == 0)
        rc = -errno;
    if (rc != 0)
        fprintf(stderr, "ttbench: cannot write %s: %s\n", path, strerror(-rc));
    return rc;
}

int files_write(const struct bench_options *opts)
{
    char *piece = malloc(PIECE_BYTES);
    int rc = piece == NULL ? -ENOMEM : 0;

    for (uint64_t id = 0; rc == 0 && id < opts->keys.count; id++)
        rc = file_write(opts, id, piece);
    free(piece);
    return rc;
}
