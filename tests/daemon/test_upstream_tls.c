/*
 * Upstreams with certificates that prove nothing, with old protocols, and with handshakes that stop
 * anywhere. No request and no key goes to any of them.
 */
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

/* A private authority and what it has signed, each NAME.pem with NAME.key. */
static const char make_certificates[] =
    "exec 2>/dev/null; cd %s && "
    "new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch "
    "-subj \"/CN=$1\" -keyout \"$1.key\" -out \"$1.csr\" && "
    "printf 'subjectAltName=%%s' \"$2\" >\"$1.ext\"; } && "
    "sign() { openssl x509 -req -in \"$1.csr\" -CA ca.pem -CAkey ca.key -CAcreateserial "
    "-extfile \"$1.ext\" -out \"$1.pem\" \"$2\" $3; } && "
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=authority "
    "-days 2 -keyout ca.key -out ca.pem && "
    "new good IP:127.0.0.1,DNS:localhost && sign good -days 2 && "
    "new expired IP:127.0.0.1 && sign expired -days -1 && "
    "new other DNS:other.test && sign other -days 2 && "
    "new sha1 IP:127.0.0.1 && sign sha1 -sha1 && "
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=127.0.0.1 "
    "-addext subjectAltName=IP:127.0.0.1 -days 2 -keyout self.key -out self.pem";

/* tls_front.py */
struct front {
    pid_t pid;
    int in;
    FILE *out;
    unsigned ports[8];
};

static void front_start(struct front *f, const char *directory, const struct fake *fake,
                        const char *const *names)
{
    const char *arguments[12] = {"python3", TLS_FRONT, strrchr(fake_base_url(fake), ':') + 1};
    char port[8];
    int in[2], out[2];

    /* ":PORT/v1" */
    snprintf(port, sizeof port, "%lu", strtoul(arguments[2], NULL, 10));
    arguments[2] = port;
    for (size_t i = 0; names[i]; i++)
        arguments[3 + i] = names[i];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    f->pid = fork();
    if (f->pid == 0) {
        if (chdir(directory) < 0 || dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0)
            _exit(126);
        close(in[1]);
        close(out[0]);
        execv("/usr/bin/python3", (char **)arguments);
        _exit(127);
    }
    assert_true(f->pid > 0);
    close(in[0]);
    close(out[1]);
    f->in = in[1];
    f->out = fdopen(out[0], "r");
    for (size_t i = 0; names[i]; i++)
        assert_int_equal(fscanf(f->out, "%u", &f->ports[i]), 1);
}

static void front_stop(struct front *f)
{
    close(f->in);
    fclose(f->out);
    assert_int_equal(waitpid(f->pid, NULL, 0), f->pid);
}

static void prepare_certificates(const struct scene *s)
{
    char command[2048];

    snprintf(command, sizeof command, make_certificates, s->daemon.directory.path);
    if (system(command) != 0)
        fail_msg("openssl makes no certificates");
}

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("whole")))
        ;
}

static void call(struct scene *s, const char *model, struct rpc_result *ret)
{
    rpc_request request = rpc_request_new(model, "CANARY prompt");

    rpc_call(&s->rpc, RPC_CREATE, &request, ret);
}

/* ---- Certificates ---- */

/* An upstream for the model of that name. */
static int describe(char *out, size_t size, const struct scene *s, const char *name, unsigned port,
                    bool with_authority)
{
    int n = snprintf(out, size,
                     "[upstream %s]\nmodels = %s\nbase_url = https://127.0.0.1:%u/v1\n"
                     "credential_file = %s\nmax_retries = 2\n",
                     name, name, port, directory_path(&s->daemon.directory, "key"));

    if (with_authority)
        n += snprintf(out + n, size - (size_t)n, "ca_file = %s\n",
                      directory_path(&s->daemon.directory, "ca.pem"));
    return n;
}

