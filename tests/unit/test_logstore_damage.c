/*
 * test_logstore_damage.c - the engine on torn tails, flipped bits, missing files, failing disks and
 * foreign directories: what was acknowledged is served whole or the start is refused; nothing
 * damaged is ever served.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "base/log.h"
#include "store/logstore/segment.h"
#include "store_fixture.h"

#define KEYS 4
/* The first segment's header: its vectors name nobody yet. */
#define HEADER (SEGMENT_HEADER_FIXED + 14)

/* A template of a small store in DIR/template: KEYS records "k0".."k3", by a stop or by a kill. The
 * zeros behind the tail are cut off, so that copies are small. Returns the bytes of the first
 * segment that hold records. */
static off_t make_template(struct store_fixture *f, bool clean)
{
    char template_dir[300];
    struct stat st;
    char key[8];
    int fd;
    off_t end;
    char last = 0;

    assert_int_equal(store_open(f), 0);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(put(f, key, "some value").status, STORE_OK);
    }
    snprintf(template_dir, sizeof(template_dir), "%s/template", f->dir);
    if (clean)
        store_shut(f);
    copy_tree(store_path(f, ""), template_dir);
    if (!clean)
        store_shut(f);
    strcat(template_dir, "/log/00000001.seg");
    fd = open(template_dir, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    for (end = st.st_size; end > 0 && last == 0; end--)
        assert_int_equal(pread(fd, &last, 1, end - 1), 1);
    assert_int_equal(ftruncate(fd, end + 1), 0);
    close(fd);
    return end + 1;
}

static void from_template(struct store_fixture *f)
{
    char template_dir[300];

    snprintf(template_dir, sizeof(template_dir), "%s/template", f->dir);
    remove_tree(store_path(f, ""));
    copy_tree(template_dir, store_path(f, ""));
}

/* How many of the keys are there; each must be whole. */
static int count_keys(struct store_fixture *f)
{
    int found = 0;

    for (int i = 0; i < KEYS; i++) {
        char key[8];
        enum store_status status;
        char *value;

        snprintf(key, sizeof(key), "k%d", i);
        value = fetch(f, key, NULL, &status, NULL);
        if (value != NULL) {
            assert_string_equal(value, "some value");
            assert_int_equal(found, i); /* a prefix of what was written, no holes */
            found++;
        }
        free(value);
    }
    return found;
}

static void a_log_cut_at_any_byte_keeps_every_whole_record(void **state)
{
    struct store_fixture *f = *state;
    off_t end = make_template(f, false);
    int before = KEYS;

    log_set_level(LOG_ERROR + 1);
    for (off_t cut = end; cut >= 0; cut -= cut > 200 ? 4 : 50) {
        int found;

        from_template(f);
        assert_int_equal(truncate(store_path(f, "log/00000001.seg"), cut), 0);
        if (cut < HEADER) {
            /* Without its header a segment that was begun is damage, not an end. */
            assert_int_equal(store_open(f), -EUCLEAN);
            continue;
        }
        assert_int_equal(store_open(f), 0);
        found = count_keys(f);
        assert_in_range(found, 0, before);
        before = found;
        assert_int_equal(store_count(f->store), found);
        assert_int_equal(put(f, "k9", "new").status, STORE_OK);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        assert_int_equal(count_keys(f), found);
        check_value(f, "k9", "new");
        store_shut(f);
    }
    assert_int_equal(before, 0);
}

