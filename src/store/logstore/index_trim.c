/*
 * index_trim.c - gives the disk blocks of the index's free pages back to the file system.
 *
 * Provides: index_trim() of index.h.
 * Used by:  checkpoint's thread, now and then.
 * Threads:  the one that may write the index.
 *
 * LMDB's file never gets shorter: what a flush or a wave of expiries has freed stays a part of it, and
 * is used again. Until then holes are punched where free pages lie side by side. LMDB never reads
 * a free page, so it does not miss them.
 *
 * A page is free for certain when neither of LMDB's two header pages can lead to it, and no reader
 * that is inside has a transaction from before. LMDB's own list says which transaction has freed a
 * page; the newest one is left out because its predecessor's header is there still, and we wait
 * until all readers have left that were inside at the beginning.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/io.h"
#include "base/log.h"
#include "store/logstore/index_internal.h"

enum {
    FREE_LIST = 0, /* LMDB's own database of free pages */
    /* It pays when the file has more than twice the blocks of its trees, and so many more. */
    SPARE_BYTES = 16 * 1024 * 1024,
    RUN_MIN = 4,    /* free pages side by side */
    LEAVE_MS = 500, /* a reader that stays longer: another time */
    HEADER_PAGES = 2,
};

/* ---- does it pay? ---- */

static uint64_t pages_of(const MDB_stat *s)
{
    return s->ms_branch_pages + s->ms_leaf_pages + s->ms_overflow_pages;
}

/* Bytes of the pages that are in use, in a transaction. 0 or LMDB's code. */
static int tree_bytes(struct index *index, MDB_txn *txn, uint64_t *out)
{
    const MDB_dbi all[] = {FREE_LIST,       index->keys,   index->meta,
                           index->segments, index->expiry, index->big};
    uint64_t pages = HEADER_PAGES + 1; /* the list of the named databases */
    MDB_stat stat = {0};
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(all) / sizeof(all[0]); i++) {
        rc = mdb_stat(txn, all[i], &stat);
        pages += pages_of(&stat);
    }
    *out = pages * stat.ms_psize;
    return rc;
}

static bool pays(struct index *index, MDB_txn *txn)
{
    uint64_t used = 0;
    mdb_filehandle_t fd;
    struct stat st;

    return tree_bytes(index, txn, &used) == 0 && mdb_env_get_fd(index->env, &fd) == 0 &&
           fstat(fd, &st) == 0 && (uint64_t)st.st_blocks * 512 > 2 * used + SPARE_BYTES;
}

/* ---- the free pages ---- */

struct free_pages {
    uint64_t *at;
    size_t count;
    size_t room;
};

/* Adds a record of the list: a count, and so many page numbers. 0 or LMDB's code. */
static int add_record(struct free_pages *f, MDB_val record)
{
    const size_t *ids = record.mv_data;
    size_t count = record.mv_size >= sizeof(ids[0]) ? ids[0] : 0;

    if (record.mv_size % sizeof(ids[0]) != 0 || record.mv_size / sizeof(ids[0]) < count + 1)
        return MDB_CORRUPTED;
    if (f->count + count > f->room) {
        size_t room = (f->count + count) * 2;
        uint64_t *grown = realloc(f->at, room * sizeof(*grown));

        if (grown == NULL)
            return ENOMEM;
        f->at = grown;
        f->room = room;
    }
    for (size_t i = 0; i < count; i++)
        f->at[f->count++] = ids[1 + i];
    return 0;
}

/* All pages that transactions up to `last` have freed. 0 or LMDB's code. */
static int list_free_pages(MDB_txn *txn, size_t last, struct free_pages *out)
{
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val record;
    int rc = mdb_cursor_open(txn, FREE_LIST, &cursor);

    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &key, &record, MDB_FIRST);
    while (rc == 0) {
        if (key.mv_size != sizeof(size_t))
            rc = MDB_CORRUPTED;
        else if (*(const size_t *)key.mv_data > last)
            rc = MDB_NOTFOUND;
        else
            rc = add_record(out, record);
        if (rc == 0)
            rc = mdb_cursor_get(cursor, &key, &record, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int compare_pages(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* 0 or -errno. */
static int punch(struct index *index, const struct free_pages *f)
{
    MDB_stat stat;
    mdb_filehandle_t fd;
    int rc = mdb_env_stat(index->env, &stat);
    size_t end;

    if (rc == 0)
        rc = mdb_env_get_fd(index->env, &fd);
    rc = index_errno(rc);
    for (size_t i = 0; rc == 0 && i < f->count; i = end) {
        for (end = i + 1; end < f->count && f->at[end] == f->at[end - 1] + 1; end++)
            ;
        if (end - i >= RUN_MIN)
            rc =
                io_punch(fd, (off_t)(f->at[i] * stat.ms_psize), (off_t)((end - i) * stat.ms_psize));
    }
    return rc;
}

/* While nobody writes. 0 or -errno. */
static int trim(struct index *index)
{
    struct free_pages f = {0};
    MDB_txn *txn;
    int rc;

    if (!index_wait_for_readers(index, LEAVE_MS))
        return 0;
    rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = list_free_pages(txn, mdb_txn_id(txn) - 1, &f);
        mdb_txn_abort(txn);
    }
    rc = index_settle(index, rc);
    if (rc == 0 && f.count > 0) {
        qsort(f.at, f.count, sizeof(f.at[0]), compare_pages);
        rc = punch(index, &f);
    }
    free(f.at);
    return rc;
}

/* ---- now and then ---- */

/* A look that costs little: most of the time nothing has to be done. */
static bool may_pay(struct index *index)
{
    MDB_txn *txn;
    bool yes;

    if (!index_begin_look(index))
        return false;
    yes = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn) == 0;
    if (yes) {
        yes = pays(index, txn);
        mdb_txn_abort(txn);
    }
    index_end_look(index);
    return yes;
}

void index_trim(struct index *index)
{
    MDB_txn *writer;
    int rc;

    if (index->cannot_trim || !may_pay(index) || index_begin_write(index, &writer) != 0)
        return;
    rc = trim(index); /* no other transaction takes a page meanwhile */
    mdb_txn_abort(writer);
    if (rc == -EOPNOTSUPP)
        index->cannot_trim = true;
    else if (rc != 0)
        log_warn("cannot give back the free pages of index %s: %s", index->path, strerror(-rc));
}
