/*
 * The HTTP/2 side of a server session: nghttp2 set up, fed and drained, its callbacks turned into
 * steps of calls. What a call is, is in grpc_server_call.c. nghttp2 must not be made to run from
 * inside its callbacks, so only grpc_server_session_*() functions do that.
 */
#include "grpc_server.h"

#include <errno.h>
#include <stdlib.h>

#include "grpc_server_call.h"
#include "http2_memory.h"

enum {
    CONNECTION_WINDOW = 1 << 20,
    OUTPUT_EXCESS = 1 << 18, /* one frame more than output_bytes, whatever its kind */
    OUTPUT_KEEP = 1 << 14,   /* memory that an idle connection keeps */
    QUEUE_MAX = 4096, /* frames that wait for a client which makes us answer, but reads not */
};

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum { PREFACE_SIZE = sizeof preface - 1 };

const struct grpc_server_options grpc_server_options_default = {
    .max_streams = 100,
    .max_header_bytes = 16 << 10,
    .max_message_bytes = 4 << 20,
    .high_water_bytes = 64 << 10,
    .max_pending_bytes = 36 << 20,
    .output_bytes = 64 << 10,
};

/* ---- Callbacks of nghttp2 ---- */

static struct grpc_server_call *find_call(nghttp2_session *h2, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(h2, stream_id);
}

static bool is_request(const nghttp2_frame *frame)
{
    return frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST;
}

/* Most of them make us reset the stream, or refuse it. */
static int on_invalid_frame(nghttp2_session *h2, const nghttp2_frame *frame, int error, void *user)
{
    struct grpc_server_session *s = user;
    struct grpc_server_call *call = find_call(h2, frame->hd.stream_id);
    (void)error;

    if (call)
        grpc_server_call_count_early_end(call);
    else
        http2_guard_reset(&s->guard);
    return 0;
}

/* Gives RESOURCE_EXHAUSTED at the client, where there is no memory for more words. */
static int refuse_for_memory(struct grpc_server_session *s, int32_t stream_id)
{
    int rc =
        nghttp2_submit_rst_stream(s->h2, NGHTTP2_FLAG_NONE, stream_id, NGHTTP2_ENHANCE_YOUR_CALM);

    http2_guard_reset(&s->guard);
    return rc == NGHTTP2_ERR_NOMEM ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_server_session *s = user;

    http2_guard_begin_headers(&s->guard);
    if (!is_request(frame))
        return 0;

    struct grpc_server_call *call = grpc_server_call_new(s, frame->hd.stream_id);
    if (!call)
        return refuse_for_memory(s, frame->hd.stream_id);
    nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, call);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    struct grpc_server_session *s = user;
    struct grpc_server_call *call = find_call(h2, frame->hd.stream_id);
    (void)flags;

    if (!http2_guard_header(&s->guard, name_len, value_len))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (call && is_request(frame))
        grpc_request_add(&call->request, name, name_len, value, value_len);
    return 0;
}

static int on_data_chunk(nghttp2_session *h2, uint8_t flags, int32_t stream_id, const uint8_t *data,
                         size_t len, void *user)
{
    struct grpc_server_call *call = find_call(h2, stream_id);
    (void)flags, (void)user;

    if (call)
        grpc_server_call_receive(call, data, len);
    return 0;
}

static int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_server_call *call = find_call(h2, frame->hd.stream_id);
    bool ends = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    (void)user;

    if (!call)
        return 0;
    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        call->was_reset = true;
        return 0;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
        return 0;

    if (is_request(frame)) {
        grpc_server_call_begin(call);
    } else if (!ends &&
               (frame->hd.type == NGHTTP2_HEADERS || frame->hd.length == frame->data.padlen)) {
        grpc_server_call_count_empty(call);
    }
    if (ends)
        grpc_server_call_receive_end(call);
    return 0;
}

