/*
 * Owns the configured upstreams at run time: their header lists, and for each of their endpoints
 * the idle libcurl handles, and whether it is worth a call.
 */
#include "upstream.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config.h"
#include "crew.h"
#include "log.h"
#include "upstream_internal.h"
#include "worker.h"

#define COMPLAIN_AGAIN_US INT64_C(60000000)

/* ---- Header lists ---- */

/* One piece of a secret's kind of memory: libcurl reads the key where it lies. Headers of the
 * configuration may be keys as well. */
struct header_list {
    size_t size; /* of all of it */
    char *end;   /* where the next text goes */
    size_t n_nodes;
    struct curl_slist nodes[];
};

static void header_list_add(struct header_list *list, const char *prefix, const char *text)
{
    struct curl_slist *node = &list->nodes[list->n_nodes];

    node->data = list->end;
    list->end = stpcpy(stpcpy(list->end, prefix), text) + 1;
    if (list->n_nodes > 0)
        node[-1].next = node;
    list->n_nodes++;
}

int upstream_headers_new(const struct config_upstream *settings, const char *key, bool stream,
                         struct curl_slist **ret)
{
    /* Compressed events arrive when the compressor pleases. Without "Expect:" libcurl waits a
     * second for a 100 before a body of more than 1 MiB. */
    const char *const common[] = {
        stream ? "Accept: text/event-stream, application/json" : "Accept: application/json",
        "Content-Type: application/json", "Accept-Encoding: identity", "Expect:"};
    const size_t n_common = sizeof common / sizeof *common;
    const char *prefix =
        settings->auth == CONFIG_AUTH_API_KEY ? "api-key: " : "Authorization: Bearer ";
    size_t n = n_common, n_bytes = 0;

    if (settings->auth == CONFIG_AUTH_NONE)
        key = NULL;
    for (size_t i = 0; i < n_common; i++)
        n_bytes += strlen(common[i]) + 1;
    for (size_t i = 0; settings->headers && settings->headers[i]; i++, n++)
        n_bytes += strlen(settings->headers[i]) + 1;
    if (key) {
        n_bytes += strlen(prefix) + strlen(key) + 1;
        n++;
    }

    size_t size = sizeof(struct header_list) + n * sizeof(struct curl_slist) + n_bytes;
    struct header_list *list = secret_memory_new(size);
    if (!list)
        return -ENOMEM;
    list->size = size;
    list->end = (char *)&list->nodes[n];
    for (size_t i = 0; i < n_common; i++)
        header_list_add(list, common[i], "");
    for (size_t i = 0; settings->headers && settings->headers[i]; i++)
        header_list_add(list, settings->headers[i], "");
    if (key)
        header_list_add(list, prefix, key);
    *ret = list->nodes;
    return 0;
}

struct curl_slist *upstream_headers_free(struct curl_slist *nodes)
{
    if (nodes) {
        struct header_list *list = container_of(nodes, struct header_list, nodes);
        secret_memory_free(list, list->size);
    }
    return NULL;
}

/* ---- Servers ---- */

static int balance_init(struct upstream *u)
{
    size_t n = u->settings->n_endpoints;

    u->loads = calloc(n, sizeof *u->loads);
    if (!u->loads)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = endpoint_init(&u->endpoints[i], u, &u->settings->endpoints[i]);
        if (r < 0)
            return r;
        u->loads[i] = u->endpoints[i].load;
    }
    u->balance = (struct balance){.loads = u->loads, .n = n};
    return 0;
}

int upstream_shared_new(struct crew *crew, const struct config_upstream *settings,
                        struct upstream_shared **ret)
{
    struct upstream_shared *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->n_refs = 1;
    queue_init(&s->queue, &crew->accounts, (size_t)settings->max_concurrent,
               (size_t)settings->max_queued);
    retry_budget_init(&s->retry_budget);
    if (settings->http_version == CONFIG_HTTP_2 && !upstream_has_http_2())
        log_warning(crew->log,
                    "[upstream %s] http_version = 2 needs libcurl 8.4 or newer; using HTTP/1.1",
                    settings->name);
    *ret = s;
    return 0;
}

struct upstream_shared *upstream_shared_unref(struct upstream_shared *s)
{
    if (s && --s->n_refs == 0)
        free(s);
    return NULL;
}

int upstream_new(struct worker *worker, struct config *config,
                 const struct config_upstream *settings, struct upstream_shared *shared,
                 struct upstream **ret)
{
    struct upstream *u = calloc(1, sizeof *u + settings->n_endpoints * sizeof *u->endpoints);
    const char *key = settings->key ? settings->key->text : NULL;

