/* Text of gRPC's headers and trailers, both ways. Refuses to know HTTP/2 or any connection. */
#include "grpc_status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "../utf8.h"
#include "../wire.h"

const char *grpc_status_name(int status)
{
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };

    if (status < GRPC_OK || status > GRPC_UNAUTHENTICATED)
        return "UNKNOWN";
    return names[status];
}

bool grpc_content_type_is_grpc(const void *text, size_t len)
{
    static const char base[] = "application/grpc", proto[] = "+proto";
    const char *p = text;

    if (len < sizeof base - 1 || strncasecmp(p, base, sizeof base - 1) != 0)
        return false;
    p += sizeof base - 1;
    len -= sizeof base - 1;
    if (len >= sizeof proto - 1 && strncasecmp(p, proto, sizeof proto - 1) == 0) {
        p += sizeof proto - 1;
        len -= sizeof proto - 1;
    }
    return len == 0 || *p == ';' || *p == ' ';
}

/* ---- grpc-message ---- */

void grpc_message_encode(struct buffer *out, const char *message)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = strlen(message);

    if (len > GRPC_MESSAGE_MAX)
        len = utf8_truncate(message, len, GRPC_MESSAGE_MAX);
    for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)message[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            buffer_append_byte(out, c);
            continue;
        }
        const uint8_t escape[] = {'%', (uint8_t)hex[c >> 4], (uint8_t)hex[c & 15]};
        buffer_append(out, escape, sizeof escape);
    }
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

void grpc_message_decode(struct buffer *out, const void *text, size_t len)
{
    const uint8_t *p = text;
    struct buffer raw = BUFFER_INIT(len);

    for (size_t i = 0; i < len; i++) {
        int high = p[i] == '%' && len - i > 2 ? hex_value(p[i + 1]) : -1;
        int low = high >= 0 ? hex_value(p[i + 2]) : -1;
        if (low < 0) {
            buffer_append_byte(&raw, p[i]);
            continue;
        }
        buffer_append_byte(&raw, (uint8_t)(high << 4 | low));
        i += 2;
    }
    if (!out->error)
        out->error = raw.error;
    utf8_append_repaired(out, buffer_bytes(&raw), buffer_length(&raw));
    buffer_done(&raw);
}

/* ---- grpc-timeout ---- */

enum { TIMEOUT_DIGITS = 8, TIMEOUT_MAX = 99999999 };

/* From the finest to the coarsest. Nanoseconds are finer than what we count in. */
static const struct {
    uint8_t letter;
    int64_t us;
} timeout_units[] = {
    {'u', 1}, {'m', 1000}, {'S', 1000000}, {'M', 60000000}, {'H', 3600000000},
};

enum { N_TIMEOUT_UNITS = sizeof timeout_units / sizeof timeout_units[0] };

int grpc_timeout_parse(const void *text, size_t len, int64_t *ret_us)
{
    const uint8_t *p = text;
    int64_t value = 0;

    if (len < 2 || len > TIMEOUT_DIGITS + 1)
        return -EINVAL;
    for (size_t i = 0; i < len - 1; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -EINVAL;
        value = value * 10 + (p[i] - '0');
    }
    if (p[len - 1] == 'n') {
        *ret_us = (value + 999) / 1000;
        return 0;
    }
    for (size_t i = 0; i < N_TIMEOUT_UNITS; i++) {
        if (p[len - 1] == timeout_units[i].letter) {
            *ret_us = value * timeout_units[i].us;
            return 0;
        }
    }
    return -EINVAL;
}

void grpc_timeout_format(int64_t timeout_us, char out[static GRPC_TIMEOUT_SIZE])
{
    int64_t value = 0;
    size_t i;

    if (timeout_us < 0)
        timeout_us = 0;
    for (i = 0; i < N_TIMEOUT_UNITS; i++) {
        int64_t us = timeout_units[i].us;
        value = timeout_us / us + (timeout_us % us != 0);
        if (value <= TIMEOUT_MAX)
            break;
    }
    if (i == N_TIMEOUT_UNITS) {
        i = N_TIMEOUT_UNITS - 1;
        value = TIMEOUT_MAX;
    }
    snprintf(out, GRPC_TIMEOUT_SIZE, "%d%c", (int)value, timeout_units[i].letter);
}

