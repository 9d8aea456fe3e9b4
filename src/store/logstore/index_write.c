/*
 * index_write.c - what changes the index: checkpoints, and the moves of a compaction.
 *
 * Provides: index_apply(), index_move(), index_forget_segment() of index.h.
 * Used by:  checkpoint, recovery, compaction.
 * Threads:  one at a time (the store's index_mutex).
 *
 * A row and what it has in the other tables (index_tables.c) change in one transaction.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/logstore/index_format.h"
#include "store/logstore/index_internal.h"

enum {
    /* A transaction holds a copy of every page it changes, in memory first and then in the file,
       where the old ones are free for the next but one. So it aims at a part of the file ... */
    DIRTY_SHARE = 8,
    /* ... within these bounds (the upper one is about 64 MiB) ... */
    DIRTY_PAGES_MIN = 256,
    DIRTY_PAGES_MAX = 16 * 1024,
    /* ... and at most at so many rows, however densely they seem to lie. */
    TXN_ROWS = 50 * 1000,
    ROWS_PER_NEW_PAGE = 40, /* or more, of both tables */
};

/* ---- rows ---- */

/* Rows that count as records, as keyspace.c counts them; `flush` is the meta's flush_counted. */
static bool is_counted(const struct entry *e, struct stamp flush)
{
    return e->kind != RECORD_DELETE && stamp_compare(e->base, flush) > 0;
}

/* The row of a key. 0 or LMDB's code; MDB_NOTFOUND: there is none. */
static int row_find(MDB_cursor *cursor, MDB_val key, struct row *out)
{
    MDB_val value;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);

    if (rc == 0 && !row_decode(slice_of_val(value), out))
        rc = MDB_CORRUPTED;
    return rc;
}

static int row_put(MDB_cursor *cursor, MDB_val key, const struct row *row, unsigned flags)
{
    unsigned char bytes[ENTRY_ROW_MAX];
    MDB_val value = val_of(bytes, entry_encode_filed(&row->entry, row->filed_ms, bytes));

    return mdb_cursor_put(cursor, &key, &value, flags);
}

/* The row of an entry that takes the place of `old` (NULL: there is none). */
static struct row row_after_put(const struct index *index, const struct row *old,
                                const struct entry *e)
{
    struct row row = {*e, entry_moment(e)};

    if (old != NULL && old->filed_ms != 0 && old->filed_ms < row.filed_ms &&
        old->filed_ms > atomic_load(&index->now_ms))
        row.filed_ms = old->filed_ms;
    return row;
}

void index_set_time(struct index *index, int64_t now_ms)
{
    atomic_store(&index->now_ms, now_ms);
}

/* ---- checkpoints ---- */

/* What one transaction puts into the index. */
struct batch {
    const struct delta_item *items;
    size_t count;
    const struct index_meta *meta; /* the new position; NULL: it does not move yet */
    struct index_meta *before;     /* instead, or NULL: the present one, its count follows */
    bool drop;                     /* the old contents go */
};

/* Pages that so many rows touch in a table with so many leaves, if they are spread evenly. */
static size_t pages_touched(size_t rows, size_t leaves)
{
    return (rows < leaves ? rows : leaves) + rows / ROWS_PER_NEW_PAGE;
}

/* How many of the sorted items go into one transaction. 0 or -errno. */
static int rows_per_txn(struct index *index, const struct delta_item *items, size_t count,
                        size_t *out)
{
    MDB_stat keys = {0};
    MDB_stat expiry = {0};
    size_t expiring = 0;
    size_t budget;
    size_t pages;
    int rc = index_stat(index, index->keys, &keys);

    if (rc == 0)
        rc = index_stat(index, index->expiry, &expiry);
    for (size_t i = 0; i < count; i++)
        expiring += entry_moment(items[i].entry) != 0;
    budget = (keys.ms_leaf_pages + expiry.ms_leaf_pages + (count + expiring) / ROWS_PER_NEW_PAGE) /
             DIRTY_SHARE;
    if (budget < DIRTY_PAGES_MIN)
        budget = DIRTY_PAGES_MIN;
    if (budget > DIRTY_PAGES_MAX)
        budget = DIRTY_PAGES_MAX;
    pages =
        pages_touched(count, keys.ms_leaf_pages) + pages_touched(expiring, expiry.ms_leaf_pages);
    *out = pages > budget ? count / (pages / budget + 1) + 1 : TXN_ROWS;
    if (*out > TXN_ROWS)
        *out = TXN_ROWS;
    return rc;
}

/* True if `first` lies behind all rows: then pages can be filled to the brim, as in a rebuild from
 * an ordered log, and nothing is replaced. */
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

