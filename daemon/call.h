/*
 * One call of a caller: from its headers to its one status. Keeps the deadline, the account of what
 * happened, and the way to fail; what a method does is service.c's.
 *
 *     NEW ──request──► RUNNING ──finish or fail──► FINISHED ──► (freed)
 *      └──────────────────┴────── the caller goes away ──────────┘
 *
 * A call belongs to its gRPC call, or to the front that it came through: it is freed at the end of
 * the turn in which that ends. Its transfer never outlives it, except to let a connection come to
 * rest (upstream_finish()).
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

struct account;
struct call;
struct call_error;
struct caller;
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

/* Where a call came from and its replies go to, if not through gRPC, whose calls are spared the
 * detour. None of these may end the call (call_end()) before the turn is over. */
struct call_front {
    /* As grpc_server_call_message_*(): a Completion, in place; json as with call_pass_on(). */
    struct buffer *(*reply_begin)(struct call *call);
    int (*reply_end)(struct call *call, const uint8_t *json, size_t len);
    void (*reply_abort)(struct call *call);
    /* So much waits for the caller that no more should be produced, until call_writable(). */
    bool (*is_full)(const struct call *call);
    /* The call has ended, with this error, or well: NULL. Nothing of the error may be kept. */
    void (*finish)(struct call *call, const struct call_error *error);
};

struct call {
    LIST_ENTRY(call) next; /* among its connection's */
    struct worker *worker;
    /* Whom it is for, and who pays. Not owned; not used any more once it has ended. */
    struct caller *caller;
    struct account *account;
    struct memory *memory;
    struct connection *connection;  /* NULL: it came through a front */
    struct grpc_server_call *grpc;  /* NULL once it is gone, or never was */
    const struct call_front *front; /* NULL: gRPC */
    void *front_user;
    const char *priority; /* for call_run(), not owned: the front's; see queue_urgency() */
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
    const char *own_key; /* the caller's, not owned, until it ends; NULL: the configured one */
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
/* The same, where the reply is what the upstream said in this JSON text. */
void call_pass_on(struct call *call, const uint8_t *json, size_t len);
void call_reply_abort(struct call *call);

/* Ends the calls of the connection that would not end by themselves, because the daemon drains. */
void call_drain(struct connection *connection);

/* Ends all calls of the connection with CANCELLED, because the daemon shuts down. */
void call_shut_down(struct connection *connection);
/* The same for one. */
void call_shut_down_one(struct call *call);

/* What the caller is to be told: after how many milliseconds another try makes sense; -1: nothing
 * is known of that. */
int64_t call_retry_after_ms(const struct call *call, const struct call_error *error);

/* ---- For fronts ---- */

/* A call without a deadline. method NULL: none that is known, it is to be failed. NULL: out of
 * memory. */
struct call *call_begin(const struct call_front *front, void *front_user, struct worker *worker,
                        struct caller *caller, struct account *account, struct memory *memory,
                        const struct service_method *method);

/* A request message of its method's. */
void call_run(struct call *call, const uint8_t *message, size_t len);

/* There is room for replies again. */
void call_writable(struct call *call);

/* The caller is gone, or has all that it gets; reason is why, if it is not finished. Frees the call
 * at the end of the turn. */
void call_end(struct call *call, const char *reason);

#endif
