/*
 * The table of descriptors: what callers may take of it, what is kept for others, and what happens
 * when there is none left.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw.h"
#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
        ;
}

static void expect_quick_answer(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "quick");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "quick");
    rpc_result_done(&result);
}

/* ---- The daemon from outside ---- */

static unsigned count_logged(const struct daemon *d, const char *text)
{
    char *log = daemon_log(d);
    unsigned n = 0;

    for (const char *p = log; (p = strstr(p, text)); p++)
        n++;
    free(log);
    return n;
}

static void await_logged(const struct daemon *d, const char *text, unsigned n)
{
    int fd = inotify_init1(IN_CLOEXEC);
    struct pollfd event = {.fd = fd, .events = POLLIN};
    char ignored[4096];

    assert_true(fd >= 0 && inotify_add_watch(fd, d->log, IN_MODIFY) >= 0);
    while (count_logged(d, text) < n) {
        if (poll(&event, 1, HARNESS_TIMEOUT_MS) != 1)
            fail_msg("\"%s\" is not logged %u times", text, n);
        assert_true(read(fd, ignored, sizeof ignored) > 0);
    }
    close(fd);
}

/* So many descriptors it may have from now on. */
static void set_limit(const struct daemon *d, rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, NULL, &limit), 0);
    limit.rlim_cur = n ? n : limit.rlim_max;
    assert_int_equal(prlimit(d->pid, RLIMIT_NOFILE, &limit, NULL), 0);
}

/* Those that it has are the last ones, whatever is closed between them. */
static void leave_no_descriptor(const struct daemon *d)
{
    char path[64];
    int fd = 0;

    do
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)d->pid, fd++);
    while (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
    set_limit(d, (rlim_t)fd - 1);
}

/* Starts all with a table of n descriptors. */
static void start_with_limit(struct scene *s, rlim_t n)
{
    struct rlimit own, small = {n, n};

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &own), 0);
    scene_prepare(s, serve, NULL, DAEMON_ONE_WORKER);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    daemon_spawn(&s->daemon, NULL);
    /* Only root can take it back; for what follows it is enough. */
    setrlimit(RLIMIT_NOFILE, &own);
    daemon_await(&s->daemon, "READY=1");
    rpc_connect(&s->rpc, s->daemon.socket);
}

/* ---- Tests ---- */

static void test_descriptors_that_are_sent_are_not_kept(void **state)
{
    struct scene *s = *state;
    struct raw r;
    char control[CMSG_SPACE(sizeof(int))] = {0}, c;
    int ends[2];

    scene_start(s, serve, NULL, NULL);
    expect_quick_answer(&s->rpc);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    raw_append_call(&r.sent, 1, RPC_CREATE);
    int before = daemon_n_descriptors(&s->daemon);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);

    struct iovec iov = {buffer_bytes(&r.sent), buffer_length(&r.sent)};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
    assert_int_equal(sendmsg(r.fd, &message, MSG_NOSIGNAL), (ssize_t)iov.iov_len);
    close(ends[1]);

    /* The call is served, and then nobody has the pipe's other end. */
    raw_await(&r, "grpc-status: 0");
    assert_int_equal(read(ends[0], &c, 1), 0);
    /* Its worker may keep a connection to the upstream that another did not have. */
    assert_in_range(daemon_n_descriptors(&s->daemon), 1, (unsigned)before + daemon_n_workers());
    close(ends[0]);
    raw_close(&r);
    scene_stop(s);
}

static void test_coming_and_going_leaves_nothing(void **state)
{
    enum { N = 20000, BETWEEN = 500 };
    /* What is freed shall not count. */
    static const char *const environment[] = {"ASAN_OPTIONS=quarantine_size_mb=1", NULL};
    const struct daemon_options options = {.environment = environment};
    struct scene *s = *state;
    long before = 0;

    scene_prepare(s, serve, NULL, NULL);
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_quick_answer(&s->rpc);
    int n = daemon_n_descriptors(&s->daemon);
    int64_t start_ms = harness_now_ms();
    for (int i = 0; i < N; i++) {
        int fd = raw_socket(s->daemon.socket);
        if (i % 3 == 0)
            assert_int_equal(send(fd, PEER_PREFACE, 24, MSG_NOSIGNAL), 24);
        close(fd);
        if (i % BETWEEN == 0)
            expect_quick_answer(&s->rpc);
        if (i == N / 4)
            before = daemon_rss_kib(&s->daemon);
    }
    print_message("%d connections in %d ms\n", N, (int)(harness_now_ms() - start_ms));
    while (daemon_n_descriptors(&s->daemon) > n)
        expect_quick_answer(&s->rpc);
    long more = daemon_rss_kib(&s->daemon) - before;
    if (more > 4096)
        fail_msg("%ld KiB more", more);
    scene_stop(s);
}

