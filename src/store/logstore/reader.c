/*
 * reader.c - store_get(): from a key to its value, without waiting in the caller's loop.
 *
 * Provides: reader_get(), reader_load_record().
 * Used by:  ports (reader_get), writer and scans (reader_load_record, which waits for the disk).
 * Threads:  reader_get() and all that follows from it on the port's thread. No locks: the index is
 *           read inside grace, a segment that is needed longer is referenced.
 *
 * A small record is copied whole into the port's scratch memory (through the mapping if its pages
 * were seen in the page cache within the last second, else by a read that never waits) and checked.
 * Of a large one the head is read so, and its value is handed over as a piece of the file; unless
 * this process has neither written nor verified it: then it is read into memory and checked, once.
 * What is not in the page cache is read asynchronously.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/io.h"
#include "base/log.h"
#include "store/logstore/logstore.h"

/* Records up to this length are read whole; of longer ones first as much as LARGE_HEAD. */
#define SMALL_RECORD (STORE_INLINE_MAX + 4096u)
#define LARGE_HEAD 4096u
/* The index's pages may have to be read from the disk: no loop waits for that. */
#define NEED_INDEX INT64_MAX

_Static_assert(STORE_INLINE_MAX >= SEGMENT_VERIFY_BYTES, "one bit tells whether it was verified");

/* Bytes of a record, read from the disk, and then the result's memory. */
struct memory_hold {
    struct store_hold base;
    char bytes[];
};

/* A file that is being sent, and a copy of the key and attributes. */
struct file_hold {
    struct store_hold base;
    struct segment *segment;
    struct segment_file *file;
    struct big_file *big;
    char bytes[];
};

/* A read under way. */
struct read_state {
    struct aio_op op; /* first: completions come with it */
    struct logstore *ls;
    struct store_get *get;
    struct entry entry;
    struct segment *segment;
    struct segment_file *file;  /* NULL: closed, to be opened by the pool */
    struct memory_hold *memory; /* while the disk is read */
    int64_t need;               /* bytes of the record that are read next */
    struct big_file *big;
    bool wants_big;     /* the value lies in a file of its own that must be opened first */
    bool warmed;        /* the index's pages were read for this key */
    uint64_t lost_file; /* a file of a big value that was not there any more; 0: none */
};

/* ---- results ---- */

static void memory_release(struct store_hold *hold)
{
    free(hold);
}

static void file_release(struct store_hold *hold)
{
    struct file_hold *f = (struct file_hold *)hold;

    if (f->file != NULL)
        segment_file_unref(f->file);
    if (f->segment != NULL)
        segment_unref(f->segment);
    if (f->big != NULL)
        big_unref(f->big);
    free(f);
}

static int64_t damaged(struct read_state *r)
{
    atomic_fetch_add(&r->ls->damaged_reads, 1);
    log_error("damaged record in %s at offset %u (length %u)", r->segment->path, r->entry.offset,
              r->entry.length);
    return -EUCLEAN;
}

/* The value is sent from the segment's file, or from its own (`big`, a reference to which is taken
 * over). */
static int64_t result_file(struct read_state *r, struct big_file *big)
{
    struct store_get *get = r->get;
    struct record *rec = &get->rec;
    struct file_hold *hold = malloc(sizeof(*hold) + rec->key.len + rec->attrs.len);

    if (hold == NULL)
        return -ENOMEM;
    hold->base.release = file_release;
    hold->base.revoked = big == NULL ? &r->segment->pin.revoked : big_revoked(big);
    hold->segment = big == NULL ? r->segment : NULL;
    hold->file = big == NULL ? r->file : NULL;
    hold->big = big;
    if (rec->key.len > 0)
        memcpy(hold->bytes, rec->key.ptr, rec->key.len);
    if (rec->attrs.len > 0)
        memcpy(hold->bytes + rec->key.len, rec->attrs.ptr, rec->attrs.len);
    rec->key = slice_of(hold->bytes, rec->key.len);
    rec->attrs = slice_of(hold->bytes + rec->key.len, rec->attrs.len);
    rec->value = slice_of(NULL, 0);
    get->hold = hold;
    if (big == NULL) {
        segment_ref(r->segment);
        segment_file_ref(r->file);
        get->file_fd = r->file->fd;
    } else {
        get->file_fd = big_fd(big, &get->file_offset);
    }
    return 0;
}

