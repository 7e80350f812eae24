/* Bytes over HTTP that are wrong, too many, too slow, or cut: the daemon says so, and serves on. */
#include <signal.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "openai_peer.h"

#define ASK "{\"model\":\"m\",\"prompt\":\"CANARY prompt\"}"

static void answer(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("a")))
        ;
}

/* Sends this, first of all or behind a request that is well, and reads what comes. */
static void tell_behind(struct http *h, const struct scene *s, bool is_first, const char *text)
{
    http_connect(h, s);
    if (!is_first) {
        http_post(h, "", ASK);
        http_read_response(h, true);
        http_assert_status(h, 200);
    }
    http_send(h, text);
    http_read_response(h, true);
}

static void tell(struct http *h, const struct scene *s, const char *text)
{
    tell_behind(h, s, true, text);
}

static void assert_serving(struct scene *s)
{
    struct http h;

    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 200);
    http_close(&h);
}

/* ---- What is no request ---- */

static void test_malformed(void **state)
{
    static const char *const texts[] = {
        "GARBAGE OF SOME LENGTH\r\n\r\n",
        "\r\n\r\n",
        "GET /v1/models\r\n\r\n",
        "GET /v1/models HTTP/2.0\r\n\r\n",
        "GET /v1/models HTTP/x.y\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\n folded: first\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Length: 1x\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "\x16\x03\x01\x02 TLS, by mistake\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    };
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    for (size_t i = 0; i < 2 * sizeof texts / sizeof *texts; i++) {
        tell_behind(&h, s, i % 2, texts[i / 2]);
        if (h.status < 400 || h.status > 413)
            fail_msg("%zu: %s%s", i / 2, h.head, h.body);
        http_assert_header(&h, "Content-Type", "application/json");
        http_assert_header(&h, "Connection", "close");
        http_assert_says(&h, "{\"error\":{\"message\":\"");
        http_await_close(&h);
        http_close(&h);
    }
    assert_serving(s);
    scene_stop(s);
}

static void test_large_headers(void **state)
{
    enum { BYTES = 1 << 20 };
    struct scene *s = *state;
    struct http h;
    char *text = malloc(BYTES + 1);

    assert_non_null(text);
    memset(text, 'x', BYTES);
    text[BYTES] = '\0';
    http_start_scene(s, answer, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        http_connect(&h, s);
        /* A first line, a header, and many headers. */
        if (i > 0)
            http_send(&h, "GET /v1/models HTTP/1.1\r\n");
        if (i == 2)
            for (char *p = text + 100; p + 100 < text + BYTES; p += 100)
                memcpy(p, "\r\nh: ", 5);
        /* It may be refused before it is all there. */
        http_send_bytes(&h, text, BYTES);
        http_read_response(&h, true);
        http_assert_status(&h, 400);
        http_assert_says(&h, "headers are too large");
        http_close(&h);
    }
    free(text);
    assert_serving(s);
    scene_stop(s);
}

/* Each takes more than its bytes, and is paid for. */
static void test_many_headers(void **state)
{
    struct scene *s = *state;
    struct http h;
    struct buffer request = BUFFER_INIT(1 << 20);

    buffer_append_string(&request, "GET /v1/models HTTP/1.1\r\n");
    for (int i = 0; i < 3000; i++)
        buffer_append_string(&request, "a:\r\n");
    buffer_append(&request, "\r\n", 3);
    for (int i = 0; i < 2; i++) {
        http_start_scene(s, answer, NULL, i ? NULL : "[policy *]\nmax_memory = 256K\n");
        tell(&h, s, (char *)buffer_bytes(&request));
        http_assert_status(&h, i ? 200 : 429);
        http_close(&h);
        scene_stop(s);
        s->fake = fake_free(s->fake);
    }
    buffer_done(&request);
}

/* ---- Bodies ---- */

static char *large_request(size_t n)
{
    char *text = malloc(n + 64), *end;

    assert_non_null(text);
    end = stpcpy(text, "{\"model\":\"m\",\"prompt\":\"");
    memset(end, 'p', n);
    strcpy(end + n, "\"}");
    return text;
}

