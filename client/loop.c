/*
 * The one core of all calls, blocking or not: a client's calls and connections in motion.
 *
 * client_turn() is all that happens without bytes from the daemon, and channel_read() all that
 * happens with them. completion_client_process() calls both and then the callbacks; functions that
 * block call both and wait between them. What a session finds out about a call arrives at
 * on_ready(), in the middle of the session's work: it only puts the call into a queue.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "internal.h"

enum { BACKLOG_MS = 5, BACKOFF_MIN_MS = 10, BACKOFF_MAX_MS = 1000 };

bool client_is_ours(const completion_client *c)
{
    return c->pid == getpid();
}

static void on_ready(struct grpc_client_call *grpc, void *user)
{
    (void)grpc;
    call_is_ready(user);
}

/* ---- Connecting ---- */

static void fail_unsent(completion_client *c, int r, enum call_why why, uid_t stranger)
{
    completion_call *call;

    while ((call = TAILQ_FIRST(&c->unsent))) {
        call->stranger = stranger;
        call_end(call, r, why);
    }
}

/* Nobody listens: calls that have waited long enough fail, and the others wait on. */
static void be_patient(completion_client *c, int r, int64_t now)
{
    completion_call *call, *next;
    unsigned ms = c->backoff_ms ? 2 * c->backoff_ms : BACKOFF_MIN_MS;

    c->backoff_ms = ms < BACKOFF_MAX_MS ? ms : BACKOFF_MAX_MS;
    c->retry_us = now + (int64_t)c->backoff_ms * 1000;
    for (call = TAILQ_FIRST(&c->unsent); call; call = next) {
        next = TAILQ_NEXT(call, queued);
        if (call->patience_us <= now)
            call_end(call, r, CALL_CONNECT);
        else if (call->patience_us < c->retry_us)
            c->retry_us = call->patience_us; /* one last time */
    }
    if (TAILQ_EMPTY(&c->unsent))
        c->backoff_ms = 0;
}

static int add_channel(completion_client *c, int fd)
{
    struct channel *channel;
    int r = channel_new(fd, on_ready, &channel);

    if (r < 0) {
        close(fd);
        return r;
    }
    if (c->epoll_fd >= 0 && (r = channel_watch(channel, c->epoll_fd)) < 0) {
        channel_free(channel);
        return r;
    }
    LIST_INSERT_HEAD(&c->channels, channel, entry);
    c->channel = channel;
    return 0;
}

/* There is something to send, and no connection for it. */
static void try_to_connect(completion_client *c)
{
    int64_t now = now_us();
    uid_t stranger = 0;

    if (now < c->retry_us)
        return;
    int fd = connect_server(c, &stranger);
    int r = fd < 0 ? fd : add_channel(c, fd);
    switch (-r) {
    case 0:
        c->backoff_ms = 0;
        c->retry_us = 0;
        break;
    case EAGAIN: /* No descriptor tells when the backlog has room. */
        c->retry_us = now + BACKLOG_MS * 1000;
        break;
    case ENOENT:
    case ECONNREFUSED:
        be_patient(c, r, now);
        break;
    default:
        fail_unsent(c, r, CALL_CONNECT, stranger);
        break;
    }
}

static void send_unsent(completion_client *c)
{
    completion_call *call;

    if (TAILQ_EMPTY(&c->unsent))
        return;
    if (c->channel) {
        /* A daemon that was restarted meanwhile has said goodbye. */
        channel_read(c->channel, true);
        if (!channel_is_open(c->channel))
            c->channel = NULL;
    }
    if (!c->channel)
        try_to_connect(c);
    while (c->channel && (call = TAILQ_FIRST(&c->unsent)))
        call_send(call, c->channel);
}

/* ---- Turns ---- */

static void expire(completion_client *c)
{
    completion_call *call;

    if (c->deadline_us == INT64_MAX)
        return;
    int64_t now = now_us(), first_us = INT64_MAX;
    if (now < c->deadline_us)
        return;
    LIST_FOREACH (call, &c->calls, entry) {
        int64_t give_up_us = call_give_up_us(call);
        if (now >= give_up_us)
            call_end(call, -ETIMEDOUT,
                     call->n_sent || c->channel ? CALL_TIMEOUT : CALL_CONNECT_TIMEOUT);
        else if (give_up_us < first_us)
            first_us = give_up_us;
    }
    c->deadline_us = first_us;
}

void client_write(completion_client *c)
{
    struct channel *channel, *next;

    for (channel = LIST_FIRST(&c->channels); channel; channel = next) {
        next = LIST_NEXT(channel, entry);
        channel_write(channel);
        if (channel == c->channel && !channel_is_open(channel))
            c->channel = NULL;
        if (channel == c->channel || channel->n_calls > 0)
            continue;
        LIST_REMOVE(channel, entry);
        channel_free(channel);
    }
}

void client_turn(completion_client *c)
{
    expire(c);
    send_unsent(c);
    client_write(c);
}

int64_t client_next_us(const completion_client *c)
{
    return TAILQ_EMPTY(&c->unsent) || c->deadline_us < c->retry_us ? c->deadline_us : c->retry_us;
}

/* ---- Who may call what ---- */

