/*
 * Configurations that are wrong, at start and at a reload, and reloads while calls are made.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crowd.h"
#include "scene.h"

enum { RELOADS = 100, CALLERS = 8, RSS_SLACK_KIB = 8192 };

/* ---- Upstreams ---- */

/* The text is the end of the key that came. Streams end when the test says so. */
static void tell_key(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool is_new = strstr(c->head, "Authorization: Bearer sk-CANARY-new\r\n") != NULL;
        const char *text = is_new ? FAKE_LAST("new") : FAKE_LAST("old");
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", text))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, text) ||
                   !fake_stream_done(c)) {
            return;
        }
    }
}

/* ---- Configurations ---- */

/* What is wrong with one, and what the daemon says of it. %s is its directory. */
static const struct {
    const char *text, *said;
} mistakes[] = {
    {"[upstream a]\nbase_url = http://h\nnonsense = 1\n", "completiond.conf:3: "},
    {"[nonsense]\n", "completiond.conf:1: "},
    {"[daemon]\ndrain_timeout = soon\n", "completiond.conf:2: "},
    {"[daemon]\nlog_level\n", "completiond.conf:2: "},
    {"[upstream a]\nmodels = *\n", "base_url is missing"},
    {"[upstream a]\nbase_url = ftp://h\n", "base_url must begin with"},
    {"[upstream a]\nbase_url = http://h\ncredential_file = %s/none\n", "No such file"},
    {"[upstream a]\nbase_url = http://h\ncredential_file = %s/open\n", "others may read"},
    {"[upstream a]\nbase_url = http://h\ncredential_file = %s\n", "not a regular file"},
    {"[upstream a]\nbase_url = http://h\ncredential = openai.key\n", "LoadCredential="},
    {"[upstream a]\nbase_url = https://h\nca_file = %s/none\n", "No such file"},
    {"[upstream a]\nbase_url = https://h\nca_file = %s/open\n", "no certificate"},
    {"[upstream a]\nbase_url = https://h\nca_file = %s/fifo\n", "not a regular file"},
    {"[policy user:no-such-user-here]\n", "completiond.conf:1: "},
};

/* The files that they name. */
static void prepare(struct daemon *d)
{
    chmod(directory_write(&d->directory, "open", "sk-CANARY-open"), 0644);
    assert_int_equal(mkfifo(directory_path(&d->directory, "fifo"), 0600), 0);
}

static void configure(struct daemon *d, const char *format)
{
    char text[512];

    /* No format but ours, with one %s at most. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, format, d->directory.path);
#pragma GCC diagnostic pop
    daemon_configure(d, text);
}

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, word)); p++)
        n++;
    return n;
}

/* ---- At start ---- */

static void assert_refused(struct daemon *d, const char *said)
{
    daemon_spawn(d, NULL);
    daemon_wait_exit(d, 1);
    char *log = daemon_log(d);
    if (count(log, "\n") != 1 || strncmp(log, "completiond: error: ", 20) != 0 ||
        !strstr(log, said))
        fail_msg("not one line with \"%s\": %s", said, log);
    free(log);
    assert_int_equal(remove(d->log), 0);
}

static void test_start_without_a_good_configuration_is_one_line_and_status_1(void **state)
{
    struct daemon *d = &((struct scene *)*state)->daemon;

    prepare(d);
    assert_refused(d, "completiond.conf: No such file");
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        configure(d, mistakes[i].text);
        assert_refused(d, mistakes[i].said);
    }
    assert_int_equal(remove(d->config), 0);
    assert_int_equal(mkfifo(d->config, 0600), 0);
    assert_refused(d, "not a regular file");
    assert_int_equal(remove(d->config), 0);
    assert_int_equal(mkdir(d->config, 0700), 0);
    assert_refused(d, "Is a directory");
    assert_int_equal(rmdir(d->config), 0);
}

