/* What upstreams repeat of a request or a key, and what of it may be seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "json_writer.h"
#include "redact.h"
#include "translate.h"
#include "utf8.h"

static const char key[] = "sk-canary-0123456789abcdef";

/* What is seen of a text; "#" for each hidden run. */
static const char *seen(const char *text, const char *request, const char *secret)
{
    static char out[REDACT_MAX + 1];
    struct redact *r = redact_new();
    size_t n = 0;

    assert_non_null(r);
    size_t len = redact_add(r, text, strlen(text));
    redact_request(r, (const uint8_t *)request, request ? strlen(request) : 0);
    redact_secret(r, secret);
    for (size_t i = 0; i < len; i++) {
        if (!redact_is_hidden(r, i))
            out[n++] = text[i];
        else if (n == 0 || out[n - 1] != '#')
            out[n++] = '#';
    }
    out[n] = '\0';
    assert_true(utf8_is_valid(out, n));
    redact_free(r);
    return out;
}

struct row {
    const char *text, *expected;
};

static void expect(const struct row *rows, size_t n, const char *request)
{
    for (size_t i = 0; i < n; i++)
        assert_string_equal(seen(rows[i].text, request, NULL), rows[i].expected);
}
#define EXPECT(rows, request) expect(rows, sizeof rows / sizeof *rows, request)

static void twelve_bytes_of_the_prompt_are_hidden(void **state)
{
    static const struct row rows[] = {
        {"Once upon a time", "#"},
        {"input: 'Once upon a time there was.'", "input: '#'"},
        {"bad: Once upon a...", "bad: Once upon a..."}, /* 11 bytes */
        {"bad: Once upon a t...", "bad: #..."},
        {"time there was", "#"},
        {"Once upon a time there was. Once upon a time there was.", "# #"},
        {"nothing of it", "nothing of it"},
        {"", ""},
    };

    (void)state;
    EXPECT(rows, "{\"model\":\"m\",\"prompt\":\"Once upon a time there was.\"}");
}

static void short_texts_are_hidden_as_a_whole(void **state)
{
    static const struct row rows[] = {
        {"stop sequence 'banana' is bad", "stop sequence '#' is bad"},
        {"'banan' is 5 bytes of it", "'banan' is 5 bytes of it"},
        {"apple is too short, bananas are not", "apple is too short, #s are not"},
        {"a suffix: 11 letters", "a suffix: #"},
        {"a suffix: 11 lette", "a suffix: 11 lette"},
    };

    (void)state;
    EXPECT(rows, "{\"prompt\":[\"apple\",\"banana\"],\"suffix\":\"11 letters\"}");
}

static void every_string_value_counts_but_no_key(void **state)
{
    static const char request[] =
        "{\"model\":\"some-model-name\",\"prompt\":[[\"nested in a "
        "list\"]],\"user\":\"user-of-mine\","
        "\"presence_penalty\":1,\"guided\":{\"model\":\"not the model's name\",\"long_key_of_it\":"
        "{\"deep\":[1,{\"deeper\":\"the deepest of all\"}]}}}";
    static const struct row rows[] = {
        {"nested in a list", "#"},
        {"user-of-mine", "#"},
        {"the deepest of all", "#"},
        {"not the model's name", "#"},
        {"presence_penalty long_key_of_it", "presence_penalty long_key_of_it"},
        {"The model `some-model-name` does not exist",
         "The model `some-model-name` does not exist"},
    };

    (void)state;
    EXPECT(rows, request);
}

static void name_of_the_model_stays_even_if_the_prompt_has_it(void **state)
{
    static const struct row rows[] = {
        {"The model `gpt-3.5-turbo-instruct` does not exist",
         "The model `gpt-3.5-turbo-instruct` does not exist"},
        {"You said: what is gpt-3.5-turbo-instruct?", "You said: #"},
    };
    static const struct row letters[] = {{"a: banana banana", "a: #"}};

    (void)state;
    EXPECT(rows, "{\"model\":\"gpt-3.5-turbo-instruct\","
                 "\"prompt\":\"what is gpt-3.5-turbo-instruct?\"}");
    EXPECT(letters, "{\"model\":\"a\",\"prompt\":\"banana banana\"}");
}

