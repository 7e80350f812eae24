/* Chunks read by way of the one before: always what translate_response() makes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "translate.h"

enum { OUT_MAX = 1 << 20 };

#define CHUNK(text)                                                                                \
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"choices\":[{"      \
    "\"text\":\"" text "\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}],"                \
    "\"model\":\"m\"}"

struct chunk {
    const char *json;
    bool is_repeated; /* it is read by way of the pattern */
};

struct streams {
    struct translate_pattern pattern;
    struct translate_progress progress, expected_progress;
    struct buffer out, expected;
};

static void begin(struct streams *s)
{
    translate_pattern_init(&s->pattern, NULL);
    translate_progress_init(&s->progress, 1);
    translate_progress_init(&s->expected_progress, 1);
    s->out = s->expected = BUFFER_INIT(OUT_MAX);
}

static void done(struct streams *s)
{
    translate_pattern_done(&s->pattern);
    buffer_done(&s->out);
    buffer_done(&s->expected);
}

static void check(struct streams *s, const void *json, size_t len, bool is_repeated)
{
    const char *why = NULL, *expected_why = NULL;
    uint8_t *copy = malloc(len);

    assert_non_null(copy);
    memcpy(copy, json, len);
    enum translate_kind kind =
        translate_chunk(&s->pattern, copy, len, false, &s->progress, &s->out, &why);
    enum translate_kind expected = translate_response(
        copy, len, false, false, &s->expected_progress, &s->expected, &expected_why);
    free(copy);
    assert_int_equal(kind, expected);
    assert_ptr_equal(why, expected_why);
    assert_int_equal(s->out.error, s->expected.error);
    assert_int_equal(buffer_length(&s->out), buffer_length(&s->expected));
    if (buffer_length(&s->out) > 0)
        assert_memory_equal(buffer_bytes(&s->out), buffer_bytes(&s->expected),
                            buffer_length(&s->out));
    assert_memory_equal(&s->progress, &s->expected_progress, sizeof s->progress);
    if ((s->pattern.n_misses == 0) != is_repeated)
        print_error("%s: %.*s\n", is_repeated ? "not repeated" : "repeated", (int)len,
                    (const char *)json);
    assert_int_equal(s->pattern.n_misses == 0, is_repeated);
}

static void check_all(const struct chunk *chunks, size_t n)
{
    struct streams s;

    begin(&s);
    for (size_t i = 0; i < n; i++)
        check(&s, chunks[i].json, strlen(chunks[i].json), chunks[i].is_repeated);
    done(&s);
}

#define CHECK(...)                                                                                 \
    check_all((struct chunk[]){__VA_ARGS__},                                                       \
              sizeof((struct chunk[]){__VA_ARGS__}) / sizeof(struct chunk))

static void test_texts(void **state)
{
    (void)state;
    CHECK({CHUNK("one"), false}, {CHUNK(" two"), true}, {CHUNK(""), true},
          {CHUNK("\\n\\\"x"), true}, {CHUNK("\\u00e9\\ud83d\\ude00\\u0000"), true},
          {CHUNK("\xc3\xa9"), true}, {CHUNK("\\\\"), true}, {CHUNK("no: \xff"), false},
          {CHUNK("on"), true});
}

/* What the tail looks like inside of a text, and a text that ends where the tail begins. */
static void test_confusing_texts(void **state)
{
    (void)state;
    CHECK({CHUNK("a"), false}, {CHUNK("\",\"index\":0"), false}, {CHUNK("b"), true},
          {CHUNK("\\"), false}, {CHUNK("c\x01"), false}, {CHUNK("d"), true}, {CHUNK("\\x"), false},
          {CHUNK("e\",\"text\":\"f"), false}, {CHUNK("g"), true});
}

static void test_what_changes(void **state)
{
    (void)state;
    CHECK({"{\"choices\":[{\"index\":0,\"text\":\"a\"}],\"created\":1}", false},
          {"{\"choices\":[{\"index\":0,\"text\":\"b\"}],\"created\":2}", false},
          {"{\"choices\":[{\"index\":0,\"text\":\"c\"}],\"created\":2}", true},
          {"{\"choices\":[{\"index\":1,\"text\":\"c\"}],\"created\":2}", false},
          {"{\"choices\":[{\"index\":1,\"text\":\"c\",\"finish_reason\":\"stop\"}],\"created\":2}",
           false},
          {"{\"choices\":[{\"index\":1,\"text\":\"d\",\"finish_reason\":\"stop\"}],\"created\":2}",
           false},
          {"{\"choices\":[{\"index\":1,\"text\":\"e\"}],\"created\":2}", true},
          {"{\"choices\":[],\"usage\":{\"total_tokens\":3,\"prompt_tokens\":1}}", false},
          {"{\"choices\":[{\"index\":1,\"text\":\"e\"}],\"created\":2}", true});
}

