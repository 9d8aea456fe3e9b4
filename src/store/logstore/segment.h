/*
 * segment.h - segment files: their header, what is known of them, their open files and mappings, and
 *             the table by which readers find them.
 *
 * Provides: struct segment (one of the log's files), struct segment_file (the same when it is
 *           open), struct segment_header (docs/format.md, "Segment"), struct segment_table.
 * Used by:  writer, readers, recovery, spool (a big value's file is a segment of one record).
 * Threads:  a segment is immutable but for what says otherwise; references are counted. segments.c
 *           changes the table in place; what leaves it is freed when grace.h allows it.
 */
#ifndef LOGSTORE_SEGMENT_H
#define LOGSTORE_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

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

/* The open file of a segment: its descriptor and its mapping. */
struct segment_file {
    _Atomic uint32_t refs;
    int fd;
    const char *map; /* read-only, map_bytes long; NULL when mapping was refused */
    size_t map_bytes;
    /* per granule: second in which it was last seen in the page cache, never 0 */
    _Atomic uint16_t *proofs;
    _Atomic bool used; /* since the cache has looked last */
};

struct segment_cache;

struct segment {
    _Atomic uint32_t refs;
    uint32_t number;
    _Atomic(struct segment_file *) file; /* NULL: closed; the segment's reference */
    struct segment_cache *cache;         /* closes files that are not in use; NULL: none does */
    size_t cache_place;                  /* cache's own */
    _Atomic bool keep_open;              /* the file is not to be closed */
    /* records from this offset on were written or verified by this process */
    _Atomic uint64_t trusted_from;
    /* a bit per granule of SEGMENT_VERIFY_BYTES: the large record that begins there was verified by
     * this process; NULL: none was. Bits are only ever set, as records never change. */
    _Atomic(_Atomic uint64_t *) verified;
    size_t file_bytes; /* more than the file will ever have */
    uint64_t first_seq;
    uint64_t last_seq;  /* of a closed segment: the last seq that it stands for; else 0 */
    uint64_t clean_seq; /* as in the header */
    bool compacted;
    uint32_t header_bytes;
    _Atomic uint64_t end; /* bytes that hold records; grows only */
    char *path;
    struct pin pin; /* once its file has lost its name */
};

/* A segment whose file is not open yet. `file_bytes`: more than the file will ever have. One
 * reference. 0 or -ENOMEM. */
int segment_make(uint32_t number, const char *path, size_t file_bytes, struct segment **out);
/* The same with its file open: takes over fd, unless it fails. */
int segment_new(uint32_t number, int fd, const char *path, size_t file_bytes, struct segment **out);
void segment_ref(struct segment *s);
void segment_unref(struct segment *s);

/* ---- open files ---- */

/* A reference to the open file, which is opened if need be; the segment is referenced. May wait for
 * the disk. 0 or -errno, nothing logged. */
int segment_open(struct segment *s, struct segment_file **out);
static inline void segment_file_ref(struct segment_file *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
}
void segment_file_unref(struct segment_file *f);

/* Inside grace: the file, if it is open. */
static inline struct segment_file *segment_peek(struct segment *s)
{
    struct segment_file *f = atomic_load_explicit(&s->file, memory_order_acquire);

    if (f != NULL && !atomic_load_explicit(&f->used, memory_order_relaxed))
        atomic_store_explicit(&f->used, true, memory_order_relaxed);
    return f;
}

/* The descriptor of a segment that is kept open. */
static inline int segment_fd(const struct segment *s)
{
    return atomic_load_explicit(&s->file, memory_order_relaxed)->fd;
}

/* Reads up to `len` bytes; may open the file and wait for the disk. Bytes read or -errno. */
ssize_t segment_read(struct segment *s, void *out, size_t len, uint64_t offset);

/* Copies [offset, offset+len) to out if all of it was seen in the page cache a moment ago. `second`
 * is the current one. False: not known to be there, or the mapping failed (an I/O error): read it
 * by file. */
bool segment_copy_mapped(struct segment_file *f, uint64_t offset, size_t len, char *out,
                         uint16_t second);

/* Remembers that the range was in the page cache. */
void segment_proved(struct segment_file *f, uint64_t offset, size_t len, uint16_t second);

/* ---- what was verified ---- */

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
    return p == NULL
               ? NULL
               : atomic_load_explicit(&p->at[number % SEGMENT_PAGE_SLOTS], memory_order_acquire);
}

#endif
