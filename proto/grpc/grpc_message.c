/* The five bytes in front of each message. Keeps no state: where the bytes are is the caller's. */
#include "grpc_message.h"

#include <errno.h>
#include <stdio.h>

uint32_t grpc_message_length(const uint8_t prefix[static GRPC_MESSAGE_PREFIX])
{
    return (uint32_t)prefix[1] << 24 | (uint32_t)prefix[2] << 16 | (uint32_t)prefix[3] << 8 |
           prefix[4];
}

void grpc_message_write_prefix(uint8_t out[static GRPC_MESSAGE_PREFIX], uint32_t len)
{
    out[0] = 0;
    out[1] = (uint8_t)(len >> 24);
    out[2] = (uint8_t)(len >> 16);
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
}

int grpc_message_peek(const uint8_t *data, size_t len, size_t max_bytes, size_t *ret_len)
{
    if (len < GRPC_MESSAGE_PREFIX)
        return 0;
    if (data[0] != 0)
        return -EBADMSG;

    size_t n = grpc_message_length(data);
    if (n > max_bytes)
        return -EMSGSIZE;
    if (len - GRPC_MESSAGE_PREFIX < n)
        return 0;
    *ret_len = n;
    return 1;
}

enum grpc_status grpc_message_failure(int error, const uint8_t *data, size_t max_bytes,
                                      char ret_text[static GRPC_MESSAGE_FAILURE_SIZE])
{
    if (error == -EMSGSIZE) {
        /* The words that other implementations use, and people search for. */
        snprintf(ret_text, GRPC_MESSAGE_FAILURE_SIZE,
                 "Received message larger than max (%lu vs. %zu)",
                 (unsigned long)grpc_message_length(data), max_bytes);
        return GRPC_RESOURCE_EXHAUSTED;
    }
    snprintf(ret_text, GRPC_MESSAGE_FAILURE_SIZE, "%s",
             data[0] == 1 ? "compressed message, though no compression was agreed on"
                          : "malformed message prefix");
    return GRPC_INTERNAL;
}
