/*
 * test_logstore_edges.c - the engine at its limits: keys and values of the lengths where something
 * changes, operations on touched, expired and big records, and several stores in one process; in
 * memory, from the index, and rebuilt from the log.
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

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "store_fixture.h"

#define LATER 1000000 /* milliseconds */

/* ---- helpers ---- */

static char *filled(size_t len, char byte)
{
    char *text = malloc(len + 1);

    assert_non_null(text);
    memset(text, byte, len);
    text[len] = '\0';
    return text;
}

/* How a state is looked at. */
enum life { AS_WRITTEN, RESTARTED, KILLED, REBUILT, LIVES };

/* Brings the store to the next way in which the same state must show. */
static void next_life(struct store_fixture *f, enum life life)
{
    char saved[300];

    if (life == KILLED) {
        snprintf(saved, sizeof(saved), "%s/saved", f->dir);
        remove_tree(saved);
        copy_tree(store_path(f, ""), saved);
        store_shut(f);
        remove_tree(store_path(f, ""));
        copy_tree(saved, store_path(f, ""));
    } else if (life != AS_WRITTEN) {
        store_shut(f);
    }
    if (life == REBUILT)
        remove_tree(store_path(f, "index"));
    if (life != AS_WRITTEN)
        assert_int_equal(store_open(f), 0);
}

/* As incr with an initial value does. */
static enum store_status count_from_new(struct store_write *w, const struct record *now,
                                        struct store_change *out)
{
    if (now != NULL)
        return count_up(w, now, out);
    out->kind = CHANGE_PUT;
    out->pieces[0] = slice_str("7");
    return STORE_OK;
}

static enum store_status delete_key(struct store_fixture *f, const char *key)
{
    return write_key(f, STORE_DELETE, STORE_ANY, 0, key, slice_of(NULL, 0), 0).status;
}

static struct write_result touch(struct store_fixture *f, const char *key, int64_t expires_ms)
{
    return write_key(f, STORE_TOUCH, STORE_ANY, 0, key, slice_of(NULL, 0), expires_ms);
}

static struct record look(struct store_fixture *f, const char *key)
{
    struct record rec = {0};
    enum store_status status;
    char *value = fetch(f, key, NULL, &status, &rec);

    assert_int_equal(status, STORE_OK);
    free(value);
    return rec;
}

static void check_counter(struct store_fixture *f, const char *key, int64_t sum, int64_t expires_ms)
{
    struct record rec = look(f, key);

    assert_int_equal(rec.kind, RECORD_COUNTER);
    /* A copied directory is a new writer with a slot of its own. */
    for (unsigned i = 0; i < rec.slot_count; i++)
        sum -= rec.slots[i].sum;
    assert_int_equal(sum, 0);
    assert_int_equal(rec.expires_ms, expires_ms);
}

/* ---- keys ---- */

static void every_operation_works_on_keys_of_every_length(void **state)
{
    static const size_t lengths[] = {0, 1, 493, 494, 495, 511, RECORD_KEY_MAX - 1, RECORD_KEY_MAX};
    enum { LENGTHS = sizeof(lengths) / sizeof(lengths[0]) };
    struct store_fixture *f = *state;
    int64_t later = clock_wall_ms() + LATER;
    char *keys[2][LENGTHS]; /* of one length, they differ in the last byte */

    assert_int_equal(store_open(f), 0);
    for (unsigned i = 0; i < LENGTHS; i++) {
        for (unsigned n = 0; n < 2; n++)
            keys[n][i] = filled(lengths[i], 'k');
        if (lengths[i] > 0)
            keys[1][i][lengths[i] - 1] = 'x';
    }
    for (unsigned i = 0; i < LENGTHS; i++) {
        put(f, keys[0][i], "5");
        assert_int_equal(update(f, keys[0][i], count_up, 3).status, STORE_OK);
        assert_int_equal(touch(f, keys[0][i], later).status, STORE_OK);
        assert_int_equal(update(f, keys[0][i], count_up, 1).status, STORE_OK);
        if (lengths[i] > 0) {
            put(f, keys[1][i], "other");
            assert_int_equal(delete_key(f, keys[1][i]), STORE_OK);
        }
    }
    for (enum life life = AS_WRITTEN; life < LIVES; life++) {
        next_life(f, life);
        assert_int_equal(store_count(f->store), LENGTHS);
        for (unsigned i = 0; i < LENGTHS; i++) {
            check_counter(f, keys[0][i], 4, later);
            if (lengths[i] > 0)
                check_value(f, keys[1][i], NULL);
        }
    }
    for (unsigned i = 0; i < LENGTHS; i++) {
        free(keys[0][i]);
        free(keys[1][i]);
    }
}

/* ---- values ---- */

