/*
 * index.c - the durable index in LMDB.
 *
 * Provides: index.h.
 * Used by:  logstore's readers, checkpoint, recovery, scans.
 * Threads:  see index.h. LMDB's reader table keeps readers and the one writer independent of each
 * other.
 *
 * The environment has two named databases: "keys" (index key -> row, entry.c) and "meta" (format
 * number and position, index_format.c); docs/format.md has the tables.
 *
 * LMDB believes what its pages say. Its header is checked before it is used; its own findings
 * become -EUCLEAN; a row that leads to the wrong place is found by the record's checksum and key.
 * Where LMDB would stop the program because a page makes no sense, a read is left by a jump instead
 * (it holds no lock, so nothing is left behind). Whenever damage is found the file is removed, so
 * that the next start rebuilds it instead of finding it again.
 */
#include "store/logstore/index.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/index_format.h"

enum {
    DATABASES_MAX = 8,
    READERS_SPARE = 4, /* meta, figures, and tools that look from outside */

    /* A transaction holds a copy of every page it changes: at most so many, about 64 MiB, are aimed
       at ... */
    DIRTY_PAGES = 16 * 1024,
    /* ... and at most so many rows, however densely they seem to lie. */
    TXN_ROWS = 50 * 1000,

    WARM_PIECE = 256 * 1024,
};

#define FILE_NAME "data.mdb"
#define LOCK_NAME "lock.mdb"
#define META_FORMAT "format"
#define META_POSITION "position"

/* Address space for the map. ThreadSanitizer has no room for a large one. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define INDEX_UNDER_TSAN
#endif
#elif defined(__SANITIZE_THREAD__)
#define INDEX_UNDER_TSAN
#endif
#ifdef INDEX_UNDER_TSAN
#define MAP_BYTES ((size_t)1 << 36)
#else
#define MAP_BYTES ((size_t)1 << 40)
#endif
#define MAP_BYTES_MIN ((size_t)1 << 24)

struct index {
    MDB_env *env;
    MDB_dbi keys;
    MDB_dbi meta;
    _Atomic bool condemned; /* damage was found and logged, the file is removed */
    char dir[PATH_MAX];
    char path[PATH_MAX]; /* of data.mdb */
};

struct index_reader {
    struct index *index;
    MDB_txn *txn; /* reset between calls */
};

/* LMDB's code as ours. */
static int errno_of(int rc)
{
    switch (rc) {
    case MDB_SUCCESS: return 0;
    case MDB_NOTFOUND: return -ENOENT;
    case MDB_MAP_FULL: return -ENOSPC;
    case MDB_READERS_FULL: return -EMFILE;
    case MDB_KEYEXIST: return -EINVAL; /* appended rows were not in order */
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_INCOMPATIBLE: return -EUCLEAN;
    default: return rc > 0 ? -rc : -EIO;
    }
}

static MDB_val val_of(const void *data, size_t len)
{
    return (MDB_val){.mv_size = len, .mv_data = (void *)(uintptr_t)data};
}

static struct slice slice_of_val(MDB_val v)
{
    return slice_of(v.mv_data, v.mv_size);
}

/* ---- damage ---- */

/* Where a read of this thread goes on when LMDB wants to stop the program; NULL: nowhere. */
static _Thread_local jmp_buf *rescue;

static void condemn(struct index *index, const char *why)
{
    if (atomic_exchange_explicit(&index->condemned, true, memory_order_relaxed))
        return;
    log_error("index %s is damaged (%s): it is removed, the next start rebuilds it from the log",
              index->path, why);
    io_unlink(index->path);
}

/* The result of an operation as our error. */
static int settle(struct index *index, int lmdb)
{
    int rc = errno_of(lmdb);

    if (rc == -EUCLEAN)
        condemn(index, mdb_strerror(lmdb));
    return rc;
}

/* LMDB has found pages that make no sense, and ends the program when this returns. */
static void on_lmdb_stop(MDB_env *env, const char *message)
{
    condemn(mdb_env_get_userctx(env), message);
    if (rescue != NULL)
        longjmp(*rescue, 1);
}

