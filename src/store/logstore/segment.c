/*
 * segment.c - segment headers, open files, mappings. See segment.h.
 */
#include "store/logstore/segment.h"

#include <assert.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/io.h"
#include "store/logstore/segment_cache.h"

/* Offsets in the header. The checksum covers everything behind itself up to the header's length. */
enum {
    OFF_MAGIC = 0,
    OFF_SUM = 8,
    OFF_LENGTH = 16,
    OFF_FORMAT = 20,
    OFF_NUMBER = 24,
    OFF_BITS = 32,
    OFF_VECTORS_LEN = 36,
    OFF_UUID = 40,
    OFF_HISTORY = 56,
    OFF_FIRST_SEQ = 64,
    OFF_PREVIOUS_NUMBER = 72,
    OFF_PREVIOUS_END = 80,
    OFF_PREVIOUS_SEQ = 88,
    OFF_CREATED = 96,
    OFF_CLOCK = 104,
    OFF_LET_GO = 112,
    OFF_FLUSH = 120,
    OFF_FLUSH_PENDING = 134,
    OFF_FLUSH_PENDING_MS = 148,
    OFF_LAST_SEQ = 156,
    OFF_CLEAN_SEQ = 164,
    OFF_END = 172,
    OFF_RESERVED = 180,
};

#define SEGMENT_BIT_BIG 1u
#define SEGMENT_BIT_COMPACTED 2u

/* How long a page that was seen in the page cache is believed to be there. The rest of the risk is
 * one fault. */
#define PROOF_SECONDS 2

static const char segment_magic[8] = {'T', 'T', 'S', 'E', 'G', 'M', '0', '1'};

size_t segment_header_encode(const struct segment_header *h, unsigned char *out)
{
    size_t length = SEGMENT_HEADER_FIXED + h->vectors.len;

    memset(out, 0, SEGMENT_HEADER_FIXED);
    memcpy(out + OFF_MAGIC, segment_magic, sizeof(segment_magic));
    put_u32le(out + OFF_LENGTH, (uint32_t)length);
    put_u32le(out + OFF_FORMAT, SEGMENT_FORMAT);
    put_u64le(out + OFF_NUMBER, h->number);
    put_u32le(out + OFF_BITS,
              (h->big_value ? SEGMENT_BIT_BIG : 0) | (h->compacted ? SEGMENT_BIT_COMPACTED : 0));
    put_u32le(out + OFF_VECTORS_LEN, (uint32_t)h->vectors.len);
    memcpy(out + OFF_UUID, h->store_uuid, sizeof(h->store_uuid));
    put_u64le(out + OFF_HISTORY, h->history);
    put_u64le(out + OFF_FIRST_SEQ, h->first_seq);
    put_u64le(out + OFF_PREVIOUS_NUMBER, h->previous_number);
    put_u64le(out + OFF_PREVIOUS_END, h->previous_end);
    put_u64le(out + OFF_PREVIOUS_SEQ, h->previous_seq);
    put_u64le(out + OFF_CREATED, (uint64_t)h->created_ms);
    put_u64le(out + OFF_CLOCK, h->clock);
    put_u64le(out + OFF_LET_GO, h->let_go);
    stamp_put(out + OFF_FLUSH, h->flush);
    stamp_put(out + OFF_FLUSH_PENDING, h->flush_pending);
    put_u64le(out + OFF_FLUSH_PENDING_MS, (uint64_t)h->flush_pending_ms);
    put_u64le(out + OFF_LAST_SEQ, h->last_seq);
    put_u64le(out + OFF_CLEAN_SEQ, h->clean_seq);
    put_u64le(out + OFF_END, h->end);
    if (h->vectors.len > 0)
        memcpy(out + SEGMENT_HEADER_FIXED, h->vectors.ptr, h->vectors.len);
    put_u64le(out + OFF_SUM, hash_bytes(out + OFF_LENGTH, length - OFF_LENGTH));
    return length;
}

