/*
 * The connection to the daemon: its socket and the gRPC session on it. It knows no call. Nothing
 * here blocks but the one poll() in wait_once(); everything else takes what is there and sends what
 * goes.
 *
 * The daemon is not trusted: a round of reading ends after READS_MAX reads, so that deadlines hold
 * against one that never stops sending, and one that makes us answer without reading the answers is
 * left.
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

enum {
    READ_BYTES = 65536,
    READS_MAX = 16,
    CONNECT_AGAIN_MS = 5,
    UNREAD_ANSWERS_MAX = 16 << 20, /* of output beyond the requests */
};

static const char not_grpc[] = "what answers on the socket does not speak gRPC as it should";
static const char gone[] = "completiond closed the connection; call again";

int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- Waiting ---- */

struct wait wait_begin(int64_t deadline_us)
{
    int64_t now = now_us();

    return (struct wait){.deadline_us = deadline_us, .start_us = now, .hook_us = now};
}

/* Milliseconds until then, rounded up so as not to spin through the last one; at most max_ms if
 * that is not negative. */
static int ms_until(int64_t then_us, int64_t now, int max_ms)
{
    int64_t ms = then_us == INT64_MAX ? INT32_MAX : (then_us - now + 999) / 1000;

    if (max_ms >= 0 && max_ms < ms)
        return max_ms;
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

/* Polls once, at most max_ms if that is not negative, and calls the client's hook if it is time to.
 * fd -1: just waits. 0, -ETIMEDOUT, -ECANCELED or poll()'s errno. */
static int wait_once(const completion_client *client, struct wait *w, int fd, short events,
                     int max_ms)
{
    struct pollfd pfd = {.fd = fd, .events = events};
    bool has_hook = client->wait && client->wait_interval_ms > 0;
    int64_t hook_us = has_hook ? w->hook_us + (int64_t)client->wait_interval_ms * 1000 : INT64_MAX;
    int64_t now = now_us();

    if (now >= w->deadline_us)
        return -ETIMEDOUT;
    int timeout_ms = ms_until(w->deadline_us, now, max_ms);
    if (has_hook)
        timeout_ms = ms_until(hook_us > now ? hook_us : now, now, timeout_ms);
    int n = poll(&pfd, 1, timeout_ms);
    bool interrupted = n < 0 && errno == EINTR;
    if (n < 0 && !interrupted)
        return -errno;
    now = now_us();
    if (!client->wait || (!interrupted && now < hook_us))
        return 0;
    w->hook_us = now;
    return client->wait(client->wait_user, (now - w->start_us) / 1000) != 0 ? -ECANCELED : 0;
}

/* ---- Life ---- */

/* A connected socket, or negative errno. */
static int connect_socket(const completion_client *client, int64_t deadline_us)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct wait wait = wait_begin(deadline_us);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0)
        return -errno;
    strcpy(address.sun_path, client->socket);
    do {
        r = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
        /* The daemon's backlog is full, and no descriptor tells when it is not. */
        if (r == -EAGAIN) {
            r = wait_once(client, &wait, -1, 0, CONNECT_AGAIN_MS);
            r = r == 0 ? -EAGAIN : r;
        }
    } while (r == -EAGAIN || r == -EINTR);
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

static int connect_failed(const completion_client *client, int r, completion_error *error)
{
    switch (-r) {
    case ETIMEDOUT:
        return error_set(error, r, COMPLETION_DEADLINE_EXCEEDED,
                         "the deadline passed while connecting to completiond at %s",
                         client->socket);
    case ECANCELED:
        return error_set(error, r, COMPLETION_CANCELLED, "cancelled");
    case EACCES:
    case EPERM:
        return error_set(error, r, COMPLETION_PERMISSION_DENIED,
                         "cannot connect to completiond at %s: %s; add yourself to the group "
                         "completiond (as root: `usermod -aG completiond USER`), and log in again",
                         client->socket, strerror(-r));
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
        return error_set(error, r, COMPLETION_UNAVAILABLE,
                         "completiond is not running: cannot connect to %s: %s; start it with "
                         "`systemctl start completiond.socket` or run `completiond`",
                         client->socket, strerror(-r));
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return error_set(error, r, COMPLETION_RESOURCE_EXHAUSTED,
                         "cannot connect to completiond: %s", strerror(-r));
    default:
        return error_set(error, r, COMPLETION_UNAVAILABLE,
                         "cannot connect to completiond at %s: %s", client->socket, strerror(-r));
    }
}

int channel_new(const completion_client *client, int64_t deadline_us, struct channel **ret,
                completion_error *error)
{
    struct channel *c = calloc(1, sizeof *c);

    if (!c)
        return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
    c->n_refs = 1;
    c->fd = -1;
    c->input = malloc(READ_BYTES);
    if (!c->input || grpc_client_session_new(&grpc_client_options_default, &c->session) < 0) {
        channel_unref(c);
        return error_set(error, -ENOMEM, COMPLETION_RESOURCE_EXHAUSTED, "out of memory");
    }
    int fd = connect_socket(client, deadline_us);
    if (fd < 0) {
        channel_unref(c);
        return connect_failed(client, fd, error);
    }
    c->fd = fd;
    *ret = c;
    return 0;
}

struct channel *channel_unref(struct channel *c)
{
    if (!c || --c->n_refs > 0)
        return NULL;
    grpc_client_session_free(c->session);
    if (c->fd >= 0)
        close(c->fd);
    free(c->input);
    free(c);
    return NULL;
}

void channel_abandon(struct channel *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static void channel_close(struct channel *c, const char *why)
{
    channel_abandon(c);
    grpc_client_session_closed(c->session, why);
}

bool channel_is_open(const struct channel *c)
{
    return c->fd >= 0 && grpc_client_session_is_open(c->session);
}

/* ---- Bytes ---- */

/* Returns whether there may be more. */
static bool read_once(struct channel *c)
{
    ssize_t n = recv(c->fd, c->input, READ_BYTES, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (n <= 0) {
        channel_close(c, gone);
        return false;
    }
    if (grpc_client_session_receive(c->session, c->input, (size_t)n) < 0 ||
        buffer_length(grpc_client_session_output(c->session)) >
            c->request_bytes + UNREAD_ANSWERS_MAX) {
        channel_close(c, not_grpc);
        return false;
    }
    return true;
}

void channel_read(struct channel *c)
{
    for (int i = 0; i < READS_MAX && c->fd >= 0 && read_once(c); i++)
        ;
}

void channel_write(struct channel *c)
{
    struct buffer *output = grpc_client_session_output(c->session);

    while (c->fd >= 0) {
        if (grpc_client_session_flush(c->session) < 0) {
            channel_close(c, not_grpc);
            return;
        }
        if (buffer_length(output) == 0)
            return;
        ssize_t n =
            send(c->fd, buffer_bytes(output), buffer_length(output), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            buffer_consume(output, (size_t)n);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR) {
            /* It takes no more; what it said before that is still there. */
            channel_read(c);
            if (c->fd >= 0)
                channel_close(c, gone);
        }
    }
}

int channel_turn(struct channel *c, const completion_client *client, struct wait *wait)
{
    channel_write(c);
    if (c->fd < 0)
        return 0;
    bool more = buffer_length(grpc_client_session_output(c->session)) > 0;
    int r = wait_once(client, wait, c->fd, (short)(POLLIN | (more ? POLLOUT : 0)), -1);
    if (r == 0)
        channel_read(c);
    return r;
}
