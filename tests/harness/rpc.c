#include "rpc.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness.h"

#define DETAIL_TYPE "type.googleapis.com/completion.v1.ErrorDetail"

enum { TEXT_MAX_BYTES = 256 << 20, TIMEOUT_MAX_MS = HARNESS_TIMEOUT_MS };

/* ---- Connection ---- */

void rpc_connect(struct rpc *r, const char *socket_path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    r->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(r->fd >= 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    if (connect(r->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail_msg("can't connect to %s: %s", socket_path, strerror(errno));
    assert_int_equal(grpc_client_session_new(&grpc_client_options_default, &r->session), 0);
}

void rpc_close(struct rpc *r)
{
    if (!r->session)
        return;
    close(r->fd);
    r->fd = -1;
    r->session = grpc_client_session_free(r->session);
}

/* The daemon has closed; what it said before that still counts. */
static void read_rest(struct rpc *r)
{
    uint8_t data[65536];
    ssize_t n;

    while ((n = recv(r->fd, data, sizeof data, MSG_DONTWAIT)) > 0)
        if (grpc_client_session_receive(r->session, data, (size_t)n) < 0)
            break;
    grpc_client_session_closed(r->session, "the connection broke");
}

static void write_output(struct rpc *r, struct buffer *out)
{
    ssize_t n = send(r->fd, buffer_bytes(out), buffer_length(out), MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n > 0)
        buffer_consume(out, (size_t)n);
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        read_rest(r);
}

static bool read_input(struct rpc *r)
{
    uint8_t data[65536];
    ssize_t n = recv(r->fd, data, sizeof data, MSG_DONTWAIT);

    if (n > 0) {
        int error = grpc_client_session_receive(r->session, data, (size_t)n);
        if (error < 0)
            grpc_client_session_closed(r->session, "the daemon's bytes make no sense");
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        grpc_client_session_closed(r->session, "the connection was closed");
    }
    return n >= 0;
}

bool rpc_turn(struct rpc *r, int timeout_ms)
{
    struct buffer *out = grpc_client_session_output(r->session);

    grpc_client_session_flush(r->session);
    if (buffer_length(out) > 0)
        write_output(r, out);
    struct pollfd fd = {r->fd, POLLIN, 0};
    if (buffer_length(out) > 0)
        fd.events |= POLLOUT;
    if (poll(&fd, 1, timeout_ms) <= 0)
        return false;
    return fd.revents & ~POLLOUT ? read_input(r) : true;
}

/* ---- Requests ---- */

ProtobufCBinaryData rpc_text(const char *text)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
}

rpc_request rpc_request_new(const char *model, const char *prompt)
{
    rpc_request request;

    completion__v1__create_completion_request__init(&request);
    request.has_model = model != NULL;
    if (model)
        request.model = rpc_text(model);
    if (prompt) {
        request.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
        request.prompt_string = rpc_text(prompt);
    }
    return request;
}

/* ---- Calls ---- */

struct grpc_client_call *rpc_start_raw(struct rpc *r, const char *path, const void *message,
                                       size_t len, int timeout_ms,
                                       const struct grpc_client_metadata *metadata,
                                       size_t n_metadata)
{
    struct grpc_client_call *call;
    struct grpc_client_start start = {
        .path = path,
        .timeout_us = timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000,
        .metadata = metadata,
        .n_metadata = n_metadata,
    };

    assert_int_equal(grpc_client_call_new(r->session, &start, message, len, &call), 0);
    rpc_turn(r, 0);
    return call;
}

struct grpc_client_call *rpc_start(struct rpc *r, const char *path, const rpc_request *request,
                                   int timeout_ms)
{
    size_t len = completion__v1__create_completion_request__get_packed_size(request);
    uint8_t *message = malloc(len + 1);

    assert_non_null(message);
    completion__v1__create_completion_request__pack(request, message);
    struct grpc_client_call *call = rpc_start_raw(r, path, message, len, timeout_ms, NULL, 0);
    free(message);
    return call;
}

/* True: a message; false: the call has ended. */
static bool wait_for_message(struct rpc *r, struct grpc_client_call *call, const uint8_t **ret,
                             size_t *ret_len)
{
    int64_t until = harness_now_ms() + TIMEOUT_MAX_MS;

    while (grpc_client_call_next(call, ret, ret_len) == 0) {
        if (grpc_client_call_is_ended(call))
            return false;
        int64_t left = until - harness_now_ms();
        if (left <= 0)
            fail_msg("the call neither brings a message nor ends");
        if (rpc_turn(r, (int)left))
            until = harness_now_ms() + TIMEOUT_MAX_MS;
    }
    return true;
}

Completion__V1__Completion *rpc_next(struct rpc *r, struct grpc_client_call *call)
{
    const uint8_t *message;
    size_t len;

    if (!wait_for_message(r, call, &message, &len))
        return NULL;
    Completion__V1__Completion *completion = completion__v1__completion__unpack(NULL, len, message);
    if (!completion)
        fail_msg("a message of %zu bytes is no Completion", len);
    return completion;
}

void rpc_completion_free(Completion__V1__Completion *completion)
{
    completion__v1__completion__free_unpacked(completion, NULL);
}

void rpc_cancel(struct rpc *r, struct grpc_client_call *call)
{
    grpc_client_call_cancel(call, GRPC_CANCELLED, "cancelled by the test");
    rpc_turn(r, 0);
}

static void read_detail(struct grpc_client_call *call, struct rpc_result *ret)
{
    const uint8_t *details, *value;
    size_t len;

    details = grpc_client_call_details(call, &len);
    if (!details)
        return;
    assert_int_equal(grpc_status_find_detail(details, len, DETAIL_TYPE, &value, &len), 0);
    ret->detail = completion__v1__error_detail__unpack(NULL, len, value);
    assert_non_null(ret->detail);
}

void rpc_finish(struct rpc *r, struct grpc_client_call *call, struct rpc_result *ret)
{
    Completion__V1__Completion *completion;

    *ret = (struct rpc_result){.text = BUFFER_INIT(TEXT_MAX_BYTES)};
    while ((completion = rpc_next(r, call))) {
        ret->n_messages++;
        if (completion->n_choices > 0 && completion->choices[0]->has_text)
            buffer_append(&ret->text, completion->choices[0]->text.data,
                          completion->choices[0]->text.len);
        if (ret->last)
            rpc_completion_free(ret->last);
        ret->last = completion;
    }
    buffer_append_byte(&ret->text, '\0');
    assert_int_equal(ret->text.error, 0);
    ret->text.end--; /* it is there, but does not count */
    ret->status = grpc_client_call_status(call);
    snprintf(ret->message, sizeof ret->message, "%s", grpc_client_call_message(call));
    read_detail(call, ret);
    grpc_client_call_free(call);
}

void rpc_result_done(struct rpc_result *result)
{
    buffer_done(&result->text);
    if (result->detail)
        completion__v1__error_detail__free_unpacked(result->detail, NULL);
    if (result->last)
        rpc_completion_free(result->last);
    *result = (struct rpc_result){.text = BUFFER_INIT(0)};
}

void rpc_call(struct rpc *r, const char *path, const rpc_request *request, struct rpc_result *ret)
{
    rpc_finish(r, rpc_start(r, path, request, -1), ret);
}

/* ---- Assertions ---- */

void rpc_assert_ok(const struct rpc_result *result, const char *text)
{
    if (result->status != GRPC_OK)
        fail_msg("%s: %s", grpc_status_name((int)result->status), result->message);
    if (text)
        assert_string_equal((char *)buffer_bytes(&result->text), text);
}

void rpc_assert_failed(const struct rpc_result *result, enum grpc_status status, const char *reason)
{
    if (result->status != status)
        fail_msg("%s, not %s: %s", grpc_status_name((int)result->status),
                 grpc_status_name((int)status), result->message);
    if (!result->detail)
        fail_msg("%s came without ErrorDetail: %s", grpc_status_name((int)status), result->message);
    if (reason)
        rpc_assert_text(result->detail, reason, reason);
}

void rpc_assert_said(const struct rpc_result *result, const char *message)
{
    if (!strstr(result->message, message))
        fail_msg("\"%s\" lacks \"%s\"", result->message, message);
}

void rpc_assert_field(bool has, const ProtobufCBinaryData *field, const char *expected)
{
    if (!expected && has)
        fail_msg("the field is set: \"%.*s\"", (int)field->len, field->data);
    if (!expected)
        return;
    if (!has)
        fail_msg("the field is not set; it should be \"%s\"", expected);
    if (field->len != strlen(expected) || memcmp(field->data, expected, field->len) != 0)
        fail_msg("the field is \"%.*s\", not \"%s\"", (int)field->len, field->data, expected);
}
