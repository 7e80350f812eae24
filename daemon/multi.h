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
#include <sys/queue.h>

#include "worker.h"

struct multi;
struct multi_pool;
struct multi_socket;

/*
 * All of a worker's. A new transfer costs libcurl a look at each connection of its multi handle, in
 * use or not, so that no handle has more than a few transfers, and there are as many handles as it
 * takes. Looked-up names are shared among them. 0 or -ENOMEM.
 */
int multi_pool_new(struct worker *worker);
/* All transfers are over, and easy handles gone. Nothing if there is none. */
void multi_pool_free(struct worker *worker);

/* Closes the connections that nobody uses, as far as handles are idle: descriptors have run out.
 * Not to be called from a callback of libcurl. */
void multi_pool_shed(struct worker *worker);

/* For CURLOPT_SHARE of each handle that is to be added to a multi of the pool. */
CURLSH *multi_pool_share(struct multi_pool *pool);

/* One with room for a transfer, with a new reference; NULL: out of memory. */
struct multi *multi_get(struct worker *worker);

/* When the last reference goes all handles have been removed. Takes NULL; returns NULL. Not to be
 * called from a callback of libcurl. */
struct multi *multi_unref(struct multi *m);

/*
 * Starts the handle. `ended` is called once, outside libcurl, when the transfer is over, unless the
 * handle was removed before; with MULTI_UNWATCHED if there was no memory to watch its socket, with
 * MULTI_NO_DESCRIPTOR if there was none for it, two codes that libcurl does not end a transfer
 * with. 0 or -ENOMEM.
 */
#define MULTI_UNWATCHED     CURLE_FAILED_INIT
#define MULTI_NO_DESCRIPTOR CURLE_NO_CONNECTION_AVAILABLE
struct multi_user {
    void (*ended)(struct multi_user *user, CURLcode result);
    /* Is about to connect to one of its addresses; false: not to this one. Inside libcurl. */
    bool (*connects)(struct multi_user *user, const struct sockaddr *address);
    bool is_alone; /* its connection is nobody else's meanwhile, as in HTTP/1.1 */
    /* The user's to set whenever a connection is there, with TLS and all, and about to be used: the
     * socket that it has stays its only one, unless libcurl opens another, which ends this. */
    bool is_sent;

    /* Multi's to set, the user's to read: a connection is so far that the other side's words are
     * waited for, be it those of TLS. */
    bool is_connected;

    /* multi's own. */
    LIST_ENTRY(multi_user) next;
    struct multi *multi;
    CURL *easy;                  /* NULL: not started */
    struct multi_socket *socket; /* where it is alone */
    struct task nudge;
    bool is_watched;
    CURLcode refusal; /* why it got no socket; 0: it did */
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
void multi_remove(struct multi *m, struct multi_user *user);

/* After curl_easy_pause() or the like: looks for transfers that have ended meanwhile. */
void multi_check(struct multi *m);

#endif