static void flip(struct store_fixture *f, off_t at)
{
    int fd = open(store_path(f, "log/00000001.seg"), O_RDWR);
    char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Behind a clean stop everything is known to be synced: any flipped bit of a record but the last
 * one's is damage. */
static void a_flipped_bit_is_refused_or_never_served(void **state)
{
    struct store_fixture *f = *state;
    off_t end = make_template(f, true);

    log_set_level(LOG_ERROR + 1);
    for (off_t at = 0; at < end; at += 9) {
        from_template(f);
        flip(f, at);
        remove_tree(store_path(f, "index"));
        if (store_open(f) != 0)
            continue;
        /* The mark of the stop is the last record: with it gone, the records before it are all
         * there. */
        assert_int_equal(count_keys(f), KEYS);
        assert_true(at > end - 100);
        store_shut(f);
    }
}

static void damage_below_the_checkpoint_is_found_by_the_read(void **state)
{
    struct store_fixture *f = *state;
    off_t end = make_template(f, true);
    enum store_status status;

    log_set_level(LOG_ERROR + 1);
    from_template(f);
    flip(f, end - 100); /* in the last put; the index stands behind it */
    assert_int_equal(store_open(f), 0);
    assert_null(fetch(f, "k3", NULL, &status, NULL));
    assert_int_equal(status, STORE_DAMAGED);
    check_value(f, "k0", "some value");
    assert_int_equal(put(f, "k3", "again").status, STORE_OK);
    check_value(f, "k3", "again");
}

static char last_name[512];

/* Sets last_name to the path of the newest segment. */
static void find_last_segment(struct store_fixture *f)
{
    struct stat st;
    char name[32];

    for (unsigned n = 1; n < 1000; n++) {
        snprintf(name, sizeof(name), "log/%08u.seg", n);
        if (stat(store_path(f, name), &st) != 0)
            break;
        snprintf(last_name, sizeof(last_name), "%s", store_path(f, name));
    }
}

static void a_missing_segment_is_refused(void **state)
{
    struct store_fixture *f = *state;
    char *value = calloc(1, 900000);

    f->config.no_compaction = true; /* the files keep their names */
    assert_int_equal(store_open(f), 0);
    memset(value, 'x', 900000 - 1);
    for (int i = 0; i < 20; i++)
        put(f, i % 2 ? "a" : "b", value);
    store_shut(f);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(rename(store_path(f, "log/00000002.seg"), store_path(f, "tmp/moved")), 0);
    assert_int_equal(store_open(f), -EUCLEAN);
    assert_int_equal(rename(store_path(f, "tmp/moved"), store_path(f, "log/00000002.seg")), 0);
    assert_int_equal(store_open(f), 0);
    check_value(f, "a", value);
    store_shut(f);
    /* The newest ones too, and all of them, although no index knows of them any more. */
    remove_tree(store_path(f, "index"));
    assert_int_equal(rename(store_path(f, "log"), store_path(f, "tmp/log")), 0);
    assert_int_equal(store_open(f), -EUCLEAN);
    assert_int_equal(rmdir(store_path(f, "log")), 0);
    assert_int_equal(rename(store_path(f, "tmp/log"), store_path(f, "log")), 0);
    find_last_segment(f);
    assert_int_equal(rename(last_name, store_path(f, "tmp/moved")), 0);
    assert_int_equal(store_open(f), -EUCLEAN);
    assert_int_equal(rename(store_path(f, "tmp/moved"), last_name), 0);
    assert_int_equal(store_open(f), 0);
    check_value(f, "a", value);
    free(value);
}

/* Records "n0", "n1"... of a fifth of a segment each, over four segments; in DIR/template as a kill
 * leaves them, or a stop. */
static void make_long_template(struct store_fixture *f, bool clean)
{
    char template_dir[300];
    char *value = calloc(1, f->config.segment_bytes / 5);
    char key[8];

    assert_non_null(value);
    memset(value, 'x', f->config.segment_bytes / 5 - 1);
    assert_int_equal(store_open(f), 0);
    for (int i = 0; i < 16; i++) {
        snprintf(key, sizeof(key), "n%d", i);
        assert_int_equal(put(f, key, value).status, STORE_OK);
    }
    snprintf(template_dir, sizeof(template_dir), "%s/template", f->dir);
    if (clean)
        store_shut(f);
    copy_tree(store_path(f, ""), template_dir);
    if (!clean)
        store_shut(f);
    free(value);
}

/* How many of n0, n1... are there; none may stand behind a missing one. */
static unsigned count_long(struct store_fixture *f)
{
    unsigned found = 0;

    for (unsigned i = 0; i < 16; i++) {
        char key[8];
        char *value;

        snprintf(key, sizeof(key), "n%u", i);
        value = fetch(f, key, NULL, NULL, NULL);
        assert_true(value == NULL || found == i);
        found += value != NULL;
        free(value);
    }
    return found;
}

/* Only `always` syncs a segment before the next one begins. */
static void a_closed_segment_may_lack_what_was_never_synced(void **state)
{
    struct store_fixture *f = *state;
    const off_t record = RECORD_HEAD_FIXED + 2 + (off_t)f->config.segment_bytes / 5 - 1;
    struct stat st;

    f->config.sync = STORE_SYNC_OS;
    make_long_template(f, false);
    from_template(f);
    assert_int_equal(stat(store_path(f, "log/00000002.seg"), &st), 0);
    log_set_level(LOG_ERROR + 1);
    for (int lost = 0; lost <= 8; lost++) { /* half records */
        from_template(f);
        assert_int_equal(
            truncate(store_path(f, "log/00000002.seg"), st.st_size - lost * record / 2), 0);
        assert_int_equal(store_open(f), 0);
        assert_int_equal(count_long(f), lost == 0 ? 16 : 4 + (8 - lost) / 2);
        assert_int_equal(put(f, "new", "value").status, STORE_OK);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check_value(f, "new", "value");
        store_shut(f);
    }
}

static void a_closed_segment_must_not_lack_what_was_synced(void **state)
{
    struct store_fixture *f = *state;

    f->config.sync = STORE_SYNC_OS;
    make_long_template(f, true); /* the checkpoint of the stop has synced it */
    log_set_level(LOG_ERROR + 1);
    for (int rebuild = 0; rebuild < 2; rebuild++) {
        from_template(f);
        if (rebuild)
            remove_tree(store_path(f, "index"));
        assert_int_equal(truncate(store_path(f, "log/00000002.seg"), 1000000), 0);
        assert_int_equal(store_open(f), -EUCLEAN);
    }
}

static void a_second_opening_and_foreign_files_are_refused(void **state)
{
    struct store_fixture *f = *state;
    struct store *second;
    int fd;

    assert_int_equal(store_open(f), 0);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(logstore_open(&f->config, 1000, &second), -EWOULDBLOCK);
    store_shut(f);
    fd = open(store_path(f, "holiday.jpg"), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(store_open(f), -ENOTEMPTY);
    assert_int_equal(unlink(store_path(f, "holiday.jpg")), 0);
    assert_int_equal(store_open(f), 0);
}

static void another_server_id_is_refused(void **state)
{
    struct store_fixture *f = *state;

    f->config.node = 3;
    assert_int_equal(store_open(f), 0);
    store_shut(f);
    log_set_level(LOG_ERROR + 1);
    f->config.node = 4;
    assert_int_equal(store_open(f), -EINVAL);
    f->config.node = 0;
    assert_int_equal(store_open(f), 0);
}

/* ---- failing calls ---- */

static _Atomic int fail_after; /* calls until the failure; < 0: never */
static _Atomic int fail_errno;
static _Atomic bool fail_short; /* half of the bytes are written first */

static bool fails_now(void)
{
    return atomic_load(&fail_after) >= 0 && atomic_fetch_sub(&fail_after, 1) == 0;
}

static ssize_t failing_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    if (!fails_now())
        return pwritev(fd, iov, count, offset);
    if (atomic_load(&fail_short))
        (void)!pwrite(fd, iov[0].iov_base, iov[0].iov_len / 2, offset);
    errno = atomic_load(&fail_errno);
    return -1;
}

static int failing_fdatasync(int fd)
{
    if (!fails_now())
        return fdatasync(fd);
    errno = atomic_load(&fail_errno);
    return -1;
}

static void a_failed_append_is_refused_and_leaves_no_trace(void **state)
{
    struct store_fixture *f = *state;
    struct io_calls calls = io_system_calls;
    char *large = calloc(1, 30000);

    memset(large, 'l', 29999);
    log_set_level(LOG_ERROR + 1);
    calls.pwritev = failing_pwritev;
    atomic_store(&fail_errno, ENOSPC);
    io_replace(&calls);
    for (int with_half = 0; with_half < 2; with_half++) {
        atomic_store(&fail_short, with_half);
        for (int nth = 0; nth < 40; nth++) {
            enum store_status status;

            atomic_store(&fail_after, -1);
            assert_int_equal(store_open(f), 0);
            put(f, "kept", "old");
            atomic_store(&fail_after, nth);
            status = put(f, "kept", large).status;
            atomic_store(&fail_after, -1);
            assert_true(status == STORE_OK || status == STORE_NO_SPACE);
            check_value(f, "kept", status == STORE_OK ? large : "old");
            assert_int_equal(store_count(f->store), 1);
            assert_int_equal(put(f, "kept", "new").status, STORE_OK);
            store_shut(f);
            assert_int_equal(store_open(f), 0);
            check_value(f, "kept", "new");
            store_shut(f);
        }
    }
    free(large);
}

static void after_a_failed_sync_only_reads_go_on(void **state)
{
    struct store_fixture *f = *state;
    struct io_calls calls = io_system_calls;
    const char *reason;

    log_set_level(LOG_ERROR + 1);
    calls.fdatasync = failing_fdatasync;
    atomic_store(&fail_errno, EIO);
    atomic_store(&fail_after, -1);
    io_replace(&calls);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put(f, "a", "1").status, STORE_OK);
    assert_true(store_writable(f->store, &reason));
    /* The next sync is the put's, or that of zeros ahead of it: either way nothing more is
     * taken. */
    atomic_store(&fail_after, 0);
    while (put(f, "b", "2").status == STORE_OK)
        ;
    assert_false(store_writable(f->store, &reason));
    assert_int_equal(put(f, "c", "3").status, STORE_READ_ONLY);
    check_value(f, "a", "1");
    check_value(f, "c", NULL);
    store_shut(f);
    io_replace(NULL);
    assert_int_equal(store_open(f), 0);
    check_value(f, "a", "1");
    assert_int_equal(put(f, "c", "3").status, STORE_OK);
}

static void a_broken_index_is_rebuilt(void **state)
{
    struct store_fixture *f = *state;
    int fd;
    char junk[8192];

    make_template(f, true);
    memset(junk, 0x5a, sizeof(junk));
    log_set_level(LOG_ERROR + 1);
    from_template(f);
    fd = open(store_path(f, "index/data.mdb"), O_WRONLY);
    assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
    close(fd);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(count_keys(f), KEYS);
    assert_int_equal(store_count(f->store), KEYS);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_log_cut_at_any_byte_keeps_every_whole_record),
        T(a_flipped_bit_is_refused_or_never_served),
        T(damage_below_the_checkpoint_is_found_by_the_read),
        T(a_missing_segment_is_refused),
        T(a_closed_segment_may_lack_what_was_never_synced),
        T(a_closed_segment_must_not_lack_what_was_synced),
        T(a_second_opening_and_foreign_files_are_refused),
        T(another_server_id_is_refused),
        T(a_failed_append_is_refused_and_leaves_no_trace),
        T(after_a_failed_sync_only_reads_go_on),
        T(a_broken_index_is_rebuilt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
