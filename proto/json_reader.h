/*
 * A strict JSON reader (RFC 8259) over bytes in memory, on demand: the caller walks the text member
 * by member and takes each value in the type that it wants. One pass, no tree, no allocation, no
 * copy but where a string with escapes is decoded.
 *
 * Strict: UTF-8 is checked, control characters in strings, leading zeros, trailing commas, NaN,
 * comments and a second value behind the first are errors. Depth is limited to JSON_DEPTH_MAX.
 * Allowed: white space around the value, duplicate keys (each is shown), any \u escape; a surrogate
 * without its partner decodes to U+FFFD.
 *
 * Errors are sticky: after the first one every call fails at once, so that loops end and the caller
 * asks json_reader_error() once. A value of another type than asked for is not an error of the
 * text: the call returns false and the value is still there, to be skipped or read otherwise.
 *
 * Every value must be consumed by exactly one of json_read_*(), json_enter_*() with all of its
 * members read, or json_skip(); json_next_*() skips what was left unread.
 */
#ifndef JSON_READER_H
#define JSON_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

enum { JSON_DEPTH_MAX = 64 };

enum json_type {
    JSON_NONE, /* no value here: end of text, or an error */
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

struct json_reader {
    const char *start, *at, *end;
    const char *error; /* static text, NULL if there is none */
    unsigned depth;
    /* The rest is the reader's own. */
    bool pending;     /* a value stands at `at` and has not been consumed */
    bool first;       /* the innermost array or object has shown no member yet */
    uint64_t objects; /* bit d: the container at depth d+1 is an object */
};

/* A part of the text. Valid as long as the text is. */
struct json_slice {
    const char *data;
    size_t len;
};

/* A string as it stands in the text, without its quotes. */
struct json_string {
    const char *data;
    size_t len;
    bool has_escapes; /* if not, data and len are the string itself */
};

/* The text is not copied and need not end in NUL. */
void json_reader_init(struct json_reader *r, const void *text, size_t len);

/* NULL, or what is wrong with the text, and where (bytes from the start). */
const char *json_reader_error(const struct json_reader *r, size_t *ret_offset);

/* Nothing but white space is left; else this sets the error "more than one value" or the like. */
bool json_reader_end(struct json_reader *r);

/* The type of the value that is next. */
enum json_type json_peek(struct json_reader *r);

/* Arrays and objects:
 *
 *     if (json_enter_object(r))
 *         while (json_next_member(r, &key))
 *             if (json_string_equals(&key, "id"))
 *                 json_read_string(r, &id);
 *
 * The loop ends behind the closing bracket, or at an error. json_enter_*() is false, and consumes
 * nothing, if the value has another type. */
bool json_enter_object(struct json_reader *r);
bool json_next_member(struct json_reader *r, struct json_string *ret_key);
bool json_enter_array(struct json_reader *r);
bool json_next_element(struct json_reader *r);

/* Each returns false, and leaves ret_ alone, if the value is not of that type. json_read_int64()
 * and json_read_int32() take a number whose value is an integer in range, exactly, in any spelling
 * (1, 1.0, 10e-1) and are false for any other. json_read_double() is false for what overflows to
 * infinity, and for numbers of more than 1024 characters. */
bool json_read_null(struct json_reader *r);
bool json_read_bool(struct json_reader *r, bool *ret);
bool json_read_string(struct json_reader *r, struct json_string *ret);
bool json_read_number(struct json_reader *r, struct json_slice *ret);
bool json_read_int64(struct json_reader *r, int64_t *ret);
bool json_read_int32(struct json_reader *r, int32_t *ret);
bool json_read_double(struct json_reader *r, double *ret);

/* Consumes the value, whatever it is, checks all of it, and returns its text without white space
 * around it. ret may be NULL. False only at an error. */
bool json_skip(struct json_reader *r, struct json_slice *ret);

/* The string decoded. json_string_decode() writes at most s->len bytes to out, and returns how
 * many: decoding never lengthens. The result is valid UTF-8 and may hold NUL. */
size_t json_string_decode(const struct json_string *s, void *out);
void json_string_append(const struct json_string *s, struct buffer *out);

/* The decoded string equals text, which has no NUL. */
bool json_string_equals(const struct json_string *s, const char *text);

#endif