static void test_large_bodies(void **state)
{
    struct scene *s = *state;
    struct http h;
    char *fits = large_request((4 << 20) - 64), *large = large_request(4 << 20);

    http_start_scene(s, answer, NULL, NULL);
    http_ask(&h, s, "", fits);
    http_assert_status(&h, 200);
    http_close(&h);
    http_ask(&h, s, "", large);
    http_assert_status(&h, 413);
    http_assert_says(&h, "max_message");
    http_close(&h);
    tell_behind(&h, s, false,
                "POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{");
    http_assert_status(&h, 413);
    http_close(&h);
    tell(&h, s,
         "POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n"
         "Expect: 100-continue\r\n\r\n");
    http_assert_status(&h, 413);
    http_close(&h);
    tell(&h, s, "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n");
    http_assert_status(&h, 413);
    http_close(&h);
    free(fits);
    free(large);
    assert_serving(s);
    scene_stop(s);
}

static void test_limit_of_the_policy(void **state)
{
    struct scene *s = *state;
    struct http h;
    char *large = large_request(70000);

    http_start_scene(s, answer, NULL, "[policy *]\nmax_message = 64K\n");
    http_ask(&h, s, "", large);
    http_assert_status(&h, 413);
    http_close(&h);
    free(large);
    assert_serving(s);
    scene_stop(s);
}

