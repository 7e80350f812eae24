/* What the files of libcompletion share and do not export. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stdbool.h>
#include <sys/types.h>

#include "../proto/buffer.h"
#include "../proto/grpc/grpc_client.h"
#include "completion.h"
#include "completion/v1/completion.pb-c.h"

#define EXPORT __attribute__((visibility("default")))

enum { MESSAGE_MAX = 2048, WORD_MAX = 160, REQUEST_MAX_BYTES = 64 << 20 };

struct completion_error {
    enum completion_status status;
    char message[MESSAGE_MAX];
    char reason[WORD_MAX], type[WORD_MAX], param[WORD_MAX], code[WORD_MAX], upstream[WORD_MAX],
        request_id[WORD_MAX], call_id[WORD_MAX];
    char api_message[MESSAGE_MAX];
    const char *phase;
    int http_status, attempts;
    int64_t retry_after_ms, chunks_sent;
    bool maybe_executed, retryable;
};

/* Both take NULL for the error. The first returns its argument r. */
int error_set(completion_error *error, int r, enum completion_status status, const char *format,
              ...) __attribute__((format(printf, 4, 5)));
void error_from_call(completion_error *error, const struct grpc_client_call *call);

struct completion_client {
    char socket[108];
    pid_t pid;
    struct channel *channel; /* a reference, NULL: not connected */
    int (*wait)(void *user, int64_t elapsed_ms);
    void *wait_user;
    int wait_interval_ms;
};

/* ---- channel.c: one connection, shared by the client and the calls on it ---- */

struct channel {
    unsigned n_refs;
    int fd; /* -1 once it is closed */
    struct grpc_client_session *session;
    size_t request_bytes; /* of the calls on it: what the output may hold for their sake */
    uint8_t *input;
};

int64_t now_us(void);

/* A wait for one thing, which may take several polls. */
struct wait {
    int64_t deadline_us;       /* CLOCK_MONOTONIC; INT64_MAX: none */
    int64_t start_us, hook_us; /* when it began; when the client's hook was called last */
};

struct wait wait_begin(int64_t deadline_us);

/* Connected, with a reference for the caller; blocks only while the daemon's backlog is full. */
int channel_new(const completion_client *client, int64_t deadline_us, struct channel **ret,
                completion_error *error);
struct channel *channel_unref(struct channel *c);

/* Both take what goes at once, and end all calls if the connection breaks. */
void channel_read(struct channel *c);
void channel_write(struct channel *c);

/* Reads, writes, and waits where there is nothing to do, once. 0: something may have changed;
 * -ETIMEDOUT; -ECANCELED, by the client's hook; or another errno of poll(). */
int channel_turn(struct channel *c, const completion_client *client, struct wait *wait);

/* New calls can be made on it. */
bool channel_is_open(const struct channel *c);

/* In a child after fork() the connection is the parent's: nothing may be sent on it. */
void channel_abandon(struct channel *c);

/* ---- rpc.c: a call with its one request message ---- */

/* The message is kept: where the daemon provably did nothing with it, it is sent again, once. */
struct rpc {
    completion_client *client;
    struct channel *channel; /* a reference */
    struct grpc_client_call *call;
    const char *path;
    struct buffer message;
    char *key;           /* own key, or NULL */
    int64_t deadline_us; /* CLOCK_MONOTONIC; INT64_MAX: none */
    bool received, retried;
    int cancelled; /* why rpc_next() fails, or 0 */
};

/* Takes over the message (empty afterwards). 0 or negative with the error set; then nothing is to
 * be done. */
int rpc_start(struct rpc *rpc, completion_client *client, const char *path, struct buffer *message,
              const char *key, int64_t timeout_ms, completion_error *error);
/* 1 and the next message, valid until the next call; 0: the call ended with OK; negative. */
int rpc_next(struct rpc *rpc, const uint8_t **ret, size_t *ret_len, completion_error *error);
void rpc_cancel(struct rpc *rpc);
void rpc_done(struct rpc *rpc);

/* ---- status.c ---- */

/* A GetStatusResponse as JSON text, appended: 0, -EBADMSG or -ENOMEM. */
int status_to_json(const uint8_t *message, size_t len, struct buffer *out);

/* ---- request.c, result.c ---- */

/* Appends the request as a protobuf message. */
void request_pack(const completion_request *request, struct buffer *out);
const char *request_key(const completion_request *request);

/* 0, -EBADMSG or -ENOMEM. */
int result_new(const uint8_t *message, size_t len, completion_result **ret);
const Completion__V1__Completion *result_message(const completion_result *result);

#endif
