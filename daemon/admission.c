#include "admission.h"

#include <assert.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    FEW = 4,          /* connections of one user that always find a place */
    REFUSED_MAX = 16, /* at once */
};

struct user {
    uid_t uid;
    size_t n;
};

static int compare(const void *a, const void *b)
{
    const struct user *left = a, *right = b;

    return (left->uid > right->uid) - (left->uid < right->uid);
}

void admission_init(struct admission *a, size_t max)
{
    *a = (struct admission){
        .max = max,
        .max_per_user = max - max / 4,
        .operator= geteuid(),
    };
}

void admission_done(struct admission *a)
{
    assert(a->n == 0 && a->n_refused == 0 && !a->users);
    (void)a;
}

/* NULL without memory. */
static struct user *user_get(struct admission *a, uid_t uid)
{
    struct user key = {.uid = uid};
    void *node = tsearch(&key, &a->users, compare);

    if (!node)
        return NULL;
    struct user **slot = node;
    if (*slot != &key)
        return *slot;
    struct user *user = malloc(sizeof *user);
    if (user)
        *user = key, *slot = user;
    else
        tdelete(&key, &a->users, compare);
    return user;
}

static void user_put(struct admission *a, struct user *user)
{
    if (user->n > 0)
        return;
    tdelete(user, &a->users, compare);
    free(user);
}

/* What is kept for others counts as taken. */
static bool has_place(const struct admission *a, const struct user *user)
{
    size_t kept = 0;

    if (user->uid != 0 && user->uid != a->operator)
        kept += a->max / 32 + 1;
    if (user->n >= FEW)
        kept += a->max / 8;
    return user->n < a->max_per_user && a->n + kept < a->max;
}

enum admission_verdict admission_enter(struct admission *a, uid_t uid)
{
    struct user *user = a->n < a->max ? user_get(a, uid) : NULL;

    if (user && has_place(a, user)) {
        user->n++;
        a->n++;
        return ADMISSION_WELCOME;
    }
    if (user)
        user_put(a, user);
    if (a->n_refused >= REFUSED_MAX)
        return ADMISSION_DROPPED;
    a->n_refused++;
    return ADMISSION_REFUSED;
}

void admission_leave(struct admission *a, uid_t uid, enum admission_verdict verdict)
{
    struct user key = {.uid = uid};

    if (verdict == ADMISSION_REFUSED) {
        a->n_refused--;
        return;
    }
    struct user **slot = tfind(&key, &a->users, compare);
    assert(slot && (*slot)->n > 0);
    (*slot)->n--;
    a->n--;
    user_put(a, *slot);
}