static void test_chunked_request(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    tell(&h, s,
         "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
         "c;x=y\r\n{\"model\":\"m\"\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n");
    if (h.status != 200)
        http_assert_status(&h, 413); /* chunk extensions are beyond some libevents */
    http_close(&h);
    tell(&h, s,
         "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
         "c\r\n{\"model\":\"m\"\r\n1\r\n}\r\n0\r\n\r\n");
    http_assert_status(&h, 200);
    http_close(&h);
    tell(&h, s, "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    http_assert_status(&h, 413);
    http_close(&h);
    scene_stop(s);
}

static void test_expect(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    http_connect(&h, s);
    http_send(&h, "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n"
                  "Expect: 100-continue\r\n\r\n");
    http_read_response(&h, false);
    http_assert_status(&h, 100);
    http_send(&h, "{\"model\":\"m\"}");
    http_read_response(&h, true);
    http_assert_status(&h, 200);
    http_close(&h);
    tell(&h, s,
         "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\nExpect: tea\r\n\r\n"
         "{\"model\":\"m\"}");
    http_assert_status(&h, 417);
    http_assert_says(&h, "{\"error\":");
    http_close(&h);
    assert_serving(s);
    scene_stop(s);
}

static void test_byte_by_byte(void **state)
{
    static const char text[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"
                               "\r\n{\"model\":\"m\"}";
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    http_connect(&h, s);
    for (int i = 0; i < 2; i++) {
        for (const char *p = text; *p; p++)
            assert_true(http_send_bytes(&h, p, 1));
        http_read_response(&h, true);
        http_assert_status(&h, 200);
    }
    http_close(&h);
    scene_stop(s);
}

static void test_pipelining(void **state)
{
    enum { N = 200 };
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    http_connect(&h, s);
    for (int i = 0; i < N; i++)
        http_post(&h, "", i % 3 ? ASK : "{}");
    for (int i = 0; i < N; i++) {
        http_read_response(&h, true);
        http_assert_status(&h, i % 3 ? 200 : 400);
    }
    http_close(&h);
    scene_stop(s);
}

/* A request cut behind each of its bytes. */
static void test_cuts(void **state)
{
    static const char text[] = "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n"
                               "{\"model\":\"m\"}";
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    for (size_t i = 0; i < sizeof text; i++) {
        http_connect(&h, s);
        http_send_bytes(&h, text, i);
        http_close(&h);
    }
    assert_serving(s);
    scene_assert_serving(s);
    scene_stop(s);
}

/* ---- Slow and many ---- */

static void test_slow_request(void **state)
{
    struct scene *s = *state;
    struct http silent, slow, idle;

    http_start_scene(
        s, answer, NULL,
        "[daemon]\ncaller_first_byte_timeout = 300ms\ncaller_request_timeout = 300ms\n");
    http_connect(&idle, s);
    http_post(&idle, "", ASK);
    http_read_response(&idle, true);
    http_connect(&silent, s);
    http_connect(&slow, s);
    http_send(&slow, "POST /v1/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n{");
    http_read_response(&slow, true);
    http_assert_status(&slow, 408);
    http_assert_says(&slow, "caller_request_timeout");
    http_await_close(&slow);
    http_await_close(&silent);
    assert_int_equal(buffer_length(&silent.in), 0);
    /* Who owes nothing may stay. */
    http_post(&idle, "", ASK);
    http_read_response(&idle, true);
    http_assert_status(&idle, 200);
    http_close(&idle);
    http_close(&slow);
    http_close(&silent);
    scene_stop(s);
}

static void test_many_connections(void **state)
{
    enum { ALLOWED = 3, N = 8 };
    struct scene *s = *state;
    struct http h[N];

    /* gRPC's counts too. */
    http_start_scene(s, answer, NULL, "[policy *]\nmax_connections = 4\n");
    for (int i = 0; i < N; i++) {
        http_connect(&h[i], s);
        http_post(&h[i], "", ASK);
        http_read_response(&h[i], true);
        http_assert_status(&h[i], i < ALLOWED ? 200 : 429);
        if (i >= ALLOWED) {
            http_assert_says(&h[i], "max_connections");
            http_await_close(&h[i]);
        }
    }
    for (int i = 0; i < N; i++)
        http_close(&h[i]);
    scene_stop(s);
}

static void test_memory(void **state)
{
    struct scene *s = *state;
    struct http h[4];
    char *large = large_request(1 << 20);
    char head[128];

    /* Three quarters of it for one connection, all of it for all. */
    http_start_scene(s, answer, NULL, "[policy *]\nmax_memory = 2M\n");
    snprintf(head, sizeof head, "POST /v1/completions HTTP/1.1\r\nContent-Length: %zu\r\n\r\n",
             strlen(large));
    for (int i = 0; i < 4; i++) {
        http_connect(&h[i], s);
        http_send(&h[i], head);
        http_send_bytes(&h[i], large, 900000);
    }
    unsigned n_refused = 0;
    for (int i = 2; i < 4; i++) {
        http_read_response(&h[i], true);
        http_assert_status(&h[i], 429);
        http_assert_says(&h[i], "max_memory");
        n_refused++;
    }
    assert_int_equal(n_refused, 2);
    for (int i = 0; i < 4; i++)
        http_close(&h[i]);
    free(large);
    scene_assert_serving(s);
    assert_serving(s);
    scene_stop(s);
}

/* ---- Callers' own sockets ---- */

/* Libraries have taken a caller's name for shorter than it may be. */
static void test_named_caller(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    for (size_t len = 1; len < 108 - 1; len += 7) {
        struct sockaddr_un name = {.sun_family = AF_UNIX}, address = {.sun_family = AF_UNIX};
        memset(name.sun_path + 1, 'n', len);
        snprintf(name.sun_path + 1, 32, "%d", (int)getpid());
        h = (struct http){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
                          .in = BUFFER_INIT(1 << 20)};
        assert_int_equal(bind(h.fd, (struct sockaddr *)&name,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)),
                         0);
        snprintf(address.sun_path, sizeof address.sun_path, "%s/" HTTP_SOCKET,
                 s->daemon.directory.path);
        assert_int_equal(connect(h.fd, (struct sockaddr *)&address, sizeof address), 0);
        http_post(&h, "", ASK);
        http_read_response(&h, true);
        http_assert_status(&h, 200);
        http_close(&h);
    }
    scene_stop(s);
}

static void test_half_closed(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        http_connect(&h, s);
        http_post(&h, "", ASK);
        /* As good as gone, for HTTP. */
        shutdown(h.fd, SHUT_WR);
        http_await_close(&h);
        http_close(&h);
    }
    assert_serving(s);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_malformed),
        scene_test(test_large_headers),
        scene_test(test_many_headers),
        scene_test(test_large_bodies),
        scene_test(test_limit_of_the_policy),
        scene_test(test_chunked_request),
        scene_test(test_expect),
        scene_test(test_byte_by_byte),
        scene_test(test_pipelining),
        scene_test(test_cuts),
        scene_test(test_slow_request),
        scene_test(test_many_connections),
        scene_test(test_memory),
        scene_test(test_named_caller),
        scene_test(test_half_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
