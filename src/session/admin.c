/*
 * admin.c - live, ready, metrics, keys; and what "ready" means.
 *
 * Provides: admin_request(), session_is_ready().
 * Used by:  http_session.c; session_is_ready() also by memcached's `ready`.
 * Threads:  the connection's worker.
 *
 * GET /-/live           200 while the loop turns
 * GET /-/ready          200 or 503; ?for=write asks for writes too. JSON: state, weight, lag_ms,
 * ... GET /-/metrics        Prometheus text format
 * GET /-/keys?prefix=P&after=K&limit=N   one key a line, in bytewise order (session/admin_keys.c)
 * POST /-/backup[/renew|/end]   what ttctl backup needs (session/admin_backup.c)
 * POST /-/compact       asks for a compaction of all that is worth it
 */
#include "session/admin.h"

#include "base/buf.h"
#include "session/admin_backup.h"
#include "session/admin_keys.h"

#define ALLOW_ADMIN "Allow: OPTIONS, GET, HEAD\r\n"
#define ALLOW_ACT "Allow: OPTIONS, POST\r\n"
#define NO_STORE "Cache-Control: no-store\r\n"

/* ---- live and ready ---- */

bool session_is_ready(struct session_app *app, bool for_write, const char **state)
{
    enum store_state now = store_state(app->store);
    const char *reason = "read-only";

    if (now != STORE_SERVING) {
        *state = now == STORE_STARTING ? "starting" : "failed";
        return false;
    }
    if (atomic_load_explicit(&app->draining, memory_order_relaxed)) {
        *state = "draining";
        return false;
    }
    if (for_write && !store_writable(app->store, &reason)) {
        *state = reason;
        return false;
    }
    *state = "serving";
    return true;
}

static void reply_buf(struct http_session *s, unsigned status, const char *type, struct buf *body)
{
    struct http_reply r = http_reply_begin(s, status);

    r.type = slice_str(type);
    r.extra = slice_str(status == 503 ? HTTP_RETRY_AFTER NO_STORE : NO_STORE);
    http_reply_body(s, &r, buf_slice(body));
    buf_free(body);
}

static void reply_live(struct http_session *s, const struct http_request *r)
{
    struct buf body = {0};

    (void)r;
    buf_printf(&body, "{\"live\":true}\n");
    reply_buf(s, 200, "application/json", &body);
}

static void reply_ready(struct http_session *s, const struct http_request *r)
{
    struct session_app *app = s->worker->app;
    struct slice wanted = {0};
    struct buf body = {0};
    const char *state;
    bool ready;

    http_query_find(r->query, "for", &wanted);
    ready = session_is_ready(app, slice_is(wanted, "write"), &state);
    buf_printf(&body, "{\"state\":\"%s\",\"ready\":%s,\"weight\":100,\"lag_ms\":0", state,
               ready ? "true" : "false");
    if (store_state(app->store) == STORE_STARTING)
        buf_printf(&body, ",\"progress_percent\":%u", store_progress(app->store));
    buf_printf(&body, "}\n");
    reply_buf(s, ready ? 200 : 503, "application/json", &body);
}

/* ---- metrics ---- */

struct metrics {
    struct buf numbers;
    struct buf labels; /* what is no number becomes a label of ttserver_info */
};

/* What Prometheus takes for a sample, as far as we write it: digits with an optional sign and
 * fraction. */
static bool text_is_number(const char *text)
{
    bool digits = false;
    bool dot = false;

    if (*text == '-')
        text++;
    for (; *text != '\0'; text++) {
        if (*text >= '0' && *text <= '9')
            digits = true;
        else if (*text == '.' && !dot)
            dot = true;
        else
            return false;
    }
    return digits;
}

static void add_name(struct buf *out, const char *name)
{
    for (; *name != '\0'; name++) {
        bool plain = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
                     (*name >= '0' && *name <= '9');

        buf_add(out, plain ? name : "_", 1);
    }
}

/* Text inside a label's quotes, or (quotes too) behind HELP. */
static void add_escaped(struct buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n')
            buf_add(out, "\\n", 2);
        else if (*text == '\\' || *text == '"')
            buf_printf(out, "\\%c", *text);
        else
            buf_add(out, text, 1);
    }
}

