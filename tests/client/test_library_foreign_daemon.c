/*
 * Answers that are well-formed, but that our own daemon never sends: members that are there without
 * what belongs to them, `extra` that is no JSON, details of an error from a newer daemon.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpc_status.h"
#include "library.h"
#include "peer.h"

#define DETAIL_TYPE "type.googleapis.com/completion.v1.ErrorDetail"

static ProtobufCBinaryData bytes_of(const char *s)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)s, .len = strlen(s)};
}

/* ---- A daemon that answers with one message, or one error ---- */

struct reply {
    uint8_t message[4096];
    size_t len;
    const char *status, *details;
};

static void answer(struct fake_connection *c)
{
    const struct reply *reply = c->user;
    uint32_t stream;

    if (!peer_greet(c))
        return;
    while ((stream = peer_read_call(c)) &&
           (reply->status
                ? peer_begin(c, stream) && peer_end(c, stream, reply->status, NULL, reply->details)
                : peer_begin(c, stream) && peer_message(c, stream, reply->message, reply->len) &&
                      peer_end(c, stream, "0", NULL, NULL)))
        ;
}

static completion_result *ask(struct library *l, struct reply *reply,
                              const Completion__V1__Completion *m)
{
    completion_result *result = NULL;

    assert_true(completion__v1__completion__get_packed_size(m) <= sizeof reply->message);
    reply->len = completion__v1__completion__pack(m, reply->message);
    int r = completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, l->error);
    if (r != 0)
        fail_msg("the call fails with %d: %s", r, completion_error_message(l->error));
    return result;
}

/* ---- `extra` ---- */

/* A message with an `extra` on every level, and one place to put something else. */
struct levels {
    Completion__V1__Completion top;
    Completion__V1__CompletionChoice choice, *choices[1];
    Completion__V1__CompletionLogprobs logprobs;
    Completion__V1__CompletionUsage usage;
    Completion__V1__CompletionTokensDetails completion_details;
    Completion__V1__PromptTokensDetails prompt_details;
    ProtobufCBinaryData *extras[6];
};

static void levels_init(struct levels *m)
{
    completion__v1__completion__init(&m->top);
    completion__v1__completion_choice__init(&m->choice);
    completion__v1__completion_logprobs__init(&m->logprobs);
    completion__v1__completion_usage__init(&m->usage);
    completion__v1__completion_tokens_details__init(&m->completion_details);
    completion__v1__prompt_tokens_details__init(&m->prompt_details);
    m->choices[0] = &m->choice;
    m->top.n_choices = 1;
    m->top.choices = m->choices;
    m->choice.logprobs = &m->logprobs;
    m->top.usage = &m->usage;
    m->usage.completion_tokens_details = &m->completion_details;
    m->usage.prompt_tokens_details = &m->prompt_details;
    m->top.has_extra = m->choice.has_extra = m->logprobs.has_extra = m->usage.has_extra = true;
    m->completion_details.has_extra = m->prompt_details.has_extra = true;
    ProtobufCBinaryData *const extras[] = {&m->top.extra,
                                           &m->choice.extra,
                                           &m->logprobs.extra,
                                           &m->usage.extra,
                                           &m->completion_details.extra,
                                           &m->prompt_details.extra};
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++) {
        m->extras[i] = extras[i];
        *extras[i] = bytes_of("{\"a\":1}");
    }
}

static void test_extra_that_is_no_object_makes_no_json(void **state)
{
    static const char *const bad[] = {"", "1", "[1]", "{", "{\"a\":}", "{} {}", "{\"a\":1},"};
    static struct reply reply;
    struct library *l = *state;
    struct levels m;
    char *json = NULL;

    library_pretend(l, answer, &reply);
    levels_init(&m);
    completion_result *r = ask(l, &reply, &m.top);
    assert_int_equal(completion_result_to_json(r, &json, NULL), 0);
    free(json);
    completion_result_free(r);

    for (size_t level = 0; level < sizeof m.extras / sizeof *m.extras; level++) {
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            levels_init(&m);
            *m.extras[level] = bytes_of(bad[i]);
            r = ask(l, &reply, &m.top);
            json = NULL;
            assert_int_equal(completion_result_to_json(r, &json, NULL), -EBADMSG);
            assert_null(json);
            if (level == 0)
                library_assert_text(completion_result_extra(r), bad[i]);
            completion_result_free(r);
        }
    }
    library_stop(l);
}

