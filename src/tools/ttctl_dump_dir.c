/*
 * ttctl_dump_dir.c - the records of a data directory, without opening it as a store.
 *
 * Provides: dump_directory().
 * Used by:  ttctl dump.
 * Threads:  one.
 *
 * The index knows the newest record of every key up to its position; what the log has behind that
 * is read into memory, which is little after a clean stop. Both are merged in the index's order.
 * Nothing is written; a directory without an index takes memory for all of its keys.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/num.h"
#include "command/command.h"
#include "store/logstore/logstore.h"
#include "store/logstore/walk.h"
#include "tools/ttctl_apart.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_dump.h"
#include "tools/ttctl_show.h"

struct dir_dump {
    struct walk *w;
    struct index *index; /* NULL: there is none */
    struct index_reader *reader;
    struct index_meta meta;
    char *room; /* of the meta's vectors */
    struct delta *tail;
    struct delta_item *items; /* the tail's, sorted */
    size_t item_count;
    size_t item; /* the next one */
    struct slice prefix;
    char family; /* of the rows that are walked through */
    int64_t now_ms;
    struct buf record;
    struct line_writer line;
    uint64_t damaged;
    int rc; /* of the first failure that ends all */
};

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct dir_dump *d = arg;

    if (f->kind != WALK_DAMAGE)
        return;
    d->damaged++;
    show_finding(stderr, f);
}

/* ---- what the index does not have ---- */

/* The state of the key before a touch. 0, -ENOENT, -errno. */
static int find_before(struct dir_dump *d, uint64_t hash, struct slice key, struct entry *out)
{
    if (delta_find(d->tail, hash, key, UINT64_MAX, out, NULL))
        return 0;
    return d->index == NULL ? -ENOENT : index_find(d->reader, key, out);
}

static int take_record(struct dir_dump *d, const struct walk_record *rec)
{
    uint64_t hash = hash_slice(rec->r.key);
    struct place at = {rec->segment->number, (uint32_t)rec->offset, (uint32_t)rec->length};
    struct entry prev;
    struct entry entry;
    int rc;

    if (rec->r.kind == RECORD_FLUSH || rec->r.kind == RECORD_MARKER)
        return 0;
    rc = find_before(d, hash, rec->r.key, &prev);
    if (rc != 0 && rc != -ENOENT)
        return rc;
    if (!keyspace_entry_after(rc == 0 ? &prev : NULL, &rec->r, at, &entry))
        return 0;
    return delta_put(d->tail, hash, rec->r.key, &entry, rec->r.seq);
}

static int read_tail(struct dir_dump *d)
{
    struct walk_record rec;
    int rc;

    if (d->meta.seq > 0) {
        walk_seek(d->w, d->meta.seq + 1);
        d->w->state.clock = d->meta.clock;
        d->w->state.flush = d->meta.flush;
        d->w->state.pending = d->meta.flush_pending;
        d->w->state.pending_ms = d->meta.flush_pending_ms;
    }
    while ((rc = walk_next(d->w, &rec)) == 1) {
        rc = rec.r.seq <= d->meta.seq ? 0 : take_record(d, &rec);
        if (rc != 0)
            return rc;
    }
    return rc == 0 ? delta_sorted(d->tail, &d->items, &d->item_count) : rc;
}

/* ---- a record ---- */

static void tell_bad(struct dir_dump *d, const char *path, uint64_t offset, struct slice key,
                     const char *reason)
{
    on_finding(
        &(struct walk_finding){
            .kind = WALK_DAMAGE,
            .path = path,
            .offset = offset,
            .reason = reason,
            .has_key = true,
            .key = key,
        },
        d);
}

static int write_piece(struct slice piece, void *arg)
{
    struct dir_dump *d = arg;

    line_value(&d->line, piece);
    return ferror(stdout) ? -EIO : 0;
}

