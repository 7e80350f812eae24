/* The effect of every parameter, asked of the real program over HTTP. */
#include "fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "default_text.h"
#include "model.h"

static struct sandbox sandbox;
static struct model *model; /* the same as the program's, for ids */

static int start(void **state)
{
    (void)state;
    sandbox_start(&sandbox, NULL);
    return model_new(default_text, strlen(default_text), &model);
}

static int stop(void **state)
{
    (void)state;
    model_free(model);
    sandbox_stop(&sandbox);
    return 0;
}

/* The id of a text that is one token. */
static unsigned id_of(const char *text)
{
    struct tokens tokens = {0};

    assert_int_equal(vocabulary_encode(model_vocabulary(model), text, strlen(text), &tokens), 0);
    assert_int_equal(tokens.n, 1);
    unsigned id = tokens.ids[0];
    tokens_done(&tokens);
    return id;
}

static size_t n_choices(json_object *completion)
{
    return json_object_array_length(at(completion, "choices"));
}

/* How many different texts the choices have. */
static size_t n_different(json_object *completion)
{
    size_t n = 0;

    for (size_t i = 0; i < n_choices(completion); i++) {
        bool is_new = true;
        for (size_t k = 0; k < i && is_new; k++)
            is_new = strcmp(text_of(completion, i), text_of(completion, k)) != 0;
        n += is_new;
    }
    return n;
}

static void assert_same_text(json_object *a, json_object *b)
{
    assert_string_equal(text_of(a, 0), text_of(b, 0));
}

/* ---- Sampling ---- */

static void test_temperature_0_repeats_itself(void **state)
{
    json_object *a, *b;

    (void)state;
    a = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"temperature\":0,\"n\":3");
    b = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"temperature\":0");
    assert_true(strlen(text_of(a, 0)) > 20);
    assert_int_equal(n_different(a), 1);
    assert_same_text(a, b);
    json_object_put(a);
    json_object_put(b);
}

static void test_temperature_spreads_choices(void **state)
{
    json_object *cold, *warm, *hot;

    (void)state;
#define ASK "\"prompt\":\"The fox\",\"n\":64,\"max_tokens\":2,\"seed\":1,\"temperature\":"
    cold = sandbox_complete(&sandbox, ASK "0.2");
    warm = sandbox_complete(&sandbox, ASK "1");
    hot = sandbox_complete(&sandbox, ASK "2");
#undef ASK
    assert_true(n_different(cold) < n_different(warm));
    assert_true(n_different(warm) < n_different(hot));
    json_object_put(cold);
    json_object_put(warm);
    json_object_put(hot);
}

static void test_the_same_seed_repeats_and_another_differs(void **state)
{
    json_object *a, *b, *c;

    (void)state;
    a = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"seed\":-42,\"max_tokens\":40,\"n\":2");
    b = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"seed\":-42,\"max_tokens\":40,\"n\":2");
    c = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"seed\":43,\"max_tokens\":40,\"n\":2");
    assert_same_text(a, b);
    assert_string_equal(text_of(a, 1), text_of(b, 1));
    assert_string_not_equal(text_of(a, 0), text_of(a, 1));
    assert_string_not_equal(text_of(a, 0), text_of(c, 0));
    assert_string_equal(text_at(a, "system_fingerprint"), text_at(c, "system_fingerprint"));
    json_object_put(a);
    json_object_put(b);
    json_object_put(c);
}

static void test_without_a_seed_answers_differ(void **state)
{
    json_object *a, *b;

    (void)state;
    a = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"max_tokens\":60");
    b = sandbox_complete(&sandbox, "\"prompt\":\"The fox\",\"max_tokens\":60");
    assert_string_not_equal(text_of(a, 0), text_of(b, 0));
    assert_string_not_equal(text_at(a, "id"), text_at(b, "id"));
    json_object_put(a);
    json_object_put(b);
}

static void test_top_p_narrows(void **state)
{
    json_object *all, *narrow, *one, *greedy;

    (void)state;
#define ASK "\"prompt\":\"The fox\",\"n\":64,\"max_tokens\":1,\"seed\":1,"
    all = sandbox_complete(&sandbox, ASK "\"top_p\":1");
    narrow = sandbox_complete(&sandbox, ASK "\"top_p\":0.6");
    one = sandbox_complete(&sandbox, ASK "\"top_p\":0");
    greedy = sandbox_complete(&sandbox, ASK "\"temperature\":0");
#undef ASK
    assert_int_equal(n_different(one), 1);
    assert_same_text(one, greedy);
    assert_true(n_different(narrow) > 1);
    assert_true(n_different(narrow) < n_different(all));
    json_object_put(all);
    json_object_put(narrow);
    json_object_put(one);
    json_object_put(greedy);
}

