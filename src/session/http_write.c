/*
 * http_write.c - PUT and DELETE.
 *
 * Provides: http_write_put(), http_write_fields(), http_write_body(), http_write_delete().
 * Used by:  http_session.c.
 * Threads:  the connection's worker; append_or_put() on the engine's thread.
 *
 * A body grows in memory as it arrives, and counts against the budget with what is held, not with
 * what was announced. One that will not end below STORE_SPOOL_MIN goes into a spool as soon as
 * enough of it has come to be worth a file.
 */
#include <stdlib.h>

#include "command/command.h"
#include "session/http_session.h"

/* Room that a body gets at first when not all of it is at hand. */
#define ROOM_FIRST 4096u
/* Bytes of a big body that are held in memory before a file is begun for it: an upload that was
 * announced and does not come costs no file. */
#define SPOOL_AFTER (64u * 1024)

/* Tokyo Tyrant's X-TT-PDMODE. */
enum put_mode { PUT_PLAIN, PUT_KEEP, PUT_APPEND };

struct http_write {
    struct http_session *session; /* NULL: the connection is gone, but the write is under way */
    struct budget *budget;
    struct store_write *w;
    struct store_spool *spool; /* NULL while the body is in `w` */
    uint64_t want;             /* length of the body; UINT64_MAX: it comes in chunks */
    uint64_t got;
    size_t room;    /* for the value in `w` */
    size_t charged; /* taken from the budget: for that room or the spool, and for the key */
    struct http_chunked chunked;
    enum put_mode mode;
};

static void write_free(struct http_write *p)
{
    budget_give(p->budget, p->charged);
    if (p->spool != NULL)
        store_spool_abandon(p->spool);
    if (p->w != NULL)
        store_write_free(p->w);
    free(p);
}

/* The connection is gone before the body was complete. */
static void write_drop(void *work)
{
    write_free(work);
}

/* The connection is gone, the write will complete. */
static void write_cut_loose(void *work)
{
    ((struct http_write *)work)->session = NULL;
}

/* ---- the write itself ---- */

static void count_delete(struct http_session *s, enum store_status status)
{
    if (status == STORE_OK)
        counter_add(s->worker->counters, COUNTER_DELETE_HITS, 1);
    else if (status == STORE_NOT_FOUND)
        counter_add(s->worker->counters, COUNTER_DELETE_MISSES, 1);
}

static void write_done(struct store_write *w)
{
    struct http_write *p = w->owner;
    struct http_session *s = p->session;
    bool is_delete = w->op == STORE_DELETE;
    enum store_status status = w->status;

    write_free(p);
    if (s == NULL)
        return;
    if (is_delete)
        count_delete(s, status);
    if (status == STORE_OK)
        http_reply_status(s, is_delete ? 200 : 201, "");
    else
        http_reply_failure(s, status);
}

static void write_submit(struct http_session *s, struct http_write *p)
{
    p->w->owner = p;
    p->w->done = write_done;
    p->w->spool = p->spool;
    p->spool = NULL;
    http_wait(s, p, write_cut_loose);
    store_write_submit(p->w);
}

/* A write with so much room for a value; NULL without memory. */
static struct http_write *write_make(struct http_session *s, struct slice key, struct slice attrs,
                                     size_t room)
{
    struct http_write *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return NULL;
    p->session = s;
    p->budget = s->worker->budget;
    if (!budget_take(p->budget, room + key.len))
        goto fail;
    p->room = room;
    p->charged = room + key.len;
    p->w = store_write_new(s->worker->port, key, attrs, room);
    if (p->w == NULL)
        goto fail;
    return p;

fail:
    write_free(p);
    return NULL;
}

void http_write_delete(struct http_session *s, struct slice key)
{
    struct http_write *p = write_make(s, key, slice_of("", 0), 0);

    counter_add(s->worker->counters, COUNTER_CMD_DELETE, 1);
    if (p == NULL) {
        http_reply_failure(s, STORE_NO_MEMORY);
        return;
    }
    p->w->op = STORE_DELETE;
    write_submit(s, p);
}

/* putcat: appends, or stores where there was nothing. */
static enum store_status append_or_put(struct store_write *w, const struct record *now,
                                       struct store_change *out)
{
    if (now != NULL)
        return command_append(w, now, out);
    *out = (struct store_change){
        .kind = CHANGE_PUT,
        .attrs = w->attrs,
        .pieces = {slice_of(w->value, w->value_len)},
    };
    return STORE_OK;
}