static void test_who_can_not_be_trusted_gets_nothing(void **state)
{
    static const char *const names[] = {"good", "expired",  "other", "self",
                                        "sha1", "good:1.0", NULL};
    static const char *const models[] = {"good", "expired", "other", "self", "sha1", "old"};
    enum { N = sizeof models / sizeof *models };
    struct scene *s = *state;
    struct front front;
    struct rpc_result result;
    char settings[4096] = "models = none\n";
    size_t n = strlen(settings);

    prepare_certificates(s);
    struct fake *back = fake_new(NULL, serve, NULL);
    front_start(&front, s->daemon.directory.path, back, names);
    for (size_t i = 0; i < N; i++)
        n +=
            (size_t)describe(settings + n, sizeof settings - n, s, models[i], front.ports[i], true);
    /* A good one of whose authority nobody has said anything. */
    describe(settings + n, sizeof settings - n, s, "unknown", front.ports[0], false);
    scene_start(s, serve, NULL, settings);

    for (size_t i = 1; i <= N; i++) {
        print_message("%s\n", i < N ? models[i] : "unknown");
        call(s, i < N ? models[i] : "unknown", &result);
        rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_TLS");
        assert_false(result.detail->maybe_executed);
        /* Another attempt is no more trustworthy; but a handshake may fail for other reasons. */
        if (i < N && strcmp(models[i], "old") != 0)
            assert_int_equal(result.detail->attempts, 1);
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(back, FAKE_REQUESTED), 0);

    for (int i = 0; i < 3; i++) {
        call(s, "good", &result);
        rpc_assert_ok(&result, "whole");
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(back, FAKE_REQUESTED), 3);
    scene_stop(s);
    front_stop(&front);
    fake_free(back);
}

/* ---- Handshakes ---- */

/* How much of the server's side a relay lets through. */
struct relay {
    unsigned port, n_records;
    bool closes;
};

