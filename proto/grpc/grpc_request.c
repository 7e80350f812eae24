/* Request headers: checked against a table of the known ones; the rest is metadata. */
#include "grpc_request.h"

#include <string.h>

enum {
    HEADER_OVERHEAD = 32, /* RFC 9113, 6.5.2 */
    USUAL_BYTES = 512,
};

enum seen {
    SEEN_METHOD = 1 << 0,
    SEEN_PATH = 1 << 1,
    SEEN_SCHEME = 1 << 2,
    SEEN_AUTHORITY = 1 << 3,
    SEEN_CONTENT_TYPE = 1 << 4,
    SEEN_REGULAR = 1 << 5,
};

/* In the order of what to complain of first. */
enum fault {
    FAULT_MALFORMED,
    FAULT_SIZE,
    FAULT_MEMORY,
    FAULT_METHOD,
    FAULT_TYPE,
    FAULT_ENCODING,
    FAULT_TIMEOUT
};

static const struct grpc_refusal refusals[] = {
    [FAULT_MALFORMED] = {"400", GRPC_INTERNAL, "malformed request headers"},
    [FAULT_SIZE] = {"200", GRPC_RESOURCE_EXHAUSTED, "request headers are too large"},
    [FAULT_MEMORY] = {"200", GRPC_RESOURCE_EXHAUSTED,
                      "the request headers do not fit into the memory limit of this connection, "
                      "user or daemon"},
    [FAULT_METHOD] = {"405", GRPC_INTERNAL, "gRPC calls are made with the method POST"},
    [FAULT_TYPE] = {"415", GRPC_INTERNAL, "gRPC calls have the content-type application/grpc"},
    [FAULT_ENCODING] = {"200", GRPC_UNIMPLEMENTED,
                        "compressed requests are not supported: grpc-encoding must be identity"},
    [FAULT_TIMEOUT] = {"200", GRPC_INTERNAL, "malformed grpc-timeout"},
};

void grpc_request_init(struct grpc_request *r, size_t max_bytes, struct memory *memory)
{
    *r = (struct grpc_request){
        .text = BUFFER_INIT_IN(SIZE_MAX, memory), /* by max_bytes */
        .max_bytes = max_bytes,
        .timeout_us = -1,
    };
}

void grpc_request_done(struct grpc_request *r)
{
    buffer_wipe(&r->text);
}

static void set_fault(struct grpc_request *r, enum fault fault)
{
    r->faults |= (uint8_t)(1 << fault);
}

static bool is_equal(const uint8_t *data, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(data, text, len) == 0;
}

static bool has_prefix(const uint8_t *data, size_t len, const char *prefix)
{
    return len >= strlen(prefix) && memcmp(data, prefix, strlen(prefix)) == 0;
}

static bool is_name(const uint8_t *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':' ||
            (name[i] >= 'A' && name[i] <= 'Z'))
            return false;
    }
    return len > 0;
}

/* No control characters; so neither a NUL, which would cut the value for its readers. */
static bool is_value(const uint8_t *value, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((value[i] < ' ' && value[i] != '\t') || value[i] == 0x7f)
            return false;
    }
    return true;
}

static bool is_path(const uint8_t *path, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (path[i] <= ' ' || path[i] >= 0x7f)
            return false;
    }
    return len > 0;
}

static void keep(struct grpc_request *r, const uint8_t *name, size_t name_len, const uint8_t *value,
                 size_t value_len)
{
    size_t n = name_len + value_len + 2, length = buffer_length(&r->text);

    /* By hand, because growing must not leave a copy of a key in freed memory. */
    if (r->text.capacity - r->text.end < n) {
        struct buffer grown = BUFFER_INIT_IN(SIZE_MAX, r->text.memory);
        buffer_reserve(&grown, 2 * length + n + USUAL_BYTES);
        buffer_append(&grown, buffer_bytes(&r->text), length);
        buffer_wipe(&r->text);
        r->text = grown;
    }
    buffer_append(&r->text, name, name_len);
    buffer_append_byte(&r->text, 0);
    buffer_append(&r->text, value, value_len);
    buffer_append_byte(&r->text, 0);
    if (r->text.error)
        set_fault(r, FAULT_MEMORY);
}

