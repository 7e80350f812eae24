/*
 * The program on disk is replaced and the daemon told to reload: the new one takes over, nobody is
 * refused, nothing is cut, and what goes wrong with it changes nothing.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"
#include "upgrade.h"

enum {
    UPGRADES = 20,
    STREAMS = 100,
    LOTS = 4, /* in which the streams begin, of so many processes */
    EACH = STREAMS / LOTS,
    NEWCOMER_MAX_MS = 1000,
};

#define MANY    "max_concurrent = 1000\n[policy *]\nmax_concurrent = 1000\n"
#define HURRIED "[daemon]\ndrain_timeout = 200ms\n"

/* ---- Upstreams ---- */

/* A stream whose prompt is "hold" ends when the test says so. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"hold\"")) {
            if (!crowd_answer(c))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                   !fake_stream_done(c)) {
            return;
        }
    }
}

/* ---- Callers ---- */

static void expect_answer(const struct daemon *d)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;
    struct rpc r;

    rpc_connect(&r, d->socket);
    rpc_call(&r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    rpc_close(&r);
}

static struct grpc_client_call *hold(struct rpc *r)
{
    rpc_request request = rpc_request_new("m", "hold");
    struct grpc_client_call *call = rpc_start(r, RPC_CREATE_STREAM, &request, -1);

    rpc_completion_free(rpc_next(r, call));
    return call;
}

static void finish_ok(struct rpc *r, struct grpc_client_call *call)
{
    struct rpc_result result;

    rpc_finish(r, call, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
}

/* ---- The daemon ---- */

static void start(struct scene *s, const char *settings, struct daemon_options options)
{
    options.binary = upgrade_install(&s->daemon);
    scene_prepare(s, serve, NULL, settings);
    daemon_start(&s->daemon, &options);
}

/* Nobody else is there, running or dead. */
static void assert_alone(const struct daemon *d)
{
    pid_t children[UPGRADE_CHILDREN_MAX];

    assert_int_equal(upgrade_children(children), 1);
    assert_int_equal(children[0], d->pid);
}

static void stop(struct scene *s)
{
    assert_alone(&s->daemon);
    scene_stop(s);
    /* Made by hand, by the first of them. */
    assert_int_equal(access(s->daemon.socket, F_OK), -1);
}

static int teardown(void **state)
{
    struct scene *s = *state;

    if (upgrade_kill_children() > 0) {
        char *log = daemon_log(&s->daemon);
        fprintf(stderr, "the daemon's log:\n%s", log);
        free(log);
        s->daemon.pid = 0;
    }
    return scene_teardown(state);
}

/* ---- Under load ---- */

/* One after the other connects, asks once and goes. */
struct newcomers {
    struct crowd *crowd;
    atomic_bool over;
    pthread_t thread;
};

static void *run_newcomers(void *user)
{
    struct newcomers *n = user;

    while (!n->over)
        crowd_turn(n->crowd, 1);
    return NULL;
}

static void newcomers_start(struct newcomers *n, const struct scene *s)
{
    *n = (struct newcomers){.crowd = crowd_new(&(struct crowd_options){
                                .socket = s->daemon.socket,
                                .model = "m",
                                .n_callers = 1,
                                .n_calls = 1,
                                .seed = 7,
                                .leaving = 100,
                            })};
    assert_int_equal(pthread_create(&n->thread, NULL, run_newcomers, n), 0);
}

static void newcomers_stop(struct newcomers *n)
{
    n->over = true;
    pthread_join(n->thread, NULL);
}

/* All have ended well, but for those that the caller may send again because they were not begun. */
static void assert_nothing_lost(struct crowd *c, const char *who)
{
    assert_true(crowd_settle(c));
    const struct crowd_counts *n = crowd_counts(c);
    print_message("%s: %llu calls on %llu connections, %llu of them not begun, longest %lld ms\n",
                  who, (unsigned long long)n->n_ended, (unsigned long long)n->n_connected,
                  (unsigned long long)n->n_unprocessed, (long long)n->longest_ms);
    assert_int_equal(n->n_refused, 0);
    assert_int_equal(n->n_torn, 0);
    assert_int_equal(n->n_started, n->n_ended);
    assert_int_equal(n->by_status[GRPC_OK] + n->n_unprocessed, n->n_ended);
}

static void await_word(struct daemon *d, struct crowd *c)
{
    struct pollfd fd = {d->notify, POLLIN, 0};

    do
        crowd_turn(c, 1);
    while (poll(&fd, 1, 0) == 0);
}

static void upgrade_under_load(struct daemon *d, struct crowd *c, pid_t *ret_before)
{
    upgrade_install(d);
    daemon_signal(d, SIGHUP);
    await_word(d, c);
    upgrade_hear(d, "RELOADING=1");
    await_word(d, c);
    *ret_before = upgrade_follow(d);
    assert_true(crowd_run(c, 100));
}

static void test_upgrades_under_load_cut_nothing(void **state)
{
    struct scene *s = *state;
    struct grpc_client_call *streams[STREAMS];
    struct rpc holders[LOTS];
    struct newcomers newcomers;
    pid_t before[UPGRADES];
    int n_streams = 0;

    start(s, MANY, (struct daemon_options){0});
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = 8,
        .n_calls = 4,
        .seed = 1,
    });
    newcomers_start(&newcomers, s);
    for (int i = 0; i < UPGRADES; i++) {
        if (i % (UPGRADES / LOTS) == 0) {
            struct rpc *holder = &holders[i / (UPGRADES / LOTS)];
            rpc_connect(holder, s->daemon.socket);
            for (int k = 0; k < EACH; k++)
                streams[n_streams++] = hold(holder);
        }
        upgrade_under_load(&s->daemon, c, &before[i]);
    }
    newcomers_stop(&newcomers);
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < STREAMS; i++)
        finish_ok(&holders[i / EACH], streams[i]);
    assert_nothing_lost(c, "as fast as they go");
    assert_nothing_lost(newcomers.crowd, "newcomers");
    assert_in_range(crowd_counts(newcomers.crowd)->longest_ms, 0, NEWCOMER_MAX_MS);
    for (int i = 0; i < UPGRADES; i++)
        upgrade_wait_exit(before[i], 0);
    for (int i = 0; i < LOTS; i++)
        rpc_close(&holders[i]);
    crowd_free(newcomers.crowd);
    crowd_free(c);
    stop(s);
}

