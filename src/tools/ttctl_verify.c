/*
 * ttctl_verify.c - `ttctl verify`: everything in a data directory against everything else.
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * The log is read once, in its order; for every record the index is asked for its key. What must
 * hold:
 *   - a row that names this place agrees with the record;
 *   - a record that is in the index's position is named, or a newer state of its key is;
 *   - in the end, as many records were named as there are rows.
 * So no second index is needed. Memory: some bytes a segment, and the keys of missing big values.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "store/logstore/delta.h"
#include "store/logstore/index_check.h"
#include "tools/ttctl_apart.h"
#include "tools/ttctl_commands.h"
#include "tools/ttctl_show.h"

const char verify_more[] =
    "Reads all of a data directory: every checksum of the log and of big values,\n"
    "the chain of segments, the numbers of records, the index against the log, its\n"
    "counts. No server may run on it. Nothing is changed.\n\n"
    "Prints what was found, and what is wrong with file and offset. The exit status\n"
    "is 1 when anything is wrong. Lines \"unfinished\" and \"note\" tell of no damage:\n"
    "a start puts that in order.\n";

/* Problems of one kind that are printed; all are counted. */
#define SAY_MAX 100u

struct verify {
    struct walk *w;
    struct index *index; /* NULL: there is none that could be used */
    struct index_reader *reader;
    struct index_meta meta;
    bool has_meta;
    char *room; /* of the meta's vectors */
    int64_t now_ms;
    struct index_counts counts;
    uint64_t problems;
    uint64_t unfinished;
    uint64_t by_kind[RECORD_MARKER + 1];
    uint64_t records;
    uint64_t bytes;
    uint64_t rows_named; /* by records that the walk met */
    uint64_t touches_named;
    uint64_t big_count;
    uint64_t big_bytes;
    struct delta *bad_bigs; /* by key: the newest record's file is missing or bad */
    uint64_t *named;        /* files that records behind the position name */
    size_t named_count;
    size_t named_room;
    int rc;
};

/* ---- telling ---- */

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct verify *v = arg;

    v->problems += f->kind == WALK_DAMAGE;
    v->unfinished += f->kind != WALK_DAMAGE;
    if ((f->kind == WALK_DAMAGE ? v->problems : v->unfinished) <= SAY_MAX)
        show_finding(stdout, f);
}

static void on_index_text(const char *text, void *arg)
{
    struct verify *v = arg;

    if (++v->problems <= SAY_MAX)
        printf("damage: %s/index: %s\n", v->w->dir, text);
}

static void tell_record(struct verify *v, const struct walk_record *rec, const char *reason)
{
    on_finding(
        &(struct walk_finding){
            .kind = WALK_DAMAGE,
            .path = rec->segment->path,
            .offset = rec->offset,
            .bytes = rec->length,
            .reason = reason,
            .first_seq = rec->r.seq,
            .last_seq = rec->r.seq,
            .has_key = true,
            .key = rec->r.key,
        },
        v);
}

/* ---- the index ---- */

/* The position, and a reader. 0 or -errno with *why. */
static int begin_reading(struct verify *v, const char **why)
{
    char path[PATH_MAX];
    int rc = snprintf(path, sizeof(path), "%s/index", v->w->dir) >= (int)sizeof(path)
                 ? -ENAMETOOLONG
                 : index_open_read_only(path, &v->index, why);

    v->room = malloc(INDEX_VECTORS_MAX);
    if (rc == 0)
        rc = v->room == NULL ? -ENOMEM : index_read_meta(v->index, &v->meta, v->room);
    v->has_meta = rc == 0;
    if (rc == -ENOENT) {
        printf("note: %s: the index is empty, the next start fills it\n", path);
        rc = 0;
    }
    return rc == 0 ? index_reader_open(v->index, &v->reader) : rc;
}

