/*
 * A daemon whose program on disk is replaced while it runs. Its processes after the first are
 * children of the test's too, which must wait for each of them. Failures fail the test.
 */
#ifndef UPGRADE_H
#define UPGRADE_H

#include <sys/types.h>

#include "daemon.h"

/* Puts a new copy of the daemon's program into the directory, in place of what is there. Returns
 * its path: daemon_options' binary. */
const char *upgrade_install(const struct daemon *d);
/* The same with a file of this text and mode. */
void upgrade_install_text(const struct daemon *d, const char *text, mode_t mode);

/* daemon_await(), and whoever says anything must be the daemon's main process: systemd believes
 * nobody else (NotifyAccess=main). */
void upgrade_hear(struct daemon *d, const char *line);
/* Waits until the daemon has named its successor: d is that one from now on. Returns the process
 * that was it. */
pid_t upgrade_follow(struct daemon *d);
/* SIGHUP, and upgrade_follow(). */
pid_t upgrade(struct daemon *d);

/* Waits for the end of a process; returns what waitpid() says. */
int upgrade_wait(pid_t pid);
/* Asserts that it exited with this status. */
void upgrade_wait_exit(pid_t pid, int status);

/* Our child processes, also those that nobody has waited for. */
enum { UPGRADE_CHILDREN_MAX = 64 };
unsigned upgrade_children(pid_t children[static UPGRADE_CHILDREN_MAX]);
/* Kills and waits for all of them; returns how many there were. */
unsigned upgrade_kill_children(void);

#endif
