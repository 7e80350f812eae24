#include "openai_exchange.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/utf8.h"
#include "call.h"
#include "config.h"
#include "event_memory.h"
#include "openai_connection.h"
#include "openai_error.h"
#include "openai_internal.h"
#include "openai_models.h"
#include "openai_request.h"
#include "openai_tcp.h"
#include "service.h"

enum { ANSWER_MAX_BYTES = 36 << 20, ERROR_MAX_BYTES = 65536 };

static struct openai_connection *connection_of(struct openai_exchange *x)
{
    return container_of(x, struct openai_connection, exchange);
}

/* ---- Sending ---- */

static void add_header(struct openai_exchange *x, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(x->http), name, value);
}

static void add_number(struct openai_exchange *x, const char *name, int64_t number)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)number);
    add_header(x, name, text);
}

/* Draining; or there is no memory for one more request, which evhttp would not get over. */
static void close_if_last(struct openai_exchange *x)
{
    if (openai_is_draining(connection_of(x)->openai) || !event_memory_reserve())
        add_header(x, "Connection", "close");
}

/* Those of every answer. */
static void add_headers(struct openai_exchange *x, const char *type)
{
    const struct call *call = x->call;

    add_header(x, "Content-Type", type);
    add_header(x, "x-request-id", call->id);
    if (*call->head.request_id)
        add_header(x, "x-upstream-request-id", call->head.request_id);
    close_if_last(x);
}

/* The bytes in one piece of the chunked encoding. 0 or negative errno. */
static int send_piece(struct openai_exchange *x, const void *data, size_t len)
{
    struct evbuffer *piece = evbuffer_new();
    int r = piece && evbuffer_add(piece, data, len) == 0 ? 0 : -ENOMEM;

    if (r == 0)
        evhttp_send_reply_chunk(x->http, piece);
    if (piece)
        evbuffer_free(piece);
    openai_connection_push_output(connection_of(x));
    return r;
}

/* Events, as text. 0 or negative errno: nothing more of this stream can be trusted. */
static int send_events(struct openai_exchange *x, const void *text, size_t len)
{
    int r = openai_connection_charge_output(connection_of(x), len);

    if (r == 0 && !x->begun) {
        add_headers(x, "text/event-stream; charset=utf-8");
        add_header(x, "Cache-Control", "no-cache");
        evhttp_send_reply_start(x->http, 200, openai_status_phrase(200));
        x->begun = true;
    }
    return r < 0 ? r : send_piece(x, text, len);
}

static bool is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

/* The upstream's words on one line: control characters stand between values only. What is not
 * UTF-8 is repaired, as for everybody. */
static void append_json(struct buffer *out, const uint8_t *json, size_t len)
{
    size_t from = buffer_length(out);

    for (; len > 0 && is_space(*json); len--)
        json++;
    while (len > 0 && is_space(json[len - 1]))
        len--;
    if (utf8_is_valid(json, len))
        buffer_append(out, json, len);
    else
        utf8_append_repaired(out, json, len);
    uint8_t *p = buffer_bytes(out);
    for (; from < buffer_length(out); from++)
        if (p[from] < ' ')
            p[from] = ' ';
}

/* ---- The call's front ---- */

static struct buffer *reply_begin(struct call *call)
{
    struct openai_exchange *x = call->front_user;

    return &x->message;
}

static void reply_abort(struct call *call)
{
    struct openai_exchange *x = call->front_user;

    buffer_done(&x->message);
}

static int reply_end(struct call *call, const uint8_t *json, size_t len)
{
    struct openai_exchange *x = call->front_user;
    int r = x->message.error;

    reply_abort(call);
    if (r < 0)
        return r;
    if (call->stream)
        buffer_append_string(&x->answer, "data: ");
    append_json(&x->answer, json, len);
    buffer_append_string(&x->answer, call->stream ? "\n\n" : "\n");
    r = x->answer.error;
    if (r == 0 && call->stream)
        r = send_events(x, buffer_bytes(&x->answer), buffer_length(&x->answer));
    if (r < 0 || call->stream)
        buffer_done(&x->answer);
    x->waits = openai_connection_is_full(connection_of(x));
    return r;
}

static bool is_full(const struct call *call)
{
    const struct openai_exchange *x = call->front_user;

    return x->waits;
}

/* An error of the upstream's has its own status. */
static int status_of(const struct call *call, const struct call_error *error)
{
    bool is_upstreams = !strncmp(error->reason, "UPSTREAM_", 9);

    return openai_error_status(error, is_upstreams ? call->head.status : 0);
}

static void note_error(struct openai_exchange *x, const struct call_error *error)
{
    const struct call *call = x->call;
    int64_t retry_after_ms = call_retry_after_ms(call, error);
    struct call_error told = *error;

    told.maybe_executed = call->maybe_executed;
    if (x->http_status == 0)
        x->http_status = status_of(call, error);
    buffer_done(&x->answer);
    if (x->begun)
        buffer_append_string(&x->answer, "data: ");
    openai_error_write(&told, x->http_status, &x->answer);
    buffer_append_string(&x->answer, x->begun ? "\n\n" : "\n");
    x->failed = true;
    if (x->begun)
        return;
    if (retry_after_ms >= 0) {
        add_number(x, "retry-after-ms", retry_after_ms);
        add_number(x, "retry-after", (retry_after_ms + 999) / 1000);
    }
    /* The SDKs repeat some of what will never succeed. */
    if (!error->retryable)
        add_header(x, "x-should-retry", "false");
}

