/*
 * index.h - the durable index: LMDB, key -> entry, and the checkpoint's position. All of it can be
 * rebuilt from the log.
 *
 * Provides: struct index (environment), struct index_reader (one per port), index_apply() for
 *           checkpoints.
 * Used by:  logstore's readers, checkpoint, recovery, scans.
 * Threads:  one reader struct belongs to one thread; index_apply() from one thread at a time.
 *
 * LMDB: MDB_NOTLS, MDB_NORDAHEAD, no MDB_WRITEMAP (a full disk must be an error, not SIGBUS), a map
 * of 1 TiB of address space from the start, one reset/renewed read transaction per reader. Index
 * key = byte 1 + key (up to 494 bytes), or byte 2 + the first 494 bytes + XXH3-128 of the whole
 * key, big-endian. The value of an index row is in docs/format.md.
 */
#ifndef LOGSTORE_INDEX_H
#define LOGSTORE_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "store/logstore/delta.h"
#include "store/logstore/entry.h"

#define INDEX_KEY_MAX 511
/* First byte of an index key. */
enum { INDEX_FAMILY_PLAIN = 1, INDEX_FAMILY_HASHED = 2 };
/* Bytes of a key that stand in its index key; longer keys are hashed. */
#define INDEX_PREFIX_MAX 494
#define INDEX_VECTORS_MAX (64u * 1024)

/* Where the index stands: it holds everything up to there and nothing behind it. */
struct index_meta {
    unsigned char store_uuid[16];
    uint64_t history;
    uint64_t seq;               /* the last record that is in */
    uint32_t segment;           /* replay goes on in this segment */
    uint64_t offset;            /* at this byte */
    uint64_t live_count;        /* records that are not tombstones (expired ones count) */
    uint64_t clock;             /* highest log clock version up to there */
    struct stamp flush;         /* newest flush in force; version 0: none */
    struct stamp flush_pending; /* stamp of the newest delayed flush; version 0: none */
    int64_t flush_pending_ms;   /* its moment */
    /* Records up to there are not in live_count. The same as `flush`, or below it while the sweep
     * still looks for what a flush has killed among younger records. */
    struct stamp flush_counted;
    struct slice vectors; /* replication vectors and positions, encoded by the caller */
};

struct index;
struct index_reader;

/* Opens or creates DIR/data.mdb (the directory is made if missing). `readers`: how many
 * index_reader there will be. 0; -EUCLEAN when what is there is not a usable index of this format
 * (rebuild it); other -errno, logged. */
int index_open(const char *dir, unsigned readers, struct index **out);
void index_close(struct index *index);

/* For tools: opens an index that nobody writes, to be read only; the file stays whatever is found.
 * 0; -ENOENT; -EUCLEAN with *why when it cannot be used; other -errno. Nothing is logged. */
int index_open_read_only(const char *dir, struct index **out, const char **why);

/* Removes the files of a closed index. 0 or -errno. */
int index_remove(const char *dir);

/* The meta of the last index_apply(). 0, -ENOENT on an empty index, -errno. vectors points into
 * `room` (INDEX_VECTORS_MAX bytes). */
int index_read_meta(struct index *index, struct index_meta *out, char *room);

/* Puts `count` items, sorted by index_compare_keys(), into the index in durable transactions whose
 * dirty pages stay within a bound; `meta` goes with the last. drop_first: the old contents vanish
 * (a flush), and there is one transaction only. With meta NULL only the rows are put. A failure in
 * the middle leaves the old meta with some newer rows, and in its live_count what these changed: a
 * repeated replay from the old position ends with the right rows and the right count. 0 or -errno
 * (-ENOSPC ...). */
int index_apply(struct index *index, const struct delta_item *items, size_t count,
                const struct index_meta *meta, bool drop_first);

/* The present time in Unix milliseconds, for what is put from now on: a record that is put again with
 * a later expiry stays filed in the table of expiries under the moment before, as long as that has
 * not come. */
void index_set_time(struct index *index, int64_t now_ms);

int index_reader_open(struct index *index, struct index_reader **out);
void index_reader_close(struct index_reader *reader);

/* Fresh transaction, one lookup, reset. 0, -ENOENT, or -errno (-EUCLEAN: the index is broken). */
int index_find(struct index_reader *reader, struct slice key, struct entry *out);

/* Calls each(index_key, entry, arg) for rows in order, from the first index key >= `from` (as made
 * by index_key()), in one transaction, until each() returns false. Long keys (family 2) appear by
 * their index key: their full key stands in the record. 0 or -errno. */
int index_walk(struct index_reader *reader, struct slice from,
               bool (*each)(struct slice index_key, const struct entry *e, void *arg), void *arg);

/* The same downwards, from the last row below `before` (empty: from the last of all). */
int index_walk_back(struct index_reader *reader, struct slice before,
                    bool (*each)(struct slice index_key, const struct entry *e, void *arg),
                    void *arg);

/* Grows with every change of the index: what was read under a version holds while it stays. 0: it
 * cannot be told now. */
uint64_t index_version(struct index_reader *reader);

/* Writes the index key of a key to out (INDEX_KEY_MAX bytes); returns its length. */
size_t index_key(struct slice key, char *out);

