/*
 * Event streams that end as they should, and all the other ways. What is not whole never ends with
 * OK, and what arrived before is delivered once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scene.h"

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

static void call(struct scene *s, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_call(&s->rpc, RPC_CREATE_STREAM, &request, ret);
}

/* ---- Upstreams ---- */

/* The events of user, up to the end of the connection. */
static void tell(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_print(c, HEAD "\r\n"))
        fake_write(c, c->user, strlen(c->user));
}

/* The same, whole as far as HTTP can tell, and as small pieces as can be. */
static void tell_in_bytes(struct fake_connection *c)
{
    size_t len = strlen(c->user);

    while (fake_read_request(c) && fake_print(c, HEAD "Content-Length: %zu\r\n\r\n", len) &&
           fake_drip(c, c->user, len))
        ;
}

/* A whole response, head and all, cut behind as many bytes as there were connections before. */
static void tell_up_to_a_byte(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_write(c, c->user, c->number - 1);
}

static void reset_on_command(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")) &&
        fake_await(c->fake, FAKE_GO, 1))
        fake_reset(c);
}

/* Says all, but does not end the response. */
static void linger_after_done(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_LAST("a")) &&
        fake_event(c, "[DONE]"))
        fake_wait_for_close(c);
}

static void fall_silent(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")))
        fake_wait_for_close(c);
}

static void never_answer(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_wait_for_close(c);
}

/* ---- Cuts ---- */

#define CHUNKED HEAD "Transfer-Encoding: chunked\r\n\r\n"

/* The bytes of a whole, chunked response of four events and [DONE]. */
static char *golden_response(void)
{
    static const char *const events[] = {FAKE_PART("a"), FAKE_PART("b"), FAKE_PART("\\u00e9"),
                                         FAKE_LAST("c"), "[DONE]"};
    struct buffer out = BUFFER_INIT(65536);

    buffer_append_string(&out, CHUNKED);
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        buffer_printf(&out, "%zx\r\ndata: %s\n\n\r\n", strlen(events[i]) + 8, events[i]);
    buffer_append_string(&out, "0\r\n\r\n");
    buffer_append_byte(&out, '\0');
    assert_int_equal(out.error, 0);
    return (char *)out.data;
}

static void test_cut_at_every_byte(void **state)
{
    static const char *const texts[] = {"", "a", "ab", "abé", "abéc"};
    struct scene *s = *state;
    char *bytes = golden_response();
    size_t len = strlen(bytes), body = (size_t)(strstr(bytes, "data:") - bytes);
    size_t done = (size_t)(strstr(bytes, "[DONE]") - bytes) + 6;
    struct rpc_result result;

    scene_start(s, tell_up_to_a_byte, bytes, NULL);
    for (size_t cut = 0, n_events = 0; cut <= len; cut++) {
        if (cut > 1 && cut < done && !memcmp(bytes + cut - 2, "\n\n", 2))
            n_events++;
        call(s, &result);
        if (cut < done)
            rpc_assert_failed(&result, GRPC_UNAVAILABLE,
                              cut <= body ? "UPSTREAM_BROKEN" : "STREAM_TRUNCATED");
        else if (cut > done)
            rpc_assert_ok(&result, NULL);
        assert_int_equal(result.n_messages, n_events);
        assert_string_equal((char *)buffer_bytes(&result.text), texts[n_events]);
        if (result.detail)
            assert_int_equal(result.detail->chunks_sent, n_events);
        rpc_result_done(&result);
    }
    /* Each was asked for once: nothing is sent again behind the caller's back. */
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), len + 1);
    scene_stop(s);
    s->fake = fake_free(s->fake);
    free(bytes);
}

static void test_reset_in_the_middle(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, reset_on_command, NULL, NULL);
    struct grpc_client_call *running = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, running));
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, running, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "STREAM_TRUNCATED");
    assert_int_equal(result.detail->chunks_sent, 1);
    assert_int_equal(result.detail->maybe_executed, 1);
    assert_int_equal(result.detail->phase, COMPLETION__V1__PHASE__PHASE_BODY);
    rpc_assert_text(result.detail, upstream_request_id, "req-1");
    rpc_result_done(&result);
    scene_assert_serving(s);
    scene_stop(s);
}

