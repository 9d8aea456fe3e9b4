/*
 * ttctl_commands.h - what ttctl can do: one table of subcommands.
 *
 * Provides: command_table, struct command.
 * Used by:  ttctl.c, which finds the row and checks the number of arguments.
 * Threads:  one.
 */
#ifndef TOOLS_TTCTL_COMMANDS_H
#define TOOLS_TTCTL_COMMANDS_H

#include "tools/ttctl_client.h"

/* Exit statuses. */
enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

/* What every command gets. */
struct ctl {
    struct client *client;
    bool encoded_keys; /* -e: keys are percent-encoded on the command line and in lists */
};

struct command {
    const char *name;
    const char *arguments; /* as help shows them */
    int min_arguments;     /* with `more` the command counts for itself */
    int max_arguments;
    const char *help;
    /* argv: the arguments alone. Returns the exit status; has said on stderr what went wrong. */
    int (*run)(struct ctl *ctl, int argc, char *const argv[]);
    const char *more; /* what `ttctl NAME -h` says; NULL: -h is an argument like any other */
};

/* Ends with a NULL name. */
extern const struct command command_table[];

/* Writes "ttctl: ..." and a line feed to stderr; returns CTL_FAILED. */
int command_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for wrong usage of a command; returns CTL_USAGE. */
int command_misuse(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Says what the server has answered instead of what was hoped for; returns CTL_FAILED. */
int command_fail_status(const struct client_reply *reply);

/* Flushes the standard output: a full disk behind it is not found too late. CTL_OK or CTL_FAILED. */
int command_finish_output(void);

/* Decodes a key or prefix of the command line into `room` with -e, else takes it as it is. False:
 * it is malformed (said). */
bool command_take_key(const struct ctl *ctl, const char *text, struct buf *room, struct slice *key);

/* Appends the percent-encoded text. 0 or -ENOMEM. */
int command_add_encoded(struct buf *out, struct slice text);

/* ---- options behind the command's name ---- */

struct command_option {
    const char *name;  /* "--to" */
    const char **text; /* takes its argument, behind '=' or the next one; NULL: it has none */
    bool *flag;        /* without an argument */
};

/* Sorts out what stands behind a command's name: options, which end with "--", and from `min` to
 * `max` plain arguments, left in `plain` (room for max). 0 or CTL_USAGE (said). */
int command_arguments(const char *name, int argc, char *const argv[],
                      const struct command_option *options, size_t option_count, const char **plain,
                      int min, int max);

/* ---- commands on a data directory: ttctl_log.c, ttctl_verify.c ... ---- */

int run_log(struct ctl *ctl, int argc, char *const argv[]);
int run_verify(struct ctl *ctl, int argc, char *const argv[]);
int run_doctor(struct ctl *ctl, int argc, char *const argv[]);
int run_repair(struct ctl *ctl, int argc, char *const argv[]);
int run_backup(struct ctl *ctl, int argc, char *const argv[]);
int run_restore(struct ctl *ctl, int argc, char *const argv[]);
int run_dump(struct ctl *ctl, int argc, char *const argv[]);
int run_load(struct ctl *ctl, int argc, char *const argv[]);
int run_rebuild_index(struct ctl *ctl, int argc, char *const argv[]);
int run_compact(struct ctl *ctl, int argc, char *const argv[]);
extern const char dump_more[];
extern const char load_more[];
extern const char rebuild_index_more[];
extern const char compact_more[];
extern const char repair_more[];
extern const char backup_more[];
extern const char restore_more[];
extern const char log_more[];
extern const char verify_more[];
extern const char doctor_more[];

#endif
