/*
 * space.h - room on the disk: who may still take some, and who is refused.
 *
 * Provides: struct space (a part of struct logstore), space_*().
 * Used by:  writer (small puts), big.c (values in files of their own), compaction, background
 *           (looks), logstore.c (readiness, figures).
 * Threads:  any. The system is asked for free space by background, the writer, pool threads and
 *           compaction, never by a network loop: what a function may do says its comment.
 * Locks:    space.mutex, taken last.
 *
 * What makes the log grow without freeing anything is refused while less than the reserve is free.
 * Deletes, flushes, checkpoints and compaction may use the reserve: that is how a full disk heals.
 */
#ifndef LOGSTORE_SPACE_H
#define LOGSTORE_SPACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct logstore;

struct space {
    pthread_mutex_t mutex;      /* one look at a time */
    _Atomic uint64_t available; /* bytes free at the last look */
    _Atomic uint64_t total;     /* bytes of the file system */
    _Atomic uint64_t reserve;   /* bytes that puts must leave */
    _Atomic uint64_t taken;     /* bytes that this store has written since the last look */
    _Atomic int64_t looked_ms;  /* monotonic */
    _Atomic bool full;          /* puts are refused */
    _Atomic bool failed;        /* full because the system refused to write, whatever it shows */
    _Atomic uint64_t refusals;  /* writes refused since the start */
    uint64_t refusals_at_start; /* of the present episode; under the mutex */
    int64_t probed_ms;          /* the same: when a write was tried last, and how it ended */
    bool probe_passed;
};

void space_init(struct logstore *ls);
void space_fini(struct logstore *ls);

/* The first look, with the directory open. On a small file system segments become smaller: a
 * quarter of the disk in one file could never be compacted. Recovery's thread. */
void space_begin(struct logstore *ls);

/* Background, at every tick: looks when it is time to. */
void space_tick(struct logstore *ls);

/* True: so many bytes may be put, as far as is known. Any thread. */
bool space_has_room(const struct logstore *ls, uint64_t bytes);

/* May `bytes` be put? 0, or -ENOSPC (counted as a refused write). Judges by the last look and what
 * was written since; never waits: any thread. */
int space_check_put(struct logstore *ls, uint64_t bytes);

/* The same, but looks again before it refuses: not on a network loop. */
int space_check_put_now(struct logstore *ls, uint64_t bytes);

/* `bytes` were written to the disk. Any thread. */
void space_took(struct logstore *ls, uint64_t bytes);

/* A write of the store has failed with this error. Is it lack of space, and can no other file be
 * written either, the disk counts as full whatever the system says is free (quotas, inodes). Not on
 * a network loop. */
void space_failed(struct logstore *ls, int rc);

/* Bytes that compaction may write before it frees anything: it may use the reserve, but leaves a
 * quarter of it to checkpoints and deletes. Looks: not on a network loop. */
uint64_t space_for_compaction(struct logstore *ls);

/* True while puts are refused; any thread. */
bool space_is_full(const struct logstore *ls);

/* Why puts are refused, in a few words; NULL: they are not. Valid until this thread's next call. */
const char *space_reason(const struct logstore *ls);

/* LMDB says "input/output error" when a write was short, as it is on a full disk: the likelier
 * error to show. */
int space_error(struct logstore *ls, int rc);

/* Lines "name value\n". 0 or -ENOMEM. */
int space_stat(const struct logstore *ls, struct buf *out);

#endif
