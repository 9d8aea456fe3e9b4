/*
 * test_compact_plan.c - which segments compaction takes (store/logstore/compact_plan.h): the rules one
 * by one, and random logs compacted until nothing is left to do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"
#include "store/logstore/compact_plan.h"

#define MIB (1024u * 1024)
#define SEGMENT (64u * MIB)
#define HEADER 256u

static uint64_t all_live(const struct plan_segment *segments, size_t count)
{
    uint64_t live = 0;

    for (size_t i = 0; i < count; i++)
        live += segments[i].live_bytes;
    return live;
}

static struct plan plan_for(const struct plan_segment *segments, size_t count)
{
    struct plan_input in = {
        .segments = segments,
        .count = count,
        .segment_bytes = SEGMENT,
        .header_bytes = HEADER,
        .live_bytes = all_live(segments, count),
        .room_bytes = UINT64_MAX,
        .live_percent = 65,
    };

    return compact_plan(&in);
}

/* A settled segment of records 100 * i + 1 and on; megabytes. */
static struct plan_segment settled(unsigned i, unsigned bytes, unsigned live, unsigned tombstones)
{
    return (struct plan_segment){
        .bytes = (uint64_t)bytes * MIB,
        .live_bytes = (uint64_t)live * MIB,
        .tombstone_bytes = (uint64_t)tombstones * MIB,
        .last_seq = 100u * i + 100,
        .settled = true,
    };
}

static struct plan_segment active(void)
{
    return (struct plan_segment){.bytes = MIB, .live_bytes = MIB, .last_seq = UINT64_MAX};
}

static void test_a_log_that_is_nearly_all_live_is_left_alone(void **state)
{
    const struct plan_segment segments[] = {settled(0, 60, 50, 0), settled(1, 60, 45, 0), active()};
    struct plan plan = plan_for(segments, 3);

    (void)state;
    assert_int_equal(plan.step, PLAN_NOTHING);
    assert_int_equal(plan.debt_bytes, 0);
}

static void test_what_frees_most_for_its_copying_comes_first(void **state)
{
    const struct plan_segment segments[] = {settled(0, 60, 30, 0), settled(1, 60, 50, 0),
                                            settled(2, 60, 5, 0), settled(3, 60, 60, 0), active()};
    struct plan plan = plan_for(segments, 5);

    (void)state;
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 2);
    assert_int_equal(plan.count, 1);
    assert_int_equal(plan.write_bytes, 5 * MIB);
}

static void test_neighbours_are_merged_as_long_as_they_fit_into_one_segment(void **state)
{
    const struct plan_segment segments[] = {settled(0, 60, 10, 0), settled(1, 60, 10, 0),
                                            settled(2, 60, 10, 0), settled(3, 60, 60, 0), active()};
    struct plan plan = plan_for(segments, 5);

    (void)state;
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 0);
    assert_int_equal(plan.count, 3);
}

static void test_the_active_segment_and_what_no_checkpoint_covers_are_not_compacted(void **state)
{
    struct plan_segment segments[] = {settled(0, 60, 0, 0), settled(1, 60, 0, 0), active()};
    struct plan_input in = {segments, 3, SEGMENT, HEADER, 121 * MIB, 2 * MIB, UINT64_MAX, 65};

    (void)state;
    segments[0].settled = segments[1].settled = false;
    assert_int_equal(compact_plan(&in).step, PLAN_CHECKPOINT);
    assert_true(compact_plan(&in).debt_bytes > 100 * MIB);
    in.live_bytes = 120 * MIB; /* nothing was superseded */
    assert_int_equal(compact_plan(&in).step, PLAN_NOTHING);
}

static void test_a_segment_that_must_stay_stays(void **state)
{
    struct plan_segment segments[] = {settled(0, 60, 1, 0), settled(1, 60, 20, 0), active()};
    struct plan plan;

    (void)state;
    segments[0].kept = true;
    plan = plan_for(segments, 3);
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 1);
    assert_int_equal(plan.count, 1);
}

