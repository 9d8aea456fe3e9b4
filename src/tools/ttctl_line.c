/*
 * ttctl_line.c - see ttctl_line.h.
 */
#include "tools/ttctl_line.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/num.h"
#include "proto/http.h"

/* Columns of key and fields: every byte of key and attributes as %XX, and the names. */
#define COLUMN_MAX (4u * 64 * 1024)

/* Attributes that have a name; others are attribute-N. */
static const struct {
    const char *name;
    uint8_t tag;
} attribute_names[] = {
    {"type", ATTR_CONTENT_TYPE},
    {"encoding", ATTR_CONTENT_ENCODING},
    {"cache-control", ATTR_CACHE_CONTROL},
    {"disposition", ATTR_CONTENT_DISPOSITION},
};

enum { ATTRIBUTE_NAMES = sizeof(attribute_names) / sizeof(attribute_names[0]) };

#define OTHER_ATTRIBUTE "attribute-"

/* ---- writing ---- */

static void put_encoded(FILE *to, struct slice text)
{
    char piece[3 * 256];

    while (text.len > 0) {
        size_t n = text.len < 256 ? text.len : 256;

        fwrite(piece, 1, http_percent_encode(slice_of(text.ptr, n), piece), to);
        text = slice_after(text, n);
    }
}

static void put_attribute(FILE *to, uint8_t tag, struct slice bytes)
{
    int i = 0;

    while (i < ATTRIBUTE_NAMES && attribute_names[i].tag != tag)
        i++;
    if (tag == ATTR_CLIENT_CAS && bytes.len == 8) {
        fprintf(to, "cas=%" PRIu64, get_u64le((const unsigned char *)bytes.ptr));
        return;
    }
    if (tag == ATTR_KEY_IS_BINARY && bytes.len == 0) {
        fputs("binary-key", to);
        return;
    }
    if (i < ATTRIBUTE_NAMES)
        fprintf(to, "%s=", attribute_names[i].name);
    else
        fprintf(to, OTHER_ATTRIBUTE "%u=", tag);
    put_encoded(to, bytes);
}

void line_begin(struct line_writer *w, FILE *to, struct slice key, uint32_t flags,
                int64_t expires_ms, struct slice attrs)
{
    const char *gap = "";
    struct slice bytes;
    uint8_t tag;

    w->to = to;
    w->mode = LINE_UNDECIDED;
    w->kept = 0;
    put_encoded(to, key);
    fputc('\t', to);
    if (flags != 0) {
        fprintf(to, "flags=%" PRIu32, flags);
        gap = " ";
    }
    if (expires_ms != 0) {
        fprintf(to, "%sexpires=%" PRId64, gap, expires_ms);
        gap = " ";
    }
    for (; attr_next(&attrs, &tag, &bytes); gap = " ") {
        fputs(gap, to);
        put_attribute(to, tag, bytes);
    }
    fputs(gap[0] == '\0' ? "-\t" : "\t", to);
}

/* Bytes of the UTF-8 character at the start; 0: that is none. `cut`: it may reach beyond the end. */
static size_t utf8_length(const unsigned char *p, size_t left, bool cut)
{
    size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

    if (p[0] > 0xf4 || length == 0)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if (i == left)
            return cut ? left : 0;
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return length;
}

/* UTF-8 without control bytes, but for those of text. */
static bool is_text(const unsigned char *p, size_t len, bool cut)
{
    while (len > 0) {
        size_t n = utf8_length(p, len, cut);

        if (n == 0 || (p[0] < ' ' && p[0] != '\t' && p[0] != '\n' && p[0] != '\r') || p[0] == 0x7f)
            return false;
        p += n;
        len -= n;
    }
    return true;
}

static void put_text(FILE *to, const unsigned char *p, size_t len)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < len; i++) {
        if (p[i] >= ' ' && p[i] != '%' && p[i] != 0x7f) {
            putc_unlocked(p[i], to);
        } else {
            putc_unlocked('%', to);
            putc_unlocked(digits[p[i] >> 4], to);
            putc_unlocked(digits[p[i] & 15], to);
        }
    }
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Up to three bytes as four digits. */
static void put_group(FILE *to, const unsigned char *p, size_t len)
{
    uint32_t bits =
        (uint32_t)p[0] << 16 | (len > 1 ? (uint32_t)p[1] << 8 : 0) | (len > 2 ? (uint32_t)p[2] : 0);

    for (unsigned i = 0; i < 4; i++)
        putc_unlocked(i <= len ? base64_digits[bits >> (18 - 6 * i) & 63] : '=', to);
}

