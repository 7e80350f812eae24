#include "attempt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "answer.h"
#include "call.h"
#include "config.h"
#include "log.h"
#include "metrics.h"
#include "policy.h"
#include "retry.h"

/* What libcurl takes for a transfer: its buffers for reading and sending, and its own state. */
enum { TRANSFER_BYTES = 48 << 10 };

/* ---- Failures that are not the upstream's ---- */

static void fail(struct call *call, enum grpc_status status, const char *reason,
                 int64_t retry_after_ms, const char *message)
{
    call_fail(call, &(struct call_error){
                        .status = status,
                        .reason = reason,
                        .message = message,
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .retry_after_ms = retry_after_ms,
                        .retryable = true,
                    });
}

static void fail_for_breaker(struct call *call, int64_t wait_us)
{
    char text[512], names[256];

    snprintf(
        text, sizeof text,
        "upstream \"%.64s\" was not asked: the last connections to %s could not be made (check "
        "base_url, and that the server runs)",
        upstream_settings(call->upstream)->name,
        upstream_n_endpoints(call->upstream) > 1
            ? upstream_name_endpoints(call->upstream, UINT64_MAX, names, sizeof names)
            : "it");
    fail(call, GRPC_UNAVAILABLE, "UPSTREAM_UNREACHABLE", (wait_us + 999) / 1000, text);
}

static void fail_for_queue(struct call *call, enum queue_answer answer, const struct policy *policy)
{
    const struct config_upstream *settings = upstream_settings(call->upstream);
    char text[256];

    if (answer == QUEUE_NO_MEMORY) {
        call_fail_for_memory(call, -ENOMEM, COMPLETION__V1__PHASE__PHASE_LOCAL);
        return;
    }
    if (answer == QUEUE_USER_FULL)
        snprintf(text, sizeof text,
                 "you have as many calls waiting as [policy %.64s] allows (max_concurrent = %zu, "
                 "max_queued = %zu); make fewer at once",
                 policy->name, policy->max_concurrent, policy->max_queued);
    else
        snprintf(text, sizeof text,
                 "too many calls wait for upstream \"%.64s\" (max_concurrent = %lld, max_queued = "
                 "%lld); try again later",
                 settings->name, (long long)settings->max_concurrent,
                 (long long)settings->max_queued);
    fail(call, GRPC_RESOURCE_EXHAUSTED, "LOCAL_QUEUE_FULL", 1000, text);
}

/* ---- What it takes ---- */

/* It waits no more: how long that was. */
static int64_t end_wait(struct call *call, int64_t *sum_us)
{
    int64_t now_us = worker_now_us();

    *sum_us += now_us - call->times.waits_since_us;
    call->times.waits_since_us = 0;
    return now_us;
}

static void count_place(struct call *call, enum queue_state state)
{
    struct metrics_upstream *m = upstream_metrics(call->upstream);

    if (call->counted == QUEUE_WAITING) {
        metrics_add(&m->n_queued, -UINT64_C(1));
        end_wait(call, &call->times.queue_us);
    }
    metrics_add(&m->n_running,
                (uint64_t)(state == QUEUE_RUNNING) - (call->counted == QUEUE_RUNNING));
    metrics_add(&m->n_queued, state == QUEUE_WAITING);
    if (state == QUEUE_RUNNING)
        metrics_observe(&m->queue, call->times.queue_us);
    call->counted = state;
}

/* An attempt, if one runs, has ended. What libcurl repeated by itself had found its connection
 * dead. */
static enum metrics_outcome count_attempt(struct call *call, const char *reason)
{
    struct metrics_upstream *m = upstream_metrics(call->upstream);
    enum metrics_outcome outcome = metrics_outcome_of(reason, call->head.status);
    unsigned n_silent = call->attempts - call->attempts_before - 1;

    call->times.upstream_us += worker_now_us() - call->times.asks_since_us;
    call->times.asks_since_us = 0;
    metrics_add(&m->attempts[outcome], 1);
    metrics_add(&m->attempts[METRICS_ATTEMPT_BROKEN], n_silent);
    metrics_add(&m->retries[METRICS_ATTEMPT_BROKEN], n_silent);
    return outcome;
}

/* ---- Attempts ---- */

/* What the last attempt left. */
static void forget_answer(struct call *call)
{
    call->response = CALL_RESPONSE_NONE;
    call->head = (struct transfer_head){.retry_after_ms = -1};
    call->saw_other_events = false;
    buffer_done(&call->body);
    sse_parser_done(&call->sse);
    sse_parser_init(&call->sse, CALL_EVENT_MAX_BYTES, call->memory);
    translate_progress_init(&call->progress, call->progress.n_expected);
}

static void ask(struct call *call)
{
    int64_t wait_us;
    struct endpoint *endpoint = upstream_choose_endpoint(call->upstream, &call->tried,
                                                         worker_turn_us(call->worker), &wait_us);

    if (!endpoint) {
        fail_for_breaker(call, wait_us);
        return;
    }
    call->endpoint = endpoint;
    forget_answer(call);
    if (call->is_backing_off)
        end_wait(call, &call->times.backoff_us);
    call->is_backing_off = false;
    if (call->attempts == 0)
        retry_budget_earn(upstream_retry_budget(call->upstream));
    call->attempts_before = call->attempts;
    call->attempts++;
    call->times.asks_since_us = worker_now_us();
    if (upstream_start(endpoint, call->request, call->own_key, call->id, call->stream,
                       &answer_handler, call, &call->transfer) < 0)
        call_fail_for_memory(call, -ENOMEM, COMPLETION__V1__PHASE__PHASE_LOCAL);
}

