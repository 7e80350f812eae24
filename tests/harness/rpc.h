/*
 * A caller with nothing between the test and the gRPC session: blocking, one connection, any number
 * of calls on it, read and not read as the test likes. Failures and long waits fail the test.
 */
#ifndef RPC_H
#define RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "completion/v1/completion.pb-c.h"
#include "grpc_client.h"

#define RPC_CREATE        "/completion.v1.Completions/Create"
#define RPC_CREATE_STREAM "/completion.v1.Completions/CreateStream"
#define RPC_HEALTH        "/grpc.health.v1.Health/Check"

struct rpc {
    int fd; /* -1: closed */
    struct grpc_client_session *session;
};

void rpc_connect(struct rpc *r, const char *socket_path);
/* Closes without a word. Nothing if it is closed already. */
void rpc_close(struct rpc *r);

/* One turn of the connection: writes what is to be written, reads what is there, waiting for it at
 * most so long. False: nothing came. */
bool rpc_turn(struct rpc *r, int timeout_ms);

/* ---- Requests ---- */

typedef Completion__V1__CreateCompletionRequest rpc_request;

/* Model and prompt_string. The texts are not copied. */
rpc_request rpc_request_new(const char *model, const char *prompt);
ProtobufCBinaryData rpc_text(const char *text);

/* ---- Calls ---- */

/* timeout_ms negative: none. To be freed by rpc_finish() or grpc_client_call_free(). */
struct grpc_client_call *rpc_start(struct rpc *r, const char *path, const rpc_request *request,
                                   int timeout_ms);
/* The same with any bytes for a message, and metadata. */
struct grpc_client_call *rpc_start_raw(struct rpc *r, const char *path, const void *message,
                                       size_t len, int timeout_ms,
                                       const struct grpc_client_metadata *metadata,
                                       size_t n_metadata);

/* The next Completion, to be freed with rpc_completion_free(); NULL: the call has ended. */
Completion__V1__Completion *rpc_next(struct rpc *r, struct grpc_client_call *call);
void rpc_completion_free(Completion__V1__Completion *completion);

/* RST_STREAM, sent at once. */
void rpc_cancel(struct rpc *r, struct grpc_client_call *call);

/* How a call went. */
struct rpc_result {
    enum grpc_status status;
    char message[1025];
    Completion__V1__ErrorDetail *detail; /* NULL: there was none */
    unsigned n_messages;
    struct buffer text;               /* of all first choices, joined; with a NUL behind it */
    Completion__V1__Completion *last; /* NULL: none */
};

/* Takes all messages, waits for the end, and frees the call. */
void rpc_finish(struct rpc *r, struct grpc_client_call *call, struct rpc_result *ret);
void rpc_result_done(struct rpc_result *result);

/* rpc_start() and rpc_finish(). */
void rpc_call(struct rpc *r, const char *path, const rpc_request *request, struct rpc_result *ret);

/* Assert on a result, showing what it was. reason may be NULL: any. */
void rpc_assert_ok(const struct rpc_result *result, const char *text);
void rpc_assert_failed(const struct rpc_result *result, enum grpc_status status,
                       const char *reason);
/* message: a part of the status message. */
void rpc_assert_said(const struct rpc_result *result, const char *message);

/* A text field of protobuf is this text; NULL: it is not set. */
#define rpc_assert_text(message, field, expected)                                                  \
    rpc_assert_field((message)->has_##field, &(message)->field, expected)
void rpc_assert_field(bool has, const ProtobufCBinaryData *field, const char *expected);

#endif
