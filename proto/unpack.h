/*
 * Messages from a peer that is not trusted, unpacked within a budget.
 *
 * protobuf-c by itself takes bad UTF-8, NUL, NaN, unknown enum values and a 63-bit number in an
 * int32 field, and makes 80 MB of 1 MiB of empty sub-messages. So the bytes are scanned against the
 * descriptor first, and then unpacked by an allocator with a budget.
 *
 * Refused: truncated or malformed fields, groups, field number 0, a wire type that does not fit the
 * field, a oneof's message in several parts, depth above 8, strings that are not UTF-8 (every bytes
 * field counts as a string: the C bindings are generated from the .proto with `string` replaced by
 * `bytes`, because protobuf-c's strings end at the first NUL), an int32 or enum out of 32 bits, a
 * double that is NaN or infinite, and, as the kind says, unknown fields, unknown enum values, and
 * messages that take too much memory.
 *
 * Where a oneof or a scalar is given twice, the last one holds, and the parts of a message outside
 * of oneofs are joined, as everywhere in protobuf.
 */
#ifndef UNPACK_H
#define UNPACK_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct unpack_error {
    char field[64]; /* path of the field, "prompt_strings.values"; empty if no field is to blame */
    char text[128]; /* what is wrong with it, without any of its bytes: "not valid UTF-8" */
};

enum unpack_kind {
    /* From a caller: 16 unknown fields at most, no unknown enum value, and at most four times the
     * message's length plus 64 KiB of memory while and after it is unpacked. */
    UNPACK_REQUEST,
    /* From a daemon, maybe a newer one: 4096 unknown fields, unknown enum values, and 32 times the
     * length plus 64 KiB: what logprobs of many tokens need. */
    UNPACK_REPLY,
};

/* The most memory that unpacking len bytes takes. */
size_t unpack_max_bytes(enum unpack_kind kind, size_t len);

/* 0 and a message for unpack_free(); or -EBADMSG (ret_error is filled), or -ENOMEM. */
int unpack_message(enum unpack_kind kind, const ProtobufCMessageDescriptor *descriptor,
                   const uint8_t *data, size_t len, ProtobufCMessage **ret,
                   struct unpack_error *ret_error);

/* Takes NULL. */
void unpack_free(ProtobufCMessage *message);

#endif
