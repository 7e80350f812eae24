/*
 * The API's own HTTP: what callers send becomes the same call as gRPC's, and what comes back is
 * what the upstream said, or the API's error object.
 */
#include "memory.h"
#include "metrics.h"
#include "openai_peer.h"

#define ASK        "{\"model\":\"m\",\"prompt\":\"CANARY prompt\"}"
#define ASK_EVENTS "{\"model\":\"m\",\"prompt\":\"CANARY prompt\",\"stream\":true}"

/* ---- Upstreams ---- */

static void answer(struct fake_connection *c)
{
    const char *text = c->user;

    while (fake_read_request(c) &&
           fake_answer(c, 200, "application/json", "X-Request-Id: req-7\r\n", text))
        ;
}

static void tell(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_stream_begin(c)) {
        for (const char *const *event = c->user; *event; event++)
            fake_event(c, *event);
        if (!fake_stream_done(c))
            return;
    }
}

struct failure {
    int status;
    const char *headers, *body;
};

static void refuse_all(struct fake_connection *c)
{
    const struct failure *f = c->user;

    while (fake_read_request(c) &&
           fake_answer(c, f->status, "application/json", f->headers, f->body))
        ;
}

/* The first when it is told to; the rest in the order in which they came. */
static void number(struct fake_connection *c)
{
    while (fake_read_request(c) && fake_await(c->fake, FAKE_GO, 1)) {
        unsigned n = fake_count(c->fake, FAKE_REQUESTED);
        if (!fake_answer(c, 200, "application/json", "",
                         n == 1   ? FAKE_LAST("first")
                         : n == 2 ? FAKE_LAST("second")
                                  : FAKE_LAST("third")))
            return;
    }
}

/* ---- Answers ---- */

static void test_answer(void **state)
{
    static const char text[] =
        " {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,"
        "\"model\":\"m\",\"choices\":[{\"text\":\"caf\\u00e9 \xc3\xa9\","
        "\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\",\"x\":1e3}],"
        "\n\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,"
        "\"total_tokens\":3},\"timings\":{\"a\":1.50}}\n";
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, text, NULL);
    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 200);
    http_assert_header(&h, "Content-Type", "application/json");
    http_assert_header(&h, "x-upstream-request-id", "req-7");
    assert_memory_equal(http_header(&h, "x-request-id"), "call-", 5);
    /* Word for word, on one line. */
    http_assert_says(&h, "\"text\":\"caf\\u00e9 \xc3\xa9\"");
    http_assert_says(&h, "\"x\":1e3");
    http_assert_says(&h, " \"usage\":{\"prompt_tokens\":1");
    http_assert_says(&h, "\"timings\":{\"a\":1.50}}\n");
    http_close(&h);
    char *sent = fake_last_body(s->fake);
    assert_string_equal(sent, ASK);
    free(sent);
    scene_stop(s);
    daemon_assert_logged(&s->daemon, "method=/v1/completions");
}

static void test_all_parameters(void **state)
{
    static const char ask[] =
        "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"best_of\":2,\"echo\":true,"
        "\"frequency_penalty\":0.5,\"logit_bias\":{\"50256\":-100},\"logprobs\":3,\"max_tokens\":7,"
        "\"n\":2,\"presence_penalty\":-0.5,\"seed\":9007199254740993,\"stop\":[\"x\",\"\\n\"],"
        "\"suffix\":null,\"temperature\":0.25,\"top_p\":1,\"user\":\"u\",\"min_p\":0.125,"
        "\"stream\":false,\"grammar\":{\"a\":[1,2]}}";
    static const char sent[] =
        "{\"model\":\"m\",\"prompt\":[\"a\",\"b\"],\"best_of\":2,\"echo\":true,"
        "\"frequency_penalty\":0.5,\"logit_bias\":{\"50256\":-100},\"logprobs\":3,\"max_tokens\":7,"
        "\"n\":2,\"presence_penalty\":-0.5,\"seed\":9007199254740993,\"stop\":[\"x\",\"\\n\"],"
        "\"temperature\":0.25,\"top_p\":1,\"user\":\"u\",\"min_p\":0.125,"
        "\"grammar\":{\"a\":[1,2]}}";
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, FAKE_LAST("a"), NULL);
    http_ask(&h, s, "", ask);
    http_assert_status(&h, 200);
    http_close(&h);
    char *body = fake_last_body(s->fake);
    assert_string_equal(body, sent);
    free(body);
    scene_stop(s);
}

