/*
 * index.c - the durable index in LMDB.
 *
 * Provides: index.h.
 * Used by:  logstore's readers, checkpoint, recovery, scans.
 * Threads:  see index.h. LMDB's reader table keeps readers and the one writer independent of each
 * other.
 *
 * Opening, damage, reading. The environment has five named databases; docs/format.md has the tables.
 * Who may use it at a time is in index_gate.c, what writes in index_write.c, what reads the tables
 * beside the rows in index_tables.c.
 *
 * LMDB believes what its pages say. Its header is checked before it is used; its own findings
 * become -EUCLEAN; a row that leads to the wrong place is found by the record's checksum and key.
 * Where LMDB would stop the program because a page makes no sense, a read is left by a jump instead
 * (it holds no lock, so nothing is left behind). Whenever damage is found the file is removed, so
 * that the next start rebuilds it instead of finding it again.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
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
#include "store/logstore/index_internal.h"

enum {
    DATABASES_MAX = 8,
    READERS_SPARE = 8, /* meta, figures, compaction, sweep, and tools that look from outside */

    WARM_PIECE = 256 * 1024,
};

#define FILE_NAME "data.mdb"
#define LOCK_NAME "lock.mdb"
#define META_FORMAT "format"

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

int index_errno(int rc)
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

int index_settle(struct index *index, int lmdb)
{
    int rc = index_errno(lmdb);

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

int index_run_read(int (*run)(void *arg), void *arg)
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
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
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
        rc = mdb_env_open(env, index->dir,
                          index->read_only ? flags | MDB_RDONLY | MDB_NOLOCK : flags, 0640);
    if (rc == 0 && !index->read_only) /* a process that was killed may have left its slots */
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

/* Opens the databases; a new file gets them. 0 or LMDB's code. */
static int databases_open(struct index *index)
{
    const struct {
        const char *name;
        MDB_dbi *dbi;
    } table[] = {
        {"keys", &index->keys},     {"meta", &index->meta}, {"segments", &index->segments},
        {"expiry", &index->expiry}, {"big", &index->big},
    };
    MDB_stat stat;
    MDB_txn *txn;
    bool fresh;
    int rc = mdb_env_stat(index->env, &stat);

    if (rc != 0)
        return rc;
    fresh = stat.ms_entries == 0 && !index->read_only;
    rc = mdb_txn_begin(index->env, NULL, index->read_only ? MDB_RDONLY : 0, &txn);
    if (rc != 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < sizeof(table) / sizeof(table[0]); i++)
        rc = mdb_dbi_open(txn, table[i].name, fresh ? MDB_CREATE : 0, table[i].dbi);
    if (rc == 0)
        rc = fresh ? format_write(index, txn) : format_read(index, txn);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc == MDB_NOTFOUND ? MDB_INCOMPATIBLE : rc;
    }
    return mdb_txn_commit(txn);
}

