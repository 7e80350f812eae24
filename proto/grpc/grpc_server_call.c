/*
 * Calls of a server session: one request message in, replies and a status out. It submits to
 * nghttp2 and never makes it run, so that everything here may be called from nghttp2's callbacks.
 */
#include "grpc_server_call.h"

#include <errno.h>
#include <stdlib.h>

#include "grpc_message.h"

enum {
    EMPTY_FRAMES_MAX = 64,
    STREAMED_MESSAGE_MAX = 16 << 10,
    STREAMED_BODY_MAX = 64 << 10,
    DETAILS_MAX = 3500, /* with a full grpc-message, all headers stay below clients' 8 KiB */
};

#define HEADER_FLAGS(flags, name_text, value_text, n)                                              \
    ((nghttp2_nv){(uint8_t *)(name_text), (uint8_t *)(value_text), sizeof(name_text) - 1, (n),     \
                  NGHTTP2_NV_FLAG_NO_COPY_NAME | (flags)})

/* Both are constants. */
#define HEADER(name_text, value_text)                                                              \
    HEADER_FLAGS(NGHTTP2_NV_FLAG_NO_COPY_VALUE, name_text, value_text, strlen(value_text))

/* A value that is copied, and seldom the same again. */
#define HEADER_ONCE(name_text, value_text, n)                                                      \
    HEADER_FLAGS(NGHTTP2_NV_FLAG_NO_INDEX, name_text, value_text, n)

struct grpc_server_call *grpc_server_call_new(struct grpc_server_session *s, int32_t stream_id)
{
    struct memory *memory = s->options.memory;
    struct grpc_server_call *call = NULL;

    if (memory_charge(memory, sizeof *call) && !(call = calloc(1, sizeof *call)))
        memory_release(memory, sizeof *call);
    if (!call)
        return NULL;
    call->session = s;
    call->stream_id = stream_id;
    grpc_request_init(&call->request, s->options.max_header_bytes, memory);
    call->body = BUFFER_INIT_IN(SIZE_MAX, memory); /* by max_message_bytes, on the prefix */
    call->reply = BUFFER_INIT_IN(s->options.max_pending_bytes, memory);
    call->trailer = BUFFER_INIT_IN(SIZE_MAX, memory);
    call->trailer.is_essential = true;
    call->waits_us = -1;
    LIST_INSERT_HEAD(&s->calls, call, entry);
    return call;
}

void grpc_server_call_close(struct grpc_server_call *call)
{
    struct grpc_server_session *s = call->session;

    call->is_closed = true;
    LIST_REMOVE(call, entry);
    if (call->is_begun) {
        s->n_calls--;
        s->handler->end(call, call->is_sent     ? GRPC_SERVER_END_FINISHED
                              : call->was_reset ? GRPC_SERVER_END_CANCELLED
                                                : GRPC_SERVER_END_LOST);
    }
    grpc_request_done(&call->request);
    buffer_done(&call->body);
    buffer_done(&call->reply);
    buffer_done(&call->trailer);
    memory_release(s->options.memory, sizeof *call);
    free(call);
}

/* Submitting fails for want of memory only; the session cannot go on then. */
static void check_submitted(struct grpc_server_call *call, int rc)
{
    if (rc == NGHTTP2_ERR_NOMEM)
        call->session->error = -ENOMEM;
}

static void reset(struct grpc_server_call *call, uint32_t error_code)
{
    check_submitted(call, nghttp2_submit_rst_stream(call->session->h2, NGHTTP2_FLAG_NONE,
                                                    call->stream_id, error_code));
}

/* ---- Status ---- */

enum { STATUS_HEADERS_MAX = 3 };

static size_t status_headers(const struct grpc_server_call *call,
                             nghttp2_nv headers[static STATUS_HEADERS_MAX])
{
    static const char *const numbers[] = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                          "9", "10", "11", "12", "13", "14", "15", "16"};
    const char *text = (const char *)buffer_bytes(&call->trailer);
    size_t n = 0, message_len = call->message_len;
    size_t details_len = buffer_length(&call->trailer) - message_len;

    headers[n++] = HEADER("grpc-status", numbers[call->status]);
    if (message_len)
        headers[n++] = HEADER_ONCE("grpc-message", text, message_len);
    if (details_len)
        headers[n++] = HEADER_ONCE("grpc-status-details-bin", text + message_len, details_len);
    return n;
}

