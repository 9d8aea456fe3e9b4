/*
 * chain.c - the segments that a start finds: their headers, their order, what a crash in a
 * compaction has left, and that none is missing.
 *
 * Provides: chain_open(), chain_settle() of recover.h.
 * Used by:  recovery. One thread, before all others.
 *
 * The order of the log is that of the first sequence numbers; the number of a file is a name. Every
 * header says where the segment before it ended, so a gap anywhere shows. A compacted segment
 * stands for a range of seqs: whatever else begins in that range is older, and is there only
 * because a crash came before it was removed, or before the index knew the new places.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"
#include "base/log.h"
#include "store/logstore/recover.h"

/* Nearly every header fits in so much; a longer one is read again. */
#define HEADER_GUESS 4096u

static int bad_segment(const struct segment *s, const char *what)
{
    log_error("%s %s; not starting. Put back the files from a backup or a peer's copy, or repair "
              "the store offline",
              s->path, what);
    return -EUCLEAN;
}

/* ---- opening ---- */

/* *h points into `room` (SEGMENT_HEADER_MAX bytes). 0; 1: there is none; -errno, logged. */
static int read_header(struct segment *s, int fd, struct segment_header *h, char *room)
{
    size_t length = 0;
    ssize_t got = io_read_upto(fd, room, HEADER_GUESS, 0);
    enum record_parse parse = RECORD_MORE;

    if (got >= 0)
        parse = segment_header_decode(slice_of(room, (size_t)got), h, &length);
    if (got == HEADER_GUESS && parse == RECORD_MORE) {
        got = io_read_upto(fd, room, SEGMENT_HEADER_MAX, 0);
        if (got >= 0)
            parse = segment_header_decode(slice_of(room, (size_t)got), h, &length);
    }
    if (got < 0) {
        log_error("cannot read %s: %s", s->path, strerror((int)-got));
        return (int)got;
    }
    s->header_bytes = (uint32_t)length;
    return parse == RECORD_DONE ? 0 : 1;
}

int chain_read_header(struct segment *s, struct segment_header *h, char *room)
{
    struct segment_file *f;
    int result = segment_open(s, &f);

    if (result != 0) {
        log_error("cannot open %s: %s", s->path, strerror(-result));
        return result;
    }
    result = read_header(s, f->fd, h, room);
    segment_file_unref(f);
    return result;
}

/* Opens a file for its header only. 0; 1: it has none; -errno, logged. */
static int open_segment(struct recovery *rc, uint32_t number, struct link *out,
                        struct segment_header *h, char *room)
{
    struct logstore *ls = rc->ls;
    char *path = log_segment_path(ls, number);
    int fd = path == NULL ? -ENOMEM : io_open(path, O_RDWR, 0);
    off_t size = 0;
    size_t most = ls->config.segment_bytes;
    int result = fd < 0 ? fd : io_file_size(fd, &size);

