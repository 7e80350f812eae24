/*
 * idle_exit: a daemon whose sockets the service manager keeps ends when nobody is there, and nobody
 * who comes then is refused.
 *
 * That something does not end is shown by a second daemon, begun later with the same idle_exit and
 * nobody there, which does.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grpc_health.h"
#include "scene.h"

#define SOON  "[daemon]\nidle_exit = 300ms\n"
#define NEVER "[daemon]\nidle_exit = infinity\n"
#define ELSEWHERE                                                                                  \
    "[daemon]\nlog_level = debug\nidle_exit = 300ms\n"                                             \
    "[upstream u]\nbase_url = http://127.0.0.1:1/v1\nauth = none\n"

/* Begins a stream, and ends it when the test says so; answers other calls. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                   !fake_stream_done(c)) {
            return;
        }
    }
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

/* As the service manager starts it; returns the socket that it keeps. */
static int activate(struct scene *s, const char *settings)
{
    int fd = listen_on(s->daemon.socket);

    scene_prepare(s, serve, NULL, settings);
    daemon_start(&s->daemon, &(struct daemon_options){.listen_fd = fd, .no_listen = true});
    return fd;
}

/* A daemon with nobody there has been idle for as long as it may, from now on. */
static void let_idle_exit_pass(void)
{
    struct daemon other;

    daemon_init(&other, ELSEWHERE);
    int fd = listen_on(other.socket);
    daemon_start(&other, &(struct daemon_options){.listen_fd = fd, .no_listen = true});
    daemon_wait_exit(&other, 0);
    daemon_done(&other);
    close(fd);
}

static void expect_answer(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
}

static void test_daemon_that_nobody_calls_ends_well(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);

    daemon_await(&s->daemon, "STOPPING=1");
    daemon_wait_exit(&s->daemon, 0);
    daemon_assert_logged(&s->daemon, "nobody has been connected for idle_exit");
    close(fd);
}

static void test_time_begins_when_the_last_caller_has_gone(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);

    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    int64_t gone_ms = harness_now_ms();
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
    assert_true(harness_now_ms() - gone_ms >= 300);
    close(fd);
}

static void test_caller_without_a_call_holds_it(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);

    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    let_idle_exit_pass();
    expect_answer(&s->rpc);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

static void test_running_call_holds_it(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_connect(&s->rpc, s->daemon.socket);
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, call));
    let_idle_exit_pass();
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

/* Whenever they come: the one that goes leaves them to the next. */
static void test_callers_who_come_at_the_end_are_served(void **state)
{
    enum { ROUNDS = 20 };
    struct scene *s = *state;
    int fd = activate(s, "[daemon]\nidle_exit = 1ms\n");

    for (int i = 0; i < ROUNDS; i++) {
        rpc_connect(&s->rpc, s->daemon.socket);
        /* It has gone without accepting, or is about to: what systemd does is to start the next. */
        while (!rpc_turn(&s->rpc, 1)) {
            siginfo_t info = {0};
            waitid(P_PID, (id_t)s->daemon.pid, &info, WEXITED | WNOHANG | WNOWAIT);
            if (info.si_pid == 0)
                continue;
            daemon_wait_exit(&s->daemon, 0);
            daemon_start(&s->daemon, &(struct daemon_options){.listen_fd = fd, .no_listen = true});
        }
        expect_answer(&s->rpc);
        rpc_close(&s->rpc);
    }
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

/* A daemon that is started for somebody serves him before it looks whether anybody is there. */
static void test_no_time_at_all_is_enough_for_who_waits(void **state)
{
    struct scene *s = *state;
    int fd = listen_on(s->daemon.socket);

    scene_prepare(s, serve, NULL, "[daemon]\nidle_exit = 0\n");
    rpc_connect(&s->rpc, s->daemon.socket);
    daemon_start(&s->daemon, &(struct daemon_options){.listen_fd = fd, .no_listen = true});
    expect_answer(&s->rpc);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

/* Who only watches its health is told that it goes. */
static void test_watcher_does_not_hold_it(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);
    const uint8_t *message;
    size_t len;

    rpc_connect(&s->rpc, s->daemon.socket);
    struct grpc_client_call *call =
        rpc_start_raw(&s->rpc, GRPC_HEALTH_WATCH_PATH, NULL, 0, -1, NULL, 0);
    while (grpc_client_call_next(call, &message, &len) == 0)
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
    expect_answer(&s->rpc);
    int64_t answered_ms = harness_now_ms();
    while (!grpc_client_call_is_ended(call))
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
    assert_true(harness_now_ms() - answered_ms >= 300);
    assert_int_equal(grpc_client_call_status(call), GRPC_UNAVAILABLE);
    grpc_client_call_free(call);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

/* Other calls beside its watch hold it, and so do other connections. */
static void test_watcher_with_a_call_holds_it(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, SOON);
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_connect(&s->rpc, s->daemon.socket);
    struct grpc_client_call *watch =
        rpc_start_raw(&s->rpc, GRPC_HEALTH_WATCH_PATH, NULL, 0, -1, NULL, 0);
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, call));
    let_idle_exit_pass();
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    assert_false(grpc_client_call_is_ended(watch));

    struct rpc other;
    rpc_connect(&other, s->daemon.socket);
    expect_answer(&other);
    let_idle_exit_pass();
    expect_answer(&s->rpc);
    assert_false(grpc_client_call_is_ended(watch));
    rpc_close(&other);
    grpc_client_call_free(watch);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

static void test_daemon_with_sockets_of_its_own_stays(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, SOON);
    rpc_close(&s->rpc);
    let_idle_exit_pass();
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    scene_stop(s);
}

static void test_reload_changes_it(void **state)
{
    struct scene *s = *state;
    int fd = activate(s, NEVER);

    let_idle_exit_pass();
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    rpc_close(&s->rpc);
    daemon_configure(&s->daemon, ELSEWHERE);
    daemon_signal(&s->daemon, SIGHUP);
    daemon_wait_exit(&s->daemon, 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_daemon_that_nobody_calls_ends_well),
        scene_test(test_time_begins_when_the_last_caller_has_gone),
        scene_test(test_caller_without_a_call_holds_it),
        scene_test(test_running_call_holds_it),
        scene_test(test_callers_who_come_at_the_end_are_served),
        scene_test(test_no_time_at_all_is_enough_for_who_waits),
        scene_test(test_watcher_does_not_hold_it),
        scene_test(test_watcher_with_a_call_holds_it),
        scene_test(test_daemon_with_sockets_of_its_own_stays),
        scene_test(test_reload_changes_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
