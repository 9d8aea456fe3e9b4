/*
 * aio_cached.c - is it in the page cache? (aio.h)
 *
 * Provides: aio_is_cached() aio_read_cached() aio_disable_cachestat().
 * Threads:  any; what this kernel lacks is found out by the first call and kept in an atomic.
 */
#include "base/aio.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
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

/* Without cachestat: up to PROBE_MAX bytes the ends speak for all (1.5 us), up to MAP_MAX mincore()
 * on a mapping made for the question is asked (6 us; a needless read ahead of 100 KB would cost
 * 30). */
enum { PROBE_MAX = 64 << 10, MAP_MAX = 1 << 20, MAP_PAGES_MAX = (MAP_MAX >> 12) + 2 };

static _Atomic bool cachestat_missing;

void aio_disable_cachestat(void)
{
    atomic_store(&cachestat_missing, true);
}

static size_t page_bytes(void)
{
    static _Atomic size_t known;
    size_t bytes = atomic_load_explicit(&known, memory_order_relaxed);

    if (bytes == 0) {
        bytes = (size_t)sysconf(_SC_PAGESIZE);
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
    return page_is_cached(fd, offset + (off_t)len - 1) && page_is_cached(fd, offset);
}

static bool pages_are_cached(int fd, off_t offset, size_t len)
{
    unsigned char resident[MAP_PAGES_MAX];
    size_t page = page_bytes();
    size_t lead = (size_t)offset % page;
    size_t pages = (lead + len + page - 1) / page;
    void *map = mmap(NULL, lead + len, PROT_READ, MAP_SHARED, fd, offset - (off_t)lead);
    bool all;

    if (map == MAP_FAILED)
        return false;
    all = mincore(map, lead + len, resident) == 0;
    for (size_t i = 0; all && i < pages; i++)
        all = (resident[i] & 1) != 0;
    munmap(map, lead + len);
    return all;
}

static bool is_cached_without_cachestat(int fd, off_t offset, size_t len)
{
    if (len <= PROBE_MAX)
        return ends_are_cached(fd, offset, len);
    return len <= MAP_MAX && pages_are_cached(fd, offset, len);
}

bool aio_is_cached(int fd, off_t offset, size_t len)
{
    struct cachestat_range_arg range = {(uint64_t)offset, len};
    struct cachestat_result result;
    uint64_t page = page_bytes();

    if (len == 0)
        return true;
    if (atomic_load_explicit(&cachestat_missing, memory_order_relaxed))
        return is_cached_without_cachestat(fd, offset, len);
    if (syscall(SYS_cachestat, fd, &range, &result, 0) != 0) {
        /* EPERM: a filter of system calls that does not know it. EOPNOTSUPP is of this file. */
        if (errno == ENOSYS || errno == EPERM)
            aio_disable_cachestat();
        return is_cached_without_cachestat(fd, offset, len);
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
