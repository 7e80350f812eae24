/* The headers and trailers of one response: which make a call go on, and with what status it ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <string.h>

#include "grpc_response.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define HEADERS      ":status: 200\ncontent-type: application/grpc\n"

/* "name: value" lines. */
static void add_block(struct grpc_response *r, const char *lines)
{
    grpc_response_begin_block(r);
    while (*lines) {
        const char *colon = strstr(lines, ": "), *end = strchr(lines, '\n');
        grpc_response_add(r, (const uint8_t *)lines, (size_t)(colon - lines),
                          (const uint8_t *)colon + 2, (size_t)(end - colon - 2));
        lines = end + 1;
    }
}

/* A block that is not the last: NULL if the call goes on, else why not. */
static const char *block_fault(struct grpc_response *r, const char *lines,
                               enum grpc_status *ret_status)
{
    const char *text = NULL;

    add_block(r, lines);
    if (grpc_response_end_block(r, ret_status, &text)) {
        assert_null(text);
        return NULL;
    }
    assert_non_null(text);
    return text;
}

static void a_first_block_says_whether_it_is_grpc(void **state)
{
    static const struct {
        const char *lines, *fault;
        enum grpc_status status;
    } table[] = {
        {HEADERS, NULL, GRPC_OK},
        {HEADERS "grpc-encoding: identity\n", NULL, GRPC_OK},
        {HEADERS "grpc-encoding: gzip\n", "compressed", GRPC_INTERNAL},
        {":status: 200\ncontent-type: text/html\n", "content-type", GRPC_UNKNOWN},
        {":status: 200\n", "content-type", GRPC_UNKNOWN},
        {":status: 404\n", "HTTP 404", GRPC_UNIMPLEMENTED},
        {":status: 418\n", "with HTTP", GRPC_UNKNOWN},
        /* No number of three digits is none. */
        {"content-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
        {":status: \ncontent-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
        {":status: 2000\ncontent-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
        {":status: 2x0\ncontent-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
        {":status: 2/0\ncontent-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
        {":status: 99\ncontent-type: application/grpc\n", "with HTTP", GRPC_UNKNOWN},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct grpc_response r;
        enum grpc_status status = GRPC_OK;

        grpc_response_init(&r, 1000);
        const char *fault = block_fault(&r, table[i].lines, &status);
        if (table[i].fault)
            assert_non_null(fault ? strstr(fault, table[i].fault) : NULL);
        else
            assert_null(fault);
        assert_int_equal(status, table[i].status);
        grpc_response_done(&r);
    }
}

static void informational_blocks_may_come_before_but_no_second_one(void **state)
{
    struct grpc_response r;
    enum grpc_status status = GRPC_OK;
    (void)state;

    grpc_response_init(&r, 1000);
    assert_null(block_fault(&r, ":status: 100\n", &status));
    assert_null(block_fault(&r, ":status: 199\ngrpc-status: 0\n", &status));
    assert_null(block_fault(&r, HEADERS, &status));
    assert_string_equal(block_fault(&r, HEADERS, &status), "the server sent headers twice");
    assert_int_equal(status, GRPC_INTERNAL);
    grpc_response_done(&r);
}

static void each_block_has_the_limit_to_itself(void **state)
{
    struct grpc_response r;
    enum grpc_status status = GRPC_OK;
    const char *text;
    (void)state;

    grpc_response_init(&r, 200);
    assert_null(block_fault(&r, HEADERS, &status));
    add_block(&r, "grpc-status: 5\ngrpc-message: a text as long as it may be here........\n");
    assert_int_equal(grpc_response_end(&r, &text), GRPC_NOT_FOUND);
    assert_null(text);
    add_block(&r, "a: b\nc: d\ne: f\ng: h\ni: j\nk: l\ngrpc-status: 0\n");
    assert_int_equal(grpc_response_end(&r, &text), GRPC_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(text, "too large"));
    grpc_response_done(&r);

    grpc_response_init(&r, 60);
    assert_non_null(strstr(block_fault(&r, HEADERS, &status), "too large"));
    assert_int_equal(status, GRPC_RESOURCE_EXHAUSTED);
    grpc_response_done(&r);
}

static void trailers_say_the_status(void **state)
{
    static const struct {
        const char *lines;
        enum grpc_status status;
        bool is_said; /* by the server */
    } table[] = {
        {"grpc-status: 0\n", GRPC_OK, true},
        {"grpc-status: 16\n", GRPC_UNAUTHENTICATED, true},
        {"grpc-status: 17\n", GRPC_UNKNOWN, true},
        {"grpc-status: -1\n", GRPC_UNKNOWN, true},
        {"grpc-status: \n", GRPC_UNKNOWN, true},
        {"grpc-status: 0000\n", GRPC_UNKNOWN, true},
        {"x: y\n", GRPC_UNKNOWN, false},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct grpc_response r;
        enum grpc_status status;
        const char *text;

        grpc_response_init(&r, 1000);
        /* A status in the headers is not one of the trailers. */
        assert_null(block_fault(&r, HEADERS "grpc-status: 0\n", &status));
        add_block(&r, table[i].lines);
        assert_int_equal(grpc_response_end(&r, &text), table[i].status);
        assert_int_equal(text == NULL, table[i].is_said);
        grpc_response_done(&r);
    }
}

static void details_that_are_no_base64_are_none_and_the_message_holds(void **state)
{
    struct grpc_response r;
    const char *text;
    (void)state;

    grpc_response_init(&r, 1000);
    add_block(&r, HEADERS "grpc-status: 3\ngrpc-message: a%20b\ngrpc-message: c%20d\n"
                          "grpc-status-details-bin: Zm9v\ngrpc-status-details-bin: Zm9!\n");
    assert_int_equal(grpc_response_end(&r, &text), GRPC_INVALID_ARGUMENT);
    assert_int_equal(buffer_length(&r.message), 3);
    assert_memory_equal(buffer_bytes(&r.message), "c d", 3);
    assert_int_equal(buffer_length(&r.details), 0);
    grpc_response_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_block_says_whether_it_is_grpc),
        cmocka_unit_test(informational_blocks_may_come_before_but_no_second_one),
        cmocka_unit_test(each_block_has_the_limit_to_itself),
        cmocka_unit_test(trailers_say_the_status),
        cmocka_unit_test(details_that_are_no_base64_are_none_and_the_message_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
