/*
 * test_options.c - the command line (main/options.h): what it means, and what a mistake is answered
 * with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "main/options.h"
#include "store/store.h"

enum { WORDS_MAX = 12 };

/* The words behind the program's name, up to the first NULL. */
static bool parse(const char *const words[WORDS_MAX], struct options *out, char message[256])
{
    const char *argv[WORDS_MAX + 2] = {"ttserver"};
    int argc = 1;

    for (size_t i = 0; i < WORDS_MAX && words[i] != NULL; i++)
        argv[argc++] = words[i];
    message[0] = '\0';
    return options_parse(argc, (char *const *)argv, out, message, 256);
}

static void without_options_the_documented_defaults_hold(void **state)
{
    const char *const words[WORDS_MAX] = {"./data"};
    struct options o;
    char message[256];

    (void)state;
    assert_true(parse(words, &o, message));
    assert_string_equal(o.dbname, "./data");
    assert_string_equal(o.host, "127.0.0.1");
    assert_int_equal(o.port, 1978);
    assert_null(o.unix_path);
    assert_int_equal(o.threads, 0);
    assert_int_equal(o.max_conns, 0);
    assert_int_equal(o.idle_timeout_s, 0);
    assert_int_equal(o.stall_timeout_s, 30);
    assert_false(o.insecure);
    assert_int_equal(o.sync, STORE_SYNC_ALWAYS);
    assert_int_equal(o.segment_bytes, 64 << 20);
    assert_int_equal(o.max_value_bytes, 64 << 20);
    assert_true(o.reserve_bytes == STORE_RESERVE_DEFAULT);
    assert_int_equal(o.sid, 0);
    assert_null(o.log_path);
    assert_int_equal(o.log_level, LOG_INFO);
    assert_null(o.pid_path);
    assert_int_equal(o.buffer_bytes, 0);
    assert_int_equal(o.io_threads, 4);
    assert_false(o.no_uring);
}

#define NUMBER(member) offsetof(struct options, member)

/* Both spellings of an argument, and every limit from its good side. */
static void numbers_are_taken_up_to_their_limits(void **state)
{
    static const struct {
        const char *words[WORDS_MAX];
        size_t field;
        uint64_t value;
    } rows[] = {
        {{"-port", "1", "d"}, NUMBER(port), 1},
        {{"-port=1", "d"}, NUMBER(port), 1},
        {{"-port", "65535", "d"}, NUMBER(port), 65535},
        {{"-port", "0", "--unix", "u", "d"}, NUMBER(port), 0},
        {{"-port", "1", "-port", "2", "d"}, NUMBER(port), 2},
        {{"-thnum", "1", "d"}, NUMBER(threads), 1},
        {{"-thnum", "512", "d"}, NUMBER(threads), 512},
        {{"-sid", "65535", "d"}, NUMBER(sid), 65535},
        {{"--max-value", "1000", "d"}, NUMBER(max_value_bytes), 1000},
        {{"--max-value", "1g", "d"}, NUMBER(max_value_bytes), UINT64_C(1) << 30},
        {{"--max-value=512K", "d"}, NUMBER(max_value_bytes), 512 << 10},
        {{"--segment-size", "4m", "d"}, NUMBER(segment_bytes), 4 << 20},
        {{"--segment-size=1g", "d"}, NUMBER(segment_bytes), UINT64_C(1) << 30},
        {{"--reserve", "0", "d"}, NUMBER(reserve_bytes), 0},
        {{"--reserve=3g", "d"}, NUMBER(reserve_bytes), UINT64_C(3) << 30},
        {{"--spool-max", "2g", "d"}, NUMBER(spool_max_bytes), UINT64_C(2) << 30},
        {{"--pinned-max", "5m", "d"}, NUMBER(pinned_max_bytes), UINT64_C(5) << 20},
        {{"--max-conns", "5", "d"}, NUMBER(max_conns), 5},
        {{"--idle-timeout", "7", "d"}, NUMBER(idle_timeout_s), 7},
        {{"-tout", "0", "d"}, NUMBER(stall_timeout_s), 0},
        {{"--buffer-memory=16m", "d"}, NUMBER(buffer_bytes), 16 << 20},
        {{"--io-threads", "9", "d"}, NUMBER(io_threads), 9},
        {{"-ld", "d"}, NUMBER(log_level), LOG_DEBUG},
        {{"-ld", "-le", "d"}, NUMBER(log_level), LOG_ERROR},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct options o;
        char message[256];
        uint64_t got;

        if (!parse(rows[i].words, &o, message))
            fail_msg("row %zu (%s): %s", i, rows[i].words[0], message);
        got = *(const uint64_t *)(const void *)((const char *)&o + rows[i].field);
        if (got != rows[i].value)
            fail_msg("row %zu (%s): got %llu", i, rows[i].words[0], (unsigned long long)got);
    }
}

