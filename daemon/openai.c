/*
 * evhttp accepts by itself, and would spin when descriptors run out. So each listening socket has
 * an event of ours beside evhttp's listener, which is let loose for one turn when somebody comes.
 * If nothing comes of it, both rest for a tenth of a second.
 */
#include "openai.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "call.h"
#include "crew.h"
#include "event_memory.h"
#include "openai_connection.h"
#include "openai_internal.h"
#include "secret.h"
#include "server.h"
#include "worker.h"

enum {
    ACCEPTS_PER_TURN = 64,
    ACCEPTS_PER_TURN_OF_MANY = 4, /* workers */
    HOLD_BACK_US = 1000,
    LOOKS_MAX = 3,
    ACCEPT_AGAIN_US = 100000,
    N_BUCKETS = 256,
    STRANGERS_MAX = 64,
};

LIST_HEAD(connection_list, openai_connection);

struct gate {
    struct openai *openai;
    int fd;
    struct event acceptable;
    struct evconnlistener *listener; /* evhttp's, mostly shut */
    struct evhttp_bound_socket *bound;
};

struct openai {
    struct worker *worker;
    struct evhttp *http;
    struct gate *gates;
    size_t n_gates;
    struct connection_list connections;
    TAILQ_HEAD(, openai_connection) fresh;     /* not adopted yet */
    struct connection_list buckets[N_BUCKETS]; /* all of the former, by evhttp's connection */
    unsigned n_fresh;
    TAILQ_HEAD(, openai_connection) strangers; /* in the order of their coming */
    size_t n_strangers;
    struct secret *token;            /* NULL: none */
    struct openai_connection *spare; /* for the next to come; NULL: there was no memory */
    struct event adopt, shut;
    unsigned n_looks; /* of ours since a listener was let loose; 0: none is */
    bool holds_back;  /* to see whether another worker takes who has come */
    bool draining;
};

struct worker *openai_worker(const struct openai *o)
{
    return o->worker;
}

const struct secret *openai_token(const struct openai *o)
{
    return o->token;
}

bool openai_is_draining(const struct openai *o)
{
    return o->draining;
}

/* ---- Connections ---- */

static struct connection_list *bucket_of(struct openai *o, const struct evhttp_connection *http)
{
    return &o->buckets[(uintptr_t)http / 64 % N_BUCKETS];
}

void openai_know(struct openai *o, struct openai_connection *c)
{
    if (!c->is_stranger)
        return;
    c->is_stranger = false;
    TAILQ_REMOVE(&o->strangers, c, arrival);
    o->n_strangers--;
}

void openai_add(struct openai *o, struct openai_connection *c)
{
    LIST_INSERT_HEAD(&o->connections, c, next);
    LIST_INSERT_HEAD(bucket_of(o, c->http), c, bucket);
    server_count_in(o->worker->server);
    if (!c->is_stranger)
        return;
    /* Anybody may connect: the places are for those who come last, and show a token at once. */
    TAILQ_INSERT_TAIL(&o->strangers, c, arrival);
    if (++o->n_strangers > STRANGERS_MAX) {
        struct openai_connection *first = TAILQ_FIRST(&o->strangers);
        openai_know(o, first);
        openai_connection_cut(first);
    }
}

void openai_remove(struct openai *o, struct openai_connection *c)
{
    openai_know(o, c);
    LIST_REMOVE(c, next);
    LIST_REMOVE(c, bucket);
    server_count_out(o->worker->server);
}

/* NULL: there was no memory for one when it was accepted. */
static struct openai_connection *find(struct openai *o, const struct evhttp_connection *http)
{
    struct openai_connection *c;

    LIST_FOREACH (c, bucket_of(o, http), bucket)
        if (c->http == http)
            return c;
    return NULL;
}

static void on_request(struct evhttp_request *request, void *user)
{
    struct openai_connection *c = find(user, evhttp_request_get_connection(request));

    if (c) {
        openai_exchange_begin(c, request);
        return;
    }
    evhttp_add_header(evhttp_request_get_output_headers(request), "Connection", "close");
    evhttp_send_reply(request, 503, "Service Unavailable", NULL);
}

/* ---- Accepting ---- */

