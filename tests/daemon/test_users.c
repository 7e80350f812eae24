/*
 * Users beside one another: who somebody is was settled when the connection was made, and nobody
 * learns of others what they may do or have done, gets their answers, or ends their calls.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw.h"
#include "scene.h"

enum { ALICE = 12341, BOB = 12342 };

/* The answer says which request it is to. A prompt of "wait" waits for FAKE_GO. */
static void count_requests(struct fake_connection *c)
{
    char text[256];

    while (fake_read_request(c)) {
        unsigned n = fake_count(c->fake, FAKE_REQUESTED);
        fake_mark(c->fake, FAKE_STEP);
        if (strstr(c->body, "\"stream\":true")) {
            if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("half")) ||
                !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("whole")) ||
                !fake_stream_done(c))
                return;
            continue;
        }
        if (strstr(c->body, "\"wait\"") && !fake_await(c->fake, FAKE_GO, 1))
            return;
        snprintf(text, sizeof text, FAKE_LAST("%u"), n);
        if (!fake_answer(c, 200, "application/json", "", text))
            return;
    }
}

static void start(struct scene *s, const char *settings)
{
    if (geteuid() != 0)
        skip(); /* only root is several users */
    scene_start(s, count_requests, NULL, settings);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_int_equal(chmod(s->daemon.directory.path, 0755), 0);
}

static void connect_as(struct scene *s, uid_t uid, struct rpc *ret)
{
    assert_int_equal(seteuid(uid), 0);
    rpc_connect(ret, s->daemon.socket);
    assert_int_equal(seteuid(0), 0);
}

static void open_as(struct scene *s, uid_t uid, struct raw *ret)
{
    assert_int_equal(seteuid(uid), 0);
    raw_open(ret, s->daemon.socket);
    assert_int_equal(seteuid(0), 0);
    peer_hello(&ret->sent);
}

static void await_log(struct scene *s, const char *text)
{
    int64_t start_ms = harness_now_ms();
    char *log;

    while (!strstr(log = daemon_log(&s->daemon), text)) {
        free(log);
        if (harness_now_ms() - start_ms > HARNESS_TIMEOUT_MS)
            fail_msg("\"%s\" is not logged", text);
        scene_assert_serving(s);
    }
    free(log);
}

/* ---- Who connected ---- */

/* A process of this user calls on a connection that it was given. */
static void send_as(uid_t uid, struct raw *r)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(setgid(uid) < 0 || setuid(uid) < 0 || !raw_send(r));
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    buffer_done(&r->sent);
}

static void test_connection_that_is_passed_on_stays_its_makers(void **state)
{
    struct scene *s = *state;
    struct raw alices, bobs;

    start(s, "\n[policy user:12341]\nmodels = others\n[policy *]\nmodels = *\n");
    open_as(s, ALICE, &alices);
    raw_append_call(&alices.sent, 1, RPC_CREATE);
    send_as(BOB, &alices);
    raw_await(&alices, "grpc-status: 7\ngrpc-message: [policy user:12341] does not allow");
    await_log(s, "method=" RPC_CREATE " uid=12341 status=PERMISSION_DENIED reason=NOT_ALLOWED");

    open_as(s, BOB, &bobs);
    raw_append_call(&bobs.sent, 1, RPC_CREATE);
    send_as(ALICE, &bobs);
    raw_await(&bobs, "grpc-status: 0");
    await_log(s, "method=" RPC_CREATE " uid=12342 status=OK");
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    raw_close(&alices);
    raw_close(&bobs);
    scene_stop(s);
}

/* ---- What others are told ---- */

/* All of an answer but its id. */
static char *answer_to(struct rpc *r, const char *model)
{
    rpc_request request = rpc_request_new(model, "p");
    struct rpc_result result;
    char *text;

    rpc_call(r, RPC_CREATE, &request, &result);
    assert_non_null(result.detail);
    result.detail->has_call_id = false;
    size_t len = completion__v1__error_detail__get_packed_size(result.detail);
    uint8_t packed[1024];
    assert_true(len <= sizeof packed);
    completion__v1__error_detail__pack(result.detail, packed);
    int n = asprintf(&text, "%d %s ", (int)result.status, result.message);
    assert_true(n > 0);
    text = realloc(text, (size_t)n + 2 * len + 1);
    assert_non_null(text);
    for (size_t i = 0; i < len; i++)
        snprintf(text + n + 2 * i, 3, "%02x", packed[i]);
    rpc_result_done(&result);
    return text;
}

