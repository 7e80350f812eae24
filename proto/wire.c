#include "wire.h"

#include <errno.h>

bool wire_read_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 70 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        /* The tenth byte has room for one bit. */
        if (shift == 63 && byte > 1)
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* Tags and lengths have 32 bits, and five bytes at most: protobuf's own readers take no more. */
static bool read_short_varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    const uint8_t *limit = end - *p > 5 ? *p + 5 : end;

    return wire_read_varint(p, limit, ret) && *ret <= UINT32_MAX;
}

static bool read_fixed(const uint8_t **p, const uint8_t *end, size_t n, uint64_t *ret)
{
    uint64_t value = 0;

    if ((size_t)(end - *p) < n)
        return false;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)(*p)[i] << (8 * i);
    *p += n;
    *ret = value;
    return true;
}

int wire_next(const uint8_t **p, const uint8_t *end, struct wire_field *ret)
{
    struct wire_field f = {0};
    uint64_t tag, len;
    bool ok = false;

    if (*p == end)
        return 0;
    if (!read_short_varint(p, end, &tag) || tag >> 3 == 0)
        return -EBADMSG;
    f.number = (uint32_t)(tag >> 3);
    f.type = (enum wire_type)(tag & 7);
    switch (f.type) {
    case WIRE_VARINT:
        ok = wire_read_varint(p, end, &f.value);
        break;
    case WIRE_I64:
        ok = read_fixed(p, end, 8, &f.value);
        break;
    case WIRE_I32:
        ok = read_fixed(p, end, 4, &f.value);
        break;
    case WIRE_LEN:
        ok = read_short_varint(p, end, &len) && len <= (size_t)(end - *p);
        if (ok) {
            f.data = *p;
            f.len = (size_t)len;
            *p += len;
        }
        break;
    case WIRE_SGROUP:
    case WIRE_EGROUP:
        break;
    }
    if (!ok)
        return -EBADMSG;
    *ret = f;
    return 1;
}
