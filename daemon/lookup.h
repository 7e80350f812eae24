/*
 * Looking up an upstream's name: one look-up at a time, whose outcome is that of all who need it.
 *
 * libcurl would make a thread for each transfer, and each that is given up leaves its thread behind
 * until the system's resolver has had enough, which takes ten seconds and more where the name
 * servers are dead. What is left behind is bounded too, for the whole process. Which transfer needs
 * a look-up, and none from the pool or the cache will do, only libcurl knows.
 */
#ifndef LOOKUP_H
#define LOOKUP_H

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "worker.h"

/* A transfer's part; embedded in it, zeroed at first. */
struct lookup_user {
    TAILQ_ENTRY(lookup_user) next; /* while is_waiting */
    bool is_waiting;
    void (*go_on)(struct lookup_user *user); /* what it asked for is there, or may be asked again */
    void (*failed)(struct lookup_user *user); /* the one that it waited for found nothing */
};

/* An upstream's. */
struct lookup {
    struct worker *worker;
    struct task wake;
    struct lookup_user *running;
    TAILQ_HEAD(lookup_users, lookup_user) waiting;
    enum lookup_outcome { LOOKUP_FOUND, LOOKUP_FAILED, LOOKUP_GIVEN_UP } last;
};

void lookup_init(struct lookup *l, struct worker *worker);
/* Nobody is in it. */
void lookup_done(struct lookup *l);

enum lookup_answer {
    LOOKUP_GO,
    LOOKUP_WAIT,     /* go_on() or failed() is called, at the end of a turn */
    LOOKUP_TOO_MANY, /* too many of former ones hang */
};

enum lookup_answer lookup_begin(struct lookup *l, struct lookup_user *user);

/* Of the one that goes; nothing if it is another. */
void lookup_found(struct lookup *l, struct lookup_user *user);
void lookup_failed(struct lookup *l, struct lookup_user *user);

/* Neither looks up nor waits any more. */
void lookup_leave(struct lookup *l, struct lookup_user *user);

/* False for addresses that no name of a server leads to unless somebody means harm: this link's,
 * where cloud machines find their secrets, no host's, and those of groups. */
bool lookup_may_lead_to(const struct sockaddr *address);

#endif