int index_open_environment(struct index *index)
{
    const char *why = NULL;
    int rc;

    if (mkdir(index->dir, 0750) != 0 && errno != EEXIST)
        rc = -errno;
    else
        rc = index_file_check(index->path, &why);
    if (rc == 0) {
        int lmdb = env_open(index, index->readers_max);

        if (lmdb == 0)
            lmdb = databases_open(index);
        rc = index_errno(lmdb);
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
    index->readers_max = readers;
    pthread_mutex_init(&index->readers_mutex, NULL);
    atomic_init(&index->epoch, 1);
    rc = set_paths(index, dir);
    if (rc == 0)
        rc = index_open_environment(index);
    if (rc != 0) {
        index_close(index);
        return rc;
    }
    *out = index;
    return 0;
}

int index_open_read_only(const char *dir, struct index **out, const char **why)
{
    struct index *index = calloc(1, sizeof *index);
    int lmdb;
    int rc = index == NULL ? -ENOMEM : set_paths(index, dir);

    *why = NULL;
    if (index != NULL) {
        pthread_mutex_init(&index->readers_mutex, NULL);
        atomic_init(&index->epoch, 1);
    }
    if (rc == 0) {
        index->readers_max = 1;
        atomic_store(&index->condemned, true); /* whoever looks on does not remove it */
        index->read_only = true;
        rc = access(index->path, R_OK) != 0 ? -errno : index_file_check(index->path, why);
    }
    if (rc == 0) {
        lmdb = env_open(index, index->readers_max);
        if (lmdb == 0)
            lmdb = databases_open(index);
        rc = index_errno(lmdb);
        if (rc == -EUCLEAN)
            *why = lmdb == MDB_INCOMPATIBLE ? "it has another format" : mdb_strerror(lmdb);
    }
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
    pthread_mutex_destroy(&index->readers_mutex);
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
    MDB_val key = val_of(INDEX_POSITION, strlen(INDEX_POSITION));
    MDB_val value;
    int rc = mdb_get(r->txn, r->index->meta, &key, &value);

    if (rc == 0 && !index_meta_decode(slice_of_val(value), r->out, r->room))
        rc = MDB_CORRUPTED;
    return rc;
}

int index_read_meta(struct index *index, struct index_meta *out, char *room)
{
    struct meta_read r = {.index = index, .out = out, .room = room};
    int rc;

    if (!index_begin_look(index))
        return -EIO;
    rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &r.txn);
    if (rc == 0) {
        rc = index_run_read(read_meta, &r);
        mdb_txn_abort(r.txn);
    }
    index_end_look(index);
    return index_settle(index, rc);
}

int index_stat(struct index *index, MDB_dbi dbi, MDB_stat *out)
{
    MDB_txn *txn;
    int rc;

    if (!index_begin_look(index))
        return -EIO;
    rc = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0) {
        rc = mdb_stat(txn, dbi, out);
        mdb_txn_abort(txn);
    }
    index_end_look(index);
    return index_errno(rc);
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
        return index_errno(rc);
    *out = ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
    return 0;
}

int index_extend_file(struct index *index)
{
    uint64_t used = 0;
    struct stat st;
    mdb_filehandle_t fd;
    int rc = used_size(index, &used);

    if (rc != 0)
        return rc;
    rc = mdb_env_get_fd(index->env, &fd);
    if (rc != 0)
        return index_errno(rc);
    if (fstat(fd, &st) != 0)
        return -errno;
    return (uint64_t)st.st_size < used ? io_truncate(fd, (off_t)used) : 0;
}

int index_figures(struct index *index, uint64_t *rows, uint64_t *used_bytes)
{
    MDB_stat stat = {0};
    int rc = index_stat(index, index->keys, &stat);

    if (rc == 0 && !index_begin_look(index))
        return -EIO;
    if (rc == 0) {
        rc = used_size(index, used_bytes);
        index_end_look(index);
    }
    if (rc == 0)
        *rows = stat.ms_entries;
    return rc;
}

/* ---- readers ---- */

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
    int rc = index_begin_read(reader);

    if (rc != 0)
        return index_errno(rc);
    rc = index_settle(reader->index, index_run_read(find_row, &f));
    index_end_read(reader);
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
    int rc = index_begin_read(reader);

    if (rc != 0)
        return index_errno(rc);
    rc = mdb_cursor_open(reader->txn, reader->index->keys, &w->cursor);
    if (rc == 0) {
        rc = index_run_read(walk_rows, w);
        mdb_cursor_close(w->cursor);
    }
    index_end_read(reader);
    return index_settle(reader->index, rc);
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

uint64_t index_version(struct index_reader *reader)
{
    uint64_t version = 0;

    /* Of a transaction, not of the file: that has a change already when readers do not see it yet. */
    if (index_begin_read(reader) == 0) {
        version = mdb_txn_id(reader->txn);
        index_end_read(reader);
    }
    return version;
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
