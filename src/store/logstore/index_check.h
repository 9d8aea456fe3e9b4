/*
 * index_check.h - does the index agree with itself?
 *
 * Provides: index_check().
 * Used by:  ttctl verify; tests.
 * Threads:  one, on an index that nobody writes meanwhile.
 */
#ifndef LOGSTORE_INDEX_CHECK_H
#define LOGSTORE_INDEX_CHECK_H

#include <stdint.h>

#include "store/logstore/index.h"

struct index_counts {
    uint64_t rows;
    uint64_t live;    /* neither tombstones nor dead by the flush of the position */
    uint64_t touches; /* rows that name a touch record */
    uint64_t expiring;
    uint64_t big_files;
    uint64_t big_bytes;
};

/* Counts the rows, and compares the count of live records and the tables `segments`, `expiry` and
 * `big` with them. Each difference goes to found() in words. 0; -EUCLEAN when the index cannot be
 * read; -errno. */
int index_check(struct index *index, struct index_counts *out,
                void (*found)(const char *text, void *arg), void *arg);

#endif
