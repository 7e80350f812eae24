/* Messages from peers: what is taken, and which field is said to be wrong in what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "unpack_golden.h"

enum { TEXT_MAX = 1 << 20 };

#define MALFORMED "not a well-formed protobuf message"

/* Unpacks a copy of just the size, where a sanitizer sees any byte too far. */
static int unpack(enum unpack_kind kind, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                  size_t len, ProtobufCMessage **ret, struct unpack_error *error)
{
    uint8_t *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    if (len)
        memcpy(copy, data, len);
    *error = (struct unpack_error){"?", "?"};
    int r = unpack_message(kind, d, copy, len, ret, error);
    free(copy);
    return r;
}

static void *accept_kind(enum unpack_kind kind, const ProtobufCMessageDescriptor *d,
                         struct buffer *b)
{
    ProtobufCMessage *message = NULL;
    struct unpack_error error;

    assert_int_equal(b->error, 0);
    int r = unpack(kind, d, buffer_bytes(b), buffer_length(b), &message, &error);
    if (r < 0)
        fail_msg("%d: \"%s\": %s", r, error.field, error.text);
    buffer_done(b);
    return message;
}

static request_message *accept(struct buffer *b)
{
    return accept_kind(UNPACK_REQUEST, REQUEST, b);
}

static void refuse_kind(enum unpack_kind kind, const ProtobufCMessageDescriptor *d,
                        struct buffer *b, const char *field, const char *text)
{
    ProtobufCMessage *message = NULL;
    struct unpack_error error;

    assert_int_equal(b->error, 0);
    int r = unpack(kind, d, buffer_bytes(b), buffer_length(b), &message, &error);
    assert_int_equal(r, -EBADMSG);
    assert_null(message);
    assert_string_equal(error.field, field);
    assert_string_equal(error.text, text);
    buffer_done(b);
}

static void refuse(struct buffer *b, const char *field, const char *text)
{
    refuse_kind(UNPACK_REQUEST, REQUEST, b, field, text);
}

static struct buffer bytes(const void *data, size_t len)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    buffer_append(&b, data, len);
    return b;
}

#define BYTES(text) bytes(text, sizeof(text) - 1)

static bool data_is(ProtobufCBinaryData d, const char *text, size_t len)
{
    return d.len == len && (len == 0 || memcmp(d.data, text, len) == 0);
}

/* ---- What is taken ---- */

static void test_the_golden_request(void **state)
{
    struct buffer b = golden_request();
    request_message *m = accept(&b);

    (void)state;
    assert_true(m->has_model && data_is(m->model, "stories-260k", 12));
    assert_int_equal(m->prompt_case,
                     COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_TOKEN_ARRAYS);
    assert_int_equal(m->prompt_token_arrays->n_values, 2);
    assert_int_equal(m->prompt_token_arrays->values[0]->ids[1], INT32_MAX);
    assert_int_equal(m->prompt_token_arrays->values[1]->ids[0], -1);
    assert_true(m->has_echo && m->echo);
    assert_int_equal(m->n_logit_bias, 2);
    assert_true(m->logit_bias[1]->key == 11 && m->logit_bias[1]->value == 0.25);
    assert_true(m->has_seed && m->seed == INT64_MIN);
    assert_int_equal(m->stop_case, COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRINGS);
    assert_true(data_is(m->stop_strings->values[1], "", 0));
    assert_true(m->stream_options->has_include_obfuscation &&
                !m->stream_options->include_obfuscation);
    assert_true(m->has_extra_body && data_is(m->extra_body, "{\"top_k\":40}", 12));
    unpack_free(&m->base);
}

static void test_an_empty_message(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    request_message *m = accept(&b);

    (void)state;
    assert_false(m->has_model);
    assert_int_equal(m->prompt_case, 0);
    unpack_free(&m->base);
    unpack_free(NULL);
}

