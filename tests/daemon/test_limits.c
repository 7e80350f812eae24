/*
 * Callers that want too much: each is held to its limits, told which one, and in nobody else's way.
 * A caller's user is what it was when it connected, so one test can be several.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scene.h"

enum { ALICE = 12341, BOB = 12342 };

/* What one caller is answered says that another's call, sent before, is waiting by now: they must
 * be the same worker's. */
#define ONE_LOOP DAEMON_ONE_WORKER

/* Answers each request when the test has said go so many times. */
static void serve_when_told(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        unsigned n = fake_count(c->fake, FAKE_STEP) + 1;
        fake_mark(c->fake, FAKE_STEP);
        if (!fake_await(c->fake, FAKE_GO, n))
            return;
        if (!fake_answer(
                c, 200, "application/json", "",
                "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\","
                "\"choices\":[{\"index\":0,\"text\":\"a\",\"logprobs\":null,"
                "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,"
                "\"completion_tokens\":3,\"total_tokens\":5}}"))
            return;
    }
}

static void start(struct scene *s, const char *settings)
{
    scene_start(s, serve_when_told, NULL, settings);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_int_equal(chmod(s->daemon.directory.path, 0755), 0);
}

static void connect_as(struct scene *s, uid_t uid, struct rpc *ret)
{
    if (geteuid() != 0)
        skip();
    assert_int_equal(seteuid(uid), 0);
    rpc_connect(ret, s->daemon.socket);
    assert_int_equal(seteuid(0), 0);
}

static struct grpc_client_call *begin(struct rpc *r, const char *prompt)
{
    rpc_request request = rpc_request_new("m", prompt);

    struct grpc_client_call *call = rpc_start(r, RPC_CREATE, &request, -1);
    rpc_turn(r, 0);
    return call;
}

static void finish_ok(struct rpc *r, struct grpc_client_call *call)
{
    struct rpc_result result;

    rpc_finish(r, call, &result);
    rpc_assert_ok(&result, "a");
    rpc_result_done(&result);
}

static void expect_refused(struct rpc *r, const rpc_request *request, const char *reason,
                           const char *said, int64_t retry_after_max_ms)
{
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, request, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, reason);
    rpc_assert_said(&result, said);
    assert_int_equal(result.detail->attempts, 0);
    assert_false(result.detail->maybe_executed);
    if (retry_after_max_ms) {
        assert_true(result.detail->retryable);
        assert_in_range(result.detail->retry_after_ms, 1, retry_after_max_ms);
    } else {
        assert_false(result.detail->has_retry_after_ms);
    }
    rpc_result_done(&result);
}

static void go(struct scene *s, unsigned n)
{
    while (n-- > 0)
        fake_mark(s->fake, FAKE_GO);
}

/* The upstream has n requests; nothing else can tell that a call did not go out than that others,
 * which were made later, did. */
static void await_requests(struct scene *s, struct rpc *r, unsigned n)
{
    while (fake_count(s->fake, FAKE_STEP) < n)
        rpc_turn(r, 10);
}

/* ---- Calls at once ---- */

static void test_calls_beyond_the_users_limit_wait(void **state)
{
    struct scene *s = *state;
    struct rpc bob = {.fd = -1};

    start(s, "\n[policy *]\nmax_concurrent = 1\n");
    connect_as(s, BOB, &bob);
    struct grpc_client_call *first = begin(&s->rpc, "first");
    await_requests(s, &s->rpc, 1);
    struct grpc_client_call *second = begin(&s->rpc, "second");
    struct grpc_client_call *other = begin(&bob, "other");
    await_requests(s, &bob, 2);
    char *body = fake_last_body(s->fake);
    assert_non_null(strstr(body, "other"));
    free(body);
    go(s, 3);
    finish_ok(&s->rpc, first);
    finish_ok(&s->rpc, second);
    finish_ok(&bob, other);
    assert_int_equal(fake_count(s->fake, FAKE_STEP), 3);
    rpc_close(&bob);
    scene_stop(s);
}

