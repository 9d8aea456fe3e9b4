/*
 * test_logstore_order.c - the order of the log's segments: numbers are names, compacted segments
 * stand for ranges, and what a crash in a compaction has left is told apart.
 *
 * The compacted segments are made here, by hand, from the closed directory of a small store: so
 * that every state can be made that a crash could leave.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "store/logstore/identity.h"
#include "store/logstore/index.h"
#include "store/logstore/segment.h"
#include "store_fixture.h"

#define KEYS 110u
#define VALUE_BYTES 100000u
#define NEW_NUMBER 50u
#define FAR_FUTURE 4102444800000

/* ---- a store of four segments, three quarters of it live ---- */

static unsigned generation[KEYS]; /* 0: deleted */

static void key_text(unsigned i, char out[16])
{
    snprintf(out, 16, "key%03u", i);
}

static char *value_text(unsigned i, unsigned gen)
{
    char *value = malloc(VALUE_BYTES + 1);
    int len;

    assert_non_null(value);
    len = snprintf(value, 32, "%u/%u ", i, gen);
    memset(value + len, 'a' + (int)(i * 7 + gen) % 26, VALUE_BYTES - (size_t)len);
    value[VALUE_BYTES] = '\0';
    return value;
}

static void put_key(struct store_fixture *f, unsigned i, unsigned gen)
{
    char key[16];
    char *value = value_text(i, gen);

    key_text(i, key);
    assert_int_equal(put(f, key, value).status, STORE_OK);
    generation[i] = gen;
    free(value);
}

static void touch_key(struct store_fixture *f, unsigned i)
{
    char key[16];

    key_text(i, key);
    assert_int_equal(
        write_key(f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0), FAR_FUTURE + i).status,
        STORE_OK);
}

static void delete_key(struct store_fixture *f, unsigned i)
{
    char key[16];

    key_text(i, key);
    assert_int_equal(write_key(f, STORE_DELETE, STORE_ANY, 0, key, slice_of(NULL, 0), 0).status,
                     STORE_OK);
    generation[i] = 0;
}

static void fill_store(struct store_fixture *f)
{
    for (unsigned i = 0; i < 60; i++)
        put_key(f, i, 1);
    touch_key(f, 30);
    for (unsigned i = 60; i < 90; i++)
        put_key(f, i, 1);
    for (unsigned i = 0; i < 20; i++)
        put_key(f, i, 2);
    for (unsigned i = 20; i < 25; i++)
        delete_key(f, i);
    touch_key(f, 31);
    for (unsigned i = 90; i < KEYS; i++)
        put_key(f, i, 1);
}

static void check_store(struct store_fixture *f)
{
    uint64_t live = 0;

    for (unsigned i = 0; i < KEYS; i++) {
        char key[16];
        char *want = generation[i] == 0 ? NULL : value_text(i, generation[i]);
        struct record rec = {0};
        char *got;

        key_text(i, key);
        got = fetch(f, key, NULL, NULL, &rec);
        if (want == NULL) {
            assert_null(got);
        } else {
            assert_non_null(got);
            assert_string_equal(got, want);
            assert_int_equal(rec.expires_ms, i == 30 || i == 31 ? FAR_FUTURE + i : 0);
            live++;
        }
        free(got);
        free(want);
    }
    assert_int_equal(store_count(f->store), live);
}

/* The store, closed; a copy of it in DIR/template. */
static void make_template(struct store_fixture *f)
{
    char path[300];

    assert_int_equal(store_open(f), 0);
    fill_store(f);
    store_shut(f);
    snprintf(path, sizeof(path), "%s/template", f->dir);
    copy_tree(store_path(f, ""), path);
}

static void from_template(struct store_fixture *f)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/template", f->dir);
    remove_tree(store_path(f, ""));
    copy_tree(path, store_path(f, ""));
}

/* ---- segment files ---- */

struct file {
    char *bytes;
    size_t len;
    struct segment_header header;
    size_t header_bytes;
};

static const char *segment_path(struct store_fixture *f, unsigned number)
{
    char name[32];

    snprintf(name, sizeof(name), "log/%08u.seg", number);
    return store_path(f, name);
}

static bool has_segment(struct store_fixture *f, unsigned number)
{
    struct stat st;

    return stat(segment_path(f, number), &st) == 0;
}

static struct file load(struct store_fixture *f, unsigned number)
{
    struct file file = {0};
    FILE *in = fopen(segment_path(f, number), "rb");
    struct stat st;

