/* The server session: calls, and bytes that come in any pieces. */
#include <errno.h>

#include "grpc_server_fixture.h"

static void settings_come_as_soon_as_the_preface_was_there(void **state)
{
    struct fixture *f = open_with(&grpc_server_options_default);
    struct buffer *out = grpc_server_session_output(f->session);
    (void)state;

    assert_int_equal(grpc_server_session_receive(f->session, (const uint8_t *)PEER_PREFACE, 23), 0);
    assert_int_equal(grpc_server_session_flush(f->session), 0);
    assert_int_equal(buffer_length(out), 0);
    assert_int_equal(grpc_server_session_receive(f->session, (const uint8_t *)"\n", 1), 0);
    assert_true(grpc_server_session_wants_flush(f->session));
    assert_int_equal(grpc_server_session_flush(f->session), 0);

    static const uint8_t settings[] = {
        0, 0, 12, NGHTTP2_SETTINGS, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 6, 0, 0, 0x40, 0};
    assert_true(buffer_length(out) >= sizeof settings);
    assert_memory_equal(buffer_bytes(out), settings, sizeof settings);
    close_session(f);
}

static void a_unary_call_is_answered(void **state)
{
    (void)state;
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0\0\0\2hi", 7, OK_HEADERS "DATA 7\n" OK_TRAILERS);
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0\0\0\0", 5, OK_HEADERS "DATA 5\n" OK_TRAILERS);
}

static void a_stream_is_answered_in_joined_frames(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Stream"), "100 5");
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 1000\n" OK_TRAILERS);
    assert_int_equal(f->peer.n_frames[NGHTTP2_DATA], 1);
    close_session(f);
}

static void an_error_comes_with_its_message_and_details(void **state)
{
    (void)state;
    assert_answer(
        PEER_REQUEST("/t/Fail"), "\0\0\0\0\0", 5,
        TRAILERS_ONLY("200", "3", "100%25 %C3%A9, or%0Aso") "grpc-status-details-bin: CAMA/w\n");
    assert_answer(PEER_REQUEST("/t/Both"), "\0\0\0\0\2hi", 7,
                  OK_HEADERS "DATA 7\nHEADERS END\ngrpc-status: 10\ngrpc-message: after a reply\n");
    assert_answer(PEER_REQUEST("/t/None"), "\0\0\0\0\0", 5,
                  TRAILERS_ONLY("200", "12", "unknown method"));
}

static void details_that_clients_would_refuse_are_left_out(void **state)
{
    struct fixture *f = open_session();
    char message[3 * GRPC_MESSAGE_MAX], details[8192];
    (void)state;

    memset(message, '\n', sizeof message - 1);
    message[sizeof message - 1] = '\0';
    memset(details, 'x', sizeof details);
    for (uint32_t stream = 1; stream <= 3; stream += 2)
        peer_call(&f->sent, stream, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);
    grpc_server_call_finish(f->echo.held[0], GRPC_INTERNAL, message, details, sizeof details);
    grpc_server_call_finish(f->echo.held[1], GRPC_INTERNAL, message, details, 3500);
    read_all(f);
    assert_null(strstr(peer_text(&f->peer), "details"));
    assert_non_null(strstr(peer_text(&f->peer), "grpc-status: 13"));
    close_session(f);
}

static void a_request_may_end_with_an_empty_frame_or_trailers(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Echo"));
    peer_message(&f->sent, 1, 0, "hi");
    peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
    peer_headers(&f->sent, 3, 0, PEER_REQUEST("/t/Echo"));
    peer_message(&f->sent, 3, 0, "hi");
    peer_headers(&f->sent, 3, NGHTTP2_FLAG_END_STREAM, "x: y\n");
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 7\n" OK_TRAILERS);
    assert_int_equal(f->echo.n_finished, 2);
    close_session(f);
}

static void ten_calls_at_once_are_served(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    for (uint32_t stream = 1; stream < 20; stream += 2)
        peer_headers(&f->sent, stream, 0, PEER_REQUEST("/t/Hold"));
    for (uint32_t stream = 1; stream < 20; stream += 2)
        peer_message(&f->sent, stream, NGHTTP2_FLAG_END_STREAM, "x");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(grpc_server_session_n_calls(f->session), 10);
    assert_int_equal(f->echo.n_held, 10);

    /* Answered in the opposite order. */
    for (size_t i = 10; i-- > 0;) {
        echo_reply(f->echo.held[i], "0123456789", i);
        echo_finish(f->echo.held[i], GRPC_OK, NULL);
    }
    read_all(f);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 5\n" OK_TRAILERS);
    assert_int_equal(f->echo.n_finished, 10);
    assert_int_equal(f->peer.n_frames[NGHTTP2_HEADERS], 20);
    close_session(f);
}

