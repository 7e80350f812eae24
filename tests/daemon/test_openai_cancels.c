/*
 * Callers over HTTP who go away: the upstream's connection is closed at once in every state, and
 * nothing is left of the call. Slow readers pause their own transfer, and no other.
 */
#include <sys/un.h>

#include "openai_peer.h"

#define EVENTS "{\"model\":\"m\",\"prompt\":\"CANARY prompt\",\"stream\":true}"
#define WHOLE  "{\"model\":\"m\",\"prompt\":\"CANARY prompt\"}"

enum { AT_ONCE_MS = 1500, QUIET_MS = 300, FLOOD_MAX = 1 << 20, HELD_MAX_BYTES = 8 << 20 };

/* ---- States ---- */

enum state { WAITING, HEADERS, STREAMING, HALF_BODY, PAUSED };

static const struct {
    enum state state;
    const char *name, *ask;
} states[] = {
    {WAITING, "waiting for a stream", EVENTS}, {WAITING, "waiting for an answer", WHOLE},
    {HEADERS, "stream begun", EVENTS},         {STREAMING, "streaming", EVENTS},
    {HALF_BODY, "receiving an answer", WHOLE}, {PAUSED, "paused", EVENTS},
};
enum { N_STATES = sizeof states / sizeof *states };

/* How much the upstream could say until nobody took it. */
static size_t write_until_nobody_takes_it(struct fake_connection *c)
{
    static const char event[] = "data: " FAKE_PART("CANARY text of some length") "\n\n";
    char chunk[512];
    int n = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", sizeof event - 1, event);

    for (size_t i = 0; i < FLOOD_MAX; i++)
        if (fake_write_some(c, chunk, (size_t)n, QUIET_MS) < (size_t)n)
            return i * (size_t)n;
    return 0;
}

static bool reach(struct fake_connection *c, enum state state)
{
    size_t n;

    switch (state) {
    case WAITING:
        return true;
    case HEADERS:
        return fake_stream_begin(c);
    case STREAMING:
        return fake_stream_begin(c) && fake_event(c, FAKE_PART("CANARY"));
    case HALF_BODY:
        return fake_print(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                             "Content-Length: 1000\r\n\r\n{\"choices\":");
    case PAUSED:
        n = fake_stream_begin(c) ? write_until_nobody_takes_it(c) : 0;
        return n > 0 && n < HELD_MAX_BYTES;
    }
    return false;
}

static void bring_to_state(struct fake_connection *c)
{
    const enum state *state = c->user;

    if (fake_read_request(c) && reach(c, *state)) {
        fake_mark(c->fake, FAKE_STEP);
        fake_wait_for_close(c);
    }
}

static void assert_closed(struct scene *s, unsigned n, int64_t start_ms, const char *name)
{
    if (!fake_await(s->fake, FAKE_CLOSED, n))
        fail_msg("%s: the upstream goes on", name);
    if (fake_closed_at_ms(s->fake) - start_ms > AT_ONCE_MS)
        fail_msg("%s: closed after %lld ms", name,
                 (long long)(fake_closed_at_ms(s->fake) - start_ms));
}

static void await_log(struct scene *s, const char *text)
{
    int64_t end = harness_now_ms() + HARNESS_TIMEOUT_MS;

    for (;;) {
        char *log = daemon_log(&s->daemon);
        bool found = strstr(log, text);
        free(log);
        if (found)
            return;
        if (harness_now_ms() > end)
            fail_msg("not logged: %s", text);
        poll(NULL, 0, 5);
    }
}

static void test_closed_connection(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    struct http h;

    http_start_scene(s, bring_to_state, &now, NULL);
    for (unsigned i = 0; i < N_STATES; i++) {
        now = states[i].state;
        http_connect(&h, s);
        http_post(&h, "", states[i].ask);
        if (!fake_await(s->fake, FAKE_STEP, i + 1))
            fail_msg("%s: the state is not reached", states[i].name);
        if (now == STREAMING)
            http_await(&h, "CANARY");
        int64_t start = harness_now_ms();
        http_close(&h);
        assert_closed(s, i + 1, start, states[i].name);
    }
    await_log(s, "reason=CALLER_GONE");
    scene_assert_serving(s);
    scene_stop(s);
}

