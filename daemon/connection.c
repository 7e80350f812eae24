#include "connection.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "account.h"
#include "call.h"
#include "config.h"
#include "crew.h"
#include "grpc_server.h"
#include "log.h"
#include "metrics.h"
#include "server.h"

enum {
    READ_BYTES = 65536,
    REFUSED_US = 2000000, /* for as long as a refused connection may stay */
    WATCHES_PER_LIMIT = 4,
    WATCH_MIN_US = 10000,
    WATCH_MAX_US = 5000000,
    OUTPUT_KEPT_BYTES = 4096,
};

static void on_readable(evutil_socket_t fd, short what, void *user);

/* ---- Callers who are refused ---- */

/* They are asked by their calls, so that what is wrong can be told. */
static void refuse_call(struct grpc_server_call *call, void *session_user)
{
    struct connection *c = session_user;
    char text[128];

    snprintf(text, sizeof text,
             "too many connections of this user, who has %zu (see max_connections); close some",
             account_look(c->account, 0).n_connections);
    grpc_server_call_finish(call, GRPC_RESOURCE_EXHAUSTED, text, NULL, 0);
    c->told = true;
}

static void ignore_request(struct grpc_server_call *call, const uint8_t *message, size_t len)
{
    (void)call, (void)message, (void)len;
}

static void ignore_writable(struct grpc_server_call *call)
{
    (void)call;
}

static void ignore_end(struct grpc_server_call *call, enum grpc_server_end how)
{
    (void)call, (void)how;
}

static const struct grpc_server_handler refusing_handler = {
    .begin = refuse_call,
    .request = ignore_request,
    .writable = ignore_writable,
    .end = ignore_end,
};

/* ---- Callers who keep us waiting ---- */

static bool is_past(int64_t since_us, int64_t limit_us, int64_t now_us)
{
    return limit_us != CONFIG_INFINITY && now_us - since_us >= limit_us;
}

/* Who only watches the daemon's health owes nothing until it drains. */
static bool needs_watching(const struct connection *c)
{
    size_t n_resting = c->worker->draining ? 0 : c->n_watches;

    return !c->heard || c->verdict == ADMISSION_REFUSED ||
           grpc_server_session_midway_since(c->session) >= 0 ||
           grpc_server_session_n_calls(c->session) > n_resting ||
           buffer_length(grpc_server_session_output(c->session)) > 0;
}

/* Whether the timer could be armed, if it is needed. Not moved at every byte. */
static bool watch(struct connection *c)
{
    const struct server_limits *l = &c->server->limits;
    int64_t in_us = WATCH_MAX_US * WATCHES_PER_LIMIT;

    if (c->watching || c->forgotten || !needs_watching(c))
        return true;
    in_us = l->first_byte_us < in_us ? l->first_byte_us : in_us;
    in_us = l->request_us < in_us ? l->request_us : in_us;
    in_us = l->stall_us < in_us ? l->stall_us : in_us;
    if (c->verdict == ADMISSION_REFUSED && REFUSED_US < in_us)
        in_us = REFUSED_US;
    in_us /= WATCHES_PER_LIMIT;
    if (worker_arm(&c->watch, in_us > WATCH_MIN_US ? in_us : WATCH_MIN_US) < 0)
        return false;
    c->watching = true;
    return true;
}

static void fail_stalled(struct call *call)
{
    static const char text[] = "the caller took nothing of the answer for longer than "
                               "caller_stall_timeout";

    call_fail(call, &(struct call_error){
                        .status = GRPC_CANCELLED,
                        .reason = "CALLER_STALLED",
                        .message = text,
                        .phase = COMPLETION__V1__PHASE__PHASE_BODY,
                        .maybe_executed = true,
                    });
    if (call->grpc)
        grpc_server_call_drop(call->grpc, GRPC_CANCELLED, text);
}

static void check_calls(struct connection *c, int64_t now_us)
{
    const struct server_limits *l = &c->server->limits;
    struct call *call;

    LIST_FOREACH (call, &c->calls, next) {
        int64_t waits_us = call->grpc ? grpc_server_call_waits_since(call->grpc) : -1;
        if (waits_us >= 0 && is_past(waits_us, l->stall_us, now_us))
            fail_stalled(call);
        else if (call->state == CALL_NEW && is_past(call->start_us, l->request_us, now_us))
            call_fail(call, &(struct call_error){
                                .status = GRPC_DEADLINE_EXCEEDED,
                                .reason = "DEADLINE_EXCEEDED",
                                .message = "the request was not there within "
                                           "caller_request_timeout of its headers",
                                .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                                .retryable = true,
                            });
    }
    connection_wake(c);
}

/* What can't be mended call by call. */
static const char *is_overdue(struct connection *c, int64_t now_us)
{
    const struct server_limits *l = &c->server->limits;
    int64_t midway_us = grpc_server_session_midway_since(c->session);

    if (c->verdict == ADMISSION_REFUSED && is_past(c->accepted_us, REFUSED_US, now_us))
        return "refused";
    if (!c->heard && is_past(c->accepted_us, l->first_byte_us, now_us))
        return "caller_first_byte_timeout";
    if (midway_us >= 0 && is_past(midway_us, l->request_us, now_us))
        return "caller_request_timeout";
    if (buffer_length(grpc_server_session_output(c->session)) == 0)
        return NULL;
    if (c->blocked_us < 0)
        c->blocked_us = now_us;
    return is_past(c->blocked_us, l->stall_us, now_us) ? "caller_stall_timeout" : NULL;
}

