/*
 * Upstream connections that end or go wrong at every byte: what came is delivered once, what did
 * not come is an error, and no request is on the wire twice once an answer to it has begun.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "scene.h"

#define JSON_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#define WHOLE     FAKE_LAST("whole")

static void call(struct scene *s, const char *path, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
}

static void expect_whole(struct scene *s)
{
    struct rpc_result result;

    call(s, RPC_CREATE, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

/* ---- Cuts ---- */

/* An answer, and how it is cut; the cut is behind as many bytes as a test says just now. */
struct cut {
    const char *bytes;
    size_t at;
    bool by_reset;
};

static void cut(struct fake_connection *c)
{
    const struct cut *cut = c->user;

    if (!fake_read_request(c) || !fake_write(c, cut->bytes, cut->at))
        return;
    if (cut->by_reset)
        fake_reset(c);
}

/* A reset overtakes what was sent before it, so that what came of that is anybody's guess. */
static void expect_cuts_of_unary(struct scene *s, const char *bytes, size_t len, bool by_reset)
{
    size_t body = (size_t)(strchr(bytes, '{') - bytes);
    struct cut how = {.bytes = bytes, .by_reset = by_reset};
    struct rpc_result result;

    scene_start(s, cut, &how, NULL);
    for (; how.at < len; how.at++) {
        call(s, RPC_CREATE, &result);

        rpc_assert_failed(&result, GRPC_UNAVAILABLE,
                          by_reset         ? NULL
                          : how.at <= body ? "UPSTREAM_BROKEN"
                                           : "STREAM_TRUNCATED");
        assert_int_equal(result.n_messages, 0);
        assert_true(result.detail->maybe_executed);
        assert_int_equal(result.detail->attempts, 1);
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), len);
    scene_assert_serving(s);
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

static void test_unary_answer_cut_at_every_byte(void **state)
{
    char with_length[512];

    snprintf(with_length, sizeof with_length, JSON_HEAD "Content-Length: %zu\r\n\r\n%s",
             strlen(WHOLE), WHOLE);
    expect_cuts_of_unary(*state, with_length, strlen(with_length), false);
    expect_cuts_of_unary(*state, with_length, strlen(with_length), true);
    snprintf(with_length, sizeof with_length,
             JSON_HEAD "Transfer-Encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(WHOLE),
             WHOLE);
    /* The very last CR LF adds nothing. */
    expect_cuts_of_unary(*state, with_length, strlen(with_length) - 2, false);
}

static void test_stream_reset_at_every_byte(void **state)
{
    struct scene *s = *state;
    char bytes[512];
    int n = snprintf(bytes, sizeof bytes,
                     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                     "data: %s\n\ndata: %s\n\n",
                     FAKE_PART("a"), FAKE_LAST("b"));
    struct cut how = {.bytes = bytes, .by_reset = true};
    struct rpc_result result;

    scene_start(s, cut, &how, NULL);
    for (; how.at <= (size_t)n; how.at++) {
        call(s, RPC_CREATE_STREAM, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
        /* In order, each once. */
        const char *text = (char *)buffer_bytes(&result.text);
        assert_int_equal(strlen(text), result.n_messages);
        assert_true(strncmp("ab", text, result.n_messages) == 0);
        assert_int_equal(result.detail->chunks_sent, result.n_messages);
        assert_int_equal(result.detail->attempts, 1);
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), n + 1);
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

static void reset_at_the_first_byte(struct fake_connection *c)
{
    char byte;

    if (recv(c->fd, &byte, 1, MSG_PEEK) == 1)
        fake_mark(c->fake, FAKE_STEP);
    fake_reset(c);
}

static void test_reset_before_the_request_is_read(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, reset_at_the_first_byte, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        call(s, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(s->fake, FAKE_STEP), 20);
    scene_stop(s);
}

/* ---- Connections from the pool ---- */

/* The first request on each connection is answered, the second one up to the cut. */
static void cut_the_second(struct fake_connection *c)
{
    const struct cut *cut = c->user;

    if (!fake_read_request(c) || !fake_answer(c, 200, "application/json", "", WHOLE) ||
        !fake_read_request(c))
        return;
    fake_write(c, cut->bytes, cut->at);
    if (cut->by_reset)
        fake_reset(c);
}

/* libcurl repeats what was sent on a connection that has died before a line has come, unless
 * resend = no; anything more is an answer, and then nothing is on the wire twice. */
static void expect_cuts_of_a_warm_connection(struct scene *s, bool by_reset, bool resend)
{
    static const char bytes[] =
        JSON_HEAD "Content-Length: 1000\r\nX-Request-Id: r\r\n\r\n" FAKE_PART("w");
    const size_t line = (size_t)(strchr(bytes, '\n') - bytes) + 1;
    struct cut how = {.bytes = bytes, .by_reset = by_reset};
    struct rpc_result result;
    bool is_warm = false;

    scene_start(s, cut_the_second, &how, resend ? NULL : "resend = no\n");
    for (; how.at < sizeof bytes; how.at++) {
        if (!is_warm)
            expect_whole(s);
        unsigned n = fake_count(s->fake, FAKE_REQUESTED);
        call(s, RPC_CREATE, &result);
        n = fake_count(s->fake, FAKE_REQUESTED) - n;
        is_warm = result.status == GRPC_OK;
        if (is_warm) {
            assert_int_equal(n, 2);
            assert_true(resend && (how.at < line || by_reset));
            rpc_assert_ok(&result, "whole");
        } else {
            assert_int_equal(n, 1);
            assert_true(!resend || how.at > 0);
            rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
            assert_true(result.detail->maybe_executed);
            assert_int_equal(result.detail->attempts, 1);
        }
        rpc_result_done(&result);
    }
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

static void test_warm_connection_closed_at_every_byte_of_the_next_answer(void **state)
{
    expect_cuts_of_a_warm_connection(*state, false, true);
    expect_cuts_of_a_warm_connection(*state, false, false);
}

static void test_warm_connection_reset_at_every_byte_of_the_next_answer(void **state)
{
    expect_cuts_of_a_warm_connection(*state, true, true);
    expect_cuts_of_a_warm_connection(*state, true, false);
}

/* Answers, and on the first connection answers once more what nobody has asked. */
static void answer_unasked(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!fake_answer(c, 200, "application/json", "", WHOLE))
            return;
        if (c->number == 1 && c->n_requests == 1) {
            fake_await(c->fake, FAKE_GO, 1);
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("of somebody else")))
                return;
            fake_mark(c->fake, FAKE_STEP);
        }
    }
}