static void test_tombstones_count_as_freed_only_when_nothing_older_is_left(void **state)
{
    struct plan_segment segments[] = {settled(0, 60, 56, 0), settled(1, 60, 2, 58), active()};
    struct plan plan = plan_for(segments, 3);

    (void)state;
    /* The first one holds dead bytes that the tombstones may have made: it is cleaned. */
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 0);
    segments[0].clean_seq = 200; /* it was, when all of the tombstones were there */
    plan = plan_for(segments, 3);
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 1);
    assert_int_equal(plan.write_bytes, 2 * MIB);
    segments[0] = settled(0, 60, 60, 0); /* without dead bytes there is nothing to clean */
    plan = plan_for(segments, 3);
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 1);
}

static void test_tombstones_behind_what_must_stay_are_no_reason_to_copy(void **state)
{
    struct plan_segment segments[] = {settled(0, 60, 56, 0), settled(1, 60, 2, 58), active()};

    (void)state;
    segments[0].kept = true;
    assert_int_equal(plan_for(segments, 3).step, PLAN_CHECKPOINT);
    assert_true(plan_for(segments, 3).debt_bytes > 0);
}

static void test_too_many_small_files_are_merged_though_they_are_all_live(void **state)
{
    struct plan_segment segments[20];
    struct plan plan;

    (void)state;
    for (unsigned i = 0; i < 19; i++)
        segments[i] = settled(i, 1, 1, 0);
    segments[19] = active();
    plan = plan_for(segments, 20);
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.count, 19);
    assert_int_equal(plan_for(segments + 15, 5).step, PLAN_NOTHING);
}

static void test_dead_segments_cost_nothing_however_many_there_are(void **state)
{
    struct plan_segment segments[101];
    struct plan plan;

    (void)state;
    for (unsigned i = 0; i < 100; i++)
        segments[i] = settled(i, 64, 0, 0);
    segments[100] = active();
    plan = plan_for(segments, 101);
    assert_int_equal(plan.step, PLAN_COMPACT);
    assert_int_equal(plan.first, 0);
    assert_int_equal(plan.count, 100);
    assert_int_equal(plan.write_bytes, 0);
}

/* ---- random logs ---- */

enum { KEYS = 300, SEGMENTS_MAX = 400, RECORDS_MAX = 60000 };
#define SMALL_SEGMENT 4096u
#define SMALL_HEADER 32u

struct item {
    unsigned key;
    uint64_t seq;
    unsigned bytes;
    bool tombstone;
};

struct model_segment {
    size_t first; /* of the items */
    size_t count;
    uint64_t last_seq;
    uint64_t clean_seq;
    bool kept;
};

struct model {
    struct item items[RECORDS_MAX];
    size_t item_count;
    struct model_segment segments[SEGMENTS_MAX];
    size_t count;
    uint64_t seq;
    uint64_t checkpoint;
    uint64_t newest[KEYS]; /* seq of the newest state; 0: none */
    bool is_tombstone[KEYS];
    uint64_t indexed[KEYS]; /* the same as of the checkpoint */
    bool indexed_tombstone[KEYS];
};

static uint64_t bytes_of(const struct model *m, const struct model_segment *s)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < s->count; i++)
        bytes += m->items[s->first + i].bytes;
    return bytes;
}

static void append(struct model *m, unsigned key, unsigned bytes, bool tombstone)
{
    struct model_segment *s = &m->segments[m->count - 1];

    if (SMALL_HEADER + bytes_of(m, s) + bytes > SMALL_SEGMENT) {
        s->last_seq = m->seq;
        assert_true(m->count < SEGMENTS_MAX);
        s = &m->segments[m->count++];
        *s = (struct model_segment){.first = m->item_count};
    }
    assert_true(m->item_count < RECORDS_MAX);
    m->items[m->item_count++] = (struct item){key, ++m->seq, bytes, tombstone};
    s->count++;
    m->newest[key] = m->seq;
    m->is_tombstone[key] = tombstone;
}

static void checkpoint(struct model *m)
{
    m->checkpoint = m->seq;
    memcpy(m->indexed, m->newest, sizeof(m->indexed));
    memcpy(m->indexed_tombstone, m->is_tombstone, sizeof(m->indexed_tombstone));
}

