#include "call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "account.h"
#include "attempt.h"
#include "config.h"
#include "connection.h"
#include "log.h"
#include "service.h"

enum {
    BODY_MAX_BYTES = 32 << 20,
    /* Clients accept 8 KiB of trailers, with base64 and percent signs. */
    DETAIL_MESSAGE_MAX_BYTES = 1024,
    DETAIL_WORD_MAX_BYTES = 128,
};

#define DETAIL_TYPE "type.googleapis.com/completion.v1.ErrorDetail"

/* ---- The end ---- */

/* What was reserved of the user's tokens, and not used. An upstream that reports no usage has used
 * as many tokens as it sent chunks, or all of them for a whole answer. */
static void call_settle(struct call *call, bool ok)
{
    struct account *account = call->account;
    int64_t reserved = call->prompt_tokens + call->completion_tokens;
    int64_t used = call->progress.total_tokens;

    if (reserved == 0)
        return;
    if (used < 0 && !ok && call->n_replies == 0 && !call->maybe_executed)
        used = 0;
    else if (used < 0 && call->stream && call->n_replies < call->completion_tokens)
        used = call->prompt_tokens + call->n_replies;
    else if (used < 0)
        used = reserved;
    account_settle(account, reserved - used);
    call->prompt_tokens = call->completion_tokens = 0;
}

/* Everything but the gRPC call is over. reason NULL: it ended well. */
static void call_let_go(struct call *call, const char *reason)
{
    attempt_stop(call, reason);
    call_settle(call, reason == NULL);
    evtimer_del(&call->deadline);
}

static void run_release(struct task *task)
{
    struct call *call = container_of(task, struct call, release);

    upstream_body_unref(call->request);
    upstream_unref(call->upstream);
    free(call);
}

int64_t call_retry_after_ms(const struct call *call, const struct call_error *e)
{
    if (e->retry_after_ms > 0)
        return e->retry_after_ms;
    return call->head.status > 0 ? call->head.retry_after_ms : -1;
}

static void detail_set(protobuf_c_boolean *has, ProtobufCBinaryData *field, const char *text,
                       size_t max)
{
    if (text && *text) {
        *has = true;
        field->data = (uint8_t *)text;
        field->len = utf8_truncate(text, strlen(text), max);
    }
}

/* google.rpc.Status with an ErrorDetail. An empty buffer if memory ran out: the status goes out
 * all the same. */
static void pack_details(const struct call *call, const struct call_error *e, struct buffer *out)
{
    Completion__V1__ErrorDetail d = COMPLETION__V1__ERROR_DETAIL__INIT;

#define SET(field, text, max) detail_set(&d.has_##field, &d.field, text, max)
    SET(reason, e->reason, DETAIL_WORD_MAX_BYTES);
    SET(call_id, call->id, DETAIL_WORD_MAX_BYTES);
    SET(type, e->type, DETAIL_WORD_MAX_BYTES);
    SET(param, e->param, DETAIL_WORD_MAX_BYTES);
    SET(code, e->code, DETAIL_WORD_MAX_BYTES);
    SET(message, e->api_message, DETAIL_MESSAGE_MAX_BYTES);
    SET(upstream_request_id, call->head.request_id, DETAIL_WORD_MAX_BYTES);
    if (call->upstream)
        SET(upstream, upstream_settings(call->upstream)->name, DETAIL_WORD_MAX_BYTES);
    if (call->endpoint)
        SET(endpoint, endpoint_name(call->endpoint), DETAIL_WORD_MAX_BYTES);
#undef SET
    d.has_http_status = call->head.status > 0;
    d.http_status = call->head.status;
    d.retry_after_ms = call_retry_after_ms(call, e);
    d.has_retry_after_ms = d.retry_after_ms >= 0;
    d.has_attempts = true;
    d.attempts = (int32_t)call->attempts;
    d.has_phase = true;
    d.phase = e->phase;
    d.has_maybe_executed = true;
    d.maybe_executed = e->maybe_executed || call->maybe_executed;
    d.has_retryable = true;
    d.retryable = e->retryable;
    d.has_chunks_sent = true;
    d.chunks_sent = call->n_replies;

    uint8_t packed[DETAIL_MESSAGE_MAX_BYTES + 8 * (DETAIL_WORD_MAX_BYTES + 4) + 128];
    if (completion__v1__error_detail__get_packed_size(&d) > sizeof packed)
        return;
    size_t len = completion__v1__error_detail__pack(&d, packed);
    grpc_status_pack(out, e->status, e->message, DETAIL_TYPE, packed, len);
    if (out->error)
        buffer_done(out);
}

static void call_set_finished(struct call *call, int status, const char *reason)
{
    call->state = CALL_FINISHED;
    record_call(call, status, reason);
    if (!call->front)
        connection_wake(call->connection);
}

