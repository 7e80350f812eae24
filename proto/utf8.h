/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

/* How many bytes from the front are valid: len if all are, else the offset of the first byte of
 * the first bad sequence. */
size_t utf8_valid_prefix(const void *data, size_t len);

static inline bool utf8_is_valid(const void *data, size_t len)
{
    return utf8_valid_prefix(data, len) == len;
}

/* Appends data with U+FFFD in place of each maximal part of a bad sequence (Unicode, 3.9, the
 * practice of W3C's decoders). */
void utf8_append_repaired(struct buffer *out, const void *data, size_t len);

/* Writes the code point to out, which has space for 4 bytes; returns how many. Surrogates and what
 * lies above U+10FFFF become U+FFFD. */
size_t utf8_encode(uint32_t code_point, uint8_t *out);

/* The longest prefix of at most max bytes that does not end inside a sequence. data is valid. */
size_t utf8_truncate(const void *data, size_t len, size_t max);

#endif
