/*
 * net_internal.h - what the files of net share.
 *
 * Used by:  src/net only.
 *
 *   net.c       opening, starting, stopping (main thread)
 *   listener.c  addresses, binding, accepting
 *   worker.c    the loop and its turn
 *   conn.c      one connection: life, receiving, what is to be done next
 *   output.c    the way out: the shared buffer, queues of pieces, sending
 *   limits.c    the sweep over a worker's connections
 *
 * Threads:  a worker and its connections are touched by the worker's thread only; atomics say
 *           otherwise.
 */
#ifndef NET_NET_INTERNAL_H
#define NET_NET_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "net/net.h"

/* Sizes in bytes. */
enum {
    NET_EVENTS = 512,              /* taken by one epoll_wait */
    NET_RECV_MAX = 64 << 10,       /* of one recv */
    NET_RECV_BUFFER = 256 << 10,   /* a worker's; kept input is put before what is received */
    NET_KEPT_MAX = 1088 << 10,     /* unparsed input of a connection; beyond it is closed */
    NET_OUTPUT_BUFFER = 256 << 10, /* a worker's, for the connection whose part it is */
    NET_OUTPUT_LOW = 64 << 10,     /* a full output is not full any more below this */
    NET_SLICE_MAX = 512 << 10,     /* of files and memory, by one call */
    NET_PART_MAX = 1 << 20,        /* sent to one connection before others have their part */
    NET_MAX_ADDRESSES = 16,        /* of one host name */
};

/* A header before a file piece shorter than this goes with MSG_MORE. Before longer ones, whose data
 * is not aligned to pages, MSG_MORE would double the CPU of the send (measured: 29 against 61 us at
 * 100 KB). */
enum { NET_MORE_BELOW = 48 << 10 };

/* Milliseconds. */
enum {
    NET_SWEEP_MS = 1000,
    NET_LINGER_MS = 2000,   /* see finish() in conn.c */
    NET_RESIDENT_MS = 2000, /* so long a slice that was read ahead counts as cached */
};

/* What an event of the loop belongs to; the first member of everything that epoll points to. */
enum source {
    SOURCE_CONN,
    SOURCE_LISTENER,
    SOURCE_WATCH,
    SOURCE_STOP,
};

enum conn_flag {
    CONN_HOLD = 1 << 0,     /* the session does not want input() */
    CONN_FULL = 1 << 1,     /* too much output waits; ready() when it has drained */
    CONN_CLOSING = 1 << 2,  /* close once all output is sent */
    CONN_DOOMED = 1 << 3,   /* destroyed in this or the next turn; nothing but closed() is called */
    CONN_EOF = 1 << 4,      /* the client sends no more */
    CONN_EOF_TOLD = 1 << 5, /* end_of_input() was called */
    CONN_PARTIAL = 1 << 6,  /* conn_set_partial() */
    CONN_WOKEN = 1 << 7,    /* ready() is owed */
    CONN_QUEUED = 1 << 8,   /* on the worker's todo or again list */
    CONN_OFFER = 1 << 9,    /* kept input that input() has not refused as incomplete */
    CONN_BLOCKED = 1 << 10, /* the socket took no more; EPOLLOUT tells */
    CONN_HANGUP = 1 << 11,  /* EPOLLHUP or EPOLLERR was seen: cannot be left in epoll unwatched */
    CONN_UNWATCHED = 1 << 12, /* taken out of epoll for that */
    CONN_LINGER = 1 << 13,    /* all sent, session gone: reading on until the client has closed */
    CONN_BUSY = 1 << 14,      /* conn_set_busy() */
};

/* Unparsed input of one connection, only while there is some. */
struct kept {
    size_t cap;
    size_t start;
    size_t len;
    char data[];
};

/* 88 bytes (with malloc's own: 96): there may be many thousands. */
struct conn {
    enum source source;
    uint32_t flags; /* enum conn_flag */
    int fd;
    uint32_t armed; /* events that epoll knows */
    struct worker *worker;
    void *session;
    struct conn *prev;
    struct conn *next;      /* of the worker's connections */
    struct conn *todo_next; /* of the list it is queued on */
    struct kept *kept;
    struct output *output; /* unsent pieces; NULL when there are none */
    int64_t moved_ms;      /* when a byte moved last (monotonic) */
    uint64_t id;
};

