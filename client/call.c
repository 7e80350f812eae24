/*
 * Calls: one request message, any number of answers, a deadline. Each is unsent, then on a channel,
 * then ended, once; it may go back from the second to the first where that is safe. What a call is
 * told about its end is kept as an errno and a reason, of which the caller's error object is made
 * when it asks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* The daemon knows what it waited for when the deadline passed: it may say so before we do. */
enum { LAST_WORD_US = 10000 };

/* ---- Queues ---- */

void call_unqueue(completion_call *call)
{
    if (call->queue)
        TAILQ_REMOVE(call->queue, call, queued);
    call->queue = NULL;
}

void call_queue_in(completion_call *call, struct call_queue *queue)
{
    call_unqueue(call);
    TAILQ_INSERT_TAIL(queue, call, queued);
    call->queue = queue;
}

void call_is_ready(completion_call *call)
{
    if (!call->is_blocking && !call->is_paused && !call->queue)
        call_queue_in(call, &call->client->ready);
}

/* ---- Life ---- */

static int64_t us_after(int64_t now, int64_t ms)
{
    int64_t us;

    if (ms < 0 || __builtin_mul_overflow(ms, 1000, &us) ||
        __builtin_add_overflow(us, now + LAST_WORD_US, &us))
        return INT64_MAX;
    return us - LAST_WORD_US;
}

static int out_of_memory(completion_error *error)
{
    return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
}

int call_new(completion_client *client, const struct call_start *start, struct buffer *message,
             completion_call **ret, completion_error *error)
{
    if (message->error == -EMSGSIZE)
        return error_set(error, -EMSGSIZE, COMPLETION_INVALID_ARGUMENT,
                         "the request is longer than the 4 MiB that it may have");
    completion_call *call = message->error ? NULL : calloc(1, sizeof *call);
    if (!call)
        return out_of_memory(error);
    if (start->key && !(call->key = strdup(start->key))) {
        free(call);
        return out_of_memory(error);
    }
    int64_t now = now_us();
    call->client = client;
    call->kind = start->kind;
    call->is_blocking = start->is_blocking;
    call->path = start->path;
    call->urgency = start->urgency;
    call->deadline_us = us_after(now, start->timeout_ms);
    call->patience_us = us_after(now, client->reconnect_wait_ms);
    call->message = *message;
    *message = BUFFER_INIT(message->limit_bytes);
    call->whole = BUFFER_INIT(SIZE_MAX); /* by the session's limit on a message */
    call->chunk.is_borrowed = true;
    LIST_INSERT_HEAD(&client->calls, call, entry);
    call_queue_in(call, &client->unsent);
    if (call->deadline_us < client->deadline_us)
        client->deadline_us = call->deadline_us;
    if (call->patience_us < client->retry_us)
        client->retry_us = call->patience_us;
    *ret = call;
    return 0;
}

/* Stops it, if it has not ended. */
static void drop_grpc(completion_call *call)
{
    if (!call->grpc)
        return;
    call->grpc = grpc_client_call_free(call->grpc);
    call->seen = NULL;
    if (call->channel) {
        call->channel->n_calls--;
        call->channel->request_bytes -= buffer_length(&call->message);
    }
    call->channel = NULL;
}

void call_free(completion_call *call)
{
    if (!call)
        return;
    call_unqueue(call);
    if (call->client)
        LIST_REMOVE(call, entry);
    drop_grpc(call);
    buffer_done(&call->message);
    buffer_done(&call->whole);
    result_done(&call->chunk);
    if (call->key)
        explicit_bzero(call->key, strlen(call->key));
    free(call->key);
    free(call);
}

int64_t call_give_up_us(const completion_call *call)
{
    if (call->is_ended || call->deadline_us == INT64_MAX ||
        (call->grpc && grpc_client_call_is_ended(call->grpc)))
        return INT64_MAX;
    /* Of what waits for others to end the daemon has none; nor may it be sent when they do. */
    return call->deadline_us +
           (call->grpc && grpc_client_call_is_sent(call->grpc) ? LAST_WORD_US : 0);
}

