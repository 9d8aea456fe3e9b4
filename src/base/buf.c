/*
 * buf.c - a growing byte buffer.
 *
 * Used by:  sessions, the store, the tools.
 * Threads:  belongs to its owner.
 */
#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUF_FIRST_BYTES = 256 };

/* No object is larger than this; doubling what is below cannot overflow. */
#define BUF_MAX_BYTES ((size_t)PTRDIFF_MAX / 2)

int buf_reserve(struct buf *b, size_t n)
{
    size_t need;
    size_t cap = b->cap > 0 ? b->cap : BUF_FIRST_BYTES;
    char *data;

    if (n > BUF_MAX_BYTES || b->len > BUF_MAX_BYTES - n)
        return -ENOMEM;
    need = b->len + n;
    if (need <= b->cap)
        return 0;
    while (cap < need)
        cap *= 2;
    data = realloc(b->data, cap);
    if (data == NULL)
        return -ENOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

int buf_add(struct buf *b, const void *data, size_t len)
{
    int rc = buf_reserve(b, len);

    if (rc != 0)
        return rc;
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

int buf_add_slice(struct buf *b, struct slice s)
{
    return buf_add(b, s.ptr, s.len);
}

int buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    int len;
    int rc;

    va_start(args, format);
    len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0)
        return -ENOMEM;
    rc = buf_reserve(b, (size_t)len + 1); /* vsnprintf() ends with a NUL, which is not counted */
    if (rc != 0)
        return rc;
    va_start(args, format);
    vsnprintf(b->data + b->len, (size_t)len + 1, format, args);
    va_end(args);
    b->len += (size_t)len;
    return 0;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}
