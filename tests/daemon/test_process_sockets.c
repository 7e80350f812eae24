/*
 * Descriptors: those that a service manager passes in, rightly and wrongly, its notification
 * socket, and what becomes of the daemon's own.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"

enum { HIGH = 2000 };

/* ---- Listening ---- */

static socklen_t unix_address(const char *path, struct sockaddr_un *ret)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(ret->sun_path, sizeof ret->sun_path, "%s", path);
    return sizeof *ret;
}

static int bound(const char *path, int type)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    socklen_t len = unix_address(path, &address);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    return fd;
}

static int listening(const char *path, int type)
{
    int fd = bound(path, type);

    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static int listening_on_ipv6(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void expect_answer(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

/* ---- What is passed in ---- */

/* Passes these descriptors on, and says so in these words. */
static void spawn(struct daemon *d, int first, int second, const char *n, const char *pid,
                  bool no_listen)
{
    char fds[32];
    int written = snprintf(fds, sizeof fds, "%d", first);

    if (second >= 0)
        snprintf(fds + written, sizeof fds - (size_t)written, ",%d", second);
    fcntl(first, F_SETFD, 0);
    fcntl(second, F_SETFD, 0);
    const char *wrapper[] = {LAUNCHER, "--pass", fds, "--listen-fds", n, "--listen-pid",
                             pid,      "--",     NULL};
    daemon_spawn(d, &(struct daemon_options){.wrapper = wrapper, .no_listen = no_listen});
    fcntl(first, F_SETFD, FD_CLOEXEC);
    fcntl(second, F_SETFD, FD_CLOEXEC);
}

static void assert_refused(struct daemon *d, const char *said)
{
    daemon_wait_exit(d, 1);
    char *log = daemon_log(d);
    if (strncmp(log, "completiond: error: ", 20) != 0 || !strstr(log, said) ||
        strchr(log, '\n') != log + strlen(log) - 1)
        fail_msg("not one line with \"%s\": %s", said, log);
    free(log);
    assert_int_equal(remove(d->log), 0);
}

static void test_passed_descriptors_of_a_wrong_kind_are_named(void **state)
{
    struct scene *s = *state;
    struct directory *d = &s->daemon.directory;
    int pipes[2];

    scene_prepare(s, crowd_serve, NULL, NULL);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    int good = listening(s->daemon.socket, SOCK_STREAM);
    int wrong[] = {
        bound(directory_path(d, "datagram"), SOCK_DGRAM),
        listening(directory_path(d, "seqpacket"), SOCK_SEQPACKET),
        bound(directory_path(d, "deaf"), SOCK_STREAM),
        listening_on_ipv6(),
        pipes[0],
        open(s->daemon.config, O_RDONLY | O_CLOEXEC),
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        if (wrong[i] < 0)
            continue;
        spawn(&s->daemon, wrong[i], -1, "1", "own", true);
        assert_refused(&s->daemon, "descriptor 3 ");
        /* A good one beside it does not help. */
        spawn(&s->daemon, good, wrong[i], "2", "own", true);
        assert_refused(&s->daemon, "descriptor 4 ");
        close(wrong[i]);
    }
    close(pipes[1]);
    close(good);
}

static void test_wrong_words_about_descriptors_are_errors(void **state)
{
    static const struct {
        const char *n, *pid, *said;
    } words[] = {
        {"0", "own", "LISTEN_FDS"},
        {"-1", "own", "LISTEN_FDS"},
        {"", "own", "LISTEN_FDS"},
        {"x", "own", "LISTEN_FDS"},
        {"1x", "own", "LISTEN_FDS"},
        {"2147483647", "own", "LISTEN_FDS"},
        {"1", "x", "LISTEN_PID"},
        {"1", "", "LISTEN_PID"},
        {"1", "-1", "LISTEN_PID"},
        /* Number 4 is one of the daemon's own by then. */
        {"2", "own", "descriptor 4 "},
        {"999", "own", "LISTEN_FDS"},
    };
    struct scene *s = *state;

    scene_prepare(s, crowd_serve, NULL, NULL);
    int good = listening(s->daemon.socket, SOCK_STREAM);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        spawn(&s->daemon, good, -1, words[i].n, words[i].pid, true);
        assert_refused(&s->daemon, words[i].said);
    }
    close(good);
}

/* As sd_listen_fds(3) has it: the variables were meant for a parent of ours. */
static void test_descriptors_for_another_process_are_not_ours(void **state)
{
    struct scene *s = *state;
    const char *path = directory_path(&s->daemon.directory, "theirs");

    scene_prepare(s, crowd_serve, NULL, NULL);
    int theirs = listening(path, SOCK_STREAM);
    spawn(&s->daemon, theirs, -1, "1", "1", false);
    daemon_await(&s->daemon, "READY=1");
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    scene_stop(s);
    close(theirs);
}

static void test_two_passed_sockets_both_serve(void **state)
{
    struct scene *s = *state;
    const char *path = directory_path(&s->daemon.directory, "other.sock");
    struct rpc other;

    scene_prepare(s, crowd_serve, NULL, NULL);
    int first = listening(s->daemon.socket, SOCK_STREAM), second = listening(path, SOCK_STREAM);
    spawn(&s->daemon, first, second, "2", "own", true);
    daemon_await(&s->daemon, "READY=1");
    rpc_connect(&s->rpc, s->daemon.socket);
    rpc_connect(&other, path);
    expect_answer(&s->rpc);
    expect_answer(&other);
    rpc_close(&other);
    scene_stop(s);
    close(first);
    close(second);
}

/* ---- Whom it notifies ---- */

static void test_notification_socket_that_is_no_use_is_no_harm(void **state)
{
    struct scene *s = *state;
    char dead[160], too_long[256], missing[160];

    scene_prepare(s, crowd_serve, NULL, NULL);
    int fd = listening(s->daemon.socket, SOCK_STREAM);
    snprintf(dead, sizeof dead, "NOTIFY_SOCKET=%s", directory_path(&s->daemon.directory, "dead"));
    close(bound(directory_path(&s->daemon.directory, "dead"), SOCK_DGRAM));
    snprintf(missing, sizeof missing, "NOTIFY_SOCKET=%s",
             directory_path(&s->daemon.directory, "missing"));
    snprintf(too_long, sizeof too_long, "NOTIFY_SOCKET=/%0200d", 0);
    const char *const variables[] = {
        "NOTHING=1",       dead,
        missing,           too_long,
        "NOTIFY_SOCKET=",  "NOTIFY_SOCKET=relative",
        "NOTIFY_SOCKET=@", "NOTIFY_SOCKET=@completiond-nobody-is-here",
        "NOTIFY_SOCKET=/", "NOTIFY_SOCKET=vsock:1:2",
    };
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *environment[] = {variables[i], "WATCHDOG_USEC=30000", NULL};
        daemon_spawn(&s->daemon, &(struct daemon_options){.listen_fd = fd,
                                                          .environment = environment,
                                                          .no_listen = true,
                                                          .no_notify = true});
        rpc_connect(&s->rpc, s->daemon.socket);
        for (int k = 0; k < 10; k++)
            expect_answer(&s->rpc);
        daemon_signal(&s->daemon, SIGHUP);
        expect_answer(&s->rpc);
        scene_stop(s);
    }
    close(fd);
}

static void test_abstract_notification_socket_is_told(void **state)
{
    struct scene *s = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char variable[64];
    socklen_t len;

    scene_prepare(s, crowd_serve, NULL, NULL);
    /* The kernel chooses a name: five digits behind the NUL. */
    s->daemon.notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->daemon.notify, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    len = sizeof address;
    assert_int_equal(getsockname(s->daemon.notify, (struct sockaddr *)&address, &len), 0);
    snprintf(variable, sizeof variable, "NOTIFY_SOCKET=@%.*s",
             (int)(len - offsetof(struct sockaddr_un, sun_path) - 1), address.sun_path + 1);
    const char *environment[] = {variable, NULL};
    daemon_start(&s->daemon,
                 &(struct daemon_options){.environment = environment, .no_notify = true});
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    scene_stop(s);
}

/* ---- The daemon's own ---- */

struct audit {
    unsigned n, n_sockets;
    int lowest; /* above 2, and not /dev/null */
};

/* The link of /proc/PID/fd/N. */
static void read_target(const struct daemon *d, int fd, char *text, size_t size)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)d->pid, fd);
    ssize_t n = readlink(path, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
}

