/*
 * Messages from peers that ask for more than they give: bombs of many small parts, depth, and a
 * machine that is out of memory. What unpack_message() allocates is counted by wrappers that the
 * linker puts in front of malloc() and free().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "unpack_golden.h"

enum { FRAME_MAX = 1 << 20, TEXT_MAX = 1 << 22, BUDGET_BASE = 64 * 1024 };

/* ---- What is allocated ---- */

static struct {
    bool on;
    size_t now, peak;
    unsigned n, fail_at; /* allocations; the one that fails, 0: none */
    bool fail_for_ever;
} meter;

void *__real_malloc(size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void __wrap_free(void *p);

void *__wrap_malloc(size_t size)
{
    if (meter.on) {
        meter.n++;
        if (meter.fail_at &&
            (meter.fail_for_ever ? meter.n >= meter.fail_at : meter.n == meter.fail_at))
            return NULL;
    }
    void *p = __real_malloc(size);
    if (meter.on && p) {
        meter.now += malloc_usable_size(p);
        if (meter.now > meter.peak)
            meter.peak = meter.now;
    }
    return p;
}

void __wrap_free(void *p)
{
    if (meter.on && p)
        meter.now -= malloc_usable_size(p);
    __real_free(p);
}

static int metered_unpack(enum unpack_kind kind, const ProtobufCMessageDescriptor *d,
                          const struct buffer *b, ProtobufCMessage **ret,
                          struct unpack_error *error)
{
    meter.on = true;
    meter.now = meter.peak = meter.n = 0;
    int r = unpack_message(kind, d, buffer_bytes(b), buffer_length(b), ret, error);
    meter.on = false;
    assert_true(r == 0 ? meter.now > 0 : meter.now == 0);
    return r;
}

/* Either way it costs no more than the kind allows. True: it was accepted. */
static bool unpack_in_budget(enum unpack_kind kind, const ProtobufCMessageDescriptor *d,
                             struct buffer *b)
{
    ProtobufCMessage *message = NULL;
    struct unpack_error error = {"", ""};
    size_t factor = kind == UNPACK_REQUEST ? 4 : 32;

    assert_int_equal(b->error, 0);
    assert_true(buffer_length(b) <= TEXT_MAX);
    int r = metered_unpack(kind, d, b, &message, &error);
    if (meter.peak > factor * buffer_length(b) + BUDGET_BASE)
        fail_msg("%zu bytes for a message of %zu", meter.peak, buffer_length(b));
    assert_true(r == 0 || r == -EBADMSG);
    if (r < 0)
        assert_string_equal(error.text, "too many small parts for its length");
    unpack_free(message);
    buffer_done(b);
    return r == 0;
}

static struct buffer repeated(const char *part, size_t len, size_t n)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    for (size_t i = 0; i < n; i++)
        buffer_append(&b, part, len);
    return b;
}

#define REPEATED(part) repeated(part, sizeof(part) - 1, FRAME_MAX / (sizeof(part) - 1))

static struct buffer in_field(uint32_t field, struct buffer *inner)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    wire_append_bytes(&b, field, buffer_bytes(inner), buffer_length(inner));
    buffer_done(inner);
    return b;
}

/* ---- Bombs ---- */

static void test_bombs_of_empty_messages(void **state)
{
    struct buffer part = REPEATED("\x0a\x00"), b;

    (void)state;
    assert_int_equal(buffer_length(&part) / 2, 524288);
    b = in_field(5, &part); /* token arrays */
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    part = REPEATED("\x0a\x00");
    b = in_field(3, &part); /* strings */
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    part = REPEATED("\x0a\x00");
    b = in_field(16, &part);
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    b = REPEATED("\x4a\x00"); /* a map */
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    b = REPEATED("\x4a\x02\x08\x01");
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    b = REPEATED("\x12\x00"); /* choices of an answer */
    assert_false(unpack_in_budget(UNPACK_REPLY, COMPLETION, &b));
}

static void test_bombs_of_packed_numbers(void **state)
{
    struct buffer part = REPEATED("\x01"), ids, b;

    (void)state;
    /* Four bytes each of one, which is what is allowed. */
    ids = in_field(1, &part);
    b = in_field(4, &ids);
    assert_true(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    part = REPEATED("\x08\x01"); /* the same, not packed */
    b = in_field(4, &part);
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    part = REPEATED("\x0a\x03\x0a\x01\x01");
    b = in_field(5, &part);
    assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
}

/* The last one holds: whether it is found within the budget or refused, no memory stays behind. */
static void test_bombs_of_singular_fields(void **state)
{
    struct buffer bombs[] = {
        REPEATED("\x30\x01"),                         /* best_of */
        REPEATED("\x0a\x00"),                         /* model */
        REPEATED("\x7a\x00"),                         /* stop_string */
        REPEATED("\x7a\x01x"),                        /* the same with a text */
        REPEATED("\x7a\x01x\x82\x01\x02\x0a\x00"),    /* by turns */
        REPEATED("\x8a\x01\x00"),                     /* stream_options */
        REPEATED("\x8a\x01\x02\x08\x01"),             /* with an option */
        REPEATED("\x12\x00\x1a\x00\x22\x00\x2a\x00"), /* the prompts by turns */
        REPEATED("\x1a\x02\x0a\x00\x22\x02\x08\x01\x2a\x02\x0a\x00"),
    };

    (void)state;
    assert_int_equal(buffer_length(&bombs[0]) / 2, 524288);
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++)
        assert_false(unpack_in_budget(UNPACK_REQUEST, REQUEST, &bombs[i]));
}

