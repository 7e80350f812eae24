/* The client session: calls, their messages and flow control. */
#include <errno.h>

#include "grpc_client_fixture.h"

static void a_request_is_what_servers_expect(void **state)
{
    struct fixture *f = open_with(NULL);
    static const struct grpc_client_metadata metadata[] = {
        {"completion-api-key", "s3cret value", true},
        {"x-id", "7", false},
    };
    const struct grpc_client_start start = {
        .path = "/a.B/C", .timeout_us = 1500000, .metadata = metadata, .n_metadata = 2};
    (void)state;

    assert_int_equal(grpc_client_call_new(f->session, &start, "hello", 5, &f->call), 0);
    read_all(f);
    assert_string_equal(peer_text(&f->peer),
                        "HEADERS\n:method: POST\n:scheme: http\n:path: /a.B/C\n"
                        ":authority: localhost\nte: trailers\ncontent-type: application/grpc\n"
                        "user-agent: libcompletion/" COMPLETIOND_VERSION "\n"
                        "grpc-timeout: 1500000u\ncompletion-api-key: s3cret value\nx-id: 7\n"
                        "DATA 10\nEND\n");
    assert_int_equal(f->peer.n_secrets, 2); /* the key, and the timeout */
    assert_memory_equal(buffer_bytes(&f->peer.data), "\0\0\0\0\5hello", 10);
    close_all(f);
}

static void metadata_that_cannot_be_sent_is_refused(void **state)
{
    static const struct grpc_client_metadata bad[] = {
        {"", "x", false},
        {"Upper", "x", false},
        {"a b", "x", false},
        {":path", "x", false},
        {"te", "x", false},
        {"grpc-status", "x", false},
        {"content-type", "x", false},
        {"key", "a\nb", false},
        {"key", "\xc3\xa9", false},
        {"key", "\x7f", false},
    };
    static const char *const paths[] = {"", "x", "/a\n", "/\xc3\xa9"};
    struct fixture *f = open_with(NULL);
    (void)state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        const struct grpc_client_start start = {.path = "/a", .metadata = &bad[i], .n_metadata = 1};
        assert_int_equal(grpc_client_call_new(f->session, &start, "", 0, &f->call), -EINVAL);
    }
    for (size_t i = 0; i < COUNT(paths); i++) {
        const struct grpc_client_start start = {.path = paths[i]};
        assert_int_equal(grpc_client_call_new(f->session, &start, "", 0, &f->call), -EINVAL);
    }
    assert_null(f->call);
    read_all(f);
    assert_string_equal(peer_text(&f->peer), "");
    close_all(f);
}

static void a_unary_reply_is_read(void **state)
{
    struct fixture *f = open_call();
    size_t details_len;
    (void)state;

    assert_false(grpc_client_call_is_ended(f->call));
    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "hello");
    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, REPLY_TRAILERS);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->n_ready, 2);
    assert_next(f->call, "hello");
    assert_no_next(f->call);
    assert_end(f->call, GRPC_OK, "");
    assert_null(grpc_client_call_details(f->call, &details_len));
    assert_false(grpc_client_call_was_unprocessed(f->call));
    close_all(f);
}

