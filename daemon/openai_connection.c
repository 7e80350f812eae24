#include "openai_connection.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "config.h"
#include "log.h"
#include "openai_internal.h"
#include "server.h"

enum {
    HIGH_WATER_BYTES = 65536,
    LOW_WATER_BYTES = 32768,
    REFUSED_US = 2000000, /* for as long as a refused connection may stay */
    LATE_US = 1000000,    /* for as long as one that says nothing may keep a drain waiting */
    WATCHES_PER_LIMIT = 4,
    WATCH_MIN_US = 10000,
    WATCH_MAX_US = 5000000,
    LINE_BYTES = 128, /* what a header takes beside its bytes */
    EXTENTS_MAX = 16,
};

void openai_connection_wake(struct openai_connection *c)
{
    if (c->http)
        worker_defer(c->worker, &c->look);
}

void openai_connection_cut(struct openai_connection *c)
{
    c->cut = true;
    openai_connection_wake(c);
}

/* ---- Callers who keep us waiting ---- */

static bool is_past(int64_t since_us, int64_t limit_us, int64_t now_us)
{
    return limit_us != CONFIG_INFINITY && now_us - since_us >= limit_us;
}

static bool needs_watching(const struct openai_connection *c)
{
    return !c->heard || c->verdict == ADMISSION_REFUSED || c->refused_us >= 0 ||
           c->request_since_us >= 0 || evbuffer_get_length(openai_output_of(c)) > 0;
}

void openai_connection_watch(struct openai_connection *c)
{
    const struct server_limits *l = &c->worker->server->limits;
    int64_t in_us = WATCH_MAX_US * WATCHES_PER_LIMIT;

    if (c->watching || !needs_watching(c))
        return;
    in_us = l->first_byte_us < in_us ? l->first_byte_us : in_us;
    in_us = l->request_us < in_us ? l->request_us : in_us;
    in_us = l->stall_us < in_us ? l->stall_us : in_us;
    if ((c->verdict == ADMISSION_REFUSED || c->refused_us >= 0) && REFUSED_US < in_us)
        in_us = REFUSED_US;
    in_us /= WATCHES_PER_LIMIT;
    if (worker_arm(&c->watch, in_us > WATCH_MIN_US ? in_us : WATCH_MIN_US) < 0)
        openai_connection_cut(c);
    else
        c->watching = true;
}

static void close_overdue(struct openai_connection *c, const char *limit, const char *reason)
{
    log_debug(c->worker->log, "HTTP connection closed: uid=%u limit=%s", c->caller.uid, limit);
    openai_exchange_abandon(c, reason);
    openai_connection_cut(c);
}

/* It may go on sending what nobody reads any more, within the limit of a request. */
static void watch_refused(struct openai_connection *c, int64_t now_us)
{
    const struct server_limits *l = &c->worker->server->limits;

    if (c->blocked_us >= 0 ? is_past(c->blocked_us, l->stall_us, now_us)
                           : is_past(c->refused_us, REFUSED_US, now_us) ||
                                 is_past(c->request_since_us, l->request_us, now_us))
        openai_connection_cut(c);
}

static void on_watch(evutil_socket_t fd, short what, void *user)
{
    struct openai_connection *c = user;
    const struct server_limits *l = &c->worker->server->limits;
    int64_t now_us = worker_now_us();

    (void)fd, (void)what;
    c->watching = false;
    if (evbuffer_get_length(openai_output_of(c)) == 0)
        c->blocked_us = -1;
    else if (c->blocked_us < 0)
        c->blocked_us = now_us;
    if (c->refused_us >= 0)
        watch_refused(c, now_us);
    else if (!c->heard && openai_is_draining(c->openai) && is_past(c->accepted_us, LATE_US, now_us))
        openai_connection_cut(c);
    else if (c->verdict == ADMISSION_REFUSED && is_past(c->accepted_us, REFUSED_US, now_us))
        openai_connection_cut(c);
    else if (!c->heard && is_past(c->accepted_us, l->first_byte_us, now_us))
        close_overdue(c, "caller_first_byte_timeout", "CALLER_GONE");
    else if (c->blocked_us >= 0 && is_past(c->blocked_us, l->stall_us, now_us))
        close_overdue(c, "caller_stall_timeout", "CALLER_STALLED");
    else if (c->request_since_us >= 0 && c->blocked_us >= 0)
        c->request_since_us = now_us; /* it is not read before the answer to the last is taken */
    else if (c->request_since_us >= 0 && is_past(c->request_since_us, l->request_us, now_us))
        openai_refuse_slow_request(c);
    openai_connection_watch(c);
}

