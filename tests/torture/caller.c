#include "caller.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "completion/v1/completion.pb-c.h"

enum { HANGS_MS = 15000 };

int64_t caller_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

/* ---- Connection ---- */

void caller_close(struct caller *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->session = grpc_client_session_free(c->session);
}

bool caller_connect(struct caller *c)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (c->fd >= 0)
        return true;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", c->socket);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        grpc_client_session_new(&grpc_client_options_default, &c->session) < 0) {
        caller_close(c);
        return false;
    }
    return true;
}

static void read_input(struct caller *c)
{
    uint8_t data[65536];
    ssize_t n = recv(c->fd, data, sizeof data, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        grpc_client_session_closed(c->session, "closed");
    else if (grpc_client_session_receive(c->session, data, (size_t)n) < 0)
        grpc_client_session_closed(c->session, "closed: what came makes no sense");
}

static void write_output(struct caller *c)
{
    struct buffer *out = grpc_client_session_output(c->session);

    grpc_client_session_flush(c->session);
    if (buffer_length(out) == 0)
        return;
    ssize_t n = send(c->fd, buffer_bytes(out), buffer_length(out), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
        buffer_consume(out, (size_t)n);
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        read_input(c);
}

static void turn(struct caller *c, int timeout_ms)
{
    write_output(c);
    struct pollfd fd = {c->fd, POLLIN, 0};
    if (buffer_length(grpc_client_session_output(c->session)) > 0)
        fd.events |= POLLOUT;
    if (poll(&fd, 1, timeout_ms) > 0 && fd.revents & ~POLLOUT)
        read_input(c);
}

bool caller_is_connected(struct caller *c)
{
    if (c->fd >= 0) {
        turn(c, 0);
        if (!grpc_client_session_is_open(c->session))
            caller_close(c);
    }
    return c->fd >= 0;
}

/* ---- Calls ---- */

static size_t pack_request(const char *model, uint8_t packed[static 256])
{
    Completion__V1__CreateCompletionRequest request;

    completion__v1__create_completion_request__init(&request);
    request.has_model = true;
    request.model = (ProtobufCBinaryData){.data = (uint8_t *)model, .len = strlen(model)};
    request.prompt_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__PROMPT_PROMPT_STRING;
    request.prompt_string = (ProtobufCBinaryData){.data = (uint8_t *)"count", .len = 5};
    return completion__v1__create_completion_request__pack(&request, packed);
}

static struct grpc_client_call *start(struct caller *c, const struct caller_call *call)
{
    const struct grpc_client_metadata key = {"completion-api-key", call->key, true};
    const struct grpc_client_start options = {
        .path = call->path,
        .timeout_us = HANGS_MS * INT64_C(2000),
        .metadata = call->key ? &key : NULL,
        .n_metadata = call->key ? 1 : 0,
    };
    uint8_t packed[256];
    size_t len = call->model ? pack_request(call->model, packed) : 0;
    struct grpc_client_call *started = NULL;

    grpc_client_call_new(c->session, &options, packed, len, &started);
    return started;
}

static void take_message(const uint8_t *message, size_t len, struct caller_outcome *o)
{
    Completion__V1__Completion *completion = completion__v1__completion__unpack(NULL, len, message);
    size_t have = strlen(o->text);

    o->n_messages++;
    if (completion && completion->n_choices > 0)
        snprintf(o->text + have, sizeof o->text - have, "%.*s",
                 (int)completion->choices[0]->text.len, (char *)completion->choices[0]->text.data);
    if (completion)
        completion__v1__completion__free_unpacked(completion, NULL);
}

static void take_messages(struct grpc_client_call *call, struct caller_outcome *o)
{
    const uint8_t *message;
    size_t len;

    while (grpc_client_call_next(call, &message, &len) == 1)
        take_message(message, len, o);
}

/* False: it did not end. */
static bool await_end(struct caller *c, const struct caller_call *call,
                      struct grpc_client_call *started, struct caller_outcome *o)
{
    int64_t begin = caller_now_ms();
    bool was_late = call->late == NULL;

    for (;;) {
        take_messages(started, o);
        if (grpc_client_call_is_ended(started))
            return true;
        int64_t passed = caller_now_ms() - begin;
        if (!was_late && passed >= call->patience_ms) {
            was_late = true;
            call->late(call->user);
        }
        int64_t left = (was_late ? HANGS_MS : call->patience_ms) - passed;
        if (was_late && left <= 0)
            return false;
        turn(c, (int)left);
    }
}

void caller_call(struct caller *c, const struct caller_call *call, struct caller_outcome *ret)
{
    *ret = (struct caller_outcome){.status = CALLER_CLOSED};
    struct grpc_client_call *started = caller_connect(c) ? start(c, call) : NULL;

    if (!started) {
        caller_close(c);
        return;
    }
    if (await_end(c, call, started, ret)) {
        ret->status = (int)grpc_client_call_status(started);
        snprintf(ret->message, sizeof ret->message, "%s", grpc_client_call_message(started));
        if (!grpc_client_session_is_open(c->session) && !strncmp(ret->message, "closed", 6))
            ret->status = CALLER_CLOSED;
    } else {
        ret->status = CALLER_HANGS;
    }
    grpc_client_call_free(started);
    if (ret->status < 0)
        caller_close(c);
}

const char *caller_status_name(int status)
{
    return status == CALLER_CLOSED  ? "closed"
           : status == CALLER_HANGS ? "HANGS"
                                    : grpc_status_name(status);
}
