/* The server session with calls whose requests are a stream. */
#include <errno.h>

#include "grpc_server_fixture.h"

#define CHAT PEER_REQUEST("/t/Chat")

/* Seven large messages fill the replies; of those that are not answered six may wait. */
enum { HIGH = 64 << 10, PREFIX = 5, LARGE = 10000 };

/* What came on the stream since the last time is this. */
static void expect(struct fixture *f, const char *text)
{
    assert_string_equal(peer_text(&f->peer), text);
    buffer_done(&f->peer.text);
}

static void each_request_is_answered_before_the_client_ends(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, 0, CHAT);
    assert_int_equal(exchange(f), 0);
    expect(f, "");
    peer_message(&f->sent, 1, 0, "one");
    assert_int_equal(exchange(f), 0);
    expect(f, OK_HEADERS "DATA 8\n");
    peer_message(&f->sent, 1, 0, "");
    peer_message(&f->sent, 1, 0, "three");
    assert_int_equal(exchange(f), 0);
    expect(f, "DATA 15\n");
    assert_memory_equal(buffer_bytes(&f->peer.data), "\0\0\0\0\3one\0\0\0\0\0\0\0\0\0\5three", 23);
    assert_int_equal(f->echo.n_requests, 3);
    peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
    assert_int_equal(exchange(f), 0);
    expect(f, OK_TRAILERS);
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

static void the_end_may_come_with_the_last_request_or_with_none(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_headers(&f->sent, 1, 0, CHAT);
    peer_message(&f->sent, 1, NGHTTP2_FLAG_END_STREAM, "hi");
    assert_int_equal(exchange(f), 0);
    expect(f, OK_HEADERS "DATA 7\n" OK_TRAILERS);

    f->peer.stream = 3;
    peer_headers(&f->sent, 3, NGHTTP2_FLAG_END_STREAM, CHAT);
    assert_int_equal(exchange(f), 0);
    expect(f, "HEADERS END\n:status: 200\ncontent-type: application/grpc\n"
              "grpc-accept-encoding: identity\ngrpc-status: 0\n");
    assert_int_equal(f->echo.n_finished, 2);
    close_session(f);
}

static void frames_cut_anywhere_make_the_same_requests(void **state)
{
    static const char bytes[] = "\0\0\0\0\3one\0\0\0\0\0\0\0\0\0\5three";
    (void)state;

    for (size_t piece = 1; piece < sizeof bytes; piece++) {
        struct fixture *f = open_session();
        peer_headers(&f->sent, 1, 0, CHAT);
        for (size_t at = 0; at < sizeof bytes - 1; at += piece) {
            size_t left = sizeof bytes - 1 - at;
            peer_frame(&f->sent, NGHTTP2_DATA, 0, 1, bytes + at, left < piece ? left : piece);
        }
        peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
        assert_int_equal(exchange(f), 0);
        expect(f, OK_HEADERS "DATA 23\n" OK_TRAILERS);
        assert_memory_equal(buffer_bytes(&f->peer.data), bytes, sizeof bytes - 1);
        close_session(f);
    }
}

static void a_request_that_is_wrong_fails_the_call_behind_its_replies(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *status;
    } wrong[] = {
        {"\0\0\0\0\2h", 6, "grpc-status: 13\ngrpc-message: the request message is cut short\n"},
        {"\0\0", 2, "grpc-status: 13\ngrpc-message: the request message is cut short\n"},
        {"\1\0\0\0\1x", 6,
         "grpc-status: 13\n"
         "grpc-message: compressed message, though no compression was agreed on\n"},
        {"\0\0\0\x40\1x", 6,
         "grpc-status: 8\ngrpc-message: Received message larger than max (16385 vs. 16384)\n"},
    };
    (void)state;

    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct fixture *f = open_session();
        char text[512];
        peer_headers(&f->sent, 1, 0, CHAT);
        peer_message(&f->sent, 1, 0, "hi");
        peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, wrong[i].bytes,
                   wrong[i].len);
        assert_int_equal(exchange(f), 0);
        snprintf(text, sizeof text, OK_HEADERS "DATA 7\nHEADERS END\n%s", wrong[i].status);
        expect(f, text);
        close_session(f);
    }
}

static void send_large(struct fixture *f, size_t n)
{
    char *message = malloc(LARGE + 1);

    assert_non_null(message);
    memset(message, 'x', LARGE);
    message[LARGE] = '\0';
    for (size_t i = 0; i < n; i++)
        peer_message(&f->sent, 1, 0, message);
    free(message);
}