void openai_connection_drain(struct openai_connection *c)
{
    if (!c->heard)
        worker_arm(&c->watch, LATE_US);
    openai_connection_wake(c);
}

/* ---- What comes and what goes ---- */

/* What comes of the n bytes from `from` on. */
static size_t cost_of(const struct openai_connection *c, size_t from, size_t n)
{
    struct evbuffer_iovec extents[EXTENTS_MAX];
    struct evbuffer_ptr start;
    size_t cost = n, left = n;

    if (n == 0 || evbuffer_ptr_set(openai_input_of(c), &start, from, EVBUFFER_PTR_SET) < 0)
        return cost;
    int n_extents = evbuffer_peek(openai_input_of(c), (ev_ssize_t)n, &start, extents, EXTENTS_MAX);
    for (int i = 0; i < n_extents && i < EXTENTS_MAX && left > 0; i++) {
        const char *p = extents[i].iov_base;
        size_t len = extents[i].iov_len < left ? extents[i].iov_len : left;
        for (const char *end = p + len; (p = memchr(p, '\n', (size_t)(end - p))); p++)
            cost += LINE_BYTES;
        left -= len;
    }
    return cost;
}

static void begin_request(struct openai_connection *c)
{
    c->request_since_us = worker_now_us();
    c->n_refused = event_memory_n_refused();
}

/* Bytes that libevent has read; it takes them out again when it has a line, or a body. They, and
 * what it makes of headers, are paid for until the request that they belong to is done with. */
static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *info, void *user)
{
    struct openai_connection *c = user;

    if (info->n_added == 0 || c->refused_us >= 0)
        return;
    size_t cost = info->n_added;
    if (c->came_bytes < OPENAI_HEADERS_MAX_BYTES)
        cost = cost_of(c, evbuffer_get_length(input) - cost, cost);
    c->heard = true;
    if (c->request_since_us < 0 && !openai_is_answering(c))
        begin_request(c);
    c->came_bytes += info->n_added;
    if (memory_charge(&c->memory, cost))
        c->held_bytes += cost;
    else
        c->over_memory = true;
    openai_connection_wake(c);
}

/* evhttp says "100 Continue" by itself, which is well, and that a request is malformed. */
static void on_output(struct evbuffer *output, const struct evbuffer_cb_info *info, void *user)
{
    struct openai_connection *c = user;
    size_t length = evbuffer_get_length(output);

    if (info->n_added > 0 && !openai_is_answering(c) && !c->is_sending && c->refused_us < 0)
        event_active(&c->foreign, EV_TIMEOUT, 0);
    if (info->n_deleted > 0) {
        size_t n =
            length == 0 || info->n_deleted > c->output_bytes ? c->output_bytes : info->n_deleted;
        c->blocked_us = -1;
        c->output_bytes -= n;
        memory_release(&c->memory, n);
    }
    if (!c->watching || (info->n_deleted > 0 && length < LOW_WATER_BYTES))
        openai_connection_wake(c);
}

int openai_connection_charge_output(struct openai_connection *c, size_t n)
{
    if (!memory_charge(&c->memory, n))
        return -EDQUOT;
    c->output_bytes += n;
    return 0;
}

void openai_connection_push_output(struct openai_connection *c)
{
    /* evhttp has done so, and does not look at what came of it. */
    if (bufferevent_enable(c->bev, EV_READ | EV_WRITE) < 0)
        openai_connection_cut(c);
}

bool openai_connection_is_full(const struct openai_connection *c)
{
    return evbuffer_get_length(openai_output_of(c)) >= HIGH_WATER_BYTES;
}

void openai_connection_release_input(struct openai_connection *c, size_t n)
{
    n = n < c->held_bytes ? n : c->held_bytes;
    memory_release(&c->memory, n);
    c->held_bytes -= n;
}

