/*
 * JSON text appended to a buffer. The writer sets commas and quotes; the caller gives the order.
 * Errors are the buffer's (sticky). Nothing is pretty-printed: one value is one line.
 *
 *     struct json_writer w = json_writer(&out);
 *     json_begin_object(&w);
 *     json_key(&w, "n");
 *     json_int(&w, 2);
 *     json_end_object(&w);
 */
#ifndef JSON_WRITER_H
#define JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

struct json_writer {
    struct buffer *out;
    bool comma; /* the next key or element needs one in front */
};

struct json_writer json_writer(struct buffer *out);

void json_begin_object(struct json_writer *w);
void json_end_object(struct json_writer *w);
void json_begin_array(struct json_writer *w);
void json_end_array(struct json_writer *w);

/* A member's name, which needs no escapes; its value must follow. */
void json_key(struct json_writer *w, const char *name);

/* UTF-8 (the caller has checked it), any length, NUL allowed. Escaped: quote, backslash, what lies
 * below U+0020, and U+007F. At most six times as long as data, plus two. */
void json_string(struct json_writer *w, const void *data, size_t len);

void json_int(struct json_writer *w, int64_t value);

/* The shortest of %.15g to %.17g that reads back as the same double; finite only, what is not
 * becomes null. Independent of the locale. */
void json_double(struct json_writer *w, double value);

void json_bool(struct json_writer *w, bool value);
void json_null(struct json_writer *w);

/* A value that is JSON text already. */
void json_raw(struct json_writer *w, const void *text, size_t len);

/* The members of an object that is JSON text already ({"a":1}), put into the object that is being
 * written. The text has been checked. */
void json_raw_members(struct json_writer *w, const void *object, size_t len);

#endif
