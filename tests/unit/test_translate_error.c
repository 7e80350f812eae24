/* Error bodies in the shapes of the field, and what becomes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "translate.h"
#include "utf8.h"

static struct translate_error error_of(int http_status, const void *body, size_t len,
                                       const char *secret)
{
    uint8_t *copy = malloc(len ? len : 1);
    struct translate_error e;

    assert_non_null(copy);
    memcpy(copy, body, len);
    memset(&e, 0xAA, sizeof e);
    translate_error(http_status, copy, len, secret, NULL, 0, &e);
    memset(copy, 0xAA, len);
    free(copy);
    assert_non_null(e.reason);
    return e;
}

static void check_error(int http_status, const char *body, struct translate_error expected)
{
    struct translate_error e = error_of(http_status, body, strlen(body), NULL);

    if (strcmp(e.reason, expected.reason) != 0 || e.status != expected.status)
        print_error("%d %s\n", http_status, body);
    assert_int_equal(e.status, expected.status);
    assert_string_equal(e.reason, expected.reason);
    assert_int_equal(e.retryable, expected.retryable);
    assert_string_equal(e.type, expected.type);
    assert_string_equal(e.param, expected.param);
    assert_string_equal(e.code, expected.code);
    assert_string_equal(e.message, expected.message);
}

#define ERROR(grpc_status, reason_text, ...)                                                       \
    ((struct translate_error){.status = GRPC_##grpc_status, .reason = reason_text, __VA_ARGS__})

/* A file of the samples; of one that holds a whole response, the body. */
static void check_file(int http_status, const char *name, struct translate_error expected)
{
    char path[512], text[4096];

    snprintf(path, sizeof path, SAMPLES "/%s", name);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = '\0';
    fclose(f);
    const char *body = strstr(text, "\r\n\r\n");
    if (!body)
        body = strncmp(text, "HTTP/", 5) == 0 ? strstr(text, "\n\n") : NULL;
    check_error(http_status, body ? body : text, expected);
}

static void test_sample_files(void **state)
{
    (void)state;
    check_file(400, "errors/openai_400.json",
               ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "invalid_request_error",
                     .param = "max_tokens",
                     .message = "This model's maximum context length is 4097 tokens, however you "
                                "requested 5000 tokens."));
    check_file(401, "errors/openai_401.json",
               ERROR(UNAUTHENTICATED, "UPSTREAM_AUTH", .type = "invalid_request_error",
                     .code = "invalid_api_key", .message = "Incorrect API key provided: sk-xxx."));
    check_file(404, "errors/openai_404.json",
               ERROR(NOT_FOUND, "UPSTREAM_ERROR", .type = "invalid_request_error",
                     .code = "model_not_found", .message = "The model `foo` does not exist"));
    check_file(429, "errors/openai_429_quota.json",
               ERROR(RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA", .type = "insufficient_quota",
                     .code = "insufficient_quota",
                     .message = "You exceeded your current quota, please check your plan and "
                                "billing details."));
    check_file(429, "errors/openai_429_rate.http",
               ERROR(RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT", .retryable = true,
                     .type = "requests", .code = "rate_limit_exceeded",
                     .message = "Rate limit reached for requests"));
    check_file(404, "errors/fastapi_404.json",
               ERROR(NOT_FOUND, "WRONG_BASE_URL", .message = "Not Found"));
    check_file(400, "errors/llamacpp_400_best_of.json",
               ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "invalid_request_error",
                     .code = "400", .message = "Unsupported param: best_of"));
    check_file(503, "errors/llamacpp_503_loading.json",
               ERROR(UNAVAILABLE, "UPSTREAM_OVERLOADED", .retryable = true,
                     .type = "unavailable_error", .code = "503", .message = "Loading model"));
    check_file(504, "errors/nginx_504.html",
               ERROR(UNAVAILABLE, "UPSTREAM_TIMEOUT", .retryable = true,
                     .message = "504 Gateway Time-out"));
    check_file(404, "errors/ollama_404.json",
               ERROR(NOT_FOUND, "UPSTREAM_ERROR", .type = "not_found_error",
                     .message = "model 'foo' not found"));
    check_file(400, "errors/vllm_400_nested.json",
               ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "BadRequestError",
                     .param = "stream_options", .code = "400",
                     .message = "Stream options can only be defined when `stream=True`."));
    check_file(400, "azure/400_content_filter.json",
               ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .param = "prompt",
                     .code = "content_filter",
                     .message = "The response was filtered due to the prompt triggering content "
                                "management policy."));
    check_file(401, "azure/401.json",
               ERROR(UNAUTHENTICATED, "UPSTREAM_AUTH", .code = "401",
                     .message = "Access denied due to invalid subscription key or wrong API "
                                "endpoint."));
    check_file(401, "azure/401_apim_flat.json",
               ERROR(UNAUTHENTICATED, "UPSTREAM_AUTH", .code = "401",
                     .message = "Unauthorized. Access token is missing, invalid, audience is "
                                "incorrect, or have expired."));
    check_file(404, "azure/404_deployment.json",
               ERROR(NOT_FOUND, "UPSTREAM_ERROR", .code = "DeploymentNotFound",
                     .message = "The API deployment for this resource does not exist. If you "
                                "created the deployment within the last 5 minutes, please wait a "
                                "moment and try again."));
}

