/*
 * What listens on the socket is no daemon of ours: every call ends, by its deadline at the latest,
 * with an error that says something, and memory stays bounded.
 */
#include <stdlib.h>
#include <string.h>

#include "library.h"
#include "peer.h"

enum { FOREVER = -1, DEADLINE_MS = 400, LATE_MS = 4000 };

/* What a process may grow by: buffers of at most 16 MiB, and one message of at most 64 MiB in a
 * buffer that doubles. The address sanitizer keeps what was freed on the way, as much again. */
enum { GROWTH_KIB = 64 << 10, GROWTH_OF_A_MESSAGE_KIB = 384 << 10 };

static long rss_kib(void)
{
    char *text = directory_read("/proc/self/status");
    const char *line = strstr(text, "VmRSS:");
    long kib = line ? strtol(line + 6, NULL, 10) : 0;

    free(text);
    return kib;
}

/* ---- Replies that are wrong ---- */

struct wrong {
    const char *name;
    bool (*say)(struct fake_connection *c, uint32_t stream);
    int r;
    enum completion_status status;
    const char *said;
};

static void say_wrong(struct fake_connection *c)
{
    const struct wrong *wrong = *(const struct wrong *const *)c->user;
    uint32_t stream = peer_greet(c) ? peer_read_call(c) : 0;

    if (stream && wrong->say(c, stream))
        fake_wait_for_close(c);
}

static bool say_two_replies(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_completion(c, stream, "a") &&
           peer_completion(c, stream, "b") && peer_end(c, stream, "0", NULL, NULL);
}

static bool say_no_reply(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_end(c, stream, "0", NULL, NULL);
}

static bool say_trailers_only(struct fake_connection *c, uint32_t stream)
{
    static const char *const headers[] = {
        ":status", "200", "content-type", "application/grpc", "grpc-status", "0", NULL};

    return peer_headers(c, stream, PEER_END_STREAM, headers);
}

static bool say_no_status(struct fake_connection *c, uint32_t stream)
{
    static const char *const trailers[] = {"x-other", "1", NULL};

    return peer_begin(c, stream) && peer_completion(c, stream, "a") &&
           peer_headers(c, stream, PEER_END_STREAM, trailers);
}

static bool say_status_999(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_end(c, stream, "999", "odd", NULL);
}

static bool end_without_trailers(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_completion(c, stream, "a") &&
           peer_frame(c, PEER_DATA, PEER_END_STREAM, stream, NULL, 0);
}

static bool say_bad_protobuf(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_message(c, stream, "\x0a\xff\xff\xff\xff\x0f", 6) &&
           peer_end(c, stream, "0", NULL, NULL);
}

static bool say_bad_utf8(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_message(c, stream, "\x0a\x01\xff", 3) &&
           peer_end(c, stream, "0", NULL, NULL);
}

static bool say_many_tiny_choices(struct fake_connection *c, uint32_t stream)
{
    char message[16000];

    for (size_t i = 0; i < sizeof message; i += 2)
        memcpy(message + i, "\x12\x00", 2);
    return peer_begin(c, stream) && peer_message(c, stream, message, sizeof message) &&
           peer_end(c, stream, "0", NULL, NULL);
}

static bool say_oversize_length(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_frame(c, PEER_DATA, 0, stream, "\0\xff\xff\xff\xff", 5);
}

/* Of 60 MiB, which is allowed. */
static bool begin_a_large_message(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_frame(c, PEER_DATA, 0, stream, "\0\3\300\0\0", 5);
}

static bool say_compressed(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_frame(c, PEER_DATA, 0, stream, "\1\0\0\0\0", 5);
}

static bool say_half_a_message(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_frame(c, PEER_DATA, 0, stream, "\0\0\0\0\7ab", 7) &&
           peer_end(c, stream, "0", NULL, NULL);
}

static bool say_on_a_wrong_stream(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream + 2) && peer_completion(c, stream + 2, "a");
}

static bool push(struct fake_connection *c, uint32_t stream)
{
    return peer_frame(c, PEER_PUSH_PROMISE, PEER_END_HEADERS, stream, "\0\0\0\2\x82\x87\x84", 7);
}

static bool say_data_first(struct fake_connection *c, uint32_t stream)
{
    return peer_completion(c, stream, "a") && peer_end(c, stream, "0", NULL, NULL);
}

static bool say_long_text(struct fake_connection *c, uint32_t stream, const char *status,
                          size_t len)
{
    char *text = calloc(1, len + 1);

    memset(text, 'y', len);
    bool written = peer_begin(c, stream) && peer_end(c, stream, status, text, NULL);
    free(text);
    return written;
}

