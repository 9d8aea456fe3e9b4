/*
 * test_logstore_mutations.c - a log in which anything may stand: a store opens or refuses, answers
 * every call, closes and opens again; no crash, no hang, no read beyond what is there.
 *
 * The segments of a good store are changed at random: bits, ranges, blocks in wrong places, cuts,
 * and fields of records whose checksums are then made right, so that the change is believed.
 * TEST_ROUNDS=n is for longer runs, TEST_SEED=n repeats one.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "base/log.h"
#include "random.h"
#include "store_fixture.h"

#define KEYS 40
#define HANG_SECONDS 60

/* docs/format.md */
enum { OFF_HEAD_SUM = 4, OFF_KIND = 12, OFF_BODY_SUM = 68 };

struct segment_file {
    char path[400];
    unsigned char *bytes;
    size_t len;
};

/* ---- the good store ---- */

static void key_text(unsigned i, char out[600])
{
    size_t lead = i % 10 == 0 ? 500 : 0;

    memset(out, 'k', lead);
    snprintf(out + lead, 600 - lead, "%u", i);
}

static void make_store(struct store_fixture *f, const char *template_dir, bool clean)
{
    size_t big_len = STORE_SPOOL_MIN + 100;
    char *big = calloc(1, big_len);
    char *large = calloc(1, 30001);
    char key[600];

    assert_non_null(big);
    assert_non_null(large);
    memset(large, 'l', 30000);
    f->config.sync = clean ? STORE_SYNC_ALWAYS : STORE_SYNC_OS;
    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < KEYS; i++) {
        key_text(i, key);
        put(f, key, i % 8 == 7 ? large : "12");
        if (i % 3 == 0)
            update(f, key, count_up, 3);
        if (i % 4 == 0)
            write_key(f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0), 4102444800000);
        if (i % 5 == 0)
            write_key(f, STORE_DELETE, STORE_ANY, 0, key, slice_of(NULL, 0), 0);
        if (i == KEYS / 4)
            flush_at(f, 0);
    }
    assert_int_equal(put_big(f, "big", big, big_len).status, STORE_OK);
    put(f, "last", "1");
    if (clean)
        store_shut(f);
    copy_tree(store_path(f, ""), template_dir);
    if (!clean)
        store_shut(f);
    free(big);
    free(large);
}

/* ---- changes ---- */

static void load_segment(struct store_fixture *f, struct segment_file *s)
{
    struct stat st;
    FILE *file;

    snprintf(s->path, sizeof(s->path), "%s", store_path(f, "log/00000001.seg"));
    file = fopen(s->path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &st), 0);
    s->len = (size_t)st.st_size;
    s->bytes = malloc(s->len + 1);
    assert_non_null(s->bytes);
    assert_int_equal(fread(s->bytes, 1, s->len, file), s->len);
    fclose(file);
    while (s->len > 0 && s->bytes[s->len - 1] == 0)
        s->len--;
}

static void save_segment(struct segment_file *s)
{
    FILE *file = fopen(s->path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(s->bytes, 1, s->len, file), s->len);
    assert_int_equal(fclose(file), 0);
    free(s->bytes);
}

/* The place of a random record. */
static size_t find_record(const struct segment_file *s, struct random *r)
{
    size_t from = random_below(r, s->len);
    const unsigned char *at = memmem(s->bytes + from, s->len - from, "TTR1", 4);

    if (at == NULL)
        at = memmem(s->bytes, s->len, "TTR1", 4);
    return at == NULL ? 0 : (size_t)(at - s->bytes);
}