static void put_base64(struct line_writer *w, const unsigned char *p, size_t len)
{
    for (; len > 0 && w->kept % 3 != 0; p++, len--)
        w->keep[w->kept++] = *p;
    if (w->kept == 3) {
        put_group(w->to, w->keep, 3);
        w->kept = 0;
    }
    if (w->kept > 0)
        return;
    for (; len >= 3; p += 3, len -= 3)
        put_group(w->to, p, 3);
    memcpy(w->keep, p, len);
    w->kept = len;
}

static void put_value(struct line_writer *w, const unsigned char *p, size_t len)
{
    if (w->mode == LINE_TEXT)
        put_text(w->to, p, len);
    else
        put_base64(w, p, len);
}

/* The first bytes decide. */
static void decide(struct line_writer *w, bool more)
{
    unsigned char first[LINE_LOOK_BYTES];
    size_t len = w->kept;

    memcpy(first, w->keep, len);
    w->mode = is_text(first, len, more) ? LINE_TEXT : LINE_BASE64;
    w->kept = 0;
    fputs(w->mode == LINE_TEXT ? "t:" : "b:", w->to);
    put_value(w, first, len);
}

void line_value(struct line_writer *w, struct slice piece)
{
    if (w->mode == LINE_UNDECIDED) {
        size_t room = sizeof(w->keep) - w->kept;
        size_t n = piece.len < room ? piece.len : room;

        if (n > 0)
            memcpy(w->keep + w->kept, piece.ptr, n);
        w->kept += n;
        piece = slice_after(piece, n);
        if (piece.len == 0)
            return;
        decide(w, true);
    }
    if (piece.len > 0)
        put_value(w, (const unsigned char *)piece.ptr, piece.len);
}

void line_end(struct line_writer *w)
{
    if (w->mode == LINE_UNDECIDED)
        decide(w, false);
    if (w->mode == LINE_BASE64 && w->kept > 0)
        put_group(w->to, w->keep, w->kept);
    fputc('\n', w->to);
}

/* ---- reading: columns ---- */

void line_reader_begin(struct line_reader *r, FILE *from)
{
    *r = (struct line_reader){.from = from, .at_end = true};
}

void line_reader_end(struct line_reader *r)
{
    buf_free(&r->column);
    buf_free(&r->key_room);
    buf_free(&r->attrs_room);
}

/* To the line feed or the end. */
static void pass_over(struct line_reader *r)
{
    int c;

    do
        c = getc_unlocked(r->from);
    while (c != '\n' && c != EOF);
    r->at_end = true;
}

static enum line_found bad(struct line_reader *r, const char *why)
{
    r->error = why;
    return LINE_BAD;
}

/* Reads a column and the tab behind it. NULL, or why not; the line may have ended then (*ended). */
static const char *read_column(struct line_reader *r, bool *ended)
{
    int c;

    r->column.len = 0;
    *ended = false;
    while ((c = getc_unlocked(r->from)) != '\t') {
        char byte = (char)c;

        *ended = c == '\n' || c == EOF;
        if (*ended)
            return c == EOF ? "the line is cut off" : "a column is missing";
        if (r->column.len == COLUMN_MAX)
            return "a column is too long";
        if (buf_add(&r->column, &byte, 1) != 0)
            return "out of memory";
    }
    return NULL;
}

static bool decode(struct slice text, struct buf *room, struct slice *out)
{
    size_t at = room->len;

    if (buf_reserve(room, text.len + 1) != 0 ||
        http_percent_decode(text, room->data + at, text.len, out) != 0)
        return false;
    if (out->len > 0)
        memmove(room->data + at, out->ptr, out->len);
    *out = slice_of(room->data + at, out->len);
    return true;
}

/* ---- reading: fields ---- */

