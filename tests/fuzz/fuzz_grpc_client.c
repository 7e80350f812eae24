/*
 * A client session under arbitrary bytes from a server: every call gets a status, and it is OK only
 * if the session saw trailers that say so. The first byte is the size of the pieces.
 */
#include <stdlib.h>

#include "grpc_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct grpc_client_start start = {.path = "/p.S/M", .timeout_us = -1};
    struct grpc_client_session *session;
    struct grpc_client_call *calls[2] = {NULL, NULL};
    const uint8_t *message;
    size_t len;
    int r = 0;

    if (size == 0 || grpc_client_session_new(&grpc_client_options_default, &session) < 0)
        return 0;
    for (int i = 0; i < 2; i++)
        if (grpc_client_call_new(session, &start, "x", 1, &calls[i]) < 0)
            abort();
    for (size_t at = 1; at < size && r == 0; at += (size_t)data[0] + 1) {
        size_t n = size - at < (size_t)data[0] + 1 ? size - at : (size_t)data[0] + 1;
        grpc_client_session_flush(session);
        buffer_consume(grpc_client_session_output(session),
                       buffer_length(grpc_client_session_output(session)));
        r = grpc_client_session_receive(session, data + at, n);
        while (grpc_client_call_next(calls[0], &message, &len))
            if (len > size)
                abort();
    }
    grpc_client_session_closed(session, "closed");
    for (int i = 0; i < 2; i++)
        if (!grpc_client_call_is_ended(calls[i]))
            abort();
    grpc_client_session_free(session);
    grpc_client_call_free(calls[0]);
    grpc_client_call_free(calls[1]);
    return 0;
}
