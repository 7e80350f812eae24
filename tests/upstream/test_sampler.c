/* The arithmetic of sampling, on a vocabulary of four tokens. */
#include "fixture.h"

#include <math.h>
#include <string.h>

#include "sampler.h"

enum { N = 4, DRAWS = 20000 };

static const double shares[N] = {0.5, 0.3, 0.15, 0.05};

static int make_sampler(void **state)
{
    return sampler_new(N, (struct sampler **)state);
}

static int free_sampler(void **state)
{
    sampler_free(*state);
    return 0;
}

static uint32_t choose(struct sampler *s, const struct sampler_options *o, struct sampler_random *r)
{
    double logits[N];

    for (int i = 0; i < N; i++)
        logits[i] = log(shares[i]);
    return sampler_choose(s, o, logits, NULL, 0, r);
}

static void draw_many(struct sampler *s, const struct sampler_options *o, double ret[N])
{
    struct sampler_random r;

    sampler_seed(&r, 1, 0);
    memset(ret, 0, N * sizeof *ret);
    for (int i = 0; i < DRAWS; i++)
        ret[choose(s, o, &r)] += 1.0 / DRAWS;
}

static void assert_near(double a, double b)
{
    if (fabs(a - b) > 0.015)
        fail_msg("%g is not near %g", a, b);
}

static void test_temperature_1_draws_in_proportion(void **state)
{
    double drawn[N];

    draw_many(*state, &(struct sampler_options){.temperature = 1, .top_p = 1}, drawn);
    for (int i = 0; i < N; i++)
        assert_near(drawn[i], shares[i]);
}

static void test_temperature_flattens_and_sharpens(void **state)
{
    double drawn[N], hot = 0, cold = 0;

    for (int i = 0; i < N; i++) {
        hot += sqrt(shares[i]);
        cold += shares[i] * shares[i];
    }
    draw_many(*state, &(struct sampler_options){.temperature = 2, .top_p = 1}, drawn);
    for (int i = 0; i < N; i++)
        assert_near(drawn[i], sqrt(shares[i]) / hot);
    draw_many(*state, &(struct sampler_options){.temperature = 0.5, .top_p = 1}, drawn);
    for (int i = 0; i < N; i++)
        assert_near(drawn[i], shares[i] * shares[i] / cold);
}

static void test_temperature_0_takes_the_likeliest(void **state)
{
    double drawn[N];

    draw_many(*state, &(struct sampler_options){.temperature = 0, .top_p = 1}, drawn);
    assert_near(drawn[0], 1);
}

static void test_top_p_keeps_the_nucleus_and_its_proportions(void **state)
{
    double drawn[N];

    draw_many(*state, &(struct sampler_options){.temperature = 1, .top_p = 0.7}, drawn);
    assert_near(drawn[0], 0.5 / 0.8);
    assert_near(drawn[1], 0.3 / 0.8);
    assert_true(drawn[2] == 0 && drawn[3] == 0);
    draw_many(*state, &(struct sampler_options){.temperature = 1, .top_p = 0}, drawn);
    assert_near(drawn[0], 1);
}

static void test_bias_moves_bans_and_forces(void **state)
{
    struct sampler_bias biases[] = {{0, -100}, {3, log(2)}};
    struct sampler_options o = {.temperature = 1, .top_p = 1, .biases = biases, .n_biases = 2};
    double drawn[N];

    draw_many(*state, &o, drawn);
    assert_true(drawn[0] == 0);
    assert_near(drawn[1], 0.3 / 0.55);
    assert_near(drawn[3], 0.1 / 0.55);
    biases[1].value = 100;
    draw_many(*state, &o, drawn);
    assert_true(drawn[3] > 0.99999);
}

/* As the API's documentation has it: logit - count * frequency - (count > 0) * presence. */
static void test_penalties_count_what_was_generated(void **state)
{
    static const uint32_t generated[] = {0, 0, 0, 1};
    struct sampler_options o = {.frequency_penalty = 0.5, .presence_penalty = 0.25};
    struct sampler_random r = {0};
    double logits[N] = {2.5, 1.5, 0.7, -1};

    assert_int_equal(sampler_choose(*state, &o, logits, generated, 4, &r), 0);
    assert_true(fabs(logits[0] - (2.5 - 1.5 - 0.25)) < 1e-12);
    assert_true(fabs(logits[1] - (1.5 - 0.5 - 0.25)) < 1e-12);
    assert_true(logits[2] == 0.7 && logits[3] == -1);
}

static void test_seeds_repeat_and_differ(void **state)
{
    struct sampler_options o = {.temperature = 1, .top_p = 1};
    struct sampler_random a, b, other_seed, other_stream;
    int n_seed = 0, n_stream = 0;

    sampler_seed(&a, 7, 1);
    sampler_seed(&b, 7, 1);
    sampler_seed(&other_seed, 8, 1);
    sampler_seed(&other_stream, 7, 2);
    for (int i = 0; i < 100; i++) {
        uint32_t id = choose(*state, &o, &a);
        assert_int_equal(choose(*state, &o, &b), id);
        n_seed += choose(*state, &o, &other_seed) != id;
        n_stream += choose(*state, &o, &other_stream) != id;
    }
    assert_true(n_seed > 10 && n_stream > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_temperature_1_draws_in_proportion),
        cmocka_unit_test(test_temperature_flattens_and_sharpens),
        cmocka_unit_test(test_temperature_0_takes_the_likeliest),
        cmocka_unit_test(test_top_p_keeps_the_nucleus_and_its_proportions),
        cmocka_unit_test(test_bias_moves_bans_and_forces),
        cmocka_unit_test(test_penalties_count_what_was_generated),
        cmocka_unit_test(test_seeds_repeat_and_differ),
    };

    return cmocka_run_group_tests(tests, make_sampler, free_sampler);
}
