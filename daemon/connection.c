#include "connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "account.h"
#include "call.h"
#include "grpc_server.h"
#include "log.h"
#include "server.h"

enum {
    READ_BYTES = 65536,
    OUTPUT_KEPT_BYTES = 4096,
};

static void on_readable(evutil_socket_t fd, short what, void *user);

/* A caller may shut down its sending side and still wait for answers. The event then waits for the
 * other half, edge-triggered: the end that was already seen would fire for ever. */
static bool caller_is_gone(struct connection *c)
{
    struct pollfd pfd = {.fd = c->fd};

    if (poll(&pfd, 1, 0) < 0 || pfd.revents & (POLLHUP | POLLERR))
        return true;
    if (!c->half_closed) {
        c->half_closed = true;
        event_del(&c->readable);
        event_assign(&c->readable, c->worker->base, c->fd, EV_READ | EV_PERSIST | EV_ET,
                     on_readable, c);
        if (event_add(&c->readable, NULL) < 0)
            return true;
    }
    return grpc_server_session_n_calls(c->session) == 0;
}

static void on_readable(evutil_socket_t fd, short what, void *user)
{
    struct connection *c = user;
    uint8_t data[READ_BYTES];
    ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);

    (void)what;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0 || (n == 0 && caller_is_gone(c))) {
        /* The calls must learn of it in this turn, the memory may wait for its end. */
        server_forget(c->server, c);
        return;
    }
    if (n > 0 && grpc_server_session_receive(c->session, data, (size_t)n) < 0) {
        c->broken = true;
        event_del(&c->readable);
    }
    /* Metadata may hold a caller's key. */
    if (n > 0)
        explicit_bzero(data, (size_t)n);
    connection_wake(c);
}

static void on_writable(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    connection_wake(user);
}

/* 1: all is written; 0: the socket is full; negative: it is broken. */
static int write_output(struct connection *c, struct buffer *output)
{
    while (buffer_length(output) > 0) {
        ssize_t n =
            send(c->fd, buffer_bytes(output), buffer_length(output), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        buffer_consume(output, (size_t)n);
    }
    return 1;
}

static void run_flush(struct task *task)
{
    struct connection *c = container_of(task, struct connection, flush);
    struct buffer *output = grpc_server_session_output(c->session);
    int r;

    do {
        if (grpc_server_session_flush(c->session) < 0)
            c->broken = true;
        r = write_output(c, output);
    } while (r > 0 && !c->broken && grpc_server_session_wants_flush(c->session));

    if (r < 0 || c->broken || (r > 0 && grpc_server_session_is_done(c->session)) ||
        (r > 0 && c->half_closed && grpc_server_session_n_calls(c->session) == 0) ||
        (r == 0 && event_add(&c->writable, NULL) < 0)) {
        server_forget(c->server, c);
        return;
    }
    if (r > 0)
        buffer_trim(output, OUTPUT_KEPT_BYTES);
}

void connection_wake(struct connection *c)
{
    worker_defer(c->worker, &c->flush);
}

/* The user's account, and its limits as they are now. */
static int take_account(struct connection *c)
{
    struct worker *w = c->worker;
    struct policy policy = policy_find(w->config, &c->caller);

    c->account = accounts_get(&w->accounts, c->caller.uid, worker_now_us());
    if (!c->account)
        return -ENOMEM;
    c->account->memory.limit = policy.max_memory_bytes;
    c->account->n_connections++;
    c->memory = MEMORY_INIT(SIZE_MAX, &c->account->memory);
    return 0;
}

int connection_new(struct server *server, int fd, struct connection **ret)
{
    struct connection *c = calloc(1, sizeof *c);
    struct grpc_server_options options = grpc_server_options_default;
    int r = -ENOMEM;

    if (!c) {
        close(fd);
        return r;
    }
    c->server = server;
    c->worker = server->worker;
    c->fd = fd;
    c->flush.run = run_flush;
    options.memory = &c->memory;
    LIST_INIT(&c->calls);
    event_assign(&c->readable, c->worker->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->writable, c->worker->base, fd, EV_WRITE, on_writable, c);

    r = caller_init(&c->caller, fd);
    if (r == 0)
        r = take_account(c);
    if (r == 0)
        r = grpc_server_session_new(&options, &call_handler, c, &c->session);
    if (r == 0 && event_add(&c->readable, NULL) < 0)
        r = -ENOMEM;
    if (r < 0) {
        connection_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

void connection_free(struct connection *c)
{
    event_del(&c->readable);
    event_del(&c->writable);
    grpc_server_session_free(c->session);
    worker_cancel(c->worker, &c->flush);
    if (c->account)
        c->account->n_connections--;
    account_unref(c->account);
    caller_done(&c->caller);
    close(c->fd);
    free(c);
}
