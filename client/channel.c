/*
 * The connection to the daemon, and calls on it. Nothing here blocks but channel_wait(), which
 * polls one descriptor; everything else takes what is there and sends what goes.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum { READ_BYTES = 65536, CONNECT_AGAIN_MS = 5 };

struct channel {
    unsigned n_refs;
    int fd; /* -1 once it is closed */
    struct grpc_client_session *session;
};

static int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- Waiting ---- */

/* Polls the descriptor (-1: just waits) until it is ready or the deadline has passed, calling the
 * client's hook meanwhile. At most max_ms, if that is not negative. 0, -ETIMEDOUT or -ECANCELED. */
static int wait_for(const completion_client *client, int fd, short events, int64_t deadline_us,
                    int max_ms)
{
    struct pollfd pfd = {.fd = fd, .events = events};
    int64_t start_us = now_us();

    for (;;) {
        int64_t now = now_us();
        if (now >= deadline_us)
            return -ETIMEDOUT;
        int timeout_ms =
            client->wait && client->wait_interval_ms > 0 ? client->wait_interval_ms : -1;
        bool last = max_ms >= 0 && (timeout_ms < 0 || max_ms < timeout_ms);
        if (last)
            timeout_ms = max_ms;
        /* Rounded up, so as not to spin through the last millisecond. */
        int64_t left_ms = deadline_us == INT64_MAX ? INT32_MAX : (deadline_us - now + 999) / 1000;
        if (timeout_ms < 0 || left_ms < timeout_ms)
            timeout_ms = left_ms < INT32_MAX ? (int)left_ms : INT32_MAX;

        int n = poll(&pfd, 1, timeout_ms);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (client->wait && client->wait(client->wait_user, (now_us() - start_us) / 1000) != 0)
            return -ECANCELED;
        if (n == 0 && last)
            return 0;
    }
}

/* ---- The connection ---- */

struct channel *channel_unref(struct channel *c)
{
    if (!c || --c->n_refs > 0)
        return NULL;
    grpc_client_session_free(c->session);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    return NULL;
}

static void channel_close(struct channel *c, const char *why)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    grpc_client_session_closed(c->session, why);
}

/* Sends what there is to send, as far as the socket takes it. */
static void channel_write(struct channel *c)
{
    struct buffer *output = grpc_client_session_output(c->session);

    while (c->fd >= 0) {
        if (grpc_client_session_flush(c->session) < 0) {
            channel_close(c, "the daemon does not speak gRPC as it should");
            return;
        }
        if (buffer_length(output) == 0)
            return;
        ssize_t n =
            send(c->fd, buffer_bytes(output), buffer_length(output), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0)
            buffer_consume(output, (size_t)n);
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR) {
            /* What it still said before it went is worth more than the broken pipe. */
            return;
        }
    }
}

static void channel_read(struct channel *c)
{
    uint8_t data[READ_BYTES];

    while (c->fd >= 0) {
        ssize_t n = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            channel_close(c, "completiond closed the connection; call again");
            return;
        }
        if (grpc_client_session_receive(c->session, data, (size_t)n) < 0) {
            channel_close(c, "the daemon does not speak gRPC as it should");
            return;
        }
        if ((size_t)n < sizeof data)
            return;
    }
}

/* A connected socket, or negative errno. */
static int connect_socket(const completion_client *client, int64_t deadline_us)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0)
        return -errno;
    strcpy(address.sun_path, client->socket);
    for (;;) {
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fd;
        r = -errno;
        if (r == -EINTR)
            continue;
        /* The daemon's backlog is full, and no descriptor tells when it is not. */
        if (r == -EAGAIN)
            r = wait_for(client, -1, 0, deadline_us, CONNECT_AGAIN_MS);
        if (r < 0)
            break;
    }
    close(fd);
    return r;
}

static int connect_failed(const completion_client *client, int r, completion_error *error)
{
    if (r == -ETIMEDOUT)
        return error_set(error, r, COMPLETION_DEADLINE_EXCEEDED,
                         "the deadline passed while connecting to completiond at %s",
                         client->socket);
    if (r == -ECANCELED)
        return error_set(error, r, COMPLETION_CANCELLED, "cancelled");
    if (r == -EACCES || r == -EPERM)
        return error_set(error, r, COMPLETION_PERMISSION_DENIED,
                         "may not connect to completiond at %s: %s; ask its administrator to make "
                         "you a member of the group completiond",
                         client->socket, strerror(-r));
    if (r == -ENOENT || r == -ECONNREFUSED || r == -ENOTSOCK || r == -ENOTDIR)
        return error_set(error, r, COMPLETION_UNAVAILABLE,
                         "completiond is not running: can't connect to %s: %s; start it with "
                         "'systemctl start completiond.socket', or run 'completiond'",
                         client->socket, strerror(-r));
    return error_set(error, r, COMPLETION_UNAVAILABLE, "can't connect to completiond at %s: %s",
                     client->socket, strerror(-r));
}

static int channel_new(const completion_client *client, int64_t deadline_us, struct channel **ret,
                       completion_error *error)
{
    struct channel *c = calloc(1, sizeof *c);

    if (!c || grpc_client_session_new(&grpc_client_options_default, &c->session) < 0) {
        free(c);
        return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
    }
    c->n_refs = 1;
    c->fd = connect_socket(client, deadline_us);
    if (c->fd < 0) {
        int r = c->fd;
        channel_unref(c);
        return connect_failed(client, r, error);
    }
    *ret = c;
    return 0;
}

/* The client's channel, open as far as can be known. */
static int client_channel(completion_client *client, int64_t deadline_us, completion_error *error)
{
    if (client->channel) {
        /* A daemon that was restarted meanwhile has said goodbye. */
        channel_read(client->channel);
        if (client->channel->fd >= 0 && grpc_client_session_is_open(client->channel->session))
            return 0;
        client->channel = channel_unref(client->channel);
    }
    return channel_new(client, deadline_us, &client->channel, error);
}

