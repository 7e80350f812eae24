/*
 * Escapes of one character, as JSON, C, Python, HTML and URLs have them. Pure.
 *
 * Both return how many of the bytes at p the escape has, 0 if there is none; what it stands for is
 * written to out, which has space for 4 bytes, and is never longer than the escape.
 */
#ifndef ESCAPE_H
#define ESCAPE_H

#include <stddef.h>
#include <stdint.h>

/* p stands at a backslash, with which JSON's, C's and Python's begin. */
size_t escape_decode_backslash(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len);

/* Of any kind. len is not 0. */
size_t escape_decode(const uint8_t *p, size_t len, uint8_t *out, size_t *ret_len);

#endif
