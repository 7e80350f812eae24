/* Requests: what is read, what is refused and with which error. */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "request.h"

static int make_vocabulary(void **state)
{
    struct vocabulary *v = calloc(1, sizeof *v);

    *state = v;
    return v && vocabulary_init(v) == 0 && vocabulary_add(v, " miller", 7) == 0 ? 0 : -1;
}

static int free_vocabulary(void **state)
{
    vocabulary_done(*state);
    free(*state);
    return 0;
}

static void parse(void **state, const char *members, struct request *ret)
{
    struct refusal refusal;
    char body[1024];
    int len = snprintf(body, sizeof body, "{\"model\":\"m\"%s%s}", *members ? "," : "", members);

    if (request_parse(body, (size_t)len, "m", *state, ret, &refusal) < 0)
        fail_msg("%s", refusal.message);
}

static struct refusal refuse_body(void **state, const char *body, size_t len)
{
    struct refusal refusal = {0};
    struct request request;

    if (request_parse(body, len, "m", *state, &request, &refusal) != -EINVAL)
        fail_msg("taken: %s", body);
    assert_true(refusal.message[0]);
    return refusal;
}

/* NULL: null. */
static void assert_refused(void **state, const char *members, const char *param, const char *code)
{
    char body[1024];
    int len = snprintf(body, sizeof body, "{\"model\":\"m\",%s}", members);
    struct refusal r = refuse_body(state, body, (size_t)len);

    assert_int_equal(r.status, 400);
    assert_string_equal(r.param, param ? param : "");
    if (code)
        assert_string_equal(r.code, code);
    else
        assert_null(r.code);
}

static void test_absent_and_null_are_the_documented_defaults(void **state)
{
    static const char *const members[] = {
        "", "\"prompt\":null,\"best_of\":null,\"echo\":null,\"frequency_penalty\":null,"
            "\"logit_bias\":null,\"logprobs\":null,\"max_tokens\":null,\"n\":null,"
            "\"presence_penalty\":null,\"seed\":null,\"stop\":null,\"stream\":null,"
            "\"stream_options\":null,\"suffix\":null,\"temperature\":null,\"top_p\":null"};

    for (int i = 0; i < 2; i++) {
        struct request r;
        parse(state, members[i], &r);
        assert_int_equal(r.n_prompts, 1);
        assert_int_equal(r.prompts[0].n, 1);
        assert_int_equal(r.prompts[0].ids[0], VOCABULARY_END);
        assert_true(r.n == 1 && r.best_of == 1 && r.max_tokens == 16 && r.logprobs == -1);
        assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1);
        assert_true(r.sampling.frequency_penalty == 0 && r.sampling.presence_penalty == 0);
        assert_true(!r.echo && !r.stream && !r.has_seed && !r.include_usage);
        assert_true(r.n_stops == 0 && r.sampling.n_biases == 0 && r.suffix.n == 0);
        request_done(&r);
    }
}

static void test_every_member_is_read(void **state)
{
    struct request r;

    parse(state,
          "\"prompt\":\"a miller\",\"best_of\":1,\"echo\":true,\"frequency_penalty\":-1.5,"
          "\"logit_bias\":{\"256\":-100,\"97\":2.5},\"logprobs\":0,\"max_tokens\":0,\"n\":1,"
          "\"presence_penalty\":2,\"seed\":-9223372036854775808,\"stop\":\"b\\u0000c\","
          "\"stream\":true,\"stream_options\":{\"include_usage\":true,"
          "\"include_obfuscation\":true},\"suffix\":\"z\",\"temperature\":0,\"top_p\":0.25,"
          "\"user\":\"someone\"",
          &r);
    assert_int_equal(r.prompts[0].n, 2);
    assert_true(r.echo && r.stream && r.include_usage && r.include_obfuscation && r.has_seed);
    assert_true(r.logprobs == 0 && r.max_tokens == 0 && r.seed == INT64_MIN);
    assert_true(r.sampling.frequency_penalty == -1.5 && r.sampling.presence_penalty == 2);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 0.25);
    assert_int_equal(r.sampling.n_biases, 2);
    assert_true(r.sampling.biases[0].id == 256 && r.sampling.biases[0].value == -100);
    assert_true(r.sampling.biases[1].id == 97 && r.sampling.biases[1].value == 2.5);
    assert_int_equal(r.n_stops, 1);
    assert_int_equal(r.stops[0].len, 3);
    assert_memory_equal(r.stops[0].text, "b\0c", 3);
    assert_int_equal(r.suffix.ids[0], 'z');
    request_done(&r);
}

