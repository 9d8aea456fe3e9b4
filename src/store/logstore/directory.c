/*
 * directory.c - the data directory: its lock, its folders, and the refusal of what is not ours.
 *
 * Provides: directory_*() of logstore.h.
 * Used by:  logstore.c, recovery.
 * Threads:  start and end only.
 *
 * The lock is flock(2) on DIR/lock: the kernel releases it with the process, however that ends.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/num.h"
#include "store/logstore/logstore.h"

static const char *const folders[] = {"log", "big", "index", "tmp"};

char *directory_path(const struct logstore *ls, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", ls->dir, name) == -1 ? NULL : path;
}

static int make_dir(const char *path)
{
    int rc = io_make_dir(path, 0750);

    return rc == -EEXIST ? 0 : rc;
}

static bool is_ours(const char *name)
{
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        if (strcmp(name, folders[i]) == 0)
            return true;
    return strcmp(name, "lock") == 0 || strncmp(name, "STORE", 5) == 0 ||
           strcmp(name, "lost+found") == 0;
}

/* What stands in the directory: ours, foreign, or nothing. 0 or -errno, logged. */
static int look_around(const char *dir, bool *has_store)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    int rc = 0;

    if (d == NULL) {
        rc = -errno;
        log_error("cannot open the data directory %s: %s", dir, strerror(-rc));
        return rc;
    }
    *has_store = false;
    while ((entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (strcmp(name, "STORE") == 0)
            *has_store = true;
        if (!is_ours(name)) {
            log_error("the data directory %s holds a file that is not ttserver's: %s; "
                      "move it away or name another directory",
                      dir, name);
            rc = -ENOTEMPTY;
            break;
        }
    }
    closedir(d);
    return rc;
}

/* A process that was killed may hold its lock for a moment still: its end takes the kernel some
 * milliseconds. */
static int take_lock(int fd)
{
    const struct timespec moment = {.tv_nsec = 50 * 1000 * 1000};

    for (int i = 0; i < 20; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        nanosleep(&moment, NULL);
    }
    return -EWOULDBLOCK;
}

static int open_lock(struct logstore *ls)
{
    char *path = directory_path(ls, "lock");
    char pid[NUM_TEXT_MAX + 1];
    size_t len;
    int rc;

    ls->lock_fd = path == NULL ? -ENOMEM : io_open(path, O_RDWR | O_CREAT, 0640);
    rc = ls->lock_fd < 0 ? ls->lock_fd : take_lock(ls->lock_fd);
    free(path);
    if (rc == -EWOULDBLOCK) {
        ssize_t got = io_read_upto(ls->lock_fd, pid, NUM_TEXT_MAX, 0);

        log_error("the data directory %s is in use by another process (pid %.*s)", ls->dir,
                  got > 0 ? (int)strcspn(pid, "\n") : 1, got > 0 ? pid : "?");
    } else if (rc != 0) {
        log_error("cannot lock the data directory %s: %s", ls->dir, strerror(-rc));
    } else {
        len = format_u64(pid, (uint64_t)getpid());
        pid[len++] = '\n';
        if (ftruncate(ls->lock_fd, 0) == 0)
            (void)io_write_full(ls->lock_fd, pid, len, 0);
    }
    return rc;
}

static int make_folders(struct logstore *ls)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(folders) / sizeof(folders[0]); i++) {
        char *path = directory_path(ls, folders[i]);

        rc = path == NULL ? -ENOMEM : make_dir(path);
        free(path);
    }
    if (rc == 0)
        rc = io_sync_dir(ls->dir);
    if (rc != 0)
        log_error("cannot make the folders of the data directory %s: %s", ls->dir, strerror(-rc));
    return rc;
}

/* The name of the data directory itself, once for every new store. A parent that only others may
 * read is theirs to look after. */
