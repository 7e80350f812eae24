/*
 * The protobuf wire format, as far as it is written and read without protobuf-c: the hot path from
 * JSON to Completion, and google.rpc.Status. Writers append to a buffer and leave its sticky error
 * to be asked for once.
 */
#ifndef WIRE_H
#define WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "buffer.h"

enum wire_type {
    WIRE_VARINT = 0,
    WIRE_I64 = 1,
    WIRE_LEN = 2,
    WIRE_SGROUP = 3,
    WIRE_EGROUP = 4,
    WIRE_I32 = 5
};

enum { WIRE_VARINT_MAX = 10 };

static inline size_t wire_put_varint(uint8_t *p, uint64_t value)
{
    size_t n = 0;

    while (value >= 0x80) {
        p[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    p[n++] = (uint8_t)value;
    return n;
}

static inline void wire_append_varint(struct buffer *b, uint64_t value)
{
    uint8_t *p = buffer_reserve(b, WIRE_VARINT_MAX);
    if (p)
        buffer_commit(b, wire_put_varint(p, value));
}

static inline void wire_append_tag(struct buffer *b, uint32_t field, enum wire_type type)
{
    wire_append_varint(b, (uint64_t)field << 3 | type);
}

/* int32, int64, enum and bool fields. Negative numbers take ten bytes, as the format has it. */
static inline void wire_append_int(struct buffer *b, uint32_t field, int64_t value)
{
    wire_append_tag(b, field, WIRE_VARINT);
    wire_append_varint(b, (uint64_t)value);
}

static inline void wire_append_double(struct buffer *b, uint32_t field, double value)
{
    uint64_t bits;
    uint8_t bytes[8];

    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(bits >> (8 * i));
    wire_append_tag(b, field, WIRE_I64);
    buffer_append(b, bytes, sizeof bytes);
}

static inline void wire_append_bytes(struct buffer *b, uint32_t field, const void *data, size_t len)
{
    wire_append_tag(b, field, WIRE_LEN);
    wire_append_varint(b, len);
    buffer_append(b, data, len);
}

/*
 * A field whose length is known only when it is written: wire_begin() returns a mark for
 * wire_end(). One byte is kept for the length; a field of 128 bytes or more is moved to make room,
 * so that lengths are always in their shortest form. Marks nest, and must be ended innermost first.
 */
static inline size_t wire_begin(struct buffer *b, uint32_t field)
{
    wire_append_tag(b, field, WIRE_LEN);
    buffer_append_byte(b, 0);
    return buffer_length(b);
}

static inline void wire_end(struct buffer *b, size_t mark)
{
    if (b->error)
        return;

    size_t len = buffer_length(b) - mark;
    uint8_t prefix[WIRE_VARINT_MAX];
    size_t n = wire_put_varint(prefix, len);

    if (n > 1) {
        if (!buffer_reserve(b, n - 1))
            return;
        uint8_t *body = buffer_bytes(b) + mark;
        memmove(body + n - 1, body, len);
        buffer_commit(b, n - 1);
    }
    memcpy(buffer_bytes(b) + mark - 1, prefix, n);
}

/* Reads the number at *p and moves *p behind it. False: cut short, or more than 64 bits. */
bool wire_read_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret);

/* A field as read by wire_next(). */
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;      /* VARINT, I64, I32 */
    const uint8_t *data; /* LEN: points into the input */
    size_t len;
};

/* Reads the field at *p and moves *p behind it. 1: a field; 0: the input is at its end; -EBADMSG:
 * not well-formed, a tag or length in more than five bytes, or a group (which nothing here uses).
 */
int wire_next(const uint8_t **p, const uint8_t *end, struct wire_field *ret);

#endif
