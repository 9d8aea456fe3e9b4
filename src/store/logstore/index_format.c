/*
 * index_format.c - the bytes in the index file that are not rows.
 *
 * Provides: index_format.h.
 * Used by:  index.c.
 * Threads:  pure; index_file_check() reads a file.
 */
#include "store/logstore/index_format.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/io.h"

/* ---- the meta record ---- */

enum {
    STAMP_SIZE = 14, /* version u64, epoch u32, node u16 */

    META_OFF_UUID = 0,
    META_OFF_HISTORY = 16,
    META_OFF_SEQ = 24,
    META_OFF_SEGMENT = 32,
    META_OFF_OFFSET = 36,
    META_OFF_LIVE = 44,
    META_OFF_CLOCK = 52,
    META_OFF_FLUSH = 60,
    META_OFF_PENDING = META_OFF_FLUSH + STAMP_SIZE,
    META_OFF_PENDING_MS = META_OFF_PENDING + STAMP_SIZE,
    META_OFF_COUNTED = META_OFF_PENDING_MS + 8,
    META_OFF_VECTORS_LEN = META_OFF_COUNTED + STAMP_SIZE,
    META_OFF_VECTORS = META_OFF_VECTORS_LEN + 4,

    META_SUM_SIZE = 8, /* XXH3-64 of all before it, behind the vectors */
};

size_t index_meta_size(const struct index_meta *meta)
{
    return META_OFF_VECTORS + meta->vectors.len + META_SUM_SIZE;
}

void index_meta_encode(const struct index_meta *meta, unsigned char *out)
{
    unsigned char *end = out + META_OFF_VECTORS + meta->vectors.len;

    assert(meta->vectors.len <= INDEX_VECTORS_MAX);
    memcpy(out + META_OFF_UUID, meta->store_uuid, sizeof meta->store_uuid);
    put_u64le(out + META_OFF_HISTORY, meta->history);
    put_u64le(out + META_OFF_SEQ, meta->seq);
    put_u32le(out + META_OFF_SEGMENT, meta->segment);
    put_u64le(out + META_OFF_OFFSET, meta->offset);
    put_u64le(out + META_OFF_LIVE, meta->live_count);
    put_u64le(out + META_OFF_CLOCK, meta->clock);
    stamp_put(out + META_OFF_FLUSH, meta->flush);
    stamp_put(out + META_OFF_PENDING, meta->flush_pending);
    put_u64le(out + META_OFF_PENDING_MS, (uint64_t)meta->flush_pending_ms);
    stamp_put(out + META_OFF_COUNTED, meta->flush_counted);
    put_u32le(out + META_OFF_VECTORS_LEN, (uint32_t)meta->vectors.len);
    if (meta->vectors.len > 0)
        memcpy(out + META_OFF_VECTORS, meta->vectors.ptr, meta->vectors.len);
    put_u64le(end, hash_bytes(out, (size_t)(end - out)));
}

bool index_meta_decode(struct slice in, struct index_meta *out, char *room)
{
    const unsigned char *p = (const unsigned char *)in.ptr;
    uint32_t vectors_len;

    if (in.len < META_OFF_VECTORS + META_SUM_SIZE)
        return false;
    vectors_len = get_u32le(p + META_OFF_VECTORS_LEN);
    if (vectors_len > INDEX_VECTORS_MAX || in.len != META_OFF_VECTORS + META_SUM_SIZE + vectors_len)
        return false;
    if (get_u64le(p + in.len - META_SUM_SIZE) != hash_bytes(p, in.len - META_SUM_SIZE))
        return false;
    *out = (struct index_meta){
        .history = get_u64le(p + META_OFF_HISTORY),
        .seq = get_u64le(p + META_OFF_SEQ),
        .segment = get_u32le(p + META_OFF_SEGMENT),
        .offset = get_u64le(p + META_OFF_OFFSET),
        .live_count = get_u64le(p + META_OFF_LIVE),
        .clock = get_u64le(p + META_OFF_CLOCK),
        .flush = stamp_get(p + META_OFF_FLUSH),
        .flush_pending = stamp_get(p + META_OFF_PENDING),
        .flush_pending_ms = (int64_t)get_u64le(p + META_OFF_PENDING_MS),
        .flush_counted = stamp_get(p + META_OFF_COUNTED),
        .vectors = slice_of(room, vectors_len),
    };
    memcpy(out->store_uuid, p + META_OFF_UUID, sizeof out->store_uuid);
    memcpy(room, p + META_OFF_VECTORS, vectors_len);
    return true;
}

