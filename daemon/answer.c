#include "answer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attempt.h"
#include "call.h"
#include "config.h"
#include "connection.h"
#include "metrics.h"
#include "redact.h"
#include "retry.h"

enum { ERROR_BODY_MAX_BYTES = 65536 };

enum { WHO_SIZE = 512 };

/* Who was asked, for the caller: "NAME", and where it is one of several. */
static const char *who(const struct call *call, char out[static WHO_SIZE])
{
    const struct upstream *u = call->upstream;
    int n = snprintf(out, WHO_SIZE, "\"%.64s\"", upstream_settings(u)->name);

    if (upstream_n_endpoints(u) > 1)
        snprintf(out + n, WHO_SIZE - (size_t)n, " at %.200s", endpoint_name(call->endpoint));
    return out;
}

/* Who was asked before that; "" where nobody was, or there is nobody else. */
static const char *who_else(const struct call *call, char out[static WHO_SIZE])
{
    uint64_t others = call->tried & ~endpoint_bit(call->endpoint);
    static const char prefix[] = "; before that it was asked at ";

    *out = '\0';
    if (others)
        upstream_name_endpoints(call->upstream, others, stpcpy(out, prefix),
                                WHO_SIZE / 2 - sizeof prefix);
    return out;
}

/* PHASE_RESOLVE and those behind it are in the order of enum transfer_phase. */
Completion__V1__Phase answer_phase(enum transfer_phase phase)
{
    return (Completion__V1__Phase)(COMPLETION__V1__PHASE__PHASE_RESOLVE + (int)phase);
}

/* The attempt has failed: it is repeated, or else the call ends with the error. */
static void fail_attempt(struct call *call, const struct retry_facts *facts,
                         const struct call_error *error)
{
    call->maybe_executed = call->maybe_executed || error->maybe_executed;
    if (!attempt_again(call, facts, error->reason))
        call_fail(call, error);
}

/* Nothing more is to be made of this attempt's answer. */
static bool is_over(const struct call *call)
{
    return call->state == CALL_FINISHED || call->is_backing_off;
}

/* No other attempt would help. */
static void fail(struct call *call, enum grpc_status status, const char *reason, bool retryable,
                 const char *message)
{
    call_fail(call, &(struct call_error){
                        .status = status,
                        .reason = reason,
                        .message = message,
                        .phase = COMPLETION__V1__PHASE__PHASE_BODY,
                        .maybe_executed = true,
                        .retryable = retryable,
                    });
}

/* ---- Errors that the upstream reports ---- */

static const char *hint_for(const char *reason)
{
    static const struct {
        const char *reason, *hint;
    } hints[] = {
        {"UPSTREAM_AUTH",
         "; the daemon's key for this upstream is missing, wrong or not allowed to "
         "do this: ask its administrator"},
        {"UPSTREAM_QUOTA", "; the account is out of credit: ask its administrator"},
        {"UPSTREAM_REDIRECT", "; redirects are not followed: correct base_url"},
        {"WRONG_BASE_URL", "; check base_url, which mostly ends in /v1"},
    };

    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
        if (!strcmp(hints[i].reason, reason))
            return hints[i].hint;
    return "";
}

/* NULL: none was sent. */
static const char *sent_key(const struct call *call)
{
    const struct secret *key = upstream_settings(call->upstream)->key;

    return call->own_key ? call->own_key : key ? key->text : NULL;
}

