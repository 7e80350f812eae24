/*
 * Answers where evhttp would give none, or a page of HTML: the connection is taken from it, told
 * why in JSON, and closed when the caller has had the time to read that.
 */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <stdio.h>
#include <sys/socket.h>

#include "call.h"
#include "openai_connection.h"
#include "openai_error.h"
#include "openai_internal.h"

enum { REFUSAL_MAX_BYTES = 8192 };

static void on_refused_input(struct bufferevent *bev, void *user)
{
    struct evbuffer *input = bufferevent_get_input(bev);
    struct openai_connection *c = user;

    c->refused_us = worker_now_us();
    evbuffer_drain(input, evbuffer_get_length(input));
}

/* All has been written. The caller may still be sending: closing now would take the answer from
 * it. */
static void on_refusal_written(struct bufferevent *bev, void *user)
{
    (void)user;
    shutdown(bufferevent_getfd(bev), SHUT_WR);
}

static void on_refused_gone(struct bufferevent *bev, short what, void *user)
{
    (void)bev, (void)what;
    openai_connection_cut(user);
}

/* From here on evhttp hears nothing of the connection. */
void openai_connection_close_when_sent(struct openai_connection *c)
{
    c->refused_us = c->request_since_us = worker_now_us();
    openai_connection_release_input(c, evbuffer_get_length(openai_input_of(c)));
    bufferevent_setcb(c->bev, on_refused_input, on_refusal_written, on_refused_gone, c);
    on_refused_input(c->bev, c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, OPENAI_AHEAD_MAX_BYTES);
    if (bufferevent_enable(c->bev, EV_READ | EV_WRITE) < 0)
        openai_connection_cut(c);
    openai_connection_watch(c);
}

static void refuse(struct openai_connection *c, int http_status, const struct call_error *error)
{
    struct buffer body = BUFFER_INIT(REFUSAL_MAX_BYTES);

    if (c->refused_us >= 0 || !c->http)
        return;
    openai_connection_close_when_sent(c);
    openai_error_write(error, http_status, &body);
    if (body.error ||
        evbuffer_add_printf(openai_output_of(c),
                            "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                            "Content-Length: %zu\r\nConnection: close\r\n\r\n%.*s",
                            http_status, openai_status_phrase(http_status), buffer_length(&body),
                            (int)buffer_length(&body), (char *)buffer_bytes(&body)) < 0)
        openai_connection_cut(c);
    buffer_done(&body);
}

void openai_refuse_for_memory(struct openai_connection *c)
{
    refuse(c, 429,
           &(struct call_error){
               .status = GRPC_RESOURCE_EXHAUSTED,
               .reason = "LOCAL_LIMIT",
               .message = "your calls hold as much of completiond's memory as they may (max_memory "
                          "of your policy, memory_max of all); make fewer or smaller ones at once",
               .retryable = true,
           });
}

void openai_refuse_for_want(struct openai_connection *c)
{
    refuse(c, 503,
           &(struct call_error){
               .status = GRPC_RESOURCE_EXHAUSTED,
               .reason = "OUT_OF_MEMORY",
               .message = "completiond has no memory for the call; try again",
               .retryable = true,
           });
}

/* evhttp has answered by itself, and none of it is written yet. Its page says the status only. */
void openai_on_foreign(evutil_socket_t fd, short what, void *user)
{
    struct openai_connection *c = user;
    struct evbuffer *output = openai_output_of(c);
    char line[16] = "";
    int status = 0;

    (void)fd, (void)what;
    /* Its front is the bufferevent's own but for this. */
    evbuffer_unfreeze(output, 1);
    evbuffer_copyout(output, line, sizeof line - 1);
    bool is_answer =
        sscanf(line, "HTTP/%*d.%*d %d", &status) == 1 && status != 100 && c->refused_us < 0;
    if (is_answer)
        evbuffer_drain(output, evbuffer_get_length(output));
    evbuffer_freeze(output, 1);
    if (!is_answer)
        return;
    if (openai_has_lost_request(c)) {
        openai_refuse_for_want(c);
        return;
    }
    struct call_error error = {
        .status = GRPC_INVALID_ARGUMENT,
        .reason = "INVALID_REQUEST",
        .message = "this is no request of HTTP/1.1 that can be read, or its headers are too large",
    };
    if (status == 413) {
        error.status = GRPC_RESOURCE_EXHAUSTED;
        error.reason = "LOCAL_LIMIT";
        error.message = "the request's body is larger than your policy allows (max_message), or "
                        "its chunks are malformed; make it smaller";
    } else if (status == 417) {
        error.message = "of all that may be expected, only 100-continue can be met";
    } else if (status != 400) {
        status = 405;
        error.status = GRPC_UNIMPLEMENTED;
        error.reason = "UNKNOWN_METHOD";
        error.message = "there is no such method here: POST /v1/completions, GET /v1/models";
    }
    refuse(c, status, &error);
}

void openai_refuse_slow_request(struct openai_connection *c)
{
    refuse(c, 408,
           &(struct call_error){
               .status = GRPC_DEADLINE_EXCEEDED,
               .reason = "DEADLINE_EXCEEDED",
               .message = "the request was not there within "
                          "caller_request_timeout of its first byte",
               .retryable = true,
           });
}