static int sync_parent(const char *dir)
{
    char *copy = strdup(dir);
    int rc = copy == NULL ? -ENOMEM : io_sync_dir(dirname(copy));

    if (rc == -EACCES)
        rc = 0;
    if (rc != 0)
        log_error("cannot sync the directory above %s: %s", dir, strerror(-rc));
    free(copy);
    return rc;
}

/* Kept open: syncing a name must not need a descriptor that may not be there. */
static int open_log_dir(struct logstore *ls)
{
    char *path = directory_path(ls, "log");

    ls->log_dir_fd = path == NULL ? -ENOMEM : io_open(path, O_RDONLY | O_DIRECTORY, 0);
    free(path);
    return ls->log_dir_fd < 0 ? ls->log_dir_fd : 0;
}

int directory_open(struct logstore *ls, bool *is_new)
{
    bool has_store = false;
    size_t count = 0;
    uint32_t *numbers = NULL;
    int rc = make_dir(ls->dir);

    if (rc != 0) {
        log_error("cannot make the data directory %s: %s", ls->dir, strerror(-rc));
        return rc;
    }
    rc = look_around(ls->dir, &has_store);
    if (rc == 0)
        rc = open_lock(ls);
    if (rc == 0)
        rc = make_folders(ls);
    if (rc == 0 && !has_store)
        rc = sync_parent(ls->dir);
    if (rc == 0)
        rc = open_log_dir(ls);
    if (rc == 0)
        rc = directory_segments(ls, &numbers, &count);
    free(numbers);
    if (rc == 0 && !has_store && count > 0) {
        log_error("the data directory %s has log segments but no file STORE", ls->dir);
        rc = -EUCLEAN;
    }
    *is_new = !has_store;
    return rc;
}

int directory_note(struct logstore *ls)
{
    struct identity id = ls->id;
    int rc;

    pthread_mutex_lock(&ls->store_mutex);
    id.last_segment = (uint32_t)atomic_load(&ls->log.active_number);
    id.sync_failed = atomic_load(&ls->read_only);
    rc = identity_write(ls->dir, &id);
    if (rc == 0)
        atomic_store(&ls->log.noted_number, id.last_segment);
    pthread_mutex_unlock(&ls->store_mutex);
    return rc;
}

void directory_close(struct logstore *ls)
{
    if (ls->log_dir_fd >= 0)
        close(ls->log_dir_fd);
    ls->log_dir_fd = -1;
    if (ls->lock_fd >= 0)
        close(ls->lock_fd);
    ls->lock_fd = -1;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* "00000012.seg" */
static bool segment_name(const char *name, uint32_t *number)
{
    size_t len = strlen(name);

    return len > 4 && strcmp(name + len - 4, ".seg") == 0 &&
           parse_u32(slice_of(name, len - 4), number) && *number > 0;
}

int directory_segments(struct logstore *ls, uint32_t **numbers, size_t *count)
{
    char *path = directory_path(ls, "log");
    DIR *d = path == NULL ? NULL : opendir(path);
    struct dirent *entry;
    struct buf found = {0};
    int rc = path == NULL ? -ENOMEM : d == NULL ? -errno : 0;

    while (d != NULL && rc == 0 && (entry = readdir(d)) != NULL) {
        uint32_t number;

        if (entry->d_name[0] == '.')
            continue;
        if (segment_name(entry->d_name, &number)) {
            rc = buf_add(&found, &number, sizeof(number));
        } else {
            log_error("%s holds a file that is not ttserver's: %s", path, entry->d_name);
            rc = -ENOTEMPTY;
        }
    }
    if (d != NULL)
        closedir(d);
    free(path);
    if (rc != 0) {
        buf_free(&found);
        return rc;
    }
    *numbers = (uint32_t *)(void *)found.data;
    *count = found.len / sizeof(uint32_t);
    if (*count > 0)
        qsort(*numbers, *count, sizeof(uint32_t), compare_numbers);
    return 0;
}