/* Three messages, an empty one among them, over frames that do not care. */
static void append_stream(struct buffer *b)
{
    static const uint8_t data[] = "\0\0\0\0\3one\0\0\0\0\0\0\0\0\0\5three";

    peer_frame(b, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_headers(b, 1, 0, ":status: 103\n");
    peer_headers(b, 1, 0, REPLY_HEADERS);
    peer_frame(b, NGHTTP2_DATA, 0, 1, data, 2);
    peer_frame(b, NGHTTP2_DATA, 0, 1, NULL, 0);
    peer_frame(b, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, "\2\0\0\0", 4);
    peer_frame(b, NGHTTP2_DATA, 0, 1, data + 3, 7);
    peer_frame(b, NGHTTP2_PING, 0, 0, "12345678", 8);
    peer_frame(b, NGHTTP2_DATA, 0, 1, data + 10, sizeof data - 1 - 10);
    peer_headers(
        b, 1, NGHTTP2_FLAG_END_STREAM,
        "grpc-status: 5\ngrpc-message: 100%25 %c3%a9\ngrpc-status-details-bin: CAMA/w==\n");
}

/* In steps of n bytes; reading after every step or only at the end. */
static void run_stream(size_t n, bool reads_late)
{
    static const char *const expected[] = {"one", "", "three"};
    struct fixture *f = open_with(NULL);
    struct buffer b = BUFFER_INIT(1 << 20);
    size_t n_messages = 0, len;
    const uint8_t *message;

    f->call = start_call(f, "/t/Stream", "", 0);
    read_all(f);
    append_stream(&b);
    while (buffer_length(&b) > 0) {
        size_t step = n < buffer_length(&b) ? n : buffer_length(&b);
        buffer_append(&f->sent, buffer_bytes(&b), step);
        buffer_consume(&b, step);
        assert_int_equal(exchange(f), 0);
        while ((!reads_late || buffer_length(&b) == 0) &&
               grpc_client_call_next(f->call, &message, &len) == 1) {
            assert_int_equal(len, strlen(expected[n_messages]));
            assert_memory_equal(message, expected[n_messages], len);
            n_messages++;
        }
    }
    assert_int_equal(n_messages, 3);
    assert_end(f->call, GRPC_NOT_FOUND, "100% \xc3\xa9");
    const uint8_t *details = grpc_client_call_details(f->call, &len);
    assert_int_equal(len, 4);
    assert_memory_equal(details, "\x08\x03\x00\xff", 4);
    assert_int_equal(f->peer.n_frames[NGHTTP2_RST_STREAM], 0);
    buffer_done(&b);
    close_all(f);
}

static void the_outcome_does_not_depend_on_how_bytes_are_cut(void **state)
{
    (void)state;
    for (size_t n = 1; n < 300; n++) {
        run_stream(n, false);
        run_stream(n, true);
    }
}

static void a_connection_cut_at_any_byte_ends_the_call(void **state)
{
    struct buffer b = BUFFER_INIT(1 << 20);
    (void)state;

    append_stream(&b);
    for (size_t n = 0; n <= buffer_length(&b); n++) {
        struct fixture *f = open_with(NULL);
        f->call = start_call(f, "/t/Stream", "", 0);
        read_all(f);
        buffer_append(&f->sent, buffer_bytes(&b), n);
        assert_int_equal(exchange(f), 0);
        grpc_client_session_closed(f->session, "cut");
        if (n < buffer_length(&b))
            assert_end(f->call, GRPC_UNAVAILABLE, "cut");
        else
            assert_end(f->call, GRPC_NOT_FOUND, "100% \xc3\xa9");
        assert_false(grpc_client_session_is_open(f->session));
        assert_int_equal(grpc_client_session_receive(f->session, (const uint8_t *)"", 1), -EPIPE);
        close_all(f);
    }
    buffer_done(&b);
}

/* ---- Messages and windows ---- */

static void a_view_stays_valid_while_more_arrives(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t zeros[16000];
    const uint8_t *message;
    size_t len;
    (void)state;

    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "first");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(grpc_client_call_next(f->call, &message, &len), 1);

    /* A message that comes in pieces and makes the buffer grow again and again. */
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "\0\0\1\x77\0", 5);
    for (size_t i = 0; i < 6; i++) {
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, zeros, sizeof zeros);
        assert_int_equal(exchange(f), 0);
        assert_int_equal(len, 5);
        assert_memory_equal(message, "first", 5);
    }
    peer_message(&f->sent, 1, 0, "last");
    assert_int_equal(exchange(f), 0);
    assert_memory_equal(message, "first", 5);
    assert_int_equal(grpc_client_call_next(f->call, &message, &len), 1);
    assert_int_equal(len, 6 * sizeof zeros);
    assert_memory_equal(message, zeros, sizeof zeros);
    assert_next(f->call, "last");
    assert_no_next(f->call);
    close_all(f);
}