static void open_index(struct verify *v)
{
    struct index_probe probe = {0};
    const char *why = probe.why;
    int rc = index_probe_apart(v->w, true, true, &probe);

    if (rc == -ENOENT) {
        printf("note: %s/index: there is no index, the next start makes it\n", v->w->dir);
        return;
    }
    v->problems += probe.problems;
    v->counts = probe.counts;
    if (rc == 0)
        rc = begin_reading(v, &why);
    if (rc == 0)
        return;
    v->problems++;
    printf("damage: %s/index: the index cannot be used (%s)\n", v->w->dir,
           why != NULL ? why : strerror(-rc));
    index_close(v->index);
    v->index = NULL;
}

static bool is_behind(const struct verify *v, uint64_t seq)
{
    return !v->has_meta || seq > v->meta.seq;
}

/* Order of two places in the log: < 0, 0, > 0. */
static int compare_places(const struct verify *v, uint32_t number_a, uint64_t offset_a,
                          const struct walk_record *b)
{
    const struct walk_segment *a = walk_find(v->w, number_a);

    if (a == NULL || a == b->segment)
        return offset_a < b->offset ? -1 : offset_a > b->offset;
    return a < b->segment ? -1 : 1;
}

static bool was_expired(const struct verify *v, const struct entry *e, const struct record *r)
{
    return (e->expires_ms != 0 && e->expires_ms <= v->now_ms) ||
           (r->expires_ms != 0 && r->expires_ms <= v->now_ms);
}

/* The row names this record as its key's main record. */
static void check_named(struct verify *v, const struct walk_record *rec, const struct entry *e)
{
    const struct record *r = &rec->r;
    bool swept = e->kind == RECORD_DELETE && r->kind != RECORD_DELETE;

    v->rows_named++;
    if (r->kind == RECORD_TOUCH)
        tell_record(v, rec, "the index takes a touch for a record");
    else if (e->length != rec->length || stamp_compare(e->base, r->base) != 0)
        tell_record(v, rec, "the index has another length or stamp for this record");
    else if (swept ? !r->cut && !was_expired(v, e, r) : e->kind != r->kind)
        tell_record(v, rec, "the index has another kind for this record");
    else if (!swept && r->kind != RECORD_DELETE &&
             (e->cas != record_cas(r) || e->big_bytes != r->big_bytes ||
              (r->big_bytes > 0 && e->big_file != r->big_file)))
        tell_record(v, rec, "the index has another cas or file for this record");
    else if (!swept && !e->has_touch && e->expires_ms != r->expires_ms)
        tell_record(v, rec, "the index has another expiry for this record");
}

static void check_named_touch(struct verify *v, const struct walk_record *rec,
                              const struct entry *e)
{
    v->touches_named++;
    if (rec->r.kind != RECORD_TOUCH || rec->length != e->touch_length ||
        stamp_compare(rec->r.base, e->base) != 0 || rec->r.expires_ms != e->expires_ms)
        tell_record(v, rec, "the index's touch of its key is another one");
}

/* A touch that no row names must be an older one, or of an older record. */
static void check_other_touch(struct verify *v, const struct walk_record *rec,
                              const struct entry *e)
{
    const struct walk_segment *touched = e->has_touch ? walk_find(v->w, e->touch_segment) : NULL;

    if (e->kind == RECORD_DELETE || stamp_compare(e->base, rec->r.base) != 0 ||
        compare_places(v, e->segment, e->offset, rec) > 0 || (touched && touched->superseded))
        return;
    if (!e->has_touch || compare_places(v, e->touch_segment, e->touch_offset, rec) < 0)
        tell_record(v, rec, "the index does not know this touch");
}

/* A record that no row names must be an older state of its key. */
static void check_other(struct verify *v, const struct walk_record *rec, const struct entry *e)
{
    int order = stamp_compare(e->base, rec->r.base);

    if (order < 0)
        tell_record(v, rec, "the index has an older state of the key");
    else if (order == 0 && rec->r.kind == RECORD_COUNTER && e->kind == RECORD_COUNTER &&
             (int64_t)(e->cas - record_cas(&rec->r)) < 0)
        tell_record(v, rec, "the index has an older count of the key");
}

