/*
 * ttbench_keys.h - which key comes next, and how it is spelled.
 *
 * Provides: struct key_space (id to text), struct key_picker (uniform, zipf, sequential),
 *           struct rng.
 * Used by:  ttbench; each thread has its own picker.
 * Threads:  a picker belongs to its owner; a key space is read-only.
 */
#ifndef TOOLS_TTBENCH_KEYS_H
#define TOOLS_TTBENCH_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum { KEY_BYTES_MAX = 250 }; /* memcached's limit */

struct key_space {
    struct slice prefix;
    size_t key_len; /* of every key: the prefix, then the id with leading zeros */
    uint64_t count; /* ids are 0 ... count - 1 */
};

/* False if key_len has no room for the prefix and the largest id, or exceeds KEY_BYTES_MAX. key_len
 * 0: the prefix and ten digits, or more if needed. */
bool key_space_init(struct key_space *space, struct slice prefix, size_t key_len, uint64_t count);

/* Writes the key (space->key_len bytes, no NUL) to out. */
struct slice key_text(const struct key_space *space, uint64_t id, char *out);

struct rng {
    uint64_t state;
};

uint64_t rng_next(struct rng *r);

/* Evenly from 0 ... n - 1; n > 0. */
uint64_t rng_below(struct rng *r, uint64_t n);

enum key_distribution { KEYS_UNIFORM, KEYS_ZIPF, KEYS_SEQUENTIAL };

struct key_picker {
    enum key_distribution distribution;
    uint64_t count;
    struct rng rng;
    uint64_t next, step; /* sequential: the next id, and how far apart this picker's ids are */
    double exponent;     /* zipf: the rank r is drawn in proportion to r^-exponent */
    double area_first, area_last, squeeze;
};

/* Picker `index` of `pickers` that share one key space. The sequential ones take turns; the others
 * draw independently. exponent > 0, used by zipf only. */
void key_picker_init(struct key_picker *p, enum key_distribution distribution, uint64_t count,
                     double exponent, uint64_t seed, unsigned index, unsigned pickers);

uint64_t key_pick(struct key_picker *p);

#endif
