/*
 * io.c - whole reads and writes, and the one place where file system calls can be made to fail.
 *
 * Provides: io_*() wrappers that retry EINTR and finish short transfers; io_replace() for fault
 *           tests.
 * Used by:  the store and the tools.
 * Threads:  any. io_replace() only before threads start, so `calls` needs no lock.
 *
 * fsync and fdatasync are not retried on EINTR either: after a failure of any kind the caller
 * cannot know what the kernel has dropped.
 */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int system_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
}

const struct io_calls io_system_calls = {
    .open = system_open,
    .pread = pread,
    .pwritev = pwritev,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .ftruncate = ftruncate,
    .rename = rename,
    .unlink = unlink,
    .mkdir = mkdir,
    .link = link,
    .fstatvfs = fstatvfs,
    .fallocate = fallocate,
};

static const struct io_calls *calls = &io_system_calls;

void io_replace(const struct io_calls *replacement)
{
    calls = replacement != NULL ? replacement : &io_system_calls;
}

/* What the program's functions return for a system call's 0 or -1. */
static int result_of(int rc)
{
    return rc == -1 ? -errno : 0;
}

int io_open(const char *path, int flags, mode_t mode)
{
    int fd;

    do {
        fd = calls->open(path, flags | O_CLOEXEC, mode);
    } while (fd == -1 && errno == EINTR);
    return fd == -1 ? -errno : fd;
}

ssize_t io_read_upto(int fd, void *buf, size_t len, off_t offset)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = calls->pread(fd, (char *)buf + done, len - done, offset + (off_t)done);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int io_read_full(int fd, void *buf, size_t len, off_t offset)
{
    ssize_t n = io_read_upto(fd, buf, len, offset);

    if (n < 0)
        return (int)n;
    return (size_t)n == len ? 0 : -ENODATA;
}

/* Takes n written bytes off the front of the vector. */
static void advance(struct iovec **iov, int *count, size_t n)
{
    while (*count > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (n > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

int io_writev_full(int fd, struct iovec *iov, int count, off_t offset)
{
    advance(&iov, &count, 0); /* empty pieces at the front */
    while (count > 0) {
        ssize_t n = calls->pwritev(fd, iov, count < IOV_MAX ? count : IOV_MAX, offset);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return -errno;
        if (n == 0)
            return -EIO; /* no file system does this; the alternative is to loop for ever */
        offset += n;
        advance(&iov, &count, (size_t)n);
    }
    return 0;
}

int io_write_full(int fd, const void *buf, size_t len, off_t offset)
{
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};

    return io_writev_full(fd, &iov, 1, offset);
}

int io_fdatasync(int fd)
{
    return result_of(calls->fdatasync(fd));
}

int io_fsync(int fd)
{
    return result_of(calls->fsync(fd));
}

int io_truncate(int fd, off_t length)
{
    int rc;

    do {
        rc = calls->ftruncate(fd, length);
    } while (rc == -1 && errno == EINTR);
    return result_of(rc);
}

int io_punch(int fd, off_t offset, off_t len)
{
    return result_of(calls->fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len));
}

bool io_is_hole(int fd, off_t offset, off_t len)
{
    off_t data = lseek(fd, offset, SEEK_DATA);

    return data == -1 ? errno == ENXIO : data >= offset + len;
}

int io_rename(const char *from, const char *to)
{
    return result_of(calls->rename(from, to));
}

int io_unlink(const char *path)
{
    return result_of(calls->unlink(path));
}

int io_link(const char *from, const char *to)
{
    return result_of(calls->link(from, to));
}

int io_make_dir(const char *path, mode_t mode)
{
    struct stat st;

    if (calls->mkdir(path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    if (stat(path, &st) == -1)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int io_file_size(int fd, off_t *out)
{
    struct stat st;

    if (fstat(fd, &st) == -1)
        return -errno;
    *out = st.st_size;
    return 0;
}

int io_space(int fd, uint64_t *available, uint64_t *total)
{
    struct statvfs fs;
    int rc;

    do {
        rc = calls->fstatvfs(fd, &fs);
    } while (rc == -1 && errno == EINTR);
    if (rc == -1)
        return -errno;
    *available = (uint64_t)fs.f_bavail * fs.f_frsize;
    *total = (uint64_t)fs.f_blocks * fs.f_frsize;
    return 0;
}

int io_sync_dir(const char *path)
{
    int fd = io_open(path, O_RDONLY | O_DIRECTORY, 0);
    int rc;

    if (fd < 0)
        return fd;
    rc = io_fsync(fd);
    close(fd);
    return rc;
}

/* Writes and syncs a new file. 0 or -errno; after an error the file may be there in part. */
static int write_new_file(const char *path, const void *data, size_t len)
{
    int fd = io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    int rc;

    if (fd < 0)
        return fd;
    rc = io_write_full(fd, data, len, 0);
    if (rc == 0)
        rc = io_fsync(fd);
    close(fd);
    return rc;
}

int io_replace_file(const char *dir, const char *name, const void *data, size_t len)
{
    char *path = NULL;
    char *temp = NULL;
    int rc = -ENOMEM;

    if (asprintf(&path, "%s/%s", dir, name) == -1) {
        path = NULL;
        goto out;
    }
    if (asprintf(&temp, "%s.new", path) == -1) {
        temp = NULL;
        goto out;
    }
    rc = write_new_file(temp, data, len);
    if (rc == 0)
        rc = io_rename(temp, path);
    if (rc != 0) {
        (void)io_unlink(temp); /* the first error is the one to report */
        goto out;
    }
    rc = io_sync_dir(dir);
out:
    free(temp);
    free(path);
    return rc;
}
