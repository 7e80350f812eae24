/* What the files of libcompletion share and do not export. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "../proto/buffer.h"
#include "../proto/grpc/grpc_client.h"
#include "completion.h"
#include "completion/v1/completion.pb-c.h"
#include "view.h"

#define EXPORT __attribute__((visibility("default")))

enum {
    MESSAGE_MAX = 2048,
    WORD_MAX = 160,
    REQUEST_MAX_BYTES = 64 << 20,
    CALL_MAX_BYTES = 4 << 20, /* that the daemon takes */
    SERVER_UIDS_MAX = 8,
    URGENCY_UNSET = -1,
    URGENCY_MAX = 7,
};

struct completion_error {
    enum completion_status status;
    char message[MESSAGE_MAX];
    char reason[WORD_MAX], type[WORD_MAX], param[WORD_MAX], code[WORD_MAX], upstream[WORD_MAX],
        endpoint[WORD_MAX], request_id[WORD_MAX], call_id[WORD_MAX];
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

/* ---- channel.c: one connection ---- */

struct channel {
    LIST_ENTRY(channel) entry; /* of the client's */
    int fd;                    /* -1 once it is closed */
    int epoll_fd;              /* where it is watched; -1: nowhere */
    bool is_writing;           /* and is watched for room to write */
    struct grpc_client_session *session;
    size_t n_calls;
    size_t request_bytes; /* of the calls on it: what the output may hold for their sake */
    uint8_t *input;
};

LIST_HEAD(channel_list, channel);

/* CLOCK_MONOTONIC; INT64_MAX is never. */
int64_t now_us(void);

/* Takes over the socket, unless it fails with -ENOMEM. */
int channel_new(int fd, void (*ready)(struct grpc_client_call *call, void *user),
                struct channel **ret);
/* Calls on it have been dropped, or outlive it. Takes NULL. In a child of fork() it closes what the
 * child has of it, and leaves the parent's alone. */
void channel_free(struct channel *c);

/* Has it watched: 0 or negative errno. */
int channel_watch(struct channel *c, int epoll_fd);

/* Both take what goes at once, and end all calls if the connection breaks. all: until there is
 * provably nothing more; else maybe less, for one system call less. */
void channel_read(struct channel *c, bool all);
void channel_write(struct channel *c);
bool channel_has_output(struct channel *c);

/* New calls can be made on it. */
bool channel_is_open(const struct channel *c);

/* ---- connect.c ---- */

/* A connected socket of a server that is trusted; negative errno, -EAGAIN: its backlog is full;
 * -EKEYREJECTED: it is another user's, who is in ret_uid. */
int connect_server(const completion_client *client, uid_t *ret_uid);
int connect_error(const completion_client *client, int r, uid_t uid, completion_error *error);

/* ---- loop.c: a client's calls and connections in motion ---- */

TAILQ_HEAD(call_queue, completion_call);

struct completion_client {
    char socket[108];
    pid_t pid;
    int epoll_fd; /* -1: nobody asked for it */

    /* What it is doing: which functions may be called now. */
    enum { IDLE, PROCESSING, BLOCKING } busy;
    bool is_freed; /* while busy */
    bool is_woken; /* completion_client_process() is to be called at once */

    struct channel *channel;      /* the one for new calls, or NULL */
    struct channel_list channels; /* all, also those that have been told to go */
    LIST_HEAD(, completion_call) calls;
    struct call_queue unsent, ready, noticed;
    size_t n_freed;      /* calls that were freed while it blocks */
    int64_t deadline_us; /* no call's is earlier */

    int64_t retry_us; /* when to connect again */
    unsigned backoff_ms;
    int64_t reconnect_wait_ms;
    int resend;
    uid_t server_uids[SERVER_UIDS_MAX];
    unsigned n_server_uids;

