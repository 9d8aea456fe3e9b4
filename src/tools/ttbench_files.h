/*
 * ttbench_files.h - the values of --fill as files, for a server of static files.
 *
 * Used by:  ttbench (main), for --fill-dir.
 * Threads:  main only.
 */
#ifndef TOOLS_TTBENCH_FILES_H
#define TOOLS_TTBENCH_FILES_H

#include "tools/ttbench_options.h"

/* One file a key, named like the key, in opts->fill_dir. 0 or -errno (a message was printed). */
int files_write(const struct bench_options *opts);

#endif
