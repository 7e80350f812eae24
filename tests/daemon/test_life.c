/*
 * The life of the daemon: its sockets, its signals, what it tells the service manager, and how it
 * ends without hurting the calls in flight.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "scene.h"

/* ---- Upstreams ---- */

/* Begins a stream, and ends it when the test says so. Answers other calls with user. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", c->user))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                   !fake_stream_done(c)) {
            fake_mark(c->fake, FAKE_CLOSED);
            return;
        }
    }
}

static void expect_answer(struct rpc *r, const char *text)
{
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;

    rpc_call(r, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, text);
    rpc_result_done(&result);
}

/* A stream of which the first chunk has come. */
static struct grpc_client_call *start_stream(struct scene *s)
{
    rpc_request request = rpc_request_new("m", "p");
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE_STREAM, &request, -1);

    rpc_completion_free(rpc_next(&s->rpc, call));
    return call;
}

/* 0, or the errno of connect(). */
static int try_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int r = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? errno : 0;
    close(fd);
    return r;
}

/* ---- Sockets ---- */

static void test_socket_is_for_user_and_group_and_goes_with_the_daemon(void **state)
{
    struct scene *s = *state;
    struct stat st;

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    assert_int_equal(stat(s->daemon.socket, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    scene_stop(s);
    assert_int_equal(stat(s->daemon.socket, &st), -1);
}

static void test_socket_of_a_killed_daemon_is_replaced(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    rpc_close(&s->rpc);
    daemon_signal(&s->daemon, SIGKILL);
    daemon_wait(&s->daemon);
    assert_int_equal(try_connect(s->daemon.socket), ECONNREFUSED);
    daemon_start(&s->daemon, NULL);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
}

static void test_second_daemon_on_a_socket_is_refused(void **state)
{
    struct scene *s = *state;
    struct daemon second;
    struct daemon_options options = {.no_listen = true};
    const char *arguments[] = {"--listen", s->daemon.socket, NULL};

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    daemon_init(&second, "[upstream u]\nbase_url = http://127.0.0.1:1/v1\n");
    options.arguments = arguments;
    daemon_spawn(&second, &options);
    daemon_wait_exit(&second, 1);
    daemon_assert_logged(&second, "a daemon listens there already");
    daemon_done(&second);
    expect_answer(&s->rpc, "ok");
    assert_int_equal(try_connect(s->daemon.socket), 0);
    scene_stop(s);
}

static void test_file_that_is_no_socket_is_left_alone(void **state)
{
    struct scene *s = *state;

    scene_prepare(s, serve, FAKE_LAST("ok"), NULL);
    directory_write(&s->daemon.directory, "rpc.sock", "precious");
    daemon_spawn(&s->daemon, NULL);
    daemon_wait_exit(&s->daemon, 1);
    daemon_assert_logged(&s->daemon, "can't listen on");
    char *text = directory_read(s->daemon.socket);
    assert_string_equal(text, "precious");
    free(text);
}

static void test_several_sockets(void **state)
{
    struct scene *s = *state;
    struct rpc other;
    const char *path = directory_path(&s->daemon.directory, "other.sock");
    struct daemon_options options = {.arguments = (const char *const[]){"--listen", path, NULL}};

    scene_prepare(s, serve, FAKE_LAST("ok"), NULL);
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc, "ok");
    rpc_connect(&other, path);
    expect_answer(&other, "ok");
    rpc_close(&other);
    scene_stop(s);
}

static int listen_on(const char *path, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void test_socket_passed_by_the_service_manager(void **state)
{
    struct scene *s = *state;
    int fd = listen_on(s->daemon.socket, SOCK_STREAM);
    struct daemon_options options = {.listen_fd = fd, .no_listen = true};
    struct stat st;

    scene_prepare(s, serve, FAKE_LAST("ok"), NULL);
    /* Whoever connects before the daemon is there waits. */
    rpc_connect(&s->rpc, s->daemon.socket);
    daemon_start(&s->daemon, &options);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
    /* It is the service manager's: it stays, for the next one. */
    assert_int_equal(stat(s->daemon.socket, &st), 0);
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
    close(fd);
}

static void test_passed_descriptors_that_can_not_be_listened_on(void **state)
{
    struct scene *s = *state;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fds[3] = {
        listen_on(directory_path(&s->daemon.directory, "datagram"), SOCK_DGRAM),
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
    };

    assert_int_equal(bind(fds[1], (struct sockaddr *)&any, sizeof any), 0);
    assert_int_equal(listen(fds[1], 1), 0);
    scene_prepare(s, serve, FAKE_LAST("ok"), NULL);
    for (size_t i = 0; i < 3; i++) {
        struct daemon_options options = {.listen_fd = fds[i], .no_listen = true};
        daemon_spawn(&s->daemon, &options);
        daemon_wait_exit(&s->daemon, 1);
        daemon_assert_logged(&s->daemon, "is no listening Unix stream socket");
        remove(s->daemon.log);
        close(fds[i]);
    }
}

/* ---- Strangers on the socket ---- */

/* Says something, and returns what is answered until the daemon closes. */
static size_t say(const char *socket_path, const void *words, size_t len, char *answer, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t n = 0;

    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(send(fd, words, len, MSG_NOSIGNAL), len);
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        assert_int_equal(poll(&p, 1, HARNESS_TIMEOUT_MS), 1);
        ssize_t r = recv(fd, answer + n, size - 1 - n, 0);
        if (r <= 0)
            break;
        n += (size_t)r;
    }
    answer[n] = '\0';
    close(fd);
    return n;
}

static void test_http_1_gets_an_answer_that_can_be_read(void **state)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct scene *s = *state;
    char answer[4096];

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    say(s->daemon.socket, request, sizeof request - 1, answer, sizeof answer);
    assert_int_equal(strncmp(answer, "HTTP/1.1 400 ", 13), 0);
    assert_non_null(strstr(answer, "gRPC"));
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
}

