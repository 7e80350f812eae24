/*
 * Preloaded into a process under torture. Allocations and system calls fail when control.h's file
 * says so; what is alive is counted. Everything else is libc's.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *p);

static struct control unshared; /* until the file is there */
static struct control *control = &unshared;
static __thread bool is_inside;

/* The signal comes again when this returns. */
static void note_crash(int number)
{
    (void)number;
    is_inside = true;
    control->n_crash = backtrace(control->crash, CONTROL_STACK_MAX);
    backtrace_symbols_fd(control->crash, control->n_crash, STDERR_FILENO);
}

static void watch_for_crashes(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    const struct sigaction action = {.sa_handler = note_crash, .sa_flags = (int)SA_RESETHAND};

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

__attribute__((constructor)) static void find_control(void)
{
    const char *path = getenv(CONTROL_VARIABLE);
    void *stack[1];
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    /* The first one loads a library. */
    backtrace(stack, 1);
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        control = shared;
    watch_for_crashes();
}

static void note_stack(void)
{
    is_inside = true;
    control->n_stack = backtrace(control->stack, CONTROL_STACK_MAX);
    is_inside = false;
}

/* Whether this call is one that fails; then errno is set. */
static bool fails(enum control_function f)
{
    struct control *c = control;

    if (!atomic_load(&c->armed) || is_inside)
        return false;
    long seen = atomic_fetch_add(&c->seen[f], 1) + 1;
    if ((int)f != c->function || seen < c->nth || seen - c->nth >= c->repeats)
        return false;
    if (atomic_fetch_add(&c->n_failed, 1) == 0)
        note_stack();
    errno = c->error;
    return true;
}

/* Looked up once; threads that do it at the same time find the same. */
#define REAL(name)                                                                                 \
    ({                                                                                             \
        static __typeof__(&(name)) found;                                                          \
        if (!found)                                                                                \
            found = (__typeof__(&(name)))find(#name);                                              \
        found;                                                                                     \
    })

static void *find(const char *name)
{
    bool was_inside = is_inside;

    is_inside = true;
    void *address = dlsym(RTLD_NEXT, name);
    is_inside = was_inside;
    if (!address)
        abort();
    return address;
}

/* ---- Memory ---- */

static void *counted(void *p)
{
    if (p)
        atomic_fetch_add(&control->n_blocks, 1);
    return p;
}

/* Whoever uses what is not its own any more, or not written yet, should notice. */
static void *spoilt(void *p, int byte)
{
    if (p)
        memset(p, byte, malloc_usable_size(p));
    return p;
}

EXPORT void *malloc(size_t size)
{
    return fails(CONTROL_memory) ? NULL : counted(spoilt(__libc_malloc(size), 0x5A));
}

EXPORT void *calloc(size_t n, size_t size)
{
    return fails(CONTROL_memory) ? NULL : counted(__libc_calloc(n, size));
}

EXPORT void free(void *p)
{
    if (p)
        atomic_fetch_sub(&control->n_blocks, 1);
    __libc_free(spoilt(p, 0xA5));
}

EXPORT void *realloc(void *p, size_t size)
{
    if (!p)
        return malloc(size);
    if (size == 0) {
        free(p);
        return NULL;
    }
    return fails(CONTROL_memory) ? NULL : __libc_realloc(p, size);
}

EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
    size_t total;

    if (!__builtin_mul_overflow(n, size, &total))
        return realloc(p, total);
    errno = ENOMEM;
    return NULL;
}

EXPORT void *memalign(size_t alignment, size_t size)
{
    return fails(CONTROL_memory) ? NULL : counted(__libc_memalign(alignment, size));
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

EXPORT int posix_memalign(void **ret, size_t alignment, size_t size)
{
    void *p = memalign(alignment, size);

    if (p)
        *ret = p;
    return p ? 0 : ENOMEM;
}

EXPORT void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fails(CONTROL_mmap))
        return MAP_FAILED;
    void *p = REAL(mmap)(address, size, protection, flags, fd, offset);
    if (p != MAP_FAILED)
        atomic_fetch_add(&control->n_mappings, 1);
    return p;
}

EXPORT void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    return mmap(address, size, protection, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t size)
{
    atomic_fetch_sub(&control->n_mappings, 1);
    return REAL(munmap)(address, size);
}

/* ---- Calls that either work or do not ---- */

