/*
 * mc_body.c - memcached text: the values of storage commands, as they arrive.
 *
 * Provides: mc_begin_body(), mc_take_body(), mc_begin_swallow().
 * Used by:  mc_session.c.
 * Threads:  the connection's worker.
 *
 * A value that is wholly in the input is copied once, into its write. One that comes in pieces is
 * gathered in a write that grows with what has arrived, never with what was announced. Of a value
 * above STORE_SPOOL_MIN only the beginning is gathered so; then it goes piece by piece to a file of
 * its own. append and prepend are computed in memory and stay there.
 */
#include "session/mc_session.h"

#include <errno.h>
#include <stdlib.h>

#include "command/command.h"

/* The first room for a value that comes in pieces. */
#define ROOM_MIN 4096

/* So much of a big value must have come before a file is begun for it: an announcement alone costs
 * nothing. */
#define SPOOL_FROM (64u * 1024)

/* "\r\n" behind a value. */
#define TAIL_BYTES 2

/* A value that has not arrived wholly. */
struct mc_body {
    struct mc_request request; /* its key points to `key` below */
    char key[MC_KEY_MAX];
    uint64_t got;
    struct store_write *write; /* room for `room` bytes; NULL with spool */
    size_t room;
    struct store_spool *spool;
    size_t charged; /* taken from the budget */
    unsigned tail_got;
    bool tail_bad;
};

static void count_refusal(const struct mc_session *s, enum mc_error error)
{
    if (error == MC_ERROR_TOO_LARGE)
        mc_count(s, COUNTER_STORE_TOO_LARGE);
    else if (error == MC_ERROR_NO_MEMORY)
        mc_count(s, COUNTER_STORE_NO_MEMORY);
    else if (error == MC_ERROR_BAD_CHUNK)
        mc_count(s, COUNTER_PROTOCOL_ERRORS);
    else
        mc_count(s, COUNTER_STORE_ERRORS);
}

static void refuse(struct mc_session *s, const struct mc_request *request, enum mc_error error)
{
    count_refusal(s, error);
    mc_say_error(s, error, request->noreply);
}

/* ---- handing over ---- */

static bool is_join(enum mc_command command)
{
    return command == MC_APPEND || command == MC_PREPEND;
}

/* What the store is asked for. */
static void fill_write(const struct mc_session *s, struct store_write *w,
                       const struct mc_request *request)
{
    enum mc_command command = request->info->command;

    w->op = STORE_PUT;
    w->flags = request->flags;
    if (request->exptime != 0)
        w->expires_ms = command_expires_ms(request->exptime, mc_now_ms(s));
    if (command == MC_ADD) {
        w->guard = STORE_IF_ABSENT;
    } else if (command == MC_REPLACE) {
        w->guard = STORE_IF_PRESENT;
    } else if (command == MC_CAS) {
        w->guard = STORE_IF_CAS;
        w->guard_cas = request->number;
    } else if (is_join(command)) {
        w->op = STORE_UPDATE;
        w->compute = command == MC_APPEND ? command_append : command_prepend;
        w->argument[0] = mc_worker(s)->app->max_value_bytes;
    }
}

static void submit(struct mc_session *s, struct store_write *w, const struct mc_request *request,
                   size_t charged)
{
    fill_write(s, w, request);
    mc_submit(s, w, request->info->command, request->noreply, charged);
}

/* ---- a value that is wholly there ---- */

/* `in` holds it with its tail. */
static void take_whole(struct mc_session *s, const struct mc_request *request, struct slice in)
{
    struct session_worker *worker = mc_worker(s);
    size_t bytes = request->body_bytes;
    struct store_write *w;

    if (in.ptr[bytes] != '\r' || in.ptr[bytes + 1] != '\n') {
        refuse(s, request, MC_ERROR_BAD_CHUNK);
        return;
    }
    if (!budget_take(worker->budget, bytes)) {
        refuse(s, request, MC_ERROR_NO_MEMORY);
        return;
    }
    w = store_write_new(worker->port, request->key, slice_of(NULL, 0), bytes);
    if (w == NULL) {
        budget_give(worker->budget, bytes);
        refuse(s, request, MC_ERROR_NO_MEMORY);
        return;
    }
    if (bytes > 0)
        memcpy(w->value, in.ptr, bytes);
    submit(s, w, request, bytes);
}

