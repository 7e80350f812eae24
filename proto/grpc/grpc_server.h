/*
 * The server's side of one gRPC connection, on nghttp2: bytes in, bytes out, calls in between.
 *
 * It owns the HTTP/2 session and the calls. It does not own a socket, a timer or a thread, and does
 * not know any method: the caller feeds what it read, sends what is in the output buffer, and
 * answers calls. A call has one request message, or any number of them if its begin says so, and
 * any number of replies.
 *
 * Callbacks (struct grpc_server_handler) run inside grpc_server_session_receive(), _flush(),
 * _drain() or _free(). From them all grpc_server_call_*() functions may be called, but none of
 * grpc_server_session_*() but _user().
 *
 * Life of a call: begin, request (at most once, or see grpc_server_call_stream_requests()),
 * writable (any number), end. It exists from begin until end returns, and end comes exactly once
 * for each begin, whatever happens. Nothing is allocated for the sake of a peer beyond the limits
 * in struct grpc_server_options.
 */
#ifndef GRPC_SERVER_H
#define GRPC_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

struct grpc_server_session;
struct grpc_server_call;

enum grpc_server_end {
    GRPC_SERVER_END_FINISHED,  /* the status was handed to the output */
    GRPC_SERVER_END_CANCELLED, /* the client reset the stream */
    GRPC_SERVER_END_LOST,      /* the connection went away, or broke the protocol */
};

struct grpc_server_handler {
    /* The headers are there and valid: a POST of application/grpc with a path, without compression.
     * May set the call's user pointer, and may finish the call at once. */
    void (*begin)(struct grpc_server_call *call, void *session_user);

    /* The one request message, and the client has ended its side. Not called if the call was
     * finished before. The bytes are valid during the callback. */
    void (*request)(struct grpc_server_call *call, const uint8_t *message, size_t len);

    /* grpc_server_call_pending() fell below the low-water mark, having been above the high one. */
    void (*writable)(struct grpc_server_call *call);

    /* The last callback of the call. */
    void (*end)(struct grpc_server_call *call, enum grpc_server_end how);
};

struct grpc_server_options {
    uint32_t max_streams;    /* calls at once; more are refused with REFUSED_STREAM. 100 */
    size_t max_header_bytes; /* of one call, each header as name + value + 32. 16 KiB */
    size_t
        max_message_bytes; /* of a request; refused on its prefix with RESOURCE_EXHAUSTED. 4 MiB */
    size_t
        high_water_bytes; /* of replies of one call; above it, grpc_server_call_is_full(). 64 KiB */
    size_t max_pending_bytes; /* of replies of one call: more fails the call. 36 MiB */
    size_t output_bytes;      /* frames are made while the output holds less. 64 KiB */
    struct memory *memory;    /* all that the session holds is charged to it; outlives the session.
                               * When it is used up, calls fail with RESOURCE_EXHAUSTED, or the
                               * connection with -ENOMEM. NULL: without an account */
};

/* The numbers above. */
extern const struct grpc_server_options grpc_server_options_default;

/* 0 or -ENOMEM. handler must outlive the session; options is copied. Our SETTINGS are in the output
 * when the client's preface has been received. */
int grpc_server_session_new(const struct grpc_server_options *options,
                            const struct grpc_server_handler *handler, void *user,
                            struct grpc_server_session **ret);

/* Ends all calls with GRPC_SERVER_END_LOST first. Takes NULL; returns NULL. */
struct grpc_server_session *grpc_server_session_free(struct grpc_server_session *s);

void *grpc_server_session_user(const struct grpc_server_session *s);

/* The time has come to be this, on any clock that does not go back: before _receive() and _flush(),
 * and before questions about time. */
void grpc_server_session_set_time(struct grpc_server_session *s, int64_t now_us);

/* When began what the client has begun and not completed: the greeting, a frame, the headers of a
 * call. -1: there is nothing such. Messages are not meant. */
int64_t grpc_server_session_midway_since(const struct grpc_server_session *s);

/* Bytes from the client. 0, or negative: send what the output holds, then close (-EPROTO: not
 * HTTP/2, or broken, or more than one client may ask (http2_guard.h); the output then has a GOAWAY,
 * or for HTTP/1.1 a readable 400; -ENOMEM). Some of it may show only in the _flush() that follows.
 */
int grpc_server_session_receive(struct grpc_server_session *s, const uint8_t *data, size_t len);