/* Order of two keys in the index: < 0, 0, > 0. */
int index_compare_keys(struct slice a, struct slice b);

/* ---- what compaction and the sweep need ---- */

/* A segment's share, as of the last index_apply() or index_move(). A touch record counts where it
 * lies, with the bytes of the record that it touches: live, or those of a tombstone. */
struct index_segment {
    uint32_t number;
    uint64_t live_bytes; /* of the records that rows name, tombstones apart */
    /* of the records whose rows are tombstones; of swept ones what is left when they are cut */
    uint64_t tombstone_bytes;
    /* A compacted segment, from the first index_move() to the last: some rows may name the segments
     * that it replaces still. Afterwards it stays known, also with nothing in it, until it is among
     * the gone ones of another or index_forget_segment() is called. */
    bool installing;
};

/* What the row of a tombstone has in its segment's tombstone bytes: of a swept record, which lies
 * there in full length still, no more than a compaction would leave of it (its head and key). */
static inline uint32_t index_tombstone_bytes(const struct entry *e, struct slice index_key)
{
    size_t cut = RECORD_HEAD_FIXED + 2 * STAMP_BYTES + index_key.len - 1;

    /* Of a hashed key nobody knows the length here. */
    return index_key.ptr[0] == INDEX_FAMILY_PLAIN && e->length > cut ? (uint32_t)cut : e->length;
}

/* Calls each() for every segment that rows name, or that index_move() has begun, by number. 0 or
 * -errno. */
int index_segments(struct index *index, void (*each)(const struct index_segment *s, void *arg),
                   void *arg);

/* What became of a record in a compaction. */
enum index_moved {
    MOVED_RECORD, /* the main record of its key */
    MOVED_TOUCH,
    MOVED_GONE,       /* a tombstone, or what a flush has killed, was dropped: the row goes */
    MOVED_TOUCH_GONE, /* a touch was dropped: the row (of a swept record) forgets it */
};

struct index_move {
    struct slice key;
    enum index_moved what;
    uint32_t segment; /* the old place */
    uint32_t offset;
    uint32_t new_offset; /* in the new segment */
    uint32_t new_length; /* MOVED_RECORD: of the record there */
};

/* Lets rows name the records' new places in segment `to`, each only if it still names the old one,
 * in one durable transaction; at most some 20,000 moves, in any order (sorted in place by key).
 * first: the segment is entered as installing; last: it is not any more, and the `gone_count`
 * segments whose records it took over are forgotten. 0 or -errno, then nothing changed: -EBUSY when
 * rows still name one of those; -EINVAL when the row of a live record would go. */
int index_move(struct index *index, uint32_t to, struct index_move *moves, size_t count, bool first,
               bool last, const uint32_t *gone, size_t gone_count);

/* Forgets a segment of which no row names anything (-EBUSY else). 0 or -errno. */
int index_forget_segment(struct index *index, uint32_t number);

/* Calls each(key, entry, arg) for rows that are filed under moments up to now_ms, the earliest first,
 * until it returns false. No row expires before its moment, but it may expire later: then it is to be
 * put again, to be filed anew. Rows of tombstones do not expire. Of a hashed key (more than
 * INDEX_PREFIX_MAX bytes) index_key has the index key only: the full one stands in the record. 0 or
 * -errno. */
int index_expired(struct index_reader *reader, int64_t now_ms,
                  bool (*each)(struct slice index_key, const struct entry *e, void *arg),
                  void *arg);

/* The same, going on behind the row where the call before has ended; all zero: from the first. */
struct index_expiry_cursor {
    size_t len;
    char key[INDEX_KEY_MAX];
};
int index_expired_from(struct index_reader *reader, struct index_expiry_cursor *cursor,
                       int64_t now_ms,
                       bool (*each)(struct slice index_key, const struct entry *e, void *arg),
                       void *arg);

/* Rows that are filed under moments up to now_ms, behind the cursor, up to `limit` of them. 0 or -errno. */
int index_count_expired(struct index_reader *reader, const struct index_expiry_cursor *cursor,
                        int64_t now_ms, uint64_t limit, uint64_t *count);

/* Rows that expire some time. 0 or -errno. */
int index_expiring(struct index *index, uint64_t *rows);

/* No row expires before that, Unix milliseconds; 0: none does at all. 0 or -errno. */
int index_next_expiry(struct index *index, int64_t *at_ms);

/* Calls each() for every file of a big value that a row names, by number, until it returns false.
 * 0 or -errno. */
int index_big_files(struct index_reader *reader,
                    bool (*each)(uint64_t number, uint64_t bytes, void *arg), void *arg);

/* True if a row names this file. 0: no; 1: yes; -errno. */
int index_has_big_file(struct index_reader *reader, uint64_t number);

/* Gives the blocks of free pages back to the file system when they are much more than what is in use.
 * By the thread that may write. */
void index_trim(struct index *index);

/* Rows, and bytes of the file in use. 0 or -errno. */
int index_figures(struct index *index, uint64_t *rows, uint64_t *used_bytes);

/* Reads the whole file once, so that lookups find it in memory; ends early when go_on(arg) says
 * no. */
void index_warm(struct index *index, bool (*go_on)(void *arg), void *arg);

#endif
