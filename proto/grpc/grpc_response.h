/*
 * The headers and trailers of one response, and the status that they make. Pure.
 *
 * A response is a block of headers and later one of trailers, or one block that is both; blocks of
 * 1xx may come before. Each begins with grpc_response_begin_block().
 */
#ifndef GRPC_RESPONSE_H
#define GRPC_RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

struct grpc_response {
    size_t max_bytes; /* of one block */
    size_t bytes;     /* of this block, as HTTP/2 counts them */
    int http_status;  /* 0: none yet */
    bool has_headers; /* the block after 1xx was there */
    bool is_grpc;     /* by its content-type */
    bool is_encoded;  /* grpc-encoding other than identity */
    bool has_status;  /* grpc-status, in this block */
    enum grpc_status status;
    struct buffer message; /* decoded, of this block */
    struct buffer details; /* decoded, of this block */
};

void grpc_response_init(struct grpc_response *r, size_t max_bytes);
void grpc_response_done(struct grpc_response *r);

void grpc_response_begin_block(struct grpc_response *r);
void grpc_response_add(struct grpc_response *r, const uint8_t *name, size_t name_len,
                       const uint8_t *value, size_t value_len);

/* The block is complete, and is not the last: false if the call cannot go on, with the status and
 * a text of static storage. */
bool grpc_response_end_block(struct grpc_response *r, enum grpc_status *ret_status,
                             const char **ret_text);

/* The response is complete, with trailers or without. The status, and in *ret_text NULL if the
 * server said it (then message and details hold), else a text of static storage. */
enum grpc_status grpc_response_end(const struct grpc_response *r, const char **ret_text);

#endif
