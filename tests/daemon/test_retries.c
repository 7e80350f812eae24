/*
 * What is asked again, how often, how soon, and what never is: an upstream that fails first and
 * then does not, as often as a test's script says.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scene.h"

#define OVERLOADED                                                                                 \
    "{\"error\":{\"message\":\"busy\",\"type\":\"overloaded_error\",\"param\":null,\"code\":"      \
    "null}}"
#define QUOTA                                                                                      \
    "{\"error\":{\"message\":\"pay\",\"type\":\"insufficient_quota\",\"param\":null,\"code\":"     \
    "\"insufficient_quota\"}}"

/* What the upstream does with a request. The last step of a script is done with all that follow. */
struct step {
    enum { WELL, STATUS, CUT, FIRST_ERROR, CHUNK_THEN_ERROR, NEVER, END } what;
    int status;
    const char *headers, *body;
};

static bool answer_well(struct fake_connection *c)
{
    if (!strstr(c->body, "\"stream\":true"))
        return fake_answer(c, 200, "application/json", "", FAKE_LAST("well"));
    return fake_stream_begin(c) && fake_event(c, FAKE_PART("we")) &&
           fake_event(c, FAKE_LAST("ll")) && fake_stream_done(c);
}

static bool take_step(struct fake_connection *c, const struct step *step)
{
    switch (step->what) {
    case STATUS:
        return fake_answer(c, step->status, "application/json", step->headers,
                           step->body ? step->body : "{}");
    case FIRST_ERROR:
        return fake_stream_begin(c) && fake_event(c, OVERLOADED) && fake_stream_done(c);
    case CHUNK_THEN_ERROR:
        return fake_stream_begin(c) && fake_event(c, FAKE_PART("we")) &&
               fake_event(c, OVERLOADED) && fake_stream_done(c);
    case CUT:
        return false;
    case NEVER:
        fake_wait_for_close(c);
        return false;
    case WELL:
    case END:
        break;
    }
    return answer_well(c);
}

static void follow(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        const struct step *step = c->user;
        for (unsigned n = fake_count(c->fake, FAKE_REQUESTED); n > 1 && step[1].what != END; n--)
            step++;
        if (!take_step(c, step))
            return;
    }
}

static void start(struct scene *s, const struct step *script, const char *settings)
{
    char all[512];

    snprintf(all, sizeof all, "max_retries = 2\n%s", settings ? settings : "");
    scene_start(s, follow, script, all);
}

static void call(struct scene *s, const char *path, int timeout_ms, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    rpc_finish(&s->rpc, rpc_start(&s->rpc, path, &request, timeout_ms), ret);
}

static void expect_well(struct scene *s, const char *path, unsigned n_requests)
{
    struct rpc_result result;
    unsigned before = fake_count(s->fake, FAKE_REQUESTED);

    call(s, path, -1, &result);
    rpc_assert_ok(&result, "well");
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED) - before, n_requests);
}

static void expect_failed(struct scene *s, const char *path, enum grpc_status status,
                          const char *reason, int attempts, bool maybe_executed)
{
    struct rpc_result result;
    unsigned before = fake_count(s->fake, FAKE_REQUESTED);

    call(s, path, -1, &result);
    rpc_assert_failed(&result, status, reason);
    assert_int_equal(result.detail->attempts, attempts);
    assert_int_equal(result.detail->maybe_executed, maybe_executed);
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED) - before, attempts);
}

/* ---- Statuses ---- */

static void test_statuses_that_pass_are_not_seen(void **state)
{
    static const int statuses[] = {408, 409, 429, 500, 502, 503, 504, 529};

    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        const struct step script[] = {
            {STATUS, statuses[i], "retry-after-ms: 1\r\n", NULL},
            {STATUS, statuses[i], "retry-after-ms: 1\r\n", NULL},
            {.what = WELL},
            {.what = END},
        };
        struct scene *s;
        scene_setup((void **)&s);
        start(s, script, NULL);
        expect_well(s, i % 2 ? RPC_CREATE : RPC_CREATE_STREAM, 3);
        scene_stop(s);
        scene_teardown((void **)&s);
    }
    (void)state;
}

