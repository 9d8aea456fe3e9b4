/*
 * mc_text.c - memcached's text protocol: request lines to structs, structs to reply lines.
 *
 * Provides: mc_parse_request(), mc_parse_key(), the table of commands, the error lines.
 * Used by:  session/mc_session.c; the fuzz target.
 * Threads:  pure.
 *
 * Where memcached's versions differ, 1.6.45 is followed: a command with too few words is a
 * CLIENT_ERROR, a body whose length was read is swallowed after an error on its line, delete takes
 * the time that old clients send. But words behind `version` and `quit`, and many behind a delete's
 * key, are refused as all versions up to 1.6.18 did: memccapable asks for that.
 */
#include "proto/mc_text.h"

/* The longest form has seven words (cas with noreply); more are looked at only for the last one. */
#define WORDS_MAX 8

/* delete <key> <time> noreply, and one for good measure. */
#define DELETE_WORDS_MAX 5

/* Fewer bytes than this, with the line end, cannot be a command. */
#define LINE_MIN 4

/* The commands asked for most come first: the table is searched from its start. */
static const struct mc_command_info commands[] = {
    {"get", MC_GET, MC_FORM_KEYS, 0},
    {"set", MC_SET, MC_FORM_STORE, MC_WRITES},
    {"gets", MC_GETS, MC_FORM_KEYS, MC_SHOWS_CAS},
    {"delete", MC_DELETE, MC_FORM_KEY, MC_WRITES},
    {"incr", MC_INCR, MC_FORM_KEY_DELTA, MC_WRITES},
    {"add", MC_ADD, MC_FORM_STORE, MC_WRITES},
    {"cas", MC_CAS, MC_FORM_STORE, MC_WRITES | MC_TAKES_CAS},
    {"touch", MC_TOUCH, MC_FORM_KEY_EXPTIME, MC_WRITES},
    {"replace", MC_REPLACE, MC_FORM_STORE, MC_WRITES},
    {"append", MC_APPEND, MC_FORM_STORE, MC_WRITES},
    {"prepend", MC_PREPEND, MC_FORM_STORE, MC_WRITES},
    {"decr", MC_DECR, MC_FORM_KEY_DELTA, MC_WRITES},
    {"gat", MC_GAT, MC_FORM_EXPTIME_KEYS, MC_TOUCHES},
    {"gats", MC_GATS, MC_FORM_EXPTIME_KEYS, MC_TOUCHES | MC_SHOWS_CAS},
    {"version", MC_VERSION, MC_FORM_WORDS, MC_ALONE},
    {"stats", MC_STATS, MC_FORM_WORDS, 0},
    {"ready", MC_READY, MC_FORM_WORDS, 0},
    {"verbosity", MC_VERBOSITY, MC_FORM_LEVEL, 0},
    {"flush_all", MC_FLUSH_ALL, MC_FORM_DELAY, MC_WRITES},
    {"quit", MC_QUIT, MC_FORM_WORDS, MC_ALONE},
};

static const struct mc_command_info unknown_command = {"", MC_UNKNOWN, MC_FORM_WORDS, 0};

#define LINE(text)                                                                                 \
    {                                                                                              \
        text "\r\n", sizeof(text "\r\n") - 1                                                       \
    }
static const struct slice error_lines[MC_ERROR_COUNT] = {
    [MC_ERROR_UNKNOWN] = LINE("ERROR"),
    [MC_ERROR_FORMAT] = LINE("CLIENT_ERROR bad command line format"),
    [MC_ERROR_EXPTIME] = LINE("CLIENT_ERROR invalid exptime argument"),
    [MC_ERROR_DELTA] = LINE("CLIENT_ERROR invalid numeric delta argument"),
    [MC_ERROR_BAD_CHUNK] = LINE("CLIENT_ERROR bad data chunk"),
    [MC_ERROR_NOT_NUMERIC] = LINE("CLIENT_ERROR cannot increment or decrement non-numeric value"),
    [MC_ERROR_STATS_DETAIL] = LINE("CLIENT_ERROR stats detail not allowed"),
    [MC_ERROR_TOO_LARGE] = LINE("SERVER_ERROR object too large for cache"),
    [MC_ERROR_NO_MEMORY] = LINE("SERVER_ERROR out of memory storing object"),
    [MC_ERROR_NO_MEMORY_GET] = LINE("SERVER_ERROR out of memory writing get response"),
    [MC_ERROR_NO_SPACE] = LINE("SERVER_ERROR no space left on device"),
    [MC_ERROR_READ_ONLY] = LINE("SERVER_ERROR read-only: the disk has failed to sync"),
    [MC_ERROR_DAMAGED] = LINE("SERVER_ERROR the stored record is damaged"),
    [MC_ERROR_IO] = LINE("SERVER_ERROR input/output error"),
    [MC_ERROR_BUSY] = LINE("SERVER_ERROR busy: the index is being rebuilt"),
};
#undef LINE

