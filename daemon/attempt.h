/*
 * The way out of a completion call: it waits for its turn, asks its upstream, and, where that fails
 * and may be repeated, asks again after a while. What the upstream answers is answer.c's.
 *
 *     OUTSIDE ──begin──► (waiting for a turn) ──► asking ──► ... the answer
 *                                                 ▲    │
 *                                                 └────┘ again, after a while
 */
#ifndef ATTEMPT_H
#define ATTEMPT_H

#include <stdbool.h>

struct buffer;
struct call;
struct policy;
struct retry_facts;

/* Takes over the body. Fails the call if it can't even wait. */
void attempt_begin(struct call *call, struct buffer *body, const struct policy *policy);

/* After an attempt that failed, for this reason: true, and it will be repeated; false, and the call
 * has to end. */
bool attempt_again(struct call *call, const struct retry_facts *facts, const char *reason);

/* The call is over, for this reason: gives its turn to others, and stops its transfer; or, if the
 * reason is NULL and so the upstream has said all, lets the transfer come to its end so that its
 * connection can be used again. */
void attempt_stop(struct call *call, const char *reason);

/* The caller's deadline has passed. */
void attempt_expired(struct call *call);

#endif