/* ---- What is there without what belongs to it ---- */

static void check_empty_usage(const completion_result *r)
{
    int64_t value = -7;

    assert_int_equal(completion_result_has_usage(r), 1);
    for (int field = 0; field <= COMPLETION_USAGE_PROMPT_TEXT_TOKENS; field++)
        assert_int_equal(completion_result_usage(r, (enum completion_usage_field)field, &value), 0);
    assert_int_equal(value, -7);
    library_assert_text(completion_usage_extra(r), NULL);
    library_assert_text(completion_usage_completion_tokens_extra(r), NULL);
    library_assert_text(completion_usage_prompt_tokens_extra(r), NULL);
}

static void test_usage_without_details_and_details_without_numbers(void **state)
{
    static struct reply reply;
    struct library *l = *state;
    Completion__V1__Completion m = COMPLETION__V1__COMPLETION__INIT;
    Completion__V1__CompletionUsage usage = COMPLETION__V1__COMPLETION_USAGE__INIT;
    Completion__V1__CompletionTokensDetails completion =
        COMPLETION__V1__COMPLETION_TOKENS_DETAILS__INIT;
    Completion__V1__PromptTokensDetails prompt = COMPLETION__V1__PROMPT_TOKENS_DETAILS__INIT;

    library_pretend(l, answer, &reply);
    m.usage = &usage;
    completion_result *r = ask(l, &reply, &m);
    check_empty_usage(r);
    completion_result_free(r);

    usage.completion_tokens_details = &completion;
    usage.prompt_tokens_details = &prompt;
    r = ask(l, &reply, &m);
    check_empty_usage(r);
    completion_result_free(r);

    /* Whether a number is there can be asked without wanting it. */
    usage.has_total_tokens = prompt.has_image_tokens = completion.has_audio_tokens = true;
    r = ask(l, &reply, &m);
    assert_int_equal(completion_result_usage(r, COMPLETION_USAGE_TOTAL_TOKENS, NULL), 1);
    assert_int_equal(completion_result_usage(r, COMPLETION_USAGE_IMAGE_TOKENS, NULL), 1);
    assert_int_equal(completion_result_usage(r, COMPLETION_USAGE_COMPLETION_AUDIO_TOKENS, NULL), 1);
    assert_int_equal(completion_result_usage(r, COMPLETION_USAGE_PROMPT_AUDIO_TOKENS, NULL), 0);
    completion_result_free(r);
    library_stop(l);
}

static void test_top_logprob_without_its_number(void **state)
{
    static struct reply reply;
    struct library *l = *state;
    struct levels m;
    Completion__V1__TopLogprob one = COMPLETION__V1__TOP_LOGPROB__INIT, *entries[] = {&one};
    Completion__V1__TopLogprobs top = COMPLETION__V1__TOP_LOGPROBS__INIT, *tops[] = {&top};
    Completion__V1__TokenLogprob token = COMPLETION__V1__TOKEN_LOGPROB__INIT, *tokens[] = {&token};
    int32_t offset = 3;
    double logprob = 7;

    library_pretend(l, answer, &reply);
    levels_init(&m);
    top.n_entries = 1;
    top.entries = entries;
    m.logprobs.n_top_logprobs = m.logprobs.n_token_logprobs = m.logprobs.n_text_offset = 1;
    m.logprobs.top_logprobs = tops;
    m.logprobs.token_logprobs = tokens;
    m.logprobs.text_offset = &offset;
    m.choice.has_index = true;
    completion_result *r = ask(l, &reply, &m.top);
    assert_int_equal(completion_logprobs_n_top(r, 0, 0), 1);
    library_assert_text(completion_logprobs_top_token(r, 0, 0, 0), NULL);
    assert_int_equal(completion_logprobs_top_logprob(r, 0, 0, 0, &logprob), 0);
    assert_true(logprob == 7);
    completion_result_free(r);

    one.has_logprob = token.has_logprob = true;
    r = ask(l, &reply, &m.top);
    assert_int_equal(completion_logprobs_top_logprob(r, 0, 0, 0, NULL), 1);
    assert_int_equal(completion_logprobs_token_logprob(r, 0, 0, NULL), 1);
    assert_int_equal(completion_logprobs_text_offset(r, 0, 0, NULL), 1);
    assert_int_equal(completion_choice_index(r, 0, NULL), 1);
    completion_result_free(r);
    library_stop(l);
}

/* ---- Errors ---- */

