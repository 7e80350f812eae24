/*
 * The listening sockets and the connections accepted from them. Decides when to accept, when a
 * connection is freed, and when draining is over.
 */
#ifndef SERVER_H
#define SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

#include "worker.h"

struct connection;
struct listener;

struct server {
    struct worker *worker;
    struct listener *listeners;
    size_t n_listeners;
    LIST_HEAD(, connection) connections;
    LIST_HEAD(, connection) forgotten; /* to be freed at the end of the turn */
    size_t n_connections, max_connections;
    struct task reap;
    struct event accept_again, drain;
    int64_t last_complaint_us;
    int64_t drain_deadline_us; /* while draining */
    enum { DRAIN_NOTICE, DRAIN_FINAL, DRAIN_CANCEL } drain_step;
    void (*drained)(struct worker *worker); /* nothing is left; NULL: nobody asked */
};

/* Takes over the listening descriptors. 0, or negative errno and nothing is taken. */
int server_new(struct worker *worker, const int *fds, size_t n_fds, struct server **ret);
/* Ends everything at once. Takes NULL; returns NULL. */
struct server *server_free(struct server *s);

/* Stops accepting, lets the calls in flight end, for timeout_us at most; what is left then ends
 * with CANCELLED. Then `drained`. */
void server_drain(struct server *s, int64_t timeout_us, void (*drained)(struct worker *worker));

/* A connection is over: it is freed at the end of the turn. */
void server_forget(struct server *s, struct connection *c);

/* Opens a listening socket at the path: directories are not made, a socket that nobody listens on
 * is replaced. The descriptor, or negative errno: -EADDRINUSE if somebody listens. */
int server_listen(const char *path);

#endif