static void expect_truncated(struct scene *s, fake_handler handler, const char *events,
                             const char *settings)
{
    struct rpc_result result;

    scene_start(s, handler, events, settings);
    call(s, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "STREAM_TRUNCATED");
    rpc_assert_said(&result, "without saying that the answer is whole");
    rpc_result_done(&result);
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

static void test_end_without_done_is_no_success(void **state)
{
    static const char events[] = "data: " FAKE_PART("a") "\n\ndata: " FAKE_LAST("b") "\n\n";

    expect_truncated(*state, tell, events, NULL);
    expect_truncated(*state, tell_in_bytes, events, NULL);
    expect_truncated(*state, tell, "", NULL);
    /* An event whose blank line is missing is none. */
    expect_truncated(*state, tell, "data: " FAKE_LAST("b") "\n", NULL);
}

static void test_end_without_done_of_a_server_known_for_it(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, tell, "data: " FAKE_PART("a") "\n\ndata: " FAKE_LAST("b") "\n\n",
                "strict_done = no\n");
    call(s, &result);
    rpc_assert_ok(&result, "ab");
    rpc_result_done(&result);
    scene_stop(s);
    s->fake = fake_free(s->fake);

    /* Even there every choice must have ended. */
    expect_truncated(s, tell, "data: " FAKE_PART("a") "\n\n", "strict_done = no\n");
    expect_truncated(s, tell, "", "strict_done = no\n");
}

/* ---- Errors inside ---- */

static void test_error_inside_a_stream(void **state)
{
    static const struct {
        const char *events;
        enum grpc_status status;
        const char *message, *code;
        unsigned n_messages;
    } cases[] = {
        {"data: " FAKE_PART(
             "a") "\n\n"
                  "data: {\"error\":{\"message\":\"Boom\",\"type\":\"server_error\"}}\n\n",
         GRPC_INTERNAL, "Boom", NULL, 1},
        /* vLLM's way: [DONE] follows, and proves nothing. */
        {"data: " FAKE_PART(
             "a") "\n\n"
                  "data: {\"error\":{\"message\":\"Boom\",\"code\":400}}\n\ndata: [DONE]\n\n",
         GRPC_INVALID_ARGUMENT, "Boom", "400", 1},
        {"data: {\"error\":{\"message\":\"Slow down\",\"code\":\"rate_limit_exceeded\"}}\n\n",
         GRPC_RESOURCE_EXHAUSTED, "Slow down", "rate_limit_exceeded", 0},
        {"data: {\"error\":\"Boom\"}\n\ndata: [DONE]\n\n", GRPC_INTERNAL, "Boom", NULL, 0},
        {"event: error\ndata: {\"error\":{\"message\":\"Boom\",\"code\":503}}\n\n",
         GRPC_UNAVAILABLE, "Boom", "503", 0},
    };
    struct scene *s = *state;
    struct rpc_result result;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scene_start(s, tell, cases[i].events, NULL);
        call(s, &result);
        rpc_assert_failed(&result, cases[i].status, NULL);
        rpc_assert_said(&result, cases[i].message);
        rpc_assert_text(result.detail, code, cases[i].code);
        assert_int_equal(result.n_messages, cases[i].n_messages);
        assert_int_equal(result.detail->chunks_sent, cases[i].n_messages);
        rpc_result_done(&result);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

static void test_event_that_is_no_json(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, tell, "data: " FAKE_PART("a") "\n\ndata: {\"choices\":[\n\ndata: [DONE]\n\n",
                NULL);
    call(s, &result);
    rpc_assert_failed(&result, GRPC_INTERNAL, "BAD_UPSTREAM_RESPONSE");
    assert_int_equal(result.n_messages, 1);
    rpc_result_done(&result);
    scene_stop(s);
}

/* ---- Harmless things ---- */

