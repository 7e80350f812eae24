/* Where the sandbox listens. */
#ifndef SOCKET_H
#define SOCKET_H

enum { SOCKET_URL_MAX = 192 };

/*
 * Binds a socket to "ADDRESS:PORT" (port 0: any that is free) or "unix:/path" and writes the base
 * URL that clients need, as completiond's configuration spells it. 0 or negative errno.
 */
int socket_bind(const char *address, int *ret_fd, char ret_url[SOCKET_URL_MAX]);

#endif
