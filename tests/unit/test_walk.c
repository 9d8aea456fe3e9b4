/*
 * test_walk.c - the walk over a data directory: order, positions, what is told of damage, and that
 * it goes on behind it with nothing but what was written.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

#include "base/hash.h"
#include "base/io.h"
#include "random.h"
#include "store/logstore/walk.h"
#include "store_fixture.h"

/* ---- what a walk gives ---- */

struct seen {
    uint64_t seq;
    uint64_t sum; /* of the record's bytes */
};

struct result {
    struct seen *at;
    size_t count;
    unsigned damage;
    unsigned torn;
    unsigned notes;
    char last[512]; /* the last finding */
    uint64_t last_offset;
    uint64_t first_seq;
    uint64_t last_seq;
    bool has_key;
};

static void on_finding(const struct walk_finding *f, void *arg)
{
    struct result *r = arg;

    r->damage += f->kind == WALK_DAMAGE;
    r->torn += f->kind == WALK_TORN;
    r->notes += f->kind == WALK_NOTE;
    snprintf(r->last, sizeof(r->last), "%s: %s", f->path, f->reason);
    r->last_offset = f->offset;
    r->first_seq = f->first_seq;
    r->last_seq = f->last_seq;
    r->has_key = f->has_key;
}

static void add(struct result *r, const struct walk_record *rec)
{
    r->at = reallocarray(r->at, r->count + 1, sizeof(r->at[0]));
    assert_non_null(r->at);
    r->at[r->count++] = (struct seen){rec->r.seq, hash_slice(rec->bytes)};
}

/* Walks through all of it; *result is the caller's to free(at). Returns walk_open()'s code. */
static int walk_all(const char *dir, bool superseded, struct result *r)
{
    struct walk_options options = {
        .lock = WALK_SHARED, .superseded = superseded, .found = on_finding, .arg = r};
    char why[WALK_WHY_MAX];
    struct walk_record rec;
    struct walk *w;
    int rc;

    memset(r, 0, sizeof(*r));
    rc = walk_open(dir, &options, &w, why);
    if (rc != 0)
        return rc;
    while ((rc = walk_next(w, &rec)) == 1) {
        /* What the position says is what can be read there. */
        struct buf room = {0};
        struct walk_record again;
        const char *reason;

        assert_int_equal(walk_read_at(w, rec.segment, rec.offset, &room, &again, &reason), 0);
        assert_int_equal(again.length, rec.length);
        assert_memory_equal(again.bytes.ptr, rec.bytes.ptr, rec.bytes.len);
        buf_free(&room);
        add(r, &rec);
    }
    assert_int_equal(rc, 0);
    walk_close(w);
    return 0;
}

/* True if every record of `part` is one of `whole`, in the same order. */
static bool is_part(const struct result *part, const struct result *whole)
{
    size_t k = 0;

    for (size_t i = 0; i < part->count; i++, k++) {
        while (k < whole->count &&
               (whole->at[k].seq != part->at[i].seq || whole->at[k].sum != part->at[i].sum))
            k++;
        if (k == whole->count)
            return false;
    }
    return true;
}

/* ---- stores ---- */

static void put_sized(struct store_fixture *f, unsigned n, size_t size)
{
    char *value = malloc(size + 1);
    char key[16];

    assert_non_null(value);
    memset(value, 'a' + (int)(n % 26), size);
    snprintf(key, sizeof(key), "k%u", n);
    assert_int_equal(write_key(f, STORE_PUT, STORE_ANY, 0, key, slice_of(value, size), 0).status,
                     STORE_OK);
    free(value);
}

/* Several segments, with records larger than a window. */
static void make_large(struct store_fixture *f)
{
    f->config.no_compaction = true;
    assert_int_equal(store_open(f), 0);
    for (unsigned n = 0; n < 30; n++)
        put_sized(f, n, n % 3 == 0 ? 1024 * 1024 - 100 : 1000 * n);
    store_shut(f);
}