static void any_authority_is_taken(void **state)
{
    static const char *const authorities[] = {
        ":authority: \n",
        ":authority: /run/x.sock\n",
        ":authority: %2Frun%2Fx.sock\n",
        ":authority: a b\xff\n",
        "",
    };
    (void)state;

    for (size_t i = 0; i < COUNT(authorities); i++) {
        char lines[512];
        snprintf(lines, sizeof lines,
                 ":method: POST\n%s:path: /t/Echo\ncontent-type: application/grpc\n",
                 authorities[i]);
        ASSERT_ANSWER(lines, OK_HEADERS "DATA 7\n" OK_TRAILERS);
    }
}

static void metadata_and_timeout_are_the_calls(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1,
              PEER_REQUEST("/t/Hold") "authorization: Bearer one\nx-id: 7\nauthorization: Bearer "
                                      "two\ngrpc-timeout: 200m\ngrpc-foo: 1\nempty: \n",
              "");
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Hold"), "");
    assert_int_equal(exchange(f), 0);

    struct grpc_server_call *call = f->echo.held[0];
    assert_string_equal(grpc_server_call_path(call), "/t/Hold");
    assert_string_equal(grpc_server_call_metadata(call, "authorization"), "Bearer two");
    assert_string_equal(grpc_server_call_metadata(call, "x-id"), "7");
    assert_string_equal(grpc_server_call_metadata(call, "empty"), "");
    assert_null(grpc_server_call_metadata(call, "grpc-foo"));
    assert_null(grpc_server_call_metadata(call, "grpc-timeout"));
    assert_null(grpc_server_call_metadata(call, "te"));
    assert_null(grpc_server_call_metadata(call, "content-type"));
    assert_null(grpc_server_call_metadata(call, ":path"));
    assert_null(grpc_server_call_metadata(call, "x"));
    assert_int_equal(grpc_server_call_timeout_us(call), 200000);
    assert_int_equal(grpc_server_call_timeout_us(f->echo.held[1]), -1);
    close_session(f);
}

/* ---- Other protocols ---- */

static void http1_gets_a_readable_400(void **state)
{
    static const char *const texts[] = {
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\n\r\n{}",
        "PRI * HTTP/2.0\r\n\r\nXX",
        "\x16\x03\x01\x02",
    };
    (void)state;

    for (size_t i = 0; i < COUNT(texts); i++) {
        for (size_t step = 1; step <= strlen(texts[i]); step += strlen(texts[i]) - 1) {
            struct fixture *f = open_with(&grpc_server_options_default);
            struct buffer *out = grpc_server_session_output(f->session);
            int rc = 0;
            for (size_t n = 0; rc == 0 && n < strlen(texts[i]); n += step)
                rc = grpc_server_session_receive(f->session, (const uint8_t *)texts[i] + n, step);
            assert_int_equal(rc, -EPROTO);
            assert_int_equal(grpc_server_session_flush(f->session), -EPROTO);
            assert_true(grpc_server_session_is_done(f->session));
            buffer_append_byte(out, 0);
            const char *text = (const char *)buffer_bytes(out);
            assert_int_equal(strncmp(text, "HTTP/1.1 400 Bad Request\r\n", 26), 0);
            assert_non_null(strstr(text, "This socket speaks gRPC, which is HTTP/2 without TLS"));
            close_session(f);
        }
    }
}

static void broken_http2_ends_with_a_goaway(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_call(&f->sent, 1, PEER_REQUEST("/t/Hold"), "");
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 0, "x", 1); /* DATA on stream 0 */
    assert_int_equal(exchange(f), -EPROTO);
    assert_int_equal(f->peer.n_frames[NGHTTP2_GOAWAY], 1);
    assert_int_equal(f->peer.goaway_code, NGHTTP2_PROTOCOL_ERROR);
    assert_true(grpc_server_session_is_done(f->session));
    assert_int_equal(grpc_server_session_receive(f->session, (const uint8_t *)"x", 1), -EPROTO);
    assert_int_equal(f->echo.n_begun, 1);
    grpc_server_session_free(f->session);
    f->session = NULL;
    assert_int_equal(f->echo.n_lost, 1);
    close_session(f);
}

