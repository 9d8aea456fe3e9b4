/*
 * index_format.h - the bytes in the index file that are not rows: the meta record, and LMDB's own
 * header.
 *
 * Used by:  index.c and its tests only.
 * Threads:  pure; index_file_check() reads a file.
 */
#ifndef LOGSTORE_INDEX_FORMAT_H
#define LOGSTORE_INDEX_FORMAT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/slice.h"
#include "store/logstore/index.h"

/* What this program writes and reads. Another number: the index is rebuilt from the log. */
#define INDEX_FORMAT 4u

/* Bytes of the encoded meta. */
size_t index_meta_size(const struct index_meta *meta);

/* Writes index_meta_size() bytes. */
void index_meta_encode(const struct index_meta *meta, unsigned char *out);

/* False if the bytes are no meta record or their checksum is wrong. vectors points into `room`
 * (INDEX_VECTORS_MAX bytes). */
bool index_meta_decode(struct slice in, struct index_meta *out, char *room);

/* Looks at LMDB's header pages before LMDB does, because it trusts them: a page size of zero makes
 * it divide by zero, and a file that was cut ends in SIGBUS, not in an error. A missing or empty
 * file is good (LMDB makes a new one). 0; -EUCLEAN with *why saying what is wrong; -errno. */
int index_file_check(const char *path, const char **why);

#endif