static void test_without_descriptors_it_rests_and_recovers(void **state)
{
    enum { N = 50 };
    struct scene *s = *state;
    static const char complaint[] = "no connection can be accepted at the moment";
    struct rpc waiting;
    int fds[N];

    scene_start(s, serve, NULL, NULL);
    expect_quick_answer(&s->rpc);
    set_limit(&s->daemon, (rlim_t)daemon_n_descriptors(&s->daemon));
    for (int i = 0; i < N; i++)
        fds[i] = raw_socket(s->daemon.socket);
    rpc_connect(&waiting, s->daemon.socket);
    await_logged(&s->daemon, complaint, 1);

    int64_t start_ms = harness_now_ms();
    int64_t cpu_us = daemon_cpu_us(&s->daemon);
    await_logged(&s->daemon, complaint, 4);
    int64_t elapsed_ms = harness_now_ms() - start_ms;
    cpu_us = daemon_cpu_us(&s->daemon) - cpu_us;
    assert_in_range(elapsed_ms, 2500, HARNESS_TIMEOUT_MS);
    if (cpu_us > elapsed_ms * 50)
        fail_msg("%ld us of CPU in %ld ms of resting", (long)cpu_us, (long)elapsed_ms);
    /* Who is in is served, if only with what needs no descriptor. */
    scene_assert_serving(s);

    set_limit(&s->daemon, 0);
    start_ms = harness_now_ms();
    expect_quick_answer(&waiting);
    assert_in_range(harness_now_ms() - start_ms, 0, 5000);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    rpc_close(&waiting);
    scene_stop(s);
}

static void hold(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        fake_mark(c->fake, FAKE_STEP);
        if (!fake_await(c->fake, FAKE_GO, 1) ||
            !fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
            return;
    }
}

/* Begins calls that the upstream holds. */
static void begin_calls(struct rpc *r, struct grpc_client_call **calls, size_t n)
{
    rpc_request request = rpc_request_new("m", "quick");

    for (size_t i = 0; i < n; i++)
        calls[i] = rpc_start(r, RPC_CREATE, &request, -1);
    rpc_turn(r, 0);
}

/* That it can't connect is not the upstream's fault: nobody else may hear that it is down. */
static void test_calls_without_a_descriptor_fail_alone(void **state)
{
    enum { N = 12 }; /* more failures than make an upstream unreachable */
    struct scene *s = *state;
    struct grpc_client_call *calls[N];
    struct rpc_result result;

    scene_start(s, hold, NULL, NULL);
    begin_calls(&s->rpc, calls, 1);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    leave_no_descriptor(&s->daemon);
    begin_calls(&s->rpc, calls + 1, N - 1);
    for (int i = 1; i < N; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, "OUT_OF_MEMORY");
        rpc_assert_said(&result, "no file descriptor left");
        rpc_result_done(&result);
    }
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, calls[0], &result);
    rpc_assert_ok(&result, "quick");
    rpc_result_done(&result);
    expect_quick_answer(&s->rpc);
    daemon_assert_not_logged(&s->daemon, "can't be reached");
    set_limit(&s->daemon, 0);
    scene_stop(s);
}

static void test_idle_connections_give_way_to_callers(void **state)
{
    enum { N = 40 };
    struct scene *s = *state;
    struct grpc_client_call *calls[N];
    struct rpc_result result;
    struct rpc newcomer;

    scene_start(s, hold, NULL, NULL);
    begin_calls(&s->rpc, calls, N);
    assert_true(fake_await(s->fake, FAKE_STEP, N));
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_ok(&result, "quick");
        rpc_result_done(&result);
    }
    leave_no_descriptor(&s->daemon);
    rpc_connect(&newcomer, s->daemon.socket);
    expect_quick_answer(&newcomer);
    rpc_close(&newcomer);
    set_limit(&s->daemon, 0);
    scene_stop(s);
}

