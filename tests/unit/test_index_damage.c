/*
 * test_index_damage.c - index files that are not what we wrote: each is found (-EUCLEAN, so that
 * the caller rebuilds it) and none of them ends the program or hangs it.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "index_fixture.h"
#include "random.h"
#include "store/logstore/index_format.h"

enum { ROWS = 2000, PAGE = 4096 };

struct image {
    unsigned char *data;
    size_t size;
};

static void file_path(const struct index_fixture *f, char out[TEMP_DIR_MAX + 16])
{
    snprintf(out, TEMP_DIR_MAX + 16, "%s/data.mdb", f->dir);
}

static struct image image_read(const struct index_fixture *f)
{
    char path[TEMP_DIR_MAX + 16];
    struct image image;
    struct stat st;
    int fd;

    file_path(f, path);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    image.size = (size_t)st.st_size;
    image.data = malloc(image.size);
    assert_non_null(image.data);
    assert_int_equal(io_read_full(fd, image.data, image.size, 0), 0);
    close(fd);
    return image;
}

static void image_write(const struct index_fixture *f, const unsigned char *data, size_t size)
{
    char path[TEMP_DIR_MAX + 16];
    int fd;

    file_path(f, path);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(io_write_full(fd, data, size, 0), 0);
    close(fd);
}

static struct slice row_key(char text[16], unsigned i)
{
    return slice_of(text, (size_t)snprintf(text, 16, "key-%06u", i));
}

/* An index of ROWS rows, with a meta that is long enough to lie on pages of its own. */
static struct image image_make(struct index_fixture *f)
{
    static const char vectors[9000];
    struct index_meta meta = {.seq = 7, .vectors = {vectors, sizeof(vectors)}};

    fixture_open(f);
    for (unsigned round = 0; round < 2; round++) { /* the second leaves free pages behind */
        struct delta *d = delta_new(ROWS);
        struct delta_item *items;
        size_t count;

        for (unsigned i = 0; i < ROWS; i++) {
            char text[16];
            struct slice key = row_key(text, i);
            struct entry e = entry_numbered(i + 1);

            assert_int_equal(delta_put(d, hash_slice(key), key, &e, i + 1), 0);
        }
        assert_int_equal(delta_sorted(d, &items, &count), 0);
        assert_int_equal(index_apply(f->index, items, count, &meta, false), 0);
        free(items);
        delta_free(d);
    }
    fixture_close(f);
    return image_read(f);
}

static bool count_row(struct slice index_key, const struct entry *e, void *arg)
{
    (void)index_key;
    (void)e;
    ++*(size_t *)arg;
    return true;
}

static int use_meta(struct index_fixture *f)
{
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta meta;
    int rc;

    assert_non_null(room);
    rc = index_read_meta(f->index, &meta, room);
    free(room);
    return rc;
}

static int use_find(struct index_fixture *f)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < ROWS; i++) {
        char text[16];
        struct entry e;

        rc = index_find(f->reader, row_key(text, i), &e);
    }
    return rc;
}

static int use_walk(struct index_fixture *f)
{
    size_t rows = 0;
    int rc = index_walk(f->reader, slice_of(NULL, 0), count_row, &rows);

    return rc == 0 && rows != ROWS ? -ENOENT : rc;
}

/* Opens the index and reads all of it in all ways. 0, or the first -errno. */
static int use(struct index_fixture *f)
{
    static int (*const ways[])(struct index_fixture *) = {use_meta, use_walk, use_find};
    int first = 0;
    int rc = index_open(f->dir, 4, &f->index);

    if (rc != 0)
        return rc;
    assert_int_equal(index_reader_open(f->index, &f->reader), 0);
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        rc = ways[i](f);
        if (first == 0)
            first = rc;
    }
    fixture_close(f);
    return first;
}

/* What the caller does with a broken index must lead to a good one. */
static void check_rebuild(struct index_fixture *f)
{
    assert_int_equal(index_remove(f->dir), 0);
    fixture_open(f);
    fixture_put(f, "k", 1);
    assert_int_equal(fixture_seen(f, slice_str("k")), 1);
    fixture_close(f);
    assert_int_equal(index_remove(f->dir), 0);
}

static void cut_files_are_found_at_open(void **state)
{
    struct index_fixture *f = *state;
    struct image image = image_make(f);
    size_t cuts[] = {1,
                     15,
                     16,
                     151,
                     152,
                     PAGE - 1,
                     PAGE,
                     PAGE + 1,
                     PAGE + 151,
                     PAGE + 152,
                     2 * PAGE,
                     3 * PAGE,
                     image.size / 2,
                     image.size - 1,
                     image.size - PAGE};

    assert_int_equal(use(f), 0);
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct index *index;

        image_write(f, image.data, cuts[i]);
        assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
    }
    check_rebuild(f);
    image_write(f, image.data, image.size);
    assert_int_equal(use(f), 0); /* it was the cut and nothing else */
    free(image.data);
}