/* Nobody will read how the calls ended, but their records say it. */
static void close_overdue(struct connection *c, const char *limit)
{
    struct call *call;

    log_debug(c->worker->log, "connection closed: uid=%u limit=%s", c->caller.uid, limit);
    if (strcmp(limit, "caller_stall_timeout") == 0)
        LIST_FOREACH (call, &c->calls, next)
            fail_stalled(call);
}

static void on_watch(evutil_socket_t fd, short what, void *user)
{
    struct connection *c = user;
    int64_t now_us = worker_now_us();

    (void)fd, (void)what;
    c->watching = false;
    grpc_server_session_set_time(c->session, now_us);
    const char *limit = is_overdue(c, now_us);
    if (limit)
        close_overdue(c, limit);
    else
        check_calls(c, now_us);
    if (limit || !watch(c))
        server_forget(c->server, c);
}

/* ---- Bytes ---- */

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
    if (n > 0) {
        c->heard = true;
        grpc_server_session_set_time(c->session, worker_turn_us(c->worker));
        if (grpc_server_session_receive(c->session, data, (size_t)n) < 0) {
            c->broken = true;
            event_del(&c->readable);
        }
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
        c->blocked_us = -1;
    }
    return 1;
}

static void run_flush(struct task *task)
{
    struct connection *c = container_of(task, struct connection, flush);
    struct buffer *output = grpc_server_session_output(c->session);
    int r;

    grpc_server_session_set_time(c->session, worker_turn_us(c->worker));
    if (c->told)
        grpc_server_session_drain(c->session, true);
    do {
        if (grpc_server_session_flush(c->session) < 0)
            c->broken = true;
        r = write_output(c, output);
    } while (r > 0 && !c->broken && grpc_server_session_wants_flush(c->session));

    if (r < 0 || c->broken || (r > 0 && grpc_server_session_is_done(c->session)) ||
        (r > 0 && c->half_closed && grpc_server_session_n_calls(c->session) == 0) ||
        (r == 0 && event_add(&c->writable, NULL) < 0) || !watch(c)) {
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

bool connection_is_only_watching(const struct connection *c)
{
    return c->n_watches > 0 && grpc_server_session_n_calls(c->session) == c->n_watches;
}

/* The user's account, and its limits as they are now; whether there is a place for it. 0, or
 * negative errno. */
static int connection_enter(struct connection *c)
{
    struct crew *crew = c->worker->crew;
    struct policy policy = policy_find(c->worker->config, &c->caller);

    c->account = accounts_get(&crew->accounts, c->caller.uid, worker_now_us());
    if (!c->account)
        return -ENOMEM;
    memory_set_limit(&c->account->memory, policy.max_memory_bytes);
    /* One of a user's programs leaves something to the others. */
    c->memory = MEMORY_INIT(policy.max_memory_bytes / 4 * 3, &c->account->memory);
    accounts_lock(&crew->accounts);
    c->verdict = admission_enter(&crew->admission, c->caller.uid, c->account->n_connections,
                                 policy.max_connections);
    c->account->n_connections += c->verdict == ADMISSION_WELCOME;
    size_t n_of_user = c->account->n_connections, n = crew->admission.n;
    accounts_unlock(&crew->accounts);
    if (c->verdict == ADMISSION_WELCOME) {
        metrics_add(&c->worker->metrics->totals.connections, 1);
        return 0;
    }
    metrics_add(&c->worker->metrics->totals.connections_refused, 1);
    server_complain(c->server,
                    "too many connections: uid %u is refused (it has %zu, all have %zu of %zu)",
                    c->caller.uid, n_of_user, n, crew->admission.max);
    return c->verdict == ADMISSION_REFUSED ? 0 : -EUSERS;
}

static void connection_leave(struct connection *c)
{
    struct crew *crew = c->worker->crew;

    if (c->verdict == ADMISSION_DROPPED)
        return;
    accounts_lock(&crew->accounts);
    c->account->n_connections -= c->verdict == ADMISSION_WELCOME;
    admission_leave(&crew->admission, c->verdict);
    accounts_unlock(&crew->accounts);
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
    c->verdict = ADMISSION_DROPPED;
    c->accepted_us = worker_now_us();
    c->blocked_us = -1;
    event_assign(&c->readable, c->worker->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->writable, c->worker->base, fd, EV_WRITE, on_writable, c);

    evtimer_assign(&c->watch, c->worker->base, on_watch, c);

    r = caller_init(&c->caller, fd);
    if (r == 0)
        r = connection_enter(c);
    if (r == 0)
        r = grpc_server_session_new(
            &options, c->verdict == ADMISSION_REFUSED ? &refusing_handler : &call_handler, c,
            &c->session);
    if (r == 0 && (event_add(&c->readable, NULL) < 0 || !watch(c)))
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
    event_del(&c->watch);
    grpc_server_session_free(c->session);
    worker_cancel(c->worker, &c->flush);
    connection_leave(c);
    account_unref(c->account);
    caller_done(&c->caller);
    close(c->fd);
    free(c);
}