    assert_non_null(in);
    assert_int_equal(fstat(fileno(in), &st), 0);
    file.len = (size_t)st.st_size;
    file.bytes = malloc(file.len);
    assert_non_null(file.bytes);
    assert_int_equal(fread(file.bytes, 1, file.len, in), file.len);
    fclose(in);
    assert_int_equal(
        segment_header_decode(slice_of(file.bytes, file.len), &file.header, &file.header_bytes),
        RECORD_DONE);
    return file;
}

static void save(const char *path, const char *bytes, size_t len)
{
    FILE *out = fopen(path, "wb");

    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, len, out), len);
    assert_int_equal(fclose(out), 0);
}

static uint64_t salt_of(struct store_fixture *f)
{
    struct identity id;

    assert_int_equal(identity_read(store_path(f, ""), &id), 0);
    return identity_salt(&id);
}

/* ---- compaction by hand ---- */

#define MOVES_MAX 200

struct compacted {
    struct index_move moves[MOVES_MAX];
    char keys[MOVES_MAX][16];
    size_t count;
    size_t expected_gone; /* records that were dropped */
};

static unsigned key_index(struct slice key)
{
    char text[16];

    assert_int_equal(key.len, 6);
    memcpy(text, key.ptr, 6);
    text[6] = '\0';
    return (unsigned)strtoul(text + 3, NULL, 10);
}

/* True: the record is still needed, if it lies in the first two of the segments. */
static bool is_needed(const struct record *r)
{
    unsigned i;

    if (r->kind != RECORD_PUT && r->kind != RECORD_TOUCH)
        return false;
    i = key_index(r->key);
    return i >= 25;
}

/* Writes segment `number`, made of those from `first` to `last`, to `path`; they stay. */
static void compact(struct store_fixture *f, unsigned first, unsigned last, unsigned number,
                    const char *where, struct compacted *out)
{
    char *path = strdup(where); /* store_path() uses its memory again */
    struct file head = load(f, first);
    struct file behind = load(f, last + 1);
    struct segment_header h = head.header;
    uint64_t salt = salt_of(f);
    char *bytes = malloc(32u << 20);
    size_t len = head.header_bytes;

    assert_non_null(bytes);
    assert_non_null(path);
    memset(out, 0, sizeof(*out));
    for (unsigned n = first; n <= last; n++) {
        struct file old = load(f, n);
        struct file next = load(f, n + 1);
        size_t at = old.header_bytes;

        while (at < next.header.previous_end) {
            struct record r;
            size_t used;
            struct index_move *move = &out->moves[out->count];

            assert_int_equal(record_decode(salt, slice_of(old.bytes + at, old.len - at), &r, &used),
                             RECORD_DONE);
            if (is_needed(&r)) {
                assert_true(out->count < MOVES_MAX);
                memcpy(out->keys[out->count], r.key.ptr, r.key.len);
                *move = (struct index_move){
                    .key = slice_of(out->keys[out->count], r.key.len),
                    .what = r.kind == RECORD_TOUCH ? MOVED_TOUCH : MOVED_RECORD,
                    .segment = n,
                    .offset = (uint32_t)at,
                    .new_offset = (uint32_t)len,
                    .new_length = (uint32_t)used,
                };
                out->count++;
                memcpy(bytes + len, old.bytes + at, used);
                len += used;
            } else {
                out->expected_gone++;
            }
            at += used;
        }
        free(old.bytes);
        free(next.bytes);
    }
    h.number = number;
    h.compacted = true;
    h.last_seq = behind.header.previous_seq;
    h.clean_seq = behind.header.previous_seq;
    h.end = len;
    segment_header_encode(&h, (unsigned char *)bytes);
    save(path, bytes, len);
    free(path);
    free(bytes);
    free(head.bytes);
    free(behind.bytes);
}

static struct index *open_index(struct store_fixture *f)
{
    struct index *index;

    assert_int_equal(index_open(store_path(f, "index"), 2, &index), 0);
    return index;
}

/* Moves `count` of the rows. */
static void move_rows(struct store_fixture *f, struct compacted *c, size_t count, bool last,
                      const uint32_t *gone, size_t gone_count)
{
    struct index *index = open_index(f);

    assert_int_equal(index_move(index, NEW_NUMBER, c->moves, count, true, false, NULL, 0), 0);
    if (last)
        assert_int_equal(index_move(index, NEW_NUMBER, NULL, 0, false, true, gone, gone_count), 0);
    index_close(index);
}

static void remove_segments(struct store_fixture *f, unsigned first, unsigned last)
{
    for (unsigned n = first; n <= last; n++)
        assert_int_equal(unlink(segment_path(f, n)), 0);
}

/* ---- tests ---- */