static bool is_closed_on_exec(const struct daemon *d, int fd)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", (int)d->pid, fd);
    char *text = directory_read(path);
    const char *flags = strstr(text, "flags:");
    bool closed = flags && strtoul(flags + 6, NULL, 8) & O_CLOEXEC;
    free(text);
    return closed;
}

static struct audit inspect(const struct daemon *d)
{
    struct audit a = {.lowest = INT32_MAX};
    char path[64], target[256];

    snprintf(path, sizeof path, "/proc/%d/fd", (int)d->pid);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        int fd = atoi(entry->d_name);
        if (fd <= STDERR_FILENO)
            continue;
        read_target(d, fd, target, sizeof target);
        if (!strcmp(target, "/dev/null"))
            continue;
        a.n++;
        a.n_sockets += strncmp(target, "socket:", 7) == 0;
        a.lowest = fd < a.lowest ? fd : a.lowest;
        if (!is_closed_on_exec(d, fd))
            fail_msg("descriptor %d (%s) would be inherited", fd, target);
    }
    closedir(directory);
    return a;
}

/* Takes what comes, and answers nothing. */
static void listen_only(struct fake_connection *c)
{
    char byte;

    if (recv(c->fd, &byte, 1, 0) == 1)
        fake_mark(c->fake, FAKE_STEP);
    fake_wait_for_close(c);
}

