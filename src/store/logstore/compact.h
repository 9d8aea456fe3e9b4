/*
 * compact.h - compaction: segments whose records are mostly dead are rewritten, small ones merged.
 *
 * Provides: compact_*().
 * Used by:  logstore.c and recovery (start, end, figures), background (wake), backups (hold), the
 *           admin call (now).
 * Threads:  one of its own, tt-compact; the calls from any, but for what is said.
 * Locks:    compaction.mutex for moments; index_mutex while a compaction is installed.
 */
#ifndef LOGSTORE_COMPACT_H
#define LOGSTORE_COMPACT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

struct logstore;

/* Before anything else of it. 0 or -ENOMEM. */
int compact_init(struct logstore *ls);
void compact_fini(struct logstore *ls);

/* Behind writer and background, and before them. A compaction that is being installed may stay half
 * done: the next start goes on with it. */
int compact_start(struct logstore *ls);
void compact_end(struct logstore *ls);

/* Something may be to be done: a checkpoint was written, a segment closed. */
void compact_wake(struct logstore *ls);

/* Writer, between two batches: waits a little while much more is dead than compaction can keep up
 * with. */
void compact_slow_down(struct logstore *ls);

/* From hold to release no segment is added by compaction, and none removed. The hold waits for an
 * installation that is under way (seconds at most). They nest. Not on a network loop. */
void compact_hold(struct logstore *ls);
void compact_release(struct logstore *ls);

/* Asks for a checkpoint, and then for the compaction of everything that holds more than a few
 * percent dead bytes, at full speed. Returns at once. */
void compact_now(struct logstore *ls);

/* How often compaction has looked for something to do and found nothing: for tests that wait until
 * there is nothing left. */
uint64_t compact_looks(struct logstore *ls);

/* Lines "name value\n". 0 or -ENOMEM. */
int compact_stat(struct logstore *ls, struct buf *out);

#endif
