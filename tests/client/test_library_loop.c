/*
 * Calls in an event loop: many at once over one connection, answered out of order, by callback and
 * by asking; cancelled, freed and started from anywhere; mixed with calls that block.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "library.h"

enum { FOREVER = -1, DEADLINE_MS = 200, LATE_MS = 4000 };

/* Answers with the request's user; one that is "slow" when the test says so, "never" never. */
static void answer_each(struct fake_connection *c)
{
    while (fake_read_request(c)) {
        const char *user = strstr(c->body, "\"user\":\"");
        char name[32] = "?", body[512];

        if (user)
            sscanf(user, "\"user\":\"%31[^\"]", name);
        if (strcmp(name, "never") == 0) {
            fake_wait_for_close(c);
            return;
        }
        if (strcmp(name, "slow") == 0 && !fake_await(c->fake, FAKE_GO, 1))
            return;
        snprintf(body, sizeof body, FAKE_LAST("%s"), name);
        bool ok = strstr(c->body, "\"stream\":true")
                      ? fake_stream_begin(c) && fake_event(c, FAKE_PART("one, ")) &&
                            fake_event(c, FAKE_PART("two, ")) && fake_event(c, body) &&
                            fake_stream_done(c)
                      : fake_answer(c, 200, "application/json", "", body);
        if (!ok)
            return;
    }
}

static completion_call *start(struct library *l, const char *user, int is_stream,
                              int64_t timeout_ms)
{
    assert_int_equal(completion_request_set_user(l->request, user, TEXT), 0);
    return library_start_call(l, is_stream, timeout_ms);
}

static void assert_answer(struct library *l, completion_call *call, const char *text)
{
    int r = library_finish(l, call);

    if (r != 0)
        fail_msg("%d: %s", r, completion_error_message(l->error));
    assert_string_equal(l->text, text);
}

/* ---- Asking ---- */

static void test_answers(void **state)
{
    struct library *l = *state;
    const completion_result *result, *untouched = (const completion_result *)l;

    library_start(l, answer_each, NULL, NULL);
    completion_call *whole = start(l, "a", 0, FOREVER), *stream = start(l, "b", 1, FOREVER);
    /* What is started takes its time: nothing is there, and nobody was asked yet. */
    result = untouched;
    assert_int_equal(completion_call_next(whole, &result, l->error), -EAGAIN);
    assert_ptr_equal(result, untouched);
    assert_int_equal(completion_error_status(l->error), COMPLETION_OK);
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 0);
    assert_int_equal(completion_client_get_timeout(l->client), 0);
    assert_answer(l, stream, "one, two, b");
    assert_answer(l, whole, "a");
    /* The end stays the end. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(completion_call_next(whole, &result, l->error), 0);
        completion_call_cancel(stream);
        assert_int_equal(completion_call_next(stream, &result, l->error), 0);
    }
    completion_call_free(whole);
    completion_call_free(stream);
    while (completion_client_get_timeout(l->client) == 0)
        completion_client_process(l->client);
    assert_int_equal(completion_client_get_timeout(l->client), -1);
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 1);
    library_stop(l);
}

static void test_answers_come_out_of_order(void **state)
{
    enum { N = 20 };
    struct library *l = *state;
    completion_call *calls[N];
    const completion_result *result;

    library_start(l, answer_each, NULL, NULL);
    completion_call *slow[2] = {start(l, "slow", 0, FOREVER), start(l, "slow", 1, FOREVER)};
    for (int i = 0; i < N; i++)
        calls[i] = start(l, "quick", i % 2, FOREVER);
    for (int i = N - 1; i >= 0; i--)
        assert_answer(l, calls[i], i % 2 ? "one, two, quick" : "quick");
    assert_int_equal(completion_call_next(slow[0], &result, l->error), -EAGAIN);
    fake_mark(l->scene.fake, FAKE_GO);
    assert_answer(l, slow[1], "one, two, slow");
    assert_answer(l, slow[0], "slow");
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 1);
    for (int i = 0; i < N; i++)
        completion_call_free(calls[i]);
    completion_call_free(slow[0]);
    completion_call_free(slow[1]);
    library_stop(l);
}

/* More than the daemon takes at once on a connection, found by who has something new. */
static void test_more_calls_than_streams(void **state)
{
    enum { N = 300 };
    struct library *l = *state;
    const completion_result *result;
    completion_call *call;
    int n_ended = 0, n_new = 0, n_named = 0;

    library_start(l, answer_each, NULL, "max_concurrent = 1000\n");
    for (int i = 0; i < N; i++)
        completion_call_set_callback(start(l, "x", 0, FOREVER), NULL, l);
    while (n_ended < N) {
        int n = library_turn(l);
        assert_true(n >= 0);
        n_new += n;
        while ((call = completion_client_next_ready(l->client))) {
            n_named++;
            assert_ptr_equal(completion_call_user(call), l);
            assert_int_equal(completion_call_next(call, &result, l->error), 1);
            library_assert_text(completion_choice_text(result, 0), "x");
            assert_int_equal(completion_call_next(call, &result, l->error), 0);
            completion_call_free(call);
            n_ended++;
        }
    }
    assert_int_equal(n_new, N);
    assert_int_equal(n_named, N);
    assert_int_equal(library_n_connections(l->scene.daemon.socket), 1);
    library_stop(l);
}

