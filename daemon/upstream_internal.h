/* What upstream.c (servers) and transfer.c (exchanges) share, and nobody else sees. */
#ifndef UPSTREAM_INTERNAL_H
#define UPSTREAM_INTERNAL_H

#include <curl/curl.h>

#include "breaker.h"
#include "lookup.h"
#include "metrics.h"
#include "upstream.h"

enum { IDLE_HANDLES = 64 };

struct upstream {
    unsigned n_refs;
    struct worker *worker;
    struct config *config; /* a reference, which keeps settings */
    const struct config_upstream *settings;
    CURLU *url;      /* parsed once; the handles refer to it */
    bool is_numeric; /* there is no name to look up */
    struct curl_slist *headers_unary, *headers_stream;
    bool has_request_id;      /* among the configured headers */
    CURL *idle[IDLE_HANDLES]; /* with all options of this server set */
    size_t n_idle;
    struct metrics_upstream *metrics; /* the worker's */
    struct queue queue;
    struct retry_budget retry_budget;
    struct breaker breaker;
    struct lookup lookup;
    int64_t last_complaint_us;
};

/* Whether a connection could be made. */
void upstream_report(struct upstream *u, bool reached);

/* The headers of a request, in memory for secrets because one is the key: not libcurl's to free. 0
 * or -ENOMEM. */
int upstream_headers_new(const struct config_upstream *settings, const char *key, bool stream,
                         struct curl_slist **ret);
struct curl_slist *upstream_headers_free(struct curl_slist *list);

/* A handle with this server's options; NULL: out of memory. Given back when its transfer is over
 * and it is in no multi handle. */
CURL *upstream_take_easy(struct upstream *u);
void upstream_give_easy(struct upstream *u, CURL *easy);

bool upstream_has_http_2(void);

#endif
