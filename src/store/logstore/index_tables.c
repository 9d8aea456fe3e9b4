/*
 * index_tables.c - the tables beside the rows: segments, expiry, files of big values.
 *
 * Provides: struct shares (index_internal.h), index_segments(), index_expired() and the like
 *           (index.h).
 * Used by:  index_write.c, compaction, sweep, recovery.
 * Threads:  shares: the one that writes the index. Reads: any, with a reader of its own.
 *
 * What a row has in these tables is a function of the row alone, and changes in the transaction
 * that changes the row: so the tables say at every moment what a recount from the rows would say.
 *
 * Rows come in the order of their keys, and their expiries in any: each change costs a page. They
 * are gathered and sorted, so that a page of the expiry table is looked for once.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "store/logstore/index_internal.h"

enum {
    /* Keys of the expiry table: u64 big-endian expiry, then the index key. One of a hashed key
       would be too long for LMDB: its hash comes first, and what is too much is the value. */
    EXPIRES_BYTES = 8,
    HASH_BYTES = 16,
    EXPIRY_PREFIX = INDEX_KEY_MAX - EXPIRES_BYTES - 1 - HASH_BYTES, /* of a hashed key's start */
    EXPIRY_REST = INDEX_PREFIX_MAX - EXPIRY_PREFIX,

    EXPIRY_CHANGES = 16 * 1024, /* gathered at most ... */
    EXPIRY_ARENA = 1024 * 1024, /* ... with keys of so many bytes */

    SEGMENT_KEY_SIZE = 4,
    SEGMENT_OFF_LIVE = 0,
    SEGMENT_OFF_TOMBSTONE = 8,
    SEGMENT_OFF_STATE = 16,
    SEGMENT_SIZE = 17,
    SEGMENT_SLOTS_MIN = 64,

    BIG_KEY_SIZE = 8,
    BIG_SIZE = 8,
};

/* ---- segments ---- */

static bool share_decode(struct slice in, struct segment_share *out)
{
    const unsigned char *p = (const unsigned char *)in.ptr;

    if (in.len != SEGMENT_SIZE || p[SEGMENT_OFF_STATE] > SEGMENT_INSTALLED)
        return false;
    *out = (struct segment_share){
        .live_bytes = get_u64le(p + SEGMENT_OFF_LIVE),
        .tombstone_bytes = get_u64le(p + SEGMENT_OFF_TOMBSTONE),
        .state = (enum segment_state)p[SEGMENT_OFF_STATE],
    };
    return true;
}

int segment_share_read(struct index *index, MDB_txn *txn, uint32_t number,
                       struct segment_share *out)
{
    unsigned char bytes[SEGMENT_KEY_SIZE];
    MDB_val key = val_of(bytes, sizeof(bytes));
    MDB_val value;
    int rc;

    *out = (struct segment_share){0};
    put_u32be(bytes, number);
    rc = mdb_get(txn, index->segments, &key, &value);
    if (rc == 0 && !share_decode(slice_of_val(value), out))
        rc = MDB_CORRUPTED;
    return rc;
}

int segment_share_write(struct index *index, MDB_txn *txn, uint32_t number,
                        const struct segment_share *share)
{
    unsigned char key_bytes[SEGMENT_KEY_SIZE];
    unsigned char bytes[SEGMENT_SIZE];
    MDB_val key = val_of(key_bytes, sizeof(key_bytes));
    MDB_val value = val_of(bytes, sizeof(bytes));
    int rc;

    put_u32be(key_bytes, number);
    if (share->live_bytes == 0 && share->tombstone_bytes == 0 && share->state == SEGMENT_PLAIN) {
        rc = mdb_del(txn, index->segments, &key, NULL);
        return rc == MDB_NOTFOUND ? 0 : rc;
    }
    put_u64le(bytes + SEGMENT_OFF_LIVE, share->live_bytes);
    put_u64le(bytes + SEGMENT_OFF_TOMBSTONE, share->tombstone_bytes);
    bytes[SEGMENT_OFF_STATE] = (unsigned char)share->state;
    return mdb_put(txn, index->segments, &key, &value, 0);
}

