/*
 * The straight way, seen from both ends: what the upstream is asked, what the caller gets, and how
 * many connections that takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scene.h"

/* ---- Upstreams ---- */

static bool answer(struct fake_connection *c)
{
    if (!strstr(c->body, "\"stream\":true"))
        return fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"));
    return fake_stream_begin(c) && fake_event(c, FAKE_PART("a")) && fake_event(c, FAKE_PART("b")) &&
           fake_event(c, FAKE_LAST("c")) && fake_stream_done(c);
}

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && answer(c))
        ;
}

/* Advertises keep-alive, as all of HTTP/1.1 does, and closes after each answer all the same. */
static void serve_once(struct fake_connection *c)
{
    if (fake_read_request(c))
        answer(c);
}

/* Answers when all of the callers have asked. */
static void serve_together(struct fake_connection *c)
{
    const unsigned *n_callers = c->user;

    while (fake_read_request(c) && fake_await(c->fake, FAKE_REQUESTED, *n_callers) && answer(c))
        ;
}

/* ---- Helpers ---- */

static void call_and_expect(struct scene *s, const char *path, const char *text)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    rpc_call(&s->rpc, path, &request, &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

static void assert_asked(struct scene *s, const char *body)
{
    char *asked = fake_last_body(s->fake);
    bool same = !strcmp(asked, body);

    if (!same)
        print_error("asked: %s\n", asked);
    free(asked);
    assert_true(same);
}

/* expected: a header line, or a part of one, as libcurl writes it. */
static void assert_sent_header(struct scene *s, const char *text, bool expected)
{
    char *head = fake_last_head(s->fake);
    bool found = strcasestr(head, text) != NULL;

    if (found != expected)
        print_error("%s", head);
    free(head);
    assert_int_equal(found, expected);
}

/* ---- Requests ---- */

static void test_unary_call_posts_the_request_and_brings_the_completion(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    scene_start(s, serve, NULL, NULL);
    request.has_max_tokens = request.has_temperature = request.has_seed = true;
    request.max_tokens = 0;
    request.temperature = 0.1;
    request.seed = INT64_MAX;
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    assert_int_equal(result.n_messages, 1);
    rpc_assert_text(result.last, id, "cmpl-1");
    rpc_assert_text(result.last, model, "m");
    assert_int_equal(result.last->created, 1700000000);
    assert_int_equal(result.last->choices[0]->finish_reason,
                     COMPLETION__V1__FINISH_REASON__FINISH_REASON_STOP);
    rpc_result_done(&result);

    assert_asked(s, "{\"model\":\"m\",\"prompt\":\"CANARY prompt\",\"max_tokens\":0,"
                    "\"seed\":9223372036854775807,\"temperature\":0.1}");
    assert_sent_header(s, "POST /v1/completions HTTP/1.1\r\n", true);
    assert_sent_header(s, "\r\nAuthorization: Bearer " SCENE_KEY "\r\n", true);
    assert_sent_header(s, "\r\nContent-Type: application/json\r\n", true);
    assert_sent_header(s, "\r\nExpect:", false);
    assert_sent_header(s, "\r\nUser-Agent: completiond", true);
    scene_stop(s);
}

static void test_stream_brings_each_chunk(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    scene_start(s, serve, NULL, NULL);
    rpc_call(&s->rpc, RPC_CREATE_STREAM, &request, &result);
    rpc_assert_ok(&result, "abc");
    assert_int_equal(result.n_messages, 3);
    rpc_result_done(&result);
    assert_asked(s, "{\"model\":\"m\",\"prompt\":\"CANARY prompt\",\"stream\":true}");
    scene_stop(s);
}

static void nul_in_text(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json", "", FAKE_LAST("a\\u0000b")))
        ;
}

static void test_nul_survives_in_prompt_and_text(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "");
    struct rpc_result result;

    scene_start(s, nul_in_text, NULL, NULL);
    request.prompt_string = (ProtobufCBinaryData){.data = (uint8_t *)"x\0y", .len = 3};
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, NULL);
    assert_int_equal(buffer_length(&result.text), 3);
    assert_memory_equal(buffer_bytes(&result.text), "a\0b", 3);
    rpc_result_done(&result);
    assert_asked(s, "{\"model\":\"m\",\"prompt\":\"x\\u0000y\"}");
    scene_stop(s);
}

