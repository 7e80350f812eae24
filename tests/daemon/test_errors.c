/*
 * Upstreams that say no, say nonsense, or are not there: the status, what the API said, and a
 * sentence that says what to do.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scene.h"

/* A response of the test's own, sent as it is; the connection closes behind it. */
static void say(struct fake_connection *c)
{
    const char *response = c->user;

    if (fake_read_request(c))
        fake_write(c, response, strlen(response));
}

struct answer {
    int status;
    const char *type, *headers, *body;
};

static void serve(struct fake_connection *c)
{
    const struct answer *a = c->user;

    while (fake_read_request(c) && fake_answer(c, a->status, a->type, a->headers, a->body))
        ;
}

static void call(struct scene *s, const char *path, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
    assert_null(strstr(ret->message, SCENE_SECRET));
}

/* ---- What upstreams say ---- */

struct sample {
    const char *file; /* in samples/ */
    int http_status;
    enum grpc_status status;
    const char *reason;
    const char *type, *param, *code; /* NULL: not set */
    const char *message;             /* a part of it */
};

static const struct sample samples[] = {
    {"errors/openai_400.json", 400, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR",
     "invalid_request_error", "max_tokens", NULL, "maximum context length is 4097"},
    {"errors/openai_401.json", 401, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", "invalid_request_error",
     NULL, "invalid_api_key", "administrator"},
    {"errors/openai_404.json", 404, GRPC_NOT_FOUND, "UPSTREAM_ERROR", "invalid_request_error", NULL,
     "model_not_found", "The model `foo` does not exist"},
    {"errors/openai_429_quota.json", 429, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA",
     "insufficient_quota", NULL, "insufficient_quota", "exceeded your current quota"},
    {"errors/vllm_400_nested.json", 400, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", "BadRequestError",
     "stream_options", "400", "Stream options"},
    {"errors/llamacpp_400_best_of.json", 400, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR",
     "invalid_request_error", NULL, "400", "Unsupported param: best_of"},
    {"errors/llamacpp_503_loading.json", 503, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED",
     "unavailable_error", NULL, "503", "Loading model"},
    {"errors/ollama_404.json", 404, GRPC_NOT_FOUND, "UPSTREAM_ERROR", "not_found_error", NULL, NULL,
     "model 'foo' not found"},
    {"errors/fastapi_404.json", 404, GRPC_NOT_FOUND, "WRONG_BASE_URL", NULL, NULL, NULL,
     "base_url"},
    {"errors/nginx_504.html", 504, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", NULL, NULL, NULL,
     "504 Gateway Time-out"},
    {"azure/401.json", 401, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", NULL, NULL, "401",
     "administrator"},
    {"azure/401_apim_flat.json", 401, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", NULL, NULL, "401",
     "administrator"},
    {"azure/404_deployment.json", 404, GRPC_NOT_FOUND, "UPSTREAM_ERROR", NULL, NULL,
     "DeploymentNotFound", "deployment"},
    {"azure/400_content_filter.json", 400, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", NULL, "prompt",
     "content_filter", "content management policy"},
};

static void expect_sample(const struct sample *sample, const struct rpc_result *result)
{
    rpc_assert_failed(result, sample->status, sample->reason);
    rpc_assert_said(result, sample->message);
    rpc_assert_said(result, "upstream \"fake\"");
    rpc_assert_text(result->detail, type, sample->type);
    rpc_assert_text(result->detail, param, sample->param);
    rpc_assert_text(result->detail, code, sample->code);
    rpc_assert_text(result->detail, upstream, "fake");
    rpc_assert_text(result->detail, upstream_request_id, "req-9");
    assert_int_equal(result->detail->http_status, sample->http_status);
    assert_int_equal(result->detail->attempts, 1);
    assert_int_equal(result->detail->chunks_sent, 0);
    assert_int_equal(result->n_messages, 0);
}

static void test_each_error_body_of_the_samples(void **state)
{
    struct scene *s = *state;
    struct answer answer = {.headers = "x-request-id: req-9\r\n"};
    char path[256];

    scene_start(s, serve, &answer, NULL);
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        const struct sample *sample = &samples[i];
        struct rpc_result result;

        snprintf(path, sizeof path, SAMPLES "/%s", sample->file);
        char *body = directory_read(path);
        answer.status = sample->http_status;
        answer.type = strstr(path, ".html") ? "text/html" : "application/json";
        answer.body = body;
        print_message("%s\n", sample->file);
        for (int stream = 0; stream < 2; stream++) {
            call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
            expect_sample(sample, &result);
            rpc_result_done(&result);
        }
        free(body);
    }
    /* An error is an answer like any other: the connection stays. */
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 1);
    scene_stop(s);
}

