#include "event_memory.h"

#include <event2/event.h>
#include <stdlib.h>

#include "wipe.h"

/* A connection and its first request take about twenty blocks, each smaller than this. */
enum { BLOCKS = 48, BLOCK_BYTES = 1024 };

static _Thread_local struct {
    void *blocks[BLOCKS];
    size_t n;
    unsigned long n_refused;
} reserve;

static void *event_malloc(size_t size)
{
    void *memory = malloc(size);

    if (!memory && size <= BLOCK_BYTES && reserve.n > 0)
        memory = reserve.blocks[--reserve.n];
    if (!memory && size > 0)
        reserve.n_refused++;
    return memory;
}

static void *event_realloc(void *memory, size_t size)
{
    void *grown = memory ? wipe_realloc(memory, size) : event_malloc(size);

    if (!grown && memory && size > 0)
        reserve.n_refused++;
    return grown;
}

void event_memory_init(void)
{
    event_set_mem_functions(event_malloc, event_realloc, wipe_free);
}

bool event_memory_reserve(void)
{
    while (reserve.n < BLOCKS) {
        void *block = malloc(BLOCK_BYTES);
        if (!block)
            return false;
        reserve.blocks[reserve.n++] = block;
    }
    return true;
}

void event_memory_release(void)
{
    while (reserve.n > 0)
        free(reserve.blocks[--reserve.n]);
}

unsigned long event_memory_n_refused(void)
{
    return reserve.n_refused;
}
