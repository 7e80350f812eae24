/* Requests in the API's JSON: what message each becomes, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "openai_request.h"
#include "unpack.h"

static const struct translate_request_options options = {.validate = true,
                                                         .allow_extra_body = true};

/* The same JSON comes out again, by way of the message. */
static void assert_becomes(const char *json, const char *expected)
{
    struct buffer message = BUFFER_INIT(1 << 20), body = BUFFER_INIT(1 << 20);
    struct translate_refusal refusal = {0};
    struct unpack_error error;
    ProtobufCMessage *unpacked;
    bool stream = false;

    if (openai_request_read(json, strlen(json), &message, &stream, &refusal) < 0)
        fail_msg("%s: %s", json, refusal.text);
    assert_false(stream);
    assert_int_equal(
        unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                       buffer_bytes(&message), buffer_length(&message), &unpacked, &error),
        0);
    if (translate_request((translate_request_message *)unpacked, &options, &body, &refusal) < 0)
        fail_msg("%s: %s", json, refusal.text);
    buffer_append_byte(&body, '\0');
    assert_string_equal((char *)buffer_bytes(&body), expected);
    unpack_free(unpacked);
    buffer_done(&message);
    buffer_done(&body);
}

static void assert_same(const char *json)
{
    assert_becomes(json, json);
}

static void assert_refused(const char *json, const char *field, const char *text)
{
    struct buffer message = BUFFER_INIT(1 << 20);
    struct translate_refusal refusal = {0};
    bool stream = false;

    if (openai_request_read(json, strlen(json), &message, &stream, &refusal) != -EINVAL)
        fail_msg("%s: not refused", json);
    assert_int_equal(refusal.status, GRPC_INVALID_ARGUMENT);
    assert_string_equal(refusal.field, field);
    if (!strstr(refusal.text, text))
        fail_msg("%s: no \"%s\" in \"%s\"", json, text, refusal.text);
    buffer_done(&message);
}

static void test_each_parameter(void **state)
{
    static const char *const members[] = {
        "\"best_of\":3",
        "\"echo\":true",
        "\"echo\":false",
        "\"frequency_penalty\":-1.5",
        "\"logit_bias\":{\"0\":-100,\"50256\":0.25}",
        "\"logprobs\":0",
        "\"max_tokens\":2147483647",
        "\"n\":128",
        "\"presence_penalty\":2",
        "\"seed\":-9223372036854775808",
        "\"seed\":9223372036854775807",
        "\"stop\":\"\"",
        "\"stop\":[\"a\",\"b\",\"c\",\"d\"]",
        "\"suffix\":\"\\u0000\"",
        "\"temperature\":0.30000000000000004",
        "\"top_p\":0",
        "\"user\":\"u\"",
        "\"prompt\":\"\"",
        "\"prompt\":\"caf\xc3\xa9 \\\"\\n\"",
        "\"prompt\":[\"\"]",
        "\"prompt\":[\"a\",\"b\",\"c\"]",
        "\"prompt\":[0]",
        "\"prompt\":[1,2147483647]",
        "\"prompt\":[[1],[2,3]]",
    };
    char json[256];

    (void)state;
    assert_same("{\"model\":\"m\"}");
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        snprintf(json, sizeof json, "{\"model\":\"m\",%s}", members[i]);
        assert_same(json);
    }
}

static void test_null_is_absent(void **state)
{
    (void)state;
    assert_becomes("{\"prompt\":null,\"best_of\":null,\"echo\":null,\"frequency_penalty\":null,"
                   "\"logit_bias\":null,\"logprobs\":null,\"max_tokens\":null,\"n\":null,"
                   "\"presence_penalty\":null,\"seed\":null,\"stop\":null,\"stream\":null,"
                   "\"stream_options\":null,\"suffix\":null,\"temperature\":null,\"top_p\":null,"
                   "\"user\":null,\"model\":\"m\"}",
                   "{\"model\":\"m\"}");
}

static void test_spellings(void **state)
{
    (void)state;
    assert_becomes(" {\n\"n\" : 2.0 , \"mod\\u0065l\":\"\\u006d\",\"max_tokens\":1e1}\r\n",
                   "{\"model\":\"m\",\"max_tokens\":10,\"n\":2}");
    assert_becomes("{\"model\":\"m\",\"logit_bias\":{}}", "{\"model\":\"m\"}");
    assert_becomes("{\"model\":\"m\",\"logit_bias\":{\"5\":1,\"5\":2}}",
                   "{\"model\":\"m\",\"logit_bias\":{\"5\":2}}");
}

static void test_other_members(void **state)
{
    (void)state;
    assert_becomes("{\"top_k\":40,\"model\":\"m\",\"grammar\":{\"a\":[1,null,{\"b\":\"\\u0000\"}]},"
                   "\"n\":1,\"x\":1.50}",
                   "{\"model\":\"m\",\"n\":1,\"top_k\":40,"
                   "\"grammar\":{\"a\":[1,null,{\"b\":\"\\u0000\"}]},\"x\":1.50}");
}

