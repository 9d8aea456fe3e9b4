/*
 * mc_text.h - memcached's text protocol: request lines to structs, structs to reply lines.
 *
 * Provides: mc_parse_request(), mc_parse_key(), the table of commands, error lines, the VALUE line.
 * Used by:  session/mc_session.c; the fuzz target. Meta commands and the binary protocol get files
 *           of their own.
 * Threads:  pure; nothing is allocated and nothing is kept between calls.
 *
 * Lines that list keys (get, gets, gat, gats) have no bound in memcached. They are not parsed as a
 * whole: the request ends behind its verb (and exptime), and mc_parse_key() then takes key by key,
 * so that a line of any length is answered with flat memory. All other lines end within
 * MC_LINE_MAX bytes.
 */
#ifndef PROTO_MC_TEXT_H
#define PROTO_MC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/num.h"
#include "base/slice.h"

/* Bytes of a line with its end, but for lines of keys. As memcached. */
#define MC_LINE_MAX 2048
/* Bytes of a key. As memcached. */
#define MC_KEY_MAX 250
/* Largest <bytes> of a storage command: 2^31-1 less the line end. As memcached. */
#define MC_BODY_MAX 2147483645u

enum mc_command {
    MC_UNKNOWN,
    MC_GET,
    MC_GETS,
    MC_SET,
    MC_ADD,
    MC_REPLACE,
    MC_APPEND,
    MC_PREPEND,
    MC_CAS,
    MC_DELETE,
    MC_INCR,
    MC_DECR,
    MC_TOUCH,
    MC_GAT,
    MC_GATS,
    MC_FLUSH_ALL,
    MC_VERSION,
    MC_VERBOSITY,
    MC_STATS,
    MC_READY,
    MC_QUIT,
};

/* How the words behind a command's name are read. */
enum mc_form {
    MC_FORM_KEYS,         /* <key>+, by mc_parse_key() */
    MC_FORM_EXPTIME_KEYS, /* <exptime> <key>+, the keys by mc_parse_key() */
    MC_FORM_STORE,        /* <key> <flags> <exptime> <bytes> [<cas>] [noreply] and a body */
    MC_FORM_KEY,          /* <key> [<anything>] [noreply] */
    MC_FORM_KEY_DELTA,    /* <key> <u64> [noreply] */
    MC_FORM_KEY_EXPTIME,  /* <key> <exptime> [noreply] */
    MC_FORM_DELAY,        /* [<delay>] [noreply] */
    MC_FORM_LEVEL,        /* <u32> [noreply] */
    MC_FORM_WORDS,        /* anything */
};

enum mc_flag {
    MC_SHOWS_CAS = 1, /* the VALUE line carries the cas */
    MC_TOUCHES = 2,   /* keys get a new expiry */
    MC_TAKES_CAS = 4, /* a fifth number: the cas to compare */
    MC_WRITES = 8,    /* ends in one write to the store, answered when that is done */
    MC_ALONE = 16,    /* no words may follow */
};

struct mc_command_info {
    const char *name;
    enum mc_command command;
    enum mc_form form;
    unsigned flags; /* enum mc_flag */
};

/* Everything that can be answered instead of a result; the parser gives the first few. */
enum mc_error {
    MC_NO_ERROR,
    MC_ERROR_UNKNOWN,
    MC_ERROR_FORMAT,
    MC_ERROR_EXPTIME,
    MC_ERROR_DELTA,
    MC_ERROR_BAD_CHUNK,
    MC_ERROR_NOT_NUMERIC,
    MC_ERROR_STATS_DETAIL,
    MC_ERROR_TOO_LARGE,
    MC_ERROR_NO_MEMORY,
    MC_ERROR_NO_MEMORY_GET,
    MC_ERROR_NO_SPACE,
    MC_ERROR_READ_ONLY,
    MC_ERROR_DAMAGED,
    MC_ERROR_IO,
    MC_ERROR_BUSY,
    MC_ERROR_COUNT,
};

/* The reply line, with its line end. */
struct slice mc_error_line(enum mc_error error);

/* One request. The slices point into the input. */
struct mc_request {
    const struct mc_command_info *info; /* never NULL: what is not known has a row too */
    enum mc_error error; /* answer this; a body is to be swallowed, keys are to be skipped */
    bool noreply;        /* say nothing, not even `error` */
    bool has_body;       /* body_bytes bytes and a line end follow, also when there is an error */
    bool has_keys;       /* mc_parse_key() goes on with the line, also when there is an error */
    uint32_t body_bytes;
    uint32_t flags;
    int64_t exptime; /* as sent; of flush_all the delay, 0 when there was none */
    uint64_t number; /* the cas of `cas`, the delta of incr and decr, the level of verbosity */
    struct slice key;
    struct slice args; /* what stands behind the name; see mc_next_word() */
};

enum mc_status {
    MC_DONE, /* *used bytes belong to it */
    MC_MORE, /* call again with more bytes */
    MC_BAD,  /* what comes cannot be trusted: close without a word */
};

/*
 * Reads one request at the start of `in`. MC_BAD: a line without end, or one that a browser was
 * tricked into sending (its last word, not being the key, starts with HTTP/). *out and *used mean
 * something with MC_DONE only.
 */
enum mc_status mc_parse_request(struct slice in, struct mc_request *out, size_t *used);

enum mc_key_status {
    MC_KEY,      /* *key is the next one; *last: the line's end behind it is used up too */
    MC_KEY_LONG, /* a key of more than MC_KEY_MAX bytes begins: skip it with mc_skip_key() */
    MC_KEY_END,  /* the line's end, without another key */
    MC_KEY_MORE, /* call again with more bytes */
};

/* Reads the next key of a line of keys. *used is set in every case: those bytes are done with. */
enum mc_key_status mc_parse_key(struct slice in, struct slice *key, bool *last, size_t *used);

/* How many bytes of `in` belong to the key that is being skipped; in.len: its end is not there. */
size_t mc_skip_key(struct slice in);

/* Walks the words of `args`: the next one from *rest; false at the end. */
bool mc_next_word(struct slice *rest, struct slice *word);

/* Room for one VALUE line with the longest key. */
#define MC_VALUE_LINE_MAX (6 + MC_KEY_MAX + 3 * (1 + NUM_TEXT_MAX) + 2)

/* "VALUE <key> <flags> <bytes>[ <cas>]\r\n" to out (room for MC_VALUE_LINE_MAX, key up to
 * MC_KEY_MAX bytes); cas NULL: without. Returns the length. */
size_t mc_format_value(char *out, struct slice key, uint32_t flags, uint64_t bytes,
                       const uint64_t *cas);

/* "<number>\r\n" to out (room for NUM_TEXT_MAX + 2). Returns the length. */
size_t mc_format_number(char *out, uint64_t number);

#endif
