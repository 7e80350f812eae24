/*
 * Inside of the client session: what grpc_client.c (HTTP/2) and grpc_client_call.c (calls) share.
 * Not for users of either.
 */
#ifndef GRPC_CLIENT_CALL_H
#define GRPC_CLIENT_CALL_H

#include <nghttp2/nghttp2.h>
#include <sys/queue.h>

#include "grpc_client.h"
#include "grpc_response.h"

struct grpc_client_session {
    nghttp2_session *h2;
    struct grpc_client_options options;
    struct buffer output;
    LIST_HEAD(, grpc_client_call) calls; /* all that were not freed */
    size_t n_http1;                      /* bytes that looked like HTTP/1 so far */
    int error;                           /* sticky; -EPIPE after _closed() */
};

struct grpc_client_call {
    LIST_ENTRY(grpc_client_call) entry;
    struct grpc_client_session *session; /* NULL once it is freed */
    void *user;
    int32_t stream_id;
    bool is_open;        /* nghttp2 has the stream */
    bool is_sent;        /* its headers were handed to the output */
    bool is_request_end; /* its whole request was */
    bool is_ended;
    bool is_unprocessed;

    struct buffer request; /* the request message with its prefix, as far as not sent */

    /* Framed messages: first the one that the reader looks at (taken bytes), then whole ones, then
     * the beginning of another. held has the former where it could not stay in the buffer. */
    struct buffer in, held;
    size_t taken, whole;
    size_t uncredited; /* received, but not given back to flow control */

    struct grpc_response response;
    enum grpc_status status;
    bool has_details;   /* those of the response hold */
    struct buffer text; /* NUL-terminated, or empty */
};

/* Bytes of messages; a block of headers is complete; the response is. */
void grpc_client_call_receive(struct grpc_client_call *call, const uint8_t *data, size_t len);
void grpc_client_call_receive_block(struct grpc_client_call *call);
void grpc_client_call_receive_end(struct grpc_client_call *call);

/* Ends it if it has not, and tells the reader. */
void grpc_client_call_end(struct grpc_client_call *call, enum grpc_status status, const char *text);

/* nghttp2 has forgotten the stream. */
void grpc_client_call_close(struct grpc_client_call *call, uint32_t error_code);

/* Provider of nghttp2 for the request. */
ssize_t grpc_client_call_read_request(nghttp2_session *h2, int32_t stream_id, uint8_t *buf,
                                      size_t length, uint32_t *flags, nghttp2_data_source *source,
                                      void *user);

#endif
