/*
 * Callers that read slowly or not at all: their own transfer is paused, nobody else's is, and what
 * the daemon holds for them is bounded.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scene.h"

/* More than a kernel and a daemon together want to hold, and what they may hold at most. */
enum { N_EVENTS = 6000, TEXT_BYTES = 4096, HELD_MAX_EVENTS = 3600 };

/* What nobody takes for so long is a stall. */
static const int quiet_ms = 1000, long_quiet_ms = 4000;

/* ---- Upstream ---- */

static void fill_event(char *event, size_t size, int i)
{
    char text[TEXT_BYTES + 1], json[TEXT_BYTES + 256];

    memset(text, 'x', TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    memcpy(text + snprintf(text, sizeof text, "%07d", i), ":", 1);
    snprintf(json, sizeof json, FAKE_PART("%s"), text);
    snprintf(event, size, "%zx\r\ndata: %s\n\n\r\n", strlen(json) + 8, json);
}

/* A long answer; FAKE_STEP for each event that is taken, FAKE_STALLED once if one is not. */
static void pour(struct fake_connection *c)
{
    const int *quiet = c->user;
    char event[TEXT_BYTES + 512];

    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    for (int i = 0, wait_ms = *quiet; i < N_EVENTS; i++) {
        fill_event(event, sizeof event, i);
        size_t len = strlen(event), done = fake_write_some(c, event, len, wait_ms);
        if (done < len) {
            fake_mark(c->fake, FAKE_STALLED);
            wait_ms = HARNESS_TIMEOUT_MS;
            if (!fake_write(c, event + done, len - done))
                return;
        }
        fake_mark(c->fake, FAKE_STEP);
    }
    if (fake_stream_done(c))
        fake_wait_for_close(c);
}

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
        ;
}

static void pour_or_serve(struct fake_connection *c)
{
    if (c->number == 1)
        pour(c);
    else
        serve(c);
}

/* ---- Caller ---- */

static void expect_quick_answers(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "quick");
    struct rpc_result result;

    for (int i = 0; i < 20; i++) {
        rpc_call(r, RPC_CREATE, &request, &result);
        rpc_assert_ok(&result, "quick");
        rpc_result_done(&result);
    }
}

static void await_stall(struct scene *s)
{
    if (!fake_await(s->fake, FAKE_STALLED, 1))
        fail_msg("the upstream is never made to wait: %u events taken",
                 fake_count(s->fake, FAKE_STEP));
    print_message("%u of %d events were taken\n", fake_count(s->fake, FAKE_STEP), N_EVENTS);
    assert_in_range(fake_count(s->fake, FAKE_STEP), 1, HELD_MAX_EVENTS);
}

/* The rest of the stream: all of it, in order, each once. */
static void expect_all(struct rpc *r, struct grpc_client_call *call)
{
    Completion__V1__Completion *completion;
    int n = 0;

    while ((completion = rpc_next(r, call))) {
        assert_int_equal(completion->n_choices, 1);
        assert_int_equal(completion->choices[0]->text.len, TEXT_BYTES);
        assert_int_equal(strtol((char *)completion->choices[0]->text.data, NULL, 10), n++);
        rpc_completion_free(completion);
    }
    assert_int_equal(grpc_client_call_status(call), GRPC_OK);
    assert_int_equal(n, N_EVENTS);
    grpc_client_call_free(call);
}

/* ---- Tests ---- */

static void test_slow_reader_pauses_only_its_own_call(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc other;

    scene_start(s, pour_or_serve, &quiet_ms, NULL);
    struct grpc_client_call *slow = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    await_stall(s);

    /* On the same connection, and on another one. */
    expect_quick_answers(&s->rpc);
    rpc_connect(&other, s->daemon.socket);
    expect_quick_answers(&other);
    rpc_close(&other);
    assert_in_range(fake_count(s->fake, FAKE_STEP), 1, HELD_MAX_EVENTS);

    expect_all(&s->rpc, slow);
    scene_stop(s);
}

