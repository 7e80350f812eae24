/*
 * Callers that go away, a thousand of them, in every state of a call and in every way that a
 * process can: each time the upstream's connection is closed at once, and nothing is left behind.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

/* Half of them; all within what sanitizers and busy machines take. */
enum { MEDIAN_MAX_MS = 100, LONGEST_MAX_MS = 5000, QUIET_MS = 300, FLOOD_MAX = 1 << 20 };
/* More at once would have the daemon make another handle of libcurl, which it keeps. */
enum { ROUNDS = 1000, PAUSED_AT_ONCE = 30 };

/* ---- States ---- */

enum state { WAITING, HEADERS, STREAMING, HALF_BODY, PAUSED };

static const struct {
    enum state state;
    const char *path;
} states[] = {
    {WAITING, RPC_CREATE_STREAM},   {WAITING, RPC_CREATE},   {HEADERS, RPC_CREATE_STREAM},
    {STREAMING, RPC_CREATE_STREAM}, {HALF_BODY, RPC_CREATE},
};
enum { N_STATES = sizeof states / sizeof *states };

static bool write_until_nobody_takes_it(struct fake_connection *c)
{
    static const char event[] = "data: " FAKE_PART("CANARY text of some length") "\n\n";
    char chunk[512];
    int n = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", sizeof event - 1, event);

    for (int i = 0; i < FLOOD_MAX; i++)
        if (fake_write_some(c, chunk, (size_t)n, QUIET_MS) < (size_t)n)
            return true;
    return false;
}

static bool reach(struct fake_connection *c, enum state state)
{
    switch (state) {
    case WAITING:
        return true;
    case HEADERS:
        return fake_stream_begin(c);
    case STREAMING:
        return fake_stream_begin(c) && fake_event(c, FAKE_PART("a"));
    case HALF_BODY:
        return fake_print(c, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{\"id\":\"");
    case PAUSED:
        return fake_stream_begin(c) && write_until_nobody_takes_it(c);
    }
    return false;
}

/* Brings each call to the state that user points to, and tells when its caller has gone. */
static void bring_to_state(struct fake_connection *c)
{
    const enum state *state = c->user;

    if (fake_read_request(c) && reach(c, *state)) {
        fake_mark(c->fake, FAKE_STEP);
        fake_wait_for_close(c);
    }
}

/* ---- Ways to go ---- */

enum way { CLOSE, SHUT_DOWN, HALF_THEN_WHOLE, KILLED, N_WAYS };

/* The kernel closes the connection of a process that dies: here one that has it, and nothing else
 * to do. Of the test's other connections it must have none. */
static void die_with(struct rpc *r)
{
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    assert_true(pid > 0);
    rpc_close(r);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void go_away(struct scene *s, struct rpc *r, enum way way)
{
    switch (way) {
    case SHUT_DOWN:
        assert_int_equal(shutdown(r->fd, SHUT_RDWR), 0);
        return;
    case KILLED:
        die_with(r);
        return;
    case HALF_THEN_WHOLE:
        assert_int_equal(shutdown(r->fd, SHUT_WR), 0);
        scene_assert_serving(s);
        break;
    case CLOSE:
    case N_WAYS:
        break;
    }
    rpc_close(r);
}

/* ---- Tests ---- */

static int compare_times(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

static void check_times(const char *what, int64_t *times_ms, size_t n)
{
    qsort(times_ms, n, sizeof *times_ms, compare_times);
    print_message(
        "%s: closed after %d ms in the middle, %d ms of a hundred's last, %d ms at most\n", what,
        (int)times_ms[n / 2], (int)times_ms[n - 1 - n / 100], (int)times_ms[n - 1]);
    assert_in_range(times_ms[n / 2], 0, MEDIAN_MAX_MS);
    assert_in_range(times_ms[n - 1], 0, LONGEST_MAX_MS);
}

static void await_descriptors(struct scene *s, int expected)
{
    int64_t start_ms = harness_now_ms();

    while (daemon_n_descriptors(&s->daemon) > expected) {
        if (harness_now_ms() - start_ms > HARNESS_TIMEOUT_MS)
            fail_msg("%d descriptors, not %d", daemon_n_descriptors(&s->daemon), expected);
        scene_assert_serving(s);
    }
}

static int64_t come_and_go(struct scene *s, unsigned i, enum way way)
{
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc caller;

    rpc_connect(&caller, s->daemon.socket);
    struct grpc_client_call *call = rpc_start(&caller, states[i % N_STATES].path, &request, -1);
    if (!fake_await(s->fake, FAKE_STEP, i + 1))
        fail_msg("the state of call %u is not reached", i);
    if (states[i % N_STATES].state == STREAMING)
        rpc_completion_free(rpc_next(&caller, call));
    int64_t start_ms = harness_now_ms();
    go_away(s, &caller, way);
    if (!fake_await(s->fake, FAKE_CLOSED, i + 1))
        fail_msg("the upstream's connection of call %u is not closed", i);
    int64_t took_ms = fake_closed_at_ms(s->fake) - start_ms;
    grpc_client_call_free(call);
    rpc_close(&caller);
    return took_ms;
}

static void test_a_thousand_callers_go_away(void **state)
{
    /* What is freed shall not count. */
    static const char *const environment[] = {"ASAN_OPTIONS=quarantine_size_mb=1", NULL};
    struct scene *s = *state;
    enum state now = WAITING;
    static int64_t times_ms[ROUNDS];
    long before_kib = 0;

    scene_prepare(s, bring_to_state, &now, NULL);
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < ROUNDS; i++) {
        now = states[i % N_STATES].state;
        times_ms[i] = come_and_go(s, i, i / N_STATES % N_WAYS);
        if (i == ROUNDS / 4)
            before_kib = daemon_rss_kib(&s->daemon);
    }
    check_times("1000 callers", times_ms, ROUNDS);
    await_descriptors(s, before);
    long more_kib = daemon_rss_kib(&s->daemon) - before_kib;
    if (more_kib > 4096)
        fail_msg("%ld KiB more", more_kib);
    scene_stop(s);
}

/* It takes a while until nobody takes anything, and so all of them wait for it together. */
static void test_paused_callers_go_away(void **state)
{
    struct scene *s = *state;
    enum state now = PAUSED;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc callers[PAUSED_AT_ONCE];
    struct grpc_client_call *calls[PAUSED_AT_ONCE];
    int64_t times_ms[PAUSED_AT_ONCE];

    scene_start(s, bring_to_state, &now, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < PAUSED_AT_ONCE; i++) {
        rpc_connect(&callers[i], s->daemon.socket);
        calls[i] = rpc_start(&callers[i], RPC_CREATE_STREAM, &request, -1);
        rpc_turn(&callers[i], 0);
    }
    assert_true(fake_await(s->fake, FAKE_STEP, PAUSED_AT_ONCE));
    for (unsigned i = 0; i < PAUSED_AT_ONCE; i++) {
        /* A child would keep the connections that are left. */
        enum way way = i % KILLED;
        int64_t start_ms = harness_now_ms();
        go_away(s, &callers[i], way);
        assert_true(fake_await(s->fake, FAKE_CLOSED, i + 1));
        times_ms[i] = fake_closed_at_ms(s->fake) - start_ms;
        grpc_client_call_free(calls[i]);
        rpc_close(&callers[i]);
    }
    check_times("paused callers", times_ms, PAUSED_AT_ONCE);
    await_descriptors(s, before);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_a_thousand_callers_go_away),
        scene_test(test_paused_callers_go_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
