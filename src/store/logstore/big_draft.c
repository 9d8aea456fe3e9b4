/*
 * big_draft.c - files of big values in the making: how many, how much of the disk, and the steps to
 *               their names.
 *
 * Provides: struct big_draft, big_draft_*() of big_internal.h; big_spool_cap().
 * Used by:  big_spool.c (uploads), big_extend.c (updates of big values).
 * Threads:  a draft belongs to one thread at a time; make, write and settle wait for the disk.
 * Locks:    big.mutex.
 *
 * What drafts hold of the disk is bounded (--spool-max), counted as it comes. Beyond the bound
 * nothing new is begun, and of what is under way only the oldest goes on: so there is an end to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/big_internal.h"

/* Drafts at a time: each holds a descriptor beside its connection's, out of the 500 that the limit
 * on connections leaves to everything else. */
#define DRAFTS_MAX 400
#define COMPLAINT_MS 10000
/* Without an option: a part of the disk, but room for a few of the largest values. */
#define CAP_PART 10
#define CAP_VALUES 4

uint64_t big_spool_cap(const struct logstore *ls)
{
    uint64_t total = atomic_load(&ls->space.total);
    uint64_t least = CAP_VALUES * ls->config.max_value_bytes;

    if (ls->config.spool_max_bytes > 0)
        return ls->config.spool_max_bytes;
    return total / CAP_PART > least ? total / CAP_PART : least;
}

/* ---- the bound ---- */

static bool is_oldest_locked(const struct big_draft *d)
{
    for (const struct big_draft *other = d->ls->big.drafts; other != NULL; other = other->next)
        if (other->number < d->number && !other->complete)
            return false;
    return true;
}

static bool may_begin_locked(struct logstore *ls, uint64_t announced)
{
    struct big *big = &ls->big;

    if (big->draft_count == 0)
        return true;
    return big->draft_count < DRAFTS_MAX && big->draft_bytes < big_spool_cap(ls) &&
           announced <= big_spool_cap(ls) - big->draft_bytes;
}

/* False: there are too many, or they hold too much. */
static bool enter(struct big_draft *d, uint64_t announced)
{
    struct big *big = &d->ls->big;
    bool may;

    pthread_mutex_lock(&big->mutex);
    may = may_begin_locked(d->ls, announced);
    if (may) {
        big->draft_count++;
        d->number = big->next_number++;
        d->next = big->drafts;
        if (d->next != NULL)
            d->next->at = &d->next;
        d->at = &big->drafts;
        big->drafts = d;
    }
    pthread_mutex_unlock(&big->mutex);
    return may;
}

int big_draft_begin(struct big_draft *d, struct logstore *ls, struct slice key, struct slice attrs,
                    uint64_t announced)
{
    int rc = space_check_put(ls, announced > 0 ? announced : STORE_SPOOL_MIN);

    if (rc != 0)
        return rc;
    d->ls = ls;
    d->fd = -1;
    d->value_offset = big_front_length(key.len, attrs.len);
    d->sum = hash_stream_new();
    if (d->sum == NULL || !enter(d, announced)) {
        hash_stream_free(d->sum);
        return -ENOMEM;
    }
    hash_stream_add(d->sum, key.ptr, key.len);
    hash_stream_add(d->sum, attrs.ptr, attrs.len);
    return 0;
}

