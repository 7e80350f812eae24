/*
 * A client session, and a server that sends exactly what the test says.
 */
#ifndef GRPC_CLIENT_FIXTURE_H
#define GRPC_CLIENT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grpc_client.h"
#include "http2_peer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define REPLY_HEADERS  ":status: 200\ncontent-type: application/grpc\n"
#define REPLY_TRAILERS "grpc-status: 0\n"

struct fixture {
    struct grpc_client_session *session;
    struct grpc_client_call *call; /* on stream 1 */
    struct peer peer;              /* what the server sees; its stream is 1 unless set */
    struct buffer sent;            /* what the server is about to send */
    size_t n_ready;
};

static inline void count_ready(struct grpc_client_call *call, void *user)
{
    (void)call;
    (*(size_t *)user)++;
}

static inline void read_all(struct fixture *f)
{
    struct buffer *out = grpc_client_session_output(f->session);

    grpc_client_session_flush(f->session);
    peer_receive(&f->peer, buffer_bytes(out), buffer_length(out));
    buffer_consume(out, buffer_length(out));
}

static inline int exchange(struct fixture *f)
{
    int rc =
        grpc_client_session_receive(f->session, buffer_bytes(&f->sent), buffer_length(&f->sent));

    buffer_done(&f->sent);
    read_all(f);
    return rc;
}

static inline struct grpc_client_call *start_call(struct fixture *f, const char *path,
                                                  const void *message, size_t len)
{
    struct grpc_client_call *call = NULL;
    const struct grpc_client_start start = {.path = path, .timeout_us = -1, .user = &f->n_ready};

    assert_int_equal(grpc_client_call_new(f->session, &start, message, len, &call), 0);
    return call;
}

/* Options may be NULL. */
static inline struct fixture *open_with(const struct grpc_client_options *options)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct grpc_client_options o = options ? *options : grpc_client_options_default;

    assert_non_null(f);
    f->sent = BUFFER_INIT(SIZE_MAX);
    peer_init(&f->peer, 1);
    o.ready = count_ready;
    assert_int_equal(grpc_client_session_new(&o, &f->session), 0);

    struct buffer *out = grpc_client_session_output(f->session);
    assert_true(buffer_length(out) > 24);
    assert_memory_equal(buffer_bytes(out), PEER_PREFACE, 24);
    buffer_consume(out, 24);
    read_all(f);
    assert_int_equal(f->peer.n_frames[NGHTTP2_SETTINGS], 1);
    return f;
}

/* With one call, and the server's SETTINGS on their way. */
static inline struct fixture *open_call(void)
{
    struct fixture *f = open_with(NULL);

    f->call = start_call(f, "/t/Echo", "hi", 2);
    read_all(f);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    peer_frame(&f->sent, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
    return f;
}

static inline void close_all(struct fixture *f)
{
    grpc_client_call_free(f->call);
    grpc_client_session_free(f->session);
    peer_done(&f->peer);
    buffer_done(&f->sent);
    free(f);
}

static inline void assert_next(struct grpc_client_call *call, const char *expected)
{
    const uint8_t *message;
    size_t len;

    assert_int_equal(grpc_client_call_next(call, &message, &len), 1);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(message, expected, len);
}

static inline void assert_no_next(struct grpc_client_call *call)
{
    const uint8_t *message;
    size_t len;

    assert_int_equal(grpc_client_call_next(call, &message, &len), 0);
}

static inline void assert_end(struct grpc_client_call *call, enum grpc_status status,
                              const char *message)
{
    assert_true(grpc_client_call_is_ended(call));
    assert_string_equal(grpc_status_name((int)grpc_client_call_status(call)),
                        grpc_status_name((int)status));
    assert_string_equal(grpc_client_call_message(call), message);
}

#endif
