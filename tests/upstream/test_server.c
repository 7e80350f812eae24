/* HTTP: routes, refusals, connections, pace, clients that are slow or go away. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMPLETIONS "/v1/completions"

static struct sandbox sandbox;

static int start(void **state)
{
    (void)state;
    sandbox_start(&sandbox, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    sandbox_stop(&sandbox);
    return 0;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* /stats is asked until it says so. */
static void await_count(struct sandbox *s, const char *name, int64_t expected)
{
    double until = now() + 30;

    while (sandbox_count(s, name) != expected)
        if (now() > until)
            fail_msg("%s did not become %lld", name, (long long)expected);
}

static struct answer ask_text(struct sandbox *s, const char *path, const char *body,
                              const char *key)
{
    return sandbox_ask(s, path, body, body ? strlen(body) : 0, key, NULL);
}

static void write_text(int fd, const char *text)
{
    size_t len = strlen(text);

    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
}

static void write_request(int fd, const char *members)
{
    char request[1024], body[512];
    int len = snprintf(body, sizeof body, "{" FIXTURE_MODEL ",%s}", members);

    snprintf(request, sizeof request,
             "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
             "Content-Length: %d\r\n\r\n%s",
             len, body);
    write_text(fd, request);
}

/* Until the other side closes, or `until` has been read. To be freed. */
static char *read_until(int fd, const char *until)
{
    size_t len = 0, capacity = 1 << 16;
    char *text = malloc(capacity + 1);
    ssize_t n;

    assert_non_null(text);
    *text = '\0';
    while ((n = recv(fd, text + len, capacity - len, 0)) > 0) {
        size_t from = len > 64 ? len - 64 : 0;
        len += (size_t)n;
        text[len] = '\0';
        if (until && strstr(text + from, until))
            break;
        if (len == capacity) {
            text = realloc(text, 2 * capacity + 1);
            assert_non_null(text);
            capacity *= 2;
        }
    }
    assert_true(n >= 0);
    return text;
}

/* ---- Refusals ---- */

static void assert_refused(struct answer *a, long status, const char *param, const char *code)
{
    assert_int_equal(a->status, status);
    assert_non_null(strcasestr(a->head, "Content-Type: application/json"));
    assert_non_null(a->json);
    assert_true(strlen(text_at(a->json, "error.message")) > 10);
    assert_string_equal(text_at(a->json, "error.type"), "invalid_request_error");
    assert_string_equal(param ? param : "",
                        at(a->json, "error.param") ? text_at(a->json, "error.param") : "");
    assert_string_equal(code ? code : "",
                        at(a->json, "error.code") ? text_at(a->json, "error.code") : "");
    answer_done(a);
}

static void test_refusals_have_the_apis_error_object(void **state)
{
    struct answer a;

    (void)state;
    a = ask_text(&sandbox, COMPLETIONS, "{", NULL);
    assert_refused(&a, 400, NULL, NULL);
    a = ask_text(&sandbox, COMPLETIONS, "", NULL);
    assert_refused(&a, 400, NULL, NULL);
    a = ask_text(&sandbox, COMPLETIONS, "{\"model\":\"gpt-2\"}", NULL);
    assert_refused(&a, 404, "model", "model_not_found");
    a = ask_text(&sandbox, COMPLETIONS, "{" FIXTURE_MODEL ",\"temperature\":3}", NULL);
    assert_refused(&a, 400, "temperature", "decimal_above_max_value");
    a = ask_text(&sandbox, COMPLETIONS, "{" FIXTURE_MODEL ",\"max_tokens\":4000}", NULL);
    assert_refused(&a, 400, NULL, "context_length_exceeded");
    a = ask_text(&sandbox, COMPLETIONS, "{" FIXTURE_MODEL ",\"top_k\":4}", NULL);
    assert_refused(&a, 400, NULL, NULL);
}

static void test_other_places_and_methods_are_refused(void **state)
{
    struct answer a;

    (void)state;
    a = ask_text(&sandbox, "/completions", "{}", NULL);
    assert_refused(&a, 404, NULL, "unknown_url");
    a = ask_text(&sandbox, "/v1/completions/", "{}", NULL);
    assert_refused(&a, 404, NULL, "unknown_url");
    a = ask_text(&sandbox, COMPLETIONS, NULL, NULL);
    assert_non_null(strstr(a.head, "Allow: POST"));
    assert_refused(&a, 405, NULL, "method_not_supported");
    a = ask_text(&sandbox, "/v1/models", "{}", NULL);
    assert_refused(&a, 405, NULL, "method_not_supported");
}

