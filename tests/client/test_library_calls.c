/*
 * libcompletion's calls against a real daemon: answers, streams, errors, deadlines, cancelling.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "library.h"

enum { AT_ONCE_MS = 1500, EARLY_MS = 10, DEADLINE_MS = 300, FOREVER = -1 };

/* ---- Answers ---- */

static void answer_each(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           (strstr(c->body, "\"stream\":true")
                ? fake_stream_begin(c) && fake_event(c, FAKE_PART("one, ")) &&
                      fake_event(c, FAKE_PART("two, ")) && fake_event(c, FAKE_LAST("three")) &&
                      fake_stream_done(c)
                : fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"))))
        ;
}

static void test_unary_answer(void **state)
{
    struct library *l = *state;
    completion_result *result;

    library_start(l, answer_each, NULL, NULL);
    assert_string_equal(completion_client_socket(l->client), l->scene.daemon.socket);
    /* Nothing is connected before the first call. */
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 0);
    assert_string_equal(library_create(l), "whole");

    /* Neither error object nor deadline is needed. */
    assert_int_equal(completion_create(l->client, l->request, FOREVER, &result, NULL), 0);
    library_assert_text(completion_choice_text(result, 0), "whole");
    completion_result_free(result);
    assert_int_equal(completion_create(l->client, l->request, INT64_MAX, &result, NULL), 0);
    completion_result_free(result);
    library_stop(l);
}

static void test_stream_brings_each_chunk_once(void **state)
{
    static const char *const parts[] = {"one, ", "two, ", "three"};
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, answer_each, NULL, NULL);
    completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
        library_assert_text(completion_choice_text(chunk, 0), parts[i]);
        assert_int_equal(completion_choice_finish_reason(chunk, 0),
                         i < 2 ? COMPLETION_FINISH_UNSPECIFIED : COMPLETION_FINISH_STOP);
    }
    /* The end stays the end, also if it is cancelled. */
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 0);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 0);
    completion_stream_cancel(stream);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 0);
    completion_stream_free(stream);
    library_stop(l);
}

static void test_streams_in_any_order_share_a_connection(void **state)
{
    enum { N = 24 };
    struct library *l = *state;
    completion_stream *streams[N];
    const completion_result *chunk;

    library_start(l, answer_each, NULL, NULL);
    for (int i = 0; i < N; i++)
        streams[i] = library_open(l, HARNESS_TIMEOUT_MS);
    /* The last first; between them whole calls; one chunk here and one there; some not at all. */
    for (int i = N - 1; i >= N / 2; i--)
        assert_string_equal(library_read(l, streams[i]), "one, two, three");
    assert_string_equal(library_create(l), "whole");
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < N / 4; i++)
            assert_int_equal(completion_stream_next(streams[i], &chunk, l->error), 1);
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 1);
    for (int i = 0; i < N / 4; i++)
        assert_string_equal(library_read(l, streams[i]), "");
    for (int i = 0; i < N; i++)
        completion_stream_free(streams[i]);
    assert_string_equal(library_create(l), "whole");
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 1);
    assert_int_equal(completion_client_check(l->client, HARNESS_TIMEOUT_MS, l->error), 1);
    library_stop(l);
}

/* One stream has much more than its window holds, and nobody reads it. */
static void flood_or_answer(struct fake_connection *c)
{
    char *big = malloc(64 << 10);

    memset(big, 'x', (64 << 10) - 1);
    big[(64 << 10) - 1] = '\0';
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"flood\"")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("small")))
                break;
            continue;
        }
        bool ok = fake_stream_begin(c);
        for (int i = 0; ok && i < 64; i++) {
            char *event = NULL;
            ok = asprintf(&event, "{\"choices\":[{\"index\":0,\"text\":\"%s\"}]}", big) > 0 &&
                 fake_event(c, event);
            free(event);
        }
        if (!ok || !fake_event(c, FAKE_LAST("")) || !fake_stream_done(c))
            break;
    }
    free(big);
}

static void test_unread_stream_holds_up_no_other(void **state)
{
    struct library *l = *state;

    library_start(l, flood_or_answer, NULL, NULL);
    completion_request_set_user(l->request, "flood", TEXT);
    completion_stream *stream = library_open(l, FOREVER);
    completion_request_set_user(l->request, "calm", TEXT);
    for (int i = 0; i < 20; i++)
        assert_string_equal(library_create(l), "small");
    assert_int_equal(strlen(library_read(l, stream)), 64 * ((64 << 10) - 1));
    completion_stream_free(stream);
    library_stop(l);
}

/* ---- Errors ---- */

static void say(struct fake_connection *c)
{
    const char *response = c->user;

    if (fake_read_request(c))
        fake_write(c, response, strlen(response));
}