static void test_rate_limit_says_when_to_come_back(void **state)
{
    struct scene *s = *state;
    char *response = directory_read(SAMPLES "/errors/openai_429_rate.http");
    struct rpc_result result;

    scene_start(s, say, response, NULL);
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT");
    rpc_assert_text(result.detail, code, "rate_limit_exceeded");
    rpc_assert_text(result.detail, upstream_request_id, "req_0123456789");
    assert_int_equal(result.detail->retry_after_ms, 420);
    assert_int_equal(result.detail->retryable, 1);
    rpc_result_done(&result);
    free(response);
    scene_stop(s);
}

static void test_retry_after_in_any_form(void **state)
{
    static const struct {
        const char *header;
        bool said;
        int64_t ms;
    } cases[] = {
        {"Retry-After: 7\r\n", true, 7000},
        {"Retry-After: 0\r\n", true, 0},
        {"Retry-After: -3\r\n", false, 0},
        {"Retry-After: 1000000000000\r\n", false, 0},
        {"Retry-After: soon\r\n", false, 0},
        {"", false, 0},
        {"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", true, 0},
        {"retry-after-ms: 15\r\nRetry-After: 7\r\n", true, 15},
    };
    struct scene *s = *state;
    struct answer answer = {503, "application/json", "", "{\"error\":{\"message\":\"busy\"}}"};
    struct rpc_result result;

    scene_start(s, serve, &answer, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer.headers = cases[i].header;
        call(s, RPC_CREATE, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
        print_message("%s\n", cases[i].header);
        assert_int_equal(result.detail->has_retry_after_ms, cases[i].said);
        if (cases[i].said)
            assert_int_equal(result.detail->retry_after_ms, cases[i].ms);
        rpc_result_done(&result);
    }
    scene_stop(s);
}

static void test_each_http_status_has_its_code(void **state)
{
    static const struct {
        int http_status;
        enum grpc_status status;
    } cases[] = {
        {301, GRPC_FAILED_PRECONDITION},
        {307, GRPC_FAILED_PRECONDITION},
        {400, GRPC_INVALID_ARGUMENT},
        {401, GRPC_UNAUTHENTICATED},
        {402, GRPC_FAILED_PRECONDITION},
        {403, GRPC_PERMISSION_DENIED},
        {404, GRPC_NOT_FOUND},
        {408, GRPC_UNAVAILABLE},
        {409, GRPC_ABORTED},
        {413, GRPC_INVALID_ARGUMENT},
        {422, GRPC_INVALID_ARGUMENT},
        {429, GRPC_RESOURCE_EXHAUSTED},
        {500, GRPC_INTERNAL},
        {501, GRPC_UNIMPLEMENTED},
        {502, GRPC_UNAVAILABLE},
        {503, GRPC_UNAVAILABLE},
        {504, GRPC_UNAVAILABLE},
        {529, GRPC_UNAVAILABLE},
    };
    struct scene *s = *state;
    struct answer answer = {.type = "application/json",
                            .headers = "Location: http://127.0.0.1:9/elsewhere\r\n",
                            .body = "{\"error\":{\"message\":\"said so\"}}"};
    struct rpc_result result;

    scene_start(s, serve, &answer, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer.status = cases[i].http_status;
        call(s, RPC_CREATE_STREAM, &result);
        rpc_assert_failed(&result, cases[i].status, NULL);
        rpc_assert_said(&result, "said so");
        assert_int_equal(result.detail->http_status, cases[i].http_status);
        rpc_result_done(&result);
    }
    /* One request each: nothing is tried again, redirects are not followed. */
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), sizeof cases / sizeof *cases);
    scene_stop(s);
}

