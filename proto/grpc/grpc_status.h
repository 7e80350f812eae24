/*
 * What gRPC adds to HTTP/2 in headers and trailers, as text and back: status codes,
 * percent-encoded messages, timeouts, base64 of binary metadata, google.rpc.Status.
 * Pure functions. Facts: grpc/grpc doc/PROTOCOL-HTTP2.md, doc/statuscodes.md.
 */
#ifndef GRPC_STATUS_H
#define GRPC_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../buffer.h"

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};

/* "INVALID_ARGUMENT"; "UNKNOWN" for numbers that are no status. */
const char *grpc_status_name(int status);

/* "application/grpc", with or without "+proto" and parameters. */
bool grpc_content_type_is_grpc(const void *text, size_t len);

/* Longest grpc-message before encoding: clients limit all trailers to 8 KiB, and details go along.
 */
enum { GRPC_MESSAGE_MAX = 1024 };

/* Appends message percent-encoded, cut at GRPC_MESSAGE_MAX bytes between characters. */
void grpc_message_encode(struct buffer *out, const char *message);

/* Appends the decoded form; a % that is not followed by two hex digits stays as it is. The result
 * is repaired to valid UTF-8. */
void grpc_message_decode(struct buffer *out, const void *text, size_t len);

/* grpc-timeout: 1 to 8 digits and one of H M S m u n. 0 and the time in microseconds (rounded up;
 * "0u" is 0), or -EINVAL. */
int grpc_timeout_parse(const void *text, size_t len, int64_t *ret_us);

/* Writes it in the unit that loses least, at most 8 digits, rounded up; negative counts as 0. */
enum { GRPC_TIMEOUT_SIZE = 16 };
void grpc_timeout_format(int64_t timeout_us, char out[static GRPC_TIMEOUT_SIZE]);

/* Binary metadata ("-bin"): base64, written without padding, read with or without. Decoding returns
 * 0 or -EINVAL. */
void grpc_base64_encode(struct buffer *out, const void *data, size_t len);
int grpc_base64_decode(struct buffer *out, const void *text, size_t len);

/* google.rpc.Status with one detail: google.protobuf.Any of type_url and value. That is what stock
 * clients expect in grpc-status-details-bin. message may be NULL, and is cut as above. */
void grpc_status_pack(struct buffer *out, enum grpc_status status, const char *message,
                      const char *type_url, const void *value, size_t len);

/* Finds the first detail of that type. 0 and a view into data, -ENOENT, or -EBADMSG. */
int grpc_status_find_detail(const void *data, size_t data_len, const char *type_url,
                            const uint8_t **ret_value, size_t *ret_len);

#endif
