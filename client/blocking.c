/* Calls that block: those of loop.c, waited for. A stream is a call that nobody else may ask. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "../proto/grpc/grpc_health.h"
#include "internal.h"

/* ---- Waiting ---- */

struct wait {
    int64_t start_us, hook_us; /* when it began; when the client's hook was called last */
};

/* Milliseconds until then, rounded up so as not to spin through the last one; -1: never. */
static int ms_until(int64_t then_us, int64_t now)
{
    if (then_us == INT64_MAX)
        return -1;
    int64_t ms = then_us > now ? (then_us - now + 999) / 1000 : 0;
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

static bool has_news(const completion_call *call)
{
    return call->is_ended || (call->grpc && grpc_client_call_is_ended(call->grpc));
}

/* Waits for the call's connection, or for time to pass, once; the client's hook is called if it is
 * time to. 0, -ECANCELED by the hook, or poll()'s errno. */
static int wait_once(completion_call *call, struct wait *w)
{
    completion_client *client = call->client;
    struct pollfd p = {.fd = call->channel ? call->channel->fd : -1, .events = POLLIN};
    bool has_hook = client->wait && client->wait_interval_ms > 0;
    int64_t now = now_us(), next_us = client_next_us(client), hook_us = INT64_MAX;

    if (w->start_us == 0)
        *w = (struct wait){now, now};
    if (has_hook)
        hook_us = w->hook_us + (int64_t)client->wait_interval_ms * 1000;
    if (p.fd >= 0 && call->channel->is_writing)
        p.events |= POLLOUT;
    int n = poll(&p, 1, ms_until(hook_us < next_us ? hook_us : next_us, now));
    bool is_interrupted = n < 0 && errno == EINTR;
    if (n < 0 && !is_interrupted)
        return -errno;
    if (n > 0)
        channel_read(call->channel, false);
    if (!client->wait)
        return 0;
    now = now_us();
    if (!is_interrupted && now < hook_us)
        return 0;
    w->hook_us = now;
    return client->wait(client->wait_user, (now - w->start_us) / 1000) != 0 ? -ECANCELED : 0;
}

static void wait_or_end(completion_call *call, struct wait *w)
{
    int r = wait_once(call, w);

    if (r < 0)
        call_end(call, r, r == -ECANCELED ? CALL_CANCELLED : CALL_POLL);
}

/* As call_take(), but it waits. */
static int take(completion_call *call, const uint8_t **ret, size_t *ret_len)
{
    struct wait wait = {0};
    int r;

    while ((r = call_take(call, ret, ret_len)) == -EAGAIN) {
        client_turn(call->client);
        if (!has_news(call))
            wait_or_end(call, &wait);
    }
    return r;
}

static int start(completion_client *c, const struct call_start *call_start,
                 const completion_request *request, completion_call **ret, completion_error *error)
{
    struct call_start start = *call_start;
    struct buffer message = BUFFER_INIT(CALL_MAX_BYTES);

    start.is_blocking = true;
    start.urgency = URGENCY_UNSET;
    if (request) {
        request_pack(request, &message);
        request_options(request, &start);
    }
    int r = call_new(c, &start, &message, ret, error);
    buffer_done(&message);
    return r;
}

/* ---- One answer ---- */

/* Makes the call, and has its answer used. request NULL: an empty message. */
static int call_whole(completion_client *c, const char *path, const completion_request *request,
                      int64_t timeout_ms, int (*use)(struct buffer *answer, void *user), void *user,
                      completion_error *error)
{
    const struct call_start call_start = {
        .kind = CALL_WHOLE, .path = path, .timeout_ms = timeout_ms};
    completion_call *call;
    const uint8_t *message;
    size_t len;
    int r = client_enter(c, BLOCKING, error);

    if (r < 0)
        return r;
    r = start(c, &call_start, request, &call, error);
    if (r == 0) {
        r = take(call, &message, &len);
        if (r > 0) {
            r = use(&call->whole, user);
            if (r < 0)
                call_spoil(call, r);
        }
        if (r < 0)
            r = call_tell(call, error);
        call_free(call);
        client_write(c);
    }
    client_leave(c, 0);
    return r;
}

/* Nothing of these is billed. */
static int call_about_daemon(completion_client *c, const char *path, int64_t timeout_ms,
                             int (*use)(struct buffer *answer, void *user), void *user,
                             completion_error *error)
{
    int r = call_whole(c, path, NULL, timeout_ms, use, user, error);

    if (r < 0 && error)
        error->maybe_executed = false;
    return r;
}

static int use_health(struct buffer *answer, void *user)
{
    return grpc_health_read(buffer_bytes(answer), buffer_length(answer), user);
}

EXPORT int completion_client_check(completion_client *c, int64_t timeout_ms,
                                   completion_error *error)
{
    enum grpc_health health = GRPC_HEALTH_UNKNOWN;
    /* An empty message asks for the whole of it. */
    int r = call_about_daemon(c, GRPC_HEALTH_CHECK_PATH, timeout_ms, use_health, &health, error);

    return r < 0 ? r : health == GRPC_HEALTH_SERVING;
}

static int use_status(struct buffer *answer, void *user)
{
    struct buffer *json = user;
    int r = status_to_json(buffer_bytes(answer), buffer_length(answer), json);

    buffer_append_byte(json, '\0');
    return r < 0 ? r : json->error;
}

EXPORT int completion_client_status_json(completion_client *c, int64_t timeout_ms, char **ret,
                                         size_t *ret_length, completion_error *error)
{
    enum { STATUS_MAX_BYTES = 64 << 20 };
    struct buffer json = BUFFER_INIT(STATUS_MAX_BYTES);

    if (!c || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT,
                         "no client or no place for the answer");
    int r = call_about_daemon(c, "/completion.v1.Status/Get", timeout_ms, use_status, &json, error);
    if (r < 0) {
        buffer_done(&json);
        return r;
    }
    if (ret_length)
        *ret_length = buffer_length(&json) - 1;
    *ret = (char *)buffer_bytes(&json);
    return 0;
}

/* An answer that nobody would see is not asked for: it would be billed. */
static int check_arguments(const completion_client *c, const completion_request *request,
                           const void *ret, completion_error *error)
{
    return c && request && ret ? 0
                               : error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT,
                                           "no client, no request, or no place for the answer");
}