/* The same at every size on the way to the limit: the bound holds there too. */
static void test_bombs_of_all_sizes(void **state)
{
    static const struct {
        const char *part;
        size_t len;
    } parts[] = {{"\x4a\x00", 2},
                 {"\x0a\x00", 2},
                 {"\x0a\x03xyz", 5},
                 {"\x8a\x01\x02\x08\x01", 5},
                 {"\x1a\x02\x0a\x00\x2a\x02\x0a\x00", 8}};

    (void)state;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t n_accepted = 0, n_refused = 0;
        for (size_t n = 1; n < 3000; n += n < 1200 ? 1 : n / 16) {
            struct buffer b = repeated(parts[i].part, parts[i].len, n);
            /* So that the budget ends at any place in the last allocation. */
            wire_append_bytes(&b, 21, "a name of any length up to this many characters", n % 47);
            bool ok = unpack_in_budget(UNPACK_REQUEST, REQUEST, &b);
            n_accepted += ok;
            n_refused += !ok;
        }
        assert_true(n_accepted > 0 && n_refused > 0);
    }
}

static void test_bombs_of_unknown_fields(void **state)
{
    struct buffer b = REPEATED("\xf8\x07\x01");
    ProtobufCMessage *message = NULL;
    struct unpack_error error;

    (void)state;
    assert_int_equal(metered_unpack(UNPACK_REPLY, COMPLETION, &b, &message, &error), -EBADMSG);
    assert_string_equal(error.text, "too many fields that are not known");
    assert_int_equal(meter.peak, 0);
    buffer_done(&b);
}

/* ---- What honest callers send ---- */

