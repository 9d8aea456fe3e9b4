/*
 * walk_read.c - from record to record, and on behind what is damaged. See walk.h.
 *
 * Provides: walk_next(), walk_rewind(), walk_seek(), walk_read_at(), walk_search().
 * Used by:  ttctl.
 * Threads:  one.
 *
 * Memory: a window of some megabytes, more only for a longer record.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "store/logstore/walk_internal.h"

#define WINDOW_BYTES (1024u * 1024)
#define PAGE_BYTES 4096u

/* ---- bytes ---- */

/* Reads up to len bytes. What the disk refuses reads as zeros, page by page: the checksums find it.
 * Bytes read, or -errno. */
static ssize_t read_pages(int fd, char *out, size_t len, uint64_t offset)
{
    ssize_t got = io_read_upto(fd, out, len, (off_t)offset);
    size_t done = 0;

    if (got != -EIO)
        return got;
    while (done < len) {
        size_t n = PAGE_BYTES - (size_t)((offset + done) % PAGE_BYTES);

        if (n > len - done)
            n = len - done;
        got = io_read_upto(fd, out + done, n, (off_t)(offset + done));
        if (got == -EIO) {
            memset(out + done, 0, n);
            got = (ssize_t)n;
        }
        if (got < 0)
            return got;
        done += (size_t)got;
        if ((size_t)got < n)
            break;
    }
    return (ssize_t)done;
}

/* Brings `need` bytes from `offset` on into the window, fewer only at the end. *out: what is there.
 * 0 or -errno. */
static int look(struct walk *w, uint64_t offset, uint64_t end, size_t need, struct slice *out)
{
    uint64_t left = end - offset;
    size_t want = need > WINDOW_BYTES ? need : WINDOW_BYTES;
    ssize_t got;

    if (need > left)
        need = (size_t)left;
    if (offset < w->window_at || offset + need > w->window_at + w->window.len) {
        if (want > left)
            want = (size_t)left;
        w->window.len = 0;
        if (buf_reserve(&w->window, want) != 0)
            return -ENOMEM;
        got = read_pages(w->fd, w->window.data, want, offset);
        if (got < 0)
            return (int)got;
        w->window.len = (size_t)got;
        w->window_at = offset;
    }
    *out = slice_after(buf_slice(&w->window), (size_t)(offset - w->window_at));
    if (out->len > left)
        out->len = (size_t)left;
    return 0;
}

/* ---- one record ---- */

/* What stands at a place. */
struct spot {
    bool good;
    bool head_good; /* its length can be trusted, and its key stands where it says */
    const char *reason;
    struct record_layout layout;
    struct walk_record rec;
};

static int look_at(struct walk *w, const struct walk_segment *s, uint64_t offset, uint64_t end,
                   struct spot *out)
{
    struct slice bytes;
    uint64_t length;
    int rc = look(w, offset, end, RECORD_HEAD_MAX, &bytes);

    memset(out, 0, sizeof(*out));
    if (rc != 0)
        return rc;
    if (record_decode_head(w->salt, bytes, &out->rec.r, &out->layout) != RECORD_DONE) {
        out->reason = "no good record stands here";
        return 0;
    }
    length = record_layout_length(&out->layout);
    if (length > end - offset) {
        out->reason = "the record reaches beyond the end";
        return 0;
    }
    rc = look(w, offset, end, (size_t)length, &bytes);
    if (rc != 0)
        return rc;
    if (bytes.len < length) {
        out->reason = "the record reaches beyond the end";
        return 0;
    }
    out->head_good = true;
    out->rec.segment = s;
    out->rec.offset = offset;
    out->rec.length = length;
    out->rec.bytes = slice_of(bytes.ptr, (size_t)length);
    record_set_body(&out->rec.r, &out->layout, bytes.ptr + out->layout.head_len);
    out->good = hash_bytes(bytes.ptr + out->layout.head_len,
                           (size_t)length - out->layout.head_len) == out->layout.body_sum;
    if (!out->good)
        out->reason = "the record's contents do not match their checksum";
    return 0;
}

/* Brings the head of the record at `offset` into the empty buffer, and maybe more. 0, -EUCLEAN with
 * *reason, -errno. */