struct slice mc_error_line(enum mc_error error)
{
    return error_lines[error];
}

bool mc_next_word(struct slice *rest, struct slice *word)
{
    size_t start = 0;
    size_t end;

    while (start < rest->len && rest->ptr[start] == ' ')
        start++;
    if (start == rest->len)
        return false;
    end = start;
    while (end < rest->len && rest->ptr[end] != ' ')
        end++;
    *word = slice_of(rest->ptr + start, end - start);
    *rest = slice_after(*rest, end);
    return true;
}

/* The words of a line: the first few in order, and the last one whatever their number. */
struct words {
    struct slice at[WORDS_MAX];
    size_t count; /* of all words */
    struct slice last;
};

static void words_split(struct slice rest, struct words *out)
{
    out->count = 0;
    while (mc_next_word(&rest, &out->last)) {
        if (out->count < WORDS_MAX)
            out->at[out->count] = out->last;
        out->count++;
    }
}

static const struct mc_command_info *find_command(struct slice name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (commands[i].name[0] == name.ptr[0] && slice_is(name, commands[i].name))
            return &commands[i];
    }
    return &unknown_command;
}

static bool is_blank(char c)
{
    return c == ' ';
}

/* <key> <flags> <exptime> <bytes> [<cas>]. The length is read first: with it known, an error found
 * later on the line costs the client its body and nothing more. */
static enum mc_error read_store(const struct words *words, struct mc_request *out)
{
    uint64_t bytes;

    if (words->count < 5 || !parse_u64(words->at[4], &bytes) || bytes > MC_BODY_MAX) {
        out->noreply = false; /* nobody can say where the next request begins */
        return MC_ERROR_FORMAT;
    }
    out->has_body = true;
    out->body_bytes = (uint32_t)bytes;
    if (out->key.len > MC_KEY_MAX || !parse_u32(words->at[2], &out->flags) ||
        !parse_i64(words->at[3], &out->exptime))
        return MC_ERROR_FORMAT;
    if ((out->info->flags & MC_TAKES_CAS) != 0 &&
        (words->count < 6 || !parse_u64(words->at[5], &out->number)))
        return MC_ERROR_FORMAT;
    return MC_NO_ERROR;
}

/* flush_all [<delay>] [noreply] */
static enum mc_error read_delay(const struct words *words, struct mc_request *out)
{
    if (words->count == (out->noreply ? 2 : 1))
        return MC_NO_ERROR;
    return parse_i64(words->at[1], &out->exptime) ? MC_NO_ERROR : MC_ERROR_EXPTIME;
}

/* <key> and, but for delete, a number. */
static enum mc_error read_key_number(const struct words *words, struct mc_request *out)
{
    enum mc_form form = out->info->form;

    if (words->count < (form == MC_FORM_KEY ? 2 : 3) ||
        (form == MC_FORM_KEY && words->count > DELETE_WORDS_MAX)) {
        out->noreply = false;
        return MC_ERROR_FORMAT;
    }
    if (out->key.len > MC_KEY_MAX)
        return MC_ERROR_FORMAT;
    if (form == MC_FORM_KEY_DELTA && !parse_u64(words->at[2], &out->number))
        return MC_ERROR_DELTA;
    if (form == MC_FORM_KEY_EXPTIME && !parse_i64(words->at[2], &out->exptime))
        return MC_ERROR_EXPTIME;
    return MC_NO_ERROR;
}

/* verbosity <level> [noreply] */
static enum mc_error read_level(const struct words *words, struct mc_request *out)
{
    uint32_t level;

