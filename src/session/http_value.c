/*
 * http_value.c - GET and HEAD of a value.
 *
 * Provides: http_value_get(), http_value_get_record().
 * Used by:  http_session.c.
 * Threads:  the connection's worker.
 *
 * The fast path is one store_get() that answers at once, one head and value written side by side
 * into the output. A read that has to wait for the disk keeps all it needs in struct http_get,
 * since the input it came from goes away.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/buf.h"
#include "command/command.h"
#include "proto/mime.h"
#include "session/held_value.h"
#include "session/http_session.h"

/* A spare's text longer than this is not kept. */
#define SPARE_TEXT_MAX 4096

struct http_get {
    struct store_get get;
    struct http_session *session; /* NULL: the connection is gone */
    struct http_worker *http;
    struct budget *budget;
    struct slice none_match; /* If-None-Match; ptr NULL: absent */
    int64_t since_s;         /* If-Modified-Since; -1: absent */
    struct buf text;         /* the key, and behind it none_match */
    size_t charged;          /* for a long text, taken from the budget */
    bool as_record;          /* with a line of the record's fields in front of the value */
    struct buf front;        /* that line */
};

static void get_free(struct http_get *g)
{
    if (g->charged > 0)
        budget_give(g->budget, g->charged);
    buf_free(&g->text);
    buf_free(&g->front);
    free(g);
}

void http_value_free_spare(struct http_get *spare)
{
    if (spare != NULL)
        get_free(spare);
}

/* Keeps the memory for the next read, if that is short of one. */
static void get_give_back(struct http_get *g)
{
    buf_free(&g->front);
    if (g->http->spare != NULL || g->text.cap > SPARE_TEXT_MAX)
        get_free(g);
    else
        g->http->spare = g;
}

/* The connection is gone, the read is not: get_done() frees it. */
static void get_drop(void *work)
{
    ((struct http_get *)work)->session = NULL;
}

static void get_done(struct store_get *get);

/* Room for the text. Only a long one counts: the others are not more than the connections' own. */
static bool get_reserve(struct http_get *g, struct budget *budget, size_t need)
{
    g->text.len = 0;
    if (need > SPARE_TEXT_MAX) {
        if (!budget_take(budget, need))
            return false;
        g->budget = budget;
        g->charged = need;
    }
    return buf_reserve(&g->text, need) == 0;
}

/* A read of this key; NULL without memory. */
static struct http_get *get_make(struct http_session *s, struct slice key,
                                 const struct http_request *r)
{
    struct http_worker *http = s->worker->http;
    struct http_get *g = http->spare;
    struct slice none_match = r->field[HTTP_FIELD_IF_NONE_MATCH];
    struct slice since = r->field[HTTP_FIELD_IF_MODIFIED_SINCE];

    http->spare = NULL;
    if (g == NULL)
        g = calloc(1, sizeof(*g));
    if (g == NULL)
        return NULL;
    if (!get_reserve(g, s->worker->budget, key.len + none_match.len + 1)) {
        get_free(g);
        return NULL;
    }
    buf_add_slice(&g->text, key);
    buf_add_slice(&g->text, none_match);
    g->http = http;
    g->session = s;
    g->none_match =
        none_match.ptr == NULL ? none_match : slice_of(g->text.data + key.len, none_match.len);
    /* RFC 9110: a date counts only if there is no list of tags. */
    if (none_match.ptr != NULL || since.ptr == NULL || !http_date_parse(since, &g->since_s))
        g->since_s = -1;
    g->get.key = slice_of(g->text.data, key.len);
    g->get.head_only = r->verb == HTTP_VERB_HEAD;
    g->get.done = get_done;
    g->get.owner = g;
    return g;
}

/* ---- what a record says of itself ---- */

static char *put_hex(char *at, uint64_t value, unsigned digits)
{
    for (unsigned i = digits; i > 0; i--, value >>= 4)
        at[i - 1] = "0123456789abcdef"[value & 15];
    return at + digits;
}

/* The stamp that set the value, which no other write ever has. A counter changes without a new
 * base: its cas does. */
static struct slice etag_of(const struct record *rec, char out[HTTP_ETAG_MAX])
{
    char *at = out;

    *at++ = '"';
    if (rec->kind == RECORD_COUNTER) {
        at = put_hex(at, record_cas(rec), 16);
    } else {
        at = put_hex(at, rec->base.version, 16);
        at = put_hex(at, rec->base.node, 4);
        at = put_hex(at, rec->base.epoch, 8);
    }
    *at++ = '"';
    return slice_of(out, (size_t)(at - out));
}