/* Some small records in one segment, its zeros cut off. */
static off_t make_small(struct store_fixture *f)
{
    struct stat st;
    char last = 0;
    off_t end;
    int fd;

    f->config.no_compaction = true;
    assert_int_equal(store_open(f), 0);
    for (unsigned n = 0; n < 6; n++)
        put_sized(f, n, 20 * n);
    assert_int_equal(update(f, "k1", add_plus, 0).status, STORE_OK);
    store_shut(f);
    fd = open(store_path(f, "log/00000001.seg"), O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    for (end = st.st_size; last == 0; end--)
        assert_int_equal(pread(fd, &last, 1, end - 1), 1);
    assert_int_equal(ftruncate(fd, end + 1), 0);
    close(fd);
    return end + 1;
}

static void flip(struct store_fixture *f, off_t at, unsigned bit)
{
    int fd = open(store_path(f, "log/00000001.seg"), O_RDWR);
    unsigned char byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= (unsigned char)(1u << bit);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* ---- tests ---- */

static void test_all_records_come_in_their_order(void **state)
{
    struct store_fixture *f = *state;
    struct result r;

    make_large(f);
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage + r.torn + r.notes, 0);
    assert_int_equal(r.count, 31); /* and the mark of the stop */
    for (size_t i = 0; i < r.count; i++)
        assert_int_equal(r.at[i].seq, i + 1);
    free(r.at);
}

static void test_a_walk_begins_with_the_segment_of_a_record(void **state)
{
    struct store_fixture *f = *state;
    struct walk_options options = {.lock = WALK_UNLOCKED};
    char why[WALK_WHY_MAX];
    struct walk_record rec;
    struct walk *w;

    make_large(f);
    assert_int_equal(walk_open(store_path(f, ""), &options, &w, why), 0);
    assert_true(w->count > 2);
    walk_seek(w, 25);
    assert_int_equal(walk_next(w, &rec), 1);
    assert_true(rec.r.seq > 1 && rec.r.seq <= 25);
    walk_rewind(w);
    assert_int_equal(walk_next(w, &rec), 1);
    assert_int_equal(rec.r.seq, 1);
    walk_close(w);
}

static void test_a_store_that_is_open_is_in_use(void **state)
{
    struct store_fixture *f = *state;
    struct walk_options options = {.lock = WALK_SHARED};
    char why[WALK_WHY_MAX] = "";
    struct walk *w;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(walk_open(store_path(f, ""), &options, &w, why), -EWOULDBLOCK);
    assert_non_null(strstr(why, "is in use"));
    options.lock = WALK_UNLOCKED;
    assert_int_equal(walk_open(store_path(f, ""), &options, &w, why), 0);
    walk_close(w);
    store_shut(f);
}

/* Every flipped bit is found, and what is given is what was written. */
static void test_a_flipped_bit_anywhere_is_found(void **state)
{
    struct store_fixture *f = *state;
    off_t size = make_small(f);
    struct random random = random_seeded();
    struct result whole;
    struct result r;

    assert_int_equal(walk_all(store_path(f, ""), false, &whole), 0);
    assert_int_equal(whole.damage + whole.torn, 0);
    for (off_t at = 0; at < size; at++) {
        unsigned bit = (unsigned)random_below(&random, 8);

        flip(f, at, bit);
        assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
        if (r.damage + r.torn == 0 || !is_part(&r, &whole))
            fail_msg("bit %u of byte %jd: %u findings, %zu records", bit, (intmax_t)at,
                     r.damage + r.torn, r.count);
        free(r.at);
        flip(f, at, bit);
    }
    free(whole.at);
}

/* A record that was synced before the next one was written is damage, and the walk goes on behind
 * it; a torn last one is none. */
static void test_damage_in_the_middle_is_passed(void **state)
{
    struct store_fixture *f = *state;
    struct walk_options options = {.lock = WALK_SHARED};
    char why[WALK_WHY_MAX];
    struct walk_record rec;
    struct result r;
    struct walk *w;
    uint64_t offset;
    uint64_t length;

    make_small(f);
    assert_int_equal(walk_open(store_path(f, ""), &options, &w, why), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(walk_next(w, &rec), 1);
    offset = rec.offset;
    length = rec.length;
    walk_close(w);

    flip(f, (off_t)(offset + length - 1), 3); /* in the value: the key is known */
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage, 1);
    assert_int_equal(r.count, 7);
    assert_int_equal(r.last_offset, offset);
    assert_true(r.has_key && r.first_seq == 3 && r.last_seq == 3);
    free(r.at);
    flip(f, (off_t)offset, 0); /* in the head: the numbers around it tell which it was */
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage, 1);
    assert_int_equal(r.count, 7);
    assert_true(!r.has_key && r.first_seq == 3 && r.last_seq == 3);
    free(r.at);
}

