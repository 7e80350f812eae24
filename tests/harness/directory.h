/*
 * A temporary directory of a test's own, short enough for the paths of sockets, and the files in
 * it. Owned by the test's thread; failures fail the test.
 */
#ifndef DIRECTORY_H
#define DIRECTORY_H

#include <stddef.h>

struct directory {
    char path[64]; /* "" : there is none */
};

void directory_init(struct directory *d);

/* Removes it and all in it. Nothing if there is none. */
void directory_done(struct directory *d);

/* The path of name in it, in one of a few buffers that take turns. */
const char *directory_path(const struct directory *d, const char *name);

/* Writes a file of mode 0600; returns its path, as above. */
const char *directory_write(const struct directory *d, const char *name, const char *text);

/* The whole file as text, to be freed; "" if there is none. */
char *directory_read(const char *path);

#endif
