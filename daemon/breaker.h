/*
 * Whether an upstream is worth a connection: after several connections in a row that could not be
 * made, calls fail at once, but for one a second that finds out whether the upstream is back. Pure.
 */
#ifndef BREAKER_H
#define BREAKER_H

#include <stdbool.h>
#include <stdint.h>

struct breaker {
    unsigned n_failures; /* in a row */
    int64_t next_us;     /* when the next call may find out */
};

/* 0: go on; else the microseconds until that may change. */
int64_t breaker_wait_us(struct breaker *b, int64_t now_us);

/* How a connection went. True: that has opened or closed the breaker. */
bool breaker_report(struct breaker *b, bool reached, int64_t now_us);

bool breaker_is_open(const struct breaker *b);

#endif
