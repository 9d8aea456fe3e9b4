/*
 * options.c - the server's command line: see options.h.
 */
#include "main/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/num.h"
#include "base/version.h"
#include "store/store.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Longest path of a unix socket (sun_path less its NUL). */
#define UNIX_PATH_MAX_BYTES 107
#define PATH_MAX_BYTES 4095
#define SECONDS_MAX (UINT64_C(365) * 24 * 3600)
#define SYNC_INTERVAL_MS_MAX (UINT64_C(3600) * 1000)

#define FIELD(name) offsetof(struct options, name)

/* Known, but not to be had: `why` says what to do instead. */
#define REFUSED(option, why)                                                                       \
    {                                                                                              \
        .name = (option), .group = GROUP_HIDDEN, .type = OPTION_REFUSED, .help = (why)             \
    }

#define NO_UPDATE_LOG "there is no separate update log, the data directory's own log is it; see "
#define NO_GROUP "replication between servers is not in this version"
#define NO_SCRIPT "scripts are not in this version"
#define NO_MASK "forbidding single commands is not in this version"

/* clang-format off */
const struct option_spec option_table[] = {
    {.name = "-host", .argument = "A", .group = GROUP_NETWORK,
     .type = OPTION_TEXT, .field = FIELD(host), .min = 1, .max = 255, .preset = "127.0.0.1",
     .help = "address or name to listen on; *: all of this machine's"},
    {.name = "-port", .argument = "N", .group = GROUP_NETWORK,
     .type = OPTION_NUMBER, .field = FIELD(port), .min = 0, .max = 65535, .preset = "1978",
     .help = "TCP port for all protocols; 0: none, only a unix socket"},
    {.name = "--unix", .argument = "PATH", .group = GROUP_NETWORK,
     .type = OPTION_TEXT, .field = FIELD(unix_path), .min = 1, .max = UNIX_PATH_MAX_BYTES,
     .help = "listen on a unix socket too"},
    {.name = "--insecure", .group = GROUP_NETWORK,
     .type = OPTION_FLAG, .field = FIELD(insecure),
     .help = "allow an address that other machines can reach: anybody there may then read and "
             "write everything"},
    {.name = "--max-conns", .argument = "N", .group = GROUP_NETWORK,
     .type = OPTION_NUMBER, .field = FIELD(max_conns), .min = 1, .max = 10000000,
     .shown = "limit of open files less 500",
     .help = "connections at a time; one more is told so and closed"},
    {.name = "--idle-timeout", .argument = "S", .group = GROUP_NETWORK,
     .type = OPTION_NUMBER, .field = FIELD(idle_timeout_s), .min = 0, .max = SECONDS_MAX,
     .preset = "0",
     .help = "close a connection that asks nothing for S seconds; 0: never"},
    {.name = "-tout", .argument = "S", .group = GROUP_NETWORK,
     .type = OPTION_NUMBER, .field = FIELD(stall_timeout_s), .min = 0, .max = SECONDS_MAX,
     .preset = "30",
     .help = "close a connection whose request or reply has begun but makes no progress for S "
             "seconds; 0: never"},
    REFUSED("--auth-file", "users and passwords are not in this version; use a loopback address, a "
                           "unix socket or a firewall"),

    {.name = "--sync", .argument = "POLICY", .group = GROUP_DATA,
     .type = OPTION_SYNC, .field = FIELD(sync), .min = 1, .max = SYNC_INTERVAL_MS_MAX,
     .preset = "always",
     .help = "when a write is on disk: always (before it is answered), interval[=MS] (at most MS "
             "milliseconds later, 1000 without a number) or os (when the kernel likes)"},
    {.name = "--max-value", .argument = "SIZE", .group = GROUP_DATA,
     .type = OPTION_SIZE, .field = FIELD(max_value_bytes), .min = 1, .max = GIB, .preset = "64m",
     .help = "largest value taken, up to 1g"},
    {.name = "--segment-size", .argument = "SIZE", .group = GROUP_DATA,
     .type = OPTION_SIZE, .field = FIELD(segment_bytes), .min = 4 * MIB, .max = GIB,
     .preset = "64m",
     .help = "size of one file of the log, 4m to 1g; on a small disk at most a sixteenth of it"},
    {.name = "--reserve", .argument = "SIZE", .group = GROUP_DATA,
     .type = OPTION_SIZE, .field = FIELD(reserve_bytes), .min = 0, .max = UINT64_MAX - 1,
     .shown = "two segments or 1 % of the disk, whichever is more, at most a tenth of it",
     .help = "room on the disk that is left for deletes and upkeep: writes that need more are "
             "refused while less is free; 0: none"},
    {.name = "--spool-max", .argument = "SIZE", .group = GROUP_DATA,
     .type = OPTION_SIZE, .field = FIELD(spool_max_bytes), .min = MIB, .max = UINT64_MAX,
     .shown = "a tenth of the disk, at least four times the largest value",
     .help = "most of the disk that values above 1 MiB may hold together while they arrive; beyond "
             "it new ones are told to try again"},
    {.name = "--pinned-max", .argument = "SIZE", .group = GROUP_DATA,
     .type = OPTION_SIZE, .field = FIELD(pinned_max_bytes), .min = MIB, .max = UINT64_MAX,
     .preset = "1g",
     .help = "most of the disk that overwritten values may keep because clients still read them; "
             "beyond it those who read the oldest are closed"},
    {.name = "--keep-history", .argument = "TIME", .group = GROUP_DATA,
     .type = OPTION_DURATION, .field = FIELD(keep_history_s), .min = 0, .max = SECONDS_MAX,
     .preset = "0",
     .help = "keep what was overwritten or deleted for so long (a number, then s, m, h or d), so "
             "that a backup can be restored as of any moment since; 0: as long as compaction "
             "leaves it"},
    {.name = "-sid", .argument = "N", .group = GROUP_DATA,
     .type = OPTION_NUMBER, .field = FIELD(sid), .min = 0, .max = 65535, .preset = "0",
     .help = "this server's id in a group of servers; 0: alone"},

    {.name = "-thnum", .argument = "N", .group = GROUP_SERVER,
     .type = OPTION_NUMBER, .field = FIELD(threads), .min = 1, .max = 512,
     .shown = "one per core",
     .help = "threads that serve connections"},
    {.name = "--io-threads", .argument = "N", .group = GROUP_SERVER,
     .type = OPTION_NUMBER, .field = FIELD(io_threads), .min = 1, .max = 256, .preset = "4",
     .help = "threads that wait for the disk in their stead"},
    {.name = "--buffer-memory", .argument = "SIZE", .group = GROUP_SERVER,
     .type = OPTION_SIZE, .field = FIELD(buffer_bytes), .min = 16 * MIB, .max = UINT64_C(1) << 50,
     .shown = "a quarter of the memory, at least 256m",
     .help = "most that requests and replies under way may hold together; beyond it new ones are "
             "told to try again"},
    {.name = "--no-io-uring", .group = GROUP_SERVER,
     .type = OPTION_FLAG, .field = FIELD(no_uring),
     .help = "read from the disk with threads only"},
    {.name = "-log", .argument = "PATH", .group = GROUP_SERVER,
     .type = OPTION_TEXT, .field = FIELD(log_path), .min = 1, .max = PATH_MAX_BYTES,
     .shown = "stderr",
     .help = "append messages to a file; SIGHUP opens it anew"},
    {.name = "-ld", .group = GROUP_SERVER,
     .type = OPTION_LEVEL, .field = FIELD(log_level), .min = LOG_DEBUG,
     .help = "log more: messages for finding faults too"},
    {.name = "-le", .group = GROUP_SERVER,
     .type = OPTION_LEVEL, .field = FIELD(log_level), .min = LOG_ERROR,
     .help = "log less: errors only"},
    {.name = "-pid", .argument = "PATH", .group = GROUP_SERVER,
     .type = OPTION_TEXT, .field = FIELD(pid_path), .min = 1, .max = PATH_MAX_BYTES,
     .help = "write the process id to a file while running"},
    {.name = "--help", .group = GROUP_SERVER,
     .type = OPTION_FLAG, .field = FIELD(help),
     .help = "show this and exit"},
    {.name = "--version", .group = GROUP_SERVER,
     .type = OPTION_FLAG, .field = FIELD(version),
     .help = "show the version and exit"},

    /* What a start script for Tokyo Tyrant may bring along: each gets its own answer. */
    REFUSED("-dmn", "ttserver stays in the foreground; let systemd or a shell's & run it behind "
                    "the scenes"),
    REFUSED("-kl", "stop the other server yourself: kill $(cat PIDFILE)"),
    REFUSED("-ulog", NO_UPDATE_LOG "DBNAME"),
    REFUSED("-ulim", NO_UPDATE_LOG "--segment-size"),
    REFUSED("-uas", NO_UPDATE_LOG "--sync"),
    REFUSED("-mhost", NO_GROUP),
    REFUSED("-mport", NO_GROUP),
    REFUSED("-rts", NO_GROUP),
    REFUSED("-rcc", NO_GROUP),
    REFUSED("-skel", "an engine cannot be loaded from a library"),
    REFUSED("-mul", "it is not needed: one directory holds any number of records"),
    REFUSED("-ext", NO_SCRIPT),
    REFUSED("-extpc", NO_SCRIPT),
    REFUSED("-mask", NO_MASK),
    REFUSED("-unmask", NO_MASK),
    {.name = NULL},
};
/* clang-format on */

