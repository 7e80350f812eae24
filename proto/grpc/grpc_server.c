/*
 * The HTTP/2 side of a server session: nghttp2 set up, fed and drained, its callbacks turned into
 * steps of calls. What a call is, is in grpc_server_call.c. nghttp2 must not be made to run from
 * inside its callbacks, so only grpc_server_session_*() functions do that.
 */
#include "grpc_server.h"

#include <errno.h>
#include <stdlib.h>

#include "../wipe.h"
#include "grpc_server_call.h"

enum {
    CONNECTION_WINDOW = 1 << 20,
    OUTPUT_EXCESS = 1 << 18, /* one frame more than output_bytes, whatever its kind */
    OUTPUT_KEEP = 1 << 14,   /* memory that an idle connection keeps */
    QUEUE_MAX = 4096, /* frames that wait for a client which makes us answer, but reads not */
    CONTINUATIONS_MAX = 8,
    RESETS_MAX = 200, /* each may have started work */
    RESETS_PER_SECOND = 33,
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

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user)
{
    if (!is_request(frame))
        return 0;

    struct grpc_server_call *call = grpc_server_call_new(user, frame->hd.stream_id);
    if (!call)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, call);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                     void *user)
{
    struct grpc_server_call *call = find_call(h2, frame->hd.stream_id);
    (void)flags, (void)user;

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

    if (call)
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
#ifdef HAVE_NGHTTP2_RESET_LIMIT
    nghttp2_option_set_stream_reset_rate_limit(o, RESETS_MAX, RESETS_PER_SECOND);
#endif
#ifdef HAVE_NGHTTP2_CONTINUATION_LIMIT
    nghttp2_option_set_max_continuations(o, CONTINUATIONS_MAX);
#endif
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

static void *h2_malloc(size_t size, void *user)
{
    (void)user;
    return malloc(size);
}

static void *h2_calloc(size_t n, size_t size, void *user)
{
    (void)user;
    return calloc(n, size);
}

static void h2_free(void *memory, void *user)
{
    (void)user;
    wipe_free(memory);
}

static void *h2_realloc(void *memory, size_t size, void *user)
{
    (void)user;
    return wipe_realloc(memory, size);
}

/* nghttp2 decodes headers into memory of its own, and metadata may hold a key. One that the client
 * did not send as never indexed stays in HPACK's table until others push it out or the connection
 * ends. */
static const nghttp2_mem wiped_memory = {NULL, h2_malloc, h2_free, h2_calloc, h2_realloc};

int grpc_server_session_new(const struct grpc_server_options *options,
                            const struct grpc_server_handler *handler, void *user,
                            struct grpc_server_session **ret)
{
    struct grpc_server_session *s = calloc(1, sizeof *s);
    nghttp2_session_callbacks *callbacks = new_callbacks();
    nghttp2_option *option = new_option();
    nghttp2_mem memory = wiped_memory; /* nghttp2 copies it */
    int rc = -ENOMEM;

    if (s && callbacks && option) {
        s->handler = handler;
        s->user = user;
        s->options = *options;
        s->output = BUFFER_INIT(options->output_bytes + OUTPUT_EXCESS);
        LIST_INIT(&s->calls);
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
    free(s);
    return NULL;
}

void *grpc_server_session_user(const struct grpc_server_session *s)
{
    return s->user;
}

static int map_error(ssize_t error)
{
    return error == NGHTTP2_ERR_NOMEM || error == NGHTTP2_ERR_CALLBACK_FAILURE ? -ENOMEM : -EPROTO;
}

int grpc_server_session_flush(struct grpc_server_session *s)
{
    if (s->error || s->n_preface < PREFACE_SIZE)
        return s->error;
    buffer_trim(&s->output, OUTPUT_KEEP);
    while (buffer_length(&s->output) < s->options.output_bytes) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(s->h2, &data);
        if (n < 0 && !s->error)
            s->error = map_error(n);
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
        grpc_server_session_flush(s);
    s->error = error;
    return error;
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

int grpc_server_session_receive(struct grpc_server_session *s, const uint8_t *data, size_t len)
{
    if (s->error)
        return s->error;
    if (!check_preface(s, data, len))
        return refuse_protocol(s);

    ssize_t n = nghttp2_session_mem_recv(s->h2, data, len);
    if (s->error)
        return s->error;
    if (n < 0)
        return break_off(s, map_error(n),
                         n == NGHTTP2_ERR_FLOODED ? NGHTTP2_ENHANCE_YOUR_CALM
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
