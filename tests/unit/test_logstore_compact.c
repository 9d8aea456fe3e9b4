/*
 * test_logstore_compact.c - compaction in a running store: random histories against a model, with
 * readers and scans beside it, then reopened, and rebuilt from what compaction has left of the log.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "compact_model.h"
#include "store/logstore/segment_cursor.h"

#define SEGMENT_BYTES (256u * 1024)

/* ---- the clock ---- */

static _Atomic int64_t later_ms;

static int64_t read_wall(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000 + atomic_load(&later_ms);
}

static int64_t read_mono(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1 + atomic_load(&later_ms);
}

static int setup_with_clock(void **state)
{
    static const struct clock_source source = {read_wall, read_mono, NULL};

    atomic_store(&later_ms, 0);
    clock_replace(&source);
    return store_fixture_setup(state);
}

static int teardown_with_clock(void **state)
{
    int rc = store_fixture_teardown(state);

    clock_replace(NULL);
    return rc;
}

/* ---- beside it ---- */

struct reader {
    struct model *keys;     /* for the texts of keys only */
    struct store_fixture f; /* with a port of its own */
    _Atomic bool stop;
    pthread_t thread;
    unsigned reads;
    unsigned failures;
};

/* Any answer is right but "damaged" and the like. */
static void *read_on(void *arg)
{
    struct reader *r = arg;

    while (!atomic_load(&r->stop)) {
        enum store_status status;

        free(fetch(&r->f, model_key(r->keys, r->reads % KEYS), NULL, &status, NULL));
        r->reads++;
        r->failures += status != STORE_OK && status != STORE_NOT_FOUND;
    }
    return NULL;
}

static bool count_one(const struct store_scan_item *item, void *arg)
{
    (void)item;
    ++*(unsigned *)arg;
    return true;
}

static void *scan_on(void *arg)
{
    struct reader *r = arg;
    const struct store_range everything = {0};

    while (!atomic_load(&r->stop)) {
        unsigned keys = 0;

        r->failures += store_scan(r->f.store, &everything, 1000, count_one, &keys) < 0;
        r->failures += keys > KEYS;
        r->reads++;
    }
    return NULL;
}

