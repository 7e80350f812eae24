/*
 * A daemon with four workers is one daemon: connections are spread over them, limits hold over all
 * of them, whoever waits at one is woken by another, and what is asked of the daemon - reload,
 * drain, status, metrics, the watchdog - is asked of all.
 *
 * Connections that are opened one after the other, each heard of, are each another worker's.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "completion/v1/status.pb-c.h"
#include "crowd.h"
#include "metrics.h"
#include "upgrade.h"

#define STATUS_GET "/completion.v1.Status/Get"

enum { N = 4 };
#define FOUR "[daemon]\nworkers = 4\n"

/* ---- Upstreams ---- */

/* Answers each request when the test has said go so many times. */
static void serve_when_told(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        unsigned n = fake_count(c->fake, FAKE_STEP) + 1;
        fake_mark(c->fake, FAKE_STEP);
        if (!fake_await(c->fake, FAKE_GO, n) ||
            !fake_answer(c, 200, "application/json", "", FAKE_LAST("a")))
            return;
    }
}

/* Begins a stream, and ends it when the test says so; answers other calls. user: the text. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", c->user ? c->user : FAKE_LAST("ok")))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                   !fake_stream_done(c)) {
            return;
        }
    }
}

/* ---- Callers ---- */

struct callers {
    struct rpc rpcs[N];
    struct grpc_client_call *calls[N];
};

static void expect_serving(struct rpc *r)
{
    struct grpc_client_call *call = rpc_start_raw(r, RPC_HEALTH, NULL, 0, -1, NULL, 0);
    struct rpc_result result;

    while (!grpc_client_call_is_ended(call))
        if (!rpc_turn(r, HARNESS_TIMEOUT_MS))
            fail_msg("the health check is not answered");
    result.status = grpc_client_call_status(call);
    grpc_client_call_free(call);
    assert_int_equal(result.status, GRPC_OK);
}

static void open_all(struct callers *c, const struct scene *s)
{
    *c = (struct callers){0};
    for (int i = 0; i < N; i++) {
        rpc_connect(&c->rpcs[i], s->daemon.socket);
        expect_serving(&c->rpcs[i]);
    }
}

static void close_all(struct callers *c)
{
    for (int i = 0; i < N; i++)
        rpc_close(&c->rpcs[i]);
}

static void begin(struct callers *c, int i, const char *path)
{
    rpc_request request = rpc_request_new("m", "p");

    c->calls[i] = rpc_start(&c->rpcs[i], path, &request, -1);
    rpc_turn(&c->rpcs[i], 0);
}

static void finish_ok(struct callers *c, int i, const char *text)
{
    struct rpc_result result;

    rpc_finish(&c->rpcs[i], c->calls[i], &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

static void expect_answer(struct rpc *r, const char *text)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

static void expect_refused(struct rpc *r, const char *reason)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, reason);
    rpc_result_done(&result);
}

/* Streams on all of them, of which the first piece has come. */
static void begin_streams(struct callers *c)
{
    for (int i = 0; i < N; i++) {
        begin(c, i, RPC_CREATE_STREAM);
        rpc_completion_free(rpc_next(&c->rpcs[i], c->calls[i]));
    }
}

typedef Completion__V1__GetStatusResponse status_response;

/* To be freed with status_done(). */
static status_response *status_get(struct rpc *r)
{
    const uint8_t *message;
    size_t len;
    struct grpc_client_call *call = rpc_start_raw(r, STATUS_GET, NULL, 0, -1, NULL, 0);

    while (!grpc_client_call_is_ended(call))
        if (!rpc_turn(r, HARNESS_TIMEOUT_MS))
            fail_msg("the status is not told");
    assert_int_equal(grpc_client_call_status(call), GRPC_OK);
    assert_int_equal(grpc_client_call_next(call, &message, &len), 1);
    status_response *s = completion__v1__get_status_response__unpack(NULL, len, message);
    assert_non_null(s);
    grpc_client_call_free(call);
    return s;
}

static void status_done(status_response *s)
{
    completion__v1__get_status_response__free_unpacked(s, NULL);
}

