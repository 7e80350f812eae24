/* What the files of multi.h share: one multi handle (multi.c), those of a worker (multi_pool.c),
 * and their sockets (multi_socket.c). */
#ifndef MULTI_INTERNAL_H
#define MULTI_INTERNAL_H

#include "multi.h"

LIST_HEAD(multi_users, multi_user);
LIST_HEAD(multi_list, multi);
LIST_HEAD(multi_sockets, multi_socket);

/*
 * libcurl up to 7.88 at least can't be used any more when it had no memory to note that a
 * connecting socket is a transfer's: it divides by zero as soon as another socket gets that number.
 * So when it reports such a thing the pool lets go of it, and what is connected stays with it to
 * its end.
 */
struct multi {
    LIST_ENTRY(multi) next;  /* in the pool */
    struct multi_pool *pool; /* NULL: has let go of it */
    unsigned n_refs;
    unsigned n_running;
    struct worker *worker;
    CURLM *curl;
    /* Armed always, so that there is a place for them when memory is not. */
    struct event timer;
    struct event again; /* something went wrong: look after all of them */
    struct task kick;   /* libcurl's timer of 0 ms: no event, which would cost a poll */
    struct task check;
    struct multi_users running, lost;
    struct multi_sockets forgotten;
    struct multi_socket *looked_at; /* NULL once it is gone or not polled */
    bool is_unwell;                 /* libcurl stopped half-way, for want of memory */
    bool is_spent;                  /* it has done so before */
    bool has_dead;                  /* a connection ended while it waited, as others may do */
};

/* The first with room is filled first, so that few keep the connections that are used. */
struct multi_pool {
    struct worker *worker;
    struct multi_list with_room, full;
    size_t n;
    CURLSH *share;
    struct task shed;              /* multi_pool_shed() */
    struct multi_socket **sockets; /* by descriptor */
    size_t n_sockets;
};

/*
 * A socket of a connection, from open_socket() to close_socket(); or one of the resolver's, while
 * libcurl wants it to be polled. Before 8.0.0 libcurl closes sockets that were never connected
 * without a word: nobody may believe in such a one, which nothing is armed for. When another multi
 * gets its number it is forgotten, but for what libcurl believes it is polled for.
 */
struct multi_socket {
    LIST_ENTRY(multi_socket) next; /* while forgotten */
    struct multi *multi;
    struct multi_user *user; /* NULL: nobody's who is alone */
    struct event event;
    short armed; /* EV_READ, EV_WRITE */
    bool is_connection;
    bool is_idle;                /* in the pool, and watched */
    unsigned n_events, n_unread; /* see is_stuck() */
};

enum { MULTI_RUNNING_MAX = 32 };

/* ---- One (multi.c) ---- */

/* With one reference; NULL: out of memory. */
struct multi *multi_new(struct multi_pool *pool);
/* Without any. */
void multi_free(struct multi *m);

/* Something came, or can be sent. */
void multi_socket_event(evutil_socket_t fd, short what, void *user);

/* ---- Those of a worker (multi_pool.c) ---- */

/* It has a transfer more (1), or less (-1). */
void multi_pool_count(struct multi *m, int change);

/* Lets go of it, which may free it, if nobody uses it and it is not worth keeping. */
void multi_pool_settle(struct multi *m);

/* ---- Sockets (multi_socket.c) ---- */

/* NULL: it has none of that number. */
struct multi_socket *multi_socket_get(const struct multi *m, curl_socket_t fd);
/* NULL: out of memory. */
struct multi_socket *multi_socket_new(struct multi *m, curl_socket_t fd);
void multi_socket_free(struct multi_socket *s);

/* 0 or -1. */
int multi_socket_arm(struct multi_socket *s, short events);
/* Nobody waits for it any more; what comes next starts afresh. */
void multi_socket_rest(struct multi_socket *s);

/* What libcurl believes a socket to be polled for that it is about to open: it had the same number
 * before, and was closed without a word. */
short multi_socket_believed(struct multi *m, curl_socket_t fd);

/* One at a time, though libcurl may try two addresses at once: the one it speaks of last. */
void multi_socket_link(struct multi_socket *s, struct multi_user *user);
/* The user's transfer is over. If its socket has not been closed with it, then it is in libcurl's
 * pool of connections; where it can't be watched it is of no use. */
void multi_socket_unlink(struct multi_user *user);

#endif