/* The whole record is at hand in memory that others will use, and its value is too long for a
 * result that lives so briefly: copies it. */
static int64_t result_memory(struct read_state *r)
{
    struct store_get *get = r->get;
    struct record *rec = &get->rec;
    struct slice *const parts[] = {&rec->key, &rec->attrs, &rec->value};
    size_t len = rec->key.len + rec->attrs.len + rec->value.len;
    struct memory_hold *memory = malloc(sizeof(*memory) + len);
    char *at;

    if (memory == NULL)
        return -ENOMEM;
    memory->base = (struct store_hold){.release = memory_release};
    at = memory->bytes;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i]->len > 0)
            memcpy(at, parts[i]->ptr, parts[i]->len);
        parts[i]->ptr = at;
        at += parts[i]->len;
    }
    get->hold = &memory->base;
    return 0;
}

/* ---- looking at the bytes at hand ---- */

/* The index may name another key only where it holds hashes of long ones. */
static int64_t check_key(struct read_state *r)
{
    if (slice_equal(r->get->rec.key, r->get->key))
        return 0;
    return r->get->key.len > INDEX_KEY_MAX - 17 ? -ENOENT : damaged(r);
}

static int64_t examine_whole(struct read_state *r, struct slice bytes)
{
    size_t used;

    if (record_decode(r->ls->salt, bytes, &r->get->rec, &used) != RECORD_DONE)
        return damaged(r);
    if (r->get->rec.value.len > STORE_INLINE_MAX)
        segment_set_verified(r->segment, r->entry.offset);
    r->get->value_bytes = r->get->rec.value.len;
    return check_key(r);
}

/* Makes the result from the first bytes of the record. 0: done, or wants_big is set; > 0: so many
 * bytes of it are needed; -errno. */
static int64_t examine(struct read_state *r, struct slice bytes)
{
    struct store_get *get = r->get;
    struct record_layout layout;
    uint64_t meta_len;
    int64_t rc;

    if (record_decode_head(r->ls->salt, bytes, &get->rec, &layout) != RECORD_DONE)
        return damaged(r);
    if (record_layout_length(&layout) != r->entry.length)
        return damaged(r);
    meta_len = (uint64_t)layout.head_len + layout.key_len + layout.attrs_len;
    if (bytes.len < meta_len)
        return (int64_t)meta_len;
    if (bytes.len >= r->entry.length) {
        rc = examine_whole(r, slice_of(bytes.ptr, r->entry.length));
        if (rc == 0 && get->rec.big_bytes > 0) {
            get->value_bytes = get->rec.big_bytes;
            r->wants_big = !get->head_only;
        }
        return rc;
    }
    if (!get->head_only && (layout.value_len <= STORE_INLINE_MAX ||
                            !segment_is_trusted(r->segment, r->entry.offset, r->entry.length)))
        return r->entry.length;
    /* From here on the value is not looked at; the key and the head have been. */
    record_set_body(&get->rec, &layout, bytes.ptr + layout.head_len);
    get->rec.value = slice_of(NULL, 0);
    get->value_bytes = layout.value_len;
    rc = check_key(r);
    if (rc != 0 || get->head_only)
        return rc;
    get->file_offset = (off_t)(r->entry.offset + meta_len);
    return result_file(r, NULL);
}

/* ---- the end ---- */