/* ---- the body ---- */

/* Ends a request whose body will not be read to its end. */
static void body_refuse(struct http_session *s, struct http_write *p, enum store_status status)
{
    s->work = NULL;
    write_free(p);
    http_distrust(s);
    http_reply_failure(s, status);
}

/* The spool has room again. */
static void body_on_room(void *arg)
{
    struct http_write *p = arg;

    if (p->session != NULL && p->session->state == HTTP_STATE_BODY)
        http_resume(p->session);
}

/* Moves what has come from memory into a spool. After a failure the write is to be given up. */
static enum store_status body_begin_spool(struct http_write *p)
{
    struct store_write *whole = p->w;
    struct store_write *w;
    int rc;

    if (!budget_take(p->budget, SESSION_SPOOL_BYTES))
        return STORE_NO_MEMORY;
    p->charged += SESSION_SPOOL_BYTES;
    w = store_write_new(whole->port, whole->key, whole->attrs, 0);
    if (w == NULL)
        return STORE_NO_MEMORY;
    w->op = whole->op;
    w->guard = whole->guard;
    w->flags = whole->flags;
    w->expires_ms = whole->expires_ms;
    rc = store_spool_open(w->port, w->key, w->attrs, p->want, body_on_room, p, &p->spool);
    if (rc == 0)
        rc = store_spool_add(p->spool, slice_of(whole->value, (size_t)p->got));
    if (rc != 0) {
        store_write_free(w);
        return session_status_of_errno(rc);
    }
    p->w = w;
    store_write_free(whole);
    budget_give(p->budget, p->room);
    p->charged -= p->room;
    p->room = 0;
    return STORE_OK;
}

/* Room in memory for `need` bytes: at least doubled, not more than will come. */
static enum store_status body_grow(struct http_write *p, size_t need)
{
    size_t room = 2 * p->room;
    struct store_write *grown;

    if (room < need)
        room = need;
    if (room < ROOM_FIRST)
        room = ROOM_FIRST;
    if (room > p->want)
        room = (size_t)p->want;
    if (!budget_take(p->budget, room - p->room))
        return STORE_NO_MEMORY;
    grown = store_write_grow(p->w, room);
    if (grown == NULL) {
        budget_give(p->budget, room - p->room);
        return STORE_NO_MEMORY;
    }
    p->w = grown;
    p->charged += room - p->room;
    p->room = room;
    return STORE_OK;
}

/* Bytes up to which the body stays in memory. */
static size_t memory_max(const struct http_write *p)
{
    return p->want != UINT64_MAX && p->want > STORE_SPOOL_MIN ? SPOOL_AFTER : STORE_SPOOL_MIN;
}

/* What is to be appended has to be in memory; anything else may be as long as a value. */
static uint64_t body_max(const struct http_session *s, enum put_mode mode)
{
    uint64_t max = s->worker->app->max_value_bytes;

    return mode == PUT_APPEND && max > STORE_SPOOL_MIN ? STORE_SPOOL_MIN : max;
}

static enum store_status body_add(struct http_session *s, struct http_write *p, struct slice data)
{
    uint64_t need = p->got + data.len;
    enum store_status status = STORE_OK;

    if (need > body_max(s, p->mode))
        return STORE_TOO_LARGE;
    if (p->spool == NULL && need > memory_max(p))
        status = body_begin_spool(p);
    else if (p->spool == NULL && need > p->room)
        status = body_grow(p, (size_t)need);
    if (status != STORE_OK)
        return status;
    if (p->spool != NULL) {
        status = session_status_of_errno(store_spool_add(p->spool, data));
        if (store_spool_full(p->spool))
            http_hold(s);
    } else if (data.len > 0) {
        memcpy(p->w->value + p->got, data.ptr, data.len);
    }
    p->got = need;
    return status;
}

/* Takes the framing off. BAD: the chunks are malformed. */
static enum http_parse body_next(struct http_write *p, struct slice in, struct slice *data,
                                 size_t *used)
{
    if (p->want == UINT64_MAX)
        return http_chunked_next(&p->chunked, in, data, used);
    *used = in.len < p->want - p->got ? in.len : (size_t)(p->want - p->got);
    *data = slice_of(in.ptr, *used);
    return p->got + *used == p->want ? HTTP_PARSE_DONE : HTTP_PARSE_MORE;
}