static void test_nul_is_kept(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    (void)state;
    wire_append_bytes(&b, 2, "a\0b\0", 4);
    wire_append_bytes(&b, 18, "\0", 1);
    request_message *m = accept(&b);
    assert_true(data_is(m->prompt_string, "a\0b\0", 4));
    assert_true(data_is(m->suffix, "\0", 1));
    unpack_free(&m->base);
}

static void test_the_last_of_two_holds(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    (void)state;
    golden_bytes(&b, 1, "one");
    golden_bytes(&b, 1, "two");
    wire_append_int(&b, 12, 1);
    wire_append_int(&b, 12, 2);
    golden_tokens(&b, 4, 1, 2);
    golden_bytes(&b, 2, "text");
    wire_append_bytes(&b, 16, NULL, 0);
    golden_bytes(&b, 15, "stop");
    request_message *m = accept(&b);
    assert_true(data_is(m->model, "two", 3));
    assert_int_equal(m->n, 2);
    assert_int_equal(m->prompt_case,
                     COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING);
    assert_true(data_is(m->prompt_string, "text", 4));
    assert_int_equal(m->stop_case, COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING);
    unpack_free(&m->base);
}

/* As protobuf has it: parts of one sub-message are one sub-message. */
static void test_sub_messages_merge(void **state)
{
    struct buffer b = BYTES("\x8a\x01\x02\x08\x01\x8a\x01\x02\x10\x01\x8a\x01\x02\x08\x00");
    request_message *m = accept(&b);

    (void)state;
    assert_true(m->stream_options->has_include_usage && m->stream_options->include_usage);
    assert_true(m->stream_options->has_include_obfuscation &&
                !m->stream_options->include_obfuscation);
    unpack_free(&m->base);
}

