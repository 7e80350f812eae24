/* The JSON writer: commas, escapes and numbers; and that the reader gets back what was written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "foreign_locale.h"
#include "json_reader.h"
#include "json_writer.h"
#include "utf8.h"

enum { TEXT_MAX = 1 << 24 };

static void expect(struct buffer *b, const char *text)
{
    assert_int_equal(b->error, 0);
    if (buffer_length(b) != strlen(text) || memcmp(buffer_bytes(b), text, strlen(text)) != 0)
        fail_msg("%.*s, and not %s", (int)buffer_length(b), (char *)buffer_bytes(b), text);
    buffer_done(b);
}

/* ---- Structure ---- */

static void test_commas_and_brackets(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);

    (void)state;
    json_begin_object(&w);
    json_key(&w, "a");
    json_begin_array(&w);
    json_end_array(&w);
    json_key(&w, "b");
    json_begin_array(&w);
    json_int(&w, 1);
    json_begin_array(&w);
    json_end_array(&w);
    json_begin_object(&w);
    json_end_object(&w);
    json_null(&w);
    json_bool(&w, true);
    json_bool(&w, false);
    json_double(&w, 0.5);
    json_string(&w, "s", 1);
    json_raw(&w, "[ 1 ]", 5);
    json_end_array(&w);
    json_key(&w, "c");
    json_begin_object(&w);
    json_key(&w, "d");
    json_null(&w);
    json_end_object(&w);
    json_key(&w, "");
    json_string(&w, NULL, 0);
    json_end_object(&w);
    expect(&b, "{\"a\":[],\"b\":[1,[],{},null,true,false,0.5,\"s\",[ 1 ]],\"c\":{\"d\":null},"
               "\"\":\"\"}");
}

static void test_single_values(void **state)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);

    (void)state;
    json_string(&w, "x", 1);
    expect(&b, "\"x\"");
    w = json_writer(&b);
    json_begin_array(&w);
    json_end_array(&w);
    expect(&b, "[]");
    w = json_writer(&b);
    json_null(&w);
    expect(&b, "null");
}

static void test_errors_are_the_buffers(void **state)
{
    (void)state;
    for (size_t limit = 0; limit < 30; limit++) {
        struct buffer b = BUFFER_INIT(limit);
        struct json_writer w = json_writer(&b);
        json_begin_object(&w);
        json_key(&w, "key");
        json_string(&w, "a\nb", 3);
        json_key(&w, "n");
        json_double(&w, -1.5);
        json_end_object(&w);
        assert_int_equal(b.error, limit < 23 ? -EMSGSIZE : 0);
        assert_true(buffer_length(&b) <= limit);
        buffer_done(&b);
    }
}

/* ---- Strings ---- */

static void test_escapes(void **state)
{
    static const char text[] = "a\"b\\c/d\b\f\n\r\t\0\x01\x1f\x7f\xc2\x80\xe2\x80\xa8'<";
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);

    (void)state;
    json_string(&w, text, sizeof text - 1);
    expect(&b,
           "\"a\\\"b\\\\c/d\\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\\u007f\xc2\x80\xe2\x80\xa8'<\"");
}

/* As the reader sees it. */
static void check_string(const uint8_t *text, size_t len)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX), decoded = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);
    struct json_reader r;
    struct json_string s;

    json_string(&w, text, len);
    assert_int_equal(b.error, 0);
    assert_true(buffer_length(&b) <= 6 * len + 2);
    for (size_t i = 0; i < buffer_length(&b); i++)
        assert_true(buffer_bytes(&b)[i] >= 0x20 && buffer_bytes(&b)[i] != 0x7f);
    json_reader_init(&r, buffer_bytes(&b), buffer_length(&b));
    assert_true(json_read_string(&r, &s));
    assert_true(json_reader_end(&r));
    json_string_append(&s, &decoded);
    assert_int_equal(buffer_length(&decoded), len);
    if (len)
        assert_memory_equal(buffer_bytes(&decoded), text, len);
    buffer_done(&b);
    buffer_done(&decoded);
}

static void test_every_character_comes_back(void **state)
{
    static uint8_t text[5 << 20];
    size_t len = 0;

    (void)state;
    for (uint32_t c = 0; c < 0x10ffff; c += c < 0x3000 ? 1 : 61)
        len += utf8_encode(c, text + len);
    check_string(text, len);
    for (uint32_t c = 0; c < 0x800; c++) {
        uint8_t frame[12] = "abcd";
        size_t n = 4 + utf8_encode(c, frame + 4);
        frame[n] = 'z';
        check_string(frame, n + 1);
        check_string(frame + 4, n - 4);
    }
    check_string(text, 0);
}

/* 4 MiB of what is longest. */
static void test_strings_of_escapes(void **state)
{
    static uint8_t text[4 << 20];
    struct buffer b = BUFFER_INIT(6 * sizeof text + 2);
    struct json_writer w = json_writer(&b);

    (void)state;
    json_string(&w, text, sizeof text);
    assert_int_equal(b.error, 0);
    assert_int_equal(buffer_length(&b), 6 * sizeof text + 2);
    buffer_done(&b);
}

/* ---- Numbers ---- */

