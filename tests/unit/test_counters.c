/*
 * test_counters.c - the table of counters (base/counters.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <ctype.h>
#include <string.h>

#include "base/counters.h"

static void every_counter_has_a_name_of_its_own_and_a_meaning(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNTER_COUNT; i++) {
        const char *name = counter_infos[i].name;

        assert_non_null(name);
        assert_true(strlen(counter_infos[i].help) > 0);
        assert_null(strchr(counter_infos[i].help, '\n')); /* one comment line in /-/metrics */
        for (const char *c = name; *c != '\0'; c++)
            assert_true(islower((unsigned char)*c) || *c == '_');
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(name, counter_infos[j].name);
    }
    assert_string_equal(counter_infos[COUNTER_CMD_GET].name, "cmd_get");
}

static void adding_touches_one_counter(void **state)
{
    static struct counters set;

    (void)state;
    counter_add(&set, COUNTER_CMD_SET, 3);
    counter_add(&set, COUNTER_CMD_SET, UINT32_MAX);
    assert_true(counter_get(&set, COUNTER_CMD_SET) == (uint64_t)UINT32_MAX + 3);
    for (int i = 0; i < COUNTER_COUNT; i++)
        assert_true(i == COUNTER_CMD_SET || counter_get(&set, (enum counter)i) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_counter_has_a_name_of_its_own_and_a_meaning),
        cmocka_unit_test(adding_touches_one_counter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