/* Until so many of this user's calls run and wait; each of the workers knows. */
static void await_calls(struct rpc *r, int64_t running, int64_t queued)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS, is_running, is_queued;

    do {
        status_response *s = status_get(r);
        assert_int_equal(s->n_users, 1);
        is_running = s->users[0]->running;
        is_queued = s->users[0]->queued;
        /* The upstreams' numbers are added up, one worker after the other, while calls go on. */
        status_done(s);
        if (harness_now_ms() > until)
            fail_msg("%d calls run and %d wait", (int)is_running, (int)is_queued);
    } while (is_running != running || is_queued != queued);
}

/* ---- Connections ---- */

static const char *series_of(int worker)
{
    static const char *const series[N] = {
        "completiond_worker_connections{worker=\"0\"}",
        "completiond_worker_connections{worker=\"1\"}",
        "completiond_worker_connections{worker=\"2\"}",
        "completiond_worker_connections{worker=\"3\"}",
    };
    return series[worker];
}

static void test_connections_are_spread(void **state)
{
    enum { ROUNDS = 5 };
    struct scene *s = *state;
    struct callers callers[ROUNDS];

    metrics_start(s, serve, NULL, FOUR);
    rpc_close(&s->rpc);
    metrics_await(s, "completiond_caller_connections_open", 0);
    for (int round = 0; round < ROUNDS; round++) {
        open_all(&callers[round], s);
        for (int i = 0; i < N; i++)
            metrics_await(s, series_of(i), round + 1);
    }
    /* Whoever has lost some gets the next ones. */
    for (int round = 0; round < ROUNDS - 1; round++)
        rpc_close(&callers[round].rpcs[2]);
    metrics_await(s, "completiond_caller_connections_open", (N - 1) * ROUNDS + 1);
    for (int round = 0; round < ROUNDS - 1; round++) {
        rpc_connect(&callers[round].rpcs[2], s->daemon.socket);
        expect_serving(&callers[round].rpcs[2]);
    }
    for (int i = 0; i < N; i++)
        metrics_await(s, series_of(i), ROUNDS);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            expect_answer(&callers[round].rpcs[i], "ok");
        close_all(&callers[round]);
    }
    metrics_await(s, "completiond_caller_connections_open", 0);
    metrics_await(s, "completiond_memory_bytes", 0);
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_stop(s);
}

/* All at once, and as fast as they can. */
static void test_a_rush_is_spread(void **state)
{
    enum { RUSH = 100 * N }; /* one is there */
    struct scene *s = *state;
    struct rpc rpcs[RUSH];

    metrics_start(s, serve, NULL, FOUR);
    for (int i = 0; i < RUSH - 1; i++)
        rpc_connect(&rpcs[i], s->daemon.socket);
    for (int i = 0; i < RUSH - 1; i++)
        expect_serving(&rpcs[i]);
    for (int i = 0; i < N; i++)
        metrics_await(s, series_of(i), RUSH / N);
    for (int i = 0; i < RUSH - 1; i++)
        rpc_close(&rpcs[i]);
    scene_stop(s);
}

/* ---- Limits ---- */

static void test_a_users_calls_count_over_all_workers(void **state)
{
    struct scene *s = *state;
    struct callers c;

    scene_start(s, serve_when_told, NULL, FOUR "[policy *]\nmax_concurrent = 1\nmax_queued = 2\n");
    open_all(&c, s);
    begin(&c, 0, RPC_CREATE);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    for (int i = 1; i < N - 1; i++) {
        begin(&c, i, RPC_CREATE);
        await_calls(&s->rpc, 1, i);
    }
    expect_refused(&c.rpcs[N - 1], "LOCAL_QUEUE_FULL");
    /* Each end of a call is the turn of one that waits at another worker, in their order. */
    for (int i = 0; i < N - 1; i++) {
        assert_int_equal(fake_count(s->fake, FAKE_STEP), i + 1);
        fake_mark(s->fake, FAKE_GO);
        finish_ok(&c, i, "a");
        if (i < N - 2)
            assert_true(fake_await(s->fake, FAKE_STEP, (unsigned)i + 2));
    }
    await_calls(&s->rpc, 0, 0);
    close_all(&c);
    scene_stop(s);
}

