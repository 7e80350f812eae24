/* Server reflection: what is asked, and what comes back, with the files that the daemon serves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "descriptors.h"
#include "grpc_reflection.h"
#include "wire.h"

enum {
    FILE_BY_FILENAME = 3,
    FILE_CONTAINING_SYMBOL = 4,
    FILE_CONTAINING_EXTENSION = 5,
    EXTENSION_NUMBERS = 6,
    LIST_SERVICES = 7,
    FILE_DESCRIPTOR = 4,
    NUMBERS_RESPONSE = 5,
    SERVICES_RESPONSE = 6,
    ERROR_RESPONSE = 7,
};

static struct buffer reply;

static const struct wire_field *field_of(const uint8_t *message, size_t len, uint32_t number)
{
    static struct wire_field field;
    const uint8_t *p = message, *end = message + len;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0)
        if (field.number == number)
            return &field;
    assert_int_equal(rc, 0);
    return NULL;
}

/* Asks with these bytes; the answer is in `reply`, and has the question in it. */
static enum grpc_status ask_bytes(const void *request, size_t len)
{
    buffer_done(&reply);
    reply = BUFFER_INIT(SIZE_MAX);
    enum grpc_status status =
        grpc_reflection_answer(proto_descriptors, proto_descriptors_len, request, len, &reply);
    if (status == GRPC_OK) {
        const struct wire_field *f = field_of(buffer_bytes(&reply), buffer_length(&reply), 2);
        assert_non_null(f);
        assert_int_equal(f->len, len);
        assert_memory_equal(f->data, request, len);
    } else {
        assert_int_equal(buffer_length(&reply), 0);
    }
    return status;
}

/* The answer to one question must be of this kind; its content. */
static struct wire_field ask(uint32_t question, const char *text, uint32_t expected)
{
    struct buffer request = BUFFER_INIT(1000);

    wire_append_bytes(&request, question, text, strlen(text));
    assert_int_equal(ask_bytes(buffer_bytes(&request), buffer_length(&request)), GRPC_OK);
    buffer_done(&request);
    for (uint32_t number = FILE_DESCRIPTOR; number <= ERROR_RESPONSE; number++)
        if (!!field_of(buffer_bytes(&reply), buffer_length(&reply), number) != (number == expected))
            fail_msg("the answer to %s is not a %u", text, expected);
    return *field_of(buffer_bytes(&reply), buffer_length(&reply), expected);
}

static void assert_error(struct wire_field error, enum grpc_status status)
{
    assert_int_equal(field_of(error.data, error.len, 1)->value, status);
    assert_true(field_of(error.data, error.len, 2)->len > 0);
}

/* The answer is this file. */
static void assert_file(uint32_t question, const char *text, const char *name)
{
    struct wire_field answer = ask(question, text, FILE_DESCRIPTOR);
    const struct wire_field *file = field_of(answer.data, answer.len, 1);
    assert_non_null(file);
    assert_ptr_equal(file->data + file->len, answer.data + answer.len);
    const struct wire_field *own = field_of(file->data, file->len, 1);
    if (own->len != strlen(name) || memcmp(own->data, name, own->len) != 0)
        fail_msg("%s is in %.*s", text, (int)own->len, (const char *)own->data);
}

#define COMPLETION "completion/v1/completion.proto"
#define STATUS     "completion/v1/status.proto"
#define HEALTH     "grpc/health/v1/health.proto"
#define V1         "grpc/reflection/v1/reflection.proto"
#define V1ALPHA    "grpc/reflection/v1alpha/reflection.proto"

/* What the module takes for granted. */
static void files_import_nothing_and_have_no_extensions(void **state)
{
    const uint8_t *p = proto_descriptors, *end = p + proto_descriptors_len;
    struct wire_field file;
    size_t n = 0;
    (void)state;

    for (; wire_next(&p, end, &file) > 0; n++) {
        static const uint32_t without[] = {3 /* dependency */, 7 /* extension */,
                                           9 /* source_code_info */};
        for (size_t i = 0; i < sizeof without / sizeof *without; i++)
            assert_null(field_of(file.data, file.len, without[i]));
    }
    assert_int_equal(n, 5);
}

static void files_are_found_by_name(void **state)
{
    static const char *const files[] = {COMPLETION, STATUS, HEALTH, V1, V1ALPHA};
    static const char *const none[] = {"", "completion.proto", (COMPLETION "x"),
                                       "completion/v1/completion.prot", ("/" COMPLETION)};
    (void)state;

    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_file(FILE_BY_FILENAME, files[i], files[i]);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_error(ask(FILE_BY_FILENAME, none[i], ERROR_RESPONSE), GRPC_NOT_FOUND);
}

static void symbols_of_every_kind_are_found(void **state)
{
    static const struct {
        const char *symbol, *file;
    } symbols[] = {
        {"completion.v1.Completions", COMPLETION},
        {"completion.v1.Completions.CreateStream", COMPLETION},
        {"completion.v1.CreateCompletionRequest", COMPLETION},
        {"completion.v1.CreateCompletionRequest.prompt", COMPLETION},        /* oneof */
        {"completion.v1.CreateCompletionRequest.prompt_string", COMPLETION}, /* field */
        {"completion.v1.FinishReason", COMPLETION},
        {"completion.v1.FINISH_REASON_STOP", COMPLETION},
        {"completion.v1.Status.Get", STATUS},
        {"completion.v1.GetStatusResponse.pid", STATUS},
        {"grpc.health.v1.Health.Watch", HEALTH},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", HEALTH},
        {"grpc.health.v1.HealthCheckResponse.SERVING", HEALTH},
        {"grpc.reflection.v1.ServerReflection", V1},
        {"grpc.reflection.v1alpha.ServerReflection", V1ALPHA},
        {"grpc.reflection.v1alpha.ErrorResponse.error_code", V1ALPHA},
    };
    (void)state;

    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        assert_file(FILE_CONTAINING_SYMBOL, symbols[i].symbol, symbols[i].file);
}