static struct segment_change *change_slot(struct segment_change *slots, size_t room,
                                          uint32_t number)
{
    size_t at = number * 2654435761u & (room - 1);

    while (slots[at].used && slots[at].number != number)
        at = (at + 1) & (room - 1);
    return &slots[at];
}

/* 0 or LMDB's code. */
static int changes_grow(struct shares *s)
{
    size_t room = s->segment_room == 0 ? SEGMENT_SLOTS_MIN : s->segment_room * 2;
    struct segment_change *slots = calloc(room, sizeof(*slots));

    if (slots == NULL)
        return ENOMEM;
    for (size_t i = 0; i < s->segment_room; i++)
        if (s->segments[i].used)
            *change_slot(slots, room, s->segments[i].number) = s->segments[i];
    free(s->segments);
    s->segments = slots;
    s->segment_room = room;
    return 0;
}

/* `length` bytes in a segment come (sign 1) or go (-1). */
static int change_segment(struct shares *s, uint32_t number, uint32_t length, int sign, bool live)
{
    struct segment_change *c;

    if (s->segment_count * 2 >= s->segment_room && changes_grow(s) != 0)
        return ENOMEM;
    c = change_slot(s->segments, s->segment_room, number);
    if (!c->used) {
        *c = (struct segment_change){.used = true, .number = number};
        s->segment_count++;
    }
    if (live)
        c->live_bytes += sign * (int64_t)length;
    else
        c->tombstone_bytes += sign * (int64_t)length;
    return 0;
}

/* What the row names. A touch goes with the record that it touches: what may be let go with it is
 * no live byte. */
static int change_segments(struct shares *s, struct slice index_key, const struct entry *e,
                           int sign)
{
    bool live = e->kind != RECORD_DELETE;
    uint32_t length = live ? e->length : index_tombstone_bytes(e, index_key);
    int rc = change_segment(s, e->segment, length, sign, live);

    if (rc == 0 && e->has_touch)
        rc = change_segment(s, e->touch_segment, e->touch_length, sign, live);
    return rc;
}

/* False: less than nothing would be left. */
static bool add_change(uint64_t *bytes, int64_t change)
{
    uint64_t less = change < 0 ? -(uint64_t)change : 0;

    if (less > *bytes)
        return false;
    *bytes += (uint64_t)change;
    return true;
}

static int write_segments(struct shares *s)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < s->segment_room; i++) {
        const struct segment_change *c = &s->segments[i];
        struct segment_share share;

        if (!c->used || (c->live_bytes == 0 && c->tombstone_bytes == 0))
            continue;
        rc = segment_share_read(s->index, s->txn, c->number, &share);
        if (rc == MDB_NOTFOUND)
            rc = 0;
        if (rc == 0 && (!add_change(&share.live_bytes, c->live_bytes) ||
                        !add_change(&share.tombstone_bytes, c->tombstone_bytes)))
            rc = MDB_CORRUPTED;
        if (rc == 0)
            rc = segment_share_write(s->index, s->txn, c->number, &share);
    }
    return rc;
}

/* ---- expiry ---- */

struct expiry_change {
    const char *key; /* in the arena; a hashed key's rest follows it */
    uint16_t key_len;
    bool hashed;
    bool add;
};

/* Writes the expiry key of an index key, and of a hashed one the rest behind it. Returns the length
 * without the rest. */
static size_t expiry_key(int64_t expires_ms, struct slice index_key, char *out)
{
    const char *hash = index_key.ptr + 1 + INDEX_PREFIX_MAX;
    char *p = out + EXPIRES_BYTES;

    put_u64be((unsigned char *)out, (uint64_t)expires_ms);
    if (index_key.ptr[0] != INDEX_FAMILY_HASHED) {
        memcpy(p, index_key.ptr, index_key.len);
        return EXPIRES_BYTES + index_key.len;
    }
    *p++ = INDEX_FAMILY_HASHED;
    memcpy(p, hash, HASH_BYTES);
    memcpy(p + HASH_BYTES, index_key.ptr + 1, INDEX_PREFIX_MAX);
    return INDEX_KEY_MAX;
}

