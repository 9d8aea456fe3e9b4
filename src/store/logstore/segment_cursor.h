/*
 * segment_cursor.h - the records of a segment one after the other, every one checked.
 *
 * Provides: struct segment_cursor: open, next, close.
 * Used by:  compaction (the segments that it copies, and the one that it has made).
 * Threads:  a cursor belongs to one thread. It has a descriptor of its own, so that reading ahead
 *           for it is not reading ahead for others.
 */
#ifndef LOGSTORE_SEGMENT_CURSOR_H
#define LOGSTORE_SEGMENT_CURSOR_H

#include <stdint.h>

#include "store/logstore/segment.h"
#include "store/record.h"

struct segment_cursor {
    int fd;
    uint64_t salt;
    uint64_t next; /* offset of the next record */
    uint64_t end;  /* bytes of the file that hold records */
    char *window;  /* bytes of the file ... */
    size_t room;
    size_t len;
    uint64_t window_at; /* ... from here on */
};

/* Begins behind the header of a segment whose records end at `end`. 0 or -errno, nothing logged. */
int segment_cursor_open(struct segment_cursor *c, const struct segment *s, uint64_t end,
                        uint64_t salt);
void segment_cursor_close(struct segment_cursor *c);

/* The next record: its fields, its bytes and its offset; the slices live until the next call. 1: it
 * is there; 0: the end; -EUCLEAN: no good record stands at c->next; other -errno. */
int segment_cursor_next(struct segment_cursor *c, struct record *r, struct slice *bytes,
                        uint64_t *offset);

#endif
