/*
 * One caller's connection: the socket and the gRPC session on it. Owns both, and the calls through
 * the session. Reads what is there, writes what the session has once at the end of each turn.
 *
 * A caller that does not send what it has begun, or does not take what waits for it, is watched by
 * a timer that looks a few times within each limit (struct server_limits): what is overdue ends,
 * calls one by one where the connection is still of use. A caller that owes nothing may stay idle
 * for ever, and costs no timer.
 */
#ifndef CONNECTION_H
#define CONNECTION_H

#include <stdbool.h>
#include <sys/queue.h>

#include "../proto/memory.h"
#include "admission.h"
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
    struct event readable, writable, watch;
    struct task flush;
    struct memory memory; /* of all that is kept for this caller's sake */
    struct grpc_server_session *session;
    struct caller caller;
    struct account *account; /* a reference */
    LIST_HEAD(, call) calls; /* not owned: they end with the session's */
    enum admission_verdict verdict;
    int64_t accepted_us;
    int64_t used_us;    /* when its last call began, or ended if it is watching */
    size_t n_watches;   /* calls that stand to be told of the daemon's health */
    int64_t blocked_us; /* since when the socket takes nothing; -1: not known yet */
    bool watching;      /* the timer is armed */
    bool heard;         /* a byte came */
    bool told;          /* that it is refused */
    bool forgotten;     /* on its way to connection_free() */
    bool half_closed;   /* the caller sends no more */
    bool broken;        /* write what there is, then close */
};

/* Takes over the descriptor, on failure too. 0 or negative errno; -EUSERS: the caller's user has
 * its share and more. */
int connection_new(struct server *server, int fd, struct connection **ret);

/* Ends its calls and closes the socket. Not from a callback of its session. */
void connection_free(struct connection *c);

/* Nothing goes on but watches: nobody would miss the daemon. */
bool connection_is_only_watching(const struct connection *c);

/* The session has something to send, or may be done: looked after at the end of the turn. */
void connection_wake(struct connection *c);

#endif
