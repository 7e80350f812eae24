/*
 * gRPC's message framing inside DATA: a flag byte, a length of four bytes, the message. Read in the
 * same way by server and client. Pure functions.
 */
#ifndef GRPC_MESSAGE_H
#define GRPC_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "grpc_status.h"

enum { GRPC_MESSAGE_PREFIX = 5 };

/* Writes the prefix of an uncompressed message. */
void grpc_message_write_prefix(uint8_t out[static GRPC_MESSAGE_PREFIX], uint32_t len);

/* The length that a prefix says. */
uint32_t grpc_message_length(const uint8_t prefix[static GRPC_MESSAGE_PREFIX]);

/* The message at the front of data. 1: it is whole, and *ret_len bytes behind the prefix. 0: more
 * bytes are needed. -EMSGSIZE: it is longer than max_bytes; -EBADMSG: it is compressed, or its flag
 * is none. Both show as soon as the prefix is there. */
int grpc_message_peek(const uint8_t *data, size_t len, size_t max_bytes, size_t *ret_len);

/* What to say about such a failure. */
enum { GRPC_MESSAGE_FAILURE_SIZE = 96 };
enum grpc_status grpc_message_failure(int error, const uint8_t *data, size_t max_bytes,
                                      char ret_text[static GRPC_MESSAGE_FAILURE_SIZE]);

#endif
