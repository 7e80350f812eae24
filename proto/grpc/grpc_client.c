/*
 * The HTTP/2 side of a client session: nghttp2 set up, fed and drained, its callbacks turned into
 * steps of calls. What a call is, is in grpc_client_call.c. nghttp2 must not be made to run from
 * inside its callbacks, so only grpc_client_session_*() functions do that.
 */
#include "grpc_client.h"

#include <errno.h>
#include <stdlib.h>

#include "grpc_client_call.h"

enum {
    /* Calls have windows of their own; this one is wide, so that they do not wait for each other
     * and updates of it are rare. */
    CONNECTION_WINDOW = 16 << 20,
    HEADER_BYTES_ANNOUNCED = 16 << 10,
    OUTPUT_KEEP = 1 << 14, /* memory that an idle connection keeps */
};

const struct grpc_client_options grpc_client_options_default = {
    .max_message_bytes = 64 << 20,
    .window_bytes = 256 << 10,
};

/* ---- Callbacks of nghttp2 ---- */

/* NULL for a call that was freed. */
static struct grpc_client_call *find_call(nghttp2_session *h2, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(h2, stream_id);
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_client_call *call = find_call(h2, frame->hd.stream_id);
    (void)user;

    if (call && !call->is_ended)
        grpc_response_begin_block(&call->response);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    struct grpc_client_call *call = find_call(h2, frame->hd.stream_id);
    (void)flags, (void)user;

    if (call && !call->is_ended)
        grpc_response_add(&call->response, name, name_len, value, value_len);
    return 0;
}

static int on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t stream_id, const uint8_t *data,
                         size_t len, void *user)
{
    struct grpc_client_call *call = find_call(h2, stream_id);
    (void)flags, (void)user;

    if (nghttp2_session_consume_connection(h2, len) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (call)
        grpc_client_call_receive(call, data, len);
    return 0;
}

/* Calls that wait for a free stream would wait for nothing. */
static void end_unsent(struct grpc_client_session *s)
{
    struct grpc_client_call *call;

    LIST_FOREACH (call, &s->calls, entry) {
        if (call->is_sent || call->is_ended)
            continue;
        call->is_unprocessed = true;
        grpc_client_call_end(call, GRPC_UNAVAILABLE, "the server takes no more calls");
    }
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_client_call *call = find_call(h2, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_GOAWAY)
        end_unsent(user);
    if (!call || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
        grpc_client_call_receive_end(call);
    else if (frame->hd.type == NGHTTP2_HEADERS)
        grpc_client_call_receive_block(call);
    return 0;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_client_session *s = user;
    struct grpc_client_call *call = find_call(h2, frame->hd.stream_id);

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        s->error = -EPROTO;
    if (call && frame->hd.type == NGHTTP2_HEADERS)
        call->is_sent = true;
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t stream_id, uint32_t error_code, void *user)
{
    struct grpc_client_call *call = find_call(h2, stream_id);
    (void)user;

    if (call)
        grpc_client_call_close(call, error_code);
    return 0;
}

static int send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *header, size_t len,
                     nghttp2_data_source *source, void *user)
{
    enum { FRAME_HEADER = 9 };
    struct grpc_client_session *s = user;
    struct grpc_client_call *call = find_call(h2, frame->hd.stream_id);
    (void)source;

    uint8_t *p = call ? buffer_reserve(&s->output, FRAME_HEADER + len) : NULL;
    if (!p)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(p, header, FRAME_HEADER);
    memcpy(p + FRAME_HEADER, buffer_bytes(&call->request), len);
    buffer_commit(&s->output, FRAME_HEADER + len);
    buffer_consume(&call->request, len);
    if (buffer_length(&call->request) == 0) {
        buffer_done(&call->request);
        call->is_request_end = true;
    }
    return 0;
}

/* ---- The session ---- */

static nghttp2_session_callbacks *new_callbacks(void)
{
    nghttp2_session_callbacks *c;

    if (nghttp2_session_callbacks_new(&c) != 0)
        return NULL;
    nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(c, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(c, on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(c, send_data);
    return c;
}

static nghttp2_option *new_option(void)
{
    nghttp2_option *o;

    if (nghttp2_option_new(&o) != 0)
        return NULL;
    nghttp2_option_set_no_auto_window_update(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    return o;
}

static int submit_settings(struct grpc_client_session *s)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, s->options.window_bytes},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_ANNOUNCED},
    };

    if (nghttp2_submit_settings(s->h2, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof settings[0]) != 0)
        return -ENOMEM;
    if (nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) != 0)
        return -ENOMEM;
    return grpc_client_session_flush(s);
}

