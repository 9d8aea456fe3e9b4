/*
 * http_text.c - what stands inside a request's fields, and what goes out.
 *
 * Provides: keys and queries, entity tags, dates, reply heads. See http.h.
 * Used by:  session/http_*.c, session/admin.c.
 * Threads:  pure.
 */
#include <assert.h>

#include "base/num.h"
#include "proto/http.h"

/* ---- keys and queries ---- */

unsigned http_percent_decode(struct slice text, char *room, size_t room_len, struct slice *out)
{
    size_t len = 0;

    if (text.len == 0 || memchr(text.ptr, '%', text.len) == NULL) {
        *out = text;
        return text.len <= room_len ? 0 : 414;
    }
    for (size_t i = 0; i < text.len; i++) {
        uint64_t byte = (unsigned char)text.ptr[i];

        if (byte == '%') {
            if (text.len - i < 3 || !parse_hex_u64(slice_of(text.ptr + i + 1, 2), &byte))
                return 400;
            i += 2;
        }
        if (len == room_len)
            return 414;
        room[len++] = (char)byte;
    }
    *out = slice_of(room, len);
    return 0;
}

unsigned http_key_decode(struct slice path, char *room, size_t room_len, struct slice *key)
{
    if (path.len > 0 && path.ptr[0] == '/')
        path = slice_after(path, 1);
    return http_percent_decode(path, room, room_len, key);
}

size_t http_percent_encode(struct slice text, char *out)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = 0;

    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '-' || c == '.' || c == '_' || c == '~' || c == '/') {
            out[len++] = (char)c;
        } else {
            out[len++] = '%';
            out[len++] = hex[c >> 4];
            out[len++] = hex[c & 15];
        }
    }
    return len;
}

bool http_query_find(struct slice query, const char *name, struct slice *value)
{
    size_t name_len = strlen(name);

    while (query.len > 0) {
        const char *mark = memchr(query.ptr, '&', query.len);
        size_t len = mark != NULL ? (size_t)(mark - query.ptr) : query.len;

        if (len > name_len && query.ptr[name_len] == '=' &&
            memcmp(query.ptr, name, name_len) == 0) {
            *value = slice_of(query.ptr + name_len + 1, len - name_len - 1);
            return true;
        }
        query = slice_after(query, mark != NULL ? len + 1 : len);
    }
    return false;
}

/* ---- entity tags and types ---- */

/* Takes the next tag off a list, without its W/. False at the end or where it is malformed. */
static bool etag_next(struct slice *list, struct slice *tag)
{
    const char *end;

    while (list->len > 0 && (list->ptr[0] == ' ' || list->ptr[0] == '\t' || list->ptr[0] == ','))
        *list = slice_after(*list, 1);
    if (list->len >= 2 && memcmp(list->ptr, "W/", 2) == 0)
        *list = slice_after(*list, 2);
    if (list->len < 2 || list->ptr[0] != '"')
        return false;
    end = memchr(list->ptr + 1, '"', list->len - 1);
    if (end == NULL)
        return false;
    *tag = slice_of(list->ptr, (size_t)(end - list->ptr) + 1);
    *list = slice_after(*list, tag->len);
    return true;
}

bool http_etag_listed(struct slice list, struct slice etag)
{
    struct slice tag;

    if (slice_is(list, "*"))
        return true;
    while (etag_next(&list, &tag)) {
        if (slice_equal(tag, etag))
            return true;
    }
    return false;
}

bool http_type_is_valid(struct slice type)
{
    for (size_t i = 0; i < type.len; i++) {
        unsigned char c = (unsigned char)type.ptr[i];

        if (c < ' ' || c == 0x7f)
            return false;
    }
    return type.len > 0 && type.len <= HTTP_TYPE_MAX;
}

/* ---- dates ---- */

static const char day_names[7][4] = {"Thu", "Fri", "Sat", "Sun",
                                     "Mon", "Tue", "Wed"}; /* from 1970-01-01 */