static int read_head_at(const struct walk *w, int fd, uint64_t offset, struct buf *room,
                        struct record *r, struct record_layout *layout, const char **reason)
{
    enum record_parse parse = RECORD_MORE;

    for (size_t want = PAGE_BYTES; parse == RECORD_MORE && want <= 2 * PAGE_BYTES; want *= 2) {
        ssize_t got;
        int rc = buf_reserve(room, want);

        if (rc != 0)
            return rc;
        got = read_pages(fd, room->data, want, offset);
        if (got < 0)
            return (int)got;
        room->len = (size_t)got;
        parse = record_decode_head(w->salt, buf_slice(room), r, layout);
    }
    *reason = "no good record stands there";
    return parse == RECORD_DONE ? 0 : -EUCLEAN;
}

/* The rest of a record of `length` bytes, of which the buffer has the beginning. */
static int read_rest_at(int fd, uint64_t offset, uint64_t length, struct buf *room,
                        const char **reason)
{
    size_t have = room->len < length ? room->len : (size_t)length;
    ssize_t got;
    int rc = 0;

    room->len = have;
    if (have < length)
        rc = buf_reserve(room, (size_t)length - have);
    if (rc != 0)
        return rc;
    got = have == length ? 0
                         : read_pages(fd, room->data + have, (size_t)length - have, offset + have);
    if (got < 0)
        return (int)got;
    room->len += (size_t)got;
    *reason = "the record reaches beyond the end";
    return room->len == length ? 0 : -EUCLEAN;
}

static int read_record_at(const struct walk *w, const struct walk_segment *s, int fd,
                          uint64_t offset, struct buf *room, struct walk_record *out,
                          const char **reason)
{
    struct record_layout layout;
    uint64_t length;
    int rc = read_head_at(w, fd, offset, room, &out->r, &layout, reason);

    if (rc != 0)
        return rc;
    length = record_layout_length(&layout);
    if (offset + length > s->file_bytes) {
        *reason = "the record reaches beyond the end";
        return -EUCLEAN;
    }
    rc = read_rest_at(fd, offset, length, room, reason);
    if (rc == 0 && hash_bytes(room->data + layout.head_len, (size_t)length - layout.head_len) !=
                       layout.body_sum) {
        *reason = "the record's contents do not match their checksum";
        rc = -EUCLEAN;
    }
    if (rc != 0)
        return rc;
    record_set_body(&out->r, &layout, room->data + layout.head_len);
    out->segment = s;
    out->offset = offset;
    out->length = length;
    out->bytes = buf_slice(room);
    return 0;
}

int walk_read_at(struct walk *w, const struct walk_segment *s, uint64_t offset, struct buf *room,
                 struct walk_record *out, const char **reason)
{
    int fd;
    int rc;

