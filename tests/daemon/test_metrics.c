/*
 * The metrics socket: its numbers are those that the upstream saw, its labels are bounded whatever
 * callers send, and whoever is slow or wrong there costs nothing.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "grpc_health.h"
#include "grpc_reflection.h"
#include "metrics.h"

/* A call, and how it has to end. reason NULL: well. */
static void call(struct scene *s, const char *path, const char *model, const char *reason)
{
    rpc_request request = rpc_request_new(model, "CANARY prompt");
    struct rpc_result result;

    rpc_call(&s->rpc, path, &request, &result);
    if (reason)
        rpc_assert_failed(&result, result.status, reason);
    else
        assert_int_equal(result.status, GRPC_OK);
    rpc_result_done(&result);
}

/* ---- Numbers ---- */

#define USAGE ",\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5}}"
#define WHOLE                                                                                      \
    "{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{"    \
    "\"index\":0,\"text\":\"CANARY\",\"logprobs\":null,\"finish_reason\":\"stop\"}]" USAGE

/* What the model's name asks for. */
static void serve_as_told(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        bool ok;
        if (strstr(c->body, "\"cut\""))
            return;
        if (strstr(c->body, "\"busy\""))
            ok = fake_answer(c, 429, "application/json", "", "{\"error\":{\"message\":\"no\"}}");
        else if (strstr(c->body, "\"bad\""))
            ok = fake_answer(c, 500, "application/json", "retry-after-ms: 1\r\n",
                             "{\"error\":{\"message\":\"no\"}}");
        else if (strstr(c->body, "\"stream\":true"))
            ok = fake_stream_begin(c) && fake_event(c, FAKE_PART("CANARY")) &&
                 fake_event(c, FAKE_LAST("")) && fake_stream_done(c);
        else
            ok = fake_answer(c, 200, "application/json", "", WHOLE);
        if (!ok)
            return;
    }
}

static void test_numbers_are_what_the_upstream_saw(void **state)
{
    struct scene *s = *state;

    metrics_start(s, serve_as_told, NULL, "max_retries = 0");
    for (int i = 0; i < 5; i++)
        call(s, RPC_CREATE, "m", NULL);
    for (int i = 0; i < 3; i++)
        call(s, RPC_CREATE_STREAM, "m", NULL);
    call(s, RPC_CREATE, "busy", "UPSTREAM_RATE_LIMIT");
    call(s, RPC_CREATE, "bad", "UPSTREAM_ERROR");
    call(s, RPC_CREATE, "bad", "UPSTREAM_ERROR");
    call(s, RPC_CREATE, "a\nb", "INVALID_REQUEST");
    scene_assert_serving(s);

    char *page = metrics_get(s);
    assert_non_null(strstr(page, "Content-Type: application/openmetrics-text; version=1.0.0"));
    assert_string_equal(page + strlen(page) - 6, "# EOF\n");
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"OK\"}", 5);
    metrics_expect(page, "completiond_calls_total{method=\"CreateStream\",status=\"OK\"}", 3);
    metrics_expect(page, "completiond_calls_total{method=\"Check\",status=\"OK\"}", 1);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"RESOURCE_EXHAUSTED\"}",
                   1);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"INTERNAL\"}", 2);
    metrics_expect(page, "completiond_refusals_total{reason=\"UPSTREAM_ERROR\"}", 2);
    metrics_expect(page, "completiond_refusals_total{reason=\"UPSTREAM_RATE_LIMIT\"}", 1);
    metrics_expect(page, "completiond_refusals_total{reason=\"INVALID_REQUEST\"}", 1);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"ok\"}", 8);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"http_429\"}", 1);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"http_5xx\"}", 2);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 11);
    metrics_expect(page, "completiond_tokens_total{upstream=\"fake\",kind=\"prompt\"}", 10);
    metrics_expect(page, "completiond_tokens_total{upstream=\"fake\",kind=\"completion\"}", 15);
    double opened =
        metrics_value(page, "completiond_upstream_connections_opened_total{upstream=\"fake\"}");
    double reused =
        metrics_value(page, "completiond_upstream_connections_reused_total{upstream=\"fake\"}");
    assert_int_equal((int)opened, fake_count(s->fake, FAKE_ACCEPTED));
    assert_int_equal((int)(opened + reused), 11);
    metrics_expect(page, "completiond_connect_seconds_count{upstream=\"fake\"}", opened);
    metrics_expect(page, "completiond_first_byte_seconds_count{upstream=\"fake\"}", 8);
    /* The one that was refused before there was anything to ask had an upstream, but no turn. */
    metrics_expect(page, "completiond_queue_seconds_count{upstream=\"fake\"}", 11);
    metrics_expect(page, "completiond_call_duration_seconds_count{upstream=\"fake\"}", 12);
    metrics_expect(page, "completiond_call_duration_seconds_bucket{upstream=\"fake\",le=\"+Inf\"}",
                   12);
    metrics_expect(page, "completiond_own_time_seconds_count", 12);
    metrics_expect(page, "completiond_caller_connections_total", 1);
    metrics_expect(page, "completiond_caller_connections_open", 1);
    metrics_expect(page, "completiond_upstream_reachable{upstream=\"fake\"}", 1);
    metrics_expect(page, "completiond_memory_limit_bytes", 256 << 20);
    metrics_expect(page, "completiond_build_info{version=\"0.1.0\"", -1);
    assert_non_null(strstr(page, "completiond_build_info{version=\""));
    free(page);
    scene_stop(s);
}

