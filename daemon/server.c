#include "server.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "call.h"
#include "config.h"
#include "connection.h"
#include "crew.h"
#include "grpc_server.h"
#include "log.h"
#include "openai.h"

enum {
    ACCEPTS_PER_TURN = 64,
    ACCEPT_AGAIN_US = 100000,
    COMPLAINT_US = 1000000,
    DRAIN_NOTICE_US = 200000,
    DRAIN_CANCEL_US = 500000,
    BACKLOG = 4096,
    DESCRIPTORS_KEPT = 64, /* for all that is no connection and no upstream, and the refused */
    DESCRIPTORS_OF_WORKER = 16,
};

struct listener {
    struct server *server;
    int fd;
    struct event event;
};

/* ---- Accepting ---- */

/* libevent's evconnlistener spins when descriptors run out; here the listeners rest for a while. */
static void stop_accepting(struct server *s)
{
    for (size_t i = 0; i < s->n_listeners; i++)
        event_del(&s->listeners[i].event);
}

static void start_accepting(struct server *s)
{
    for (size_t i = 0; i < s->n_listeners; i++)
        if (event_add(&s->listeners[i].event, NULL) < 0)
            worker_arm(&s->accept_again, ACCEPT_AGAIN_US);
}

static void on_accept_again(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;

    (void)fd, (void)what;
    worker_rest(&s->accept_again);
    if (!s->worker->draining)
        start_accepting(s);
}

void server_complain(struct server *s, const char *format, ...)
{
    struct crew *c = s->worker->crew;
    int64_t now = worker_now_us(), last = c->last_complaint_us;
    char text[256];
    va_list args;

    if ((last && now - last < COMPLAINT_US) ||
        !atomic_compare_exchange_strong(&c->last_complaint_us, &last, now))
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_warning(s->worker->log, "%s", text);
}

static void rest_from_accepting(struct server *s, const char *why)
{
    server_complain(s, "no connection can be accepted at the moment: %s", why);
    stop_accepting(s);
    worker_arm(&s->accept_again, ACCEPT_AGAIN_US);
}

/* By any worker. */
static void count_out(struct server *s)
{
    s->worker->crew->left_us = worker_now_us();
    s->n_connections--;
}

/* Takes over the descriptor, which counts already. 0 or negative errno. */
static int welcome(struct server *s, int fd)
{
    struct connection *c;
    int r = connection_new(s, fd, &c);

    if (r < 0) {
        count_out(s);
        return r == -EUSERS ? 0 : r;
    }
    LIST_INSERT_HEAD(&s->connections, c, next);
    return 0;
}

/* A connection on its way to another worker. */
struct arrival {
    struct letter letter;
    struct server *server;
    int fd;
};

static void run_arrival(struct task *task)
{
    struct arrival *a = container_of(task, struct arrival, letter.task);
    int r = welcome(a->server, a->fd);

    if (r < 0)
        server_complain(a->server, "a connection can't be served: %s", strerror(-r));
    free(a);
}

static int send_on(struct server *s, int fd)
{
    struct arrival *a = calloc(1, sizeof *a);

    if (!a) {
        count_out(s);
        close(fd);
        return -ENOMEM;
    }
    a->letter.task.run = run_arrival;
    a->server = s;
    a->fd = fd;
    worker_post(s->worker, &a->letter);
    return 0;
}

static void on_acceptable(evutil_socket_t fd, short what, void *user)
{
    struct listener *l = user;
    struct server *s = l->server;

    (void)what;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (client < 0) {
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            if (errno == EMFILE || errno == ENFILE)
                crew_shed(s->worker->crew);
            if (errno != EAGAIN)
                rest_from_accepting(s, strerror(errno));
            return;
        }
        struct server *chosen = crew_choose(s->worker->crew)->server;
        chosen->n_connections++;
        int r = chosen == s ? welcome(s, client) : send_on(chosen, client);
        if (r < 0) {
            rest_from_accepting(s, strerror(-r));
            return;
        }
    }
}