/* Those that wait for the others are not sent when these end a moment later than they. */
static void test_deadline_of_calls_that_were_not_sent(void **state)
{
    enum { SENT = 100, N = 140, BEFORE_MS = 8, START_MS = 5 };
    struct library *l = *state;
    completion_call *calls[N];
    int64_t start_ms;
    int n_tries = 0;

    library_start(l, answer_each, NULL, NULL);
    assert_string_equal(library_create(l), "?");
    /* Where starting them takes too long, their order in time is another, and nothing is said. */
    do {
        start_ms = harness_now_ms();
        for (int i = 0; i < N; i++)
            calls[i] = start(l, "never", 0, 2 * DEADLINE_MS - (i < SENT ? 0 : BEFORE_MS));
        start_ms = harness_now_ms() - start_ms;
        for (int i = 0; i < N && start_ms > START_MS; i++)
            calls[i] = completion_call_free(calls[i]);
    } while (start_ms > START_MS && n_tries++ < 100);
    for (int i = 0; i < N && calls[i]; i++) {
        library_assert_failed(l, library_finish(l, calls[i]), -ETIMEDOUT,
                              COMPLETION_DEADLINE_EXCEEDED);
        if (i >= SENT)
            assert_int_equal(completion_error_maybe_executed(l->error), 0);
        completion_call_free(calls[i]);
    }
    library_stop(l);
}

/* ---- Callbacks ---- */

struct told {
    struct library *library;
    char text[64];
    int n_calls, n_ended, r;
    enum { FREE_LATER, FREE_IT, FREE_CLIENT, START_ANOTHER } then;
    completion_call *other; /* is freed with it */
};

static void on_news(completion_call *call, void *user)
{
    struct told *t = user;
    struct library *l = t->library;
    const completion_result *result;
    int r;

    t->n_calls++;
    assert_ptr_equal(completion_call_user(call), user);
    while ((r = completion_call_next(call, &result, l->error)) == 1) {
        completion_text text = completion_choice_text(result, 0);
        strncat(t->text, text.data, text.length);
    }
    if (r == -EAGAIN)
        return;
    t->n_ended++;
    t->r = r;
    completion_call_free(t->other);
    if (t->then == FREE_LATER)
        return;
    completion_call_free(call);
    if (t->then == FREE_CLIENT)
        l->client = completion_client_free(l->client);
    if (t->then == START_ANOTHER && t->n_ended < 5)
        completion_call_set_callback(library_start_call(l, 1, FOREVER), on_news, t);
}

static void run_until_ended(struct told *t, int n)
{
    while (t->n_ended < n)
        assert_true(library_turn(t->library) >= 0);
}

