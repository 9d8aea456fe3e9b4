/*
 * server.h - the running server: what main puts together from the options and takes apart again.
 *
 * Provides: server_open(), server_serve(), server_close().
 * Used by:  main.
 * Threads:  the main thread.
 */
#ifndef MAIN_SERVER_H
#define MAIN_SERVER_H

#include "base/aio.h"
#include "base/budget.h"
#include "main/options.h"
#include "net/net.h"
#include "session/session.h"
#include "store/store.h"

/* Exit statuses; 0: stopped cleanly, everything synced. */
enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct server {
    const struct options *options;
    char sync_text[OPTIONS_SYNC_TEXT];
    char *data_dir; /* absolute, malloc'd */
    struct budget budget;
    struct aio_pool *pool;
    struct store *store;
    struct net *net;
    struct session_app app;
};

/* Opens the store and starts to serve. 0, or the exit status with the reason logged; server_close()
 * is due in any case. */
int server_open(struct server *server, const struct options *options);

/* Says that the server is ready as soon as it is, and returns when it shall stop, with everything
 * stopped and synced: the exit status. */
int server_serve(struct server *server);

/* Frees all that server_open() made. 0, or -errno if the store could not be closed cleanly
 * (logged). */
int server_close(struct server *server);

#endif