static void finish(struct call *call, const struct call_error *error)
{
    struct openai_exchange *x = call->front_user;

    x->finished = true;
    if (error)
        note_error(x, error);
    openai_connection_wake(connection_of(x));
}

static const struct call_front front = {
    .reply_begin = reply_begin,
    .reply_end = reply_end,
    .reply_abort = reply_abort,
    .is_full = is_full,
    .finish = finish,
};

/* ---- What is asked for ---- */

static void refuse(struct openai_exchange *x, int http_status, enum grpc_status status,
                   const char *reason, const char *param, const char *message)
{
    x->http_status = http_status;
    call_fail(x->call, &(struct call_error){
                           .status = status,
                           .reason = reason,
                           .message = message,
                           .param = param,
                           .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                       });
}

/* Most clients can't do without a key and send any: it counts only where the policy lets a caller
 * have its own. */
static bool take_own_key(struct openai_exchange *x)
{
    struct openai_connection *c = connection_of(x);
    struct policy policy = policy_find(c->worker->config, &c->caller);
    const char *key = policy.allow_own_key && !x->has_token ? openai_bearer_of(x->http) : NULL;

    if (key && !(x->own_key = strdup(key))) {
        call_fail_for_memory(x->call, -ENOMEM, COMPLETION__V1__PHASE__PHASE_LOCAL);
        return false;
    }
    x->call->own_key = x->own_key;
    return true;
}

static void run_message(struct openai_exchange *x, const struct buffer *message, int r,
                        const struct translate_refusal *refusal)
{
    struct call *call = x->call;

    if (r == -EINVAL)
        refuse(x, 0, refusal->status, "INVALID_REQUEST", *refusal->field ? refusal->field : NULL,
               refusal->text);
    else if (r == -EMSGSIZE)
        refuse(x, 413, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
               "the request is larger than 4 MiB; make it smaller");
    else if (r < 0)
        call_fail_for_memory(call, r, COMPLETION__V1__PHASE__PHASE_LOCAL);
    else if (take_own_key(x))
        call_run(call, buffer_bytes(message), buffer_length(message));
}

/* The body is one piece for the time of its reading. */
static void run_completions(struct openai_exchange *x)
{
    struct openai_connection *c = connection_of(x);
    struct evbuffer *body = evhttp_request_get_input_buffer(x->http);
    struct buffer message = BUFFER_INIT_IN(OPENAI_BODY_MAX_BYTES, &c->memory);
    size_t len = evbuffer_get_length(body);
    struct translate_refusal refusal;
    bool stream = false;
    int r = -EDQUOT;

    if (memory_charge(&c->memory, len)) {
        const uint8_t *json = evbuffer_pullup(body, -1);
        r = len > 0 && !json ? -ENOMEM
                             : openai_request_read(json ? (const char *)json : "", len, &message,
                                                   &stream, &refusal);
        memory_release(&c->memory, len);
    }
    evbuffer_drain(body, len);
    openai_connection_release_input(c, len);
    if (stream)
        x->call->method = &service_openai_stream;
    x->call->priority = evhttp_find_header(evhttp_request_get_input_headers(x->http), "Priority");
    run_message(x, &message, r, &refusal);
    buffer_done(&message);
}

static void run_models(struct openai_exchange *x, const char *name)
{
    struct openai_connection *c = connection_of(x);
    struct policy policy = policy_find(c->worker->config, &c->caller);

    if (!openai_models_write(c->worker, &policy, name, &x->answer))
        refuse(x, 0, GRPC_NOT_FOUND, "NO_UPSTREAM", "model",
               "no upstream in the daemon's configuration serves this model, or your policy does "
               "not allow it");
    else if (x->answer.error)
        call_fail_for_memory(x->call, x->answer.error, COMPLETION__V1__PHASE__PHASE_LOCAL);
    else
        call_finish(x->call);
}

static void run_unknown(struct openai_exchange *x, const char *allowed)
{
    if (allowed) {
        add_header(x, "Allow", allowed);
        refuse(x, 405, GRPC_UNIMPLEMENTED, "UNKNOWN_METHOD", NULL,
               "this path has no such method; see the header Allow");
    } else {
        refuse(x, 404, GRPC_UNIMPLEMENTED, "UNKNOWN_METHOD", NULL,
               "there is nothing at this path; there are POST /v1/completions, GET /v1/models and "
               "GET /v1/models/MODEL");
    }
}

#define MODELS_PATH "/v1/models"

static const char *path_of(const struct evhttp_request *http)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(http);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;

    return path ? path : "";
}

