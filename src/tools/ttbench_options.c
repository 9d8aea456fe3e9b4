/*
 * ttbench_options.c - ttbench's command line: one table for parsing and for --help
 * (ttbench_options.h).
 */
#include "tools/ttbench_options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/num.h"
#include "base/version.h"

/* What must be put together after all options are known. */
struct pending {
    const char *key_prefix;
    uint64_t key_count;
    uint64_t key_size;
    bool has_duration;
    bool has_seed;
};

struct parse {
    struct bench_options *opts;
    struct pending *pending;
};

/* A setter returns false if it does not like the text (NULL for an option without argument). */
struct option {
    const char *name;
    const char *arg; /* NULL: none */
    const char *expected;
    bool (*set)(struct parse *p, const char *text);
    const char *help;
};

static bool number_in(const char *text, uint64_t lowest, uint64_t highest, uint64_t *out)
{
    uint64_t v;

    if (!parse_u64(slice_str(text), &v) || v < lowest || v > highest)
        return false;
    *out = v;
    return true;
}

static bool unsigned_in(const char *text, unsigned lowest, unsigned highest, unsigned *out)
{
    uint64_t v;

    if (!number_in(text, lowest, highest, &v))
        return false;
    *out = (unsigned)v;
    return true;
}

/* Digits with an optional fraction; no exponent, no sign. */
static bool decimal_in(const char *text, double lowest, double highest, double *out)
{
    double v;

    if (text[0] == '\0' || strspn(text, "0123456789.") != strlen(text) ||
        strchr(text, '.') != strrchr(text, '.'))
        return false;
    v = strtod(text, NULL);
    if (!(v >= lowest && v <= highest))
        return false;
    *out = v;
    return true;
}

static bool set_protocol(struct parse *p, const char *text)
{
    p->opts->wire = wire_find(slice_str(text));
    return p->opts->wire != NULL;
}

static bool set_host(struct parse *p, const char *text)
{
    p->opts->host = text;
    return text[0] != '\0' && strlen(text) < WIRE_HOST_BYTES_MAX - 10;
}

static bool set_port(struct parse *p, const char *text)
{
    uint64_t port;

    p->opts->port = text;
    return number_in(text, 1, 65535, &port);
}

static bool set_unix(struct parse *p, const char *text)
{
    p->opts->unix_path = text;
    return text[0] != '\0' && strlen(text) < 108;
}

static bool set_connections(struct parse *p, const char *text)
{
    return unsigned_in(text, 1, BENCH_CONNECTIONS_MAX, &p->opts->connections);
}

static bool set_pipeline(struct parse *p, const char *text)
{
    return unsigned_in(text, 1, BENCH_PIPELINE_MAX, &p->opts->pipeline);
}

static bool set_threads(struct parse *p, const char *text)
{
    return unsigned_in(text, 1, BENCH_THREADS_MAX, &p->opts->threads);
}

static bool set_duration(struct parse *p, const char *text)
{
    p->pending->has_duration = true;
    return decimal_in(text, 0.01, 86400, &p->opts->duration_s);
}

static bool set_warmup(struct parse *p, const char *text)
{
    return decimal_in(text, 0, 3600, &p->opts->warmup_s);
}

static bool set_requests(struct parse *p, const char *text)
{
    return number_in(text, 1, (uint64_t)1 << 48, &p->opts->requests);
}

static bool set_rate(struct parse *p, const char *text)
{
    return decimal_in(text, 0.01, 1e8, &p->opts->rate);
}

static bool set_timeout(struct parse *p, const char *text)
{
    return decimal_in(text, 0.1, 3600, &p->opts->timeout_s);
}

static bool set_keys(struct parse *p, const char *text)
{
    return number_in(text, 1, (uint64_t)1 << 40, &p->pending->key_count);
}

