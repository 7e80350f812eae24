/*
 * Calls of a client session: one request message out, messages and a status in. It submits to
 * nghttp2 and never makes it run, so that everything here may be called from nghttp2's callbacks.
 */
#include "grpc_client_call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "grpc_message.h"

enum { METADATA_MAX = 16, HEADERS_MAX = 8 + METADATA_MAX, IN_KEEP = 1 << 16 };

static void check_submitted(struct grpc_client_call *call, int rc)
{
    if (rc == NGHTTP2_ERR_NOMEM)
        call->session->error = -ENOMEM;
}

static void reset(struct grpc_client_call *call)
{
    if (call->is_open && !call->session->error)
        check_submitted(call, nghttp2_submit_rst_stream(call->session->h2, NGHTTP2_FLAG_NONE,
                                                        call->stream_id, NGHTTP2_CANCEL));
}

/* ---- Start ---- */

#define HEADER(name_text, value_text, flags)                                                       \
    ((nghttp2_nv){(uint8_t *)(name_text), (uint8_t *)(value_text), strlen(name_text),              \
                  strlen(value_text), (flags)})
#define CONSTANT (NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)

static bool is_key(const char *key)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_.-";

    return *key && key[strspn(key, allowed)] == '\0' && strncmp(key, "grpc-", 5) != 0 &&
           strcmp(key, "te") != 0 && strcmp(key, "content-type") != 0;
}

static bool is_printable(const char *text)
{
    for (; *text; text++) {
        if (*text < ' ' || *text > '~')
            return false;
    }
    return true;
}

static bool is_valid(const struct grpc_client_start *start)
{
    if (start->path[0] != '/' || !is_printable(start->path) || start->n_metadata > METADATA_MAX)
        return false;
    for (size_t i = 0; i < start->n_metadata; i++) {
        if (!is_key(start->metadata[i].key) || !is_printable(start->metadata[i].value))
            return false;
    }
    return true;
}