/* Puts the batch's rows. *change: what they do to the count of live records, by batch->before. */
static int put_rows(MDB_cursor *cursor, struct shares *shares, const struct batch *b,
                    int64_t *change)
{
    struct stamp flush = b->before != NULL ? b->before->flush_counted : (struct stamp){0};
    bool append = false;
    int rc = lies_behind(cursor, b->items[0].key, &append);

    for (size_t i = 0; rc == 0 && i < b->count; i++) {
        char index_bytes[INDEX_KEY_MAX];
        MDB_val key = val_of(index_bytes, index_key(b->items[i].key, index_bytes));
        struct row old;
        struct row now;
        bool replaces;

        if (!append)
            rc = row_find(cursor, key, &old);
        replaces = !append && rc == 0;
        if (rc == MDB_NOTFOUND)
            rc = 0;
        if (rc != 0)
            break;
        now = row_after_put(shares->index, replaces ? &old : NULL, b->items[i].entry);
        *change += is_counted(&now.entry, flush) - (replaces && is_counted(&old.entry, flush));
        rc = shares_replace(shares, slice_of_val(key), replaces ? &old : NULL, &now);
        if (rc == 0)
            rc = row_put(cursor, key, &now, append ? MDB_APPEND : 0);
    }
    return rc;
}

static int put_meta(struct index *index, MDB_txn *txn, const struct index_meta *meta)
{
    MDB_val key = val_of(INDEX_POSITION, strlen(INDEX_POSITION));
    MDB_val value = {.mv_size = index_meta_size(meta)};
    int rc = mdb_put(txn, index->meta, &key, &value, MDB_RESERVE);

    if (rc == 0)
        index_meta_encode(meta, value.mv_data);
    return rc;
}

/* All of a batch in its transaction, but the commit. */
static int write_batch(struct index *index, MDB_txn *txn, const struct batch *b)
{
    struct shares shares;
    MDB_cursor *cursor;
    int64_t change = 0;
    int rc = b->drop ? mdb_drop(txn, index->keys, 0) : 0;

    if (rc == 0 && b->drop)
        rc = shares_drop(index, txn);
    if (rc == 0 && b->count > 0) {
        rc = mdb_cursor_open(txn, index->keys, &cursor);
        if (rc != 0)
            return rc;
        shares_begin(&shares, index, txn);
        rc = put_rows(cursor, &shares, b, &change);
        mdb_cursor_close(cursor);
        if (rc == 0)
            rc = shares_write(&shares);
        shares_end(&shares);
    }
    if (b->before != NULL)
        b->before->live_count += (uint64_t)change;
    if (rc == 0 && b->meta != NULL)
        rc = put_meta(index, txn, b->meta);
    else if (rc == 0 && b->before != NULL)
        rc = put_meta(index, txn, b->before);
    return rc;
}

/* One durable transaction. 0 or -errno. */
static int apply_batch(struct index *index, const struct batch *b)
{
    MDB_txn *txn;
    int rc = index_begin_write(index, &txn);

    if (rc != 0)
        return rc;
    return index_end_write(index, txn, write_batch(index, txn, b));
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
    for (; rc == 0 && count - (size_t)(b.items - items) > per_txn; b.items += per_txn)
        rc = apply_batch(index, &b);
    free(room);
    return rc != 0 ? rc : b.items - items;
}

int index_apply(struct index *index, const struct delta_item *items, size_t count,
                const struct index_meta *meta, bool drop_first)
{
    struct batch last = {.meta = meta, .drop = drop_first};
    size_t per_txn = count;
    ssize_t done = 0;
    int rc = rows_per_txn(index, items, count, &per_txn);

    /* After a flush there is one transaction: a count that goes with half of what came behind the
     * flush would be wrong as soon as a replay meets it. The rows go into an empty database in
     * their order, so its pages are few. */
    if (rc == 0 && !drop_first) {
        done = apply_all_but_last(index, items, count, per_txn, meta != NULL);
        rc = done < 0 ? (int)done : 0;
    }
    if (rc == 0) {
        last.items = items + done;
        last.count = count - (size_t)done;
        rc = apply_batch(index, &last);
    }
    return rc;
}

/* ---- compaction ---- */

static int compare_moves(const void *a, const void *b)
{
    return index_compare_keys(((const struct index_move *)a)->key,
                              ((const struct index_move *)b)->key);
}

/* The row after a move. False: it does not name the old place (any more). */
static bool entry_after_move(const struct index_move *m, uint32_t to, const struct entry *old,
                             struct entry *now)
{
    bool record = old->segment == m->segment && old->offset == m->offset;
    bool touch =
        old->has_touch && old->touch_segment == m->segment && old->touch_offset == m->offset;

