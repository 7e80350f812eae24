/*
 * The server session under clients that make it work for nothing: each has a budget, beyond which
 * the connection ends with ENHANCE_YOUR_CALM, whatever version nghttp2 has. Time is the test's.
 */
#include <errno.h>

#include "grpc_server_fixture.h"
#include "http2_guard.h"

#define SECOND_US INT64_C(1000000)

enum { N_ROUNDS = 3000 };

/* One round of a flood: what the client sends, in a stream of its own if it wants one. */
typedef void (*attack_fn)(struct fixture *f, uint32_t stream);

static void call_and_reset(struct fixture *f, uint32_t stream)
{
    peer_headers(&f->sent, stream, 0, PEER_REQUEST("/t/Hold"));
    peer_reset(&f->sent, stream, NGHTTP2_CANCEL);
}

static void started_call_and_reset(struct fixture *f, uint32_t stream)
{
    peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    peer_reset(&f->sent, stream, NGHTTP2_CANCEL);
}

/* The server is made to reset it, which nghttp2 1.52 does not count. */
static void window_overflow(struct fixture *f, uint32_t stream)
{
    peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    peer_window(&f->sent, stream, INT32_MAX);
}

static void no_window(struct fixture *f, uint32_t stream)
{
    peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    peer_window(&f->sent, stream, 0);
}

static void data_behind_the_end(struct fixture *f, uint32_t stream)
{
    peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    peer_frame(&f->sent, NGHTTP2_DATA, 0, stream, "x", 1);
}

static void own_dependency(struct fixture *f, uint32_t stream)
{
    uint8_t priority[5] = {(uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8),
                           (uint8_t)stream, 0};
    peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    peer_frame(&f->sent, NGHTTP2_PRIORITY, 0, stream, priority, sizeof priority);
}

static void empty_data(struct fixture *f, uint32_t stream)
{
    peer_headers(&f->sent, stream, 0, PEER_REQUEST("/t/Hold"));
    for (size_t i = 0; i < 100; i++)
        peer_frame(&f->sent, NGHTTP2_DATA, 0, stream, NULL, 0);
}

static void reset_of_nothing(struct fixture *f, uint32_t stream)
{
    peer_reset(&f->sent, stream, NGHTTP2_CANCEL);
}

static void header_bomb(struct fixture *f, uint32_t stream)
{
    struct buffer block = BUFFER_INIT(1 << 20);
    char value[4000];

    memset(value, 'x', sizeof value);
    peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
    buffer_append_byte(&block, 0x40);
    peer_hpack_string(&block, "x", 1);
    peer_hpack_string(&block, value, sizeof value);
    for (size_t i = 0; i < 1000; i++)
        buffer_append_byte(&block, 0x80 | 62);
    peer_frame(&f->sent, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, buffer_bytes(&block),
               buffer_length(&block));
    buffer_done(&block);
}

static void ping(struct fixture *f, uint32_t stream)
{
    (void)stream;
    peer_frame(&f->sent, NGHTTP2_PING, 0, 0, "12345678", 8);
}

static void ping_acknowledged(struct fixture *f, uint32_t stream)
{
    (void)stream;
    peer_frame(&f->sent, NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, "12345678", 8);
}

static void settings(struct fixture *f, uint32_t stream)
{
    (void)stream;
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

static void windows_of_all_streams(struct fixture *f, uint32_t stream)
{
    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, stream & 2 ? 1 : INT32_MAX);
}

static void table_sizes(struct fixture *f, uint32_t stream)
{
    peer_setting(&f->sent, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, stream & 2 ? UINT32_MAX : 0);
}

static void window(struct fixture *f, uint32_t stream)
{
    (void)stream;
    peer_window(&f->sent, 0, 1);
}

static void priority(struct fixture *f, uint32_t stream)
{
    peer_frame(&f->sent, NGHTTP2_PRIORITY, 0, stream, "\0\0\0\0\1", 5);
}

static void unknown_frame(struct fixture *f, uint32_t stream)
{
    peer_frame(&f->sent, 0x42, 0, stream, "what?", 5);
}

static void data_of_no_stream(struct fixture *f, uint32_t stream)
{
    if (stream == 1) {
        peer_call(&f->sent, 1, PEER_REQUEST("/t/Echo"), "x");
        assert_int_equal(exchange(f), 0);
        return;
    }
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "x", 1);
}