static void test_large_requests_fit(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX), ids = BUFFER_INIT(TEXT_MAX), inner;

    (void)state;
    /* A prompt of a megabyte. */
    inner = REPEATED("x");
    wire_append_bytes(&b, 2, buffer_bytes(&inner), buffer_length(&inner));
    buffer_done(&inner);
    assert_true(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    /* Biases of as many tokens as the API takes, and more. */
    for (int i = 0; i < 512; i++)
        golden_bias(&b, 50000 + i, -100);
    assert_true(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    /* 2048 prompts of some words. */
    for (int i = 0; i < 2048; i++)
        golden_bytes(&ids, 1, "Once upon a time, there was a little girl");
    b = in_field(3, &ids);
    assert_true(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
    /* 100,000 tokens of two and three bytes. */
    for (uint64_t i = 0; i < 100000; i++)
        wire_append_varint(&ids, i % 50257);
    inner = in_field(1, &ids);
    b = in_field(4, &inner);
    assert_true(unpack_in_budget(UNPACK_REQUEST, REQUEST, &b));
}

/* 16,384 tokens with five alternatives each. */
static void test_large_replies_fit(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    size_t choice = wire_begin(&b, 2), logprobs = wire_begin(&b, 3);

    (void)state;
    for (int i = 0; i < 16384; i++) {
        size_t mark = wire_begin(&b, 2);
        wire_append_double(&b, 1, -0.5);
        wire_end(&b, mark);
        golden_bytes(&b, 3, " a");
        mark = wire_begin(&b, 4);
        for (int k = 0; k < 5; k++) {
            size_t entry = wire_begin(&b, 1);
            golden_bytes(&b, 1, " a");
            wire_append_double(&b, 2, -0.5);
            wire_end(&b, entry);
        }
        wire_end(&b, mark);
    }
    wire_end(&b, logprobs);
    wire_end(&b, choice);
    assert_true(unpack_in_budget(UNPACK_REPLY, COMPLETION, &b));
}

/* ---- Depth: a type that holds itself, which the schema has not ---- */

struct node {
    ProtobufCMessage base;
    struct node *child;
    size_t n_numbers;
    double *numbers;
    protobuf_c_boolean has_ratio, has_count;
    float ratio;
    uint32_t count;
};

static const ProtobufCMessageDescriptor node_descriptor;

#define NODE_FIELD(name, id, label, type, quantifier, offset, descriptor, flags)                   \
    {                                                                                              \
        name, id, label, type, quantifier, offset, descriptor, NULL, flags, 0, NULL, NULL          \
    }
static const ProtobufCFieldDescriptor node_fields[] = {
    NODE_FIELD("child_with_a_long_name", 1, PROTOBUF_C_LABEL_OPTIONAL, PROTOBUF_C_TYPE_MESSAGE, 0,
               offsetof(struct node, child), &node_descriptor, 0),
    NODE_FIELD("numbers", 2, PROTOBUF_C_LABEL_REPEATED, PROTOBUF_C_TYPE_DOUBLE,
               offsetof(struct node, n_numbers), offsetof(struct node, numbers), NULL, 0),
    NODE_FIELD("ratio", 3, PROTOBUF_C_LABEL_OPTIONAL, PROTOBUF_C_TYPE_FLOAT,
               offsetof(struct node, has_ratio), offsetof(struct node, ratio), NULL, 0),
    NODE_FIELD("count", 4, PROTOBUF_C_LABEL_OPTIONAL, PROTOBUF_C_TYPE_FIXED32,
               offsetof(struct node, has_count), offsetof(struct node, count), NULL, 0),
};
static const unsigned node_names[] = {0, 3, 1, 2};
static const ProtobufCIntRange node_ranges[] = {{1, 0}, {0, 4}};
static const ProtobufCMessageDescriptor node_descriptor = {
    .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC,
    .name = "node",
    .sizeof_message = sizeof(struct node),
    .n_fields = 4,
    .fields = node_fields,
    .fields_sorted_by_name = node_names,
    .n_field_ranges = 1,
    .field_ranges = node_ranges,
};

static struct buffer nested(unsigned depth)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    for (unsigned i = 0; i < depth; i++)
        b = in_field(1, &b);
    return b;
}

static int unpack_node(struct buffer *b, struct unpack_error *error)
{
    ProtobufCMessage *message = NULL;

    assert_int_equal(b->error, 0);
    int r = metered_unpack(UNPACK_REQUEST, &node_descriptor, b, &message, error);
    unpack_free(message);
    buffer_done(b);
    return r;
}

static void test_depth_is_limited(void **state)
{
    struct unpack_error error;
    struct buffer b = nested(8);

    (void)state;
    assert_int_equal(unpack_node(&b, &error), 0);
    for (unsigned depth = 9; depth < 6000; depth *= 2) {
        b = nested(depth);
        assert_int_equal(unpack_node(&b, &error), -EBADMSG);
        assert_string_equal(error.text, "nested too deeply");
        /* As much of the path as there is room for. */
        assert_int_equal(strlen(error.field), sizeof error.field - 1);
        assert_int_equal(strncmp(error.field, "child_with_a_long_name.child_with", 33), 0);
        assert_int_equal(meter.peak, 0);
    }
}

/* Types that the schema has not either: a bug of ours could bring them in. */
static void test_other_types(void **state)
{
    struct unpack_error error;
    struct buffer b = BUFFER_INIT(TEXT_MAX);

    (void)state;
    wire_append_double(&b, 2, 1.5);
    wire_append_double(&b, 2, 2.5);
    buffer_append(&b, "\x1d\0\0\x80\x3f\x25\1\0\0\0", 10);
    assert_int_equal(unpack_node(&b, &error), 0);
    wire_append_bytes(&b, 2, "\0\0\0\0\0\0\0\0", 8);
    assert_int_equal(unpack_node(&b, &error), -EBADMSG);
    assert_string_equal(error.field, "numbers");
    assert_string_equal(error.text, "packed numbers of this type are not expected");
}

/* ---- Out of memory ---- */

static void test_each_allocation_fails(void **state)
{
    struct buffer golden = golden_request();
    ProtobufCMessage *message = NULL;
    struct unpack_error error;
    int r;

    (void)state;
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        meter.fail_for_ever = for_ever;
        meter.fail_at = 0;
        do {
            meter.fail_at++;
            r = metered_unpack(UNPACK_REQUEST, REQUEST, &golden, &message, &error);
            assert_true(r == 0 || (r == -ENOMEM && !message));
        } while (r < 0);
        assert_true(meter.fail_at > 20);
        unpack_free(message);
        message = NULL;
    }
    meter.fail_at = 0;
    buffer_done(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bombs_of_empty_messages),
        cmocka_unit_test(test_bombs_of_packed_numbers),
        cmocka_unit_test(test_bombs_of_singular_fields),
        cmocka_unit_test(test_bombs_of_all_sizes),
        cmocka_unit_test(test_bombs_of_unknown_fields),
        cmocka_unit_test(test_large_requests_fit),
        cmocka_unit_test(test_large_replies_fit),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_other_types),
        cmocka_unit_test(test_each_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