static void test_content_type_is_json(void **state)
{
    static const char *const refused[] = {"text/plain", "application/x-www-form-urlencoded",
                                          "application/jsonp"};
    static const char *const taken[] = {"Application/JSON", "application/json; charset=utf-8"};
    static const char body[] = "{" FIXTURE_MODEL "}";

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct answer a = sandbox_ask(&sandbox, COMPLETIONS, body, strlen(body), NULL, refused[i]);
        assert_refused(&a, 415, NULL, "unsupported_content_type");
    }
    for (size_t i = 0; i < 2; i++) {
        struct answer a = sandbox_ask(&sandbox, COMPLETIONS, body, strlen(body), NULL, taken[i]);
        assert_int_equal(a.status, 200);
        answer_done(&a);
    }
}

static void test_large_bodies_are_refused(void **state)
{
    size_t len = 5 << 20;
    char *body = malloc(len);
    struct answer a;

    (void)state;
    assert_non_null(body);
    memset(body, ' ', len);
    a = sandbox_ask(&sandbox, COMPLETIONS, body, len, NULL, NULL);
    assert_refused(&a, 413, NULL, "request_too_large");
    memcpy(body, "{" FIXTURE_MODEL, strlen("{" FIXTURE_MODEL));
    body[(4 << 20) - 1] = '}';
    a = sandbox_ask(&sandbox, COMPLETIONS, body, 4 << 20, NULL, NULL);
    assert_int_equal(a.status, 200);
    answer_done(&a);
    free(body);
}

static void assert_key_is_asked_for(struct sandbox *s)
{
    static const char body[] = "{" FIXTURE_MODEL "}";
    struct answer a;

    a = ask_text(s, COMPLETIONS, body, NULL);
    assert_refused(&a, 401, NULL, NULL);
    a = ask_text(s, COMPLETIONS, body, "secret-2");
    assert_null(strstr(a.body, "secret"));
    assert_refused(&a, 401, NULL, "invalid_api_key");
    a = ask_text(s, COMPLETIONS, body, "secret-1");
    assert_int_equal(a.status, 200);
    answer_done(&a);
    a = ask_text(s, "/v1/models", NULL, "secret");
    assert_refused(&a, 401, NULL, "invalid_api_key");
    a = ask_text(s, "/health", NULL, NULL);
    assert_int_equal(a.status, 200);
    answer_done(&a);
}

static void test_a_key_is_asked_for(void **state)
{
    char path[] = "/tmp/sandbox-key-XXXXXX";
    int fd = mkstemp(path);
    struct sandbox s;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "secret-1\n", 9), 9);
    close(fd);
    sandbox_start(&s, (const char *const[]){"--api-key", "secret-1", NULL});
    assert_key_is_asked_for(&s);
    sandbox_stop(&s);
    sandbox_start(&s, (const char *const[]){"--api-key-file", path, NULL});
    unlink(path);
    assert_key_is_asked_for(&s);
    sandbox_stop(&s);
}

/* ---- Answers ---- */

static void test_answers_have_the_apis_headers(void **state)
{
    struct answer a = ask_text(&sandbox, COMPLETIONS, "{" FIXTURE_MODEL "}", NULL);

    (void)state;
    assert_non_null(strstr(a.head, "x-request-id: req_"));
    assert_non_null(strstr(a.head, "openai-processing-ms: "));
    assert_non_null(strstr(a.head, "openai-version: 2020-10-01"));
    answer_done(&a);
}

static void test_models_and_health_are_told(void **state)
{
    struct answer a = ask_text(&sandbox, "/v1/models", NULL, NULL);

    (void)state;
    assert_string_equal(text_at(a.json, "object"), "list");
    assert_string_equal(text_at(a.json, "data.0.id"), "gpt-3.5-turbo-instruct");
    answer_done(&a);
    a = ask_text(&sandbox, "/health", NULL, NULL);
    assert_string_equal(text_at(a.json, "status"), "ok");
    answer_done(&a);
}

static void test_model_and_text_can_be_chosen(void **state)
{
    char path[] = "/tmp/sandbox-text-XXXXXX";
    int fd = mkstemp(path);
    struct sandbox s;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "red green blue", 14), 14);
    close(fd);
    sandbox_start(&s, (const char *const[]){"--model", "colours", "--text", path, NULL});
    unlink(path);
    struct answer a = ask_text(
        &s, COMPLETIONS, "{\"model\":\"colours\",\"prompt\":\"red\",\"temperature\":0}", NULL);
    assert_string_equal(text_of(a.json, 0), " green blue");
    assert_string_equal(text_at(a.json, "model"), "colours");
    answer_done(&a);
    a = ask_text(&s, COMPLETIONS, "{" FIXTURE_MODEL "}", NULL);
    assert_refused(&a, 404, "model", "model_not_found");
    sandbox_stop(&s);
}