/* http_status 0: an error inside a response that began well. */
static void fail_as_upstream_says(struct call *call, int http_status, const uint8_t *body,
                                  size_t len)
{
    struct translate_error e;
    char text[GRPC_MESSAGE_MAX], status[32] = "", name[WHO_SIZE], others[WHO_SIZE];

    translate_error(http_status, body, len, sent_key(call), buffer_bytes(&call->request->bytes),
                    buffer_length(&call->request->bytes), &e);
    if (http_status > 0)
        snprintf(status, sizeof status, " answered %d", http_status);
    else
        snprintf(status, sizeof status, " reported an error");
    who_else(call, others);
    /* The hint must not be what is cut. */
    snprintf(text, sizeof text, "upstream %s%s%s%.*s%s%s", who(call, name), status,
             *e.message ? ": " : "", *others ? 350 : 600, e.message, others, hint_for(e.reason));
    if (e.status == GRPC_UNAUTHENTICATED && !call->own_key)
        upstream_complain(call->upstream, http_status);
    fail_attempt(call,
                 &(struct retry_facts){
                     .http_status = http_status > 0 ? http_status : e.http_status,
                     .should_retry = call->head.should_retry,
                     .retry_after_ms = call->head.retry_after_ms,
                     .was_sent = true,
                     .is_final = !strcmp(e.reason, "UPSTREAM_QUOTA"),
                 },
                 &(struct call_error){
                     .status = e.status,
                     .reason = e.reason,
                     .message = text,
                     .type = e.type,
                     .param = e.param,
                     .code = e.code,
                     .api_message = e.message,
                     .phase = http_status > 0 ? COMPLETION__V1__PHASE__PHASE_HEADERS
                                              : COMPLETION__V1__PHASE__PHASE_BODY,
                     .maybe_executed = http_status == 0 || http_status >= 500,
                     .retryable = e.retryable,
                 });
}

static void fail_as_error_body_says(struct call *call)
{
    const uint8_t *body = buffer_bytes(&call->body);
    size_t len = buffer_length(&call->body);

    if (call->head.is_event_stream)
        translate_error_event(&body, &len);
    fail_as_upstream_says(call, call->head.status, body, len);
}

static void fail_as_malformed(struct call *call, const char *why)
{
    char text[GRPC_MESSAGE_MAX], name[WHO_SIZE];

    snprintf(text, sizeof text,
             "upstream %s sent what is not an answer of the Completions API: %s; check that "
             "base_url is that of such a server",
             who(call, name), why);
    fail(call, GRPC_INTERNAL, "BAD_UPSTREAM_RESPONSE", false, text);
}

static void fail_without_choices(struct call *call)
{
    char text[GRPC_MESSAGE_MAX], name[WHO_SIZE];

    snprintf(text, sizeof text,
             "upstream %s answered, but not in the form of the Completions API (no "
             "\"choices\"): base_url seems to lack /v1",
             who(call, name));
    fail(call, GRPC_INTERNAL, "WRONG_BASE_URL", false, text);
}

/* ---- Bodies ---- */

/* One JSON text becomes one reply. True if the call can go on. */
static bool reply_with(struct call *call, const uint8_t *json, size_t len, bool whole)
{
    const char *why = "";
    struct buffer *reply = call_reply_begin(call);
    enum translate_kind kind =
        whole ? translate_response(json, len, true, call->keep_obfuscation, &call->progress, reply,
                                   &why)
              : translate_chunk(&call->pattern, json, len, call->keep_obfuscation, &call->progress,
                                reply, &why);

    /* Without memory the kind says nothing; ending the reply fails the call then. */
    if (kind == TRANSLATE_COMPLETION || reply->error) {
        call_pass_on(call, json, len);
        return !is_over(call);
    }
    call_reply_abort(call);
    switch (kind) {
    case TRANSLATE_ERROR:
        fail_as_upstream_says(call, 0, json, len);
        return false;
    case TRANSLATE_MALFORMED:
        fail_as_malformed(call, why);
        return false;
    case TRANSLATE_NO_CHOICES:
    case TRANSLATE_NOTHING:
    case TRANSLATE_COMPLETION:
        break;
    }
    if (whole) {
        fail_without_choices(call);
        return false;
    }
    /* Harmless in a stream: the end will tell. */
    call->saw_other_events = call->saw_other_events || kind == TRANSLATE_NO_CHOICES;
    return true;
}

static bool on_event(void *user, const uint8_t *data, size_t len)
{
    return reply_with(user, data, len, false);
}

/* Who goes on behind [DONE] is not to be asked on the same connection. */
static void finish_done(struct call *call)
{
    if (call->transfer && sse_parser_has_surplus(&call->sse)) {
        upstream_cancel(call->transfer);
        call->transfer = NULL;
    }
    call_finish(call);
}

