/*
 * mc_write.c - memcached text: writes under way, and all replies in the order of their requests.
 *
 * Provides: mc_submit*(), mc_say*(), mc_answer_pending(), mc_forget_pending().
 * Used by:  mc_session.c, mc_body.c, mc_read.c.
 * Threads:  the connection's worker.
 */
#include "session/mc_session.h"

#include <stdlib.h>

#include "command/command.h"

#define LINE(text)                                                                                 \
    {                                                                                              \
        text "\r\n", sizeof(text "\r\n") - 1                                                       \
    }
static const struct slice line_end = LINE("END");
static const struct slice line_not_found = LINE("NOT_FOUND");
static const struct slice line_exists = LINE("EXISTS");
static const struct slice line_not_stored = LINE("NOT_STORED");
static const struct slice line_stored = LINE("STORED");
static const struct slice line_deleted = LINE("DELETED");
static const struct slice line_touched = LINE("TOUCHED");
static const struct slice line_ok = LINE("OK");
#undef LINE

enum mc_error mc_error_of(enum store_status status)
{
    switch (status) {
    case STORE_BAD_VALUE: return MC_ERROR_NOT_NUMERIC;
    case STORE_TOO_LARGE: return MC_ERROR_TOO_LARGE;
    case STORE_NO_MEMORY: return MC_ERROR_NO_MEMORY;
    case STORE_NO_SPACE: return MC_ERROR_NO_SPACE;
    case STORE_READ_ONLY: return MC_ERROR_READ_ONLY;
    case STORE_DAMAGED: return MC_ERROR_DAMAGED;
    default: return MC_ERROR_IO;
    }
}

/* ---- the queue ---- */

static void enqueue(struct mc_session *s, struct mc_pending *p)
{
    p->session = s;
    if (s->last == NULL)
        s->first = p;
    else
        s->last->next = p;
    s->last = p;
    s->pending_count++;
    s->pending_bytes += p->charged;
    s->pending_barriers += p->barrier;
}

static struct mc_pending *dequeue(struct mc_session *s)
{
    struct mc_pending *p = s->first;

    s->first = p->next;
    if (s->first == NULL)
        s->last = NULL;
    s->pending_count--;
    s->pending_bytes -= p->charged;
    s->pending_barriers -= p->barrier;
    return p;
}

static void pending_free(struct mc_pending *p)
{
    if (p->write != NULL)
        store_write_free(p->write);
    if (p->charged > 0)
        budget_give(p->budget, p->charged);
    free(p);
}

/* Puts a line into the queue. */
static void say_later(struct mc_session *s, struct slice line, bool ends_keys)
{
    struct mc_pending *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        conn_abort(s->conn);
        return;
    }
    p->line = line;
    p->done = true;
    p->ends_keys = ends_keys;
    enqueue(s, p);
}

void mc_say(struct mc_session *s, struct slice line)
{
    if (mc_is_idle(s))
        conn_write(s->conn, line.ptr, line.len);
    else
        say_later(s, line, false);
}

void mc_say_error(struct mc_session *s, enum mc_error error, bool noreply)
{
    if (!noreply)
        mc_say(s, mc_error_line(error));
}

void mc_say_end(struct mc_session *s)
{
    if (!mc_is_idle(s))
        say_later(s, line_end, true);
    else if (!s->keys_failed)
        conn_write(s->conn, line_end.ptr, line_end.len);
}

/* ---- making writes ---- */

bool mc_may_write(struct mc_session *s)
{
    if (s->pending_barriers > 0 || s->read != NULL)
        mc_wait_for(s, MC_WAIT_ANSWERS);
    else if (s->pending_count >= MC_PENDING_MAX || s->pending_bytes >= MC_PENDING_BYTES)
        mc_wait_for(s, MC_WAIT_PENDING);
    else
        return true;
    return false;
}

static void write_done(struct store_write *w)
{
    struct mc_pending *p = w->owner;

    if (p->session == NULL) {
        pending_free(p);
        return;
    }
    p->done = true;
    conn_wake(p->session->conn);
}

