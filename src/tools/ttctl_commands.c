/*
 * ttctl_commands.c - what ttctl can do: see ttctl_commands.h.
 *
 * Keys go over HTTP, percent-encoded, so that any bytes can be in them; values are not changed on
 * their way.
 */
#include "tools/ttctl_commands.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/http.h"

/* Keys of one request of `list`. */
#define LIST_PAGE_KEYS 1000

int command_fail(const char *format, ...)
{
    va_list args;

    fputs("ttctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return CTL_FAILED;
}

int command_misuse(const char *name, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "ttctl: %s: ", name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\ntry ttctl %s -h\n", name);
    return CTL_USAGE;
}

/* ---- options behind the command's name ---- */

/* Takes argv[0], which begins with a dash. The strings taken, or 0 (said). */
static int take_command_option(const char *name, int left, char *const argv[],
                               const struct command_option *options, size_t count)
{
    size_t name_len = strcspn(argv[0], "=");
    size_t i = 0;

    while (i < count && !slice_is(slice_of(argv[0], name_len), options[i].name))
        i++;
    if (i == count) {
        command_misuse(name, "unknown option %s", argv[0]);
    } else if (options[i].text == NULL) {
        *options[i].flag = true;
        if (argv[0][name_len] == '\0')
            return 1;
        command_misuse(name, "option %s takes no argument", options[i].name);
    } else if (argv[0][name_len] == '=') {
        *options[i].text = argv[0] + name_len + 1;
        return 1;
    } else if (left < 2) {
        command_misuse(name, "option %s needs an argument", options[i].name);
    } else {
        *options[i].text = argv[1];
        return 2;
    }
    return 0;
}

int command_arguments(const char *name, int argc, char *const argv[],
                      const struct command_option *options, size_t option_count, const char **plain,
                      int min, int max)
{
    bool only_plain = false;
    int count = 0;

    for (int used, i = 0; i < argc; i += used) {
        used = 1;
        if (!only_plain && strcmp(argv[i], "--") == 0) {
            only_plain = true;
        } else if (!only_plain && argv[i][0] == '-' && argv[i][1] != '\0') {
            used = take_command_option(name, argc - i, argv + i, options, option_count);
            if (used == 0)
                return CTL_USAGE;
        } else if (count == max) {
            return command_misuse(name, "there is one argument too many: %s", argv[i]);
        } else {
            plain[count++] = argv[i];
        }
    }
    return count >= min ? 0 : command_misuse(name, "an argument is missing");
}

/* ---- what the commands share ---- */

/* A reply that is not what the command hoped for: the status and the first line of the text. */
int command_fail_status(const struct client_reply *reply)
{
    struct slice text = buf_slice(&reply->text);
    size_t len = 0;

    while (len < text.len && len < 200 && text.ptr[len] >= ' ')
        len++;
    if (reply->status == 413)
        return command_fail("the value or key is too large for the server (see its --max-value)");
    return command_fail("the server answered %ld%s%.*s", reply->status, len > 0 ? ": " : "",
                        (int)len, len > 0 ? text.ptr : "");
}

int command_finish_output(void)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return command_fail("cannot write the output: %s", strerror(errno));
    return CTL_OK;
}

int command_add_encoded(struct buf *out, struct slice text)
{
    if (buf_reserve(out, 3 * text.len) != 0)
        return -ENOMEM;
    out->len += http_percent_encode(text, out->data + out->len);
    return 0;
}

bool command_take_key(const struct ctl *ctl, const char *text, struct buf *room, struct slice *key)
{
    *key = slice_str(text);
    if (!ctl->encoded_keys)
        return true;
    if (buf_reserve(room, key->len) != 0 ||
        http_percent_decode(*key, room->data, key->len, key) != 0) {
        command_fail("%s is not percent-encoded text", text);
        return false;
    }
    return true;
}

/* One request on a key, from the command line's text to the reply. 0, or CTL_FAILED (said). The
 * caller frees reply->text. */
static int request_key(const struct ctl *ctl, const char *method, const char *text,
                       const struct client_body *body, FILE *to, struct client_reply *reply)
{
    struct buf target = {0}, room = {0};
    const char *message = "out of memory";
    int status = CTL_FAILED;
    struct slice key;

    memset(reply, 0, sizeof(*reply));
    if (!command_take_key(ctl, text, &room, &key))
        goto out;
    if (slice_starts(key, slice_str("-/"))) {
        command_fail("keys that begin with -/ cannot be reached over HTTP");
        goto out;
    }
    if (buf_add(&target, "/", 1) == 0 && command_add_encoded(&target, key) == 0 &&
        client_request(ctl->client, method, buf_slice(&target), body, to, reply, &message) == 0)
        status = CTL_OK;
    else
        command_fail("%s", message);

out:
    buf_free(&room);
    buf_free(&target);
    return status;
}

/* ---- get, put, out ---- */