/* [DONE] without an error before it is the only proof that a stream is whole. */
static void check_events(struct call *call, int r)
{
    if (is_over(call))
        return;
    if (r == -ENOMEM || r == -EDQUOT)
        call_fail_for_memory(call, r, COMPLETION__V1__PHASE__PHASE_BODY);
    else if (r < 0)
        fail_as_malformed(call, "an event of more than 16 MiB");
    else if (sse_parser_is_done(&call->sse) && call->n_replies == 0 && call->saw_other_events)
        fail_without_choices(call);
    else if (sse_parser_is_done(&call->sse))
        finish_done(call);
}

static void on_data(void *user, const uint8_t *data, size_t len)
{
    struct call *call = user;

    switch (call->response) {
    case CALL_RESPONSE_EVENTS:
        check_events(call, sse_parser_feed(&call->sse, data, len, on_event, call));
        return;
    case CALL_RESPONSE_WHOLE:
        buffer_append(&call->body, data, len);
        if (call->body.error == -EMSGSIZE)
            fail_as_malformed(call, "an answer of more than 32 MiB");
        else if (call->body.error)
            call_fail_for_memory(call, call->body.error, COMPLETION__V1__PHASE__PHASE_BODY);
        return;
    case CALL_RESPONSE_ERROR:
        if (len > ERROR_BODY_MAX_BYTES - buffer_length(&call->body))
            len = ERROR_BODY_MAX_BYTES - buffer_length(&call->body);
        buffer_append(&call->body, data, len);
        /* Servers have sent megabytes here. */
        if (buffer_length(&call->body) == ERROR_BODY_MAX_BYTES)
            fail_as_error_body_says(call);
        return;
    case CALL_RESPONSE_NONE:
        return;
    }
}

/* libcurl sends a request again by itself where a reused connection turns out to be dead. */
static void count_attempts(struct call *call, unsigned n_sent)
{
    call->attempts = call->attempts_before + (n_sent > 0 ? n_sent : 1);
}

static void on_head(void *user, const struct transfer_head *head)
{
    struct call *call = user;

    call->head = *head;
    call->times.head_us = worker_now_us();
    if (head->status >= 200 && head->status <= 299)
        metrics_observe(&upstream_metrics(call->upstream)->first_byte,
                        call->times.head_us - call->times.asks_since_us);
    if (redact_has_secret(head->request_id, sent_key(call)))
        *call->head.request_id = '\0';
    count_attempts(call, head->n_sent);
    if (head->status < 200 || head->status > 299)
        call->response = CALL_RESPONSE_ERROR;
    else if (head->is_encoded)
        fail_as_malformed(call, "a compressed body, which nobody asked for");
    else if (head->is_event_stream && call->stream)
        call->response = CALL_RESPONSE_EVENTS;
    else
        call->response = CALL_RESPONSE_WHOLE;
}

/* ---- The end of the transfer ---- */