enum record_parse segment_header_decode(struct slice bytes, struct segment_header *h,
                                        size_t *length)
{
    const unsigned char *p = (const unsigned char *)bytes.ptr;

    if (bytes.len < SEGMENT_HEADER_FIXED)
        return RECORD_MORE;
    if (memcmp(p, segment_magic, sizeof(segment_magic)) != 0)
        return RECORD_BAD;
    *length = get_u32le(p + OFF_LENGTH);
    if (*length < SEGMENT_HEADER_FIXED || *length > SEGMENT_HEADER_MAX)
        return RECORD_BAD;
    if (bytes.len < *length)
        return RECORD_MORE;
    if (hash_bytes(p + OFF_LENGTH, *length - OFF_LENGTH) != get_u64le(p + OFF_SUM) ||
        get_u32le(p + OFF_FORMAT) != SEGMENT_FORMAT ||
        get_u32le(p + OFF_VECTORS_LEN) != *length - SEGMENT_HEADER_FIXED)
        return RECORD_BAD;
    memcpy(h->store_uuid, p + OFF_UUID, sizeof(h->store_uuid));
    h->number = get_u64le(p + OFF_NUMBER);
    h->big_value = (get_u32le(p + OFF_BITS) & SEGMENT_BIT_BIG) != 0;
    h->history = get_u64le(p + OFF_HISTORY);
    h->first_seq = get_u64le(p + OFF_FIRST_SEQ);
    h->previous_number = get_u64le(p + OFF_PREVIOUS_NUMBER);
    h->previous_end = get_u64le(p + OFF_PREVIOUS_END);
    h->previous_seq = get_u64le(p + OFF_PREVIOUS_SEQ);
    h->created_ms = (int64_t)get_u64le(p + OFF_CREATED);
    h->clock = get_u64le(p + OFF_CLOCK);
    h->let_go = get_u64le(p + OFF_LET_GO);
    h->flush = stamp_get(p + OFF_FLUSH);
    h->flush_pending = stamp_get(p + OFF_FLUSH_PENDING);
    h->flush_pending_ms = (int64_t)get_u64le(p + OFF_FLUSH_PENDING_MS);
    h->compacted = (get_u32le(p + OFF_BITS) & SEGMENT_BIT_COMPACTED) != 0;
    h->last_seq = get_u64le(p + OFF_LAST_SEQ);
    h->clean_seq = get_u64le(p + OFF_CLEAN_SEQ);
    h->end = get_u64le(p + OFF_END);
    h->vectors = slice_of(bytes.ptr + SEGMENT_HEADER_FIXED, *length - SEGMENT_HEADER_FIXED);
    return RECORD_DONE;
}

/* ---- segments and open files ---- */

int segment_make(uint32_t number, const char *path, size_t file_bytes, struct segment **out)
{
    struct segment *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return -ENOMEM;
    s->path = strdup(path);
    if (s->path == NULL) {
        free(s);
        return -ENOMEM;
    }
    atomic_init(&s->refs, 1);
    atomic_init(&s->trusted_from, UINT64_MAX);
    s->file_bytes = file_bytes;
    s->number = number;
    *out = s;
    return 0;
}

int segment_new(uint32_t number, int fd, const char *path, size_t file_bytes, struct segment **out)
{
    struct segment_file *f = NULL;
    int rc = segment_file_new(fd, file_bytes, &f);

    if (rc != 0)
        return rc;
    rc = segment_make(number, path, file_bytes, out);
    if (rc == 0) {
        atomic_init(&(*out)->file, f);
    } else {
        f->fd = -1; /* still the caller's */
        segment_file_unref(f);
    }
    return rc;
}

