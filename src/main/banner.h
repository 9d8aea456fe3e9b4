/*
 * banner.h - what the server says when it is ready.
 *
 * Used by:  server.
 * Threads:  the main thread.
 */
#ifndef MAIN_BANNER_H
#define MAIN_BANNER_H

struct server;

/* One line "ready address=... data=..." to the log, for programs that wait for it; and, unless
 * messages go to a file, a text with lines to try on the standard output. */
void banner_ready(const struct server *server);

#endif