/* The index key of a row of the expiry table, into out (INDEX_KEY_MAX bytes). Returns its length; 0:
 * the row makes no sense. */
static size_t expiry_index_key(struct slice key, struct slice rest, char *out)
{
    const char *p = key.ptr + EXPIRES_BYTES;

    if (key.len <= EXPIRES_BYTES)
        return 0;
    if (p[0] != INDEX_FAMILY_HASHED) {
        memcpy(out, p, key.len - EXPIRES_BYTES);
        return rest.len == 0 ? key.len - EXPIRES_BYTES : 0;
    }
    if (key.len != INDEX_KEY_MAX || rest.len != EXPIRY_REST)
        return 0;
    *out++ = *p++;
    memcpy(out, p + HASH_BYTES, EXPIRY_PREFIX);
    memcpy(out + EXPIRY_PREFIX, rest.ptr, EXPIRY_REST);
    memcpy(out + INDEX_PREFIX_MAX, p, HASH_BYTES);
    return INDEX_KEY_MAX;
}

static int compare_expiries(const void *a, const void *b)
{
    const struct expiry_change *x = a;
    const struct expiry_change *y = b;

    return slice_compare(slice_of(x->key, x->key_len), slice_of(y->key, y->key_len));
}

static int write_expiry(MDB_cursor *cursor, const struct expiry_change *c)
{
    MDB_val key = val_of(c->key, c->key_len);
    MDB_val rest = val_of(c->key + c->key_len, c->hashed ? EXPIRY_REST : 0);
    int rc;

    if (c->add)
        return mdb_cursor_put(cursor, &key, &rest, 0);
    rc = mdb_cursor_get(cursor, &key, &rest, MDB_SET);
    if (rc == 0)
        rc = mdb_cursor_del(cursor, 0);
    return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc;
}

static int write_expiries(struct shares *s)
{
    MDB_cursor *cursor;
    int rc;

    if (s->expiry_count == 0)
        return 0;
    rc = mdb_cursor_open(s->txn, s->index->expiry, &cursor);
    if (rc != 0)
        return rc;
    qsort(s->expiry, s->expiry_count, sizeof(*s->expiry), compare_expiries);
    for (size_t i = 0; rc == 0 && i < s->expiry_count; i++)
        rc = write_expiry(cursor, &s->expiry[i]);
    mdb_cursor_close(cursor);
    s->expiry_count = 0;
    s->expiry_bytes = 0;
    return rc;
}

static int expiry_begin(struct shares *s)
{
    s->expiry = malloc(EXPIRY_CHANGES * sizeof(*s->expiry));
    s->expiry_keys = malloc(EXPIRY_ARENA);
    return s->expiry == NULL || s->expiry_keys == NULL ? ENOMEM : 0;
}

static int change_expiry(struct shares *s, int64_t expires_ms, struct slice index_key, bool add)
{
    size_t most = INDEX_KEY_MAX + EXPIRY_REST;
    struct expiry_change *c;
    int rc = 0;

    if (s->expiry == NULL)
        rc = expiry_begin(s);
    else if (s->expiry_count == EXPIRY_CHANGES || s->expiry_bytes + most > EXPIRY_ARENA)
        rc = write_expiries(s);
    if (rc != 0)
        return rc;
    c = &s->expiry[s->expiry_count++];
    c->key = s->expiry_keys + s->expiry_bytes;
    c->key_len = (uint16_t)expiry_key(expires_ms, index_key, s->expiry_keys + s->expiry_bytes);
    c->hashed = index_key.ptr[0] == INDEX_FAMILY_HASHED;
    c->add = add;
    s->expiry_bytes += c->key_len + (c->hashed ? (size_t)EXPIRY_REST : 0);
    return 0;
}

/* ---- files of big values ---- */

static bool names_file(const struct row *row)
{
    return row != NULL && row->entry.kind != RECORD_DELETE && row->entry.big_bytes > 0;
}