static void add_metric(const char *name, const char *value, const char *help, bool is_counter,
                       void *arg)
{
    struct metrics *m = arg;

    if (!text_is_number(value)) {
        buf_add(&m->labels, ",", m->labels.len > 0 ? 1 : 0);
        add_name(&m->labels, name);
        buf_printf(&m->labels, "=\"");
        add_escaped(&m->labels, value);
        buf_printf(&m->labels, "\"");
        return;
    }
    buf_printf(&m->numbers, "# HELP ttserver_");
    add_name(&m->numbers, name);
    buf_printf(&m->numbers, " %s\n# TYPE ttserver_", help != NULL ? help : name);
    add_name(&m->numbers, name);
    buf_printf(&m->numbers, " %s\nttserver_", is_counter ? "counter" : "gauge");
    add_name(&m->numbers, name);
    buf_printf(&m->numbers, " %s\n", value);
}

static void reply_metrics(struct http_session *s, const struct http_request *r)
{
    struct session_app *app = s->worker->app;
    struct metrics m = {0};
    const char *state;

    (void)r;
    session_stats(app, add_metric, &m);
    add_metric("ready", session_is_ready(app, false, &state) ? "1" : "0",
               "whether reads are answered", false, &m);
    add_metric("ready_for_write", session_is_ready(app, true, &state) ? "1" : "0",
               "whether writes are taken", false, &m);
    buf_printf(&m.numbers, "# HELP ttserver_info texts as labels\n# TYPE ttserver_info gauge\n"
                           "ttserver_info{");
    buf_add_slice(&m.numbers, buf_slice(&m.labels));
    buf_printf(&m.numbers, "} 1\n");
    buf_free(&m.labels);
    reply_buf(s, 200, "text/plain; version=0.0.4; charset=utf-8", &m.numbers);
}

/* ---- compaction ---- */

static void reply_compact(struct http_session *s, const struct http_request *r)
{
    struct buf body = {0};

    (void)r;
    store_compact(s->worker->app->store);
    buf_printf(&body, "{\"compaction\":\"asked\"}\n");
    reply_buf(s, 200, "application/json", &body);
}

/* ---- the paths ---- */

static const struct {
    const char *name;
    void (*reply)(struct http_session *s, const struct http_request *r);
    bool needs_store;
    bool acts; /* it changes something: by POST only */
} admin_paths[] = {
    {"live", reply_live, false, false},           {"ready", reply_ready, false, false},
    {"metrics", reply_metrics, true, false},      {"keys", admin_keys, true, false},
    {"backup", admin_backup_begin, true, true},   {"backup/renew", admin_backup_renew, true, true},
    {"backup/end", admin_backup_end, true, true}, {"compact", reply_compact, true, true},
};

static void reply_options(struct http_session *s, const char *allow)
{
    struct http_reply r = http_reply_begin(s, 200);

    r.extra = slice_str(allow);
    http_reply_body(s, &r, slice_of("", 0));
}

void admin_request(struct http_session *s, struct slice name, const struct http_request *r)
{
    size_t count = sizeof(admin_paths) / sizeof(admin_paths[0]);
    const char *allow = ALLOW_ADMIN;
    bool fits;
    size_t i = 0;

    while (i < count && !slice_is(name, admin_paths[i].name))
        i++;
    if (i == count) {
        http_reply_status(s, 404, "");
        return;
    }
    if (admin_paths[i].acts) {
        allow = ALLOW_ACT;
        fits = r->verb == HTTP_VERB_POST;
    } else {
        fits = r->verb == HTTP_VERB_GET || r->verb == HTTP_VERB_HEAD;
    }
    if (r->verb == HTTP_VERB_OPTIONS)
        reply_options(s, allow);
    else if (!fits)
        http_reply_status(s, 405, allow);
    else if (admin_paths[i].needs_store && store_state(s->worker->app->store) != STORE_SERVING)
        http_reply_status(s, 503, HTTP_RETRY_AFTER);
    else
        admin_paths[i].reply(s, r);
}
