/*
 * io.h - whole reads and writes, and the one place where file system calls can be made to fail.
 *
 * Provides: io_*() wrappers that retry EINTR and finish short transfers; io_replace() for fault
 *           tests.
 * Used by:  the store and the tools; sockets do not come here.
 * Threads:  any. io_replace() only before threads start.
 */
#ifndef BASE_IO_H
#define BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>

/* The calls that a fault test may replace. Each has the signature and the meaning of its name. */
struct io_calls {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*pread)(int fd, void *buf, size_t len, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *iov, int count, off_t offset);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*ftruncate)(int fd, off_t length);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
    int (*link)(const char *from, const char *to);
    int (*fstatvfs)(int fd, struct statvfs *out);
    int (*fallocate)(int fd, int mode, off_t offset, off_t len);
};

/* The system's own calls. */
extern const struct io_calls io_system_calls;

/* Tests: other calls from now on; NULL brings the system's back. Must stay alive. */
void io_replace(const struct io_calls *replacement);

/* open(2) with O_CLOEXEC added. A descriptor, or -errno. */
int io_open(const char *path, int flags, mode_t mode);

/* Reads exactly len bytes. 0; -ENODATA if the file ends before; -errno. */
int io_read_full(int fd, void *buf, size_t len, off_t offset);

/* Reads up to len bytes, less only at the end of the file. Bytes read, or -errno. */
ssize_t io_read_upto(int fd, void *buf, size_t len, off_t offset);

/* Writes everything. 0 or -errno; after an error an unknown part is written. The iov array is
 * changed. */
int io_write_full(int fd, const void *buf, size_t len, off_t offset);
int io_writev_full(int fd, struct iovec *iov, int count, off_t offset);

/* 0 or -errno each. A failed io_fdatasync() must never be retried: the kernel has dropped the
 * pages' state. */
int io_fdatasync(int fd);
int io_fsync(int fd);
int io_truncate(int fd, off_t length);
/* Gives the blocks of a stretch back: it reads as zeros, the length stays. -EOPNOTSUPP: the file system
 * cannot. */
int io_punch(int fd, off_t offset, off_t len);
/* True if the stretch has no blocks. Moves the descriptor's position. */
bool io_is_hole(int fd, off_t offset, off_t len);
int io_rename(const char *from, const char *to);
int io_unlink(const char *path);
int io_link(const char *from, const char *to);

/* Makes a directory; one that is there already is fine. 0 or -errno (-ENOTDIR: something else has
 * the name). The caller syncs the parent. */
int io_make_dir(const char *path, mode_t mode);

/* 0 or -errno. */
int io_file_size(int fd, off_t *out);

/* Bytes of the file system that holds `fd`: all, and those that may still be written without
 * special rights. May wait for the disk. 0 or -errno. */
int io_space(int fd, uint64_t *available, uint64_t *total);

/* fsync() of a directory, so that a crash does not forget the names in it. 0 or -errno. */
int io_sync_dir(const char *path);

/* Replaces the file `name` in the directory `dir` atomically and durably: temporary file, fsync,
 * rename, fsync of the directory. 0 or -errno; on failure the old file is untouched, unless only
 * the last step failed: then the new contents are visible, but a crash may bring the old ones back.
 * The temporary file is NAME.new. */
int io_replace_file(const char *dir, const char *name, const void *data, size_t len);

#endif
