/*
 * aio_cached.c - is it in the page cache? (aio.h)
 *
 * Provides: aio_is_cached() aio_read_cached() aio_disable_cachestat().
 * Threads:  any; what this kernel lacks is found out by the first call and kept in an atomic.
 */
#include "base/aio.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Linux 6.5; the C library of Debian 12 has no name for it. The number is the same on every
 * architecture. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* The kernel's structures (linux/mman.h since 6.5). */
struct cachestat_range_arg {
    uint64_t offset;
    uint64_t length;
};

struct cachestat_result {
    uint64_t cached;
    uint64_t dirty;
    uint64_t writeback;
    uint64_t evicted;
    uint64_t recently_evicted;
};

enum { PROBE_MAX = 64 << 10 }; /* larger ranges are not judged by their ends */

static _Atomic bool cachestat_missing;

void aio_disable_cachestat(void)
{
    atomic_store(&cachestat_missing, true);
}

static uint64_t page_bytes(void)
{
    static _Atomic uint64_t known;
    uint64_t bytes = atomic_load_explicit(&known, memory_order_relaxed);

    if (bytes == 0) {
        bytes = (uint64_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}

static bool page_is_cached(int fd, off_t offset)
{
    char byte;

    return aio_read_cached(fd, &byte, 1, offset) == 1;
}

/* Necessary, not sufficient: a page in the middle may be missing. */
static bool ends_are_cached(int fd, off_t offset, size_t len)
{
    if (len > PROBE_MAX)
        return false;
    return page_is_cached(fd, offset + (off_t)len - 1) && page_is_cached(fd, offset);
}

bool aio_is_cached(int fd, off_t offset, size_t len)
{
    struct cachestat_range_arg range = {(uint64_t)offset, len};
    struct cachestat_result result;
    uint64_t page = page_bytes();

    if (len == 0)
        return true;
    if (atomic_load_explicit(&cachestat_missing, memory_order_relaxed))
        return ends_are_cached(fd, offset, len);
    if (syscall(SYS_cachestat, fd, &range, &result, 0) != 0) {
        /* EPERM: a filter of system calls that does not know it. EOPNOTSUPP is of this file. */
        if (errno == ENOSYS || errno == EPERM)
            aio_disable_cachestat();
        return ends_are_cached(fd, offset, len);
    }
    return result.cached >= ((uint64_t)offset + len - 1) / page - (uint64_t)offset / page + 1;
}

ssize_t aio_read_cached(int fd, void *buf, size_t len, off_t offset)
{
    struct iovec iov = {buf, len};

    for (;;) {
        ssize_t n = preadv2(fd, &iov, 1, offset, RWF_NOWAIT);

        if (n >= 0)
            return n;
        if (errno == EOPNOTSUPP) /* this file system cannot tell */
            return -EAGAIN;
        if (errno != EINTR)
            return -errno;
    }
}