/* Who watches the daemon or asks what it serves is no call. */
static void test_standing_streams_are_not_counted(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    metrics_start(s, serve_as_told, NULL, NULL);
    struct grpc_client_call *watch =
        rpc_start_raw(&s->rpc, GRPC_HEALTH_WATCH_PATH, NULL, 0, -1, NULL, 0);
    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, GRPC_REFLECTION_V1_PATH, "\x3a", 2, -1, NULL, 0),
               &result);
    assert_int_equal(result.status, GRPC_OK);
    rpc_result_done(&result);
    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, GRPC_HEALTH_WATCH_PATH, "\x0a", 1, -1, NULL, 0),
               &result);
    assert_int_equal(result.status, GRPC_INVALID_ARGUMENT);
    rpc_result_done(&result);
    rpc_cancel(&s->rpc, watch);
    grpc_client_call_free(watch);
    scene_assert_serving(s);

    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_total{method=\"Check\",status=\"OK\"}", 1);
    assert_null(strstr(page, "status=\"CANCELLED\"} 1"));
    assert_null(strstr(page, "status=\"INVALID_ARGUMENT\"} 1"));
    assert_null(strstr(page, "method=\"other\",status=\"OK\"} 1"));
    assert_null(strstr(page, "reason=\"INVALID_REQUEST\"} 1"));
    free(page);
    scene_stop(s);
}

static void test_retries_are_counted_by_what_led_to_them(void **state)
{
    struct scene *s = *state;

    metrics_start(s, serve_as_told, NULL, "max_retries = 2");
    call(s, RPC_CREATE, "bad", "UPSTREAM_ERROR");
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"http_5xx\"}", 3);
    metrics_expect(page, "completiond_retries_total{upstream=\"fake\",outcome=\"http_5xx\"}", 2);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"INTERNAL\"}", 1);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 3);
    free(page);
    scene_stop(s);
}

/* A kept connection that dies under a request is one more attempt, though libcurl makes it. */
static void test_what_libcurl_sends_again_is_counted(void **state)
{
    struct scene *s = *state;

    metrics_start(s, serve_as_told, NULL, "max_retries = 0");
    call(s, RPC_CREATE, "m", NULL);
    call(s, RPC_CREATE, "cut", "UPSTREAM_BROKEN");
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"ok\"}", 1);
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"broken\"}",
                   (int)fake_count(s->fake, FAKE_REQUESTED) - 1);
    metrics_expect(page, "completiond_upstream_connections_opened_total{upstream=\"fake\"}",
                   fake_count(s->fake, FAKE_ACCEPTED));
    free(page);
    scene_stop(s);
}

static void wait_for_go(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        fake_mark(c->fake, FAKE_STEP);
        if (!fake_await(c->fake, FAKE_GO, 1) || !fake_answer(c, 200, "application/json", "", WHOLE))
            return;
    }
}

static void test_gauges_follow_the_calls(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "CANARY");
    struct grpc_client_call *calls[3];
    struct rpc_result result;

    metrics_start(s, wait_for_go, NULL, "max_concurrent = 1");
    for (size_t i = 0; i < 3; i++)
        calls[i] = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    scene_assert_serving(s);
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_running{upstream=\"fake\"}", 1);
    metrics_expect(page, "completiond_calls_queued{upstream=\"fake\"}", 2);
    assert_true(metrics_value(page, "completiond_memory_bytes") > 0);
    free(page);

    /* One that waits goes away; a reload changes nothing of what runs. */
    rpc_cancel(&s->rpc, calls[2]);
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "READY=1");
    scene_assert_serving(s);
    page = metrics_get(s);
    metrics_expect(page, "completiond_calls_running{upstream=\"fake\"}", 1);
    metrics_expect(page, "completiond_calls_queued{upstream=\"fake\"}", 1);
    metrics_expect(page, "completiond_config_reload_failed", 0);
    free(page);

    fake_mark(s->fake, FAKE_GO);
    for (size_t i = 0; i < 2; i++) {
        rpc_finish(&s->rpc, calls[i], &result);
        rpc_assert_ok(&result, "CANARY");
        rpc_result_done(&result);
    }
    grpc_client_call_free(calls[2]);
    page = metrics_get(s);
    metrics_expect(page, "completiond_calls_running{upstream=\"fake\"}", 0);
    metrics_expect(page, "completiond_calls_queued{upstream=\"fake\"}", 0);
    metrics_expect(page, "completiond_queue_seconds_count{upstream=\"fake\"}", 2);
    metrics_expect(page, "completiond_refusals_total{reason=\"CANCELLED\"}", 1);
    free(page);
    scene_stop(s);
}