/* ---- The golden session, cut ---- */

static void append_golden(struct buffer *b)
{
    peer_hello(b);
    peer_call(b, 1, PEER_REQUEST("/t/Echo") "authorization: Bearer x\n", "hello");
    peer_headers(b, 3, 0, PEER_REQUEST("/t/Stream") "grpc-timeout: 5S\n");
    peer_frame(b, NGHTTP2_PING, 0, 0, "12345678", 8);
    peer_message(b, 3, NGHTTP2_FLAG_END_STREAM, "20 300");
    peer_call(b, 5, PEER_REQUEST("/t/Fail"), "");
    peer_headers(b, 7, 0, PEER_REQUEST("/t/Hold"));
    peer_reset(b, 7, NGHTTP2_CANCEL);
    peer_call(b, 9, PEER_REQUEST("/t/Both"), "bye");
    peer_headers(b, 11, 0, PEER_REQUEST("/t/Early"));
}

static const char golden_text[] = OK_HEADERS "DATA 6100\n" OK_TRAILERS;

/* Feeds the session in steps as next_step() says and compares the outcome. */
static void run_golden(size_t (*next_step)(size_t *argument), size_t argument)
{
    struct fixture *f = open_with(&grpc_server_options_default);
    struct buffer b = BUFFER_INIT(1 << 20);

    f->peer.stream = 3;
    append_golden(&b);
    while (buffer_length(&b) > 0) {
        size_t n = next_step(&argument);
        if (n > buffer_length(&b))
            n = buffer_length(&b);
        buffer_append(&f->sent, buffer_bytes(&b), n);
        buffer_consume(&b, n);
        assert_int_equal(exchange(f), 0);
    }
    assert_string_equal(peer_text(&f->peer), golden_text);
    assert_int_equal(f->echo.n_begun, 6);
    assert_int_equal(f->echo.n_requests, 4);
    assert_int_equal(f->echo.n_finished, 5);
    assert_int_equal(f->echo.n_cancelled, 1);
    assert_int_equal(f->peer.n_frames[NGHTTP2_PING], 1);
    buffer_done(&b);
    close_session(f);
}

static size_t step_fixed(size_t *step)
{
    return *step;
}

static size_t step_random(size_t *seed)
{
    *seed = *seed * 6364136223846793005 + 1442695040888963407;
    return 1 + (*seed >> 33) % ((*seed >> 60) ? 40 : 400);
}

static void the_outcome_does_not_depend_on_how_bytes_are_cut(void **state)
{
    (void)state;
    for (size_t step = 1; step < 64; step++)
        run_golden(step_fixed, step);
    run_golden(step_fixed, SIZE_MAX);
    for (size_t seed = 1; seed <= 200; seed++)
        run_golden(step_random, seed);
}

static void a_connection_cut_at_any_byte_ends_every_call_once(void **state)
{
    struct buffer b = BUFFER_INIT(1 << 20);
    (void)state;

    append_golden(&b);
    for (size_t n = 0; n <= buffer_length(&b); n++) {
        struct fixture *f = open_with(&grpc_server_options_default);
        buffer_append(&f->sent, buffer_bytes(&b), n);
        assert_int_equal(exchange(f), 0);
        close_session(f); /* counts */
    }
    buffer_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_come_as_soon_as_the_preface_was_there),
        cmocka_unit_test(a_unary_call_is_answered),
        cmocka_unit_test(a_stream_is_answered_in_joined_frames),
        cmocka_unit_test(an_error_comes_with_its_message_and_details),
        cmocka_unit_test(details_that_clients_would_refuse_are_left_out),
        cmocka_unit_test(a_request_may_end_with_an_empty_frame_or_trailers),
        cmocka_unit_test(ten_calls_at_once_are_served),
        cmocka_unit_test(any_authority_is_taken),
        cmocka_unit_test(metadata_and_timeout_are_the_calls),
        cmocka_unit_test(http1_gets_a_readable_400),
        cmocka_unit_test(broken_http2_ends_with_a_goaway),
        cmocka_unit_test(the_outcome_does_not_depend_on_how_bytes_are_cut),
        cmocka_unit_test(a_connection_cut_at_any_byte_ends_every_call_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