static void test_callbacks_free_and_start_calls(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    struct told later = {.library = l}, now = {.library = l, .then = FREE_IT};
    completion_call *call = start(l, "a", 1, FOREVER);
    completion_call_set_callback(call, on_news, &later);
    completion_call_set_callback(start(l, "b", 0, FOREVER), on_news, &now);
    run_until_ended(&later, 1);
    run_until_ended(&now, 1);
    assert_string_equal(later.text, "one, two, a");
    assert_string_equal(now.text, "b");
    assert_int_equal(now.n_calls, 1);
    assert_int_equal(later.r, 0);
    /* Nothing more is said of it. */
    int n_calls = later.n_calls;
    for (int i = 0; i < 3; i++)
        assert_int_equal(completion_client_process(l->client), 0);
    assert_int_equal(later.n_calls, n_calls);
    completion_call_free(call);

    struct told chain = {.library = l, .then = START_ANOTHER};
    completion_call_set_callback(start(l, "c", 1, FOREVER), on_news, &chain);
    for (int i = 1; i <= 5; i++)
        run_until_ended(&chain, i);
    assert_string_equal(chain.text, "one, two, cone, two, cone, two, cone, two, cone, two, c");

    /* One that has news at the same time, and gets none: it is freed before. */
    struct told killer = {.library = l, .then = FREE_IT}, victim = {.library = l};
    call = start(l, "d", 0, FOREVER);
    killer.other = start(l, "slow", 0, FOREVER);
    completion_call_set_callback(killer.other, on_news, &victim);
    completion_call_set_callback(call, on_news, &killer);
    completion_call_cancel(call);
    completion_call_cancel(killer.other);
    run_until_ended(&killer, 1);
    assert_int_equal(killer.r, -ECANCELED);
    assert_int_equal(completion_client_process(l->client), 0);
    assert_int_equal(victim.n_calls, 0);
    library_stop(l);
}

static void test_callback_frees_the_client(void **state)
{
    struct library *l = *state;
    const completion_result *result;
    int before = library_n_descriptors(), r;

    library_start(l, answer_each, NULL, NULL);
    struct told t = {.library = l, .then = FREE_CLIENT};
    completion_call *never = start(l, "never", 1, FOREVER);
    completion_call_set_callback(start(l, "a", 0, FOREVER), on_news, &t);
    while ((r = library_turn(l)) >= 0)
        assert_non_null(l->client);
    assert_int_equal(r, -ESHUTDOWN);
    assert_null(l->client);
    assert_string_equal(t.text, "a");
    /* A call outlives it, without a life. */
    r = completion_call_next(never, &result, l->error);
    library_assert_failed(l, r, -EPIPE, COMPLETION_CANCELLED);
    completion_call_pause(never);
    completion_call_resume(never);
    completion_call_cancel(never);
    completion_call_set_callback(never, on_news, NULL);
    r = completion_call_next(never, &result, l->error);
    library_assert_failed(l, r, -EPIPE, COMPLETION_FAILED_PRECONDITION);
    completion_call_free(never);
    assert_true(fake_await(l->scene.fake, FAKE_CLOSED, 1));
    library_stop(l);
    l->scene.fake = fake_free(l->scene.fake);
    daemon_done(&l->scene.daemon);
    assert_int_equal(library_n_descriptors(), before);
}

static void try_to_block(completion_call *call, void *user)
{
    struct library *l = user;
    completion_stream *stream = NULL;
    completion_result *result = NULL;

    assert_int_equal(completion_client_process(l->client), -EBUSY);
    library_assert_failed(l, completion_client_check(l->client, FOREVER, l->error), -EBUSY,
                          COMPLETION_FAILED_PRECONDITION);
    assert_int_equal(completion_create(l->client, l->request, FOREVER, &result, NULL), -EBUSY);
    assert_int_equal(completion_stream_open(l->client, l->request, FOREVER, &stream, NULL), -EBUSY);
    assert_null(result);
    assert_null(stream);
    completion_call_set_callback(call, NULL, NULL);
}

static void test_callback_may_not_block(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    completion_call *call = start(l, "a", 0, FOREVER);
    completion_call_set_callback(call, try_to_block, l);
    assert_answer(l, call, "a");
    completion_call_free(call);
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 1);
    library_stop(l);
}

/* ---- Mixed ---- */

struct hook {
    struct library *library;
    completion_call *call;
    completion_stream *stream;
    int n_calls;
};

/* All but cancelling is refused in it, and what is freed there is freed later. */
static int misuse(void *user, int64_t elapsed_ms)
{
    struct hook *h = user;
    struct library *l = h->library;
    const completion_result *result;
    completion_call *call;
    (void)elapsed_ms;

    h->n_calls++;
    assert_int_equal(completion_client_process(l->client), -EBUSY);
    assert_int_equal(completion_call_start(l->client, l->request, FOREVER, &call, NULL), -EBUSY);
    assert_int_equal(completion_call_next(h->call, &result, NULL), -EBUSY);
    assert_int_equal(completion_stream_next(h->stream, &result, NULL), -EBUSY);
    completion_call_free(h->call);
    completion_stream_free(h->stream);
    completion_stream_free(h->stream);
    completion_client_free(l->client);
    l->client = NULL;
    return 0;
}

