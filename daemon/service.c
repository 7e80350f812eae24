/*
 * The way in: which method is meant, whether the caller may, what the request says; then the
 * transfer starts. answer.c is the way back.
 */
#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/grpc/grpc_health.h"
#include "../proto/unpack.h"
#include "answer.h"
#include "call.h"
#include "config.h"
#include "connection.h"
#include "policy.h"

#define SERVICE_NAME "completion.v1.Completions"

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

static void refuse_for_memory(struct call *call)
{
    call_fail(call, &(struct call_error){
                        .status = GRPC_RESOURCE_EXHAUSTED,
                        .reason = "OUT_OF_MEMORY",
                        .message = "completiond has no memory for the request; try again",
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .retryable = true,
                    });
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
    else if (r < 0)
        refuse_for_memory(call);
    return r == 0;
}

static void start(struct call *call, const translate_request_message *request, const char *model)
{
    struct worker *w = call->worker;
    struct policy policy = policy_find(w->config, &call->connection->caller);
    struct upstream *upstream = upstream_choose(w->upstreams, w->n_upstreams, model);
    struct buffer body = BUFFER_INIT(REQUEST_BODY_MAX_BYTES);

    call->own_key = grpc_server_call_metadata(call->grpc, "completion-api-key");
    if (!check_policy(call, &policy, model))
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
    translate_progress_init(&call->progress, translate_request_n_choices(request));
    if (make_body(call, request, &policy, &body)) {
        if (!upstream)
            refuse(call, GRPC_NOT_FOUND, "NO_UPSTREAM", "model",
                   "no upstream in the daemon's configuration serves this model (models = of "
                   "each [upstream])");
        else if (answer_start(call, &body) < 0)
            refuse_for_memory(call);
    }
    buffer_done(&body);
}

static void run_completions(struct call *call, const uint8_t *message, size_t len)
{
    ProtobufCMessage *unpacked;
    struct unpack_error error;
    int r = unpack_message(UNPACK_REQUEST, &completion__v1__create_completion_request__descriptor,
                           message, len, &unpacked, &error);

    if (r == -ENOMEM) {
        refuse_for_memory(call);
        return;
    }
    if (r < 0) {
        char text[256];
        snprintf(text, sizeof text, "%s%s%s", *error.field ? error.field : "the request message",
                 *error.field ? ": " : " ", error.text);
        refuse(call, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", error.field, text);
        return;
    }

    const translate_request_message *request = (translate_request_message *)unpacked;
    /* protobuf-c has no data where there are no bytes. */
    char *model = request->has_model && request->model.len
                      ? strndup((char *)request->model.data, request->model.len)
                      : strdup("");
    if (model)
        start(call, request, model);
    else
        refuse_for_memory(call);
    free(model);
    unpack_free(unpacked);
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

/* ---- grpc.health.v1.Health ---- */

static void run_health(struct call *call, const uint8_t *message, size_t len)
{
    static const char *const services[] = {SERVICE_NAME, NULL};
    struct buffer *reply = call_reply_begin(call);
    enum grpc_status status =
        grpc_health_check(message, len, services, !call->worker->draining, reply);

    if (status == GRPC_OK) {
        call_reply_end(call);
        call_finish(call);
        return;
    }
    call_reply_abort(call);
    refuse(call, status, "INVALID_REQUEST", "service",
           status == GRPC_NOT_FOUND ? "unknown service; there is \"\" and \"" SERVICE_NAME "\""
                                    : "the request message is malformed");
}

/* ---- Methods ---- */

static const struct service_method methods[] = {
    {"/" SERVICE_NAME "/Create", run_create},
    {"/" SERVICE_NAME "/CreateStream", run_create_stream},
    {GRPC_HEALTH_CHECK_PATH, run_health},
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
    if (call->state == CALL_NEW)
        call_fail(call, &(struct call_error){
                            .status = GRPC_DEADLINE_EXCEEDED,
                            .reason = "DEADLINE_EXCEEDED",
                            .message = "the deadline passed before the request was complete",
                            .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                            .retryable = true,
                        });
    else if (call->state == CALL_RUNNING)
        answer_expired(call);
}