/* What can't be answered yet waits; the answers come as they are taken, and nothing is lost. */
static void requests_wait_until_there_is_room_for_replies(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    peer_headers(&f->sent, 1, 0, CHAT);
    send_large(f, 10);
    peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_requests, 7);
    assert_in_range(f->echo.pending_max, HIGH, HIGH + LARGE + PREFIX);

    for (size_t rounds = 0; f->echo.n_finished == 0 && rounds < 100; rounds++) {
        peer_window(&f->sent, 0, 5000);
        peer_window(&f->sent, 1, 5000);
        assert_int_equal(exchange(f), 0);
    }
    expect(f, OK_HEADERS "DATA 100050\n" OK_TRAILERS);
    assert_int_equal(f->echo.n_requests, 11);
    assert_in_range(f->echo.pending_max, HIGH, HIGH + LARGE + PREFIX);
    close_session(f);
}

static void a_client_that_asks_on_and_takes_nothing_is_refused(void **state)
{
    struct fixture *f = open_session();
    (void)state;

    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    peer_headers(&f->sent, 1, 0, CHAT);
    for (size_t i = 0; i < 13; i++) {
        send_large(f, 1);
        assert_int_equal(exchange(f), 0);
    }
    assert_int_equal(f->echo.n_requests, 7);
    assert_int_equal(grpc_server_session_n_calls(f->session), 1);
    send_large(f, 1);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_requests, 7);
    assert_int_equal(grpc_server_session_n_calls(f->session), 1);
    peer_window(&f->sent, 0, 1 << 20);
    peer_window(&f->sent, 1, 1 << 20);
    assert_int_equal(exchange(f), 0);
    expect(f, OK_HEADERS "DATA 70035\n"
                         "HEADERS END\ngrpc-status: 8\n"
                         "grpc-message: too many requests wait; take the replies first\n"
                         "RST 0\n");
    assert_int_equal(f->echo.n_finished, 1);
    close_session(f);
}

static void a_client_that_cancels_with_requests_left_costs_nothing(void **state)
{
    struct memory memory = MEMORY_INIT(SIZE_MAX, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    options.memory = &memory;
    struct fixture *f = open_with(&options);
    (void)state;

    peer_hello(&f->sent);
    peer_setting(&f->sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    assert_int_equal(exchange(f), 0);
    size_t before = memory.used;
    peer_headers(&f->sent, 1, 0, CHAT);
    send_large(f, 10);
    assert_int_equal(exchange(f), 0);
    assert_in_range(memory.used - before, 10 * LARGE, 1 << 20);
    peer_reset(&f->sent, 1, NGHTTP2_CANCEL);
    assert_int_equal(exchange(f), 0);
    assert_int_equal(f->echo.n_cancelled, 1);
    assert_in_range(memory.used, 0, before + 4096);
    close_session(f);
    assert_int_equal(memory.used, 0);
}

/* The bytes that wait are charged, and where there is no room for them the call fails alone. */
static void without_memory_the_call_fails(void **state)
{
    struct memory memory = MEMORY_INIT(SIZE_MAX, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    options.memory = &memory;
    struct fixture *f = open_with(&options);
    (void)state;

    peer_hello(&f->sent);
    peer_headers(&f->sent, 1, 0, CHAT);
    peer_message(&f->sent, 1, 0, "hi");
    assert_int_equal(exchange(f), 0);
    expect(f, OK_HEADERS "DATA 7\n");
    memory.limit = memory.used + 1000;
    send_large(f, 1);
    assert_int_equal(exchange(f), 0);
    assert_non_null(strstr(peer_text(&f->peer), "grpc-status: 8\n"));
    memory.limit = SIZE_MAX;
    close_session(f);
    assert_int_equal(memory.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_request_is_answered_before_the_client_ends),
        cmocka_unit_test(the_end_may_come_with_the_last_request_or_with_none),
        cmocka_unit_test(frames_cut_anywhere_make_the_same_requests),
        cmocka_unit_test(a_request_that_is_wrong_fails_the_call_behind_its_replies),
        cmocka_unit_test(requests_wait_until_there_is_room_for_replies),
        cmocka_unit_test(a_client_that_asks_on_and_takes_nothing_is_refused),
        cmocka_unit_test(a_client_that_cancels_with_requests_left_costs_nothing),
        cmocka_unit_test(without_memory_the_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
