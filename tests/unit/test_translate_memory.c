/*
 * Translations while memory runs out, or the space for what comes out: right, or an error that says
 * so. Never a request that is refused as wrong, half a body, or a key that is shown.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "failing_memory.h"
#include "sse.h"
#include "translate.h"

enum { OUT_MAX = 1 << 20 };

static ProtobufCBinaryData text_of(const char *s)
{
    return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)(uintptr_t)s};
}

/* ---- Requests ---- */

typedef Completion__V1__CreateCompletionRequest__LogitBiasEntry bias_entry;

static const struct translate_request_options options = {.validate = true,
                                                         .allow_extra_body = true};

/* Runs with a request that needs memory of its own: two biases of one token, members to compare. */
static void with_request(void (*check)(const translate_request_message *m))
{
    static char extra[4096];
    size_t n = (size_t)snprintf(extra, sizeof extra, "{\"\\u0061\\n\":{\"deep\":[1,2]}");
    bias_entry entries[2], *biases[] = {&entries[0], &entries[1]};
    translate_request_message m;

    for (int i = 0; i < 100; i++)
        n += (size_t)snprintf(extra + n, sizeof extra - n, ",\"member_%d\":%d", i, i);
    snprintf(extra + n, sizeof extra - n, "}");
    completion__v1__create_completion_request__init(&m);
    for (int i = 0; i < 2; i++) {
        completion__v1__create_completion_request__logit_bias_entry__init(&entries[i]);
        entries[i].has_key = entries[i].has_value = true;
        entries[i].key = 50256;
        entries[i].value = i;
    }
    m.has_model = true;
    m.model = text_of("m");
    m.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    m.prompt_string = text_of("Once\nupon");
    m.n_logit_bias = 2;
    m.logit_bias = biases;
    m.has_extra_body = true;
    m.extra_body = text_of(extra);
    check(&m);
}

static struct buffer body_of(const translate_request_message *m)
{
    struct buffer body = BUFFER_INIT(OUT_MAX);
    struct translate_refusal refusal;

    assert_int_equal(translate_request(m, &options, &body, &refusal), 0);
    return body;
}

static void assert_same(const struct buffer *a, const struct buffer *b)
{
    assert_int_equal(buffer_length(a), buffer_length(b));
    assert_memory_equal(buffer_bytes(a), buffer_bytes(b), buffer_length(b));
}

static void check_request_memory(const translate_request_message *m)
{
    struct buffer expected = body_of(m);

    for (struct failing_memory f = {0}; failing_memory_next(&f);) {
        struct buffer body = BUFFER_INIT(OUT_MAX);
        struct translate_refusal refusal;

        failing_memory_begin(&f);
        int r = translate_request(m, &options, &body, &refusal);
        failing_memory_end(&f);
        /* qsort() can do without. */
        if (r < 0) {
            assert_int_equal(r, -ENOMEM);
            assert_true(f.failed);
        } else {
            assert_same(&body, &expected);
        }
        buffer_done(&body);
    }
    buffer_done(&expected);
}

static void check_request_space(const translate_request_message *m)
{
    struct buffer expected = body_of(m);

    for (size_t limit = 0; limit <= buffer_length(&expected); limit++) {
        struct buffer body = BUFFER_INIT(limit);
        struct translate_refusal refusal;
        bool fits = limit == buffer_length(&expected);

        assert_int_equal(translate_request(m, &options, &body, &refusal), fits ? 0 : -EMSGSIZE);
        if (fits)
            assert_same(&body, &expected);
        buffer_done(&body);
    }
    buffer_done(&expected);
}

static void a_request_is_whole_or_there_is_no_memory_for_it(void **state)
{
    (void)state;
    with_request(check_request_memory);
}

static void a_request_is_whole_or_there_is_no_space_for_it(void **state)
{
    (void)state;
    with_request(check_request_space);
}

/* ---- Responses ---- */

/* Members that are not the API's, on every level, and bytes that are not UTF-8. */
static const char response[] =
    "{\"id\":\"c\",\"x\":{\"y\":[1]},\"choices\":[{\"text\":\"a\xff\xe2\x82\\u00e9\",\"z\":1,"
    "\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[null],\"w\":2},\"index\":0,"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"v\":3,"
    "\"prompt_tokens_details\":{\"u\":4}}}";

static enum translate_kind translate(struct buffer *out, struct translate_progress *progress)
{
    translate_progress_init(progress, 1);
    return translate_response((const uint8_t *)response, sizeof response - 1, true, false, progress,
                              out, NULL);
}

static void check_response(struct buffer *out, enum translate_kind kind, int error,
                           const struct translate_progress *progress, const struct buffer *expected)
{
    assert_int_equal(out->error, error);
    if (error) {
        assert_int_equal(buffer_length(out), 6);
        assert_memory_equal(buffer_bytes(out), "before", 6);
    } else {
        assert_int_equal(kind, TRANSLATE_COMPLETION);
        assert_int_equal(progress->n_finished, 1);
        assert_same(out, expected);
    }
    buffer_done(out);
}

