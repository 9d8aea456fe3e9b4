/*
 * command.h - what a request does to a record, whatever protocol it came by.
 *
 * Provides: times as clients write them, the compute steps of append, prepend, incr and decr, and
 *           the bytes that a client sees of a record.
 * Used by:  the protocol sessions (which fill struct store_write with it) and whoever shows values.
 * Threads:  pure. The compute steps run on the engine's thread and may run again for one write.
 */
#ifndef COMMAND_COMMAND_H
#define COMMAND_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/num.h"
#include "base/slice.h"
#include "store/record.h"
#include "store/store.h"

/* memcached's border: up to it an exptime counts from now, above it is Unix time. */
#define COMMAND_RELATIVE_MAX_S (30 * 24 * 60 * 60)

/* memcached's exptime (seconds) as the Unix milliseconds that are stored: 0 never; negative, or in
 * the past: a moment that is over. Never 0 for an exptime other than 0. */
int64_t command_expires_ms(int64_t exptime, int64_t now_ms);

/* The delay of flush_all (seconds, as an exptime; negative: now) as store_write.flush_at_ms. */
int64_t command_flush_at_ms(int64_t delay, int64_t now_ms);

/* The value as clients see it. `text` is room for the number that a counter shows; the result
 * points into it or into the record. Of a counter whose base is no number: the base. rec->value
 * must be there: what is sent from a file is never a counter. */
struct slice command_shown_value(const struct record *rec, char text[NUM_TEXT_MAX]);

/*
 * Compute steps for STORE_UPDATE.
 *
 * append, prepend: w->value goes behind or before the value; flags, expiry and attributes stay;
 *   argument[0] is the largest value allowed. STORE_NOT_STORED when absent; STORE_TOO_LARGE above
 *   that, or when the engine has not brought a big value into memory.
 * incr, decr: argument[0] is the delta; reply is the number shown afterwards; flags, expiry and
 *   attributes stay. STORE_NOT_FOUND when absent, STORE_BAD_VALUE for what is no number.
 *   incr wraps at 2^64, decr stops at 0.
 */
store_compute command_append;
store_compute command_prepend;
store_compute command_incr;
store_compute command_decr;

#endif
