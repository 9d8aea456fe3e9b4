/*
 * aio.c - the thread pool and the ports of aio.h.
 *
 * Threads:  a pool's queue is shared by all; a port's list of finished jobs by the pool and the
 *           owner. The ring, `under_way` and the list of waiting reads belong to the port's thread.
 * Locks:    pool->mutex and port->mutex; never both, nothing else is taken under them.
 *
 * A port has one eventfd for both sources of completions: the kernel signals it for the ring, a
 * pool thread for a job when the list of finished jobs was empty before.
 */
#include "base/aio.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

#include "base/io.h"
#include "base/log.h"

enum {
    RING_ENTRIES = 128,      /* reads that the ring holds at a time; more wait in the port */
    REAP_MAX = 32,           /* completions taken off the ring at once */
    AHEAD_PIECE = 256 << 10, /* reading ahead by the ring: bytes a read */
    AHEAD_STACK = 64 << 10,  /* the same by a pool thread, whose buffer is its stack */
};

#define RING_READ_MAX ((size_t)1 << 30) /* one read's length; the ring's own bound is 2^31 */

struct op_list {
    struct aio_op *head;
    struct aio_op *tail;
};

struct aio_pool {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct op_list jobs;
    bool ending;
    unsigned started;
    pthread_t threads[];
};

struct aio {
    struct aio_pool *pool;
    int event_fd;
    size_t under_way; /* submitted, done() not called yet */
    pthread_mutex_t mutex;
    struct op_list finished; /* by the pool; under the mutex */
    bool has_ring;
#ifdef HAVE_LIBURING
    struct io_uring ring;
    unsigned in_ring;       /* reads that the ring has */
    bool unsubmitted;       /* the kernel refused to take entries; try again */
    struct op_list waiting; /* reads that wait for room in the ring */
    char *scratch;          /* where reading ahead puts bytes that nobody looks at */
#endif
};

static void list_add(struct op_list *list, struct aio_op *op)
{
    op->next = NULL;
    if (list->head == NULL)
        list->head = op;
    else
        list->tail->next = op;
    list->tail = op;
}

static struct aio_op *list_take(struct op_list *list)
{
    struct aio_op *op = list->head;

    if (op != NULL)
        list->head = op->next;
    return op;
}

/* ---- the pool ---- */

static void port_signal(struct aio *port)
{
    uint64_t one = 1;
    ssize_t n = write(port->event_fd, &one, sizeof(one));

    /* EAGAIN: the counter is at its top, so the owner is told anyway. */
    assert(n == (ssize_t)sizeof(one) || errno == EAGAIN);
    (void)n;
}

static void port_finish_job(struct aio *port, struct aio_op *op)
{
    /* The signal is given under the mutex: without it the owner may have freed the port by then. */
    pthread_mutex_lock(&port->mutex);
    if (port->finished.head == NULL)
        port_signal(port);
    list_add(&port->finished, op);
    pthread_mutex_unlock(&port->mutex);
}

