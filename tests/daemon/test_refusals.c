/*
 * Requests that are refused before anything is sent: the status, the field, and a sentence with the
 * range; and the daemon goes on serving.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

/* Nothing reached the upstream; a good call does, on the same connection. */
static void assert_unharmed(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
}

static void expect_refusal(struct scene *s, const char *path, const rpc_request *request,
                           const char *field)
{
    struct rpc_result result;

    rpc_call(&s->rpc, path, request, &result);
    rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST");
    rpc_assert_said(&result, field);
    rpc_assert_text(result.detail, param, field);
    assert_int_equal(result.detail->phase, COMPLETION__V1__PHASE__PHASE_LOCAL);
    assert_false(result.detail->has_http_status);
    assert_int_equal(result.detail->maybe_executed, 0);
    assert_null(strstr(result.message, SCENE_SECRET));
    rpc_result_done(&result);
}

static void expect_raw_failure(struct scene *s, const char *path, const void *message, size_t len,
                               enum grpc_status status)
{
    struct rpc_result result;

    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, path, message, len, -1, NULL, 0), &result);
    if (result.status != status)
        fail_msg("%s, not %s: %s", grpc_status_name((int)result.status),
                 grpc_status_name((int)status), result.message);
    assert_true(*result.message);
    rpc_result_done(&result);
}

static void expect_raw_text(struct scene *s, const void *message, size_t len, const char *text)
{
    struct rpc_result result;

    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, RPC_CREATE, message, len, -1, NULL, 0), &result);
    assert_string_equal(result.message, text);
    rpc_result_done(&result);
}

/* ---- Messages that are none ---- */

static void test_malformed_protobuf(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } messages[] = {
        {"\x0a", 1},       /* a tag and no more */
        {"\x0a\x05mm", 4}, /* shorter than it says */
        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11},
        {"\x0b", 1},     /* a group */
        {"\x08\x01", 2}, /* model as a number */
        {"\x00\x00", 2}, /* field number 0 */
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        expect_raw_failure(s, RPC_CREATE, messages[i].bytes, messages[i].len,
                           GRPC_INVALID_ARGUMENT);
        expect_raw_failure(s, RPC_CREATE_STREAM, messages[i].bytes, messages[i].len,
                           GRPC_INVALID_ARGUMENT);
    }
    expect_raw_text(s, messages[0].bytes, messages[0].len,
                    "the request message: not a well-formed protobuf message");
    assert_unharmed(s);
    scene_stop(s);
}

static void test_every_cut_of_a_request_is_answered(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    uint8_t message[64];
    struct rpc_result result;

    request.has_max_tokens = request.has_temperature = true;
    request.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING;
    request.stop_string = rpc_text("stop");
    assert_in_range(completion__v1__create_completion_request__get_packed_size(&request), 8,
                    sizeof message);
    size_t len = completion__v1__create_completion_request__pack(&request, message);
    scene_start(s, serve, NULL, NULL);
    for (size_t cut = 0; cut < len; cut++) {
        rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, RPC_CREATE, message, cut, -1, NULL, 0), &result);
        /* Where the cut is between fields it is a request. */
        if (result.status != GRPC_OK)
            rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

static void test_unknown_methods(void **state)
{
    static const char *const paths[] = {"/completion.v1.Completions/Delete",
                                        "/other.Service/Create", "/completion.v1.Completions/",
                                        "/x"};
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        expect_raw_failure(s, paths[i], "", 0, GRPC_UNIMPLEMENTED);
    assert_unharmed(s);
    scene_stop(s);
}

static void test_request_of_five_megabytes(void **state)
{
    enum { LEN = 5 << 20 };
    struct scene *s = *state;
    char *message = calloc(1, LEN);
    struct rpc_result result;

    assert_non_null(message);
    scene_start(s, serve, NULL, NULL);
    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, RPC_CREATE, message, LEN, -1, NULL, 0), &result);
    assert_int_equal(result.status, GRPC_RESOURCE_EXHAUSTED);
    rpc_assert_said(&result, "4194304");
    rpc_result_done(&result);
    free(message);
    assert_unharmed(s);
    scene_stop(s);
}

static void test_invalid_utf8(void **state)
{
    static const char *const texts[] = {
        "\x80", "a\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff",
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rpc_request prompt = rpc_request_new("m", texts[i]);
        rpc_request model = rpc_request_new(texts[i], "p");
        rpc_request suffix = rpc_request_new("m", "p");
        suffix.has_suffix = true;
        suffix.suffix = rpc_text(texts[i]);
        expect_refusal(s, RPC_CREATE, &prompt, "prompt_string");
        expect_refusal(s, RPC_CREATE, &model, "model");
        expect_refusal(s, RPC_CREATE_STREAM, &suffix, "suffix");
    }
    assert_unharmed(s);
    scene_stop(s);
}