static void test_hook_may_not_use_the_client(void **state)
{
    struct library *l = *state;
    const completion_result *result;

    library_start(l, answer_each, NULL, NULL);
    assert_int_equal(completion_request_set_user(l->request, "never", TEXT), 0);
    completion_client *client = l->client;
    struct hook hook = {l, start(l, "never", 0, FOREVER), library_open(l, FOREVER), 0};
    /* Two chunks never come: the hook ends the wait for the first. */
    completion_client_set_wait(client, misuse, &hook, 10);
    int r = completion_stream_next(hook.stream, &result, l->error);
    library_assert_failed(l, r, -ECANCELED, COMPLETION_CANCELLED);
    assert_int_equal(hook.n_calls, 1);
    library_stop(l);
}

static void count_wake(void *user)
{
    ++*(int *)user;
}

static void test_blocking_calls_between(void **state)
{
    struct library *l = *state;
    int n_wakes = 0;

    library_start(l, answer_each, NULL, NULL);
    completion_client_set_wake(l->client, count_wake, &n_wakes);
    assert_string_equal(library_create(l), "?");
    assert_int_equal(n_wakes, 0); /* nobody else has anything new */
    struct told t = {.library = l};
    completion_call *call = start(l, "slow", 0, FOREVER), *other = start(l, "a", 0, FOREVER);
    assert_int_equal(n_wakes, 1); /* not again, before something was done about it */
    completion_call_set_callback(call, on_news, &t);
    assert_int_equal(completion_client_process(l->client), 0);
    fake_mark(l->scene.fake, FAKE_GO);
    /* While one waits, the other's answer comes; nobody is told before it is time. */
    while (completion_client_get_timeout(l->client) != 0)
        assert_string_equal(library_create(l), "a");
    assert_int_equal(t.n_calls, 0);
    assert_int_equal(n_wakes, 2);
    run_until_ended(&t, 1);
    assert_string_equal(t.text, "slow");
    assert_answer(l, other, "a");
    completion_call_free(call);
    completion_call_free(other);

    /* A stream that blocks is told of by nobody. */
    completion_stream *stream = library_open(l, FOREVER);
    n_wakes = 0;
    completion_call_free(start(l, "never", 0, FOREVER));
    assert_int_equal(n_wakes, 1);
    assert_string_equal(library_read(l, stream), "one, two, a");
    while (completion_client_get_timeout(l->client) == 0)
        assert_int_equal(completion_client_process(l->client), 0);
    assert_null(completion_client_next_ready(l->client));
    completion_stream_free(stream);
    library_stop(l);
}

/* ---- Ends ---- */

static void test_cancel_and_free_stop_the_upstream(void **state)
{
    struct library *l = *state;
    const completion_result *result;

    library_start(l, answer_each, NULL, NULL);
    for (unsigned round = 0; round < 4; round++) {
        completion_call *call = start(l, "never", (int)round % 2, FOREVER);
        while (fake_count(l->scene.fake, FAKE_REQUESTED) <= round) {
            struct pollfd p = {completion_client_get_fd(l->client), POLLIN, 0};
            assert_true(completion_client_process(l->client) >= 0);
            poll(&p, 1, 1);
        }
        if (round < 2) {
            completion_call_cancel(call);
            completion_call_cancel(call);
            library_assert_failed(l, completion_call_next(call, &result, l->error), -ECANCELED,
                                  COMPLETION_CANCELLED);
            assert_int_equal(completion_error_maybe_executed(l->error), 1);
        }
        completion_call_free(call);
        assert_int_equal(completion_client_get_timeout(l->client), 0);
        assert_true(completion_client_process(l->client) >= 0);
        assert_true(fake_await(l->scene.fake, FAKE_CLOSED, round + 1));
    }
    /* One that was never sent. */
    completion_call *call = start(l, "never", 0, FOREVER);
    completion_call_cancel(call);
    library_assert_failed(l, completion_call_next(call, &result, l->error), -ECANCELED,
                          COMPLETION_CANCELLED);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    completion_call_free(call);
    assert_int_equal(completion_client_process(l->client), 0);
    assert_int_equal(fake_count(l->scene.fake, FAKE_REQUESTED), 4);
    library_stop(l);
}

