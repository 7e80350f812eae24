/*
 * A protobuf message read in place: the structs that protobuf-c's generated code has, whose texts
 * point into the message's bytes. For streams of messages: memory is kept from one to the next, so
 * that, once it is enough, reading allocates nothing.
 *
 * As strict as unpack.h with UNPACK_REPLY: messages come from a peer that is not trusted. What it
 * refuses beyond that is a sub-message given twice where one is expected: nobody writes it, and it
 * would have to be merged.
 */
#ifndef VIEW_H
#define VIEW_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

struct view_block;

/* Zeroed at first. */
struct view {
    struct view_block *blocks; /* the one in use, then those that are full */
    size_t left_bytes;         /* that this message may still take */
    unsigned n_unknown, depth;
};

/* 0, -EBADMSG or -ENOMEM. The message before is gone; this one lasts as long as data, until the
 * next time or view_done(). Not for protobuf_c_message_free_unpacked(). */
int view_read(struct view *v, const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
              size_t len, const ProtobufCMessage **ret);
void view_done(struct view *v);

#endif
