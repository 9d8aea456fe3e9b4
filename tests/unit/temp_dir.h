/*
 * temp_dir.h - a directory of its own for a test, below TMPDIR.
 *
 * Provides: temp_dir_make() temp_dir_remove().
 * Used by:  tests that touch files.
 * Threads:  one.
 */
#ifndef TESTS_TEMP_DIR_H
#define TESTS_TEMP_DIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEMP_DIR_MAX = 4096 };

/* Writes the new directory's path to out. Never fails (ends the test). */
static inline void temp_dir_make(char out[TEMP_DIR_MAX])
{
    const char *base = getenv("TMPDIR");

    snprintf(out, TEMP_DIR_MAX, "%s/ttserver-test-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(out) == NULL) {
        perror(out);
        abort();
    }
}

static inline int temp_dir_remove_one(const char *path, const struct stat *st, int type,
                                      struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

/* Removes the directory and all in it. */
static inline void temp_dir_remove(const char *path)
{
    if (nftw(path, temp_dir_remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        perror(path);
}

#endif
