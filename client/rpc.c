/*
 * Calls: one request message, any number of answers, a deadline. It chooses the connection, makes a
 * call again where that is safe, and turns the end of a call into an errno and an error object.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

/* The daemon knows what it waited for when the deadline passed: it may say so before we do. */
enum { LAST_WORD_US = 10000 };

static int out_of_memory(completion_error *error)
{
    return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
}

static int too_late(completion_error *error)
{
    return error_set(error, -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED,
                     "the deadline passed before the whole answer was there");
}

/* A call that ended without the daemon's word on it: what was sent may have been done, and billed,
 * unless the daemon provably did nothing with it. */
static int ended_here(const struct rpc *rpc, int r, completion_error *error)
{
    if (error)
        error->maybe_executed = rpc->call && !grpc_client_call_was_unprocessed(rpc->call);
    return r;
}

/* The client's channel, open as far as can be known. */
static int client_channel(completion_client *client, int64_t deadline_us, completion_error *error)
{
    if (client->channel) {
        /* A daemon that was restarted meanwhile has said goodbye. */
        channel_read(client->channel);
        if (channel_is_open(client->channel))
            return 0;
        client->channel = channel_unref(client->channel);
    }
    return channel_new(client, deadline_us, &client->channel, error);
}

static int rpc_send(struct rpc *rpc, completion_error *error)
{
    const struct grpc_client_metadata key = {"completion-api-key", rpc->key, true};
    struct grpc_client_start start = {
        .path = rpc->path,
        .timeout_us = -1,
        .metadata = &key,
        .n_metadata = rpc->key ? 1 : 0,
    };
    int r = client_channel(rpc->client, rpc->deadline_us, error);

    if (r < 0)
        return r;
    if (rpc->deadline_us != INT64_MAX) {
        start.timeout_us = rpc->deadline_us - now_us();
        /* What can't end well is not begun: it would be billed. */
        if (start.timeout_us <= 0)
            return too_late(error);
    }
    struct channel *c = rpc->client->channel;
    r = grpc_client_call_new(c->session, &start, buffer_bytes(&rpc->message),
                             buffer_length(&rpc->message), &rpc->call);
    if (r < 0)
        return r == -ENOMEM ? out_of_memory(error)
                            : error_set(error, r, COMPLETION_UNAVAILABLE,
                                        "the call can't be made: %s", strerror(-r));
    rpc->channel = c;
    c->n_refs++;
    c->request_bytes += buffer_length(&rpc->message);
    channel_write(c);
    return 0;
}

static int64_t deadline_after(int64_t timeout_ms)
{
    int64_t us;

    if (timeout_ms < 0 || __builtin_mul_overflow(timeout_ms, 1000, &us) ||
        __builtin_add_overflow(us, now_us() + LAST_WORD_US, &us))
        return INT64_MAX;
    return us - LAST_WORD_US;
}

int rpc_start(struct rpc *rpc, completion_client *client, const char *path, struct buffer *message,
              const char *key, int64_t timeout_ms, completion_error *error)
{
    *rpc = (struct rpc){.client = client, .path = path};
    if (client->pid != getpid())
        return error_set(error, -ECHILD, COMPLETION_FAILED_PRECONDITION,
                         "the client was made by another process; make one after fork()");
    if (message->error == -EMSGSIZE)
        return error_set(error, -EMSGSIZE, COMPLETION_INVALID_ARGUMENT, "the request is too large");
    if (message->error || (key && !(rpc->key = strdup(key))))
        return out_of_memory(error);
    rpc->deadline_us = deadline_after(timeout_ms);
    rpc->message = *message;
    *message = BUFFER_INIT(message->limit_bytes);
    int r = rpc_send(rpc, error);
    if (r < 0)
        rpc_done(rpc);
    return r;
}

