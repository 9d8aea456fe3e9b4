/*
 * slowio.c - file calls that take until they are told to go on, for tests of who waits for them.
 *
 * Provides: a library for LD_PRELOAD. SLOWIO_DIR names a directory. A file `hold` in it with the
 *           words CALL and PART holds the next such call (write, fdatasync, fsync, truncate,
 *           rename, unlink) on a file whose path contains PART. `hold` then becomes `held`, and the
 *           call is made when somebody has opened the FIFO `release` for writing and closed it
 *           again.
 * Used by:  tests/e2e/test_slow_disk.py.
 * Threads:  any; of several that come at once the one that renames the file is held.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The calls of this library's own pass by the functions that are replaced here. */
static int open_file(const char *dir, const char *name)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
}

static bool is_wanted(const char *dir, const char *call, const char *path)
{
    char text[256];
    char wanted[32];
    char part[128];
    ssize_t len;
    int fd = open_file(dir, "hold");

    if (fd == -1)
        return false;
    len = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    return sscanf(text, "%31s %127s", wanted, part) == 2 && strcmp(wanted, call) == 0 &&
           strstr(path, part) != NULL;
}

static void hold(const char *call, const char *path)
{
    const char *dir = getenv("SLOWIO_DIR");
    char from[PATH_MAX];
    char to[PATH_MAX];
    char byte;
    int fd;

    if (dir == NULL || !is_wanted(dir, call, path))
        return;
    snprintf(from, sizeof(from), "%s/hold", dir);
    snprintf(to, sizeof(to), "%s/held", dir);
    if (syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0) != 0)
        return;
    fd = open_file(dir, "release");
    while (fd >= 0 && read(fd, &byte, 1) > 0)
        continue;
    close(fd);
}

static void hold_fd(const char *call, int fd)
{
    char link[64];
    char path[PATH_MAX];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path) - 1);
    path[len > 0 ? len : 0] = '\0';
    hold(call, path);
}

/* Declares `real`, a pointer to the next library's `name`. */
#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (real == NULL)                                                                              \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fdatasync(int fd)
{
    REAL(fdatasync);
    hold_fd("fdatasync", fd);
    return real(fd);
}

int fsync(int fd)
{
    REAL(fsync);
    hold_fd("fsync", fd);
    return real(fd);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    REAL(pwritev);
    hold_fd("write", fd);
    return real(fd, iov, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    REAL(pwrite);
    hold_fd("write", fd);
    return real(fd, data, len, offset);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    REAL(writev);
    hold_fd("write", fd);
    return real(fd, iov, count);
}

int ftruncate(int fd, off_t length)
{
    REAL(ftruncate);
    hold_fd("truncate", fd);
    return real(fd, length);
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    hold("rename", to);
    return real(from, to);
}

int unlink(const char *path)
{
    REAL(unlink);
    hold("unlink", path);
    return real(path);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
    __attribute__((alias("pwritev")));
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
    __attribute__((alias("pwrite")));
int ftruncate64(int fd, off64_t length) __attribute__((alias("ftruncate")));
