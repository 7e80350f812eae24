/*
 * One request over HTTP and its answer: the front of a call. Decides what a path means, turns the
 * body into the request message, and the call's replies and status into a response or an event
 * stream. It is a part of its connection, which has one at a time.
 *
 * Replies are passed on in the upstream's own JSON: the call has read and counted them, and what it
 * would not send to gRPC's callers ends here too.
 *
 *     IDLE ──request──► (call) ──first chunk──► (head is out) ──► finished ──► IDLE
 */
#ifndef OPENAI_EXCHANGE_H
#define OPENAI_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>

#include "../proto/buffer.h"

struct call;
struct evhttp_request;
struct openai_connection;

struct openai_exchange {
    struct evhttp_request *http; /* evhttp's; NULL: nothing is to be answered */
    struct call *call;           /* NULL: none */
    struct buffer message;       /* a reply as the call has it */
    struct buffer answer;        /* a whole answer in JSON */
    char *own_key;               /* the caller's, NULL: none is used */
    bool has_token;              /* the bearer token is one of ours */
    int http_status;             /* of the answer; 0: not known yet */
    bool is_head;                /* the method is HEAD */
    bool stream, begun;          /* the head is out */
    bool finished;               /* the call has ended */
    bool failed;                 /* with an error */
    bool waits;                  /* the caller is to be told when there is room */
};

/* A request has come. */
void openai_exchange_begin(struct openai_connection *c, struct evhttp_request *http);

/* At the end of a turn: answers if there is an answer. The connection may be over afterwards. */
void openai_exchange_look(struct openai_connection *c);

/* The connection is at its end. reason: of a call that is not finished. */
void openai_exchange_abandon(struct openai_connection *c, const char *reason);

static inline bool openai_exchange_is_idle(const struct openai_exchange *x)
{
    return !x->http && !x->call;
}

#endif