static bool add_attribute(struct line_reader *r, uint8_t tag, struct slice bytes)
{
    if (bytes.len > UINT16_MAX || r->attrs_room.len + 3 + bytes.len > RECORD_ATTRS_MAX ||
        buf_reserve(&r->attrs_room, 3 + bytes.len) != 0)
        return false;
    r->attrs_room.len +=
        attr_put(r->attrs_room.data + r->attrs_room.len, (enum attr_tag)tag, bytes);
    return true;
}

static bool add_text_attribute(struct line_reader *r, uint8_t tag, struct slice text)
{
    struct buf room = {0};
    struct slice bytes;
    bool good = decode(text, &room, &bytes) && add_attribute(r, tag, bytes);

    buf_free(&room);
    return good;
}

static bool add_cas(struct line_reader *r, struct slice text)
{
    unsigned char bytes[8];
    uint64_t cas;

    if (!parse_u64(text, &cas))
        return false;
    put_u64le(bytes, cas);
    return add_attribute(r, ATTR_CLIENT_CAS, slice_of(bytes, sizeof(bytes)));
}

/* attribute-N */
static bool other_tag(struct slice name, uint8_t *tag)
{
    struct slice start = slice_str(OTHER_ATTRIBUTE);
    uint32_t number;

    if (!slice_starts(name, start) || !parse_u32(slice_after(name, start.len), &number) ||
        number == 0 || number > UINT8_MAX)
        return false;
    *tag = (uint8_t)number;
    return true;
}

/* One name=value. NULL or what is wrong. */
static const char *take_field(struct line_reader *r, struct slice name, struct slice value)
{
    uint8_t tag = 0;

    if (slice_is(name, "flags"))
        return parse_u32(value, &r->flags) ? NULL : "flags is no number up to 4294967295";
    if (slice_is(name, "expires"))
        return parse_i64(value, &r->expires_ms) ? NULL : "expires is no number";
    if (slice_is(name, "cas"))
        return add_cas(r, value) ? NULL : "cas is no number";
    if (slice_is(name, "binary-key"))
        return add_attribute(r, ATTR_KEY_IS_BINARY, slice_of("", 0)) ? NULL : "too many attributes";
    for (int i = 0; i < ATTRIBUTE_NAMES; i++)
        if (slice_is(name, attribute_names[i].name))
            tag = attribute_names[i].tag;
    if (tag == 0 && !other_tag(name, &tag))
        return "a field has no known name";
    return add_text_attribute(r, tag, value) ? NULL : "an attribute is malformed or too long";
}

static const char *take_fields(struct line_reader *r, struct slice text)
{
    r->flags = 0;
    r->expires_ms = 0;
    r->attrs_room.len = 0;
    if (slice_is(text, "-"))
        text.len = 0;
    while (text.len > 0) {
        const char *blank = memchr(text.ptr, ' ', text.len);
        size_t len = blank == NULL ? text.len : (size_t)(blank - text.ptr);
        const char *sign = memchr(text.ptr, '=', len);
        size_t name_len = sign == NULL ? len : (size_t)(sign - text.ptr);
        struct slice value =
            sign == NULL ? slice_of("", 0) : slice_of(sign + 1, len - name_len - 1);
        const char *why = take_field(r, slice_of(text.ptr, name_len), value);

        if (why != NULL)
            return why;
        text = slice_after(text, blank == NULL ? len : len + 1);
    }
    r->attrs = buf_slice(&r->attrs_room);
    return NULL;
}

/* ---- reading: lines ---- */

/* What is before the value. NULL or what is wrong. */
static const char *read_head(struct line_reader *r, bool *ended)
{
    const char *why = read_column(r, ended);
    int first;

    r->key_room.len = 0;
    if (why != NULL)
        return why;
    if (!decode(buf_slice(&r->column), &r->key_room, &r->key) || r->key.len > RECORD_KEY_MAX)
        return "the key is not percent-encoded, or too long";
    why = read_column(r, ended);
    if (why == NULL)
        why = take_fields(r, buf_slice(&r->column));
    if (why != NULL)
        return why;
    first = getc_unlocked(r->from);
    r->base64 = first == 'b';
    if (first == 't' || first == 'b')
        first = getc_unlocked(r->from);
    else if (first == ':')
        first = '\0';
    *ended = first == '\n' || first == EOF;
    if (first == EOF)
        return "the line is cut off";
    return first == ':' ? NULL : "the value begins neither with t: nor with b:";
}

