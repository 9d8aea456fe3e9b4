/*
 * ttctl_doctor.c - `ttctl doctor`: does this machine suit a server, and this directory its data?
 *
 * Used by:  the table of commands.
 * Threads:  one.
 *
 * A line a question: "ok", "warn" (it works, but) or "bad" (it will not work, or data can be lost).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timex.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/num.h"
#include "tools/ttctl_commands.h"

const char doctor_more[] =
    "Looks at what a server depends on: the limit of open files, the kernel, the\n"
    "clock; with DIR (a data directory, or where one shall be) also at its file\n"
    "system, the free space, and how fast syncs are. The sync rate is measured for\n"
    "about a second with a temporary file in DIR.\n\n"
    "Each line begins with ok, warn or bad. The exit status is 1 if one is bad.\n";

enum verdict { OK, WARN, BAD };

struct doctor {
    bool bad;
};

static void say(struct doctor *d, enum verdict verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void say(struct doctor *d, enum verdict verdict, const char *format, ...)
{
    static const char *const words[] = {[OK] = "ok", [WARN] = "warn", [BAD] = "bad"};
    va_list args;

    d->bad = d->bad || verdict == BAD;
    printf("%s: ", words[verdict]);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

/* ---- the machine ---- */

#define FILES_WANTED 65536u
#define FILES_NEEDED 1024u

static void look_at_file_limit(struct doctor *d)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        say(d, WARN, "the limit of open files is not known: %s", strerror(errno));
        return;
    }
    /* The server raises its soft limit to the hard one. */
    if (limit.rlim_max < FILES_NEEDED)
        say(d, BAD, "at most %" PRIu64 " open files: raise the limit to %u (LimitNOFILE=)",
            (uint64_t)limit.rlim_max, FILES_WANTED);
    else if (limit.rlim_max < FILES_WANTED)
        say(d, WARN,
            "at most %" PRIu64 " open files, one a connection: for many clients raise the limit "
            "to %u (LimitNOFILE=)",
            (uint64_t)limit.rlim_max, FILES_WANTED);
    else
        say(d, OK, "open files: at most %" PRIu64, (uint64_t)limit.rlim_max);
}

static void look_at_clock(struct doctor *d)
{
    struct timex t = {0};
    int state = adjtimex(&t);

    if (state == -1)
        say(d, WARN, "whether the clock is synchronised is not known: %s", strerror(errno));
    else if (state == TIME_ERROR || (t.status & STA_UNSYNC) != 0)
        say(d, WARN,
            "the clock is not synchronised: expiry goes by it, and so do servers that replicate "
            "(run chrony or systemd-timesyncd)");
    else
        say(d, OK, "the clock is synchronised, to within %ld ms", t.maxerror / 1000);
}

/* Calls with arguments that are wrong on purpose: the error tells whether the kernel knows them. */
static void look_at_kernel(struct doctor *d)
{
    long rc = syscall(SYS_io_uring_setup, 0, NULL);

    if (rc == -1 && (errno == ENOSYS || errno == EPERM))
        say(d, WARN,
            "io_uring is not allowed here (%s): cold reads take threads instead, a little slower",
            strerror(errno));
    else
        say(d, OK, "io_uring can be used");
#ifdef SYS_cachestat
    rc = syscall(SYS_cachestat, -1, NULL, NULL, 0);
#else
    rc = syscall(451, -1, NULL, NULL, 0);
#endif
    if (rc == -1 && errno == ENOSYS)
        say(d, OK, "the kernel has no cachestat (before 6.5): mincore is asked instead");
    else
        say(d, OK, "cachestat can be used");
}

/* ---- the directory ---- */