static char *detail_of(const Completion__V1__ErrorDetail *d)
{
    struct buffer status = BUFFER_INIT(1 << 16), text = BUFFER_INIT(1 << 16);
    uint8_t packed[8192];

    assert_true(completion__v1__error_detail__get_packed_size(d) <= sizeof packed);
    grpc_status_pack(&status, GRPC_ABORTED, NULL, DETAIL_TYPE, packed,
                     completion__v1__error_detail__pack(d, packed));
    grpc_base64_encode(&text, buffer_bytes(&status), buffer_length(&status));
    buffer_done(&status);
    buffer_append_byte(&text, 0);
    assert_int_equal(text.error, 0);
    return (char *)text.data;
}

static void test_details_of_a_newer_daemon(void **state)
{
    static struct reply reply = {.status = "10"};
    char large[1001];
    struct library *l = *state;
    Completion__V1__ErrorDetail d = COMPLETION__V1__ERROR_DETAIL__INIT;
    completion_result *result;

    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    d.has_phase = d.has_reason = d.has_param = d.has_type = d.has_attempts = true;
    d.phase = (Completion__V1__Phase)99;
    d.reason = bytes_of("A_NEW_REASON");
    d.param = bytes_of("");
    d.type = bytes_of(large);
    d.attempts = 3;
    char *details = detail_of(&d);
    reply.details = details;
    library_pretend(l, answer, &reply);
    library_assert_create_fails(l, HARNESS_TIMEOUT_MS, -EIO, COMPLETION_ABORTED);
    /* It had no sentence: the status is one. */
    assert_string_equal(completion_error_message(l->error), "ABORTED");
    assert_string_equal(completion_error_reason(l->error), "A_NEW_REASON");
    assert_string_equal(completion_error_phase(l->error), "");
    assert_string_equal(completion_error_param(l->error), "");
    assert_int_equal(completion_error_attempts(l->error), 3);
    assert_int_equal(completion_error_retry_after_ms(l->error), -1);
    /* Cut to what the object holds. */
    size_t n = strlen(completion_error_type(l->error));
    assert_in_range(n, 100, 999);
    assert_memory_equal(completion_error_type(l->error), large, n);

    /* Who wants to know nothing gets the errno. */
    assert_int_equal(completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, NULL),
                     -EIO);
    assert_int_equal(completion_client_check(l->client, HARNESS_TIMEOUT_MS, NULL), -EIO);
    library_stop(l);
    free(details);
}

/* An answer that can't be read was paid for all the same. */
static void test_unreadable_answer_without_an_error_object(void **state)
{
    static struct reply reply = {.message = "\x0a\x05", .len = 2};
    struct library *l = *state;
    completion_result *result = NULL;

    library_pretend(l, answer, &reply);
    assert_int_equal(completion_create(l->client, l->request, HARNESS_TIMEOUT_MS, &result, NULL),
                     -EBADMSG);
    assert_null(result);
    library_assert_create_fails(l, HARNESS_TIMEOUT_MS, -EBADMSG, COMPLETION_INTERNAL);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    library_stop(l);
}

static void test_no_error_object_has_nothing(void **state)
{
    (void)state;

    assert_string_equal(completion_error_status_name(NULL), "UNKNOWN");
    assert_string_equal(completion_error_reason(NULL), "");
    assert_string_equal(completion_error_type(NULL), "");
    assert_string_equal(completion_error_param(NULL), "");
    assert_string_equal(completion_error_code(NULL), "");
    assert_string_equal(completion_error_api_message(NULL), "");
    assert_string_equal(completion_error_upstream(NULL), "");
    assert_string_equal(completion_error_endpoint(NULL), "");
    assert_string_equal(completion_error_request_id(NULL), "");
    assert_string_equal(completion_error_phase(NULL), "");
    assert_int_equal(completion_error_http_status(NULL), 0);
    assert_int_equal(completion_error_attempts(NULL), 0);
    assert_int_equal(completion_error_chunks_sent(NULL), 0);
    assert_int_equal(completion_error_maybe_executed(NULL), 0);
    assert_int_equal(completion_error_retryable(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_extra_that_is_no_object_makes_no_json),
        library_test(test_usage_without_details_and_details_without_numbers),
        library_test(test_top_logprob_without_its_number),
        library_test(test_details_of_a_newer_daemon),
        library_test(test_unreadable_answer_without_an_error_object),
        cmocka_unit_test(test_no_error_object_has_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
