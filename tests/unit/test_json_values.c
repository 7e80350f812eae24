/* The JSON reader: what its calls make of a value, and what they leave where it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "foreign_locale.h"
#include "json_reader.h"

static struct json_reader reader_of(const char *text)
{
    struct json_reader r;

    json_reader_init(&r, text, strlen(text));
    return r;
}

/* ---- Integers ---- */

struct integer {
    const char *text;
    bool is_int64, is_int32;
    int64_t value;
};

#define BOTH(text, value)                                                                          \
    {                                                                                              \
        text, true, true, value                                                                    \
    }
#define LARGE(text, value)                                                                         \
    {                                                                                              \
        text, true, false, value                                                                   \
    }
#define NONE(text)                                                                                 \
    {                                                                                              \
        text, false, false, 0                                                                      \
    }

static const struct integer integers[] = {
    BOTH("0", 0),
    BOTH("-0", 0),
    BOTH("7", 7),
    BOTH("-1", -1),
    BOTH("2147483647", INT32_MAX),
    LARGE("2147483648", INT64_C(2147483648)),
    BOTH("-2147483648", INT32_MIN),
    LARGE("-2147483649", INT64_C(-2147483649)),
    LARGE("9007199254740993", INT64_C(9007199254740993)),
    LARGE("9223372036854775807", INT64_MAX),
    NONE("9223372036854775808"),
    NONE("9223372036854775810"),
    LARGE("-9223372036854775808", INT64_MIN),
    NONE("-9223372036854775809"),
    NONE("92233720368547758070"),
    NONE("100000000000000000000000000000000000000"),

    /* With a point or an exponent. */
    BOTH("1.0", 1),
    BOTH("-1.000000000000000000000000000000", -1),
    BOTH("0.0", 0),
    BOTH("-0.0", 0),
    BOTH("1e3", 1000),
    BOTH("1E3", 1000),
    BOTH("1e+3", 1000),
    BOTH("1e0", 1),
    BOTH("1e-0", 1),
    BOTH("10e-1", 1),
    BOTH("1200E-2", 12),
    BOTH("1.5e1", 15),
    BOTH("-1.25e2", -125),
    BOTH("1.250e2", 125),
    BOTH("0.001e3", 1),
    BOTH("0.10e1", 1),
    BOTH("2147483647.0", INT32_MAX),
    BOTH("2.147483647e9", INT32_MAX),
    LARGE("2147483648e0", INT64_C(2147483648)),
    BOTH("-2.147483648e9", INT32_MIN),
    LARGE("9007199254740993.0", INT64_C(9007199254740993)),
    LARGE("9223372036854775807.0", INT64_MAX),
    LARGE("9.223372036854775807e18", INT64_MAX),
    LARGE("-922337203685477580.8e1", INT64_MIN),
    LARGE("1e18", INT64_C(1000000000000000000)),
    NONE("9223372036854775808.0"),
    NONE("9.223372036854775808e18"),
    NONE("1e19"),
    NONE("-1e19"),
    NONE("1e999999999999999999999999999999"),
    BOTH("0e999999999999999999999999999999", 0),
    BOTH("0e-999999999999999999999999999999", 0),
    BOTH("0.000e5", 0),
    NONE("0.5"),
    NONE("-0.5"),
    NONE("1.5"),
    NONE("15e-1"),
    NONE("1e-1"),
    NONE("1e-400"),
    NONE("1e-999999999999999999999999999999"),
    NONE("1.00000000000000000000000000000001"),
    NONE("0.99999999999999999999999999999999"),
    NONE("1.25e1"),
    NONE("4294967296.5"),

    /* No number. */
    NONE("\"1\""),
    NONE("null"),
    NONE("true"),
    NONE("[1]"),
    NONE("{}"),
};

/* What is no integer is left alone, and so is what was to be filled. */
static void test_integers_in_every_spelling(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        const struct integer *t = &integers[i];
        struct json_reader r = reader_of(t->text);
        int64_t wide = 4711;
        int32_t narrow = 4711;

        if (json_read_int64(&r, &wide) != t->is_int64 || wide != (t->is_int64 ? t->value : 4711))
            fail_msg("%s as int64: %lld", t->text, (long long)wide);
        assert_true(t->is_int64 || json_skip(&r, NULL));
        assert_true(json_reader_end(&r));
        r = reader_of(t->text);
        if (json_read_int32(&r, &narrow) != t->is_int32 ||
            narrow != (t->is_int32 ? t->value : 4711))
            fail_msg("%s as int32: %d", t->text, (int)narrow);
        assert_true(t->is_int32 || json_skip(&r, NULL));
        assert_true(json_reader_end(&r));
    }
}