static int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    struct grpc_server_session *s = user;

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        s->error = -EPROTO;
    if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)
        http2_guard_progress(&s->guard);
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
        return 0;

    struct grpc_server_call *call = find_call(h2, frame->hd.stream_id);
    if (!call)
        return 0;
    call->is_sent = true;

    /* The client may stop sending. Said any earlier, the reset would drop the trailers. */
    if (!call->is_ended &&
        nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_NO_ERROR) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t stream_id, uint32_t error_code, void *user)
{
    struct grpc_server_call *call = find_call(h2, stream_id);
    (void)error_code, (void)user;

    if (!call)
        return 0;
    grpc_server_call_count_early_end(call);
    grpc_server_call_close(call);
    return 0;
}

/* The one copy of a reply on its way from the call to the socket. */
static int send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *header, size_t len,
                     nghttp2_data_source *source, void *user)
{
    enum { FRAME_HEADER = 9 };
    struct grpc_server_session *s = user;
    struct grpc_server_call *call = source->ptr;
    (void)h2, (void)frame;

    if (buffer_length(&s->output) >= s->options.output_bytes)
        return NGHTTP2_ERR_WOULDBLOCK;
    uint8_t *p = buffer_reserve(&s->output, FRAME_HEADER + len);
    if (!p && buffer_length(&s->output) > 0) {
        s->output.error = 0;
        return NGHTTP2_ERR_WOULDBLOCK; /* what is there goes first, and makes room */
    }
    if (!p)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(p, header, FRAME_HEADER);
    if (len)
        memcpy(p + FRAME_HEADER, buffer_bytes(&call->reply), len);
    buffer_commit(&s->output, FRAME_HEADER + len);
    grpc_server_call_consume(call, len);
    return 0;
}

/* ---- The session ---- */

static nghttp2_session_callbacks *new_callbacks(void)
{
    nghttp2_session_callbacks *c;

    if (nghttp2_session_callbacks_new(&c) != 0)
        return NULL;
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid_frame);
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
    nghttp2_option_set_no_http_messaging(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    return o;
}

static int submit_settings(struct grpc_server_session *s)
{
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, s->options.max_streams},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)s->options.max_header_bytes},
    };

    if (nghttp2_submit_settings(s->h2, NGHTTP2_FLAG_NONE, settings,
                                sizeof settings / sizeof settings[0]) != 0)
        return -ENOMEM;
    if (nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) != 0)
        return -ENOMEM;
    return 0;
}

static struct grpc_server_session *allocate_session(const struct grpc_server_options *options)
{
    struct grpc_server_session *s = NULL;

    if (memory_charge(options->memory, sizeof *s) && !(s = calloc(1, sizeof *s)))
        memory_release(options->memory, sizeof *s);
    if (!s)
        return NULL;
    s->options = *options;
    s->output = BUFFER_INIT_IN(options->output_bytes + OUTPUT_EXCESS, options->memory);
    s->output.is_essential = true;
    LIST_INIT(&s->calls);
    http2_guard_init(&s->guard);
    s->first_us = -1;
    return s;
}

int grpc_server_session_new(const struct grpc_server_options *options,
                            const struct grpc_server_handler *handler, void *user,
                            struct grpc_server_session **ret)
{
    struct grpc_server_session *s = allocate_session(options);
    nghttp2_session_callbacks *callbacks = new_callbacks();
    nghttp2_option *option = new_option();
    nghttp2_mem memory = http2_memory(options->memory);
    int rc = -ENOMEM;

    if (s && callbacks && option) {
        s->handler = handler;
        s->user = user;
        if (nghttp2_session_server_new3(&s->h2, callbacks, s, option, &memory) == 0)
            rc = submit_settings(s);
    }
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    if (rc < 0) {
        grpc_server_session_free(s);
        return rc;
    }
    *ret = s;
    return 0;
}

struct grpc_server_session *grpc_server_session_free(struct grpc_server_session *s)
{
    if (!s)
        return NULL;
    while (!LIST_EMPTY(&s->calls)) {
        struct grpc_server_call *call = LIST_FIRST(&s->calls);
        nghttp2_session_set_stream_user_data(s->h2, call->stream_id, NULL);
        grpc_server_call_close(call);
    }
    nghttp2_session_del(s->h2);
    buffer_done(&s->output);
    memory_release(s->options.memory, sizeof *s);
    free(s);
    return NULL;
}

