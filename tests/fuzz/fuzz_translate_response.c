/*
 * Response bodies and events to protobuf: whatever comes out must be a Completion that protobuf-c
 * and the scan of untrusted messages accept, and nothing may come out unless the kind says so. The
 * first byte chooses whole bodies or events.
 */
#include <stdlib.h>

#include "translate.h"
#include "unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer out = BUFFER_INIT(64 << 20);
    struct translate_progress progress;
    const char *why = NULL;

    if (size == 0)
        return 0;
    translate_progress_init(&progress, 1);
    enum translate_kind kind =
        translate_response(data + 1, size - 1, data[0] & 1, data[0] & 2, &progress, &out, &why);
    if (kind != TRANSLATE_COMPLETION && buffer_length(&out) != 0)
        abort();
    if (kind == TRANSLATE_MALFORMED && !why)
        abort();
    if (kind == TRANSLATE_COMPLETION) {
        struct unpack_error error;
        ProtobufCMessage *message;
        int r = unpack_message(UNPACK_REPLY, &completion__v1__completion__descriptor,
                               buffer_bytes(&out), buffer_length(&out), &message, &error);
        if (r < 0 && error.field[0])
            abort();
        if (r == 0)
            unpack_free(message);
    }
    buffer_done(&out);
    return 0;
}
