/*
 * Each message is read twice: once to count the elements of lists, once to fill it. Memory comes
 * from a block; if that is not enough, from further ones, which one larger block replaces when the
 * next message is read.
 */
#include "view.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "../proto/unpack.h"
#include "../proto/utf8.h"
#include "../proto/wire.h"

enum { DEPTH_MAX = 8, UNKNOWN_MAX = 4096, BLOCK_BYTES = 1024, ALIGNMENT = 16 };

struct view_block {
    struct view_block *next;
    size_t used, size; /* of what follows */
    _Alignas(ALIGNMENT) uint8_t bytes[];
};

/* ---- Memory ---- */

static struct view_block *block_new(size_t size, struct view_block *next)
{
    struct view_block *b = malloc(sizeof *b + size);

    if (b)
        *b = (struct view_block){.next = next, .size = size};
    return b;
}

/* Everything is free again, in one piece, and not more than the next message may take. */
static void reset(struct view *v, size_t max_bytes)
{
    size_t size = 0;

    for (const struct view_block *b = v->blocks; b; b = b->next)
        size += b->size;
    if (v->blocks && !v->blocks->next && size <= max_bytes) {
        v->blocks->used = 0;
        return;
    }
    view_done(v);
    if (size > 0)
        v->blocks = block_new(size < max_bytes ? size : max_bytes, NULL); /* or at the first use */
}

void view_done(struct view *v)
{
    while (v->blocks) {
        struct view_block *next = v->blocks->next;
        free(v->blocks);
        v->blocks = next;
    }
}

/* Memory that is not zeroed: 0, -ENOMEM, or -EBADMSG if the message wants more than it may. */
static int take(struct view *v, size_t n, void **ret)
{
    struct view_block *b = v->blocks;

    n = (n + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (n > v->left_bytes)
        return -EBADMSG;
    if (!b || b->size - b->used < n) {
        size_t size = b ? 2 * b->size : BLOCK_BYTES;
        b = block_new(size > n ? size : n, b);
        if (!b)
            return -ENOMEM;
        v->blocks = b;
    }
    v->left_bytes -= n;
    *ret = b->bytes + b->used;
    b->used += n;
    return 0;
}

/* ---- Fields ---- */

/* wire_next(), with a short way for what nearly all fields are: a tag of one byte, and a text or a
 * number with a length or value of one. */
static inline int next_field(const uint8_t **p, const uint8_t *end, struct wire_field *w)
{
    const uint8_t *at = *p;

    if (end - at < 2 || at[0] < 8 || (at[0] | at[1]) & 0x80)
        return wire_next(p, end, w);
    w->number = at[0] >> 3;
    w->type = (enum wire_type)(at[0] & 7);
    if (w->type == WIRE_LEN && at[1] <= end - at - 2) {
        w->data = at + 2;
        w->len = at[1];
    } else if (w->type == WIRE_VARINT) {
        w->value = at[1];
        w->data = NULL;
        w->len = 0;
    } else {
        return wire_next(p, end, w);
    }
    *p = at + 2 + w->len;
    return 1;
}

/* Most fields are numbered from 1 on. */
static inline const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *d,
                                                         uint32_t number)
{
    return number - 1 < d->n_fields && d->fields[number - 1].id == number
               ? &d->fields[number - 1]
               : protobuf_c_message_descriptor_get_field(d, number);
}

static enum wire_type wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_I64;
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LEN;
    default: /* int32, int64, bool, enum: the schema has no others */
        return WIRE_VARINT;
    }
}

static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        return sizeof(double);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(ProtobufCMessage *);
    case PROTOBUF_C_TYPE_INT64:
        return sizeof(int64_t);
    default: /* also a boolean and an enum */
        return sizeof(int32_t);
    }
}

static int put_varint(ProtobufCType type, uint64_t value, void *member)
{
    int32_t word = (int32_t)value;

    if (type == PROTOBUF_C_TYPE_INT64) {
        memcpy(member, &value, sizeof value);
        return 0;
    }
    if (type == PROTOBUF_C_TYPE_BOOL)
        word = value != 0;
    else if ((int64_t)value < INT32_MIN || (int64_t)value > INT32_MAX)
        return -EBADMSG;
    memcpy(member, &word, sizeof word);
    return 0;
}

static int read_message(struct view *v, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                        size_t len, ProtobufCMessage **ret);

/* A value of the field's own wire type. */
static int put_value(struct view *v, const ProtobufCFieldDescriptor *f, const struct wire_field *w,
                     void *member)
{
    double number;

    switch (f->type) {
    case PROTOBUF_C_TYPE_DOUBLE:
        memcpy(&number, &w->value, sizeof number);
        memcpy(member, &number, sizeof number);
        return isfinite(number) ? 0 : -EBADMSG;
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)member = (ProtobufCBinaryData){w->len, (uint8_t *)w->data};
        return utf8_is_valid(w->data, w->len) ? 0 : -EBADMSG;
    case PROTOBUF_C_TYPE_MESSAGE:
        return read_message(v, f->descriptor, w->data, w->len, member);
    default:
        return put_varint(f->type, w->value, member);
    }
}

