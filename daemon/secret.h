/*
 * Keys in memory that is not swapped, not dumped and not inherited by a fork, and wiped when it is
 * freed. Whole pages for each: there are few.
 */
#ifndef SECRET_H
#define SECRET_H

#include <stddef.h>

struct secret {
    size_t len;
    char text[]; /* printable ASCII without spaces, ends in NUL */
};

enum { SECRET_MAX = 3072 };

/* NULL: this is a key. Else why not, and what to do: a static text that follows "can't be used: ".
 * White space at the end is no fault. */
const char *secret_fault(const char *text, size_t len);

/* Copies text, without white space at its end. 0, -ENOMEM, or -EINVAL: secret_fault() says why. */
int secret_new(const char *text, size_t len, struct secret **ret);

/*
 * Reads a key from a file. It must be a regular file and no symbolic link, owned by root or by us,
 * not writable by its group and neither readable nor writable by others, so that nobody else has
 * chosen or seen the key. Never waits: not for a FIFO's writer either. 0, or negative errno and
 * ret_why as secret_fault() has it.
 */
int secret_read(const char *path, struct secret **ret, const char **ret_why);

/* Takes NULL; returns NULL. */
struct secret *secret_free(struct secret *s);

/* Zeroed memory of that kind for other things that hold a key; NULL: there is none. */
void *secret_memory_new(size_t size);
/* Wipes it. Takes NULL. */
void secret_memory_free(void *memory, size_t size);

#endif
