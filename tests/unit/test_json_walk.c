/* The JSON reader: order of calls. Members that are shown, skipped and left; types that do not fit;
 * raw text; errors that stay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "json_reader.h"

static struct json_reader reader_of(const char *text)
{
    struct json_reader r;

    json_reader_init(&r, text, strlen(text));
    return r;
}

static bool slice_is(const struct json_slice *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->data, text, s->len) == 0;
}

static void test_peek_tells_the_type_and_takes_nothing(void **state)
{
    static const struct {
        const char *text;
        enum json_type type;
    } values[] = {
        {" null", JSON_NULL}, {"true", JSON_BOOL}, {"\nfalse", JSON_BOOL}, {"-1", JSON_NUMBER},
        {"0", JSON_NUMBER},   {"9", JSON_NUMBER},  {"\"a\"", JSON_STRING}, {"[]", JSON_ARRAY},
        {"{}", JSON_OBJECT},  {"/", JSON_NONE},    {":", JSON_NONE},       {"", JSON_NONE},
        {"}", JSON_NONE},     {"\x80", JSON_NONE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct json_reader r = reader_of(values[i].text);
        for (int n = 0; n < 3; n++)
            assert_int_equal(json_peek(&r), values[i].type);
        assert_int_equal(json_skip(&r, NULL), values[i].type != JSON_NONE);
        assert_int_equal(json_peek(&r), JSON_NONE);
        assert_int_equal(json_reader_end(&r), values[i].type != JSON_NONE);
        assert_int_equal(json_peek(&r), JSON_NONE);
    }
}

/* Each read of another type is refused, fills nothing, and leaves the value for the right one. */
static void try_all_reads(struct json_reader *r, enum json_type type)
{
    struct json_reader before = *r;
    struct json_slice number = {NULL, 0};
    struct json_string s = {NULL, 0, false};
    bool value = false;
    int64_t wide = 0;
    int32_t narrow = 0;
    double d = 0;

    if (type != JSON_NULL)
        assert_false(json_read_null(r));
    if (type != JSON_BOOL)
        assert_false(json_read_bool(r, &value));
    if (type != JSON_STRING)
        assert_false(json_read_string(r, &s));
    if (type != JSON_NUMBER)
        assert_false(json_read_number(r, &number) || json_read_int64(r, &wide) ||
                     json_read_int32(r, &narrow) || json_read_double(r, &d));
    if (type != JSON_ARRAY)
        assert_false(json_enter_array(r));
    if (type != JSON_OBJECT)
        assert_false(json_enter_object(r));
    assert_true(!value && !s.data && !number.data && wide == 0 && narrow == 0 && d == 0);
    assert_memory_equal(r, &before, sizeof before);
}

static void test_another_type_is_no_error(void **state)
{
    struct json_reader r = reader_of("[null,true,1,\"s\",[1],{\"a\":1}]");
    struct json_slice slice;
    struct json_string s;
    bool value = false;
    double d;

    (void)state;
    try_all_reads(&r, JSON_ARRAY);
    assert_true(json_enter_array(&r));
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_NULL);
    assert_true(json_read_null(&r));
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_BOOL);
    assert_true(json_read_bool(&r, &value) && value);
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_NUMBER);
    assert_true(json_read_double(&r, &d) && d == 1);
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_STRING);
    assert_true(json_read_string(&r, &s) && json_string_equals(&s, "s"));
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_ARRAY);
    assert_true(json_skip(&r, &slice) && slice_is(&slice, "[1]"));
    assert_true(json_next_element(&r));
    try_all_reads(&r, JSON_OBJECT);
    assert_true(json_enter_object(&r));
    assert_true(json_next_member(&r, &s));
    assert_false(json_next_member(&r, &s));
    assert_false(json_next_element(&r));
    assert_true(json_reader_end(&r));
}

/* A value is there once: what has been read can't be read again, and between members is none. */
static void test_a_value_is_read_once(void **state)
{
    struct json_reader r = reader_of("[1]");
    int64_t value;

    (void)state;
    assert_true(json_enter_array(&r));
    assert_int_equal(json_peek(&r), JSON_NONE);
    assert_true(json_next_element(&r));
    assert_true(json_read_int64(&r, &value));
    assert_int_equal(json_peek(&r), JSON_NONE);
    try_all_reads(&r, JSON_NONE);
    assert_false(json_next_element(&r));
    assert_int_equal(json_peek(&r), JSON_NONE);
    assert_true(json_reader_end(&r));
    assert_true(json_reader_end(&r));
}

