/*
 * faults.c - file calls that fail on demand, for tests of a server whose disk lets it down.
 *
 * Provides: a library for LD_PRELOAD. FAULTS_FILE names a file with lines "CALL PART ERRNO": while
 *           it is there, CALL (fdatasync, fsync, write, truncate, rename, open) fails with that
 *           number on every file whose path contains PART.
 * Used by:  tests/e2e/test_disk_errors.py.
 * Threads:  any; the file is read anew at each call.
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined here, whichever a caller uses */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int (*real_open)(const char *path, int flags, ...);

/* Reads the rules without the calls that are replaced here. 0: no rule fits. */
static int error_for(const char *call, const char *path)
{
    const char *rules = getenv("FAULTS_FILE");
    char text[512];
    char *line;
    char *rest = text;
    ssize_t len;
    int fd;

    if (real_open == NULL)
        *(void **)&real_open = dlsym(RTLD_NEXT, "open");
    fd = rules == NULL ? -1 : real_open(rules, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return 0;
    len = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    while ((line = strsep(&rest, "\n")) != NULL) {
        char name[16];
        char part[64];
        int number;

        if (sscanf(line, "%15s %63s %d", name, part, &number) == 3 && strcmp(name, call) == 0 &&
            strstr(path, part) != NULL)
            return number;
    }
    return 0;
}

static bool fails(const char *call, const char *path)
{
    int error = error_for(call, path);

    if (error != 0)
        errno = error;
    return error != 0;
}

static bool fd_fails(const char *call, int fd)
{
    char link[64];
    char path[PATH_MAX];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path) - 1);
    path[len > 0 ? len : 0] = '\0';
    return fails(call, path);
}

#define REAL(name, type, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (real == NULL)                                                                              \
    *(void **)&real = dlsym(RTLD_NEXT, name)

int fdatasync(int fd)
{
    REAL("fdatasync", int, int);
    return fd_fails("fdatasync", fd) ? -1 : real(fd);
}

int fsync(int fd)
{
    REAL("fsync", int, int);
    return fd_fails("fsync", fd) ? -1 : real(fd);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    REAL("pwritev", ssize_t, int, const struct iovec *, int, off_t);
    return fd_fails("write", fd) ? -1 : real(fd, iov, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    REAL("pwrite", ssize_t, int, const void *, size_t, off_t);
    return fd_fails("write", fd) ? -1 : real(fd, data, len, offset);
}

int ftruncate(int fd, off_t length)
{
    REAL("ftruncate", int, int, off_t);
    return fd_fails("truncate", fd) ? -1 : real(fd, length);
}

int rename(const char *from, const char *to)
{
    REAL("rename", int, const char *, const char *);
    return fails("rename", to) ? -1 : real(from, to);
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    if ((flags & (O_CREAT | O_TMPFILE)) != 0) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    if (fails("open", path))
        return -1;
    return real_open(path, flags, mode); /* found by the look at the rules */
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
    __attribute__((alias("pwritev")));
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
    __attribute__((alias("pwrite")));
int ftruncate64(int fd, off64_t length) __attribute__((alias("ftruncate")));
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