static bool is_packed(const ProtobufCFieldDescriptor *f, const struct wire_field *w)
{
    return f->label == PROTOBUF_C_LABEL_REPEATED && w->type == WIRE_LEN &&
           wire_type_of(f->type) == WIRE_VARINT;
}

/* How many elements a field of a list has; negative: it is malformed. */
static ssize_t count_elements(const ProtobufCFieldDescriptor *f, const struct wire_field *w)
{
    const uint8_t *p = w->data;
    uint64_t ignored;
    ssize_t n = 0;

    if (!is_packed(f, w))
        return 1;
    for (; p < w->data + w->len; n++)
        if (!wire_read_varint(&p, w->data + w->len, &ignored))
            return -EBADMSG;
    return n;
}

#define MEMBER(message, offset) ((void *)((char *)(message) + (offset)))

/* Behind the elements that the list has already. */
static int put_elements(struct view *v, const ProtobufCFieldDescriptor *f,
                        const struct wire_field *w, ProtobufCMessage *message)
{
    size_t *n = MEMBER(message, f->quantifier_offset), size = size_of(f->type);
    char *list = *(char **)MEMBER(message, f->offset);
    const uint8_t *p = w->data;
    uint64_t value;
    int r = 0;

    if (!is_packed(f, w)) {
        r = w->type == wire_type_of(f->type) ? put_value(v, f, w, list + *n * size) : -EBADMSG;
        ++*n;
        return r;
    }
    for (; r == 0 && p < w->data + w->len; ++*n) {
        wire_read_varint(&p, w->data + w->len, &value);
        r = put_varint(f->type, value, list + *n * size);
    }
    return r;
}

static int put_field(struct view *v, const ProtobufCMessageDescriptor *d,
                     const struct wire_field *w, ProtobufCMessage *message)
{
    const ProtobufCFieldDescriptor *f = find_field(d, w->number);

    if (!f)
        return ++v->n_unknown > UNKNOWN_MAX ? -EBADMSG : 0;
    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return put_elements(v, f, w, message);
    void *member = MEMBER(message, f->offset);
    if (w->type != wire_type_of(f->type) ||
        (f->type == PROTOBUF_C_TYPE_MESSAGE && *(ProtobufCMessage **)member))
        return -EBADMSG;
    if (f->type != PROTOBUF_C_TYPE_MESSAGE)
        *(protobuf_c_boolean *)MEMBER(message, f->quantifier_offset) = 1;
    return put_value(v, f, w, member);
}

/* ---- Messages ---- */

/* Counts the elements of the message's lists, and makes room for them; then they are empty. */
static int make_lists(struct view *v, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                      size_t len, ProtobufCMessage *message)
{
    const uint8_t *p = data;
    struct wire_field w;
    int r;

    while ((r = next_field(&p, data + len, &w)) > 0) {
        const ProtobufCFieldDescriptor *f = find_field(d, w.number);
        if (!f || f->label != PROTOBUF_C_LABEL_REPEATED)
            continue;
        ssize_t n = count_elements(f, &w);
        if (n < 0)
            return (int)n;
        *(size_t *)MEMBER(message, f->quantifier_offset) += (size_t)n;
    }
    for (unsigned i = 0; r == 0 && i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        if (f->label != PROTOBUF_C_LABEL_REPEATED)
            continue;
        size_t *n = MEMBER(message, f->quantifier_offset);
        if (*n > 0)
            r = take(v, *n * size_of(f->type), MEMBER(message, f->offset));
        *n = 0;
    }
    return r;
}

static bool has_lists(const ProtobufCMessageDescriptor *d)
{
    for (unsigned i = 0; i < d->n_fields; i++)
        if (d->fields[i].label == PROTOBUF_C_LABEL_REPEATED)
            return true;
    return false;
}

static int read_message(struct view *v, const ProtobufCMessageDescriptor *d, const uint8_t *data,
                        size_t len, ProtobufCMessage **ret)
{
    const uint8_t *p = data;
    void *message = NULL;
    struct wire_field w;
    int r = v->depth > DEPTH_MAX ? -EBADMSG : take(v, d->sizeof_message, &message);

    if (r < 0)
        return r;
    v->depth++;
    d->message_init(message);
    r = has_lists(d) ? make_lists(v, d, data, len, message) : 0;
    while (r == 0 && (r = next_field(&p, data + len, &w)) > 0)
        r = put_field(v, d, &w, message);
    v->depth--;
    *ret = message;
    return r;
}

int view_read(struct view *v, const ProtobufCMessageDescriptor *d, const uint8_t *data, size_t len,
              const ProtobufCMessage **ret)
{
    ProtobufCMessage *message;

    v->left_bytes = unpack_max_bytes(UNPACK_REPLY, len);
    reset(v, v->left_bytes);
    v->n_unknown = v->depth = 0;
    int r = read_message(v, d, data, len, &message);
    if (r == 0)
        *ret = message;
    return r;
}