void call_fail(struct call *call, const struct call_error *error)
{
    struct buffer details = BUFFER_INIT(16384);

    if (call->state == CALL_FINISHED)
        return;
    if (!call->front)
        pack_details(call, error, &details);
    call->maybe_executed = call->maybe_executed || error->maybe_executed;
    call_let_go(call, error->reason);
    call_set_finished(call, (int)error->status, error->reason);
    if (call->front)
        call->front->finish(call, error);
    else
        grpc_server_call_finish(call->grpc, error->status, error->message, buffer_bytes(&details),
                                buffer_length(&details));
    buffer_done(&details);
}

void call_finish(struct call *call)
{
    if (call->state == CALL_FINISHED)
        return;
    call_let_go(call, NULL);
    call_set_finished(call, GRPC_OK, NULL);
    if (call->front)
        call->front->finish(call, NULL);
    else
        grpc_server_call_finish(call->grpc, GRPC_OK, NULL, NULL, 0);
}

void call_fail_for_memory(struct call *call, int r, Completion__V1__Phase phase)
{
    call_fail(call,
              &(struct call_error){
                  .status = GRPC_RESOURCE_EXHAUSTED,
                  .reason = r == -EDQUOT ? "LOCAL_LIMIT" : "OUT_OF_MEMORY",
                  .message = r == -EDQUOT
                                 ? "your calls hold as much of completiond's memory as they may "
                                   "(max_memory of your policy, memory_max of all); make fewer "
                                   "or smaller ones at once"
                             : r == -EMFILE
                                 ? "completiond has no file descriptor left to ask the upstream "
                                   "with (LimitNOFILE); make fewer calls at once"
                                 : "completiond has no memory for the call; try again",
                  .phase = phase,
                  .maybe_executed = r != -EMFILE && phase > COMPLETION__V1__PHASE__PHASE_LOCAL,
                  .retryable = true,
              });
}

void call_drain(struct connection *connection)
{
    struct call *call;

    LIST_FOREACH (call, &connection->calls, next)
        if (call->state != CALL_FINISHED && call->method && call->method->drain)
            call->method->drain(call);
}

void call_shut_down_one(struct call *call)
{
    call_fail(call, &(struct call_error){
                        .status = GRPC_CANCELLED,
                        .reason = "SHUTTING_DOWN",
                        .message = "completiond is shutting down and did not wait any longer for "
                                   "this call; make it again",
                        .phase = COMPLETION__V1__PHASE__PHASE_LOCAL,
                        .maybe_executed = call->transfer != NULL,
                        .retryable = true,
                    });
}

void call_shut_down(struct connection *connection)
{
    struct call *call;

    LIST_FOREACH (call, &connection->calls, next)
        call_shut_down_one(call);
}

/* ---- Replies ---- */

struct buffer *call_reply_begin(struct call *call)
{
    return call->front ? call->front->reply_begin(call)
                       : grpc_server_call_message_begin(call->grpc);
}

void call_pass_on(struct call *call, const uint8_t *json, size_t len)
{
    const struct call_front *front = call->front;
    int r = front ? front->reply_end(call, json, len) : grpc_server_call_message_end(call->grpc);

    if (r < 0) {
        call_fail_for_memory(call, r, COMPLETION__V1__PHASE__PHASE_BODY);
        return;
    }
    call->n_replies++;
    if (call->transfer && (front ? front->is_full(call) : grpc_server_call_is_full(call->grpc)))
        upstream_pause(call->transfer);
    if (!front)
        connection_wake(call->connection);
}

void call_reply_end(struct call *call)
{
    call_pass_on(call, NULL, 0);
}

void call_reply_abort(struct call *call)
{
    if (call->front)
        call->front->reply_abort(call);
    else
        grpc_server_call_message_abort(call->grpc);
}

/* ---- Life ---- */

static void on_deadline(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    service_expired(user);
}

static void call_name(struct call *call)
{
    static const char prefix[] = "call-", digits[] = "0123456789abcdef";
    uint64_t chance = worker_chance(call->worker);
    char *out = stpcpy(call->id, prefix);

    for (int shift = 60; shift >= 0; shift -= 4)
        *out++ = digits[chance >> shift & 15];
    *out = '\0';
}

static struct call *call_new(struct worker *worker, struct caller *caller, struct account *account,
                             struct memory *memory)
{
    struct call *call = calloc(1, sizeof *call);

    if (!call)
        return NULL;
    call->worker = worker;
    call->caller = caller;
    call->account = account;
    call->memory = memory;
    if (worker->log->level >= LOG_INFO)
        caller_find_unit(caller);
    call->release.run = run_release;
    call->start_us = worker_turn_us(worker);
    call->deadline_us = INT64_MAX;
    call->body = BUFFER_INIT_IN(BODY_MAX_BYTES, memory);
    sse_parser_init(&call->sse, CALL_EVENT_MAX_BYTES, memory);
    translate_pattern_init(&call->pattern, memory);
    evtimer_assign(&call->deadline, worker->base, on_deadline, call);
    call_name(call);
    return call;
}