static void test_a_cut_anywhere_is_no_damage(void **state)
{
    struct store_fixture *f = *state;
    off_t size = make_small(f);
    char *bytes = malloc((size_t)size);
    struct result whole;
    struct result r;
    int fd = open(store_path(f, "log/00000001.seg"), O_RDWR);

    assert_true(bytes != NULL && fd >= 0);
    assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
    assert_int_equal(walk_all(store_path(f, ""), false, &whole), 0);
    for (off_t cut = size - 1; cut >= (off_t)SEGMENT_HEADER_FIXED + 100; cut--) {
        assert_int_equal(ftruncate(fd, cut), 0);
        assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
        assert_int_equal(r.damage, 0);
        assert_true(r.torn <= 1 && r.count < whole.count && is_part(&r, &whole));
        free(r.at);
    }
    close(fd);
    free(whole.at);
    free(bytes);
}

/* ---- a disk that cannot be read somewhere ---- */

static off_t bad_from;
static off_t bad_to;

static ssize_t bad_pread(int fd, void *buf, size_t len, off_t offset)
{
    if (len > 0 && offset < bad_to && offset + (off_t)len > bad_from) {
        errno = EIO;
        return -1;
    }
    return pread(fd, buf, len, offset);
}

static void test_a_bad_sector_costs_what_lies_on_it(void **state)
{
    struct store_fixture *f = *state;
    struct io_calls calls = io_system_calls;
    struct walk_options options = {.lock = WALK_SHARED};
    char why[WALK_WHY_MAX];
    struct walk_record rec;
    struct result r = {0};
    struct walk *w;

    make_large(f);
    options.found = on_finding;
    options.arg = &r;
    assert_int_equal(walk_open(store_path(f, ""), &options, &w, why), 0);
    calls.pread = bad_pread;
    bad_from = 2 * 1024 * 1024; /* of every segment */
    bad_to = bad_from + 4096;
    io_replace(&calls);
    while (walk_next(w, &rec) == 1)
        add(&r, &rec);
    io_replace(NULL);
    assert_true(r.damage >= w->count - 1);
    assert_int_equal(r.count, 31 - r.damage);
    walk_close(w);
    free(r.at);
}

/* ---- segments made by hand ---- */

struct made {
    uint32_t number;
    bool compacted;
    uint64_t first_seq;
    uint64_t last_seq; /* compacted */
    uint32_t previous_number;
    uint64_t previous_seq;
    uint64_t seqs[8]; /* of its records, 0: no more */
};

static uint64_t make_segment(struct store_fixture *f, const struct identity *id,
                             const struct made *m, uint64_t previous_end)
{
    struct segment_header h = {
        .number = m->number,
        .history = identity_history(id),
        .first_seq = m->first_seq,
        .previous_number = m->previous_number,
        .previous_seq = m->previous_seq,
        .previous_end = previous_end,
        .compacted = m->compacted,
        .last_seq = m->compacted ? m->last_seq : 0,
    };
    unsigned char bytes[8192];
    size_t end = SEGMENT_HEADER_FIXED;
    char name[32];
    int fd;

    memcpy(h.store_uuid, id->uuid, sizeof(h.store_uuid));
    for (const uint64_t *seq = m->seqs; *seq != 0; seq++) {
        struct record r = {.kind = RECORD_PUT, .seq = *seq, .key = slice_str("key")};

        r.base = r.logged = r.touch = (struct stamp){*seq, id->epoch, 0};
        end += record_encode_head(identity_salt(id), &r, hash_slice(r.key), bytes + end);
        memcpy(bytes + end, r.key.ptr, r.key.len);
        end += r.key.len;
    }
    h.end = m->compacted ? end : 0;
    segment_header_encode(&h, bytes);
    snprintf(name, sizeof(name), "log/%08u.seg", m->number);
    fd = open(store_path(f, name), O_RDWR | O_CREAT | O_TRUNC, 0640);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, end), end);
    close(fd);
    return end;
}