static void test_key_in_an_error_is_not_passed_on(void **state)
{
    struct scene *s = *state;
    struct answer answer = {401, "application/json", "",
                            "{\"error\":{\"message\":\"Incorrect API key provided: " SCENE_KEY
                            ". And sk-CANARY-0123*.\",\"code\":\"" SCENE_KEY "\"}}"};
    struct rpc_result result;

    scene_start(s, serve, &answer, NULL);
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH");
    rpc_assert_said(&result, "Incorrect API key provided: [redacted]");
    assert_null(memmem(result.detail->message.data, result.detail->message.len, "CANARY", 6));
    assert_null(memmem(result.detail->code.data, result.detail->code.len, "CANARY", 6));
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_error_body_of_megabytes_is_cut(void **state)
{
    enum { LEN = 8 << 20 };
    struct scene *s = *state;
    char *body = malloc(LEN + 1);
    struct rpc_result result;

    assert_non_null(body);
    memset(body, 'x', LEN);
    body[LEN] = '\0';
    struct answer answer = {400, "text/plain", "", body};
    scene_start(s, serve, &answer, NULL);
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR");
    assert_in_range(strlen(result.message), 100, 1024);
    rpc_result_done(&result);
    scene_assert_serving(s);
    scene_stop(s);
    s->fake = fake_free(s->fake);
    free(body);
}

/* ---- Answers that are none ---- */

static void expect_nonsense(struct scene *s, const char *const *responses, size_t n,
                            const char *reason, const char *message)
{
    struct rpc_result result;

    for (size_t i = 0; i < n; i++) {
        print_message("%.60s\n", responses[i]);
        scene_start(s, say, responses[i], NULL);
        for (int stream = 0; stream < 2; stream++) {
            call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
            rpc_assert_failed(&result, GRPC_INTERNAL, reason);
            rpc_assert_said(&result, message);
            assert_int_equal(result.n_messages, 0);
            rpc_result_done(&result);
        }
        scene_assert_serving(s);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

static void test_what_is_no_json(void **state)
{
    static const char *const responses[] = {
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><title>Log in</title></html>",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\"text\"",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
        "{\"choices\":[",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"choices\":{}}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n"
        "\x1f\x8b",
    };

    expect_nonsense(*state, responses, sizeof responses / sizeof *responses,
                    "BAD_UPSTREAM_RESPONSE", "base_url");
}

static void test_json_without_choices_points_at_base_url(void **state)
{
    static const char *const responses[] = {
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
        "{\"content\":\"CANARY text\",\"stop\":true}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
    };

    expect_nonsense(*state, responses, sizeof responses / sizeof *responses, "WRONG_BASE_URL",
                    "/v1");
}

static void test_stream_without_choices_points_at_base_url(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, say,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                "data: {\"content\":\"CANARY text\",\"stop\":true}\n\n",
                NULL);
    call(s, RPC_CREATE_STREAM, &result);
    rpc_assert_failed(&result, GRPC_INTERNAL, "WRONG_BASE_URL");
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_error_with_status_200_is_an_error(void **state)
{
    struct scene *s = *state;
    struct answer answer = {200, "application/json", "",
                            "{\"error\":{\"message\":\"Provider is down\",\"code\":502}}"};
    struct rpc_result result;

    scene_start(s, serve, &answer, NULL);
    for (int stream = 0; stream < 2; stream++) {
        call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_ERROR");
        rpc_assert_said(&result, "Provider is down");
        rpc_assert_text(result.detail, code, "502");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

static void test_what_is_no_http(void **state)
{
    static const char *const responses[] = {
        "SSH-2.0-OpenSSH_9.2\r\n",
        "garbage\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n{}",
        "\x16\x03\x01\x02",
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"id\":",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    };
    struct scene *s = *state;
    struct rpc_result result;

    for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
        print_message("%.60s\n", responses[i]);
        scene_start(s, say, responses[i], NULL);
        for (int stream = 0; stream < 2; stream++) {
            call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
            rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
            assert_int_equal(result.detail->maybe_executed, 1);
            assert_int_equal(result.n_messages, 0);
            rpc_result_done(&result);
        }
        scene_assert_serving(s);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

/* ---- Nobody there ---- */

/* A port that was free, and is again. */
static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static void test_nobody_listening(void **state)
{
    struct scene *s = *state;
    char settings[128];
    struct rpc_result result;

    snprintf(settings, sizeof settings, "base_url = http://127.0.0.1:%u/v1\n", free_port());
    scene_start(s, say, "", settings);
    for (int stream = 0; stream < 2; stream++) {
        call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
        rpc_assert_said(&result, "check base_url, and that the server runs");
        assert_int_equal(result.detail->maybe_executed, 0);
        assert_int_equal(result.detail->retryable, 1);
        assert_int_equal(result.detail->phase, COMPLETION__V1__PHASE__PHASE_CONNECT);
        rpc_result_done(&result);
    }
    scene_stop(s);
}

static void test_upstream_socket_that_is_not_there(void **state)
{
    struct scene *s = *state;
    char settings[128];
    struct rpc_result result;

    snprintf(settings, sizeof settings, "base_url = unix:%s:/v1\n",
             directory_path(&s->daemon.directory, "none.sock"));
    scene_start(s, say, "", settings);
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
    assert_int_equal(result.detail->maybe_executed, 0);
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_server_that_speaks_no_tls(void **state)
{
    struct scene *s = *state;
    struct fake *plain = fake_new(NULL, say, "HTTP/1.1 400 Bad Request\r\n\r\n");
    char settings[128];
    struct rpc_result result;

    snprintf(settings, sizeof settings, "base_url = https%s\n", fake_base_url(plain) + 4);
    scene_start(s, say, "", settings);
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
    assert_int_equal(result.detail->maybe_executed, 0);
    rpc_result_done(&result);
    scene_stop(s);
    fake_free(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_each_error_body_of_the_samples),
        scene_test(test_rate_limit_says_when_to_come_back),
        scene_test(test_retry_after_in_any_form),
        scene_test(test_each_http_status_has_its_code),
        scene_test(test_key_in_an_error_is_not_passed_on),
        scene_test(test_error_body_of_megabytes_is_cut),
        scene_test(test_what_is_no_json),
        scene_test(test_json_without_choices_points_at_base_url),
        scene_test(test_stream_without_choices_points_at_base_url),
        scene_test(test_error_with_status_200_is_an_error),
        scene_test(test_what_is_no_http),
        scene_test(test_nobody_listening),
        scene_test(test_upstream_socket_that_is_not_there),
        scene_test(test_server_that_speaks_no_tls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
