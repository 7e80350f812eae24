/*
 * libcompletion while memory runs out, its own and that of the libraries below it: a call fails and
 * says so, or works; a request stays as it was; no answer looks whole that is not; nothing leaks.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/failing_memory.h"
#include "library.h"

static const char whole[] =
    "{\"id\":\"cmpl-1\",\"model\":\"m\",\"x\":1,\"choices\":[{\"index\":0,\"text\":\"whole\","
    "\"finish_reason\":\"stop\",\"y\":[2],\"logprobs\":{\"tokens\":[\"a\"],"
    "\"token_logprobs\":[-1],\"top_logprobs\":[{\"a\":-1}],\"text_offset\":[0],\"z\":3}}],"
    "\"usage\":{\"prompt_tokens\":1,\"u\":4,\"completion_tokens_details\":{\"c\":5},"
    "\"prompt_tokens_details\":{\"p\":6}}}";

static void answer_each(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool ok =
            strstr(c->body, "\"stream\":true")
                ? fake_stream_begin(c) && fake_event(c, FAKE_PART("one, ")) &&
                      fake_event(c, FAKE_PART("two, ")) && fake_event(c, FAKE_LAST("three")) &&
                      fake_stream_done(c)
            : strstr(c->body, "\"fail\"")
                ? fake_answer(c, 400, "application/json", "",
                              "{\"error\":{\"message\":\"no\",\"type\":\"t\",\"code\":\"c\"}}")
                : fake_answer(c, 200, "application/json", "", whole);
        if (!ok)
            break;
    }
}

/* ---- Requests ---- */

static int fill(completion_request *r)
{
    static const int32_t ids[] = {1, 2, 3};
    int e = completion_request_set_model(r, "a-model", TEXT);

    e = e ? e : completion_request_add_prompt(r, "one", TEXT);
    e = e ? e : completion_request_add_prompt(r, "two", TEXT);
    e = e ? e : completion_request_add_prompt_tokens(r, ids, 3);
    e = e ? e : completion_request_set_prompt_tokens(r, ids, 3);
    e = e ? e : completion_request_set_prompt(r, "a prompt", TEXT);
    e = e ? e : completion_request_add_logit_bias(r, 5, 1);
    e = e ? e : completion_request_add_stop(r, "x", TEXT);
    e = e ? e : completion_request_set_stop(r, "y", TEXT);
    e = e ? e : completion_request_set_suffix(r, "suffix", TEXT);
    e = e ? e : completion_request_set_user(r, "user", TEXT);
    e = e ? e : completion_request_set_extra_body(r, "{\"a\":1}", TEXT);
    e = e ? e : completion_request_set_api_key(r, "a-key", TEXT);
    return e ? e : completion_request_set_temperature(r, 0.5);
}

static void test_setters_fail_with_enomem(void **state)
{
    (void)state;

    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_request *r = NULL;

        failing_memory_begin(&m);
        int e = completion_request_new(&r);
        e = e ? e : fill(r);
        failing_memory_end(&m);
        assert_int_equal(e, m.failed ? -ENOMEM : 0);
        /* It can still be filled, as if nothing had been. */
        if (r)
            assert_int_equal(fill(r), 0);
        completion_request_free(r);
    }
}

/* ---- Calls ---- */

static void assert_says_something(struct library *l)
{
    assert_string_not_equal(completion_error_message(l->error), "");
    assert_int_not_equal(completion_error_status(l->error), COMPLETION_OK);
}

static int check(struct library *l)
{
    completion_client *client = NULL;
    int r = completion_client_new(l->scene.daemon.socket, &client);

    if (r == 0)
        r = completion_client_check(client, HARNESS_TIMEOUT_MS, l->error);
    completion_client_free(client);
    return r;
}

static void test_check(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_error *error = NULL;

        failing_memory_begin(&m);
        int r = check(l);
        error = completion_error_new();
        failing_memory_end(&m);
        if (r < 0)
            assert_true(m.failed);
        else
            assert_int_equal(r, 1);
        if (!m.failed)
            assert_non_null(error);
        completion_error_free(error);
    }
    library_stop(l);
}

