/*
 * fuzz_record.c - what the store reads from its files: records, headers of segments, vectors, rows
 * and the position of the index, lists of attributes.
 *
 * The first byte says what the rest is. Checksums are made right first, or nothing would get past
 * them. Beyond memory errors: what was decoded and encoded again decodes to the same, nothing is
 * known before it is there, and no length leads out of the input.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/bytes.h"
#include "base/hash.h"
#include "store/logstore/entry.h"
#include "store/logstore/identity.h"
#include "store/logstore/index_format.h"
#include "store/logstore/segment.h"
#include "store/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the checksums stand (docs/format.md). */
enum {
    RECORD_OFF_HEAD_SUM = 4,
    RECORD_OFF_SUMMED = 12,
    RECORD_OFF_EXT_LEN = 14,
    RECORD_OFF_BODY_SUM = 68,
    SEGMENT_OFF_SUM = 8,
    SEGMENT_OFF_LENGTH = 16,
    META_SUM_SIZE = 8,
};

/* That of the corpus. */
#define SALT 0

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* ---- records ---- */

static bool lies_in(struct slice part, const unsigned char *bytes, size_t len)
{
    const unsigned char *p = (const unsigned char *)part.ptr;

    return part.len == 0 || (p >= bytes && part.len <= len && p + part.len <= bytes + len);
}

/* Gives what may be a record, by its lengths, the right sums. */
static void mend_record(unsigned char *bytes, size_t len)
{
    size_t head;
    uint64_t body;

    if (len < RECORD_HEAD_FIXED)
        return;
    head = RECORD_HEAD_FIXED + get_u16le(bytes + RECORD_OFF_EXT_LEN);
    if (head > len)
        return;
    body = (uint64_t)get_u32le(bytes + 16) + get_u32le(bytes + 20) + get_u32le(bytes + 24);
    if (body <= len - head)
        put_u64le(bytes + RECORD_OFF_BODY_SUM, hash_bytes(bytes + head, (size_t)body));
    put_u64le(bytes + RECORD_OFF_HEAD_SUM,
              hash_bytes(bytes + RECORD_OFF_SUMMED, head - RECORD_OFF_SUMMED));
}

/* Encoded again and decoded, a head says the same. */
static void check_head_again(const struct record *r, uint64_t body_sum)
{
    static unsigned char first[RECORD_HEAD_MAX];
    static unsigned char second[RECORD_HEAD_MAX];
    static struct record again;
    struct record_layout layout;
    size_t len = record_encode_head(SALT, r, body_sum, first);

    require(len <= RECORD_HEAD_MAX);
    require(record_decode_head(SALT, slice_of((char *)first, len), &again, &layout) == RECORD_DONE);
    require(layout.head_len == len && layout.body_sum == body_sum);
    again.key = slice_of(NULL, layout.key_len);
    again.attrs = slice_of(NULL, layout.attrs_len);
    again.value = slice_of(NULL, layout.value_len);
    require(record_encode_head(SALT, &again, body_sum, second) == len);
    require(memcmp(first, second, len) == 0);
}

static void check_record(unsigned char *bytes, size_t len)
{
    static struct record r;
    struct record_layout layout;
    size_t used = 0;
    struct slice in = slice_of((char *)bytes, len);

    mend_record(bytes, len);
    if (record_decode(SALT, in, &r, &used) != RECORD_DONE)
        return;
    require(used >= RECORD_HEAD_FIXED && used <= len);
    require(lies_in(r.key, bytes, used) && lies_in(r.attrs, bytes, used) &&
            lies_in(r.value, bytes, used));
    require(r.slot_count <= RECORD_SLOTS_MAX);
    (void)record_cas(&r);
    require(record_decode_head(SALT, in, &r, &layout) == RECORD_DONE);
    require(record_layout_length(&layout) == used);
    for (size_t cut = used > 200 ? used - 200 : 0; cut < used; cut++) {
        size_t n;

        require(record_decode(SALT, slice_of((char *)bytes, cut), &r, &n) == RECORD_MORE);
    }
    require(record_decode(SALT, in, &r, &used) == RECORD_DONE);
    check_head_again(&r, layout.body_sum);
}

