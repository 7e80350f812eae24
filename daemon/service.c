/*
 * The way in: which method is meant, whether the caller may, what the request says; then the
 * transfer starts (attempt.c). answer.c is the way back.
 */
#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/grpc/grpc_health.h"
#include "../proto/grpc/grpc_reflection.h"
#include "../proto/unpack.h"
#include "account.h"
#include "attempt.h"
#include "call.h"
#include "config.h"
#include "policy.h"
#include "standard.h"
#include "status.h"

enum { REQUEST_BODY_MAX_BYTES = 32 << 20 }; /* six times a request's 4 MiB, and some */

static void refuse(struct call *call, enum grpc_status status, const char *reason,
                   const char *param, const char *message)
{
    call_fail(call, &(struct call_error){
                        .status = status,
                        .reason = reason,
                        .message = message,
                        .param = param,
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                    });
}

static void refuse_for_memory(struct call *call, int r)
{
    call_fail_for_memory(call, r, COMPLETION__V1__PHASE__PHASE_LOCAL);
}

/* ---- completion.v1.Completions ---- */

/* The policy's word on what can be judged before the body is made. */
static bool check_policy(struct call *call, const struct policy *policy, const char *model)
{
    char text[512];

    if (call->own_key && !policy->allow_own_key) {
        snprintf(text, sizeof text,
                 "[policy %s] does not allow a key of the caller's own (allow_own_key = no); leave "
                 "it out",
                 policy->name);
        refuse(call, GRPC_PERMISSION_DENIED, "NOT_ALLOWED", "completion-api-key", text);
        return false;
    }
    if (*model && !policy_allows_model(policy, model)) {
        snprintf(text, sizeof text, "[policy %s] does not allow this model", policy->name);
        refuse(call, GRPC_PERMISSION_DENIED, "NOT_ALLOWED", "model", text);
        return false;
    }
    return true;
}

/* Makes the JSON body. False: the call has been failed. */
static bool make_body(struct call *call, const translate_request_message *request,
                      const struct policy *policy, struct buffer *body)
{
    const struct config_upstream *settings =
        call->upstream ? upstream_settings(call->upstream) : NULL;
    struct translate_request_options options = {
        .stream = call->stream,
        .validate = !settings || settings->validate,
        .allow_extra_body = policy->allow_extra_body,
        .drop = settings ? (const char *const *)settings->drop_parameters : NULL,
    };
    struct translate_refusal refusal;
    int r = translate_request(request, &options, body, &refusal);

    if (r == -EINVAL)
        refuse(call, refusal.status,
               refusal.status == GRPC_PERMISSION_DENIED ? "NOT_ALLOWED" : "INVALID_REQUEST",
               refusal.field, refusal.text);
    else if (r == -EMSGSIZE)
        refuse(call, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
               "the request makes a body of more than 32 MiB; make it smaller");
    else if (r < 0)
        refuse_for_memory(call, r);
    return r == 0;
}

/* wait_us negative: it will never be allowed. */
static void refuse_for_rate(struct call *call, const struct policy *policy, const char *what,
                            int64_t per_minute, int64_t wait_us)
{
    char text[256];

    if (wait_us < 0)
        snprintf(text, sizeof text,
                 "the call may take more tokens (prompt, and max_tokens for each choice) than "
                 "[policy %.64s] allows in a minute (%s = %lld); ask for less",
                 policy->name, what, (long long)per_minute);
    else
        snprintf(text, sizeof text, "[policy %.64s] allows no more now (%s = %lld); wait %.3g s",
                 policy->name, what, (long long)per_minute, (double)wait_us / 1e6);
    call_fail(call, &(struct call_error){
                        .status = GRPC_RESOURCE_EXHAUSTED,
                        .reason = "LOCAL_LIMIT",
                        .message = text,
                        .param = what,
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .retry_after_ms = wait_us < 0 ? 0 : (wait_us + 999) / 1000,
                        .retryable = wait_us >= 0,
                    });
}

/* The user's rates: a call and the tokens that it may cost are taken now, what it does not use
 * comes back at its end. */
