/*
 * record.c - encoding and checked decoding of records (docs/format.md, "Record").
 *
 * Used by:  logstore (log, recovery, reads), replication.
 * Threads:  pure.
 */
#include "store/record.h"

#include "base/bytes.h"
#include "base/hash.h"

/* Offsets in the fixed part of the head. The checksum covers everything of the head behind
 * itself. */
enum {
    OFF_MAGIC = 0,
    OFF_HEAD_SUM = 4,
    OFF_KIND = 12,
    OFF_BITS = 13,
    OFF_EXT_LEN = 14,
    OFF_KEY_LEN = 16,
    OFF_ATTRS_LEN = 20,
    OFF_VALUE_LEN = 24,
    OFF_FLAGS = 28,
    OFF_SEQ = 32,
    OFF_EXPIRES = 40,
    OFF_BASE_VERSION = 48,
    OFF_BASE_EPOCH = 56,
    OFF_BASE_NODE = 60,
    OFF_RESERVED = 62,
    OFF_UNSYNCED = 64,
    OFF_BODY_SUM = 68,
};

#define RECORD_MAGIC 0x31525454u /* "TTR1" */

/* Optional fields, in this order behind the fixed part. */
enum {
    BIT_LOGGED = 1, /* stamp; absent: the same as base */
    BIT_TOUCH = 2,  /* stamp; absent: the same as base */
    BIT_BIG = 4,    /* file u64, bytes u64, sum u64 */
    BIT_SLOTS = 8,  /* count u8, then stamp and sum i64 each */
    BIT_CUT = 64,   /* no bytes. 16 and 32 are reserved, see docs/format.md */
    BITS_KNOWN = BIT_LOGGED | BIT_TOUCH | BIT_BIG | BIT_SLOTS | BIT_CUT,
};

#define SLOT_BYTES (STAMP_BYTES + 8u)
#define BIG_BYTES 24u

int stamp_compare(struct stamp a, struct stamp b)
{
    if (a.version != b.version)
        return a.version < b.version ? -1 : 1;
    if (a.node != b.node)
        return a.node < b.node ? -1 : 1;
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return 0;
}

uint64_t record_cas(const struct record *r)
{
    uint64_t cas = r->has_client_cas ? r->client_cas : r->base.version;

    for (unsigned i = 0; i < r->slot_count; i++)
        cas += r->slots[i].stamp.version - r->base.version;
    return cas;
}

uint64_t record_value_bytes(const struct record *r)
{
    return r->big_bytes > 0 ? r->big_bytes : r->value.len;
}

void stamp_put(unsigned char *out, struct stamp s)
{
    put_u64le(out, s.version);
    put_u32le(out + 8, s.epoch);
    put_u16le(out + 12, s.node);
}

struct stamp stamp_get(const unsigned char *bytes)
{
    return (struct stamp){get_u64le(bytes), get_u32le(bytes + 8), get_u16le(bytes + 12)};
}

static unsigned char *put_stamp(unsigned char *p, struct stamp s)
{
    stamp_put(p, s);
    return p + STAMP_BYTES;
}

static const unsigned char *get_stamp(const unsigned char *p, struct stamp *s)
{
    *s = stamp_get(p);
    return p + STAMP_BYTES;
}

/* Writes the optional fields behind the fixed part; returns their bits. */
static unsigned put_optional(const struct record *r, unsigned char **at)
{
    unsigned char *p = *at;
    unsigned bits = 0;

    if (stamp_compare(r->logged, r->base) != 0) {
        bits |= BIT_LOGGED;
        p = put_stamp(p, r->logged);
    }
    if (stamp_compare(r->touch, r->base) != 0) {
        bits |= BIT_TOUCH;
        p = put_stamp(p, r->touch);
    }
    if (r->big_bytes > 0) {
        bits |= BIT_BIG;
        put_u64le(p, r->big_file);
        put_u64le(p + 8, r->big_bytes);
        put_u64le(p + 16, r->big_sum);
        p += BIG_BYTES;
    }
    if (r->slot_count > 0) {
        bits |= BIT_SLOTS;
        *p++ = (unsigned char)r->slot_count;
        for (unsigned i = 0; i < r->slot_count; i++) {
            p = put_stamp(p, r->slots[i].stamp);
            put_u64le(p, (uint64_t)r->slots[i].sum);
            p += 8;
        }
    }
    *at = p;
    return r->cut ? bits | BIT_CUT : bits;
}