static void test_integers(void **state)
{
    static const int64_t values[] = {
        0, 1, -1, INT32_MAX, INT32_MIN, INT64_C(9007199254740993), INT64_MAX, INT64_MIN};
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);
    struct json_reader r;
    int64_t value;

    (void)state;
    json_begin_array(&w);
    for (size_t i = 0; i < 8; i++)
        json_int(&w, values[i]);
    json_end_array(&w);
    json_reader_init(&r, buffer_bytes(&b), buffer_length(&b));
    assert_true(json_enter_array(&r));
    for (size_t i = 0; i < 8; i++) {
        assert_true(json_next_element(&r));
        assert_true(json_read_int64(&r, &value));
        assert_int_equal(value, values[i]);
    }
    expect(&b, "[0,1,-1,2147483647,-2147483648,9007199254740993,9223372036854775807,"
               "-9223372036854775808]");
}

static const struct {
    double value;
    const char *text;
} doubles[] = {
    {0.0, "0"},
    {-0.0, "-0"},
    {1, "1"},
    {-2, "-2"},
    {0.1, "0.1"},
    {0.7, "0.7"},
    {1.5, "1.5"},
    {1.0 / 3, "0.3333333333333333"},
    {100000, "100000"},
    {1e15, "1e+15"},
    {123456789012345678.0, "1.2345678901234568e+17"},
    {9007199254740991.0, "9007199254740991"},
    {1e308, "1e+308"},
    {-1e308, "-1e+308"},
    {DBL_MAX, "1.7976931348623157e+308"},
    {DBL_MIN, "2.2250738585072014e-308"},
    {4.9406564584124654e-324, "4.94065645841247e-324"},
    {-2.2250738585072009e-308, "-2.225073858507201e-308"},
    {1e-7, "1e-07"},
    {NAN, "null"},
    {INFINITY, "null"},
    {-INFINITY, "null"},
};

static void check_doubles(void)
{
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        struct json_writer w = json_writer(&b);
        json_double(&w, doubles[i].value);
        expect(&b, doubles[i].text);
    }
}

/* Of all exponents, normal or not. */
static void check_random_doubles(int n)
{
    uint64_t bits = 88172645463325252u;

    for (int i = 0; i < n; i++) {
        struct buffer b = BUFFER_INIT(TEXT_MAX);
        struct json_writer w = json_writer(&b);
        struct json_reader r;
        double value, back = 0;

        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        uint64_t chosen = i % 8 ? bits : bits & ~(UINT64_C(0x7ff) << 52);
        memcpy(&value, &chosen, sizeof value);
        if (!isfinite(value))
            continue;
        json_double(&w, value);
        json_reader_init(&r, buffer_bytes(&b), buffer_length(&b));
        if (!json_read_double(&r, &back) || memcmp(&back, &value, sizeof back) != 0 ||
            !json_reader_end(&r))
            fail_msg("%.17g: %.*s", value, (int)buffer_length(&b), (char *)buffer_bytes(&b));
        buffer_done(&b);
    }
}

static void test_doubles_read_back_the_same(void **state)
{
    (void)state;
    check_doubles();
    check_random_doubles(100000);
}

static void check_in_locale(const char *name)
{
    struct foreign_locale l;
    bool entered = foreign_locale_enter(&l, name);

    if (entered) {
        check_doubles();
        check_random_doubles(10000);
    }
    foreign_locale_leave(&l);
    if (!entered)
        skip();
}

static void test_doubles_with_a_comma(void **state)
{
    (void)state;
    check_in_locale("de_DE");
}

static void test_doubles_with_a_point_of_two_bytes(void **state)
{
    (void)state;
    check_in_locale("ps_AF");
}

/* ---- Raw members ---- */

static void check_members(const char *object, const char *alone, const char *between)
{
    struct buffer b = BUFFER_INIT(TEXT_MAX);
    struct json_writer w = json_writer(&b);

    json_begin_object(&w);
    json_raw_members(&w, object, strlen(object));
    json_end_object(&w);
    expect(&b, alone);

    w = json_writer(&b);
    json_begin_object(&w);
    json_key(&w, "x");
    json_int(&w, 1);
    json_raw_members(&w, object, strlen(object));
    json_key(&w, "y");
    json_int(&w, 2);
    json_end_object(&w);
    expect(&b, between);
}

static void test_raw_members_join_the_object(void **state)
{
    (void)state;
    check_members("{}", "{}", "{\"x\":1,\"y\":2}");
    check_members(" \t\r\n{ \t\r\n} \t\r\n", "{}", "{\"x\":1,\"y\":2}");
    check_members("{\"a\":1}", "{\"a\":1}", "{\"x\":1,\"a\":1,\"y\":2}");
    check_members("\n{ \"a\" : 1 }\t", "{\"a\" : 1}", "{\"x\":1,\"a\" : 1,\"y\":2}");
    check_members("{\"a\":{},\"b\":{\"c\":{}}}", "{\"a\":{},\"b\":{\"c\":{}}}",
                  "{\"x\":1,\"a\":{},\"b\":{\"c\":{}},\"y\":2}");
    check_members("{\"}\":\"{\",\"b\":\" }\"}", "{\"}\":\"{\",\"b\":\" }\"}",
                  "{\"x\":1,\"}\":\"{\",\"b\":\" }\",\"y\":2}");
    check_members("", "{}", "{\"x\":1,\"y\":2}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commas_and_brackets),
        cmocka_unit_test(test_single_values),
        cmocka_unit_test(test_errors_are_the_buffers),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_every_character_comes_back),
        cmocka_unit_test(test_strings_of_escapes),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_doubles_read_back_the_same),
        cmocka_unit_test(test_doubles_with_a_comma),
        cmocka_unit_test(test_doubles_with_a_point_of_two_bytes),
        cmocka_unit_test(test_raw_members_join_the_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