static bool take_rates(struct call *call, const translate_request_message *request,
                       const struct policy *policy)
{
    struct translate_tokens tokens = translate_request_tokens(request);
    int64_t wait_us = 0;

    switch (account_take(call->account, policy->requests_per_minute, policy->tokens_per_minute,
                         tokens.prompt + tokens.completion, worker_turn_us(call->worker),
                         &wait_us)) {
    case ACCOUNT_REQUESTS_USED_UP:
        refuse_for_rate(call, policy, "requests_per_minute", policy->requests_per_minute, wait_us);
        return false;
    case ACCOUNT_TOKENS_USED_UP:
        refuse_for_rate(call, policy, "tokens_per_minute", policy->tokens_per_minute, wait_us);
        return false;
    case ACCOUNT_TAKEN:
        break;
    }
    if (policy->tokens_per_minute != CONFIG_INFINITY) {
        call->prompt_tokens = tokens.prompt;
        call->completion_tokens = tokens.completion;
    }
    return true;
}

/* A few KiB: by far most answers of services that ask for labels, titles or yes and no. */
static bool wants_little(const struct call *call, const translate_request_message *request)
{
    enum { LITTLE_TOKENS = 256 };

    return !call->stream && !request->has_logprobs && !request->has_echo &&
           translate_request_tokens(request).completion <= LITTLE_TOKENS;
}

static void start(struct call *call, const translate_request_message *request, const char *model,
                  const struct policy *policy)
{
    struct worker *w = call->worker;
    struct upstream *upstream = upstream_choose(w->upstreams, w->n_upstreams, model);
    struct buffer body = BUFFER_INIT_IN(REQUEST_BODY_MAX_BYTES, call->memory);

    if (!call->front)
        call->own_key = grpc_server_call_metadata(call->grpc, "completion-api-key");
    if (!check_policy(call, policy, model))
        return;
    if (call->own_key && secret_fault(call->own_key, strlen(call->own_key))) {
        refuse(call, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", "completion-api-key",
               "completion-api-key: send at most 3072 printable ASCII characters without spaces");
        return;
    }
    if (upstream)
        call->upstream = upstream_ref(upstream);
    call->keep_obfuscation = request->stream_options &&
                             request->stream_options->has_include_obfuscation &&
                             request->stream_options->include_obfuscation;
    call->wants_little = wants_little(call, request);
    translate_progress_init(&call->progress, translate_request_n_choices(request));
    if (make_body(call, request, policy, &body)) {
        if (!upstream)
            refuse(call, GRPC_NOT_FOUND, "NO_UPSTREAM", "model",
                   "no upstream in the daemon's configuration serves this model (models = of "
                   "each [upstream])");
        else if (take_rates(call, request, policy))
            attempt_begin(call, &body, policy);
    }
    buffer_done(&body);
}

static void run_unpacked(struct call *call, const translate_request_message *request,
                         const struct policy *policy)
{
    /* protobuf-c has no data where there are no bytes. */
    char *model = request->has_model && request->model.len
                      ? strndup((char *)request->model.data, request->model.len)
                      : strdup("");

    if (model) {
        memcpy(call->model, model, utf8_truncate(model, strlen(model), sizeof call->model - 1));
        start(call, request, model, policy);
    } else {
        refuse_for_memory(call, -ENOMEM);
    }
    free(model);
}

static void run_scanned(struct call *call, const struct policy *policy, const uint8_t *message,
                        size_t len)
{
    ProtobufCMessage *unpacked;
    struct unpack_error error;
    int r = unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                           message, len, &unpacked, &error);

    if (r == -ENOMEM) {
        refuse_for_memory(call, r);
        return;
    }
    if (r < 0) {
        char text[256];
        snprintf(text, sizeof text, "%s: %s", *error.field ? error.field : "the request message",
                 error.text);
        refuse(call, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", error.field, text);
        return;
    }
    run_unpacked(call, (translate_request_message *)unpacked, policy);
    unpack_free(unpacked);
}

