/*
 * A growable run of bytes: appended at the end, consumed from the front.
 *
 * It has a limit, and failures are sticky: once memory ran out or the limit would have been passed,
 * `error` is set, nothing more is appended, and what was there before stays readable. So a writer
 * appends all it has and asks once.
 *
 * Its memory may be charged to an account (memory.h), each growth before it is allocated. A buffer
 * may be moved by assignment: the account goes with the bytes.
 */
#ifndef BUFFER_H
#define BUFFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "memory.h"

struct buffer {
    uint8_t *data; /* allocated memory, NULL while there is none */
    size_t start;  /* first byte not consumed yet */
    size_t end;    /* one past the last byte */
    size_t capacity;
    size_t limit_bytes;    /* most bytes held at once */
    int error;             /* 0, -ENOMEM, -EMSGSIZE (limit_bytes), -EDQUOT (account used up) */
    struct memory *memory; /* what its capacity is charged to; NULL: to nothing */
    bool is_essential;     /* charged by memory_charge_essential() */
};

#define BUFFER_INIT(limit) BUFFER_INIT_IN(limit, NULL)
#define BUFFER_INIT_IN(limit, account)                                                             \
    ((struct buffer){.limit_bytes = (limit), .memory = (account)})

/* Frees the memory; the buffer is empty, without error and usable again, with the same limits. */
void buffer_done(struct buffer *b);

/* As buffer_done(), but wipes the bytes first: for what held a key. */
void buffer_wipe(struct buffer *b);

static inline size_t buffer_length(const struct buffer *b)
{
    return b->end - b->start;
}

/* The bytes; may be NULL if there are none. Valid until the next call that appends. */
static inline uint8_t *buffer_bytes(const struct buffer *b)
{
    return b->data ? b->data + b->start : NULL;
}

/* Space for n more bytes behind the end, or NULL (see error). Nothing is appended until
 * buffer_commit(). */
uint8_t *buffer_reserve_slow(struct buffer *b, size_t n);
static inline uint8_t *buffer_reserve(struct buffer *b, size_t n)
{
    if (__builtin_expect(!b->error && b->data && b->capacity - b->end >= n &&
                             b->limit_bytes - buffer_length(b) >= n,
                         1))
        return b->data + b->end;
    return buffer_reserve_slow(b, n);
}

/* n bytes that were written to reserved space are now part of the buffer. */
static inline void buffer_commit(struct buffer *b, size_t n)
{
    b->end += n;
}

static inline void buffer_append(struct buffer *b, const void *data, size_t n)
{
    uint8_t *p = buffer_reserve(b, n);
    if (p && n) {
        memcpy(p, data, n);
        b->end += n;
    }
}

static inline void buffer_append_byte(struct buffer *b, uint8_t byte)
{
    uint8_t *p = buffer_reserve(b, 1);
    if (p) {
        *p = byte;
        b->end++;
    }
}

void buffer_append_string(struct buffer *b, const char *s);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Drops n (at most all) bytes from the front. */
void buffer_consume(struct buffer *b, size_t n);

/* Drops what lies behind the first n bytes. */
static inline void buffer_truncate(struct buffer *b, size_t n)
{
    if (n < buffer_length(b))
        b->end = b->start + n;
}

/* Gives memory back if the buffer is empty and holds more than keep_bytes of it. */
void buffer_trim(struct buffer *b, size_t keep_bytes);

#endif
