/*
 * mc_read.c - memcached text: get, gets, gat, gats.
 *
 * Provides: mc_take_keys(), mc_read_key(), mc_answer_read().
 * Used by:  mc_session.c, mc_write.c (gat).
 * Threads:  the connection's worker.
 *
 * A read that the store answers at once uses the thread's own struct mc_read again and again; one
 * that waits for the disk keeps it until then.
 */
#include "session/mc_session.h"

#include <stdlib.h>

#include "command/command.h"
#include "session/held_value.h"

/* Values in memory of this size and up are not copied to the output. */
#define MEMORY_PIECE_MIN (16u * 1024)

static const char trailer[] = "\r\nEND\r\n";
#define TRAILER_BYTES 2
#define TRAILER_END_BYTES 7

/* One read under way. */
struct mc_read {
    struct store_get get;
    struct mc_session *session; /* NULL: the connection is gone */
    bool in_use;
    bool done;
    bool with_end;
    char key[MC_KEY_MAX];
};

/* The one that suffices as long as nothing waits for the disk: about 3 KiB that a get need not
 * allocate. */
static _Thread_local struct mc_read thread_read;

static struct mc_read *read_new(void)
{
    struct mc_read *r = &thread_read;

    if (r->in_use)
        r = malloc(sizeof(*r));
    if (r != NULL)
        r->in_use = true;
    return r;
}

static void read_free(struct mc_read *r)
{
    if (r == &thread_read)
        r->in_use = false;
    else
        free(r);
}

static void read_done(struct store_get *get)
{
    struct mc_read *r = get->owner;

    r->done = true;
    if (r->session != NULL) {
        conn_wake(r->session->conn);
        return;
    }
    if (get->status == STORE_OK)
        store_get_release(get);
    read_free(r);
}

/* ---- the reply ---- */

static size_t format_header(const struct mc_session *s, const struct store_get *get,
                            uint64_t value_bytes, char *out)
{
    uint64_t cas;

    if ((s->info->flags & MC_SHOWS_CAS) == 0)
        return mc_format_value(out, get->key, get->rec.flags, value_bytes, NULL);
    cas = record_cas(&get->rec);
    return mc_format_value(out, get->key, get->rec.flags, value_bytes, &cas);
}

/* Header, value and trailer in one piece. */
static void answer_small(struct mc_session *s, struct store_get *get, struct slice value,
                         size_t trailer_bytes)
{
    char *out = conn_room(s->conn, MC_VALUE_LINE_MAX + value.len + TRAILER_END_BYTES);
    size_t n;

    if (out == NULL)
        return;
    n = format_header(s, get, value.len, out);
    if (value.len > 0)
        memcpy(out + n, value.ptr, value.len);
    n += value.len;
    memcpy(out + n, trailer, trailer_bytes);
    conn_commit(s->conn, n + trailer_bytes);
}

/* What cannot be read is not a miss: the error takes the place of END, the rest of the line is
 * skipped. */
static void answer_failure(struct mc_session *s, enum store_status status, bool with_end)
{
    bool busy = status == STORE_NO_MEMORY;
    struct slice line = mc_error_line(busy ? MC_ERROR_NO_MEMORY_GET : mc_error_of(status));

    mc_count(s, busy ? COUNTER_STORE_NO_MEMORY : COUNTER_STORE_ERRORS);
    conn_write(s->conn, line.ptr, line.len);
    s->keys_failed = !with_end;
}

/* The value goes out of where it lies: of a file, or of memory (held != NULL). */
static void answer_large(struct mc_session *s, struct store_get *get, struct held_value *held,
                         size_t trailer_bytes)
{
    uint64_t bytes = get->value_bytes;
    char *out = conn_room(s->conn, MC_VALUE_LINE_MAX);

    if (out != NULL)
        conn_commit(s->conn, format_header(s, get, bytes, out));
    /* Without room the connection is being aborted, and what is written is only released. */
    if (held != NULL)
        held_value_send(s->conn, held);
    else
        held_file_send(s->conn, get, bytes);
    conn_write(s->conn, trailer, trailer_bytes);
}

static void answer_hit(struct mc_session *s, struct store_get *get, bool with_end)
{
    size_t trailer_bytes = with_end ? TRAILER_END_BYTES : TRAILER_BYTES;
    bool in_memory = get->file_fd < 0;
    bool copied = in_memory && (get->hold == NULL || get->rec.value.len < MEMORY_PIECE_MIN);
    struct held_value *held = NULL;
    char text[NUM_TEXT_MAX];

    if (in_memory && !copied)
        held = held_value_take(mc_worker(s), get);
    if (in_memory && !copied && held == NULL) {
        store_get_release(get);
        answer_failure(s, STORE_NO_MEMORY, with_end);
        return;
    }
    mc_count(s, COUNTER_GET_HITS);
    if (copied)
        answer_small(s, get, command_shown_value(&get->rec, text), trailer_bytes);
    else
        answer_large(s, get, held, trailer_bytes);
    store_get_release(get);
}