/* Runs a read; `run` returns LMDB's code. Its transaction can be reset afterwards whatever came. */
static int run_read(int (*run)(void *arg), void *arg)
{
    jmp_buf *outer = rescue; /* a walk's each() may look up other rows */
    jmp_buf here;
    int lmdb;

    rescue = &here;
    lmdb = _setjmp(here) == 0 ? run(arg) : MDB_CORRUPTED;
    rescue = outer;
    return lmdb;
}

/* ---- keys ---- */

size_t index_key(struct slice key, char *out)
{
    XXH128_canonical_t hash;

    if (key.len <= INDEX_PREFIX_MAX) {
        out[0] = INDEX_FAMILY_PLAIN;
        if (key.len > 0)
            memcpy(out + 1, key.ptr, key.len);
        return 1 + key.len;
    }
    XXH128_canonicalFromHash(&hash, XXH3_128bits(key.ptr, key.len)); /* big-endian */
    out[0] = INDEX_FAMILY_HASHED;
    memcpy(out + 1, key.ptr, INDEX_PREFIX_MAX);
    memcpy(out + 1 + INDEX_PREFIX_MAX, hash.digest, sizeof hash.digest);
    return INDEX_KEY_MAX;
}

int index_compare_keys(struct slice a, struct slice b)
{
    char index_a[INDEX_KEY_MAX];
    char index_b[INDEX_KEY_MAX];

    if (a.len <= INDEX_PREFIX_MAX && b.len <= INDEX_PREFIX_MAX)
        return slice_compare(a, b);
    return slice_compare(slice_of(index_a, index_key(a, index_a)),
                         slice_of(index_b, index_key(b, index_b)));
}

/* ---- opening ---- */

static int set_paths(struct index *index, const char *dir)
{
    int a = snprintf(index->dir, sizeof index->dir, "%s", dir);
    int b = snprintf(index->path, sizeof index->path, "%s/" FILE_NAME, dir);

    if (a < 0 || b < 0 || (size_t)a >= sizeof index->dir || (size_t)b >= sizeof index->path)
        return -ENAMETOOLONG;
    return 0;
}

/* How much address space the map may take: half of what a process with a limit has. */
static size_t map_bytes(void)
{
    struct rlimit limit;
    size_t bytes = MAP_BYTES;

    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        while (bytes > limit.rlim_cur / 2 && bytes > MAP_BYTES_MIN)
            bytes /= 2;
    return bytes;
}

/* One attempt with a map of this size. 0 or LMDB's code; then nothing is left open. */
static int env_try(struct index *index, unsigned readers, size_t map)
{
    MDB_env *env;
    int dead;
    int rc = mdb_env_create(&env);

    if (rc != 0)
        return rc;
    rc = mdb_env_set_mapsize(env, map);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(env, readers + READERS_SPARE);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env, DATABASES_MAX);
    if (rc == 0)
        rc = mdb_env_set_userctx(env, index);
    if (rc == 0)
        rc = mdb_env_set_assert(env, on_lmdb_stop);
    if (rc == 0)
        rc = mdb_env_open(env, index->dir, MDB_NOTLS | MDB_NORDAHEAD, 0640);
    if (rc == 0) /* a process that was killed may have left its slots */
        rc = mdb_reader_check(env, &dead);
    if (rc != 0) {
        mdb_env_close(env);
        return rc;
    }
    index->env = env;
    return 0;
}

static int env_open(struct index *index, unsigned readers)
{
    size_t map = map_bytes();
    int rc = env_try(index, readers, map);

    while (rc == ENOMEM && map > MAP_BYTES_MIN) {
        map /= 4;
        rc = env_try(index, readers, map);
    }
    if (rc == 0 && map < MAP_BYTES)
        log_warn("index %s: address space is limited, it can grow to %zu MiB only", index->path,
                 map >> 20);
    return rc;
}

static int format_write(struct index *index, MDB_txn *txn)
{
    unsigned char number[4];
    MDB_val key = val_of(META_FORMAT, strlen(META_FORMAT));
    MDB_val value = val_of(number, sizeof number);

    put_u32le(number, INDEX_FORMAT);
    return mdb_put(txn, index->meta, &key, &value, 0);
}

