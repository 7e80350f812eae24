#include "wipe.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* All that the allocator gave: realloc() below lets its caller use the rest. */
void wipe_free(void *memory)
{
    if (memory) {
        explicit_bzero(memory, malloc_usable_size(memory));
        free(memory);
    }
}

/* By hand, because realloc() leaves the old copy behind when it moves. */
void *wipe_realloc(void *memory, size_t size)
{
    size_t old_size = memory ? malloc_usable_size(memory) : 0;

    if (memory && size <= old_size && size >= old_size / 2)
        return memory;
    void *moved = malloc(size);
    if (moved && memory) {
        memcpy(moved, memory, old_size < size ? old_size : size);
        wipe_free(memory);
    }
    return moved;
}
