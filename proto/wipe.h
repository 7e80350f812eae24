/*
 * free() and realloc() for libraries whose memory may hold a key: what they give back is wiped
 * first, else it would stay readable in the heap until somebody uses it again.
 */
#ifndef WIPE_H
#define WIPE_H

#include <stddef.h>

/* Takes NULL. */
void wipe_free(void *memory);
void *wipe_realloc(void *memory, size_t size);

#endif
