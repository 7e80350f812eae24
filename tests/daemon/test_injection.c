/*
 * Texts that want to be more than texts: line ends, NULs, escape sequences and URLs in what
 * callers, configurations and upstreams say. None reaches a request line, a header or a line of the
 * log.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "scene.h"

static void serve(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_answer(c, 200, "application/json", "", FAKE_LAST("ok")))
        ;
}

#define DATA(text) ((ProtobufCBinaryData){.len = sizeof(text) - 1, .data = (uint8_t *)(text)})

static void expect(struct scene *s, const rpc_request *request, enum grpc_status status)
{
    struct rpc_result result;

    rpc_call(&s->rpc, RPC_CREATE, request, &result);
    if (status == GRPC_OK)
        rpc_assert_ok(&result, "ok");
    else
        rpc_assert_failed(&result, status, NULL);
    for (const char *c = result.message; *c; c++)
        assert_true((unsigned char)*c >= ' ' && *c != 0x7f);
    rpc_result_done(&result);
}

/* Every header is one of those that the daemon sends, the request line is what it always is. */
static void assert_usual_head(struct scene *s)
{
    static const char *const usual[] = {"Host: ",
                                        "User-Agent: completiond/",
                                        "Accept: ",
                                        "Content-Type: application/json",
                                        "Accept-Encoding: identity",
                                        ("Authorization: Bearer " SCENE_KEY),
                                        "X-Client-Request-Id: call-",
                                        "Content-Length: "};
    static const char line[] = "POST /v1/completions HTTP/1.1\r\n";
    char *head = fake_last_head(s->fake), *rest = NULL;

    assert_non_null(head);
    if (strncmp(head, line, strlen(line)) != 0)
        fail_msg("%s", head);
    for (char *h = strtok_r(head + strlen(line), "\r\n", &rest); h;
         h = strtok_r(NULL, "\r\n", &rest)) {
        bool known = false;
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
            known = known || !strncmp(h, usual[i], strlen(usual[i]));
        if (!known)
            fail_msg("a header that nobody sent: %s", h);
    }
    free(head);
}

/* Each line is one of the daemon's, of printable characters. */
static void assert_clean_log(struct scene *s)
{
    char *log = daemon_log(&s->daemon), *rest = NULL;

    for (char *line = strtok_r(log, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "completiond: ", 13) != 0)
            fail_msg("a line of the log that nobody wrote: %s", line);
        for (const char *c = line; *c; c++)
            if ((unsigned char)*c < ' ' || *c == 0x7f)
                fail_msg("control character %d in the log: %s", *c, line);
    }
    free(log);
}

/* ---- What callers say ---- */

static void test_control_characters_in_model_and_user_are_refused(void **state)
{
    static const ProtobufCBinaryData bad[] = {
        DATA("m\r\nX-Evil: 1"), DATA("m\nX-Evil: 1"), DATA("m\r"), DATA("m\0X"), DATA("\0"),
        DATA("m\x1b[2J"),       DATA("m\x7f"),
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rpc_request request = rpc_request_new("m", "p");
        request.model = bad[i];
        expect(s, &request, GRPC_INVALID_ARGUMENT);
        request.model = rpc_text("m");
        request.has_user = true;
        request.user = bad[i];
        expect(s, &request, GRPC_INVALID_ARGUMENT);
    }
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    assert_clean_log(s);
    scene_stop(s);
}

static void test_texts_stay_in_the_body(void **state)
{
    static const ProtobufCBinaryData texts[] = {
        DATA("\r\nX-Evil: 1\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"),
        DATA("\"},\"model\":\"evil\",\"x\":{\"y\":\""),
        DATA("a\0b\x1b[2J\n\\u0000\\\"completiond: error: forged"),
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rpc_request request = rpc_request_new("m", "");
        request.prompt_string = texts[i];
        request.has_suffix = true;
        request.suffix = texts[i];
        request.stop_case = COMPLETION__V1__CREATE_COMPLETION_REQUEST__STOP_STOP_STRING;
        request.stop_string = texts[i];
        expect(s, &request, GRPC_OK);
        assert_usual_head(s);
        assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), i + 1);
        char *body = fake_last_body(s->fake);
        for (const char *c = body; *c; c++)
            assert_true((unsigned char)*c >= ' ');
        assert_memory_equal(body, "{\"model\":\"m\",\"prompt\":\"", 23);
        free(body);
    }
    assert_clean_log(s);
    scene_stop(s);
}

