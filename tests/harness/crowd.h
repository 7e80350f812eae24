/*
 * Many callers at once, on one thread and without blocking: each has a connection and a few calls
 * on it, unary and streamed, and does what callers do: reads slowly, cancels, runs out of time,
 * goes away without a word, comes back. It counts what comes of it, and fails nothing: a daemon may
 * be killed under it.
 *
 * A call's prompt is "call NUMBER", and its max_tokens the number of chunks that it wants.
 */
#ifndef CROWD_H
#define CROWD_H

#include <stdbool.h>
#include <stdint.h>

#include "fake.h"
#include "grpc_status.h"

struct crowd;

struct crowd_options {
    const char *socket; /* path */
    const char *model;
    unsigned n_callers;
    unsigned n_calls; /* of each at once */
    uint32_t seed;
    /* Of a hundred calls. */
    unsigned streamed, cancelled, timed;
    /* Of a hundred ends of calls, after which the caller closes without a word, or reads nothing
     * for a while. */
    unsigned leaving, sleeping;
};

struct crowd_counts {
    uint64_t n_connected;
    uint64_t n_refused; /* connect() found nobody who listens */
    uint64_t n_started, n_ended;
    uint64_t n_unprocessed; /* of those that ended: the daemon provably had not begun them */
    uint64_t n_abandoned;   /* of those that ended: their caller went away */
    uint64_t by_status[17];
    uint64_t n_torn;    /* OK, and yet not whole: there must be none */
    int64_t longest_ms; /* of one call */
};

/* options is copied, its texts are not. */
struct crowd *crowd_new(const struct crowd_options *options);
/* Takes NULL; returns NULL. */
struct crowd *crowd_free(struct crowd *c);

/* Starts what is to be started, and moves bytes: waits for them at most so long. */
void crowd_turn(struct crowd *c, int timeout_ms);
/* crowd_turn() until so many more calls have ended; false: it took too long. */
bool crowd_run(struct crowd *c, uint64_t n_more);
/* crowd_turn() for a while. */
void crowd_run_for(struct crowd *c, int ms);
/* Starts nothing new until all that runs has ended, and closes; false: a call did not end in time.
 */
bool crowd_settle(struct crowd *c);

const struct crowd_counts *crowd_counts(const struct crowd *c);
unsigned crowd_n_running(const struct crowd *c);

/* For any thread: for how long the call of this number has been over, 0 while it is not. Holds for
 * the last million calls. */
int64_t crowd_over_for_ms(const struct crowd *c, uint64_t number);

/* ---- An upstream for it ---- */

/* The number in the body of a request of the crowd's; 0: there is none. */
uint64_t crowd_number(const char *body);

/* Answers one request with as many chunks as it wants, or whole. False: the connection is of no use
 * any more. */
bool crowd_answer(struct fake_connection *c);
/* A handler: answers all. */
void crowd_serve(struct fake_connection *c);

#endif