static void test_unread_members_are_skipped(void **state)
{
    struct json_reader r =
        reader_of("{\"a\":{\"x\":[1,{\"y\":2}],\"z\":\"}\"} , \"b\" : [ [ ] , 3 ],\"c\":4}");
    struct json_string key;
    struct json_slice raw;
    int64_t value = 0;

    (void)state;
    assert_true(json_enter_object(&r));
    assert_true(json_next_member(&r, &key) && json_string_equals(&key, "a"));
    assert_true(json_next_member(&r, &key) && json_string_equals(&key, "b"));
    assert_true(json_enter_array(&r));
    assert_true(json_next_element(&r));
    assert_true(json_next_element(&r));
    assert_true(json_read_number(&r, &raw) && slice_is(&raw, "3"));
    assert_false(json_next_element(&r));
    assert_true(json_next_member(&r, &key) && json_string_equals(&key, "c"));
    assert_true(json_read_int64(&r, &value) && value == 4);
    assert_false(json_next_member(&r, &key));
    assert_true(json_reader_end(&r));
}

static void test_duplicate_keys_are_shown(void **state)
{
    struct json_reader r = reader_of("{\"a\":1,\"\\u0061\":2,\"a\":3}");
    struct json_string key;
    int64_t value = 0, sum = 0;

    (void)state;
    assert_true(json_enter_object(&r));
    while (json_next_member(&r, &key)) {
        assert_true(json_string_equals(&key, "a"));
        assert_true(json_read_int64(&r, &value));
        sum = 10 * sum + value;
    }
    assert_int_equal(sum, 123);
    assert_true(json_reader_end(&r));
}

/* The text of a value, word for word, without the white space around it. */
static void test_raw_slices(void **state)
{
    static const char *const values[] = {
        "null", "true", "-1.50E+02", "\"\\u0041 \"", "[ 1 , 2 ]", "{ \"a\" : [ ] }", "[]", "{}"};
    struct buffer text = BUFFER_INIT(4096);
    struct json_reader r;
    struct json_string key;
    struct json_slice slice;

    (void)state;
    buffer_append_string(&text, " { ");
    for (size_t i = 0; i < 8; i++)
        buffer_printf(&text, "%s\"k\" \n:\t %s \r\n", i ? ", " : "", values[i]);
    buffer_append_string(&text, "} ");
    json_reader_init(&r, buffer_bytes(&text), buffer_length(&text));
    assert_true(json_enter_object(&r));
    for (size_t i = 0; i < 8; i++) {
        assert_true(json_next_member(&r, &key));
        assert_true(json_skip(&r, &slice));
        assert_true(slice_is(&slice, values[i]));
    }
    assert_false(json_next_member(&r, &key));
    assert_true(json_reader_end(&r));
    json_reader_init(&r, buffer_bytes(&text), buffer_length(&text));
    assert_true(json_skip(&r, &slice));
    assert_int_equal(slice.len, buffer_length(&text) - 2);
    buffer_done(&text);
}

/* ---- Errors ---- */

static void test_errors_are_sticky(void **state)
{
    static const char text[] = "{\"a\":[1,2 3],\"b\":4}";
    struct json_reader r = reader_of(text);
    struct json_string key = {NULL, 0, false};
    struct json_slice slice = {NULL, 0};
    size_t offset = 0;
    int64_t value = 0;

    (void)state;
    assert_null(json_reader_error(&r, &offset));
    assert_int_equal(offset, 0);
    assert_true(json_enter_object(&r));
    assert_true(json_next_member(&r, &key));
    assert_true(json_enter_array(&r));
    assert_true(json_next_element(&r) && json_next_element(&r));
    assert_true(json_read_int64(&r, &value) && value == 2);
    assert_false(json_next_element(&r));
    for (int i = 0; i < 3; i++) {
        assert_string_equal(json_reader_error(&r, &offset), "a comma is expected");
        assert_string_equal(json_reader_error(&r, NULL), "a comma is expected");
        assert_int_equal(offset, 10);
        assert_false(json_next_element(&r));
        assert_false(json_next_member(&r, &key));
        assert_false(json_skip(&r, &slice));
        assert_null(slice.data);
        assert_false(json_reader_end(&r));
        try_all_reads(&r, JSON_NONE);
        assert_int_equal(json_peek(&r), JSON_NONE);
    }
}