/* What callers leave behind is closed in the daemon's time. */
static void await_descriptors(const struct daemon *d, int n)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;

    while (daemon_n_descriptors(d) != n)
        if (harness_now_ms() > until)
            fail_msg("%d descriptors, not %d", daemon_n_descriptors(d), n);
}

/* What is open for one call stays open, and the daemon has nothing else to open. */
static void connect_warmly(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_connect(&s->rpc, s->daemon.socket);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
}

static void test_all_processes_have_as_many_descriptors(void **state)
{
    struct scene *s = *state;
    int n = 0;

    start(s, NULL, (struct daemon_options){0});
    for (int i = 0; i < 6; i++) {
        upgrade_install(&s->daemon);
        upgrade_wait_exit(upgrade(&s->daemon), 0);
        /* A reload that comes back: the socket to the old one has been closed. */
        daemon_signal(&s->daemon, SIGHUP);
        upgrade_hear(&s->daemon, "READY=1");
        connect_warmly(s);
        /* The first had what was open in the test. */
        if (i == 0)
            n = daemon_n_descriptors(&s->daemon);
        await_descriptors(&s->daemon, n);
        rpc_close(&s->rpc);
    }
    stop(s);
}

/* ---- New programs that are no good ---- */

#define SAY(word) "printf " word " >&$COMPLETIOND_HANDOVER\n"
/* Takes the next packet. */
#define HEAR "dd bs=8192 count=1 <&$COMPLETIOND_HANDOVER >/dev/null 2>&1\n"

