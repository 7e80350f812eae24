/* Requests: what JSON each field becomes, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "translate.h"

typedef Completion__V1__CreateCompletionRequest__LogitBiasEntry bias_entry;

static const struct translate_request_options unary = {.validate = true, .allow_extra_body = true};
static const struct translate_request_options streaming = {
    .stream = true, .validate = true, .allow_extra_body = true};
static const struct translate_request_options lenient = {.allow_extra_body = true};

static ProtobufCBinaryData text_of(const char *s)
{
    return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)(uintptr_t)s};
}

static translate_request_message new_request(void)
{
    translate_request_message m;

    completion__v1__create_completion_request__init(&m);
    m.has_model = true;
    m.model = text_of("m");
    return m;
}

static void assert_body_with(const translate_request_message *m,
                             const struct translate_request_options *options, const char *expected)
{
    struct buffer body = BUFFER_INIT(1 << 24);
    struct translate_refusal refusal = {0};

    int r = translate_request(m, options, &body, &refusal);
    if (r)
        print_error("%s\n", refusal.text);
    assert_int_equal(r, 0);
    buffer_append_byte(&body, '\0');
    assert_string_equal((char *)buffer_bytes(&body), expected);
    buffer_done(&body);
}

#define assert_body(m, expected) assert_body_with(m, &unary, expected)

static void assert_refused_with(const translate_request_message *m,
                                const struct translate_request_options *options,
                                enum grpc_status status, const char *field, const char *text)
{
    struct buffer body = BUFFER_INIT(1 << 24);
    struct translate_refusal refusal = {0};

    assert_int_equal(translate_request(m, options, &body, &refusal), -EINVAL);
    assert_int_equal(refusal.status, status);
    assert_string_equal(refusal.field, field);
    if (!strstr(refusal.text, text))
        print_error("got: %s\n", refusal.text);
    assert_non_null(strstr(refusal.text, text));
    assert_memory_equal(refusal.text, field, strlen(field));
    buffer_done(&body);
}

#define assert_refused(m, field, text)                                                             \
    assert_refused_with(m, &unary, GRPC_INVALID_ARGUMENT, field, text)

static void test_only_what_is_set_is_sent(void **state)
{
    translate_request_message m = new_request();

    (void)state;
    assert_body(&m, "{\"model\":\"m\"}");
    assert_body_with(&m, &streaming, "{\"model\":\"m\",\"stream\":true}");
}

static void test_zero_false_and_empty_are_sent(void **state)
{
    translate_request_message m = new_request();

    (void)state;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = text_of("");
    m.has_best_of = m.has_echo = m.has_frequency_penalty = m.has_logprobs = m.has_max_tokens = true;
    m.has_presence_penalty = m.has_seed = m.has_suffix = m.has_temperature = m.has_top_p = true;
    m.has_user = true;
    m.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING;
    m.stop_string = text_of("");
    assert_body(&m, "{\"model\":\"m\",\"prompt\":\"\",\"best_of\":0,\"echo\":false,"
                    "\"frequency_penalty\":0,\"logprobs\":0,\"max_tokens\":0,"
                    "\"presence_penalty\":0,\"seed\":0,\"stop\":\"\",\"suffix\":\"\","
                    "\"temperature\":0,\"top_p\":0,\"user\":\"\"}");
}

static void test_everything_in_the_order_of_the_schema(void **state)
{
    translate_request_message m = new_request();
    Completion__V1__StreamOptions options = COMPLETION__V1__STREAM_OPTIONS__INIT;
    bias_entry bias = COMPLETION__V1__CREATE_COMPLETION_REQUEST__LOGIT_BIAS_ENTRY__INIT;
    bias_entry *biases[] = {&bias};
    ProtobufCBinaryData stops[] = {text_of("\n"), text_of("END")};
    Completion__V1__Strings stop = COMPLETION__V1__STRINGS__INIT;

    (void)state;
    stop.values = stops;
    stop.n_values = 2;
    bias.has_key = bias.has_value = true;
    bias.key = 50256;
    bias.value = -100;
    options.has_include_obfuscation = options.has_include_usage = options.include_usage = true;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = text_of("Say \"hi\"");
    m.has_best_of = m.has_echo = m.echo = m.has_frequency_penalty = m.has_logprobs = true;
    m.has_max_tokens = m.has_n = m.has_presence_penalty = m.has_seed = m.has_suffix = true;
    m.has_temperature = m.has_top_p = m.has_user = m.has_extra_body = true;
    m.best_of = m.n = 2;
    m.frequency_penalty = -2;
    m.logit_bias = biases;
    m.n_logit_bias = 1;
    m.logprobs = 5;
    m.max_tokens = 16;
    m.presence_penalty = 0.25;
    m.seed = -1;
    m.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS;
    m.stop_strings = &stop;
    m.stream_options = &options;
    m.suffix = text_of("!");
    m.temperature = 0.7;
    m.top_p = 1;
    m.user = text_of("u-1");
    m.extra_body = text_of("{\"top_k\": 3}");
    assert_body_with(
        &m, &streaming,
        "{\"model\":\"m\",\"prompt\":\"Say \\\"hi\\\"\",\"best_of\":2,\"echo\":true,"
        "\"frequency_penalty\":-2,\"logit_bias\":{\"50256\":-100},\"logprobs\":5,"
        "\"max_tokens\":16,\"n\":2,\"presence_penalty\":0.25,\"seed\":-1,"
        "\"stop\":[\"\\n\",\"END\"],\"stream\":true,"
        "\"stream_options\":{\"include_obfuscation\":false,\"include_usage\":true},"
        "\"suffix\":\"!\",\"temperature\":0.7,\"top_p\":1,\"user\":\"u-1\",\"top_k\": 3}");
}

static void test_four_forms_of_prompt(void **state)
{
    translate_request_message m = new_request();
    ProtobufCBinaryData texts[] = {text_of("a"), text_of(""), text_of("c")};
    Completion__V1__Strings strings = COMPLETION__V1__STRINGS__INIT;
    int32_t ids[] = {1, 0, INT32_MAX};
    Completion__V1__Tokens tokens = COMPLETION__V1__TOKENS__INIT;
    Completion__V1__Tokens *lists[] = {&tokens, &tokens};
    Completion__V1__TokenArrays arrays = COMPLETION__V1__TOKEN_ARRAYS__INIT;

    (void)state;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = text_of("p");
    assert_body(&m, "{\"model\":\"m\",\"prompt\":\"p\"}");
    assert_int_equal(translate_request_n_choices(&m), 1);

    strings.values = texts;
    strings.n_values = 3;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS;
    m.prompt_strings = &strings;
    assert_body(&m, "{\"model\":\"m\",\"prompt\":[\"a\",\"\",\"c\"]}");
    assert_int_equal(translate_request_n_choices(&m), 3);

    tokens.ids = ids;
    tokens.n_ids = 3;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKENS;
    m.prompt_tokens = &tokens;
    assert_body(&m, "{\"model\":\"m\",\"prompt\":[1,0,2147483647]}");
    assert_int_equal(translate_request_n_choices(&m), 1);

    arrays.values = lists;
    arrays.n_values = 2;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS;
    m.prompt_token_arrays = &arrays;
    m.has_n = true;
    m.n = 128;
    assert_body(&m, "{\"model\":\"m\",\"prompt\":[[1,0,2147483647],[1,0,2147483647]],\"n\":128}");
    assert_int_equal(translate_request_n_choices(&m), 256);
}

static void test_empty_lists_and_negative_tokens_are_refused(void **state)
{
    translate_request_message m = new_request();
    Completion__V1__Strings none = COMPLETION__V1__STRINGS__INIT;
    Completion__V1__Tokens tokens = COMPLETION__V1__TOKENS__INIT;
    Completion__V1__Tokens *lists[] = {&tokens};
    Completion__V1__TokenArrays arrays = COMPLETION__V1__TOKEN_ARRAYS__INIT;
    int32_t ids[] = {7, -1};

    (void)state;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRINGS;
    m.prompt_strings = &none;
    assert_refused(&m, "prompt_strings", "empty list");
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKENS;
    m.prompt_tokens = &tokens;
    assert_refused(&m, "prompt_tokens", "empty list");
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS;
    m.prompt_token_arrays = &arrays;
    assert_refused(&m, "prompt_token_arrays", "empty list");
    arrays.values = lists;
    arrays.n_values = 1;
    assert_refused(&m, "prompt_token_arrays", "empty list");
    tokens.ids = ids;
    tokens.n_ids = 2;
    assert_refused(&m, "prompt_token_arrays", "-1 (at position 1)");
    assert_refused_with(&m, &lenient, GRPC_INVALID_ARGUMENT, "prompt_token_arrays", "-1");
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT__NOT_SET;
    m.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS;
    m.stop_strings = &none;
    assert_refused(&m, "stop_strings", "empty list");
}

static void test_at_most_four_stops(void **state)
{
    translate_request_message m = new_request();
    ProtobufCBinaryData texts[5];
    Completion__V1__Strings stops = COMPLETION__V1__STRINGS__INIT;

    (void)state;
    for (size_t i = 0; i < 5; i++)
        texts[i] = text_of("x");
    stops.values = texts;
    stops.n_values = 5;
    m.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS;
    m.stop_strings = &stops;
    assert_refused(&m, "stop_strings", "5 entries");
    assert_body_with(&m, &lenient, "{\"model\":\"m\",\"stop\":[\"x\",\"x\",\"x\",\"x\",\"x\"]}");
    stops.n_values = 4;
    assert_body(&m, "{\"model\":\"m\",\"stop\":[\"x\",\"x\",\"x\",\"x\"]}");
}

static void test_nul_and_controls_survive_in_texts(void **state)
{
    translate_request_message m = new_request();

    (void)state;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = (ProtobufCBinaryData){
        .len = 12, .data = (uint8_t *)(uintptr_t) "a\0b\x7f\"\\\n\xf0\x9f\x98\x8d!"};
    assert_body(&m,
                "{\"model\":\"m\",\"prompt\":\"a\\u0000b\\u007f\\\"\\\\\\n\xf0\x9f\x98\x8d!\"}");
}

static void test_numbers_keep_their_value(void **state)
{
    static const double values[] = {
        0.1, 1.0 / 3, 5e-324, 1.9999999999999998, 1e-7, 0.30000000000000004, 2.0, -0.0};
    translate_request_message m = new_request();

    (void)state;
    m.has_seed = true;
    m.seed = INT64_MIN;
    assert_body(&m, "{\"model\":\"m\",\"seed\":-9223372036854775808}");
    m.seed = INT64_MAX;
    assert_body(&m, "{\"model\":\"m\",\"seed\":9223372036854775807}");
    m.seed = 2039908639335532001;
    assert_body(&m, "{\"model\":\"m\",\"seed\":2039908639335532001}");
    m.has_seed = false;

    m.has_temperature = true;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct buffer body = BUFFER_INIT(4096);
        struct translate_refusal refusal;

        m.temperature = values[i];
        assert_int_equal(translate_request(&m, &unary, &body, &refusal), 0);
        buffer_append_byte(&body, '\0');
        const char *number = strstr((char *)buffer_bytes(&body), "\"temperature\":");
        assert_non_null(number);
        double back = strtod(number + strlen("\"temperature\":"), NULL);
        assert_memory_equal(&back, &values[i], sizeof back);
        buffer_done(&body);
    }
}

static void test_what_is_not_finite_is_refused(void **state)
{
    static const double values[] = {NAN, INFINITY, -INFINITY};
    bias_entry bias = COMPLETION__V1__CREATE_COMPLETION_REQUEST__LOGIT_BIAS_ENTRY__INIT;
    bias_entry *biases[] = {&bias};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        translate_request_message m = new_request();

        m.has_top_p = true;
        m.top_p = values[i];
        assert_refused(&m, "top_p", "not a finite number; it must be from 0 to 1");
        assert_refused_with(&m, &lenient, GRPC_INVALID_ARGUMENT, "top_p", "not a finite");
        m.has_top_p = false;
        m.logit_bias = biases;
        m.n_logit_bias = 1;
        bias.value = values[i];
        assert_refused(&m, "logit_bias", "not a finite number");
    }
}

#define INT_FIELD(name, bad, good, text)                                                           \
    {                                                                                              \
#name, offsetof(translate_request_message, has_##name),                                    \
            offsetof(translate_request_message, name), false, bad, good, text                      \
    }
#define DOUBLE_FIELD(name, bad, good, text)                                                        \
    {                                                                                              \
#name, offsetof(translate_request_message, has_##name),                                    \
            offsetof(translate_request_message, name), true, bad, good, text                       \
    }

static const struct range {
    const char *name;
    size_t has, value;
    bool is_double;
    double bad, good;
    const char *text;
} ranges[] = {
    INT_FIELD(best_of, -1, 0, "best_of: -1 is out of range; it must be from 0 to 20"),
    INT_FIELD(best_of, 21, 20, "best_of: 21 is out of range; it must be from 0 to 20"),
    INT_FIELD(logprobs, -1, 0, "logprobs: -1 is out of range; it must be from 0 to 5"),
    INT_FIELD(logprobs, 6, 5, "logprobs: 6 is out of range; it must be from 0 to 5"),
    INT_FIELD(max_tokens, -1, 0, "max_tokens: -1 is too small; it must be at least 0"),
    INT_FIELD(max_tokens, INT32_MIN, INT32_MAX, "max_tokens: -2147483648 is too small"),
    INT_FIELD(n, 0, 1, "n: 0 is out of range; it must be from 1 to 128"),
    INT_FIELD(n, 129, 128, "n: 129 is out of range; it must be from 1 to 128"),
    INT_FIELD(n, INT32_MAX, 2, "n: 2147483647 is out of range"),
    DOUBLE_FIELD(frequency_penalty, -2.5, -2, "-2.5 is out of range; it must be from -2 to 2"),
    DOUBLE_FIELD(frequency_penalty, 2.5, 2, "2.5 is out of range; it must be from -2 to 2"),
    DOUBLE_FIELD(presence_penalty, -3, -2, "-3 is out of range; it must be from -2 to 2"),
    DOUBLE_FIELD(presence_penalty, 1e308, 2, "1e+308 is out of range; it must be from -2 to 2"),
    DOUBLE_FIELD(temperature, -0.5, 0, "-0.5 is out of range; it must be from 0 to 2"),
    DOUBLE_FIELD(temperature, 2.5, 2, "2.5 is out of range; it must be from 0 to 2"),
    DOUBLE_FIELD(top_p, -1, 0, "-1 is out of range; it must be from 0 to 1"),
    DOUBLE_FIELD(top_p, 1.5, 1, "1.5 is out of range; it must be from 0 to 1"),
};

static void set_number(translate_request_message *m, const struct range *range, double number)
{
    char *base = (char *)m;
    int32_t integer = (int32_t)number;

    memcpy(base + range->has, &(protobuf_c_boolean){true}, sizeof(protobuf_c_boolean));
    if (range->is_double)
        memcpy(base + range->value, &number, sizeof number);
    else
        memcpy(base + range->value, &integer, sizeof integer);
}

static void test_ranges_are_checked_if_asked_for(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        translate_request_message m = new_request();
        struct translate_refusal refusal;
        struct buffer body = BUFFER_INIT(4096);

        set_number(&m, &ranges[i], ranges[i].bad);
        assert_refused(&m, ranges[i].name, ranges[i].text);
        assert_int_equal(translate_request(&m, &lenient, &body, &refusal), 0);
        set_number(&m, &ranges[i], ranges[i].good);
        assert_int_equal(translate_request(&m, &unary, &body, &refusal), 0);
        buffer_done(&body);
    }
}

static void test_best_of_and_n_fit_together(void **state)
{
    translate_request_message m = new_request();

    (void)state;
    m.has_best_of = m.has_n = true;
    m.best_of = 2;
    m.n = 3;
    assert_refused(&m, "best_of", "2 is less than n, which is 3");
    m.best_of = 0;
    m.n = 1;
    assert_refused(&m, "best_of", "0 is less than n");
    m.best_of = 3;
    m.n = 2;
    assert_body(&m, "{\"model\":\"m\",\"best_of\":3,\"n\":2}");
    assert_refused_with(&m, &streaming, GRPC_INVALID_ARGUMENT, "best_of", "3 is more than n");
    m.n = 3;
    assert_body_with(&m, &streaming, "{\"model\":\"m\",\"best_of\":3,\"n\":3,\"stream\":true}");
    m.has_n = false;
    assert_refused_with(&m, &streaming, GRPC_INVALID_ARGUMENT, "best_of", "3 is more than n");
}

static void test_model_must_be_a_name(void **state)
{
    translate_request_message m = new_request();

    (void)state;
    m.model = text_of("");
    assert_refused(&m, "model", "missing");
    m.has_model = false;
    assert_refused(&m, "model", "missing");
    m.has_model = true;
    m.model = text_of("gpt\r\nX: y");
    assert_refused(&m, "model", "control character at byte 3");
    m.model = (ProtobufCBinaryData){.len = 3, .data = (uint8_t *)(uintptr_t) "a\0b"};
    assert_refused(&m, "model", "control character at byte 1");
    m.model = text_of("org/model:free");
    m.has_user = true;
    m.user = text_of("x\x7f");
    assert_refused(&m, "user", "control character at byte 1");
    assert_refused_with(&m, &lenient, GRPC_INVALID_ARGUMENT, "user", "control");
}

static void test_refusals_never_quote_texts(void **state)
{
    translate_request_message m = new_request();
    struct buffer body = BUFFER_INIT(4096);
    struct translate_refusal refusal;

    (void)state;
    m.has_user = true;
    m.user = text_of("secret-canary\n");
    assert_int_equal(translate_request(&m, &unary, &body, &refusal), -EINVAL);
    assert_null(strstr(refusal.text, "canary"));
    m.has_user = false;
    m.has_extra_body = true;
    m.extra_body = text_of("{\"canary\":1,\"canary\":2}");
    assert_int_equal(translate_request(&m, &unary, &body, &refusal), -EINVAL);
    assert_null(strstr(refusal.text, "canary"));
    m.extra_body = text_of("{\"canary\":}");
    assert_int_equal(translate_request(&m, &unary, &body, &refusal), -EINVAL);
    assert_null(strstr(refusal.text, "canary"));
    buffer_done(&body);
}

static void test_logit_bias_keys_are_strings_and_the_last_holds(void **state)
{
    static const struct {
        int32_t key;
        double value;
    } given[] = {{50256, -100}, {7, 0.5}, {50256, 1}, {0, -0.0}, {50256, 100}, {7, 2}};
    enum { N = sizeof given / sizeof *given };
    translate_request_message m = new_request();
    bias_entry entries[N];
    bias_entry *biases[N];

    (void)state;
    for (size_t i = 0; i < N; i++) {
        completion__v1__create_completion_request__logit_bias_entry__init(&entries[i]);
        entries[i].has_key = entries[i].has_value = true;
        entries[i].key = given[i].key;
        entries[i].value = given[i].value;
        biases[i] = &entries[i];
    }
    m.logit_bias = biases;
    m.n_logit_bias = N;
    assert_body(&m, "{\"model\":\"m\",\"logit_bias\":{\"0\":-0,\"7\":2,\"50256\":100}}");

    /* An entry without key and value is one of zeros, as everywhere in protobuf. */
    completion__v1__create_completion_request__logit_bias_entry__init(&entries[0]);
    m.n_logit_bias = 1;
    assert_body(&m, "{\"model\":\"m\",\"logit_bias\":{\"0\":0}}");

    entries[0].key = -1;
    assert_refused(&m, "logit_bias", "-1 is no token id");
    entries[0].key = 1;
    entries[0].value = 100.5;
    assert_refused(&m, "logit_bias", "100.5 is out of range; it must be from -100 to 100");
    assert_body_with(&m, &lenient, "{\"model\":\"m\",\"logit_bias\":{\"1\":100.5}}");
}