/* A call with a client of its own, and its result as JSON. */
static int create(struct library *l, completion_client **client, completion_result **result,
                  char **json)
{
    int r = completion_client_new(l->scene.daemon.socket, client);

    if (r == 0)
        r = completion_create(*client, l->request, HARNESS_TIMEOUT_MS, result, l->error);
    return r < 0 ? r : completion_result_to_json(*result, json, NULL);
}

static void test_whole_answer(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    completion_client *first = NULL;
    completion_result *expected = NULL;
    char *expected_json = NULL;
    assert_int_equal(create(l, &first, &expected, &expected_json), 0);
    assert_non_null(strstr(expected_json, "\"text\":\"whole\""));
    completion_result_free(expected);
    completion_client_free(first);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_client *client = NULL;
        completion_result *result = NULL;
        char *json = NULL;

        failing_memory_begin(&m);
        int r = create(l, &client, &result, &json);
        failing_memory_end(&m);
        if (r < 0) {
            assert_true(m.failed);
            assert_null(json);
        }
        if (result) {
            library_assert_text(completion_choice_text(result, 0), "whole");
            assert_true(r == 0 || r == -ENOMEM);
        } else if (client) {
            assert_true(r < 0);
            assert_says_something(l);
        }
        if (r == 0)
            assert_string_equal(json, expected_json);
        free(json);
        completion_result_free(result);
        /* The client is as good as before, though maybe without its connection. */
        if (client)
            assert_int_equal(completion_client_check(client, HARNESS_TIMEOUT_MS, l->error), 1);
        completion_client_free(client);
    }
    free(expected_json);
    library_stop(l);
}

/* Reads all of a stream into text. */
static int stream(struct library *l, completion_client **client, char text[static 64])
{
    completion_stream *s = NULL;
    const completion_result *chunk;
    int r = completion_client_new(l->scene.daemon.socket, client);

    if (r == 0)
        r = completion_stream_open(*client, l->request, HARNESS_TIMEOUT_MS, &s, l->error);
    if (r < 0)
        return r;
    while ((r = completion_stream_next(s, &chunk, l->error)) == 1) {
        completion_text part = completion_choice_text(chunk, 0);
        strncat(text, part.data, part.length);
    }
    if (r < 0) /* It stays so. */
        assert_true(completion_stream_next(s, &chunk, NULL) < 0);
    completion_stream_free(s);
    return r;
}

static void test_stream(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_client *client = NULL;
        char text[64] = "";

        failing_memory_begin(&m);
        int r = stream(l, &client, text);
        failing_memory_end(&m);
        if (r == 0) {
            assert_string_equal(text, "one, two, three");
        } else {
            assert_true(m.failed);
            assert_memory_equal("one, two, three", text, strlen(text));
            if (client)
                assert_says_something(l);
        }
        completion_client_free(client);
    }
    library_stop(l);
}

/* Of an error from the daemon the status is kept, if not all that it says. */
static void test_refusal(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    assert_int_equal(completion_request_set_prompt(l->request, "fail", TEXT), 0);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_client *client = NULL;
        completion_result *result = NULL;
        char *json = NULL;

        failing_memory_begin(&m);
        int r = create(l, &client, &result, &json);
        failing_memory_end(&m);
        assert_true(r < 0);
        assert_null(result);
        if (!m.failed) {
            assert_int_equal(r, -EIO);
            assert_int_equal(completion_error_status(l->error), COMPLETION_INVALID_ARGUMENT);
            assert_string_equal(completion_error_code(l->error), "c");
            assert_int_equal(completion_error_http_status(l->error), 400);
        } else if (client) {
            assert_says_something(l);
        }
        completion_client_free(client);
    }
    library_stop(l);
}

/* ---- In a loop, and gathered ---- */

