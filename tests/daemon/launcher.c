/*
 * Runs a command as a bad parent or a poor kernel would: with descriptors, variables, signals,
 * limits and system calls other than the usual ones. Options before "--" are carried out in their
 * order; what this machine refuses ends with 77.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CAN_NOT = 77, BROKEN = 78, N_SIGNALS = 31 };

static void check(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "launcher: %s: %s\n", what, strerror(errno));
        exit(CAN_NOT);
    }
}

/* ---- Descriptors ---- */

/* "7,9": they become 3 and 4. */
static void pass(const char *list)
{
    int fds[8], n = 0;
    char *end;

    for (const char *p = list; n < 8; p = end + 1) {
        fds[n++] = (int)strtol(p, &end, 10);
        if (*end != ',')
            break;
    }
    for (int i = 0; i < n; i++)
        check(fcntl(fds[i], F_SETFD, FD_CLOEXEC), "F_SETFD");
    for (int i = 0; i < n; i++)
        check(fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + n), "F_DUPFD_CLOEXEC");
    for (int i = 0; i < n; i++)
        check(dup2(fds[i], 3 + i), "dup2");
}

/* All below this number are open, and none that exec() closes is among them. */
static void fill(int below)
{
    int fd;

    close_range(3, ~0U, 0);
    do
        check(fd = open("/dev/null", O_RDWR), "/dev/null");
    while (fd < below - 1);
}

/* ---- The environment ---- */

static void say_listen_pid(const char *text)
{
    char own[16];

    snprintf(own, sizeof own, "%d", (int)getpid());
    setenv("LISTEN_PID", !strcmp(text, "own") ? own : text, 1);
}

/* ---- Signals ---- */

static void block_signals(void)
{
    sigset_t all;

    sigfillset(&all);
    check(sigprocmask(SIG_BLOCK, &all, NULL), "sigprocmask");
}

static void ignore_signals(void)
{
    for (int i = 1; i <= N_SIGNALS; i++)
        signal(i, SIG_IGN);
}

/* ---- The kernel ---- */

/* CLOCK_MONOTONIC begins that many seconds later, from exec() on. */
static void shift_monotonic(const char *seconds)
{
    check(unshare(CLONE_NEWTIME), "CLONE_NEWTIME");
    FILE *f = fopen("/proc/self/timens_offsets", "we");
    check(f ? 0 : -1, "timens_offsets");
    fprintf(f, "monotonic %s 0\nboottime %s 0\n", seconds, seconds);
    check(fclose(f), "timens_offsets");
}

static void limit(int resource, rlim_t value)
{
    check(setrlimit((__rlimit_resource_t)resource, &(struct rlimit){value, value}), "setrlimit");
}

/* System calls that a kernel without a feature, or a strict sandbox, refuses. */
static const struct {
    const char *name;
    int number;
} refusable[] = {
    {"prctl", SYS_prctl},
    {"clone", SYS_clone},
    {"clone3", 435},
    {"mlock", SYS_mlock},
    {"mlock2", SYS_mlock2},
    {"madvise", SYS_madvise},
    {"close_range", SYS_close_range},
    {"memfd_secret", 447},
    {"landlock_create_ruleset", 444},
    {"pidfd_open", SYS_pidfd_open},
    {"epoll_pwait2", 441},
    {"timerfd_create", SYS_timerfd_create},
    {"eventfd2", SYS_eventfd2},
    {"io_uring_setup", SYS_io_uring_setup},
    {"bpf", SYS_bpf},
    {"umask", SYS_umask},
};

static int number_of(const char *name)
{
    for (size_t i = 0; i < sizeof refusable / sizeof *refusable; i++)
        if (!strcmp(refusable[i].name, name))
            return refusable[i].number;
    fprintf(stderr, "launcher: unknown system call %s\n", name);
    exit(BROKEN);
}

static void filter(struct sock_filter *instructions, size_t n)
{
    struct sock_fprog program = {.len = (unsigned short)n, .filter = instructions};

    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS");
    check((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static void refuse(const char *name, int error)
{
    struct sock_filter instructions[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number_of(name), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    filter(instructions, sizeof instructions / sizeof *instructions);
}

/* prlimit64() with a new limit; asking for the old one is allowed. */
static void refuse_setrlimit(void)
{
    struct sock_filter instructions[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    filter(instructions, sizeof instructions / sizeof *instructions);
}

/* ---- Options ---- */

static void carry_out(const char *option, const char *value)
{
    if (!strcmp(option, "--pass"))
        pass(value);
    else if (!strcmp(option, "--fill"))
        fill(atoi(value));
    else if (!strcmp(option, "--listen-fds"))
        setenv("LISTEN_FDS", value, 1);
    else if (!strcmp(option, "--listen-pid"))
        say_listen_pid(value);
    else if (!strcmp(option, "--signals") && !strcmp(value, "blocked"))
        block_signals();
    else if (!strcmp(option, "--signals") && !strcmp(value, "ignored"))
        ignore_signals();
    else if (!strcmp(option, "--shift-monotonic"))
        shift_monotonic(value);
    else if (!strcmp(option, "--memlock"))
        limit(RLIMIT_MEMLOCK, strtoul(value, NULL, 10));
    else if (!strcmp(option, "--eperm") && !strcmp(value, "setrlimit"))
        refuse_setrlimit();
    else if (!strcmp(option, "--eperm"))
        refuse(value, EPERM);
    else if (!strcmp(option, "--enosys"))
        refuse(value, ENOSYS);
    else
        exit(BROKEN);
}

int main(int argc, char **argv)
{
    int i = 1;

    for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2)
        carry_out(argv[i], argv[i + 1]);
    if (++i >= argc)
        return BROKEN;
    execv(argv[i], argv + i);
    check(-1, argv[i]);
}
