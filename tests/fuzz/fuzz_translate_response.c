/*
 * Response bodies and events to protobuf: whatever comes out must be a Completion that protobuf-c
 * and the scan of untrusted messages accept, and nothing may come out unless the kind says so. The
 * first byte chooses whole bodies, events, or the events of a stream, a line each: these must
 * become what each of them becomes alone.
 */
#include <stdlib.h>
#include <string.h>

#include "translate.h"
#include "unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare(struct translate_pattern *pattern, const uint8_t *json, size_t len,
                    struct translate_progress progress[2])
{
    struct buffer out[2] = {BUFFER_INIT(64 << 20), BUFFER_INIT(64 << 20)};
    const char *why[2] = {NULL, NULL};

    if (translate_chunk(pattern, json, len, false, &progress[0], &out[0], &why[0]) !=
            translate_response(json, len, false, false, &progress[1], &out[1], &why[1]) ||
        why[0] != why[1] || out[0].error != out[1].error ||
        buffer_length(&out[0]) != buffer_length(&out[1]) ||
        (buffer_length(&out[0]) > 0 &&
         memcmp(buffer_bytes(&out[0]), buffer_bytes(&out[1]), buffer_length(&out[0])) != 0) ||
        memcmp(&progress[0], &progress[1], sizeof progress[0]) != 0)
        abort();
    buffer_done(&out[0]);
    buffer_done(&out[1]);
}

static void compare_lines(const uint8_t *data, size_t size)
{
    const uint8_t *end = data + size;
    struct translate_pattern pattern;
    struct translate_progress progress[2];

    translate_pattern_init(&pattern, NULL);
    translate_progress_init(&progress[0], 1);
    translate_progress_init(&progress[1], 1);
    while (data < end) {
        const uint8_t *eol = memchr(data, '\n', (size_t)(end - data));
        size_t len = (size_t)((eol ? eol : end) - data);
        compare(&pattern, data, len, progress);
        data += len + (eol != NULL);
    }
    translate_pattern_done(&pattern);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buffer out = BUFFER_INIT(64 << 20);
    struct translate_progress progress;
    const char *why = NULL;

    if (size == 0)
        return 0;
    if (data[0] & 4) {
        compare_lines(data + 1, size - 1);
        return 0;
    }
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