size_t record_encode_head(uint64_t salt, const struct record *r, uint64_t body_sum,
                          unsigned char *out)
{
    unsigned char *end = out + RECORD_HEAD_FIXED;
    unsigned bits = put_optional(r, &end);

    put_u32le(out + OFF_MAGIC, RECORD_MAGIC);
    out[OFF_KIND] = (unsigned char)r->kind;
    out[OFF_BITS] = (unsigned char)bits;
    put_u16le(out + OFF_EXT_LEN, (uint16_t)(end - out - (ptrdiff_t)RECORD_HEAD_FIXED));
    put_u32le(out + OFF_KEY_LEN, (uint32_t)r->key.len);
    put_u32le(out + OFF_ATTRS_LEN, (uint32_t)r->attrs.len);
    put_u32le(out + OFF_VALUE_LEN, (uint32_t)r->value.len);
    put_u32le(out + OFF_FLAGS, r->flags);
    put_u64le(out + OFF_SEQ, r->seq);
    put_u64le(out + OFF_EXPIRES, (uint64_t)r->expires_ms);
    put_u64le(out + OFF_BASE_VERSION, r->base.version);
    put_u32le(out + OFF_BASE_EPOCH, r->base.epoch);
    put_u16le(out + OFF_BASE_NODE, r->base.node);
    put_u16le(out + OFF_RESERVED, 0);
    put_u32le(out + OFF_UNSYNCED, r->unsynced);
    put_u64le(out + OFF_BODY_SUM, body_sum);
    put_u64le(out + OFF_HEAD_SUM,
              hash_seeded(salt, out + OFF_KIND, (size_t)(end - out) - OFF_KIND));
    return (size_t)(end - out);
}

/* Reads `count` slots; false when they do not fit. */
static bool get_slots(const unsigned char **at, const unsigned char *end, struct record *out)
{
    const unsigned char *p = *at;

    if (p == end)
        return false;
    out->slot_count = *p++;
    if (out->slot_count > RECORD_SLOTS_MAX || (size_t)(end - p) < out->slot_count * SLOT_BYTES)
        return false;
    for (unsigned i = 0; i < out->slot_count; i++) {
        p = get_stamp(p, &out->slots[i].stamp);
        out->slots[i].sum = (int64_t)get_u64le(p);
        p += 8;
    }
    *at = p;
    return true;
}

/* Reads the optional fields; false unless they fill [p, end) exactly. */
static bool get_optional(unsigned bits, const unsigned char *p, const unsigned char *end,
                         struct record *out)
{
    out->logged = out->base;
    out->touch = out->base;
    out->big_file = out->big_bytes = out->big_sum = 0;
    out->slot_count = 0;
    if (bits & BIT_LOGGED) {
        if ((size_t)(end - p) < STAMP_BYTES)
            return false;
        p = get_stamp(p, &out->logged);
    }
    if (bits & BIT_TOUCH) {
        if ((size_t)(end - p) < STAMP_BYTES)
            return false;
        p = get_stamp(p, &out->touch);
    }
    if (bits & BIT_BIG) {
        if ((size_t)(end - p) < BIG_BYTES)
            return false;
        out->big_file = get_u64le(p);
        out->big_bytes = get_u64le(p + 8);
        out->big_sum = get_u64le(p + 16);
        p += BIG_BYTES;
    }
    if ((bits & BIT_SLOTS) && !get_slots(&p, end, out))
        return false;
    return p == end;
}

enum record_parse record_decode_head(uint64_t salt, struct slice bytes, struct record *out,
                                     struct record_layout *layout)
{
    const unsigned char *p = (const unsigned char *)bytes.ptr;
    uint32_t ext_len;

