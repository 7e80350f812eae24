#include "standard.h"

#include "../proto/descriptors.h"
#include "../proto/grpc/grpc_health.h"
#include "../proto/grpc/grpc_reflection.h"
#include "call.h"
#include "connection.h"

static const char *const services[] = {SERVICE_NAME, NULL};

static void refuse(struct call *call, enum grpc_status status, const char *reason,
                   const char *param, const char *message)
{
    call_fail(call, &(struct call_error){
                        .status = status,
                        .reason = reason,
                        .message = message,
                        .param = param,
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .retryable = status == GRPC_UNAVAILABLE,
                    });
}

static void refuse_malformed(struct call *call)
{
    refuse(call, GRPC_INVALID_ARGUMENT, "INVALID_REQUEST", NULL,
           "the request message is malformed");
}

#define DRAINING "completiond is shutting down; ask again on a new connection"

static void end_for_drain(struct call *call)
{
    refuse(call, GRPC_UNAVAILABLE, "SHUTTING_DOWN", NULL, DRAINING);
}

/* For one who is in no hurry to take replies nobody waits. */
static void end_slow_for_drain(struct call *call)
{
    end_for_drain(call);
    grpc_server_call_drop(call->grpc, GRPC_UNAVAILABLE, DRAINING);
}

/* ---- Health ---- */

void standard_check_run(struct call *call, const uint8_t *message, size_t len)
{
    struct buffer *reply = call_reply_begin(call);
    enum grpc_status status =
        grpc_health_check(message, len, services, !call->worker->draining, reply);

    if (status == GRPC_OK) {
        call_reply_end(call);
        call_finish(call);
        return;
    }
    call_reply_abort(call);
    if (status == GRPC_NOT_FOUND)
        refuse(call, status, "INVALID_REQUEST", "service",
               "unknown service; there is \"\" and \"" SERVICE_NAME "\"");
    else
        refuse_malformed(call);
}

static void tell(struct call *call, enum grpc_health health)
{
    grpc_health_reply(call_reply_begin(call), health);
    call_reply_end(call);
}

void standard_watch_run(struct call *call, const uint8_t *message, size_t len)
{
    struct connection *c = call->connection;
    enum grpc_health health;

    if (c->n_watches >= STANDARD_WATCHES_MAX) {
        refuse(call, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT", NULL,
               "too many health watches on this connection; end some");
        return;
    }
    if (grpc_health_watch(message, len, services, !call->worker->draining, &health) != GRPC_OK) {
        refuse_malformed(call);
        return;
    }
    call->watches = true;
    call->watches_service = health != GRPC_HEALTH_SERVICE_UNKNOWN;
    c->n_watches++;
    tell(call, health);
    if (call->worker->draining)
        end_for_drain(call);
}

void standard_watch_drain(struct call *call)
{
    if (grpc_server_call_pending(call->grpc) > 0) {
        end_slow_for_drain(call);
        return;
    }
    if (call->watches_service)
        tell(call, GRPC_HEALTH_NOT_SERVING);
    end_for_drain(call);
}

/* ---- Reflection ---- */

void standard_reflection_run(struct call *call, const uint8_t *message, size_t len)
{
    if (!message) {
        call_finish(call);
        return;
    }
    if (call->worker->draining) {
        end_for_drain(call);
        return;
    }
    struct buffer *reply = call_reply_begin(call);
    if (grpc_reflection_answer(proto_descriptors, proto_descriptors_len, message, len, reply) ==
        GRPC_OK) {
        call_reply_end(call);
        return;
    }
    call_reply_abort(call);
    refuse_malformed(call);
}

void standard_reflection_drain(struct call *call)
{
    end_slow_for_drain(call);
}
