#include "memory.h"

#include <assert.h>

/* They order nothing: the numbers stand for themselves. */
#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

static bool has_room(size_t used, size_t n, size_t limit, bool essential)
{
    size_t more = essential ? limit / 8 : 0;

    limit = more < SIZE_MAX - limit ? limit + more : SIZE_MAX;
    return used <= limit && n <= limit - used;
}

static bool take(struct memory *m, size_t n, bool essential)
{
    if (!m->is_shared) {
        if (!has_room(m->used, n, m->limit, essential))
            return false;
        m->used += n;
        return true;
    }
    size_t used = LOAD(m->used);
    do {
        if (!has_room(used, n, LOAD(m->limit), essential))
            return false;
    } while (!__atomic_compare_exchange_n(&m->used, &used, used + n, true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return true;
}

static void give(struct memory *m, size_t n)
{
    assert(memory_used(m) >= n);
    if (m->is_shared)
        __atomic_fetch_sub(&m->used, n, __ATOMIC_RELAXED);
    else
        m->used -= n;
}

static bool charge(struct memory *m, size_t n, bool essential)
{
    for (struct memory *i = m; i; i = i->parent) {
        if (take(i, n, essential))
            continue;
        for (; m != i; m = m->parent)
            give(m, n);
        return false;
    }
    return true;
}

bool memory_charge(struct memory *m, size_t n)
{
    return charge(m, n, false);
}

bool memory_charge_essential(struct memory *m, size_t n)
{
    return charge(m, n, true);
}

void memory_release(struct memory *m, size_t n)
{
    for (; m; m = m->parent)
        give(m, n);
}

void memory_set_limit(struct memory *m, size_t limit)
{
    __atomic_store_n(&m->limit, limit, __ATOMIC_RELAXED);
}

size_t memory_used(const struct memory *m)
{
    return LOAD(m->used);
}

size_t memory_limit(const struct memory *m)
{
    return LOAD(m->limit);
}
