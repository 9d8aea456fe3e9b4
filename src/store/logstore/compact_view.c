/*
 * compact_view.c - what compaction knows of the segments at one moment. See compact_view.h.
 */
#include "store/logstore/compact_view.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/clock.h"

/* ---- the index's figures ---- */

struct shares {
    struct index_segment *at; /* by number */
    size_t count;
    size_t room;
    bool failed;
};

static void add_share(const struct index_segment *s, void *arg)
{
    struct shares *v = arg;

    if (v->count == v->room) {
        size_t room = v->room == 0 ? 64 : v->room * 2;
        struct index_segment *grown = reallocarray(v->at, room, sizeof(*grown));

        if (grown == NULL) {
            v->failed = true;
            return;
        }
        v->at = grown;
        v->room = room;
    }
    v->at[v->count++] = *s;
}

static int compare_numbers(const void *key, const void *item)
{
    uint32_t a = *(const uint32_t *)key;
    uint32_t b = ((const struct index_segment *)item)->number;

    return (a > b) - (a < b);
}

/* ---- one segment ---- */

/* With --keep-history: what is dead in it is too young to go, more likely than not. Nobody knows when
 * records were superseded but who reads them all; the file's age says enough. */
static bool holds_young_history(const struct logstore *ls, const struct segment *s)
{
    int64_t keep_ms = ls->config.keep_history_ms;
    struct stat st;

    return keep_ms > 0 && !s->compacted && stat(s->path, &st) == 0 &&
           clock_wall_ms() < (int64_t)st.st_mtim.tv_sec * 1000 + keep_ms;
}

static bool is_resting(uint32_t number, const struct compact_rest *rests, size_t count)
{
    int64_t now = clock_mono_ms();

    for (size_t i = 0; i < count; i++)
        if (rests[i].number == number && rests[i].until_ms > now)
            return true;
    return false;
}

static struct plan_segment figures_of(const struct logstore *ls, const struct compact_view *v,
                                      size_t i, const struct shares *shares)
{
    const struct segment *s = v->list[i];
    bool last = i + 1 == v->count;
    const struct index_segment *share = shares->count == 0
                                            ? NULL
                                            : bsearch(&s->number, shares->at, shares->count,
                                                      sizeof(shares->at[0]), compare_numbers);
    struct plan_segment f = {
        .bytes = atomic_load(&s->end) - s->header_bytes,
        .live_bytes = share == NULL ? 0 : share->live_bytes,
        .tombstone_bytes = share == NULL ? 0 : share->tombstone_bytes,
        .last_seq = last ? UINT64_MAX : v->list[i + 1]->first_seq - 1,
        .clean_seq = s->clean_seq,
    };

    /* The position's own segment is named by it until the next checkpoint, also when nothing of it
     * is left to be replayed. */
    f.settled = !last && f.last_seq <= v->meta.seq && s->number != v->meta.segment;
    f.kept = f.settled && holds_young_history(ls, s);
    return f;
}

/* ---- all of them ---- */

static int take_meta(struct logstore *ls, struct compact_view *v)
{
    int rc;

    v->room = malloc(INDEX_VECTORS_MAX);
    v->vectors = calloc(1, sizeof(*v->vectors));
    if (v->room == NULL || v->vectors == NULL)
        return -ENOMEM;
    rc = index_read_meta(ls->index, &v->meta, v->room);
    if (rc == -ENOENT) {
        memset(&v->meta, 0, sizeof(v->meta));
        return 0;
    }
    return rc == 0 && !vectors_decode(v->meta.vectors, v->vectors) ? -EUCLEAN : rc;
}

/* Bytes of records above the checkpoint. */
static uint64_t above_bytes(const struct compact_view *v)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < v->count; i++) {
        const struct segment *s = v->list[i];
        uint64_t end = atomic_load(&s->end);

        if (s->number == v->meta.segment)
            bytes += end > v->meta.offset ? end - v->meta.offset : 0;
        else if (s->first_seq > v->meta.seq)
            bytes += v->figures[i].bytes;
    }
    return bytes;
}

/* Between two checkpoints: what was there, and has come since, but for what was superseded. */
static uint64_t live_now(const struct logstore *ls, const struct compact_view *v)
{
    uint64_t superseded =
        atomic_load(&ls->superseded_bytes) - atomic_load(&ls->checkpoint.done_superseded);
    uint64_t live = v->above;

    if (stamp_compare(keyspace_flush(ls), v->meta.flush) == 0)
        for (size_t i = 0; i < v->count; i++)
            live += v->figures[i].live_bytes;
    return live > superseded ? live - superseded : 0;
}

/* In this order: what lies below the position has done its work on the figures that are read after
 * it. Then a segment without dead bytes has nothing that a tombstone below the position could have
 * superseded. */
int compact_view_take(struct logstore *ls, const struct compact_rest *rests, size_t rest_count,
                      struct compact_view *v)
{
    struct shares shares = {0};
    int rc;

    memset(v, 0, sizeof(*v));
    rc = take_meta(ls, v);
    if (rc == 0)
        rc = index_segments(ls->index, add_share, &shares);
    if (rc == 0)
        rc = shares.failed ? -ENOMEM : log_list_segments(ls, &v->list, &v->count);
    if (rc == 0) {
        v->figures = calloc(v->count + 1, sizeof(v->figures[0]));
        rc = v->figures == NULL ? -ENOMEM : 0;
    }
    for (size_t i = 0; rc == 0 && i < v->count; i++) {
        v->figures[i] = figures_of(ls, v, i, &shares);
        if (is_resting(v->list[i]->number, rests, rest_count))
            v->figures[i].kept = true;
    }
    free(shares.at);
    if (rc == 0) {
        v->above = above_bytes(v);
        v->live_bytes = live_now(ls, v);
    }
    return rc;
}

void compact_view_free(struct compact_view *v)
{
    if (v->list != NULL)
        log_release_segments(v->list, v->count);
    free(v->figures);
    free(v->vectors);
    free(v->room);
}

uint64_t compact_view_removable(const struct compact_view *v, size_t first)
{
    uint64_t seq = UINT64_MAX;

    for (size_t i = 0; i < first; i++) {
        const struct plan_segment *f = &v->figures[i];

        if (f->bytes != f->live_bytes + f->tombstone_bytes && f->clean_seq < seq)
            seq = f->clean_seq;
    }
    return seq;
}
