/* Clients and the calls that a program makes: blocking, on top of rpc_next(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../proto/grpc/grpc_health.h"
#include "internal.h"

/* Environment variables do not count in programs that run with other rights than their user's. */
static int find_socket(const char *path, char *out, size_t size)
{
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    int n;

    if (path && !*path)
        return -EINVAL;
    if (!path)
        path = secure_getenv("COMPLETIOND_SOCKET");
    if (path && *path) {
        n = snprintf(out, size, "%s", path);
        return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
    }
    n = runtime && *runtime ? snprintf(out, size, "%s/completiond/rpc.sock", runtime) : -1;
    if (n < 0 || (size_t)n >= size || access(out, F_OK) < 0)
        snprintf(out, size, "/run/completiond/rpc.sock");
    return 0;
}

EXPORT int completion_client_new(const char *path, completion_client **ret)
{
    completion_client *c = ret ? calloc(1, sizeof *c) : NULL;

    if (!c)
        return ret ? -ENOMEM : -EINVAL;
    int r = find_socket(path, c->socket, sizeof c->socket);
    if (r < 0) {
        free(c);
        return r;
    }
    c->pid = getpid();
    *ret = c;
    return 0;
}

EXPORT completion_client *completion_client_free(completion_client *c)
{
    if (c) {
        channel_unref(c->channel);
        free(c);
    }
    return NULL;
}

EXPORT const char *completion_client_socket(const completion_client *c)
{
    return c ? c->socket : "";
}

EXPORT void completion_client_set_wait(completion_client *c,
                                       int (*wait)(void *user, int64_t elapsed_ms), void *user,
                                       int interval_ms)
{
    if (!c)
        return;
    c->wait = wait;
    c->wait_user = user;
    c->wait_interval_ms = interval_ms;
}

/* ---- Unary calls ---- */

enum { STATUS_MAX_BYTES = 64 << 20 };

/* The work was done, and what came of it is lost. */
static int lost(completion_error *error, int r)
{
    if (error)
        error->maybe_executed = true;
    return r;
}

static int no_reply(completion_error *error)
{
    return lost(error, error_set(error, -EPROTO, COMPLETION_INTERNAL,
                                 "the daemon sent OK without an answer, or more than one answer"));
}

static int unreadable(completion_error *error, int r)
{
    return lost(error, error_set(error, r, COMPLETION_INTERNAL,
                                 "the daemon's answer can't be read: %s", strerror(-r)));
}

/* Of a unary call: the message stays valid until rpc_done(). */
static int rpc_only(struct rpc *rpc, int (*take)(const uint8_t *message, size_t len, void *user),
                    void *user, completion_error *error)
{
    const uint8_t *message;
    size_t len;
    int r = rpc_next(rpc, &message, &len, error);

    if (r < 0)
        return r;
    if (r == 0)
        return no_reply(error);
    r = take(message, len, user);
    if (r < 0)
        return unreadable(error, r);
    r = rpc_next(rpc, &message, &len, error);
    return r > 0 ? no_reply(error) : r;
}

static int take_health(const uint8_t *message, size_t len, void *user)
{
    return grpc_health_read(message, len, user);
}

EXPORT int completion_client_check(completion_client *c, int64_t timeout_ms,
                                   completion_error *error)
{
    struct buffer message = BUFFER_INIT(256);
    enum grpc_health health = GRPC_HEALTH_UNKNOWN;
    struct rpc rpc;

    if (!c)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no client");
    grpc_health_request(&message, "");
    int r = rpc_start(&rpc, c, GRPC_HEALTH_CHECK_PATH, &message, NULL, timeout_ms, error);
    buffer_done(&message);
    if (r < 0)
        return r;
    r = rpc_only(&rpc, take_health, &health, error);
    rpc_done(&rpc);
    /* Nothing that an upstream would bill. */
    if (r < 0 && error)
        error->maybe_executed = false;
    return r < 0 ? r : health == GRPC_HEALTH_SERVING;
}

static int take_status(const uint8_t *message, size_t len, void *user)
{
    struct buffer *json = user;

    int r = status_to_json(message, len, json);
    buffer_append_byte(json, '\0');
    return r < 0 ? r : json->error;
}