static void test_an_upstreams_limit_holds_over_all_workers(void **state)
{
    enum { ROUNDS = 50 };
    struct scene *s = *state;
    struct callers c;

    metrics_start(s, serve_when_told, NULL, "max_concurrent = 1\n" FOUR);
    open_all(&c, s);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            begin(&c, i, RPC_CREATE);
        for (unsigned i = 1; i <= N; i++) {
            assert_true(fake_await(s->fake, FAKE_STEP, N * round + i));
            assert_int_equal(fake_count(s->fake, FAKE_STEP), N * round + i);
            fake_mark(s->fake, FAKE_GO);
        }
        for (int i = 0; i < N; i++)
            finish_ok(&c, i, "a");
    }
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_running{upstream=\"fake\"}", 0);
    metrics_expect(page, "completiond_calls_queued{upstream=\"fake\"}", 0);
    metrics_expect(page, "completiond_queue_seconds_count{upstream=\"fake\"}", N * ROUNDS);
    free(page);
    close_all(&c);
    scene_stop(s);
}

/* A turn may be given to a call whose caller goes at the same moment. */
static void test_turns_are_not_lost(void **state)
{
    struct scene *s = *state;

    metrics_start(s, crowd_serve, NULL,
                  "max_concurrent = 2\nmax_queued = 1000\n" FOUR
                  "[policy *]\nmax_concurrent = 3\n");
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 24,
        .n_calls = 4,
        .seed = 5,
        .streamed = 50,
        .cancelled = 20,
        .timed = 20,
        .leaving = 5,
    });
    assert_true(crowd_run(c, 3000));
    assert_true(crowd_settle(c));
    assert_int_equal(crowd_counts(c)->n_torn, 0);
    crowd_free(c);
    metrics_await(s, "completiond_caller_connections_open", 1);
    metrics_await(s, "completiond_calls_running{upstream=\"fake\"}", 0);
    metrics_await(s, "completiond_calls_queued{upstream=\"fake\"}", 0);
    await_calls(&s->rpc, 0, 0);
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_rates_and_connections_count_over_all_workers(void **state)
{
    struct scene *s = *state;
    struct callers c;
    struct rpc one_more;

    scene_start(s, serve, NULL, FOUR "[policy *]\nrequests_per_minute = 6\nmax_connections = 5\n");
    open_all(&c, s);
    for (int i = 0; i < 6; i++)
        expect_answer(&c.rpcs[i % N], "ok");
    for (int i = 0; i < N; i++)
        expect_refused(&c.rpcs[i], "LOCAL_LIMIT");
    for (int i = 0; i < N; i++) {
        rpc_request request = rpc_request_new("m", "p");
        struct rpc_result result;
        rpc_connect(&one_more, s->daemon.socket);
        rpc_call(&one_more, RPC_CREATE, &request, &result);
        assert_int_equal(result.status, GRPC_RESOURCE_EXHAUSTED);
        rpc_assert_said(&result, "too many connections of this user, who has 5");
        rpc_result_done(&result);
        rpc_close(&one_more);
    }
    close_all(&c);
    scene_stop(s);
}

/* ---- Numbers ---- */

static void test_numbers_are_sums_whoever_is_asked(void **state)
{
    struct scene *s = *state;
    struct callers c;

    metrics_start(s, serve, NULL, FOUR);
    open_all(&c, s);
    for (int i = 0; i < N; i++)
        for (int k = 0; k <= i; k++)
            expect_answer(&c.rpcs[i], "ok");
    begin_streams(&c);
    for (int i = 0; i < N; i++) {
        status_response *r = status_get(&c.rpcs[i]);
        assert_int_equal(r->connections, N + 1);
        assert_int_equal(r->upstreams[0]->n_calls, 1);
        assert_int_equal(r->upstreams[0]->calls[0]->n, 10);
        assert_int_equal(r->upstreams[0]->running, N);
        assert_int_equal(r->users[0]->running, N);
        assert_int_equal(r->users[0]->connections, N + 1);
        assert_true(r->memory_used_bytes > 0);
        /* The answer itself is begun between the two. */
        assert_in_range(r->memory_used_bytes, r->users[0]->memory_used_bytes,
                        r->users[0]->memory_used_bytes + 4096);
        status_done(r);
    }
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"OK\"}", 10);
    metrics_expect(page, "completiond_calls_running{upstream=\"fake\"}", N);
    metrics_expect(page, "completiond_caller_connections_total", N + 1);
    metrics_expect(page, "completiond_caller_connections_open", N + 1);
    free(page);
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++)
        finish_ok(&c, i, "b");
    close_all(&c);
    scene_stop(s);
}