/* ---- a value in pieces ---- */

static void on_room(void *arg)
{
    struct mc_session *s = arg;

    conn_wake(s->conn);
}

/* Frees the body and what it holds. */
static void body_free(struct mc_session *s)
{
    struct mc_body *b = s->body;

    s->body = NULL;
    if (b->spool != NULL)
        store_spool_abandon(b->spool);
    if (b->write != NULL)
        store_write_free(b->write);
    if (b->charged > 0)
        budget_give(mc_worker(s)->budget, b->charged);
    free(b);
}

/* Gives the value up; what is still to come of it is swallowed. */
static void body_fail(struct mc_session *s, enum mc_error error)
{
    struct mc_body *b = s->body;
    uint64_t left = b->request.body_bytes - b->got + TAIL_BYTES - b->tail_got;

    refuse(s, &b->request, error);
    body_free(s);
    mc_begin_swallow(s, left);
}

static void begin_pieces(struct mc_session *s, const struct mc_request *request)
{
    struct mc_body *b = calloc(1, sizeof(*b));

    if (b != NULL)
        b->write = store_write_new(mc_worker(s)->port, request->key, slice_of(NULL, 0), 0);
    if (b == NULL || b->write == NULL) {
        free(b);
        refuse(s, request, MC_ERROR_NO_MEMORY);
        mc_begin_swallow(s, (uint64_t)request->body_bytes + TAIL_BYTES);
        return;
    }
    b->request = *request;
    memcpy(b->key, request->key.ptr, request->key.len);
    b->request.key.ptr = b->key;
    s->body = b;
    s->phase = MC_PHASE_BODY;
}

/* Makes room for n more bytes in memory. False: there is none. */
static bool body_reserve(struct mc_session *s, struct mc_body *b, size_t n)
{
    struct budget *budget = mc_worker(s)->budget;
    size_t need = (size_t)b->got + n;
    size_t room = b->room * 2 > ROOM_MIN ? b->room * 2 : ROOM_MIN;
    struct store_write *grown;

    if (need <= b->room)
        return true;
    if (room < need)
        room = need;
    if (room > b->request.body_bytes)
        room = b->request.body_bytes;
    if (!budget_take(budget, room - b->room))
        return false;
    grown = store_write_grow(b->write, room);
    if (grown == NULL) {
        budget_give(budget, room - b->room);
        return false;
    }
    b->charged += room - b->room;
    b->write = grown;
    b->room = room;
    return true;
}

static bool is_spooled(const struct mc_request *request)
{
    return request->body_bytes > STORE_SPOOL_MIN && !is_join(request->info->command);
}

/* From memory to a file. 0 or -errno; the body is to be given up then. */
static int body_spill(struct mc_session *s, struct mc_body *b)
{
    struct session_worker *worker = mc_worker(s);
    int rc;

    if (!budget_take(worker->budget, SESSION_SPOOL_BYTES))
        return -ENOMEM;
    b->charged += SESSION_SPOOL_BYTES;
    rc = store_spool_open(worker->port, b->request.key, slice_of(NULL, 0), b->request.body_bytes,
                          on_room, s, &b->spool);
    if (rc == 0 && b->got > 0)
        rc = store_spool_add(b->spool, slice_of(b->write->value, (size_t)b->got));
    store_write_free(b->write);
    b->write = NULL;
    budget_give(worker->budget, b->room);
    b->charged -= b->room;
    b->room = 0;
    return rc;
}