void *grpc_server_session_user(const struct grpc_server_session *s)
{
    return s->user;
}

static int map_error(const struct grpc_server_session *s, ssize_t error)
{
    if (s->guard.is_exceeded)
        return -EPROTO;
    return error == NGHTTP2_ERR_NOMEM || error == NGHTTP2_ERR_CALLBACK_FAILURE ? -ENOMEM : -EPROTO;
}

static int make_frames(struct grpc_server_session *s)
{
    while (buffer_length(&s->output) < s->options.output_bytes) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(s->h2, &data);
        if (n < 0 && !s->error)
            s->error = map_error(s, n);
        if (n <= 0)
            break;
        buffer_append(&s->output, data, (size_t)n);
        if (s->output.error) {
            s->error = s->output.error;
            break;
        }
    }
    return s->error;
}

/* Says goodbye as far as there is room for it. */
static int break_off(struct grpc_server_session *s, int error, uint32_t http2_error)
{
    if (nghttp2_session_terminate_session(s->h2, http2_error) == 0)
        make_frames(s);
    s->error = error;
    return error;
}

int grpc_server_session_flush(struct grpc_server_session *s)
{
    if (s->error || s->n_preface < PREFACE_SIZE)
        return s->error;
    buffer_trim(&s->output, OUTPUT_KEEP);
    if (make_frames(s) == 0 && s->guard.is_exceeded)
        return break_off(s, -EPROTO, NGHTTP2_ENHANCE_YOUR_CALM);
    return s->error;
}

void grpc_server_session_set_time(struct grpc_server_session *s, int64_t now_us)
{
    http2_guard_set_time(&s->guard, now_us);
}

int64_t grpc_server_session_midway_since(const struct grpc_server_session *s)
{
    if (s->n_preface < PREFACE_SIZE || !s->guard.is_greeted)
        return s->first_us;
    return http2_guard_midway_since(&s->guard);
}

/* Whoever comes with HTTP/1.1 or TLS should be able to read why it does not work. */
static int refuse_protocol(struct grpc_server_session *s)
{
    static const char body[] =
        "This socket speaks gRPC, which is HTTP/2 without TLS. Use a gRPC client.\n";

    buffer_printf(&s->output,
                  "HTTP/1.1 400 Bad Request\r\n"
                  "Content-Type: text/plain\r\n"
                  "Content-Length: %zu\r\n"
                  "Connection: close\r\n"
                  "\r\n"
                  "%s",
                  sizeof body - 1, body);
    s->error = -EPROTO;
    return s->error;
}

static bool check_preface(struct grpc_server_session *s, const uint8_t *data, size_t len)
{
    size_t n = PREFACE_SIZE - s->n_preface;

    if (n > len)
        n = len;
    if (n && memcmp(data, preface + s->n_preface, n) != 0)
        return false;
    s->n_preface += n;
    return true;
}

static bool is_useful(struct grpc_server_session *s)
{
    if (http2_guard_frame_type(&s->guard) != NGHTTP2_DATA ||
        http2_guard_frame_length(&s->guard) == 0)
        return false;
    const struct grpc_server_call *call = find_call(s->h2, http2_guard_frame_stream(&s->guard));
    return call && !call->is_finished;
}

/* grpc-core (1.51, of Debian 12) resets a stream of which it has sent nothing yet when its deadline
 * passes just before its headers leave. By RFC 9113 that ends the connection, and all other calls
 * on it; gRPC's own servers ignore it. Between the frames of one block of headers it is an error.
 */
static bool is_reset_of_nothing(struct grpc_server_session *s)
{
    int32_t stream = http2_guard_frame_stream(&s->guard);

    return http2_guard_frame_type(&s->guard) == NGHTTP2_RST_STREAM && !s->guard.is_in_headers &&
           http2_guard_frame_length(&s->guard) == 4 && stream % 2 == 1 &&
           stream > nghttp2_session_get_last_proc_stream_id(s->h2) &&
           !nghttp2_session_find_stream(s->h2, stream);
}

