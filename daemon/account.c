#include "account.h"

#include <errno.h>
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
    *a = (struct accounts){
        .lock = PTHREAD_MUTEX_INITIALIZER, .total = total, .n_at_sweep = SWEEP_LEAST};
}

void accounts_done(struct accounts *a)
{
    tdestroy(a->tree, free);
    a->tree = NULL;
}

void accounts_lock(struct accounts *a)
{
    pthread_mutex_lock(&a->lock);
}

void accounts_unlock(struct accounts *a)
{
    pthread_mutex_unlock(&a->lock);
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

static struct account *account_new(struct accounts *a, uid_t uid)
{
    struct account *account = calloc(1, sizeof *account);

    if (!account)
        return NULL;
    account->accounts = a;
    account->uid = uid;
    account->n_refs = 1;
    account->memory = MEMORY_INIT(SIZE_MAX, a->total);
    account->memory.is_shared = a->total->is_shared;
    LIST_INIT(&account->lanes);
    if (!tsearch(account, &a->tree, compare)) {
        free(account);
        return NULL;
    }
    a->n++;
    return account;
}

struct account *accounts_get(struct accounts *a, uid_t uid, int64_t now_us)
{
    const struct account key = {.uid = uid};
    struct account *account;

    accounts_lock(a);
    struct account *const *found = tfind(&key, &a->tree, compare);
    if (!found && a->n >= a->n_at_sweep)
        sweep(a, now_us);
    account = found ? account_ref(*found) : account_new(a, uid);
    accounts_unlock(a);
    return account;
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

/* ---- Taking ---- */

static enum account_answer take(struct account *account, int64_t requests_per_minute,
                                int64_t tokens_per_minute, int64_t tokens, int64_t now_us,
                                int64_t *ret_wait_us)
{
    int64_t wait_us = rate_take(&account->requests, requests_per_minute, 1, now_us);

    if (wait_us != 0) {
        *ret_wait_us = wait_us;
        return ACCOUNT_REQUESTS_USED_UP;
    }
    wait_us = rate_take(&account->tokens, tokens_per_minute, tokens, now_us);
    if (wait_us != 0) {
        rate_settle(&account->requests, 1);
        *ret_wait_us = wait_us;
        return ACCOUNT_TOKENS_USED_UP;
    }
    return ACCOUNT_TAKEN;
}

enum account_answer account_take(struct account *account, int64_t requests_per_minute,
                                 int64_t tokens_per_minute, int64_t tokens, int64_t now_us,
                                 int64_t *ret_wait_us)
{
    accounts_lock(account->accounts);
    enum account_answer answer =
        take(account, requests_per_minute, tokens_per_minute, tokens, now_us, ret_wait_us);
    accounts_unlock(account->accounts);
    return answer;
}

void account_settle(struct account *account, int64_t tokens)
{
    accounts_lock(account->accounts);
    rate_settle(&account->tokens, tokens);
    accounts_unlock(account->accounts);
}

/* ---- Looking ---- */

static struct account_state look(const struct account *account, int64_t now_us)
{
    struct rate requests = account->requests, tokens = account->tokens;

    return (struct account_state){
        .uid = account->uid,
        .n_connections = account->n_connections,
        .n_running = account->n_running,
        .n_queued = account->n_queued,
        .memory_used = memory_used(&account->memory),
        .memory_limit = memory_limit(&account->memory),
        .requests_left = rate_left(&requests, now_us),
        .tokens_left = rate_left(&tokens, now_us),
    };
}

struct account_state account_look(struct account *account, int64_t now_us)
{
    accounts_lock(account->accounts);
    struct account_state state = look(account, now_us);
    accounts_unlock(account->accounts);
    return state;
}

struct walk {
    int64_t now_us;
    struct account_state *states;
    size_t n, n_max;
};

static void visit_account(const void *node, VISIT visit, void *user)
{
    struct account *account = *(struct account *const *)node;
    struct walk *w = user;

    if ((visit == postorder || visit == leaf) && account->n_refs > 0 && w->n < w->n_max)
        w->states[w->n++] = look(account, w->now_us);
}

int accounts_look(struct accounts *a, int64_t now_us, struct account_state **ret, size_t *ret_n)
{
    struct walk w = {.now_us = now_us};

    accounts_lock(a);
    w.n_max = a->n;
    accounts_unlock(a);
    w.states = calloc(w.n_max ? w.n_max : 1, sizeof *w.states);
    if (!w.states)
        return -ENOMEM;
    /* Whoever came in between is left out. */
    accounts_lock(a);
    twalk_r(a->tree, visit_account, &w);
    accounts_unlock(a);
    *ret = w.states;
    *ret_n = w.n;
    return 0;
}
