/*
 * options.h - the server's command line: one table describes every option.
 *
 * Provides: option_table (name, argument, limits, default, help), options_parse(), options_help().
 * Used by:  main. A configuration file and a manual page can be driven by the same table.
 * Threads:  pure; before any thread starts.
 *
 * Tokyo Tyrant's style: `ttserver [options] [DBNAME]`, words behind one dash for what the original
 * has, behind two dashes for what is our own. To add an option: a field in struct options and a row
 * in the table.
 */
#ifndef MAIN_OPTIONS_H
#define MAIN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* Texts point into argv or into the table. Numbers are 64 bits wide so that one routine fills them;
 * the table's limits make them fit where they go. */
struct options {
    const char *host;
    uint64_t port;            /* 0: no TCP */
    const char *unix_path;    /* NULL: none */
    uint64_t threads;         /* 0: one per core */
    uint64_t max_conns;       /* 0: what the descriptor limit allows */
    uint64_t idle_timeout_s;  /* 0: none */
    uint64_t stall_timeout_s; /* 0: none */
    bool insecure;
    uint64_t sync; /* enum store_sync */
    uint64_t sync_interval_ms;
    uint64_t segment_bytes;
    uint64_t max_value_bytes;
    uint64_t reserve_bytes;   /* STORE_RESERVE_DEFAULT: by the disk's size */
    uint64_t spool_max_bytes; /* 0: by the disk's size */
    uint64_t pinned_max_bytes;
    uint64_t keep_history_s;
    uint64_t sid;          /* 0: not in a group */
    const char *log_path;  /* NULL: stderr */
    uint64_t log_level;    /* enum log_level */
    const char *pid_path;  /* NULL: none */
    uint64_t buffer_bytes; /* 0: from the machine's memory */
    uint64_t io_threads;
    bool no_uring;
    bool help;
    bool version;
    const char *dbname; /* a directory */
};

enum option_type {
    OPTION_FLAG,     /* bool: set to true; no argument */
    OPTION_LEVEL,    /* uint64_t: set to min; no argument */
    OPTION_TEXT,     /* const char *: min to max bytes */
    OPTION_NUMBER,   /* uint64_t: min to max */
    OPTION_SIZE,     /* uint64_t: the same, with k m g t */
    OPTION_DURATION, /* uint64_t: seconds, with s m h d */
    OPTION_SYNC, /* sync and sync_interval_ms: always, interval[=MS], os; limits are those of MS */
    OPTION_REFUSED, /* known, but not to be had: help says why */
};

enum option_group { GROUP_NETWORK, GROUP_DATA, GROUP_SERVER, GROUP_HIDDEN };

struct option_spec {
    const char *name;     /* with its dashes */
    const char *argument; /* how help calls it; NULL: takes none */
    enum option_group group;
    enum option_type type;
    size_t field; /* offset in struct options */
    uint64_t min;
    uint64_t max;
    const char *preset; /* the default, parsed like an argument; NULL: the field is 0 */
    const char *shown;  /* the default as help words it; NULL: preset */
    const char *help;
};

/* Ends with a NULL name. */
extern const struct option_spec option_table[];

/* What SYNC says for --sync, for the banner and for stats; `room` needs OPTIONS_SYNC_TEXT bytes. */
#define OPTIONS_SYNC_TEXT 40
void options_sync_text(const struct options *options, char *room);

/* Reads argv. True: *out is complete (with help or version set, nothing behind those was looked
 * at). False: `message` is one line that names the option and what was expected. */
bool options_parse(int argc, char *const argv[], struct options *out, char *message, size_t room);

/* Appends the text of --help. 0 or -ENOMEM. */
int options_help(struct buf *out);

#endif
