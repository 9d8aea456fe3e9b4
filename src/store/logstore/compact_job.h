/*
 * compact_job.h - one compaction: a run of neighbouring segments becomes one.
 *
 * Provides: struct compact_job; compact_copy() (compact_copy.c), compact_install()
 *           (compact_install.c), compact_finish() (compact_finish.c).
 * Used by:  compact.c.
 * Threads:  compaction's own.
 *
 * First the records that are still needed are copied into tmp/, with their seqs and in their order;
 * then the new segment is installed: named, published, and row by row put in the place of the old
 * ones, which leave last. Until a row is moved its record is read from the old file, from then on
 * from the new one; at every moment both are there.
 */
#ifndef LOGSTORE_COMPACT_JOB_H
#define LOGSTORE_COMPACT_JOB_H

#include "store/logstore/logstore.h"

/* A record that was copied and that a row names. */
struct compact_place {
    uint32_t segment;
    uint32_t offset;
    uint32_t new_offset;
};

/* The newest state of a key that is gone; nothing older of the key is left, and its row goes. */
struct compact_gone {
    uint32_t segment;
    uint32_t offset;
};

/* A touch that is not needed any more, because the record that it touches was cut. */
struct compact_untouched {
    uint32_t segment;
    uint32_t offset;
    uint32_t new_offset; /* of the cut record */
};

struct compact_list {
    char *items;
    size_t count;
    size_t room;
};

/* What decides over records; of one moment. */
struct compact_terms {
    struct index_meta meta;  /* of the last checkpoint, the run lies below it */
    struct vectors *vectors; /* the same moment's */
    /* Newest states of gone keys may go up to there: in front of the run nothing older is left. */
    uint64_t removable_seq;
    /* What was superseded by a later version than this stays (--keep-history). UINT64_MAX: nothing
     * does for that. */
    uint64_t history_version;
    const struct segment *next; /* the segment behind the run */
};

struct compact_job {
    struct logstore *ls;
    struct segment **old; /* the run, in log order, referenced */
    bool *dead;           /* of each: nothing in it is named by a row */
    size_t old_count;
    uint32_t number; /* of the new segment */
    char *tmp_path;
    int fd; /* of the new file, until it is a segment's */
    struct segment_header header;
    size_t header_bytes;
    uint64_t end;                  /* bytes of the new file */
    struct vectors *vectors;       /* of the new file */
    struct compact_list kept;      /* struct compact_place, ascending by new_offset */
    struct compact_list gone;      /* struct compact_gone */
    struct compact_list untouched; /* struct compact_untouched, ascending by new_offset */
    uint64_t expected_bytes;       /* of records that the figures say will be copied */
    uint64_t history_bytes;        /* superseded, but young: copied */
    size_t damaged; /* after -EUCLEAN of compact_copy(): this one of `old` cannot be read */
    bool renamed;
    struct segment *made; /* published; a reference of the job's own */
    bool moved;           /* every row names the new places; the old segments are let go */
    uint32_t *numbers;    /* theirs */
};

/* A job for `count` segments (references are taken). NULL: no memory. */
struct compact_job *compact_job_new(struct logstore *ls, struct segment *const *old, size_t count);
/* Removes the file of one that was not installed. */
void compact_job_free(struct compact_job *job);

/* True if the segment is one of those that the job replaces. */
bool compact_job_replaces(const struct compact_job *job, uint32_t number);

/* Adds an item of `size` bytes. 0 or -ENOMEM. */
int compact_list_add(struct compact_list *list, const void *item, size_t size);

/* Copies what is needed into tmp/, complete and synced but for its name. It may stop before the end
 * of the run, at the end of a segment, when the new one is full; job->old_count says so. pace() is
 * told of bytes read and written, waits if need be, and stops the copy with false. 0; -ECANCELED;
 * -EUCLEAN: an old segment is damaged (logged); -errno. Afterwards the job can only be freed, unless
 * 0. */
int compact_copy(struct compact_job *job, const struct compact_terms *terms,
                 struct index_reader *reader,
                 bool (*pace)(struct logstore *ls, uint64_t read, uint64_t written));

/* Puts the copy in the place of the run, and removes the old files. 0; -EAGAIN: not now; -ECANCELED:
 * `stop` was set; -errno. After a failure with job->made set it is to be called again; without, the
 * copy is lost. */
int compact_install(struct compact_job *job, const _Atomic bool *stop);

/* Goes on with an installation that the last run has left half done (ls->installing), to its end.
 * 0; -EAGAIN: not now; -ECANCELED; -EUCLEAN when a segment is damaged; other -errno. */
int compact_finish(struct logstore *ls, const _Atomic bool *stop);

#endif