static void a_response_is_whole_or_nothing_is_appended(void **state)
{
    struct translate_progress progress;
    struct buffer expected = BUFFER_INIT(OUT_MAX);
    (void)state;

    buffer_append_string(&expected, "before");
    assert_int_equal(translate(&expected, &progress), TRANSLATE_COMPLETION);
    for (struct failing_memory f = {0}; failing_memory_next(&f);) {
        struct buffer out = BUFFER_INIT(OUT_MAX);

        buffer_append_string(&out, "before");
        failing_memory_begin(&f);
        enum translate_kind kind = translate(&out, &progress);
        failing_memory_end(&f);
        check_response(&out, kind, f.failed ? -ENOMEM : 0, &progress, &expected);
    }
    for (size_t limit = 6; limit <= buffer_length(&expected); limit++) {
        struct buffer out = BUFFER_INIT(limit);

        buffer_append_string(&out, "before");
        enum translate_kind kind = translate(&out, &progress);
        check_response(&out, kind, limit < buffer_length(&expected) ? -EMSGSIZE : 0, &progress,
                       &expected);
    }
    buffer_done(&expected);
}

/* ---- Errors ---- */

static void an_error_keeps_its_status_and_never_shows_the_key(void **state)
{
    static const char secret[] = "sk-canary-0123456789abcdef";
    static const char body[] =
        "{\"error\":{\"message\":\"wrong key sk-canary-0123456789abcdef \xff for Once upon a time"
        "\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_api_key\"}}";
    static const char request[] = "{\"model\":\"m\",\"prompt\":\"Once upon a time there was\"}";
    bool was_whole = false, was_hidden = false;
    (void)state;

    for (struct failing_memory f = {0}; failing_memory_next(&f);) {
        struct translate_error e;

        failing_memory_begin(&f);
        translate_error(401, (const uint8_t *)body, sizeof body - 1, secret,
                        (const uint8_t *)request, sizeof request - 1, &e);
        failing_memory_end(&f);
        assert_int_equal(e.status, GRPC_UNAUTHENTICATED);
        assert_string_equal(e.reason, "UPSTREAM_AUTH");
        assert_int_equal(e.http_status, 401);
        assert_null(strstr(e.message, "canary"));
        assert_null(strstr(e.message, "upon"));
        if (f.failed) {
            was_hidden = true;
            assert_true(!*e.message || !strcmp(e.message, "[redacted]"));
        } else {
            was_whole = true;
            assert_string_equal(e.message, "wrong key [redacted] \xef\xbf\xbd for [redacted]");
            assert_string_equal(e.code, "invalid_api_key");
        }
    }
    assert_true(was_whole && was_hidden);
}

/* ---- Event streams ---- */

static bool on_event(void *user, const uint8_t *data, size_t len)
{
    unsigned *n = user;

    /* Whole, and in their order. */
    assert_int_equal(len, 201);
    assert_int_equal(data[0], '0' + *n);
    assert_int_equal(data[200], '0' + *n);
    ++*n;
    return true;
}

static void events_are_whole_or_the_stream_has_failed(void **state)
{
    char text[3][300];
    struct failing_memory f = {0};
    (void)state;

    for (int i = 0; i < 3; i++)
        snprintf(text[i], sizeof text[i], "data: %d%0100d\ndata:%098d%d\r\n\r\n", i, 0, 0, i);
    while (failing_memory_next(&f)) {
        struct sse_parser p;
        unsigned n = 0;
        int r = 0;

        sse_parser_init(&p, 4096, NULL);
        failing_memory_begin(&f);
        for (int i = 0; i < 3; i++) {
            const uint8_t *data = (const uint8_t *)text[i];
            size_t len = strlen(text[i]);
            for (size_t at = 0; at < len; at += 70)
                r = sse_parser_feed(&p, data + at, len - at < 70 ? len - at : 70, on_event, &n);
        }
        failing_memory_end(&f);
        assert_int_equal(r, f.failed ? -ENOMEM : 0);
        assert_true(r == 0 ? n == 3 : n < 3);
        /* It stays so when there is memory again. */
        assert_int_equal(sse_parser_feed(&p, (const uint8_t *)"\n", 1, on_event, &n), r);
        assert_int_equal(sse_parser_finish(&p, on_event, &n), r);
        sse_parser_done(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_whole_or_there_is_no_memory_for_it),
        cmocka_unit_test(a_request_is_whole_or_there_is_no_space_for_it),
        cmocka_unit_test(a_response_is_whole_or_nothing_is_appended),
        cmocka_unit_test(an_error_keeps_its_status_and_never_shows_the_key),
        cmocka_unit_test(events_are_whole_or_the_stream_has_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
