/*
 * Streams made whole: what the sandbox streams is, gathered, what it gives when it is not asked to
 * stream; and what the pieces of odd chunks come to.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completion/v1/completion.pb-c.h"
#include "fixture.h"
#include "json_equal.h"
#include "library.h"
#include "peer.h"

enum { FOREVER = -1 };

static char *as_json(const completion_result *result)
{
    char *json;

    assert_int_equal(completion_result_to_json(result, &json, NULL), 0);
    return json;
}

/* All of a stream, which has to end well. */
static completion_result *gather(struct library *l, unsigned *n_chunks)
{
    completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
    const completion_result *chunk;
    completion_gather *g;
    completion_result *whole;
    int r;

    assert_int_equal(completion_gather_new(&g), 0);
    *n_chunks = 0;
    while ((r = completion_stream_next(stream, &chunk, l->error)) == 1) {
        assert_int_equal(completion_gather_add(g, chunk), 0);
        ++*n_chunks;
    }
    if (r != 0)
        fail_msg("%d: %s", r, completion_error_message(l->error));
    completion_stream_free(stream);
    assert_int_equal(completion_gather_result(g, &whole), 0);
    completion_gather_free(g);
    return whole;
}

/* ---- The sandbox's ---- */

/* Ids and times differ from call to call. */
static char *without_name(const char *json)
{
    json_object *o = json_tokener_parse(json);

    assert_non_null(o);
    json_object_object_del(o, "id");
    json_object_object_del(o, "created");
    char *text = strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
    return text;
}

static void compare(struct library *l)
{
    completion_result *whole = NULL;
    unsigned n_chunks;
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &whole, l->error);

    if (r != 0)
        fail_msg("%d: %s", r, completion_error_message(l->error));
    completion_request_set_include_usage(l->request, 1);
    completion_result *gathered = gather(l, &n_chunks);
    assert_true(n_chunks > 3);
    char *expected = as_json(whole), *json = as_json(gathered);
    char *expected_rest = without_name(expected), *rest = without_name(json);
    json_assert_equal(rest, expected_rest, JSON_NULLS_COUNT);
    free(rest);
    free(expected_rest);
    free(expected);
    free(json);
    completion_result_free(whole);
    completion_result_free(gathered);
}

static completion_request *again(struct library *l)
{
    completion_request_free(l->request);
    assert_int_equal(completion_request_new(&l->request), 0);
    completion_request_set_model(l->request, "gpt-3.5-turbo-instruct", TEXT);
    completion_request_set_seed(l->request, 7);
    completion_request_set_max_tokens(l->request, 40);
    return l->request;
}

static void test_gathered_stream_is_the_whole_answer(void **state)
{
    struct library *l = *state;
    struct sandbox sandbox;
    char config[512];

    sandbox_start(&sandbox, NULL);
    snprintf(config, sizeof config, "[upstream sandbox]\nbase_url = %s/v1\nauth = none\n",
             sandbox.url);
    daemon_configure(&l->scene.daemon, config);
    daemon_start(&l->scene.daemon, NULL);
    assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);

    completion_request_set_prompt(again(l), "Once upon a time", TEXT);
    compare(l);
    completion_request_set_prompt(again(l), "The fox", TEXT);
    completion_request_set_n(l->request, 3);
    completion_request_set_logprobs(l->request, 2);
    completion_request_set_echo(l->request, 1);
    compare(l);
    completion_request_add_prompt(again(l), "One", TEXT);
    completion_request_add_prompt(l->request, "The other", TEXT);
    completion_request_set_n(l->request, 2);
    completion_request_set_stop(l->request, "e", TEXT);
    completion_request_set_logprobs(l->request, 0);
    compare(l);
    library_stop(l);
    sandbox_stop(&sandbox);
}

/* ---- Odd ones ---- */

/* Each is a chunk, as the API writes it. */
static void say_events(struct fake_connection *c)
{
    const char *const *event = c->user;

    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    for (; *event; event++)
        if (!fake_event(c, *event))
            return;
    fake_stream_done(c);
}

static void assert_gathered(struct library *l, const char *const *events, const char *expected)
{
    unsigned n_chunks;

    library_start(l, say_events, events, NULL);
    completion_result *whole = gather(l, &n_chunks);
    char *json = as_json(whole);
    json_assert_equal(json, expected, JSON_NULLS_COUNT);
    free(json);
    completion_result_free(whole);
    library_stop(l);
}

static void test_choices_in_any_order(void **state)
{
    static const char *const events[] = {
        "{\"id\":\"1\",\"model\":\"a\",\"choices\":[{\"index\":2,\"text\":\"c\"},"
        "{\"index\":0,\"text\":\"\"}]}",
        "{\"id\":\"2\",\"model\":\"b\",\"created\":5,\"choices\":[{\"index\":1,\"text\":"
        "\"b\\u0000\","
        "\"finish_reason\":\"length\",\"x\":1}],\"t\":{\"n\":1}}",
        "{\"choices\":[{\"index\":2,\"text\":\"C\",\"finish_reason\":\"because\"},"
        "{\"index\":1,\"text\":\"B\",\"x\":2}],\"t\":{\"n\":2}}",
        "{\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":1}}",
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}",
        NULL,
    };

    assert_gathered(
        *state, events,
        "{\"id\":\"1\",\"model\":\"a\",\"created\":5,\"choices\":["
        "{\"index\":0,\"text\":\"a\",\"finish_reason\":\"stop\",\"logprobs\":null},"
        "{\"index\":1,\"text\":\"b\\u0000B\",\"finish_reason\":\"length\",\"logprobs\":null,\"x\":"
        "2},"
        "{\"index\":2,\"text\":\"cC\",\"finish_reason\":\"because\",\"logprobs\":null}],"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4},\"t\":{\"n\":2}}");
}

