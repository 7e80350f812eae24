/* The last numbers that HTTP/2 has for streams, which come after a thousand million calls. */
#include <errno.h>

#include "grpc_client_call.h"
#include "grpc_client_fixture.h"

static void answer(struct fixture *f, uint32_t stream)
{
    peer_headers(&f->sent, stream, 0, REPLY_HEADERS);
    peer_message(&f->sent, stream, 0, "ok");
    peer_headers(&f->sent, stream, NGHTTP2_FLAG_END_STREAM, REPLY_TRAILERS);
    assert_int_equal(exchange(f), 0);
}

/* The session says that it takes no more, as if the server had said so: calls that are on it end
 * well, and the library makes a new one. */
static void the_last_stream_is_used_and_none_behind_it(void **state)
{
    const struct grpc_client_start start = {.path = "/t/Echo", .timeout_us = -1};
    struct fixture *f = open_with(NULL);
    struct grpc_client_call *last, *none = NULL;
    (void)state;

    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    assert_int_equal(nghttp2_session_set_next_stream_id(f->session->h2, INT32_MAX - 2), 0);
    f->call = start_call(f, "/t/Echo", "hi", 2);
    assert_true(grpc_client_session_is_open(f->session));
    last = start_call(f, "/t/Echo", "hi", 2);
    assert_int_equal(last->stream_id, INT32_MAX);
    assert_false(grpc_client_session_is_open(f->session));
    assert_int_equal(grpc_client_call_new(f->session, &start, "hi", 2, &none), -EPIPE);
    assert_null(none);

    read_all(f);
    answer(f, INT32_MAX);
    answer(f, INT32_MAX - 2);
    assert_next(f->call, "ok");
    assert_no_next(f->call);
    assert_end(f->call, GRPC_OK, "");
    assert_next(last, "ok");
    assert_no_next(last);
    assert_end(last, GRPC_OK, "");
    grpc_client_call_free(last);
    close_all(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_stream_is_used_and_none_behind_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