static bool is_flushed(const struct verify *v, struct stamp base)
{
    struct walk_state flushes = {
        .flush = v->meta.flush,
        .pending = v->meta.flush_pending,
        .pending_ms = v->meta.flush_pending_ms,
    };

    return walk_is_flushed(&flushes, base, v->now_ms);
}

/* 1: the row names this record; 0: it does not, or there is none; -errno. */
static int check_record(struct verify *v, const struct walk_record *rec)
{
    const struct record *r = &rec->r;
    bool must_know = !is_behind(v, r->seq) && !rec->segment->superseded;
    struct entry e;
    int rc = index_find(v->reader, r->key, &e);

    if (rc == -ENOENT) {
        if (must_know && r->kind != RECORD_TOUCH && !is_flushed(v, r->base))
            tell_record(v, rec, "the index does not know the key");
        return 0;
    }
    if (rc != 0)
        return rc;
    if (e.segment == rec->segment->number && e.offset == rec->offset) {
        check_named(v, rec, &e);
        return e.kind != RECORD_DELETE;
    }
    if (e.has_touch && e.touch_segment == rec->segment->number && e.touch_offset == rec->offset)
        check_named_touch(v, rec, &e);
    else if (must_know && r->kind == RECORD_TOUCH)
        check_other_touch(v, rec, &e);
    else if (must_know)
        check_other(v, rec, &e);
    return 0;
}

/* ---- big values ---- */

