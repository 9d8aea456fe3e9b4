/*
 * sweep.h - expired records leave the count, and their bytes become those of tombstones.
 *
 * Provides: struct sweep: a thread that looks for them.
 * Used by:  background.c (start, end), logstore.c (figures), tests (sweep_now).
 */
#ifndef LOGSTORE_SWEEP_H
#define LOGSTORE_SWEEP_H

#include <stdbool.h>

struct buf;
struct logstore;
struct sweep;

/* The store serves. 0 or -errno; then nothing is swept. */
int sweep_start(struct logstore *ls);
/* Before the writer ends. */
void sweep_end(struct logstore *ls);

/* Looks now, and returns when it has: true if nothing is left that had expired before the call,
 * false if a checkpoint must come first. Not while the store is closed. Any thread but the writer's,
 * outside grace. */
bool sweep_now(struct logstore *ls);

/* Lines "name value\n". 0 or -ENOMEM. Any thread. */
int sweep_stat(struct logstore *ls, struct buf *out);

#endif