static void on_turn(struct queue_place *place)
{
    struct call *call = container_of(place, struct call, place);

    count_place(call, QUEUE_RUNNING);
    ask(call);
}

static void on_backoff(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    ask(user);
}

void attempt_begin(struct call *call, struct buffer *body, const struct policy *policy)
{
    evtimer_assign(&call->backoff, call->worker->base, on_backoff, call);
    if (!memory_charge(call->memory, TRANSFER_BYTES)) {
        call_fail_for_memory(call, -EDQUOT, COMPLETION__V1__PHASE__PHASE_LOCAL);
        return;
    }
    /* A transfer may outlive the connection: from here on the call accounts for the bytes. */
    call->charged_bytes += TRANSFER_BYTES + body->capacity;
    body->memory = NULL;
    call->request = upstream_body_new(body);
    if (!call->request) {
        call_fail_for_memory(call, -ENOMEM, COMPLETION__V1__PHASE__PHASE_LOCAL);
        return;
    }
    call->request->wants_little = call->wants_little;
    call->place.worker = call->worker;
    call->place.start = on_turn;
    call->place.urgency = queue_urgency(
        call->grpc ? grpc_server_call_metadata(call->grpc, "priority") : call->priority);
    enum queue_answer answer = queue_join(upstream_queue(call->upstream), call->account,
                                          policy->max_concurrent, policy->max_queued, &call->place);
    if (answer == QUEUE_WAITS)
        call->times.waits_since_us = worker_now_us();
    if (answer == QUEUE_STARTED || answer == QUEUE_WAITS)
        count_place(call, call->place.state);
    if (answer == QUEUE_STARTED) {
        ask(call);
    } else if (answer != QUEUE_WAITS) {
        fail_for_queue(call, answer, policy);
    }
}

static int64_t time_left_us(const struct call *call)
{
    return call->deadline_us == INT64_MAX ? INT64_MAX : call->deadline_us - worker_now_us();
}

bool attempt_again(struct call *call, const struct retry_facts *facts, const char *reason)
{
    const struct config_upstream *settings = upstream_settings(call->upstream);
    const struct retry_limits limits = {
        .max_retries = settings->max_retries,
        .resend = settings->resend,
        .n_taken = call->n_retries,
        .left_us = time_left_us(call),
        .elsewhere = upstream_has_other(call->upstream, call->tried),
    };
    int64_t delay_us = retry_delay_us(facts, &limits, arc4random());
    bool is_free = retry_is_free(facts, &limits);

    if (delay_us < 0 || call->n_replies > 0 ||
        (!is_free && !retry_budget_spend(upstream_retry_budget(call->upstream))) ||
        worker_arm(&call->backoff, delay_us) < 0)
        return false;
    log_debug(call->worker->log,
              "upstream %s: attempt %u at %s failed (http_status=%d), again in %lld ms",
              settings->name, call->attempts, endpoint_name(call->endpoint), call->head.status,
              (long long)delay_us / 1000);
    call->n_retries += !is_free;
    enum metrics_outcome outcome = count_attempt(call, reason);
    metrics_add(&upstream_metrics(call->upstream)->retries[outcome], 1);
    call->times.waits_since_us = worker_now_us();
    call->is_backing_off = true;
    if (call->transfer)
        upstream_cancel(call->transfer);
    call->transfer = NULL;
    return true;
}

void attempt_stop(struct call *call, const char *reason)
{
    struct transfer *t = call->transfer;

    if (call->times.asks_since_us > 0)
        count_attempt(call, reason);
    if (call->counted != QUEUE_OUTSIDE)
        count_place(call, QUEUE_OUTSIDE);
    if (call->times.waits_since_us > 0)
        end_wait(call, &call->times.backoff_us);
    call->transfer = NULL;
    if (t && !reason)
        upstream_finish(t);
    else if (t)
        upstream_cancel(t);
    if (event_initialized(&call->backoff))
        evtimer_del(&call->backoff);
    queue_leave(&call->place);
}

/* ---- The deadline ---- */

static const char *doing(const struct call *call, enum transfer_phase phase)
{
    static const char *const phases[] = {
        [TRANSFER_RESOLVE] = "looking up the upstream's name",
        [TRANSFER_CONNECT] = "connecting to the upstream",
        [TRANSFER_TLS] = "negotiating TLS with the upstream",
        [TRANSFER_SEND] = "waiting for the upstream's answer",
        [TRANSFER_HEADERS] = "waiting for the upstream's answer",
        [TRANSFER_BODY] = "receiving the upstream's answer",
    };

    if (call->place.state == QUEUE_WAITING)
        return "waiting for a turn (max_concurrent of the upstream or of the policy)";
    return call->transfer ? phases[phase] : "waiting to ask the upstream again";
}

void attempt_expired(struct call *call)
{
    enum transfer_phase phase = call->transfer ? upstream_phase(call->transfer) : TRANSFER_RESOLVE;
    char text[256];

    snprintf(text, sizeof text, "the caller's deadline passed while %s; allow more time",
             doing(call, phase));
    call_fail(call, &(struct call_error){
                        .status = GRPC_DEADLINE_EXCEEDED,
                        .reason = "DEADLINE_EXCEEDED",
                        .message = text,
                        .phase = call->transfer ? answer_phase(phase)
                                                : COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .maybe_executed = call->transfer && phase >= TRANSFER_SEND,
                        .retryable = true,
                    });
}