static void test_model_does_not_change_the_url(void **state)
{
    static const char *const models[] = {
        "../../admin?x=", "@evil", "//evil", "http://evil/", "?x=1", "#", "%2e%2e/%00", "a:b@c",
        "/etc/passwd",    "*",     "..",     "unix:/x",      "[m]",  " ", "\xc3\xa9",   "{m}",
    };
    struct scene *s = *state;

    scene_start(s, serve, NULL, NULL);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        rpc_request request = rpc_request_new(models[i], "p");
        expect(s, &request, GRPC_OK);
        assert_usual_head(s);
        char *body = fake_last_body(s->fake), expected[64];
        snprintf(expected, sizeof expected, "{\"model\":\"%s\",", models[i]);
        assert_memory_equal(body, expected, strlen(expected));
        free(body);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), sizeof models / sizeof *models);
    assert_clean_log(s);
    scene_stop(s);
}

/* ---- Metadata ---- */

static void call_with_own_key(struct scene *s, const char *key, enum grpc_status status)
{
    rpc_request request = rpc_request_new("m", "p");
    uint8_t message[32];
    size_t len = completion__v1__create_completion_request__pack(&request, message);
    struct grpc_client_metadata metadata = {"completion-api-key", key, true};
    struct rpc_result result;

    rpc_finish(&s->rpc, rpc_start_raw(&s->rpc, RPC_CREATE, message, len, -1, &metadata, 1),
               &result);
    if (status == GRPC_OK) {
        rpc_assert_ok(&result, "ok");
    } else {
        rpc_assert_failed(&result, status, "INVALID_REQUEST");
        rpc_assert_text(result.detail, param, "completion-api-key");
        assert_null(strstr(result.message, SCENE_SECRET));
    }
    rpc_result_done(&result);
}

static void test_own_keys_that_are_none(void **state)
{
    struct scene *s = *state;
    char key[4001];

    scene_start(s, serve, NULL, "[policy *]\nallow_own_key = yes\n");
    call_with_own_key(s, "CANARY two", GRPC_INVALID_ARGUMENT);
    call_with_own_key(s, "", GRPC_INVALID_ARGUMENT);
    memset(key, 'k', sizeof key);
    key[4000] = '\0';
    call_with_own_key(s, key, GRPC_INVALID_ARGUMENT);
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    key[3072] = '\0';
    call_with_own_key(s, key, GRPC_OK);
    char *head = fake_last_head(s->fake);
    const char *sent = strstr(head, "Authorization: Bearer ");
    assert_non_null(sent);
    assert_int_equal(strspn(sent + 22, "k"), 3072);
    free(head);
    scene_stop(s);
}

/* An HPACK literal that is never indexed, without Huffman coding. */
static size_t put_header(uint8_t *out, const char *name, const char *value, size_t value_len)
{
    size_t n = strlen(name);

    out[0] = 0x10;
    out[1] = (uint8_t)n;
    memcpy(out + 2, name, n);
    out[2 + n] = (uint8_t)value_len;
    memcpy(out + 3 + n, value, value_len);
    return 3 + n + value_len;
}

static void read_exactly(int fd, void *data, size_t len)
{
    size_t n = 0;

    while (n < len) {
        ssize_t r = recv(fd, (char *)data + n, len - n, 0);
        if (r <= 0)
            fail_msg("the connection ended");
        n += (size_t)r;
    }
}

/* A call by hand, with a header that no good client would send. Returns once it has been ended. */
static void call_with_header(struct scene *s, const char *name, const char *value, size_t len)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = HARNESS_TIMEOUT_MS / 1000};
    uint8_t out[512], frame[9], payload[16384];
    size_t n = 9;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", s->daemon.socket);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    n += put_header(out + n, ":method", "POST", 4);
    n += put_header(out + n, ":scheme", "http", 4);
    n += put_header(out + n, ":path", RPC_CREATE, strlen(RPC_CREATE));
    n += put_header(out + n, "content-type", "application/grpc", 16);
    n += put_header(out + n, "te", "trailers", 8);
    n += put_header(out + n, name, value, len);
    memcpy(out, (uint8_t[]){0, (uint8_t)((n - 9) >> 8), (uint8_t)(n - 9), 1, 4, 0, 0, 0, 1}, 9);
    assert_int_equal(send(fd, preface, sizeof preface - 1, 0), sizeof preface - 1);
    assert_int_equal(send(fd, out, n, 0), n);
    do {
        read_exactly(fd, frame, sizeof frame);
        size_t size = (size_t)frame[0] << 16 | (size_t)frame[1] << 8 | frame[2];
        assert_true(size <= sizeof payload);
        read_exactly(fd, payload, size);
    } while (!(frame[8] == 1 && (frame[3] == 3 || (frame[3] == 1 && frame[4] & 1))));
    close(fd);
}

