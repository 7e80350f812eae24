/*
 * Callers that take their answer from the socket byte by byte: their upstream waits, the daemon
 * does not work for them, and those who do not get on within the limit are closed like any other
 * that stalls. Windows of HTTP/2 that trickle are in test_slow_callers.c.
 */
#include <string.h>
#include <time.h>

#include "raw.h"
#include "scene.h"

/* What the daemon, and the kernel on both of its sides, may take for one caller. */
enum { QUIET_MS = 1000, TEXT_BYTES = 4096, HELD_MAX_EVENTS = 3600, HELD_MAX_KIB = 16384 };

/* FAKE_STEP for each event that is taken, FAKE_STALLED once one is not. */
static void pour(struct fake_connection *c)
{
    char event[TEXT_BYTES + 512], text[TEXT_BYTES + 1];
    bool has_stalled = false;

    memset(text, 'x', TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    size_t json = sizeof FAKE_PART("") - 1 + TEXT_BYTES;
    size_t len = (size_t)snprintf(event, sizeof event, "%zx\r\ndata: " FAKE_PART("%s") "\n\n\r\n",
                                  json + 8, text);
    for (bool taken = fake_stream_begin(c); taken;) {
        size_t done = fake_write_some(c, event, len, QUIET_MS);
        if (done < len && !has_stalled)
            fake_mark(c->fake, FAKE_STALLED);
        has_stalled |= done < len;
        taken = done == len || fake_write(c, event + done, len - done);
        if (taken)
            fake_mark(c->fake, FAKE_STEP);
    }
    fake_mark(c->fake, FAKE_CLOSED);
}

static void pour_or_serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (strstr(c->body, "\"stream\":true")) {
            pour(c);
            return;
        }
        if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
            return;
    }
}

static void expect_quick_answers(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "quick");
    struct rpc_result result;

    for (int i = 0; i < 20; i++) {
        rpc_call(&s->rpc, RPC_CREATE, &request, &result);
        rpc_assert_ok(&result, "quick");
        rpc_result_done(&result);
    }
}

/* HTTP/2 lets it have all: only the socket holds the daemon back. */
static void open_greedy(struct scene *s, struct raw *r)
{
    raw_open(r, s->daemon.socket);
    peer_hello(&r->sent);
    peer_setting(&r->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&r->sent, 0, 1 << 30);
    raw_append_call(&r->sent, 1, RPC_CREATE_STREAM);
    assert_true(raw_send(r));
}

static void take_byte(struct raw *r)
{
    char c;

    assert_int_equal(recv(r->fd, &c, 1, 0), 1);
}

static void test_a_byte_a_second_costs_nothing(void **state)
{
    enum { N = 20, SECONDS = 4 };
    struct scene *s = *state;
    struct raw callers[N];

    scene_start(s, pour_or_serve, NULL, NULL);
    expect_quick_answers(s);
    long before_kib = daemon_rss_kib(&s->daemon);
    for (int i = 0; i < N; i++)
        open_greedy(s, &callers[i]);
    assert_true(fake_await(s->fake, FAKE_STALLED, N));

    int64_t before_us = daemon_cpu_us(&s->daemon), start_ms = harness_now_ms();
    for (int second = 0; second < SECONDS; second++) {
        for (int i = 0; i < N; i++)
            take_byte(&callers[i]);
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
    int64_t used_us = daemon_cpu_us(&s->daemon) - before_us, took_ms = harness_now_ms() - start_ms;
    print_message("%d callers, a byte a second each: %d us of the CPU in %d ms\n", N, (int)used_us,
                  (int)took_ms);
    if (used_us > took_ms * 10)
        fail_msg("more than 1 %% of the CPU");
    assert_in_range(fake_count(s->fake, FAKE_STEP), N, N * HELD_MAX_EVENTS);
    assert_int_equal(fake_count(s->fake, FAKE_CLOSED), 0);
    assert_in_range(daemon_rss_kib(&s->daemon) - before_kib, 0, N * HELD_MAX_KIB);
    expect_quick_answers(s);
    for (int i = 0; i < N; i++)
        raw_close(&callers[i]);
    assert_true(fake_await(s->fake, FAKE_CLOSED, N));
    scene_stop(s);
}

/* The kernel has no place for more before all of a piece is taken: byte by byte that is no progress
 * that anybody but the caller could see. */
static void test_bytes_do_not_put_off_the_limit(void **state)
{
    struct scene *s = *state;
    struct raw r;
    unsigned n_bytes = 0;

    scene_start(s, pour_or_serve, NULL, "[daemon]\ncaller_stall_timeout = 2s\n");
    expect_quick_answers(s);
    open_greedy(s, &r);
    struct pollfd closed = {.fd = r.fd};
    int64_t start_ms = harness_now_ms();
    for (; poll(&closed, 1, 20) == 0; n_bytes++) {
        take_byte(&r);
        if (harness_now_ms() - start_ms > HARNESS_TIMEOUT_MS)
            fail_msg("still there after %u bytes", n_bytes);
    }
    assert_true(n_bytes > 0);
    assert_true(harness_now_ms() - start_ms >= 2000);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    expect_quick_answers(s);
    raw_close(&r);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "CALLER_STALLED");
}

/* Pieces are: such a caller is slow, and is served for as long as it takes. */
static void test_pieces_do(void **state)
{
    static uint8_t data[65536];
    struct scene *s = *state;
    struct raw r;

    scene_start(s, pour_or_serve, NULL, "[daemon]\ncaller_stall_timeout = 2s\n");
    expect_quick_answers(s);
    open_greedy(s, &r);
    assert_true(fake_await(s->fake, FAKE_STALLED, 1));
    unsigned n_taken = fake_count(s->fake, FAKE_STEP);
    /* Until the upstream could go on, which it can't where nothing is taken. */
    while (fake_count(s->fake, FAKE_STEP) < n_taken + 500)
        assert_true(recv(r.fd, data, sizeof data, 0) > 0);
    assert_int_equal(fake_count(s->fake, FAKE_CLOSED), 0);
    raw_close(&r);
    assert_true(fake_await(s->fake, FAKE_CLOSED, 1));
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_a_byte_a_second_costs_nothing),
        scene_test(test_bytes_do_not_put_off_the_limit),
        scene_test(test_pieces_do),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
