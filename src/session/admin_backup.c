/*
 * admin_backup.c - the leases of backups: see admin_backup.h.
 *
 * Provides: admin_backup_*().
 * Used by:  admin.c.
 * Threads:  backup_work() on a thread of the pool, which alone touches the job until backup_done()
 *           runs on the worker.
 */
#include "session/admin_backup.h"

#include <errno.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/num.h"

#define LEASE_DEFAULT_S 60u
#define LEASE_MAX_S 3600u
#define NO_STORE "Cache-Control: no-store\r\n"

struct backup_job {
    struct aio_op op;
    struct http_session *session; /* NULL: the connection is gone */
    struct store *store;
    int64_t lease_ms;
    uint64_t token; /* 0: begin; else renew, or end with lease_ms 0 */
    struct buf text;
};

static void job_free(void *arg)
{
    struct backup_job *job = arg;

    buf_free(&job->text);
    free(job);
}

static void job_drop(void *work)
{
    ((struct backup_job *)work)->session = NULL;
}

static void backup_work(struct aio_op *op)
{
    struct backup_job *job = (struct backup_job *)op;
    struct buf list = {0};

    if (job->token != 0) {
        op->result = job->lease_ms > 0 ? store_backup_renew(job->store, job->token, job->lease_ms)
                                       : store_backup_end(job->store, job->token);
        return;
    }
    op->result = store_backup_begin(job->store, job->lease_ms, &job->token, &list);
    if (op->result == 0)
        op->result = buf_printf(&job->text, "token %llu\n", (unsigned long long)job->token);
    if (op->result == 0)
        op->result = buf_add_slice(&job->text, buf_slice(&list));
    buf_free(&list);
}

/* The list may be long: it is sent from where it is. Takes over the job. */
static void reply_list(struct http_session *s, struct backup_job *job)
{
    struct http_reply r = http_reply_begin(s, 200);
    char *room = conn_room(s->conn, HTTP_REPLY_MAX);

    r.type = slice_str("text/plain");
    r.extra = slice_str(NO_STORE);
    r.length = job->text.len;
    if (room == NULL) {
        (void)store_backup_end(job->store, job->token);
        job_free(job);
    } else {
        conn_commit(s->conn, http_reply_format(room, &r));
        conn_write_memory(s->conn, job->text.data, job->text.len, job_free, job);
    }
    http_answered(s);
}

static void reply_done(struct http_session *s)
{
    struct http_reply r = http_reply_begin(s, 200);

    r.type = slice_str("text/plain");
    r.extra = slice_str(NO_STORE);
    http_reply_body(s, &r, slice_str("OK\n"));
}

static void reply_failure(struct http_session *s, int64_t rc)
{
    switch (rc) {
    case -ENOENT: http_reply_status(s, 404, NO_STORE); break;
    case -EROFS: http_reply_failure(s, STORE_READ_ONLY); break;
    case -EBUSY:
    case -EAGAIN: http_reply_status(s, 503, HTTP_RETRY_AFTER NO_STORE); break;
    case -ENOMEM: http_reply_failure(s, STORE_NO_MEMORY); break;
    default: http_reply_failure(s, STORE_IO_ERROR); break;
    }
}

static void backup_done(struct aio_op *op)
{
    struct backup_job *job = (struct backup_job *)op;
    struct http_session *s = job->session;
    int64_t rc = op->result;

    if (s != NULL && rc == 0 && job->text.len > 0) {
        reply_list(s, job);
        return;
    }
    if (s == NULL && rc == 0 && job->text.len > 0) /* nobody has been told of the lease */
        (void)store_backup_end(job->store, job->token);
    job_free(job);
    if (s != NULL && rc == 0)
        reply_done(s);
    else if (s != NULL)
        reply_failure(s, rc);
}

static void start(struct http_session *s, uint64_t token, uint32_t lease_s)
{
    struct backup_job *job = calloc(1, sizeof(*job));

    if (job == NULL) {
        http_reply_failure(s, STORE_NO_MEMORY);
        return;
    }
    job->session = s;
    job->store = s->worker->app->store;
    job->token = token;
    job->lease_ms = (int64_t)lease_s * 1000;
    job->op.work = backup_work;
    job->op.done = backup_done;
    http_wait(s, job, job_drop);
    aio_submit_job(worker_aio(conn_worker(s->conn)), &job->op);
}

/* False: it is malformed (answered). */
static bool read_lease(struct http_session *s, const struct http_request *r, uint32_t *lease_s)
{
    struct slice text;

    *lease_s = LEASE_DEFAULT_S;
    if (!http_query_find(r->query, "lease", &text) ||
        (parse_u32(text, lease_s) && *lease_s >= 1 && *lease_s <= LEASE_MAX_S))
        return true;
    http_reply_status(s, 400, "");
    return false;
}

static bool read_token(struct http_session *s, const struct http_request *r, uint64_t *token)
{
    struct slice text;

    if (http_query_find(r->query, "token", &text) && parse_u64(text, token) && *token != 0)
        return true;
    http_reply_status(s, 400, "");
    return false;
}

void admin_backup_begin(struct http_session *s, const struct http_request *r)
{
    uint32_t lease_s;

    if (read_lease(s, r, &lease_s))
        start(s, 0, lease_s);
}

void admin_backup_renew(struct http_session *s, const struct http_request *r)
{
    uint64_t token;
    uint32_t lease_s;

    if (read_token(s, r, &token) && read_lease(s, r, &lease_s))
        start(s, token, lease_s);
}

void admin_backup_end(struct http_session *s, const struct http_request *r)
{
    uint64_t token;

    if (read_token(s, r, &token))
        start(s, token, 0);
}
