/*
 * Both ends of a gRPC connection while memory runs out: the connection breaks with -ENOMEM or a
 * call fails, what was sent is well-formed, each call ends once, and no call ends with OK that was
 * not answered whole.
 */
#include "grpc_server_fixture.h"

#include <errno.h>

#include "failing_memory.h"
#include "grpc_client.h"

#define DETAILS "\x08\x03\x12\x01x"

/* nghttp2 takes headers that it has no memory to compress for a mistake of the protocol. */
static void assert_outcome(int r, const struct failing_memory *m)
{
    if (r == 0)
        return;
    assert_true(m->failed);
    assert_true(r == -ENOMEM || r == -EPROTO);
}

/* ---- The server ---- */

/* What a client sends in one go: a call of each kind. */
static void ask_for_everything(struct buffer *sent)
{
    peer_hello(sent);
    peer_call(sent, 1, PEER_REQUEST("/t/Echo") "key: 0123456789\n", "hi");
    peer_call(sent, 3, PEER_REQUEST("/t/Stream"), "3 40000");
    peer_call(sent, 5, PEER_REQUEST("/t/Fail"), "hi");
    peer_headers(sent, 7, 0, PEER_REQUEST("/t/Early"));
    peer_headers(sent, 9, NGHTTP2_FLAG_END_STREAM, ":method: GET\n");
    peer_call(sent, 11, PEER_REQUEST("/t/Hold"), "hi");
    peer_headers(sent, 13, 0, PEER_REQUEST("/t/Chat"));
    peer_message(sent, 13, 0, "one");
    peer_message(sent, 13, NGHTTP2_FLAG_END_STREAM, "two");
    peer_frame(sent, NGHTTP2_PING, 0, 0, "01234567", 8);
    peer_window(sent, 0, 1 << 20);
    peer_window(sent, 3, 1 << 20);
}

/* Feeds it, and lets it drain; its output goes to out, which has space. */
static int serve(struct fixture *f, struct buffer *out)
{
    struct buffer *output;
    int r =
        grpc_server_session_new(&grpc_server_options_default, &echo_handler, &f->echo, &f->session);

    if (r < 0)
        return r;
    output = grpc_server_session_output(f->session);
    r = grpc_server_session_receive(f->session, buffer_bytes(&f->sent), buffer_length(&f->sent));
    for (int step = 0; step < 3; step++) {
        do {
            buffer_append(out, buffer_bytes(output), buffer_length(output));
            buffer_consume(output, buffer_length(output));
            if (r == 0)
                r = grpc_server_session_flush(f->session);
        } while (buffer_length(output) > 0);
        if (r == 0)
            grpc_server_session_drain(f->session, step > 0);
    }
    grpc_server_session_free(f->session);
    return r;
}

/* The client sees whole frames, and headers in its compression's terms. */
static const char *read_output(struct fixture *f, struct buffer *out)
{
    peer_receive(&f->peer, buffer_bytes(out), buffer_length(out));
    return peer_text(&f->peer);
}

static void a_server_without_memory_breaks_off_and_loses_no_call(void **state)
{
    static struct fixture f;
    struct buffer out = BUFFER_INIT(SIZE_MAX);
    bool was_whole = false;
    (void)state;

    f.sent = BUFFER_INIT(SIZE_MAX);
    ask_for_everything(&f.sent);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        assert_non_null(buffer_reserve(&out, 1 << 20));
        f.echo = (struct echo){0};
        peer_init(&f.peer, 1);
        failing_memory_begin(&m);
        int r = serve(&f, &out);
        failing_memory_end(&m);
        assert_outcome(r, &m);
        assert_int_equal(out.error, 0);
        assert_int_equal(f.echo.n_begun, f.echo.n_finished + f.echo.n_cancelled + f.echo.n_lost);
        const char *text = read_output(&f, &out);
        if (strstr(text, "grpc-status: 0")) {
            assert_string_equal(text, OK_HEADERS "DATA 7\n" OK_TRAILERS);
            was_whole = true;
        }
        if (!m.failed) {
            assert_int_equal(r, 0);
            assert_int_equal(f.echo.n_begun, 6);
            assert_int_equal(f.echo.n_finished, 5);
            assert_int_equal(f.peer.n_frames[NGHTTP2_GOAWAY], 2);
        }
        peer_done(&f.peer);
        buffer_consume(&out, buffer_length(&out));
    }
    assert_true(was_whole);
    buffer_done(&out);
    buffer_done(&f.sent);
}

