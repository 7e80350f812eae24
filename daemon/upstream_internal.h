/* What upstream.c, endpoint.c (servers) and transfer.c (exchanges) share, and nobody else sees. */
#ifndef UPSTREAM_INTERNAL_H
#define UPSTREAM_INTERNAL_H

#include <curl/curl.h>

#include "balance.h"
#include "lookup.h"
#include "metrics.h"
#include "upstream.h"

enum { IDLE_HANDLES = 64 };

/* Atomics, and the queue has its lock: the workers' upstreams of one section share it. */
struct upstream_shared {
    _Atomic unsigned n_refs;
    struct queue queue;
    struct retry_budget retry_budget;
    _Atomic int64_t last_complaint_us;
};

/* One of the servers. */
struct endpoint {
    struct upstream *upstream; /* that it is a part of */
    const struct config_endpoint *settings;
    struct load *load;        /* a reference */
    CURLU *url;               /* parsed once; the handles refer to it */
    bool is_numeric;          /* there is no name to look up */
    CURL *idle[IDLE_HANDLES]; /* with all options of this server set */
    size_t n_idle;
    struct lookup lookup;
};

struct upstream {
    unsigned n_refs;
    struct worker *worker;
    struct config *config; /* a reference, which keeps settings */
    const struct config_upstream *settings;
    struct curl_slist *headers_unary, *headers_stream;
    bool has_request_id;              /* among the configured headers */
    bool is_http_2;                   /* configured, and libcurl can */
    struct metrics_upstream *metrics; /* the worker's */
    struct upstream_shared *shared;   /* a reference */
    struct load **loads;              /* the endpoints', for the balance */
    struct balance balance;
    struct endpoint endpoints[]; /* as many as settings has */
};

/* The headers of a request, in memory for secrets because one is the key: not libcurl's to free. 0
 * or -ENOMEM. */
int upstream_headers_new(const struct config_upstream *settings, const char *key, bool stream,
                         struct curl_slist **ret);
struct curl_slist *upstream_headers_free(struct curl_slist *list);

/* ---- endpoint.c ---- */

/* 0 or -ENOMEM, and then too there is something to be done. */
int endpoint_init(struct endpoint *e, struct upstream *u, const struct config_endpoint *settings);
/* Takes a zeroed one, too. */
void endpoint_done(struct endpoint *e);

/* Whether a connection could be made. */
void endpoint_report(struct endpoint *e, bool reached);

/* It has begun to answer, or (http_status 0) it has not, although a request was on its way to it.
 * retry_after_ms: what it asked for; -1: nothing. */
void endpoint_report_answer(struct endpoint *e, int http_status, int64_t retry_after_ms);

/* A handle with this server's options; NULL: out of memory. Given back when its transfer is over
 * and it is in no multi handle. */
CURL *endpoint_take_easy(struct endpoint *e);
void endpoint_give_easy(struct endpoint *e, CURL *easy);

bool upstream_has_http_2(void);

#endif