/* 0 or LMDB's code; MDB_INCOMPATIBLE if another format's number stands there, or none. */
static int format_read(struct index *index, MDB_txn *txn)
{
    MDB_val key = val_of(META_FORMAT, strlen(META_FORMAT));
    MDB_val value;
    int rc = mdb_get(txn, index->meta, &key, &value);

    if (rc == MDB_NOTFOUND)
        return MDB_INCOMPATIBLE;
    if (rc == 0 && (value.mv_size != 4 || get_u32le(value.mv_data) != INDEX_FORMAT))
        return MDB_INCOMPATIBLE;
    return rc;
}

/* Opens the two databases; a new file gets them. 0 or LMDB's code. */
static int databases_open(struct index *index)
{
    MDB_stat stat;
    MDB_txn *txn;
    bool fresh;
    int rc = mdb_env_stat(index->env, &stat);

    if (rc != 0)
        return rc;
    fresh = stat.ms_entries == 0;
    rc = mdb_txn_begin(index->env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    rc = mdb_dbi_open(txn, "keys", fresh ? MDB_CREATE : 0, &index->keys);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", fresh ? MDB_CREATE : 0, &index->meta);
    if (rc == 0)
        rc = fresh ? format_write(index, txn) : format_read(index, txn);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc == MDB_NOTFOUND ? MDB_INCOMPATIBLE : rc;
    }
    return mdb_txn_commit(txn);
}

/* 0 or -errno, logged. */
static int open_checked(struct index *index, unsigned readers)
{
    const char *why = NULL;
    int rc;

    if (mkdir(index->dir, 0750) != 0 && errno != EEXIST)
        rc = -errno;
    else
        rc = index_file_check(index->path, &why);
    if (rc == 0) {
        int lmdb = env_open(index, readers);

        if (lmdb == 0)
            lmdb = databases_open(index);
        rc = errno_of(lmdb);
        why = lmdb == MDB_INCOMPATIBLE ? "it has another format" : mdb_strerror(lmdb);
    }
    if (rc == -EUCLEAN)
        log_warn("index %s cannot be used: %s", index->path, why);
    else if (rc != 0)
        log_error("cannot open index %s: %s", index->path, strerror(-rc));
    return rc;
}

int index_open(const char *dir, unsigned readers, struct index **out)
{
    struct index *index = calloc(1, sizeof *index);
    int rc;

    if (index == NULL)
        return -ENOMEM;
    rc = set_paths(index, dir);
    if (rc == 0)
        rc = open_checked(index, readers);
    if (rc != 0) {
        index_close(index);
        return rc;
    }
    *out = index;
    return 0;
}

void index_close(struct index *index)
{
    if (index == NULL)
        return;
    if (index->env != NULL)
        mdb_env_close(index->env);
    free(index);
}

int index_remove(const char *dir)
{
    static const char *const names[] = {FILE_NAME, LOCK_NAME};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int len = snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        int rc;

        if (len < 0 || (size_t)len >= sizeof path)
            return -ENAMETOOLONG;
        rc = io_unlink(path);
        if (rc != 0 && rc != -ENOENT)
            return rc;
    }
    return 0;
}

/* ---- meta and figures ---- */

struct meta_read {
    struct index *index;
    MDB_txn *txn;
    struct index_meta *out;
    char *room;
};

static int read_meta(void *arg)
{
    struct meta_read *r = arg;
    MDB_val key = val_of(META_POSITION, strlen(META_POSITION));
    MDB_val value;
    int rc = mdb_get(r->txn, r->index->meta, &key, &value);

    if (rc == 0 && !index_meta_decode(slice_of_val(value), r->out, r->room))
        rc = MDB_CORRUPTED;
    return rc;
}

int index_read_meta(struct index *index, struct index_meta *out, char *room)
{
    struct meta_read r = {.index = index, .out = out, .room = room};
    int rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &r.txn);

    if (rc != 0)
        return errno_of(rc);
    rc = settle(index, run_read(read_meta, &r));
    mdb_txn_abort(r.txn);
    return rc;
}

/* Of the database of keys, as of the last commit. 0 or -errno. */
static int keys_stat(struct index *index, MDB_stat *out)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);

    if (rc != 0)
        return errno_of(rc);
    rc = mdb_stat(txn, index->keys, out);
    mdb_txn_abort(txn);
    return errno_of(rc);
}

