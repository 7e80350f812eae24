/*
 * The process of a new program that is to take over from this one: started with our arguments, our
 * environment and the listening sockets, and nothing else of ours. It is no child of ours but of
 * our parent (under systemd, PID 1), which it outlives us with and which reaps it.
 *
 * A program that does not know of handovers must not serve by mistake: LISTEN_FDS and
 * LISTEN_FDNAMES are set but LISTEN_PID is not, so that nobody takes the sockets for his. One that
 * knows finds the number of a socket to us in SUCCESSOR_VARIABLE, and claims them.
 */
#ifndef SUCCESSOR_H
#define SUCCESSOR_H

#include <stddef.h>
#include <sys/types.h>

#define SUCCESSOR_VARIABLE "COMPLETIOND_HANDOVER"
/* What it says on the socket, with three digits of errno, if the program can't be executed. */
#define SUCCESSOR_ERRNO "ERRNO="

struct successor_plan {
    const char *path;
    char **argv;
    const int *fds; /* they become 3, 4, ... */
    const char *const *names;
    size_t n_fds;
    int peer; /* its end of the socket: the number behind the last of them */
};

struct successor {
    pid_t pid;
    int pidfd; /* to be closed */
};

/* 0 once there is a process, or negative errno. All descriptors stay open here. */
int successor_start(const struct successor_plan *plan, struct successor *ret);

#endif
