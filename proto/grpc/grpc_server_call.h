/*
 * Inside of the server session: what grpc_server.c (HTTP/2) and grpc_server_call.c (calls) share.
 * Not for users of either.
 */
#ifndef GRPC_SERVER_CALL_H
#define GRPC_SERVER_CALL_H

#include <nghttp2/nghttp2.h>
#include <sys/queue.h>

#include "grpc_request.h"
#include "grpc_server.h"
#include "http2_guard.h"

struct grpc_server_session {
    nghttp2_session *h2;
    const struct grpc_server_handler *handler;
    void *user;
    struct grpc_server_options options;
    struct http2_guard guard;
    bool is_skipping; /* the frame that has begun */
    int64_t first_us; /* when the first byte came */
    struct buffer output;
    LIST_HEAD(, grpc_server_call) calls;
    size_t n_calls;   /* begun and not ended */
    size_t n_preface; /* bytes of the client's preface that were there */
    int error;        /* sticky */
    bool is_drained;  /* the final GOAWAY was submitted */
};

struct grpc_server_call {
    LIST_ENTRY(grpc_server_call) entry;
    struct grpc_server_session *session;
    void *user;
    int32_t stream_id;
    bool is_begun;    /* the handler knows it */
    bool is_ended;    /* the client has ended its side */
    bool is_answered; /* response headers were submitted */
    bool is_finished; /* its status is known */
    bool is_sent;     /* its status was handed to the output */
    bool was_reset;   /* by the client */
    bool is_closed;   /* the stream is gone */
    bool is_full;     /* writable is owed */
    bool is_counted;  /* as one that ended early */
    bool is_streamed; /* the client may send any number of messages */
    bool is_dropped;  /* its trailers were submitted, though replies waited */
    unsigned n_empty; /* frames of the client that brought nothing */

    struct grpc_request request;
    struct buffer body; /* the request message with its prefix; or those that wait */

    struct buffer reply; /* framed messages */
    size_t ready;        /* bytes of it that may be sent: without a message that is being written */
    size_t n_framed;     /* bytes of it that a frame was begun for: they must follow */
    int64_t waits_us;    /* since when none of them was taken; -1: not known yet */

    const char *header_key, *header_value; /* of metadata, NULL: none; the handler's */

    enum grpc_status status;
    struct buffer trailer; /* grpc-message and grpc-status-details-bin, as sent */
    size_t message_len;
};

/* NULL without memory. */
struct grpc_server_call *grpc_server_call_new(struct grpc_server_session *s, int32_t stream_id);

/* Tells the handler and frees. */
void grpc_server_call_close(struct grpc_server_call *call);

/* The request's headers are complete; its bytes; its end. */
void grpc_server_call_begin(struct grpc_server_call *call);
void grpc_server_call_receive(struct grpc_server_call *call, const uint8_t *data, size_t len);
void grpc_server_call_receive_end(struct grpc_server_call *call);

/* It has ended, or will, before its status was sent. */
void grpc_server_call_count_early_end(struct grpc_server_call *call);

/* A frame that brought nothing and ended nothing. */
void grpc_server_call_count_empty(struct grpc_server_call *call);

/* n bytes of replies were handed to the output. */
void grpc_server_call_consume(struct grpc_server_call *call, size_t n);

#endif