/* What was sent behind the request does not hide that the caller is gone. */
static void test_closed_behind_another_request(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    struct http h;

    http_start_scene(s, bring_to_state, &now, NULL);
    http_connect(&h, s);
    http_post(&h, "", WHOLE);
    http_post(&h, "", WHOLE);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    int64_t start = harness_now_ms();
    http_close(&h);
    assert_closed(s, 1, start, "pipelined");
    scene_assert_serving(s);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    scene_stop(s);
}

static void test_closed_in_the_queue(void **state)
{
    struct scene *s = *state;
    enum state now = WAITING;
    struct http first, second;

    http_start_scene(s, bring_to_state, &now, "max_concurrent = 1\n");
    http_connect(&first, s);
    http_post(&first, "", WHOLE);
    assert_true(fake_await(s->fake, FAKE_STEP, 1));
    http_connect(&second, s);
    http_post(&second, "", WHOLE);
    http_close(&second);
    await_log(s, "reason=CALLER_GONE");
    int64_t start = harness_now_ms();
    http_close(&first);
    assert_closed(s, 1, start, "first");
    scene_assert_serving(s);
    assert_int_equal(fake_count(s->fake, FAKE_REQUESTED), 1);
    scene_stop(s);
}

/* ---- Slow readers ---- */

enum { N_EVENTS = 6000, TEXT_BYTES = 4096 };

static void fill_event(char *event, size_t size, int i)
{
    char text[TEXT_BYTES + 1];

    memset(text, 'x', TEXT_BYTES);
    text[TEXT_BYTES] = '\0';
    memcpy(text + snprintf(text, sizeof text, "%07d", i), ":", 1);
    snprintf(event, size, "data: " FAKE_PART("%s") "\n\n", text);
}

static void pour(struct fake_connection *c)
{
    char event[TEXT_BYTES + 512], chunk[TEXT_BYTES + 600];

    if (c->number > 1) {
        while (fake_read_request(c) &&
               fake_answer(c, 200, "application/json", "", FAKE_LAST("quick")))
            ;
        return;
    }
    if (!fake_read_request(c) || !fake_stream_begin(c))
        return;
    for (int i = 0, quiet_ms = QUIET_MS; i < N_EVENTS; i++) {
        fill_event(event, sizeof event, i);
        snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(event), event);
        size_t len = strlen(chunk), done = fake_write_some(c, chunk, len, quiet_ms);
        if (done < len) {
            fake_mark(c->fake, FAKE_STALLED);
            quiet_ms = HARNESS_TIMEOUT_MS;
            if (!fake_write(c, chunk + done, len - done))
                return;
        }
        fake_mark(c->fake, FAKE_STEP);
    }
    fake_stream_done(c);
}

static void test_slow_reader(void **state)
{
    struct scene *s = *state;
    struct http slow, quick;
    char event[TEXT_BYTES + 512], *at;

    http_start_scene(s, pour, NULL, NULL);
    http_connect(&slow, s);
    http_post(&slow, "", EVENTS);
    assert_true(fake_await(s->fake, FAKE_STALLED, 1));
    assert_in_range(fake_count(s->fake, FAKE_STEP), 1, N_EVENTS / 2);
    for (int i = 0; i < 20; i++) {
        http_ask(&quick, s, "", WHOLE);
        http_assert_status(&quick, 200);
        http_close(&quick);
    }
    /* Now it reads, and has all of it, in order. */
    http_read_response(&slow, true);
    assert_true(slow.is_whole);
    at = slow.body;
    for (int i = 0; i < N_EVENTS; i++) {
        fill_event(event, sizeof event, i);
        assert_memory_equal(at, event, strlen(event));
        at += strlen(event);
    }
    assert_string_equal(at, "data: [DONE]\n\n");
    http_close(&slow);
    scene_stop(s);
}

static void test_stalled_reader(void **state)
{
    struct scene *s = *state;
    struct http h;

    http_start_scene(s, pour, NULL, "[daemon]\ncaller_stall_timeout = 400ms\n");
    http_connect(&h, s);
    http_post(&h, "", EVENTS);
    await_log(s, "reason=CALLER_STALLED");
    http_read_response(&h, true);
    assert_false(h.is_whole);
    http_close(&h);
    scene_assert_serving(s);
    scene_stop(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(test_closed_connection),   scene_test(test_closed_behind_another_request),
        scene_test(test_closed_in_the_queue), scene_test(test_slow_reader),
        scene_test(test_stalled_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