/* What is wrong in a value that nobody reads is found when it is skipped. */
static void test_errors_in_skipped_values(void **state)
{
    static const char *const texts[] = {"[[1,],2]",    "[{\"a\" 1},2]", "[{1:1},2]",
                                        "[01,2]",      "[nul,2]",       "[tru,2]",
                                        "[\"\\x\",2]", "[[*],2]",       "[{\"a\":*},2]",
                                        "[[1 2],2]",   "[[[[tru]]],2]", "[{\"a\":nul},2]"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct json_reader r = reader_of(texts[i]);
        assert_true(json_enter_array(&r));
        assert_true(json_next_element(&r));
        assert_false(json_next_element(&r));
        assert_non_null(json_reader_error(&r, NULL));
        assert_false(json_reader_end(&r));
    }
}

/* An error in a value is found by the read that takes it, which then fills nothing. */
static void test_errors_in_values_that_are_read(void **state)
{
    bool value = true;
    double d = 5;
    int64_t wide = 5;
    int32_t narrow = 5;
    struct json_slice number = {NULL, 0};
    struct json_string s = {NULL, 0, false};
    struct json_reader r;

    (void)state;
    r = reader_of("falsy");
    assert_false(json_read_bool(&r, &value));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("nil");
    assert_false(json_read_null(&r));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("1.");
    assert_false(json_read_double(&r, &d));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("1e");
    assert_false(json_read_int64(&r, &wide));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("-");
    assert_false(json_read_int32(&r, &narrow));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("01");
    assert_false(json_read_number(&r, &number));
    assert_non_null(json_reader_error(&r, NULL));
    r = reader_of("\"\\q\"");
    assert_false(json_read_string(&r, &s));
    assert_non_null(json_reader_error(&r, NULL));
    assert_true(value && d == 5 && wide == 5 && narrow == 5 && !number.data && !s.data);
}

static void test_end_asks_for_the_whole_value(void **state)
{
    struct json_reader r = reader_of("[1,2]");
    size_t offset;

    (void)state;
    assert_false(json_reader_end(&r));
    assert_string_equal(json_reader_error(&r, &offset), "the value was not read to its end");
    r = reader_of("[1,2]");
    assert_true(json_enter_array(&r));
    assert_false(json_reader_end(&r));
    r = reader_of("[1,2]");
    assert_true(json_enter_array(&r));
    assert_true(json_next_element(&r));
    assert_true(json_skip(&r, NULL));
    assert_false(json_reader_end(&r));
    assert_false(json_next_element(&r));
}

/* To skip what is not there is an error, and no reading of what comes next. */
static void test_skip_without_a_value(void **state)
{
    struct json_reader r = reader_of("[1,2]");

    (void)state;
    assert_true(json_enter_array(&r));
    assert_false(json_skip(&r, NULL));
    assert_string_equal(json_reader_error(&r, NULL), "a value is expected");
}

static void test_no_text_at_all(void **state)
{
    struct json_reader r;

    (void)state;
    json_reader_init(&r, NULL, 0);
    assert_int_equal(json_peek(&r), JSON_NONE);
    assert_false(json_skip(&r, NULL));
    assert_false(json_reader_end(&r));
    assert_string_equal(json_reader_error(&r, NULL), "cut short");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peek_tells_the_type_and_takes_nothing),
        cmocka_unit_test(test_another_type_is_no_error),
        cmocka_unit_test(test_a_value_is_read_once),
        cmocka_unit_test(test_unread_members_are_skipped),
        cmocka_unit_test(test_duplicate_keys_are_shown),
        cmocka_unit_test(test_raw_slices),
        cmocka_unit_test(test_errors_are_sticky),
        cmocka_unit_test(test_errors_in_skipped_values),
        cmocka_unit_test(test_errors_in_values_that_are_read),
        cmocka_unit_test(test_end_asks_for_the_whole_value),
        cmocka_unit_test(test_skip_without_a_value),
        cmocka_unit_test(test_no_text_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
