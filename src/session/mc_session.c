/*
 * mc_session.c - one connection that speaks memcached's text protocol: the stream of requests.
 *
 * Provides: mc_text_protocol.
 * Used by:  session.c, when a connection begins like memcached's text.
 * Threads:  the connection's worker.
 *
 * Every step takes what it can of the input and leaves the session between two steps; a step that
 * cannot go on yet says why (enum mc_wait), and ready() looks whether that is over.
 *
 * Between two requests nothing is to be remembered but the protocol: then the session is freed, and
 * the connection rests on one that all share, so that idle connections cost no memory here.
 */
#include "session/mc_session.h"

#include <stdlib.h>

#include "base/version.h"
#include "command/command.h"

static const struct slice line_ok = {"OK\r\n", 4};
static const struct slice line_version = {"VERSION " TT_VERSION "\r\n",
                                          sizeof("VERSION " TT_VERSION "\r\n") - 1};

/* Only its address and its protocol count; nothing writes to it. */
static struct session resting = {&mc_text_protocol};

static bool is_resting(const struct conn *c)
{
    return conn_session(c) == &resting;
}

void mc_wait_for(struct mc_session *s, enum mc_wait reason)
{
    if (s->wait == MC_WAIT_NONE)
        conn_hold(s->conn);
    s->wait = (uint8_t)reason;
}

void mc_close(struct mc_session *s)
{
    s->closing = true;
    mc_forget_body(s);
    if (mc_is_idle(s))
        conn_close_when_sent(s->conn);
    else
        mc_wait_for(s, MC_WAIT_ANSWERS);
}

/* The first key is looked for in the next step. */
static void begin_keys(struct mc_session *s, const struct mc_request *request)
{
    s->phase = MC_PHASE_KEYS;
    s->info = request->info;
    s->keys_seen = false;
    s->keys_failed = request->error != MC_NO_ERROR;
    if ((request->info->flags & MC_TOUCHES) != 0) {
        int64_t now_ms = mc_now_ms(s);

        s->keys_expires_ms = command_expires_ms(request->exptime, now_ms);
        s->keys_expire = s->keys_expires_ms != 0 && s->keys_expires_ms <= now_ms;
    }
}

/* A request that is answered with an error line, whatever it was. */
static void refuse(struct mc_session *s, const struct mc_request *request)
{
    if (request->error != MC_ERROR_BUSY)
        mc_count(s, COUNTER_PROTOCOL_ERRORS);
    mc_say_error(s, request->error, request->noreply);
    if (request->has_body)
        mc_begin_swallow(s, (uint64_t)request->body_bytes + 2);
    if (request->has_keys)
        begin_keys(s, request);
}

static void answer_verbosity(struct mc_session *s, const struct mc_request *request)
{
    int level = request->number > INT32_MAX ? INT32_MAX : (int)request->number;

    atomic_store_explicit(&mc_worker(s)->app->verbosity, level, memory_order_relaxed);
    if (!request->noreply)
        mc_say(s, line_ok);
}

/* Everything that has neither keys nor a body. */
static void run_request(struct mc_session *s, const struct mc_request *request)
{
    switch (request->info->command) {
    case MC_VERSION: mc_say(s, line_version); break;
    case MC_VERBOSITY: answer_verbosity(s, request); break;
    case MC_STATS: mc_answer_stats(s, request->args); break;
    case MC_READY: mc_answer_ready(s, request->args); break;
    case MC_QUIT: mc_close(s); break;
    default: mc_submit_request(s, request); break;
    }
}

/* What is answered although nothing can be read yet. */
static bool works_while_starting(enum mc_command command)
{
    return command == MC_QUIT || command == MC_READY;
}

/* False: the request must wait for its turn; it is parsed again then. */
static bool may_begin(struct mc_session *s, const struct mc_request *request)
{
    enum mc_command command = request->info->command;
    bool writes = (request->info->flags & MC_WRITES) != 0 && request->error == MC_NO_ERROR;
    bool reads = request->has_keys || command == MC_STATS || command == MC_READY;

    if (mc_is_idle(s))
        return true;
    if (writes)
        return mc_may_write(s);
    if (reads)
        mc_wait_for(s, MC_WAIT_ANSWERS);
    else if (s->pending_count >= MC_PENDING_MAX)
        mc_wait_for(s, MC_WAIT_PENDING);
    return s->wait == MC_WAIT_NONE;
}

static size_t take_line(struct mc_session *s, struct slice in)
{
    struct session_app *app = mc_worker(s)->app;
    struct mc_request request;
    size_t used;

    switch (mc_parse_request(in, &request, &used)) {
    case MC_MORE: return 0;
    case MC_BAD:
        mc_count(s, COUNTER_PROTOCOL_ERRORS);
        mc_close(s);
        return in.len;
    case MC_DONE: break;
    }
    if (request.error == MC_NO_ERROR && store_state(app->store) != STORE_SERVING &&
        !works_while_starting(request.info->command))
        request.error = MC_ERROR_BUSY;
    if (!may_begin(s, &request))
        return 0;
    if (request.error != MC_NO_ERROR)
        refuse(s, &request);
    else if (request.has_keys)
        begin_keys(s, &request);
    else if (request.has_body)
        used += mc_begin_body(s, &request, slice_after(in, used));
    else
        run_request(s, &request);
    return used;
}