static const struct {
    unsigned long magic;
    const char *name;
    enum verdict verdict;
    const char *remark;
} file_systems[] = {
    {EXT4_SUPER_MAGIC, "ext4 (or ext2, ext3)", OK, NULL},
    {XFS_SUPER_MAGIC, "xfs", OK, NULL},
    {F2FS_SUPER_MAGIC, "f2fs", OK, NULL},
    {0x2fc12fc1, "zfs", OK, NULL},
    {BTRFS_SUPER_MAGIC, "btrfs", WARN, "copies on every write: set chattr +C on the directory"},
    {TMPFS_MAGIC, "tmpfs", WARN, "memory: all is lost with the machine's end"},
    {RAMFS_MAGIC, "ramfs", WARN, "memory: all is lost with the machine's end"},
    {OVERLAYFS_SUPER_MAGIC, "overlay", WARN,
     "a container's own layer: it goes with the container; mount a volume"},
    {NFS_SUPER_MAGIC, "NFS", BAD,
     "locks and syncs of a network file system are not to be relied on"},
    {SMB_SUPER_MAGIC, "SMB", BAD,
     "locks and syncs of a network file system are not to be relied on"},
    {0xff534d42, "CIFS", BAD, "locks and syncs of a network file system are not to be relied on"},
    {0xfe534d42, "SMB2", BAD, "locks and syncs of a network file system are not to be relied on"},
    {CEPH_SUPER_MAGIC, "ceph", WARN, "a network file system: every sync is a round trip"},
    {V9FS_MAGIC, "9p", BAD, "memory maps of it are not to be relied on"},
    {FUSE_SUPER_MAGIC, "fuse", WARN, "what a sync means depends on the program behind it"},
    {MSDOS_SUPER_MAGIC, "vfat", BAD, "it has no journal and no hard links"},
};

static void look_at_type(struct doctor *d, const char *dir)
{
    struct statfs fs;

    if (statfs(dir, &fs) != 0) {
        say(d, BAD, "the file system of %s is not known: %s", dir, strerror(errno));
        return;
    }
    for (size_t i = 0; i < sizeof(file_systems) / sizeof(file_systems[0]); i++) {
        if ((unsigned long)fs.f_type != file_systems[i].magic)
            continue;
        say(d, file_systems[i].verdict, "file system: %s%s%s", file_systems[i].name,
            file_systems[i].remark != NULL ? ": " : "",
            file_systems[i].remark != NULL ? file_systems[i].remark : "");
        return;
    }
    say(d, WARN, "file system: not known to us (type %#lx)", (unsigned long)fs.f_type);
}

/* The device of a line "36 35 98:0 ..." of mountinfo. False: there is none. */
static bool device_of_line(const char *line, dev_t *out)
{
    const char *at = strchr(line, ' ');
    uint32_t major;
    uint32_t minor;
    size_t len;

    at = at == NULL ? NULL : strchr(at + 1, ' ');
    if (at == NULL)
        return false;
    at++;
    len = strcspn(at, ":");
    if (at[len] != ':' || !parse_u32(slice_of(at, len), &major) ||
        !parse_u32(slice_of(at + len + 1, strcspn(at + len + 1, " ")), &minor))
        return false;
    *out = makedev(major, minor);
    return true;
}

/* What /proc/self/mountinfo says of the device: the last mount counts. False: nothing. */
static bool find_mount_options(dev_t device, char *options, size_t room)
{
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    bool found = false;
    dev_t of_line;

    while (mounts != NULL && fgets(line, sizeof(line), mounts) != NULL) {
        if (!device_of_line(line, &of_line) || of_line != device)
            continue;
        snprintf(options, room, "%s", line);
        found = true;
    }
    if (mounts != NULL)
        fclose(mounts);
    return found;
}

static void look_at_mount(struct doctor *d, const struct stat *st)
{
    char options[4096];

    if (!find_mount_options(st->st_dev, options, sizeof(options)))
        return;
    if (strstr(options, "nobarrier") != NULL || strstr(options, "barrier=0") != NULL)
        say(d, BAD, "mounted with barriers off: a sync does not wait for the disk's own cache");
    else if (strstr(options, "data=writeback") != NULL)
        say(d, WARN, "mounted with data=writeback: new files can hold old bytes after a crash");
    else
        say(d, OK, "mount options: nothing against them");
}

