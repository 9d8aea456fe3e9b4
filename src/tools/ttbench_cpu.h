/*
 * ttbench_cpu.h - processor time of the server's processes and of ttbench itself.
 *
 * Provides: cpu_of_processes(), cpu_of_self().
 * Used by:  ttbench (main), before and after the measurement.
 * Threads:  any.
 */
#ifndef TOOLS_TTBENCH_CPU_H
#define TOOLS_TTBENCH_CPU_H

#include <stdint.h>
#include <sys/types.h>

/* Nanoseconds that all threads of the processes, also ended ones, have used; to the scheduler's
 * precision. 0; -ESRCH if one of them does not exist. */
int cpu_of_processes(const pid_t *pids, unsigned count, uint64_t *out_ns);

uint64_t cpu_of_self(void);

#endif
