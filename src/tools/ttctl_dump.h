/*
 * ttctl_dump.h - the two halves of `ttctl dump`.
 *
 * Used by:  ttctl_dump.c (servers, the command), ttctl_dump_dir.c (data directories).
 * Threads:  one.
 */
#ifndef TOOLS_TTCTL_DUMP_H
#define TOOLS_TTCTL_DUMP_H

#include "tools/ttctl_line.h"

/* Writes the records of a stopped server's directory to the standard output, in the index's order.
 * CTL_OK or CTL_FAILED (said). */
int dump_directory(const char *dir, struct slice prefix);

#endif