/* A megabyte of zeros is a number too. */
static void test_long_integers(void **state)
{
    enum { ZEROS = 1 << 20 };
    char *text = malloc(ZEROS + 64);
    int64_t value = 0;

    (void)state;
    assert_non_null(text);
    strcpy(text, "0.");
    memset(text + 2, '0', ZEROS);
    strcpy(text + 2 + ZEROS, "42e1048578");
    struct json_reader r = reader_of(text);
    assert_true(json_read_int64(&r, &value));
    assert_int_equal(value, 42);
    strcpy(text + 2 + ZEROS, "42e1048577");
    r = reader_of(text);
    assert_false(json_read_int64(&r, &value));
    text[0] = '1';
    strcpy(text + 2 + ZEROS, "e0");
    r = reader_of(text);
    assert_true(json_read_int64(&r, &value));
    assert_int_equal(value, 1);
    free(text);
}

/* ---- Doubles ---- */

static const struct {
    const char *text;
    double value;
} doubles[] = {
    {"0", 0.0},
    {"-0", -0.0},
    {"-0.0", -0.0},
    {"-0e5", -0.0},
    {"1", 1},
    {"0.1", 0.1},
    {"-12.5e-1", -1.25},
    {"1e308", 1e308},
    {"1.7976931348623157e308", 1.7976931348623157e308},
    {"-1.7976931348623157E+308", -1.7976931348623157e308},
    {"1.7976931348623158e308", 1.7976931348623157e308},
    {"2.2250738585072014e-308", 2.2250738585072014e-308},
    {"2.2250738585072011e-308", 2.225073858507201e-308},
    {"5e-324", 4.9406564584124654e-324},
    {"2e-324", 0.0},
    {"-1e-400", -0.0},
    {"9007199254740993", 9007199254740992.0},
    {"9007199254740993.00000000000000000000000000000001", 9007199254740994.0},
    {"123456789012345678901234567890", 123456789012345678901234567890.0},
};

static void check_doubles(void)
{
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        struct json_reader r = reader_of(doubles[i].text);
        double value = NAN;

        if (!json_read_double(&r, &value) || memcmp(&value, &doubles[i].value, sizeof value) != 0)
            fail_msg("%s: %.17g", doubles[i].text, value);
        assert_true(json_reader_end(&r));
    }
}

static void test_doubles_are_exact(void **state)
{
    (void)state;
    check_doubles();
}

static void test_doubles_with_a_comma(void **state)
{
    struct foreign_locale l;

    (void)state;
    bool entered = foreign_locale_enter(&l, "de_DE");
    if (entered)
        check_doubles();
    foreign_locale_leave(&l);
    if (!entered)
        skip();
}

static void test_doubles_with_a_point_of_two_bytes(void **state)
{
    struct foreign_locale l;

    (void)state;
    bool entered = foreign_locale_enter(&l, "ps_AF");
    if (entered)
        check_doubles();
    foreign_locale_leave(&l);
    if (!entered)
        skip();
}

static void test_what_is_no_double_stays(void **state)
{
    static const char *const others[] = {"1e309", "-1e309", "1e99999", "\"1\"", "null", "[1]"};
    double value = 47;

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct json_reader r = reader_of(others[i]);
        assert_false(json_read_double(&r, &value));
        assert_true(value == 47);
        assert_true(json_skip(&r, NULL));
        assert_true(json_reader_end(&r));
    }
}

static void test_doubles_of_many_digits(void **state)
{
    char text[1100];
    double value = 0;

    (void)state;
    memset(text, '1', sizeof text);
    text[1] = '.';
    text[1024] = '\0';
    struct json_reader r = reader_of(text);
    assert_true(json_read_double(&r, &value));
    assert_true(value == 1.1111111111111111);
    text[1024] = '1';
    text[1025] = '\0';
    r = reader_of(text);
    assert_false(json_read_double(&r, &value));
    assert_true(json_skip(&r, NULL));
    assert_true(json_reader_end(&r));
}

/* ---- Strings ---- */

#define S(raw, decoded)                                                                            \
    {                                                                                              \
        "\"" raw "\"", decoded, sizeof(decoded) - 1                                                \
    }

