/*
 * gRPC's standard services: health that is watched, and server reflection. Streams of this kind
 * hold nothing up, and what reflection tells is what is served.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "descriptors.h"
#include "grpc_health.h"
#include "grpc_reflection.h"
#include "raw.h"
#include "scene.h"
#include "wire.h"

enum { WATCHES_MAX = 16 };

#define LARGE_QUESTION                                                                             \
    "\x1a\x1e"                                                                                     \
    "completion/v1/completion.proto"
#define PATIENT "[daemon]\ndrain_timeout = 10min\n"

/* Begins a stream, and ends it when the test says so. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c))
        if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
            !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
            !fake_stream_done(c))
            return;
}

/* ---- Health ---- */

static struct grpc_client_call *watch(struct rpc *r, const char *service, int timeout_ms)
{
    struct buffer request = BUFFER_INIT(1000);

    grpc_health_request(&request, service);
    struct grpc_client_call *call = rpc_start_raw(r, GRPC_HEALTH_WATCH_PATH, buffer_bytes(&request),
                                                  buffer_length(&request), timeout_ms, NULL, 0);
    buffer_done(&request);
    return call;
}

/* The next reply is this. */
static void expect_health(struct rpc *r, struct grpc_client_call *call, enum grpc_health health)
{
    const uint8_t expected[] = {0x08, health}, *message;
    size_t len;

    while (grpc_client_call_next(call, &message, &len) == 0)
        if (grpc_client_call_is_ended(call) || !rpc_turn(r, HARNESS_TIMEOUT_MS))
            fail_msg("no health is told: %d %s", grpc_client_call_status(call),
                     grpc_client_call_message(call));
    assert_int_equal(len, sizeof expected);
    assert_memory_equal(message, expected, len);
}

static void expect_end(struct rpc *r, struct grpc_client_call *call, enum grpc_status status,
                       const char *reason)
{
    struct rpc_result result;

    rpc_finish(r, call, &result);
    assert_int_equal(result.n_messages, 0);
    rpc_assert_failed(&result, status, reason);
    rpc_result_done(&result);
}

static void test_watchers_are_told_of_the_end_and_do_not_hold_it_up(void **state)
{
    struct scene *s = *state;
    struct grpc_client_call *whole, *service, *unknown;

    scene_start(s, serve, NULL, PATIENT);
    whole = watch(&s->rpc, "", -1);
    service = watch(&s->rpc, "completion.v1.Completions", -1);
    unknown = watch(&s->rpc, "completion.v1.Nothing", -1);
    expect_health(&s->rpc, whole, GRPC_HEALTH_SERVING);
    expect_health(&s->rpc, service, GRPC_HEALTH_SERVING);
    expect_health(&s->rpc, unknown, GRPC_HEALTH_SERVICE_UNKNOWN);
    scene_assert_serving(s);

    daemon_signal(&s->daemon, SIGTERM);
    expect_health(&s->rpc, whole, GRPC_HEALTH_NOT_SERVING);
    expect_health(&s->rpc, service, GRPC_HEALTH_NOT_SERVING);
    expect_end(&s->rpc, whole, GRPC_UNAVAILABLE, "SHUTTING_DOWN");
    expect_end(&s->rpc, service, GRPC_UNAVAILABLE, "SHUTTING_DOWN");
    expect_end(&s->rpc, unknown, GRPC_UNAVAILABLE, "SHUTTING_DOWN");
    daemon_wait_exit(&s->daemon, 0);
}

/* Nor do those who never say what they want, or who take no answer. */
static void test_streams_that_stand_do_not_hold_the_end_up(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, PATIENT "caller_request_timeout = infinity\n");
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    peer_headers(&r.sent, 1, 0, PEER_REQUEST(GRPC_REFLECTION_V1_PATH));
    peer_headers(&r.sent, 3, 0, PEER_REQUEST(GRPC_REFLECTION_V1ALPHA_PATH));
    peer_message(&r.sent, 3, 0, LARGE_QUESTION);
    peer_headers(&r.sent, 5, 0, PEER_REQUEST(GRPC_HEALTH_WATCH_PATH));
    peer_headers(&r.sent, 7, NGHTTP2_FLAG_END_STREAM, PEER_REQUEST("/x/y"));
    assert_true(raw_send(&r));
    while (r.peer.n_frames[NGHTTP2_HEADERS] < 2) /* of streams 3 and 7 */
        assert_true(raw_read(&r));
    daemon_signal(&s->daemon, SIGTERM);
    raw_await(&r, "grpc-status: 14");
    raw_await_close(&r);
    daemon_wait_exit(&s->daemon, 0);
    raw_close(&r);
}

