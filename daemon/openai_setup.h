/* The start of the HTTP front: what its sockets ask for, and what is said of them in the log. */
#ifndef OPENAI_SETUP_H
#define OPENAI_SETUP_H

#include <stddef.h>

struct crew;
struct log;

/* Listens on an address of TCP (openai_tcp_is_address()). The descriptor, or negative errno,
 * logged. */
int openai_setup_listen(struct log *log, const char *address);

/*
 * A front for each worker, on these sockets, which are taken over, or the process ends. Before
 * there are threads, and when the workers have servers. Where callers must show a token and the
 * configuration has none, one is made in the file token_path (NULL: there is no place). 0, or
 * negative errno, logged.
 */
int openai_setup(struct crew *crew, const int *fds, size_t n, const char *token_path);

#endif
