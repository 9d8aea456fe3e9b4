/*
 * net.h - listeners, workers, connections.
 *
 * Provides: the event loops, the byte streams in both directions with their limits, and the calls
 *           by which a session (src/session) reads and answers.
 * Used by:  session and main. net knows no protocol: it calls struct net_ops.
 * Threads:  every worker is one thread with one epoll loop; a connection and all calls on it stay
 *           with its worker. net_open(), net_start(), net_stop() and net_close() belong to the main
 *           thread. Workers have all signals blocked but those of faults.
 *
 * One turn of a loop: wait; for each ready connection one recv, input(), one send; run the watched
 * descriptors (completions), which call conn_wake(); ready() for each woken connection and one
 * send; turn_end().
 */
#ifndef NET_NET_H
#define NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/aio.h"
#include "base/budget.h"
#include "base/counters.h"
#include "base/slice.h"

struct net;
struct worker;
struct conn;

/* Output that a connection holds before its session should make no more (conn_output_full()). */
#define NET_OUTPUT_HIGH_BYTES ((size_t)256 << 10)
/* Most that conn_room() gives at a time. */
#define NET_ROOM_MAX ((size_t)64 << 10)

/* What a session layer implements. All calls come on the worker's thread. */
struct net_ops {
    /* Before the worker's loop starts: open the worker's store port, worker_watch() its descriptor,
     * worker_set_context(). 0 or -errno (the server then does not start). */
    int (*worker_start)(struct worker *w, void *app);
    /* End of every turn: hand the turn's writes to the store. */
    void (*turn_end)(struct worker *w);
    /* After the loop has ended, all connections are closed and all their pieces released.
     * worker_aio() is still there. */
    void (*worker_stop)(struct worker *w);

    /* Bytes from the client. Returns how many are used up; the rest comes again, with more behind
     * it, unless the session has called conn_hold(). Returning 0 with nothing held means "not
     * enough yet". Never called with an empty slice, nor after conn_close_when_sent() or
     * conn_abort(). */
    size_t (*input)(struct conn *c, struct slice in);
    /* conn_wake() was called, or output fell below the low mark after conn_output_full() was true.
     * It may also come without a cause that the session knows. Input that waits is given to input()
     * right afterwards if the session no longer holds. */
    void (*ready)(struct conn *c);
    /* The client will send no more (half-close) and all its input was used up or can never be.
     * Once, not while the session holds. The session finishes what is under way and calls
     * conn_close_when_sent(). */
    void (*end_of_input)(struct conn *c);
    /* The connection is gone, or all of its output was sent after conn_close_when_sent(): free the
     * session. Once for every connection, also for one that never got a session. Work under way in
     * the store must be cut loose, not awaited. No call on c may follow. */
    void (*closed)(struct conn *c);
};

struct net_config {
    const char *host; /* address or name to bind, "*" for all; NULL: 127.0.0.1 */
    uint16_t port;    /* 0: no TCP if there is a unix_path, else a port that the kernel picks */
    const char *unix_path;    /* NULL: no unix socket */
    unsigned threads;         /* workers, at least 1 */
    unsigned max_conns;       /* beyond it a connection is told so and closed */
    int64_t idle_timeout_ms;  /* between requests; 0: none */
    int64_t stall_timeout_ms; /* a request or reply begun and no byte moved; 0: none */
    bool use_uring;
    struct aio_pool *pool;     /* borrowed */
    struct budget *budget;     /* borrowed; kept input and queued output are taken from it */
    const struct net_ops *ops; /* borrowed */
    void *app;                 /* for worker_start() and worker_app() */
};

/* Binds (an address in use is found although SO_REUSEPORT would hide it) and listens; no thread
 * runs yet. A name that stands for several addresses is listened to on all that this machine has. 0
 * or -errno with the reason logged; -EADDRINUSE of a TCP address is left to the caller to word. */
int net_open(const struct net_config *config, struct net **out);

/* Starts the workers. 0 or -errno. */
int net_start(struct net *net);

/* Stops accepting; connections are closed as soon as they stand between two requests (what has
 * reached us by then is answered), all after grace_ms. Returns when every worker has ended. */