/* What needs no quoting in any of the protocols. */
static bool set_prefix(struct parse *p, const char *text)
{
    static const char safe[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~:/";

    p->pending->key_prefix = text;
    return strspn(text, safe) == strlen(text) && strlen(text) < KEY_BYTES_MAX;
}

static bool set_key_size(struct parse *p, const char *text)
{
    return number_in(text, 1, KEY_BYTES_MAX, &p->pending->key_size);
}

static bool set_distribution(struct parse *p, const char *text)
{
    struct slice name = slice_str(text);

    if (slice_is(name, "uniform"))
        p->opts->distribution = KEYS_UNIFORM;
    else if (slice_is(name, "sequential"))
        p->opts->distribution = KEYS_SEQUENTIAL;
    else if (slice_is(name, "zipf"))
        p->opts->distribution = KEYS_ZIPF;
    else if (slice_starts(name, slice_str("zipf:")) &&
             decimal_in(text + 5, 0.01, 10, &p->opts->zipf_exponent))
        p->opts->distribution = KEYS_ZIPF;
    else
        return false;
    return true;
}

static bool set_value_size(struct parse *p, const char *text)
{
    return value_sizes_parse(slice_str(text), &p->opts->sizes) &&
           value_sizes_max(&p->opts->sizes) <= (uint64_t)1 << 40;
}

static bool set_read(struct parse *p, const char *text)
{
    return unsigned_in(text, 0, 100, &p->opts->read_percent);
}

static bool set_flags(struct parse *p, const char *text)
{
    p->opts->flags_from_key = slice_is(slice_str(text), "key");
    return p->opts->flags_from_key || parse_u32(slice_str(text), &p->opts->flags);
}

static bool set_fill(struct parse *p, const char *text)
{
    (void)text;
    p->opts->fill = true;
    return true;
}

static bool set_fill_only(struct parse *p, const char *text)
{
    (void)text;
    p->opts->fill = true;
    p->opts->fill_only = true;
    return true;
}

static bool set_fill_dir(struct parse *p, const char *text)
{
    p->opts->fill_dir = text;
    return text[0] != '\0';
}

static bool set_own_keys(struct parse *p, const char *text)
{
    (void)text;
    p->opts->own_keys = true;
    return true;
}

static bool set_allow_misses(struct parse *p, const char *text)
{
    (void)text;
    p->opts->allow_misses = true;
    return true;
}

static bool set_pid(struct parse *p, const char *text)
{
    uint64_t pid;

    if (p->opts->pid_count == BENCH_PIDS_MAX || !number_in(text, 1, INT32_MAX, &pid))
        return false;
    p->opts->pids[p->opts->pid_count++] = (pid_t)pid;
    return true;
}

static bool set_json(struct parse *p, const char *text)
{
    (void)text;
    p->opts->json = true;
    return true;
}

static bool set_seed(struct parse *p, const char *text)
{
    p->pending->has_seed = true;
    return parse_u64(slice_str(text), &p->opts->seed);
}

static const struct option options[] = {
    {"protocol", "NAME", "memcached, http or resp", set_protocol,
     "memcached (default), http or resp (Redis)"},
    {"host", "ADDRESS", "a host name or address", set_host, "server (default 127.0.0.1)"},
    {"port", "N", "a port from 1 to 65535", set_port, "port (default 1978)"},
    {"unix", "PATH", "a path of at most 107 bytes", set_unix,
     "unix socket instead of host and port"},
    {"connections", "N", "a number from 1 to 1000000", set_connections,
     "connections in all (default 50)"},
    {"pipeline", "N", "a number from 1 to 4096", set_pipeline,
     "requests in flight on a connection (default 1); in the\n"
     "closed loop N go out together, and the next N when all are answered"},
    {"threads", "N", "a number from 1 to 64", set_threads, "client threads (default 1)"},
    {"duration", "SECONDS", "seconds from 0.01 to 86400", set_duration,
     "length of the measurement (default 10)"},
    {"requests", "N", "a number from 1 to 2^48", set_requests,
     "end after N requests; with --duration whichever comes first"},
    {"warmup", "SECONDS", "seconds from 0 to 3600", set_warmup,
     "load before the measurement begins (default 0)"},
    {"rate", "N", "requests per second, 0.01 to 1e8", set_rate,
     "open loop: N requests per second in all, sent when they are due whatever the\n"
     "server does; latency counts from the time a request was due"},
    {"timeout", "SECONDS", "seconds from 0.1 to 3600", set_timeout,
     "a connection that waits longer for a byte of its reply has failed (default 10)"},
    {"keys", "N", "a number from 1 to 2^40", set_keys, "number of keys (default 100000)"},
    {"key-prefix", "TEXT", "letters, digits and -_.~:/", set_prefix,
     "keys are TEXT and a number (default key-)"},
    {"key-size", "BYTES", "a number from 1 to 250", set_key_size,
     "length of every key (default: prefix and 10 digits)"},
    {"distribution", "NAME", "uniform, zipf, zipf:EXPONENT or sequential", set_distribution,
     "uniform (default), zipf, zipf:EXPONENT (default 0.99) or sequential"},
    {"value-size", "SIZE", "SIZE, MIN-MAX or a list SIZE,SIZE,... (k, m and g may follow a number)",
     set_value_size, "1k (default), a range as 100-64k, or a list as 1k,10k,1m"},
    {"read", "PERCENT", "a number from 0 to 100", set_read,
     "share of reads, the rest are writes (default 100)"},
    {"flags", "N|key", "a number below 2^32, or key", set_flags,
     "memcached: flags to store and to expect; key: other ones for every key (default 0)"},
    {"fill", NULL, NULL, set_fill, "store every key once before anything else"},
    {"fill-only", NULL, NULL, set_fill_only, "only that"},
    {"fill-dir", "DIR", "a directory", set_fill_dir,
     "write what --fill would store as files into DIR, and end"},
    {"own-keys", NULL, NULL, set_own_keys,
     "every connection has its own share of the keys, and a read must show exactly\n"
     "its last write (otherwise any version of the key's value will do)"},
    {"allow-misses", NULL, NULL, set_allow_misses, "keys that are not found are no error"},
    {"pid", "PID", "a process id (at most 16 times)", set_pid,
     "report the CPU time of this server process; repeatable"},
    {"json", NULL, NULL, set_json, "one JSON object instead of text"},
    {"seed", "N", "a number", set_seed, "repeat the random choices of an earlier run"},
};

static void help_print(void)
{
    printf("usage: ttbench [options]\n\n"
           "Load generator for memcached text, HTTP/1.1 and RESP. Values can be recognised: every\n"
           "value read is checked to the byte, also across runs. Exit status: 0 all was well,\n"
           "1 errors, mismatches or misses, 2 wrong usage.\n\n");
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        const struct option *o = &options[i];
        const char *text = o->help;
        int width =
            printf("  --%s%s%s", o->name, o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");

        for (;;) {
            int len = (int)strcspn(text, "\n");

            printf("%*s%.*s\n", width < 28 ? 28 - width : 1, "", len, text);
            if (text[len] == '\0')
                break;
            text += len + 1;
            width = 0;
        }
    }
    printf("  --help                    this text\n"
           "  --version                 the version\n");
}

/* "--name" or "--name=value"; NULL if there is no such option. *value: what follows '=', or NULL.
 */
static const struct option *option_find(const char *word, const char **value)
{
    size_t len;

    if (strncmp(word, "--", 2) != 0)
        return NULL;
    word += 2;
    len = strcspn(word, "=");
    *value = word[len] == '=' ? word + len + 1 : NULL;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (slice_is(slice_of(word, len), options[i].name))
            return &options[i];
    }
    return NULL;
}

