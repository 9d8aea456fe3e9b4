/*
 * big_orphans.c - files of big values at a start: those that a crash has left and no record names.
 *
 * Provides: big_recover(), big_next_number() of big.h.
 * Used by:  recovery, before anybody else; checkpoints (big_next_number()).
 * Threads:  recovery's.
 *
 * A record that names a file is in the index or was replayed. A file that neither knows belongs to
 * an upload that never got its record, or was superseded and not removed before the end. An index
 * whose tables disagree must not cost a value: the key in the file is looked up before it goes.
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

struct orphan_search {
    struct logstore *ls;
    const struct big_names *named; /* ascending, each once */
    char *room;                    /* FRONT_ROOM bytes */
    uint64_t highest;
    unsigned orphans;
};

/* ---- the files ---- */

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

/* Key and value's length by the front of a file; the key lies in `room`. 0, -EUCLEAN or -errno. */
static int read_front(struct orphan_search *o, const char *path, struct slice *key,
                      uint64_t *value_bytes)
{
    struct segment_header h;
    struct record_layout layout;
    struct record r;
    size_t start;
    ssize_t len;
    int fd = io_open(path, O_RDONLY, 0);

    if (fd < 0)
        return fd;
    len = big_front_read(o->ls, fd, o->room, FRONT_ROOM, &h, &r, &layout, &start);
    close(fd);
    if (len < 0)
        return (int)len;
    if (start + layout.head_len + layout.key_len > (size_t)len)
        return -EUCLEAN;
    *key = slice_of(o->room + start + layout.head_len, layout.key_len);
    *value_bytes = layout.value_len;
    return 0;
}

/* Does the present record of the file's key name it after all? 1, 0 or -errno. */
static int is_in_use(struct orphan_search *o, const char *path, uint64_t number,
                     uint64_t *value_bytes)
{
    struct slice key;
    struct entry e;
    int rc = read_front(o, path, &key, value_bytes);

    if (rc == 0)
        rc = keyspace_find(o->ls, o->ls->writer_reader, hash_slice(key), key, UINT64_MAX, &e);
    if (rc == 0)
        rc = e.kind != RECORD_DELETE && e.big_bytes > 0 && e.big_file == number;
    return rc == -ENOENT ? 0 : rc;
}

static int compare_names(const void *a, const void *b)
{
    uint64_t x = ((const struct big_name *)a)->number;
    uint64_t y = ((const struct big_name *)b)->number;

    return (x > y) - (x < y);
}

/* NULL: no record names the file. */
static const struct big_name *find_name(const struct orphan_search *o, uint64_t number)
{
    struct big_name wanted = {.number = number};

    if (o->named->count == 0)
        return NULL;
    return bsearch(&wanted, o->named->at, o->named->count, sizeof(wanted), compare_names);
}

static void count_file(struct logstore *ls, uint64_t bytes)
{
    atomic_fetch_add(&ls->big.files, 1);
    atomic_fetch_add(&ls->big.bytes, bytes);
}

static void check_file(const char *path, const char *name, void *arg)
{
    struct orphan_search *o = arg;
    struct logstore *ls = o->ls;
    const struct big_name *known;
    uint64_t number;
    uint64_t bytes = 0;
    int used;

    if (strlen(name) != 20 || strcmp(name + 16, ".val") != 0 ||
        !parse_hex_u64(slice_of(name, 16), &number))
        return;
    if (number > o->highest)
        o->highest = number;
    known = find_name(o, number);
    if (known != NULL) {
        count_file(ls, known->bytes);
        return;
    }
    used = is_in_use(o, path, number, &bytes);
    count_file(ls, bytes);
    if (used == 1) {
        log_warn("%s is missing in the index's table of files; it is kept", path);
    } else if (used == 0 || used == -EUCLEAN) {
        log_debug("removing %s: no record names it", path);
        big_let_go(ls, number, bytes, 0);
        o->orphans++;
    } else {
        log_warn("cannot tell whether %s belongs to a record: %s; it is left alone", path,
                 strerror(-used));
    }
}

/* ---- the start ---- */

/* Ascending, each once. */
static void settle_names(struct big_names *names)
{
    size_t kept = 0;

    if (names->count == 0)
        return;
    qsort(names->at, names->count, sizeof(names->at[0]), compare_names);
    for (size_t i = 0; i < names->count; i++) {
        if (kept > 0 && names->at[kept - 1].number == names->at[i].number)
            continue;
        names->at[kept++] = names->at[i];
    }
    names->count = kept;
}

uint64_t big_next_number(struct logstore *ls)
{
    uint64_t next;

    pthread_mutex_lock(&ls->big.mutex);
    next = ls->big.next_number;
    pthread_mutex_unlock(&ls->big.mutex);
    return next;
}

int big_recover(struct logstore *ls, struct big_names *named, uint64_t next)
{
    struct orphan_search o = {.ls = ls, .named = named, .room = malloc(FRONT_ROOM)};
    int rc = o.room == NULL ? -ENOMEM : walk_dir(ls, "tmp", remove_spool, NULL);

    if (rc == 0)
        rc = big_names_add_index(ls, named);
    if (rc == 0) {
        settle_names(named);
        rc = walk_dir(ls, "big", check_file, &o);
    }
    free(o.room);
    if (named->count > 0 && named->at[named->count - 1].number > o.highest)
        o.highest = named->at[named->count - 1].number;
    ls->big.next_number = o.highest >= next ? o.highest + 1 : next;
    if (o.orphans > 0)
        log_info("removing %u files of big values in %s/big that no record names", o.orphans,
                 ls->dir);
    return rc;
}
