/*
 * buf.h - a growing byte buffer.
 *
 * Used by:  sessions (bodies in pieces, status texts), the store, the tools.
 * Threads:  belongs to its owner.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>

#include "base/slice.h"

struct buf {
    char *data;
    size_t len;
    size_t cap;
};

/* Room for n more bytes behind b->len; grows by doubling. 0 or -ENOMEM; the contents stay. */
int buf_reserve(struct buf *b, size_t n);

/* 0 or -ENOMEM. */
int buf_add(struct buf *b, const void *data, size_t len);
int buf_add_slice(struct buf *b, struct slice s);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Frees the memory; the buffer is empty and usable afterwards. */
void buf_free(struct buf *b);

static inline struct slice buf_slice(const struct buf *b)
{
    return slice_of(b->data, b->len);
}

#endif
