/*
 * Every parameter of the API from the command line through the daemon to a server that obeys it,
 * and back: what tests/upstream/README.md promises is what completionctl prints.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "daemon.h"
#include "fixture.h"
#include "harness.h"

#define MODEL         "gpt-3.5-turbo-instruct"
#define NO_END        "--logit-bias", "{\"256\":-100}" /* of the text */
#define COMPLETE(...) complete(CLI_ARGUMENTS("create", "--model", MODEL, __VA_ARGS__))
#define STREAM(...)   stream(CLI_ARGUMENTS("create", "--model", MODEL, "--stream", __VA_ARGS__))

static struct sandbox sandbox;
static struct daemon service;

static int start(void **state)
{
    char config[512];

    (void)state;
    sandbox_start(&sandbox, NULL);
    snprintf(config, sizeof config, "[upstream sandbox]\nbase_url = %s/v1\nauth = none\n",
             sandbox.url);
    daemon_init(&service, config);
    daemon_start(&service, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    daemon_stop(&service);
    daemon_done(&service);
    sandbox_stop(&sandbox);
    return 0;
}

/* ---- Asking ---- */

/* What it prints, one JSON object a line, as an array. To be put. */
static json_object *lines(const char *const *arguments)
{
    json_object *all = json_object_new_array();
    struct cli c;

    cli_run(&c, 0, service.socket, NULL, arguments);
    assert_string_equal(cli_errors(&c), "");
    for (const char *line = cli_text(&c), *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        char *text = strndup(line, (size_t)(end - line));
        json_object *one = json_tokener_parse(text);
        free(text);
        assert_true(json_object_is_type(one, json_type_object));
        json_object_array_add(all, one);
    }
    cli_done(&c);
    return all;
}

static json_object *complete(const char *const *arguments)
{
    json_object *all = lines(arguments);

    assert_int_equal(json_object_array_length(all), 1);
    json_object *one = json_object_get(json_object_array_get_idx(all, 0));
    json_object_put(all);
    return one;
}

static json_object *stream(const char *const *arguments)
{
    json_object *all = lines(arguments);

    assert_true(json_object_array_length(all) > 1);
    return all;
}

/* The texts of a choice in all chunks, joined. To be freed. */
static char *joined(json_object *chunks, int64_t index)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    for (size_t i = 0; i < json_object_array_length(chunks); i++) {
        json_object *choices = at(json_object_array_get_idx(chunks, i), "choices");
        for (size_t k = 0; k < json_object_array_length(choices); k++) {
            json_object *choice = json_object_array_get_idx(choices, k);
            if (number_at(choice, "index") == index)
                fputs(text_at(choice, "text"), out);
        }
    }
    fclose(out);
    return text;
}

static size_t n_choices(json_object *completion)
{
    return json_object_array_length(at(completion, "choices"));
}

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

/* The bias of a text that is one token: {"284":VALUE}. */
static const char *bias_of(const char *text, int value)
{
    static char bias[64];
    char command[512];
    unsigned id = 0;

    snprintf(command, sizeof command, "'%s' --tokenize '%s'", SANDBOX_BINARY, text);
    FILE *out = popen(command, "re");
    assert_non_null(out);
    assert_int_equal(fscanf(out, "%u", &id), 1);
    pclose(out);
    snprintf(bias, sizeof bias, "{\"%u\":%d}", id, value);
    return bias;
}

/* ---- Sampling ---- */

static void test_temperature_0_repeats_itself(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        json_object *c =
            COMPLETE("--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "12");
        assert_string_equal(text_of(c, 0),
                            " there was a miller who lived by the river. The miller");
        json_object_put(c);
    }
}

static void test_temperature_spreads(void **state)
{
    json_object *cold, *hot;

    (void)state;
#define ASK "--prompt", "The fox", "--n", "64", "--max-tokens", "2", "--seed", "1", "--temperature"
    cold = COMPLETE(ASK, "0.2");
    hot = COMPLETE(ASK, "2");
#undef ASK
    assert_true(n_different(cold) < n_different(hot));
    json_object_put(cold);
    json_object_put(hot);
}

static void test_the_same_seed_repeats_and_another_differs(void **state)
{
    json_object *a, *b, *c;

    (void)state;
#define ASK "--prompt", "The fox", "--max-tokens", "40", "--seed"
    a = COMPLETE(ASK, "-9223372036854775808");
    b = COMPLETE(ASK, "-9223372036854775808");
    c = COMPLETE(ASK, "9223372036854775807");
#undef ASK
    assert_string_equal(text_of(a, 0), text_of(b, 0));
    assert_string_not_equal(text_of(a, 0), text_of(c, 0));
    json_object_put(a);
    json_object_put(b);
    json_object_put(c);
}