/* Repeated numbers may come packed and not, whatever the schema says. */
static void test_tokens_packed_and_not(void **state)
{
    struct buffer b = BYTES("\x22\x0a\x08\x01\x0a\x02\x02\x03\x0a\x00\x08\x04");
    request_message *m = accept(&b);

    (void)state;
    assert_int_equal(m->prompt_tokens->n_ids, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(m->prompt_tokens->ids[i], i + 1);
    unpack_free(&m->base);
}

/* ---- Cuts and flips ---- */

static void test_every_cut(void **state)
{
    struct buffer golden = golden_request();
    const uint8_t *data = buffer_bytes(&golden), *boundary = data;
    size_t len = buffer_length(&golden);
    struct wire_field field;

    (void)state;
    for (size_t n = 0; n <= len; n++) {
        struct unpack_error error;
        ProtobufCMessage *message = NULL;
        int r = unpack(UNPACK_REQUEST, REQUEST, data, n, &message, &error);

        if (boundary == data + n) {
            assert_int_equal(r, 0);
            unpack_free(message);
            wire_next(&boundary, data + len, &field);
        } else {
            assert_int_equal(r, -EBADMSG);
            assert_null(message);
            assert_string_equal(error.text, MALFORMED);
        }
    }
    buffer_done(&golden);
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *ret_len)
{
    size_t len = *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(len ? len : 1);

    assert_non_null(packed);
    assert_int_equal(protobuf_c_message_pack(message, packed), len);
    return packed;
}

/* What was accepted, packed again, is accepted again, as the same. */
static void check_repacks(const ProtobufCMessageDescriptor *d, ProtobufCMessage *message)
{
    ProtobufCMessage *again = NULL;
    struct unpack_error error;
    size_t len, again_len;
    uint8_t *packed = pack(message, &len), *again_packed;

    int r = unpack(UNPACK_REQUEST, d, packed, len, &again, &error);
    if (r < 0)
        fail_msg("%d: \"%s\": %s", r, error.field, error.text);
    again_packed = pack(again, &again_len);
    assert_int_equal(again_len, len);
    assert_memory_equal(again_packed, packed, len);
    unpack_free(again);
    free(packed);
    free(again_packed);
}

static void test_every_flipped_bit(void **state)
{
    struct buffer golden = golden_request();
    uint8_t *data = buffer_bytes(&golden);
    size_t len = buffer_length(&golden), n_accepted = 0;

    (void)state;
    for (size_t bit = 0; bit < 8 * len; bit++) {
        struct unpack_error error;
        ProtobufCMessage *message = NULL;

        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int r = unpack(UNPACK_REQUEST, REQUEST, data, len, &message, &error);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (r == 0) {
            check_repacks(REQUEST, message);
            unpack_free(message);
            n_accepted++;
        } else {
            assert_int_equal(r, -EBADMSG);
            assert_null(message);
            assert_true(*error.text && *error.text != '?');
        }
    }
    /* A flip in a text or a number is another text or number. */
    assert_true(n_accepted > len && n_accepted < 7 * len);
    buffer_done(&golden);
}

/* ---- What is refused ---- */

static void test_malformed_fields(void **state)
{
    static const struct {
        const char *data;
        size_t len;
    } texts[] = {
#define MESSAGE(text) {text, sizeof(text) - 1}
        MESSAGE("\x00"),                                             /* field 0 */
        MESSAGE("\x00\x00"),                                         /* field 0, a varint */
        MESSAGE("\x02\x00"),                                         /* field 0, bytes */
        MESSAGE("\x30"),                                             /* no value */
        MESSAGE("\x30\x80"),                                         /* a value without end */
        MESSAGE("\x70\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),     /* more than 64 bits */
        MESSAGE("\x70\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), /* eleven bytes */
        MESSAGE("\x0a"),                                             /* no length */
        MESSAGE("\x0a\x01"),                                         /* no bytes */
        MESSAGE("\x0a\x05"
                "abcd"),
        MESSAGE("\x0a\xff\xff\xff\xff\x0f"), /* 4 GiB */
        MESSAGE("\x0a\xff\xff\xff\xff\x7f"), /* more than 32 bits */
        MESSAGE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        MESSAGE("\x0a\x80\x80\x80\x80\x80\x00"), /* 0 in six bytes */
        MESSAGE("\x8a\x80\x80\x80\x80\x00\x00"), /* a tag of six bytes */
        MESSAGE("\x88\x80\x80\x80\x10\x00"),     /* a tag of more than 32 bits */
        MESSAGE("\x41\x00\x00\x00\x00\x00\x00\x00"),
        MESSAGE("\xf5\x01\x00\x00\x00"),
        MESSAGE("\x0e"), /* types 6 and 7 */
        MESSAGE("\x0f"),
        MESSAGE("\x0b\x0c"), /* groups, of a field and of none */
        MESSAGE("\x0c"),
        MESSAGE("\xa3\x06\xa4\x06"),
        MESSAGE("\xa4\x06"),
#undef MESSAGE
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct buffer b = bytes(texts[i].data, texts[i].len);
        refuse(&b, "", MALFORMED);
        /* In a sub-message it is to blame. */
        b = BUFFER_INIT(TEXT_MAX);
        wire_append_bytes(&b, 17, texts[i].data, texts[i].len);
        refuse(&b, "stream_options", MALFORMED);
    }
}

/* A tag or length may be longer than it need be, up to five bytes. */
static void test_long_forms(void **state)
{
    struct buffer b = BYTES("\x8a\x80\x80\x80\x00\x81\x80\x80\x80\x00"
                            "A"
                            "\xb0\x80\x00\x85\x80\x80\x80\x80\x80\x80\x80\x80\x00");
    request_message *m = accept(&b);

    (void)state;
    assert_true(data_is(m->model, "A", 1));
    assert_int_equal(m->best_of, 5);
    unpack_free(&m->base);
}

static void append_type(struct buffer *b, uint32_t field, enum wire_type type)
{
    wire_append_tag(b, field, type);
    buffer_append(b, "\0\0\0\0\0\0\0", type == WIRE_I64 ? 8 : type == WIRE_I32 ? 4 : 1);
}

/* Each field of the schema with each type that is not its own. */
static void test_wrong_wire_types(void **state)
{
    static const enum wire_type types[] = {WIRE_VARINT, WIRE_I64, WIRE_LEN, WIRE_I32};

    (void)state;
    for (unsigned i = 0; i < REQUEST->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &REQUEST->fields[i];
        enum wire_type own =
            f->type == PROTOBUF_C_TYPE_DOUBLE                                        ? WIRE_I64
            : f->type == PROTOBUF_C_TYPE_BYTES || f->type == PROTOBUF_C_TYPE_MESSAGE ? WIRE_LEN
                                                                                     : WIRE_VARINT;
        for (size_t k = 0; k < 4; k++) {
            struct buffer b = BUFFER_INIT(TEXT_MAX);
            append_type(&b, f->id, types[k]);
            if (types[k] == own)
                unpack_free(&accept(&b)->base);
            else
                refuse(&b, f->name, "of the wrong wire type");
        }
    }
}

static void test_unknown_fields_are_few(void **state)
{
    static const struct {
        enum unpack_kind kind;
        unsigned n;
    } kinds[] = {{UNPACK_REQUEST, 16}, {UNPACK_REPLY, 4096}};

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        for (unsigned extra = 0; extra < 2; extra++) {
            struct buffer b = BUFFER_INIT(TEXT_MAX);
            /* Some of them in a sub-message. */
            size_t mark = wire_begin(&b, 17);
            append_type(&b, 100, WIRE_VARINT);
            append_type(&b, 536870911, WIRE_I32);
            wire_end(&b, mark);
            for (unsigned i = 2; i < kinds[k].n + extra; i++)
                wire_append_bytes(&b, 1000 + i, "\xff\xfe", 2);
            if (!extra) {
                request_message *m = accept_kind(kinds[k].kind, REQUEST, &b);
                assert_int_equal(m->base.n_unknown_fields, kinds[k].n - 2);
                assert_int_equal(m->stream_options->base.n_unknown_fields, 2);
                unpack_free(&m->base);
            } else {
                refuse_kind(kinds[k].kind, REQUEST, &b, "", "too many fields that are not known");
            }
        }
    }
}

static void test_strings_that_are_not_utf8(void **state)
{
    static const char *const bad[] = {"\xff",        "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "abc\xe2\x82", "\x80"};
    static const struct {
        uint32_t field, inner;
        const char *path;
    } places[] = {
        {1, 0, "model"},        {2, 0, "prompt_string"},        {3, 1, "prompt_strings.values"},
        {15, 0, "stop_string"}, {16, 1, "stop_strings.values"}, {18, 0, "suffix"},
        {21, 0, "user"},        {22, 0, "extra_body"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            struct buffer b = BUFFER_INIT(TEXT_MAX);
            size_t mark = places[i].inner ? wire_begin(&b, places[i].field) : 0;
            golden_bytes(&b, places[i].inner ? places[i].inner : places[i].field, bad[k]);
            if (places[i].inner)
                wire_end(&b, mark);
            refuse(&b, places[i].path, "not valid UTF-8");
        }
    }
}

static void test_int32_has_32_bits(void **state)
{
    static const int64_t good[] = {0, 1, -1, INT32_MAX, INT32_MIN};
    static const int64_t bad[] = {INT64_C(2147483648),  INT64_C(4294967295), INT64_C(4294967296),
                                  INT64_C(-2147483649), INT64_MAX,           INT64_MIN,
                                  INT64_C(4294967297)};
    static const uint32_t fields[] = {6, 10, 11, 12};
    static const char *const names[] = {"best_of", "logprobs", "max_tokens", "n"};

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        wire_append_int(&b, 12, good[i]);
        golden_tokens(&b, 4, (int32_t)good[i], 1);
        request_message *m = accept(&b);
        assert_int_equal(m->n, good[i]);
        assert_int_equal(m->prompt_tokens->ids[0], good[i]);
        unpack_free(&m->base);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (size_t k = 0; k < 4; k++) {
            struct buffer b = BUFFER_INIT(TEXT_MAX);
            wire_append_int(&b, fields[k], bad[i]);
            refuse(&b, names[k], "out of the range of 32 bits");
        }
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        size_t message = wire_begin(&b, 4), ids = wire_begin(&b, 1);
        wire_append_varint(&b, 1);
        wire_append_varint(&b, (uint64_t)bad[i]);
        wire_end(&b, ids);
        wire_end(&b, message);
        refuse(&b, "prompt_tokens.ids", "out of the range of 32 bits");
        b = BUFFER_INIT(TEXT_MAX);
        message = wire_begin(&b, 9);
        wire_append_int(&b, 1, bad[i]);
        wire_end(&b, message);
        refuse(&b, "logit_bias.key", "out of the range of 32 bits");
    }
}

static void test_packed_numbers_that_are_cut(void **state)
{
    struct buffer b = BYTES("\x22\x04\x0a\x02\x01\x80");

    (void)state;
    refuse(&b, "prompt_tokens.ids", "malformed packed numbers");
}

static void test_doubles_are_finite(void **state)
{
    const double bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const double good[] = {0.0, -0.0, 1e308, -1e308, 5e-324};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        wire_append_double(&b, 19, bad[i]);
        refuse(&b, "temperature", "not a finite number");
        b = BUFFER_INIT(TEXT_MAX);
        golden_bias(&b, 1, bad[i]);
        refuse(&b, "logit_bias.value", "not a finite number");
    }
    for (size_t i = 0; i < 5; i++) {
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        wire_append_double(&b, 19, good[i]);
        request_message *m = accept(&b);
        assert_memory_equal(&m->temperature, &good[i], sizeof good[i]);
        unpack_free(&m->base);
    }
}

static struct buffer finished(int64_t reason)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    size_t mark = wire_begin(&b, 2);

    wire_append_int(&b, 1, reason);
    wire_end(&b, mark);
    return b;
}

