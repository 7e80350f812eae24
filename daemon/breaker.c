#include "breaker.h"

enum {
    FAILURES_MAX = 8,
    FAULTS_TOLD = 2,
    PAUSE_US = 1000000,
    REST_US = 1000000,
    REST_MAX_US = 30000000,
    ASKED_MAX_US = 120000000, /* who asks for more may have meant one caller */
};

bool breaker_is_open(const struct breaker *b)
{
    return b->n_failures >= FAILURES_MAX;
}

int64_t breaker_wait_us(const struct breaker *b, int64_t now_us)
{
    int64_t next_us = b->next_us;

    return breaker_is_open(b) && now_us < next_us ? next_us - now_us : 0;
}

/* After this many faults in a row. */
static int64_t rest_of(unsigned n_faults)
{
    int64_t rest_us = REST_US;

    for (unsigned i = 1; i < n_faults && rest_us < REST_MAX_US; i++)
        rest_us *= 2;
    return rest_us < REST_MAX_US ? rest_us : REST_MAX_US;
}

void breaker_try(struct breaker *b, int64_t now_us)
{
    if (breaker_is_open(b))
        b->next_us = now_us + PAUSE_US;
    if (b->n_faults > 0 && !breaker_is_resting(b, now_us))
        b->rest_us = now_us + rest_of(b->n_faults);
}

static unsigned recover(struct breaker *b)
{
    unsigned change =
        (breaker_is_open(b) ? BREAKER_CLOSED : 0) | (b->n_faults >= FAULTS_TOLD ? BREAKER_WELL : 0);

    b->n_failures = 0;
    b->n_faults = 0;
    b->rest_us = b->counted_us = 0;
    return change;
}

unsigned breaker_report(struct breaker *b, bool reached, int64_t now_us)
{
    unsigned change = 0;

    if (reached)
        return b->n_failures > 0 ? recover(b) : 0;
    b->next_us = now_us + PAUSE_US;
    if (!breaker_is_open(b)) {
        b->n_failures++;
        change = breaker_is_open(b) ? BREAKER_OPENED : 0;
    }
    return change | breaker_fault(b, 0, now_us);
}

unsigned breaker_fault(struct breaker *b, int64_t least_us, int64_t now_us)
{
    int64_t rest_us;

    /* Calls that were on their way when it began. */
    if (now_us < b->counted_us)
        return 0;
    b->n_faults++;
    rest_us = rest_of(b->n_faults);
    if (rest_us < least_us)
        rest_us = least_us < ASKED_MAX_US ? least_us : ASKED_MAX_US;
    b->rest_us = b->counted_us = now_us + rest_us;
    return b->n_faults == FAULTS_TOLD ? BREAKER_FAILS : 0;
}

unsigned breaker_recover(struct breaker *b, int64_t now_us)
{
    return b->n_failures == 0 && now_us >= b->counted_us ? recover(b) : 0;
}
