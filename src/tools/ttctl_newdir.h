/*
 * ttctl_newdir.h - a new data directory out of records that a walk gives.
 *
 * Provides: struct newdir, newdir_begin(), newdir_take(), newdir_finish(), newdir_free().
 * Used by:  repair, restore.
 * Threads:  one.
 *
 * The new store keeps the uuid, the seqs and the stamps of the old one, and begins a new epoch and a
 * new history (docs/format.md, "STORE").
 */
#ifndef TOOLS_TTCTL_NEWDIR_H
#define TOOLS_TTCTL_NEWDIR_H

#include <limits.h>

#include "store/logstore/walk.h"

struct newdir {
    struct walk *w;
    const char *to;
    bool clears_held; /* the vector of what is held begins anew: records may be missing */
    struct identity id;
    /* the segment that is being written */
    int fd; /* or -1 */
    char path[PATH_MAX];
    struct segment_header header;
    struct buf vectors;
    struct buf out;
    uint64_t end; /* of what is on the file or in `out` */
    uint64_t last_seq;
    const struct walk_segment *source;
    uint32_t number; /* the highest that is taken */
    bool has_segment;
    uint64_t kept; /* records */
};

/* Makes the directory `to` (missing or empty) with its folders, for records of `w`, of which all has
 * been walked once. 0 or -errno (said). newdir_free() in every case. */
int newdir_begin(struct newdir *n, struct walk *w, const char *to, bool clears_held);

/* Adds the record that the walk has just given. 0 or -errno. */
int newdir_take(struct newdir *n, const struct walk_record *rec);

/* Closes the log with the walk's present state as its end, and makes a store of it. 0 or -errno. */
int newdir_finish(struct newdir *n);

void newdir_free(struct newdir *n);

#endif