static void test_top_p_narrows(void **state)
{
    json_object *all, *narrow, *one;

    (void)state;
#define ASK "--prompt", "The fox", "--n", "64", "--max-tokens", "1", "--seed", "1", "--top-p"
    all = COMPLETE(ASK, "1");
    narrow = COMPLETE(ASK, "0.6");
    one = COMPLETE(ASK, "0");
#undef ASK
    assert_int_equal(n_different(one), 1);
    assert_true(n_different(narrow) > 1);
    assert_true(n_different(narrow) < n_different(all));
    json_object_put(all);
    json_object_put(narrow);
    json_object_put(one);
}

static void test_bias_minus_100_bans_and_100_forces(void **state)
{
    json_object *plain, *banned, *forced;

    (void)state;
    plain = COMPLETE("--prompt", "gave her a sack of", "--temperature", "0", "--max-tokens", "1");
    assert_string_equal(text_of(plain, 0), " flour");
    banned = COMPLETE("--prompt", "gave her a sack of", "--n", "64", "--max-tokens", "1",
                      "--logit-bias", bias_of(" flour", -100));
    for (size_t i = 0; i < 64; i++)
        assert_string_not_equal(text_of(banned, i), " flour");
    forced = COMPLETE("--prompt", "The fox", "--max-tokens", "4", "--logit-bias",
                      bias_of(" flour", 100));
    assert_string_equal(text_of(forced, 0), " flour flour flour flour");
    json_object_put(plain);
    json_object_put(banned);
    json_object_put(forced);
}

/* How many of 8 times 200 tokens were there before in their choice. */
static size_t repetition(const char *option, const char *value)
{
    json_object *c = COMPLETE("--prompt", "Once upon a time", "--seed", "2", "--n", "8",
                              "--max-tokens", "200", "--logprobs", "0", NO_END, option, value);
    size_t n = 0;

    for (size_t i = 0; i < n_choices(c); i++) {
        json_object *tokens = at(json_object_array_get_idx(at(c, "choices"), i), "logprobs.tokens");
        for (size_t t = 0; t < json_object_array_length(tokens); t++) {
            bool is_new = true;
            for (size_t k = 0; k < t && is_new; k++)
                is_new = !json_object_equal(json_object_array_get_idx(tokens, t),
                                            json_object_array_get_idx(tokens, k));
            n += !is_new;
        }
    }
    json_object_put(c);
    return n;
}

static void test_penalties_lower_repetition_and_negative_ones_raise_it(void **state)
{
    size_t none = repetition("--frequency-penalty", "0");

    (void)state;
    assert_in_range(repetition("--frequency-penalty", "1"), 0, none - 200);
    assert_in_range(repetition("--presence-penalty", "2"), 0, none - 100);
    assert_in_range(repetition("--frequency-penalty", "-1"), none + 100, 1600);
    assert_in_range(repetition("--presence-penalty", "-2"), none + 50, 1600);
}

/* ---- How many, which ---- */

static void test_n_gives_n_for_each_prompt(void **state)
{
    json_object *c = COMPLETE("--prompt", "The fox", "--prompt", "The crow", "--n", "3", "--echo",
                              "--max-tokens", "5");

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
    size_t likeliest = 0;

    (void)state;
#define ASK "--prompt", "The fox", "--seed", "11", "--logprobs", "0", "--max-tokens", "6", NO_END
    all = COMPLETE(ASK, "--n", "8");
    best = COMPLETE(ASK, "--best-of", "8");
#undef ASK
    for (size_t i = 0; i < 8; i++)
        if (mean_logprob(all, i) > mean_logprob(all, likeliest))
            likeliest = i;
    assert_int_equal(n_choices(best), 1);
    assert_true(n_different(all) > 1);
    assert_string_equal(text_of(best, 0), text_of(all, likeliest));
    assert_int_equal(number_at(best, "usage.completion_tokens"), 8 * 6);
    json_object_put(all);
    json_object_put(best);
}

/* ---- Where it ends ---- */

static void test_stop_cuts_and_is_not_in_the_text(void **state)
{
    json_object *one, *several;

    (void)state;
#define ASK                                                                                        \
    "--prompt", "Once upon a time", "--temperature", "0", "--max-tokens", "12", "--stop", "er who l"
    one = COMPLETE(ASK);
    several = COMPLETE(ASK, "--stop", "nowhere", "--stop", " there was a mill", "--stop", "q");
#undef ASK
    assert_string_equal(text_of(one, 0), " there was a mill");
    assert_string_equal(text_at(one, "choices.0.finish_reason"), "stop");
    assert_string_equal(text_of(several, 0), "");
    assert_string_equal(text_at(several, "choices.0.finish_reason"), "stop");
    json_object_put(one);
    json_object_put(several);
}

