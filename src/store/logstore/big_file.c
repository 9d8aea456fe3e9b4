/*
 * big_file.c - the file of a big value: its name, its front, and how readers share it.
 *
 * Provides: big_open(), big_lookup(), big_unref() of big.h; what big_internal.h says.
 * Used by:  reader, big_*.c.
 * Threads:  any; big_open() waits for the disk.
 * Locks:    big.mutex.
 *
 * The file has the format of a segment with one record (docs/format.md, "Big values"). A file that
 * this process has neither written nor checked is read through once before its first use.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/big_internal.h"

#define VERIFY_PIECE (1024u * 1024)

struct big_file {
    _Atomic uint32_t refs;
    int fd;
    uint64_t number;
    off_t value_offset;
    struct logstore *ls;
    struct big_file *next; /* of those with the same place in big.open */
    struct pin pin;
};

/* ---- names ---- */

char *big_final_path(const struct logstore *ls, uint64_t number)
{
    char *path;

    return asprintf(&path, "%s/big/%016" PRIx64 ".val", ls->dir, number) == -1 ? NULL : path;
}

char *big_spool_path(const struct logstore *ls, uint64_t number)
{
    char *path;

    return asprintf(&path, "%s/tmp/spool-%016" PRIx64, ls->dir, number) == -1 ? NULL : path;
}

void big_remove_path(char *path)
{
    if (path != NULL)
        (void)io_unlink(path);
    free(path);
}

/* ---- the front ---- */

uint64_t big_front_length(size_t key_len, size_t attrs_len)
{
    return (uint64_t)SEGMENT_HEADER_FIXED + RECORD_HEAD_FIXED + key_len + attrs_len;
}

size_t big_front_encode(const struct logstore *ls, uint64_t number, struct slice key,
                        struct slice attrs, uint64_t value_len, uint64_t body_sum, char **out)
{
    struct segment_header h = {.number = number, .big_value = true};
    struct record r = {.kind = RECORD_PUT, .key = key, .attrs = attrs};
    unsigned char *p = malloc(SEGMENT_HEADER_FIXED + RECORD_HEAD_FIXED + key.len + attrs.len);
    size_t len;

    *out = (char *)p;
    if (p == NULL)
        return 0;
    memcpy(h.store_uuid, ls->id.uuid, sizeof(h.store_uuid));
    h.history = identity_history(&ls->id);
    len = segment_header_encode(&h, p);
    r.value.len = (size_t)value_len; /* only its length is looked at */
    len += record_encode_head(ls->salt, &r, body_sum, p + len);
    if (key.len > 0)
        memcpy(p + len, key.ptr, key.len);
    len += key.len;
    if (attrs.len > 0)
        memcpy(p + len, attrs.ptr, attrs.len);
    return len + attrs.len;
}

ssize_t big_front_read(const struct logstore *ls, int fd, char *room, size_t room_bytes,
                       struct segment_header *h, struct record *r, struct record_layout *layout,
                       size_t *start)
{
    ssize_t len = io_read_upto(fd, room, room_bytes, 0);

    if (len < 0)
        return len;
    if (segment_header_decode(slice_of(room, (size_t)len), h, start) != RECORD_DONE ||
        record_decode_head(ls->salt, slice_of(room + *start, (size_t)len - *start), r, layout) !=
            RECORD_DONE ||
        !h->big_value)
        return -EUCLEAN;
    return len;
}

/* Checks the front of the file against what the log says of it; *value_offset is set. 0 or
 * -EUCLEAN, -errno. */
static int check_front(const struct logstore *ls, int fd, uint64_t number, uint64_t bytes,
                       uint64_t sum, off_t *value_offset)
{
    size_t room = SEGMENT_HEADER_FIXED + RECORD_HEAD_MAX;
    char *front = malloc(room);
    struct segment_header h;
    struct record r;
    struct record_layout layout;
    size_t start;
    ssize_t len =
        front == NULL ? -ENOMEM : big_front_read(ls, fd, front, room, &h, &r, &layout, &start);

    free(front);
    if (len < 0)
        return (int)len;
    if (h.number != number || layout.value_len != bytes || layout.body_sum != sum)
        return -EUCLEAN;
    *value_offset = (off_t)(start + layout.head_len + layout.key_len + (uint64_t)layout.attrs_len);
    return 0;
}