static void test_stream(void **state)
{
    static const char *const events[] = {FAKE_PART("a"), FAKE_PART("b"), FAKE_LAST("c"), NULL};
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, tell, events, NULL);
    http_connect(&h, s);
    /* Twice, on one connection. */
    for (int i = 0; i < 2; i++) {
        http_post(&h, "", ASK_EVENTS);
        http_read_response(&h, true);
        http_assert_status(&h, 200);
        assert_true(h.is_whole);
        http_assert_header(&h, "Content-Type", "text/event-stream; charset=utf-8");
        assert_string_equal(h.body, "data: " FAKE_PART("a") "\n\ndata: " FAKE_PART(
                                        "b") "\n\ndata: " FAKE_LAST("c") "\n\ndata: [DONE]\n\n");
    }
    http_close(&h);
    scene_stop(s);
}

static void test_stream_without_chunks(void **state)
{
    static const char *const events[] = {NULL};
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, tell, events, NULL);
    http_ask(&h, s, "", ASK_EVENTS);
    http_assert_status(&h, 200);
    assert_string_equal(h.body, "data: [DONE]\n\n");
    http_close(&h);
    scene_stop(s);
}

static void test_stream_of_http_1_0(void **state)
{
    static const char *const events[] = {FAKE_LAST("c"), NULL};
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, tell, events, NULL);
    http_connect(&h, s);
    http_send(&h, "POST /v1/completions HTTP/1.0\r\nContent-Length: 45\r\n\r\n"
                  "{\"model\":\"m\",\"prompt\":\"CANARY\",\"stream\":true}");
    http_read_response(&h, true);
    http_assert_status(&h, 200);
    assert_null(http_header(&h, "Transfer-Encoding"));
    assert_string_equal(h.body, "data: " FAKE_LAST("c") "\n\ndata: [DONE]\n\n");
    http_close(&h);
    scene_stop(s);
}

/* ---- Errors ---- */

static void test_upstream_error(void **state)
{
    static const struct failure failure = {
        429, "Retry-After: 7\r\nX-Request-Id: req-9\r\n",
        "{\"error\":{\"message\":\"slow down\",\"type\":\"requests\",\"param\":null,"
        "\"code\":\"rate_limit_exceeded\"}}"};
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, refuse_all, &failure, NULL);
    http_ask(&h, s, "", ASK_EVENTS);
    http_assert_status(&h, 429);
    http_assert_header(&h, "Content-Type", "application/json");
    http_assert_header(&h, "retry-after", "7");
    http_assert_header(&h, "retry-after-ms", "7000");
    http_assert_header(&h, "x-upstream-request-id", "req-9");
    assert_null(http_header(&h, "x-should-retry"));
    http_assert_says(&h, "slow down");
    http_assert_says(&h, "\"type\":\"requests\",\"param\":null,\"code\":\"rate_limit_exceeded\","
                         "\"reason\":\"UPSTREAM_RATE_LIMIT\",\"retryable\":true");
    http_close(&h);
    scene_stop(s);
}

static void cut(struct fake_connection *c)
{
    if (fake_read_request(c) && fake_stream_begin(c) && fake_event(c, FAKE_PART("a")) &&
        fake_await(c->fake, FAKE_GO, 1))
        fake_reset(c);
}

static void test_error_in_a_stream(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, cut, NULL, NULL);
    http_connect(&h, s);
    http_post(&h, "", ASK_EVENTS);
    http_await(&h, "\n\n");
    fake_mark(s->fake, FAKE_GO);
    http_read_response(&h, true);
    http_assert_status(&h, 200);
    /* The error, no [DONE], and no proper end. */
    http_assert_says(&h, "data: " FAKE_PART("a") "\n\ndata: {\"error\":{\"message\":");
    http_assert_says(&h, "\"reason\":\"STREAM_TRUNCATED\"");
    assert_null(strstr(h.body, "[DONE]"));
    assert_false(h.is_whole);
    http_close(&h);
    scene_stop(s);
}

static void test_unreachable_upstream(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, "", "base_url = http://127.0.0.1:1/v1\n");
    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 503);
    http_assert_says(&h, "\"type\":\"server_error\"");
    http_assert_says(&h, "\"code\":\"upstream_unreachable\"");
    http_close(&h);
    scene_stop(s);
}