static void stop_accepting(struct openai *o)
{
    for (size_t i = 0; i < o->n_gates; i++) {
        event_del(&o->gates[i].acceptable);
        evconnlistener_disable(o->gates[i].listener);
    }
}

/* Shuts evhttp's listeners, and waits for the next to come. */
static void await_callers(struct openai *o)
{
    o->n_looks = 0;
    worker_rest(&o->shut);
    for (size_t i = 0; i < o->n_gates; i++) {
        evconnlistener_disable(o->gates[i].listener);
        if (event_add(&o->gates[i].acceptable, NULL) < 0)
            worker_arm(&o->shut, ACCEPT_AGAIN_US);
    }
}

static void rest_from_accepting(struct openai *o, int64_t for_us)
{
    stop_accepting(o);
    worker_arm(&o->shut, for_us);
}

/* There is memory for one more connection, whatever comes. */
static bool can_accept(struct openai *o)
{
    if (!o->spare)
        o->spare = openai_connection_new(o);
    return o->spare && event_memory_reserve();
}

static bool another_has_fewer(const struct openai *o)
{
    const struct crew *crew = o->worker->crew;
    size_t n = o->worker->server->n_connections;

    for (size_t i = 0; i < crew->n_workers; i++)
        if (crew_worker(crew, i)->server->n_connections < n)
            return true;
    return false;
}

static void on_acceptable(evutil_socket_t fd, short what, void *user)
{
    struct gate *g = user;
    struct openai *o = g->openai;

    (void)fd, (void)what;
    if (o->n_looks > 0) {
        /* In the turn of the listener itself, or it could do nothing. */
        if (++o->n_looks > LOOKS_MAX)
            rest_from_accepting(o, ACCEPT_AGAIN_US);
        return;
    }
    if (!o->holds_back && another_has_fewer(o)) {
        o->holds_back = true;
        rest_from_accepting(o, HOLD_BACK_US);
        return;
    }
    o->holds_back = false;
    if (!can_accept(o) || evconnlistener_enable(g->listener) < 0)
        rest_from_accepting(o, ACCEPT_AGAIN_US);
    else
        o->n_looks = 1;
}

/* Nothing came of it: nobody could be accepted, or another worker was faster. */
static void on_shut(evutil_socket_t fd, short what, void *user)
{
    struct openai *o = user;

    (void)fd, (void)what;
    if (!o->holds_back && openai_has_waiting(o))
        server_complain(o->worker->server, "no HTTP connection can be accepted at the moment: "
                                           "there is no descriptor or no memory for it");
    await_callers(o);
}

/* evhttp's user pointer comes with it, and ours can't be found: on_shut() goes on. */
static void on_accept_error(struct evconnlistener *listener, void *user)
{
    (void)user;
    evconnlistener_disable(listener);
}

/* A connection has been accepted, and evhttp asks for its bufferevent. */
static struct bufferevent *on_accepted(struct event_base *base, void *user)
{
    struct openai *o = user;
    struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    unsigned n_max = o->worker->crew->n_workers > 1 ? ACCEPTS_PER_TURN_OF_MANY : ACCEPTS_PER_TURN;

    if (bev) {
        openai_connection_set_bev(o->spare, bev);
        TAILQ_INSERT_TAIL(&o->fresh, o->spare, arrival);
        o->spare = NULL;
        event_active(&o->adopt, EV_TIMEOUT, 0);
    }
    if (++o->n_fresh >= n_max || !can_accept(o))
        for (size_t i = 0; i < o->n_gates; i++)
            evconnlistener_disable(o->gates[i].listener);
    return bev;
}

/* Before anything is read from them. */
static void on_adopt(evutil_socket_t fd, short what, void *user)
{
    struct openai *o = user;
    struct openai_connection *c;

    (void)fd, (void)what;
    o->n_fresh = 0;
    while ((c = TAILQ_FIRST(&o->fresh))) {
        TAILQ_REMOVE(&o->fresh, c, arrival);
        openai_connection_adopt(c);
    }
    if (!o->draining)
        await_callers(o);
}

/* ---- Draining ---- */

static void close_gates(struct openai *o, bool close_them)
{
    stop_accepting(o);
    evtimer_del(&o->shut);
    for (size_t i = 0; i < o->n_gates; i++) {
        evhttp_del_accept_socket(o->http, o->gates[i].bound);
        if (close_them)
            close(o->gates[i].fd);
    }
    o->n_gates = 0;
}

