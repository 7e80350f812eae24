#include "memory.h"

#include <assert.h>

bool memory_charge(struct memory *m, size_t n)
{
    for (const struct memory *i = m; i; i = i->parent)
        if (i->used > i->limit || n > i->limit - i->used)
            return false;
    for (; m; m = m->parent)
        m->used += n;
    return true;
}

void memory_release(struct memory *m, size_t n)
{
    for (; m; m = m->parent) {
        assert(m->used >= n);
        m->used -= n;
    }
}
