/*
 * index_gate.c - who may use LMDB's environment, and its replacement when it has given up.
 *
 * Provides: index_reader_open(), index_reader_close() of index.h; index_begin_*() and index_end_*()
 *           of index_internal.h, around every use of the environment.
 * Used by:  index.c, index_write.c, index_tables.c.
 * Threads:  readers' any; the environment is replaced by the thread that writes the index.
 * Locks:    index.readers_mutex: the list of readers, and over a replacement.
 *
 * When LMDB cannot write a meta page it refuses everything until it is opened anew, reads too. So
 * the one who writes opens it anew: the gate is closed, whoever is inside leaves (readers say so in
 * a flag of their own, which costs a lookup some nanoseconds), and everybody's transactions are
 * begun again in the new environment. While the gate is closed, for milliseconds, reads fail.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/logstore/index_internal.h"

/* A reader that has not left by then waits for us: better a shut index than none that stops. */
#define LEAVE_MS 5000

/* ---- readers ---- */

/* Begins the reader's transaction, reset. 0 or LMDB's code. */
static int begin_reset(struct index_reader *reader)
{
    int rc = mdb_txn_begin(reader->index->env, NULL, MDB_RDONLY, &reader->txn);

    if (rc == 0)
        mdb_txn_reset(reader->txn);
    else
        reader->txn = NULL;
    return rc;
}

int index_reader_open(struct index *index, struct index_reader **out)
{
    struct index_reader *reader = aligned_alloc(_Alignof(struct index_reader), sizeof(*reader));
    int rc;

    if (reader == NULL)
        return -ENOMEM;
    *reader = (struct index_reader){.index = index};
    pthread_mutex_lock(&index->readers_mutex);
    rc = atomic_load(&index->shut) ? MDB_PANIC : begin_reset(reader);
    if (rc == 0) {
        reader->next = index->readers;
        index->readers = reader;
    }
    pthread_mutex_unlock(&index->readers_mutex);
    if (rc != 0) {
        log_error("cannot read index %s: %s", index->path, mdb_strerror(rc));
        free(reader);
        return index_errno(rc);
    }
    *out = reader;
    return 0;
}

void index_reader_close(struct index_reader *reader)
{
    struct index_reader **at;

    if (reader == NULL)
        return;
    pthread_mutex_lock(&reader->index->readers_mutex);
    for (at = &reader->index->readers; *at != reader; at = &(*at)->next)
        ;
    *at = reader->next;
    if (reader->txn != NULL)
        mdb_txn_abort(reader->txn);
    pthread_mutex_unlock(&reader->index->readers_mutex);
    free(reader);
}

int index_begin_read(struct index_reader *reader)
{
    int rc;

    /* In this order: the one who shuts looks at `inside` afterwards. */
    atomic_store(&reader->inside, atomic_load(&reader->index->epoch));
    rc = atomic_load(&reader->index->shut) ? MDB_PANIC : mdb_txn_renew(reader->txn);
    if (rc != 0)
        atomic_store_explicit(&reader->inside, 0, memory_order_release);
    return rc;
}

void index_end_read(struct index_reader *reader)
{
    mdb_txn_reset(reader->txn);
    atomic_store_explicit(&reader->inside, 0, memory_order_release);
}

bool index_begin_look(struct index *index)
{
    atomic_fetch_add(&index->lookers, 1);
    if (!atomic_load(&index->shut))
        return true;
    atomic_fetch_sub(&index->lookers, 1);
    return false;
}

void index_end_look(struct index *index)
{
    atomic_fetch_sub(&index->lookers, 1);
}

/* ---- a new environment ---- */

static bool is_anyone_inside(struct index *index)
{
    if (atomic_load(&index->lookers) > 0)
        return true;
    for (struct index_reader *r = index->readers; r != NULL; r = r->next)
        if (atomic_load(&r->inside) != 0)
            return true;
    return false;
}

/* True if a read is under way that began before the epoch. */
static bool is_anyone_before(struct index *index, uint64_t epoch)
{
    bool found;

    pthread_mutex_lock(&index->readers_mutex);
    found = atomic_load(&index->lookers) > 0;
    for (struct index_reader *r = index->readers; r != NULL && !found; r = r->next) {
        uint64_t inside = atomic_load(&r->inside);

        found = inside != 0 && inside < epoch;
    }
    pthread_mutex_unlock(&index->readers_mutex);
    return found;
}

