/*
 * Daemons that are killed or replaced at any time under load, as a service manager that keeps the
 * listening socket does it: nobody is refused, and nothing that was cut looks whole.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"

enum { ROUNDS = 10, STREAMS = 50, AT_ONCE_MS = 2000 };

/* ---- The service manager ---- */

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 4096), 0);
    return fd;
}

static struct crowd *gather(const struct scene *s)
{
    return crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 16,
        .n_calls = 4,
        .seed = 2463534242,
        .streamed = 60,
        .leaving = 5,
    });
}

static void assert_no_harm(const struct crowd_counts *n)
{
    assert_int_equal(n->n_refused, 0);
    assert_int_equal(n->n_torn, 0);
    assert_int_equal(n->n_ended, n->n_started);
    assert_true(n->longest_ms < HARNESS_TIMEOUT_MS);
}

/* ---- kill -9 ---- */

static void test_kills_at_random_times_refuse_nobody(void **state)
{
    struct scene *s = *state;
    int fd = listen_on(s->daemon.socket);
    struct daemon_options options = {.listen_fd = fd, .no_listen = true};

    scene_prepare(s, crowd_serve, NULL, NULL);
    struct crowd *c = gather(s);
    const struct crowd_counts *n = crowd_counts(c);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t n_ok = n->by_status[GRPC_OK];
        daemon_start(&s->daemon, &options);
        assert_true(crowd_run(c, 100));
        crowd_run_for(c, (i * 37) % 60);
        daemon_signal(&s->daemon, SIGKILL);
        /* They go on asking while nobody is there. */
        crowd_run_for(c, 5);
        daemon_wait(&s->daemon);
        crowd_run_for(c, 5);
        assert_true(n->by_status[GRPC_OK] > n_ok);
    }
    daemon_start(&s->daemon, &options);
    assert_true(crowd_run(c, 100));
    assert_true(crowd_settle(c));
    assert_no_harm(n);
    assert_true(n->by_status[GRPC_UNAVAILABLE] > 0);
    assert_int_equal(n->by_status[GRPC_OK] + n->by_status[GRPC_UNAVAILABLE], n->n_ended);
    crowd_free(c);
    scene_stop(s);
    close(fd);
}

static void stall(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")))
        fake_wait_for_close(c);
}

static void test_callers_of_a_killed_daemon_learn_of_it_at_once(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct grpc_client_call *calls[STREAMS];
    struct rpc_result result;

    scene_start(s, stall, NULL, "[policy *]\nmax_concurrent = 1000\n");
    for (int i = 0; i < STREAMS; i++)
        calls[i] = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    for (int i = 0; i < STREAMS; i++)
        rpc_completion_free(rpc_next(&s->rpc, calls[i]));
    daemon_signal(&s->daemon, SIGKILL);
    daemon_wait(&s->daemon);
    int64_t began_ms = harness_now_ms();
    for (int i = 0; i < STREAMS; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        assert_int_equal(result.status, GRPC_UNAVAILABLE);
        rpc_result_done(&result);
    }
    assert_true(harness_now_ms() - began_ms < AT_ONCE_MS);
    /* The generations stop as well. */
    assert_true(fake_await(s->fake, FAKE_CLOSED, STREAMS));
}

/* ---- Restarts ---- */

static void test_restarts_under_load_lose_nothing(void **state)
{
    struct scene *s = *state;
    int fd = listen_on(s->daemon.socket);
    struct daemon_options options = {.listen_fd = fd, .no_listen = true};

    scene_prepare(s, crowd_serve, NULL, NULL);
    struct crowd *c = gather(s);
    const struct crowd_counts *n = crowd_counts(c);
    for (int i = 0; i < ROUNDS; i++) {
        daemon_start(&s->daemon, &options);
        assert_true(crowd_run(c, 100));
        daemon_signal(&s->daemon, SIGTERM);
        crowd_run_for(c, 250);
        daemon_wait_exit(&s->daemon, 0);
    }
    daemon_start(&s->daemon, &options);
    assert_true(crowd_settle(c));
    assert_no_harm(n);
    /* What did not end well was not begun: a caller makes it again without a risk. */
    assert_int_equal(n->by_status[GRPC_OK] + n->n_unprocessed + n->n_abandoned, n->n_ended);
    crowd_free(c);
    scene_stop(s);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_kills_at_random_times_refuse_nobody),
        scene_test(test_callers_of_a_killed_daemon_learn_of_it_at_once),
        scene_test(test_restarts_under_load_lose_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
