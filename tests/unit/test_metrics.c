/* Histograms, quantiles, and the registry's bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "metrics.h"

static void times_fall_into_their_buckets(void **state)
{
    struct metrics_histogram h = {.n = 0};

    (void)state;
    metrics_observe(&h, -5); /* a clock that went back */
    metrics_observe(&h, 0);
    metrics_observe(&h, metrics_bounds_us[0]);
    assert_int_equal(h.buckets[0], 3);
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        metrics_observe(&h, metrics_bounds_us[i] + 1);
        assert_int_equal(h.buckets[i + 1], 1);
    }
    metrics_observe(&h, INT64_MAX / 2);
    assert_int_equal(h.buckets[METRICS_BUCKETS], 2);
    assert_int_equal(h.n, 3 + METRICS_BUCKETS + 1);
    for (size_t i = 1; i < METRICS_BUCKETS; i++)
        assert_true(metrics_bounds_us[i] > metrics_bounds_us[i - 1]);
}

static void quantiles_are_interpolated(void **state)
{
    struct metrics_histogram h = {.n = 0};

    (void)state;
    assert_true(metrics_quantile_us(&h, 0.5) < 0);
    for (int i = 0; i < 100; i++)
        metrics_observe(&h, 600); /* between 500 and 1000 */
    assert_true(metrics_quantile_us(&h, 0.5) == 750);
    assert_true(metrics_quantile_us(&h, 1) == 1000);
    for (int i = 0; i < 100; i++)
        metrics_observe(&h, 3000);
    assert_true(metrics_quantile_us(&h, 0.5) == 1000);
    assert_true(metrics_quantile_us(&h, 0.95) > 2500);
    assert_true(metrics_quantile_us(&h, 0.95) < 5000);

    h = (struct metrics_histogram){.n = 0};
    metrics_observe(&h, INT64_C(1) << 50);
    assert_true(metrics_quantile_us(&h, 0.5) == metrics_bounds_us[METRICS_BUCKETS - 1]);
}

static void names_are_remembered_up_to_a_bound(void **state)
{
    struct metrics *m = metrics_new();
    char name[32];

    (void)state;
    assert_non_null(m);
    struct metrics_upstream *first = metrics_upstream_get(m, "0");
    for (int i = 0; i < 10 * METRICS_UPSTREAMS_MAX; i++) {
        snprintf(name, sizeof name, "%d", i);
        struct metrics_upstream *u = metrics_upstream_get(m, name);
        assert_ptr_equal(u, metrics_upstream_get(m, name));
        assert_true(i < METRICS_UPSTREAMS_MAX ? u != &m->others : u == &m->others);
    }
    assert_ptr_equal(metrics_upstream_get(m, "0"), first);
    assert_int_equal(m->n_upstreams, METRICS_UPSTREAMS_MAX);
    assert_null(metrics_free(m));
    assert_null(metrics_free(NULL));
}

static void registries_add_up(void **state)
{
    struct metrics *a = metrics_new(), *b = metrics_new(), *sum = metrics_new();
    char name[32];

    (void)state;
    assert_true(a && b && sum);
    /* Names of which each has some, and others than the other. */
    for (int i = 0; i < METRICS_UPSTREAMS_MAX + 7; i++) {
        snprintf(name, sizeof name, "%d", i);
        metrics_add(&metrics_upstream_get(a, name)->n_running, 2);
        snprintf(name, sizeof name, "%d", i + 1);
        metrics_observe(&metrics_upstream_get(b, name)->duration, 600);
    }
    metrics_count_call(a, metrics_upstream_get(a, "0"), METRICS_CREATE, 0, NULL);
    metrics_count_call(b, metrics_upstream_get(b, "1"), METRICS_CREATE, 0, NULL);
    metrics_add(&metrics_upstream_get(a, "1")->n_running, -UINT64_C(1));
    metrics_observe(&b->totals.own, 30);
    assert_true(metrics_sum(sum, a));
    assert_true(metrics_sum(sum, b));
    assert_int_equal(sum->totals.calls[METRICS_CREATE][0], 2);
    assert_int_equal(sum->totals.own.n, 1);
    assert_int_equal(sum->n_upstreams, METRICS_UPSTREAMS_MAX);
    assert_int_equal(metrics_upstream_get(sum, "0")->n_running, 2);
    assert_int_equal(metrics_upstream_get(sum, "0")->calls[0], 1);
    assert_int_equal(metrics_upstream_get(sum, "1")->n_running, 1);
    assert_int_equal(metrics_upstream_get(sum, "1")->calls[0], 1);
    assert_int_equal(metrics_upstream_get(sum, "1")->duration.n, 1);
    assert_int_equal(metrics_upstream_get(sum, "1")->duration.sum_us, 600);
    /* 7 of one, and 7 and the one that was a name there only of the other. */
    assert_int_equal(sum->others.n_running, 2 * 7);
    assert_int_equal(sum->others.duration.n, 7 + 1);
    metrics_free(a);
    metrics_free(b);
    metrics_free(sum);
}