    *now = *old;
    switch (m->what) {
    case MOVED_GONE: return record;
    case MOVED_RECORD:
        now->segment = to;
        now->offset = m->new_offset;
        now->length = m->new_length;
        return record;
    case MOVED_TOUCH:
        now->touch_segment = to;
        now->touch_offset = m->new_offset;
        return touch;
    case MOVED_TOUCH_GONE:
        now->has_touch = false;
        now->touch_segment = now->touch_offset = now->touch_length = 0;
        return touch;
    }
    return false;
}

/* 0, -ENOENT: the row is another one meanwhile, or LMDB's code. EINVAL: a record that counts would
 * go. */
static int move_row(MDB_cursor *cursor, struct shares *shares, const struct index_move *m,
                    uint32_t to, struct stamp flush)
{
    char bytes[INDEX_KEY_MAX];
    MDB_val key = val_of(bytes, index_key(m->key, bytes));
    bool goes = m->what == MOVED_GONE;
    struct row old = {.filed_ms = 0};
    struct row now;
    int rc = row_find(cursor, key, &old);

    now.filed_ms = old.filed_ms;
    if (rc == MDB_NOTFOUND || (rc == 0 && !entry_after_move(m, to, &old.entry, &now.entry)))
        return 0;
    if (rc == 0 && goes && is_counted(&old.entry, flush))
        rc = EINVAL;
    if (rc == 0)
        rc = shares_replace(shares, slice_of_val(key), &old, goes ? NULL : &now);
    if (rc == 0)
        rc = goes ? mdb_cursor_del(cursor, 0) : row_put(cursor, key, &now, 0);
    return rc;
}

/* Forgets a segment's share. EBUSY: rows name something in it. */
static int forget(struct index *index, MDB_txn *txn, uint32_t number)
{
    struct segment_share share;
    int rc = segment_share_read(index, txn, number, &share);

    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc == 0 && (share.live_bytes > 0 || share.tombstone_bytes > 0))
        rc = EBUSY;
    share.state = SEGMENT_PLAIN;
    return rc == 0 ? segment_share_write(index, txn, number, &share) : rc;
}

static int mark(struct index *index, MDB_txn *txn, uint32_t number, enum segment_state state)
{
    struct segment_share share;
    int rc = segment_share_read(index, txn, number, &share);

    if (rc != 0 && rc != MDB_NOTFOUND)
        return rc;
    share.state = state;
    return segment_share_write(index, txn, number, &share);
}

static int move_rows(struct index *index, MDB_txn *txn, uint32_t to, const struct index_move *moves,
                     size_t count, struct stamp flush)
{
    struct shares shares;
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, index->keys, &cursor);

    if (rc != 0)
        return rc;
    shares_begin(&shares, index, txn);
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = move_row(cursor, &shares, &moves[i], to, flush);
    mdb_cursor_close(cursor);
    if (rc == 0)
        rc = shares_write(&shares);
    shares_end(&shares);
    return rc;
}

/* What the position's flush has killed does not count. */
static int flush_of(struct index *index, struct stamp *out)
{
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta meta = {0};
    int rc = room == NULL ? -ENOMEM : index_read_meta(index, &meta, room);

    *out = meta.flush_counted;
    free(room);
    return rc == -ENOENT ? 0 : rc;
}

int index_move(struct index *index, uint32_t to, struct index_move *moves, size_t count, bool first,
               bool last, const uint32_t *gone, size_t gone_count)
{
    struct stamp flush;
    MDB_txn *txn;
    int rc = flush_of(index, &flush);

    if (rc != 0)
        return rc;
    if (count > 0)
        qsort(moves, count, sizeof(*moves), compare_moves);
    rc = index_begin_write(index, &txn);
    if (rc != 0)
        return rc;
    if (first)
        rc = mark(index, txn, to, SEGMENT_INSTALLING);
    if (rc == 0 && count > 0)
        rc = move_rows(index, txn, to, moves, count, flush);
    if (rc == 0 && last)
        rc = mark(index, txn, to, SEGMENT_INSTALLED);
    for (size_t i = 0; rc == 0 && last && i < gone_count; i++)
        rc = forget(index, txn, gone[i]);
    return index_end_write(index, txn, rc);
}

int index_forget_segment(struct index *index, uint32_t number)
{
    MDB_txn *txn;
    int rc = index_begin_write(index, &txn);

    if (rc != 0)
        return rc;
    return index_end_write(index, txn, forget(index, txn, number));
}
