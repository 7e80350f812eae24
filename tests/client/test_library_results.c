/*
 * What the getters of a result give: every member that an upstream sent, absent where it sent none,
 * and the whole as JSON again.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_equal.h"
#include "library.h"

enum { FOREVER = -1 };

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json", "", *(const char *const *)c->user))
        ;
}

static completion_result *ask(struct library *l)
{
    completion_result *result = NULL;
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, l->error);

    if (r != 0)
        fail_msg("the call fails with %d: %s", r, completion_error_message(l->error));
    return result;
}

static char *as_json(const completion_result *result)
{
    char *json;
    size_t length;

    assert_int_equal(completion_result_to_json(result, &json, &length), 0);
    assert_int_equal(strlen(json), length);
    assert_null(strchr(json, '\n'));
    return json;
}

/* A text of this many bytes, which may hold NUL. */
static void assert_bytes(completion_text text, const char *expected, size_t length)
{
    assert_int_equal(text.length, length);
    assert_memory_equal(text.data, expected, length);
}

/* ---- Everything ---- */

static const char everything[] =
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":9007199254740993,"
    "\"model\":\"m-2\",\"system_fingerprint\":\"fp\",\"service_tier\":\"a\",\"choices\":["
    "{\"index\":4,\"text\":\"a\\u0000b\",\"finish_reason\":\"length\",\"stop_reason\":7,"
    "\"logprobs\":{\"tokens\":[\"A\",\"\",\"\\u0000\",\"z\"],"
    "\"token_logprobs\":[null,-9.25,0,-1e-7],"
    "\"top_logprobs\":[null,{\" b\":-3,\" a\":-0.5,\" b\":-9.25},{},{\"q\\n\":-9999.0}],"
    "\"text_offset\":[0,1,7,8],\"more\":[1]}},"
    "{\"index\":0,\"text\":\"\",\"finish_reason\":\"eos_found\",\"logprobs\":null},"
    "{\"finish_reason\":null},"
    "{\"index\":1,\"text\":\"x\",\"finish_reason\":\"stop\"},"
    "{\"index\":2,\"text\":\"y\",\"finish_reason\":\"content_filter\"}],"
    "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":5000000000,\"total_tokens\":3,"
    "\"completion_tokens_details\":{\"accepted_prediction_tokens\":10,\"audio_tokens\":11,"
    "\"reasoning_tokens\":12,\"rejected_prediction_tokens\":13,\"text_tokens\":14,\"c\":1},"
    "\"prompt_tokens_details\":{\"audio_tokens\":15,\"cached_tokens\":16,"
    "\"cache_write_tokens\":17,\"image_tokens\":18,\"text_tokens\":0,\"p\":{}},\"u\":null}}";

static void check_top(const completion_result *r)
{
    completion_text text;
    int64_t created = 0;

    library_assert_text(completion_result_id(r), "cmpl-1");
    library_assert_text(completion_result_object(r), "text_completion");
    library_assert_text(completion_result_model(r), "m-2");
    library_assert_text(completion_result_system_fingerprint(r), "fp");
    library_assert_text(completion_result_extra(r), "{\"service_tier\":\"a\"}");
    assert_int_equal(completion_result_created(r, &created), 1);
    assert_int_equal(created, 9007199254740993);
    assert_int_equal(completion_result_created(r, NULL), 1);
    text = completion_choice_text(r, 0);
    assert_bytes(text, "a\0b", 3);
}

static void check_choices(const completion_result *r)
{
    static const struct {
        int has_index;
        int32_t index;
        const char *reason;
        enum completion_finish_reason code;
    } expected[] = {
        {1, 4, "length", COMPLETION_FINISH_LENGTH},
        {1, 0, "eos_found", COMPLETION_FINISH_OTHER},
        {0, -7, NULL, COMPLETION_FINISH_UNSPECIFIED},
        {1, 1, "stop", COMPLETION_FINISH_STOP},
        {1, 2, "content_filter", COMPLETION_FINISH_CONTENT_FILTER},
        {0, -7, NULL, COMPLETION_FINISH_UNSPECIFIED}, /* there is none */
    };

    assert_int_equal(completion_result_n_choices(r), 5);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        int32_t index = -7;
        assert_int_equal(completion_choice_index(r, i, &index), expected[i].has_index);
        assert_int_equal(index, expected[i].index);
        assert_int_equal(completion_choice_finish_reason(r, i), expected[i].code);
        library_assert_text(completion_choice_finish_reason_text(r, i), expected[i].reason);
        assert_int_equal(completion_choice_has_logprobs(r, i), i == 0);
    }
    library_assert_text(completion_choice_text(r, 1), "");
    library_assert_text(completion_choice_text(r, 2), NULL);
    library_assert_text(completion_choice_text(r, SIZE_MAX), NULL);
    library_assert_text(completion_choice_extra(r, 0), "{\"stop_reason\":7}");
    library_assert_text(completion_choice_extra(r, 1), NULL);
}

