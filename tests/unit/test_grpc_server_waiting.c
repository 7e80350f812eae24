/* What the session knows of clients that keep it waiting, with their bytes or with their windows.
 */
#include <errno.h>

#include "grpc_server_fixture.h"

static int receive(struct fixture *f, int64_t now_us, const uint8_t *data, size_t len)
{
    grpc_server_session_set_time(f->session, now_us);
    return grpc_server_session_receive(f->session, data, len);
}

/* Between frames nothing is owed, anywhere else it is since the first byte of the frame. */
static void every_half_of_a_session_shows(void **state)
{
    struct fixture *f = open_session();
    struct buffer block = BUFFER_INIT(1000);
    size_t ends[16] = {24 + 9}, n_ends = 1;
    int64_t since = 1;
    (void)state;

    peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
    peer_frame(&f->sent, NGHTTP2_PING, 0, 0, "12345678", 8);
    ends[n_ends++] = buffer_length(&f->sent);
    peer_frame(&f->sent, NGHTTP2_HEADERS, 0, 1, buffer_bytes(&block), buffer_length(&block));
    peer_frame(&f->sent, NGHTTP2_CONTINUATION, 0, 1, "\0\1x\1y", 5);
    peer_frame(&f->sent, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, NULL, 0);
    ends[n_ends++] = buffer_length(&f->sent);
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "\0\0\0\0\2", 5);
    ends[n_ends++] = buffer_length(&f->sent);
    peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "hi", 2);
    ends[n_ends++] = buffer_length(&f->sent);
    buffer_done(&block);

    grpc_server_session_set_time(f->session, 0);
    assert_int_equal(grpc_server_session_midway_since(f->session), -1);
    for (size_t i = 0, end = 0; i < buffer_length(&f->sent); i++) {
        assert_int_equal(receive(f, (int64_t)i + 1, buffer_bytes(&f->sent) + i, 1), 0);
        if (i + 1 == ends[end]) {
            end++;
            since = (int64_t)i + 2;
            assert_int_equal(grpc_server_session_midway_since(f->session), -1);
        } else {
            assert_int_equal(grpc_server_session_midway_since(f->session), since);
        }
    }
    read_all(f);
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

static void cut_sessions_and_random_pieces_end_alike(void **state)
{
    struct fixture *whole = open_session();
    uint64_t random = 88172645463325252u;
    (void)state;

    peer_call(&whole->sent, 1, PEER_REQUEST("/t/Both"), "hello");
    peer_call(&whole->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
    peer_reset(&whole->sent, 2, NGHTTP2_CANCEL);
    const uint8_t *bytes = buffer_bytes(&whole->sent);
    size_t len = buffer_length(&whole->sent) - 13;

    for (size_t cut = 0; cut <= len; cut++) {
        struct fixture *f = open_with(&grpc_server_options_default);
        for (size_t at = 0, n; at < cut; at += n) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            n = 1 + random % 40;
            n = n < cut - at ? n : cut - at;
            assert_int_equal(grpc_server_session_receive(f->session, bytes + at, n), 0);
            assert_int_equal(read_all(f), 0);
        }
        if (cut == len) {
            assert_int_equal(f->echo.n_finished, 2);
            assert_int_equal(f->peer.n_frames[NGHTTP2_RST_STREAM], 0);
        }
        close_session(f);
    }
    /* With the reset of a stream that only we could open, and never did. */
    assert_int_equal(exchange(whole), -EPROTO);
    close_session(whole);
}

static void resets_of_ended_calls_are_ignored(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Echo"), "hi");
    assert_int_equal(exchange(f), 0);
    peer_reset(&f->sent, 1, NGHTTP2_CANCEL);
    peer_window(&f->sent, 1, 100);
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
    peer_reset(&f->sent, 3, NGHTTP2_CANCEL);
    peer_call(&f->sent, 5, PEER_REQUEST("/t/Echo"), "hi");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_begun, 3);
    assert_int_equal(f->echo.n_finished, 2);
    assert_int_equal(f->echo.n_cancelled, 1);
    close_session(f);
}

/* ---- Replies that nobody takes ---- */

static struct grpc_server_call *open_call(struct fixture *f, uint32_t window)
{
    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window);
    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    return f->echo.held[0];
}

static void waiting_counts_from_the_last_byte_taken(void **state)
{
    struct fixture *f = open_session();
    struct grpc_server_call *call = open_call(f, 10);
    static const char zeros[2000];
    (void)state;

    grpc_server_session_set_time(f->session, 100);
    assert_int_equal(grpc_server_call_waits_since(call), -1);
    echo_reply(call, "0123456789", 10);
    grpc_server_session_set_time(f->session, 200);
    assert_int_equal(read_all(f), 0);
    grpc_server_session_set_time(f->session, 300);
    assert_int_equal(grpc_server_call_waits_since(call), 200);
    echo_reply(call, "more", 4);
    assert_int_equal(read_all(f), 0);
    assert_int_equal(grpc_server_call_waits_since(call), 200);
    peer_window(&f->sent, 1, 1);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(grpc_server_call_waits_since(call), 300);
    peer_window(&f->sent, 1, 1000);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(grpc_server_call_waits_since(call), -1);

    /* From the question on, where nothing was taken of it yet. */
    grpc_server_session_set_time(f->session, 400);
    echo_reply(call, zeros, sizeof zeros);
    grpc_server_session_set_time(f->session, 500);
    assert_int_equal(grpc_server_call_waits_since(call), 500);
    assert_int_equal(read_all(f), 0);
    assert_int_equal(grpc_server_call_waits_since(call), 500);
    echo_finish(call, GRPC_OK, NULL);
    close_session(f);
}

