/*
 * engine.h - what an engine implements behind store.h, and the parts of stores and ports that all
 * engines share.
 *
 * Used by:  store.c (dispatch), the engines.
 * Threads:  as store.h says.
 */
#ifndef STORE_ENGINE_H
#define STORE_ENGINE_H

#include <stdatomic.h>

#include "store/store.h"

struct store_engine {
    int (*port_open)(struct store *store, struct aio *aio, struct store_port **out);
    void (*port_close)(struct store_port *port);
    void (*port_run)(struct store_port *port);
    bool (*get)(struct store_port *port, struct store_get *get);
    /* A chain of writes (by next) in the order of their submission. */
    void (*write)(struct store_port *port, struct store_write *first);
    /* On submit, once per write, on the port's thread: checksums and the like. */
    void (*prepare)(struct store_write *w);
    int (*spool_open)(struct store_port *port, struct slice key, struct slice attrs,
                      uint64_t value_bytes, void (*on_room)(void *arg), void *arg,
                      struct store_spool **out);
    int (*scan)(struct store *store, const struct store_range *range, unsigned limit,
                bool (*each)(const struct store_scan_item *item, void *arg), void *arg);
    enum store_state (*state)(const struct store *store);
    unsigned (*progress)(const struct store *store);
    bool (*writable)(const struct store *store, const char **reason);
    uint64_t (*count)(const struct store *store);
    int64_t (*now_ms)(const struct store *store);
    int (*close)(struct store *store);
    int (*stat)(struct store *store, struct buf *out);
    void (*compact)(struct store *store);
    int (*backup_begin)(struct store *store, int64_t lease_ms, uint64_t *token, struct buf *list);
    int (*backup_renew)(struct store *store, uint64_t token, int64_t lease_ms);
    int (*backup_end)(struct store *store, uint64_t token);
};

/* First member of every engine's store. */
struct store {
    const struct store_engine *engine;
};

/* First member of every engine's port. */
struct store_port {
    struct store *store;
    struct aio *aio;
    int event_fd;                   /* readable when port_run() has something to do */
    size_t pending;                 /* reads and writes not yet completed */
    struct store_write *turn_first; /* submitted in this turn */
    struct store_write **turn_last;
    _Atomic(struct store_write *) done; /* finished by the engine's thread, newest first */
};

/* First member of whatever store_get.hold points at. */
struct store_hold {
    void (*release)(struct store_hold *hold); /* on any thread */
    const _Atomic bool *revoked;              /* NULL: never */
};

/* Sets up the shared part of a port. 0 or -errno. */
int store_port_init(struct store_port *port, struct store *store, struct aio *aio);
void store_port_fini(struct store_port *port);

/* Any thread: the writes, in the order of their completion, are finished; their ports complete them
 * in their next store_port_run(). */
void store_write_finish(struct store_write *const *writes, unsigned count);

/* Port's thread: calls done() of everything that was finished, oldest first. */
void store_port_complete(struct store_port *port);

#endif