    *reason = "the place lies outside of the file";
    if (offset < s->records_from || offset >= s->file_bytes)
        return -EUCLEAN;
    fd = io_open(s->path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    room->len = 0;
    rc = read_record_at(w, s, fd, offset, room, out, reason);
    close(fd);
    return rc;
}

/* ---- the search behind damage ---- */

/* Searches one piece; *next: where the next piece has to begin. */
static bool search_piece(const struct walk *w, struct slice piece, bool is_last, uint64_t min_seq,
                         uint64_t max_seq, size_t *at, struct record *r)
{
    static const char magic[4] = {'T', 'T', 'R', '1'};
    struct record_layout layout;
    struct slice rest = piece;

    while (rest.len >= sizeof(magic)) {
        const char *hit = memmem(rest.ptr, rest.len, magic, sizeof(magic));
        struct slice from;

        if (hit == NULL)
            break;
        *at = (size_t)(hit - piece.ptr);
        from = slice_after(piece, *at);
        if (!is_last && from.len < RECORD_HEAD_MAX)
            break; /* looked at as a part of the next piece */
        if (record_decode_head(w->salt, from, r, &layout) == RECORD_DONE && r->seq >= min_seq &&
            r->seq <= max_seq)
            return true;
        rest = slice_after(from, 1);
    }
    return false;
}

int walk_search(const struct walk *w, const struct walk_segment *s, uint64_t from, uint64_t end,
                uint64_t min_seq, uint64_t max_seq, uint64_t *at, struct record *r)
{
    char *piece = malloc(WINDOW_BYTES);
    int fd = piece == NULL ? -ENOMEM : io_open(s->path, O_RDONLY, 0);
    int result = fd < 0 ? fd : 0;

    while (result == 0 && from < end) {
        size_t want = end - from < WINDOW_BYTES ? (size_t)(end - from) : WINDOW_BYTES;
        ssize_t got = read_pages(fd, piece, want, from);
        bool is_last = got < (ssize_t)WINDOW_BYTES;
        size_t found;

        if (got <= 0) {
            result = (int)got;
            break;
        }
        if (search_piece(w, slice_of(piece, (size_t)got), is_last, min_seq, max_seq, &found, r)) {
            *at = from + found;
            result = 1;
        }
        if (is_last)
            break;
        from += (uint64_t)got - RECORD_HEAD_MAX;
    }
    if (fd >= 0)
        close(fd);
    free(piece);
    return result;
}

/* Where the zeros begin that end [from, end) of the file. 0 or -errno. */
static int last_used(struct walk *w, uint64_t from, uint64_t end, uint64_t *used)
{
    *used = from;
    while (from < end) {
        struct slice bytes;
        int rc = look(w, from, end, 1, &bytes);

        if (rc != 0)
            return rc;
        if (bytes.len == 0)
            break;
        for (size_t i = bytes.len; i > 0; i--) {
            if (bytes.ptr[i - 1] != 0) {
                *used = from + i;
                break;
            }
        }
        from += bytes.len;
    }
    return 0;
}

/* ---- the end of the log ---- */

/* Is there, behind the bad spot, a good record that was written knowing the bad one to be synced?
 * The rule of tail.c. 1, 0 or -errno. */
static int proves_synced(struct walk *w, uint64_t offset)
{
    uint64_t bytes = 0;

    for (size_t i = w->at; i < w->count; i++) {
        const struct walk_segment *s = &w->segments[i];
        uint64_t from = i == w->at ? offset : s->records_from;
        uint64_t at = 0;
        struct record r;
        int found = 1;

        if (s->ignored || s->superseded)
            continue;
        bytes += s->file_bytes - from;
        while (found == 1) {
            found = walk_search(w, s, from, s->file_bytes, w->expected + 1,
                                w->expected + bytes / RECORD_HEAD_FIXED, &at, &r);
            if (found == 1 && r.unsynced < r.seq && r.seq - r.unsynced > w->expected)
                return 1;
            from = at + 1;
        }
        if (found < 0)
            return found;
    }
    return 0;
}

static bool is_last(const struct walk *w)
{
    for (size_t i = w->at + 1; i < w->count; i++)
        if (!w->segments[i].ignored && !w->segments[i].superseded)
            return false;
    return true;
}

/* Can the spot be where the last run was interrupted? In a closed segment only under policies that
 * do not sync at once. */
static bool may_be_torn(const struct walk *w, const struct walk_segment *s)
{
    if (s->superseded || (s->has_header && s->header.compacted) || !s->has_header)
        return false;
    return is_last(w) || !walk_syncs_at_once(w);
}

/* Tells what the next start cuts off, and ends the walk. */
static int tell_torn(struct walk *w, const struct walk_segment *s)
{
    uint64_t last;
    int rc = last_used(w, w->offset, s->file_bytes, &last);

    if (rc != 0)
        return rc;
    if (last > w->offset)
        walk_tell(w, &(struct walk_finding){
                         .kind = WALK_TORN,
                         .path = s->path,
                         .offset = w->offset,
                         .bytes = last - w->offset,
                         .reason = "unfinished writes: the next start saves them and cuts them off",
                     });
    for (size_t i = w->at + 1; i < w->count; i++)
        if (!w->segments[i].ignored && !w->segments[i].superseded)
            walk_tell(w, &(struct walk_finding){
                             .kind = WALK_TORN,
                             .path = w->segments[i].path,
                             .bytes = w->segments[i].file_bytes,
                             .reason = "was begun behind unfinished writes: the next start saves "
                                       "it and takes it away",
                         });
    w->ended = true;
    return 0;
}

/* ---- behind a bad spot ---- */

/* The highest number that can stand behind the spot. */
static uint64_t highest_seq(const struct walk *w, const struct walk_segment *s)
{
    if (s->last_seq != 0)
        return s->last_seq;
    return w->expected + (s->end - w->offset) / RECORD_HEAD_FIXED;
}

/* A record whose head is good: its length can be trusted. */
static void pass_record(struct walk *w, const struct walk_segment *s, const struct spot *spot)
{
    walk_tell(w, &(struct walk_finding){
                     .kind = WALK_DAMAGE,
                     .path = s->path,
                     .offset = w->offset,
                     .bytes = spot->rec.length,
                     .reason = spot->reason,
                     .first_seq = spot->rec.r.seq,
                     .last_seq = spot->rec.r.seq,
                     .has_key = true,
                     .key = spot->rec.r.key,
                 });
    w->expected = spot->rec.r.seq + 1;
    w->offset += spot->rec.length;
}

/* Bytes of which nothing is known: up to the next good record, or the end. 0 or -errno. */
static int pass_bytes(struct walk *w, const struct walk_segment *s, const char *reason)
{
    struct walk_finding f = {
        .kind = WALK_DAMAGE, .path = s->path, .offset = w->offset, .reason = reason};
    bool dense = s->has_header && !s->header.compacted;
    uint64_t next = s->end;
    uint64_t used = s->end;
    struct record r;
    int found = walk_search(w, s, w->offset + 1, s->end, w->expected > 0 ? w->expected : 1,
                            highest_seq(w, s), &next, &r);
    int rc = 0;

    /* Nobody says where the records of this file end: zeros may follow them. */
    if (found == 0 && !s->has_end)
        rc = last_used(w, w->offset, s->end, &used);
    if (found < 0 || rc != 0)
        return found < 0 ? found : rc;
    f.bytes = (found == 1 ? next : used) - w->offset;
    if (found == 1 && dense && w->expected > 0 && r.seq > w->expected) {
        f.first_seq = w->expected;
        f.last_seq = r.seq - 1;
    }
    if (f.bytes > 0)
        walk_tell(w, &f);
    /* How many records stood here is known where they are dense; else what follows is not held
     * against them. */
    w->expected = f.first_seq != 0 ? r.seq : f.bytes > 0 ? 0 : w->expected;
    w->offset = found == 1 ? next : s->end;
    return 0;
}

/* A bad record at w->offset: tells it and goes to the next good one, or ends the segment or the
 * walk. 0 or -errno. */
static int handle_bad(struct walk *w, const struct walk_segment *s, const struct spot *spot)
{
    uint64_t seq = spot->rec.r.seq;
    int rc;

    if (is_last(w) && walk_is_in_use(w)) {
        w->ended = true; /* a server is about to write here */
        return 0;
    }
    rc = may_be_torn(w, s) ? proves_synced(w, w->offset) : 1;
    if (rc == 0)
        return tell_torn(w, s);
    if (rc < 0)
        return rc;
    if (!spot->head_good || seq < w->expected || seq > highest_seq(w, s))
        return pass_bytes(w, s, spot->reason);
    pass_record(w, s, spot);
    return 0;
}

/* ---- the walk ---- */

static void leave(struct walk *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->entered = false;
    w->at++;
}

static void tell_missing(const struct walk *w, const struct walk_segment *s, uint64_t first,
                         uint64_t last)
{
    walk_tell(w, &(struct walk_finding){
                     .kind = WALK_DAMAGE,
                     .path = s->path,
                     .offset = w->offset,
                     .reason = "records are missing here",
                     .first_seq = first,
                     .last_seq = last,
                 });
}

/* 0; 1: the segment is passed over; -errno. */
static int enter(struct walk *w, struct walk_segment *s)
{
    w->fd = io_open(s->path, O_RDONLY, 0);
    if (w->fd == -ENOENT && w->options.lock == WALK_UNLOCKED) {
        walk_tell(w, &(struct walk_finding){
                         .kind = WALK_NOTE,
                         .path = s->path,
                         .reason = "was compacted meanwhile, its records are passed over",
                     });
        leave(w);
        w->expected = 0;
        return 1;
    }
    if (w->fd < 0)
        return w->fd;
    w->entered = true;
    w->window.len = 0;
    w->window_at = 0;
    w->offset = s->records_from;
    if (s->superseded) {
        w->expected_outside = w->expected;
        w->expected = s->first_seq;
        return 0;
    }
    if (!s->gap_before && w->expected > 0 && s->first_seq > w->expected)
        tell_missing(w, s, w->expected, s->first_seq - 1);
    if (s->has_header)
        w->expected = s->first_seq;
    if (w->expected <= w->state.seq) /* numbers never go back, whatever a header says */
        w->expected = w->state.seq + 1;
    walk_state_enter(&w->state, s);
    return 0;
}

/* Its last records are not there: missing, or what a power cut has taken from the end of the log,
 * which ends here then. 0 or -errno. */
static int handle_short(struct walk *w, const struct walk_segment *s)
{
    int rc = may_be_torn(w, s) ? proves_synced(w, w->offset) : 1;

    if (rc == 0)
        return tell_torn(w, s);
    if (rc == 1)
        tell_missing(w, s, w->expected, s->last_seq);
    return rc < 0 ? rc : 0;
}

/* At the end of a segment's records. 0 or -errno. */
static int finish(struct walk *w, const struct walk_segment *s)
{
    bool dense = s->has_header && !s->header.compacted;
    int rc = 0;

    w->done_bytes += s->end;
    if (dense && s->last_seq != 0 && w->expected != 0 && w->expected <= s->last_seq)
        rc = handle_short(w, s);
    if (s->superseded)
        w->expected = w->expected_outside;
    else if (s->last_seq != 0)
        w->expected = s->last_seq + 1;
    leave(w);
    return rc;
}

/* Does the good record stand where it may? */
static bool fits(struct walk *w, const struct walk_segment *s, const struct record *r)
{
    struct walk_finding f = {.kind = WALK_DAMAGE, .path = s->path, .offset = w->offset};
    bool dense = s->has_header && !s->header.compacted;

    if (w->expected != 0 && r->seq > w->expected && dense)
        tell_missing(w, s, w->expected, r->seq - 1);
    if (r->seq >= w->expected && (s->last_seq == 0 || r->seq <= s->last_seq) &&
        (s->superseded || r->seq > w->state.seq))
        return true;
    f.reason = "a record stands here whose number does not belong here";
    f.first_seq = f.last_seq = r->seq;
    f.has_key = true;
    f.key = r->key;
    walk_tell(w, &f);
    return false;
}

/* 1: a record; 0: go on; -errno. */
static int step(struct walk *w, struct walk_segment *s, struct walk_record *out)
{
    struct spot spot;
    int rc = look_at(w, s, w->offset, s->end, &spot);

    if (rc != 0)
        return rc;
    if (!spot.good)
        return handle_bad(w, s, &spot);
    if (!fits(w, s, &spot.rec.r)) {
        w->offset += spot.rec.length;
        return 0;
    }
    w->expected = spot.rec.r.seq + 1;
    w->offset += spot.rec.length;
    if (!s->superseded)
        walk_state_apply(&w->state, &spot.rec.r);
    *out = spot.rec;
    return 1;
}

int walk_next(struct walk *w, struct walk_record *out)
{
    while (!w->ended && w->at < w->count) {
        struct walk_segment *s = &w->segments[w->at];
        int rc = 0;

        if (!walk_wants(w, s))
            w->at++;
        else if (!w->entered)
            rc = enter(w, s);
        else if (w->offset >= s->end)
            rc = finish(w, s);
        else
            rc = step(w, s, out);
        if (rc < 0 || (rc == 1 && w->entered))
            return rc;
    }
    return 0;
}

void walk_rewind(struct walk *w)
{
    if (w->entered)
        leave(w);
    memset(&w->state, 0, sizeof(w->state));
    w->at = 0;
    w->expected = 0;
    w->done_bytes = 0;
    w->ended = false;
}

void walk_seek(struct walk *w, uint64_t seq)
{
    walk_rewind(w);
    for (size_t i = 0; i < w->count; i++)
        if (walk_wants(w, &w->segments[i]) && w->segments[i].first_seq <= seq)
            w->at = i;
}
