/*
 * Allocations that fail when the test says so: malloc() and its kin, for all that the program is
 * linked with, libraries too. Other threads get what they ask for.
 *
 *     for (struct failing_memory m = {0}; failing_memory_next(&m);) {
 *         failing_memory_begin(&m);
 *         int r = what_is_tested();
 *         bool failed = failing_memory_end(&m);
 *         ...
 *     }
 *
 * runs what is tested with its first allocation failing, then with the second, ... until one more
 * than it needs; then again from the first, but with all behind that failing too.
 */
#ifndef FAILING_MEMORY_H
#define FAILING_MEMORY_H

#include <stdbool.h>

struct failing_memory {
    unsigned fail_at;
    bool for_ever; /* once one has failed, all do */
    bool failed;   /* an allocation of this turn has */
};

/* True if there is another turn. */
bool failing_memory_next(struct failing_memory *m);

/* From here ... */
void failing_memory_begin(const struct failing_memory *m);
/* ... to here. True if an allocation has failed. */
bool failing_memory_end(struct failing_memory *m);

#endif