/* Its window has room for the first word, and not for the last. */
static void test_a_watcher_who_is_not_listening_is_given_up(void **state)
{
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, PATIENT "caller_stall_timeout = 500ms\n");
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 7);
    peer_call(&r.sent, 1, PEER_REQUEST(GRPC_HEALTH_WATCH_PATH), "");
    assert_true(raw_send(&r));
    while (buffer_length(&r.peer.data) < 7)
        assert_true(raw_read(&r));
    daemon_signal(&s->daemon, SIGTERM);
    raw_await(&r, "grpc-status: 14");
    assert_int_equal(buffer_length(&r.peer.data), 7);
    raw_await_close(&r);
    daemon_wait_exit(&s->daemon, 0);
    raw_close(&r);
}

static void test_calls_in_flight_go_on_while_watchers_are_told(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    scene_start(s, serve, NULL, PATIENT);
    struct grpc_client_call *watching = watch(&s->rpc, "", -1);
    expect_health(&s->rpc, watching, GRPC_HEALTH_SERVING);
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, call));
    daemon_signal(&s->daemon, SIGTERM);
    expect_health(&s->rpc, watching, GRPC_HEALTH_NOT_SERVING);
    expect_end(&s->rpc, watching, GRPC_UNAVAILABLE, "SHUTTING_DOWN");
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    daemon_wait_exit(&s->daemon, 0);
}

static void test_watches_of_a_connection_are_bounded(void **state)
{
    struct scene *s = *state;
    struct grpc_client_call *calls[WATCHES_MAX];

    scene_start(s, serve, NULL, NULL);
    for (int i = 0; i < WATCHES_MAX; i++) {
        calls[i] = watch(&s->rpc, i % 2 ? "" : "x", -1);
        expect_health(&s->rpc, calls[i], i % 2 ? GRPC_HEALTH_SERVING : GRPC_HEALTH_SERVICE_UNKNOWN);
    }
    expect_end(&s->rpc, watch(&s->rpc, "", -1), GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT");
    for (int i = 0; i < 2; i++) {
        rpc_cancel(&s->rpc, calls[i]);
        grpc_client_call_free(calls[i]);
        calls[i] = watch(&s->rpc, "", -1);
        expect_health(&s->rpc, calls[i], GRPC_HEALTH_SERVING);
    }
    expect_end(&s->rpc, watch(&s->rpc, "", -1), GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT");
    for (int i = 0; i < WATCHES_MAX; i++)
        grpc_client_call_free(calls[i]);
    scene_stop(s);
}

static void test_a_watch_ends_at_its_deadline(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    struct grpc_client_call *call = watch(&s->rpc, "", 200);
    expect_health(&s->rpc, call, GRPC_HEALTH_SERVING);
    expect_end(&s->rpc, call, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
    scene_stop(s);
}

static void test_questions_that_are_malformed_are_refused(void **state)
{
    static const char *const paths[] = {GRPC_HEALTH_WATCH_PATH, RPC_HEALTH, GRPC_REFLECTION_V1_PATH,
                                        GRPC_REFLECTION_V1ALPHA_PATH};
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        expect_end(&s->rpc, rpc_start_raw(&s->rpc, paths[i], "\x0a", 1, -1, NULL, 0),
                   GRPC_INVALID_ARGUMENT, "INVALID_REQUEST");
    scene_stop(s);
}

/* ---- Reflection ---- */

static struct wire_field field_of(const uint8_t *message, size_t len, uint32_t number)
{
    const uint8_t *p = message, *end = message + len;
    struct wire_field field;

    while (wire_next(&p, end, &field) > 0)
        if (field.number == number)
            return field;
    return (struct wire_field){.data = (const uint8_t *)"", .len = 0};
}

/* A call with this path is known: garbage is found to be garbage. */
static void expect_served(struct scene *s, struct wire_field package, struct wire_field service,
                          struct wire_field method)
{
    char path[256];
    struct rpc_result result;

    snprintf(path, sizeof path, "/%.*s.%.*s/%.*s", (int)package.len, (const char *)package.data,
             (int)service.len, (const char *)service.data, (int)method.len,
             (const char *)method.data);
    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, path, "\x0a", 1, -1, NULL, 0), &result);
    if (result.status != GRPC_INVALID_ARGUMENT)
        fail_msg("%s: %d %s", path, result.status, result.message);
    rpc_result_done(&result);
}

static void test_all_methods_that_are_told_are_served(void **state)
{
    struct scene *s = *state;
    const uint8_t *p = proto_descriptors, *end = p + proto_descriptors_len;
    struct wire_field file, service, method;
    size_t n = 0;

    scene_start(s, serve, NULL, NULL);
    while (wire_next(&p, end, &file) > 0) {
        const uint8_t *in_file = file.data;
        while (wire_next(&in_file, file.data + file.len, &service) > 0) {
            const uint8_t *in_service = service.data;
            if (service.number != 6)
                continue;
            while (wire_next(&in_service, service.data + service.len, &method) > 0) {
                if (method.number != 2)
                    continue;
                expect_served(s, field_of(file.data, file.len, 2),
                              field_of(service.data, service.len, 1),
                              field_of(method.data, method.len, 1));
                n++;
            }
        }
    }
    assert_int_equal(n, 7);
    scene_stop(s);
}

/* A client that asks while its stream is open gets each answer before it asks on. */
static void test_answers_come_before_the_client_ends(void **state)
{
    static const char list[] = {0x3a, 0x01, '*', 0};
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, NULL);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_headers(&r.sent, 1, 0, PEER_REQUEST(GRPC_REFLECTION_V1_PATH));
    for (int i = 0; i < 3; i++) {
        size_t before = buffer_length(&r.peer.data);
        peer_message(&r.sent, 1, 0, list);
        assert_true(raw_send(&r));
        while (buffer_length(&r.peer.data) == before)
            assert_true(raw_read(&r));
    }
    assert_null(strstr(peer_text(&r.peer), "grpc-status"));
    peer_frame(&r.sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, NULL, 0);
    assert_true(raw_send(&r));
    raw_await(&r, "grpc-status: 0");
    raw_close(&r);
    scene_stop(s);
}