/* The same with an account that ends at each size, as it does when the user holds more. */
static void a_server_gives_back_what_it_charged_wherever_its_account_ends(void **state)
{
    static struct fixture f;
    struct grpc_server_options options = grpc_server_options_default;
    bool is_enough = false;
    (void)state;

    for (size_t limit = 0; !is_enough; limit += 509) {
        struct memory memory = MEMORY_INIT(limit, NULL);

        f = (struct fixture){.sent = BUFFER_INIT(SIZE_MAX)};
        options.memory = &memory;
        ask_for_everything(&f.sent);
        int r = grpc_server_session_new(&options, &echo_handler, &f.echo, &f.session);
        if (r == 0) {
            peer_init(&f.peer, 1);
            r = exchange(&f);
            assert_true(r == 0 || r == -ENOMEM || r == -EDQUOT);
            if (strstr(peer_text(&f.peer), "grpc-status: 0"))
                assert_string_equal(peer_text(&f.peer), OK_HEADERS "DATA 7\n" OK_TRAILERS);
            is_enough = f.echo.n_finished == 5;
            assert_true(memory.used <= limit + limit / 8);
            peer_done(&f.peer);
            grpc_server_session_free(f.session);
        } else {
            assert_int_equal(r, -ENOMEM);
        }
        assert_int_equal(f.echo.n_begun, f.echo.n_finished + f.echo.n_cancelled + f.echo.n_lost);
        assert_int_equal(memory.used, 0);
        buffer_done(&f.sent);
    }
}

/* ---- The client ---- */

enum { N_CALLS = 3 };

/* Answers to three calls: two messages, an error with all it may have, and one that is larger than
 * what is kept at first. */
