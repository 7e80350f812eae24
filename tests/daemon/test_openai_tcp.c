/*
 * HTTP over TCP, where the kernel does not tell who calls: only with a token, as the user that it
 * stands for, and never for a page in a browser.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pwd.h>

#include "openai_peer.h"

#define TOKEN  "CANARY-token-one-0123456789"
#define TOKEN2 "CANARY-token-two-0123456789"
#define ASK    "{\"model\":\"m\",\"prompt\":\"CANARY prompt\"}"
#define BEARER "Authorization: Bearer " TOKEN "\r\n"

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("a")))
        ;
}

/* Two tokens, of the users 4001 and 4002. settings: further sections; NULL: none. */
static void start(struct scene *s, const char *settings)
{
    char text[2048];
    const char *one = directory_write(&s->daemon.directory, "one", TOKEN "\n");
    const char *two = directory_write(&s->daemon.directory, "two", TOKEN2 "\n");

    snprintf(text, sizeof text,
             "[token one]\nuser = 4001\ncredential_file = %s\n"
             "[token two]\nuser = 4002\ncredential_file = %s\n%s",
             one, two, settings ? settings : "");
    scene_prepare(s, answer, NULL, text);
    http_start_daemon(s, "127.0.0.1:0", NULL);
}

static in_port_t port_of(struct scene *s)
{
    char *log = daemon_log(&s->daemon);
    const char *at = strstr(log, "HTTP on 127.0.0.1:");

    assert_non_null(at);
    in_port_t port = (in_port_t)strtoul(strrchr(strtok((char *)at, "\n"), ':') + 1, NULL, 10);
    free(log);
    return port;
}

static void connect_tcp(struct http *h, struct scene *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port_of(s)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    *h = (struct http){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                       .in = BUFFER_INIT(1 << 20)};
    assert_true(h->fd >= 0);
    assert_int_equal(connect(h->fd, (struct sockaddr *)&address, sizeof address), 0);
}

static void ask(struct http *h, struct scene *s, const char *headers)
{
    connect_tcp(h, s);
    http_post(h, headers, ASK);
    http_read_response(h, true);
    close(h->fd);
    h->fd = -1;
}

static void test_tokens(void **state)
{
    static const char *const wrong[] = {
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer sk-something\r\n",
        "Authorization: Bearer " TOKEN "x\r\n",
        "Authorization: Bearer CANARY-token-one-012345678\r\n",
        "Authorization: Bearer CANARY-token-one-012345678x\r\n",
        "Authorization: Basic " TOKEN "\r\n",
        "Authorization: " TOKEN "\r\n",
        "api-key: " TOKEN "\r\n",
    };
    struct scene *s = *state;
    struct http h;

    start(s, NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ask(&h, s, wrong[i]);
        http_assert_status(&h, 401);
        http_assert_header(&h, "WWW-Authenticate", "Bearer");
        http_assert_says(&h, "\"code\":\"invalid_api_key\"");
        assert_null(strstr(h.body, "CANARY"));
        http_close(&h);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
    ask(&h, s, BEARER);
    http_assert_status(&h, 200);
    http_close(&h);
    ask(&h, s, "authorization: bearer  " TOKEN2 "\r\n");
    http_assert_status(&h, 200);
    http_close(&h);
    /* The token is for us. */
    char *head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Bearer " SCENE_KEY "\r\n"));
    free(head);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "uid=4001 status=OK");
    daemon_assert_logged(&s->daemon, "uid=4002 status=OK");
    daemon_assert_logged(&s->daemon, "uid=65534 status=UNAUTHENTICATED");
}

