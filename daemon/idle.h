/*
 * Tells when nobody has been connected to a server for long enough to do without it. Connections
 * count, and with them the calls on them; one that only watches the daemon's health does not. Costs
 * one timer, which a busy server does not touch.
 */
#ifndef IDLE_H
#define IDLE_H

#include <event2/event_struct.h>
#include <stdint.h>

struct server;
struct worker;

struct idle {
    struct server *server;
    struct event timer;
    int64_t limit_us;                       /* CONFIG_INFINITY: never */
    int64_t since_us;                       /* since when nobody is there, if so */
    void (*expired)(struct worker *worker); /* NULL: nobody wants to know */
};

/* Nobody is there. Nothing is told before idle_configure(). */
void idle_init(struct idle *i, struct server *server);

/* A new limit, from idle_begin() on. */
void idle_configure(struct idle *i, int64_t limit_us);

/* A connection is over. */
void idle_begin(struct idle *i);

/* Tells nothing any more. */
void idle_done(struct idle *i);

#endif