static void test_noise_between_events_is_passed_over(void **state)
{
    static const char *const streams[] = {
        "data: null\n\ndata: " FAKE_LAST("a") "\n\ndata: null\n\ndata: [DONE]\n\n",
        ": keep-alive\n\n:\n\ndata: " FAKE_LAST("a") "\n\n: more\n\ndata: [DONE]\n\n",
        "event: ping\n\nid: 1\nretry: 5\ndata: " FAKE_LAST("a") "\n\ndata:\n\ndata: [DONE]\n\n",
        "\xef\xbb\xbf"
        "data:" FAKE_LAST("a") "\r\n\r\ndata:[DONE]\r\n\r\n",
        "data: " FAKE_LAST("a") "\r\rdata: [DONE]\r\r",
        "data: {}\n\ndata: " FAKE_LAST("a") "\n\ndata: {\"error\":null}\n\ndata: [DONE]\n\n",
        "data: " FAKE_LAST("a") "\n\ndata: [DONE]",
        "data: " FAKE_LAST("a") "\n\ndata: [DONE]\n\ndata: " FAKE_LAST("late") "\n\ngarbage",
    };
    struct scene *s = *state;
    struct rpc_result result;

    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        print_message("%.40s\n", streams[i]);
        for (int bytes = 0; bytes < 2; bytes++) {
            scene_start(s, bytes ? tell_in_bytes : tell, streams[i], NULL);
            call(s, &result);
            rpc_assert_ok(&result, "a");
            assert_int_equal(result.n_messages, 1);
            rpc_result_done(&result);
            scene_stop(s);
            s->fake = fake_free(s->fake);
        }
    }
}

static void test_recorded_streams_in_any_pieces(void **state)
{
    static const char *const files[] = {
        "openai/stream_usage.sse", "openai/stream_n2_interleaved.sse",
        "azure/stream.sse",        "llamacpp/stream.sse",
        "ollama/stream_usage.sse", "vllm/stream_continuous_usage.sse",
        "sse_edge/crlf.sse",       "sse_edge/comments_and_fields.sse",
    };
    struct scene *s = *state;
    char path[256];
    struct rpc_result whole, pieces;

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, SAMPLES "/%s", files[i]);
        char *events = directory_read(path);
        print_message("%s\n", files[i]);
        assert_true(*events);
        scene_start(s, tell, events, NULL);
        call(s, &whole);
        rpc_assert_ok(&whole, NULL);
        assert_true(whole.n_messages > 0);
        scene_stop(s);
        s->fake = fake_free(s->fake);

        scene_start(s, tell_in_bytes, events, NULL);
        call(s, &pieces);
        rpc_assert_ok(&pieces, (char *)buffer_bytes(&whole.text));
        assert_int_equal(pieces.n_messages, whole.n_messages);
        scene_stop(s);
        s->fake = fake_free(s->fake);
        rpc_result_done(&whole);
        rpc_result_done(&pieces);
        free(events);
    }
}

static void answer_with_json(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"));
}

static void test_server_that_does_not_stream_gives_one_chunk(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, answer_with_json, NULL, NULL);
    call(s, &result);
    rpc_assert_ok(&result, "whole");
    assert_int_equal(result.n_messages, 1);
    rpc_result_done(&result);
    scene_stop(s);
}

static void hint_early(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_print(
            c,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" HEAD
            "\r\ndata: %s\n\ndata: [DONE]\n\n",
            FAKE_LAST("a"));
}

static void test_informational_responses_are_passed_over(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, hint_early, NULL, NULL);
    call(s, &result);
    rpc_assert_ok(&result, "a");
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_call_ends_at_done_though_the_server_lingers(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, linger_after_done, NULL, NULL);
    call(s, &result);
    rpc_assert_ok(&result, "a");
    rpc_result_done(&result);
    /* Its connection is of no use. */
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    call(s, &result);
    rpc_assert_ok(&result, "a");
    rpc_result_done(&result);
    scene_stop(s);
}

/* Closes the second time when it has the request: libcurl asks again on a new connection. */
static void close_a_warm_connection(struct fake_connection *c)
{
    while (fake_read_request(c) && !(c->number == 1 && c->n_requests == 2) &&
           fake_stream_begin(c) && fake_event(c, FAKE_LAST("a")) && fake_stream_done(c))
        ;
}