/* ---- The way out ---- */

void call_send(completion_call *call, struct channel *channel)
{
    static const char *const urgencies[] = {"u=0", "u=1", "u=2", "u=3", "u=4", "u=5", "u=6", "u=7"};
    struct grpc_client_metadata metadata[2];
    struct grpc_client_start start = {
        .path = call->path, .timeout_us = -1, .metadata = metadata, .user = call};

    call_unqueue(call);
    if (call->deadline_us != INT64_MAX) {
        start.timeout_us = call->deadline_us - now_us();
        /* What can't end well is not begun: it would be billed. */
        if (start.timeout_us <= 0) {
            call_end(call, -ETIMEDOUT, CALL_TIMEOUT);
            return;
        }
    }
    if (call->key)
        metadata[start.n_metadata++] =
            (struct grpc_client_metadata){"completion-api-key", call->key, true};
    if (call->urgency != URGENCY_UNSET)
        metadata[start.n_metadata++] =
            (struct grpc_client_metadata){"priority", urgencies[call->urgency], false};
    int r = grpc_client_call_new(channel->session, &start, buffer_bytes(&call->message),
                                 buffer_length(&call->message), &call->grpc);
    if (r < 0) {
        call_end(call, r, r == -ENOMEM ? CALL_MEMORY : CALL_UNSENDABLE);
        return;
    }
    call->n_sent++;
    call->channel = channel;
    channel->n_calls++;
    channel->request_bytes += buffer_length(&call->message);
}

/* ---- The end ---- */

void call_end(completion_call *call, int r, enum call_why why)
{
    if (call->is_ended)
        return;
    call->is_ended = true;
    call->end = r;
    call->why = why;
    if (call->grpc && why != CALL_STATUS) {
        grpc_client_call_cancel(call->grpc, GRPC_CANCELLED, "cancelled");
        /* What was sent may have been done, and billed; and what came was. */
        call->maybe_executed = call->has_whole || why == CALL_UNREADABLE || why == CALL_NO_REPLY ||
                               !grpc_client_call_was_unprocessed(call->grpc);
    }
    call_unqueue(call);
    if (call->client)
        call_is_ready(call);
}

/* The gRPC call has ended, and all its messages were taken. Ends the call, or has it made again. */
static void settle(completion_call *call)
{
    enum grpc_status status = grpc_client_call_status(call->grpc);

    if (status == GRPC_OK) {
        if (call->kind == CALL_WHOLE && !call->has_whole)
            call_end(call, -EPROTO, CALL_NO_REPLY);
        else
            call_end(call, 0, CALL_STATUS);
    } else if (!call->is_received && call->client && call->n_sent <= call->client->resend &&
               grpc_client_call_was_unprocessed(call->grpc)) {
        drop_grpc(call);
        call_queue_in(call, &call->client->unsent);
        if (call->deadline_us < call->client->deadline_us)
            call->client->deadline_us = call->deadline_us;
    } else {
        /* The deadline is ours, whoever noticed it; that the daemon cancelled is a status like
         * others. */
        call_end(call, status == GRPC_DEADLINE_EXCEEDED ? -ETIMEDOUT : -EIO, CALL_STATUS);
    }
}

