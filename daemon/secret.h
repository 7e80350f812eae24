/*
 * A key in memory that is not swapped, not dumped and not inherited by a fork, and wiped when it is
 * freed. One mapping for each: there are few.
 */
#ifndef SECRET_H
#define SECRET_H

#include <stddef.h>

struct secret {
    size_t len;
    char text[]; /* printable ASCII, ends in NUL */
};

enum { SECRET_MAX = 3072 };

/* Copies text, without white space at its end. 0, -ENOMEM, or -EINVAL: empty, longer than
 * SECRET_MAX, or with bytes that may not stand in an HTTP header. */
int secret_new(const char *text, size_t len, struct secret **ret);

/* Reads a key from a file: a regular file, not readable or writable by others, of at most
 * SECRET_MAX bytes. Never blocks. 0 or negative errno; -EPERM for its mode. */
int secret_read(const char *path, struct secret **ret);

/* Takes NULL; returns NULL. */
struct secret *secret_free(struct secret *s);

#endif