/* Bytes up to the end of the last page that was ever used. 0 or -errno. */
static int used_size(struct index *index, uint64_t *out)
{
    MDB_envinfo info;
    MDB_stat stat;
    int rc = mdb_env_info(index->env, &info);

    if (rc == 0)
        rc = mdb_env_stat(index->env, &stat);
    if (rc != 0)
        return errno_of(rc);
    *out = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
    return 0;
}

int index_figures(struct index *index, uint64_t *rows, uint64_t *used_bytes)
{
    MDB_stat stat = {0};
    int rc = keys_stat(index, &stat);

    if (rc == 0)
        rc = used_size(index, used_bytes);
    if (rc == 0)
        *rows = stat.ms_entries;
    return rc;
}

/* ---- checkpoints ---- */

/* Rows of one transaction when `count` sorted rows go into an index with so many leaf pages: count
 * / leaves of them share a page, if they are spread evenly. */
static size_t rows_per_txn(size_t count, size_t leaf_pages)
{
    size_t per_page = leaf_pages > 0 ? count / leaf_pages : TXN_ROWS;

    if (per_page == 0)
        per_page = 1;
    return per_page > TXN_ROWS / DIRTY_PAGES ? TXN_ROWS : per_page * DIRTY_PAGES;
}

/* True if `first` lies behind all rows: then pages can be filled to the brim, as in a rebuild from
 * an ordered log. */
static int lies_behind(MDB_cursor *cursor, struct slice first, bool *out)
{
    char buffer[INDEX_KEY_MAX];
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);

    if (rc == 0)
        *out = slice_compare(slice_of_val(key), slice_of(buffer, index_key(first, buffer))) < 0;
    if (rc == MDB_NOTFOUND) {
        *out = true;
        rc = 0;
    }
    return rc;
}

/* Rows that count as records, as keyspace.c counts them. */
static bool is_counted(const struct entry *e, struct stamp flush)
{
    return e->kind != RECORD_DELETE && stamp_compare(e->base, flush) > 0;
}

/* The change of the count that the row of `key` makes by going: -1 or 0. */
static int uncount_row(MDB_cursor *cursor, MDB_val key, struct stamp flush, int64_t *change)
{
    MDB_val row;
    struct entry e;
    int rc = mdb_cursor_get(cursor, &key, &row, MDB_SET);

    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc == 0 && !entry_decode(slice_of_val(row), &e))
        return MDB_CORRUPTED;
    if (rc == 0)
        *change -= is_counted(&e, flush);
    return rc;
}

/* `count` (may be NULL): the meta whose count of live records follows the rows. */
static int put_rows(struct index *index, MDB_txn *txn, const struct delta_item *items, size_t n,
                    struct index_meta *count)
{
    bool append = false;
    int64_t change = 0;
    MDB_cursor *cursor;
    int rc;

    if (n == 0)
        return 0;
    rc = mdb_cursor_open(txn, index->keys, &cursor);
    if (rc != 0)
        return rc;
    rc = lies_behind(cursor, items[0].key, &append);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        char index_bytes[INDEX_KEY_MAX];
        unsigned char row[ENTRY_ROW_MAX];
        MDB_val key = val_of(index_bytes, index_key(items[i].key, index_bytes));
        MDB_val value = val_of(row, entry_encode(items[i].entry, row));

        if (count != NULL && !append)
            rc = uncount_row(cursor, key, count->flush, &change);
        if (count != NULL)
            change += is_counted(items[i].entry, count->flush);
        if (rc == 0)
            rc = mdb_cursor_put(cursor, &key, &value, append ? MDB_APPEND : 0);
    }
    mdb_cursor_close(cursor);
    if (count != NULL)
        count->live_count += (uint64_t)change;
    return rc;
}

static int put_meta(struct index *index, MDB_txn *txn, const struct index_meta *meta)
{
    MDB_val key = val_of(META_POSITION, strlen(META_POSITION));
    MDB_val value = {.mv_size = index_meta_size(meta)};
    int rc = mdb_put(txn, index->meta, &key, &value, MDB_RESERVE);

    if (rc == 0)
        index_meta_encode(meta, value.mv_data);
    return rc;
}

