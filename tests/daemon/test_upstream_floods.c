/*
 * Upstreams that never stop: lines, bodies, headers, interim responses and comments without end.
 * The call ends with an error, the connection is closed, and the daemon holds no more than it may.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scene.h"

#define OK_LINE "HTTP/1.1 200 OK\r\n"
#define JSON    "Content-Type: application/json\r\n"
#define EVENTS  "Content-Type: text/event-stream\r\n"

#define CHUNK "20\r\n                                \r\n"

enum { MIB = 1 << 20 };

/* What is said once, and what is repeated until nobody takes it any more, but max_bytes at most. */
struct flood {
    const char *head, *again;
    size_t max_bytes;
};

static void flood(struct fake_connection *c)
{
    const struct flood *how = c->user;
    struct buffer block = BUFFER_INIT(MIB);
    size_t done = 0, n = 1;

    if (!fake_read_request(c) || !fake_write(c, how->head, strlen(how->head)))
        return;
    while (buffer_length(&block) < 65536)
        buffer_append_string(&block, how->again);
    while (n > 0 && done < how->max_bytes) {
        n = fake_write_some(c, buffer_bytes(&block), buffer_length(&block), HARNESS_TIMEOUT_MS);
        done += n;
    }
    buffer_done(&block);
    if (done >= how->max_bytes)
        fake_mark(c->fake, FAKE_STALLED);
    fake_mark(c->fake, FAKE_CLOSED);
}

static void call(struct scene *s, const char *path, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_call(&s->rpc, path, &request, ret);
}

/* The call fails long before all has been sent, and what was held for it is given back: a second
 * and a third one need no more than the first. */
static void expect_stopped(struct scene *s, const char *path, const struct flood *how,
                           const char *reason, long held_max_kib)
{
    struct rpc_result result;

    scene_start(s, flood, how, NULL);
    scene_assert_serving(s);
    long before = daemon_rss_kib(&s->daemon);
    for (unsigned i = 1; i <= 2; i++) {
        call(s, path, &result);
        rpc_assert_failed(&result, GRPC_INTERNAL, reason);
        rpc_result_done(&result);
        assert_true(fake_await(s->fake, FAKE_CLOSED, i));
    }
    long grown = daemon_rss_kib(&s->daemon) - before;
    print_message("%.40s: %ld KiB\n", how->again, grown);
    assert_int_equal(fake_count(s->fake, FAKE_STALLED), 0);
    assert_true(grown < held_max_kib);
    scene_assert_serving(s);
    scene_stop(s);
    s->fake = fake_free(s->fake);
}

/* Sanitizers keep what was freed for a while: several times the limit. */
enum { LINE_KIB = 300 << 10, BODY_KIB = 600 << 10, HEAD_KIB = 32 << 10 };

static void test_line_without_end(void **state)
{
    static const struct flood in_data = {OK_LINE EVENTS "\r\ndata: ", "xxxxxxxx", 1 << 30};
    static const struct flood in_comment = {OK_LINE EVENTS "\r\n: ", "xxxxxxxx", 1 << 30};
    static const struct flood in_lines = {OK_LINE EVENTS "\r\n", "data: xxxxxxxx\n", 1 << 30};

    expect_stopped(*state, RPC_CREATE_STREAM, &in_data, "BAD_UPSTREAM_RESPONSE", LINE_KIB);
    expect_stopped(*state, RPC_CREATE_STREAM, &in_comment, "BAD_UPSTREAM_RESPONSE", LINE_KIB);
    expect_stopped(*state, RPC_CREATE_STREAM, &in_lines, "BAD_UPSTREAM_RESPONSE", LINE_KIB);
}

static void test_body_without_end(void **state)
{
    static const struct flood whole = {OK_LINE JSON "\r\n{\"a\":\"", "xxxxxxxx", 1 << 30};
    static const struct flood spaces = {OK_LINE JSON "\r\n", "        ", 1 << 30};
    static const struct flood chunks = {OK_LINE JSON "Transfer-Encoding: chunked\r\n\r\n", CHUNK,
                                        1 << 30};

    expect_stopped(*state, RPC_CREATE, &whole, "BAD_UPSTREAM_RESPONSE", BODY_KIB);
    expect_stopped(*state, RPC_CREATE_STREAM, &spaces, "BAD_UPSTREAM_RESPONSE", BODY_KIB);
    expect_stopped(*state, RPC_CREATE, &chunks, "BAD_UPSTREAM_RESPONSE", BODY_KIB);
}