struct listener {
    enum source source;
    int fd; /* -1: closed */
    bool is_unix;
};

struct watch {
    enum source source;
    void (*fn)(void *arg);
    void *arg;
    struct watch *next;
};

struct conn_list {
    struct conn *head;
    struct conn *tail;
};

struct worker {
    /* What every request touches. */
    int epoll_fd;
    unsigned index;
    struct net *net;
    const struct net_ops *ops;
    struct conn *current; /* whose part it is; NULL between parts */
    int64_t now_ms;       /* of this turn */
    char *recv_buf;
    char *out_buf;
    struct conn *out_owner; /* whose bytes are in out_buf */
    size_t out_len;
    size_t part_sent; /* bytes sent in the current part */
    bool stopping;
    struct conn_list todo;  /* to be served in this turn */
    struct conn_list again; /* to be served in the next */

    struct conn *conns;
    unsigned conn_count;
    unsigned orphaned_reads; /* reads ahead whose connection is gone */
    uint64_t conn_serial;
    int64_t next_sweep_ms;
    int64_t stop_deadline_ms;
    bool accept_paused;
    int64_t accept_warned_ms; /* 0: never */
    void *context;
    struct aio *aio;
    struct watch *watches;
    enum source stop_source;
    int stop_fd; /* eventfd; readable when the worker is to stop */
    unsigned listener_count;
    struct listener listeners[NET_MAX_ADDRESSES + 1];
    pthread_t thread;
    bool has_thread;
    int start_rc;
    struct counters counters;
};

struct net {
    struct net_config config; /* host and unix_path are our own copies */
    uint16_t port;
    int unix_fd;           /* -1: none */
    struct stat unix_stat; /* of the socket's file as we made it */
    _Atomic unsigned conn_count;
    _Atomic int64_t stop_deadline_ms;
    sem_t started; /* posted by each worker when worker_start() has returned */
    unsigned worker_count;
    struct worker *workers;
};

/* ---- listener.c ---- */

/* Binds what the config names and hands the listeners to the workers. 0 or -errno, logged. */
int listeners_open(struct net *net);
/* Closes what is open and unlinks; also after listeners_open() has failed. */
void listeners_close(struct net *net);
/* Removes the unix socket's file if it is still ours. */
void listeners_unlink(struct net *net);
/* 0 or -errno. */
int listeners_watch(struct worker *w);
void listener_accept(struct worker *w, struct listener *l);
/* Accepting begins again if it was paused for lack of descriptors. */
void listeners_resume(struct worker *w);
/* Takes what is queued, then closes the worker's listeners. */
void listeners_stop(struct worker *w);

/* ---- worker.c ---- */

int worker_init(struct worker *w, struct net *net, unsigned index);
void worker_free(struct worker *w);
void *worker_thread(void *arg);
/* Queues a connection to be served in this turn, or in the next. */
void worker_todo(struct conn *c);
void worker_again(struct conn *c);

/* ---- conn.c ---- */

/* Takes over fd, also when it fails. 0 or -errno. */
int conn_create(struct worker *w, int fd);
void conn_destroy(struct conn *c);
/* A connection's part of the turn: for an event, and from the todo list. */
void conn_on_event(struct conn *c, uint32_t events);
void conn_on_todo(struct conn *c);
/* Stopping: what has reached us is served, who stands between two requests is closed. */
void conn_stop(struct conn *c);
/* The client owes us bytes of a request that has begun. */
bool conn_has_partial(const struct conn *c);
bool conn_is_between_requests(const struct conn *c);

/* ---- output.c ---- */

/* Sends what can be sent now. Afterwards nothing of c is left in the shared buffer. */
void output_flush(struct conn *c);
/* Bytes (of all kinds) that wait. */
size_t output_pending(const struct conn *c);
/* True while the output waits for our own disk. */
bool output_reads_ahead(const struct conn *c);
/* True if a file that is to be sent was revoked. */
bool output_is_revoked(const struct conn *c);
/* The connection goes: gives everything back. */
void output_drop(struct conn *c);

/* ---- limits.c ---- */

/* Dooms who has overstayed. Once in NET_SWEEP_MS. */
void limits_sweep(struct worker *w);

#endif
