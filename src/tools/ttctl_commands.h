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
    int min_arguments;
    int max_arguments;
    const char *help;
    /* argv: the arguments alone. Returns the exit status; has said on stderr what went wrong. */
    int (*run)(struct ctl *ctl, int argc, char *const argv[]);
};

/* Ends with a NULL name. */
extern const struct command command_table[];

/* Writes "ttctl: ..." and a line feed to stderr; returns CTL_FAILED. */
int command_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
