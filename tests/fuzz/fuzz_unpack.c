/*
 * Messages from peers, of both kinds. What is accepted packs and unpacks again to the same; what is
 * refused says why; and neither takes more memory than the kind allows. The first byte chooses kind
 * and type.
 */
#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "completion/v1/completion.pb-c.h"
#include "unpack.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define require(ok)                                                                                \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- What is in an accepted message ---- */

struct sum {
    size_t bytes; /* allocated, as malloc() tells */
    unsigned depth, n_unknown;
};

static void check_message(const ProtobufCMessage *message, enum unpack_kind kind, struct sum *sum);

static size_t usable(const void *p)
{
    return malloc_usable_size((void *)p);
}

static void check_value(const ProtobufCFieldDescriptor *f, const void *value, enum unpack_kind kind,
                        struct sum *sum)
{
    const ProtobufCBinaryData *bytes = value;

    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        if (*(ProtobufCMessage *const *)value)
            check_message(*(ProtobufCMessage *const *)value, kind, sum);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        require(utf8_is_valid(bytes->data, bytes->len));
        sum->bytes += usable(bytes->data);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        require(isfinite(*(const double *)value));
        break;
    case PROTOBUF_C_TYPE_ENUM:
        require(kind == UNPACK_REPLY ||
                protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)value));
        break;
    default:
        break;
    }
}

static size_t size_of(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_INT64:
        return 8;
    default:
        return 4;
    }
}

/* Whether the member is there, in a oneof too. */
static bool is_set(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *f)
{
    const char *quantifier = (const char *)message + f->quantifier_offset;

    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        return *(const uint32_t *)quantifier == f->id;
    return f->type == PROTOBUF_C_TYPE_MESSAGE || *(const protobuf_c_boolean *)quantifier;
}

static void check_message(const ProtobufCMessage *message, enum unpack_kind kind, struct sum *sum)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;

    require(sum->depth++ <= 8);
    sum->bytes += usable(message) + usable(message->unknown_fields);
    sum->n_unknown += message->n_unknown_fields;
    for (unsigned i = 0; i < message->n_unknown_fields; i++)
        sum->bytes += usable(message->unknown_fields[i].data);
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        const char *member = (const char *)message + f->offset;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)((const char *)message + f->quantifier_offset);
            const char *values = *(char *const *)member;
            sum->bytes += usable(values);
            for (size_t k = 0; k < n; k++)
                check_value(f, values + k * size_of(f), kind, sum);
        } else if (is_set(message, f)) {
            check_value(f, member, kind, sum);
        }
    }
    sum->depth--;
}

/* ---- Again ---- */

static uint8_t *pack(const ProtobufCMessage *message, size_t *ret_len)
{
    size_t len = *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(len + 1);

    require(packed);
    require(protobuf_c_message_pack(message, packed) == len);
    return packed;
}

/* Packed, it may be so much shorter (long forms, fields given twice) that a request's budget is
 * too small; nothing else can be wrong with it. */
static void check_again(enum unpack_kind kind, const ProtobufCMessage *message)
{
    ProtobufCMessage *again;
    struct unpack_error error;
    size_t len, again_len;
    uint8_t *packed = pack(message, &len);

    int r = unpack_message(kind, message->descriptor, packed, len, &again, &error);
    require(r == 0 || strncmp(error.text, "too many small parts", 20) == 0);
    if (r == 0) {
        uint8_t *again_packed = pack(again, &again_len);
        require(again_len == len && memcmp(again_packed, packed, len) == 0);
        free(again_packed);
        unpack_free(again);
    }
    free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const types[] = {
        &completion__v1__create_completion_request__descriptor,
        &completion__v1__completion__descriptor,
        &completion__v1__error_detail__descriptor,
    };
    struct unpack_error error = {"", ""};
    struct sum sum = {0};
    ProtobufCMessage *message = NULL;

    if (size == 0)
        return 0;
    enum unpack_kind kind = data[0] & 1 ? UNPACK_REPLY : UNPACK_REQUEST;
    int r = unpack_message(kind, types[(data[0] >> 1) % 3], data + 1, size - 1, &message, &error);
    if (r < 0) {
        require(r == -EBADMSG && *error.text && !message);
        require(strlen(error.field) < sizeof error.field);
        return 0;
    }
    check_message(message, kind, &sum);
    require(sum.bytes <= (kind == UNPACK_REQUEST ? 4 : 32) * (size - 1) + 65536);
    require(sum.n_unknown <= (kind == UNPACK_REQUEST ? 16 : 4096));
    check_again(kind, message);
    unpack_free(message);
    return 0;
}