static void check_logprobs(const completion_result *r)
{
    double logprob = 7;
    int32_t offset = -7;

    library_assert_text(completion_logprobs_extra(r, 0), "{\"more\":[1]}");
    assert_int_equal(completion_logprobs_n_tokens(r, 0), 4);
    library_assert_text(completion_logprobs_token(r, 0, 0), "A");
    library_assert_text(completion_logprobs_token(r, 0, 1), "");
    assert_bytes(completion_logprobs_token(r, 0, 2), "\0", 1);
    library_assert_text(completion_logprobs_token(r, 0, 4), NULL);
    assert_int_equal(completion_logprobs_text_offset(r, 0, 2, &offset), 1);
    assert_int_equal(offset, 7);
    assert_int_equal(completion_logprobs_text_offset(r, 0, 4, &offset), 0);

    /* null is not 0. */
    assert_int_equal(completion_logprobs_token_logprob(r, 0, 0, &logprob), 0);
    assert_true(logprob == 7);
    assert_int_equal(completion_logprobs_token_logprob(r, 0, 2, &logprob), 1);
    assert_true(logprob == 0);
    assert_int_equal(completion_logprobs_token_logprob(r, 0, 3, &logprob), 1);
    assert_true(logprob == -1e-7);
    assert_int_equal(completion_logprobs_token_logprob(r, 0, 4, &logprob), 0);
}

static void check_top_logprobs(const completion_result *r)
{
    static const struct {
        const char *token;
        double logprob;
    } expected[] = {{" b", -3}, {" a", -0.5}, {" b", -9.25}}; /* the server's order */
    double logprob = 7;

    assert_int_equal(completion_logprobs_n_top(r, 0, 0), -1);
    library_assert_text(completion_logprobs_top_token(r, 0, 0, 0), NULL);
    assert_int_equal(completion_logprobs_n_top(r, 0, 1), 3);
    for (size_t rank = 0; rank < 3; rank++) {
        library_assert_text(completion_logprobs_top_token(r, 0, 1, rank), expected[rank].token);
        assert_int_equal(completion_logprobs_top_logprob(r, 0, 1, rank, &logprob), 1);
        assert_true(logprob == expected[rank].logprob);
    }
    library_assert_text(completion_logprobs_top_token(r, 0, 1, 3), NULL);
    assert_int_equal(completion_logprobs_top_logprob(r, 0, 1, 3, &logprob), 0);
    assert_int_equal(completion_logprobs_n_top(r, 0, 2), 0);
    assert_int_equal(completion_logprobs_n_top(r, 0, 3), 1);
    assert_int_equal(completion_logprobs_n_top(r, 0, 4), 0);
    assert_int_equal(completion_logprobs_n_top(r, 1, 0), 0);
}

static void check_usage(const completion_result *r)
{
    static const int64_t expected[] = {5000000000, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 0};
    int64_t value = -7;

    assert_int_equal(completion_result_has_usage(r), 1);
    for (int field = 0; field <= COMPLETION_USAGE_PROMPT_TEXT_TOKENS; field++) {
        assert_int_equal(completion_result_usage(r, (enum completion_usage_field)field, &value), 1);
        assert_int_equal(value, expected[field]);
    }
    assert_int_equal(completion_result_usage(r, (enum completion_usage_field)99, &value), 0);
    library_assert_text(completion_usage_extra(r), "{\"u\":null}");
    library_assert_text(completion_usage_completion_tokens_extra(r), "{\"c\":1}");
    library_assert_text(completion_usage_prompt_tokens_extra(r), "{\"p\":{}}");
}

static void test_getters_give_what_was_sent(void **state)
{
    struct library *l = *state;
    const char *body = everything;

    library_start(l, answer, &body, NULL);
    completion_result *r = ask(l);
    check_top(r);
    check_choices(r);
    check_logprobs(r);
    check_top_logprobs(r);
    check_usage(r);
    char *json = as_json(r);
    json_assert_equal(json, everything, JSON_NULLS_ARE_ABSENT);
    /* What a reader of JSON may lose: the order, and names that come twice. */
    assert_non_null(strstr(json, "{\" b\":-3,\" a\":-0.5,\" b\":-9.25}"));
    assert_non_null(strstr(json, "\"created\":9007199254740993"));
    assert_non_null(strstr(json, "\"token_logprobs\":[null,-9.25,0,-1e-"));
    assert_non_null(strstr(json, "\"top_logprobs\":[null,{"));
    free(json);
    completion_result_free(r);
    library_stop(l);
}

/* ---- Nothing ---- */