EXPORT int completion_client_status_json(completion_client *c, int64_t timeout_ms, char **ret,
                                         size_t *ret_length, completion_error *error)
{
    struct buffer message = BUFFER_INIT(16), json = BUFFER_INIT(STATUS_MAX_BYTES);
    struct rpc rpc;

    if (!c || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT,
                         "no client or no place for the answer");
    int r = rpc_start(&rpc, c, "/completion.v1.Status/Get", &message, NULL, timeout_ms, error);
    if (r < 0)
        return r;
    r = rpc_only(&rpc, take_status, &json, error);
    rpc_done(&rpc);
    if (r < 0 && error)
        error->maybe_executed = false;
    if (r < 0) {
        buffer_done(&json);
        return r;
    }
    if (ret_length)
        *ret_length = buffer_length(&json) - 1;
    *ret = (char *)buffer_bytes(&json);
    return 0;
}

static int start(completion_client *c, const completion_request *request, const char *path,
                 int64_t timeout_ms, struct rpc *rpc, completion_error *error)
{
    struct buffer message = BUFFER_INIT(REQUEST_MAX_BYTES);

    if (!c || !request)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no client or no request");
    request_pack(request, &message);
    int r = rpc_start(rpc, c, path, &message, request_key(request), timeout_ms, error);
    buffer_done(&message);
    return r;
}

/* An answer that nobody would see is not asked for: it would be billed. */
static int nowhere(completion_error *error)
{
    return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no place for the answer");
}

static int take_result(const uint8_t *message, size_t len, void *user)
{
    return result_new(message, len, user);
}

EXPORT int completion_create(completion_client *c, const completion_request *request,
                             int64_t timeout_ms, completion_result **ret, completion_error *error)
{
    completion_result *result = NULL;
    struct rpc rpc;

    if (!ret)
        return nowhere(error);
    int r = start(c, request, "/completion.v1.Completions/Create", timeout_ms, &rpc, error);
    if (r < 0)
        return r;
    r = rpc_only(&rpc, take_result, &result, error);
    rpc_done(&rpc);
    if (r < 0) {
        completion_result_free(result);
        return r;
    }
    *ret = result;
    return 0;
}

/* ---- Streams ---- */

struct completion_stream {
    struct rpc rpc;
    completion_result *chunk;
    int ended; /* what the last completion_stream_next() returned, if that was final */
    bool is_ended;
};

EXPORT int completion_stream_open(completion_client *c, const completion_request *request,
                                  int64_t timeout_ms, completion_stream **ret,
                                  completion_error *error)
{
    if (!ret)
        return nowhere(error);
    completion_stream *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "no memory for a stream");
    int r =
        start(c, request, "/completion.v1.Completions/CreateStream", timeout_ms, &s->rpc, error);
    if (r < 0) {
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

EXPORT int completion_stream_next(completion_stream *s, const completion_result **ret,
                                  completion_error *error)
{
    const uint8_t *message;
    size_t len;

    if (!s || !ret)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no stream");
    if (s->is_ended)
        return s->ended == 0 ? 0
                             : error_set(error, s->ended, COMPLETION_FAILED_PRECONDITION,
                                         "the stream has ended before");
    s->chunk = completion_result_free(s->chunk);
    int r = rpc_next(&s->rpc, &message, &len, error);
    if (r > 0) {
        int unpacked = result_new(message, len, &s->chunk);
        if (unpacked == 0) {
            *ret = s->chunk;
            return 1;
        }
        rpc_cancel(&s->rpc);
        r = unreadable(error, unpacked);
    }
    s->is_ended = true;
    s->ended = r;
    return r;
}

EXPORT void completion_stream_cancel(completion_stream *s)
{
    if (s && !s->is_ended)
        rpc_cancel(&s->rpc);
}

EXPORT completion_stream *completion_stream_free(completion_stream *s)
{
    if (s) {
        rpc_done(&s->rpc);
        completion_result_free(s->chunk);
        free(s);
    }
    return NULL;
}
