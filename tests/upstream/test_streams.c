/* Streams: the same text as whole answers, in pieces. */
#include "fixture.h"

#include <string.h>

static struct sandbox sandbox;

static int start(void **state)
{
    (void)state;
    sandbox_start(&sandbox, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sandbox_stop(&sandbox);
    return 0;
}

static size_t n_choices(json_object *completion)
{
    return json_object_array_length(at(completion, "choices"));
}

/* Appends the elements of one logprobs object to another's. */
static void join_logprobs(json_object *all, json_object *piece)
{
    json_object_object_foreach(piece, key, values)
    {
        json_object *list;
        if (!json_object_object_get_ex(all, key, &list))
            json_object_object_add(all, key, list = json_object_new_array());
        for (size_t i = 0; i < json_object_array_length(values); i++)
            json_object_array_add(list, json_object_get(json_object_array_get_idx(values, i)));
    }
}

static void test_a_stream_says_what_the_whole_answer_says(void **state)
{
#define ASK                                                                                        \
    "\"prompt\":\"Once upon a time\",\"seed\":9,\"n\":3,\"max_tokens\":40,\"logprobs\":2,"         \
    "\"echo\":true,\"stop\":[\"the door of\",\" and the\"]"
    json_object *whole = sandbox_complete(&sandbox, ASK);
    json_object *chunks = sandbox_stream(&sandbox, ASK);
#undef ASK
    char texts[3][1024] = {"", "", ""}, finish[3][16] = {"", "", ""};
    json_object *logprobs[3];
    size_t n = json_object_array_length(chunks);

    (void)state;
    for (int i = 0; i < 3; i++)
        logprobs[i] = json_object_new_object();
    assert_true(n > 6);
    for (size_t i = 0; i < n; i++) {
        json_object *chunk = json_object_array_get_idx(chunks, i);
        assert_int_equal(n_choices(chunk), 1);
        assert_false(json_object_object_get_ex(chunk, "usage", NULL));
        assert_false(json_object_object_get_ex(chunk, "obfuscation", NULL));
        assert_string_equal(text_at(chunk, "id"), text_at(at(chunks, "0"), "id"));
        int64_t index = number_at(chunk, "choices.0.index");
        assert_string_equal(finish[index], "");
        strcat(texts[index], text_of(chunk, 0));
        join_logprobs(logprobs[index], at(chunk, "choices.0.logprobs"));
        if (at(chunk, "choices.0.finish_reason"))
            strcpy(finish[index], text_at(chunk, "choices.0.finish_reason"));
    }
    for (size_t i = 0; i < 3; i++) {
        json_object *choice = json_object_array_get_idx(at(whole, "choices"), i);
        assert_string_equal(texts[i], text_at(choice, "text"));
        assert_string_equal(finish[i], text_at(choice, "finish_reason"));
        assert_true(json_object_equal(logprobs[i], at(choice, "logprobs")));
        json_object_put(logprobs[i]);
    }
    json_object_put(whole);
    json_object_put(chunks);
}

static void test_usage_comes_last_in_a_stream_if_asked_for(void **state)
{
    json_object *chunks =
        sandbox_stream(&sandbox, "\"prompt\":\"The fox\",\"n\":2,\"max_tokens\":5,"
                                 "\"logit_bias\":{\"256\":-100},"
                                 "\"stream_options\":{\"include_usage\":true}");
    size_t n = json_object_array_length(chunks);

    (void)state;
    assert_int_equal(n, 11);
    for (size_t i = 0; i < n - 1; i++)
        assert_null(at(json_object_array_get_idx(chunks, i), "usage"));
    json_object *last = json_object_array_get_idx(chunks, n - 1);
    assert_int_equal(n_choices(last), 0);
    assert_int_equal(number_at(last, "usage.completion_tokens"), 10);
    assert_int_equal(number_at(last, "usage.total_tokens"), 12);
    json_object_put(chunks);
}

static void test_obfuscation_fills_chunks_if_asked_for(void **state)
{
    json_object *chunks =
        sandbox_stream(&sandbox, "\"prompt\":\"The fox\",\"stream_options\":"
                                 "{\"include_obfuscation\":true,\"include_usage\":true}");

    (void)state;
    for (size_t i = 0; i < json_object_array_length(chunks); i++) {
        json_object *chunk = json_object_array_get_idx(chunks, i);
        size_t len = strlen(text_at(chunk, "obfuscation"));
        if (n_choices(chunk) > 0)
            len += strlen(text_of(chunk, 0));
        assert_true(len > 0 && len % 16 == 0);
    }
    json_object_put(chunks);
}

/* What begins like the stop sequence comes in one piece, once it went on otherwise. */
static void test_a_stream_holds_back_what_is_not_sure(void **state)
{
    json_object *chunks = sandbox_stream(
        &sandbox, "\"prompt\":\"Once upon a time\",\"temperature\":0,\"max_tokens\":12,"
                  "\"stop\":\"er who lived by the sea\"");
    size_t n = json_object_array_length(chunks), n_texts = 0;
    char text[512] = "";

    (void)state;
    for (size_t i = 0; i < n; i++) {
        strcat(text, text_of(json_object_array_get_idx(chunks, i), 0));
        n_texts += text_of(json_object_array_get_idx(chunks, i), 0)[0] != '\0';
        if (!strstr(text, "riv")) /* "er" at its end is held back again */
            assert_null(strstr(text, "miller"));
    }
    assert_string_equal(text, " there was a miller who lived by the river. The miller");
    assert_in_range(n_texts, 2, 9);
    json_object_put(chunks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stream_says_what_the_whole_answer_says),
        cmocka_unit_test(test_usage_comes_last_in_a_stream_if_asked_for),
        cmocka_unit_test(test_obfuscation_fills_chunks_if_asked_for),
        cmocka_unit_test(test_a_stream_holds_back_what_is_not_sure),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
