#include "escape.h"

#include <stdbool.h>
#include <string.h>

#include "utf8.h"

static bool read_hex(const uint8_t *p, size_t n, uint32_t *ret)
{
    uint32_t value = 0;

    for (size_t i = 0; i < n; i++) {
        uint8_t digit = (uint8_t)(p[i] - '0'), letter = (uint8_t)((p[i] | 0x20) - 'a');
        if (digit > 9 && letter > 5)
            return false;
        value = value << 4 | (digit <= 9 ? digit : letter + 10u);
    }
    *ret = value;
    return true;
}

size_t escape_decode_backslash(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    static const uint8_t simple[256] = {
        ['n'] = '\n', ['r'] = '\r', ['t'] = '\t', ['b'] = '\b',  ['f'] = '\f',  ['v'] = '\v',
        ['a'] = '\a', ['"'] = '"',  ['/'] = '/',  ['\''] = '\'', ['\\'] = '\\',
    };
    size_t n = len < 2 ? 0 : p[1] == 'x' ? 2 : p[1] == 'u' ? 4 : p[1] == 'U' ? 8 : 0;
    uint32_t c, low;

    if (len > 1 && (simple[p[1]] || p[1] == '0')) {
        out[0] = simple[p[1]];
        *ret_len = 1;
        return 2;
    }
    if (n == 0 || len < 2 + n || !read_hex(p + 2, n, &c))
        return 0;
    if (n == 2) {
        out[0] = (uint8_t)c;
        *ret_len = 1;
        return 4;
    }
    if (n == 4 && c >= 0xD800 && c < 0xDC00 && len >= 12 && p[6] == '\\' && p[7] == 'u' &&
        read_hex(p + 8, 4, &low) && low >= 0xDC00 && low < 0xE000) {
        *ret_len = utf8_encode(0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00), out);
        return 12;
    }
    *ret_len = utf8_encode(c, out);
    return 2 + n;
}

static size_t decode_entity(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    static const struct {
        const char *name;
        char character;
    } entities[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    size_t i = 2;
    uint32_t c = 0;

    for (size_t e = 0; e < sizeof entities / sizeof *entities; e++) {
        size_t n = strlen(entities[e].name);
        if (len >= n && memcmp(p, entities[e].name, n) == 0) {
            out[0] = (uint8_t)entities[e].character;
            *ret_len = 1;
            return n;
        }
    }
    if (len < 4 || p[1] != '#')
        return 0;
    bool is_hex = p[2] == 'x' || p[2] == 'X';
    for (i += is_hex; i < len && i < 10 && p[i] != ';'; i++) {
        uint32_t digit;
        if (!read_hex(p + i, 1, &digit) || (!is_hex && digit > 9))
            return 0;
        c = c * (is_hex ? 16 : 10) + digit;
    }
    if (i == len || p[i] != ';')
        return 0;
    *ret_len = utf8_encode(c, out);
    return i + 1;
}

size_t escape_decode(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len)
{
    uint32_t c;

    if (*p == '\\')
        return escape_decode_backslash(p, len, out, ret_len);
    if (*p == '&')
        return decode_entity(p, len, out, ret_len);
    if (*p != '%' || len < 3 || !read_hex(p + 1, 2, &c))
        return 0;
    out[0] = (uint8_t)c;
    *ret_len = 1;
    return 3;
}
