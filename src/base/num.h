/*
 * num.h - the one checked parser for integers from input, and their printing.
 *
 * Used by:  every parser, the option table, the tools.
 * Threads:  pure.
 */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

/* Longest decimal text of a u64, or of an i64 with its sign. */
#define NUM_TEXT_MAX 20

/* Decimal digits only: no sign, no blanks, no empty string.
 * Returns false on any other byte and on overflow; *out is then untouched. */
bool parse_u64(struct slice text, uint64_t *out);

/* The same, refusing what is above 2^32-1. */
bool parse_u32(struct slice text, uint32_t *out);

/* One leading '-' is allowed. */
bool parse_i64(struct slice text, int64_t *out);

/* Hexadecimal digits of either case, 1 to 16 of them, no prefix. */
bool parse_hex_u64(struct slice text, uint64_t *out);

/* A size in bytes: decimal digits, then nothing or one of k m g t (either case, powers of 1024). */
bool parse_size(struct slice text, uint64_t *out);

/* Writes the decimal text of v without a NUL to out (room for NUM_TEXT_MAX bytes); returns its
 * length. */
size_t format_u64(char *out, uint64_t v);
size_t format_i64(char *out, int64_t v);

#endif
