/*
 * compact_model.c - see compact_model.h.
 */
#include "compact_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "store/logstore/sweep.h"

#define WAIT_MS 60000

/* ---- the store's figures ---- */

uint64_t model_figure(struct store_fixture *f, const char *name)
{
    struct buf text = {0};
    char line[64];
    const char *at;
    uint64_t value;

    snprintf(line, sizeof(line), "\n%s ", name);
    assert_int_equal(buf_add(&text, "\n", 1), 0);
    assert_int_equal(store_stat(f->store, &text), 0);
    assert_int_equal(buf_add(&text, "", 1), 0);
    at = strstr(text.data, line);
    assert_non_null(at);
    value = strtoull(at + strlen(line), NULL, 10);
    buf_free(&text);
    return value;
}

void model_nap(void)
{
    const struct timespec moment = {.tv_nsec = 2000 * 1000};

    nanosleep(&moment, NULL);
}

bool model_is_indexed(struct logstore *ls)
{
    static char room[INDEX_VECTORS_MAX];
    struct index_meta meta;

    return index_read_meta(ls->index, &meta, room) == 0 &&
           meta.seq == atomic_load(&ls->marks.written_seq);
}

/* Until compaction has found nothing to do three times, with everything in the index. */
static void compact_until_quiet(struct store_fixture *f, bool all)
{
    struct logstore *ls = logstore_of(f->store);
    int64_t until = clock_mono_ms() + WAIT_MS;
    unsigned quiet = 0;
    uint64_t seen = 0;

    store_settle(f);
    compact_now(ls);
    while (quiet < 3) {
        uint64_t looks = compact_looks(ls);

        assert_true(clock_mono_ms() < until);
        if (!model_is_indexed(ls))
            checkpoint_ask(ls);
        else if (looks != seen)
            quiet = (!all || model_figure(f, "compaction_debt_bytes") == 0) &&
                            model_figure(f, "compaction_running") == 0
                        ? quiet + 1
                        : 0;
        seen = looks;
        compact_wake(ls);
        model_nap();
    }
}

void model_compact(struct store_fixture *f)
{
    compact_until_quiet(f, true);
}

void model_compact_most(struct store_fixture *f)
{
    compact_until_quiet(f, false);
}

/* ---- the model ---- */

const char *model_key(struct model *m, unsigned i)
{
    size_t lead = i % 25 == 3 ? 494 : i == 11 ? 60000 : 0;

    if (i == 7)
        return "";
    memset(m->key, 'k', lead);
    snprintf(m->key + lead, sizeof(m->key) - lead, "key-%u", i);
    return m->key;
}

size_t model_value(struct model *m, unsigned i)
{
    const struct key_model *k = &m->keys[i];
    size_t n = (size_t)snprintf(m->value, 64, "%u:%u:%zu.", i, k->version, k->len);

    for (size_t at = n; at < k->len; at++)
        m->value[at] = (char)('a' + (at * 7 + k->version + i) % 26);
    n = n < k->len ? k->len : n;
    memset(m->value + n, '+', k->pluses);
    m->value[n + k->pluses] = '\0';
    return n + k->pluses;
}

void model_put(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    static const int64_t expiries[] = {0, 0, 0, 0, 1, 1, INT64_MAX / 1000000};
    size_t most = random_below(&m->random, 20) == 0 ? 60000 : 3000;

    k->version++;
    k->len = random_below(&m->random, most);
    k->pluses = 0;
    k->is_counter = false;
    k->expires_ms = expiries[random_below(&m->random, sizeof(expiries) / sizeof(expiries[0]))];
    k->live = k->expires_ms != 1;
    (void)model_value(m, i);
    assert_int_equal(write_key(m->f, STORE_PUT, STORE_ANY, 0, model_key(m, i), slice_str(m->value),
                               k->expires_ms)
                         .status,
                     STORE_OK);
}

