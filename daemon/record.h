/*
 * What is left of a call when it has ended: a record in the log, and numbers in the metrics. Never
 * a prompt, a completion or a key.
 */
#ifndef RECORD_H
#define RECORD_H

#include <stdint.h>

struct call;
struct crew;

/* The journal's MESSAGE_ID of these records; the catalog in packaging/systemd explains them. */
#define RECORD_MESSAGE_ID "34de165bf71945618b922d7ae82da93d"

enum { RECORD_MODEL_SIZE = 128 };

/* Records in one second, of all workers; the others are counted, and the log says how many there
 * were. */
enum { RECORD_LIMIT = 1000 };

/* Guarded by the lock of the accounts. */
struct record_limit {
    int64_t since_us; /* when this second began */
    unsigned n;
    unsigned long n_left_out; /* since the log said so */
};

/* A call's; microseconds on worker_now_us()'s clock, 0 if it has not happened. Zeroed at first. */
struct record_times {
    int64_t request_us;                        /* the request message was there */
    int64_t head_us;                           /* the last response began */
    int64_t waits_since_us, asks_since_us;     /* for a turn or a repetition; an attempt runs */
    int64_t queue_us, backoff_us, upstream_us; /* how long all of these took */
};

/* Says how many records were left out, if any were: when a second is over, and at the end. */
void record_tell_left_out(struct crew *c);

/* Once, with the status. reason NULL: it ended well. */
void record_call(const struct call *call, int status, const char *reason);

#endif
