/*
 * index_internal.h - what the files of the index share.
 *
 * Provides: struct index with its databases, LMDB's codes as ours, struct shares (what rows have in
 *           the other tables).
 * Used by:  index.c (opening, reading), index_write.c (checkpoints, moves), index_tables.c only.
 * Threads:  as index.h says; a struct shares lives as long as its transaction.
 */
#ifndef LOGSTORE_INDEX_INTERNAL_H
#define LOGSTORE_INDEX_INTERNAL_H

#include <limits.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "store/logstore/index.h"

struct index {
    MDB_env *env;
    MDB_dbi keys;           /* index key -> row */
    MDB_dbi meta;           /* format, position */
    MDB_dbi segments;       /* segment number -> bytes that rows name in it */
    MDB_dbi expiry;         /* expiry, index key -> nothing */
    MDB_dbi big;            /* number of a big value's file -> its bytes */
    _Atomic int64_t now_ms; /* index_set_time() */
    _Atomic bool condemned; /* damage was found and logged, the file is removed */
    bool read_only;         /* nothing is locked, written, logged or removed */
    char dir[PATH_MAX];
    char path[PATH_MAX]; /* of data.mdb */
    unsigned readers_max;
    /* The gate (index_gate.c). */
    pthread_mutex_t readers_mutex;
    struct index_reader *readers; /* all that are open */
    _Atomic unsigned lookers;     /* uses under way without a reader */
    _Atomic bool shut;            /* the environment is being replaced, or could not be */
    _Atomic uint64_t epoch;       /* of index_wait_for_readers(), from 1 */
    bool cannot_trim;             /* the file system knows no holes */
};

struct index_reader {
    _Alignas(64) struct index *index; /* no two readers in one line of the processor's cache */
    MDB_txn *txn; /* reset between calls; NULL: the environment could not be replaced */
    struct index_reader *next;
    _Atomic uint64_t inside; /* the epoch in which the read began that is under way; 0: none is */
};

static inline MDB_val val_of(const void *data, size_t len)
{
    return (MDB_val){.mv_size = len, .mv_data = (void *)(uintptr_t)data};
}

static inline struct slice slice_of_val(MDB_val v)
{
    return slice_of(v.mv_data, v.mv_size);
}

/* ---- index.c ---- */

/* The name of the position in `meta`. */
#define INDEX_POSITION "position"

/* LMDB's code as ours. */
int index_errno(int lmdb);

/* The same for the result of an operation: damage is logged, and the file removed. */
int index_settle(struct index *index, int lmdb);

/* Runs a read; `run` returns LMDB's code. Its transaction can be reset afterwards whatever came. */
int index_run_read(int (*run)(void *arg), void *arg);

/* Checks the file and opens the environment with its databases. 0 or -errno, logged. */
int index_open_environment(struct index *index);

/* Of a database, as of the last commit. 0 or -errno. */
int index_stat(struct index *index, MDB_dbi dbi, MDB_stat *out);

/* LMDB does not write pages that a transaction took at the end of the file and gave up again, but
 * counts them. The next open would take the file for a cut one: it is made as long as it says it
 * is. To be called after every commit. 0 or -errno. */
int index_extend_file(struct index *index);

/* ---- index_gate.c: around every use of the environment ---- */

/* A fresh transaction of the reader's. 0 or LMDB's code; only after 0 the end. */
int index_begin_read(struct index_reader *reader);
void index_end_read(struct index_reader *reader);

/* Waits until all reads have ended that are under way. False: not within so long. */
bool index_wait_for_readers(struct index *index, int64_t at_most_ms);

/* The environment, without a reader. False: it cannot be used now. */
bool index_begin_look(struct index *index);
void index_end_look(struct index *index);

/* A write transaction. 0 or -errno. */
int index_begin_write(struct index *index, MDB_txn **txn);
/* Commits (lmdb 0) or gives up. 0 or -errno: nothing has changed, unless the disk is so ill that
 * nobody can tell (then every use fails). */
int index_end_write(struct index *index, MDB_txn *txn, int lmdb);

/* ---- index_tables.c: what rows have in the tables beside `keys` ---- */

/* A row, as it stands in `keys`. */
struct row {
    struct entry entry;
    /* The moment under which `expiry` has it, 0: it does not expire. Not later than the entry's own:
     * a record that is written again and again, each time for some time more, stays where it is filed
     * until that moment has come. */
    int64_t filed_ms;
};

static inline bool row_decode(struct slice bytes, struct row *out)
{
    return entry_decode_filed(bytes, &out->entry, &out->filed_ms);
}

/* What a transaction changes in a segment's share. */
struct segment_change {
    bool used;
    uint32_t number;
    int64_t live_bytes;
    int64_t tombstone_bytes;
};

struct expiry_change;

/* Gathers what the rows of one transaction change in the other tables; each is written in its own
 * order, once. */
struct shares {
    struct index *index;
    MDB_txn *txn;
    struct segment_change *segments; /* open addressing by number */
    size_t segment_room;             /* a power of two, or 0 */
    size_t segment_count;
    struct expiry_change *expiry; /* room for a fixed number, from the first one on */
    size_t expiry_count;
    char *expiry_keys; /* their bytes */
    size_t expiry_bytes;
};

void shares_begin(struct shares *s, struct index *index, MDB_txn *txn);
/* A row of this index key goes from `old` to `now`; NULL: there is none. 0 or LMDB's code. */
int shares_replace(struct shares *s, struct slice index_key, const struct row *old,
                   const struct row *now);
/* Writes what was gathered. 0 or LMDB's code. */
int shares_write(struct shares *s);
void shares_end(struct shares *s);
/* All rows go; segments that a compaction has made stay known. */
int shares_drop(struct index *index, MDB_txn *txn);

/* How a segment's share is kept when no row names anything in it. */
enum segment_state {
    SEGMENT_PLAIN = 0, /* not at all */
    SEGMENT_INSTALLING = 1,
    SEGMENT_INSTALLED = 2, /* made by a compaction: it stays until it is forgotten */
};

struct segment_share {
    uint64_t live_bytes;
    uint64_t tombstone_bytes;
    enum segment_state state;
};

/* MDB_NOTFOUND: there is none; *out is then empty. */
int segment_share_read(struct index *index, MDB_txn *txn, uint32_t number,
                       struct segment_share *out);
/* An empty share of a plain segment is removed instead. */
int segment_share_write(struct index *index, MDB_txn *txn, uint32_t number,
                        const struct segment_share *share);

#endif