/* Reads everything behind the record's head. 0 or -EUCLEAN, -errno. */
static int check_body(int fd, off_t value_offset, uint64_t bytes, uint64_t sum)
{
    off_t at = SEGMENT_HEADER_FIXED + RECORD_HEAD_FIXED;
    uint64_t left = (uint64_t)(value_offset - at) + bytes;
    struct hash_stream *h = hash_stream_new();
    char *piece = malloc(VERIFY_PIECE);
    int rc = h == NULL || piece == NULL ? -ENOMEM : 0;

    while (rc == 0 && left > 0) {
        size_t n = left < VERIFY_PIECE ? (size_t)left : VERIFY_PIECE;

        rc = io_read_full(fd, piece, n, at);
        if (rc == 0)
            hash_stream_add(h, piece, n);
        at += (off_t)n;
        left -= n;
    }
    if (rc == -ENODATA || (rc == 0 && hash_stream_sum(h) != sum))
        rc = -EUCLEAN;
    free(piece);
    hash_stream_free(h);
    return rc;
}

/* ---- open files ---- */

/* False: the last reference has just gone, the file is being closed. */
static bool try_ref(struct big_file *f)
{
    uint32_t refs = atomic_load(&f->refs);

    while (refs > 0)
        if (atomic_compare_exchange_weak(&f->refs, &refs, refs + 1))
            return true;
    return false;
}

void big_unref(struct big_file *f)
{
    struct logstore *ls = f->ls;

    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_lock(&ls->big.mutex);
    for (struct big_file **at = &ls->big.open[f->number % BIG_RECENT]; *at != NULL;
         at = &(*at)->next) {
        if (*at == f) {
            *at = f->next;
            break;
        }
    }
    pthread_mutex_unlock(&ls->big.mutex);
    pins_remove(&f->pin);
    close(f->fd);
    free(f);
}

int big_fd(const struct big_file *f, off_t *offset)
{
    *offset = f->value_offset;
    return f->fd;
}

const _Atomic bool *big_revoked(const struct big_file *f)
{
    return &f->pin.revoked;
}

struct big_file *big_lookup(struct logstore *ls, uint64_t number)
{
    struct big_file *f;

    pthread_mutex_lock(&ls->big.mutex);
    f = ls->big.open[number % BIG_RECENT];
    while (f != NULL && (f->number != number || !try_ref(f)))
        f = f->next;
    pthread_mutex_unlock(&ls->big.mutex);
    return f;
}

/* Enters a file that has been opened, and keeps it open for the next reader in the place of another
 * one. False: its name has been removed meanwhile. */