    if (words->count < 2 || !parse_u32(words->at[1], &level))
        return MC_ERROR_FORMAT;
    out->number = level;
    return MC_NO_ERROR;
}

/* Any words, or none. */
static enum mc_error read_words(const struct words *words, struct mc_request *out)
{
    if (out->info->command == MC_UNKNOWN)
        return MC_ERROR_UNKNOWN;
    if ((out->info->flags & MC_ALONE) != 0 && words->count > 1) {
        out->noreply = false;
        return MC_ERROR_UNKNOWN;
    }
    return MC_NO_ERROR;
}

/* Everything behind the command's name, by its form. */
static enum mc_error read_arguments(const struct words *words, struct mc_request *out)
{
    switch (out->info->form) {
    case MC_FORM_STORE: return read_store(words, out);
    case MC_FORM_KEY:
    case MC_FORM_KEY_DELTA:
    case MC_FORM_KEY_EXPTIME: return read_key_number(words, out);
    case MC_FORM_DELAY: return read_delay(words, out);
    case MC_FORM_LEVEL: return read_level(words, out);
    case MC_FORM_WORDS: return read_words(words, out);
    case MC_FORM_KEYS:
    case MC_FORM_EXPTIME_KEYS: break; /* without a blank behind it there is no key */
    }
    return MC_ERROR_FORMAT;
}

/* True for a request line of HTTP: a browser that was tricked into posting commands must not get
 * as far as its body. A key may look like it. */
static bool is_http(const struct words *words, const struct mc_request *request)
{
    bool is_key = request->key.ptr != NULL && words->last.ptr == request->key.ptr;

    return words->count > 1 && !is_key && slice_starts(words->last, slice_of("HTTP/", 5));
}

/* A whole line, without its end. */
static enum mc_status parse_line(struct slice line, struct mc_request *out)
{
    struct words words;

    *out = (struct mc_request){.info = &unknown_command};
    words_split(line, &words);
    if (words.count == 0) {
        out->error = MC_ERROR_UNKNOWN;
        return MC_DONE;
    }
    out->info = find_command(words.at[0]);
    out->noreply = words.count > 1 && slice_is(words.last, "noreply");
    out->args = slice_after(line, (size_t)(words.at[0].ptr + words.at[0].len - line.ptr));
    if (words.count > 1 && out->info->form != MC_FORM_WORDS && out->info->form != MC_FORM_DELAY &&
        out->info->form != MC_FORM_LEVEL)
        out->key = words.at[1];
    if (is_http(&words, out))
        return MC_BAD;
    out->error = read_arguments(&words, out);
    return MC_DONE;
}

/* The exptime of gat and gats at *at, behind the blanks. Like a whole line, the part that is read
 * here is bounded. */
static enum mc_status parse_gat_exptime(struct slice in, size_t *at, struct mc_request *out)
{
    size_t start = *at;
    size_t end;

    while (start < in.len && is_blank(in.ptr[start]))
        start++;
    for (end = start; end < in.len && !is_blank(in.ptr[end]) && in.ptr[end] != '\n';)
        end++;
    if (end >= MC_LINE_MAX)
        return MC_BAD;
    if (end == in.len)
        return MC_MORE;
    if (in.ptr[end] == '\n') { /* no key can follow: mc_parse_key() finds the end at once */
        *at = end > start && in.ptr[end - 1] == '\r' ? end - 1 : end;
        return MC_DONE;
    }
    if (!parse_i64(slice_of(in.ptr + start, end - start), &out->exptime))
        out->error = MC_ERROR_EXPTIME;
    *at = end;
    return MC_DONE;
}

/* get, gets, gat, gats with a blank behind: the request ends where its keys begin. */
static enum mc_status parse_keys_line(struct slice in, size_t name_end,
                                      const struct mc_command_info *info, struct mc_request *out,
                                      size_t *used)
{
    enum mc_status status = MC_DONE;
    size_t at = name_end + 1;

    *out = (struct mc_request){.info = info, .has_keys = true};
    if (info->form == MC_FORM_EXPTIME_KEYS)
        status = parse_gat_exptime(in, &at, out);
    if (status == MC_DONE)
        *used = at;
    return status;
}

