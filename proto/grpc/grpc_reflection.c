/* Server reflection on serialized descriptors: they are looked through for each question, which
 * takes a few microseconds, and nothing has to be built or kept. */
#include "grpc_reflection.h"

#include <stdbool.h>
#include <string.h>

#include "../utf8.h"
#include "../wire.h"

/* Of ServerReflectionRequest. */
enum {
    REQUEST_HOST = 1,
    REQUEST_FILE_BY_FILENAME = 3,
    REQUEST_FILE_CONTAINING_SYMBOL = 4,
    REQUEST_FILE_CONTAINING_EXTENSION = 5,
    REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE = 6,
    REQUEST_LIST_SERVICES = 7,
    EXTENSION_CONTAINING_TYPE = 1,
};

/* Of ServerReflectionResponse. */
enum {
    RESPONSE_VALID_HOST = 1,
    RESPONSE_ORIGINAL_REQUEST = 2,
    RESPONSE_FILE_DESCRIPTOR = 4,
    RESPONSE_EXTENSION_NUMBERS = 5,
    RESPONSE_LIST_SERVICES = 6,
    RESPONSE_ERROR = 7,
    DESCRIPTOR_PROTO = 1,
    BASE_TYPE_NAME = 1,
    LIST_SERVICE = 1,
    SERVICE_NAME = 1,
    ERROR_CODE = 1,
    ERROR_MESSAGE = 2,
};

struct bytes {
    const uint8_t *data;
    size_t len;
};

static bool next(struct bytes *message, struct wire_field *ret)
{
    const uint8_t *p = message->data, *end = p + message->len;
    int rc = wire_next(&p, end, ret);

    *message = (struct bytes){p, (size_t)(end - p)};
    return rc > 0;
}

static struct bytes bytes_of(const struct wire_field *field)
{
    return (struct bytes){field->data, field->len};
}

static bool is_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

/* ---- Descriptors ---- */

/* Numbers of google/protobuf/descriptor.proto. Everything that has a name has it in field 1. */
enum { SET_FILE = 1, NAME = 1, FILE_PACKAGE = 2, FILE_SERVICE = 6 };

enum kind { NOTHING, FILE_ITSELF, MESSAGE, ENUM, SERVICE, LEAF };

/* What has a full name, by what it is in. Extensions are left out: there are none. */
static const struct part {
    enum kind in;
    uint32_t field;
    enum kind kind;
} parts[] = {
    {FILE_ITSELF, 4, MESSAGE}, {FILE_ITSELF, 5, ENUM}, {FILE_ITSELF, FILE_SERVICE, SERVICE},
    {MESSAGE, 2, LEAF},                                                    /* field */
    {MESSAGE, 3, MESSAGE},     {MESSAGE, 4, ENUM},     {MESSAGE, 8, LEAF}, /* oneof */
    {ENUM, 2, LEAF},                                                       /* value */
    {SERVICE, 2, LEAF},                                                    /* method */
};

static enum kind kind_of(enum kind in, uint32_t field)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].in == in && parts[i].field == field)
            return parts[i].kind;
    return NOTHING;
}

static struct bytes get(struct bytes message, uint32_t number)
{
    struct wire_field field;

    while (next(&message, &field))
        if (field.number == number)
            return bytes_of(&field);
    return (struct bytes){(const uint8_t *)"", 0};
}

/* Takes "scope." off the front. */
static bool enter(struct bytes *name, struct bytes scope)
{
    if (name->len <= scope.len || memcmp(name->data, scope.data, scope.len) != 0 ||
        name->data[scope.len] != '.')
        return false;
    name->data += scope.len + 1;
    name->len -= scope.len + 1;
    return true;
}

/* What a name is inside a thing. */
static enum kind look_up(struct bytes thing, enum kind in, struct bytes name)
{
    struct wire_field field;

    while (next(&thing, &field)) {
        enum kind found = NOTHING, kind = kind_of(in, field.number);
        if (kind == NOTHING)
            continue;
        struct bytes part = bytes_of(&field), own = get(part, NAME), rest = name;
        if (is_equal(own, name))
            return kind;
        /* The values of an enum are its neighbours. */
        if (kind == ENUM || enter(&rest, own))
            found = look_up(part, kind, rest);
        if (found != NOTHING)
            return found;
    }
    return NOTHING;
}

/* ---- Answers ---- */

struct question {
    struct bytes set, request, host, text;
    uint32_t kind; /* the number of the field that was set last; 0: none */
};

static void answer_error(struct buffer *reply, enum grpc_status status, const char *message)
{
    size_t mark = wire_begin(reply, RESPONSE_ERROR);

    wire_append_int(reply, ERROR_CODE, status);
    wire_append_bytes(reply, ERROR_MESSAGE, message, strlen(message));
    wire_end(reply, mark);
}

static void answer_file(struct buffer *reply, struct bytes file)
{
    size_t mark = wire_begin(reply, RESPONSE_FILE_DESCRIPTOR);

    wire_append_bytes(reply, DESCRIPTOR_PROTO, file.data, file.len);
    wire_end(reply, mark);
}