static void fail_as_transfer_ended(struct call *call, const struct transfer_result *result)
{
    const struct config_upstream *settings = upstream_settings(call->upstream);
    enum transfer_outcome outcome = result->outcome;
    bool cut = call->n_replies > 0 || result->phase == TRANSFER_BODY;
    const char *reason = "", *what = "";
    char timer[96] = "", text[GRPC_MESSAGE_MAX], name[WHO_SIZE], others[WHO_SIZE];
    int64_t limit_us = 0;

    /* libcurl is content with a status line that nothing follows. */
    if (outcome == TRANSFER_COMPLETE && call->response == CALL_RESPONSE_NONE)
        outcome = TRANSFER_BROKEN;
    switch (outcome) {
    case TRANSFER_COMPLETE:
        reason = "STREAM_TRUNCATED";
        what = "ended the stream without saying that the answer is whole";
        break;
    case TRANSFER_BROKEN:
        reason = cut ? "STREAM_TRUNCATED" : "UPSTREAM_BROKEN";
        what = cut ? "broke off in the middle of the answer" : "broke off without an answer";
        break;
    case TRANSFER_UNREACHABLE:
        reason = "UPSTREAM_UNREACHABLE";
        what = "can't be reached (check base_url, and that the server runs)";
        break;
    case TRANSFER_TLS_REFUSED:
        reason = "UPSTREAM_TLS";
        what = "can't be trusted (check its certificate, base_url and ca_file)";
        break;
    case TRANSFER_TLS_FAILED:
        reason = "UPSTREAM_TLS";
        what =
            "failed to negotiate TLS (check base_url, and that the server speaks TLS 1.2 or 1.3)";
        break;
    case TRANSFER_CONNECT_TIMEOUT:
        reason = "UPSTREAM_TIMEOUT";
        what = "did not accept a connection in time";
        limit_us = settings->connect_timeout_us;
        snprintf(timer, sizeof timer, ": connect_timeout");
        break;
    case TRANSFER_FIRST_BYTE_TIMEOUT:
        reason = "UPSTREAM_TIMEOUT";
        what = "did not begin to answer in time";
        limit_us = settings->first_byte_timeout_us;
        snprintf(timer, sizeof timer, ": first_byte_timeout");
        break;
    case TRANSFER_IDLE_TIMEOUT:
        reason = "STREAM_STALLED";
        what = "fell silent in the middle of the answer";
        limit_us = settings->idle_timeout_us;
        snprintf(timer, sizeof timer, ": idle_timeout");
        break;
    case TRANSFER_HEAD_TOO_LARGE:
        fail_as_malformed(call, "more than 256 KiB of headers");
        return;
    case TRANSFER_NOT_RESENT:
        reason = "UPSTREAM_BROKEN";
        what = "closed the connection, and resend = no forbids to send the request again";
        break;
    case TRANSFER_LOOKUPS_HANG:
        reason = "UPSTREAM_UNREACHABLE";
        what = "was not asked: too many look-ups of names hang (check the name servers)";
        break;
    case TRANSFER_NO_DESCRIPTOR:
        call_fail_for_memory(call, -EMFILE, answer_phase(result->phase));
        return;
    case TRANSFER_OUT_OF_MEMORY:
        call_fail_for_memory(call, -ENOMEM, answer_phase(result->phase));
        return;
    }
    if (limit_us > 0) {
        size_t n = strlen(timer);
        snprintf(timer + n, sizeof timer - n, " (%.6g s)", (double)limit_us / 1e6);
    }
    snprintf(text, sizeof text, "upstream %s %s%s%s%s%s", who(call, name), what, timer,
             *result->reason ? ": " : "", result->reason, who_else(call, others));
    fail_attempt(
        call,
        &(struct retry_facts){
            .retry_after_ms = -1,
            .was_sent = result->n_sent > 0,
            .is_final = call->head.status > 0 || outcome == TRANSFER_TLS_REFUSED,
        },
        &(struct call_error){
            .status = outcome == TRANSFER_LOOKUPS_HANG ? GRPC_RESOURCE_EXHAUSTED : GRPC_UNAVAILABLE,
            .reason = reason,
            .message = text,
            .phase = answer_phase(result->phase),
            .maybe_executed = result->n_sent > 0,
            .retryable = true,
        });
}

/* Without [DONE], only a server that is known to leave it out is believed, and only if every choice
 * has ended. */
static void finish_events(struct call *call, const struct transfer_result *result)
{
    check_events(call, sse_parser_finish(&call->sse, on_event, call));
    if (is_over(call))
        return;
    if (result->outcome == TRANSFER_COMPLETE && call->n_replies == 0 && call->saw_other_events)
        fail_without_choices(call);
    else if (result->outcome == TRANSFER_COMPLETE &&
             !upstream_settings(call->upstream)->strict_done &&
             translate_progress_is_complete(&call->progress))
        call_finish(call);
    else
        fail_as_transfer_ended(call, result);
}

static void on_done(void *user, const struct transfer_result *result)
{
    struct call *call = user;
    bool complete = result->outcome == TRANSFER_COMPLETE;

    call->transfer = NULL;
    count_attempts(call, result->n_sent);
    switch (call->response) {
    case CALL_RESPONSE_EVENTS:
        finish_events(call, result);
        return;
    case CALL_RESPONSE_ERROR:
        /* What there is of the body says more than how it ended. */
        fail_as_error_body_says(call);
        return;
    case CALL_RESPONSE_WHOLE:
        if (complete &&
            reply_with(call, buffer_bytes(&call->body), buffer_length(&call->body), true))
            call_finish(call);
        break;
    case CALL_RESPONSE_NONE:
        break;
    }
    if (!is_over(call))
        fail_as_transfer_ended(call, result);
}

const struct transfer_handler answer_handler = {
    .head = on_head,
    .data = on_data,
    .done = on_done,
};
