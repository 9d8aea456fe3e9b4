/*
 * signals.h - SIGTERM, SIGINT and SIGHUP as events of the main thread.
 *
 * Provides: signals_start(), signals_serving(), signals_wait(), signals_end().
 * Used by:  main.
 * Threads:  one of its own waits for signals, so that they are answered whatever the main thread
 *           does (a long recovery, the drain). All other threads must be started after
 *           signals_start(): they inherit its mask.
 *
 * SIGTERM and SIGINT: before signals_serving() the process ends at once with status 1 (the data on
 * disk stands that, as it stands a crash); afterwards the first one is reported by signals_wait(),
 * and one that comes a second later or more ends the process at once with status 1. SIGHUP opens
 * the log file anew. SIGPIPE is ignored, and so is SIGUSR1.
 */
#ifndef MAIN_SIGNALS_H
#define MAIN_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

/* on_exit() runs on the signal thread before the process ends at once. 0 or -errno. */
int signals_start(void (*on_exit)(void));

void signals_serving(void);

/* Waits until a stop is asked for, at most timeout_ms (negative: for ever). True: *name says by
 * which signal. */
bool signals_wait(int64_t timeout_ms, const char **name);

/* Ends the thread. */
void signals_end(void);

#endif