static void test_stream(void **state)
{
    static const char json[] = "{\"stream\":true,\"stream_options\":{\"include_usage\":true,"
                               "\"include_obfuscation\":null}}";
    struct buffer message = BUFFER_INIT(1 << 10);
    struct translate_refusal refusal;
    bool stream = false;

    (void)state;
    assert_int_equal(openai_request_read(json, strlen(json), &message, &stream, &refusal), 0);
    assert_true(stream);
    /* Field 17, and in it field 2 alone. */
    assert_int_equal(buffer_length(&message), 5);
    assert_memory_equal(buffer_bytes(&message), "\x8a\x01\x02\x10\x01", 5);
    buffer_done(&message);
}

static void test_wrong_types(void **state)
{
    static const struct {
        const char *member, *field;
    } cases[] = {
        {"\"model\":1", "model"},
        {"\"prompt\":1", "prompt"},
        {"\"prompt\":{}", "prompt"},
        {"\"prompt\":[]", "prompt"},
        {"\"prompt\":[null]", "prompt"},
        {"\"prompt\":[\"a\",1]", "prompt"},
        {"\"prompt\":[1,\"a\"]", "prompt"},
        {"\"prompt\":[1.5]", "prompt"},
        {"\"prompt\":[2147483648]", "prompt"},
        {"\"prompt\":[[]]", "prompt"},
        {"\"prompt\":[[1],[]]", "prompt"},
        {"\"prompt\":[[1],2]", "prompt"},
        {"\"prompt\":[[\"a\"]]", "prompt"},
        {"\"prompt\":[[[1]]]", "prompt"},
        {"\"best_of\":\"1\"", "best_of"},
        {"\"best_of\":true", "best_of"},
        {"\"best_of\":1.5", "best_of"},
        {"\"best_of\":2147483648", "best_of"},
        {"\"echo\":1", "echo"},
        {"\"frequency_penalty\":\"1\"", "frequency_penalty"},
        {"\"frequency_penalty\":1e999", "frequency_penalty"},
        {"\"logit_bias\":[]", "logit_bias"},
        {"\"logit_bias\":{\"a\":1}", "logit_bias"},
        {"\"logit_bias\":{\"\":1}", "logit_bias"},
        {"\"logit_bias\":{\"1-\":1}", "logit_bias"},
        {"\"logit_bias\":{\"99999999999\":1}", "logit_bias"},
        {"\"logit_bias\":{\"99999999999999999999999\":1}", "logit_bias"},
        {"\"logit_bias\":{\"1\":null}", "logit_bias"},
        {"\"seed\":9223372036854775808", "seed"},
        {"\"stop\":[]", "stop"},
        {"\"stop\":[1]", "stop"},
        {"\"stop\":[\"a\",null]", "stop"},
        {"\"stream\":\"true\"", "stream"},
        {"\"stream_options\":true", "stream_options"},
        {"\"stream_options\":{\"include_usage\":1}", "stream_options"},
        {"\"stream_options\":{\"other\":true}", "stream_options"},
        {"\"user\":false", "user"},
    };
    char json[256];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(json, sizeof json, "{\"a\":1,%s,\"b\":2}", cases[i].member);
        assert_refused(json, cases[i].field, "must be");
    }
}

static void test_no_request(void **state)
{
    (void)state;
    assert_refused("", "", "not valid JSON");
    assert_refused("null", "", "not a JSON object");
    assert_refused("[]", "", "not a JSON object");
    assert_refused("\"a\"", "", "not a JSON object");
    assert_refused("{", "", "not valid JSON");
    assert_refused("{\"model\":\"m\"", "", "not valid JSON");
    assert_refused("{\"model\":\"m\"}}", "", "not valid JSON");
    assert_refused("{\"model\":\"\xc3\x28\"}", "", "not valid JSON");
    assert_refused("{\"prompt\":[\"a\",}", "", "not valid JSON");
    assert_refused("{\"prompt\":[1,2", "", "not valid JSON");
    assert_refused("{\"x\":[1,2}", "", "not valid JSON");
    assert_refused("{\"n\":1,\"m\":2,\"n\":1}", "n", "twice");
    assert_refused("{\"n\":null,\"n\":1}", "n", "twice");
}

static void test_message_that_is_too_large(void **state)
{
    static const char json[] = "{\"model\":\"0123456789abcdef\",\"x\":\"0123456789abcdef\"}";
    struct translate_refusal refusal;
    bool stream;

    (void)state;
    for (size_t limit = 0; limit < 40; limit++) {
        struct buffer message = BUFFER_INIT(limit);
        assert_int_equal(openai_request_read(json, strlen(json), &message, &stream, &refusal),
                         -EMSGSIZE);
        buffer_done(&message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_parameter), cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_spellings),      cmocka_unit_test(test_other_members),
        cmocka_unit_test(test_stream),         cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_no_request),     cmocka_unit_test(test_message_that_is_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
