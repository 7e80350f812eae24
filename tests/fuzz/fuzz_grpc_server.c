/*
 * A server session under arbitrary bytes, behind the client's preface: calls that begin must end,
 * once each, and what waits for the client stays bounded. Each request is answered with two
 * messages, and a status unless it is one of a stream. The first byte is the size of the pieces.
 */
#include <stdlib.h>

#include "grpc_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long n_begun, n_ended;

static void on_begin(struct grpc_server_call *call, void *user)
{
    (void)user;
    n_begun++;
    if (grpc_server_call_metadata(call, "refuse"))
        grpc_server_call_finish(call, GRPC_NOT_FOUND, grpc_server_call_path(call), NULL, 0);
    else if (grpc_server_call_metadata(call, "stream"))
        grpc_server_call_stream_requests(call);
}

static void on_request(struct grpc_server_call *call, const uint8_t *message, size_t len)
{
    for (int i = 0; message && i < 2; i++) {
        buffer_append(grpc_server_call_message_begin(call), message, len);
        grpc_server_call_message_end(call);
    }
    if (!message || !grpc_server_call_metadata(call, "stream"))
        grpc_server_call_finish(call, GRPC_OK, NULL, NULL, 0);
}

static void on_writable(struct grpc_server_call *call)
{
    (void)call;
}

static void on_end(struct grpc_server_call *call, enum grpc_server_end how)
{
    (void)call, (void)how;
    n_ended++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    static const struct grpc_server_handler handler = {on_begin, on_request, on_writable, on_end};
    struct memory memory = MEMORY_INIT(1 << 20, NULL);
    struct grpc_server_options options = grpc_server_options_default;
    struct grpc_server_session *session;

    /* Some have to do with hardly more than the session itself needs. */
    if (size > 0 && data[0] & 2)
        memory.limit = 16384;
    options.memory = &memory;
    if (size == 0 || grpc_server_session_new(&options, &handler, NULL, &session) < 0)
        return 0;
    size_t piece = (size_t)data[0] + 1;
    int r = data[0] & 1 ? 0
                        : grpc_server_session_receive(session, (const uint8_t *)preface,
                                                      sizeof preface - 1);
    for (size_t at = 1; at < size && r == 0; at += piece) {
        r = grpc_server_session_receive(session, data + at, size - at < piece ? size - at : piece);
        if (r == 0)
            r = grpc_server_session_flush(session);
        struct buffer *output = grpc_server_session_output(session);
        if (buffer_length(output) > (1 << 20))
            abort();
        buffer_consume(output, buffer_length(output));
    }
    grpc_server_session_free(session);
    if (memory.used != 0)
        abort();
    if (n_begun != n_ended)
        abort();
    return 0;
}