/* What one transaction puts into the index. */
struct batch {
    const struct delta_item *items;
    size_t count;
    const struct index_meta *meta; /* the new position; NULL: it does not move yet */
    struct index_meta *before;     /* instead, or NULL: the present one, its count follows */
    bool drop;                     /* the old contents go */
};

/* One durable transaction. 0 or LMDB's code. */
static int apply_batch(struct index *index, const struct batch *b)
{
    const struct index_meta *meta = b->meta != NULL ? b->meta : b->before;
    MDB_txn *txn;
    int rc = mdb_txn_begin(index->env, NULL, 0, &txn);

    if (rc != 0)
        return rc;
    if (b->drop)
        rc = mdb_drop(txn, index->keys, 0);
    if (rc == 0)
        rc = put_rows(index, txn, b->items, b->count, b->before);
    if (rc == 0 && meta != NULL)
        rc = put_meta(index, txn, meta);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn);
}

/* LMDB does not write pages that a transaction took at the end of the file and gave up again, but
 * counts them. The next open would take the file for a cut one: it is made as long as it says it
 * is. */
static int extend_file(struct index *index)
{
    uint64_t used = 0;
    struct stat st;
    mdb_filehandle_t fd;
    int rc = used_size(index, &used);

    if (rc != 0)
        return rc;
    rc = mdb_env_get_fd(index->env, &fd);
    if (rc != 0)
        return errno_of(rc);
    if (fstat(fd, &st) != 0)
        return -errno;
    return (uint64_t)st.st_size < used ? io_truncate(fd, (off_t)used) : 0;
}

/* All items but those of the last transaction: the position stays, the count of live records
 * follows the rows. Without that, a replay from the old position would find rows that are newer
 * than it, and take what they did to the count for done. Returns how many items are in, or -errno.
 */
static ssize_t apply_all_but_last(struct index *index, const struct delta_item *items, size_t count,
                                  size_t per_txn, bool counted)
{
    char *room = counted ? malloc(INDEX_VECTORS_MAX) : NULL;
    struct index_meta before;
    struct batch b = {.items = items, .count = per_txn, .before = counted ? &before : NULL};
    int rc = !counted ? 0 : room == NULL ? -ENOMEM : index_read_meta(index, &before, room);

    if (rc == -ENOENT) { /* nothing to keep right: without a position everything is replayed */
        b.before = NULL;
        rc = 0;
    }
    for (; rc == 0 && count - (size_t)(b.items - items) > per_txn; b.items += per_txn) {
        rc = errno_of(apply_batch(index, &b));
        if (rc == 0)
            rc = extend_file(index);
    }
    free(room);
    return rc != 0 ? rc : b.items - items;
}

int index_apply(struct index *index, const struct delta_item *items, size_t count,
                const struct index_meta *meta, bool drop_first)
{
    struct batch last = {.meta = meta, .drop = drop_first};
    MDB_stat stat = {0};
    ssize_t done = 0;
    int rc = keys_stat(index, &stat);

    /* After a flush there is one transaction: a count that goes with half of what came behind the
     * flush would be wrong as soon as a replay meets it. The rows go into an empty database in
     * their order, so its pages are few. */
    if (rc == 0 && !drop_first) {
        done = apply_all_but_last(index, items, count, rows_per_txn(count, stat.ms_leaf_pages),
                                  meta != NULL);
        rc = done < 0 ? (int)done : 0;
    }
    if (rc == 0) {
        last.items = items + done;
        last.count = count - (size_t)done;
        rc = errno_of(apply_batch(index, &last));
    }
    return rc == 0 ? extend_file(index) : rc;
}

/* ---- readers ---- */

int index_reader_open(struct index *index, struct index_reader **out)
{
    struct index_reader *reader = calloc(1, sizeof *reader);
    int rc;

    if (reader == NULL)
        return -ENOMEM;
    rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc != 0) {
        log_error("cannot read index %s: %s", index->path, mdb_strerror(rc));
        free(reader);
        return errno_of(rc);
    }
    mdb_txn_reset(reader->txn);
    reader->index = index;
    *out = reader;
    return 0;
}

