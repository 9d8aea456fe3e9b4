/*
 * compact_model.h - a random history of a store and what it must have come to, and waiting until
 * compaction has nothing left to do.
 *
 * Provides: struct model, model_*().
 * Used by:  tests of compaction.
 * Threads:  the test's.
 */
#ifndef TESTS_COMPACT_MODEL_H
#define TESTS_COMPACT_MODEL_H

#include "random.h"
#include "store/logstore/logstore.h"
#include "store_fixture.h"

#define KEYS 300

struct key_model {
    uint32_t version; /* of its newest value */
    size_t len;
    unsigned pluses;
    bool live;
    bool is_counter;
    int64_t count;
    int64_t expires_ms;
};

struct model {
    struct store_fixture *f;
    struct random random;
    struct key_model keys[KEYS];
    char key[RECORD_KEY_MAX + 1];
    char value[128 * 1024];
};

/* A figure of store_stat(). */
uint64_t model_figure(struct store_fixture *f, const char *name);

/* A moment, between two looks at what nothing reports. */
void model_nap(void);

bool model_is_indexed(struct logstore *ls);

/* Waits until everything is in the index and nothing more is worth compacting. */
void model_compact(struct store_fixture *f);

/* The same where something that would be worth it must stay. */
void model_compact_most(struct store_fixture *f);

/* Mostly short; the empty one, long ones with one beginning, and a very long one too. */
const char *model_key(struct model *m, unsigned i);

/* The value that the key should have, in m->value; returns its length. */
size_t model_value(struct model *m, unsigned i);

/* Writes a new value of random length. */
void model_put(struct model *m, unsigned i);

/* Another expiry for the key, if it is there; sometimes one that has come. */
void model_touch(struct model *m, unsigned i);

/* One random operation on one random key. */
void model_step(struct model *m);

/* Every key shows what it should, and the count is right. */
void model_check(struct model *m);

#endif