struct call *call_begin(const struct call_front *front, void *front_user, struct worker *worker,
                        struct caller *caller, struct account *account, struct memory *memory,
                        const struct service_method *method)
{
    struct call *call = call_new(worker, caller, account, memory);

    if (call) {
        call->front = front;
        call->front_user = front_user;
        call->method = method;
    }
    return call;
}

void call_run(struct call *call, const uint8_t *message, size_t len)
{
    if (call->state == CALL_FINISHED)
        return;
    call->state = CALL_RUNNING;
    call->times.request_us = worker_now_us();
    call->method->run(call, message, len);
}

void call_writable(struct call *call)
{
    if (call->transfer)
        upstream_resume(call->transfer);
}

/* status: what is recorded if it is not finished. */
static void end(struct call *call, int status, const char *reason)
{
    call->own_key = NULL;
    if (call->transfer && upstream_phase(call->transfer) >= TRANSFER_SEND)
        call->maybe_executed = true;
    call_let_go(call, reason);
    if (call->state != CALL_FINISHED)
        record_call(call, status, reason);
    call->state = CALL_FINISHED;
    call->grpc = NULL;
    /* The account of memory may be gone before the call is. */
    buffer_done(&call->body);
    sse_parser_done(&call->sse);
    translate_pattern_done(&call->pattern);
    memory_release(call->memory, call->charged_bytes);
    worker_defer(call->worker, &call->release);
}

void call_end(struct call *call, const char *reason)
{
    end(call, GRPC_CANCELLED, reason);
}

/* ---- What the gRPC session says ---- */

static void on_begin(struct grpc_server_call *grpc, void *session_user)
{
    struct connection *connection = session_user;
    int64_t timeout_us = grpc_server_call_timeout_us(grpc);
    struct call *call =
        call_new(connection->worker, &connection->caller, connection->account, &connection->memory);

    if (!call) {
        grpc_server_call_finish(grpc, GRPC_RESOURCE_EXHAUSTED, "out of memory", NULL, 0);
        connection_wake(connection);
        return;
    }
    call->connection = connection;
    call->grpc = grpc;
    if (timeout_us >= 0 && __builtin_add_overflow(call->start_us, timeout_us, &call->deadline_us))
        call->deadline_us = INT64_MAX;
    grpc_server_call_set_user(grpc, call);
    grpc_server_call_set_header(grpc, "completion-id", call->id);
    LIST_INSERT_HEAD(&connection->calls, call, next);
    connection->used_us = call->start_us;

    call->method = service_find(grpc_server_call_path(grpc));
    if (call->method && call->method->takes_stream)
        grpc_server_call_stream_requests(grpc);
    if (!call->method)
        service_refuse(call);
    else if (timeout_us >= 0 && worker_arm(&call->deadline, timeout_us) < 0)
        call_fail_for_memory(call, -ENOMEM, COMPLETION__V1__PHASE__PHASE_LOCAL);
}

static void on_request(struct grpc_server_call *grpc, const uint8_t *message, size_t len)
{
    struct call *call = grpc_server_call_user(grpc);

    if (call)
        call_run(call, message, len);
}

static void on_writable(struct grpc_server_call *grpc)
{
    struct call *call = grpc_server_call_user(grpc);

    if (call)
        call_writable(call);
}

/* Of a call that nobody here has finished: the session may have, for the sake of its frames. */
static const char *end_reason(const struct grpc_server_call *grpc, enum grpc_server_end how)
{
    if (grpc_server_call_is_finished(grpc))
        return grpc_server_call_status(grpc) == GRPC_RESOURCE_EXHAUSTED ? "LOCAL_LIMIT"
                                                                        : "INVALID_REQUEST";
    return how == GRPC_SERVER_END_CANCELLED ? "CANCELLED" : "CALLER_GONE";
}

static void on_end(struct grpc_server_call *grpc, enum grpc_server_end how)
{
    struct call *call = grpc_server_call_user(grpc);

    if (!call)
        return;
    end(call,
        grpc_server_call_is_finished(grpc) ? (int)grpc_server_call_status(grpc) : GRPC_CANCELLED,
        end_reason(grpc, how));
    call->connection->n_watches -= call->watches;
    if (call->connection->n_watches > 0)
        call->connection->used_us = worker_now_us();
    LIST_REMOVE(call, next);
}

const struct grpc_server_handler call_handler = {
    .begin = on_begin,
    .request = on_request,
    .writable = on_writable,
    .end = on_end,
};
