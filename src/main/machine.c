/*
 * machine.c - what this machine allows: see machine.h.
 */
#include "main/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/io.h"
#include "base/num.h"

enum { RESERVED_DESCRIPTORS = 500, FILE_TEXT_MAX = 4096 };

unsigned machine_cores(void)
{
    cpu_set_t set;
    int count;

    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    count = CPU_COUNT(&set);
    return count < 1 ? 1 : (unsigned)count;
}

/* The first line of a small file without its end, or an empty slice. */
static struct slice read_line(const char *path, char room[FILE_TEXT_MAX])
{
    ssize_t len;
    const char *end;
    int fd = io_open(path, O_RDONLY, 0);

    if (fd < 0)
        return slice_of(room, 0);
    len = io_read_upto(fd, room, FILE_TEXT_MAX, 0);
    close(fd);
    if (len <= 0)
        return slice_of(room, 0);
    end = memchr(room, '\n', (size_t)len);
    return slice_of(room, end == NULL ? (size_t)len : (size_t)(end - room));
}

/* memory.max of our control group (version 2); UINT64_MAX: no limit to be found. */
static uint64_t cgroup_memory(void)
{
    char room[FILE_TEXT_MAX], path[FILE_TEXT_MAX];
    struct slice line = read_line("/proc/self/cgroup", room);
    struct slice prefix = slice_str("0::/");
    uint64_t bytes;

    if (!slice_starts(line, prefix))
        return UINT64_MAX;
    line = slice_after(line, prefix.len);
    if (snprintf(path, sizeof(path), "/sys/fs/cgroup/%.*s/memory.max", (int)line.len, line.ptr) >=
        (int)sizeof(path))
        return UINT64_MAX;
    if (!parse_u64(read_line(path, room), &bytes))
        return UINT64_MAX; /* "max", or not there */
    return bytes;
}

uint64_t machine_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    uint64_t machine = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
    uint64_t group = cgroup_memory();

    return group < machine ? group : machine;
}

uint64_t machine_raise_descriptors(void)
{
    struct rlimit limit;
    rlim_t before;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1024;
    before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return before;
    return limit.rlim_cur;
}

uint64_t machine_max_conns(uint64_t descriptors)
{
    if (descriptors < 2 * RESERVED_DESCRIPTORS)
        return descriptors < 4 ? 1 : descriptors / 2;
    return descriptors - RESERVED_DESCRIPTORS;
}