/* ---- base64 ---- */

void grpc_base64_encode(struct buffer *out, const void *data, size_t len)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)p[i] << 16;
        if (n > 1)
            bits |= (uint32_t)p[i + 1] << 8;
        if (n > 2)
            bits |= p[i + 2];

        char text[4];
        for (size_t k = 0; k < 4; k++)
            text[k] = alphabet[bits >> (18 - 6 * k) & 63];
        buffer_append(out, text, n + 1);
    }
}

static int base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    return c == '/' ? 63 : -1;
}

int grpc_base64_decode(struct buffer *out, const void *text, size_t len)
{
    const uint8_t *p = text;
    size_t before = buffer_length(out);
    uint32_t bits = 0;

    if (len % 4 == 0 && len > 0 && p[len - 1] == '=')
        len -= p[len - 2] == '=' ? 2 : 1;
    if (len % 4 == 1)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        int value = base64_value(p[i]);
        if (value < 0) {
            buffer_truncate(out, before);
            return -EINVAL;
        }
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0)
            buffer_append_byte(out, (uint8_t)(bits >> (6 - 2 * (i % 4))));
    }
    return 0;
}

/* ---- google.rpc.Status ---- */

enum { STATUS_CODE = 1, STATUS_MESSAGE = 2, STATUS_DETAILS = 3, ANY_TYPE_URL = 1, ANY_VALUE = 2 };

void grpc_status_pack(struct buffer *out, enum grpc_status status, const char *message,
                      const char *type_url, const void *value, size_t len)
{
    size_t message_len = message ? strlen(message) : 0;

    if (message_len > GRPC_MESSAGE_MAX)
        message_len = utf8_truncate(message, message_len, GRPC_MESSAGE_MAX);
    if (status != GRPC_OK)
        wire_append_int(out, STATUS_CODE, status);
    if (message_len)
        wire_append_bytes(out, STATUS_MESSAGE, message, message_len);

    size_t mark = wire_begin(out, STATUS_DETAILS);
    wire_append_bytes(out, ANY_TYPE_URL, type_url, strlen(type_url));
    wire_append_bytes(out, ANY_VALUE, value, len);
    wire_end(out, mark);
}

/* 1 if the Any is of that type, with a view of its value; 0 if not; -EBADMSG. */
static int match_any(const uint8_t *p, size_t any_len, const char *type_url,
                     const uint8_t **ret_value, size_t *ret_len)
{
    const uint8_t *end = p + any_len, *value = p;
    size_t len = 0;
    bool matches = false;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0) {
        if (field.type != WIRE_LEN)
            continue;
        if (field.number == ANY_TYPE_URL) {
            matches = field.len == strlen(type_url) && memcmp(field.data, type_url, field.len) == 0;
        } else if (field.number == ANY_VALUE) {
            value = field.data;
            len = field.len;
        }
    }
    if (rc < 0)
        return rc;
    if (!matches)
        return 0;
    *ret_value = value;
    *ret_len = len;
    return 1;
}

int grpc_status_find_detail(const void *data, size_t data_len, const char *type_url,
                            const uint8_t **ret_value, size_t *ret_len)
{
    const uint8_t *p = data, *end = p + data_len;
    struct wire_field field;
    int rc;

    while ((rc = wire_next(&p, end, &field)) > 0) {
        if (field.number != STATUS_DETAILS || field.type != WIRE_LEN)
            continue;
        rc = match_any(field.data, field.len, type_url, ret_value, ret_len);
        if (rc != 0)
            return rc < 0 ? rc : 0;
    }
    return rc < 0 ? rc : -ENOENT;
}
