/*
 * Callers that keep the daemon waiting: with their first byte, the rest of what they began, or the
 * answer that they do not take. Each ends at its own limit, nobody else notices, and who owes
 * nothing may stay.
 */
#include <stdlib.h>
#include <string.h>

#include "raw.h"
#include "scene.h"

#define LIMITS                                                                                     \
    "[daemon]\ncaller_first_byte_timeout = 300ms\ncaller_request_timeout = 400ms\n"                \
    "caller_stall_timeout = 500ms\n"

/* ---- Upstream ---- */

/* Streams without end; answers what is no stream. */
static void pour_or_serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
                return;
            continue;
        }
        if (!fake_stream_begin(c))
            return;
        while (fake_event(c, FAKE_PART("0123456789012345678901234567890123456789")))
            ;
        fake_mark(c->fake, FAKE_CLOSED);
        return;
    }
}

static void expect_quick_answer(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "quick");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "quick");
    rpc_result_done(&result);
}

/* ---- Tests ---- */

static void test_silent_callers_go_and_idle_ones_stay(void **state)
{
    struct scene *s = *state;
    struct raw silent, greeted, half;

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    raw_open(&greeted, s->daemon.socket);
    peer_hello(&greeted.sent);
    assert_true(raw_send(&greeted));
    raw_open(&half, s->daemon.socket);
    buffer_append(&half.sent, PEER_PREFACE, 20);
    assert_true(raw_send(&half));
    for (int i = 0; i < 4; i++) {
        int64_t start_ms = harness_now_ms();
        raw_open(&silent, s->daemon.socket);
        raw_await_close(&silent);
        assert_true(harness_now_ms() - start_ms >= 300);
        raw_close(&silent);
    }
    /* More than any limit has gone by. */
    raw_await_close(&half);
    raw_append_call(&greeted.sent, 1, RPC_CREATE);
    assert_true(raw_send(&greeted));
    raw_await(&greeted, "grpc-status: 0");
    expect_quick_answer(&s->rpc);
    raw_close(&half);
    raw_close(&greeted);
    scene_stop(s);
}

/* On a busy machine the time for the first byte may be over before it is sent: then once more. */
static void open_with(struct raw *r, const char *socket, const struct buffer *bytes, size_t n)
{
    for (int i = 0; i < 20; i++) {
        raw_open(r, socket);
        buffer_append(&r->sent, buffer_bytes(bytes), n);
        if (raw_send(r))
            return;
        raw_close(r);
    }
    fail_msg("closed before it was late");
}

/* A session with one call, cut anywhere; then silence. All of them at once. */
static void test_every_cut_ends_at_its_limit(void **state)
{
    struct scene *s = *state;
    struct buffer whole = BUFFER_INIT(1 << 16);

    peer_hello(&whole);
    size_t greeting = buffer_length(&whole);
    peer_headers(&whole, 1, 0, PEER_REQUEST(RPC_CREATE));
    size_t headers = buffer_length(&whole);
    raw_append_request(&whole, 1);
    size_t n = buffer_length(&whole);
    struct raw *callers = calloc(n + 1, sizeof *callers);

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    int before = daemon_n_descriptors(&s->daemon);
    for (size_t cut = 0; cut <= n; cut++)
        open_with(&callers[cut], s->daemon.socket, &whole, cut);
    for (size_t cut = 0; cut <= n; cut++) {
        struct raw *r = &callers[cut];
        if (cut == n)
            raw_await(r, "grpc-status: 0");
        else if (cut == headers)
            raw_await(r, "grpc-status: 4\ngrpc-message: the request was not there");
        else if (cut != greeting)
            raw_await_close(r);
    }
    /* The connection is as good as before where only a request was missing. */
    for (size_t i = 0; i < 2; i++) {
        struct raw *r = &callers[i ? headers : greeting];
        r->peer.stream = 3;
        raw_append_call(&r->sent, 3, RPC_CREATE);
        assert_true(raw_send(r));
        raw_await(r, "grpc-status: 0");
    }
    for (size_t cut = 0; cut <= n; cut++)
        raw_close(&callers[cut]);
    free(callers);
    buffer_done(&whole);
    /* Each worker may keep a connection to the upstream. */
    while (daemon_n_descriptors(&s->daemon) > before + (int)daemon_n_workers() - 1)
        expect_quick_answer(&s->rpc);
    scene_stop(s);
}

static void test_a_thousand_slow_beginnings_hurt_nobody(void **state)
{
    enum { N = 1000 };
    struct scene *s = *state;
    static int fds[N];
    char c;

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    for (int i = 0; i < N; i++) {
        fds[i] = raw_socket(s->daemon.socket);
        /* Or it is late already. */
        ssize_t n = send(fds[i], PEER_PREFACE, (size_t)(i % 24), MSG_NOSIGNAL);
        assert_true(n == i % 24 || errno == EPIPE);
        if (i % 50 == 0)
            expect_quick_answer(&s->rpc);
    }
    for (int i = 0; i < N; i++) {
        struct pollfd fd = {.fd = fds[i], .events = POLLIN};
        assert_int_equal(poll(&fd, 1, HARNESS_TIMEOUT_MS), 1);
        assert_true(recv(fds[i], &c, 1, 0) <= 0);
        close(fds[i]);
    }
    expect_quick_answer(&s->rpc);
    scene_stop(s);
}

