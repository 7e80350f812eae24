/*
 * An account of memory: how many bytes are in use, and how many may be. Accounts form a tree, from
 * one connection to its user to the whole daemon; what is charged to one is charged to all above
 * it.
 *
 * It counts and allocates nothing: whoever allocates charges first, and releases after freeing. An
 * account outlives all that is charged to it. One that is shared may be charged, read and limited
 * by several threads at once, all others by one.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memory {
    size_t used, limit;    /* bytes; SIZE_MAX is no limit */
    struct memory *parent; /* NULL: none; shared if this one is */
    bool is_shared;
};

#define MEMORY_INIT(bytes, above) ((struct memory){.limit = (bytes), .parent = (above)})

/* n bytes are about to be allocated: true if all accounts of the chain allow it, and then all of
 * them have it on them, else none. NULL allows everything. */
bool memory_charge(struct memory *m, size_t n);

/* The same for what it takes to end things in an orderly way, and so to get memory back: each limit
 * may be passed by an eighth. */
bool memory_charge_essential(struct memory *m, size_t n);

/* n bytes that were charged are free again. Takes NULL. */
void memory_release(struct memory *m, size_t n);

/* May be lowered below what is used. */
void memory_set_limit(struct memory *m, size_t limit);

size_t memory_used(const struct memory *m);
size_t memory_limit(const struct memory *m);

#endif
