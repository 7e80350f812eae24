/* When an upstream that can't be reached is left alone, and how its return is noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "breaker.h"

#define SECOND INT64_C(1000000)

static void some_failures_are_nothing(void **state)
{
    struct breaker b = {0};
    (void)state;

    for (int i = 0; i < 7; i++) {
        assert_int_equal(breaker_wait_us(&b, i), 0);
        assert_false(breaker_report(&b, false, i));
    }
    assert_false(breaker_report(&b, true, 8));
    for (int i = 0; i < 7; i++)
        assert_false(breaker_report(&b, false, i));
    assert_false(breaker_is_open(&b));
}

static void then_one_call_a_second_finds_out(void **state)
{
    struct breaker b = {0};
    (void)state;

    for (int i = 0; i < 7; i++)
        breaker_report(&b, false, 0);
    assert_true(breaker_report(&b, false, 0));
    assert_false(breaker_report(&b, false, 0));
    assert_int_equal(breaker_wait_us(&b, 1), SECOND - 1);
    assert_int_equal(breaker_wait_us(&b, SECOND), 0);
    /* That one is on its way: the others go on waiting. */
    assert_int_equal(breaker_wait_us(&b, SECOND), SECOND);
    assert_false(breaker_report(&b, false, SECOND + 5));
    assert_int_equal(breaker_wait_us(&b, SECOND + 5), SECOND);
    /* One that never says how it went does not block the next. */
    assert_int_equal(breaker_wait_us(&b, 3 * SECOND), 0);
    assert_int_equal(breaker_wait_us(&b, 4 * SECOND), 0);
    assert_true(breaker_report(&b, true, 4 * SECOND));
    assert_int_equal(breaker_wait_us(&b, 4 * SECOND), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_failures_are_nothing),
        cmocka_unit_test(then_one_call_a_second_finds_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