static void test_a_unix_socket_serves_the_same(void **state)
{
    char directory[] = "/tmp/sandbox-XXXXXX", address[64];
    struct sandbox s;

    (void)state;
    assert_non_null(mkdtemp(directory));
    snprintf(address, sizeof address, "unix:%s/s", directory);
    sandbox_start(&s, (const char *const[]){"--listen", address, NULL});
    json_object *c = sandbox_complete(&s, "\"prompt\":\"The fox\"");
    assert_true(strlen(text_of(c, 0)) > 0);
    json_object_put(c);
    sandbox_stop(&s);
    assert_int_equal(rmdir(directory), 0); /* it took its socket away */
}

static void test_connections_are_kept_and_counted(void **state)
{
    struct sandbox s;

    (void)state;
    sandbox_start(&s, NULL);
    for (int i = 0; i < 3; i++) {
        struct answer a = ask_text(&s, COMPLETIONS, "{" FIXTURE_MODEL ",\"stream\":true}", NULL);
        assert_int_equal(a.n_new_connections, i == 0);
        answer_done(&a);
        a = ask_text(&s, COMPLETIONS, "{", NULL);
        assert_int_equal(a.n_new_connections, 0);
        answer_done(&a);
    }
    json_object_put(sandbox_complete(&s, "\"max_tokens\":3,\"logit_bias\":{\"256\":-100}"));
    assert_int_equal(sandbox_count(&s, "connections"), 1);
    assert_int_equal(sandbox_count(&s, "requests"), 7);
    assert_int_equal(sandbox_count(&s, "streams"), 3);
    assert_in_range(sandbox_count(&s, "tokens"), 3, 51);
    assert_int_equal(sandbox_count(&s, "active"), 0);
    assert_int_equal(sandbox_count(&s, "clients_gone"), 0);
    sandbox_stop(&s);
}

static void test_requests_that_come_early_wait_for_their_turn(void **state)
{
    int fd = sandbox_connect(&sandbox);

    (void)state;
    write_request(fd, "\"max_tokens\":200,\"stream\":true");
    write_request(fd, "\"max_tokens\":200");
    write_text(fd, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    char *text = read_until(fd, NULL);
    char *done = strstr(text, "data: [DONE]");
    assert_non_null(done);
    char *whole = strstr(done, "\"choices\":");
    assert_non_null(whole);
    assert_non_null(strstr(whole, "{\"status\":\"ok\"}"));
    free(text);
    close(fd);
}

/* ---- Pace and clients ---- */

static void test_a_pace_holds(void **state)
{
    struct sandbox s;

    (void)state;
    sandbox_start(&s, (const char *const[]){"--tokens-per-second", "100", NULL});
    for (int i = 0; i < 2; i++) {
        double before = now();
        if (i == 0)
            json_object_put(sandbox_complete(&s, "\"n\":2,\"logit_bias\":{\"256\":-100},"
                                                 "\"max_tokens\":20"));
        else
            json_object_put(sandbox_stream(&s, "\"logit_bias\":{\"256\":-100},\"max_tokens\":20"));
        assert_true(now() - before > 0.19);
    }
    sandbox_stop(&s);
}

#define LONG "\"max_tokens\":2000,\"logit_bias\":{\"256\":-100}"

static void test_a_client_that_goes_away_stops_its_generation(void **state)
{
    static const char *const members[] = {LONG ",\"stream\":true", LONG,
                                          LONG ",\"stream\":true,\"n\":50"};
    struct sandbox s;

    (void)state;
    sandbox_start(&s, (const char *const[]){"--tokens-per-second", "20", NULL});
    for (int i = 0; i < 3; i++) {
        int fd = sandbox_connect(&s);
        write_request(fd, members[i]);
        if (strstr(members[i], "stream"))
            free(read_until(fd, "data: {"));
        else
            await_count(&s, "active", 1);
        assert_int_equal(sandbox_count(&s, "active"), 1);
        assert_int_equal(sandbox_count(&s, "clients_gone"), i);
        close(fd);
        await_count(&s, "clients_gone", i + 1);
        assert_int_equal(sandbox_count(&s, "active"), 0);
    }
    assert_in_range(sandbox_count(&s, "tokens"), 1, 10000);
    sandbox_stop(&s);
}

/* It could have made a token between any two answers. */
static void await_standstill(struct sandbox *s)
{
    double until = now() + 30;
    int64_t last = -1;

    for (int n_same = 0; n_same < 20;) {
        int64_t count = sandbox_count(s, "tokens");
        n_same = count == last ? n_same + 1 : 0;
        last = count;
        if (now() > until)
            fail_msg("it goes on at %lld tokens", (long long)count);
    }
}

static void test_a_slow_reader_is_waited_for_and_others_are_served(void **state)
{
    int fd = sandbox_connect(&sandbox);

    (void)state;
    write_request(fd, LONG ",\"stream\":true,\"n\":20");
    await_count(&sandbox, "active", 1);
    await_standstill(&sandbox);
    assert_int_equal(sandbox_count(&sandbox, "active"), 1);
    json_object_put(sandbox_complete(&sandbox, "\"prompt\":\"The fox\""));

    char *text = read_until(fd, "data: [DONE]");
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, "\"finish_reason\":\"length\"")); p++)
        n++;
    assert_int_equal(n, 20);
    free(text);
    close(fd);
    await_count(&sandbox, "active", 0);
}