static void an_emptied_file_is_an_empty_index(void **state)
{
    struct index_fixture *f = *state;
    struct image image = image_make(f);

    image_write(f, image.data, 0);
    assert_int_equal(use(f), -ENOENT); /* of the meta */
    free(image.data);
}

static void foreign_and_random_bytes_are_found_at_open(void **state)
{
    static const unsigned char text[] = "this is no index\n";
    struct index_fixture *f = *state;
    struct image image = image_make(f);
    struct random random = random_seeded();
    struct index *index;

    image_write(f, text, sizeof(text) - 1);
    assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
    memset(image.data, 0, image.size);
    image_write(f, image.data, image.size);
    assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
    for (unsigned round = 0; round < 20; round++) {
        for (size_t i = 0; i < image.size; i++)
            image.data[i] = (unsigned char)random_u64(&random);
        image_write(f, image.data, image.size);
        assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
    }
    check_rebuild(f);
    free(image.data);
}

static void impossible_headers_are_found_at_open(void **state)
{
    /* In the header at `page`, `size` bytes at `at` are made `value` (this host's byte order). */
    static const struct {
        size_t page;
        size_t at;
        size_t size;
        uint64_t value;
    } table[] = {
        {0, 10, 2, 0},                  /* not a header page */
        {0, 16, 4, 0xBEEFC0DF},         /* magic */
        {1, 16, 4, 0},                  /* magic of the second */
        {0, 20, 4, 2},                  /* LMDB's format */
        {1, 20, 4, 999},                /* of the second */
        {0, 40, 4, 0},                  /* page size: division by zero */
        {0, 40, 4, 3},                  /* no power of two */
        {0, 40, 4, 8192},               /* not that of the second */
        {0, 40, 4, 256},                /* too small */
        {0, 40, 4, 1u << 20},           /* too large */
        {0, 40, 4, UINT32_MAX},         /* beyond the end */
        {1, 40, 4, 0},                  /* second */
        {0, 136, 8, UINT64_MAX},        /* last page */
        {1, 136, 8, UINT64_MAX / PAGE}, /* last page, its bytes overflow */
        {1, 136, 8, 1u << 20},          /* behind the end of the file */
    };
    struct index_fixture *f = *state;
    struct image image = image_make(f);

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        unsigned char *at = image.data + table[i].page * PAGE + table[i].at;
        unsigned char saved[8];
        struct index *index;

        memcpy(saved, at, table[i].size);
        memcpy(at, &table[i].value, table[i].size);
        image_write(f, image.data, image.size);
        assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
        memcpy(at, saved, table[i].size);
    }
    image_write(f, image.data, image.size);
    assert_int_equal(use(f), 0);
    free(image.data);
}

static uint64_t header_u64(const struct image *image, size_t page, size_t at)
{
    uint64_t value;

    memcpy(&value, image->data + page * PAGE + at, sizeof(value));
    return value;
}

/* The roots of the newer header are used; in the older one a write that failed may have left some
 * that do not fit. */
static void impossible_roots_are_found_where_they_matter(void **state)
{
    static const struct {
        size_t at;
        uint64_t value;
    } table[] = {
        {80, 1u << 20},        /* of the free pages */
        {128, UINT64_MAX - 1}, /* of the databases */
    };
    struct index_fixture *f = *state;
    struct image image = image_make(f);
    size_t newer = header_u64(&image, 1, 144) > header_u64(&image, 0, 144);

    for (size_t i = 0; i < 2 * sizeof(table) / sizeof(table[0]); i++) {
        size_t page = i % 2 == 0 ? newer : 1 - newer;
        uint64_t saved = header_u64(&image, page, table[i / 2].at);
        struct index *index;

        memcpy(image.data + page * PAGE + table[i / 2].at, &table[i / 2].value, 8);
        image_write(f, image.data, image.size);
        assert_int_equal(index_open(f->dir, 4, &index), page == newer ? -EUCLEAN : 0);
        if (page != newer)
            index_close(index);
        memcpy(image.data + page * PAGE + table[i / 2].at, &saved, 8);
    }
    free(image.data);
}

/* True if an index with rows is there. */
static bool opens_again(struct index_fixture *f)
{
    uint64_t rows = 0;
    uint64_t used;

    if (index_open(f->dir, 4, &f->index) != 0)
        return false;
    assert_int_equal(index_figures(f->index, &rows, &used), 0);
    index_close(f->index);
    return rows > 0;
}