/* A newer daemon may know more reasons; a newer caller is told. */
static void test_unknown_enum_values(void **state)
{
    static const int64_t unknown[] = {5, -1, INT32_MAX, INT32_MIN};
    struct buffer b = finished(4);

    (void)state;
    unpack_free(accept_kind(UNPACK_REQUEST, COMPLETION, &b));
    for (size_t i = 0; i < 4; i++) {
        b = finished(unknown[i]);
        refuse_kind(UNPACK_REQUEST, COMPLETION, &b, "choices.finish_reason", "an unknown value");
        b = finished(unknown[i]);
        Completion__V1__Completion *m = accept_kind(UNPACK_REPLY, COMPLETION, &b);
        assert_int_equal((int64_t)(int)m->choices[0]->finish_reason, unknown[i]);
        unpack_free(&m->base);
    }
    b = finished(INT64_C(4294967297));
    refuse_kind(UNPACK_REPLY, COMPLETION, &b, "choices.finish_reason",
                "out of the range of 32 bits");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_golden_request),
        cmocka_unit_test(test_an_empty_message),
        cmocka_unit_test(test_nul_is_kept),
        cmocka_unit_test(test_the_last_of_two_holds),
        cmocka_unit_test(test_sub_messages_merge),
        cmocka_unit_test(test_tokens_packed_and_not),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_every_flipped_bit),
        cmocka_unit_test(test_malformed_fields),
        cmocka_unit_test(test_long_forms),
        cmocka_unit_test(test_wrong_wire_types),
        cmocka_unit_test(test_unknown_fields_are_few),
        cmocka_unit_test(test_strings_that_are_not_utf8),
        cmocka_unit_test(test_int32_has_32_bits),
        cmocka_unit_test(test_packed_numbers_that_are_cut),
        cmocka_unit_test(test_doubles_are_finite),
        cmocka_unit_test(test_unknown_enum_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
