/*
 * Tells when nobody has been connected to any worker for long enough to do without them.
 * Connections count, and with them the calls on them; one that only watches the daemon's health
 * does not. Costs one timer, which a busy server does not touch. For the main thread's server,
 * which then asks the others.
 */
#ifndef IDLE_H
#define IDLE_H

#include <event2/event_struct.h>
#include <stdint.h>

struct server;

struct idle {
    struct server *server;
    struct event timer;
    int64_t limit_us;            /* CONFIG_INFINITY: never */
    void (*expired)(void *user); /* NULL: nobody wants to know */
    void *user;
};

/* Nothing is told before idle_configure(). */
void idle_init(struct idle *i, struct server *server);

/* A new limit, from the end of the last connection on. */
void idle_configure(struct idle *i, int64_t limit_us);

/* Tells nothing any more. */
void idle_done(struct idle *i);

#endif
