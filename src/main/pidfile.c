/*
 * pidfile.c - the file of -pid: see pidfile.h.
 */
#include "main/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "base/num.h"

static _Atomic(const char *) written_path;

/* The process that the file names, if it lives and is another one than we (in a container our own
 * number may be the one that the last run left behind); else 0. */
static pid_t living_owner(const char *path)
{
    char text[NUM_TEXT_MAX + 1];
    ssize_t len;
    uint32_t pid;
    int fd = io_open(path, O_RDONLY, 0);

    if (fd < 0)
        return 0;
    len = io_read_upto(fd, text, sizeof(text), 0);
    close(fd);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' '))
        len--;
    if (len <= 0 || !parse_u32(slice_of(text, (size_t)len), &pid) || pid == 0 || pid > INT32_MAX)
        return 0;
    if ((pid_t)pid == getpid() || (kill((pid_t)pid, 0) != 0 && errno != EPERM))
        return 0;
    return (pid_t)pid;
}

int pidfile_write(const char *path)
{
    char text[NUM_TEXT_MAX + 2];
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    pid_t owner = living_owner(path);
    int fd, rc;

    if (owner != 0) {
        log_error("pid file %s names process %ld, which is running; stop it, or remove the file",
                  path, (long)owner);
        return -EEXIST;
    }
    fd = io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
        log_error("cannot write pid file %s: %s", path, strerror(-fd));
        return fd;
    }
    rc = io_write_full(fd, text, (size_t)len, 0);
    close(fd);
    if (rc != 0) {
        log_error("cannot write pid file %s: %s", path, strerror(-rc));
        io_unlink(path);
        return rc;
    }
    atomic_store(&written_path, path);
    return 0;
}

void pidfile_remove(void)
{
    const char *path = atomic_exchange(&written_path, NULL);

    if (path != NULL)
        io_unlink(path);
}