static void test_mistakes_in_a_drop_in_count_as_well(void **state)
{
    struct daemon *d = &((struct scene *)*state)->daemon;
    const char *directory = directory_path(&d->directory, "completiond.conf.d");

    assert_int_equal(mkdir(directory, 0700), 0);
    daemon_configure(d, "[upstream a]\nbase_url = http://h\n");
    directory_write(&d->directory, "completiond.conf.d/10.conf", "[upstream a]\n\nbad = 1\n");
    assert_refused(d, "10.conf:3: ");
    directory_write(&d->directory, "completiond.conf.d/10.conf", "");
    assert_int_equal(mkfifo(directory_path(&d->directory, "completiond.conf.d/20.conf"), 0600), 0);
    assert_refused(d, "20.conf: not a regular file");
}

/* ---- Reloads ---- */

static void expect_text(struct scene *s, const char *text)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

/* What systemd wants of Type=notify-reload: RELOADING=1 with the time, then READY=1. */
static void reload(struct scene *s)
{
    const char *usec;

    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "RELOADING=1");
    usec = strstr(s->daemon.notification, "MONOTONIC_USEC=");
    assert_non_null(usec);
    int64_t ms = strtoll(usec + 15, NULL, 10) / 1000;
    assert_true(ms <= harness_now_ms() && ms > harness_now_ms() - HARNESS_TIMEOUT_MS);
    daemon_await(&s->daemon, "READY=1");
}

static void assert_reload_refused(struct scene *s, const char *said)
{
    char *before = daemon_log(&s->daemon);

    reload(s);
    assert_non_null(strstr(s->daemon.notification, "STATUS=Serving; the last reload failed"));
    char *log = daemon_log(&s->daemon);
    if (count(log, "completiond: error: ") != count(before, "completiond: error: ") + 1 ||
        !strstr(log + strlen(before), said))
        fail_msg("not one error with \"%s\": %s", said, log + strlen(before));
    free(before);
    free(log);
    expect_text(s, "old");
}

static void test_failed_reload_leaves_all_as_it_was(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, tell_key, NULL, NULL);
    char *good = directory_read(s->daemon.config);
    prepare(&s->daemon);
    expect_text(s, "old");
    struct grpc_client_call *stream = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        configure(&s->daemon, mistakes[i].text);
        assert_reload_refused(s, mistakes[i].said);
    }
    assert_int_equal(remove(s->daemon.config), 0);
    assert_reload_refused(s, "No such file");
    assert_int_equal(mkfifo(s->daemon.config, 0600), 0);
    assert_reload_refused(s, "not a regular file");
    assert_int_equal(remove(s->daemon.config), 0);

    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, stream, &result);
    rpc_assert_ok(&result, "old");
    rpc_result_done(&result);

    /* And a good one is taken again. */
    daemon_configure(&s->daemon, good);
    free(good);
    directory_write(&s->daemon.directory, "key", "sk-CANARY-new\n");
    reload(s);
    assert_null(strstr(s->daemon.notification, "failed"));
    expect_text(s, "new");
    scene_stop(s);
}

static void test_new_key_is_for_new_calls(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, tell_key, NULL, NULL);
    struct grpc_client_call *stream = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, stream));
    directory_write(&s->daemon.directory, "key", "sk-CANARY-new\n");
    reload(s);
    expect_text(s, "new");
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, stream, &result);
    rpc_assert_ok(&result, "old");
    rpc_result_done(&result);
    scene_stop(s);
}

static void expect_failure(struct scene *s, enum grpc_status status, const char *reason)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, status, reason);
    rpc_result_done(&result);
}

/* The configuration with this behind it. */
static void reload_with(struct scene *s, const char *base, const char *more)
{
    char *text;

    assert_true(asprintf(&text, "%s%s", base, more) > 0);
    daemon_configure(&s->daemon, text);
    free(text);
    reload(s);
    assert_null(strstr(s->daemon.notification, "failed"));
}

