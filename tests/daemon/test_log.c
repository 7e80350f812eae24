/*
 * Where the daemon's log can't go: a pipe that nobody reads, a descriptor that is closed, a disk
 * that is full. It goes on serving, and nothing it says lands elsewhere.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static void start(struct scene *s, int stderr_fd)
{
    struct daemon_options options = {.stderr_fd = stderr_fd};

    scene_prepare(s, serve, NULL, NULL);
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
}

static void call(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "CANARY");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
}

static size_t count_waiting(int fd, char *text, size_t size)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    size_t len = 0;

    while (len < size - 1 && poll(&pfd, 1, 0) > 0) {
        ssize_t n = read(fd, text + len, size - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    return len;
}

/* Each call logs a line; so many that they can't all have space. */
static void expect_loss_without_stalling(struct scene *s, int reader, int n_calls)
{
    static char text[1 << 20];

    for (int i = 0; i < n_calls; i++)
        call(s);
    assert_true(count_waiting(reader, text, sizeof text) > 0);
    assert_null(strstr(text, "CANARY"));
    call(s);
    assert_true(count_waiting(reader, text, sizeof text) > 0);
    assert_non_null(strstr(text, "messages before this one were lost\n"));
    assert_non_null(strstr(text, "completiond: info: call ended: "));
}

static void test_pipe_that_nobody_reads(void **state)
{
    struct scene *s = *state;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 0);
    start(s, fds[1]);
    expect_loss_without_stalling(s, fds[0], 50);
    /* Others who write to it still wait for its reader. */
    assert_int_equal(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0);
    scene_stop(s);
    close(fds[0]);
    close(fds[1]);
}

static void test_socket_that_nobody_reads(void **state)
{
    struct scene *s = *state;
    int fds[2], size = 1;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    start(s, fds[1]);
    expect_loss_without_stalling(s, fds[0], 50);
    scene_stop(s);
    close(fds[0]);
    close(fds[1]);
}

static void test_reader_that_went_away(void **state)
{
    struct scene *s = *state;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    start(s, fds[1]);
    close(fds[0]);
    close(fds[1]);
    call(s);
    call(s);
    scene_stop(s);
}

static void test_full_disk(void **state)
{
    struct scene *s = *state;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

    start(s, fd);
    call(s);
    scene_stop(s);
    close(fd);
}

/* Else the first socket would be descriptor 0, and a message for stderr somebody's answer. */
static void test_closed_standard_descriptors_are_opened(void **state)
{
    struct scene *s = *state;
    char path[64], target[64];

    start(s, -1);
    for (int fd = 0; fd <= 2; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)s->daemon.pid, fd);
        ssize_t n = readlink(path, target, sizeof target - 1);
        assert_true(n > 0);
        target[n] = '\0';
        assert_string_equal(target, "/dev/null");
    }
    call(s);
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "READY=1");
    call(s);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_pipe_that_nobody_reads),
        scene_test(test_socket_that_nobody_reads),
        scene_test(test_reader_that_went_away),
        scene_test(test_full_disk),
        scene_test(test_closed_standard_descriptors_are_opened),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
