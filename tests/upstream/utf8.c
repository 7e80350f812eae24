/* One character at a time; no table, no state. */
#include "utf8.h"

static int expected_length(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return UTF8_INVALID;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* The second byte alone tells overlong forms, surrogates and what is above U+10FFFF. */
static int is_second(unsigned char lead, unsigned char byte)
{
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;

    return byte >= low && byte <= high;
}

int utf8_first(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    int n = expected_length(p[0]);

    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len)
            return UTF8_INCOMPLETE;
        if (i == 1 ? !is_second(p[0], p[1]) : (p[i] & 0xc0) != 0x80)
            return UTF8_INVALID;
    }
    return n;
}
