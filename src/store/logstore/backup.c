/*
 * backup.c - backups of a running store: see backup.h.
 *
 * Provides: backup_*().
 * Used by:  see there.
 * Threads:  see there.
 * Locks:    backups.mutex.
 *
 * Closed segments and files of big values never change, so a backup is links to them and a copy of
 * the active segment up to a spot that is on the disk. The server names the files and keeps the
 * names while a lease runs: compaction removes none, and no superseded big value goes. Whoever makes
 * the links does so with its own rights. A lease that nobody renews ends by itself: a backup that
 * died must not stop compaction for ever.
 */
#include "store/logstore/backup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

void backup_init(struct logstore *ls)
{
    pthread_mutex_init(&ls->backups.mutex, NULL);
}

void backup_fini(struct logstore *ls)
{
    pthread_mutex_destroy(&ls->backups.mutex);
}

static void hold(struct logstore *ls)
{
    compact_hold(ls);
    big_hold(ls);
}

static void release(struct logstore *ls)
{
    big_release(ls);
    compact_release(ls);
}

/* ---- leases ---- */

/* The lease with this token, or a free one (token 0). NULL: there is none. Under the mutex. */
static struct backup_lease *find_lease(struct logstore *ls, uint64_t token)
{
    for (size_t i = 0; i < BACKUPS_MAX; i++)
        if (ls->backups.leases[i].token == token)
            return &ls->backups.leases[i];
    return NULL;
}

/* One that does not end by itself yet. */
static int take_lease(struct logstore *ls, uint64_t *token)
{
    struct backup_lease *lease;
    int rc;

    do {
        rc = identity_random(token, sizeof(*token));
    } while (rc == 0 && *token == 0);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&ls->backups.mutex);
    lease = find_lease(ls, 0);
    if (lease != NULL)
        *lease = (struct backup_lease){*token, INT64_MAX};
    pthread_mutex_unlock(&ls->backups.mutex);
    return lease == NULL ? -EBUSY : 0;
}

/* Ends the lease. -ENOENT: it has ended already. */
static int give_lease(struct logstore *ls, uint64_t token)
{
    struct backup_lease *lease;

    if (token == 0)
        return -ENOENT;
    pthread_mutex_lock(&ls->backups.mutex);
    lease = find_lease(ls, token);
    if (lease != NULL)
        lease->token = 0;
    pthread_mutex_unlock(&ls->backups.mutex);
    if (lease == NULL)
        return -ENOENT;
    release(ls);
    return 0;
}

int backup_renew(struct store *store, uint64_t token, int64_t lease_ms)
{
    struct logstore *ls = logstore_of(store);
    struct backup_lease *lease;

    if (token == 0)
        return -ENOENT;
    pthread_mutex_lock(&ls->backups.mutex);
    lease = find_lease(ls, token);
    if (lease != NULL)
        lease->until_ms = clock_mono_ms() + lease_ms;
    pthread_mutex_unlock(&ls->backups.mutex);
    return lease == NULL ? -ENOENT : 0;
}

int backup_end(struct store *store, uint64_t token)
{
    return give_lease(logstore_of(store), token);
}

void backup_tick(struct logstore *ls)
{
    int64_t now_ms = clock_mono_ms();
    uint64_t ended[BACKUPS_MAX];
    size_t count = 0;

    pthread_mutex_lock(&ls->backups.mutex);
    for (size_t i = 0; i < BACKUPS_MAX; i++)
        if (ls->backups.leases[i].token != 0 && ls->backups.leases[i].until_ms <= now_ms)
            ended[count++] = ls->backups.leases[i].token;
    pthread_mutex_unlock(&ls->backups.mutex);
    for (size_t i = 0; i < count; i++)
        if (give_lease(ls, ended[i]) == 0)
            log_warn("a backup of %s was not renewed in time: it has ended, and what it has is "
                     "not complete",
                     ls->dir);
}

/* ---- the list ---- */

/* The end of the log at one moment. */
struct backup_end {
    uint32_t number;
    uint64_t tail;
    uint64_t seq;
};

/* On the writer's thread. */
static void note_end(struct logstore *ls, void *arg)
{
    struct backup_end *end = arg;

    *end = (struct backup_end){ls->log.active->number, ls->log.tail, ls->log.tail_seq};
}

/* What the identity of the copy is: STORE as of that end, which no later rotation has moved on. */
static int add_store(struct logstore *ls, const struct backup_end *end, struct buf *list)
{
    char *dir = realpath(ls->dir, NULL);
    int rc = dir == NULL ? -errno
                         : buf_printf(list, "dir %s\nseq %" PRIu64 "\nlast_segment %" PRIu32 "\n",
                                      dir, end->seq, end->number);

    free(dir);
    return rc;
}

static int add_segments(struct logstore *ls, const struct backup_end *end, struct buf *list)
{
    struct segment **segments = NULL;
    size_t count = 0;
    int rc = log_list_segments(ls, &segments, &count);

    for (size_t i = 0; rc == 0 && i < count; i++) {
        const struct segment *s = segments[i];

        if (s->number == end->number)
            rc = buf_printf(list, "open %08" PRIu32 ".seg %" PRIu64 "\n", s->number, end->tail);
        else if (s->first_seq <= end->seq)
            rc = buf_printf(list, "closed %08" PRIu32 ".seg %" PRIu64 "\n", s->number,
                            atomic_load(&s->end));
    }
    log_release_segments(segments, count);
    return rc;
}

/* Names are held. */
static int make_list(struct logstore *ls, struct buf *list)
{
    struct backup_end end;
    int rc;

    writer_call(ls, note_end, &end);
    rc = atomic_load(&ls->read_only) ? -EROFS : log_sync(ls);
    if (rc == 0)
        rc = add_store(ls, &end, list);
    if (rc == 0)
        rc = add_segments(ls, &end, list);
    return rc;
}

int backup_begin(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list)
{
    struct logstore *ls = logstore_of(store);
    int rc;

    if (atomic_load(&ls->state) != STORE_SERVING)
        return -EAGAIN;
    rc = take_lease(ls, token);
    if (rc != 0)
        return rc;
    hold(ls);
    rc = make_list(ls, list);
    if (rc == 0)
        rc = backup_renew(store, *token, lease_ms);
    if (rc != 0)
        (void)give_lease(ls, *token);
    return rc;
}