/* Changes a byte of a record's head, or of the body, and makes the sums right. */
static void change_believably(struct segment_file *s, struct random *r)
{
    size_t at = find_record(s, r);
    unsigned char *p = s->bytes + at;
    size_t left = s->len - at;
    size_t head;
    uint64_t body;

    if (left < RECORD_HEAD_FIXED)
        return;
    head = RECORD_HEAD_FIXED + get_u16le(p + 14);
    if (head > left)
        return;
    for (uint64_t n = 1 + random_below(r, 2); n > 0; n--) {
        size_t where = OFF_KIND + random_below(r, head - OFF_KIND);

        if (random_below(r, 3) == 0)
            p[where] = (unsigned char)random_u64(r);
        else
            p[where] = (unsigned char)(p[where] ^ (1u << random_below(r, 8)));
    }
    head = RECORD_HEAD_FIXED + get_u16le(p + 14);
    if (head > left)
        return;
    body = (uint64_t)get_u32le(p + 16) + get_u32le(p + 20) + get_u32le(p + 24);
    if (body <= left - head)
        put_u64le(p + OFF_BODY_SUM, hash_bytes(p + head, (size_t)body));
    put_u64le(p + OFF_HEAD_SUM, hash_bytes(p + OFF_KIND, head - OFF_KIND));
}

static void change(struct segment_file *s, struct random *r)
{
    size_t at = random_below(r, s->len);
    size_t n = 1 + random_below(r, random_below(r, 2) ? 8 : 4096);

    if (n > s->len - at)
        n = s->len - at;
    switch (random_below(r, 9)) {
    case 0: s->bytes[at] ^= (unsigned char)(1u << random_below(r, 8)); break;
    case 1: memset(s->bytes + at, 0, n); break;
    case 2: memset(s->bytes + at, (int)random_below(r, 256), n); break;
    case 3: s->len = at; break;
    case 4: memmove(s->bytes + at, s->bytes + random_below(r, s->len - n + 1), n); break;
    default: change_believably(s, r); break;
    }
}

/* ---- looking ---- */

static void count_key(struct slice key, void *arg)
{
    assert_true(key.len <= RECORD_KEY_MAX);
    ++*(unsigned *)arg;
}

/* Everything that can be asked is answered, one way or another. */
static void use(struct store_fixture *f)
{
    unsigned listed = 0;
    char key[600];

    for (unsigned i = 0; i < KEYS + 2; i++) {
        enum store_status status;

        key_text(i, key);
        free(fetch(f, i < KEYS ? key : i == KEYS ? "big" : "last", NULL, &status, NULL));
        assert_true(status == STORE_OK || status == STORE_NOT_FOUND || status == STORE_DAMAGED ||
                    status == STORE_IO_ERROR);
        if (i % 4 == 1)
            update(f, key, count_up, 3);
    }
    (void)store_count(f->store);
    (void)store_scan_keys(f->store, slice_of(NULL, 0), false, slice_of(NULL, 0), 100, count_key,
                          &listed);
    assert_int_equal(put(f, "new", "value").status, STORE_OK);
    check_value(f, "new", "value");
}

static void one_round(struct store_fixture *f, const char *template_dir, struct random *r)
{
    struct segment_file s;

    remove_tree(store_path(f, ""));
    copy_tree(template_dir, store_path(f, ""));
    load_segment(f, &s);
    for (uint64_t n = 1 + random_below(r, 3); n > 0 && s.len > 0; n--)
        change(&s, r);
    save_segment(&s);
    if (random_below(r, 2))
        remove_tree(store_path(f, "index"));
    alarm(HANG_SECONDS);
    if (store_open(f) == 0) {
        use(f);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
        check_value(f, "new", "value");
        store_shut(f);
    }
    alarm(0);
}

static void run(struct store_fixture *f, bool clean)
{
    const char *text = getenv("TEST_ROUNDS");
    unsigned rounds = text != NULL ? (unsigned)strtoul(text, NULL, 10) : 60;
    struct random r = random_seeded();
    char template_dir[300];

    snprintf(template_dir, sizeof(template_dir), "%s/template", f->dir);
    make_store(f, template_dir, clean);
    log_set_level(LOG_ERROR + 1);
    for (unsigned i = 0; i < rounds; i++)
        one_round(f, template_dir, &r);
}

static void any_change_after_a_stop_is_survived(void **state)
{
    run(*state, true);
}

static void any_change_after_a_kill_is_survived(void **state)
{
    run(*state, false);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(any_change_after_a_stop_is_survived),
        T(any_change_after_a_kill_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
