/*
 * As many connections as the daemon lets in, held by several processes and users: it takes half of
 * its descriptors for them, and serves as before.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "crowd.h"
#include "raw.h"
#include "scene.h"

/* Of 20,000 descriptors 9,968 are for callers; an eighth of them is kept from users who have more
 * than four, a 32nd from all but the daemon's own and root. */
enum {
    DESCRIPTORS = 20000,
    N_HOLDERS = 2,
    HELD = 4200, /* by each */
    N_USERS = 290,
    FEW = 4, /* for each of these */
    FIRST_UID = 20000,
    CALLS = 500,
};

#ifdef __SANITIZE_ADDRESS__
enum { CONNECTION_MAX_BYTES = 64 << 10 };
#else
enum { CONNECTION_MAX_BYTES = 24 << 10 };
#endif

/* ---- A process that holds connections ---- */

struct holder {
    pid_t pid;
    int ready, end;
};

static bool is_greeted(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    char c;

    return poll(&pfd, 1, HARNESS_TIMEOUT_MS) == 1 && recv(fd, &c, 1, 0) == 1;
}

/* In the child: nothing here may fail the test but by its status. */
static int hold(const char *path, uid_t uid, const struct buffer *greeting, int ready, int end)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static int fds[HELD];
    char c;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
        return 2;
    for (int i = 0; i < HELD; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fds[i], (struct sockaddr *)&address, sizeof address) < 0 ||
            send(fds[i], buffer_bytes(greeting), buffer_length(greeting), MSG_NOSIGNAL) < 0)
            return 3;
    }
    for (int i = 0; i < HELD; i++)
        if (!is_greeted(fds[i]))
            return 4;
    return write(ready, "r", 1) != 1 || read(end, &c, 1) < 0 ? 5 : 0;
}

static void holder_start(struct holder *h, const char *socket, uid_t uid)
{
    struct buffer greeting = BUFFER_INIT(1024);
    int ready[2], end[2];

    peer_hello(&greeting);
    assert_int_equal(pipe2(ready, O_CLOEXEC) | pipe2(end, O_CLOEXEC), 0);
    h->pid = fork();
    if (h->pid == 0) {
        close(end[1]);
        _exit(hold(socket, uid, &greeting, ready[1], end[0]));
    }
    assert_true(h->pid > 0);
    close(ready[1]);
    close(end[0]);
    h->ready = ready[0];
    h->end = end[1];
    buffer_done(&greeting);
}

static void holder_await(struct holder *h)
{
    char c;

    if (read(h->ready, &c, 1) != 1)
        fail_msg("a process that holds connections has given up");
}

/* Each has the pipes of those before it. */
static void holders_stop(struct holder *holders, int n)
{
    int status;

    while (n-- > 0) {
        close(holders[n].end);
        close(holders[n].ready);
        assert_int_equal(waitpid(holders[n].pid, &status, 0), holders[n].pid);
        assert_int_equal(status, 0);
    }
}

/* ---- The test ---- */

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

static int64_t measure_calls(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "p");
    int64_t before_us = daemon_cpu_us(&s->daemon);

    for (int i = 0; i < CALLS; i++) {
        struct rpc_result result;
        rpc_call(&s->rpc, RPC_CREATE, &request, &result);
        rpc_assert_ok(&result, "ok");
        rpc_result_done(&result);
    }
    return (daemon_cpu_us(&s->daemon) - before_us) / CALLS;
}

/* Microseconds of the daemon's CPU for a call, where nothing else is to be done: not the first
 * time, and each connection is looked at once after it has come. */
static int64_t cost_of_call(struct scene *s)
{
    int64_t least_us = INT64_MAX;

    for (int i = 0; i < 4; i++) {
        int64_t us = measure_calls(s);
        least_us = us < least_us ? us : least_us;
    }
    return least_us;
}

static void raise_limit(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    if (geteuid() != 0 || limit.rlim_max < DESCRIPTORS || setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        print_message("skipped: it takes root, and %d descriptors\n", DESCRIPTORS);
        skip();
    }
}

static void greet_as(struct scene *s, uid_t uid, struct raw *ret)
{
    assert_int_equal(seteuid(uid), 0);
    raw_open(ret, s->daemon.socket);
    assert_int_equal(seteuid(0), 0);
    peer_hello(&ret->sent);
    assert_true(raw_send(ret));
}

static void test_all_that_are_let_in_are_served(void **state)
{
    enum { FEW_ALL = N_USERS * FEW, ALL = N_HOLDERS * HELD + FEW_ALL };
    struct scene *s = *state;
    struct holder holders[N_HOLDERS];
    static struct raw few[FEW_ALL];
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    raise_limit();
    scene_start(s, serve, NULL,
                "[daemon]\nworkers = 1\nmemory_max = 4G\n[policy *]\nmax_memory = 4G\n");
    assert_int_equal(chmod(s->daemon.socket, 0666), 0);
    assert_int_equal(chmod(s->daemon.directory.path, 0755), 0);
    int64_t alone_us = cost_of_call(s);
    long before_kib = daemon_rss_kib(&s->daemon);
    int before = daemon_n_descriptors(&s->daemon);

    for (unsigned i = 0; i < N_HOLDERS; i++)
        holder_start(&holders[i], s->daemon.socket, FIRST_UID + i);
    for (int i = 0; i < N_HOLDERS; i++)
        holder_await(&holders[i]);
    for (unsigned i = 0; i < FEW_ALL; i++)
        greet_as(s, FIRST_UID + N_HOLDERS + i / FEW, &few[i]);
    for (int i = 0; i < FEW_ALL; i++)
        assert_true(raw_read(&few[i]));
    assert_true(daemon_n_descriptors(&s->daemon) >= before + ALL);

    long each_bytes = (daemon_rss_kib(&s->daemon) - before_kib) * 1024 / ALL;
    int64_t beside_us = cost_of_call(s);
    print_message("%d connections: %ld bytes of memory each, a call costs %d us, %d without\n", ALL,
                  each_bytes, (int)beside_us, (int)alone_us);
    assert_in_range(each_bytes, 0, CONNECTION_MAX_BYTES);
    assert_in_range(beside_us, 0, 2 * alone_us);
    /* Any of them is as good as the first. */
    for (int i = 0; i < FEW_ALL; i += 100) {
        raw_append_call(&few[i].sent, 1, RPC_CREATE);
        assert_true(raw_send(&few[i]));
        raw_await(&few[i], "grpc-status: 0");
    }
    for (int i = 0; i < FEW_ALL; i++)
        raw_close(&few[i]);
    holders_stop(holders, N_HOLDERS);
    while (daemon_n_descriptors(&s->daemon) > before)
        scene_assert_serving(s);
    scene_stop(s);
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {scene_test(test_all_that_are_let_in_are_served)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
