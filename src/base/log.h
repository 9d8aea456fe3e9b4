/*
 * log.h - the program's own messages: time, level, text with key=value fields.
 *
 * Provides: log_error() log_warn() log_info() log_debug(), log_open(), log_reopen().
 * Used by:  everybody. An error is logged once, where it is known best, with the object's name.
 * Threads:  any; one line is one write(2), so lines never mix.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Messages below this level are dropped. Default LOG_INFO. */
void log_set_level(enum log_level level);

/* Sends messages to the file (appended, made if missing) instead of stderr; NULL: stderr.
 * 0 or -errno; on failure the old target stays. */
int log_open(const char *path);

/* Opens the file of log_open() anew (rotation). 0 or -errno; on failure the old file stays. */
int log_reopen(void);

/* A line "2026-01-31T12:00:00.123Z error TEXT". Control bytes in the text are shown as \xNN; texts
 * above 2,047 bytes are cut. errno stays as it was. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
