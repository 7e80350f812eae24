#include "openai_error.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "../proto/json_writer.h"
#include "../proto/utf8.h"
#include "call.h"

enum { TEXT_MAX_BYTES = 16384, CODE_SIZE = 64 };

/* ---- The status ---- */

/* Words that say more than their gRPC status. */
static const struct {
    const char *reason;
    int http_status;
} by_reason[] = {
    {"OUT_OF_MEMORY", 503},    {"SHUTTING_DOWN", 503},  {"CALLER_STALLED", 408},
    {"UPSTREAM_TIMEOUT", 504}, {"STREAM_STALLED", 504}, {"UPSTREAM_BROKEN", 502},
    {"STREAM_TRUNCATED", 502}, {"UPSTREAM_TLS", 502},   {"UPSTREAM_REDIRECT", 502},
    {"WRONG_BASE_URL", 502},   {"UPSTREAM_QUOTA", 429}, {"BAD_UPSTREAM_RESPONSE", 502},
};

static int by_status(enum grpc_status status)
{
    switch (status) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_OUT_OF_RANGE:
    case GRPC_FAILED_PRECONDITION:
        return 400;
    case GRPC_UNAUTHENTICATED:
        return 401;
    case GRPC_PERMISSION_DENIED:
        return 403;
    case GRPC_NOT_FOUND:
    case GRPC_UNIMPLEMENTED:
        return 404;
    case GRPC_ALREADY_EXISTS:
    case GRPC_ABORTED:
        return 409;
    case GRPC_RESOURCE_EXHAUSTED:
        return 429;
    case GRPC_CANCELLED:
    case GRPC_UNAVAILABLE:
        return 503;
    case GRPC_DEADLINE_EXCEEDED:
        return 504;
    default:
        return 500;
    }
}

/* A request that is too large will be so tomorrow. */
static bool is_too_large(const struct call_error *e)
{
    return !strcmp(e->reason, "LOCAL_LIMIT") && !e->retryable && !e->param;
}

int openai_error_status(const struct call_error *e, int upstream_status)
{
    if (upstream_status >= 400 && upstream_status <= 599)
        return upstream_status;
    if (is_too_large(e))
        return 413;
    for (size_t i = 0; i < sizeof by_reason / sizeof *by_reason; i++)
        if (!strcmp(by_reason[i].reason, e->reason))
            return by_reason[i].http_status;
    return by_status(e->status);
}

const char *openai_status_phrase(int http_status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };

    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        if (phrases[i].status == http_status)
            return phrases[i].phrase;
    return "Error";
}

/* ---- The object ---- */

static const char *type_of(int http_status)
{
    if (http_status == 429)
        return "rate_limit_error";
    return http_status < 500 ? "invalid_request_error" : "server_error";
}

/* The API's own code for what it has one for, else the reason in its style. */
static const char *code_of(const struct call_error *e, char code[static CODE_SIZE])
{
    size_t i = 0;

    if (!strcmp(e->reason, "NO_UPSTREAM"))
        return "model_not_found";
    if (e->status == GRPC_UNAUTHENTICATED)
        return "invalid_api_key";
    for (; e->reason[i] && i < CODE_SIZE - 1; i++)
        code[i] = (char)tolower((unsigned char)e->reason[i]);
    code[i] = '\0';
    return code;
}

/* A field of the message, whose name begins with the name that the API has for it. */
static const char *param_of(const char *field)
{
    static const char *const forms[] = {"prompt", "stop"};

    if (!strcmp(field, "completion-api-key"))
        return "Authorization";
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        size_t len = strlen(forms[i]);
        if (!strncmp(field, forms[i], len) && field[len] == '_')
            return forms[i];
    }
    return !strncmp(field, "stream_options", 14) ? "stream_options" : field;
}

/* Texts may be cut anywhere. */
static void put_text(struct json_writer *w, const char *key, const char *text)
{
    struct buffer repaired = BUFFER_INIT(TEXT_MAX_BYTES);

    json_key(w, key);
    if (text)
        utf8_append_repaired(&repaired, text, strlen(text));
    if (!text || repaired.error)
        json_null(w);
    else
        json_string(w, buffer_bytes(&repaired), buffer_length(&repaired));
    buffer_done(&repaired);
}

static const char *or_null(const char *text)
{
    return text && *text ? text : NULL;
}

/* Messages of the daemon begin with the name of the field. */
static void put_message(struct json_writer *w, const struct call_error *e)
{
    const char *field = or_null(e->param), *message = e->message;
    char text[1024];

    if (field && !e->api_message && param_of(field) != field &&
        !strncmp(message, field, strlen(field))) {
        snprintf(text, sizeof text, "%s%s", param_of(field), message + strlen(field));
        message = text;
    }
    put_text(w, "message", message);
}

void openai_error_write(const struct call_error *e, int http_status, struct buffer *out)
{
    struct json_writer w = json_writer(out);
    const char *param = or_null(e->param);
    char code[CODE_SIZE];

    json_begin_object(&w);
    json_key(&w, "error");
    json_begin_object(&w);
    put_message(&w, e);
    put_text(&w, "type", or_null(e->type) ? e->type : type_of(http_status));
    put_text(&w, "param", param && !e->api_message ? param_of(param) : param);
    put_text(&w, "code", or_null(e->code) ? e->code : code_of(e, code));
    put_text(&w, "reason", e->reason);
    json_key(&w, "retryable");
    json_bool(&w, e->retryable);
    json_key(&w, "maybe_executed");
    json_bool(&w, e->maybe_executed);
    json_end_object(&w);
    json_end_object(&w);
}