static void what_is_not_known_counts_as_other(void **state)
{
    struct metrics *m = metrics_new();

    (void)state;
    assert_non_null(m);
    metrics_count_call(m, NULL, METRICS_CREATE, 99, "NEVER_HEARD_OF");
    metrics_count_call(m, NULL, METRICS_CREATE, -1, "INVALID_REQUEST");
    metrics_count_call(m, NULL, METRICS_CREATE, 0, NULL);
    assert_int_equal(m->totals.calls[METRICS_CREATE][2], 2);
    assert_int_equal(m->totals.calls[METRICS_CREATE][0], 1);
    assert_string_equal(metrics_reason_name(METRICS_REASONS - 1), "OTHER");
    assert_int_equal(m->totals.errors[METRICS_REASONS - 1], 1);
    assert_int_equal(m->totals.errors[0], 1);
    metrics_free(m);
}

static void outcomes_follow_status_and_reason(void **state)
{
    static const struct {
        const char *reason;
        int http_status;
        enum metrics_outcome outcome;
    } cases[] = {
        {NULL, 200, METRICS_ATTEMPT_OK},
        {"UPSTREAM_REDIRECT", 301, METRICS_ATTEMPT_3XX},
        {"UPSTREAM_AUTH", 401, METRICS_ATTEMPT_4XX},
        {"UPSTREAM_RATE_LIMIT", 429, METRICS_ATTEMPT_429},
        {"UPSTREAM_OVERLOADED", 503, METRICS_ATTEMPT_5XX},
        {"UPSTREAM_OVERLOADED", 200, METRICS_ATTEMPT_REPORTED},
        {"UPSTREAM_TLS", 0, METRICS_ATTEMPT_TLS},
        {"UPSTREAM_TIMEOUT", 0, METRICS_ATTEMPT_TIMEOUT},
        {"STREAM_TRUNCATED", 200, METRICS_ATTEMPT_BROKEN},
        {"BAD_UPSTREAM_RESPONSE", 200, METRICS_ATTEMPT_MALFORMED},
        {"DEADLINE_EXCEEDED", 0, METRICS_ATTEMPT_DEADLINE},
        {"CALLER_GONE", 200, METRICS_ATTEMPT_CANCELLED},
        {"OUT_OF_MEMORY", 0, METRICS_ATTEMPT_LOCAL},
        {"NEVER_HEARD_OF", 0, METRICS_ATTEMPT_REPORTED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(metrics_outcome_of(cases[i].reason, cases[i].http_status),
                         cases[i].outcome);
    for (size_t i = 0; i < METRICS_OUTCOMES; i++)
        assert_non_null(metrics_outcome_names[i]);
    for (size_t i = 0; i < METRICS_METHODS; i++)
        assert_non_null(metrics_method_names[i]);
    for (size_t i = 0; i < METRICS_REASONS; i++)
        assert_non_null(metrics_reason_name(i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_fall_into_their_buckets),
        cmocka_unit_test(quantiles_are_interpolated),
        cmocka_unit_test(names_are_remembered_up_to_a_bound),
        cmocka_unit_test(registries_add_up),
        cmocka_unit_test(what_is_not_known_counts_as_other),
        cmocka_unit_test(outcomes_follow_status_and_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
