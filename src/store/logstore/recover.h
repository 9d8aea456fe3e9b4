/*
 * recover.h - the parts of a start: the chain of segments, reading them, judging a bad spot, cutting
 *             a torn tail.
 *
 * Used by:  recover.c (the order of the steps), chain.c, replay.c, tail.c. One thread.
 */
#ifndef LOGSTORE_RECOVER_H
#define LOGSTORE_RECOVER_H

#include "store/logstore/logstore.h"

/* A segment file, and what its header says of the one before it. */
struct link {
    struct segment *segment; /* NULL: handed over */
    uint64_t file_bytes;
    uint64_t previous_number;
    uint64_t previous_end;
    uint64_t previous_seq;
    enum {
        LINK_LIVE,       /* of the log */
        LINK_GONE,       /* another one has its records: to be removed */
        LINK_INSTALLING, /* rows name it, and others name the compacted one that stands for it */
    } state;
    bool question; /* a compacted one beside some that it stands for */
};

struct recovery {
    struct logstore *ls;
    bool is_new;
    struct identity on_disk;   /* what STORE says */
    bool rebuild;              /* the index starts empty */
    struct link *links;        /* all files that have a header */
    size_t opened;             /* how many */
    struct segment **segments; /* the log in order: those of the first `count` links */
    size_t count;
    struct segment *last; /* the newest, once all are published */
    uint32_t highest;     /* number of a segment file, that STORE names or that is there */
    uint64_t seq;         /* last record applied */
    bool clean;           /* that was the mark of a clean stop */
    bool cut;             /* a torn tail was cut off */
    size_t replay_from;   /* segments from here on are not known to be synced */
    uint64_t total_bytes; /* to be replayed, for the progress shown */
    uint64_t done_bytes;
    struct big_names big_named; /* files named by replayed records */
};

/* chain.c: opens all segments and reads their headers; what was never begun is put aside. 0 or
 * -errno, logged. */
int chain_open(struct recovery *rc);

/* chain.c: puts them in order, and checks that none is missing. `meta` is the index's, NULL: it is
 * rebuilt. What a compaction has left behind at a crash is told apart: superseded files are
 * LINK_GONE, those of one that was half installed are told in ls->installing. 0; -ESTALE: the
 * index is damaged, or names another file, though nothing is missing: rebuild it; other -errno,
 * logged. */
int chain_settle(struct recovery *rc, const struct index_meta *meta);

/* chain.c: once the start is certain. 0 or -errno, logged. */
int chain_remove_superseded(struct recovery *rc);

/* chain.c: reads a segment's header; *h points into `room` (SEGMENT_HEADER_MAX bytes). 0; 1: it is
 * none; -errno, logged. */
int chain_read_header(struct segment *s, struct segment_header *h, char *room);

/* recover.c: io_fdatasync() or io_fsync() of a segment. 0 or -errno. */
int recover_sync(struct segment *s, int (*sync)(int fd));

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