static int use_result(struct buffer *answer, void *user)
{
    return result_new(answer, user);
}

EXPORT int completion_create(completion_client *c, const completion_request *request,
                             int64_t timeout_ms, completion_result **ret, completion_error *error)
{
    int r = check_arguments(c, request, ret, error);

    return r < 0 ? r
                 : call_whole(c, "/completion.v1.Completions/Create", request, timeout_ms,
                              use_result, ret, error);
}

/* ---- Streams ---- */

static completion_call *call_of(completion_stream *s)
{
    return (completion_call *)s;
}

EXPORT int completion_stream_open(completion_client *c, const completion_request *request,
                                  int64_t timeout_ms, completion_stream **ret,
                                  completion_error *error)
{
    const struct call_start call_start = {.kind = CALL_STREAM,
                                          .path = "/completion.v1.Completions/CreateStream",
                                          .timeout_ms = timeout_ms};
    struct wait wait = {0};
    completion_call *call;
    int r = check_arguments(c, request, ret, error);

    if (r == 0)
        r = client_enter(c, BLOCKING, error);
    if (r < 0)
        return r;
    r = start(c, &call_start, request, &call, error);
    if (r == 0) {
        client_turn(c);
        while (call->queue == &c->unsent) {
            wait_or_end(call, &wait);
            client_turn(c);
        }
        if (call->is_ended) {
            r = call_tell(call, error);
            call_free(call);
        } else {
            *ret = (completion_stream *)call;
        }
    }
    client_leave(c, 0);
    return r;
}

EXPORT int completion_stream_next(completion_stream *s, const completion_result **ret,
                                  completion_error *error)
{
    completion_call *call = call_of(s);
    const uint8_t *message = NULL;
    size_t len = 0;

    if (!s || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no stream");
    completion_client *c = call->client;
    if (!c) /* which ended it */
        return call_tell(call, error);
    int r = client_enter(c, BLOCKING, error);
    if (r < 0)
        return r;
    r = take(call, &message, &len);
    r = call_give(call, r, message, len, ret, error);
    if (r <= 0)
        client_write(c);
    client_leave(c, 0);
    return r;
}

EXPORT void completion_stream_cancel(completion_stream *s)
{
    completion_client *c = s ? call_of(s)->client : NULL;

    if (!c || !client_is_ours(c))
        return;
    call_end(call_of(s), -ECANCELED, CALL_CANCELLED);
    if (c->busy == IDLE)
        client_write(c);
}

EXPORT completion_stream *completion_stream_free(completion_stream *s)
{
    completion_client *c = s ? call_of(s)->client : NULL;

    completion_call_free(call_of(s));
    if (c && c->busy == IDLE && client_is_ours(c))
        client_write(c);
    return NULL;
}
