/*
 * libcurl's multi-socket interface on a worker's loop: the sockets, the timer, and finding out
 * which transfers have ended. Knows nothing of requests.
 */
#ifndef MULTI_H
#define MULTI_H

#include <curl/curl.h>
#include <stdbool.h>
#include <sys/queue.h>

struct multi;
struct worker;

/* 0 or -ENOMEM. */
int multi_new(struct worker *worker, struct multi **ret);

/* The worker's, with a new reference, to start a transfer in; NULL: out of memory. It may be
 * another than before: see multi.c. */
struct multi *multi_get(struct worker *worker);

/* When the last reference goes all handles have been removed. Takes NULL; returns NULL. Not to be
 * called from a callback of libcurl. */
struct multi *multi_unref(struct multi *m);

/*
 * Starts the handle, whose CURLOPT_PRIVATE is a struct multi_user. `ended` is called once, outside
 * libcurl, when the transfer is over, unless the handle was removed before; with MULTI_UNWATCHED if
 * there was no memory to watch its socket. 0 or -ENOMEM.
 */
#define MULTI_UNWATCHED CURLE_FAILED_INIT
struct multi_user {
    void (*ended)(struct multi_user *user, CURLcode result);
    bool is_connected; /* the user's to set: the socket that it has will stay its only one */

    /* Not the user's. */
    LIST_ENTRY(multi_user) next;
    CURL *easy; /* NULL: not started */
    bool is_watched;
};
int multi_add(struct multi *m, CURL *easy);

/* Takes the handle out; its connection is closed if the transfer was not over. Not to be called
 * from a callback of libcurl. */
void multi_remove(struct multi *m, CURL *easy);

/* After curl_easy_pause() or the like: looks for transfers that have ended meanwhile. */
void multi_check(struct multi *m);

#endif
