/* How a call ends at the client, whatever the server says or breaks. */
#include <errno.h>

#include "grpc_client_fixture.h"

/* The whole answer in one block of headers. */
static void assert_trailers_only(const char *lines, enum grpc_status status, const char *message)
{
    struct fixture *f = open_call();

    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, lines);
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, status, message);
    assert_no_next(f->call);
    close_all(f);
}

/* Headers, these bytes, and these trailers if not NULL (else the body's end is all). */
static void assert_answer(const char *lines, const void *body, size_t len, const char *trailers,
                          enum grpc_status status, const char *message)
{
    struct fixture *f = open_call();

    peer_headers(&f->sent, 1, 0, lines);
    peer_frame(&f->sent, NGHTTP2_DATA, trailers ? 0 : NGHTTP2_FLAG_END_STREAM, 1, body, len);
    if (trailers)
        peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, trailers);
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, status, message);
    assert_true(grpc_client_session_is_open(f->session));
    close_all(f);
}

static void every_status_is_taken_from_trailers(void **state)
{
    (void)state;
    for (int status = 0; status <= 16; status++) {
        char lines[200];
        snprintf(lines, sizeof lines, REPLY_HEADERS "grpc-status: %d\ngrpc-message: m\n", status);
        assert_trailers_only(lines, (enum grpc_status)status, "m");
    }
    assert_trailers_only(REPLY_HEADERS "grpc-status: 17\n", GRPC_UNKNOWN, "");
    assert_trailers_only(REPLY_HEADERS "grpc-status: x\n", GRPC_UNKNOWN, "");
    assert_trailers_only(REPLY_HEADERS "grpc-status: 0x\n", GRPC_UNKNOWN, "");
    assert_trailers_only(REPLY_HEADERS "grpc-status: -0\n", GRPC_UNKNOWN, "");
    assert_trailers_only(REPLY_HEADERS "grpc-status: \n", GRPC_UNKNOWN, "");
}

static void http_errors_are_mapped(void **state)
{
    static const struct {
        int http;
        enum grpc_status status;
        const char *message;
    } table[] = {
        {400, GRPC_INTERNAL, "the server answered HTTP 400, not gRPC"},
        {401, GRPC_UNAUTHENTICATED, "the server answered HTTP 401, not gRPC"},
        {403, GRPC_PERMISSION_DENIED, "the server answered HTTP 403, not gRPC"},
        {404, GRPC_UNIMPLEMENTED, "the server answered HTTP 404, not gRPC"},
        {429, GRPC_UNAVAILABLE, "the server answered HTTP 429, not gRPC"},
        {502, GRPC_UNAVAILABLE, "the server answered HTTP 502, not gRPC"},
        {503, GRPC_UNAVAILABLE, "the server answered HTTP 503, not gRPC"},
        {504, GRPC_UNAVAILABLE, "the server answered HTTP 504, not gRPC"},
        {500, GRPC_UNKNOWN, "the server answered with HTTP, not gRPC"},
        {418, GRPC_UNKNOWN, "the server answered with HTTP, not gRPC"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        char lines[200];
        snprintf(lines, sizeof lines, ":status: %d\ncontent-type: text/html\n", table[i].http);
        assert_trailers_only(lines, table[i].status, table[i].message);
        assert_answer(lines, "<html>", 6, NULL, table[i].status, table[i].message);
    }
    /* gRPC's own status has precedence where there is one. */
    assert_trailers_only(":status: 415\ncontent-type: application/grpc\ngrpc-status: 3\n",
                         GRPC_INVALID_ARGUMENT, "");
}

static void an_answer_that_is_not_grpc_is_told_so(void **state)
{
    (void)state;
    assert_answer(":status: 200\ncontent-type: text/html\n", "<html>", 6, NULL, GRPC_UNKNOWN,
                  "the server's content-type is not application/grpc: it does not speak gRPC");
    assert_answer(":status: 200\n", "", 0, NULL, GRPC_UNKNOWN,
                  "the server's content-type is not application/grpc: it does not speak gRPC");
}

static void only_whole_messages_make_an_ok(void **state)
{
    (void)state;
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2hi", 7, REPLY_TRAILERS, GRPC_OK, "");
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2h", 6, REPLY_TRAILERS, GRPC_INTERNAL,
                  "the server's last message is cut short");
    assert_answer(REPLY_HEADERS, "\0", 1, REPLY_TRAILERS, GRPC_INTERNAL,
                  "the server's last message is cut short");
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2hi\0", 8, REPLY_TRAILERS, GRPC_INTERNAL,
                  "the server's last message is cut short");
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2h", 6, "grpc-status: 4\n", GRPC_DEADLINE_EXCEEDED, "");
}