/* Takes argv[*at] and, if the option needs it, the word after. */
static int option_take(struct parse *p, int argc, char **argv, int *at)
{
    const char *value = NULL;
    const struct option *o = option_find(argv[*at], &value);

    if (o == NULL) {
        fprintf(stderr, "ttbench: %s: no such option (--help lists them)\n", argv[*at]);
        return -EINVAL;
    }
    if (o->arg == NULL && value != NULL) {
        fprintf(stderr, "ttbench: --%s takes no argument\n", o->name);
        return -EINVAL;
    }
    if (o->arg != NULL && value == NULL) {
        if (*at + 1 == argc) {
            fprintf(stderr, "ttbench: --%s needs an argument: %s\n", o->name, o->expected);
            return -EINVAL;
        }
        value = argv[++*at];
    }
    if (!o->set(p, value)) {
        fprintf(stderr, "ttbench: --%s %s: expected %s\n", o->name, value, o->expected);
        return -EINVAL;
    }
    return 0;
}

static bool seed_draw(uint64_t *out)
{
    return getrandom(out, sizeof(*out), 0) == (ssize_t)sizeof(*out);
}

/* What no single option can see. NULL: all is well. */
static const char *options_conflict(struct bench_options *opts, const struct pending *pending)
{
    if (!key_space_init(&opts->keys, slice_str(pending->key_prefix), (size_t)pending->key_size,
                        pending->key_count))
        return "--key-size: no room for the prefix and the number of a key";
    if (opts->threads > opts->connections)
        return "--threads: more threads than connections";
    if (opts->own_keys && opts->keys.count < opts->connections)
        return "--own-keys: fewer keys than connections";
    if (opts->own_keys && opts->keys.count > (uint64_t)1 << 28)
        return "--own-keys: at most 2^28 keys";
    return NULL;
}

static int options_finish(struct bench_options *opts, const struct pending *pending)
{
    const char *conflict = options_conflict(opts, pending);

    if (conflict != NULL) {
        fprintf(stderr, "ttbench: %s\n", conflict);
        return -EINVAL;
    }
    if (!pending->has_duration)
        opts->duration_s = opts->requests > 0 ? 86400 : 10;
    if (!pending->has_seed && !seed_draw(&opts->seed))
        opts->seed = 1;
    opts->seed &= (uint64_t)INT64_MAX >> 10; /* exact in every JSON reader */
    return 0;
}

int bench_options_parse(int argc, char **argv, struct bench_options *out)
{
    struct pending pending = {.key_prefix = "key-", .key_count = 100000};
    struct parse p = {out, &pending};

    memset(out, 0, sizeof(*out));
    out->wire = wire_find(slice_str("memcached"));
    out->host = "127.0.0.1";
    out->port = "1978";
    out->connections = 50;
    out->pipeline = 1;
    out->threads = 1;
    out->timeout_s = 10;
    out->zipf_exponent = 0.99;
    out->sizes = (struct value_sizes){.size = {1024}, .count = 1};
    out->read_percent = 100;
    for (int at = 1; at < argc; at++) {
        if (strcmp(argv[at], "--help") == 0) {
            help_print();
            return 1;
        }
        if (strcmp(argv[at], "--version") == 0) {
            printf("ttbench %s\n", TT_VERSION);
            return 1;
        }
        if (option_take(&p, argc, argv, &at) != 0)
            return -EINVAL;
    }
    return options_finish(out, &pending);
}
