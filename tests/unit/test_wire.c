/* The wire format: what is written is what protobuf-c packs, and what is read is what was written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "completion/v1/completion.pb-c.h"
#include "wire.h"

enum { TEXT_MAX = 1 << 24 };

static void expect(struct buffer *b, const char *bytes, size_t len)
{
    assert_int_equal(b->error, 0);
    assert_int_equal(buffer_length(b), len);
    assert_memory_equal(buffer_bytes(b), bytes, len);
    buffer_done(b);
}

#define EXPECT(b, bytes) expect(b, bytes, sizeof(bytes) - 1)

/* ---- Varints ---- */

static void test_varints_come_back(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit <= 64; bit++) {
        for (int more = -1; more <= 1; more++) {
            uint64_t value = (bit < 64 ? UINT64_C(1) << bit : 0) + (uint64_t)(int64_t)more, back;
            struct buffer b = BUFFER_INIT(TEXT_MAX);

            wire_append_varint(&b, value);
            size_t len = buffer_length(&b), bits = value ? 64 - (size_t)__builtin_clzll(value) : 1;
            assert_int_equal(len, (bits + 6) / 7);
            const uint8_t *p = buffer_bytes(&b), *end = p + len;
            assert_true(wire_read_varint(&p, end, &back));
            assert_true(back == value && p == end);
            /* Cut, it is none. */
            for (size_t n = 0; n < len; n++) {
                p = buffer_bytes(&b);
                assert_false(wire_read_varint(&p, p + n, &back));
            }
            buffer_done(&b);
        }
    }
}

static bool reads(const char *bytes, size_t len, uint64_t expected)
{
    const uint8_t *p = (const uint8_t *)bytes, *end = p + len;
    uint64_t value = 4711;

    bool ok = wire_read_varint(&p, end, &value);
    assert_true(ok || value == 4711);
    return ok && value == expected && p == end;
}

#define READS(bytes, value) reads(bytes, sizeof(bytes) - 1, value)