/* Takes bytes of the value. 0 or -errno. */
static int body_add(struct mc_session *s, struct mc_body *b, struct slice bytes)
{
    int rc = 0;

    if (b->spool == NULL && is_spooled(&b->request) && b->got + bytes.len > SPOOL_FROM)
        rc = body_spill(s, b);
    if (rc != 0)
        return rc;
    if (b->write == NULL)
        return store_spool_add(b->spool, bytes);
    if (!body_reserve(s, b, bytes.len))
        return -ENOMEM;
    memcpy(b->write->value + b->got, bytes.ptr, bytes.len);
    return 0;
}

/* Value and tail are there. */
static void body_finish(struct mc_session *s)
{
    struct mc_body *b = s->body;
    struct store_write *w = b->write;
    size_t charged = b->charged;

    s->phase = MC_PHASE_LINE;
    if (b->tail_bad) {
        refuse(s, &b->request, MC_ERROR_BAD_CHUNK);
        body_free(s);
        return;
    }
    if (w == NULL)
        w = store_write_new(mc_worker(s)->port, b->request.key, slice_of(NULL, 0), 0);
    if (w == NULL) {
        refuse(s, &b->request, MC_ERROR_NO_MEMORY);
        body_free(s);
        return;
    }
    w->spool = b->spool;
    if (w->spool == NULL)
        w->value_len = b->request.body_bytes;
    submit(s, w, &b->request, charged);
    b->write = NULL; /* the write is the store's now, the charge goes with it */
    b->spool = NULL;
    b->charged = 0;
    body_free(s);
}

static void body_take_tail(struct mc_body *b, struct slice in)
{
    for (size_t i = 0; i < in.len; i++) {
        if (in.ptr[i] != (b->tail_got == 0 ? '\r' : '\n'))
            b->tail_bad = true;
        b->tail_got++;
    }
}

bool mc_body_is_full(const struct mc_session *s)
{
    return s->body != NULL && s->body->spool != NULL && store_spool_full(s->body->spool);
}

size_t mc_take_body(struct mc_session *s, struct slice in)
{
    struct mc_body *b = s->body;
    uint64_t left = b->request.body_bytes - b->got;
    size_t n = in.len < left ? in.len : (size_t)left;
    size_t tail;

    if (n > 0) {
        int rc;

        if (mc_body_is_full(s)) {
            mc_wait_for(s, MC_WAIT_SPOOL);
            return 0;
        }
        rc = body_add(s, b, slice_of(in.ptr, n));
        if (rc != 0) {
            body_fail(s, mc_error_of(session_status_of_errno(rc)));
            return mc_take_swallow(s, in);
        }
        b->got += n;
    }
    tail = in.len - n;
    if (tail > TAIL_BYTES - b->tail_got)
        tail = TAIL_BYTES - b->tail_got;
    body_take_tail(b, slice_of(in.ptr + n, tail));
    if (b->tail_got == TAIL_BYTES)
        body_finish(s);
    return n + tail;
}

void mc_forget_body(struct mc_session *s)
{
    if (s->body != NULL)
        body_free(s);
}

/* ---- refused values ---- */

void mc_begin_swallow(struct mc_session *s, uint64_t n)
{
    s->phase = MC_PHASE_SWALLOW;
    s->swallow = n;
}

size_t mc_take_swallow(struct mc_session *s, struct slice in)
{
    size_t n = in.len < s->swallow ? in.len : (size_t)s->swallow;

    s->swallow -= n;
    if (s->swallow == 0)
        s->phase = MC_PHASE_LINE;
    return n;
}

/* ---- the beginning ---- */

size_t mc_begin_body(struct mc_session *s, const struct mc_request *request, struct slice in)
{
    size_t whole = (size_t)request->body_bytes + TAIL_BYTES;

    if (request->body_bytes > mc_worker(s)->app->max_value_bytes) {
        refuse(s, request, MC_ERROR_TOO_LARGE);
        mc_begin_swallow(s, whole);
        return 0;
    }
    if (in.len >= whole && !is_spooled(request)) {
        take_whole(s, request, in);
        return whole;
    }
    begin_pieces(s, request);
    return 0;
}
