/*
 * Answers whose length, encoding or status line is a lie. Each ends in an error or in what it
 * holds, soon, and nothing that comes behind it is ever an answer to somebody else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scene.h"

#define JSON_HEAD  "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#define EVENT_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
#define WHOLE      FAKE_LAST("whole")

/* An answer for the next caller, if somebody takes it for that. */
#define SMUGGLED                                                                                   \
    JSON_HEAD "Content-Length: 11\r\n\r\n{\"id\":\"bad\"}"                                         \
              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n"

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

/* The first answer is the test's, as it is; all others are good. */
static void lie_first(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool is_first = c->number == 1 && c->n_requests == 1;
        if (is_first ? !fake_write(c, c->user, strlen(c->user))
                     : !fake_answer(c, 200, "application/json", "", WHOLE))
            return;
    }
}

/* ---- Lengths ---- */

struct lie {
    const char *path, *bytes;
    enum grpc_status status; /* of the call that it answers */
    const char *reason;      /* NULL: any */
};

static void expect_lies(struct scene *s, const struct lie *lies, size_t n)
{
    struct rpc_result result;

    for (size_t i = 0; i < n; i++) {
        print_message("%.100s\n", strstr(lies[i].bytes, "\r\n") + 2);
        scene_start(s, lie_first, lies[i].bytes, "idle_timeout = 300ms\nfirst_byte_timeout = 1s\n");
        call(s, lies[i].path, &result);
        if (lies[i].status == GRPC_OK)
            rpc_assert_ok(&result, "whole");
        else
            rpc_assert_failed(&result, lies[i].status, lies[i].reason);
        rpc_result_done(&result);
        expect_whole(s);
        expect_whole(s);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
}

static void test_lengths_that_are_lies(void **state)
{
    static const struct lie lies[] = {
        {RPC_CREATE, JSON_HEAD "Content-Length: 5000\r\n\r\n" WHOLE, GRPC_UNAVAILABLE,
         "STREAM_STALLED"},
        {RPC_CREATE, JSON_HEAD "Content-Length: 20\r\n\r\n" WHOLE SMUGGLED, GRPC_INTERNAL,
         "BAD_UPSTREAM_RESPONSE"},
        {RPC_CREATE, JSON_HEAD "Content-Length: 0\r\n\r\n" WHOLE SMUGGLED, GRPC_INTERNAL,
         "BAD_UPSTREAM_RESPONSE"},
        {RPC_CREATE, JSON_HEAD "Content-Length: -5\r\n\r\n" WHOLE, GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, JSON_HEAD "Content-Length: 99999999999999999999\r\n\r\n" WHOLE,
         GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, JSON_HEAD "Content-Length: 12x\r\n\r\n" WHOLE, GRPC_INTERNAL,
         "BAD_UPSTREAM_RESPONSE"},
        {RPC_CREATE, JSON_HEAD "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" WHOLE,
         GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, JSON_HEAD "Transfer-Encoding: chunked\r\n\r\n-5\r\n" WHOLE, GRPC_UNAVAILABLE,
         NULL},
    };

    expect_lies(*state, lies, sizeof lies / sizeof *lies);
}

static void test_lengths_that_contradict_each_other(void **state)
{
    char chunks[512], both[1024], other_way[1024], two[1024], other_two[1024], stream[1024];
    const struct lie lies[] = {
        {RPC_CREATE, both, GRPC_OK, NULL},          {RPC_CREATE, other_way, GRPC_OK, NULL},
        {RPC_CREATE, two, GRPC_INTERNAL, NULL},     {RPC_CREATE, other_two, GRPC_OK, NULL},
        {RPC_CREATE_STREAM, stream, GRPC_OK, NULL},
    };

    /* The one that the standard says holds, or none of it. */
    snprintf(chunks, sizeof chunks, "%zx\r\n%s\r\n0\r\n\r\n", strlen(WHOLE), WHOLE);
    snprintf(both, sizeof both,
             JSON_HEAD "Content-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n%s" SMUGGLED,
             chunks);
    snprintf(other_way, sizeof other_way,
             JSON_HEAD "Transfer-Encoding: chunked\r\nContent-Length: 9000\r\n\r\n%s" SMUGGLED,
             chunks);
    snprintf(two, sizeof two,
             JSON_HEAD "Content-Length: %zu\r\nContent-Length: 20\r\n\r\n" WHOLE SMUGGLED,
             strlen(WHOLE));
    snprintf(other_two, sizeof other_two,
             JSON_HEAD "Content-Length: 20\r\nContent-Length: %zu\r\n\r\n" WHOLE SMUGGLED,
             strlen(WHOLE));
    snprintf(stream, sizeof stream,
             EVENT_HEAD "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "%zx\r\ndata: %s\n\ndata: [DONE]\n\n\r\n0\r\n\r\n" SMUGGLED,
             strlen(WHOLE) + 8 + 14, WHOLE);
    expect_lies(*state, lies, sizeof lies / sizeof *lies);
}

/* ---- Behind [DONE] ---- */

static void test_what_comes_behind_done_costs_the_connection(void **state)
{
    static const char *const events[] = {
        "data: " WHOLE "\n\ndata: [DONE]\n\ndata: " FAKE_LAST("more") "\n\n",
        "data: " WHOLE "\n\ndata: [DONE]\n\ndata: [DONE]\n\n",
    };
    struct scene *s = *state;
    struct rpc_result result;
    char bytes[1024];

    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        for (int chunked = 0; chunked < 2; chunked++) {
            if (chunked)
                snprintf(bytes, sizeof bytes,
                         EVENT_HEAD "Transfer-Encoding: chunked\r\n\r\n%zx\r\n%s\r\n0\r\n\r\n",
                         strlen(events[i]), events[i]);
            else
                snprintf(bytes, sizeof bytes, EVENT_HEAD "Content-Length: %zu\r\n\r\n%s",
                         strlen(events[i]), events[i]);
            scene_start(s, lie_first, bytes, NULL);
            call(s, RPC_CREATE_STREAM, &result);
            rpc_assert_ok(&result, "whole");
            assert_int_equal(result.n_messages, 1);
            rpc_result_done(&result);
            expect_whole(s);
            assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 2);
            scene_stop(s);
            s->fake = fake_free(s->fake);
        }
}