bool line_skip(struct line_reader *r)
{
    int c;

    if (!r->at_end)
        pass_over(r);
    c = getc_unlocked(r->from);
    if (c == EOF)
        return false;
    ungetc(c, r->from);
    r->number++;
    pass_over(r);
    return true;
}

enum line_found line_next(struct line_reader *r)
{
    const char *why;
    bool ended;
    int c;

    if (!r->at_end)
        pass_over(r);
    for (;;) {
        c = getc_unlocked(r->from);
        if (c == EOF)
            return LINE_NONE;
        r->number++;
        if (c == '#')
            pass_over(r);
        else if (c != '\n')
            break;
    }
    ungetc(c, r->from);
    r->kept = 0;
    r->at_end = false;
    why = read_head(r, &ended);
    if (why == NULL)
        return LINE_RECORD;
    if (!ended)
        pass_over(r);
    r->at_end = true;
    return bad(r, why);
}

/* ---- reading: values ---- */

static int digit_of(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static ssize_t broken(struct line_reader *r, int c, const char *why)
{
    r->error = c == EOF ? "the line is cut off" : why;
    if (c == '\n' || c == EOF)
        r->at_end = true;
    return -1;
}

static ssize_t read_text(struct line_reader *r, char *room, size_t len)
{
    size_t got = 0;

    while (got < len) {
        int c = getc_unlocked(r->from);

        if (c == '\n') {
            r->at_end = true;
            break;
        }
        if (c == '%') {
            int high = getc_unlocked(r->from);
            int low = digit_of(high) < 0 ? high : getc_unlocked(r->from);

            if (digit_of(high) < 0 || digit_of(low) < 0)
                return broken(r, low, "a % in the value has no two digits behind it");
            c = digit_of(high) << 4 | digit_of(low);
        } else if (c == EOF || c == '\t' || c == '\r') {
            return broken(r, c, "a control byte stands in the value");
        }
        room[got++] = (char)c;
    }
    return (ssize_t)got;
}

static int base64_digit(int c)
{
    const char *at = c == EOF || c == '\0' ? NULL : strchr(base64_digits, c);

    return at == NULL ? -1 : (int)(at - base64_digits);
}

/* The next group into `keep`, last byte first. False: malformed (error). */
static bool read_group(struct line_reader *r)
{
    uint32_t bits = 0;
    unsigned digits = 0;
    int c = '\0';

    for (unsigned i = 0; i < 4; i++) {
        c = getc_unlocked(r->from);
        if (i == 0 && c == '\n') {
            r->at_end = true;
            return true;
        }
        if (base64_digit(c) >= 0 && digits == i)
            digits++;
        else if (c != '=' || i < 2)
            return broken(r, c, "the value is no base64") == 0;
        bits = bits << 6 | (base64_digit(c) < 0 ? 0 : (uint32_t)base64_digit(c));
    }
    r->kept = digits - 1;
    for (size_t i = 0; i < r->kept; i++)
        r->keep[r->kept - 1 - i] = (unsigned char)(bits >> (16 - 8 * i));
    if (digits < 4) { /* the last one */
        c = getc_unlocked(r->from);
        if (c != '\n')
            return broken(r, c, "the value is no base64") == 0;
        r->at_end = true;
    }
    return true;
}

static ssize_t read_base64(struct line_reader *r, char *room, size_t len)
{
    size_t got = 0;

    while (got < len) {
        if (r->kept == 0 && r->at_end)
            break;
        if (r->kept == 0 && !read_group(r))
            return -1;
        if (r->kept > 0)
            room[got++] = (char)r->keep[--r->kept];
    }
    return (ssize_t)got;
}

ssize_t line_read_value(struct line_reader *r, char *room, size_t len)
{
    if (r->base64)
        return read_base64(r, room, len);
    return r->at_end ? 0 : read_text(r, room, len);
}