static void test_error_has_what_the_api_said(void **state)
{
    static const char response[] =
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        "retry-after-ms: 420\r\nx-request-id: req_7\r\n\r\n"
        "{\"error\":{\"message\":\"Slow down\",\"type\":\"requests\",\"param\":\"model\","
        "\"code\":\"rate_limit_exceeded\"}}";
    struct library *l = *state;

    library_start(l, say, response, NULL);
    library_assert_create_fails(l, FOREVER, -EIO, COMPLETION_RESOURCE_EXHAUSTED);
    completion_error *e = l->error;
    assert_string_equal(completion_error_status_name(e), "RESOURCE_EXHAUSTED");
    assert_string_equal(completion_error_reason(e), "UPSTREAM_RATE_LIMIT");
    assert_string_equal(completion_error_type(e), "requests");
    assert_string_equal(completion_error_param(e), "model");
    assert_string_equal(completion_error_code(e), "rate_limit_exceeded");
    assert_string_equal(completion_error_api_message(e), "Slow down");
    assert_string_equal(completion_error_upstream(e), "fake");
    assert_memory_equal(completion_error_endpoint(e), "127.0.0.1:", 10);
    assert_string_equal(completion_error_request_id(e), "req_7");
    assert_string_equal(completion_error_phase(e), "headers");
    assert_int_equal(completion_error_http_status(e), 429);
    assert_int_equal(completion_error_retry_after_ms(e), 420);
    assert_int_equal(completion_error_attempts(e), 1);
    assert_int_equal(completion_error_chunks_sent(e), 0);
    assert_int_equal(completion_error_maybe_executed(e), 0);
    assert_int_equal(completion_error_retryable(e), 1);
    library_stop(l);
}

static void test_error_of_the_daemon_itself(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    completion_request_set_temperature(l->request, 9);
    library_assert_create_fails(l, FOREVER, -EIO, COMPLETION_INVALID_ARGUMENT);
    assert_string_equal(completion_error_reason(l->error), "INVALID_REQUEST");
    assert_string_equal(completion_error_param(l->error), "temperature");
    assert_string_equal(completion_error_phase(l->error), "local");
    assert_string_equal(completion_error_request_id(l->error), "");
    assert_int_equal(completion_error_retry_after_ms(l->error), -1);
    assert_int_equal(completion_error_http_status(l->error), 0);
    assert_int_equal(completion_error_attempts(l->error), 0);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    assert_int_equal(completion_error_retryable(l->error), 0);

    /* It tells of the last call that failed, also after one that did not. */
    completion_request_set_temperature(l->request, 1);
    assert_string_equal(library_create(l), "whole");
    assert_string_equal(completion_error_param(l->error), "temperature");
    completion_request_set_model(l->request, "", TEXT);
    library_assert_create_fails(l, FOREVER, -EIO, COMPLETION_INVALID_ARGUMENT);
    assert_string_equal(completion_error_param(l->error), "model");
    library_stop(l);
}

static void cut_after_two(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")))
        fake_event(c, FAKE_PART("b"));
}

static void test_cut_stream_is_an_error_that_stays(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, cut_after_two, NULL, NULL);
    completion_stream *stream = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    library_assert_next_fails(l, stream, -EIO, COMPLETION_UNAVAILABLE);
    assert_string_equal(completion_error_reason(l->error), "STREAM_TRUNCATED");
    assert_string_equal(completion_error_request_id(l->error), "req-1");
    assert_int_equal(completion_error_chunks_sent(l->error), 2);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    library_assert_next_fails(l, stream, -EIO, COMPLETION_FAILED_PRECONDITION);
    completion_stream_free(stream);
    library_stop(l);
}

/* ---- Deadlines ---- */

static void say_nothing(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_wait_for_close(c);
}

static void begin_and_stall(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a"))) {
        fake_mark(c->fake, FAKE_STEP);
        fake_wait_for_close(c);
    }
}

static void assert_upstream_closed(struct library *l, unsigned n, int64_t since_ms)
{
    assert_true(fake_await(l->scene.fake, FAKE_CLOSED, n));
    assert_true(fake_closed_at_ms(l->scene.fake) - since_ms < AT_ONCE_MS);
}

static void test_deadline_of_an_answer(void **state)
{
    struct library *l = *state;

    library_start(l, say_nothing, NULL, NULL);
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    int64_t took_ms = harness_now_ms() - start;
    assert_true(took_ms >= DEADLINE_MS - EARLY_MS && took_ms < DEADLINE_MS + AT_ONCE_MS);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    assert_upstream_closed(l, 1, start + DEADLINE_MS);
    library_stop(l);
}

static void test_deadline_of_a_stream_holds_between_chunks(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, begin_and_stall, NULL, NULL);
    int64_t start = harness_now_ms();
    completion_stream *stream = library_open(l, 3 * DEADLINE_MS);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    library_assert_next_fails(l, stream, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    assert_upstream_closed(l, 1, start + 3 * DEADLINE_MS);
    completion_stream_free(stream);
    library_stop(l);
}