static int remember_named(struct verify *v, uint64_t number)
{
    if (v->named_count == v->named_room) {
        size_t room = v->named_room == 0 ? 64 : v->named_room * 2;
        uint64_t *grown = reallocarray(v->named, room, sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        v->named = grown;
        v->named_room = room;
    }
    v->named[v->named_count++] = number;
    return 0;
}

/* A file that cannot be served is told at the end, if no newer record of the key was met. */
static int note_big(struct verify *v, const struct record *r, bool bad)
{
    uint64_t hash = hash_slice(r->key);
    struct entry e = {.kind = RECORD_DELETE};

    if (!bad && !delta_find(v->bad_bigs, hash, r->key, UINT64_MAX, &e, NULL))
        return 0;
    e = (struct entry){
        .kind = bad ? RECORD_PUT : RECORD_DELETE,
        .base = r->base,
        .expires_ms = r->expires_ms,
        .big_file = r->big_file,
        .big_bytes = r->big_bytes,
    };
    return delta_put(v->bad_bigs, hash, r->key, &e, r->seq);
}

static int check_big(struct verify *v, const struct record *r)
{
    const char *reason;
    int rc = walk_big_read(v->w, r, NULL, NULL, &reason);

    if (rc == -ENOMEM)
        return rc;
    if (rc == 0) {
        v->big_count++;
        v->big_bytes += r->big_bytes;
    }
    return note_big(v, r, rc != 0);
}

/* Files of records that are superseded in the index are let go, or about to be. */
static int look_at_big(struct verify *v, const struct walk_record *rec, bool named)
{
    const struct record *r = &rec->r;
    bool behind = v->index == NULL || is_behind(v, r->seq);

    if (r->kind == RECORD_TOUCH || rec->segment->superseded)
        return 0;
    if (r->big_bytes == 0)
        return behind ? note_big(v, r, false) : 0;
    if (!named && !behind)
        return 0;
    if (behind && remember_named(v, r->big_file) != 0)
        return -ENOMEM;
    return check_big(v, r);
}

static void tell_bad_big(const struct delta_item *item, void *arg)
{
    struct verify *v = arg;
    const struct entry *e = item->entry;
    struct record r = {
        .big_file = e->big_file, .big_bytes = e->big_bytes, .key = item->key, .seq = item->seq};
    bool dead = e->kind != RECORD_PUT || walk_is_flushed(&v->w->state, e->base, v->now_ms) ||
                (e->expires_ms != 0 && e->expires_ms <= v->now_ms);
    char *path = dead ? NULL : walk_big_path(v->w, e->big_file);

    if (path == NULL)
        return;
    on_finding(
        &(struct walk_finding){
            .kind = WALK_DAMAGE,
            .path = path,
            .bytes = e->big_bytes,
            .reason = "the big value is missing, or is not what its record says",
            .first_seq = r.seq,
            .last_seq = r.seq,
            .has_key = true,
            .key = r.key,
        },
        v);
    free(path);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void check_orphan(uint64_t number, const char *path, void *arg)
{
    struct verify *v = arg;
    int known = v->index == NULL ? 0 : index_has_big_file(v->reader, number);

    if (known == 0)
        known = v->named_count > 0 &&
                bsearch(&number, v->named, v->named_count, sizeof(number), compare_u64) != NULL;
    if (known == 0)
        on_finding(&(struct walk_finding){.kind = WALK_NOTE,
                                          .path = path,
                                          .reason = "no record names it: a start removes it"},
                   v);
}

/* ---- the log ---- */

static int take_record(struct verify *v, const struct walk_record *rec)
{
    int named = 0;

    v->records += !rec->segment->superseded;
    v->bytes += rec->segment->superseded ? 0 : rec->length;
    v->by_kind[rec->r.kind] += !rec->segment->superseded;
    if (rec->r.kind == RECORD_FLUSH || rec->r.kind == RECORD_MARKER)
        return 0;
    if (v->index != NULL)
        named = check_record(v, rec);
    if (named < 0 && named != -EUCLEAN)
        return named;
    if (named == -EUCLEAN) {
        on_index_text("its pages make no sense: it cannot be read", v);
        index_reader_close(v->reader);
        index_close(v->index);
        v->index = NULL;
        named = 0;
    }
    return look_at_big(v, rec, named == 1);
}

static int read_log(struct verify *v)
{
    struct walk_record rec;
    int rc;

    while ((rc = walk_next(v->w, &rec)) == 1) {
        rc = take_record(v, &rec);
        if (rc != 0)
            return rc;
    }
    if (rc == 0 && v->has_meta && v->meta.seq > v->w->state.seq) {
        v->problems++;
        printf("damage: %s: the log ends at record %" PRIu64 ", but the index stands at %" PRIu64
               "\n",
               v->w->dir, v->w->state.seq, v->meta.seq);
    }
    return rc;
}

/* ---- rows that no record has met ---- */

struct row_search {
    struct verify *v;
    struct buf room;
    uint64_t seen;
};

static void tell_row(struct verify *v, struct slice row_key, uint32_t segment, uint32_t offset,
                     const char *reason)
{
    if (++v->problems > SAY_MAX)
        return;
    printf("damage: %s/index: a row names segment %" PRIu32 " at offset %" PRIu32 ", but %s, key ",
           v->w->dir, segment, offset, reason);
    show_key(stdout, slice_after(row_key, 1));
    putchar('\n');
}

static void check_row_place(struct row_search *s, struct slice row_key, uint32_t number,
                            uint32_t offset, bool is_touch)
{
    const struct walk_segment *segment = walk_find(s->v->w, number);
    const char *reason = "there is no such segment";
    struct walk_record rec;
    char bytes[INDEX_KEY_MAX];

    if (segment != NULL && walk_read_at(s->v->w, segment, offset, &s->room, &rec, &reason) == 0) {
        if ((rec.r.kind == RECORD_TOUCH) != is_touch)
            reason = "a record of another kind stands there";
        else if (!slice_equal(slice_of(bytes, index_key(rec.r.key, bytes)), row_key))
            reason = "the record there has another key";
        else
            return;
    }
    tell_row(s->v, row_key, number, offset, reason);
}

static bool check_row(struct slice row_key, const struct entry *e, void *arg)
{
    struct row_search *s = arg;

    check_row_place(s, row_key, e->segment, e->offset, false);
    if (e->has_touch)
        check_row_place(s, row_key, e->touch_segment, e->touch_offset, true);
    return true;
}

/* Row by row, as the sums say that some name nothing. */
static int find_bad_rows(struct verify *v)
{
    struct row_search s = {.v = v};
    uint64_t before = v->problems;
    int rc = index_walk(v->reader, slice_of("", 0), check_row, &s);

    buf_free(&s.room);
    if (rc == 0 && v->problems == before)
        on_index_text("its rows are not those of the log's records", v);
    return rc;
}

/* As many rows as the log's records were named by, or some name none. */
static int check_rows(struct verify *v)
{
    if (v->counts.rows == v->rows_named && v->counts.touches == v->touches_named)
        return 0;
    return find_bad_rows(v);
}

/* ---- the whole ---- */

static void print_summary(const struct verify *v)
{
    printf("segments: %zu, records: %" PRIu64 " (", v->w->count, v->records);
    for (int kind = RECORD_PUT; kind <= RECORD_MARKER; kind++)
        printf("%s%s %" PRIu64, kind == RECORD_PUT ? "" : ", ", show_kind((enum record_kind)kind),
               v->by_kind[kind]);
    printf("), bytes: %" PRIu64 "\n", v->bytes);
    printf("big values: %" PRIu64 ", bytes: %" PRIu64 "\n", v->big_count, v->big_bytes);
    if (v->index != NULL && v->has_meta)
        printf("index: rows %" PRIu64 ", live %" PRIu64 ", up to record %" PRIu64 " of %" PRIu64
               "\n",
               v->counts.rows, v->counts.live, v->meta.seq, v->w->state.seq);
    printf("last stop: %s\n", v->w->state.clean ? "clean" : "not clean");
    printf("problems: %" PRIu64 "\n", v->problems);
}

static int verify_steps(struct verify *v)
{
    int rc;

    open_index(v);
    rc = v->bad_bigs == NULL ? -ENOMEM : read_log(v);
    if (rc == 0) {
        delta_walk(v->bad_bigs, UINT64_MAX, tell_bad_big, v);
        if (v->named_count > 0)
            qsort(v->named, v->named_count, sizeof(v->named[0]), compare_u64);
        rc = walk_big_files(v->w, check_orphan, v);
    }
    if (rc == 0 && v->index != NULL)
        rc = check_rows(v);
    if (rc != 0)
        return command_fail("cannot verify %s: %s", v->w->dir, strerror(-rc));
    print_summary(v);
    return CTL_OK;
}

int run_verify(struct ctl *ctl, int argc, char *const argv[])
{
    struct verify v = {.now_ms = clock_wall_ms()};
    struct walk_options options = {
        .lock = WALK_SHARED, .superseded = true, .found = on_finding, .arg = &v};
    char why[WALK_WHY_MAX];
    const char *dir;
    int status = command_arguments("verify", argc, argv, NULL, 0, &dir, 1, 1);

    (void)ctl;
    if (status != 0)
        return status;
    if (walk_open(dir, &options, &v.w, why) != 0)
        return command_fail("%s", why);
    v.bad_bigs = delta_new(0);
    status = verify_steps(&v);
    if (v.index != NULL) {
        index_reader_close(v.reader);
        index_close(v.index);
    }
    delta_free(v.bad_bigs);
    free(v.named);
    free(v.room);
    walk_close(v.w);
    if (command_finish_output() != CTL_OK)
        status = CTL_FAILED;
    return status == CTL_OK && v.problems > 0 ? CTL_FAILED : status;
}
