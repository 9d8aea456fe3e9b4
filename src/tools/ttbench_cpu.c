/*
 * ttbench_cpu.c - processor time of processes (ttbench_cpu.h).
 *
 * The CPU clock of a process counts nanoseconds; utime and stime in /proc/PID/stat count ticks of
 * 10 ms and are guesses of the split at that.
 */
#include "tools/ttbench_cpu.h"

#include <errno.h>
#include <time.h>

static int cpu_read(clockid_t clock, uint64_t *out_ns)
{
    struct timespec t;

    if (clock_gettime(clock, &t) != 0)
        return -ESRCH;
    *out_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    return 0;
}

int cpu_of_processes(const pid_t *pids, unsigned count, uint64_t *out_ns)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++) {
        clockid_t clock;
        uint64_t ns;

        if (clock_getcpuclockid(pids[i], &clock) != 0 || cpu_read(clock, &ns) != 0)
            return -ESRCH;
        sum += ns;
    }
    *out_ns = sum;
    return 0;
}

uint64_t cpu_of_self(void)
{
    uint64_t ns = 0;

    (void)cpu_read(CLOCK_PROCESS_CPUTIME_ID, &ns);
    return ns;
}