static void test_stream_options_need_a_stream(void **state)
{
    translate_request_message m = new_request();
    Completion__V1__StreamOptions options = COMPLETION__V1__STREAM_OPTIONS__INIT;

    (void)state;
    m.stream_options = &options;
    assert_refused(&m, "stream_options", "only allowed with CreateStream");
    assert_refused_with(&m, &lenient, GRPC_INVALID_ARGUMENT, "stream_options", "CreateStream");
    assert_body_with(&m, &streaming, "{\"model\":\"m\",\"stream\":true,\"stream_options\":{}}");
    options.has_include_usage = true;
    assert_body_with(
        &m, &streaming,
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":false}}");
}

static void test_dropped_parameters_are_left_out(void **state)
{
    static const char *const drop[] = {"best_of", "stop", "prompt", "user", "stream_options", NULL};
    struct translate_request_options options = streaming;
    Completion__V1__StreamOptions stream_options = COMPLETION__V1__STREAM_OPTIONS__INIT;
    translate_request_message m = new_request();

    (void)state;
    options.drop = drop;
    m.has_best_of = m.has_max_tokens = m.has_user = true;
    m.best_of = 1;
    m.user = text_of("u");
    m.stream_options = &stream_options;
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = text_of("p");
    m.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING;
    m.stop_string = text_of("s");
    assert_body_with(&m, &options, "{\"model\":\"m\",\"max_tokens\":0,\"stream\":true}");
}

