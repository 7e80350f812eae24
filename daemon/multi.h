/*
 * libcurl's multi-socket interface on a worker's loop: the sockets, the timer, and finding out
 * which transfers have ended. Knows nothing of requests.
 */
#ifndef MULTI_H
#define MULTI_H

#include <curl/curl.h>

struct multi;
struct worker;

/* 0 or -ENOMEM. */
int multi_new(struct worker *worker, struct multi **ret);

/* All handles have been removed. Takes NULL; returns NULL. */
struct multi *multi_free(struct multi *m);

/*
 * Starts the handle, whose CURLOPT_PRIVATE is a struct multi_user. `ended` is called once, outside
 * libcurl, when the transfer is over, unless the handle was removed before. 0 or -ENOMEM.
 */
struct multi_user {
    void (*ended)(struct multi_user *user, CURLcode result);
};
int multi_add(struct multi *m, CURL *easy);

/* Takes the handle out; its connection is closed if the transfer was not over. Not to be called
 * from a callback of libcurl. */
void multi_remove(struct multi *m, CURL *easy);

/* After curl_easy_pause() or the like: looks for transfers that have ended meanwhile. */
void multi_check(struct multi *m);

#endif