static void test_bias_minus_100_bans_and_100_forces(void **state)
{
    unsigned flour = id_of(" flour");
    json_object *plain, *banned, *forced;

    (void)state;
    plain = sandbox_complete(
        &sandbox, "\"prompt\":\"gave her a sack of\",\"temperature\":0,\"max_tokens\":1");
    assert_string_equal(text_of(plain, 0), " flour");
    banned = sandbox_complete(&sandbox,
                              "\"prompt\":\"gave her a sack of\",\"n\":64,\"max_tokens\":8,"
                              "\"logit_bias\":{\"%u\":-100}",
                              flour);
    for (size_t i = 0; i < n_choices(banned); i++)
        assert_null(strstr(text_of(banned, i), "flour"));
    forced = sandbox_complete(&sandbox,
                              "\"prompt\":\"The fox\",\"temperature\":2,\"max_tokens\":4,"
                              "\"logit_bias\":{\"%u\":100}",
                              flour);
    assert_string_equal(text_of(forced, 0), " flour flour flour flour");
    json_object_put(plain);
    json_object_put(banned);
    json_object_put(forced);
}

static void test_small_bias_nudges(void **state)
{
    unsigned flour = id_of(" flour");
    json_object *plain, *biased;
    int n_plain = 0, n_biased = 0;

    (void)state;
#define ASK                                                                                        \
    "\"prompt\":\"The fox\",\"n\":64,\"max_tokens\":10,\"seed\":5,\"logit_bias\":{\"%u\":%d}"
    plain = sandbox_complete(&sandbox, ASK, flour, 0);
    biased = sandbox_complete(&sandbox, ASK, flour, 5);
#undef ASK
    for (size_t i = 0; i < 64; i++) {
        n_plain += strstr(text_of(plain, i), " flour") != NULL;
        n_biased += strstr(text_of(biased, i), " flour") != NULL;
    }
    assert_true(n_biased > n_plain + 10);
    json_object_put(plain);
    json_object_put(biased);
}

static size_t n_repeated(json_object *tokens)
{
    size_t n = 0;

    for (size_t i = 0; i < json_object_array_length(tokens); i++) {
        bool is_new = true;
        for (size_t k = 0; k < i && is_new; k++)
            is_new = !json_object_equal(json_object_array_get_idx(tokens, i),
                                        json_object_array_get_idx(tokens, k));
        n += !is_new;
    }
    return n;
}

/* How many of 8 times 200 tokens were there before in their choice. */
static size_t repetition(const char *members)
{
    json_object *c = sandbox_complete(&sandbox,
                                      "\"prompt\":\"Once upon a time\",\"seed\":2,\"n\":8,"
                                      "\"max_tokens\":200,\"logprobs\":0,"
                                      "\"logit_bias\":{\"256\":-100}%s",
                                      members);
    size_t n = 0;

    for (size_t i = 0; i < n_choices(c); i++)
        n += n_repeated(
            at(at(json_object_array_get_idx(at(c, "choices"), i), "logprobs"), "tokens"));
    json_object_put(c);
    return n;
}

static void test_penalties_lower_repetition_and_negative_ones_raise_it(void **state)
{
    size_t none = repetition("");

    (void)state;
    assert_in_range(repetition(",\"frequency_penalty\":1"), 0, none - 200);
    assert_in_range(repetition(",\"presence_penalty\":2"), 0, none - 100);
    assert_in_range(repetition(",\"frequency_penalty\":-1"), none + 100, 1600);
    assert_in_range(repetition(",\"presence_penalty\":-2"), none + 50, 1600);
}

/* ---- How many, which ---- */

static void test_n_gives_n_for_each_prompt(void **state)
{
    json_object *c = sandbox_complete(&sandbox, "\"prompt\":[\"The fox\",\"The crow\"],\"n\":3,"
                                                "\"echo\":true,\"max_tokens\":5");

    (void)state;
    assert_int_equal(n_choices(c), 6);
    for (size_t i = 0; i < 6; i++) {
        char path[32];
        snprintf(path, sizeof path, "choices.%zu.index", i);
        assert_int_equal(number_at(c, path), i);
        assert_int_equal(strncmp(text_of(c, i), i < 3 ? "The fox" : "The crow", 7), 0);
    }
    json_object_put(c);
}

