/*
 * The front for callers that speak the API's own HTTP: POST /v1/completions and GET /v1/models on
 * listening sockets of their own. Owns the sockets, libevent's evhttp on them, and the connections.
 * What a caller may, and what a call does, is decided where it is for gRPC's callers.
 *
 * Each worker has one, on descriptors of its own for the same sockets: evhttp must accept what it
 * serves. Who has more connections than another worker holds back for a moment.
 *
 * Its connections count among the server's (server_count_in()), so that an idle daemon, a draining
 * one and the status know of them.
 */
#ifndef OPENAI_H
#define OPENAI_H

#include <stdbool.h>
#include <stddef.h>

struct openai;
struct secret;
struct worker;

/* For one worker. Takes over the listening descriptors, and the token (may be NULL): who shows it
 * over TCP is the daemon's own user, as long as the configuration has no tokens. 0, or -ENOMEM and
 * nothing is taken. */
int openai_new(struct worker *worker, const int *fds, size_t n_fds, struct secret *token,
               struct openai **ret);

/* Ends everything at once. Takes NULL; returns NULL. */
struct openai *openai_free(struct openai *o);

/* ---- For the server, which drains both; all take NULL ---- */

/* Accepts no more, and closes what is idle now or after its next answer. */
void openai_drain(struct openai *o);

/* Ends all calls, because the daemon shuts down. */
void openai_shut_down(struct openai *o);

/* Closes all connections, at the end of the turn. */
void openai_cut(struct openai *o);

/* Nobody is connected. */
bool openai_is_empty(const struct openai *o);

/* Somebody has connected, and is not accepted yet. */
bool openai_has_waiting(const struct openai *o);

#endif