/* The value of a file of its own: checked first, then written. */
static int write_big(struct dir_dump *d, const struct record *r, const struct entry *e)
{
    const char *reason;
    int rc = walk_big_read(d->w, r, NULL, NULL, &reason);
    char *path;

    if (rc == -ENOMEM)
        return rc;
    if (rc != 0) {
        path = walk_big_path(d->w, r->big_file);
        tell_bad(d, path != NULL ? path : "big value", 0, r->key, reason);
        free(path);
        return 0;
    }
    line_begin(&d->line, stdout, r->key, r->flags, e->expires_ms, r->attrs);
    rc = walk_big_read(d->w, r, write_piece, d, &reason);
    line_end(&d->line);
    return rc;
}

static int write_record(struct dir_dump *d, const struct record *r, const struct entry *e)
{
    char number[NUM_TEXT_MAX];

    if (r->big_bytes > 0)
        return write_big(d, r, e);
    line_begin(&d->line, stdout, r->key, r->flags, e->expires_ms, r->attrs);
    line_value(&d->line, command_shown_value(r, number));
    line_end(&d->line);
    return 0;
}

/* True if clients see the record of this entry. */
static bool is_live(const struct dir_dump *d, const struct entry *e)
{
    return e->kind != RECORD_DELETE && !walk_is_flushed(&d->w->state, e->base, d->now_ms) &&
           (e->expires_ms == 0 || e->expires_ms > d->now_ms);
}

/* 0 or -errno. */
static int dump_entry(struct dir_dump *d, struct slice index_key, const struct entry *e)
{
    const struct walk_segment *s = walk_find(d->w, e->segment);
    const char *reason = "there is no such segment";
    struct walk_record rec;
    int rc;

    if (!is_live(d, e))
        return 0;
    rc = s == NULL ? -EUCLEAN : walk_read_at(d->w, s, e->offset, &d->record, &rec, &reason);
    if (rc == -EUCLEAN || rc == -ENOENT) {
        tell_bad(d, s != NULL ? s->path : d->w->dir, e->offset, slice_after(index_key, 1), reason);
        return 0;
    }
    if (rc == 0 && slice_starts(rec.r.key, d->prefix))
        rc = write_record(d, &rec.r, e);
    return rc == 0 && ferror(stdout) ? -EIO : rc;
}

/* ---- both, merged ---- */

/* Writes what the tail has before this index key (len 0: all that is left). *same: it has a newer
 * state of that very key, which is written too. */
static int dump_tail_before(struct dir_dump *d, struct slice index_key_of_row, bool *same)
{
    char bytes[INDEX_KEY_MAX];
    int rc = 0;

    *same = false;
    while (rc == 0 && !*same && d->item < d->item_count) {
        const struct delta_item *item = &d->items[d->item];
        struct slice own = slice_of(bytes, index_key(item->key, bytes));
        int order = index_key_of_row.len == 0 ? -1 : slice_compare(own, index_key_of_row);

        if (order > 0)
            break;
        *same = order == 0;
        d->item++;
        if (slice_starts(item->key, d->prefix))
            rc = dump_entry(d, own, item->entry);
    }
    return rc;
}

static bool dump_row(struct slice row_key, const struct entry *e, void *arg)
{
    struct dir_dump *d = arg;
    size_t known = d->prefix.len < INDEX_PREFIX_MAX ? d->prefix.len : INDEX_PREFIX_MAX;
    bool same;

    d->rc = dump_tail_before(d, row_key, &same);
    if (d->rc != 0)
        return false;
    /* Behind all keys of the prefix in this family? Without a prefix both are one walk. */
    if (d->prefix.len > 0 && row_key.ptr[0] != d->family)
        return false;
    if (!slice_starts(slice_after(row_key, 1), slice_of(d->prefix.ptr, known)))
        return false;
    if (!same)
        d->rc = dump_entry(d, row_key, e);
    return d->rc == 0;
}