static void test_other_shapes_of_bodies(void **state)
{
    (void)state;
    /* vLLM before 0.10.1, SGLang, Mistral: flat. */
    check_error(400,
                "{\"object\":\"error\",\"message\":\"too long\",\"type\":\"BadRequestError\","
                "\"param\":null,\"code\":400}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "BadRequestError", .code = "400",
                      .message = "too long"));
    check_error(404, "{\"object\":\"error\",\"message\":\"The model `x` does not exist.\"}",
                ERROR(NOT_FOUND, "UPSTREAM_ERROR", .message = "The model `x` does not exist."));
    check_error(401, "{\"error\":\"Unauthorized\"}",
                ERROR(UNAUTHENTICATED, "UPSTREAM_AUTH", .message = "Unauthorized"));
    /* TGI. */
    check_error(422, "{\"error\":\"Input validation error\",\"error_type\":\"validation\"}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "validation",
                      .message = "Input validation error"));
    check_error(429, "{\"error\":\"Model is overloaded\",\"error_type\":\"overloaded\"}",
                ERROR(RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT", .retryable = true,
                      .type = "overloaded", .message = "Model is overloaded"));
    check_error(424,
                "{\"error\":\"Request failed during generation\",\"error_type\":\"generation\"}",
                ERROR(INTERNAL, "UPSTREAM_ERROR", .type = "generation",
                      .message = "Request failed during generation"));
    check_error(422,
                "Failed to deserialize the JSON body into the target type: stop: invalid type: "
                "string\n\t\"x\", expected a sequence\n",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR",
                      .message = "Failed to deserialize the JSON body into the target type: stop: "
                                 "invalid type: string \"x\", expected a sequence"));
    /* OpenRouter: what the server behind it said is the interesting part. */
    check_error(
        502,
        "{\"error\":{\"message\":\"Provider returned error\",\"code\":502,\"metadata\":{"
        "\"raw\":\"upstream \\\"x\\\" is down\",\"provider_name\":\"P\"}},\"user_id\":\"u\"}",
        ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true, .code = "502",
              .message = "Provider returned error: upstream \"x\" is down"));
    check_error(402, "{\"error\":{\"code\":402,\"message\":\"Insufficient credits\"}}",
                ERROR(FAILED_PRECONDITION, "UPSTREAM_QUOTA", .code = "402",
                      .message = "Insufficient credits"));
    /* FastAPI. */
    check_error(422,
                "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\",\"prompt\"],"
                "\"msg\":\"Field required\",\"input\":{\"x\":1}},{\"msg\":\"second\"}]}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "missing", .param = "prompt",
                      .message = "Field required"));
    check_error(
        500, "{\"detail\":{\"message\":\"broken\",\"code\":\"x\"}}",
        ERROR(INTERNAL, "UPSTREAM_ERROR", .retryable = true, .code = "x", .message = "broken"));
    /* Azure's API management. */
    check_error(404, "{\"statusCode\":404,\"message\":\"Resource not found\"}",
                ERROR(NOT_FOUND, "WRONG_BASE_URL", .code = "404", .message = "Resource not found"));
    check_error(400,
                "{\"error\":{\"message\":\"m\",\"code\":null,\"innererror\":{\"code\":"
                "\"ResponsibleAIPolicyViolation\",\"x\":{}}}}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .code = "ResponsibleAIPolicyViolation",
                      .message = "m"));
    /* LiteLLM, and others in front of it. */
    check_error(500,
                "{\"error\":{\"message\":\"m\",\"type\":null,\"param\":\"None\",\"code\":\"500\"}}",
                ERROR(INTERNAL, "UPSTREAM_ERROR", .retryable = true, .param = "None", .code = "500",
                      .message = "m"));
    check_error(400,
                "[{\"error\":{\"code\":400,\"message\":\"m\",\"status\":\"INVALID_ARGUMENT\"}}]",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .code = "400", .message = "m"));
    check_error(502, "{\"message\":\"outer\",\"error\":{\"message\":\"inner\"}}",
                ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true, .message = "inner"));
    check_error(400, "{\"error\":{\"message\":[\"a\",1],\"code\":true}}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .code = "true", .message = "[\"a\",1]"));
    check_error(
        500, "\"just a \\u0022string\\u0022\"",
        ERROR(INTERNAL, "UPSTREAM_ERROR", .retryable = true, .message = "just a \"string\""));
}

