/*
 * stats.h - memcached's statistics, beyond what session.h declares.
 *
 * Used by:  mc_stats.c. session_stats() (session.h) is the same list since the start of the server.
 * Threads:  any.
 */
#ifndef SESSION_STATS_H
#define SESSION_STATS_H

#include <stdbool.h>

#include "session/session.h"

/* One line; help may be NULL. */
typedef void stats_each(const char *name, const char *value, const char *help, bool is_counter,
                        void *arg);

/* `stats`: counters since the last stats_reset(). */
void stats_general(struct session_app *app, stats_each *each, void *arg);

/* `stats settings`. */
void stats_settings(struct session_app *app, stats_each *each, void *arg);

/* `stats reset`: what `stats` counts begins again at 0. The server's own counters go on. */
void stats_reset(struct session_app *app);

#endif
