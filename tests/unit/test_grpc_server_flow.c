/* The server session under slow, leaving and hostile clients: everything stays bounded. */
#include <errno.h>

#include "grpc_server_fixture.h"

enum { HIGH = 64 << 10, OUTPUT = 64 << 10, FRAME = 9 + (16 << 10) };

static void a_small_window_pauses_the_producer(void **state)
{
    struct fixture *f = open_session();
    size_t rounds = 0;
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Stream"), "1000 1000");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(buffer_length(&f->peer.data), 65535);
    assert_int_equal(f->echo.n_finished, 0);

    /* As much again as was read, in small steps. */
    while (f->echo.n_finished == 0 && rounds++ < 1000) {
        peer_window(&f->sent, 0, 5000);
        peer_window(&f->sent, 1, 5000);
        assert_int_equal(exchange(f), 0);
    }
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 1005000\n" OK_TRAILERS);
    assert_in_range(f->echo.n_writable, 10, 100);
    assert_in_range(f->echo.pending_max, HIGH, HIGH + 1005);
    close_session(f);
}

static void replies_keep_their_order_and_content_through_pauses(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 777);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Stream"), "2000 100");
    assert_int_equal(exchange(f), 0);
    while (f->echo.n_finished == 0) {
        peer_window(&f->sent, 0, 777);
        peer_window(&f->sent, 1, 777);
        assert_int_equal(exchange(f), 0);
    }
    const uint8_t *p = buffer_bytes(&f->peer.data);
    assert_int_equal(buffer_length(&f->peer.data), 2000 * 105);
    for (unsigned left = 2000; left > 0; left--, p += 105) {
        assert_memory_equal(p, "\0\0\0\0\x64", 5);
        for (size_t i = 5; i < 105; i++)
            assert_int_equal(p[i], 'a' + left % 26);
    }
    close_session(f);
}

static void a_client_that_does_not_read_stops_the_output(void **state)
{
    struct fixture *f = open_session();
    struct buffer *out = grpc_server_session_output(f->session);
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&f->sent, 0, 1 << 30);
    for (uint32_t stream = 1; stream < 20; stream += 2)
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Stream"), "1000 1000");
    assert_int_equal(
        grpc_server_session_receive(f->session, buffer_bytes(&f->sent), buffer_length(&f->sent)),
        0);
    buffer_done(&f->sent);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(grpc_server_session_flush(f->session), 0);
    assert_in_range(buffer_length(out), OUTPUT, OUTPUT + FRAME);
    assert_false(grpc_server_session_wants_flush(f->session));
    assert_in_range(f->echo.pending_max, HIGH, HIGH + 1005);

    assert_int_equal(read_all(f), 0);
    assert_int_equal(f->echo.n_finished, 10);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 1005000\n" OK_TRAILERS);
    close_session(f);
}

static void a_client_that_gives_no_window_gets_nothing_and_costs_little(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    for (uint32_t stream = 1; stream < 200; stream += 2)
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Stream"), "1000 1000");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->peer.n_frames[NGHTTP2_HEADERS], 100);
    assert_int_equal(f->peer.n_frames[NGHTTP2_DATA], 0);
    assert_in_range(f->echo.pending_max, HIGH, HIGH + 1005);
    assert_int_equal(grpc_server_session_n_calls(f->session), 100);
    close_session(f);
}

static void replies_beyond_the_limit_fail_and_leave_the_call_whole(void **state)
{
    struct grpc_server_options options = grpc_server_options_default;
    options.max_pending_bytes = 10000;
    struct fixture *f = open_with(&options);
    char zeros[9000] = {0};
    (void)state;

    peer_hello(&f->sent);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    struct grpc_server_call *call = f->echo.held[0];
    assert_int_equal(echo_reply(call, zeros, sizeof zeros), 0);
    assert_int_equal(echo_reply(call, zeros, sizeof zeros), -EMSGSIZE);
    buffer_append_string(grpc_server_call_message_begin(call), "half");
    grpc_server_call_message_abort(call);
    assert_int_equal(echo_reply(call, "end", 3), 0);
    buffer_append_string(grpc_server_call_message_begin(call), "half");
    echo_finish(call, GRPC_OK, NULL);
    echo_finish(call, GRPC_INTERNAL, "twice");
    assert_true(grpc_server_call_is_finished(call));
    assert_int_equal(echo_reply(call, "late", 4), 0);
    read_all(f);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 9013\n" OK_TRAILERS);
    close_session(f);
}