static int run_get(struct ctl *ctl, int argc, char *const argv[])
{
    struct client_reply reply;
    int status = request_key(ctl, "GET", argv[0], NULL, stdout, &reply);

    (void)argc;
    if (status != 0)
        return status;
    if (reply.status == 200)
        status = command_finish_output();
    else if (reply.status == 404)
        status = command_fail("no such key");
    else
        status = command_fail_status(&reply);
    buf_free(&reply.text);
    return status;
}

/* The length that is left of a regular file, else unknown. */
static int64_t length_of(FILE *file)
{
    struct stat st;
    off_t at = ftello(file);

    if (at < 0 || fstat(fileno(file), &st) != 0 || !S_ISREG(st.st_mode))
        return CLIENT_UNKNOWN_LENGTH;
    return st.st_size > at ? st.st_size - at : 0;
}

static int put_body(const struct ctl *ctl, const char *key, const struct client_body *body)
{
    struct client_reply reply;
    int status = request_key(ctl, "PUT", key, body, NULL, &reply);

    if (status == 0 && reply.status / 100 != 2)
        status = command_fail_status(&reply);
    buf_free(&reply.text);
    return status;
}

static int put_file(const struct ctl *ctl, const char *key, const char *path)
{
    FILE *file = fopen(path, "rbe");
    struct client_body body = {.file = file};
    struct stat st;
    int status;

    if (file == NULL)
        return command_fail("cannot open %s: %s", path, strerror(errno));
    if (fstat(fileno(file), &st) == 0 && S_ISDIR(st.st_mode)) {
        fclose(file);
        return command_fail("%s is a directory", path);
    }
    body.length = length_of(file);
    status = put_body(ctl, key, &body);
    fclose(file);
    return status;
}

static int run_put(struct ctl *ctl, int argc, char *const argv[])
{
    struct client_body body = {0};

    if (argc == 3 && strcmp(argv[1], "-f") == 0)
        return put_file(ctl, argv[0], argv[2]);
    if (argc == 3 && strcmp(argv[1], "--") == 0) {
        body.memory = slice_str(argv[2]);
    } else if (argc == 1 || (argc == 2 && strcmp(argv[1], "-") == 0)) {
        body.file = stdin;
        body.length = length_of(stdin);
    } else if (argc == 2 && argv[1][0] != '-') {
        body.memory = slice_str(argv[1]);
    } else {
        command_fail("put: expected a VALUE, -f FILE, - for the standard input, or -- VALUE for "
                     "one that begins with a dash");
        return CTL_USAGE;
    }
    return put_body(ctl, argv[0], &body);
}

static int run_out(struct ctl *ctl, int argc, char *const argv[])
{
    struct client_reply reply;
    int status = request_key(ctl, "DELETE", argv[0], NULL, NULL, &reply);

    (void)argc;
    if (status != 0)
        return status;
    if (reply.status == 404)
        status = command_fail("no such key");
    else if (reply.status != 200)
        status = command_fail_status(&reply);
    buf_free(&reply.text);
    return status;
}

/* ---- list ---- */

/* Prints one key of a page, a line. A terminal gets no control bytes: a key could be an order to
 * it. */
static int print_key(const struct ctl *ctl, struct slice encoded, struct buf *room)
{
    struct slice key = encoded;
    bool for_people = isatty(STDOUT_FILENO) == 1;

    if (!ctl->encoded_keys) {
        room->len = 0;
        if (buf_reserve(room, encoded.len + 1) != 0 ||
            http_percent_decode(encoded, room->data, encoded.len, &key) != 0)
            return command_fail("the server's list is not understood");
    }
    for (size_t i = 0; i < key.len; i++) {
        unsigned char byte = (unsigned char)key.ptr[i];

        putchar(for_people && (byte < ' ' || byte == 0x7f) ? '?' : byte);
    }
    putchar('\n');
    return ferror(stdout) ? command_finish_output() : CTL_OK;
}

/* Prints a page and leaves its last key in `after`, as it came. */
static int print_page(const struct ctl *ctl, struct slice page, struct buf *after)
{
    struct buf room = {0};
    int status = CTL_OK;

    while (status == CTL_OK && page.len > 0) {
        const char *end = memchr(page.ptr, '\n', page.len);
        struct slice line;

        if (end == NULL) {
            status = command_fail("the server's list is not understood");
            break;
        }
        line = slice_of(page.ptr, (size_t)(end - page.ptr));
        page = slice_after(page, line.len + 1);
        status = print_key(ctl, line, &room);
        after->len = 0;
        if (status == CTL_OK && page.len == 0 && buf_add_slice(after, line) != 0)
            status = command_fail("out of memory");
    }
    buf_free(&room);
    return status;
}

