/*
 * big_orphans.c - files of big values at a start: those that a crash has left and no record names.
 *
 * Provides: big_recover() of big.h.
 * Used by:  recovery, before anybody else.
 * Threads:  recovery's.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/num.h"
#include "store/logstore/big_internal.h"

/* Holds a file's bytes up to the end of its key. */
#define FRONT_ROOM (SEGMENT_HEADER_FIXED + RECORD_HEAD_MAX + RECORD_KEY_MAX)

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Calls each(name) for every file of DIR/sub. 0 or -errno. */
static int walk_dir(struct logstore *ls, const char *sub,
                    void (*each)(const char *path, const char *name, void *arg), void *arg)
{
    char *path = directory_path(ls, sub);
    DIR *dir = path == NULL ? NULL : opendir(path);
    struct dirent *entry;
    int rc = path == NULL ? -ENOMEM : dir == NULL ? -errno : 0;

    while (dir != NULL && rc == 0 && (entry = readdir(dir)) != NULL) {
        char *file;

        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&file, "%s/%s", path, entry->d_name) == -1) {
            rc = -ENOMEM;
            break;
        }
        each(file, entry->d_name, arg);
        free(file);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
    return rc;
}

static void remove_spool(const char *path, const char *name, void *arg)
{
    (void)arg;
    if (strncmp(name, "spool-", 6) == 0)
        (void)io_unlink(path);
}

/* ---- files that no record names ---- */

struct orphan_search {
    struct logstore *ls;
    uint64_t first;
    const uint64_t *named; /* ascending */
    size_t count;
    uint64_t highest;
};

/* The key in the front of a file; its bytes lie in `room` (FRONT_ROOM bytes). 0, -EUCLEAN or
 * -errno. */
static int read_key(const struct logstore *ls, const char *path, char *room, struct slice *key)
{
    struct segment_header h;
    struct record_layout layout;
    struct record r;
    size_t start;
    ssize_t len;
    int fd = io_open(path, O_RDONLY, 0);

    if (fd < 0)
        return fd;
    len = io_read_upto(fd, room, FRONT_ROOM, 0);
    close(fd);
    if (len < 0)
        return (int)len;
    if (segment_header_decode(slice_of(room, (size_t)len), &h, &start) != RECORD_DONE ||
        record_decode_head(ls->salt, slice_of(room + start, (size_t)len - start), &r, &layout) !=
            RECORD_DONE ||
        start + layout.head_len + layout.key_len > (size_t)len)
        return -EUCLEAN;
    *key = slice_of(room + start + layout.head_len, layout.key_len);
    return 0;
}

/* Does the present record of the file's key name it? 1, 0 or -errno. */
static int is_in_use(struct logstore *ls, const char *path, uint64_t number)
{
    char *room = malloc(FRONT_ROOM);
    struct slice key;
    struct entry e;
    int rc = room == NULL ? -ENOMEM : read_key(ls, path, room, &key);

    if (rc == 0)
        rc = keyspace_find(ls, ls->writer_reader, hash_slice(key), key, UINT64_MAX, &e);
    free(room);
    if (rc == 0)
        rc = e.big_bytes > 0 && e.big_file == number;
    return rc == -ENOENT ? 0 : rc;
}

/* A file that no replayed record names was left by a crash, or its record lies before the replay's
 * begin: a value with a lower number was still on its way at that checkpoint. The index knows. */
static void check_big(const char *path, const char *name, void *arg)
{
    struct orphan_search *o = arg;
    uint64_t number;
    int used;

    if (strlen(name) != 20 || strcmp(name + 16, ".val") != 0 ||
        !parse_hex_u64(slice_of(name, 16), &number))
        return;
    if (number > o->highest)
        o->highest = number;
    if (number < o->first || (o->count > 0 && bsearch(&number, o->named, o->count, sizeof(number),
                                                      compare_numbers) != NULL))
        return;
    used = is_in_use(o->ls, path, number);
    if (used < 0) {
        log_warn("cannot tell whether %s belongs to a record: %s; it is left alone", path,
                 used == -EUCLEAN ? "it is damaged" : strerror(-used));
    } else if (used == 0) {
        log_info("removing %s: its write was not completed before the last stop", path);
        (void)io_unlink(path);
    }
}

int big_recover(struct logstore *ls, uint64_t first, uint64_t *named, size_t count)
{
    struct orphan_search o = {ls, first, named, count, 0};
    int rc = walk_dir(ls, "tmp", remove_spool, NULL);

    if (count > 0)
        qsort(named, count, sizeof(named[0]), compare_numbers);
    if (rc == 0)
        rc = walk_dir(ls, "big", check_big, &o);
    if (count > 0 && named[count - 1] > o.highest)
        o.highest = named[count - 1];
    ls->big.next_number = o.highest >= first ? o.highest + 1 : first;
    return rc;
}