static void goodbye(struct fixture *f, uint32_t stream)
{
    (void)stream;
    peer_frame(&f->sent, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
}

/* Sends rounds until the session breaks off: how many there were. */
static size_t flood(struct fixture *f, attack_fn attack, size_t at_once)
{
    size_t n = 0;
    int rc = 0;

    while (rc == 0 && n < N_ROUNDS) {
        for (size_t i = 0; i < at_once; i++, n++)
            attack(f, (uint32_t)(2 * n + 1));
        rc = exchange(f);
    }
    return rc < 0 ? n : SIZE_MAX;
}

static void frames_without_data_have_a_budget(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    assert_in_range(flood(f, empty_data, 1), 1, 20);
    assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    close_session(f);
}

static void calls_that_end_early_have_a_budget(void **state)
{
    static const attack_fn attacks[] = {call_and_reset, started_call_and_reset, window_overflow,
                                        no_window,      data_behind_the_end,    own_dependency};
    (void)state;

    for (size_t i = 0; i < COUNT(attacks); i++) {
        for (size_t at_once = 1; at_once <= 50; at_once += 49) {
            struct fixture *f = open_session();
            size_t n = flood(f, attacks[i], at_once);
            /* Some of them are no such attack to nghttp2 but the end of the connection. */
            if (n > at_once) {
                assert_in_range(n, HTTP2_GUARD_RESETS, HTTP2_GUARD_RESETS + at_once);
                assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
            }
            assert_int_equal(f->peer.n_frames[NGHTTP2_GOAWAY], 1);
            assert_in_range(f->echo.n_begun, 1, HTTP2_GUARD_RESETS + 1);
            assert_int_equal(f->echo.n_finished, 0);
            close_session(f);
        }
    }
}

static void the_budget_of_resets_fills_up_again(void **state)
{
    struct fixture *f = open_session();
    uint32_t stream = 1;
    (void)state;

    for (int64_t second = 1; second <= 20; second++) {
        grpc_server_session_set_time(f->session, second * SECOND_US);
        for (size_t i = 0; i < HTTP2_GUARD_RESETS_PER_SECOND; i++, stream += 2)
            call_and_reset(f, stream);
        assert_int_equal(exchange(f), 0);
    }
    assert_int_equal(f->echo.n_cancelled, 20 * HTTP2_GUARD_RESETS_PER_SECOND);
    for (int64_t second = 21; second <= 40; second++) {
        grpc_server_session_set_time(f->session, second * SECOND_US);
        for (size_t i = 0; i < 2 * HTTP2_GUARD_RESETS_PER_SECOND; i++, stream += 2)
            call_and_reset(f, stream);
        if (exchange(f) < 0)
            break;
    }
    assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    close_session(f);
}

static void calls_that_end_well_cost_nothing(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    for (uint32_t stream = 1; stream < 20000; stream += 2) {
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Echo"), "hi");
        peer_frame(&f->sent, NGHTTP2_PING, 0, 0, "12345678", 8);
        peer_window(&f->sent, 0, 7);
        assert_int_equal(exchange(f), 0);
    }
    assert_int_equal(f->echo.n_finished, 10000);
    close_session(f);
}

static void header_bombs_have_a_budget(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    assert_in_range(flood(f, header_bomb, 1), HTTP2_GUARD_RESETS, HTTP2_GUARD_RESETS + 1);
    assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(f->echo.n_begun, 0);
    close_session(f);
}

static void frames_that_get_no_call_further_have_a_budget(void **state)
{
    static const attack_fn attacks[] = {ping,
                                        ping_acknowledged,
                                        settings,
                                        reset_of_nothing,
                                        windows_of_all_streams,
                                        table_sizes,
                                        window,
                                        priority,
                                        unknown_frame,
                                        data_of_no_stream,
                                        goodbye};
    (void)state;

    for (size_t i = 0; i < COUNT(attacks); i++) {
        for (size_t at_once = 1; at_once <= 50; at_once += 49) {
            struct fixture *f = open_session();
            size_t n = flood(f, attacks[i], at_once);
            assert_in_range(n, HTTP2_GUARD_FRAMES - 10, HTTP2_GUARD_FRAMES + 20 + at_once);
            assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
            close_session(f);
        }
    }
}

/* As grpc-go does: a PING, and windows for stream and connection, for each frame of ours, here all
 * of them after the last one. */
static void a_client_may_answer_each_frame(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&f->sent, 0, 1 << 30);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    for (size_t i = 0; i < 5000; i++) {
        echo_reply(f->echo.held[0], "x", 1);
        assert_int_equal(read_all(f), 0);
    }
    assert_int_equal(f->peer.n_frames[NGHTTP2_DATA], 5000);
    for (size_t i = 0; i < 5000; i++) {
        ping(f, 0);
        peer_window(&f->sent, 0, 6);
        peer_window(&f->sent, 1, 6);
        assert_int_equal(exchange(f), 0);
    }
    close_session(f);
}