static void a_log_whose_numbers_are_in_no_order_is_rebuilt_in_the_order_of_its_seqs(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    assert_true(has_segment(f, 4));
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    assert_true(c.expected_gone >= 25);
    remove_segments(f, 1, 2);
    remove_tree(store_path(f, "index"));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_open(f), 0);
        check_store(f);
        put_key(f, 5, 7 + (unsigned)i); /* the log goes on behind segment 4 */
        store_shut(f);
    }
    assert_int_equal(store_open(f), 0);
    check_store(f);
}

static void a_segment_in_the_middle_may_be_the_compacted_one(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    compact(f, 2, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    remove_segments(f, 2, 2);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    check_store(f);
}

static void without_an_index_the_compacted_segment_wins(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    assert_false(has_segment(f, 1));
    assert_false(has_segment(f, 2));
    check_store(f);
}

static void a_compaction_whose_rows_were_not_moved_has_not_happened(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    assert_int_equal(store_open(f), 0);
    assert_false(has_segment(f, NEW_NUMBER));
    check_store(f);
    store_shut(f);
    /* And nobody gets its number. */
    assert_int_equal(store_open(f), 0);
    assert_false(has_segment(f, NEW_NUMBER));
    check_store(f);
}

static void a_compaction_whose_rows_were_all_moved_lets_the_old_files_go(void **state)
{
    struct store_fixture *f = *state;
    const uint32_t gone[] = {1, 2};
    struct compacted c;

    make_template(f);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    move_rows(f, &c, c.count, true, gone, 2);
    assert_int_equal(store_open(f), 0);
    assert_false(has_segment(f, 1));
    assert_false(has_segment(f, 2));
    check_store(f);
    store_shut(f);
    /* One of them comes back, as an unlink that was not synced does. */
    from_template(f);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    move_rows(f, &c, c.count, true, gone, 2);
    remove_segments(f, 1, 1);
    assert_int_equal(store_open(f), 0);
    assert_false(has_segment(f, 2));
    check_store(f);
}

static void a_half_moved_compaction_can_be_read_and_is_brought_to_its_end(void **state)
{
    struct store_fixture *f = *state;
    const struct timespec moment = {.tv_nsec = 20 * 1000 * 1000};
    struct compacted c;

    make_template(f);
    for (size_t part = 0; part < 3; part++) {
        from_template(f);
        compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
        move_rows(f, &c, c.count * part / 2, false, NULL, 0);
        assert_int_equal(store_open(f), 0);
        check_store(f);
        while (has_segment(f, 1) || has_segment(f, 2))
            nanosleep(&moment, NULL);
        check_store(f);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check_store(f);
        store_shut(f);
        remove_tree(store_path(f, "index"));
        assert_int_equal(store_open(f), 0);
        check_store(f);
        store_shut(f);
    }
}

static void a_half_moved_compaction_without_one_of_its_files_is_refused(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    log_set_level(LOG_ERROR + 1);
    for (unsigned missing = 1; missing <= 3; missing++) {
        from_template(f);
        compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
        move_rows(f, &c, c.count / 2, false, NULL, 0);
        remove_segments(f, missing, missing);
        assert_int_equal(store_open(f), -EUCLEAN);
    }
    from_template(f);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    move_rows(f, &c, c.count / 2, false, NULL, 0);
    remove_segments(f, NEW_NUMBER, NEW_NUMBER);
    /* The log is whole without it: only the index names it. */
    assert_int_equal(store_open(f), 0);
    check_store(f);
}

static void a_missing_segment_beside_compacted_ones_is_refused(void **state)
{
    struct store_fixture *f = *state;
    const uint32_t gone[] = {1, 2};
    struct compacted c;

    make_template(f);
    log_set_level(LOG_ERROR + 1);
    for (int with_index = 0; with_index < 2; with_index++) {
        const unsigned missing[] = {NEW_NUMBER, 3, 4};

        for (unsigned i = 0; i < 3; i++) {
            from_template(f);
            compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
            move_rows(f, &c, c.count, true, gone, 2);
            remove_segments(f, 1, 2);
            remove_segments(f, missing[i], missing[i]);
            if (!with_index)
                remove_tree(store_path(f, "index"));
            assert_int_equal(store_open(f), -EUCLEAN);
        }
    }
}

static void a_segment_is_missing_that_an_unmoved_compaction_stands_for(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;

    make_template(f);
    log_set_level(LOG_ERROR + 1);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    remove_segments(f, 2, 2);
    assert_int_equal(store_open(f), -EUCLEAN);
    assert_true(has_segment(f, NEW_NUMBER));
    assert_true(has_segment(f, 1));
}

static void damage_in_a_compacted_segment_refuses_a_rebuild(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;
    struct file file;

    make_template(f);
    log_set_level(LOG_ERROR + 1);
    compact(f, 1, 2, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    remove_tree(store_path(f, "index"));
    file = load(f, NEW_NUMBER);
    for (size_t at = file.header_bytes + 20; at < file.len; at += file.len / 7) {
        file.bytes[at] ^= 4;
        save(segment_path(f, NEW_NUMBER), file.bytes, file.len);
        assert_int_equal(store_open(f), -EUCLEAN);
        file.bytes[at] ^= 4;
    }
    /* What it stands for is still there, and so is what is good. */
    assert_true(has_segment(f, 1));
    save(segment_path(f, NEW_NUMBER), file.bytes, file.len - 1);
    assert_int_equal(store_open(f), -EUCLEAN);
    save(segment_path(f, NEW_NUMBER), file.bytes, file.len);
    assert_int_equal(store_open(f), 0);
    check_store(f);
    free(file.bytes);
}

static void the_end_of_an_unfinished_compaction_goes(void **state)
{
    struct store_fixture *f = *state;
    struct compacted c;
    struct stat st;

    make_template(f);
    compact(f, 1, 2, NEW_NUMBER, store_path(f, "tmp/compact-00000050"), &c);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(stat(store_path(f, "tmp/compact-00000050"), &st), -1);
    check_store(f);
}

/* A flush whose record is gone: the headers behind it still tell. */
static void a_flush_is_told_by_the_headers_behind_it(void **state)
{
    struct store_fixture *f = *state;
    const struct timespec moment = {.tv_nsec = 20 * 1000 * 1000};
    struct compacted c;

    assert_int_equal(store_open(f), 0);
    for (unsigned i = 25; i < 60; i++)
        put_key(f, i, 1);
    assert_int_equal(flush_at(f, 0).status, STORE_OK);
    memset(generation, 0, sizeof(generation));
    for (unsigned i = 60; i < KEYS; i++)
        put_key(f, i, 1);
    store_shut(f);
    /* The copy drops whatever is neither a put nor a touch. */
    compact(f, 1, 1, NEW_NUMBER, segment_path(f, NEW_NUMBER), &c);
    remove_segments(f, 1, 1);
    remove_tree(store_path(f, "index"));
    f->config.checkpoint_entries = 5;
    assert_int_equal(store_open(f), 0);
    while (store_count(f->store) != KEYS - 60) /* the sweep looks for what it has killed */
        nanosleep(&moment, NULL);
    check_store(f);
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    check_store(f);
}

static unsigned count_open_segments(struct store_fixture *f)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    unsigned count = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        char path[512];
        char target[512] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%.100s", e->d_name);
        if (readlink(path, target, sizeof(target) - 1) > 0)
            count += strstr(target, ".seg") != NULL && strncmp(target, f->dir, strlen(f->dir)) == 0;
    }
    closedir(d);
    return count;
}

