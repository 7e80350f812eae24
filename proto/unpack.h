/*
 * Messages from a peer that is not trusted, unpacked within a budget.
 *
 * protobuf-c by itself takes bad UTF-8, NUL, NaN, unknown enum values and a 63-bit number in an
 * int32 field, and makes 80 MB of 1 MiB of empty sub-messages. So the bytes are scanned against the
 * descriptor first, and then unpacked into one arena whose size is bounded beforehand.
 *
 * The scan refuses: truncated or malformed fields, groups, field number 0, a wire type that does
 * not fit the field, depth above 8, more than 16 unknown fields, strings that are not UTF-8 (every
 * bytes field counts as a string: the C bindings are generated from the .proto with `string`
 * replaced by `bytes`, because protobuf-c's strings end at the first NUL), an int32 or enum out of
 * 32 bits, an enum value that the descriptor does not have, a double that is NaN or infinite, and a
 * message that would take more than 4 times its length plus 64 KiB when unpacked.
 *
 * Where a oneof or a scalar is given twice, the last one holds, as everywhere in protobuf.
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

/* An unpacked message and all memory that belongs to it. */
struct unpacked {
    ProtobufCMessage *message;
    void *arena;
};

/* 0, or -EBADMSG (ret_error is filled), or -ENOMEM. */
int unpack_message(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t len,
                   struct unpacked *ret, struct unpack_error *ret_error);

/* Takes an empty one too. */
void unpacked_done(struct unpacked *u);

#endif
