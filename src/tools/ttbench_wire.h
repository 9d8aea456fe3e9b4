/*
 * ttbench_wire.h - the protocols that ttbench speaks, as a client.
 *
 * Provides: struct wire (one protocol): makes the bytes around a value, and reads the head of
 *           a reply.
 * Used by:  ttbench_conn.
 * Threads:  pure.
 *
 * Replies are checked to the byte where the protocol fixes the bytes (memcached, RESP). Of HTTP's
 * head the status, the length and the connection's fate are read; the rest of it is the server's
 * choice.
 */
#ifndef TOOLS_TTBENCH_WIRE_H
#define TOOLS_TTBENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "tools/ttbench_keys.h"

enum {
    WIRE_HEAD_BYTES_MAX = KEY_BYTES_MAX + 600, /* of a request */
    WIRE_HOST_BYTES_MAX = 270,
    WIRE_REPLY_HEAD_MAX = 8192,
};

struct wire_request {
    struct slice key;
    struct slice host;  /* for HTTP */
    bool writes;        /* store a value, else fetch one */
    uint32_t flags;     /* memcached: stored, and expected back */
    uint64_t value_len; /* of what is stored */
};

enum wire_kind {
    WIRE_STORED,
    WIRE_VALUE, /* body_len bytes of value and then the tail follow */
    WIRE_MISS,
    WIRE_REFUSED, /* an error that leaves the stream usable */
};

struct wire_reply {
    enum wire_kind kind;
    uint64_t body_len; /* WIRE_VALUE: the value; else bytes to be skipped */
    struct slice tail; /* what must follow the body, to the byte */
    bool closes;       /* the server closes the connection after this reply */
};

enum wire_status {
    WIRE_DONE, /* *used bytes were the head; *out is filled */
    WIRE_MORE,
    WIRE_BAD, /* not a reply to this request: the stream cannot be trusted */
};

struct wire {
    const char *name;        /* as on the command line */
    const char *label;       /* for people */
    struct slice value_tail; /* goes out behind a stored value */
    /* Writes what goes before the value to out (WIRE_HEAD_BYTES_MAX); returns its length. */
    size_t (*head)(char *out, const struct wire_request *request);
    /* Reads the head of the reply to `request` from the beginning of `in`. */
    enum wire_status (*reply)(struct slice in, const struct wire_request *request,
                              struct wire_reply *out, size_t *used);
};

/* NULL if there is no such protocol. */
const struct wire *wire_find(struct slice name);

#endif
