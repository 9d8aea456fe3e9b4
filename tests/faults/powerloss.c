/*
 * powerloss.c - a journal of everything that a server does to its disk, for tests of power cuts.
 *
 * Provides: a library for LD_PRELOAD. POWERLOSS_DIR names the directory that is watched (absolute,
 *           without a slash at the end), POWERLOSS_JOURNAL the file that gets the journal.
 * Used by:  tests/e2e/test_power.py; tests/e2e/powerloss.py reads the journal and builds the disk
 *           states that a power cut at any of its places could leave.
 * Threads:  any.
 * Locks:    one mutex over every call that changes something and its event, so that the journal has
 *           the order in which things happened. A sync runs outside it, between two events.
 *
 * Every event is a struct event, then len1 bytes (data, or a path below POWERLOSS_DIR), then len2
 * bytes (a second path), in the byte order of the host. A file opened with O_DSYNC is opened
 * without; its writes are synced here, so that an event stands between the write and its sync.
 * What would change a file unseen (a shared mapping to write through, a call that is not known
 * here) is an event too, which fails the test. LMDB's table of readers (lock.mdb) is left out: it
 * says nothing that outlives the process.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EVENT_MAGIC 0x4c575054u
#define FDS_MAX 65536

enum event_kind {
    EVENT_CREATE = 1, /* path, inode */
    EVENT_MKDIR,      /* path, inode */
    EVENT_WRITE,      /* inode, offset, data */
    EVENT_ZEROS,      /* inode, offset, count */
    EVENT_TRUNCATE,   /* inode, size */
    EVENT_RENAME,     /* path, path */
    EVENT_LINK,       /* path, path */
    EVENT_UNLINK,     /* path */
    EVENT_SYNC_BEGIN, /* inode, number of the sync */
    EVENT_SYNC_END,   /* inode, number of the sync */
    EVENT_SYNC_RANGE, /* inode, offset, count: that write is on the disk */
    EVENT_UNKNOWN,    /* text: something that is not modelled */
};

struct event {
    uint32_t magic;
    uint32_t kind;
    uint64_t inode;
    uint64_t a;
    uint64_t b;
    uint32_t len1;
    uint32_t len2;
};

/* A descriptor of a watched file. A number that was closed and given to something else is told by
 * the inode. */
struct watched {
    dev_t device;
    ino_t inode; /* 0: not watched */
    bool sync_writes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct watched watched[FDS_MAX];
static const char *root;
static size_t root_len;
static int journal = -1;
static uint64_t sync_count;

/* The next library's function of that name. */
static void *next_function(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (function == NULL) {
        dprintf(STDERR_FILENO, "powerloss: there is no function %s\n", name);
        abort();
    }
    return function;
}

/* Declares `real`, a pointer to the next library's `name`. */
#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (real == NULL)                                                                              \
    real = (__typeof__(&name))next_function(#name)

/* The first call comes from the server's own start, before it has threads. */
__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("POWERLOSS_JOURNAL");

    root = getenv("POWERLOSS_DIR");
    if (root == NULL || path == NULL)
        return;
    root_len = strlen(root);
    journal =
        (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal == -1) {
        dprintf(STDERR_FILENO, "powerloss: cannot open %s\n", path);
        abort();
    }
}

/* ---- the journal ---- */

static void append(const struct event *e, const struct iovec *data, int count)
{
    struct iovec iov[IOV_MAX + 1];
    size_t length = sizeof(*e);

    iov[0] = (struct iovec){(void *)(uintptr_t)e, sizeof(*e)};
    for (int i = 0; i < count; i++) {
        iov[i + 1] = data[i];
        length += data[i].iov_len;
    }
    if (syscall(SYS_writev, journal, iov, count + 1) != (ssize_t)length) {
        dprintf(STDERR_FILENO, "powerloss: cannot write the journal: %s\n", strerror(errno));
        abort();
    }
}

static void note_paths(enum event_kind kind, ino_t inode, const char *first, const char *second)
{
    struct event e = {EVENT_MAGIC,
                      kind,
                      inode,
                      0,
                      0,
                      (uint32_t)strlen(first),
                      second != NULL ? (uint32_t)strlen(second) : 0};
    struct iovec iov[2] = {{(void *)(uintptr_t)first, e.len1}, {(void *)(uintptr_t)second, e.len2}};

    append(&e, iov, 2);
}

static void note_numbers(enum event_kind kind, ino_t inode, uint64_t a, uint64_t b)
{
    append(&(struct event){EVENT_MAGIC, kind, inode, a, b, 0, 0}, NULL, 0);
}

static void note_unknown(const char *what)
{
    pthread_mutex_lock(&mutex);
    note_paths(EVENT_UNKNOWN, 0, what, NULL);
    pthread_mutex_unlock(&mutex);
}

static bool all_zero(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++) {
        const char *p = iov[i].iov_base;
        size_t len = iov[i].iov_len;

        if (len > 0 && (p[0] != 0 || memcmp(p, p + 1, len - 1) != 0))
            return false;
    }
    return true;
}