static void expect_failure(struct scene *s, struct rpc *old, const char *why)
{
    pid_t children[UPGRADE_CHILDREN_MAX], pid = s->daemon.pid;
    struct rpc_result result;
    rpc_request request = rpc_request_new("m", "p");

    int n = daemon_n_descriptors(&s->daemon);
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    rpc_call(old, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "whole");
    rpc_result_done(&result);
    upgrade_hear(&s->daemon, "READY=1");
    assert_non_null(strstr(s->daemon.notification, "STATUS=Serving; the last upgrade failed: "));
    if (!strstr(s->daemon.notification, why))
        fail_msg("\"%s\" lacks \"%s\"", s->daemon.notification, why);
    daemon_assert_logged(&s->daemon, why);
    expect_answer(&s->daemon);
    await_descriptors(&s->daemon, n);
    /* The one that failed has ended or been killed. */
    unsigned n_children = upgrade_children(children);
    for (unsigned i = 0; i < n_children; i++)
        if (children[i] != pid)
            upgrade_wait(children[i]);
    assert_alone(&s->daemon);
    assert_int_equal(s->daemon.pid, pid);
}

static void test_new_program_that_is_no_good_leaves_the_old_one_serving(void **state)
{
    static const struct {
        const char *text, *why;
        mode_t mode;
    } programs[] = {
        {"#!/bin/sh\nexit 3\n", "ended before it could serve", 0755},
        {"#!/bin/sh\nkill -SEGV $$\n", "ended before it could serve", 0755},
        {"#!/bin/sh\nexit 0\n", "can't be executed: Permission denied", 0644},
        {"neither fish nor fowl\n", "can't be executed: Exec format error", 0755},
        {"", "can't be executed: Exec format error", 0755},
        {"#!/nowhere/at/all\n", "can't be executed: No such file or directory", 0755},
        {"#!/bin/sh\n" SAY("ERROR=nonsense"), "nonsense", 0755},
        {"#!/bin/sh\n" SAY("SERVING=1") SAY("?") SAY("ERROR="), "ended before", 0755},
        /* Ends when it should serve. */
        {"#!/bin/sh\n" SAY("READY=1") HEAR HEAR "exit 0\n", "ended before it could serve", 0755},
        {"#!/bin/sh\nexec sleep 1000\n", "not get ready within 10 seconds", 0755},
        {"#!/bin/sh\n" SAY("READY=1") "trap '' TERM\nsleep 1000\n", "within 10 seconds", 0755},
    };
    struct scene *s = *state;

    start(s, DAEMON_ONE_WORKER, (struct daemon_options){0});
    connect_warmly(s);
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        upgrade_install_text(&s->daemon, programs[i].text, programs[i].mode);
        expect_failure(s, &s->rpc, programs[i].why);
    }
    /* And a good one is as welcome as ever. */
    upgrade_install(&s->daemon);
    pid_t before = upgrade(&s->daemon);
    expect_answer(&s->daemon);
    rpc_close(&s->rpc);
    upgrade_wait_exit(before, 0);
    stop(s);
}

static void test_configuration_that_the_new_one_refuses_leaves_the_old_one_serving(void **state)
{
    struct scene *s = *state;

    start(s, DAEMON_ONE_WORKER, (struct daemon_options){0});
    char *good = directory_read(s->daemon.config);
    connect_warmly(s);
    daemon_configure(&s->daemon, "[nonsense]\n");
    upgrade_install(&s->daemon);
    expect_failure(s, &s->rpc, "nonsense");
    daemon_configure(&s->daemon, good);
    rpc_close(&s->rpc);
    upgrade_wait_exit(upgrade(&s->daemon), 0);
    expect_answer(&s->daemon);
    free(good);
    stop(s);
}

