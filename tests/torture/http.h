/*
 * A caller over HTTP for which nothing is a reason to fail the test: one connection, one request,
 * and what came of it.
 */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>

struct http_outcome {
    int status;    /* 0: there was no whole head */
    bool is_whole; /* the body ended as it should */
    bool hangs;
    char text[4096]; /* the body, without its chunks' lengths, maybe cut */
};

/* POST /v1/completions on this socket. When there has been no end for so long, `late` is called,
 * once. */
void http_call(const char *socket, const char *body, int patience_ms, void (*late)(void *user),
               void *user, struct http_outcome *ret);

#endif
