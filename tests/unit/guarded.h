/*
 * guarded.h - copies that end right before a page that cannot be read.
 *
 * Provides: guarded_copy().
 * Used by:  tests of parsers: reading one byte too far is a crash and not luck, also without a
 *           sanitizer.
 * Threads:  one.
 */
#ifndef TESTS_GUARDED_H
#define TESTS_GUARDED_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* So many copies are alive at a time; an older one is unmapped, so that its use crashes too. */
enum { GUARDED_ALIVE = 64 };

/* A copy of len bytes at data; the byte behind it cannot be touched. Valid until GUARDED_ALIVE
 * further calls. Never fails (ends the test). */
static inline char *guarded_copy(const void *data, size_t len)
{
    static struct {
        char *base;
        size_t size;
    } alive[GUARDED_ALIVE];
    static size_t next;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (len + page - 1) / page * page;
    char *base =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED || mprotect(base + room, page, PROT_NONE) != 0) {
        perror("guarded_copy");
        abort();
    }
    if (alive[next].base != NULL)
        munmap(alive[next].base, alive[next].size);
    alive[next].base = base;
    alive[next].size = room + page;
    next = (next + 1) % GUARDED_ALIVE;
    if (len > 0)
        memcpy(base + room - len, data, len);
    return base + room - len;
}

#endif