static void test_prompt_of_megabytes_arrives_whole(void **state)
{
    enum { LEN = 4000000 };
    struct scene *s = *state;
    char *prompt = malloc(LEN + 1);
    rpc_request request = rpc_request_new("m", NULL);
    struct rpc_result result;

    assert_non_null(prompt);
    memset(prompt, 'x', LEN);
    prompt[LEN] = '\0';
    request.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    request.prompt_string = rpc_text(prompt);
    scene_start(s, serve, NULL, NULL);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    char *asked = fake_last_body(s->fake);
    assert_int_equal(strlen(asked), LEN + strlen("{\"model\":\"m\",\"prompt\":\"\"}"));
    free(asked);
    free(prompt);
    scene_stop(s);
}

/* ---- Settings of the upstream ---- */

static void test_upstream_without_authentication_gets_no_key(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, "auth = none\n");
    call_and_expect(s, RPC_CREATE, "whole");
    assert_sent_header(s, "Authorization:", false);
    assert_sent_header(s, SCENE_KEY, false);
    scene_stop(s);
}

static void test_azure_gets_its_header_and_query(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL,
                "auth = api-key\nquery = api-version=2024-10-21\nheader = X-Team: search\n");
    call_and_expect(s, RPC_CREATE, "whole");
    assert_sent_header(s, "POST /v1/completions?api-version=2024-10-21 HTTP/1.1", true);
    assert_sent_header(s, "\r\napi-key: " SCENE_KEY "\r\n", true);
    assert_sent_header(s, "\r\nX-Team: search\r\n", true);
    assert_sent_header(s, "Authorization:", false);
    scene_stop(s);
}

static void test_dropped_parameters_are_not_sent(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, serve, NULL, "drop_parameters = best_of user\n");
    request.has_best_of = request.has_user = request.has_echo = true;
    request.best_of = 2;
    request.user = rpc_text("u");
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    assert_asked(s, "{\"model\":\"m\",\"prompt\":\"p\",\"echo\":false}");
    scene_stop(s);
}

static void test_model_chooses_the_upstream(void **state)
{
    struct scene *s = *state;
    char settings[512];
    struct fake *other = fake_new(NULL, serve, NULL);
    rpc_request request = rpc_request_new("llama-7b", "p");
    struct rpc_result result;

    snprintf(settings, sizeof settings,
             "models = gpt-*\n[upstream other]\nbase_url = %s\nmodels = llama-* *-base\n",
             fake_base_url(other));
    scene_start(s, serve, NULL, settings);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    assert_int_equal(fake_count(other, FAKE_REQUESTED), 1);
    /* The key of one upstream is not for the other. */
    char *head = fake_last_head(other);
    assert_null(strstr(head, SCENE_KEY));
    free(head);

    request.model = rpc_text("gpt-3.5-turbo-instruct");
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);

    request.model = rpc_text("davinci");
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_NOT_FOUND, NULL);
    rpc_assert_said(&result, "no upstream in the daemon's configuration serves this model");
    rpc_result_done(&result);
    scene_stop(s);
    fake_free(other);
}

static void test_upstream_on_a_unix_socket(void **state)
{
    struct scene *s = *state;
    struct fake *local = fake_new(directory_path(&s->daemon.directory, "up.sock"), serve, NULL);
    char settings[256];

    snprintf(settings, sizeof settings, "base_url = %s\n", fake_base_url(local));
    scene_start(s, serve, NULL, settings);
    call_and_expect(s, RPC_CREATE_STREAM, "abc");
    call_and_expect(s, RPC_CREATE, "whole");
    assert_int_equal(fake_count(local, FAKE_ACCEPTED), 1);
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    scene_stop(s);
    fake_free(local);
}

