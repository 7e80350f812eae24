/*
 * libcurl's multi-socket interface on a worker's loop: the sockets, the timer, and finding out
 * which transfers have ended. Knows nothing of requests.
 *
 * Sockets of connections that wait in libcurl's pool for the next transfer are watched too: one on
 * which something comes is shut, so that libcurl finds it dead. What came was asked for by nobody,
 * and would be taken for the answer to the request that follows.
 */
#ifndef MULTI_H
#define MULTI_H

#include <curl/curl.h>
#include <stdbool.h>

#include "worker.h"

struct multi;
struct multi_socket;

/* 0 or -ENOMEM. */
int multi_new(struct worker *worker, struct multi **ret);

/* All handles have been removed. Takes NULL; returns NULL. */
struct multi *multi_free(struct multi *m);

/*
 * Starts the handle. `ended` is called once, outside libcurl, when the transfer is over, unless the
 * handle was removed before. 0 or -ENOMEM.
 */
struct multi_user {
    void (*ended)(struct multi_user *user, CURLcode result);
    /* Is about to connect to one of its addresses; false: not to this one. Inside libcurl. */
    bool (*connects)(struct multi_user *user, const struct sockaddr *address);
    bool is_alone;     /* its connection is nobody else's meanwhile, as in HTTP/1.1 */
    bool is_sent;      /* to be set whenever a connection is there and about to be used */
    bool is_connected; /* so far that the other side's words are waited for */

    /* multi's own. */
    struct multi *multi;
    CURL *easy;
    struct multi_socket *socket; /* where it is alone */
    struct task nudge;
};
int multi_add(struct multi *m, CURL *easy, struct multi_user *user);

/*
 * Its socket is known to be its own. libcurl tells of a socket only when it is done with a handle
 * for this turn, and of none if the handle is paused by then, by an answer that was there at once.
 * The socket would go on being watched as one that waits in the pool, and be shut: such a handle
 * must go on before the turn ends.
 */
bool multi_user_is_seen(const struct multi_user *user);

/* Takes the handle out; its connection is closed if the transfer was not over. Not to be called
 * from a callback of libcurl. */
void multi_remove(struct multi *m, CURL *easy);

/* After curl_easy_pause() or the like: looks for transfers that have ended meanwhile. */
void multi_check(struct multi *m);

#endif