/* ---- Leaving ---- */

static void a_cancelled_call_ends_at_once(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Stream"), "1000 1000");
    peer_headers(&f->sent, 5, 0, PEER_REQUEST("/t/Hold"));
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_begun, 3);
    for (uint32_t stream = 1; stream <= 5; stream += 2)
        peer_reset(&f->sent, stream, NGHTTP2_CANCEL);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_cancelled, 3);
    assert_int_equal(grpc_server_session_n_calls(f->session), 0);
    assert_string_equal(peer_text(&f->peer), "");
    close_session(f);
}

static void a_call_cancelled_before_its_status_was_sent_is_cancelled(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 3);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Echo"), "hello");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_finished, 0);
    peer_reset(&f->sent, 1, NGHTTP2_CANCEL);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_cancelled, 1);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 3\n");
    close_session(f);
}

static void a_lost_connection_ends_its_calls(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Stream"), "1000 1000");
    peer_headers(&f->sent, 5, 0, PEER_REQUEST("/t/Early"));
    assert_int_equal(exchange(f), 0);
    f->session = grpc_server_session_free(f->session);
    assert_int_equal(f->echo.n_lost, 2);
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

static void draining_takes_calls_on_their_way_and_then_no_more(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    grpc_server_session_drain(f->session, false);
    read_all(f);
    assert_int_equal(f->peer.n_frames[NGHTTP2_GOAWAY], 1);
    assert_int_equal(f->peer.goaway_stream, INT32_MAX);
    assert_int_equal(f->peer.goaway_code, NGHTTP2_NO_ERROR);
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_begun, 2);

    grpc_server_session_drain(f->session, true);
    grpc_server_session_drain(f->session, true);
    assert_int_equal(read_all(f), 0);
    assert_int_equal(f->peer.n_frames[NGHTTP2_GOAWAY], 2);
    assert_int_equal(f->peer.goaway_stream, 3);
    peer_call(&f->sent, 5, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_begun, 2);
    assert_false(grpc_server_session_is_done(f->session));

    for (size_t i = 0; i < 2; i++) {
        echo_reply(f->echo.held[i], "x", 1);
        echo_finish(f->echo.held[i], GRPC_OK, NULL);
    }
    assert_int_equal(read_all(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 6\n" OK_TRAILERS);
    assert_true(grpc_server_session_is_done(f->session));
    close_session(f);
}

static void an_idle_connection_is_done_when_drained(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 24; n += 8) {
        struct fixture *f = open_with(&grpc_server_options_default);
        buffer_append(&f->sent, PEER_PREFACE, n);
        assert_int_equal(exchange(f), 0);
        assert_false(grpc_server_session_is_done(f->session));
        grpc_server_session_drain(f->session, true);
        read_all(f);
        assert_true(grpc_server_session_is_done(f->session));
        close_session(f);
    }
}

static void a_client_that_says_goaway_is_served_to_its_end(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    peer_frame(&f->sent, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
    assert_int_equal(exchange(f), 0);
    assert_false(grpc_server_session_is_done(f->session));
    echo_finish(f->echo.held[0], GRPC_ABORTED, NULL);
    assert_int_equal(read_all(f), 0);
    assert_true(grpc_server_session_is_done(f->session));
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

/* ---- Hostile ---- */

static void more_calls_than_allowed_are_refused(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    f->peer.stream = 201;
    for (uint32_t stream = 1; stream <= 201; stream += 2)
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_begun, 100);
    assert_string_equal(peer_text(&f->peer), "RST 7\n");
    close_session(f);
}

static void frames_that_bring_nothing_end_the_call(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < 3; kind++) {
        struct fixture *f = open_session();
        peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Hold"));
        for (size_t i = 0; i < 100; i++) {
            if (kind == 0)
                peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, NULL, 0);
            else if (kind == 1) /* nothing but padding */
                peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, "\3\0\0\0", 4);
            else
                peer_headers(&f->sent, 1, 0, "x: y\n");
        }
        peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
        assert_int_equal(exchange(f), 0);
        assert_string_equal(peer_text(&f->peer), "RST 11\n");
        assert_int_equal(f->echo.n_lost, 1);
        assert_int_equal(f->echo.n_finished, 1);
        close_session(f);
    }
}