/* The first `written` bytes of the vector stand at the offset now. */
static void note_write(ino_t inode, uint64_t offset, const struct iovec *iov, int count,
                       size_t written)
{
    struct event e = {EVENT_MAGIC, EVENT_WRITE, inode, offset, 0, (uint32_t)written, 0};
    struct iovec cut[IOV_MAX];
    int n = 0;

    for (size_t left = written; n < count && left > 0; n++) {
        cut[n] = iov[n];
        if (cut[n].iov_len > left)
            cut[n].iov_len = left;
        left -= cut[n].iov_len;
    }
    if (all_zero(cut, n))
        note_numbers(EVENT_ZEROS, inode, offset, written);
    else
        append(&e, cut, n);
}

/* ---- which files ---- */

/* The path below the watched directory ("" is the directory itself), NULL: not there. */
static const char *watched_path(const char *path)
{
    const char *below;
    size_t len;

    if (journal == -1 || path == NULL || strncmp(path, root, root_len) != 0)
        return NULL;
    below = path + root_len;
    if (*below == '\0')
        return below;
    if (*below != '/')
        return NULL;
    len = strlen(below);
    return len >= 9 && strcmp(below + len - 9, "/lock.mdb") == 0 ? NULL : below + 1;
}

/* Copies the entry of a watched descriptor. False: it is none. */
static bool watched_fd(int fd, struct watched *out)
{
    struct stat st;

    if (fd < 0 || fd >= FDS_MAX || watched[fd].inode == 0 || fstat(fd, &st) == -1)
        return false;
    *out = watched[fd];
    return st.st_ino == out->inode && st.st_dev == out->device;
}

static void watch(int fd, const struct stat *st, bool sync_writes)
{
    if (fd < FDS_MAX)
        watched[fd] = (struct watched){st->st_dev, st->st_ino, sync_writes};
}

/* ---- opening ---- */

static int open_watched(const char *path, const char *below, int flags, mode_t mode)
{
    struct stat st;
    bool existed;
    int fd;

    pthread_mutex_lock(&mutex);
    existed = stat(path, &st) == 0;
    fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags & ~(O_SYNC | O_DSYNC), mode);
    if (fd >= 0 && fstat(fd, &st) == 0) {
        int saved = errno;

        watch(fd, &st, (flags & O_DSYNC) != 0);
        if (!existed)
            note_paths(EVENT_CREATE, st.st_ino, below, NULL);
        else if ((flags & O_TRUNC) != 0)
            note_numbers(EVENT_TRUNCATE, st.st_ino, 0, 0);
        errno = saved;
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

static int open_any(int dir, const char *path, int flags, mode_t mode)
{
    const char *below = path[0] == '/' || dir == AT_FDCWD ? watched_path(path) : NULL;
    struct watched parent;
    int fd;

    if (dir != AT_FDCWD && path[0] != '/' && watched_fd(dir, &parent))
        note_unknown("openat below a watched directory");
    if ((flags & O_TMPFILE) == O_TMPFILE && below != NULL)
        note_unknown("O_TMPFILE");
    if (below != NULL)
        return open_watched(path, below, flags, mode);
    fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX)
        watched[fd].inode = 0; /* a new file may get the inode of an old one, with its descriptor */
    return fd;
}

static mode_t mode_argument(int flags, va_list arguments)
{
    return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list arguments;                                                                         \
        mode_t mode;                                                                               \
                                                                                                   \
        va_start(arguments, flags);                                                                \
        mode = mode_argument(flags, arguments);                                                    \
        va_end(arguments);                                                                         \
        return open_any(AT_FDCWD, path, flags, mode);                                              \
    }

#define OPENAT(name)                                                                               \
    int name(int dir, const char *path, int flags, ...)                                            \
    {                                                                                              \
        va_list arguments;                                                                         \
        mode_t mode;                                                                               \
                                                                                                   \
        va_start(arguments, flags);                                                                \
        mode = mode_argument(flags, arguments);                                                    \
        va_end(arguments);                                                                         \
        return open_any(dir, path, flags, mode);                                                   \
    }

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dir, const char *path, int flags);
int __openat64_2(int dir, const char *path, int flags);

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int __open_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags)
{
    return open_any(AT_FDCWD, path, flags, 0);
}

int __openat_2(int dir, const char *path, int flags)
{
    return open_any(dir, path, flags, 0);
}

