/*
 * An upgrade without a cut. When the program that this process was started from has been replaced
 * on disk, a reload starts the new one and hands it the listening sockets; this one ends when the
 * calls that it has end by themselves. Knows both sides:
 *
 *     old                                          new
 *     -- the key of the environment, by socket -->
 *                                                  reads its configuration, opens all it needs
 *     <------------------ READY ------------------
 *     -------------------- GO ------------------->
 *                                                  accepts
 *     <----------------- SERVING -----------------
 *     tells systemd (MAINPID=), accepts no more
 *     ------------- closes the socket ----------->
 *                                                  may hand over itself
 *
 * The old one owns the service until it hears SERVING. It accepts up to then, so that nobody is
 * refused; one that is killed, hangs for HANDOVER_TIMEOUT_US or says that it can't changes nothing
 * but a line in the log. The new one accepts nothing before GO, and so can be ended before it
 * without a loss. Both having GO and no SERVING is the only time when both accept, and both serve
 * what they accept.
 *
 * The old one's calls end when they end: nobody waits for that, neither callers, who are served by
 * the new one, nor systemd. drain_timeout is for the end of the service; SIGTERM makes it hold.
 */
#ifndef HANDOVER_H
#define HANDOVER_H

#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "environment.h"
#include "successor.h"

struct log;
struct event_base;
struct systemd_manager;

enum { HANDOVER_TIMEOUT_US = 10000000 };

enum handover_state {
    HANDOVER_NONE,
    HANDOVER_STARTING, /* old: waits for READY */
    HANDOVER_GOING,    /* old: has said GO, waits for SERVING */
    HANDOVER_GIVEN,    /* old: not the owner any more */
    HANDOVER_COMING,   /* new: before GO */
    HANDOVER_SETTLING, /* new: the old one has not let go yet */
};

/* Called from the loop, with `user`. */
struct handover_handler {
    /* Somebody else serves: accept no more, say nothing to systemd, end when the last call ends. */
    void (*given)(void *user);
    /* All is as it was. why: for people, one line, follows a colon. */
    void (*failed)(void *user, const char *why);
    /* A reload that was asked for while another handover was under way. */
    void (*reload)(void *user);
    /* The old one was told to end the service while it handed over. */
    void (*terminate)(void *user);
};

struct handover_socket;

struct handover {
    struct event_base *base; /* NULL until there is a loop */
    struct log *log;
    struct systemd_manager *manager;
    const struct environment *environment; /* the key in it */
    const struct handover_handler *handler;
    void *user;
    enum handover_state state;
    bool owner; /* of the sockets' paths */
    bool again; /* somebody asked for a reload meanwhile */
    char **argv;
    char *path;           /* of our program; NULL: not known, no handover */
    struct stat identity; /* of what was at that path at start */
    struct handover_socket *sockets;
    size_t n_sockets;
    struct successor successor;
    int peer; /* the socket between both; -1: none */
    struct event readable, timer;
    char why[256]; /* what the new one said of its failure */
};

/*
 * Before there are threads, after environment_take(). If we were started by a handover: takes the
 * key from the old one, and claims the sockets, so that they are found as those that systemd
 * passes. argv is not copied. 0; or negative errno, logged: a handover that makes no sense.
 */
int handover_init(struct handover *h, struct log *log, struct systemd_manager *manager, char **argv,
                  struct environment *environment);
/* Before the loop is freed. */
void handover_done(struct handover *h);

/* A listening socket that we have made, to be handed over under this name; what was passed in is
 * known already. Its path is ours to remove. Not owned. 0 or negative errno. */
int handover_keep(struct handover *h, int fd, const char *name);

/* Removes the paths of sockets that were made by hand, by us or by whom we have them from; not if
 * somebody else has them now. */
void handover_remove_sockets(const struct handover *h);

/* Some of the sockets were made by hand: nobody listens there when we are gone. */
bool handover_has_paths(const struct handover *h);

/* ---- The new one ---- */

/* It can't serve: tells the old one why. Nothing unless a handover has begun. */
void handover_refuse(struct handover *h, const char *why);

/* Says that all is ready and waits for the old one's word. 0: go on, also if nobody hands over;
 * negative errno: it took its word back, or is gone. Signals may end the process. */
int handover_await(struct handover *h);

/* The loop is about to run: the old one hears of it from there. True: systemd hears that we are
 * ready from the old one, which it believes. */
bool handover_serve(struct handover *h);

/* ---- The old one ---- */

/* From here on it may happen, on this loop. */
void handover_set_handler(struct handover *h, struct event_base *base,
                          const struct handover_handler *handler, void *user);

/* A reload is wanted. False: our program is what it was, read the configuration. True: a handover
 * has begun or failed, or goes on and the wish is kept. */
bool handover_request(struct handover *h);

/* The service is to end: so is a successor that has not taken over yet. */
void handover_abandon(struct handover *h);

bool handover_is_given(const struct handover *h);

#endif