static void figures_of(const struct model *m, struct plan_segment *out)
{
    for (size_t n = 0; n < m->count; n++) {
        const struct model_segment *s = &m->segments[n];

        out[n] = (struct plan_segment){
            .bytes = bytes_of(m, s),
            .last_seq = n + 1 == m->count ? UINT64_MAX : s->last_seq,
            .clean_seq = s->clean_seq,
            .settled = n + 1 < m->count && s->last_seq <= m->checkpoint,
            .kept = s->kept,
        };
        for (size_t i = 0; i < s->count; i++) {
            const struct item *item = &m->items[s->first + i];

            if (m->indexed[item->key] == item->seq && m->indexed_tombstone[item->key])
                out[n].tombstone_bytes += item->bytes;
            else if (m->indexed[item->key] == item->seq)
                out[n].live_bytes += item->bytes;
        }
    }
}

/* What compaction may remove: a tombstone whose key has nothing older in front of the run, judged
 * from the figures as compaction does it. */
static uint64_t removable_seq(const struct plan_segment *figures, size_t first)
{
    uint64_t seq = UINT64_MAX;

    for (size_t i = 0; i < first; i++)
        if (figures[i].bytes != figures[i].live_bytes + figures[i].tombstone_bytes &&
            figures[i].clean_seq < seq)
            seq = figures[i].clean_seq;
    return seq;
}

static void compact(struct model *m, const struct plan_segment *figures, const struct plan *plan)
{
    struct model_segment *s = &m->segments[plan->first];
    uint64_t removable = removable_seq(figures, plan->first);
    size_t end = m->segments[plan->first + plan->count - 1].first +
                 m->segments[plan->first + plan->count - 1].count;
    size_t to = s->first;
    size_t gone;

    for (size_t i = s->first; i < end; i++) {
        const struct item *item = &m->items[i];

        if (m->indexed[item->key] != item->seq)
            continue;
        if (m->indexed_tombstone[item->key] && item->seq <= removable)
            m->indexed[item->key] = 0;
        else
            m->items[to++] = *item;
    }
    s->count = to - s->first;
    s->last_seq = m->segments[plan->first + plan->count - 1].last_seq;
    s->clean_seq = m->checkpoint;
    gone = end - to;
    memmove(m->items + to, m->items + end, (m->item_count - end) * sizeof(m->items[0]));
    m->item_count -= gone;
    memmove(s + 1, s + plan->count,
            (m->count - plan->first - plan->count) * sizeof(m->segments[0]));
    m->count -= plan->count - 1;
    for (size_t n = plan->first + 1; n < m->count; n++)
        m->segments[n].first -= gone;
}

/* A rebuild from what is left comes to the same state. */
static void check_rebuild(const struct model *m)
{
    uint64_t newest[KEYS] = {0};
    bool tombstone[KEYS] = {0};

    for (size_t i = 0; i < m->item_count; i++) {
        newest[m->items[i].key] = m->items[i].seq;
        tombstone[m->items[i].key] = m->items[i].tombstone;
    }
    for (unsigned k = 0; k < KEYS; k++) {
        bool lives = m->newest[k] != 0 && !m->is_tombstone[k];

        assert_int_equal(newest[k] != 0 && !tombstone[k], lives);
        if (lives)
            assert_int_equal(newest[k], m->newest[k]);
    }
}

static void write_some(struct model *m, struct random *r)
{
    unsigned most = (unsigned)random_below(r, 600);
    unsigned span = 1 + (unsigned)random_below(r, KEYS);
    unsigned deletes = (unsigned)random_below(r, 100);
    unsigned size = 20 + (unsigned)random_below(r, 800);

    for (unsigned i = 0; i < most && m->item_count + 1 < RECORDS_MAX; i++) {
        unsigned key = (unsigned)random_below(r, span);

        if (random_below(r, 100) >= deletes)
            append(m, key, 20 + (unsigned)random_below(r, size), false);
        else if (m->newest[key] != 0 && !m->is_tombstone[key])
            append(m, key, 20, true);
        if (random_below(r, 500) == 0)
            checkpoint(m);
    }
}

static struct plan plan_model(const struct model *m, struct plan_segment *figures, unsigned percent)
{
    struct plan_input in = {
        .segments = figures,
        .segment_bytes = SMALL_SEGMENT,
        .header_bytes = SMALL_HEADER,
        .count = m->count,
        .room_bytes = UINT64_MAX,
        .live_percent = percent,
    };

