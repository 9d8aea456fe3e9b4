/*
 * session.h - the life of one connection: which protocol it speaks, and what all protocols share.
 *
 * Provides: session_net_ops (what net calls), struct session_app (the server's own settings),
 *           struct session_worker.
 * Used by:  main (starts net with it), the protocol sessions (mc_session, http_session).
 * Threads:  everything here runs on the worker of its connection, but for session_app, which is
 *           read-only after start unless a field says otherwise.
 *
 * The first byte of a connection decides (design: 0x80 memcached binary, 0xC8 Tyrant, upper case
 * HTTP, lower case memcached text); what this build does not speak yet is closed. A protocol is one
 * struct session_protocol.
 */
#ifndef SESSION_SESSION_H
#define SESSION_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/net.h"
#include "store/store.h"

/* What a store_spool may hold in memory, pieces that wait and the one that is written: a session
 * takes it from the budget for each that is under way. */
#define SESSION_SPOOL_BYTES (2 * STORE_SPOOL_PIECE)

/* The server as sessions see it. */
struct session_app {
    struct store *store;
    struct net *net;
    uint64_t max_value_bytes;
    int64_t started_ms;      /* wall clock */
    const char *data_dir;    /* for stats */
    const char *sync_policy; /* for stats: "always", "interval=1000", "os" */
    unsigned max_conns;
    unsigned threads;
    uint16_t port;
    uint16_t sid;
    _Atomic int verbosity; /* memcached's `verbosity`: kept and shown */
    _Atomic bool draining; /* SIGTERM has come: not ready */
};

/* One worker's context (worker_context()). */
struct session_worker {
    struct session_app *app;
    struct store_port *port;
    struct counters *counters;
    struct budget *budget;
    struct http_worker *http; /* http_reply.c's own; NULL until there is an HTTP connection */
};

/* Frees what HTTP kept with the worker; NULL is fine. */
void http_worker_free(struct http_worker *http);

/* One protocol. The calls have the meaning of struct net_ops; open() makes the state with
 * conn_set_session(): its first member must be struct session. 0 or -ENOMEM. */
struct session_protocol {
    const char *name;
    int (*open)(struct conn *c);
    size_t (*input)(struct conn *c, struct slice in);
    void (*ready)(struct conn *c);
    void (*end_of_input)(struct conn *c);
    void (*closed)(struct conn *c);
};

/* The common head of every protocol's session state. */
struct session {
    const struct session_protocol *protocol;
};

extern const struct session_protocol mc_text_protocol;
extern const struct session_protocol http_protocol;

extern const struct net_ops session_net_ops;

/* The protocol that a connection's first byte means; NULL: none that we speak. */
const struct session_protocol *session_protocol_of(unsigned char first_byte);

static inline struct session_worker *session_worker_of(const struct conn *c)
{
    return worker_context(conn_worker(c));
}

/* What 0 or the negative errno of a spool's calls means to the client. */
enum store_status session_status_of_errno(int rc);

/* Name-value lines of everything memcached's general `stats` shows (also the source of /-/metrics):
 * calls each(name, value, help, is_counter, arg); help may be NULL. */
void session_stats(struct session_app *app,
                   void (*each)(const char *name, const char *value, const char *help,
                                bool is_counter, void *arg),
                   void *arg);

/* What readiness says (session/admin.c): true when reads can be answered; *state is a word
 * (starting, serving, draining, failed). for_write: and writes too; then *state may be the store's
 * reason for refusing them, a few words that are valid until this thread asks again. */
bool session_is_ready(struct session_app *app, bool for_write, const char **state);

#endif