static void rpc_drop_call(struct rpc *rpc)
{
    struct channel *c = rpc->channel;

    rpc->call = grpc_client_call_free(rpc->call);
    if (c) {
        channel_write(c);
        c->request_bytes -= buffer_length(&rpc->message);
    }
    rpc->channel = channel_unref(c);
}

void rpc_done(struct rpc *rpc)
{
    if (rpc->channel && rpc->client->pid != getpid())
        channel_abandon(rpc->channel);
    rpc_drop_call(rpc);
    buffer_done(&rpc->message);
    if (rpc->key)
        explicit_bzero(rpc->key, strlen(rpc->key));
    free(rpc->key);
    rpc->key = NULL;
}

static void cancel(struct rpc *rpc, int why)
{
    if (!rpc->cancelled)
        rpc->cancelled = why;
    if (rpc->call && rpc->client->pid == getpid()) {
        grpc_client_call_cancel(rpc->call, GRPC_CANCELLED, "cancelled");
        channel_write(rpc->channel);
    }
}

void rpc_cancel(struct rpc *rpc)
{
    cancel(rpc, -ECANCELED);
}

/* The call has ended: 0 if it did so well, 1 if it was made again. */
static int rpc_ended(struct rpc *rpc, completion_error *error)
{
    enum grpc_status status = grpc_client_call_status(rpc->call);

    if (status == GRPC_OK)
        return 0;
    if (!rpc->retried && !rpc->received && grpc_client_call_was_unprocessed(rpc->call)) {
        rpc->retried = true;
        rpc_drop_call(rpc);
        int r = rpc_send(rpc, error);
        return r < 0 ? r : 1;
    }
    error_from_call(error, rpc->call);
    /* The deadline is ours, whoever noticed it; that the daemon cancelled is a status like others.
     */
    return status == GRPC_DEADLINE_EXCEEDED ? -ETIMEDOUT : -EIO;
}

/* 1 and a message, 0 and the end of the call, -EAGAIN where there is neither yet, or the failure.
 * Never blocks, but to connect again. */
static int rpc_poll(struct rpc *rpc, int64_t give_up_us, const uint8_t **ret, size_t *ret_len,
                    completion_error *error)
{
    if (!rpc->cancelled && rpc->call && !grpc_client_call_is_ended(rpc->call) &&
        now_us() >= give_up_us)
        cancel(rpc, -ETIMEDOUT);
    if (rpc->cancelled == -ETIMEDOUT)
        return ended_here(rpc, too_late(error), error);
    if (rpc->cancelled)
        return ended_here(rpc, error_set(error, rpc->cancelled, COMPLETION_CANCELLED, "cancelled"),
                          error);
    if (!rpc->call)
        return error_set(error, -EPIPE, COMPLETION_UNAVAILABLE, "the call has ended");
    if (grpc_client_call_next(rpc->call, ret, ret_len)) {
        rpc->received = true;
        return 1;
    }
    if (!grpc_client_call_is_ended(rpc->call))
        return -EAGAIN;
    int r = rpc_ended(rpc, error);
    return r > 0 ? -EAGAIN : r;
}

int rpc_next(struct rpc *rpc, const uint8_t **ret, size_t *ret_len, completion_error *error)
{
    int64_t give_up_us =
        rpc->deadline_us == INT64_MAX ? INT64_MAX : rpc->deadline_us + LAST_WORD_US;
    struct wait wait = wait_begin(give_up_us);
    int r;

    if (rpc->client->pid != getpid())
        return error_set(error, -ECHILD, COMPLETION_FAILED_PRECONDITION,
                         "the call was made by another process");
    while ((r = rpc_poll(rpc, give_up_us, ret, ret_len, error)) == -EAGAIN) {
        r = channel_turn(rpc->channel, rpc->client, &wait);
        if (r == -ETIMEDOUT || r == -ECANCELED)
            cancel(rpc, r);
        else if (r < 0)
            return ended_here(
                rpc, error_set(error, r, COMPLETION_INTERNAL, "poll: %s", strerror(-r)), error);
    }
    return r;
}
