#include "retry.h"

#include <stdatomic.h>

enum {
    BACKOFF_MS = 500,
    BACKOFF_MAX_MS = 8000,
    RETRY_AFTER_MAX_MS = 120000,
    BUDGET_TENTHS = 1000,
};

static bool is_retried_status(int status)
{
    return status == 408 || status == 409 || status == 429 || (status >= 500 && status <= 599);
}

bool retry_is_free(const struct retry_facts *f, const struct retry_limits *l)
{
    return l->elsewhere && !f->was_sent;
}

static bool is_retried(const struct retry_facts *f, const struct retry_limits *l)
{
    if (retry_is_free(f, l))
        return true;
    if (f->is_final || l->n_taken >= l->max_retries)
        return false;
    if (f->http_status == 0)
        return !f->was_sent || l->resend;
    if (f->retry_after_ms > RETRY_AFTER_MAX_MS && !l->elsewhere)
        return false;
    if (f->should_retry)
        return f->should_retry == 't';
    return is_retried_status(f->http_status);
}

int64_t retry_delay_us(const struct retry_facts *f, const struct retry_limits *l, uint32_t chance)
{
    int64_t ms = BACKOFF_MS, us;

    if (!is_retried(f, l))
        return -1;
    if (l->elsewhere) {
        us = 0;
    } else if (f->http_status != 0 && f->retry_after_ms > 0) {
        us = f->retry_after_ms * 1000;
    } else {
        for (unsigned k = 0; k < l->n_taken && ms < BACKOFF_MAX_MS; k++)
            ms *= 2;
        us = ms * 1000 - ms * 250 * (int64_t)(chance % 1024) / 1023;
    }
    return us < l->left_us ? us : -1;
}

void retry_budget_init(struct retry_budget *b)
{
    b->tenths = BUDGET_TENTHS;
}

void retry_budget_earn(struct retry_budget *b)
{
    int tenths = b->tenths;

    while (tenths < BUDGET_TENTHS && !atomic_compare_exchange_weak(&b->tenths, &tenths, tenths + 1))
        ;
}

bool retry_budget_spend(struct retry_budget *b)
{
    int tenths = b->tenths;

    do {
        if (tenths < 10)
            return false;
    } while (!atomic_compare_exchange_weak(&b->tenths, &tenths, tenths - 10));
    return true;
}
