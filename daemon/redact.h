/*
 * Texts from an upstream, and what in them must not be shown: the key, and what the caller's own
 * request said. Pure. Linear in the size of texts and request, in memory that does not depend on
 * either.
 *
 * Hidden are
 *   - the key's first 8 bytes or more, all of a shorter one, or 12 bytes of it in a row;
 *   - 12 bytes or more in a row that stand in a string value of the request, and a string value of
 * 6 to 11 bytes that stands there as a whole; but neither keys of objects nor the name of the
 *     model, which errors must be able to name;
 *   - if the request has lists of numbers, 8 integers or more in a row: token ids.
 * Also where the text has them escaped once more, as JSON, Python, HTML or URLs do.
 */
#ifndef REDACT_H
#define REDACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of all texts together. */
enum { REDACT_MAX = 5120 };

struct redact;

/* NULL: out of memory. To be freed by redact_free(), which takes NULL and returns it. */
struct redact *redact_new(void);
struct redact *redact_free(struct redact *r);

/* Adds a text, valid UTF-8, at redact_end(); returns how many of its bytes there was space for. No
 * match reaches from one text into the next. */
size_t redact_add(struct redact *r, const void *text, size_t len);
/* Where the next text would begin. */
size_t redact_end(const struct redact *r);

/* That text is shown if it is the name of a member of the request, a parameter. At most one. */
void redact_name(struct redact *r, size_t from, size_t to);

/* After all texts: looks for parts of the request's JSON body, which is ours and so well-formed,
 * then for the key, in this order. Either may be left out. */
void redact_request(struct redact *r, const uint8_t *json, size_t len);
void redact_secret(struct redact *r, const char *secret);

/* Takes back what was hidden there. */
void redact_show(struct redact *r, size_t from, size_t to);

/* Whole characters only. Valid once both have been looked for. */
bool redact_is_hidden(const struct redact *r, size_t at);

const uint8_t *redact_text(const struct redact *r, size_t at);

/* A short text holds a part of the key. */
bool redact_has_secret(const char *text, const char *secret);

#endif
