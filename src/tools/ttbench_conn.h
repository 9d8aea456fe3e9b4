/*
 * ttbench_conn.h - one client connection: requests out, replies in and verified.
 *
 * Provides: struct bench_conn and its life; struct conn_env, what one thread's connections share.
 * Used by:  ttbench_load (which decides what is asked when).
 * Threads:  a connection and its env belong to one thread.
 *
 * Requests wait in a ring until they are answered, in order. Their bytes are made only when the
 * socket takes them, so that a window full of large values needs no memory. Replies are checked as
 * they arrive, without being stored.
 */
#ifndef TOOLS_TTBENCH_CONN_H
#define TOOLS_TTBENCH_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "tools/ttbench_hist.h"
#include "tools/ttbench_options.h"
#include "tools/ttbench_value.h"
#include "tools/ttbench_wire.h"

enum { CONN_RX_BYTES = 256 * 1024 };

/* Where the server is. */
struct bench_target {
    int family;
    socklen_t addr_len;
    struct sockaddr_storage addr;
    char host[WIRE_HOST_BYTES_MAX]; /* for HTTP's Host field */
};

/* Latencies in microseconds. Failures count from the start, all else from the start of the
 * measurement. */
struct bench_stats {
    struct hist reads;
    struct hist writes;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t reconnects; /* after the server closed a connection in order */
    uint64_t misses;
    uint64_t errors;     /* refusals, lost connections, time limits */
    uint64_t mismatches; /* replies or values that are not what they should be */
};

/* What all connections of a thread use. */
struct conn_env {
    const struct bench_options *opts;
    const struct bench_target *target;
    int epoll_fd;
    char *rx; /* CONN_RX_BYTES + WIRE_REPLY_HEAD_MAX */
    struct bench_stats stats;
    uint64_t *versions; /* --own-keys: the last version written to each key; NULL otherwise */
    uint64_t in_flight; /* of all connections */
    unsigned live;      /* connections that have not failed */
    unsigned messages;  /* failures shown so far */
};

struct bench_request {
    uint64_t key_id;
    uint64_t version; /* written, or expected (VALUE_ANY_VERSION) */
    int64_t due_us;   /* latency counts from here */
    bool writes;
};

enum conn_reading { CONN_READS_HEAD, CONN_READS_BODY, CONN_READS_TAIL };

struct bench_conn {
    int fd; /* -1: failed or closed */
    unsigned index;
    bool wants_out; /* the socket was full: waiting for EPOLLOUT */
    int64_t last_progress_us;

    struct bench_request *ring; /* opts->pipeline of them */
    unsigned head;              /* the oldest */
    unsigned count;             /* waiting for their replies */
    unsigned unsent;            /* of these, how many (the youngest) have not begun to go out */

    char *out;
    size_t out_cap, out_pos, out_len;
    struct value body; /* of the write that is going out */
    uint64_t body_pos; /* body.len: nothing going out */
    bool in_body;

    enum conn_reading reading;
    struct wire_reply reply;
    uint64_t body_left;
    struct value_check check;
    size_t held_len; /* bytes of an unfinished reply head */
    char *held;
};

/* Connects (waiting for it, at most opts->timeout_s) and adds the socket to the epoll set. 0 or
 * -errno. */
int conn_open(struct bench_conn *c, struct conn_env *env, unsigned index);

void conn_close(struct bench_conn *c, struct conn_env *env);

static inline bool conn_has_room(const struct bench_conn *c, const struct conn_env *env)
{
    return c->fd >= 0 && c->count < env->opts->pipeline;
}

/* Adds a request; conn_has_room() must hold. conn_flush() sends it. */
void conn_issue(struct bench_conn *c, struct conn_env *env, const struct bench_request *request);

/* Sends what the socket takes. */
void conn_flush(struct bench_conn *c, struct conn_env *env);

/* epoll reported something. Completed requests are counted in env->stats. */
void conn_event(struct bench_conn *c, struct conn_env *env, uint32_t events);

/* Fails the connection if it has waited for its replies too long. */
void conn_check_stall(struct bench_conn *c, struct conn_env *env, int64_t now_us);

#endif
