/*
 * test_pidfile.c - the file of -pid (main/pidfile.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "main/pidfile.h"
#include "temp_dir.h"

enum { PATH_ROOM = TEMP_DIR_MAX + 32 };

struct fixture {
    char dir[TEMP_DIR_MAX];
    char path[PATH_ROOM];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char log[PATH_ROOM];

    if (f == NULL)
        return -1;
    temp_dir_make(f->dir);
    snprintf(f->path, sizeof(f->path), "%s/pid", f->dir);
    snprintf(log, sizeof(log), "%s/log", f->dir);
    *state = f;
    return log_open(log);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    pidfile_remove();
    log_open(NULL);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void check_names_us(const char *path)
{
    char text[64] = {0}, expected[64];
    FILE *file = fopen(path, "r");

    assert_non_null(file);
    assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    snprintf(expected, sizeof(expected), "%ld\n", (long)getpid());
    assert_string_equal(text, expected);
}

static void it_names_this_process_until_it_is_removed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(pidfile_write(f->path), 0);
    check_names_us(f->path);
    pidfile_remove();
    assert_int_equal(access(f->path, F_OK), -1);
}

static void a_file_of_a_living_process_is_left_alone(void **state)
{
    struct fixture *f = *state;

    write_text(f->path, "1\n"); /* init, or who plays it in a container */
    assert_int_equal(pidfile_write(f->path), -EEXIST);
    pidfile_remove();
    assert_int_equal(access(f->path, F_OK), 0);
}

static void what_a_dead_process_or_nobody_left_is_replaced(void **state)
{
    struct fixture *f = *state;
    char dead[32], own[32];
    const char *const texts[] = {dead, own, "", "\n", "0\n", "-1\n", "12x\n", "99999999999\n"};
    pid_t child = fork();

    if (child == 0)
        _exit(0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    snprintf(dead, sizeof(dead), "%ld\n", (long)child);
    snprintf(own, sizeof(own), "%ld\n", (long)getpid()); /* the last run, in a container */
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_text(f->path, texts[i]);
        assert_int_equal(pidfile_write(f->path), 0);
        check_names_us(f->path);
        pidfile_remove();
    }
}

static void a_directory_that_is_not_there_is_an_error(void **state)
{
    struct fixture *f = *state;
    char path[PATH_ROOM];

    snprintf(path, sizeof(path), "%s/nowhere/pid", f->dir);
    assert_int_equal(pidfile_write(path), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_names_this_process_until_it_is_removed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_file_of_a_living_process_is_left_alone, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_a_dead_process_or_nobody_left_is_replaced, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_directory_that_is_not_there_is_an_error, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
