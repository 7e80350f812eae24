/*
 * The HTTP socket over the daemon's life: passed in, reloaded, handed over, drained; and who is
 * connected keeps it from going.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/wait.h>

#include "openai_peer.h"
#include "upgrade.h"

#define EVENTS "{\"model\":\"m\",\"prompt\":\"CANARY\",\"stream\":true}"
#define WHOLE  "{\"model\":\"m\",\"prompt\":\"CANARY\"}"

/* Begins a stream, and ends it when the test says so; answers other calls. */
static void serve(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        if (!strstr(c->body, "\"stream\":true")) {
            if (!fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
                return;
        } else if (!fake_stream_begin(c) || !fake_event(c, FAKE_PART("a")) ||
                   !fake_await(c->fake, FAKE_GO, 1) || !fake_event(c, FAKE_LAST("b")) ||
                   !fake_stream_done(c)) {
            return;
        }
    }
}

static void begin_stream(struct http *h, struct scene *s)
{
    http_connect(h, s);
    http_post(h, "", EVENTS);
    http_await(h, "data: " FAKE_PART("a"));
}

static void expect_answer(struct scene *s)
{
    struct http h;

    http_ask(&h, s, "", WHOLE);
    http_assert_status(&h, 200);
    http_close(&h);
}

/* ---- Draining ---- */

static void test_drain(void **state)
{
    struct scene *s = *state;
    struct http idle, busy, late;
    char byte;

    http_start_scene(s, serve, NULL, NULL);
    http_connect(&idle, s);
    http_post(&idle, "", WHOLE);
    http_read_response(&idle, true);
    begin_stream(&busy, s);
    http_connect(&late, s);
    http_send(&late, "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n");
    scene_assert_serving(s);
    daemon_signal(&s->daemon, SIGTERM);
    /* Who owes nothing is let go, who has begun is heard and served, all others are refused. */
    assert_int_equal(recv(idle.fd, &byte, 1, 0), 0);
    http_send(&late, "{\"model\":\"m\"}");
    http_read_response(&late, true);
    http_assert_status(&late, 200);
    http_assert_header(&late, "Connection", "close");
    http_await_close(&late);
    fake_mark(s->fake, FAKE_GO);
    http_read_response(&busy, true);
    assert_true(busy.is_whole);
    http_assert_says(&busy, "data: [DONE]");
    http_await_close(&busy);
    daemon_wait_exit(&s->daemon, 0);
    http_close(&idle);
    http_close(&busy);
    http_close(&late);
}

static void test_drain_timeout(void **state)
{
    struct scene *s = *state;
    struct http events, whole;

    http_start_scene(s, serve, NULL, "[daemon]\ndrain_timeout = 300ms\n");
    begin_stream(&events, s);
    http_connect(&whole, s);
    http_send(&whole, "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n");
    scene_assert_serving(s);
    daemon_signal(&s->daemon, SIGTERM);
    http_read_response(&events, true);
    http_assert_says(&events, "\"reason\":\"SHUTTING_DOWN\"");
    assert_false(events.is_whole);
    http_await_close(&whole);
    daemon_wait_exit(&s->daemon, 0);
    http_close(&events);
    http_close(&whole);
}

/* A second SIGTERM. */
static void test_exit_at_once(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, serve, NULL, NULL);
    begin_stream(&h, s);
    daemon_signal(&s->daemon, SIGTERM);
    daemon_await(&s->daemon, "STOPPING=1");
    daemon_signal(&s->daemon, SIGTERM);
    daemon_wait_exit(&s->daemon, 0);
    http_read_response(&h, true);
    assert_false(h.is_whole);
    http_close(&h);
}

/* ---- Sockets that are passed in ---- */

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void test_passed_socket(void **state)
{
    static const char *const names[] = {"LISTEN_FDNAMES=completiond-openai", NULL};
    struct scene *s = *state;
    int fd = listen_at(directory_path(&s->daemon.directory, HTTP_SOCKET));

    scene_prepare(s, serve, NULL, NULL);
    daemon_start(&s->daemon, &(struct daemon_options){.listen_fd = fd, .environment = names});
    expect_answer(s);
    rpc_connect(&s->rpc, s->daemon.socket);
    scene_assert_serving(s);
    scene_stop(s);
    close(fd);
}

static void test_passed_address_of_others(void **state)
{
    static const char *const names[] = {"LISTEN_FDNAMES=openai", NULL};
    struct scene *s = *state;
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 16), 0);
    scene_prepare(s, serve, NULL, NULL);
    daemon_spawn(&s->daemon, &(struct daemon_options){.listen_fd = fd, .environment = names});
    daemon_wait_exit(&s->daemon, 1);
    daemon_assert_logged(&s->daemon, "no address of the loopback interface");
    close(fd);
}

/* Two sockets, which nobody else has: a daemon of systemd's. Sockets are fds[0] and fds[1]. */
static void activate(struct daemon *d, const char *rpc_path, const char *http_path, int fds[2])
{
    char list[32];
    const char *wrapper[] = {LAUNCHER, "--pass", list, "--listen-fds", "2", "--listen-pid",
                             "own",    "--",     NULL};
    static const char *const names[] = {"LISTEN_FDNAMES=rpc:openai", NULL};

    fds[0] = listen_at(rpc_path);
    fds[1] = listen_at(http_path);
    snprintf(list, sizeof list, "%d,%d", fds[0], fds[1]);
    for (int j = 0; j < 2; j++)
        fcntl(fds[j], F_SETFD, 0);
    daemon_start(
        d, &(struct daemon_options){.wrapper = wrapper, .environment = names, .no_listen = true});
    for (int j = 0; j < 2; j++)
        fcntl(fds[j], F_SETFD, FD_CLOEXEC);
}