    if (!u)
        return -ENOMEM;
    u->n_refs = 1;
    u->worker = worker;
    u->settings = settings;
    u->config = config_ref(config);
    u->metrics = metrics_upstream_get(worker->metrics, settings->name);
    u->shared = shared;
    shared->n_refs++;
    if (balance_init(u) < 0 || upstream_headers_new(settings, key, false, &u->headers_unary) < 0 ||
        upstream_headers_new(settings, key, true, &u->headers_stream) < 0) {
        upstream_unref(u);
        return -ENOMEM;
    }
    /* Asked here, on the main thread: libcurl writes its answer anew each time. */
    u->is_http_2 = settings->http_version == CONFIG_HTTP_2 && upstream_has_http_2();
    for (size_t i = 0; settings->headers && settings->headers[i]; i++)
        if (!strncasecmp(settings->headers[i], "X-Client-Request-Id:", 20))
            u->has_request_id = true;
    *ret = u;
    return 0;
}

struct upstream *upstream_ref(struct upstream *u)
{
    u->n_refs++;
    return u;
}

struct upstream *upstream_unref(struct upstream *u)
{
    if (!u || --u->n_refs > 0)
        return NULL;
    for (size_t i = 0; i < u->settings->n_endpoints; i++)
        endpoint_done(&u->endpoints[i]);
    free(u->loads);
    upstream_shared_unref(u->shared);
    upstream_headers_free(u->headers_unary);
    upstream_headers_free(u->headers_stream);
    config_unref(u->config);
    free(u);
    return NULL;
}

const struct config_upstream *upstream_settings(const struct upstream *u)
{
    return u->settings;
}

struct queue *upstream_queue(struct upstream *u)
{
    return &u->shared->queue;
}

struct retry_budget *upstream_retry_budget(struct upstream *u)
{
    return &u->shared->retry_budget;
}

/* ---- Which endpoint ---- */

struct endpoint *upstream_choose_endpoint(struct upstream *u, uint64_t *tried, int64_t now_us,
                                          int64_t *ret_wait_us)
{
    uint64_t chance = u->balance.n > 1 ? worker_chance(u->worker) : 0;
    int at = balance_choose(&u->balance, *tried, chance, now_us, ret_wait_us);

    if (at < 0)
        return NULL;

    struct endpoint *e = &u->endpoints[at];
    *tried |= endpoint_bit(e);
    return e;
}

bool upstream_has_other(const struct upstream *u, uint64_t tried)
{
    return u->balance.n > 1 && balance_has_other(&u->balance, tried, worker_now_us());
}

size_t upstream_n_endpoints(const struct upstream *u)
{
    return u->balance.n;
}

const char *upstream_name_endpoints(const struct upstream *u, uint64_t which, char *out,
                                    size_t size)
{
    enum { MORE_SIZE = sizeof " and 64 more" };
    size_t n = 0, n_left_out = 0;

    *out = '\0';
    for (size_t i = 0; i < u->balance.n; i++) {
        const char *name = u->endpoints[i].settings->name;
        if (!(which >> i & 1))
            continue;
        if (n_left_out > 0 || n + strlen(name) + 2 + MORE_SIZE > size)
            n_left_out++;
        else
            n += (size_t)sprintf(out + n, "%s%s", n > 0 ? ", " : "", name);
    }
    if (n_left_out > 0)
        snprintf(out + n, size - n, "%s%zu more", n > 0 ? " and " : "", n_left_out);
    return out;
}

struct endpoint_view upstream_endpoint_view(const struct upstream *u, size_t i)
{
    const struct endpoint *e = &u->endpoints[i];
    const struct load *l = e->load;

    return (struct endpoint_view){
        .name = e->settings->name,
        .base_url = e->settings->base_url,
        .state = breaker_is_open(&l->breaker) ? ENDPOINT_UNREACHABLE
                 : l->breaker.n_faults > 0    ? ENDPOINT_RESTING
                                              : ENDPOINT_OK,
        .n_running = l->n_running,
        .n_asked = l->n_asked,
        .n_faults = l->n_faults,
    };
}

struct metrics_upstream *upstream_metrics(const struct upstream *u)
{
    return u->metrics;
}

bool upstream_is_down(const struct upstream *u)
{
    return balance_n_open(&u->balance) == u->balance.n;
}

void upstream_complain(struct upstream *u, int http_status)
{
    int64_t now = worker_now_us(), last = u->shared->last_complaint_us;

    if ((last && now - last < COMPLAIN_AGAIN_US) ||
        !atomic_compare_exchange_strong(&u->shared->last_complaint_us, &last, now))
        return;
    log_error(u->worker->log,
              "upstream %s answered %d: its key is missing, wrong or not allowed to do this; check "
              "credential or credential_file, then reload",
              u->settings->name, http_status);
}

struct upstream *upstream_choose(struct upstream *const *upstreams, size_t n, const char *model)
{
    for (size_t i = 0; i < n; i++)
        for (char *const *glob = upstreams[i]->settings->models; *glob; glob++)
            if (fnmatch(*glob, model, 0) == 0)
                return upstreams[i];
    return NULL;
}