static void few_files_are_open_at_a_time_and_all_are_read(void **state)
{
    struct store_fixture *f = *state;

    f->config.open_segments = 1;
    make_template(f);
    assert_int_equal(store_open(f), 0);
    for (int round = 0; round < 3; round++) {
        check_store(f);
        /* The active one, and twice the bound; a moment later the bound. */
        assert_true(count_open_segments(f) <= 3);
    }
    store_shut(f);
    remove_tree(store_path(f, "index"));
    assert_int_equal(store_open(f), 0);
    check_store(f);
}

static void lookups_by_way_of_the_pool_find_the_same(void **state)
{
    struct store_fixture *f = *state;

    f->config.cold_index = true;
    make_template(f);
    assert_int_equal(store_open(f), 0);
    check_store(f);
    put_key(f, 3, 9);
    delete_key(f, 4);
    check_store(f);
    check_value(f, "there is none", NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_log_whose_numbers_are_in_no_order_is_rebuilt_in_the_order_of_its_seqs),
        T(a_segment_in_the_middle_may_be_the_compacted_one),
        T(without_an_index_the_compacted_segment_wins),
        T(a_compaction_whose_rows_were_not_moved_has_not_happened),
        T(a_compaction_whose_rows_were_all_moved_lets_the_old_files_go),
        T(a_half_moved_compaction_can_be_read_and_is_brought_to_its_end),
        T(a_half_moved_compaction_without_one_of_its_files_is_refused),
        T(a_missing_segment_beside_compacted_ones_is_refused),
        T(a_segment_is_missing_that_an_unmoved_compaction_stands_for),
        T(damage_in_a_compacted_segment_refuses_a_rebuild),
        T(the_end_of_an_unfinished_compaction_goes),
        T(a_flush_is_told_by_the_headers_behind_it),
        T(few_files_are_open_at_a_time_and_all_are_read),
        T(lookups_by_way_of_the_pool_find_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