static void test_answer_that_nobody_asked_for_is_nobodys(void **state)
{
    struct scene *s = *state;

    scene_start(s, answer_unasked, NULL, NULL);
    expect_whole(s);
    fake_mark(s->fake, FAKE_GO);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    for (int i = 0; i < 3; i++)
        expect_whole(s);
    scene_stop(s);
}

/* ---- Before the request has been read ---- */

/* Answers on seeing the head, takes no more, and says so or not. */
static void answer_early(struct fake_connection *c)
{
    bool is_well = c->number % 2 == 0;
    char byte;

    while (recv(c->fd, &byte, 1, 0) == 1 && byte != '{')
        ;
    fake_answer(c, is_well ? 200 : 413, "application/json",
                c->number > 2 ? "" : "Connection: close\r\n",
                is_well ? WHOLE : "{\"error\":{\"message\":\"too much for me\"}}");
    fake_shut_down(c);
    fake_wait_for_close(c);
}

static void test_answer_before_the_request_is_sent_is_delivered(void **state)
{
    enum { PROMPT_BYTES = 3 << 20, CALLS = 8 };
    struct scene *s = *state;
    char *prompt = malloc(PROMPT_BYTES + 1);
    struct rpc_result result;

    assert_non_null(prompt);
    memset(prompt, 'p', PROMPT_BYTES);
    prompt[PROMPT_BYTES] = '\0';
    rpc_request request = rpc_request_new("m", prompt);
    scene_start(s, answer_early, NULL, NULL);
    for (int i = 0; i < CALLS; i++) {
        rpc_call(&s->rpc, i / 2 % 2 ? RPC_CREATE : RPC_CREATE_STREAM, &request, &result);
        if (i % 2 == 1) {
            rpc_assert_ok(&result, "whole");
        } else {
            rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR");
            rpc_assert_said(&result, "too much for me");
        }
        rpc_result_done(&result);
    }
    /* Such a connection is never used again. */
    assert_true(fake_await(s->fake, FAKE_CLOSED, CALLS));
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), CALLS);
    scene_stop(s);
    free(prompt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_unary_answer_cut_at_every_byte),
        scene_test(test_stream_reset_at_every_byte),
        scene_test(test_reset_before_the_request_is_read),
        scene_test(test_warm_connection_closed_at_every_byte_of_the_next_answer),
        scene_test(test_warm_connection_reset_at_every_byte_of_the_next_answer),
        scene_test(test_answer_that_nobody_asked_for_is_nobodys),
        scene_test(test_answer_before_the_request_is_sent_is_delivered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