static void test_an_upstream_that_is_down_shows(void **state)
{
    struct scene *s = *state;

    metrics_start(s, serve_as_told, NULL, "base_url = http://127.0.0.1:1/v1");
    for (int i = 0; i < 9; i++)
        call(s, RPC_CREATE, "m", "UPSTREAM_UNREACHABLE");
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_upstream_reachable{upstream=\"fake\"}", 0);
    /* The last one was not even tried. */
    metrics_expect(page, "completiond_attempts_total{upstream=\"fake\",outcome=\"unreachable\"}",
                   8);
    metrics_expect(page, "completiond_refusals_total{reason=\"UPSTREAM_UNREACHABLE\"}", 9);
#define ENDPOINT "{upstream=\"fake\",endpoint=\"127.0.0.1:1\"}"
    metrics_expect(page, "completiond_endpoint_well" ENDPOINT, 0);
    metrics_expect(page, "completiond_endpoint_calls_running" ENDPOINT, 0);
    metrics_expect(page, "completiond_endpoint_attempts_total" ENDPOINT, 8);
    metrics_expect(page, "completiond_endpoint_faults_total" ENDPOINT, 8);
    free(page);
    scene_stop(s);
}

/* ---- Bounds ---- */

static size_t count_lines(const char *page)
{
    size_t n = 0;

    for (; (page = strchr(page, '\n')); page++)
        n++;
    return n;
}

static void test_callers_can_not_add_labels(void **state)
{
    enum { N_MODELS = 10000, N_PATHS = 50 };
    struct scene *s = *state;
    char name[64];

    metrics_start(s, serve_as_told, NULL,
                  "models = m\n[upstream other]\nmodels = known*\nauth = none\n"
                  "base_url = http://127.0.0.1:1/v1\n");
    call(s, RPC_CREATE, "m", NULL);
    call(s, RPC_CREATE, "unknown", "NO_UPSTREAM");
    call(s, "/a.Service/Method", "m", "UNKNOWN_METHOD");
    char *page = metrics_get(s);
    size_t before = count_lines(page);
    free(page);
    for (int i = 0; i < N_MODELS; i++) {
        snprintf(name, sizeof name, "model-%d\"", i);
        call(s, RPC_CREATE, name, "NO_UPSTREAM");
    }
    for (int i = 0; i < N_PATHS; i++) {
        snprintf(name, sizeof name, "/a.Service/Method%d", i);
        call(s, name, "m", "UNKNOWN_METHOD");
    }
    page = metrics_get(s);
    assert_int_equal(count_lines(page), before);
    metrics_expect(page, "completiond_refusals_total{reason=\"NO_UPSTREAM\"}", N_MODELS + 1);
    metrics_expect(page, "completiond_refusals_total{reason=\"UNKNOWN_METHOD\"}", N_PATHS + 1);
    free(page);
    scene_stop(s);
}

/* ---- The socket ---- */

static void expect_answer(struct scene *s, const char *request, const char *status)
{
    char *answer = metrics_ask(s, request);

    if (strncmp(answer, status, strlen(status)) != 0)
        fail_msg("%s is answered with %s", request, answer);
    free(answer);
}