static void what_is_no_symbol_is_not_found(void **state)
{
    static const char *const none[] = {
        "",
        ".",
        "completion",
        "completion.v1",
        "completion.v1.",
        ".completion.v1.Completions",
        "completion.v1.Completions.",
        "completion.v1.Completions.Creat",
        "completion.v1.Completions.Create.x",
        "completion.v1.Completion.",
        "completion.v1.Complet",
        "completion.v1.FinishReason.FINISH_REASON_STOP",
        "completion.v1.CreateCompletionRequest.prompt.prompt_string",
        "completion.v1.grpc.health.v1.Health",
        "grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING",
        "grpc.health.v1.SERVING",
    };
    (void)state;

    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_error(ask(FILE_CONTAINING_SYMBOL, none[i], ERROR_RESPONSE), GRPC_NOT_FOUND);
}

static void all_services_are_listed(void **state)
{
    static const char *const services[] = {
        "completion.v1.Completions",
        "completion.v1.Status",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    };
    struct wire_field list = ask(LIST_SERVICES, "*", SERVICES_RESPONSE), service;
    const uint8_t *p = list.data, *end = p + list.len;
    size_t n = 0;
    (void)state;

    for (; wire_next(&p, end, &service) > 0; n++) {
        const struct wire_field *name = field_of(service.data, service.len, 1);
        assert_true(n < sizeof services / sizeof *services);
        assert_int_equal(name->len, strlen(services[n]));
        assert_memory_equal(name->data, services[n], name->len);
    }
    assert_int_equal(n, sizeof services / sizeof *services);
}

static void messages_have_no_extensions(void **state)
{
    static const char message[] = "completion.v1.Completion", other[] = "completion.v1.Completions";
    (void)state;

    struct wire_field numbers = ask(EXTENSION_NUMBERS, message, NUMBERS_RESPONSE);
    const struct wire_field *name = field_of(numbers.data, numbers.len, 1);
    assert_int_equal(name->len, strlen(message));
    assert_memory_equal(name->data, message, name->len);
    assert_null(field_of(numbers.data, numbers.len, 2));
    assert_error(ask(EXTENSION_NUMBERS, other, ERROR_RESPONSE), GRPC_NOT_FOUND);
    assert_error(ask(EXTENSION_NUMBERS, "x", ERROR_RESPONSE), GRPC_NOT_FOUND);
    assert_error(ask(FILE_CONTAINING_EXTENSION, "\x0a\1x\x10\7", ERROR_RESPONSE), GRPC_NOT_FOUND);
}

static void without_a_question_it_says_so(void **state)
{
    static const char *const requests[] = {"", "\x0a\1h", "\x42\1x", "\x18\7", "\x12\1x"};
    (void)state;

    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        assert_int_equal(ask_bytes(requests[i], strlen(requests[i])), GRPC_OK);
        assert_error(*field_of(buffer_bytes(&reply), buffer_length(&reply), ERROR_RESPONSE),
                     GRPC_UNIMPLEMENTED);
    }
}

static void the_last_question_holds_and_the_host_comes_back(void **state)
{
    static const char request[] = "\x0a\4here\x1a\1x\x3a\0";
    (void)state;

    assert_int_equal(ask_bytes(request, sizeof request - 1), GRPC_OK);
    const struct wire_field *f = field_of(buffer_bytes(&reply), buffer_length(&reply), 1);
    assert_non_null(f);
    assert_int_equal(f->len, 4);
    assert_memory_equal(f->data, "here", 4);
    assert_non_null(field_of(buffer_bytes(&reply), buffer_length(&reply), SERVICES_RESPONSE));
}

static void requests_that_are_malformed_are_invalid(void **state)
{
    static const char *const bad[] = {
        "\x1a", "\x1a\5x", "\x22\2\xc3(", "\x0a\1\xff", "\x2a\3\x0a\1\xff", "\x2a\1\x0a", "\x0f\1"};
    (void)state;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ask_bytes(bad[i], strlen(bad[i])), GRPC_INVALID_ARGUMENT);
}

static int forget_reply(void **state)
{
    (void)state;
    buffer_done(&reply);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_import_nothing_and_have_no_extensions),
        cmocka_unit_test(files_are_found_by_name),
        cmocka_unit_test(symbols_of_every_kind_are_found),
        cmocka_unit_test(what_is_no_symbol_is_not_found),
        cmocka_unit_test(all_services_are_listed),
        cmocka_unit_test(messages_have_no_extensions),
        cmocka_unit_test(without_a_question_it_says_so),
        cmocka_unit_test(the_last_question_holds_and_the_host_comes_back),
        cmocka_unit_test(requests_that_are_malformed_are_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, forget_reply);
}
