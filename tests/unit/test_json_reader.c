/* The JSON reader: which texts it takes, where it finds fault with the others, and how it walks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>

#include "json_reader.h"

enum { TEXT_MAX = 1 << 20 };

struct text {
    const char *data;
    size_t len;
    const char *error; /* NULL: it is accepted */
    size_t offset;     /* of the error */
};

#define YES(text)                                                                                  \
    {                                                                                              \
        text, sizeof(text) - 1, NULL, 0                                                            \
    }
#define NO(text, error, offset)                                                                    \
    {                                                                                              \
        text, sizeof(text) - 1, error, offset                                                      \
    }

#define CUT     "cut short"
#define VALUE   "a value is expected"
#define COMMA   "a comma is expected"
#define NAME    "a member's name is expected"
#define COLON   "a colon is expected"
#define NUMBER  "not a number"
#define WORD    "a word that JSON does not have"
#define ESCAPE  "an escape that JSON does not have"
#define CONTROL "a control character in a string"
#define UTF8    "not valid UTF-8"
#define MORE    "more than one value"
#define DEEP    "nested too deeply"

static const struct text texts[] = {
    /* White space and single values. */
    YES("null"),
    YES("true"),
    YES("false"),
    YES("0"),
    YES("\"\""),
    YES("[]"),
    YES("{}"),
    YES(" \t\r\n[ \t\r\n] \t\r\n"),
    YES(" \t\r\n{ \"a\" \t\r\n: 1 \t\r\n, \"b\" : 2\n}\n"),
    YES("[\n1\t,\r2 ]"),
    NO("", CUT, 0),
    NO(" ", CUT, 1),
    NO("\v1", VALUE, 0),
    NO("\f[]", VALUE, 0),
    NO("[\v1]", VALUE, 1),
    NO("\xc2\xa0[]", VALUE, 0),
    NO("\xef\xbb\xbf{}", VALUE, 0),
    NO("\xe2\x81\xa0[]", VALUE, 0),
    NO("[]\xc2\x85", MORE, 2),
    NO("\0", VALUE, 0),
    NO("1\0", MORE, 1),
    NO("[1\0]", COMMA, 2),

    /* A second value. */
    NO("1 2", MORE, 2),
    NO("[][]", MORE, 2),
    NO("{}}", MORE, 2),
    NO("[1]]", MORE, 3),
    NO("[1],", MORE, 3),
    NO("\"a\"\"b\"", MORE, 3),
    NO("null,", MORE, 4),
    NO("nullx", MORE, 4),
    NO("{} // c", MORE, 3),
    NO("{\"a\":1}#", MORE, 7),

    /* Words. */
    YES("[null,true,false]"),
    NO("nul", WORD, 0),
    NO("tru", WORD, 0),
    NO("fals", WORD, 0),
    NO("n", WORD, 0),
    NO("nulL", WORD, 0),
    NO("True", VALUE, 0),
    NO("NULL", VALUE, 0),
    NO("[truth]", WORD, 1),
    NO("[nope]", WORD, 1),
    NO("[f]", WORD, 1),
    NO("[nulla]", COMMA, 5),
    NO("nan", WORD, 0),
    NO("NaN", VALUE, 0),
    NO("[NaN]", VALUE, 1),
    NO("Infinity", VALUE, 0),
    NO("[-Infinity]", NUMBER, 2),
    NO("[-NaN]", NUMBER, 2),
    NO("undefined", VALUE, 0),
    NO("'a'", VALUE, 0),
    NO("[a]", VALUE, 1),
    NO("*", VALUE, 0),
    NO("[`a`]", VALUE, 1),

    /* Numbers. */
    YES("-0"),
    YES("-1"),
    YES("1234567890"),
    YES("0.0"),
    YES("-0.0e-0"),
    YES("1e5"),
    YES("1E5"),
    YES("1e+5"),
    YES("1E-5"),
    YES("123.456e78"),
    YES("0e1"),
    YES("0E+1"),
    YES("1e007"),
    YES("20e1"),
    YES("1e99999"),
    YES("123456789012345678901234567890"),
    YES("-0.0000000000000000000000000000000000000000000000000000000000001"),
    NO("-", NUMBER, 1),
    NO("+1", VALUE, 0),
    NO("01", NUMBER, 2),
    NO("-01", NUMBER, 3),
    NO("00", NUMBER, 2),
    NO("-00.5", NUMBER, 3),
    NO("[012]", NUMBER, 4),
    NO("0x1", MORE, 1),
    NO("[0x1]", COMMA, 2),
    NO(".5", VALUE, 0),
    NO("[-.5]", NUMBER, 2),
    NO("1.", NUMBER, 2),
    NO("[1.]", NUMBER, 3),
    NO("1.e1", NUMBER, 2),
    NO("1e", NUMBER, 2),
    NO("[1e]", NUMBER, 3),
    NO("1e+", NUMBER, 3),
    NO("1E-", NUMBER, 3),
    NO("[1e+]", NUMBER, 4),
    NO("1e1.5", MORE, 3),
    NO("1ee1", NUMBER, 2),
    NO("--1", NUMBER, 1),
    NO("-+1", NUMBER, 1),
    NO("- 1", NUMBER, 1),
    NO("1-1", MORE, 1),
    NO("1+1", MORE, 1),
    NO("1.2.3", MORE, 3),
    NO("1 000", MORE, 2),
    NO("1_000", MORE, 1),
    NO("[1a]", COMMA, 2),
    NO("\xef\xbc\x91", VALUE, 0),

    /* Arrays. */
    YES("[1]"),
    YES("[[]]"),
    YES("[[],[[]],{}]"),
    YES("[1,null,\"a\",[2],{\"b\":3}]"),
    NO("[", CUT, 1),
    NO("[1", CUT, 2),
    NO("[1,", CUT, 3),
    NO("[1, ", CUT, 4),
    NO("[[", CUT, 2),
    NO("[[]", CUT, 3),
    NO("]", VALUE, 0),
    NO(",", VALUE, 0),
    NO("[,]", VALUE, 1),
    NO("[,1]", VALUE, 1),
    NO("[1,]", VALUE, 3),
    NO("[1,,2]", VALUE, 3),
    NO("[1 2]", COMMA, 3),
    NO("[1:2]", COMMA, 2),
    NO("[1;2]", COMMA, 2),
    NO("[1}", COMMA, 2),
    NO("[}", VALUE, 1),
    NO("[\"a\"", CUT, 4),
    NO("[\"a\":1]", COMMA, 4),
    NO("[1/**/]", COMMA, 2),
    NO("[/**/1]", VALUE, 1),
    NO("[1,#\n2]", VALUE, 3),
    NO("(1)", VALUE, 0),

    /* Objects. */
    YES("{\"\":0}"),
    YES("{\"a\":1,\"a\":2}"),
    YES("{\"a\":{\"b\":{}},\"c\":[]}"),
    YES("{\"\\u0061\":1}"),
    NO("{", CUT, 1),
    NO("{ ", CUT, 2),
    NO("{\"", CUT, 2),
    NO("{\"a", CUT, 3),
    NO("{\"a\"", COLON, 4),
    NO("{\"a\" ", COLON, 5),
    NO("{\"a\":", CUT, 5),
    NO("{\"a\": ", CUT, 6),
    NO("{\"a\":1", CUT, 6),
    NO("{\"a\":1,", NAME, 7),
    NO("{\"a\":1, ", NAME, 8),
    NO("}", VALUE, 0),
    NO("{,}", NAME, 1),
    NO("{\"a\"}", COLON, 4),
    NO("{\"a\",\"b\"}", COLON, 4),
    NO("{\"a\" 1}", COLON, 5),
    NO("{\"a\"::1}", VALUE, 5),
    NO("{\"a\":}", VALUE, 5),
    NO("{\"a\":,}", VALUE, 5),
    NO("{\"a\":1,}", NAME, 7),
    NO("{\"a\":1,,\"b\":2}", NAME, 7),
    NO("{\"a\":1 \"b\":2}", COMMA, 7),
    NO("{\"a\":1]", COMMA, 6),
    NO("{]", NAME, 1),
    NO("{a:1}", NAME, 1),
    NO("{'a':1}", NAME, 1),
    NO("{1:1}", NAME, 1),
    NO("{null:1}", NAME, 1),
    NO("{[]:1}", NAME, 1),
    NO("{:1}", NAME, 1),
    NO("{\"a\"=1}", COLON, 4),
    NO("{\"a\":1 // c\n}", COMMA, 7),
    NO("{\"\xff\":1}", UTF8, 2),
    NO("{\"\\x\":1}", ESCAPE, 3),
    NO("{\"a\":1,\"b\n\":1}", CONTROL, 9),

    /* Strings. */
    YES("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
    YES("\"\\u0000\\u001f\\uABCD\\uabcd\\u00e4\""),
    YES("\"\\ud83d\\ude00\""),
    YES("\"\\ud800\""),
    YES("\"\\udc00\\ud800\""),
    YES("\"\x7f\""),
    YES("\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""),
    YES("\"\xef\xbf\xbf\xf4\x8f\xbf\xbf\""),
    YES("\"12345678\xe2\x82\xac"
        "12345678\""),
    YES("\"// /* # */\""),
    NO("\"", CUT, 1),
    NO("\"abc", CUT, 4),
    NO("\"12345678", CUT, 9),
    NO("\"a\\", ESCAPE, 3),
    NO("\"a\\\"", CUT, 4),
    NO("\"\\a\"", ESCAPE, 2),
    NO("\"\\'\"", ESCAPE, 2),
    NO("\"\\v\"", ESCAPE, 2),
    NO("\"\\0\"", ESCAPE, 2),
    NO("\"\\\0\"", ESCAPE, 2),
    NO("\"\\x41\"", ESCAPE, 2),
    NO("\"\\\n\"", ESCAPE, 2),
    NO("\"\\U0041\"", ESCAPE, 2),
    NO("\"\\u\"", ESCAPE, 2),
    NO("\"\\u004\"", ESCAPE, 2),
    NO("\"\\u004", ESCAPE, 2),
    NO("\"\\ug041\"", ESCAPE, 2),
    NO("\"\\u0g41\"", ESCAPE, 2),
    NO("\"\\u00g1\"", ESCAPE, 2),
    NO("\"\\u004g\"", ESCAPE, 2),
    NO("\"\\u004G\"", ESCAPE, 2),
    NO("\"\\u004/\"", ESCAPE, 2),
    NO("\"\\u004:\"", ESCAPE, 2),
    NO("\"\\u004@\"", ESCAPE, 2),
    NO("\"\\u004`\"", ESCAPE, 2),
    NO("\"\\u-041\"", ESCAPE, 2),
    NO("\"\\u 041\"", ESCAPE, 2),
    NO("\"\\ud83d\\u\"", ESCAPE, 8),
    NO("\"\\ud83d\\", ESCAPE, 8),
    NO("\"\0\"", CONTROL, 1),
    NO("\"\x1f\"", CONTROL, 1),
    NO("\"a\tb\"", CONTROL, 2),
    NO("\"a\nb\"", CONTROL, 2),
    NO("\"12345678\n\"", CONTROL, 9),
    NO("\"1234567\r9012345\"", CONTROL, 8),

    /* UTF-8 in strings. */
    NO("\"\x80\"", UTF8, 1),
    NO("\"\xbf\"", UTF8, 1),
    NO("\"\xff\"", UTF8, 1),
    NO("\"\xfe\"", UTF8, 1),
    NO("\"a\xe4\"", UTF8, 2),
    NO("\"\xc3\"", UTF8, 1),
    NO("\"\xe2\x82\"", UTF8, 1),
    NO("\"\xf0\x9f\x98\"", UTF8, 1),
    NO("\"\xc0\xaf\"", UTF8, 1),
    NO("\"\xc1\xbf\"", UTF8, 1),
    NO("\"\xe0\x80\xaf\"", UTF8, 1),
    NO("\"\xf0\x80\x80\xaf\"", UTF8, 1),
    NO("\"\xf8\x88\x80\x80\x80\"", UTF8, 1),
    NO("\"\xed\xa0\x80\"", UTF8, 1),
    NO("\"\xed\xbf\xbf\"", UTF8, 1),
    NO("\"\xed\xa0\xbd\xed\xb8\x80\"", UTF8, 1),
    NO("\"\xf4\x90\x80\x80\"", UTF8, 1),
    NO("\"12345678\xc3\xa4\xc3\"", UTF8, 11),
    NO("[\xc3\xa4]", VALUE, 1),
};

/* ---- Walks ---- */

/* Everything that is in the value, in a notation of the test's own: strings as they decode. */
static void walk(struct json_reader *r, struct buffer *out)
{
    struct json_string s;
    struct json_slice number;
    bool value;

    if (json_read_null(r)) {
        buffer_append_string(out, "null ");
    } else if (json_read_bool(r, &value)) {
        buffer_append_string(out, value ? "true " : "false ");
    } else if (json_read_number(r, &number)) {
        buffer_append(out, number.data, number.len);
        buffer_append_byte(out, ' ');
    } else if (json_read_string(r, &s)) {
        buffer_append_byte(out, '<');
        json_string_append(&s, out);
        buffer_append_string(out, "> ");
    } else if (json_enter_array(r)) {
        buffer_append_string(out, "[ ");
        while (json_next_element(r))
            walk(r, out);
        buffer_append_string(out, "] ");
    } else if (json_enter_object(r)) {
        buffer_append_string(out, "{ ");
        while (json_next_member(r, &s)) {
            json_string_append(&s, out);
            buffer_append_byte(out, ':');
            walk(r, out);
        }
        buffer_append_string(out, "} ");
    }
}

/* Members are shown and not read. */
static void look_over(struct json_reader *r)
{
    struct json_string key;

    if (json_enter_array(r))
        while (json_next_element(r)) {
        }
    else if (json_enter_object(r))
        while (json_next_member(r, &key)) {
        }
    else
        json_skip(r, NULL);
}

/* A copy of just the size, where a sanitizer sees any byte too far. */
static char *exact_copy(const char *data, size_t len)
{
    char *copy = malloc(len ? len : 1);

    assert_non_null(copy);
    memcpy(copy, data, len);
    return copy;
}

static void check_result(struct json_reader *r, const struct text *t, const char *how)
{
    size_t offset = 0;
    bool ok = json_reader_end(r);
    const char *error = json_reader_error(r, &offset);

    if (ok == !error &&
        (error ? t->error && !strcmp(error, t->error) && offset == t->offset : !t->error))
        return;
    fail_msg("%s (%s): %s at %zu, and not %s at %zu", t->data, how, error ? error : "accepted",
             offset, t->error ? t->error : "accepted", t->offset);
}

static void check_text(const struct text *t)
{
    char *copy = exact_copy(t->data, t->len);
    struct buffer out = BUFFER_INIT(TEXT_MAX);
    struct json_slice slice = {NULL, 0};
    struct json_reader r;

    json_reader_init(&r, copy, t->len);
    if (json_skip(&r, &slice)) {
        assert_true(slice.data >= copy && slice.data + slice.len <= copy + t->len);
        assert_null(memchr(" \t\r\n", slice.data[0], 4));
        assert_null(memchr(" \t\r\n", slice.data[slice.len - 1], 4));
    } else {
        assert_null(slice.data);
    }
    check_result(&r, t, "skipped");

    json_reader_init(&r, copy, t->len);
    walk(&r, &out);
    check_result(&r, t, "walked");

    json_reader_init(&r, copy, t->len);
    look_over(&r);
    check_result(&r, t, "looked over");
    buffer_done(&out);
    free(copy);
}

static void test_takes_just_what_the_rfc_has(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_text(&texts[i]);
}

/* What is accepted at the top is accepted in an array and as a member, and so is what is not. */
static void test_takes_the_same_inside(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        static const char *const frames[][2] = {{"[0,", "]"}, {"{\"k\":", "}"}, {"[[", "]]"}};
        for (size_t k = 0; k < 3; k++) {
            struct buffer text = BUFFER_INIT(TEXT_MAX);
            struct json_reader r;

            if (texts[i].error && !strcmp(texts[i].error, MORE))
                continue; /* a part of them would be a member */
            buffer_append_string(&text, frames[k][0]);
            buffer_append(&text, texts[i].data, texts[i].len);
            buffer_append_string(&text, frames[k][1]);
            json_reader_init(&r, buffer_bytes(&text), buffer_length(&text));
            bool ok = json_skip(&r, NULL) && json_reader_end(&r);
            /* "[[" and "]]" around nothing at all. */
            bool expected =
                !texts[i].error || (k == 2 && strspn(texts[i].data, " ") == texts[i].len);
            if (ok != expected)
                fail_msg("%.*s", (int)buffer_length(&text), (char *)buffer_bytes(&text));
            buffer_done(&text);
        }
    }
}

/* Every prefix of a text in brackets is cut, and no byte behind it is looked at. */
static void test_refuses_every_prefix(void **state)
{
    static const char text[] = "{\"a\":[1.5e+3,-0,\"x\\u00e4\\n\xc3\xa4\",null,true,false,{}],"
                               "\"b\" : {\"c\":[[]]} }";

    (void)state;
    for (size_t len = 0; len < sizeof text - 1; len++) {
        char *copy = exact_copy(text, len);
        struct buffer out = BUFFER_INIT(TEXT_MAX);
        struct json_reader r;

        json_reader_init(&r, copy, len);
        walk(&r, &out);
        assert_false(json_reader_end(&r));
        json_reader_init(&r, copy, len);
        assert_false(json_skip(&r, NULL));
        buffer_done(&out);
        free(copy);
    }
}

/* ---- Depth ---- */

static struct buffer nested(unsigned depth, const char *open, const char *close)
{
    struct buffer text = BUFFER_INIT(1 << 24);

    for (unsigned i = 0; i < depth; i++)
        buffer_append_string(&text, open);
    buffer_append_string(&text, "1");
    for (unsigned i = 0; i < depth; i++)
        buffer_append_string(&text, close);
    assert_int_equal(text.error, 0);
    return text;
}

static void check_depth(unsigned depth, const char *open, const char *close, const char *error)
{
    struct buffer text = nested(depth, open, close);
    struct text t = {(char *)buffer_bytes(&text), buffer_length(&text), error,
                     error ? JSON_DEPTH_MAX * strlen(open) + strlen(open) - 1 : 0};

    check_text(&t);
    buffer_done(&text);
}

static void test_depth_is_limited(void **state)
{
    (void)state;
    check_depth(JSON_DEPTH_MAX, "[", "]", NULL);
    check_depth(JSON_DEPTH_MAX + 1, "[", "]", DEEP);
    check_depth(1000000, "[", "]", DEEP);
    struct buffer text = nested(JSON_DEPTH_MAX, "{\"a\":", "}");
    struct text t = {(char *)buffer_bytes(&text), buffer_length(&text), NULL, 0};
    check_text(&t);
    buffer_done(&text);
    text = nested(JSON_DEPTH_MAX + 1, "{\"a\":", "}");
    t = (struct text){(char *)buffer_bytes(&text), buffer_length(&text), DEEP, 5 * JSON_DEPTH_MAX};
    check_text(&t);
    buffer_done(&text);
}

/* Kinds of all depths are told apart, and a way out leads to a way in. */
static void test_kinds_alternate_to_the_last_depth(void **state)
{
    (void)state;
    check_depth(JSON_DEPTH_MAX / 2, "[{\"a\":", "}]", NULL);
    check_depth(JSON_DEPTH_MAX / 2, "{\"a\":[", "]}", NULL);
    for (unsigned depth = 1; depth <= JSON_DEPTH_MAX; depth++) {
        struct buffer text = nested(depth, "[", "]");
        buffer_bytes(&text)[buffer_length(&text) - 1] = '}';
        struct text t = {(char *)buffer_bytes(&text), buffer_length(&text), COMMA, 2 * depth};
        check_text(&t);
        buffer_done(&text);
    }
}

/* ---- Errors stay ---- */

/* Asking again, for anything, neither finds a value nor another mistake. */
static void test_the_first_mistake_stays(void **state)
{
    static const char *const broken[] = {"1.-", "[1.-", "{\"a\":1.-"};
    struct json_reader r;
    struct json_slice number;
    struct json_string string;
    double value;
    (void)state;

    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        json_reader_init(&r, broken[i], strlen(broken[i]));
        if (json_enter_array(&r))
            json_next_element(&r);
        else if (json_enter_object(&r))
            json_next_member(&r, &string);
        assert_false(json_read_number(&r, &number));
        const char *error = json_reader_error(&r, NULL);
        assert_non_null(error);
        assert_false(json_read_number(&r, &number));
        assert_false(json_read_double(&r, &value));
        assert_false(json_read_string(&r, &string));
        assert_false(json_skip(&r, NULL));
        assert_false(json_next_element(&r));
        assert_false(json_next_member(&r, &string));
        assert_false(json_reader_end(&r));
        assert_ptr_equal(json_reader_error(&r, NULL), error);
    }
}

/* ---- Samples ---- */

static int check_sample(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    static char data[TEXT_MAX];
    size_t n = strlen(path);

    (void)st;
    (void)ftw;
    if (type != FTW_F || n < 5 || strcmp(path + n - 5, ".json") != 0)
        return 0;
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    size_t len = fread(data, 1, sizeof data, f);
    assert_true(len > 0 && len < sizeof data);
    fclose(f);
    check_text(&(struct text){data, len, NULL, 0});
    return 0;
}

static void test_reads_all_samples(void **state)
{
    (void)state;
    assert_int_equal(nftw(SAMPLES, check_sample, 8, FTW_PHYS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takes_just_what_the_rfc_has),
        cmocka_unit_test(test_takes_the_same_inside),
        cmocka_unit_test(test_refuses_every_prefix),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_kinds_alternate_to_the_last_depth),
        cmocka_unit_test(test_the_first_mistake_stays),
        cmocka_unit_test(test_reads_all_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
