/*
 * admin_keys.c - pages of keys, made where waiting for the disk does no harm.
 *
 * Provides: admin_keys().
 * Used by:  admin.c.
 * Threads:  keys_work() on a thread of the pool, which alone touches the job until keys_done() runs
 *           on the worker.
 */
#include "session/admin_keys.h"

#include <errno.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/num.h"

#define LIMIT_DEFAULT 1000u
#define LIMIT_MAX 10000u
/* A page ends here even if it has fewer keys than asked for. */
#define PAGE_BYTES (1024u * 1024)
/* What a job may hold: the page, doubled at its last growth, and one more key. */
#define JOB_BYTES (2 * PAGE_BYTES + 3 * RECORD_KEY_MAX)

struct keys_job {
    struct aio_op op;
    struct http_session *session; /* NULL: the connection is gone */
    struct store *store;
    struct budget *budget;
    uint32_t limit;
    struct store_range range;
    struct buf page;
    char room[2][RECORD_KEY_MAX]; /* of prefix and after */
};

static void job_free(void *arg)
{
    struct keys_job *job = arg;

    budget_give(job->budget, JOB_BYTES);
    buf_free(&job->page);
    free(job);
}

static void job_drop(void *work)
{
    ((struct keys_job *)work)->session = NULL;
}

/* ---- on the pool ---- */

static bool add_key(const struct store_scan_item *item, void *arg)
{
    struct keys_job *job = arg;

    if (job->page.len >= PAGE_BYTES || buf_reserve(&job->page, 3 * item->key.len + 1) != 0)
        return false;
    job->page.len += http_percent_encode(item->key, job->page.data + job->page.len);
    job->page.data[job->page.len++] = '\n';
    return true;
}

static void keys_work(struct aio_op *op)
{
    struct keys_job *job = (struct keys_job *)op;

    op->result = store_scan(job->store, &job->range, job->limit, add_key, job);
    if (op->result == 1 && job->page.len == 0) /* not even the first key found room */
        op->result = -ENOMEM;
}

/* ---- on the worker ---- */

static void reply_page(struct http_session *s, struct keys_job *job)
{
    struct http_reply r = http_reply_begin(s, 200);
    char *room = conn_room(s->conn, HTTP_REPLY_MAX);

    r.type = slice_str("text/plain");
    r.length = job->page.len;
    r.extra = slice_str(job->op.result == 1 ? "X-TT-More: 1\r\nCache-Control: no-store\r\n"
                                            : "Cache-Control: no-store\r\n");
    if (room == NULL) {
        job_free(job);
        http_answered(s);
        return;
    }
    conn_commit(s->conn, http_reply_format(room, &r));
    if (s->is_head || job->page.len == 0)
        job_free(job);
    else
        conn_write_memory(s->conn, job->page.data, job->page.len, job_free, job);
    http_answered(s);
}

static void keys_done(struct aio_op *op)
{
    struct keys_job *job = (struct keys_job *)op;
    struct http_session *s = job->session;

    if (s == NULL) {
        job_free(job);
    } else if (op->result < 0) {
        bool short_of_memory = op->result == -ENOMEM;

        job_free(job);
        http_reply_failure(s, short_of_memory ? STORE_NO_MEMORY : STORE_IO_ERROR);
    } else {
        reply_page(s, job);
    }
}

/* Reads the query into the job. False: it is malformed. */
static bool job_read_query(struct keys_job *job, struct slice query)
{
    struct slice text;

    job->limit = LIMIT_DEFAULT;
    job->range.has_after = http_query_find(query, "after", &text);
    if (job->range.has_after && http_percent_decode(text, job->room[0], RECORD_KEY_MAX, &text) != 0)
        return false;
    if (job->range.has_after) {
        /* The text may still lie in the input, which goes away. */
        memmove(job->room[0], text.ptr, text.len);
        job->range.after = slice_of(job->room[0], text.len);
    }
    if (http_query_find(query, "prefix", &text)) {
        if (http_percent_decode(text, job->room[1], RECORD_KEY_MAX, &text) != 0)
            return false;
        memmove(job->room[1], text.ptr, text.len);
        job->range.prefix = slice_of(job->room[1], text.len);
    }
    return !http_query_find(query, "limit", &text) ||
           (parse_u32(text, &job->limit) && job->limit >= 1 && job->limit <= LIMIT_MAX);
}

/* The job, which counts against the budget; NULL without memory. */
static struct keys_job *job_make(struct http_session *s)
{
    struct keys_job *job;

    if (!budget_take(s->worker->budget, JOB_BYTES))
        return NULL;
    job = calloc(1, sizeof(*job));
    if (job == NULL) {
        budget_give(s->worker->budget, JOB_BYTES);
        return NULL;
    }
    job->budget = s->worker->budget;
    job->session = s;
    job->store = s->worker->app->store;
    job->op.work = keys_work;
    job->op.done = keys_done;
    return job;
}

void admin_keys(struct http_session *s, const struct http_request *r)
{
    struct keys_job *job = job_make(s);

    if (job == NULL) {
        http_reply_failure(s, STORE_NO_MEMORY);
        return;
    }
    if (!job_read_query(job, r->query)) {
        job_free(job);
        http_reply_status(s, 400, "");
        return;
    }
    http_wait(s, job, job_drop);
    aio_submit_job(worker_aio(conn_worker(s->conn)), &job->op);
}
