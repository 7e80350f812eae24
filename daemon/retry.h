/*
 * Whether a request is sent again, and when: the official SDKs' rules. Pure: no clock, no events,
 * no state but a budget.
 *
 * openai-python (src/openai/_base_client.py): 408, 409, 429 and 5xx, connection errors and time
 * outs, until the response's head has come; `x-should-retry` overrides the status; waits
 * `retry-after-ms` or `retry-after` if that is within two minutes, and does not retry at all if it
 * is longer; else 0.5 s * 2^k, at most 8 s, less up to a quarter by chance.
 */
#ifndef RETRY_H
#define RETRY_H

#include <stdbool.h>
#include <stdint.h>

/* What is known of an attempt that failed. */
struct retry_facts {
    int http_status;        /* 0: no head came */
    char should_retry;      /* x-should-retry: 't', 'f' or 0 */
    int64_t retry_after_ms; /* what the upstream asked for; -1: nothing */
    bool was_sent;          /* at least a part of the request may have reached the upstream */
    bool is_final; /* no repetition can help: quota, a certificate, a chunk was forwarded */
};

/* What the configuration and the call allow. */
struct retry_limits {
    unsigned max_retries;
    bool resend;      /* a request whose fate is unknown may be sent again */
    unsigned n_taken; /* retries of this call so far */
    int64_t left_us;  /* until the caller's deadline; INT64_MAX: none */
    bool elsewhere;   /* a server that this call has not asked would get the next attempt */
};

/* The request never left, and there is another server: that one gets it as the next address of a
 * name would, and it counts as no retry. */
bool retry_is_free(const struct retry_facts *facts, const struct retry_limits *limits);

/* How long to wait before the next attempt, in microseconds; -1: there is none. Another server is
 * asked at once: the SDKs' rules give the same one time to recover. chance: any number, for the
 * jitter. */
int64_t retry_delay_us(const struct retry_facts *facts, const struct retry_limits *limits,
                       uint32_t chance);

/*
 * An upstream's budget: retries may be a tenth of the calls, and a hundred beyond that, so that an
 * upstream which is down is not asked three times as often as one which is up. Threads may share
 * it.
 */
struct retry_budget {
    _Atomic int tenths;
};

void retry_budget_init(struct retry_budget *b);
/* A call was made. */
void retry_budget_earn(struct retry_budget *b);
/* False: no retry now. */
bool retry_budget_spend(struct retry_budget *b);

#endif