/* A page that was never written is what a disk that lies about flushes leaves behind. */
static void unwritten_pages_are_found_when_they_are_used(void **state)
{
    struct index_fixture *f = *state;
    struct image image = image_make(f);
    unsigned char saved[PAGE];
    size_t found = 0;

    for (size_t page = 2; page < image.size / PAGE; page++) {
        int rc;

        memcpy(saved, image.data + page * PAGE, PAGE);
        memset(image.data + page * PAGE, 0, PAGE);
        image_write(f, image.data, image.size);
        rc = use(f);
        assert_true(rc == 0 || rc == -EUCLEAN); /* 0: nothing lay on it any more */
        /* At open the caller removes it; later nobody else would. */
        assert_true(rc == 0 || !opens_again(f));
        found += rc != 0;
        memcpy(image.data + page * PAGE, saved, PAGE);
    }
    assert_true(found >= ROWS * 30 / PAGE); /* at least the leaves */
    free(image.data);
}

/* ---- a file that LMDB likes and that is not ours ---- */

enum foreign { OTHER_FORMAT, NO_FORMAT, NO_DATABASES, BAD_META, BAD_ROW };

static void foreign_make(const struct index_fixture *f, enum foreign what)
{
    static const char *const database[] = {"meta", "meta", "other", "meta", "keys"};
    static const char *const name[] = {"format", "format", "x", "position", "\1k"};
    MDB_val key = {strlen(name[what]), (void *)(uintptr_t)name[what]};
    MDB_val value;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;

    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_maxdbs(env, 8), 0);
    assert_int_equal(mdb_env_open(env, f->dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, database[what], MDB_CREATE, &dbi), 0);
    if (what == NO_FORMAT) {
        assert_int_equal(mdb_del(txn, dbi, &key, NULL), 0);
    } else if (what == BAD_META) {
        unsigned char copy[200];

        assert_int_equal(mdb_get(txn, dbi, &key, &value), 0);
        assert_true(value.mv_size <= sizeof(copy));
        memcpy(copy, value.mv_data, value.mv_size);
        copy[30] ^= 1;
        value.mv_data = copy;
        assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    } else {
        value = (MDB_val){4, (void *)(uintptr_t) "\1\0\0\0"};
        assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    }
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void other_formats_are_found_at_open(void **state)
{
    static const enum foreign table[] = {OTHER_FORMAT, NO_FORMAT, NO_DATABASES};
    struct index_fixture *f = *state;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct index *index;

        if (table[i] != NO_DATABASES) {
            fixture_open(f);
            fixture_close(f);
        }
        foreign_make(f, table[i]);
        assert_int_equal(index_open(f->dir, 4, &index), -EUCLEAN);
        check_rebuild(f);
    }
}

static void a_changed_meta_or_row_is_found_when_it_is_read(void **state)
{
    struct index_fixture *f = *state;
    struct index_meta meta = {.seq = 3};
    char *room = malloc(INDEX_VECTORS_MAX);
    struct entry e;
    size_t rows = 0;

    assert_non_null(room);
    fixture_open(f);
    assert_int_equal(index_apply(f->index, NULL, 0, &meta, false), 0);
    fixture_put(f, "k", 1);
    fixture_close(f);
    foreign_make(f, BAD_META);
    foreign_make(f, BAD_ROW);
    fixture_open(f);
    assert_int_equal(index_read_meta(f->index, &meta, room), -EUCLEAN);
    assert_int_equal(index_find(f->reader, slice_str("k"), &e), -EUCLEAN);
    assert_int_equal(index_walk(f->reader, slice_of(NULL, 0), count_row, &rows), -EUCLEAN);
    assert_int_equal(rows, 0);
    fixture_close(f);
    free(room);
}

/* A meta is cut or lengthened at every place, and read before a page that cannot be touched. */
static void no_part_of_a_meta_is_a_meta(void **state)
{
    struct index_meta meta = {.seq = 3, .vectors = slice_str("vectors")};
    size_t size = index_meta_size(&meta);
    unsigned char *bytes = calloc(1, size + 1);
    char *room = malloc(INDEX_VECTORS_MAX);
    struct index_meta back;

    (void)state;
    assert_non_null(bytes);
    assert_non_null(room);
    index_meta_encode(&meta, bytes);
    for (size_t len = 0; len <= size + 1; len++) {
        char *copy = guarded_copy(bytes, len);

        assert_int_equal(index_meta_decode(slice_of(copy, len), &back, room), len == size);
    }
    for (size_t i = 0; i < size * 8; i++) {
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        assert_false(index_meta_decode(slice_of(guarded_copy(bytes, size), size), &back, room));
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    free(room);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fixture_test(cut_files_are_found_at_open),
        fixture_test(an_emptied_file_is_an_empty_index),
        fixture_test(foreign_and_random_bytes_are_found_at_open),
        fixture_test(impossible_headers_are_found_at_open),
        fixture_test(impossible_roots_are_found_where_they_matter),
        fixture_test(unwritten_pages_are_found_when_they_are_used),
        fixture_test(other_formats_are_found_at_open),
        fixture_test(a_changed_meta_or_row_is_found_when_it_is_read),
        cmocka_unit_test(no_part_of_a_meta_is_a_meta),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
