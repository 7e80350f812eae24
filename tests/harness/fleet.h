/*
 * A scene whose upstream consists of several servers. The model is whatever they say: each answers
 * with its name, "a" to "d", or fails as the test has it.
 */
#ifndef FLEET_H
#define FLEET_H

#include "completion/v1/status.pb-c.h"
#include "scene.h"

enum { FLEET_N = 4 };

/* What a server does with a request. It marks FAKE_STEP with each. */
enum server_mode {
    SERVER_WELL,      /* answers with its name */
    SERVER_HOLD,      /* the same, once the test has marked FAKE_GO */
    SERVER_REFUSE,    /* 503 */
    SERVER_BREAK,     /* 500 */
    SERVER_HANG_UP,   /* closes the connection */
    SERVER_CUT_SHORT, /* begins a stream, and closes the connection */
};

struct server {
    const char *name;
    _Atomic enum server_mode mode;
};

struct fleet {
    struct scene *scene;
    struct server servers[FLEET_N];
    struct fake *fakes[FLEET_N];
    char names[FLEET_N][32]; /* HOST:PORT */
    char dead[FLEET_N][32];  /* the same, where nobody listens; "": none */
    int reserved[FLEET_N];
};

/* For cmocka: *state is a fleet, whose daemon has not been started. */
int fleet_setup(void **state);
int fleet_teardown(void **state);

/* A port on which nobody listens, and nobody else will. */
void fleet_reserve(struct fleet *f, size_t i);

/* Lines base_url = ... of these servers, as bits, and of all that are dead. Returns their length.
 */
size_t fleet_write_base_urls(struct fleet *f, unsigned which, char *out, size_t size);
/* scene_start() with these, and two retries if settings don't say otherwise. */
void fleet_start(struct fleet *f, unsigned which, const char *settings);

/* Handles requests as a server that is the fake's user. */
void fleet_serve(struct fake_connection *c);

/* Requests that the server has read. */
unsigned fleet_n_asked(struct fleet *f, size_t i);

struct grpc_client_call *fleet_begin(struct fleet *f, const char *path);
void fleet_call(struct fleet *f, const char *path, struct rpc_result *ret);
/* Makes a call that must end well. Returns who answered. */
char fleet_ask(struct fleet *f, const char *path);
/* Makes calls until one is held by the server, and returns that. */
struct grpc_client_call *fleet_hold_one(struct fleet *f, size_t server);
/* Waits until so many of the calls have ended. */
void fleet_await_ended(struct fleet *f, struct grpc_client_call *const *calls, size_t n_calls,
                       size_t n);

/* To be freed. */
Completion__V1__GetStatusResponse *fleet_status(struct fleet *f);
/* Of endpoint i of the only upstream. */
Completion__V1__EndpointState fleet_state(struct fleet *f, size_t i);

#endif