static void begin_beside(struct reader *r, struct model *m, void *(*run)(void *arg))
{
    memset(r, 0, sizeof(*r));
    r->keys = calloc(1, sizeof(*r->keys));
    assert_non_null(r->keys);
    r->f = *m->f;
    assert_int_equal(aio_open(r->f.pool, true, &r->f.aio), 0);
    assert_int_equal(store_port_open(r->f.store, r->f.aio, &r->f.port), 0);
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

static void end_beside(struct reader *r)
{
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
    store_port_close(r->f.port);
    aio_close(r->f.aio);
    free(r->keys);
    assert_true(r->reads > 0);
    assert_int_equal(r->failures, 0);
}

/* ---- the tests ---- */

static struct model *begin(void **state)
{
    struct store_fixture *f = *state;
    struct model *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    m->f = f;
    m->random = random_seeded();
    f->config.segment_bytes = SEGMENT_BYTES;
    f->config.reader_ports = 4;
    f->config.sync = STORE_SYNC_OS;
    f->config.checkpoint_entries = 500;
    assert_int_equal(store_open(f), 0);
    return m;
}

static void reopen(struct model *m, bool rebuild)
{
    store_shut(m->f);
    if (rebuild)
        remove_tree(store_path(m->f, "index"));
    assert_int_equal(store_open(m->f), 0);
}

static void check_bounds(struct store_fixture *f)
{
    uint64_t bytes = model_figure(f, "segment_bytes");

    assert_true(model_figure(f, "segments") <= 2 * bytes / SEGMENT_BYTES + 8);
    assert_int_equal(count_files(store_path(f, "log")), model_figure(f, "segments"));
    assert_true(bytes <= model_figure(f, "live_bytes") * 10 / 6 + 2 * SEGMENT_BYTES);
}

static void overwritten_values_give_their_space_back(void **state)
{
    struct model *m = begin(state);

    for (unsigned round = 0; round < 40; round++)
        for (unsigned i = 100; i < 150; i++) {
            m->keys[i].version++;
            m->keys[i].len = 2000;
            m->keys[i].live = true;
            (void)model_value(m, i);
            assert_int_equal(put(m->f, model_key(m, i), m->value).status, STORE_OK);
        }
    model_compact(m->f);
    check_bounds(m->f);
    assert_true(model_figure(m->f, "compacted_segments") > 5);
    model_check(m);
    reopen(m, false);
    model_check(m);
    reopen(m, true);
    model_check(m);
    free(m);
}

static void run_random_histories(struct model *m, bool thorough)
{
    for (unsigned round = 0; round < 8; round++) {
        struct reader reader;
        struct reader scanner;

        begin_beside(&reader, m, read_on);
        begin_beside(&scanner, m, scan_on);
        for (unsigned n = 0; n < 1500; n++)
            model_step(m);
        if (random_below(&m->random, 4) != 0) {
            thorough ? model_compact(m->f) : model_compact_most(m->f);
            if (thorough)
                check_bounds(m->f);
        }
        end_beside(&reader);
        end_beside(&scanner);
        model_check(m);
        if (random_below(&m->random, 2) == 0) {
            reopen(m, random_below(&m->random, 2) == 0);
            model_check(m);
        }
        atomic_fetch_add(&later_ms, (int64_t)random_below(&m->random, 30000));
    }
    model_compact_most(m->f);
    reopen(m, true);
    model_check(m);
    free(m);
}

static void random_histories_agree_with_a_model(void **state)
{
    run_random_histories(begin(state), true);
}

static void the_same_with_history_that_is_kept_for_a_while(void **state)
{
    struct store_fixture *f = *state;

    f->config.keep_history_ms = 10000;
    run_random_histories(begin(state), false);
}

/* ---- keys that stay ---- */

#define FIXED 60

static void fixed_text(unsigned i, char key[600], char value[64])
{
    size_t lead = i % 7 == 0 ? 500 : 0;

    memset(key, 'f', lead);
    snprintf(key + lead, 600 - lead, "fixed-%u", i);
    snprintf(value, 64, "value of %u", i);
}

/* Each of them is there at every moment, whole. */
static void *read_fixed(void *arg)
{
    struct reader *r = arg;

    while (!atomic_load(&r->stop)) {
        char key[600];
        char value[64];
        char *got;

        fixed_text(r->reads++ % FIXED, key, value);
        got = fetch(&r->f, key, NULL, NULL, NULL);
        r->failures += got == NULL || strcmp(got, value) != 0;
        free(got);
    }
    return NULL;
}

static void a_key_that_stays_is_found_at_every_moment(void **state)
{
    struct model *m = begin(state);
    struct reader reader;
    static char churn[3000];
    char key[600];
    char value[64];

    memset(churn, 'c', sizeof(churn) - 1);
    for (unsigned i = 0; i < FIXED; i++) {
        fixed_text(i, key, value);
        assert_int_equal(put(m->f, key, value).status, STORE_OK);
        for (unsigned n = 0; n < 20; n++)
            assert_int_equal(put(m->f, "churn", churn).status, STORE_OK);
    }
    begin_beside(&reader, m, read_fixed);
    for (unsigned round = 0; round < 300; round++) {
        /* Their places change by compaction, and are copied by touches at the same time. */
        fixed_text((unsigned)random_below(&m->random, FIXED), key, value);
        assert_int_equal(write_key(m->f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0),
                                   clock_wall_ms() + 10000000)
                             .status,
                         STORE_OK);
        for (unsigned n = 0; n < 10; n++)
            assert_int_equal(put(m->f, "churn", churn).status, STORE_OK);
        if (round % 10 == 0)
            compact_now(logstore_of(m->f->store));
    }
    model_compact(m->f);
    end_beside(&reader);
    assert_true(model_figure(m->f, "compacted_segments") > 5);
    reopen(m, true);
    for (unsigned i = 0; i < FIXED; i++) {
        fixed_text(i, key, value);
        check_value(m->f, key, value);
    }
    free(m);
}

/* ---- what is not to be compacted ---- */

/* Segments 1 and so on, every one mostly dead; closed and in the index when the store is opened. */
static void make_dead_segments(struct model *m)
{
    store_shut(m->f);
    m->f->config.no_compaction = true;
    assert_int_equal(store_open(m->f), 0);
    for (unsigned n = 0; n < 600; n++)
        model_put(m, n % 10 == 0 ? n / 10 : 100 + n % 100);
    store_shut(m->f);
    m->f->config.no_compaction = false;
}

