/*
 * recover.h - the parts of a start: reading segments, judging a bad spot, cutting a torn tail.
 *
 * Used by:  recover.c (the order of the steps), replay.c, tail.c. One thread.
 */
#ifndef LOGSTORE_RECOVER_H
#define LOGSTORE_RECOVER_H

#include "store/logstore/logstore.h"

struct recovery {
    struct logstore *ls;
    bool is_new;
    struct identity on_disk; /* what STORE says */
    bool rebuild;            /* the index starts empty */
    uint32_t *numbers;       /* segment files, ascending */
    size_t count;
    struct segment **segments; /* the same, opened; published to readers too */
    struct segment *last;      /* the newest, once all are published */
    uint32_t highest;          /* number of a segment file, that STORE names or that is there */
    uint64_t seq;              /* last record applied */
    bool clean;                /* that was the mark of a clean stop */
    bool cut;                  /* a torn tail was cut off */
    size_t replay_from;        /* segments from here on are not known to be synced */
    uint64_t total_bytes;      /* to be replayed, for the progress shown */
    uint64_t done_bytes;
    uint64_t *big_named; /* files named by replayed records */
    size_t big_count;
    size_t big_room;
    uint64_t big_first; /* files from here on may be orphans */
};

/* How a segment's replay ended. */
enum replay_end { REPLAY_AT_END, REPLAY_BAD_SPOT };

/* replay.c: applies the records of segment i from *offset on, up to `end` bytes of the file.
 * *offset: where it stopped. 0 or -errno. */
int replay_segment(struct recovery *rc, size_t i, uint64_t *offset, uint64_t end,
                   enum replay_end *how);

/* tail.c: what stands at the bad spot in segment i? 0: only zeros behind it (a clean end); 1: a
 * torn tail, to be cut; -EUCLEAN: damage of what was synced, logged with file, offset and the ways
 * out; -errno. */
int tail_judge(struct recovery *rc, size_t i, uint64_t offset);

/* tail.c: is there a good record anywhere in the file? 1, 0, or -errno. */
int tail_holds_records(const struct recovery *rc, struct segment *s);

/* tail.c: saves and cuts off everything from the spot on, later segments too. Says what went and
 * where it is. */
int tail_cut(struct recovery *rc, size_t i, uint64_t offset);

#endif
