/* What the server session says to requests that are no gRPC calls, or not right. */
#include "grpc_server_fixture.h"

static void other_methods_get_405(void **state)
{
    (void)state;
    ASSERT_ANSWER(":method: GET\n:path: /t/Echo\ncontent-type: application/grpc\n",
                  TRAILERS_ONLY("405", "13", "gRPC calls are made with the method POST"));
}

static void other_content_types_get_415(void **state)
{
    static const char *const types[] = {"content-type: application/json\n",
                                        "content-type: application/grpc-web\n",
                                        "content-type: application/grpc+json\n", ""};
    (void)state;

    for (size_t i = 0; i < COUNT(types); i++) {
        char lines[512];
        snprintf(lines, sizeof lines, ":method: POST\n:path: /t/Echo\n%s", types[i]);
        ASSERT_ANSWER(
            lines, TRAILERS_ONLY("415", "13", "gRPC calls have the content-type application/grpc"));
    }
    ASSERT_ANSWER(":method: POST\n:path: /t/Echo\ncontent-type: application/grpc+proto\n",
                  OK_HEADERS "DATA 7\n" OK_TRAILERS);
}

static void malformed_headers_get_400(void **state)
{
    static const char *const bad[] = {
        /* no path, or none that is one */
        ":method: POST\ncontent-type: application/grpc\n",
        ":method: POST\n:path: \ncontent-type: application/grpc\n",
        ":method: POST\n:path: /a b\ncontent-type: application/grpc\n",
        ":method: POST\n:path: /\xc3\xa9\ncontent-type: application/grpc\n",
        ":method: POST\n:path: /a\tb\ncontent-type: application/grpc\n",
        /* no method */
        ":path: /t/Echo\ncontent-type: application/grpc\n",
        /* twice */
        ":method: POST\n:method: POST\n:path: /t/Echo\ncontent-type: application/grpc\n",
        ":method: POST\n:path: /t/Echo\n:path: /t/Echo\ncontent-type: application/grpc\n",
        ":method: POST\n:scheme: http\n:scheme: http\n:path: /t\ncontent-type: application/grpc\n",
        ":authority: a\n:authority: a\n:method: POST\n:path: /t\ncontent-type: application/grpc\n",
        /* unknown, or late */
        ":method: POST\n:path: /t/Echo\n:status: 200\ncontent-type: application/grpc\n",
        ":method: POST\ncontent-type: application/grpc\n:path: /t/Echo\n",
        /* names and values that are none */
        PEER_REQUEST("/t/Echo") "X-Upper: 1\n",
        PEER_REQUEST("/t/Echo") "x y: 1\n",
        PEER_REQUEST("/t/Echo") "x: a\rb\n",
        PEER_REQUEST("/t/Echo") "x: a\x01\n",
    };
    (void)state;

    for (size_t i = 0; i < COUNT(bad); i++)
        ASSERT_ANSWER(bad[i], TRAILERS_ONLY("400", "13", "malformed request headers"));
}

static void a_nul_in_a_header_gets_400(void **state)
{
    static const struct {
        const char *name;
        size_t name_len;
        const char *value;
        size_t value_len;
    } bad[] = {{"x\0y", 3, "1", 1}, {"x", 1, "1\0002", 3}, {"", 0, "1", 1}};
    (void)state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fixture *f = open_session();
        struct buffer block = BUFFER_INIT(1000);
        peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
        buffer_append_byte(&block, 0);
        peer_hpack_string(&block, bad[i].name, bad[i].name_len);
        peer_hpack_string(&block, bad[i].value, bad[i].value_len);
        peer_frame(&f->sent, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, buffer_bytes(&block),
                   buffer_length(&block));
        buffer_done(&block);
        assert_int_equal(exchange(f), 0);
        assert_string_equal(peer_text(&f->peer),
                            TRAILERS_ONLY("400", "13", "malformed request headers") "RST 0\n");
        close_session(f);
    }
}

static void compression_is_refused_and_identity_offered(void **state)
{
    (void)state;
    ASSERT_ANSWER(
        PEER_REQUEST("/t/Echo") "grpc-encoding: gzip\n",
        TRAILERS_ONLY("200", "12",
                      "compressed requests are not supported: grpc-encoding must be identity"));
    ASSERT_ANSWER(PEER_REQUEST("/t/Echo") "grpc-encoding: identity\n",
                  OK_HEADERS "DATA 7\n" OK_TRAILERS);
    assert_answer(
        PEER_REQUEST("/t/Echo"), "\1\0\0\0\0", 5,
        TRAILERS_ONLY("200", "13", "compressed message, though no compression was agreed on"));
    assert_answer(PEER_REQUEST("/t/Echo"), "\2\0\0\0\0", 5,
                  TRAILERS_ONLY("200", "13", "malformed message prefix"));
}

