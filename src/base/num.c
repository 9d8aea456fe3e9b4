/*
 * num.c - the one checked parser for integers from input, and their printing.
 *
 * Provides: parse_u64() parse_u32() parse_i64() parse_hex_u64() parse_size(), format_u64(),
 *           format_i64().
 * Used by:  every parser, the option table, the tools.
 * Threads:  pure.
 */
#include "base/num.h"

bool parse_u64(struct slice text, uint64_t *out)
{
    uint64_t value = 0;

    if (text.len == 0)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = (unsigned)(unsigned char)text.ptr[i] - '0';

        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

bool parse_u32(struct slice text, uint32_t *out)
{
    uint64_t value;

    if (!parse_u64(text, &value) || value > UINT32_MAX)
        return false;
    *out = (uint32_t)value;
    return true;
}

bool parse_i64(struct slice text, int64_t *out)
{
    bool negative = text.len > 0 && text.ptr[0] == '-';
    uint64_t magnitude;

    if (!parse_u64(negative ? slice_after(text, 1) : text, &magnitude))
        return false;
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0))
        return false;
    /* Negated as unsigned: the magnitude of INT64_MIN has no positive int64_t. */
    *out = (int64_t)(negative ? 0 - magnitude : magnitude);
    return true;
}

/* 0..15, or 16 for a byte that is no hexadecimal digit. */
static unsigned hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return (unsigned)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (unsigned)(c - 'a') + 10;
    if (c >= 'A' && c <= 'F')
        return (unsigned)(c - 'A') + 10;
    return 16;
}

bool parse_hex_u64(struct slice text, uint64_t *out)
{
    uint64_t value = 0;

    if (text.len == 0 || text.len > 16)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        unsigned digit = hex_digit(text.ptr[i]);

        if (digit > 15)
            return false;
        value = value << 4 | digit;
    }
    *out = value;
    return true;
}

/* The power of two that a size's last letter stands for; 0 if it is no unit. */
static unsigned unit_shift(char c)
{
    switch (c) {
    case 'k':
    case 'K': return 10;
    case 'm':
    case 'M': return 20;
    case 'g':
    case 'G': return 30;
    case 't':
    case 'T': return 40;
    default: return 0;
    }
}

bool parse_size(struct slice text, uint64_t *out)
{
    unsigned shift = text.len > 0 ? unit_shift(text.ptr[text.len - 1]) : 0;
    uint64_t value;

    if (shift > 0)
        text.len--;
    if (!parse_u64(text, &value) || value > UINT64_MAX >> shift)
        return false;
    *out = value << shift;
    return true;
}

size_t format_u64(char *out, uint64_t v)
{
    char text[NUM_TEXT_MAX];
    size_t at = sizeof(text);

    do {
        text[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    memcpy(out, text + at, sizeof(text) - at);
    return sizeof(text) - at;
}

size_t format_i64(char *out, int64_t v)
{
    if (v >= 0)
        return format_u64(out, (uint64_t)v);
    *out = '-';
    return 1 + format_u64(out + 1, 0 - (uint64_t)v);
}