int grpc_client_session_new(const struct grpc_client_options *options,
                            struct grpc_client_session **ret)
{
    struct grpc_client_session *s = calloc(1, sizeof *s);
    nghttp2_session_callbacks *callbacks = new_callbacks();
    nghttp2_option *option = new_option();
    int rc = -ENOMEM;

    if (s && callbacks && option) {
        s->options = *options;
        s->output = BUFFER_INIT(SIZE_MAX); /* by the server's windows */
        LIST_INIT(&s->calls);
        if (nghttp2_session_client_new2(&s->h2, callbacks, s, option) == 0)
            rc = submit_settings(s);
    }
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    if (rc < 0) {
        grpc_client_session_free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

struct grpc_client_session *grpc_client_session_free(struct grpc_client_session *s)
{
    if (!s)
        return NULL;
    grpc_client_session_closed(s, "connection closed");
    while (!LIST_EMPTY(&s->calls)) {
        struct grpc_client_call *call = LIST_FIRST(&s->calls);
        LIST_REMOVE(call, entry);
        call->session = NULL;
        call->is_open = false;
    }
    nghttp2_session_del(s->h2);
    buffer_done(&s->output);
    free(s);
    return NULL;
}

void grpc_client_session_closed(struct grpc_client_session *s, const char *why)
{
    struct grpc_client_call *call;

    if (!s->error)
        s->error = -EPIPE;
    LIST_FOREACH (call, &s->calls, entry) {
        if (call->is_ended)
            continue;
        call->is_unprocessed = !call->is_sent;
        grpc_client_call_end(call, GRPC_UNAVAILABLE, why);
    }
}

static int break_off(struct grpc_client_session *s, int error, const char *why)
{
    s->error = error;
    grpc_client_session_closed(s, why);
    return error;
}

/* Where the frames of broken HTTP/2 end too: nghttp2 answers them with a GOAWAY. */
int grpc_client_session_flush(struct grpc_client_session *s)
{
    const uint8_t *data;
    ssize_t n;

    if (s->error)
        return s->error;
    buffer_trim(&s->output, OUTPUT_KEEP);
    while ((n = nghttp2_session_mem_send(s->h2, &data)) > 0)
        buffer_append(&s->output, data, (size_t)n);
    if (n < 0 || s->output.error || s->error == -ENOMEM)
        return break_off(s, -ENOMEM, "no memory for the connection");
    if (s->error)
        return break_off(s, s->error, "the server is no gRPC server, or its HTTP/2 is broken");
    return 0;
}

/* Counts how far the server's first bytes are those of an HTTP/1 response. */
static bool is_http1(struct grpc_client_session *s, const uint8_t *data, size_t len)
{
    static const char magic[] = "HTTP/";
    enum { MAGIC_SIZE = sizeof magic - 1, NO_HTTP1 = MAGIC_SIZE + 1 };

    for (size_t i = 0; i < len && s->n_http1 < MAGIC_SIZE; i++)
        s->n_http1 = data[i] == (uint8_t)magic[s->n_http1] ? s->n_http1 + 1 : NO_HTTP1;
    return s->n_http1 == MAGIC_SIZE;
}

int grpc_client_session_receive(struct grpc_client_session *s, const uint8_t *data, size_t len)
{
    if (s->error)
        return s->error;
    if (is_http1(s, data, len))
        return break_off(s, -EPROTO, "the server speaks HTTP/1, not gRPC");

    ssize_t n = nghttp2_session_mem_recv(s->h2, data, len);
    if (n == NGHTTP2_ERR_NOMEM || n == NGHTTP2_ERR_CALLBACK_FAILURE)
        return break_off(s, -ENOMEM, "no memory for the connection");
    if (n < 0 && nghttp2_session_terminate_session(s->h2, NGHTTP2_PROTOCOL_ERROR) != 0)
        return break_off(s, -ENOMEM, "no memory for the connection");
    return grpc_client_session_flush(s);
}

struct buffer *grpc_client_session_output(struct grpc_client_session *s)
{
    return &s->output;
}

bool grpc_client_session_is_open(const struct grpc_client_session *s)
{
    return !s->error && nghttp2_session_check_request_allowed(s->h2);
}
