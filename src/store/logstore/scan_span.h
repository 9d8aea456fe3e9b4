/*
 * scan_span.h - where a scan begins and ends, in its direction.
 *
 * Used by:  scan.c, scan_long.c.
 * Threads:  plain data.
 */
#ifndef LOGSTORE_SCAN_SPAN_H
#define LOGSTORE_SCAN_SPAN_H

#include <stdbool.h>

#include "base/slice.h"

struct scan_bound {
    bool have;
    bool included; /* the key itself belongs to it */
    struct slice key;
};

struct scan_span {
    struct scan_bound start;
    struct scan_bound end;
    bool reverse;
};

/* Order of two keys in the scan's direction: < 0, 0, > 0. */
static inline int span_order(const struct scan_span *s, struct slice a, struct slice b)
{
    return s->reverse ? slice_compare(b, a) : slice_compare(a, b);
}

/* True: the key lies before the span. */
static inline bool span_is_early(const struct scan_span *s, struct slice key)
{
    return s->start.have && span_order(s, key, s->start.key) < (s->start.included ? 0 : 1);
}

/* True: the key, and all behind it, lie behind the span. */
static inline bool span_is_over(const struct scan_span *s, struct slice key)
{
    return s->end.have && span_order(s, key, s->end.key) > (s->end.included ? 0 : -1);
}

#endif