int client_enter(completion_client *c, int busy, completion_error *error)
{
    if (!c)
        return error_set(error, -EINVAL, COMPLETION_INVALID_ARGUMENT, "no client");
    if (!client_is_ours(c))
        return error_set(error, -ECHILD, COMPLETION_FAILED_PRECONDITION,
                         "the client was made by another process; make one after fork()");
    if (c->busy != IDLE)
        return error_set(error, -EBUSY, COMPLETION_FAILED_PRECONDITION,
                         "called from inside of a callback or hook of this client");
    c->busy = busy;
    return 0;
}

static void client_destroy(completion_client *c)
{
    completion_call *call;
    struct channel *channel;

    while ((call = LIST_FIRST(&c->calls))) {
        LIST_REMOVE(call, entry);
        call_unqueue(call);
        call->client = NULL;
        call->channel = NULL;
        if (call->why == CALL_CONNECT || call->why == CALL_CONNECT_TIMEOUT)
            call->is_ended = false;
        call_end(call, -EPIPE, CALL_FREED);
    }
    while ((channel = LIST_FIRST(&c->channels))) {
        LIST_REMOVE(channel, entry);
        channel_free(channel);
    }
    if (c->epoll_fd >= 0)
        close(c->epoll_fd);
    free(c);
}

int client_leave(completion_client *c, int r)
{
    completion_call *call, *next;

    for (call = LIST_FIRST(&c->calls); call && c->n_freed > 0; call = next) {
        next = LIST_NEXT(call, entry);
        if (!call->is_freed)
            continue;
        c->n_freed--;
        call_free(call);
    }
    c->busy = IDLE;
    if (c->is_freed) {
        client_destroy(c);
        return -ESHUTDOWN;
    }
    if (!TAILQ_EMPTY(&c->ready))
        client_wake(c);
    return r;
}

EXPORT completion_client *completion_client_free(completion_client *c)
{
    if (c && c->busy != IDLE)
        c->is_freed = true;
    else if (c)
        client_destroy(c);
    return NULL;
}

/* ---- In a program's event loop ---- */

void client_wake(completion_client *c)
{
    if (c->busy != IDLE || c->is_woken)
        return;
    c->is_woken = true;
    if (c->wake)
        c->wake(c->wake_user);
}

EXPORT void completion_client_set_wake(completion_client *c, void (*wake)(void *user), void *user)
{
    if (!c)
        return;
    bool is_due = c->is_woken || !TAILQ_EMPTY(&c->ready);
    c->wake = wake;
    c->wake_user = user;
    c->is_woken = false;
    if (is_due)
        client_wake(c);
}

EXPORT int completion_client_get_fd(completion_client *c)
{
    struct channel *channel;
    int r = 0;

    if (!c)
        return -EINVAL;
    if (!client_is_ours(c))
        return -ECHILD;
    if (c->epoll_fd >= 0)
        return c->epoll_fd;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    LIST_FOREACH (channel, &c->channels, entry)
        if (r == 0)
            r = channel_watch(channel, fd);
    if (r < 0) {
        LIST_FOREACH (channel, &c->channels, entry)
            channel->epoll_fd = -1;
        close(fd);
        return r;
    }
    c->epoll_fd = fd;
    return fd;
}

EXPORT int completion_client_get_events(const completion_client *c)
{
    return c ? EPOLLIN : 0; /* as POLLIN */
}

EXPORT int completion_client_get_timeout(const completion_client *c)
{
    if (!c)
        return -1;
    if (c->is_woken || !TAILQ_EMPTY(&c->ready))
        return 0;
    int64_t next_us = client_next_us(c);
    if (next_us == INT64_MAX)
        return -1;
    int64_t now = now_us();
    if (next_us <= now)
        return 0;
    int64_t ms = (next_us - now + 999) / 1000; /* not to be early */
    return ms < INT32_MAX ? (int)ms : INT32_MAX;
}

/* What becomes ready meanwhile is for the next time. Returns how many have something new. */
static int dispatch(completion_client *c)
{
    completion_call *call;
    int n = 0, n_ready = 0, n_new = 0;

    TAILQ_FOREACH (call, &c->ready, queued)
        n_ready++;
    for (; n < n_ready && !c->is_freed && (call = TAILQ_FIRST(&c->ready)); n++) {
        call_unqueue(call);
        if (!call_look(call))
            continue;
        n_new++;
        if (call->callback) {
            call_unqueue(call);
            call->callback(call, call->user);
        } else {
            call_queue_in(call, &c->noticed);
        }
    }
    return n_new;
}

EXPORT int completion_client_process(completion_client *c)
{
    struct channel *channel;
    int r = client_enter(c, PROCESSING, NULL);

    if (r < 0)
        return r;
    c->is_woken = false;
    LIST_FOREACH (channel, &c->channels, entry)
        channel_read(channel, false);
    expire(c);
    send_unsent(c);
    r = dispatch(c);
    if (!c->is_freed)
        client_turn(c);
    return client_leave(c, r);
}

EXPORT completion_call *completion_client_next_ready(completion_client *c)
{
    completion_call *call = c ? TAILQ_FIRST(&c->noticed) : NULL;

    if (call)
        call_unqueue(call);
    return call;
}