static void assert_extra(const char *extra, const char *body)
{
    translate_request_message m = new_request();

    m.has_extra_body = true;
    m.extra_body = text_of(extra);
    assert_body(&m, body);
}

static void assert_extra_refused(const char *extra, const char *text)
{
    translate_request_message m = new_request();

    m.has_extra_body = true;
    m.extra_body = text_of(extra);
    assert_refused(&m, "extra_body", text);
}

static void test_extra_body_is_merged(void **state)
{
    (void)state;
    assert_extra("{}", "{\"model\":\"m\"}");
    assert_extra(" { } ", "{\"model\":\"m\"}");
    assert_extra("{\"top_k\":40,\"min_p\":1.50,\"g\":{\"a\":[1,{\"a\":null}],\"b\":\"\\u0000\"}}",
                 "{\"model\":\"m\",\"top_k\":40,\"min_p\":1.50,"
                 "\"g\":{\"a\":[1,{\"a\":null}],\"b\":\"\\u0000\"}}");
    /* Names of fields are free below the top. */
    assert_extra("{\"x\":{\"model\":1,\"stream\":2}}",
                 "{\"model\":\"m\",\"x\":{\"model\":1,\"stream\":2}}");
}

static void test_extra_body_must_be_an_object(void **state)
{
    (void)state;
    assert_extra_refused("[]", "not a JSON object");
    assert_extra_refused("\"x\"", "not a JSON object");
    assert_extra_refused("null", "not a JSON object");
    assert_extra_refused("1", "not a JSON object");
    assert_extra_refused("", "not valid JSON");
    assert_extra_refused("{", "not valid JSON");
    assert_extra_refused("{\"a\":1}{\"b\":2}", "not valid JSON");
    assert_extra_refused("{\"a\":1},\"b\":2", "not valid JSON");
    assert_extra_refused("{\"a\":NaN}", "not valid JSON");
    assert_extra_refused("{\"a\":1,}", "not valid JSON");
    assert_extra_refused("{'a':1}", "not valid JSON");
    assert_extra_refused("{\"a\":\"\xff\"}", "not valid JSON");
    assert_extra_refused("{\"a\":[1,2}", "not valid JSON");
}

