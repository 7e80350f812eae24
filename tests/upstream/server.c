/*
 * Routes, credentials, content types and counters. Owns evhttp and the workspace that all jobs
 * share; what is generated is the jobs'.
 */
#include "server.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "answer.h"
#include "job.h"
#include "reply.h"

enum {
    HEADERS_MAX_BYTES = 64 << 10,
    /* Above the API's limit, which has an error object: evhttp's own refusal is HTML. */
    HTTP_BODY_MAX_BYTES = 2 * REQUEST_BODY_MAX_BYTES,
    /* evhttp takes a connection that waits for its answer for a silent one. */
    TIMEOUT_SECONDS = 24 * 60 * 60,
};

struct server {
    struct evhttp *http;
    struct job_service service;
    const char *api_key;
    time_t created;
    uint64_t n_connections, n_requests;
};

struct route {
    const char *path;
    enum evhttp_cmd_type method;
    bool needs_key;
    void (*serve)(struct server *s, struct evhttp_request *request, int64_t started_ms);
};

/* ---- Routes ---- */

static void answer_object(struct evhttp_request *request, json_object *object, int64_t started_ms)
{
    struct evbuffer *body = evbuffer_new();
    struct refusal r;

    if (!body) {
        json_object_put(object);
    } else if (reply_object(object, body) == 0) {
        answer_json(request, 200, body, started_ms);
        evbuffer_free(body);
        return;
    } else {
        evbuffer_free(body);
    }
    refusal_set_memory(&r);
    answer_refusal(request, &r, started_ms);
}

static void put_count(json_object *object, const char *key, uint64_t count)
{
    json_object_object_add(object, key, json_object_new_int64((int64_t)count));
}

static void serve_stats(struct server *s, struct evhttp_request *request, int64_t started_ms)
{
    json_object *stats = json_object_new_object();

    if (stats) {
        put_count(stats, "connections", s->n_connections);
        put_count(stats, "requests", s->n_requests);
        put_count(stats, "streams", s->service.counters.streams);
        put_count(stats, "tokens", s->service.counters.tokens);
        put_count(stats, "clients_gone", s->service.counters.clients_gone);
        put_count(stats, "active", s->service.counters.active);
    }
    answer_object(request, stats, started_ms);
}

static void serve_health(struct server *s, struct evhttp_request *request, int64_t started_ms)
{
    (void)s;
    answer_object(request, json_tokener_parse("{\"status\":\"ok\"}"), started_ms);
}

static void serve_models(struct server *s, struct evhttp_request *request, int64_t started_ms)
{
    json_object *list = json_tokener_parse("{\"object\":\"list\",\"data\":[{}]}"), *data;

    if (list && json_object_object_get_ex(list, "data", &data)) {
        json_object *model = json_object_array_get_idx(data, 0);
        json_object_object_add(model, "id", json_object_new_string(s->service.model_name));
        json_object_object_add(model, "object", json_object_new_string("model"));
        put_count(model, "created", (uint64_t)s->created);
        json_object_object_add(model, "owned_by", json_object_new_string("completion-sandbox"));
    }
    answer_object(request, list, started_ms);
}

static bool is_json(struct evhttp_request *request)
{
    static const char json[] = "application/json";
    const char *type =
        evhttp_find_header(evhttp_request_get_input_headers(request), "Content-Type");

    if (!type || strncasecmp(type, json, strlen(json)) != 0)
        return false;
    type += strlen(json);
    type += strspn(type, " \t");
    return !*type || *type == ';';
}

static int check_body(struct evhttp_request *request, size_t len, struct refusal *r)
{
    if (len > REQUEST_BODY_MAX_BYTES)
        return refusal_set(r, 413, NULL, "request_too_large",
                           "The body of your request is above %d bytes.", REQUEST_BODY_MAX_BYTES);
    if (!is_json(request))
        return refusal_set(r, 415, NULL, "unsupported_content_type",
                           "Unsupported Content-Type: expected application/json.");
    return 0;
}

static void serve_completions(struct server *s, struct evhttp_request *http, int64_t started_ms)
{
    struct evbuffer *body = evhttp_request_get_input_buffer(http);
    size_t len = evbuffer_get_length(body);
    struct request request;
    struct refusal r;

    s->n_requests++;
    int result = check_body(http, len, &r);
    const char *bytes = len > 0 ? (const char *)evbuffer_pullup(body, -1) : "";
    if (result == 0 && !bytes)
        result = refusal_set_memory(&r);
    if (result == 0)
        result = request_parse(bytes, len, s->service.model_name,
                               model_vocabulary(s->service.tools.model), &request, &r);
    if (result < 0)
        answer_refusal(http, &r, started_ms);
    else
        job_start(&s->service, http, &request, started_ms);
}

