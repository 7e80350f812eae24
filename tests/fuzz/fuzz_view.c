/*
 * Messages read in place, beside the same messages unpacked by protobuf-c: both take the same, but
 * for sub-messages that are given twice, and see the same in it. Every second message is read by a
 * view that has read another before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completion/v1/completion.pb-c.h"
#include "unpack.h"
#include "view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* As bytes, without what is not known: views do not keep that. */
static uint8_t *pack(ProtobufCMessage *message, size_t *ret_len)
{
    size_t len = *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(len + 1);

    require(packed);
    require(protobuf_c_message_pack(message, packed) == len);
    return packed;
}

static void forget_unknown(ProtobufCMessage *message)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;

    for (unsigned i = 0; i < message->n_unknown_fields; i++)
        free(message->unknown_fields[i].data);
    free(message->unknown_fields);
    message->unknown_fields = NULL;
    message->n_unknown_fields = 0;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        char *member = (char *)message + f->offset;
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->label != PROTOBUF_C_LABEL_REPEATED) {
            if (*(ProtobufCMessage **)member)
                forget_unknown(*(ProtobufCMessage **)member);
            continue;
        }
        for (size_t k = 0; k < *(size_t *)((char *)message + f->quantifier_offset); k++)
            forget_unknown((*(ProtobufCMessage ***)member)[k]);
    }
}

static void compare(struct view *view, const uint8_t *data, size_t size)
{
    const ProtobufCMessageDescriptor *type = &completion__v1__completion__descriptor;
    struct unpack_error error = {"", ""};
    const ProtobufCMessage *seen = NULL;
    ProtobufCMessage *message = NULL;
    size_t len, seen_len;
    int r = view_read(view, type, data, size, &seen),
        unpacked = unpack_message(UNPACK_REPLY, type, data, size, &message, &error);

    /* Either may find first that something takes too much memory: they do not need the same. */
    if (r < 0) {
        unpack_free(message);
        return;
    }
    if (unpacked < 0) {
        require(strncmp(error.text, "too many small parts", 20) == 0);
        return;
    }
    forget_unknown(message);
    uint8_t *packed = pack(message, &len), *seen_packed = pack((ProtobufCMessage *)seen, &seen_len);
    require(len == seen_len && memcmp(packed, seen_packed, len) == 0);
    /* What was packed is in its plainest form: nothing is wrong with that. */
    struct view again = {0};
    require(view_read(&again, type, packed, len, &seen) == 0 || len < size);
    view_done(&again);
    free(packed);
    free(seen_packed);
    unpack_free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct view view = {0};

    if (size == 0)
        return 0;
    size_t first = data[0] * (size - 1) / 255;
    compare(&view, data + 1, first);
    compare(&view, data + 1 + first, size - 1 - first);
    view_done(&view);
    return 0;
}