static void continuations_have_a_budget(void **state)
{
    (void)state;
    for (size_t n = HTTP2_GUARD_CONTINUATIONS; n <= HTTP2_GUARD_CONTINUATIONS + 1; n++) {
        struct fixture *f = open_session();
        struct buffer block = BUFFER_INIT(1000);
        peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
        peer_frame(&f->sent, NGHTTP2_HEADERS, 0, 1, buffer_bytes(&block), buffer_length(&block));
        buffer_done(&block);
        for (size_t i = 1; i <= n; i++)
            peer_frame(&f->sent, NGHTTP2_CONTINUATION, i == n ? NGHTTP2_FLAG_END_HEADERS : 0, 1,
                       "\0\1x\1y", 5);
        peer_message(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, "hi");
        bool is_fine = n == HTTP2_GUARD_CONTINUATIONS;
        assert_int_equal(exchange(f), is_fine ? 0 : -EPROTO);
        assert_int_equal(f->echo.n_finished, is_fine);
        if (!is_fine)
            assert_int_equal(f->peer.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
        close_session(f);
    }
}

static void frames_larger_than_allowed_end_the_connection(void **state)
{
    struct fixture *f = open_session();
    uint8_t head[9] = {0xff, 0xff, 0xff, NGHTTP2_DATA, 0, 0, 0, 0, 1};
    (void)state;

    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Hold"));
    buffer_append(&f->sent, head, sizeof head);
    assert_int_equal(exchange(f), -EPROTO);
    assert_int_equal(f->peer.goaway_code, NGHTTP2_FRAME_SIZE_ERROR);
    close_session(f);
}

/* What a client allows us is no reason to hold that much for it. */
static void generous_settings_do_not_cost_memory(void **state)
{
    struct memory memory = MEMORY_INIT(SIZE_MAX, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    options.memory = &memory;
    struct fixture *f = open_with(&options);
    (void)state;

    peer_hello(&f->sent);
    peer_setting(&f->sent, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, UINT32_MAX);
    peer_setting(&f->sent, NGHTTP2_SETTINGS_MAX_FRAME_SIZE, (1 << 24) - 1);
    peer_setting(&f->sent, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, UINT32_MAX);
    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&f->sent, 0, INT32_MAX - 65535);
    for (uint32_t stream = 1; stream < 2000; stream += 2) {
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Fail"), "");
        assert_int_equal(exchange(f), 0);
        assert_true(memory.used < 128 << 10);
    }
    close_session(f);
    assert_int_equal(memory.used, 0);
}

/* ---- Memory ---- */

static void a_request_beyond_the_account_is_refused(void **state)
{
    enum { CHUNK = 16000 };
    struct memory memory = MEMORY_INIT(2 << 20, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    options.memory = &memory;
    struct fixture *f = open_with(&options);
    uint8_t zeros[CHUNK] = {0}, prefix[5] = {0, 0, 0x20, 0, 0}; /* 2 MiB */
    (void)state;

    peer_hello(&f->sent);
    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Echo"));
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, prefix, sizeof prefix);
    for (size_t i = 0; i < 60; i++) {
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, zeros, CHUNK);
        assert_int_equal(exchange(f), 0);
    }
    assert_true(memory.used > 60 * CHUNK);
    assert_int_equal(f->peer.n_frames[NGHTTP2_RST_STREAM], 0);
    for (size_t i = 0; i < 72 && f->peer.n_frames[NGHTTP2_RST_STREAM] == 0; i++) {
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, zeros, CHUNK);
        assert_int_equal(exchange(f), 0);
    }
    assert_string_equal(peer_text(&f->peer),
                        TRAILERS_ONLY("200", "8",
                                      "the request does not fit into the memory limit of this "
                                      "connection, user or daemon") "RST 0\n");

    /* It has come back, and is enough for others. */
    assert_true(memory.used < 256 << 10);
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_finished, 2);
    close_session(f);
    assert_int_equal(memory.used, 0);
}