static void add_pseudo(struct grpc_request *r, const uint8_t *name, size_t name_len,
                       const uint8_t *value, size_t value_len)
{
    enum seen seen;

    if (is_equal(name, name_len, ":method"))
        seen = SEEN_METHOD;
    else if (is_equal(name, name_len, ":path"))
        seen = SEEN_PATH;
    else if (is_equal(name, name_len, ":scheme"))
        seen = SEEN_SCHEME;
    else if (is_equal(name, name_len, ":authority"))
        seen = SEEN_AUTHORITY;
    else
        seen = SEEN_REGULAR;

    if (r->seen & (seen | SEEN_REGULAR) || seen == SEEN_REGULAR) {
        set_fault(r, FAULT_MALFORMED);
        return;
    }
    r->seen |= (uint8_t)seen;
    if (seen == SEEN_METHOD && !is_equal(value, value_len, "POST"))
        set_fault(r, FAULT_METHOD);
    if (seen != SEEN_PATH)
        return;
    if (!is_path(value, value_len)) {
        set_fault(r, FAULT_MALFORMED);
        return;
    }
    r->path = buffer_length(&r->text) + name_len + 1;
    keep(r, name, name_len, value, value_len);
}

void grpc_request_add(struct grpc_request *r, const uint8_t *name, size_t name_len,
                      const uint8_t *value, size_t value_len)
{
    r->bytes += name_len + value_len + HEADER_OVERHEAD;
    if (r->bytes > r->max_bytes)
        set_fault(r, FAULT_SIZE);
    if (r->faults & (1 << FAULT_SIZE | 1 << FAULT_MEMORY))
        return;
    if (name_len > 0 && name[0] == ':') {
        add_pseudo(r, name, name_len, value, value_len);
        return;
    }
    r->seen |= SEEN_REGULAR;
    if (!is_name(name, name_len) || !is_value(value, value_len)) {
        set_fault(r, FAULT_MALFORMED);
    } else if (is_equal(name, name_len, "content-type")) {
        r->seen |= SEEN_CONTENT_TYPE;
        if (!grpc_content_type_is_grpc(value, value_len))
            set_fault(r, FAULT_TYPE);
    } else if (is_equal(name, name_len, "grpc-timeout")) {
        if (grpc_timeout_parse(value, value_len, &r->timeout_us) < 0)
            set_fault(r, FAULT_TIMEOUT);
    } else if (is_equal(name, name_len, "grpc-encoding")) {
        if (!is_equal(value, value_len, "identity"))
            set_fault(r, FAULT_ENCODING);
    } else if (!is_equal(name, name_len, "te") && !has_prefix(name, name_len, "grpc-")) {
        keep(r, name, name_len, value, value_len);
    }
}

const struct grpc_refusal *grpc_request_check(const struct grpc_request *r)
{
    unsigned faults = r->faults;

    /* What comes behind these limits has not been looked at. */
    if (faults & (1 << FAULT_SIZE))
        return &refusals[FAULT_SIZE];
    if (faults & (1 << FAULT_MEMORY))
        return &refusals[FAULT_MEMORY];
    if (!(r->seen & SEEN_METHOD) || !(r->seen & SEEN_PATH))
        faults |= 1 << FAULT_MALFORMED;
    if (!(r->seen & SEEN_CONTENT_TYPE))
        faults |= 1 << FAULT_TYPE;
    return faults ? &refusals[__builtin_ctz(faults)] : NULL;
}

const char *grpc_request_path(const struct grpc_request *r)
{
    return (const char *)buffer_bytes(&r->text) + r->path;
}

const char *grpc_request_metadata(const struct grpc_request *r, const char *key)
{
    const char *p = (const char *)buffer_bytes(&r->text), *end = p + buffer_length(&r->text);
    const char *found = NULL;

    if (key[0] == ':')
        return NULL;
    while (p < end) {
        const char *value = p + strlen(p) + 1;
        if (strcmp(p, key) == 0)
            found = value;
        p = value + strlen(value) + 1;
    }
    return found;
}
