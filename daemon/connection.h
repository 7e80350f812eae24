/*
 * One caller's connection: the socket and the gRPC session on it. Owns both, and the calls through
 * the session. Reads what is there, writes what the session has once at the end of each turn.
 */
#ifndef CONNECTION_H
#define CONNECTION_H

#include <stdbool.h>
#include <sys/queue.h>

#include "../proto/memory.h"
#include "policy.h"
#include "worker.h"

struct account;
struct call;
struct grpc_server_session;
struct server;

struct connection {
    LIST_ENTRY(connection) next; /* among the server's */
    struct server *server;
    struct worker *worker;
    int fd;
    struct event readable, writable;
    struct task flush;
    struct memory memory; /* of all that is kept for this caller's sake */
    struct grpc_server_session *session;
    struct caller caller;
    struct account *account; /* a reference */
    LIST_HEAD(, call) calls; /* not owned: they end with the session's */
    bool forgotten;          /* on its way to connection_free() */
    bool half_closed;        /* the caller sends no more */
    bool broken;             /* write what there is, then close */
};

/* Takes over the descriptor, on failure too. 0 or negative errno. */
int connection_new(struct server *server, int fd, struct connection **ret);

/* Ends its calls and closes the socket. Not from a callback of its session. */
void connection_free(struct connection *c);

/* The session has something to send, or may be done: looked after at the end of the turn. */
void connection_wake(struct connection *c);

#endif