static void test_max_tokens_cuts_with_length(void **state)
{
    json_object *five = COMPLETE("--prompt", "The fox", "--max-tokens", "5", NO_END);
    json_object *none = COMPLETE("--prompt", "The fox", "--max-tokens", "0");
    json_object *usual = COMPLETE("--prompt", "The fox", NO_END);

    (void)state;
    assert_string_equal(text_at(five, "choices.0.finish_reason"), "length");
    assert_int_equal(number_at(five, "usage.completion_tokens"), 5);
    assert_string_equal(text_of(none, 0), "");
    assert_int_equal(number_at(none, "usage.completion_tokens"), 0);
    assert_int_equal(number_at(usual, "usage.completion_tokens"), 16);
    json_object_put(five);
    json_object_put(none);
    json_object_put(usual);
}

static void test_suffix_changes_the_ending(void **state)
{
    json_object *one, *other;

    (void)state;
#define ASK "--prompt", "The miller opened", "--temperature", "0", "--max-tokens", "40", "--suffix"
    one = COMPLETE(ASK, " of the mill, and the wheel turned.");
    other = COMPLETE(ASK, ", said the king.");
#undef ASK
    assert_string_equal(text_of(one, 0), " the door");
    assert_string_equal(text_of(other, 0), " the door of the mill");
    json_object_put(one);
    json_object_put(other);
}

/* ---- What is said with it ---- */

static void test_echo_repeats_the_prompt_and_false_does_not(void **state)
{
    json_object *yes = COMPLETE("--prompt", "The fox", "--echo", "--max-tokens", "0");
    json_object *no = COMPLETE("--prompt", "The fox", "--echo=false", "--max-tokens", "0");

    (void)state;
    assert_string_equal(text_of(yes, 0), "The fox");
    assert_string_equal(text_of(no, 0), "");
    json_object_put(yes);
    json_object_put(no);
}

static void test_logprobs_sum_up_and_have_the_null(void **state)
{
    json_object *c = COMPLETE("--prompt", "The fox", "--echo", "--logprobs", "3", "--max-tokens",
                              "6", "--seed", "3", NO_END);
    json_object *l = at(c, "choices.0.logprobs");
    const char *text = text_of(c, 0);

    (void)state;
    assert_int_equal(json_object_array_length(at(l, "tokens")), 8);
    assert_null(at(l, "token_logprobs.0"));
    assert_null(at(l, "top_logprobs.0"));
    for (size_t i = 0; i < 8; i++) {
        const char *token = json_object_get_string(json_object_array_get_idx(at(l, "tokens"), i));
        json_object *top = json_object_array_get_idx(at(l, "top_logprobs"), i);
        double sum = 0;
        assert_int_equal(text - text_of(c, 0),
                         json_object_get_int(json_object_array_get_idx(at(l, "text_offset"), i)));
        assert_int_equal(strncmp(text, token, strlen(token)), 0);
        text += strlen(token);
        if (i == 0)
            continue;
        assert_in_range(json_object_object_length(top), 3, 4);
        json_object_object_foreach(top, key, value)
        {
            (void)key;
            sum += exp(json_object_get_double(value));
        }
        assert_true(sum > 0 && sum < 1 + 1e-9);
    }
    assert_string_equal(text, "");
    json_object_put(c);
}

static void test_usage_adds_up(void **state)
{
    json_object *c = COMPLETE("--prompt", "[\"The fox\",\"The old crow\"]", "--n", "2",
                              "--max-tokens", "5", NO_END, "--user", "someone");

    (void)state;
    assert_int_equal(number_at(c, "usage.prompt_tokens"), 5);
    assert_int_equal(number_at(c, "usage.completion_tokens"), 20);
    assert_int_equal(number_at(c, "usage.total_tokens"), 25);
    assert_string_equal(text_at(c, "object"), "text_completion");
    assert_string_equal(text_at(c, "model"), MODEL);
    assert_int_equal(strncmp(text_at(c, "id"), "cmpl-", 5), 0);
    json_object_put(c);
}

/* ---- Streams ---- */

static void test_streamed_texts_joined_are_the_whole_one(void **state)
{
    json_object *whole, *chunks;

    (void)state;
#define ASK                                                                                        \
    "--prompt", "The fox", "--prompt", "The crow", "--n", "2", "--max-tokens", "30", "--seed", "7"
    whole = COMPLETE(ASK);
    chunks = STREAM(ASK);
#undef ASK
    for (size_t i = 0; i < 4; i++) {
        char *text = joined(chunks, (int64_t)i);
        assert_string_equal(text, text_of(whole, i));
        free(text);
    }
    json_object_put(whole);
    json_object_put(chunks);
}