/* Frame by frame: where a budget is exceeded, nothing behind that is looked at. nghttp2 gets heads
 * whole, because it counts the pieces of a CONTINUATION's as so many frames (1.52 of Debian 12). */
static ssize_t receive_frames(struct grpc_server_session *s, const uint8_t *data, size_t len)
{
    ssize_t rc = 0;

    while (len > 0 && rc >= 0) {
        struct http2_piece piece = http2_guard_follow(&s->guard, data, len);
        if (piece.begins_frame)
            http2_guard_frame(&s->guard, is_useful(s));
        if (s->guard.is_exceeded)
            return NGHTTP2_ERR_FLOODED;
        if (piece.begins_frame)
            s->is_skipping = is_reset_of_nothing(s);
        if (piece.begins_frame && !s->is_skipping)
            rc = nghttp2_session_mem_recv(s->h2, s->guard.head, sizeof s->guard.head);
        if (rc >= 0 && piece.n_payload > 0 && !s->is_skipping)
            rc = nghttp2_session_mem_recv(s->h2, data + piece.n_head, piece.n_payload);
        data += piece.n_head + piece.n_payload;
        len -= piece.n_head + piece.n_payload;
    }
    return rc >= 0 && s->guard.is_exceeded ? NGHTTP2_ERR_FLOODED : rc;
}

int grpc_server_session_receive(struct grpc_server_session *s, const uint8_t *data, size_t len)
{
    size_t n_preface = s->n_preface;

    if (s->error)
        return s->error;
    if (s->first_us < 0 && len > 0)
        s->first_us = s->guard.now_us;
    if (!check_preface(s, data, len))
        return refuse_protocol(s);
    n_preface = s->n_preface - n_preface;

    ssize_t n = n_preface ? nghttp2_session_mem_recv(s->h2, data, n_preface) : 0;
    if (n >= 0)
        n = receive_frames(s, data + n_preface, len - n_preface);
    if (s->error)
        return s->error;
    if (n < 0)
        return break_off(s, map_error(s, n),
                         n == NGHTTP2_ERR_FLOODED || s->guard.is_exceeded
                             ? NGHTTP2_ENHANCE_YOUR_CALM
                             : NGHTTP2_INTERNAL_ERROR);
    if (nghttp2_session_get_outbound_queue_size(s->h2) > QUEUE_MAX)
        return break_off(s, -EPROTO, NGHTTP2_ENHANCE_YOUR_CALM);
    return 0;
}

struct buffer *grpc_server_session_output(struct grpc_server_session *s)
{
    return &s->output;
}

bool grpc_server_session_wants_flush(const struct grpc_server_session *s)
{
    return !s->error && s->n_preface == PREFACE_SIZE &&
           buffer_length(&s->output) < s->options.output_bytes && nghttp2_session_want_write(s->h2);
}

bool grpc_server_session_is_done(const struct grpc_server_session *s)
{
    if (s->error || (s->is_drained && s->n_preface < PREFACE_SIZE))
        return true;
    return !nghttp2_session_want_read(s->h2) && !nghttp2_session_want_write(s->h2);
}

void grpc_server_session_drain(struct grpc_server_session *s, bool final)
{
    int rc;

    if (s->error || s->is_drained)
        return;
    if (final) {
        s->is_drained = true;
        rc = nghttp2_submit_goaway(s->h2, NGHTTP2_FLAG_NONE,
                                   nghttp2_session_get_last_proc_stream_id(s->h2), NGHTTP2_NO_ERROR,
                                   NULL, 0);
    } else {
        rc = nghttp2_submit_shutdown_notice(s->h2);
    }
    if (rc == NGHTTP2_ERR_NOMEM)
        s->error = -ENOMEM;
}

size_t grpc_server_session_n_calls(const struct grpc_server_session *s)
{
    return s->n_calls;
}