/* The row of a command that lists keys, if one stands at `start` with a blank behind it. */
static const struct mc_command_info *find_keys_command(struct slice in, size_t start,
                                                       size_t *name_end)
{
    size_t end = start;

    while (end < in.len && end - start < 5 && !is_blank(in.ptr[end]))
        end++;
    if (end == start || end == in.len || !is_blank(in.ptr[end]))
        return NULL;
    const struct mc_command_info *info = find_command(slice_of(in.ptr + start, end - start));

    *name_end = end;
    return info->form == MC_FORM_KEYS || info->form == MC_FORM_EXPTIME_KEYS ? info : NULL;
}

enum mc_status mc_parse_request(struct slice in, struct mc_request *out, size_t *used)
{
    const struct mc_command_info *info;
    size_t start = 0;
    size_t name_end;
    const char *end;
    size_t len;

    while (start < in.len && start < MC_LINE_MAX && is_blank(in.ptr[start]))
        start++;
    if (start < MC_LINE_MAX) {
        info = find_keys_command(in, start, &name_end);
        if (info != NULL)
            return parse_keys_line(in, name_end, info, out, used);
    }
    if (in.len == 0)
        return MC_MORE;
    end = memchr(in.ptr, '\n', in.len < MC_LINE_MAX ? in.len : MC_LINE_MAX);
    if (end == NULL)
        return in.len < MC_LINE_MAX ? MC_MORE : MC_BAD;
    len = (size_t)(end - in.ptr);
    *used = len + 1;
    if (*used < LINE_MIN) {
        *out = (struct mc_request){.info = &unknown_command, .error = MC_ERROR_FORMAT};
        return MC_DONE;
    }
    if (in.ptr[len - 1] == '\r')
        len--;
    return parse_line(slice_of(in.ptr, len), out);
}

/* Bytes of the line's end at `in`, 0 when it is not there (or not wholly). */
static size_t line_end(struct slice in)
{
    if (in.len > 0 && in.ptr[0] == '\n')
        return 1;
    return in.len > 1 && in.ptr[0] == '\r' && in.ptr[1] == '\n' ? 2 : 0;
}

enum mc_key_status mc_parse_key(struct slice in, struct slice *key, bool *last, size_t *used)
{
    size_t start = 0;
    size_t end;
    size_t limit;

    while (start < in.len && is_blank(in.ptr[start]))
        start++;
    /* One byte more than the key may have, for the \r that turns out to end the line. */
    limit = in.len - start > MC_KEY_MAX + 1 ? start + MC_KEY_MAX + 2 : in.len;
    for (end = start; end < limit && !is_blank(in.ptr[end]) && in.ptr[end] != '\n';)
        end++;
    *used = start;
    if (end == limit)
        return end - start > MC_KEY_MAX + 1 ? MC_KEY_LONG : MC_KEY_MORE;
    if (in.ptr[end] == '\n' && end > start && in.ptr[end - 1] == '\r')
        end--;
    size_t tail = line_end(slice_after(in, end));

    if (end == start) {
        *used = end + tail;
        return MC_KEY_END;
    }
    if (end - start > MC_KEY_MAX)
        return MC_KEY_LONG;
    *key = slice_of(in.ptr + start, end - start);
    *last = tail > 0;
    *used = end + tail;
    return MC_KEY;
}

size_t mc_skip_key(struct slice in)
{
    size_t n = 0;

    while (n < in.len && !is_blank(in.ptr[n]) && in.ptr[n] != '\n')
        n++;
    return n;
}

static size_t put_slice(char *out, struct slice s)
{
    if (s.len > 0)
        memcpy(out, s.ptr, s.len);
    return s.len;
}

size_t mc_format_value(char *out, struct slice key, uint32_t flags, uint64_t bytes,
                       const uint64_t *cas)
{
    size_t n = put_slice(out, slice_of("VALUE ", 6));

    n += put_slice(out + n, key);
    out[n++] = ' ';
    n += format_u64(out + n, flags);
    out[n++] = ' ';
    n += format_u64(out + n, bytes);
    if (cas != NULL) {
        out[n++] = ' ';
        n += format_u64(out + n, *cas);
    }
    return n + put_slice(out + n, slice_of("\r\n", 2));
}

size_t mc_format_number(char *out, uint64_t number)
{
    size_t n = format_u64(out, number);

    return n + put_slice(out + n, slice_of("\r\n", 2));
}