/* The status needs no window; what waited is lost to it. */
static void test_caller_without_window_is_cancelled_alone(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100);
    raw_append_call(&r.sent, 1, RPC_CREATE_STREAM);
    assert_true(raw_send(&r));
    raw_await(&r, "grpc-status: 1\ngrpc-message: the caller took nothing");
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    assert_int_equal(buffer_length(&r.peer.data), 100);

    r.peer.stream = 3;
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 10000);
    raw_append_call(&r.sent, 3, RPC_CREATE);
    assert_true(raw_send(&r));
    raw_await(&r, "grpc-status: 0");
    raw_close(&r);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "CALLER_STALLED");
}

static void test_caller_that_does_not_read_is_closed(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&r.sent, 0, 1 << 30);
    for (uint32_t stream = 1; stream <= 5; stream += 2)
        raw_append_call(&r.sent, stream, RPC_CREATE_STREAM);
    assert_true(raw_send(&r));
    assert_true(fake_await(s->fake, FAKE_CLOSED, 3));
    expect_quick_answer(&s->rpc);
    /* Were it to read now, it would get its statuses and stay. */
    struct pollfd closed = {.fd = r.fd};
    assert_int_equal(poll(&closed, 1, HARNESS_TIMEOUT_MS), 1);
    raw_await_close(&r);
    raw_close(&r);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "CALLER_STALLED");
}

static bool has_ended(struct raw *r)
{
    return strstr(peer_text(&r->peer), "grpc-status");
}

/* Takes a byte at a time for so long, or until the end. Returns the longest time for one. */
static int64_t take_a_little(struct raw *r, int64_t ms)
{
    int64_t start_ms = harness_now_ms(), last_ms = start_ms, longest_ms = 0;

    for (size_t n = 1; last_ms - start_ms < ms; n++) {
        while (buffer_length(&r->peer.data) < n && !has_ended(r))
            assert_true(raw_read(r));
        if (has_ended(r))
            break;
        peer_window(&r->sent, 0, 1);
        peer_window(&r->sent, 1, 1);
        assert_true(raw_send(r));
        int64_t now_ms = harness_now_ms();
        longest_ms = now_ms - last_ms > longest_ms ? now_ms - last_ms : longest_ms;
        last_ms = now_ms;
    }
    return longest_ms;
}

/* A byte now and then is slow, but no stall. On a busy machine we may stall indeed, and try again.
 */
static void test_caller_that_takes_a_little_is_served(void **state)
{
    enum { STALL_MS = 500 };
    struct scene *s = *state;
    bool ended = true;

    scene_start(s, pour_or_serve, NULL, LIMITS);
    expect_quick_answer(&s->rpc);
    for (unsigned i = 1; ended; i++) {
        struct raw r;
        raw_open(&r, s->daemon.socket);
        peer_hello(&r.sent);
        peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1);
        raw_append_call(&r.sent, 1, RPC_CREATE_STREAM);
        assert_true(raw_send(&r));
        int64_t longest_ms = take_a_little(&r, 4 * STALL_MS);
        ended = has_ended(&r) || fake_count(s->fake, FAKE_CLOSED) == i;
        if (ended && (longest_ms < STALL_MS / 2 || i == 10))
            fail_msg("stalled, though no byte took longer than %d ms", (int)longest_ms);
        raw_close(&r);
        assert_true(fake_await(s->fake, FAKE_CLOSED, i));
    }
    scene_stop(s);
}

static void test_half_closed_callers_get_their_answers(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, pour_or_serve, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        raw_open(&r, s->daemon.socket);
        peer_hello(&r.sent);
        raw_append_call(&r.sent, 1, RPC_CREATE);
        raw_append_call(&r.sent, 3, RPC_CREATE);
        assert_true(raw_send(&r));
        assert_int_equal(shutdown(r.fd, SHUT_WR), 0);
        raw_await_close(&r);
        assert_non_null(strstr(peer_text(&r.peer), "grpc-status: 0"));
        assert_int_equal(r.peer.n_frames[NGHTTP2_DATA], 2);
        raw_close(&r);
    }
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_silent_callers_go_and_idle_ones_stay),
        scene_test(test_every_cut_ends_at_its_limit),
        scene_test(test_a_thousand_slow_beginnings_hurt_nobody),
        scene_test(test_caller_without_window_is_cancelled_alone),
        scene_test(test_caller_that_does_not_read_is_closed),
        scene_test(test_caller_that_takes_a_little_is_served),
        scene_test(test_half_closed_callers_get_their_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
