/*
 * What libraries and tools take from the environment and from files in a home: proxies,
 * credentials, certificates, a place for TLS keys. The daemon takes none of it: the configuration
 * alone says whom it asks, with which key, and whom it trusts.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory.h"
#include "scene.h"

#define NETRC "machine 127.0.0.1 login evil password CANARY-netrc\ndefault login evil password e\n"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

/* All of them, to be given to a daemon. */
struct variables {
    char texts[24][192];
    const char *list[25];
    size_t n;
};

static void add(struct variables *v, const char *name, const char *value)
{
    assert_true(v->n < 24);
    snprintf(v->texts[v->n], sizeof v->texts[0], "%s=%s", name, value);
    v->list[v->n] = v->texts[v->n];
    v->n++;
}

static void add_all(struct variables *v, const struct directory *d, const char *proxy)
{
    static const char *const proxies[] = {"http_proxy",  "https_proxy", "HTTP_PROXY",
                                          "HTTPS_PROXY", "all_proxy",   "ALL_PROXY"};
    static const char *const homes[] = {"HOME", "CURL_HOME", "XDG_CONFIG_HOME"};
    static const char *const certificates[] = {"SSL_CERT_FILE", "CURL_CA_BUNDLE"};
    char line[192];

    for (size_t i = 0; i < sizeof proxies / sizeof *proxies; i++)
        add(v, proxies[i], proxy);
    add(v, "no_proxy", "");
    for (size_t i = 0; i < sizeof homes / sizeof *homes; i++)
        add(v, homes[i], d->path);
    for (size_t i = 0; i < sizeof certificates / sizeof *certificates; i++)
        add(v, certificates[i], directory_path(d, "cert.pem"));
    add(v, "SSL_CERT_DIR", d->path);
    add(v, "NETRC", directory_path(d, ".netrc"));
    add(v, "SSLKEYLOGFILE", directory_path(d, "tls-keys"));
    add(v, "OPENAI_BASE_URL", "http://127.0.0.1:1/v1");
    add(v, "OPENAI_API_KEY", "sk-CANARY-not-this-one");
    directory_write(d, ".netrc", NETRC);
    snprintf(line, sizeof line, "user-agent = evil\nproxy = %s\n", proxy);
    directory_write(d, ".curlrc", line);
    directory_write(d, "curlrc", line);
}

static void start(struct scene *s, struct variables *v, const char *proxy, const char *settings)
{
    struct daemon_options options = {.environment = v->list};

    add_all(v, &s->daemon.directory, proxy);
    scene_prepare(s, serve, NULL, settings);
    daemon_start(&s->daemon, &options);
    rpc_connect(&s->rpc, s->daemon.socket);
}

static void test_variables_and_files_in_a_home_are_ignored(void **state)
{
    struct scene *s = *state;
    struct variables v = {0};
    struct fake *proxy = fake_new(NULL, serve, NULL);
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;
    char url[160];

    snprintf(url, sizeof url, "%s", fake_base_url(proxy));
    *strstr(url, "/v1") = '\0';
    start(s, &v, url, NULL);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "POST /v1/completions HTTP/1.1\r\n"));
    assert_non_null(strstr(head, "\r\nAuthorization: Bearer " SCENE_KEY "\r\n"));
    assert_non_null(strstr(head, "\r\nUser-Agent: completiond/"));
    assert_null(strstr(head, "Basic"));
    assert_null(strstr(head, "evil"));
    free(head);
    assert_int_equal(fake_count(proxy, FAKE_ACCEPTED), 0);
    scene_stop(s);
    fake_free(proxy);
}

/* ---- TLS ---- */

/* openssl s_server, which prints what it is sent. */
struct tls_server {
    pid_t pid;
    int output; /* stdout and stderr */
    int input;
    char text[65536];
    size_t len;
    unsigned port;
};

static void run(const char *const *arguments)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execvp(arguments[0], (char **)arguments);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void await_output(struct tls_server *t, const char *expected)
{
    int64_t until = harness_now_ms() + HARNESS_TIMEOUT_MS;
    struct pollfd pfd = {.fd = t->output, .events = POLLIN};

    while (!strstr(t->text, expected)) {
        int64_t left = until - harness_now_ms();
        if (left <= 0 || poll(&pfd, 1, (int)left) <= 0)
            fail_msg("openssl did not say \"%s\": %s", expected, t->text);
        ssize_t n = read(t->output, t->text + t->len, sizeof t->text - 1 - t->len);
        if (n <= 0)
            fail_msg("openssl ended before it said \"%s\": %s", expected, t->text);
        t->len += (size_t)n;
        t->text[t->len] = '\0';
    }
}

