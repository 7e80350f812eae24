#include "memory.h"

#include <assert.h>

static bool charge(struct memory *m, size_t n, bool essential)
{
    for (const struct memory *i = m; i; i = i->parent) {
        size_t limit = i->limit, more = essential ? limit / 8 : 0;
        limit = more < SIZE_MAX - limit ? limit + more : SIZE_MAX;
        if (i->used > limit || n > limit - i->used)
            return false;
    }
    for (; m; m = m->parent)
        m->used += n;
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
    for (; m; m = m->parent) {
        assert(m->used >= n);
        m->used -= n;
    }
}