int __openat64_2(int dir, const char *path, int flags)
{
    return open_any(dir, path, flags, 0);
}

int creat(const char *path, mode_t mode)
{
    return open_any(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/* ---- writing ---- */

/* After a write to a file that was opened to sync every write. */
static void sync_range(int fd, const struct watched *w, uint64_t offset, uint64_t count)
{
    REAL(fdatasync);

    if (real(fd) != 0)
        return;
    pthread_mutex_lock(&mutex);
    note_numbers(EVENT_SYNC_RANGE, w->inode, offset, count);
    pthread_mutex_unlock(&mutex);
}

/* offset -1: the file's own position. */
static ssize_t write_watched(int fd, const struct watched *w, const struct iovec *iov, int count,
                             off_t offset)
{
    off_t at = offset;
    ssize_t n;

    pthread_mutex_lock(&mutex);
    if (offset == -1) {
        at = lseek(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) != 0 ? SEEK_END : SEEK_CUR);
        n = syscall(SYS_writev, fd, iov, count);
    } else {
        n = syscall(SYS_pwritev, fd, iov, count, offset, 0);
    }
    if (n > 0)
        note_write(w->inode, (uint64_t)at, iov, count, (size_t)n);
    pthread_mutex_unlock(&mutex);
    if (n > 0 && w->sync_writes)
        sync_range(fd, w, (uint64_t)at, (uint64_t)n);
    return n;
}

ssize_t write(int fd, const void *data, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct watched w;
    REAL(write);

    return watched_fd(fd, &w) ? write_watched(fd, &w, &iov, 1, -1) : real(fd, data, len);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    struct watched w;
    REAL(writev);

    return watched_fd(fd, &w) ? write_watched(fd, &w, iov, count, -1) : real(fd, iov, count);
}

#define PWRITE(name)                                                                               \
    ssize_t name(int fd, const void *data, size_t len, off_t offset)                               \
    {                                                                                              \
        struct iovec iov = {(void *)(uintptr_t)data, len};                                         \
        struct watched w;                                                                          \
        REAL(name);                                                                                \
                                                                                                   \
        return watched_fd(fd, &w) ? write_watched(fd, &w, &iov, 1, offset)                         \
                                  : real(fd, data, len, offset);                                   \
    }

#define PWRITEV(name)                                                                              \
    ssize_t name(int fd, const struct iovec *iov, int count, off_t offset)                         \
    {                                                                                              \
        struct watched w;                                                                          \
        REAL(name);                                                                                \
                                                                                                   \
        return watched_fd(fd, &w) ? write_watched(fd, &w, iov, count, offset)                      \
                                  : real(fd, iov, count, offset);                                  \
    }

PWRITE(pwrite)
PWRITE(pwrite64)
PWRITEV(pwritev)
PWRITEV(pwritev64)

/* What the kernel copied into a watched file is read back for the journal. */
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
    struct watched w;
    ssize_t n;
    off_t at;
    char *data;
    REAL(copy_file_range);

    if (!watched_fd(to, &w))
        return real(from, from_at, to, to_at, len, flags);
    pthread_mutex_lock(&mutex);
    at = to_at != NULL ? *to_at : lseek(to, 0, SEEK_CUR);
    n = real(from, from_at, to, to_at, len, flags);
    data = n > 0 ? malloc((size_t)n) : NULL;
    if (data != NULL && pread(to, data, (size_t)n, at) == n)
        note_write(w.inode, (uint64_t)at, &(struct iovec){data, (size_t)n}, 1, (size_t)n);
    else if (n > 0)
        note_paths(EVENT_UNKNOWN, 0, "copy_file_range whose bytes cannot be read", NULL);
    free(data);
    pthread_mutex_unlock(&mutex);
    return n;
}

#define FTRUNCATE(name)                                                                            \
    int name(int fd, off_t size)                                                                   \
    {                                                                                              \
        struct watched w;                                                                          \
        int rc;                                                                                    \
        REAL(name);                                                                                \
                                                                                                   \
        if (!watched_fd(fd, &w))                                                                   \
            return real(fd, size);                                                                 \
        pthread_mutex_lock(&mutex);                                                                \
        rc = real(fd, size);                                                                       \
        if (rc == 0)                                                                               \
            note_numbers(EVENT_TRUNCATE, w.inode, (uint64_t)size, 0);                              \
        pthread_mutex_unlock(&mutex);                                                              \
        return rc;                                                                                 \
    }

FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

/* ---- syncing ---- */