static void answer_everything(struct buffer *sent)
{
    static char large[40001];

    memset(large, 'x', sizeof large - 1);
    peer_frame(sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_frame(sent, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
    peer_headers(sent, 1, 0, ":status: 200\ncontent-type: application/grpc\n");
    peer_message(sent, 1, 0, "one");
    peer_message(sent, 1, 0, "two");
    peer_headers(sent, 1, NGHTTP2_FLAG_END_STREAM, "grpc-status: 0\n");
    peer_headers(sent, 3, NGHTTP2_FLAG_END_STREAM,
                 ":status: 200\ncontent-type: application/grpc\ngrpc-status: 3\n"
                 "grpc-message: a%20reason that is long enough to need some memory\n"
                 "grpc-status-details-bin: CAMSAXg\n");
    peer_headers(sent, 5, 0, ":status: 200\ncontent-type: application/grpc\n");
    struct buffer data = BUFFER_INIT(SIZE_MAX);
    peer_append_message(&data, large, sizeof large - 1);
    for (size_t at = 0; at < buffer_length(&data); at += 10000) {
        size_t n = buffer_length(&data) - at;
        peer_frame(sent, NGHTTP2_DATA, 0, 5, buffer_bytes(&data) + at, n < 10000 ? n : 10000);
    }
    buffer_done(&data);
    peer_headers(sent, 5, NGHTTP2_FLAG_END_STREAM, "grpc-status: 0\n");
}

struct client {
    struct grpc_client_session *session;
    struct grpc_client_call *calls[N_CALLS];
    int errors[N_CALLS];     /* of _new() */
    size_t lengths[N_CALLS]; /* of all messages */
};

static void read_call(struct client *c, size_t i)
{
    const uint8_t *message;
    size_t len;

    while (c->calls[i] && grpc_client_call_next(c->calls[i], &message, &len) == 1)
        c->lengths[i] += len;
}

static int ask(struct client *c, struct buffer *answers, struct buffer *out)
{
    static const struct grpc_client_metadata metadata[] = {{"key", "a value", true}};
    static const struct grpc_client_start start = {
        .path = "/t/Echo", .timeout_us = 1000000, .metadata = metadata, .n_metadata = 1};
    int r = grpc_client_session_new(&grpc_client_options_default, &c->session);

    if (r < 0)
        return r;
    for (size_t i = 0; i < N_CALLS; i++)
        c->errors[i] = grpc_client_call_new(c->session, &start, "hi", 2, &c->calls[i]);
    struct buffer *output = grpc_client_session_output(c->session);
    r = grpc_client_session_flush(c->session);
    /* Answers to calls that were not made would be a mistake of the server. */
    for (size_t i = 0; i < N_CALLS; i++)
        if (c->errors[i] < 0)
            return r;
    for (size_t at = 0; r == 0 && at < buffer_length(answers); at += 7000) {
        size_t n = buffer_length(answers) - at;
        r = grpc_client_session_receive(c->session, buffer_bytes(answers) + at,
                                        n < 7000 ? n : 7000);
        for (size_t i = 0; i < N_CALLS; i++)
            read_call(c, i);
        if (r == 0)
            r = grpc_client_session_flush(c->session);
        buffer_append(out, buffer_bytes(output), buffer_length(output));
        buffer_consume(output, buffer_length(output));
    }
    return r;
}

/* Without memory for an error's text, the status holds. */
static void check_error(struct grpc_client_call *call, bool failed)
{
    const char *text = grpc_client_call_message(call);
    size_t len;
    const uint8_t *details = grpc_client_call_details(call, &len);

    if (grpc_client_call_status(call) != GRPC_INVALID_ARGUMENT) {
        assert_true(failed);
        assert_int_not_equal(grpc_client_call_status(call), GRPC_OK);
        return;
    }
    if (*text)
        assert_string_equal(text, "a reason that is long enough to need some memory");
    else
        assert_true(failed);
    if (len == 5)
        assert_memory_equal(details, DETAILS, 5);
    else
        assert_true(failed);
}

static void check_answer(const struct client *c, size_t i, size_t expected, bool failed)
{
    if (grpc_client_call_status(c->calls[i]) == GRPC_OK) {
        assert_int_equal(c->lengths[i], expected);
        assert_string_equal(grpc_client_call_message(c->calls[i]), "");
    } else {
        assert_true(failed);
        assert_true(c->lengths[i] <= expected);
    }
}

static void check_calls(struct client *c, bool failed)
{
    bool all = true; /* were made */

    for (size_t i = 0; i < N_CALLS; i++) {
        all = all && c->errors[i] == 0;
        if (c->errors[i] < 0) {
            assert_true(failed);
            assert_true(c->errors[i] == -ENOMEM || c->errors[i] == -EPIPE);
            assert_null(c->calls[i]);
        }
    }
    if (c->session)
        grpc_client_session_closed(c->session, "that was all");
    for (size_t i = 0; i < N_CALLS; i++)
        assert_true(!c->calls[i] || grpc_client_call_is_ended(c->calls[i]));
    if (all && c->calls[0]) {
        check_answer(c, 0, 6, failed);
        check_error(c->calls[1], failed);
        check_answer(c, 2, 40000, failed);
    }
    for (size_t i = 0; i < N_CALLS; i++)
        grpc_client_call_free(c->calls[i]);
    grpc_client_session_free(c->session);
}

static void a_client_without_memory_gets_no_answer_that_is_not_whole(void **state)
{
    struct buffer answers = BUFFER_INIT(SIZE_MAX), out = BUFFER_INIT(SIZE_MAX);
    (void)state;

    answer_everything(&answers);
    for (struct failing_memory m = {0}; failing_memory_next(&m);) {
        struct client c = {0};

        assert_non_null(buffer_reserve(&out, 1 << 17));
        failing_memory_begin(&m);
        int r = ask(&c, &answers, &out);
        failing_memory_end(&m);
        assert_outcome(r, &m);
        check_calls(&c, m.failed);
        buffer_consume(&out, buffer_length(&out));
    }
    buffer_done(&out);
    buffer_done(&answers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_without_memory_breaks_off_and_loses_no_call),
        cmocka_unit_test(a_server_gives_back_what_it_charged_wherever_its_account_ends),
        cmocka_unit_test(a_client_without_memory_gets_no_answer_that_is_not_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