static void set_status(struct grpc_server_call *call, enum grpc_status status, const char *message,
                       const void *details, size_t details_len)
{
    call->is_finished = true;
    call->status = status <= GRPC_UNAUTHENTICATED ? status : GRPC_UNKNOWN;
    buffer_done(&call->body);

    /* Without memory for its text the status still goes out. */
    if (message)
        grpc_message_encode(&call->trailer, message);
    call->message_len = buffer_length(&call->trailer);
    if (details_len <= DETAILS_MAX)
        grpc_base64_encode(&call->trailer, details, details_len);
    if (call->trailer.error)
        buffer_truncate(&call->trailer, call->message_len = 0);
}

enum { FIRST_HEADERS_MAX = 4 };

static size_t first_headers(const struct grpc_server_call *call, const char *http_status,
                            nghttp2_nv headers[static FIRST_HEADERS_MAX])
{
    size_t n = 0;

    headers[n++] = HEADER(":status", http_status);
    headers[n++] = HEADER("content-type", "application/grpc");
    headers[n++] = HEADER("grpc-accept-encoding", "identity");
    if (call->header_key) {
        headers[n] = HEADER_ONCE("", call->header_value, strlen(call->header_value));
        headers[n].name = (uint8_t *)call->header_key;
        headers[n++].namelen = strlen(call->header_key);
    }
    return n;
}

/* Headers that are trailers at the same time. */
static void submit_trailers_only(struct grpc_server_call *call, const char *http_status)
{
    nghttp2_nv headers[FIRST_HEADERS_MAX + STATUS_HEADERS_MAX];
    size_t n = first_headers(call, http_status, headers);

    n += status_headers(call, headers + n);
    call->is_answered = true;
    check_submitted(call,
                    nghttp2_submit_response(call->session->h2, call->stream_id, headers, n, NULL));
}

void grpc_server_call_finish(struct grpc_server_call *call, enum grpc_status status,
                             const char *message, const void *details, size_t details_len)
{
    if (call->is_finished || call->is_closed)
        return;
    grpc_server_call_message_abort(call);
    set_status(call, status, message, details, details_len);
    if (!call->is_answered)
        submit_trailers_only(call, "200");
    else
        check_submitted(call, nghttp2_session_resume_data(call->session->h2, call->stream_id));
}

static void fail(struct grpc_server_call *call, enum grpc_status status, const char *message)
{
    grpc_server_call_finish(call, status, message, NULL, 0);
}

/* ---- Request ---- */

#define SECOND_MESSAGE "more than one request message for a unary request"
#define CUT_SHORT      "the request message is cut short"
#define TOO_MANY       "too many requests wait; take the replies first"

void grpc_server_call_begin(struct grpc_server_call *call)
{
    const struct grpc_refusal *refusal = grpc_request_check(&call->request);

    if (refusal) {
        set_status(call, refusal->status, refusal->message, NULL, 0);
        submit_trailers_only(call, refusal->http_status);
        return;
    }
    call->is_begun = true;
    call->session->n_calls++;
    call->session->handler->begin(call, call->session->user);
}

void grpc_server_call_stream_requests(struct grpc_server_call *call)
{
    call->is_streamed = true;
    call->body.limit_bytes = STREAMED_BODY_MAX;
}

/* 1 and the message if it is whole, 0 if not yet; if it never will be right, the call is failed. */
static int check_body(struct grpc_server_call *call, size_t *ret_len)
{
    const uint8_t *data = buffer_bytes(&call->body);
    size_t n = 0, max_bytes = call->is_streamed ? STREAMED_MESSAGE_MAX
                                                : call->session->options.max_message_bytes;
    int rc = grpc_message_peek(data, buffer_length(&call->body), max_bytes, &n);

    if (rc < 0) {
        char text[GRPC_MESSAGE_FAILURE_SIZE];
        enum grpc_status status = grpc_message_failure(rc, data, max_bytes, text);
        fail(call, status, text);
        return rc;
    }
    if (rc > 0 && !call->is_streamed && buffer_length(&call->body) - GRPC_MESSAGE_PREFIX > n) {
        fail(call, GRPC_UNIMPLEMENTED, SECOND_MESSAGE);
        return -EBADMSG;
    }
    *ret_len = n;
    return rc;
}

