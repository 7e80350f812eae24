/*
 * A network of a test program's own: an empty loopback, with port 53 free, one address behind which
 * all packets vanish, and files of /etc as the test writes them. Threads and children that are
 * begun later are in it; paths of Unix sockets stay what they are.
 */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>

/* Nobody answers behind these, not even to say no; "%u" is 2 to 250. */
#define NETWORK_BLACK_HOLE "10.9.9.%u"

/* Of this host, as the loopback's. */
#define NETWORK_LINK_LOCAL "169.254.169.254"

/* To be called in main(), before there are threads. False: it prints "skipped: " and why. */
bool network_enter(void);

/* Whoever opens the file, which exists, sees this text. Failures fail the test. */
void network_file(const char *path, const char *text);

#endif