/* Whose limits hold is the token's matter, and may change from request to request. */
static void test_policies(void **state)
{
    struct scene *s = *state;
    struct http h;

    start(s, "[policy user:4001]\nmodels = other\n[policy user:4002]\nallow_own_key = yes\n");
    connect_tcp(&h, s);
    for (int i = 0; i < 4; i++) {
        http_post(&h, i % 2 ? "Authorization: Bearer " TOKEN2 "\r\n" : BEARER, ASK);
        http_read_response(&h, true);
        http_assert_status(&h, i % 2 ? 200 : 403);
        if (i % 2 == 0)
            http_assert_says(&h, "[policy user:4001]");
    }
    http_close(&h);
    char *head = fake_last_head(s->fake);
    assert_null(strstr(head, "CANARY-token"));
    free(head);
    scene_stop(s);
}

static void test_groups(void **state)
{
    const struct passwd *root = getpwuid(0);
    struct scene *s = *state;
    struct http h;
    char settings[512];

    if (!root)
        skip();
    snprintf(settings, sizeof settings,
             "[token root]\nuser = %s\ncredential_file = %s\n[policy group:%u]\nmodels = other\n",
             root->pw_name, directory_write(&s->daemon.directory, "root", "CANARY-token-of-root\n"),
             root->pw_gid);
    start(s, settings);
    ask(&h, s, "Authorization: Bearer CANARY-token-of-root\r\n");
    http_assert_status(&h, 403);
    http_assert_says(&h, "[policy group:");
    http_close(&h);
    ask(&h, s, BEARER);
    http_assert_status(&h, 200);
    http_close(&h);
    scene_stop(s);
}

static void test_names(void **state)
{
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        {"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n", 200},
        {"GET /v1/models HTTP/1.1\r\nHost: LOCALHOST:80\r\n", 200},
        {"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:1234\r\n", 200},
        {"GET /v1/models HTTP/1.1\r\nHost: [::1]:1\r\n", 200},
        {"GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost\r\n", 200},
        {"GET /v1/models HTTP/1.1\r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: \r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: localhost.evil.example\r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: localhost:80:evil\r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.10\r\n", 421},
        {"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nhost: evil.example\r\n", 421},
        {"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n", 421},
    };
    struct scene *s = *state;
    struct http h;

    start(s, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        connect_tcp(&h, s);
        http_send(&h, cases[i].request);
        http_send(&h, BEARER "\r\n");
        http_read_response(&h, true);
        if (h.status != cases[i].status)
            fail_msg("%zu: %s%s", i, h.head, h.body);
        http_close(&h);
    }
    scene_stop(s);
}

/* What a page may send without being asked first is refused even without a token. */
static void test_pages(void **state)
{
    static const char *const types[] = {"", "Content-Type: text/plain\r\n",
                                        "Content-Type: application/jsonp\r\n"};
    struct scene *s = *state;
    struct http h;

    start(s, "[daemon]\nopenai_require_token = no\n[policy user:65534]\nmodels = m\n");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        connect_tcp(&h, s);
        http_send(&h, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n");
        http_send(&h, types[i]);
        http_send(&h, "\r\n{\"model\":\"m\"}");
        http_read_response(&h, true);
        http_assert_status(&h, 415);
        http_close(&h);
    }
    connect_tcp(&h, s);
    http_send(&h, "OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\n"
                  "Access-Control-Request-Method: POST\r\n\r\n");
    http_read_response(&h, true);
    http_assert_status(&h, 405);
    assert_null(strcasestr(h.head, "Access-Control"));
    http_close(&h);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
    ask(&h, s, "");
    http_assert_status(&h, 200);
    http_close(&h);
    ask(&h, s, BEARER);
    http_assert_status(&h, 200);
    http_close(&h);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "uid=65534 status=OK");
    daemon_assert_logged(&s->daemon, "uid=4001 status=OK");
}

