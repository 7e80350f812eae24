/*
 * The client's side of one gRPC connection, on nghttp2: bytes in, bytes out, many calls at once.
 *
 * It owns the HTTP/2 session and the calls, no socket, timer or thread. Messages are pulled:
 * grpc_client_call_next() returns a view of the next whole one, and only what has been taken is
 * given back to the server's flow control window. So a reader that stops reading stops the server,
 * and a call holds at most window_bytes plus one message.
 *
 * The only callback is `ready`, a hint that a call has something new; it runs inside any
 * grpc_client_session_*() function that takes the session, and may call any grpc_client_call_*()
 * function but _free().
 */
#ifndef GRPC_CLIENT_H
#define GRPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

struct grpc_client_session;
struct grpc_client_call;

struct grpc_client_options {
    size_t max_message_bytes; /* of a reply: a larger one fails the call. 64 MiB */
    uint32_t window_bytes;    /* of one call. 256 KiB */
    /* May be NULL. */
    void (*ready)(struct grpc_client_call *call, void *call_user);
};

extern const struct grpc_client_options grpc_client_options_default;

/* 0 or -ENOMEM. The preface and SETTINGS are in the output at once. */
int grpc_client_session_new(const struct grpc_client_options *options,
                            struct grpc_client_session **ret);

/* Calls that have not ended end with UNAVAILABLE, "connection closed"; calls outlive the session
 * and can still be read and must still be freed. Takes NULL; returns NULL. */
struct grpc_client_session *grpc_client_session_free(struct grpc_client_session *s);

/* Bytes from the server. 0, or negative: close (-EPROTO, -ENOMEM). All calls have ended then, with
 * a text that says what is wrong with the server. */
int grpc_client_session_receive(struct grpc_client_session *s, const uint8_t *data, size_t len);

/* The connection is gone: ends all calls that have not ended with UNAVAILABLE and this text. */
void grpc_client_session_closed(struct grpc_client_session *s, const char *why);

/* Makes frames of what is to be sent; call it before asking for the output. 0 or negative: close.
 */
int grpc_client_session_flush(struct grpc_client_session *s);
struct buffer *grpc_client_session_output(struct grpc_client_session *s);

/* False once the server said GOAWAY or the connection is closed: new calls need a new connection.
 */
bool grpc_client_session_is_open(const struct grpc_client_session *s);

struct grpc_client_metadata {
    const char *key, *value; /* lower-case key, none of gRPC's own; value printable ASCII */
    bool secret;             /* kept out of the header compression's tables */
};

struct grpc_client_start {
    const char *path;   /* "/completion.v1.Completions/Create" */
    int64_t timeout_us; /* sent as grpc-timeout; negative: none. The caller keeps the clock. */
    const struct grpc_client_metadata *metadata;
    size_t n_metadata; /* at most 16 */
    void *user;
};

/* Starts a call with its one request message, which is copied. 0, -ENOMEM, -EINVAL (path or
 * metadata), or -EPIPE if the session is not open. */
int grpc_client_call_new(struct grpc_client_session *s, const struct grpc_client_start *start,
                         const void *message, size_t len, struct grpc_client_call **ret);

/* Cancels the call if it has not ended. Takes NULL; returns NULL. Not from `ready`. */
struct grpc_client_call *grpc_client_call_free(struct grpc_client_call *call);

/* Ends the call on this side with this status, and resets the stream. Nothing if it has ended. */
void grpc_client_call_cancel(struct grpc_client_call *call, enum grpc_status status,
                             const char *message);

/* 1 and a view of the next message, valid until the next call of this function or _free(); 0 if
 * there is none (yet: see _is_ended()). Messages that came before the end are still handed out
 * after it. */
int grpc_client_call_next(struct grpc_client_call *call, const uint8_t **ret, size_t *ret_len);

/* The status is known. It is never GRPC_OK unless the server said so in trailers and every message
 * was whole. */
bool grpc_client_call_is_ended(const struct grpc_client_call *call);

/* Something of it was handed to the output. Else it waits: the server takes only so many. */
bool grpc_client_call_is_sent(const struct grpc_client_call *call);

enum grpc_status grpc_client_call_status(const struct grpc_client_call *call);

/* Valid UTF-8, empty if there is none. */
const char *grpc_client_call_message(const struct grpc_client_call *call);

/* grpc-status-details-bin, decoded; NULL and 0 if there is none. */
const uint8_t *grpc_client_call_details(const struct grpc_client_call *call, size_t *ret_len);

/* The server provably did nothing with this call (REFUSED_STREAM, or a GOAWAY with a lower id, or
 * never sent): it may be made again on another connection. */
bool grpc_client_call_was_unprocessed(const struct grpc_client_call *call);

#endif