/* Asks for the page behind `after` (have_after false: the first) and prints it. */
static int list_page(const struct ctl *ctl, struct slice prefix, bool have_after, struct buf *after,
                     bool *more)
{
    struct client_reply reply = {0};
    struct buf target = {0};
    const char *message = "out of memory";
    int status = CTL_FAILED;
    bool made = buf_printf(&target, "/-/keys?limit=%u&prefix=", LIST_PAGE_KEYS) == 0 &&
                command_add_encoded(&target, prefix) == 0;

    if (made && have_after)
        made = buf_add(&target, "&after=", 7) == 0 && buf_add_slice(&target, buf_slice(after)) == 0;
    if (!made ||
        client_request(ctl->client, "GET", buf_slice(&target), NULL, NULL, &reply, &message))
        command_fail("%s", message);
    else if (reply.status != 200)
        command_fail_status(&reply);
    else
        status = print_page(ctl, buf_slice(&reply.text), after);
    *more = reply.more && reply.text.len > 0;
    buf_free(&reply.text);
    buf_free(&target);
    return status;
}

static int run_list(struct ctl *ctl, int argc, char *const argv[])
{
    struct buf room = {0}, after = {0};
    struct slice prefix = slice_of("", 0);
    int status = CTL_OK;
    bool more = true;

    if (argc > 0 && !command_take_key(ctl, argv[0], &room, &prefix)) {
        buf_free(&room);
        return CTL_FAILED;
    }
    for (bool first = true; status == CTL_OK && more; first = false)
        status = list_page(ctl, prefix, !first, &after, &more);
    buf_free(&room);
    buf_free(&after);
    return status == CTL_OK ? command_finish_output() : status;
}

/* ---- stat, ping ---- */

static int run_stat(struct ctl *ctl, int argc, char *const argv[])
{
    struct buf text = {0};
    const char *message;
    struct slice rest;

    (void)argc;
    (void)argv;
    if (client_stats(ctl->client, &text, &message) != 0) {
        buf_free(&text);
        return command_fail("%s", message);
    }
    rest = buf_slice(&text);
    while (rest.len > 0) {
        const char *end = memchr(rest.ptr, '\n', rest.len);
        size_t len = end == NULL ? rest.len : (size_t)(end - rest.ptr);
        struct slice line =
            slice_of(rest.ptr, len > 0 && rest.ptr[len - 1] == '\r' ? len - 1 : len);

        if (slice_starts(line, slice_str("STAT ")))
            line = slice_after(line, 5);
        printf("%.*s\n", (int)line.len, line.ptr);
        rest = slice_after(rest, end == NULL ? len : len + 1);
    }
    buf_free(&text);
    return command_finish_output();
}

static int run_ping(struct ctl *ctl, int argc, char *const argv[])
{
    struct client_reply reply;
    const char *message;
    int status = CTL_OK;

    (void)argc;
    (void)argv;
    if (client_request(ctl->client, "GET", slice_str("/-/live"), NULL, NULL, &reply, &message) != 0)
        return command_fail("%s", message);
    if (reply.status == 200)
        printf("alive, answered in %.2f ms\n", (double)reply.took_us / 1000.0);
    else
        status = command_fail_status(&reply);
    buf_free(&reply.text);
    return status == CTL_OK ? command_finish_output() : status;
}

const struct command command_table[] = {
    {"get", "KEY", 1, 1, "write the value to the standard output", run_get, NULL},
    {"put", "KEY [VALUE|-f FILE|-]", 1, 3, "store VALUE, a file, or the standard input", run_put,
     NULL},
    {"out", "KEY", 1, 1, "delete the record", run_out, NULL},
    {"list", "[PREFIX]", 0, 1, "show the keys, in bytewise order", run_list, NULL},
    {"stat", "", 0, 0, "show the server's figures", run_stat, NULL},
    {"ping", "", 0, 0, "see whether the server lives, and how fast it answers", run_ping, NULL},
    {"dump", "[--dir DIR]", 0, 0, "write all records as lines of text", run_dump, dump_more},
    {"load", "[FILE]", 0, 0, "store the records of a dump", run_load, load_more},
    {"log", "DIR", 0, 0, "print the records of a data directory", run_log, log_more},
    {"verify", "DIR", 0, 0, "check all of a stopped server's data", run_verify, verify_more},
    {"repair", "DIR --to NEWDIR", 0, 0, "copy what is good of a damaged data directory", run_repair,
     repair_more},
    {"compact", "[DIR]", 0, 0, "give back the room of what was overwritten", run_compact,
     compact_more},
    {"rebuild-index", "DIR", 0, 0, "make the index of a data directory anew", run_rebuild_index,
     rebuild_index_more},
    {"backup", "DIR", 0, 0, "make or renew a backup of the running store", run_backup, backup_more},
    {"restore", "BACKUP --to NEWDIR", 0, 0, "make a data directory of a backup", run_restore,
     restore_more},
    {"doctor", "[DIR]", 0, 0, "see whether this machine suits a server", run_doctor, doctor_more},
    {NULL, NULL, 0, 0, NULL, NULL, NULL},
};