void openai_connection_begin_exchange(struct openai_connection *c)
{
    bufferevent_data_cb written;
    bufferevent_event_cb broken;
    void *user;

    struct policy policy = policy_find(c->worker->config, &c->caller);

    c->request_since_us = -1;
    /* For the next, as the configuration is now. */
    openai_limit_requests(c, &policy);
    bufferevent_setwatermark(c->bev, EV_READ, 0, OPENAI_AHEAD_MAX_BYTES);
    bufferevent_getcb(c->bev, NULL, &written, &broken, &user);
    bufferevent_setcb(c->bev, NULL, written, broken, user);
    if (bufferevent_enable(c->bev, EV_READ) < 0)
        openai_connection_cut(c);
}

void openai_connection_end_exchange(struct openai_connection *c)
{
    size_t ahead = evbuffer_get_length(openai_input_of(c)), cost = cost_of(c, 0, ahead);

    c->came_bytes = ahead;
    openai_connection_release_input(c, c->held_bytes);
    c->over_memory = !memory_charge(&c->memory, cost);
    if (!c->over_memory)
        c->held_bytes = cost;
    if (ahead > 0)
        begin_request(c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, c->max_request_bytes);
}

/* ---- Life ---- */

/* Between two requests. */
static bool is_at_rest(const struct openai_connection *c)
{
    return c->heard && !openai_is_answering(c) && c->refused_us < 0 && c->request_since_us < 0 &&
           evbuffer_get_length(openai_output_of(c)) == 0;
}

static void run_look(struct task *task)
{
    struct openai_connection *c = container_of(task, struct openai_connection, look);

    if (!openai_is_answering(c) && c->over_memory)
        openai_refuse_for_memory(c);
    else if (!openai_is_answering(c) && openai_has_lost_request(c))
        openai_refuse_for_want(c);
    if (!c->cut)
        openai_exchange_look(c);
    if (!c->http)
        return;
    if (c->cut || (openai_is_draining(c->openai) && is_at_rest(c)))
        evhttp_connection_free(c->http);
    else
        openai_connection_watch(c);
}

static void run_release(struct task *task)
{
    free(container_of(task, struct openai_connection, release));
}

struct openai_connection *openai_connection_new(struct openai *o)
{
    struct openai_connection *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->openai = o;
    c->worker = openai_worker(o);
    c->look.run = run_look;
    c->release.run = run_release;
    c->verdict = ADMISSION_DROPPED;
    c->request_since_us = c->blocked_us = c->refused_us = -1;
    evtimer_assign(&c->watch, c->worker->base, on_watch, c);
    evtimer_assign(&c->foreign, c->worker->base, openai_on_foreign, c);
    return c;
}

void openai_connection_set_bev(struct openai_connection *c, struct bufferevent *bev)
{
    c->bev = bev;
    bufferevent_incref(bev);
    c->accepted_us = worker_now_us();
}

static void on_http_closed(struct evhttp_connection *http, void *user)
{
    (void)http;
    openai_connection_end(user, "CALLER_GONE");
}

void openai_connection_adopt(struct openai_connection *c)
{
    void *user;

    bufferevent_getcb(c->bev, NULL, NULL, NULL, &user);
    c->http = user;
    if (!c->http) {
        /* It could not be polled. evhttp has closed the descriptor, and the bufferevent would do so
         * again. */
        bufferevent_setfd(c->bev, -1);
        openai_connection_end(c, NULL);
        return;
    }
    evhttp_connection_set_closecb(c->http, on_http_closed, c);
    int r = openai_look_at_caller(c);
    openai_add(c->openai, c);
    if (r < 0 || openai_enter(c) < 0 || !evbuffer_add_cb(openai_input_of(c), on_input, c) ||
        !evbuffer_add_cb(openai_output_of(c), on_output, c)) {
        evhttp_connection_free(c->http);
        return;
    }
    openai_connection_watch(c);
}

void openai_connection_end(struct openai_connection *c, const char *reason)
{
    openai_exchange_abandon(c, reason);
    if (c->http)
        openai_remove(c->openai, c);
    c->http = NULL;
    evbuffer_remove_cb(openai_input_of(c), on_input, c);
    evbuffer_remove_cb(openai_output_of(c), on_output, c);
    bufferevent_decref(c->bev);
    evtimer_del(&c->watch);
    evtimer_del(&c->foreign);
    openai_leave(c);
    memory_release(&c->memory, c->memory.used);
    account_unref(c->account);
    caller_done(&c->caller);
    worker_cancel(c->worker, &c->look);
    worker_defer(c->worker, &c->release);
}