size_t http_write_body(struct http_session *s, struct slice in)
{
    struct http_write *p = s->work;
    struct slice data;
    size_t used = in.len;
    enum http_parse parse = body_next(p, in, &data, &used);
    enum store_status status;

    if (parse == HTTP_PARSE_BAD) {
        s->work = NULL;
        write_free(p);
        counter_add(s->worker->counters, COUNTER_PROTOCOL_ERRORS, 1);
        http_distrust(s);
        http_reply_status(s, 400, "");
        return in.len;
    }
    status = body_add(s, p, data);
    if (status != STORE_OK) {
        body_refuse(s, p, status);
        return in.len;
    }
    if (parse == HTTP_PARSE_DONE) {
        if (p->spool == NULL)
            p->w->value_len = (size_t)p->got;
        write_submit(s, p);
    }
    return used;
}

/* ---- the beginning ---- */

static enum put_mode mode_of(const struct http_request *r)
{
    struct slice text = r->field[HTTP_FIELD_PDMODE];

    if (slice_is(text, "1"))
        return PUT_KEEP;
    return slice_is(text, "2") ? PUT_APPEND : PUT_PLAIN;
}

/* Refuses before the body is read. */
static void put_refuse(struct http_session *s, const struct http_request *r, unsigned status)
{
    http_skip_body(s, r);
    http_reply_status(s, status, "");
}

static void put_begin(struct http_session *s, struct http_write *p, const struct http_request *r,
                      size_t at_hand)
{
    p->want = r->chunked ? UINT64_MAX : r->length;
    p->w->op = p->mode == PUT_APPEND ? STORE_UPDATE : STORE_PUT;
    if (p->mode == PUT_KEEP)
        p->w->guard = STORE_IF_ABSENT;
    if (p->mode == PUT_APPEND) {
        p->w->compute = append_or_put;
        p->w->argument[0] = s->worker->app->max_value_bytes;
    }
    if (p->want == 0) {
        write_submit(s, p);
        return;
    }
    s->work = p;
    s->drop = write_drop;
    s->state = HTTP_STATE_BODY;
    if (r->expects_continue && at_hand == 0)
        conn_write(s->conn, "HTTP/1.1 100 Continue\r\n\r\n", 25);
}

/* Begins the write, or refuses it. */
static void put_start(struct http_session *s, struct slice key, const struct http_request *r,
                      size_t at_hand, enum put_mode mode, const struct http_fields *fields)
{
    bool whole = !r->chunked && r->length <= at_hand && r->length <= STORE_SPOOL_MIN;
    struct http_write *p;

    counter_add(s->worker->counters, COUNTER_CMD_SET, 1);
    if (r->length > body_max(s, mode)) {
        counter_add(s->worker->counters, COUNTER_STORE_TOO_LARGE, 1);
        http_distrust(s);
        http_reply_status(s, 413, "");
        return;
    }
    /* RFC 9110, 14.4: a piece must not be stored as if it were the whole. */
    if (r->field[HTTP_FIELD_CONTENT_RANGE].ptr != NULL) {
        put_refuse(s, r, 400);
        return;
    }
    p = write_make(s, key, fields->attrs, whole ? (size_t)r->length : 0);
    if (p == NULL) {
        http_skip_body(s, r);
        http_reply_failure(s, STORE_NO_MEMORY);
        return;
    }
    p->mode = mode;
    p->w->flags = fields->flags;
    p->w->expires_ms = fields->expires_ms;
    put_begin(s, p, r, at_hand);
}

void http_write_put(struct http_session *s, struct slice key, const struct http_request *r,
                    size_t at_hand)
{
    struct slice type = r->field[HTTP_FIELD_CONTENT_TYPE];
    char attrs[HTTP_TYPE_MAX + 3];
    struct http_fields fields = {0};

    if (type.len > 0 && !http_type_is_valid(type)) {
        counter_add(s->worker->counters, COUNTER_CMD_SET, 1);
        put_refuse(s, r, 400);
        return;
    }
    if (type.len > 0)
        fields.attrs = slice_of(attrs, attr_put(attrs, ATTR_CONTENT_TYPE, type));
    put_start(s, key, r, at_hand, mode_of(r), &fields);
}

void http_write_fields(struct http_session *s, struct slice key, const struct http_request *r,
                       size_t at_hand, const struct http_fields *fields)
{
    put_start(s, key, r, at_hand, fields->only_if_absent ? PUT_KEEP : PUT_PLAIN, fields);
}
