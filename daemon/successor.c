#include "successor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FIRST = STDERR_FILENO + 1, N_OWN_VARIABLES = 3 };

/* What the child needs, made beforehand: other threads may hold malloc()'s locks for ever there. */
struct preparation {
    const struct successor_plan *plan;
    int *fds; /* and the peer */
    char **environment;
    char *own[N_OWN_VARIABLES];
    sigset_t mask;
};

/* ---- In the child ---- */

/* Before signals are let in: libevent's handlers would write to the parent's loop. */
static void forget_handlers(const struct preparation *p)
{
    for (int i = 1; i < SIGRTMIN; i++)
        signal(i, SIG_DFL);
    /* The new program lets SIGHUP in when it has a handler. */
    sigprocmask(SIG_SETMASK, &p->mask, NULL);
}

/* All of ours are closed by exec; these get new numbers, where none of them may be in the way. */
static bool place_descriptors(const struct preparation *p)
{
    int n = (int)p->plan->n_fds + 1;

    for (int i = 0; i < n; i++)
        if ((p->fds[i] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, FIRST + n)) < 0)
            return false;
    for (int i = 0; i < n; i++)
        if (dup2(p->fds[i], FIRST + i) < 0)
            return false;
    return true;
}

_Noreturn static void run_child(const struct preparation *p)
{
    char text[] = SUCCESSOR_ERRNO "000";
    char *digits = text + sizeof text - 4;

    forget_handlers(p);
    if (place_descriptors(p))
        execve(p->plan->path, p->plan->argv, p->environment);
    int error = errno;
    digits[0] = (char)('0' + error / 100 % 10);
    digits[1] = (char)('0' + error / 10 % 10);
    digits[2] = (char)('0' + error % 10);
    (void)send(p->fds[p->plan->n_fds], text, sizeof text - 1, MSG_NOSIGNAL);
    _exit(127);
}

/* ---- In the parent ---- */

/* WATCHDOG_PID is our number; without it the variables hold for whoever has them. */
static bool is_replaced(const char *variable)
{
    static const char *const prefixes[] = {"LISTEN_", "WATCHDOG_PID=", SUCCESSOR_VARIABLE "="};

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (!strncmp(variable, prefixes[i], strlen(prefixes[i])))
            return true;
    return false;
}

static char *join_names(const struct successor_plan *plan)
{
    static const char variable[] = "LISTEN_FDNAMES=";
    size_t len = sizeof variable;

    for (size_t i = 0; i < plan->n_fds; i++)
        len += strlen(plan->names[i]) + 1;
    char *text = malloc(len), *end;
    if (!text)
        return NULL;
    end = stpcpy(text, variable);
    for (size_t i = 0; i < plan->n_fds; i++) {
        if (i > 0)
            *end++ = ':';
        end = stpcpy(end, plan->names[i]);
    }
    return text;
}

static int prepare_environment(struct preparation *p)
{
    size_t n = 0;

    for (char **variable = environ; variable && *variable; variable++)
        n++;
    p->environment = calloc(n + N_OWN_VARIABLES + 1, sizeof *p->environment);
    if (!p->environment || !(p->own[0] = join_names(p->plan)) ||
        asprintf(&p->own[1], "LISTEN_FDS=%zu", p->plan->n_fds) < 0 ||
        asprintf(&p->own[2], SUCCESSOR_VARIABLE "=%zu", FIRST + p->plan->n_fds) < 0)
        return -ENOMEM;
    n = 0;
    for (char **variable = environ; variable && *variable; variable++)
        if (!is_replaced(*variable))
            p->environment[n++] = *variable;
    memcpy(p->environment + n, p->own, sizeof p->own);
    return 0;
}

static int prepare(struct preparation *p)
{
    size_t n = p->plan->n_fds;

    p->fds = calloc(n + 1, sizeof *p->fds);
    if (!p->fds)
        return -ENOMEM;
    memcpy(p->fds, p->plan->fds, n * sizeof *p->fds);
    p->fds[n] = p->plan->peer;
    sigemptyset(&p->mask);
    sigaddset(&p->mask, SIGHUP);
    return prepare_environment(p);
}

/* fork(), but a child of our parent's, and with a handle to it. Not clone3(): sandboxes that look
 * at flags (systemd's RestrictNamespaces=) can't look into that and refuse it. */
static pid_t fork_sibling(int *ret_pidfd)
{
    unsigned long flags = CLONE_PARENT | CLONE_PIDFD | SIGCHLD;

#ifdef __s390__
    return (pid_t)syscall(SYS_clone, NULL, flags, ret_pidfd, NULL, NULL);
#else
    return (pid_t)syscall(SYS_clone, flags, NULL, ret_pidfd, NULL, NULL);
#endif
}

int successor_start(const struct successor_plan *plan, struct successor *ret)
{
    struct preparation p = {.plan = plan};
    sigset_t all, before;
    int pidfd = -1, r = prepare(&p);

    if (r == 0) {
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, &before);
        pid_t pid = fork_sibling(&pidfd);
        if (pid == 0)
            run_child(&p);
        r = pid < 0 ? -errno : 0;
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (r == 0)
            *ret = (struct successor){pid, pidfd};
    }
    for (size_t i = 0; i < N_OWN_VARIABLES; i++)
        free(p.own[i]);
    free(p.environment);
    free(p.fds);
    return r;
}