#define SOON "[daemon]\nidle_exit = 300ms\n"

/* A daemon with nobody there has been idle for as long as it may, from now on. */
static void let_idle_exit_pass(void)
{
    struct daemon other;
    char path[128];
    int fds[2];

    daemon_init(&other, SOON "[upstream u]\nbase_url = http://127.0.0.1:1/v1\nauth = none\n");
    snprintf(path, sizeof path, "%s/" HTTP_SOCKET, other.directory.path);
    activate(&other, other.socket, path, fds);
    daemon_wait_exit(&other, 0);
    daemon_done(&other);
    close(fds[0]);
    close(fds[1]);
}

static void test_idle_exit(void **state)
{
    struct scene *s = *state;
    struct http h;
    char path[128];
    int fds[2];

    scene_prepare(s, serve, NULL, SOON);
    snprintf(path, sizeof path, "%s/" HTTP_SOCKET, s->daemon.directory.path);
    activate(&s->daemon, s->daemon.socket, path, fds);
    http_connect(&h, s);
    http_post(&h, "", WHOLE);
    http_read_response(&h, true);
    let_idle_exit_pass();
    http_post(&h, "", WHOLE);
    http_read_response(&h, true);
    http_assert_status(&h, 200);
    http_close(&h);
    daemon_wait_exit(&s->daemon, 0);
    daemon_assert_logged(&s->daemon, "nobody has been connected for idle_exit");
    close(fds[0]);
    close(fds[1]);
}

/* ---- Reload ---- */

static void write_token(struct scene *s, const char *token)
{
    char text[512];

    snprintf(text, sizeof text,
             "[upstream fake]\nbase_url = %s\nauth = none\n[token a]\nuser = 4001\n"
             "credential_file = %s\n",
             fake_base_url(s->fake), directory_write(&s->daemon.directory, "token", token));
    daemon_configure(&s->daemon, text);
}

static int ask_over_tcp(struct scene *s, const char *headers)
{
    char *log = daemon_log(&s->daemon), *at = strstr(log, "HTTP on 127.0.0.1:");
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)strtoul(at + 18, NULL, 10)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct http h = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                     .in = BUFFER_INIT(1 << 20)};

    free(log);
    assert_int_equal(connect(h.fd, (struct sockaddr *)&address, sizeof address), 0);
    http_post(&h, headers, WHOLE);
    http_read_response(&h, true);
    int status = h.status;
    http_close(&h);
    return status;
}

static void test_new_token(void **state)
{
    struct scene *s = *state;

    scene_prepare(s, serve, NULL, NULL);
    write_token(s, "CANARY-the-first-token\n");
    http_start_daemon(s, "127.0.0.1:0", NULL);
    assert_int_equal(ask_over_tcp(s, "Authorization: Bearer CANARY-the-first-token\r\n"), 200);
    write_token(s, "CANARY-the-other-token\n");
    daemon_signal(&s->daemon, SIGHUP);
    daemon_await(&s->daemon, "RELOADING=1");
    daemon_await(&s->daemon, "READY=1");
    assert_int_equal(ask_over_tcp(s, "Authorization: Bearer CANARY-the-first-token\r\n"), 401);
    assert_int_equal(ask_over_tcp(s, "Authorization: Bearer CANARY-the-other-token\r\n"), 200);
    scene_stop(s);
}

/* ---- Handover ---- */

static int teardown(void **state)
{
    struct scene *s = *state;

    if (upgrade_kill_children() > 0)
        s->daemon.pid = 0;
    return scene_teardown(state);
}

static void test_handover(void **state)
{
    struct scene *s = *state;
    struct http stream;

    scene_prepare(s, serve, NULL, NULL);
    http_start_daemon(s, NULL, &(struct daemon_options){.binary = upgrade_install(&s->daemon)});
    rpc_close(&s->rpc);
    begin_stream(&stream, s);
    upgrade_install(&s->daemon);
    pid_t old = upgrade(&s->daemon);
    /* The new one has the socket, the old one what was begun. */
    for (int i = 0; i < 20; i++)
        expect_answer(s);
    fake_mark(s->fake, FAKE_GO);
    http_read_response(&stream, true);
    assert_true(stream.is_whole);
    http_assert_says(&stream, "data: [DONE]");
    http_close(&stream);
    upgrade_wait_exit(old, 0);
    expect_answer(s);
    daemon_stop(&s->daemon);
    assert_int_equal(access(directory_path(&s->daemon.directory, HTTP_SOCKET), F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_drain),
        scene_test(test_drain_timeout),
        scene_test(test_exit_at_once),
        scene_test(test_passed_socket),
        scene_test(test_passed_address_of_others),
        scene_test(test_idle_exit),
        scene_test(test_new_token),
        cmocka_unit_test_setup_teardown(test_handover, scene_setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