/* The rows of a family that may have the prefix. */
static int dump_family(struct dir_dump *d, char family)
{
    size_t known = d->prefix.len < INDEX_PREFIX_MAX ? d->prefix.len : INDEX_PREFIX_MAX;
    char from[1 + INDEX_PREFIX_MAX];
    int rc;

    d->family = from[0] = family;
    if (known > 0)
        memcpy(from + 1, d->prefix.ptr, known);
    rc = index_walk(d->reader, slice_of(from, 1 + known), dump_row, d);
    return rc != 0 ? rc : d->rc;
}

static int dump_all(struct dir_dump *d)
{
    bool same;
    int rc = 0;

    if (d->index != NULL)
        rc = dump_family(d, INDEX_FAMILY_PLAIN);
    if (rc == 0 && d->index != NULL && d->prefix.len > 0)
        rc = dump_family(d, INDEX_FAMILY_HASHED);
    return rc == 0 ? dump_tail_before(d, slice_of("", 0), &same) : rc;
}

/* ---- opening ---- */

/* 0 or -errno. */
static int begin_reading(struct dir_dump *d)
{
    char path[PATH_MAX];
    const char *why;
    int rc = snprintf(path, sizeof(path), "%s/index", d->w->dir) >= (int)sizeof(path)
                 ? -ENAMETOOLONG
                 : index_open_read_only(path, &d->index, &why);

    d->room = malloc(INDEX_VECTORS_MAX);
    if (rc == 0)
        rc = d->room == NULL ? -ENOMEM : index_read_meta(d->index, &d->meta, d->room);
    return rc == 0 ? index_reader_open(d->index, &d->reader) : rc;
}

/* One that cannot be used is left out. 0 or -errno. */
static int open_index(struct dir_dump *d)
{
    struct index_probe probe = {0};
    int rc = index_probe_apart(d->w, true, false, &probe);

    if (rc == 0 && probe.problems > 0)
        rc = -EUCLEAN;
    if (rc == 0 && probe.seq > 0)
        return begin_reading(d);
    if (rc == -EUCLEAN)
        fprintf(stderr,
                "ttctl: the index of %s is not used (see ttctl verify): all of the log is "
                "read\n",
                d->w->dir);
    return rc == -EUCLEAN || rc == -ENOENT ? 0 : rc;
}

static int dump_opened(struct dir_dump *d)
{
    int rc = d->tail == NULL ? -ENOMEM : open_index(d);

    if (rc == 0)
        rc = read_tail(d);
    if (rc == 0 && (int64_t)(d->w->state.clock >> 16) > d->now_ms)
        d->now_ms = (int64_t)(d->w->state.clock >> 16);
    if (rc == 0)
        rc = dump_all(d);
    if (rc != 0 && !ferror(stdout))
        command_fail("cannot dump %s: %s", d->w->dir,
                     rc == -EUCLEAN ? "its index is damaged (see ttctl rebuild-index)"
                                    : strerror(-rc));
    return rc == 0 && d->damaged == 0 ? CTL_OK : CTL_FAILED;
}

int dump_directory(const char *dir, struct slice prefix)
{
    struct dir_dump *d = calloc(1, sizeof(*d));
    struct walk_options options = {.lock = WALK_SHARED, .found = on_finding, .arg = d};
    char why[WALK_WHY_MAX];
    int status;

    if (d == NULL)
        return command_fail("out of memory");
    d->prefix = prefix;
    d->now_ms = clock_wall_ms();
    if (walk_open(dir, &options, &d->w, why) != 0) {
        free(d);
        return command_fail("%s", why);
    }
    d->tail = delta_new(0);
    status = dump_opened(d);
    if (d->index != NULL) {
        index_reader_close(d->reader);
        index_close(d->index);
    }
    free(d->room);
    free(d->items);
    delta_free(d->tail);
    buf_free(&d->record);
    walk_close(d->w);
    free(d);
    return status;
}
