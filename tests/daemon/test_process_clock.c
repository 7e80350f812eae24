/*
 * Clocks that are wrong: the wall clock jumps by ten years both ways while calls are made, and the
 * monotonic one began long ago.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scene.h"

enum { EARLY_MS = 50, DAY_MS = 86400000 };

#define TEN_YEARS_S INT64_C(315360000)

/* ---- Upstreams ---- */

/* Answers when the test says so. */
static void answer_later(struct fake_connection *c)
{
    while (fake_read_request(c))
        if (!fake_await(c->fake, FAKE_GO, 1) ||
            !fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
            return;
}

static void never_answer(struct fake_connection *c)
{
    while (fake_read_request(c))
        ;
}

/* Overloaded once, until a date of the real clock: an hour ago or in an hour, as the test says. */
static void refuse_once(struct fake_connection *c)
{
    char header[128];
    time_t date = time(NULL) + *(const int *)c->user;

    strftime(header, sizeof header, "Retry-After: %a, %d %b %Y %H:%M:%S GMT\r\n", gmtime(&date));
    while (fake_read_request(c)) {
        bool first = fake_count(c->fake, FAKE_REQUESTED) == 1;
        if (!fake_answer(c, first ? 429 : 200, "application/json", first ? header : "",
                         first ? "{}" : FAKE_LAST("ok")))
            return;
    }
}

/* ---- The wall clock ---- */

/* Starts the scene with a wall clock of its own. */
static volatile int64_t *start(struct scene *s, fake_handler handler, const void *user,
                               const char *settings)
{
    char shim[256], file[128];
    const char *environment[] = {shim, file, NULL};

    scene_prepare(s, handler, user, settings);
    const char *path = directory_path(&s->daemon.directory, "clock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, sizeof(int64_t)), 0);
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(page != MAP_FAILED);
    close(fd);
    snprintf(shim, sizeof shim, "LD_PRELOAD=%s", CLOCK_SHIM);
    snprintf(file, sizeof file, "CLOCK_SHIM=%s", path);
    /* The sanitizer's library wants to be the first. */
    daemon_add_asan_option("verify_asan_link_order=0");
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    return page;
}

static void finish(struct scene *s, volatile int64_t *offset_s)
{
    scene_stop(s);
    munmap((void *)offset_s, sizeof *offset_s);
}

static void expect_ok(struct scene *s, struct grpc_client_call *call)
{
    struct rpc_result result;

    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
}

static void test_jumps_end_no_call(void **state)
{
    static const int64_t jumps[] = {TEN_YEARS_S, -TEN_YEARS_S, 0, 1, -1};
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    volatile int64_t *offset_s = start(s, answer_later, NULL, "first_byte_timeout = 25s\n");
    struct grpc_client_call *call =
        rpc_start(&s->rpc, RPC_CREATE, &request, HARNESS_TIMEOUT_MS - 5000);
    assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
    for (size_t i = 0; i < sizeof jumps / sizeof *jumps; i++) {
        *offset_s = jumps[i];
        for (int k = 0; k < 10; k++)
            scene_assert_serving(s);
        assert_false(grpc_client_call_is_ended(call));
    }
    fake_mark(s->fake, FAKE_GO);
    expect_ok(s, call);
    finish(s, offset_s);
}

/* Milliseconds that a call with this deadline takes, when the clock jumps meanwhile. */
static int64_t measure(struct scene *s, volatile int64_t *offset_s, int64_t jump_s, int timeout_ms,
                       enum grpc_status expected, const char *reason)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;
    unsigned n = fake_count(s->fake, FAKE_REQUESTED);

    *offset_s = 0;
    int64_t began_ms = harness_now_ms();
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE, &request, timeout_ms);
    assert_true(fake_await(s->fake, FAKE_REQUESTED, n + 1));
    *offset_s = jump_s;
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_failed(&result, expected, reason);
    rpc_result_done(&result);
    return harness_now_ms() - began_ms;
}

static void test_deadlines_and_timeouts_hold_in_spite_of_jumps(void **state)
{
    static const int64_t jumps[] = {TEN_YEARS_S, -TEN_YEARS_S};
    struct scene *s = *state;

    volatile int64_t *offset_s = start(s, never_answer, NULL, "first_byte_timeout = 1s\n");
    for (size_t i = 0; i < sizeof jumps / sizeof *jumps; i++) {
        int64_t ms =
            measure(s, offset_s, jumps[i], 400, GRPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED");
        assert_in_range(ms, 400 - EARLY_MS, HARNESS_TIMEOUT_MS);
        ms = measure(s, offset_s, jumps[i], -1, GRPC_UNAVAILABLE, NULL);
        assert_in_range(ms, 1000 - EARLY_MS, HARNESS_TIMEOUT_MS);
    }
    finish(s, offset_s);
}

/* ---- Retry-After ---- */

/* The upstream's clock and ours agree on nothing: the date is long past. */
static void test_date_that_is_past_for_us_is_now(void **state)
{
    static const int in_s = 3600;
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    volatile int64_t *offset_s = start(s, refuse_once, &in_s, "max_retries = 2\n");
    *offset_s = TEN_YEARS_S;
    expect_ok(s, rpc_start(&s->rpc, RPC_CREATE, &request, -1));
    finish(s, offset_s);
}

/* Ten years ahead: nobody waits for that, and nobody is told to. */
static void test_date_that_is_far_ahead_for_us_is_clamped(void **state)
{
    static const int in_s = -3600;
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    volatile int64_t *offset_s = start(s, refuse_once, &in_s, "max_retries = 2\n");
    *offset_s = -TEN_YEARS_S;
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_RESOURCE_EXHAUSTED, NULL);
    assert_true(result.detail->has_retry_after_ms);
    assert_in_range(result.detail->retry_after_ms, 1, DAY_MS);
    rpc_result_done(&result);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    finish(s, offset_s);
}

/* ---- The monotonic clock ---- */

static void test_machine_that_has_run_for_years_serves(void **state)
{
    static const char *const seconds[] = {"315360000", "4294967295"};
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    scene_prepare(s, answer_later, NULL, NULL);
    fake_mark(s->fake, FAKE_GO);
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) {
        const char *wrapper[] = {LAUNCHER, "--shift-monotonic", seconds[i], "--", NULL};
        daemon_spawn(&s->daemon, &(struct daemon_options){.wrapper = wrapper});
        siginfo_t ended = {0};
        if (waitid(P_PID, (id_t)s->daemon.pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            ended.si_pid != 0) {
            daemon_wait_exit(&s->daemon, 77);
            print_message("skipped: a monotonic clock of its own: not allowed here\n");
            skip();
        }
        daemon_await(&s->daemon, "READY=1");
        rpc_connect(&s->rpc, s->daemon.socket);
        expect_ok(s, rpc_start(&s->rpc, RPC_CREATE, &request, 20000));
        scene_stop(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_jumps_end_no_call),
        scene_test(test_deadlines_and_timeouts_hold_in_spite_of_jumps),
        scene_test(test_date_that_is_past_for_us_is_now),
        scene_test(test_date_that_is_far_ahead_for_us_is_clamped),
        scene_test(test_machine_that_has_run_for_years_serves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