/* Makes frames of what is to be sent, until there is nothing more or the output holds
 * output_bytes. Call it after _receive(), after replies, and after each consume of the output. 0 or
 * negative: close. */
int grpc_server_session_flush(struct grpc_server_session *s);

/* What is to be written to the socket; consume what was written. */
struct buffer *grpc_server_session_output(struct grpc_server_session *s);

/* _flush() would have something to do. */
bool grpc_server_session_wants_flush(const struct grpc_server_session *s);

/* Neither side wants anything any more: close when the output is empty. */
bool grpc_server_session_is_done(const struct grpc_server_session *s);

/* Draining, in two steps with a round trip's time between them (about 200 ms), so that calls that
 * are on their way are still served: first a GOAWAY that refuses nothing (final = false), then one
 * that does (final = true). The session is done when its calls are. */
void grpc_server_session_drain(struct grpc_server_session *s, bool final);

size_t grpc_server_session_n_calls(const struct grpc_server_session *s);

/* ---- Calls ---- */

void grpc_server_call_set_user(struct grpc_server_call *call, void *user);
void *grpc_server_call_user(const struct grpc_server_call *call);
struct grpc_server_session *grpc_server_call_session(const struct grpc_server_call *call);

/* "/completion.v1.Completions/Create". Valid as long as the call. */
const char *grpc_server_call_path(const struct grpc_server_call *call);

/* From begin: the client may send any number of requests. request() comes for each, without waiting
 * for the client's end, while the call is not full; and with NULL when the client has ended its
 * side and no request is left: the call has to be finished then. A request of more than 16 KiB, or
 * more than 64 KiB of them that wait because the replies are not taken, fail the call with
 * RESOURCE_EXHAUSTED. */
void grpc_server_call_stream_requests(struct grpc_server_call *call);

/* From grpc-timeout, counted from the headers' arrival; -1 if the client gave none. */
int64_t grpc_server_call_timeout_us(const struct grpc_server_call *call);

/* The value of a metadata key (lower case), or NULL; the last one where it was sent several times.
 * Pseudo-headers and gRPC's own are not metadata. Valid as long as the call; may hold a secret, and
 * is wiped with the call. */
const char *grpc_server_call_metadata(const struct grpc_server_call *call, const char *key);

/* One header of metadata in the response's first headers, which are the trailers where there is no
 * reply. Nothing once they are out. Key (lower case) and value (printable ASCII) are not copied, and
 * must stay until the call ends. */
void grpc_server_call_set_header(struct grpc_server_call *call, const char *key, const char *value);

/*
 * A reply message, written in place: append the message to the buffer that _begin() returns (do not
 * consume, truncate or keep it), then _end() or, if it came to nothing, _abort(). Returns 0, or
 * -EMSGSIZE / -ENOMEM / -EDQUOT (the account of memory is used up), and then the message is not
 * sent and the call goes on.
 */
struct buffer *grpc_server_call_message_begin(struct grpc_server_call *call);
int grpc_server_call_message_end(struct grpc_server_call *call);
void grpc_server_call_message_abort(struct grpc_server_call *call);

/* Bytes of replies that wait for the client's flow control window or for the socket. */
size_t grpc_server_call_pending(const struct grpc_server_call *call);

/* More than high_water_bytes wait: stop producing until writable. */
bool grpc_server_call_is_full(const struct grpc_server_call *call);

/* Since when replies wait and none of them was taken, for want of window or because the output is
 * not consumed; -1: none waits. It counts from the first such question at the latest. */
int64_t grpc_server_call_waits_since(struct grpc_server_call *call);

/* The replies that wait will never be taken: they are dropped, and the status goes out without
 * them. It is the one given unless the call was finished with an error before. Nothing if no reply
 * waits. */
void grpc_server_call_drop(struct grpc_server_call *call, enum grpc_status status,
                           const char *message);

/*
 * Ends the call, once: replies that wait are sent first (status GRPC_OK, or any if there is no
 * reply: trailers only), then the status. message is plain UTF-8 text or NULL; details is a packed
 * google.rpc.Status or NULL with 0. Neither is kept. Afterwards only the getters may be called.
 */
void grpc_server_call_finish(struct grpc_server_call *call, enum grpc_status status,
                             const char *message, const void *details, size_t details_len);

bool grpc_server_call_is_finished(const struct grpc_server_call *call);
/* Of one that is finished. */
enum grpc_status grpc_server_call_status(const struct grpc_server_call *call);

#endif