static void messages_that_are_not_taken_hold_the_window_back(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t message[5 + 15995] = {0, 0, 0, 0x3e, 0x7b};
    const uint8_t *view;
    size_t len;
    (void)state;

    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    for (size_t i = 0; i < 16; i++)
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, message, sizeof message);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->peer.n_window, 0);
    for (size_t i = 0; i < 16; i++) {
        assert_int_equal(grpc_client_call_next(f->call, &view, &len), 1);
        assert_int_equal(len, sizeof message - 5);
        read_all(f);
        assert_true(f->peer.n_window <= (i + 1) * sizeof message);
    }
    assert_true(f->peer.n_window > 8 * sizeof message);
    close_all(f);
}

static void a_message_larger_than_the_window_arrives(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t zeros[16000];
    const uint8_t *view;
    size_t len, sent = 0;
    (void)state;

    /* 4096000 bytes, as the window allows. */
    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "\0\0\x3e\x80\0", 5);
    while (sent < 4096000) {
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, zeros, sizeof zeros);
        sent += sizeof zeros;
        assert_int_equal(exchange(f), 0);
        assert_true((256 << 10) + f->peer.n_window >= sent + 5);
    }
    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, REPLY_TRAILERS);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(grpc_client_call_next(f->call, &view, &len), 1);
    assert_int_equal(len, 4096000);
    assert_end(f->call, GRPC_OK, "");
    close_all(f);
}

static void calls_do_not_share_a_window(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t message[5 + 15995] = {0, 0, 0, 0x3e, 0x7b};
    (void)state;

    /* Far more than one connection's default window, and nobody reads any of it. */
    struct grpc_client_call *calls[20];
    for (size_t i = 0; i < COUNT(calls); i++)
        calls[i] = start_call(f, "/t/Stream", "", 0);
    read_all(f);
    for (uint32_t stream = 1; stream <= 41; stream += 2) {
        peer_headers(&f->sent, stream, 0, REPLY_HEADERS);
        for (size_t i = 0; i < 16; i++)
            peer_frame(&f->sent, NGHTTP2_DATA, 0, stream, message, sizeof message);
    }
    assert_int_equal(exchange(f), 0);
    for (size_t i = 0; i < COUNT(calls); i++) {
        const uint8_t *view;
        size_t len, n = 0;
        assert_false(grpc_client_call_is_ended(calls[i]));
        while (grpc_client_call_next(calls[i], &view, &len) == 1)
            n++;
        assert_int_equal(n, 16);
        grpc_client_call_free(calls[i]);
    }
    close_all(f);
}

static void a_server_that_ignores_the_window_is_left(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t message[5 + 15995] = {0, 0, 0, 0x3e, 0x7b};
    (void)state;

    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    for (size_t i = 0; i < 20; i++)
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, message, sizeof message);
    exchange(f);
    assert_true(grpc_client_call_is_ended(f->call));
    assert_int_equal(grpc_client_call_status(f->call), GRPC_INTERNAL);
    close_all(f);
}

/* ---- Leaving ---- */

static void a_cancelled_call_keeps_its_messages_and_resets_the_stream(void **state)
{
    struct fixture *f = open_call();
    (void)state;

    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "one");
    assert_int_equal(exchange(f), 0);
    grpc_client_call_cancel(f->call, GRPC_DEADLINE_EXCEEDED, "too late");
    grpc_client_call_cancel(f->call, GRPC_CANCELLED, "again");
    assert_end(f->call, GRPC_DEADLINE_EXCEEDED, "too late");
    assert_false(grpc_client_call_was_unprocessed(f->call));
    assert_next(f->call, "one");
    peer_message(&f->sent, 1, 0, "two");
    assert_int_equal(exchange(f), 0);
    assert_no_next(f->call);
    assert_non_null(strstr(peer_text(&f->peer), "END\nRST 8\n"));
    assert_true(grpc_client_session_is_open(f->session));
    close_all(f);
}

