/* What the files of the HTTP front know of one another. */
#ifndef OPENAI_INTERNAL_H
#define OPENAI_INTERNAL_H

#include <event2/bufferevent.h>
#include <event2/util.h>
#include <stdbool.h>

#include "event_memory.h"
#include "openai_connection.h"

struct evhttp_request;
struct openai;
struct openai_refusal;
struct policy;
struct secret;
struct worker;

enum {
    /* Of one request, as with gRPC's. A policy's max_message may be less. */
    OPENAI_HEADERS_MAX_BYTES = 16384,
    OPENAI_BODY_MAX_BYTES = 4 << 20,
    OPENAI_AHEAD_MAX_BYTES = 65536, /* are read behind a request that is being answered */
};

/* ---- The front ---- */

struct worker *openai_worker(const struct openai *o);
bool openai_is_draining(const struct openai *o);
/* NULL: none. */
const struct secret *openai_token(const struct openai *o);

/* The connection is among those of the front, and counts. */
void openai_add(struct openai *o, struct openai_connection *c);
void openai_remove(struct openai *o, struct openai_connection *c);
/* It is no stranger any more, if it was one. */
void openai_know(struct openai *o, struct openai_connection *c);

/* ---- A connection ---- */

static inline struct evbuffer *openai_input_of(const struct openai_connection *c)
{
    return bufferevent_get_input(c->bev);
}

static inline struct evbuffer *openai_output_of(const struct openai_connection *c)
{
    return bufferevent_get_output(c->bev);
}

static inline bool openai_is_answering(const struct openai_connection *c)
{
    return !openai_exchange_is_idle(&c->exchange);
}

/* evhttp waits for more, or says that it is malformed, where it has no memory for a part of it. */
static inline bool openai_has_lost_request(const struct openai_connection *c)
{
    return c->request_since_us >= 0 && event_memory_n_refused() != c->n_refused;
}

/* Arms the timer, if there is anything to wait for. It is not moved at every byte. A connection
 * that can't be watched is closed. */
void openai_connection_watch(struct openai_connection *c);

/* ---- Its caller ---- */

/* Who it is, as far as the socket tells. 0 or negative errno. */
int openai_look_at_caller(struct openai_connection *c);

/* Finds its account, and a place, which the verdict tells. 0, or negative errno: it can't stay. */
int openai_enter(struct openai_connection *c);
void openai_leave(struct openai_connection *c);

/* How large requests may be from now on. */
void openai_limit_requests(struct openai_connection *c, const struct policy *policy);

/* Who makes this request, which is answered next: the connection has become that caller's. Why it
 * can't be served, or NULL. */
const struct openai_refusal *openai_identify(struct openai_connection *c,
                                             struct evhttp_request *http, bool *ret_has_token);

/* The key in `Authorization: Bearer KEY`; NULL: there is none. */
const char *openai_bearer_of(struct evhttp_request *http);

/* ---- Refusals by it ---- */

/* The account is full; the process is; it took too long; evhttp has refused it (an event's). */
void openai_refuse_for_memory(struct openai_connection *c);
void openai_refuse_for_want(struct openai_connection *c);
void openai_refuse_slow_request(struct openai_connection *c);
void openai_on_foreign(evutil_socket_t fd, short what, void *user);

#endif