/* More than nghttp2 takes. */
static bool say_endless_message(struct fake_connection *c, uint32_t stream)
{
    return say_long_text(c, stream, "13", 100000);
}

/* More than a call takes. */
static bool say_huge_message(struct fake_connection *c, uint32_t stream)
{
    return say_long_text(c, stream, "13", 40000);
}

static bool say_long_message(struct fake_connection *c, uint32_t stream)
{
    return say_long_text(c, stream, "8", 8000);
}

static bool say_odd_message(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_end(c, stream, "3", "100%zz%ff%00|after", NULL);
}

static bool say_garbage_details(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_end(c, stream, "9", "still here", "!!! no base64 !!!");
}

static bool say_details_of_garbage(struct fake_connection *c, uint32_t stream)
{
    return peer_begin(c, stream) && peer_end(c, stream, "9", "here too", "/////w8AAAAA");
}

static bool say_http_500(struct fake_connection *c, uint32_t stream)
{
    static const char *const headers[] = {":status", "500", "content-type", "text/html", NULL};

    return peer_headers(c, stream, PEER_END_STREAM, headers);
}

static bool say_html(struct fake_connection *c, uint32_t stream)
{
    static const char *const headers[] = {":status", "200", "content-type", "text/html", NULL};

    return peer_headers(c, stream, 0, headers) &&
           peer_frame(c, PEER_DATA, PEER_END_STREAM, stream, "<html>", 6);
}

static bool say_bad_frame(struct fake_connection *c, uint32_t stream)
{
    return peer_frame(c, PEER_SETTINGS, 0, 0, "12345", 5) && peer_answer(c, stream, "a");
}

static bool say_huge_frame(struct fake_connection *c, uint32_t stream)
{
    static char data[100000];

    return peer_begin(c, stream) && peer_frame(c, PEER_DATA, 0, stream, data, sizeof data);
}