static int change_big(struct shares *s, const struct entry *e, bool add)
{
    unsigned char key_bytes[BIG_KEY_SIZE];
    unsigned char bytes[BIG_SIZE];
    MDB_val key = val_of(key_bytes, sizeof(key_bytes));
    MDB_val value = val_of(bytes, sizeof(bytes));
    int rc;

    put_u64be(key_bytes, e->big_file);
    put_u64le(bytes, e->big_bytes);
    if (add)
        return mdb_put(s->txn, s->index->big, &key, &value, 0);
    rc = mdb_del(s->txn, s->index->big, &key, NULL);
    return rc == MDB_NOTFOUND ? MDB_CORRUPTED : rc;
}

/* ---- a transaction ---- */

void shares_begin(struct shares *s, struct index *index, MDB_txn *txn)
{
    *s = (struct shares){.index = index, .txn = txn};
}

void shares_end(struct shares *s)
{
    free(s->segments);
    free(s->expiry);
    free(s->expiry_keys);
}

int shares_replace(struct shares *s, struct slice index_key, const struct row *old,
                   const struct row *now)
{
    int64_t old_filed_ms = old != NULL ? old->filed_ms : 0;
    int64_t filed_ms = now != NULL ? now->filed_ms : 0;
    int rc = 0;

    if (old != NULL)
        rc = change_segments(s, index_key, &old->entry, -1);
    if (rc == 0 && now != NULL)
        rc = change_segments(s, index_key, &now->entry, 1);
    if (rc == 0 && old_filed_ms != 0 && old_filed_ms != filed_ms)
        rc = change_expiry(s, old_filed_ms, index_key, false);
    if (rc == 0 && filed_ms != 0 && old_filed_ms != filed_ms)
        rc = change_expiry(s, filed_ms, index_key, true);
    if (rc == 0 && names_file(old) &&
        !(names_file(now) && now->entry.big_file == old->entry.big_file))
        rc = change_big(s, &old->entry, false);
    if (rc == 0 && names_file(now))
        rc = change_big(s, &now->entry, true);
    return rc;
}

int shares_write(struct shares *s)
{
    int rc = write_expiries(s);

    return rc == 0 ? write_segments(s) : rc;
}

