/* Which failures there are: for each function, the errors that it may plausibly report. */
#ifndef PLAN_H
#define PLAN_H

#include <stddef.h>

#include "control.h"

/* One function failing in one way. */
struct plan {
    enum control_function function;
    int error;
    long repeats; /* LONG_MAX: for ever */
};

/* Calls with each of them. Errors that only say "again" come once, and twenty times on end: for
 * ever they would be a kernel that is broken. */
void plan_each(void (*each)(const struct plan *plan, void *user), void *user);

const char *plan_function_name(int function);
/* "EMFILE", "short" */
const char *plan_error_name(const struct plan *plan);
/* "once", "20 times", "for ever" */
const char *plan_repeats_name(const struct plan *plan);

#endif
