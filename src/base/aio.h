/*
 * aio.h - file work that a network loop must not wait for.
 *
 * Provides: a small thread pool (struct aio_pool) for any blocking job, and per worker a port
 *           (struct aio) for asynchronous reads: io_uring where the kernel allows it, else the
 *           pool; and the questions that a loop asks before it touches a file (aio_is_cached()).
 * Used by:  store (cold reads, big values), net (reading ahead before sendfile).
 * Threads:  a port belongs to one thread; jobs run on the pool's threads and complete on the port's
 *           thread. aio_is_cached() and aio_read_cached(): any.
 */
#ifndef BASE_AIO_H
#define BASE_AIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct aio_pool;
struct aio;

/* One piece of work; the caller's memory, untouched until done() was called. */
struct aio_op {
    void (*done)(struct aio_op *op); /* on the port's thread, from aio_run(); may submit and free */
    void (*work)(struct aio_op *op); /* aio_submit_job(): on a pool thread; may block */
    int64_t result;                  /* bytes read, or what work() left there; -errno */
    /* For aio_read() and aio_read_ahead(), which set work to their own: */
    int fd;
    void *buf;
    size_t len;
    off_t offset;
    /* The port's own. */
    struct aio *port;
    struct aio_op *next;
};

/* `threads` threads, started at once. 0 or -errno. */
int aio_pool_open(unsigned threads, struct aio_pool **out);

/* Runs op->work on one of the threads; from any thread, without a port: done() is not called, and
 * nobody looks at `op` again. */
void aio_pool_run(struct aio_pool *pool, struct aio_op *op);

/* Ends the threads after the queued jobs. All ports must be closed before. */
void aio_pool_close(struct aio_pool *pool);

/* use_uring false, or an io_uring that cannot be set up: every read is a pool job. 0 or -errno. */
int aio_open(struct aio_pool *pool, bool use_uring, struct aio **out);

/* Waits for what is under way (completing it) and frees the port. */
void aio_close(struct aio *port);

/* Whether reads go through io_uring. */
bool aio_uses_uring(const struct aio *port);

/* Readable when aio_run() has something to do (an eventfd). */
int aio_fd(const struct aio *port);

/* Calls done() of everything that has finished. Returns how many. */
size_t aio_run(struct aio *port);

/* Fills op->buf with up to op->len bytes from op->offset. result: bytes read (short only at the end
 * of the file) or -errno. */
void aio_read(struct aio *port, struct aio_op *op);

/* Brings op->len bytes at op->offset into the page cache, without a buffer of the caller's (op->buf
 * is set to NULL). result 0, also if the file ends before, or -errno. */
void aio_read_ahead(struct aio *port, struct aio_op *op);

/* Runs op->work on the pool. */
void aio_submit_job(struct aio *port, struct aio_op *op);

/* True if all of the range is in the page cache as far as can be told without waiting: by
 * cachestat; where the kernel lacks it by RWF_NOWAIT reads of the first and the last page for
 * ranges up to 64 KiB, by mincore up to 1 MiB, and false above. Changes errno. */
bool aio_is_cached(int fd, off_t offset, size_t len);

/* Reads what is in the page cache, never waits for the disk. Bytes read (may be short; 0 at the end
 * of the file), -EAGAIN if nothing is cached at the offset or it cannot be told, other -errno. */
ssize_t aio_read_cached(int fd, void *buf, size_t len, off_t offset);

/* Tests: pretend that cachestat is missing. Before threads start. */
void aio_disable_cachestat(void);

#endif