static void sync_policies_are_named_as_help_says(void **state)
{
    static const struct {
        const char *words[WORDS_MAX];
        enum store_sync sync;
        int64_t ms;
        const char *text;
    } rows[] = {
        {{"--sync", "always", "d"}, STORE_SYNC_ALWAYS, 0, "always"},
        {{"--sync", "os", "d"}, STORE_SYNC_OS, 0, "os"},
        {{"--sync", "interval", "d"}, STORE_SYNC_INTERVAL, 1000, "interval=1000"},
        {{"--sync", "interval=1", "d"}, STORE_SYNC_INTERVAL, 1, "interval=1"},
        {{"--sync=interval=250", "d"}, STORE_SYNC_INTERVAL, 250, "interval=250"},
        {{"--sync=interval=3600000", "d"}, STORE_SYNC_INTERVAL, 3600000, "interval=3600000"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct options o;
        char message[256], text[OPTIONS_SYNC_TEXT];

        assert_true(parse(rows[i].words, &o, message));
        assert_int_equal(o.sync, rows[i].sync);
        if (rows[i].sync == STORE_SYNC_INTERVAL)
            assert_int_equal(o.sync_interval_ms, rows[i].ms);
        options_sync_text(&o, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void texts_and_flags_are_kept(void **state)
{
    const char *const words[WORDS_MAX] = {
        "-host",         "::1",    "-log", "/l/og", "-pid=p", "--insecure",
        "--no-io-uring", "--unix", "u",    "--",    "-d"};
    struct options o;
    char message[256];

    (void)state;
    assert_true(parse(words, &o, message));
    assert_string_equal(o.host, "::1");
    assert_string_equal(o.log_path, "/l/og");
    assert_string_equal(o.pid_path, "p");
    assert_string_equal(o.unix_path, "u");
    assert_true(o.insecure);
    assert_true(o.no_uring);
    assert_string_equal(o.dbname, "-d");
}

static void a_host_that_is_a_path_is_the_unix_socket_when_the_port_is_off(void **state)
{
    const char *const words[WORDS_MAX] = {"-port", "0", "-host", "/run/tt.sock", "d"};
    struct options o;
    char message[256];

    (void)state;
    assert_true(parse(words, &o, message));
    assert_string_equal(o.unix_path, "/run/tt.sock");
}

/* Each message names the option and what was expected. */
static void mistakes_are_named(void **state)
{
    static const struct {
        const char *words[WORDS_MAX];
        const char *message;
    } rows[] = {
        {{"-nonsense", "d"}, "unknown option -nonsense"},
        {{"--nonsense=5", "d"}, "unknown option --nonsense"},
        {{"-", "d"}, "unknown option -"},
        {{"--port", "5", "d"}, "unknown option --port: did you mean -port?"},
        {{"-sync", "os", "d"}, "unknown option -sync: did you mean --sync?"},
        {{"-help"}, "unknown option -help: did you mean --help?"},
        {{"-port"}, "option -port needs an argument: a whole number from 0 to 65535"},
        {{"-log", "-ld", "d"}, "option -log needs an argument: a text of 1 to 4095 bytes"},
        {{"-port", "abc", "d"},
         "option -port: expected a whole number from 0 to 65535, but got 'abc'"},
        {{"-port=", "d"}, "option -port: expected a whole number from 0 to 65535, but got ''"},
        {{"-port", "-1", "d"},
         "option -port: expected a whole number from 0 to 65535, but got '-1'"},
        {{"-port", "65536", "d"},
         "option -port: expected a whole number from 0 to 65535, but got '65536'"},
        {{"-port", "1978 ", "d"},
         "option -port: expected a whole number from 0 to 65535, but got '1978 '"},
        {{"-port", "18446744073709551617", "d"},
         "option -port: expected a whole number from 0 to 65535, but got '18446744073709551617'"},
        {{"-thnum", "0", "d"}, "option -thnum: expected a whole number from 1 to 512, but got '0'"},
        {{"-sid", "65536", "d"},
         "option -sid: expected a whole number from 0 to 65535, but got '65536'"},
        {{"--max-value", "2g", "d"},
         "option --max-value: expected a size from 1 to 1g (a number, "
         "then nothing or k, m, g, t), but got '2g'"},
        {{"--max-value", "0", "d"},
         "option --max-value: expected a size from 1 to 1g (a number, "
         "then nothing or k, m, g, t), but got '0'"},
        {{"--segment-size", "3m", "d"},
         "option --segment-size: expected a size from 4m to 1g (a "
         "number, then nothing or k, m, g, t), but got '3m'"},
        {{"--segment-size", "64mb", "d"},
         "option --segment-size: expected a size from 4m to 1g (a "
         "number, then nothing or k, m, g, t), but got '64mb'"},
        {{"--sync", "sometimes", "d"},
         "option --sync: expected always, interval, interval=MS (MS "
         "from 1 to 3600000) or os, but got 'sometimes'"},
        {{"--sync", "interval=0", "d"},
         "option --sync: expected always, interval, interval=MS (MS "
         "from 1 to 3600000) or os, but got 'interval=0'"},
        {{"--sync", "interval=3600001", "d"},
         "option --sync: expected always, interval, interval=MS (MS from 1 to 3600000) or os, but "
         "got 'interval=3600001'"},
        {{"--insecure=yes", "d"}, "option --insecure takes no argument, but got 'yes'"},
        {{"-host", "", "d"}, "option -host: expected a text of 1 to 255 bytes, but got ''"},
        {{"--auth-file", "x", "d"},
         "option --auth-file: users and passwords are not in this "
         "version; use a loopback address, a unix socket or a firewall"},
        {{"-mhost", "other", "d"},
         "option -mhost: replication between servers is not in this version"},
        {{"-port", "0", "d"}, "option -port 0 leaves nothing to listen on: add --unix PATH"},
        {{"d", "-port", "1"},
         "option -port stands behind DBNAME d: options come first, then one DBNAME"},
        {{"d", "e"}, "only one DBNAME is expected, but got d and e"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct options o;
        char message[256];

        if (parse(rows[i].words, &o, message))
            fail_msg("row %zu (%s) was taken", i, rows[i].words[0]);
        assert_string_equal(message, rows[i].message);
    }
}

static void dbnames_of_other_engines_are_refused_with_the_choice_named(void **state)
{
    static const char *const names[] = {
        NULL,    "*",     "+",     "",      "a.tch", "a.hdb", "a.tcb",     "a.BDB",
        "a.tcf", "a.fdb", "a.tct", "a.tdb", ".tch",  "*#b=1", "d#bnum=10", "rados:pool",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *const words[WORDS_MAX] = {names[i]};
        struct options o;
        char message[256];

        if (parse(words, &o, message))
            fail_msg("%s was taken", names[i]);
        assert_non_null(strstr(message, "DBNAME"));
        assert_non_null(strstr(message, "ttserver ./data"));
    }
}

static void help_and_version_end_the_reading(void **state)
{
    const char *const help[WORDS_MAX] = {"--help", "--nonsense"};
    const char *const version[WORDS_MAX] = {"-port", "7", "--version"};
    struct options o;
    char message[256];

    (void)state;
    assert_true(parse(help, &o, message));
    assert_true(o.help);
    assert_true(parse(version, &o, message));
    assert_true(o.version);
}

static void help_shows_every_option_that_can_be_used_in_80_columns(void **state)
{
    struct buf text = {0};
    size_t column = 0;

    (void)state;
    assert_int_equal(options_help(&text), 0);
    assert_int_equal(buf_add(&text, "", 1), 0); /* for strstr() */
    for (const struct option_spec *spec = option_table; spec->name != NULL; spec++) {
        char head[64];

        snprintf(head, sizeof(head), "\n  %s ", spec->name);
        if ((strstr(text.data, head) != NULL) == (spec->type == OPTION_REFUSED))
            fail_msg("%s", spec->name);
    }
    for (size_t i = 0; text.data[i] != '\0'; i++) {
        column = text.data[i] == '\n' ? 0 : column + 1;
        assert_in_range(column, 0, 79);
    }
    buf_free(&text);
}

/* The table is data: a slip in a row must not wait for somebody who uses that option. */
static void every_row_of_the_table_makes_sense(void **state)
{
    (void)state;
    for (const struct option_spec *spec = option_table; spec->name != NULL; spec++) {
        bool takes =
            spec->type != OPTION_FLAG && spec->type != OPTION_LEVEL && spec->type != OPTION_REFUSED;

        for (const struct option_spec *other = spec + 1; other->name != NULL; other++)
            assert_string_not_equal(spec->name, other->name);
        assert_int_equal(spec->name[0], '-');
        assert_non_null(spec->help);
        assert_int_equal(spec->argument != NULL, takes);
        if (takes)
            assert_true(spec->min <= spec->max);
        if (spec->preset != NULL && spec->type != OPTION_TEXT) {
            const char *const words[WORDS_MAX] = {spec->name, spec->preset, "d"};
            struct options o;
            char message[256];

            assert_true(parse(words, &o, message));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_options_the_documented_defaults_hold),
        cmocka_unit_test(numbers_are_taken_up_to_their_limits),
        cmocka_unit_test(sync_policies_are_named_as_help_says),
        cmocka_unit_test(texts_and_flags_are_kept),
        cmocka_unit_test(a_host_that_is_a_path_is_the_unix_socket_when_the_port_is_off),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(dbnames_of_other_engines_are_refused_with_the_choice_named),
        cmocka_unit_test(help_and_version_end_the_reading),
        cmocka_unit_test(help_shows_every_option_that_can_be_used_in_80_columns),
        cmocka_unit_test(every_row_of_the_table_makes_sense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