static void set_status(struct read_state *r, int64_t rc)
{
    struct store_get *get = r->get;

    get->rec.expires_ms = r->entry.expires_ms;
    switch (rc) {
    case 0: get->status = STORE_OK; break;
    case -ENOENT: get->status = STORE_NOT_FOUND; break;
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE: get->status = STORE_NO_MEMORY; break;
    case -EUCLEAN: get->status = STORE_DAMAGED; break;
    default: get->status = STORE_IO_ERROR; break;
    }
}

/* Gives back what a look at the key has found. */
static void let_go(struct read_state *r)
{
    free(r->memory);
    if (r->file != NULL)
        segment_file_unref(r->file);
    if (r->segment != NULL)
        segment_unref(r->segment);
    r->memory = NULL;
    r->file = NULL;
    r->segment = NULL;
}

/* The end of a read that had to wait. */
static void finish(struct read_state *r, int64_t rc)
{
    struct store_get *get = r->get;

    if (rc == 0 && get->hold == NULL) {
        get->hold = r->memory;
        r->memory = NULL;
    }
    set_status(r, rc);
    let_go(r);
    free(r);
    get->port->pending--;
    get->done(get);
}

/* ---- waiting for the disk ---- */

static void look_again(struct read_state *r);

static void big_opened(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;
    int64_t rc = op->result;

    if (rc == -ENOENT) {
        /* Another record has taken this one's place, and its file has gone. */
        r->lost_file = r->get->rec.big_file;
        look_again(r);
        return;
    }
    if (rc == 0)
        rc = result_file(r, r->big);
    if (rc != 0 && r->big != NULL)
        big_unref(r->big);
    finish(r, rc);
}

static void open_big(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;
    const struct record *rec = &r->get->rec;

    r->big = NULL;
    op->result = big_open(r->ls, rec->big_file, rec->big_bytes, rec->big_sum, &r->big);
}

static void read_more(struct read_state *r, int64_t need);

static void bytes_read(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;
    int64_t rc = op->result;

    if (rc >= 0 && (size_t)rc < op->len)
        rc = damaged(r);
    if (rc >= 0)
        rc = examine(r, slice_of(r->memory->bytes, op->len));
    if (rc > 0) {
        read_more(r, rc);
    } else if (rc == 0 && r->wants_big) {
        op->done = big_opened;
        op->work = open_big;
        aio_submit_job(r->get->port->aio, op);
    } else {
        finish(r, rc);
    }
}

static void open_segment(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;

    op->result = segment_open(r->segment, &r->file);
    if (op->result != 0)
        r->file = NULL;
}

static void segment_opened(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;

    if (op->result == 0) {
        read_more(r, r->need);
        return;
    }
    log_error("cannot open %s: %s", r->segment->path, strerror((int)-op->result));
    finish(r, op->result);
}

/* Reads the first `need` bytes of the record into memory of the result's own. */
static void read_more(struct read_state *r, int64_t need)
{
    struct memory_hold *memory;

    if (r->file == NULL) {
        r->need = need;
        r->op = (struct aio_op){.done = segment_opened, .work = open_segment};
        aio_submit_job(r->get->port->aio, &r->op);
        return;
    }
    memory = realloc(r->memory, sizeof(*memory) + (size_t)need);
    if (memory == NULL) {
        finish(r, -ENOMEM);
        return;
    }
    memory->base = (struct store_hold){.release = memory_release};
    r->memory = memory;
    r->op = (struct aio_op){.done = bytes_read,
                            .fd = r->file->fd,
                            .buf = memory->bytes,
                            .len = (size_t)need,
                            .offset = r->entry.offset};
    aio_read(r->get->port->aio, &r->op);
}

/* The record was read, but into scratch memory: the job reads the numbers from get->rec, and the
 * slices are brought to safety by a copy. */