static void test_a_user_with_many_waiting_calls_delays_others_by_one_turn(void **state)
{
    enum { MANY = 60 };
    struct scene *s = *state;
    struct rpc alice = {.fd = -1}, bob = {.fd = -1};
    struct grpc_client_call *many[MANY];

    start(s, "max_concurrent = 1\n" ONE_LOOP);
    connect_as(s, ALICE, &alice);
    connect_as(s, BOB, &bob);
    many[0] = begin(&alice, "greedy");
    await_requests(s, &alice, 1);
    for (int i = 1; i < MANY; i++)
        many[i] = begin(&alice, "greedy");
    scene_assert_serving(s);
    struct grpc_client_call *modest = begin(&bob, "modest");
    scene_assert_serving(s);
    go(s, 1);
    await_requests(s, &alice, 2);
    go(s, 1);
    await_requests(s, &bob, 3);
    char *body = fake_last_body(s->fake);
    assert_non_null(strstr(body, "modest"));
    free(body);
    go(s, MANY);
    finish_ok(&bob, modest);
    for (int i = 0; i < MANY; i++)
        finish_ok(&alice, many[i]);
    rpc_close(&alice);
    rpc_close(&bob);
    scene_stop(s);
}

static void test_who_may_not_even_wait_is_told(void **state)
{
    struct scene *s = *state;
    struct rpc bob = {.fd = -1};
    rpc_request request = rpc_request_new("m", "CANARY");

    start(s, "max_concurrent = 1\nmax_queued = 2\n" ONE_LOOP "[policy *]\nmax_queued = 1\n");
    connect_as(s, BOB, &bob);
    struct grpc_client_call *first = begin(&s->rpc, "1");
    await_requests(s, &s->rpc, 1);
    struct grpc_client_call *second = begin(&s->rpc, "2");
    expect_refused(&s->rpc, &request, "LOCAL_QUEUE_FULL", "max_queued = 1", 1000);
    struct grpc_client_call *third = begin(&bob, "3");
    scene_assert_serving(s);
    struct rpc carol = {.fd = -1};
    connect_as(s, 12343, &carol);
    expect_refused(&carol, &request, "LOCAL_QUEUE_FULL", "upstream \"fake\"", 1000);
    go(s, 3);
    finish_ok(&s->rpc, first);
    finish_ok(&s->rpc, second);
    finish_ok(&bob, third);
    rpc_close(&bob);
    rpc_close(&carol);
    scene_stop(s);
}

/* Each answer in between is a turn of the daemon's loop. */
static void await_record(struct scene *s, const char *text)
{
    bool found = false;

    while (!found) {
        scene_assert_serving(s);
        char *log = daemon_log(&s->daemon);
        found = strstr(log, text) != NULL;
        free(log);
    }
}

static void test_who_leaves_the_queue_never_reaches_the_upstream(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "late");
    struct rpc_result result;

    start(s, "max_concurrent = 1\n");
    struct grpc_client_call *first = begin(&s->rpc, "first");
    await_requests(s, &s->rpc, 1);
    struct grpc_client_call *cancelled = begin(&s->rpc, "cancelled");
    rpc_cancel(&s->rpc, cancelled);
    grpc_client_call_free(cancelled);

    rpc_finish(&s->rpc, rpc_start(&s->rpc, RPC_CREATE, &request, 50), &result);
    assert_int_equal(result.status, GRPC_DEADLINE_EXCEEDED);
    if (result.detail) {
        rpc_assert_said(&result, "waiting for a turn");
        assert_int_equal(result.detail->phase, COMPLETION__V1__PHASE__PHASE_LOCAL);
        assert_false(result.detail->maybe_executed);
    }
    rpc_result_done(&result);

    struct rpc gone = {.fd = -1};
    rpc_connect(&gone, s->daemon.socket);
    struct grpc_client_call *lost = begin(&gone, "gone");
    grpc_client_call_free(lost);
    rpc_close(&gone);
    await_record(s, "reason=CALLER_GONE");

    struct grpc_client_call *last = begin(&s->rpc, "last");
    go(s, 2);
    finish_ok(&s->rpc, first);
    finish_ok(&s->rpc, last);
    assert_int_equal(fake_count(s->fake, FAKE_STEP), 2);
    scene_stop(s);
}

/* ---- Rates ---- */

static void test_requests_per_minute(void **state)
{
    struct scene *s = *state;
    struct rpc alice = {.fd = -1}, bob = {.fd = -1}, again = {.fd = -1};
    rpc_request request = rpc_request_new("m", "CANARY");

    start(s, "\n[policy *]\nrequests_per_minute = 2\n");
    connect_as(s, ALICE, &alice);
    connect_as(s, BOB, &bob);
    go(s, 9);
    finish_ok(&alice, begin(&alice, "1"));
    finish_ok(&alice, begin(&alice, "2"));
    expect_refused(&alice, &request, "LOCAL_LIMIT", "requests_per_minute = 2", 30000);
    finish_ok(&bob, begin(&bob, "3"));
    /* A new connection is no new user. */
    rpc_close(&alice);
    connect_as(s, ALICE, &again);
    expect_refused(&again, &request, "LOCAL_LIMIT", "requests_per_minute = 2", 30000);
    rpc_close(&again);
    rpc_close(&bob);
    scene_stop(s);
}