static void flip_byte(const char *path, off_t at)
{
    char byte;
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte = (char)(byte ^ 1);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void a_damaged_segment_is_left_alone_and_the_others_are_compacted(void **state)
{
    struct model *m = begin(state);
    struct stat before;
    struct stat after;

    make_dead_segments(m);
    assert_int_equal(stat(store_path(m->f, "log/00000002.seg"), &before), 0);
    flip_byte(store_path(m->f, "log/00000002.seg"), before.st_size / 2);
    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(m->f), 0);
    model_compact_most(m->f);
    assert_int_equal(stat(store_path(m->f, "log/00000002.seg"), &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(model_figure(m->f, "damaged_reads"), 1);
    assert_true(model_figure(m->f, "compacted_segments") > 1);
    free(m);
}

static void while_compaction_is_held_no_file_comes_or_goes(void **state)
{
    struct model *m = begin(state);
    struct logstore *ls;
    unsigned files;
    uint64_t last;

    make_dead_segments(m);
    files = count_files(store_path(m->f, "log"));
    assert_int_equal(store_open(m->f), 0);
    ls = logstore_of(m->f->store);
    compact_hold(ls);
    compact_hold(ls);
    files = count_files(store_path(m->f, "log"));
    compact_release(ls); /* the other one still holds it */
    last = compact_looks(ls);
    while (compact_looks(ls) < last + 5) {
        compact_wake(ls);
        model_nap();
    }
    assert_int_equal(count_files(store_path(m->f, "log")), files);
    compact_release(ls);
    model_compact(m->f);
    assert_true(count_files(store_path(m->f, "log")) < files);
    model_check(m);
    free(m);
}

/* ---- headers ---- */

/* Reads the header of every compacted segment; each() gets it. */
static unsigned each_compacted(struct store_fixture *f,
                               void (*each)(const struct segment_header *h, void *arg), void *arg)
{
    struct segment **list;
    size_t count;
    char *room = malloc(SEGMENT_HEADER_MAX);
    unsigned found = 0;

    assert_non_null(room);
    assert_int_equal(log_list_segments(logstore_of(f->store), &list, &count), 0);
    for (size_t i = 0; i < count; i++) {
        struct segment_header h;
        size_t length;
        ssize_t got = segment_read(list[i], room, SEGMENT_HEADER_MAX, 0);

        assert_true(got > 0);
        assert_int_equal(segment_header_decode(slice_of(room, (size_t)got), &h, &length),
                         RECORD_DONE);
        if (!h.compacted)
            continue;
        found++;
        assert_int_equal(h.end, atomic_load(&list[i]->end));
        assert_int_equal(h.last_seq + 1, list[i + 1]->first_seq);
        each(&h, arg);
    }
    log_release_segments(list, count);
    free(room);
    return found;
}

struct marks {
    uint64_t let_go; /* highest of all */
    uint64_t removed;
};

static void take_marks(const struct segment_header *h, void *arg)
{
    struct marks *marks = arg;
    struct vectors *v = malloc(sizeof(*v));

    assert_non_null(v);
    assert_true(vectors_decode(h->vectors, v));
    if (h->let_go > marks->let_go)
        marks->let_go = h->let_go;
    for (unsigned i = 0; i < v->removed_count; i++)
        if (v->removed[i].version > marks->removed)
            marks->removed = v->removed[i].version;
    free(v);
}

static void headers_tell_what_was_let_go_and_removed(void **state)
{
    struct model *m = begin(state);
    struct marks marks = {0};
    static char value[3000];
    uint64_t successor;
    uint64_t tombstone;

    memset(value, 'v', sizeof(value) - 1);
    put(m->f, "gone", "soon");
    assert_int_equal(
        write_key(m->f, STORE_DELETE, STORE_ANY, 0, "gone", slice_of(NULL, 0), 0).status, STORE_OK);
    tombstone = atomic_load(&logstore_of(m->f->store)->clock);
    for (unsigned n = 0; n < 500; n++)
        successor = put(m->f, "key", value).cas;
    model_compact(m->f);
    assert_true(each_compacted(m->f, take_marks, &marks) > 0);
    /* The last value of the run's records was let go by one in the active segment, or by its own
     * neighbour: in no case by one that came after the last. */
    assert_true(marks.let_go > tombstone && marks.let_go <= successor);
    assert_int_equal(marks.removed, tombstone);
    assert_int_equal(model_figure(m->f, "tombstone_bytes"), 0);
    reopen(m, true);
    check_value(m->f, "gone", NULL);
    check_value(m->f, "key", value);
    free(m);
}

/* ---- flushes ---- */

static void a_delayed_flush_stays_in_force_when_its_record_is_compacted(void **state)
{
    struct model *m = begin(state);
    static char value[3000];

    memset(value, 'v', sizeof(value) - 1);
    put(m->f, "flushed", "1");
    assert_int_equal(flush_at(m->f, clock_wall_ms() + 50).status, STORE_OK);
    while (store_count(m->f->store) > 0)
        model_nap();
    assert_int_equal(flush_at(m->f, clock_wall_ms() + 100000000).status, STORE_OK);
    for (unsigned n = 0; n < 300; n++)
        assert_int_equal(put(m->f, "key", value).status, STORE_OK);
    model_compact(m->f);
    for (unsigned round = 0; round < 2; round++) {
        int64_t at_ms;

        check_value(m->f, "flushed", NULL);
        check_value(m->f, "key", value);
        assert_int_equal(store_count(m->f->store), 1);
        (void)keyspace_flush_pending(logstore_of(m->f->store), &at_ms);
        assert_true(at_ms > clock_wall_ms());
        reopen(m, true);
    }
    free(m);
}

/* ---- history ---- */

static unsigned count_records(struct store_fixture *f, const char *key)
{
    struct segment **list;
    size_t count;
    unsigned found = 0;

    assert_int_equal(log_list_segments(logstore_of(f->store), &list, &count), 0);
    for (size_t i = 0; i < count; i++) {
        struct segment_cursor cursor;
        struct record r;
        struct slice bytes;
        uint64_t offset;

        assert_int_equal(segment_cursor_open(&cursor, list[i], atomic_load(&list[i]->end),
                                             logstore_of(f->store)->salt),
                         0);
        while (segment_cursor_next(&cursor, &r, &bytes, &offset) == 1)
            found += slice_is(r.key, key);
        segment_cursor_close(&cursor);
    }
    log_release_segments(list, count);
    return found;
}

static void history_that_is_wanted_stays_as_long_as_it_is_wanted(void **state)
{
    struct store_fixture *f = *state;
    struct model *m;
    static char value[3000];

    f->config.keep_history_ms = 1000000;
    m = begin(state);
    memset(value, 'v', sizeof(value) - 1);
    for (unsigned n = 0; n < 500; n++)
        assert_int_equal(put(m->f, "key", value).status, STORE_OK);
    /* Too young even to be looked at; then old enough for that, but what superseded them is not. */
    model_compact_most(m->f);
    assert_int_equal(model_figure(m->f, "compacted_segments"), 0);
    atomic_fetch_add(&later_ms, 900000);
    for (unsigned n = 0; n < 500; n++)
        assert_int_equal(put(m->f, "key", value).status, STORE_OK);
    atomic_fetch_add(&later_ms, 200000);
    model_compact_most(m->f);
    assert_true(model_figure(m->f, "compacted_segments") > 2);
    assert_in_range(count_records(m->f, "key"), 500, 999);
    atomic_fetch_add(&later_ms, 2000000);
    assert_int_equal(put(m->f, "key", value).status, STORE_OK);
    model_compact_most(m->f);
    assert_true(count_records(m->f, "key") < 300);
    reopen(m, true);
    check_value(m->f, "key", value);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(overwritten_values_give_their_space_back,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(random_histories_agree_with_a_model, setup_with_clock,
                                        teardown_with_clock),
        cmocka_unit_test_setup_teardown(the_same_with_history_that_is_kept_for_a_while,
                                        setup_with_clock, teardown_with_clock),
        cmocka_unit_test_setup_teardown(a_key_that_stays_is_found_at_every_moment,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(
            a_damaged_segment_is_left_alone_and_the_others_are_compacted, store_fixture_setup,
            store_fixture_teardown),
        cmocka_unit_test_setup_teardown(while_compaction_is_held_no_file_comes_or_goes,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(headers_tell_what_was_let_go_and_removed,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(a_delayed_flush_stays_in_force_when_its_record_is_compacted,
                                        store_fixture_setup, store_fixture_teardown),
        cmocka_unit_test_setup_teardown(history_that_is_wanted_stays_as_long_as_it_is_wanted,
                                        setup_with_clock, teardown_with_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