static void open_big_soon(struct read_state *r)
{
    struct store_get *get = r->get;

    r->memory = malloc(sizeof(*r->memory) + get->rec.key.len + get->rec.attrs.len);
    r->op = (struct aio_op){.done = big_opened, .work = open_big};
    if (r->memory != NULL) {
        char *p = r->memory->bytes;

        if (get->rec.key.len > 0)
            memcpy(p, get->rec.key.ptr, get->rec.key.len);
        if (get->rec.attrs.len > 0)
            memcpy(p + get->rec.key.len, get->rec.attrs.ptr, get->rec.attrs.len);
        get->rec.key = slice_of(p, get->rec.key.len);
        get->rec.attrs = slice_of(p + get->rec.key.len, get->rec.attrs.len);
    } else {
        get->rec.key = get->rec.attrs = slice_of(NULL, 0);
    }
    aio_submit_job(get->port->aio, &r->op);
}

static void warm_index(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;

    index_cold_read(&r->ls->index_cold, r->ls->index, r->get->key);
}

static void index_warmed(struct aio_op *op)
{
    struct read_state *r = (struct read_state *)op;

    r->warmed = true;
    look_again(r);
}

/* Goes on with what attempt() has said. */
static void go_on(struct read_state *r, int64_t rc)
{
    if (rc <= 0) {
        finish(r, rc);
    } else if (rc == NEED_INDEX) {
        r->op = (struct aio_op){.done = index_warmed, .work = warm_index};
        aio_submit_job(r->get->port->aio, &r->op);
    } else if (r->wants_big) {
        open_big_soon(r);
    } else {
        read_more(r, rc);
    }
}

/* ---- the quick path ---- */

/* The first `len` bytes of the record, if they can be had without waiting. */
static bool fetch_now(const struct read_state *r, char *scratch, size_t len, uint16_t second)
{
    if (segment_copy_mapped(r->file, r->entry.offset, len, scratch, second))
        return true;
    if (aio_read_cached(r->file->fd, scratch, len, r->entry.offset) != (ssize_t)len)
        return false;
    segment_proved(r->file, r->entry.offset, len, second);
    return true;
}

/* Inside grace. 0: the result is there; > 0: so many bytes must be waited for; -errno. */
static int64_t read_now(struct read_state *r, char *scratch, int64_t now_ms)
{
    uint16_t second = (uint16_t)(now_ms / 1000 % UINT16_MAX + 1);
    int64_t need = r->entry.length <= SMALL_RECORD ? r->entry.length : LARGE_HEAD;

    do {
        size_t len = (size_t)need;

        if (r->file == NULL || len > PORT_SCRATCH || !fetch_now(r, scratch, len, second))
            return need;
        need = examine(r, slice_of(scratch, len));
    } while (need > 0);
    if (need == 0 && !r->get->head_only && r->get->hold == NULL &&
        r->get->rec.value.len > STORE_INLINE_MAX)
        return result_memory(r);
    if (need == 0 && r->wants_big) {
        struct big_file *big = big_lookup(r->ls, r->get->rec.big_file);

        if (big == NULL)
            return LARGE_HEAD;
        r->wants_big = false;
        need = result_file(r, big);
        if (need != 0)
            big_unref(big);
    }
    return need;
}

/* Finds the key's entry and its segment. 0, NEED_INDEX or -errno. */
static int64_t find(struct read_state *r, struct logstore_port *p, int64_t now_ms)
{
    struct logstore *ls = r->ls;
    struct store_get *get = r->get;
    uint64_t visible = atomic_load_explicit(&ls->marks.visible_seq, memory_order_acquire);
    int rc;

    if (!keyspace_find_new(ls, hash_slice(get->key), get->key, visible, &r->entry)) {
        if (!r->warmed && index_cold_is(&ls->index_cold))
            return NEED_INDEX;
        rc = index_find(p->reader, get->key, &r->entry);
        if (rc != 0)
            return rc;
    }
    if (!keyspace_is_live(ls, &r->entry, now_ms, &get->expired))
        return -ENOENT;
    if (r->lost_file != 0 && r->entry.big_bytes > 0 && r->entry.big_file == r->lost_file) {
        log_error("the file of a big value, number %016" PRIx64 ", is missing in %s", r->lost_file,
                  ls->dir);
        atomic_fetch_add(&ls->damaged_reads, 1);
        return -EUCLEAN;
    }
    r->segment =
        segment_find(atomic_load_explicit(&ls->segments, memory_order_acquire), r->entry.segment);
    if (r->segment == NULL) {
        log_error("the index of %s names segment %u, which does not exist", ls->dir,
                  r->entry.segment);
        return -EUCLEAN;
    }
    r->file = segment_peek(r->segment);
    return 0;
}