static void expect_same(struct rpc *r, const char *model, const char *expected)
{
    char *text = answer_to(r, model);

    assert_string_equal(text, expected);
    free(text);
}

/* Bob may ask for neither of these: one is Alice's, one is served and nobody's, one is nowhere. */
static void expect_all_same(struct rpc *bob, const char *expected)
{
    static const char *const models[] = {"alices-1", "alices-2", "served", "nowhere"};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        expect_same(bob, models[i], expected);
}

static void test_nobody_learns_what_others_may_do_or_have_done(void **state)
{
    struct scene *s = *state;
    struct rpc alice = {.fd = -1}, bob = {.fd = -1};
    struct rpc_result result;

    start(s, "models = alices-* served open-*\n[policy user:12341]\nmodels = alices-*\n"
             "max_concurrent = 1\nrequests_per_minute = 2\n[policy *]\nmodels = open-* public-*\n");
    connect_as(s, BOB, &bob);
    char *denied = answer_to(&bob, "alices-1"), *unserved = answer_to(&bob, "public-1");
    assert_int_equal(atoi(denied), GRPC_PERMISSION_DENIED);
    assert_int_equal(atoi(unserved), GRPC_NOT_FOUND);
    expect_all_same(&bob, denied);

    /* While she calls, and once she has had all that she may. */
    connect_as(s, ALICE, &alice);
    rpc_request request = rpc_request_new("alices-1", "wait");
    struct grpc_client_call *call = rpc_start(&alice, RPC_CREATE, &request, -1);
    rpc_turn(&alice, 0);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    expect_all_same(&bob, denied);
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&alice, call, &result);
    rpc_assert_ok(&result, "1");
    rpc_result_done(&result);
    request = rpc_request_new("alices-2", "p");
    for (int i = 0; i < 2; i++) {
        rpc_call(&alice, RPC_CREATE, &request, &result);
        assert_int_equal(result.status, i ? GRPC_RESOURCE_EXHAUSTED : GRPC_OK);
        rpc_result_done(&result);
    }
    expect_all_same(&bob, denied);
    expect_same(&bob, "public-1", unserved);
    rpc_close(&alice);
    expect_all_same(&bob, denied);
    expect_same(&bob, "public-1", unserved);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 2);
    free(denied);
    free(unserved);
    rpc_close(&bob);
    scene_stop(s);
}

/* ---- Calls of others ---- */

static void test_calls_of_others_are_out_of_reach(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc alice = {.fd = -1};
    struct rpc_result result;
    struct raw bob;

    start(s, NULL);
    connect_as(s, ALICE, &alice);
    struct grpc_client_call *call = rpc_start(&alice, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&alice, call)); /* her connection's stream 1 */

    /* Whatever Bob says of stream 1 is of his own, which he has not opened, or has ended. */
    for (int i = 0; i < 2; i++) {
        open_as(s, BOB, &bob);
        if (i == 1)
            raw_append_call(&bob.sent, 1, RPC_CREATE);
        peer_reset(&bob.sent, 1, NGHTTP2_CANCEL);
        peer_window(&bob.sent, 1, 1000);
        peer_reset(&bob.sent, 1, NGHTTP2_CANCEL);
        (void)raw_send(&bob);
        scene_assert_serving(s);
        raw_close(&bob);
        scene_assert_serving(s);
    }
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&alice, call, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    rpc_close(&alice);
    scene_stop(s);
}

static void test_the_same_question_is_asked_for_each(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "the same question");
    struct rpc callers[2];

    start(s, NULL);
    connect_as(s, ALICE, &callers[0]);
    connect_as(s, BOB, &callers[1]);
    request.has_seed = true;
    request.seed = 7;
    for (int i = 0; i < 4; i++) {
        struct rpc_result result;
        char expected[] = {(char)('1' + i), '\0'};
        rpc_call(&callers[i % 2], RPC_CREATE, &request, &result);
        rpc_assert_ok(&result, expected);
        rpc_result_done(&result);
    }
    rpc_close(&callers[0]);
    rpc_close(&callers[1]);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_connection_that_is_passed_on_stays_its_makers),
        scene_test(test_nobody_learns_what_others_may_do_or_have_done),
        scene_test(test_calls_of_others_are_out_of_reach),
        scene_test(test_the_same_question_is_asked_for_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