/* When the value became what it is, Unix seconds. */
static int64_t modified_s_of(const struct record *rec)
{
    uint64_t newest = rec->base.version;

    if (rec->kind == RECORD_COUNTER) {
        for (unsigned i = 0; i < rec->slot_count; i++) {
            if (rec->slots[i].stamp.version > newest)
                newest = rec->slots[i].stamp.version;
        }
    }
    return (int64_t)((newest >> 16) / 1000);
}

static struct slice type_of(const struct http_get *g)
{
    struct slice type;

    if (attr_find(g->get.rec.attrs, ATTR_CONTENT_TYPE, &type) && http_type_is_valid(type))
        return type;
    return mime_of_key(g->get.key);
}

/* ---- replies ---- */

static bool is_unchanged(const struct http_get *g, const struct http_reply *r)
{
    if (g->none_match.ptr != NULL)
        return http_etag_listed(g->none_match, r->etag);
    return g->since_s >= 0 && r->modified_s <= g->since_s;
}

static void send_head_only(struct http_session *s, struct http_get *g, const struct http_reply *r)
{
    char *room = conn_room(s->conn, HTTP_REPLY_MAX);

    if (room != NULL)
        conn_commit(s->conn, http_reply_format(room, r));
    store_get_release(&g->get);
}

/* The head, and what stands in front of the value; room for both. Returns the length. */
static size_t put_head(char *room, const struct http_get *g, const struct http_reply *r)
{
    size_t len = http_reply_format(room, r);

    if (g->front.len > 0)
        memcpy(room + len, g->front.data, g->front.len);
    return len + g->front.len;
}

/* Head and value in one piece. */
static void send_copied(struct http_session *s, struct http_get *g, const struct http_reply *r,
                        struct slice shown)
{
    char *room = conn_room(s->conn, HTTP_REPLY_MAX + g->front.len + shown.len);

    if (room != NULL) {
        size_t len = put_head(room, g, r);

        if (shown.len > 0)
            memcpy(room + len, shown.ptr, shown.len);
        conn_commit(s->conn, len + shown.len);
    }
    store_get_release(&g->get);
}

/* Sends the value behind its head, and gives up what the read holds. NO_MEMORY: nothing is sent. */
static enum store_status send_value(struct http_session *s, struct http_get *g,
                                    struct http_reply *r, struct slice shown)
{
    bool from_file = g->get.file_fd >= 0;
    struct held_value *held = NULL;
    char *room;

    r->length = g->front.len + (from_file ? g->get.value_bytes : shown.len);
    /* Without a hold the value is gone after the next read: it is short, and copied. */
    if (!from_file && (g->get.hold == NULL || shown.len <= STORE_INLINE_MAX)) {
        send_copied(s, g, r, shown);
        return STORE_OK;
    }
    if (!from_file)
        held = held_value_take(s->worker, &g->get);
    if (!from_file && held == NULL) {
        store_get_release(&g->get);
        return STORE_NO_MEMORY;
    }
    room = conn_room(s->conn, HTTP_REPLY_MAX + g->front.len);
    if (room != NULL)
        conn_commit(s->conn, put_head(room, g, r));
    /* Without room the connection is being aborted, and what is written is only released. */
    if (from_file)
        held_file_send(s->conn, &g->get, r->length - g->front.len);
    else
        held_value_send(s->conn, held);
    return STORE_OK;
}

/* Everything but the value, in a line. 0 or -ENOMEM. */
static int make_front(struct http_get *g)
{
    const struct record *rec = &g->get.rec;
    struct buf *front = &g->front;
    int rc = buf_printf(front, "flags=%" PRIu32 "&expires=%" PRId64 "&attributes=", rec->flags,
                        rec->expires_ms);

    if (rc == 0)
        rc = buf_reserve(front, 3 * rec->attrs.len + 1);
    if (rc == 0) {
        front->len += http_percent_encode(rec->attrs, front->data + front->len);
        front->data[front->len++] = '\n';
    }
    return rc;
}

/* NO_MEMORY: nothing is sent. */
static enum store_status reply_record(struct http_session *s, struct http_get *g)
{
    struct http_reply r = http_reply_begin(s, 200);
    char number[NUM_TEXT_MAX];
    struct slice shown =
        g->get.head_only ? slice_of(NULL, 0) : command_shown_value(&g->get.rec, number);

    if (make_front(g) != 0) {
        store_get_release(&g->get);
        return STORE_NO_MEMORY;
    }
    r.type = slice_str("application/octet-stream");
    r.extra = slice_str("Cache-Control: no-store\r\n");
    if (!s->is_head)
        return send_value(s, g, &r, shown);
    r.length = g->front.len + (g->get.head_only ? g->get.value_bytes : shown.len);
    send_head_only(s, g, &r);
    return STORE_OK;
}