static void an_end_without_status_is_no_ok(void **state)
{
    (void)state;
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2hi", 7, NULL, GRPC_UNKNOWN,
                  "the server answered without grpc-status");
    assert_answer(REPLY_HEADERS, "\0\0\0\0\2hi", 7, "x: y\n", GRPC_UNKNOWN,
                  "the server answered without grpc-status");
    /* A status in headers that are not the last is none. */
    assert_answer(REPLY_HEADERS "grpc-status: 0\n", "", 0, NULL, GRPC_UNKNOWN,
                  "the server answered without grpc-status");
}

static void compressed_replies_are_refused(void **state)
{
    (void)state;
    assert_answer(REPLY_HEADERS, "\1\0\0\0\0", 5, REPLY_TRAILERS, GRPC_INTERNAL,
                  "compressed message, though no compression was agreed on");
    assert_answer(REPLY_HEADERS "grpc-encoding: gzip\n", "\0\0\0\0\0", 5, REPLY_TRAILERS,
                  GRPC_INTERNAL, "the server compressed its reply, though that was not agreed on");
    assert_answer(REPLY_HEADERS "grpc-encoding: identity\n", "\0\0\0\0\0", 5, REPLY_TRAILERS,
                  GRPC_OK, "");
}

static void a_reply_that_is_too_large_fails_on_its_prefix(void **state)
{
    struct grpc_client_options options = grpc_client_options_default;
    options.max_message_bytes = 100;
    struct fixture *f = open_with(&options);
    (void)state;

    f->call = start_call(f, "/t/Echo", "", 0);
    read_all(f);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
    peer_message(&f->sent, 1, 0, "small");
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "\0\0\0\0\145", 5);
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, GRPC_RESOURCE_EXHAUSTED, "Received message larger than max (101 vs. 100)");
    assert_next(f->call, "small");
    assert_no_next(f->call);
    assert_non_null(strstr(peer_text(&f->peer), "RST 8\n"));
    close_all(f);
}

static void headers_that_are_too_large_fail_the_call(void **state)
{
    struct buffer lines = BUFFER_INIT(1 << 20);
    (void)state;

    buffer_append_string(&lines, REPLY_HEADERS "grpc-status: 0\nx: ");
    for (size_t i = 0; i < 15000; i++)
        buffer_append_byte(&lines, 'x');
    buffer_append_byte(&lines, '\n');
    size_t length = buffer_length(&lines);
    for (size_t i = 0; i < 3; i++) {
        struct fixture *f = open_call();
        struct buffer block = BUFFER_INIT(1 << 20);
        buffer_append_byte(&lines, 0);
        peer_hpack_lines(&block, (const char *)buffer_bytes(&lines));
        buffer_truncate(&lines, length);
        /* Once into the table, then twice by its index, so that one frame has room. */
        const char small[] = "\x40\1y";
        buffer_append(&block, small, 3);
        char value[4000];
        memset(value, 'y', sizeof value);
        peer_hpack_string(&block, value, 1000 * (i + 1));
        for (size_t k = 0; k < 40; k++)
            buffer_append_byte(&block, 0x80 | 62);
        if (buffer_length(&block) <= 16384) {
            peer_frame(&f->sent, NGHTTP2_HEADERS,
                       NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, buffer_bytes(&block),
                       buffer_length(&block));
        } else {
            peer_frame(&f->sent, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 1, buffer_bytes(&block),
                       16384);
            peer_frame(&f->sent, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1,
                       buffer_bytes(&block) + 16384, buffer_length(&block) - 16384);
        }
        assert_int_equal(exchange(f), 0);
        assert_end(f->call, GRPC_RESOURCE_EXHAUSTED, "the server's headers are too large");
        buffer_done(&block);
        close_all(f);
    }
    buffer_done(&lines);
}

