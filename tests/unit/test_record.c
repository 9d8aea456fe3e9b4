/*
 * test_record.c - records and their bytes: every field comes back, every cut asks for more, every
 * flipped bit is seen.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/hash.h"
#include "guarded.h"
#include "store/record.h"

/* Encodes a record whole; returns its length. */
#define SALT 0x1234567890abcdefULL

static size_t encode(const struct record *r, unsigned char *out)
{
    char body[4096];
    size_t len = 0;
    size_t head;

    memcpy(body, r->key.ptr, r->key.len);
    len += r->key.len;
    memcpy(body + len, r->attrs.ptr, r->attrs.len);
    len += r->attrs.len;
    memcpy(body + len, r->value.ptr, r->value.len);
    len += r->value.len;
    head = record_encode_head(SALT, r, hash_bytes(body, len), out);
    memcpy(out + head, body, len);
    return head + len;
}

static struct record plain(void)
{
    struct record r = {
        .kind = RECORD_PUT,
        .flags = 0xdeadbeef,
        .expires_ms = -5,
        .seq = 77,
        .base = {123456789ull << 16 | 3, 1700000000, 2},
        .key = slice_str("key"),
        .attrs = slice_of("\001\002\000tt", 5),
        .value = slice_of("value\0\r\n", 8),
        .unsynced = 4,
    };

    r.logged = r.touch = r.base;
    return r;
}

static struct record everything(void)
{
    struct record r = plain();

    r.kind = RECORD_COUNTER;
    r.logged = (struct stamp){r.base.version + 9, 7, 8};
    r.touch = (struct stamp){r.base.version + 5, 5, 6};
    r.big_file = 12;
    r.big_bytes = 3000000000u;
    r.big_sum = 99;
    r.slot_count = RECORD_SLOTS_MAX;
    for (unsigned i = 0; i < RECORD_SLOTS_MAX; i++)
        r.slots[i] =
            (struct counter_slot){{r.base.version + i, i, (uint16_t)i}, -(int64_t)i * 1000};
    return r;
}

static void assert_same_stamp(struct stamp a, struct stamp b)
{
    assert_int_equal(stamp_compare(a, b), 0);
}

static void assert_same(const struct record *a, const struct record *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->expires_ms, b->expires_ms);
    assert_int_equal(a->seq, b->seq);
    assert_same_stamp(a->base, b->base);
    assert_same_stamp(a->logged, b->logged);
    assert_same_stamp(a->touch, b->touch);
    assert_int_equal(a->unsynced, b->unsynced);
    assert_true(slice_equal(a->key, b->key));
    assert_true(slice_equal(a->attrs, b->attrs));
    assert_true(slice_equal(a->value, b->value));
    assert_int_equal(a->big_file, b->big_file);
    assert_int_equal(a->big_bytes, b->big_bytes);
    assert_int_equal(a->big_sum, b->big_sum);
    assert_int_equal(a->slot_count, b->slot_count);
    for (unsigned i = 0; i < a->slot_count; i++) {
        assert_same_stamp(a->slots[i].stamp, b->slots[i].stamp);
        assert_int_equal(a->slots[i].sum, b->slots[i].sum);
    }
}

static void every_field_comes_back(void **state)
{
    const struct record records[] = {plain(), everything()};
    unsigned char bytes[RECORD_HEAD_MAX + 64];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t len = encode(&records[i], bytes);
        char *at = guarded_copy(bytes, len);
        struct record out;
        size_t used = 0;

        assert_int_equal(record_decode(SALT, slice_of(at, len), &out, &used), RECORD_DONE);
        assert_int_equal(used, len);
        assert_same(&records[i], &out);
    }
}

static void a_cut_record_asks_for_more(void **state)
{
    const struct record records[] = {plain(), everything()};
    unsigned char bytes[RECORD_HEAD_MAX + 64];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t len = encode(&records[i], bytes);

        for (size_t cut = 0; cut < len; cut++) {
            struct record out;
            size_t used;

            assert_int_equal(
                record_decode(SALT, slice_of(guarded_copy(bytes, cut), cut), &out, &used),
                RECORD_MORE);
        }
    }
}