    if (bytes.len < RECORD_HEAD_FIXED)
        return RECORD_MORE;
    ext_len = get_u16le(p + OFF_EXT_LEN);
    if (get_u32le(p + OFF_MAGIC) != RECORD_MAGIC || ext_len > RECORD_HEAD_MAX - RECORD_HEAD_FIXED)
        return RECORD_BAD;
    layout->head_len = RECORD_HEAD_FIXED + ext_len;
    if (bytes.len < layout->head_len)
        return RECORD_MORE;
    if (hash_seeded(salt, p + OFF_KIND, layout->head_len - OFF_KIND) != get_u64le(p + OFF_HEAD_SUM))
        return RECORD_BAD;
    layout->key_len = get_u32le(p + OFF_KEY_LEN);
    layout->attrs_len = get_u32le(p + OFF_ATTRS_LEN);
    layout->value_len = get_u32le(p + OFF_VALUE_LEN);
    layout->body_sum = get_u64le(p + OFF_BODY_SUM);
    if (layout->key_len > RECORD_KEY_MAX || layout->attrs_len > RECORD_ATTRS_MAX ||
        layout->value_len > RECORD_VALUE_MAX || p[OFF_KIND] < RECORD_PUT ||
        p[OFF_KIND] > RECORD_MARKER || (p[OFF_BITS] & ~(unsigned)BITS_KNOWN) != 0)
        return RECORD_BAD;
    out->kind = (enum record_kind)p[OFF_KIND];
    out->flags = get_u32le(p + OFF_FLAGS);
    out->seq = get_u64le(p + OFF_SEQ);
    out->expires_ms = (int64_t)get_u64le(p + OFF_EXPIRES);
    out->base.version = get_u64le(p + OFF_BASE_VERSION);
    out->base.epoch = get_u32le(p + OFF_BASE_EPOCH);
    out->base.node = get_u16le(p + OFF_BASE_NODE);
    out->unsynced = get_u32le(p + OFF_UNSYNCED);
    out->cut = (p[OFF_BITS] & BIT_CUT) != 0;
    out->client_cas = 0;
    out->has_client_cas = false;
    out->key = out->attrs = out->value = slice_of(NULL, 0);
    return get_optional(p[OFF_BITS], p + RECORD_HEAD_FIXED, p + layout->head_len, out) ? RECORD_DONE
                                                                                       : RECORD_BAD;
}

void record_set_body(struct record *out, const struct record_layout *layout, const char *body)
{
    struct slice cas;

    out->key = slice_of(body, layout->key_len);
    out->attrs = slice_of(body + layout->key_len, layout->attrs_len);
    out->value = slice_of(body + layout->key_len + layout->attrs_len, layout->value_len);
    if (layout->attrs_len > 0 && attr_find(out->attrs, ATTR_CLIENT_CAS, &cas) && cas.len == 8) {
        out->has_client_cas = true;
        out->client_cas = get_u64le((const unsigned char *)cas.ptr);
    }
}

enum record_parse record_decode(uint64_t salt, struct slice bytes, struct record *out, size_t *used)
{
    struct record_layout layout;
    enum record_parse parse = record_decode_head(salt, bytes, out, &layout);
    uint64_t length;

    if (parse != RECORD_DONE)
        return parse;
    length = record_layout_length(&layout);
    if (bytes.len < length)
        return RECORD_MORE;
    if (hash_bytes(bytes.ptr + layout.head_len, (size_t)length - layout.head_len) !=
        layout.body_sum)
        return RECORD_BAD;
    record_set_body(out, &layout, bytes.ptr + layout.head_len);
    *used = (size_t)length;
    return RECORD_DONE;
}

bool attr_next(struct slice *rest, uint8_t *tag, struct slice *bytes)
{
    const unsigned char *p = (const unsigned char *)rest->ptr;
    size_t len;

    if (rest->len < 3)
        return false;
    len = get_u16le(p + 1);
    if (rest->len - 3 < len)
        return false;
    *tag = p[0];
    *bytes = slice_of(rest->ptr + 3, len);
    *rest = slice_after(*rest, 3 + len);
    return true;
}

bool attr_find(struct slice attrs, enum attr_tag tag, struct slice *bytes)
{
    uint8_t found;

    while (attr_next(&attrs, &found, bytes))
        if (found == tag)
            return true;
    return false;
}

size_t attr_put(char *out, enum attr_tag tag, struct slice bytes)
{
    unsigned char *p = (unsigned char *)out;

    p[0] = (unsigned char)tag;
    put_u16le(p + 1, (uint16_t)bytes.len);
    if (bytes.len > 0)
        memcpy(out + 3, bytes.ptr, bytes.len);
    return 3 + bytes.len;
}