static void test_extra_body_sets_no_field_of_the_request(void **state)
{
    static const char *const names[] = {
        "model",  "prompt",      "best_of",    "echo",   "frequency_penalty", "logit_bias",
        "n",      "logprobs",    "max_tokens", "seed",   "presence_penalty",  "stop",
        "stream", "temperature", "top_p",      "suffix", "stream_options",    "user",
    };

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[64], expected[64];

        snprintf(text, sizeof text, "{\"x\":1,\"%s\":1}", names[i]);
        snprintf(expected, sizeof expected, "sets %s;", names[i]);
        assert_extra_refused(text, expected);
    }
    assert_extra_refused("{\"temper\\u0061ture\":1}", "sets temperature;");
    assert_extra_refused("{\"Stream\":false}", "sets stream;");
    assert_extra_refused("{\"model\\u0000x\":1}", "sets model;");
}

static void test_extra_body_has_each_key_once(void **state)
{
    (void)state;
    assert_extra_refused("{\"a\":1,\"b\":2,\"a\":3}", "twice");
    assert_extra_refused("{\"a\":1,\"\\u0061\":2}", "twice");
    assert_extra_refused("{\"x\":{\"b\":1,\"a\":{},\"b\":1}}", "twice");
    assert_extra_refused("{\"x\":[1,[{\"a\":1,\"a\":1}]]}", "twice");
    assert_extra_refused("{\"\":1,\"\":1}", "twice");
    assert_extra("{\"a\":{\"a\":1},\"b\":{\"a\":1},\"A\":1,\"\":0,\"aa\":1}",
                 "{\"model\":\"m\",\"a\":{\"a\":1},\"b\":{\"a\":1},\"A\":1,\"\":0,\"aa\":1}");
}

