/*
 * One of an upstream's servers: its URL, the idle libcurl handles that have its options, and what
 * is learned of it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "config.h"
#include "crew.h"
#include "log.h"
#include "multi.h"
#include "upstream_internal.h"
#include "worker.h"

/* With a proxy it is the proxy's name that is looked up. */
static bool is_numeric(const struct config_upstream *settings,
                       const struct config_endpoint *endpoint, CURLU *url)
{
    struct in_addr address;
    char *host = NULL;
    bool is = endpoint->unix_path;

    if (!is && !settings->proxy && curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK)
        is = *host == '[' || inet_pton(AF_INET, host, &address) == 1;
    curl_free(host);
    return is;
}

int endpoint_init(struct endpoint *e, struct upstream *u, const struct config_endpoint *settings)
{
    e->upstream = u;
    e->settings = settings;
    lookup_init(&e->lookup, u->worker);
    e->load = load_get(&u->worker->crew->loads, u->settings->name, settings->base_url);
    e->url = curl_url();
    if (!e->load || !e->url ||
        curl_url_set(e->url, CURLUPART_URL, settings->url, CURLU_PATH_AS_IS) != CURLUE_OK)
        return -ENOMEM;
    e->is_numeric = is_numeric(u->settings, settings, e->url);
    return 0;
}

void endpoint_done(struct endpoint *e)
{
    while (e->n_idle > 0)
        curl_easy_cleanup(e->idle[--e->n_idle]);
    lookup_done(&e->lookup);
    curl_url_cleanup(e->url);
    load_unref(e->load);
}

const char *endpoint_name(const struct endpoint *e)
{
    return e->settings->name;
}

uint64_t endpoint_bit(const struct endpoint *e)
{
    return UINT64_C(1) << (e - e->upstream->endpoints);
}

/* ---- How it has been ---- */

static void tell(const struct endpoint *e, unsigned change)
{
    const struct upstream *u = e->upstream;
    const char *upstream = u->settings->name, *name = e->settings->name;
    size_t n_open = change ? balance_n_open(&u->balance) : 0;

    if (change & BREAKER_OPENED && n_open == u->balance.n)
        log_warning(u->worker->log,
                    "upstream %s can't be reached: calls fail at once, but for one a second",
                    upstream);
    else if (change & BREAKER_CLOSED && n_open == u->balance.n - 1)
        log_info(u->worker->log, "upstream %s can be reached again", upstream);
    if (u->balance.n == 1)
        return;
    if (change & BREAKER_FAILS)
        log_warning(u->worker->log,
                    "upstream %s: %s fails again and again: calls go to its other endpoints, but "
                    "for one now and then",
                    upstream, name);
    else if (change & BREAKER_WELL)
        log_info(u->worker->log, "upstream %s: %s is well again", upstream, name);
}

void endpoint_report(struct endpoint *e, bool reached)
{
    tell(e, load_report(e->load, reached, worker_now_us()));
}

/* What a server says that has no time, or what a proxy says in front of one that is gone. */
static bool is_fault(int http_status)
{
    return http_status == 0 || http_status == 429 || http_status == 502 || http_status == 503 ||
           http_status == 504 || http_status == 529;
}

void endpoint_report_answer(struct endpoint *e, int http_status, int64_t retry_after_ms)
{
    if (is_fault(http_status))
        tell(e,
             load_fault(e->load, retry_after_ms > 0 ? retry_after_ms * 1000 : 0, worker_now_us()));
    else if (e->load->breaker.n_faults > 0)
        tell(e, load_recover(e->load, worker_now_us()));
}

/* ---- Handles ---- */

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
static CURL *easy_new(const struct endpoint *e)
{
    const struct config_upstream *s = e->upstream->settings;
    const char *unix_path = e->settings->unix_path;
    CURL *easy = curl_easy_init();
    int64_t connect_ms = s->connect_timeout_us / 1000;

    if (!easy)
        return NULL;
    bool ok =
        curl_easy_setopt(easy, CURLOPT_CURLU, e->url) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_USERAGENT, "completiond/" COMPLETIOND_VERSION) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_SHARE, multi_pool_share(e->upstream->worker->multis)) ==
            CURLE_OK &&
        set_proxy(easy, s->proxy) &&
        (!unix_path || curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, unix_path) == CURLE_OK) &&
        (!s->ca_file || curl_easy_setopt(easy, CURLOPT_CAINFO, s->ca_file) == CURLE_OK);
    if (!ok) {
        curl_easy_cleanup(easy);
        return NULL;
    }

    long version = CURL_HTTP_VERSION_1_1;
    if (e->upstream->is_http_2)
        version = strncmp(e->settings->url, "https:", 6) == 0 ? CURL_HTTP_VERSION_2TLS
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

CURL *endpoint_take_easy(struct endpoint *e)
{
    return e->n_idle > 0 ? e->idle[--e->n_idle] : easy_new(e);
}

void endpoint_give_easy(struct endpoint *e, CURL *easy)
{
    if (e->n_idle < sizeof e->idle / sizeof *e->idle)
        e->idle[e->n_idle++] = easy;
    else
        curl_easy_cleanup(easy);
}
