/*
 * The headers of one request, taken in one by one as HTTP/2 delivers them: what is kept of them,
 * and whether they make a gRPC call. nghttp2's own checks are switched off, because they refuse the
 * :authority values that stock clients send on Unix sockets, so everything that is used is checked
 * here. Pure; :authority and :scheme are never looked at.
 */
#ifndef GRPC_REQUEST_H
#define GRPC_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"
#include "grpc_status.h"

struct grpc_request {
    struct buffer text; /* name NUL value NUL, for :path and metadata */
    size_t path;        /* where the path begins in text; 0: there is none */
    size_t bytes;       /* of all headers, as HTTP/2 counts them */
    size_t max_bytes;
    int64_t timeout_us; /* -1: none */
    uint8_t seen;       /* headers that may come once, or must come */
    uint8_t faults;
};

/* What is kept is charged to memory, which may be NULL. */
void grpc_request_init(struct grpc_request *r, size_t max_bytes, struct memory *memory);

/* Wipes what was kept: metadata may hold a key. */
void grpc_request_done(struct grpc_request *r);

void grpc_request_add(struct grpc_request *r, const uint8_t *name, size_t name_len,
                      const uint8_t *value, size_t value_len);

struct grpc_refusal {
    const char *http_status;
    enum grpc_status status;
    const char *message;
};

/* After the last header: NULL if this is a call, else how to refuse it. */
const struct grpc_refusal *grpc_request_check(const struct grpc_request *r);

/* Valid after a successful check. */
const char *grpc_request_path(const struct grpc_request *r);

/* The last value of this key, or NULL. */
const char *grpc_request_metadata(const struct grpc_request *r, const char *key);

#endif
