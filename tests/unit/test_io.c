/*
 * test_io.c - whole reads and writes, and atomic replacement, with calls that fail (base/io.h).
 *
 * The replaced calls count down to one that fails or is short, and otherwise are the system's own
 * on real files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "temp_dir.h"

enum call { CALL_OPEN, CALL_PWRITEV, CALL_FSYNC, CALL_RENAME, CALL_UNLINK, CALL_KINDS };

static char dir[TEMP_DIR_MAX];
static char path[TEMP_DIR_MAX + 32];

static struct {
    int calls[CALL_KINDS];   /* made so far */
    int fail_at[CALL_KINDS]; /* the how manieth fails, from 1; 0: none */
    int error;               /* with this errno */
    size_t max_transfer;     /* bytes that one read or write moves at most */
    int interrupts;          /* so many further reads and writes end with EINTR */
} fault;

static bool fails(enum call which)
{
    if (++fault.calls[which] != fault.fail_at[which])
        return false;
    errno = fault.error;
    return true;
}

static bool is_interrupted(void)
{
    if (fault.interrupts == 0)
        return false;
    fault.interrupts--;
    errno = EINTR;
    return true;
}

static int faulty_open(const char *name, int flags, mode_t mode)
{
    assert_true(flags & O_CLOEXEC);
    if (is_interrupted() || fails(CALL_OPEN))
        return -1;
    return open(name, flags, mode);
}

static ssize_t faulty_pread(int fd, void *buf, size_t len, off_t offset)
{
    if (is_interrupted())
        return -1;
    return pread(fd, buf, len < fault.max_transfer ? len : fault.max_transfer, offset);
}

/* Moves at most max_transfer bytes, also across the pieces of the vector. */
static ssize_t faulty_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct iovec part[IOV_MAX];
    size_t room = fault.max_transfer;
    int used = 0;

    assert_in_range(count, 1, IOV_MAX);
    if (is_interrupted() || fails(CALL_PWRITEV))
        return -1;
    for (; used < count && room > 0; used++) {
        part[used] = iov[used];
        if (part[used].iov_len > room)
            part[used].iov_len = room;
        room -= part[used].iov_len;
    }
    return pwritev(fd, part, used, offset);
}

static int faulty_fsync(int fd)
{
    return fails(CALL_FSYNC) ? -1 : fsync(fd);
}

static int faulty_rename(const char *from, const char *to)
{
    return fails(CALL_RENAME) ? -1 : rename(from, to);
}

static int faulty_unlink(const char *name)
{
    return fails(CALL_UNLINK) ? -1 : unlink(name);
}

static int set_up(void **state)
{
    static struct io_calls faulty;

    (void)state;
    memset(&fault, 0, sizeof(fault));
    fault.max_transfer = SIZE_MAX;
    faulty = io_system_calls;
    faulty.open = faulty_open;
    faulty.pread = faulty_pread;
    faulty.pwritev = faulty_pwritev;
    faulty.fsync = faulty_fsync;
    faulty.rename = faulty_rename;
    faulty.unlink = faulty_unlink;
    io_replace(&faulty);
    temp_dir_make(dir);
    snprintf(path, sizeof(path), "%s/file", dir);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    io_replace(NULL);
    temp_dir_remove(dir);
    return 0;
}

/* The whole file, NUL-terminated; NULL if there is none. */
static const char *contents(const char *name)
{
    static char text[4096];
    FILE *file = fopen(name, "re");
    size_t len;

    if (file == NULL)
        return NULL;
    len = fread(text, 1, sizeof(text) - 1, file);
    text[len] = '\0';
    fclose(file);
    return text;
}

static int open_new(void)
{
    int fd = io_open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    return fd;
}

static void opening_retries_an_interrupt_and_returns_the_error(void **state)
{
    int fd;

    (void)state;
    assert_int_equal(io_open(path, O_RDONLY, 0), -ENOENT);
    fault.interrupts = 3;
    fd = open_new();
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
}

static void short_and_interrupted_writes_are_finished(void **state)
{
    int fd = open_new();

    (void)state;
    for (size_t most = 1; most <= 12; most++) {
        fault.max_transfer = most;
        fault.interrupts = 2;
        assert_int_equal(io_truncate(fd, 0), 0);
        assert_int_equal(io_write_full(fd, "hello world", 11, 0), 0);
        assert_string_equal(contents(path), "hello world");
    }
    close(fd);
}

