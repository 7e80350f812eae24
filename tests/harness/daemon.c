#include "daemon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

enum { LIST_MAX = 24, LISTEN_FDS_START = 3 };

/* ---- Start ---- */

void daemon_init(struct daemon *d, const char *config)
{
    *d = (struct daemon){.pidfd = -1, .notify = -1};
    directory_init(&d->directory);
    snprintf(d->socket, sizeof d->socket, "%s/rpc.sock", d->directory.path);
    snprintf(d->config, sizeof d->config, "%s/completiond.conf", d->directory.path);
    snprintf(d->log, sizeof d->log, "%s/log", d->directory.path);
    if (config)
        daemon_configure(d, config);
}

unsigned daemon_n_workers(void)
{
    const char *n = getenv("COMPLETIOND_TEST_WORKERS");

    return n ? (unsigned)atoi(n) : 1;
}

/* At the end, so that the lines before keep their numbers. */
void daemon_configure(struct daemon *d, const char *config)
{
    unsigned n = daemon_n_workers();
    char *text = NULL;

    if (n != 1 && !strstr(config, "workers ="))
        assert_true(asprintf(&text, "%s\n[daemon]\nworkers = %u\n", config, n) > 0);
    directory_write(&d->directory, "completiond.conf", text ? text : config);
    free(text);
}

static void listen_for_notifications(struct daemon *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (d->notify >= 0)
        return;
    d->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_true(d->notify >= 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", d->directory.path);
    assert_int_equal(bind(d->notify, (struct sockaddr *)&address, sizeof address), 0);
    /* For those who want to know who speaks. */
    assert_int_equal(setsockopt(d->notify, SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)), 0);
}

static size_t append_list(const char **list, size_t n, const char *const *more)
{
    for (; more && *more; more++) {
        assert_true(n + 1 < LIST_MAX);
        list[n++] = *more;
    }
    return n;
}

/* In the child: nothing here may allocate, the test has threads. */
static void run_child(const struct daemon *d, const struct daemon_options *o, pid_t parent,
                      const char **arguments, const char **environment, char *listen_pid)
{
    int log = o->stderr_fd > 0 ? o->stderr_fd
                               : open(d->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || log < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(126);
    if (o->stderr_fd < 0)
        close_range(0, STDERR_FILENO, 0);
    if (o->listen_fd > 0) {
        /* dup2() clears CLOEXEC, but not if both are the same. */
        if (o->listen_fd == LISTEN_FDS_START ? fcntl(o->listen_fd, F_SETFD, 0) < 0
                                             : dup2(o->listen_fd, LISTEN_FDS_START) < 0)
            _exit(126);
        char *p = listen_pid + strlen(listen_pid);
        char digits[16];
        int n = 0;
        for (pid_t pid = getpid(); pid > 0; pid /= 10)
            digits[n++] = (char)('0' + pid % 10);
        while (n > 0)
            *p++ = digits[--n];
        *p = '\0';
    }
    execve(arguments[0], (char **)arguments, (char **)environment);
    _exit(127);
}

void daemon_spawn(struct daemon *d, const struct daemon_options *options)
{
    static const char *const inherited[] = {"PATH",          "ASAN_OPTIONS",      "LSAN_OPTIONS",
                                            "UBSAN_OPTIONS", "LLVM_PROFILE_FILE", "TSAN_OPTIONS"};
    static const struct daemon_options none = {0};
    const char *arguments[LIST_MAX] = {NULL}, *environment[LIST_MAX] = {NULL};
    char variables[sizeof inherited / sizeof *inherited][1024], notify[128];
    char listen_pid[48] = "LISTEN_PID=";
    size_t n_arguments = 0, n_environment = 0;
    const struct daemon_options *o = options ? options : &none;

    for (size_t i = 0; i < sizeof inherited / sizeof *inherited; i++) {
        const char *value = getenv(inherited[i]);
        if (value) {
            snprintf(variables[i], sizeof variables[i], "%s=%s", inherited[i], value);
            environment[n_environment++] = variables[i];
        }
    }
    if (!o->no_notify) {
        listen_for_notifications(d);
        snprintf(notify, sizeof notify, "NOTIFY_SOCKET=%s/notify", d->directory.path);
        environment[n_environment++] = notify;
    }
    if (o->listen_fd > 0) {
        environment[n_environment++] = listen_pid;
        environment[n_environment++] = "LISTEN_FDS=1";
    }
    append_list(environment, n_environment, o->environment);
    n_arguments = append_list(arguments, n_arguments, o->wrapper);
    n_arguments =
        append_list(arguments, n_arguments,
                    (const char *const[]){o->binary ? o->binary : COMPLETIOND_BINARY, NULL});
    if (!o->no_config)
        n_arguments =
            append_list(arguments, n_arguments, (const char *const[]){"--config", d->config, NULL});
    if (!o->no_listen)
        n_arguments =
            append_list(arguments, n_arguments, (const char *const[]){"--listen", d->socket, NULL});
    append_list(arguments, n_arguments, o->arguments);

    pid_t parent = getpid();
    d->pid = fork();
    if (d->pid == 0)
        run_child(d, o, parent, arguments, environment, listen_pid);
    assert_true(d->pid > 0);
    d->pidfd = pidfd_open(d->pid, 0);
    assert_true(d->pidfd >= 0);
}

void daemon_start(struct daemon *d, const struct daemon_options *options)
{
    daemon_spawn(d, options);
    daemon_await(d, "READY=1");
}

void daemon_add_asan_option(const char *option)
{
    const char *before = getenv("ASAN_OPTIONS");
    char *options;

    assert_true(asprintf(&options, "%s%s%s", before ? before : "", before ? ":" : "", option) > 0);
    setenv("ASAN_OPTIONS", options, 1);
    free(options);
}

/*
 * Threads of a test meet at what passes through the daemon, another process, in which the thread
 * sanitizer sees no order: what it finds in tests is of no use. In the daemon everything counts.
 */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
    return "report_bugs=0";
}

