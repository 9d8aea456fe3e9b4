/*
 * big_gone.c - files of big values whose record was superseded: their names go once the successor
 *              is on the disk.
 *
 * Provides: big_let_go(), big_hold(), big_release(), big_tick(), big_end() of big.h.
 * Used by:  writer, replay, the sweep, checkpoints, recovery (let go); backup (hold).
 * Threads:  any. Names are removed on pool threads, a few at a time, so that a reader that waits for
 *           the pool does not wait for a thousand of them.
 * Locks:    big.mutex.
 *
 * Nothing of this is on the disk: what waits here when the process ends is found at the next start
 * as files that no record names. Where history is kept, names go in their order when they are old
 * enough; a restart begins that time anew.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/big_internal.h"

/* Names that a pool thread removes before it lets others go first. */
#define REMOVED_AT_ONCE 4
/* What is removed at a stop takes no longer than this. */
#define STOP_MS 1000

struct big_gone {
    struct big_gone *next;
    uint64_t number;
    uint64_t bytes;
    uint64_t seq;          /* the record that took its place */
    int64_t not_before_ms; /* monotonic: history is kept for so long */
};

bool big_is_superseded(const struct entry *prev, const struct record *r)
{
    /* In a replay `prev` may be what a broken-off checkpoint has put into the index: newer than
     * the record. A touch keeps the value, a swept record has let it go before. */
    return prev != NULL && prev->big_bytes > 0 && prev->kind != RECORD_DELETE &&
           r->kind != RECORD_TOUCH && stamp_compare(prev->base, r->base) < 0;
}

/* ---- removing ---- */

static bool is_ripe_locked(struct logstore *ls)
{
    const struct big_gone *g = ls->big.gone_first;

    return g != NULL && ls->big.holds == 0 && g->seq <= atomic_load(&ls->marks.synced_seq) &&
           (g->not_before_ms == 0 || g->not_before_ms <= clock_mono_ms());
}

/* The oldest that may go; NULL: there is none. The caller frees it. */
static struct big_gone *take_ripe(struct logstore *ls)
{
    struct big_gone *g = NULL;