void mc_submit(struct mc_session *s, struct store_write *w, enum mc_command command, bool noreply,
               size_t charged)
{
    struct budget *budget = mc_worker(s)->budget;
    struct mc_pending *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        if (w->spool != NULL)
            store_spool_abandon(w->spool);
        store_write_free(w);
        budget_give(budget, charged);
        mc_count(s, COUNTER_STORE_NO_MEMORY);
        mc_say_error(s, MC_ERROR_NO_MEMORY, noreply);
        return;
    }
    p->write = w;
    p->budget = budget;
    p->charged = charged;
    p->command = command;
    p->noreply = noreply;
    /* A gat reads when its touch is done, and must not see a write behind it; a write with a file
     * of its own may be overtaken in the store. */
    p->barrier = command == MC_GAT || w->spool != NULL;
    w->owner = p;
    w->done = write_done;
    enqueue(s, p);
    store_write_submit(w);
}

/* What the store is asked for by a request without a body. */
static void fill_write(const struct mc_session *s, struct store_write *w,
                       const struct mc_request *request)
{
    int64_t now_ms = mc_now_ms(s);

    switch (request->info->command) {
    case MC_DELETE: w->op = STORE_DELETE; break;
    case MC_TOUCH:
        w->op = STORE_TOUCH;
        w->expires_ms = command_expires_ms(request->exptime, now_ms);
        break;
    case MC_FLUSH_ALL:
        w->op = STORE_FLUSH;
        w->flush_at_ms = command_flush_at_ms(request->exptime, now_ms);
        break;
    default:
        w->op = STORE_UPDATE;
        w->compute = request->info->command == MC_INCR ? command_incr : command_decr;
        w->argument[0] = request->number;
        break;
    }
}

void mc_submit_request(struct mc_session *s, const struct mc_request *request)
{
    struct store_write *w = store_write_new(mc_worker(s)->port, request->key, slice_of(NULL, 0), 0);

    if (w == NULL) {
        mc_count(s, COUNTER_STORE_NO_MEMORY);
        mc_say_error(s, MC_ERROR_NO_MEMORY, request->noreply);
        return;
    }
    fill_write(s, w, request);
    mc_submit(s, w, request->info->command, request->noreply, 0);
}

/* The touch of one key of a gat. */
static void submit_touch(struct mc_session *s, struct slice key, enum mc_command command,
                         bool noreply)
{
    struct store_write *w = store_write_new(mc_worker(s)->port, key, slice_of(NULL, 0), 0);

    if (w == NULL) {
        mc_count(s, COUNTER_STORE_NO_MEMORY);
        s->keys_failed = true;
        mc_say_error(s, MC_ERROR_NO_MEMORY, false);
        return;
    }
    w->op = STORE_TOUCH;
    w->expires_ms = s->keys_expires_ms;
    mc_submit(s, w, command, noreply, 0);
}

void mc_submit_gat(struct mc_session *s, struct slice key)
{
    submit_touch(s, key, MC_GAT, false);
}

void mc_submit_silent_touch(struct mc_session *s, struct slice key)
{
    submit_touch(s, key, MC_TOUCH, true);
}

/* ---- answering ---- */

