/*
 * test_ttctl_line.c - a dump's lines: what is written is read again, in pieces of any size; what is
 * cut anywhere is noticed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "random.h"
#include "tools/ttctl_line.h"

struct sample {
    char key[600];
    size_t key_len;
    char attrs[400];
    size_t attrs_len;
    uint32_t flags;
    int64_t expires_ms;
    char *value;
    size_t value_len;
};

static void fill(struct random *r, char *out, size_t len, bool text)
{
    for (size_t i = 0; i < len; i++)
        out[i] = text ? (char)('a' + random_below(r, 26)) : (char)random_u64(r);
}

static struct sample make_sample(struct random *r)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 1023, 1024, 1025, 5000};
    struct sample s = {.flags = (uint32_t)random_below(r, 3) * 1431655765u};
    unsigned count = (unsigned)random_below(r, 4);

    s.key_len = random_below(r, sizeof(s.key));
    fill(r, s.key, s.key_len, random_below(r, 2) == 0);
    s.expires_ms = random_below(r, 2) == 0 ? 0 : (int64_t)random_u64(r);
    for (unsigned i = 0; i < count; i++) {
        char bytes[64];
        size_t len = random_below(r, sizeof(bytes));
        uint8_t tag = (uint8_t)(1 + random_below(r, 255));

        fill(r, bytes, len, false);
        if (tag == ATTR_CLIENT_CAS)
            len = 8;
        s.attrs_len += attr_put(s.attrs + s.attrs_len, (enum attr_tag)tag, slice_of(bytes, len));
    }
    s.value_len = sizes[random_below(r, 9)] + random_below(r, 3);
    s.value = malloc(s.value_len + 1);
    assert_non_null(s.value);
    fill(r, s.value, s.value_len, random_below(r, 2) == 0);
    if (random_below(r, 4) == 0 && s.value_len > 1030)
        fill(r, s.value + 1024, s.value_len - 1024, false); /* text that turns into bytes */
    return s;
}

/* Writes the value in pieces. */
static void write_sample(struct random *r, FILE *to, const struct sample *s)
{
    struct line_writer w;
    size_t at = 0;

    line_begin(&w, to, slice_of(s->key, s->key_len), s->flags, s->expires_ms,
               slice_of(s->attrs, s->attrs_len));
    while (at < s->value_len) {
        size_t n = 1 + random_below(r, 1500);

        if (n > s->value_len - at)
            n = s->value_len - at;
        line_value(&w, slice_of(s->value + at, n));
        at += n;
    }
    line_end(&w);
}

static void read_sample(struct random *r, struct line_reader *in, const struct sample *s)
{
    char *value = malloc(s->value_len + 2000);
    size_t len = 0;
    ssize_t got = 1;

    assert_non_null(value);
    assert_int_equal(line_next(in), LINE_RECORD);
    assert_true(slice_equal(in->key, slice_of(s->key, s->key_len)));
    assert_true(slice_equal(in->attrs, slice_of(s->attrs, s->attrs_len)));
    assert_int_equal(in->flags, s->flags);
    assert_int_equal(in->expires_ms, s->expires_ms);
    while (got > 0 && len <= s->value_len) {
        got = line_read_value(in, value + len, 1 + random_below(r, 1500));
        assert_true(got >= 0);
        len += (size_t)got;
    }
    assert_int_equal(len, s->value_len);
    assert_memory_equal(value, s->value, len);
    free(value);
}

static void test_what_is_written_is_read_again(void **state)
{
    struct random r = random_seeded();
    struct sample samples[200];
    struct line_reader in;
    FILE *file = tmpfile();

    (void)state;
    assert_non_null(file);
    for (unsigned i = 0; i < 200; i++) {
        samples[i] = make_sample(&r);
        write_sample(&r, file, &samples[i]);
    }
    rewind(file);
    line_reader_begin(&in, file);
    for (unsigned i = 0; i < 200; i++) {
        if (i % 7 == 6) /* passed over, and the next one as well */
            assert_true(line_skip(&in));
        else
            read_sample(&r, &in, &samples[i]);
        assert_int_equal(in.number, i + 1);
        free(samples[i].value);
    }
    assert_int_equal(line_next(&in), LINE_NONE);
    line_reader_end(&in);
    fclose(file);
}

/* Reads one line of `text`; true if it is a whole record. */
static bool reads(const char *text, size_t len)
{
    FILE *file = len > 0 ? fmemopen((void *)(uintptr_t)text, len, "r") : tmpfile();
    struct line_reader in;
    char room[100];
    ssize_t got = 1;
    bool good;

    assert_non_null(file);
    line_reader_begin(&in, file);
    good = line_next(&in) == LINE_RECORD;
    while (good && got > 0)
        got = line_read_value(&in, room, sizeof(room));
    good = good && got == 0;
    if (!good)
        assert_true(len == 0 || in.error != NULL);
    line_reader_end(&in);
    fclose(file);
    return good;
}

static void test_a_line_that_is_cut_anywhere_is_no_record(void **state)
{
    struct random r = random_seeded();

    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct sample s = make_sample(&r);
        char *text = NULL;
        size_t len = 0;
        FILE *file = open_memstream(&text, &len);

        assert_non_null(file);
        write_sample(&r, file, &s);
        fclose(file);
        assert_true(reads(text, len));
        for (size_t cut = 0; cut < len; cut++)
            assert_false(reads(text, cut));
        free(text);
        free(s.value);
    }
}

static void test_texts_are_written_as_they_are(void **state)
{
    static const struct {
        const char *value;
        const char *line;
    } table[] = {
        {"", "k\t-\tt:\n"},
        {"plain text, ümlaut", "k\t-\tt:plain text, ümlaut\n"},
        {"two\nlines\tand 50%", "k\t-\tt:two%0Alines%09and 50%25\n"},
        {"\x01", "k\t-\tb:AQ==\n"},
        {"\xff\xfe", "k\t-\tb://4=\n"},
        {"cut \xc3", "k\t-\tb:Y3V0IMM=\n"},
        {"\xc0\x80", "k\t-\tb:wIA=\n"},
        {"\xf5\x80\x80\x80", "k\t-\tb:9YCAgA==\n"},
        {"\xf0\x9f\x98\x80", "k\t-\tt:\xf0\x9f\x98\x80\n"},
        {"\x7f", "k\t-\tb:fw==\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct line_writer w;
        char *text = NULL;
        size_t len = 0;
        FILE *file = open_memstream(&text, &len);

        assert_non_null(file);
        line_begin(&w, file, slice_str("k"), 0, 0, slice_of("", 0));
        line_value(&w, slice_str(table[i].value));
        line_end(&w);
        fclose(file);
        assert_string_equal(text, table[i].line);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read_again),
        cmocka_unit_test(test_a_line_that_is_cut_anywhere_is_no_record),
        cmocka_unit_test(test_texts_are_written_as_they_are),
    };

    return cmocka_run_group_tests_name("ttctl_line", tests, NULL, NULL);
}
