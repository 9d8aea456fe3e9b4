/*
 * big.c - values above STORE_SPOOL_MIN: each in a file of its own, named by a small record in the
 * log.
 *
 * Provides: store_spool_*() (through the engine), big_*() of logstore.h.
 * Used by:  sessions (spool as the bytes arrive), writer (names the file, or writes one itself),
 *           reader (opens).
 * Threads:  a spool belongs to its port's thread; its file work runs on pool threads, one job at a
 *           time. struct big_file is shared by references.
 * Locks:    big.mutex, for moments.
 *
 * The file has the format of a segment with one record (docs/format.md, "Big values"). It is
 * written as tmp/spool-N, synced, renamed to big/N.val, the directory synced; only then does the
 * writer append the record that names it.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "base/num.h"
#include "store/logstore/logstore.h"

#define VERIFY_PIECE (1024u * 1024)
/* Uploads at a time: each holds a descriptor beside its connection's, out of the 500 that the limit
 * on connections leaves to everything else. */
#define SPOOLS_MAX 400
#define COMPLAINT_MS 10000
/* Holds a file's bytes up to the end of its key. */
#define FRONT_ROOM (SEGMENT_HEADER_FIXED + RECORD_HEAD_MAX + RECORD_KEY_MAX)

struct big_file {
    _Atomic uint32_t refs;
    int fd;
    uint64_t number;
    off_t value_offset;
};

struct spool_piece {
    struct spool_piece *next;
    size_t len;
    char data[STORE_SPOOL_PIECE];
};

struct store_spool {
    struct aio_op op; /* first: completions come with it */
    struct logstore *ls;
    struct store_port *port;
    struct store_spool *next; /* big.spools */
    struct store_spool **at;
    void (*on_room)(void *arg);
    void *arg;
    uint64_t number;
    int fd;
    int error;    /* 0 or the first -errno */
    bool running; /* a job is under way */
    bool abandoned;
    bool was_full; /* somebody waits for on_room() */
    /* the write that this value belongs to, once the body is complete */
    struct store_write *finish;
    struct spool_piece *first; /* to be written, oldest first */
    struct spool_piece **last;
    uint64_t added;   /* bytes taken */
    uint64_t written; /* bytes on the file */
    struct hash_stream *sum;
    uint64_t value_offset;
    size_t key_len;
    size_t attrs_len;
    char meta[]; /* key, attributes */
};

/* ---- names ---- */

static char *final_path(const struct logstore *ls, uint64_t number)
{
    char *path;

    return asprintf(&path, "%s/big/%016" PRIx64 ".val", ls->dir, number) == -1 ? NULL : path;
}

static char *spool_path(const struct logstore *ls, uint64_t number)
{
    char *path;

    return asprintf(&path, "%s/tmp/spool-%016" PRIx64, ls->dir, number) == -1 ? NULL : path;
}

static void remove_path(char *path)
{
    if (path != NULL)
        (void)io_unlink(path);
    free(path);
}

/* ---- the head of the file ---- */

/* Segment header, record head, key and attributes, up to the value. Returns the length, 0 without
 * memory. */