static void test_headers_without_end(void **state)
{
    static const struct flood one = {OK_LINE "X-Long: ", "xxxxxxxx", 50 * MIB};
    static const struct flood many = {OK_LINE, "X-Short: 1\r\n", 50 * MIB};
    static const struct flood folded = {OK_LINE "X-Folded: 1\r\n", " more\r\n", 50 * MIB};
    static const struct flood trailers = {OK_LINE JSON
                                          "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
                                          "X-Short: 1\r\n", 50 * MIB};

    expect_stopped(*state, RPC_CREATE, &one, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
    expect_stopped(*state, RPC_CREATE_STREAM, &many, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
    expect_stopped(*state, RPC_CREATE, &folded, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
    expect_stopped(*state, RPC_CREATE, &trailers, NULL, HEAD_KIB);
    daemon_assert_not_logged(&((struct scene *)*state)->daemon, "memory");
}

static void test_interim_responses_without_end(void **state)
{
    static const struct flood go_on = {"", "HTTP/1.1 100 Continue\r\n\r\n", 100000 * 25};
    static const struct flood hints = {"", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
                                       100000 * 45};

    expect_stopped(*state, RPC_CREATE, &go_on, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
    expect_stopped(*state, RPC_CREATE_STREAM, &hints, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
}

static void test_compressed_body_without_end(void **state)
{
    static const struct flood bomb = {OK_LINE JSON "Content-Encoding: gzip\r\n\r\n", "\x1f\x8b\x08",
                                      1 << 30};

    expect_stopped(*state, RPC_CREATE, &bomb, "BAD_UPSTREAM_RESPONSE", HEAD_KIB);
}

/* An error body is read as far as it says something. */
static void test_error_body_without_end(void **state)
{
    static const struct flood error = {"HTTP/1.1 500 Oops\r\n" JSON "\r\n{\"error\":\"", "xxxxxxxx",
                                       1 << 30};

    expect_stopped(*state, RPC_CREATE, &error, NULL, HEAD_KIB);
}

/* ---- Slowly ---- */

static void pause_a_little(void)
{
    struct timespec pause = {.tv_nsec = 20000000};

    nanosleep(&pause, NULL);
}

/* Alive, and never done, one byte or comment after the other. */
static void drip_for_ever(struct fake_connection *c)
{
    const char *head = c->user;

    if (!fake_read_request(c) || !fake_write(c, head, strlen(head)))
        return;
    while (fake_write(c, strstr(head, "json") ? " " : ":\n\n", strstr(head, "json") ? 1 : 3))
        pause_a_little();
    fake_mark(c->fake, FAKE_CLOSED);
}

static void test_signs_of_life_for_ever_end_with_the_deadline(void **state)
{
    static const char *const heads[] = {OK_LINE EVENTS "\r\n", OK_LINE JSON "\r\n"};
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    for (size_t i = 0; i < 2; i++) {
        scene_start(s, drip_for_ever, heads[i], "idle_timeout = 1s\n");
        rpc_finish(&s->rpc, rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, 2000), &result);
        rpc_assert_failed(&result, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
        rpc_assert_said(&result, "the caller's deadline passed while receiving");
        assert_int_equal(result.n_messages, 0);
        rpc_result_done(&result);
        assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

/* A head that comes by the byte is no beginning of an answer. */
static void test_head_for_ever_ends_with_its_timer(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, drip_for_ever, OK_LINE "X-json: ", "first_byte_timeout = 500ms\n");
    call(s, RPC_CREATE, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT");
    rpc_assert_said(&result, "first_byte_timeout (0.5 s)");
    rpc_result_done(&result);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_line_without_end),
        scene_test(test_body_without_end),
        scene_test(test_headers_without_end),
        scene_test(test_interim_responses_without_end),
        scene_test(test_compressed_body_without_end),
        scene_test(test_error_body_without_end),
        scene_test(test_signs_of_life_for_ever_end_with_the_deadline),
        scene_test(test_head_for_ever_ends_with_its_timer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
