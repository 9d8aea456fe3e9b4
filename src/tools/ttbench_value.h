/*
 * ttbench_value.h - values that can be made again from their key and version, and recognised when
 * they are read back.
 *
 * Provides: struct value (produce any part of a value), struct value_check (verify a value that
 *           arrives in pieces), struct value_sizes (which length a value gets).
 * Used by:  ttbench.
 * Threads:  value_init() once before threads start; the rest is pure.
 *
 * A value of 24 bytes or more begins with the hash of its key, its version and its length (8 bytes
 * each, little-endian); the rest is a window into one table of random bytes, at a place that key
 * and version choose. So whoever reads a value knows which version it is, and truncated, shifted,
 * mixed or foreign bytes do not pass. The table repeats with a prime period: a shift by a whole
 * number of pages, sectors or buffers shows. Shorter values have no room for the head: they depend
 * on the key alone.
 */
#ifndef TOOLS_TTBENCH_VALUE_H
#define TOOLS_TTBENCH_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum {
    VALUE_HEAD_BYTES = 24,
    VALUE_SIZES_MAX = 16,
};

/* value_check_start(): any version will do. */
#define VALUE_ANY_VERSION UINT64_MAX

struct value {
    uint64_t version;
    uint64_t len;
    uint32_t offset; /* of the window in the table */
    size_t head_len; /* VALUE_HEAD_BYTES, or 0 for short values */
    unsigned char head[VALUE_HEAD_BYTES];
};

/* Fills the table. */
void value_init(void);

void value_make(struct value *v, uint64_t key_hash, uint64_t version, uint64_t len);

/* Writes the bytes [pos, pos + n) of the value to out; pos + n must not exceed v->len. */
void value_bytes(const struct value *v, uint64_t pos, char *out, size_t n);

/* A value on its way in. */
struct value_check {
    uint64_t key_hash;
    uint64_t want_version; /* or VALUE_ANY_VERSION */
    uint64_t len;          /* as the reply announced it */
    uint64_t pos;
    bool wrong;
    struct value expected; /* known once pos has passed the head */
    unsigned char head[VALUE_HEAD_BYTES];
};

void value_check_start(struct value_check *check, uint64_t key_hash, uint64_t want_version,
                       uint64_t len);

/* The next bytes of the value; together never more than check->len. Sets check->wrong, for good, at
 * the first difference. */
void value_check_add(struct value_check *check, struct slice piece);

/* Lengths: one of a list, or evenly from a range. */
struct value_sizes {
    uint64_t size[VALUE_SIZES_MAX]; /* is_range: [0] lowest, [1] highest */
    unsigned count;
    bool is_range;
};

/* "1k", "1k,10k,100k" (equally often) or "100-2k". False if the text is none of these. */
bool value_sizes_parse(struct slice text, struct value_sizes *out);

/* The length of this version of this key's value. */
uint64_t value_sizes_pick(const struct value_sizes *sizes, uint64_t key_hash, uint64_t version);

uint64_t value_sizes_max(const struct value_sizes *sizes);

/* A well mixed function of its argument. */
uint64_t value_mix(uint64_t x);

#endif