static const struct wrong wrongs[] = {
    {"two replies", say_two_replies, -EPROTO, COMPLETION_INTERNAL, "more than one"},
    {"no reply", say_no_reply, -EPROTO, COMPLETION_INTERNAL, "without an answer"},
    {"trailers only", say_trailers_only, -EPROTO, COMPLETION_INTERNAL, "without an answer"},
    {"no status", say_no_status, -EIO, COMPLETION_UNKNOWN, "grpc-status"},
    {"status 999", say_status_999, -EIO, COMPLETION_UNKNOWN, "odd"},
    {"no trailers", end_without_trailers, -EIO, COMPLETION_UNKNOWN, "grpc-status"},
    {"bad protobuf", say_bad_protobuf, -EBADMSG, COMPLETION_INTERNAL, "can't be read"},
    {"bad UTF-8", say_bad_utf8, -EBADMSG, COMPLETION_INTERNAL, "can't be read"},
    {"tiny choices", say_many_tiny_choices, -EBADMSG, COMPLETION_INTERNAL, "can't be read"},
    {"oversize length", say_oversize_length, -EIO, COMPLETION_RESOURCE_EXHAUSTED, ""},
    {"compressed", say_compressed, -EIO, COMPLETION_INTERNAL, ""},
    {"half a message", say_half_a_message, -EIO, COMPLETION_INTERNAL, "cut short"},
    {"wrong stream", say_on_a_wrong_stream, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
    {"push", push, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
    {"data first", say_data_first, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
    {"endless message", say_endless_message, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
    {"huge message", say_huge_message, -EIO, COMPLETION_RESOURCE_EXHAUSTED, "too large"},
    {"long message", say_long_message, -EIO, COMPLETION_RESOURCE_EXHAUSTED, "yyyyyyyy"},
    {"odd message", say_odd_message, -EIO, COMPLETION_INVALID_ARGUMENT, "100%zz"},
    {"garbage details", say_garbage_details, -EIO, COMPLETION_FAILED_PRECONDITION, "still here"},
    {"details of garbage", say_details_of_garbage, -EIO, COMPLETION_FAILED_PRECONDITION,
     "here too"},
    {"HTTP 500", say_http_500, -EIO, COMPLETION_UNKNOWN, "not gRPC"},
    {"HTML", say_html, -EIO, COMPLETION_UNKNOWN, "gRPC"},
    {"bad frame", say_bad_frame, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
    {"huge frame", say_huge_frame, -EIO, COMPLETION_UNAVAILABLE, "HTTP/2"},
};

static void test_wrong_replies_to_one_call(void **state)
{
    struct library *l = *state;
    const struct wrong *now = NULL;

    library_pretend(l, say_wrong, &now);
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        now = &wrongs[i];
        print_message("%s\n", now->name);
        library_assert_create_fails(l, HARNESS_TIMEOUT_MS, now->r, now->status);
        library_assert_said(l, now->said);
        assert_true(strlen(completion_error_message(l->error)) < 2048);
        assert_string_equal(completion_error_reason(l->error), "");
        /* Each has a connection of its own. */
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    }
    library_stop(l);
}

/* A stream may have any number of replies; the rest is as wrong. */
static void test_wrong_replies_to_a_stream(void **state)
{
    struct library *l = *state;
    const struct wrong *now = NULL;
    const completion_result *chunk;

    library_pretend(l, say_wrong, &now);
    for (size_t i = 3; i < sizeof wrongs / sizeof *wrongs; i++) {
        now = &wrongs[i];
        print_message("%s\n", now->name);
        completion_stream *stream = library_open(l, HARNESS_TIMEOUT_MS);
        int r;
        while ((r = completion_stream_next(stream, &chunk, l->error)) == 1)
            ;
        library_assert_failed(l, r, now->r, now->status);
        library_assert_said(l, now->said);
        completion_stream_free(stream);
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    }
    library_stop(l);
}

/* Of two calls the first gets the reply; the connection is kept, or both end with it. */
static void test_wrong_replies_in_a_loop(void **state)
{
    struct library *l = *state;
    const struct wrong *now = NULL;

    library_pretend(l, say_wrong, &now);
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        now = &wrongs[i];
        print_message("%s\n", now->name);
        completion_call *call = library_start_call(l, i >= 3 && i % 2, HARNESS_TIMEOUT_MS),
                        *other = NULL;
        if (now->say != say_on_a_wrong_stream) /* which would be this one's */
            other = library_start_call(l, i % 2 == 0, DEADLINE_MS);
        library_assert_failed(l, library_finish(l, call), now->r, now->status);
        library_assert_said(l, now->said);
        assert_true(!other || library_finish(l, other) < 0);
        completion_call_free(call);
        completion_call_free(other);
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    }
    library_stop(l);
}

/* ---- Other protocols ---- */

static void say_text(struct fake_connection *c)
{
    const char *text = *(const char *const *)c->user;

    if (fake_write(c, text, strlen(text)))
        fake_wait_for_close(c);
}

static void test_other_protocols(void **state)
{
    static const char *const texts[][2] = {
        {"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP/1"},
        {"220 mail.example.org ESMTP\r\n", ""},
        {"\x15\x03\x01\x01\x02\x02\x28 and more than nine bytes", ""},
        {"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", ""},
    };
    struct library *l = *state;
    const char *now = NULL;

    library_pretend(l, say_text, &now);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        now = texts[i][0];
        library_assert_create_fails(l, HARNESS_TIMEOUT_MS, -EIO, COMPLETION_UNAVAILABLE);
        library_assert_said(l, texts[i][1]);
        library_assert_said(l, "gRPC");
    }
    library_stop(l);
}

/* ---- Without end ---- */

struct flood {
    const char *name;
    bool (*begin)(struct fake_connection *c, uint32_t stream);
    enum peer_frame_type type;
    uint8_t flags;
    bool on_stream;
    const char *payload;
    size_t len;
    long growth_kib;
};

static void flood(struct fake_connection *c)
{
    enum { FRAME_HEADER = 9, N = 200 };
    const struct flood *f = *(const struct flood *const *)c->user;
    uint32_t stream = peer_greet(c) ? peer_read_call(c) : 0;
    size_t frame = FRAME_HEADER + f->len;
    uint8_t *frames = calloc(N, frame);

    /* Many at a time, nothing is read any more. */
    for (size_t i = 0; i < N; i++) {
        uint8_t *p = frames + i * frame;
        p[1] = (uint8_t)(f->len >> 8);
        p[2] = (uint8_t)f->len;
        p[3] = f->type;
        p[4] = f->flags;
        p[8] = f->on_stream ? (uint8_t)stream : 0;
        if (f->len > 0)
            memcpy(p + FRAME_HEADER, f->payload, f->len);
    }
    bool going = stream && (!f->begin || f->begin(c, stream));
    while (going)
        going = fake_write_some(c, frames, N * frame, 2 * DEADLINE_MS + LATE_MS) == N * frame;
    free(frames);
}

static const char zeros[8192];
static const struct flood floods[] = {
    {"pings", NULL, PEER_PING, 0, false, "12345678", 8, GROWTH_KIB},
    {"settings", NULL, PEER_SETTINGS, 0, false, "\0\3\0\0\0\144", 6, GROWTH_KIB},
    {"acknowledged pings", NULL, PEER_PING, PEER_ACK, false, "12345678", 8, GROWTH_KIB},
    {"window updates", NULL, PEER_WINDOW_UPDATE, 0, false, "\0\0\0\1", 4, GROWTH_KIB},
    {"unknown frames", NULL, (enum peer_frame_type)77, 0, false, zeros, sizeof zeros, GROWTH_KIB},
    {"empty data", peer_begin, PEER_DATA, 0, true, NULL, 0, GROWTH_KIB},
    {"bytes of one message", begin_a_large_message, PEER_DATA, 0, true, zeros, 1000,
     GROWTH_OF_A_MESSAGE_KIB},
    {"empty messages", peer_begin, PEER_DATA, 0, true, "\0\0\0\0\0", 5, GROWTH_KIB},
    {"continuations", NULL, PEER_HEADERS, 0, true, "\0\1a\1b", 5, GROWTH_KIB},
};

static void assert_in_time(int64_t start, const char *name)
{
    int64_t took_ms = harness_now_ms() - start;

    if (took_ms > DEADLINE_MS + LATE_MS)
        fail_msg("%s: the call ended after %d ms", name, (int)took_ms);
}

static void test_floods(void **state)
{
    struct library *l = *state;
    const struct flood *now = NULL;
    const completion_result *chunk;
    completion_result *result;

    library_pretend(l, flood, &now);
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        now = &floods[i];
        print_message("%s\n", now->name);
        long before = rss_kib();
        int64_t start = harness_now_ms();
        assert_true(completion_create(l->client, l->request, DEADLINE_MS, &result, l->error) < 0);
        assert_true(*completion_error_message(l->error));
        assert_in_time(start, now->name);
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);

        start = harness_now_ms();
        completion_stream *stream = library_open(l, DEADLINE_MS);
        int r;
        while ((r = completion_stream_next(stream, &chunk, l->error)) == 1)
            ;
        assert_true(r < 0);
        assert_in_time(start, now->name);
        long growth_kib = rss_kib() - before;
        if (growth_kib > now->growth_kib)
            fail_msg("%s: the process grew by %ld KiB", now->name, growth_kib);
        completion_stream_free(stream);
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    }
    library_stop(l);
}