void openai_drain(struct openai *o)
{
    struct openai_connection *c;

    if (!o || o->draining)
        return;
    o->draining = true;
    close_gates(o, true);
    LIST_FOREACH (c, &o->connections, next)
        openai_connection_drain(c);
}

void openai_shut_down(struct openai *o)
{
    struct openai_connection *c;

    if (!o)
        return;
    LIST_FOREACH (c, &o->connections, next)
        if (c->exchange.call)
            call_shut_down_one(c->exchange.call);
}

void openai_cut(struct openai *o)
{
    struct openai_connection *c;

    if (!o)
        return;
    LIST_FOREACH (c, &o->connections, next)
        openai_connection_cut(c);
}

bool openai_is_empty(const struct openai *o)
{
    return !o || (LIST_EMPTY(&o->connections) && TAILQ_EMPTY(&o->fresh));
}

bool openai_has_waiting(const struct openai *o)
{
    for (size_t i = 0; o && i < o->n_gates; i++) {
        struct pollfd pfd = {.fd = o->gates[i].fd, .events = POLLIN};
        if (poll(&pfd, 1, 0) != 0)
            return true;
    }
    return false;
}

/* ---- Life ---- */

/* Methods that are not here evhttp refuses by itself; see on_foreign(). */
enum {
    METHODS = EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
              EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH | EVHTTP_REQ_TRACE
};

/* The descriptor becomes the listener's. */
static int open_gate(struct openai *o, struct gate *g, int fd)
{
    evutil_make_socket_nonblocking(fd);
    g->openai = o;
    g->fd = fd;
    g->listener = evconnlistener_new(o->worker->base, NULL, NULL,
                                     LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED, 0, fd);
    if (!g->listener)
        return -ENOMEM;
    g->bound = evhttp_bind_listener(o->http, g->listener);
    if (!g->bound) {
        evconnlistener_free(g->listener);
        return -ENOMEM;
    }
    evconnlistener_set_error_cb(g->listener, on_accept_error);
    event_assign(&g->acceptable, o->worker->base, fd, EV_READ | EV_PERSIST, on_acceptable, g);
    o->n_gates++;
    return 0;
}

static void set_up(struct openai *o)
{
    evhttp_set_max_headers_size(o->http, OPENAI_HEADERS_MAX_BYTES);
    evhttp_set_max_body_size(o->http, OPENAI_BODY_MAX_BYTES);
    evhttp_set_allowed_methods(o->http, METHODS);
    evhttp_set_default_content_type(o->http, NULL);
    evhttp_set_bevcb(o->http, on_accepted, o);
    evhttp_set_gencb(o->http, on_request, o);
}

int openai_new(struct worker *worker, const int *fds, size_t n_fds, struct secret *token,
               struct openai **ret)
{
    struct openai *o = calloc(1, sizeof *o);
    int r = -ENOMEM;

    if (!o)
        return r;
    o->worker = worker;
    evtimer_assign(&o->adopt, worker->base, on_adopt, o);
    TAILQ_INIT(&o->fresh);
    TAILQ_INIT(&o->strangers);
    evtimer_assign(&o->shut, worker->base, on_shut, o);
    o->gates = calloc(n_fds ? n_fds : 1, sizeof *o->gates);
    o->http = evhttp_new(worker->base);
    if (o->gates && o->http) {
        set_up(o);
        r = worker_rest(&o->shut);
    }
    for (size_t i = 0; r == 0 && i < n_fds; i++)
        r = open_gate(o, &o->gates[i], fds[i]);
    if (r < 0) {
        close_gates(o, false);
        openai_free(o);
        return r;
    }
    await_callers(o);
    o->token = token;
    *ret = o;
    return 0;
}

struct openai *openai_free(struct openai *o)
{
    if (!o)
        return NULL;
    close_gates(o, true);
    o->draining = true;
    if (o->http)
        evhttp_free(o->http);
    evtimer_del(&o->adopt);
    on_adopt(-1, 0, o);
    free(o->spare);
    event_memory_release();
    secret_free(o->token);
    free(o->gates);
    free(o);
    return NULL;
}