/* ---- Calls ---- */

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
        if (start.timeout_us < 0)
            start.timeout_us = 0;
    }
    struct channel *c = rpc->client->channel;
    r = grpc_client_call_new(c->session, &start, buffer_bytes(&rpc->message),
                             buffer_length(&rpc->message), &rpc->call);
    if (r < 0)
        return error_set(error, r, COMPLETION_RESOURCE_EXHAUSTED, "the call can't be made: %s",
                         strerror(-r));
    rpc->channel = c;
    c->n_refs++;
    channel_write(c);
    return 0;
}

int rpc_start(struct rpc *rpc, completion_client *client, const char *path, struct buffer *message,
              const char *key, int64_t timeout_ms, completion_error *error)
{
    *rpc = (struct rpc){.client = client, .path = path, .deadline_us = INT64_MAX};
    if (client->pid != getpid())
        return error_set(error, -ECHILD, COMPLETION_FAILED_PRECONDITION,
                         "the client was made by another process; make one after fork()");
    if (message->error)
        return error_set(error, message->error, COMPLETION_RESOURCE_EXHAUSTED,
                         "the request is too large, or there is no memory for it");
    if (timeout_ms >= 0 && (__builtin_mul_overflow(timeout_ms, 1000, &rpc->deadline_us) ||
                            __builtin_add_overflow(rpc->deadline_us, now_us(), &rpc->deadline_us)))
        rpc->deadline_us = INT64_MAX;
    if (key && !(rpc->key = strdup(key)))
        return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
    rpc->message = *message;
    int r = rpc_send(rpc, error);
    if (r < 0) {
        rpc->message = BUFFER_INIT(0);
        rpc_done(rpc);
        return r;
    }
    *message = BUFFER_INIT(message->limit_bytes);
    return 0;
}

static void rpc_drop_call(struct rpc *rpc)
{
    struct channel *c = rpc->channel;

    rpc->call = grpc_client_call_free(rpc->call);
    if (c)
        channel_write(c);
    rpc->channel = channel_unref(c);
}

void rpc_done(struct rpc *rpc)
{
    /* In a child after fork() the connection is the parent's: nothing may be sent on it. */
    if (rpc->channel && rpc->client->pid != getpid() && rpc->channel->fd >= 0) {
        close(rpc->channel->fd);
        rpc->channel->fd = -1;
    }
    rpc_drop_call(rpc);
    buffer_done(&rpc->message);
    if (rpc->key)
        explicit_bzero(rpc->key, strlen(rpc->key));
    free(rpc->key);
    rpc->key = NULL;
}

void rpc_cancel(struct rpc *rpc)
{
    if (!rpc->cancelled)
        rpc->cancelled = -ECANCELED;
    if (rpc->call && rpc->client->pid == getpid()) {
        grpc_client_call_cancel(rpc->call, GRPC_CANCELLED, "cancelled");
        channel_write(rpc->channel);
    }
}

/* The call has ended: 0 if it did so well, 1 if it was made again. */
static int rpc_ended(struct rpc *rpc, completion_error *error)
{
    enum grpc_status status = grpc_client_call_status(rpc->call);

    if (status == GRPC_OK)
        return 0;
    if (status == GRPC_UNAVAILABLE && !rpc->retried && !rpc->received &&
        grpc_client_call_was_unprocessed(rpc->call)) {
        rpc->retried = true;
        rpc_drop_call(rpc);
        int r = rpc_send(rpc, error);
        return r < 0 ? r : 1;
    }
    error_from_call(error, rpc->call);
    return status == GRPC_DEADLINE_EXCEEDED ? -ETIMEDOUT
           : status == GRPC_CANCELLED       ? -ECANCELED
                                            : -EIO;
}

static int rpc_wait(struct rpc *rpc)
{
    struct channel *c = rpc->channel;

    channel_write(c);
    if (c->fd < 0)
        return 0;
    bool more = buffer_length(grpc_client_session_output(c->session)) > 0;
    int r =
        wait_for(rpc->client, c->fd, (short)(POLLIN | (more ? POLLOUT : 0)), rpc->deadline_us, -1);
    if (r == 0)
        channel_read(c);
    return r;
}

int rpc_next(struct rpc *rpc, const uint8_t **ret, size_t *ret_len, completion_error *error)
{
    int r;

    if (rpc->client->pid != getpid())
        return error_set(error, -ECHILD, COMPLETION_FAILED_PRECONDITION,
                         "the call was made by another process");
    for (;;) {
        if (rpc->cancelled)
            return error_set(error, rpc->cancelled,
                             rpc->cancelled == -ETIMEDOUT ? COMPLETION_DEADLINE_EXCEEDED
                                                          : COMPLETION_CANCELLED,
                             rpc->cancelled == -ETIMEDOUT ? "the deadline passed" : "cancelled");
        if (!rpc->call)
            return error_set(error, -EPIPE, COMPLETION_UNAVAILABLE, "the call has ended");
        if (grpc_client_call_next(rpc->call, ret, ret_len)) {
            rpc->received = true;
            return 1;
        }
        if (grpc_client_call_is_ended(rpc->call)) {
            r = rpc_ended(rpc, error);
            if (r <= 0)
                return r;
        }
        r = rpc_wait(rpc);
        if (r == -ETIMEDOUT || r == -ECANCELED) {
            rpc_cancel(rpc);
            rpc->cancelled = r;
        } else if (r < 0) {
            return error_set(error, r, COMPLETION_INTERNAL, "poll: %s", strerror(-r));
        }
    }
}