/* What was written before its beginning is on the disk after its end. */
static int sync_watched(int fd, const struct watched *w, int (*real)(int fd))
{
    uint64_t number;
    int rc;

    pthread_mutex_lock(&mutex);
    number = ++sync_count;
    note_numbers(EVENT_SYNC_BEGIN, w->inode, number, 0);
    pthread_mutex_unlock(&mutex);
    rc = real(fd);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&mutex);
    note_numbers(EVENT_SYNC_END, w->inode, number, 0);
    pthread_mutex_unlock(&mutex);
    return 0;
}

int fdatasync(int fd)
{
    struct watched w;
    REAL(fdatasync);

    return watched_fd(fd, &w) ? sync_watched(fd, &w, real) : real(fd);
}

int fsync(int fd)
{
    struct watched w;
    REAL(fsync);

    return watched_fd(fd, &w) ? sync_watched(fd, &w, real) : real(fd);
}

/* ---- names ---- */

static ino_t inode_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? st.st_ino : 0;
}

int mkdir(const char *path, mode_t mode)
{
    const char *below = watched_path(path);
    int rc;
    REAL(mkdir);

    if (below == NULL)
        return real(path, mode);
    pthread_mutex_lock(&mutex);
    rc = real(path, mode);
    if (rc == 0)
        note_paths(EVENT_MKDIR, inode_of(path), below, NULL);
    pthread_mutex_unlock(&mutex);
    return rc;
}

/* A change of two names, of which both or none is watched. */
static int change_names(enum event_kind kind, const char *from, const char *to,
                        int (*real)(const char *from, const char *to))
{
    const char *below_from = watched_path(from);
    const char *below_to = watched_path(to);
    int rc;

    if (below_from == NULL && below_to == NULL)
        return real(from, to);
    pthread_mutex_lock(&mutex);
    rc = real(from, to);
    if (rc == 0 && (below_from == NULL || below_to == NULL))
        note_paths(EVENT_UNKNOWN, 0, "a name that leaves the watched directory", NULL);
    else if (rc == 0)
        note_paths(kind, 0, below_from, below_to);
    pthread_mutex_unlock(&mutex);
    return rc;
}

int rename(const char *from, const char *to)
{
    REAL(rename);

    return change_names(EVENT_RENAME, from, to, real);
}

int link(const char *from, const char *to)
{
    REAL(link);

    return change_names(EVENT_LINK, from, to, real);
}

static int remove_name(const char *path, int (*real)(const char *path))
{
    const char *below = watched_path(path);
    int rc;

    if (below == NULL)
        return real(path);
    pthread_mutex_lock(&mutex);
    rc = real(path);
    if (rc == 0)
        note_paths(EVENT_UNLINK, 0, below, NULL);
    pthread_mutex_unlock(&mutex);
    return rc;
}

int unlink(const char *path)
{
    REAL(unlink);

    return remove_name(path, real);
}

int rmdir(const char *path)
{
    REAL(rmdir);

    return remove_name(path, real);
}

/* ---- what is not modelled ---- */

#define MMAP(name)                                                                                 \
    void *name(void *at, size_t len, int protection, int flags, int fd, off_t offset)              \
    {                                                                                              \
        struct watched w;                                                                          \
        REAL(name);                                                                                \
                                                                                                   \
        if ((flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0 && watched_fd(fd, &w))     \
            note_unknown("a shared mapping to write through");                                     \
        return real(at, len, protection, flags, fd, offset);                                       \
    }

MMAP(mmap)
MMAP(mmap64)

#define FALLOCATE(name)                                                                            \
    int name(int fd, int mode, off_t offset, off_t len)                                            \
    {                                                                                              \
        struct watched w;                                                                          \
        REAL(name);                                                                                \
                                                                                                   \
        if (watched_fd(fd, &w))                                                                    \
            note_unknown(#name);                                                                   \
        return real(fd, mode, offset, len);                                                        \
    }

#define POSIX_FALLOCATE(name)                                                                      \
    int name(int fd, off_t offset, off_t len)                                                      \
    {                                                                                              \
        struct watched w;                                                                          \
        REAL(name);                                                                                \
                                                                                                   \
        if (watched_fd(fd, &w))                                                                    \
            note_unknown(#name);                                                                   \
        return real(fd, offset, len);                                                              \
    }

FALLOCATE(fallocate)
FALLOCATE(fallocate64)
POSIX_FALLOCATE(posix_fallocate)
POSIX_FALLOCATE(posix_fallocate64)

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    REAL(renameat2);

    if (watched_path(from) != NULL || watched_path(to) != NULL)
        note_unknown("renameat2");
    return real(from_dir, from, to_dir, to, flags);
}

int truncate(const char *path, off_t size)
{
    REAL(truncate);

    if (watched_path(path) != NULL)
        note_unknown("truncate");
    return real(path, size);
}