/* The handler may finish the call, which frees its body. */
static void run_message(struct grpc_server_call *call, size_t len)
{
    struct buffer body = call->body;

    call->body = BUFFER_INIT(0);
    call->session->handler->request(call, buffer_bytes(&body) + GRPC_MESSAGE_PREFIX, len);
    buffer_consume(&body, GRPC_MESSAGE_PREFIX + len);
    if (call->is_streamed && !call->is_finished)
        call->body = body;
    else
        buffer_done(&body);
}

/* As many of a streamed call's messages as there is room for replies. */
static void run_messages(struct grpc_server_call *call)
{
    size_t n;

    while (!call->is_finished && !call->is_full && check_body(call, &n) > 0)
        run_message(call, n);
    if (!call->is_ended || call->is_finished || call->is_full)
        return;
    if (buffer_length(&call->body) > 0)
        fail(call, GRPC_INTERNAL, CUT_SHORT);
    else
        call->session->handler->request(call, NULL, 0);
}

void grpc_server_call_receive(struct grpc_server_call *call, const uint8_t *data, size_t len)
{
    size_t n;

    if (call->is_finished)
        return;
    buffer_append(&call->body, data, len);
    if (call->body.error == -EMSGSIZE && call->is_streamed)
        fail(call, GRPC_RESOURCE_EXHAUSTED, TOO_MANY);
    else if (call->body.error == -EMSGSIZE)
        fail(call, GRPC_UNIMPLEMENTED, SECOND_MESSAGE);
    else if (call->body.error)
        fail(call, GRPC_RESOURCE_EXHAUSTED,
             call->body.error == -EDQUOT ? "the request does not fit into the memory limit of this "
                                           "connection, user or daemon"
                                         : "no memory for the request");
    else if (call->is_streamed)
        run_messages(call);
    else if (check_body(call, &n) == 0 && buffer_length(&call->body) >= GRPC_MESSAGE_PREFIX)
        call->body.limit_bytes =
            GRPC_MESSAGE_PREFIX + grpc_message_length(buffer_bytes(&call->body));
}

void grpc_server_call_receive_end(struct grpc_server_call *call)
{
    size_t n;

    call->is_ended = true;
    if (call->is_finished)
        return;
    if (call->is_streamed) {
        run_messages(call);
        return;
    }
    if (buffer_length(&call->body) == 0) {
        fail(call, GRPC_UNIMPLEMENTED, "no request message");
        return;
    }
    int rc = check_body(call, &n);
    if (rc == 0)
        fail(call, GRPC_INTERNAL, CUT_SHORT);
    if (rc > 0)
        run_message(call, n);
}

void grpc_server_call_count_early_end(struct grpc_server_call *call)
{
    if (!call->is_counted && !call->is_sent && !call->session->is_drained)
        http2_guard_reset(&call->session->guard);
    call->is_counted = true;
}

void grpc_server_call_count_empty(struct grpc_server_call *call)
{
    if (++call->n_empty != EMPTY_FRAMES_MAX)
        return;
    call->is_finished = true;
    grpc_server_call_count_early_end(call);
    reset(call, NGHTTP2_ENHANCE_YOUR_CALM);
}

/* ---- Replies ---- */

struct buffer *grpc_server_call_message_begin(struct grpc_server_call *call)
{
    grpc_server_call_message_abort(call);
    buffer_append(&call->reply, (uint8_t[GRPC_MESSAGE_PREFIX]){0}, GRPC_MESSAGE_PREFIX);
    return &call->reply;
}

void grpc_server_call_message_abort(struct grpc_server_call *call)
{
    buffer_truncate(&call->reply, call->ready);
    call->reply.error = 0;
}

static ssize_t read_reply(nghttp2_session *h2, int32_t stream_id, uint8_t *buf, size_t length,
                          uint32_t *flags, nghttp2_data_source *source, void *user)
{
    struct grpc_server_call *call = source->ptr;
    size_t n = call->ready < length ? call->ready : length;
    (void)buf, (void)user;

    if (call->is_dropped || (n == 0 && !call->is_finished))
        return NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (n == call->ready && call->is_finished) {
        nghttp2_nv headers[STATUS_HEADERS_MAX];
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        check_submitted(
            call, nghttp2_submit_trailer(h2, stream_id, headers, status_headers(call, headers)));
    }
    call->n_framed = n;
    return (ssize_t)n;
}