static void test_refused_requests(void **state)
{
    static const struct {
        const char *ask;
        int status;
        const char *says;
    } cases[] = {
        {"", 400, "not valid JSON"},
        {"[]", 400, "not a JSON object"},
        {"{\"model\":\"m\"", 400, "not valid JSON"},
        {"{\"model\":\"m\"}{}", 400, "not valid JSON"},
        {"{\"model\":\"\xff\"}", 400, "not valid JSON"},
        {"{}", 400, "model: is missing"},
        {"{\"model\":7}", 400, "model: must be a string"},
        {"{\"model\":\"m\",\"model\":\"m\"}", 400, "model: is there twice"},
        {"{\"model\":\"m\",\"prompt\":[]}", 400, "prompt: must be"},
        {"{\"model\":\"m\",\"prompt\":[1,\"a\"]}", 400, "prompt: must be"},
        {"{\"model\":\"m\",\"prompt\":[-1]}", 400, "\"prompt: -1 (at position 0) is no token id"},
        {"{\"model\":\"m\",\"n\":0}", 400, "\"param\":\"n\""},
        {"{\"model\":\"m\",\"n\":1.5}", 400, "n: must be an integer"},
        {"{\"model\":\"m\",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", 400, "\"stop: has 5"},
        {"{\"model\":\"m\",\"stream\":1}", 400, "stream: must be"},
        {"{\"model\":\"m\",\"stream_options\":{\"include_usage\":true}}", 400, "stream_options"},
        {"{\"model\":\"m\",\"Model\":\"n\"}", 400, "sets model"},
        {"{\"model\":\"other\"}", 404, "\"code\":\"model_not_found\""},
        {"{\"model\":\"forbidden\"}", 403, "\"param\":\"model\",\"code\":\"not_allowed\""},
    };
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, FAKE_LAST("a"),
                     "models = m forbidden\n[policy *]\nmodels = m other\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        http_ask(&h, s, "", cases[i].ask);
        http_assert_status(&h, cases[i].status);
        http_assert_header(&h, "x-should-retry", "false");
        http_assert_says(&h, cases[i].says);
        http_close(&h);
    }
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 0);
    scene_stop(s);
}

static void test_rate(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, FAKE_LAST("a"), "[policy *]\nrequests_per_minute = 1\n");
    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 200);
    http_close(&h);
    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 429);
    assert_in_range(strtol(http_header(&h, "retry-after"), NULL, 10), 30, 60);
    http_assert_says(&h, "\"code\":\"local_limit\"");
    http_close(&h);
    scene_stop(s);
}

/* ---- Paths and methods ---- */

static void ask_for(struct http *h, const struct scene *s, const char *line, bool has_body)
{
    char request[512];

    http_connect(h, s);
    snprintf(request, sizeof request, "%s HTTP/1.1\r\nHost: localhost\r\n\r\n", line);
    http_send(h, request);
    http_read_response(h, has_body);
}

static void test_urgent_calls_go_first(void **state)
{
    static const char *const headers[] = {"", "Priority: u=7\r\n", "priority: i, u=0\r\n"};
    static const char *const texts[] = {"first", "third", "second"};
    enum { N = sizeof texts / sizeof *texts };
    struct scene *s = *state;
    struct http callers[N];

    scene_prepare(s, number, NULL, "max_concurrent = 1\n");
    http_start_daemon(
        s, NULL,
        &(struct daemon_options){
            .arguments = (const char *const[]){
                "--metrics-listen", directory_path(&s->daemon.directory, "metrics.sock"), NULL}});
    for (int i = 0; i < N; i++) {
        http_connect(&callers[i], s);
        http_post(&callers[i], headers[i], ASK);
        if (i == 0)
            assert_true(fake_await(s->fake, FAKE_REQUESTED, 1));
        else
            metrics_await(s, "completiond_calls_queued{upstream=\"fake\"}", i);
    }
    fake_mark(s->fake, FAKE_GO);
    for (int i = 0; i < N; i++) {
        http_read_response(&callers[i], true);
        http_assert_status(&callers[i], 200);
        http_assert_says(&callers[i], texts[i]);
        http_close(&callers[i]);
    }
    scene_stop(s);
}