static void test_long_work_does_not_hold_up_others(void **state)
{
    int fd = sandbox_connect(&sandbox);
    int64_t last = 0, n_steps = 0;

    (void)state;
    write_request(fd, LONG ",\"n\":100");
    await_count(&sandbox, "active", 1);
    int64_t before = sandbox_count(&sandbox, "tokens");
    for (int i = 0; i < 20; i++) {
        int64_t count = sandbox_count(&sandbox, "tokens");
        n_steps += count > last;
        last = count;
    }
    assert_true(n_steps > 1 && last - before < 200000);
    close(fd);
    await_count(&sandbox, "active", 0);
}

static void test_a_signal_ends_it_in_the_midst_of_work(void **state)
{
    struct sandbox s;
    int fds[2];

    (void)state;
    sandbox_start(&s, (const char *const[]){"--tokens-per-second", "20", NULL});
    for (int i = 0; i < 2; i++) {
        fds[i] = sandbox_connect(&s);
        write_request(fds[i], i == 0 ? LONG ",\"stream\":true" : LONG);
    }
    await_count(&s, "active", 2);
    sandbox_stop(&s);
    for (int i = 0; i < 2; i++) {
        char *text = read_until(fds[i], NULL);
        assert_null(strstr(text, "[DONE]"));
        free(text);
        close(fds[i]);
    }
}

/* ---- The program ---- */

static int run(const char *arguments, char *out, size_t size)
{
    char command[512];

    snprintf(command, sizeof command, SANDBOX_BINARY " %s 2>&1", arguments);
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t n = fread(out, 1, size - 1, pipe);
    out[n] = '\0';
    return WEXITSTATUS(pclose(pipe));
}

static void test_tokens_are_printed(void **state)
{
    char out[4096];

    (void)state;
    assert_int_equal(run("--tokenize 'The fox.'", out, sizeof out), 0);
    assert_non_null(strstr(out, "\t\"The\"\n"));
    assert_non_null(strstr(out, "\t\" fox\"\n46\t\".\"\n"));
}

static void test_wrong_options_are_refused(void **state)
{
    static const struct {
        const char *arguments;
        int status;
    } cases[] = {
        {"--help", 0},
        {"--nothing", 2},
        {"argument", 2},
        {"--tokens-per-second -1", 2},
        {"--tokens-per-second x", 2},
        {"--text /nonexistent/file", 1},
        {"--text /dev/null", 1},
        {"--api-key-file /dev/null", 1},
        {"--listen nowhere", 1},
        {"--listen 127.0.0.1:65536", 1},
        {"--listen 127.0.0.1:", 1},
        {"--listen [::1:0", 1},
        {"--listen unix:/nonexistent/socket", 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[4096];
        int status = run(cases[i].arguments, out, sizeof out);
        if (status != cases[i].status)
            fail_msg("%s: exit status %d: %s", cases[i].arguments, status, out);
        assert_true(strlen(out) > 0);
        assert_null(strstr(out, "Sanitizer"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_have_the_apis_error_object),
        cmocka_unit_test(test_other_places_and_methods_are_refused),
        cmocka_unit_test(test_content_type_is_json),
        cmocka_unit_test(test_large_bodies_are_refused),
        cmocka_unit_test(test_a_key_is_asked_for),
        cmocka_unit_test(test_answers_have_the_apis_headers),
        cmocka_unit_test(test_models_and_health_are_told),
        cmocka_unit_test(test_model_and_text_can_be_chosen),
        cmocka_unit_test(test_a_unix_socket_serves_the_same),
        cmocka_unit_test(test_connections_are_kept_and_counted),
        cmocka_unit_test(test_requests_that_come_early_wait_for_their_turn),
        cmocka_unit_test(test_a_pace_holds),
        cmocka_unit_test(test_a_client_that_goes_away_stops_its_generation),
        cmocka_unit_test(test_a_slow_reader_is_waited_for_and_others_are_served),
        cmocka_unit_test(test_long_work_does_not_hold_up_others),
        cmocka_unit_test(test_a_signal_ends_it_in_the_midst_of_work),
        cmocka_unit_test(test_tokens_are_printed),
        cmocka_unit_test(test_wrong_options_are_refused),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
