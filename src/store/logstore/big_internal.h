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

#endif
