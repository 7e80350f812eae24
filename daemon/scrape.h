/*
 * The metrics socket: HTTP/1.1, GET and HEAD of /metrics, one request for each connection.
 *
 * libevent's evhttp would do, but knows no limit for its connections and spins when descriptors run
 * out. Here there are few connections at once, the oldest goes when one more comes, and each has a
 * few seconds in all: who is slow costs no more than that.
 */
#ifndef SCRAPE_H
#define SCRAPE_H

struct scrape;
struct worker;

/* Takes over the listening descriptor. 0, or -ENOMEM and it is not taken. */
int scrape_new(struct worker *worker, int fd, struct scrape **ret);

/* Takes NULL; returns NULL. */
struct scrape *scrape_free(struct scrape *s);

#endif