/* The status says how long a part of it is while other workers count on. */
enum { ENDPOINTS = 64 };

static void *run_crowd(void *crowd)
{
    /* So that each endpoint's number of attempts grows by a byte on the way. */
    return crowd_run(crowd, 200 * ENDPOINTS) && crowd_settle(crowd) ? crowd : NULL;
}

static void test_status_is_whole_while_others_count(void **state)
{
    struct scene *s = *state;
    char settings[8192], *end = settings;
    pthread_t thread;
    void *settled;

    struct fake *fake = fake_new(NULL, crowd_serve, NULL);
    for (int i = 0; i < ENDPOINTS; i++)
        end += sprintf(end, "base_url = %s/%d\n", fake_base_url(fake), i);
    strcpy(end, FOUR);
    scene_start(s, crowd_serve, NULL, settings);
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket, .model = "m", .n_callers = 7, .n_calls = 4, .seed = 7});
    assert_int_equal(pthread_create(&thread, NULL, run_crowd, c), 0);
    while (pthread_tryjoin_np(thread, &settled) != 0) {
        status_response *r = status_get(&s->rpc);
        assert_int_equal(r->n_upstreams, 1);
        assert_int_equal(r->upstreams[0]->n_endpoints, ENDPOINTS);
        status_done(r);
    }
    assert_non_null(settled);
    crowd_free(c);
    scene_stop(s);
    fake_free(fake);
}

/* ---- Reloads ---- */

static void reload(struct scene *s, const char *status)
{
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "RELOADING=1");
    daemon_await(&s->daemon, status);
}

static void test_reload_is_for_all_workers_or_for_none(void **state)
{
    enum { ROUNDS = 6 };
    struct scene *s = *state;
    struct callers c;
    struct fake *fakes[2] = {NULL};
    static const char *const answers[] = {FAKE_LAST("zero"), FAKE_LAST("one")};
    static const char *const texts[] = {"zero", "one"};
    char config[256];

    scene_start(s, serve, NULL, FOUR);
    char *before = directory_read(s->daemon.config);
    for (int i = 0; i < 2; i++)
        fakes[i] = fake_new(NULL, serve, answers[i]);
    open_all(&c, s);
    begin_streams(&c);
    for (int round = 0; round < ROUNDS; round++) {
        snprintf(config, sizeof config, FOUR "[upstream u]\nbase_url = %s\nauth = none\n",
                 fake_base_url(fakes[round % 2]));
        daemon_configure(&s->daemon, config);
        reload(s, "STATUS=Serving");
        for (int i = 0; i < N; i++)
            expect_answer(&c.rpcs[i], texts[round % 2]);
        daemon_configure(&s->daemon, FOUR "[nonsense]\n");
        reload(s, "STATUS=Serving; the last reload failed");
        for (int i = 0; i < N; i++)
            expect_answer(&c.rpcs[i], texts[round % 2]);
    }
    /* Those that had begun are where they were. */
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++)
        finish_ok(&c, i, "b");
    daemon_configure(&s->daemon, before);
    reload(s, "STATUS=Serving");
    for (int i = 0; i < N; i++)
        expect_answer(&c.rpcs[i], "ok");
    free(before);
    for (int i = 0; i < 2; i++)
        fake_free(fakes[i]);
    close_all(&c);
    scene_stop(s);
}

static void test_reloads_under_load(void **state)
{
    enum { RELOADS = 40 };
    struct scene *s = *state;

    scene_start(s, crowd_serve, NULL, "max_concurrent = 4\n" FOUR);
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 12,
        .n_calls = 3,
        .seed = 6,
        .streamed = 50,
        .leaving = 3,
    });
    for (int i = 0; i < RELOADS; i++) {
        daemon_signal(&s->daemon, SIGHUP);
        /* Another one while it goes on: the daemon speaks of the last. */
        daemon_signal(&s->daemon, SIGHUP);
        assert_true(crowd_run(c, 20));
    }
    daemon_await(&s->daemon, "READY=1");
    assert_true(crowd_settle(c));
    assert_int_equal(crowd_counts(c)->by_status[GRPC_OK] + crowd_counts(c)->n_abandoned,
                     crowd_counts(c)->n_ended);
    crowd_free(c);
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_another_number_is_for_the_next_start(void **state)
{
    struct scene *s = *state;
    struct callers c;

    scene_start(s, serve, NULL, FOUR);
    char *config = directory_read(s->daemon.config);
    *strstr(config, "workers = 4") = ';';
    daemon_configure(&s->daemon, config);
    free(config);
    reload(s, "STATUS=Serving");
    open_all(&c, s);
    for (int i = 0; i < N; i++)
        expect_answer(&c.rpcs[i], "ok");
    close_all(&c);
    scene_stop(s);
}