static void *pool_thread(void *arg)
{
    struct aio_pool *pool = arg;

    pthread_setname_np(pthread_self(), "tt-io");
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct aio_op *op = list_take(&pool->jobs);

        if (op != NULL) {
            struct aio *port = op->port;

            pthread_mutex_unlock(&pool->mutex);
            op->work(op);
            if (port != NULL) /* else `op` may be gone by now */
                port_finish_job(port, op);
            pthread_mutex_lock(&pool->mutex);
        } else if (pool->ending) {
            break;
        } else {
            pthread_cond_wait(&pool->wake, &pool->mutex);
        }
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

/* The process's signals are the main thread's; only faults must reach the thread that made them. */
static int start_threads(struct aio_pool *pool, unsigned threads)
{
    sigset_t blocked;
    sigset_t before;
    int rc = 0;

    sigfillset(&blocked);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    while (rc == 0 && pool->started < threads) {
        rc = -pthread_create(&pool->threads[pool->started], NULL, pool_thread, pool);
        if (rc == 0)
            pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int aio_pool_open(unsigned threads, struct aio_pool **out)
{
    struct aio_pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pool->threads[0]));
    int rc;

    if (pool == NULL)
        return -ENOMEM;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    rc = start_threads(pool, threads);
    if (rc != 0) {
        aio_pool_close(pool);
        return rc;
    }
    *out = pool;
    return 0;
}

void aio_pool_close(struct aio_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    pool->ending = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    assert(pool->jobs.head == NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

static void pool_add(struct aio_pool *pool, struct aio_op *op)
{
    pthread_mutex_lock(&pool->mutex);
    list_add(&pool->jobs, op);
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void aio_pool_run(struct aio_pool *pool, struct aio_op *op)
{
    op->port = NULL;
    pool_add(pool, op);
}

static void read_job(struct aio_op *op)
{
    op->result = io_read_upto(op->fd, op->buf, op->len, op->offset);
}

static void read_ahead_job(struct aio_op *op)
{
    char scratch[AHEAD_STACK];
    size_t at = 0;

    /* The advice has the disk start on all of it; the reads then wait until it is there. */
    posix_fadvise(op->fd, op->offset, (off_t)op->len, POSIX_FADV_WILLNEED);
    op->result = 0;
    while (at < op->len) {
        size_t want = op->len - at < sizeof(scratch) ? op->len - at : sizeof(scratch);
        ssize_t n = io_read_upto(op->fd, scratch, want, op->offset + (off_t)at);

        if (n <= 0) {
            op->result = n;
            return;
        }
        at += (size_t)n;
    }
}

/* ---- the ring ---- */

#ifdef HAVE_LIBURING

static void log_refusal_once(int rc)
{
    static _Atomic bool logged;

    if (!atomic_exchange(&logged, true))
        log_info("io_uring is not available, reads go through threads: %s", strerror(-rc));
}

/* A false from here is no error: containers often forbid io_uring. */
static bool ring_open(struct aio *port)
{
    struct io_uring_probe *probe;
    bool usable;
    int rc = io_uring_queue_init(RING_ENTRIES, &port->ring, 0);

    if (rc != 0) {
        log_refusal_once(rc);
        return false;
    }
    probe = io_uring_get_probe_ring(&port->ring);
    usable = probe != NULL && io_uring_opcode_supported(probe, IORING_OP_READ) &&
             io_uring_register_eventfd(&port->ring, port->event_fd) == 0;
    io_uring_free_probe(probe);
    if (usable)
        port->scratch = malloc(AHEAD_PIECE);
    if (port->scratch == NULL) {
        io_uring_queue_exit(&port->ring);
        return false;
    }
    return true;
}

static void ring_close(struct aio *port)
{
    io_uring_queue_exit(&port->ring);
    free(port->scratch);
}

/* Entries that the kernel does not take now (no memory) stay in the ring; the signal makes
 * aio_run() come back for them. */
static void ring_submit(struct aio *port)
{
    port->unsubmitted = io_uring_submit(&port->ring) < 0;
    if (port->unsubmitted)
        port_signal(port);
}

/* Asks for what is missing of the read; op->result counts what is there. */
static void ring_read(struct aio *port, struct aio_op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&port->ring);
    size_t missing = op->len - (size_t)op->result;
    size_t most = op->buf != NULL ? RING_READ_MAX : AHEAD_PIECE;
    void *to = op->buf != NULL ? (char *)op->buf + op->result : port->scratch;

    assert(sqe != NULL); /* in_ring is bounded by the number of entries */
    if (missing > most)
        missing = most;
    io_uring_prep_read(sqe, op->fd, to, (unsigned)missing, (uint64_t)(op->offset + op->result));
    io_uring_sqe_set_data(sqe, op);
    port->in_ring++;
}

static void ring_add(struct aio *port, struct aio_op *op)
{
    op->result = 0;
    if (port->in_ring >= RING_ENTRIES) {
        list_add(&port->waiting, op);
        return;
    }
    ring_read(port, op);
    ring_submit(port);
}

/* Returns whether the read is finished, with op->result set; else it was passed on. */
static bool ring_step(struct aio *port, struct aio_op *op, int got)
{
    port->in_ring--;
    if (got == -EAGAIN || got == -EINTR) {
        pool_add(port->pool, op); /* starts from the beginning there, waiting as it must */
        return false;
    }
    if (got > 0)
        op->result += got;
    if (got > 0 && (size_t)op->result < op->len) {
        ring_read(port, op);
        return false;
    }
    if (got < 0)
        op->result = got;
    else if (op->buf == NULL)
        op->result = 0;
    return true;
}

static size_t ring_reap_some(struct aio *port)
{
    struct io_uring_cqe *cqes[REAP_MAX];
    struct aio_op *finished[REAP_MAX];
    unsigned n = io_uring_peek_batch_cqe(&port->ring, cqes, REAP_MAX);
    unsigned count = 0;

    for (unsigned i = 0; i < n; i++) {
        struct aio_op *op = io_uring_cqe_get_data(cqes[i]);

        if (ring_step(port, op, cqes[i]->res))
            finished[count++] = op;
    }
    io_uring_cq_advance(&port->ring, n);
    while (port->waiting.head != NULL && port->in_ring < RING_ENTRIES)
        ring_read(port, list_take(&port->waiting));
    if (n > 0 || port->unsubmitted)
        ring_submit(port);
    port->under_way -= count;
    for (unsigned i = 0; i < count; i++)
        finished[i]->done(finished[i]);
    return n == REAP_MAX ? count + ring_reap_some(port) : count;
}

static size_t ring_reap(struct aio *port)
{
    return port->has_ring ? ring_reap_some(port) : 0;
}

static void add_read(struct aio *port, struct aio_op *op)
{
    if (port->has_ring)
        ring_add(port, op);
    else
        pool_add(port->pool, op);
}

#else

static bool ring_open(struct aio *port)
{
    (void)port;
    return false;
}

static void ring_close(struct aio *port)
{
    (void)port;
}

static size_t ring_reap(struct aio *port)
{
    (void)port;
    return 0;
}

static void add_read(struct aio *port, struct aio_op *op)
{
    pool_add(port->pool, op);
}

#endif

/* ---- the port ---- */

int aio_open(struct aio_pool *pool, bool use_uring, struct aio **out)
{
    struct aio *port = calloc(1, sizeof(*port));
    int rc;

    if (port == NULL)
        return -ENOMEM;
    port->pool = pool;
    port->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (port->event_fd == -1) {
        rc = -errno;
        free(port);
        return rc;
    }
    pthread_mutex_init(&port->mutex, NULL);
    port->has_ring = use_uring && ring_open(port);
    *out = port;
    return 0;
}

void aio_close(struct aio *port)
{
    while (port->under_way > 0) {
        struct pollfd ready = {.fd = port->event_fd, .events = POLLIN};

        poll(&ready, 1, -1);
        aio_run(port);
    }
    if (port->has_ring)
        ring_close(port);
    pthread_mutex_lock(&port->mutex); /* the last signaller is out once this is ours */
    pthread_mutex_unlock(&port->mutex);
    pthread_mutex_destroy(&port->mutex);
    close(port->event_fd);
    free(port);
}

bool aio_uses_uring(const struct aio *port)
{
    return port->has_ring;
}

int aio_fd(const struct aio *port)
{
    return port->event_fd;
}

static size_t run_finished_jobs(struct aio *port)
{
    struct op_list list;
    struct aio_op *op;
    size_t count = 0;

    pthread_mutex_lock(&port->mutex);
    list = port->finished;
    port->finished.head = NULL;
    pthread_mutex_unlock(&port->mutex);
    while ((op = list_take(&list)) != NULL) {
        port->under_way--;
        op->done(op);
        count++;
    }
    return count;
}

size_t aio_run(struct aio *port)
{
    uint64_t signals;
    ssize_t n = read(port->event_fd, &signals, sizeof(signals));
    size_t count;

    (void)n; /* only resets the counter; EAGAIN when called without a signal */
    count = run_finished_jobs(port);
    return count + ring_reap(port);
}

void aio_read(struct aio *port, struct aio_op *op)
{
    assert(op->buf != NULL);
    op->port = port;
    op->work = read_job;
    port->under_way++;
    add_read(port, op);
}

void aio_read_ahead(struct aio *port, struct aio_op *op)
{
    op->port = port;
    op->work = read_ahead_job;
    op->buf = NULL;
    port->under_way++;
    add_read(port, op);
}

void aio_submit_job(struct aio *port, struct aio_op *op)
{
    op->port = port;
    port->under_way++;
    pool_add(port->pool, op);
}