int server_listen(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, r = 0;

    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;

    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        /* A socket of a process that is gone refuses; one that is busy says EAGAIN. */
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN) {
            close(fd);
            return -EADDRINUSE;
        }
        if (errno == ECONNREFUSED)
            unlink(path);
    }
    mode_t mask = umask(0117);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
        r = -errno;
    umask(mask);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* ---- Connections ---- */

static void run_reap(struct task *task)
{
    struct server *s = container_of(task, struct server, reap);
    struct connection *c;

    while ((c = LIST_FIRST(&s->forgotten))) {
        LIST_REMOVE(c, next);
        connection_free(c);
    }
    if (s->drained && LIST_EMPTY(&s->connections) && openai_is_empty(s->openai)) {
        evtimer_del(&s->drain);
        s->drained(s->worker);
        s->drained = NULL;
    }
}

void server_forget(struct server *s, struct connection *c)
{
    if (c->forgotten)
        return;
    c->forgotten = true;
    event_del(&c->readable);
    event_del(&c->writable);
    event_del(&c->watch);
    worker_cancel(s->worker, &c->flush);
    LIST_REMOVE(c, next);
    LIST_INSERT_HEAD(&s->forgotten, c, next);
    count_out(s);
    worker_defer(s->worker, &s->reap);
}

void server_count_in(struct server *s)
{
    s->n_connections++;
}

void server_count_out(struct server *s)
{
    count_out(s);
    worker_defer(s->worker, &s->reap);
}

/* ---- Draining ---- */

/* First a GOAWAY that still lets in what is on its way, then one that does not, then CANCELLED for
 * what has not ended in time, then the end for those who do not even read that. */
static void on_drain(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    struct connection *c;
    int64_t next_us = s->drain_deadline_us - worker_now_us();

    (void)fd, (void)what;
    if (!s->drained) {
        worker_rest(&s->drain);
        return;
    }
    switch (s->drain_step) {
    case DRAIN_NOTICE:
        s->drain_step = DRAIN_FINAL;
        LIST_FOREACH (c, &s->connections, next) {
            grpc_server_session_drain(c->session, true);
            connection_wake(c);
        }
        break;
    case DRAIN_FINAL:
        s->drain_step = DRAIN_CANCEL;
        log_warning(s->worker->log, "drain_timeout is over; the calls on %zu connections are cut",
                    (size_t)s->n_connections);
        LIST_FOREACH (c, &s->connections, next)
            call_shut_down(c);
        openai_shut_down(s->openai);
        next_us = DRAIN_CANCEL_US;
        break;
    case DRAIN_CANCEL:
        while ((c = LIST_FIRST(&s->connections)))
            server_forget(s, c);
        openai_cut(s->openai);
        return;
    }
    worker_arm(&s->drain, next_us);
}

static void hurry(struct server *s, int64_t deadline_us)
{
    if (deadline_us >= s->drain_deadline_us)
        return;
    s->drain_deadline_us = deadline_us;
    if (s->drain_step == DRAIN_FINAL)
        worker_arm(&s->drain, deadline_us - worker_now_us());
}

void server_drain(struct server *s, int64_t deadline_us, void (*drained)(struct worker *worker))
{
    struct connection *c;

    if (s->drained) {
        hurry(s, deadline_us);
        return;
    }
    stop_accepting(s);
    idle_done(&s->idle);
    evtimer_del(&s->accept_again);
    for (size_t i = 0; i < s->n_listeners; i++)
        close(s->listeners[i].fd);
    s->n_listeners = 0;
    openai_drain(s->openai);
    s->drained = drained;
    s->drain_deadline_us = deadline_us;
    LIST_FOREACH (c, &s->connections, next) {
        grpc_server_session_drain(c->session, false);
        call_drain(c);
        connection_wake(c);
    }
    worker_arm(&s->drain, DRAIN_NOTICE_US);
    worker_defer(s->worker, &s->reap);
}