static void a_flipped_bit_is_never_a_record(void **state)
{
    const struct record records[] = {plain(), everything()};
    unsigned char bytes[RECORD_HEAD_MAX + 64];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        size_t len = encode(&records[i], bytes);

        for (size_t bit = 0; bit < len * 8; bit++) {
            struct record out;
            size_t used;

            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
            assert_int_not_equal(record_decode(SALT, slice_of(bytes, len), &out, &used),
                                 RECORD_DONE);
            bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        }
    }
}

static void stamps_are_ordered_by_version_then_node_then_epoch(void **state)
{
    static const struct stamp ascending[] = {{1, 9, 9}, {2, 9, 1}, {2, 1, 2},
                                             {2, 2, 2}, {2, 1, 3}, {3, 0, 0}};

    (void)state;
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 6; j++)
            assert_int_equal((stamp_compare(ascending[i], ascending[j]) > 0) -
                                 (stamp_compare(ascending[i], ascending[j]) < 0),
                             (i > j) - (i < j));
}

static void cas_follows_base_choice_and_slots(void **state)
{
    struct record r = plain();

    (void)state;
    assert_int_equal(record_cas(&r), r.base.version);
    r.slot_count = 2;
    r.slots[0].stamp.version = r.base.version + 5;
    r.slots[1].stamp.version = r.base.version + 8;
    assert_int_equal(record_cas(&r), r.base.version + 13);
    r.has_client_cas = true;
    r.client_cas = 7;
    assert_int_equal(record_cas(&r), 7 + 13);
    r.slot_count = 0;
    assert_int_equal(record_cas(&r), 7);
}

static void a_client_chosen_cas_is_read_from_the_attributes(void **state)
{
    struct record r = plain();
    struct record out;
    unsigned char bytes[RECORD_HEAD_MAX + 64];
    unsigned char cas[8];
    char attrs[16];
    size_t used;

    (void)state;
    put_u64le(cas, 4711);
    r.attrs = slice_of(attrs, attr_put(attrs, ATTR_CLIENT_CAS, slice_of(cas, 8)));
    assert_int_equal(record_decode(SALT, slice_of(bytes, encode(&r, bytes)), &out, &used),
                     RECORD_DONE);
    assert_int_equal(record_cas(&out), 4711);
}

static void attributes_are_walked_and_broken_ones_end_the_walk(void **state)
{
    char attrs[64];
    size_t len = attr_put(attrs, ATTR_CONTENT_TYPE, slice_str("image/png"));
    struct slice found;

    (void)state;
    len += attr_put(attrs + len, (enum attr_tag)200, slice_str("?"));
    len += attr_put(attrs + len, ATTR_CACHE_CONTROL, slice_of(NULL, 0));
    assert_true(attr_find(slice_of(attrs, len), ATTR_CONTENT_TYPE, &found));
    assert_true(slice_is(found, "image/png"));
    assert_true(attr_find(slice_of(attrs, len), ATTR_CACHE_CONTROL, &found));
    assert_int_equal(found.len, 0);
    assert_false(attr_find(slice_of(attrs, len), ATTR_CONTENT_ENCODING, &found));
    for (size_t cut = 0; cut < 12; cut++)
        assert_false(attr_find(slice_of(guarded_copy(attrs, cut), cut), ATTR_CONTENT_TYPE, &found));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_comes_back),
        cmocka_unit_test(a_cut_record_asks_for_more),
        cmocka_unit_test(a_flipped_bit_is_never_a_record),
        cmocka_unit_test(stamps_are_ordered_by_version_then_node_then_epoch),
        cmocka_unit_test(cas_follows_base_choice_and_slots),
        cmocka_unit_test(a_client_chosen_cas_is_read_from_the_attributes),
        cmocka_unit_test(attributes_are_walked_and_broken_ones_end_the_walk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