static void resets_are_mapped(void **state)
{
    static const struct {
        uint32_t code;
        enum grpc_status status;
        bool is_unprocessed;
    } table[] = {
        {NGHTTP2_NO_ERROR, GRPC_INTERNAL, false},
        {NGHTTP2_PROTOCOL_ERROR, GRPC_INTERNAL, false},
        {NGHTTP2_INTERNAL_ERROR, GRPC_INTERNAL, false},
        {NGHTTP2_FLOW_CONTROL_ERROR, GRPC_INTERNAL, false},
        {NGHTTP2_REFUSED_STREAM, GRPC_UNAVAILABLE, true},
        {NGHTTP2_CANCEL, GRPC_CANCELLED, false},
        {NGHTTP2_ENHANCE_YOUR_CALM, GRPC_RESOURCE_EXHAUSTED, false},
        {NGHTTP2_INADEQUATE_SECURITY, GRPC_PERMISSION_DENIED, false},
        {0xdeadbeef, GRPC_INTERNAL, false},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        struct fixture *f = open_call();
        char text[100];
        peer_headers(&f->sent, 1, 0, REPLY_HEADERS);
        peer_message(&f->sent, 1, 0, "one");
        peer_reset(&f->sent, 1, table[i].code);
        assert_int_equal(exchange(f), 0);
        snprintf(text, sizeof text, "the call was reset: %s",
                 nghttp2_http2_strerror(table[i].code));
        assert_end(f->call, table[i].status, text);
        assert_int_equal(grpc_client_call_was_unprocessed(f->call), table[i].is_unprocessed);
        assert_next(f->call, "one");
        assert_no_next(f->call);
        close_all(f);
    }
}

static void a_reset_after_the_trailers_changes_nothing(void **state)
{
    struct fixture *f = open_with(NULL);
    static const uint8_t zeros[100000];
    (void)state;

    /* The request is still on its way when the server has said all. */
    f->call = start_call(f, "/t/Echo", zeros, sizeof zeros);
    read_all(f);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, REPLY_HEADERS "grpc-status: 8\n");
    peer_reset(&f->sent, 1, NGHTTP2_NO_ERROR);
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, GRPC_RESOURCE_EXHAUSTED, "");
    assert_true(buffer_length(&f->peer.data) < sizeof zeros);
    close_all(f);
}

