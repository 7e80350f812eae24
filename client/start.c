/* Calls that do not block, as a program sees them. */
#include <errno.h>

#include "internal.h"

static int start(completion_client *c, const completion_request *request, enum call_kind kind,
                 const char *path, int64_t timeout_ms, completion_call **ret,
                 completion_error *error)
{
    struct call_start start = {.kind = kind, .path = path, .timeout_ms = timeout_ms};
    struct buffer message = BUFFER_INIT(CALL_MAX_BYTES);

    /* An answer that nobody would see is not asked for: it would be billed. */
    if (!c || !request || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT,
                         "no client, no request, or no place for the call");
    /* Callbacks may start calls. */
    if (c->busy != PROCESSING) {
        int r = client_enter(c, IDLE, error);
        if (r < 0)
            return r;
    }
    request_pack(request, &message);
    request_options(request, &start);
    int r = call_new(c, &start, &message, ret, error);
    buffer_done(&message);
    if (r == 0)
        client_wake(c);
    return r;
}

EXPORT int completion_call_start(completion_client *c, const completion_request *request,
                                 int64_t timeout_ms, completion_call **ret, completion_error *error)
{
    return start(c, request, CALL_WHOLE, "/completion.v1.Completions/Create", timeout_ms, ret,
                 error);
}

EXPORT int completion_call_start_stream(completion_client *c, const completion_request *request,
                                        int64_t timeout_ms, completion_call **ret,
                                        completion_error *error)
{
    return start(c, request, CALL_STREAM, "/completion.v1.Completions/CreateStream", timeout_ms,
                 ret, error);
}

EXPORT void completion_call_set_callback(completion_call *call,
                                         void (*callback)(completion_call *call, void *user),
                                         void *user)
{
    if (!call)
        return;
    call->callback = callback;
    call->user = user;
    if (callback && call->client && call->queue == &call->client->noticed) {
        call_queue_in(call, &call->client->ready);
        client_wake(call->client);
    }
}

EXPORT void *completion_call_user(const completion_call *call)
{
    return call ? call->user : NULL;
}

EXPORT int completion_call_next(completion_call *call, const completion_result **ret,
                                completion_error *error)
{
    const uint8_t *message;
    size_t len;

    if (!call || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT,
                         "no call, or no place for the answer");
    completion_client *c = call->client;
    if (c && c->busy != PROCESSING) {
        int r = client_enter(c, IDLE, error);
        if (r < 0)
            return r;
    }
    if (call->is_paused && !call->is_told)
        return -EAGAIN;
    struct channel *channel = call->channel;
    int r = call_take(call, &message, &len);
    r = call_give(call, r, message, len, ret, error);
    /* To be made again; or what was taken makes room for more, which is to be said. */
    if (c && c->busy == IDLE && !c->is_woken &&
        (call->queue == &c->unsent || (channel && channel_has_output(channel))))
        client_wake(c);
    return r;
}

EXPORT void completion_call_pause(completion_call *call)
{
    if (!call || call->is_paused)
        return;
    call->is_paused = true;
    if (call->client && call->queue != &call->client->unsent)
        call_unqueue(call);
}

EXPORT void completion_call_resume(completion_call *call)
{
    if (!call || !call->is_paused)
        return;
    call->is_paused = false;
    if (!call->client || call->is_told || !client_is_ours(call->client))
        return;
    call_is_ready(call);
    client_wake(call->client);
}

EXPORT void completion_call_cancel(completion_call *call)
{
    if (!call || !call->client || !client_is_ours(call->client))
        return;
    call_end(call, -ECANCELED, CALL_CANCELLED);
    client_wake(call->client);
}

EXPORT completion_call *completion_call_free(completion_call *call)
{
    completion_client *c = call ? call->client : NULL;

    /* One that goes on is to be stopped. */
    bool is_due = c && call->grpc && !call->is_blocking && client_is_ours(c);
    if (!c || c->busy != BLOCKING) {
        call_free(call);
    } else if (!call->is_freed) {
        /* It may be the very one that is waited for. */
        call_end(call, -ECANCELED, CALL_CANCELLED);
        call->is_freed = true;
        c->n_freed++;
    }
    if (is_due)
        client_wake(c);
    return NULL;
}
