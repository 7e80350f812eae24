/* Status/Get: what goes on, to those who may know. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "completion/v1/status.pb-c.h"
#include "scene.h"

#define STATUS_GET "/completion.v1.Status/Get"

enum { ALICE = 12341, BOB = 12342 };

typedef Completion__V1__GetStatusResponse status_response;

/* Waits until the test has said go. */
static void serve_when_told(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        fake_mark(c->fake, FAKE_STEP);
        if (!fake_await(c->fake, FAKE_GO, 1) ||
            !fake_answer(c, 200, "application/json", "", FAKE_LAST("a")))
            return;
    }
}

static void serve_or_fail(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool bad = strstr(c->body, "\"bad\"");
        if (!fake_answer(c, bad ? 500 : 200, "application/json", "",
                         bad ? "{\"error\":{\"message\":\"CANARY\"}}" : FAKE_LAST("a")))
            return;
    }
}

/* To be freed. */
static status_response *get(struct rpc *r)
{
    const uint8_t *message;
    size_t len;
    struct grpc_client_call *call = rpc_start_raw(r, STATUS_GET, NULL, 0, -1, NULL, 0);

    while (!grpc_client_call_is_ended(call))
        if (!rpc_turn(r, HARNESS_TIMEOUT_MS))
            fail_msg("the status is not told");
    assert_int_equal(grpc_client_call_status(call), GRPC_OK);
    assert_int_equal(grpc_client_call_next(call, &message, &len), 1);
    assert_null(memmem(message, len, "CANARY", 6));
    assert_null(memmem(message, len, "sk-", 3));
    status_response *s = completion__v1__get_status_response__unpack(NULL, len, message);
    assert_non_null(s);
    grpc_client_call_free(call);
    return s;
}

static void done(status_response *s)
{
    completion__v1__get_status_response__free_unpacked(s, NULL);
}

static int64_t calls_with(const Completion__V1__UpstreamStatus *u, int status)
{
    for (size_t i = 0; i < u->n_calls; i++)
        if (u->calls[i]->status == status)
            return u->calls[i]->n;
    return 0;
}

static const Completion__V1__UserStatus *user_of(const status_response *s, uid_t uid)
{
    for (size_t i = 0; i < s->n_users; i++)
        if (s->users[i]->uid == uid)
            return s->users[i];
    return NULL;
}

static void call(struct scene *s, const char *model)
{
    rpc_request request = rpc_request_new(model, "CANARY");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_result_done(&result);
}

static void test_numbers_are_what_happened(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve_or_fail, NULL, "models = *");
    status_response *r = get(&s->rpc);
    assert_int_equal(r->pid, s->daemon.pid);
    assert_false(r->draining);
    assert_true(r->uptime_us > 0 && r->config_time_us > 0);
    assert_int_equal(r->connections, 1);
    assert_false(r->has_last_reload);
    assert_int_equal(r->memory_limit_bytes, 256 << 20);
    assert_int_equal(r->n_upstreams, 1);
    assert_int_equal(r->upstreams[0]->n_calls, 0);
    assert_false(r->upstreams[0]->has_first_byte_p50_us);
    assert_false(r->upstreams[0]->has_reuse_ratio);
    done(r);

    for (int i = 0; i < 8; i++)
        call(s, "m");
    call(s, "bad");
    r = get(&s->rpc);
    const Completion__V1__UpstreamStatus *u = r->upstreams[0];
    rpc_assert_text(u, name, "fake");
    rpc_assert_text(u, base_url, fake_base_url(s->fake));
    assert_int_equal(u->state, COMPLETION__V1__UPSTREAM_STATE__UPSTREAM_STATE_OK);
    assert_int_equal(calls_with(u, GRPC_OK), 8);
    assert_int_equal(calls_with(u, GRPC_INTERNAL), 1);
    assert_int_equal(u->connections_opened, fake_count(s->fake, FAKE_ACCEPTED));
    assert_int_equal(u->connections_opened + u->connections_reused, 9);
    assert_true(u->reuse_ratio > 0 && u->reuse_ratio < 1);
    assert_true(u->first_byte_p50_us > 0 && u->first_byte_p50_us <= u->first_byte_p95_us);
    assert_true(u->total_p50_us > 0 && u->total_p50_us <= u->total_p95_us);
    assert_int_equal(u->running + u->queued, 0);
    done(r);
    scene_stop(s);
}