/* Looks the key up and reads what can be had at once. 0: the result is there; > 0: so many bytes of
 * the record must be waited for, its segment and file are referenced; NEED_INDEX; -errno. */
static int64_t attempt(struct read_state *r)
{
    struct logstore *ls = r->ls;
    struct logstore_port *p = (struct logstore_port *)r->get->port;
    int64_t now_ms = keyspace_now_ms(ls);
    int64_t rc;

    r->wants_big = false;
    r->segment = NULL;
    r->file = NULL;
    grace_enter(&ls->grace, &p->grace);
    rc = find(r, p, now_ms);
    if (rc == 0)
        rc = read_now(r, p->scratch, now_ms);
    if (rc > 0 && rc != NEED_INDEX) {
        segment_ref(r->segment);
        if (r->file != NULL)
            segment_file_ref(r->file);
    } else {
        r->segment = NULL;
        r->file = NULL;
    }
    grace_leave(&p->grace);
    return rc;
}

static void look_again(struct read_state *r)
{
    let_go(r);
    go_on(r, attempt(r));
}

bool reader_get(struct store_port *port, struct store_get *get)
{
    struct logstore_port *p = (struct logstore_port *)port;
    struct logstore *ls = logstore_of(port->store);
    struct read_state fast; /* set field by field: most of it is for reads that wait */
    struct read_state *r;
    int64_t rc = 0;

    get->port = port;
    get->hold = NULL;
    get->file_fd = -1;
    get->cold = get->expired = false;
    fast.ls = ls;
    fast.get = get;
    fast.memory = NULL;
    fast.warmed = false;
    fast.lost_file = 0;
    fast.entry.expires_ms = 0;
    if (p->reader == NULL)
        rc = atomic_load(&ls->state) == STORE_SERVING ? index_reader_open(ls->index, &p->reader)
                                                      : -EAGAIN;
    if (rc == 0)
        rc = attempt(&fast);
    r = rc > 0 ? malloc(sizeof(*r)) : NULL;
    if (rc > 0 && r == NULL) {
        let_go(&fast);
        rc = -ENOMEM;
    }
    if (rc <= 0) {
        set_status(&fast, rc);
        return true;
    }
    *r = fast;
    get->cold = true;
    get->port->pending++;
    go_on(r, rc);
    return false;
}

/* ---- with waiting ---- */

int reader_load_record(struct logstore *ls, const struct entry *e, struct record *out, void **owned)
{
    struct segment *s = log_hold_segment(ls, e->segment);
    size_t room = e->length > 0 ? e->length : RECORD_HEAD_MAX + RECORD_KEY_MAX;
    char *memory = malloc(room);
    size_t used;
    ssize_t len;
    int rc = s == NULL ? -EUCLEAN : memory == NULL ? -ENOMEM : 0;

    if (rc == 0) {
        len = segment_read(s, memory, room, e->offset);
        if (len < 0)
            rc = (int)len;
        else if (record_decode(ls->salt, slice_of(memory, (size_t)len), out, &used) != RECORD_DONE)
            rc = -EUCLEAN;
    }
    if (rc != 0) {
        log_error("cannot read the record in segment %u at offset %u: %s", e->segment, e->offset,
                  rc == -EUCLEAN ? "damaged" : strerror(-rc));
        free(memory);
        memory = NULL;
    }
    if (s != NULL)
        segment_unref(s);
    *owned = memory;
    return rc;
}