static void a_call_that_is_freed_before_it_was_sent_leaves_no_trace(void **state)
{
    struct fixture *f = open_with(NULL);
    (void)state;

    f->peer.stream = 3;
    struct grpc_client_call *first = start_call(f, "/t/Echo", "hi", 2);
    f->call = start_call(f, "/t/Echo", "hi", 2);
    grpc_client_call_free(first);
    read_all(f);
    assert_int_equal(f->peer.n_frames[NGHTTP2_HEADERS], 1);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_headers(&f->sent, 3, NGHTTP2_FLAG_END_STREAM, REPLY_HEADERS "grpc-status: 9\n");
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, GRPC_FAILED_PRECONDITION, "");
    close_all(f);
}

static void freeing_a_call_in_its_middle_cancels_it(void **state)
{
    struct fixture *f = open_call();
    static const uint8_t zeros[100000];
    (void)state;

    /* One whose answer is there in part, one whose request is. */
    struct grpc_client_call *large = start_call(f, "/t/Echo", zeros, sizeof zeros);
    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "one");
    assert_int_equal(exchange(f), 0);
    f->call = grpc_client_call_free(f->call);
    grpc_client_call_free(large);
    read_all(f);
    assert_int_equal(f->peer.n_frames[NGHTTP2_RST_STREAM], 2);

    /* What was on its way is dropped. */
    peer_message(&f->sent, 1, 0, "two");
    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, REPLY_TRAILERS);
    peer_window(&f->sent, 0, 1 << 20);
    assert_int_equal(exchange(f), 0);
    assert_true(grpc_client_session_is_open(f->session));
    close_all(f);
}

static void calls_outlive_their_session(void **state)
{
    struct fixture *f = open_call();
    (void)state;

    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "one");
    peer_message(&f->sent, 1, 0, "two");
    assert_int_equal(exchange(f), 0);
    f->session = grpc_client_session_free(f->session);
    assert_end(f->call, GRPC_UNAVAILABLE, "connection closed");
    assert_next(f->call, "one");
    assert_next(f->call, "two");
    assert_no_next(f->call);
    grpc_client_call_cancel(f->call, GRPC_CANCELLED, "late");
    assert_end(f->call, GRPC_UNAVAILABLE, "connection closed");
    close_all(f);
}

static void a_large_request_waits_for_the_servers_window(void **state)
{
    struct fixture *f = open_with(NULL);
    static uint8_t message[300000];
    (void)state;

    memset(message, 'x', sizeof message);
    f->call = start_call(f, "/t/Echo", message, sizeof message);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(buffer_length(&f->peer.data), 65535);
    while (buffer_length(&f->peer.data) < 5 + sizeof message) {
        size_t before = buffer_length(&f->peer.data);
        peer_window(&f->sent, 0, 50000);
        peer_window(&f->sent, 1, 50000);
        assert_int_equal(exchange(f), 0);
        assert_true(buffer_length(&f->peer.data) > before);
    }
    assert_memory_equal(buffer_bytes(&f->peer.data) + 5, message, sizeof message);
    assert_non_null(strstr(peer_text(&f->peer), "DATA 300005\nEND\n"));
    close_all(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_what_servers_expect),
        cmocka_unit_test(metadata_that_cannot_be_sent_is_refused),
        cmocka_unit_test(a_unary_reply_is_read),
        cmocka_unit_test(the_outcome_does_not_depend_on_how_bytes_are_cut),
        cmocka_unit_test(a_connection_cut_at_any_byte_ends_the_call),
        cmocka_unit_test(a_view_stays_valid_while_more_arrives),
        cmocka_unit_test(messages_that_are_not_taken_hold_the_window_back),
        cmocka_unit_test(a_message_larger_than_the_window_arrives),
        cmocka_unit_test(calls_do_not_share_a_window),
        cmocka_unit_test(a_server_that_ignores_the_window_is_left),
        cmocka_unit_test(a_cancelled_call_keeps_its_messages_and_resets_the_stream),
        cmocka_unit_test(a_call_that_is_freed_before_it_was_sent_leaves_no_trace),
        cmocka_unit_test(freeing_a_call_in_its_middle_cancels_it),
        cmocka_unit_test(calls_outlive_their_session),
        cmocka_unit_test(a_large_request_waits_for_the_servers_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