static void test_varints_have_64_bits(void **state)
{
    (void)state;
    assert_true(READS("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", UINT64_MAX));
    assert_true(READS("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", UINT64_C(1) << 63));
    assert_true(READS("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 0));
    assert_true(READS("\x81\x00", 1));
    assert_false(READS("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", 0));
    assert_false(READS("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", UINT64_MAX));
    assert_false(READS("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 0));
    assert_false(READS("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0));
    assert_false(READS("", 0));
}

/* ---- Fields ---- */

static void test_fields_as_bytes(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    (void)state;
    wire_append_int(&b, 1, 150);
    wire_append_int(&b, 16, -1);
    wire_append_double(&b, 2, -2.0);
    wire_append_bytes(&b, 3, "a\0b", 3);
    wire_append_bytes(&b, 4, NULL, 0);
    wire_append_tag(&b, 536870911, WIRE_I32);
    EXPECT(&b, "\x08\x96\x01"
               "\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
               "\x11\0\0\0\0\0\0\0\xc0"
               "\x1a\x03"
               "a\0b"
               "\x22\x00"
               "\xfd\xff\xff\xff\x0f");
}

static void test_fields_come_back(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct wire_field f = {0};

    (void)state;
    wire_append_int(&b, 1, INT64_MIN);
    wire_append_double(&b, 2, 0.1);
    wire_append_bytes(&b, 536870911, "text", 4);
    wire_append_tag(&b, 4, WIRE_I32);
    buffer_append(&b, "\x01\x02\x03\xff", 4);
    const uint8_t *p = buffer_bytes(&b), *end = p + buffer_length(&b);
    assert_int_equal(wire_next(&p, end, &f), 1);
    assert_true(f.number == 1 && f.type == WIRE_VARINT && (int64_t)f.value == INT64_MIN);
    assert_int_equal(wire_next(&p, end, &f), 1);
    assert_true(f.number == 2 && f.type == WIRE_I64 && f.value == UINT64_C(0x3fb999999999999a));
    assert_int_equal(wire_next(&p, end, &f), 1);
    assert_true(f.number == 536870911 && f.type == WIRE_LEN && f.len == 4);
    assert_memory_equal(f.data, "text", 4);
    assert_int_equal(wire_next(&p, end, &f), 1);
    assert_true(f.number == 4 && f.type == WIRE_I32 && f.value == 0xff030201);
    assert_int_equal(wire_next(&p, end, &f), 0);
    assert_int_equal(wire_next(&p, end, &f), 0);
    assert_int_equal(f.number, 4);
    buffer_done(&b);
}

static void test_malformed_fields_are_refused(void **state)
{
    static const struct {
        const char *data;
        size_t len;
    } texts[] = {
#define MESSAGE(text) {text, sizeof(text) - 1}
        MESSAGE("\x00"),
        MESSAGE("\x07\x00"),
        MESSAGE("\x80"),
        MESSAGE("\x08"),
        MESSAGE("\x08\xff"),
        MESSAGE("\x09\0\0\0\0\0\0\0"),
        MESSAGE("\x0d\0\0\0"),
        MESSAGE("\x0a"),
        MESSAGE("\x0a\x02x"),
        MESSAGE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        MESSAGE("\x0b"),
        MESSAGE("\x0c"),
        MESSAGE("\x0e\x00"),
        MESSAGE("\x0f\x00"),
        MESSAGE("\x88\x80\x80\x80\x10\x00"),
        MESSAGE("\x88\x80\x80\x80\x80\x00\x00"),
        MESSAGE("\x0a\x81\x80\x80\x80\x80\x00x"),
#undef MESSAGE
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct wire_field f = {.number = 4711};
        uint8_t *copy = malloc(texts[i].len);
        assert_non_null(copy);
        memcpy(copy, texts[i].data, texts[i].len);
        const uint8_t *p = copy;
        assert_int_equal(wire_next(&p, copy + texts[i].len, &f), -EBADMSG);
        assert_int_equal(f.number, 4711);
        free(copy);
    }
}

/* ---- Lengths that are known late ---- */

/* In their shortest form at every size where it changes, at every depth. */
static void test_lengths_are_shortest(void **state)
{
    static const size_t sizes[] = {0, 1, 127, 128, 129, 16383, 16384, 16385, 2097151, 2097152};
    static char text[2097152];

    (void)state;
    memset(text, 'x', sizeof text);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buffer marked = BUFFER_INIT(TEXT_MAX), plain = BUFFER_INIT(TEXT_MAX);
        wire_append_int(&marked, 1, 1);
        size_t outer = wire_begin(&marked, 2), inner = wire_begin(&marked, 100);
        buffer_append(&marked, text, sizes[i]);
        wire_end(&marked, inner);
        wire_end(&marked, outer);
        wire_append_int(&marked, 3, 1);

        struct buffer body = BUFFER_INIT(TEXT_MAX);
        wire_append_bytes(&body, 100, text, sizes[i]);
        wire_append_int(&plain, 1, 1);
        wire_append_bytes(&plain, 2, buffer_bytes(&body), buffer_length(&body));
        wire_append_int(&plain, 3, 1);
        expect(&marked, (char *)buffer_bytes(&plain), buffer_length(&plain));
        buffer_done(&body);
        buffer_done(&plain);
    }
}

/* Bytes that were consumed meanwhile do not count. */
static void test_marks_in_a_queue(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    (void)state;
    buffer_append(&b, "0123456789", 10);
    buffer_consume(&b, 8);
    size_t mark = wire_begin(&b, 1);
    for (int i = 0; i < 300; i++)
        buffer_append_byte(&b, 'x');
    wire_end(&b, mark);
    assert_int_equal(buffer_length(&b), 2 + 1 + 2 + 300);
    assert_memory_equal(buffer_bytes(&b), "89\x0a\xac\x02xxx", 8);
    buffer_done(&b);
}

/* A buffer that is full stays so, and nothing is written beyond. */
static void test_errors_are_the_buffers(void **state)
{
    (void)state;
    for (size_t limit = 0; limit < 180; limit++) {
        struct buffer b = BUFFER_INIT(limit);
        size_t mark = wire_begin(&b, 1);
        for (int i = 0; i < 150; i++)
            buffer_append_byte(&b, 'x');
        wire_end(&b, mark);
        assert_true(buffer_length(&b) <= limit);
        assert_int_equal(b.error == 0, limit >= 153);
        buffer_done(&b);
    }
}

/* ---- Beside protobuf-c ---- */

static void test_writes_as_protobuf_c(void **state)
{
    Completion__V1__CompletionUsage usage = COMPLETION__V1__COMPLETION_USAGE__INIT;
    Completion__V1__TopLogprob top = COMPLETION__V1__TOP_LOGPROB__INIT;
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    uint8_t packed[256];

    (void)state;
    usage.has_completion_tokens = usage.has_prompt_tokens = usage.has_extra = 1;
    usage.completion_tokens = INT64_MAX;
    usage.prompt_tokens = -5;
    usage.extra = (ProtobufCBinaryData){2, (uint8_t *)"{}"};
    wire_append_int(&b, 1, INT64_MAX);
    wire_append_int(&b, 2, -5);
    wire_append_bytes(&b, 6, "{}", 2);
    size_t n = completion__v1__completion_usage__pack(&usage, packed);
    expect(&b, (char *)packed, n);

    top.has_token = top.has_logprob = 1;
    top.token = (ProtobufCBinaryData){3, (uint8_t *)"a\0b"};
    top.logprob = -1e-300;
    wire_append_bytes(&b, 1, "a\0b", 3);
    wire_append_double(&b, 2, -1e-300);
    n = completion__v1__top_logprob__pack(&top, packed);
    expect(&b, (char *)packed, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_varints_come_back),
        cmocka_unit_test(test_varints_have_64_bits),
        cmocka_unit_test(test_fields_as_bytes),
        cmocka_unit_test(test_fields_come_back),
        cmocka_unit_test(test_malformed_fields_are_refused),
        cmocka_unit_test(test_lengths_are_shortest),
        cmocka_unit_test(test_marks_in_a_queue),
        cmocka_unit_test(test_errors_are_the_buffers),
        cmocka_unit_test(test_writes_as_protobuf_c),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