static void test_garbage_is_closed(void **state)
{
    static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and a lot more bytes";
    struct scene *s = *state;
    char answer[4096];

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    say(s->daemon.socket, hello, sizeof hello, answer, sizeof answer);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
}

/* ---- The end ---- */

static void test_signals_end_an_idle_daemon(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT};
    struct scene *s = *state;

    scene_prepare(s, serve, FAKE_LAST("ok"), NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        daemon_start(&s->daemon, NULL);
        daemon_signal(&s->daemon, signals[i]);
        daemon_await(&s->daemon, "STOPPING=1");
        daemon_wait_exit(&s->daemon, 0);
    }
}

static void test_idle_connections_do_not_hold_up_the_end(void **state)
{
    struct scene *s = *state;

    /* Longer than the test waits. */
    scene_start(s, serve, FAKE_LAST("ok"), "[daemon]\ndrain_timeout = 10min\n");
    expect_answer(&s->rpc, "ok");
    daemon_signal(&s->daemon, SIGTERM);
    daemon_wait_exit(&s->daemon, 0);
    while (grpc_client_session_is_open(s->rpc.session))
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
}

static void test_calls_in_flight_end_as_if_nothing_were(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, FAKE_LAST("ok"), "[daemon]\ndrain_timeout = 10min\n");
    struct grpc_client_call *running = start_stream(s);
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    /* Whatever time the service manager gives it otherwise. */
    assert_non_null(strstr(s->daemon.notification, "\nEXTEND_TIMEOUT_USEC=605000000"));

    /* The caller learns of it, and nobody new gets in. */
    while (grpc_client_session_is_open(s->rpc.session))
        assert_true(rpc_turn(&s->rpc, HARNESS_TIMEOUT_MS));
    assert_int_not_equal(try_connect(s->daemon.socket), 0);
    struct grpc_client_call *late;
    assert_int_equal(grpc_client_call_new(s->rpc.session,
                                          &(struct grpc_client_start){.path = RPC_CREATE}, "", 0,
                                          &late),
                     -EPIPE);

    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, running, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    daemon_wait_exit(&s->daemon, 0);
}

static void test_calls_that_do_not_end_are_cut(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, FAKE_LAST("ok"), "[daemon]\ndrain_timeout = 1s\n");
    struct grpc_client_call *running = start_stream(s);
    daemon_signal(&s->daemon, SIGTERM);
    rpc_finish(&s->rpc, running, &result);
    rpc_assert_failed(&result, GRPC_CANCELLED, "SHUTTING_DOWN");
    rpc_result_done(&result);
    daemon_wait_exit(&s->daemon, 0);
}