static void test_getters_know_what_is_absent(void **state)
{
    struct library *l = *state;
    const char *body = "{\"choices\":[]}";
    int64_t value = -7;
    double logprob;
    int32_t index;

    library_start(l, answer, &body, NULL);
    completion_result *sent = ask(l), *results[] = {sent, NULL};
    for (int i = 0; i < 2; i++) {
        const completion_result *r = results[i]; /* NULL has nothing either */
        library_assert_text(completion_result_id(r), NULL);
        library_assert_text(completion_result_model(r), NULL);
        library_assert_text(completion_result_object(r), NULL);
        library_assert_text(completion_result_system_fingerprint(r), NULL);
        library_assert_text(completion_result_extra(r), NULL);
        assert_int_equal(completion_result_created(r, &value), 0);
        assert_int_equal(completion_result_has_usage(r), 0);
        for (int field = 0; field <= COMPLETION_USAGE_PROMPT_TEXT_TOKENS; field++)
            assert_int_equal(completion_result_usage(r, (enum completion_usage_field)field, &value),
                             0);
        library_assert_text(completion_usage_extra(r), NULL);
        library_assert_text(completion_usage_completion_tokens_extra(r), NULL);
        library_assert_text(completion_usage_prompt_tokens_extra(r), NULL);
        assert_int_equal(completion_result_n_choices(r), 0);
        assert_int_equal(completion_choice_index(r, 0, &index), 0);
        library_assert_text(completion_choice_text(r, 0), NULL);
        library_assert_text(completion_choice_extra(r, 0), NULL);
        assert_int_equal(completion_choice_finish_reason(r, 0), COMPLETION_FINISH_UNSPECIFIED);
        library_assert_text(completion_choice_finish_reason_text(r, 0), NULL);
        assert_int_equal(completion_choice_has_logprobs(r, 0), 0);
        library_assert_text(completion_logprobs_extra(r, 0), NULL);
        assert_int_equal(completion_logprobs_n_tokens(r, 0), 0);
        library_assert_text(completion_logprobs_token(r, 0, 0), NULL);
        assert_int_equal(completion_logprobs_text_offset(r, 0, 0, &index), 0);
        assert_int_equal(completion_logprobs_token_logprob(r, 0, 0, &logprob), 0);
        assert_int_equal(completion_logprobs_n_top(r, 0, 0), 0);
        library_assert_text(completion_logprobs_top_token(r, 0, 0, 0), NULL);
        assert_int_equal(completion_logprobs_top_logprob(r, 0, 0, 0, &logprob), 0);
    }
    assert_int_equal(value, -7);
    char *json = as_json(sent);
    assert_string_equal(json, body);
    free(json);
    assert_int_equal(completion_result_to_json(NULL, &json, NULL), -EINVAL);
    assert_int_equal(completion_result_to_json(sent, NULL, NULL), -EINVAL);
    completion_result_free(sent);
    library_stop(l);
}

/* ---- What real servers send ---- */

/* Every answer of the samples that is one (ok*.json, and vLLM's of another name). */
static bool is_answer(const char *name)
{
    return strstr(name, ".json") && (strncmp(name, "ok", 2) == 0 || strncmp(name, "echo", 4) == 0);
}

static void test_json_means_what_real_servers_sent(void **state)
{
    static const char *const servers[] = {"openai", "azure", "vllm", "llamacpp", "ollama"};
    struct library *l = *state;
    const char *body = NULL;
    char path[512];
    int n = 0;

    library_start(l, answer, &body, NULL);
    for (size_t i = 0; i < sizeof servers / sizeof *servers; i++) {
        snprintf(path, sizeof path, SAMPLES "/%s", servers[i]);
        DIR *directory = opendir(path);
        assert_non_null(directory);
        for (struct dirent *e; (e = readdir(directory));) {
            if (!is_answer(e->d_name))
                continue;
            snprintf(path, sizeof path, SAMPLES "/%s/%s", servers[i], e->d_name);
            print_message("%s/%s\n", servers[i], e->d_name);
            char *text = directory_read(path);
            body = text;
            completion_result *r = ask(l);
            char *json = as_json(r);
            json_assert_equal(json, text, JSON_NULLS_ARE_ABSENT);
            free(json);
            free(text);
            completion_result_free(r);
            n++;
        }
        closedir(directory);
    }
    assert_true(n >= 10);
    library_stop(l);
}

/* Lists that are null or missing as a whole are not lists without entries. */
static void test_json_of_lists_that_are_not_there(void **state)
{
    static const char *const logprobs[] = {
        "{\"tokens\":[\"a\"],\"token_logprobs\":[-1],\"top_logprobs\":null,\"text_offset\":[0]}",
        "{\"tokens\":[\"a\"],\"token_logprobs\":[-1],\"text_offset\":[0]}",
        "{\"tokens\":[\"a\"],\"token_logprobs\":[-1]}",
        "{\"tokens\":[],\"token_logprobs\":[],\"top_logprobs\":[],\"text_offset\":[]}",
        "{\"content\":[]}",
    };
    struct library *l = *state;
    const char *body = NULL;

    library_start(l, answer, &body, NULL);
    for (size_t i = 0; i < sizeof logprobs / sizeof *logprobs; i++) {
        char *text = NULL;
        assert_true(
            asprintf(&text, "{\"choices\":[{\"text\":\"a\",\"logprobs\":%s}]}", logprobs[i]) > 0);
        body = text;
        completion_result *r = ask(l);
        char *json = as_json(r);
        print_message("%s\n", json);
        json_assert_equal(json, text, JSON_NULLS_ARE_ABSENT);
        free(json);
        free(text);
        completion_result_free(r);
    }
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_getters_give_what_was_sent),
        library_test(test_getters_know_what_is_absent),
        library_test(test_json_means_what_real_servers_sent),
        library_test(test_json_of_lists_that_are_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
