/*
 * A server session with the echo service, and a client that sends exactly what the test says.
 */
#ifndef GRPC_SERVER_FIXTURE_H
#define GRPC_SERVER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_echo.h"
#include "grpc_server.h"
#include "http2_peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define OK_HEADERS                                                                                 \
    "HEADERS\n:status: 200\ncontent-type: application/grpc\ngrpc-accept-encoding: identity\n"
#define OK_TRAILERS "HEADERS END\ngrpc-status: 0\n"
#define TRAILERS_ONLY(http, status, message)                                                       \
    "HEADERS END\n:status: " http                                                                  \
    "\ncontent-type: application/grpc\ngrpc-accept-encoding: identity\n"                           \
    "grpc-status: " status "\ngrpc-message: " message "\n"

struct fixture {
    struct grpc_server_session *session;
    struct echo echo;
    struct peer peer;   /* what the client sees; its stream is 1 unless set */
    struct buffer sent; /* what the client is about to send */
};

static inline struct fixture *open_with(const struct grpc_server_options *options)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->sent = BUFFER_INIT(SIZE_MAX);
    peer_init(&f->peer, 1);
    assert_int_equal(grpc_server_session_new(options, &echo_handler, &f->echo, &f->session), 0);
    return f;
}

static inline struct fixture *open_session(void)
{
    struct fixture *f = open_with(&grpc_server_options_default);
    peer_hello(&f->sent);
    return f;
}

static inline void close_session(struct fixture *f)
{
    grpc_server_session_free(f->session);
    assert_int_equal(f->echo.n_begun, f->echo.n_finished + f->echo.n_cancelled + f->echo.n_lost);
    peer_done(&f->peer);
    buffer_done(&f->sent);
    free(f);
}

/* The client reads all that the server has to say. */
static inline int read_all(struct fixture *f)
{
    struct buffer *out = grpc_server_session_output(f->session);
    int rc = grpc_server_session_flush(f->session);

    do {
        peer_receive(&f->peer, buffer_bytes(out), buffer_length(out));
        buffer_consume(out, buffer_length(out));
        if (rc == 0)
            rc = grpc_server_session_flush(f->session);
    } while (buffer_length(out) > 0);
    assert_false(grpc_server_session_wants_flush(f->session));
    return rc;
}

/* The client sends what it was about to, and reads the answer. */
static inline int exchange(struct fixture *f)
{
    int rc =
        grpc_server_session_receive(f->session, buffer_bytes(&f->sent), buffer_length(&f->sent));
    buffer_done(&f->sent);
    int rc2 = read_all(f);
    return rc < 0 ? rc : rc2;
}

/* One call with these headers and this body: the transcript of the answer. */
static inline void assert_answer(const char *lines, const void *body, size_t len,
                                 const char *expected)
{
    struct fixture *f = open_session();

    peer_headers(&f->sent, 1, 0, lines);
    peer_frame(&f->sent, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, body, len);
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), expected);
    assert_int_equal(grpc_server_session_n_calls(f->session), 0);

    /* The connection is still good. */
    f->peer.stream = 3;
    buffer_done(&f->peer.text);
    peer_call(&f->sent, 3, PEER_REQUEST("/t/Echo"), "hi");
    assert_int_equal(exchange(f), 0);
    assert_string_equal(peer_text(&f->peer), OK_HEADERS "DATA 7\n" OK_TRAILERS);
    close_session(f);
}

/* The same with a body that is right. */
#define ASSERT_ANSWER(lines, expected) assert_answer(lines, "\0\0\0\0\2hi", 7, expected)

#endif