static void test_stale_connection_is_replaced(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, close_a_warm_connection, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        call(s, &result);
        rpc_assert_ok(&result, "a");
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 2);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 4);
    scene_stop(s);
}

/* ---- Silence ---- */

static void expect_timer(struct scene *s, fake_handler handler, const char *settings,
                         const char *reason, const char *timer)
{
    struct rpc_result result;

    scene_start(s, handler, NULL, settings);
    call(s, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, reason);
    rpc_assert_said(&result, timer);
    rpc_result_done(&result);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_first_byte_timeout(void **state)
{
    expect_timer(*state, never_answer, "first_byte_timeout = 200ms\n", "UPSTREAM_TIMEOUT",
                 "first_byte_timeout");
}

static void test_idle_timeout(void **state)
{
    expect_timer(*state, fall_silent, "idle_timeout = 200ms\n", "STREAM_STALLED", "idle_timeout");
}

/* Three times as long as the timer, with a sign of life every 50 ms. */
static void whisper(struct fake_connection *c)
{
    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    int64_t until = harness_now_ms() + 3000;
    while (harness_now_ms() < until) {
        struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
        if (!fake_chunk(c, ":\n\n", 3))
            return;
    }
    if (fake_event(c, FAKE_LAST("a")))
        fake_stream_done(c);
}

static void test_comments_are_signs_of_life(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, whisper, NULL, "idle_timeout = 1s\n");
    call(s, &result);
    rpc_assert_ok(&result, "a");
    rpc_result_done(&result);
    scene_stop(s);
}

/* ---- Too much ---- */

/* The head that is user, and then one letter for ever. */
static void flood(struct fake_connection *c)
{
    char letters[65536];

    memset(letters, 'x', sizeof letters);
    if (fake_read_request(c) && fake_write(c, c->user, strlen(c->user)))
        while (fake_write(c, letters, sizeof letters))
            fake_mark(c->fake, FAKE_STEP);
    fake_mark(c->fake, FAKE_CLOSED);
}

static void expect_limit(struct scene *s, const char *head, unsigned limit_mib)
{
    struct rpc_result result;

    scene_start(s, flood, head, NULL);
    call(s, &result);
    rpc_assert_failed(&result, GRPC_INTERNAL, "BAD_UPSTREAM_RESPONSE");
    rpc_result_done(&result);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    /* What the kernel holds comes on top. */
    assert_in_range(fake_count(s->fake, FAKE_STEP), 1, (limit_mib + 12) * 16);
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_event_without_end(void **state)
{
    expect_limit(*state, HEAD "\r\ndata: ", 16);
}

static void test_body_without_end(void **state)
{
    expect_limit(*state, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\":\"", 32);
}

static void test_headers_without_end(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, flood, "HTTP/1.1 200 OK\r\nX-Long: ", NULL);
    call(s, &result);
    rpc_assert_failed(&result, GRPC_INTERNAL, "BAD_UPSTREAM_RESPONSE");
    rpc_assert_said(&result, "headers");
    rpc_result_done(&result);
    scene_assert_serving(s);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_cut_at_every_byte),
        scene_test(test_reset_in_the_middle),
        scene_test(test_end_without_done_is_no_success),
        scene_test(test_end_without_done_of_a_server_known_for_it),
        scene_test(test_error_inside_a_stream),
        scene_test(test_event_that_is_no_json),
        scene_test(test_noise_between_events_is_passed_over),
        scene_test(test_recorded_streams_in_any_pieces),
        scene_test(test_server_that_does_not_stream_gives_one_chunk),
        scene_test(test_informational_responses_are_passed_over),
        scene_test(test_call_ends_at_done_though_the_server_lingers),
        scene_test(test_stale_connection_is_replaced),
        scene_test(test_first_byte_timeout),
        scene_test(test_idle_timeout),
        scene_test(test_comments_are_signs_of_life),
        scene_test(test_event_without_end),
        scene_test(test_body_without_end),
        scene_test(test_headers_without_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