static bool enter(struct logstore *ls, struct big_file *f)
{
    struct big_file **place = &ls->big.open[f->number % BIG_RECENT];
    struct big_file *old = NULL;
    bool is_there;

    pthread_mutex_lock(&ls->big.mutex);
    is_there = ls->big.removed[f->number % BIG_REMEMBERED] != f->number;
    if (is_there) {
        f->next = *place;
        *place = f;
        old = ls->big.recent[f->number % BIG_RECENT];
        (void)try_ref(f);
        ls->big.recent[f->number % BIG_RECENT] = f;
        ls->big.verified[f->number % BIG_REMEMBERED] = f->number;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    if (old != NULL)
        big_unref(old);
    return is_there;
}

void big_set_named(struct logstore *ls, uint64_t number, uint64_t bytes)
{
    pthread_mutex_lock(&ls->big.mutex);
    ls->big.verified[number % BIG_REMEMBERED] = number;
    pthread_mutex_unlock(&ls->big.mutex);
    atomic_fetch_add(&ls->big.files, 1);
    atomic_fetch_add(&ls->big.bytes, bytes);
}

static bool is_verified(struct logstore *ls, uint64_t number)
{
    bool verified;

    pthread_mutex_lock(&ls->big.mutex);
    verified = ls->big.verified[number % BIG_REMEMBERED] == number;
    pthread_mutex_unlock(&ls->big.mutex);
    return verified;
}

/* Takes over fd. 0; -ENOENT: the name has gone. */
static int adopt(struct logstore *ls, int fd, uint64_t number, off_t value_offset,
                 struct big_file **out)
{
    struct big_file *f = calloc(1, sizeof(*f));

    if (f == NULL) {
        close(fd);
        return -ENOMEM;
    }
    f->fd = fd;
    f->number = number;
    f->value_offset = value_offset;
    f->ls = ls;
    atomic_init(&f->refs, 1);
    if (!enter(ls, f)) {
        big_unref(f);
        return -ENOENT;
    }
    *out = f;
    return 0;
}

int big_open(struct logstore *ls, uint64_t number, uint64_t bytes, uint64_t sum,
             struct big_file **out)
{
    struct big_file *f = big_lookup(ls, number);
    char *path;
    off_t value_offset = 0;
    int fd;
    int rc;

    if (f != NULL) {
        *out = f;
        return 0;
    }
    path = big_final_path(ls, number);
    fd = path == NULL ? -ENOMEM : io_open(path, O_RDONLY, 0);
    rc = fd < 0 ? fd : check_front(ls, fd, number, bytes, sum, &value_offset);
    if (rc == 0 && !is_verified(ls, number))
        rc = check_body(fd, value_offset, bytes, sum);
    if (rc == 0)
        rc = adopt(ls, fd, number, value_offset, out);
    else if (fd >= 0)
        close(fd);
    if (rc != 0 && rc != -ENOENT) {
        atomic_fetch_add(&ls->damaged_reads, rc == -EUCLEAN);
        log_error("cannot read the big value in %s: %s", path == NULL ? ls->dir : path,
                  rc == -EUCLEAN ? "damaged" : strerror(-rc));
    }
    free(path);
    return rc;
}

/* ---- names that go ---- */

void big_will_go(struct logstore *ls, uint64_t number)
{
    struct big_file **recent = &ls->big.recent[number % BIG_RECENT];
    struct big_file *kept = NULL;

    pthread_mutex_lock(&ls->big.mutex);
    ls->big.removed[number % BIG_REMEMBERED] = number;
    if (*recent != NULL && (*recent)->number == number) {
        kept = *recent;
        *recent = NULL;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    if (kept != NULL)
        big_unref(kept);
}

void big_has_gone(struct logstore *ls, uint64_t number, uint64_t bytes)
{
    struct big_file *f = big_lookup(ls, number);

    /* Two that opened it at once may have one each: the bytes count once. */
    if (f == NULL)
        return;
    pins_add(&ls->pins, &f->pin, bytes);
    big_unref(f);
}

/* ---- figures ---- */

int big_stat(struct logstore *ls, struct buf *out)
{
    struct big *big = &ls->big;
    unsigned drafts;
    uint64_t draft_bytes;

    pthread_mutex_lock(&big->mutex);
    drafts = big->draft_count;
    draft_bytes = big->draft_bytes;
    pthread_mutex_unlock(&big->mutex);
    return buf_printf(out,
                      "big_files %" PRIu64 "\nbig_bytes %" PRIu64 "\nbig_overwritten_files %" PRIu64
                      "\nbig_overwritten_bytes %" PRIu64 "\nspools %u\nspooled_bytes %" PRIu64
                      "\nspool_max_bytes %" PRIu64 "\npinned_bytes %" PRIu64
                      "\npinned_files_revoked %" PRIu64 "\n",
                      atomic_load(&big->files), atomic_load(&big->bytes),
                      atomic_load(&big->gone_files), atomic_load(&big->gone_bytes), drafts,
                      draft_bytes, big_spool_cap(ls), atomic_load(&ls->pins.bytes),
                      atomic_load(&ls->pins.revoked));
}

/* ---- start and end ---- */

int big_init(struct logstore *ls)
{
    struct big *big = &ls->big;

    pthread_mutex_init(&big->mutex, NULL);
    pthread_cond_init(&big->idle, NULL);
    pins_init(&ls->pins,
              ls->config.pinned_max_bytes > 0 ? ls->config.pinned_max_bytes : PINS_CAP_DEFAULT);
    big->next_number = 1;
    big->gone_last = &big->gone_first;
    return 0;
}

void big_fini(struct logstore *ls)
{
    for (unsigned i = 0; i < BIG_RECENT; i++)
        if (ls->big.recent[i] != NULL)
            big_unref(ls->big.recent[i]);
    big_forget_gone(ls);
    pins_fini(&ls->pins);
    pthread_cond_destroy(&ls->big.idle);
    pthread_mutex_destroy(&ls->big.mutex);
}
