/*
 * Callers that make the daemon work for nothing. The budgets themselves are tested with the
 * session; here: what reaches the upstream, what the caller is told, and that others are served.
 */
#include <string.h>

#include "http2_guard.h"
#include "raw.h"
#include "scene.h"

/* Answers what is no stream, and begins streams that go on as long as they are wanted. */
static void hold_or_serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
                return;
            continue;
        }
        fake_stream_begin(c);
        fake_wait_for_close(c);
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

/* Sends rounds until the daemon closes; it must have said why. */
static void flood(struct scene *s, void (*append)(struct buffer *out, uint32_t stream))
{
    struct raw r;
    uint32_t n = 0;

    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    do {
        append(&r.sent, 2 * n + 1);
        if (n % 100 == 0)
            expect_quick_answer(&s->rpc);
    } while (raw_send(&r) && ++n < 100000);
    assert_true(n < 100000);
    raw_await_close(&r);
    assert_int_equal(r.peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    raw_close(&r);
    expect_quick_answer(&s->rpc);
}

static void append_reset(struct buffer *out, uint32_t stream)
{
    raw_append_call(out, stream, RPC_CREATE_STREAM);
    peer_reset(out, stream, NGHTTP2_CANCEL);
}

static void append_window_overflow(struct buffer *out, uint32_t stream)
{
    raw_append_call(out, stream, RPC_CREATE_STREAM);
    peer_window(out, stream, INT32_MAX);
}

static void append_ping(struct buffer *out, uint32_t stream)
{
    (void)stream;
    peer_frame(out, NGHTTP2_PING, 0, 0, "12345678", 8);
}

static void append_settings(struct buffer *out, uint32_t stream)
{
    (void)stream;
    peer_frame(out, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

static void append_empty_data(struct buffer *out, uint32_t stream)
{
    if (stream == 1)
        peer_headers(out, 1, 0, PEER_REQUEST(RPC_CREATE));
    peer_frame(out, NGHTTP2_DATA, 0, 1, NULL, 0);
}

static void test_resets_reach_the_upstream_within_their_budget(void **state)
{
    struct scene *s = *state;

    scene_start(s, hold_or_serve, NULL, NULL);
    flood(s, append_reset);
    flood(s, append_window_overflow);
    /* In their own time; ours is what was let through before. */
    unsigned n = fake_count(s->fake, FAKE_REQUESTED);
    assert_in_range(n, 1, 4 * HTTP2_GUARD_RESETS);
    scene_stop(s);
}

static void test_control_frames_have_a_budget(void **state)
{
    struct scene *s = *state;

    scene_start(s, hold_or_serve, NULL, NULL);
    flood(s, append_ping);
    flood(s, append_settings);
    flood(s, append_empty_data);
    scene_stop(s);
}

/* A hundred requests of 4 MiB at once, on one connection. */
static void test_requests_at_once_are_bounded_in_memory(void **state)
{
    enum { ROUNDS = 200, MORE_MAX_KIB = 80 << 10 };
    /* What is freed shall not count. */
    static const char *const environment[] = {"ASAN_OPTIONS=quarantine_size_mb=1", NULL};
    const struct daemon_options options = {.environment = environment};
    struct scene *s = *state;
    static uint8_t zeros[16384];
    struct raw r;

    scene_prepare(s, hold_or_serve, NULL, "\n[policy *]\nmax_memory = 40M\n");
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_quick_answer(&s->rpc);
    long before = daemon_rss_kib(&s->daemon), most = 0;
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    for (uint32_t stream = 1; stream < 200; stream += 2) {
        peer_headers(&r.sent, stream, 0, PEER_REQUEST(RPC_CREATE));
        peer_frame(&r.sent, NGHTTP2_DATA, 0, stream, "\0\0\x40\0\0", 5);
    }
    assert_true(raw_send(&r));
    r.peer.stream = 1;
    for (size_t round = 0; round < ROUNDS; round++) {
        for (uint32_t stream = 1; stream < 200; stream += 2)
            peer_frame(&r.sent, NGHTTP2_DATA, 0, stream, zeros, sizeof zeros);
        /* Who goes on with calls that are refused exceeds another budget in the end. */
        bool is_open = raw_send(&r);
        expect_quick_answer(&s->rpc);
        long more = daemon_rss_kib(&s->daemon) - before;
        most = more > most ? more : most;
        if (!is_open || !raw_read(&r))
            break;
    }
    raw_await_close(&r);
    assert_in_range(r.peer.n_frames[NGHTTP2_RST_STREAM], 50, 100);
    if (most > MORE_MAX_KIB)
        fail_msg("%ld KiB more", most);
    raw_close(&r);
    expect_quick_answer(&s->rpc);
    scene_stop(s);
}

static void test_other_protocols_are_told_or_closed(void **state)
{
    static const char *const texts[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        "\xff\xfe\xfd",
    };
    struct scene *s = *state;
    char answer[1024];

    scene_start(s, hold_or_serve, NULL, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int fd = raw_socket(s->daemon.socket);
        size_t len = 0;
        ssize_t n;
        assert_true(send(fd, texts[i], strlen(texts[i]), MSG_NOSIGNAL) > 0);
        while (len < sizeof answer - 1 &&
               (n = recv(fd, answer + len, sizeof answer - 1 - len, 0)) > 0)
            len += (size_t)n;
        answer[len] = '\0';
        assert_non_null(strstr(answer, "HTTP/1.1 400"));
        close(fd);
    }
    expect_quick_answer(&s->rpc);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_resets_reach_the_upstream_within_their_budget),
        scene_test(test_control_frames_have_a_budget),
        scene_test(test_requests_at_once_are_bounded_in_memory),
        scene_test(test_other_protocols_are_told_or_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