static void test_prompts_have_four_forms(void **state)
{
    static const struct {
        const char *members;
        size_t n_prompts, n_first;
    } forms[] = {
        {"\"prompt\":\"a miller\"", 1, 2},         {"\"prompt\":\"\"", 1, 0},
        {"\"prompt\":[\"a miller\",\"b\"]", 2, 2}, {"\"prompt\":[97,257]", 1, 2},
        {"\"prompt\":[[97,257,0],[1],[2]]", 3, 3},
    };

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct request r;
        parse(state, forms[i].members, &r);
        assert_int_equal(r.n_prompts, forms[i].n_prompts);
        assert_int_equal(r.prompts[0].n, forms[i].n_first);
        request_done(&r);
    }
}

static void test_wrong_types_are_refused(void **state)
{
    static const char *const members[][2] = {
        {"\"best_of\":\"1\"", "best_of"},
        {"\"echo\":1", "echo"},
        {"\"frequency_penalty\":\"0\"", "frequency_penalty"},
        {"\"logit_bias\":[]", "logit_bias"},
        {"\"logit_bias\":{\"1\":\"2\"}", "logit_bias"},
        {"\"logprobs\":true", "logprobs"},
        {"\"max_tokens\":1.5", "max_tokens"},
        {"\"n\":[]", "n"},
        {"\"presence_penalty\":{}", "presence_penalty"},
        {"\"prompt\":1", "prompt"},
        {"\"prompt\":{}", "prompt"},
        {"\"prompt\":[1,\"a\"]", "prompt"},
        {"\"prompt\":[\"a\",1]", "prompt"},
        {"\"prompt\":[[1],\"a\"]", "prompt"},
        {"\"prompt\":[[\"a\"]]", "prompt"},
        {"\"prompt\":[1.0]", "prompt"},
        {"\"prompt\":[null]", "prompt"},
        {"\"seed\":1.5", "seed"},
        {"\"stop\":1", "stop"},
        {"\"stop\":[null]", "stop"},
        {"\"stream\":\"true\"", "stream"},
        {"\"stream\":true,\"stream_options\":true", "stream_options"},
        {"\"stream\":true,\"stream_options\":{\"include_usage\":1}", "include_usage"},
        {"\"suffix\":1", "suffix"},
        {"\"temperature\":\"1\"", "temperature"},
        {"\"top_p\":false", "top_p"},
        {"\"user\":null", "user"},
        {"\"user\":1", "user"},
    };

    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        assert_refused(state, members[i][0], members[i][1], "invalid_type");
}

static void test_ranges_are_refused_beyond_and_taken_at_their_ends(void **state)
{
    static const struct {
        const char *name, *below, *min, *max, *above;
        bool is_integer;
    } ranges[] = {
        {"best_of", "-1", "1", "20", "21", true},
        {"frequency_penalty", "-2.001", "-2", "2", "2.001", false},
        {"logprobs", "-1", "0", "5", "6", true},
        {"max_tokens", "-1", "0", "2048", "2147483648", true},
        {"n", "0", "1", "128", "129", true},
        {"presence_penalty", "-3", "-2.0", "2.0", "3", false},
        {"seed", NULL, "-9223372036854775808", "9223372036854775807", "9223372036854775808", true},
        {"temperature", "-0.1", "0", "2", "2.1", false},
        {"top_p", "-0.1", "0", "1", "1.1", false},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const char *values[] = {ranges[i].min, ranges[i].max, ranges[i].below, ranges[i].above};
        char members[128], code[64];
        for (int k = 0; k < 4; k++) {
            struct request r;
            if (!values[k])
                continue;
            snprintf(members, sizeof members, "\"prompt\":\"\",\"%s\":%s", ranges[i].name,
                     values[k]);
            snprintf(code, sizeof code, "%s_%s_value", ranges[i].is_integer ? "integer" : "decimal",
                     k == 2 ? "below_min" : "above_max");
            if (k >= 2) {
                assert_refused(state, members, ranges[i].name, code);
                continue;
            }
            parse(state, members, &r);
            request_done(&r);
        }
    }
}