static const struct service_method *method_of(const char *path)
{
    const char *rest = path + sizeof MODELS_PATH - 1;

    if (!strcmp(path, service_openai.path))
        return &service_openai;
    if (!strncmp(path, MODELS_PATH, sizeof MODELS_PATH - 1) &&
        (*rest == '\0' || (*rest == '/' && rest[1])))
        return &service_openai_models;
    return NULL;
}

static void run(struct openai_exchange *x, const char *path)
{
    enum evhttp_cmd_type command = evhttp_request_get_command(x->http);

    if (x->call->method == &service_openai) {
        if (command == EVHTTP_REQ_POST)
            run_completions(x);
        else
            run_unknown(x, "POST");
    } else if (x->call->method == &service_openai_models) {
        const char *rest = path + sizeof MODELS_PATH - 1;
        if (command == EVHTTP_REQ_GET || command == EVHTTP_REQ_HEAD)
            run_models(x, *rest ? rest + 1 : NULL);
        else
            run_unknown(x, "GET, HEAD");
    } else {
        run_unknown(x, NULL);
    }
}

void openai_exchange_begin(struct openai_connection *c, struct evhttp_request *http)
{
    struct openai_exchange *x = &c->exchange;
    const char *path = path_of(http);

    *x = (struct openai_exchange){
        .http = http,
        .message = BUFFER_INIT_IN(ANSWER_MAX_BYTES, &c->memory),
        .answer = BUFFER_INIT_IN(ANSWER_MAX_BYTES, &c->memory),
        .is_head = evhttp_request_get_command(http) == EVHTTP_REQ_HEAD,
    };
    openai_connection_begin_exchange(c);
    const struct openai_refusal *refusal = openai_identify(c, http, &x->has_token);
    x->call = call_begin(&front, x, c->worker, &c->caller, c->account, &c->memory, method_of(path));
    if (!x->call) {
        openai_connection_cut(c);
        return;
    }
    if (c->verdict == ADMISSION_REFUSED) {
        add_header(x, "Connection", "close");
        refuse(x, 429, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
               "too many connections of this user (see max_connections); close some");
        return;
    }
    if (!refusal) {
        run(x, path);
        return;
    }
    if (refusal->http_status == 401)
        add_header(x, "WWW-Authenticate", "Bearer");
    refuse(x, refusal->http_status, refusal->status, refusal->reason, refusal->param,
           refusal->message);
}

/* ---- The end ---- */

static void forget(struct openai_exchange *x, const char *reason)
{
    if (x->call)
        call_end(x->call, reason);
    x->call = NULL;
    buffer_done(&x->message);
    buffer_done(&x->answer);
    if (x->own_key)
        explicit_bzero(x->own_key, strlen(x->own_key));
    free(x->own_key);
    x->own_key = NULL;
}

void openai_exchange_abandon(struct openai_connection *c, const char *reason)
{
    struct openai_exchange *x = &c->exchange;

    forget(x, reason);
    /* While it has a connection it goes with that. */
    if (x->http && !evhttp_request_get_connection(x->http)) {
        evhttp_request_free(x->http);
        x->http = NULL;
    }
}

static void send_whole(struct openai_exchange *x)
{
    struct openai_connection *c = connection_of(x);
    struct evbuffer *body = evbuffer_new();
    size_t len = buffer_length(&x->answer);
    int status = x->http_status ? x->http_status : 200;

    if (!body || x->answer.error || openai_connection_charge_output(c, len) < 0 ||
        (!x->is_head && evbuffer_add(body, buffer_bytes(&x->answer), len) < 0)) {
        openai_connection_cut(c);
    } else {
        add_headers(x, "application/json");
        evhttp_send_reply(x->http, status, openai_status_phrase(status), body);
        openai_connection_push_output(c);
    }
    if (body)
        evbuffer_free(body);
}

/* What a stream ends with; without it, it has been cut. */
static int end_stream(struct openai_exchange *x)
{
    static const char done[] = "data: [DONE]\n\n";

    if (!x->failed)
        return send_events(x, done, sizeof done - 1);
    return x->answer.error ? x->answer.error
                           : send_events(x, buffer_bytes(&x->answer), buffer_length(&x->answer));
}

void openai_exchange_look(struct openai_connection *c)
{
    struct openai_exchange *x = &c->exchange;

    if (x->call && x->waits && !openai_connection_is_full(c)) {
        x->waits = false;
        call_writable(x->call);
    }
    if (!x->call || !x->finished)
        return;
    struct evhttp_request *http = x->http;
    bool is_stream = x->call->stream && (x->begun || !x->failed);
    bool is_broken = is_stream && x->failed;
    if (is_stream && x->begun)
        close_if_last(x);
    if (is_stream && end_stream(x) < 0)
        openai_connection_cut(c);
    else if (!is_stream)
        send_whole(x);
    forget(x, NULL);
    if (c->cut)
        return;
    if (is_broken) {
        /* Without the last chunk nobody can take it for whole. */
        openai_connection_close_when_sent(c);
        return;
    }
    x->http = NULL;
    openai_connection_end_exchange(c);
    if (is_stream) {
        c->is_sending = true;
        evhttp_send_reply_end(http);
        c->is_sending = false;
    }
}
