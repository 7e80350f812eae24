#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "harness.h"

enum { LIST_MAX = 48, TEXT_MAX_BYTES = 256 << 20 };

/* ---- Start ---- */

struct pair {
    int ours, its;
};

static struct pair make_pipe(void)
{
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    return (struct pair){fds[0], fds[1]};
}

/* One that shows what is written as it was written. */
static struct pair make_terminal(void)
{
    struct termios raw = {.c_cflag = CS8 | CREAD};
    struct pair t;

    assert_int_equal(openpty(&t.ours, &t.its, NULL, &raw, NULL), 0);
    fcntl(t.ours, F_SETFD, FD_CLOEXEC);
    fcntl(t.its, F_SETFD, FD_CLOEXEC);
    return t;
}

/* A file that has no name. */
static int make_input(const struct cli_options *o)
{
    if (o->in_fd > 0)
        return fcntl(o->in_fd, F_DUPFD_CLOEXEC, 3);
    if (!o->in)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    size_t len = o->in_length ? o->in_length : strlen(o->in);
    FILE *file = tmpfile();

    assert_non_null(file);
    assert_int_equal(fwrite(o->in, 1, len, file), len);
    fflush(file);
    int fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 3);
    fclose(file);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

/* In the child: nothing here may allocate, the test has threads. */
static void run_child(const struct cli_options *o, pid_t parent, int in, int out, int err,
                      const char **arguments, const char **environment)
{
    /* Whoever started the test may ignore these. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(126);
    struct rlimit limit = {o->file_size_max, o->file_size_max};
    if (o->file_size_max && (setrlimit(RLIMIT_FSIZE, &limit) < 0 || signal(SIGXFSZ, SIG_IGN)))
        _exit(126);
    if (o->uid && (setgid(o->uid) < 0 || setuid(o->uid) < 0))
        _exit(126);
    execve(COMPLETIONCTL_BINARY, (char **)arguments, (char **)environment);
    _exit(127);
}

static size_t append_list(const char **list, size_t n, const char *const *more)
{
    for (; more && *more; more++) {
        assert_true(n + 1 < LIST_MAX);
        list[n++] = *more;
    }
    return n;
}

static size_t make_environment(const char *socket, const struct cli_options *o, const char **list)
{
    static const char *const inherited[] = {"ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS",
                                            "LLVM_PROFILE_FILE"};
    enum { N_INHERITED = sizeof inherited / sizeof *inherited };
    static char variables[N_INHERITED + 1][1024];
    size_t n = 0;

    for (size_t i = 0; i < N_INHERITED; i++) {
        const char *value = getenv(inherited[i]);
        if (!value)
            continue;
        snprintf(variables[i], sizeof variables[i], "%s=%s", inherited[i], value);
        list[n++] = variables[i];
    }
    if (socket) {
        snprintf(variables[N_INHERITED], sizeof variables[0], "COMPLETIOND_SOCKET=%s", socket);
        list[n++] = variables[N_INHERITED];
    }
    return append_list(list, n, o->environment);
}

void cli_start(struct cli *c, const char *socket, const struct cli_options *options,
               const char *const *arguments)
{
    static const struct cli_options usual = {0};
    const struct cli_options *o = options ? options : &usual;
    const char *list[LIST_MAX] = {COMPLETIONCTL_BINARY}, *environment[LIST_MAX] = {NULL};
    struct pair out = {-1, -1}, err = {-1, -1};
    int in = make_input(o);
    pid_t parent = getpid();

    if (o->out_path)
        out.its = open(o->out_path, O_WRONLY | O_CLOEXEC);
    else
        out = o->out_is_terminal ? make_terminal() : make_pipe();
    if (o->out_is_terminal && o->err_is_terminal)
        err.its = fcntl(out.its, F_DUPFD_CLOEXEC, 3);
    else
        err = o->err_is_terminal ? make_terminal() : make_pipe();
    assert_true(in >= 0 && out.its >= 0 && err.its >= 0);
    append_list(list, 1, arguments);
    make_environment(socket, o, environment);
    *c = (struct cli){.out = out.ours,
                      .err = err.ours,
                      .text = BUFFER_INIT(TEXT_MAX_BYTES),
                      .errors = BUFFER_INIT(TEXT_MAX_BYTES)};
    if (o->out_is_closed)
        cli_close_out(c);
    c->pid = fork();
    if (c->pid == 0)
        run_child(o, parent, in, out.its, err.its, list, environment);
    assert_true(c->pid > 0);
    c->pidfd = pidfd_open(c->pid, 0);
    assert_true(c->pidfd >= 0);
    close(in);
    close(out.its);
    close(err.its);
}

/* ---- What it writes ---- */

static const char *terminated(const struct buffer *b)
{
    return buffer_length(b) ? (const char *)buffer_bytes(b) : "";
}

const char *cli_text(const struct cli *c)
{
    return terminated(&c->text);
}

const char *cli_errors(const struct cli *c)
{
    return terminated(&c->errors);
}

/* A terminal ends with EIO. */
static void read_some(int *fd, struct buffer *b)
{
    uint8_t *p = buffer_reserve(b, 65537);

    assert_non_null(p);
    ssize_t n = read(*fd, p, 65536);
    if (n < 0 && errno == EINTR)
        return;
    if (n > 0) {
        p[n] = '\0';
        buffer_commit(b, (size_t)n);
        return;
    }
    close(*fd);
    *fd = -1;
}

/* False: both ends are closed, nothing more comes. */
static bool read_more(struct cli *c)
{
    struct pollfd fds[] = {{c->out, POLLIN, 0}, {c->err, POLLIN, 0}};
    int n;

    if (c->out < 0 && c->err < 0)
        return false;
    while ((n = poll(fds, 2, HARNESS_TIMEOUT_MS)) < 0 && errno == EINTR)
        ;
    if (n == 0)
        fail_msg("completionctl neither writes nor ends; it said: %s%s", cli_text(c),
                 cli_errors(c));
    if (fds[0].revents)
        read_some(&c->out, &c->text);
    if (fds[1].revents)
        read_some(&c->err, &c->errors);
    return true;
}

static void await(struct cli *c, const struct buffer *b, const char *text)
{
    while (!strstr(terminated(b), text))
        if (!read_more(c))
            fail_msg("completionctl ended without \"%s\"; it said: %s%s", text, cli_text(c),
                     cli_errors(c));
}

void cli_await_text(struct cli *c, const char *text)
{
    await(c, &c->text, text);
}

void cli_await_errors(struct cli *c, const char *text)
{
    await(c, &c->errors, text);
}

void cli_close_out(struct cli *c)
{
    if (c->out >= 0)
        close(c->out);
    c->out = -1;
}

/* ---- End ---- */

void cli_signal(struct cli *c, int number)
{
    assert_true(c->pid > 0);
    assert_int_equal(kill(c->pid, number), 0);
}

void cli_await_end(struct cli *c)
{
    struct pollfd fd = {c->pidfd, POLLIN, 0};

    if (poll(&fd, 1, HARNESS_TIMEOUT_MS) != 1)
        fail_msg("completionctl does not end; it said: %s%s", cli_text(c), cli_errors(c));
}

int cli_wait(struct cli *c)
{
    int status = 0;

    while (read_more(c))
        ;
    cli_await_end(c);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    c->pid = 0;
    cli_assert_lacks(cli_errors(c), "Sanitizer");
    cli_assert_lacks(cli_errors(c), "runtime error:");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void cli_wait_exit(struct cli *c, int expected)
{
    int status = cli_wait(c);

    if (status != expected)
        fail_msg("completionctl ended with %d, not %d; it said: %s%s", status, expected,
                 cli_text(c), cli_errors(c));
}

void cli_done(struct cli *c)
{
    if (c->pid > 0) {
        kill(c->pid, SIGKILL);
        waitpid(c->pid, NULL, 0);
    }
    if (c->pidfd >= 0)
        close(c->pidfd);
    if (c->err >= 0)
        close(c->err);
    cli_close_out(c);
    buffer_done(&c->text);
    buffer_done(&c->errors);
    *c = (struct cli){.pidfd = -1, .out = -1, .err = -1};
}

void cli_run(struct cli *c, int status, const char *socket, const struct cli_options *options,
             const char *const *arguments)
{
    cli_start(c, socket, options, arguments);
    cli_wait_exit(c, status);
}

void cli_assert_part(const char *text, const char *part, bool expected, const char *file, int line)
{
    if ((strstr(text, part) != NULL) == expected)
        return;
    print_error("the text %s \"%s\":\n%s\n", expected ? "lacks" : "has", part, text);
    _fail(file, line);
}