/* Anybody may connect, and takes no place from those who may ask. */
static void test_strangers(void **state)
{
    enum { N = 200 };
    struct scene *s = *state;
    struct http known, h, strangers[N];

    start(s, "[policy user:4001]\nmax_connections = 2\n");
    connect_tcp(&known, s);
    http_post(&known, BEARER, ASK);
    http_read_response(&known, true);
    http_assert_status(&known, 200);
    for (int i = 0; i < N; i++)
        connect_tcp(&strangers[i], s);
    /* The first of them had to go. */
    http_await_close(&strangers[0]);
    ask(&h, s, BEARER);
    http_assert_status(&h, 200);
    http_close(&h);
    http_post(&known, BEARER, ASK);
    http_read_response(&known, true);
    http_assert_status(&known, 200);
    http_close(&known);
    for (int i = 0; i < N; i++)
        http_close(&strangers[i]);
    scene_assert_serving(s);
    scene_stop(s);
}

static void test_connections_of_a_user(void **state)
{
    struct scene *s = *state;
    struct http h[3];

    start(s, "[policy user:4001]\nmax_connections = 2\n");
    for (int i = 0; i < 3; i++) {
        connect_tcp(&h[i], s);
        http_post(&h[i], BEARER, ASK);
        http_read_response(&h[i], true);
        http_assert_status(&h[i], i < 2 ? 200 : 429);
    }
    http_assert_says(&h[2], "max_connections");
    for (int i = 0; i < 3; i++)
        http_close(&h[i]);
    scene_stop(s);
}

static void test_other_addresses(void **state)
{
    static const struct {
        const char *address, *says;
    } cases[] = {
        {"0.0.0.0:0", "no address of the loopback interface"},
        {"192.0.2.1:80", "no address of the loopback interface"},
        {"[::]:0", "no address of the loopback interface"},
        {"example.org:80", "write HOST:PORT"},
        {"127.0.0.1:", "write HOST:PORT"},
        {"127.0.0.1:65536", "write HOST:PORT"},
        {":80", "write HOST:PORT"},
    };
    struct scene *s = *state;

    scene_prepare(s, answer, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const arguments[] = {"--openai-listen", cases[i].address, NULL};
        daemon_spawn(&s->daemon, &(struct daemon_options){.arguments = arguments});
        daemon_wait_exit(&s->daemon, 1);
        daemon_assert_logged(&s->daemon, cases[i].says);
    }
}

static void test_wrong_tokens(void **state)
{
    static const struct {
        const char *section, *says;
    } cases[] = {
        {"[token a]\n", "[token a]: user is missing"},
        {"[token a]\nuser = 1\n", "[token a]: credential or credential_file is missing"},
        {"[token a]\nuser = no-such-user\n", "[token a]: there is no such user"},
        {"[token a]\nuser = 1\ncredential_file = /nonexistent\n", "can't be used"},
        {"[token a]\nuser = 1\ncredential = a\n", "needs LoadCredential="},
        {"[token a]\nkey = 1\n", "[token a] has no key \"key\""},
        {"[token]\n", "unknown section [token]"},
    };
    struct scene *s = *state;
    char short_token[256];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        daemon_configure(&s->daemon, cases[i].section);
        daemon_spawn(&s->daemon, NULL);
        daemon_wait_exit(&s->daemon, 1);
        daemon_assert_logged(&s->daemon, cases[i].says);
    }
    snprintf(short_token, sizeof short_token, "[token a]\nuser = 1\ncredential_file = %s\n",
             directory_write(&s->daemon.directory, "short", "CANARY-short\n"));
    daemon_configure(&s->daemon, short_token);
    daemon_spawn(&s->daemon, NULL);
    daemon_wait_exit(&s->daemon, 1);
    daemon_assert_logged(&s->daemon, "shorter than 16 characters");
    daemon_assert_not_logged(&s->daemon, "CANARY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_tokens),
        scene_test(test_policies),
        scene_test(test_groups),
        scene_test(test_names),
        scene_test(test_pages),
        scene_test(test_strangers),
        scene_test(test_connections_of_a_user),
        scene_test(test_other_addresses),
        scene_test(test_wrong_tokens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
