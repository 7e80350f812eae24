/* The process as whoever started it left it, made fit for a daemon that holds keys. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>

/* A descriptor of 0 to 2 that was closed would become a caller's connection, and whatever a library
 * writes to stderr would go there. False, with errno: /dev/null can't be opened. */
bool process_open_standard_descriptors(void);

/* No core dumps, no reading of our memory by others of our user; as many descriptors as there may
 * be; no SIGPIPE. False: they may read it. */
bool process_harden(void);

/* Whoever started us may have blocked signals, and a stray one is no reason to die. A SIGHUP that
 * comes before there is a handler waits for it, until all are let in. */
void process_settle_signals(void);
void process_unblock_signals(void);

#endif