/* A directory with these segments; the last one is the newest. */
static void make_segments(struct store_fixture *f, const struct made *made, size_t count)
{
    struct identity id;
    uint64_t ends[16] = {0};

    assert_int_equal(mkdir(store_path(f, ""), 0750), 0);
    assert_int_equal(mkdir(store_path(f, "log"), 0750), 0);
    assert_int_equal(identity_new(0, &id), 0);
    for (size_t i = 0; i < count; i++)
        ends[made[i].number] = make_segment(f, &id, &made[i], ends[made[i].previous_number]);
    id.last_segment = made[count - 1].number;
    assert_int_equal(identity_write(store_path(f, ""), &id), 0);
}

static void expect_seqs(const struct result *r, const uint64_t *seqs)
{
    for (size_t i = 0; i < r->count; i++)
        assert_int_equal(r->at[i].seq, seqs[i]);
    assert_int_equal(seqs[r->count], 0);
}

static void test_a_compacted_segment_stands_for_those_it_was_made_of(void **state)
{
    static const struct made made[] = {
        {.number = 1, .first_seq = 1, .seqs = {1, 2, 3}},
        {.number = 2, .first_seq = 4, .previous_number = 1, .previous_seq = 3, .seqs = {4, 5}},
        {.number = 5, .compacted = true, .first_seq = 1, .last_seq = 5, .seqs = {2, 5}},
        {.number = 4, .first_seq = 6, .previous_number = 2, .previous_seq = 5, .seqs = {6, 7}},
    };
    static const uint64_t shown[] = {2, 5, 6, 7, 0};
    static const uint64_t all[] = {1, 2, 3, 2, 5, 4, 5, 6, 7, 0};
    struct store_fixture *f = *state;
    struct result r;

    make_segments(f, made, 4);
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage + r.torn, 0);
    expect_seqs(&r, shown);
    free(r.at);
    assert_int_equal(walk_all(store_path(f, ""), true, &r), 0);
    assert_int_equal(r.damage + r.torn, 0);
    expect_seqs(&r, all);
    free(r.at);
}

static void test_what_is_missing_between_segments_is_told(void **state)
{
    static const struct made made[] = {
        {.number = 3, .compacted = true, .first_seq = 1, .last_seq = 5, .seqs = {2, 5}},
        {.number = 4, .first_seq = 9, .previous_number = 2, .previous_seq = 8, .seqs = {9}},
    };
    static const uint64_t shown[] = {2, 5, 9, 0};
    struct store_fixture *f = *state;
    struct result r;

    make_segments(f, made, 2);
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage, 1);
    assert_true(r.first_seq == 6 && r.last_seq == 8);
    expect_seqs(&r, shown);
    free(r.at);
}

static void test_numbers_that_go_back_or_are_missing_are_told(void **state)
{
    static const struct made made[] = {
        {.number = 1, .first_seq = 1, .seqs = {1, 2, 5, 4, 6}},
        {.number = 2, .first_seq = 7, .previous_number = 1, .previous_seq = 6, .seqs = {7}},
    };
    static const uint64_t shown[] = {1, 2, 5, 6, 7, 0};
    struct store_fixture *f = *state;
    struct result r;

    make_segments(f, made, 2);
    assert_int_equal(walk_all(store_path(f, ""), false, &r), 0);
    assert_int_equal(r.damage, 2);
    expect_seqs(&r, shown);
    free(r.at);
}

#define CASE(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_all_records_come_in_their_order),
        CASE(test_a_walk_begins_with_the_segment_of_a_record),
        CASE(test_a_store_that_is_open_is_in_use),
        CASE(test_a_flipped_bit_anywhere_is_found),
        CASE(test_damage_in_the_middle_is_passed),
        CASE(test_a_cut_anywhere_is_no_damage),
        CASE(test_a_bad_sector_costs_what_lies_on_it),
        CASE(test_a_compacted_segment_stands_for_those_it_was_made_of),
        CASE(test_what_is_missing_between_segments_is_told),
        CASE(test_numbers_that_go_back_or_are_missing_are_told),
    };

    return cmocka_run_group_tests_name("walk", tests, NULL, NULL);
}
