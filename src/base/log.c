/*
 * log.c - the program's own messages.
 *
 * Provides: log_error() log_warn() log_info() log_debug(), log_open(), log_reopen().
 * Threads:  any may write. log_open() from one thread, before the others start or after they ended;
 *           log_reopen() at any time, from one thread.
 * Locks:    none. A line is one write(2) to a file opened for appending, so lines never mix.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum {
    LOG_TEXT_MAX = 2048, /* longer texts are cut */
    LOG_HEAD_MAX = 64,   /* time and level */
};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static _Atomic int min_level = LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;
static char *log_path; /* NULL: stderr */

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&min_level, (int)level, memory_order_relaxed);
}

static int open_target(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);

    return fd == -1 ? -errno : fd;
}

int log_open(const char *path)
{
    char *copy = NULL;
    int fd = STDERR_FILENO;
    int old;

    if (path != NULL) {
        copy = strdup(path);
        if (copy == NULL)
            return -ENOMEM;
        fd = open_target(path);
        if (fd < 0) {
            free(copy);
            return fd;
        }
    }
    old = atomic_exchange(&log_fd, fd);
    if (old != STDERR_FILENO)
        close(old);
    free(log_path);
    log_path = copy;
    return 0;
}

int log_reopen(void)
{
    int fd;
    int rc = 0;

    if (log_path == NULL)
        return 0;
    fd = open_target(log_path);
    if (fd < 0)
        return fd;
    /* The new file takes over the old one's number: a thread that is about to write has no chance
     * to meet a closed descriptor. */
    if (dup3(fd, atomic_load(&log_fd), O_CLOEXEC) == -1)
        rc = -errno;
    close(fd);
    return rc;
}

/* Writes "2026-01-31T12:00:00.123Z error " to out; returns its length. */
static size_t format_head(char out[LOG_HEAD_MAX], enum log_level level)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;
    size_t len;
    int more;

    gmtime_r(&seconds, &tm);
    len = strftime(out, LOG_HEAD_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
    more = snprintf(out + len, LOG_HEAD_MAX - len, ".%03dZ %s ", (int)(now_ms % 1000),
                    level_names[level]);
    return len + (size_t)more;
}

/* Copies text with its control bytes as \xNN (a client's key must not be able to forge a line or
 * to steer a terminal). out has room for four bytes per byte. Returns the length. */
static size_t escape(char *out, const char *text, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= 0x20 && c != 0x7f) {
            out[used++] = text[i];
            continue;
        }
        out[used++] = '\\';
        out[used++] = 'x';
        out[used++] = digits[c >> 4];
        out[used++] = digits[c & 15];
    }
    return used;
}

static void write_line(const char *line, size_t len)
{
    ssize_t n;

    /* A target that takes no more (full disk, closed pipe) must not stop the server: dropped. */
    do {
        n = write(atomic_load_explicit(&log_fd, memory_order_relaxed), line, len);
    } while (n == -1 && errno == EINTR);
}

static void log_message(enum log_level level, const char *format, va_list args)
{
    char text[LOG_TEXT_MAX];
    char line[LOG_HEAD_MAX + LOG_TEXT_MAX * 4 + 1];
    int saved_errno = errno;
    size_t len;
    int wanted;

    if ((int)level < atomic_load_explicit(&min_level, memory_order_relaxed))
        return;
    wanted = vsnprintf(text, sizeof(text), format, args);
    if (wanted < 0)
        return;
    len = format_head(line, level);
    len += escape(line + len, text, strnlen(text, sizeof(text)));
    line[len++] = '\n';
    write_line(line, len);
    errno = saved_errno;
}

void log_error(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_message(LOG_ERROR, format, args);
    va_end(args);
}

void log_warn(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_message(LOG_WARN, format, args);
    va_end(args);
}

void log_info(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_message(LOG_INFO, format, args);
    va_end(args);
}

void log_debug(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    log_message(LOG_DEBUG, format, args);
    va_end(args);
}
