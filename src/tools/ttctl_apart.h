/*
 * ttctl_apart.h - looks at a directory's index in a process of its own: LMDB believes its pages, and
 *                 where they make no sense it may end the process that reads them.
 *
 * Used by:  verify, repair, dump, before they read an index themselves or instead of it.
 * Threads:  one.
 */
#ifndef TOOLS_TTCTL_APART_H
#define TOOLS_TTCTL_APART_H

#include "store/logstore/index_check.h"
#include "store/logstore/walk.h"

struct index_probe {
    uint64_t seq; /* the last record that the index knows; 0: it is empty */
    /* of a whole look: */
    struct index_counts counts;
    uint64_t problems;
    char why[128]; /* why it cannot be used */
};

/* Looks at the index of the walk's directory; whole: all of it, against itself, with a line on the
 * standard output for each problem if `tell`. 0; -ENOENT: there is none; -EUCLEAN: it cannot be
 * used, out->why says why; -errno. */
int index_probe_apart(const struct walk *w, bool whole, bool tell, struct index_probe *out);

#endif
