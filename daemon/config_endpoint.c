#include "config_endpoint.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

static const char no_memory[] = "out of memory";

/* unix:/path/to.sock:/v1. A socket has a path where others have a host and a port. */
static const char *split_unix(const char *base, struct config_endpoint *e, char **ret_http)
{
    const char *path = base + 5;
    const char *colon = strchr(path, ':');
    size_t len = colon ? (size_t)(colon - path) : strlen(path);

    if (*path != '/' || len > 107 || (colon && colon[1] && colon[1] != '/'))
        return "base_url: write unix:/path/to.sock:/v1, the path of the socket not longer than 107 "
               "characters";
    e->unix_path = strndup(path, len);
    e->name = strndup(path, len);
    if (asprintf(ret_http, "http://localhost%s", colon ? colon + 1 : "") < 0)
        *ret_http = NULL;
    return e->unix_path && e->name && *ret_http ? NULL : no_memory;
}

static const char *split_http(const char *base, struct config_endpoint *e, char **ret_http)
{
    const char *host = base + strcspn(base, ":") + 3;

    if (!*host || *host == '/')
        return "base_url has no host";
    e->name = strndup(host, strcspn(host, "/"));
    *ret_http = strdup(base);
    return e->name && *ret_http ? NULL : no_memory;
}

/* What libcurl does not take is an error now, and not with each call. */
static const char *check_url(const char *text)
{
    CURLU *parsed = curl_url();
    CURLUcode code =
        parsed ? curl_url_set(parsed, CURLUPART_URL, text, CURLU_PATH_AS_IS) : CURLUE_OUT_OF_MEMORY;

    curl_url_cleanup(parsed);
    return code == CURLUE_OK              ? NULL
           : code == CURLUE_OUT_OF_MEMORY ? no_memory
                                          : "base_url and query do not make a URL";
}

static const char *make(struct config_endpoint *e, const char *base, const char *query)
{
    const char *fault;
    char *http = NULL;

    if (strpbrk(base, " \t\"<>\\^`{}?#@"))
        return "base_url holds a character that it can't hold; a query goes to query =, a key to "
               "credential =";
    e->base_url = base;
    if (!strncmp(base, "unix:", 5))
        fault = split_unix(base, e, &http);
    else if (!strncmp(base, "http://", 7) || !strncmp(base, "https://", 8))
        fault = split_http(base, e, &http);
    else
        fault = "base_url must begin with https://, http:// or unix:/";
    if (fault) {
        free(http);
        return fault;
    }

    size_t len = strlen(http);
    while (len > 0 && http[len - 1] == '/')
        len--;
    if (asprintf(&e->url, "%.*s/completions%s%s", (int)len, http, query ? "?" : "",
                 query ? query : "") < 0)
        e->url = NULL;
    free(http);
    return e->url ? check_url(e->url) : no_memory;
}

/* Two behind one host and port are told apart by all that there is of them. */
static const char *make_name_unique(struct config_upstream *u, size_t at)
{
    struct config_endpoint *e = &u->endpoints[at];
    bool is_unique = true;

    for (size_t i = 0; i < at; i++) {
        if (!strcmp(u->endpoints[i].url, e->url) &&
            !strcmp(u->endpoints[i].unix_path ? u->endpoints[i].unix_path : "",
                    e->unix_path ? e->unix_path : ""))
            return "base_url has the same server twice";
        is_unique = is_unique && strcmp(u->endpoints[i].name, e->name) != 0;
    }
    if (is_unique)
        return NULL;
    free(e->name);
    e->name = strdup(e->base_url);
    return e->name ? NULL : no_memory;
}

const char *config_endpoints_make(struct config_upstream *u)
{
    const char *fault = NULL;
    size_t n = 0;

    while (u->base_urls && u->base_urls[n])
        n++;
    if (n == 0)
        return "base_url is missing";
    if (n > CONFIG_ENDPOINTS_MAX)
        return "base_url has more than 64 servers";
    u->endpoints = calloc(n, sizeof *u->endpoints);
    if (!u->endpoints)
        return no_memory;
    for (size_t i = 0; !fault && i < n; i++) {
        u->n_endpoints++;
        fault = make(&u->endpoints[i], u->base_urls[i], u->query);
        if (!fault)
            fault = make_name_unique(u, i);
    }
    return fault;
}

void config_endpoints_free(struct config_upstream *u)
{
    for (size_t i = 0; i < u->n_endpoints; i++) {
        free(u->endpoints[i].name);
        free(u->endpoints[i].url);
        free(u->endpoints[i].unix_path);
    }
    free(u->endpoints);
}
