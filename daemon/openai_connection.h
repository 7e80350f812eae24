/*
 * One connection of a caller that speaks HTTP. evhttp owns the socket, and with it the life of
 * this: what evhttp does not know is here. That is who the caller is and what it costs, how long it
 * may take, and answers where evhttp would give none, or a page of HTML.
 *
 * Facts about libevent 2.1.12 that this stands on:
 * - The bufferevent of a connection is ours (evhttp_set_bevcb()), made before there is a socket.
 *   Its callbacks' argument is the evhttp_connection, until that is freed.
 * - evhttp stops reading while a request is answered, and so does not see a caller go; reading
 *   with no read callback, as it does itself while it writes, shows the end and nothing else. With
 *   its read callback there, a byte would end the process ("illegal connection state").
 * - A turn of the loop may poll several times. What must be done before the socket is looked at
 *   again is an event that is made active: those come first.
 * - A connection that breaks while a request is in our hands leaves us the request, which has no
 *   connection any more then, to be freed.
 */
#ifndef OPENAI_CONNECTION_H
#define OPENAI_CONNECTION_H

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "../proto/memory.h"
#include "admission.h"
#include "openai_exchange.h"
#include "policy.h"
#include "worker.h"

struct account;
struct bufferevent;
struct evhttp_connection;
struct openai;

struct openai_connection {
    LIST_ENTRY(openai_connection) next;     /* among the front's */
    LIST_ENTRY(openai_connection) bucket;   /* by evhttp's connection */
    TAILQ_ENTRY(openai_connection) arrival; /* among the fresh, then the strangers */
    struct openai *openai;
    struct worker *worker;
    struct bufferevent *bev;        /* a reference */
    struct evhttp_connection *http; /* evhttp's; NULL until it is adopted and once it is gone */
    struct event watch, foreign;
    struct task look, release;
    struct memory memory; /* of all that is kept for this caller's sake */
    struct caller caller;
    struct account *account; /* a reference */
    enum admission_verdict verdict;
    bool is_tcp;      /* the kernel does not know the caller */
    bool is_stranger; /* it must show a token, and has not done so */
    size_t max_request_bytes;
    size_t came_bytes;   /* of the request that is on its way, and behind it */
    size_t held_bytes;   /* charged for that */
    size_t output_bytes; /* charged for what is to be sent */
    int64_t accepted_us;
    int64_t request_since_us; /* since when a request is on its way; -1: none is */
    int64_t blocked_us;       /* since when the caller takes nothing; -1: not known yet */
    int64_t refused_us;       /* it is at its end: when a byte came last, unheard; -1: it is not */
    unsigned long n_refused;  /* event_memory_n_refused() before the request */
    bool heard;               /* a byte came */
    bool watching;            /* the timer is armed */
    bool over_memory;         /* what came can't be kept */
    bool is_sending;          /* evhttp does so for us */
    bool cut;                 /* to be closed now */
    struct openai_exchange exchange; /* the request that is being answered, if there is one */
};

/* One that is to come, which nothing but free() need be told of; then it is about to be accepted,
 * with a bufferevent for it. NULL: out of memory. */
struct openai_connection *openai_connection_new(struct openai *o);
void openai_connection_set_bev(struct openai_connection *c, struct bufferevent *bev);

/* It has been accepted, by now: finds out who it is, and whether there is a place. It may be closed
 * and freed at once. */
void openai_connection_adopt(struct openai_connection *c);

/* To be looked after at the end of the turn. */
void openai_connection_wake(struct openai_connection *c);

/* The front drains: it is closed once it is at rest, or soon if it has never said a word. */
void openai_connection_drain(struct openai_connection *c);

/* Everything is over at the end of the turn: nothing is sent any more. */
void openai_connection_cut(struct openai_connection *c);

/* evhttp's connection is at its end: frees all but, until the end of the turn, the connection's own
 * memory. */
void openai_connection_end(struct openai_connection *c, const char *reason);

/* ---- For exchanges ---- */

/* n bytes are about to be sent: 0, or -EDQUOT. */
int openai_connection_charge_output(struct openai_connection *c, size_t n);
/* So much waits to be taken that no more should be made. */
bool openai_connection_is_full(const struct openai_connection *c);

/* evhttp has been told to send: sees to it that it can. */
void openai_connection_push_output(struct openai_connection *c);

/* So many bytes of the request's body are free again. */
void openai_connection_release_input(struct openai_connection *c, size_t n);

/* A request is in our hands, or no more: watches for the caller's going, or lets evhttp read. */
void openai_connection_begin_exchange(struct openai_connection *c);
void openai_connection_end_exchange(struct openai_connection *c);

/* What has been written is the last, and not to be taken for whole: closes behind it. The request
 * goes with evhttp's connection. */
void openai_connection_close_when_sent(struct openai_connection *c);

#endif
