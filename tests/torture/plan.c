#include "plan.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>

enum { ERRORS_MAX = 8, STORM = 20 };

/* Ends with 0. */
static const int errors[CONTROL_N_FUNCTIONS][ERRORS_MAX] = {
    [CONTROL_memory] = {ENOMEM},
    [CONTROL_socket] = {EMFILE, ENFILE, ENOMEM, EACCES},
    [CONTROL_connect] = {ECONNREFUSED, ENETUNREACH, EADDRNOTAVAIL, EACCES},
    [CONTROL_so_error] = {ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH},
    [CONTROL_accept] = {EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EINTR, EAGAIN},
    [CONTROL_bind] = {ENOMEM, EACCES},
    [CONTROL_listen] = {EADDRINUSE},
    [CONTROL_recv] = {ECONNRESET, ENOMEM, ETIMEDOUT, EINTR, EAGAIN, CONTROL_SHORT},
    [CONTROL_read] = {ECONNRESET, EIO, EINTR, EAGAIN, CONTROL_SHORT},
    [CONTROL_send] = {ECONNRESET, EPIPE, ENOBUFS, EINTR, EAGAIN, CONTROL_SHORT},
    [CONTROL_sendmsg] = {ECONNREFUSED, ENOBUFS, EINTR, EAGAIN},
    [CONTROL_write] = {EPIPE, EIO, ENOSPC, EINTR, EAGAIN, CONTROL_SHORT},
    [CONTROL_poll] = {ENOMEM, EINTR},
    [CONTROL_epoll_create] = {EMFILE, ENFILE, ENOMEM},
    [CONTROL_epoll_ctl] = {ENOMEM, ENOSPC},
    [CONTROL_epoll_wait] = {EINTR},
    [CONTROL_eventfd] = {EMFILE, ENFILE, ENOMEM},
    [CONTROL_timerfd] = {EMFILE, ENFILE, ENOMEM},
    [CONTROL_pipe] = {EMFILE, ENFILE},
    [CONTROL_socketpair] = {EMFILE, ENFILE, ENOMEM},
    [CONTROL_fcntl] = {ENOMEM, EIO},
    [CONTROL_getsockopt] = {ENOBUFS, ENOMEM},
    [CONTROL_setsockopt] = {ENOMEM, ENOPROTOOPT},
    [CONTROL_getsockname] = {ENOBUFS},
    [CONTROL_open] = {EMFILE, ENFILE, ENOMEM, EIO, EINTR},
    [CONTROL_fopen] = {EMFILE, ENFILE, ENOMEM, EIO},
    [CONTROL_fstat] = {ENOMEM, EIO},
    [CONTROL_close] = {EINTR, EIO},
    [CONTROL_mmap] = {ENOMEM},
    [CONTROL_mlock] = {ENOMEM, EPERM},
    [CONTROL_madvise] = {EAGAIN, ENOMEM},
    [CONTROL_getrandom] = {EINTR, EAGAIN},
    [CONTROL_pthread_create] = {EAGAIN},
    [CONTROL_getaddrinfo] = {EAI_MEMORY, EAI_AGAIN, EAI_FAIL, EAI_SYSTEM},
};

void plan_each(void (*each)(const struct plan *plan, void *user), void *user)
{
    for (int f = 0; f < CONTROL_N_FUNCTIONS; f++)
        for (size_t i = 0; i < ERRORS_MAX && errors[f][i]; i++) {
            int e = errors[f][i];
            bool again = e == EINTR || e == EAGAIN;
            each(&(struct plan){f, e, 1}, user);
            each(&(struct plan){f, e, again ? STORM : LONG_MAX}, user);
        }
}

const char *plan_function_name(int function)
{
    static const char *const names[] = {
#define X(name) #name,
        CONTROL_FUNCTIONS(X)
#undef X
    };

    return names[function];
}

const char *plan_error_name(const struct plan *plan)
{
    static const char *const gai[] = {
        [-EAI_MEMORY] = "EAI_MEMORY",
        [-EAI_AGAIN] = "EAI_AGAIN",
        [-EAI_FAIL] = "EAI_FAIL",
        [-EAI_SYSTEM] = "EAI_SYSTEM",
    };

    if (plan->function == CONTROL_getaddrinfo)
        return gai[-plan->error];
    return plan->error == CONTROL_SHORT ? "short" : strerrorname_np(plan->error);
}

const char *plan_repeats_name(const struct plan *plan)
{
    return plan->repeats == 1 ? "once" : plan->repeats == STORM ? "20 times" : "for ever";
}
