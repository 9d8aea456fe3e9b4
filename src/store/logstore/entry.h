/*
 * entry.h - what the index knows of a key: where its record lies and what guards and expiry need.
 *
 * Provides: struct entry, and its bytes in a row of the index.
 * Used by:  delta, index, writer, reader, checkpoint.
 * Threads:  plain data.
 */
#ifndef LOGSTORE_ENTRY_H
#define LOGSTORE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "store/record.h"

struct entry {
    uint32_t segment;       /* number of the segment file */
    uint32_t offset;        /* of the record in it */
    uint32_t length;        /* of the whole record in the log */
    uint32_t touch_segment; /* with has_touch: where the newest touch record lies */
    uint32_t touch_offset;
    uint32_t touch_length;
    bool has_touch;
    /* put, counter, or delete: a tombstone is an entry too, and so is a swept record, which lies
     * where it lay */
    enum record_kind kind;
    struct stamp base;
    int64_t expires_ms; /* the expiry register, 0 = never */
    uint64_t cas;       /* as clients see it; base.version unless client-chosen or a counter */
    uint64_t big_file;  /* with big_bytes > 0: number of the value's own file */
    uint64_t big_bytes; /* length of the value in it */
};

/* True if it has expired. */
static inline bool entry_is_late(const struct entry *e, int64_t now_ms)
{
    return e->expires_ms != 0 && e->expires_ms <= now_ms;
}

#define ENTRY_ROW_MAX 79 /* bytes */

/* When the entry is to be looked for by the sweep: never negative; 0: it does not expire. */
int64_t entry_moment(const struct entry *e);

/* Writes the row of an entry to out (ENTRY_ROW_MAX bytes); returns its length. `filed_ms`: under which
 * moment the table of expiries has it; ignored if it does not expire. */
size_t entry_encode_filed(const struct entry *e, int64_t filed_ms, unsigned char *out);
/* The same, under its own moment. */
size_t entry_encode(const struct entry *e, unsigned char *out);

/* False if the bytes are no row; *out is then undefined. *filed_ms: 0 if it does not expire. */
bool entry_decode_filed(struct slice row, struct entry *out, int64_t *filed_ms);
bool entry_decode(struct slice row, struct entry *out);

#endif
