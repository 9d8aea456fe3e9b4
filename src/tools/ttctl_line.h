/*
 * ttctl_line.h - the lines of a dump (docs/tools.md): a record each, as text.
 *
 * Provides: struct line_writer (a record to a line), struct line_reader (a line to a record).
 * Used by:  ttctl dump and load; tests.
 * Threads:  one.
 *
 * A value may be longer than memory: it comes and goes in pieces.
 */
#ifndef TOOLS_TTCTL_LINE_H
#define TOOLS_TTCTL_LINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/slice.h"
#include "store/record.h"

/* The first line. */
#define LINE_MAGIC "#ttdump 1"

/* A value whose first so many bytes are text is written as text. */
#define LINE_LOOK_BYTES 1024u

/* ---- writing ---- */

struct line_writer {
    FILE *to;
    enum { LINE_UNDECIDED, LINE_TEXT, LINE_BASE64 } mode;
    size_t kept; /* bytes in `keep`: until the mode is known, or until three make four */
    unsigned char keep[LINE_LOOK_BYTES];
};

/* Key and fields; the value follows. Errors of the stream are the caller's to look for. */
void line_begin(struct line_writer *w, FILE *to, struct slice key, uint32_t flags,
                int64_t expires_ms, struct slice attrs);
void line_value(struct line_writer *w, struct slice piece);
void line_end(struct line_writer *w);

/* ---- reading ---- */

struct line_reader {
    FILE *from;
    uint64_t number; /* of the present line, from 1 */
    struct buf column;
    struct buf key_room;
    struct buf attrs_room;
    /* of the present record */
    struct slice key;
    struct slice attrs; /* an encoded list */
    uint32_t flags;
    int64_t expires_ms;
    bool base64;
    bool at_end; /* the value's last byte was given */
    unsigned char keep[4];
    size_t kept;
    const char *error; /* why the present line is no record */
};

enum line_found {
    LINE_RECORD, /* its value is next */
    LINE_BAD,    /* reader->error says why; the rest of the line was passed over */
    LINE_NONE,   /* the end of the input */
};

void line_reader_begin(struct line_reader *r, FILE *from);
void line_reader_end(struct line_reader *r);

/* The next line that is no comment. If the value before was not read to its end, the rest of it is
 * passed over. */
enum line_found line_next(struct line_reader *r);

/* The next bytes of the value. 0: there are no more; -1: the line is malformed or cut off there
 * (error). */
ssize_t line_read_value(struct line_reader *r, char *room, size_t len);

/* Passes over the line that comes next, whatever it holds. False: there is none. */
bool line_skip(struct line_reader *r);

#endif