/* Answers the first request and stalls in the second. */
static void answer_once(struct fake_connection *c)
{
    while (fake_read_request(c))
        if (strstr(c->body, "\"stream\":true")) {
            if (fake_stream_begin(c) && fake_event(c, FAKE_PART("a")))
                fake_wait_for_close(c);
            return;
        } else if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("whole"))) {
            return;
        }
}

/* In the middle of calls, one of them in a TLS handshake. */
static void test_all_descriptors_are_closed_on_exec(void **state)
{
    struct scene *s = *state;
    struct fake *tls = fake_new(NULL, listen_only, NULL);
    rpc_request request = rpc_request_new("m", "p"), secure = rpc_request_new("tls", "p");
    char settings[256];

    snprintf(settings, sizeof settings,
             "[upstream tls]\nmodels = tls\nbase_url = https%s\nauth = none\n",
             strchr(fake_base_url(tls), ':'));
    scene_prepare(s, answer_once, NULL, NULL);
    char *base = directory_read(s->daemon.config), *config;
    assert_true(asprintf(&config, "%s%s", settings, base) > 0);
    daemon_configure(&s->daemon, config);
    free(base);
    free(config);
    daemon_start(&s->daemon, NULL);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc);
    struct grpc_client_call *calls[] = {
        rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1),
        rpc_start(&s->rpc, RPC_CREATE, &secure, -1),
    };
    rpc_completion_free(rpc_next(&s->rpc, calls[0]));
    assert_true(fake_await(tls, FAKE_STEP, 1));
    /* A turn later: behind the first word of TLS the certificates are read, from a file. */
    scene_assert_serving(s);
    /* The listener, the caller and two upstreams at least. */
    assert_true(inspect(&s->daemon).n_sockets >= 4);
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "READY=1");
    inspect(&s->daemon);
    grpc_client_call_free(calls[0]);
    grpc_client_call_free(calls[1]);
    scene_stop(s);
    fake_free(tls);
}

static void test_descriptors_above_those_of_select_serve(void **state)
{
    struct scene *s = *state;
    const char *wrapper[] = {LAUNCHER, "--fill", "2000", "--", NULL};

    scene_prepare(s, crowd_serve, NULL, NULL);
    daemon_start(&s->daemon, &(struct daemon_options){.wrapper = wrapper});
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 8,
        .n_calls = 4,
        .seed = 1,
        .streamed = 50,
    });
    assert_true(crowd_run(c, 300));
    assert_true(inspect(&s->daemon).lowest >= HIGH);
    assert_true(crowd_settle(c));
    assert_int_equal(crowd_counts(c)->by_status[GRPC_OK], crowd_counts(c)->n_ended);
    crowd_free(c);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_passed_descriptors_of_a_wrong_kind_are_named),
        scene_test(test_wrong_words_about_descriptors_are_errors),
        scene_test(test_descriptors_for_another_process_are_not_ours),
        scene_test(test_two_passed_sockets_both_serve),
        scene_test(test_notification_socket_that_is_no_use_is_no_harm),
        scene_test(test_abstract_notification_socket_is_told),
        scene_test(test_all_descriptors_are_closed_on_exec),
        scene_test(test_descriptors_above_those_of_select_serve),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