static void answer(struct grpc_server_call *call)
{
    nghttp2_nv headers[FIRST_HEADERS_MAX];
    size_t n = first_headers(call, "200", headers);
    const nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_reply};

    call->is_answered = true;
    check_submitted(
        call, nghttp2_submit_response(call->session->h2, call->stream_id, headers, n, &provider));
}

int grpc_server_call_message_end(struct grpc_server_call *call)
{
    int error = call->reply.error;
    size_t length = buffer_length(&call->reply);

    if (!error && length - call->ready - GRPC_MESSAGE_PREFIX > UINT32_MAX)
        error = -EMSGSIZE;
    if (error || call->is_finished || call->is_closed) {
        grpc_server_call_message_abort(call);
        return error;
    }
    grpc_message_write_prefix(buffer_bytes(&call->reply) + call->ready,
                              (uint32_t)(length - call->ready - GRPC_MESSAGE_PREFIX));
    if (call->ready == 0)
        call->waits_us = -1;
    call->ready = length;
    if (call->ready > call->session->options.high_water_bytes)
        call->is_full = true;
    if (!call->is_answered)
        answer(call);
    else
        check_submitted(call, nghttp2_session_resume_data(call->session->h2, call->stream_id));
    return 0;
}

void grpc_server_call_consume(struct grpc_server_call *call, size_t n)
{
    size_t high = call->session->options.high_water_bytes;

    buffer_consume(&call->reply, n);
    call->ready -= n;
    call->n_framed = 0;
    call->waits_us = call->session->guard.now_us;
    buffer_trim(&call->reply, high);
    if (!call->is_full || call->ready > high / 2)
        return;
    call->is_full = false;
    if (!call->is_finished)
        call->session->handler->writable(call);
    if (call->is_streamed)
        run_messages(call);
}

int64_t grpc_server_call_waits_since(struct grpc_server_call *call)
{
    if (call->ready == 0 || call->is_dropped)
        return -1;
    if (call->waits_us < 0)
        call->waits_us = call->session->guard.now_us;
    return call->waits_us;
}

/* The trailers overtake what waits: HEADERS need no window. */
void grpc_server_call_drop(struct grpc_server_call *call, enum grpc_status status,
                           const char *message)
{
    nghttp2_nv headers[STATUS_HEADERS_MAX];

    if (call->is_closed || call->is_dropped || call->ready == 0)
        return;
    if (!call->is_finished || call->status == GRPC_OK) {
        buffer_done(&call->trailer);
        set_status(call, status, message, NULL, 0);
    }
    buffer_truncate(&call->reply, call->n_framed);
    buffer_trim(&call->reply, 0);
    call->ready = call->n_framed;
    call->is_full = false;
    call->is_dropped = true;
    check_submitted(call, nghttp2_submit_trailer(call->session->h2, call->stream_id, headers,
                                                 status_headers(call, headers)));
}

/* ---- Getters ---- */

void grpc_server_call_set_user(struct grpc_server_call *call, void *user)
{
    call->user = user;
}

void *grpc_server_call_user(const struct grpc_server_call *call)
{
    return call->user;
}

struct grpc_server_session *grpc_server_call_session(const struct grpc_server_call *call)
{
    return call->session;
}

const char *grpc_server_call_path(const struct grpc_server_call *call)
{
    return grpc_request_path(&call->request);
}

int64_t grpc_server_call_timeout_us(const struct grpc_server_call *call)
{
    return call->request.timeout_us;
}

void grpc_server_call_set_header(struct grpc_server_call *call, const char *key, const char *value)
{
    call->header_key = key;
    call->header_value = value;
}

const char *grpc_server_call_metadata(const struct grpc_server_call *call, const char *key)
{
    return grpc_request_metadata(&call->request, key);
}

size_t grpc_server_call_pending(const struct grpc_server_call *call)
{
    return call->is_dropped ? 0 : call->ready;
}

bool grpc_server_call_is_full(const struct grpc_server_call *call)
{
    return call->is_full;
}

bool grpc_server_call_is_finished(const struct grpc_server_call *call)
{
    return call->is_finished;
}

enum grpc_status grpc_server_call_status(const struct grpc_server_call *call)
{
    return call->status;
}