static void do_delete(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];

    assert_int_equal(
        write_key(m->f, STORE_DELETE, STORE_ANY, 0, model_key(m, i), slice_of(NULL, 0), 0).status,
        k->live ? STORE_OK : STORE_NOT_FOUND);
    k->live = false;
}

/* Sometimes it expires by that. */
void model_touch(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    int64_t to = random_below(&m->random, 4) == 0
                     ? 1
                     : clock_wall_ms() + 10000000 + (int64_t)random_below(&m->random, 1000);

    assert_int_equal(
        write_key(m->f, STORE_TOUCH, STORE_ANY, 0, model_key(m, i), slice_of(NULL, 0), to).status,
        k->live ? STORE_OK : STORE_NOT_FOUND);
    if (k->live) {
        k->expires_ms = to;
        k->live = to != 1;
    }
}

static void do_append(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];

    if (k->is_counter && k->live)
        return;
    assert_int_equal(update(m->f, model_key(m, i), add_plus, 0).status,
                     k->live ? STORE_OK : STORE_NOT_STORED);
    k->pluses += k->live;
}

static void do_count(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    int64_t add = (int64_t)random_below(&m->random, 1000);

    if (!k->live) {
        assert_int_equal(put(m->f, model_key(m, i), "0").status, STORE_OK);
        k->live = k->is_counter = true;
        k->count = k->expires_ms = 0;
    }
    if (!k->is_counter)
        return;
    k->count += add;
    assert_int_equal(update(m->f, model_key(m, i), count_up, (uint64_t)add).status, STORE_OK);
}

static void do_big(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    static char big[STORE_SPOOL_MIN + 5000];

    memset(big, 'B', sizeof(big));
    assert_int_equal(put_big(m->f, model_key(m, i), big, sizeof(big)).status, STORE_OK);
    do_delete(m, i == 0 ? 1 : i - 1);
    k->live = true;
    k->is_counter = false;
    k->len = sizeof(big);
    k->pluses = 0;
    k->expires_ms = 0;
}

static void do_flush(struct model *m)
{
    assert_int_equal(flush_at(m->f, 0).status, STORE_OK);
    for (unsigned i = 0; i < KEYS; i++)
        m->keys[i].live = false;
}

void model_step(struct model *m)
{
    unsigned i = (unsigned)random_below(&m->random, KEYS);

    switch (random_below(&m->random, 40)) {
    case 0: do_count(m, i); break;
    case 1:
    case 2: model_touch(m, i); break;
    case 3: do_append(m, i); break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8: do_delete(m, i); break;
    case 9:
        if (random_below(&m->random, 100) == 0)
            do_flush(m);
        else if (random_below(&m->random, 30) == 0)
            do_big(m, i);
        break;
    default: model_put(m, i); break;
    }
}

static void check_key(struct model *m, unsigned i)
{
    struct key_model *k = &m->keys[i];
    struct record *rec = malloc(sizeof(*rec));
    size_t len = 0;
    char *got = fetch(m->f, model_key(m, i), &len, NULL, rec);

    if (!k->live) {
        assert_null(got);
    } else if (k->is_counter) {
        int64_t sum = strtoll(got, NULL, 10);

        for (unsigned s = 0; s < rec->slot_count; s++)
            sum += rec->slots[s].sum;
        assert_int_equal(sum, k->count);
    } else if (k->len > STORE_SPOOL_MIN) {
        assert_non_null(got);
        assert_int_equal(len, k->len + k->pluses);
        assert_int_equal(got[0], 'B');
    } else {
        assert_non_null(got);
        (void)model_value(m, i);
        assert_string_equal(got, m->value);
        assert_int_equal(rec->expires_ms, k->expires_ms);
    }
    free(got);
    free(rec);
}

void model_check(struct model *m)
{
    uint64_t live = 0;

    for (unsigned i = 0; i < KEYS; i++) {
        check_key(m, i);
        live += m->keys[i].live;
    }
    while (!sweep_now(logstore_of(m->f->store)))
        model_nap(); /* a checkpoint comes first */
    assert_int_equal(store_count(m->f->store), live);
}