static int connect_to(unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* One TLS record, whole. */
static bool pass_record(struct fake_connection *c, int from)
{
    uint8_t record[5 + 65535];

    if (recv(from, record, 5, MSG_WAITALL) != 5)
        return false;
    ssize_t len = record[3] << 8 | record[4];
    return recv(from, record + 5, (size_t)len, MSG_WAITALL) == len &&
           fake_write(c, record, (size_t)len + 5);
}

static bool pass_bytes(struct fake_connection *c, int to)
{
    uint8_t bytes[65536];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);

    return n > 0 && send(to, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void relay(struct fake_connection *c)
{
    const struct relay *how = c->user;
    unsigned n = 0;
    int back = connect_to(how->port);
    struct pollfd fds[2] = {{c->fd, POLLIN, 0}, {back, POLLIN, 0}};

    while (back >= 0 && (n < how->n_records || !how->closes)) {
        /* Stalled: nothing more comes from there. */
        if (n == how->n_records)
            fds[1].fd = -1;
        if (poll(fds, 2, -1) < 0 || (fds[0].revents && !pass_bytes(c, back)) ||
            (fds[1].revents && !pass_record(c, back)))
            break;
        n += fds[1].revents != 0;
        fds[1].revents = 0;
    }
    if (back >= 0)
        close(back);
}

/* Handshakes that stop behind each of the server's records in turn, up to one that does not. */
static void expect_handshakes(struct scene *s, bool closes)
{
    static const char *const names[] = {"good", NULL};
    enum { RECORDS_MAX = 16 };
    struct relay how = {.closes = closes};
    struct front front;
    struct rpc_result result;
    char settings[512];
    unsigned n_early = 0;

    struct fake *back = fake_new(NULL, serve, NULL);
    struct fake *middle = fake_new(NULL, relay, &how);
    front_start(&front, s->daemon.directory.path, back, names);
    how.port = front.ports[0];
    snprintf(settings, sizeof settings,
             "base_url = https%s\nca_file = %s\nconnect_timeout = 300ms\n"
             "first_byte_timeout = 700ms\n",
             fake_base_url(middle) + 4, directory_path(&s->daemon.directory, "ca.pem"));
    scene_start(s, serve, NULL, settings);
    for (result.status = GRPC_UNKNOWN; result.status != GRPC_OK; how.n_records++) {
        assert_true(how.n_records < RECORDS_MAX);
        call(s, "m", &result);
        if (result.status != GRPC_OK) {
            rpc_assert_failed(&result, GRPC_UNAVAILABLE, NULL);
            print_message("%u records: %s\n", how.n_records, result.message);
            assert_int_equal(result.detail->attempts, 1);
            n_early += !result.detail->maybe_executed;
            if (!closes)
                rpc_assert_said(&result, result.detail->maybe_executed ? "first_byte_timeout"
                                                                       : "connect_timeout");
            assert_int_equal(result.detail->phase, result.detail->maybe_executed
                                                       ? COMPLETION__V1__PHASE__PHASE_SEND
                                                       : COMPLETION__V1__PHASE__PHASE_TLS);
        }
        enum grpc_status status = result.status;
        rpc_result_done(&result);
        result.status = status;
    }
    assert_true(n_early >= 2);
    scene_assert_serving(s);
    scene_stop(s);
    front_stop(&front);
    fake_free(middle);
    fake_free(back);
    s->fake = fake_free(s->fake);
}

static void test_handshake_that_stops_at_any_record(void **state)
{
    struct scene *s = *state;

    prepare_certificates(s);
    expect_handshakes(s, false);
    expect_handshakes(s, true);
}

/* ---- On the way ---- */

/* A proxy: passes bytes on to where it is asked to, and never looks at them. */
static void tunnel(struct fake_connection *c)
{
    const char *port;
    uint8_t bytes[65536];
    ssize_t n;

    if (!fake_read_request(c) || strncmp(c->head, "CONNECT ", 8) || !(port = strchr(c->head, ':')))
        return;
    int back = connect_to((unsigned)strtoul(port + 1, NULL, 10));
    struct pollfd fds[2] = {{c->fd, POLLIN, 0}, {back, POLLIN, 0}};
    bool goes_on = back >= 0 && fake_print(c, "HTTP/1.1 200 Go on\r\n\r\n");
    while (goes_on && poll(fds, 2, -1) > 0) {
        if (fds[0].revents)
            goes_on = pass_bytes(c, back);
        if (goes_on && fds[1].revents)
            goes_on =
                (n = recv(back, bytes, sizeof bytes, 0)) > 0 && fake_write(c, bytes, (size_t)n);
    }
    if (back >= 0)
        close(back);
}

static void test_through_a_proxy_and_with_an_odd_environment(void **state)
{
    static const char *const names[] = {"good", NULL};
    struct scene *s = *state;
    struct front front;
    char settings[512], key_log[160], bundle[160];
    const char *const environment[] = {key_log, bundle, NULL};
    struct rpc_result result;

    prepare_certificates(s);
    snprintf(key_log, sizeof key_log, "SSLKEYLOGFILE=%s/secrets", s->daemon.directory.path);
    snprintf(bundle, sizeof bundle, "CURL_CA_BUNDLE=%s/none.pem", s->daemon.directory.path);
    struct fake *back = fake_new(NULL, serve, NULL), *proxy = fake_new(NULL, tunnel, NULL);
    front_start(&front, s->daemon.directory.path, back, names);
    snprintf(settings, sizeof settings,
             "base_url = https://127.0.0.1:%u/v1\nca_file = %s\nproxy = %.*s\n", front.ports[0],
             directory_path(&s->daemon.directory, "ca.pem"), (int)strlen(fake_base_url(proxy)) - 3,
             fake_base_url(proxy));
    scene_prepare(s, serve, NULL, settings);
    daemon_start(&s->daemon, &(struct daemon_options){.environment = environment});
    rpc_connect(&s->rpc, s->daemon.socket);
    for (int i = 0; i < 3; i++) {
        call(s, "m", &result);
        rpc_assert_ok(&result, "whole");
        rpc_result_done(&result);
    }
    assert_int_equal(fake_count(back, FAKE_REQUESTED), 3);
    assert_int_equal(fake_count(proxy, FAKE_REQUESTED), 1);
    char *head = fake_last_head(proxy);
    assert_null(strstr(head, SCENE_SECRET));
    free(head);
    /* What could undo the encryption is not written down. */
    assert_int_not_equal(access(key_log + strlen("SSLKEYLOGFILE="), F_OK), 0);
    scene_stop(s);
    front_stop(&front);
    fake_free(proxy);
    fake_free(back);
}

/* ---- Answers ---- */

/* Only the end of the connection says where the body ends, and it comes too early. */
static void answer_in_part(struct fake_connection *c)
{
    if (fake_read_request(c))
        fake_print(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n%.*s",
                   (int)strlen(FAKE_LAST("whole")) - 1, FAKE_LAST("whole"));
}

static void test_body_that_ends_early_is_no_answer(void **state)
{
    static const char *const names[] = {"good", NULL};
    struct scene *s = *state;
    struct front front;
    struct rpc_result result;
    char settings[512];

    prepare_certificates(s);
    struct fake *back = fake_new(NULL, answer_in_part, NULL);
    front_start(&front, s->daemon.directory.path, back, names);
    snprintf(settings, sizeof settings, "base_url = https://127.0.0.1:%u/v1\nca_file = %s\n",
             front.ports[0], directory_path(&s->daemon.directory, "ca.pem"));
    scene_start(s, serve, NULL, settings);
    call(s, "m", &result);
    assert_int_not_equal(result.status, GRPC_OK);
    rpc_result_done(&result);
    scene_stop(s);
    front_stop(&front);
    fake_free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_who_can_not_be_trusted_gets_nothing),
        scene_test(test_handshake_that_stops_at_any_record),
        scene_test(test_through_a_proxy_and_with_an_odd_environment),
        scene_test(test_body_that_ends_early_is_no_answer),
    };

    if (system("/usr/bin/python3 -c 'import ssl' && openssl version >/dev/null") != 0) {
        printf("skipped: no python3 or openssl to serve TLS\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