/* Thousands of questions in a row, which are answered as the answers are taken. */
static void test_a_client_that_asks_much_gets_all_of_it(void **state)
{
    enum { QUESTIONS = 2000, AT_ONCE = 500 };
    struct scene *s = *state;
    struct raw r;

    scene_start(s, serve, NULL, NULL);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, INT32_MAX);
    peer_window(&r.sent, 0, 1 << 30);
    peer_headers(&r.sent, 1, 0, PEER_REQUEST(GRPC_REFLECTION_V1_PATH));
    size_t n_answered = 0, n_read = 0;
    for (size_t i = 0; i < QUESTIONS; i += AT_ONCE) {
        for (size_t j = 0; j < AT_ONCE; j++)
            peer_message(&r.sent, 1, 0, LARGE_QUESTION);
        assert_true(raw_send(&r));
        while (n_answered < i + AT_ONCE) {
            assert_true(raw_read(&r));
            const uint8_t *data = buffer_bytes(&r.peer.data);
            for (size_t left; (left = buffer_length(&r.peer.data) - n_read) >= 5;) {
                size_t len = peer_u32(data + n_read + 1);
                if (left < 5 + len)
                    break;
                n_read += 5 + len;
                n_answered++;
            }
        }
    }
    assert_int_equal(n_answered, QUESTIONS);
    raw_close(&r);
    scene_assert_serving(s);
    scene_stop(s);
}

/* One that asks and takes nothing is bounded, and ends; others do not notice. */
static void test_a_client_that_takes_no_answer_is_ended(void **state)
{
    struct scene *s = *state;
    struct raw r;
    bool open = true;

    scene_start(s, serve, NULL, "[daemon]\ncaller_stall_timeout = 500ms\n");
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    peer_setting(&r.sent, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    peer_headers(&r.sent, 1, 0, PEER_REQUEST(GRPC_REFLECTION_V1_PATH));
    for (int i = 0; i < 100; i++)
        peer_message(&r.sent, 1, 0, LARGE_QUESTION);
    assert_true(raw_send(&r));
    while (open && !strstr(peer_text(&r.peer), "grpc-status: 1\n"))
        open = raw_read(&r);
    assert_true(open);
    raw_close(&r);
    scene_assert_serving(s);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_watchers_are_told_of_the_end_and_do_not_hold_it_up),
        scene_test(test_streams_that_stand_do_not_hold_the_end_up),
        scene_test(test_a_watcher_who_is_not_listening_is_given_up),
        scene_test(test_calls_in_flight_go_on_while_watchers_are_told),
        scene_test(test_watches_of_a_connection_are_bounded),
        scene_test(test_a_watch_ends_at_its_deadline),
        scene_test(test_questions_that_are_malformed_are_refused),
        scene_test(test_all_methods_that_are_told_are_served),
        scene_test(test_answers_come_before_the_client_ends),
        scene_test(test_a_client_that_asks_much_gets_all_of_it),
        scene_test(test_a_client_that_takes_no_answer_is_ended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
