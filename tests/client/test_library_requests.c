/*
 * What the setters of a request set: the body that reaches the upstream, member for member. And
 * requests that are used again, changed, and refused.
 */
#include <stdlib.h>
#include <string.h>

#include "json_equal.h"
#include "library.h"

enum { TEXT_MAX_BYTES = 4 << 20, FOREVER = -1 };

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void stream(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_LAST("ok")) &&
           fake_stream_done(c))
        ;
}

/* An empty request with a model. */
static void begin(struct library *l)
{
    completion_request_free(l->request);
    assert_int_equal(completion_request_new(&l->request), 0);
    assert_int_equal(completion_request_set_model(l->request, "m", TEXT), 0);
}

static void assert_body(struct library *l, const char *expected)
{
    char *body = fake_last_body(l->scene.fake);

    json_assert_equal(body, expected, JSON_NULLS_COUNT);
    free(body);
}

static void assert_sends(struct library *l, const char *expected)
{
    assert_string_equal(library_create(l), "ok");
    assert_body(l, expected);
}

/* ---- One by one ---- */

#define IDS(...)                                                                                   \
    (const int32_t[]){__VA_ARGS__}, sizeof(const int32_t[]){__VA_ARGS__} / sizeof(int32_t)

/* name, the call (on r), and the body. */
#define SETTERS(X)                                                                                 \
    X(model, completion_request_set_model(r, "m\xc3\xa9 \"x\"", TEXT), "{'model':'mé \\'x\\''}")   \
    X(model_part, completion_request_set_model(r, "model", 3), "{'model':'mod'}")                  \
    X(prompt, completion_request_set_prompt(r, "Hi\n", TEXT), "{'model':'m','prompt':'Hi\\n'}")    \
    X(prompt_part, completion_request_set_prompt(r, "Hello", 2), "{'model':'m','prompt':'He'}")    \
    X(prompt_empty, completion_request_set_prompt(r, "", TEXT), "{'model':'m','prompt':''}")       \
    X(prompt_nothing, completion_request_set_prompt(r, NULL, 0), "{'model':'m','prompt':''}")      \
    X(prompt_nul, completion_request_set_prompt(r, "a\0b\0", 4),                                   \
      "{'model':'m','prompt':'a\\u0000b\\u0000'}")                                                 \
    X(prompts_one, completion_request_add_prompt(r, "a", TEXT), "{'model':'m','prompt':['a']}")    \
    X(prompts,                                                                                     \
      completion_request_add_prompt(r, "a\0", 2) | completion_request_add_prompt(r, "", TEXT) |    \
          completion_request_add_prompt(r, "\xf0\x9f\x98\x8d", TEXT),                              \
      "{'model':'m','prompt':['a\\u0000','','😍']}")                                                \
    X(tokens, completion_request_set_prompt_tokens(r, IDS(0, 1, 50256, INT32_MAX)),                \
      "{'model':'m','prompt':[0,1,50256,2147483647]}")                                             \
    X(token_arrays,                                                                                \
      completion_request_add_prompt_tokens(r, IDS(1, 2)) |                                         \
          completion_request_add_prompt_tokens(r, IDS(300)),                                       \
      "{'model':'m','prompt':[[1,2],[300]]}")                                                      \
    X(best_of, completion_request_set_best_of(r, 3), "{'model':'m','best_of':3}")                  \
    X(echo, completion_request_set_echo(r, 7), "{'model':'m','echo':true}")                        \
    X(echo_not, completion_request_set_echo(r, 0), "{'model':'m','echo':false}")                   \
    X(frequency, completion_request_set_frequency_penalty(r, -1.25),                               \
      "{'model':'m','frequency_penalty':-1.25}")                                                   \
    X(bias,                                                                                        \
      completion_request_add_logit_bias(r, 50256, -100) |                                          \
          completion_request_add_logit_bias(r, 0, 0.1) |                                           \
          completion_request_add_logit_bias(r, 7, 1.0 / 3),                                        \
      "{'model':'m','logit_bias':{'50256':-100,'0':0.1,'7':0.3333333333333333}}")                  \
    X(bias_again,                                                                                  \
      completion_request_add_logit_bias(r, 5, 1) | completion_request_add_logit_bias(r, 5, -2.5),  \
      "{'model':'m','logit_bias':{'5':-2.5}}")                                                     \
    X(logprobs, completion_request_set_logprobs(r, 0), "{'model':'m','logprobs':0}")               \
    X(max_tokens, completion_request_set_max_tokens(r, 0), "{'model':'m','max_tokens':0}")         \
    X(max_tokens_most, completion_request_set_max_tokens(r, INT32_MAX),                            \
      "{'model':'m','max_tokens':2147483647}")                                                     \
    X(n, completion_request_set_n(r, 128), "{'model':'m','n':128}")                                \
    X(presence, completion_request_set_presence_penalty(r, 2),                                     \
      "{'model':'m','presence_penalty':2}")                                                        \
    X(seed, completion_request_set_seed(r, 9007199254740993),                                      \
      "{'model':'m','seed':9007199254740993}")                                                     \
    X(seed_least, completion_request_set_seed(r, INT64_MIN),                                       \
      "{'model':'m','seed':-9223372036854775808}")                                                 \
    X(seed_most, completion_request_set_seed(r, INT64_MAX),                                        \
      "{'model':'m','seed':9223372036854775807}")                                                  \
    X(stop, completion_request_set_stop(r, "\n\n", TEXT), "{'model':'m','stop':'\\n\\n'}")         \
    X(stop_one, completion_request_add_stop(r, "x", TEXT), "{'model':'m','stop':['x']}")           \
    X(stops, completion_request_add_stop(r, "a", TEXT) | completion_request_add_stop(r, "b\0", 2), \
      "{'model':'m','stop':['a','b\\u0000']}")                                                     \
    X(suffix, completion_request_set_suffix(r, "", TEXT), "{'model':'m','suffix':''}")             \
    X(temperature, completion_request_set_temperature(r, 0), "{'model':'m','temperature':0}")      \
    X(temperature_small, completion_request_set_temperature(r, 5e-324),                            \
      "{'model':'m','temperature':5e-324}")                                                        \
    X(top_p, completion_request_set_top_p(r, 0.1), "{'model':'m','top_p':0.1}")                    \
    X(user, completion_request_set_user(r, "u-1", TEXT), "{'model':'m','user':'u-1'}")             \
    X(extra,                                                                                       \
      completion_request_set_extra_body(                                                           \
          r, "{\"top_k\":40,\"grammar\":null,\"x\":{\"y\":[1e400,12345678901234567890]}}", TEXT),  \
      "{'model':'m','top_k':40,'grammar':null,'x':{'y':[1e400,12345678901234567890]}}")            \
    /* What takes the place of what. */                                                            \
    X(prompt_again,                                                                                \
      completion_request_set_prompt(r, "long ago", TEXT) |                                         \
          completion_request_set_prompt(r, "b", TEXT),                                             \
      "{'model':'m','prompt':'b'}")                                                                \
    X(prompt_for_prompts,                                                                          \
      completion_request_add_prompt(r, "a", TEXT) | completion_request_set_prompt(r, "b", TEXT),   \
      "{'model':'m','prompt':'b'}")                                                                \
    X(prompts_for_prompt,                                                                          \
      completion_request_set_prompt(r, "a", TEXT) | completion_request_add_prompt(r, "b", TEXT),   \
      "{'model':'m','prompt':['b']}")                                                              \
    X(tokens_for_prompts,                                                                          \
      completion_request_add_prompt(r, "a", TEXT) |                                                \
          completion_request_set_prompt_tokens(r, IDS(9)) |                                        \
          completion_request_set_prompt_tokens(r, IDS(8, 7)),                                      \
      "{'model':'m','prompt':[8,7]}")                                                              \
    X(arrays_for_tokens,                                                                           \
      completion_request_set_prompt_tokens(r, IDS(9)) |                                            \
          completion_request_add_prompt_tokens(r, IDS(1)),                                         \
      "{'model':'m','prompt':[[1]]}")                                                              \
    X(stops_for_stop,                                                                              \
      completion_request_set_stop(r, "a", TEXT) | completion_request_add_stop(r, "b", TEXT),       \
      "{'model':'m','stop':['b']}")                                                                \
    X(stop_for_stops,                                                                              \
      completion_request_add_stop(r, "a", TEXT) | completion_request_set_stop(r, "b", TEXT),       \
      "{'model':'m','stop':'b'}")                                                                  \
    X(seed_again, completion_request_set_seed(r, 1) | completion_request_set_seed(r, -1),          \
      "{'model':'m','seed':-1}")

