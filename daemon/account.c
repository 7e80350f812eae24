#include "account.h"

#include <search.h>
#include <stdlib.h>

enum { SWEEP_LEAST = 64, DEBT_MINUTES = 10 };

#define UNIT INT64_C(60000000) /* one, in the unit of rate.level */
/* Above this a minute's worth does not fit the unit; nobody needs a limit there. */
#define RATE_MAX (INT64_MAX / 16 / UNIT)

/* ---- Rates ---- */

static void rate_refill(struct rate *r, int64_t now_us)
{
    int64_t full = r->per_minute * UNIT, gained;

    if (__builtin_mul_overflow(now_us - r->at_us, r->per_minute, &gained) ||
        gained > full - r->level)
        r->level = full;
    else
        r->level += gained;
    r->at_us = now_us;
}

int64_t rate_take(struct rate *r, int64_t per_minute, int64_t n, int64_t now_us)
{
    if (per_minute > RATE_MAX) {
        *r = (struct rate){0}; /* what was left of a limit that is no more tells nothing */
        return 0;
    }
    if (r->per_minute == 0) {
        *r = (struct rate){per_minute, per_minute * UNIT, now_us};
    } else if (r->per_minute != per_minute) {
        /* The configuration was changed: what was used of the old limit stays used. */
        rate_refill(r, now_us);
        r->level += (per_minute - r->per_minute) * UNIT;
        r->per_minute = per_minute;
    }
    rate_refill(r, now_us);
    if (n > per_minute)
        return -1;
    if (r->level < n * UNIT)
        return (n * UNIT - r->level + per_minute - 1) / per_minute;
    r->level -= n * UNIT;
    return 0;
}

void rate_settle(struct rate *r, int64_t n)
{
    int64_t full = r->per_minute * UNIT, least = -DEBT_MINUTES * full, units;

    if (r->per_minute == 0)
        return;
    /* Upstreams have reported nonsense: nobody pays for it for ever. */
    if (__builtin_mul_overflow(n, UNIT, &units) ||
        __builtin_add_overflow(r->level, units, &r->level))
        r->level = n < 0 ? least : full;
    if (r->level < least)
        r->level = least;
    if (r->level > full)
        r->level = full;
}

int64_t rate_left(struct rate *r, int64_t now_us)
{
    if (r->per_minute == 0)
        return INT64_MAX;
    rate_refill(r, now_us);
    return r->level / UNIT;
}

static bool rate_has_recovered(struct rate *r, int64_t now_us)
{
    return rate_left(r, now_us) >= r->per_minute;
}

/* ---- Accounts ---- */

void accounts_init(struct accounts *a, struct memory *total)
{
    *a = (struct accounts){.total = total, .n_at_sweep = SWEEP_LEAST};
}

void accounts_done(struct accounts *a)
{
    tdestroy(a->tree, free);
    a->tree = NULL;
}

static int compare(const void *x, const void *y)
{
    uid_t a = ((const struct account *)x)->uid, b = ((const struct account *)y)->uid;

    return a < b ? -1 : a > b;
}

struct sweep {
    int64_t now_us;
    struct account *idle;
};

static void find_idle(const void *node, VISIT visit, void *user)
{
    struct account *account = *(struct account *const *)node;
    struct sweep *s = user;

    if ((visit == postorder || visit == leaf) && account->n_refs == 0 &&
        rate_has_recovered(&account->requests, s->now_us) &&
        rate_has_recovered(&account->tokens, s->now_us)) {
        account->next_idle = s->idle;
        s->idle = account;
    }
}

/* Forgets users that have been away long enough. Rare: when their number has doubled. */
static void sweep(struct accounts *a, int64_t now_us)
{
    struct sweep s = {.now_us = now_us};
    struct account *account;

    twalk_r(a->tree, find_idle, &s);
    while ((account = s.idle)) {
        s.idle = account->next_idle;
        tdelete(account, &a->tree, compare);
        free(account);
        a->n--;
    }
    a->n_at_sweep = 2 * a->n > SWEEP_LEAST ? 2 * a->n : SWEEP_LEAST;
}

struct account *accounts_get(struct accounts *a, uid_t uid, int64_t now_us)
{
    const struct account key = {.uid = uid};
    struct account *const *found = tfind(&key, &a->tree, compare);

    if (found)
        return account_ref(*found);
    if (a->n >= a->n_at_sweep)
        sweep(a, now_us);
    struct account *account = calloc(1, sizeof *account);
    if (!account)
        return NULL;
    account->uid = uid;
    account->n_refs = 1;
    account->memory = MEMORY_INIT(SIZE_MAX, a->total);
    LIST_INIT(&account->lanes);
    if (!tsearch(account, &a->tree, compare)) {
        free(account);
        return NULL;
    }
    a->n++;
    return account;
}

struct walk {
    void (*each)(const struct account *account, void *user);
    void *user;
};

static void visit_account(const void *node, VISIT visit, void *user)
{
    const struct account *account = *(struct account *const *)node;
    const struct walk *w = user;

    if ((visit == postorder || visit == leaf) && account->n_refs > 0)
        w->each(account, w->user);
}

void accounts_walk(const struct accounts *a,
                   void (*each)(const struct account *account, void *user), void *user)
{
    struct walk w = {.each = each, .user = user};

    twalk_r(a->tree, visit_account, &w);
}

struct account *account_ref(struct account *account)
{
    account->n_refs++;
    return account;
}

struct account *account_unref(struct account *account)
{
    if (account)
        account->n_refs--;
    return NULL;
}
