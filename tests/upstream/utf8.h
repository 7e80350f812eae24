/* Characters of UTF-8, as RFC 3629 has them. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

enum { UTF8_INCOMPLETE = -1, UTF8_INVALID = 0 };

/* The length of the first character, 1 to 4; UTF8_INVALID: no character begins so;
 * UTF8_INCOMPLETE: one may, but its end is not there. len > 0. */
int utf8_first(const char *text, size_t len);

#endif
