/*
 * Owns the configured servers at run time: their header lists and idle libcurl handles.
 */
#include "upstream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config.h"
#include "log.h"
#include "multi.h"
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

/* With a proxy it is the proxy's name that is looked up. */
static bool is_numeric(const struct config_upstream *settings, CURLU *url)
{
    struct in_addr address;
    char *host = NULL;
    bool is = settings->unix_path;

    if (!is && !settings->proxy && curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK)
        is = *host == '[' || inet_pton(AF_INET, host, &address) == 1;
    curl_free(host);
    return is;
}

int upstream_new(struct worker *worker, struct config *config,
                 const struct config_upstream *settings, struct upstream **ret)
{
    struct upstream *u = calloc(1, sizeof *u);
    const char *key = settings->key ? settings->key->text : NULL;

    if (!u)
        return -ENOMEM;
    u->n_refs = 1;
    u->worker = worker;
    u->settings = settings;
    u->config = config_ref(config);
    u->metrics = metrics_upstream_get(worker->metrics, settings->name);
    queue_init(&u->queue, worker, settings->max_concurrent, settings->max_queued);
    retry_budget_init(&u->retry_budget);
    lookup_init(&u->lookup, worker);
    u->url = curl_url();
    if (!u->url ||
        curl_url_set(u->url, CURLUPART_URL, settings->url, CURLU_PATH_AS_IS) != CURLUE_OK ||
        upstream_headers_new(settings, key, false, &u->headers_unary) < 0 ||
        upstream_headers_new(settings, key, true, &u->headers_stream) < 0) {
        upstream_unref(u);
        return -ENOMEM;
    }
    u->is_numeric = is_numeric(settings, u->url);
    for (size_t i = 0; settings->headers && settings->headers[i]; i++)
        if (!strncasecmp(settings->headers[i], "X-Client-Request-Id:", 20))
            u->has_request_id = true;
    if (settings->http_version == CONFIG_HTTP_2 && !upstream_has_http_2())
        log_warning(worker->log,
                    "[upstream %s] http_version = 2 needs libcurl 8.4 or newer; using HTTP/1.1",
                    settings->name);
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
    while (u->n_idle > 0)
        curl_easy_cleanup(u->idle[--u->n_idle]);
    queue_done(&u->queue);
    lookup_done(&u->lookup);
    curl_url_cleanup(u->url);
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
    return &u->queue;
}

struct retry_budget *upstream_retry_budget(struct upstream *u)
{
    return &u->retry_budget;
}

int64_t upstream_wait_us(struct upstream *u)
{
    return breaker_wait_us(&u->breaker, worker_turn_us(u->worker));
}

void upstream_report(struct upstream *u, bool reached)
{
    if (!breaker_report(&u->breaker, reached, worker_now_us()))
        return;
    if (reached)
        log_info(u->worker->log, "upstream %s can be reached again", u->settings->name);
    else
        log_warning(u->worker->log,
                    "upstream %s can't be reached: calls fail at once, but for one a second",
                    u->settings->name);
}

struct metrics_upstream *upstream_metrics(const struct upstream *u)
{
    return u->metrics;
}

bool upstream_is_down(const struct upstream *u)
{
    return breaker_is_open(&u->breaker);
}

void upstream_complain(struct upstream *u, int http_status)
{
    int64_t now = worker_now_us();

    if (u->last_complaint_us && now - u->last_complaint_us < COMPLAIN_AGAIN_US)
        return;
    u->last_complaint_us = now;
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

bool upstream_has_http_2(void)
{
    /* Before 8.4.0 a body that was cut can end as a success over HTTP/2. */
    return curl_version_info(CURLVERSION_NOW)->version_num >= 0x080400;
}

/* "" keeps the environment's proxies out. */
static bool set_proxy(CURL *easy, const char *proxy)
{
    if (proxy && !strcmp(proxy, "environment"))
        return true;
    return curl_easy_setopt(easy, CURLOPT_PROXY, proxy ? proxy : "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "") == CURLE_OK;
}

/* libcurl's own sockets would be inherited. */
static int on_socket(void *user, curl_socket_t fd, curlsocktype purpose)
{
    (void)user, (void)purpose;
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? CURL_SOCKOPT_ERROR : CURL_SOCKOPT_OK;
}

/* Options that hold for every request to this server. */
static CURL *easy_new(const struct upstream *u)
{
    const struct config_upstream *s = u->settings;
    CURL *easy = curl_easy_init();
    int64_t connect_ms = s->connect_timeout_us / 1000;

    if (!easy)
        return NULL;
    bool ok =
        curl_easy_setopt(easy, CURLOPT_CURLU, u->url) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_USERAGENT, "completiond/" COMPLETIOND_VERSION) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_SHARE, multi_pool_share(u->worker->multis)) == CURLE_OK &&
        set_proxy(easy, s->proxy) &&
        (!s->unix_path ||
         curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, s->unix_path) == CURLE_OK) &&
        (!s->ca_file || curl_easy_setopt(easy, CURLOPT_CAINFO, s->ca_file) == CURLE_OK);
    if (!ok) {
        curl_easy_cleanup(easy);
        return NULL;
    }

    long version = CURL_HTTP_VERSION_1_1;
    if (s->http_version == CONFIG_HTTP_2 && upstream_has_http_2())
        version = strncmp(s->url, "https:", 6) == 0 ? CURL_HTTP_VERSION_2TLS
                                                    : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE;
    const struct {
        CURLoption option;
        long value;
    } options[] = {
        {CURLOPT_POST, 1},
        {CURLOPT_NOSIGNAL, 1},
        {CURLOPT_NOPROGRESS, 1},
        {CURLOPT_FOLLOWLOCATION, 0},
        {CURLOPT_PATH_AS_IS, 1},
        {CURLOPT_HTTP_VERSION, version},
        /* 0 would be libcurl's own five minutes. */
        {CURLOPT_CONNECTTIMEOUT_MS, connect_ms < 1           ? 1
                                    : connect_ms > INT32_MAX ? INT32_MAX
                                                             : (long)connect_ms},
        /* Else a cancelled look-up of a name blocks the loop until the resolver gives up. */
        {CURLOPT_QUICK_EXIT, 1},
        /* libcurl before 8.8.0 frees twice in this cache when memory runs out. */
        {CURLOPT_SSL_SESSIONID_CACHE, 0},
        /* Well below what load balancers keep; a request on a connection that they have dropped
         * would hang. */
        {CURLOPT_MAXAGE_CONN, 25},
        {CURLOPT_MAXLIFETIME_CONN, 600},
        {CURLOPT_TCP_KEEPALIVE, 1},
        {CURLOPT_TCP_KEEPIDLE, 30},
        {CURLOPT_TCP_KEEPINTVL, 10},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        curl_easy_setopt(easy, options[i].option, options[i].value);
    return easy;
}

CURL *upstream_take_easy(struct upstream *u)
{
    return u->n_idle > 0 ? u->idle[--u->n_idle] : easy_new(u);
}

void upstream_give_easy(struct upstream *u, CURL *easy)
{
    if (u->n_idle < sizeof u->idle / sizeof *u->idle)
        u->idle[u->n_idle++] = easy;
    else
        curl_easy_cleanup(easy);
}
