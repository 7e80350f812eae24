/*
 * How a server has been lately, from what calls to it came to. Pure.
 *
 * After several connections in a row that could not be made it is open: not worth a connection, but
 * for one a second that finds out whether the server is back. Long before that, where there are
 * other servers, it rests: after a fault calls go elsewhere for a second, and for twice as long
 * each time that the fault is still there then, up to half a minute. One call finds out; others go
 * on keeping away meanwhile.
 *
 * Other threads may read at any time. Changing is for one at a time: see load.h.
 */
#ifndef BREAKER_H
#define BREAKER_H

#include <stdbool.h>
#include <stdint.h>

struct breaker {
    _Atomic unsigned n_failures; /* connections in a row that could not be made */
    _Atomic unsigned n_faults;   /* in a row; those of one rest count as one */
    _Atomic int64_t next_us;     /* when the next call may find out, while it is open */
    _Atomic int64_t rest_us;     /* until then it rests */
    int64_t counted_us;          /* faults before that are the same as the last */
};

/* What has just become of it: what the log is told. */
enum {
    BREAKER_OPENED = 1,
    BREAKER_CLOSED = 2,
    BREAKER_FAILS = 4, /* a second rest in a row: it is no hiccup */
    BREAKER_WELL = 8,  /* after that */
};

/* 0: go on; else the microseconds until that may change. */
int64_t breaker_wait_us(const struct breaker *b, int64_t now_us);

/* A call goes there, which others need not do before it is known how this one fared. */
void breaker_try(struct breaker *b, int64_t now_us);

/* The following return BREAKER_ bits. */

/* How a connection went. */
unsigned breaker_report(struct breaker *b, bool reached, int64_t now_us);

/* It broke off, was silent, or wants to be left alone, at least so long. */
unsigned breaker_fault(struct breaker *b, int64_t least_us, int64_t now_us);

/* It has answered as it should. That says nothing while it rests for the first time after a fault:
 * the call may have been there before. */
unsigned breaker_recover(struct breaker *b, int64_t now_us);

bool breaker_is_open(const struct breaker *b);

static inline bool breaker_is_resting(const struct breaker *b, int64_t now_us)
{
    return now_us < b->rest_us;
}

#endif
