/*
 * What [upstream NAME] configures: one server or several that serve the same (its endpoints), and
 * one HTTP exchange with one of them (a transfer), on libcurl. Knows nothing of protobuf, gRPC or
 * JSON.
 *
 * A transfer belongs to whoever started it until it ends: exactly one of `done`, upstream_cancel()
 * or upstream_finish() is its last. Callbacks of `struct transfer_handler` may come from inside
 * libcurl; all upstream_*() functions may be called from them. libcurl's facts that shape this file
 * are noted beside the options in upstream.c.
 */
#ifndef UPSTREAM_H
#define UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../proto/buffer.h"
#include "queue.h"
#include "retry.h"

struct config;
struct config_upstream;
struct endpoint;
struct crew;
struct metrics_upstream;
struct secret;
struct transfer;
struct upstream;
struct upstream_shared;
struct worker;

/* What the workers' upstreams of one section have in common. 0 or -ENOMEM. Takes and gives
 * references from any thread. */
int upstream_shared_new(struct crew *crew, const struct config_upstream *settings,
                        struct upstream_shared **ret);
/* Takes NULL; returns NULL. */
struct upstream_shared *upstream_shared_unref(struct upstream_shared *s);

/* A worker's. Keeps references to the configuration and what is shared. 0 or -ENOMEM. */
int upstream_new(struct worker *worker, struct config *config,
                 const struct config_upstream *settings, struct upstream_shared *shared,
                 struct upstream **ret);
struct upstream *upstream_ref(struct upstream *u);
/* Takes NULL; returns NULL. */
struct upstream *upstream_unref(struct upstream *u);

const struct config_upstream *upstream_settings(const struct upstream *u);

/* Whose turn it is to ask it, and how many retries it has left, over all workers. */
struct queue *upstream_queue(struct upstream *u);
struct retry_budget *upstream_retry_budget(struct upstream *u);

/*
 * The endpoint that is to be asked next (balance.h). tried: those that the call has asked already,
 * as bits; the one that is chosen is added. It lives as long as the upstream, and must be given to
 * upstream_start(). NULL: none could be reached lately; *ret_wait_us are the microseconds until one
 * is tried again.
 */
struct endpoint *upstream_choose_endpoint(struct upstream *u, uint64_t *tried, int64_t now_us,
                                          int64_t *ret_wait_us);
/* There is one that is not in tried, and is well as far as is known. */
bool upstream_has_other(const struct upstream *u, uint64_t tried);

/* What is said of an endpoint. */
enum endpoint_state {
    ENDPOINT_OK,
    ENDPOINT_RESTING,     /* after a fault: asked only to find out, unless all others are as bad */
    ENDPOINT_UNREACHABLE, /* lately no connection could be made */
};
struct endpoint_view {
    const char *name, *base_url; /* neither holds a query or a credential */
    enum endpoint_state state;
    size_t n_running;
    uint64_t n_asked, n_faults;
};
const char *endpoint_name(const struct endpoint *e);
/* As in a call's mask of those that it has tried. */
uint64_t endpoint_bit(const struct endpoint *e);
size_t upstream_n_endpoints(const struct upstream *u);
/* "a:1, b:2 and 5 more": those whose bits are set, as many as fit. Returns out. */
const char *upstream_name_endpoints(const struct upstream *u, uint64_t which, char *out,
                                    size_t size);
struct endpoint_view upstream_endpoint_view(const struct upstream *u, size_t i);

/* What is counted of all upstreams of this name. */
struct metrics_upstream *upstream_metrics(const struct upstream *u);
/* Lately no connection could be made to any endpoint. */
bool upstream_is_down(const struct upstream *u);

/* An answer said that the key is refused: said in the log, once a minute. */
void upstream_complain(struct upstream *u, int http_status);

/* The first one whose globs match the model; NULL if there is none. */
struct upstream *upstream_choose(struct upstream *const *upstreams, size_t n, const char *model);

/* The head of a response. Texts are printable ASCII, cut to their size, "" if absent. */
struct transfer_head {
    int status;
    bool is_event_stream;   /* content-type text/event-stream */
    bool is_encoded;        /* a content-encoding that nobody asked for */
    char request_id[128];   /* x-request-id, apim-request-id, x-generation-id */
    int64_t retry_after_ms; /* retry-after-ms or retry-after; -1: none */
    char should_retry;      /* x-should-retry: 't', 'f' or 0 */
    unsigned n_sent;        /* as in struct transfer_result, so far */
};