static void test_bodies_that_say_little(void **state)
{
    (void)state;
    check_error(500, "", ERROR(INTERNAL, "UPSTREAM_ERROR", .retryable = true));
    check_error(500, " \r\n", ERROR(INTERNAL, "UPSTREAM_ERROR", .retryable = true));
    check_error(404, "404 page not found\n",
                ERROR(NOT_FOUND, "WRONG_BASE_URL", .message = "404 page not found"));
    check_error(400, "{\"foo\": \"bar\"}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .message = "{\"foo\": \"bar\"}"));
    check_error(400, "{\"error\":null}",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .message = "{\"error\":null}"));
    /* Cut in the middle: what was read before counts. */
    check_error(400, "{\"error\":{\"code\":\"c\",\"type\":\"t\",\"message\":\"abc",
                ERROR(INVALID_ARGUMENT, "UPSTREAM_ERROR", .type = "t", .code = "c",
                      .message = "{\"error\":{\"code\":\"c\",\"type\":\"t\",\"message\":\"abc"));
}

static void test_html_is_reduced_to_its_title(void **state)
{
    (void)state;
    check_error(502,
                "<!DOCTYPE html>\n<HTML><Head><TITLE lang=\"en\">example.com |\n 502: Bad gateway"
                "</TITLE></Head><body>secret stack trace</body>",
                ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true,
                      .message = "example.com | 502: Bad gateway"));
    check_error(502, "<html><body>no title</body></html>",
                ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true));
    check_error(502, "<title>cut",
                ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true, .message = "cut"));
    check_error(502, "<title", ERROR(UNAVAILABLE, "UPSTREAM_ERROR", .retryable = true));
    check_error(404, "<html><title>404 Not Found</title></html>",
                ERROR(NOT_FOUND, "WRONG_BASE_URL", .message = "404 Not Found"));
}

