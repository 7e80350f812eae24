#include "http2_memory.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* What is asked for is charged before, what the allocator rounds it up to behind. The latter is
 * what can be found out again when the memory is freed. */
static void *settle(struct memory *m, void *p, size_t charged)
{
    size_t size = p ? malloc_usable_size(p) : 0;

    if (size <= charged) {
        memory_release(m, charged - size);
        return p;
    }
    if (memory_charge_essential(m, size - charged))
        return p;
    free(p);
    memory_release(m, charged);
    return NULL;
}

static void *http2_malloc(size_t size, void *m)
{
    return memory_charge_essential(m, size) ? settle(m, malloc(size), size) : NULL;
}

static void *http2_calloc(size_t n, size_t size, void *m)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total) || !memory_charge_essential(m, total))
        return NULL;
    return settle(m, calloc(n, size), total);
}

static void http2_free(void *p, void *m)
{
    size_t size = p ? malloc_usable_size(p) : 0;

    /* Headers are decoded into it, and metadata may hold a key. One that the client did not send as
     * never indexed stays in HPACK's table until others push it out or the connection ends. */
    if (p)
        explicit_bzero(p, size);
    free(p);
    memory_release(m, size);
}

static void *http2_realloc(void *p, size_t size, void *m)
{
    size_t old_size = p ? malloc_usable_size(p) : 0;
    void *grown = http2_malloc(size, m);

    /* By hand, so that a refusal leaves the old one as it was. */
    if (grown && p) {
        memcpy(grown, p, old_size < size ? old_size : size);
        http2_free(p, m);
    }
    return grown;
}

nghttp2_mem http2_memory(struct memory *account)
{
    return (nghttp2_mem){
        .mem_user_data = account,
        .malloc = http2_malloc,
        .free = http2_free,
        .calloc = http2_calloc,
        .realloc = http2_realloc,
    };
}
