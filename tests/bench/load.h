/*
 * What the clients of the benchmarks share: options, keeping calls in flight, measuring, and one
 * line of results. Knows nothing of HTTP or gRPC; a client starts calls when asked, and tells what
 * came. A call that brings less than was asked for ends the program: a figure for lost work is
 * worth nothing.
 */
#ifndef LOAD_H
#define LOAD_H

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_slot {
    int64_t start_ns;
    unsigned n_chunks;
    size_t text_bytes;
    bool is_finished; /* the last chunk said why it ended */
};

struct load {
    struct event_base *base;

    /* Options. */
    const char *target; /* base URL or socket path */
    const char *model;
    unsigned n_calls, n_warmup;
    unsigned in_flight;
    unsigned n_connections;
    unsigned n_chunks; /* of a stream; 0: unary calls */
    unsigned daemon;   /* process whose CPU time counts too; 0: none */
    unsigned upstream; /* process whose load is shown, to see that it does not limit; 0: none */

    /* Starts a call in this slot. Not called from inside load_text(). */
    void (*start)(void *user, unsigned slot);
    void *user;

    /* State. */
    struct load_slot *slots;
    int64_t *latencies_ns;
    unsigned to_start, n_ended;
};

/* Reads the options or ends the program, and makes the event loop. */
void load_init(struct load *l, int argc, char **argv);
void load_done(struct load *l);

/* Makes the calls, warm-up first, and prints the results. */
void load_run(struct load *l);

/* Text of a call arrived, in the unary answer or in one chunk; is_finish: with a finish_reason. */
void load_text(struct load *l, unsigned slot, size_t text_bytes, bool is_finish);

/* The call ended well. Starts the next one. */
void load_end(struct load *l, unsigned slot);

_Noreturn void load_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
