/*
 * The scan reads every byte that protobuf-c will read, and knows what it will make of it; the
 * allocator is the second line: what it does not grant, protobuf-c can't use.
 */
#include "unpack.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"
#include "wire.h"

enum { DEPTH_MAX = 8, ONEOFS_MAX = 4, BUDGET_BASE = 65536, ALLOCATION_OVERHEAD = 8 };

struct scan {
    const struct limits *limits;
    unsigned depth, n_unknown;
    const char *path[DEPTH_MAX];
    struct unpack_error *error;
};

static const struct limits {
    size_t factor;
    unsigned n_unknown;
    bool unknown_enums;
} kinds[] = {
    [UNPACK_REQUEST] = {.factor = 4, .n_unknown = 16, .unknown_enums = false},
    [UNPACK_REPLY] = {.factor = 32, .n_unknown = 4096, .unknown_enums = true},
};

/* Notes what is wrong with the field at the end of the path. */
static int refuse(struct scan *s, const char *field, const char *text)
{
    struct unpack_error *e = s->error;
    size_t n = 0;

    *e->field = '\0';
    for (unsigned i = 0; i < s->depth && n < sizeof e->field; i++)
        n += (size_t)snprintf(e->field + n, sizeof e->field - n, "%s.", s->path[i]);
    if (n < sizeof e->field)
        snprintf(e->field + n, sizeof e->field - n, "%s", field);
    /* A message without a name of its own: no point behind the path. */
    n = strlen(e->field);
    if (n > 0 && e->field[n - 1] == '.')
        e->field[n - 1] = '\0';
    snprintf(e->text, sizeof e->text, "%s", text);
    return -EBADMSG;
}

static enum wire_type wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_I32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_I64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LEN;
    default:
        return WIRE_VARINT;
    }
}

static int check_varint(struct scan *s, const ProtobufCFieldDescriptor *f, uint64_t value)
{
    bool is_enum = f->type == PROTOBUF_C_TYPE_ENUM;

    if (!is_enum && f->type != PROTOBUF_C_TYPE_INT32)
        return 0;
    if ((int64_t)value < INT32_MIN || (int64_t)value > INT32_MAX)
        return refuse(s, f->name, "out of the range of 32 bits");
    if (is_enum && !s->limits->unknown_enums &&
        !protobuf_c_enum_descriptor_get_value(f->descriptor, (int)(int64_t)value))
        return refuse(s, f->name, "an unknown value");
    return 0;
}

static int check_double(struct scan *s, const ProtobufCFieldDescriptor *f, uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    if (f->type == PROTOBUF_C_TYPE_DOUBLE && !isfinite(value))
        return refuse(s, f->name, "not a finite number");
    return 0;
}

/* Numbers of a repeated field one behind the other. */
static int check_packed(struct scan *s, const ProtobufCFieldDescriptor *f,
                        const struct wire_field *w)
{
    const uint8_t *p = w->data, *end = p + w->len;

    if (wire_type_of(f->type) != WIRE_VARINT)
        return refuse(s, f->name, "packed numbers of this type are not expected");
    while (p < end) {
        uint64_t value;
        if (!wire_read_varint(&p, end, &value))
            return refuse(s, f->name, "malformed packed numbers");
        int r = check_varint(s, f, value);
        if (r < 0)
            return r;
    }
    return 0;
}

static int scan_message(struct scan *s, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                        size_t len);

static int check_length(struct scan *s, const ProtobufCFieldDescriptor *f,
                        const struct wire_field *w)
{
    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        if (s->depth == DEPTH_MAX)
            return refuse(s, f->name, "nested too deeply");
        s->path[s->depth++] = f->name;
        int r = scan_message(s, f->descriptor, w->data, w->len);
        s->depth--;
        return r;
    }
    return utf8_is_valid(w->data, w->len) ? 0 : refuse(s, f->name, "not valid UTF-8");
}

/* protobuf-c joins the parts of a message, but not in a oneof: it would forget all but the last.
 * members: the last field of each oneof. */
static int check_oneof(struct scan *s, const ProtobufCFieldDescriptor *f,
                       const ProtobufCFieldDescriptor **members)
{
    unsigned i = 0;

    while (i < ONEOFS_MAX - 1 && members[i] &&
           members[i]->quantifier_offset != f->quantifier_offset)
        i++;
    if (members[i] == f && f->type == PROTOBUF_C_TYPE_MESSAGE)
        return refuse(s, f->name, "given in parts; send it as one");
    members[i] = f;
    return 0;
}

static int check_field(struct scan *s, const ProtobufCMessageDescriptor *d,
                       const struct wire_field *w, const ProtobufCFieldDescriptor **members)
{
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(d, w->number);

    if (!f)
        return ++s->n_unknown > s->limits->n_unknown
                   ? refuse(s, "", "too many fields that are not known")
                   : 0;
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && check_oneof(s, f, members) < 0)
        return -EBADMSG;
    enum wire_type type = wire_type_of(f->type);
    if (w->type == WIRE_LEN && type != WIRE_LEN && f->label == PROTOBUF_C_LABEL_REPEATED)
        return check_packed(s, f, w);
    if (w->type != type)
        return refuse(s, f->name, "of the wrong wire type");
    return type == WIRE_LEN      ? check_length(s, f, w)
           : type == WIRE_VARINT ? check_varint(s, f, w->value)
                                 : check_double(s, f, w->value);
}

static int scan_message(struct scan *s, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                        size_t len)
{
    const ProtobufCFieldDescriptor *members[ONEOFS_MAX] = {NULL};
    const uint8_t *p = data, *end = data + len;
    struct wire_field w;
    int r;

    while ((r = wire_next(&p, end, &w)) > 0) {
        r = check_field(s, d, &w, members);
        if (r < 0)
            return r;
    }
    return r < 0 ? refuse(s, "", "not a well-formed protobuf message") : 0;
}

/* ---- The budget ---- */

struct budget {
    size_t left;
    bool exceeded;
};

static size_t cost(void *p)
{
    return malloc_usable_size(p) + ALLOCATION_OVERHEAD;
}

static void *budget_alloc(void *user, size_t size)
{
    struct budget *b = user;
    void *p = NULL;

    if (size <= b->left && !(p = malloc(size)))
        return NULL;
    /* malloc() may have given more than was asked for. */
    if (!p || cost(p) > b->left) {
        free(p);
        b->exceeded = true;
        return NULL;
    }
    b->left -= cost(p);
    return p;
}

static void budget_free(void *user, void *p)
{
    struct budget *b = user;

    if (p)
        b->left += cost(p);
    free(p);
}

size_t unpack_max_bytes(enum unpack_kind kind, size_t len)
{
    return kinds[kind].factor * len + BUDGET_BASE;
}

int unpack_message(enum unpack_kind kind, const ProtobufCMessageDescriptor *descriptor,
                   const uint8_t *data, size_t len, ProtobufCMessage **ret,
                   struct unpack_error *ret_error)
{
    const struct limits *limits = &kinds[kind];
    struct scan scan = {.limits = limits, .error = ret_error};
    struct budget budget = {.left = unpack_max_bytes(kind, len)};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    int r = scan_message(&scan, descriptor, data, len);

    if (r < 0)
        return r;
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, len, data);
    if (message) {
        *ret = message;
        return 0;
    }
    if (budget.exceeded)
        return refuse(&scan, "", "too many small parts for its length");
    /* What the scan lets through, protobuf-c understands. */
    return -ENOMEM;
}

void unpack_free(ProtobufCMessage *message)
{
    /* budget_alloc() takes from malloc(). */
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
}