static void test_environment_is_the_configuration_without_a_file(void **state)
{
    struct scene *s = *state;
    char url[192];
    struct daemon_options options = {
        .environment = (const char *const[]){url, "OPENAI_API_KEY=" SCENE_KEY,
                                             "http_proxy=http://127.0.0.1:9", NULL},
    };

    scene_prepare(s, serve, NULL, NULL);
    daemon_configure(&s->daemon, "[daemon]\nlog_level = debug\n");
    snprintf(url, sizeof url, "OPENAI_BASE_URL=%s", fake_base_url(s->fake));
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    call_and_expect(s, RPC_CREATE, "whole");
    assert_sent_header(s, "\r\nAuthorization: Bearer " SCENE_KEY "\r\n", true);
    scene_stop(s);
}

/* ---- Connections ---- */

static void test_calls_one_after_the_other_use_one_connection(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        call_and_expect(s, RPC_CREATE, "whole");
        call_and_expect(s, RPC_CREATE_STREAM, "abc");
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 40);
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 1);
    scene_stop(s);
}

static void test_calls_at_once_share_a_warm_pool(void **state)
{
    enum { N = 16, ROUNDS = 3 };
    struct scene *s = *state;
    unsigned n_callers = N;
    rpc_request request = rpc_request_new("m", "p");
    struct grpc_client_call *calls[N];
    struct rpc_result result;

    scene_start(s, serve_together, &n_callers, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            calls[i] = rpc_start(&s->rpc, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &request, -1);
        for (int i = 0; i < N; i++) {
            rpc_finish(&s->rpc, calls[i], &result);
            rpc_assert_ok(&result, i % 2 ? "whole" : "abc");
            rpc_result_done(&result);
        }
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), N * ROUNDS);
    /* All were at work together once; none had to be opened after that. */
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), N);
    scene_stop(s);
}

static void test_server_that_closes_after_each_answer_is_asked_again(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve_once, NULL, NULL);
    for (int i = 0; i < 10; i++)
        call_and_expect(s, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM, i % 2 ? "whole" : "abc");
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 10);
    scene_stop(s);
}

static void test_many_callers_are_served_and_descriptors_return(void **state)
{
    enum { N = 50 };
    struct scene *s = *state;
    struct rpc callers[N];
    struct grpc_client_call *calls[N];
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, serve_once, NULL, DAEMON_ONE_WORKER);
    call_and_expect(s, RPC_CREATE, "whole");
    int before = daemon_n_descriptors(&s->daemon);
    for (int i = 0; i < N; i++) {
        rpc_connect(&callers[i], s->daemon.socket);
        calls[i] = rpc_start(&callers[i], RPC_CREATE_STREAM, &request, -1);
    }
    for (int i = 0; i < N; i++) {
        rpc_finish(&callers[i], calls[i], &result);
        rpc_assert_ok(&result, "abc");
        rpc_result_done(&result);
        rpc_close(&callers[i]);
    }
    /* Seen by the daemon after the callers' closing. */
    scene_assert_serving(s);
    /* libcurl notices closed connections at its next request. */
    call_and_expect(s, RPC_CREATE, "whole");
    if (before >= 0)
        assert_in_range(daemon_n_descriptors(&s->daemon), 0, (unsigned)before + 1);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_unary_call_posts_the_request_and_brings_the_completion),
        scene_test(test_stream_brings_each_chunk),
        scene_test(test_nul_survives_in_prompt_and_text),
        scene_test(test_prompt_of_megabytes_arrives_whole),
        scene_test(test_upstream_without_authentication_gets_no_key),
        scene_test(test_azure_gets_its_header_and_query),
        scene_test(test_dropped_parameters_are_not_sent),
        scene_test(test_model_chooses_the_upstream),
        scene_test(test_upstream_on_a_unix_socket),
        scene_test(test_environment_is_the_configuration_without_a_file),
        scene_test(test_calls_one_after_the_other_use_one_connection),
        scene_test(test_calls_at_once_share_a_warm_pool),
        scene_test(test_server_that_closes_after_each_answer_is_asked_again),
        scene_test(test_many_callers_are_served_and_descriptors_return),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
