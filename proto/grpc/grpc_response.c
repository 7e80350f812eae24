/*
 * From response headers to a status, also where no gRPC server answered: grpc/grpc
 * doc/http-grpc-status-mapping.md.
 */
#include "grpc_response.h"

#include <string.h>

enum { HEADER_OVERHEAD = 32 }; /* RFC 9113, 6.5.2 */

void grpc_response_init(struct grpc_response *r, size_t max_bytes)
{
    /* What is decoded is no longer than three times what came. */
    *r = (struct grpc_response){
        .max_bytes = max_bytes,
        .message = BUFFER_INIT(SIZE_MAX),
        .details = BUFFER_INIT(SIZE_MAX),
    };
}

void grpc_response_done(struct grpc_response *r)
{
    buffer_done(&r->message);
    buffer_done(&r->details);
}

void grpc_response_begin_block(struct grpc_response *r)
{
    r->bytes = 0;
    r->has_status = false;
    buffer_done(&r->message);
    buffer_done(&r->details);
    if (r->http_status >= 100 && r->http_status <= 199)
        r->http_status = 0;
}

static bool is_equal(const uint8_t *data, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(data, text, len) == 0;
}

/* A number of at most three digits, or -1. */
static int parse_number(const uint8_t *text, size_t len)
{
    int value = 0;

    if (len == 0 || len > 3)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

static void set_status(struct grpc_response *r, int number)
{
    r->has_status = true;
    r->status = number >= GRPC_OK && number <= GRPC_UNAUTHENTICATED ? (enum grpc_status)number
                                                                    : GRPC_UNKNOWN;
}

void grpc_response_add(struct grpc_response *r, const uint8_t *name, size_t name_len,
                       const uint8_t *value, size_t value_len)
{
    r->bytes += name_len + value_len + HEADER_OVERHEAD;
    if (r->bytes > r->max_bytes)
        return;
    if (is_equal(name, name_len, ":status")) {
        r->http_status = parse_number(value, value_len);
    } else if (is_equal(name, name_len, "content-type")) {
        r->is_grpc = grpc_content_type_is_grpc(value, value_len);
    } else if (is_equal(name, name_len, "grpc-encoding")) {
        r->is_encoded = !is_equal(value, value_len, "identity");
    } else if (is_equal(name, name_len, "grpc-status")) {
        set_status(r, parse_number(value, value_len));
    } else if (is_equal(name, name_len, "grpc-message")) {
        buffer_done(&r->message);
        grpc_message_decode(&r->message, value, value_len);
    } else if (is_equal(name, name_len, "grpc-status-details-bin")) {
        buffer_done(&r->details);
        /* Malformed details are as good as none: the status and its message still hold. */
        if (grpc_base64_decode(&r->details, value, value_len) < 0)
            buffer_done(&r->details);
    }
}

static bool is_too_large(const struct grpc_response *r, enum grpc_status *ret_status,
                         const char **ret_text)
{
    if (r->bytes <= r->max_bytes)
        return false;
    *ret_status = GRPC_RESOURCE_EXHAUSTED;
    *ret_text = "the server's headers are too large";
    return true;
}

static enum grpc_status map_http_status(int http_status, const char **ret_text)
{
    static const struct {
        int http_status;
        enum grpc_status status;
        const char *text;
    } map[] = {
        {200, GRPC_UNKNOWN, "the server answered without grpc-status"},
        {400, GRPC_INTERNAL, "the server answered HTTP 400, not gRPC"},
        {401, GRPC_UNAUTHENTICATED, "the server answered HTTP 401, not gRPC"},
        {403, GRPC_PERMISSION_DENIED, "the server answered HTTP 403, not gRPC"},
        {404, GRPC_UNIMPLEMENTED, "the server answered HTTP 404, not gRPC"},
        {429, GRPC_UNAVAILABLE, "the server answered HTTP 429, not gRPC"},
        {502, GRPC_UNAVAILABLE, "the server answered HTTP 502, not gRPC"},
        {503, GRPC_UNAVAILABLE, "the server answered HTTP 503, not gRPC"},
        {504, GRPC_UNAVAILABLE, "the server answered HTTP 504, not gRPC"},
    };

    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        if (map[i].http_status == http_status) {
            *ret_text = map[i].text;
            return map[i].status;
        }
    }
    *ret_text = "the server answered with HTTP, not gRPC";
    return GRPC_UNKNOWN;
}

bool grpc_response_end_block(struct grpc_response *r, enum grpc_status *ret_status,
                             const char **ret_text)
{
    if (is_too_large(r, ret_status, ret_text))
        return false;
    r->has_status = false; /* it counts in the last block only */
    if (r->http_status >= 100 && r->http_status <= 199)
        return true;
    if (r->has_headers) {
        *ret_status = GRPC_INTERNAL;
        *ret_text = "the server sent headers twice";
        return false;
    }
    r->has_headers = true;
    if (r->http_status != 200) {
        *ret_status = map_http_status(r->http_status, ret_text);
        return false;
    }
    if (!r->is_grpc) {
        *ret_status = GRPC_UNKNOWN;
        *ret_text = "the server's content-type is not application/grpc: it does not speak gRPC";
        return false;
    }
    if (r->is_encoded) {
        *ret_status = GRPC_INTERNAL;
        *ret_text = "the server compressed its reply, though that was not agreed on";
        return false;
    }
    return true;
}

enum grpc_status grpc_response_end(const struct grpc_response *r, const char **ret_text)
{
    enum grpc_status status;

    if (is_too_large(r, &status, ret_text))
        return status;
    if (!r->has_status)
        return map_http_status(r->http_status, ret_text);
    *ret_text = NULL;
    return r->status;
}