void net_stop(struct net *net, int64_t grace_ms);

/* Frees all. After net_stop(), or after net_open() alone. Removes the unix socket's file. */
void net_close(struct net *net);

/* Sums over the workers; any thread. */
unsigned net_worker_count(const struct net *net);
const struct counters *net_worker_counters(const struct net *net, unsigned worker);
unsigned net_conn_count(const struct net *net); /* open now */
uint16_t net_port(const struct net *net);       /* the bound port; 0 without TCP */

/* ---- a worker ---- */

void *worker_app(const struct worker *w);
void worker_set_context(struct worker *w, void *context);
void *worker_context(const struct worker *w);
struct counters *worker_counters(struct worker *w);
struct aio *worker_aio(struct worker *w); /* while the loop runs, net calls aio_run() */
unsigned worker_index(const struct worker *w);
struct net *worker_net(const struct worker *w);
bool worker_stopping(const struct worker *w);
struct budget *worker_budget(const struct worker *w);

/* Calls fn(arg) in the loop whenever fd is readable. 0 or -errno. */
int worker_watch(struct worker *w, int fd, void (*fn)(void *arg), void *arg);

/* ---- a connection, for its session ---- */

struct worker *conn_worker(const struct conn *c);
/* The session's own state; NULL on a new connection. */
void *conn_session(const struct conn *c);
void conn_set_session(struct conn *c, void *session);
uint64_t conn_id(const struct conn *c); /* for log lines; unique in this run */

/* input() is not called until conn_resume(): the session waits for the store. What was received is
 * kept, the rest stays with the kernel. A connection on hold is never closed for idleness or stall;
 * one that waits without hold may be taken for idle. */
void conn_hold(struct conn *c);
void conn_resume(struct conn *c);

/* The client owes us bytes (a body has begun) although no unparsed input is left: the stall limit
 * counts, and a close with conn_close_when_sent() gives the client time to read the reply. */
void conn_set_partial(struct conn *c, bool partial);

/* Replies are owed while input() is still wanted (writes under way in the store): the connection is
 * not between requests, neither for an idle limit nor for net_stop(). */
void conn_set_busy(struct conn *c, bool busy);

/* Asks for ready() later in this turn; cheap when called many times. */
void conn_wake(struct conn *c);

/* Room for n <= NET_ROOM_MAX contiguous bytes at the end of the output; conn_commit() says how many
 * were used. The room is valid until the next call on any connection. NULL: no memory, the
 * connection is being aborted. */
char *conn_room(struct conn *c, size_t n);
void conn_commit(struct conn *c, size_t n);

/* Copies; any length. 0, or -ENOMEM (the connection is being aborted). */
int conn_write(struct conn *c, const void *data, size_t len);

/* Sends memory without copying. Meant for 16 KiB and up. release(arg) is called once: when the
 * bytes are sent, or when the connection is gone, then after closed(); at once if len is 0 or the
 * connection is being aborted already. It must call nothing of net. */
void conn_write_memory(struct conn *c, const void *data, size_t len, void (*release)(void *arg),
                       void *arg);

/* Sends len bytes of a file by sendfile, in slices that are in the page cache; the loop never waits
 * for the disk. release(arg) as above; fd must stay open until then. A file that ends too early is
 * reported and the connection aborted. `revoked` (may be NULL) lives until release(): when it has
 * become true before all is sent, the connection is closed soon. */
void conn_write_file(struct conn *c, int fd, off_t offset, size_t len, const _Atomic bool *revoked,
                     void (*release)(void *arg), void *arg);

/* True when NET_OUTPUT_HIGH_BYTES or more (files and memory pieces count) wait to be sent, and from
 * then on until ready(): make no more before. */
bool conn_output_full(struct conn *c);

/* No more input is taken; the connection closes once all output is sent. */
void conn_close_when_sent(struct conn *c);

/* Closes without sending what is left. closed() comes soon after, not from within; what the session
 * still writes until then is thrown away. */
void conn_abort(struct conn *c);

#endif
