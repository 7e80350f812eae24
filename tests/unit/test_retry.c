/* When a request is sent again, and after how long: the official SDKs' rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "retry.h"

enum { SECOND = 1000000 };

static const struct retry_limits usual = {.max_retries = 2, .resend = true, .left_us = INT64_MAX};

static struct retry_facts answered(int status)
{
    return (struct retry_facts){.http_status = status, .retry_after_ms = -1, .was_sent = true};
}

static int64_t delay(struct retry_facts facts, unsigned n_taken, uint32_t chance)
{
    struct retry_limits limits = usual;

    limits.n_taken = n_taken;
    return retry_delay_us(&facts, &limits, chance);
}

static void statuses_are_the_sdks(void **state)
{
    (void)state;
    for (int status = 100; status < 700; status++) {
        bool retried =
            status == 408 || status == 409 || status == 429 || (status >= 500 && status < 600);
        assert_int_equal(delay(answered(status), 0, 0) >= 0, retried);
    }
}

static void waits_double_up_to_eight_seconds(void **state)
{
    struct retry_facts f = answered(500);
    struct retry_limits limits = {.max_retries = 100, .resend = true, .left_us = INT64_MAX};
    static const int64_t seconds_2[] = {1, 2, 4, 8, 16, 16, 16};
    (void)state;

    for (unsigned k = 0; k < sizeof seconds_2 / sizeof *seconds_2; k++) {
        limits.n_taken = k;
        assert_int_equal(retry_delay_us(&f, &limits, 0), seconds_2[k] * SECOND / 2);
        /* A quarter less at most. */
        assert_int_equal(retry_delay_us(&f, &limits, 1023), seconds_2[k] * SECOND * 3 / 8);
    }
    limits.n_taken = 99;
    assert_int_equal(retry_delay_us(&f, &limits, 0), 8 * SECOND);
    limits.n_taken = 100;
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
}

static void retries_are_counted(void **state)
{
    (void)state;
    assert_true(delay(answered(503), 1, 0) > 0);
    assert_int_equal(delay(answered(503), 2, 0), -1);
}

static void what_the_upstream_asks_for_is_waited_up_to_two_minutes(void **state)
{
    struct retry_facts f = answered(429);
    (void)state;

    f.retry_after_ms = 7;
    assert_int_equal(delay(f, 0, 1023), 7000);
    f.retry_after_ms = 120000;
    assert_int_equal(delay(f, 0, 0), 120 * SECOND);
    f.retry_after_ms = 0;
    assert_int_equal(delay(f, 0, 0), SECOND / 2);
    f.retry_after_ms = 120001;
    assert_int_equal(delay(f, 0, 0), -1);
    f.should_retry = 't';
    assert_int_equal(delay(f, 0, 0), -1);
}

static void the_header_overrides_the_status(void **state)
{
    struct retry_facts f = answered(400);
    (void)state;

    f.should_retry = 't';
    assert_true(delay(f, 0, 0) > 0);
    f = answered(503);
    f.should_retry = 'f';
    assert_int_equal(delay(f, 0, 0), -1);
}

static void an_unknown_fate_is_repeated_only_if_allowed(void **state)
{
    struct retry_facts f = {.retry_after_ms = -1, .was_sent = true};
    struct retry_limits once = usual;
    (void)state;

    once.resend = false;
    assert_true(retry_delay_us(&f, &usual, 0) > 0);
    assert_int_equal(retry_delay_us(&f, &once, 0), -1);
    f.was_sent = false;
    assert_true(retry_delay_us(&f, &once, 0) > 0);
    /* A status is a known fate. */
    f = answered(503);
    assert_true(retry_delay_us(&f, &once, 0) > 0);
}

static void what_can_not_help_is_not_done(void **state)
{
    struct retry_facts f = answered(429);
    (void)state;

    f.is_final = true;
    assert_int_equal(delay(f, 0, 0), -1);
}

static void another_server_is_asked_at_once(void **state)
{
    struct retry_limits limits = usual;
    struct retry_facts f = answered(503);
    (void)state;

    limits.elsewhere = true;
    assert_int_equal(retry_delay_us(&f, &limits, 0), 0);
    assert_false(retry_is_free(&f, &limits));
    /* That one did not ask for it. */
    f.retry_after_ms = 1000000;
    assert_int_equal(retry_delay_us(&f, &limits, 0), 0);
    limits.n_taken = 2;
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
    limits.n_taken = 0;
    f = answered(400);
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
    f = answered(503);
    f.is_final = true;
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
}

static void what_was_never_sent_goes_to_another_server_for_free(void **state)
{
    struct retry_facts f = {.retry_after_ms = -1, .is_final = true};
    struct retry_limits limits = {.left_us = INT64_MAX, .n_taken = 7};
    (void)state;

    assert_false(retry_is_free(&f, &limits));
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
    limits.elsewhere = true;
    assert_true(retry_is_free(&f, &limits));
    assert_int_equal(retry_delay_us(&f, &limits, 0), 0);
    f.was_sent = true;
    assert_false(retry_is_free(&f, &limits));
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
}

static void never_past_the_deadline(void **state)
{
    struct retry_facts f = answered(500);
    struct retry_limits limits = usual;
    (void)state;

    limits.left_us = SECOND / 2;
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
    limits.left_us = SECOND / 2 + 1;
    assert_int_equal(retry_delay_us(&f, &limits, 0), SECOND / 2);
    f.retry_after_ms = 60000;
    assert_int_equal(retry_delay_us(&f, &limits, 0), -1);
}

static void a_tenth_of_the_calls_may_be_repeated(void **state)
{
    struct retry_budget b;
    int n = 0;
    (void)state;

    retry_budget_init(&b);
    while (retry_budget_spend(&b))
        n++;
    assert_int_equal(n, 100);
    for (int i = 0; i < 1000; i++) {
        retry_budget_earn(&b);
        n += retry_budget_spend(&b);
    }
    assert_int_equal(n, 200);
    for (int i = 0; i < 100000; i++)
        retry_budget_earn(&b);
    for (n = 0; retry_budget_spend(&b);)
        n++;
    assert_int_equal(n, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statuses_are_the_sdks),
        cmocka_unit_test(waits_double_up_to_eight_seconds),
        cmocka_unit_test(retries_are_counted),
        cmocka_unit_test(what_the_upstream_asks_for_is_waited_up_to_two_minutes),
        cmocka_unit_test(the_header_overrides_the_status),
        cmocka_unit_test(an_unknown_fate_is_repeated_only_if_allowed),
        cmocka_unit_test(what_can_not_help_is_not_done),
        cmocka_unit_test(another_server_is_asked_at_once),
        cmocka_unit_test(what_was_never_sent_goes_to_another_server_for_free),
        cmocka_unit_test(never_past_the_deadline),
        cmocka_unit_test(a_tenth_of_the_calls_may_be_repeated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