static const char *const group_titles[] = {"Network", "Data", "Server"};

/* Where a message goes. */
struct complaint {
    char *text;
    size_t room;
};

static bool complain(const struct complaint *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Always false, so that a failing step can return it. */
static bool complain(const struct complaint *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(c->text, c->room, format, args);
    va_end(args);
    return false;
}

/* A size in the largest unit that is exact, as parse_size() reads it. */
static void size_text(uint64_t bytes, char *out, size_t room)
{
    static const char units[] = {'\0', 'k', 'm', 'g', 't'};
    size_t unit = 0;

    while (bytes >= 1024 && bytes % 1024 == 0 && unit + 1 < sizeof(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, room, "%llu%.1s", (unsigned long long)bytes, unit == 0 ? "" : &units[unit]);
}

/* "a whole number from 0 to 65535", for messages. */
static void expected_text(const struct option_spec *spec, char *out, size_t room)
{
    char low[24], high[24];

    switch (spec->type) {
    case OPTION_NUMBER:
        snprintf(out, room, "a whole number from %llu to %llu", (unsigned long long)spec->min,
                 (unsigned long long)spec->max);
        break;
    case OPTION_SIZE:
        size_text(spec->min, low, sizeof(low));
        size_text(spec->max, high, sizeof(high));
        snprintf(out, room, "a size from %s to %s (a number, then nothing or k, m, g, t)", low,
                 high);
        break;
    case OPTION_DURATION:
        snprintf(out, room, "a time of at most %llu days (a number, then s, m, h or d)",
                 (unsigned long long)(spec->max / 86400));
        break;
    case OPTION_SYNC:
        snprintf(out, room, "always, interval, interval=MS (MS from %llu to %llu) or os",
                 (unsigned long long)spec->min, (unsigned long long)spec->max);
        break;
    default:
        snprintf(out, room, "a text of %llu to %llu bytes", (unsigned long long)spec->min,
                 (unsigned long long)spec->max);
        break;
    }
}

/* "90", "90s", "15m", "2h", "7d": seconds. */
static bool parse_duration(struct slice text, uint64_t *seconds)
{
    static const struct {
        char unit;
        uint64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    uint64_t scale = 1;

    for (size_t i = 0; text.len > 0 && i < sizeof(units) / sizeof(units[0]); i++) {
        if (text.ptr[text.len - 1] == units[i].unit) {
            scale = units[i].seconds;
            text.len--;
            break;
        }
    }
    return parse_u64(text, seconds) && !__builtin_mul_overflow(*seconds, scale, seconds);
}

static bool parse_sync(const struct option_spec *spec, struct slice text, struct options *out)
{
    struct slice interval = slice_str("interval=");
    uint64_t ms = 1000;

    if (slice_is(text, "always")) {
        out->sync = STORE_SYNC_ALWAYS;
        return true;
    }
    if (slice_is(text, "os")) {
        out->sync = STORE_SYNC_OS;
        return true;
    }
    if (!slice_is(text, "interval")) {
        if (!slice_starts(text, interval) || !parse_u64(slice_after(text, interval.len), &ms) ||
            ms < spec->min || ms > spec->max)
            return false;
    }
    out->sync = STORE_SYNC_INTERVAL;
    out->sync_interval_ms = ms;
    return true;
}

/* Checks the argument and fills the option's field. False: it is not what the table asks for. */
static bool take_argument(const struct option_spec *spec, const char *argument, struct options *out)
{
    void *field = (char *)out + spec->field;
    struct slice text = slice_str(argument);
    uint64_t number;

    switch (spec->type) {
    case OPTION_SYNC: return parse_sync(spec, text, out);
    case OPTION_NUMBER:
    case OPTION_SIZE:
    case OPTION_DURATION:
        if (!(spec->type == OPTION_SIZE       ? parse_size(text, &number)
              : spec->type == OPTION_DURATION ? parse_duration(text, &number)
                                              : parse_u64(text, &number)))
            return false;
        if (number < spec->min || number > spec->max)
            return false;
        *(uint64_t *)field = number;
        return true;
    default:
        if (text.len < spec->min || text.len > spec->max)
            return false;
        *(const char **)field = argument;
        return true;
    }
}

static void take_defaults(struct options *out)
{
    memset(out, 0, sizeof(*out));
    out->log_level = LOG_INFO;
    out->reserve_bytes = STORE_RESERVE_DEFAULT;
    for (const struct option_spec *spec = option_table; spec->name != NULL; spec++) {
        if (spec->preset != NULL)
            take_argument(spec, spec->preset, out);
    }
}

static const struct option_spec *find_option(struct slice name)
{
    for (const struct option_spec *spec = option_table; spec->name != NULL; spec++) {
        if (slice_is(name, spec->name))
            return spec;
    }
    return NULL;
}

static struct slice without_dashes(struct slice name)
{
    while (name.len > 0 && name.ptr[0] == '-')
        name = slice_after(name, 1);
    return name;
}

/* `--port` for `-port` and the like: the option that differs only in its dashes. */
static bool complain_unknown(const struct complaint *c, struct slice name)
{
    for (const struct option_spec *spec = option_table; spec->name != NULL; spec++) {
        if (slice_equal(without_dashes(name), without_dashes(slice_str(spec->name))))
            return complain(c, "unknown option %.*s: did you mean %s?", (int)name.len, name.ptr,
                            spec->name);
    }
    return complain(c, "unknown option %.*s", (int)name.len, name.ptr);
}

static bool complain_missing(const struct complaint *c, const struct option_spec *spec)
{
    char expected[160];

    expected_text(spec, expected, sizeof(expected));
    return complain(c, "option %s needs an argument: %s", spec->name, expected);
}

/* One option with what may follow it. *used: how many of argv's strings it took. */
static bool take_option(char *const argv[], int left, struct options *out, int *used,
                        const struct complaint *c)
{
    const char *equals = strchr(argv[0], '=');
    struct slice name =
        equals == NULL ? slice_str(argv[0]) : slice_of(argv[0], (size_t)(equals - argv[0]));
    const struct option_spec *spec = find_option(name);
    const char *argument = equals == NULL ? NULL : equals + 1;
    char expected[160];

    *used = 1;
    if (spec == NULL)
        return complain_unknown(c, name);
    if (spec->type == OPTION_REFUSED)
        return complain(c, "option %s: %s", spec->name, spec->help);
    if (spec->argument == NULL) {
        if (argument != NULL)
            return complain(c, "option %s takes no argument, but got '%s'", spec->name, argument);
        if (spec->type == OPTION_LEVEL)
            *(uint64_t *)(void *)((char *)out + spec->field) = spec->min;
        else
            *(bool *)((char *)out + spec->field) = true;
        return true;
    }
    if (argument == NULL) {
        /* `-log -ld` lacks a path; nobody wants a file called -ld. */
        if (left < 2 || find_option(slice_str(argv[1])) != NULL)
            return complain_missing(c, spec);
        argument = argv[1];
        *used = 2;
    }
    if (take_argument(spec, argument, out))
        return true;
    expected_text(spec, expected, sizeof(expected));
    return complain(c, "option %s: expected %s, but got '%s'", spec->name, expected, argument);
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcasecmp(text + len - end_len, end) == 0;
}

/* The name decides the engine, as with Tokyo Tyrant; this version has the one that keeps records in
 * a directory. */
static bool check_dbname(const char *name, const struct complaint *c)
{
    static const char *const original[] = {".tch", ".hdb", ".tcb", ".bdb",
                                           ".tcf", ".fdb", ".tct", ".tdb"};

    if (name == NULL || strcmp(name, "*") == 0 || strcmp(name, "+") == 0)
        return complain(c,
                        "%s%s means records in memory only, which this version does not have yet; "
                        "name a directory for them instead: ttserver ./data",
                        name == NULL ? "no DBNAME, like " : "DBNAME ",
                        name == NULL ? "'*'," : name);
    if (name[0] == '\0')
        return complain(c, "DBNAME is empty; name a directory: ttserver ./data");
    if (strchr(name, '#') != NULL)
        return complain(c,
                        "DBNAME %s: settings behind a # are not in this version; name a directory: "
                        "ttserver ./data",
                        name);
    if (strncmp(name, "rados:", 6) == 0)
        return complain(
            c, "DBNAME %s: Ceph is not in this version; name a directory: ttserver ./data", name);
    for (size_t i = 0; i < sizeof(original) / sizeof(original[0]); i++) {
        if (ends_with(name, original[i]))
            return complain(
                c,
                "DBNAME %s: Tokyo Cabinet's file formats (%s and the like) are not in this "
                "version; name a directory: ttserver ./data",
                name, original[i]);
    }
    return true;
}

/* What can only be said of the options together. */
static bool check_together(struct options *out, const struct complaint *c)
{
    /* Tokyo Tyrant's way to ask for a unix socket: the port off and its path as the host. */
    if (out->port == 0 && out->unix_path == NULL && strchr(out->host, '/') != NULL) {
        if (strlen(out->host) > UNIX_PATH_MAX_BYTES)
            return complain(c, "option -host: the path of a unix socket has at most %d bytes",
                            UNIX_PATH_MAX_BYTES);
        out->unix_path = out->host;
    }
    if (out->port == 0 && out->unix_path == NULL)
        return complain(c, "option -port 0 leaves nothing to listen on: add --unix PATH");
    return check_dbname(out->dbname, c);
}

bool options_parse(int argc, char *const argv[], struct options *out, char *message, size_t room)
{
    const struct complaint c = {message, room};
    bool only_names = false;

    take_defaults(out);
    for (int i = 1, used = 1; i < argc; i += used) {
        bool is_option = argv[i][0] == '-' && !only_names;

        used = 1;
        if (is_option && out->dbname != NULL)
            return complain(
                &c, "option %s stands behind DBNAME %s: options come first, then one DBNAME",
                argv[i], out->dbname);
        if (is_option && strcmp(argv[i], "--") == 0) {
            only_names = true;
        } else if (is_option) {
            if (!take_option(argv + i, argc - i, out, &used, &c))
                return false;
            if (out->help || out->version)
                return true;
        } else if (out->dbname != NULL) {
            return complain(&c, "only one DBNAME is expected, but got %s and %s", out->dbname,
                            argv[i]);
        } else {
            out->dbname = argv[i];
        }
    }
    return check_together(out, &c);
}

void options_sync_text(const struct options *options, char *room)
{
    if (options->sync == STORE_SYNC_INTERVAL)
        snprintf(room, OPTIONS_SYNC_TEXT, "interval=%llu",
                 (unsigned long long)options->sync_interval_ms);
    else
        snprintf(room, OPTIONS_SYNC_TEXT, "%s",
                 options->sync == STORE_SYNC_ALWAYS ? "always" : "os");
}

enum { HELP_COLUMN = 26, HELP_WIDTH = 79 };

/* Adds words, breaking lines at HELP_WIDTH; *column is where the line stands. */
static int help_words(struct buf *out, const char *text, int *column)
{
    while (*text != '\0') {
        int len = (int)strcspn(text, " ");
        int rc;

        if (*column + 1 + len > HELP_WIDTH) {
            rc = buf_printf(out, "\n%*s%.*s", HELP_COLUMN, "", len, text);
            *column = HELP_COLUMN + len;
        } else {
            const char *blank = *column == HELP_COLUMN ? "" : " ";

            rc = buf_printf(out, "%s%.*s", blank, len, text);
            *column += len + (int)strlen(blank);
        }
        if (rc != 0)
            return rc;
        text += len;
        text += strspn(text, " ");
    }
    return 0;
}

static int help_option(struct buf *out, const struct option_spec *spec)
{
    const char *preset = spec->shown != NULL ? spec->shown : spec->preset;
    char head[64], tail[64];
    int column = HELP_COLUMN;
    int rc;

    snprintf(head, sizeof(head), "  %s %s", spec->name,
             spec->argument != NULL ? spec->argument : "");
    rc = buf_printf(out, "%-*s", HELP_COLUMN, head);
    if (rc == 0)
        rc = help_words(out, spec->help, &column);
    if (rc == 0 && preset != NULL) {
        snprintf(tail, sizeof(tail), "(default: %s)", preset);
        rc = help_words(out, tail, &column);
    }
    return rc != 0 ? rc : buf_printf(out, "\n");
}

int options_help(struct buf *out)
{
    int rc = buf_printf(out,
                        "ttserver %s keeps records on disk and serves them at memory speed,\n"
                        "by memcached's protocol and HTTP on one port.\n\n"
                        "Usage: ttserver [options] DBNAME\n\n"
                        "DBNAME is a directory for the records, made if missing.\n"
                        "A SIZE may end in k, m, g or t.\n",
                        TT_VERSION);

    for (int group = 0; rc == 0 && group < GROUP_HIDDEN; group++) {
        rc = buf_printf(out, "\n%s:\n", group_titles[group]);
        for (const struct option_spec *spec = option_table; rc == 0 && spec->name != NULL; spec++) {
            if ((int)spec->group == group)
                rc = help_option(out, spec);
        }
    }
    if (rc == 0)
        rc = buf_printf(out, "\nSIGTERM and Ctrl-C stop the server cleanly; it waits up to 10 s "
                             "for clients in\nthe middle of a request. A second one, a second "
                             "later or more, stops it at\nonce. SIGHUP opens the log file anew. "
                             "Exit status: 0 stopped cleanly, 1 failed,\n2 wrong usage.\n");
    return rc;
}