static void tls_start(struct tls_server *t, const char *certificate, const char *key)
{
    int in[2], out[2];
    pid_t parent = getpid();

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    t->pid = fork();
    if (t->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0 || dup2(out[1], 2) < 0)
            _exit(126);
        execlp("openssl", "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate,
               "-key", key, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    t->input = in[1];
    t->output = out[0];
    await_output(t, "ACCEPT 127.0.0.1:");
    await_output(t, "\n");
    assert_int_equal(sscanf(strstr(t->text, "ACCEPT 127.0.0.1:"), "ACCEPT 127.0.0.1:%u", &t->port),
                     1);
}

static void tls_stop(struct tls_server *t)
{
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    close(t->input);
    close(t->output);
}

static void make_certificate(const struct directory *d)
{
    const char *const command[] = {"openssl",
                                   "req",
                                   "-x509",
                                   "-newkey",
                                   "ec",
                                   "-pkeyopt",
                                   "ec_paramgen_curve:prime256v1",
                                   "-nodes",
                                   "-days",
                                   "2",
                                   "-subj",
                                   "/CN=127.0.0.1",
                                   "-addext",
                                   "subjectAltName=IP:127.0.0.1",
                                   "-keyout",
                                   directory_path(d, "cert.key"),
                                   "-out",
                                   directory_path(d, "cert.pem"),
                                   NULL};

    run(command);
}

/* The certificate is in the environment's files and in none of the system's. */
static void test_trust_is_the_configurations(void **state)
{
    struct scene *s = *state;
    struct variables v = {0};
    struct tls_server tls = {0};
    char settings[256], certificate[128], key[128];
    rpc_request request = rpc_request_new("m", "p");
    struct rpc_result result;
    struct stat st;
    char answer[1024];
    int answer_len = snprintf(answer, sizeof answer,
                              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                              "Content-Length: %zu\r\n\r\n%s",
                              strlen(FAKE_LAST("ok")), FAKE_LAST("ok"));

    make_certificate(&s->daemon.directory);
    snprintf(certificate, sizeof certificate, "%s",
             directory_path(&s->daemon.directory, "cert.pem"));
    snprintf(key, sizeof key, "%s", directory_path(&s->daemon.directory, "cert.key"));
    tls_start(&tls, certificate, key);
    snprintf(settings, sizeof settings, "base_url = https://127.0.0.1:%u/v1\n", tls.port);
    start(s, &v, "http://127.0.0.1:1", settings);
    rpc_call(&s->rpc, RPC_CREATE, &request, &result);
    rpc_assert_failed(&result, GRPC_UNAVAILABLE, "UPSTREAM_TLS");
    rpc_assert_said(&result, "ca_file");
    rpc_result_done(&result);
    scene_stop(s);
    s->fake = fake_free(s->fake);

    /* With the configuration's word the same server is asked, and nobody writes down TLS's keys. */
    snprintf(settings, sizeof settings, "base_url = https://127.0.0.1:%u/v1\nca_file = %s\n",
             tls.port, certificate);
    v = (struct variables){0};
    start(s, &v, "http://127.0.0.1:1", settings);
    struct grpc_client_call *call = rpc_start(&s->rpc, RPC_CREATE, &request, -1);
    rpc_turn(&s->rpc, 0);
    await_output(&tls, "Authorization: Bearer " SCENE_KEY "\r\n");
    assert_int_equal(write(tls.input, answer, (size_t)answer_len), answer_len);
    rpc_finish(&s->rpc, call, &result);
    rpc_assert_ok(&result, "ok");
    rpc_result_done(&result);
    /* Nor does libcurl keep the key in the buffer that it encrypts from. */
    if (geteuid() == 0) {
        struct memory_finds finds = memory_search(s->daemon.pid, SCENE_KEY);
        assert_int_equal(finds.elsewhere, 0);
        assert_in_range(finds.in_secret_memory, 1, 16);
    }
    assert_int_equal(stat(directory_path(&s->daemon.directory, "tls-keys"), &st), -1);
    scene_stop(s);
    tls_stop(&tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_variables_and_files_in_a_home_are_ignored),
        scene_test(test_trust_is_the_configurations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
