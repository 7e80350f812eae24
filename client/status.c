/* The daemon's status as JSON: the schema's own names, whatever it has. */
#include <errno.h>

#include "../proto/json_writer.h"
#include "../proto/unpack.h"
#include "completion/v1/status.pb-c.h"
#include "internal.h"

static void put_message(struct json_writer *w, const ProtobufCMessage *message);

/* An enum's value by its name; one that is newer than the library as a number. */
static void put_enum(struct json_writer *w, const ProtobufCFieldDescriptor *f, int value)
{
    const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(f->descriptor, value);

    if (v)
        json_string(w, v->name, strlen(v->name));
    else
        json_int(w, value);
}

static void put_value(struct json_writer *w, const ProtobufCFieldDescriptor *f, const void *value)
{
    const ProtobufCBinaryData *bytes = value;

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
        json_int(w, *(const int32_t *)value);
        break;
    case PROTOBUF_C_TYPE_INT64:
        json_int(w, *(const int64_t *)value);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        json_bool(w, *(const protobuf_c_boolean *)value);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        json_double(w, *(const double *)value);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        put_enum(w, f, *(const int *)value);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        put_message(w, *(const ProtobufCMessage *const *)value);
        break;
    default: /* a text */
        json_string(w, bytes->data, bytes->len);
        break;
    }
}

/* The schema has optional scalars and repeated messages. */
static void put_field(struct json_writer *w, const ProtobufCFieldDescriptor *f, const char *message)
{
    const void *member = message + f->offset, *quantifier = message + f->quantifier_offset;

    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
        if (*(const protobuf_c_boolean *)quantifier) {
            json_key(w, f->name);
            put_value(w, f, member);
        }
        return;
    }
    ProtobufCMessage *const *list = *(ProtobufCMessage *const *const *)member;
    json_key(w, f->name);
    json_begin_array(w);
    for (size_t i = 0; i < *(const size_t *)quantifier; i++)
        put_message(w, list[i]);
    json_end_array(w);
}

static void put_message(struct json_writer *w, const ProtobufCMessage *message)
{
    json_begin_object(w);
    for (unsigned i = 0; i < message->descriptor->n_fields; i++)
        put_field(w, &message->descriptor->fields[i], (const char *)message);
    json_end_object(w);
}

int status_to_json(const uint8_t *message, size_t len, struct buffer *out)
{
    struct json_writer w = json_writer(out);
    struct unpack_error ignored;
    ProtobufCMessage *unpacked;
    int r = unpack_message(UNPACK_REPLY, &completion__v1__get_status_response__descriptor, message,
                           len, &unpacked, &ignored);

    if (r < 0)
        return r;
    put_message(&w, unpacked);
    unpack_free(unpacked);
    return out->error;
}