static void test_metadata_with_line_ends_is_refused(void **state)
{
    struct scene *s = *state;

    scene_start(s, serve, NULL, "[policy *]\nallow_own_key = yes\n");
    call_with_header(s, "completion-api-key", "k\r\nX-Evil: 1", 12);
    call_with_header(s, "completion-api-key", "k\nX", 3);
    call_with_header(s, "completion-api-key", "k\0X", 3);
    call_with_header(s, "completion-api-key\r\nx", "k", 1);
    call_with_header(s, "x-any", "\x1b[2J\r\ncompletiond: error: forged", 33);
    assert_int_equal(fake_count(s->fake, FAKE_ACCEPTED), 0);
    assert_clean_log(s);
    scene_assert_serving(s);
    scene_stop(s);
}

/* ---- What upstreams say ---- */

static void answer_with_controls(struct fake_connection *c)
{
    while (fake_read_request(c) &&
           fake_answer(c, 400, "application/json", "x-request-id: a\x1b[2J\tb\xff\r\n",
                       "{\"error\":{\"message\":\"a\\r\\ncompletiond: error: forged\\u001b[2J"
                       "\\u0000\\u009b2J\",\"code\":\"x\\ny\"}}"))
        ;
}

static void test_control_characters_of_upstreams_go_nowhere(void **state)
{
    struct scene *s = *state;
    rpc_request request = rpc_request_new("m", "p");

    scene_start(s, answer_with_controls, NULL, NULL);
    expect(s, &request, GRPC_INVALID_ARGUMENT);
    assert_clean_log(s);
    scene_stop(s);
}

/* ---- What configurations say ---- */

static const struct daemon_options check = {
    .arguments = (const char *const[]){"--check-config", NULL},
    .no_listen = true,
    .no_notify = true,
};

static void expect_refused(struct scene *s, const char *setting, const char *message)
{
    char config[512];

    snprintf(config, sizeof config, "[upstream u]\nbase_url = http://127.0.0.1:1/v1\n%s\n",
             setting);
    daemon_configure(&s->daemon, config);
    daemon_spawn(&s->daemon, NULL);
    daemon_wait_exit(&s->daemon, 1);
    daemon_assert_logged(&s->daemon, message);
    assert_clean_log(s);
    remove(s->daemon.log);

    daemon_spawn(&s->daemon, &check);
    daemon_wait_exit(&s->daemon, 1);
    daemon_assert_logged(&s->daemon, message);
    daemon_assert_not_logged(&s->daemon, "\x1b");
    daemon_assert_not_logged(&s->daemon, "\r");
    remove(s->daemon.log);
}

static void test_line_ends_in_the_configuration_are_refused(void **state)
{
    struct scene *s = *state;

    expect_refused(s, "header = X-One: 1\rX-Evil: 2", "header: control characters");
    expect_refused(s, "header = X-One\r: 1", "header: write Name: value");
    expect_refused(s, "header = X-One: 1\n X-Evil\r: 2", "the line is indented");
    expect_refused(s, "header = X-One: \x1b[2J", "header: control characters");
    expect_refused(s, "header = Authorization: Bearer x", "can't be set here");
    expect_refused(s, "header = Host: evil", "can't be set here");
    expect_refused(s, "query = a=1\rb", "base_url and query do not make a URL");
    expect_refused(s, "base_url = http://127.0.0.1:1/\r/v1", "base_url");
    expect_refused(s, "base_url = http://user@127.0.0.1/v1", "base_url");
    expect_refused(s, "base_url = file:///etc/passwd", "base_url must begin");
    expect_refused(s, "col\x1b[2Jour = red", "has no key \"col\\x1b[2Jour\"");
    expect_refused(s, "log_level = \x1b[2J\n[daemon]\nlog_level = \x1b[2J", "log_level");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_control_characters_in_model_and_user_are_refused),
        scene_test(test_texts_stay_in_the_body),
        scene_test(test_model_does_not_change_the_url),
        scene_test(test_own_keys_that_are_none),
        scene_test(test_metadata_with_line_ends_is_refused),
        scene_test(test_control_characters_of_upstreams_go_nowhere),
        scene_test(test_line_ends_in_the_configuration_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