static void vectors_are_finished_from_any_position(void **state)
{
    int fd = open_new();

    (void)state;
    for (size_t most = 1; most <= 12; most++) {
        char a[] = "abc";
        char b[] = "d";
        char c[] = "efghijk";
        struct iovec iov[] = {{NULL, 0}, {a, 3}, {NULL, 0}, {b, 1}, {c, 7}, {NULL, 0}};

        fault.max_transfer = most;
        assert_int_equal(io_truncate(fd, 0), 0);
        assert_int_equal(io_write_full(fd, "..", 2, 0), 0);
        assert_int_equal(io_writev_full(fd, iov, 6, 2), 0);
        assert_string_equal(contents(path), "..abcdefghijk");
    }
    close(fd);
}

static void vectors_longer_than_the_kernel_takes_are_split(void **state)
{
    enum { PIECES = IOV_MAX * 2 + 3 };
    static struct iovec iov[PIECES];
    static char expected[PIECES];
    int fd = open_new();

    (void)state;
    for (size_t i = 0; i < PIECES; i++) {
        expected[i] = (char)('a' + i % 26);
        iov[i] = (struct iovec){&expected[i], 1};
    }
    assert_int_equal(io_writev_full(fd, iov, PIECES, 0), 0);
    assert_int_equal(fault.calls[CALL_PWRITEV], 3);
    assert_memory_equal(contents(path), expected, PIECES);
    close(fd);
}

static void writing_nothing_makes_no_call(void **state)
{
    struct iovec none = {NULL, 0};
    int fd = open_new();

    (void)state;
    assert_int_equal(io_write_full(fd, NULL, 0, 0), 0);
    assert_int_equal(io_writev_full(fd, &none, 1, 0), 0);
    assert_int_equal(io_writev_full(fd, NULL, 0, 0), 0);
    assert_int_equal(fault.calls[CALL_PWRITEV], 0);
    close(fd);
}

static void a_write_without_space_is_reported(void **state)
{
    int fd = open_new();

    (void)state;
    fault.max_transfer = 4;
    fault.fail_at[CALL_PWRITEV] = 3;
    fault.error = ENOSPC;
    assert_int_equal(io_write_full(fd, "hello world", 11, 0), -ENOSPC);
    assert_int_equal(fault.calls[CALL_PWRITEV], 3);
    assert_string_equal(contents(path), "hello wo");
    close(fd);
}

static ssize_t stuck_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    (void)fd;
    (void)iov;
    (void)count;
    (void)offset;
    return 0;
}

static void a_write_without_progress_is_an_error(void **state)
{
    struct io_calls stuck = io_system_calls;
    int fd = open_new();

    (void)state;
    stuck.pwritev = stuck_pwritev;
    io_replace(&stuck);
    assert_int_equal(io_write_full(fd, "x", 1, 0), -EIO);
    close(fd);
}

static void short_and_interrupted_reads_are_finished(void **state)
{
    int fd = open_new();

    (void)state;
    assert_int_equal(io_write_full(fd, "hello world", 11, 0), 0);
    for (size_t most = 1; most <= 12; most++) {
        char got[12] = {0};

        fault.max_transfer = most;
        fault.interrupts = 2;
        assert_int_equal(io_read_full(fd, got, 5, 6), 0);
        assert_string_equal(got, "world");
    }
    close(fd);
}

static void the_end_of_the_file_is_told_apart(void **state)
{
    char got[32] = {0};
    int fd = open_new();

    (void)state;
    assert_int_equal(io_write_full(fd, "hello", 5, 0), 0);
    assert_int_equal(io_read_full(fd, got, 6, 0), -ENODATA);
    assert_int_equal(io_read_full(fd, got, 1, 100), -ENODATA);
    assert_int_equal(io_read_upto(fd, got, sizeof(got), 1), 4);
    assert_memory_equal(got, "ello", 4);
    assert_int_equal(io_read_upto(fd, got, sizeof(got), 5), 0);
    assert_int_equal(io_read_upto(-1, got, 1, 0), -EBADF);
    assert_int_equal(io_read_full(-1, got, 1, 0), -EBADF);
    close(fd);
}

static void sizes_and_truncation(void **state)
{
    off_t size = -1;
    int fd = open_new();

    (void)state;
    assert_int_equal(io_write_full(fd, "hello", 5, 0), 0);
    assert_int_equal(io_truncate(fd, 2), 0);
    assert_int_equal(io_file_size(fd, &size), 0);
    assert_int_equal(size, 2);
    assert_int_equal(io_truncate(-1, 2), -EBADF);
    assert_int_equal(io_file_size(-1, &size), -EBADF);
    close(fd);
}