static void test_second_signal_ends_at_once(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, FAKE_LAST("ok"), "[daemon]\ndrain_timeout = 10min\n");
    struct grpc_client_call *running = start_stream(s);
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    daemon_signal(&s->daemon, SIGTERM);
    daemon_wait_exit(&s->daemon, 0);
    /* Whatever it was, it is no success. */
    rpc_finish(&s->rpc, running, &result);
    assert_int_not_equal(result.status, GRPC_OK);
    rpc_result_done(&result);
}

static void test_killed_daemon_is_no_success(void **state)
{
    struct scene *s = *state;
    struct rpc_result result;

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    struct grpc_client_call *running = start_stream(s);
    daemon_signal(&s->daemon, SIGKILL);
    daemon_wait(&s->daemon);
    rpc_finish(&s->rpc, running, &result);
    assert_int_equal(result.status, GRPC_UNAVAILABLE);
    rpc_result_done(&result);
}

static void test_stray_signals_are_harmless(void **state)
{
    static const int signals[] = {SIGPIPE, SIGCHLD, SIGWINCH, SIGCONT, SIGURG};
    struct scene *s = *state;

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        daemon_signal(&s->daemon, signals[i]);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
}

/* ---- Reload ---- */

static void reload(struct scene *s)
{
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "RELOADING=1");
    daemon_await(&s->daemon, "READY=1");
}

static void test_reload_serves_new_calls_by_the_new_configuration(void **state)
{
    struct scene *s = *state;
    struct fake *other;
    char config[256];
    struct rpc_result result;

    scene_start(s, serve, FAKE_LAST("old"), NULL);
    expect_answer(&s->rpc, "old");
    struct grpc_client_call *running = start_stream(s);

    other = fake_new(NULL, serve, FAKE_LAST("new"));
    snprintf(config, sizeof config, "[daemon]\nlog_level = debug\n[upstream b]\nbase_url = %s\n",
             fake_base_url(other));
    daemon_configure(&s->daemon, config);
    reload(s);
    expect_answer(&s->rpc, "new");

    /* What runs goes on where it began. */
    fake_mark(s->fake, FAKE_GO);
    rpc_finish(&s->rpc, running, &result);
    rpc_assert_ok(&result, "b");
    rpc_result_done(&result);
    scene_stop(s);
    fake_free(other);
}

static void test_reload_of_a_wrong_configuration_changes_nothing(void **state)
{
    struct scene *s = *state;
    char message[256];

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    daemon_configure(&s->daemon, "[upstream u]\nbase_url = http://127.0.0.1:1/v1\nnonsense = 1\n");
    reload(s);
    assert_non_null(strstr(s->daemon.notification, "failed"));
    snprintf(message, sizeof message, "%s:3: ", s->daemon.config);
    daemon_assert_logged(&s->daemon, message);
    expect_answer(&s->rpc, "ok");
    remove(s->daemon.config);
    reload(s);
    expect_answer(&s->rpc, "ok");
    scene_stop(s);
}

static void test_reload_reads_the_key_again(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, FAKE_LAST("ok"), NULL);
    expect_answer(&s->rpc, "ok");
    directory_write(&s->daemon.directory, "key", "sk-CANARY-the-next-one");
    reload(s);
    expect_answer(&s->rpc, "ok");
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer sk-CANARY-the-next-one\r\n"));
    free(head);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_socket_is_for_user_and_group_and_goes_with_the_daemon),
        scene_test(test_socket_of_a_killed_daemon_is_replaced),
        scene_test(test_second_daemon_on_a_socket_is_refused),
        scene_test(test_file_that_is_no_socket_is_left_alone),
        scene_test(test_several_sockets),
        scene_test(test_socket_passed_by_the_service_manager),
        scene_test(test_passed_descriptors_that_can_not_be_listened_on),
        scene_test(test_http_1_gets_an_answer_that_can_be_read),
        scene_test(test_garbage_is_closed),
        scene_test(test_signals_end_an_idle_daemon),
        scene_test(test_idle_connections_do_not_hold_up_the_end),
        scene_test(test_calls_in_flight_end_as_if_nothing_were),
        scene_test(test_calls_that_do_not_end_are_cut),
        scene_test(test_second_signal_ends_at_once),
        scene_test(test_killed_daemon_is_no_success),
        scene_test(test_stray_signals_are_harmless),
        scene_test(test_reload_serves_new_calls_by_the_new_configuration),
        scene_test(test_reload_of_a_wrong_configuration_changes_nothing),
        scene_test(test_reload_reads_the_key_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
