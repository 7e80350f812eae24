/*
 * Signals that nobody meant, and kernels and sandboxes that refuse what is nice to have.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"

enum { CAN_NOT = 77 };

static struct crowd *gather(const struct scene *s)
{
    return crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 4,
        .n_calls = 4,
        .seed = 1,
        .streamed = 50,
    });
}

static void disperse(struct crowd *c)
{
    assert_true(crowd_settle(c));
    assert_int_equal(crowd_counts(c)->by_status[GRPC_OK], crowd_counts(c)->n_ended);
    crowd_free(c);
}

static void work(struct scene *s)
{
    struct crowd *c = gather(s);

    assert_true(crowd_run(c, 30));
    disperse(c);
}

/* False: what is asked of the launcher can't be had here. */
static bool start(struct scene *s, const char *const *wrapper)
{
    siginfo_t ended = {0};

    daemon_spawn(&s->daemon, &(struct daemon_options){.wrapper = wrapper});
    /* One of them comes first. */
    struct pollfd fds[] = {{s->daemon.notify, POLLIN, 0}, {s->daemon.pidfd, POLLIN, 0}};
    assert_true(poll(fds, 2, HARNESS_TIMEOUT_MS) > 0);
    if (waitid(P_PID, (id_t)s->daemon.pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        ended.si_pid != 0) {
        daemon_wait_exit(&s->daemon, CAN_NOT);
        return false;
    }
    daemon_await(&s->daemon, "READY=1");
    return true;
}

/* ---- Signals ---- */

static void test_stray_signals_hurt_no_call(void **state)
{
    static const int strays[] = {SIGPIPE, SIGCHLD,  SIGUSR1, SIGUSR2,
                                 SIGALRM, SIGWINCH, SIGURG,  SIGCONT};
    struct scene *s = *state;

    scene_start(s, crowd_serve, NULL, NULL);
    struct crowd *c = gather(s);
    for (int round = 0; round < 5; round++)
        for (size_t i = 0; i < sizeof strays / sizeof *strays; i++) {
            daemon_signal(&s->daemon, strays[i]);
            assert_true(crowd_run(c, 5));
        }
    disperse(c);
    scene_stop(s);
}

/* What it does with each is in --help. */
static void test_blocked_and_ignored_signals_work_all_the_same(void **state)
{
    static const char *const how[] = {"blocked", "ignored"};
    struct scene *s = *state;

    scene_prepare(s, crowd_serve, NULL, NULL);
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        const char *wrapper[] = {LAUNCHER, "--signals", how[i], "--", NULL};
        assert_true(start(s, wrapper));
        daemon_signal(&s->daemon, SIGUSR1);
        daemon_signal(&s->daemon, SIGHUP);
        daemon_await(&s->daemon, "RELOADING=1");
        daemon_await(&s->daemon, "READY=1");
        work(s);
        daemon_signal(&s->daemon, SIGTERM);
        daemon_await(&s->daemon, "STOPPING=1");
        daemon_wait_exit(&s->daemon, 0);
    }
}

/* It is not lost, and done once the daemon has started. */
static void test_reload_during_the_start_is_done_after_it(void **state)
{
    struct scene *s = *state;
    sigset_t reload, before;

    sigemptyset(&reload);
    sigaddset(&reload, SIGHUP);
    scene_prepare(s, crowd_serve, NULL, NULL);
    for (int ms = 0; ms < 20; ms++) {
        /* Blocked from the beginning: else it may end what is to become the daemon. */
        sigprocmask(SIG_BLOCK, &reload, &before);
        daemon_spawn(&s->daemon, NULL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        poll(NULL, 0, ms);
        daemon_signal(&s->daemon, SIGHUP);
        daemon_await(&s->daemon, "RELOADING=1");
        daemon_await(&s->daemon, "READY=1");
        rpc_connect(&s->rpc, s->daemon.socket);
        scene_assert_serving(s);
        scene_stop(s);
    }
}

/* ---- What the kernel refuses ---- */

/* The thread sanitizer can't do without what is refused here. */
static void skip_with_tsan(void)
{
    if (HARNESS_HAS_TSAN) {
        print_message("skipped: with the thread sanitizer\n");
        skip();
    }
}

static void test_refused_system_calls_are_done_without(void **state)
{
    static const char *const refusals[][2] = {
        {"--eperm", "mlock"},         {"--eperm", "mlock2"},
        {"--eperm", "madvise"},       {"--eperm", "setrlimit"},
        {"--enosys", "close_range"},  {"--enosys", "memfd_secret"},
        {"--enosys", "pidfd_open"},   {"--enosys", "landlock_create_ruleset"},
        {"--enosys", "bpf"},          {"--enosys", "io_uring_setup"},
        {"--enosys", "eventfd2"},     {"--enosys", "timerfd_create"},
        {"--enosys", "epoll_pwait2"}, {"--eperm", "prctl"},
    };
    struct scene *s = *state;

    skip_with_tsan();
    scene_prepare(s, crowd_serve, NULL, NULL);
    /* The sanitizer itself needs what is refused here. */
    daemon_add_asan_option("detect_leaks=0:disable_coredump=0");
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const char *wrapper[] = {LAUNCHER, refusals[i][0], refusals[i][1], "--", NULL};
        if (!start(s, wrapper)) {
            print_message("skipped: system calls can't be refused here\n");
            skip();
        }
        work(s);
        rpc_connect(&s->rpc, s->daemon.socket);
        scene_stop(s);
    }
}

static void test_all_of_them_refused_at_once(void **state)
{
    struct scene *s = *state;
    const char *wrapper[] = {
        LAUNCHER,   "--memlock", "0",         "--eperm",  "mlock",       "--eperm",
        "madvise",  "--eperm",   "setrlimit", "--enosys", "close_range", "--enosys",
        "eventfd2", "--eperm",   "prctl",     "--",       NULL,
    };

    skip_with_tsan();
    scene_prepare(s, crowd_serve, NULL, NULL);
    daemon_add_asan_option("detect_leaks=0:disable_coredump=0");
    if (!start(s, wrapper)) {
        print_message("skipped: system calls can't be refused here\n");
        skip();
    }
    work(s);
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_stop(s);
    /* What that means for keys is said. */
    daemon_assert_logged(&s->daemon, "PR_SET_DUMPABLE");
}

static void test_without_locked_memory_it_starts(void **state)
{
    struct scene *s = *state;
    const char *wrapper[] = {LAUNCHER, "--memlock", "0", "--", NULL};

    scene_prepare(s, crowd_serve, NULL, NULL);
    assert_true(start(s, wrapper));
    work(s);
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_stray_signals_hurt_no_call),
        scene_test(test_blocked_and_ignored_signals_work_all_the_same),
        scene_test(test_reload_during_the_start_is_done_after_it),
        scene_test(test_refused_system_calls_are_done_without),
        scene_test(test_all_of_them_refused_at_once),
        scene_test(test_without_locked_memory_it_starts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