static void test_deadlines(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    int64_t start_ms = harness_now_ms();
    completion_call *late = start(l, "never", 1, 2 * DEADLINE_MS),
                    *early = start(l, "never", 0, DEADLINE_MS), *none = start(l, "a", 0, FOREVER),
                    *past = start(l, "never", 0, 0);
    library_assert_failed(l, library_finish(l, past), -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    int timeout_ms = completion_client_get_timeout(l->client);
    assert_true(timeout_ms >= 0 && timeout_ms <= DEADLINE_MS + 100);
    assert_answer(l, none, "a");
    /* It was not for want of a connection. */
    completion_call *past_too = start(l, "never", 0, 0);
    library_assert_failed(l, library_finish(l, past_too), -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    library_assert_said(l, "before the whole answer");
    assert_int_equal(completion_error_maybe_executed(l->error), 0);
    completion_call_free(past_too);
    library_assert_failed(l, library_finish(l, early), -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    assert_int_equal(completion_error_maybe_executed(l->error), 1);
    int64_t took_ms = harness_now_ms() - start_ms;
    assert_true(took_ms >= DEADLINE_MS - 20 && took_ms < DEADLINE_MS + LATE_MS);
    library_assert_failed(l, library_finish(l, late), -ETIMEDOUT, COMPLETION_DEADLINE_EXCEEDED);
    took_ms = harness_now_ms() - start_ms;
    assert_true(took_ms >= 2 * DEADLINE_MS - 20 && took_ms < 2 * DEADLINE_MS + LATE_MS);
    assert_true(fake_await(l->scene.fake, FAKE_CLOSED, 2));
    completion_call_free(late);
    completion_call_free(early);
    completion_call_free(none);
    completion_call_free(past);
    library_stop(l);
}

static void test_errors_of_the_daemon(void **state)
{
    struct library *l = *state;

    library_start(l, answer_each, NULL, NULL);
    completion_request_set_temperature(l->request, 9);
    for (int is_stream = 0; is_stream < 2; is_stream++) {
        completion_call *call = start(l, "a", is_stream, FOREVER);
        library_assert_failed(l, library_finish(l, call), -EIO, COMPLETION_INVALID_ARGUMENT);
        assert_string_equal(completion_error_param(l->error), "temperature");
        completion_call_free(call);
    }
    library_stop(l);
}

/* ---- Whose turn it is ---- */

static void await_queued(struct library *l, const char *members)
{
    int64_t start = harness_now_ms();
    bool is_there = false;

    while (!is_there) {
        char *json = NULL;
        int r = completion_client_status_json(l->client, FOREVER, &json, NULL, l->error);
        if (r < 0 || harness_now_ms() - start > HARNESS_TIMEOUT_MS)
            fail_msg("%d: %s", r, json ? json : completion_error_message(l->error));
        is_there = strstr(json, members) != NULL;
        free(json);
    }
}

static void test_urgent_calls_go_first(void **state)
{
    static const int urgencies[] = {7, 3, -1, 0, 7, 1};
    static const char *const names[] = {"last", "middle", "usual", "first", "very last", "second"};
    static const char *const order[] = {"first", "second", "middle", "usual", "last", "very last"};
    enum { N = sizeof urgencies / sizeof *urgencies };
    struct library *l = *state;
    completion_call *calls[N];

    library_start(l, answer_each, NULL, "max_concurrent = 1\n");
    assert_int_equal(completion_request_set_priority(l->request, -1), -EINVAL);
    assert_int_equal(completion_request_set_priority(l->request, 8), -EINVAL);
    completion_call *slow = start(l, "slow", 0, FOREVER);
    for (int i = 0; i < N; i++) {
        if (urgencies[i] < 0) { /* of a request of its own: not set */
            completion_request *request;
            assert_int_equal(completion_request_new(&request), 0);
            assert_int_equal(completion_request_set_model(request, "m", TEXT), 0);
            assert_int_equal(completion_request_set_user(request, names[i], TEXT), 0);
            assert_int_equal(
                completion_call_start(l->client, request, FOREVER, &calls[i], l->error), 0);
            completion_request_free(request);
            continue;
        }
        assert_int_equal(completion_request_set_priority(l->request, urgencies[i]), 0);
        calls[i] = start(l, names[i], 0, FOREVER);
    }
    await_queued(l, "\"queued\":6");
    fake_mark(l->scene.fake, FAKE_GO);
    assert_answer(l, slow, "slow");
    completion_call_free(slow);
    for (int n = 0; n < N;) {
        const completion_result *result;
        completion_call *call = completion_client_next_ready(l->client);
        if (!call) {
            assert_true(library_turn(l) >= 0);
            continue;
        }
        /* One at a time, so that they end in the order in which they were asked. */
        if (completion_call_next(call, &result, l->error) != 1)
            continue;
        library_assert_text(completion_choice_text(result, 0), order[n++]);
        completion_call_free(call);
    }
    library_stop(l);
}

/* ---- The descriptor ---- */

static void test_descriptor_stays_while_daemons_come_and_go(void **state)
{
    struct library *l = *state;
    int fd;

    library_start(l, answer_each, NULL, NULL);
    fd = completion_client_get_fd(l->client);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        completion_call *call = start(l, "a", i % 2, FOREVER);
        assert_answer(l, call, i % 2 ? "one, two, a" : "a");
        completion_call_free(call);
        assert_int_equal(completion_client_get_fd(l->client), fd);
        daemon_stop(&l->scene.daemon);
        /* The connection's end is seen, and is no reason to run in circles. */
        struct pollfd p = {fd, POLLIN, 0};
        for (int n = 0; poll(&p, 1, 0) > 0; n++) {
            assert_true(n < 5);
            assert_int_equal(completion_client_process(l->client), 0);
        }
        assert_int_equal(completion_client_get_timeout(l->client), -1);
        daemon_start(&l->scene.daemon, NULL);
    }
    /* One that had its connection before anybody asked. */
    completion_client_free(l->client);
    assert_int_equal(completion_client_new(l->scene.daemon.socket, &l->client), 0);
    assert_int_equal(completion_client_check(l->client, FOREVER, l->error), 1);
    completion_call *call = start(l, "b", 0, FOREVER);
    assert_answer(l, call, "b");
    completion_call_free(call);
    library_stop(l);
}

/* A child's copies keep the parent's sockets alive: they must not keep the descriptor readable. */
static void test_child_leaves_the_descriptor_alone(void **state)
{
    struct library *l = *state;
    int to_child[2];
    char byte;

    library_start(l, answer_each, NULL, NULL);
    completion_call *call = start(l, "a", 0, FOREVER);
    assert_answer(l, call, "a");
    completion_call_free(call);
    completion_call *never = start(l, "never", 1, FOREVER);
    while (fake_count(l->scene.fake, FAKE_REQUESTED) < 2)
        completion_client_process(l->client);
    assert_int_equal(pipe(to_child), 0);
    pid_t child = fork();
    if (child == 0) {
        const completion_result *result;
        completion_call *other;
        close(to_child[1]);
        int r[] = {completion_client_get_fd(l->client), completion_client_process(l->client),
                   completion_call_next(never, &result, NULL),
                   completion_call_start(l->client, l->request, FOREVER, &other, NULL)};
        completion_call_cancel(never);
        completion_call_free(never);
        for (int i = 0; i < 4; i++)
            if (r[i] != -ECHILD)
                _exit(1 + i);
        /* It has its copies until the parent is through. */
        byte = read(to_child[0], &byte, 1) == 1;
        completion_client_free(l->client);
        _exit(byte ? 0 : 9);
    }
    assert_true(child > 0);
    assert_int_equal(fake_count(l->scene.fake, FAKE_CLOSED), 0);
    kill(l->scene.daemon.pid, SIGKILL);
    library_assert_failed(l, library_finish(l, never), -EIO, COMPLETION_UNAVAILABLE);
    completion_call_free(never);
    while (completion_client_get_timeout(l->client) == 0)
        completion_client_process(l->client);
    struct pollfd p = {completion_client_get_fd(l->client), POLLIN, 0};
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(write(to_child[1], "x", 1), 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(to_child[0]);
    close(to_child[1]);
    daemon_wait(&l->scene.daemon);
    daemon_start(&l->scene.daemon, NULL);
    call = start(l, "b", 0, FOREVER);
    assert_answer(l, call, "b");
    completion_call_free(call);
    library_stop(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        library_test(test_answers),
        library_test(test_answers_come_out_of_order),
        library_test(test_more_calls_than_streams),
        library_test(test_deadline_of_calls_that_were_not_sent),
        library_test(test_callbacks_free_and_start_calls),
        library_test(test_callback_frees_the_client),
        library_test(test_callback_may_not_block),
        library_test(test_hook_may_not_use_the_client),
        library_test(test_blocking_calls_between),
        library_test(test_cancel_and_free_stop_the_upstream),
        library_test(test_deadlines),
        library_test(test_errors_of_the_daemon),
        library_test(test_urgent_calls_go_first),
        library_test(test_descriptor_stays_while_daemons_come_and_go),
        library_test(test_child_leaves_the_descriptor_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