static enum kind find_symbol(struct bytes set, struct bytes symbol, struct bytes *ret_file)
{
    struct wire_field field;

    while (next(&set, &field)) {
        struct bytes name = symbol;
        *ret_file = bytes_of(&field);
        if (!enter(&name, get(*ret_file, FILE_PACKAGE)))
            continue;
        enum kind kind = look_up(*ret_file, FILE_ITSELF, name);
        if (kind != NOTHING)
            return kind;
    }
    return NOTHING;
}

static void answer_filename(const struct question *q, struct buffer *reply)
{
    struct bytes set = q->set;
    struct wire_field field;

    while (next(&set, &field)) {
        if (is_equal(get(bytes_of(&field), NAME), q->text)) {
            answer_file(reply, bytes_of(&field));
            return;
        }
    }
    answer_error(reply, GRPC_NOT_FOUND, "there is no file of this name");
}

static void answer_symbol(const struct question *q, struct buffer *reply)
{
    struct bytes file;

    if (find_symbol(q->set, q->text, &file) != NOTHING)
        answer_file(reply, file);
    else
        answer_error(reply, GRPC_NOT_FOUND, "there is no symbol of this name");
}

static void answer_extension_numbers(const struct question *q, struct buffer *reply)
{
    struct bytes file;

    if (find_symbol(q->set, q->text, &file) != MESSAGE) {
        answer_error(reply, GRPC_NOT_FOUND, "there is no message of this name");
        return;
    }
    size_t mark = wire_begin(reply, RESPONSE_EXTENSION_NUMBERS);
    wire_append_bytes(reply, BASE_TYPE_NAME, q->text.data, q->text.len);
    wire_end(reply, mark);
}

static void answer_services(const struct question *q, struct buffer *reply)
{
    size_t list = wire_begin(reply, RESPONSE_LIST_SERVICES);
    struct bytes set = q->set;
    struct wire_field field;

    while (next(&set, &field)) {
        struct bytes file = bytes_of(&field), package = get(file, FILE_PACKAGE);
        while (next(&file, &field)) {
            if (field.number != FILE_SERVICE)
                continue;
            struct bytes name = get(bytes_of(&field), NAME);
            size_t service = wire_begin(reply, LIST_SERVICE);
            wire_append_tag(reply, SERVICE_NAME, WIRE_LEN);
            wire_append_varint(reply, package.len + 1 + name.len);
            buffer_append(reply, package.data, package.len);
            buffer_append_byte(reply, '.');
            buffer_append(reply, name.data, name.len);
            wire_end(reply, service);
        }
    }
    wire_end(reply, list);
}

static void answer(const struct question *q, struct buffer *reply)
{
    switch (q->kind) {
    case REQUEST_FILE_BY_FILENAME:
        answer_filename(q, reply);
        break;
    case REQUEST_FILE_CONTAINING_SYMBOL:
        answer_symbol(q, reply);
        break;
    case REQUEST_FILE_CONTAINING_EXTENSION:
        answer_error(reply, GRPC_NOT_FOUND, "there are no extensions");
        break;
    case REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
        answer_extension_numbers(q, reply);
        break;
    case REQUEST_LIST_SERVICES:
        answer_services(q, reply);
        break;
    default:
        answer_error(reply, GRPC_UNIMPLEMENTED, "no question, or none of this protocol's");
    }
}

/* ---- Questions ---- */

/* Strings go back as they came, so they have to be ones. */
static bool check_extension(struct bytes extension)
{
    const uint8_t *p = extension.data, *end = p + extension.len;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0)
        if (field.number == EXTENSION_CONTAINING_TYPE && field.type == WIRE_LEN &&
            !utf8_is_valid(field.data, field.len))
            return false;
    return rc == 0;
}

static bool read_field(const struct wire_field *field, struct question *q)
{
    bool is_text = field->number != REQUEST_FILE_CONTAINING_EXTENSION;

    if (field->type != WIRE_LEN ||
        (field->number != REQUEST_HOST &&
         (field->number < REQUEST_FILE_BY_FILENAME || field->number > REQUEST_LIST_SERVICES)))
        return true;
    if (is_text ? !utf8_is_valid(field->data, field->len) : !check_extension(bytes_of(field)))
        return false;
    if (field->number == REQUEST_HOST) {
        q->host = bytes_of(field);
        return true;
    }
    q->kind = field->number;
    q->text = bytes_of(field);
    return true;
}

static bool read_request(struct question *q)
{
    const uint8_t *p = q->request.data, *end = p + q->request.len;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0)
        if (!read_field(&field, q))
            return false;
    return rc == 0;
}

enum grpc_status grpc_reflection_answer(const uint8_t *set, size_t set_len, const uint8_t *request,
                                        size_t len, struct buffer *reply)
{
    struct question q = {.set = {set, set_len}, .request = {request, len}};

    if (!read_request(&q))
        return GRPC_INVALID_ARGUMENT;
    if (q.host.len > 0)
        wire_append_bytes(reply, RESPONSE_VALID_HOST, q.host.data, q.host.len);
    wire_append_bytes(reply, RESPONSE_ORIGINAL_REQUEST, request, len);
    answer(&q, reply);
    return GRPC_OK;
}