static void dropped_replies_let_the_status_pass(void **state)
{
    static const char *const expected[] = {
        "HEADERS END\ngrpc-status: 1\ngrpc-message: too slow\n",
        "HEADERS END\ngrpc-status: 1\ngrpc-message: too slow\n",
        "HEADERS END\ngrpc-status: 10\ngrpc-message: own\n",
    };
    (void)state;

    for (size_t i = 0; i < 3; i++) {
        for (uint32_t window = 0; window <= 7; window += 7) {
            struct fixture *f = open_session();
            struct grpc_server_call *call = open_call(f, window);
            char text[200];
            echo_reply(call, "hello", 5);
            assert_int_equal(read_all(f), 0);
            if (i == 1)
                echo_finish(call, GRPC_OK, NULL);
            if (i == 2)
                echo_finish(call, GRPC_ABORTED, "own");
            assert_int_equal(read_all(f), 0);
            assert_int_equal(grpc_server_session_n_calls(f->session), 1);
            grpc_server_call_drop(call, GRPC_CANCELLED, "too slow");
            grpc_server_call_drop(call, GRPC_CANCELLED, "twice");
            assert_int_equal(grpc_server_call_pending(call), 0);
            assert_int_equal(read_all(f), 0);
            snprintf(text, sizeof text, "%s%s%s", OK_HEADERS, window ? "DATA 7\n" : "",
                     expected[i]);
            assert_string_equal(peer_text(&f->peer), text);
            assert_int_equal(f->echo.n_finished, 1);
            assert_int_equal(grpc_server_session_n_calls(f->session), 0);

            f->peer.stream = 3;
            buffer_done(&f->peer.text);
            peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1000);
            peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
            assert_int_equal(exchange(f), 0);
            assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 7\n" OK_TRAILERS);
            close_session(f);
        }
    }
}

/* Of what nobody takes a frame may have been begun, for which the output has no room: it is owed.
 */
static void a_frame_that_was_begun_is_sent_before_the_status(void **state)
{
    enum { REPLY = 40000, FRAME = 16384 };
    static const char zeros[REPLY];
    (void)state;

    for (int i = 0; i < 3; i++) {
        struct fixture *f = open_session();
        struct grpc_server_call *call = open_call(f, 1 << 20);
        struct buffer *out = grpc_server_session_output(f->session);
        char text[200];

        /* As if the client had left so much of the output that one frame fills it. */
        uint8_t filler[(64 << 10) - 100];
        memset(filler, 0, sizeof filler);
        buffer_append(out, filler, sizeof filler);
        echo_reply(call, zeros, i == 2 ? FRAME : REPLY);
        /* At the end of the last frame the status is behind it already. */
        if (i > 0)
            echo_finish(call, GRPC_OK, NULL);
        assert_int_equal(grpc_server_session_flush(f->session), 0);
        assert_in_range(buffer_length(out), sizeof filler + FRAME, sizeof filler + FRAME + 200);
        grpc_server_call_drop(call, GRPC_CANCELLED, "too slow");
        grpc_server_call_drop(call, GRPC_CANCELLED, "twice");
        assert_int_equal(grpc_server_call_pending(call), 0);
        assert_int_equal(grpc_server_call_waits_since(call), -1);
        buffer_consume(out, sizeof filler);
        assert_int_equal(read_all(f), 0);
        snprintf(text, sizeof text, "%sDATA %d\n%s", OK_HEADERS, i == 2 ? FRAME + 5 : 2 * FRAME,
                 i == 2 ? OK_TRAILERS : "HEADERS END\ngrpc-status: 1\ngrpc-message: too slow\n");
        assert_string_equal(peer_text(&f->peer), text);
        assert_int_equal(f->echo.n_finished, 1);
        close_session(f);
    }
}

static void without_replies_nothing_is_dropped(void **state)
{
    struct fixture *f = open_session();
    struct grpc_server_call *call = open_call(f, 1000);
    (void)state;

    grpc_server_call_drop(call, GRPC_CANCELLED, "too slow");
    echo_reply(call, "x", 1);
    assert_int_equal(read_all(f), 0);
    grpc_server_call_drop(call, GRPC_CANCELLED, "too slow");
    echo_finish(call, GRPC_OK, NULL);
    assert_int_equal(read_all(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 6\n" OK_TRAILERS);
    close_session(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_of_a_session_shows),
        cmocka_unit_test(cut_sessions_and_random_pieces_end_alike),
        cmocka_unit_test(resets_of_ended_calls_are_ignored),
        cmocka_unit_test(waiting_counts_from_the_last_byte_taken),
        cmocka_unit_test(dropped_replies_let_the_status_pass),
        cmocka_unit_test(a_frame_that_was_begun_is_sent_before_the_status),
        cmocka_unit_test(without_replies_nothing_is_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