void index_reader_close(struct index_reader *reader)
{
    if (reader == NULL)
        return;
    mdb_txn_abort(reader->txn);
    free(reader);
}

struct find {
    struct index_reader *reader;
    struct slice key;
    struct entry *out;
};

static int find_row(void *arg)
{
    const struct find *f = arg;
    char buffer[INDEX_KEY_MAX];
    MDB_val key = val_of(buffer, index_key(f->key, buffer));
    MDB_val row;
    int rc = mdb_get(f->reader->txn, f->reader->index->keys, &key, &row);

    if (rc == 0 && !entry_decode(slice_of_val(row), f->out))
        rc = MDB_CORRUPTED;
    return rc;
}

int index_find(struct index_reader *reader, struct slice key, struct entry *out)
{
    struct find f = {reader, key, out};
    int rc = mdb_txn_renew(reader->txn);

    if (rc != 0)
        return errno_of(rc);
    rc = settle(reader->index, run_read(find_row, &f));
    mdb_txn_reset(reader->txn);
    return rc;
}

struct walk {
    MDB_cursor *cursor;
    struct slice from;
    bool back; /* the rows before `from`, downwards */
    bool (*each)(struct slice index_key, const struct entry *e, void *arg);
    void *arg;
};

/* To the first row of the walk. 0 or LMDB's code. */
static int walk_begin(const struct walk *w, MDB_val *key, MDB_val *row)
{
    int rc;

    *key = val_of(w->from.ptr, w->from.len);
    if (w->from.len == 0)
        return mdb_cursor_get(w->cursor, key, row, w->back ? MDB_LAST : MDB_FIRST);
    rc = mdb_cursor_get(w->cursor, key, row, MDB_SET_RANGE);
    if (w->back && (rc == 0 || rc == MDB_NOTFOUND))
        rc = mdb_cursor_get(w->cursor, key, row, rc == 0 ? MDB_PREV : MDB_LAST);
    return rc;
}

static int walk_rows(void *arg)
{
    const struct walk *w = arg;
    MDB_val key;
    MDB_val row;
    int rc = walk_begin(w, &key, &row);

    while (rc == 0) {
        struct entry e;

        if (key.mv_size == 0 || key.mv_size > INDEX_KEY_MAX || !entry_decode(slice_of_val(row), &e))
            return MDB_CORRUPTED;
        if (!w->each(slice_of_val(key), &e, w->arg))
            return 0;
        rc = mdb_cursor_get(w->cursor, &key, &row, w->back ? MDB_PREV : MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int walk(struct index_reader *reader, struct walk *w)
{
    int rc = mdb_txn_renew(reader->txn);

    if (rc != 0)
        return errno_of(rc);
    rc = mdb_cursor_open(reader->txn, reader->index->keys, &w->cursor);
    if (rc == 0) {
        rc = run_read(walk_rows, w);
        mdb_cursor_close(w->cursor);
    }
    mdb_txn_reset(reader->txn);
    return settle(reader->index, rc);
}

int index_walk(struct index_reader *reader, struct slice from,
               bool (*each)(struct slice index_key, const struct entry *e, void *arg), void *arg)
{
    struct walk w = {.from = from, .each = each, .arg = arg};

    return walk(reader, &w);
}

int index_walk_back(struct index_reader *reader, struct slice before,
                    bool (*each)(struct slice index_key, const struct entry *e, void *arg),
                    void *arg)
{
    struct walk w = {.from = before, .back = true, .each = each, .arg = arg};

    return walk(reader, &w);
}

uint64_t index_version(const struct index_reader *reader)
{
    MDB_envinfo info = {0};

    (void)mdb_env_info(reader->index->env, &info); /* fails without an environment only */
    return info.me_last_txnid;
}

void index_warm(struct index *index, bool (*go_on)(void *arg), void *arg)
{
    char *buffer = malloc(WARM_PIECE);
    int fd = io_open(index->path, O_RDONLY, 0);
    off_t at = 0;
    ssize_t n = 1;

    if (buffer != NULL && fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
        for (; n > 0 && go_on(arg); at += n)
            n = io_read_upto(fd, buffer, WARM_PIECE, at);
    }
    if (fd >= 0)
        close(fd);
    free(buffer);
}