/* ---- The end ---- */

static void test_drain_waits_for_all_workers(void **state)
{
    struct scene *s = *state;
    struct callers c;

    scene_start(s, serve, NULL, FOUR);
    open_all(&c, s);
    begin_streams(&c);
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    rpc_close(&s->rpc);
    for (int i = 0; i < N; i++)
        while (grpc_client_session_is_open(c.rpcs[i].session))
            assert_true(rpc_turn(&c.rpcs[i], HARNESS_TIMEOUT_MS));
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++)
        finish_ok(&c, i, "b");
    daemon_wait_exit(&s->daemon, 0);
    daemon_assert_not_logged(&s->daemon, "are cut");
    close_all(&c);
}

static void test_drain_has_its_limit_with_all_workers(void **state)
{
    struct scene *s = *state;
    struct callers c;
    struct rpc_result result;

    scene_start(s, serve, NULL, FOUR "drain_timeout = 300ms\n");
    open_all(&c, s);
    begin_streams(&c);
    daemon_signal(&s->daemon, SIGTERM);
    for (int i = 0; i < N; i++) {
        rpc_finish(&c.rpcs[i], c.calls[i], &result);
        rpc_assert_failed(&result, GRPC_CANCELLED, "SHUTTING_DOWN");
        rpc_result_done(&result);
    }
    close_all(&c);
    rpc_close(&s->rpc);
    daemon_wait_exit(&s->daemon, 0);
}

static void test_second_signal_ends_all_workers_at_once(void **state)
{
    struct scene *s = *state;
    struct callers c;

    scene_start(s, serve, NULL, FOUR);
    open_all(&c, s);
    begin_streams(&c);
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    daemon_signal(&s->daemon, SIGTERM);
    daemon_wait_exit(&s->daemon, 0);
    for (int i = 0; i < N; i++)
        grpc_client_call_free(c.calls[i]);
    close_all(&c);
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

/* Each of the workers, one after the other, is the only one that has somebody. */
static void test_idle_exit_waits_for_all_workers(void **state)
{
    enum { IDLE_MS = 250 };
    struct scene *s = *state;
    struct callers c;
    int fd = listen_on(s->daemon.socket);

    scene_prepare(s, serve, NULL, FOUR "idle_exit = 250ms\n");
    daemon_start(&s->daemon, &(struct daemon_options){.listen_fd = fd, .no_listen = true});
    open_all(&c, s);
    for (int i = 0; i < N; i++) {
        /* Another daemon's time: it would be over by now. */
        struct pollfd end = {.fd = s->daemon.pidfd, .events = POLLIN};
        assert_int_equal(poll(&end, 1, 2 * IDLE_MS), 0);
        expect_answer(&c.rpcs[i], "ok");
        if (i < N - 1)
            rpc_close(&c.rpcs[i]);
    }
    int64_t gone_ms = harness_now_ms();
    rpc_close(&c.rpcs[N - 1]);
    daemon_wait_exit(&s->daemon, 0);
    assert_true(harness_now_ms() - gone_ms >= IDLE_MS);
    daemon_assert_logged(&s->daemon, "nobody has been connected for idle_exit");
    close(fd);
}

static void test_upgrade_lets_all_workers_end(void **state)
{
    struct scene *s = *state;
    struct callers old, new;

    const char *binary = upgrade_install(&s->daemon);
    scene_prepare(s, serve, NULL, FOUR);
    daemon_start(&s->daemon, &(struct daemon_options){.binary = binary});
    open_all(&old, s);
    begin_streams(&old);
    upgrade_install(&s->daemon);
    pid_t before = upgrade(&s->daemon);
    open_all(&new, s);
    for (int i = 0; i < N; i++)
        expect_answer(&new.rpcs[i], "ok");
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++)
        finish_ok(&old, i, "b");
    upgrade_wait_exit(before, 0);
    close_all(&old);
    close_all(&new);
    daemon_stop(&s->daemon);
}