/* ---- segments ---- */

static void check_segment(unsigned char *bytes, size_t len)
{
    static unsigned char again[SEGMENT_HEADER_MAX];
    struct segment_header h;
    size_t length = 0;

    if (len >= SEGMENT_HEADER_FIXED && get_u32le(bytes + SEGMENT_OFF_LENGTH) >= 16 &&
        get_u32le(bytes + SEGMENT_OFF_LENGTH) <= len)
        put_u64le(bytes + SEGMENT_OFF_SUM,
                  hash_bytes(bytes + SEGMENT_OFF_LENGTH,
                             get_u32le(bytes + SEGMENT_OFF_LENGTH) - SEGMENT_OFF_LENGTH));
    if (segment_header_decode(slice_of((char *)bytes, len), &h, &length) != RECORD_DONE)
        return;
    require(length <= len && lies_in(h.vectors, bytes, length));
    require(segment_header_encode(&h, again) == length);
    require(segment_header_decode(slice_of((char *)again, length), &h, &length) == RECORD_DONE);
}

static void check_vectors(const unsigned char *bytes, size_t len)
{
    static struct vectors v;
    static struct vectors back;
    struct buf out = {0};

    if (!vectors_decode(slice_of((const char *)bytes, len), &v))
        return;
    require(v.count <= VECTORS_MAX);
    require(vectors_encode(&v, &out) == 0);
    require(vectors_decode(buf_slice(&out), &back));
    require(back.count == v.count && back.next_big_file == v.next_big_file);
    vectors_raise(&v, (struct stamp){1, 2, 3});
    require(v.count <= VECTORS_MAX);
    buf_free(&out);
}

/* ---- the index ---- */

static void check_row(const unsigned char *bytes, size_t len)
{
    unsigned char row[ENTRY_ROW_MAX];
    unsigned char second[ENTRY_ROW_MAX];
    struct entry e;
    size_t n;

    if (!entry_decode(slice_of((const char *)bytes, len), &e))
        return;
    n = entry_encode(&e, row);
    require(n <= len);
    require(entry_decode(slice_of((char *)row, n), &e));
    require(entry_encode(&e, second) == n && memcmp(row, second, n) == 0);
}

static void check_meta(unsigned char *bytes, size_t len)
{
    static char room[INDEX_VECTORS_MAX];
    struct index_meta meta;
    unsigned char *again;

    if (len > META_SUM_SIZE)
        put_u64le(bytes + len - META_SUM_SIZE, hash_bytes(bytes, len - META_SUM_SIZE));
    if (!index_meta_decode(slice_of((char *)bytes, len), &meta, room))
        return;
    require(index_meta_size(&meta) == len);
    again = malloc(len);
    require(again != NULL);
    index_meta_encode(&meta, again);
    require(memcmp(again, bytes, len) == 0);
    free(again);
}

/* ---- attributes ---- */

static void check_attributes(const unsigned char *bytes, size_t len)
{
    struct slice rest = slice_of((const char *)bytes, len);
    struct slice value;
    struct slice found;
    uint8_t tag;
    size_t total = 0;

    while (attr_next(&rest, &tag, &value)) {
        require(lies_in(value, bytes, len));
        require(attr_find(slice_of((const char *)bytes, len), tag, &found));
        total += 3 + value.len;
        require(total <= len && rest.len == len - total);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t len = size > 0 ? size - 1 : 0;
    unsigned char *bytes = malloc(len > 0 ? len : 1); /* so that a read behind them is found */

    require(bytes != NULL);
    if (len > 0)
        memcpy(bytes, data + 1, len);
    switch (size > 0 ? data[0] : 0) {
    case 'r': check_record(bytes, len); break;
    case 's': check_segment(bytes, len); break;
    case 'v': check_vectors(bytes, len); break;
    case 'e': check_row(bytes, len); break;
    case 'm': check_meta(bytes, len); break;
    case 'a': check_attributes(bytes, len); break;
    default: break;
    }
    free(bytes);
    return 0;
}