/* 200 descriptors are 68 connections, and 51 for each user. */
static void test_user_with_too_many_connections_is_told(void **state)
{
    enum { MAX = 51, MORE = 40 };
    struct scene *s = *state;
    struct raw r;
    int fds[MAX + MORE];
    char c;

    start_with_limit(s, 200);
    expect_quick_answer(&s->rpc);
    for (int i = 1; i < MAX; i++)
        fds[i] = raw_socket(s->daemon.socket);
    raw_open(&r, s->daemon.socket);
    peer_hello(&r.sent);
    raw_append_call(&r.sent, 1, RPC_CREATE);
    raw_append_call(&r.sent, 3, RPC_CREATE);
    assert_true(raw_send(&r));
    raw_await_close(&r);
    assert_non_null(strstr(peer_text(&r.peer), "grpc-status: 8\ngrpc-message: too many connections "
                                               "of this user, who has 51"));
    assert_int_equal(r.peer.n_frames[NGHTTP2_HEADERS], 2);
    raw_close(&r);

    /* Those who do not ask are closed too, and all of them. */
    for (int i = MAX; i < MAX + MORE; i++)
        fds[i] = raw_socket(s->daemon.socket);
    for (int i = MAX; i < MAX + MORE; i++) {
        struct pollfd fd = {.fd = fds[i], .events = POLLIN};
        assert_int_equal(poll(&fd, 1, HARNESS_TIMEOUT_MS), 1);
        assert_true(recv(fds[i], &c, 1, 0) <= 0);
        close(fds[i]);
    }
    expect_quick_answer(&s->rpc);

    /* One goes, one may come. */
    close(fds[1]);
    struct rpc_result result = {.status = GRPC_RESOURCE_EXHAUSTED};
    while (result.status == GRPC_RESOURCE_EXHAUSTED) {
        rpc_request request = rpc_request_new("m", "quick");
        struct rpc other;
        rpc_connect(&other, s->daemon.socket);
        rpc_call(&other, RPC_CREATE, &request, &result);
        rpc_close(&other);
        if (result.status != GRPC_RESOURCE_EXHAUSTED)
            rpc_assert_ok(&result, "quick");
        rpc_result_done(&result);
    }
    for (int i = 2; i < MAX; i++)
        close(fds[i]);
    scene_stop(s);
}

/* In a process of another user: connections, as many as it can get, held until it is killed. It
 * says on the pipe how many it has tried. */
static void hoard(const char *path, int n, int report)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (setgid(65534) < 0 || setuid(65534) < 0)
        _exit(1);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    for (int i = 0; i < n; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
            _exit(2);
        /* It may be closed by now. */
        if (send(fd, PEER_PREFACE, 24, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
            _exit(3);
    }
    if (write(report, "x", 1) != 1)
        _exit(4);
    for (;;)
        pause();
}

static void test_one_user_takes_nothing_from_others(void **state)
{
    struct scene *s = *state;
    struct rpc newcomers[8];
    int report[2];
    char c;

    if (getuid() != 0) {
        print_message("skipped: only root can be two users\n");
        skip();
    }
    start_with_limit(s, 200);
    expect_quick_answer(&s->rpc);
    assert_int_equal(chmod(s->daemon.directory.path, 0755), 0);
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_int_equal(pipe2(report, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0)
        hoard(s->daemon.socket, 140, report[1]);
    assert_true(pid > 0);
    close(report[1]);
    assert_int_equal(read(report[0], &c, 1), 1);

    /* Somebody who was there, and some who come, each with an upstream. */
    expect_quick_answer(&s->rpc);
    for (int i = 0; i < 8; i++) {
        rpc_connect(&newcomers[i], s->daemon.socket);
        expect_quick_answer(&newcomers[i]);
    }
    scene_assert_serving(s);
    for (int i = 0; i < 8; i++)
        rpc_close(&newcomers[i]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(report[0]);
    expect_quick_answer(&s->rpc);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "too many connections: uid 65534 is refused");
    assert_in_range(count_logged(&s->daemon, "too many connections"), 1, 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_descriptors_that_are_sent_are_not_kept),
        scene_test(test_coming_and_going_leaves_nothing),
        scene_test(test_without_descriptors_it_rests_and_recovers),
        scene_test(test_calls_without_a_descriptor_fail_alone),
        scene_test(test_idle_connections_give_way_to_callers),
        scene_test(test_user_with_too_many_connections_is_told),
        scene_test(test_one_user_takes_nothing_from_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
