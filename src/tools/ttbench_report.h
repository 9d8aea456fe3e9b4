/*
 * ttbench_report.h - what ttbench prints at the end.
 *
 * Used by:  ttbench (main).
 * Threads:  main only.
 */
#ifndef TOOLS_TTBENCH_REPORT_H
#define TOOLS_TTBENCH_REPORT_H

#include <stdbool.h>

#include "tools/ttbench_load.h"

/* Text for people, or with --json one object in one line, to stdout. */
void report_print(const struct bench_options *opts, const struct load_result *result);

/* No errors, no mismatches, and no misses unless they are allowed. */
bool report_is_good(const struct bench_options *opts, const struct load_result *result);

#endif