static void test_new_limits_are_for_new_calls(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, tell_key, NULL, NULL);
    char *base = directory_read(s->daemon.config);
    struct grpc_client_call *stream = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, stream));

    reload_with(s, base, "[policy *]\nmodels = other\n");
    expect_failure(s, GRPC_PERMISSION_DENIED, "NOT_ALLOWED");
    reload_with(s, base, "[policy *]\nrequests_per_minute = 1\n");
    expect_text(s, "old");
    expect_failure(s, GRPC_RESOURCE_EXHAUSTED, "LOCAL_LIMIT");
    reload_with(s, base, "");
    expect_text(s, "old");

    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, stream, &result);
    rpc_assert_ok(&result, "old");
    rpc_result_done(&result);
    free(base);
    scene_stop(s);
}

/* A call that waits keeps the upstream that it was to ask. */
static void test_queued_calls_survive_a_reload(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;
    rpc_request request = rpc_request_new("m", "p");
    struct grpc_client_call *calls[3];

    scene_start(s, tell_key, NULL, "max_concurrent = 1\n");
    for (int i = 0; i < 3; i++)
        calls[i] = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);
    rpc_completion_free(rpc_next(&s->rpc, calls[0]));
    directory_write(&s->daemon.directory, "key", "sk-CANARY-new\n");
    reload(s);
    expect_text(s, "new");
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < 3; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_ok(&result, "old");
        rpc_result_done(&result);
    }
    scene_stop(s);
}

/* ---- Reloads under load ---- */

static void await_ready(struct scene *s, struct crowd *c)
{
    struct pollfd fd = {s->daemon.notify, POLLIN, 0};
    int64_t late = harness_now_ms() + HARNESS_TIMEOUT_MS;

    while (poll(&fd, 1, 0) == 0 && harness_now_ms() < late)
        crowd_turn(c, 1);
    daemon_await(&s->daemon, "READY=1");
}

static void test_reloads_under_load_leak_nothing(void **state)
{
    static const char *const keys[] = {"sk-CANARY-old\n", "sk-CANARY-new\n"};
    struct scene *s = *state;

    /* Freed memory is kept for a while. */
    daemon_add_asan_option("quarantine_size_mb=1");
    scene_start(s, crowd_serve, NULL, NULL);
    struct crowd *c = crowd_new(&(struct crowd_options){
        .socket = s->daemon.socket,
        .model = "m",
        .n_callers = CALLERS,
        .n_calls = 2,
        .seed = 1,
        .streamed = 50,
    });
    assert_true(crowd_run(c, 500));
    assert_true(crowd_settle(c));
    scene_assert_serving(s);
    int n_descriptors = daemon_n_descriptors(&s->daemon);
    long rss_kib = daemon_rss_kib(&s->daemon);

    for (int i = 0; i < RELOADS; i++) {
        directory_write(&s->daemon.directory, "key", keys[i % 2]);
        daemon_signal(&s->daemon, SIGHUP);
        await_ready(s, c);
        assert_null(strstr(s->daemon.notification, "failed"));
        assert_true(crowd_run(c, 10));
    }
    assert_true(crowd_settle(c));
    scene_assert_serving(s);
    /* Connections to the upstream may stay, as many as there were calls at once. */
    assert_true(daemon_n_descriptors(&s->daemon) <= n_descriptors + 2 * CALLERS);
    assert_true(daemon_rss_kib(&s->daemon) < rss_kib + RSS_SLACK_KIB);
    assert_int_equal(crowd_counts(c)->by_status[GRPC_OK], crowd_counts(c)->n_ended);
    assert_int_equal(crowd_counts(c)->n_torn, 0);
    crowd_free(c);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_start_without_a_good_configuration_is_one_line_and_status_1),
        scene_test(test_mistakes_in_a_drop_in_count_as_well),
        scene_test(test_failed_reload_leaves_all_as_it_was),
        scene_test(test_new_key_is_for_new_calls),
        scene_test(test_new_limits_are_for_new_calls),
        scene_test(test_queued_calls_survive_a_reload),
        scene_test(test_reloads_under_load_leak_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