static void test_extra_body_is_of_bounded_depth(void **state)
{
    char text[256] = "{\"a\":", expected[256] = "{\"model\":\"m\",\"a\":";

    (void)state;
    for (size_t i = 0; i < 31; i++)
        strcat(text, "[");
    for (size_t i = 0; i < 31; i++)
        strcat(text, "]");
    strcat(text, "}");
    strcat(expected, text + 5);
    assert_extra(text, expected);

    strcpy(text, "{\"a\":");
    for (size_t i = 0; i < 32; i++)
        strcat(text, "[");
    assert_extra_refused(text, "deeper than 32 levels");
    strcpy(text, "");
    for (size_t i = 0; i < 33; i++)
        strcat(text, "{\"a\":");
    assert_extra_refused(text, "deeper than 32 levels");
}

/* Distinct keys, and twice the same at the far ends: found, and without a square of work. */
static void test_extra_body_with_many_members(void **state)
{
    struct buffer text = BUFFER_INIT(1 << 24);
    translate_request_message m = new_request();

    (void)state;
    buffer_append_byte(&text, '{');
    for (unsigned i = 0; i < 200000; i++)
        buffer_printf(&text, "\"%x\":0,", i);
    buffer_append_string(&text, "\"0\":0}");
    m.has_extra_body = true;
    m.extra_body = (ProtobufCBinaryData){.len = buffer_length(&text), .data = buffer_bytes(&text)};
    assert_refused(&m, "extra_body", "twice");

    buffer_truncate(&text, buffer_length(&text) - 1);
    for (unsigned i = 200000; i < 400000; i++)
        buffer_printf(&text, ",\"%x\":0", i);
    buffer_append_byte(&text, '}');
    m.extra_body = (ProtobufCBinaryData){.len = buffer_length(&text), .data = buffer_bytes(&text)};
    assert_refused(&m, "extra_body", "too many members");
    buffer_done(&text);
}

