/*
 * test_logstore_large.c - large values of an earlier run: read and checked once, then sent from the
 * file; never sent when damaged.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "store_fixture.h"

enum { LARGE = 40000 };

/* What one read came to. */
struct seen {
    enum store_status status;
    bool from_file;
};

static void read_done(struct store_get *get)
{
    *(bool *)get->owner = true;
}

static void check_bytes(const struct store_get *get, char letter, size_t len)
{
    char *copy = malloc(len);

    assert_non_null(copy);
    assert_int_equal(get->value_bytes, len);
    if (get->file_fd >= 0)
        assert_int_equal(pread(get->file_fd, copy, len, get->file_offset), len);
    else
        memcpy(copy, get->rec.value.ptr, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(copy[i], letter);
    free(copy);
}

/* Reads the key, whose value is `len` times `letter`. */
static struct seen look(struct store_fixture *f, const char *key, char letter, size_t len)
{
    bool done = false;
    struct store_get get = {.key = slice_str(key), .done = read_done, .owner = &done};
    struct seen seen;

    if (!store_get(f->port, &get)) {
        store_settle(f);
        assert_true(done);
    }
    seen = (struct seen){get.status, get.file_fd >= 0};
    if (get.status == STORE_OK) {
        check_bytes(&get, letter, len);
        store_get_release(&get);
    }
    return seen;
}

/* Puts keys a, b, ... whose values are so many times that letter. */
static void put_letters(struct store_fixture *f, unsigned count, size_t len)
{
    char *value = malloc(len + 1);

    assert_non_null(value);
    for (unsigned i = 0; i < count; i++) {
        char key[2] = {(char)('a' + i), 0};

        memset(value, key[0], len);
        value[len] = 0;
        assert_int_equal(put(f, key, value).status, STORE_OK);
    }
    free(value);
}

static void restart(struct store_fixture *f)
{
    store_shut(f);
    assert_int_equal(store_open(f), 0);
}

static void a_large_value_is_checked_once_a_run_and_then_sent_from_the_file(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_letters(f, 3, LARGE);
    assert_true(look(f, "b", 'b', LARGE).from_file); /* written by this run */
    for (int run = 0; run < 2; run++) {
        restart(f);
        assert_false(look(f, "b", 'b', LARGE).from_file);
        assert_true(look(f, "b", 'b', LARGE).from_file);
        /* Its neighbours were not looked at by that. */
        assert_false(look(f, "a", 'a', LARGE).from_file);
        assert_false(look(f, "c", 'c', LARGE).from_file);
        assert_true(look(f, "a", 'a', LARGE).from_file);
    }
    store_shut(f);
}

static void a_small_value_is_checked_at_every_read(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_letters(f, 2, STORE_INLINE_MAX);
    restart(f);
    for (int i = 0; i < 3; i++)
        assert_false(look(f, "a", 'a', STORE_INLINE_MAX).from_file);
    store_shut(f);
}

static void the_head_alone_verifies_nothing(void **state)
{
    struct store_fixture *f = *state;
    struct store_get get = {.key = slice_str("a"), .head_only = true, .done = read_done};
    bool done = false;

    get.owner = &done;
    assert_int_equal(store_open(f), 0);
    put_letters(f, 1, LARGE);
    restart(f);
    if (!store_get(f->port, &get))
        store_settle(f);
    assert_int_equal(get.status, STORE_OK);
    assert_int_equal(get.value_bytes, LARGE);
    store_get_release(&get);
    assert_false(look(f, "a", 'a', LARGE).from_file);
    store_shut(f);
}

/* Changes a byte in the middle of the value that consists of `letter`. */
static void damage(struct store_fixture *f, char letter)
{
    int fd = open(store_path(f, "log/00000001.seg"), O_RDWR);
    char run[64];
    char bytes[64];
    off_t at = 0;

    assert_true(fd >= 0);
    memset(run, letter, sizeof(run));
    while (pread(fd, bytes, sizeof(bytes), at) == sizeof(bytes) &&
           memcmp(bytes, run, sizeof(run)) != 0)
        at += (off_t)sizeof(bytes);
    bytes[0] ^= 1;
    assert_int_equal(pwrite(fd, bytes, 1, at + LARGE / 2), 1);
    close(fd);
}

static void a_damaged_large_value_is_never_served(void **state)
{
    struct store_fixture *f = *state;

    assert_int_equal(store_open(f), 0);
    put_letters(f, 3, LARGE);
    store_shut(f);
    damage(f, 'b');
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(look(f, "b", 'b', LARGE).status, STORE_DAMAGED);
    assert_int_equal(look(f, "c", 'c', LARGE).status, STORE_OK);
    assert_true(look(f, "c", 'c', LARGE).from_file);
    assert_int_equal(look(f, "b", 'b', LARGE).status, STORE_DAMAGED);
    store_shut(f);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_large_value_is_checked_once_a_run_and_then_sent_from_the_file),
        T(a_small_value_is_checked_at_every_read),
        T(the_head_alone_verifies_nothing),
        T(a_damaged_large_value_is_never_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
