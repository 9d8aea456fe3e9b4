/*
 * backup.h - what a backup of a running store needs: names that stay, and a prefix of the log that
 *            is on the disk.
 *
 * Used by:  logstore.c (table of the engine's calls, start, end), background (tick).
 * Threads:  any that may wait for the disk, but for the tick.
 * Locks:    backups.mutex for moments; compaction's and the big values' holds under none of ours.
 */
#ifndef LOGSTORE_BACKUP_H
#define LOGSTORE_BACKUP_H

#include <pthread.h>
#include <stdint.h>

#include "base/buf.h"

struct logstore;
struct store;

/* Backups at a time. */
#define BACKUPS_MAX 4

struct backups {
    pthread_mutex_t mutex;
    struct backup_lease {
        uint64_t token;   /* 0: free */
        int64_t until_ms; /* monotonic */
    } leases[BACKUPS_MAX];
};

void backup_init(struct logstore *ls);
void backup_fini(struct logstore *ls);

/* As store_backup_begin(), _renew(), _end() of store.h say. */
int backup_begin(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list);
int backup_renew(struct store *store, uint64_t token, int64_t lease_ms);
int backup_end(struct store *store, uint64_t token);

/* Background: ends what nobody has renewed in time. Never waits. */
void backup_tick(struct logstore *ls);

#endif
