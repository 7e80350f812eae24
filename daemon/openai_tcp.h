/*
 * The HTTP front on TCP: on the loopback interface only, since it has no TLS; and with a token,
 * since there the kernel does not tell who calls, and every program of the host may connect, a web
 * page in a browser included.
 */
#ifndef OPENAI_TCP_H
#define OPENAI_TCP_H

#include <stdbool.h>
#include <stddef.h>

#include "../proto/grpc/grpc_status.h"
#include "policy.h"
#include "secret.h"

struct config;
struct config_token;
struct evhttp_request;

/* ---- Sockets ---- */

/* Not the path of a Unix socket. */
bool openai_tcp_is_address(const char *text);

/* Listens at "127.0.0.1:8080", "localhost:8080" (which is that), "[::1]:8080"; port 0 is any. The
 * descriptor, or negative errno: -EINVAL for what is no address, -EACCES for one that is not of the
 * loopback interface. */
int openai_tcp_listen(const char *text);

/* Where a socket listens, to be shown: a path, or an address and port. */
enum { OPENAI_TCP_NAME_SIZE = 128 };
void openai_tcp_name(int fd, char text[static OPENAI_TCP_NAME_SIZE]);

/* A Unix socket, or one of the loopback interface. */
bool openai_tcp_is_local(int fd);

/* 1: the other end is a Unix socket's, so that the kernel knows who it is; 0: it is not; or
 * negative errno. */
int openai_tcp_knows_caller(int fd);

/* ---- Callers ---- */

/* Who is called "nobody": whoever has not shown a token. */
void openai_tcp_nobody(struct caller *caller);

/* Why a request can't be served, for whomever; NULL: it can. Static. */
struct openai_refusal {
    int http_status;
    enum grpc_status status;
    const char *reason, *param, *message;
};
const struct openai_refusal *openai_tcp_check(struct evhttp_request *http);

/* Whom the bearer token stands for; false: for nobody. made: one that stands for the daemon's own
 * user as long as the configuration has none; or NULL. Compares in a time that tells nothing of
 * their texts. ret points into the configuration. */
bool openai_tcp_identify(const struct config *config, const struct secret *made, const char *bearer,
                         struct caller *ret);

/* Callers on one of these sockets must show a token, and the configuration has none. */
bool openai_tcp_needs_token(const struct config *config, const int *fds, size_t n);

/* The token in the file, made with one that nobody can guess, mode 0600, if there is none. 0, or
 * negative errno with ret_why, which follows "can't be used: ". */
int openai_tcp_make_token(const char *path, struct secret **ret, const char **ret_why);

#endif
