/*
 * big.h - values above STORE_SPOOL_MIN: each in a file of its own, named by a small record in the
 *         log.
 *
 * Provides: struct big (a part of struct logstore), big_*(), and store_spool_*() through the engine.
 * Used by:  sessions (spool as the bytes arrive), writer (names the file), reader (opens), the
 *           sweep, checkpoint and replay (let go), recovery (orphans).
 * Threads:  a spool belongs to its port's thread; its file work runs on pool threads, one job at a
 *           time. struct big_file is shared by references. The rest: any, unless it says otherwise.
 * Locks:    big.mutex, for moments, never over a file operation.
 *
 * The life of a file: written as tmp/spool-N, synced, renamed to big/N.val, the directory synced;
 * then the writer appends the record that names it. When a later record has taken that one's place
 * and is synced, the name is removed by the pool (big_gone.c); who still reads keeps the bytes
 * pinned (pins.h). What a crash leaves behind, named by no record, goes at the next start.
 */
#ifndef LOGSTORE_BIG_H
#define LOGSTORE_BIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/aio.h"
#include "base/buf.h"
#include "base/slice.h"
#include "store/logstore/entry.h"
#include "store/logstore/pins.h"
#include "store/record.h"

struct logstore;
struct big_draft;
struct big_extend;
struct big_file;
struct big_gone;
struct store_port;
struct store_spool;
struct store_write;

#define BIG_RECENT 64u
#define BIG_REMEMBERED 4096u

struct big {
    pthread_mutex_t mutex;
    struct big_file *open[BIG_RECENT];   /* all that are open, chained by number */
    struct big_file *recent[BIG_RECENT]; /* kept open for the next reader, by number */
    /* by number: files that this process wrote or checked, and those whose names it has removed */
    uint64_t verified[BIG_REMEMBERED];
    uint64_t removed[BIG_REMEMBERED];
    struct big_draft *drafts; /* files in the making */
    unsigned draft_count;
    uint64_t draft_bytes;
    struct big_extend *extends; /* the writer's: updates under way */
    int64_t complained_ms; /* monotonic, of the last message about a file that cannot be made */
    uint64_t next_number;

    /* What is to be removed, the oldest first. */
    struct big_gone *gone_first;
    struct big_gone **gone_last;
    unsigned holds;
    bool removing; /* it is the pool's: waits there, or a thread is at it */
    bool at_work;  /* a thread is at it */
    bool ended;
    pthread_cond_t idle;
    struct aio_op removal;

    _Atomic uint64_t files; /* with a name */
    _Atomic uint64_t bytes; /* of their values */
    _Atomic uint64_t gone_files;
    _Atomic uint64_t gone_bytes;
};

int big_init(struct logstore *ls);
/* Before the log is closed for good: nothing is removed from now on, and nobody is at it. */
void big_end(struct logstore *ls);
void big_fini(struct logstore *ls);

/* Lines "name value\n". 0 or -ENOMEM. */
int big_stat(struct logstore *ls, struct buf *out);

/* Most that files in the making may hold together. */
uint64_t big_spool_cap(const struct logstore *ls);

/* ---- big_spool.c: values as they arrive ---- */

int big_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                   uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                   struct store_spool **out);
/* A write that carries a spool: finishes the file on a pool thread, then hands the write to the
 * writer. */
void big_finish_write(struct logstore *ls, struct store_write *w);
/* The finished file's fields for the record; frees the spool. keep false: the write was refused,
 * remove the file. */
void big_spool_describe(const struct store_spool *spool, struct record *r);
void big_spool_end(struct store_spool *spool, bool keep);

/* ---- big_extend.c: updates whose result is a big value; writer only ---- */

/* Begins the file of a value that is made of parts[0], the value of `now` (with copies_now: it has
 * a file of its own), parts[1] and parts[2]; attrs: of its record. `now` NULL: there is none. What
 * does not lie in the write is copied. The write comes back to the writer, with w->extend, when the
 * file is there; until big_extend_release() the key is the write's. 0; -ENOMEM, -ENOSPC: nothing
 * has happened. */
int big_extend_start(struct logstore *ls, struct store_write *w, const struct record *now,
                     bool copies_now, struct slice attrs, const struct slice parts[3]);
/* False: the present record is not the one that was extended. */
bool big_extend_is_for(const struct big_extend *x, const struct record *now);
/* The file's fields for the record. 0, or how the making has failed: -errno, logged. */
int big_extend_describe(const struct big_extend *x, struct record *r);
void big_extend_set_used(struct big_extend *x);
/* True: the key is another write's, and this one waits behind it. */
bool big_extend_wait(struct logstore *ls, struct store_write *w);
/* The write was decided: those that waited come before `next`. Returns the first of all. */
struct store_write *big_extend_release(struct logstore *ls, struct big_extend *x,
                                       struct store_write *next);
/* keep: the record that uses the file is in the log. */
void big_extend_end(struct big_extend *x, bool keep);

/* ---- big_file.c: reading ---- */

/* Opens (on a pool thread) the file that a record names, verified; a reference. 0; -ENOENT: there
 * is none, as when the record was superseded a moment ago (look it up again; not logged); -EUCLEAN,
 * -errno, logged. */
int big_open(struct logstore *ls, uint64_t number, uint64_t bytes, uint64_t sum,
             struct big_file **out);
/* From the cache only, never waits. NULL: not there. */
struct big_file *big_lookup(struct logstore *ls, uint64_t number);
int big_fd(const struct big_file *file, off_t *offset);
/* True: who sends from the file is to be closed, because too much is pinned. */
const _Atomic bool *big_revoked(const struct big_file *file);
void big_unref(struct big_file *file);

/* ---- big_gone.c: files that are not needed any more ---- */

/* True if the file of `prev` (may be NULL: there was nothing) is not needed once `r` is synced. */
bool big_is_superseded(const struct entry *prev, const struct record *r);

/* The file's name goes as soon as the record `seq`, which took the place of the one that names it,
 * is synced and nobody holds the names; at a clean stop or a crash before that, at the next start.
 * Short; any thread. */
void big_let_go(struct logstore *ls, uint64_t number, uint64_t bytes, uint64_t seq);

/* From hold to release no name goes (a backup links them). */
void big_hold(struct logstore *ls);
void big_release(struct logstore *ls);

/* Background, at every tick: what has become ripe goes to the pool. */
void big_tick(struct logstore *ls);

/* Files that records name. All zero is an empty list. */
struct big_names {
    struct big_name {
        uint64_t number;
        uint64_t bytes; /* of the value */
    } * at;
    size_t count;
    size_t room;
};

/* 0 or -ENOMEM. */
int big_names_add(struct big_names *names, uint64_t number, uint64_t bytes);
/* Adds all that rows of the index name. 0 or -errno. */
int big_names_add_index(struct logstore *ls, struct big_names *names);
void big_names_free(struct big_names *names);

/* Lets go of those that no row of the index names any more, as after a flush. Waits for the disk. */
void big_let_go_unnamed(struct logstore *ls, const struct big_names *names, uint64_t seq);

/* ---- big_orphans.c: at a start ---- */

/* The number of the next file: no record names this one or a higher one. */
uint64_t big_next_number(struct logstore *ls);
/* Recovery, before others: removes what a crash has left in tmp/, and lets go of the files of big/
 * that are neither among the `named` (by replayed records; rows of the index are added, and it is
 * sorted) nor in use by their keys; sets the next number, at least `next`. 0 or -errno. */
int big_recover(struct logstore *ls, struct big_names *named, uint64_t next);

#endif