static void test_paths(void **state)
{
    static const struct {
        const char *line;
        int status;
        const char *allow;
    } cases[] = {
        {"GET /v1/completions", 405, "POST"},
        {"OPTIONS /v1/completions", 405, "POST"},
        {"HEAD /v1/completions", 405, "POST"},
        {"TRACE /v1/completions", 405, "POST"},
        {"POST /v1/models", 405, "GET, HEAD"},
        {"POST /v1/chat/completions", 404, NULL},
        {"GET /", 404, NULL},
        {"GET /v1/completions/", 404, NULL},
        {"POST http://x/v1/nothing", 404, NULL},
        {"GET /v1/models/", 404, NULL},
        {"HEAD /v1/models", 200, NULL},
        {"GET /v1/models?x=1", 200, NULL},
        {"CONNECT localhost:1", 405, NULL},
        {"BREW /v1/completions", 405, NULL},
    };
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, FAKE_LAST("a"), NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool is_head = !strncmp(cases[i].line, "HEAD", 4);
        ask_for(&h, s, cases[i].line, !is_head);
        http_assert_status(&h, cases[i].status);
        if (cases[i].allow)
            http_assert_header(&h, "Allow", cases[i].allow);
        if (cases[i].status != 200 && !is_head)
            http_assert_says(&h, "{\"error\":{\"message\":\"");
        assert_null(http_header(&h, "Access-Control-Allow-Origin"));
        http_close(&h);
    }
    scene_stop(s);
}

static void test_models(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, answer, FAKE_LAST("a"),
                     "models = first org/second gpt-* first\n"
                     "[upstream other]\nbase_url = http://127.0.0.1:1/v1\nauth = none\n"
                     "models = third first fourth\n"
                     "[policy *]\nmodels = first org/* gpt-4 third\n");
    ask_for(&h, s, "GET /v1/models", true);
    http_assert_status(&h, 200);
    http_assert_says(&h, "{\"object\":\"list\",\"data\":[{\"id\":\"first\",\"object\":\"model\",");
    http_assert_says(&h, "\"owned_by\":\"fake\"},{\"id\":\"org/second\"");
    http_assert_says(&h, "{\"id\":\"third\"");
    http_assert_says(&h, "\"owned_by\":\"other\"}]}");
    assert_null(strstr(h.body, "gpt"));
    assert_null(strstr(h.body, "fourth"));
    http_close(&h);
    ask_for(&h, s, "GET /v1/models/org%2Fsecond", true);
    http_assert_status(&h, 200);
    http_assert_says(&h, "{\"id\":\"org/second\",\"object\":\"model\",\"created\":");
    http_close(&h);
    ask_for(&h, s, "GET /v1/models/gpt-4", true);
    http_assert_status(&h, 200);
    http_close(&h);
    ask_for(&h, s, "GET /v1/models/fourth", true);
    http_assert_status(&h, 404);
    http_assert_says(&h, "\"code\":\"model_not_found\"");
    http_close(&h);
    scene_stop(s);
}

/* ---- Keys ---- */

static void test_keys(void **state)
{
    struct scene *s = *state;
    struct http h;
    char *head;

    http_start_scene(s, answer, FAKE_LAST("a"), NULL);
    http_ask(&h, s, "Authorization: Bearer sk-own\r\n", ASK);
    http_assert_status(&h, 200);
    http_close(&h);
    head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer " SCENE_KEY "\r\n"));
    assert_null(strstr(head, "sk-own"));
    free(head);
    scene_stop(s);
}

static void test_own_keys(void **state)
{
    struct scene *s = *state;
    struct http h;
    char *head;

    http_start_scene(s, answer, FAKE_LAST("a"), "[policy *]\nallow_own_key = yes\n");
    http_ask(&h, s, "authorization: bearer CANARY-own\r\n", ASK);
    http_assert_status(&h, 200);
    http_close(&h);
    head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer CANARY-own\r\n"));
    assert_null(strstr(head, SCENE_KEY));
    free(head);
    scene_assert_serving(s);
    if (geteuid() == 0)
        assert_int_equal(memory_search(s->daemon.pid, "CANARY-own").elsewhere, 0);
    http_ask(&h, s, "", ASK);
    http_assert_status(&h, 200);
    http_close(&h);
    head = fake_last_head(s->fake);
    assert_non_null(strstr(head, "Authorization: Bearer " SCENE_KEY "\r\n"));
    free(head);
    http_ask(&h, s, "Authorization: Bearer a key\r\n", ASK);
    http_assert_status(&h, 400);
    http_assert_says(&h, "\"param\":\"Authorization\"");
    http_close(&h);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_answer),
        scene_test(test_all_parameters),
        scene_test(test_stream),
        scene_test(test_stream_without_chunks),
        scene_test(test_stream_of_http_1_0),
        scene_test(test_upstream_error),
        scene_test(test_error_in_a_stream),
        scene_test(test_unreachable_upstream),
        scene_test(test_refused_requests),
        scene_test(test_rate),
        scene_test(test_urgent_calls_go_first),
        scene_test(test_paths),
        scene_test(test_models),
        scene_test(test_keys),
        scene_test(test_own_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
