/*
 * big_internal.h - what the files of big values share: names, the front of a file.
 *
 * Used by:  big_*.c only.
 * Threads:  any.
 */
#ifndef LOGSTORE_BIG_INTERNAL_H
#define LOGSTORE_BIG_INTERNAL_H

#include "store/logstore/logstore.h"

/* Path of a file with its name, and in the making; malloc'd, NULL when memory is short. */
char *big_final_path(const struct logstore *ls, uint64_t number);
char *big_spool_path(const struct logstore *ls, uint64_t number);

/* Removes the file (if `path` is not NULL) and frees the path. */
void big_remove_path(char *path);

/* Bytes before the value. */
uint64_t big_front_length(size_t key_len, size_t attrs_len);

/* Segment header, record head, key and attributes, up to the value; malloc'd to *out. Returns the
 * length, 0 without memory. */
size_t big_front_encode(const struct logstore *ls, uint64_t number, struct slice key,
                        struct slice attrs, uint64_t value_len, uint64_t body_sum, char **out);

/* Reads the front of a file to `room` and takes it apart; *r and *layout as by
 * record_decode_head(), *start: where the record begins. The bytes read, -EUCLEAN or -errno. */
ssize_t big_front_read(const struct logstore *ls, int fd, char *room, size_t room_bytes,
                       struct segment_header *h, struct record *r, struct record_layout *layout,
                       size_t *start);

/* This process has written the file, and a record names it (or is about to). */
void big_set_named(struct logstore *ls, uint64_t number, uint64_t bytes);

/* The file's name is about to go, or has gone: no reader finds it open any more. */
void big_will_go(struct logstore *ls, uint64_t number);
void big_has_gone(struct logstore *ls, uint64_t number, uint64_t bytes);

/* At the end: what waits to be removed is forgotten, and found again at the next start. */
void big_forget_gone(struct logstore *ls);

/* ---- big_draft.c: files in the making ---- */

struct big_draft {
    struct logstore *ls;
    struct big_draft *next; /* big.drafts */
    struct big_draft **at;
    void (*release)(struct big_draft *d); /* frees what it is a part of; set by the owner */
    uint64_t number;
    int fd;        /* -1: the file has not been made yet */
    bool named;    /* it has left tmp/ */
    bool complete; /* it does not grow any more; under the mutex */
    uint64_t value_offset;
    uint64_t written;        /* bytes of the value */
    uint64_t charged;        /* counted against the bound */
    struct hash_stream *sum; /* of key, attributes and value */
    struct aio_op drop;
};

/* Begins a draft of a value of `announced` bytes (0: not known). `d` is zero. Never waits. 0;
 * -ENOMEM: too many are under way, they hold too much, or no memory; -ENOSPC. After a failure there
 * is nothing to end. */
int big_draft_begin(struct big_draft *d, struct logstore *ls, struct slice key, struct slice attrs,
                    uint64_t announced);

/* So many bytes are about to be added. Never waits. 0, or -ENOMEM and -ENOSPC as above. */
int big_draft_charge(struct big_draft *d, uint64_t bytes);

/* Appends to the file, which is made first if there is none. 0 or -errno, logged now and then. */
int big_draft_write(struct big_draft *d, const void *bytes, size_t len);

/* The value is complete: others that have to wait for older ones need not wait for this one. */
void big_draft_complete(struct big_draft *d);

/* Writes the front, syncs and names the file. 0 or -errno, logged now and then. */
int big_draft_settle(struct big_draft *d, struct slice key, struct slice attrs);

/* The file's fields for the record. */
void big_draft_describe(const struct big_draft *d, struct record *r);

/* The end of the draft: a record names the file, or it is removed (in the background). release() is
 * called sooner or later, on any thread, under big.mutex: it only frees. */
void big_draft_end(struct big_draft *d, bool keep);

#endif
