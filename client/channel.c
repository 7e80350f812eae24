/*
 * A connection to the daemon: its socket and the gRPC session on it. It knows no call. Nothing here
 * blocks; it takes what is there and sends what goes.
 *
 * The daemon is not trusted: a round of reading ends after READS_MAX reads, so that deadlines hold
 * against one that never stops sending, and one that makes us answer without reading the answers is
 * left.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

enum {
    READ_BYTES = 65536,
    READS_MAX = 16,
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

/* ---- Life ---- */

int channel_new(int fd, void (*ready)(struct grpc_client_call *call, void *user),
                struct channel **ret)
{
    struct grpc_client_options options = grpc_client_options_default;
    struct channel *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    options.ready = ready;
    c->fd = -1; /* the caller's, as long as this can fail */
    c->epoll_fd = -1;
    c->input = malloc(READ_BYTES);
    if (!c->input || grpc_client_session_new(&options, &c->session) < 0) {
        channel_free(c);
        return -ENOMEM;
    }
    c->fd = fd;
    *ret = c;
    return 0;
}

void channel_free(struct channel *c)
{
    if (!c)
        return;
    grpc_client_session_free(c->session);
    if (c->fd >= 0)
        close(c->fd);
    free(c->input);
    free(c);
}

static void channel_close(struct channel *c, const char *why)
{
    /* A child of fork() may have the socket too: closing it would not end the watch. */
    if (c->epoll_fd >= 0)
        epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    c->epoll_fd = -1;
    close(c->fd);
    c->fd = -1;
    grpc_client_session_closed(c->session, why);
}

bool channel_is_open(const struct channel *c)
{
    return c->fd >= 0 && grpc_client_session_is_open(c->session);
}

/* ---- Watching ---- */

static uint32_t events_of(const struct channel *c)
{
    return EPOLLIN | (c->is_writing ? EPOLLOUT : 0);
}

int channel_watch(struct channel *c, int epoll_fd)
{
    struct epoll_event event = {.events = events_of(c)};

    if (c->fd < 0)
        return 0;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        return -errno;
    c->epoll_fd = epoll_fd;
    return 0;
}

static void set_writing(struct channel *c, bool is_writing)
{
    if (c->is_writing == is_writing)
        return;
    c->is_writing = is_writing;
    struct epoll_event event = {.events = events_of(c)};
    if (c->epoll_fd >= 0)
        epoll_ctl(c->epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

/* ---- Bytes ---- */

/* Returns whether there may be more. */
static bool read_once(struct channel *c, bool all)
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
    return all || n == READ_BYTES;
}

void channel_read(struct channel *c, bool all)
{
    for (int i = 0; i < READS_MAX && c->fd >= 0 && read_once(c, all); i++)
        ;
}

bool channel_has_output(struct channel *c)
{
    return c->fd >= 0 && (grpc_client_session_flush(c->session) < 0 ||
                          buffer_length(grpc_client_session_output(c->session)) > 0);
}

void channel_write(struct channel *c)
{
    struct buffer *output = grpc_client_session_output(c->session);

    while (c->fd >= 0) {
        if (grpc_client_session_flush(c->session) < 0) {
            channel_close(c, not_grpc);
            return;
        }
        if (buffer_length(output) == 0) {
            set_writing(c, false);
            return;
        }
        ssize_t n =
            send(c->fd, buffer_bytes(output), buffer_length(output), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            buffer_consume(output, (size_t)n);
        } else if (errno == EAGAIN) {
            set_writing(c, true);
            return;
        } else if (errno != EINTR) {
            /* It takes no more; what it said before that is still there. */
            channel_read(c, true);
            if (c->fd >= 0)
                channel_close(c, gone);
        }
    }
}