static void answer_miss(struct mc_session *s, const struct store_get *get, bool with_end)
{
    mc_count(s, COUNTER_GET_MISSES);
    if (get->expired)
        mc_count(s, COUNTER_GET_EXPIRED);
    if (with_end)
        mc_say_end(s);
}

static void answer(struct mc_session *s, struct mc_read *r)
{
    struct store_get *get = &r->get;

    mc_count(s, COUNTER_CMD_GET);
    if (get->cold)
        mc_count(s, COUNTER_GET_COLD);
    if (get->status == STORE_OK)
        answer_hit(s, get, r->with_end);
    else if (get->status == STORE_NOT_FOUND)
        answer_miss(s, get, r->with_end);
    else
        answer_failure(s, get->status, r->with_end);
    read_free(r);
}

/* ---- reading ---- */

void mc_read_key(struct mc_session *s, struct slice key, bool with_end)
{
    struct mc_read *r = read_new();

    if (r == NULL) {
        answer_failure(s, STORE_NO_MEMORY, with_end);
        return;
    }
    memcpy(r->key, key.ptr, key.len);
    r->get.key = slice_of(r->key, key.len);
    r->get.head_only = false;
    r->get.done = read_done;
    r->get.owner = r;
    r->session = s;
    r->done = false;
    r->with_end = with_end;
    if (store_get(mc_worker(s)->port, &r->get)) {
        answer(s, r);
        return;
    }
    s->read = r;
    mc_wait_for(s, MC_WAIT_READ);
}

void mc_answer_read(struct mc_session *s)
{
    struct mc_read *r = s->read;

    if (r == NULL || !r->done)
        return;
    s->read = NULL;
    answer(s, r);
}

void mc_forget_read(struct mc_session *s)
{
    struct mc_read *r = s->read;

    if (r == NULL)
        return;
    s->read = NULL;
    r->session = NULL; /* read_done() will free it */
    if (r->done)
        read_done(&r->get);
}

/* ---- the line ---- */

static void end_keys(struct mc_session *s)
{
    s->phase = MC_PHASE_LINE;
    if (!s->keys_seen && !s->keys_failed) {
        mc_count(s, COUNTER_PROTOCOL_ERRORS);
        mc_say_error(s, MC_ERROR_FORMAT, false);
    } else {
        mc_say_end(s);
    }
}

/* A key of a gat: touched, and read when that is done; the other way round if nothing would be left
 * to read. Returns false if it must wait. */
static bool take_gat_key(struct mc_session *s, struct slice key)
{
    if (s->keys_expire ? !mc_is_idle(s) : s->pending_count >= MC_PENDING_MAX) {
        mc_wait_for(s, s->keys_expire ? MC_WAIT_ANSWERS : MC_WAIT_PENDING);
        return false;
    }
    if (s->keys_failed)
        return true;
    if (s->keys_expire) {
        mc_read_key(s, key, false);
        mc_submit_silent_touch(s, key);
    } else {
        mc_submit_gat(s, key);
    }
    return true;
}

/* A key of the line. Returns false if it must wait. */
static bool take_key(struct mc_session *s, struct slice key, bool last)
{
    bool touches = (s->info->flags & MC_TOUCHES) != 0;

    if (touches && !take_gat_key(s, key))
        return false;
    s->keys_seen = true;
    if (last)
        s->phase = MC_PHASE_LINE;
    if (s->keys_failed)
        return true;
    if (!touches)
        mc_read_key(s, key, last);
    else if (last)
        mc_say_end(s);
    return true;
}

size_t mc_take_keys(struct mc_session *s, struct slice in)
{
    struct slice key;
    bool last;
    size_t used;

    switch (mc_parse_key(in, &key, &last, &used)) {
    case MC_KEY: return take_key(s, key, last) ? used : 0;
    case MC_KEY_LONG:
        s->phase = MC_PHASE_SKIP_KEY;
        s->keys_seen = true;
        mc_count(s, COUNTER_CMD_GET);
        mc_count(s, COUNTER_GET_MISSES);
        return used + mc_take_long_key(s, slice_after(in, used));
    case MC_KEY_END: end_keys(s); return used;
    case MC_KEY_MORE: return used;
    }
    return 0;
}

size_t mc_take_long_key(struct mc_session *s, struct slice in)
{
    size_t n = mc_skip_key(in);

    if (n < in.len)
        s->phase = MC_PHASE_KEYS;
    return n;
}