    void (*wake)(void *user);
    void *wake_user;
    int (*wait)(void *user, int64_t elapsed_ms);
    void *wait_user;
    int wait_interval_ms;
};

bool client_is_ours(const completion_client *client);

/* Ends calls whose time is over, connects if there is one to send, and sends. */
void client_turn(completion_client *client);
/* Sends what there is, and closes connections that are not needed any more. */
void client_write(completion_client *client);
/* When client_turn() has something to do again. */
int64_t client_next_us(const completion_client *client);
/* completion_client_process() is to be called. The last thing that a function does. */
void client_wake(completion_client *client);

/* Before and after what may call back: negative, with the error set, if that can't be now; and r,
 * or -ESHUTDOWN if the client is gone. */
int client_enter(completion_client *client, int busy, completion_error *error);
int client_leave(completion_client *client, int r);

/* ---- call.c: one request message, any number of answers, a deadline ---- */

enum call_kind {
    CALL_WHOLE, /* one answer */
    CALL_STREAM,
};

enum call_why {
    CALL_STATUS, /* the gRPC call knows */
    CALL_CONNECT,
    CALL_CONNECT_TIMEOUT,
    CALL_TIMEOUT,
    CALL_CANCELLED,
    CALL_MEMORY,
    CALL_UNSENDABLE,
    CALL_NO_REPLY,
    CALL_UNREADABLE,
    CALL_POLL,
    CALL_FREED, /* the client was */
};

struct completion_result {
    const uint8_t *data; /* the message that it is a view of */
    size_t len;
    struct view view;
    struct buffer own; /* data, if it is its own */
    bool is_borrowed;  /* part of a call */
    const Completion__V1__Completion *message;
};

struct completion_call {
    completion_client *client; /* NULL: it was freed */
    LIST_ENTRY(completion_call) entry;
    TAILQ_ENTRY(completion_call) queued;
    struct call_queue *queue; /* of the client's, or NULL */
    void (*callback)(completion_call *call, void *user);
    void *user;

    enum call_kind kind;
    int urgency;
    const char *path;
    char *key; /* own key, or NULL */
    int64_t deadline_us, patience_us;

    /* The message is kept: where the daemon provably did nothing with it, it is sent again. */
    struct buffer message;
    struct channel *channel;       /* with grpc */
    struct grpc_client_call *grpc; /* NULL: not sent, or nothing more to come */

    /* Its answer. */
    const uint8_t *seen; /* a message that was taken from grpc, but not by the caller */
    size_t seen_len;
    struct buffer whole;     /* that of CALL_WHOLE */
    completion_result chunk; /* what the caller looks at */

    int n_sent;
    int end; /* how it ended */
    enum call_why why;
    uid_t stranger;
    bool is_blocking; /* a function waits for it, and no callback */
    bool is_paused, is_freed;
    bool is_received; /* something was */
    bool has_whole;
    bool is_ended, is_told; /* and the caller knows */
    bool maybe_executed;
};

struct call_start {
    enum call_kind kind;
    bool is_blocking;
    const char *path;
    const char *key;
    int urgency;
    int64_t timeout_ms;
};

/* Takes over the message (empty afterwards). 0 or negative with the error set. Waits in unsent. */
int call_new(completion_client *client, const struct call_start *start, struct buffer *message,
             completion_call **ret, completion_error *error);
/* Stops it. Takes NULL. */
void call_free(completion_call *call);

/* When it is to be ended. */
int64_t call_give_up_us(const completion_call *call);
void call_send(completion_call *call, struct channel *channel);
/* Ends it on this side, if it has not ended. */
void call_end(completion_call *call, int r, enum call_why why);

/* 1 and a message, valid until the next time or call_free(); 0: it ended well; -EAGAIN: nothing
 * yet; or how else it ended. */
int call_take(completion_call *call, const uint8_t **ret, size_t *ret_len);
/* Takes what came for nobody yet: whether the caller has something new. */
bool call_look(completion_call *call);
/* The message that it took is not what it should be. */
void call_spoil(completion_call *call, int r);
/* It has ended, and the caller gets to know how: call_take()'s r, or maybe another errno. */
int call_tell(completion_call *call, completion_error *error);
/* What call_take() found, as completion_call_next() returns it. */
int call_give(completion_call *call, int r, const uint8_t *message, size_t len,
              const completion_result **ret, completion_error *error);

void call_queue_in(completion_call *call, struct call_queue *queue);
void call_unqueue(completion_call *call);
/* A callback is due, or completion_client_next_ready(). */
void call_is_ready(completion_call *call);

/* ---- status.c ---- */

/* A GetStatusResponse as JSON text, appended: 0, -EBADMSG or -ENOMEM. */
int status_to_json(const uint8_t *message, size_t len, struct buffer *out);

/* ---- request.c, result.c ---- */

/* Appends the request as a protobuf message. */
void request_pack(const completion_request *request, struct buffer *out);
/* Fills key and urgency. */
void request_options(const completion_request *request, struct call_start *ret);

/* Makes it a view of the message, which must stay: 0, -EBADMSG or -ENOMEM; then it is one of
 * nothing. */
int result_view(completion_result *result, const uint8_t *data, size_t len);
/* One with the bytes that it takes over (empty afterwards). */
int result_new(struct buffer *message, completion_result **ret);
void result_done(completion_result *result);
const Completion__V1__Completion *result_message(const completion_result *result);

#endif