static void the_space_of_a_file_system_is_told(void **state)
{
    uint64_t available = 0;
    uint64_t total = 0;
    int fd = open_new();

    (void)state;
    assert_int_equal(io_space(fd, &available, &total), 0);
    assert_true(total >= available && total > 0);
    assert_int_equal(io_space(-1, &available, &total), -EBADF);
    close(fd);
}

static void names_are_made_linked_moved_and_removed(void **state)
{
    char sub[TEMP_DIR_MAX + 32];
    char second[TEMP_DIR_MAX + 32];

    (void)state;
    snprintf(sub, sizeof(sub), "%s/sub", dir);
    snprintf(second, sizeof(second), "%s/second", dir);
    assert_int_equal(io_make_dir(sub, 0700), 0);
    assert_int_equal(io_make_dir(sub, 0700), 0);
    assert_int_equal(io_sync_dir(sub), 0);
    close(open_new());
    assert_int_equal(io_make_dir(path, 0700), -ENOTDIR);
    assert_int_equal(io_sync_dir(path), -ENOTDIR);
    assert_int_equal(io_link(path, second), 0);
    assert_int_equal(io_link(path, second), -EEXIST);
    assert_int_equal(io_unlink(path), 0);
    assert_int_equal(io_unlink(path), -ENOENT);
    assert_int_equal(io_rename(second, path), 0);
    assert_int_equal(io_rename(second, path), -ENOENT);
    assert_non_null(contents(path));
    snprintf(sub, sizeof(sub), "%s/no/sub", dir);
    assert_int_equal(io_make_dir(sub, 0700), -ENOENT);
}

static void replacing_leaves_the_new_file_alone(void **state)
{
    char temp[TEMP_DIR_MAX + 64];

    (void)state;
    snprintf(temp, sizeof(temp), "%s.new", path);
    assert_int_equal(io_replace_file(dir, "file", "first", 5), 0);
    assert_string_equal(contents(path), "first");
    /* What a crash left of an earlier attempt is no obstacle. */
    fclose(fopen(temp, "we"));
    assert_int_equal(io_replace_file(dir, "file", "2", 1), 0);
    assert_string_equal(contents(path), "2");
    assert_null(contents(temp));
    assert_int_equal(fault.calls[CALL_FSYNC], 4); /* file and directory, twice */
}

static void a_replacement_that_fails_leaves_the_old_file(void **state)
{
    static const struct {
        enum call which;
        int how_manieth;
    } rows[] = {
        {CALL_OPEN, 1}, {CALL_PWRITEV, 1}, {CALL_PWRITEV, 2}, {CALL_FSYNC, 1}, {CALL_RENAME, 1},
    };
    char temp[TEMP_DIR_MAX + 64];

    (void)state;
    snprintf(temp, sizeof(temp), "%s.new", path);
    assert_int_equal(io_replace_file(dir, "file", "old", 3), 0);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        memset(fault.calls, 0, sizeof(fault.calls));
        memset(fault.fail_at, 0, sizeof(fault.fail_at));
        fault.fail_at[rows[i].which] = rows[i].how_manieth;
        fault.error = ENOSPC;
        fault.max_transfer = 2;
        assert_int_equal(io_replace_file(dir, "file", "newer", 5), -ENOSPC);
        assert_string_equal(contents(path), "old");
        assert_null(contents(temp));
    }
}

static void a_replacement_whose_directory_is_not_synced_is_an_error(void **state)
{
    (void)state;
    fault.fail_at[CALL_FSYNC] = 2;
    fault.error = EIO;
    assert_int_equal(io_replace_file(dir, "file", "new", 3), -EIO);
    assert_int_equal(io_replace_file("/nonexistent-directory", "file", "new", 3), -ENOENT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(opening_retries_an_interrupt_and_returns_the_error),
        TEST(short_and_interrupted_writes_are_finished),
        TEST(vectors_are_finished_from_any_position),
        TEST(vectors_longer_than_the_kernel_takes_are_split),
        TEST(writing_nothing_makes_no_call),
        TEST(a_write_without_space_is_reported),
        TEST(a_write_without_progress_is_an_error),
        TEST(short_and_interrupted_reads_are_finished),
        TEST(the_end_of_the_file_is_told_apart),
        TEST(sizes_and_truncation),
        TEST(the_space_of_a_file_system_is_told),
        TEST(names_are_made_linked_moved_and_removed),
        TEST(replacing_leaves_the_new_file_alone),
        TEST(a_replacement_that_fails_leaves_the_old_file),
        TEST(a_replacement_whose_directory_is_not_synced_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
