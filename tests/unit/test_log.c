/*
 * test_log.c - the program's messages (base/log.h).
 *
 * One line is one write(2): the lines of many threads are sent through a pipe of packets
 * (O_DIRECT), where every read returns exactly one write.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "temp_dir.h"

enum { THREADS = 4, LINES_PER_THREAD = 50, PIPE_BYTES = 1 << 20 };

static char dir[TEMP_DIR_MAX];
static char path[TEMP_DIR_MAX + 32];
static char moved[TEMP_DIR_MAX + 32];

static int64_t fixed_wall_ms(void *ctx)
{
    (void)ctx;
    return 1769860800123; /* 2026-01-31 12:00:00.123 UTC */
}

static int64_t fixed_mono_ms(void *ctx)
{
    (void)ctx;
    return 1;
}

static const struct clock_source fixed_clock = {fixed_wall_ms, fixed_mono_ms, NULL};

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(dir);
    snprintf(path, sizeof(path), "%s/log", dir);
    snprintf(moved, sizeof(moved), "%s/log.1", dir);
    clock_replace(&fixed_clock);
    log_set_level(LOG_INFO);
    return log_open(path);
}

static int tear_down(void **state)
{
    (void)state;
    log_open(NULL);
    clock_replace(NULL);
    temp_dir_remove(dir);
    return 0;
}

/* The whole file, NUL-terminated. */
static const char *contents(const char *name)
{
    static char text[65536];
    FILE *file = fopen(name, "re");
    size_t len;

    assert_non_null(file);
    len = fread(text, 1, sizeof(text) - 1, file);
    text[len] = '\0';
    fclose(file);
    return text;
}

static void a_line_has_time_level_and_text(void **state)
{
    (void)state;
    log_error("cannot open path=%s", "x");
    log_warn("w=%d", 1);
    log_info("i");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z error cannot open path=x\n"
                                        "2026-01-31T12:00:00.123Z warn w=1\n"
                                        "2026-01-31T12:00:00.123Z info i\n");
}

static void messages_below_the_level_are_dropped(void **state)
{
    (void)state;
    log_debug("hidden");
    log_set_level(LOG_ERROR);
    log_warn("hidden");
    log_set_level(LOG_DEBUG);
    log_debug("shown");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z debug shown\n");
}

static void control_bytes_cannot_forge_lines(void **state)
{
    (void)state;
    log_info("key=%s", "a\r\nb\x1b[2J\x7f\t\x01 gr\xc3\xbc\xc3\x9f");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z info key=a\\x0d\\x0ab\\x1b[2J"
                                        "\\x7f\\x09\\x01 gr\xc3\xbc\xc3\x9f\n");
}

static void a_long_text_is_cut_and_stays_one_line(void **state)
{
    char text[10000];

    (void)state;
    memset(text, '\n', sizeof(text) - 1); /* the longest form: four bytes for one */
    text[sizeof(text) - 1] = '\0';
    log_info("%s", text);
    log_info("next");
    assert_non_null(strstr(contents(path), "\\x0a\n2026-01-31T12:00:00.123Z info next\n"));
    assert_int_equal(strlen(contents(path)), strlen("2026-01-31T12:00:00.123Z info ") * 2 +
                                                 2047 * 4 + 1 + strlen("next\n"));
}

static void errno_survives_a_message(void **state)
{
    (void)state;
    errno = ENOSPC;
    log_error("no space");
    assert_int_equal(errno, ENOSPC);
}

static void opening_appends(void **state)
{
    (void)state;
    log_info("first");
    assert_int_equal(log_open(path), 0);
    log_info("second");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z info first\n"
                                        "2026-01-31T12:00:00.123Z info second\n");
}

static void reopening_follows_a_rotation(void **state)
{
    (void)state;
    log_info("old");
    assert_int_equal(rename(path, moved), 0);
    log_info("still old");
    assert_int_equal(log_reopen(), 0);
    log_info("new");
    assert_string_equal(contents(moved), "2026-01-31T12:00:00.123Z info old\n"
                                         "2026-01-31T12:00:00.123Z info still old\n");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z info new\n");
}

static void a_target_that_cannot_be_opened_leaves_the_old_one(void **state)
{
    char missing[TEMP_DIR_MAX + 32];

    (void)state;
    snprintf(missing, sizeof(missing), "%s/missing/log", dir);
    assert_int_equal(log_open(missing), -ENOENT);
    log_info("here");
    assert_string_equal(contents(path), "2026-01-31T12:00:00.123Z info here\n");
}

static void a_failed_reopen_leaves_the_old_file(void **state)
{
    char sub[TEMP_DIR_MAX + 32];
    char file[TEMP_DIR_MAX + 64];
    char away[TEMP_DIR_MAX + 32];

    (void)state;
    snprintf(sub, sizeof(sub), "%s/sub", dir);
    snprintf(file, sizeof(file), "%s/log", sub);
    snprintf(away, sizeof(away), "%s/away", dir);
    assert_int_equal(mkdir(sub, 0755), 0);
    assert_int_equal(log_open(file), 0);
    assert_int_equal(rename(sub, away), 0);
    assert_int_equal(log_reopen(), -ENOENT);
    log_info("here");
    snprintf(file, sizeof(file), "%s/log", away);
    assert_string_equal(contents(file), "2026-01-31T12:00:00.123Z info here\n");
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES_PER_THREAD; i++)
        log_info("thread=%d line=%d", *(const int *)arg, i);
    return NULL;
}

/* Reads packets until the pipe ends; counts the lines of each thread, which must come in order. */
static void check_packets(int fd, int next[THREADS])
{
    char packet[4096];
    ssize_t n;

    while ((n = read(fd, packet, sizeof(packet) - 1)) > 0) {
        int thread = -1;
        int line = -1;

        packet[n] = '\0';
        assert_ptr_equal(strchr(packet, '\n'), packet + n - 1);
        assert_int_equal(sscanf(packet, "%*s info thread=%d line=%d\n", &thread, &line), 2);
        assert_in_range(thread, 0, THREADS - 1);
        assert_int_equal(line, next[thread]++);
    }
}

static void every_line_is_one_write(void **state)
{
    pthread_t threads[THREADS];
    int ids[THREADS];
    int next[THREADS] = {0};
    int ends[2];
    int saved = dup(STDERR_FILENO);

    (void)state;
    /* Room for all packets (a page each), so that the writers need no reader beside them. */
    assert_int_equal(pipe2(ends, O_DIRECT | O_CLOEXEC), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) >= PIPE_BYTES);
    assert_int_equal(log_open(NULL), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[1]);
    for (int i = 0; i < THREADS; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &ids[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    close(saved);
    check_packets(ends[0], next);
    close(ends[0]);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(next[i], LINES_PER_THREAD);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_line_has_time_level_and_text),
        TEST(messages_below_the_level_are_dropped),
        TEST(control_bytes_cannot_forge_lines),
        TEST(a_long_text_is_cut_and_stays_one_line),
        TEST(errno_survives_a_message),
        TEST(opening_appends),
        TEST(reopening_follows_a_rotation),
        TEST(a_target_that_cannot_be_opened_leaves_the_old_one),
        TEST(a_failed_reopen_leaves_the_old_file),
        TEST(every_line_is_one_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