#define DEFINE(name, call, body)                                                                   \
    static int set_##name(completion_request *r)                                                   \
    {                                                                                              \
        return call;                                                                               \
    }
SETTERS(DEFINE)

#define ROW(name, call, body) {#name, set_##name, body},
static const struct setter {
    const char *name;
    int (*set)(completion_request *r);
    const char *body; /* ' for " */
} setters[] = {SETTERS(ROW)};

static void quote(const char *text, char *out, size_t size)
{
    size_t n = strlen(text);

    assert_true(n < size);
    for (size_t i = 0; i <= n; i++)
        out[i] = text[i] == '\'' ? '"' : text[i];
}

static void test_each_setter_sets_its_member(void **state)
{
    struct library *l = *state;
    char body[512];

    library_start(l, answer, NULL, "validate = no");
    for (size_t i = 0; i < sizeof setters / sizeof *setters; i++) {
        begin(l);
        print_message("%s\n", setters[i].name);
        assert_int_equal(setters[i].set(l->request), 0);
        quote(setters[i].body, body, sizeof body);
        assert_sends(l, body);
    }
    library_stop(l);
}

static void test_stream_options(void **state)
{
    struct library *l = *state;

    library_start(l, stream, NULL, NULL);
    begin(l);
    completion_request_set_include_usage(l->request, 0);
    completion_request_set_include_obfuscation(l->request, 5);
    completion_request_set_include_usage(l->request, 1);
    completion_stream *s = library_open(l, FOREVER);
    assert_string_equal(library_read(l, s), "ok");
    completion_stream_free(s);
    assert_body(l, "{\"model\":\"m\",\"stream\":true,"
                   "\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":true}}");
    library_stop(l);
}