static void test_other_values_are_refused(void **state)
{
    static const char *const members[][3] = {
        {"\"prompt\":[]", "prompt", "empty_array"},
        {"\"prompt\":[[]]", "prompt", "empty_array"},
        {"\"prompt\":[258]", "prompt", "invalid_token"},
        {"\"prompt\":[-1]", "prompt", "invalid_token"},
        {"\"stop\":\"\"", "stop", "empty_string"},
        {"\"stop\":[\"a\",\"\"]", "stop", "empty_string"},
        {"\"stop\":[]", "stop", "empty_array"},
        {"\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\"]", "stop", "array_above_max_length"},
        {"\"logit_bias\":{\"258\":1}", "logit_bias", "invalid_key"},
        {"\"logit_bias\":{\"x\":1}", "logit_bias", "invalid_key"},
        {"\"logit_bias\":{\"-1\":1}", "logit_bias", "invalid_key"},
        {"\"logit_bias\":{\"\":1}", "logit_bias", "invalid_key"},
        {"\"logit_bias\":{\"1\":101}", "logit_bias", "decimal_above_max_value"},
        {"\"logit_bias\":{\"1\":-100.5}", "logit_bias", "decimal_below_min_value"},
        {"\"temperature\":1e999", "temperature", "invalid_value"},
        {"\"n\":2,\"best_of\":1", "best_of", NULL},
        {"\"best_of\":0", "best_of", NULL},
        {"\"stream\":true,\"best_of\":2", "best_of", NULL},
        {"\"stream_options\":{}", "stream_options", NULL},
        {"\"stream\":true,\"stream_options\":{\"x\":true}", NULL, NULL},
        {"\"prompt\":[\"\",\"\",\"\",\"\",\"\"],\"n\":128", "n", NULL},
        {"\"max_tokens\":2048", NULL, "context_length_exceeded"},
        {"\"prompt\":\"aaaa\",\"max_tokens\":2045", NULL, "context_length_exceeded"},
        {"\"prompt\":\"\",\"suffix\":\"aaaa\",\"max_tokens\":2045", NULL,
         "context_length_exceeded"},
        {"\"top_k\":1", NULL, NULL},
        {"\"Prompt\":\"\"", NULL, NULL},
    };

    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        assert_refused(state, members[i][0], members[i][1], members[i][2]);
}

static void test_unknown_members_are_named_if_they_can_be(void **state)
{
    static const char known[] = "{\"model\":\"m\",\"top_k\":1}";
    static const char odd[] = "{\"model\":\"m\",\"a\\nb\":1}";

    assert_string_equal(refuse_body(state, known, strlen(known)).message,
                        "Unrecognized request argument supplied: top_k");
    assert_null(strchr(refuse_body(state, odd, strlen(odd)).message, '\n'));
}

static void test_other_models_are_not_found(void **state)
{
    static const char *const bodies[] = {"{\"model\":\"n\"}", "{\"model\":\"m\\u0000\"}",
                                         "{\"model\":\"\"}"};

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct refusal r = refuse_body(state, bodies[i], strlen(bodies[i]));
        assert_int_equal(r.status, 404);
        assert_string_equal(r.param, "model");
        assert_string_equal(r.code, "model_not_found");
    }
    assert_int_equal(refuse_body(state, "{}", 2).status, 400);
    assert_string_equal(refuse_body(state, "{\"model\":null}", 14).code, "invalid_type");
}

static void test_what_is_not_one_json_object_is_refused(void **state)
{
    static const char *const bodies[] = {
        "",
        " ",
        "{",
        "null",
        "1",
        "\"model\"",
        "[{\"model\":\"m\"}]",
        "{\"model\":\"m\"} {}",
        "{\"model\":\"m\"}x",
        "{\"model\":\"m\",}",
        "{'model':'m'}",
        "{\"model\":\"m\",\"prompt\":\"\xff\"}",
        "{\"model\":\"m\",\"prompt\":\"\xed\xa0\x80\"}",
        "{\"model\":\"m\",\"temperature\":01}",
    };
    static const char nul[] = "{\"model\":\"m\"}\0{}";

    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        assert_int_equal(refuse_body(state, bodies[i], strlen(bodies[i])).status, 400);
    assert_int_equal(refuse_body(state, nul, sizeof nul - 1).status, 400);
}

static void test_nesting_is_bounded(void **state)
{
    char body[4096] = "{\"model\":\"m\",\"prompt\":";

    memset(body + strlen(body), '[', 4000);
    assert_int_equal(refuse_body(state, body, strlen(body)).status, 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_and_null_are_the_documented_defaults),
        cmocka_unit_test(test_every_member_is_read),
        cmocka_unit_test(test_prompts_have_four_forms),
        cmocka_unit_test(test_wrong_types_are_refused),
        cmocka_unit_test(test_ranges_are_refused_beyond_and_taken_at_their_ends),
        cmocka_unit_test(test_other_values_are_refused),
        cmocka_unit_test(test_unknown_members_are_named_if_they_can_be),
        cmocka_unit_test(test_other_models_are_not_found),
        cmocka_unit_test(test_what_is_not_one_json_object_is_refused),
        cmocka_unit_test(test_nesting_is_bounded),
    };

    return cmocka_run_group_tests(tests, make_vocabulary, free_vocabulary);
}