/* nghttp2 copies what is not constant. */
static int submit(struct grpc_client_call *call, const struct grpc_client_start *start)
{
    nghttp2_nv headers[HEADERS_MAX] = {
        HEADER(":method", "POST", CONSTANT),
        HEADER(":scheme", "http", CONSTANT),
        HEADER(":path", start->path, NGHTTP2_NV_FLAG_NO_COPY_NAME),
        HEADER(":authority", "localhost", CONSTANT),
        HEADER("te", "trailers", CONSTANT),
        HEADER("content-type", "application/grpc", CONSTANT),
        HEADER("user-agent", "libcompletion/" COMPLETIOND_VERSION, CONSTANT),
    };
    char timeout[GRPC_TIMEOUT_SIZE];
    size_t n = 7;

    if (start->timeout_us >= 0) {
        grpc_timeout_format(start->timeout_us, timeout);
        headers[n++] = HEADER("grpc-timeout", timeout,
                              NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
    }
    for (size_t i = 0; i < start->n_metadata; i++) {
        const struct grpc_client_metadata *m = &start->metadata[i];
        headers[n++] = HEADER(m->key, m->value, m->secret ? NGHTTP2_NV_FLAG_NO_INDEX : 0);
    }

    const nghttp2_data_provider provider = {.read_callback = grpc_client_call_read_request};
    int32_t id = nghttp2_submit_request(call->session->h2, NULL, headers, n, &provider, call);
    if (id < 0)
        return id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPIPE;
    call->stream_id = id;
    call->is_open = true;
    return 0;
}

static void append_request(struct grpc_client_call *call, const void *message, size_t len)
{
    uint8_t prefix[GRPC_MESSAGE_PREFIX];

    grpc_message_write_prefix(prefix, (uint32_t)len);
    buffer_reserve(&call->request, sizeof prefix + len);
    buffer_append(&call->request, prefix, sizeof prefix);
    buffer_append(&call->request, message, len);
}

static void destroy(struct grpc_client_call *call)
{
    buffer_done(&call->request);
    buffer_done(&call->in);
    buffer_done(&call->held);
    buffer_done(&call->text);
    grpc_response_done(&call->response);
    free(call);
}

int grpc_client_call_new(struct grpc_client_session *s, const struct grpc_client_start *start,
                         const void *message, size_t len, struct grpc_client_call **ret)
{
    enum { MAX_HEADER_BYTES = 32 << 10 };

    if (!grpc_client_session_is_open(s))
        return -EPIPE;
    if (!is_valid(start) || len > UINT32_MAX)
        return -EINVAL;

    struct grpc_client_call *call = calloc(1, sizeof *call);
    if (!call)
        return -ENOMEM;
    call->session = s;
    call->user = start->user;
    call->request = BUFFER_INIT(SIZE_MAX);
    call->in = BUFFER_INIT(SIZE_MAX); /* by the window, and max_message_bytes on the prefix */
    call->text = BUFFER_INIT(SIZE_MAX);
    grpc_response_init(&call->response, MAX_HEADER_BYTES);
    append_request(call, message, len);

    int rc = call->request.error ? -ENOMEM : submit(call, start);
    if (rc < 0) {
        destroy(call);
        return rc;
    }
    LIST_INSERT_HEAD(&s->calls, call, entry);
    *ret = call;
    return 0;
}

struct grpc_client_call *grpc_client_call_free(struct grpc_client_call *call)
{
    if (!call)
        return NULL;
    if (call->session) {
        reset(call);
        if (call->is_open)
            nghttp2_session_set_stream_user_data(call->session->h2, call->stream_id, NULL);
        LIST_REMOVE(call, entry);
    }
    destroy(call);
    return NULL;
}

ssize_t grpc_client_call_read_request(nghttp2_session *h2, int32_t stream_id, uint8_t *buf,
                                      size_t length, uint32_t *flags, nghttp2_data_source *source,
                                      void *user)
{
    struct grpc_client_call *call = nghttp2_session_get_stream_user_data(h2, stream_id);
    (void)buf, (void)source, (void)user;

    if (!call)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;

    size_t n = buffer_length(&call->request);
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n > length)
        return (ssize_t)length;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* ---- End ---- */

static void set_text(struct grpc_client_call *call, const void *text, size_t len)
{
    buffer_reserve(&call->text, len + 1);
    buffer_append(&call->text, text, len);
    buffer_append_byte(&call->text, 0);
    if (call->text.error)
        buffer_done(&call->text);
}

static void set_end(struct grpc_client_call *call, enum grpc_status status, const void *text,
                    size_t len)
{
    call->is_ended = true;
    call->status = status;
    set_text(call, text, len);
    if (!call->is_request_end)
        reset(call);
}

static void tell_reader(struct grpc_client_call *call)
{
    if (call->session->options.ready)
        call->session->options.ready(call, call->user);
}

void grpc_client_call_end(struct grpc_client_call *call, enum grpc_status status, const char *text)
{
    if (call->is_ended)
        return;
    set_end(call, status, text, strlen(text));
    tell_reader(call);
}

/* Ends it on this side. */
static void fail(struct grpc_client_call *call, enum grpc_status status, const char *text)
{
    if (call->is_request_end)
        reset(call);
    grpc_client_call_end(call, status, text);
}

void grpc_client_call_cancel(struct grpc_client_call *call, enum grpc_status status,
                             const char *message)
{
    if (call->is_ended)
        return;
    call->is_unprocessed = !call->is_sent;
    if (call->is_request_end)
        reset(call);
    set_end(call, status, message, strlen(message));
}

static size_t tail_length(const struct grpc_client_call *call)
{
    return buffer_length(&call->in) - call->taken - call->whole;
}

void grpc_client_call_receive_block(struct grpc_client_call *call)
{
    enum grpc_status status;
    const char *text;

    if (!call->is_ended && !grpc_response_end_block(&call->response, &status, &text))
        fail(call, status, text);
}

void grpc_client_call_receive_end(struct grpc_client_call *call)
{
    const struct grpc_response *r = &call->response;
    const char *text;

    if (call->is_ended)
        return;

    enum grpc_status status = grpc_response_end(r, &text);
    if (text) {
        grpc_client_call_end(call, status, text);
        return;
    }
    if (status == GRPC_OK && tail_length(call) > 0) {
        grpc_client_call_end(call, GRPC_INTERNAL, "the server's last message is cut short");
        return;
    }
    call->has_details = true;
    set_end(call, status, buffer_bytes(&r->message), buffer_length(&r->message));
    tell_reader(call);
}

/* grpc/grpc doc/PROTOCOL-HTTP2.md, "Errors". */
static enum grpc_status map_reset(uint32_t error_code)
{
    switch (error_code) {
    case NGHTTP2_REFUSED_STREAM:
        return GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return GRPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return GRPC_PERMISSION_DENIED;
    default:
        return GRPC_INTERNAL;
    }
}

void grpc_client_call_close(struct grpc_client_call *call, uint32_t error_code)
{
    char text[96];

    call->is_open = false;
    if (call->is_ended)
        return;
    if (!call->is_sent) {
        call->is_unprocessed = true;
        grpc_client_call_end(call, GRPC_UNAVAILABLE, "the server takes no more calls");
        return;
    }
    call->is_unprocessed = error_code == NGHTTP2_REFUSED_STREAM;
    snprintf(text, sizeof text, "the call was reset: %s", nghttp2_http2_strerror(error_code));
    grpc_client_call_end(call, map_reset(error_code), text);
}

/* ---- Messages ---- */

/* What has been taken, and the beginning of a message that nobody can take yet, is given back to
 * the server's window; whole messages that wait are not. */
static void give_back(struct grpc_client_call *call)
{
    size_t waiting = call->whole ? buffer_length(&call->in) - call->taken : 0;

    if (call->uncredited <= waiting)
        return;
    if (call->is_open && !call->session->error)
        check_submitted(call, nghttp2_session_consume_stream(call->session->h2, call->stream_id,
                                                             call->uncredited - waiting));
    call->uncredited = waiting;
}

static void append(struct grpc_client_call *call, const uint8_t *data, size_t len)
{
    if (call->taken == 0 || call->in.capacity - call->in.end >= len) {
        buffer_append(&call->in, data, len);
        return;
    }

    /* The reader still looks at the message it took, so that must stay where it is. */
    struct buffer fresh = BUFFER_INIT(call->in.limit_bytes);
    buffer_append(&fresh, buffer_bytes(&call->in) + call->taken,
                  buffer_length(&call->in) - call->taken);
    buffer_append(&fresh, data, len);
    if (fresh.error) {
        call->in.error = fresh.error;
        buffer_done(&fresh);
        return;
    }
    call->held = call->in;
    call->in = fresh;
    call->taken = 0;
}

/* Finds the messages that have become whole; false if there is one that never will be right. */
static bool scan(struct grpc_client_call *call)
{
    size_t max_bytes = call->session->options.max_message_bytes, n;
    const uint8_t *p;
    int rc;

    for (;;) {
        p = buffer_bytes(&call->in) + call->taken + call->whole;
        rc = grpc_message_peek(p, tail_length(call), max_bytes, &n);
        if (rc <= 0)
            break;
        call->whole += GRPC_MESSAGE_PREFIX + n;
    }
    if (rc < 0) {
        char text[GRPC_MESSAGE_FAILURE_SIZE];
        enum grpc_status status = grpc_message_failure(rc, p, max_bytes, text);
        fail(call, status, text);
        return false;
    }
    return true;
}

void grpc_client_call_receive(struct grpc_client_call *call, const uint8_t *data, size_t len)
{
    size_t before = call->whole;

    if (call->is_ended)
        return;
    append(call, data, len);
    if (call->in.error) {
        fail(call, GRPC_RESOURCE_EXHAUSTED, "no memory for the reply");
        return;
    }
    call->uncredited += len;
    if (!scan(call))
        return;
    give_back(call);
    if (call->whole > before)
        tell_reader(call);
}

int grpc_client_call_next(struct grpc_client_call *call, const uint8_t **ret, size_t *ret_len)
{
    size_t n;

    buffer_done(&call->held);
    if (call->taken)
        buffer_consume(&call->in, call->taken);
    call->taken = 0;
    if (call->whole == 0) {
        buffer_trim(&call->in, IN_KEEP);
        return 0;
    }

    const uint8_t *p = buffer_bytes(&call->in);
    grpc_message_peek(p, call->whole, SIZE_MAX, &n);
    call->taken = GRPC_MESSAGE_PREFIX + n;
    call->whole -= call->taken;
    give_back(call);
    *ret = p + GRPC_MESSAGE_PREFIX;
    *ret_len = n;
    return 1;
}

/* ---- Getters ---- */

bool grpc_client_call_is_ended(const struct grpc_client_call *call)
{
    return call->is_ended;
}

bool grpc_client_call_is_sent(const struct grpc_client_call *call)
{
    return call->is_sent;
}

enum grpc_status grpc_client_call_status(const struct grpc_client_call *call)
{
    return call->status;
}

const char *grpc_client_call_message(const struct grpc_client_call *call)
{
    return buffer_length(&call->text) ? (const char *)buffer_bytes(&call->text) : "";
}

const uint8_t *grpc_client_call_details(const struct grpc_client_call *call, size_t *ret_len)
{
    const struct buffer *details = &call->response.details;

    *ret_len = call->has_details ? buffer_length(details) : 0;
    return *ret_len ? buffer_bytes(details) : NULL;
}

bool grpc_client_call_was_unprocessed(const struct grpc_client_call *call)
{
    return call->is_unprocessed;
}