static void test_only_what_is_asked_properly_is_shown(void **state)
{
    struct scene *s = *state;
    char large[16384];

    metrics_start(s, serve_as_told, NULL, NULL);
    char *answer = metrics_ask(s, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_int_equal(strncmp(answer, "HTTP/1.1 200 OK\r\n", 17), 0);
    assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
    free(answer);
    answer =
        metrics_ask(s, "GET /metrics?x=1 HTTP/1.0\r\nAccept: text/plain;version=0.0.4\r\n\r\n");
    assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4"));
    assert_non_null(strstr(answer, "# TYPE completiond_calls_total counter\n"));
    assert_null(strstr(answer, "# EOF"));
    free(answer);
    answer = metrics_ask(s, "GET /metrics HTTP/1.1\r\naccept: text/plain;q=0.2, "
                            "application/openmetrics-text\r\n\r\n");
    assert_non_null(strstr(answer, "# TYPE completiond_calls counter\n"));
    free(answer);
    expect_answer(s, "POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ");
    expect_answer(s, "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 ");
    expect_answer(s, "GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.1 404 ");
    expect_answer(s, "GET /metrics\r\n\r\n", "HTTP/1.1 400 ");
    expect_answer(s, "\r\n\r\n", "HTTP/1.1 400 ");
    expect_answer(s, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400 ");
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    memcpy(large, "GET /", 5);
    int fd = metrics_connect(s);
    send(fd, large, 8191, MSG_NOSIGNAL);
    answer = metrics_receive(fd);
    assert_int_equal(strncmp(answer, "HTTP/1.1 431 ", 13), 0);
    free(answer);
    close(fd);
    scene_stop(s);
}

static void test_slow_scrapers_cost_nothing(void **state)
{
    enum { N = 40, AT_ONCE = 8 };
    struct scene *s = *state;
    int slow[N];

    metrics_start(s, serve_as_told, NULL, NULL);
    scene_assert_serving(s);
    int before = daemon_n_descriptors(&s->daemon);
    for (size_t i = 0; i < N; i++) {
        slow[i] = metrics_connect(s);
        /* One half says less than it has to, the other takes nothing of the answer. */
        const char *request = i % 2 ? "GET /metr" : METRICS_GET;
        assert_true(send(slow[i], request, strlen(request), MSG_NOSIGNAL) > 0);
        call(s, RPC_CREATE, "m", NULL);
    }
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"OK\"}", N);
    free(page);
    scene_assert_serving(s);
    if (before >= 0)
        assert_in_range(daemon_n_descriptors(&s->daemon), before, before + AT_ONCE + 2);
    /* Those who send nothing are left after a while. */
    char *rest = metrics_receive(slow[N - 1]);
    assert_string_equal(rest, "");
    free(rest);
    for (size_t i = 0; i < N; i++)
        close(slow[i]);
    scene_stop(s);
}

static void test_systemd_passes_the_socket(void **state)
{
    struct scene *s = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    scene_prepare(s, serve_as_told, NULL, NULL);
    snprintf(address.sun_path, sizeof address.sun_path, "%s",
             directory_path(&s->daemon.directory, "metrics.sock"));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    daemon_start(
        &s->daemon,
        &(struct daemon_options){
            .listen_fd = fd,
            .environment = (const char *const[]){"LISTEN_FDNAMES=completiond-metrics", NULL},
        });
    close(fd);
    rpc_connect(&s->rpc, s->daemon.socket);
    call(s, RPC_CREATE, "m", NULL);
    char *page = metrics_get(s);
    metrics_expect(page, "completiond_calls_total{method=\"Create\",status=\"OK\"}", 1);
    free(page);
    scene_stop(s);
    /* It is systemd's. */
    assert_int_equal(access(address.sun_path, F_OK), 0);
}

static void test_a_socket_of_its_own_is_removed(void **state)
{
    struct scene *s = *state;

    metrics_start(s, serve_as_told, NULL, NULL);
    assert_int_equal(access(directory_path(&s->daemon.directory, "metrics.sock"), F_OK), 0);
    scene_stop(s);
    assert_int_equal(access(directory_path(&s->daemon.directory, "metrics.sock"), F_OK), -1);
}

/* Prometheus' own reader has nothing to say. */
static void test_promtool_finds_no_fault(void **state)
{
    struct scene *s = *state;
    char command[256];

    if (system("command -v promtool >/dev/null") != 0) {
        print_message("skipped: there is no promtool (Debian package prometheus)\n");
        skip();
    }
    metrics_start(s, serve_as_told, NULL, NULL);
    call(s, RPC_CREATE, "m", NULL);
    call(s, RPC_CREATE, "bad", "UPSTREAM_ERROR");
    char *answer = metrics_ask(s, "GET /metrics HTTP/1.1\r\nAccept: text/plain\r\n\r\n");
    const char *file =
        directory_write(&s->daemon.directory, "page", strstr(answer, "\r\n\r\n") + 4);
    snprintf(command, sizeof command, "promtool check metrics < %s 2>&1", file);
    assert_int_equal(system(command), 0);
    free(answer);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_numbers_are_what_the_upstream_saw),
        scene_test(test_standing_streams_are_not_counted),
        scene_test(test_retries_are_counted_by_what_led_to_them),
        scene_test(test_what_libcurl_sends_again_is_counted),
        scene_test(test_gauges_follow_the_calls),
        scene_test(test_an_upstream_that_is_down_shows),
        scene_test(test_callers_can_not_add_labels),
        scene_test(test_only_what_is_asked_properly_is_shown),
        scene_test(test_slow_scrapers_cost_nothing),
        scene_test(test_systemd_passes_the_socket),
        scene_test(test_a_socket_of_its_own_is_removed),
        scene_test(test_promtool_finds_no_fault),
    };

    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