/* ---- Values out of range ---- */

/* Fields of one type, each with a value that is refused. */
#define FIELD(name) offsetof(rpc_request, has_##name), offsetof(rpc_request, name), #name

static rpc_request with_flag(size_t flag)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    memcpy((char *)&request + flag, &(protobuf_c_boolean){1}, sizeof(protobuf_c_boolean));
    return request;
}

static void test_integers_out_of_range(void **state)
{
    static const struct {
        size_t flag, value;
        const char *name;
        int32_t wrong;
    } cases[] = {
        {FIELD(best_of), -1},  {FIELD(best_of), 21},    {FIELD(logprobs), -1},
        {FIELD(logprobs), 6},  {FIELD(max_tokens), -1}, {FIELD(max_tokens), INT32_MIN},
        {FIELD(n), 0},         {FIELD(n), -1},          {FIELD(n), 129},
        {FIELD(n), INT32_MAX},
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rpc_request request = with_flag(cases[i].flag);
        memcpy((char *)&request + cases[i].value, &cases[i].wrong, sizeof cases[i].wrong);
        expect_refusal(s, RPC_CREATE, &request, cases[i].name);
    }
    assert_unharmed(s);
    scene_stop(s);
}

static void test_numbers_out_of_range(void **state)
{
    static const struct {
        size_t flag, value;
        const char *name;
        double least, most;
    } cases[] = {
        {FIELD(frequency_penalty), -2, 2},
        {FIELD(presence_penalty), -2, 2},
        {FIELD(temperature), 0, 2},
        {FIELD(top_p), 0, 1},
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double wrong[] = {cases[i].least - 0.001, cases[i].most + 0.001, (double)NAN,
                                (double)INFINITY,       -(double)INFINITY,     1e308};
        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            rpc_request request = with_flag(cases[i].flag);
            memcpy((char *)&request + cases[i].value, &wrong[k], sizeof wrong[k]);
            expect_refusal(s, k % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &request, cases[i].name);
        }
    }
    assert_unharmed(s);
    scene_stop(s);
}

static void test_limits_themselves_are_served(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "");
    struct rpc_result result;

    scene_start(s, serve, NULL, NULL);
    request.has_frequency_penalty = request.has_presence_penalty = request.has_temperature = true;
    request.has_logprobs = request.has_max_tokens = request.has_n = request.has_best_of = true;
    request.frequency_penalty = -2;
    request.presence_penalty = 2;
    request.temperature = 2;
    request.logprobs = 5;
    request.max_tokens = 0;
    request.n = request.best_of = 20;
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_logit_bias_out_of_range(void **state)
{
    Completion__V1__CreateCompletionRequest__LogitBiasEntry entry;
    Completion__V1__CreateCompletionRequest__LogitBiasEntry *entries[] = {&entry};
    static const double wrong[] = {-100.5, 101, 1e300};
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    completion__v1__create_completion_request__logit_bias_entry__init(&entry);
    entry.has_key = entry.has_value = true;
    entry.key = 50256;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        rpc_request request = rpc_request_new("m", "p");
        request.n_logit_bias = 1;
        request.logit_bias = entries;
        entry.value = wrong[i];
        expect_refusal(s, RPC_CREATE, &request, "logit_bias");
    }
    assert_unharmed(s);
    scene_stop(s);
}

static void test_wider_ranges_of_a_server_can_be_allowed(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, serve, NULL, "validate = no\n");
    request.has_logprobs = request.has_temperature = true;
    request.logprobs = 20;
    request.temperature = 5;
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    /* What has no meaning anywhere is refused all the same. */
    request.temperature = (double)NAN;
    expect_refusal(s, RPC_CREATE, &request, "temperature");
    scene_stop(s);
}

/* ---- Fields that do not go together ---- */

static void test_model_is_required(void **state)
{
    static const char *const models[] = {NULL, "", "m\nX: y", "m\x01"};
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        rpc_request request = rpc_request_new(models[i], "p");
        expect_refusal(s, RPC_CREATE, &request, "model");
    }
    assert_unharmed(s);
    scene_stop(s);
}

static void test_best_of_and_n(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, serve, NULL, NULL);
    request.has_n = request.has_best_of = true;
    request.n = 3;
    request.best_of = 2;
    expect_refusal(s, RPC_CREATE, &request, "best_of");
    request.best_of = 4;
    expect_refusal(s, RPC_CREATE_STREAM, &request, "best_of");
    assert_unharmed(s);
    scene_stop(s);
}

