/*
 * Callers that do not want the answer any more: whatever way they say so, and whatever state the
 * call is in, the upstream's connection is closed at once, because generation costs money.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

/* Much more than it takes, for sanitizers and busy machines; less than any other timer. */
enum { AT_ONCE_MS = 1500, EARLY_MS = 10, QUIET_MS = 300, DEADLINE_MS = 400, FLOOD_MAX = 1 << 20 };

extern char **environ;

/* ---- States ---- */

enum state {
    WAITING,   /* the upstream has the request and says nothing */
    HEADERS,   /* the response has begun */
    STREAMING, /* a chunk has come */
    PAUSED,    /* the caller reads too slowly */
    HALF_BODY, /* of a response that is no stream */
};

static const struct {
    enum state state;
    const char *name, *path;
} states[] = {
    {WAITING, "waiting for a stream", RPC_CREATE_STREAM},
    {WAITING, "waiting for an answer", RPC_CREATE},
    {HEADERS, "stream begun", RPC_CREATE_STREAM},
    {STREAMING, "streaming", RPC_CREATE_STREAM},
    {HALF_BODY, "receiving an answer", RPC_CREATE},
    {PAUSED, "paused", RPC_CREATE_STREAM},
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
    case PAUSED:
        return fake_stream_begin(c) && write_until_nobody_takes_it(c);
    case HALF_BODY:
        return fake_print(c, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{\"id\":\"");
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

/* ---- The check ---- */

static void assert_closed_at_once(struct scene *s, unsigned n, int64_t since_ms, const char *name)
{
    if (!fake_await(s->fake, FAKE_CLOSED, n))
        fail_msg("%s: the upstream's connection is not closed", name);
    int64_t took_ms = fake_closed_at_ms(s->fake) - since_ms;
    print_message("%s: closed after %d ms\n", name, (int)took_ms);
    if (took_ms > AT_ONCE_MS)
        fail_msg("%s: the upstream's connection was closed after %d ms", name, (int)took_ms);
}

/* Calls that are over leave nothing behind. */
static void assert_descriptors(struct scene *s, int before)
{
    scene_assert_serving(s);
    if (before >= 0)
        assert_int_equal(daemon_n_descriptors(&s->daemon), before);
}

/* In the state, as far as both ends can know. */
static void await_state(struct scene *s, struct rpc *r, struct grpc_client_call *call, unsigned i)
{
    if (!fake_await(s->fake, FAKE_STEP, i + 1))
        fail_msg("%s: the state is not reached", states[i].name);
    if (states[i].state == STREAMING)
        rpc_completion_free(rpc_next(r, call));
}

static void test_cancelled_call(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    scene_start(s, bring_to_state, &now, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < N_STATES; i++) {
        now = states[i].state;
        struct grpc_client_call *call = rpc_start(&s->rpc, states[i].path, &request, -1);
        await_state(s, &s->rpc, call, i);
        int64_t start = harness_now_ms();
        rpc_cancel(&s->rpc, call);
        assert_closed_at_once(s, i + 1, start, states[i].name);
        grpc_client_call_free(call);
        assert_descriptors(s, before);
    }
    scene_stop(s);
}

static void test_closed_connection(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    rpc_request request = rpc_request_new("m", "CANARY prompt");

    scene_start(s, bring_to_state, &now, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < N_STATES; i++) {
        struct rpc caller;
        now = states[i].state;
        rpc_connect(&caller, s->daemon.socket);
        struct grpc_client_call *call = rpc_start(&caller, states[i].path, &request, -1);
        await_state(s, &caller, call, i);
        int64_t start = harness_now_ms();
        rpc_close(&caller);
        assert_closed_at_once(s, i + 1, start, states[i].name);
        grpc_client_call_free(call);
        assert_descriptors(s, before);
    }
    scene_stop(s);
}

static void test_deadline(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    scene_start(s, bring_to_state, &now, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < N_STATES; i++) {
        now = states[i].state;
        int timeout_ms = now == PAUSED ? 10 * DEADLINE_MS : DEADLINE_MS;
        int64_t start = harness_now_ms();
        struct grpc_client_call *call = rpc_start(&s->rpc, states[i].path, &request, timeout_ms);
        await_state(s, &s->rpc, call, i);
        assert_closed_at_once(s, i + 1, start + timeout_ms, states[i].name);
        assert_true(fake_closed_at_ms(s->fake) - start >= timeout_ms - EARLY_MS);
        rpc_finish(&s->rpc, call, &result);
        rpc_assert_failed(&result, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
        assert_int_equal(result.detail->maybe_executed, 1);
        rpc_result_done(&result);
        assert_descriptors(s, before);
    }
    scene_stop(s);
}

/* ---- A process that dies ---- */

struct reader {
    pid_t pid;
    int out;
};

static struct reader reader_start(const char *socket)
{
    char *arguments[] = {(char *)STREAM_READER, (char *)socket, NULL};
    posix_spawn_file_actions_t actions;
    struct reader reader;
    int out[2];

    assert_int_equal(pipe(out), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    posix_spawn_file_actions_addclose(&actions, out[1]);
    assert_int_equal(posix_spawn(&reader.pid, STREAM_READER, &actions, NULL, arguments, environ),
                     0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    reader.out = out[0];
    return reader;
}

/* Waits for this byte from it. */
static void reader_await(struct reader *reader, char expected)
{
    struct pollfd fd = {reader->out, POLLIN, 0};
    char c = 0;

    while (c != expected) {
        assert_int_equal(poll(&fd, 1, HARNESS_TIMEOUT_MS), 1);
        assert_int_equal(read(reader->out, &c, 1), 1);
    }
}

static void reader_kill(struct reader *reader)
{
    kill(reader->pid, SIGKILL);
    assert_int_equal(waitpid(reader->pid, NULL, 0), reader->pid);
    close(reader->out);
}

static void test_killed_caller(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    unsigned n = 0;

    scene_start(s, bring_to_state, &now, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (unsigned i = 0; i < N_STATES; i++) {
        if (strcmp(states[i].path, RPC_CREATE_STREAM) != 0)
            continue;
        now = states[i].state;
        struct reader reader = reader_start(s->daemon.socket);
        reader_await(&reader, 's');
        /* A process that is stopped reads nothing. */
        if (now == PAUSED)
            kill(reader.pid, SIGSTOP);
        if (!fake_await(s->fake, FAKE_STEP, ++n))
            fail_msg("%s: the state is not reached", states[i].name);
        if (now == STREAMING)
            reader_await(&reader, 'm');
        int64_t start = harness_now_ms();
        reader_kill(&reader);
        assert_closed_at_once(s, n, start, states[i].name);
        assert_descriptors(s, before);
    }
    scene_stop(s);
}

/* ---- Before there is a connection ---- */

/* A listening socket whose queue is full: connecting to it neither works nor fails. */
struct full_house {
    int fd, guests[8];
    unsigned port;
};

static void full_house_init(struct full_house *h)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;

    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(h->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(h->fd, 0), 0);
    assert_int_equal(getsockname(h->fd, (struct sockaddr *)&address, &len), 0);
    h->port = ntohs(address.sin_port);
    for (size_t i = 0; i < sizeof h->guests / sizeof *h->guests; i++) {
        h->guests[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r = connect(h->guests[i], (struct sockaddr *)&address, sizeof address);
        assert_true(r == 0 || errno == EINPROGRESS);
    }
}

static void full_house_done(struct full_house *h)
{
    for (size_t i = 0; i < sizeof h->guests / sizeof *h->guests; i++)
        close(h->guests[i]);
    close(h->fd);
}

static void never_called(struct fake_connection *c)
{
    fake_read_request(c);
}

static void test_while_connecting(void **state)
{
    struct scene *s = *state;
    struct full_house house;
    char settings[128];
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    full_house_init(&house);
    snprintf(settings, sizeof settings, "base_url = http://127.0.0.1:%u/v1\nconnect_timeout = 1s\n",
             house.port);
    scene_start(s, never_called, NULL, settings);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);

    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    scene_assert_serving(s);
    rpc_cancel(&s->rpc, call);
    grpc_client_call_free(call);
    assert_descriptors(s, before);

    call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, 100);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_failed(&result, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
    rpc_assert_said(&result, "connecting to the upstream");
    assert_int_equal(result.detail->maybe_executed, 0);
    rpc_result_done(&result);
    assert_descriptors(s, before);

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_TIMEOUT");
    rpc_assert_said(&result, "connect_timeout");
    assert_int_equal(result.detail->maybe_executed, 0);
    rpc_result_done(&result);
    assert_descriptors(s, before);
    scene_stop(s);
    full_house_done(&house);
}

/* ---- Deadlines that are none ---- */

static void test_deadline_in_the_past(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct rpc_result result;

    scene_start(s, bring_to_state, &now, NULL);
    rpc_finish(&s->rpc, rpc_start(&s->rpc, RPC_CREATE, &request, 0), &result);
    rpc_assert_failed(&result, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
    rpc_result_done(&result);
    scene_assert_serving(s);
    scene_stop(s);
}

/* ---- Races ---- */

static void tell_ten(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_stream_begin(c)) {
        for (int i = 0; i < 10; i++)
            if (!fake_event(c, FAKE_PART("a")))
                return;
        if (!fake_stream_done(c))
            return;
    }
}

static void test_cancel_races_the_end(void **state)
{
    enum { ROUNDS = 40, AT_ONCE = 8 };
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY prompt");
    struct grpc_client_call *calls[AT_ONCE];
    struct rpc_result result;

    scene_start(s, tell_ten, NULL, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++)
            calls[i] = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
        /* After 0 to 11 messages, of which the last is the end. */
        for (int i = 0; i < AT_ONCE; i++) {
            Completion__V1__Completion *completion;
            int n = (round * 5 + i * 7) % 12;
            while (n-- > 0 && (completion = rpc_next(&s->rpc, calls[i])))
                rpc_completion_free(completion);
            rpc_cancel(&s->rpc, calls[i]);
            grpc_client_call_free(calls[i]);
        }
    }
    rpc_call(&s->rpc, RPC_CREATE_STREAM, &request, &result);
    rpc_assert_ok(&result, "aaaaaaaaaa");
    rpc_result_done(&result);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_cancelled_call),
        scene_test(test_closed_connection),
        scene_test(test_deadline),
        scene_test(test_killed_caller),
        scene_test(test_while_connecting),
        scene_test(test_deadline_in_the_past),
        scene_test(test_cancel_races_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
