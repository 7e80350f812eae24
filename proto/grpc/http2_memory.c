#include "http2_memory.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* As glibc rounds it up: a guess, which settle() corrects where it is wrong. */
static size_t rounded(size_t size)
{
    enum { HEAD = 8, UNIT = 16, LEAST = 24 };

    if (size > SIZE_MAX / 2)
        return size;
    size_t usable = (size + HEAD + UNIT - 1) / UNIT * UNIT - HEAD;
    return usable < LEAST ? LEAST : usable;
}

/* What the allocator will give is charged before, what it gave beyond that behind. The sum is what
 * can be found out again when the memory is freed. */
static void *settle(struct memory *m, void *p, size_t charged)
{
    size_t size = p ? malloc_usable_size(p) : 0;

    if (size == charged)
        return p;
    if (size < charged) {
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
    size_t charged = rounded(size);

    return memory_charge_essential(m, charged) ? settle(m, malloc(size), charged) : NULL;
}

static void *http2_calloc(size_t n, size_t size, void *m)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total))
        return NULL;
    size_t charged = rounded(total);
    return memory_charge_essential(m, charged) ? settle(m, calloc(n, size), charged) : NULL;
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
