/*
 * The end of the daemon when much is going on: whom it waits for, for how long, and what it says to
 * the rest.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "scene.h"

enum { CALLERS = 10, STREAMS_EACH = 20, STREAMS = CALLERS * STREAMS_EACH };

#define MANY     "max_concurrent = 1000\n[policy *]\nmax_concurrent = 1000\n"
#define PATIENT  "[daemon]\ndrain_timeout = 10min\n"
#define HURRIED  "[daemon]\ndrain_timeout = 1s\n"
#define ONE_TURN "max_concurrent = 1\n"
#define RETRIES  "max_retries = 2\n"

/* ---- Upstreams ---- */

/* Begins a stream, and ends it when the test says so; never if the prompt is "stall". */
static void stream(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")))
            return;
        if (strstr(c->body, "stall")) {
            fake_wait_for_close(c);
            return;
        }
        if (!fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
            !fake_stream_done(c))
            return;
    }
}

/* Answers when the test says so. */
static void answer_later(struct fake_connection *c)
{
    while (fake_read_request(c))
        if (!fake_await(c->fake, FAKE_GO, 1) ||
            !fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
            return;
}

/* Overloaded once; user: more headers. */
static void refuse_once(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool first = fake_count(c->fake, FAKE_REQUESTED) == 1;
        if (!fake_answer(c, first ? 503 : 200, "application/json", first ? c->user : "",
                         first ? "{}" : FAKE_LAST("ok")))
            return;
    }
}

/* Writes until nobody takes it. */
static void flood(struct fake_connection *c)
{
    static const char event[] = "8000\r\ndata: {\"choices\":[{\"index\":0,\"text\":\"";
    static const char end[] = "\"}]}\n\n\r\n";
    char chunk[sizeof event - 1 + 0x8000];
    size_t len = 6 + 0x8000 + 2;

    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    memset(chunk, 'x', sizeof chunk);
    memcpy(chunk, event, sizeof event - 1);
    memcpy(chunk + len - (sizeof end - 1), end, sizeof end - 1);
    while (fake_write_some(c, chunk, len, 500) == len)
        ;
    fake_mark(c->fake, FAKE_STALLED);
    fake_wait_for_close(c);
}

/* ---- Callers ---- */

static struct grpc_client_call *start(struct rpc *r, const char *path, const char *prompt)
{
    rpc_request request = rpc_request_new("m", prompt);

    return rpc_start(r, path, &request, -1);
}

struct audience {
    struct rpc rpcs[CALLERS];
    struct grpc_client_call *calls[STREAMS];
};

/* Streams of which the first chunk has come. */
static void gather(struct audience *a, const struct scene *s, const char *prompt, const char *other)
{
    for (int i = 0; i < CALLERS; i++)
        rpc_connect(&a->rpcs[i], s->daemon.socket);
    for (int i = 0; i < STREAMS; i++)
        a->calls[i] = start(&a->rpcs[i % CALLERS], RPC_CREATE_STREAM, i % 2 ? other : prompt);
    for (int i = 0; i < STREAMS; i++)
        rpc_completion_free(rpc_next(&a->rpcs[i % CALLERS], a->calls[i]));
}

static void disperse(struct audience *a)
{
    for (int i = 0; i < CALLERS; i++)
        rpc_close(&a->rpcs[i]);
}

static void finish_ok(struct rpc *r, struct grpc_client_call *call, const char *text)
{
    struct rpc_result result;

    rpc_finish(r, call, &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

/* Ended by the daemon's end, in words that people understand. */
static void finish_cut(struct rpc *r, struct grpc_client_call *call, bool maybe_executed)
{
    struct rpc_result result;

    rpc_finish(r, call, &result);
    rpc_assert_failed(&result, GRPC_CANCELLED, "SHUTTING_DOWN");
    rpc_assert_said(&result, "completiond is shutting down");
    assert_int_equal(result.detail->maybe_executed, maybe_executed);
    assert_true(result.detail->retryable);
    rpc_result_done(&result);
}

static void terminate(struct scene *s)
{
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
}

static bool can_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    bool connected = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return connected;
}

/* ---- Many streams ---- */

static void test_all_streams_end_by_themselves(void **state)
{
    struct scene *s = *state;
    struct audience a;

    scene_start(s, stream, NULL, MANY PATIENT);
    gather(&a, s, "go", "go");
    terminate(s);
    for (int i = 0; i < CALLERS; i++)
        while (grpc_client_session_is_open(a.rpcs[i].session))
            assert_true(rpc_turn(&a.rpcs[i], HARNESS_TIMEOUT_MS));
    assert_false(can_connect(s->daemon.socket));
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < STREAMS; i++)
        finish_ok(&a.rpcs[i % CALLERS], a.calls[i], "b");
    daemon_wait_exit(&s->daemon, 0);
    daemon_assert_not_logged(&s->daemon, "are cut");
    disperse(&a);
}

static void test_streams_that_take_too_long_are_cut_and_no_others(void **state)
{
    struct scene *s = *state;
    struct audience a;

    scene_start(s, stream, NULL, MANY HURRIED);
    gather(&a, s, "go", "stall");
    terminate(s);
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < STREAMS; i++)
        if (i % 2)
            finish_cut(&a.rpcs[i % CALLERS], a.calls[i], true);
        else
            finish_ok(&a.rpcs[i % CALLERS], a.calls[i], "b");
    daemon_wait_exit(&s->daemon, 0);
    /* Nobody generates any more for callers that are gone. */
    assert_true(fake_await(s->fake, FAKE_CLOSED, STREAMS / 2));
    disperse(&a);
}

