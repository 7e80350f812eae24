/*
 * The HTTP side of the sandbox: POST /v1/completions, GET /v1/models, GET /health, GET /stats. It
 * says no to what the API says no to before a request becomes a job.
 */
#ifndef SERVER_H
#define SERVER_H

#include "model.h"

struct event_base;
struct evconnlistener;

struct server_options {
    const struct model *model; /* outlives the server */
    const char *model_name;    /* the only one that is served */
    const char *api_key;       /* NULL: none is asked for */
    double tokens_per_second;  /* of each choice; 0: as fast as it goes */
};

struct server;

/* The strings of the options outlive the server. 0 or -ENOMEM. */
int server_new(struct event_base *base, const struct server_options *options, struct server **ret);

/* Ends all connections. Takes NULL; returns NULL. */
struct server *server_free(struct server *s);

/* Serves the connections of a listener, which is the server's from now on. 0 or -ENOMEM. */
int server_listen(struct server *s, struct evconnlistener *listener);

#endif