#define RESERVE_SEGMENTS_BYTES (128u * 1024 * 1024)

static void look_at_space(struct doctor *d, const char *dir, int fd)
{
    uint64_t available;
    uint64_t total;
    int rc = io_space(fd, &available, &total);
    uint64_t reserve = total / 100 > RESERVE_SEGMENTS_BYTES ? total / 100 : RESERVE_SEGMENTS_BYTES;
    enum verdict verdict;

    if (rc != 0) {
        say(d, BAD, "the free space of %s is not known: %s", dir, strerror(-rc));
        return;
    }
    verdict = available < reserve ? BAD : available < total / 10 ? WARN : OK;
    say(d, verdict, "free space: %" PRIu64 " MiB of %" PRIu64 " MiB%s", available >> 20,
        total >> 20,
        verdict == BAD    ? ", below the reserve: writes are refused"
        : verdict == WARN ? ", less than a tenth"
                          : "");
}

/* Syncs of 4 KiB at the end of a file that does not grow, as the log's. */
static void measure_syncs(struct doctor *d, const char *dir)
{
    enum { BLOCK = 4096, BLOCKS = 1024, LIMIT_US = 1000000 };
    static char block[BLOCK];
    char path[PATH_MAX];
    int64_t start_us;
    int64_t spent_us = 0;
    unsigned count = 0;
    int fd;
    int rc;

    if (snprintf(path, sizeof(path), "%s/.ttctl-doctor-XXXXXX", dir) >= (int)sizeof(path) ||
        (fd = mkostemp(path, O_CLOEXEC)) == -1) {
        say(d, BAD, "cannot make a file in %s: %s", dir, strerror(errno));
        return;
    }
    (void)unlink(path);
    for (rc = 0; rc == 0 && count < BLOCKS; count++)
        rc = io_write_full(fd, block, BLOCK, (off_t)count * BLOCK);
    if (rc == 0)
        rc = io_fdatasync(fd);
    start_us = clock_mono_us();
    memset(block, 1, sizeof(block));
    for (count = 0; rc == 0 && spent_us < LIMIT_US; count++) {
        rc = io_write_full(fd, block, BLOCK, (off_t)(count % BLOCKS) * BLOCK);
        if (rc == 0)
            rc = io_fdatasync(fd);
        spent_us = clock_mono_us() - start_us;
    }
    close(fd);
    if (rc != 0)
        say(d, BAD, "cannot write and sync in %s: %s", dir, strerror(-rc));
    else
        say(d, count < 100 ? WARN : OK, "syncs: %.0f a second, %.2f ms each%s",
            (double)count * 1e6 / (double)spent_us, (double)spent_us / 1000.0 / count,
            count < 100 ? ": with --sync always each batch of writes waits for one" : "");
}

static void look_at_dir(struct doctor *d, const char *dir)
{
    int fd = io_open(dir, O_RDONLY | O_DIRECTORY, 0);
    struct stat st;

    if (fd < 0) {
        say(d, BAD, "cannot open %s: %s", dir, strerror(-fd));
        return;
    }
    look_at_type(d, dir);
    if (fstat(fd, &st) == 0)
        look_at_mount(d, &st);
    look_at_space(d, dir, fd);
    measure_syncs(d, dir);
    close(fd);
}

int run_doctor(struct ctl *ctl, int argc, char *const argv[])
{
    struct doctor d = {0};
    const char *dir = NULL;
    int status = command_arguments("doctor", argc, argv, NULL, 0, &dir, 0, 1);

    (void)ctl;
    if (status != 0)
        return status;
    look_at_file_limit(&d);
    look_at_kernel(&d);
    look_at_clock(&d);
    if (dir != NULL)
        look_at_dir(&d, dir);
    if (command_finish_output() != CTL_OK)
        return CTL_FAILED;
    return d.bad ? CTL_FAILED : CTL_OK;
}