static void escaped_forms_are_hidden(void **state)
{
    static const char request[] =
        "{\"prompt\":\"a \\\"b\\\"\\n\\u4f60\\u597d\\ud83d\\ude00/<c>&\\t\\u00e9t\\u00e9\"}";
    static const struct row rows[] = {
        {"a \"b\"\n\xe4\xbd\xa0\xe5\xa5\xbd", "#"},
        {"x: a \\\"b\\\"\\n\\u4f60\\u597d\\ud83d\\ude00 y", "x: # y"},
        {"x: \\u4F60\\u597D\\U0001f600\\/<c>&\\t\\xe9 y", "x: #\\xe9 y"},
        {"b'a \"b\"\\n\\xe4\\xbd\\xa0\\xe5\\xa5\\xbd'", "b'#'"},
        {"a%20%22b%22%0a%E4%BD%A0%E5%A5%BD", "#"},
        {"a &quot;b&#34;&#xA;&#20320;&#22909;", "#"},
        {"100% \\ & &amp; \\u12 %4 &#; &#99999999999; \\",
         "100% \\ & &amp; \\u12 %4 &#; &#99999999999; \\"},
    };

    (void)state;
    EXPECT(rows, request);
}

static void whole_characters_are_hidden(void **state)
{
    /* The run begins and ends inside characters that differ. */
    static const struct row rows[] = {
        {"(\xc3\xa9 0123456789 \xc3\xa9)", "(#)"},
        {"(\xc4\xa9 0123456789 \xc3\xaa)", "(#)"},
    };

    (void)state;
    EXPECT(rows, "{\"prompt\":\"\\u00e9 0123456789 \\u00e9\"}");
}

static void token_ids_are_hidden(void **state)
{
    static const struct row rows[] = {
        {"input: [1, 22, 333, 4,5 ,6, 7, 8]", "input: [#]"},
        {"[[1,2],[3,4],\n[5,6],[7,8],[9,50256]] too long", "[[#]] too long"},
        {"1, 2, 3, 4, 5, 6, 7", "1, 2, 3, 4, 5, 6, 7"},
        {"on 2024-10-21 at 10.30, 4097 tokens (4000 in your prompt; 97, 1)",
         "on 2024-10-21 at 10.30, 4097 tokens (4000 in your prompt; 97, 1)"},
        {"-1, -2, -3, -4, -5, -6, -7, -8", "-#"},
    };
    static const struct row others[] = {{"1, 2, 3, 4, 5, 6, 7, 8", "1, 2, 3, 4, 5, 6, 7, 8"}};

    (void)state;
    EXPECT(rows, "{\"prompt\":[[1,2,3],[4]]}");
    EXPECT(others, "{\"prompt\":\"text\",\"max_tokens\":1}");
}

static void parts_of_the_key_are_hidden(void **state)
{
    static const struct row rows[] = {
        {"sk-canary-0123456789abcdef", "#"},
        {"Bearer sk-canary-***cdef", "Bearer #***cdef"},
        {"sk-cana***9abcdef", "sk-cana***9abcdef"},
        {"...6789abcdef", "...6789abcdef"},
        {"...456789abcdef", "...#"},
        {"req_0123456789", "req_0123456789"},
        {"\\u0073k\\u002dcanary-0123", "#"},
        {"sk%2Dcanary%2D0123", "#"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(seen(rows[i].text, NULL, key), rows[i].expected);
    assert_string_equal(seen("key abc, abcabc.", NULL, "abc"), "key #, #.");
    assert_string_equal(seen("key ababa.", NULL, "aba"), "key #.");
    assert_string_equal(seen("key aaaaaaaaaaaaab.", NULL, "aaaaaaaab"), "key #.");
    assert_string_equal(seen("no key", NULL, ""), "no key");
    /* The model's name is shown, but not if it is the key. */
    assert_string_equal(
        seen("model sk-canary-0123456789abcdef", "{\"model\":\"sk-canary-0123456789abcdef\"}", key),
        "model #");
    assert_true(redact_has_secret("req-canary-01234", key));
    assert_true(redact_has_secret("req-sk-canar", key));
    assert_false(redact_has_secret("req_0123456789", key));
    assert_false(redact_has_secret("req-9", NULL));
}

/* A string with escapes is decoded in pieces: no window may be lost between them. */
static void long_strings_with_escapes_have_no_seams(void **state)
{
    enum { N = 12000 };
    struct buffer request = BUFFER_INIT(1 << 20);
    uint8_t *text = malloc(4 * N);
    size_t len = 0;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < N; i++) {
        uint32_t random = (uint32_t)i * 2654435761u;
        len += utf8_encode(i % 5 == 0   ? 0x1F600 + random % 64
                           : i % 5 == 1 ? random % 32
                                        : 'a' + random % 26,
                           text + len);
    }
    buffer_append_string(&request, "{\"prompt\":\"");
    for (size_t i = 0; i < len;) {
        uint32_t c = text[i];
        if (c >= 0xF0) {
            c = (c & 7) << 18 | (text[i + 1] & 63u) << 12 | (text[i + 2] & 63u) << 6 |
                (text[i + 3] & 63u);
            buffer_printf(&request, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10),
                          0xDC00 + (c & 0x3FF));
            i += 4;
        } else {
            buffer_printf(&request, c < ' ' ? "\\u%04x" : "%c", (int)c);
            i++;
        }
    }
    buffer_append_string(&request, "\"}");

    for (size_t at = 0; at + 64 < len; at += 48) {
        struct redact *r = redact_new();
        size_t from = at, to = at + 60;
        while ((text[from] & 0xC0) == 0x80)
            from++;
        while ((text[to] & 0xC0) == 0x80)
            to++;
        redact_add(r, text + from, to - from);
        redact_request(r, buffer_bytes(&request), buffer_length(&request));
        for (size_t i = 0; i < to - from; i++)
            if (!redact_is_hidden(r, i))
                fail_msg("byte %zu of the prompt is seen", from + i);
        redact_free(r);
    }
    free(text);
    buffer_done(&request);
}