static void a_flood_of_resets_ends_the_connection(void **state)
{
    struct fixture *f = open_session();
    size_t n = 0;
    (void)state;

    for (uint32_t stream = 1; n < 5000; stream += 2, n++) {
        peer_headers(&f->sent, stream, 0, PEER_REQUEST("/t/Hold"));
        peer_reset(&f->sent, stream, NGHTTP2_CANCEL);
        if (exchange(f) < 0)
            break;
    }
    assert_in_range(n, 100, 4999);
    assert_int_equal(f->peer.n_frames[NGHTTP2_GOAWAY], 1);
    close_session(f);
}

static void a_flood_of_continuations_ends_the_connection(void **state)
{
    struct fixture *f = open_session();
    struct buffer block = BUFFER_INIT(1000);
    (void)state;

    peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
    peer_frame(&f->sent, NGHTTP2_HEADERS, 0, 1, buffer_bytes(&block), buffer_length(&block));
    buffer_done(&block);
    for (size_t i = 0; i < 20; i++)
        peer_frame(&f->sent, NGHTTP2_CONTINUATION, 0, 1, "\0\1x\1y", 5);
    assert_int_equal(exchange(f), -EPROTO);
    assert_int_equal(f->echo.n_begun, 0);
    close_session(f);
}

/* Until the session gives up on a client that sends such frames and reads nothing. */
static size_t flood(void (*append)(struct buffer *, uint32_t), size_t max)
{
    struct fixture *f = open_session();
    struct buffer *out = grpc_server_session_output(f->session);
    size_t n = 0;
    int rc = 0;

    while (rc == 0 && n < max) {
        append(&f->sent, (uint32_t)n++);
        rc = grpc_server_session_receive(f->session, buffer_bytes(&f->sent),
                                         buffer_length(&f->sent));
        buffer_done(&f->sent);
        if (rc == 0)
            rc = grpc_server_session_flush(f->session);
        assert_true(buffer_length(out) <= OUTPUT + FRAME);
    }
    assert_int_equal(rc, -EPROTO);
    close_session(f);
    return n;
}

static void append_ping(struct buffer *b, uint32_t i)
{
    (void)i;
    peer_frame(b, NGHTTP2_PING, 0, 0, "12345678", 8);
}

static void append_settings(struct buffer *b, uint32_t i)
{
    (void)i;
    peer_frame(b, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

static void append_refused(struct buffer *b, uint32_t i)
{
    peer_headers(b, 2 * i + 1, 0, ":method: GET\n");
}

static void append_window_overflow(struct buffer *b, uint32_t i)
{
    peer_headers(b, 2 * i + 1, 0, PEER_REQUEST("/t/Hold"));
    peer_window(b, 2 * i + 1, INT32_MAX);
}

static void floods_that_make_the_server_answer_are_bounded(void **state)
{
    (void)state;
    flood(append_ping, 20000);
    flood(append_settings, 20000);
    flood(append_refused, 20000);
    flood(append_window_overflow, 20000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_window_pauses_the_producer),
        cmocka_unit_test(replies_keep_their_order_and_content_through_pauses),
        cmocka_unit_test(a_client_that_does_not_read_stops_the_output),
        cmocka_unit_test(a_client_that_gives_no_window_gets_nothing_and_costs_little),
        cmocka_unit_test(replies_beyond_the_limit_fail_and_leave_the_call_whole),
        cmocka_unit_test(a_cancelled_call_ends_at_once),
        cmocka_unit_test(a_call_cancelled_before_its_status_was_sent_is_cancelled),
        cmocka_unit_test(a_lost_connection_ends_its_calls),
        cmocka_unit_test(draining_takes_calls_on_their_way_and_then_no_more),
        cmocka_unit_test(an_idle_connection_is_done_when_drained),
        cmocka_unit_test(a_client_that_says_goaway_is_served_to_its_end),
        cmocka_unit_test(more_calls_than_allowed_are_refused),
        cmocka_unit_test(frames_that_bring_nothing_end_the_call),
        cmocka_unit_test(a_flood_of_resets_ends_the_connection),
        cmocka_unit_test(a_flood_of_continuations_ends_the_connection),
        cmocka_unit_test(floods_that_make_the_server_answer_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
