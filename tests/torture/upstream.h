/*
 * The upstream of a torture: several ports, each of which answers all requests well, streamed if
 * they ask for that. A thread for each connection.
 */
#ifndef UPSTREAM_H
#define UPSTREAM_H

#include <stdbool.h>

/* The text of every answer; streams bring it in UPSTREAM_N_CHUNKS pieces. */
#define UPSTREAM_TEXT "one two three four five "
enum { UPSTREAM_N_CHUNKS = 5 };

struct upstream_options {
    bool closes;             /* the connection after each answer */
    bool busy;               /* says 503, try again in 1 ms, to every second request */
    const char *certificate; /* and key, a PEM file; NULL: no TLS */
};

/* Listens on 127.0.0.1; returns the port, 0 if it can't. It lasts as long as the process. */
unsigned upstream_start(const struct upstream_options *options);

/* After this the next request to a busy one is told to come again. */
void upstream_be_busy(void);

#endif