static void texts_are_kept_apart(void **state)
{
    struct redact *r = redact_new();
    static const char request[] = "{\"prompt\":\"Once upon a time\"}";

    (void)state;
    redact_add(r, "Once up", 7);
    size_t second = redact_end(r);
    assert_int_equal(redact_add(r, "on a time", 9), 9);
    redact_request(r, (const uint8_t *)request, sizeof request - 1);
    for (size_t i = 0; i < second + 9; i++)
        assert_false(redact_is_hidden(r, i));
    redact_free(r);
}

static void more_than_there_is_space_for_is_not_kept(void **state)
{
    struct redact *r = redact_new();
    char text[REDACT_MAX];

    (void)state;
    memset(text, 'x', sizeof text);
    assert_int_equal(redact_add(r, text, 5000), 5000);
    assert_in_range(redact_add(r, text, 5000), 100, REDACT_MAX - 5000);
    size_t end = redact_end(r);
    assert_int_equal(redact_add(r, text, 10), 0);
    assert_int_equal(redact_add(r, "", 0), 0);
    assert_int_equal(redact_end(r), end);
    redact_request(r, (const uint8_t *)"{\"prompt\":\"xxxxxxxxxxxx\"}", 25);
    for (size_t i = 0; i < end - 1; i++)
        assert_true(redact_is_hidden(r, i) || i == 5000);
    redact_free(r);
}

/* Texts made so that everything is found everywhere. Compared with one of random letters: a
 * quadratic way would take thousands of times as long. */
static void no_text_takes_long(void **state)
{
    enum { LEN = 1 << 20 };
    char *request = malloc(LEN + 64), text[4096];

    (void)state;
    assert_non_null(request);
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    strcpy(request, "{\"prompt\":\"");
    memset(request + 11, 'a', LEN);
    strcpy(request + 11 + LEN, "\"}");
    clock_t start = clock();
    assert_string_equal(seen(text, request, NULL), "#");
    /* Very many short ones. */
    char *p = stpcpy(request, "{\"prompt\":[\"\"");
    while (p < request + LEN)
        p = stpcpy(p, ",\"aaaaaa\",\"aaaaaaa\",\"aaaaaaaa\",\"aaaaaaaaaaa\"");
    strcpy(p, "]}");
    assert_string_equal(seen(text, request, NULL), "#");
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    print_message("2 MiB of requests: %.1f ms\n", seconds * 1000);
    assert_true(seconds < 5);
    free(request);
}

/* What would take long to look through is not: nothing of the texts is seen then, but what is no
 * secret of the request's. */
static void requests_that_are_too_much_hide_all(void **state)
{
    static const struct {
        const char *begin, *piece, *end;
    } rows[] = {
        {"\"", "\\u0001", "\""},                 /* escapes */
        {"[\"\"", ",\"abcdefgh\"", "]"},         /* strings */
        {"[\"\"", ",[]", "]"},                   /* brackets */
        {"\"", "a nd quite another text", "\""}, /* pieces that the text has, and then differ */
    };
    static const char text[] = "and quite another text";
    enum { N = 1 << 20 };
    char *request = malloc(N * 24);

    (void)state;
    assert_non_null(request);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct redact *r = redact_new();
        char *p = stpcpy(stpcpy(request, "{\"suffix\":\"x\",\"prompt\":"), rows[i].begin);
        for (int k = 0; k < N; k++)
            p = stpcpy(p, rows[i].piece);
        strcpy(stpcpy(p, rows[i].end), "}");

        size_t len = redact_add(r, text, sizeof text - 1), name = redact_end(r);
        redact_add(r, "suffix", 6);
        size_t word = redact_end(r);
        redact_add(r, "word", 4);
        redact_name(r, name, name + 6);
        redact_request(r, (const uint8_t *)request, strlen(request));
        redact_show(r, word, word + 4);
        redact_secret(r, key);
        for (size_t at = 0; at < word + 4; at++)
            if (redact_is_hidden(r, at) != (at < len) && at != len && at != word - 1)
                fail_msg("byte %zu, row %zu", at, i);
        redact_free(r);
    }
    free(request);
}

