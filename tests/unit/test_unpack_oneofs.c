/*
 * Oneofs that are set more than once, beside what protoc-c's own decoder makes of the same bytes:
 * the last one holds, messages outside of oneofs are joined, and what protobuf-c would forget (the
 * first parts of a oneof's message) is refused. tests/stock compares with protobuf itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "unpack_golden.h"

enum { PARTS_MAX = 10, RANDOM = 20000 };

/* Numbers of the request's fields. */
enum {
    MODEL = 1,
    PROMPT_STRING,
    PROMPT_STRINGS,
    PROMPT_TOKENS,
    PROMPT_TOKEN_ARRAYS,
    STOP_STRING = 15,
    STOP_STRINGS,
    STREAM_OPTIONS,
    UNKNOWN = 1000,
};

static const uint32_t numbers[] = {
    MODEL,       PROMPT_STRING, PROMPT_STRINGS, PROMPT_TOKENS, PROMPT_TOKEN_ARRAYS,
    STOP_STRING, STOP_STRINGS,  STREAM_OPTIONS, UNKNOWN,
};

/* ---- Messages ---- */

static void append_text(struct buffer *out, uint32_t number, unsigned which)
{
    static const char texts[] = "abc";

    wire_append_bytes(out, number, texts + which % 3, which % 4 > 0);
}

static void append_strings(struct buffer *out, uint32_t number, unsigned which)
{
    size_t mark = wire_begin(out, number);

    for (unsigned i = 0; i < which % 3; i++)
        append_text(out, 1, which + i);
    wire_end(out, mark);
}

static void append_tokens(struct buffer *out, uint32_t number, unsigned which)
{
    size_t mark = wire_begin(out, number);

    for (unsigned i = 0; i < which % 3; i++)
        wire_append_int(out, 1, which + i);
    wire_end(out, mark);
}

static void append_part(struct buffer *out, uint32_t number, unsigned which)
{
    size_t mark;

    switch (number) {
    case PROMPT_STRINGS:
    case STOP_STRINGS:
        append_strings(out, number, which);
        break;
    case PROMPT_TOKENS:
        append_tokens(out, number, which);
        break;
    case PROMPT_TOKEN_ARRAYS:
        mark = wire_begin(out, number);
        append_tokens(out, 1, which);
        wire_end(out, mark);
        break;
    case STREAM_OPTIONS:
        mark = wire_begin(out, number);
        wire_append_int(out, 1 + which % 2, which % 3 == 0);
        wire_end(out, mark);
        break;
    default:
        append_text(out, number, which);
    }
}

struct parts {
    uint32_t numbers[PARTS_MAX];
    size_t n;
};

static bool is_prompt(uint32_t number)
{
    return number >= PROMPT_STRING && number <= PROMPT_TOKEN_ARRAYS;
}

/* The field of the oneof that holds, 0 if there is none; and whether its message, or one before it,
 * comes in parts. */
static uint32_t find_last(const struct parts *p, bool prompt, bool *ret_in_parts)
{
    uint32_t last = 0;

    for (size_t i = 0; i < p->n; i++) {
        uint32_t number = p->numbers[i];
        bool is_stop = number == STOP_STRING || number == STOP_STRINGS;
        if (prompt ? !is_prompt(number) : !is_stop)
            continue;
        *ret_in_parts |= number == last && number != PROMPT_STRING && number != STOP_STRING;
        last = number;
    }
    return last;
}

/* ---- Both decoders ---- */

static void expect_same_bytes(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    uint8_t packed_a[512], packed_b[512];
    size_t len = protobuf_c_message_get_packed_size(a);

    assert_true(len <= sizeof packed_a);
    assert_int_equal(protobuf_c_message_get_packed_size(b), len);
    protobuf_c_message_pack(a, packed_a);
    protobuf_c_message_pack(b, packed_b);
    assert_memory_equal(packed_a, packed_b, len);
}

/* which: of the i-th part, to be what it is not in the next. */
static void compare(const struct parts *p, unsigned which)
{
    struct buffer b = BUFFER_INIT(4096);
    struct unpack_error error;
    ProtobufCMessage *message;
    bool in_parts = false;
    uint32_t prompt = find_last(p, true, &in_parts), stop = find_last(p, false, &in_parts);

    for (size_t i = 0; i < p->n; i++)
        append_part(&b, p->numbers[i], which + (unsigned)i);
    int r = unpack_message(UNPACK_REQUEST, REQUEST, buffer_bytes(&b), buffer_length(&b), &message,
                           &error);
    assert_int_equal(r, in_parts ? -EBADMSG : 0);
    if (r < 0) {
        assert_string_equal(error.text, "given in parts; send it as one");
        assert_non_null(strpbrk(error.field, "ps"));
    } else {
        const request_message *ours = (const request_message *)message;
        request_message *theirs = completion__v1__create_completion_request__unpack(
            NULL, buffer_length(&b), buffer_bytes(&b));
        assert_non_null(theirs);
        assert_int_equal(ours->prompt_case, prompt);
        assert_int_equal(ours->stop_case, stop);
        expect_same_bytes(message, &theirs->base);
        completion__v1__create_completion_request__free_unpacked(theirs, NULL);
        unpack_free(message);
    }
    buffer_done(&b);
}

/* ---- Tests ---- */

static void every_two_fields_and_every_three(void **state)
{
    enum { N = sizeof numbers / sizeof *numbers };
    (void)state;

    for (size_t i = 0; i < N * N * N; i++) {
        struct parts p = {{numbers[i % N], numbers[i / N % N], numbers[i / N / N]}, .n = 3};
        for (unsigned which = 0; which < 12; which++) {
            p.n = 2 + which % 2;
            compare(&p, which);
        }
    }
}

static void random_fields(void **state)
{
    uint32_t chance = 1;
    (void)state;

    for (int i = 0; i < RANDOM; i++) {
        struct parts p = {.n = 0};
        chance = chance * 1664525u + 1013904223u;
        for (size_t n = (chance >> 16) % PARTS_MAX; p.n < n;) {
            chance = chance * 1664525u + 1013904223u;
            p.numbers[p.n++] = numbers[(chance >> 16) % (sizeof numbers / sizeof *numbers)];
        }
        compare(&p, chance >> 8);
    }
}

static void what_was_said_last_holds(void **state)
{
    struct buffer b = BUFFER_INIT(4096);
    struct unpack_error error;
    ProtobufCMessage *message;
    (void)state;

    append_strings(&b, PROMPT_STRINGS, 2);
    append_tokens(&b, PROMPT_TOKENS, 2);
    append_strings(&b, PROMPT_STRINGS, 1);
    append_part(&b, STREAM_OPTIONS, 0);
    append_part(&b, STREAM_OPTIONS, 1);
    assert_int_equal(unpack_message(UNPACK_REQUEST, REQUEST, buffer_bytes(&b), buffer_length(&b),
                                    &message, &error),
                     0);
    const request_message *m = (const request_message *)message;
    assert_int_equal(m->prompt_case, PROMPT_STRINGS);
    assert_int_equal(m->prompt_strings->n_values, 1);
    assert_memory_equal(m->prompt_strings->values[0].data, "b", 1);
    assert_true(m->stream_options->has_include_obfuscation || m->stream_options->has_include_usage);
    assert_int_equal(m->stream_options->has_include_obfuscation,
                     m->stream_options->has_include_usage);
    unpack_free(message);
    buffer_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_two_fields_and_every_three),
        cmocka_unit_test(random_fields),
        cmocka_unit_test(what_was_said_last_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