/* Two calls with a client of their own; what their answers have, in text. */
static int loop(struct library *l, completion_client **client, char text[static 64])
{
    completion_call *calls[2] = {NULL, NULL};
    completion_gather *gather = NULL;
    completion_result *gathered = NULL;
    const completion_result *chunk;
    int r = completion_client_new(l->scene.daemon.socket, client);

    if (r == 0)
        r = completion_gather_new(&gather);
    if (r == 0)
        r = completion_call_start(*client, l->request, HARNESS_TIMEOUT_MS, &calls[0], l->error);
    if (r == 0)
        r = completion_call_start_stream(*client, l->request, HARNESS_TIMEOUT_MS, &calls[1],
                                         l->error);
    for (int i = 0; r == 0 && i < 2; i++) {
        int fd = completion_client_get_fd(*client);
        if (fd < 0)
            r = fd;
        while (r == 0 && (r = completion_call_next(calls[i], &chunk, l->error)) != 0) {
            struct pollfd p = {fd, POLLIN, 0};
            if (r == 1)
                r = completion_gather_add(gather, chunk);
            else if (r != -EAGAIN)
                break;
            else if (poll(&p, 1, completion_client_get_timeout(*client)) >= 0)
                r = completion_client_process(*client) < 0 ? -1 : 0;
        }
    }
    if (r == 0)
        r = completion_gather_result(gather, &gathered);
    if (gathered) {
        completion_text part = completion_choice_text(gathered, 0);
        strncat(text, part.data, part.length);
    }
    completion_result_free(gathered);
    completion_gather_free(gather);
    completion_call_free(calls[0]);
    completion_call_free(calls[1]);
    return r;
}

static void test_loop(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        completion_client *client = NULL;
        char text[64] = "";

        failing_memory_begin(&m);
        int r = loop(l, &client, text);
        failing_memory_end(&m);
        if (r == 0)
            assert_string_equal(text, "wholeone, two, three");
        else
            assert_true(m.failed);
        completion_client_free(client);
    }
    library_stop(l);
}

enum { N_CHUNKS = 300, N_WARM = 20 };

static const char chunk_with_logprobs[] =
    "{\"id\":\"cmpl-1\",\"model\":\"m\",\"x\":1,\"choices\":[{\"index\":0,\"text\":\"part\","
    "\"finish_reason\":null,\"logprobs\":{\"tokens\":[\"a\",\"b\"],"
    "\"token_logprobs\":[-1,-2],\"top_logprobs\":[{\"a\":-1,\"c\":-3},{\"b\":-2}],"
    "\"text_offset\":[0,1]}}]}";

static void answer_at_length(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool ok = fake_stream_begin(c);
        for (int i = 0; ok && i < N_CHUNKS; i++)
            ok = fake_event(c, chunk_with_logprobs);
        if (!ok || !fake_event(c, FAKE_LAST("")) || !fake_stream_done(c))
            return;
    }
}

/* Once a stream runs, its chunks need no more memory; buffers may still grow a few times, if more
 * of them come at once than before. */
static void test_running_stream_hardly_allocates(void **state)
{
    static const struct failing_memory a_few = {.fail_at = 15, .for_ever = true};
    struct library *l = *state;
    const completion_result *chunk;
    int r = 0, n = 0;

    library_start(l, answer_at_length, NULL, NULL);
    completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
    while (n < N_WARM)
        n += completion_stream_next(stream, &chunk, l->error);
    struct failing_memory m = a_few;
    failing_memory_begin(&m);
    while (n < N_CHUNKS && (r = completion_stream_next(stream, &chunk, l->error)) == 1)
        n++;
    assert_false(failing_memory_end(&m));
    assert_int_equal(r, 1);
    completion_stream_free(stream);

    /* Of one in a loop the same holds. */
    completion_call *call = library_start_call(l, 1, HARNESS_TIMEOUT_MS);
    for (n = 0; n < N_WARM;) {
        r = completion_call_next(call, &chunk, l->error);
        n += r == 1;
        if (r == -EAGAIN)
            library_turn(l);
    }
    failing_memory_begin(&m);
    while (n < N_CHUNKS &&
           ((r = completion_call_next(call, &chunk, l->error)) == 1 || r == -EAGAIN)) {
        struct pollfd p = {completion_client_get_fd(l->client), POLLIN, 0};
        n += r == 1;
        if (r == -EAGAIN && poll(&p, 1, completion_client_get_timeout(l->client)) >= 0)
            completion_client_process(l->client);
    }
    assert_false(failing_memory_end(&m));
    assert_int_equal(r, 1);
    completion_call_free(call);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_setters_fail_with_enomem),
        library_test(test_check),
        library_test(test_whole_answer),
        library_test(test_stream),
        library_test(test_refusal),
        library_test(test_loop),
        library_test(test_running_stream_hardly_allocates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
