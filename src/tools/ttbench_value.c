/*
 * ttbench_value.c - values that can be made again from their key and version (ttbench_value.h).
 */
#include "tools/ttbench_value.h"

#include <string.h>

#include "base/bytes.h"
#include "base/num.h"

/* Prime, and small enough that the table stays in the cache while large values are checked. */
#define TABLE_PERIOD 65521u

/* Twice the period, so that a window of one period is contiguous wherever it starts. */
static char table[2 * TABLE_PERIOD];

/* The finalizer of splitmix64: every input bit changes half of the output bits. */
uint64_t value_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void value_init(void)
{
    for (uint32_t i = 0; i < TABLE_PERIOD; i++)
        table[i] = (char)(value_mix(i) & 0xff);
    memcpy(table + TABLE_PERIOD, table, TABLE_PERIOD);
}

void value_make(struct value *v, uint64_t key_hash, uint64_t version, uint64_t len)
{
    bool has_head = len >= VALUE_HEAD_BYTES;

    v->version = version;
    v->len = len;
    v->head_len = has_head ? VALUE_HEAD_BYTES : 0;
    v->offset = (uint32_t)(value_mix(has_head ? key_hash ^ version : key_hash) % TABLE_PERIOD);
    put_u64le(v->head, key_hash);
    put_u64le(v->head + 8, version);
    put_u64le(v->head + 16, len);
}

/* The longest contiguous piece of the value from pos on, n bytes at most. */
static struct slice value_piece(const struct value *v, uint64_t pos, size_t n)
{
    if (pos < v->head_len) {
        size_t left = v->head_len - (size_t)pos;

        return slice_of(v->head + pos, n < left ? n : left);
    }
    return slice_of(table + (v->offset + pos) % TABLE_PERIOD, n < TABLE_PERIOD ? n : TABLE_PERIOD);
}

void value_bytes(const struct value *v, uint64_t pos, char *out, size_t n)
{
    while (n > 0) {
        struct slice piece = value_piece(v, pos, n);

        memcpy(out, piece.ptr, piece.len);
        out += piece.len;
        pos += piece.len;
        n -= piece.len;
    }
}

void value_check_start(struct value_check *check, uint64_t key_hash, uint64_t want_version,
                       uint64_t len)
{
    check->key_hash = key_hash;
    check->want_version = want_version;
    check->len = len;
    check->pos = 0;
    check->wrong = false;
    value_make(&check->expected, key_hash, 0, len);
}

/* The head is complete: it says which value to expect from here on. */
static void value_check_head(struct value_check *check)
{
    uint64_t version = get_u64le(check->head + 8);

    if (get_u64le(check->head) != check->key_hash || get_u64le(check->head + 16) != check->len)
        check->wrong = true;
    if (check->want_version != VALUE_ANY_VERSION && check->want_version != version)
        check->wrong = true;
    value_make(&check->expected, check->key_hash, version, check->len);
}

void value_check_add(struct value_check *check, struct slice piece)
{
    if (check->pos < check->expected.head_len) {
        size_t left = check->expected.head_len - (size_t)check->pos;
        size_t n = piece.len < left ? piece.len : left;

        memcpy(check->head + check->pos, piece.ptr, n);
        check->pos += n;
        piece = slice_after(piece, n);
        if (n == left)
            value_check_head(check);
    }
    while (piece.len > 0 && !check->wrong) {
        struct slice want = value_piece(&check->expected, check->pos, piece.len);

        check->wrong = memcmp(want.ptr, piece.ptr, want.len) != 0;
        check->pos += want.len;
        piece = slice_after(piece, want.len);
    }
}

static bool sizes_parse_range(struct slice text, size_t dash, struct value_sizes *out)
{
    out->is_range = true;
    out->count = 2;
    return parse_size(slice_of(text.ptr, dash), &out->size[0]) &&
           parse_size(slice_after(text, dash + 1), &out->size[1]) && out->size[0] <= out->size[1];
}

bool value_sizes_parse(struct slice text, struct value_sizes *out)
{
    const char *dash = text.len > 0 ? memchr(text.ptr, '-', text.len) : NULL;

    memset(out, 0, sizeof(*out));
    if (dash != NULL)
        return sizes_parse_range(text, (size_t)(dash - text.ptr), out);
    for (;;) {
        const char *comma = text.len > 0 ? memchr(text.ptr, ',', text.len) : NULL;
        size_t len = comma != NULL ? (size_t)(comma - text.ptr) : text.len;

        if (out->count == VALUE_SIZES_MAX ||
            !parse_size(slice_of(text.ptr, len), &out->size[out->count]))
            return false;
        out->count++;
        if (comma == NULL)
            return true;
        text = slice_after(text, len + 1);
    }
}

uint64_t value_sizes_pick(const struct value_sizes *sizes, uint64_t key_hash, uint64_t version)
{
    uint64_t draw;

    if (!sizes->is_range && sizes->count == 1)
        return sizes->size[0];
    draw = value_mix(value_mix(key_hash) + version);
    if (sizes->is_range)
        return sizes->size[0] + draw % (sizes->size[1] - sizes->size[0] + 1);
    return sizes->size[draw % sizes->count];
}

uint64_t value_sizes_max(const struct value_sizes *sizes)
{
    uint64_t max = 0;

    for (unsigned i = 0; i < sizes->count; i++) {
        if (sizes->size[i] > max)
            max = sizes->size[i];
    }
    return max;
}