static void test_stream_options_only_with_streams(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    Completion__V1__StreamOptions options;

    scene_start(s, serve, NULL, NULL);
    completion__v1__stream_options__init(&options);
    options.has_include_usage = options.include_usage = true;
    request.stream_options = &options;
    expect_refusal(s, RPC_CREATE, &request, "stream_options");
    assert_unharmed(s);
    scene_stop(s);
}

static void test_at_most_four_stops(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    Completion__V1__Strings stops;
    ProtobufCBinaryData texts[5];

    for (size_t i = 0; i < 5; i++)
        texts[i] = rpc_text("CANARY stop");
    scene_start(s, serve, NULL, NULL);
    completion__v1__strings__init(&stops);
    stops.values = texts;
    request.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS;
    request.stop_strings = &stops;
    stops.n_values = 5;
    expect_refusal(s, RPC_CREATE, &request, "stop_strings");
    stops.n_values = 0;
    expect_refusal(s, RPC_CREATE, &request, "stop_strings");
    assert_unharmed(s);
    scene_stop(s);
}

static void test_extra_body_that_is_no_good(void **state)
{
    static const char *const bodies[] = {
        "",
        "[]",
        "1",
        "{",
        "{\"top_k\":1}x",
        "{\"top_k\":1,\"top_k\":2}",
        "{\"model\":\"x\"}",
        "{\"stream\":true}",
        "{\"STREAM\":true}",
        "{\"a\":NaN}",
        "{\"a\":\"\xff\"}",
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        rpc_request request = rpc_request_new("m", "p");
        request.has_extra_body = true;
        request.extra_body = rpc_text(bodies[i]);
        expect_refusal(s, RPC_CREATE, &request, "extra_body");
    }
    assert_unharmed(s);
    scene_stop(s);
}

/* ---- Policy ---- */

static void test_policy_decides_over_extra_body_and_models(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, serve, NULL, "[policy *]\nallow_extra_body = no\nmodels = m small-*\n");
    request.has_extra_body = true;
    request.extra_body = rpc_text("{\"top_k\":1}");
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_PERMISSION_DENIED, "NOT_ALLOWED");
    rpc_assert_text(result.detail, param, "extra_body");
    rpc_result_done(&result);

    request = rpc_request_new("large", "p");
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_PERMISSION_DENIED, "NOT_ALLOWED");
    rpc_assert_text(result.detail, param, "model");
    rpc_result_done(&result);
    assert_unharmed(s);
    scene_stop(s);
}

static void call_with_own_key(struct scene *s, const char *key, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "p");
    uint8_t message[32];
    size_t len = completion__v1__create_completion_request__pack(&request, message);
    struct grpc_client_metadata metadata = {"completion-api-key", key, true};

    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, RPC_CREATE, message, len, -1, &metadata, 1), ret);
}

static void test_own_key_is_refused_by_default(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, NULL, NULL);
    call_with_own_key(s, "sk-CANARY-of-the-caller", &result);
    rpc_assert_failed(&result, GRPC_PERMISSION_DENIED, "NOT_ALLOWED");
    rpc_assert_said(&result, "allow_own_key");
    assert_null(strstr(result.message, SCENE_SECRET));
    rpc_result_done(&result);
    assert_unharmed(s);
    scene_stop(s);
}

static void test_own_key_goes_upstream_where_allowed(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, NULL, "[policy *]\nallow_own_key = yes\n");
    call_with_own_key(s, "sk-CANARY-of-the-caller", &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer sk-CANARY-of-the-caller\r\n"));
    assert_null(strstr(head, SCENE_KEY));
    free(head);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_malformed_protobuf),
        scene_test(test_every_cut_of_a_request_is_answered),
        scene_test(test_unknown_methods),
        scene_test(test_request_of_five_megabytes),
        scene_test(test_invalid_utf8),
        scene_test(test_integers_out_of_range),
        scene_test(test_numbers_out_of_range),
        scene_test(test_limits_themselves_are_served),
        scene_test(test_logit_bias_out_of_range),
        scene_test(test_wider_ranges_of_a_server_can_be_allowed),
        scene_test(test_model_is_required),
        scene_test(test_best_of_and_n),
        scene_test(test_stream_options_only_with_streams),
        scene_test(test_at_most_four_stops),
        scene_test(test_extra_body_that_is_no_good),
        scene_test(test_policy_decides_over_extra_body_and_models),
        scene_test(test_own_key_is_refused_by_default),
        scene_test(test_own_key_goes_upstream_where_allowed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