static void test_logprobs_are_appended(void **state)
{
    static const char *const events[] = {
        "{\"choices\":[{\"index\":0,\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"a\",\"b\"],"
        "\"token_logprobs\":[null,-1],\"top_logprobs\":[null,{\"b\":-1,\"c\":-2}],"
        "\"text_offset\":[0,1]}}]}",
        "{\"choices\":[{\"index\":0,\"text\":\"\",\"logprobs\":null}]}",
        "{\"choices\":[{\"index\":0,\"text\":\"c\",\"finish_reason\":\"stop\",\"logprobs\":{"
        "\"tokens\":[\"c\"],\"token_logprobs\":[-0.5],\"top_logprobs\":[{}],"
        "\"text_offset\":[2]}}]}",
        NULL,
    };

    assert_gathered(
        *state, events,
        "{\"choices\":[{\"index\":0,\"text\":\"abc\",\"finish_reason\":\"stop\","
        "\"logprobs\":{\"tokens\":[\"a\",\"b\",\"c\"],\"token_logprobs\":[null,-1,-0.5],"
        "\"top_logprobs\":[null,{\"b\":-1,\"c\":-2},{}],\"text_offset\":[0,1,2]}}]}");
}

static void test_nothing_and_what_does_not_fit(void **state)
{
    struct library *l = *state;
    completion_gather *g;
    completion_result *result = NULL;

    assert_int_equal(completion_gather_new(NULL), -EINVAL);
    assert_null(completion_gather_free(NULL));
    assert_int_equal(completion_gather_new(&g), 0);
    assert_int_equal(completion_gather_add(g, NULL), -EINVAL);
    assert_int_equal(completion_gather_result(g, NULL), -EINVAL);
    assert_int_equal(completion_gather_result(NULL, &result), -EINVAL);
    assert_int_equal(completion_gather_result(g, &result), 0);
    assert_int_equal(completion_result_n_choices(result), 0);
    assert_int_equal(completion_gather_add(NULL, result), -EINVAL);

    /* Results may be asked for at any time, and one can be gathered again. */
    static const char *const events[] = {FAKE_PART("0123456789abcdef0123456789abcdef"), NULL};
    library_start(l, say_events, events, NULL);
    unsigned n_chunks;
    for (int i = 0; i < 21; i++) {
        completion_result *part = i == 0 ? gather(l, &n_chunks) : NULL;
        assert_int_equal(completion_gather_add(g, part ? part : result), 0);
        completion_result_free(part);
        completion_result_free(result);
        assert_int_equal(completion_gather_result(g, &result), 0);
        assert_int_equal(completion_choice_text(result, 0).length, 32U << i);
    }
    /* 32 MiB and as much again, and what else there is. */
    assert_int_equal(completion_gather_add(g, result), -EMSGSIZE);
    assert_int_equal(completion_gather_add(g, result), -EMSGSIZE);
    completion_result *untouched = result;
    assert_int_equal(completion_gather_result(g, &result), -EMSGSIZE);
    assert_ptr_equal(result, untouched);
    completion_result_free(result);
    completion_gather_free(g);
    library_stop(l);
}

static void say_many_choices(struct fake_connection *c)
{
    enum { N = 2048, N_MESSAGES = 40 };
    uint32_t stream = peer_greet(c) ? peer_read_call(c) : 0;
    uint8_t message[6 * N];

    if (!stream || !peer_begin(c, stream))
        return;
    for (int m = 0; m < N_MESSAGES; m++) {
        size_t len = 0;
        for (int i = N - 1; i >= 0; i--) {
            unsigned index = (unsigned)(N_MESSAGES - m) * N + (unsigned)i;
            const uint8_t choice[] = {0x12,
                                      4,
                                      0x10,
                                      (uint8_t)(index | 0x80),
                                      (uint8_t)(index >> 7 | 0x80),
                                      (uint8_t)(index >> 14)};
            memcpy(message + len, choice, sizeof choice);
            len += sizeof choice;
        }
        if (!peer_message(c, stream, message, len))
            return;
    }
    if (peer_end(c, stream, "0", NULL, NULL))
        fake_wait_for_close(c);
}

static void test_choices_without_end(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;
    completion_gather *g;
    int r, added = 0, n = 0;

    library_pretend(l, say_many_choices, NULL);
    completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
    assert_int_equal(completion_gather_new(&g), 0);
    while ((r = completion_stream_next(stream, &chunk, l->error)) == 1) {
        assert_int_equal(completion_result_n_choices(chunk), 2048);
        added = completion_gather_add(g, chunk);
        n += added == 0;
    }
    assert_int_equal(r, 0);
    assert_int_equal(added, -EMSGSIZE);
    assert_int_equal(n, 65536 / 2048);
    completion_gather_free(g);
    completion_stream_free(stream);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_gathered_stream_is_the_whole_answer),
        library_test(test_choices_in_any_order),
        library_test(test_logprobs_are_appended),
        library_test(test_nothing_and_what_does_not_fit),
        library_test(test_choices_without_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