static double mean_logprob(json_object *completion, size_t choice)
{
    char path[64];
    double sum = 0;

    snprintf(path, sizeof path, "choices.%zu.logprobs.token_logprobs", choice);
    json_object *values = at(completion, path);
    for (size_t i = 0; i < json_object_array_length(values); i++)
        sum += json_object_get_double(json_object_array_get_idx(values, i));
    return sum / (double)json_object_array_length(values);
}

static void test_best_of_returns_the_likelier(void **state)
{
    json_object *all, *best;
    size_t order[8] = {0};

    (void)state;
#define ASK                                                                                        \
    "\"prompt\":\"The fox\",\"seed\":11,\"logprobs\":0,\"max_tokens\":6,"                          \
    "\"logit_bias\":{\"256\":-100},"
    all = sandbox_complete(&sandbox, ASK "\"n\":8");
    best = sandbox_complete(&sandbox, ASK "\"n\":3,\"best_of\":8");
#undef ASK
    for (size_t i = 0; i < 8; i++) {
        size_t k = i;
        for (; k > 0 && mean_logprob(all, order[k - 1]) < mean_logprob(all, i); k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
    assert_true(mean_logprob(all, order[0]) > mean_logprob(all, order[7]));
    assert_int_equal(n_choices(best), 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(text_of(best, i), text_of(all, order[i]));
    assert_int_equal(number_at(best, "usage.completion_tokens"), 8 * 6);
    json_object_put(all);
    json_object_put(best);
}

/* ---- Where it ends ---- */

static void test_stop_cuts_and_is_not_in_the_text(void **state)
{
    static const char *const stops[] = {"\" lived\"", "\"er who l\"",
                                        "[\"nowhere\",\"er who l\",\" by\"]"};
    json_object *plain = sandbox_complete(
        &sandbox, "\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":12");

    (void)state;
    assert_non_null(strstr(text_of(plain, 0), "er who lived by"));
    for (size_t i = 0; i < 3; i++) {
        json_object *c = sandbox_complete(&sandbox,
                                          "\"prompt\":\"Once upon a time\",\"temperature\":0,"
                                          "\"max_tokens\":12,\"stop\":%s",
                                          stops[i]);
        size_t len = strlen(text_of(c, 0));
        assert_string_equal(text_at(c, "choices.0.finish_reason"), "stop");
        assert_int_equal(strncmp(text_of(plain, 0), text_of(c, 0), len), 0);
        assert_int_equal(strncmp(text_of(plain, 0) + len, i == 0 ? " lived" : "er who l", 6), 0);
        json_object_put(c);
    }
    json_object_put(plain);
}

static void test_max_tokens_cuts_with_length_and_is_16_by_default(void **state)
{
    static const int limits[] = {0, 1, 16, 100};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        char members[64] = "";
        if (limits[i] != 16)
            snprintf(members, sizeof members, ",\"max_tokens\":%d", limits[i]);
        json_object *c = sandbox_complete(
            &sandbox, "\"prompt\":\"The fox\",\"logit_bias\":{\"256\":-100}%s", members);
        assert_string_equal(text_at(c, "choices.0.finish_reason"), "length");
        assert_int_equal(number_at(c, "usage.completion_tokens"), limits[i]);
        json_object_put(c);
    }
}

static void test_the_end_of_a_text_is_a_stop(void **state)
{
    json_object *c =
        sandbox_complete(&sandbox, "\"prompt\":\"That is all, and it is\",\"temperature\":0");

    (void)state;
    assert_string_equal(text_of(c, 0), " enough.");
    assert_string_equal(text_at(c, "choices.0.finish_reason"), "stop");
    assert_int_equal(number_at(c, "usage.completion_tokens"), 2);
    json_object_put(c);
}

static void test_suffix_changes_the_ending(void **state)
{
    json_object *plain, *with, *other;

    (void)state;
#define ASK "\"prompt\":\"The miller opened\",\"temperature\":0,\"max_tokens\":40"
    plain = sandbox_complete(&sandbox, ASK);
    with = sandbox_complete(&sandbox, ASK ",\"suffix\":\" of the mill, and the wheel turned.\"");
    other = sandbox_complete(&sandbox, ASK ",\"suffix\":\", said the king.\"");
#undef ASK
    assert_string_equal(text_of(with, 0), " the door");
    assert_string_equal(text_at(with, "choices.0.finish_reason"), "stop");
    assert_string_equal(text_of(other, 0), " the door of the mill");
    assert_string_not_equal(text_of(plain, 0), text_of(other, 0));
    json_object_put(plain);
    json_object_put(with);
    json_object_put(other);
}

/* ---- What is said with it ---- */

static void test_echo_repeats_every_form_of_prompt(void **state)
{
    char ids[32], prompts[4][64];

    (void)state;
    snprintf(ids, sizeof ids, "%u,%u", id_of("The"), id_of(" fox"));
    snprintf(prompts[0], sizeof prompts[0], "\"The fox\"");
    snprintf(prompts[1], sizeof prompts[1], "[\"The fox\"]");
    snprintf(prompts[2], sizeof prompts[2], "[%s]", ids);
    snprintf(prompts[3], sizeof prompts[3], "[[%s]]", ids);
    for (size_t i = 0; i < 4; i++) {
        json_object *c =
            sandbox_complete(&sandbox, "\"prompt\":%s,\"echo\":true,\"max_tokens\":0", prompts[i]);
        assert_string_equal(text_of(c, 0), "The fox");
        assert_int_equal(number_at(c, "usage.prompt_tokens"), 2);
        json_object_put(c);
    }
}

static void test_echo_repeats_any_text(void **state)
{
    static const char expected[] = "a\0\xf0\x9f\x98\x8d\n";
    json_object *c = sandbox_complete(
        &sandbox, "\"prompt\":\"a\\u0000\\ud83d\\ude0d\\n\",\"echo\":true,\"max_tokens\":0");
    json_object *text = at(c, "choices.0.text");

    (void)state;
    assert_int_equal(json_object_get_string_len(text), sizeof expected - 1);
    assert_memory_equal(json_object_get_string(text), expected, sizeof expected - 1);
    json_object_put(c);
}

static void test_no_prompt_begins_a_text(void **state)
{
    json_object *absent = sandbox_complete(&sandbox, "\"temperature\":0");
    json_object *null = sandbox_complete(&sandbox, "\"temperature\":0,\"prompt\":null");
    json_object *empty = sandbox_complete(&sandbox, "\"temperature\":0,\"prompt\":\"\"");

    (void)state;
    assert_true(text_of(absent, 0)[0] >= 'A' && text_of(absent, 0)[0] <= 'Z');
    assert_same_text(absent, null);
    assert_same_text(absent, empty);
    json_object_put(absent);
    json_object_put(null);
    json_object_put(empty);
}

/* The likeliest first, at most one more than asked for, the chosen one among them. */
static void assert_top(json_object *top, const char *token, double logprob, size_t n_asked)
{
    size_t n = (size_t)json_object_object_length(top);
    double last = 0, sum = 0;
    bool is_chosen = false;

    assert_true(n >= n_asked && n <= n_asked + 1);
    json_object_object_foreach(top, key, value)
    {
        double v = json_object_get_double(value);
        if (!strcmp(key, token)) {
            is_chosen = true;
            assert_true(v == logprob);
        }
        assert_true(v <= last);
        last = v;
        sum += exp(v);
    }
    assert_true(is_chosen && sum < 1 + 1e-9);
}

static void test_logprobs_are_four_arrays_with_a_null_first(void **state)
{
    json_object *c = sandbox_complete(
        &sandbox, "\"prompt\":\"The fox\",\"echo\":true,\"logprobs\":3,\"max_tokens\":6,"
                  "\"seed\":3,\"logit_bias\":{\"256\":-100}");
    json_object *l = at(c, "choices.0.logprobs");
    const char *text = text_of(c, 0);

    (void)state;
    assert_int_equal(json_object_array_length(at(l, "tokens")), 8);
    for (size_t i = 0; i < 8; i++) {
        const char *token = json_object_get_string(json_object_array_get_idx(at(l, "tokens"), i));
        json_object *logprob = json_object_array_get_idx(at(l, "token_logprobs"), i);
        json_object *top = json_object_array_get_idx(at(l, "top_logprobs"), i);
        int offset = json_object_get_int(json_object_array_get_idx(at(l, "text_offset"), i));
        assert_int_equal(strncmp(text + offset, token, strlen(token)), 0);
        if (i > 0) {
            assert_true(json_object_is_type(logprob, json_type_double));
            assert_top(top, token, json_object_get_double(logprob), 3);
        } else {
            assert_null(logprob);
            assert_null(top);
        }
    }
    json_object_put(c);
}

static void test_logprobs_are_the_models(void **state)
{
    json_object *c = sandbox_complete(
        &sandbox, "\"prompt\":\"The fox\",\"echo\":true,\"logprobs\":0,\"max_tokens\":0");
    uint32_t context[] = {id_of("The")};
    double expected = log(model_probability(model, context, 1, id_of(" fox")));

    (void)state;
    json_object *top = at(c, "choices.0.logprobs.top_logprobs.1");
    assert_int_equal(json_object_object_length(top), 1);
    double given = json_object_get_double(at(top, " fox"));
    assert_true(fabs(given - expected) < 1e-9);
    json_object_put(c);
}

static void test_logprobs_of_bytes_are_spelled(void **state)
{
    json_object *c = sandbox_complete(
        &sandbox, "\"prompt\":\"\\ud83d\\ude0d\",\"echo\":true,\"logprobs\":0,\"max_tokens\":0");

    (void)state;
    assert_string_equal(text_at(c, "choices.0.logprobs.tokens.0"), "bytes:\\xf0");
    assert_string_equal(text_at(c, "choices.0.logprobs.tokens.3"), "bytes:\\x8d");
    assert_int_equal(number_at(c, "choices.0.logprobs.text_offset.3"), 0);
    json_object_put(c);
}

static void test_without_logprobs_there_are_none(void **state)
{
    json_object *c = sandbox_complete(&sandbox, "\"prompt\":\"The fox\"");

    (void)state;
    assert_null(at(c, "choices.0.logprobs"));
    json_object_put(c);
}

static void test_usage_adds_up(void **state)
{
    json_object *c = sandbox_complete(&sandbox, "\"prompt\":[\"The fox\",\"The old crow\"],\"n\":2,"
                                                "\"max_tokens\":5,\"logit_bias\":{\"256\":-100}");

    (void)state;
    assert_int_equal(number_at(c, "usage.prompt_tokens"), 5);
    assert_int_equal(number_at(c, "usage.completion_tokens"), 20);
    assert_int_equal(number_at(c, "usage.total_tokens"), 25);
    assert_int_equal(number_at(c, "usage.prompt_tokens_details.text_tokens"), 5);
    assert_int_equal(number_at(c, "usage.prompt_tokens_details.cached_tokens"), 0);
    assert_int_equal(number_at(c, "usage.completion_tokens_details.text_tokens"), 20);
    assert_int_equal(number_at(c, "usage.completion_tokens_details.reasoning_tokens"), 0);
    json_object_put(c);
}

static void test_an_answer_says_what_it_is(void **state)
{
    json_object *c =
        sandbox_complete(&sandbox, "\"prompt\":\"This is a test.\",\"user\":\"someone\"");

    (void)state;
    assert_int_equal(strncmp(text_at(c, "id"), "cmpl-", 5), 0);
    assert_string_equal(text_at(c, "object"), "text_completion");
    assert_string_equal(text_at(c, "model"), "gpt-3.5-turbo-instruct");
    assert_int_equal(strncmp(text_at(c, "system_fingerprint"), "fp_", 3), 0);
    assert_true(number_at(c, "created") > 1700000000);
    json_object_put(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_temperature_0_repeats_itself),
        cmocka_unit_test(test_temperature_spreads_choices),
        cmocka_unit_test(test_the_same_seed_repeats_and_another_differs),
        cmocka_unit_test(test_without_a_seed_answers_differ),
        cmocka_unit_test(test_top_p_narrows),
        cmocka_unit_test(test_bias_minus_100_bans_and_100_forces),
        cmocka_unit_test(test_small_bias_nudges),
        cmocka_unit_test(test_penalties_lower_repetition_and_negative_ones_raise_it),
        cmocka_unit_test(test_n_gives_n_for_each_prompt),
        cmocka_unit_test(test_best_of_returns_the_likelier),
        cmocka_unit_test(test_stop_cuts_and_is_not_in_the_text),
        cmocka_unit_test(test_max_tokens_cuts_with_length_and_is_16_by_default),
        cmocka_unit_test(test_the_end_of_a_text_is_a_stop),
        cmocka_unit_test(test_suffix_changes_the_ending),
        cmocka_unit_test(test_echo_repeats_every_form_of_prompt),
        cmocka_unit_test(test_echo_repeats_any_text),
        cmocka_unit_test(test_no_prompt_begins_a_text),
        cmocka_unit_test(test_logprobs_are_four_arrays_with_a_null_first),
        cmocka_unit_test(test_logprobs_are_the_models),
        cmocka_unit_test(test_logprobs_of_bytes_are_spelled),
        cmocka_unit_test(test_without_logprobs_there_are_none),
        cmocka_unit_test(test_usage_adds_up),
        cmocka_unit_test(test_an_answer_says_what_it_is),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