static const struct {
    const char *text, *decoded;
    size_t len;
} strings[] = {
    S("", ""),
    S("a", "a"),
    S("\xc3\xa4\xf0\x9f\x98\x80", "\xc3\xa4\xf0\x9f\x98\x80"),
    S("\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"),
    S("a\\nb", "a\nb"),
    S("\\u0000", "\0"),
    S("a\\u0000b", "a\0b"),
    S("\\u0041\\u004a\\u004A", "AJJ"),
    S("\\u007f\\u0080\\u07ff\\u0800\\uffff", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"),
    S("\\ud7ff\\ue000", "\xed\x9f\xbf\xee\x80\x80"),
    S("\\ud83d\\ude00", "\xf0\x9f\x98\x80"),
    S("\\uD800\\uDC00\\uDBFF\\uDFFF", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"),
    S("\\ud83d", "\xef\xbf\xbd"),
    S("\\ude00", "\xef\xbf\xbd"),
    S("\\ud83dx", "\xef\xbf\xbdx"),
    S("\\ud83dx12345", "\xef\xbf\xbdx12345"),
    S("\\ud83d\\n12345", "\xef\xbf\xbd\n12345"),
    S("\\ud83d\\u0041", "\xef\xbf\xbd"
                        "A"),
    S("\\ud83d\\ue000", "\xef\xbf\xbd\xee\x80\x80"),
    S("\\ud83d\\ud83d\\ude00", "\xef\xbf\xbd\xf0\x9f\x98\x80"),
    S("\\ude00\\ud83d", "\xef\xbf\xbd\xef\xbf\xbd"),
    S("\\ud83d\xf0\x9f\x98\x80", "\xef\xbf\xbd\xf0\x9f\x98\x80"),
    S("\\\\u0041", "\\u0041"),
    S("plain text of more than eight bytes, then \\u20ac", "plain text of more than eight bytes, "
                                                           "then \xe2\x82\xac"),
};

static void test_strings_decode(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        struct json_reader r = reader_of(strings[i].text);
        struct json_string s;
        struct buffer out = BUFFER_INIT(4096);

        assert_true(json_read_string(&r, &s));
        assert_true(json_reader_end(&r));
        assert_int_equal(s.len, strlen(strings[i].text) - 2);
        assert_int_equal(s.has_escapes, strchr(strings[i].text, '\\') != NULL);
        /* The space that it may use, and no byte more. */
        uint8_t *decoded = malloc(s.len ? s.len : 1);
        assert_non_null(decoded);
        assert_int_equal(json_string_decode(&s, decoded), strings[i].len);
        assert_memory_equal(decoded, strings[i].decoded, strings[i].len);
        free(decoded);
        buffer_append_string(&out, "> ");
        json_string_append(&s, &out);
        assert_int_equal(buffer_length(&out), strings[i].len + 2);
        assert_memory_equal(buffer_bytes(&out) + 2, strings[i].decoded, strings[i].len);
        buffer_done(&out);
        if (!memchr(strings[i].decoded, 0, strings[i].len))
            assert_true(json_string_equals(&s, strings[i].decoded));
        assert_false(json_string_equals(&s, "an altogether different text"));
    }
}

static bool equals(const char *quoted, const char *text)
{
    struct json_reader r = reader_of(quoted);
    struct json_string s;

    assert_true(json_read_string(&r, &s));
    return json_string_equals(&s, text);
}

static void test_strings_compare_decoded(void **state)
{
    char quoted[3000] = "\"\\u0061", text[2000] = "a";

    (void)state;
    assert_true(equals("\"stop\"", "stop"));
    assert_true(equals("\"st\\u006fp\"", "stop"));
    assert_true(equals("\"\\u20ac\"", "\xe2\x82\xac"));
    assert_false(equals("\"stop\"", "stoq"));
    assert_true(equals("\"\"", ""));
    assert_false(equals("\"\"", "a"));
    assert_false(equals("\"a\"", ""));
    assert_false(equals("\"\\u0061\"", ""));
    assert_false(equals("\"\\u0061\"", "ab"));
    assert_false(equals("\"\\u0061b\"", "a"));
    assert_false(equals("\"st\\u006fp\"", "stoq"));
    assert_false(equals("\"\\u20ac\"", "\xe2\x82"));
    assert_false(equals("\"\\u0000\"", ""));
    assert_false(equals("\"a\\u0000\"", "a"));
    assert_false(equals("\"\\\\u0061\"", "a"));
    /* However long. */
    memset(quoted + 7, 'b', 1500);
    strcpy(quoted + 7 + 1500, "\"");
    memset(text + 1, 'b', 1500);
    assert_true(equals(quoted, text));
    text[1500] = 'c';
    assert_false(equals(quoted, text));
}

/* No space in the buffer is the buffer's error. */
static void test_append_keeps_to_the_limit(void **state)
{
    struct json_reader r = reader_of("\"12345\"");
    struct buffer out = BUFFER_INIT(4);
    struct json_string s;

    (void)state;
    assert_true(json_read_string(&r, &s));
    json_string_append(&s, &out);
    assert_true(out.error < 0);
    assert_int_equal(buffer_length(&out), 0);
    buffer_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers_in_every_spelling),
        cmocka_unit_test(test_long_integers),
        cmocka_unit_test(test_doubles_are_exact),
        cmocka_unit_test(test_doubles_with_a_comma),
        cmocka_unit_test(test_doubles_with_a_point_of_two_bytes),
        cmocka_unit_test(test_what_is_no_double_stays),
        cmocka_unit_test(test_doubles_of_many_digits),
        cmocka_unit_test(test_strings_decode),
        cmocka_unit_test(test_strings_compare_decoded),
        cmocka_unit_test(test_append_keeps_to_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