static void values_at_the_limit_of_the_log_are_whole(void **state)
{
    struct store_fixture *f = *state;
    char *value = filled(STORE_SPOOL_MIN + 1, 'v');
    size_t len;
    struct record rec;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(
        write_key(f, STORE_PUT, STORE_ANY, 0, "in", slice_of(value, STORE_SPOOL_MIN), 0).status,
        STORE_OK);
    assert_int_equal(put_big(f, "out", value, STORE_SPOOL_MIN + 1).status, STORE_OK);
    assert_int_equal(put_big(f, "spooled", value, STORE_SPOOL_MIN).status, STORE_OK);
    write_key(f, STORE_PUT, STORE_ANY, 0, "to", slice_of(value, STORE_SPOOL_MIN - 1), 0);
    assert_int_equal(update(f, "to", add_plus, 0).status, STORE_OK);
    write_key(f, STORE_PUT, STORE_ANY, 0, "over", slice_of(value, STORE_SPOOL_MIN), 0);
    assert_int_equal(update(f, "over", add_plus, 0).status, STORE_OK);
    for (enum life life = AS_WRITTEN; life < LIVES; life++) {
        static const struct {
            const char *key;
            size_t len;
            bool is_big;
            bool has_plus;
        } table[] = {
            {"in", STORE_SPOOL_MIN, false, false},     {"out", STORE_SPOOL_MIN + 1, true, false},
            {"spooled", STORE_SPOOL_MIN, true, false}, {"to", STORE_SPOOL_MIN, false, true},
            {"over", STORE_SPOOL_MIN + 1, true, true},
        };

        next_life(f, life);
        for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
            char *got = fetch(f, table[i].key, &len, NULL, &rec);

            assert_non_null(got);
            assert_int_equal(len, table[i].len);
            assert_int_equal(rec.big_bytes > 0, table[i].is_big);
            assert_memory_equal(got, value, len - 1);
            assert_int_equal(got[len - 1], table[i].has_plus ? '+' : 'v');
            free(got);
        }
    }
    free(value);
}

static void a_big_value_can_be_appended_to_and_touched(void **state)
{
    struct store_fixture *f = *state;
    size_t len = 2 * STORE_SPOOL_MIN + 5;
    char *value = filled(len, 'b');
    int64_t later = clock_wall_ms() + LATER;
    size_t got_len;

    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "k", value, len).status, STORE_OK);
    assert_int_equal(touch(f, "k", later).status, STORE_OK);
    assert_int_equal(update(f, "k", add_plus, 0).status, STORE_OK);
    assert_int_equal(update(f, "k", add_plus, 0).status, STORE_OK);
    for (enum life life = AS_WRITTEN; life < LIVES; life++) {
        char *got;
        struct record rec;

        next_life(f, life);
        got = fetch(f, "k", &got_len, NULL, &rec);
        assert_non_null(got);
        assert_int_equal(got_len, len + 2);
        assert_memory_equal(got, value, len);
        assert_string_equal(got + len, "++");
        assert_int_equal(rec.expires_ms, later);
        free(got);
    }
    free(value);
}

/* An update may not make more than the server takes, and what it refused leaves all as it was. */
static void an_update_over_the_limit_is_refused(void **state)
{
    struct store_fixture *f = *state;
    size_t len = STORE_SPOOL_MIN + 7;
    char *value = filled(len, 'b');
    size_t got_len;

    f->config.max_value_bytes = len;
    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_big(f, "k", value, len).status, STORE_OK);
    assert_int_equal(update(f, "k", add_plus, 0).status, STORE_TOO_LARGE);
    free(fetch(f, "k", &got_len, NULL, NULL));
    assert_int_equal(got_len, len);
    free(value);
}

/* ---- expiry ---- */

static void an_expired_record_is_absent_to_updates(void **state)
{
    struct store_fixture *f = *state;
    struct write_result r;

    assert_int_equal(store_open(f), 0);
    for (enum life life = AS_WRITTEN; life < LIVES; life++) {
        write_key(f, STORE_PUT, STORE_ANY, 0, "k", slice_str("5"), 1);
        write_key(f, STORE_PUT, STORE_ANY, 0, "n", slice_str("5"), 1);
        next_life(f, life);
        assert_int_equal(update(f, "k", add_plus, 0).status, STORE_NOT_STORED);
        assert_int_equal(update(f, "k", count_up, 0).status, STORE_NOT_FOUND);
        assert_int_equal(delete_key(f, "k"), STORE_NOT_FOUND);
        assert_int_equal(store_count(f->store), 2); /* until it is swept */
        r = update(f, "n", count_from_new, 1);
        assert_int_equal(r.status, STORE_OK);
        assert_false(r.existed);
        check_value(f, "n", "7");
        assert_int_equal(update(f, "n", count_from_new, 1).status, STORE_OK);
        check_counter(f, "n", 1, 0);
        assert_int_equal(store_count(f->store), 2);
    }
}