/* ---- LMDB's header pages, in the host's byte order (64-bit hosts) ---- */

enum {
    LMDB_OFF_FLAGS = 10,
    LMDB_OFF_MAGIC = 16,
    LMDB_OFF_VERSION = 20,
    LMDB_OFF_PAGE_SIZE = 40,
    LMDB_OFF_FREE_ROOT = 80,
    LMDB_OFF_MAIN_ROOT = 128,
    LMDB_OFF_LAST_PAGE = 136,
    LMDB_OFF_TXN = 144,
    LMDB_HEADER_SIZE = 152,

    LMDB_FLAG_META = 0x08,
    LMDB_VERSION = 1,
    LMDB_PAGE_MIN = 512,
    LMDB_PAGE_MAX = 65536,
};
#define LMDB_MAGIC 0xBEEFC0DEu
#define LMDB_NO_PAGE UINT64_MAX

static uint32_t host_u32(const unsigned char *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t host_u64(const unsigned char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* What is wrong with one header page of a file of `size` bytes; NULL: nothing. */
static const char *header_fault(const unsigned char *h, uint64_t size)
{
    uint64_t page_size = host_u32(h + LMDB_OFF_PAGE_SIZE);
    uint64_t last = host_u64(h + LMDB_OFF_LAST_PAGE);

    if (host_u32(h + LMDB_OFF_MAGIC) != LMDB_MAGIC || (h[LMDB_OFF_FLAGS] & LMDB_FLAG_META) == 0)
        return "it has no LMDB header";
    if (host_u32(h + LMDB_OFF_VERSION) != LMDB_VERSION)
        return "it has another LMDB version's format";
    if (page_size < LMDB_PAGE_MIN || page_size > LMDB_PAGE_MAX ||
        (page_size & (page_size - 1)) != 0)
        return "its page size is not possible";
    if (last >= size / page_size)
        return "its end is missing";
    return NULL;
}

/* The same for both. Only the newer one's roots are used: in the other LMDB may have put them
 * together with an older end, when it took back a write that had failed. */
static const char *headers_fault(const unsigned char *first, const unsigned char *second)
{
    const unsigned char *h =
        host_u64(first + LMDB_OFF_TXN) > host_u64(second + LMDB_OFF_TXN) ? first : second;
    uint64_t last = host_u64(h + LMDB_OFF_LAST_PAGE);
    uint64_t free_root = host_u64(h + LMDB_OFF_FREE_ROOT);
    uint64_t main_root = host_u64(h + LMDB_OFF_MAIN_ROOT);

    if (memcmp(first + LMDB_OFF_PAGE_SIZE, second + LMDB_OFF_PAGE_SIZE, 4) != 0)
        return "its two headers differ in their page size";
    if ((free_root > last && free_root != LMDB_NO_PAGE) ||
        (main_root > last && main_root != LMDB_NO_PAGE))
        return "its header points behind its end";
    return NULL;
}

static int headers_check(int fd, const char **why)
{
    unsigned char first[LMDB_HEADER_SIZE];
    unsigned char second[LMDB_HEADER_SIZE];
    struct stat st;
    int rc;

    if (fstat(fd, &st) != 0)
        return -errno;
    if (st.st_size == 0)
        return 0;
    rc = io_read_full(fd, first, sizeof first, 0);
    *why = rc == 0 ? header_fault(first, (uint64_t)st.st_size) : "its end is missing";
    if (rc == 0 && *why == NULL) {
        rc = io_read_full(fd, second, sizeof second, (off_t)host_u32(first + LMDB_OFF_PAGE_SIZE));
        *why = rc == 0 ? header_fault(second, (uint64_t)st.st_size) : "its end is missing";
    }
    if (rc == 0 && *why == NULL)
        *why = headers_fault(first, second);
    if (rc == -ENODATA || (rc == 0 && *why != NULL))
        return -EUCLEAN;
    return rc;
}

int index_file_check(const char *path, const char **why)
{
    int rc;
    int fd = io_open(path, O_RDONLY, 0);

    *why = NULL;
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return fd;
    rc = headers_check(fd, why);
    close(fd);
    return rc;
}
