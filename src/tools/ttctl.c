/*
 * ttctl.c - the command line client of a running ttserver, and the tools for its data directory.
 *
 * Exit status: 0 done; 1 it failed, or there is no such key; 2 wrong usage. Messages go to stderr,
 * data to stdout.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "base/version.h"
#include "tools/ttctl_commands.h"

struct ctl_options {
    struct client_address address;
    bool encoded_keys;
    bool help;
    bool version;
};

enum { PORT_DEFAULT = 1978, TIMEOUT_DEFAULT_S = 30, TIMEOUT_MAX_S = 86400 };

static bool take_host(struct ctl_options *o, const char *text)
{
    o->address.host = text;
    return text[0] != '\0';
}

static bool take_port(struct ctl_options *o, const char *text)
{
    uint32_t port;

    if (!parse_u32(slice_str(text), &port) || port == 0 || port > UINT16_MAX)
        return false;
    o->address.port = (uint16_t)port;
    return true;
}

static bool take_unix(struct ctl_options *o, const char *text)
{
    o->address.unix_path = text;
    return text[0] != '\0';
}

static bool take_timeout(struct ctl_options *o, const char *text)
{
    return parse_u32(slice_str(text), &o->address.timeout_s) && o->address.timeout_s >= 1 &&
           o->address.timeout_s <= TIMEOUT_MAX_S;
}

static bool take_encoded(struct ctl_options *o, const char *text)
{
    (void)text;
    o->encoded_keys = true;
    return true;
}

static bool take_help(struct ctl_options *o, const char *text)
{
    (void)text;
    o->help = true;
    return true;
}

static bool take_version(struct ctl_options *o, const char *text)
{
    (void)text;
    o->version = true;
    return true;
}

static const struct {
    const char *name;
    const char *argument; /* NULL: none */
    const char *expected;
    const char *help;
    bool (*take)(struct ctl_options *o, const char *text);
} option_rows[] = {
    {"-host", "A", "an address or a name", "the server (default: 127.0.0.1)", take_host},
    {"-port", "N", "a number from 1 to 65535", "its port (default: 1978)", take_port},
    {"--unix", "PATH", "a path", "its unix socket, instead of both", take_unix},
    {"--timeout", "S", "a number from 1 to 86400",
     "give up after S seconds without progress (default: 30)", take_timeout},
    {"-e", NULL, NULL, "keys are percent-encoded, here and in lists: any byte can be in them",
     take_encoded},
    {"--help", NULL, NULL, "show this and exit", take_help},
    {"--version", NULL, NULL, "show the version and exit", take_version},
};

enum { OPTION_ROWS = sizeof(option_rows) / sizeof(option_rows[0]) };

static int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int usage_error(const char *format, ...)
{
    va_list args;

    fputs("ttctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\ntry ttctl --help\n", stderr);
    return CTL_USAGE;
}

static int show_help(void)
{
    char head[64];

    printf("ttctl %s asks a running ttserver, and looks after data directories.\n\n"
           "Usage: ttctl [options] COMMAND ...\n\nCommands:\n",
           TT_VERSION);
    for (const struct command *c = command_table; c->name != NULL; c++) {
        snprintf(head, sizeof(head), "%s %s", c->name, c->arguments);
        printf("  %-27s %s\n", head, c->help);
    }
    printf("\nOptions, before the command:\n");
    for (int i = 0; i < OPTION_ROWS; i++) {
        snprintf(head, sizeof(head), "%s %s", option_rows[i].name,
                 option_rows[i].argument != NULL ? option_rows[i].argument : "");
        printf("  %-27s %s\n", head, option_rows[i].help);
    }
    printf("\nCommands on a directory (DIR) have more options: ttctl COMMAND -h.\n"
           "Exit status: 0 done, 1 failed or no such key, 2 wrong usage.\n");
    return fflush(stdout) == 0 ? CTL_OK : CTL_FAILED;
}

static bool asks_for_help(const struct command *c, int argc, char *const argv[])
{
    for (int i = 0; c->more != NULL && i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0)
            return true;
    return false;
}

static int show_command_help(const struct command *c)
{
    printf("Usage: ttctl %s %s\n\n%s", c->name, c->arguments, c->more);
    return fflush(stdout) == 0 ? CTL_OK : CTL_FAILED;
}

/* Takes the option argv[0], with its argument behind '=' or in argv[1]. *used: strings taken. 0 or
 * CTL_USAGE (said). */
static int take_option(struct ctl_options *o, char *const argv[], int left, int *used)
{
    size_t name_len = strcspn(argv[0], "=");
    const char *argument = argv[0][name_len] == '=' ? argv[0] + name_len + 1 : NULL;
    int i = 0;

    while (i < OPTION_ROWS && !slice_is(slice_of(argv[0], name_len), option_rows[i].name))
        i++;
    if (i == OPTION_ROWS)
        return usage_error("unknown option %s", argv[0]);
    *used = 1;
    if (option_rows[i].argument == NULL && argument != NULL)
        return usage_error("option %s takes no argument", option_rows[i].name);
    if (option_rows[i].argument != NULL && argument == NULL) {
        if (left < 2)
            return usage_error("option %s needs an argument: %s", option_rows[i].name,
                               option_rows[i].expected);
        argument = argv[1];
        *used = 2;
    }
    if (!option_rows[i].take(o, argument))
        return usage_error("option %s: expected %s, but got '%s'", option_rows[i].name,
                           option_rows[i].expected, argument);
    return 0;
}

/* Finds the command and checks the number of its arguments. NULL: usage error (said). */
static const struct command *find_command(const char *name, int argc)
{
    const struct command *c = command_table;

    while (c->name != NULL && strcmp(c->name, name) != 0)
        c++;
    if (c->name == NULL)
        usage_error("unknown command %s", name);
    else if (c->more == NULL && (argc < c->min_arguments || argc > c->max_arguments))
        usage_error("expected: ttctl %s %s", c->name, c->arguments);
    else
        return c;
    return NULL;
}

int main(int argc, char *argv[])
{
    struct ctl_options o = {
        .address = {.host = "127.0.0.1", .port = PORT_DEFAULT, .timeout_s = TIMEOUT_DEFAULT_S},
    };
    const struct command *command;
    struct ctl ctl;
    int at = 1, used = 1, status;

    while (at < argc && argv[at][0] == '-') {
        if (take_option(&o, argv + at, argc - at, &used) != 0)
            return CTL_USAGE;
        at += used;
    }
    if (o.help)
        return show_help();
    if (o.version)
        return printf("ttctl %s\n", TT_VERSION) > 0 && fflush(stdout) == 0 ? CTL_OK : CTL_FAILED;
    if (at == argc)
        return usage_error("no command given");
    command = find_command(argv[at], argc - at - 1);
    if (command == NULL)
        return CTL_USAGE;
    if (asks_for_help(command, argc - at - 1, argv + at + 1))
        return show_command_help(command);
    ctl.encoded_keys = o.encoded_keys;
    if (client_open(&o.address, &ctl.client) != 0)
        return command_fail("the host name is too long, or memory is short");
    status = command->run(&ctl, argc - at - 1, argv + at + 1);
    client_close(ctl.client);
    return status;
}