/* What the caller is to know about it. */
static int tell_end(completion_call *call, completion_error *error)
{
    int r = call->end;
    bool maybe_executed = call->maybe_executed;

    switch (call->why) {
    case CALL_STATUS:
        if (r < 0)
            error_from_call(error, call->grpc);
        return r;
    case CALL_CONNECT:
        r = connect_error(call->client, r, call->stranger, error);
        break;
    case CALL_CONNECT_TIMEOUT:
        connect_error(call->client, r, 0, error);
        break;
    case CALL_TIMEOUT:
        error_set(error, r, COMPLETION_DEADLINE_EXCEEDED,
                  "the deadline passed before the whole answer was there");
        break;
    case CALL_CANCELLED:
        error_set(error, r, COMPLETION_CANCELLED, "cancelled");
        break;
    case CALL_MEMORY:
        out_of_memory(error);
        break;
    case CALL_UNSENDABLE:
        error_set(error, r, COMPLETION_UNAVAILABLE, "the call can't be made: %s", strerror(-r));
        break;
    case CALL_NO_REPLY:
        error_set(error, r, COMPLETION_INTERNAL,
                  "the daemon sent OK without an answer, or more than one answer");
        break;
    case CALL_UNREADABLE:
        error_set(error, r, COMPLETION_INTERNAL, "the daemon's answer can't be read: %s",
                  strerror(-r));
        break;
    case CALL_POLL:
        error_set(error, r, COMPLETION_INTERNAL, "poll: %s", strerror(-r));
        break;
    case CALL_FREED:
        error_set(error, r, COMPLETION_CANCELLED, "the client was freed");
        break;
    }
    if (error)
        error->maybe_executed = maybe_executed;
    return r;
}

/* ---- The way back ---- */

static bool next_message(completion_call *call, const uint8_t **ret, size_t *ret_len)
{
    if (call->seen) {
        *ret = call->seen;
        *ret_len = call->seen_len;
        call->seen = NULL;
        return true;
    }
    if (!grpc_client_call_next(call->grpc, ret, ret_len))
        return false;
    call->is_received = true;
    return true;
}

/* The one message, kept until it is known whether it was the only one. */
static void keep_whole(completion_call *call)
{
    const uint8_t *message;
    size_t len;

    while (!call->is_ended && next_message(call, &message, &len)) {
        if (call->has_whole) {
            call_end(call, -EPROTO, CALL_NO_REPLY);
            return;
        }
        call->has_whole = true;
        buffer_append(&call->whole, message, len);
        if (call->whole.error)
            call_end(call, -ENOMEM, CALL_MEMORY);
    }
}

int call_take(completion_call *call, const uint8_t **ret, size_t *ret_len)
{
    if (!call->is_ended && call->grpc) {
        if (call->kind == CALL_WHOLE)
            keep_whole(call);
        else if (next_message(call, ret, ret_len))
            return 1;
        if (!call->is_ended && grpc_client_call_is_ended(call->grpc))
            settle(call);
    }
    if (!call->is_ended)
        return -EAGAIN;
    if (call->end < 0 || !call->has_whole)
        return call->end;
    call->has_whole = false;
    *ret = buffer_bytes(&call->whole);
    *ret_len = buffer_length(&call->whole);
    return 1;
}

/* A stream may be made again only if nothing came of it. */
static bool see_message(completion_call *call)
{
    call->is_received = grpc_client_call_next(call->grpc, &call->seen, &call->seen_len);
    return call->is_received;
}

bool call_look(completion_call *call)
{
    if (call->is_ended || !call->grpc)
        return call->is_ended;
    bool is_over = grpc_client_call_is_ended(call->grpc);
    if (call->kind == CALL_WHOLE)
        keep_whole(call);
    else if (!is_over || call->is_received || see_message(call))
        return true;
    if (!call->is_ended && is_over)
        settle(call);
    return call->is_ended;
}

void call_spoil(completion_call *call, int r)
{
    call->is_ended = false;
    call_end(call, r, CALL_UNREADABLE);
}

int call_tell(completion_call *call, completion_error *error)
{
    if (call->is_told)
        return call->end == 0 ? 0
                              : error_set(error, call->end, COMPLETION_FAILED_PRECONDITION,
                                          "the call has ended before");
    call->is_told = true;
    call->end = tell_end(call, error);
    call_unqueue(call);
    drop_grpc(call);
    return call->end;
}

int call_give(completion_call *call, int r, const uint8_t *message, size_t len,
              const completion_result **ret, completion_error *error)
{
    if (r == -EAGAIN)
        return r;
    if (r > 0) {
        r = result_view(&call->chunk, message, len);
        if (r == 0) {
            *ret = &call->chunk;
            return 1;
        }
        call_spoil(call, r);
    }
    return call_tell(call, error);
}