static void replies_beyond_the_account_are_refused(void **state)
{
    struct memory memory = MEMORY_INIT(1 << 20, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    options.memory = &memory;
    struct fixture *f = open_with(&options);
    static char zeros[300000];
    int rc = 0;
    (void)state;

    peer_hello(&f->sent);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    for (size_t i = 0; i < 8 && rc == 0; i++)
        rc = echo_reply(f->echo.held[0], zeros, sizeof zeros);
    assert_int_equal(rc, -EDQUOT);
    echo_finish(f->echo.held[0], GRPC_RESOURCE_EXHAUSTED, "memory");
    assert_int_equal(read_all(f), 0);
    peer_window(&f->sent, 0, 8 << 20);
    peer_window(&f->sent, 1, 8 << 20);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
    assert_int_equal(memory.used, 0);
}

/* With every limit there is: no limit at all leads to a leak, a hang or a call without its end. */
static void any_account_is_survived(void **state)
{
    (void)state;
    for (size_t limit = 0; limit < 100000; limit += 97) {
        struct memory memory = MEMORY_INIT(limit, NULL);
        struct grpc_server_options options = grpc_server_options_default;
        options.memory = &memory;
        struct fixture *f = calloc(1, sizeof *f);
        assert_non_null(f);
        f->sent = BUFFER_INIT(SIZE_MAX);
        peer_init(&f->peer, 1);
        int rc = grpc_server_session_new(&options, &echo_handler, &f->echo, &f->session);
        if (rc == 0) {
            peer_hello(&f->sent);
            peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 20);
            for (uint32_t stream = 1; stream < 40; stream += 2) {
                peer_call(&f->sent, stream, PEER_REQUEST("/t/Stream"), "10 1000");
                peer_call(&f->sent, stream += 2, PEER_REQUEST("/t/Fail"), "why");
            }
            rc = exchange(f);
            for (uint32_t stream = 1; rc == 0 && stream < 40; stream += 4) {
                peer_window(&f->sent, 0, 20000);
                peer_window(&f->sent, stream, 20000);
                rc = exchange(f);
            }
            assert_true(rc == 0 || rc == -ENOMEM || rc == -EDQUOT);
        }
        assert_true(memory.used <= limit + limit / 8);
        close_session(f);
        assert_int_equal(memory.used, 0);
    }
}

/* Byte by byte, so that the frame is left out whole. */
static void a_reset_of_a_stream_that_was_never_opened_harms_nobody(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    peer_reset(&f->sent, 5, NGHTTP2_CANCEL);
    peer_reset(&f->sent, 3, NGHTTP2_CANCEL);
    for (size_t i = 0; i < buffer_length(&f->sent); i++)
        assert_int_equal(grpc_server_session_receive(f->session, buffer_bytes(&f->sent) + i, 1), 0);
    buffer_done(&f->sent);
    assert_int_equal(grpc_server_session_n_calls(f->session), 1);

    /* One that was opened is reset, before and after. */
    peer_reset(&f->sent, 1, NGHTTP2_CANCEL);
    peer_call(&f->sent, 7, PEER_REQUEST("/t/Echo"), "hi");
    f->peer.stream = 7;
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 7\n" OK_TRAILERS);
    assert_int_equal(f->echo.n_cancelled, 1);
    assert_int_equal(grpc_server_session_n_calls(f->session), 0);
    close_session(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reset_of_a_stream_that_was_never_opened_harms_nobody),
        cmocka_unit_test(frames_without_data_have_a_budget),
        cmocka_unit_test(calls_that_end_early_have_a_budget),
        cmocka_unit_test(the_budget_of_resets_fills_up_again),
        cmocka_unit_test(calls_that_end_well_cost_nothing),
        cmocka_unit_test(header_bombs_have_a_budget),
        cmocka_unit_test(frames_that_get_no_call_further_have_a_budget),
        cmocka_unit_test(a_client_may_answer_each_frame),
        cmocka_unit_test(continuations_have_a_budget),
        cmocka_unit_test(frames_larger_than_allowed_end_the_connection),
        cmocka_unit_test(generous_settings_do_not_cost_memory),
        cmocka_unit_test(a_request_beyond_the_account_is_refused),
        cmocka_unit_test(replies_beyond_the_account_are_refused),
        cmocka_unit_test(any_account_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