/* ---- Nobody there ---- */

void server_exit_when_idle(struct server *s, void (*expired)(void *user), void *user)
{
    s->idle.expired = expired;
    s->idle.user = user;
    server_configure(s);
}

bool server_is_used(const struct server *s, int64_t *ret_since_us)
{
    const struct connection *c;

    *ret_since_us = 0;
    LIST_FOREACH (c, &s->connections, next) {
        if (!connection_is_only_watching(c))
            return true;
        if (c->used_us > *ret_since_us)
            *ret_since_us = c->used_us;
    }
    return !openai_is_empty(s->openai);
}

bool server_has_waiting(const struct server *s)
{
    for (size_t i = 0; i < s->n_listeners; i++) {
        struct pollfd pfd = {.fd = s->listeners[i].fd, .events = POLLIN};
        if (poll(&pfd, 1, 0) != 0)
            return true;
    }
    return openai_has_waiting(s->openai);
}

/* ---- Life ---- */

size_t server_connections_max(size_t n_workers)
{
    size_t kept = DESCRIPTORS_KEPT + (n_workers - 1) * DESCRIPTORS_OF_WORKER;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return 65536;
    /* Each connection may need one upstream. */
    return limit.rlim_cur > 2 * kept ? (limit.rlim_cur - kept) / 2 : DESCRIPTORS_KEPT / 2;
}

void server_configure(struct server *s)
{
    const struct config *c = s->worker->config;

    s->limits = (struct server_limits){CONFIG_INFINITY, CONFIG_INFINITY, CONFIG_INFINITY};
    if (c)
        s->limits = (struct server_limits){
            .first_byte_us = c->caller_first_byte_timeout_us,
            .request_us = c->caller_request_timeout_us,
            .stall_us = c->caller_stall_timeout_us,
        };
    idle_configure(&s->idle, c ? c->idle_exit_us : CONFIG_INFINITY);
}

int server_new(struct worker *worker, const int *fds, size_t n_fds, struct server **ret)
{
    struct server *s = calloc(1, sizeof *s);

    if (!s || !(s->listeners = calloc(n_fds ? n_fds : 1, sizeof *s->listeners))) {
        free(s);
        return -ENOMEM;
    }
    s->worker = worker;
    idle_init(&s->idle, s);
    server_configure(s);
    s->reap.run = run_reap;
    LIST_INIT(&s->connections);
    LIST_INIT(&s->forgotten);
    evtimer_assign(&s->accept_again, worker->base, on_accept_again, s);
    evtimer_assign(&s->drain, worker->base, on_drain, s);
    /* Both are needed when memory is short. */
    if (worker_rest(&s->accept_again) < 0 || worker_rest(&s->drain) < 0) {
        server_free(s);
        return -ENOMEM;
    }
    for (size_t i = 0; i < n_fds; i++) {
        struct listener *l = &s->listeners[s->n_listeners++];
        l->server = s;
        l->fd = fds[i];
        evutil_make_socket_nonblocking(l->fd);
        event_assign(&l->event, worker->base, l->fd, EV_READ | EV_PERSIST, on_acceptable, l);
    }
    start_accepting(s);
    *ret = s;
    return 0;
}

struct server *server_free(struct server *s)
{
    struct connection *c;

    if (!s)
        return NULL;
    stop_accepting(s);
    idle_done(&s->idle);
    for (size_t i = 0; i < s->n_listeners; i++)
        close(s->listeners[i].fd);
    s->drained = NULL;
    openai_free(s->openai);
    while ((c = LIST_FIRST(&s->connections)))
        server_forget(s, c);
    worker_cancel(s->worker, &s->reap);
    run_reap(&s->reap);
    evtimer_del(&s->accept_again);
    evtimer_del(&s->drain);
    free(s->listeners);
    free(s);
    return NULL;
}