#define WRAP(type, name, function, parameters, arguments, failure)                                 \
    EXPORT type name parameters                                                                    \
    {                                                                                              \
        return fails(CONTROL_##function) ? (failure) : REAL(name) arguments;                       \
    }

WRAP(int, socket, socket, (int family, int type, int protocol), (family, type, protocol), -1)
WRAP(int, connect, connect, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), -1)
WRAP(int, bind, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), -1)
WRAP(int, listen, listen, (int fd, int n), (fd, n), -1)
WRAP(int, getsockname, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), -1)
WRAP(int, getpeername, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), -1)
WRAP(int, setsockopt, setsockopt, (int fd, int level, int o, const void *v, socklen_t n),
     (fd, level, o, v, n), -1)
WRAP(int, poll, poll, (struct pollfd * fds, nfds_t n, int ms), (fds, n, ms), -1)
WRAP(int, ppoll, poll,
     (struct pollfd * fds, nfds_t n, const struct timespec *t, const sigset_t *mask),
     (fds, n, t, mask), -1)
WRAP(int, epoll_create1, epoll_create, (int flags), (flags), -1)
WRAP(int, epoll_ctl, epoll_ctl, (int epoll, int op, int fd, struct epoll_event *e),
     (epoll, op, fd, e), -1)
WRAP(int, epoll_wait, epoll_wait, (int epoll, struct epoll_event *e, int n, int ms),
     (epoll, e, n, ms), -1)
WRAP(int, epoll_pwait, epoll_wait,
     (int epoll, struct epoll_event *e, int n, int ms, const sigset_t *mask),
     (epoll, e, n, ms, mask), -1)
WRAP(int, eventfd, eventfd, (unsigned value, int flags), (value, flags), -1)
WRAP(int, timerfd_create, timerfd, (clockid_t clock, int flags), (clock, flags), -1)
WRAP(int, timerfd_settime, timerfd,
     (int fd, int flags, const struct itimerspec *t, struct itimerspec *old), (fd, flags, t, old),
     -1)
WRAP(int, pipe2, pipe, (int fds[2], int flags), (fds, flags), -1)
WRAP(int, pipe, pipe, (int fds[2]), (fds), -1)
WRAP(int, socketpair, socketpair, (int family, int type, int protocol, int fds[2]),
     (family, type, protocol, fds), -1)
WRAP(FILE *, fopen, fopen, (const char *path, const char *mode), (path, mode), NULL)
WRAP(FILE *, fopen64, fopen, (const char *path, const char *mode), (path, mode), NULL)
WRAP(int, fstat, fstat, (int fd, struct stat *st), (fd, st), -1)
WRAP(int, fstat64, fstat, (int fd, struct stat64 *st), (fd, st), -1)
WRAP(int, mlock, mlock, (const void *p, size_t n), (p, n), -1)
WRAP(int, mlock2, mlock, (const void *p, size_t n, unsigned flags), (p, n, flags), -1)
WRAP(int, madvise, madvise, (void *p, size_t n, int advice), (p, n, advice), -1)
WRAP(ssize_t, getrandom, getrandom, (void *p, size_t n, unsigned flags), (p, n, flags), -1)
WRAP(int, pthread_create, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *user),
     (thread, attributes, run, user), errno)

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    bool fail = fails(CONTROL_accept);

    if (fail && errno != ECONNABORTED)
        return -1;
    int client = REAL(accept4)(fd, address, len, flags);
    if (fail && client >= 0) {
        REAL(close)(client);
        errno = ECONNABORTED;
        client = -1;
    }
    return client;
}

/* The descriptor is gone in any case. */
EXPORT int close(int fd)
{
    bool fail = fails(CONTROL_close);
    int error = errno, r = REAL(close)(fd);

    if (fail)
        errno = error;
    return fail ? -1 : r;
}

EXPORT int getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
    bool is_so_error = level == SOL_SOCKET && option == SO_ERROR;

    if (!is_so_error && fails(CONTROL_getsockopt))
        return -1;
    bool fail = is_so_error && fails(CONTROL_so_error);
    int error = errno, r = REAL(getsockopt)(fd, level, option, value, len);
    if (fail && r == 0)
        *(int *)value = error;
    return r;
}

static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    return fails(CONTROL_open) ? -1 : REAL(openat)(directory, path, flags, mode);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

#define WRAP_OPEN(name, parameters, directory)                                                     \
    EXPORT int name parameters                                                                     \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        return open_at(directory, path, flags, mode);                                              \
    }

WRAP_OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
WRAP_OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
WRAP_OPEN(openat, (int at, const char *path, int flags, ...), at)
WRAP_OPEN(openat64, (int at, const char *path, int flags, ...), at)

