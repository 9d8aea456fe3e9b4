/*
 * record.h - what a record is: its fields in memory, and its bytes in the log (docs/format.md).
 *
 * Provides: struct stamp, struct record, encoding and checked decoding.
 * Used by:  the engines, command (reads fields), replication (sends and joins records).
 * Threads:  pure.
 *
 * The rules for the fields are those of replication: every change to a key is a join in a lattice,
 * see docs/architecture.md.
 */
#ifndef STORE_RECORD_H
#define STORE_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

/* Total order of writes in a group; never used twice. */
struct stamp {
    uint64_t version; /* hybrid logical clock: Unix milliseconds << 16 | counter */
    uint32_t epoch;   /* birth of the writer, Unix seconds */
    uint16_t node;    /* server id of the writer */
};

/* By version, then node, then epoch. < 0, 0, > 0. */
int stamp_compare(struct stamp a, struct stamp b);

/* A stamp's bytes, on disk and on the wire: version u64, epoch u32, node u16, little-endian. */
#define STAMP_BYTES 14u
void stamp_put(unsigned char *out, struct stamp s);
struct stamp stamp_get(const unsigned char *bytes);

enum record_kind {
    RECORD_PUT = 1,
    RECORD_DELETE = 2,
    RECORD_COUNTER = 3, /* a put whose value is a number, plus one slot a writer */
    RECORD_TOUCH = 4,   /* changes the expiry register of the put with the same base; no value */
    /* everything with base <= its base is dead; with `expires`: from that moment on */
    RECORD_FLUSH = 5,
    RECORD_MARKER = 6, /* not data: clean stop, positions, claims, promises */
};

/* Attributes: tag u8, length u16 (little-endian), bytes. Unknown tags are kept and passed on. */
enum attr_tag {
    ATTR_CONTENT_TYPE = 1,
    ATTR_CONTENT_ENCODING = 2,
    ATTR_CACHE_CONTROL = 3,
    ATTR_CONTENT_DISPOSITION = 4,
    ATTR_CLIENT_CAS = 5,    /* u64: the cas that the client chose */
    ATTR_KEY_IS_BINARY = 6, /* no bytes: stored through a base64 key */
};

/* Limits that the format allows; the server's own limits are lower. */
#define RECORD_KEY_MAX (64u * 1024)
#define RECORD_ATTRS_MAX (64u * 1024 - 1)
#define RECORD_VALUE_MAX (1024u * 1024 * 1024)

/* One writer's share of a counter. */
struct counter_slot {
    struct stamp stamp; /* of the newest increment in it */
    int64_t sum;        /* of the increments */
};
#define RECORD_SLOTS_MAX 64

struct record {
    enum record_kind kind;
    uint32_t flags;      /* client flags, opaque to us */
    int64_t expires_ms;  /* Unix milliseconds, 0 = never; of a delete always 0 */
    uint64_t seq;        /* place in this log */
    struct stamp base;   /* of the set or delete that made the record */
    struct stamp logged; /* this log's own clock when it was appended */
    struct stamp touch;  /* who set expires_ms; of a put its base */
    uint64_t client_cas; /* with has_client_cas: what the client chose */
    bool has_client_cas;
    struct slice key;
    struct slice attrs; /* encoded list, see attr_next() */
    struct slice value; /* empty when the value lies in a file of its own (big_bytes > 0) */
    uint64_t big_file;  /* number of the file below big/, when big_bytes > 0 */
    uint64_t big_bytes; /* length of the value in that file */
    uint64_t big_sum;   /* XXH3-64 of key, attributes and that value */
    unsigned slot_count;
    /* valid up to slot_count; ascending (node, epoch) */
    struct counter_slot slots[RECORD_SLOTS_MAX];
    /* how many records before this one were not known to be synced when it was written */
    uint32_t unsynced;
    bool cut; /* it had expired: attributes and value were let go, and it never shows again */
};

/* What a client sees as "cas": client-chosen, else the base version; of a counter that plus the sum
 * of (slot - base version), so that every change of it changes its cas. */
uint64_t record_cas(const struct record *r);

/* Length of the value as stored (not of a counter's shown text). */
uint64_t record_value_bytes(const struct record *r);

/* ---- bytes in the log (docs/format.md, "Record") ---- */

#define RECORD_HEAD_FIXED 76u
/* Longest head: the fixed part and every optional field. */
#define RECORD_HEAD_MAX                                                                            \
    (RECORD_HEAD_FIXED + 14 + 14 + 15 + 24 + 1 + RECORD_SLOTS_MAX * 22 + 1 + 255 * 14)

/* Where the parts of an encoded record lie. The whole is head, key, attributes, value, without
 * gaps. */
struct record_layout {
    uint32_t head_len;
    uint32_t key_len;
    uint32_t attrs_len;
    uint32_t value_len;
    uint64_t body_sum; /* XXH3-64 over key, attributes, value */
};

enum record_parse { RECORD_DONE, RECORD_MORE, RECORD_BAD };

static inline uint64_t record_layout_length(const struct record_layout *l)
{
    return (uint64_t)l->head_len + l->key_len + l->attrs_len + l->value_len;
}

/* `salt` is the store's: the checksum of a head depends on it, so that the bytes of another store's
 * log, inside a value, are no records here. */

/* Writes the head (fixed part, optional fields, checksum) of a record to out (room for
 * RECORD_HEAD_MAX bytes); lengths come from r's slices. Returns the head's length. */
size_t record_encode_head(uint64_t salt, const struct record *r, uint64_t body_sum,
                          unsigned char *out);

/* Reads and checks a head at the start of `bytes`. RECORD_DONE: the scalar fields of *out and
 * *layout are set, the slices are empty, the body was not looked at. RECORD_MORE: not enough bytes
 * to tell. RECORD_BAD: not a record. */
enum record_parse record_decode_head(uint64_t salt, struct slice bytes, struct record *out,
                                     struct record_layout *layout);

/* Reads and checks a whole record; out's slices point into `bytes`. *used: its length. */
enum record_parse record_decode(uint64_t salt, struct slice bytes, struct record *out,
                                size_t *used);

/* Sets out's slices to the parts of a body (key, attributes, value, one behind the other). */
void record_set_body(struct record *out, const struct record_layout *layout, const char *body);

/* ---- attributes ---- */

/* Walks an attribute list: at *rest, the first time the whole list. False at the end or when it is
 * malformed. */
bool attr_next(struct slice *rest, uint8_t *tag, struct slice *bytes);

/* Finds one attribute; false if it is absent. */
bool attr_find(struct slice attrs, enum attr_tag tag, struct slice *bytes);

/* Appends one attribute to out (room for at least 3 + bytes.len bytes); returns the bytes used. */
size_t attr_put(char *out, enum attr_tag tag, struct slice bytes);

#endif