/* NO_MEMORY: nothing is sent. */
static enum store_status reply_found(struct http_session *s, struct http_get *g)
{
    struct http_reply r = http_reply_begin(s, 200);
    char etag[HTTP_ETAG_MAX];
    char number[NUM_TEXT_MAX];
    struct slice shown =
        g->get.head_only ? slice_of(NULL, 0) : command_shown_value(&g->get.rec, number);

    r.etag = etag_of(&g->get.rec, etag);
    r.modified_s = modified_s_of(&g->get.rec);
    if (r.modified_s > s->worker->http->date_s)
        r.modified_s = s->worker->http->date_s; /* another server's clock may run ahead */
    r.is_value = true;
    if (is_unchanged(g, &r)) {
        r.status = 304;
        r.no_length = true;
        send_head_only(s, g, &r);
        return STORE_OK;
    }
    r.type = type_of(g);
    if (!s->is_head)
        return send_value(s, g, &r, shown);
    r.length = g->get.head_only ? g->get.value_bytes : shown.len;
    send_head_only(s, g, &r);
    return STORE_OK;
}

/* Nothing is stored under "/": whoever looks there is told what this is. */
static void reply_root(struct http_session *s)
{
    static const char text[] = "This is ttserver, a key-value store.\n"
                               "Store a value:  curl -T FILE http://HOST:PORT/KEY\n"
                               "Fetch it:       curl http://HOST:PORT/KEY\n"
                               "Delete it:      curl -X DELETE http://HOST:PORT/KEY\n"
                               "The same port speaks memcached's protocol.\n"
                               "State: /-/ready   Figures: /-/metrics   Keys: /-/keys\n";
    struct http_reply r = http_reply_begin(s, 200);

    r.type = slice_str("text/plain");
    http_reply_body(s, &r, slice_str(text));
}

static void reply_result(struct http_session *s, struct http_get *g)
{
    struct counters *counters = s->worker->counters;
    enum store_status status = g->get.status;

    if (g->get.cold)
        counter_add(counters, COUNTER_GET_COLD, 1);
    if (status == STORE_OK)
        status = g->as_record ? reply_record(s, g) : reply_found(s, g);
    if (status == STORE_OK) {
        counter_add(counters, COUNTER_GET_HITS, 1);
        http_answered(s);
        return;
    }
    if (status == STORE_NOT_FOUND) {
        counter_add(counters, COUNTER_GET_MISSES, 1);
        if (g->get.expired)
            counter_add(counters, COUNTER_GET_EXPIRED, 1);
    }
    if (status == STORE_NOT_FOUND && g->get.key.len == 0 && !g->as_record)
        reply_root(s);
    else
        http_reply_failure(s, status);
}

/* A HEAD read only what is beside the value, but the length of a counter is that of the number it
 * shows. */
static bool needs_value(const struct http_get *g)
{
    return g->get.status == STORE_OK && g->get.head_only && g->get.rec.kind == RECORD_COUNTER;
}

/* Reads. False: done() will come. */
static bool get_run(struct http_session *s, struct http_get *g)
{
    if (!store_get(s->worker->port, &g->get))
        return false;
    if (!needs_value(g))
        return true;
    store_get_release(&g->get);
    g->get.head_only = false;
    return store_get(s->worker->port, &g->get);
}

static void get_done(struct store_get *get)
{
    struct http_get *g = get->owner;
    struct http_session *s = g->session;

    if (s == NULL) {
        if (get->status == STORE_OK)
            store_get_release(get);
        get_free(g);
        return;
    }
    if (needs_value(g)) {
        store_get_release(get);
        get->head_only = false;
        if (!store_get(s->worker->port, get))
            return;
    }
    reply_result(s, g);
    get_give_back(g);
}

static void get_start(struct http_session *s, struct slice key, const struct http_request *r,
                      bool as_record)
{
    struct http_get *g = get_make(s, key, r);

    counter_add(s->worker->counters, COUNTER_CMD_GET, 1);
    if (g == NULL) {
        http_reply_failure(s, STORE_NO_MEMORY);
        return;
    }
    g->as_record = as_record;
    if (!get_run(s, g)) {
        http_wait(s, g, get_drop);
        return;
    }
    reply_result(s, g);
    get_give_back(g);
}

void http_value_get(struct http_session *s, struct slice key, const struct http_request *r)
{
    get_start(s, key, r, false);
}

void http_value_get_record(struct http_session *s, struct slice key, const struct http_request *r)
{
    get_start(s, key, r, true);
}