/* Segments that a compaction has made stay, with nothing in them; the others go. */
static int drop_segments(MDB_cursor *cursor)
{
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);

    while (rc == 0) {
        unsigned char bytes[SEGMENT_SIZE] = {0};
        struct segment_share share;

        if (!share_decode(slice_of_val(value), &share))
            return MDB_CORRUPTED;
        bytes[SEGMENT_OFF_STATE] = (unsigned char)share.state;
        value = val_of(bytes, sizeof(bytes));
        rc = share.state == SEGMENT_PLAIN ? mdb_cursor_del(cursor, 0)
                                          : mdb_cursor_put(cursor, &key, &value, MDB_CURRENT);
        if (rc == 0)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

int shares_drop(struct index *index, MDB_txn *txn)
{
    MDB_cursor *cursor;
    int rc = mdb_drop(txn, index->expiry, 0);

    if (rc == 0)
        rc = mdb_drop(txn, index->big, 0);
    if (rc == 0)
        rc = mdb_cursor_open(txn, index->segments, &cursor);
    if (rc != 0)
        return rc;
    rc = drop_segments(cursor);
    mdb_cursor_close(cursor);
    return rc;
}

/* ---- reading ---- */

struct table_read {
    MDB_cursor *cursor;
    MDB_dbi dbi;
    struct index_reader *reader;
    struct index_expiry_cursor *expiry; /* NULL: from the first row */
    int64_t now_ms;
    uint64_t limit;
    uint64_t count;
    uint64_t number;
    int64_t at_ms;
    bool found;
    void (*each_segment)(const struct index_segment *s, void *arg);
    bool (*each_row)(struct slice index_key, const struct entry *e, void *arg);
    bool (*each_file)(uint64_t number, uint64_t bytes, void *arg);
    void *arg;
};

/* Runs a read over one table in a transaction of the reader. 0 or -errno. */
static int read_table(struct index_reader *reader, int (*run)(void *arg), struct table_read *r)
{
    int rc = index_begin_read(reader);

    if (rc != 0)
        return index_errno(rc);
    r->reader = reader;
    rc = mdb_cursor_open(reader->txn, r->dbi, &r->cursor);
    if (rc == 0) {
        rc = index_run_read(run, r);
        mdb_cursor_close(r->cursor);
    }
    index_end_read(reader);
    return index_settle(reader->index, rc == MDB_NOTFOUND ? 0 : rc);
}

/* The same for who has no reader. */
static int read_table_once(struct index *index, int (*run)(void *arg), struct table_read *r)
{
    struct index_reader *reader;
    int rc = index_reader_open(index, &reader);

    if (rc != 0)
        return rc;
    rc = read_table(reader, run, r);
    index_reader_close(reader);
    return rc;
}

static int read_segments(void *arg)
{
    const struct table_read *r = arg;
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_get(r->cursor, &key, &value, MDB_FIRST);

    while (rc == 0) {
        struct segment_share share;
        struct index_segment s;

        if (key.mv_size != SEGMENT_KEY_SIZE || !share_decode(slice_of_val(value), &share))
            return MDB_CORRUPTED;
        s = (struct index_segment){
            .number = get_u32be(key.mv_data),
            .live_bytes = share.live_bytes,
            .tombstone_bytes = share.tombstone_bytes,
            .installing = share.state == SEGMENT_INSTALLING,
        };
        r->each_segment(&s, r->arg);
        rc = mdb_cursor_get(r->cursor, &key, &value, MDB_NEXT);
    }
    return rc;
}

int index_segments(struct index *index, void (*each)(const struct index_segment *s, void *arg),
                   void *arg)
{
    struct table_read r = {.dbi = index->segments, .each_segment = each, .arg = arg};

    return read_table_once(index, read_segments, &r);
}

/* To the first row behind the reader's cursor. 0 or LMDB's code. */
static int expired_begin(const struct table_read *r, MDB_val *key, MDB_val *rest)
{
    MDB_val from;
    int rc;

    if (r->expiry == NULL || r->expiry->len == 0)
        return mdb_cursor_get(r->cursor, key, rest, MDB_FIRST);
    *key = from = val_of(r->expiry->key, r->expiry->len);
    rc = mdb_cursor_get(r->cursor, key, rest, MDB_SET_RANGE);
    if (rc == 0 && slice_equal(slice_of_val(*key), slice_of_val(from)))
        rc = mdb_cursor_get(r->cursor, key, rest, MDB_NEXT);
    return rc;
}

static bool is_late(const struct table_read *r, MDB_val key)
{
    return key.mv_size > EXPIRES_BYTES && get_u64be(key.mv_data) <= (uint64_t)r->now_ms;
}

/* The row that an expiry belongs to. 0 or LMDB's code. */
static int expired_row(const struct table_read *r, MDB_val key, MDB_val rest, char *index_key,
                       size_t *len, struct row *out)
{
    MDB_val row_key;
    MDB_val row;
    int rc;

    *len = expiry_index_key(slice_of_val(key), slice_of_val(rest), index_key);
    if (*len == 0)
        return MDB_CORRUPTED;
    row_key = val_of(index_key, *len);
    rc = mdb_get(r->reader->txn, r->reader->index->keys, &row_key, &row);
    if (rc == MDB_NOTFOUND || (rc == 0 && (!row_decode(slice_of_val(row), out) ||
                                           out->filed_ms != (int64_t)get_u64be(key.mv_data))))
        rc = MDB_CORRUPTED;
    return rc;
}

static int read_expired(void *arg)
{
    const struct table_read *r = arg;
    MDB_val key;
    MDB_val rest;
    int rc = expired_begin(r, &key, &rest);

    while (rc == 0 && is_late(r, key)) {
        char bytes[INDEX_KEY_MAX];
        struct row row;
        size_t len;

        rc = expired_row(r, key, rest, bytes, &len, &row);
        if (rc != 0)
            return rc;
        if (r->expiry != NULL) {
            r->expiry->len = key.mv_size;
            memcpy(r->expiry->key, key.mv_data, key.mv_size);
        }
        if (!r->each_row(slice_of(bytes, len), &row.entry, r->arg))
            return 0;
        rc = mdb_cursor_get(r->cursor, &key, &rest, MDB_NEXT);
    }
    return rc == 0 && key.mv_size <= EXPIRES_BYTES ? MDB_CORRUPTED : rc;
}

int index_expired_from(struct index_reader *reader, struct index_expiry_cursor *cursor,
                       int64_t now_ms,
                       bool (*each)(struct slice index_key, const struct entry *e, void *arg),
                       void *arg)
{
    struct table_read r = {.dbi = reader->index->expiry,
                           .now_ms = now_ms < 0 ? 0 : now_ms,
                           .expiry = cursor,
                           .each_row = each,
                           .arg = arg};

    return read_table(reader, read_expired, &r);
}

int index_expired(struct index_reader *reader, int64_t now_ms,
                  bool (*each)(struct slice index_key, const struct entry *e, void *arg), void *arg)
{
    return index_expired_from(reader, NULL, now_ms, each, arg);
}

static int count_expired(void *arg)
{
    struct table_read *r = arg;
    MDB_val key;
    MDB_val rest;
    int rc = expired_begin(r, &key, &rest);

    for (; rc == 0 && r->count < r->limit && is_late(r, key); r->count++)
        rc = mdb_cursor_get(r->cursor, &key, &rest, MDB_NEXT);
    return rc;
}

int index_count_expired(struct index_reader *reader, const struct index_expiry_cursor *cursor,
                        int64_t now_ms, uint64_t limit, uint64_t *count)
{
    struct index_expiry_cursor from = *cursor;
    struct table_read r = {.dbi = reader->index->expiry,
                           .now_ms = now_ms < 0 ? 0 : now_ms,
                           .expiry = &from,
                           .limit = limit};
    int rc = read_table(reader, count_expired, &r);

    *count = r.count;
    return rc;
}

int index_expiring(struct index *index, uint64_t *rows)
{
    MDB_stat stat = {0};
    int rc = index_stat(index, index->expiry, &stat);

    *rows = stat.ms_entries;
    return rc;
}

static int read_next_expiry(void *arg)
{
    struct table_read *r = arg;
    MDB_val key;
    MDB_val rest;
    int rc = mdb_cursor_get(r->cursor, &key, &rest, MDB_FIRST);

    if (rc == 0 && key.mv_size <= EXPIRES_BYTES)
        rc = MDB_CORRUPTED;
    if (rc == 0)
        r->at_ms = (int64_t)get_u64be(key.mv_data);
    return rc;
}

int index_next_expiry(struct index *index, int64_t *at_ms)
{
    struct table_read r = {.dbi = index->expiry};
    int rc = read_table_once(index, read_next_expiry, &r);

    if (rc == 0)
        *at_ms = r.at_ms;
    return rc;
}

static int read_big_files(void *arg)
{
    const struct table_read *r = arg;
    MDB_val key;
    MDB_val value;
    int rc = mdb_cursor_get(r->cursor, &key, &value, MDB_FIRST);

    while (rc == 0) {
        if (key.mv_size != BIG_KEY_SIZE || value.mv_size != BIG_SIZE)
            return MDB_CORRUPTED;
        if (!r->each_file(get_u64be(key.mv_data), get_u64le(value.mv_data), r->arg))
            return 0;
        rc = mdb_cursor_get(r->cursor, &key, &value, MDB_NEXT);
    }
    return rc;
}

int index_big_files(struct index_reader *reader,
                    bool (*each)(uint64_t number, uint64_t bytes, void *arg), void *arg)
{
    struct table_read r = {.dbi = reader->index->big, .each_file = each, .arg = arg};

    return read_table(reader, read_big_files, &r);
}

static int read_big_file(void *arg)
{
    struct table_read *r = arg;
    unsigned char bytes[BIG_KEY_SIZE];
    MDB_val key = val_of(bytes, sizeof(bytes));
    MDB_val value;
    int rc;

    put_u64be(bytes, r->number);
    rc = mdb_cursor_get(r->cursor, &key, &value, MDB_SET);
    r->found = rc == 0;
    return rc;
}

int index_has_big_file(struct index_reader *reader, uint64_t number)
{
    struct table_read r = {.dbi = reader->index->big, .number = number};
    int rc = read_table(reader, read_big_file, &r);

    return rc == 0 ? r.found : rc;
}
