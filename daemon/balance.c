#include "balance.h"

/* From the best to the worst. One that the call has asked already comes behind its equals. */
enum rank {
    RANK_WELL = 0,
    RANK_TRIAL = 2, /* whether it is well again is found out by a call that has not failed yet */
    RANK_RESTING = 4,
    RANK_UNREACHABLE = 6, /* and resting */
    RANK_OPEN = 8,
    RANK_NEVER = 10,
};

static enum rank rank_of(const struct load *l, bool has_failed, int64_t now_us)
{
    const struct breaker *b = &l->breaker;

    if (b->n_faults == 0)
        return RANK_WELL;
    if (breaker_wait_us(b, now_us) > 0)
        return RANK_NEVER;
    if (!breaker_is_resting(b, now_us))
        return has_failed ? RANK_TRIAL : RANK_WELL;
    return b->n_failures == 0 ? RANK_RESTING : !breaker_is_open(b) ? RANK_UNREACHABLE : RANK_OPEN;
}

int balance_choose(const struct balance *b, uint64_t tried, uint64_t chance, int64_t now_us,
                   int64_t *ret_wait_us)
{
    unsigned best_rank = RANK_NEVER;
    size_t best = 0, at = chance % b->n;
    int64_t wait_us = INT64_MAX;

    for (size_t i = 0; i < b->n; i++, at++) {
        if (at == b->n)
            at = 0;
        const struct load *l = b->loads[at];
        unsigned rank = rank_of(l, tried != 0, now_us);
        if (rank == RANK_NEVER) {
            int64_t this_us = breaker_wait_us(&l->breaker, now_us);
            wait_us = this_us < wait_us ? this_us : wait_us;
            continue;
        }
        rank += tried >> at & 1;
        if (rank < best_rank || (rank == best_rank && l->n_running < b->loads[best]->n_running)) {
            best_rank = rank;
            best = at;
        }
    }
    if (best_rank == RANK_NEVER) {
        *ret_wait_us = wait_us;
        return -1;
    }
    load_try(b->loads[best], now_us);
    return (int)best;
}

bool balance_has_other(const struct balance *b, uint64_t tried, int64_t now_us)
{
    for (size_t i = 0; i < b->n; i++)
        if (!(tried >> i & 1) && rank_of(b->loads[i], true, now_us) == RANK_WELL)
            return true;
    return false;
}

size_t balance_n_open(const struct balance *b)
{
    size_t n_open = 0;

    for (size_t i = 0; i < b->n; i++)
        n_open += breaker_is_open(&b->loads[i]->breaker);
    return n_open;
}
