/*
 * index_check.c - see index_check.h.
 *
 * Memory: some bytes for every segment. The tables are read in their order and each of their rows
 * is looked up in `keys`; as many rows as there should be, and all of them right, means none too
 * few.
 */
#include "store/logstore/index_check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "store/logstore/index_internal.h"

struct recount {
    struct index *index;
    struct index_counts counts;
    struct stamp flush;
    struct index_segment *segments; /* by number */
    size_t segment_count;
    size_t segment_room;
    uint64_t table_rows;
    void (*found)(const char *text, void *arg);
    void *arg;
    int rc;
};

static void say(struct recount *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct recount *c, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    c->found(text, c->arg);
}

/* ---- segments ---- */

static size_t segment_place(const struct recount *c, uint32_t number)
{
    size_t low = 0;
    size_t high = c->segment_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (c->segments[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The sums of a segment; a new one begins at zero. NULL: no memory. */
static struct index_segment *segment_sums(struct recount *c, uint32_t number)
{
    size_t at = segment_place(c, number);

    if (at < c->segment_count && c->segments[at].number == number)
        return &c->segments[at];
    if (c->segment_count == c->segment_room) {
        size_t room = c->segment_room == 0 ? 64 : c->segment_room * 2;
        struct index_segment *grown = reallocarray(c->segments, room, sizeof(*grown));

        if (grown == NULL)
            return NULL;
        c->segments = grown;
        c->segment_room = room;
    }
    memmove(&c->segments[at + 1], &c->segments[at],
            (c->segment_count - at) * sizeof(c->segments[0]));
    c->segments[at] = (struct index_segment){.number = number};
    c->segment_count++;
    return &c->segments[at];
}

static void add_bytes(struct recount *c, uint32_t number, uint32_t length, bool live)
{
    struct index_segment *s = segment_sums(c, number);

    if (s == NULL)
        c->rc = -ENOMEM;
    else if (live)
        s->live_bytes += length;
    else
        s->tombstone_bytes += length;
}

/* ---- rows ---- */

static bool count_row(struct slice index_key, const struct entry *e, void *arg)
{
    struct recount *c = arg;
    bool live = e->kind != RECORD_DELETE;

    c->counts.rows++;
    c->counts.live += live && stamp_compare(e->base, c->flush) > 0;
    c->counts.touches += e->has_touch;
    c->counts.expiring += live && e->expires_ms != 0;
    if (live && e->big_bytes > 0) {
        c->counts.big_files++;
        c->counts.big_bytes += e->big_bytes;
    }
    add_bytes(c, e->segment, live ? e->length : index_tombstone_bytes(e, index_key), live);
    if (e->has_touch)
        add_bytes(c, e->touch_segment, e->touch_length, live);
    return c->rc == 0;
}

/* ---- tables ---- */

static void check_segment(const struct index_segment *s, void *arg)
{
    struct recount *c = arg;
    struct index_segment *sums = segment_sums(c, s->number);

    if (sums == NULL) {
        c->rc = -ENOMEM;
        return;
    }
    if (sums->live_bytes != s->live_bytes || sums->tombstone_bytes != s->tombstone_bytes)
        say(c,
            "segment %" PRIu32 " has %" PRIu64 " live and %" PRIu64
            " tombstone bytes in the table, %" PRIu64 " and %" PRIu64 " by its rows",
            s->number, s->live_bytes, s->tombstone_bytes, sums->live_bytes, sums->tombstone_bytes);
    sums->live_bytes = sums->tombstone_bytes = 0; /* settled */
}

static void check_segments_left(struct recount *c)
{
    for (size_t i = 0; i < c->segment_count; i++)
        if (c->segments[i].live_bytes != 0 || c->segments[i].tombstone_bytes != 0)
            say(c, "segment %" PRIu32 " is missing in the table of segments",
                c->segments[i].number);
}

/* Whether it is filed under the row's moment was looked at on the way. */
struct expiry_check {
    struct recount *c;
    bool told;
};

static bool check_expiry(struct slice index_key, const struct entry *e, void *arg)
{
    struct expiry_check *x = arg;

    (void)index_key;
    x->c->table_rows++;
    if (!x->told && entry_moment(e) == 0) {
        x->told = true;
        say(x->c, "the table of expiries names a record that does not expire");
    }
    return true;
}

static bool count_big(uint64_t number, uint64_t bytes, void *arg)
{
    struct index_counts *counts = arg;

    (void)number;
    counts->big_files++;
    counts->big_bytes += bytes;
    return true;
}

static int check_tables(struct recount *c, struct index_reader *reader)
{
    struct expiry_check x = {.c = c};
    struct index_counts big = {0};
    int rc = index_segments(c->index, check_segment, c);

    if (rc == 0)
        rc = c->rc;
    if (rc == 0) {
        check_segments_left(c);
        rc = index_expired(reader, INT64_MAX, check_expiry, &x);
    }
    if (rc == 0 && c->table_rows != c->counts.expiring)
        say(c, "the table of expiries has %" PRIu64 " records, by the rows %" PRIu64 " expire",
            c->table_rows, c->counts.expiring);
    if (rc == 0)
        rc = index_big_files(reader, count_big, &big);
    if (rc == 0 && (big.big_files != c->counts.big_files || big.big_bytes != c->counts.big_bytes))
        say(c,
            "the table of big values has %" PRIu64 " files with %" PRIu64
            " bytes, the rows have %" PRIu64 " with %" PRIu64,
            big.big_files, big.big_bytes, c->counts.big_files, c->counts.big_bytes);
    return rc;
}

int index_check(struct index *index, struct index_counts *out,
                void (*found)(const char *text, void *arg), void *arg)
{
    struct recount c = {.index = index, .found = found, .arg = arg};
    struct index_reader *reader = NULL;
    struct index_meta meta = {0};
    char *room = malloc(INDEX_VECTORS_MAX);
    int rc = room == NULL ? -ENOMEM : index_read_meta(index, &meta, room);
    bool has_meta = rc == 0;

    if (rc == -ENOENT)
        rc = 0;
    c.flush = meta.flush_counted;
    if (rc == 0)
        rc = index_reader_open(index, &reader);
    if (rc == 0)
        rc = index_walk(reader, slice_of("", 0), count_row, &c);
    if (rc == 0)
        rc = c.rc;
    if (rc == 0 && has_meta && meta.live_count != c.counts.live)
        say(&c, "the position says %" PRIu64 " live records, the rows are %" PRIu64,
            meta.live_count, c.counts.live);
    if (rc == 0)
        rc = check_tables(&c, reader);
    index_reader_close(reader);
    free(c.segments);
    free(room);
    *out = c.counts;
    return rc;
}
