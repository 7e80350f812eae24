/*
 * malloc() and its kin in front of the C library's, or of the sanitizer's. What lies in the program
 * itself is found first, so that libraries get these too.
 */
#include "failing_memory.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#define REAL(name) __interceptor_##name
#else
#define REAL(name) __libc_##name
#endif
#define INTERPOSED __attribute__((visibility("default"), no_sanitize_address))

void *REAL(malloc)(size_t size);
void *REAL(calloc)(size_t n, size_t size);
void *REAL(realloc)(void *p, size_t size);

static _Thread_local struct {
    bool on, for_ever, failed;
    unsigned n, fail_at;
} meter;

/* The dynamic linker comes here too, before a sanitizer is ready. */
__attribute__((no_sanitize_address)) static bool fails(void)
{
    if (!meter.on)
        return false;
    meter.n++;
    if (meter.for_ever ? meter.n < meter.fail_at : meter.n != meter.fail_at)
        return false;
    meter.failed = true;
    errno = ENOMEM;
    return true;
}

INTERPOSED void *malloc(size_t size)
{
    return fails() ? NULL : REAL(malloc)(size);
}

INTERPOSED void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : REAL(calloc)(n, size);
}

INTERPOSED void *realloc(void *p, size_t size)
{
    return fails() ? NULL : REAL(realloc)(p, size);
}

INTERPOSED void *reallocarray(void *p, size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, total);
}

bool failing_memory_next(struct failing_memory *m)
{
    if (m->fail_at > 0 && !m->failed) {
        if (m->for_ever)
            return false;
        m->for_ever = true;
        m->fail_at = 0;
    }
    m->fail_at++;
    return true;
}

void failing_memory_begin(const struct failing_memory *m)
{
    meter.n = 0;
    meter.fail_at = m->fail_at;
    meter.for_ever = m->for_ever;
    meter.failed = false;
    meter.on = true;
}

bool failing_memory_end(struct failing_memory *m)
{
    meter.on = false;
    m->failed = meter.failed;
    return m->failed;
}