static size_t n_with_usage(json_object *chunks)
{
    json_object *usage;
    size_t n = 0;

    for (size_t i = 0; i < json_object_array_length(chunks); i++)
        n += json_object_object_get_ex(json_object_array_get_idx(chunks, i), "usage", &usage) &&
             usage;
    return n;
}

static void test_usage_chunk_comes_on_request(void **state)
{
    json_object *with = STREAM("--prompt", "The fox", "--max-tokens", "5", NO_END,
                               "--stream-options", "{\"include_usage\":true}");
    json_object *without = STREAM("--prompt", "The fox", "--max-tokens", "5", NO_END);

    (void)state;
    json_object *last = json_object_array_get_idx(with, json_object_array_length(with) - 1);
    assert_int_equal(n_choices(last), 0);
    assert_int_equal(number_at(last, "usage.prompt_tokens"), 2);
    assert_int_equal(number_at(last, "usage.completion_tokens"), 5);
    assert_int_equal(number_at(last, "usage.total_tokens"), 7);
    assert_int_equal(n_with_usage(with), 1);
    assert_int_equal(n_with_usage(without), 0);
    json_object_put(with);
    json_object_put(without);
}

/* ---- Text ---- */

static void assert_prints(const char *text, const char *const *arguments)
{
    struct cli c;

    cli_run(&c, 0, service.socket, NULL, arguments);
    assert_string_equal(cli_text(&c), text);
    assert_string_equal(cli_errors(&c), "");
    cli_done(&c);
}

static void test_text_is_the_text_and_a_newline(void **state)
{
    (void)state;
#define ASK                                                                                        \
    "create", "--model", MODEL, "--prompt", "That is all, and it is", "--temperature", "0",        \
        "--output", "text"
    assert_prints(" enough.\n", CLI_ARGUMENTS(ASK));
    assert_prints(" enough.\n", CLI_ARGUMENTS(ASK, "--stream"));
    assert_prints(" enough.\n",
                  CLI_ARGUMENTS(ASK, "--stream", "--stream-options", "{\"include_usage\":true}"));
    assert_prints("[0]  enough.\n[1]  enough.\n", CLI_ARGUMENTS(ASK, "--n", "2"));
#undef ASK
}

/* ---- Beyond the API ---- */

static void test_unknown_parameters_show_the_servers_refusal(void **state)
{
    struct cli c;

    (void)state;
    cli_run(&c, 4, service.socket, NULL,
            CLI_ARGUMENTS("create", "--model", MODEL, "--prompt", "p", "--extra-body",
                          "{\"top_k\":3}"));
    assert_string_equal(cli_text(&c), "");
    cli_assert_has(cli_errors(&c), "INVALID_ARGUMENT");
    cli_assert_has(cli_errors(&c), "Unrecognized request argument supplied: top_k");
    cli_assert_has(cli_errors(&c), "http status 400");
    cli_assert_has(cli_errors(&c), "type        invalid_request_error");
    cli_assert_has(cli_errors(&c), "request id  req_");
    cli_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_temperature_0_repeats_itself),
        cmocka_unit_test(test_temperature_spreads),
        cmocka_unit_test(test_the_same_seed_repeats_and_another_differs),
        cmocka_unit_test(test_top_p_narrows),
        cmocka_unit_test(test_bias_minus_100_bans_and_100_forces),
        cmocka_unit_test(test_penalties_lower_repetition_and_negative_ones_raise_it),
        cmocka_unit_test(test_n_gives_n_for_each_prompt),
        cmocka_unit_test(test_best_of_returns_the_likelier),
        cmocka_unit_test(test_stop_cuts_and_is_not_in_the_text),
        cmocka_unit_test(test_max_tokens_cuts_with_length),
        cmocka_unit_test(test_suffix_changes_the_ending),
        cmocka_unit_test(test_echo_repeats_the_prompt_and_false_does_not),
        cmocka_unit_test(test_logprobs_sum_up_and_have_the_null),
        cmocka_unit_test(test_usage_adds_up),
        cmocka_unit_test(test_streamed_texts_joined_are_the_whole_one),
        cmocka_unit_test(test_usage_chunk_comes_on_request),
        cmocka_unit_test(test_text_is_the_text_and_a_newline),
        cmocka_unit_test(test_unknown_parameters_show_the_servers_refusal),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
