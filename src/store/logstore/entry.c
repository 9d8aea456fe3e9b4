/*
 * entry.c - the bytes of an index row (docs/format.md, "The index").
 *
 * Provides: entry_encode(), entry_decode() and the like.
 * Used by:  the index.
 * Threads:  pure.
 *
 * What most rows do not have takes no room: a bits byte says which of the last fields follow.
 */
#include "store/logstore/entry.h"

#include "base/bytes.h"

enum {
    BITS_KIND = 0x07,
    BITS_TOUCH = 0x08,
    BITS_EXPIRES = 0x10,
    BITS_CAS = 0x20,
    BITS_BIG = 0x40,
    BITS_FILED = 0x80,

    OFF_BITS = 0,
    OFF_SEGMENT = 1,
    OFF_OFFSET = 5,
    OFF_LENGTH = 9,
    OFF_VERSION = 13,
    OFF_EPOCH = 21,
    OFF_NODE = 25,
    OFF_OPTIONAL = 27,

    TOUCH_SIZE = 12,
    EXPIRES_SIZE = 8,
    CAS_SIZE = 8,
    BIG_SIZE = 16,
    FILED_SIZE = 8,
};

_Static_assert(OFF_OPTIONAL + TOUCH_SIZE + EXPIRES_SIZE + CAS_SIZE + BIG_SIZE + FILED_SIZE ==
                   ENTRY_ROW_MAX,
               "row size");

int64_t entry_moment(const struct entry *e)
{
    if (e->kind == RECORD_DELETE)
        return 0;
    return e->expires_ms < 0 ? 1 : e->expires_ms;
}

size_t entry_encode(const struct entry *e, unsigned char *out)
{
    return entry_encode_filed(e, entry_moment(e), out);
}

size_t entry_encode_filed(const struct entry *e, int64_t filed_ms, unsigned char *out)
{
    unsigned bits = (unsigned)e->kind & BITS_KIND;
    unsigned char *p = out + OFF_OPTIONAL;

    put_u32le(out + OFF_SEGMENT, e->segment);
    put_u32le(out + OFF_OFFSET, e->offset);
    put_u32le(out + OFF_LENGTH, e->length);
    put_u64le(out + OFF_VERSION, e->base.version);
    put_u32le(out + OFF_EPOCH, e->base.epoch);
    put_u16le(out + OFF_NODE, e->base.node);
    if (e->has_touch) {
        bits |= BITS_TOUCH;
        put_u32le(p, e->touch_segment);
        put_u32le(p + 4, e->touch_offset);
        put_u32le(p + 8, e->touch_length);
        p += TOUCH_SIZE;
    }
    if (e->expires_ms != 0) {
        bits |= BITS_EXPIRES;
        put_u64le(p, (uint64_t)e->expires_ms);
        p += EXPIRES_SIZE;
    }
    if (e->cas != e->base.version) {
        bits |= BITS_CAS;
        put_u64le(p, e->cas);
        p += CAS_SIZE;
    }
    if (e->big_bytes > 0) {
        bits |= BITS_BIG;
        put_u64le(p, e->big_file);
        put_u64le(p + 8, e->big_bytes);
        p += BIG_SIZE;
    }
    if (filed_ms < entry_moment(e)) {
        bits |= BITS_FILED;
        put_u64le(p, (uint64_t)filed_ms);
        p += FILED_SIZE;
    }
    out[OFF_BITS] = (unsigned char)bits;
    return (size_t)(p - out);
}

/* Length of a row with these bits, or 0 if there is no such row. */
static size_t row_length(unsigned bits)
{
    unsigned kind = bits & BITS_KIND;
    size_t length = OFF_OPTIONAL;

    if (kind != RECORD_PUT && kind != RECORD_DELETE && kind != RECORD_COUNTER)
        return 0;
    if ((bits & BITS_TOUCH) != 0)
        length += TOUCH_SIZE;
    if ((bits & BITS_EXPIRES) != 0)
        length += EXPIRES_SIZE;
    if ((bits & BITS_CAS) != 0)
        length += CAS_SIZE;
    if ((bits & BITS_BIG) != 0)
        length += BIG_SIZE;
    if ((bits & BITS_FILED) != 0)
        length += FILED_SIZE;
    return length;
}

bool entry_decode(struct slice row, struct entry *out)
{
    int64_t filed_ms;

    return entry_decode_filed(row, out, &filed_ms);
}

bool entry_decode_filed(struct slice row, struct entry *out, int64_t *filed_ms)
{
    const unsigned char *in = (const unsigned char *)row.ptr;
    const unsigned char *p = in + OFF_OPTIONAL;
    unsigned bits;

    if (row.len < OFF_OPTIONAL)
        return false;
    bits = in[OFF_BITS];
    if (row.len != row_length(bits))
        return false;
    *out = (struct entry){
        .segment = get_u32le(in + OFF_SEGMENT),
        .offset = get_u32le(in + OFF_OFFSET),
        .length = get_u32le(in + OFF_LENGTH),
        .kind = (enum record_kind)(bits & BITS_KIND),
        .base = {.version = get_u64le(in + OFF_VERSION),
                 .epoch = get_u32le(in + OFF_EPOCH),
                 .node = get_u16le(in + OFF_NODE)},
    };
    if ((bits & BITS_TOUCH) != 0) {
        out->has_touch = true;
        out->touch_segment = get_u32le(p);
        out->touch_offset = get_u32le(p + 4);
        out->touch_length = get_u32le(p + 8);
        p += TOUCH_SIZE;
    }
    if ((bits & BITS_EXPIRES) != 0) {
        out->expires_ms = (int64_t)get_u64le(p);
        p += EXPIRES_SIZE;
    }
    out->cas = out->base.version;
    if ((bits & BITS_CAS) != 0) {
        out->cas = get_u64le(p);
        p += CAS_SIZE;
    }
    if ((bits & BITS_BIG) != 0) {
        out->big_file = get_u64le(p);
        out->big_bytes = get_u64le(p + 8);
        p += BIG_SIZE;
    }
    *filed_ms = entry_moment(out);
    if ((bits & BITS_FILED) == 0)
        return true;
    *filed_ms = (int64_t)get_u64le(p);
    return *filed_ms > 0 && *filed_ms < entry_moment(out);
}