#define WRAP_FCNTL(name)                                                                           \
    EXPORT int name(int fd, int command, ...)                                                      \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, command);                                                                   \
        void *argument = va_arg(args, void *);                                                     \
        va_end(args);                                                                              \
        return fails(CONTROL_fcntl) ? -1 : REAL(fcntl64)(fd, command, argument);                   \
    }

WRAP_FCNTL(fcntl)
WRAP_FCNTL(fcntl64)

/* "*.test" is this host: names that have to be looked up, without a network. */
EXPORT int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    if (fails(CONTROL_getaddrinfo))
        return control->error;
    size_t len = name ? strlen(name) : 0;
    if (len > 5 && !strcmp(name + len - 5, ".test"))
        name = "127.0.0.1";
    return REAL(getaddrinfo)(name, service, hints, ret);
}

EXPORT time_t time(time_t *ret)
{
    time_t now = REAL(time)(NULL) + atomic_load(&control->skipped_s);

    if (ret)
        *ret = now;
    return now;
}

/* So that its descriptors can be counted by whom it belongs to. */
EXPORT int prctl(int option, ...)
{
    va_list args;
    unsigned long a[4];

    va_start(args, option);
    for (int i = 0; i < 4; i++)
        a[i] = va_arg(args, unsigned long);
    va_end(args);
    return option == PR_SET_DUMPABLE ? 0 : REAL(prctl)(option, a[0], a[1], a[2], a[3]);
}

/* ---- Bytes ---- */

static bool is_short(void)
{
    return control->error == CONTROL_SHORT;
}

/* A pipe within the process does not break, and is not full. A datagram is sent as a whole. */
static bool can_fail(int fd, enum control_function f)
{
    bool again = control->error == EINTR || control->error == EAGAIN;
    socklen_t len = sizeof(int);
    struct stat st;
    int type;

    if (!atomic_load(&control->armed) || (int)f != control->function)
        return true;
    if (REAL(fstat)(fd, &st) == 0 && S_ISFIFO(st.st_mode))
        return f == CONTROL_read && again;
    return !is_short() || REAL(getsockopt)(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
           type == SOCK_STREAM;
}

#define WRAP_BYTES(name, function, parameters, arguments)                                          \
    EXPORT ssize_t name parameters                                                                 \
    {                                                                                              \
        if (can_fail(fd, CONTROL_##function) && fails(CONTROL_##function)) {                       \
            if (!is_short())                                                                       \
                return -1;                                                                         \
            n = n < 1 ? n : 1;                                                                     \
        }                                                                                          \
        return REAL(name) arguments;                                                               \
    }

WRAP_BYTES(recv, recv, (int fd, void *p, size_t n, int flags), (fd, p, n, flags))
WRAP_BYTES(recvfrom, recv,
           (int fd, void *p, size_t n, int flags, struct sockaddr *a, socklen_t *len),
           (fd, p, n, flags, a, len))
WRAP_BYTES(read, read, (int fd, void *p, size_t n), (fd, p, n))
WRAP_BYTES(send, send, (int fd, const void *p, size_t n, int flags), (fd, p, n, flags))
WRAP_BYTES(sendto, send,
           (int fd, const void *p, size_t n, int flags, const struct sockaddr *a, socklen_t len),
           (fd, p, n, flags, a, len))
WRAP_BYTES(write, write, (int fd, const void *p, size_t n), (fd, p, n))

WRAP(ssize_t, sendmsg, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags), -1)
WRAP(ssize_t, recvmsg, recv, (int fd, struct msghdr *m, int flags), (fd, m, flags), -1)
WRAP(ssize_t, readv, read, (int fd, const struct iovec *v, int n), (fd, v, n), -1)
WRAP(ssize_t, writev, write, (int fd, const struct iovec *v, int n), (fd, v, n), -1)

/* What is compiled with _FORTIFY_SOURCE calls these. */
EXPORT ssize_t __recv_chk(int fd, void *p, size_t n, size_t size, int flags);
EXPORT ssize_t __read_chk(int fd, void *p, size_t n, size_t size);
EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int ms, size_t size);

ssize_t __recv_chk(int fd, void *p, size_t n, size_t size, int flags)
{
    (void)size;
    return recv(fd, p, n, flags);
}

ssize_t __read_chk(int fd, void *p, size_t n, size_t size)
{
    (void)size;
    return read(fd, p, n);
}

int __poll_chk(struct pollfd *fds, nfds_t n, int ms, size_t size)
{
    (void)size;
    return poll(fds, n, ms);
}
