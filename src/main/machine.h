/*
 * machine.h - what this machine allows: cores, memory, descriptors.
 *
 * Used by:  main, for the defaults that --help cannot know.
 * Threads:  the main thread, before others start.
 */
#ifndef MAIN_MACHINE_H
#define MAIN_MACHINE_H

#include <stdint.h>

/* Cores that this process may run on, at least 1. */
unsigned machine_cores(void);

/* Bytes of memory: the machine's, or what the control group allows if that is less. */
uint64_t machine_memory(void);

/* Raises the soft limit of open files to the hard one. Returns the limit now in force. */
uint64_t machine_raise_descriptors(void);

/* How many connections a descriptor limit allows: 500 are kept for the store's files, or half of a
 * small limit. */
uint64_t machine_max_conns(uint64_t descriptors);

#endif