static void test_key_of_the_caller(void **state)
{
    struct library *l = *state;

    library_start(l, answer, NULL, "[policy *]\nallow_own_key = yes\n");
    assert_int_equal(completion_request_set_api_key(l->request, "sk-CANARY-old", TEXT), 0);
    assert_int_equal(completion_request_set_api_key(l->request, "sk-CANARY-mine!", 14), 0);
    /* A key that is none leaves the one that is there. */
    assert_int_equal(completion_request_set_api_key(l->request, "two words", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_api_key(l->request, "", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_api_key(l->request, "a\r\nb", TEXT), -EINVAL);
    assert_int_equal(completion_request_set_api_key(l->request, "a\0b", 3), -EINVAL);
    assert_int_equal(completion_request_set_api_key(l->request, "\xc3\xa9", TEXT), -EINVAL);
    assert_string_equal(library_create(l), "ok");
    char *head = fake_last_head(l->scene.fake);
    assert_non_null(strcasestr(head, "authorization: bearer sk-CANARY-mine\r\n"));
    free(head);
    library_stop(l);
}

/* ---- Again and again ---- */

static void test_request_is_used_again_and_changed(void **state)
{
    struct library *l = *state;

    library_start(l, answer, NULL, NULL);
    begin(l);
    completion_request_add_prompt(l->request, "a", TEXT);
    completion_request_set_n(l->request, 2);
    for (int i = 0; i < 3; i++)
        assert_sends(l, "{\"model\":\"m\",\"prompt\":[\"a\"],\"n\":2}");
    completion_request_add_prompt(l->request, "b", TEXT);
    completion_request_set_n(l->request, 1);
    completion_request_set_model(l->request, "other", TEXT);
    assert_sends(l, "{\"model\":\"other\",\"prompt\":[\"a\",\"b\"],\"n\":1}");

    completion_request_set_suffix(l->request, "s", TEXT);
    assert_sends(l, "{\"model\":\"other\",\"prompt\":[\"a\",\"b\"],\"n\":1,\"suffix\":\"s\"}");
    library_stop(l);
}

/* What no longer holds is not sent: the daemon takes 4 MiB at most. */
static void test_request_does_not_grow_by_being_changed(void **state)
{
    struct library *l = *state;
    char *big = malloc(1 << 20);

    memset(big, 'x', 1 << 20);
    library_start(l, answer, NULL, NULL);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(completion_request_set_suffix(l->request, big, 1 << 20), 0);
        assert_int_equal(completion_request_set_prompt(l->request, big, 1 << 20), 0);
        assert_int_equal(completion_request_set_user(l->request, big, 1000), 0);
    }
    completion_request_set_suffix(l->request, "s", TEXT);
    completion_request_set_prompt(l->request, "p", TEXT);
    for (int i = 0; i < 600000; i++)
        if (completion_request_set_seed(l->request, i) < 0 ||
            completion_request_set_top_p(l->request, 0.5) < 0 ||
            completion_request_set_include_usage(l->request, i & 1) < 0)
            fail_msg("the request is full after %d changes", i);
    completion_request_set_user(l->request, "u", TEXT);
    completion_stream *s = library_open(l, FOREVER); /* all of it, with the options */
    completion_stream_free(s);
    assert_int_equal(completion_request_set_user(l->request, "v", TEXT), 0);
    free(big);
    library_stop(l);
}

/* ---- Refused ---- */

/* Each text may have 4 MiB, and so may all of them together: known here, and nothing is sent. */
static void test_request_of_more_than_4_mib_is_refused_here(void **state)
{
    struct library *l = *state;
    char *big = malloc(TEXT_MAX_BYTES);
    completion_call *call;

    memset(big, 'x', TEXT_MAX_BYTES);
    library_start(l, answer, NULL, NULL);
    assert_int_equal(completion_request_set_prompt(l->request, big, TEXT_MAX_BYTES), 0);
    library_assert_create_fails(l, FOREVER, -EMSGSIZE, COMPLETION_INVALID_ARGUMENT);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_int_equal(completion_error_retryable(l->error), 0);
    assert_non_null(strstr(completion_error_message(l->error), "4 MiB"));
    assert_int_equal(completion_call_start(l->client, l->request, FOREVER, &call, l->error),
                     -EMSGSIZE);
    /* The fields' own bytes count. */
    assert_int_equal(completion_request_set_prompt(l->request, big, TEXT_MAX_BYTES - 1000), 0);
    assert_string_equal(library_create(l), "ok");
    free(big);
    library_stop(l);
}

static void test_failed_setter_leaves_the_request_as_it_was(void **state)
{
    struct library *l = *state;
    completion_request *r;
    char *big = malloc(TEXT_MAX_BYTES + 2);
    int32_t *ids = calloc(TEXT_MAX_BYTES + 1, sizeof *ids);

    memset(big, 'x', TEXT_MAX_BYTES + 1);
    big[TEXT_MAX_BYTES + 1] = '\0';
    library_start(l, answer, NULL, NULL);
    begin(l);
    r = l->request;
    completion_request_set_prompt(r, "p", TEXT);
    completion_request_add_stop(r, "s", TEXT);
    completion_request_set_user(r, "u", TEXT);

    assert_int_equal(completion_request_set_model(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_user(r, big, TEXT_MAX_BYTES + 1), -EINVAL);
    assert_int_equal(completion_request_set_suffix(r, big, SIZE_MAX - 1), -EINVAL);
    assert_int_equal(completion_request_set_extra_body(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_add_prompt(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_stop(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_add_stop(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt_tokens(r, ids, TEXT_MAX_BYTES + 1), -EINVAL);
    assert_int_equal(completion_request_add_prompt_tokens(r, ids, SIZE_MAX / 2), -EINVAL);
    assert_int_equal(completion_request_set_api_key(r, big, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt(r, NULL, 1), -EINVAL);
    assert_int_equal(completion_request_set_model(r, NULL, TEXT), -EINVAL);
    assert_int_equal(completion_request_add_stop(r, NULL, TEXT), -EINVAL);
    assert_int_equal(completion_request_set_prompt_tokens(r, NULL, 1), -EINVAL);
    assert_sends(l, "{\"model\":\"m\",\"prompt\":\"p\",\"stop\":[\"s\"],\"user\":\"u\"}");

    /* Lists of prompts grow until they are full, and stay usable then. */
    int n = 0, failed = 0;
    while ((failed = completion_request_add_prompt(r, big, TEXT_MAX_BYTES)) == 0)
        n++;
    assert_int_equal(failed, -EINVAL);
    assert_int_equal(n, 15);
    assert_int_equal(completion_request_add_prompt(r, "small", TEXT), 0);
    library_assert_create_fails(l, FOREVER, -EMSGSIZE, COMPLETION_INVALID_ARGUMENT);
    completion_request_set_prompt(r, "p", TEXT);
    assert_sends(l, "{\"model\":\"m\",\"prompt\":\"p\",\"stop\":[\"s\"],\"user\":\"u\"}");
    free(big);
    free(ids);
    library_stop(l);
}

static void test_text_that_is_not_utf8_is_refused_by_name(void **state)
{
    struct library *l = *state;

    library_start(l, answer, NULL, NULL);
    assert_int_equal(completion_request_set_suffix(l->request, "\xff", TEXT), 0);
    library_assert_create_fails(l, FOREVER, -EIO, COMPLETION_INVALID_ARGUMENT);
    assert_string_equal(completion_error_param(l->error), "suffix");
    assert_int_equal(completion_request_set_suffix(l->request, "fine", TEXT), 0);
    assert_string_equal(library_create(l), "ok");
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_each_setter_sets_its_member),
        library_test(test_stream_options),
        library_test(test_key_of_the_caller),
        library_test(test_request_is_used_again_and_changed),
        library_test(test_request_does_not_grow_by_being_changed),
        library_test(test_request_of_more_than_4_mib_is_refused_here),
        library_test(test_failed_setter_leaves_the_request_as_it_was),
        library_test(test_text_that_is_not_utf8_is_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
