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

#ifdef __cplusplus
extern "C" {
#endif

enum { LOAD_PROCESSES_MAX = 8 };

struct load_slot {
    int64_t start_ns;
    unsigned n_chunks;
    size_t text_bytes;
    bool is_finished; /* the last chunk said why it ended */
};

/* What a client has read of a completion, or of a chunk of one: all that the API's users look at,
 * so that every client does the same work. */
struct load_answer {
    size_t id_bytes, model_bytes;
    const char *text; /* of all choices the first; not NUL-terminated */
    size_t text_bytes;
    bool is_finished;     /* with a finish_reason */
    int64_t total_tokens; /* of the usage; 0: none */
};

struct load_clocks {
    int64_t wall_ns, client_ns, daemon_ns, upstream_ns;
};

struct load {
    struct event_base *base;

    /* Options. */
    const char *target; /* base URL or socket path */
    const char *socket; /* Unix socket that the URL is asked on; NULL: none */
    const char *model;
    unsigned n_calls, n_warmup;
    unsigned in_flight;
    unsigned n_connections;
    unsigned n_chunks;   /* of a stream; 0: unary calls */
    bool is_steady;      /* only what happens while all streams run is measured */
    bool is_one_by_one;  /* a call of each slot, one after the other: one on each connection */
    bool is_held;        /* "held" is printed when all calls have been answered, or all streams have
                            begun, and nothing ends before stdin does */
    bool has_uids;       /* each connection is another user's, from 100000 on; takes root, and the
                            clients that know of it */
    const char *command; /* starts the daemon, whose start counts, too; NULL: it runs */
    unsigned daemons[LOAD_PROCESSES_MAX]; /* processes whose CPU time counts too */
    unsigned n_daemons;
    unsigned upstream; /* process whose load is shown, to see that it does not limit; 0: none */

    /* Starts a call in this slot. Not called from inside load_answer(). */
    void (*start)(void *user, unsigned slot);
    /* Runs until load_is_over(); NULL: the event loop does. */
    void (*run)(void *user);
    void *user;
    bool is_blind; /* the client does not look into answers: their number is not checked */

    /* State. */
    struct load_slot *slots;
    int64_t *latencies_ns, *delays_ns;
    size_t n_delays;
    unsigned to_start, n_ended;
    unsigned n_streaming;
    bool is_warming_up;
    struct load_clocks from, to;
    int64_t begin_ns, first_ns; /* load_begin(), and the first answer */
    int child;                  /* the daemon that the command started; 0: none */
    uint64_t n_measured;        /* chunks between the two */
};

/* Reads the options or ends the program, and makes the event loop. */
void load_init(struct load *l, int argc, char **argv);
void load_done(struct load *l);

/* Before the client connects to anything: starts the daemon if it is told to. */
void load_begin(struct load *l);

/* Makes the calls, warm-up first, and prints the results. */
void load_run(struct load *l);

/* The unary answer, or a chunk of a stream. */
void load_answer(struct load *l, unsigned slot, const struct load_answer *answer);

/* The call ended well. Starts the next one. */
void load_end(struct load *l, unsigned slot);

bool load_is_over(const struct load *l);

void load_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#ifdef __cplusplus
}
#endif

#endif
