/*
 * A worker's connections, and with the main thread's worker the listening sockets. Decides when to
 * accept, when a connection is freed, and when draining is over.
 */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "idle.h"
#include "worker.h"

struct connection;
struct listener;
struct openai;

/* How long a caller may take; CONFIG_INFINITY is for ever. */
struct server_limits {
    int64_t first_byte_us; /* from connecting to the first byte */
    int64_t request_us; /* from the first byte of a greeting, a frame, headers or a request to its
                           last */
    int64_t stall_us;   /* without taking any of what waits for it */
};

struct server {
    struct worker *worker;
    struct listener *listeners;
    size_t n_listeners;
    struct openai *openai; /* the front for HTTP, NULL: there is none */
    LIST_HEAD(, connection) connections;
    LIST_HEAD(, connection) forgotten; /* to be freed at the end of the turn */
    _Atomic size_t n_connections; /* and those that are given to this worker and on their way */
    struct server_limits limits;
    struct task reap;
    struct event accept_again, drain;
    struct idle idle;
    int64_t drain_deadline_us; /* while draining */
    enum { DRAIN_NOTICE, DRAIN_FINAL, DRAIN_CANCEL } drain_step;
    void (*drained)(struct worker *worker); /* nothing is left; NULL: nobody asked */
};

/* Takes over the listening descriptors, whose connections it gives to the workers of the crew, who
 * have servers of their own. 0, or negative errno and nothing is taken. */
int server_new(struct worker *worker, const int *fds, size_t n_fds, struct server **ret);

/* Takes the limits from the worker's configuration, for connections as they are and will be. */
void server_configure(struct server *s);

/* Ends everything at once. Takes NULL; returns NULL. */
struct server *server_free(struct server *s);

/* Stops accepting, lets the calls in flight end, until then on worker_now_us()'s clock (INT64_MAX:
 * for ever); what is left then ends with CANCELLED. Then `drained`. A second time it can only get
 * shorter. */
void server_drain(struct server *s, int64_t deadline_us, void (*drained)(struct worker *worker));

/* Calls `expired` when nobody has been connected, to any worker, for the configuration's idle_exit.
 * For a daemon whose sockets somebody else keeps: whoever connects from then on is served by the
 * next one. */
void server_exit_when_idle(struct server *s, void (*expired)(void *user), void *user);

/* Whether somebody needs it; if nobody does, since when, as far as its connections can tell: 0, if
 * there are none. */
bool server_is_used(const struct server *s, int64_t *ret_since_us);

/* Somebody has connected, and is not accepted yet. */
bool server_has_waiting(const struct server *s);

/* Notes that callers can't be served as they would like to be, at most once a second, whoever of
 * the workers it is that says so. */
void server_complain(struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Connections of the front for HTTP, which count as others do. */
void server_count_in(struct server *s);
void server_count_out(struct server *s);

/* A connection is over: it is freed at the end of the turn. */
void server_forget(struct server *s, struct connection *c);

/* How many connections descriptors allow so many workers. */
size_t server_connections_max(size_t n_workers);

/* Opens a listening socket at the path: directories are not made, a socket that nobody listens on
 * is replaced. The descriptor, or negative errno: -EADDRINUSE if somebody listens. */
int server_listen(const char *path);

#endif
