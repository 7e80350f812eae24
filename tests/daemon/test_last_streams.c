/* A connection's last calls: HTTP/2 has numbers for a thousand million, and any of them may be
 * next.
 */
#include <string.h>

#include "raw.h"
#include "scene.h"

enum { LAST = INT32_MAX };

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void expect_answer(struct raw *r, uint32_t stream)
{
    r->peer.stream = stream;
    buffer_truncate(&r->peer.text, 0);
    raw_append_call(&r->sent, stream, RPC_CREATE);
    assert_true(raw_send(r));
    raw_await(r, "grpc-status: 0");
}

static void test_all_numbers_are_served(void **state)
{
    static const uint32_t streams[] = {1, 3, 65537, (1 << 24) + 1, (1 << 30) + 1, LAST - 2, LAST};
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, NULL);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        expect_answer(&r, streams[i]);
    scene_assert_serving(s);
    raw_close(&r);
    scene_stop(s);
}

static void test_no_stream_comes_behind_the_last(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, NULL);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    expect_answer(&r, LAST);
    /* Round and back to the first: a number that was passed over is one that was used. */
    raw_append_call(&r.sent, 1, RPC_CREATE);
    peer_frame(&r.sent, NGHTTP2_PING, 0, 0, "12345678", 8);
    assert_true(raw_send(&r));
    while (r.peer.n_frames[NGHTTP2_PING] == 0)
        assert_true(raw_read(&r));
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    scene_assert_serving(s);
    raw_close(&r);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_all_numbers_are_served),
        scene_test(test_no_stream_comes_behind_the_last),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
