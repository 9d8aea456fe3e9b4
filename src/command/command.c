/*
 * command.c - what a request does to a record, whatever protocol it came by.
 *
 * Provides: command_expires_ms(), command_shown_value(), the compute steps.
 * Used by:  the protocol sessions.
 * Threads:  pure.
 *
 * A counter shows its base value plus what every writer has added to it. The sum is exact (128
 * bits, signed): two decrements at once on two servers may take it below zero, where it shows 0 but
 * is remembered as a debt, so that the sum of all acknowledged changes stays right.
 */
#include "command/command.h"

__extension__ typedef __int128 wide;

/* A moment that is over for certain, and not 0, which means never. */
#define LONG_AGO_MS 1

int64_t command_expires_ms(int64_t exptime, int64_t now_ms)
{
    if (exptime == 0)
        return 0;
    if (exptime < 0)
        return LONG_AGO_MS;
    if (exptime <= COMMAND_RELATIVE_MAX_S)
        return now_ms + exptime * 1000;
    return exptime > INT64_MAX / 1000 ? INT64_MAX : exptime * 1000;
}

int64_t command_flush_at_ms(int64_t delay, int64_t now_ms)
{
    int64_t at_ms = command_expires_ms(delay, now_ms);

    return at_ms <= now_ms ? 0 : at_ms;
}

/* Text that incr and decr take for a number: digits, blanks around them, not longer than a number
 * can be. */
static bool parse_number(struct slice text, uint64_t *out)
{
    if (text.len > NUM_TEXT_MAX)
        return false;
    while (text.len > 0 && text.ptr[0] == ' ')
        text = slice_after(text, 1);
    while (text.len > 0 && text.ptr[text.len - 1] == ' ')
        text.len--;
    return parse_u64(text, out);
}

/* Base value and slots added up. False: the base is no number. */
static bool exact_sum(const struct record *rec, wide *out)
{
    uint64_t base;

    if (!parse_number(rec->value, &base))
        return false;
    *out = (wide)base;
    for (unsigned i = 0; i < rec->slot_count; i++)
        *out += rec->slots[i].sum;
    return true;
}

/* What is shown of a sum. */
static uint64_t shown(wide sum)
{
    return sum < 0 ? 0 : (uint64_t)sum;
}

struct slice command_shown_value(const struct record *rec, char text[NUM_TEXT_MAX])
{
    wide sum;

    if (rec->kind != RECORD_COUNTER || !exact_sum(rec, &sum))
        return rec->value;
    return slice_of(text, format_u64(text, shown(sum)));
}

/* A put that keeps everything but the value. A cas that the client chose for the old value goes:
 * the new value must have a new one. That attribute always stands last. */
static void keep_the_rest(const struct record *now, struct store_change *out)
{
    struct slice rest = now->attrs;
    struct slice bytes;
    uint8_t tag;

    out->kind = CHANGE_PUT;
    out->flags = now->flags;
    out->expires_ms = now->expires_ms;
    out->attrs = now->attrs;
    for (size_t start = 0; attr_next(&rest, &tag, &bytes); start = now->attrs.len - rest.len) {
        if (tag == ATTR_CLIENT_CAS && rest.len == 0)
            out->attrs.len = start;
    }
}

static enum store_status join(struct store_write *w, const struct record *now, bool value_first,
                              struct store_change *out)
{
    struct slice added = slice_of(w->value, w->value_len);
    struct slice present;
    bool is_counter;

    _Static_assert(sizeof(w->scratch) >= NUM_TEXT_MAX, "a counter's text must fit");
    if (now == NULL)
        return STORE_NOT_STORED;
    present = command_shown_value(now, w->scratch);
    is_counter = now->kind == RECORD_COUNTER;
    if ((is_counter ? present.len : record_value_bytes(now)) + added.len > w->argument[0])
        return STORE_TOO_LARGE;
    keep_the_rest(now, out);
    if (!is_counter) /* its value need not be at hand */
        out->kind = CHANGE_EXTEND;
    if (is_counter)
        out->pieces[value_first ? 1 : 0] = present;
    out->pieces[value_first ? 0 : 1] = added;
    return STORE_OK;
}

enum store_status command_append(struct store_write *w, const struct record *now,
                                 struct store_change *out)
{
    return join(w, now, false, out);
}

enum store_status command_prepend(struct store_write *w, const struct record *now,
                                  struct store_change *out)
{
    return join(w, now, true, out);
}

/* A new base with this number. */
static void put_number(struct store_write *w, const struct record *now, uint64_t number,
                       struct store_change *out)
{
    keep_the_rest(now, out);
    out->pieces[0] = slice_of(w->scratch, format_u64(w->scratch, number));
    out->pieces[1] = slice_of(NULL, 0);
}

/* True if every slot can take the delta. Which slot is this server's own only the engine knows. */
static bool slots_can_take(const struct record *now, int64_t delta)
{
    int64_t sum;

    for (unsigned i = 0; i < now->slot_count; i++) {
        if (__builtin_add_overflow(now->slots[i].sum, delta, &sum))
            return false;
    }
    return true;
}

/* Adds `delta` to the sum, as an increment of this server's slot where that is possible: increments
 * of several servers at once are then all counted. What passes 2^64, or a slot's range, becomes a
 * new base. */
static enum store_status change_by(struct store_write *w, const struct record *now, wide sum,
                                   wide delta, struct store_change *out)
{
    wide after = sum + delta;
    bool fits = delta >= INT64_MIN && delta <= INT64_MAX && slots_can_take(now, (int64_t)delta);

    w->reply = shown(after);
    if (fits && (after <= (wide)UINT64_MAX || delta <= 0)) {
        out->kind = CHANGE_COUNTER;
        out->delta = (int64_t)delta;
    } else {
        put_number(w, now, w->reply, out);
    }
    return STORE_OK;
}

enum store_status command_incr(struct store_write *w, const struct record *now,
                               struct store_change *out)
{
    wide sum;

    if (now == NULL)
        return STORE_NOT_FOUND;
    if (!exact_sum(now, &sum))
        return STORE_BAD_VALUE;
    return change_by(w, now, sum, (wide)w->argument[0], out);
}

enum store_status command_decr(struct store_write *w, const struct record *now,
                               struct store_change *out)
{
    uint64_t asked = w->argument[0];
    wide sum;

    if (now == NULL)
        return STORE_NOT_FOUND;
    if (!exact_sum(now, &sum))
        return STORE_BAD_VALUE;
    return change_by(w, now, sum, -(wide)(asked < shown(sum) ? asked : shown(sum)), out);
}