    figures_of(m, figures);
    for (size_t i = 0; i < m->item_count; i++)
        in.above_bytes += m->items[i].seq > m->checkpoint ? m->items[i].bytes : 0;
    for (size_t i = 0; i < m->item_count; i++)
        if (m->newest[m->items[i].key] == m->items[i].seq && !m->items[i].tombstone)
            in.live_bytes += m->items[i].bytes;
    return compact_plan(&in);
}

static void check_bounds(const struct model *m, const struct plan_segment *figures,
                         unsigned percent)
{
    uint64_t closed = 0;
    uint64_t all = 0;
    uint64_t live = 0;

    for (size_t i = 0; i < m->count; i++) {
        all += figures[i].bytes + SMALL_HEADER;
        live += figures[i].live_bytes;
        if (i + 1 < m->count)
            closed += figures[i].bytes;
    }
    assert_true(closed <= live * 100 / percent + SMALL_SEGMENT / 16);
    assert_true(m->count <= 2 * all / SMALL_SEGMENT + 8);
}

/* Plans and compacts until nothing is left to do. Returns the number of steps. */
static unsigned settle(struct model *m, unsigned percent, struct plan_segment *figures)
{
    size_t most = 20 * m->count + 100;
    unsigned steps = 0;
    struct plan plan;

    while ((plan = plan_model(m, figures, percent)).step != PLAN_NOTHING) {
        assert_true(steps++ < most);
        if (plan.step == PLAN_CHECKPOINT) {
            if (m->checkpoint == m->seq)
                break; /* what must stay stands in the way */
            checkpoint(m);
            continue;
        }
        assert_true(plan.count > 0 && plan.first + plan.count < m->count);
        for (size_t i = 0; i < plan.count; i++)
            assert_true(figures[plan.first + i].settled && !figures[plan.first + i].kept);
        compact(m, figures, &plan);
        check_rebuild(m);
    }
    return steps;
}

static void test_random_logs_settle_within_the_bounds_and_lose_nothing(void **state)
{
    static struct model m;
    static struct plan_segment figures[SEGMENTS_MAX];
    struct random r = random_seeded();

    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        memset(&m, 0, sizeof(m));
        m.count = 1;
        for (unsigned phase = 0; phase < 8; phase++) {
            unsigned percent = random_below(&r, 4) == 0 ? 95 : 65;

            write_some(&m, &r);
            checkpoint(&m);
            settle(&m, percent, figures);
            check_bounds(&m, figures, percent);
        }
    }
}

static void test_random_logs_with_segments_that_must_stay_come_to_an_end(void **state)
{
    static struct model m;
    static struct plan_segment figures[SEGMENTS_MAX];
    struct random r = random_seeded();

    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        memset(&m, 0, sizeof(m));
        m.count = 1;
        for (unsigned phase = 0; phase < 6; phase++) {
            write_some(&m, &r);
            for (size_t i = 0; i < m.count; i++)
                m.segments[i].kept = random_below(&r, 5) == 0;
            settle(&m, 65, figures);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_log_that_is_nearly_all_live_is_left_alone),
        cmocka_unit_test(test_what_frees_most_for_its_copying_comes_first),
        cmocka_unit_test(test_neighbours_are_merged_as_long_as_they_fit_into_one_segment),
        cmocka_unit_test(test_the_active_segment_and_what_no_checkpoint_covers_are_not_compacted),
        cmocka_unit_test(test_a_segment_that_must_stay_stays),
        cmocka_unit_test(test_tombstones_count_as_freed_only_when_nothing_older_is_left),
        cmocka_unit_test(test_tombstones_behind_what_must_stay_are_no_reason_to_copy),
        cmocka_unit_test(test_too_many_small_files_are_merged_though_they_are_all_live),
        cmocka_unit_test(test_dead_segments_cost_nothing_however_many_there_are),
        cmocka_unit_test(test_random_logs_settle_within_the_bounds_and_lose_nothing),
        cmocka_unit_test(test_random_logs_with_segments_that_must_stay_come_to_an_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