static void a_goaway_tells_which_calls_were_not_processed(void **state)
{
    struct fixture *f = open_call();
    struct grpc_client_call *calls[4], *none = NULL;
    const struct grpc_client_start start = {.path = "/t"};
    (void)state;

    /* Two at once are allowed, so the later ones wait here. */
    peer_setting(&f->sent, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 3);
    assert_int_equal(exchange(f), 0);
    for (size_t i = 0; i < COUNT(calls); i++)
        calls[i] = start_call(f, "/t/Echo", "hi", 2);
    read_all(f);
    assert_int_equal(f->peer.n_frames[NGHTTP2_HEADERS], 3);

    peer_frame(&f->sent, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\3\0\0\0\0", 8);
    assert_int_equal(exchange(f), 0);
    assert_false(grpc_client_session_is_open(f->session));
    assert_int_equal(grpc_client_call_new(f->session, &start, "", 0, &none), -EPIPE);
    assert_false(grpc_client_call_is_ended(f->call));
    assert_false(grpc_client_call_is_ended(calls[0]));
    assert_int_equal(grpc_client_call_status(calls[1]), GRPC_UNAVAILABLE);
    assert_true(grpc_client_call_was_unprocessed(calls[1]));
    for (size_t i = 2; i < 4; i++) {
        assert_end(calls[i], GRPC_UNAVAILABLE, "the server takes no more calls");
        assert_true(grpc_client_call_was_unprocessed(calls[i]));
    }

    /* The others go on to their end. */
    for (uint32_t stream = 1; stream <= 3; stream += 2)
        peer_headers(&f->sent, stream, NGHTTP2_FLAG_END_STREAM, REPLY_HEADERS "grpc-status: 9\n");
    assert_int_equal(exchange(f), 0);
    assert_end(f->call, GRPC_FAILED_PRECONDITION, "");
    assert_end(calls[0], GRPC_FAILED_PRECONDITION, "");
    assert_int_equal(f->peer.n_frames[NGHTTP2_HEADERS], 3);
    for (size_t i = 0; i < 4; i++)
        grpc_client_call_free(calls[i]);
    close_all(f);
}

static void a_connection_that_is_lost_ends_all_calls(void **state)
{
    struct fixture *f = open_call();
    (void)state;

    struct grpc_client_call *unsent = start_call(f, "/t/Echo", "hi", 2);
    size_t before = f->n_ready;
    grpc_client_session_closed(f->session, "the daemon has gone away");
    assert_int_equal(f->n_ready, before + 2);
    assert_end(f->call, GRPC_UNAVAILABLE, "the daemon has gone away");
    assert_false(grpc_client_call_was_unprocessed(f->call));
    assert_end(unsent, GRPC_UNAVAILABLE, "the daemon has gone away");
    assert_true(grpc_client_call_was_unprocessed(unsent));
    grpc_client_call_free(unsent);
    close_all(f);
}

static void other_protocols_are_told_apart(void **state)
{
    static const struct {
        const char *text, *message;
    } table[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", "the server speaks HTTP/1, not gRPC"},
        {"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
         "the server is no gRPC server, or its HTTP/2 is broken"},
        {"HTTP?xxxxxxxxxxxxxxxxxxxx", "the server is no gRPC server, or its HTTP/2 is broken"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(table); i++) {
        for (size_t step = 1; step < 40; step += 38) {
            struct fixture *f = open_with(NULL);
            int rc = 0;
            f->call = start_call(f, "/t/Echo", "hi", 2);
            read_all(f);
            for (size_t n = 0; rc == 0 && n < strlen(table[i].text); n += step) {
                size_t rest = strlen(table[i].text) - n;
                buffer_append(&f->sent, table[i].text + n, step < rest ? step : rest);
                rc = exchange(f);
            }
            assert_int_equal(rc, -EPROTO);
            assert_end(f->call, GRPC_UNAVAILABLE, table[i].message);
            assert_false(grpc_client_session_is_open(f->session));
            assert_int_equal(grpc_client_session_flush(f->session), -EPROTO);
            close_all(f);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_is_taken_from_trailers),
        cmocka_unit_test(http_errors_are_mapped),
        cmocka_unit_test(an_answer_that_is_not_grpc_is_told_so),
        cmocka_unit_test(only_whole_messages_make_an_ok),
        cmocka_unit_test(an_end_without_status_is_no_ok),
        cmocka_unit_test(compressed_replies_are_refused),
        cmocka_unit_test(a_reply_that_is_too_large_fails_on_its_prefix),
        cmocka_unit_test(headers_that_are_too_large_fail_the_call),
        cmocka_unit_test(resets_are_mapped),
        cmocka_unit_test(a_reset_after_the_trailers_changes_nothing),
        cmocka_unit_test(a_goaway_tells_which_calls_were_not_processed),
        cmocka_unit_test(a_connection_that_is_lost_ends_all_calls),
        cmocka_unit_test(other_protocols_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