static void test_calls_that_run_and_wait_are_seen(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY");
    struct grpc_client_call *calls[3];
    struct rpc_result result;

    scene_start(s, serve_when_told, NULL,
                "max_concurrent = 1\n[policy *]\nrequests_per_minute = 1000\n");
    for (size_t i = 0; i < 3; i++)
        calls[i] = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    status_response *r = get(&s->rpc);
    const Completion__V1__UserStatus *me = user_of(r, geteuid());
    assert_int_equal(r->upstreams[0]->running, 1);
    assert_int_equal(r->upstreams[0]->queued, 2);
    assert_int_equal(me->running, 1);
    assert_int_equal(me->queued, 2);
    assert_int_equal(me->connections, 1);
    assert_true(me->memory_used_bytes > 0 && me->memory_used_bytes < me->memory_limit_bytes);
    assert_in_range(me->requests_left, 997, 1000);
    assert_false(me->has_tokens_left);
    done(r);
    fake_mark(s->fake, FAKE_GO);
    for (size_t i = 0; i < 3; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_ok(&result, "a");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

/* A user as another: who calls is what it was when it connected. */
static void connect_as(struct scene *s, uid_t uid, struct rpc *ret)
{
    assert_int_equal(seteuid(uid), 0);
    rpc_connect(ret, s->daemon.socket);
    assert_int_equal(seteuid(0), 0);
}

static void test_others_see_only_themselves(void **state)
{
    struct scene *s = *state;
    struct rpc alice, bob;

    if (geteuid() != 0) {
        print_message("skipped: only root can call as somebody else\n");
        skip();
    }
    scene_start(s, serve_or_fail, NULL, NULL);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_int_equal(chmod(s->daemon.directory.path, 0755), 0);
    connect_as(s, ALICE, &alice);
    connect_as(s, BOB, &bob);
    status_response *r = get(&bob);
    assert_int_equal(r->n_users, 1);
    assert_non_null(user_of(r, BOB));
    done(r);
    r = get(&alice);
    assert_int_equal(r->n_users, 1);
    assert_non_null(user_of(r, ALICE));
    done(r);
    r = get(&s->rpc);
    assert_int_equal(r->n_users, 3);
    assert_int_equal(r->connections, 3);
    assert_non_null(user_of(r, ALICE));
    assert_non_null(user_of(r, BOB));
    assert_non_null(user_of(r, 0));
    done(r);
    rpc_close(&alice);
    rpc_close(&bob);
    scene_stop(s);
}

static void test_reloads_are_told(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve_or_fail, NULL, NULL);
    call(s, "m");
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "READY=1");
    status_response *r = get(&s->rpc);
    assert_int_equal(r->last_reload, COMPLETION__V1__RELOAD_RESULT__RELOAD_RESULT_OK);
    assert_true(r->last_reload_time_us >= r->config_time_us);
    /* Counts are those of the name. */
    assert_int_equal(calls_with(r->upstreams[0], GRPC_OK), 1);
    int64_t config_time_us = r->config_time_us;
    done(r);
    daemon_configure(&s->daemon, "[nonsense\n");
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "STATUS=Serving; the last reload failed");
    r = get(&s->rpc);
    assert_int_equal(r->last_reload, COMPLETION__V1__RELOAD_RESULT__RELOAD_RESULT_FAILED);
    assert_int_equal(r->config_time_us, config_time_us);
    done(r);
    scene_stop(s);
}

static void test_an_upstream_that_is_down_is_told(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve_or_fail, NULL, "base_url = http://127.0.0.1:1/v1");
    for (int i = 0; i < 8; i++)
        call(s, "m");
    status_response *r = get(&s->rpc);
    assert_int_equal(r->upstreams[0]->state,
                     COMPLETION__V1__UPSTREAM_STATE__UPSTREAM_STATE_UNREACHABLE);
    rpc_assert_text(r->upstreams[0], base_url, "http://127.0.0.1:1/v1");
    done(r);
    scene_stop(s);
}

static void test_nonsense_is_refused(void **state)
{
    struct scene *s = *state;
    static const uint8_t nonsense[] = {0x0a, 0x7f};

    scene_start(s, serve_or_fail, NULL, NULL);
    struct grpc_client_call *call =
        rpc_start_raw(&s->rpc, STATUS_GET, nonsense, sizeof nonsense, -1, NULL, 0);
    struct rpc_result result;
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_failed(&result, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST");
    rpc_result_done(&result);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_numbers_are_what_happened),
        scene_test(test_calls_that_run_and_wait_are_seen),
        scene_test(test_others_see_only_themselves),
        scene_test(test_reloads_are_told),
        scene_test(test_an_upstream_that_is_down_is_told),
        scene_test(test_nonsense_is_refused),
    };

    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