static const struct route routes[] = {
    {"/v1/completions", EVHTTP_REQ_POST, true, serve_completions},
    {"/v1/models", EVHTTP_REQ_GET, true, serve_models},
    {"/health", EVHTTP_REQ_GET, false, serve_health},
    {"/stats", EVHTTP_REQ_GET, false, serve_stats},
};

static const struct route *find_route(struct evhttp_request *request)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;

    for (size_t i = 0; path && i < sizeof routes / sizeof *routes; i++)
        if (!strcmp(routes[i].path, path))
            return &routes[i];
    return NULL;
}

static int check_key(const struct server *s, struct evhttp_request *request, struct refusal *r)
{
    const char *given =
        evhttp_find_header(evhttp_request_get_input_headers(request), "Authorization");

    if (!s->api_key)
        return 0;
    if (!given || strncasecmp(given, "Bearer ", 7) != 0)
        return refusal_set(r, 401, NULL, NULL,
                           "You didn't provide an API key. Provide it in an Authorization header: "
                           "Bearer YOUR_KEY.");
    if (strcmp(given + 7, s->api_key) != 0)
        return refusal_set(r, 401, NULL, "invalid_api_key", "Incorrect API key provided.");
    return 0;
}

static void on_request(struct evhttp_request *request, void *arg)
{
    struct server *s = arg;
    const struct route *route = find_route(request);
    int64_t started_ms = answer_now_ms();
    struct refusal r;
    int result = 0;

    if (!route) {
        result = refusal_set(&r, 404, NULL, "unknown_url", "Invalid URL: there is nothing here.");
    } else if (evhttp_request_get_command(request) != route->method) {
        evhttp_add_header(evhttp_request_get_output_headers(request), "Allow",
                          route->method == EVHTTP_REQ_POST ? "POST" : "GET");
        result =
            refusal_set(&r, 405, NULL, "method_not_supported", "This method is not allowed here.");
    } else if (route->needs_key) {
        result = check_key(s, request, &r);
    }
    if (result < 0)
        answer_refusal(request, &r, started_ms);
    else
        route->serve(s, request, started_ms);
}

/* ---- The server ---- */

/* Called once for each connection. NULL: evhttp makes its own. */
static struct bufferevent *count_connection(struct event_base *base, void *arg)
{
    struct server *s = arg;

    (void)base;
    s->n_connections++;
    return NULL;
}

static int init_tools(struct choice_tools *t, const struct model *model)
{
    const size_t n = model_vocabulary(model)->n;

    t->model = model;
    t->probabilities = calloc(n, sizeof *t->probabilities);
    t->logits = calloc(n, sizeof *t->logits);
    if (!t->probabilities || !t->logits)
        return -ENOMEM;
    return sampler_new(n, &t->sampler);
}

static void configure_http(struct server *s)
{
    evhttp_set_allowed_methods(s->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                            EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                            EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
    evhttp_set_max_headers_size(s->http, HEADERS_MAX_BYTES);
    evhttp_set_max_body_size(s->http, HTTP_BODY_MAX_BYTES);
    evhttp_set_timeout(s->http, TIMEOUT_SECONDS);
    evhttp_set_bevcb(s->http, count_connection, s);
    evhttp_set_gencb(s->http, on_request, s);
}

int server_new(struct event_base *base, const struct server_options *options, struct server **ret)
{
    struct server *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->service = (struct job_service){.base = base,
                                      .model_name = options->model_name,
                                      .tokens_per_second = options->tokens_per_second};
    s->api_key = options->api_key;
    s->created = time(NULL);
    s->http = evhttp_new(base);
    if (!s->http || init_tools(&s->service.tools, options->model) < 0) {
        server_free(s);
        return -ENOMEM;
    }
    configure_http(s);
    *ret = s;
    return 0;
}

struct server *server_free(struct server *s)
{
    if (!s)
        return NULL;
    if (s->http)
        evhttp_free(s->http);
    sampler_free(s->service.tools.sampler);
    free(s->service.tools.probabilities);
    free(s->service.tools.logits);
    free(s);
    return NULL;
}

int server_listen(struct server *s, struct evconnlistener *listener)
{
    return evhttp_bind_listener(s->http, listener) ? 0 : -ENOMEM;
}