bool index_wait_for_readers(struct index *index, int64_t at_most_ms)
{
    const struct timespec moment = {.tv_nsec = 1000 * 1000};
    uint64_t epoch = atomic_fetch_add(&index->epoch, 1) + 1;
    int64_t until = clock_mono_ms() + at_most_ms;

    while (is_anyone_before(index, epoch)) {
        if (clock_mono_ms() >= until)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

static bool wait_until_empty(struct index *index)
{
    const struct timespec moment = {.tv_nsec = 100 * 1000};
    int64_t until = clock_mono_ms() + LEAVE_MS;

    while (is_anyone_inside(index)) {
        if (clock_mono_ms() >= until)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

/* Lest an index that was removed meanwhile be replaced by an empty one. */
static bool is_file_in_place(const struct index *index)
{
    struct stat named;
    struct stat opened;
    mdb_filehandle_t fd;

    if (index->env == NULL)
        return stat(index->path, &named) == 0;
    return mdb_env_get_fd(index->env, &fd) == 0 && fstat(fd, &opened) == 0 &&
           stat(index->path, &named) == 0 && named.st_ino == opened.st_ino;
}

static int replace_environment(struct index *index)
{
    int rc;

    for (struct index_reader *r = index->readers; r != NULL; r = r->next) {
        if (r->txn != NULL)
            mdb_txn_abort(r->txn);
        r->txn = NULL;
    }
    if (index->env != NULL)
        mdb_env_close(index->env);
    index->env = NULL;
    rc = index_open_environment(index);
    for (struct index_reader *r = index->readers; rc == 0 && r != NULL; r = r->next)
        rc = index_errno(begin_reset(r));
    return rc;
}

/* Opens the environment anew; *txn_id: the newest transaction that is in it, on the disk for
 * certain. 0 or -errno: then it stays shut, to be tried again. */
static int mend(struct index *index, size_t *txn_id)
{
    MDB_envinfo info = {0};
    int rc = 0;

    if (atomic_load(&index->condemned))
        return -EUCLEAN;
    pthread_mutex_lock(&index->readers_mutex);
    atomic_store(&index->shut, true);
    if (!wait_until_empty(index) || !is_file_in_place(index))
        rc = -EIO;
    else
        rc = replace_environment(index);
    if (rc == 0)
        rc = index_errno(mdb_env_sync(index->env, 1));
    if (rc == 0)
        rc = index_errno(mdb_env_info(index->env, &info));
    *txn_id = info.me_last_txnid;
    if (rc == 0)
        atomic_store(&index->shut, false);
    pthread_mutex_unlock(&index->readers_mutex);
    if (rc == 0)
        log_warn("index %s was opened anew after a write that failed", index->path);
    return rc;
}

/* ---- writing ---- */

/* True if LMDB has given up: it refuses everything from now on. */
static bool has_given_up(struct index *index)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);

    if (rc == 0)
        mdb_txn_abort(txn);
    return rc == MDB_PANIC;
}

int index_begin_write(struct index *index, MDB_txn **txn)
{
    size_t txn_id;
    int rc = atomic_load(&index->shut) ? mend(index, &txn_id) : 0;

    return rc != 0 ? rc : index_errno(mdb_txn_begin(index->env, NULL, 0, txn));
}

int index_end_write(struct index *index, MDB_txn *txn, int lmdb)
{
    size_t txn_id = mdb_txn_id(txn);
    size_t newest = 0;
    int rc;

    if (lmdb == 0)
        lmdb = mdb_txn_commit(txn);
    else
        mdb_txn_abort(txn);
    rc = index_settle(index, lmdb);
    /* The write that failed may have come to pass all the same. */
    if (rc != 0 && has_given_up(index) && mend(index, &newest) == 0 && newest == txn_id)
        rc = 0;
    if (rc == 0) {
        int extended = index_extend_file(index);

        /* What was committed is. The next commit tries again; a start in between rebuilds. */
        if (extended != 0)
            log_warn("cannot extend index %s: %s", index->path, strerror(-extended));
    }
    return rc;
}