    if (result == 0 && (size_t)size > most)
        most = (size_t)size;
    if (result == 0)
        result = segment_make(number, path, most, &out->segment);
    if (result == 0)
        result = segment_cache_adopt(&ls->segment_cache, out->segment);
    if (result == 0) {
        out->file_bytes = (uint64_t)size;
        atomic_store(&out->segment->end, (uint64_t)size);
        result = read_header(out->segment, fd, h, room);
    } else {
        log_error("cannot open %s: %s", path == NULL ? ls->dir : path, strerror(-result));
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return result;
}

static int take_header(struct recovery *rc, struct link *l, const struct segment_header *h)
{
    struct segment *s = l->segment;

    if (memcmp(h->store_uuid, rc->ls->id.uuid, sizeof(h->store_uuid)) != 0 || h->big_value ||
        h->number != s->number)
        return bad_segment(s, "belongs to another store");
    l->previous_number = h->previous_number;
    l->previous_end = h->previous_end;
    l->previous_seq = h->previous_seq;
    s->first_seq = h->first_seq;
    if (h->compacted) {
        if (h->end > l->file_bytes || h->end < s->header_bytes)
            return bad_segment(s, "is shorter than its records");
        if (h->last_seq < h->first_seq)
            return bad_segment(s, "has a damaged header");
        s->compacted = true;
        s->last_seq = h->last_seq;
        s->clean_seq = h->clean_seq;
        atomic_store(&s->end, h->end);
    }
    if (h->clock > atomic_load(&rc->ls->clock))
        atomic_store(&rc->ls->clock, h->clock);
    return 0;
}

/* Puts a file that is not of the log any more, but not empty, into tmp/. 0 or -errno. */
static int put_aside(struct recovery *rc, struct segment *s)
{
    char *to;
    int result;

    if (asprintf(&to, "%s/tmp/headless-%08u.seg", rc->ls->dir, s->number) == -1)
        return -ENOMEM;
    result = io_rename(s->path, to);
    log_warn("moved %s to %s: it has no header and was never begun", s->path, to);
    free(to);
    return result;
}

/* A segment without a header: a crash came while it was being made. STORE knows those whose header
 * was on the disk: there a bad header is damage. */
static int drop_headless(struct recovery *rc, struct link *l)
{
    struct segment *s = l->segment;
    int result;

    if (s->number <= rc->ls->id.last_segment)
        return bad_segment(s, "has a damaged header");
    result = tail_holds_records(rc, s);
    if (result != 0)
        return result < 0 ? result : bad_segment(s, "has a damaged header");
    result = put_aside(rc, s);
    segment_unref(s);
    l->segment = NULL;
    return result;
}

/* Opens one file and takes it into the links, unless it was never begun. */
static int take_file(struct recovery *rc, uint32_t number, char *room)
{
    struct link *l = &rc->links[rc->count];
    struct segment_header h;
    int result = open_segment(rc, number, l, &h, room);

    if (result == 0)
        result = take_header(rc, l, &h);
    else if (result == 1)
        result = drop_headless(rc, l);
    rc->count += l->segment != NULL;
    return result;
}

static int compare_links(const void *a, const void *b)
{
    return log_compare_segments(((const struct link *)a)->segment,
                                ((const struct link *)b)->segment);
}

int chain_open(struct recovery *rc)
{
    char *room = malloc(SEGMENT_HEADER_MAX);
    uint32_t *numbers = NULL;
    size_t count = 0;
    int result = room == NULL ? -ENOMEM : directory_segments(rc->ls, &numbers, &count);

    if (result == 0 && count > 0) {
        rc->links = calloc(count, sizeof(rc->links[0]));
        rc->segments = calloc(count, sizeof(rc->segments[0]));
        result = rc->links == NULL || rc->segments == NULL ? -ENOMEM : 0;
        if (numbers[count - 1] > rc->highest)
            rc->highest = numbers[count - 1];
    }
    for (size_t i = 0; result == 0 && i < count; i++)
        result = take_file(rc, numbers[i], room);
    rc->opened = rc->count;
    free(numbers);
    free(room);
    return result;
}

/* ---- compacted segments beside those that they stand for ---- */

/* What the index says of the segments. */
struct known {
    uint32_t number;
    bool named; /* rows name a record in it */
    bool installing;
};

struct knowledge {
    struct known *at; /* by number */
    size_t count;
    size_t room;
    bool failed;
    bool rebuild;      /* there is no index */
    uint32_t position; /* the segment in which its position lies */
};

static void know(const struct index_segment *s, void *arg)
{
    struct knowledge *k = arg;

    if (k->count == k->room) {
        size_t room = k->room == 0 ? 64 : k->room * 2;
        struct known *grown = reallocarray(k->at, room, sizeof(*grown));

        k->failed = k->failed || grown == NULL;
        if (grown == NULL)
            return;
        k->at = grown;
        k->room = room;
    }
    k->at[k->count++] = (struct known){
        s->number, s->live_bytes > 0 || s->tombstone_bytes > 0 || s->installing, s->installing};
}

static int compare_known(const void *a, const void *b)
{
    uint32_t x = ((const struct known *)a)->number;
    uint32_t y = ((const struct known *)b)->number;

    return x < y ? -1 : x > y;
}

/* NULL: no row names the segment. */
static const struct known *known_of(const struct knowledge *k, uint32_t number)
{
    const struct known wanted = {.number = number};

    return k->count == 0 ? NULL : bsearch(&wanted, k->at, k->count, sizeof(wanted), compare_known);
}

/* `s` comes right after `before`. */
static bool follows(const struct link *before, const struct link *s)
{
    if (s->segment->first_seq != s->previous_seq + 1)
        return false;
    if (before->segment->compacted)
        return before->segment->last_seq == s->previous_seq;
    return before->segment->number == s->previous_number;
}

static bool stands_for(const struct segment *c, const struct segment *s)
{
    return c->compacted && s != c && s->number < c->number && s->first_seq >= c->first_seq &&
           s->first_seq <= c->last_seq;
}

/* ---- which of them are the log ---- */

/* Calls each() for the links that links[at] stands for, in order. */
static void each_victim(struct recovery *rc, size_t at, void (*each)(struct link *l, void *arg),
                        void *arg)
{
    const struct segment *c = rc->links[at].segment;
    size_t i = at;

    while (i > 0 && rc->links[i - 1].segment->first_seq >= c->first_seq)
        i--;
    for (; i < rc->opened && rc->links[i].segment->first_seq <= c->last_seq; i++)
        if (rc->links[i].state == LINK_LIVE && stands_for(c, rc->links[i].segment))
            each(&rc->links[i], arg);
}

struct victims {
    const struct knowledge *known;
    struct link *last;
    size_t count;
    uint64_t first_seq;
    bool whole;        /* so far they follow each other without a gap */
    bool named;        /* rows name one of them */
    uint32_t *numbers; /* to be filled, or NULL */
};

static void look_at_victim(struct link *l, void *arg)
{
    struct victims *v = arg;

    v->whole =
        v->last == NULL ? l->segment->first_seq == v->first_seq : v->whole && follows(v->last, l);
    v->last = l;
    v->count++;
    v->named = v->named || known_of(v->known, l->segment->number) != NULL;
}

static void let_go(struct link *l, void *arg)
{
    (void)arg;
    l->state = LINK_GONE;
}

/* Does a segment follow that says that the run ended with `last`? */
static const struct link *follower(const struct recovery *rc, size_t at, const struct link *last)
{
    uint64_t end_seq = rc->links[at].segment->last_seq;

    for (size_t i = at + 1; i < rc->opened; i++) {
        const struct link *l = &rc->links[i];

        if (l->segment->first_seq > end_seq + 1)
            break;
        if (l->state == LINK_LIVE && l->segment->first_seq == end_seq + 1 && follows(last, l))
            return l;
    }
    return NULL;
}

/* The end of a segment that is not compacted stands in the header behind it. */
static void take_end(struct link *l, const struct link *behind)
{
    if (l->segment->compacted)
        return;
    l->segment->last_seq = behind->previous_seq;
    atomic_store(&l->segment->end, behind->previous_end);
}

struct taking {
    struct link *last;
    uint32_t *numbers;
    size_t count;
};

static void take_victim(struct link *l, void *arg)
{
    struct taking *t = arg;

    if (t->last != NULL)
        take_end(t->last, l);
    t->last = l;
    t->numbers[t->count++] = l->segment->number;
    l->state = LINK_INSTALLING;
}

/* Rows name places in both: compaction goes on where it was. */
static int keep_installing(struct recovery *rc, size_t at, size_t count, const struct link *behind)
{
    struct logstore *ls = rc->ls;
    struct taking t = {.numbers = calloc(count, sizeof(uint32_t))};

    if (t.numbers == NULL)
        return -ENOMEM;
    if (ls->installing.count > 0) {
        free(t.numbers);
        return bad_segment(rc->links[at].segment, "is half installed, and so is another one");
    }
    each_victim(rc, at, take_victim, &t);
    take_end(t.last, behind);
    ls->installing.number = rc->links[at].segment->number;
    ls->installing.old = t.numbers;
    ls->installing.count = t.count;
    return 0;
}

/* links[at] is a compacted segment: is it the log, or are those that it stands for? */
static int settle_compacted(struct recovery *rc, size_t at, const struct knowledge *k)
{
    struct segment *c = rc->links[at].segment;
    const struct known *own = known_of(k, c->number);
    struct victims v = {.known = k, .first_seq = c->first_seq};
    const struct link *behind = NULL;

    each_victim(rc, at, look_at_victim, &v);
    if (v.whole)
        behind = follower(rc, at, v.last);
    if (own != NULL && own->installing)
        return behind != NULL ? keep_installing(rc, at, v.count, behind)
                              : bad_segment(c, "stands for segments of which one is missing");
    if (k->rebuild || own != NULL || k->position == c->number)
        each_victim(rc, at, let_go, NULL);
    else if (behind != NULL)
        rc->links[at].state = LINK_GONE; /* nothing had been moved */
    else if (v.named)
        return bad_segment(c, "stands for segments of which one is missing");
    else
        each_victim(rc, at, let_go, NULL); /* nothing of either is needed */
    return 0;
}

/* Has links[at] anything to be settled? */
static bool is_open_question(const struct recovery *rc, size_t at, const struct knowledge *k)
{
    const struct segment *c = rc->links[at].segment;
    const struct known *own;

    if (!c->compacted)
        return false;
    own = known_of(k, c->number);
    return (own != NULL && own->installing) ||
           (at > 0 && rc->links[at - 1].segment->first_seq >= c->first_seq) ||
           (at + 1 < rc->opened && rc->links[at + 1].segment->first_seq <= c->last_seq);
}

/* Settles the compacted segments by number, as they were made: the older ones first. */
static int settle_overlaps(struct recovery *rc, const struct knowledge *k)
{
    int result = 0;

    for (uint32_t done = 0; result == 0;) {
        size_t next = SIZE_MAX;

        for (size_t i = 0; i < rc->opened; i++)
            if (rc->links[i].question && rc->links[i].segment->number > done &&
                (next == SIZE_MAX ||
                 rc->links[i].segment->number < rc->links[next].segment->number))
                next = i;
        if (next == SIZE_MAX)
            break;
        done = rc->links[next].segment->number;
        if (rc->links[next].state == LINK_LIVE)
            result = settle_compacted(rc, next, k);
    }
    return result;
}

/* ---- the chain ---- */

static int check_chain(struct recovery *rc)
{
    for (size_t i = 0; i < rc->count; i++) {
        struct link *l = &rc->links[i];

        if (i == 0 ? l->previous_number != 0 : !follows(&rc->links[i - 1], l))
            return bad_segment(l->segment,
                               "does not follow the segment before it: a file is missing");
        if (i > 0)
            take_end(&rc->links[i - 1], l);
    }
    return 0;
}

/* The newest segments cannot go missing unseen either: STORE names one that was begun, and the log
 * ends with one that is not compacted. The one that STORE names may be among those that another has
 * replaced, if newer ones could not be noted. */
static int check_last_segment(const struct recovery *rc)
{
    const struct segment *last = rc->count > 0 ? rc->links[rc->count - 1].segment : NULL;
    uint32_t wanted = rc->ls->id.last_segment;
    bool found = wanted == 0;

    for (size_t i = rc->opened; i-- > 0 && !found;)
        found = rc->links[i].segment->number == wanted && !rc->links[i].segment->compacted;
    if (found && (last == NULL || !last->compacted))
        return 0;
    log_error("the log of %s ends at segment %u, but a newer one was begun (segment %u or behind "
              "it): files are missing; not starting. Put them back from a backup or a peer's copy, "
              "or repair the store offline",
              rc->ls->dir, last == NULL ? 0 : last->number, wanted);
    return -EUCLEAN;
}

/* What is the log to the front, in order; the others behind it. */
static int put_in_order(struct recovery *rc)
{
    struct link *others = calloc(rc->opened + 1, sizeof(*others));
    size_t other_count = 0;

    if (others == NULL)
        return -ENOMEM;
    rc->count = 0;
    for (size_t i = 0; i < rc->opened; i++) {
        if (rc->links[i].state == LINK_LIVE)
            rc->links[rc->count++] = rc->links[i];
        else
            others[other_count++] = rc->links[i];
    }
    for (size_t i = 0; i < other_count; i++)
        rc->links[rc->count + i] = others[i];
    for (size_t i = 0; i < rc->count; i++)
        rc->segments[i] = rc->links[i].segment;
    free(others);
    return 0;
}

static int compare_link_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* A log without a gap may lack a file all the same: a compacted one, of which those that it stands
 * for are there still. 0; -ESTALE: rows name such a file; -ENOMEM. */
static int check_known(const struct recovery *rc, const struct knowledge *k)
{
    uint32_t *there = calloc(rc->opened + 1, sizeof(there[0]));
    size_t count = 0;
    int result = there == NULL ? -ENOMEM : 0;

    for (size_t i = 0; result == 0 && i < rc->opened; i++)
        if (rc->links[i].state != LINK_GONE)
            there[count++] = rc->links[i].segment->number;
    if (count > 0)
        qsort(there, count, sizeof(there[0]), compare_link_numbers);
    for (size_t i = 0; result == 0 && i < k->count; i++)
        if (k->at[i].named &&
            (count == 0 || bsearch(&k->at[i].number, there, count, sizeof(there[0]),
                                   compare_link_numbers) == NULL))
            result = -ESTALE;
    free(there);
    return result;
}

static void begin_settling(struct recovery *rc)
{
    struct logstore *ls = rc->ls;

    free(ls->installing.old);
    ls->installing.old = NULL;
    ls->installing.count = 0;
    if (rc->opened > 0)
        qsort(rc->links, rc->opened, sizeof(rc->links[0]), compare_links);
    for (size_t i = 0; i < rc->opened; i++)
        rc->links[i].state = LINK_LIVE;
}

int chain_settle(struct recovery *rc, const struct index_meta *meta)
{
    struct knowledge k = {.rebuild = meta == NULL, .position = meta == NULL ? 0 : meta->segment};
    int result = 0;

    begin_settling(rc);
    if (!k.rebuild && rc->opened > 0)
        result = index_segments(rc->ls->index, know, &k);
    if (result == -EUCLEAN) /* said already */
        result = -ESTALE;
    if (result == 0 && k.failed)
        result = -ENOMEM;
    for (size_t i = 0; result == 0 && i < rc->opened; i++)
        rc->links[i].question = is_open_question(rc, i, &k);
    if (result == 0)
        result = settle_overlaps(rc, &k);
    if (result == 0)
        result = put_in_order(rc);
    if (result == 0)
        result = check_chain(rc);
    if (result == 0)
        result = check_last_segment(rc);
    if (result == 0)
        result = check_known(rc, &k);
    free(k.at);
    return result;
}

int chain_remove_superseded(struct recovery *rc)
{
    int result = 0;

    for (size_t i = rc->count; result == 0 && i < rc->opened; i++) {
        struct segment *s = rc->links[i].segment;

        if (rc->links[i].state != LINK_GONE || s == NULL)
            continue;
        log_info("removing %s: another segment has its records", s->path);
        result = io_unlink(s->path);
        if (result != 0)
            log_error("cannot remove %s: %s", s->path, strerror(-result));
    }
    return result;
}