static void test_extra_body_can_be_forbidden(void **state)
{
    struct translate_request_options options = unary;
    translate_request_message m = new_request();

    (void)state;
    options.allow_extra_body = false;
    m.has_extra_body = true;
    m.extra_body = text_of("{}");
    assert_refused_with(&m, &options, GRPC_PERMISSION_DENIED, "extra_body", "not allowed");
    m.has_extra_body = false;
    assert_body_with(&m, &options, "{\"model\":\"m\"}");
}

static void test_body_too_large_is_an_error(void **state)
{
    translate_request_message m = new_request();
    struct buffer body = BUFFER_INIT(10);
    struct translate_refusal refusal;

    (void)state;
    assert_int_equal(translate_request(&m, &unary, &body, &refusal), -EMSGSIZE);
    buffer_done(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_what_is_set_is_sent),
        cmocka_unit_test(test_zero_false_and_empty_are_sent),
        cmocka_unit_test(test_everything_in_the_order_of_the_schema),
        cmocka_unit_test(test_four_forms_of_prompt),
        cmocka_unit_test(test_empty_lists_and_negative_tokens_are_refused),
        cmocka_unit_test(test_at_most_four_stops),
        cmocka_unit_test(test_nul_and_controls_survive_in_texts),
        cmocka_unit_test(test_numbers_keep_their_value),
        cmocka_unit_test(test_what_is_not_finite_is_refused),
        cmocka_unit_test(test_ranges_are_checked_if_asked_for),
        cmocka_unit_test(test_best_of_and_n_fit_together),
        cmocka_unit_test(test_model_must_be_a_name),
        cmocka_unit_test(test_refusals_never_quote_texts),
        cmocka_unit_test(test_logit_bias_keys_are_strings_and_the_last_holds),
        cmocka_unit_test(test_stream_options_need_a_stream),
        cmocka_unit_test(test_dropped_parameters_are_left_out),
        cmocka_unit_test(test_extra_body_is_merged),
        cmocka_unit_test(test_extra_body_must_be_an_object),
        cmocka_unit_test(test_extra_body_sets_no_field_of_the_request),
        cmocka_unit_test(test_extra_body_has_each_key_once),
        cmocka_unit_test(test_extra_body_is_of_bounded_depth),
        cmocka_unit_test(test_extra_body_with_many_members),
        cmocka_unit_test(test_extra_body_can_be_forbidden),
        cmocka_unit_test(test_body_too_large_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