int big_draft_charge(struct big_draft *d, uint64_t bytes)
{
    struct logstore *ls = d->ls;
    int rc = space_check_put(ls, bytes);

    if (rc != 0)
        return rc;
    pthread_mutex_lock(&ls->big.mutex);
    if (ls->big.draft_bytes + bytes > big_spool_cap(ls) && !is_oldest_locked(d)) {
        rc = -ENOMEM;
    } else {
        ls->big.draft_bytes += bytes;
        d->charged += bytes;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    return rc;
}

void big_draft_complete(struct big_draft *d)
{
    pthread_mutex_lock(&d->ls->big.mutex);
    d->complete = true;
    pthread_mutex_unlock(&d->ls->big.mutex);
}

/* ---- the file ---- */

/* Every upload may fail while the disk is full: once in a while is enough to know. */
static void complain(struct logstore *ls, int rc, const char *what, const char *dir)
{
    int64_t now = clock_mono_ms();
    bool say;

    pthread_mutex_lock(&ls->big.mutex);
    say = ls->big.complained_ms == 0 || now - ls->big.complained_ms >= COMPLAINT_MS;
    if (say)
        ls->big.complained_ms = now;
    pthread_mutex_unlock(&ls->big.mutex);
    if (say)
        log_error("cannot %s a big value in %s/%s: %s", what, ls->dir, dir, strerror(-rc));
}

static int make_file(struct big_draft *d)
{
    char *path = big_spool_path(d->ls, d->number);

    d->fd = path == NULL ? -ENOMEM : io_open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    free(path);
    return d->fd < 0 ? d->fd : 0;
}

int big_draft_write(struct big_draft *d, const void *bytes, size_t len)
{
    int rc = d->fd < 0 ? make_file(d) : 0;

    if (rc == 0)
        rc = io_write_full(d->fd, bytes, len, (off_t)(d->value_offset + d->written));
    if (rc != 0) {
        complain(d->ls, rc, "write", "tmp");
        space_failed(d->ls, rc);
        return rc;
    }
    hash_stream_add(d->sum, bytes, len);
    d->written += len;
    space_took(d->ls, len);
    return 0;
}

static int name_file(struct big_draft *d)
{
    char *from = big_spool_path(d->ls, d->number);
    char *to = big_final_path(d->ls, d->number);
    char *dir = directory_path(d->ls, "big");
    int rc = from == NULL || to == NULL || dir == NULL ? -ENOMEM : io_rename(from, to);

    if (rc == 0) {
        d->named = true;
        rc = io_sync_dir(dir);
    }
    free(from);
    free(to);
    free(dir);
    return rc;
}

int big_draft_settle(struct big_draft *d, struct slice key, struct slice attrs)
{
    char *front = NULL;
    size_t len =
        big_front_encode(d->ls, d->number, key, attrs, d->written, hash_stream_sum(d->sum), &front);
    int rc = len == 0 ? -ENOMEM : io_write_full(d->fd, front, len, 0);

    if (rc == 0 && d->ls->config.sync != STORE_SYNC_OS)
        rc = io_fdatasync(d->fd);
    if (rc == 0)
        rc = name_file(d);
    if (rc != 0) {
        complain(d->ls, rc, "settle", "big");
        space_failed(d->ls, rc);
    }
    free(front);
    return rc;
}

void big_draft_describe(const struct big_draft *d, struct record *r)
{
    r->big_file = d->number;
    r->big_bytes = d->written;
    r->big_sum = hash_stream_sum(d->sum);
}

/* ---- the end ---- */

static void leave(struct big_draft *d)
{
    struct big *big = &d->ls->big;
    void (*release)(struct big_draft * d) = d->release;

    if (d->fd >= 0)
        close(d->fd);
    hash_stream_free(d->sum);
    pthread_mutex_lock(&big->mutex);
    *d->at = d->next;
    if (d->next != NULL)
        d->next->at = d->at;
    big->draft_count--;
    big->draft_bytes -= d->charged;
    release(d);
    if (big->draft_count == 0)
        pthread_cond_broadcast(&big->idle);
    pthread_mutex_unlock(&big->mutex);
}

/* Pool thread. */
static void drop_work(struct aio_op *op)
{
    struct big_draft *d = (struct big_draft *)((char *)op - offsetof(struct big_draft, drop));

    big_remove_path(d->named ? big_final_path(d->ls, d->number) : big_spool_path(d->ls, d->number));
    leave(d);
}

void big_draft_end(struct big_draft *d, bool keep)
{
    if (keep && d->written > 0)
        big_set_named(d->ls, d->number, d->written);
    if (d->fd < 0 || (keep && d->written > 0)) {
        leave(d);
        return;
    }
    /* The loops and the writer do not wait for a large file to be removed. */
    d->drop = (struct aio_op){.work = drop_work};
    aio_pool_run(d->ls->config.pool, &d->drop);
}