static void run_completions(struct call *call, const uint8_t *message, size_t len)
{
    struct policy policy = policy_find(call->worker->config, call->caller);
    size_t unpacked_bytes = unpack_max_bytes(UNPACK_REQUEST, len);
    char text[256];

    memory_set_limit(&call->account->memory, policy.max_memory_bytes);
    if (len > policy.max_message_bytes) {
        snprintf(text, sizeof text,
                 "the request has %zu bytes, more than [policy %.64s] allows (max_message = %zu); "
                 "make it smaller",
                 len, policy.name, policy.max_message_bytes);
        refuse(call, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL, text);
        return;
    }
    /* It lives until this function returns. */
    if (!memory_charge(call->memory, unpacked_bytes)) {
        refuse_for_memory(call, -EDQUOT);
        return;
    }
    run_scanned(call, &policy, message, len);
    memory_release(call->memory, unpacked_bytes);
}

static void run_create(struct call *call, const uint8_t *message, size_t len)
{
    run_completions(call, message, len);
}

static void run_create_stream(struct call *call, const uint8_t *message, size_t len)
{
    call->stream = true;
    run_completions(call, message, len);
}

/* ---- Methods ---- */

static const struct service_method methods[] = {
    {"/" SERVICE_NAME "/Create", METRICS_CREATE, run_create, false, NULL},
    {"/" SERVICE_NAME "/CreateStream", METRICS_CREATE_STREAM, run_create_stream, false, NULL},
    {STATUS_GET_PATH, METRICS_STATUS, status_run, false, NULL},
    {GRPC_HEALTH_CHECK_PATH, METRICS_HEALTH, standard_check_run, false, NULL},
    {GRPC_HEALTH_WATCH_PATH, METRICS_HEALTH, standard_watch_run, false, standard_watch_drain},
    {GRPC_REFLECTION_V1_PATH, METRICS_OTHER_METHOD, standard_reflection_run, true,
     standard_reflection_drain},
    {GRPC_REFLECTION_V1ALPHA_PATH, METRICS_OTHER_METHOD, standard_reflection_run, true,
     standard_reflection_drain},
};

const struct service_method service_openai = {
    .path = "/v1/completions",
    .metric = METRICS_OPENAI,
    .run = run_create,
};
const struct service_method service_openai_stream = {
    .path = "/v1/completions",
    .metric = METRICS_OPENAI_STREAM,
    .run = run_create_stream,
};
const struct service_method service_openai_models = {
    .path = "/v1/models",
    .metric = METRICS_OPENAI_MODELS,
};

const struct service_method *service_find(const char *path)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].path, path))
            return &methods[i];
    return NULL;
}

/* The texts are grpc-go's, which people search for. */
void service_refuse(struct call *call)
{
    const char *path = grpc_server_call_path(call->grpc);
    const char *slash = *path == '/' ? strchr(path + 1, '/') : NULL;
    char text[512];

    if (!slash) {
        snprintf(text, sizeof text, "malformed method name: \"%.200s\"", path);
        refuse(call, GRPC_UNIMPLEMENTED, "UNKNOWN_METHOD", NULL, text);
        return;
    }
    size_t len = (size_t)(slash + 1 - path);
    bool known = false;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        known = known || !strncmp(methods[i].path, path, len);
    if (known)
        snprintf(text, sizeof text, "unknown method %.200s for service %.*s", slash + 1,
                 (int)(len - 2), path + 1);
    else
        snprintf(text, sizeof text, "unknown service %.*s", len > 200 ? 200 : (int)(len - 2),
                 path + 1);
    refuse(call, GRPC_UNIMPLEMENTED, "UNKNOWN_METHOD", NULL, text);
}

void service_expired(struct call *call)
{
    if (call->state == CALL_NEW || (call->state == CALL_RUNNING && call->method->drain))
        call_fail(call, &(struct call_error){
                            .status = GRPC_DEADLINE_EXCEEDED,
                            .reason = "DEADLINE_EXCEEDED",
                            .message = call->state == CALL_NEW
                                           ? "the deadline passed before the request was complete"
                                           : "the deadline passed",
                            .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                            .retryable = true,
                        });
    else if (call->state == CALL_RUNNING)
        attempt_expired(call);
}
