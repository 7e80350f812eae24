#include "utf8.h"

/* How long the sequence at p should be, from its first byte; 0 if none begins like this. The second
 * byte's range follows from it: that is what keeps out overlong forms and surrogates. */
static size_t sequence(uint8_t first, uint8_t *ret_low, uint8_t *ret_high)
{
    *ret_low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    *ret_high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first >= 0xc2 && first <= 0xdf)
        return 2;
    if (first >= 0xe0 && first <= 0xef)
        return 3;
    if (first >= 0xf0 && first <= 0xf4)
        return 4;
    return 0;
}

/* How many bytes at p (at least one is there) belong to one sequence, and in ret_n how many it
 * needs to be valid; 0 if it can't be. */
static size_t matching(const uint8_t *p, size_t len, size_t *ret_n)
{
    uint8_t low, high;
    size_t i, n = *ret_n = sequence(p[0], &low, &high);

    if (n < 2 || len < 2 || p[1] < low || p[1] > high)
        return 1;
    for (i = 2; i < n && i < len && (p[i] & 0xc0) == 0x80; i++) {
    }
    return i;
}

size_t utf8_valid_prefix(const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t i = 0, n;

    while (i < len) {
        uint64_t word;
        if (len - i >= sizeof word) {
            memcpy(&word, p + i, sizeof word);
            if (!(word & UINT64_C(0x8080808080808080))) {
                i += sizeof word;
                continue;
            }
        }
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        if (matching(p + i, len - i, &n) != n)
            return i;
        i += n;
    }
    return len;
}

void utf8_append_repaired(struct buffer *out, const void *data, size_t len)
{
    const uint8_t *p = data;
    size_t needed;

    for (;;) {
        size_t n = utf8_valid_prefix(p, len);
        buffer_append(out, p, n);
        p += n;
        len -= n;
        if (len == 0)
            return;
        n = matching(p, len, &needed);
        buffer_append(out, "\xef\xbf\xbd", 3);
        p += n;
        len -= n;
    }
}

size_t utf8_encode(uint32_t c, uint8_t *out)
{
    if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        c = 0xfffd;
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

size_t utf8_truncate(const void *data, size_t len, size_t max)
{
    const uint8_t *p = data;

    if (len <= max)
        return len;
    while (max > 0 && (p[max] & 0xc0) == 0x80)
        max--;
    return max;
}