static void test_second_signal_cuts_all_at_once(void **state)
{
    static const int seconds[] = {SIGTERM, SIGINT};
    struct scene *s = *state;
    struct rpc_result result;
    struct audience a;

    scene_prepare(s, stream, NULL, MANY PATIENT);
    for (size_t k = 0; k < sizeof seconds / sizeof *seconds; k++) {
        daemon_start(&s->daemon, NULL);
        gather(&a, s, "stall", "stall");
        terminate(s);
        daemon_signal(&s->daemon, seconds[k]);
        daemon_wait_exit(&s->daemon, 0);
        for (int i = 0; i < STREAMS; i++) {
            rpc_finish(&a.rpcs[i % CALLERS], a.calls[i], &result);
            assert_int_equal(result.status, GRPC_UNAVAILABLE);
            rpc_result_done(&result);
        }
        disperse(&a);
    }
}

static void test_reader_that_does_not_read_does_not_hold_up_the_end(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, flood, NULL, HURRIED);
    struct grpc_client_call *call = start(&s->rpc, RPC_CREATE_STREAM, "p");
    assert_true(fake_await(s->fake, FAKE_STALLED, 1));
    terminate(s);
    daemon_wait_exit(&s->daemon, 0);
    rpc_finish(&s->rpc, call, &result);
    assert_int_not_equal(result.status, GRPC_OK);
    rpc_result_done(&result);
}

/* ---- Calls that are on their way ---- */

/* The caller has not heard of the end yet. */
static void test_late_call_is_served_or_provably_not_begun(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    bool unprocessed;

    scene_start(s, answer_later, NULL, PATIENT);
    scene_assert_serving(s);
    struct grpc_client_call *early = start(&s->rpc, RPC_CREATE, "p");
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    terminate(s);
    struct grpc_client_call *late = start(&s->rpc, RPC_CREATE, "p");
    fake_mark(s->fake, FAKE_GO);
    finish_ok(&s->rpc, early, "ok");
    while (!grpc_client_call_is_ended(late))
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
    unprocessed = grpc_client_call_was_unprocessed(late);
    rpc_finish(&s->rpc, late, &result);
    if (!unprocessed)
        rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    daemon_wait_exit(&s->daemon, 0);
}

static void test_queued_calls_get_their_turn(void **state)
{
    struct scene *s = *state;
    struct grpc_client_call *calls[3];

    scene_start(s, answer_later, NULL, ONE_TURN PATIENT);
    for (int i = 0; i < 3; i++)
        calls[i] = start(&s->rpc, RPC_CREATE, "p");
    scene_assert_serving(s);
    terminate(s);
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < 3; i++)
        finish_ok(&s->rpc, calls[i], "ok");
    daemon_wait_exit(&s->daemon, 0);
}

static void test_queued_calls_without_a_turn_are_cut_and_never_asked(void **state)
{
    struct scene *s = *state;
    struct grpc_client_call *calls[3];

    scene_start(s, answer_later, NULL, ONE_TURN HURRIED);
    for (int i = 0; i < 3; i++)
        calls[i] = start(&s->rpc, RPC_CREATE, "p");
    scene_assert_serving(s);
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    terminate(s);
    for (int i = 0; i < 3; i++)
        finish_cut(&s->rpc, calls[i], i == 0);
    daemon_wait_exit(&s->daemon, 0);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
}

static void test_call_that_backs_off_is_made_again(void **state)
{
    struct scene *s = *state;

    scene_start(s, refuse_once, "", RETRIES PATIENT);
    struct grpc_client_call *call = start(&s->rpc, RPC_CREATE, "p");
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    terminate(s);
    finish_ok(&s->rpc, call, "ok");
    daemon_wait_exit(&s->daemon, 0);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 2);
}

static void test_call_that_backs_off_too_long_is_cut(void **state)
{
    struct scene *s = *state;

    scene_start(s, refuse_once, "Retry-After: 60\r\n", RETRIES HURRIED);
    struct grpc_client_call *call = start(&s->rpc, RPC_CREATE, "p");
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    terminate(s);
    /* It was asked once, and a 503 does not say that nothing was done. */
    finish_cut(&s->rpc, call, true);
    daemon_wait_exit(&s->daemon, 0);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
}

static void test_reload_during_a_drain_changes_nothing(void **state)
{
    struct scene *s = *state;

    scene_start(s, answer_later, NULL, PATIENT);
    struct grpc_client_call *call = start(&s->rpc, RPC_CREATE, "p");
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    terminate(s);
    daemon_configure(&s->daemon, "[nonsense]\n");
    daemon_signal(&s->daemon, SIGHUP);
    fake_mark(s->fake, FAKE_GO);
    finish_ok(&s->rpc, call, "ok");
    daemon_wait_exit(&s->daemon, 0);
    daemon_assert_not_logged(&s->daemon, "nonsense");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_all_streams_end_by_themselves),
        scene_test(test_streams_that_take_too_long_are_cut_and_no_others),
        scene_test(test_second_signal_cuts_all_at_once),
        scene_test(test_reader_that_does_not_read_does_not_hold_up_the_end),
        scene_test(test_late_call_is_served_or_provably_not_begun),
        scene_test(test_queued_calls_get_their_turn),
        scene_test(test_queued_calls_without_a_turn_are_cut_and_never_asked),
        scene_test(test_call_that_backs_off_is_made_again),
        scene_test(test_call_that_backs_off_too_long_is_cut),
        scene_test(test_reload_during_a_drain_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
