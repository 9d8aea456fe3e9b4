/*
 * index_fixture.h - an index in a directory of its own, for the tests of index, damage and scan.
 *
 * Threads:  one.
 */
#ifndef TESTS_INDEX_FIXTURE_H
#define TESTS_INDEX_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/hash.h"
#include "guarded.h"
#include "store/logstore/delta.h"
#include "store/logstore/index.h"
#include "temp_dir.h"

struct index_fixture {
    char dir[TEMP_DIR_MAX];
    struct index *index;
    struct index_reader *reader;
};

static inline int fixture_make(void **state)
{
    struct index_fixture *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return -1;
    temp_dir_make(f->dir);
    *state = f;
    return 0;
}

static inline int fixture_remove(void **state)
{
    struct index_fixture *f = *state;

    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

#define fixture_test(name) cmocka_unit_test_setup_teardown(name, fixture_make, fixture_remove)

static inline void fixture_open(struct index_fixture *f)
{
    assert_int_equal(index_open(f->dir, 4, &f->index), 0);
    assert_int_equal(index_reader_open(f->index, &f->reader), 0);
}

static inline void fixture_close(struct index_fixture *f)
{
    index_reader_close(f->reader);
    index_close(f->index);
}

/* An entry that carries a number, which fixture_seen() gives back. */
static inline struct entry entry_numbered(uint64_t number)
{
    return (struct entry){
        .segment = (uint32_t)(number / 1000),
        .offset = (uint32_t)number * 8,
        .length = 100,
        .kind = RECORD_PUT,
        .base = {.version = number, .epoch = 1, .node = 1},
        .cas = number,
    };
}

static inline bool entries_equal(const struct entry *a, const struct entry *b)
{
    return a->segment == b->segment && a->offset == b->offset && a->length == b->length &&
           a->has_touch == b->has_touch && a->touch_segment == b->touch_segment &&
           a->touch_offset == b->touch_offset && a->touch_length == b->touch_length &&
           a->kind == b->kind && a->big_file == b->big_file && a->big_bytes == b->big_bytes &&
           stamp_compare(a->base, b->base) == 0 && a->expires_ms == b->expires_ms &&
           a->cas == b->cas;
}

/* A checkpoint of one row, without a meta. */
static inline void fixture_put(struct index_fixture *f, const char *key, uint64_t number)
{
    struct entry e = entry_numbered(number);
    struct delta_item item = {slice_str(key), &e, number};

    assert_int_equal(index_apply(f->index, &item, 1, NULL, false), 0);
}

/* The number in the key's row, 0: there is none. */
static inline uint64_t fixture_seen(struct index_fixture *f, struct slice key)
{
    struct entry want;
    struct entry e;
    int rc = index_find(f->reader, key, &e);

    if (rc == -ENOENT)
        return 0;
    assert_int_equal(rc, 0);
    want = entry_numbered(e.base.version);
    assert_true(entries_equal(&e, &want));
    return e.base.version;
}

static inline int sign(int x)
{
    return (x > 0) - (x < 0);
}

#endif