static void test_tokens_per_minute_are_reserved_and_settled(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "12345678");
    struct rpc_result result;

    start(s, "\n[policy *]\ntokens_per_minute = 100\n");
    request.has_max_tokens = true;
    request.max_tokens = 60;
    struct grpc_client_call *first = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
    await_requests(s, &s->rpc, 1);
    /* 62 of 100 are reserved: as many again are not there. */
    expect_refused(&s->rpc, &request, "LOCAL_LIMIT", "tokens_per_minute = 100", 60000);
    go(s, 9);
    finish_ok(&s->rpc, first);
    /* It took 5: 62 of 95 are there. */
    finish_ok(&s->rpc, rpc_start(&s->rpc, RPC_CREATE, &request, -1));

    request.max_tokens = 99;
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT");
    rpc_assert_said(&result, "ask for less");
    assert_false(result.detail->retryable);
    assert_false(result.detail->has_retry_after_ms);
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_a_call_that_was_refused_costs_nothing(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "1234");

    start(s, "base_url = http://127.0.0.1:1/v1\n\n[policy *]\ntokens_per_minute = 100\n");
    request.has_max_tokens = true;
    request.max_tokens = 90;
    for (int i = 0; i < 5; i++) {
        struct rpc_result result;
        rpc_call(&s->rpc, RPC_CREATE, &request, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

/* ---- Sizes ---- */

static void test_a_message_above_the_policys_limit(void **state)
{
    struct scene *s = *state;
    char *prompt = calloc(1, 70001);

    assert_non_null(prompt);
    memset(prompt, 'x', 70000);
    start(s, "\n[policy *]\nmax_message = 64K\n");
    rpc_request request = rpc_request_new("m", prompt);
    expect_refused(&s->rpc, &request, "LOCAL_LIMIT", "max_message = 65536", 0);
    prompt[60000] = '\0';
    go(s, 1);
    finish_ok(&s->rpc, begin(&s->rpc, prompt));
    free(prompt);
    scene_stop(s);
}

static void test_what_a_user_makes_us_hold_is_bounded(void **state)
{
    enum { MANY = 40, PROMPT = 200000 };
    struct scene *s = *state;
    struct rpc alice = {.fd = -1}, bob = {.fd = -1};
    struct grpc_client_call *calls[MANY];
    char *prompt = calloc(1, PROMPT + 1);
    unsigned n_served = 0, n_refused = 0;

    assert_non_null(prompt);
    memset(prompt, 'x', PROMPT);
    start(s, "\n[policy *]\nmax_memory = 4M\nmax_concurrent = 1\n");
    connect_as(s, ALICE, &alice);
    connect_as(s, BOB, &bob);
    for (int i = 0; i < MANY; i++)
        calls[i] = begin(&alice, prompt);
    await_requests(s, &alice, 1);
    go(s, MANY + 2);
    for (int i = 0; i < MANY; i++) {
        struct rpc_result result;
        rpc_finish(&alice, calls[i], &result);
        if (result.status == GRPC_OK) {
            n_served++;
        } else {
            assert_int_equal(result.status, GRPC_RESOURCE_EXHAUSTED);
            n_refused++;
        }
        rpc_result_done(&result);
    }
    assert_true(n_served > 0);
    assert_true(n_refused > 0);
    /* All of it comes back, and nobody else noticed. */
    finish_ok(&bob, begin(&bob, prompt));
    finish_ok(&alice, begin(&alice, prompt));
    free(prompt);
    rpc_close(&alice);
    rpc_close(&bob);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_calls_beyond_the_users_limit_wait),
        scene_test(test_a_user_with_many_waiting_calls_delays_others_by_one_turn),
        scene_test(test_who_may_not_even_wait_is_told),
        scene_test(test_who_leaves_the_queue_never_reaches_the_upstream),
        scene_test(test_requests_per_minute),
        scene_test(test_tokens_per_minute_are_reserved_and_settled),
        scene_test(test_a_call_that_was_refused_costs_nothing),
        scene_test(test_a_message_above_the_policys_limit),
        scene_test(test_what_a_user_makes_us_hold_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
