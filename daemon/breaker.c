#include "breaker.h"

enum { FAILURES_MAX = 8, PAUSE_US = 1000000 };

bool breaker_is_open(const struct breaker *b)
{
    return b->n_failures >= FAILURES_MAX;
}

int64_t breaker_wait_us(struct breaker *b, int64_t now_us)
{
    if (!breaker_is_open(b))
        return 0;
    if (now_us < b->next_us)
        return b->next_us - now_us;
    b->next_us = now_us + PAUSE_US;
    return 0;
}

bool breaker_report(struct breaker *b, bool reached, int64_t now_us)
{
    bool was_open = breaker_is_open(b);

    if (reached) {
        b->n_failures = 0;
    } else {
        b->n_failures += b->n_failures < FAILURES_MAX;
        b->next_us = now_us + PAUSE_US;
    }
    return breaker_is_open(b) != was_open;
}
