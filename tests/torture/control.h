/*
 * What a process under torture (fail.c is in it) and its torturer share: a file that both have
 * mapped. The torturer arms a failure while the other has nothing to do, and reads what came of it.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>

/* Names the file. */
#define CONTROL_VARIABLE "TORTURE_CONTROL"

/* What can be made to fail. All that allocates is one function: which one it was does not matter.
 * SO_ERROR is getsockopt() telling how a connect() ended. */
#define CONTROL_FUNCTIONS(X)                                                                       \
    X(memory)                                                                                      \
    X(socket)                                                                                      \
    X(connect)                                                                                     \
    X(so_error)                                                                                    \
    X(accept)                                                                                      \
    X(bind)                                                                                        \
    X(listen)                                                                                      \
    X(recv)                                                                                        \
    X(read)                                                                                        \
    X(send)                                                                                        \
    X(sendmsg)                                                                                     \
    X(write)                                                                                       \
    X(poll)                                                                                        \
    X(epoll_create)                                                                                \
    X(epoll_ctl)                                                                                   \
    X(epoll_wait)                                                                                  \
    X(eventfd)                                                                                     \
    X(timerfd)                                                                                     \
    X(pipe)                                                                                        \
    X(socketpair)                                                                                  \
    X(fcntl)                                                                                       \
    X(getsockopt)                                                                                  \
    X(setsockopt)                                                                                  \
    X(getsockname)                                                                                 \
    X(open)                                                                                        \
    X(fopen)                                                                                       \
    X(fstat)                                                                                       \
    X(close)                                                                                       \
    X(mmap)                                                                                        \
    X(mlock)                                                                                       \
    X(madvise)                                                                                     \
    X(getrandom)                                                                                   \
    X(pthread_create)                                                                              \
    X(getaddrinfo)

enum control_function {
#define X(name) CONTROL_##name,
    CONTROL_FUNCTIONS(X)
#undef X
        CONTROL_N_FUNCTIONS
};

enum {
    CONTROL_COUNT_ONLY = -1, /* for a function: nothing fails */
    CONTROL_SHORT = -1,      /* for an error: it works, on one byte */
    CONTROL_STACK_MAX = 48,
};

struct control {
    atomic_int armed; /* only while it is set anything is counted or fails */

    /* Written before it is armed. The nth call (from 1) fails, and those behind it until there
     * have been `repeats`. */
    int function, error;
    long nth, repeats;

    atomic_long seen[CONTROL_N_FUNCTIONS];
    atomic_long n_failed;
    int n_stack, n_crash; /* where the first failed, and where it crashed */
    void *stack[CONTROL_STACK_MAX], *crash[CONTROL_STACK_MAX];

    atomic_long
        skipped_s; /* time() is so much later: what is remembered for a minute is forgotten */

    /* Counted always. */
    atomic_long n_blocks, n_mappings;
};

#endif