/* However much comes, completion_client_process() comes back. */
static void test_floods_in_a_loop(void **state)
{
    enum { TURN_MS = 1000 };
    struct library *l = *state;
    const struct flood *now = NULL;
    const completion_result *result;
    int r;

    library_pretend(l, flood, &now);
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        now = &floods[i];
        print_message("%s\n", now->name);
        int64_t start = harness_now_ms(), turn = start;
        completion_call *call = library_start_call(l, (int)i % 2, DEADLINE_MS);
        while ((r = completion_call_next(call, &result, l->error)) == 1 || r == -EAGAIN) {
            if (r == 1)
                continue;
            assert_true(library_turn(l) >= 0);
            int64_t ended = harness_now_ms();
            if (ended - turn > DEADLINE_MS + TURN_MS)
                fail_msg("%s: a turn took %d ms", now->name, (int)(ended - turn));
            turn = ended;
        }
        assert_true(r < 0);
        assert_true(*completion_error_message(l->error));
        assert_in_time(start, now->name);
        completion_call_free(call);
        completion_client_free(l->client);
        assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    }
    library_stop(l);
}

/* One that takes the connection and nothing else. */
static void only_wait(struct fake_connection *c)
{
    fake_wait_for_close(c);
}

static void test_silence(void **state)
{
    struct library *l = *state;

    library_pretend(l, only_wait, NULL);
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_in_time(start, "silence");
    start = harness_now_ms();
    int r = completion_client_check(l->client, DEADLINE_MS, l->error);
    library_assert_failed(l, r, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_in_time(start, "silence");
    assert_int_equal(completion_error_maybe_executed(l->error), 0); /* a check is not billed */
    library_stop(l);
}

/* One that never reads: a large request does not block the caller either. */
static void never_read(struct fake_connection *c)
{
    fake_await(c->fake, FAKE_GO, 1);
}

static void test_request_that_nobody_reads(void **state)
{
    struct library *l = *state;
    char *big = malloc(1 << 20);

    memset(big, 'x', 1 << 20);
    library_pretend(l, never_read, NULL);
    completion_request_set_prompt(l->request, big, 1 << 20);
    int64_t start = harness_now_ms();
    library_assert_create_fails(l, DEADLINE_MS, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_in_time(start, "a large request");
    free(big);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_wrong_replies_to_one_call),
        library_test(test_wrong_replies_to_a_stream),
        library_test(test_wrong_replies_in_a_loop),
        library_test(test_other_protocols),
        library_test(test_floods),
        library_test(test_floods_in_a_loop),
        library_test(test_silence),
        library_test(test_request_that_nobody_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