static void test_reader_that_reads_nothing_blocks_nobody_else(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc deaf;

    scene_start(s, pour_or_serve, &quiet_ms, NULL);
    rpc_connect(&deaf, s->daemon.socket);
    struct grpc_client_call *call = rpc_start(&deaf, RPC_CREATE_STREAM, &request, -1);
    await_stall(s);
    expect_quick_answers(&s->rpc);
    expect_all(&deaf, call);
    rpc_close(&deaf);
    scene_stop(s);
}

static void test_pause_is_no_silence_of_the_upstream(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    /* The upstream is made to wait for longer than that; without it, even on a busy machine, it is
     * never silent for so long. */
    scene_start(s, pour_or_serve, &long_quiet_ms, "idle_timeout = 3s\n");
    struct grpc_client_call *slow = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    await_stall(s);
    expect_all(&s->rpc, slow);
    scene_stop(s);
}

static void test_paused_call_costs_no_cpu(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, pour_or_serve, &quiet_ms, NULL);
    struct grpc_client_call *slow = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    await_stall(s);
    int64_t before_us = daemon_cpu_us(&s->daemon);
    struct timespec second = {.tv_sec = 1};
    nanosleep(&second, NULL);
    int64_t used_us = daemon_cpu_us(&s->daemon) - before_us;
    if (used_us > 10000)
        fail_msg("%d us of the CPU in a second of doing nothing", (int)used_us);
    grpc_client_call_free(slow);
    scene_stop(s);
}

static void test_many_slow_readers(void **state)
{
    enum { N = 8 };
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct grpc_client_call *calls[N];

    scene_start(s, pour, &quiet_ms, NULL);
    for (int i = 0; i < N; i++)
        calls[i] = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    assert_true(fake_await(s->fake, FAKE_STALLED, N));
    assert_in_range(fake_count(s->fake, FAKE_STEP), 1, N * HELD_MAX_EVENTS);
    for (int i = 0; i < N; i++)
        expect_all(&s->rpc, calls[i]);
    scene_stop(s);
}

/* ---- Answers that are there at once ---- */

enum { AT_ONCE_EVENTS = 100, AT_ONCE_CALLS = 32, AT_ONCE_ROUNDS = 12 };

/* A response of known length, so that its connection is kept. To be freed. */
static char *whole_response(void)
{
    size_t size = AT_ONCE_EVENTS * (TEXT_BYTES + 512), n = 0;
    char *body = malloc(size), *all, text[TEXT_BYTES + 1];

    assert_non_null(body);
    memset(text, 'x', TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    for (int i = 0; i < AT_ONCE_EVENTS; i++)
        n += (size_t)snprintf(body + n, size - n, "data: " FAKE_PART("%s") "\n\n", text);
    n += (size_t)snprintf(body + n, size - n, "data: " FAKE_LAST("") "\n\ndata: [DONE]\n\n");
    assert_true(asprintf(&all,
                         "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                         "Content-Length: %zu\r\n\r\n%s",
                         n, body) > 0);
    free(body);
    return all;
}

static void answer_at_once(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_write(c, c->user, strlen(c->user)))
        ;
}

/* A transfer on a kept connection may be paused before libcurl has told that it uses it. It is not
 * taken for one that nobody uses. */
static void test_paused_at_once_on_a_kept_connection(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct grpc_client_call *calls[AT_ONCE_CALLS];
    struct rpc_result result;
    char *response = whole_response();

    scene_start(s, answer_at_once, response, NULL);
    for (int round = 0; round < AT_ONCE_ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE_CALLS; i++)
            calls[i] = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
        for (int i = 0; i < AT_ONCE_CALLS; i++) {
            rpc_finish(&s->rpc, calls[i], &result);
            if (result.status != GRPC_OK)
                fail_msg("call %d of round %d: %s", i, round, result.message);
            assert_int_equal(buffer_length(&result.text), AT_ONCE_EVENTS * TEXT_BYTES);
            rpc_result_done(&result);
        }
    }
    scene_stop(s);
    s->fake = fake_free(s->fake);
    free(response);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_slow_reader_pauses_only_its_own_call),
        scene_test(test_reader_that_reads_nothing_blocks_nobody_else),
        scene_test(test_pause_is_no_silence_of_the_upstream),
        scene_test(test_paused_call_costs_no_cpu),
        scene_test(test_many_slow_readers),
        scene_test(test_paused_at_once_on_a_kept_connection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