enum transfer_phase {
    TRANSFER_RESOLVE,
    TRANSFER_CONNECT,
    TRANSFER_TLS,
    TRANSFER_SEND,
    TRANSFER_HEADERS,
    TRANSFER_BODY,
};

enum transfer_outcome {
    TRANSFER_COMPLETE,           /* the response is whole, as far as HTTP can tell */
    TRANSFER_UNREACHABLE,        /* no connection; nothing was sent */
    TRANSFER_TLS_REFUSED,        /* the server's certificate was not accepted */
    TRANSFER_TLS_FAILED,         /* the two could not agree, or the other side broke off */
    TRANSFER_BROKEN,             /* the connection broke, or spoke something else than HTTP */
    TRANSFER_CONNECT_TIMEOUT,    /* connect_timeout */
    TRANSFER_FIRST_BYTE_TIMEOUT, /* first_byte_timeout */
    TRANSFER_IDLE_TIMEOUT,       /* idle_timeout */
    TRANSFER_HEAD_TOO_LARGE,     /* more than 256 KiB of headers, those of 1xx among them */
    TRANSFER_NOT_RESENT,         /* a reused connection turned out to be dead, and resend = no */
    TRANSFER_LOOKUPS_HANG,       /* too many look-ups of names hang; nothing was sent */
    TRANSFER_NO_DESCRIPTOR,      /* for a connection; nothing was sent */
    TRANSFER_OUT_OF_MEMORY,
};

struct transfer_result {
    enum transfer_outcome outcome;
    enum transfer_phase phase; /* how far it came */
    unsigned n_sent;           /* how often the request went out: libcurl sends it again when a
                                * reused connection turns out to be dead */
    const char *reason;        /* libcurl's words, "" if there is nothing to say; static */
};

struct transfer_handler {
    /* The head of the final response. */
    void (*head)(void *user, const struct transfer_head *head);
    /* A piece of the body. */
    void (*data)(void *user, const uint8_t *data, size_t len);
    /* The end. Outside libcurl. The transfer is gone. */
    void (*done)(void *user, const struct transfer_result *result);
};

enum { UPSTREAM_CALL_ID_MAX = 23 };

/* The bytes of a request, shared by who may send them again and the transfers that send them:
 * libcurl may need them until its very end. */
struct upstream_body {
    unsigned n_refs;
    bool wants_little; /* an answer of a few KiB: it is read in smaller pieces */
    struct buffer bytes;
};

/* Takes over the bytes (the buffer is empty afterwards); NULL: out of memory, and nothing is
 * taken. The bytes must not be charged to an account that may go before them. */
struct upstream_body *upstream_body_new(struct buffer *bytes);
/* Takes NULL; returns NULL. */
struct upstream_body *upstream_body_unref(struct upstream_body *body);

/*
 * POSTs the body, with a reference of the transfer's own. key overrides the configured one (NULL:
 * the configured one) and is copied. call_id, of at most UPSTREAM_CALL_ID_MAX
 * characters, is sent as X-Client-Request-Id, unless a header of the configuration has that name,
 * and is copied. stream: an event stream is expected. 0 or -ENOMEM.
 */
int upstream_start(struct endpoint *e, struct upstream_body *body, const char *key,
                   const char *call_id, bool stream, const struct transfer_handler *handler,
                   void *user, struct transfer **ret);

/* No data until it is resumed; at most two more pieces (of 16 KiB) arrive first. The idle timer
 * rests meanwhile. Both may be called in any state. */
void upstream_pause(struct transfer *t);
void upstream_resume(struct transfer *t);

/* Ends the transfer and closes its connection at the end of this turn. No callback any more. */
void upstream_cancel(struct transfer *t);

/* How far it has come. */
enum transfer_phase upstream_phase(const struct transfer *t);

/* The caller has all it wants: no callback any more, but the connection is given a moment to come
 * to the end of its response, so that it can be used again. */
void upstream_finish(struct transfer *t);

/* Cancels all transfers that upstream_finish() has left to themselves, because the worker ends. */
void upstream_cancel_finishing(struct worker *worker);

#endif