static void test_deadline_that_is_over_sends_nothing(void **state)
{
    struct library *l = *state;
    completion_stream *stream;

    library_start(l, answer_each, NULL, NULL);
    library_assert_create_fails(l, 0, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    int r = completion_stream_open(l->client, l->request, 0, &stream, l->error);
    library_assert_failed(l, r, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    r = completion_client_check(l->client, 0, l->error);
    library_assert_failed(l, r, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_string_equal(library_create(l), "whole");
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 1);
    library_stop(l);
}

/* ---- Cancelling ---- */

static void test_cancelled_stream_stops_the_upstream(void **state)
{
    struct library *l = *state;
    const completion_result *chunk;

    library_start(l, begin_and_stall, NULL, NULL);
    completion_stream *stream = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    int64_t start = harness_now_ms();
    completion_stream_cancel(stream);
    completion_stream_cancel(stream);
    assert_upstream_closed(l, 1, start);
    library_assert_next_fails(l, stream, -ECANCELED, COMPLETION_CANCELLED);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    completion_stream_cancel(stream);
    library_assert_next_fails(l, stream, -ECANCELED, COMPLETION_FAILED_PRECONDITION);
    completion_stream_free(stream);
    assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 1);
    library_stop(l);
}

static void test_freed_stream_stops_the_upstream(void **state)
{
    struct library *l = *state;

    library_start(l, begin_and_stall, NULL, NULL);
    completion_stream *stream = library_open(l, FOREVER);
    assert_true(fake_await(l->scene.fake, FAKE_STEP, 1));
    int64_t start = harness_now_ms();
    completion_stream_free(stream);
    assert_upstream_closed(l, 1, start);
    library_stop(l);
}

struct hook {
    completion_stream *cancel; /* this one, unless NULL */
    int n_calls, stop_at;
    int64_t elapsed_ms;
    bool backwards;
};

static int count(void *user, int64_t elapsed_ms)
{
    struct hook *h = user;

    h->backwards |= elapsed_ms < h->elapsed_ms;
    h->elapsed_ms = elapsed_ms;
    if (++h->n_calls < h->stop_at)
        return 0;
    completion_stream_cancel(h->cancel);
    return h->cancel ? 0 : 1;
}

static void test_hook_cancels_an_answer(void **state)
{
    struct library *l = *state;
    struct hook hook = {.stop_at = 5};

    library_start(l, say_nothing, NULL, NULL);
    completion_client_set_wait(l->client, count, &hook, 10);
    library_assert_create_fails(l, FOREVER, -ECANCELED, COMPLETION_CANCELLED);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    assert_int_equal(hook.n_calls, 5);
    assert_false(hook.backwards);
    assert_true(hook.elapsed_ms >= 5 * 10);
    assert_upstream_closed(l, 1, harness_now_ms());

    completion_client_set_wait(l->client, NULL, NULL, 10);
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_int_equal(hook.n_calls, 5);
    library_stop(l);
}

static void test_hook_cancels_a_stream(void **state)
{
    struct library *l = *state;
    struct hook hook = {.stop_at = 2};
    const completion_result *chunk;

    library_start(l, begin_and_stall, NULL, NULL);
    completion_stream *stream = library_open(l, FOREVER), *other = library_open(l, FOREVER);
    assert_int_equal(completion_stream_next(stream, &chunk, l->error), 1);
    assert_int_equal(completion_stream_next(other, &chunk, l->error), 1);
    completion_client_set_wait(l->client, count, &hook, 10);
    hook.cancel = stream;
    library_assert_next_fails(l, stream, -ECANCELED, COMPLETION_CANCELLED);
    assert_upstream_closed(l, 1, harness_now_ms());
    assert_int_equal(hook.n_calls, 2);

    /* Its word alone is enough, and the other stream was not touched until then. */
    assert_int_equal(fake_count(l->scene.fake, FAKE_CLOSED), 1);
    hook = (struct hook){.stop_at = 1};
    library_assert_next_fails(l, other, -ECANCELED, COMPLETION_CANCELLED);
    assert_upstream_closed(l, 2, harness_now_ms());
    completion_stream_free(stream);
    completion_stream_free(other);
    library_stop(l);
}

static void test_hook_is_not_called_without_waiting(void **state)
{
    struct library *l = *state;
    struct hook hook = {.stop_at = 1};

    library_start(l, answer_each, NULL, NULL);
    completion_client_set_wait(l->client, count, &hook, 10000);
    assert_string_equal(library_create(l), "whole");
    assert_int_equal(hook.n_calls, 0);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_unary_answer),
        library_test(test_stream_brings_each_chunk_once),
        library_test(test_streams_in_any_order_share_a_connection),
        library_test(test_unread_stream_holds_up_no_other),
        library_test(test_error_has_what_the_api_said),
        library_test(test_error_of_the_daemon_itself),
        library_test(test_cut_stream_is_an_error_that_stays),
        library_test(test_deadline_of_an_answer),
        library_test(test_deadline_of_a_stream_holds_between_chunks),
        library_test(test_deadline_that_is_over_sends_nothing),
        library_test(test_cancelled_stream_stops_the_upstream),
        library_test(test_freed_stream_stops_the_upstream),
        library_test(test_hook_cancels_an_answer),
        library_test(test_hook_cancels_a_stream),
        library_test(test_hook_is_not_called_without_waiting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