void segment_ref(struct segment *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void segment_unref(struct segment *s)
{
    struct segment_file *f;

    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    segment_cache_forget(s);
    f = atomic_load_explicit(&s->file, memory_order_relaxed);
    if (f != NULL)
        segment_file_unref(f);
    pins_remove(&s->pin);
    free(atomic_load_explicit(&s->verified, memory_order_relaxed));
    free(s->path);
    free(s);
}

int segment_file_new(int fd, size_t map_bytes, struct segment_file **out)
{
    struct segment_file *f = calloc(1, sizeof(*f));
    size_t granules = (map_bytes >> SEGMENT_GRANULE_SHIFT) + 1;
    void *map;

    if (f == NULL)
        return -ENOMEM;
    f->proofs = calloc(granules, sizeof(*f->proofs));
    if (f->proofs == NULL) {
        free(f);
        return -ENOMEM;
    }
    /* The mapping may reach beyond the file's present end: nobody looks there before it has
     * grown. */
    map = map_bytes == 0 ? MAP_FAILED : mmap(NULL, map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        (void)madvise(map, map_bytes, MADV_RANDOM);
        f->map = map;
        f->map_bytes = map_bytes;
    }
    atomic_init(&f->refs, 1);
    f->fd = fd;
    *out = f;
    return 0;
}

void segment_file_unref(struct segment_file *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (f->map != NULL)
        munmap((void *)(uintptr_t)f->map, f->map_bytes);
    if (f->fd >= 0)
        close(f->fd);
    free(f->proofs);
    free(f);
}

ssize_t segment_read(struct segment *s, void *out, size_t len, uint64_t offset)
{
    struct segment_file *f;
    ssize_t got = segment_open(s, &f);

    if (got != 0)
        return got;
    got = io_read_upto(f->fd, out, len, (off_t)offset);
    segment_file_unref(f);
    return got;
}

/* ---- what was verified ---- */

/* The segment's bits; made at the first use. NULL: no memory. */
static _Atomic uint64_t *verified_bits(struct segment *s)
{
    _Atomic uint64_t *bits = atomic_load_explicit(&s->verified, memory_order_acquire);
    _Atomic uint64_t *made;

    if (bits != NULL)
        return bits;
    made = calloc((s->file_bytes >> SEGMENT_VERIFY_SHIFT) / 64 + 1, sizeof(*made));
    if (made == NULL)
        return NULL;
    if (atomic_compare_exchange_strong(&s->verified, &bits, made))
        return made;
    free(made); /* another thread was quicker */
    return bits;
}

void segment_set_verified(struct segment *s, uint64_t offset)
{
    uint64_t granule = offset >> SEGMENT_VERIFY_SHIFT;
    _Atomic uint64_t *bits = offset < s->file_bytes ? verified_bits(s) : NULL;

    /* Without memory the record is read and checked once more the next time. */
    if (bits != NULL)
        atomic_fetch_or_explicit(&bits[granule / 64], UINT64_C(1) << granule % 64,
                                 memory_order_relaxed);
}

bool segment_is_trusted(const struct segment *s, uint64_t offset, uint64_t length)
{
    uint64_t granule = offset >> SEGMENT_VERIFY_SHIFT;
    const _Atomic uint64_t *bits;

    if (offset >= atomic_load(&s->trusted_from))
        return true;
    bits = atomic_load_explicit(&s->verified, memory_order_acquire);
    return bits != NULL && length > SEGMENT_VERIFY_BYTES && offset < s->file_bytes &&
           (atomic_load_explicit(&bits[granule / 64], memory_order_relaxed) >> granule % 64 & 1) !=
               0;
}

/* ---- reading through the mapping ---- */

/* Where this thread's copy under way returns to when its pages cannot be read. */
static _Thread_local sigjmp_buf *volatile copy_escape;

static void on_sigbus(int signal_number)
{
    if (copy_escape != NULL)
        siglongjmp(*copy_escape, 1);
    /* Not ours: die as without a handler. */
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void segment_install_guard(void)
{
    struct sigaction action = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

static bool guarded_memcpy(char *to, const char *from, size_t len)
{
    sigjmp_buf escape;

    if (sigsetjmp(escape, 0) != 0) {
        copy_escape = NULL;
        return false;
    }
    copy_escape = &escape;
    memcpy(to, from, len);
    copy_escape = NULL;
    return true;
}

bool segment_copy_mapped(struct segment_file *f, uint64_t offset, size_t len, char *out,
                         uint16_t second)
{
    size_t last = (size_t)(offset + len - 1) >> SEGMENT_GRANULE_SHIFT;

    if (offset + len > f->map_bytes)
        return false;
    for (size_t g = (size_t)offset >> SEGMENT_GRANULE_SHIFT; g <= last; g++) {
        uint16_t proof = atomic_load_explicit(&f->proofs[g], memory_order_relaxed);

        if (proof == 0 || (uint16_t)(second - proof) > PROOF_SECONDS)
            return false;
    }
    return guarded_memcpy(out, f->map + offset, len);
}

void segment_proved(struct segment_file *f, uint64_t offset, size_t len, uint16_t second)
{
    size_t last = (size_t)(offset + len - 1) >> SEGMENT_GRANULE_SHIFT;

    if (offset + len > f->map_bytes)
        return;
    for (size_t g = (size_t)offset >> SEGMENT_GRANULE_SHIFT; g <= last; g++)
        atomic_store_explicit(&f->proofs[g], second, memory_order_relaxed);
}