static size_t encode_front(const struct logstore *ls, uint64_t number, struct slice key,
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

static uint64_t front_length(size_t key_len, size_t attrs_len)
{
    return (uint64_t)SEGMENT_HEADER_FIXED + RECORD_HEAD_FIXED + key_len + attrs_len;
}

/* ---- spooling ---- */

static void spool_unlink_list(struct store_spool *s)
{
    pthread_mutex_lock(&s->ls->big.mutex);
    *s->at = s->next;
    if (s->next != NULL)
        s->next->at = s->at;
    s->ls->big.spool_count--;
    pthread_mutex_unlock(&s->ls->big.mutex);
}

/* Gives the spool a number and enters it among those under way. False: there are too many. */
static bool spool_enter(struct store_spool *s)
{
    struct logstore *ls = s->ls;
    bool room;

    pthread_mutex_lock(&ls->big.mutex);
    room = ls->big.spool_count < SPOOLS_MAX;
    if (room) {
        ls->big.spool_count++;
        s->number = ls->big.next_number++;
        s->next = ls->big.spools;
        if (s->next != NULL)
            s->next->at = &s->next;
        s->at = &ls->big.spools;
        ls->big.spools = s;
    }
    pthread_mutex_unlock(&ls->big.mutex);
    return room;
}

static void spool_free(struct store_spool *s)
{
    while (s->first != NULL) {
        struct spool_piece *next = s->first->next;

        free(s->first);
        s->first = next;
    }
    spool_unlink_list(s);
    if (s->fd >= 0)
        close(s->fd);
    hash_stream_free(s->sum);
    free(s);
}

/* Without a file yet. NULL: no memory. */
static struct store_spool *spool_new(struct store_port *port, struct slice key, struct slice attrs)
{
    struct store_spool *s = calloc(1, sizeof(*s) + key.len + attrs.len);

    if (s == NULL)
        return NULL;
    s->ls = logstore_of(port->store);
    s->port = port;
    s->fd = -1;
    s->last = &s->first;
    s->key_len = key.len;
    s->attrs_len = attrs.len;
    s->value_offset = front_length(key.len, attrs.len);
    if (key.len > 0)
        memcpy(s->meta, key.ptr, key.len);
    if (attrs.len > 0)
        memcpy(s->meta + key.len, attrs.ptr, attrs.len);
    return s;
}

/* Every upload may fail while the disk is full: once in a while is enough to know. */
static void say_no_file(struct logstore *ls, int rc)
{
    int64_t now = clock_mono_ms();
    bool say;

    pthread_mutex_lock(&ls->big.mutex);
    say = ls->big.complained_ms == 0 || now - ls->big.complained_ms >= COMPLAINT_MS;
    if (say)
        ls->big.complained_ms = now;
    pthread_mutex_unlock(&ls->big.mutex);
    if (say)
        log_error("cannot make a file for a big value in %s/tmp: %s", ls->dir, strerror(-rc));
}

int big_spool_open(struct store_port *port, struct slice key, struct slice attrs,
                   uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                   struct store_spool **out)
{
    struct logstore *ls = logstore_of(port->store);
    struct store_spool *s;
    char *path;

    (void)value_bytes; /* of use once the space of all spools is bounded */
    if (atomic_load(&ls->read_only))
        return -EROFS;
    s = spool_new(port, key, attrs);
    if (s == NULL || !spool_enter(s)) {
        free(s);
        return -ENOMEM;
    }
    s->on_room = on_room;
    s->arg = arg;
    s->sum = hash_stream_new();
    path = spool_path(ls, s->number);
    s->fd =
        path == NULL || s->sum == NULL ? -ENOMEM : io_open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    free(path);
    if (s->fd < 0) {
        int rc = s->fd;

        say_no_file(ls, rc);
        spool_free(s);
        return rc;
    }
    hash_stream_add(s->sum, s->meta, key.len + attrs.len);
    *out = s;
    return 0;
}

static void next_job(struct store_spool *s);

/* Pool thread: one piece. */
static void write_piece(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct spool_piece *piece = s->first;

    op->result =
        io_write_full(s->fd, piece->data, piece->len, (off_t)(s->value_offset + s->written));
    hash_stream_add(s->sum, piece->data, piece->len);
}

static void piece_written(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct spool_piece *piece = s->first;

    s->written += piece->len;
    s->first = piece->next;
    if (s->first == NULL)
        s->last = &s->first;
    free(piece);
    if (op->result != 0 && s->error == 0) {
        s->error = (int)op->result;
        log_error("cannot write a big value in %s/tmp: %s", s->ls->dir, strerror(-s->error));
    }
    s->running = false;
    s->port->pending--;
    next_job(s);
}

/* Pool thread: the front of the file, sync, name. */
static void settle_file(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct logstore *ls = s->ls;
    char *front = NULL;
    char *from = spool_path(ls, s->number);
    char *to = final_path(ls, s->number);
    char *dir = directory_path(ls, "big");
    size_t len = encode_front(ls, s->number, slice_of(s->meta, s->key_len),
                              slice_of(s->meta + s->key_len, s->attrs_len), s->written,
                              hash_stream_sum(s->sum), &front);
    int rc = s->error;

    if (rc == 0 && (len == 0 || from == NULL || to == NULL || dir == NULL))
        rc = -ENOMEM;
    if (rc == 0)
        rc = io_write_full(s->fd, front, len, 0);
    if (rc == 0 && ls->config.sync != STORE_SYNC_OS)
        rc = io_fdatasync(s->fd);
    if (rc == 0)
        rc = io_rename(from, to);
    if (rc == 0)
        rc = io_sync_dir(dir);
    if (rc != 0 && s->error == 0)
        log_error("cannot settle a big value in %s/big: %s", ls->dir, strerror(-rc));
    op->result = rc;
    free(front);
    free(from);
    free(to);
    free(dir);
}

static enum store_status spool_status(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT ? STORE_NO_SPACE
           : rc == -ENOMEM                ? STORE_NO_MEMORY
           : rc == -EROFS                 ? STORE_READ_ONLY
                                          : STORE_IO_ERROR;
}

static void file_settled(struct aio_op *op)
{
    struct store_spool *s = (struct store_spool *)op;
    struct store_write *w = s->finish;

    s->running = false;
    s->port->pending--;
    if (op->result == 0) {
        w->next = NULL;
        writer_hand_over(s->ls, w, w, 1);
        return;
    }
    w->status = spool_status((int)op->result);
    w->spool = NULL;
    big_spool_end(s, false);
    store_write_finish(&w, 1);
}

static void start_job(struct store_spool *s, void (*work)(struct aio_op *),
                      void (*done)(struct aio_op *))
{
    s->running = true;
    s->port->pending++;
    s->op.work = work;
    s->op.done = done;
    aio_submit_job(s->port->aio, &s->op);
}

/* After a job, or when there is new work. */
static void next_job(struct store_spool *s)
{
    bool whole = s->first != NULL && (s->first->next != NULL || s->finish != NULL ||
                                      s->first->len == STORE_SPOOL_PIECE);

    if (s->running)
        return;
    if (s->abandoned) {
        big_spool_end(s, false);
        return;
    }
    if (whole && s->error == 0)
        start_job(s, write_piece, piece_written);
    else if (s->finish != NULL)
        start_job(s, settle_file, file_settled);
    if (s->was_full && !store_spool_full(s)) {
        s->was_full = false;
        s->on_room(s->arg);
    }
}

int store_spool_add(struct store_spool *s, struct slice bytes)
{
    if (s->error != 0)
        return s->error;
    while (bytes.len > 0) {
        struct spool_piece *piece = s->first;
        size_t room;
        size_t n;

        while (piece != NULL && piece->next != NULL)
            piece = piece->next;
        if (piece == NULL || piece->len == STORE_SPOOL_PIECE || (s->running && piece == s->first)) {
            piece = malloc(sizeof(*piece));
            if (piece == NULL)
                return -ENOMEM;
            piece->next = NULL;
            piece->len = 0;
            *s->last = piece;
            s->last = &piece->next;
        }
        room = STORE_SPOOL_PIECE - piece->len;
        n = bytes.len < room ? bytes.len : room;
        memcpy(piece->data + piece->len, bytes.ptr, n);
        piece->len += n;
        s->added += n;
        bytes = slice_after(bytes, n);
    }
    next_job(s);
    return 0;
}

bool store_spool_full(const struct store_spool *s)
{
    bool full = s->error == 0 && s->added - s->written >= 2 * STORE_SPOOL_PIECE;

    if (full)
        ((struct store_spool *)(uintptr_t)s)->was_full = true;
    return full;
}

uint64_t store_spool_bytes(const struct store_spool *s)
{
    return s->added;
}

void store_spool_abandon(struct store_spool *s)
{
    s->abandoned = true;
    next_job(s);
}

void big_finish_write(struct logstore *ls, struct store_write *w)
{
    assert(w->spool->ls == ls);
    w->spool->finish = w;
    next_job(w->spool);
}

/* ---- for the writer ---- */

void big_spool_describe(const struct store_spool *s, struct record *r)
{
    r->big_file = s->number;
    r->big_bytes = s->written;
    r->big_sum = hash_stream_sum(s->sum);
}

static void mark_verified(struct logstore *ls, uint64_t number)
{
    pthread_mutex_lock(&ls->big.mutex);
    ls->big.verified[number % 4096] = number;
    pthread_mutex_unlock(&ls->big.mutex);
}

void big_spool_end(struct store_spool *s, bool keep)
{
    if (keep && s->written > 0) {
        mark_verified(s->ls, s->number);
    } else { /* an empty value needs no file, the record says it all */
        remove_path(spool_path(s->ls, s->number));
        if (s->finish != NULL)
            remove_path(final_path(s->ls, s->number));
    }
    spool_free(s);
}

/* Adds a part at the file's present end and to the sum. */
static int add_part(int fd, uint64_t *at, struct hash_stream *sum, struct slice part)
{
    int rc = part.len == 0 ? 0 : io_write_full(fd, part.ptr, part.len, (off_t)*at);

    hash_stream_add(sum, part.ptr, part.len);
    *at += part.len;
    return rc;
}

int big_write_now(struct logstore *ls, struct slice key, struct slice attrs,
                  const struct slice pieces[2], struct record *r)
{
    struct hash_stream *sum = hash_stream_new();
    uint64_t at = front_length(key.len, attrs.len);
    char *from;
    char *to;
    char *front = NULL;
    char *dir = directory_path(ls, "big");
    size_t len;
    int fd;
    int rc;

    pthread_mutex_lock(&ls->big.mutex);
    r->big_file = ls->big.next_number++;
    pthread_mutex_unlock(&ls->big.mutex);
    from = spool_path(ls, r->big_file);
    to = final_path(ls, r->big_file);
    fd = from == NULL || to == NULL || sum == NULL || dir == NULL
             ? -ENOMEM
             : io_open(from, O_RDWR | O_CREAT | O_EXCL, 0640);
    rc = fd < 0 ? fd : 0;
    if (rc == 0) {
        hash_stream_add(sum, key.ptr, key.len);
        hash_stream_add(sum, attrs.ptr, attrs.len);
        rc = add_part(fd, &at, sum, pieces[0]);
    }
    if (rc == 0)
        rc = add_part(fd, &at, sum, pieces[1]);
    r->big_bytes = pieces[0].len + pieces[1].len;
    if (rc == 0) {
        r->big_sum = hash_stream_sum(sum);
        len = encode_front(ls, r->big_file, key, attrs, r->big_bytes, r->big_sum, &front);
        rc = len == 0 ? -ENOMEM : io_write_full(fd, front, len, 0);
    }
    if (rc == 0 && ls->config.sync != STORE_SYNC_OS)
        rc = io_fdatasync(fd);
    if (rc == 0)
        rc = io_rename(from, to);
    if (rc == 0)
        rc = io_sync_dir(dir);
    if (fd >= 0)
        close(fd);
    if (rc == 0) {
        mark_verified(ls, r->big_file);
    } else if (fd >= 0) {
        (void)io_unlink(from);
        (void)io_unlink(to);
    }
    free(front);
    free(from);
    free(to);
    free(dir);
    hash_stream_free(sum);
    return rc;
}

/* ---- reading ---- */

static struct big_file *big_ref(struct big_file *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void big_unref(struct big_file *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    close(f->fd);
    free(f);
}

int big_fd(const struct big_file *f, off_t *offset)
{
    *offset = f->value_offset;
    return f->fd;
}

struct big_file *big_lookup(struct logstore *ls, uint64_t number)
{
    struct big_file *f;

    pthread_mutex_lock(&ls->big.mutex);
    f = ls->big.open[number % 64];
    f = f != NULL && f->number == number ? big_ref(f) : NULL;
    pthread_mutex_unlock(&ls->big.mutex);
    return f;
}

/* Keeps it open for the next reader, in the place of another. */
static void remember(struct logstore *ls, struct big_file *f)
{
    struct big_file *old;

    pthread_mutex_lock(&ls->big.mutex);
    old = ls->big.open[f->number % 64];
    ls->big.open[f->number % 64] = big_ref(f);
    ls->big.verified[f->number % 4096] = f->number;
    pthread_mutex_unlock(&ls->big.mutex);
    if (old != NULL)
        big_unref(old);
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
    ssize_t len = front == NULL ? -ENOMEM : io_read_upto(fd, front, room, 0);
    int rc = len < 0 ? (int)len : 0;

    if (rc == 0 &&
        (segment_header_decode(slice_of(front, (size_t)len), &h, &start) != RECORD_DONE ||
         record_decode_head(ls->salt, slice_of(front + start, (size_t)len - start), &r, &layout) !=
             RECORD_DONE ||
         !h.big_value || h.number != number || layout.value_len != bytes || layout.body_sum != sum))
        rc = -EUCLEAN;
    if (rc == 0)
        *value_offset =
            (off_t)(start + layout.head_len + layout.key_len + (uint64_t)layout.attrs_len);
    free(front);
    return rc;
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

int big_open(struct logstore *ls, uint64_t number, uint64_t bytes, uint64_t sum,
             struct big_file **out)
{
    struct big_file *f = big_lookup(ls, number);
    char *path;
    off_t value_offset = 0;
    bool verified;
    int fd;
    int rc;

    if (f != NULL) {
        *out = f;
        return 0;
    }
    pthread_mutex_lock(&ls->big.mutex);
    verified = ls->big.verified[number % 4096] == number;
    pthread_mutex_unlock(&ls->big.mutex);
    path = final_path(ls, number);
    fd = path == NULL ? -ENOMEM : io_open(path, O_RDONLY, 0);
    rc = fd < 0 ? fd : check_front(ls, fd, number, bytes, sum, &value_offset);
    if (rc == -ENOENT) /* the record is there, its value is not */
        rc = -EUCLEAN;
    if (rc == 0 && !verified)
        rc = check_body(fd, value_offset, bytes, sum);
    f = rc == 0 ? malloc(sizeof(*f)) : NULL;
    if (rc == 0 && f == NULL)
        rc = -ENOMEM;
    if (rc != 0) {
        atomic_fetch_add(&ls->damaged_reads, rc == -EUCLEAN);
        log_error("cannot read the big value in %s: %s", path == NULL ? ls->dir : path,
                  rc == -EUCLEAN ? "damaged" : strerror(-rc));
        if (fd >= 0)
            close(fd);
    } else {
        *f = (struct big_file){.fd = fd, .number = number, .value_offset = value_offset};
        atomic_init(&f->refs, 1);
        remember(ls, f);
        *out = f;
    }
    free(path);
    return rc;
}

/* ---- start and end ---- */

int big_init(struct logstore *ls)
{
    pthread_mutex_init(&ls->big.mutex, NULL);
    ls->big.next_number = 1;
    return 0;
}

void big_fini(struct logstore *ls)
{
    for (unsigned i = 0; i < 64; i++)
        if (ls->big.open[i] != NULL)
            big_unref(ls->big.open[i]);
    pthread_mutex_destroy(&ls->big.mutex);
}

uint64_t big_first_unsettled(struct logstore *ls)
{
    uint64_t first;

    pthread_mutex_lock(&ls->big.mutex);
    first = ls->big.next_number;
    for (struct store_spool *s = ls->big.spools; s != NULL; s = s->next)
        if (s->number < first)
            first = s->number;
    pthread_mutex_unlock(&ls->big.mutex);
    return first;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Calls each(name) for every file of DIR/sub. 0 or -errno. */
static int walk_dir(struct logstore *ls, const char *sub,
                    void (*each)(const char *path, const char *name, void *arg), void *arg)
{
    char *path = directory_path(ls, sub);
    DIR *dir = path == NULL ? NULL : opendir(path);
    struct dirent *entry;
    int rc = path == NULL ? -ENOMEM : dir == NULL ? -errno : 0;

    while (dir != NULL && rc == 0 && (entry = readdir(dir)) != NULL) {
        char *file;

        if (entry->d_name[0] == '.')
            continue;
        if (asprintf(&file, "%s/%s", path, entry->d_name) == -1) {
            rc = -ENOMEM;
            break;
        }
        each(file, entry->d_name, arg);
        free(file);
    }
    if (dir != NULL)
        closedir(dir);
    free(path);
    return rc;
}

static void remove_spool(const char *path, const char *name, void *arg)
{
    (void)arg;
    if (strncmp(name, "spool-", 6) == 0)
        (void)io_unlink(path);
}

/* ---- files that no record names ---- */

struct orphan_search {
    struct logstore *ls;
    uint64_t first;
    const uint64_t *named; /* ascending */
    size_t count;
    uint64_t highest;
};

/* The key in the front of a file; its bytes lie in `room` (FRONT_ROOM bytes). 0, -EUCLEAN or
 * -errno. */
static int read_key(const struct logstore *ls, const char *path, char *room, struct slice *key)
{
    struct segment_header h;
    struct record_layout layout;
    struct record r;
    size_t start;
    ssize_t len;
    int fd = io_open(path, O_RDONLY, 0);

    if (fd < 0)
        return fd;
    len = io_read_upto(fd, room, FRONT_ROOM, 0);
    close(fd);
    if (len < 0)
        return (int)len;
    if (segment_header_decode(slice_of(room, (size_t)len), &h, &start) != RECORD_DONE ||
        record_decode_head(ls->salt, slice_of(room + start, (size_t)len - start), &r, &layout) !=
            RECORD_DONE ||
        start + layout.head_len + layout.key_len > (size_t)len)
        return -EUCLEAN;
    *key = slice_of(room + start + layout.head_len, layout.key_len);
    return 0;
}

/* Does the record of this entry name the file? 1, 0 or -errno. */
static int entry_names(struct logstore *ls, const struct entry *e, uint64_t number)
{
    struct segment *s = log_hold_segment(ls, e->segment);
    char head[RECORD_HEAD_MAX];
    struct record_layout layout;
    struct record r;
    ssize_t len;

    if (s == NULL)
        return -EUCLEAN;
    len = io_read_upto(s->fd, head, sizeof(head), e->offset);
    segment_unref(s);
    if (len < 0)
        return (int)len;
    if (record_decode_head(ls->salt, slice_of(head, (size_t)len), &r, &layout) != RECORD_DONE)
        return -EUCLEAN;
    return r.big_bytes > 0 && r.big_file == number;
}

/* Does the present record of the file's key name it? 1, 0 or -errno. */
static int is_in_use(struct logstore *ls, const char *path, uint64_t number)
{
    char *room = malloc(FRONT_ROOM);
    struct slice key;
    struct entry e;
    int rc = room == NULL ? -ENOMEM : read_key(ls, path, room, &key);

    if (rc == 0)
        rc = keyspace_find(ls, ls->writer_reader, hash_slice(key), key, UINT64_MAX, &e);
    free(room);
    if (rc == 0)
        rc = entry_names(ls, &e, number);
    return rc == -ENOENT ? 0 : rc;
}

/* A file that no replayed record names was left by a crash, or its record lies before the replay's
 * begin: a value with a lower number was still on its way at that checkpoint. The index knows. */
static void check_big(const char *path, const char *name, void *arg)
{
    struct orphan_search *o = arg;
    uint64_t number;
    int used;

    if (strlen(name) != 20 || strcmp(name + 16, ".val") != 0 ||
        !parse_hex_u64(slice_of(name, 16), &number))
        return;
    if (number > o->highest)
        o->highest = number;
    if (number < o->first || (o->count > 0 && bsearch(&number, o->named, o->count, sizeof(number),
                                                      compare_numbers) != NULL))
        return;
    used = is_in_use(o->ls, path, number);
    if (used < 0) {
        log_warn("cannot tell whether %s belongs to a record: %s; it is left alone", path,
                 used == -EUCLEAN ? "it is damaged" : strerror(-used));
    } else if (used == 0) {
        log_info("removing %s: its write was not completed before the last stop", path);
        (void)io_unlink(path);
    }
}

int big_recover(struct logstore *ls, uint64_t first, uint64_t *named, size_t count)
{
    struct orphan_search o = {ls, first, named, count, 0};
    int rc = walk_dir(ls, "tmp", remove_spool, NULL);

    if (count > 0)
        qsort(named, count, sizeof(named[0]), compare_numbers);
    if (rc == 0)
        rc = walk_dir(ls, "big", check_big, &o);
    if (count > 0 && named[count - 1] > o.highest)
        o.highest = named[count - 1];
    ls->big.next_number = o.highest >= first ? o.highest + 1 : first;
    return rc;
}
