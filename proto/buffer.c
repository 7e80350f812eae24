#include "buffer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST_BYTES = 256 };

static void release(struct buffer *b)
{
    free(b->data);
    memory_release(b->memory, b->capacity);
    b->data = NULL;
    b->start = b->end = b->capacity = 0;
}

void buffer_done(struct buffer *b)
{
    release(b);
    b->error = 0;
}

void buffer_wipe(struct buffer *b)
{
    if (b->data)
        explicit_bzero(b->data, b->capacity);
    buffer_done(b);
}

/* Twice as much until it is enough, but not more than will ever be held. */
static size_t next_capacity(const struct buffer *b, size_t needed)
{
    size_t capacity = b->capacity ? b->capacity : FIRST_BYTES;

    while (capacity < needed && capacity <= SIZE_MAX / 2)
        capacity += capacity;
    if (capacity > b->limit_bytes && b->capacity < b->limit_bytes)
        capacity = b->limit_bytes;
    return capacity > needed ? capacity : needed;
}

static bool charge(struct buffer *b, size_t n)
{
    return b->is_essential ? memory_charge_essential(b->memory, n) : memory_charge(b->memory, n);
}

/* Charges the difference. Where an account has no room for a doubling it may have some for less;
 * by an eighth, so that many small steps still cost no more than a few copies of each byte. */
static bool charge_growth(struct buffer *b, size_t needed, size_t *capacity)
{
    if (*capacity <= b->capacity || charge(b, *capacity - b->capacity))
        return true;
    size_t less = needed + needed / 8;
    if (less >= *capacity || !charge(b, less - b->capacity))
        return false;
    *capacity = less;
    return true;
}

static int grow(struct buffer *b, size_t needed)
{
    size_t length = buffer_length(b), capacity = next_capacity(b, needed);

    /* No machine has it. */
    if (capacity > PTRDIFF_MAX / 2)
        return -ENOMEM;
    if (!charge_growth(b, needed, &capacity))
        return -EDQUOT;
    uint8_t *data = malloc(capacity);
    if (!data) {
        if (capacity > b->capacity)
            memory_release(b->memory, capacity - b->capacity);
        return -ENOMEM;
    }
    if (length)
        memcpy(data, b->data + b->start, length);
    free(b->data);
    b->data = data;
    b->capacity = capacity;
    b->start = 0;
    b->end = length;
    return 0;
}

uint8_t *buffer_reserve_slow(struct buffer *b, size_t n)
{
    size_t length = buffer_length(b);

    if (b->error)
        return NULL;
    if (n > b->limit_bytes - length) {
        b->error = -EMSGSIZE;
        return NULL;
    }
    if (b->data && b->capacity - b->end >= n)
        return b->data + b->end;

    /* Moving pays only where it frees at least as much as it copies. */
    if (b->data && b->start >= length && b->capacity - length >= n) {
        memmove(b->data, b->data + b->start, length);
        b->start = 0;
        b->end = length;
        return b->data + b->end;
    }

    b->error = grow(b, length + n);
    return b->error ? NULL : b->data + b->end;
}

void buffer_append_string(struct buffer *b, const char *s)
{
    buffer_append(b, s, strlen(s));
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0)
        return;
    if ((size_t)n < sizeof text) {
        buffer_append(b, text, (size_t)n);
        return;
    }

    char *longer;
    va_start(args, format);
    n = vasprintf(&longer, format, args);
    va_end(args);
    if (n < 0) {
        b->error = b->error ? b->error : -ENOMEM;
        return;
    }
    buffer_append(b, longer, (size_t)n);
    free(longer);
}

void buffer_consume(struct buffer *b, size_t n)
{
    if (n < buffer_length(b)) {
        b->start += n;
        return;
    }
    b->start = b->end = 0;
}

void buffer_trim(struct buffer *b, size_t keep_bytes)
{
    if (b->data && buffer_length(b) == 0 && b->capacity > keep_bytes)
        release(b);
}
