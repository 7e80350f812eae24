/*
 * A caller for which nothing is a reason to fail the test: whatever comes of a call is an outcome.
 * One connection, made anew when it is gone.
 */
#ifndef CALLER_H
#define CALLER_H

#include <stdbool.h>
#include <stdint.h>

#include "grpc_client.h"

#define CALLER_CREATE        "/completion.v1.Completions/Create"
#define CALLER_CREATE_STREAM "/completion.v1.Completions/CreateStream"
#define CALLER_HEALTH        "/grpc.health.v1.Health/Check"

struct caller {
    const char *socket;
    int fd; /* -1: not connected */
    struct grpc_client_session *session;
};

/* How a call ended: a gRPC status, or one of these. */
enum { CALLER_CLOSED = -1, CALLER_HANGS = -2 };

struct caller_outcome {
    int status;
    unsigned n_messages;
    char message[512];
    char text[256]; /* of all first choices, joined */
};

struct caller_call {
    const char *path, *model;
    const char *key; /* one of the caller's own; NULL: none */
    /* When there has been no end for so long, `late` is called, once. */
    int patience_ms;
    void (*late)(void *user);
    void *user;
};

int64_t caller_now_ms(void);

void caller_close(struct caller *c);
/* Nothing if it is connected. */
bool caller_connect(struct caller *c);
/* The other side has not closed. */
bool caller_is_connected(struct caller *c);

void caller_call(struct caller *c, const struct caller_call *call, struct caller_outcome *ret);

/* "OK", "closed", "HANGS" */
const char *caller_status_name(int status);

#endif
