/*
 * test_clock.c - replaceable time (base/clock.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <time.h>

#include "base/clock.h"

struct fixed_time {
    int64_t wall_ms;
    int64_t mono_ms;
};

static int64_t fixed_wall_ms(void *ctx)
{
    return ((struct fixed_time *)ctx)->wall_ms;
}

static int64_t fixed_mono_ms(void *ctx)
{
    return ((struct fixed_time *)ctx)->mono_ms;
}

static void the_system_clocks_are_the_default(void **state)
{
    int64_t before_s = (int64_t)time(NULL);
    int64_t wall_ms = clock_wall_ms();
    int64_t after_s = (int64_t)time(NULL);

    (void)state;
    /* time(2) may lag by a tick behind clock_gettime(2), never by a second. */
    assert_true(wall_ms / 1000 >= before_s && wall_ms / 1000 <= after_s + 1);
}

static void monotonic_time_is_above_zero_and_never_goes_back(void **state)
{
    int64_t last_ms = clock_mono_ms();
    int64_t last_us = clock_mono_us();

    (void)state;
    assert_true(last_ms > 0);
    assert_true(last_us / 1000 >= last_ms);
    for (int i = 0; i < 10000; i++) {
        int64_t ms = clock_mono_ms();
        int64_t us = clock_mono_us();

        assert_true(ms >= last_ms && us >= last_us);
        last_ms = ms;
        last_us = us;
    }
}

static void a_test_can_move_the_clock_and_give_it_back(void **state)
{
    struct fixed_time now = {.wall_ms = 1000, .mono_ms = 5};
    const struct clock_source source = {fixed_wall_ms, fixed_mono_ms, &now};

    (void)state;
    clock_replace(&source);
    assert_int_equal(clock_wall_ms(), 1000);
    assert_int_equal(clock_mono_ms(), 5);
    assert_int_equal(clock_mono_us(), 5000);
    now.wall_ms = 900; /* stepped back, as an administrator may */
    now.mono_ms = 6;
    assert_int_equal(clock_wall_ms(), 900);
    assert_int_equal(clock_mono_ms(), 6);
    clock_replace(NULL);
    assert_true(clock_wall_ms() > 1000000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_system_clocks_are_the_default),
        cmocka_unit_test(monotonic_time_is_above_zero_and_never_goes_back),
        cmocka_unit_test(a_test_can_move_the_clock_and_give_it_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
