/*
 * One call of a caller: from its headers to its one status. Keeps the deadline, the account of what
 * happened, and the way to fail; what a method does is service.c's.
 *
 *     NEW ──request──► RUNNING ──finish or fail──► FINISHED ──► (freed)
 *      └──────────────────┴────── the caller goes away ──────────┘
 *
 * A call belongs to its gRPC call: it is freed at the end of the turn in which that ends. Its
 * transfer never outlives it, except to let a connection come to rest (upstream_finish()).
 */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "../proto/buffer.h"
#include "../proto/grpc/grpc_server.h"
#include "../proto/utf8.h"
#include "queue.h"
#include "record.h"
#include "sse.h"
#include "translate.h"
#include "upstream.h"
#include "worker.h"

struct connection;
struct service_method;

enum { CALL_EVENT_MAX_BYTES = 16 << 20, CALL_ID_SIZE = UPSTREAM_CALL_ID_MAX + 1 };

enum call_state { CALL_NEW, CALL_RUNNING, CALL_FINISHED };

/* What the body of the upstream's response is. */
enum call_response {
    CALL_RESPONSE_NONE,
    CALL_RESPONSE_WHOLE,  /* one JSON text */
    CALL_RESPONSE_EVENTS, /* an event stream */
    CALL_RESPONSE_ERROR,  /* of a status that is not 2xx */
};

struct call {
    LIST_ENTRY(call) next; /* among its connection's */
    struct worker *worker;
    struct connection *connection;
    struct grpc_server_call *grpc; /* NULL once it is gone */
    const struct service_method *method;
    char id[CALL_ID_SIZE]; /* "call-" and 16 hex digits that nobody can guess */
    enum call_state state;
    struct event deadline;
    struct task release;
    int64_t start_us, deadline_us; /* INT64_MAX: none */
    struct record_times times;
    char model[RECORD_MODEL_SIZE]; /* as asked for, maybe cut; "" before */

    /* Towards the upstream; see attempt.c. */
    struct upstream *upstream;       /* a reference, NULL until chosen */
    const struct endpoint *endpoint; /* of the upstream's: the last that was asked, or NULL */
    uint64_t tried;                  /* endpoints that were asked, as bits */
    struct upstream_body *request;   /* a reference, NULL before */
    struct transfer *transfer;       /* NULL: none is running */
    struct queue_place place;
    enum queue_state counted; /* as which the metrics have it */
    struct event backoff;
    size_t charged_bytes;                     /* on the connection's memory */
    int64_t prompt_tokens, completion_tokens; /* reserved, until the call ends */
    unsigned attempts, attempts_before;       /* before the one that runs */
    unsigned n_retries;
    bool is_backing_off;
    bool maybe_executed; /* by an attempt before */

    /* From the upstream; see answer.c. */
    const char *own_key; /* the caller's, lives in the gRPC call; NULL: the configured one */
    enum call_response response;
    struct transfer_head head; /* status 0: none came */
    struct buffer body;        /* whole or error bodies */
    struct sse_parser sse;
    struct translate_pattern pattern;
    struct translate_progress progress;
    bool stream;
    bool keep_obfuscation;
    bool wants_little;     /* see upstream_body */
    bool saw_other_events; /* events that are not this API's */
    bool watches;          /* grpc.health.v1.Health/Watch has begun */
    bool watches_service;  /* one that is known */
    int64_t n_replies;
};

/* What the gRPC sessions call; their user is the connection. */
extern const struct grpc_server_handler call_handler;

/* How a call fails. Texts are UTF-8 and are copied; NULL is absent. */
struct call_error {
    enum grpc_status status;
    const char *reason;                    /* PROTOCOL.md lists them */
    const char *message;                   /* a sentence: what happened and what to do */
    const char *param;                     /* the field of the request, or the API's */
    const char *type, *code, *api_message; /* the API's */
    Completion__V1__Phase phase;
    int64_t retry_after_ms; /* 0: what the upstream's head says, if it says anything */
    bool maybe_executed, retryable;
};

/* Ends the call with an error, and stops its transfer. Nothing if it is finished already. */
void call_fail(struct call *call, const struct call_error *error);

/* The same for want of memory: -ENOMEM, or -EDQUOT if an account of memory is used up, or
 * -EMFILE if it is descriptors that have run out. */
void call_fail_for_memory(struct call *call, int r, Completion__V1__Phase phase);

/* Ends the call with OK. The transfer's connection is kept if it can be. */
void call_finish(struct call *call);

/* A reply, in place; see grpc_server_call_message_begin(). A reply that can't be kept fails the
 * call. */
struct buffer *call_reply_begin(struct call *call);
void call_reply_end(struct call *call);
void call_reply_abort(struct call *call);

/* Ends the calls of the connection that would not end by themselves, because the daemon drains. */
void call_drain(struct connection *connection);

/* Ends all calls of the connection with CANCELLED, because the daemon shuts down. */
void call_shut_down(struct connection *connection);

#endif
