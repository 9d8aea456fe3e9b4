/*
 * store_fixture.h - a store in a temporary directory, with calls that wait.
 *
 * Provides: store_open_at(), store_shut(), store_kill(), put(), fetch() and the like.
 * Used by:  tests of the engine.
 * Threads:  one: the test is the port's thread.
 */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/aio.h"
#include "store/store.h"

struct store_fixture {
    char dir[256];
    struct store_config config;
    struct aio_pool *pool;
    struct aio *aio;
    struct store *store;
    struct store_port *port;
};

/* cmocka's set-up and tear-down: a fixture without an open store. */
int store_fixture_setup(void **state);
int store_fixture_teardown(void **state);

/* Opens the store as configured. 0 or -errno. */
int store_open(struct store_fixture *f);
/* A clean stop. */
void store_shut(struct store_fixture *f);

/* Runs completions until nothing is under way. */
void store_settle(struct store_fixture *f);

/* What one write came to. */
struct write_result {
    enum store_status status;
    uint64_t cas;
    uint64_t reply;
    bool existed;
};

struct write_result write_key(struct store_fixture *f, enum store_op op, enum store_guard guard,
                              uint64_t cas, const char *key, struct slice value,
                              int64_t expires_ms);
struct write_result put(struct store_fixture *f, const char *key, const char *value);
struct write_result update(struct store_fixture *f, const char *key, store_compute *compute,
                           uint64_t argument);
struct write_result flush_at(struct store_fixture *f, int64_t at_ms);

/* A value of its own file, added in pieces. */
struct write_result put_big(struct store_fixture *f, const char *key, const char *value,
                            size_t len);

/* The value as a NUL-terminated malloc'd string (counters: base value only), NULL if there is none;
 * *status may be NULL. */
char *fetch(struct store_fixture *f, const char *key, size_t *len, enum store_status *status,
            struct record *rec);

/* Asserts that the key shows exactly this text; NULL: is absent. */
void check_value(struct store_fixture *f, const char *key, const char *value);

/* Compute steps. The first appends "+" and keeps the rest (NOT_STORED when absent; the reply is the
 * old length), the second adds argument[0] to the counter (NOT_FOUND when absent). */
enum store_status add_plus(struct store_write *w, const struct record *now,
                           struct store_change *out);
enum store_status count_up(struct store_write *w, const struct record *now,
                           struct store_change *out);

/* Files in a directory, hidden ones apart. */
unsigned count_files(const char *path);

/* Path of a file in the data directory. */
const char *store_path(struct store_fixture *f, const char *name);

/* rm -r */
void remove_tree(const char *path);
/* cp -r */
void copy_tree(const char *from, const char *to);

#endif
