#include "admission.h"

#include <stdbool.h>
#include <unistd.h>

enum {
    FEW = 4,          /* connections of one user that always find a place */
    REFUSED_MAX = 16, /* at once */
};

void admission_init(struct admission *a, size_t max)
{
    *a = (struct admission){.max = max};
    a->operator= geteuid();
}

/* What is kept for others counts as taken. */
static bool has_place(const struct admission *a, uid_t uid, size_t n_of_user)
{
    size_t kept = 0;

    if (uid != 0 && uid != a->operator)
        kept += a->max / 32 + 1;
    if (n_of_user >= FEW)
        kept += a->max / 8;
    return n_of_user < a->max - a->max / 4 && a->n + kept < a->max;
}

enum admission_verdict admission_enter(struct admission *a, uid_t uid, size_t n_of_user,
                                       size_t max_of_user)
{
    if (n_of_user < max_of_user && has_place(a, uid, n_of_user)) {
        a->n++;
        return ADMISSION_WELCOME;
    }
    if (a->n_refused >= REFUSED_MAX)
        return ADMISSION_DROPPED;
    a->n_refused++;
    return ADMISSION_REFUSED;
}

void admission_leave(struct admission *a, enum admission_verdict verdict)
{
    if (verdict == ADMISSION_REFUSED)
        a->n_refused--;
    else
        a->n--;
}
