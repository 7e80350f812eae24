/* Error objects: what happened here, or what the daemon said of it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/unpack.h"
#include "../proto/utf8.h"
#include "internal.h"

#define DETAIL_TYPE "type.googleapis.com/completion.v1.ErrorDetail"

static void error_reset(completion_error *e, enum completion_status status)
{
    memset(e, 0, sizeof *e);
    e->status = status;
    e->retry_after_ms = -1;
    e->phase = "";
}

EXPORT completion_error *completion_error_new(void)
{
    completion_error *e = malloc(sizeof *e);

    if (e)
        error_reset(e, COMPLETION_OK);
    return e;
}

EXPORT completion_error *completion_error_free(completion_error *e)
{
    free(e);
    return NULL;
}

int error_set(completion_error *e, int r, enum completion_status status, const char *format, ...)
{
    va_list args;

    if (!e)
        return r;
    error_reset(e, status);
    e->retryable = status == COMPLETION_UNAVAILABLE;
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    return r;
}

/* The daemon's texts have no NUL; one that has is cut there. */
static void set_text(char *out, size_t size, protobuf_c_boolean has,
                     const ProtobufCBinaryData *text)
{
    if (!has)
        return;
    size_t n = utf8_truncate(text->data, text->len, size - 1);
    if (n)
        memcpy(out, text->data, n);
    out[n] = '\0';
}

static const char *phase_name(Completion__V1__Phase phase)
{
    static const char *const names[] = {"",    "local", "resolve", "connect",
                                        "tls", "send",  "headers", "body"};

    return (unsigned)phase < sizeof names / sizeof *names ? names[phase] : "";
}

static void set_details(completion_error *e, const Completion__V1__ErrorDetail *d)
{
#define SET(field, member) set_text(e->field, sizeof e->field, d->has_##member, &d->member)
    SET(reason, reason);
    SET(type, type);
    SET(param, param);
    SET(code, code);
    SET(api_message, message);
    SET(upstream, upstream);
    SET(endpoint, endpoint);
    SET(request_id, upstream_request_id);
    SET(call_id, call_id);
#undef SET
    e->phase = phase_name(d->phase);
    e->http_status = d->http_status;
    e->attempts = d->attempts;
    e->chunks_sent = d->chunks_sent;
    e->maybe_executed = d->maybe_executed;
    e->retryable = d->retryable;
    if (d->has_retry_after_ms)
        e->retry_after_ms = d->retry_after_ms;
}

/* Said of a request, before anything is done with it. */
static bool is_refusal(enum completion_status status)
{
    switch (status) {
    case COMPLETION_INVALID_ARGUMENT:
    case COMPLETION_NOT_FOUND:
    case COMPLETION_PERMISSION_DENIED:
    case COMPLETION_FAILED_PRECONDITION:
    case COMPLETION_OUT_OF_RANGE:
    case COMPLETION_UNIMPLEMENTED:
    case COMPLETION_UNAUTHENTICATED:
        return true;
    default:
        return false;
    }
}

void error_from_call(completion_error *e, const struct grpc_client_call *call)
{
    enum grpc_status status = grpc_client_call_status(call);
    const char *message = grpc_client_call_message(call);
    const uint8_t *value;
    size_t len, details_len;
    const uint8_t *details = grpc_client_call_details(call, &details_len);
    struct unpack_error ignored;
    ProtobufCMessage *detail;

    if (!e)
        return;
    error_set(e, 0, (enum completion_status)status, "%s",
              *message ? message : grpc_status_name((int)status));
    if (details && grpc_status_find_detail(details, details_len, DETAIL_TYPE, &value, &len) == 0 &&
        unpack_message(UNPACK_REPLY, &completion__v1__error_detail__descriptor, value, len, &detail,
                       &ignored) == 0) {
        set_details(e, (const Completion__V1__ErrorDetail *)detail);
        unpack_free(detail);
    } else {
        /* The daemon had no word on it, or was cut off. */
        e->maybe_executed = !is_refusal(e->status) && !grpc_client_call_was_unprocessed(call);
        e->retryable = e->status == COMPLETION_UNAVAILABLE;
    }
}

EXPORT enum completion_status completion_error_status(const completion_error *e)
{
    return e ? e->status : COMPLETION_UNKNOWN;
}

EXPORT const char *completion_error_status_name(const completion_error *e)
{
    return e ? grpc_status_name((int)e->status) : "UNKNOWN";
}

#define GETTER(type, name, absent)                                                                 \
    EXPORT type completion_error_##name(const completion_error *e)                                 \
    {                                                                                              \
        return e ? e->name : (absent);                                                             \
    }
GETTER(const char *, message, "")
GETTER(const char *, reason, "")
GETTER(const char *, type, "")
GETTER(const char *, param, "")
GETTER(const char *, code, "")
GETTER(const char *, api_message, "")
GETTER(const char *, upstream, "")
GETTER(const char *, endpoint, "")
GETTER(const char *, request_id, "")
GETTER(const char *, call_id, "")
GETTER(const char *, phase, "")
GETTER(int, http_status, 0)
GETTER(int64_t, retry_after_ms, -1)
GETTER(int, attempts, 0)
GETTER(int64_t, chunks_sent, 0)
GETTER(int, maybe_executed, 0)
GETTER(int, retryable, 0)
