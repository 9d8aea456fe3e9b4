/*
 * walk.h - a read-only walk over a data directory: segments in the log's order, their records, the
 *          files of big values, all of it checked.
 *
 * Provides: walk_open(), walk_next() and the rest of walk_*().
 * Used by:  ttctl's commands on a directory; tests. Never by the server.
 * Threads:  one.
 *
 * Nothing is written, and nothing is believed: whatever does not fit is told to `found`, and the
 * walk goes on behind it with the next good record. Of a store whose last run did not stop cleanly
 * the unfinished end is told apart from damage, by the rule of tail.c.
 */
#ifndef LOGSTORE_WALK_H
#define LOGSTORE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"
#include "store/logstore/identity.h"
#include "store/logstore/segment.h"
#include "store/record.h"

enum walk_kind {
    WALK_DAMAGE, /* what was written cannot be read, or is missing */
    WALK_TORN,   /* the end of a run that did not stop cleanly: the next start cuts it off */
    WALK_NOTE,   /* nothing is wrong: leftovers that the next start removes */
};

struct walk_finding {
    enum walk_kind kind;
    const char *path;
    uint64_t offset;
    uint64_t bytes; /* from there on; 0: not known, or all of the file */
    const char *reason;
    uint64_t first_seq; /* records that are gone there; 0: not known */
    uint64_t last_seq;
    bool has_key; /* of the damaged record, as it can be read */
    struct slice key;
};

enum walk_lock {
    WALK_UNLOCKED, /* a server may be at work: the newest records may be missed */
    WALK_SHARED,   /* no server may run meanwhile */
    WALK_ALONE,    /* no server and no other tool */
};

struct walk_options {
    enum walk_lock lock;
    bool
        superseded; /* also the segments that a compacted one stands for, if they are still there */
    void (*found)(const struct walk_finding *f, void *arg); /* may be NULL */
    void *arg;
};

struct walk_segment {
    uint32_t number; /* of the name */
    char *path;
    uint64_t file_bytes;
    bool has_header; /* a good one; else `header` is empty */
    struct segment_header header;
    struct buf vectors;    /* header.vectors points into it */
    uint64_t records_from; /* where the first record stands */
    uint64_t first_seq;
    uint64_t last_seq; /* of the records that it stands for; 0: it is the newest, or not known */
    uint64_t end;      /* bytes that hold records; file_bytes where has_end is false */
    bool has_end;
    bool superseded; /* a compacted segment stands for it */
    bool ignored;    /* of another store, or never begun */
    bool gap_before; /* the segment before it is missing (told) */
};

/* What the walk has passed: as of the record that walk_next() gave last. */
struct walk_state {
    uint64_t seq;
    uint64_t clock;      /* highest version seen */
    struct stamp logged; /* of the newest record */
    struct stamp flush;
    struct stamp pending;
    int64_t pending_ms; /* 0: none */
    bool clean;         /* the last record is the mark of a clean stop */
    struct vectors vectors;
};

struct walk_record {
    const struct walk_segment *segment;
    uint64_t offset;
    uint64_t length;
    struct record r;    /* its slices point into the walk's buffer, until the next call */
    struct slice bytes; /* the whole record */
};

struct walk {
    char *dir;
    int lock_fd; /* or -1 */
    struct walk_options options;
    struct identity id; /* STORE's; made up from headers where that cannot be read */
    bool has_identity;  /* STORE could be read */
    uint64_t salt;
    struct walk_segment *segments; /* in the log's order */
    size_t count;
    uint32_t *by_number; /* places in `segments`, by their numbers */
    uint64_t total_bytes;
    uint64_t done_bytes;
    struct walk_state state;
    /* walk_read.c's own */
    size_t at; /* present segment */
    bool entered;
    bool ended;
    int fd;
    uint64_t offset;
    uint64_t expected;         /* seq of the next record; 0: any */
    uint64_t expected_outside; /* the same, behind the superseded segments in between */
    struct buf window;         /* bytes of the present segment ... */
    uint64_t window_at;        /* ... from here on */
};

/* Room for the reason of a failed walk_open(). */
#define WALK_WHY_MAX 512

/* Opens the directory: takes the lock, reads STORE and the headers, finds the order, checks the
 * chain. 0, or -errno with the reason in `why`. */
int walk_open(const char *dir, const struct walk_options *options, struct walk **out,
              char why[WALK_WHY_MAX]);
void walk_close(struct walk *w);

/* The segment with this number; NULL: there is none. */
const struct walk_segment *walk_find(const struct walk *w, uint32_t number);

/* The next good record in the log's order. 1: there is one; 0: the log ends; -errno. */
int walk_next(struct walk *w, struct walk_record *out);

/* Begins again before the first record, or with the segment that holds record `seq`. */
void walk_rewind(struct walk *w);
void walk_seek(struct walk *w, uint64_t seq);

/* Tells one finding to whoever opened the walk. */
void walk_tell(const struct walk *w, const struct walk_finding *f);

/* True if a record with this base is dead by a flush, as of now_ms. */
bool walk_is_flushed(const struct walk_state *state, struct stamp base, int64_t now_ms);

/* ---- walk_state.c: what records do to the state ---- */

void walk_state_enter(struct walk_state *state, const struct walk_segment *s);
void walk_state_apply(struct walk_state *state, const struct record *r);

/* ---- walk_read.c: single records ---- */

/* Reads the record at a place into `room`, checked. 0, -EUCLEAN with *reason, or -errno. */
int walk_read_at(struct walk *w, const struct walk_segment *s, uint64_t offset, struct buf *room,
                 struct walk_record *out, const char **reason);

/* ---- walk_big.c: values in files of their own ---- */

/* Path of the file; malloc'd, NULL when memory is short. */
char *walk_big_path(const struct walk *w, uint64_t number);

/* Reads the file that a record names and checks all of it; each() (may be NULL) gets the value's
 * pieces, before the sum is known, and ends the reading with something other than 0. 0, -ENOENT,
 * -EUCLEAN with *reason, each()'s result, or -errno. */
int walk_big_read(const struct walk *w, const struct record *r,
                  int (*each)(struct slice piece, void *arg), void *arg, const char **reason);

/* Calls each() for every file below big/. 0 or -errno. */
int walk_big_files(const struct walk *w, void (*each)(uint64_t number, const char *path, void *arg),
                   void *arg);

#endif