static void a_touch_survives_increments_and_increments_a_touch(void **state)
{
    struct store_fixture *f = *state;
    int64_t later = clock_wall_ms() + LATER;
    int64_t sum = 0;

    assert_int_equal(store_open(f), 0);
    put(f, "n", "5");
    for (enum life life = AS_WRITTEN; life < LIVES; life++) {
        next_life(f, life);
        for (unsigned i = 0; i < 3; i++) {
            uint64_t cas;

            assert_int_equal(touch(f, "n", ++later).status, STORE_OK);
            assert_int_equal(update(f, "n", count_up, 4).status, STORE_OK);
            check_counter(f, "n", sum += 4, later);
            cas = update(f, "n", count_up, 1).cas;
            check_counter(f, "n", ++sum, later);
            assert_int_equal(touch(f, "n", ++later).cas, cas);
            check_counter(f, "n", sum, later);
        }
    }
    next_life(f, REBUILT);
    check_counter(f, "n", sum, later);
}

/* ---- several stores ---- */

static void note_cas(struct store_write *w)
{
    *(uint64_t *)w->owner = w->cas;
    store_write_free(w);
}

static uint64_t put_with_cas(struct store_fixture *f, const char *key, char digit, uint64_t chosen)
{
    unsigned char cas[8];
    char attrs[16];
    struct store_write *w;
    uint64_t result = 0;

    put_u64le(cas, chosen);
    w = store_write_new(f->port, slice_str(key),
                        slice_of(attrs, attr_put(attrs, ATTR_CLIENT_CAS, slice_of(cas, 8))), 1);
    assert_non_null(w);
    w->op = STORE_PUT;
    w->value[0] = digit;
    w->done = note_cas;
    w->owner = &result;
    store_write_submit(w);
    store_settle(f);
    return result;
}

/* Who compares must see that the number is another one, also where a client chose the first cas. */
static void an_increment_changes_a_cas_that_a_client_chose(void **state)
{
    struct store_fixture *f = *state;
    struct record rec;
    uint64_t cas[3];

    assert_int_equal(store_open(f), 0);
    assert_int_equal(put_with_cas(f, "n", '5', 4711), 4711);
    cas[0] = 4711;
    for (int i = 1; i < 3; i++) {
        cas[i] = update(f, "n", count_up, 1).cas;
        assert_true(cas[i] > cas[i - 1]);
    }
    for (int round = 0; round < 2; round++) {
        free(fetch(f, "n", NULL, NULL, &rec));
        assert_int_equal(record_cas(&rec), cas[2]);
        assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, 4711, "n", slice_str("x"), 0).status,
                         STORE_EXISTS);
        store_shut(f);
        assert_int_equal(store_open(f), 0);
    }
    assert_int_equal(write_key(f, STORE_PUT, STORE_IF_CAS, cas[2], "n", slice_str("x"), 0).status,
                     STORE_OK);
}

static void two_stores_in_one_process_do_not_know_each_other(void **state)
{
    struct store_fixture *f = *state;
    struct store_fixture other = *f;

    snprintf(other.dir, sizeof(other.dir), "%.200s/other", f->dir);
    assert_int_equal(mkdir(other.dir, 0700), 0);
    assert_int_equal(store_open(f), 0);
    assert_int_equal(store_open(&other), 0);
    put(f, "k", "one");
    put(&other, "k", "two");
    put(&other, "l", "three");
    for (int round = 0; round < 2; round++) {
        check_value(f, "k", "one");
        check_value(f, "l", NULL);
        check_value(&other, "k", "two");
        assert_int_equal(store_count(f->store), 1);
        assert_int_equal(store_count(other.store), 2);
        store_shut(&other);
        check_value(f, "k", "one");
        assert_int_equal(store_open(&other), 0);
    }
    store_shut(&other);
}

/* More than were announced: they are refused at once, and the others go on. */
static void a_port_too_many_is_an_error_and_no_more(void **state)
{
    enum { PORTS = 40 };
    struct store_fixture *f = *state;
    struct store_port *first;
    struct store_port *ports[PORTS];
    unsigned count = 0;
    int rc = 0;

    log_set_level(LOG_ERROR + 1);
    assert_int_equal(store_open(f), 0);
    put(f, "k", "v");
    store_shut(f);
    assert_int_equal(store_open(f), 0);
    first = f->port;
    check_value(f, "k", "v");
    while (rc == 0 && count < PORTS) {
        rc = store_port_open(f->store, f->aio, &ports[count]);
        f->port = ports[count];
        if (rc == 0)
            check_value(f, "k", "v");
        count += rc == 0;
    }
    assert_int_equal(rc, -EMFILE);
    f->port = first;
    check_value(f, "k", "v");
    for (unsigned round = 0; round < 2; round++) {
        store_port_close(ports[count - 1]);
        assert_int_equal(store_port_open(f->store, f->aio, &ports[count - 1]), 0);
    }
    while (count > 0)
        store_port_close(ports[--count]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_operation_works_on_keys_of_every_length),
        T(values_at_the_limit_of_the_log_are_whole),
        T(a_big_value_can_be_appended_to_and_touched),
        T(an_update_over_the_limit_is_refused),
        T(an_expired_record_is_absent_to_updates),
        T(a_touch_survives_increments_and_increments_a_touch),
        T(an_increment_changes_a_cas_that_a_client_chose),
        T(two_stores_in_one_process_do_not_know_each_other),
        T(a_port_too_many_is_an_error_and_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