/* One row a command: its success, and what is counted. COUNTER_COUNT: nothing. */
static const struct outcome {
    const struct slice *ok;
    enum counter asked;
    enum counter hit;
    enum counter miss;
    enum counter mismatch;
} outcomes[] = {
    [MC_SET] = {&line_stored, COUNTER_CMD_SET, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
    [MC_ADD] = {&line_stored, COUNTER_CMD_SET, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
    [MC_REPLACE] = {&line_stored, COUNTER_CMD_SET, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
    [MC_APPEND] = {&line_stored, COUNTER_CMD_SET, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
    [MC_PREPEND] = {&line_stored, COUNTER_CMD_SET, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
    [MC_CAS] = {&line_stored, COUNTER_CMD_SET, COUNTER_CAS_HITS, COUNTER_CAS_MISSES,
                COUNTER_CAS_BADVAL},
    [MC_DELETE] = {&line_deleted, COUNTER_CMD_DELETE, COUNTER_DELETE_HITS, COUNTER_DELETE_MISSES,
                   COUNTER_COUNT},
    [MC_INCR] = {NULL, COUNTER_COUNT, COUNTER_INCR_HITS, COUNTER_INCR_MISSES, COUNTER_COUNT},
    [MC_DECR] = {NULL, COUNTER_COUNT, COUNTER_DECR_HITS, COUNTER_DECR_MISSES, COUNTER_COUNT},
    [MC_TOUCH] = {&line_touched, COUNTER_CMD_TOUCH, COUNTER_TOUCH_HITS, COUNTER_TOUCH_MISSES,
                  COUNTER_COUNT},
    [MC_GAT] = {NULL, COUNTER_CMD_TOUCH, COUNTER_TOUCH_HITS, COUNTER_TOUCH_MISSES, COUNTER_COUNT},
    [MC_FLUSH_ALL] = {&line_ok, COUNTER_CMD_FLUSH, COUNTER_COUNT, COUNTER_COUNT, COUNTER_COUNT},
};

static void count_if(const struct mc_session *s, enum counter which)
{
    if (which != COUNTER_COUNT)
        mc_count(s, which);
}

static void count_outcome(const struct mc_session *s, enum mc_command command,
                          enum store_status status)
{
    const struct outcome *row = &outcomes[command];

    count_if(s, row->asked);
    switch (status) {
    case STORE_OK: count_if(s, row->hit); break;
    case STORE_NOT_FOUND: count_if(s, row->miss); break;
    case STORE_EXISTS: count_if(s, row->mismatch); break;
    case STORE_NOT_STORED:
    case STORE_BAD_VALUE: break;
    case STORE_TOO_LARGE: mc_count(s, COUNTER_STORE_TOO_LARGE); break;
    case STORE_NO_MEMORY: mc_count(s, COUNTER_STORE_NO_MEMORY); break;
    default: mc_count(s, COUNTER_STORE_ERRORS); break;
    }
}

static struct slice line_for(enum mc_command command, enum store_status status)
{
    switch (status) {
    case STORE_OK: return *outcomes[command].ok;
    case STORE_NOT_FOUND: return line_not_found;
    case STORE_EXISTS: return line_exists;
    case STORE_NOT_STORED: return line_not_stored;
    default: return mc_error_line(mc_error_of(status));
    }
}

/* incr, decr: the new number. */
static void answer_number(struct mc_session *s, uint64_t number)
{
    char *out = conn_room(s->conn, NUM_TEXT_MAX + 2);

    if (out != NULL)
        conn_commit(s->conn, mc_format_number(out, number));
}

/* The touch of one key of a gat is done: now it is read. An error takes the place of the whole
 * line's END. */
static void answer_gat(struct mc_session *s, const struct store_write *w)
{
    if (s->keys_failed)
        return;
    if (w->status == STORE_OK) {
        mc_read_key(s, w->key, false);
    } else if (w->status == STORE_NOT_FOUND) {
        mc_count(s, COUNTER_CMD_GET);
        mc_count(s, COUNTER_GET_MISSES);
    } else {
        struct slice line = mc_error_line(mc_error_of(w->status));

        s->keys_failed = true;
        conn_write(s->conn, line.ptr, line.len);
    }
}

static void answer_write(struct mc_session *s, const struct mc_pending *p)
{
    const struct store_write *w = p->write;
    bool number = p->command == MC_INCR || p->command == MC_DECR;
    struct slice line;

    count_outcome(s, p->command, w->status);
    if (p->command == MC_GAT) {
        answer_gat(s, w);
    } else if (p->noreply) {
        return;
    } else if (number && w->status == STORE_OK) {
        answer_number(s, w->reply);
    } else {
        line = line_for(p->command, w->status);
        conn_write(s->conn, line.ptr, line.len);
    }
}

void mc_answer_pending(struct mc_session *s)
{
    while (s->first != NULL && s->first->done && s->read == NULL) {
        struct mc_pending *p = dequeue(s);

        if (p->write != NULL)
            answer_write(s, p);
        else if (!p->ends_keys || !s->keys_failed)
            conn_write(s->conn, p->line.ptr, p->line.len);
        pending_free(p);
    }
}

void mc_forget_pending(struct mc_session *s)
{
    while (s->first != NULL) {
        struct mc_pending *p = dequeue(s);

        p->session = NULL;
        if (p->done)
            pending_free(p);
    }
}