/* Chunks that say something of the whole, and those with several texts, are always read. */
static void test_no_pattern(void **state)
{
    (void)state;
    CHECK({"{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}", false},
          {"{\"choices\":[{\"text\":\"b\",\"finish_reason\":\"stop\"}]}", false});
    CHECK({"{\"choices\":[{\"text\":\"a\"}],\"usage\":{\"total_tokens\":1}}", false},
          {"{\"choices\":[{\"text\":\"b\"}],\"usage\":{\"total_tokens\":1}}", false});
    CHECK({"{\"choices\":[{\"text\":\"a\"},{\"text\":\"b\"}]}", false},
          {"{\"choices\":[{\"text\":\"a\"},{\"text\":\"c\"}]}", false});
    CHECK({"{\"choices\":[{\"text\":\"a\",\"text\":\"b\"}]}", false},
          {"{\"choices\":[{\"text\":\"a\",\"text\":\"c\"}]}", false});
    CHECK({"{\"choices\":[{\"index\":0}]}", false}, {"{\"choices\":[{\"index\":0}]}", false});
    CHECK({"{\"error\":{\"message\":\"a\"}}", false}, {"null", false}, {"{}", false},
          {"{\"choices\":\"a\"}", false}, {"[", false});
}

/* Members that the schema does not have stand behind the choice's fields, as `extra`; lengths of
 * two bytes. */
static void test_extra_and_long(void **state)
{
    (void)state;
    char json[2048], text[300];
    struct streams s;

    CHECK(
        {"{\"choices\":[{\"stop_reason\":null,\"a\":1,\"text\":\"a\",\"b\":[2]}],\"c\":{}}", false},
        {"{\"choices\":[{\"stop_reason\":null,\"a\":1,\"text\":\"b\",\"b\":[2]}],\"c\":{}}", true},
        {"{\"choices\":[{\"stop_reason\":null,\"a\":1,\"text\":\"b\",\"b\":[3]}],\"c\":{}}",
         false});
    begin(&s);
    for (size_t n = 0; n < sizeof text; n += 7) {
        memset(text, 'x', n);
        int len = snprintf(json, sizeof json,
                           "{\"choices\":[{\"text\":\"%.*s\",\"logprobs\":{\"tokens\":[\"a\"]}}]}",
                           (int)n, text);
        check(&s, json, (size_t)len, n > 0);
    }
    done(&s);
}

/* A stream in which every chunk has something new stops being remembered. */
static void test_gives_up(void **state)
{
    (void)state;
    char json[128];
    struct streams s;

    begin(&s);
    for (int i = 0; i < 100; i++) {
        int len = snprintf(json, sizeof json, "{\"created\":%d,\"choices\":[{\"text\":\"a\"}]}", i);
        check(&s, json, (size_t)len, false);
    }
    assert_true(s.pattern.n_misses < 20);
    done(&s);
}

static void test_limits(void **state)
{
    (void)state;
    struct memory memory = MEMORY_INIT(0, NULL);
    struct translate_pattern p;
    struct translate_progress progress;
    struct buffer out = BUFFER_INIT(OUT_MAX);
    static const char json[] = CHUNK("a");

    /* Without memory for the pattern. */
    translate_pattern_init(&p, &memory);
    translate_progress_init(&progress, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(translate_chunk(&p, (const uint8_t *)json, sizeof json - 1, false,
                                         &progress, &out, NULL),
                         TRANSLATE_COMPLETION);
    assert_int_equal(p.n_misses, 3);
    translate_pattern_done(&p);
    buffer_done(&out);

    /* Without room for the reply. */
    translate_pattern_init(&p, NULL);
    out = BUFFER_INIT(80);
    translate_chunk(&p, (const uint8_t *)json, sizeof json - 1, false, &progress, &out, NULL);
    assert_int_equal(out.error, 0);
    size_t length = buffer_length(&out);
    translate_chunk(&p, (const uint8_t *)json, sizeof json - 1, false, &progress, &out, NULL);
    assert_int_equal(out.error, -EMSGSIZE);
    assert_int_equal(buffer_length(&out), length);
    translate_pattern_done(&p);
    buffer_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),          cmocka_unit_test(test_confusing_texts),
        cmocka_unit_test(test_what_changes),   cmocka_unit_test(test_no_pattern),
        cmocka_unit_test(test_extra_and_long), cmocka_unit_test(test_gives_up),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
