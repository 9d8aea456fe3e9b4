/*
 * segment_cursor.c - the records of a segment one after the other. See segment_cursor.h.
 */
#include "store/logstore/segment_cursor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/io.h"

#define WINDOW_BYTES (1024u * 1024)

int segment_cursor_open(struct segment_cursor *c, const struct segment *s, uint64_t end,
                        uint64_t salt)
{
    *c = (struct segment_cursor){.fd = -1, .salt = salt, .next = s->header_bytes, .end = end};
    c->window_at = c->next;
    c->room = WINDOW_BYTES;
    c->window = malloc(c->room);
    if (c->window == NULL)
        return -ENOMEM;
    c->fd = io_open(s->path, O_RDONLY, 0);
    if (c->fd < 0) {
        int rc = c->fd;

        segment_cursor_close(c);
        return rc;
    }
    (void)posix_fadvise(c->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    return 0;
}

void segment_cursor_close(struct segment_cursor *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->window);
    c->fd = -1;
    c->window = NULL;
}

/* Lets the window begin at the next record. 0, -EUCLEAN when the file is too short, or -errno. */
static int fill(struct segment_cursor *c)
{
    uint64_t left = c->end - c->next;
    size_t want = left < c->room ? (size_t)left : c->room;
    int rc = io_read_full(c->fd, c->window, want, (off_t)c->next);

    c->window_at = c->next;
    c->len = rc == 0 ? want : 0;
    return rc == -ENODATA ? -EUCLEAN : rc;
}

/* The record needs more bytes than the window has of it. 0, -EUCLEAN when there are no more, or
 * -errno. */
static int fetch_more(struct segment_cursor *c)
{
    if (c->window_at + c->len >= c->end)
        return -EUCLEAN;
    if (c->next == c->window_at && c->len == c->room) {
        char *grown = realloc(c->window, c->room * 2);

        if (grown == NULL)
            return -ENOMEM;
        c->window = grown;
        c->room *= 2;
    }
    return fill(c);
}

int segment_cursor_next(struct segment_cursor *c, struct record *r, struct slice *bytes,
                        uint64_t *offset)
{
    if (c->next >= c->end)
        return 0;
    for (;;) {
        size_t skip = (size_t)(c->next - c->window_at);
        struct slice rest = slice_of(c->window + skip, c->len - skip);
        size_t used;
        int rc;

        switch (record_decode(c->salt, rest, r, &used)) {
        case RECORD_BAD: return -EUCLEAN;
        case RECORD_DONE:
            *bytes = slice_of(rest.ptr, used);
            *offset = c->next;
            c->next += used;
            return 1;
        case RECORD_MORE: break;
        }
        rc = fetch_more(c);
        if (rc != 0)
            return rc;
    }
}