static void test_program_that_is_missing_or_the_same_is_a_plain_reload(void **state)
{
    struct scene *s = *state;

    start(s, NULL, (struct daemon_options){0});
    pid_t pid = s->daemon.pid;
    for (int i = 0; i < 2; i++) {
        daemon_signal(&s->daemon, SIGHUP);
        upgrade_hear(&s->daemon, "READY=1");
        assert_null(strstr(s->daemon.notification, "MAINPID"));
        daemon_assert_logged(&s->daemon, "configuration read again");
        assert_int_equal(s->daemon.pid, pid);
        unlink(directory_path(&s->daemon.directory, "completiond"));
    }
    upgrade_install(&s->daemon);
    upgrade_wait_exit(upgrade(&s->daemon), 0);
    stop(s);
}

/* ---- What the new one gets ---- */

static void assert_lacks(pid_t pid, const char *file, const char *text)
{
    char path[64], bytes[65536];

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, bytes, sizeof bytes);
    assert_null(memmem(bytes, n > 0 ? (size_t)n : 0, text, strlen(text)));
    if (fd >= 0)
        close(fd);
}

static void test_key_of_the_environment_goes_along_unseen(void **state)
{
    struct scene *s = *state;
    char base_url[128];

    s->fake = fake_new(NULL, serve, NULL);
    snprintf(base_url, sizeof base_url, "OPENAI_BASE_URL=%s", fake_base_url(s->fake));
    const char *environment[] = {base_url, "OPENAI_API_KEY=" SCENE_KEY, NULL};
    daemon_configure(&s->daemon, "[daemon]\nlog_level = debug\n");
    daemon_start(&s->daemon, &(struct daemon_options){.binary = upgrade_install(&s->daemon),
                                                      .environment = environment});
    for (int i = 0; i < 3; i++) {
        upgrade_install(&s->daemon);
        upgrade_wait_exit(upgrade(&s->daemon), 0);
        expect_answer(&s->daemon);
        char *head = fake_last_head(s->fake);
        assert_non_null(strstr(head, "Bearer " SCENE_KEY "\r\n"));
        free(head);
        assert_lacks(s->daemon.pid, "environ", SCENE_SECRET);
        assert_lacks(s->daemon.pid, "cmdline", SCENE_SECRET);
    }
    stop(s);
}

static int listening(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void read_link(pid_t pid, int fd, char target[static 64])
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    ssize_t n = readlink(path, target, 63);
    target[n > 0 ? n : 0] = '\0';
}

/* Also one that is for something else than calls. */
static void test_sockets_of_systemd_keep_numbers_and_names_and_stay(void **state)
{
    struct scene *s = *state;
    char list[32], was[64], is[64], path[64];

    scene_prepare(s, serve, NULL, NULL);
    int rpc = listening(s->daemon.socket);
    int metrics = listening(directory_path(&s->daemon.directory, "metrics.sock"));
    snprintf(list, sizeof list, "%d,%d", metrics, rpc);
    fcntl(rpc, F_SETFD, 0);
    fcntl(metrics, F_SETFD, 0);
    const char *wrapper[] = {LAUNCHER, "--pass", list, "--listen-fds", "2", "--listen-pid",
                             "own",    "--",     NULL};
    const char *environment[] = {"LISTEN_FDNAMES=completiond-metrics:rpc.socket", NULL};
    daemon_start(&s->daemon, &(struct daemon_options){.binary = upgrade_install(&s->daemon),
                                                      .wrapper = wrapper,
                                                      .environment = environment,
                                                      .no_listen = true});
    for (int i = 0; i < 2; i++) {
        upgrade_install(&s->daemon);
        pid_t before = upgrade(&s->daemon);
        upgrade_wait_exit(before, 0);
        for (int fd = 3; fd <= 4; fd++) {
            read_link(s->daemon.pid, fd, is);
            read_link(getpid(), fd == 3 ? metrics : rpc, was);
            if (is[0])
                assert_string_equal(is, was);
        }
        snprintf(path, sizeof path, "/proc/%d/environ", (int)s->daemon.pid);
        if (access(path, R_OK) == 0) {
            char text[4096] = {0};
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            ssize_t n = read(fd, text, sizeof text - 1);
            close(fd);
            if (n > 0)
                assert_non_null(
                    memmem(text, (size_t)n, "LISTEN_FDNAMES=completiond-metrics:rpc.socket", 45));
        }
        expect_answer(&s->daemon);
    }
    assert_alone(&s->daemon);
    scene_stop(s);
    assert_int_equal(access(s->daemon.socket, F_OK), 0);
    close(rpc);
    close(metrics);
}