static const char month_names[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

#define DAY_SECONDS 86400
/* 0000-03-01 to 1970-01-01. */
#define EPOCH_DAYS 719468
#define ERA_DAYS 146097

/* Days since 1970-01-01 of a date in the Gregorian calendar. Years are counted from March, so that
 * the leap day is the last of its year. */
static int64_t days_of_date(int64_t year, unsigned month, unsigned day)
{
    int64_t shifted = month <= 2 ? year - 1 : year;
    int64_t era = shifted / 400;
    int64_t year_of_era = shifted - era * 400;
    unsigned months = month > 2 ? month - 3 : month + 9;
    int64_t day_of_year = (153 * months + 2) / 5 + day - 1;

    return era * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           EPOCH_DAYS;
}

static void date_of_days(int64_t days, int64_t *year, unsigned *month, unsigned *day)
{
    int64_t shifted = days + EPOCH_DAYS;
    int64_t era = shifted / ERA_DAYS;
    int64_t in_era = shifted - era * ERA_DAYS;
    int64_t year_of_era = (in_era - in_era / 1460 + in_era / 36524 - in_era / (ERA_DAYS - 1)) / 365;
    int64_t in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned months = (unsigned)((5 * in_year + 2) / 153);

    *day = (unsigned)(in_year - (153 * months + 2) / 5 + 1);
    *month = months < 10 ? months + 3 : months - 9;
    *year = era * 400 + year_of_era + (*month <= 2 ? 1 : 0);
}

static void put_digits(char *out, unsigned count, uint64_t value)
{
    while (count-- > 0) {
        out[count] = (char)('0' + value % 10);
        value /= 10;
    }
}

void http_date_format(int64_t unix_s, char out[HTTP_DATE_LEN])
{
    int64_t days;
    uint64_t second;
    int64_t year;
    unsigned month;
    unsigned day;

    if (unix_s < 0)
        unix_s = 0;
    days = unix_s / DAY_SECONDS;
    second = (uint64_t)(unix_s % DAY_SECONDS);
    date_of_days(days, &year, &month, &day);
    memcpy(out, "Thu, 01 Jan 1970 00:00:00 GMT", HTTP_DATE_LEN);
    memcpy(out, day_names[days % 7], 3);
    put_digits(out + 5, 2, day);
    memcpy(out + 8, month_names[month - 1], 3);
    put_digits(out + 12, 4, (uint64_t)year);
    put_digits(out + 17, 2, second / 3600);
    put_digits(out + 20, 2, second / 60 % 60);
    put_digits(out + 23, 2, second % 60);
}

/* `len` digits at `at`, not above `limit`. */
static bool take_number(struct slice text, size_t at, size_t len, uint32_t limit, uint32_t *out)
{
    return parse_u32(slice_of(text.ptr + at, len), out) && *out <= limit;
}

bool http_date_parse(struct slice text, int64_t *unix_s)
{
    char again[HTTP_DATE_LEN];
    uint32_t day;
    uint32_t month = 0;
    uint32_t year;
    uint32_t hour;
    uint32_t minute;
    uint32_t second;
    int64_t result;

    if (text.len != HTTP_DATE_LEN || !take_number(text, 5, 2, 31, &day) ||
        !take_number(text, 12, 4, 9999, &year) || !take_number(text, 17, 2, 23, &hour) ||
        !take_number(text, 20, 2, 59, &minute) || !take_number(text, 23, 2, 59, &second))
        return false;
    while (month < 12 && memcmp(text.ptr + 8, month_names[month], 3) != 0)
        month++;
    if (month == 12 || year < 1970 || day == 0)
        return false;
    result = days_of_date(year, month + 1, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
    /* What does not print as it was written (31 April, a wrong weekday, other separators) was no
     * date. */
    http_date_format(result, again);
    if (memcmp(again, text.ptr, HTTP_DATE_LEN) != 0)
        return false;
    *unix_s = result;
    return true;
}

/* ---- reply heads ---- */

static const struct {
    unsigned status;
    const char *reason;
} reasons[] = {
    {100, "Continue"},
    {200, "OK"},
    {201, "Created"},
    {304, "Not Modified"},
    {400, "Bad Request"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {409, "Conflict"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {417, "Expectation Failed"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
};

struct slice http_reason(unsigned status)
{
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (reasons[i].status == status)
            return slice_str(reasons[i].reason);
    }
    return slice_str("Error");
}

static char *put_slice(char *at, struct slice s)
{
    if (s.len > 0)
        memcpy(at, s.ptr, s.len);
    return at + s.len;
}

/* A literal, whose length the compiler knows. */
#define PUT_TEXT(at, text) (memcpy((at), (text), sizeof(text) - 1), (at) + sizeof(text) - 1)

static char *put_status_line(char *at, unsigned status)
{
    if (status == 200) /* the one that counts */
        return PUT_TEXT(at, "HTTP/1.1 200 OK\r\n");
    at = PUT_TEXT(at, "HTTP/1.1 ");
    put_digits(at, 3, status);
    at[3] = ' ';
    at = put_slice(at + 4, http_reason(status));
    return PUT_TEXT(at, "\r\n");
}

/* The lines that speak of the body. */
static char *put_body_fields(char *at, const struct http_reply *r)
{
    if (r->type.len > 0) {
        at = PUT_TEXT(at, "Content-Type: ");
        at = put_slice(at, r->type);
        at = PUT_TEXT(at, "\r\n");
    }
    if (!r->no_length) {
        at = PUT_TEXT(at, "Content-Length: ");
        at += format_u64(at, r->length);
        at = PUT_TEXT(at, "\r\n");
    }
    if (r->etag.len > 0) {
        at = PUT_TEXT(at, "ETag: ");
        at = put_slice(at, r->etag);
        at = PUT_TEXT(at, "\r\n");
    }
    if (r->modified_s > 0) {
        at = PUT_TEXT(at, "Last-Modified: ");
        http_date_format(r->modified_s, at);
        at += HTTP_DATE_LEN;
        at = PUT_TEXT(at, "\r\n");
    }
    return at;
}

size_t http_reply_format(char *out, const struct http_reply *r)
{
    char *at = put_status_line(out, r->status);

    assert(r->type.len <= HTTP_TYPE_MAX && r->etag.len <= HTTP_ETAG_MAX &&
           r->extra.len <= HTTP_EXTRA_MAX && r->date.len == HTTP_DATE_LEN);
    at = PUT_TEXT(at, "Date: ");
    at = put_slice(at, r->date);
    at = PUT_TEXT(at, "\r\n");
    at = put_body_fields(at, r);
    if (r->is_value)
        at =
            PUT_TEXT(at, "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: sandbox\r\n");
    at = put_slice(at, r->extra);
    if (r->close)
        at = PUT_TEXT(at, "Connection: close\r\n");
    else if (r->says_keep_alive)
        at = PUT_TEXT(at, "Connection: keep-alive\r\n");
    at = PUT_TEXT(at, "\r\n");
    return (size_t)(at - out);
}