static void a_malformed_timeout_is_an_internal_error(void **state)
{
    static const char *const bad[] = {"", "5", "5s", "123456789S", "-1S", "S"};
    (void)state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        char lines[512];
        snprintf(lines, sizeof lines, PEER_REQUEST("/t/Echo") "grpc-timeout: %s\n", bad[i]);
        ASSERT_ANSWER(lines, TRAILERS_ONLY("200", "13", "malformed grpc-timeout"));
    }
}

static void not_one_request_message_is_refused(void **state)
{
    (void)state;
    assert_answer(PEER_REQUEST("/t/Echo"), "", 0, TRAILERS_ONLY("200", "12", "no request message"));
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0\0\0\1a\0\0\0\0\1b", 12,
                  TRAILERS_ONLY("200", "12", "more than one request message for a unary request"));
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0\0\0\1ab", 7,
                  TRAILERS_ONLY("200", "12", "more than one request message for a unary request"));
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0\0\0\2h", 6,
                  TRAILERS_ONLY("200", "13", "the request message is cut short"));
    assert_answer(PEER_REQUEST("/t/Echo"), "\0\0", 2,
                  TRAILERS_ONLY("200", "13", "the request message is cut short"));
}

static void a_call_without_body_is_refused(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, PEER_REQUEST("/t/Echo"));
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), TRAILERS_ONLY("200", "12", "no request message"));
    close_session(f);
}

static void a_large_request_is_refused_on_its_prefix(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Echo"));
    peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, "\0\0\x50\0\0", 5); /* 5 MiB to come */
    assert_int_equal(exchange(f), 0);
    assert_string_equal(
        peer_text(&f->peer),
        TRAILERS_ONLY("200", "8",
                      "Received message larger than max (5242880 vs. 4194304)") "RST 0\n");
    assert_int_equal(f->echo.n_requests, 0);
    assert_int_equal(f->echo.n_finished, 1);

    /* What the client had already sent is dropped, and the connection goes on. */
    static const uint8_t zeros[16384];
    for (size_t i = 0; i < 3; i++)
        peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, zeros, sizeof zeros);
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_finished, 2);
    close_session(f);
}

static void a_request_of_the_largest_size_is_served(void **state)
{
    static uint8_t chunk[16384];
    struct fixture *f = open_session();
    size_t left = 5 + (4 << 20);
    (void)state;

    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Echo"));
    memcpy(chunk, "\0\0\x40\0\0", 5);
    for (size_t i = 0; left > 0; i++) {
        size_t n = left < sizeof chunk ? left : sizeof chunk;
        left -= n;
        peer_frame(&f->sent, NGHTTP2_DATA, left ? 0 : NGHTTP2_FLAG_END_STREAM, 1, chunk, n);
        if (i == 0)
            memset(chunk, 'x', sizeof chunk);
        if (i % 2)
            assert_int_equal(exchange(f), 0); /* as the window allows */
    }
    peer_window(&f->sent, 0, 8 << 20);
    peer_window(&f->sent, 1, 8 << 20);
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 4194309\n" OK_TRAILERS);
    close_session(f);
}

static void headers_beyond_the_limit_are_refused_and_not_kept(void **state)
{
    struct fixture *f = open_session();
    struct buffer block = BUFFER_INIT(1 << 20);
    char value[4000];
    (void)state;

    /* The value once into the table, then often by its index, one byte each. */
    memset(value, 'x', sizeof value);
    peer_hpack_lines(&block, PEER_REQUEST("/t/Echo"));
    buffer_append_byte(&block, 0x40);
    peer_hpack_string(&block, "x", 1);
    peer_hpack_string(&block, value, sizeof value);
    for (size_t i = 0; i < 10000; i++)
        buffer_append_byte(&block, 0x80 | 62);
    peer_frame(&f->sent, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, buffer_bytes(&block),
               buffer_length(&block));
    buffer_done(&block);
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer),
                        TRAILERS_ONLY("200", "8", "request headers are too large") "RST 0\n");
    assert_int_equal(f->echo.n_begun, 0);
    close_session(f);
}

static void a_call_may_be_finished_before_its_request_is_there(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, 0, PEER_REQUEST("/t/Early"));
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), TRAILERS_ONLY("200", "9", "early") "RST 0\n");
    assert_int_equal(f->echo.n_requests, 0);
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_methods_get_405),
        cmocka_unit_test(other_content_types_get_415),
        cmocka_unit_test(malformed_headers_get_400),
        cmocka_unit_test(a_nul_in_a_header_gets_400),
        cmocka_unit_test(compression_is_refused_and_identity_offered),
        cmocka_unit_test(a_malformed_timeout_is_an_internal_error),
        cmocka_unit_test(not_one_request_message_is_refused),
        cmocka_unit_test(a_call_without_body_is_refused),
        cmocka_unit_test(a_large_request_is_refused_on_its_prefix),
        cmocka_unit_test(a_request_of_the_largest_size_is_served),
        cmocka_unit_test(headers_beyond_the_limit_are_refused_and_not_kept),
        cmocka_unit_test(a_call_may_be_finished_before_its_request_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