static void test_watchdog_is_fed_by_the_new_one_only(void **state)
{
    static const char *const environment[] = {"WATCHDOG_USEC=60000", NULL};
    struct scene *s = *state;

    start(s, NULL, (struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    struct grpc_client_call *call = hold(&s->rpc);
    upgrade_install(&s->daemon);
    pid_t before = upgrade(&s->daemon);
    /* Upgrades that follow each other faster than the first word of each must not starve it. */
    assert_non_null(strstr(s->daemon.notification, "\nWATCHDOG=1"));
    for (int i = 0; i < 10; i++)
        upgrade_hear(&s->daemon, "WATCHDOG=1");
    fake_mark(s->fake, FAKE_GO);
    finish_ok(&s->rpc, call);
    upgrade_wait_exit(before, 0);
    upgrade_hear(&s->daemon, "WATCHDOG=1");
    stop(s);
}

static void test_ordinary_user_may_upgrade(void **state)
{
    static const char *const wrapper[] = {"/usr/bin/setpriv",
                                          "--reuid=65534",
                                          "--regid=65534",
                                          "--clear-groups",
                                          "--no-new-privs",
                                          "--bounding-set=-all",
                                          "--inh-caps=-all",
                                          "--",
                                          NULL};
    struct scene *s = *state;

    if (geteuid() != 0 || access(wrapper[0], X_OK) < 0) {
        print_message("skipped: only root can become somebody else\n");
        skip();
    }
    const char *binary = upgrade_install(&s->daemon);
    scene_prepare(s, serve, NULL, NULL);
    assert_int_equal(chown(s->daemon.directory.path, 65534, 65534), 0);
    assert_int_equal(chown(s->daemon.config, 65534, 65534), 0);
    assert_int_equal(chown(directory_path(&s->daemon.directory, "key"), 65534, 65534), 0);
    daemon_spawn(&s->daemon, &(struct daemon_options){.binary = binary, .wrapper = wrapper});
    assert_int_equal(chmod(directory_path(&s->daemon.directory, "notify"), 0666), 0);
    upgrade_hear(&s->daemon, "READY=1");
    for (int i = 0; i < 2; i++) {
        upgrade_install(&s->daemon);
        upgrade_wait_exit(upgrade(&s->daemon), 0);
        expect_answer(&s->daemon);
    }
    stop(s);
}

/* ---- Signals at bad moments ---- */

static void test_old_calls_outlive_drain_timeout_but_not_a_signal(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    start(s, HURRIED, (struct daemon_options){0});
    rpc_connect(&s->rpc, s->daemon.socket);
    struct rpc other;
    rpc_connect(&other, s->daemon.socket);
    struct grpc_client_call *calls[] = {hold(&s->rpc), hold(&other)};
    upgrade_install(&s->daemon);
    pid_t first = upgrade(&s->daemon);
    /* The final GOAWAY, and more than drain_timeout. */
    while (grpc_client_session_is_open(s->rpc.session))
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
    while (rpc_turn(&s->rpc, 600))
        ;
    assert_false(grpc_client_call_is_ended(calls[0]));
    assert_int_equal(kill(first, SIGTERM), 0);
    for (int i = 0; i < 2; i++) {
        rpc_finish(i ? &other : &s->rpc, calls[i], &result);
        rpc_assert_failed(&result, GRPC_CANCELLED, "SHUTTING_DOWN");
        rpc_result_done(&result);
    }
    upgrade_wait_exit(first, 0);
    rpc_close(&other);
    /* systemd hears nothing of it, and the socket stays. */
    expect_answer(&s->daemon);
    stop(s);
}

static void test_signal_to_reload_again_reaches_the_new_one(void **state)
{
    struct scene *s = *state;

    start(s, NULL, (struct daemon_options){0});
    upgrade_install(&s->daemon);
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    upgrade_wait_exit(upgrade_follow(&s->daemon), 0);
    upgrade_hear(&s->daemon, "RELOADING=1");
    upgrade_hear(&s->daemon, "READY=1");
    daemon_assert_logged(&s->daemon, "configuration read again");
    stop(s);
}

static void test_signal_to_reload_again_is_obeyed_after_a_failure(void **state)
{
    struct scene *s = *state;

    start(s, NULL, (struct daemon_options){0});
    /* Tells the test that it runs by what it takes: nothing comes behind the first packet. */
    upgrade_install_text(&s->daemon, "#!/bin/sh\n" HEAR "read line <$0.go\nexit 1\n", 0755);
    assert_int_equal(mkfifo(directory_path(&s->daemon.directory, "completiond.go"), 0600), 0);
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    int go = open(directory_path(&s->daemon.directory, "completiond.go"), O_WRONLY | O_CLOEXEC);
    assert_true(go >= 0);
    upgrade_install(&s->daemon);
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    close(go);
    upgrade_hear(&s->daemon, "READY=1");
    assert_non_null(strstr(s->daemon.notification, "the last upgrade failed"));
    upgrade_hear(&s->daemon, "RELOADING=1");
    upgrade_wait_exit(upgrade_follow(&s->daemon), 0);
    assert_int_equal(waitpid(-1, NULL, 0) > 0, 1);
    stop(s);
}

static void test_end_of_the_service_ends_a_new_one_that_is_not_ready(void **state)
{
    struct scene *s = *state;
    pid_t children[UPGRADE_CHILDREN_MAX];

    start(s, NULL, (struct daemon_options){0});
    upgrade_install_text(&s->daemon, "#!/bin/sh\nexec sleep 1000\n", 0755);
    daemon_signal(&s->daemon, SIGHUP);
    upgrade_hear(&s->daemon, "RELOADING=1");
    daemon_stop(&s->daemon);
    /* Killed, or not even started. */
    unsigned n = upgrade_children(children);
    assert_in_range(n, 0, 1);
    if (n == 1)
        assert_int_equal(WTERMSIG(upgrade_wait(children[0])), SIGKILL);
    assert_int_equal(access(s->daemon.socket, F_OK), -1);
}

#define upgrade_test(function) cmocka_unit_test_setup_teardown(function, scene_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        upgrade_test(test_upgrades_under_load_cut_nothing),
        upgrade_test(test_all_processes_have_as_many_descriptors),
        upgrade_test(test_new_program_that_is_no_good_leaves_the_old_one_serving),
        upgrade_test(test_configuration_that_the_new_one_refuses_leaves_the_old_one_serving),
        upgrade_test(test_program_that_is_missing_or_the_same_is_a_plain_reload),
        upgrade_test(test_key_of_the_environment_goes_along_unseen),
        upgrade_test(test_sockets_of_systemd_keep_numbers_and_names_and_stay),
        upgrade_test(test_watchdog_is_fed_by_the_new_one_only),
        upgrade_test(test_ordinary_user_may_upgrade),
        upgrade_test(test_old_calls_outlive_drain_timeout_but_not_a_signal),
        upgrade_test(test_signal_to_reload_again_reaches_the_new_one),
        upgrade_test(test_signal_to_reload_again_is_obeyed_after_a_failure),
        upgrade_test(test_end_of_the_service_ends_a_new_one_that_is_not_ready),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
