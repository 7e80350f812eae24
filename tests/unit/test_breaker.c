/* When a server that fails or can't be reached is left alone, and how its return is noticed. */
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
        assert_int_equal(0, breaker_report(&b, false, i));
    }
    assert_int_equal(0, breaker_report(&b, true, 8));
    for (int i = 0; i < 7; i++)
        assert_int_equal(0, breaker_report(&b, false, i));
    assert_false(breaker_is_open(&b));
}

/* What a call does that may go: 0, and it is on its way. */
static int64_t ask(struct breaker *b, int64_t now_us)
{
    int64_t wait_us = breaker_wait_us(b, now_us);

    if (wait_us == 0)
        breaker_try(b, now_us);
    return wait_us;
}

static void then_one_call_a_second_finds_out(void **state)
{
    struct breaker b = {0};
    (void)state;

    for (int i = 0; i < 7; i++)
        breaker_report(&b, false, 0);
    assert_int_equal(BREAKER_OPENED, breaker_report(&b, false, 0));
    assert_int_equal(0, breaker_report(&b, false, 0));
    assert_int_equal(ask(&b, 1), SECOND - 1);
    assert_int_equal(ask(&b, SECOND), 0);
    /* That one is on its way: the others go on waiting. */
    assert_int_equal(ask(&b, SECOND), SECOND);
    assert_int_equal(BREAKER_FAILS, breaker_report(&b, false, SECOND + 5));
    assert_int_equal(ask(&b, SECOND + 5), SECOND);
    /* One that never says how it went does not block the next. */
    assert_int_equal(ask(&b, 3 * SECOND), 0);
    assert_int_equal(ask(&b, 4 * SECOND), 0);
    assert_int_equal(BREAKER_CLOSED | BREAKER_WELL, breaker_report(&b, true, 4 * SECOND));
    assert_int_equal(ask(&b, 4 * SECOND), 0);
}

/* ---- Rest ---- */

static void rests_grow_while_each_ends_in_a_fault(void **state)
{
    static const int64_t rests_s[] = {1, 2, 4, 8, 16, 30, 30};
    struct breaker b = {0};
    int64_t now = 5;
    (void)state;

    for (size_t i = 0; i < sizeof rests_s / sizeof *rests_s; i++) {
        int64_t rest_us = rests_s[i] * SECOND;
        assert_false(breaker_is_resting(&b, now));
        assert_int_equal(breaker_fault(&b, 0, now), i == 1 ? BREAKER_FAILS : 0);
        assert_true(breaker_is_resting(&b, now + rest_us - 1));
        assert_false(breaker_is_resting(&b, now + rest_us));
        now += rest_us;
        /* One call finds out; others keep away meanwhile. */
        breaker_try(&b, now);
        assert_true(breaker_is_resting(&b, now));
        b.rest_us = now;
    }
    assert_int_equal(breaker_recover(&b, now), BREAKER_WELL);
}

static void faults_of_one_moment_count_once(void **state)
{
    struct breaker b = {0};
    (void)state;

    for (int i = 0; i < 50; i++)
        breaker_fault(&b, 0, i);
    assert_int_equal(b.n_faults, 1);
    assert_false(breaker_is_resting(&b, SECOND));
    /* Even if a call was begun meanwhile, because all others are as bad. */
    breaker_try(&b, 500);
    assert_false(breaker_is_resting(&b, SECOND));
    breaker_fault(&b, 0, SECOND);
    assert_int_equal(b.n_faults, 2);
}

static void an_answer_ends_it_but_not_that_of_a_call_before(void **state)
{
    struct breaker b = {0};
    (void)state;

    breaker_fault(&b, 0, 0);
    breaker_recover(&b, 10);
    assert_true(breaker_is_resting(&b, 10));
    breaker_try(&b, SECOND);
    breaker_recover(&b, SECOND + 10);
    assert_false(breaker_is_resting(&b, SECOND + 10));
    assert_int_equal(b.n_faults, 0);
    breaker_fault(&b, 0, 2 * SECOND);
    assert_false(breaker_is_resting(&b, 3 * SECOND));
}

static void what_a_server_asks_for_is_kept_up_to_two_minutes(void **state)
{
    struct breaker b = {0};
    (void)state;

    breaker_fault(&b, 10 * SECOND, 0);
    assert_true(breaker_is_resting(&b, 10 * SECOND - 1));
    assert_false(breaker_is_resting(&b, 10 * SECOND));
    breaker_fault(&b, 1, 10 * SECOND);
    assert_true(breaker_is_resting(&b, 12 * SECOND - 1));
    breaker_fault(&b, INT64_MAX, 12 * SECOND);
    assert_true(breaker_is_resting(&b, 132 * SECOND - 1));
    assert_false(breaker_is_resting(&b, 132 * SECOND));
}

static void a_connection_ends_the_rest_of_one_that_could_not_be_reached(void **state)
{
    struct breaker b = {0};
    (void)state;

    breaker_report(&b, false, 0);
    assert_true(breaker_is_resting(&b, 1));
    /* An answer on another connection, of before. */
    breaker_recover(&b, 2 * SECOND);
    assert_int_equal(b.n_faults, 1);
    breaker_report(&b, true, 2);
    assert_false(breaker_is_resting(&b, 2));
    assert_int_equal(b.n_faults, 0);
    /* To connect says nothing of a server that answers with errors. */
    breaker_fault(&b, 0, 3);
    breaker_report(&b, true, 4);
    assert_true(breaker_is_resting(&b, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(some_failures_are_nothing),
        cmocka_unit_test(then_one_call_a_second_finds_out),
        cmocka_unit_test(rests_grow_while_each_ends_in_a_fault),
        cmocka_unit_test(faults_of_one_moment_count_once),
        cmocka_unit_test(an_answer_ends_it_but_not_that_of_a_call_before),
        cmocka_unit_test(what_a_server_asks_for_is_kept_up_to_two_minutes),
        cmocka_unit_test(a_connection_ends_the_rest_of_one_that_could_not_be_reached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