static void test_a_third_failure_is_told(void **state)
{
    static const struct step script[] = {{STATUS, 503, "retry-after-ms: 1\r\n", OVERLOADED},
                                         {.what = END}};
    struct scene *s = *state;

    start(s, script, NULL);
    expect_failed(s, RPC_CREATE, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", 3, true);
    expect_failed(s, RPC_CREATE_STREAM, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED", 3, true);
    scene_stop(s);
}

static void test_what_no_repetition_helps_is_asked_once(void **state)
{
    static const struct {
        struct step step;
        enum grpc_status status;
        const char *reason;
        bool maybe_executed;
    } cases[] = {
        {{STATUS, 400, "", NULL}, GRPC_INVALID_ARGUMENT, "UPSTREAM_ERROR", false},
        {{STATUS, 401, "", NULL}, GRPC_UNAUTHENTICATED, "UPSTREAM_AUTH", false},
        {{STATUS, 404, "", OVERLOADED}, GRPC_NOT_FOUND, "UPSTREAM_ERROR", false},
        {{STATUS, 429, "retry-after: 1\r\n", QUOTA},
         GRPC_RESOURCE_EXHAUSTED,
         "UPSTREAM_QUOTA",
         false},
        {{STATUS, 503, "x-should-retry: false\r\n", NULL},
         GRPC_UNAVAILABLE,
         "UPSTREAM_OVERLOADED",
         true},
        {{STATUS, 429, "retry-after: 121\r\n", NULL},
         GRPC_RESOURCE_EXHAUSTED,
         "UPSTREAM_RATE_LIMIT",
         false},
        {{STATUS, 302, "Location: http://127.0.0.1:1/\r\n", NULL},
         GRPC_FAILED_PRECONDITION,
         "UPSTREAM_REDIRECT",
         false},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct step script[] = {cases[i].step, {.what = END}};
        struct scene *s;
        scene_setup((void **)&s);
        start(s, script, NULL);
        expect_failed(s, RPC_CREATE, cases[i].status, cases[i].reason, 1, cases[i].maybe_executed);
        scene_stop(s);
        scene_teardown((void **)&s);
    }
}

static void test_the_upstream_may_ask_to_be_asked_again(void **state)
{
    static const struct step script[] = {
        {STATUS, 400, "x-should-retry: true\r\nretry-after-ms: 1\r\n", NULL},
        {.what = WELL},
        {.what = END}};
    struct scene *s = *state;

    start(s, script, NULL);
    expect_well(s, RPC_CREATE, 2);
    scene_stop(s);
}

/* ---- Time ---- */

static void test_a_wait_beyond_the_deadline_is_not_begun(void **state)
{
    static const struct step script[] = {{STATUS, 429, "retry-after: 60\r\n", NULL}, {.what = END}};
    struct scene *s = *state;
    struct rpc_result result;
    int64_t before = harness_now_ms();

    start(s, script, NULL);
    call(s, RPC_CREATE, 20000, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT");
    assert_int_equal(result.detail->retry_after_ms, 60000);
    assert_int_equal(result.detail->attempts, 1);
    assert_true(harness_now_ms() - before < 15000);
    rpc_result_done(&result);
    scene_stop(s);
}

static void test_a_caller_that_leaves_while_waiting_is_forgotten(void **state)
{
    static const struct step script[] = {{STATUS, 429, "retry-after: 30\r\n", NULL}, {.what = END}};
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    start(s, script, "max_concurrent = 1\n");
    struct grpc_client_call *waiting = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
    while (fake_count(s->fake, FAKE_REQUESTED) < 1)
        rpc_turn(&s->rpc, 10);
    /* The answer is known when the only turn is given to the next call, which fails at once. */
    rpc_cancel(&s->rpc, waiting);
    grpc_client_call_free(waiting);
    call(s, RPC_CREATE, 20000, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMIT");
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 2);
    scene_stop(s);
}

/* ---- Connections that break ---- */

static void test_a_request_whose_fate_is_unknown(void **state)
{
    static const struct step script[] = {{.what = CUT}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, NULL);
    expect_well(s, RPC_CREATE, 2);
    scene_stop(s);
}

static void test_a_request_whose_fate_is_unknown_and_resend_is_no(void **state)
{
    static const struct step script[] = {{.what = CUT}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, "resend = no\n");
    expect_failed(s, RPC_CREATE, GRPC_UNAVAILABLE, "UPSTREAM_BROKEN", 1, true);
    scene_stop(s);
}

static void test_a_connection_that_died_in_the_pool(void **state)
{
    static const struct step script[] = {
        {.what = WELL}, {.what = CUT}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, "max_retries = 0\n");
    expect_well(s, RPC_CREATE, 1);
    /* libcurl's own repetition. */
    expect_well(s, RPC_CREATE, 2);
    scene_stop(s);
}

static void test_a_connection_that_died_in_the_pool_and_resend_is_no(void **state)
{
    static const struct step script[] = {
        {.what = WELL}, {.what = CUT}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, "resend = no\n");
    expect_well(s, RPC_CREATE, 1);
    expect_failed(s, RPC_CREATE, GRPC_UNAVAILABLE, "UPSTREAM_BROKEN", 1, true);
    expect_well(s, RPC_CREATE, 1);
    scene_stop(s);
}

static void test_an_upstream_that_says_nothing(void **state)
{
    static const struct step script[] = {{.what = NEVER}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, "first_byte_timeout = 1s\n"); /* in which the second answer comes */
    expect_well(s, RPC_CREATE, 2);
    scene_stop(s);
}

/* ---- Streams ---- */

static void test_an_error_before_the_first_chunk_is_not_seen(void **state)
{
    static const struct step script[] = {{.what = FIRST_ERROR}, {.what = WELL}, {.what = END}};
    struct scene *s = *state;

    start(s, script, NULL);
    expect_well(s, RPC_CREATE_STREAM, 2);
    scene_stop(s);
}

static void test_nothing_is_repeated_after_the_first_chunk(void **state)
{
    static const struct step script[] = {{.what = CHUNK_THEN_ERROR}, {.what = END}};
    struct scene *s = *state;
    struct rpc_result result;

    start(s, script, NULL);
    call(s, RPC_CREATE_STREAM, -1, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_OVERLOADED");
    assert_int_equal(result.n_messages, 1);
    assert_int_equal(result.detail->attempts, 1);
    assert_int_equal(result.detail->chunks_sent, 1);
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    scene_stop(s);
}

/* ---- Nobody there ---- */

/* A port on which nobody listens, until the test does. */
static int reserve_port(char *settings, size_t size)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    snprintf(settings, size, "base_url = http://127.0.0.1:%u/v1\n", ntohs(address.sin_port));
    return fd;
}

static void test_nobody_listens(void **state)
{
    static const struct step script[] = {{.what = WELL}, {.what = END}};
    struct scene *s = *state;
    struct rpc_result result;
    char settings[128];
    int fd = reserve_port(settings, sizeof settings);

    start(s, script, settings);
    call(s, RPC_CREATE, -1, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
    assert_int_equal(result.detail->attempts, 3);
    assert_false(result.detail->maybe_executed);
    rpc_result_done(&result);
    close(fd);
    scene_stop(s);
}

static void test_an_upstream_that_is_down_is_left_alone_until_it_is_back(void **state)
{
    static const struct step script[] = {{.what = WELL}, {.what = END}};
    enum { ASKED_MAX = 8, CALLS = 100 };
    struct scene *s = *state;
    struct rpc_result result;
    char settings[192];
    int fd = reserve_port(settings, sizeof settings - 32);
    int n_asked = 0, n_not = 0;

    strcat(settings, "max_retries = 0\n");
    start(s, script, settings);
    for (int i = 0; i < CALLS; i++) {
        call(s, RPC_CREATE, -1, &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE");
        if (result.detail->attempts > 0) {
            n_asked++;
        } else {
            n_not++;
            rpc_assert_said(&result, "was not asked");
            assert_true(result.detail->retry_after_ms > 0);
            assert_true(result.detail->retry_after_ms <= 1000);
        }
        rpc_result_done(&result);
    }
    assert_true(n_asked >= ASKED_MAX);
    assert_true(n_not > 0);
    daemon_assert_logged(&s->daemon, "can't be reached");

    /* It comes back: the call that finds out is answered, and all that follow. */
    assert_int_equal(listen(fd, 16), 0);
    bool found = false;
    int64_t give_up = harness_now_ms() + HARNESS_TIMEOUT_MS;
    while (!found && harness_now_ms() < give_up) {
        rpc_request request = rpc_request_new("m", "CANARY prompt");
        struct grpc_client_call *asked = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
        struct fake_connection c = {.fake = s->fake, .fd = -1};
        while (!grpc_client_call_is_ended(asked) && !found) {
            rpc_turn(&s->rpc, 10);
            c.fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK);
            found = c.fd >= 0;
        }
        if (found)
            close(c.fd);
        rpc_finish(&s->rpc, asked, &result);
        rpc_result_done(&result);
    }
    assert_true(found);
    daemon_assert_logged(&s->daemon, "can be reached again");
    close(fd);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statuses_that_pass_are_not_seen),
        scene_test(test_a_third_failure_is_told),
        cmocka_unit_test(test_what_no_repetition_helps_is_asked_once),
        scene_test(test_the_upstream_may_ask_to_be_asked_again),
        scene_test(test_a_wait_beyond_the_deadline_is_not_begun),
        scene_test(test_a_caller_that_leaves_while_waiting_is_forgotten),
        scene_test(test_a_request_whose_fate_is_unknown),
        scene_test(test_a_request_whose_fate_is_unknown_and_resend_is_no),
        scene_test(test_a_connection_that_died_in_the_pool),
        scene_test(test_a_connection_that_died_in_the_pool_and_resend_is_no),
        scene_test(test_an_upstream_that_says_nothing),
        scene_test(test_an_error_before_the_first_chunk_is_not_seen),
        scene_test(test_nothing_is_repeated_after_the_first_chunk),
        scene_test(test_nobody_listens),
        scene_test(test_an_upstream_that_is_down_is_left_alone_until_it_is_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