/* ---- Events ---- */

static bool has_line(const char *text, const char *line)
{
    size_t len = strlen(line);

    for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (!strncmp(p, line, len) && (p[len] == '\n' || p[len] == '\0'))
            return true;
    return false;
}

void daemon_await(struct daemon *d, const char *line)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;

    for (;;) {
        struct pollfd fds[] = {{d->notify, POLLIN, 0}, {d->pidfd, POLLIN, 0}};
        int64_t left = until - harness_now_ms();
        if (left <= 0 || poll(fds, 2, (int)left) == 0)
            fail_msg("the daemon did not say %s in time", line);
        if (fds[0].revents & POLLIN) {
            ssize_t n = recv(d->notify, d->notification, sizeof d->notification - 1, 0);
            d->notification[n > 0 ? n : 0] = '\0';
            if (has_line(d->notification, line))
                return;
        } else if (fds[1].revents) {
            fail_msg("the daemon ended before it said %s", line);
        }
    }
}

void daemon_signal(const struct daemon *d, int number)
{
    assert_true(d->pid > 0);
    assert_int_equal(kill(d->pid, number), 0);
}

int daemon_wait(struct daemon *d)
{
    struct pollfd fd = {d->pidfd, POLLIN, 0};
    int status = 0, r;

    assert_true(d->pid > 0);
    while ((r = poll(&fd, 1, HARNESS_TIMEOUT_MS)) < 0 && errno == EINTR)
        ;
    if (r == 0)
        fail_msg("the daemon did not end in time");
    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
    close(d->pidfd);
    d->pidfd = -1;
    d->pid = 0;
    return status;
}

void daemon_wait_exit(struct daemon *d, int expected)
{
    int status = daemon_wait(d);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
        char *log = daemon_log(d);
        fputs(log, stderr);
        free(log);
        if (WIFEXITED(status))
            fail_msg("the daemon exited with %d, not %d", WEXITSTATUS(status), expected);
        fail_msg("the daemon was ended by signal %d", WTERMSIG(status));
    }
    daemon_assert_not_logged(d, "Sanitizer");
    daemon_assert_not_logged(d, "runtime error:");
}

void daemon_stop(struct daemon *d)
{
    daemon_signal(d, SIGTERM);
    daemon_wait_exit(d, 0);
}

/* ---- What it leaves behind ---- */

char *daemon_log(const struct daemon *d)
{
    return directory_read(d->log);
}

static void check_log(const struct daemon *d, const char *text, bool expected)
{
    char *log = daemon_log(d);
    bool found = strstr(log, text) != NULL;

    if (found != expected)
        fputs(log, stderr);
    free(log);
    if (found != expected)
        fail_msg("the log %s \"%s\"", expected ? "lacks" : "has", text);
}

void daemon_assert_logged(const struct daemon *d, const char *text)
{
    check_log(d, text, true);
}

void daemon_assert_not_logged(const struct daemon *d, const char *text)
{
    check_log(d, text, false);
}

int daemon_n_descriptors(const struct daemon *d)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)d->pid);
    DIR *directory = opendir(path);
    if (!directory)
        return -1;
    while (readdir(directory))
        n++;
    closedir(directory);
    return n - 2;
}

int64_t daemon_cpu_us(const struct daemon *d)
{
    clockid_t clock;
    struct timespec used = {0};

    if (clock_getcpuclockid(d->pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
        fail_msg("the kernel tells nothing of the daemon's time");
    return (int64_t)used.tv_sec * 1000000 + used.tv_nsec / 1000;
}

long daemon_rss_kib(const struct daemon *d)
{
    char path[64];
    long kib = -1;

    /* It remembers every access, in some times the memory. */
    if (HARNESS_HAS_TSAN)
        return -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)d->pid);
    char *text = directory_read(path);
    const char *line = strstr(text, "VmRSS:");
    if (line)
        kib = strtol(line + 6, NULL, 10);
    free(text);
    return kib;
}

void daemon_done(struct daemon *d)
{
    if (d->pid > 0) {
        char *log = daemon_log(d);
        fprintf(stderr, "the daemon's log:\n%s", log);
        free(log);
        kill(d->pid, SIGKILL);
        waitpid(d->pid, NULL, 0);
    }
    if (d->pidfd >= 0)
        close(d->pidfd);
    if (d->notify >= 0)
        close(d->notify);
    directory_done(&d->directory);
    *d = (struct daemon){.pidfd = -1, .notify = -1};
}