static size_t take_some(struct mc_session *s, struct slice in)
{
    switch ((enum mc_phase)s->phase) {
    case MC_PHASE_LINE: return take_line(s, in);
    case MC_PHASE_KEYS: return mc_take_keys(s, in);
    case MC_PHASE_SKIP_KEY: return mc_take_long_key(s, in);
    case MC_PHASE_BODY: return mc_take_body(s, in);
    case MC_PHASE_SWALLOW: return mc_take_swallow(s, in);
    }
    return 0;
}

/* Tells net whether the client owes us bytes although none are left over, and whether we owe it
 * replies. */
static void tell_net(struct mc_session *s)
{
    bool partial = s->phase != MC_PHASE_LINE;
    bool busy = !mc_is_idle(s);

    if (partial != s->partial) {
        s->partial = partial;
        conn_set_partial(s->conn, partial);
    }
    if (busy != s->busy) {
        s->busy = busy;
        conn_set_busy(s->conn, busy);
    }
}

/* The connection's own session, made anew if it rested. NULL: no memory. */
static struct mc_session *session_awake(struct conn *c)
{
    struct mc_session *s;

    if (!is_resting(c))
        return conn_session(c);
    s = malloc(sizeof(*s));
    if (s == NULL)
        return NULL;
    *s = (struct mc_session){.head.protocol = &mc_text_protocol, .conn = c};
    conn_set_session(c, s);
    return s;
}

/* Frees a session that has nothing to remember; what the client has sent of the next request is
 * net's to keep. */
static void rest_if_clean(struct mc_session *s)
{
    if (s->phase != MC_PHASE_LINE || s->wait != MC_WAIT_NONE || s->closing || s->partial ||
        s->busy || s->body != NULL || !mc_is_idle(s))
        return;
    conn_set_session(s->conn, &resting);
    free(s);
}

static size_t mc_input(struct conn *c, struct slice in)
{
    struct mc_session *s = session_awake(c);
    size_t used = 0;

    if (s == NULL) {
        counter_add(session_worker_of(c)->counters, COUNTER_STORE_NO_MEMORY, 1);
        conn_abort(c);
        return in.len;
    }
    while (used < in.len && s->wait == MC_WAIT_NONE && !s->closing) {
        uint8_t phase = s->phase;
        size_t n;

        if (conn_output_full(c)) {
            mc_wait_for(s, MC_WAIT_OUTPUT);
            break;
        }
        n = take_some(s, slice_after(in, used));
        /* A step without bytes is one too: a key that was skipped may have ended with the last. */
        if (n == 0 && s->phase == phase)
            break;
        used += n;
    }
    tell_net(s);
    rest_if_clean(s);
    return used;
}

static bool wait_is_over(const struct mc_session *s)
{
    if (s->read != NULL || conn_output_full(s->conn))
        return false;
    switch ((enum mc_wait)s->wait) {
    case MC_WAIT_ANSWERS: return mc_is_idle(s);
    case MC_WAIT_PENDING:
        return s->pending_count < MC_PENDING_MAX && s->pending_bytes < MC_PENDING_BYTES;
    case MC_WAIT_SPOOL: return !mc_body_is_full(s);
    case MC_WAIT_NONE:
    case MC_WAIT_READ:
    case MC_WAIT_OUTPUT: break;
    }
    return true;
}

static void mc_ready(struct conn *c)
{
    struct mc_session *s = conn_session(c);

    if (is_resting(c))
        return;
    mc_answer_read(s);
    mc_answer_pending(s);
    tell_net(s);
    if (s->closing) {
        if (mc_is_idle(s))
            conn_close_when_sent(c);
    } else if (s->wait != MC_WAIT_NONE && wait_is_over(s)) {
        s->wait = MC_WAIT_NONE;
        conn_resume(c);
    }
    rest_if_clean(s);
}

static int mc_open(struct conn *c)
{
    conn_set_session(c, &resting);
    return 0;
}

static void mc_end_of_input(struct conn *c)
{
    if (is_resting(c))
        conn_close_when_sent(c);
    else
        mc_close(conn_session(c));
}

static void mc_closed(struct conn *c)
{
    struct mc_session *s = conn_session(c);

    if (!is_resting(c)) {
        mc_forget_pending(s);
        mc_forget_read(s);
        mc_forget_body(s);
        free(s);
    }
    conn_set_session(c, NULL);
}

const struct session_protocol mc_text_protocol = {
    .name = "memcached text",
    .open = mc_open,
    .input = mc_input,
    .ready = mc_ready,
    .end_of_input = mc_end_of_input,
    .closed = mc_closed,
};
