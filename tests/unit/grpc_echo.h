/*
 * A small gRPC service for tests of the sessions:
 *   /t/Echo    the request back
 *   /t/Stream  "COUNT SIZE": so many messages of that size, as fast as they are taken
 *   /t/Fail    INVALID_ARGUMENT with a message and details
 *   /t/Both    the request back, then ABORTED
 *   /t/Early   FAILED_PRECONDITION, before the request is there
 *   /t/Chat    each of many requests back, then OK
 *   /t/Hold    nothing: the test does it
 * anything else is UNIMPLEMENTED.
 */
#ifndef GRPC_ECHO_H
#define GRPC_ECHO_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpc_server.h"

#define ECHO_FAIL_MESSAGE "100% \xc3\xa9, or\nso"
#define ECHO_FAIL_DETAILS "\x08\x03\x00\xff"

enum { ECHO_HELD_MAX = 256 };

struct echo {
    size_t n_begun, n_requests, n_writable, n_finished, n_cancelled, n_lost;
    size_t pending_max;                           /* most that ever waited in one call */
    struct grpc_server_call *held[ECHO_HELD_MAX]; /* calls of /t/Hold */
    size_t n_held;
};

struct echo_stream {
    unsigned left, size;
};

static inline struct echo *echo_of(struct grpc_server_call *call)
{
    return grpc_server_session_user(grpc_server_call_session(call));
}

static inline int echo_reply(struct grpc_server_call *call, const void *message, size_t len)
{
    buffer_append(grpc_server_call_message_begin(call), message, len);
    return grpc_server_call_message_end(call);
}

static inline void echo_finish(struct grpc_server_call *call, enum grpc_status status,
                               const char *message)
{
    grpc_server_call_finish(call, status, message, NULL, 0);
}

static inline void echo_stream_run(struct grpc_server_call *call)
{
    struct echo_stream *stream = grpc_server_call_user(call);
    struct echo *echo = echo_of(call);

    while (stream->left > 0 && !grpc_server_call_is_full(call)) {
        struct buffer *out = grpc_server_call_message_begin(call);
        uint8_t *p = buffer_reserve(out, stream->size);
        if (p) {
            memset(p, (int)('a' + stream->left % 26), stream->size);
            buffer_commit(out, stream->size);
        }
        if (grpc_server_call_message_end(call) < 0) {
            echo_finish(call, GRPC_RESOURCE_EXHAUSTED, "no space");
            return;
        }
        stream->left--;
        if (grpc_server_call_pending(call) > echo->pending_max)
            echo->pending_max = grpc_server_call_pending(call);
    }
    if (stream->left == 0)
        echo_finish(call, GRPC_OK, NULL);
}

static inline void echo_begin(struct grpc_server_call *call, void *user)
{
    struct echo *echo = user;

    echo->n_begun++;
    if (strcmp(grpc_server_call_path(call), "/t/Early") == 0)
        echo_finish(call, GRPC_FAILED_PRECONDITION, "early");
    if (strcmp(grpc_server_call_path(call), "/t/Chat") == 0)
        grpc_server_call_stream_requests(call);
}

static inline void echo_request(struct grpc_server_call *call, const uint8_t *message, size_t len)
{
    struct echo *echo = echo_of(call);
    const char *path = grpc_server_call_path(call);

    echo->n_requests++;
    if (strcmp(path, "/t/Chat") == 0) {
        if (!message)
            echo_finish(call, GRPC_OK, NULL);
        else if (echo_reply(call, message, len) != 0)
            echo_finish(call, GRPC_RESOURCE_EXHAUSTED, "no space");
        if (grpc_server_call_pending(call) > echo->pending_max)
            echo->pending_max = grpc_server_call_pending(call);
    } else if (strcmp(path, "/t/Echo") == 0) {
        if (echo_reply(call, message, len) == 0)
            echo_finish(call, GRPC_OK, NULL);
        else
            echo_finish(call, GRPC_RESOURCE_EXHAUSTED, "no space");
    } else if (strcmp(path, "/t/Stream") == 0) {
        struct echo_stream *stream = calloc(1, sizeof *stream);
        char text[32];
        snprintf(text, sizeof text, "%.*s", (int)(len < 31 ? len : 31), (const char *)message);
        if (!stream || sscanf(text, "%6u %8u", &stream->left, &stream->size) != 2) {
            free(stream);
            echo_finish(call, GRPC_INVALID_ARGUMENT, "COUNT SIZE");
            return;
        }
        grpc_server_call_set_user(call, stream);
        echo_stream_run(call);
    } else if (strcmp(path, "/t/Fail") == 0) {
        grpc_server_call_finish(call, GRPC_INVALID_ARGUMENT, ECHO_FAIL_MESSAGE, ECHO_FAIL_DETAILS,
                                sizeof ECHO_FAIL_DETAILS - 1);
    } else if (strcmp(path, "/t/Both") == 0) {
        echo_reply(call, message, len);
        echo_finish(call, GRPC_ABORTED, "after a reply");
    } else if (strcmp(path, "/t/Hold") == 0) {
        if (echo->n_held < ECHO_HELD_MAX)
            echo->held[echo->n_held++] = call;
    } else {
        echo_finish(call, GRPC_UNIMPLEMENTED, "unknown method");
    }
}

static inline void echo_writable(struct grpc_server_call *call)
{
    echo_of(call)->n_writable++;
    if (grpc_server_call_user(call))
        echo_stream_run(call);
}

static inline void echo_end(struct grpc_server_call *call, enum grpc_server_end how)
{
    struct echo *echo = echo_of(call);

    *(how == GRPC_SERVER_END_FINISHED    ? &echo->n_finished
      : how == GRPC_SERVER_END_CANCELLED ? &echo->n_cancelled
                                         : &echo->n_lost) += 1;
    for (size_t i = 0; i < echo->n_held; i++) {
        if (echo->held[i] == call)
            echo->held[i] = NULL;
    }
    free(grpc_server_call_user(call));
}

static const struct grpc_server_handler echo_handler = {
    .begin = echo_begin,
    .request = echo_request,
    .writable = echo_writable,
    .end = echo_end,
};

#endif
