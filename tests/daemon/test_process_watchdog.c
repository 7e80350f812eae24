/*
 * The watchdog: fed by the event loop alone, often enough, whatever else the daemon does.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"

enum { INTERVAL_MS = 2000, SHORT_INTERVAL_MS = 900, TIMES = 3 };

#define WATCHDOG(ms) "WATCHDOG_USEC=" #ms "000"

static void start(struct scene *s, fake_handler handler, const char *watchdog, const char *settings)
{
    const char *environment[] = {watchdog, NULL};

    scene_prepare(s, handler, NULL, settings);
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
}

/* Takes what was said so far. Returns how often it was the watchdog's word. */
static unsigned take(struct daemon *d)
{
    char text[256];
    unsigned n_fed = 0;
    ssize_t n;

    while ((n = recv(d->notify, text, sizeof text - 1, MSG_DONTWAIT)) > 0) {
        text[n] = '\0';
        n_fed += strncmp(text, "WATCHDOG=1", 10) == 0;
    }
    return n_fed;
}

/* Milliseconds until it is fed again. c may be NULL. */
static int64_t await_feeding(struct daemon *d, struct crowd *c)
{
    struct pollfd fd = {d->notify, POLLIN, 0};
    int64_t began_ms = harness_now_ms();

    do {
        if (c)
            crowd_turn(c, 1);
        else
            poll(&fd, 1, HARNESS_TIMEOUT_MS);
    } while (take(d) == 0 && harness_now_ms() - began_ms < HARNESS_TIMEOUT_MS);
    return harness_now_ms() - began_ms;
}

static void test_idle_daemon_feeds_it(void **state)
{
    struct scene *s = *state;

    start(s, crowd_serve, WATCHDOG(2000), NULL);
    for (int i = 0; i < TIMES; i++)
        assert_true(await_feeding(&s->daemon, NULL) < INTERVAL_MS / 2);
    /* And `systemctl status` hears what it does. */
    daemon_await(&s->daemon, "STATUS=Serving: 1 connections, 0 calls running, 0 waiting");
    scene_stop(s);
}

static void test_busy_daemon_feeds_it(void **state)
{
    struct scene *s = *state;

    start(s, crowd_serve, WATCHDOG(2000), NULL);
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 32,
        .n_calls = 8,
        .seed = 1,
        .streamed = 50,
    });
    for (int i = 0; i < TIMES; i++)
        assert_true(await_feeding(&s->daemon, c) < INTERVAL_MS / 2);
    assert_true(crowd_settle(c));
    crowd_free(c);
    scene_stop(s);
}

static void stall(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")))
        fake_wait_for_close(c);
}

/* Else a drain that takes longer than the interval would be ended by the service manager. */
static void test_draining_daemon_feeds_it(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    start(s, stall, WATCHDOG(2000), "[daemon]\ndrain_timeout = 10min\n");
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, call));
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    for (int i = 0; i < TIMES; i++)
        assert_true(await_feeding(&s->daemon, NULL) < INTERVAL_MS / 2);
    grpc_client_call_free(call);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
}

/* ---- The loop hangs ---- */

static unsigned n_threads(const struct daemon *d)
{
    char path[64];
    unsigned n = 0;

    snprintf(path, sizeof path, "/proc/%d/task", (int)d->pid);
    DIR *tasks = opendir(path);
    assert_non_null(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));)
        n += entry->d_name[0] != '.';
    closedir(tasks);
    return n;
}

static void test_stopped_daemon_does_not_feed_it(void **state)
{
    struct scene *s = *state;
    int status;

    start(s, crowd_serve, WATCHDOG(900), NULL);
    await_feeding(&s->daemon, NULL);
    /* There is no other thread that could: what workers there are only answer. */
    if (!HARNESS_HAS_TSAN) /* it has one of its own */
        assert_int_equal(n_threads(&s->daemon), daemon_n_workers());
    daemon_signal(&s->daemon, SIGSTOP);
    assert_int_equal(waitpid(s->daemon.pid, &status, WUNTRACED), s->daemon.pid);
    take(&s->daemon);
    struct pollfd fd = {s->daemon.notify, POLLIN, 0};
    assert_int_equal(poll(&fd, 1, SHORT_INTERVAL_MS), 0);
    daemon_signal(&s->daemon, SIGCONT);
    assert_true(await_feeding(&s->daemon, NULL) < HARNESS_TIMEOUT_MS);
    scene_assert_serving(s);
    scene_stop(s);
}

/* ---- The service manager ---- */

static void expect_answer(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

/* A service manager that is stuck gets no more than its queue holds, and holds up nobody. */
static void test_reader_that_is_stuck_does_not_hang_the_loop(void **state)
{
    struct scene *s = *state;
    struct pollfd full = {.events = POLLOUT};
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    start(s, crowd_serve, WATCHDOG(30), NULL);
    full.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", s->daemon.directory.path);
    assert_int_equal(connect(full.fd, (struct sockaddr *)&address, sizeof address), 0);
    /* So that it is full now, and not after hours. */
    while (send(full.fd, "X=1", 3, 0) == 3)
        ;
    assert_int_equal(poll(&full, 1, 0), 0);
    for (int i = 0; i < 20; i++)
        expect_answer(s);
    daemon_signal(&s->daemon, SIGHUP);
    expect_answer(s);
    close(full.fd);
    await_feeding(&s->daemon, NULL);
    scene_stop(s);
}

/* Silent at once, and not after a while: whoever does not ask is never told. */
static void test_nobody_asked_for_it(void **state)
{
    static const char *const variables[] = {
        "NOTHING=1", "WATCHDOG_USEC=", "WATCHDOG_USEC=0", "WATCHDOG_USEC=soon", "WATCHDOG_USEC=-1",
    };
    struct scene *s = *state;
    const char *environment[] = {NULL, NULL, NULL};

    scene_prepare(s, crowd_serve, NULL, NULL);
    for (size_t i = 0; i <= sizeof variables / sizeof *variables; i++) {
        bool others = i == sizeof variables / sizeof *variables;
        environment[0] = others ? WATCHDOG(30) : variables[i];
        environment[1] = others ? "WATCHDOG_PID=1" : NULL;
        daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
        rpc_connect(&s->rpc, s->daemon.socket);
        for (int k = 0; k < 20; k++)
            expect_answer(s);
        assert_int_equal(take(&s->daemon), 0);
        scene_stop(s);
        assert_int_equal(take(&s->daemon), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_idle_daemon_feeds_it),
        scene_test(test_busy_daemon_feeds_it),
        scene_test(test_draining_daemon_feeds_it),
        scene_test(test_stopped_daemon_does_not_feed_it),
        scene_test(test_reader_that_is_stuck_does_not_hang_the_loop),
        scene_test(test_nobody_asked_for_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