    pthread_mutex_lock(&ls->big.mutex);
    if (is_ripe_locked(ls)) {
        g = ls->big.gone_first;
        ls->big.gone_first = g->next;
        if (g->next == NULL)
            ls->big.gone_last = &ls->big.gone_first;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    return g;
}

/* False: nothing is ripe. */
static bool remove_one(struct logstore *ls)
{
    struct big_gone *g = take_ripe(ls);
    char *path;
    int rc;

    if (g == NULL)
        return false;
    path = big_final_path(ls, g->number);
    big_will_go(ls, g->number);
    rc = path == NULL ? -ENOMEM : io_unlink(path);
    if (rc == 0) {
        big_has_gone(ls, g->number, g->bytes);
        atomic_fetch_sub(&ls->big.files, 1);
        atomic_fetch_sub(&ls->big.bytes, g->bytes);
    } else if (rc != -ENOENT) {
        log_warn("cannot remove %s, whose value was overwritten: %s; the next start tries again",
                 path == NULL ? ls->dir : path, strerror(-rc));
    }
    atomic_fetch_sub(&ls->big.gone_files, 1);
    atomic_fetch_sub(&ls->big.gone_bytes, g->bytes);
    free(path);
    free(g);
    return true;
}

/* Pool thread. */
static void removal_work(struct aio_op *op)
{
    struct big *big = (struct big *)((char *)op - offsetof(struct big, removal));
    struct logstore *ls = (struct logstore *)((char *)big - offsetof(struct logstore, big));
    unsigned n = 0;

    pthread_mutex_lock(&big->mutex);
    big->at_work = true;
    pthread_mutex_unlock(&big->mutex);
    while (n < REMOVED_AT_ONCE && remove_one(ls))
        n++;
    pthread_mutex_lock(&big->mutex);
    big->at_work = false;
    big->removing = !big->ended && is_ripe_locked(ls);
    if (big->removing)
        aio_pool_run(ls->config.pool, op);
    pthread_cond_broadcast(&big->idle);
    pthread_mutex_unlock(&big->mutex);
}

static void start_removal_locked(struct logstore *ls)
{
    struct big *big = &ls->big;

    if (big->removing || big->ended || !is_ripe_locked(ls))
        return;
    big->removing = true;
    big->removal.work = removal_work;
    aio_pool_run(ls->config.pool, &big->removal);
}

/* ---- letting go ---- */

void big_let_go(struct logstore *ls, uint64_t number, uint64_t bytes, uint64_t seq)
{
    struct big_gone *g = malloc(sizeof(*g));

    if (g == NULL)
        return; /* the next start finds it */
    *g = (struct big_gone){.number = number, .bytes = bytes, .seq = seq};
    if (ls->config.keep_history_ms > 0)
        g->not_before_ms = clock_mono_ms() + ls->config.keep_history_ms;
    atomic_fetch_add(&ls->big.gone_files, 1);
    atomic_fetch_add(&ls->big.gone_bytes, bytes);
    pthread_mutex_lock(&ls->big.mutex);
    *ls->big.gone_last = g;
    ls->big.gone_last = &g->next;
    start_removal_locked(ls);
    pthread_mutex_unlock(&ls->big.mutex);
}

void big_tick(struct logstore *ls)
{
    pthread_mutex_lock(&ls->big.mutex);
    start_removal_locked(ls);
    pthread_mutex_unlock(&ls->big.mutex);
}

void big_hold(struct logstore *ls)
{
    pthread_mutex_lock(&ls->big.mutex);
    ls->big.holds++;
    /* Not for one that waits for a thread of the pool: we may be the last of these, and it will find
     * nothing to do. */
    while (ls->big.at_work)
        pthread_cond_wait(&ls->big.idle, &ls->big.mutex);
    pthread_mutex_unlock(&ls->big.mutex);
}

void big_release(struct logstore *ls)
{
    pthread_mutex_lock(&ls->big.mutex);
    ls->big.holds--;
    start_removal_locked(ls);
    pthread_mutex_unlock(&ls->big.mutex);
}

/* ---- many at once ---- */

int big_names_add(struct big_names *names, uint64_t number, uint64_t bytes)
{
    if (names->count == names->room) {
        size_t room = names->room == 0 ? 64 : names->room * 2;
        struct big_name *grown = realloc(names->at, room * sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        names->at = grown;
        names->room = room;
    }
    names->at[names->count++] = (struct big_name){number, bytes};
    return 0;
}

struct names_walk {
    struct big_names *names;
    int rc;
};

static bool add_row(uint64_t number, uint64_t bytes, void *arg)
{
    struct names_walk *walk = arg;

    walk->rc = big_names_add(walk->names, number, bytes);
    return walk->rc == 0;
}

int big_names_add_index(struct logstore *ls, struct big_names *names)
{
    struct names_walk walk = {.names = names};
    struct index_reader *reader;
    int rc = index_reader_open(ls->index, &reader);

    if (rc != 0)
        return rc;
    rc = index_big_files(reader, add_row, &walk);
    index_reader_close(reader);
    return rc != 0 ? rc : walk.rc;
}

void big_names_free(struct big_names *names)
{
    free(names->at);
    *names = (struct big_names){0};
}

void big_let_go_unnamed(struct logstore *ls, const struct big_names *names, uint64_t seq)
{
    struct index_reader *reader;

    if (names->count == 0 || index_reader_open(ls->index, &reader) != 0)
        return; /* the next start finds them */
    for (size_t i = 0; i < names->count; i++)
        if (index_has_big_file(reader, names->at[i].number) == 0)
            big_let_go(ls, names->at[i].number, names->at[i].bytes, seq);
    index_reader_close(reader);
}

/* ---- the end ---- */

void big_end(struct logstore *ls)
{
    int64_t until = clock_mono_ms() + STOP_MS;

    pthread_mutex_lock(&ls->big.mutex);
    ls->big.ended = true;
    while (ls->big.removing || ls->big.draft_count > 0)
        pthread_cond_wait(&ls->big.idle, &ls->big.mutex);
    pthread_mutex_unlock(&ls->big.mutex);
    while (clock_mono_ms() < until && remove_one(ls))
        ;
}

void big_forget_gone(struct logstore *ls)
{
    while (ls->big.gone_first != NULL) {
        struct big_gone *g = ls->big.gone_first;

        ls->big.gone_first = g->next;
        free(g);
    }
}
