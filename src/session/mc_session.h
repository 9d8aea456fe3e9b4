/*
 * mc_session.h - the state of one connection that speaks memcached's text protocol, shared by its
 *                parts.
 *
 * Used by:  mc_session.c (the stream of requests), mc_read.c (get and gat), mc_body.c (values as
 *           they arrive), mc_write.c (writes under way and all replies), mc_stats.c. Nobody else.
 * Threads:  the connection's worker.
 *
 * Replies leave in the order of their requests. Writes are pipelined: each is an element of a queue
 * and is answered once it and all before it are done; a line that is known at once (an error,
 * `version`) joins the queue behind them. A read waits until the queue is empty, so that it sees
 * what was written before it on the same connection.
 */
#ifndef SESSION_MC_SESSION_H
#define SESSION_MC_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"
#include "proto/mc_text.h"
#include "session/session.h"
#include "store/store.h"

/* Writes that one connection may have under way, and the bytes of their values. */
#define MC_PENDING_MAX 64
#define MC_PENDING_BYTES (1024u * 1024)

/* What the next byte belongs to. */
enum mc_phase {
    MC_PHASE_LINE,     /* the start of a request */
    MC_PHASE_KEYS,     /* the keys of a get or gat */
    MC_PHASE_SKIP_KEY, /* such a key that is too long to exist */
    MC_PHASE_BODY,     /* a value */
    MC_PHASE_SWALLOW,  /* a value that was refused */
};

/* Why no input is taken. */
enum mc_wait {
    MC_WAIT_NONE,
    MC_WAIT_READ,    /* a read waits for the disk */
    MC_WAIT_ANSWERS, /* everything before it must be answered */
    MC_WAIT_PENDING, /* too much is under way */
    MC_WAIT_SPOOL,   /* the file of a big value is behind */
    MC_WAIT_OUTPUT,  /* the client is behind with taking replies */
};

struct mc_body;
struct mc_read;

/* One owed reply: a write under way, or a line that waits for its turn. */
struct mc_pending {
    struct mc_pending *next;
    struct mc_session *session; /* NULL: the connection is gone */
    struct store_write *write;  /* NULL: only `line` */
    struct slice line;          /* static text */
    struct budget *budget;
    size_t charged; /* bytes taken from the budget */
    enum mc_command command;
    bool noreply;
    bool done;
    bool ends_keys; /* `line` is the END of a line of keys */
    bool barrier;   /* later writes must wait for it */
};

struct mc_session {
    struct session head;
    struct conn *conn;
    struct mc_pending *first; /* oldest */
    struct mc_pending *last;
    struct mc_read *read; /* the read that waits for the disk */
    struct mc_body *body; /* MC_PHASE_BODY */
    uint64_t swallow;     /* MC_PHASE_SWALLOW: bytes left */
    size_t pending_bytes;
    uint16_t pending_count;
    uint16_t pending_barriers;          /* those that no write may be begun behind */
    uint8_t phase;                      /* enum mc_phase */
    uint8_t wait;                       /* enum mc_wait */
    bool closing;                       /* no more requests; closed when all is answered */
    bool partial;                       /* what conn_set_partial() was told last */
    bool busy;                          /* what conn_set_busy() was told last */
    const struct mc_command_info *info; /* of the line of keys */
    int64_t keys_expires_ms;            /* gat: the new expiry */
    bool keys_expire;                   /* that is over already: read first, then touch */
    bool keys_seen;                     /* at least one key stood on the line */
    bool keys_failed;                   /* an error took the place of its END */
};

static inline struct session_worker *mc_worker(const struct mc_session *s)
{
    return session_worker_of(s->conn);
}

static inline void mc_count(const struct mc_session *s, enum counter which)
{
    counter_add(mc_worker(s)->counters, which, 1);
}

/* From when on relative times count: the store's clock, for it judges them. */
static inline int64_t mc_now_ms(const struct mc_session *s)
{
    return store_now_ms(mc_worker(s)->app->store);
}

/* True when every request so far has been answered. */
static inline bool mc_is_idle(const struct mc_session *s)
{
    return s->first == NULL && s->read == NULL;
}

/* ---- mc_session.c ---- */

/* Takes no more input until ready() finds the reason gone. */
void mc_wait_for(struct mc_session *s, enum mc_wait reason);

/* Takes no more requests; the connection closes when all is answered. */
void mc_close(struct mc_session *s);

/* ---- mc_write.c ---- */

/* True if another write may be begun, else the session waits. */
bool mc_may_write(struct mc_session *s);

/* Hands a filled write over; its reply joins the queue. charged: what was taken from the budget for
 * it. Without memory the write is dropped and refused. */
void mc_submit(struct mc_session *s, struct store_write *w, enum mc_command command, bool noreply,
               size_t charged);

/* delete, incr, decr, touch, flush_all, and the touch of one key of a gat. */
void mc_submit_request(struct mc_session *s, const struct mc_request *request);
void mc_submit_gat(struct mc_session *s, struct slice key);

/* The touch of a key that a gat has read before: without an answer. */
void mc_submit_silent_touch(struct mc_session *s, struct slice key);

/* A reply that is known at once, in its turn. The text is static. */
void mc_say(struct mc_session *s, struct slice line);
void mc_say_error(struct mc_session *s, enum mc_error error, bool noreply);

/* The end of a line of keys: END in its turn, or nothing after an error. */
void mc_say_end(struct mc_session *s);

/* Answers what is done, in order, up to the first that is not. */
void mc_answer_pending(struct mc_session *s);

/* The connection is gone: what is under way frees itself when it is done. */
void mc_forget_pending(struct mc_session *s);

/* The error line for a status that is no regular result. */
enum mc_error mc_error_of(enum store_status status);

/* ---- mc_read.c ---- */

/* MC_PHASE_KEYS and MC_PHASE_SKIP_KEY: answers key by key. Returns the bytes used. */
size_t mc_take_keys(struct mc_session *s, struct slice in);
size_t mc_take_long_key(struct mc_session *s, struct slice in);

/* Reads one key and answers it, at once or from the disk (then s->read is set). with_end: END
 * stands behind it. */
void mc_read_key(struct mc_session *s, struct slice key, bool with_end);

/* Answers a read that waited for the disk, if it has come. */
void mc_answer_read(struct mc_session *s);

void mc_forget_read(struct mc_session *s);

/* ---- mc_body.c ---- */

/* A storage command whose line was right: takes its value from `in`, as far as it is there. Returns
 * the bytes used. */
size_t mc_begin_body(struct mc_session *s, const struct mc_request *request, struct slice in);

/* MC_PHASE_BODY. */
size_t mc_take_body(struct mc_session *s, struct slice in);

/* The next n bytes are thrown away. */
void mc_begin_swallow(struct mc_session *s, uint64_t n);
size_t mc_take_swallow(struct mc_session *s, struct slice in);

/* True if the value under way cannot take more now. */
bool mc_body_is_full(const struct mc_session *s);

void mc_forget_body(struct mc_session *s);

/* ---- mc_stats.c ---- */

/* stats [...], ready [write]: answered at once; all before must have been answered. */
void mc_answer_stats(struct mc_session *s, struct slice args);
void mc_answer_ready(struct mc_session *s, struct slice args);

#endif