static void names_of_parameters_stay(void **state)
{
    static const char *const requests[] = {
        "{\"prompt\":\"suffix\",\"suffix\":\"s\"}",
        "{\"prompt\":\"suffix\",\"extra\" :\t {\"suffix\":1}}",
        "{\"prompt\":[\"suffix\",\"suffix\"]}",
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct redact *r = redact_new();
        redact_add(r, "suffix", 6);
        redact_name(r, 0, 6);
        redact_request(r, (const uint8_t *)requests[i], strlen(requests[i]));
        assert_int_equal(redact_is_hidden(r, 0), i > 0);
        redact_free(r);
    }
}

/* ---- In error bodies ---- */

static struct translate_error error_of(const char *body, const char *request)
{
    struct translate_error e;

    translate_error(400, (const uint8_t *)body, strlen(body), key, (const uint8_t *)request,
                    request ? strlen(request) : 0, &e);
    return e;
}

static void errors_do_not_repeat_the_prompt(void **state)
{
    static const char request[] =
        "{\"model\":\"gpt-x\",\"prompt\":\"CANARY once\\nupon a time\",\"stop\":[\"banana\"]}";
    static const struct row rows[] = {
        {"{\"error\":{\"message\":\"bad input: 'CANARY once\\\\nupon a time'\"}}",
         "bad input: '[redacted]'"},
        {"{\"error\":{\"message\":\"bad input: CANARY once\\nupon a time!\"}}",
         "bad input: [redacted]!"},
        {"{\"detail\":[{\"msg\":\"CANARY once\\nupon a time\",\"loc\":[\"body\",\"prompt\"]}]}",
         "[redacted]"},
        {"<html><title>400 CANARY once\nupon</title></html>", "400 [redacted]"},
        {"{\"error\":{\"message\":\"m\",\"metadata\":{\"raw\":\"{\\\"prompt\\\":\\\"CANARY once\\\\"
         "nupon a time\\\"}\"}}}",
         "m: {\"prompt\":\"[redacted]\"}"},
        {"CANARY once\nupon a time", "[redacted]"},
        {"stop: banana", "stop: [redacted]"},
        {"{\"error\":\"The model `gpt-x` does not exist\"}", "The model `gpt-x` does not exist"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(error_of(rows[i].text, request).message, rows[i].expected);
}

static void words_of_the_api_stay(void **state)
{
    static const char request[] =
        "{\"model\":\"m\",\"presence_penalty\":1,\"prompt\":\"insufficient_quota means what? And "
        "presence_penalty, invalid_request_error, some_other_words_of_it?\"}";
    struct translate_error e =
        error_of("{\"error\":{\"message\":\"insufficient_quota means\",\"type\":"
                 "\"invalid_request_error\",\"code\":\"insufficient_quota\",\"param\":"
                 "\"presence_penalty\"}}",
                 request);

    (void)state;
    assert_string_equal(e.reason, "UPSTREAM_QUOTA");
    assert_string_equal(e.type, "invalid_request_error");
    assert_string_equal(e.code, "insufficient_quota");
    assert_string_equal(e.param, "presence_penalty");
    assert_string_equal(e.message, "[redacted]");
    e = error_of("{\"error\":{\"type\":\"some_other_words_of_it\",\"code\":"
                 "\"some_other_words_of_it\",\"param\":\"some_other_words_of_it\"}}",
                 request);
    assert_string_equal(e.type, "[redacted]");
    assert_string_equal(e.code, "[redacted]");
    assert_string_equal(e.param, "[redacted]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twelve_bytes_of_the_prompt_are_hidden),
        cmocka_unit_test(short_texts_are_hidden_as_a_whole),
        cmocka_unit_test(every_string_value_counts_but_no_key),
        cmocka_unit_test(name_of_the_model_stays_even_if_the_prompt_has_it),
        cmocka_unit_test(escaped_forms_are_hidden),
        cmocka_unit_test(whole_characters_are_hidden),
        cmocka_unit_test(token_ids_are_hidden),
        cmocka_unit_test(parts_of_the_key_are_hidden),
        cmocka_unit_test(long_strings_with_escapes_have_no_seams),
        cmocka_unit_test(texts_are_kept_apart),
        cmocka_unit_test(more_than_there_is_space_for_is_not_kept),
        cmocka_unit_test(no_text_takes_long),
        cmocka_unit_test(requests_that_are_too_much_hide_all),
        cmocka_unit_test(names_of_parameters_stay),
        cmocka_unit_test(errors_do_not_repeat_the_prompt),
        cmocka_unit_test(words_of_the_api_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