/* ---- Threads ---- */

/* Of the daemon's, one that is not the main one. */
static pid_t find_thread(const struct daemon *d)
{
    char path[64];
    pid_t found = 0;

    snprintf(path, sizeof path, "/proc/%d/task", (int)d->pid);
    DIR *tasks = opendir(path);
    assert_non_null(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%.16s/comm", (int)d->pid, entry->d_name);
        char *name = entry->d_name[0] == '.' ? NULL : directory_read(path);
        if (name && !strcmp(name, "worker-2\n"))
            found = atoi(entry->d_name);
        free(name);
    }
    closedir(tasks);
    return found;
}

/* Whether it is fed within so long. */
static bool is_fed(struct daemon *d, int within_ms)
{
    int64_t until = harness_now_ms() + within_ms, left;
    char text[256];

    while ((left = until - harness_now_ms()) > 0) {
        struct pollfd fd = {.fd = d->notify, .events = POLLIN};
        if (poll(&fd, 1, (int)left) == 1 && recv(d->notify, text, sizeof text, 0) >= 10 &&
            !memcmp(text, "WATCHDOG=1", 10))
            return true;
    }
    return false;
}

/* What systemd would make of it: 900 ms without a word are its end. */
static void test_watchdog_is_not_fed_while_one_worker_hangs(void **state)
{
    const char *environment[] = {"WATCHDOG_USEC=900000", NULL};
    struct scene *s = *state;

    scene_prepare(s, serve, NULL, FOUR);
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    assert_true(is_fed(&s->daemon, HARNESS_TIMEOUT_MS));
    pid_t thread = find_thread(&s->daemon);
    assert_true(thread > 0);
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0) {
        print_message("skipped: a thread can't be stopped here: %s\n", strerror(errno));
        skip();
    }
    assert_int_equal(ptrace(PTRACE_INTERRUPT, thread, NULL, NULL), 0);
    assert_int_equal(waitpid(thread, NULL, __WALL), thread);
    /* Twice at most: it may have answered the last question, and the next one is asked. */
    for (int i = 0; i < 2; i++)
        is_fed(&s->daemon, 300);
    assert_false(is_fed(&s->daemon, 900));
    assert_int_equal(ptrace(PTRACE_DETACH, thread, NULL, NULL), 0);
    assert_true(is_fed(&s->daemon, HARNESS_TIMEOUT_MS));
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_thread_that_cant_be_started_is_an_error_at_start(void **state)
{
    const char *wrapper[] = {LAUNCHER, "--enosys", "clone3", "--eperm", "clone", "--", NULL};
    struct scene *s = *state;

    scene_prepare(s, serve, NULL, FOUR);
    /* The sanitizer needs a thread to look for leaks. */
    daemon_add_asan_option("detect_leaks=0");
    daemon_spawn(&s->daemon, &(struct daemon_options){.wrapper = wrapper});
    int status = daemon_wait(&s->daemon);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("skipped: system calls can't be refused here\n");
        skip();
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    daemon_assert_logged(&s->daemon, "the thread of worker 2 of 4 can't be started: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_connections_are_spread),
        scene_test(test_a_rush_is_spread),
        scene_test(test_a_users_calls_count_over_all_workers),
        scene_test(test_an_upstreams_limit_holds_over_all_workers),
        scene_test(test_turns_are_not_lost),
        scene_test(test_rates_and_connections_count_over_all_workers),
        scene_test(test_numbers_are_sums_whoever_is_asked),
        scene_test(test_status_is_whole_while_others_count),
        scene_test(test_reload_is_for_all_workers_or_for_none),
        scene_test(test_reloads_under_load),
        scene_test(test_another_number_is_for_the_next_start),
        scene_test(test_drain_waits_for_all_workers),
        scene_test(test_drain_has_its_limit_with_all_workers),
        scene_test(test_second_signal_ends_all_workers_at_once),
        scene_test(test_idle_exit_waits_for_all_workers),
        scene_test(test_upgrade_lets_all_workers_end),
        scene_test(test_watchdog_is_not_fed_while_one_worker_hangs),
        scene_test(test_thread_that_cant_be_started_is_an_error_at_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