static void test_status_follows_from_http(void **state)
{
    static const struct {
        int http_status;
        enum grpc_status status;
        const char *reason;
        bool retryable;
    } rows[] = {
        {301, GRPC_FAILED_PRECONDITION, "UPSTREAM_REDIRECT", false},
        {307, GRPC_FAILED_PRECONDITION, "UPSTREAM_REDIRECT", false},
        {400, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {401, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", false},
        {402, GRPC_FAILED_PRECONDITION, "UPSTREAM_QUOTA", false},
        {403, GRPC_PERMISSION_DENIED, "UPSTREAM_ERROR", false},
        {404, GRPC_NOT_FOUND, "UPSTREAM_ERROR", false},
        {405, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {408, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
        {409, GRPC_ABORTED, "UPSTREAM_ERROR", true},
        {411, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {413, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {415, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {422, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {424, GRPC_INTERNAL, "UPSTREAM_ERROR", false},
        {429, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT", true},
        {500, GRPC_INTERNAL, "UPSTREAM_ERROR", true},
        {501, GRPC_UNIMPLEMENTED, "UPSTREAM_ERROR", false},
        {502, GRPC_UNAVAILABLE, "UPSTREAM_ERROR", true},
        {503, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", true},
        {504, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
        {507, GRPC_INTERNAL, "UPSTREAM_ERROR", true},
        {520, GRPC_UNAVAILABLE, "UPSTREAM_ERROR", true},
        {522, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
        {524, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT", true},
        {529, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", true},
        {999, GRPC_INTERNAL, "UPSTREAM_ERROR", false},
        {101, GRPC_INTERNAL, "UPSTREAM_ERROR", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct translate_error e = error_of(rows[i].http_status, "{\"error\":\"x\"}", 13, NULL);

        assert_int_equal(e.status, rows[i].status);
        assert_string_equal(e.reason, rows[i].reason);
        assert_int_equal(e.retryable, rows[i].retryable);
    }
}

static void test_errors_inside_a_stream_say_their_status(void **state)
{
    static const struct {
        const char *body;
        enum grpc_status status;
        const char *reason;
        bool retryable;
    } rows[] = {
        {"{\"error\":{\"code\":500,\"type\":\"server_error\"}}", GRPC_INTERNAL, "UPSTREAM_ERROR",
         true},
        {"{\"error\":{\"code\":\"429\"}}", GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT", true},
        {"{\"error\":{\"code\":400.0,\"type\":\"BadRequestError\"}}", GRPC_INVALID_ARGUMENT,
         "UPSTREAM_ERROR", false},
        {"{\"error\":{\"message\":\"m\",\"http_status_code\":422}}", GRPC_INVALID_ARGUMENT,
         "UPSTREAM_ERROR", false},
        {"{\"error\":{\"code\":\"rate_limit_exceeded\"}}", GRPC_RESOURCE_EXHAUSTED,
         "UPSTREAM_RATE_LIMIT", true},
        {"{\"error\":{\"type\":\"rate_limit_error\"}}", GRPC_RESOURCE_EXHAUSTED,
         "UPSTREAM_RATE_LIMIT", true},
        {"{\"error\":{\"code\":\"insufficient_quota\"}}", GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_QUOTA",
         false},
        {"{\"error\":{\"code\":\"server_is_overloaded\"}}", GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED",
         true},
        {"{\"error\":{\"type\":\"overloaded_error\"}}", GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED",
         true},
        {"{\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}", GRPC_INTERNAL,
         "UPSTREAM_ERROR", true},
        {"{\"error\":{\"type\":\"InternalServerError\",\"code\":500}}", GRPC_INTERNAL,
         "UPSTREAM_ERROR", true},
        {"{\"error\":{\"type\":\"invalid_request_error\",\"code\":\"context_length_exceeded\"}}",
         GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {"{\"error\":{\"type\":\"authentication_error\"}}", GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH",
         false},
        {"{\"error\":{\"code\":\"model_not_found\"}}", GRPC_NOT_FOUND, "UPSTREAM_ERROR", false},
        {"{\"error\":\"Internal error\"}", GRPC_INTERNAL, "UPSTREAM_ERROR", true},
        {"{\"error\":{\"code\":12345}}", GRPC_INTERNAL, "UPSTREAM_ERROR", true},
        {"{\"error\":{\"code\":42}}", GRPC_INTERNAL, "UPSTREAM_ERROR", true},
        {"{\"choices\":[{\"finish_reason\":\"error\"}],\"error\":{\"code\":502,\"message\":\"m\"}}",
         GRPC_UNAVAILABLE, "UPSTREAM_ERROR", true},
        {"{\"object\":\"error\",\"message\":\"m\",\"type\":\"NotFoundError\"}", GRPC_NOT_FOUND,
         "UPSTREAM_ERROR", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct translate_error e = error_of(0, rows[i].body, strlen(rows[i].body), NULL);

        if (e.status != rows[i].status)
            print_error("%s\n", rows[i].body);
        assert_int_equal(e.status, rows[i].status);
        assert_string_equal(e.reason, rows[i].reason);
        assert_int_equal(e.retryable, rows[i].retryable);
    }
}

static void test_quota_is_not_retried_whatever_the_status(void **state)
{
    struct translate_error e;

    (void)state;
    e = error_of(429, "{\"error\":{\"type\":\"billing_hard_limit\"}}", 39, NULL);
    assert_int_equal(e.status, GRPC_RESOURCE_EXHAUSTED);
    assert_string_equal(e.reason, "UPSTREAM_QUOTA");
    assert_false(e.retryable);
    e = error_of(403, "{\"error\":{\"code\":\"insufficient_quota\"}}", 40, NULL);
    assert_int_equal(e.status, GRPC_PERMISSION_DENIED);
    assert_string_equal(e.reason, "UPSTREAM_QUOTA");
}

static void test_texts_are_clean(void **state)
{
    static const char nul[] = "{\"error\":{\"message\":\"a\\u0000\\u001b[31mb\\u009bc\\n\\n\\td\","
                              "\"code\":\"x\\r\\ny\"}}";
    struct translate_error e;

    (void)state;
    e = error_of(500, nul, sizeof nul - 1, NULL);
    assert_string_equal(e.message, "a [31mb c d");
    assert_string_equal(e.code, "x y");
    e = error_of(500, "a\0b\xff\xe2\x82", 7, NULL);
    assert_string_equal(e.message, "a b\xef\xbf\xbd\xef\xbf\xbd");
    e = error_of(500, "{\"error\":{\"message\":\"\\ud83d\"}}", 31, NULL);
    assert_string_equal(e.message, "\xef\xbf\xbd");
    e = error_of(500, "two  spaces  stay", 17, NULL);
    assert_string_equal(e.message, "two  spaces  stay");
}

static void test_key_is_redacted(void **state)
{
    static const char key[] = "sk-canary-0123456789";
    static const struct {
        const char *body, *message;
    } rows[] = {
        {"{\"error\":\"Incorrect key: sk-canary-0123456789.\"}", "Incorrect key: [redacted]."},
        {"{\"error\":\"Incorrect key: sk-canary-*****6789\"}",
         "Incorrect key: [redacted]*****6789"},
        {"{\"error\":\"sk-canar sk-cana\"}", "[redacted] sk-cana"},
        {"{\"error\":\"sk-canary-0123456789sk-canary-0123456789\"}", "[redacted]"},
        {"{\"error\":\"sk-sk-canary-0123456789\"}", "sk-[redacted]"},
        {"{\"error\":\"\\u0073k\\u002dcanary-0123456789\"}", "[redacted]"},
        {"Bearer sk-canary-0123456789\n", "Bearer [redacted]"},
        {"<title>sk-canary-0123456789</title>", "[redacted]"},
        {"{\"error\":{\"message\":\"m\",\"metadata\":{\"raw\":\"sk-canary-0123456789\"}}}",
         "m: [redacted]"},
        {"{\"x\":\"sk-canary-0123456789\"", "{\"x\":\"[redacted]\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct translate_error e = error_of(500, rows[i].body, strlen(rows[i].body), key);
        assert_string_equal(e.message, rows[i].message);
    }
    static const char fields[] = "{\"error\":{\"message\":\"\",\"type\":\"sk-canary-0123456789\","
                                 "\"param\":\"x sk-canary-0\",\"code\":\"sk-canary-0123456789\"}}";
    struct translate_error e = error_of(500, fields, sizeof fields - 1, key);
    assert_string_equal(e.type, "[redacted]");
    assert_string_equal(e.param, "x [redacted]");
    assert_string_equal(e.code, "[redacted]");
    assert_null(strstr(e.message, "sk-canary"));

    e = error_of(500, "key abc here", 12, "abc");
    assert_string_equal(e.message, "key [redacted] here");
    e = error_of(500, "no key", 6, "");
    assert_string_equal(e.message, "no key");
}

/* The key may stand across the place where the text is cut: no part of 8 characters may stay. */
static void test_key_is_redacted_where_the_text_is_cut(void **state)
{
    static const char key[] = "sk-canary-0123456789";
    char body[TRANSLATE_MESSAGE_MAX + 64];

    (void)state;
    for (size_t before = TRANSLATE_MESSAGE_MAX - 40; before < TRANSLATE_MESSAGE_MAX; before++) {
        memset(body, 'x', before);
        strcpy(body + before, key);
        struct translate_error e = error_of(500, body, strlen(body), key);
        assert_null(strstr(e.message, "sk-canar"));
        assert_true(strlen(e.message) < TRANSLATE_MESSAGE_MAX);
    }
}

static void test_long_bodies_are_cut_between_characters(void **state)
{
    enum { SIZE = 200 * 1024 };
    char *body = malloc(SIZE);
    struct translate_error e;

    (void)state;
    assert_non_null(body);
    for (size_t shift = 0; shift < 4; shift++) {
        memset(body, 'x', SIZE);
        for (size_t i = shift; i + 4 <= SIZE; i += 4)
            memcpy(body + i, "\xf0\x9f\x98\x8d", 4);
        e = error_of(500, body, SIZE, NULL);
        assert_true(utf8_is_valid(e.message, strlen(e.message)));
        assert_true(strlen(e.message) > TRANSLATE_MESSAGE_MAX - 5);
    }
    memset(body, 'y', SIZE);
    memcpy(body, "{\"error\":{\"type\":\"t\",\"code\":\"", 30);
    e = error_of(400, body, SIZE, NULL);
    assert_string_equal(e.type, "t");
    assert_string_equal(e.code, "");
    memset(body, '[', SIZE);
    e = error_of(500, body, SIZE, NULL);
    assert_int_equal(strlen(e.message), TRANSLATE_MESSAGE_MAX - 1);

    strcpy(body, "{\"error\":{\"code\":\"");
    memset(body + strlen(body), 'z', 4000);
    strcpy(body + 4000, "\"}}");
    e = error_of(400, body, strlen(body), NULL);
    assert_int_equal(strlen(e.code), TRANSLATE_WORD_MAX - 1);
    free(body);
}

static void test_deep_bodies_are_harmless(void **state)
{
    enum { DEPTH = 20000 };
    static const char *const units[] = {"[", "{\"error\":", "{\"detail\":[", "{\"metadata\":"};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct buffer body = BUFFER_INIT(1 << 24);

        for (size_t j = 0; j < DEPTH; j++)
            buffer_append_string(&body, units[i]);
        struct translate_error e = error_of(500, buffer_bytes(&body), buffer_length(&body), NULL);
        assert_int_equal(e.status, GRPC_INTERNAL);
        buffer_done(&body);
    }
}

static void check_event(const char *body, const char *expected)
{
    const uint8_t *data = (const uint8_t *)body;
    size_t len = strlen(body);

    translate_error_event(&data, &len);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(data, expected, len);
}

static void test_error_in_an_event_stream_body(void **state)
{
    (void)state;
    check_event("data: {\"error\":1}\n\ndata: [DONE]\n\n", " {\"error\":1}");
    check_event("data:{\"error\":1}", "{\"error\":1}");
    check_event("event: error\r\ndata: {\"error\":1}\r\n\r\n", " {\"error\":1}");
    check_event(": ping\n\nid: 1\nretry: 5\n\ndata: x\ndata: y\n", " x");
    check_event("{\"error\":1}", "{\"error\":1}");
    check_event("{\n\"data\":\ndata: x}", "{\n\"data\":\ndata: x}");
    check_event("plain text\n", "plain text\n");
    check_event("\n\n: ping\n", "\n\n: ping\n");
    check_event("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_files),
        cmocka_unit_test(test_other_shapes_of_bodies),
        cmocka_unit_test(test_bodies_that_say_little),
        cmocka_unit_test(test_html_is_reduced_to_its_title),
        cmocka_unit_test(test_status_follows_from_http),
        cmocka_unit_test(test_errors_inside_a_stream_say_their_status),
        cmocka_unit_test(test_quota_is_not_retried_whatever_the_status),
        cmocka_unit_test(test_texts_are_clean),
        cmocka_unit_test(test_key_is_redacted),
        cmocka_unit_test(test_key_is_redacted_where_the_text_is_cut),
        cmocka_unit_test(test_long_bodies_are_cut_between_characters),
        cmocka_unit_test(test_deep_bodies_are_harmless),
        cmocka_unit_test(test_error_in_an_event_stream_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