/* In pieces of their own: the call is over when the second comes. */
static void say_more_when_told(struct fake_connection *c)
{
    if (!fake_read_request(c))
        return;
    if (c->number == 1 && fake_stream_begin(c) && fake_event(c, WHOLE) && fake_event(c, "[DONE]") &&
        fake_await(c->fake, FAKE_GO, 1) && fake_event(c, FAKE_LAST("more")) &&
        fake_print(c, "0\r\n\r\n"))
        fake_wait_for_close(c);
    if (c->number > 1)
        fake_answer(c, 200, "application/json", "", WHOLE);
}

static void test_what_comes_late_behind_done_costs_the_connection(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, say_more_when_told, NULL, NULL);
    call(s, RPC_CREATE_STREAM, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    fake_mark(s->fake, FAKE_GO);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    expect_whole(s);
    scene_stop(s);
}

/* ---- Status lines ---- */

static void test_status_lines_that_are_none(void **state)
{
    static const struct lie lies[] = {
        {RPC_CREATE, "HTTP/1.1 999 Strange\r\nContent-Length: 2\r\n\r\n{}", GRPC_INTERNAL, NULL},
        {RPC_CREATE, "HTTP/1.1 600 Strange\r\nContent-Length: 2\r\n\r\n{}", GRPC_INTERNAL, NULL},
        {RPC_CREATE, "HTTP/1.1 1000 Four\r\nContent-Length: 2\r\n\r\n{}", GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, "HTTP/1.1 -200 Less\r\n\r\n", GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}", GRPC_INTERNAL, NULL},
        {RPC_CREATE, "ICY 200 OK\r\n\r\n", GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, "HTTP/1.1\r\n\r\n", GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, WHOLE "\r\n", GRPC_UNAVAILABLE, NULL},
        {RPC_CREATE, "HTTP/1.1 204 None\r\n\r\n", GRPC_INTERNAL, NULL},
        {RPC_CREATE_STREAM, "HTTP/1.1 304 Same\r\n\r\n", GRPC_FAILED_PRECONDITION, NULL},
        {RPC_CREATE, "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
         GRPC_UNAVAILABLE, NULL},
    };

    expect_lies(*state, lies, sizeof lies / sizeof *lies);
}

/* ---- Encodings ---- */

static void test_encodings_that_nobody_asked_for(void **state)
{
    static const char *const encodings[] = {"gzip", "br", "zstd", "deflate", "GZIP, gzip"};
    struct scene *s = *state;
    struct rpc_result result;
    char bytes[256];

    for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++)
        for (int stream = 0; stream < 2; stream++) {
            snprintf(bytes, sizeof bytes,
                     "%sContent-Encoding: %s\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x01",
                     stream ? EVENT_HEAD : JSON_HEAD, encodings[i]);
            scene_start(s, lie_first, bytes, NULL);
            call(s, stream ? RPC_CREATE_STREAM : RPC_CREATE, &result);
            rpc_assert_failed(&result, GRPC_INTERNAL, "BAD_UPSTREAM_RESPONSE");
            rpc_assert_said(&result, "compressed");
            rpc_result_done(&result);
            expect_whole(s);
            char *head = fake_last_head(s->fake);
            assert_non_null(strcasestr(head, "\r\nAccept-Encoding: identity\r\n"));
            free(head);
            scene_stop(s);
            s->fake = fake_free(s->fake);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_lengths_that_are_lies),
        scene_test(test_lengths_that_contradict_each_other),
        scene_test(test_what_comes_behind_done_costs_the_connection),
        scene_test(test_what_comes_late_behind_done_costs_the_connection),
        scene_test(test_status_lines_that_are_none),
        scene_test(test_encodings_that_nobody_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
