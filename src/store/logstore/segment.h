/*
 * segment.h - segment files: their header, their mapping, and the table by which readers find them.
 *
 * Provides: struct segment (one open file), struct segment_header (docs/format.md, "Segment"),
 *           struct segment_table.
 * Used by:  writer, readers, recovery, spool (a big value's file is a segment of one record).
 * Threads:  a segment is immutable but for what says otherwise; references are counted. segments.c
 *           changes the table in place; what leaves it is freed when grace.h allows it.
 */
#ifndef LOGSTORE_SEGMENT_H
#define LOGSTORE_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"
#include "store/logstore/pins.h"
#include "store/record.h"

#define SEGMENT_HEADER_FIXED 192u
#define SEGMENT_HEADER_MAX (SEGMENT_HEADER_FIXED + 64u * 1024)
#define SEGMENT_FORMAT 1u

/* Residency is remembered per granule of this size. */
#define SEGMENT_GRANULE_SHIFT 16

/* A record of more bytes than this can be remembered as verified: no two such records begin in the
 * same granule of the file. */
#define SEGMENT_VERIFY_SHIFT 12
#define SEGMENT_VERIFY_BYTES (1u << SEGMENT_VERIFY_SHIFT)

struct segment_header {
    unsigned char store_uuid[16];
    uint64_t number;          /* of the file, from 1, never used twice; of a big value its own */
    bool big_value;           /* the file holds one value that a log record names */
    uint64_t history;         /* the history in which first_seq was written */
    uint64_t first_seq;       /* of the first record written here */
    uint64_t previous_number; /* 0: this is the first segment */
    uint64_t previous_end;    /* bytes of the previous segment that hold records */
    uint64_t previous_seq;    /* its last record */
    int64_t created_ms;
    uint64_t clock; /* highest log clock version before this segment */
    /* highest `logged` version of a successor that let a record of here go; 0: none */
    uint64_t let_go;
    struct stamp flush; /* newest flush in force before this segment */
    struct stamp flush_pending;
    int64_t flush_pending_ms;
    /* Compacted: made out of a run of segments. last_seq: up to where it stands for them (records
     * may be missing); clean_seq: every record here that is superseded by one up to there was let
     * go; end: bytes of the file. All 0 in other segments. */
    bool compacted;
    uint64_t last_seq;
    uint64_t clean_seq;
    uint64_t end;
    struct slice vectors; /* replication vectors and positions before this segment */
};

/* Writes the header; out has room for SEGMENT_HEADER_FIXED + vectors.len bytes. Returns its length:
 * records start there. */
size_t segment_header_encode(const struct segment_header *h, unsigned char *out);

/* Reads a header. vectors points into bytes. RECORD_DONE, RECORD_MORE, RECORD_BAD; *length: where
 * records start. */
enum record_parse segment_header_decode(struct slice bytes, struct segment_header *h,
                                        size_t *length);

struct segment {
    _Atomic uint32_t refs;
    uint32_t number;
    int fd;
    /* records from this offset on were written or verified by this process */
    _Atomic uint64_t trusted_from;
    /* a bit per granule of SEGMENT_VERIFY_BYTES: the large record that begins there was verified by
     * this process; NULL: none was. Bits are only ever set, as records never change. */
    _Atomic(_Atomic uint64_t *) verified;
    size_t file_bytes; /* more than the file will ever have */
    const char *map;   /* read-only, map_bytes long; NULL when mapping was refused */
    size_t map_bytes;
    /* per granule: second in which it was last seen in the page cache, never 0 */
    _Atomic uint16_t *proofs;
    uint64_t first_seq;
    uint64_t last_seq;  /* of a closed segment: the last seq that it stands for; else 0 */
    uint64_t clean_seq; /* as in the header */
    bool compacted;
    uint32_t header_bytes;
    _Atomic uint64_t end; /* bytes that hold records; grows only */
    char *path;
    struct pin pin; /* once its file has lost its name */
};

/* Wraps an open file; maps `map_bytes`. Takes over fd and a copy of path. One reference. 0 or
 * -ENOMEM. */
int segment_new(uint32_t number, int fd, const char *path, size_t map_bytes, struct segment **out);
void segment_ref(struct segment *s);
void segment_unref(struct segment *s);

/* Copies [offset, offset+len) to out if all of it was seen in the page cache a moment ago. `second`
 * is the current one. False: not known to be there, or the mapping failed (an I/O error): read it
 * by file. */
bool segment_copy_mapped(struct segment *s, uint64_t offset, size_t len, char *out,
                         uint16_t second);

/* Remembers that the range was in the page cache. */
void segment_proved(struct segment *s, uint64_t offset, size_t len, uint16_t second);

/* Remembers that all checksums of a record of more than SEGMENT_VERIFY_BYTES were good. */
void segment_set_verified(struct segment *s, uint64_t offset);

/* True: this process has written or verified the record of `length` bytes, so that it may be sent
 * without looking at it. */
bool segment_is_trusted(const struct segment *s, uint64_t offset, uint64_t length);

/* Installs the SIGBUS handler that turns an I/O error under a mapping into a failed copy. Once,
 * before threads. */
void segment_install_guard(void);

/* Where readers find segments by number. Numbers are given in the order of their making and leave
 * gaps where compaction has taken files away: pages of pointers, those without any are not there. */
#define SEGMENT_PAGE_SHIFT 9
#define SEGMENT_PAGE_SLOTS (1u << SEGMENT_PAGE_SHIFT)

struct segment_page {
    _Atomic(struct segment *) at[SEGMENT_PAGE_SLOTS];
};

struct segment_table {
    uint32_t first; /* page of at[0] */
    uint32_t count;
    _Atomic(struct segment_page *) pages[];
};

/* Inside grace. NULL: no such segment. */
static inline struct segment *segment_find(const struct segment_table *t, uint32_t number)
{
    uint32_t page = number >> SEGMENT_PAGE_SHIFT;
    const struct segment_page *p;

    if (t == NULL || page - t->first >= t->count)
        return NULL;
    p = atomic_load_explicit(&t->pages[page - t->first], memory_order_acquire);
    return p == NULL ? NULL
                     : atomic_load_explicit(&p->at[number % SEGMENT_PAGE_SLOTS],
                                            memory_order_acquire);
}

#endif
