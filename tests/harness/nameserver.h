/*
 * A name server that answers as a test says just now, on port 53 of a network of the test's own
 * (network.h), with a thread of its own.
 */
#ifndef NAMESERVER_H
#define NAMESERVER_H

#include <stdbool.h>

struct nameserver;

enum nameserver_mode {
    NAMESERVER_ANSWERS, /* the addresses, for any name */
    NAMESERVER_EMPTY,   /* the name is there, but has no address */
    NAMESERVER_NXDOMAIN,
    NAMESERVER_SERVFAIL,
    NAMESERVER_SILENT, /* never answers */
    NAMESERVER_WAITS,  /* answers when the mode changes */
};

/* Makes it the system's only one. */
struct nameserver *nameserver_new(void);
/* Takes NULL; returns NULL. */
struct nameserver *nameserver_free(struct nameserver *n);

/* addresses: IPv4, separated by spaces. */
void nameserver_set(struct nameserver *n, enum nameserver_mode mode, const char *addresses);

/* How many questions for IPv4 addresses came; the second waits until there are so many. */
unsigned nameserver_n_questions(struct nameserver *n);
bool nameserver_await(struct nameserver *n, unsigned n_questions);

#endif
